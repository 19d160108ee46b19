/* ATen's own kernels: what runs when ours declines or its gate is closed. */
#include "python.h"

#include <string.h>

void gems_count_decline(gems_entry *entry) {
    __atomic_fetch_add(&entry->fallbacks, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&entry->reason, gems_reason(), __ATOMIC_RELAXED);
}

/* ---- called with Python objects ---- */

/* The dtype of a number's stand-in: with it a 0-dim tensor promotes beside the other tensor (NULL:
 * there is none) as the wrapped number did. */
static PyObject *stand_in_dtype(PyObject *number, PyObject *other) {
    if (!other) {
        int own = PyBool_Check(number)    ? GEMS_BOOL
                  : PyLong_Check(number)  ? GEMS_I64
                  : PyFloat_Check(number) ? GEMS_F64
                                          : GEMS_C128;
        return Py_NewRef(gems_py.dtypes[own]);
    }
    PyObject *common = PyObject_CallMethod(gems_py.torch, "result_type", "OO", other, number);
    if (!common || (!PyFloat_Check(number) && !PyComplex_Check(number))) return common;
    /* Beside a float tensor with dimensions a double keeps all of the number's digits, and its rank
     * lets the other decide. */
    PyObject *rank = PyObject_CallMethod(other, "dim", NULL),
             *dtype = PyObject_GetAttrString(other, "dtype");
    bool wide = rank && dtype == common && PyLong_AsLong(rank) > 0;
    Py_XDECREF(rank);
    Py_XDECREF(dtype);
    PyErr_Clear();
    if (!wide) return common;
    Py_DECREF(common);
    return Py_NewRef(gems_py.dtypes[PyComplex_Check(number) ? GEMS_C128 : GEMS_F64]);
}

PyObject *gems_stand_in(PyObject *number, PyObject *other) {
    PyObject *dtype = stand_in_dtype(number, other);
    PyObject *make = dtype ? PyObject_GetAttrString(gems_py.torch, "scalar_tensor") : NULL;
    PyObject *args = make ? PyTuple_Pack(1, number) : NULL,
             *keywords = args ? Py_BuildValue("{sO}", "dtype", dtype) : NULL;
    PyObject *tensor = keywords ? PyObject_Call(make, args, keywords) : NULL;
    Py_XDECREF(keywords);
    Py_XDECREF(args);
    Py_XDECREF(make);
    Py_XDECREF(dtype);
    return tensor;
}

PyObject *gems_call_aten(const gems_entry *entry, PyObject *const *args, Py_ssize_t count,
                         PyObject *keywords) {
    PyObject *kernel = gems_py.kernels[entry->index];
    PyObject *stack[GEMS_MAX_ARGS + 1], *made[GEMS_MAX_ARGS];
    Py_ssize_t total = count + (keywords ? PyTuple_GET_SIZE(keywords) : 0);
    int made_count = 0;
    PyObject *result = NULL, *tensor = NULL;
    if (!kernel) { /* ATen has none on this backend, and would raise the same */
        PyErr_Format(PyExc_NotImplementedError,
                     "Could not run 'aten::%s': ATen has no kernel of it for this backend",
                     entry->qualified);
        return NULL;
    }
    if (total > GEMS_MAX_ARGS) {
        PyErr_Format(PyExc_TypeError, "aten::%s() takes fewer arguments than were given",
                     entry->qualified);
        return NULL;
    }
    stack[0] = gems_py.keyset;
    for (Py_ssize_t i = 0; i < total && !tensor; i++)
        if (PyObject_TypeCheck(args[i], gems_py.tensor)) tensor = args[i];
    for (Py_ssize_t i = 0; i < total; i++) {
        PyObject *arg = args[i];
        if (i < count && entry->schema.args[i].type == GEMS_T_TENSOR && PyNumber_Check(arg) &&
            !PyObject_TypeCheck(arg, gems_py.tensor)) {
            if (!(arg = gems_stand_in(arg, tensor))) goto done;
            made[made_count++] = arg;
        }
        stack[i + 1] = arg;
    }
    result = PyObject_Vectorcall(kernel, stack, (size_t)count + 1, keywords);
done:
    while (made_count) Py_DECREF(made[--made_count]);
    return result;
}

/* ---- called with a stack of the stable shim ---- */

