/* A CUDA driver of two devices that runs nothing: it checks what it is given as a driver does, and
 * writes every call into a text that tests read.
 *
 * What it is strict about: a context must be current where the driver wants one; a function is
 * launched only in the context that its module was loaded in, on a stream of that context (NULL
 * fits every context); an image must be a cubin with the kernel in it, or PTX; shared memory beyond
 * what was granted is refused; nothing is loaded while a stream is captured, unless the thread has
 * relaxed its capture mode. Device memory is host memory.
 *
 * Environment, for a process that cannot reach the functions below before the driver is opened:
 *   FAKE_CUDA_FAIL=cuInit:1:100   the first cuInit gives 100 (as fake_fail)
 *   FAKE_CUDA_VERSION=12020       the version of the driver; PTX is taken up to the ISA it knows
 *   FAKE_CUDA_ARCH=130            of both devices (90 and 80 when not set)
 */
#include <elf.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The prototypes are those of a header that is not here. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#define EXPORT __attribute__((visibility("default")))

enum { DEVICES = 2, STREAMS = 4, STATIC_SHARED = 1024, GRANTED = 48 * 1024, OPTIN = 227 * 1024 };
enum {
    INVALID_VALUE = 1,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    UNSUPPORTED_PTX = 222,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_IMPLICIT = 906
};

typedef struct stream {
    int device, capturing;
} stream;

typedef struct context {
    int device;
} context;

typedef struct module {
    context *owner;
    char *image;
    size_t size;
} module;

typedef struct function {
    module *owner;
    int dynamic_shared;
} function;

/* Prefix of the driver's CUlaunchConfig, as far as it is looked at. */
typedef struct config {
    unsigned grid[3], block[3], shared;
    void *stream;
    struct {
        int id, pad;
        unsigned value[16];
    } *attributes;
    unsigned attribute_count;
} config;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char *log_text;
static size_t log_size, log_room;
static char failing[64];
static int fail_at, fail_code;
static bool initialised;
static context contexts[DEVICES] = {{0}, {1}};
static stream streams[DEVICES][STREAMS];
static _Thread_local context *stack[16];
static _Thread_local int depth, capture_mode; /* 0: global */

/* ---- what tests call ---- */

EXPORT const char *fake_log(void) { return log_text ? log_text : ""; }

EXPORT void fake_clear(void) {
    pthread_mutex_lock(&mutex);
    log_size = 0;
    if (log_text) log_text[0] = 0;
    failing[0] = 0;
    pthread_mutex_unlock(&mutex);
}

/* The n-th call of a symbol from now on gives this error, once. */
EXPORT void fake_fail(const char *symbol, int n, int code) {
    snprintf(failing, sizeof failing, "%s", symbol);
    fail_at = n;
    fail_code = code;
}

EXPORT void *fake_stream(int device, int index) {
    streams[device][index].device = device;
    return &streams[device][index];
}

/* status: 0 none, 1 active, 2 invalidated. */
EXPORT void fake_capture(void *which, int status) { ((stream *)which)->capturing = status; }

EXPORT int fake_depth(void) { return depth; }

/* ---- inside ---- */

static int number_of(const char *name, int fallback) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : fallback;
}

static int arch_of(int device) { return number_of("FAKE_CUDA_ARCH", device ? 80 : 90); }

/* Writes a call into the log; gives the error that was asked for. */
static int enter(const char *symbol, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int enter(const char *symbol, const char *format, ...) {
    char line[512];
    int result = 0;
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);

    pthread_mutex_lock(&mutex);
    size_t size = strlen(symbol) + strlen(line) + 4;
    if (log_size + size > log_room) {
        log_room = (log_room + size) * 2;
        log_text = realloc(log_text, log_room);
        if (!log_text) abort();
    }
    log_size +=
        (size_t)snprintf(log_text + log_size, size, "%s%s%s\n", symbol, *line ? " " : "", line);
    if (!strcmp(symbol, failing) && --fail_at == 0) {
        failing[0] = 0;
        result = fail_code;
    }
    pthread_mutex_unlock(&mutex);
    if (!result && !initialised && strcmp(symbol, "cuInit")) result = NOT_INITIALIZED;
    return result;
}

static context *current(void) { return depth ? stack[depth - 1] : NULL; }
static int device_now(void) { return current() ? current()->device : -1; }

static bool any_capture(void) {
    for (int d = 0; d < DEVICES; d++)
        for (int i = 0; i < STREAMS; i++)
            if (streams[d][i].capturing) return true;
    return false;
}

/* ---- the driver ---- */
#define API EXPORT int

