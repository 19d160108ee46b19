/* nll_loss and nll_loss2d, forward and backward. Rows of the loss are the places of the target; the
 * classes are dim 1 of self (dim 0 of a single row). Sums are taken in a fixed order, by one block
 * or by several whose partial sums one block then adds. */
#include "gather.h"

#include <string.h>

#include "../base/dtype.h"

#define THREADS       256
#define ROWS_OF_BLOCK 1024 /* more rows than this: several blocks */

enum { REDUCE_NONE, REDUCE_MEAN, REDUCE_SUM }; /* torch's numbers */

/* A loss, taken apart: row i's class c is self[row offset + c * class_stride]. */
typedef struct {
    const gems_tensor *self, *target, *weight;
    int ndim; /* of the rows */
    int64_t sizes[3], self_strides[3];
    int64_t classes, class_stride, rows;
    int reduction;
} loss;

static gems_status take(const gems_call *call, loss *l, int first, bool image) {
    l->self = gems_arg_tensor(call, first);
    l->target = gems_arg_tensor(call, first + 1);
    l->weight = gems_arg_tensor(call, first + 2);
    l->reduction = (int)gems_arg_int(call, first + 3);
    const gems_tensor *self = l->self, *target = l->target, *weight = l->weight;
    if (!self || !target) return gems_decline("no tensors");
    if (image ? self->ndim != 4 : self->ndim != 1 && self->ndim != 2)
        return gems_decline("self's rank");
    if (!(GEMS_BIT(self->dtype) & GEMS_FLOAT_MASK)) return gems_decline("the dtype");
    if (target->dtype != GEMS_I64) return gems_decline("the target's dtype");
    if (l->reduction < REDUCE_NONE || l->reduction > REDUCE_SUM)
        return gems_decline("the reduction");
    int axis = self->ndim > 1;
    l->ndim = self->ndim - 1;
    l->classes = self->sizes[axis];
    l->class_stride = self->strides[axis];
    l->rows = 1;
    if (target->ndim != l->ndim) return gems_decline("the target's rank");
    for (int d = 0; d < l->ndim; d++) {
        l->sizes[d] = self->sizes[d < axis ? d : d + 1];
        l->self_strides[d] = self->strides[d < axis ? d : d + 1];
        if (target->sizes[d] != l->sizes[d]) return gems_decline("the target's shape");
        l->rows *= l->sizes[d];
    }
    if (l->rows > INT32_MAX - (1 << 24)) return gems_decline("more rows than the kernel's index");
    if (weight && (weight->ndim != 1 || weight->numel != l->classes ||
                   weight->dtype != self->dtype || weight->strides[0] != 1))
        return gems_decline("the weight's shape, dtype or stride");
    if (l->ndim == 0 && l->reduction == REDUCE_NONE)
        l->reduction = REDUCE_SUM; /* one row, as ATen */
    return GEMS_OK;
}

/* The program of a loss; third: strides of the operand beside target and self. */
static gems_status prepare(gems_call *call, const loss *l, const int64_t *third, int kernel,
                           gather_map *map, const gems_plan **plan) {
    gems_key key = {.kernel = (uint8_t)kernel, .flags = l->weight ? GATHER_WEIGHT : 0};
    key.dtype[0] = l->self->dtype;
    key.tune[0] = (uint8_t)l->reduction;
    const int64_t *strides[3] = {third, l->target->strides, l->self_strides};
    gems_iter iter;
    gems_iter_make(&iter, l->sizes, l->ndim, strides, 3);
    if (!gems_gather_map(&iter, 0, 1, true, map))
        return gems_decline("a dimension beyond the kernel's index");
    return gems_call_plan(call, &key, plan);
}

