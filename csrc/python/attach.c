/* Ties the extension to a torch that is imported, and the switches of gates and registration. */
#include <string.h>

#include "dlpack.h"
#include "python.h"

gems_objects gems_py;

/* ---- finding torch's objects ---- */

/* In the order of torch's ScalarType numbers. */
static const char *const dtype_names[GEMS_DTYPES] = {"uint8",
                                                     "int8",
                                                     "int16",
                                                     "int32",
                                                     "int64",
                                                     "float16",
                                                     "float32",
                                                     "float64",
                                                     "complex32",
                                                     "complex64",
                                                     "complex128",
                                                     "bool",
                                                     "qint8",
                                                     "quint8",
                                                     "qint32",
                                                     "bfloat16",
                                                     "quint4x2",
                                                     "quint2x4",
                                                     "bits1x8",
                                                     "bits2x4",
                                                     "bits4x2",
                                                     "bits8",
                                                     "bits16",
                                                     "float8_e5m2",
                                                     "float8_e4m3fn",
                                                     "float8_e5m2fnuz",
                                                     "float8_e4m3fnuz",
                                                     "uint16",
                                                     "uint32",
                                                     "uint64",
                                                     "uint1",
                                                     "uint2",
                                                     "uint3",
                                                     "uint4",
                                                     "uint5",
                                                     "uint6",
                                                     "uint7",
                                                     "int1",
                                                     "int2",
                                                     "int3",
                                                     "int4",
                                                     "int5",
                                                     "int6",
                                                     "int7",
                                                     "float8_e8m0fnu",
                                                     "float4_e2m1fn_x2"};

/* A dotted name from torch; NULL with no error set when there is none. */
static PyObject *find(const char *path) {
    PyObject *object = Py_NewRef(gems_py.torch);
    char name[64];
    while (object && *path) {
        size_t length = strcspn(path, ".");
        memcpy(name, path, length);
        name[length] = 0;
        PyObject *next = PyObject_GetAttrString(object, name);
        Py_DECREF(object);
        object = next;
        path += length + (path[length] == '.');
    }
    if (!object) PyErr_Clear();
    return object;
}

static void find_objects(void) {
    static const char *const formats[] = {"contiguous_format", "preserve_format", "channels_last",
                                          "channels_last_3d"};
    for (int i = 0; i < GEMS_DTYPES; i++)
        if (dtype_names[i]) gems_py.dtypes[i] = find(dtype_names[i]);
    for (int i = 0; i < 4; i++) gems_py.memory_formats[i] = find(formats[i]);
    gems_py.tensor = (PyTypeObject *)find("Tensor");
    gems_py.parameter = (PyTypeObject *)find("nn.Parameter");
    gems_py.dtype_type = (PyTypeObject *)find("dtype");
    gems_py.device_type = (PyTypeObject *)find("device");
    gems_py.strided = find("strided");
    gems_py.aten = find("ops.aten");
    gems_py.dispatch_keys = find("_C._dispatch_keys");
    gems_py.steal_handle = find("_C._aoti.alloc_tensor_by_stealing_from_void_ptr");
    gems_py.give_handle = find("_C._aoti.unsafe_alloc_void_ptrs_from_tensors");
    gems_py.forward_level = find("autograd.forward_ad.__dict__");
    PyObject *capsule = find("Tensor.__dlpack_c_exchange_api__");
    if (capsule) gems_py.dlpack = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    if (gems_py.dlpack && (gems_py.dlpack->major != 1 || !gems_py.dlpack->tensor_from_object))
        gems_py.dlpack = NULL;
    PyErr_Clear();
}

/* torch's number of a dtype is what the table above says; false when this torch numbers otherwise.
 */
static bool dtypes_agree(void) {
    static const int checked[] = {GEMS_F32, GEMS_BF16, GEMS_BOOL, GEMS_I64};
    PyObject *empty = find("empty");
    bool agree = empty != NULL;
    for (size_t i = 0; agree && i < sizeof checked / sizeof *checked; i++) {
        PyObject *args = Py_BuildValue("(i)", 1),
                 *keywords = Py_BuildValue("{sO}", "dtype", gems_py.dtypes[checked[i]]);
        PyObject *tensor = args && keywords ? PyObject_Call(empty, args, keywords) : NULL;
        void *handle = tensor ? gems_unwrap(tensor) : NULL;
        int32_t dtype = -1;
        agree = handle && !gems_torch.get_dtype(handle, &dtype) && dtype == checked[i];
        if (handle) gems_torch.delete_handle(handle);
        Py_XDECREF(tensor);
        Py_XDECREF(args);
        Py_XDECREF(keywords);
    }
    Py_XDECREF(empty);
    PyErr_Clear();
    return agree;
}