static void *pointer(uint64_t word) { return (void *)(uintptr_t)word; }

static PyObject *known(PyObject *object, const char *what) {
    if (object) return Py_NewRef(object);
    PyErr_Format(PyExc_RuntimeError, "flag_gems: ATen's kernel cannot be called with this %s",
                 what);
    return NULL;
}

static PyObject *device_object(uint64_t word) {
    int32_t index = (int32_t)(word & 0xffffffff);
    const char *type = word >> 32 == GEMS_CPU ? "cpu" : "cuda";
    if (index < 0) return PyObject_CallMethod(gems_py.torch, "device", "s", type);
    return PyObject_CallMethod(gems_py.torch, "device", "si", type, (int)index);
}

static PyObject *plain_object(const gems_arg *arg, uint64_t word) {
    int64_t number = (int32_t)word;
    double real;
    switch (arg->type) {
    case GEMS_T_TENSOR: return gems_wrap(pointer(word));
    case GEMS_T_INT: return PyLong_FromLongLong((int64_t)word);
    case GEMS_T_BOOL: return PyBool_FromLong(word & 1);
    case GEMS_T_FLOAT: memcpy(&real, &word, sizeof real); return PyFloat_FromDouble(real);
    case GEMS_T_DTYPE:
        return known(number >= 0 && number < GEMS_DTYPES ? gems_py.dtypes[number] : NULL, "dtype");
    case GEMS_T_MEMORY_FORMAT:
        return known(number >= 0 && number < 4 ? gems_py.memory_formats[number] : NULL,
                     "memory format");
    case GEMS_T_LAYOUT: return known(number == 0 ? gems_py.strided : NULL, "layout");
    case GEMS_T_DEVICE: return device_object(word);
    default: return known(NULL, "argument");
    }
}

static PyObject *optional_object(const gems_arg *arg, uint64_t word, bool optional);

static PyObject *list_object(const gems_arg *arg, void *handle) {
    static const uint8_t elements[] = {[GEMS_T_TENSORS] = GEMS_T_TENSOR,
                                       [GEMS_T_INTS] = GEMS_T_INT,
                                       [GEMS_T_FLOATS] = GEMS_T_FLOAT,
                                       [GEMS_T_BOOLS] = GEMS_T_BOOL};
    gems_arg element = {.type = elements[arg->type]};
    size_t count = 0;
    bool failed = gems_torch.list_size(handle, &count) != 0;
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; i < count; i++) { /* all are taken, also after a failure */
        uint64_t word = 0;
        failed |= gems_torch.list_get(handle, i, &word) != 0;
        PyObject *object = optional_object(&element, word, arg->list_of_optional);
        failed |= !object;
        if (list)
            PyList_SET_ITEM(list, (Py_ssize_t)i, object);
        else
            Py_XDECREF(object);
    }
    gems_torch.list_delete(handle);
    if (failed) Py_CLEAR(list);
    if (failed && !PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "flag_gems: a list cannot be read");
    return list;
}

static PyObject *string_object(void *handle) {
    const char *text = NULL;
    size_t length = 0;
    gems_torch.string_text(handle, &text);
    gems_torch.string_length(handle, &length);
    PyObject *object = PyUnicode_FromStringAndSize(text, (Py_ssize_t)length);
    gems_torch.string_delete(handle);
    return object;
}

/* One argument as an object; the word and all it owns are taken, also on failure. */
static PyObject *optional_object(const gems_arg *arg, uint64_t word, bool optional) {
    if (optional) {
        if (!word) return Py_NewRef(Py_None);
        void *cell = pointer(word);
        word = *(uint64_t *)cell;
        if (gems_torch.delete_optional)
            gems_torch.delete_optional(cell);
        else
            gems_torch.operator_delete(cell);
    }
    switch (arg->type) {
    case GEMS_T_TENSORS:
    case GEMS_T_INTS:
    case GEMS_T_FLOATS:
    case GEMS_T_BOOLS: return list_object(arg, pointer(word));
    case GEMS_T_STRING: return string_object(pointer(word));
    default: return plain_object(arg, word);
    }
}

