/* unique_dim, unique_dim_consecutive, unique_consecutive along a dim: what is unique are the slices
 * of a tensor, rows of a matrix once the dim is moved to the front. Twin of kernels/runs_rows.cu.
 */
#include "runs.h"

#include "../base/dtype.h"

#define THREADS 256

enum {
    SORT = RUNS_OF_ROWS,
    MERGE,
    FLAGS,
    GATHER
}; /* kernels of the program, behind those of runs */

/* The tensor as a matrix, and its rows' numbers in order. */
typedef struct {
    const void *x;
    int64_t width;
    int64_t *order, *other;
    uint8_t *flags;
} matrix;

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int64_t blocks,
                          void **args) {
    bool fast = gems_device_information(call->device)->fast;
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, 0, args);
}

static gems_status sort_rows(gems_call *call, const gems_runs *r, matrix *m) {
    const gems_device_info *info = gems_device_information(call->device);
    int32_t n = (int32_t)r->n;
    void *args[] = {&m->x, &m->order, &m->other, &n, &m->width};
    if (info->fast) return launch(call, r->plan, SORT, 1, args);
    GEMS_TRY(launch(call, r->plan, SORT, (r->n + THREADS - 1) / THREADS, args));
    for (int32_t size = THREADS; size < n; size *= 2) {
        void *merge[] = {&m->x, &m->order, &m->other, &n, &m->width, &size};
        GEMS_TRY(launch(call, r->plan, MERGE, gems_grid_for(info, n, THREADS), merge));
        int64_t *swap = m->order;
        m->order = m->other;
        m->other = swap;
    }
    return GEMS_OK;
}

gems_status gems_runs_rows(gems_call *call, int64_t along, bool sorts, bool inverse, bool counts) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *self = gems_arg_tensor(call, 0);
    int dim = gems_wrap_dim(along, self->ndim), ndim = self->ndim;
    if (dim < 0 || !ndim || !self->numel) return gems_decline("no rows along dim");
    int64_t n = self->sizes[dim], none = 0, step = 1;
    int64_t sizes[GEMS_MAX_DIMS] = {n}, strides[GEMS_MAX_DIMS] = {self->strides[dim]};
    int64_t wanted[GEMS_MAX_DIMS], shape[GEMS_MAX_DIMS];
    if (n >= INT32_MAX / 2) return gems_decline("more rows than the kernels take");
    for (int d = 0, to = 1; d < ndim; d++) {
        shape[d] = self->sizes[d];
        if (d == dim) continue;
        sizes[to] = self->sizes[d];
        strides[to++] = self->strides[d];
    }
    for (int d = ndim - 1; d >= 0; d--) { /* as of the matrix, its rows moved back */
        if (d == dim) continue;
        wanted[d] = step;
        step *= self->sizes[d];
    }
    wanted[dim] = step;
    bool cpu = call->device_type == GEMS_CPU; /* elsewhere ATen's result is contiguous */
    if (cpu) inverse = counts = true;         /* as ATen there */
    int64_t inner = step;
    for (int d = 0; d < dim && !cpu; d++) inner /= self->sizes[d];
    gems_runs r = {.n = n};
    matrix m = {.width = step};
    gems_key key = {.kernel = RUNS_ROWS};
    key.dtype[0] = self->dtype;
    GEMS_TRY(gems_call_readable(call));
    GEMS_TRY(gems_call_plan(call, &key, &r.plan));
    void *data;
    GEMS_TRY(gems_runs_contiguous(call, self, sizes, strides, &data));
    m.x = data;
    size_t orders = sorts ? 2 * (size_t)n * sizeof(int64_t) : 0;
    GEMS_TRY(gems_scratch(call, orders + (size_t)n, &data));
    m.order = sorts ? data : NULL;
    m.other = sorts ? m.order + n : NULL;
    r.flags = m.flags = (uint8_t *)data + orders;
    if (sorts) GEMS_TRY(sort_rows(call, &r, &m));
    r.source = m.order;
    int32_t rows = (int32_t)n;
    int64_t group = info->fast ? 16384 / step + 1 : THREADS / 32;
    void *flag_args[] = {&m.x, &m.order, &m.flags, &rows, &m.width};
    GEMS_TRY(launch(call, r.plan, FLAGS, gems_grid_for(info, n, group), flag_args));
    GEMS_TRY(gems_runs_count(call, &r));
    shape[dim] = r.total;
    GEMS_TRY(gems_output(call, 0, ndim, shape, cpu ? wanted : NULL, self->dtype));
    GEMS_TRY(gems_output(call, 1, 1, inverse ? &n : &none, NULL, GEMS_I64));
    GEMS_TRY(gems_output(call, 2, 1, counts ? &r.total : &none, NULL, GEMS_I64));
    GEMS_TRY(gems_runs_pick(call, &r, NULL, inverse ? call->out[1].data : NULL,
                            counts ? call->out[2].data : NULL, true));
    int32_t total = (int32_t)r.total;
    void *args[] = {&m.x, &m.order, &r.firsts, &call->out[0].data, &total, &m.width, &inner};
    return launch(call, r.plan, GATHER, gems_grid_for(info, total, group), args);
}
