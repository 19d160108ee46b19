/* Images enlarged or reduced: by the nearest pixel (kernels/nearest.cu) and by an antialiasing
 * filter (kernels/resample.cu), and the gradients. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "modes.h"
#include "window.h"

enum { KERNEL_NEAREST = GEMS_COPY_END, KERNEL_FILTER };
enum { TABLES, ALONG_X, ALONG_Y };      /* kernels of a filter's program */
enum { BY_SCALE, SAME, DOUBLED, BACK }; /* how a pixel finds its source, kernels/nearest.cu */
enum { TUNE_LANES, TUNE_KIND, TUNE_BACK };
#define THREADS    256
#define BAND_FAST  8 /* rows of an item in the fast mode */
#define FLAG_WIDE  1 /* 64-bit index */
#define FLAG_INNER 2 /* channels last */
#define FLAG_FAST  4
#define FLAG_NEAR  8 /* places and weights in the dtype that is computed in, as ATen's on a GPU */

/* Twins of Nearest in kernels/nearest.cu. */
typedef struct nearest_axis {
    int32_t in, out, how;
    float scale, back;
} nearest_axis;
typedef struct nearest_shape {
    gems_fastdiv div[3];
    int32_t across, channels, columns, bands, band;
    nearest_axis axis[2];
} nearest_shape;
typedef struct nearest_narrow {
    int32_t n;
    nearest_shape s;
} nearest_narrow;
typedef struct nearest_wide {
    int64_t n;
    nearest_shape s;
} nearest_wide;

/* Twins of Axis, Axes and Pass in kernels/resample.cu. */
typedef struct filter_axis {
    int32_t in, out, taps, spans, weights;
    double scale, support, inverse;
} filter_axis;
typedef struct filter_axes {
    filter_axis axis[2];
    int32_t outputs;
} filter_axes;
typedef struct pass_shape {
    gems_fastdiv inner_div, length_div;
    int32_t inner, from, to, spans, inputs, taps, weights;
} pass_shape;
typedef struct pass_narrow {
    int32_t n;
    pass_shape s;
} pass_narrow;
typedef struct pass_wide {
    int64_t n;
    pass_shape s;
} pass_wide;

/* One call, resolved. */
typedef struct request {
    const gems_tensor *given;    /* the image, or the gradient of the result */
    int64_t image[4], result[4]; /* sizes */
    int64_t image_strides[4], result_strides[4];
    int64_t planes;
    int32_t in[2], out[2], channels; /* channels inside: 1 where they are planes */
    double scale[2];                 /* as given; 0: by the sizes */
    int kind;
    bool backward, last, align;
} request;

static bool sizes_of(const gems_value *value, int count, int64_t *to) {
    if (value->kind != GEMS_INTS || value->ints.n != count) return false;
    for (int d = 0; d < count; d++) {
        to[d] = value->ints.v[d];
        if (to[d] < (d || count == 2 ? 1 : 0) || to[d] > 1 << 30) return false;
    }
    return true;
}

