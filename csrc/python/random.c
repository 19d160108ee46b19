/* What a kernel needs of torch's Python objects while it runs: random numbers, and the resizing of
 * an out tensor. */
#include "python.h"

/* ---- Philox seeds ----
 * CPU: the seed is one number drawn from the generator by ATen's own random_, so that
 * torch.manual_seed, get_state, set_state, fork_rng and checkpoints all do what they say. CUDA:
 * seed and offset are the generator's own, and its offset advances as by ATen's kernels. */

static gems_status failed(void) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *text = value ? PyObject_Str(value) : NULL;
    const char *utf8 = text ? PyUnicode_AsUTF8(text) : NULL;
    gems_status status =
        gems_fail(GEMS_RUNTIME_ERROR, "random numbers: %s", utf8 ? utf8 : "the generator failed");
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    PyErr_Clear();
    return status;
}

static gems_status cpu_seed(PyObject *generator, uint64_t *seed) {
    static PyObject *names;
    if (!names) names = Py_BuildValue("(s)", "generator");
    int64_t one = 0;
    void *handle = NULL, *data = NULL;
    if (!names || !gems_py.random_kernel) return gems_decline("no generator of random numbers");
    if (gems_torch.empty_strided(0, &one, &one, GEMS_I64, GEMS_CPU, 0, &handle))
        return gems_decline("no memory");
    PyObject *tensor = gems_wrap(handle);
    PyObject *stack[] = {gems_py.keyset, tensor, generator ? generator : Py_None};
    PyObject *done = tensor ? PyObject_Vectorcall(gems_py.random_kernel, stack, 2, names) : NULL;
    gems_status status = GEMS_OK;
    handle = done ? gems_unwrap(tensor) : NULL;
    if (!handle || gems_torch.get_data_ptr(handle, &data))
        status = failed();
    else
        *seed = *(const uint64_t *)data;
    if (handle) gems_torch.delete_handle(handle);
    Py_XDECREF(done);
    Py_XDECREF(tensor);
    return status;
}

/* torch.cuda.default_generators[index] */
static PyObject *cuda_generator(int index) {
    PyObject *cuda = PyObject_GetAttrString(gems_py.torch, "cuda");
    PyObject *all = cuda ? PyObject_GetAttrString(cuda, "default_generators") : NULL;
    PyObject *generator = all ? PySequence_GetItem(all, index) : NULL;
    Py_XDECREF(all);
    Py_XDECREF(cuda);
    return generator;
}

static bool ask_number(PyObject *object, const char *method, uint64_t *number) {
    PyObject *value = PyObject_CallMethod(object, method, NULL);
    if (value) *number = PyLong_AsUnsignedLongLongMask(value);
    Py_XDECREF(value);
    return value != NULL;
}

static gems_status cuda_seed(PyObject *generator, int index, uint64_t increment, uint64_t *seed,
                             uint64_t *offset) {
    PyObject *own = generator ? Py_NewRef(generator) : cuda_generator(index);
    PyObject *moved = NULL;
    increment = (increment + 3) / 4 * 4; /* the offset is a multiple of 4 */
    if (own && ask_number(own, "initial_seed", seed) && ask_number(own, "get_offset", offset))
        moved =
            PyObject_CallMethod(own, "set_offset", "K", (unsigned long long)(*offset + increment));
    gems_status status = moved ? GEMS_OK : failed();
    Py_XDECREF(moved);
    Py_XDECREF(own);
    return status;
}

gems_status gems_philox(gems_call *call, void *generator, uint64_t increment, uint64_t *seed,
                        uint64_t *offset) {
    const gems_backend *backend = gems_device_backend(call->device);
    if (backend->capturing && backend->capturing(call->device_index, call->stream))
        return gems_decline("random numbers while a graph is captured");
    PyGILState_STATE state = PyGILState_Ensure();
    gems_status status;
    if (call->device_type == GEMS_CPU) {
        *offset = 0;
        status = cpu_seed(generator, seed);
    } else {
        status = cuda_seed(generator, call->device_index, increment, seed, offset);
    }
    PyGILState_Release(state);
    return status;
}

/* ---- resizing ---- */

/* The argument as a new reference, or NULL. */
static PyObject *object_of(gems_call *call, gems_tensor *t) {
    void *handle = NULL;
    if (gems_py.reader == GEMS_BY_DLPACK || gems_py.reader == GEMS_BY_ATTRIBUTES) {
        if (call->host == &gems_host_torch) return Py_NewRef((PyObject *)t->handle);
    }
    if (gems_torch.new_handle(t->handle, &handle)) return NULL;
    return gems_wrap(handle);
}

gems_status gems_resize(gems_call *call, gems_tensor *t, int ndim, const int64_t *sizes) {
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *tensor = object_of(call, t), *tuple = PyTuple_New(ndim), *done = NULL;
    for (int i = 0; tuple && i < ndim; i++)
        PyTuple_SET_ITEM(tuple, i, PyLong_FromLongLong(sizes[i]));
    if (tensor && tuple) done = PyObject_CallMethod(tensor, "resize_", "(O)", tuple);
    void *handle = done ? gems_unwrap(tensor) : NULL;
    gems_status status = GEMS_OK;
    void *own = t->handle;
    if (!handle || !gems_handle_read(handle, t)) {
        PyErr_Clear();
        status = gems_decline("torch does not resize the output");
    }
    t->handle = own; /* sizes and strides belong to the tensor, not to the handle that told them */
    if (handle) gems_torch.delete_handle(handle);
    Py_XDECREF(done);
    Py_XDECREF(tuple);
    Py_XDECREF(tensor);
    PyGILState_Release(state);
    return status;
}
