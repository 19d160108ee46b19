/* Convolution, transposed convolution and their gradients: the arguments brought to one form, an
 * image, a result and a weight, and then whichever of the three is asked for. Twin of
 * kernels/convolution.cu. */
#include "convolution.h"

#include <stdio.h>
#include <string.h>

#include "modes.h"

enum { KERNEL_DIRECT = GEMS_COPY_END };
enum { ENTRY_CONVOLUTION, ENTRY_BIAS }; /* kernels of a program */
enum { TUNE_KIND, TUNE_INNER };
#define THREADS   256
#define FLAG_WIDE 1 /* 64-bit index */
#define FLAG_FAST 2

/* Multiplications from which another is faster: oneDNN on a CPU, cuDNN on a GPU. */
#define MOST_CPU                    6000.0
#define MOST_CPU_BACKWARD           3000.0
#define MOST_CPU_HALVES             40000.0
#define MOST_CPU_DEPTHWISE          60000.0 /* the result alone */
#define MOST_GPU                    1048576.0
/* The same of products on the tensor cores of sm_90a: of two and three dims; of one dim; the
 * gradient of an image channels last. */
#define MOST_TILES                  5e8
#define MOST_TILES_LINE             1e9
/* The same of what convolution_panel.c computes; of all gradients together. */
#define MOST_PANELS                 3e6
#define MOST_PANELS_HALVES          1e8
#define MOST_PANELS_HALVES_BACKWARD 3e7

/* Twins of Convolution in kernels/convolution.cu. */
typedef struct sizes {
    gems_fastdiv div[5];
    int32_t size[4];
    int32_t batch, groups, image_channels, result_channels;
    int32_t in[3], out[3];
    gems_window window[3];
} sizes;
typedef struct narrow {
    int32_t n;
    sizes s;
    int32_t image[5], result[5], weight[5];
} narrow;
typedef struct wide {
    int64_t n;
    sizes s;
    int64_t image[5], result[5], weight[5];
} wide;

/* ---- reading the arguments ---- */

/* One of the sides as it is given: rank + 2 dims. */
static void set_side(gems_side *side, const gems_convolution *c, int64_t first, int64_t second,
                     const int64_t *space) {
    side->sizes[0] = first;
    side->sizes[1] = second;
    memcpy(side->sizes + 2, space, (size_t)c->rank * sizeof *space);
    gems_image_strides(side->sizes, c->rank + 2, c->last, side->strides);
}

/* Whether ATen computes it channels last. It takes a line for an image of height 1, and looks at
 * the weight alone then. */
static bool is_last(const gems_call *call, const gems_tensor *x, const gems_tensor *w) {
    if (x->dtype == GEMS_F64 && (x->ndim == 5 || call->device_type != GEMS_CPU)) return false;
    if (x->ndim > 3) return gems_like_channels_last(x) || gems_like_channels_last(w);
    const int64_t shape[4] = {w->sizes[0], w->sizes[1], 1, w->sizes[2]};
    const int64_t steps[4] = {w->strides[0], w->strides[1], w->sizes[2] * w->strides[2],
                              w->strides[2]};
    gems_tensor image = *w;
    image.sizes = shape;
    image.strides = steps;
    image.ndim = 4;
    return gems_like_channels_last(&image);
}

/* Fills windows, sizes of the three sides and the memory format. x: what goes in (its sizes), w:
 * the weight; at: the argument `stride`. */
