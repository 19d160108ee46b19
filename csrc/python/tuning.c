/* What `python -m flag_gems tune` asks: which configurations a call may have, the table of winners,
 * and calls of this thread with a configuration of its own. */
#include <stdlib.h>
#include <string.h>

#include "../families/matmul_options.h"
#include "python.h"

static _Thread_local gems_matmul_watch *mine;

static PyObject *watch(PyObject *self, PyObject *flag) {
    (void)self;
    const int on = PyObject_IsTrue(flag);
    if (on < 0) return NULL;
    if (on && !mine && !(mine = calloc(1, sizeof *mine))) return PyErr_NoMemory();
    gems_matmul_watch_calls(on ? mine : NULL);
    if (on) {
        memset(mine, 0, sizeof *mine);
    } else {
        free(mine);
        mine = NULL;
    }
    Py_RETURN_NONE;
}

static bool watched(void) {
    if (!mine) PyErr_SetString(PyExc_RuntimeError, "tuning_watch(True) was not called");
    return mine != NULL;
}

static PyObject *force(PyObject *self, PyObject *args) {
    const char *texts[GEMS_MATMUL_ROUTES];
    (void)self;
    if (!PyArg_ParseTuple(args, "ss", &texts[GEMS_MATMUL_TILES], &texts[GEMS_MATMUL_HOPPER]) ||
        !watched())
        return NULL;
    for (int i = 0; i < GEMS_MATMUL_ROUTES; i++) {
        if (strlen(texts[i]) >= GEMS_TUNED_VALUE)
            return PyErr_Format(PyExc_ValueError, "no configuration: %s", texts[i]);
        strcpy(mine->forced[i], texts[i]);
        mine->asked[i] = false;
    }
    gems_matmul_watch_calls(mine); /* what was chosen before is forgotten */
    Py_RETURN_NONE;
}

/* (key, [option], chosen) of a route that had to choose. */
static PyObject *asked_of(gems_matmul_route route) {
    char key[GEMS_TUNED_KEY], text[GEMS_TUNED_VALUE];
    const gems_matmul_shape *shape = &mine->shape[route];
    PyObject *list = PyList_New(0);
    for (int i = 0; list && gems_matmul_option(shape, mine->info, route, i, text); i++) {
        PyObject *item = PyUnicode_FromString(text);
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    if (!list) return NULL;
    gems_matmul_tuned_key(shape, mine->info, route, key);
    return Py_BuildValue("(sNs)", key, list, mine->chosen[route]);
}

static PyObject *asked(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    if (!watched()) return NULL;
    PyObject *dict = PyDict_New();
    static const char *const names[GEMS_MATMUL_ROUTES] = {"tiles", "hopper"};
    for (int i = 0; dict && i < GEMS_MATMUL_ROUTES; i++) {
        if (!mine->asked[i]) continue;
        PyObject *item = asked_of((gems_matmul_route)i);
        if (!item || PyDict_SetItemString(dict, names[i], item)) Py_CLEAR(dict);
        Py_XDECREF(item);
    }
    return dict;
}

static PyObject *line(PyObject *self, PyObject *args) {
    const char *key, *value;
    char text[GEMS_TUNED_LINE];
    (void)self;
    if (!PyArg_ParseTuple(args, "ss", &key, &value)) return NULL;
    if (!gems_tuned_line(key, value, text))
        return PyErr_Format(PyExc_ValueError, "not an entry of the table: %s = %s", key, value);
    return PyUnicode_FromString(text);
}

static PyObject *parse(PyObject *self, PyObject *text) {
    Py_ssize_t size;
    gems_tuned_entry entry;
    (void)self;
    const char *data = PyUnicode_AsUTF8AndSize(text, &size);
    if (!data) return NULL;
    if (!gems_tuned_parse(data, (size_t)size, &entry)) Py_RETURN_NONE;
    return Py_BuildValue("(ss)", entry.key, entry.value);
}

static PyObject *entries(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && gems_tuned_at(i); i++) {
        const gems_tuned_entry *e = gems_tuned_at(i);
        PyObject *item = Py_BuildValue("(ssO)", e->key, e->value, e->shipped ? Py_True : Py_False);
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *versions(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && gems_matmul_version(i); i++) {
        PyObject *item = PyUnicode_FromString(gems_matmul_version(i));
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *path(PyObject *self, PyObject *unused) {
    char text[4096];
    (void)self, (void)unused;
    return Py_BuildValue("z", gems_tuned_path(text, sizeof text) ? text : NULL);
}

PyMethodDef gems_tuning_methods[] = {
    {"tuning_watch", watch, METH_O,
     "tuning_watch(flag): this thread's products are chosen by tuning_force and the model."},
    {"tuning_force", force, METH_VARARGS,
     "tuning_force(tiles, hopper): configurations of this thread's next products; '': the "
     "model's."},
    {"tuning_asked", asked, METH_NOARGS,
     "tuning_asked() -> {route: (key, [configuration], chosen)}: the last product since "
     "tuning_force."},
    {"tuned_line", line, METH_VARARGS, "tuned_line(key, value) -> a line of the table."},
    {"tuned_parse", parse, METH_O, "tuned_parse(line) -> (key, value), or None."},
    {"tuned_entries", entries, METH_NOARGS, "tuned_entries() -> [(key, value, shipped)]."},
    {"tuned_versions", versions, METH_NOARGS,
     "tuned_versions() -> [version]: of the configurations that are here, as keys name them."},
    {"tuned_path", path, METH_NOARGS, "tuned_path() -> the table of the cache directory, or None."},
    {NULL, NULL, 0, NULL}};