static gems_status resolve(const gems_call *call, request *r) {
    memset(r, 0, sizeof *r);
    r->kind = call->op->mode & GEMS_RESAMPLE_KIND;
    r->backward = (call->op->mode & GEMS_RESAMPLE_BACKWARD) != 0;
    r->given = gems_arg_tensor(call, 0);
    if (!r->given || !(call->op->dtypes & GEMS_BIT(r->given->dtype % GEMS_DTYPES)))
        return gems_decline("dtype");
    if (r->given->ndim != 4) return gems_decline("rank");
    int at = 1 + r->backward;
    bool filters = r->kind >= GEMS_RESAMPLE_LINEAR;
    if (!sizes_of(&call->args[1], 2, r->result + 2)) return gems_decline("sizes of the result");
    if (r->backward) {
        if (!sizes_of(&call->args[2], 4, r->image)) return gems_decline("sizes of the image");
    } else {
        memcpy(r->image, r->given->sizes, sizeof r->image);
    }
    for (int d = 1; d < 4; d++)
        if (r->image[d] < 1 || r->image[d] > 1 << 30) return gems_decline("sizes of the image");
    memcpy(r->result, r->image, 2 * sizeof *r->image);
    if (r->backward && memcmp(r->given->sizes, r->result, sizeof r->result))
        return gems_decline("shape of the gradient");
    if (filters) r->align = gems_arg_int(call, at + 1) != 0;
    for (int d = 0; d < 2; d++) {
        int arg = at + 1 + filters + d;
        double scale = gems_arg_none(call, arg) ? 0 : gems_arg_double(call, arg);
        r->scale[d] = scale > 0 ? scale : 0;
        r->in[d] = (int32_t)r->image[2 + d];
        r->out[d] = (int32_t)r->result[2 + d];
    }
    r->last = gems_like_channels_last(r->given);
    if (r->backward && r->kind == GEMS_RESAMPLE_CUBIC) r->last = false; /* as in ATen */
    gems_image_strides(r->image, 4, r->last, r->image_strides);
    gems_image_strides(r->result, 4, r->last, r->result_strides);
    r->channels = r->last ? (int32_t)r->image[1] : 1;
    r->planes = r->last ? r->image[0] : r->image[0] * r->image[1];
    return GEMS_OK;
}

static gems_status make_output(gems_call *call, const request *r) {
    return gems_output(call, 0, 4, r->backward ? r->image : r->result,
                       r->backward ? r->image_strides : r->result_strides, r->given->dtype);
}

static gems_status pack(gems_call *call, const request *r, const void **data) {
    return gems_image_pack(call, r->given, r->backward ? r->result_strides : r->image_strides,
                           data);
}

static bool beyond_int32(const request *r) {
    int64_t image = gems_numel(r->image, 4), result = gems_numel(r->result, 4);
    int64_t middle = image / r->in[1] * r->out[1], other = image / r->in[0] * r->out[0];
    int64_t most = image > result ? image : result;
    if (middle > most) most = middle;
    if (other > most) most = other;
    return most > INT32_MAX - (1 << 24);
}

/* ---- the nearest pixel ---- */

static gems_status nearest_axes(const gems_call *call, const request *r, nearest_axis *axes) {
    bool cpu = call->device_type == GEMS_CPU;
    if (!cpu && r->backward && !r->last)
        return gems_decline("a gradient that is contiguous, which ATen computes faster on a GPU");
    for (int d = 0; d < 2; d++) {
        nearest_axis *a = &axes[d];
        a->in = r->in[d];
        a->out = r->out[d];
        a->scale = r->scale[d] ? (float)(1.0 / r->scale[d]) : (float)a->in / (float)a->out;
        bool plain = r->kind == GEMS_RESAMPLE_NEAREST && (cpu || !r->scale[d]);
        a->how = plain && a->in == a->out       ? SAME
                 : plain && a->out == 2 * a->in ? DOUBLED
                                                : BY_SCALE;
        if (!cpu) { /* a gradient has a scale of its own there, and equal lengths none */
            a->back = r->scale[d] ? (float)r->scale[d] : (float)a->out / (float)a->in;
            if (r->backward)
                a->how = r->in[0] == r->out[0] && r->in[1] == r->out[1] ? SAME : BACK;
            else if (a->in == a->out)
                a->how = SAME;
            if (!(a->back * (float)a->in < 1e9f)) return gems_decline("scale");
        }
        if (a->how == BY_SCALE && cpu && r->scale[d] && !r->last && r->given->dtype == GEMS_F64)
            return gems_decline("ATen rounds the places of float64 pixels otherwise");
        if (!(a->scale > 0) || !isfinite(a->scale)) return gems_decline("scale");
        if (a->scale * (float)a->out > 1e9f) return gems_decline("scale");
    }
    return GEMS_OK;
}

static int nearest_lanes(const request *r, const gems_device_info *info, int dtype, const void *in,
                         const void *out) {
    int lanes = 16 / (int)gems_dtype_size(dtype);
    int64_t run = r->last ? r->channels : r->out[1];
    uintptr_t at = (uintptr_t)out | (r->last ? (uintptr_t)in : 0);
    if (info->fast || (r->backward && !r->last)) return 1;
    while (lanes > 1 && (run % lanes || at % (uintptr_t)(lanes * (int)gems_dtype_size(dtype))))
        lanes /= 2;
    return lanes;
}