static gems_status read_geometry(const gems_call *call, const gems_tensor *x, const gems_tensor *w,
                                 int at, gems_convolution *c) {
    int32_t stride[3], pad[3], dilation[3], extra[3] = {0, 0, 0};
    bool depthwise = call->op->mode == GEMS_CONVOLUTION_DEPTHWISE;
    c->rank = x->ndim - 2;
    c->dtype = x->dtype;
    if (c->rank < 1 || c->rank > 3 || w->ndim != x->ndim) return gems_decline("rank");
    if (!(call->op->dtypes & GEMS_BIT(x->dtype % GEMS_DTYPES)) || w->dtype != x->dtype)
        return gems_decline("dtype");
    if (!x->numel || !w->numel) return gems_decline("no elements");
    c->transposed = !depthwise && gems_arg_int(call, at + 3) != 0;
    int64_t groups = depthwise ? x->sizes[1] : gems_arg_int(call, at + 5);
    if (!gems_window_ints(&call->args[at], c->rank, NULL, stride) ||
        !gems_window_ints(&call->args[at + 1], c->rank, NULL, pad) ||
        !gems_window_ints(&call->args[at + 2], c->rank, NULL, dilation) ||
        (c->transposed && !gems_window_ints(&call->args[at + 4], c->rank, NULL, extra)))
        return gems_decline("sizes of the windows");
    if (groups < 1 || groups > INT32_MAX || w->sizes[0] % groups) return gems_decline("groups");
    /* the weight is [channels of the result][channels of the image in a group] */
    int64_t given = c->transposed ? w->sizes[0] : w->sizes[1] * groups;
    int64_t made = c->transposed ? w->sizes[1] * groups : w->sizes[0];
    if (x->sizes[1] != given || given % groups || made % groups) return gems_decline("channels");
    if (x->sizes[0] > 1 << 30 || given > 1 << 30 || made > 1 << 30) return gems_decline("channels");
    int64_t image_space[3], result_space[3];
    for (int d = 0; d < c->rank; d++) {
        gems_window *v = &c->window[3 - c->rank + d];
        int64_t size = x->sizes[2 + d];
        if (w->sizes[2 + d] > 1 << 29) return gems_decline("sizes of the windows");
        *v = (gems_window){(int32_t)w->sizes[2 + d], stride[d], pad[d], dilation[d]};
        if (v->stride < 1 || v->pad < 0 || v->dilation < 1 || extra[d] < 0 ||
            (extra[d] >= v->stride && extra[d] >= v->dilation))
            return gems_decline("sizes of the windows");
        if (call->device_type != GEMS_CPU && extra[d] >= v->stride)
            return gems_decline("an output padding of a stride or more, on a GPU");
        int64_t span = (int64_t)v->dilation * (v->size - 1) + 1;
        int64_t image = size, result = size;
        if (c->transposed)
            image = (size - 1) * v->stride - 2 * (int64_t)v->pad + span + extra[d];
        else
            result = (size + 2 * (int64_t)v->pad - span) / v->stride + 1;
        if (image < 1 || (!c->transposed && size + 2 * (int64_t)v->pad < span))
            return gems_decline("no outputs");
        if (!gems_window_fits(v, image)) return gems_decline("sizes beyond the kernel's index");
        image_space[d] = image;
        result_space[d] = result;
    }
    for (int d = 0; d < 3 - c->rank; d++) c->window[d] = (gems_window){1, 1, 0, 1};
    c->last = is_last(call, x, w);
    if (c->last && c->rank == 3 && call->device_type == GEMS_CPU && c->dtype == GEMS_F32 &&
        ((x->sizes[0] == 1 && groups == 1) || (w->sizes[3] == 1 && w->sizes[4] == 1)))
        return gems_decline("a volume channels last, of whose result ATen's library decides");
    c->groups = (int32_t)groups;
    c->batch = (int32_t)x->sizes[0];
    c->image_channels = (int32_t)((c->transposed ? made : given) / groups);
    c->result_channels = (int32_t)((c->transposed ? given : made) / groups);
    set_side(&c->image, c, c->batch, (int64_t)c->image_channels * groups, image_space);
    set_side(&c->result, c, c->batch, (int64_t)c->result_channels * groups, result_space);
    set_side(&c->weight, c, w->sizes[0], w->sizes[1], w->sizes + 2);
    c->work = (double)gems_numel(c->result.sizes, c->rank + 2) * c->image_channels;
    for (int d = 0; d < 3; d++) c->work *= c->window[d].size;
    return GEMS_OK;
}

static gems_status check_vector(const gems_tensor *t, int64_t n, int dtype) {
    if (t &&
        (t->ndim != 1 || t->sizes[0] != n || t->dtype != dtype || (n > 1 && t->strides[0] != 1)))
        return gems_decline("shape or dtype of the bias");
    return GEMS_OK;
}

/* ---- launches ---- */

/* A side's strides as sample, channel, z, y, x. */
static void spread(const gems_side *side, int rank, int64_t *to) {
    to[0] = side->strides[0];
    to[1] = side->strides[1];
    for (int d = 0; d < 3; d++) to[2 + d] = d < 3 - rank ? 0 : side->strides[2 + d - (3 - rank)];
}

