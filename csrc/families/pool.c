/* Average and maximum pooling of images, and their gradients. Twin of kernels/pool.cu. */
#include <stdio.h>
#include <string.h>

#include "modes.h"
#include "window.h"

enum { KERNEL_POOL = GEMS_COPY_END };
enum { DTYPE_DATA, TUNE_KIND = 0, TUNE_LANES };
#define THREADS    256
#define LANES_FAST 128  /* channels that the fast mode takes at a time */
#define BAND_FAST  2048 /* elements of a band of rows, kernels/pool.cu */
#define FLAG_WIDE  1    /* 64-bit index */
#define FLAG_INNER 2    /* channels last */
#define FLAG_FAST  4    /* the fast cpu backend's lanes are its own */

/* Twins of Pool in kernels/pool.cu. */
typedef struct shape {
    gems_fastdiv div[3];
    int32_t across, channels;
    int32_t in[2], out[2];
    gems_window window[2];
    int32_t bands, band;
    int32_t divisor, padded, tiled, zeroth;
} shape;
typedef struct pool_narrow {
    int32_t n;
    shape s;
} pool_narrow;
typedef struct pool_wide {
    int64_t n;
    shape s;
} pool_wide;

/* One call, resolved. */
typedef struct request {
    const gems_tensor *image, *grad, *indices; /* grad: of the result, in a backward pass */
    shape s;
    int64_t sizes[4], out_sizes[4]; /* of the image and the pooled one */
    int64_t strides[4], out_strides[4];
    int64_t planes;
    int ndim;
    bool last, backward, max;
} request;

static bool is_max(int mode) { return mode >= GEMS_POOL_MAX; }

static gems_status read_windows(const gems_call *call, request *r) {
    int at = r->backward ? 2 : 1;
    int32_t size[2], stride[2], pad[2], dilation[2] = {1, 1};
    if (!gems_window_ints(&call->args[at], 2, NULL, size) ||
        !gems_window_ints(&call->args[at + 1], 2, size, stride) ||
        !gems_window_ints(&call->args[at + 2], 2, NULL, pad) ||
        (r->max && !gems_window_ints(&call->args[at + 3], 2, NULL, dilation)))
        return gems_decline("sizes of the window");
    bool ceil = gems_arg_int(call, at + 3 + r->max) != 0;
    r->s.padded = 1;
    if (!r->max) {
        const gems_value *divisor = &call->args[at + 5];
        r->s.padded = gems_arg_int(call, at + 4) != 0;
        if (divisor->kind != GEMS_NONE) {
            if (divisor->i == 0 || divisor->i > INT32_MAX || divisor->i < -INT32_MAX)
                return gems_decline("divisor");
            r->s.divisor = (int32_t)divisor->i;
        }
    }
    for (int d = 0; d < 2; d++) {
        gems_window *w = &r->s.window[d];
        int64_t in = r->sizes[r->ndim - 2 + d];
        *w = (gems_window){size[d], stride[d], pad[d], dilation[d]};
        if (w->size < 1 || w->stride < 1 || w->dilation < 1 || w->pad < 0 || w->pad > w->size / 2)
            return gems_decline("sizes of the window");
        if (!gems_window_fits(w, in)) return gems_decline("sizes beyond the kernel's index");
        /* such a window may have no tap in the image */
        if (w->dilation > 1 && in < w->dilation) return gems_decline("dilation beyond the image");
        int64_t out = gems_window_pooled(w, in, ceil);
        if (out < 1) return gems_decline("no outputs");
        r->s.in[d] = (int32_t)in;
        r->s.out[d] = (int32_t)out;
    }
    if ((int64_t)size[0] * size[1] > INT32_MAX) return gems_decline("sizes of the window");
    return GEMS_OK;
}

