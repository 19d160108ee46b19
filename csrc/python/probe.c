/* Where things lie in torch's tensors: looked for in real ones, believed only when all agree. */
#include <string.h>

#include "dlpack.h"
#include "python.h"

#define SAMPLES 9

/* What torch says of a sample, by number. */
enum { RANK, NUMEL, OFFSET, DTYPE, DEVICE, FACTS };

typedef struct samples {
    PyObject *tensor[SAMPLES];
    uint64_t keys[SAMPLES];
    void *impl[SAMPLES];
    bool has_autograd[SAMPLES]; /* told by construction */
    int64_t facts[SAMPLES][FACTS];
    void *storage[SAMPLES], *data[SAMPLES];
    PyObject *shape[SAMPLES], *strides[SAMPLES]; /* borrowed tuples */
    int count;
} samples;

/* Tensors of several kinds: plain, empty, 0-dim, a view, leaf and result of autograd, Parameter,
 * inference. The second list: which have data for autograd, as leaves, results and views have. */
static const char recipe[] =
    "import torch\n"
    "def make():\n"
    "    with torch.enable_grad():\n"
    "        x = torch.empty(3, dtype=torch.float32)\n"
    "        leaf = torch.empty(2, 3, dtype=torch.float64, requires_grad=True)\n"
    "        made = [x, torch.empty(0, dtype=torch.int64), torch.empty((), dtype=torch.int32),\n"
    "                torch.empty(4, 6)[1:3, ::2], leaf, leaf.detach().requires_grad_() * 2,\n"
    "                torch.nn.Parameter(torch.empty(5))]\n"
    "    with torch.inference_mode():\n"
    "        made.append(torch.empty(2))\n"
    "    made.append(torch.empty(2, 7, device='meta', dtype=torch.int32))\n"
    "    return made, [False, False, False, True, True, True, True, False, False]\n"
    "def keys(t):\n"
    "    return torch._C._dispatch_keys(t).raw_repr()\n"
    "made, autograd = make()\n"
    "def key(name):\n"
    "    return torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name)).raw_repr()\n"
    "words = [keys(t) for t in made]\n"
    "impls = [t._cdata for t in made]\n"
    "numbers = {torch.int32: 3, torch.int64: 4, torch.float32: 6, torch.float64: 7}\n"
    "facts = [(t.dim(), t.numel(), t.storage_offset(), numbers[t.dtype], 14 if t.is_meta else 0) "
    "for t in made]\n"
    "stores = [t.untyped_storage()._cdata for t in made]\n"
    "data = [t.untyped_storage().data_ptr() for t in made]\n"
    "shapes = [tuple(t.shape) for t in made]\n"
    "strides = [t.stride() for t in made]\n"
    "dense, inplace = key('Dense'), key('ADInplaceOrView')\n"
    "plain = words[0] | key('CUDA') | key('AutogradCUDA') | key('AutocastCUDA')\n";

static PyObject *run_recipe(void) {
    PyObject *names = PyDict_New();
    if (!names) return NULL;
    PyObject *builtins = PyEval_GetBuiltins();
    PyObject *done = NULL;
    if (!PyDict_SetItemString(names, "__builtins__", builtins))
        done = PyRun_String(recipe, Py_file_input, names, names);
    Py_XDECREF(done);
    if (!done) Py_CLEAR(names);
    return names;
}

static uint64_t number(PyObject *names, const char *name) {
    PyObject *value = PyDict_GetItemString(names, name);
    return value ? PyLong_AsUnsignedLongLongMask(value) : 0;
}

/* A list of the recipe with one item a sample; NULL when it is not that. */
static PyObject *list_of(PyObject *names, const char *name) {
    PyObject *list = PyDict_GetItemString(names, name);
    return list && PyList_Check(list) && PyList_GET_SIZE(list) == SAMPLES ? list : NULL;
}

