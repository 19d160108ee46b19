/* What is rarely on: a Python function told of each call, for log records and explain. */
#include <time.h>

#include "python.h"

int64_t gems_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* (dtype, sizes, strides) of a tensor. */
static PyObject *describe(const gems_tensor *t) {
    PyObject *sizes = PyTuple_New(t->ndim), *strides = PyTuple_New(t->ndim);
    for (int i = 0; sizes && strides && i < t->ndim; i++) {
        PyTuple_SET_ITEM(sizes, i, PyLong_FromLongLong(t->sizes[i]));
        PyTuple_SET_ITEM(strides, i, PyLong_FromLongLong(t->strides[i]));
    }
    return Py_BuildValue("(zNN)", gems_dtype_name(t->dtype), sizes, strides);
}

/* The tensors of a call that ran. */
static PyObject *tensors(const gems_call *call) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < call->nargs; i++) {
        if (call->args[i].kind != GEMS_TENSOR) continue;
        PyObject *item = describe(&call->args[i].t);
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

void gems_observe(const gems_call *call, gems_status status, int64_t nanoseconds) {
    const char *reason = status == GEMS_DECLINE ? gems_reason() : NULL;
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (gems_py.record) {
        const char *backend =
            status == GEMS_OK && call->device ? gems_device_backend(call->device)->name : NULL;
        PyObject *seen = status == GEMS_OK ? tensors(call) : Py_NewRef(Py_None);
        PyObject *done =
            seen ? PyObject_CallFunction(gems_py.record, "iizLzN", (int)call->entry->index,
                                         (int)status, reason, (long long)nanoseconds, backend, seen)
                 : NULL;
        Py_XDECREF(done);
        if (!done) PyErr_WriteUnraisable(gems_py.record);
    }
    PyErr_Restore(type, value, trace);
    PyGILState_Release(state);
}

static PyObject *set_observing(PyObject *self, PyObject *flag) {
    (void)self;
    int on = PyObject_IsTrue(flag);
    if (on < 0) return NULL;
    gems_observing = on;
    Py_RETURN_NONE;
}

PyMethodDef gems_observe_methods[] = {
    {"set_observing", set_observing, METH_O,
     "set_observing(flag): the record hook is called after each call."},
    {NULL, NULL, 0, NULL}};
