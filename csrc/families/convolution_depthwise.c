/* Convolution of each channel with a window of its own, on a GPU. Twin of
 * kernels/convolution_depthwise.cu. */
#include "convolution.h"

#include <stdio.h>
#include <string.h>

/* key->tune */
enum { TAPS_Y, TAPS_X, STRIDE_Y, STRIDE_X, FAR_Y, FAR_X, ROWS, LAST };
#define THREADS   256
#define MOST_TAPS 49

/* Twin of Depthwise in kernels/convolution_depthwise.cu. */
typedef struct depthwise {
    int32_t n;
    gems_fastdiv across, bands, vectors, filters, channel_div;
    int32_t channels;
    int32_t in[2], out[2], pad[2];
    int32_t line, tap[2], origin;
} depthwise;

bool gems_convolution_depthwise(const gems_convolution *c, int kind, const gems_device_info *info) {
    const gems_window *y = &c->window[1], *x = &c->window[2];
    bool back = kind == GEMS_CONVOLVE_IMAGE;
    int vector = c->dtype == GEMS_F64 ? 2 : 4;
    if (info->fast || kind == GEMS_CONVOLVE_WEIGHT || c->image_channels != 1 || c->rank > 2)
        return false;
    if ((back || c->last) && c->result_channels != 1) return false;
    if (c->last && c->groups % vector) return false;
    if (back && (y->stride != 1 || x->stride != 1)) return false;
    return y->stride <= 2 && x->stride <= 2 && y->dilation <= 2 && x->dilation <= 2 &&
           y->size <= 7 && (int64_t)y->size * x->size <= MOST_TAPS &&
           gems_numel(c->image.sizes, c->rank + 2) < INT32_MAX / 2 &&
           gems_numel(c->result.sizes, c->rank + 2) < INT32_MAX / 2;
}

static int32_t extent(const gems_side *side, int rank, int d) {
    return d < 2 - rank ? 1 : (int32_t)side->sizes[2 + d - (2 - rank)];
}

gems_status gems_convolution_depthwise_run(gems_call *call, const gems_convolution *c, int kind,
                                           void *out, const void *read, const gems_tensor *weight,
                                           const void *bias) {
    const gems_device_info *info = gems_device_information(call->device);
    bool back = kind == GEMS_CONVOLVE_IMAGE;
    const gems_side *from = back ? &c->result : &c->image, *to = back ? &c->image : &c->result;
    const gems_window *window = c->window + 1;
    int32_t taps = window[0].size * window[1].size, vector = 1;
    depthwise p = {.channels = c->groups * c->result_channels};
    const void *w;
    /* [channel][tap], or [tap][channel] */
    int64_t strides[4] = {taps, taps, window[1].size, 1};
    if (c->last) {
        strides[0] = strides[1] = 1;
        strides[2] = (int64_t)window[1].size * p.channels;
        strides[3] = p.channels;
        vector = c->dtype == GEMS_F64 ? 2 : 4;
    }
    if (c->rank == 1) strides[2] = strides[3];
    GEMS_TRY(gems_image_pack(call, weight, strides, &w));
    p.line = (int32_t)strides[0];
    for (int d = 0; d < 2; d++) {
        const gems_window *v = &window[d];
        p.in[d] = extent(from, c->rank, d);
        p.out[d] = extent(to, c->rank, d);
        p.pad[d] = back ? (v->size - 1) * v->dilation - v->pad : v->pad;
        p.tap[d] = c->last ? p.channels * (d ? 1 : window[1].size) : d ? 1 : window[1].size;
        if (back) {
            p.origin += p.tap[d] * (v->size - 1);
            p.tap[d] = -p.tap[d];
        }
    }
    gems_key key = {.kernel = GEMS_CONVOLUTION_EACH, .dtype = {(uint8_t)c->dtype}};
    int rows = p.out[0] >= 4 ? 4 : 1, bands = (p.out[0] + rows - 1) / rows;
    key.tune[TAPS_Y] = (uint8_t)window[0].size;
    key.tune[TAPS_X] = (uint8_t)window[1].size;
    key.tune[STRIDE_Y] = (uint8_t)window[0].stride;
    key.tune[STRIDE_X] = (uint8_t)window[1].stride;
    key.tune[FAR_Y] = (uint8_t)window[0].dilation;
    key.tune[FAR_X] = (uint8_t)window[1].dilation;
    key.tune[ROWS] = (uint8_t)rows;
    key.tune[LAST] = c->last;
    p.across = gems_fastdiv_make((uint32_t)p.out[1]);
    p.bands = gems_fastdiv_make((uint32_t)bands);
    p.vectors = gems_fastdiv_make((uint32_t)(p.channels / vector));
    p.filters = gems_fastdiv_make((uint32_t)c->result_channels);
    p.channel_div = gems_fastdiv_make((uint32_t)p.channels);
    p.n = p.channels / vector * c->batch * bands * p.out[1];
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {&out, &read, &w, &bias, &p};
    const uint32_t grid[3] = {(uint32_t)gems_grid_of_all(info, p.n, THREADS), 1, 1},
                   block[3] = {THREADS, 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

gems_status gems_convolution_depthwise_program(const gems_op *op, const gems_key *key,
                                               gems_program *program) {
    const uint8_t *tune = key->tune;
    gems_text_add(&program->head, "typedef %s T;\nconstexpr bool kLast = %s;\n",
                  gems_dtype_kernel(key->dtype[0]), tune[LAST] ? "true" : "false");
    gems_text_add(&program->head,
                  "constexpr int kTapsY = %d, kTapsX = %d, kStrideY = %d, kStrideX = %d, "
                  "kFarY = %d, kFarX = %d, kRows = %d;\n",
                  tune[TAPS_Y], tune[TAPS_X], tune[STRIDE_Y], tune[STRIDE_X], tune[FAR_Y],
                  tune[FAR_X], tune[ROWS]);
    program->files[0] = "convolution_depthwise.cu";
    program->entries[0] = "depthwise";
    program->entry_count = 1;
    snprintf(program->name, sizeof program->name, "%.*s depthwise %dx%d %s%s",
             (int)strcspn(op->schema, "("), op->schema, tune[TAPS_Y], tune[TAPS_X],
             gems_dtype_name(key->dtype[0]), tune[LAST] ? " channels last" : "");
    return GEMS_OK;
}

/* 3x3, side by side, in both orders. */
bool gems_convolution_depthwise_warm(int dtype, int i, const gems_device_info *info,
                                     gems_key *key) {
    if (info->fast || i > 1) return false;
    key->kernel = GEMS_CONVOLUTION_EACH;
    key->dtype[0] = (uint8_t)dtype;
    key->tune[TAPS_Y] = key->tune[TAPS_X] = 3;
    for (int at = STRIDE_Y; at <= FAR_X; at++) key->tune[at] = 1;
    key->tune[ROWS] = 4;
    key->tune[LAST] = (uint8_t)i;
    return true;
}
