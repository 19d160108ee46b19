/* Copies and fills of strided views, for every family that moves elements: copy, cat, gather. */
#ifndef GEMS_COPY_VIEWS_H
#define GEMS_COPY_VIEWS_H

#include "call.h"

/* Values of gems_key.kernel that gems_copy_program writes; a family's own begin at GEMS_COPY_END. */
enum {
    GEMS_COPY_DENSE = 1, /* both one contiguous range */
    GEMS_COPY_STRIDED,   /* any strides; vectors along the innermost dim where both sides allow it */
    GEMS_COPY_TILE,      /* contiguous along different dims: through a shared memory tile */
    GEMS_COPY_SPREAD,    /* one element of device memory to a contiguous range */
    GEMS_FILL_DENSE,
    GEMS_FILL_STRIDED,
    GEMS_COPY_ZIP,       /* a short dim beside a long one, which are one range on one side */
    GEMS_COPY_END = 16
};

/* Memory seen with the strides (in elements) that its user names; sizes stand beside. */
typedef struct gems_view {
    void *data;
    const int64_t *strides;
    int dtype;
} gems_view;

/* out = in, converted to out's dtype by ATen's rules. A broadcast dim of `in` has stride 0. The views must not overlap.
 * Declines before anything is written when no kernel takes the dtypes or the number of dims. */
gems_status gems_copy_views(gems_call *call, const int64_t *sizes, int ndim, gems_view out, gems_view in);

/* Every element of out = the element of out's dtype that `bits` holds. */
gems_status gems_fill_view(gems_call *call, const int64_t *sizes, int ndim, gems_view out, const uint8_t bits[16]);

/* The dtype that stands for all of its size where elements are only moved; GEMS_NO_DTYPE when no kernel moves it. */
int gems_copy_carrier(int dtype);

/* Whether elements of one dtype become those of another without a word of ATen's. */
bool gems_copy_converts(int from, int to);

/* Writes the program of a key whose kernel is one of the above. */
gems_status gems_copy_program(const gems_op *op, const gems_key *key, gems_program *program);

/* The i-th of the keys that warmup compiles for copies from one dtype to another; false: no more. */
bool gems_copy_warm(int from, int to, int i, const gems_device_info *info, gems_key *key);
/* The same for fills. */
bool gems_fill_warm(int dtype, int i, const gems_device_info *info, gems_key *key);

/* Strides of a new tensor of t's sizes in a memory format (torch's numbers; `preserve` keeps the order of t's dims).
 * False: the format does not exist for t's rank. */
bool gems_format_strides(const gems_tensor *t, int format, int64_t *strides);
enum { GEMS_FORMAT_CONTIGUOUS, GEMS_FORMAT_PRESERVE, GEMS_FORMAT_CHANNELS_LAST, GEMS_FORMAT_CHANNELS_LAST_3D };
/* Strides of a channels-last tensor of rank 4 or 5. */
void gems_channels_last_strides(const int64_t *sizes, int ndim, int64_t *strides);
/* Whether the strides are those of a channels-last tensor, by torch's rule for ambiguous ones. */
bool gems_like_channels_last(const gems_tensor *t);

/* ---- arguments that factories share (copy.c) ---- */
/* The memory format of an argument, `preserve` when it is left out; -1 when it is something else. */
int gems_format_arg(const gems_call *call, int arg);
/* Layout, device and pin_memory of a factory, from argument `first` on: a strided tensor of the call's own device.
 * A device comes as type << 32 | index, index -1 for the current one. */
bool gems_plain_options(const gems_call *call, int first);
/* Whether ATen takes the number for the dtype: it refuses what overflows. */
bool gems_number_fits(const gems_value *value, int dtype);

#endif
