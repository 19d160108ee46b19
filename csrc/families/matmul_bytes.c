/* Products of elements of one byte: _int_mm and _scaled_mm. What ATen refuses is declined, so that
 * it raises its own error. */
#include "matmul.h"

/* Multiplications from which on oneDNN, which need not pack B for every band of A, was measured
 * faster with int8 (by a fifth). */
#define MOST_FAST 67108864.0

/* A matrix with contiguous rows, as ATen's kernels want it (columns: rows of its transpose). */
static bool has_rows(const gems_tensor *t, bool columns) {
    const int64_t inner = t->strides[columns ? 0 : 1], outer = t->strides[columns ? 1 : 0];
    return inner == 1 && outer >= (t->sizes[columns ? 0 : 1] > 1 ? t->sizes[columns ? 0 : 1] : 1);
}

static bool on_gpu(const gems_call *call) { return call->device_type != GEMS_CPU; }

/* The two matrices of a product, checked. */
static gems_status read(const gems_call *call, const gems_tensor **a, const gems_tensor **b) {
    *a = gems_arg_tensor(call, 0), *b = gems_arg_tensor(call, 1);
    if (!*a || !*b) return gems_decline("an operand is no tensor");
    if ((*a)->ndim != 2 || (*b)->ndim != 2) return gems_decline("ranks do not fit");
    if ((*a)->sizes[1] != (*b)->sizes[0]) return gems_decline("sizes do not fit");
    if ((*a)->sizes[0] > INT32_MAX || (*a)->sizes[1] > INT32_MAX || (*b)->sizes[1] > INT32_MAX)
        return gems_decline("more than 2^31 rows or columns");
    if (!(call->op->dtypes >> (*a)->dtype & 1) || !(call->op->dtypes >> (*b)->dtype & 1))
        return gems_decline("dtype without a kernel");
    return GEMS_OK;
}

/* An out tensor as these operators want it: of the result's size and dtype, rows contiguous. */
static gems_status check_out(const gems_call *call, int64_t m, int64_t n, int dtype) {
    if (call->entry->variant != GEMS_OUT) return GEMS_OK;
    const gems_tensor *out = gems_arg_tensor(call, call->entry->out_arg);
    if (!out || out->ndim != 2 || out->sizes[0] != m || out->sizes[1] != n || out->dtype != dtype ||
        (out->numel && !gems_is_contiguous(out)))
        return gems_decline("an out tensor of another size, dtype or layout");
    return GEMS_OK;
}

/* ---- where an H200 ran ATen's kernels faster; the bounds are between sizes that were measured
 * ---- */

#define POWER(n) ((double)(INT64_C(1) << (n)))

/* Of int8 at 512, 1024 and 2048 cubed: 0.56, 1.04 and 1.50 of ATen's speed where both operands lie
 * along k, 1.99, 0.80 and 1.22 where one does not. */
static bool left_to_aten_int(const gems_matmul_params *p) {
    const double products = (double)p->m * p->n * p->k;
    return p->a_k == 1 && p->b_k == 1 ? products < POWER(30)
                                      : products >= POWER(29) && products < POWER(32);
}

/* Of fp8 at 1024, 2048, 4096 and 8192 cubed: 0.87, 0.96, 0.97 and 1.01; with scales of rows 1.05,
 * 0.86, 0.91 and 0.96; where sums are promoted 0.88, 0.83, 0.87 and 0.80, with scales of rows 1.00,
 * 0.74, 0.82 and 0.81. */
static bool left_to_aten_scaled(const gems_matmul_product *t, bool rows) {
    const double products = (double)t->p.m * t->p.n * t->p.k;
    if (rows) return products >= POWER(31) && (t->promotes || products < POWER(35));
    return t->promotes || products < POWER(32);
}

static gems_matmul_product product_of(const gems_tensor *a, const gems_tensor *b) {
    return (gems_matmul_product){
        .p = {.a = a->data,
              .b = b->data,
              .a_row = a->strides[0],
              .a_k = a->strides[1],
              .b_k = b->strides[0],
              .b_col = b->strides[1],
              .m = (int32_t)a->sizes[0],
              .n = (int32_t)b->sizes[1],
              .k = (int32_t)a->sizes[1],
              .batch = 1,
              .alpha = 1},
        .types = {.a = a->dtype, .b = b->dtype},
    };
}

static gems_status compute(gems_call *call, gems_matmul_product *t, int64_t m, int64_t n) {
    const gems_device_info *info = gems_device_information(call->device);
    const bool wgmma = gems_matmul_takes_wgmma(info, t);
    const int64_t sizes[2] = {m, n};
    GEMS_TRY(gems_output(call, 0, 2, sizes, NULL, t->types.result));
    if (!call->nonempty) return GEMS_OK;
    t->p.d = call->out[0].data;
    t->p.d_row = call->out[0].strides[0];
    t->p.d_col = call->out[0].strides[1];
    return gems_matmul_compute(call, t, wgmma);
}

