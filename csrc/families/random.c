/* Random numbers as ATen's CUDA kernels draw them: Philox 4x32-10, the same element gets the same
 * number for the same seed and offset. Which thread of ATen's grid would make an element decides
 * its subsequence, so ATen's launch geometry is part of the numbers: 256 threads a block, as many
 * blocks as are resident at once. On the cpu backend the geometry is that of REFERENCE_PROCESSORS,
 * so that a CPU gives the numbers of that GPU for the same seed and offset. */
#include "../base/dtype.h"
#include "copy_views.h"
#include "modes.h"
#include "random.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define REFERENCE_PROCESSORS 132 /* an H100 or H200 */

uint32_t gems_aten_threads(const gems_device_info *info, int64_t n) {
    int resident = 2048, processors = info->arch ? info->processors : REFERENCE_PROCESSORS;
    if (info->arch == 75) resident = 1024;
    if (info->arch == 86 || info->arch == 87 || info->arch == 89 || info->arch >= 110)
        resident = 1536;
    int64_t blocks = (n + GEMS_RANDOM_THREADS - 1) / GEMS_RANDOM_THREADS;
    int64_t most = (int64_t)processors * (resident / GEMS_RANDOM_THREADS);
    return (uint32_t)(blocks < most ? blocks : most) * GEMS_RANDOM_THREADS;
}

bool gems_random_too_large(const gems_call *call, const gems_tensor *t) {
    int64_t most = gems_max_offset(t->sizes, t->strides, t->ndim);
    if (call->device_type == GEMS_CUDA) most *= (int64_t)gems_dtype_size(t->dtype);
    return most >= INT32_MAX - (1 << 24) || t->numel >= INT32_MAX - (1 << 24);
}

