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

static PyObject *row_dict(int index) {
    static const char *const promotions[] = {"default",     "no_opmath",    "int_to_float",
                                             "always_bool", "bool_to_long", "complex_to_float",
                                             "keep"};
    static const char *const gradients[] = {"formula", "none"};
    const gems_op *op = gems_op_at(index);
    PyObject *own = PyList_New(0);
    for (int i = 0; own && i < gems_entry_count(); i++) {
        if (gems_entry_at(i)->op != index) continue;
        PyObject *dict = entry_dict(i);
        if (!dict || PyList_Append(own, dict)) Py_CLEAR(own);
        Py_XDECREF(dict);
    }
    if (!own) return NULL;
    return Py_BuildValue("{si,ss,ss,sz,sz,sN,sN,ss,sz,sN,ss,ss,sz,sO,sd,sd,sz,sN}", "index", index,
                         "id", gems_op_id(index), "schema", op->schema, "inplace", op->inplace,
                         "out", op->out, "aliases", names(op->aliases), "functions",
                         names(op->functions), "family", op->family->name, "expr", op->expr,
                         "dtypes", dtype_list(op->dtypes), "promotion", promotions[op->promotion],
                         "gradient", gradients[op->gradient], "domain", op->domain,
                         "nondeterministic", op->nondeterministic ? Py_True : Py_False, "bytes",
                         op->bytes, "flops", op->flops, "doc", op->doc, "entries", own);
}

static PyObject *rows(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *list = PyList_New(gems_op_count());
    for (int i = 0; list && i < gems_op_count(); i++) {
        PyObject *dict = row_dict(i);
        if (!dict) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, dict);
    }
    return list;
}

static PyObject *counts(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *dict = PyDict_New();
    for (int i = 0; dict && i < gems_entry_count(); i++) {
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
    for (int i = 0; i < gems_entry_count(); i++) {
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

PyMethodDef gems_table_methods[] = {
    {"rows", rows, METH_NOARGS, "rows(): the operator table, a dict a row."},
    {"entries", entries, METH_NOARGS,
     "entries(): the overloads derived from it, a dict each, in the order of their index."},
    {"counts", counts, METH_NOARGS,
     "counts(): aten name -> (kernels, fallbacks, last reason) of overloads that were called."},
    {"reset_counts", reset_counts, METH_NOARGS, "reset_counts()"},
    {"functions", functions, METH_NOARGS, "functions(): the builtins of flag_gems.ops by name."},
    {NULL, NULL, 0, NULL}};
