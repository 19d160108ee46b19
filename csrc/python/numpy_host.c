/* NumPy arrays in the explicit functions: read and made through NumPy's C API, on the CPU, with or
 * without torch. */
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#define NPY_TARGET_VERSION    NPY_1_22_API_VERSION
#include "python.h"

#include <numpy/arrayobject.h>

static bool attached;
static PyObject *random_integers; /* numpy.random.randint */

bool gems_numpy_attach(void) {
    if (attached) return true;
    if (_import_array() < 0) return false;
    PyObject *random = PyImport_ImportModule("numpy.random");
    random_integers = random ? PyObject_GetAttrString(random, "randint") : NULL;
    Py_XDECREF(random);
    PyErr_Clear();
    attached = true;
    return true;
}

bool gems_is_array(PyObject *object) { return attached && PyArray_Check(object); }
bool gems_is_numpy_number(PyObject *object) {
    return attached && PyArray_CheckScalar(object) && !PyArray_Check(object);
}
bool gems_array_writable(PyObject *array) { return PyArray_ISWRITEABLE((PyArrayObject *)array); }

/* ---- dtypes ---- */

static const struct {
    int numpy;
    uint8_t dtype;
} types[] = {
    {NPY_BOOL, GEMS_BOOL},     {NPY_UINT8, GEMS_U8},        {NPY_INT8, GEMS_I8},
    {NPY_INT16, GEMS_I16},     {NPY_UINT16, GEMS_U16},      {NPY_INT32, GEMS_I32},
    {NPY_UINT32, GEMS_U32},    {NPY_INT64, GEMS_I64},       {NPY_UINT64, GEMS_U64},
    {NPY_FLOAT16, GEMS_F16},   {NPY_FLOAT32, GEMS_F32},     {NPY_FLOAT64, GEMS_F64},
    {NPY_COMPLEX64, GEMS_C64}, {NPY_COMPLEX128, GEMS_C128}, {NPY_LONGLONG, GEMS_I64},
    {NPY_ULONGLONG, GEMS_U64},
};

static int from_numpy(int type) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].numpy == type) return types[i].dtype;
    return GEMS_NO_DTYPE;
}

/* -1: NumPy has none (bfloat16, fp8). */
static int to_numpy(int dtype) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].dtype == dtype) return types[i].numpy;
    return -1;
}

int gems_numpy_dtype(PyObject *object) {
    PyArray_Descr *descr = NULL;
    if (!attached || PyLong_Check(object) ||
        PyArray_DescrConverter(object, &descr) != NPY_SUCCEED) {
        PyErr_Clear();
        return GEMS_NO_DTYPE;
    }
    int dtype = from_numpy(descr->type_num);
    Py_DECREF(descr);
    return dtype;
}

/* ---- arrays in ---- */

static gems_match pass(const char *reason) {
    PyErr_Clear();
    (gems_decline)(reason);
    return GEMS_PASS;
}

/* Fills *t; strides counts elements and outlives the call. */
static void fill(PyArrayObject *array, int64_t *strides, gems_tensor *t) {
    int ndim = PyArray_NDIM(array);
    int64_t size = (int64_t)PyArray_ITEMSIZE(array);
    for (int i = 0; i < ndim; i++) strides[i] = (int64_t)PyArray_STRIDE(array, i) / size;
    t->data = PyArray_DATA(array);
    t->sizes = (const int64_t *)PyArray_DIMS(array);
    t->strides = strides;
    t->handle = array;
    t->ndim = ndim;
    t->dtype = (uint8_t)from_numpy(PyArray_TYPE(array));
    t->device_type = GEMS_CPU;
    t->device_index = 0;
    t->numel = (int64_t)PyArray_SIZE(array);
}

