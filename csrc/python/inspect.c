/* The compiler, its cache and the backends, for the command line, tests and benchmarks. */
#include <stdlib.h>
#include <string.h>

#include "../backend/null.h"
#include "python.h"

static const gems_backend *const backends[] = {&gems_backend_cpu, &gems_backend_cuda,
                                               &gems_backend_null};

static const gems_backend *find_backend(const char *name) {
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (!strcmp(backends[i]->name, name)) return backends[i];
    PyErr_Format(PyExc_ValueError, "no backend '%s': cpu, cuda, null", name);
    return NULL;
}

/* A row by its identifier, its schema's name or its index; -1 with an error set. */
static int find_row(PyObject *row) {
    if (PyLong_Check(row)) {
        long index = PyLong_AsLong(row);
        if (index >= 0 && index < gems_op_count()) return (int)index;
        PyErr_SetString(PyExc_IndexError, "no such row");
        return -1;
    }
    const char *name = PyUnicode_AsUTF8(row);
    if (!name) return -1;
    for (int i = 0; i < gems_op_count(); i++)
        if (!strcmp(gems_op_id(i), name)) return i;
    int entry = gems_entry_find(name);
    if (entry >= 0) return gems_entry_at(entry)->op;
    PyErr_Format(PyExc_ValueError, "no row '%s'", name);
    return -1;
}

static bool find_dtype(const char *name, int *dtype) {
    *dtype = gems_dtype_parse(name);
    if (*dtype == GEMS_NO_DTYPE) PyErr_Format(PyExc_ValueError, "no dtype '%s'", name);
    return *dtype != GEMS_NO_DTYPE;
}

/* What heuristics may ask of a GPU that is not here. */
static void imagine_gpu(const char *arch, gems_device_info *info) {
    int number = atoi(arch + strcspn(arch, "0123456789"));
    *info = (gems_device_info){
        .arch = number,
        .processors = number >= 100  ? 148
                      : number >= 90 ? 132
                                     : 108,
        .warp = 32,
        .max_threads = 1024,
        .vector_bytes = 16,
        .shared_bytes = number == 80                                    ? 163 << 10
                        : number >= 120 || (number > 80 && number < 90) ? 99 << 10
                                                                        : 227 << 10,
        .l2_bytes = 40 << 20,
        .hopper = number == 90,
    };
}

static gems_status information(const gems_backend *backend, const char *arch,
                               gems_device_info *info) {
    if (!strcmp(backend->name, "cuda") && arch) {
        imagine_gpu(arch, info);
        return GEMS_OK;
    }
    GEMS_TRY(backend->open());
    return backend->device_info(0, info);
}

/* The i-th key that warmup compiles of a row and dtype. */
static bool warm_key(int row, int dtype, int i, const gems_device_info *info, gems_key *key) {
    const gems_op *op = gems_op_at(row);
    memset(key, 0, sizeof *key);
    key->op = (uint16_t)row;
    return op->family->warm && op->family->warm(op, dtype, i, info, key);
}

/* "float32 float32": dtypes that a key names, as far as they are known. */
static void key_dtypes(const gems_key *key, char *text, size_t room) {
    size_t used = 0;
    *text = 0;
    for (int i = 0; i < 8 && key->dtype[i]; i++) {
        const char *name = gems_dtype_name(key->dtype[i]);
        if (!name || used >= room) break;
        used += (size_t)snprintf(text + used, room - used, "%s%s", used ? " " : "", name);
    }
}

/* What warmup reports of one program; with status, not GEMS_OK, also why it failed. */
static PyObject *report_dict(int row, const char *dtype, const char *arch, const gems_key *key,
                             const gems_report *report, bool cached, gems_status status) {
    char dtypes[128];
    gems_text text = {NULL, 0, 0, false};
    gems_program program = {0};
    PyObject *error = Py_None;
    Py_INCREF(error);
    if (status != GEMS_OK) {
        const char *why = status == GEMS_DECLINE ? gems_reason() : gems_error_text();
        Py_SETREF(error, PyUnicode_DecodeUTF8(why, (Py_ssize_t)strlen(why), "replace"));
        if (!error) return NULL;
    }
    const char *name =
        gems_plan_text(key, &text, &program) == GEMS_OK ? program.name : gems_op_id(row);
    key_dtypes(key, dtypes, sizeof dtypes);
    PyObject *each = Py_None;
    Py_INCREF(each);
    if (program.elements > 0 && report->instructions > 0)
        Py_SETREF(each, PyFloat_FromDouble((double)report->instructions / program.elements));
    PyObject *dict = Py_BuildValue(
        "{ss,ss,ss,ss,si,si,si,si,sN,sd,sO,sN}", "op", gems_op_id(row), "program", name, "dtypes",
        *dtypes ? dtypes : dtype, "arch", arch, "registers", report->registers, "spill_bytes",
        report->spill_bytes, "shared_bytes", report->shared_bytes, "instructions",
        report->instructions, "instructions_per_element", each, "milliseconds",
        report->milliseconds, "cached", cached ? Py_True : Py_False, "error", error);
    gems_text_free(&text);
    return dict;
}

