/* Devices, modules and launches through the driver API, in the primary contexts that torch uses
 * too. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

/* Numbers of the driver's interface that we use. */
enum {
    BLOCK_THREADS = 1,
    BLOCK_SHARED = 8,
    WARP = 10,
    PROCESSORS = 16,
    L2 = 38,
    MAJOR = 75,
    MINOR = 76,
    BLOCK_SHARED_OPTIN = 97, /* CU_DEVICE_ATTRIBUTE_* */
    STATIC_SHARED = 1,
    DYNAMIC_SHARED = 8,
    ANY_CLUSTER = 14, /* CU_FUNC_ATTRIBUTE_* */
    PORTABLE_CLUSTER = 8,
    CLUSTER = 4, /* CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION */
    RELAXED = 2, /* CU_STREAM_CAPTURE_MODE_RELAXED */
    INVALID_IMAGE = 200,
    NO_BINARY = 209,
    INVALID_PTX = 218,
    UNSUPPORTED_PTX = 222,
    JIT_NOT_FOUND = 221,
    MAP_BYTE = 0,
    MAP_F16 = 6,
    MAP_BF16 = 9,
    MAP_TF32 = 11,
    MAP_SWIZZLE_128 = 3,
    MAP_PROMOTE_256 = 3 /* CU_TENSOR_MAP_* */
};

typedef struct kernel {
    void *function;
    int static_shared;
    _Atomic uint32_t shared; /* dynamic shared memory that a launch may ask for as things are */
    _Atomic bool any_cluster;
} kernel;

struct gems_module {
    void *handle, *context;
    int device, count;
    kernel kernels[GEMS_MAX_ENTRIES];
};

static gems_status fail(const gems_cuda_driver *d, int result, const char *call,
                        const char *about) {
    const char *name = NULL, *words = NULL;
    d->error_name(result, &name);
    d->error_text(result, &words);
    return gems_fail(GEMS_RUNTIME_ERROR, "%s: %s failed: %s (%s)", about, call,
                     name ? name : "unknown error", words ? words : "no description");
}

/* The primary context of a device, retained once and kept: torch holds it as long as the process
 * lives. */
static gems_status context_of(const gems_cuda_driver *d, int device, void **context) {
    static _Atomic(void *) contexts[GEMS_CUDA_DEVICES];
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    if (device < 0 || device >= d->devices)
        return gems_fail(GEMS_VALUE_ERROR, "there is no CUDA device %d; the driver has %d", device,
                         d->devices);
    *context = atomic_load_explicit(&contexts[device], memory_order_acquire);
    if (*context) return GEMS_OK;

    int handle = 0;
    const char *call = "cuDeviceGet";
    pthread_mutex_lock(&mutex);
    int result = 0;
    *context = atomic_load_explicit(&contexts[device], memory_order_relaxed);
    if (!*context) {
        result = d->device_get(&handle, device);
        if (!result) {
            call = "cuDevicePrimaryCtxRetain";
            result = d->primary_retain(context, handle);
        }
        if (!result) atomic_store_explicit(&contexts[device], *context, memory_order_release);
    }
    pthread_mutex_unlock(&mutex);
    return result ? fail(d, result, call, "opening the device") : GEMS_OK;
}

/* Makes a context current when it is not. pushed: leave has to take it off again. */
static gems_status enter(const gems_cuda_driver *d, void *context, bool *pushed) {
    void *current = NULL;
    *pushed = false;
    int result = d->context_current(&current);
    if (result) return fail(d, result, "cuCtxGetCurrent", "choosing the device");
    if (current == context) return GEMS_OK;
    result = d->context_push(context);
    if (result) return fail(d, result, "cuCtxPushCurrent", "choosing the device");
    *pushed = true;
    return GEMS_OK;
}

static void leave(const gems_cuda_driver *d, bool pushed) {
    void *popped;
    if (pushed) d->context_pop(&popped);
}

/* ---- devices ---- */

int gems_cuda_device_count(void) {
    const gems_cuda_driver *d = gems_cuda_driver_open();
    return d ? d->devices : 0;
}

static gems_status attribute(const gems_cuda_driver *d, int device, int which, int *value) {
    int handle, result = d->device_get(&handle, device);
    if (result) return fail(d, result, "cuDeviceGet", "reading the device's properties");
    result = d->device_attribute(value, which, handle);
    return result ? fail(d, result, "cuDeviceGetAttribute", "reading the device's properties")
                  : GEMS_OK;
}

