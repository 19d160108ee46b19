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

/* ---- on the tensor cores (convolution_tile.c) ---- */

enum { GEMS_CONVOLUTION_TILE = 64 }; /* key->kernel */

/* Whether such a product is computed there. */
bool gems_convolution_tiles(const gems_convolution *c, int kind, const gems_device_info *info);

/* Its inputs where they have to lie: an image or a result channels last, the weight as such a product
 * reads it. Their own memory, or copies that live as long as the call. */
gems_status gems_convolution_pack_last(gems_call *call, const gems_tensor *t, const void **data);
gems_status gems_convolution_pack_weight(gems_call *call, const gems_convolution *c, int kind,
                                         const gems_tensor *t, const void **data);

/* Computes it from packed inputs, aligned to 16 bytes. image: what is read; other: the weight, or the
 * result where the weight is written, with the strides that c has. */
gems_status gems_convolution_tile(gems_call *call, const gems_convolution *c, int kind, void *out,
                                  const void *image, const void *other, const void *bias);

gems_status gems_convolution_tile_program(const gems_op *op, const gems_key *key,
                                          gems_program *program);
bool gems_convolution_tile_warm(const gems_op *op, int dtype, int i, bool back,
                                const gems_device_info *info, gems_key *key);

/* ---- in the fast mode (convolution_panel.c) ---- */

enum { GEMS_CONVOLUTION_PANEL = 65 }; /* key->kernel */

/* Whether such a product is computed there. */
bool gems_convolution_panels(const gems_convolution *c, int kind, const gems_device_info *info);

/* Computes it. read: contiguous; the weight has any strides. Of the weight's gradient, which has the
 * strides that c has, `weight` is the contiguous gradient of the result. */
gems_status gems_convolution_panel(gems_call *call, const gems_convolution *c, int kind, void *out,
                                   const void *read, const gems_tensor *weight, const void *bias);
gems_status gems_convolution_panel_program(const gems_op *op, const gems_key *key,
                                           gems_program *program);

/* ---- a window for each channel, on a GPU (convolution_depthwise.c) ---- */

enum { GEMS_CONVOLUTION_EACH = 66 }; /* key->kernel */

/* Whether such a product is computed there. */
bool gems_convolution_depthwise(const gems_convolution *c, int kind, const gems_device_info *info);

/* Computes it; what is read lies as its side does, channels last or contiguous, aligned to 16 bytes
 * as the result and the weight are, which has any strides. */
gems_status gems_convolution_depthwise_run(gems_call *call, const gems_convolution *c, int kind,
                                           void *out, const void *read, const gems_tensor *weight,
                                           const void *bias);

/* The weight's gradient, with the strides that c has, from an image and a result that lie as their
 * sides do, as above. */
gems_status gems_convolution_each_weight(gems_call *call, const gems_convolution *c, void *out,
                                         const void *image, const void *result);
gems_status gems_convolution_depthwise_program(const gems_op *op, const gems_key *key,
                                               gems_program *program);
bool gems_convolution_depthwise_warm(int dtype, int i, const gems_device_info *info, gems_key *key);

#endif