static int32_t extent(const gems_side *side, int rank, int d) {
    return d < 3 - rank ? 1 : (int32_t)side->sizes[2 + d - (3 - rank)];
}

static void fill(const gems_convolution *c, int kind, wide *w) {
    memset(w, 0, sizeof *w);
    sizes *s = &w->s;
    s->batch = c->batch;
    s->groups = c->groups;
    s->image_channels = c->image_channels;
    s->result_channels = c->result_channels;
    for (int d = 0; d < 3; d++) {
        s->window[d] = c->window[d];
        s->in[d] = extent(&c->image, c->rank, d);
        s->out[d] = extent(&c->result, c->rank, d);
    }
    spread(&c->image, c->rank, w->image);
    spread(&c->result, c->rank, w->result);
    spread(&c->weight, c->rank, w->weight);
    const int32_t *space = kind == GEMS_CONVOLVE_IMAGE ? s->in : s->out;
    for (int d = 0; d < 3; d++)
        s->size[d] = kind == GEMS_CONVOLVE_WEIGHT ? c->window[2 - d].size : space[2 - d];
    int32_t inside = kind == GEMS_CONVOLVE_RESULT ? c->result_channels : c->image_channels;
    s->size[3] = kind == GEMS_CONVOLVE_WEIGHT ? inside : inside * c->groups;
    for (int d = 0; d < 4; d++) s->div[d] = gems_fastdiv_make((uint32_t)s->size[d]);
    s->div[4] =
        gems_fastdiv_make((uint32_t)(kind == GEMS_CONVOLVE_WEIGHT ? c->result_channels : inside));
}

static bool beyond_int32(const gems_convolution *c) {
    const gems_side *sides[3] = {&c->image, &c->result, &c->weight};
    for (int i = 0; i < 3; i++)
        if (gems_numel(sides[i]->sizes, c->rank + 2) > INT32_MAX - (1 << 24)) return true;
    return false;
}

static void shorten(const wide *w, narrow *n) {
    n->n = (int32_t)w->n;
    n->s = w->s;
    for (int i = 0; i < 5; i++) {
        n->image[i] = (int32_t)w->image[i];
        n->result[i] = (int32_t)w->result[i];
        n->weight[i] = (int32_t)w->weight[i];
    }
}

static gems_status run_direct(gems_call *call, const gems_convolution *c, int kind, void *out,
                              const void *a, const void *b, const void *bias) {
    const gems_device_info *info = gems_device_information(call->device);
    bool broad = beyond_int32(c), weight = kind == GEMS_CONVOLVE_WEIGHT;
    bool inner = c->last && !info->fast && !weight;
    wide w;
    narrow n;
    fill(c, kind, &w);
    const int32_t *size = w.s.size;
    int64_t rows = (int64_t)size[1] * size[2] * size[3];
    w.n = weight ? rows * size[0] * c->result_channels * c->groups
                 : rows * c->batch * (info->fast ? 1 : size[0]);
    shorten(&w, &n);
    gems_key key = {.kernel = KERNEL_DIRECT, .dtype = {(uint8_t)c->dtype}};
    key.flags = (uint8_t)((broad ? FLAG_WIDE : 0) | (info->fast ? FLAG_FAST : 0));
    key.tune[TUNE_KIND] = (uint8_t)kind;
    key.tune[TUNE_INNER] = inner;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {&out, &a, &b, &bias, broad ? (void *)&w : (void *)&n};
    double work = c->work / (double)w.n;
    int64_t each = info->fast ? 1 + (int64_t)(8192 / (work + 1)) : weight ? 1 : THREADS;
    const uint32_t grid[3] = {gems_grid_for(info, w.n, each), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : weight ? 128 : THREADS, 1, 1};
    return gems_call_launch(call, plan, ENTRY_CONVOLUTION, grid, block, 0, args);
}

static gems_status run_bias(gems_call *call, const gems_convolution *c, const gems_side *made,
                            void *out, const void *grad) {
    const gems_device_info *info = gems_device_information(call->device);
    bool broad = beyond_int32(c);
    wide w;
    narrow n;
    gems_convolution plain = *c;
    plain.result = *made; /* the side that the bias was added to */
    plain.result_channels = (int32_t)(made->sizes[1] / c->groups);
    fill(&plain, GEMS_CONVOLVE_RESULT, &w);
    w.n = made->sizes[1];
    shorten(&w, &n);
    gems_key key = {.kernel = KERNEL_DIRECT, .dtype = {(uint8_t)c->dtype}};
    key.flags = (uint8_t)((broad ? FLAG_WIDE : 0) | (info->fast ? FLAG_FAST : 0));
    key.tune[TUNE_KIND] = GEMS_CONVOLVE_WEIGHT; /* wanted beside the bias' more often than not */
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {&out, &grad, broad ? (void *)&w : (void *)&n};
    const uint32_t grid[3] = {gems_grid_for(info, w.n, 1), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, ENTRY_BIAS, grid, block, 0, args);
}

