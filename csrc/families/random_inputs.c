/* Normal numbers with tensors of means and standard deviations, and Bernoulli's with tensors of
 * probabilities. ATen's errors about values are raised on a CPU, where they can be looked at; on a
 * GPU probabilities are asserted in the kernel, as ATen does, and tensors of deviations, which ATen
 * waits for, are left to it: its own parts of the sum run in our kernels. */
#include "../base/dtype.h"
#include "modes.h"
#include "random.h"

#include <math.h>
#include <string.h>

/* ---- values ---- */

static double value_at(const gems_tensor *t, int64_t at) {
    size_t size = gems_dtype_size(t->dtype);
    gems_tensor one = *t;
    gems_value value;
    one.data = (char *)t->data + at * (int64_t)size;
    gems_load_number(&one, &value);
    return value.kind == GEMS_FLOAT ? value.f : (double)value.i;
}

bool gems_random_within(const gems_tensor *t, double low, double high) {
    const int64_t *operands[1] = {t->strides};
    int64_t place[GEMS_MAX_DIMS] = {0}, at = 0;
    gems_iter iter;
    uint16_t top =
        0; /* the bits of `high` in 16, where those of what is within are at most as large, or -0 */
    if (low == 0 && (high == 1 || high == INFINITY)) {
        if (t->dtype == GEMS_F16) top = high == 1 ? 0x3c00 : 0x7c00;
        if (t->dtype == GEMS_BF16) top = high == 1 ? 0x3f80 : 0x7f80;
    }
    if (!t->numel) return true;
    gems_iter_make(&iter, t->sizes, t->ndim, operands, 1);
    for (;;) {
        bool good = true;
        int64_t stride = iter.stride[0][0], count = iter.size[0];
        if (t->dtype == GEMS_F32 && stride == 1) {
            const float *v = (const float *)t->data + at;
            for (int64_t i = 0; i < count; i++) good &= v[i] >= low && v[i] <= high;
        } else if (t->dtype == GEMS_F64 && stride == 1) {
            const double *v = (const double *)t->data + at;
            for (int64_t i = 0; i < count; i++) good &= v[i] >= low && v[i] <= high;
        } else if (top && stride == 1) {
            const uint16_t *v = (const uint16_t *)t->data + at;
            for (int64_t i = 0; i < count; i++) good &= v[i] <= top || v[i] == 0x8000;
        } else {
            for (int64_t i = 0; i < count && good; i++) {
                double v = value_at(t, at + i * stride);
                good = v >= low && v <= high;
            }
        }
        if (!good) return false;
        int d = 1;
        for (; d < iter.ndim; d++) {
            at += iter.stride[0][d];
            if (++place[d] < iter.size[d]) break;
            at -= iter.stride[0][d] * iter.size[d];
            place[d] = 0;
        }
        if (d >= iter.ndim) return true;
    }
}

/* ---- the maps ---- */

/* Offsets of out, a and b (NULL: none) in the order of out's memory. dense: all run as out does. */
static gems_status map_of(const gems_tensor *out, const int64_t *a, const int64_t *b,
                          gems_random_map3 *map, bool *dense) {
    const int64_t *operands[3] = {out->strides, a ? a : out->strides, b ? b : out->strides};
    gems_iter iter;
    gems_iter_make(&iter, out->sizes, out->ndim, operands, 3);
    if (iter.ndim > GEMS_RANDOM_DIMS) return gems_decline("more dimensions than the kernel takes");
    *dense = iter.ndim == 1;
    map->ndim = iter.ndim;
    map->n = (int32_t)iter.numel;
    for (int d = 0; d < iter.ndim; d++) {
        map->div[d] = gems_fastdiv_make((uint32_t)iter.size[d]);
        for (int k = 0; k < 3; k++) map->stride[d][k] = (int32_t)iter.stride[k][d];
    }
    for (int k = 0; k < 3; k++) *dense = *dense && (iter.stride[k][0] == 1 || iter.numel == 1);
    return GEMS_OK;
}

