#include "pack.h"

#include <stdio.h>
#include <string.h>

#define RANK 8

/* Twins of Strided<2, Index> in kernels/gems.cuh: operand 0 is the copy, operand 1 the tensor. */
typedef struct strided32 {
    int32_t ndim, n;
    gems_fastdiv div[RANK];
    int32_t stride[RANK][2];
} strided32;
typedef struct strided64 {
    int32_t ndim;
    int64_t n;
    gems_fastdiv div[RANK];
    int64_t stride[RANK][2];
} strided64;

enum { WIDE = 1 };

static void fill(const gems_iter *iter, strided32 *narrow, strided64 *wide) {
    narrow->ndim = wide->ndim = iter->ndim;
    narrow->n = (int32_t)iter->numel;
    wide->n = iter->numel;
    for (int d = 0; d < iter->ndim; d++) {
        narrow->div[d] = wide->div[d] =
            gems_fastdiv_make(iter->size[d] <= INT32_MAX ? (uint32_t)iter->size[d] : 1);
        for (int k = 0; k < 2; k++) {
            narrow->stride[d][k] = (int32_t)iter->stride[k][d];
            wide->stride[d][k] = iter->stride[k][d];
        }
    }
}

gems_status gems_pack(gems_call *call, const gems_tensor *t, const void **data) {
    if (gems_is_contiguous(t)) {
        *data = t->data;
        return GEMS_OK;
    }
    const gems_device_info *info = gems_device_information(call->device);
    int64_t contiguous[GEMS_MAX_DIMS];
    const int64_t *strides[2] = {contiguous, t->strides};
    size_t size = gems_dtype_size(t->dtype);
    gems_iter iter;
    gems_contiguous_strides(t->sizes, t->ndim, contiguous);
    gems_iter_make(&iter, t->sizes, t->ndim, strides, 2);
    if (iter.ndim > RANK) return gems_decline("more dimensions than this kernel takes");
    bool wide = !gems_fits_int32(gems_max_offset(t->sizes, t->strides, t->ndim)) ||
                !gems_fits_int32(t->numel);
    for (int d = 0; wide && d + 1 < iter.ndim; d++)
        if (iter.size[d] > INT32_MAX) return gems_decline("an inner dimension of 2^31 elements");
    gems_key key = {.kernel = GEMS_PACK_KERNEL, .flags = wide ? WIDE : 0, .tune = {(uint8_t)size}};
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *copy;
    GEMS_TRY(gems_scratch(call, (size_t)t->numel * size, &copy));
    strided32 narrow;
    strided64 broad;
    fill(&iter, &narrow, &broad);
    const void *from = t->data;
    void *args[] = {&copy, &from, wide ? (void *)&broad : (void *)&narrow};
    uint32_t threads = info->fast ? 1 : 256, block[3] = {threads, 1, 1};
    uint32_t grid[3] = {gems_grid_for(info, t->numel, info->fast ? 16384 : 256), 1, 1};
    *data = copy;
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

gems_status gems_pack_program(const gems_key *key, gems_program *p) {
    static const char *const types[] = {
        [1] = "uint8_t", [2] = "uint16_t", [4] = "uint32_t", [8] = "uint64_t", [16] = "gems::c128"};
    gems_text_add(&p->head, "typedef %s T;\ntypedef %s Index;\n", types[key->tune[0]],
                  key->flags & WIDE ? "int64_t" : "int32_t");
    p->files[0] = "pack.cu";
    p->entries[0] = "pack";
    p->entry_count = 1;
    snprintf(p->name, sizeof p->name, "contiguous copy, %d bytes an element", key->tune[0]);
    return GEMS_OK;
}