static int torch_default_dtype(void) { return gems_torch.default_dtype(); }

static int torch_threads(void) {
    uint32_t count = 0;
    return gems_torch.thread_count && !gems_torch.thread_count(&count) ? (int)count : 0;
}

static void *unlocked_begin(void) { return PyGILState_Check() ? PyEval_SaveThread() : NULL; }
static void unlocked_end(void *state) {
    if (state) PyEval_RestoreThread(state);
}

static PyObject *attach_torch(PyObject *self, PyObject *torch) {
    (void)self;
    if (gems_torch_open() != GEMS_OK) return gems_set_error();
    gems_py.torch = Py_NewRef(torch);
    find_objects();
    if (!gems_probe()) return NULL;
    if (!dtypes_agree()) {
        gems_py.reader = GEMS_BY_NONE;
        PyErr_SetString(PyExc_RuntimeError, "this torch numbers its dtypes in another way");
        return NULL;
    }
    gems_python = (gems_torch_python){gems_resize, gems_philox, gems_fallback_shim, gems_observe,
                                      gems_raise_shim};
    if (gems_torch.thread_count) gems_cpu_thread_count = torch_threads;
    if (gems_torch.default_dtype) gems_default_dtype_source = torch_default_dtype;
    return Py_BuildValue("{ss,si,si,si,si,sO,sO,sO,sO}", "reader", gems_reader_name(), "fields",
                         gems_layout.shape, "impl", gems_layout.impl, "keys", gems_layout.keys,
                         "autograd", gems_layout.autograd, "wrap",
                         gems_torch.wrap_moved || gems_torch.wrap ? Py_True : Py_False,
                         "shim_lists", gems_torch.list_size ? Py_True : Py_False, "bump_version",
                         gems_torch.bump_version ? Py_True : Py_False, "throw",
                         gems_torch.throw_python_error ? Py_True : Py_False);
}

/* ---- switches ---- */

static PyObject *set_reader(PyObject *self, PyObject *name) {
    (void)self;
    const char *text = PyUnicode_AsUTF8(name);
    if (!text || !gems_set_reader(text)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *reader(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyUnicode_FromString(gems_reader_name());
}

/* set_hooks(name=object): the Python objects that C calls. */
static PyObject *set_hooks(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"declined_error", "register_entries", "record", "keyset",
                            "random_kernel",  "own_operator",     NULL};
    PyObject *given[6] = {NULL};
    PyObject **places[6] = {&gems_py.declined_error, &gems_py.register_entries,
                            &gems_py.record,         &gems_py.keyset,
                            &gems_py.random_kernel,  &gems_py.own_operator};
    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|OOOOOO", names, &given[0], &given[1],
                                     &given[2], &given[3], &given[4], &given[5]))
        return NULL;
    for (int i = 0; i < 6; i++)
        if (given[i]) Py_XSETREF(*places[i], Py_NewRef(given[i]));
    Py_RETURN_NONE;
}

static PyObject *set_strict(PyObject *self, PyObject *flag) {
    (void)self;
    int strict = PyObject_IsTrue(flag);
    if (strict < 0) return NULL;
    gems_py.strict = strict;
    Py_RETURN_NONE;
}

static PyObject *set_default_dtype(PyObject *self, PyObject *dtype) {
    (void)self;
    for (int i = 0; i < GEMS_DTYPES; i++)
        if (gems_py.dtypes[i] == dtype) gems_set_default_dtype(i);
    Py_RETURN_NONE;
}

/* ---- gates and registration ---- */

static PyObject *gates(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, gems_entry_count());
    for (int i = 0; bytes && i < gems_entry_count(); i++)
        PyBytes_AS_STRING(bytes)[i] =
            (char)__atomic_load_n(&gems_entry_at(i)->gate, __ATOMIC_RELAXED);
    return bytes;
}

static PyObject *set_gates(PyObject *self, PyObject *bytes) {
    (void)self;
    if (!PyBytes_Check(bytes) || PyBytes_GET_SIZE(bytes) != gems_entry_count()) {
        PyErr_SetString(PyExc_ValueError, "one byte an entry is wanted");
        return NULL;
    }
    for (int i = 0; i < gems_entry_count(); i++)
        __atomic_store_n(&gems_entry_at(i)->gate, (uint8_t)(PyBytes_AS_STRING(bytes)[i] != 0),
                         __ATOMIC_RELAXED);
    Py_RETURN_NONE;
}

static bool entry_index(PyObject *object, int *index) {
    long number = PyLong_AsLong(object);
    if (number == -1 && PyErr_Occurred()) return false;
    *index = (int)number;
    if (number >= 0 && number < gems_entry_total()) return true;
    PyErr_SetString(PyExc_IndexError, "no such entry");
    return false;
}

