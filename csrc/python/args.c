/* Arguments of a vectorcall, read by an entry's schema. */
#include <string.h>

#include "python.h"

static gems_match pass(const char *reason) {
    if (PyErr_Occurred()) PyErr_Clear();
    (gems_decline)(reason);
    return GEMS_PASS;
}

/* ---- numbers ---- */

static gems_match read_long(PyObject *object, gems_value *value) {
    int overflow;
    value->kind = GEMS_INT;
    value->i = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow ? pass("an integer beyond 64 bits") : GEMS_MATCH;
}

/* Reads a Python or NumPy number; MISMATCH when the object is none. */
static gems_match read_number(PyObject *object, gems_value *value) {
    if (PyBool_Check(object)) {
        value->kind = GEMS_BOOLEAN;
        value->i = object == Py_True;
        return GEMS_MATCH;
    }
    if (PyLong_Check(object)) return read_long(object, value);
    if (PyFloat_Check(object)) {
        value->kind = GEMS_FLOAT;
        value->f = PyFloat_AS_DOUBLE(object);
        return GEMS_MATCH;
    }
    if (PyComplex_Check(object)) {
        Py_complex c = PyComplex_AsCComplex(object);
        value->kind = GEMS_COMPLEX;
        value->c[0] = c.real;
        value->c[1] = c.imag;
        return GEMS_MATCH;
    }
    if (!gems_is_numpy_number(object)) return GEMS_MISMATCH;
    /* np.bool_, np.int32, np.float16 ...: item() gives Python's number. */
    PyObject *item = PyObject_CallMethod(object, "item", NULL);
    gems_match match =
        item && !gems_is_numpy_number(item) ? read_number(item, value) : pass("a NumPy number");
    Py_XDECREF(item);
    return match;
}

/* A Scalar may come as a tensor of one element on the CPU. */
static gems_match read_scalar(gems_frame *frame, PyObject *object, gems_value *value) {
    gems_match match = read_number(object, value);
    if (match != GEMS_MISMATCH || !gems_py.tensor || !gems_is_tensor(object)) return match;
    gems_tensor t;
    if (gems_read_tensor(frame, object, &t) != GEMS_MATCH) return GEMS_PASS;
    if (t.ndim || t.device_type != GEMS_CPU) return pass("a tensor stands for a number");
    return gems_load_number(&t, value) ? GEMS_MATCH : pass("a tensor stands for a number");
}

static gems_match read_int(PyObject *object, gems_value *value) {
    if (PyLong_Check(object))
        return PyBool_Check(object) ? GEMS_MISMATCH : read_long(object, value);
    if (!gems_is_numpy_number(object) || !PyIndex_Check(object)) return GEMS_MISMATCH;
    PyObject *index = PyNumber_Index(object);
    gems_match match = index ? read_long(index, value) : pass("an integer");
    Py_XDECREF(index);
    return match;
}

static gems_match read_float(PyObject *object, gems_value *value) {
    if (PyFloat_Check(object)) {
        value->kind = GEMS_FLOAT;
        value->f = PyFloat_AS_DOUBLE(object);
        return GEMS_MATCH;
    }
    gems_match match = read_number(object, value);
    if (match != GEMS_MATCH) return match;
    if (value->kind == GEMS_COMPLEX) return GEMS_MISMATCH;
    if (value->kind != GEMS_FLOAT) {
        value->kind = GEMS_FLOAT;
        value->f = (double)value->i;
    }
    return GEMS_MATCH;
}

static gems_match read_bool(PyObject *object, gems_value *value) {
    gems_match match = object == Py_True || object == Py_False || gems_is_numpy_number(object)
                           ? read_number(object, value)
                           : GEMS_MISMATCH;
    return match == GEMS_MATCH && value->kind != GEMS_BOOLEAN ? GEMS_MISMATCH : match;
}

/* ---- lists ---- */

static bool is_sequence(PyObject *object) { return PyTuple_Check(object) || PyList_Check(object); }

/* int[] or bool[]; where the schema fixes a length, one value stands for all. */
static gems_match read_list(gems_frame *frame, const gems_arg *arg, PyObject *object,
                            gems_value *value) {
    gems_match (*read)(PyObject *, gems_value *) = arg->type == GEMS_T_BOOLS ? read_bool : read_int;
    gems_value element;
    Py_ssize_t count = is_sequence(object) ? PySequence_Fast_GET_SIZE(object) : -1;
    int64_t *values;
    if (count > GEMS_MAX_LIST) return pass("a list is too long");
    if (count < 0) {
        gems_match match = read(object, &element);
        if (match != GEMS_MATCH) return match;
        count = arg->list_size > 0 ? arg->list_size : 1;
        if (!(values = gems_frame_take(frame, (size_t)count * sizeof *values)))
            return pass("no memory");
        for (Py_ssize_t i = 0; i < count; i++) values[i] = element.i;
    } else {
        if (!(values = gems_frame_take(frame, ((size_t)count + 1) * sizeof *values)))
            return pass("no memory");
        for (Py_ssize_t i = 0; i < count; i++) {
            gems_match match = read(PySequence_Fast_GET_ITEM(object, i), &element);
            if (match != GEMS_MATCH) return match;
            values[i] = element.i;
        }
    }
    value->kind = GEMS_INTS;
    value->ints.v = values;
    value->ints.n = (int32_t)count;
    return GEMS_MATCH;
}