API cuInit(unsigned flags) {
    const char *wish = getenv("FAKE_CUDA_FAIL");
    char symbol[64];
    int n, code;
    if (wish && sscanf(wish, "%63[^:]:%d:%d", symbol, &n, &code) == 3) fake_fail(symbol, n, code);
    int result = enter("cuInit", "flags=%u", flags);
    if (!result) initialised = true;
    return result;
}

API cuDriverGetVersion(int *version) {
    *version = number_of("FAKE_CUDA_VERSION", 13000);
    return enter("cuDriverGetVersion", "%s", "");
}

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {UNSUPPORTED_PTX, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
};

API cuGetErrorName(int result, const char **text) {
    *text = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == result) *text = errors[i].name;
    return *text ? 0 : INVALID_VALUE;
}

API cuGetErrorString(int result, const char **text) {
    *text = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == result) *text = errors[i].text;
    return *text ? 0 : INVALID_VALUE;
}

API cuDeviceGetCount(int *count) {
    *count = DEVICES;
    return enter("cuDeviceGetCount", "%s", "");
}

API cuDeviceGet(int *device, int ordinal) {
    int result = enter("cuDeviceGet", "device=%d", ordinal);
    if (result) return result;
    if (ordinal < 0 || ordinal >= DEVICES) return INVALID_DEVICE;
    *device = ordinal;
    return 0;
}

API cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, (size_t)size, "Fake GPU %d", device);
    return enter("cuDeviceGetName", "device=%d", device);
}

API cuDeviceGetAttribute(int *value, int which, int device) {
    int result = enter("cuDeviceGetAttribute", "device=%d which=%d", device, which);
    if (result) return result;
    switch (which) {
    case 1: *value = 1024; return 0;
    case 8: *value = GRANTED; return 0;
    case 10: *value = 32; return 0;
    case 16: *value = device ? 108 : 132; return 0;
    case 38: *value = 50 << 20; return 0;
    case 75: *value = arch_of(device) / 10; return 0;
    case 76: *value = arch_of(device) % 10; return 0;
    case 97: *value = OPTIN; return 0;
    default: return INVALID_VALUE;
    }
}

API cuDevicePrimaryCtxRetain(void **made, int device) {
    int result = enter("cuDevicePrimaryCtxRetain", "device=%d", device);
    if (!result) *made = &contexts[device];
    return result;
}

API cuCtxGetCurrent(void **made) {
    int result = enter("cuCtxGetCurrent", "current=%d", device_now());
    if (!result) *made = current();
    return result;
}

API cuCtxPushCurrent_v2(void *which) {
    int result = enter("cuCtxPushCurrent", "device=%d", which ? ((context *)which)->device : -1);
    if (!result && depth == 16) result = INVALID_CONTEXT;
    if (!result) stack[depth++] = which;
    return result;
}

API cuCtxPopCurrent_v2(void **which) {
    int result = enter("cuCtxPopCurrent", "device=%d", device_now());
    if (!result && !depth) result = INVALID_CONTEXT;
    if (!result) *which = stack[--depth];
    return result;
}

/* Bytes of an ELF file: its section headers stand last. */
static size_t elf_size(const char *image) {
    Elf64_Ehdr header;
    memcpy(&header, image, sizeof header);
    return header.e_shoff + (size_t)header.e_shnum * header.e_shentsize;
}

/* PTX ".version 8.3" came with CUDA 12.3: a driver of 12020 knows 8.2 and what is older. */
static bool too_new(const char *ptx) {
    const char *at = strstr(ptx, ".version ");
    int major, minor, driver = number_of("FAKE_CUDA_VERSION", 99000);
    if (!at || sscanf(at, ".version %d.%d", &major, &minor) != 2) return true;
    return (major + 4) * 1000 + minor * 10 > driver;
}

API cuModuleLoadData(void **made, const void *image) {
    bool elf = !memcmp(image, ELFMAG, SELFMAG), ptx = !elf && strstr(image, ".version ");
    size_t size = elf ? elf_size(image) : strlen(image) + 1;
    const char *kind = elf ? "cubin" : ptx ? "ptx" : "unknown";
    int result = enter("cuModuleLoadData", "current=%d %s size=%zu", device_now(), kind, size);
    if (result) return result;
    if (!current()) return INVALID_CONTEXT;
    if (any_capture() && capture_mode == 0) return CAPTURE_UNSUPPORTED;
    if (!elf && !ptx) return INVALID_IMAGE;
    if (ptx && too_new(image)) return UNSUPPORTED_PTX;
    module *m = calloc(1, sizeof *m);
    m->owner = current();
    m->size = size;
    m->image = malloc(m->size);
    memcpy(m->image, image, m->size);
    *made = m;
    return 0;
}

