/* Random numbers as ATen's CUDA kernels draw them: Philox 4x32-10, the same element gets the same
 * number for the same seed and offset. Which thread of ATen's grid would make an element decides
 * its subsequence, so ATen's launch geometry is part of the numbers: 256 threads a block, as many
 * blocks as are resident at once. On the cpu backend the geometry is that of REFERENCE_PROCESSORS,
 * so that a CPU gives the numbers of that GPU for the same seed and offset. */
#include "../base/dtype.h"
#include "copy_views.h"
#include "modes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* gems_key.kernel */
enum { FILL_DENSE = GEMS_COPY_END, FILL_STRIDED, DROPOUT_DENSE, SCALE_DENSE, SCALE_STRIDED };

#define THREADS              256 /* of ATen's blocks, and of ours */
#define REFERENCE_PROCESSORS 132 /* an H100 or H200 */
#define DIMS                 8

typedef struct {
    int32_t ndim, n;
    gems_fastdiv div[DIMS];
    int32_t stride[DIMS][1];
} strided1;
typedef struct {
    int32_t ndim, n;
    gems_fastdiv div[DIMS];
    int32_t stride[DIMS][3];
} strided3;

/* ATen's grid for n elements, in threads. */
static uint32_t aten_threads(const gems_device_info *info, int64_t n) {
    int resident = 2048, processors = info->arch ? info->processors : REFERENCE_PROCESSORS;
    if (info->arch == 75) resident = 1024;
    if (info->arch == 86 || info->arch == 87 || info->arch == 89 || info->arch >= 110)
        resident = 1536;
    int64_t blocks = (n + THREADS - 1) / THREADS, most = (int64_t)processors * (resident / THREADS);
    return (uint32_t)(blocks < most ? blocks : most) * THREADS;
}

/* ATen draws larger tensors in parts, each with an offset of its own. */
static bool too_large(const gems_call *call, const gems_tensor *t) {
    int64_t most = gems_max_offset(t->sizes, t->strides, t->ndim);
    if (call->device_type == GEMS_CUDA) most *= (int64_t)gems_dtype_size(t->dtype);
    return most >= INT32_MAX - (1 << 24) || t->numel >= INT32_MAX - (1 << 24);
}

