/* sort, topk, kthvalue, median: what a call asks for. How rows are sorted is in sort_launch.c. */
#include "sort.h"

#include <string.h>

#include "../base/dtype.h"

/* Elements from which a GPU leaves to ATen those rows of which more is wanted than is selected, but
 * not half: ATen selects them. */
#define GPU_MOST       (1 << 20)
/* The same of topk of dtypes of at most two bytes: elements, and the row. */
#define GPU_NARROW     (1 << 22)
#define GPU_NARROW_ROW 2048

/* Of a call: the rows and the shape of its results. */
typedef struct {
    const gems_tensor *self;
    int dim, what;
    bool descending, keepdim, flat; /* flat: one row of all elements */
    int64_t limit, rank;
} request;

static gems_status read_dim(const gems_call *call, int arg, request *r) {
    r->dim = gems_wrap_dim(gems_arg_int(call, arg), r->self->ndim);
    return r->dim < 0 ? gems_decline("dim out of range") : GEMS_OK;
}

static int64_t row_length(const request *r) { return r->self->ndim ? r->self->sizes[r->dim] : 1; }

static gems_status read_request(const gems_call *call, request *r) {
    *r = (request){.self = gems_arg_tensor(call, 0), .what = SORT_WRITE};
    if (!r->self) return gems_decline("self is no tensor");
    if (r->self->dtype >= GEMS_DTYPES || !(call->op->dtypes & GEMS_BIT(r->self->dtype)))
        return gems_decline("the dtype");
    switch (call->op->mode) {
    case GEMS_SORT:
    case GEMS_SORT_STABLE: {
        int dim = call->op->mode == GEMS_SORT ? 1 : 2;
        GEMS_TRY(read_dim(call, dim, r));
        r->descending = gems_arg_int(call, dim + 1) != 0;
        r->limit = row_length(r);
        return GEMS_OK;
    }
    case GEMS_TOPK:
        GEMS_TRY(read_dim(call, 2, r));
        r->descending = gems_arg_int(call, 3) != 0;
        r->limit = gems_arg_int(call, 1);
        if (r->limit < 0 || r->limit > row_length(r)) return gems_decline("k out of range");
        if (!r->limit && !r->self->ndim) return gems_decline("nothing of a single element");
        return GEMS_OK;
    case GEMS_KTHVALUE:
        r->what = SORT_KTH;
        GEMS_TRY(read_dim(call, 2, r));
        r->keepdim = gems_arg_int(call, 3) != 0;
        r->rank = gems_arg_int(call, 1) - 1;
        if (r->rank < 0 || r->rank >= row_length(r)) return gems_decline("k out of range");
        break;
    default:
        r->what = call->op->mode == GEMS_MEDIAN ? SORT_MEDIAN : SORT_NANMEDIAN;
        r->flat = call->nargs == 1;
        if (!r->flat) {
            GEMS_TRY(read_dim(call, 1, r));
            r->keepdim = gems_arg_int(call, 2) != 0;
        }
        r->rank = ((r->flat ? r->self->numel : row_length(r)) - 1) / 2;
    }
    return r->self->numel ? GEMS_OK : gems_decline("an element of nothing");
}

/* The median of all elements: those of a tensor without gaps are one row, whatever their order. */
static gems_status run_flat(gems_call *call, const request *r) {
    int64_t one = 1, contiguous[GEMS_MAX_DIMS];
    const int64_t *strides[3] = {&one, &one, &one}, n = r->self->numel;
    gems_sort_job job = {
        .dtype = r->self->dtype, .what = r->what, .rank = r->rank, .in = r->self->data};
    if (!gems_lines_make(&job.lines, &n, 1, 0, strides))
        return gems_decline("more elements than the kernels take");
    GEMS_TRY(gems_output(call, 0, 0, NULL, NULL, r->self->dtype));
    if (!gems_is_non_overlapping_and_dense(r->self)) {
        gems_contiguous_strides(r->self->sizes, r->self->ndim, contiguous);
        GEMS_TRY(gems_scratch(call, (size_t)n * gems_dtype_size(r->self->dtype), &job.in));
        GEMS_TRY(gems_copy_views(call, r->self->sizes, r->self->ndim,
                                 (gems_view){job.in, contiguous, r->self->dtype},
                                 (gems_view){r->self->data, r->self->strides, r->self->dtype}));
    }
    job.values = call->out[0].data;
    return gems_sort_launch(call, &job);
}

/* Strides of an output in self's dims: 0 along a dim that it has lost. */
static void own_strides(const gems_tensor *out, const request *r, int64_t *strides) {
    for (int d = 0, o = 0; d < r->self->ndim; d++) {
        bool lost = r->what != SORT_WRITE && d == r->dim;
        strides[d] = lost ? 0 : out->strides[o];
        o += !lost || r->keepdim;
    }
}

/* Whether an out= tensor is to be resized, which keeps no order of strides. */
static bool resizes(const gems_call *call, int i) {
    return call->entry->variant == GEMS_OUT &&
           call->args[call->entry->out_arg + i].kind == GEMS_TENSOR &&
           !call->args[call->entry->out_arg + i].t.numel;
}