/* Puts the results of ATen's kernel on the stack; false with an error set. */
static bool give_results(const gems_entry *entry, PyObject *result, uint64_t *stack) {
    int count = entry->nresults;
    const char *results = gems_op_at(entry->op)->results;
    if (count > 1 && (!PyTuple_Check(result) || PyTuple_GET_SIZE(result) != count)) {
        PyErr_Format(PyExc_RuntimeError, "aten::%s: unexpected results of ATen's kernel",
                     entry->qualified);
        return false;
    }
    for (int i = 0; i < count; i++) {
        PyObject *item = count == 1 ? result : PyTuple_GET_ITEM(result, i);
        void *handle = NULL;
        if (results && results[i] >= 'a') {
            stack[i] = (uint64_t)PyLong_AsLongLong(item);
            continue;
        }
        if (item == Py_None && gems_torch.undefined)
            gems_torch.undefined(&handle);
        else
            handle = gems_unwrap(item);
        if (!handle) {
            while (i--)
                if (!results || results[i] < 'a') gems_torch.delete_handle(pointer(stack[i]));
            return false;
        }
        stack[i] = (uint64_t)(uintptr_t)handle;
    }
    return true;
}

/* Names of the arguments that only go by keyword; NULL when there are none, or with an error set.
 */
static PyObject *keyword_names(const gems_entry *entry) {
    const gems_schema *schema = &entry->schema;
    int count = schema->nargs - schema->npositional;
    PyObject *names = count ? PyTuple_New(count) : NULL;
    for (int i = 0; names && i < count; i++) {
        int at = entry->index * GEMS_MAX_ARGS + schema->npositional + i;
        PyTuple_SET_ITEM(names, i, Py_NewRef(gems_py.argument_names[at]));
    }
    return names;
}

static bool run_aten(gems_entry *entry, uint64_t *stack) {
    PyObject *args[GEMS_MAX_ARGS], *result = NULL, *keywords = NULL;
    int count = entry->schema.nargs;
    bool read = true;
    for (int i = 0; i < count; i++) {
        args[i] = optional_object(&entry->schema.args[i], stack[i], entry->schema.args[i].optional);
        read &= args[i] != NULL;
    }
    if (read) keywords = keyword_names(entry);
    if (read && !PyErr_Occurred())
        result = gems_call_aten(entry, args, entry->schema.npositional, keywords);
    Py_XDECREF(keywords);
    bool done = result && give_results(entry, result, stack);
    Py_XDECREF(result);
    for (int i = 0; i < count; i++) Py_XDECREF(args[i]);
    return done;
}

/* Text of the Python error that is set, which is cleared. */
static void error_text(char *text, size_t room) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *string = value ? PyObject_Str(value) : NULL;
    const char *utf8 = string ? PyUnicode_AsUTF8(string) : NULL;
    snprintf(text, room, "%s", utf8 ? utf8 : "an error without a text");
    Py_XDECREF(string);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    PyErr_Clear();
}

/* Throws the Python error that is set as a C++ exception through the callers, which are C built
 * with -fexceptions. With the thread's own interpreter state the error stays set and keeps its
 * type; else it becomes a RuntimeError. */
static void throw_error(bool keeps_state) {
    if (keeps_state && gems_torch.throw_python_error) {
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        PyObject *list = Py_BuildValue("[i]", -1);
        PyErr_Restore(type, value, trace);
        if (list) gems_torch.throw_python_error(list);
    }
    char text[2048];
    error_text(text, sizeof text);
    gems_torch.check(false, "flag_gems", __FILE__, __LINE__, text);
}

static void leave(PyGILState_STATE *state) { PyGILState_Release(*state); }

void gems_fallback_shim(gems_entry *entry, uint64_t *stack, const char *reason) {
    bool keeps_state = PyGILState_GetThisThreadState() != NULL;
    PyGILState_STATE state __attribute__((cleanup(leave), unused)) = PyGILState_Ensure();
    if (reason && gems_py.strict) {
        for (int i = 0; i < entry->schema.nargs; i++)
            gems_shim_release(&entry->schema.args[i], stack[i]);
        gems_set_declined(entry->qualified, reason);
    } else if (run_aten(entry, stack)) {
        return;
    }
    throw_error(keeps_state);
}

void gems_raise_shim(void) {
    bool keeps_state = PyGILState_GetThisThreadState() != NULL;
    PyGILState_STATE state __attribute__((cleanup(leave), unused)) = PyGILState_Ensure();
    gems_set_error();
    throw_error(keeps_state);
}
