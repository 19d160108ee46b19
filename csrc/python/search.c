/* Where the cuda backend may look for NVIDIA's wheels: the directories of sys.path. */
#include "../backend/cuda/cuda.h"
#include "python.h"
#include "search.h"

/* Appends a directory and a colon; false when memory ran out. */
static bool add(char **text, size_t *size, PyObject *directory) {
    PyObject *bytes = PyUnicode_Check(directory) ? PyUnicode_EncodeFSDefault(directory) : NULL;
    char *name = bytes ? PyBytes_AsString(bytes) : NULL;
    bool ok = true;
    if (name && name[0] == '/' && !strchr(name, ':')) {
        size_t length = strlen(name);
        char *grown = PyMem_Realloc(*text, *size + length + 2);
        ok = grown != NULL;
        if (ok) {
            memcpy(grown + *size, name, length);
            memcpy(grown + *size + length, ":", 2);
            *size += length + 1;
            *text = grown;
        }
    }
    Py_XDECREF(bytes);
    PyErr_Clear(); /* a name that has no bytes is left out */
    return ok;
}

void gems_search_open(void) {
    PyObject *path = PySys_GetObject("path"); /* borrowed */
    char *text = NULL;
    size_t size = 0;
    if (!path || !PyList_Check(path)) return;
    for (Py_ssize_t i = 0; i < PyList_Size(path); i++)
        if (!add(&text, &size, PyList_GetItem(path, i))) break;
    gems_cuda_search_path = text; /* kept as long as the process */
}