static gems_status resolve(const gems_call *call, request *r) {
    int mode = call->op->mode;
    memset(r, 0, sizeof *r);
    r->max = is_max(mode);
    r->backward = mode == GEMS_POOL_AVERAGE_BACKWARD || mode == GEMS_POOL_MAX_BACKWARD;
    r->image = gems_arg_tensor(call, r->backward);
    if (!r->image || !(call->op->dtypes & GEMS_BIT(r->image->dtype % GEMS_DTYPES)))
        return gems_decline("dtype");
    if (call->device_type != GEMS_CPU && !(GEMS_FLOAT_MASK & GEMS_BIT(r->image->dtype)))
        return gems_decline("integers on a GPU");
    r->ndim = r->image->ndim;
    if (r->ndim != 3 && r->ndim != 4) return gems_decline("rank");
    memcpy(r->sizes, r->image->sizes, (size_t)r->ndim * sizeof *r->sizes);
    for (int d = r->ndim - 3; d < r->ndim; d++)
        if (r->sizes[d] < 1) return gems_decline("an image without elements");
    GEMS_TRY(read_windows(call, r));
    memcpy(r->out_sizes, r->sizes, sizeof r->sizes);
    for (int d = 0; d < 2; d++) r->out_sizes[r->ndim - 2 + d] = r->s.out[d];
    r->last = gems_like_channels_last(r->image);
    if (r->last && call->device_type != GEMS_CPU) {
        r->s.zeroth = r->max;
        if (r->backward && !r->max && (r->s.window[0].pad || r->s.window[1].pad))
            return gems_decline("padding of channels last, whose gradient is ATen's own on a GPU");
    }
    int bits = 8 * (int)gems_dtype_size(r->image->dtype) - (r->image->dtype != GEMS_U8);
    if (r->max && r->last && !(GEMS_FLOAT_MASK & GEMS_BIT(r->image->dtype)) && bits < 32 &&
        (int64_t)r->s.in[0] * r->s.in[1] >= INT64_C(1) << bits)
        return gems_decline("more places than ATen counts in this dtype");
    gems_image_strides(r->sizes, r->ndim, r->last, r->strides);
    gems_image_strides(r->out_sizes, r->ndim, r->last, r->out_strides);
    int64_t samples = r->ndim == 4 ? r->sizes[0] : 1, channels = r->sizes[r->ndim - 3];
    if (channels > INT32_MAX) return gems_decline("channels beyond the kernel's index");
    r->s.channels = r->last ? (int32_t)channels : 1;
    r->planes = r->last ? samples : samples * channels;
    if (!r->backward) return GEMS_OK;
    r->grad = gems_arg_tensor(call, 0);
    if (r->max) r->indices = gems_arg_tensor(call, 7);
    if (!r->grad || r->grad->dtype != r->image->dtype || r->grad->ndim != r->ndim ||
        memcmp(r->grad->sizes, r->out_sizes, (size_t)r->ndim * sizeof *r->sizes))
        return gems_decline("shape or dtype of the gradient");
    if (r->max &&
        (!r->indices || r->indices->dtype != GEMS_I64 || !gems_same_sizes(r->indices, r->grad)))
        return gems_decline("shape or dtype of the indices");
    return GEMS_OK;
}

/* Items of the grid, and how an item is taken apart. */
static int64_t items_of(request *r, const gems_device_info *info, int lanes) {
    const int32_t *size = r->backward ? r->s.in : r->s.out;
    int32_t width = info->fast && r->last ? LANES_FAST : lanes;
    bool scatters = info->fast && r->backward && r->max; /* whole samples or bands of rows */
    r->s.across = (r->s.channels + width - 1) / width;
    r->s.band = 1;
    if (scatters && !r->last)
        r->s.band = size[1] > BAND_FAST / 2                  ? 1
                    : (int64_t)size[0] * size[1] > BAND_FAST ? BAND_FAST / size[1]
                                                             : size[0];
    const gems_window *w = r->s.window;
    r->s.tiled = r->backward && !r->max && w[0].size == w[0].stride && w[1].size == w[1].stride &&
                 !w[0].pad && !w[1].pad;
    if (info->fast && !r->last && r->s.tiled) r->s.band = w[0].stride;
    r->s.bands = (size[0] + r->s.band - 1) / r->s.band;
    r->s.div[0] = gems_fastdiv_make((uint32_t)r->s.across);
    r->s.div[1] = gems_fastdiv_make((uint32_t)size[1]);
    r->s.div[2] = gems_fastdiv_make((uint32_t)r->s.bands);
    if (info->fast && !r->last) return r->planes * r->s.bands;
    int dtype = r->image->dtype;
    if (scatters && gems_dtype_opmath(dtype) == dtype) return r->planes * r->s.across;
    return r->planes * size[0] * size[1] * r->s.across;
}

static int lanes_of(const request *r, const gems_device_info *info, const void *in,
                    const void *out) {
    int lanes = 16 / (int)gems_dtype_size(r->image->dtype);
    if (info->fast || !r->last) return 1;
    while (lanes > 1 && (r->s.channels % lanes || ((uintptr_t)in | (uintptr_t)out) %
                                                      (lanes * gems_dtype_size(r->image->dtype))))
        lanes /= 2;
    return lanes;
}

