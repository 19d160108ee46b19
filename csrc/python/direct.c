/* flag_gems.ops: builtins that go straight into the engine. A function has an ordered list of
 * entries, the overloads; the first that the arguments fit is called. What autograd or a mode of
 * torch must see, and what kernels decline, goes through torch.ops.aten instead. */
#include <stdlib.h>
#include <string.h>

#include "python.h"

#define MAX_OVERLOADS 16

typedef struct function {
    PyObject_HEAD char name[96];
    char document[2048];
    uint16_t entries[MAX_OVERLOADS];
    int count;
    PyObject *packet; /* torch.ops.aten.<name>, when first needed */
    PyMethodDef method;
} function;

static PyTypeObject function_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "flag_gems._C.Function",
    .tp_basicsize = sizeof(function),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "The overloads behind a function of flag_gems.ops.",
};

static function **functions;
static int function_count, function_room;

/* ---- through the dispatcher ---- */

static PyObject *packet(function *f) {
    const gems_entry *entry = gems_entry_at(f->entries[0]);
    if (f->packet) return f->packet;
    if (entry->own && gems_py.own_operator)
        f->packet = PyObject_CallFunction(gems_py.own_operator, "i", (int)entry->op);
    else if (!entry->own && gems_py.aten)
        f->packet = PyObject_GetAttrString(gems_py.aten, entry->schema.name);
    return f->packet;
}

static bool is_number(PyObject *object) {
    return PyLong_Check(object) || PyFloat_Check(object) || PyComplex_Check(object) ||
           gems_is_numpy_number(object);
}

/* Calls torch's operator of a row of our own. Numbers where tensors are wanted, which torch takes
 * in aten's operators only, become tensors. */
static PyObject *through_own(function *f, PyObject *operator, PyObject *const *args,
                             Py_ssize_t count, PyObject *keywords) {
    const gems_schema *schema = &gems_entry_at(f->entries[0])->schema;
    Py_ssize_t total = count + (keywords ? PyTuple_GET_SIZE(keywords) : 0);
    PyObject *stack[GEMS_MAX_ARGS], *made[GEMS_MAX_ARGS], *tensor = NULL, *result = NULL;
    int made_count = 0;
    if (total > GEMS_MAX_ARGS)
        return PyErr_Format(PyExc_TypeError, "%s takes fewer arguments than were given", f->name);
    for (Py_ssize_t i = 0; i < total && !tensor; i++)
        if (PyObject_TypeCheck(args[i], gems_py.tensor)) tensor = args[i];
    for (Py_ssize_t i = 0; i < total; i++) {
        const char *name =
            i < count ? NULL : PyUnicode_AsUTF8(PyTuple_GET_ITEM(keywords, i - count));
        int at = i < count ? (int)i : name ? gems_schema_arg(schema, name) : -1;
        stack[i] = args[i];
        if (at < 0 || at >= schema->nargs || schema->args[at].type != GEMS_T_TENSOR ||
            !is_number(args[i]))
            continue;
        if (!(stack[i] = gems_stand_in(args[i], tensor))) goto done;
        made[made_count++] = stack[i];
    }
    result = PyObject_Vectorcall(operator, stack, (size_t)count, keywords);
done:
    while (made_count) Py_DECREF(made[--made_count]);
    return result;
}

/* Calls something of torch with a gate set for this thread. */
static PyObject *gated(gems_thread_gate gate, PyObject *operator, PyObject *const *args,
                       Py_ssize_t count, PyObject *keywords) {
    gems_thread_gate before = gems_this_thread;
    gems_this_thread = gate;
    __atomic_fetch_add(&gems_special_gates, 1, __ATOMIC_RELAXED);
    PyObject *result = PyObject_Vectorcall(operator, args, (size_t)count, keywords);
    __atomic_fetch_sub(&gems_special_gates, 1, __ATOMIC_RELAXED);
    gems_this_thread = before;
    return result;
}