/* ---- tensors ---- */

/* A tensor or array; anything that torch itself must look at passes. */
static gems_match read_array(gems_frame *frame, PyObject *object, gems_tensor *t) {
    if (gems_py.tensor) {
        if (gems_is_tensor(object)) return gems_read_tensor(frame, object, t);
        if (PyObject_TypeCheck(object, gems_py.tensor)) {
            /* The dispatcher has already asked a subclass; a direct call has not. */
            if (frame->direct) return pass("a subclass of torch.Tensor");
            return gems_read_tensor(frame, object, t);
        }
    }
    return gems_is_array(object) ? gems_read_array(frame, object, t) : GEMS_MISMATCH;
}

static gems_match read_tensors(gems_frame *frame, const gems_arg *arg, PyObject *object,
                               gems_value *value) {
    if (!is_sequence(object)) return GEMS_MISMATCH;
    if (PyList_Check(
            object)) { /* another thread may change it while the call runs without the GIL */
        if (frame->held) return pass("two lists of tensors");
        if (!(object = frame->held = PyList_AsTuple(object))) return pass("no memory");
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(object);
    gems_tensor *tensors = gems_frame_take(frame, ((size_t)count + 1) * sizeof *tensors);
    if (!tensors) return pass("no memory");
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(object, i);
        tensors[i] = (gems_tensor){0};
        if (item == Py_None && arg->list_of_optional) continue;
        gems_match match = read_array(frame, item, &tensors[i]);
        if (match != GEMS_MATCH) return match;
    }
    value->kind = GEMS_TENSORS;
    value->tensors.v = tensors;
    value->tensors.n = (int32_t)count;
    return GEMS_MATCH;
}

/* A number where a tensor is expected takes part in promotion as torch's wrapped numbers do; only
 * elementwise kernels know them. */
static gems_match read_wrapped_number(gems_frame *frame, PyObject *object, gems_value *value) {
    gems_match match = read_number(object, value);
    if (match != GEMS_MATCH) return match;
    if (gems_op_at(frame->call.entry->op)->family != &gems_family_elementwise)
        return pass("a number stands for a tensor");
    frame->has_number = true;
    return GEMS_MATCH;
}

/* ---- torch's own objects ---- */

static gems_match read_dtype(PyObject *object, gems_value *value) {
    int number = GEMS_NO_DTYPE;
    if (gems_py.dtype_type && Py_TYPE(object) == gems_py.dtype_type) {
        for (int i = 0; i < GEMS_DTYPES && number == GEMS_NO_DTYPE; i++)
            if (gems_py.dtypes[i] == object) number = i;
        if (number == GEMS_NO_DTYPE) return pass("a dtype without a kernel");
    } else if (PyLong_CheckExact(object)) {
        number = (int)PyLong_AsLong(object); /* as the dispatcher hands it to torch.library */
        if (number < 0 || number >= GEMS_DTYPES) return pass("a dtype without a kernel");
    } else {
        number = gems_numpy_dtype(object);
        if (number == GEMS_NO_DTYPE) return GEMS_MISMATCH;
    }
    value->kind = GEMS_DTYPE_ARG;
    value->i = number;
    return GEMS_MATCH;
}

static gems_match read_memory_format(PyObject *object, gems_value *value) {
    value->kind = GEMS_OTHER;
    for (int i = 0; i < 4; i++) {
        if (gems_py.memory_formats[i] != object) continue;
        value->i = i;
        return GEMS_MATCH;
    }
    return pass("a memory format of this kind");
}

static gems_match read_layout(PyObject *object, gems_value *value) {
    value->kind = GEMS_OTHER;
    value->i = 0;
    return object == gems_py.strided ? GEMS_MATCH : pass("another layout than strided");
}

/* The device of a call without tensors; with tensors the engine takes theirs, and another one
 * passes. */
static gems_match read_device(gems_frame *frame, PyObject *object, gems_value *value) {
    if (!gems_py.device_type || Py_TYPE(object) != gems_py.device_type)
        return pass("a device of this kind");
    PyObject *type = PyObject_GetAttrString(object, "type"),
             *index = PyObject_GetAttrString(object, "index");
    const char *name = type ? PyUnicode_AsUTF8(type) : NULL;
    gems_match match = GEMS_MATCH;
    if (name && !strcmp(name, "cuda") && index == Py_None) { /* the current one */
        PyObject *cuda = PyObject_GetAttrString(gems_py.torch, "cuda");
        Py_DECREF(index);
        index = cuda ? PyObject_CallMethod(cuda, "current_device", NULL) : NULL;
        Py_XDECREF(cuda);
    }
    if (name && !strcmp(name, "cpu")) {
        frame->call.device_type = GEMS_CPU;
    } else if (name && !strcmp(name, "cuda") && index && PyLong_Check(index)) {
        frame->call.device_type = GEMS_CUDA;
        frame->call.device_index = (int16_t)PyLong_AsLong(index);
    } else {
        match = pass("a device of this kind");
    }
    value->kind = GEMS_OTHER;
    value->i = (int64_t)frame->call.device_type << 32 | (uint16_t)frame->call.device_index;
    Py_XDECREF(type);
    Py_XDECREF(index);
    return match;
}

