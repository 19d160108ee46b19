/* What a call of the reduce family asks for. */
#ifndef GEMS_REDUCE_H
#define GEMS_REDUCE_H

#include "call.h"
#include "modes.h"

#define GEMS_REDUCE_RANK 8

typedef struct gems_reduce_request {
    const gems_tensor *self, *other; /* other: NULL, or of the same sizes and dtype */
    int reduction;                   /* enum gems_reduction, none that stands for others */
    bool keepdim, flatten;           /* flatten: the elements are one row, in their logical order */
    bool both;                       /* two results */
    uint32_t dims;                   /* bit d: dimension d is reduced */
    int in, cast, out;               /* dtypes */
    double correction;               /* of var and std */
    double power;                    /* of GEMS_NORM */
    gems_tensor diagonal;            /* self is this, for trace */
    int64_t sizes[1], strides[1];
} gems_reduce_request;

/* Reads the arguments of a call, which are found by their types: an int or a list of ints names the
 * dimensions, a bool is keepdim, a dtype is dtype, a Scalar is a correction or a power.
 * GEMS_DECLINE for what ATen is to judge. */
gems_status gems_reduce_read(const gems_call *call, gems_reduce_request *request);

/* The dtype of what is accumulated; u8 and u32 for any and all. */
int gems_reduce_value(int reduction, int in, int cast);

static inline bool gems_reduce_is_pair(int reduction) {
    return reduction == GEMS_ARGMAX || reduction == GEMS_ARGMIN;
}
static inline bool gems_reduce_is_moments(int reduction) {
    return reduction == GEMS_VAR || reduction == GEMS_STD;
}
/* There is no result where nothing is reduced. */
static inline bool gems_reduce_is_extreme(int reduction) {
    return reduction == GEMS_MAX || reduction == GEMS_MIN || reduction == GEMS_AMINMAX ||
           gems_reduce_is_pair(reduction);
}

#endif