gems_status gems_random_launch(gems_call *call, const gems_plan *plan, int64_t items,
                               int64_t per_block, void **args) {
    const gems_device_info *info = gems_device_information(call->device);
    const uint32_t grid[3] = {gems_grid_for(info, items, per_block), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : GEMS_RANDOM_THREADS, 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

/* ---- fills ---- */

/* What a row's schema asks for, found by the kinds of its arguments. */
typedef struct {
    const gems_tensor *self; /* NULL for a factory of a size */
    const gems_value *size;
    void *generator;
    int options, format;  /* first argument of each; -1: none */
    int number[3], count; /* floats or ints in their order */
    double a, b;          /* of the distribution; in place of them for integers: */
    int64_t base;
    uint64_t range; /* 0: all of the bits */
    bool wide;      /* two words a number */
} request;

static void read_request(const gems_call *call, request *r) {
    const gems_schema *schema = &call->entry->schema;
    *r = (request){.options = -1, .format = -1};
    for (int i = 0; i < call->nargs; i++) {
        switch (schema->args[i].type) {
        case GEMS_T_TENSOR: r->self = gems_arg_tensor(call, i); break;
        case GEMS_T_INTS: r->size = &call->args[i]; break;
        case GEMS_T_GENERATOR:
            if (call->args[i].kind == GEMS_GENERATOR) r->generator = call->args[i].generator;
            break;
        case GEMS_T_DTYPE: r->options = i; break;
        case GEMS_T_MEMORY_FORMAT: r->format = i; break;
        case GEMS_T_FLOAT:
        case GEMS_T_INT: r->number[r->count++] = i; break;
        default: break;
        }
    }
}

static double largest(int dtype) {
    return dtype == GEMS_F16    ? 65504.0
           : dtype == GEMS_BF16 ? 3.3895313892515355e38
           : dtype == GEMS_F32  ? 3.4028234663852886e38
                                : 1.7976931348623157e308;
}

/* Bits of a float's mantissa, the hidden one with them. */
static int digits(int dtype) {
    return dtype == GEMS_F16 ? 11 : dtype == GEMS_BF16 ? 8 : dtype == GEMS_F32 ? 24 : 53;
}

/* The bounds of integers, checked as ATen does; where it warns the call is its own. */
static gems_status integers(const gems_call *call, int dtype, request *r) {
    static const int64_t high_of[] = {UINT8_MAX, INT8_MAX, INT16_MAX, INT32_MAX, INT64_MAX};
    static const int64_t low_of[] = {0, INT8_MIN, INT16_MIN, INT32_MIN, INT64_MIN};
    bool real = gems_dtype_is_float(dtype);
    int64_t exact = real ? (int64_t)1 << digits(dtype) : 0;
    int64_t high = real ? exact : dtype == GEMS_BOOL ? 1 : high_of[dtype];
    int64_t low = real ? -exact : dtype == GEMS_BOOL ? 0 : low_of[dtype];
    if (!r->count) { /* all that the dtype holds, from 0 */
        r->range = (uint64_t)high + 1;
        r->wide = dtype == GEMS_F64 || dtype == GEMS_I64;
        return GEMS_OK;
    }
    const gems_value *last = &call->args[r->number[r->count - 1]];
    int64_t from = r->count > 1 ? gems_arg_int(call, r->number[0]) : 0;
    bool open = last->kind == GEMS_NONE;
    if (open && from == INT64_MIN) {
        if (dtype != GEMS_I64) return gems_decline("all 64 bits in another dtype");
        r->wide = true;
        return GEMS_OK;
    }
    if (!open && from >= last->i) return gems_decline("an empty range");
    int64_t to = open ? high : last->i - 1;
    if (from < low || to > high || from > to || (open && real && from == to))
        return gems_decline("bounds beyond the dtype");
    r->base = from;
    r->range = (uint64_t)to - (uint64_t)from + 1;
    r->wide = !r->range || r->range >= 1u << 28;
    return GEMS_OK;
}

/* The distribution's numbers, checked as ATen does. */
static gems_status parameters(const gems_call *call, int dtype, request *r) {
    int kind = call->op->mode & GEMS_RANDOM_KIND;
    if (!(GEMS_BIT(dtype) & call->op->dtypes)) return gems_decline("the dtype");
    if (kind == GEMS_RANDOM) return integers(call, dtype, r);
    r->a = r->count > 0 ? gems_arg_double(call, r->number[0]) : 0;
    r->b = r->count > 1 ? gems_arg_double(call, r->number[1]) : 1;
    switch (kind) {
    case GEMS_UNIFORM:
        if (!(r->a <= r->b) || fabs(r->a) > largest(dtype) || fabs(r->b) > largest(dtype) ||
            r->b - r->a > largest(dtype))
            return gems_decline("the bounds");
        return GEMS_OK;
    case GEMS_NORMAL: return r->b >= 0 ? GEMS_OK : gems_decline("the standard deviation");
    case GEMS_LOG_NORMAL: return r->b > 0 ? GEMS_OK : gems_decline("the standard deviation");
    case GEMS_CAUCHY: return r->b > 0 ? GEMS_OK : gems_decline("sigma");
    case GEMS_EXPONENTIAL: return r->a > 0 && isfinite(r->a) ? GEMS_OK : gems_decline("lambda");
    case GEMS_GEOMETRIC: return r->a > 0 && r->a < 1 ? GEMS_OK : gems_decline("the probability");
    default: return r->a >= 0 && r->a <= 1 ? GEMS_OK : gems_decline("the probability");
    }
}

/* The result's dtype. */
static int dtype_of(const gems_call *call, const request *r) {
    const gems_entry *entry = call->entry;
    if (entry->variant == GEMS_OUT) return call->args[entry->out_arg].t.dtype;
    if (r->options >= 0 && !gems_arg_none(call, r->options))
        return (int)gems_arg_int(call, r->options);
    return r->self ? r->self->dtype : gems_default_dtype();
}

/* The tensor that is filled. ATen numbers elements in the order of its memory: where it would draw
 * into a tensor of its own and copy that, an out of other strides is left to it. */
static gems_status output_of(gems_call *call, const request *r, int dtype) {
    const gems_entry *entry = call->entry;
    int64_t strides[GEMS_MAX_DIMS];
    if (entry->variant == GEMS_INPLACE) return gems_output_self(call);
    if (r->options >= 0 && entry->variant == GEMS_FUNCTIONAL &&
        !gems_plain_options(call, r->options + 1))
        return gems_decline("another layout or device, or pinned memory");
    if (call->op->mode & GEMS_RANDOM_SIZED) {
        if (!r->size || r->size->kind != GEMS_INTS || r->size->ints.n > GEMS_MAX_DIMS)
            return gems_decline("the size");
        for (int d = 0; d < r->size->ints.n; d++)
            if (r->size->ints.v[d] < 0) return gems_decline("a negative size");
        return gems_output(call, 0, r->size->ints.n, r->size->ints.v, NULL, dtype);
    }
    if (!r->self) return gems_decline("self is no tensor");
    int format = r->format >= 0                       ? gems_format_arg(call, r->format)
                 : call->op->mode & GEMS_RANDOM_DENSE ? GEMS_FORMAT_CONTIGUOUS
                                                      : GEMS_FORMAT_PRESERVE;
    if (!(call->op->mode & GEMS_RANDOM_LIKE) && dtype != r->self->dtype)
        return gems_decline("an output of another dtype");
    if (format < 0 || !gems_format_strides(r->self, format, strides))
        return gems_decline("no such memory format for this rank");
    if (entry->variant == GEMS_OUT) {
        const gems_tensor *out = gems_arg_tensor(call, entry->out_arg);
        int64_t resized[GEMS_MAX_DIMS];
        const int64_t *given = gems_same_sizes(out, r->self) ? out->strides : resized;
        gems_contiguous_strides(r->self->sizes, r->self->ndim, resized);
        for (int d = 0; d < r->self->ndim; d++)
            if (r->self->sizes[d] > 1 && given[d] != strides[d])
                return gems_decline("the output has other strides");
    }
    return gems_output(call, 0, r->self->ndim, r->self->sizes, strides, dtype);
}

static gems_status run_fill(gems_call *call) {
    request r;
    read_request(call, &r);
    if (call->entry->variant == GEMS_OUT && !gems_arg_tensor(call, call->entry->out_arg))
        return gems_decline("out is no tensor");
    int kind = call->op->mode & GEMS_RANDOM_KIND, dtype = dtype_of(call, &r);
    if (dtype >= GEMS_DTYPES) return gems_decline("the dtype");
    GEMS_TRY(parameters(call, dtype, &r));
    if (call->entry->variant == GEMS_INPLACE && r.self && gems_random_too_large(call, r.self))
        return gems_decline("more elements than one launch of ATen's draws");
    GEMS_TRY(output_of(call, &r, dtype));
    const gems_tensor *out = &call->out[0];
    if (!out->numel) return GEMS_OK;
    if (gems_random_too_large(call, out))
        return gems_decline("more elements than one launch of ATen's draws");

    const gems_device_info *info = gems_device_information(call->device);
    const int64_t *operands[1] = {out->strides};
    gems_iter iter;
    gems_iter_make(&iter, out->sizes, out->ndim, operands, 1);
    if (iter.ndim > GEMS_RANDOM_DIMS) return gems_decline("more dimensions than the kernel takes");
    bool dense = iter.ndim == 1 && (iter.stride[0][0] == 1 || iter.numel == 1);
    gems_key key = {.kernel = dense ? GEMS_FILL_RANDOM : GEMS_FILL_RANDOM_STRIDED};
    key.dtype[0] = out->dtype;
    int size = (int)gems_dtype_size(out->dtype);
    key.tune[0] = dense && (uintptr_t)out->data % (uintptr_t)(4 * size > 16 ? 16 : 4 * size) == 0;
    if (info->fast) key.tune[0] = 1;
    key.tune[1] = r.wide;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));

    int32_t n = (int32_t)iter.numel;
    uint32_t threads = gems_aten_threads(info, n);
    bool pairs = kind == GEMS_RANDOM ? r.wide : out->dtype == GEMS_F64;
    int each = pairs ? 2 : 4; /* numbers of one Philox call */
    uint32_t rounds = (uint32_t)(((int64_t)n - 1) / ((int64_t)threads * each)) + 1;
    gems_random_map1 map = {.ndim = iter.ndim, .n = n};
    for (int d = 0; d < iter.ndim; d++) {
        map.div[d] = gems_fastdiv_make((uint32_t)iter.size[d]);
        map.stride[d][0] = (int32_t)iter.stride[0][d];
    }
    uint64_t seed, offset;
    GEMS_TRY(call->host->philox(call, r.generator, (uint64_t)rounds * 4, &seed, &offset));
    void *data = out->data, *a = &r.a, *b = &r.b;
    if (kind == GEMS_RANDOM) a = &r.base, b = &r.range;
    void *args[] = {&data, &n, &seed, &offset, &threads, &rounds, a, b, &map};
    return gems_random_launch(call, plan, (int64_t)threads * rounds,
                              info->fast ? 8192 : GEMS_RANDOM_THREADS * 4, args);
}