gems_status gems_cuda_device_arch(int device, int *arch) {
    const gems_cuda_driver *d = gems_cuda_driver_open();
    int major, minor;
    if (!d) return GEMS_ERROR;
    GEMS_TRY(attribute(d, device, MAJOR, &major));
    GEMS_TRY(attribute(d, device, MINOR, &minor));
    *arch = major * 10 + minor;
    return GEMS_OK;
}

void gems_cuda_device_label(int device, char *name, size_t size) {
    const gems_cuda_driver *d = gems_cuda_driver_open();
    int handle;
    name[0] = 0;
    if (d && !d->device_get(&handle, device) && d->device_name(name, (int)size, handle))
        name[0] = 0;
}

gems_status gems_cuda_device_info(int device, gems_device_info *info) {
    const gems_cuda_driver *d = gems_cuda_driver_open();
    int shared, optin, l2;
    if (!d) return GEMS_ERROR;
    memset(info, 0, sizeof *info);
    GEMS_TRY(gems_cuda_device_arch(device, &info->arch));
    GEMS_TRY(attribute(d, device, PROCESSORS, &info->processors));
    GEMS_TRY(attribute(d, device, WARP, &info->warp));
    GEMS_TRY(attribute(d, device, BLOCK_THREADS, &info->max_threads));
    GEMS_TRY(attribute(d, device, BLOCK_SHARED, &shared));
    GEMS_TRY(attribute(d, device, BLOCK_SHARED_OPTIN, &optin));
    GEMS_TRY(attribute(d, device, L2, &l2));
    info->shared_bytes = optin > shared ? optin : shared;
    info->l2_bytes = l2;
    info->vector_bytes = 16;
    const gems_cuda_compiler *c = gems_cuda_compiler_open();
    char name[32];
    info->hopper = d->tensor_map && c && info->arch == 90 &&
                   gems_cuda_arch_name(c, info->arch, name, sizeof name) == GEMS_OK &&
                   !strcmp(name, "sm_90a");
    return GEMS_OK;
}

/* ---- modules ---- */

/* A module that the driver refuses is, nearly always, newer than the driver; its own words do not
 * say so. */
static gems_status refused(const gems_cuda_driver *d, int result, const gems_blob *code,
                           const char *entry) {
    char about[200];
    const gems_cuda_compiler *c = gems_cuda_compiler_open();
    bool ptx = code->size < 4 || memcmp(code->data, "\177ELF", 4);
    bool image = result == INVALID_IMAGE || result == NO_BINARY || result == INVALID_PTX ||
                 result == UNSUPPORTED_PTX || result == JIT_NOT_FOUND;
    snprintf(about, sizeof about, "loading the %s of %.100s", ptx ? "PTX" : "machine code", entry);
    gems_status status = fail(d, result, "cuModuleLoadData", about);
    if (!image || !c || c->major * 1000 + c->minor * 10 <= d->number) return status;
    return gems_fail(GEMS_RUNTIME_ERROR,
                     "%s. It was compiled by NVRTC %d.%d and the driver is made for CUDA %d.%d: "
                     "update the driver, or install an NVRTC that is not newer",
                     gems_error_text(), c->major, c->minor, d->number / 1000,
                     d->number % 1000 / 10);
}

/* Loads the image and reads what launches need of its kernels. The context is current. */
static gems_status fill(const gems_cuda_driver *d, gems_module *m, const gems_blob *code,
                        const void *image, const char *const *entries, int count) {
    int result = d->module_load(&m->handle, image), limit = 0;
    if (result) return refused(d, result, code, entries[0]);
    for (; m->count < count; m->count++) {
        kernel *k = &m->kernels[m->count];
        result = d->module_function(&k->function, m->handle, entries[m->count]);
        if (result) return fail(d, result, "cuModuleGetFunction", entries[m->count]);
        result = d->function_attribute(&k->static_shared, STATIC_SHARED, k->function);
        if (!result) result = d->function_attribute(&limit, DYNAMIC_SHARED, k->function);
        if (result) return fail(d, result, "cuFuncGetAttribute", entries[m->count]);
        atomic_init(&k->shared, (uint32_t)(limit > 0 ? limit : 0));
        atomic_init(&k->any_cluster, false);
    }
    return GEMS_OK;
}

