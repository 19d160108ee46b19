/* torch.library: the dispatcher calls a builtin with Python objects. For entries that the shim
 * cannot carry. */
#include "python.h"

/* m_self of a builtin: says which entry it is. */
typedef struct entry_object {
    PyObject_HEAD gems_entry *entry;
    PyMethodDef method;
} entry_object;

static PyTypeObject entry_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "flag_gems._C.Entry",
    .tp_basicsize = sizeof(entry_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "An overload of the operator table, as torch.library calls it.",
};

static PyObject *decline(gems_entry *entry, PyObject *const *args, Py_ssize_t count,
                         PyObject *keywords) {
    if (gems_py.strict || entry->own) return gems_set_declined(entry->qualified, gems_reason());
    return gems_call_aten(entry, args, count, keywords);
}

static PyObject *call(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    gems_entry *entry = ((entry_object *)self)->entry;
    if (!gems_gate_open(entry) && !entry->alone)
        return gems_call_aten(entry, args, count, keywords);
    gems_frame frame;
    gems_frame_open(&frame, entry, false);
    int64_t start = __builtin_expect(gems_observing, 0) ? gems_now() : 0;
    gems_match match = gems_arguments(&frame, args, count, keywords);
    gems_status status = GEMS_DECLINE;
    if (match == GEMS_MATCH) {
        status = gems_frame_run(&frame);
    } else {
        if (match == GEMS_MISMATCH) gems_decline("an argument of this kind");
        gems_count_decline(entry);
    }
    if (__builtin_expect(gems_observing, 0)) gems_observe(&frame.call, status, gems_now() - start);
    PyObject *result = NULL;
    if (status == GEMS_OK) result = gems_results(&frame);
    gems_frame_close(&frame);
    if (status == GEMS_DECLINE) return decline(entry, args, count, keywords);
    return status == GEMS_ERROR ? gems_set_error() : result;
}

PyObject *gems_library_function(int index) {
    if (PyType_Ready(&entry_type) < 0) return NULL;
    entry_object *self = PyObject_New(entry_object, &entry_type);
    if (!self) return NULL;
    self->entry = gems_entry_at(index);
    self->method = (PyMethodDef){
        self->entry->qualified, (PyCFunction)(void (*)(void))call, METH_FASTCALL | METH_KEYWORDS,
        "The kernel of flag_gems for this overload, as torch.library calls it."};
    PyObject *function = PyCFunction_NewEx(&self->method, (PyObject *)self, NULL);
    Py_DECREF(self);
    return function;
}