/* ---- one argument ---- */

static gems_match read_argument(gems_frame *frame, const gems_arg *arg, PyObject *object,
                                gems_value *value) {
    if (object == Py_None) {
        value->kind = GEMS_NONE;
        return arg->optional || arg->undefined ? GEMS_MATCH : GEMS_MISMATCH;
    }
    switch (arg->type) {
    case GEMS_T_TENSOR: {
        gems_match match = read_array(frame, object, &value->t);
        value->kind = GEMS_TENSOR;
        if (match == GEMS_MATCH && arg->written) return gems_write_tensor(object, &value->t);
        return match == GEMS_MISMATCH && !arg->written ? read_wrapped_number(frame, object, value)
                                                       : match;
    }
    case GEMS_T_TENSORS: return read_tensors(frame, arg, object, value);
    case GEMS_T_SCALAR: return read_scalar(frame, object, value);
    case GEMS_T_INT: return read_int(object, value);
    case GEMS_T_FLOAT: return read_float(object, value);
    case GEMS_T_BOOL: return read_bool(object, value);
    case GEMS_T_INTS:
    case GEMS_T_BOOLS: return read_list(frame, arg, object, value);
    case GEMS_T_DTYPE: return read_dtype(object, value);
    case GEMS_T_MEMORY_FORMAT: return read_memory_format(object, value);
    case GEMS_T_LAYOUT: return read_layout(object, value);
    case GEMS_T_DEVICE: return read_device(frame, object, value);
    case GEMS_T_STRING:
        if (!PyUnicode_Check(object)) return GEMS_MISMATCH;
        value->kind = GEMS_STRING;
        value->s = PyUnicode_AsUTF8(object);
        return value->s ? GEMS_MATCH : pass("a string that is no text");
    case GEMS_T_GENERATOR:
        value->kind = GEMS_GENERATOR;
        value->generator = object;
        return GEMS_MATCH;
    default: return pass("an argument of this kind");
    }
}

/* ---- all arguments ---- */

static int find_keyword(const gems_entry *entry, PyObject *keyword) {
    PyObject **names = gems_py.argument_names + (size_t)entry->index * GEMS_MAX_ARGS;
    for (int i = 0; i < entry->schema.nargs; i++)
        if (names[i] == keyword) return i;
    for (int i = 0; i < entry->schema.nargs; i++)
        if (PyUnicode_Compare(names[i], keyword) == 0) return i;
    return -1;
}

gems_match gems_arguments(gems_frame *frame, PyObject *const *args, Py_ssize_t count,
                          PyObject *keywords) {
    const gems_entry *entry = frame->call.entry;
    const gems_schema *schema = &entry->schema;
    uint32_t given = (1u << count) - 1;
    if (count > schema->npositional) return GEMS_MISMATCH;
    for (int i = 0; i < count; i++) {
        frame->objects[i] = args[i];
        const gems_arg *arg = &schema->args[i];
        gems_value *value = &frame->call.args[i];
        gems_match match;
        if (arg->type == GEMS_T_TENSOR && gems_is_tensor(args[i]) &&
            !arg->written) { /* the usual case, without detours */
            value->kind = GEMS_TENSOR;
            match = gems_read_tensor(frame, args[i], &value->t);
        } else {
            match = read_argument(frame, arg, args[i], value);
        }
        if (match != GEMS_MATCH) return match;
    }
    Py_ssize_t named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    for (Py_ssize_t k = 0; k < named; k++) {
        int i = find_keyword(entry, PyTuple_GET_ITEM(keywords, k));
        if (i < 0 || given >> i & 1) return GEMS_MISMATCH;
        given |= 1u << i;
        frame->objects[i] = args[count + k];
        gems_match match =
            read_argument(frame, &schema->args[i], args[count + k], &frame->call.args[i]);
        if (match != GEMS_MATCH) return match;
    }
    for (int i = 0; i < schema->nargs; i++) {
        if (given >> i & 1) continue;
        if (!schema->args[i].has_default) return GEMS_MISMATCH;
        frame->objects[i] = NULL;
        frame->call.args[i] = schema->args[i].fallback;
    }
    if (frame->has_torch && frame->has_numpy) return pass("tensors of torch and arrays of NumPy");
    if (frame->has_number && !frame->has_torch && !frame->has_numpy) return pass("numbers alone");
    return GEMS_MATCH;
}