gems_status gems_cuda_load(int device, const gems_blob *code, const char *path,
                           const char *const *entries, int entry_count, gems_module **module) {
    const gems_cuda_driver *d = gems_cuda_driver_open();
    gems_status status = GEMS_ERROR;
    gems_module *m = NULL;
    char *image = NULL;
    void *context;
    bool pushed = false;
    int mode = RELAXED;
    (void)path;
    *module = NULL;
    if (!d) return GEMS_ERROR;
    if (entry_count < 1 || entry_count > GEMS_MAX_ENTRIES || !code->size)
        return gems_fail(GEMS_VALUE_ERROR, "a program has 1 to %d kernels and some code",
                         GEMS_MAX_ENTRIES);
    GEMS_TRY(context_of(d, device, &context));

    m = calloc(1, sizeof *m);
    image =
        malloc(code->size + 1); /* PTX is read up to a NUL, which bytes from a file need not have */
    if (!m || !image) {
        gems_fail(GEMS_MEMORY_ERROR, "no room to load %s", entries[0]);
        goto done;
    }
    memcpy(image, code->data, code->size);
    image[code->size] = 0;
    m->context = context;
    m->device = device;
    status = enter(d, context, &pushed);
    if (status != GEMS_OK) goto done;
    /* Another thread may be capturing a graph in global mode: loading must not break into that. */
    bool relaxed = d->capture_mode && !d->capture_mode(&mode);
    status = fill(d, m, code, image, entries, entry_count);
    if (status != GEMS_OK && m->handle) d->module_unload(m->handle);
    if (relaxed) d->capture_mode(&mode);
    leave(d, pushed);
    if (status == GEMS_OK) {
        *module = m;
        m = NULL;
    }
done:
    free(image);
    free(m);
    return status;
}

void gems_cuda_unload(gems_module *module) {
    const gems_cuda_driver *d = gems_cuda_driver_open();
    bool pushed;
    if (!module) return;
    if (d && enter(d, module->context, &pushed) == GEMS_OK) {
        d->module_unload(module->handle);
        leave(d, pushed);
    }
    free(module);
}

/* ---- launches ---- */

/* Lets a kernel use more dynamic shared memory than the driver grants by itself: all that the
 * device has beside its static part, so that threads that do this at once write the same. */
static gems_status allow_shared(const gems_cuda_driver *d, gems_module *m, kernel *k,
                                uint32_t wanted) {
    int most = 0;
    GEMS_TRY(attribute(d, m->device, BLOCK_SHARED_OPTIN, &most));
    most -= k->static_shared;
    if (most < 0 || wanted > (uint32_t)most)
        return gems_fail(GEMS_RUNTIME_ERROR,
                         "a launch wants %u bytes of dynamic shared memory, the device has %d",
                         wanted, most);
    int result = d->function_set(k->function, DYNAMIC_SHARED, most);
    if (result) return fail(d, result, "cuFuncSetAttribute", "raising the limit of shared memory");
    atomic_store_explicit(&k->shared, (uint32_t)most, memory_order_relaxed);
    return GEMS_OK;
}

static gems_status launch_cluster(const gems_cuda_driver *d, kernel *k, const gems_launch *l) {
    gems_cuda_attribute attributes[1] = {{.id = CLUSTER, .value.cluster = {l->cluster, 1, 1}}};
    gems_cuda_config config = {{l->grid[0], l->grid[1], l->grid[2]},
                               {l->block[0], l->block[1], l->block[2]},
                               l->shared,
                               l->stream,
                               attributes,
                               1};
    if (!d->launch_ex)
        return gems_fail(GEMS_RUNTIME_ERROR,
                         "%s: the driver is too old for clusters (no cuLaunchKernelEx)",
                         l->name ? l->name : "launch");
    if (l->cluster > PORTABLE_CLUSTER &&
        !atomic_load_explicit(&k->any_cluster, memory_order_relaxed)) {
        int result = d->function_set(k->function, ANY_CLUSTER, 1);
        if (result) return fail(d, result, "cuFuncSetAttribute", "allowing a large cluster");
        atomic_store_explicit(&k->any_cluster, true, memory_order_relaxed);
    }
    int result = d->launch_ex(&config, k->function, l->args, NULL);
    return result ? fail(d, result, "cuLaunchKernelEx", l->name ? l->name : "launch") : GEMS_OK;
}