/* ---- the calls ---- */

/* Whether the fast mode's panels compute all of the products, of kinds that are bits, and are the
 * faster ones: with a single tap, or windows that do not lie side by side, they are slower. */
static bool in_panels(const gems_convolution *c, int kinds, const gems_device_info *info) {
    int taps = c->window[0].size * c->window[1].size * c->window[2].size;
    bool strided = c->window[0].stride * c->window[1].stride * c->window[2].stride != 1;
    if (taps == 1 && c->dtype >= GEMS_F32 && c->dtype <= GEMS_F64) return false;
    if (strided && kinds >> GEMS_CONVOLVE_IMAGE & 1 && c->dtype == GEMS_F64) return false;
    for (int kind = 0; kind <= GEMS_CONVOLVE_WEIGHT; kind++)
        if (kinds >> kind & 1 && !gems_convolution_panels(c, kind, info)) return false;
    return kinds != 0;
}

/* Whether both begin at a multiple of 16 bytes. */
static bool aligned(const void *a, const void *b) {
    return ((uintptr_t)a | (uintptr_t)b) % 16 == 0;
}

/* Of a window for each channel, what an H200 computed at least as fast as cuDNN. */
static bool each_is_fast(const gems_convolution *c, int kind) {
    const gems_window *w = c->window;
    const bool halves = GEMS_HALF_MASK & GEMS_BIT(c->dtype), words = c->dtype == GEMS_F32;
    const int taps = w[1].size * w[2].size, steps = w[1].stride * w[2].stride;
    if (kind == GEMS_CONVOLVE_WEIGHT) {
        if (c->rank != 2) return false;
        return c->last ? words && (taps > 9 || steps != 1)
                       : words || (halves && (taps > 25 || steps != 1));
    }
    if (c->last) return false;
    if (c->rank == 1) return halves && w[2].size % 2 == 0;
    return words || (halves && (taps > 9 || steps != 1));
}

/* The same of products on the tensor cores, when calls are timed as graphs: lines; images channels
 * last of which every second pixel is taken; the weight's gradient of few channels and many pixels.
 */
static bool tiles_are_fast(const gems_convolution *c, int kind) {
    const gems_window *w = c->window;
    const int taps = w[1].size * w[2].size, steps = w[1].stride * w[2].stride;
    if (c->rank == 1)
        return c->work <= MOST_TILES_LINE && (kind != GEMS_CONVOLVE_IMAGE || steps == 1);
    if (c->rank != 2 || c->work > MOST_TILES) return false;
    const double pixels =
        (double)c->batch * (double)c->result.sizes[2] * (double)c->result.sizes[3];
    if (kind == GEMS_CONVOLVE_WEIGHT)
        return taps > 1 && c->image_channels <= 64 && c->result_channels <= 64 &&
               pixels >= (c->last ? 4096 : 8192);
    return kind == GEMS_CONVOLVE_RESULT && c->last && steps != 1 && c->image_channels <= 64 &&
           c->result_channels <= 64;
}

/* What an H200 computed at least as fast as cuDNN, beyond what is small; kinds: bits. */
static bool fast_on_gpu(const gems_convolution *c, int kinds, const gems_device_info *info) {
    for (int kind = 0; kind <= GEMS_CONVOLVE_WEIGHT; kind++) {
        if (!(kinds >> kind & 1)) continue;
        const bool fast = gems_convolution_depthwise(c, kind, info)
                              ? each_is_fast(c, kind)
                              : info->hopper && c->groups == 1 &&
                                    gems_convolution_tiles(c, kind, info) &&
                                    tiles_are_fast(c, kind);
        if (!fast) return false;
    }
    return kinds != 0;
}

/* Declines what another is faster at; kinds: bits of what is computed, of gradients where these are
 * wanted; more: something is wanted or given that the fast kernels of a GPU do not take. */
