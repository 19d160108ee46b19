/* The operator table as Python sees it. */
#include <string.h>

#include "python.h"

static PyObject *dtype_list(uint64_t mask) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < GEMS_DTYPES; i++) {
        const char *name = mask >> i & 1 ? gems_dtype_name(i) : NULL;
        if (!name) continue;
        PyObject *text = PyUnicode_FromString(name);
        if (!text || PyList_Append(list, text)) Py_CLEAR(list);
        Py_XDECREF(text);
    }
    return list;
}

static PyObject *function_list(int entry) {
    PyObject *list = PyList_New(0);
    const char *name;
    for (int i = 0; list && (name = gems_function_name(entry, i)); i++) {
        PyObject *text = PyUnicode_FromString(name);
        if (!text || PyList_Append(list, text)) Py_CLEAR(list);
        Py_XDECREF(text);
    }
    return list;
}

static const char *const variants[] = {"functional", "inplace", "out"};

/* name, variant, schema, functions and state of an entry. */
static PyObject *entry_dict(int index) {
    const gems_entry *entry = gems_entry_at(index);
    return Py_BuildValue(
        "{si,si,ss,ss,ss,sN,sO,sK,sK,sz}", "index", index, "op", (int)entry->op, "name",
        entry->qualified, "variant", variants[entry->variant], "schema", entry->schema.text,
        "functions", function_list(index), "scalar", entry->scalar ? Py_True : Py_False, "kernels",
        (unsigned long long)__atomic_load_n(&entry->kernels, __ATOMIC_RELAXED), "fallbacks",
        (unsigned long long)__atomic_load_n(&entry->fallbacks, __ATOMIC_RELAXED), "reason",
        __atomic_load_n(&entry->reason, __ATOMIC_RELAXED));
}

static PyObject *entries(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *list = PyList_New(gems_entry_count());
    for (int i = 0; list && i < gems_entry_count(); i++) {
        PyObject *dict = entry_dict(i);
        if (!dict) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, dict);
    }
    return list;
}

static PyObject *entry_of(PyObject *self, PyObject *object) {
    (void)self;
    long index = PyLong_AsLong(object);
    if (index == -1 && PyErr_Occurred()) return NULL;
    if (index >= 0 && index < gems_entry_total()) return entry_dict((int)index);
    PyErr_SetString(PyExc_IndexError, "no such entry");
    return NULL;
}

/* A list of names from a text with commas; NULL gives an empty one. */
static PyObject *names(const char *text) {
    PyObject *list = PyList_New(0);
    for (const char *p = text; list && p && *p;) {
        size_t length = strcspn(p, ",");
        PyObject *name = PyUnicode_FromStringAndSize(p, (Py_ssize_t)length);
        if (!name || PyList_Append(list, name)) Py_CLEAR(list);
        Py_XDECREF(name);
        p += length + (p[length] == ',');
    }
    return list;
}

/* By number of gems_promotion. */
static const char *const promotions[] = {"default",     "no_opmath",       "int_to_float",
                                         "always_bool", "bool_to_long",    "complex_to_float",
                                         "keep",        "float_to_complex"};

static PyObject *row_dict(int index) {
    static const char *const gradients[] = {"formula", "none"};
    const gems_op *op = gems_op_at(index);
    PyObject *own = PyList_New(0);
    for (int i = 0; own && i < gems_entry_total(); i++) {
        if (gems_entry_at(i)->op != index) continue;
        PyObject *dict = entry_dict(i);
        if (!dict || PyList_Append(own, dict)) Py_CLEAR(own);
        Py_XDECREF(dict);
    }
    if (!own) return NULL;
    return Py_BuildValue(
        "{si,sO,ss,ss,sz,sz,sN,sN,ss,sz,sN,ss,ss,sz,sO,sd,sd,sL,sz,sN}", "index", index, "added",
        gems_op_added(index) ? Py_True : Py_False, "id", gems_op_id(index), "schema", op->schema,
        "inplace", op->inplace, "out", op->out, "aliases", names(op->aliases), "functions",
        names(op->functions), "family", op->family->name, "expr", op->expr, "dtypes",
        dtype_list(op->dtypes), "promotion", promotions[op->promotion], "gradient",
        gradients[op->gradient], "domain", op->domain, "nondeterministic",
        op->nondeterministic ? Py_True : Py_False, "bytes", op->bytes, "flops", op->flops,
        "gpu_most", (long long)op->gpu_most, "doc", op->doc, "entries", own);
}

typedef enum row_kind { OF_ATEN, COMPOSITE, OF_OURS } row_kind;

static PyObject *row_list(row_kind kind) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < gems_op_count(); i++) {
        if (kind != (gems_op_own(i) ? OF_OURS : gems_op_composite(i) ? COMPOSITE : OF_ATEN))
            continue;
        PyObject *dict = row_dict(i);
        if (!dict || PyList_Append(list, dict)) Py_CLEAR(list);
        Py_XDECREF(dict);
    }
    return list;
}

static PyObject *rows(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return row_list(OF_ATEN);
}

static PyObject *own_rows(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return row_list(OF_OURS);
}

static PyObject *composite_rows(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return row_list(COMPOSITE);
}

/* ---- rows that are added ---- */

