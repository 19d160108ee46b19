/* Norms of the sum of two tensors: skip_layer_norm, and fused_add_rms_norm in place; rms_norm of
 * one. Twin of kernels/add_norm.cu. */
#include <stdio.h>
#include <string.h>

#include "add_norm.h"
#include "copy_views.h"

enum { WEIGHT = 1, BIAS = 2 };

/* Rows of memory: `apart` elements from one to the next. */
typedef struct rows_of {
    const void *data;
    int64_t apart;
} rows_of;

/* Twin of Apart in the kernel. */
typedef struct apart {
    int64_t x, residual, y, sum;
} apart;

static bool weight_fits(const gems_add_norm *norm, const gems_tensor *t) {
    if (!t) return true;
    int ndim = norm->x->ndim - norm->outer;
    return t->ndim == ndim && !memcmp(t->sizes, norm->shape, (size_t)ndim * sizeof *t->sizes);
}

gems_status gems_add_norm_read(const gems_call *call, gems_add_norm *norm) {
    /* x, residual, weight, bias, normalized_shape, eps */
    static const int8_t places[][6] = {[GEMS_SKIP_LAYER_NORM] = {0, 1, 3, 4, 2, 5},
                                       [GEMS_ADD_RMS_NORM] = {0, 1, 2, -1, -1, 3},
                                       [GEMS_PLAIN_RMS_NORM] = {0, -1, 1, -1, -1, 2},
                                       [GEMS_SKIP_LAYER_NORM_BACKWARD] = {1, 2, 3, 4, 5, 6},
                                       [GEMS_PLAIN_RMS_NORM_BACKWARD] = {1, -1, 2, -1, -1, 3}};
    const int8_t *place = places[call->op->mode];
    const gems_tensor *t[4];
    bool rms = gems_add_norm_rms(call->op), alone = gems_add_norm_alone(call->op);
    for (int i = 0; i < 4; i++) t[i] = place[i] < 0 ? NULL : gems_arg_tensor(call, place[i]);
    *norm = (gems_add_norm){.x = t[0],
                            .residual = t[1],
                            .weight = t[2],
                            .bias = t[3],
                            .eps = gems_arg_double(call, place[5])};
    const gems_tensor *x = norm->x, *weight = norm->weight, *bias = norm->bias;
    if (!x || (!alone && !norm->residual) || (rms && !weight)) return gems_decline("no tensors");
    if (!(call->op->dtypes & GEMS_BIT(x->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    if (!alone && (norm->residual->dtype != x->dtype || !gems_same_sizes(x, norm->residual)))
        return gems_decline("a residual of another shape or dtype");
    norm->shape = rms ? weight->sizes : call->args[place[4]].ints.v;
    int inner = rms ? weight->ndim : call->args[place[4]].ints.n;
    norm->outer = x->ndim - inner;
    if (inner < 1 || norm->outer < 0 ||
        memcmp(x->sizes + norm->outer, norm->shape, (size_t)inner * sizeof *x->sizes))
        return gems_decline("normalized_shape does not fit the input");
    if (!weight_fits(norm, weight) || !weight_fits(norm, bias))
        return gems_decline("shape of weight or bias");
    norm->count = gems_numel(x->sizes, norm->outer);
    norm->n = gems_numel(norm->shape, inner);
    if (norm->n < 1 || norm->n > 1 << 30) return gems_decline("rows of this length");
    const gems_tensor *given = weight ? weight : bias;
    bool half = GEMS_HALF_MASK & GEMS_BIT(x->dtype);
    if ((given && given->dtype != x->dtype && !(half && given->dtype == GEMS_F32)) ||
        (weight && bias && weight->dtype != bias->dtype))
        return gems_decline("dtype of weight or bias");
    return GEMS_OK;
}

/* The rows of a tensor, or of a contiguous copy of it. */
static gems_status take(gems_call *call, const gems_tensor *t, const gems_add_norm *norm,
                        rows_of *r) {
    r->data = t->data;
    r->apart = gems_row_stride(t, norm->outer);
    if (r->apart) return GEMS_OK;
    r->apart = norm->n;
    return gems_pack(call, t, &r->data);
}

/* A written tensor whose rows are a copy gets them back. */
static gems_status give(gems_call *call, const gems_tensor *t, const void *data) {
    int64_t contiguous[GEMS_MAX_DIMS];
    if (t->data == data) return GEMS_OK;
    gems_contiguous_strides(t->sizes, t->ndim, contiguous);
    return gems_copy_views(call, t->sizes, t->ndim, (gems_view){t->data, t->strides, t->dtype},
                           (gems_view){(void *)data, contiguous, t->dtype});
}

/* A thread has the registers for both tensors; one of them is kept, and both are copied ahead. */
static gems_team make_team(const gems_device_info *info, int64_t rows, int64_t n, size_t size,
                           gems_lie lie) {
    return gems_team_of(info, &(gems_rows){rows, n, size, 2, 1, lie});
}

static gems_status forward(gems_call *call) {
    gems_add_norm norm;
    rows_of x, residual = {0};
    bool in_place = call->op->mode == GEMS_ADD_RMS_NORM;
    GEMS_TRY(gems_add_norm_read(call, &norm));
    const gems_tensor *t = norm.x;
    GEMS_TRY(gems_output(call, 0, t->ndim, t->sizes, NULL, t->dtype));
    if (in_place) GEMS_TRY(gems_output(call, 1, t->ndim, t->sizes, NULL, t->dtype));
    if (!norm.count) return GEMS_OK;
    GEMS_TRY(take(call, t, &norm, &x));
    if (norm.residual) GEMS_TRY(take(call, norm.residual, &norm, &residual));
    const void *weight = NULL, *bias = NULL;
    if (norm.weight) GEMS_TRY(gems_pack(call, norm.weight, &weight));
    if (norm.bias) GEMS_TRY(gems_pack(call, norm.bias, &bias));
    const void *y = in_place ? x.data : call->out[0].data, *sum = in_place ? residual.data : NULL;
    apart far = {x.apart, residual.apart, in_place ? x.apart : norm.n, residual.apart};

    const gems_device_info *info = gems_device_information(call->device);
    size_t size = gems_dtype_size(t->dtype);
    const void *rows[] = {x.data, residual.data, y};
    const int64_t steps[] = {far.x, far.residual, far.y};
    gems_lie lie = gems_rows_lie(size, norm.n, 3, rows, steps);
    if (!gems_aligned(weight, 16) || !gems_aligned(bias, 16)) lie = gems_lie_edges(lie);
    gems_team team = make_team(info, norm.count, norm.n, size, lie);
    const gems_tensor *given = norm.weight ? norm.weight : norm.bias;
    gems_key key = {.kernel = GEMS_ADD_NORM_ROWS,
                    .flags = (uint8_t)((weight ? WEIGHT : 0) | (bias ? BIAS : 0)),
                    .dtype = {t->dtype, given ? given->dtype : t->dtype, t->dtype}};
    gems_team_to_key(&team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t n = (int32_t)norm.n;
    void *args[] = {&x.data, &residual.data, &weight,     &bias, &y,
                    &sum,    &far,           &norm.count, &n,    &norm.eps};
    static const uint16_t bytes[] = {8, 8, 8, 8, 8, 8, sizeof far, 8, 4, 8};
    GEMS_TRY(gems_team_launch_kept(call, plan, &team, args, 6, bytes, 10));
    if (!in_place) return GEMS_OK;
    GEMS_TRY(give(call, t, x.data));
    return give(call, norm.residual, residual.data);
}

static gems_status run(gems_call *call) {
    return gems_add_norm_back(call->op) ? gems_add_norm_backward_run(call) : forward(call);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    if (key->kernel == GEMS_PACK_KERNEL) return gems_pack_program(key, p);
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, p);
    if (gems_add_norm_back(op)) return gems_add_norm_backward_program(op, key, p);
    gems_norm_head(key, &p->head);
    gems_text_add(
        &p->head, "constexpr bool kRms = %s, kAdd = %s, kSum = %s, kWeight = %s, kBias = %s;\n",
        gems_add_norm_rms(op) ? "true" : "false", gems_add_norm_alone(op) ? "false" : "true",
        op->mode == GEMS_ADD_RMS_NORM ? "true" : "false", key->flags & WEIGHT ? "true" : "false",
        key->flags & BIAS ? "true" : "false");
    p->files[0] = "cluster.cuh";
    p->files[1] = "rows.cuh";
    p->files[2] = "moments.cuh";
    p->files[3] = "normalize.cuh";
    p->files[4] = "added.cuh";
    p->files[5] = "add_norm.cu";
    p->entries[0] = "add_norm";
    p->entry_count = 1;
    snprintf(p->name, sizeof p->name, "%.*s rows %s x%d", (int)strcspn(op->schema, "("), op->schema,
             gems_dtype_name(key->dtype[GEMS_ROW_DATA]), key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}

/* With a weight (and a bias, for layer_norm) of the data's dtype. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    static const int64_t lengths[] = {1024, 4096, 16384, 32768, 131072, 262144};
    if (gems_add_norm_back(op)) return gems_add_norm_backward_warm(op, dtype, i, info, key);
    if (i >= (info->fast ? 1 : 6)) return false;
    key->kernel = GEMS_ADD_NORM_ROWS;
    key->dtype[GEMS_ROW_DATA] = key->dtype[GEMS_ROW_OTHER] = key->dtype[GEMS_ROW_STAT] =
        (uint8_t)dtype;
    key->flags = (uint8_t)(WEIGHT | (op->mode == GEMS_SKIP_LAYER_NORM ? BIAS : 0));
    gems_team team = make_team(info, 1 << 20, lengths[i], gems_dtype_size(dtype), GEMS_LIE_ALIGNED);
    gems_team_to_key(&team, key);
    return true;
}

const gems_family gems_family_add_norm = {
    .name = "add_norm", .run = run, .program = program, .warm = warm, .strided_output = true};