/* Calls torch's operator with our kernel forced (force) or passed over. */
static PyObject *through(function *f, PyObject *operator, PyObject *const *args, Py_ssize_t count,
                         PyObject *keywords, bool force) {
    if (!operator) {
        if (!PyErr_Occurred()) gems_set_declined(f->name, gems_reason());
        return NULL;
    }
    if (gems_entry_at(f->entries[0])->own) return through_own(f, operator, args, count, keywords);
    if (force && gems_py.register_entries) {
        PyObject *list = PyList_New(f->count);
        for (int i = 0; list && i < f->count; i++)
            PyList_SET_ITEM(list, i, PyLong_FromLong(f->entries[i]));
        PyObject *done = list ? PyObject_CallOneArg(gems_py.register_entries, list) : NULL;
        Py_XDECREF(list);
        if (!done) return NULL;
        Py_DECREF(done);
    }
    return gated((gems_thread_gate){f->entries, f->count, force}, operator, args, count, keywords);
}

PyObject *gems_forced(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    (void)self;
    if (!count) return PyErr_Format(PyExc_TypeError, "forced() takes what it is to call");
    return gated((gems_thread_gate){NULL, GEMS_ALL_ENTRIES, true}, args[0], args + 1, count - 1,
                 keywords);
}

static PyObject *through_torch(function *f, PyObject *const *args, Py_ssize_t count,
                               PyObject *keywords, bool force) {
    return through(f, packet(f), args, count, keywords, force);
}

/* The same by torch's public function of the name, which a default device applies to. */
static PyObject *through_public(function *f, PyObject *const *args, Py_ssize_t count,
                                PyObject *keywords) {
    PyObject *public = PyObject_GetAttrString(gems_py.torch, f->name);
    if (!public) PyErr_Clear();
    PyObject *result = through(f, public ? public : packet(f), args, count, keywords, true);
    Py_XDECREF(public);
    return result;
}

/* ---- the call ---- */

/* What ADInplaceOrView does for a written tensor: autograd must notice that saved values changed.
 */
static void bump_versions(gems_frame *frame) {
    const gems_entry *entry = frame->call.entry;
    if (entry->variant == GEMS_FUNCTIONAL || !frame->has_torch) return;
    for (int i = entry->out_arg; i < entry->schema.nargs; i++) {
        if (!entry->schema.args[i].written || entry->schema.args[i].type != GEMS_T_TENSOR) continue;
        PyObject *object = frame->objects[i];
        if (gems_torch.bump_version && gems_layout.impl > 0) {
            gems_torch.bump_version((char *)object + gems_layout.impl);
            continue;
        }
        PyObject *torch_c = PyObject_GetAttrString(gems_py.torch, "_C");
        PyObject *list = torch_c ? PyTuple_Pack(1, object) : NULL;
        PyObject *done =
            list ? PyObject_CallMethod(torch_c, "_increment_version", "(O)", list) : NULL;
        Py_XDECREF(done);
        Py_XDECREF(list);
        Py_XDECREF(torch_c);
        PyErr_Clear();
    }
}

/* True when the dispatcher must see the call. */
static bool needs_dispatcher(const gems_frame *frame) {
    if (!frame->has_torch) return false;
    if (gems_modes_active() || gems_wants_gradient(frame)) return true;
    if (frame->call.entry->variant == GEMS_FUNCTIONAL || !frame->inference) return false;
    const uint64_t *keys = gems_torch_thread_keys();
    return !keys ||
           !keys[0]; /* writing an inference tensor outside of inference mode: torch raises */
}

/* A factory of torch's: no tensor says where the result is to be. */
static bool is_factory(const gems_frame *frame) {
    const gems_schema *schema = &frame->call.entry->schema;
    if (!gems_py.torch || frame->has_torch || frame->has_numpy) return false;
    for (int i = 0; i < schema->nargs; i++)
        if (schema->args[i].type == GEMS_T_DEVICE) return true;
    return false;
}

static PyObject *declined(function *f, gems_frame *frame, PyObject *const *args, Py_ssize_t count,
                          PyObject *keywords) {
    const gems_entry *entry = frame->call.entry;
    if (gems_py.strict || frame->has_numpy || entry->own)
        return gems_set_declined(entry->qualified, gems_reason());
    return through_torch(f, args, count, keywords, false);
}

