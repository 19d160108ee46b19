/* Elements picked by index tensors: embedding, index_select, gather; scatter_add. An index out of
 * range is never followed: on a CPU the call declines, so that ATen raises its IndexError; on a GPU
 * the kernel stops with a device-side assertion, as ATen's does. */
#include "scatter.h"

#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"
#include "modes.h"

#define THREADS    256
/* Entries of a scatter_add line that one thread of a GPU adds up. Longer lines are ATen's, whose
 * atomics are quicker: on 16384 entries by 4096 lines an H200 ran this kernel at 0.15 of ATen's
 * speed in float32 and 0.07 in bfloat16. */
#define SHORT_LINE 32

/* ---- shared by the family's files ---- */

bool gems_gather_map(const gems_iter *iter, int first, int vector, bool wide, gather_map *map) {
    int ndim = iter->ndim - first;
    if (ndim > GATHER_DIMS) return false;
    int64_t n = 1;
    gather_narrow *narrow = &map->narrow;
    gather_wide *large = &map->wide;
    for (int d = 0; d < GATHER_DIMS; d++) {
        bool used = d < ndim;
        int64_t size = used ? iter->size[d + first] : 1;
        int64_t scale = d + first == 0 ? vector : 1;
        if (size > INT32_MAX) return false;
        n *= size / scale;
        gems_fastdiv div = gems_fastdiv_make((uint32_t)(size ? size / scale : 1));
        if (wide)
            large->div[d] = div;
        else
            narrow->div[d] = div;
        for (int k = 0; k < 3; k++) {
            int64_t stride = used ? iter->stride[k][d + first] * scale : 0;
            if (wide)
                large->stride[d][k] = stride;
            else
                narrow->stride[d][k] = (int32_t)stride;
        }
    }
    if (wide) {
        large->ndim = ndim;
        large->n = n;
    } else {
        narrow->ndim = ndim;
        narrow->n = (int32_t)n;
    }
    return true;
}

bool gems_gather_needs_wide(const gems_iter *iter, int64_t more) {
    int64_t most = iter->numel > more ? iter->numel : more;
    for (int k = 0; k < iter->operands; k++) {
        int64_t offset = gems_max_offset(iter->size, iter->stride[k], iter->ndim);
        if (offset > most) most = offset;
    }
    return most >= INT32_MAX - (1 << 24);
}

bool gems_gather_index(int dtype, uint8_t *flags) {
    if (dtype == GEMS_I32) *flags |= GATHER_INDEX32;
    return dtype == GEMS_I32 || dtype == GEMS_I64;
}

gems_status gems_range_open(gems_call *call, int32_t *local, void **flag) {
    *local = 0;
    *flag = call->device_type == GEMS_CPU ? local : NULL;
    if (!*flag || !gems_device_information(call->device)->wants_extents) return GEMS_OK;
    GEMS_TRY(gems_scratch(call, sizeof *local, flag));
    memset(*flag, 0, sizeof *local);
    return GEMS_OK;
}

gems_status gems_range_close(const gems_call *call, const void *flag) {
    int32_t said = 0;
    if (call->device_type == GEMS_CPU && flag) memcpy(&said, flag, sizeof said);
    return said ? gems_decline("an index is out of range") : GEMS_OK;
}

void gems_gather_head(const gems_key *key, gems_program *program) {
    gems_text_add(&program->head, "typedef %s T;\n", gems_dtype_kernel(key->dtype[0]));
    gems_text_add(&program->head, "typedef %s Int;\n",
                  key->flags & GATHER_INDEX32 ? "int32_t" : "int64_t");
    gems_text_add(&program->head, "typedef %s Index;\n",
                  key->flags & GATHER_WIDE ? "int64_t" : "int32_t");
}

gems_status gems_gather_contiguous(gems_call *call, const gems_tensor *t, void **data) {
    *data = t->data;
    if (gems_is_contiguous(t)) return GEMS_OK;
    int64_t strides[GEMS_MAX_DIMS];
    gems_contiguous_strides(t->sizes, t->ndim, strides);
    GEMS_TRY(gems_scratch(call, (size_t)t->numel * gems_dtype_size(t->dtype), data));
    return gems_copy_views(call, t->sizes, t->ndim, (gems_view){*data, strides, t->dtype},
                           (gems_view){t->data, t->strides, t->dtype});
}