/* ---- dropout ---- */

/* Elements of one thread of ATen's kernel: as many as the alignment and the count allow. */
static int aten_vector(const gems_tensor *t) {
    int size = (int)gems_dtype_size(t->dtype), vector = 16 / size;
    while (vector > 1 && ((uintptr_t)t->data % (uintptr_t)(vector * size) || t->numel % vector))
        vector /= 2;
    return vector;
}

static gems_status run_dropout(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0);
    const gems_device_info *info = gems_device_information(call->device);
    double p = gems_arg_double(call, 1);
    if (!self || !(GEMS_BIT(self->dtype) & GEMS_FLOAT_MASK)) return gems_decline("the dtype");
    if (!gems_arg_none(call, 2) && !gems_arg_int(call, 2))
        return gems_decline("dropout that is off");
    if (!(p >= 0 && p < 1)) return gems_decline("a probability outside [0, 1)");
    if (!gems_is_non_overlapping_and_dense(self)) return gems_decline("an input with gaps");
    if (gems_random_too_large(call, self))
        return gems_decline("more elements than one launch of ATen's draws");
    GEMS_TRY(gems_output(call, 0, self->ndim, self->sizes, self->strides, self->dtype));
    GEMS_TRY(gems_output(call, 1, self->ndim, self->sizes, self->strides, GEMS_BOOL));
    if (!self->numel) return GEMS_OK;
    gems_key key = {.kernel = GEMS_DROPOUT_DENSE};
    key.dtype[0] = self->dtype;
    key.tune[0] = (uint8_t)aten_vector(self);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    uint32_t n = (uint32_t)self->numel, threads = gems_aten_threads(info, n), vector = key.tune[0];
    uint64_t rounds = (n - 1) / ((uint64_t)threads * 4) + 1, seed, offset;
    int64_t items = vector > 1 ? n / vector : (int64_t)threads * (int64_t)rounds;
    double keep = 1 - p;
    GEMS_TRY(call->host->philox(call, NULL, rounds * 4, &seed, &offset));
    void *out = call->out[0].data, *mask = call->out[1].data, *in = self->data;
    void *args[] = {&out, &mask, &in, &n, &keep, &seed, &offset, &threads};
    return gems_random_launch(call, plan, items, info->fast ? 8192 : GEMS_RANDOM_THREADS * 4, args);
}

