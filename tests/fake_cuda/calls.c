/* The engine and its families over a GPU that records: what a call compiles and launches is kept,
 * nothing runs. Tensors need no memory, so their sizes and strides may be anything. */
#include <stdlib.h>
#include <string.h>

#include "families/call.h"

/* Kernel texts come from GEMS_KERNEL_DIR. */
const gems_embedded gems_embedded_files[] = {{NULL, NULL, 0}};

enum { ARGUMENTS = 24 };
struct gems_module {
    char *text;
};
static struct {
    const char *text; /* of the program of the last launch */
    uint8_t argument[ARGUMENTS]
                    [16]; /* the first bytes of each kernel argument of the last launch */
    uint32_t grid, launches;
} last;
static gems_tensor outs[GEMS_MAX_OUTS];
static int64_t shapes[GEMS_MAX_OUTS][2][GEMS_MAX_DIMS];
static int made, wanted;

int (*gems_cpu_thread_count)(void);

static gems_status nothing(void) { return GEMS_OK; }
static int one(void) { return 1; }
static gems_status information(int device, gems_device_info *info) {
    (void)device;
    *info = (gems_device_info){.arch = 90,
                               .processors = 132,
                               .warp = 32,
                               .max_threads = 1024,
                               .vector_bytes = 16,
                               .shared_bytes = 227 * 1024,
                               .l2_bytes = 1 << 25};
    return GEMS_OK;
}
static gems_status identity(int device, const char *arch, gems_identity *out) {
    (void)device, (void)arch;
    memset(out, 0, sizeof *out);
    strcpy(out->arch, "recorded");
    return GEMS_OK;
}
static gems_status compile(const gems_identity *id, const char *name, const char *text,
                           const char *const *entries, int count, gems_blob *code,
                           gems_report *report) {
    (void)id, (void)name, (void)entries, (void)count;
    *report = (gems_report){-1, -1, -1, -1, 0};
    *code = (gems_blob){strdup(text), strlen(text) + 1}; /* the code is the text */
    return GEMS_OK;
}
static gems_status load(int device, const gems_blob *code, const char *path,
                        const char *const *entries, int count, gems_module **module) {
    (void)device, (void)path, (void)entries, (void)count;
    *module = malloc(sizeof **module);
    (*module)->text = strdup(code->data);
    return GEMS_OK;
}
static gems_status launch(int device, gems_module *module, int entry, const gems_launch *l) {
    (void)device, (void)entry;
    last.text = module->text;
    last.grid = l->grid[0];
    last.launches++;
    for (int i = 0; i < wanted; i++) memcpy(last.argument[i], l->args[i], 16);
    return GEMS_OK;
}
static void unload(gems_module *module) {
    free(module->text);
    free(module);
}
static bool capturing(int device, void *stream) {
    (void)device, (void)stream;
    return false;
}
static gems_status refuse(void) { return gems_fail(GEMS_RUNTIME_ERROR, "not in this library"); }
const gems_backend gems_backend_cpu = {.name = "cpu", .device_type = GEMS_CPU, .open = refuse};
const gems_backend gems_backend_null = {.name = "null", .device_type = GEMS_CPU, .open = refuse};
const gems_backend gems_backend_cuda = {
    .version = GEMS_BACKEND_VERSION,
    .name = "recorded",
    .device_type = GEMS_CUDA,
    .open = nothing,
    .device_count = one,
    .device_info = information,
    .identity = identity,
    .compile = compile,
    .load = load,
    .launch = launch,
    .unload = unload,
    .capturing = capturing,
};

static gems_status empty(gems_call *call, int slot, int ndim, const int64_t *sizes,
                         const int64_t *strides, int dtype, gems_tensor *t) {
    int64_t n = 1;
    for (int d = 0; d < ndim; d++) n *= sizes[d];
    if (slot < 0) return gems_decline("no scratch here");
    memcpy(shapes[slot][0], sizes, (size_t)ndim * sizeof *sizes);
    memcpy(shapes[slot][1], strides, (size_t)ndim * sizeof *strides);
    *t = (gems_tensor){.data = (void *)0x10000000,
                       .sizes = shapes[slot][0],
                       .strides = shapes[slot][1],
                       .numel = n,
                       .ndim = ndim,
                       .dtype = (uint8_t)dtype,
                       .device_type = GEMS_CUDA,
                       .device_index = call->device_index};
    return GEMS_OK;
}
static gems_status resize(gems_call *call, gems_tensor *t, int ndim, const int64_t *sizes) {
    (void)call, (void)t, (void)ndim, (void)sizes;
    return gems_decline("no resizing here");
}
static void *stream(const gems_call *call) {
    (void)call;
    return NULL;
}
static const gems_host host = {.name = "test", .empty = empty, .resize = resize, .stream = stream};

int calls_open(void);
int calls_open(void) { return gems_table_open(); }

/* Calls an overload with all arguments of its schema. The first `arguments` kernel arguments are
 * kept. */
int calls_run(const char *name, const gems_value *args, int count, int arguments);
int calls_run(const char *name, const gems_value *args, int count, int arguments) {
    int index = gems_entry_find(name);
    gems_entry *entry = index < 0 ? NULL : gems_entry_at(index);
    if (!entry || entry->schema.nargs != count)
        return gems_fail(GEMS_VALUE_ERROR, "%s: %s", name,
                         entry ? "number of arguments" : "unknown");
    gems_call call = {.entry = entry, .host = &host};
    memcpy(call.args, args, (size_t)count * sizeof *args);
    memset(&last, 0, sizeof last);
    wanted = arguments;
    gems_status status = gems_call_run(&call);
    made = status == GEMS_OK ? entry->nouts : 0;
    memcpy(outs, call.out, sizeof outs);
    return status;
}
const char *calls_text(void);
const char *calls_text(void) { return last.text ? last.text : ""; }
const void *calls_argument(int i);
const void *calls_argument(int i) { return last.argument[i]; }
unsigned calls_launches(void);
unsigned calls_launches(void) { return last.launches; }
unsigned calls_grid(void);
unsigned calls_grid(void) { return last.grid; }
const gems_tensor *calls_output(int i);
const gems_tensor *calls_output(int i) { return i < made ? &outs[i] : NULL; }