/* ---- embedding, index_select, gather: out[i] = self[i, with the index in place of i's dim] ----
 */

/* What a row makes of its arguments: the shape of out, and for each of its dims the strides of
 * index and of self; self's stride and size along the indexed dim. */
typedef struct {
    const gems_tensor *self, *index;
    int ndim;
    int64_t sizes[GEMS_MAX_DIMS], index_strides[GEMS_MAX_DIMS], self_strides[GEMS_MAX_DIMS];
    int64_t step, size;
} request;

static gems_status ask_embedding(const gems_call *call, request *r) {
    r->self = gems_arg_tensor(call, 0);
    r->index = gems_arg_tensor(call, 1);
    if (!r->self || !r->index) return gems_decline("no tensors");
    if (r->self->ndim != 2) return gems_decline("the weight is no matrix");
    if (r->index->ndim + 1 > GEMS_MAX_DIMS)
        return gems_decline("more dimensions than kernels take");
    for (int d = 0; d < r->index->ndim; d++) {
        r->sizes[d] = r->index->sizes[d];
        r->index_strides[d] = r->index->strides[d];
        r->self_strides[d] = 0;
    }
    r->ndim = r->index->ndim + 1;
    r->sizes[r->ndim - 1] = r->self->sizes[1];
    r->index_strides[r->ndim - 1] = 0;
    r->self_strides[r->ndim - 1] = r->self->strides[1];
    r->step = r->self->strides[0];
    r->size = r->self->sizes[0];
    return GEMS_OK;
}

static gems_status ask_select(const gems_call *call, request *r) {
    r->self = gems_arg_tensor(call, 0);
    r->index = gems_arg_tensor(call, 2);
    if (!r->self || !r->index) return gems_decline("no tensors");
    int dim = gems_wrap_dim(gems_arg_int(call, 1), r->self->ndim);
    if (dim < 0 || !r->self->ndim) return gems_decline("dim out of range");
    if (r->index->ndim > 1) return gems_decline("the index is no vector");
    r->ndim = r->self->ndim;
    for (int d = 0; d < r->ndim; d++) {
        bool picked = d == dim;
        r->sizes[d] = picked ? r->index->numel : r->self->sizes[d];
        r->index_strides[d] = picked && r->index->ndim ? r->index->strides[0] : 0;
        r->self_strides[d] = picked ? 0 : r->self->strides[d];
    }
    r->step = r->self->strides[dim];
    r->size = r->self->sizes[dim];
    return GEMS_OK;
}

static gems_status ask_gather(const gems_call *call, request *r) {
    r->self = gems_arg_tensor(call, 0);
    r->index = gems_arg_tensor(call, 2);
    if (!r->self || !r->index) return gems_decline("no tensors");
    if (r->self->ndim != r->index->ndim) return gems_decline("index and self differ in rank");
    int dim = gems_wrap_dim(gems_arg_int(call, 1), r->self->ndim);
    if (dim < 0) return gems_decline("dim out of range");
    r->ndim = r->self->ndim;
    for (int d = 0; d < r->ndim; d++) {
        if (d != dim && r->index->sizes[d] > r->self->sizes[d])
            return gems_decline("the index is larger than self");
        r->sizes[d] = r->index->sizes[d];
        r->index_strides[d] = r->index->strides[d];
        r->self_strides[d] = d == dim ? 0 : r->self->strides[d];
    }
    r->step = r->ndim ? r->self->strides[dim] : 0;
    r->size = r->ndim ? r->self->sizes[dim] : 1;
    return GEMS_OK;
}

/* Elements of one access along the innermost dim, where it is contiguous in out and self and one
 * index holds for all of it. */