static gems_status check_work(const gems_call *call, const gems_convolution *c, int kinds,
                              bool gradients, bool more) {
    const gems_device_info *info = gems_device_information(call->device);
    bool depthwise = c->image_channels == 1 && c->result_channels <= 2,
         halves = GEMS_HALF_MASK & GEMS_BIT(c->dtype);
    int count = 0;
    for (int kind = 0; kind <= GEMS_CONVOLVE_WEIGHT; kind++) count += kinds >> kind & 1;
    double most = halves      ? MOST_CPU_HALVES
                  : gradients ? MOST_CPU_BACKWARD
                  : depthwise ? MOST_CPU_DEPTHWISE
                              : MOST_CPU;
    double work = c->work * (count ? count : 1);
    if (info->fast && work > most && in_panels(c, kinds, info))
        most = !halves ? MOST_PANELS : gradients ? MOST_PANELS_HALVES_BACKWARD : MOST_PANELS_HALVES;
    if (info->fast && work > most) return gems_decline("a size at which ATen is faster on a CPU");
    if (info->arch && c->work > MOST_GPU && (more || !fast_on_gpu(c, kinds, info)))
        return gems_decline("a size at which ATen is faster on a GPU");
    return GEMS_OK;
}

/* One product, from tensors: packs what is read and the weight as the kernels want them. `in` says
 * how what is read lies, for the direct kernels; last: NULL, or where it lies channels last, NULL
 * until it is asked for. */
static gems_status convolve(gems_call *call, gems_convolution *c, int kind, void *out,
                            const gems_tensor *read, gems_side *in, const gems_tensor *weight,
                            const void *bias, const void **last) {
    const void *image, *w, *here = NULL;
    const gems_device_info *info = gems_device_information(call->device);
    if (!last) last = &here;
    if (gems_convolution_tiles(c, kind, info) && aligned(read->data, weight->data)) {
        GEMS_TRY(gems_convolution_pack_last(call, read, last));
        GEMS_TRY(gems_convolution_pack_weight(call, c, kind, weight, &w));
        return gems_convolution_tile(call, c, kind, out, *last, w, bias);
    }
    GEMS_TRY(gems_image_pack(call, read, in->strides, &image));
    if (gems_convolution_panels(c, kind, info))
        return gems_convolution_panel(call, c, kind, out, image, weight, bias);
    if (gems_convolution_depthwise(c, kind, info) && aligned(image, out) &&
        aligned(weight->data, NULL))
        return gems_convolution_depthwise_run(call, c, kind, out, image, weight, bias);
    GEMS_TRY(gems_image_pack(call, weight, c->weight.strides, &w));
    return run_direct(call, c, kind, out, image, w, bias);
}

/* The weight's gradient: from the image and the gradient of its result. */
static gems_status convolve_weight(gems_call *call, gems_convolution *c, void *out,
                                   const gems_tensor *image, const gems_tensor *result,
                                   const void **image_last, const void **result_last) {
    const gems_device_info *info = gems_device_information(call->device);
    const void *a, *b;
    if (gems_convolution_tiles(c, GEMS_CONVOLVE_WEIGHT, info) &&
        aligned(image->data, result->data)) {
        if (!*image_last) GEMS_TRY(gems_convolution_pack_last(call, image, image_last));
        if (!*result_last) GEMS_TRY(gems_convolution_pack_last(call, result, result_last));
        return gems_convolution_tile(call, c, GEMS_CONVOLVE_WEIGHT, out, *image_last, *result_last,
                                     NULL);
    }
    GEMS_TRY(gems_image_pack(call, image, c->image.strides, &a));
    GEMS_TRY(gems_image_pack(call, result, c->result.strides, &b));
    if (gems_convolution_depthwise(c, GEMS_CONVOLVE_WEIGHT, info) && aligned(a, b))
        return gems_convolution_each_weight(call, c, out, a, b);
    if (gems_convolution_panels(c, GEMS_CONVOLVE_WEIGHT, info)) {
        gems_tensor grad = *result;
        grad.data = (void *)(uintptr_t)b;
        return gems_convolution_panel(call, c, GEMS_CONVOLVE_WEIGHT, out, a, &grad, NULL);
    }
    return run_direct(call, c, GEMS_CONVOLVE_WEIGHT, out, a, b, NULL);
}