gems_status gems_matmul_run_int(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *a, *b;
    GEMS_TRY(read(call, &a, &b));
    const int64_t m = a->sizes[0], n = b->sizes[1], k = a->sizes[1];
    /* ATen's rules for a GPU, whose products of int8 come from cuBLAS. */
    if (on_gpu(call) && (m <= 16 || k % 8 || n % 8 || !k || !n))
        return gems_decline("a size that ATen refuses on a GPU");
    if (info->fast && (double)m * (double)n * (double)k >= MOST_FAST)
        return gems_decline("a size at which ATen is faster on a CPU");
    if (info->arch && info->arch < 80) return gems_decline("no tensor cores for int8");
    GEMS_TRY(check_out(call, m, n, GEMS_I32));
    gems_matmul_product t = product_of(a, b);
    t.types.result = GEMS_I32;
    if (on_gpu(call) && left_to_aten_int(&t.p))
        return gems_decline("a size at which ATen is faster on a GPU");
    return compute(call, &t, m, n);
}

/* Whether a tensor is one number of float32. */
static bool one_number(const gems_tensor *t) { return t->dtype == GEMS_F32 && t->numel == 1; }

/* Scales for each row of A and each column of B: [m, 1] and [1, n]. */
static bool rowwise(const gems_tensor *a, const gems_tensor *b, int64_t m, int64_t n) {
    return a->dtype == GEMS_F32 && b->dtype == GEMS_F32 && a->ndim == 2 && b->ndim == 2 &&
           a->sizes[0] == m && a->sizes[1] == 1 && b->sizes[0] == 1 && b->sizes[1] == n &&
           gems_is_contiguous(a) && gems_is_contiguous(b);
}

/* What ATen refuses, or may refuse, on a GPU beyond what is wrong everywhere. */
static gems_status check_gpu(const gems_tensor *a, const gems_tensor *b, const gems_tensor *bias,
                             int result, bool rows, int arch) {
    if (arch < 89) return gems_decline("no tensor cores for fp8");
    if (a->dtype == GEMS_F8E5M2 && b->dtype == GEMS_F8E5M2)
        return gems_decline("two operands of float8_e5m2, which ATen refuses on a GPU");
    if (!has_rows(a, false) || !has_rows(b, true))
        return gems_decline("a layout that ATen refuses on a GPU");
    if (!a->sizes[0] || !a->sizes[1] || !b->sizes[1] || a->sizes[1] % 16 || b->sizes[1] % 16)
        return gems_decline("a size that ATen refuses on a GPU");
    if (bias && result != GEMS_BF16 && result != GEMS_F16)
        return gems_decline("a bias and another result than a half, on a GPU");
    if (rows && (result != GEMS_BF16 || a->dtype != GEMS_F8E4M3 || b->dtype != GEMS_F8E4M3))
        return gems_decline("scales of rows and another result than bfloat16, on a GPU");
    return GEMS_OK;
}

gems_status gems_matmul_run_scaled(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *a, *b, *scale_a = gems_arg_tensor(call, 2),
                              *scale_b = gems_arg_tensor(call, 3);
    const gems_tensor *bias = gems_arg_tensor(call, 4), *scale_d = gems_arg_tensor(call, 5);
    GEMS_TRY(read(call, &a, &b));
    const int64_t m = a->sizes[0], n = b->sizes[1];
    const int result = gems_arg_none(call, 6) ? a->dtype : (int)gems_arg_int(call, 6);
    if (!scale_a || !scale_b) return gems_decline("a scale is no tensor");
    const bool single = one_number(scale_a) && one_number(scale_b),
               rows = !single && rowwise(scale_a, scale_b, m, n);
    if (!single && !rows) return gems_decline("scales that are neither of tensors nor of rows");
    if (result != GEMS_F32 && result != GEMS_BF16 && result != GEMS_F16 && result != GEMS_F8E4M3 &&
        result != GEMS_F8E5M2)
        return gems_decline("a result of another dtype");
    if (bias && (bias->ndim != 1 || bias->sizes[0] != n || bias->dtype != result ||
                 gems_dtype_size(result) == 1))
        return gems_decline("a bias of another size or dtype");
    if (scale_d && !one_number(scale_d))
        return gems_decline("a scale of the result that is no number of float32");
    /* Versions of ATen differ in what they make of it there. */
    if (on_gpu(call) && scale_d) return gems_decline("a scale of the result, on a GPU");
    if (on_gpu(call)) GEMS_TRY(check_gpu(a, b, bias, result, rows, info->arch));
    const gems_tensor *others[] = {scale_a, scale_b, bias, scale_d};
    for (int i = 0; i < 4; i++)
        if (others[i] && (others[i]->device_type != a->device_type ||
                          others[i]->device_index != a->device_index))
            return gems_decline("tensors on several devices");
    GEMS_TRY(check_out(call, m, n, result));
    gems_matmul_product t = product_of(a, b);
    t.types.result = (uint8_t)result;
    t.types.scaled = true;
    t.promotes = !gems_arg_int(call, 7);
    t.p.scale_a = scale_a->data;
    t.p.scale_b = scale_b->data;
    t.p.scale_rows = t.p.scale_cols = rows;
    /* As in ATen, a result that is no fp8 has no scale. */
    if (scale_d && gems_dtype_size(result) == 1) { t.p.scale_d = scale_d->data; }
    if (on_gpu(call) && left_to_aten_scaled(&t, rows))
        return gems_decline("a size at which ATen is faster on a GPU");
    if (bias) t.p.c = bias->data, t.p.c_col = bias->strides[0], t.p.beta = 1;
    return compute(call, &t, m, n);
}