static bool take_samples(PyObject *names, samples *s) {
    static const char *const wanted[] = {"made",   "words", "impls",  "autograd", "facts",
                                         "stores", "data",  "shapes", "strides"};
    PyObject *lists[sizeof wanted / sizeof *wanted];
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!(lists[i] = list_of(names, wanted[i]))) return false;
    s->count = SAMPLES;
    for (int i = 0; i < SAMPLES; i++) {
        s->tensor[i] = PyList_GET_ITEM(lists[0], i);
        s->keys[i] = PyLong_AsUnsignedLongLongMask(PyList_GET_ITEM(lists[1], i));
        s->impl[i] = PyLong_AsVoidPtr(PyList_GET_ITEM(lists[2], i));
        s->has_autograd[i] = PyList_GET_ITEM(lists[3], i) == Py_True;
        for (int k = 0; k < FACTS; k++)
            s->facts[i][k] = PyLong_AsLongLong(PyTuple_GetItem(PyList_GET_ITEM(lists[4], i), k));
        s->storage[i] = PyLong_AsVoidPtr(PyList_GET_ITEM(lists[5], i));
        s->data[i] = PyLong_AsVoidPtr(PyList_GET_ITEM(lists[6], i));
        s->shape[i] = PyList_GET_ITEM(lists[7], i);
        s->strides[i] = PyList_GET_ITEM(lists[8], i);
    }
    return !PyErr_Occurred();
}

/* The word of all samples that holds the TensorImpl pointer; -1. */
static int find_impl(const samples *s) {
    Py_ssize_t size = gems_py.tensor->tp_basicsize;
    for (int at = (int)sizeof(PyObject); at + (int)sizeof(void *) <= size;
         at += (int)sizeof(void *)) {
        int right = 0;
        for (int i = 0; i < s->count; i++)
            right += !memcmp((char *)s->tensor[i] + at, &s->impl[i], sizeof(void *));
        if (right == s->count) return at;
    }
    return -1;
}

/* Words beyond these are not looked at: a TensorImpl is at least so large in every torch, and its
 * last word is the key set, 112 bytes after the shape in all of them. */
#define IMPL_BYTES  176
#define AFTER_SHAPE 120

static int find_keys(const samples *s, int bytes) {
    for (int at = 8; at + 8 <= bytes; at += 8) {
        int right = 0;
        for (int i = 0; i < s->count; i++)
            right += *(uint64_t *)((char *)s->impl[i] + at) == s->keys[i];
        if (right == s->count) return at;
    }
    return -1;
}

/* The only word that is NULL exactly in the samples without autograd data. */
static int find_autograd(const samples *s) {
    int found = -1;
    for (int at = 8; at + 8 <= IMPL_BYTES; at += 8) {
        int right = 0;
        for (int i = 0; i < s->count; i++) {
            uintptr_t word = *(uintptr_t *)((char *)s->impl[i] + at);
            right += s->has_autograd[i] ? word > 4096 && word % 8 == 0 : word == 0;
        }
        if (right != s->count) continue;
        if (found >= 0) return -1;
        found = at;
    }
    return found;
}

/* The only word that is this fact in each sample; -1. */
static int find_fact(const samples *s, int fact) {
    int found = -1;
    for (int at = 8; at + 8 <= IMPL_BYTES; at += 8) {
        int right = 0;
        for (int i = 0; i < s->count; i++)
            right += *(int64_t *)((char *)s->impl[i] + at) == s->facts[i][fact];
        if (right != s->count) continue;
        if (found >= 0) return -1;
        found = at;
    }
    return found;
}

static bool holds_tuple(const int64_t *words, PyObject *tuple) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++)
        if (PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i)) != words[i]) return false;
    return true;
}

/* Rank, five sizes, five strides. */
static int find_shape(const samples *s) {
    for (int at = 8; at + 88 <= IMPL_BYTES; at += 8) {
        int right = 0;
        for (int i = 0; i < s->count; i++) {
            const int64_t *words = (int64_t *)((char *)s->impl[i] + at);
            right += words[0] == s->facts[i][RANK] && holds_tuple(words + 1, s->shape[i]) &&
                     holds_tuple(words + 6, s->strides[i]);
        }
        if (right == s->count) return at;
    }
    return -1;
}

/* Two bytes of dtype, then the device's type. */
static int find_dtype(const samples *s) {
    for (int at = 8; at + 8 <= IMPL_BYTES; at += 8) {
        int right = 0;
        for (int i = 0; i < s->count; i++) {
            const uint8_t *bytes = (uint8_t *)s->impl[i] + at;
            right += bytes[0] == s->facts[i][DTYPE] && !bytes[1] && bytes[2] == s->facts[i][DEVICE];
        }
        if (right == s->count) return at;
    }
    return -1;
}