gems_match gems_read_array(gems_frame *frame, PyObject *object, gems_tensor *t) {
    PyArrayObject *array = (PyArrayObject *)object;
    int ndim = PyArray_NDIM(array);
    frame->has_numpy = true;
    if (from_numpy(PyArray_TYPE(array)) == GEMS_NO_DTYPE)
        return pass("an array of a dtype that torch does not have");
    if (!PyArray_ISNOTSWAPPED(array) || !PyArray_ISALIGNED(array))
        return pass("an array that is swapped or not aligned");
    if (ndim > GEMS_MAX_DIMS) return pass("more dimensions than kernels take");
    for (int i = 0; i < ndim; i++) {
        npy_intp stride = PyArray_STRIDE(array, i);
        if (stride % PyArray_ITEMSIZE(array))
            return pass("an array whose strides are no multiple of its elements");
        if (stride < 0) return pass("an array with negative strides");
    }
    int64_t *strides = gems_frame_take(frame, ((size_t)ndim + 1) * sizeof *strides);
    if (!strides) return pass("no memory");
    fill(array, strides, t);
    return GEMS_MATCH;
}

/* ---- arrays out ---- */

/* A new array whose dimensions lie in memory in the order of the strides, which are dense. */
static PyObject *make(int ndim, const int64_t *sizes, const int64_t *strides, int type) {
    int order[GEMS_MAX_DIMS];
    npy_intp ordered[GEMS_MAX_DIMS], back[GEMS_MAX_DIMS];
    bool sorted = true;
    for (int i = 0; i < ndim; i++) { /* outermost first; equal strides keep their order */
        int at = i;
        while (at && strides && strides[order[at - 1]] < strides[i]) {
            order[at] = order[at - 1];
            at--;
        }
        sorted &= at == i;
        order[at] = i;
    }
    for (int i = 0; i < ndim; i++) {
        ordered[i] = (npy_intp)sizes[order[i]];
        back[order[i]] = i;
    }
    PyObject *array = PyArray_SimpleNew(ndim, ordered, type);
    if (!array || sorted) return array;
    PyArray_Dims permutation = {back, ndim};
    PyObject *turned = PyArray_Transpose((PyArrayObject *)array, &permutation);
    Py_DECREF(array);
    return turned;
}

static gems_status empty(gems_call *call, int slot, int ndim, const int64_t *sizes,
                         const int64_t *strides, int dtype, gems_tensor *t) {
    gems_frame *frame = call->host_data;
    int type = to_numpy(dtype);
    if (type < 0) return gems_decline("NumPy has no such dtype");
    int64_t *own = gems_frame_take(frame, ((size_t)ndim + 1) * sizeof *own);
    PyObject *array = own ? make(ndim, sizes, strides, type) : NULL;
    if (!array) {
        PyErr_Clear();
        return gems_fail(GEMS_MEMORY_ERROR, "NumPy could not allocate the output");
    }
    *(slot < 0 ? &frame->numpy_scratch[-1 - slot] : &frame->numpy_out[slot]) = array;
    fill((PyArrayObject *)array, own, t);
    return GEMS_OK;
}

static gems_status resize(gems_call *call, gems_tensor *t, int ndim, const int64_t *sizes) {
    (void)call;
    (void)t;
    (void)ndim;
    (void)sizes;
    return gems_decline("an array is not resized");
}

static void *stream(const gems_call *call) {
    (void)call;
    return NULL;
}

/* One draw from NumPy's global generator, so that np.random.seed is what seeds kernels. */
static gems_status philox(gems_call *call, void *generator, uint64_t increment, uint64_t *seed,
                          uint64_t *offset) {
    (void)call;
    (void)increment;
    if (generator || !random_integers) return gems_decline("no generator of random numbers");
    PyObject *drawn = PyObject_CallFunction(random_integers, "iL", 0, INT64_MAX);
    if (drawn) *seed = PyLong_AsUnsignedLongLongMask(drawn);
    *offset = 0;
    gems_status status = drawn ? GEMS_OK : gems_decline("NumPy gave no random number");
    Py_XDECREF(drawn);
    PyErr_Clear();
    return status;
}

const gems_host gems_host_numpy = {
    .name = "numpy", .empty = empty, .resize = resize, .stream = stream, .philox = philox};
