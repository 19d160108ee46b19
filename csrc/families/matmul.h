/* What the host files of the matmul family share: a product as its kernels take it. */
#ifndef GEMS_MATMUL_H
#define GEMS_MATMUL_H

#include "call.h"
#include "matmul_program.h"

/* What the kernels take: the twin of MatmulParams in kernels/matmul.cuh. */
typedef struct gems_matmul_params {
    const void *a, *b, *c;
    void *d, *partial;
    int64_t a_batch, a_row, a_k;
    int64_t b_batch, b_k, b_col;
    int64_t c_batch, c_row, c_col;
    int64_t d_batch, d_row, d_col;
    double alpha, beta;
    int32_t m, n, k, batch;
    gems_matmul_parts parts;
    int32_t wide_c, wide_d;
    const void *scale_a, *scale_b, *scale_d;
    int32_t scale_rows, scale_cols;
} gems_matmul_params;

/* A product, and how it is computed. */
typedef struct gems_matmul_product {
    gems_matmul_params p;
    gems_matmul_types types;
    bool tf32, promotes; /* as in gems_matmul_shape */
} gems_matmul_product;

/* Whether the kernel of sm_90a takes a product, as far as its operands say. */
bool gems_matmul_takes_wgmma(const gems_device_info *info, const gems_matmul_product *product);

/* Computes a product into call->out[0], which exists; wgmma: gems_matmul_takes_wgmma said so. */
gems_status gems_matmul_compute(gems_call *call, const gems_matmul_product *product, bool wgmma);

/* ---- matmul_one.c: a matrix and a column ---- */
bool gems_matmul_one_takes(const gems_device_info *info, const gems_matmul_product *product, int feed);
#define GEMS_MATMUL_FEW_COLUMNS 16
bool gems_matmul_few_takes(const gems_device_info *info, const gems_matmul_product *product, int feed_a, int feed_b);
gems_status gems_matmul_one(gems_call *call, gems_matmul_params *p, int dtype, int feed);

/* ---- matmul_bytes.c: _int_mm and _scaled_mm ---- */
gems_status gems_matmul_run_int(gems_call *call);
gems_status gems_matmul_run_scaled(gems_call *call);

#endif
