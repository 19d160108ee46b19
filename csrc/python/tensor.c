/* Tensors of Python, read and made. Four readers: the borrowed handle, and what stands in for it.
 */
#include <string.h>

#include "dlpack.h"
#include "python.h"

static gems_match pass(const char *reason) {
    if (PyErr_Occurred()) PyErr_Clear();
    (gems_decline)(reason);
    return GEMS_PASS;
}

static const char not_plain[] = "a tensor is not dense, or is conjugated, negated or wrapped";
static const char unreadable[] = "a tensor cannot be read";

/* ---- keys and autograd data, where their places in a TensorImpl are not known ---- */

/* The dispatch keys as torch tells them; 0 when it does not. */
static uint64_t ask_keys(PyObject *tensor) {
    uint64_t keys = 0;
    PyObject *set =
        gems_py.dispatch_keys ? PyObject_CallOneArg(gems_py.dispatch_keys, tensor) : NULL;
    PyObject *raw = set ? PyObject_CallMethod(set, "raw_repr", NULL) : NULL;
    if (raw) keys = PyLong_AsUnsignedLongLongMask(raw);
    Py_XDECREF(raw);
    Py_XDECREF(set);
    PyErr_Clear();
    return keys;
}

static gems_match check_keys(gems_frame *frame, uint64_t keys) {
    if (!gems_keys_plain(keys)) return pass(not_plain);
    frame->inference |= !(keys & gems_layout.inplace);
    return GEMS_MATCH;
}

static gems_match check_slowly(gems_frame *frame, PyObject *tensor) {
    frame->autograd = true;
    return check_keys(frame, ask_keys(tensor));
}

/* ---- readers ---- */

static gems_match read_handle(gems_frame *frame, PyObject *object, void *handle, gems_tensor *t) {
    const char *impl = gems_handle_impl(handle);
    if (!impl) return pass(unreadable);
    if (gems_layout.keys >= 0 && gems_layout.autograd >= 0) {
        uint64_t keys = gems_impl_keys(impl);
        if (!gems_keys_plain(keys)) return pass(not_plain);
        frame->inference |= !(keys & gems_layout.inplace);
        frame->autograd |= *(void *const *)(impl + gems_layout.autograd) != NULL;
    } else if (check_slowly(frame, object) != GEMS_MATCH) {
        return GEMS_PASS;
    }
    return gems_handle_read(handle, t) ? GEMS_MATCH : pass(unreadable);
}

static gems_match read_pyobject(gems_frame *frame, PyObject *object, gems_tensor *t) {
    void *handle = NULL;
    if (gems_torch.from_object(object, &handle) || !handle) return pass(unreadable);
    if (!gems_frame_own(frame, handle)) return pass("no memory");
    return read_handle(frame, object, handle, t);
}

static int dlpack_dtype(const gems_dlpack_tensor *d) {
    static const struct {
        uint8_t code, bits, dtype;
    } known[] = {
        {0, 8, GEMS_I8},      {0, 16, GEMS_I16},        {0, 32, GEMS_I32},
        {0, 64, GEMS_I64},    {1, 8, GEMS_U8},          {1, 16, GEMS_U16},
        {1, 32, GEMS_U32},    {1, 64, GEMS_U64},        {2, 16, GEMS_F16},
        {2, 32, GEMS_F32},    {2, 64, GEMS_F64},        {4, 16, GEMS_BF16},
        {5, 32, GEMS_C32},    {5, 64, GEMS_C64},        {5, 128, GEMS_C128},
        {6, 8, GEMS_BOOL},    {10, 8, GEMS_F8E4M3},     {11, 8, GEMS_F8E4M3FNUZ},
        {12, 8, GEMS_F8E5M2}, {13, 8, GEMS_F8E5M2FNUZ},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].code == d->code && known[i].bits == d->bits && d->lanes == 1)
            return known[i].dtype;
    return GEMS_NO_DTYPE;
}

static gems_match read_dlpack(gems_frame *frame, PyObject *object, gems_tensor *t) {
    gems_dlpack_tensor d;
    if (check_slowly(frame, object) != GEMS_MATCH) return GEMS_PASS;
    if (gems_py.dlpack->tensor_from_object(object, &d)) return pass(unreadable);
    /* DLPack numbers devices otherwise: 1 is the CPU, 2 is CUDA. */
    int dtype = dlpack_dtype(&d), device = d.device_type == 1   ? GEMS_CPU
                                           : d.device_type == 2 ? GEMS_CUDA
                                                                : -1;
    if (dtype == GEMS_NO_DTYPE || device < 0 || d.ndim > GEMS_MAX_DIMS) return pass(unreadable);
    t->data = d.data ? (char *)d.data + d.byte_offset : NULL;
    t->sizes = d.sizes;
    t->strides = d.strides;
    t->handle = object;
    t->ndim = d.ndim;
    t->dtype = (uint8_t)dtype;
    t->device_type = (uint8_t)device;
    t->device_index = device == GEMS_CPU ? 0 : (int16_t)d.device_index;
    t->numel = gems_numel(d.sizes, d.ndim);
    return GEMS_MATCH;
}

