/* Convolution in the cpu backend's fast mode by the register block of matrix products: where it is
 * taken, and how it is parted. Twin of kernels/convolution_panel.cu. */
#include "convolution.h"

#include <stdio.h>
#include <string.h>

#define LEAST_WORK   4096.0 /* below, rows one after another are as fast */
#define LEAST_DEPTH  8
#define PANEL_ROWS   12 /* a multiple of the register block's rows on every CPU */
#define PANEL_COLS   32
#define LONG         2048    /* pixels of a weight's gradient that are multiplied at a time */
#define WORTH_A_PART 65536.0 /* multiplications for which another worker is worth it */

/* Twin of Panels in kernels/convolution_panel.cu. */
typedef struct panels {
    int64_t n;
    const void *read, *weight, *bias;
    void *out;
    int32_t batch, groups, channels, made;
    int32_t taps[3], in[3], out_size[3];
    int32_t stride[3], dilation[3];
    int32_t spread[3], before[3];
    int32_t wide[3];
    int32_t bands, band, parts, part;
    int64_t read_sample, read_channel;
    int64_t weight_group, line, channel, tap[3], origin;
    int64_t to[5];
    int32_t width, joint;
} panels;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int32_t extent(const gems_side *side, int rank, int d) {
    return d < 3 - rank ? 1 : (int32_t)side->sizes[2 + d - (3 - rank)];
}

/* Geometry of a band of `band` rows; false: it does not fit `room` elements. */
static bool divide(panels *p, bool weight, int64_t room, int64_t *elements) {
    for (int d = 0; d < 3; d++) {
        int32_t outs = d == 1 ? p->band : p->out_size[d];
        int64_t span =
            (int64_t)(outs - 1) * p->stride[d] + (int64_t)(p->taps[d] - 1) * p->dilation[d] + 1;
        p->wide[d] = (int32_t)ceil_div(span, p->stride[d]);
    }
    int64_t depth = (int64_t)p->channels * p->taps[0] * p->taps[1] * p->taps[2];
    int64_t plane = (int64_t)p->wide[0] * p->wide[1] * p->wide[2];
    int64_t copy = plane * p->stride[0] * p->stride[1] * p->stride[2] * p->channels;
    copy *= p->joint;
    p->width = (int32_t)(ceil_div(plane * p->joint, PANEL_COLS) * PANEL_COLS);
    if (weight)
        *elements = ceil_div(depth, 16) * 16 + p->part * (depth + p->width) + copy + p->width;
    else
        *elements = ceil_div(depth, 16) * 16 + ceil_div(p->part, PANEL_ROWS) * PANEL_ROWS * depth +
                    copy + PANEL_COLS;
    return copy < INT32_MAX / 2 && *elements <= room;
}

static bool plan(const gems_convolution *c, int kind, const gems_device_info *info, int workers,
                 panels *p, int64_t *elements) {
    bool back = kind == GEMS_CONVOLVE_IMAGE, weight = kind == GEMS_CONVOLVE_WEIGHT;
    const gems_side *from = back ? &c->result : &c->image, *to = back ? &c->image : &c->result;
    memset(p, 0, sizeof *p);
    p->batch = c->batch;
    p->groups = c->groups;
    p->channels = back ? c->result_channels : c->image_channels;
    p->made = back ? c->image_channels : c->result_channels;
    for (int d = 0; d < 3; d++) {
        const gems_window *w = &c->window[d];
        p->taps[d] = w->size;
        p->in[d] = extent(from, c->rank, d);
        p->out_size[d] = extent(to, c->rank, d);
        p->dilation[d] = w->dilation;
        p->stride[d] = back ? 1 : w->stride;
        p->spread[d] = back ? w->stride : 1;
        p->before[d] = back ? (w->size - 1) * w->dilation - w->pad : w->pad;
    }
    size_t size = c->dtype == GEMS_F64 ? 8 : 4;
    int64_t room = info->shared_bytes;
    if (info->l2_bytes / 4 * 3 > room) room = info->l2_bytes / 4 * 3;
    room /= (int64_t)size;
    /* As many items as there are workers, of samples, then of parts of what is made; less where it
     * does not fit. */
    int64_t units = (int64_t)(weight ? 1 : p->batch) * p->groups;
    p->part = p->made;
    if (units < workers) {
        int64_t part = ceil_div(p->made, ceil_div(workers, units));
        p->part = (int32_t)(ceil_div(part, PANEL_ROWS) * PANEL_ROWS);
        if (p->part > p->made) p->part = p->made;
    }
    p->band = p->out_size[1];
    p->joint = 1;
    if (weight) { /* vectors of many pixels, which a sample may not have */
        int64_t pixels = (int64_t)p->out_size[0] * p->out_size[1] * p->out_size[2];
        p->joint = (int32_t)ceil_div(LONG, pixels);
        if (p->joint > p->batch) p->joint = p->batch;
    }
    while (!divide(p, weight, room, elements)) {
        int64_t depth = (int64_t)p->channels * p->taps[0] * p->taps[1] * p->taps[2];
        if (p->part > PANEL_ROWS && p->part * depth > room / 2)
            p->part = (int32_t)(ceil_div(p->part / 2, PANEL_ROWS) * PANEL_ROWS);
        else if (p->joint > 1)
            p->joint = (p->joint + 1) / 2;
        else if (p->band > 1)
            p->band = (p->band + 1) / 2;
        else if (p->part > PANEL_ROWS)
            p->part = (int32_t)(ceil_div(p->part / 2, PANEL_ROWS) * PANEL_ROWS);
        else
            return false;
    }
    p->parts = (int32_t)ceil_div(p->made, p->part);
    p->bands = (int32_t)ceil_div(p->out_size[1], p->band);
    p->n = units * p->parts * (weight ? 1 : p->bands);
    return true;
}

