/* Where things lie in torch's tensors: looked for in real ones, believed only when all agree. */
#include <string.h>

#include "dlpack.h"
#include "python.h"

#define SAMPLES 8

typedef struct samples {
    PyObject *tensor[SAMPLES];
    uint64_t keys[SAMPLES];
    void *impl[SAMPLES];
    bool has_autograd[SAMPLES]; /* told by construction */
    int count;
} samples;

/* Tensors of several kinds: plain, empty, 0-dim, a view, leaf and result of autograd, Parameter, inference.
 * The second list: which have data for autograd, as leaves, results and views have. */
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
    "    return made, [False, False, False, True, True, True, True, False]\n"
    "def keys(t):\n"
    "    return torch._C._dispatch_keys(t).raw_repr()\n"
    "made, autograd = make()\n"
    "def key(name):\n"
    "    return torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name)).raw_repr()\n"
    "words = [keys(t) for t in made]\n"
    "impls = [t._cdata for t in made]\n"
    "dense, inplace = key('Dense'), key('ADInplaceOrView')\n"
    "plain = words[0] | key('CUDA') | key('AutogradCUDA') | key('AutocastCUDA')\n";

static PyObject *run_recipe(void) {
    PyObject *names = PyDict_New();
    if (!names) return NULL;
    PyObject *builtins = PyEval_GetBuiltins();
    PyObject *done = NULL;
    if (!PyDict_SetItemString(names, "__builtins__", builtins)) done = PyRun_String(recipe, Py_file_input, names, names);
    Py_XDECREF(done);
    if (!done) Py_CLEAR(names);
    return names;
}

static uint64_t number(PyObject *names, const char *name) {
    PyObject *value = PyDict_GetItemString(names, name);
    return value ? PyLong_AsUnsignedLongLongMask(value) : 0;
}

static bool take_samples(PyObject *names, samples *s) {
    PyObject *made = PyDict_GetItemString(names, "made"), *words = PyDict_GetItemString(names, "words");
    PyObject *impls = PyDict_GetItemString(names, "impls"), *autograd = PyDict_GetItemString(names, "autograd");
    if (!made || !words || !impls || !autograd || PyList_Size(made) != SAMPLES) return false;
    s->count = SAMPLES;
    for (int i = 0; i < SAMPLES; i++) {
        s->tensor[i] = PyList_GET_ITEM(made, i);
        s->keys[i] = PyLong_AsUnsignedLongLongMask(PyList_GET_ITEM(words, i));
        s->impl[i] = PyLong_AsVoidPtr(PyList_GET_ITEM(impls, i));
        s->has_autograd[i] = PyList_GET_ITEM(autograd, i) == Py_True;
    }
    return !PyErr_Occurred();
}

/* The word of all samples that holds the TensorImpl pointer; -1. */
static int find_impl(const samples *s) {
    Py_ssize_t size = gems_py.tensor->tp_basicsize;
    for (int at = (int)sizeof(PyObject); at + (int)sizeof(void *) <= size; at += (int)sizeof(void *)) {
        int right = 0;
        for (int i = 0; i < s->count; i++) right += !memcmp((char *)s->tensor[i] + at, &s->impl[i], sizeof(void *));
        if (right == s->count) return at;
    }
    return -1;
}

/* A TensorImpl is at least this large in every torch: words beyond are not looked at. */
#define IMPL_BYTES 176

static int find_keys(const samples *s) {
    for (int at = 8; at + 8 <= IMPL_BYTES; at += 8) {
        int right = 0;
        for (int i = 0; i < s->count; i++) right += *(uint64_t *)((char *)s->impl[i] + at) == s->keys[i];
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

/* What the handle tells of a sample must be what its attributes tell. */
static bool handles_agree(const samples *s) {
    for (int i = 0; i < s->count; i++) {
        gems_tensor t;
        if (!gems_handle_read((char *)s->tensor[i] + gems_layout.impl, &t)) return false;
        PyObject *shape = PyObject_GetAttrString(s->tensor[i], "shape");
        PyObject *strides = shape ? PyObject_CallMethod(s->tensor[i], "stride", NULL) : NULL;
        PyObject *data = strides ? PyObject_CallMethod(s->tensor[i], "data_ptr", NULL) : NULL;
        bool same = data && PyTuple_Size(shape) == t.ndim && (!t.numel || PyLong_AsVoidPtr(data) == t.data);
        for (int d = 0; same && d < t.ndim; d++)
            same = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, d)) == t.sizes[d] &&
                   PyLong_AsLongLong(PyTuple_GET_ITEM(strides, d)) == t.strides[d];
        Py_XDECREF(shape);
        Py_XDECREF(strides);
        Py_XDECREF(data);
        if (!same || PyErr_Occurred()) {
            PyErr_Clear();
            return false;
        }
    }
    return true;
}

/* The keys that inference mode takes from a thread: read while it is on. */
static uint64_t inference_excludes(void) {
    const uint64_t *keys = gems_torch_thread_keys();
    PyObject *mode = keys ? PyObject_CallMethod(gems_py.torch, "inference_mode", NULL) : NULL;
    PyObject *entered = mode ? PyObject_CallMethod(mode, "__enter__", NULL) : NULL;
    uint64_t below = entered ? keys[1] : 0;
    PyObject *left = entered ? PyObject_CallMethod(mode, "__exit__", "OOO", Py_None, Py_None, Py_None) : NULL;
    Py_XDECREF(left);
    Py_XDECREF(entered);
    Py_XDECREF(mode);
    PyErr_Clear();
    return below;
}

static void choose_reader(void) {
    if (gems_layout.impl > 0) gems_py.reader = GEMS_BY_HANDLE;
    else if (gems_torch.from_object) gems_py.reader = GEMS_BY_PYOBJECT;
    else if (gems_py.dlpack) gems_py.reader = GEMS_BY_DLPACK;
    else gems_py.reader = GEMS_BY_ATTRIBUTES;
}

bool gems_probe(void) {
    samples s;
    PyObject *names = run_recipe();
    if (!names) return false;
    if (!take_samples(names, &s)) {
        Py_DECREF(names);
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "torch's tensors are not as expected");
        return false;
    }
    gems_layout.plain = number(names, "plain");
    gems_layout.dense = number(names, "dense");
    gems_layout.inplace = number(names, "inplace");
    gems_layout.impl = find_impl(&s);
    if (gems_layout.impl > 0 && !handles_agree(&s)) gems_layout.impl = -1;
    gems_layout.keys = find_keys(&s);
    gems_layout.autograd = find_autograd(&s);
    gems_layout.below = inference_excludes();
    choose_reader();
    Py_DECREF(names);
    return true;
}