static PyObject *shim_carries(PyObject *self, PyObject *object) {
    int index;
    (void)self;
    if (!entry_index(object, &index)) return NULL;
    return PyBool_FromLong(gems_torch.library_impl && gems_shim_carries(gems_entry_at(index)));
}

static PyObject *library_function(PyObject *self, PyObject *object) {
    int index;
    (void)self;
    return entry_index(object, &index) ? gems_library_function(index) : NULL;
}

/* set_kernel(entry, call_boxed): ATen's kernel, to which the entry falls back; None: it has none.
 */
static PyObject *set_kernel(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    int index;
    (void)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "set_kernel(entry, call_boxed)");
        return NULL;
    }
    if (!entry_index(args[0], &index)) return NULL;
    gems_entry_at(index)->alone = args[1] == Py_None;
    Py_XSETREF(gems_py.kernels[index], args[1] == Py_None ? NULL : Py_NewRef(args[1]));
    Py_RETURN_NONE;
}

/* shorten(entry, count) -> bool: gems_entry_shorten */
static PyObject *shorten(PyObject *self, PyObject *args) {
    PyObject *entry;
    int index, count;
    (void)self;
    if (!PyArg_ParseTuple(args, "Oi", &entry, &count) || !entry_index(entry, &index)) return NULL;
    return PyBool_FromLong(gems_entry_shorten(gems_entry_at(index), count));
}

/* register_shim(key, entries) -> library: a number for close_shim */
static PyObject *register_shim(PyObject *self, PyObject *args) {
    const char *key;
    PyObject *list;
    uint16_t entries[GEMS_MAX_ENTRIES_REGISTERED];
    void *library = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "sO!", &key, &PyList_Type, &list)) return NULL;
    Py_ssize_t count = PyList_GET_SIZE(list);
    for (Py_ssize_t i = 0; i < count; i++) {
        int index;
        if (i == GEMS_MAX_ENTRIES_REGISTERED || !entry_index(PyList_GET_ITEM(list, i), &index))
            return NULL;
        entries[i] = (uint16_t)index;
    }
    if (gems_shim_register(key, entries, (int)count, &library) != GEMS_OK) {
        if (library) gems_shim_close(library);
        return gems_set_error();
    }
    return PyLong_FromVoidPtr(library);
}

static PyObject *close_shim(PyObject *self, PyObject *library) {
    (void)self;
    void *address = PyLong_AsVoidPtr(library);
    if (!address) return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    gems_shim_close(address);
    Py_RETURN_NONE;
}

static PyObject *has_torch(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyBool_FromLong(gems_py.torch != NULL);
}

PyMethodDef gems_attach_methods[] = {
    {"has_torch", has_torch, METH_NOARGS, "has_torch(): whether torch was attached."},
    {"attach_torch", attach_torch, METH_O,
     "attach_torch(torch): finds torch's symbols and objects; a dict of what was found."},
    {"set_reader", set_reader, METH_O,
     "set_reader(name): 'handle', 'pyobject', 'dlpack' or 'attributes'."},
    {"reader", reader, METH_NOARGS, "reader(): how tensors are read."},
    {"set_hooks", (PyCFunction)(void (*)(void))set_hooks, METH_VARARGS | METH_KEYWORDS,
     "Objects that the extension calls."},
    {"set_strict", set_strict, METH_O, "set_strict(flag): a decline raises DeclinedError."},
    {"set_default_dtype", set_default_dtype, METH_O,
     "set_default_dtype(dtype): what ints are promoted to."},
    {"gates", gates, METH_NOARGS, "gates(): one byte an entry, 1 where our kernel may run."},
    {"set_gates", set_gates, METH_O, "set_gates(bytes)"},
    {"shim_carries", shim_carries, METH_O,
     "shim_carries(entry): the stable shim can take its arguments."},
    {"library_function", library_function, METH_O,
     "library_function(entry): a builtin for torch.library."},
    {"set_kernel", (PyCFunction)(void (*)(void))set_kernel, METH_FASTCALL,
     "set_kernel(entry, call_boxed)"},
    {"shorten", shorten, METH_VARARGS,
     "shorten(entry, count): leaves it its first arguments, where this torch has no more."},
    {"register_shim", register_shim, METH_VARARGS,
     "register_shim(key, entries): the number of an open library."},
    {"close_shim", close_shim, METH_O, "close_shim(library)"},
    {NULL, NULL, 0, NULL}};

/* Called by the module's init. */
void gems_attach_open(void) {
    gems_unlocked_begin = unlocked_begin;
    gems_unlocked_end = unlocked_end;
}
