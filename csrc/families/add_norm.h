/* Norms of the sum of two tensors, and of one: what the forward and the backward pass share. */
#ifndef GEMS_ADD_NORM_H
#define GEMS_ADD_NORM_H

#include "copy_views.h"
#include "rows.h"

/* key->kernel, after those of copies: the rows; the gradients of weight and bias. */
enum { GEMS_ADD_NORM_ROWS = GEMS_COPY_END, GEMS_ADD_NORM_WEIGHTS };

typedef struct gems_add_norm {
    const gems_tensor *x, *residual, *weight, *bias;
    const int64_t *shape; /* of the part that is normalised */
    int outer;            /* dimensions before it */
    int64_t count, n;     /* rows and their length */
    double eps;
} gems_add_norm;

static inline bool gems_add_norm_back(const gems_op *op) {
    return op->mode >= GEMS_SKIP_LAYER_NORM_BACKWARD;
}
static inline bool gems_add_norm_rms(const gems_op *op) {
    return op->mode != GEMS_SKIP_LAYER_NORM && op->mode != GEMS_SKIP_LAYER_NORM_BACKWARD;
}
/* Whether there is no residual. */
static inline bool gems_add_norm_alone(const gems_op *op) {
    return op->mode == GEMS_PLAIN_RMS_NORM || op->mode == GEMS_PLAIN_RMS_NORM_BACKWARD;
}

/* Reads the arguments, but for a gradient; declines what is not covered. */
gems_status gems_add_norm_read(const gems_call *call, gems_add_norm *norm);

gems_status gems_add_norm_backward_run(gems_call *call);
gems_status gems_add_norm_backward_program(const gems_op *op, const gems_key *key, gems_program *p);
bool gems_add_norm_backward_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                                 gems_key *key);

#endif