static gems_status run_nearest(gems_call *call, request *r) {
    const gems_device_info *info = gems_device_information(call->device);
    nearest_wide w = {0};
    nearest_shape *s = &w.s;
    GEMS_TRY(nearest_axes(call, r, s->axis));
    int dtype = r->backward ? r->given->dtype : gems_copy_carrier(r->given->dtype);
    const void *in;
    GEMS_TRY(make_output(call, r));
    if (!call->out[0].numel) return GEMS_OK;
    GEMS_TRY(pack(call, r, &in));
    void *out = call->out[0].data;
    int lanes = nearest_lanes(r, info, dtype, in, out);
    const int32_t *size = r->backward ? r->in : r->out;
    s->channels = r->channels;
    s->across = r->last ? r->channels / lanes : 1;
    s->columns = r->last ? size[1] : size[1] / lanes;
    s->band = info->fast && !r->last && !r->backward ? BAND_FAST : 1;
    s->bands = (size[0] + s->band - 1) / s->band;
    s->div[0] = gems_fastdiv_make((uint32_t)s->across);
    s->div[1] = gems_fastdiv_make((uint32_t)s->columns);
    s->div[2] = gems_fastdiv_make((uint32_t)s->bands);
    bool wide = beyond_int32(r);
    w.n = r->planes * s->bands * (info->fast ? 1 : (int64_t)s->columns * s->across);
    nearest_narrow narrow = {(int32_t)w.n, *s};
    gems_key key = {.kernel = KERNEL_NEAREST};
    key.flags = (uint8_t)((wide ? FLAG_WIDE : 0) | (r->last ? FLAG_INNER : 0) |
                          (info->fast ? FLAG_FAST : 0));
    key.dtype[0] = (uint8_t)dtype;
    key.tune[TUNE_LANES] = (uint8_t)lanes;
    key.tune[TUNE_KIND] = (uint8_t)r->kind;
    key.tune[TUNE_BACK] = r->backward;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {&out, &in, wide ? (void *)&w : (void *)&narrow};
    int64_t work = call->out[0].numel / w.n;
    int64_t each = info->fast ? 1 + 8192 / (work ? work : 1) : THREADS;
    const uint32_t grid[3] = {gems_grid_for(info, w.n, each), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    if (call->scratches) return gems_call_launch(call, plan, 0, grid, block, 0, args);
    const uint16_t bytes[] = {8, 8, wide ? sizeof w : sizeof narrow};
    return gems_call_launch_kept(call, plan, grid, block, 0, args, 2, bytes, 3);
}

/* ---- filters ---- */

static gems_status filter_of(const request *r, bool cpu, filter_axes *axes) {
    memset(axes, 0, sizeof *axes);
    int64_t weights = 0;
    for (int d = 0; d < 2; d++) {
        filter_axis *a = &axes->axis[d];
        a->in = r->in[d];
        a->out = r->out[d];
        if (r->align)
            a->scale = a->out > 1 ? (double)(a->in - 1) / (a->out - 1) : 0;
        else
            a->scale = r->scale[d] ? 1 / r->scale[d] : (double)a->in / a->out;
        /* ATen does not filter along such an axis on a CPU, whatever scale is given */
        if (cpu && !r->backward && a->in == a->out) a->scale = 1;
        /* nor, on a GPU, the gradient of an image that keeps its size: half a pixel is itself */
        bool same = !cpu && r->backward && r->in[0] == r->out[0] && r->in[1] == r->out[1];
        if (same) a->scale = 1;
        bool near = !cpu && gems_dtype_opmath(r->given->dtype) == GEMS_F32;
        if (near) a->scale = (float)a->scale;
        double half = same ? 0.5 : r->kind == GEMS_RESAMPLE_CUBIC ? 2 : 1;
        a->support = a->scale >= 1 ? half * a->scale : half;
        a->inverse = a->scale >= 1 ? 1 / a->scale : 1;
        if (!(a->support < 1e6) || a->scale * a->out > 1e9) return gems_decline("scale");
        a->taps = (int32_t)ceil(a->support) * 2 + 1;
        a->spans = axes->outputs;
        a->weights = (int32_t)weights;
        axes->outputs += a->out;
        weights += (int64_t)a->out * a->taps;
        if (weights > INT32_MAX / 2 || a->in + (int64_t)a->out > INT32_MAX / 4)
            return gems_decline("a filter beyond the kernel's index");
    }
    return GEMS_OK;
}

typedef struct filter_memory {
    void *reach, *weights;
} filter_memory;

/* One axis (d: 0 y, 1 x) of `lines` lines with `inner` elements inside. */
static gems_status run_pass(gems_call *call, const request *r, const filter_axes *axes, int d,
                            const gems_plan *plan, const filter_memory *memory, int64_t lines,
                            int64_t inner, bool wide, void *out, const void *in) {
    const gems_device_info *info = gems_device_information(call->device);
    const filter_axis *a = &axes->axis[d];
    if (inner > INT32_MAX) return gems_decline("sizes beyond the kernel's index");
    pass_wide w = {.s = {.inner = (int32_t)inner,
                         .from = r->backward ? a->out : a->in,
                         .to = r->backward ? a->in : a->out,
                         .spans = a->spans,
                         .inputs = axes->outputs + (d ? axes->axis[0].in : 0),
                         .taps = a->taps,
                         .weights = a->weights}};
    w.s.inner_div = gems_fastdiv_make((uint32_t)inner);
    w.s.length_div = gems_fastdiv_make((uint32_t)w.s.to);
    w.n = lines * w.s.to * (info->fast ? 1 : inner);
    pass_narrow narrow = {(int32_t)w.n, w.s};
    void *args[] = {&out, &in, (void *)&memory->reach, (void *)&memory->weights,
                    wide ? (void *)&w : (void *)&narrow};
    int64_t each = info->fast ? 1 + 4096 / inner : THREADS;
    const uint32_t grid[3] = {gems_grid_for(info, w.n, each), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, d ? ALONG_X : ALONG_Y, grid, block, 0, args);
}

static gems_status run_filter(gems_call *call, request *r) {
    const gems_device_info *info = gems_device_information(call->device);
    filter_axes axes;
    const void *in;
    if (call->device_type == GEMS_CPU && (GEMS_HALF_MASK & GEMS_BIT(r->given->dtype)))
        return gems_decline("ATen has no such filter of halves on a CPU");
    GEMS_TRY(filter_of(r, call->device_type == GEMS_CPU, &axes));
    if (call->device_type != GEMS_CPU && !r->given->numel)
        return gems_decline("an empty tensor, on a GPU");
    bool wide = beyond_int32(r);
    gems_key key = {.kernel = KERNEL_FILTER, .dtype = {r->given->dtype}};
    key.flags = (uint8_t)((wide ? FLAG_WIDE : 0) | (info->fast ? FLAG_FAST : 0) |
                          (call->device_type == GEMS_CPU ? 0 : FLAG_NEAR));
    key.tune[TUNE_KIND] = (uint8_t)r->kind;
    key.tune[TUNE_BACK] = r->backward;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    GEMS_TRY(make_output(call, r));
    if (!call->out[0].numel) return GEMS_OK;
    GEMS_TRY(pack(call, r, &in));
    size_t element = gems_dtype_size(gems_dtype_opmath(r->given->dtype));
    int32_t inputs = r->backward ? r->in[0] + r->in[1] : 0;
    const int32_t *before = r->backward ? r->out : r->in, *after = r->backward ? r->in : r->out;
    int64_t weights = axes.axis[1].weights + (int64_t)axes.axis[1].out * axes.axis[1].taps;
    int64_t lines = r->planes * before[0], inner = (int64_t)after[1] * r->channels;
    filter_memory memory;
    void *middle;
    GEMS_TRY(gems_scratch(call, (size_t)(axes.outputs + inputs) * 8, &memory.reach));
    GEMS_TRY(gems_scratch(call, (size_t)weights * element, &memory.weights));
    GEMS_TRY(gems_scratch(call, (size_t)(lines * inner) * element, &middle));
    const uint32_t grid[3] = {gems_grid_for(info, axes.outputs + inputs, info->fast ? 4096 : 64), 1,
                              1};
    const uint32_t block[3] = {info->fast ? 1 : 64, 1, 1};
    void *args[] = {&memory.reach, &memory.weights, &axes};
    GEMS_TRY(gems_call_launch(call, plan, TABLES, grid, block, 0, args));
    GEMS_TRY(run_pass(call, r, &axes, 1, plan, &memory, lines, r->channels, wide, middle, in));
    return run_pass(call, r, &axes, 0, plan, &memory, r->planes, inner, wide, call->out[0].data,
                    middle);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    request r;
    GEMS_TRY(resolve(call, &r));
    return r.kind >= GEMS_RESAMPLE_LINEAR ? run_filter(call, &r) : run_nearest(call, &r);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, program);
    const char *name = gems_dtype_kernel(key->dtype[0]);
    if (!name) return gems_fail(GEMS_RUNTIME_ERROR, "not a key of resampling");
    gems_text_add(&program->head, "typedef %s T;\ntypedef %s Index;\n", name,
                  key->flags & FLAG_WIDE ? "int64_t" : "int32_t");
    gems_text_add(&program->head, "constexpr bool kBackward = %s;\n",
                  key->tune[TUNE_BACK] ? "true" : "false");
    snprintf(program->name, sizeof program->name, "%.*s %s", (int)strcspn(op->schema, "("),
             op->schema, gems_dtype_name(key->dtype[0]));
    if (key->kernel == KERNEL_FILTER) {
        gems_text_add(&program->head, "constexpr bool kCubic = %s;\ntypedef %s Place;\n",
                      key->tune[TUNE_KIND] == GEMS_RESAMPLE_CUBIC ? "true" : "false",
                      key->flags & FLAG_NEAR ? "gems::opmath_t<T>" : "double");
        program->files[0] = "resample.cu";
        program->entries[TABLES] = "tables";
        program->entries[ALONG_X] = "along_x";
        program->entries[ALONG_Y] = "along_y";
        program->entry_count = 3;
        return GEMS_OK;
    }
    gems_text_add(&program->head,
                  "constexpr int kVecLanes = %d;\nconstexpr bool kInner = %s, kExact = %s;\n",
                  key->tune[TUNE_LANES], key->flags & FLAG_INNER ? "true" : "false",
                  key->tune[TUNE_KIND] == GEMS_RESAMPLE_NEAREST_EXACT ? "true" : "false");
    program->files[0] = "nearest.cu";
    program->entries[0] = "nearest";
    program->entry_count = 1;
    return GEMS_OK;
}

/* Contiguous, and channels last in whole vectors. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    int kind = op->mode & GEMS_RESAMPLE_KIND;
    bool filters = kind >= GEMS_RESAMPLE_LINEAR, back = (op->mode & GEMS_RESAMPLE_BACKWARD) != 0;
    if (i > (filters ? 0 : 1) || (!info->arch && filters && (GEMS_HALF_MASK & GEMS_BIT(dtype))))
        return false;
    key->kernel = filters ? KERNEL_FILTER : KERNEL_NEAREST;
    key->flags = (uint8_t)((i ? FLAG_INNER : 0) | (info->fast ? FLAG_FAST : 0) |
                           (filters && info->arch ? FLAG_NEAR : 0));
    key->dtype[0] = (uint8_t)(filters || back ? dtype : gems_copy_carrier(dtype));
    key->tune[TUNE_KIND] = (uint8_t)kind;
    key->tune[TUNE_BACK] = back;
    if (!filters) {
        bool vectors = !info->fast && (i || !back);
        key->tune[TUNE_LANES] = (uint8_t)(vectors ? 16 / gems_dtype_size(dtype) : 1);
    }
    return true;
}

const gems_family gems_family_resample = {
    .name = "resample", .run = run, .program = program, .warm = warm};
