/* What concerns every operator, done once: device, ranks, outputs, overlap, launches, counters. */
#include "../families/call.h"

#include "kept.h"

#include <stdlib.h>
#include <string.h>

/* A 0-dim CPU tensor may stand beside tensors of another device: it is read as a number. */
static bool is_number(const gems_tensor *t) { return t->ndim == 0 && t->device_type == GEMS_CPU; }

static gems_status check_tensor(const gems_tensor *t, const gems_tensor **device) {
    if (t->ndim > GEMS_MAX_DIMS) return gems_decline("more dimensions than kernels take");
    size_t size = gems_dtype_size(t->dtype); /* a power of two */
    if (!size) return gems_decline("dtype without a kernel");
    if (!t->data && t->numel) return gems_decline("tensor without memory");
    if ((uintptr_t)t->data & (size - 1))
        return gems_decline("a tensor not aligned to its elements");
    if (!*device || is_number(*device)) {
        *device = t;
        return GEMS_OK;
    }
    if (is_number(t)) return GEMS_OK;
    if (t->device_type != (*device)->device_type || t->device_index != (*device)->device_index)
        return gems_decline("tensors on several devices");
    return GEMS_OK;
}

/* Checks every tensor and picks the call's device: that of the first tensor which is no CPU number.
 */
static gems_status check_arguments(gems_call *call) {
    const gems_tensor *device = NULL;
    for (int i = 0; i < call->entry->schema.nargs; i++) {
        const gems_value *value = &call->args[i];
        if (value->kind == GEMS_TENSOR) {
            GEMS_TRY(check_tensor(&value->t, &device));
        } else if (value->kind == GEMS_TENSORS) {
            for (int k = 0; k < value->tensors.n; k++)
                if (value->tensors.v[k].handle)
                    GEMS_TRY(check_tensor(&value->tensors.v[k], &device));
        }
    }
    if (device) {
        call->device_type = device->device_type;
        call->device_index = device->device_index;
    }
    return GEMS_OK;
}

static int64_t first_numel(const gems_call *call) {
    for (int i = 0; i < call->nargs; i++)
        if (call->args[i].kind == GEMS_TENSOR) return call->args[i].t.numel;
    return 0;
}

/* The call by way of its family. */
static gems_status run_family(gems_call *call) {
    call->nonempty = false;
    call->launches = 0;
    call->keeping = NULL;
    for (int i = 0; i < call->entry->lacks; i++) call->args[call->nargs + i].kind = GEMS_NONE;
    GEMS_TRY(check_arguments(call));
    call->device = gems_device_get(call->device_type, call->device_index);
    if (!call->device) return GEMS_DECLINE;
    if (call->op->gpu_most && call->device_type != GEMS_CPU &&
        first_numel(call) > call->op->gpu_most)
        return gems_decline("a size at which ATen is faster on a GPU");
    call->stream = call->host->stream(call);
    GEMS_TRY(call->op->family->run(call));
    if (__builtin_expect(call->keeping != NULL, 0)) gems_kept_finish(call);
    return GEMS_OK;
}

gems_status gems_call_run(gems_call *call) {
    gems_entry *entry = call->entry;
    call->op = gems_op_at(entry->op);
    call->nargs = entry->inputs;
    call->made = call->scratches = 0;
    bool keeps = __atomic_load_n(&entry->kept, __ATOMIC_RELAXED) && call->host->fresh;
    gems_kept_memory memory;
    gems_kept *kept = keeps ? gems_kept_find(call, &memory) : NULL;
    gems_status status = kept ? gems_kept_run(kept, call, &memory) : run_family(call);
    if (status == GEMS_OK) {
        __atomic_fetch_add(&entry->kernels, 1, __ATOMIC_RELAXED);
    } else if (status == GEMS_DECLINE) {
        __atomic_fetch_add(&entry->fallbacks, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&entry->reason, gems_reason(), __ATOMIC_RELAXED);
    }
    return status;
}

/* ---- outputs ---- */

static gems_status check_overlap(const gems_call *call, const gems_tensor *out, int written) {
    if (gems_overlaps_itself(out)) return gems_decline("the output overlaps itself");
    for (int i = 0; i < call->nargs; i++) {
        const gems_value *value = &call->args[i];
        int count = value->kind == GEMS_TENSOR    ? 1
                    : value->kind == GEMS_TENSORS ? value->tensors.n
                                                  : 0;
        const gems_tensor *tensors = value->kind == GEMS_TENSOR ? &value->t : value->tensors.v;
        if (i == written) continue;
        for (int k = 0; k < count; k++) {
            gems_overlap overlap = gems_overlap_of(out, &tensors[k]);
            if (overlap == GEMS_PARTLY || (overlap == GEMS_SAME && !call->op->family->allows_alias))
                return gems_decline("the output overlaps an input");
        }
    }
    return GEMS_OK;
}

