/* The backend for NVIDIA GPUs: NVRTC compiles, the driver loads and launches. It opens with NVRTC
 * alone, so that a machine without a GPU can compile for one; device_count is 0 there, and what
 * needs the driver says why it fails. */
#include <stdarg.h>
#include <stdio.h>

#include "cuda.h"

static gems_status open_backend(void) { return gems_cuda_compiler_open() ? GEMS_OK : GEMS_ERROR; }

static void add(char **text, size_t *room, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void add(char **text, size_t *room, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int size = vsnprintf(*text, *room, format, list);
    va_end(list);
    if (size < 0) return;
    size_t used = (size_t)size < *room ? (size_t)size : *room ? *room - 1 : 0;
    *text += used;
    *room -= used;
}

static void describe(char *text, size_t size) {
    const gems_cuda_compiler *c = gems_cuda_compiler_open();
    if (c) {
        add(&text, &size, "NVRTC %d.%d: %s\n", c->major, c->minor, c->path);
        if (*c->remark) add(&text, &size, "NVRTC may not work: %s\n", c->remark);
    } else {
        add(&text, &size, "%s", gems_error_text());
    }
    const gems_cuda_driver *d = gems_cuda_driver_open();
    if (!d) {
        add(&text, &size, "%s", gems_error_text());
        return;
    }
    add(&text, &size, "driver for CUDA %d.%d: %s\n", d->number / 1000, d->number % 1000 / 10,
        d->path);
    for (int i = 0; i < d->devices; i++) {
        char name[128], arch_name[32] = "";
        int arch = 0;
        gems_cuda_device_label(i, name, sizeof name);
        if (gems_cuda_device_arch(i, &arch) == GEMS_OK && c)
            if (gems_cuda_arch_name(c, arch, arch_name, sizeof arch_name) != GEMS_OK)
                arch_name[0] = 0;
        add(&text, &size, "device %d: %s, sm_%d, compiled for as %s\n", i, name, arch,
            *arch_name ? arch_name : "nothing");
    }
}

const gems_backend gems_backend_cuda = {
    .version = GEMS_BACKEND_VERSION,
    .name = "cuda",
    .device_type = GEMS_CUDA,
    .open = open_backend,
    .describe = describe,
    .device_count = gems_cuda_device_count,
    .device_info = gems_cuda_device_info,
    .identity = gems_cuda_identity,
    .compile = gems_cuda_compile,
    .load = gems_cuda_load,
    .launch = gems_cuda_launch,
    .unload = gems_cuda_unload,
    .capturing = gems_cuda_capturing,
    .read = gems_cuda_read,
    .tensor_map = gems_cuda_tensor_map,
};
