/* Runs a call that came from Python and gives its results back. */
#include "python.h"

#include <stdlib.h>
#include <string.h>

/* From so many elements on a CPU call is worth releasing the GIL for. */
#define LONG_CALL 32768

void gems_frame_open(gems_frame *frame, gems_entry *entry, bool direct) {
    gems_torch_call_open(&frame->made);
    frame->numpy_ran = false;
    frame->direct = direct;
    frame->has_torch = frame->has_numpy = frame->has_number = false;
    frame->autograd = frame->inference = false;
    frame->held = NULL;
    frame->blocks = NULL;
    frame->used = 0;
    frame->call.entry = entry;
    frame->call.device_type = GEMS_CPU;
    frame->call.device_index = 0;
}

/* What the frame's list holds: memory, or a handle. */
typedef struct block {
    struct block *next;
    void *handle;
    int64_t memory[];
} block;

void gems_frame_close(gems_frame *frame) {
    Py_XDECREF(frame->held);
    gems_torch_call_close(&frame->made, false);
    if (frame->numpy_ran) {
        for (int i = 0; i < GEMS_MAX_OUTS; i++) Py_XDECREF(frame->numpy_out[i]);
        for (int i = 0; i < GEMS_MAX_SCRATCH; i++) Py_XDECREF(frame->numpy_scratch[i]);
    }
    for (block *b = frame->blocks, *next; b; b = next) {
        next = b->next;
        if (b->handle) gems_torch.delete_handle(b->handle);
        free(b);
    }
}

void *gems_frame_take(gems_frame *frame, size_t bytes) {
    size_t words = (bytes + sizeof *frame->store - 1) / sizeof *frame->store;
    if (words <= sizeof frame->store / sizeof *frame->store - (size_t)frame->used) {
        void *start = frame->store + frame->used;
        frame->used += (int)words;
        return start;
    }
    block *b = malloc(sizeof *b + words * sizeof *b->memory);
    if (!b) return NULL;
    b->next = frame->blocks;
    b->handle = NULL;
    frame->blocks = b;
    return b->memory;
}

bool gems_frame_own(gems_frame *frame, void *handle) {
    block *b = malloc(sizeof *b);
    if (!b) {
        gems_torch.delete_handle(handle);
        return false;
    }
    b->next = frame->blocks;
    b->handle = handle;
    frame->blocks = b;
    return true;
}

static bool is_long(const gems_call *call) {
    const gems_schema *schema = &call->entry->schema;
    for (int i = 0; i < schema->nargs; i++) {
        const gems_value *value = &call->args[i];
        if (value->kind == GEMS_TENSOR && value->t.numel >= LONG_CALL) return true;
        if (value->kind == GEMS_TENSORS) return true;
    }
    return false;
}

gems_status gems_frame_run(gems_frame *frame) {
    gems_call *call = &frame->call;
    gems_status status;
    if (frame->has_numpy) {
        for (int i = 0; i < GEMS_MAX_OUTS; i++) frame->numpy_out[i] = NULL;
        for (int i = 0; i < GEMS_MAX_SCRATCH; i++) frame->numpy_scratch[i] = NULL;
        frame->numpy_ran = true;
        call->host = &gems_host_numpy;
        call->host_data = frame;
        return gems_call_run(call);
    }
    call->host = &gems_host_torch;
    call->host_data = &frame->made;
    if (__builtin_expect(is_long(call), 0)) {
        PyThreadState *unlocked = PyEval_SaveThread();
        status = gems_call_run(call);
        PyEval_RestoreThread(unlocked);
    } else {
        status = gems_call_run(call);
    }
    return status;
}

/* Output i as an object: a new tensor or array, or None for one that the operator leaves out. */
static PyObject *output(gems_frame *frame, int i) {
    if (frame->has_numpy) {
        PyObject *array = frame->numpy_out[i];
        frame->numpy_out[i] = NULL;
        return array ? array : Py_NewRef(Py_None);
    }
    void *handle = frame->made.out[i];
    if (!handle) return Py_NewRef(Py_None);
    frame->made.out[i] = NULL;
    return gems_wrap(handle);
}

/* What is returned at place i. */
static PyObject *result(gems_frame *frame, int i) {
    const char *results = gems_op_at(frame->call.entry->op)->results;
    if (!results) return output(frame, i);
    if (results[i] == '-') return Py_NewRef(Py_None);
    if (results[i] >= 'a') return PyLong_FromLongLong(frame->call.args[results[i] - 'a'].i);
    return output(frame, results[i] - '0');
}

PyObject *gems_results(gems_frame *frame) {
    const gems_entry *entry = frame->call.entry;
    bool passed = entry->variant != GEMS_FUNCTIONAL;
    if (entry->nresults == 1)
        return passed ? Py_NewRef(frame->objects[entry->out_arg]) : result(frame, 0);
    if (!entry->nresults) Py_RETURN_NONE;
    PyObject *tuple = PyTuple_New(entry->nresults);
    if (!tuple) return NULL;
    for (int i = 0; i < entry->nresults; i++) {
        PyObject *item = passed ? Py_NewRef(frame->objects[entry->out_arg + i]) : result(frame, i);
        if (!item) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, i, item);
    }
    return tuple;
}

void *gems_set_error(void) {
    PyObject *types[] = {
        [GEMS_RUNTIME_ERROR] = PyExc_RuntimeError,
        [GEMS_VALUE_ERROR] = PyExc_ValueError,
        [GEMS_TYPE_ERROR] = PyExc_TypeError,
        [GEMS_INDEX_ERROR] = PyExc_IndexError,
        [GEMS_NOT_IMPLEMENTED_ERROR] = PyExc_NotImplementedError,
        [GEMS_MEMORY_ERROR] = PyExc_RuntimeError,
    };
    gems_error kind = gems_error_kind();
    if (kind == GEMS_MEMORY_ERROR && gems_py.torch && strstr(gems_error_text(), "CUDA")) {
        PyObject *type = PyObject_GetAttrString(gems_py.torch, "OutOfMemoryError");
        if (type) {
            PyErr_SetString(type, gems_error_text());
            Py_DECREF(type);
            return NULL;
        }
        PyErr_Clear();
    }
    PyErr_SetString(types[kind], gems_error_text());
    return NULL;
}

void *gems_set_declined(const char *operator_name, const char *reason) {
    PyObject *type = gems_py.declined_error ? gems_py.declined_error : PyExc_RuntimeError;
    PyErr_Format(type, "%s: no kernel of flag_gems takes this call: %s%s", operator_name,
                 reason ? reason : "unknown",
                 gems_py.strict ? " (GEMS_STRICT forbids ATen's kernel)" : "");
    return NULL;
}