/* No overload fits: torch says why, or what it makes of the call. */
static PyObject *mismatch(function *f, PyObject *const *args, Py_ssize_t count,
                          PyObject *keywords) {
    bool arrays = false;
    for (Py_ssize_t i = 0; i < count; i++) arrays |= gems_is_array(args[i]);
    if (!arrays && packet(f)) return through_torch(f, args, count, keywords, false);
    if (PyErr_Occurred()) return NULL;
    PyErr_Format(PyExc_TypeError, "flag_gems.ops.%s: the arguments do not fit %s", f->name,
                 gems_entry_at(f->entries[0])->schema.text);
    return NULL;
}

static PyObject *run(function *f, gems_frame *frame, PyObject *const *args, Py_ssize_t count,
                     PyObject *keywords) {
    if (is_factory(frame) && gems_modes_active()) return through_public(f, args, count, keywords);
    if (needs_dispatcher(frame)) return through_torch(f, args, count, keywords, true);
    int64_t start = __builtin_expect(gems_observing, 0) ? gems_now() : 0;
    gems_status status = gems_frame_run(frame);
    if (__builtin_expect(gems_observing, 0)) gems_observe(&frame->call, status, gems_now() - start);
    if (status == GEMS_OK) {
        bump_versions(frame);
        return gems_results(frame);
    }
    return status == GEMS_ERROR ? gems_set_error() : declined(f, frame, args, count, keywords);
}

static PyObject *call(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    function *f = (function *)self;
    for (int i = 0; i < f->count; i++) {
        gems_frame frame;
        gems_frame_open(&frame, gems_entry_at(f->entries[i]), true);
        gems_match match = gems_arguments(&frame, args, count, keywords);
        PyObject *result = NULL;
        if (match == GEMS_MATCH) {
            result = run(f, &frame, args, count, keywords);
        } else if (match == GEMS_PASS) {
            /* Counted by the entry that the dispatcher reaches, if any. */
            if (frame.has_numpy || gems_py.strict) gems_count_decline(frame.call.entry);
            result = gems_py.torch && !frame.has_numpy && !gems_py.strict
                         ? through_torch(f, args, count, keywords, true)
                         : declined(f, &frame, args, count, keywords);
        }
        gems_frame_close(&frame);
        if (match != GEMS_MISMATCH) return result;
    }
    return mismatch(f, args, count, keywords);
}

/* ---- the list of functions, from the table ---- */

static function *find(const char *name) {
    for (int i = 0; i < function_count; i++)
        if (!strcmp(functions[i]->name, name)) return functions[i];
    return NULL;
}

/* "mm(self, mat2)", what it does, and the schemas: Python reads the first as the signature. */
static void describe(function *f) {
    const gems_entry *entry = gems_entry_at(f->entries[0]);
    const gems_schema *schema = &entry->schema;
    size_t used = (size_t)snprintf(f->document, sizeof f->document, "%s(", f->name);
    bool keyword = false;
    for (int i = 0; f->count == 1 && i < schema->nargs && used < sizeof f->document; i++) {
        const gems_arg *arg = &schema->args[i];
        const char *star = arg->keyword_only && !keyword ? "*, " : "";
        keyword |= arg->keyword_only;
        used += (size_t)snprintf(f->document + used, sizeof f->document - used, "%s%s%s%s",
                                 i ? ", " : "", star, arg->name, arg->has_default ? "=None" : "");
    }
    if (f->count > 1 && used < sizeof f->document)
        used += (size_t)snprintf(f->document + used, sizeof f->document - used, "*args, **kwargs");
    if (used < sizeof f->document)
        used += (size_t)snprintf(f->document + used, sizeof f->document - used, ")\n--\n\n%s\n\n",
                                 gems_op_at(entry->op)->doc);
    for (int i = 0; i < f->count && used < sizeof f->document; i++)
        used += (size_t)snprintf(f->document + used, sizeof f->document - used, "%s%s\n",
                                 gems_entry_at(f->entries[i])->own ? "" : "aten::",
                                 gems_entry_at(f->entries[i])->schema.text);
}

