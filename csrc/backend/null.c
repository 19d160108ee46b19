/* The null backend: CPU tensors on an imaginary H200 whose launches are only counted. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "null.h"

struct gems_module {
    int entries;
};

/* The last launch, field by field: threads that launch at once may mix theirs, and the path of a
 * call pays one addition and plain stores. */
static _Atomic uint64_t launches;
static struct {
    _Atomic(const char *) name;
    _Atomic(void *) stream;
    _Atomic int entry;
    _Atomic uint64_t geometry[3]; /* grid and block, as they lie in a gems_launch */
    _Atomic uint32_t shared;
} last;
_Static_assert(offsetof(gems_launch, block) == offsetof(gems_launch, grid) + 12,
               "grid and block lie together");

#define SET(field, value) atomic_store_explicit(&last.field, value, memory_order_relaxed)
#define GET(field)        atomic_load_explicit(&last.field, memory_order_relaxed)

static gems_status open_backend(void) { return GEMS_OK; }

static void describe(char *text, size_t size) {
    snprintf(text, size, "null: launches are counted, not run\n");
}

static int device_count(void) { return 1; }

static gems_status device_info(int device, gems_device_info *info) {
    (void)device;
    *info = (gems_device_info){.arch = 90,
                               .processors = 132,
                               .warp = 32,
                               .max_threads = 1024,
                               .vector_bytes = 16,
                               .shared_bytes = 227 * 1024,
                               .l2_bytes = 60 * 1024 * 1024};
    return GEMS_OK;
}

static gems_status identity(int device, const char *arch, gems_identity *out) {
    (void)device;
    memset(out, 0, sizeof *out);
    snprintf(out->arch, sizeof out->arch, "%s", arch ? arch : "null");
    snprintf(out->compiler, sizeof out->compiler, "null");
    return GEMS_OK;
}

static gems_status compile(const gems_identity *id, const char *name, const char *text,
                           const char *const *entries, int entry_count, gems_blob *code,
                           gems_report *report) {
    (void)id, (void)text, (void)entries, (void)entry_count;
    *report = (gems_report){-1, -1, -1, -1, 0};
    *code = (gems_blob){calloc(1, 1), 1};
    if (code->data) return GEMS_OK;
    code->size = 0;
    return gems_fail(GEMS_MEMORY_ERROR, "%s: out of memory", name);
}

static gems_status load(int device, const gems_blob *code, const char *path,
                        const char *const *entries, int entry_count, gems_module **module) {
    (void)device, (void)code, (void)path, (void)entries;
    *module = malloc(sizeof **module);
    if (!*module) return gems_fail(GEMS_MEMORY_ERROR, "out of memory");
    (*module)->entries = entry_count;
    return GEMS_OK;
}

static gems_status launch(int device, gems_module *module, int entry, const gems_launch *l) {
    (void)device;
    if (entry < 0 || entry >= module->entries)
        return gems_fail(GEMS_VALUE_ERROR, "the program has no kernel %d", entry);
    atomic_fetch_add_explicit(&launches, 1, memory_order_relaxed);
    SET(name, l->name);
    SET(entry, entry);
    uint64_t geometry[3];
    memcpy(geometry, l->grid, sizeof geometry);
    for (int i = 0; i < 3; i++) SET(geometry[i], geometry[i]);
    SET(shared, l->shared);
    SET(stream, l->stream);
    return GEMS_OK;
}

static void unload(gems_module *module) { free(module); }

static bool capturing(int device, void *stream) {
    (void)device, (void)stream;
    return false;
}

/* Nothing ran, so nothing was written: zeros. */
static gems_status read_memory(int device, void *stream, const void *from, size_t bytes, void *to) {
    (void)device, (void)stream, (void)from;
    memset(to, 0, bytes);
    return GEMS_OK;
}

gems_null_record gems_null_last(void) {
    uint32_t geometry[6];
    for (int i = 0; i < 3; i++) {
        uint64_t pair = GET(geometry[i]);
        memcpy(geometry + 2 * i, &pair, sizeof pair);
    }
    return (gems_null_record){
        .launches = atomic_load_explicit(&launches, memory_order_relaxed),
        .name = GET(name),
        .entry = GET(entry),
        .grid = {geometry[0], geometry[1], geometry[2]},
        .block = {geometry[3], geometry[4], geometry[5]},
        .shared = GET(shared),
        .stream = GET(stream),
    };
}

void gems_null_clear(void) {
    gems_launch nothing = {.name = NULL};
    struct gems_module one = {1};
    launch(0, &one, 0, &nothing);
    atomic_store_explicit(&launches, 0, memory_order_relaxed);
}

const gems_backend gems_backend_null = {
    .version = GEMS_BACKEND_VERSION,
    .name = "null",
    .device_type = GEMS_CPU,
    .open = open_backend,
    .describe = describe,
    .device_count = device_count,
    .device_info = device_info,
    .identity = identity,
    .compile = compile,
    .load = load,
    .launch = launch,
    .unload = unload,
    .capturing = capturing,
    .read = read_memory,
};