static int vector_of(const gems_iter *iter, const gems_tensor *out, const request *r, int size) {
    int vector = 16 / size;
    int64_t bits = iter->size[0] | r->step;
    for (int d = 1; d < iter->ndim; d++) bits |= iter->stride[0][d] | iter->stride[2][d];
    uintptr_t places = (uintptr_t)out->data | (uintptr_t)r->self->data;
    while (vector > 1 && (bits % vector || places % (uintptr_t)(vector * size))) vector /= 2;
    return vector;
}

static gems_status run_elements(gems_call *call, gems_status (*ask)(const gems_call *, request *)) {
    const gems_device_info *info = gems_device_information(call->device);
    request r;
    GEMS_TRY(ask(call, &r));
    gems_key key = {.kernel = GATHER_ELEMENTS};
    key.dtype[0] = (uint8_t)gems_copy_carrier(r.self->dtype);
    if (key.dtype[0] == GEMS_NO_DTYPE) return gems_decline("dtype without a kernel");
    if (!gems_gather_index(r.index->dtype, &key.flags)) return gems_decline("the index's dtype");
    if (r.index->device_type != call->device_type || r.self->device_type != call->device_type)
        return gems_decline("tensors on several devices");
    GEMS_TRY(gems_output(call, 0, r.ndim, r.sizes, NULL, r.self->dtype));
    const gems_tensor *out = &call->out[0];
    if (!out->numel) return GEMS_OK;

    const int64_t *strides[3] = {out->strides, r.index_strides, r.self_strides};
    gems_iter iter;
    gems_iter_make(&iter, r.sizes, r.ndim, strides, 3);
    int64_t farthest = gems_max_offset(r.self->sizes, r.self->strides, r.self->ndim);
    bool wide = gems_gather_needs_wide(&iter, farthest);
    bool rows = iter.stride[0][0] == 1 && iter.stride[1][0] == 0 && iter.stride[2][0] == 1;
    int size = (int)gems_dtype_size(r.self->dtype);
    int vector = rows && !info->fast ? vector_of(&iter, out, &r, size) : 1;
    rows = rows && info->fast; /* whole rows are copied there */
    int64_t run = iter.size[0];
    gather_map map;
    if (!gems_gather_map(&iter, rows, vector, wide, &map))
        return gems_decline("more dimensions than the kernel takes");
    key.flags |= (uint8_t)((wide ? GATHER_WIDE : 0) | (rows ? GATHER_ROWS : 0));
    key.tune[0] = (uint8_t)vector;
    key.tune[1] = map.narrow.ndim <= 2 ? 2 : map.narrow.ndim <= 4 ? 4 : 8;

    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t local;
    void *flag, *out_data = out->data, *index_data = r.index->data, *self_data = r.self->data;
    GEMS_TRY(gems_range_open(call, &local, &flag));
    int64_t n = wide ? map.wide.n : map.narrow.n;
    int64_t per_block = !info->fast ? THREADS * 4 : rows ? 32768 / run + 1 : 16384;
    const uint32_t grid[3] = {gems_grid_for(info, n, per_block), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    void *args[] = {&out_data, &index_data, &self_data, &map, &r.step, &r.size, &run, &flag};
    GEMS_TRY(gems_call_launch(call, plan, 0, grid, block, 0, args));
    return gems_range_close(call, flag);
}

/* ---- scatter_add: one thread adds up a line along dim, in the order of the index ---- */

static gems_status run_scatter_add(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *self = gems_arg_tensor(call, 0), *index = gems_arg_tensor(call, 2);
    const gems_tensor *src = gems_arg_tensor(call, 3);
    if (!self || !index || !src) return gems_decline("no tensors");
    if (self->ndim != index->ndim || self->ndim != src->ndim || !self->ndim)
        return gems_decline("self, index and src differ in rank");
    int dim = gems_wrap_dim(gems_arg_int(call, 1), self->ndim), ndim = self->ndim;
    if (dim < 0) return gems_decline("dim out of range");
    if (self->dtype != src->dtype || !(GEMS_BIT(self->dtype) & GEMS_REAL_MASK))
        return gems_decline("the dtype");
    gems_key key = {.kernel = GATHER_SCATTER_ADD};
    key.dtype[0] = self->dtype;
    if (!gems_gather_index(index->dtype, &key.flags)) return gems_decline("the index's dtype");
    int64_t sizes[GEMS_MAX_DIMS], strides[3][GEMS_MAX_DIMS];
    for (int d = 0; d < ndim; d++) {
        if (index->sizes[d] > src->sizes[d] || (d != dim && index->sizes[d] > self->sizes[d]))
            return gems_decline("the index is larger than self or src");
        sizes[d] = d == dim ? 1 : index->sizes[d];
    }
    int64_t lines = gems_numel(sizes, ndim), length = index->sizes[dim];
    if (!info->fast && length > SHORT_LINE) {
        bool done;
        GEMS_TRY(gems_scatter_add_rows(call, &done));
        if (done) return GEMS_OK;
    }
    if (info->arch && length > SHORT_LINE)
        return gems_decline("long lines, which ATen adds up faster on a GPU");
    GEMS_TRY(gems_output(call, 0, ndim, self->sizes, NULL, self->dtype));
    const gems_tensor *out = &call->out[0];
    if (!out->numel) return GEMS_OK;

    /* Halves are summed in float32, beside, and rounded once. */
    gems_view result = {out->data, out->strides, out->dtype}, sums = result;
    int64_t contiguous[GEMS_MAX_DIMS];
    gems_view given = {self->data, self->strides, self->dtype};
    if (gems_dtype_opmath(self->dtype) != self->dtype && index->numel) {
        gems_contiguous_strides(self->sizes, ndim, contiguous);
        sums.strides = contiguous;
        sums.dtype = gems_dtype_opmath(self->dtype);
        GEMS_TRY(gems_scratch(call, (size_t)out->numel * gems_dtype_size(sums.dtype), &sums.data));
    }
    for (int d = 0; d < ndim; d++) {
        strides[0][d] = sums.strides[d];
        strides[1][d] = index->strides[d];
        strides[2][d] = src->strides[d];
    }
    int64_t steps[3] = {strides[0][dim], strides[1][dim], strides[2][dim]};
    const int64_t *operands[3] = {strides[0], strides[1], strides[2]};
    gems_iter iter;
    gems_iter_make(&iter, sizes, ndim, operands, 3);
    gather_map map;
    if (!gems_gather_map(&iter, 0, 1, true, &map))
        return gems_decline("more dimensions than the kernel takes");
    key.flags |= GATHER_WIDE;
    key.tune[1] = 8;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t local;
    void *flag, *index_data = index->data, *src_data = src->data;
    int64_t size = self->sizes[dim];
    GEMS_TRY(gems_range_open(call, &local, &flag));
    int64_t per_block = info->fast ? 4096 / (length + 1) + 1 : THREADS;
    const uint32_t grid[3] = {gems_grid_for(info, lines, per_block), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    void *args[] = {&sums.data, &index_data, &src_data, &map,  &length,
                    &steps[0],  &steps[1],   &steps[2], &size, &flag};
    if (flag && index->numel) { /* nothing of self is to change when an index is bad */
        GEMS_TRY(gems_call_launch(call, plan, 1, grid, block, 0, args));
        GEMS_TRY(gems_range_close(call, flag));
    }
    if (sums.data != given.data) GEMS_TRY(gems_copy_views(call, self->sizes, ndim, sums, given));
    if (!index->numel) return GEMS_OK;
    GEMS_TRY(gems_call_launch(call, plan, 0, grid, block, 0, args));
    return sums.data == result.data ? GEMS_OK
                                    : gems_copy_views(call, self->sizes, ndim, result, sums);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    switch (call->op->mode) {
    case GEMS_EMBEDDING: return run_elements(call, ask_embedding);
    case GEMS_INDEX_SELECT: return run_elements(call, ask_select);
    case GEMS_GATHER: return run_elements(call, ask_gather);
    case GEMS_SCATTER_ADD: return run_scatter_add(call);
    case GEMS_EMBEDDING_BACKWARD: return gems_segment_run(call);
    case GEMS_NLL_LOSS:
    case GEMS_NLL_LOSS_2D: return gems_loss_run(call, false, call->op->mode == GEMS_NLL_LOSS_2D);
    default: return gems_loss_run(call, true, call->op->mode == GEMS_NLL_LOSS_2D_BACKWARD);
    }
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    if (key->kernel >= GEMS_COPY_END)
        snprintf(program->name, sizeof program->name, "%.*s %s%s", (int)strcspn(op->schema, "("),
                 op->schema, gems_dtype_name(key->dtype[0]), key->tune[0] > 1 ? " vectors" : "");
    switch (key->kernel) {
    case GATHER_ELEMENTS:
    case GATHER_SCATTER_ADD: break;
    case GATHER_SEGMENT: return gems_segment_program(key, program);
    case GATHER_LOSS:
    case GATHER_LOSS_BACKWARD: return gems_loss_program(key, program);
    case SCATTER_ROWS: return gems_scatter_rows_program(op, key, program);
    default: return gems_copy_program(op, key, program);
    }
    bool scatter = key->kernel == GATHER_SCATTER_ADD;
    gems_gather_head(key, program);
    gems_text_add(&program->head, "#define GATHER_KERNEL %d\n", scatter ? 2 : 1);
    gems_text_add(&program->head,
                  "constexpr int kV = %d, kRank = %d;\nconstexpr bool kRows = %s;\n", key->tune[0],
                  key->tune[1], key->flags & GATHER_ROWS ? "true" : "false");
    program->files[0] = "index.cuh";
    program->files[1] = "gather.cu";
    program->entries[0] = scatter ? "scatter_add" : "gather_elements";
    program->entries[1] = "check_lines";
    program->entry_count = scatter ? 2 : 1;
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    bool is_float = (GEMS_BIT(dtype) & GEMS_FLOAT_MASK) != 0;
    int carrier = gems_copy_carrier(dtype);
    if (carrier == GEMS_NO_DTYPE) return false;
    key->dtype[0] = (uint8_t)dtype;
    switch (op->mode) {
    case GEMS_EMBEDDING:
    case GEMS_INDEX_SELECT:
    case GEMS_GATHER:
        key->kernel = GATHER_ELEMENTS;
        key->dtype[0] = (uint8_t)carrier;
        key->flags = i == 0 && info->fast ? GATHER_ROWS : 0;
        key->tune[0] = (uint8_t)(i == 0 && !info->fast ? 16 / gems_dtype_size(carrier) : 1);
        key->tune[1] = 2;
        return i < 2;
    case GEMS_SCATTER_ADD:
        key->kernel = GATHER_SCATTER_ADD;
        key->flags = GATHER_WIDE;
        key->tune[1] = 8;
        if (i == 1) gems_scatter_rows_key(key, SCATTER_SUM);
        return (i == 0 || (i == 1 && !info->fast)) && (GEMS_BIT(dtype) & GEMS_REAL_MASK);
    case GEMS_EMBEDDING_BACKWARD:
        key->kernel = GATHER_SEGMENT;
        key->flags = info->fast ? GATHER_FAST : 0;
        key->tune[0] = (uint8_t)(info->fast ? 1 : 16 / gems_dtype_size(dtype));
        return i == 0 && is_float;
    case GEMS_NLL_LOSS:
    case GEMS_NLL_LOSS_2D:
    case GEMS_NLL_LOSS_BACKWARD:
    default:
        if (!is_float || i > 1) return false;
        key->kernel = op->mode == GEMS_NLL_LOSS || op->mode == GEMS_NLL_LOSS_2D
                          ? GATHER_LOSS
                          : GATHER_LOSS_BACKWARD;
        key->flags = i ? GATHER_WEIGHT : 0;
        key->tune[0] = 1; /* mean */
        return true;
    }
}

const gems_family gems_family_gather = {
    .name = "gather",
    .run = run,
    .program = program,
    .warm = warm,
    .strided_output = true,
};