API cuModuleUnload(void *which) {
    module *m = which;
    int result = enter("cuModuleUnload", "current=%d", device_now());
    if (result) return result;
    if (current() != m->owner) return INVALID_CONTEXT;
    free(m->image);
    free(m);
    return 0;
}

API cuModuleGetFunction(void **made, void *which, const char *name) {
    module *m = which;
    char section[256];
    int result = enter("cuModuleGetFunction", "current=%d %s", device_now(), name);
    if (result) return result;
    if (current() != m->owner) return INVALID_CONTEXT;
    bool elf = !memcmp(m->image, ELFMAG, SELFMAG);
    /* With its NUL a section's name is matched whole; in PTX the name ends at a parenthesis. */
    int size = snprintf(section, sizeof section, elf ? ".text.%s" : " .entry %s(", name) + elf;
    if (!memmem(m->image, m->size, section, (size_t)size)) return NOT_FOUND;
    function *f = calloc(1, sizeof *f); /* as long as the process, as a test is */
    f->owner = m;
    f->dynamic_shared = GRANTED - STATIC_SHARED;
    *made = f;
    return 0;
}

API cuFuncGetAttribute(int *value, int which, void *on) {
    int result = enter("cuFuncGetAttribute", "which=%d", which);
    if (result) return result;
    *value = which == 1 ? STATIC_SHARED : which == 8 ? ((function *)on)->dynamic_shared : 0;
    return 0;
}

API cuFuncSetAttribute(void *on, int which, int value) {
    function *f = on;
    int result = enter("cuFuncSetAttribute", "which=%d value=%d", which, value);
    if (result) return result;
    if (which != 8) return 0;
    if (value + STATIC_SHARED > OPTIN) return INVALID_VALUE;
    f->dynamic_shared = value;
    return 0;
}

static int launch(const char *symbol, function *f, const unsigned *grid, const unsigned *block,
                  unsigned shared, stream *on, unsigned cluster) {
    int result =
        enter(symbol, "current=%d stream=%d.%d grid=%u,%u,%u block=%u,%u,%u shared=%u cluster=%u",
              device_now(), on ? on->device : -1, on ? (int)(on - streams[on->device]) : -1,
              grid[0], grid[1], grid[2], block[0], block[1], block[2], shared, cluster);
    if (result) return result;
    if (current() != f->owner->owner) return INVALID_CONTEXT;
    if (on && on->device != device_now()) return INVALID_HANDLE;
    if (shared > (unsigned)f->dynamic_shared || !grid[0] || !block[0]) return INVALID_VALUE;
    return 0;
}

API cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void *on, void **args, void **extra) {
    (void)args, (void)extra;
    return launch("cuLaunchKernel", f, (unsigned[]){gx, gy, gz}, (unsigned[]){bx, by, bz}, shared,
                  on, 1);
}

API cuLaunchKernelEx(const config *c, void *f, void **args, void **extra) {
    unsigned cluster = 1;
    (void)args, (void)extra;
    for (unsigned i = 0; i < c->attribute_count; i++)
        if (c->attributes[i].id == 4) cluster = c->attributes[i].value[0];
    return launch("cuLaunchKernelEx", f, c->grid, c->block, c->shared, c->stream, cluster);
}

API cuStreamIsCapturing(void *which, int *status) {
    stream *s = which;
    int result = enter("cuStreamIsCapturing", "current=%d", device_now());
    if (result) return result;
    if (!s && any_capture()) return CAPTURE_IMPLICIT;
    *status = s ? s->capturing : 0;
    return 0;
}

API cuThreadExchangeStreamCaptureMode(int *mode) {
    int before = capture_mode;
    int result = enter("cuThreadExchangeStreamCaptureMode", "mode=%d", *mode);
    if (result) return result;
    capture_mode = *mode;
    *mode = before;
    return 0;
}

API cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *which) {
    stream *s = which;
    int result = enter("cuMemcpyDtoHAsync", "current=%d stream=%d size=%zu", device_now(),
                       s ? s->device : -1, size);
    if (result) return result;
    if (!current() || (s && s->device != device_now())) return INVALID_CONTEXT;
    memcpy(to, (const void *)(uintptr_t)from, size);
    return 0;
}

API cuStreamSynchronize(void *which) {
    stream *s = which;
    int result = enter("cuStreamSynchronize", "current=%d", device_now());
    if (result) return result;
    return s && s->capturing ? CAPTURE_UNSUPPORTED : current() ? 0 : INVALID_CONTEXT;
}

API cuMemAlloc_v2(uint64_t *made, size_t size) {
    *made = (uint64_t)(uintptr_t)malloc(size);
    return enter("cuMemAlloc", "size=%zu", size);
}

API cuMemFree_v2(uint64_t which) {
    free((void *)(uintptr_t)which);
    return enter("cuMemFree", "%s", "");
}
