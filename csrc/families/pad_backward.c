/* Gradients of reflection and replication pads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/dtype.h"
#include "index_map.h"
#include "modes.h"

#define THREADS   256
#define FLAG_WIDE 1 /* 64-bit index */

/* Twins of Pads in kernels/pad_backward.cu. */
typedef struct {
    int32_t n;
    gems_fastdiv div[5];
    int32_t size[5], grad_size[3], lo[3], stride[5][2];
} pads_narrow;
typedef struct {
    int64_t n;
    gems_fastdiv div[5];
    int64_t size[5], grad_size[3], lo[3], stride[5][2];
} pads_wide;

gems_status gems_pad_backward(gems_call *call) {
    const gems_tensor *grad = gems_arg_tensor(call, 0), *self = gems_arg_tensor(call, 1);
    const gems_value *pads = &call->args[2];
    const gems_device_info *info = gems_device_information(call->device);
    /* "reflection_pad2d_backward" */
    int rank = strstr(call->op->schema, "_pad")[4] - '0', most = rank + 2;
    if (!grad || !self || grad->dtype != self->dtype || !(GEMS_BIT(grad->dtype) & call->op->dtypes))
        return gems_decline("dtype");
    if (grad->device_type != self->device_type || grad->device_index != self->device_index)
        return gems_decline("tensors on several devices");
    if (pads->kind != GEMS_INTS || pads->ints.n != 2 * rank) return gems_decline("the pads");
    if ((self->ndim != most && self->ndim != most - 1) || grad->ndim != self->ndim || !self->numel)
        return gems_decline("the rank");
    if (gems_like_channels_last(self) || gems_like_channels_last(grad))
        return gems_decline("a channels-last tensor");
    bool reflect = call->op->mode == GEMS_PAD_REFLECT_BACKWARD;
    pads_wide w = {.n = self->numel};
    for (int d = 0; d < 5; d++) w.size[d] = 1;
    for (int d = 0; d < self->ndim; d++) {
        int from = self->ndim - 1 - d; /* of the tensor */
        int to = d < rank ? d : 3 + d - rank;
        int64_t before = d < rank ? pads->ints.v[2 * d] : 0;
        int64_t after = d < rank ? pads->ints.v[2 * d + 1] : 0, size = self->sizes[from];
        if (size > INT32_MAX || grad->sizes[from] > INT32_MAX || llabs(before) > INT32_MAX ||
            llabs(after) > INT32_MAX || grad->sizes[from] != size + before + after)
            return gems_decline("the gradient's shape");
        if (reflect && (before >= size || after >= size))
            return gems_decline("a pad as long as the dim");
        w.size[to] = size;
        w.stride[to][1] = grad->strides[from];
        if (d >= rank) continue;
        w.grad_size[to] = grad->sizes[from];
        w.lo[to] = before;
    }
    for (int d = rank; d < 3; d++) w.grad_size[d] = 1;
    GEMS_TRY(gems_output(call, 0, self->ndim, self->sizes, NULL, self->dtype));
    gems_tensor *out = &call->out[0];
    for (int d = 0; d < self->ndim; d++)
        w.stride[d < rank ? d : 3 + d - rank][0] = out->strides[self->ndim - 1 - d];
    int64_t reach = gems_max_offset(grad->sizes, grad->strides, grad->ndim);
    int64_t written = gems_max_offset(out->sizes, out->strides, out->ndim);
    int64_t far = reach > written ? reach : written;
    bool wide = (far > w.n ? far : w.n) > INT32_MAX - (1 << 24);
    for (int d = 0; d < 3; d++) wide |= w.grad_size[d] + 2 * w.size[d] > INT32_MAX / 2;
    pads_narrow s = {.n = (int32_t)w.n};
    for (int d = 0; d < 5; d++) {
        s.div[d] = w.div[d] = gems_fastdiv_make((uint32_t)w.size[d]);
        s.size[d] = (int32_t)w.size[d];
        for (int k = 0; k < 2; k++) s.stride[d][k] = (int32_t)w.stride[d][k];
        if (d > 2) continue;
        s.grad_size[d] = (int32_t)w.grad_size[d];
        s.lo[d] = (int32_t)w.lo[d];
    }
    gems_key key = {.kernel = GEMS_PAD_BACKWARD_KERNEL, .flags = wide ? FLAG_WIDE : 0};
    key.dtype[0] = grad->dtype;
    key.tune[0] = reflect;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    const void *from = grad->data;
    void *to = out->data;
    void *args[] = {&to, &from, wide ? (void *)&w : (void *)&s};
    /* the fast cpu backend takes rows */
    int64_t items = info->fast ? w.n / w.size[0] : w.n;
    int64_t each = info->fast ? 1 + 8192 / w.size[0] : THREADS * 2;
    const uint32_t grid[3] = {gems_grid_for(info, items, each), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

gems_status gems_pad_backward_program(const gems_op *op, const gems_key *key,
                                      gems_program *program) {
    const char *name = gems_dtype_kernel(key->dtype[0]);
    if (!name) return gems_fail(GEMS_RUNTIME_ERROR, "not a key of a pad's gradient");
    gems_text_add(&program->head, "typedef %s T;\ntypedef %s Index;\n", name,
                  key->flags & FLAG_WIDE ? "int64_t" : "int32_t");
    gems_text_add(&program->head, "constexpr bool kReflect = %s;\n",
                  key->tune[0] ? "true" : "false");
    snprintf(program->name, sizeof program->name, "%.*s %s", (int)strcspn(op->schema, "("),
             op->schema, gems_dtype_name(key->dtype[0]));
    program->files[0] = "pad_backward.cu";
    program->entries[0] = "pad_backward";
    program->entry_count = 1;
    return GEMS_OK;
}
