/* Operators along rows: what softmax.c and the norms share. Twin of
 * kernels/rows.cuh. */
#ifndef GEMS_ROWS_H
#define GEMS_ROWS_H

#include "call.h"
#include "modes.h"
#include "pack.h"
#include "row_team.h"

/* key->kernel: programs of the family, beside GEMS_PACK_KERNEL. */
enum gems_row_kernel { GEMS_ROWS, GEMS_COLUMNS, GEMS_WEIGHTS, GEMS_BOTH };

/* key->dtype: data; result or weight; mean and rstd. */
enum { GEMS_ROW_DATA, GEMS_ROW_OTHER, GEMS_ROW_STAT };

/* key->tune: threads counts warps, 0 in the fast mode; cluster 0 is 1. */
enum {
    GEMS_TUNE_VEC,
    GEMS_TUNE_STAGE,
    GEMS_TUNE_ITEMS,
    GEMS_TUNE_WARPS,
    GEMS_TUNE_WARP_ROW,
    GEMS_TUNE_CLUSTER,
    GEMS_TUNE_AHEAD,
    GEMS_TUNE_EDGES,
    GEMS_TUNE_END
};

void gems_team_to_key(const gems_team *team, gems_key *key);

/* Launches a kernel of a plan with a team. */
gems_status gems_team_launch(gems_call *call, const gems_plan *plan, const gems_team *team,
                             void **args);
/* The same as gems_call_launch_kept. */
gems_status gems_team_launch_kept(gems_call *call, const gems_plan *plan, const gems_team *team,
                                  void **args, int pointers, const uint16_t *sizes, int count);

/* Elements from row to row of a tensor whose dimensions before `outer` count rows, where the rows
 * themselves are contiguous; 0: they are not, or have no single distance. */
int64_t gems_row_stride(const gems_tensor *x, int outer);

/* Whether an access of `bytes` is aligned; NULL is. */
static inline bool gems_aligned(const void *data, size_t bytes) {
    return (uintptr_t)data % bytes == 0;
}

/* How rows of n elements lie in these tensors (NULL: there is none), which have so many elements
 * from row to row. */
gems_lie gems_rows_lie(size_t size, int64_t n, int count, const void *const *data,
                       const int64_t *apart);

/* The same where a tensor that all rows read begins anywhere. */
static inline gems_lie gems_lie_edges(gems_lie lie) {
    return lie == GEMS_LIE_ALIGNED ? GEMS_LIE_ALIKE : lie;
}

/* The constants of rows.cuh that a key holds. */
void gems_team_head(const gems_key *key, gems_text *head);
/* The same with the types of a norm: T, W (weight and bias) and Stat (mean and rstd). */
void gems_norm_head(const gems_key *key, gems_text *head);

gems_status gems_softmax_run(gems_call *call);
gems_status gems_softmax_program(const gems_op *op, const gems_key *key, gems_program *p);
bool gems_softmax_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                       gems_key *key);

/* What layer_norm and rms_norm get, checked. */
typedef struct gems_norm {
    const gems_tensor *x, *weight, *bias;
    const int64_t *shape; /* normalized_shape */
    int shape_ndim;
    int64_t rows, n;
    int weight_dtype; /* the dtype of x where there is neither weight nor bias */
    bool rms;
} gems_norm;

/* Reads x, normalized_shape, weight and bias at these arguments (bias < 0: none); declines what
 * ATen refuses. */
gems_status gems_norm_read(const gems_call *call, int x, int shape, int weight, int bias, bool rms,
                           gems_norm *norm);
/* The contiguous data of a backward call. */
typedef struct gems_norm_inputs {
    const void *grad, *x, *residual, *mean, *rstd,
        *weight; /* residual: what x is the sum with; NULL */
    int stat;    /* dtype of mean and rstd */
} gems_norm_inputs;

/* The gradients of weight and bias, of which those that are not NULL are wanted, by the program of
 * this key->kernel of the operator's. */
gems_status gems_norm_weights_run(gems_call *call, int kernel, const gems_norm *norm,
                                  const gems_norm_inputs *in, void *dweight, void *dbias);
/* The team of the kernel that finds all gradients in one reading: a block a row, many rows one
 * after another, and the sums of the columns in registers. No threads: there is none for such rows.
 */
gems_team gems_norm_both_team(const gems_device_info *info, int64_t rows, int64_t n, size_t size,
                              gems_lie lie);
gems_status gems_norm_run(gems_call *call);
gems_status gems_norm_backward_run(gems_call *call);
gems_status gems_norm_program(const gems_op *op, const gems_key *key, gems_program *p);
gems_status gems_norm_backward_program(const gems_op *op, const gems_key *key, gems_program *p);
bool gems_norm_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                    gems_key *key);

#endif
