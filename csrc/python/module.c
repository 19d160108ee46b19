/* The extension module flag_gems._C. Importing it expands the table and does nothing else. */
#include "python.h"
#include "search.h"

bool gems_name_arguments(int entry) {
    const gems_schema *schema = &gems_entry_at(entry)->schema;
    for (int i = 0; i < schema->nargs; i++) {
        PyObject *name = PyUnicode_InternFromString(schema->args[i].name);
        if (!name) return false;
        gems_py.argument_names[(size_t)entry * GEMS_MAX_ARGS + (size_t)i] = name;
    }
    return true;
}

static bool name_arguments(void) {
    int count = gems_entry_total(), room = gems_entry_room();
    gems_py.argument_names =
        PyMem_Calloc((size_t)room * GEMS_MAX_ARGS, sizeof *gems_py.argument_names);
    gems_py.kernels = PyMem_Calloc((size_t)room, sizeof *gems_py.kernels);
    if (!gems_py.argument_names || !gems_py.kernels) return PyErr_NoMemory();
    for (int e = 0; e < count; e++)
        if (!gems_name_arguments(e)) return false;
    return true;
}

static PyObject *attach_numpy(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    if (!gems_numpy_attach()) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"attach_numpy", attach_numpy, METH_NOARGS,
     "attach_numpy(): lets functions take NumPy arrays; ImportError without NumPy."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                        "flag_gems._C",
                                        "The engine of flag_gems.",
                                        -1,
                                        methods,
                                        NULL,
                                        NULL,
                                        NULL,
                                        NULL};

PyMODINIT_FUNC PyInit__C(void);
PyMODINIT_FUNC PyInit__C(void) {
    if (gems_table_open() != GEMS_OK) return gems_set_error();
    if (!name_arguments()) return NULL;
    gems_attach_open();
    gems_search_open();
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    if (PyModule_AddFunctions(module, gems_attach_methods) ||
        PyModule_AddFunctions(module, gems_table_methods) ||
        PyModule_AddFunctions(module, gems_inspect_methods) ||
        PyModule_AddFunctions(module, gems_observe_methods) ||
        PyModule_AddFunctions(module, gems_tuning_methods))
        Py_CLEAR(module);
    return module;
}