/* warm(backend, arch, row, dtype) -> list of reports. arch None: that of the device. A program that
 * fails has its report too, and stops no other. */
static PyObject *warm(PyObject *self, PyObject *args) {
    const char *backend_name, *arch, *dtype_name;
    PyObject *row_object;
    int dtype;
    (void)self;
    if (!PyArg_ParseTuple(args, "szOs", &backend_name, &arch, &row_object, &dtype_name))
        return NULL;
    const gems_backend *backend = find_backend(backend_name);
    int row = backend ? find_row(row_object) : -1;
    if (row < 0 || !find_dtype(dtype_name, &dtype)) return NULL;
    if (arch && strcmp(backend->name, "cuda")) arch = NULL;
    gems_device_info info;
    gems_identity identity;
    if (backend->open() != GEMS_OK || information(backend, arch, &info) != GEMS_OK ||
        backend->identity(0, arch, &identity) != GEMS_OK)
        return gems_set_error();
    PyObject *list = PyList_New(0);
    gems_key key;
    for (int i = 0; list && warm_key(row, dtype, i, &info, &key); i++) {
        gems_report report = {-1, -1, -1, -1, 0};
        bool cached = false;
        PyThreadState *unlocked = PyEval_SaveThread();
        gems_status status = gems_plan_warm(backend, arch, &key, &report, &cached);
        PyEval_RestoreThread(unlocked);
        PyObject *dict = report_dict(row, dtype_name, identity.arch, &key, &report, cached, status);
        if (!dict || PyList_Append(list, dict)) Py_CLEAR(list);
        Py_XDECREF(dict);
    }
    return list;
}

/* program_text(row, dtype, i, arch=None, backend="cpu"): the text of the i-th program of warmup;
 * None: no more. */
static PyObject *program_text(PyObject *self, PyObject *args) {
    const char *dtype_name, *arch = "sm_90a", *backend_name = "cuda";
    PyObject *row_object;
    int dtype, i;
    (void)self;
    if (!PyArg_ParseTuple(args, "Osi|ss", &row_object, &dtype_name, &i, &arch, &backend_name))
        return NULL;
    const gems_backend *backend = find_backend(backend_name);
    int row = backend ? find_row(row_object) : -1;
    gems_device_info info;
    gems_key key;
    if (row < 0 || !find_dtype(dtype_name, &dtype)) return NULL;
    if (information(backend, arch, &info) != GEMS_OK) return gems_set_error();
    if (!warm_key(row, dtype, i, &info, &key)) Py_RETURN_NONE;
    gems_text text = {NULL, 0, 0, false};
    gems_program program = {0};
    gems_status status = gems_plan_text(&key, &text, &program);
    PyObject *result = NULL;
    if (status == GEMS_OK) result = PyUnicode_FromStringAndSize(text.data, (Py_ssize_t)text.size);
    gems_text_free(&text);
    if (status == GEMS_DECLINE) gems_fail(GEMS_RUNTIME_ERROR, "%s", gems_reason());
    return status == GEMS_OK ? result : gems_set_error();
}

extern const gems_decline_place __start_gems_declines[] __attribute__((visibility("hidden")));
extern const gems_decline_place __stop_gems_declines[] __attribute__((visibility("hidden")));

/* declines() -> [(file, reason)]: why calls are left to ATen, as the source has it. */
static PyObject *declines(PyObject *self, PyObject *args) {
    (void)self, (void)args;
    PyObject *list = PyList_New(0);
    for (const gems_decline_place *at = __start_gems_declines; list && at < __stop_gems_declines;
         at++) {
        PyObject *pair = Py_BuildValue("(ss)", at->file, at->reason);
        if (!pair || PyList_Append(list, pair)) Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list;
}

/* ---- the disk cache ---- */

static PyObject *cache_directory(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return Py_BuildValue("z", gems_cache_directory());
}

static PyObject *cache_measure(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    gems_cache_info info = gems_cache_measure();
    return Py_BuildValue("(LL)", (long long)info.entries, (long long)info.bytes);
}

static PyObject *cache_clear(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyLong_FromLongLong(gems_cache_clear());
}

static PyObject *cache_prune(PyObject *self, PyObject *keep) {
    (void)self;
    long long bytes = PyLong_AsLongLong(keep);
    if (bytes < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "bytes to keep must not be negative");
        return NULL;
    }
    return PyLong_FromLongLong(gems_cache_prune(bytes));
}