static int find_pointer(void *const *objects, void *const *pointers, int count, int bytes) {
    for (int at = 8; at + 8 <= bytes; at += 8) {
        int right = 0;
        for (int i = 0; i < count; i++) right += *(void **)((char *)objects[i] + at) == pointers[i];
        if (right == count) return at;
    }
    return -1;
}

/* Finds the fields that are read without asking torch; shape stays -1 unless all are found. */
static void find_fields(const samples *s) {
    int shape = find_shape(s);
    gems_layout.numel = find_fact(s, NUMEL);
    gems_layout.offset = find_fact(s, OFFSET);
    gems_layout.dtype = find_dtype(s);
    gems_layout.storage = find_pointer(s->impl, s->storage, s->count, IMPL_BYTES);
    gems_layout.data = find_pointer(s->storage, s->data, s->count, 48);
    bool all = gems_layout.numel > 0 && gems_layout.offset > 0 && gems_layout.dtype > 0 &&
               gems_layout.storage > 0 && gems_layout.data > 0;
    gems_layout.shape = all ? shape : -1;
}

/* What the handle tells of a sample must be what its attributes tell. */
static bool handles_agree(const samples *s) {
    for (int i = 0; i < s->count; i++) {
        gems_tensor t;
        if (!gems_handle_read((char *)s->tensor[i] + gems_layout.impl, &t)) return false;
        PyObject *data = PyObject_CallMethod(s->tensor[i], "data_ptr", NULL);
        bool same = data && t.ndim == s->facts[i][RANK] && t.numel == s->facts[i][NUMEL] &&
                    t.dtype == s->facts[i][DTYPE] && t.device_type == s->facts[i][DEVICE] &&
                    holds_tuple(t.sizes, s->shape[i]) && holds_tuple(t.strides, s->strides[i]) &&
                    (!t.numel || PyLong_AsVoidPtr(data) == t.data);
        Py_XDECREF(data);
        PyErr_Clear();
        if (!same) return false;
    }
    return true;
}

/* The keys that inference mode takes from a thread: read while it is on. */
static uint64_t inference_excludes(void) {
    const uint64_t *keys = gems_torch_thread_keys();
    PyObject *mode = keys ? PyObject_CallMethod(gems_py.torch, "inference_mode", NULL) : NULL;
    PyObject *entered = mode ? PyObject_CallMethod(mode, "__enter__", NULL) : NULL;
    uint64_t below = entered ? keys[1] : 0;
    PyObject *left =
        entered ? PyObject_CallMethod(mode, "__exit__", "OOO", Py_None, Py_None, Py_None) : NULL;
    Py_XDECREF(left);
    Py_XDECREF(entered);
    Py_XDECREF(mode);
    PyErr_Clear();
    return below;
}

static void choose_reader(void) {
    if (gems_layout.impl > 0)
        gems_py.reader = GEMS_BY_HANDLE;
    else if (gems_torch.from_object)
        gems_py.reader = GEMS_BY_PYOBJECT;
    else if (gems_py.dlpack)
        gems_py.reader = GEMS_BY_DLPACK;
    else
        gems_py.reader = GEMS_BY_ATTRIBUTES;
}

bool gems_probe(void) {
    samples s;
    PyObject *names = run_recipe();
    if (!names) return false;
    if (!take_samples(names, &s)) {
        Py_DECREF(names);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, "torch's tensors are not as expected");
        return false;
    }
    gems_layout.plain = number(names, "plain");
    gems_layout.dense = number(names, "dense");
    gems_layout.inplace = number(names, "inplace");
    gems_layout.impl = find_impl(&s);
    if (gems_layout.impl > 0) {
        find_fields(&s);
        if (gems_layout.shape > 0 && !handles_agree(&s)) gems_layout.shape = -1;
        if (gems_layout.shape < 0 && !handles_agree(&s)) gems_layout.impl = -1;
    }
    int shape = find_shape(&s);
    gems_layout.keys = find_keys(&s, shape > 0 ? shape + AFTER_SHAPE : IMPL_BYTES);
    gems_layout.autograd = find_autograd(&s);
    gems_layout.below = inference_excludes();
    choose_reader();
    Py_DECREF(names);
    return true;
}