/* grad * mask * scale */
static gems_status run_dropout_backward(gems_call *call) {
    const gems_tensor *grad = gems_arg_tensor(call, 0), *mask = gems_arg_tensor(call, 1);
    const gems_device_info *info = gems_device_information(call->device);
    int64_t strides[GEMS_MAX_DIMS];
    double scale = gems_arg_double(call, 2);
    if (!grad || !mask || !gems_same_sizes(grad, mask) || mask->dtype != GEMS_BOOL)
        return gems_decline("the mask");
    if (!(GEMS_BIT(grad->dtype) & GEMS_FLOAT_MASK)) return gems_decline("the dtype");
    if (gems_random_too_large(call, grad) || gems_random_too_large(call, mask))
        return gems_decline("more than the kernel's index");
    if (call->device_type == GEMS_CPU) { /* as a product of tensors there */
        const int64_t *inputs[2] = {grad->strides, mask->strides};
        gems_output_strides(grad->sizes, grad->ndim, inputs, 2, strides);
    } else if (grad->ndim < 4 || gems_is_contiguous(grad)) {
        gems_contiguous_strides(grad->sizes, grad->ndim, strides);
    } else {
        return gems_decline("a gradient that may be channels-last");
    }
    GEMS_TRY(gems_output(call, 0, grad->ndim, grad->sizes, strides, grad->dtype));
    const gems_tensor *out = &call->out[0];
    if (!out->numel) return GEMS_OK;
    const int64_t *operands[3] = {out->strides, grad->strides, mask->strides};
    gems_iter iter;
    gems_iter_make(&iter, grad->sizes, grad->ndim, operands, 3);
    if (iter.ndim > GEMS_RANDOM_DIMS) return gems_decline("more dimensions than the kernel takes");
    bool dense = iter.ndim == 1 && iter.stride[0][0] == 1 && iter.stride[1][0] == 1 &&
                 iter.stride[2][0] == 1;
    gems_key key = {.kernel = dense ? GEMS_SCALE_DENSE : GEMS_SCALE_STRIDED};
    key.dtype[0] = grad->dtype;
    int size = (int)gems_dtype_size(grad->dtype), vector = dense && !info->fast ? 16 / size : 1;
    while (vector > 1 &&
           (((uintptr_t)out->data | (uintptr_t)grad->data) % (uintptr_t)(vector * size) ||
            (uintptr_t)mask->data % (uintptr_t)vector))
        vector /= 2;
    key.tune[0] = (uint8_t)vector;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    gems_random_map3 map = {.ndim = iter.ndim, .n = (int32_t)iter.numel};
    for (int d = 0; d < iter.ndim; d++) {
        map.div[d] = gems_fastdiv_make((uint32_t)iter.size[d]);
        for (int k = 0; k < 3; k++) map.stride[d][k] = (int32_t)iter.stride[k][d];
    }
    void *out_data = out->data, *grad_data = grad->data, *mask_data = mask->data;
    void *args[] = {&out_data, &grad_data, &mask_data, &scale, &map};
    int64_t per_block = info->fast ? 32768 : (int64_t)GEMS_RANDOM_THREADS * 4 * vector;
    return gems_random_launch(call, plan, iter.numel, per_block, args);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    switch (call->op->mode & GEMS_RANDOM_KIND) {
    case GEMS_DROPOUT: return run_dropout(call);
    case GEMS_DROPOUT_BACKWARD: return run_dropout_backward(call);
    case GEMS_NORMAL_TENSORS: return gems_run_normal_tensors(call);
    case GEMS_BERNOULLI_TENSOR:
    case GEMS_BERNOULLI_TENSORS: return gems_run_bernoulli_tensor(call);
    case GEMS_MULTINOMIAL: return gems_run_multinomial(call);
    case GEMS_RANDPERM: return gems_run_randperm(call);
    default: return run_fill(call);
    }
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    static const char *const entries[] = {
        "random_dense",         "random_strided", "dropout",        "masked_scale",
        "masked_scale_strided", "normal_dense",   "normal_strided", "bernoulli_dense",
        "bernoulli_strided",    "multinomial",    "permutation"};
    static const uint8_t modes[GEMS_RANDOM_KIND + 1] = {[GEMS_NORMAL_TENSORS] = GEMS_NORMAL,
                                                        [GEMS_MULTINOMIAL] = GEMS_EXPONENTIAL,
                                                        [GEMS_RANDPERM] = GEMS_RANDOM};
    if (key->kernel < GEMS_FILL_RANDOM || key->kernel > GEMS_PERMUTE)
        return gems_fail(GEMS_RUNTIME_ERROR, "not a key of the random family");
    int kernel = key->kernel - GEMS_FILL_RANDOM, kind = op->mode & GEMS_RANDOM_KIND;
    gems_text_add(&program->head, "typedef %s T;\n", gems_dtype_kernel(key->dtype[0]));
    gems_text_add(&program->head, "#define RANDOM_KERNEL %d\n", kernel);
    gems_text_add(&program->head, "constexpr int kMode = %d, kV = %d;\n",
                  modes[kind] ? modes[kind] : kind, key->tune[0]);
    gems_text_add(&program->head, "constexpr bool kPairs = %d;\n", key->tune[1]);
    snprintf(program->name, sizeof program->name, "%.*s %s %s", (int)strcspn(op->schema, "("),
             op->schema, entries[kernel], gems_dtype_name(key->dtype[0]));
    program->files[0] = "random.cu";
    if (key->kernel >= GEMS_PICK) return gems_pick_program(key, program);
    if (key->kernel >= GEMS_NORMAL_DENSE) {
        gems_text_add(&program->head, "typedef %s P;\n", gems_dtype_kernel(key->dtype[1]));
        gems_text_add(&program->head, "constexpr bool kMean = %d, kStd = %d;\n", key->tune[2],
                      key->tune[3]);
        program->files[1] = "random_inputs.cu";
    }
    program->entries[0] = entries[kernel];
    program->entry_count = 1;
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    int vector = 16 / (int)gems_dtype_size(dtype), kind = op->mode & GEMS_RANDOM_KIND;
    if (!(GEMS_BIT(dtype) & op->dtypes) || i > 1) return false;
    key->dtype[0] = (uint8_t)dtype;
    switch (kind) {
    case GEMS_DROPOUT:
        key->kernel = GEMS_DROPOUT_DENSE;
        key->tune[0] = (uint8_t)(i ? 1 : vector);
        return true;
    case GEMS_DROPOUT_BACKWARD:
        key->kernel = i ? GEMS_SCALE_STRIDED : GEMS_SCALE_DENSE;
        key->tune[0] = (uint8_t)(i || info->fast ? 1 : vector);
        return true;
    case GEMS_NORMAL_TENSORS:
    case GEMS_BERNOULLI_TENSOR:
    case GEMS_BERNOULLI_TENSORS: return gems_random_inputs_warm(op, dtype, i, info, key);
    case GEMS_MULTINOMIAL:
        key->kernel = i ? GEMS_FILL_RANDOM : GEMS_PICK;
        key->tune[0] = (uint8_t)i;
        return !i || info->fast; /* on a GPU there is no race */
    case GEMS_RANDPERM:
        key->kernel = GEMS_PERMUTE;
        key->flags = info->fast;
        return !i;
    default:
        key->kernel = i ? GEMS_FILL_RANDOM_STRIDED : GEMS_FILL_RANDOM;
        key->tune[0] = !i || info->fast;
        key->tune[1] = kind == GEMS_RANDOM && (dtype == GEMS_F64 || dtype == GEMS_I64);
        return true;
    }
}

const gems_family gems_family_random = {
    .name = "random",
    .run = run,
    .program = program,
    .warm = warm,
    .strided_output = true,
};