/* The user's own tensor as output i: argument `arg` of the entry. */
static gems_status take_output(gems_call *call, int i, int arg, int ndim, const int64_t *sizes,
                               const int64_t *strides, int dtype) {
    const gems_family *family = call->op->family;
    if (call->args[arg].kind != GEMS_TENSOR) return gems_decline("out is no tensor");
    gems_tensor *t = &call->args[arg].t;
    if (t->device_type != call->device_type || t->device_index != call->device_index)
        return gems_decline("the output is on another device");
    if (t->dtype != dtype && !(family->casts_output && gems_can_cast(dtype, t->dtype)))
        return gems_decline("the output has another dtype");
    if (t->ndim != ndim || memcmp(t->sizes, sizes, (size_t)ndim * sizeof *sizes)) {
        if (call->entry->variant == GEMS_INPLACE || t->numel)
            return gems_decline("the output has another shape");
        GEMS_TRY(call->host->resize(call, t, ndim, sizes));
    }
    if (!family->strided_output) {
        int64_t wanted[GEMS_MAX_DIMS];
        if (!strides)
            gems_contiguous_strides(sizes, ndim, wanted);
        else
            memcpy(wanted, strides, (size_t)ndim * sizeof *wanted);
        for (int d = 0; d < ndim; d++)
            if (sizes[d] != 1 && t->strides[d] != wanted[d] && t->numel)
                return gems_decline("the output has other strides");
    }
    GEMS_TRY(check_overlap(call, t, call->entry->variant == GEMS_INPLACE ? arg : -1));
    call->out[i] = *t;
    return GEMS_OK;
}

gems_status gems_output(gems_call *call, int i, int ndim, const int64_t *sizes,
                        const int64_t *strides, int dtype) {
    if (call->entry->variant == GEMS_FUNCTIONAL) {
        int64_t contiguous[GEMS_MAX_DIMS];
        if (!strides) {
            gems_contiguous_strides(sizes, ndim, contiguous);
            strides = contiguous;
        }
        GEMS_TRY(call->host->empty(call, i, ndim, sizes, strides, dtype, &call->out[i]));
    } else {
        GEMS_TRY(take_output(call, i, call->entry->out_arg + i, ndim, sizes, strides, dtype));
    }
    call->made |= (uint8_t)(1u << i);
    call->nonempty |= call->out[i].numel > 0;
    return GEMS_OK;
}

gems_status gems_output_self(gems_call *call) {
    if (call->args[0].kind != GEMS_TENSOR) return gems_decline("self is no tensor");
    GEMS_TRY(check_overlap(call, &call->args[0].t, 0));
    call->out[0] = call->args[0].t;
    call->made |= 1;
    call->nonempty |= call->out[0].numel > 0;
    return GEMS_OK;
}

gems_status gems_scratch(gems_call *call, size_t bytes, void **data) {
    int64_t size = (int64_t)bytes, stride = 1;
    if (call->scratches == GEMS_MAX_SCRATCH)
        return gems_fail(GEMS_RUNTIME_ERROR, "too many scratch buffers");
    gems_tensor *t = &call->scratch[call->scratches];
    GEMS_TRY(call->host->empty(call, -1 - call->scratches, 1, &size, &stride, GEMS_U8, t));
    call->scratches++;
    *data = t->data;
    return GEMS_OK;
}

/* ---- plans and launches ---- */

gems_status gems_call_plan(gems_call *call, gems_key *key, const gems_plan **plan) {
    key->op = call->entry->op;
    *plan = NULL;
    gems_status status = gems_plan_get(call->device, call->stream, key, plan);
    if (status == GEMS_DECLINE && *plan &&
        call->entry->own) /* nothing else can run: say what is wrong */
        return gems_fail(GEMS_RUNTIME_ERROR, "%s: the kernel could not be compiled or loaded: %s",
                         call->entry->qualified, (*plan)->error ? (*plan)->error : "no memory");
    return status;
}