static gems_status run_rows(gems_call *call, const request *r) {
    int64_t sizes[GEMS_MAX_DIMS], wanted[GEMS_MAX_DIMS], strides[2][GEMS_MAX_DIMS];
    const gems_tensor *self = r->self;
    const int64_t *all[3] = {self->strides, strides[0], strides[1]}, *layout = NULL;
    int ndim = 0;
    for (int d = 0; d < self->ndim; d++) {
        if (d != r->dim || r->keepdim)
            sizes[ndim++] = d == r->dim ? 1 : self->sizes[d];
        else if (r->what == SORT_WRITE)
            sizes[ndim++] = r->limit;
    }
    if (call->op->mode == GEMS_SORT || call->op->mode == GEMS_SORT_STABLE) {
        gems_format_strides(self, GEMS_FORMAT_PRESERVE, wanted);
        layout = wanted;
        if ((resizes(call, 0) || resizes(call, 1)) && self->numel && !gems_is_contiguous(self))
            return gems_decline("an empty output that is to have self's strides");
    }
    gems_sort_job job = {.dtype = self->dtype,
                         .what = r->what,
                         .descending = r->descending,
                         .limit = r->limit,
                         .rank = r->rank,
                         .in = self->data};
    memset(strides, 0, sizeof strides);
    if (self->numel && !gems_lines_make(&job.lines, self->sizes, self->ndim, r->dim, all))
        return gems_decline("more dimensions or elements than the kernels take");
    if (call->device_type != GEMS_CPU && self->numel > GPU_MOST && 2 * r->limit < job.lines.n &&
        r->what == SORT_WRITE && !gems_sort_selects(&job))
        return gems_decline("many of long rows, which ATen selects faster on a GPU");
    if (call->device_type != GEMS_CPU && call->op->mode == GEMS_TOPK && self->numel > GPU_NARROW &&
        gems_dtype_size(self->dtype) <= 2 && job.lines.n > GPU_NARROW_ROW)
        return gems_decline("long rows of 16 bits, of which ATen selects faster on a GPU");
    GEMS_TRY(gems_output(call, 0, ndim, sizes, layout, self->dtype));
    GEMS_TRY(gems_output(call, 1, ndim, sizes, layout, GEMS_I64));
    if (!call->out[0].numel) return GEMS_OK;
    own_strides(&call->out[0], r, strides[0]);
    own_strides(&call->out[1], r, strides[1]);
    gems_lines_make(&job.lines, self->sizes, self->ndim, r->dim, all);
    job.values = call->out[0].data;
    job.places = call->out[1].data;
    return gems_sort_launch(call, &job);
}

static gems_status run(gems_call *call) {
    request r;
    switch (call->op->mode) {
    case GEMS_SEARCHSORTED:
    case GEMS_BUCKETIZE: return gems_search_run(call);
    case GEMS_ISIN: return gems_member_run(call);
    default:
        GEMS_TRY(read_request(call, &r));
        return r.flat ? run_flat(call, &r) : run_rows(call, &r);
    }
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, p);
    if (key->kernel >= SORT_SEARCH) return gems_search_program(op, key, p);
    return gems_sort_program(op, key, p);
}

static int what_of(const gems_op *op) {
    return op->mode == GEMS_KTHVALUE    ? SORT_KTH
           : op->mode == GEMS_MEDIAN    ? SORT_MEDIAN
           : op->mode == GEMS_NANMEDIAN ? SORT_NANMEDIAN
                                        : SORT_WRITE;
}

/* Rows of 4096 and long ones, in the order that is the default; some elements of both. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    static const uint8_t sorts[] = {SORT_ROW, SORT_RADIX};
    static const uint8_t selects[] = {SORT_SELECT, SORT_FAR};
    if (op->mode >= GEMS_SEARCHSORTED) return gems_search_warm(op, dtype, i, info, key);
    if (i >= (info->fast ? 1 : 2)) return false;
    bool wide = gems_dtype_size(dtype) == 8;
    key->kernel = info->fast ? SORT_FAST : (op->mode < GEMS_TOPK ? sorts : selects)[i];
    key->dtype[0] = (uint8_t)dtype;
    key->flags = op->mode == GEMS_TOPK ? SORT_DESCENDING : 0;
    key->tune[SORT_TUNE_WHAT] = (uint8_t)what_of(op);
    switch (key->kernel) {
    case SORT_ROW: key->tune[SORT_TUNE_SIZE] = wide ? 11 : 12; break;
    case SORT_RADIX: gems_sort_radix_key(key); break;
    case SORT_SELECT: gems_sort_select_key(key, 4096, op->mode == GEMS_TOPK ? 64 : 1); break;
    case SORT_FAR: gems_sort_select_key(key, 1 << 20, op->mode == GEMS_TOPK ? 64 : 1); break;
    default: break;
    }
    return true;
}

const gems_family gems_family_sort = {
    .name = "sort", .run = run, .program = program, .warm = warm, .strided_output = true};