/* In the fast mode rows are read along x, so that sides are contiguous there; what is written keeps
 * its format. */
static void lay_out(const gems_call *call, const gems_convolution *c, const gems_side *side,
                    gems_side *to) {
    *to = *side;
    if (gems_device_information(call->device)->fast)
        gems_contiguous_strides(side->sizes, c->rank + 2, to->strides);
}

static gems_status forward(gems_call *call) {
    bool depthwise = call->op->mode == GEMS_CONVOLUTION_DEPTHWISE;
    const gems_tensor *x = gems_arg_tensor(call, 0), *w = gems_arg_tensor(call, 1),
                      *bias = gems_arg_tensor(call, depthwise ? 3 : 2);
    gems_convolution c;
    memset(&c, 0, sizeof c);
    if (!x || !w) return gems_decline("input or weight is no tensor");
    GEMS_TRY(read_geometry(call, x, w, depthwise ? 4 : 3, &c));
    if (depthwise) {
        int32_t size[2];
        if (c.rank != 2 || c.image_channels != 1 ||
            !gems_window_ints(&call->args[2], 2, NULL, size) || size[0] != c.window[1].size ||
            size[1] != c.window[2].size)
            return gems_decline("shape of the weight");
    }
    gems_side *given = c.transposed ? &c.result : &c.image,
              *made = c.transposed ? &c.image : &c.result;
    GEMS_TRY(check_vector(bias, made->sizes[1], c.dtype));
    int kind = c.transposed ? GEMS_CONVOLVE_IMAGE : GEMS_CONVOLVE_RESULT;
    GEMS_TRY(check_work(call, &c, 1 << kind, false, !aligned(x->data, w->data)));
    GEMS_TRY(gems_output(call, 0, c.rank + 2, made->sizes, made->strides, c.dtype));
    lay_out(call, &c, given, given);
    return convolve(call, &c, kind, call->out[0].data, x, given, w, bias ? bias->data : NULL, NULL);
}