static gems_status launch(gems_call *call, const gems_plan *plan, int64_t items, int64_t per_block,
                          void **args) {
    const gems_device_info *info = gems_device_information(call->device);
    const uint32_t grid[3] = {gems_grid_for(info, items, per_block), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

static void *generator_of(const gems_call *call, int arg) {
    if (arg >= call->nargs || call->args[arg].kind != GEMS_GENERATOR) return NULL;
    return call->args[arg].generator;
}

/* ---- uniform, normal, exponential, bernoulli ---- */

static double largest(int dtype) {
    return dtype == GEMS_F16    ? 65504.0
           : dtype == GEMS_BF16 ? 3.3895313892515355e38
           : dtype == GEMS_F32  ? 3.4028234663852886e38
                                : 1.7976931348623157e308;
}

/* The distribution's two numbers, checked as ATen does. */
static gems_status parameters(const gems_call *call, int dtype, double *a, double *b) {
    int mode = call->op->mode;
    bool two = mode == GEMS_UNIFORM || mode == GEMS_NORMAL;
    *a = gems_arg_double(call, 1);
    *b = two ? gems_arg_double(call, 2) : 0;
    uint64_t taken = mode == GEMS_BERNOULLI ? GEMS_ALL_MASK : GEMS_FLOAT_MASK;
    if (!(GEMS_BIT(dtype) & taken)) return gems_decline("the dtype");
    switch (mode) {
    case GEMS_UNIFORM:
        if (!(*a <= *b) || fabs(*a) > largest(dtype) || fabs(*b) > largest(dtype) ||
            *b - *a > largest(dtype))
            return gems_decline("the bounds");
        return GEMS_OK;
    case GEMS_NORMAL: return *b >= 0 ? GEMS_OK : gems_decline("the standard deviation");
    case GEMS_EXPONENTIAL: return *a > 0 && isfinite(*a) ? GEMS_OK : gems_decline("lambda");
    default: return *a >= 0 && *a <= 1 ? GEMS_OK : gems_decline("the probability");
    }
}

static gems_status run_fill(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0);
    double a, b;
    if (!self) return gems_decline("self is no tensor");
    GEMS_TRY(parameters(call, self->dtype, &a, &b));
    if (too_large(call, self)) return gems_decline("more elements than one launch of ATen's draws");
    GEMS_TRY(gems_output_self(call));
    const gems_tensor *out = &call->out[0];
    if (!out->numel) return GEMS_OK;

    const gems_device_info *info = gems_device_information(call->device);
    const int64_t *operands[1] = {out->strides};
    gems_iter iter;
    gems_iter_make(&iter, out->sizes, out->ndim, operands, 1);
    if (iter.ndim > DIMS) return gems_decline("more dimensions than the kernel takes");
    bool dense = iter.ndim == 1 && (iter.stride[0][0] == 1 || iter.numel == 1);
    gems_key key = {.kernel = dense ? FILL_DENSE : FILL_STRIDED};
    key.dtype[0] = out->dtype;
    int size = (int)gems_dtype_size(out->dtype);
    key.tune[0] = dense && (uintptr_t)out->data % (uintptr_t)(4 * size > 16 ? 16 : 4 * size) == 0;
    if (info->fast) key.tune[0] = 1;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));

    int32_t n = (int32_t)iter.numel;
    uint32_t threads = aten_threads(info, n);
    int each = out->dtype == GEMS_F64 ? 2 : 4; /* numbers of one Philox call */
    uint32_t rounds = (uint32_t)(((int64_t)n - 1) / ((int64_t)threads * each)) + 1;
    strided1 map = {.ndim = iter.ndim, .n = n};
    for (int d = 0; d < iter.ndim; d++) {
        map.div[d] = gems_fastdiv_make((uint32_t)iter.size[d]);
        map.stride[d][0] = (int32_t)iter.stride[0][d];
    }
    uint64_t seed, offset;
    GEMS_TRY(call->host->philox(call, generator_of(call, call->op->mode < GEMS_EXPONENTIAL ? 3 : 2),
                                (uint64_t)rounds * 4, &seed, &offset));
    void *data = out->data;
    void *args[] = {&data, &n, &seed, &offset, &threads, &rounds, &a, &b, &map};
    return launch(call, plan, (int64_t)threads * rounds, info->fast ? 8192 : THREADS * 4, args);
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
    if (too_large(call, self)) return gems_decline("more elements than one launch of ATen's draws");
    GEMS_TRY(gems_output(call, 0, self->ndim, self->sizes, self->strides, self->dtype));
    GEMS_TRY(gems_output(call, 1, self->ndim, self->sizes, self->strides, GEMS_BOOL));
    if (!self->numel) return GEMS_OK;
    gems_key key = {.kernel = DROPOUT_DENSE};
    key.dtype[0] = self->dtype;
    key.tune[0] = (uint8_t)aten_vector(self);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    uint32_t n = (uint32_t)self->numel, threads = aten_threads(info, n), vector = key.tune[0];
    uint64_t rounds = (n - 1) / ((uint64_t)threads * 4) + 1, seed, offset;
    int64_t items = vector > 1 ? n / vector : (int64_t)threads * (int64_t)rounds;
    double keep = 1 - p;
    GEMS_TRY(call->host->philox(call, NULL, rounds * 4, &seed, &offset));
    void *out = call->out[0].data, *mask = call->out[1].data, *in = self->data;
    void *args[] = {&out, &mask, &in, &n, &keep, &seed, &offset, &threads};
    return launch(call, plan, items, info->fast ? 8192 : THREADS * 4, args);
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
    if (too_large(call, grad) || too_large(call, mask))
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
    if (iter.ndim > DIMS) return gems_decline("more dimensions than the kernel takes");
    bool dense = iter.ndim == 1 && iter.stride[0][0] == 1 && iter.stride[1][0] == 1 &&
                 iter.stride[2][0] == 1;
    gems_key key = {.kernel = dense ? SCALE_DENSE : SCALE_STRIDED};
    key.dtype[0] = grad->dtype;
    int size = (int)gems_dtype_size(grad->dtype), vector = dense && !info->fast ? 16 / size : 1;
    while (vector > 1 &&
           (((uintptr_t)out->data | (uintptr_t)grad->data) % (uintptr_t)(vector * size) ||
            (uintptr_t)mask->data % (uintptr_t)vector))
        vector /= 2;
    key.tune[0] = (uint8_t)vector;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    strided3 map = {.ndim = iter.ndim, .n = (int32_t)iter.numel};
    for (int d = 0; d < iter.ndim; d++) {
        map.div[d] = gems_fastdiv_make((uint32_t)iter.size[d]);
        for (int k = 0; k < 3; k++) map.stride[d][k] = (int32_t)iter.stride[k][d];
    }
    void *out_data = out->data, *grad_data = grad->data, *mask_data = mask->data;
    void *args[] = {&out_data, &grad_data, &mask_data, &scale, &map};
    return launch(call, plan, iter.numel, info->fast ? 32768 : (int64_t)THREADS * 4 * vector, args);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    if (call->op->mode == GEMS_DROPOUT) return run_dropout(call);
    if (call->op->mode == GEMS_DROPOUT_BACKWARD) return run_dropout_backward(call);
    return run_fill(call);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    static const char *const entries[] = {"random_dense", "random_strided", "dropout",
                                          "masked_scale", "masked_scale_strided"};
    if (key->kernel < FILL_DENSE || key->kernel > SCALE_STRIDED)
        return gems_fail(GEMS_RUNTIME_ERROR, "not a key of the random family");
    gems_text_add(&program->head, "typedef %s T;\n", gems_dtype_kernel(key->dtype[0]));
    gems_text_add(&program->head, "#define RANDOM_KERNEL %d\n", key->kernel - FILL_DENSE);
    gems_text_add(&program->head, "constexpr int kMode = %d, kV = %d;\n", op->mode, key->tune[0]);
    snprintf(program->name, sizeof program->name, "%.*s %s %s", (int)strcspn(op->schema, "("),
             op->schema, entries[key->kernel - FILL_DENSE], gems_dtype_name(key->dtype[0]));
    program->files[0] = "random.cu";
    program->entries[0] = entries[key->kernel - FILL_DENSE];
    program->entry_count = 1;
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    if (!(GEMS_BIT(dtype) & (op->mode == GEMS_BERNOULLI ? GEMS_ALL_MASK : GEMS_FLOAT_MASK)))
        return false;
    int vector = 16 / (int)gems_dtype_size(dtype);
    key->dtype[0] = (uint8_t)dtype;
    switch (op->mode) {
    case GEMS_DROPOUT:
        key->kernel = DROPOUT_DENSE;
        key->tune[0] = (uint8_t)(i ? 1 : vector);
        return i < 2;
    case GEMS_DROPOUT_BACKWARD:
        key->kernel = i ? SCALE_STRIDED : SCALE_DENSE;
        key->tune[0] = (uint8_t)(i || info->fast ? 1 : vector);
        return i < 2;
    default:
        key->kernel = i ? FILL_STRIDED : FILL_DENSE;
        key->tune[0] = !i || info->fast;
        return i < 2;
    }
}

const gems_family gems_family_random = {
    .name = "random",
    .run = run,
    .program = program,
    .warm = warm,
    .strided_output = true,
};