static gems_status forward(gems_call *call, bool image) {
    const gems_device_info *info = gems_device_information(call->device);
    static const int64_t still[3] = {0};
    loss l;
    gather_map map;
    const gems_plan *plan;
    GEMS_TRY(take(call, &l, 0, image));
    int64_t ignored = gems_arg_int(call, 4);
    bool none = l.reduction == REDUCE_NONE;
    GEMS_TRY(gems_output(call, 0, none ? l.ndim : 0, l.sizes, NULL, l.self->dtype));
    GEMS_TRY(gems_output(call, 1, 0, NULL, NULL, l.self->dtype));
    GEMS_TRY(prepare(call, &l, none ? call->out[0].strides : still, GATHER_LOSS, &map, &plan));
    uint32_t blocks = gems_grid_for(info, l.rows, none ? THREADS : ROWS_OF_BLOCK);
    if (!blocks) blocks = 1; /* no rows: the sum is 0, the mean NaN */
    void *partial = NULL;
    if (!none && blocks > 1) GEMS_TRY(gems_scratch(call, blocks * 2 * sizeof(double), &partial));
    int32_t local;
    void *flag;
    GEMS_TRY(gems_range_open(call, &local, &flag));
    void *self = l.self->data, *target = l.target->data, *weight = l.weight ? l.weight->data : NULL;
    void *out = call->out[0].data, *total = call->out[1].data;
    uint32_t grid[3] = {blocks, 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    void *args[] = {&out, &total,          &partial,   &self,    &target, &weight,
                    &map, &l.class_stride, &l.classes, &ignored, &flag};
    GEMS_TRY(gems_call_launch(call, plan, 0, grid, block, 0, args));
    GEMS_TRY(gems_range_close(call, flag));
    if (!partial) return GEMS_OK;
    int32_t parts = (int32_t)blocks;
    void *finish[] = {&out, &total, &partial, &parts};
    grid[0] = 1;
    return gems_call_launch(call, plan, 1, grid, block, 0, finish);
}

static gems_status backward(gems_call *call, bool image) {
    static const int64_t still[3] = {0};
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *grad = gems_arg_tensor(call, 0), *total = gems_arg_tensor(call, 6);
    loss l;
    gather_map map;
    const gems_plan *plan;
    GEMS_TRY(take(call, &l, 1, image));
    int64_t ignored = gems_arg_int(call, 5);
    bool none = l.reduction == REDUCE_NONE;
    if (!grad || !total || grad->dtype != l.self->dtype || total->dtype != l.self->dtype ||
        total->numel != 1)
        return gems_decline("the gradient or the total weight");
    if (none
            ? grad->ndim != l.ndim || memcmp(grad->sizes, l.sizes, (size_t)l.ndim * sizeof *l.sizes)
            : grad->numel != 1)
        return gems_decline("the gradient's shape");
    GEMS_TRY(gems_output(call, 0, l.self->ndim, l.self->sizes, NULL, l.self->dtype));
    gems_tensor *out = &call->out[0];
    const uint8_t zero[16] = {0};
    GEMS_TRY(gems_fill_view(call, out->sizes, out->ndim,
                            (gems_view){out->data, out->strides, out->dtype}, zero));
    if (!out->numel || !l.rows) return GEMS_OK;

    loss at = l; /* the same rows, in the gradient that is written */
    int axis = out->ndim > 1;
    for (int d = 0; d < l.ndim; d++) at.self_strides[d] = out->strides[d < axis ? d : d + 1];
    at.class_stride = out->strides[axis];
    GEMS_TRY(prepare(call, &at, none ? grad->strides : still, GATHER_LOSS_BACKWARD, &map, &plan));
    int32_t local;
    void *flag, *out_data = out->data, *grad_data = grad->data, *total_data = total->data;
    void *target = l.target->data, *weight = l.weight ? l.weight->data : NULL;
    GEMS_TRY(gems_range_open(call, &local, &flag));
    const uint32_t grid[3] = {gems_grid_for(info, l.rows, info->fast ? 4096 : THREADS), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    void *args[] = {&out_data, &grad_data,       &target,    &weight,  &total_data,
                    &map,      &at.class_stride, &l.classes, &ignored, &flag};
    GEMS_TRY(gems_call_launch(call, plan, 0, grid, block, 0, args));
    return gems_range_close(call, flag);
}

gems_status gems_loss_run(gems_call *call, bool is_backward, bool image) {
    return is_backward ? backward(call, image) : forward(call, image);
}

gems_status gems_loss_program(const gems_key *key, gems_program *program) {
    bool forwards = key->kernel == GATHER_LOSS;
    gems_text_add(&program->head, "typedef %s T;\n", gems_dtype_kernel(key->dtype[0]));
    gems_text_add(&program->head, "#define LOSS_BACKWARD %d\n", !forwards);
    gems_text_add(&program->head, "constexpr bool kNone = %s, kMean = %s, kWeight = %s;\n",
                  key->tune[0] == REDUCE_NONE ? "true" : "false",
                  key->tune[0] == REDUCE_MEAN ? "true" : "false",
                  key->flags & GATHER_WEIGHT ? "true" : "false");
    program->files[0] = "index.cuh";
    program->files[1] = "nll.cu";
    program->entries[0] = forwards ? "nll_forward" : "nll_backward";
    program->entries[1] = "nll_finish";
    program->entry_count = forwards ? 2 : 1;
    return GEMS_OK;
}