static gems_status backward(gems_call *call) {
    const gems_tensor *grad = gems_arg_tensor(call, 0), *x = gems_arg_tensor(call, 1),
                      *w = gems_arg_tensor(call, 2);
    const gems_value *mask = &call->args[10];
    gems_convolution c;
    memset(&c, 0, sizeof c);
    if (!grad || !x || !w) return gems_decline("input or weight is no tensor");
    GEMS_TRY(read_geometry(call, x, w, 4, &c));
    gems_side given = c.transposed ? c.result : c.image, made = c.transposed ? c.image : c.result;
    if (mask->kind != GEMS_INTS || mask->ints.n != 3) return gems_decline("output_mask");
    int kind = c.transposed ? GEMS_CONVOLVE_RESULT : GEMS_CONVOLVE_IMAGE; /* of grad_input */
    bool wanted[3];
    for (int i = 0; i < 3; i++) wanted[i] = mask->ints.v[i] != 0;
    if (grad->dtype != c.dtype || grad->ndim != c.rank + 2 ||
        memcmp(grad->sizes, made.sizes, (size_t)grad->ndim * sizeof *grad->sizes))
        return gems_decline("shape or dtype of the gradient");
    if (call->entry->variant == GEMS_OUT && !(wanted[0] && wanted[1] && wanted[2]))
        return gems_decline("results that are not wanted");
    GEMS_TRY(check_work(call, &c, wanted[0] << kind | wanted[1] << GEMS_CONVOLVE_WEIGHT, true,
                        wanted[2] || !aligned(x->data, w->data) || !aligned(grad->data, NULL)));
    gems_side weight_made = c.weight, given_made = given;
    bool own =
        true; /* a weight that lies so already is followed to the strides of its dims of size 1 */
    for (int d = 0; d < w->ndim; d++)
        own = own && (w->sizes[d] == 1 || w->strides[d] == c.weight.strides[d]);
    if (own) memcpy(weight_made.strides, w->strides, (size_t)w->ndim * sizeof *w->strides);
    if (wanted[0]) GEMS_TRY(gems_output(call, 0, c.rank + 2, given.sizes, given.strides, c.dtype));
    if (wanted[1])
        GEMS_TRY(gems_output(call, 1, c.rank + 2, c.weight.sizes, weight_made.strides, c.dtype));
    if (wanted[2]) GEMS_TRY(gems_output(call, 2, 1, &made.sizes[1], NULL, c.dtype));
    lay_out(call, &c, &given, &given);
    lay_out(call, &c, &made, &made);
    const void *g, *grad_last = NULL, *x_last = NULL;
    if (wanted[0]) {
        gems_convolution d = c;
        d.image = c.transposed ? made : given_made;
        d.result = c.transposed ? given_made : made;
        GEMS_TRY(convolve(call, &d, kind, call->out[0].data, grad, &made, w, NULL, &grad_last));
    }
    if (wanted[1]) {
        gems_convolution d = c;
        d.image = c.transposed ? made : given;
        d.result = c.transposed ? given : made;
        d.weight = weight_made;
        GEMS_TRY(convolve_weight(call, &d, call->out[1].data, c.transposed ? grad : x,
                                 c.transposed ? x : grad, c.transposed ? &grad_last : &x_last,
                                 c.transposed ? &x_last : &grad_last));
    }
    if (!wanted[2]) return GEMS_OK;
    GEMS_TRY(gems_image_pack(call, grad, made.strides, &g));
    return run_bias(call, &c, &made, call->out[2].data, g);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    return call->op->mode == GEMS_CONVOLUTION_BACKWARD ? backward(call) : forward(call);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, program);
    if (key->kernel == GEMS_CONVOLUTION_TILE)
        return gems_convolution_tile_program(op, key, program);
    if (key->kernel == GEMS_CONVOLUTION_EACH)
        return gems_convolution_depthwise_program(op, key, program);
    if (key->kernel == GEMS_CONVOLUTION_PANEL)
        return gems_convolution_panel_program(op, key, program);
    const char *name = gems_dtype_kernel(key->dtype[0]);
    if (!name) return gems_fail(GEMS_RUNTIME_ERROR, "not a key of convolution");
    static const char *const kinds[] = {"result", "image", "weight"};
    gems_text_add(&program->head, "typedef %s T;\ntypedef %s Index;\n", name,
                  key->flags & FLAG_WIDE ? "int64_t" : "int32_t");
    gems_text_add(&program->head, "constexpr int kKind = %d;\nconstexpr bool kInner = %s;\n",
                  key->tune[TUNE_KIND], key->tune[TUNE_INNER] ? "true" : "false");
    program->files[0] = "window.cuh";
    program->files[1] = "convolution.cu";
    program->entries[ENTRY_CONVOLUTION] = "convolution";
    program->entries[ENTRY_BIAS] = "bias_gradient";
    program->entry_count = 2;
    snprintf(program->name, sizeof program->name, "%.*s %s %s", (int)strcspn(op->schema, "("),
             op->schema, kinds[key->tune[TUNE_KIND]], gems_dtype_name(key->dtype[0]));
    return GEMS_OK;
}

/* The result in both orders; backward the gradients. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    bool back = op->mode == GEMS_CONVOLUTION_BACKWARD;
    int direct = back || !info->fast ? 2 : 1;
    if (info->fast && i == direct) {
        key->kernel = GEMS_CONVOLUTION_PANEL;
        key->dtype[0] = (uint8_t)dtype;
        return true;
    }
    if (i >= direct) {
        gems_key depthwise = *key;
        if (op->mode != GEMS_CONVOLUTION_DEPTHWISE &&
            gems_convolution_tile_warm(op, dtype, i - direct, back, info, key))
            return true;
        /* behind them those of a window for each channel */
        int tiles = 0;
        gems_key other = *key;
        while (op->mode != GEMS_CONVOLUTION_DEPTHWISE &&
               gems_convolution_tile_warm(op, dtype, tiles, back, info, &other))
            tiles++;
        *key = depthwise;
        return gems_convolution_depthwise_warm(dtype, i - direct - tiles, info, key);
    }
    key->kernel = KERNEL_DIRECT;
    key->flags = info->fast ? FLAG_FAST : 0;
    key->dtype[0] = (uint8_t)dtype;
    key->tune[TUNE_KIND] = (uint8_t)(!back ? GEMS_CONVOLVE_RESULT
                                     : i   ? GEMS_CONVOLVE_WEIGHT
                                           : GEMS_CONVOLVE_IMAGE);
    key->tune[TUNE_INNER] = !back && i;
    return true;
}

const gems_family gems_family_convolution = {
    .name = "convolution", .run = run, .program = program, .warm = warm};