/* ---- counters ---- */

static PyObject *jit_stats(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    gems_jit_stats s = gems_jit_statistics();
    return Py_BuildValue("{sK,sK,sK,sK,sd}", "compiled", (unsigned long long)s.compiled,
                         "disk_hits", (unsigned long long)s.disk_hits, "loaded",
                         (unsigned long long)s.loaded, "failed", (unsigned long long)s.failed,
                         "compile_ms", s.compile_ms);
}

static PyObject *plan_count(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyLong_FromUnsignedLongLong(gems_jit_statistics().loaded);
}

static PyObject *last_launch(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    gems_null_record r = gems_null_last();
    if (!r.name) Py_RETURN_NONE;
    return Py_BuildValue("{sK,ss,si,s(III),s(III),sI,sK}", "launches",
                         (unsigned long long)r.launches, "name", r.name, "entry", r.entry, "grid",
                         r.grid[0], r.grid[1], r.grid[2], "block", r.block[0], r.block[1],
                         r.block[2], "shared", r.shared, "stream",
                         (unsigned long long)(uintptr_t)r.stream);
}

/* One dict a backend: name, device_type, usable, text; opens each. */
static PyObject *list_backends(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < sizeof backends / sizeof *backends; i++) {
        char text[4096] = "";
        gems_status status = backends[i]->open();
        backends[i]->describe(text, sizeof text);
        PyObject *dict = Py_BuildValue("{ss,si,sO,ss,sz}", "name", backends[i]->name, "device_type",
                                       backends[i]->device_type, "usable",
                                       status == GEMS_OK ? Py_True : Py_False, "text", text,
                                       "error", status == GEMS_OK ? NULL : gems_error_text());
        if (!dict || PyList_Append(list, dict)) Py_CLEAR(list);
        Py_XDECREF(dict);
    }
    return list;
}

/* philox(device, stream, generator, increment): what a kernel on a GPU's stream would get, as
 * (seed, offset); the reason, a text, when the call would decline. */
static PyObject *take_philox(PyObject *self, PyObject *args) {
    int device;
    unsigned long long stream, increment;
    PyObject *generator;
    uint64_t seed, offset;
    (void)self;
    if (!PyArg_ParseTuple(args, "iKOK", &device, &stream, &generator, &increment)) return NULL;
    gems_call call = {.device_type = GEMS_CUDA, .device_index = (int16_t)device};
    call.device = gems_device_get(GEMS_CUDA, device);
    call.stream = (void *)(uintptr_t)stream;
    if (!call.device) return PyUnicode_FromString(gems_reason());
    gems_status status = gems_philox(&call, generator, increment, &seed, &offset);
    if (status == GEMS_ERROR) return gems_set_error();
    if (status == GEMS_DECLINE) return PyUnicode_FromString(gems_reason());
    return Py_BuildValue("KK", (unsigned long long)seed, (unsigned long long)offset);
}

PyMethodDef gems_inspect_methods[] = {
    {"warm", warm, METH_VARARGS,
     "warm(backend, arch, row, dtype): compiles a row's main programs; a report dict each."},
    {"declines", declines, METH_NOARGS, "Why calls are left to ATen: (file, reason)."},
    {"program_text", program_text, METH_VARARGS,
     "program_text(row, dtype, i, arch='sm_90a', backend='cuda'): text or None."},
    {"cache_directory", cache_directory, METH_NOARGS,
     "cache_directory(): the disk cache's directory, or None."},
    {"cache_info", cache_measure, METH_NOARGS, "cache_info(): (entries, bytes) of the disk cache."},
    {"cache_measure", cache_measure, METH_NOARGS,
     "cache_measure(): (entries, bytes) of the disk cache."},
    {"cache_clear", cache_clear, METH_NOARGS, "cache_clear(): entries removed."},
    {"cache_prune", cache_prune, METH_O,
     "cache_prune(bytes): entries removed, oldest first, until so many bytes stay."},
    {"jit_stats", jit_stats, METH_NOARGS,
     "jit_stats(): what the compiler and its cache did in this process."},
    {"plan_count", plan_count, METH_NOARGS, "plan_count(): programs loaded in this process."},
    {"philox", take_philox, METH_VARARGS,
     "philox(device, stream, generator, increment): (seed, offset), or why the call declines."},
    {"last_launch", last_launch, METH_NOARGS,
     "last_launch(): the null backend's last launch, or None."},
    {"backends", list_backends, METH_NOARGS,
     "backends(): each backend, and what it found or tried."},
    {NULL, NULL, 0, NULL}};