static PyObject *add_row(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names_of[] = {"schema", "expr",      "promotion", "dtypes", "helper",
                               "out",    "out_names", "masks",     "doc",    NULL};
    gems_op op = {.family = &gems_family_elementwise, .domain = "real", .doc = ""};
    const char *promotion;
    PyObject *dtypes;
    int index = -1;
    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "sssO!|zzzbz", names_of, &op.schema, &op.expr,
                                     &promotion, &PyList_Type, &dtypes, &op.helper, &op.out,
                                     &op.out_names, &op.masks, &op.doc))
        return NULL;
    int kind = 0;
    while (kind < (int)(sizeof promotions / sizeof *promotions) &&
           strcmp(promotions[kind], promotion))
        kind++;
    if (kind == (int)(sizeof promotions / sizeof *promotions))
        return PyErr_Format(PyExc_ValueError, "no promotion '%s'", promotion);
    op.promotion = (uint8_t)kind;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(dtypes); i++) {
        const char *name = PyUnicode_AsUTF8(PyList_GET_ITEM(dtypes, i));
        int dtype = name ? gems_dtype_parse(name) : GEMS_NO_DTYPE;
        if (!name) return NULL;
        if (dtype == GEMS_NO_DTYPE) return PyErr_Format(PyExc_ValueError, "no dtype '%s'", name);
        op.dtypes |= GEMS_BIT(dtype);
    }
    if (gems_table_add(&op, &index) != GEMS_OK) return gems_set_error();
    for (int i = gems_entry_count(); i < gems_entry_total(); i++)
        if (gems_entry_at(i)->op == index && !gems_name_arguments(i)) return NULL;
    return row_dict(index);
}

static PyObject *own_name(PyObject *self, PyObject *object) {
    (void)self;
    long row = PyLong_AsLong(object);
    if (row == -1 && PyErr_Occurred()) return NULL;
    if (row < 0 || row >= gems_op_count() || !gems_op_own((int)row)) {
        PyErr_SetString(PyExc_IndexError, "no such row in flag_gems::");
        return NULL;
    }
    const char *name = gems_op_at((int)row)->schema + strlen(GEMS_OWN_PREFIX);
    return PyUnicode_FromStringAndSize(name, (Py_ssize_t)strcspn(name, ".("));
}

static PyObject *own_function(PyObject *self, PyObject *object) {
    (void)self;
    long index = PyLong_AsLong(object);
    if (index == -1 && PyErr_Occurred()) return NULL;
    return gems_own_function((int)index);
}

static PyObject *counts(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *dict = PyDict_New();
    for (int i = 0; dict && i < gems_entry_total(); i++) {
        const gems_entry *entry = gems_entry_at(i);
        unsigned long long kernels = __atomic_load_n(&entry->kernels, __ATOMIC_RELAXED);
        unsigned long long fallbacks = __atomic_load_n(&entry->fallbacks, __ATOMIC_RELAXED);
        if (!kernels && !fallbacks) continue;
        PyObject *pair =
            Py_BuildValue("(KKz)", kernels, fallbacks, fallbacks ? entry->reason : NULL);
        if (!pair || PyDict_SetItemString(dict, entry->qualified, pair)) Py_CLEAR(dict);
        Py_XDECREF(pair);
    }
    return dict;
}

static PyObject *reset_counts(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    for (int i = 0; i < gems_entry_total(); i++) {
        gems_entry *entry = gems_entry_at(i);
        __atomic_store_n(&entry->kernels, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&entry->fallbacks, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&entry->reason, NULL, __ATOMIC_RELAXED);
    }
    Py_RETURN_NONE;
}

static PyObject *functions(PyObject *self, PyObject *unused) {
    static PyObject *dict;
    (void)self;
    (void)unused;
    if (!dict && (dict = PyDict_New()) && !gems_direct_functions(dict)) Py_CLEAR(dict);
    return dict ? PyDict_Copy(dict) : NULL;
}

static PyObject *kernel_text(PyObject *self, PyObject *name) {
    (void)self;
    const char *path = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    const char *text = path ? gems_kernel_text(path) : NULL;
    if (PyErr_Occurred()) return NULL;
    if (!text) Py_RETURN_NONE;
    return PyUnicode_FromString(text);
}

PyMethodDef gems_table_methods[] = {
    {"rows", rows, METH_NOARGS, "rows(): the operator table, a dict a row of an aten operator."},
    {"composite_rows", composite_rows, METH_NOARGS,
     "composite_rows(): the rows of composite operators, which have no entries."},
    {"own_rows", own_rows, METH_NOARGS,
     "own_rows(): the rows of flag_gems::, those that were added included."},
    {"forced", (PyCFunction)(void (*)(void))gems_forced, METH_FASTCALL | METH_KEYWORDS,
     "forced(function, ...): calls it; on this thread every registered operator runs our kernel "
     "meanwhile."},
    {"entry", entry_of, METH_O, "entry(index): one overload, also of flag_gems::."},
    {"add_row", (PyCFunction)(void (*)(void))add_row, METH_VARARGS | METH_KEYWORDS,
     "add_row(schema, expr, promotion, dtypes, helper=None, out=None, out_names=None, masks=0, "
     "doc=None): the dict of a "
     "new elementwise row in flag_gems::."},
    {"kernel_text", kernel_text, METH_O,
     "kernel_text(name): the text of a file of kernels, or None."},
    {"own_name", own_name, METH_O, "own_name(row): its name in torch.ops.flag_gems."},
    {"own_function", own_function, METH_O,
     "own_function(row): a builtin for a row of flag_gems::."},
    {"entries", entries, METH_NOARGS,
     "entries(): the overloads derived from it, a dict each, in the order of their index."},
    {"counts", counts, METH_NOARGS,
     "counts(): aten name -> (kernels, fallbacks, last reason) of overloads that were called."},
    {"reset_counts", reset_counts, METH_NOARGS, "reset_counts()"},
    {"functions", functions, METH_NOARGS, "functions(): the builtins of flag_gems.ops by name."},
    {NULL, NULL, 0, NULL}};
