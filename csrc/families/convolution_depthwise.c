/* Convolution of each channel with a window of its own, on a GPU. Twin of
 * kernels/convolution_depthwise.cu and, of the weight's gradient, convolution_each_weight.cu. */
#include "convolution.h"

#include <stdio.h>
#include <string.h>

/* key->tune */
enum { TAPS_Y, TAPS_X, STRIDE_Y, STRIDE_X, FAR_Y, FAR_X, ROWS, LAST, WEIGHT };
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

static int taps_of(const gems_convolution *c) { return c->window[1].size * c->window[2].size; }

/* Its sums stay in registers. */
static bool takes_weight(const gems_convolution *c) {
    const gems_window *y = &c->window[1], *x = &c->window[2];
    if (c->result_channels != 1 || y->stride > 7 || x->stride > 7 || y->dilation > 7 ||
        x->dilation > 7 || taps_of(c) > MOST_TAPS || y->size > 49 || c->groups > 1 << 20)
        return false;
    if (gems_numel(c->image.sizes, c->rank + 2) >= INT32_MAX / 2 ||
        gems_numel(c->result.sizes, c->rank + 2) >= INT32_MAX / 2)
        return false;
    return !c->last ||
           (c->groups % 4 == 0 && taps_of(c) <= 25 && y->dilation == 1 && x->dilation == 1);
}

bool gems_convolution_depthwise(const gems_convolution *c, int kind, const gems_device_info *info) {
    const gems_window *y = &c->window[1], *x = &c->window[2];
    bool back = kind == GEMS_CONVOLVE_IMAGE;
    int vector = c->dtype == GEMS_F64 ? 2 : 4;
    if (info->fast || c->image_channels != 1 || c->rank > 2) return false;
    if (kind == GEMS_CONVOLVE_WEIGHT) return takes_weight(c);
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

/* Twin of EachWeight in kernels/convolution_each_weight.cu. */
typedef struct each_weight {
    int32_t n, parts, blocks;
    gems_fastdiv across, down;
    int32_t channels, wide;
    int32_t in[2], out[2], pad[2];
    int32_t stride[3];
} each_weight;

gems_status gems_convolution_each_weight(gems_call *call, const gems_convolution *c, void *out,
                                         const void *image, const void *result) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_window *window = c->window + 1;
    const int taps = taps_of(c), vector = c->dtype == GEMS_F64 || taps > 9 ? 2 : 4;
    each_weight p = {.channels = c->groups, .wide = 1};
    gems_key key = {.kernel = GEMS_CONVOLUTION_EACH, .dtype = {(uint8_t)c->dtype}};
    for (int d = 0; d < 2; d++) {
        p.in[d] = extent(&c->image, c->rank, d);
        p.out[d] = extent(&c->result, c->rank, d);
        p.pad[d] = window[d].pad;
        key.tune[TAPS_Y + d] = (uint8_t)window[d].size;
        key.tune[STRIDE_Y + d] = (uint8_t)window[d].stride;
        key.tune[FAR_Y + d] = (uint8_t)window[d].dilation;
    }
    key.tune[LAST] = c->last;
    key.tune[WEIGHT] = 1;
    p.stride[0] = (int32_t)c->weight.strides[0];
    p.stride[1] = c->rank == 2 ? (int32_t)c->weight.strides[2] : 0;
    p.stride[2] = (int32_t)c->weight.strides[c->rank + 1];
    if (c->last) p.wide = p.out[1] < 16 ? p.out[1] : 16;
    const int across = (p.out[1] + p.wide - 1) / p.wide, rows = c->last ? THREADS / 8 : THREADS;
    p.n = c->batch * p.out[0] * across;
    p.across = gems_fastdiv_make((uint32_t)across);
    p.down = gems_fastdiv_make((uint32_t)p.out[0]);
    p.blocks = c->last ? (p.channels + 8 * vector - 1) / (8 * vector) : p.channels;
    /* Some blocks for each processor, of which each has at least an item for every thread. */
    int64_t parts = 4 * (int64_t)info->processors / p.blocks + 1, most = (p.n + rows - 1) / rows;
    p.parts = (int32_t)(parts < most ? parts : most);
    void *sums;
    const size_t size = c->dtype == GEMS_F64 ? 8 : 4;
    GEMS_TRY(gems_scratch(call, (size_t)p.parts * (size_t)p.channels * (size_t)taps * size, &sums));
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *first[] = {&sums, &image, &result, &p}, *second[] = {&out, &sums, &p};
    const uint32_t grid[3] = {(uint32_t)(p.blocks * p.parts), 1, 1}, block[3] = {THREADS, 1, 1};
    GEMS_TRY(gems_call_launch(call, plan, 0, grid, block, 0, first));
    const uint32_t few[3] = {gems_grid_for(info, (int64_t)p.channels * taps, THREADS), 1, 1};
    return gems_call_launch(call, plan, 1, few, block, 0, second);
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
    const bool weight = tune[WEIGHT];
    program->files[0] = weight ? "convolution_each_weight.cu" : "convolution_depthwise.cu";
    program->entries[0] = weight ? "each_weight" : "depthwise";
    program->entries[1] = "each_weight_sum";
    program->entry_count = weight ? 2 : 1;
    snprintf(program->name, sizeof program->name, "%.*s depthwise %s%dx%d %s%s",
             (int)strcspn(op->schema, "("), op->schema, weight ? "weight " : "", tune[TAPS_Y],
             tune[TAPS_X], gems_dtype_name(key->dtype[0]), tune[LAST] ? " channels last" : "");
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