static gems_status broadcast_to(const gems_tensor *t, const int64_t *sizes, int ndim,
                                int64_t *strides) {
    int64_t wanted[GEMS_MAX_DIMS];
    int rank = ndim;
    memcpy(wanted, sizes, (size_t)ndim * sizeof *sizes);
    if (t->ndim > ndim || !gems_broadcast(wanted, &rank, t->sizes, t->ndim) ||
        memcmp(wanted, sizes, (size_t)ndim * sizeof *sizes))
        return gems_decline("a parameter of another shape");
    gems_broadcast_strides(t, sizes, ndim, strides);
    return GEMS_OK;
}

static void *generator_of(const gems_call *call, int arg) {
    return call->args[arg].kind == GEMS_GENERATOR ? call->args[arg].generator : NULL;
}

static gems_status same_place(const gems_call *call, const gems_tensor *t) {
    return t->device_type == call->device_type && t->device_index == call->device_index
               ? GEMS_OK
               : gems_decline("a parameter on another device");
}

/* ---- normal ---- */

gems_status gems_run_normal_tensors(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *mean = gems_arg_tensor(call, 0), *std = gems_arg_tensor(call, 1);
    const gems_tensor *first = mean ? mean : std;
    int64_t sizes[GEMS_MAX_DIMS], means[GEMS_MAX_DIMS], stds[GEMS_MAX_DIMS];
    double plain = mean ? 0 : gems_arg_double(call, 0), scale = std ? 1 : gems_arg_double(call, 1);
    if (!first || !(GEMS_BIT(first->dtype) & GEMS_FLOAT_MASK)) return gems_decline("the dtype");
    if (mean && std && mean->dtype != std->dtype) return gems_decline("parameters of two dtypes");
    if (!(scale >= 0)) return gems_decline("the standard deviation");
    int ndim = first->ndim;
    memcpy(sizes, first->sizes, (size_t)ndim * sizeof *sizes);
    if (mean && std && !gems_broadcast(sizes, &ndim, std->sizes, std->ndim))
        return gems_decline("shapes that do not fit");
    if (mean) {
        GEMS_TRY(same_place(call, mean));
        if (gems_random_too_large(call, mean)) return gems_decline("more than the kernel's index");
        GEMS_TRY(broadcast_to(mean, sizes, ndim, means));
    }
    if (std) {
        GEMS_TRY(same_place(call, std));
        if (gems_random_too_large(call, std)) return gems_decline("more than the kernel's index");
        GEMS_TRY(broadcast_to(std, sizes, ndim, stds));
        if (call->device_type != GEMS_CPU)
            return gems_decline("deviations that cannot be looked at");
        if (!gems_random_within(std, 0, INFINITY))
            return gems_decline("a negative standard deviation");
    }
    GEMS_TRY(gems_output(call, 0, ndim, sizes, NULL, first->dtype));
    const gems_tensor *out = &call->out[0];
    if (!out->numel) return GEMS_OK;
    if (gems_random_too_large(call, out))
        return gems_decline("more elements than one launch of ATen's draws");
    gems_random_map3 map;
    bool dense;
    GEMS_TRY(map_of(out, mean ? means : NULL, std ? stds : NULL, &map, &dense));
    gems_key key = {.kernel = dense ? GEMS_NORMAL_DENSE : GEMS_NORMAL_STRIDED};
    key.dtype[0] = key.dtype[1] = out->dtype;
    key.tune[2] = mean != NULL;
    key.tune[3] = std != NULL;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t n = map.n;
    uint32_t threads = gems_aten_threads(info, n);
    int each = out->dtype == GEMS_F64 ? 2 : 4;
    uint32_t rounds = (uint32_t)(((int64_t)n - 1) / ((int64_t)threads * each)) + 1;
    uint64_t seed, offset;
    GEMS_TRY(call->host->philox(call, generator_of(call, 2), (uint64_t)rounds * 4, &seed, &offset));
    void *data = out->data, *mean_data = mean ? mean->data : NULL;
    void *std_data = std ? std->data : NULL;
    void *args[] = {&data,    &mean_data, &std_data, &n,     &seed, &offset,
                    &threads, &rounds,    &plain,    &scale, &map};
    return gems_random_launch(call, plan, (int64_t)threads * rounds,
                              info->fast ? 8192 : GEMS_RANDOM_THREADS * 4, args);
}

