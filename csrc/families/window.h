/* Windows that slide over images: the arguments of pooling and convolution, and how images lie. */
#ifndef GEMS_WINDOW_H
#define GEMS_WINDOW_H

#include "copy_views.h"

#define WINDOW_DIMS 3

/* Along one dim. The twin of Window in kernels/window.cuh. */
typedef struct gems_window {
    int32_t size, stride, pad, dilation;
} gems_window;

/* The numbers of an int[rank] argument: one stands for all, none for `otherwise` (NULL: not
 * allowed). False: something else, or beyond 31 bits. */
bool gems_window_ints(const gems_value *value, int rank, const int32_t *otherwise, int32_t *to);

/* Whether every position, tap and output that a window over `in` positions may name fits 31 bits.
 */
bool gems_window_fits(const gems_window *window, int64_t in);

/* Outputs of a pooling window over `in` positions, as ATen counts them; below 1: none. */
int64_t gems_window_pooled(const gems_window *window, int64_t in, bool ceil);

/* An image of one to three dims, channels last or contiguous: strides of a tensor of these sizes.
 */
void gems_image_strides(const int64_t *sizes, int ndim, bool last, int64_t *strides);

/* The tensor's elements where they lie with these strides: its own memory, or a copy that lives as
 * long as the call. The family writes the programs of copies (gems_copy_program). */
gems_status gems_image_pack(gems_call *call, const gems_tensor *t, const int64_t *strides,
                            const void **data);

#endif
