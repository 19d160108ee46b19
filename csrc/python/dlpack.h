/* The C exchange table of DLPack (version 1), as far as it is used to read a tensor. */
#ifndef GEMS_DLPACK_H
#define GEMS_DLPACK_H

#include <stdint.h>

typedef struct gems_dlpack_tensor {
    void *data;
    int32_t device_type, device_index;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *sizes, *strides;
    uint64_t byte_offset;
} gems_dlpack_tensor;

typedef struct gems_dlpack_api {
    uint32_t major, minor;
    struct gems_dlpack_api *previous;
    int (*allocate)(gems_dlpack_tensor *, void **, void *,
                    void (*)(void *, const char *, const char *));
    int (*managed_from_object)(void *, void **);
    int (*managed_to_object)(void *, void **);
    int (*tensor_from_object)(void *, gems_dlpack_tensor *); /* borrowed: nothing to release */
    int (*current_stream)(int32_t, int32_t, void **);
} gems_dlpack_api;

#endif