/* ---- bernoulli ---- */

gems_status gems_run_bernoulli_tensor(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    bool two = (call->op->mode & GEMS_RANDOM_KIND) == GEMS_BERNOULLI_TENSORS;
    const gems_entry *entry = call->entry;
    const gems_tensor *self = gems_arg_tensor(call, 0), *p = gems_arg_tensor(call, two);
    int64_t strides[GEMS_MAX_DIMS], chances[GEMS_MAX_DIMS];
    if (!self || !p || !(GEMS_BIT(p->dtype) & GEMS_FLOAT_MASK)) return gems_decline("the dtype");
    int dtype = self->dtype;
    if (entry->variant == GEMS_OUT && !two) {
        const gems_tensor *out = gems_arg_tensor(call, entry->out_arg);
        if (!out) return gems_decline("out is no tensor");
        dtype = out->dtype;
    }
    if (!(GEMS_BIT(dtype) & GEMS_ALL_MASK)) return gems_decline("the dtype");
    GEMS_TRY(same_place(call, self));
    GEMS_TRY(same_place(call, p));
    GEMS_TRY(broadcast_to(p, self->sizes, self->ndim, chances));
    if (gems_random_too_large(call, self) || gems_random_too_large(call, p))
        return gems_decline("more than the kernel's index");
    if (!gems_format_strides(self, two ? GEMS_FORMAT_PRESERVE : GEMS_FORMAT_CONTIGUOUS, strides))
        return gems_decline("no such memory format");
    if (call->device_type == GEMS_CPU && self->numel && !gems_random_within(p, 0, 1))
        return gems_decline("a probability outside [0, 1]");
    if (entry->variant == GEMS_INPLACE) {
        GEMS_TRY(gems_output_self(call));
    } else {
        const gems_tensor *out =
            entry->variant == GEMS_OUT ? gems_arg_tensor(call, entry->out_arg) : NULL;
        for (int d = 0; two && out && out->ndim == self->ndim && d < out->ndim; d++)
            if (out->sizes[d] > 1 && out->strides[d] != strides[d])
                return gems_decline("the output has other strides");
        GEMS_TRY(gems_output(call, 0, self->ndim, self->sizes, strides, dtype));
    }
    const gems_tensor *out = &call->out[0];
    if (!out->numel) return GEMS_OK;
    if (gems_random_too_large(call, out)) return gems_decline("more than the kernel's index");
    gems_random_map3 map;
    bool dense;
    GEMS_TRY(map_of(out, chances, NULL, &map, &dense));
    gems_key key = {.kernel = dense ? GEMS_BERNOULLI_P_DENSE : GEMS_BERNOULLI_P_STRIDED};
    key.dtype[0] = out->dtype;
    key.dtype[1] = p->dtype;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t n = map.n;
    uint64_t seed, offset;
    GEMS_TRY(call->host->philox(call, generator_of(call, two ? 2 : 1), 10, &seed, &offset));
    void *data = out->data, *p_data = p->data;
    void *args[] = {&data, &p_data, &n, &seed, &offset, &map};
    int64_t items = info->fast && dense ? (n + 255) / 256 : (n + 3) / 4;
    int64_t per_block = !info->fast ? GEMS_RANDOM_THREADS : dense ? 128 : 8192;
    return gems_random_launch(call, plan, items, per_block, args);
}

bool gems_random_inputs_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                             gems_key *key) {
    (void)info;
    key->dtype[0] = key->dtype[1] = (uint8_t)dtype;
    if ((op->mode & GEMS_RANDOM_KIND) == GEMS_NORMAL_TENSORS) {
        key->kernel = i ? GEMS_NORMAL_STRIDED : GEMS_NORMAL_DENSE;
        key->tune[2] = strstr(op->schema, "Tensor mean") != NULL;
        key->tune[3] = strstr(op->schema, "Tensor std") != NULL;
        return true;
    }
    if (!(GEMS_BIT(dtype) & GEMS_FLOAT_MASK)) key->dtype[1] = GEMS_F32;
    key->kernel = i ? GEMS_BERNOULLI_P_STRIDED : GEMS_BERNOULLI_P_DENSE;
    return true;
}