/* The number torch gives a dtype object; GEMS_NO_DTYPE. */
static int dtype_number(PyObject *object) {
    for (int i = 0; i < GEMS_DTYPES; i++)
        if (gems_py.dtypes[i] == object) return i;
    return GEMS_NO_DTYPE;
}

/* A tuple of ints into memory of the frame; NULL when it is none. */
static int64_t *read_tuple(gems_frame *frame, PyObject *tuple, int32_t *count) {
    if (!tuple || !PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) > GEMS_MAX_DIMS) return NULL;
    *count = (int32_t)PyTuple_GET_SIZE(tuple);
    int64_t *values = gems_frame_take(frame, ((size_t)*count + 1) * sizeof *values);
    if (!values) return NULL;
    for (int32_t i = 0; i < *count; i++) {
        PyObject *item = PyTuple_GET_ITEM(tuple, i);
        if (!PyLong_Check(item)) return NULL;
        values[i] = PyLong_AsLongLong(item);
    }
    return PyErr_Occurred() ? NULL : values;
}

static bool read_device(PyObject *device, gems_tensor *t) {
    PyObject *type = device ? PyObject_GetAttrString(device, "type") : NULL;
    PyObject *index = type ? PyObject_GetAttrString(device, "index") : NULL;
    const char *name = type && PyUnicode_Check(type) ? PyUnicode_AsUTF8(type) : NULL;
    bool known = name && index && (!strcmp(name, "cpu") || !strcmp(name, "cuda"));
    if (known) {
        t->device_type = !strcmp(name, "cuda") ? GEMS_CUDA : GEMS_CPU;
        t->device_index = PyLong_Check(index) ? (int16_t)PyLong_AsLong(index) : 0;
    }
    Py_XDECREF(type);
    Py_XDECREF(index);
    return known;
}

static gems_match read_attributes(gems_frame *frame, PyObject *object, gems_tensor *t) {
    if (check_slowly(frame, object) != GEMS_MATCH) return GEMS_PASS;
    PyObject *data = PyObject_CallMethod(object, "data_ptr", NULL);
    PyObject *shape = data ? PyObject_GetAttrString(object, "shape") : NULL;
    PyObject *strides = shape ? PyObject_CallMethod(object, "stride", NULL) : NULL;
    PyObject *dtype = strides ? PyObject_GetAttrString(object, "dtype") : NULL;
    PyObject *device = dtype ? PyObject_GetAttrString(object, "device") : NULL;
    int32_t ndim = 0, stride_count = 0;
    const int64_t *own_sizes = read_tuple(frame, shape, &ndim);
    const int64_t *own_strides = read_tuple(frame, strides, &stride_count);
    bool read =
        device && own_sizes && own_strides && ndim == stride_count && read_device(device, t);
    if (read) {
        t->data = PyLong_AsVoidPtr(data);
        t->sizes = own_sizes;
        t->strides = own_strides;
        t->handle = object;
        t->ndim = ndim;
        t->dtype = (uint8_t)dtype_number(dtype);
        t->numel = gems_numel(own_sizes, ndim);
    }
    Py_XDECREF(data);
    Py_XDECREF(shape);
    Py_XDECREF(strides);
    Py_XDECREF(dtype);
    Py_XDECREF(device);
    return read && !PyErr_Occurred() ? GEMS_MATCH : pass(unreadable);
}

gems_match gems_read_tensor(gems_frame *frame, PyObject *object, gems_tensor *t) {
    frame->has_torch = true;
    if (__builtin_expect(gems_py.reader == GEMS_BY_HANDLE && gems_layout.shape > 0,
                         1)) { /* the usual case, in one piece */
        void *handle = (char *)object + gems_layout.impl;
        const char *impl = gems_handle_impl(handle);
        if (impl && gems_layout.keys >= 0 && gems_layout.autograd >= 0 &&
            gems_keys_plain(gems_impl_keys(impl)) && gems_fields_read(impl, t) &&
            t->device_type == GEMS_CPU) {
            frame->inference |= !(gems_impl_keys(impl) & gems_layout.inplace);
            frame->autograd |= *(void *const *)(impl + gems_layout.autograd) != NULL;
            t->handle = handle;
            return GEMS_MATCH;
        }
    }
    switch (gems_py.reader) {
    case GEMS_BY_HANDLE: return read_handle(frame, object, (char *)object + gems_layout.impl, t);
    case GEMS_BY_PYOBJECT: return read_pyobject(frame, object, t);
    case GEMS_BY_DLPACK: return read_dlpack(frame, object, t);
    case GEMS_BY_ATTRIBUTES: return read_attributes(frame, object, t);
    default: return pass("torch's tensors cannot be read");
    }
}

gems_match gems_write_tensor(PyObject *object, gems_tensor *t) {
    if (gems_is_array(object))
        return gems_array_writable(object) ? GEMS_MATCH : pass("a read-only array");
    if (gems_py.reader != GEMS_BY_HANDLE && gems_py.reader != GEMS_BY_PYOBJECT)
        return GEMS_MATCH; /* they asked torch */
    if (!gems_py.tensor || !PyObject_TypeCheck(object, gems_py.tensor)) return GEMS_MATCH;
    return gems_handle_write(t->handle, t) ? GEMS_MATCH : pass("a tensor cannot be written");
}