static bool add(const char *name, int entry) {
    function *f = find(name);
    if (!f) {
        if (function_count == function_room) {
            int room = function_room ? 2 * function_room : 256;
            function **grown = realloc(functions, (size_t)room * sizeof *grown);
            if (!grown) return PyErr_NoMemory();
            functions = grown;
            function_room = room;
        }
        if (!(f = PyObject_New(function, &function_type))) return false;
        snprintf(f->name, sizeof f->name, "%s", name);
        f->count = 0;
        f->packet = NULL;
        functions[function_count++] = f;
    }
    for (int i = 0; i < f->count; i++)
        if (f->entries[i] == entry) return true;
    if (f->count < MAX_OVERLOADS) f->entries[f->count++] = (uint16_t)entry;
    return true;
}

static bool ends(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n > m && !strcmp(name + n - m, end);
}

/* The further names of a row: "_out" names its out form, a last "_" the in-place one. */
static bool add_further(const gems_op *op, int entry, int variant) {
    for (const char *p = op->functions; p && *p;) {
        char name[96];
        size_t length = strcspn(p, ",");
        snprintf(name, sizeof name, "%.*s", (int)length, p);
        int wanted = ends(name, "_out") ? GEMS_OUT
                     : ends(name, "_")  ? GEMS_INPLACE
                                        : GEMS_FUNCTIONAL;
        if (wanted == variant && !add(name, entry)) return false;
        p += length + (p[length] == ',');
    }
    return true;
}

static bool collect(void) {
    if (PyType_Ready(&function_type) < 0) return false;
    int row = -1;
    bool seen[3] = {false};
    for (int i = 0; i < gems_entry_count(); i++) {
        const gems_entry *entry = gems_entry_at(i);
        char name[96];
        if (entry->op != row) memset(seen, 0, sizeof seen);
        row = entry->op;
        snprintf(name, sizeof name, "%s%s", entry->schema.name,
                 entry->variant == GEMS_OUT ? "_out" : "");
        if (!add(name, i)) return false;
        if (!seen[entry->variant] && !add_further(gems_op_at(row), i, entry->variant)) return false;
        seen[entry->variant] = true;
    }
    return true;
}

const char *gems_function_name(int entry, int i) {
    for (int k = 0; k < function_count; k++)
        for (int e = 0; e < functions[k]->count; e++)
            if (functions[k]->entries[e] == entry && i-- == 0) return functions[k]->name;
    return NULL;
}

static PyObject *make_builtin(function *f, PyObject *module) {
    describe(f);
    f->method = (PyMethodDef){f->name, (PyCFunction)(void (*)(void))call,
                              METH_FASTCALL | METH_KEYWORDS, f->document};
    return PyCFunction_NewEx(&f->method, (PyObject *)f, module);
}

PyObject *gems_own_function(int row) {
    if (PyType_Ready(&function_type) < 0) return NULL;
    function *f = PyObject_New(function, &function_type);
    if (!f) return NULL;
    f->count = 0;
    f->packet = NULL;
    for (int i = gems_entry_count(); i < gems_entry_total() && f->count < MAX_OVERLOADS; i++)
        if (gems_entry_at(i)->op == row) f->entries[f->count++] = (uint16_t)i;
    PyObject *builtin = NULL, *module = PyUnicode_FromString("flag_gems.fused");
    if (f->count && module) {
        snprintf(f->name, sizeof f->name, "%s", gems_entry_at(f->entries[0])->schema.name);
        builtin = make_builtin(f, module);
    } else if (module) {
        PyErr_SetString(PyExc_ValueError, "the row is not one of flag_gems::");
    }
    Py_XDECREF(module);
    Py_DECREF(f);
    return builtin;
}

bool gems_direct_functions(PyObject *dict) {
    PyObject *module = PyUnicode_FromString("flag_gems.ops");
    bool done = module && collect();
    for (int i = 0; done && i < function_count; i++) {
        function *f = functions[i];
        PyObject *builtin = make_builtin(f, module);
        done = builtin && !PyDict_SetItemString(dict, f->name, builtin);
        Py_XDECREF(builtin);
    }
    Py_XDECREF(module);
    return done;
}
