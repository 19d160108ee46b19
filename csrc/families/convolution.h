/* A convolution in one form, whatever operator asks for it. */
#ifndef GEMS_CONVOLUTION_H
#define GEMS_CONVOLUTION_H

#include "window.h"

/* What is computed of image, result and weight from the other two; kernels/convolution.cu has the
 * same numbers. */
enum { GEMS_CONVOLVE_RESULT, GEMS_CONVOLVE_IMAGE, GEMS_CONVOLVE_WEIGHT };

/* A tensor of a convolution, rank + 2 dims. */
typedef struct gems_side {
    int64_t sizes[5], strides[5];
} gems_side;

/* The result is the sum over windows of the image. A transposed convolution computes the image of a
 * result. */
typedef struct gems_convolution {
    int rank, dtype;
    bool transposed, last;                                  /* last: channels last */
    int32_t groups, batch, image_channels, result_channels; /* channels of a group */
    gems_window window[3]; /* z, y, x; of size 1 where they are not there */
    gems_side image, result, weight;
    double work; /* multiplications */
} gems_convolution;

#endif