static const char *const reader_names[] = {"none", "handle", "pyobject", "dlpack", "attributes"};

const char *gems_reader_name(void) { return reader_names[gems_py.reader]; }

bool gems_set_reader(const char *name) {
    bool usable[] = {false, gems_layout.impl > 0, gems_torch.from_object != NULL,
                     gems_py.dlpack != NULL, gems_py.torch != NULL};
    for (int i = 1; i < 5; i++) {
        if (strcmp(name, reader_names[i])) continue;
        if (!usable[i]) {
            PyErr_Format(PyExc_NotImplementedError, "this torch has no tensor reader '%s'", name);
            return false;
        }
        gems_py.reader = (gems_reader)i;
        return true;
    }
    PyErr_Format(PyExc_ValueError,
                 "unknown tensor reader '%s': handle, pyobject, dlpack, attributes", name);
    return false;
}

/* ---- what autograd must see ---- */

static bool requires_grad(PyObject *object) {
    if (!gems_is_tensor(object)) return false;
    PyObject *flag = PyObject_GetAttrString(object, "requires_grad");
    bool result = flag != Py_False;
    Py_XDECREF(flag);
    PyErr_Clear();
    return result;
}

static bool any_requires_grad(const gems_frame *frame) {
    int count = frame->call.entry->schema.nargs;
    for (int i = 0; i < count; i++) {
        PyObject *object = frame->objects[i];
        if (!object) continue;
        if (requires_grad(object)) return true;
        if (frame->call.args[i].kind != GEMS_TENSORS) continue;
        for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(object); k++)
            if (requires_grad(PySequence_Fast_GET_ITEM(object, k))) return true;
    }
    return false;
}

/* True while a level of forward differentiation is open: any tensor may have a tangent. */
static bool forward_differentiation(void) {
    static PyObject *name;
    if (!name) name = PyUnicode_InternFromString("_current_level");
    PyObject *level =
        gems_py.forward_level ? PyDict_GetItemWithError(gems_py.forward_level, name) : NULL;
    if (!level) {
        PyErr_Clear();
        return false;
    }
    return PyLong_AsLong(level) >= 0;
}

bool gems_wants_gradient(const gems_frame *frame) {
    if (!frame->autograd) return false;
    return (gems_torch.grad_enabled() && any_requires_grad(frame)) || forward_differentiation();
}

bool gems_modes_active(void) {
    const uint64_t *keys = gems_torch_thread_keys();
    /* In inference mode one key is taken out of the included ones and the autograd keys are
     * excluded; all else that differs from the default is a mode, a transform, autocast. A key that
     * plain tensors do not have is excluded to no effect, as backward passes do with Named. */
    if (keys &&
        ((keys[0] & ~gems_layout.inplace) | (keys[1] & ~gems_layout.below & gems_layout.plain)))
        return true;
    return gems_torch.function_modes && gems_torch.function_modes() > 0;
}

/* ---- handles and Python tensors ---- */

PyObject *gems_wrap(void *handle) {
    PyObject *object;
    if (gems_torch.wrap_moved) {
        object = gems_torch.wrap_moved(handle);
        gems_torch.delete_handle(handle);
        return object;
    }
    if (gems_torch.wrap) {
        object = gems_torch.wrap(handle);
        gems_torch.delete_handle(handle);
        return object;
    }
    PyObject *capsule = gems_py.steal_handle ? PyCapsule_New(handle, NULL, NULL) : NULL;
    if (!capsule) {
        gems_torch.delete_handle(handle);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, "this torch cannot wrap a tensor");
        return NULL;
    }
    object = PyObject_CallOneArg(gems_py.steal_handle, capsule);
    Py_DECREF(capsule);
    return object;
}

/* By torch's own list of capsules. */
static void *unwrap_capsule(PyObject *tensor) {
    PyObject *list =
        gems_py.give_handle ? PyObject_CallFunction(gems_py.give_handle, "[O]", tensor) : NULL;
    PyObject *capsule =
        list && PyList_Check(list) && PyList_GET_SIZE(list) == 1 ? PyList_GET_ITEM(list, 0) : NULL;
    void *handle = capsule ? PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule)) : NULL;
    Py_XDECREF(list);
    if (!handle && !PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "this torch gives no tensor handle");
    return handle;
}

void *gems_unwrap(PyObject *tensor) {
    void *handle = NULL;
    if (gems_layout.impl > 0) {
        if (!gems_torch.new_handle((char *)tensor + gems_layout.impl, &handle)) return handle;
    } else if (gems_torch.from_object) {
        if (!gems_torch.from_object(tensor, &handle)) return handle;
    } else {
        return unwrap_capsule(tensor);
    }
    PyErr_SetString(PyExc_RuntimeError, "torch gives no handle of a tensor");
    return NULL;
}