bool gems_convolution_panels(const gems_convolution *c, int kind, const gems_device_info *info) {
    panels p;
    int64_t elements, depth = kind == GEMS_CONVOLVE_IMAGE ? c->result_channels : c->image_channels;
    int32_t made = kind == GEMS_CONVOLVE_IMAGE ? c->image_channels : c->result_channels;
    for (int d = 0; d < 3; d++) depth *= c->window[d].size;
    return info->fast && c->work >= LEAST_WORK && made >= 3 && depth >= LEAST_DEPTH &&
           depth < 1 << 20 && plan(c, kind, info, 1, &p, &elements);
}

gems_status gems_convolution_panel(gems_call *call, const gems_convolution *c, int kind, void *out,
                                   const void *read, const gems_tensor *weight, const void *bias) {
    const gems_device_info *info = gems_device_information(call->device);
    bool back = kind == GEMS_CONVOLVE_IMAGE, gradient = kind == GEMS_CONVOLVE_WEIGHT;
    const gems_side *to = back ? &c->image : &c->result;
    int workers = info->processors;
    if (c->work < workers * WORTH_A_PART) workers = 1 + (int)(c->work / WORTH_A_PART);
    panels p;
    int64_t elements;
    if (!plan(c, kind, info, workers, &p, &elements))
        return gems_decline("more than a thread's memory");
    p.read = read;
    p.weight = weight->data;
    const int64_t *strides = gradient ? c->weight.strides : weight->strides;
    p.bias = bias;
    p.out = out;
    p.read_channel = (int64_t)p.in[0] * p.in[1] * p.in[2];
    p.read_sample = p.read_channel * p.channels * p.groups;
    p.weight_group = strides[0] * c->result_channels;
    p.line = strides[back ? 1 : 0];
    p.channel = strides[back ? 0 : 1];
    p.to[0] = to->strides[0];
    p.to[1] = to->strides[1];
    for (int d = 0; d < 3; d++) {
        bool there = d >= 3 - c->rank;
        int at = 2 + d - (3 - c->rank);
        p.to[2 + d] = there ? to->strides[at] : 0;
        p.tap[d] = there ? strides[at] : 0;
        if (back) { /* the last tap first */
            p.origin += p.tap[d] * (p.taps[d] - 1);
            p.tap[d] = -p.tap[d];
        }
    }
    gems_key key = {.kernel = GEMS_CONVOLUTION_PANEL, .dtype = {(uint8_t)c->dtype}};
    const gems_plan *found;
    GEMS_TRY(gems_call_plan(call, &key, &found));
    void *args[] = {&p};
    int64_t blocks = workers > 1 ? workers : 1;
    if (blocks > p.n) blocks = p.n;
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {1, 1, 1};
    return gems_call_launch(call, found, gradient, grid, block,
                            (uint32_t)(elements * (c->dtype == GEMS_F64 ? 8 : 4)), args);
}

gems_status gems_convolution_panel_program(const gems_op *op, const gems_key *key,
                                           gems_program *program) {
    gems_text_add(&program->head, "typedef %s Scalar;\n", gems_dtype_kernel(key->dtype[0]));
    program->files[0] = "matmul.cuh";
    program->files[1] = "panel.cuh";
    program->files[2] = "convolution_panel.cu";
    program->entries[0] = "convolution_panel";
    program->entries[1] = "weight_panel";
    program->entry_count = 2;
    snprintf(program->name, sizeof program->name, "%.*s panel %s", (int)strcspn(op->schema, "("),
             op->schema, gems_dtype_name(key->dtype[0]));
    return GEMS_OK;
}