static gems_status run(gems_call *call) {
    request r;
    GEMS_TRY(resolve(call, &r));
    const gems_device_info *info = gems_device_information(call->device);
    int dtype = r.image->dtype;
    const void *in = NULL, *places = NULL;
    GEMS_TRY(gems_output(call, 0, r.ndim, r.backward ? r.sizes : r.out_sizes,
                         r.backward ? r.strides : r.out_strides, dtype));
    if (call->op->mode == GEMS_POOL_MAX)
        GEMS_TRY(gems_output(call, 1, r.ndim, r.out_sizes, r.out_strides, GEMS_I64));
    if (!call->out[0].numel) return GEMS_OK;
    GEMS_TRY(gems_image_pack(call, r.backward ? r.grad : r.image,
                             r.backward ? r.out_strides : r.strides, &in));
    if (r.indices) GEMS_TRY(gems_image_pack(call, r.indices, r.out_strides, &places));
    if (call->op->mode == GEMS_POOL_MAX) places = call->out[1].data;
    void *out = call->out[0].data;
    int lanes = lanes_of(&r, info, in, out);
    if (lanes > 1 && (uintptr_t)places % 16) lanes = 1;
    int64_t n = items_of(&r, info, lanes), most = r.image->numel;
    if (call->out[0].numel > most) most = call->out[0].numel;
    bool wide = most > INT32_MAX - (1 << 24);
    gems_key key = {.kernel = KERNEL_POOL};
    key.flags = (uint8_t)((wide ? FLAG_WIDE : 0) | (r.last ? FLAG_INNER : 0) |
                          (info->fast ? FLAG_FAST : 0));
    key.dtype[DTYPE_DATA] = (uint8_t)dtype;
    key.tune[TUNE_KIND] = call->op->mode;
    key.tune[TUNE_LANES] = (uint8_t)lanes;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    pool_narrow narrow = {(int32_t)n, r.s};
    pool_wide broad = {n, r.s};
    void *args[] = {&out, &places, &in, wide ? (void *)&broad : (void *)&narrow};
    int64_t work = info->fast ? call->out[0].numel / (n ? n : 1) : 1;
    int64_t each = info->fast ? 1 + 4096 / (work ? work : 1) : THREADS;
    const uint32_t grid[3] = {gems_grid_for(info, n, each), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    if (call->scratches) return gems_call_launch(call, plan, 0, grid, block, 0, args);
    const uint16_t bytes[] = {8, 8, 8, wide ? sizeof broad : sizeof narrow};
    return gems_call_launch_kept(call, plan, grid, block, 0, args, 3, bytes, 4);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    if (key->kernel != KERNEL_POOL) return gems_copy_program(op, key, program);
    const char *name = gems_dtype_kernel(key->dtype[DTYPE_DATA]);
    if (!name) return gems_fail(GEMS_RUNTIME_ERROR, "not a key of pooling");
    gems_text_add(&program->head, "typedef %s T;\ntypedef %s Index;\n", name,
                  key->flags & FLAG_WIDE ? "int64_t" : "int32_t");
    gems_text_add(
        &program->head, "constexpr int kKind = %d, kVecLanes = %d;\nconstexpr bool kInner = %s;\n",
        key->tune[TUNE_KIND], key->tune[TUNE_LANES], key->flags & FLAG_INNER ? "true" : "false");
    gems_text_add(&program->head, "#define GEMS_PLACES %sint64_t\n",
                  key->tune[TUNE_KIND] == GEMS_POOL_MAX ? "" : "const ");
    program->files[0] = "window.cuh";
    program->files[1] = "pool.cu";
    program->entries[0] = "pool";
    program->entry_count = 1;
    snprintf(program->name, sizeof program->name, "%.*s %s%s x%d", (int)strcspn(op->schema, "("),
             op->schema, gems_dtype_name(key->dtype[DTYPE_DATA]),
             key->flags & FLAG_INNER ? " channels last" : "", key->tune[TUNE_LANES]);
    return GEMS_OK;
}

/* Contiguous, and channels last in whole vectors. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    if (i > 1 || (!(GEMS_FLOAT_MASK & GEMS_BIT(dtype)) && info->arch)) return false;
    key->kernel = KERNEL_POOL;
    key->flags = (uint8_t)((i ? FLAG_INNER : 0) | (info->fast ? FLAG_FAST : 0));
    key->dtype[DTYPE_DATA] = (uint8_t)dtype;
    key->tune[TUNE_KIND] = op->mode;
    key->tune[TUNE_LANES] = (uint8_t)(i && !info->fast ? 16 / gems_dtype_size(dtype) : 1);
    return true;
}

const gems_family gems_family_pool = {.name = "pool", .run = run, .program = program, .warm = warm};