static gems_status launch_here(const gems_cuda_driver *d, gems_module *m, kernel *k,
                               const gems_launch *l) {
    if (l->shared > atomic_load_explicit(&k->shared, memory_order_relaxed))
        GEMS_TRY(allow_shared(d, m, k, l->shared));
    if (l->cluster > 1) return launch_cluster(d, k, l);
    int result = d->launch(k->function, l->grid[0], l->grid[1], l->grid[2], l->block[0],
                           l->block[1], l->block[2], l->shared, l->stream, l->args, NULL);
    return result ? fail(d, result, "cuLaunchKernel", l->name ? l->name : "launch") : GEMS_OK;
}

gems_status gems_cuda_launch(int device, gems_module *module, int entry,
                             const gems_launch *launch) {
    const gems_cuda_driver *d = gems_cuda_driver_open();
    bool pushed;
    if (!d) return GEMS_ERROR;
    if (device != module->device || entry < 0 || entry >= module->count)
        return gems_fail(GEMS_VALUE_ERROR, "%s: kernel %d of device %d is not in this module",
                         launch->name ? launch->name : "launch", entry, device);
    GEMS_TRY(enter(d, module->context, &pushed));
    gems_status status = launch_here(d, module, &module->kernels[entry], launch);
    leave(d, pushed);
    return status;
}

/* A stream that cannot be asked counts as captured: then nothing is loaded, and ATen meets the
 * driver's error. */
bool gems_cuda_capturing(int device, void *stream) {
    const gems_cuda_driver *d = gems_cuda_driver_open();
    void *context;
    bool pushed;
    int status = 0;
    if (!d) return false;
    if (context_of(d, device, &context) != GEMS_OK || enter(d, context, &pushed) != GEMS_OK)
        return true;
    int result = d->stream_capturing(stream, &status);
    leave(d, pushed);
    return result || status;
}

gems_status gems_cuda_read(int device, void *stream, const void *from, size_t bytes, void *to) {
    const gems_cuda_driver *d = gems_cuda_driver_open();
    const char *step = "cuMemcpyDtoHAsync";
    void *context;
    bool pushed;
    if (!d) return GEMS_ERROR;
    GEMS_TRY(context_of(d, device, &context));
    GEMS_TRY(enter(d, context, &pushed));
    int result = d->copy_to_host(to, (uint64_t)(uintptr_t)from, bytes, stream);
    if (!result) {
        step = "cuStreamSynchronize";
        result = d->stream_wait(stream);
    }
    leave(d, pushed);
    return result ? fail(d, result, step, "reading a result's size") : GEMS_OK;
}

/* No context is needed. A tensor that the driver does not take is declined: its product runs
 * without a map. */
gems_status gems_cuda_tensor_map(int device, const gems_tensor_map *tensor, void *map) {
    const gems_cuda_driver *d = gems_cuda_driver_open();
    (void)device;
    if (!d || !d->tensor_map) return gems_decline("the driver makes no tensor maps");
    const unsigned ndim = tensor->sizes[3] ? 4 : 3;
    uint64_t sizes[4], strides[3];
    const unsigned box[4] = {(unsigned)tensor->box[0], (unsigned)tensor->box[1], 1, 1},
                   steps[4] = {1, 1, 1, 1};
    for (int i = 0; i < 4; i++) sizes[i] = (uint64_t)tensor->sizes[i];
    for (int i = 0; i < 3; i++) strides[i] = (uint64_t)tensor->strides[i];
    const int type = tensor->dtype == GEMS_BF16  ? MAP_BF16
                     : tensor->dtype == GEMS_F16 ? MAP_F16
                     : tensor->dtype == GEMS_F32 ? MAP_TF32
                                                 : MAP_BYTE;
    int result = d->tensor_map(map, type, ndim, (void *)(uintptr_t)tensor->data, sizes, strides,
                               box, steps, 0, MAP_SWIZZLE_128, MAP_PROMOTE_256, 0);
    return result ? gems_decline("a tensor of which the driver makes no map") : GEMS_OK;
}
