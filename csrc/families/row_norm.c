/* native_layer_norm and _fused_rms_norm, and the family of all operators along rows. Twin of
 * kernels/row_norm.cu. */
#include <float.h>
#include <stdio.h>
#include <string.h>

#include "rows.h"

enum { WEIGHT = 1, BIAS = 2 };

/* ---- arguments ---- */

static bool has_shape(const gems_tensor *t, const gems_norm *norm) {
    return t->ndim == norm->shape_ndim &&
           !memcmp(t->sizes, norm->shape, (size_t)t->ndim * sizeof *t->sizes);
}

/* Weights have the dtype of the data: on CUDA ATen raises where they have not. On a CPU layer_norm
 * takes half data with float weights as well, and rms_norm any two. */
static bool weight_fits(const gems_norm *norm, int weight) {
    int x = norm->x->dtype;
    if (weight == x) return true;
    if (norm->x->device_type != GEMS_CPU) return false;
    if (norm->rms) return GEMS_FLOAT_MASK & GEMS_BIT(weight % GEMS_DTYPES);
    return weight == GEMS_F32 && (GEMS_HALF_MASK & GEMS_BIT(x));
}

gems_status gems_norm_read(const gems_call *call, int x, int shape, int weight, int bias, bool rms,
                           gems_norm *norm) {
    *norm = (gems_norm){
        .x = gems_arg_tensor(call, x), .weight = gems_arg_tensor(call, weight), .rms = rms};
    if (bias >= 0) norm->bias = gems_arg_tensor(call, bias);
    if (!norm->x) return gems_decline("input is no tensor");
    if (!(call->op->dtypes & GEMS_BIT(norm->x->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    norm->shape = call->args[shape].ints.v;
    norm->shape_ndim = call->args[shape].ints.n;
    int outer = norm->x->ndim - norm->shape_ndim;
    if (norm->shape_ndim < 1 || outer < 0 ||
        memcmp(norm->x->sizes + outer, norm->shape, (size_t)norm->shape_ndim * sizeof *norm->shape))
        return gems_decline("normalized_shape does not fit the input");
    norm->rows = gems_numel(norm->x->sizes, outer);
    norm->n = gems_numel(norm->shape, norm->shape_ndim);
    if (norm->n < 1 || norm->n > 1 << 30) return gems_decline("rows of this length");
    norm->weight_dtype = norm->weight ? norm->weight->dtype
                         : norm->bias ? norm->bias->dtype
                                      : norm->x->dtype;
    if ((norm->weight && !has_shape(norm->weight, norm)) ||
        (norm->bias && !has_shape(norm->bias, norm)))
        return gems_decline("shape of weight or bias");
    if (!weight_fits(norm, norm->weight_dtype) ||
        (norm->bias && norm->bias->dtype != norm->weight_dtype))
        return gems_decline("dtype of weight or bias");
    return GEMS_OK;
}

/* ---- forward ---- */

static gems_status make_outputs(gems_call *call, const gems_norm *norm, int stat) {
    const gems_tensor *x = norm->x;
    int64_t sizes[GEMS_MAX_DIMS];
    for (int d = 0; d < x->ndim; d++) sizes[d] = d < x->ndim - norm->shape_ndim ? x->sizes[d] : 1;
    GEMS_TRY(gems_output(call, 0, x->ndim, x->sizes, NULL, x->dtype));
    if (!norm->rms) GEMS_TRY(gems_output(call, 1, x->ndim, sizes, NULL, stat));
    return gems_output(call, norm->rms ? 1 : 2, x->ndim, sizes, NULL, stat);
}

/* rms_norm is composite in ATen's CPU build: its result keeps the layout of x, which this kernel
 * does not. */
static gems_status check_layout(const gems_norm *norm) {
    const gems_tensor *x = norm->x;
    int64_t strides[GEMS_MAX_DIMS], contiguous[GEMS_MAX_DIMS];
    if (!norm->rms || x->device_type != GEMS_CPU || gems_is_contiguous(x)) return GEMS_OK;
    gems_output_strides(x->sizes, x->ndim, &x->strides, 1, strides);
    gems_contiguous_strides(x->sizes, x->ndim, contiguous);
    bool same = !memcmp(strides, contiguous, (size_t)x->ndim * sizeof *strides);
    return same ? GEMS_OK : gems_decline("rms_norm of a permuted tensor");
}

gems_status gems_norm_run(gems_call *call) {
    gems_norm norm;
    bool rms = call->op->mode == GEMS_RMS_NORM;
    GEMS_TRY(gems_norm_read(call, 0, 1, 2, rms ? -1 : 3, rms, &norm));
    const gems_tensor *x = norm.x;
    int opmath = gems_dtype_opmath(x->dtype), stat = opmath;
    if (!rms && x->device_type == GEMS_CPU && norm.weight_dtype == x->dtype) stat = x->dtype;
    GEMS_TRY(check_layout(&norm));
    double eps = opmath == GEMS_F64 ? DBL_EPSILON : (double)FLT_EPSILON;
    int eps_arg = rms ? 3 : 4;
    if (!gems_arg_none(call, eps_arg)) eps = gems_arg_double(call, eps_arg);
    GEMS_TRY(make_outputs(call, &norm, stat));
    if (!norm.rows) return GEMS_OK;

    const gems_device_info *info = gems_device_information(call->device);
    const void *data = x->data, *weight = NULL, *bias = NULL;
    int64_t stride = gems_row_stride(x, x->ndim - norm.shape_ndim);
    if (!stride) {
        GEMS_TRY(gems_pack(call, x, &data));
        stride = norm.n;
    }
    if (norm.weight) GEMS_TRY(gems_pack(call, norm.weight, &weight));
    if (norm.bias) GEMS_TRY(gems_pack(call, norm.bias, &bias));
    void *y = call->out[0].data, *mean = rms ? NULL : call->out[1].data,
         *rstd = call->out[rms ? 1 : 2].data;
    size_t size = gems_dtype_size(x->dtype);
    const void *rows[] = {data, y};
    const int64_t apart[] = {stride, norm.n};
    gems_lie lie = gems_rows_lie(size, norm.n, 2, rows, apart);
    if (!gems_aligned(weight, 16) || !gems_aligned(bias, 16)) lie = gems_lie_edges(lie);
    gems_team team = gems_team_make(info, norm.rows, norm.n, size, 1, lie);
    gems_key key = {.kernel = GEMS_ROWS,
                    .flags = (uint8_t)((weight ? WEIGHT : 0) | (bias ? BIAS : 0)),
                    .dtype = {x->dtype, (uint8_t)norm.weight_dtype, (uint8_t)stat}};
    gems_team_to_key(&team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t n = (int32_t)norm.n;
    void *args[] = {&data, &weight, &bias, &y, &mean, &rstd, &norm.rows, &n, &stride, &eps};
    static const uint16_t bytes[] = {8, 8, 8, 8, 8, 8, 8, 4, 8, 8};
    return gems_team_launch_kept(call, plan, &team, args, 6, bytes, 10);
}

gems_status gems_norm_program(const gems_op *op, const gems_key *key, gems_program *p) {
    gems_norm_head(key, &p->head);
    gems_text_add(&p->head, "constexpr bool kRms = %s, kWeight = %s, kBias = %s;\n",
                  op->mode == GEMS_RMS_NORM ? "true" : "false",
                  key->flags & WEIGHT ? "true" : "false", key->flags & BIAS ? "true" : "false");
    p->files[0] = "cluster.cuh";
    p->files[1] = "rows.cuh";
    p->files[2] = "moments.cuh";
    p->files[3] = "normalize.cuh";
    p->files[4] = "row_norm.cu";
    p->entries[0] = "normalize";
    p->entry_count = 1;
    snprintf(p->name, sizeof p->name, "%.*s rows %s x%d", (int)strcspn(op->schema, "("), op->schema,
             gems_dtype_name(key->dtype[GEMS_ROW_DATA]), key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}

/* With a weight (and a bias, for layer_norm) of the data's dtype; backward also the weight's part.
 */
bool gems_norm_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                    gems_key *key) {
    static const int64_t lengths[] = {1024, 4096, 16384, 32768, 131072, 262144};
    bool rms = op->mode == GEMS_RMS_NORM || op->mode == GEMS_RMS_NORM_BACKWARD;
    bool backward = op->mode == GEMS_LAYER_NORM_BACKWARD || op->mode == GEMS_RMS_NORM_BACKWARD;
    int rows = info->fast ? 1 : 6;
    size_t size = gems_dtype_size(dtype);
    if (i >= rows + (backward ? 1 + !info->fast : 0)) return false;
    key->dtype[GEMS_ROW_DATA] = key->dtype[GEMS_ROW_OTHER] = (uint8_t)dtype;
    key->dtype[GEMS_ROW_STAT] = (uint8_t)(info->arch || rms ? gems_dtype_opmath(dtype) : dtype);
    key->flags = (uint8_t)(WEIGHT | (rms || backward ? 0 : BIAS));
    key->kernel = i < rows ? GEMS_ROWS : i == rows ? GEMS_WEIGHTS : GEMS_BOTH;
    gems_team team = {
        .vec = (uint8_t)(info->fast ? 16 : 16 / size), .items = 1, .threads = info->fast ? 1 : 256};
    if (i < rows)
        team = gems_team_make(info, 1 << 20, lengths[i], size, backward ? 2 : 1, GEMS_LIE_ALIGNED);
    else if (i == rows)
        key->flags = 0;
    else
        team = gems_norm_both_team(info, 1 << 20, 4096, size, GEMS_LIE_ALIGNED);
    if (!team.threads) return false;
    gems_team_to_key(&team, key);
    return true;
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    switch (call->op->mode) {
    case GEMS_LAYER_NORM:
    case GEMS_RMS_NORM: return gems_norm_run(call);
    case GEMS_LAYER_NORM_BACKWARD:
    case GEMS_RMS_NORM_BACKWARD: return gems_norm_backward_run(call);
    default: return gems_softmax_run(call);
    }
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    if (key->kernel == GEMS_PACK_KERNEL) return gems_pack_program(key, p);
    switch (op->mode) {
    case GEMS_LAYER_NORM:
    case GEMS_RMS_NORM: return gems_norm_program(op, key, p);
    case GEMS_LAYER_NORM_BACKWARD:
    case GEMS_RMS_NORM_BACKWARD: return gems_norm_backward_program(op, key, p);
    default: return gems_softmax_program(op, key, p);
    }
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    if (op->mode >= GEMS_LAYER_NORM) return gems_norm_warm(op, dtype, i, info, key);
    return gems_softmax_warm(op, dtype, i, info, key);
}

const gems_family gems_family_row_norm = {
    .name = "row_norm", .run = run, .program = program, .warm = warm};