static void add_extent(gems_extent *extents, int *count, const gems_tensor *t, bool writable) {
    if (!t->data || !t->numel) return;
    size_t elements = (size_t)gems_max_offset(t->sizes, t->strides, t->ndim) + 1;
    extents[(*count)++] = (gems_extent){t->data, elements * gems_dtype_size(t->dtype), writable};
}

/* Everything that a launch may touch, what it may write first; the caller frees it. */
static gems_extent *list_extents(const gems_call *call, int *count) {
    int room = GEMS_MAX_OUTS + GEMS_MAX_SCRATCH + GEMS_MAX_ARGS;
    for (int i = 0; i < call->nargs; i++)
        if (call->args[i].kind == GEMS_TENSORS) room += call->args[i].tensors.n;
    gems_extent *extents = malloc((size_t)room * sizeof *extents);
    *count = 0;
    if (!extents) return NULL;
    for (int i = 0; i < GEMS_MAX_OUTS; i++)
        if (call->made >> i & 1) add_extent(extents, count, &call->out[i], true);
    for (int i = 0; i < call->scratches; i++) {
        const gems_tensor *t = &call->scratch[i];
        extents[(*count)++] = (gems_extent){t->data, (size_t)t->numel, true};
    }
    for (int i = 0; i < call->nargs; i++) {
        const gems_value *value = &call->args[i];
        if (value->kind == GEMS_TENSOR) add_extent(extents, count, &value->t, false);
        if (value->kind == GEMS_TENSORS)
            for (int k = 0; k < value->tensors.n; k++)
                if (value->tensors.v[k].handle)
                    add_extent(extents, count, &value->tensors.v[k], false);
    }
    return extents;
}

gems_status gems_call_launch_cluster(gems_call *call, const gems_plan *plan, int entry,
                                     const uint32_t grid[3], const uint32_t block[3],
                                     uint32_t cluster, uint32_t shared, void **args) {
    if ((call->made && !call->nonempty) || !grid[0] || !grid[1] || !grid[2]) return GEMS_OK;
    call->launches++;
    gems_launch launch = {
        .grid = {grid[0], grid[1], grid[2]},
        .block = {block[0], block[1], block[2]},
        .shared = shared,
        .cluster = cluster,
        .stream = call->stream,
        .args = args,
        .name = call->entry->qualified,
    };
    gems_extent *extents = NULL;
    if (gems_device_information(call->device)->wants_extents)
        launch.extents = extents = list_extents(call, &launch.extent_count);
    gems_status status = gems_plan_launch(call->device, plan, entry, &launch);
    free(extents);
    return status;
}

gems_status gems_call_launch(gems_call *call, const gems_plan *plan, int entry,
                             const uint32_t grid[3], const uint32_t block[3], uint32_t shared,
                             void **args) {
    return gems_call_launch_cluster(call, plan, entry, grid, block, 1, shared, args);
}

gems_status gems_call_readable(const gems_call *call) {
    const gems_backend *backend = gems_device_backend(call->device);
    bool capturing = backend->capturing(gems_device_index(call->device), call->stream);
    return capturing ? gems_decline("the result's size cannot be read while a stream is captured")
                     : GEMS_OK;
}

gems_status gems_call_read(const gems_call *call, const void *from, size_t bytes, void *to) {
    const gems_backend *backend = gems_device_backend(call->device);
    bool waits = call->device_type != GEMS_CPU && gems_unlocked_begin;
    void *state = waits ? gems_unlocked_begin() : NULL;
    gems_status status =
        backend->read(gems_device_index(call->device), call->stream, from, bytes, to);
    if (waits) gems_unlocked_end(state);
    return status;
}

double gems_arg_double(const gems_call *call, int i) {
    const gems_value *value = &call->args[i];
    return value->kind == GEMS_FLOAT     ? value->f
           : value->kind == GEMS_COMPLEX ? value->c[0]
                                         : (double)value->i;
}

uint32_t gems_grid_for(const gems_device_info *info, int64_t n, int64_t per_block) {
    if (n <= 0) return 0;
    int64_t blocks = (n + per_block - 1) / per_block;
    int64_t most = (int64_t)info->processors * (info->fast ? 4 : 32);
    return (uint32_t)(blocks < most ? blocks : most);
}

int64_t gems_grid_of_all(const gems_device_info *info, int64_t n, int64_t per_block) {
    return info->fast ? gems_grid_for(info, n, per_block) : (n + per_block - 1) / per_block;
}
