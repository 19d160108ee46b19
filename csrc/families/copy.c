/* Copies, clones, casts, fills and factories. Rows say which by their mode (modes.h). */
#include "../base/dtype.h"
#include "copy_views.h"
#include "modes.h"

#include <string.h>

static bool same_place(const gems_call *call, const gems_tensor *t) {
    return t->device_type == call->device_type && t->device_index == call->device_index;
}

/* ---- copy_ ---- */

static gems_status run_copy(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0), *src = gems_arg_tensor(call, 1);
    if (!self || !src) return gems_decline("copy_ of something that is no tensor");
    if (!same_place(call, self) || !same_place(call, src))
        return gems_decline("copy between devices");
    int64_t sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS];
    int ndim = self->ndim;
    memcpy(sizes, self->sizes, (size_t)ndim * sizeof *sizes);
    if (src->ndim > ndim || !gems_broadcast(sizes, &ndim, src->sizes, src->ndim) ||
        memcmp(sizes, self->sizes, (size_t)ndim * sizeof *sizes))
        return gems_decline("the source does not broadcast to self");
    gems_broadcast_strides(src, sizes, ndim, strides);
    GEMS_TRY(gems_output_self(call));
    return gems_copy_views(call, sizes, ndim, (gems_view){self->data, self->strides, self->dtype},
                           (gems_view){src->data, strides, src->dtype});
}

/* ---- clone, _to_copy ---- */

int gems_format_arg(const gems_call *call, int arg) {
    if (arg >= call->nargs || gems_arg_none(call, arg)) return GEMS_FORMAT_PRESERVE;
    int64_t format = gems_arg_int(call, arg);
    return format < 0 || format > GEMS_FORMAT_CHANNELS_LAST_3D ? -1 : (int)format;
}

bool gems_plain_options(const gems_call *call, int first) {
    const gems_value *layout = &call->args[first], *device = &call->args[first + 1];
    const gems_value *pin = &call->args[first + 2];
    if (device->kind != GEMS_NONE) {
        int32_t index = (int32_t)(device->i & 0xffffffff);
        if (device->i >> 32 != call->device_type) return false;
        bool only =
            call->device_type == GEMS_CPU || gems_device_backend(call->device)->device_count() == 1;
        if (index != call->device_index && !(index < 0 && only)) return false;
    }
    return (layout->kind == GEMS_NONE || layout->i == 0) && (pin->kind == GEMS_NONE || pin->i == 0);
}

static gems_status run_clone(gems_call *call, bool cast) {
    const gems_tensor *self = gems_arg_tensor(call, 0);
    int64_t strides[GEMS_MAX_DIMS];
    if (!self) return gems_decline("clone of something that is no tensor");
    if (!same_place(call, self)) return gems_decline("copy between devices");
    int dtype = self->dtype, format = gems_format_arg(call, cast ? 6 : 1);
    if (cast) {
        if (!gems_arg_none(call, 1)) dtype = (int)gems_arg_int(call, 1);
        if (!gems_plain_options(call, 2))
            return gems_decline("another layout or device, or pinned memory");
    }
    if (format < 0 || !gems_format_strides(self, format, strides))
        return gems_decline("no such memory format for this rank");
    if (!gems_copy_converts(self->dtype, dtype))
        return gems_decline("no conversion kernel between these dtypes");
    GEMS_TRY(gems_output(call, 0, self->ndim, self->sizes, strides, dtype));
    const gems_tensor *out = &call->out[0];
    return gems_copy_views(call, self->sizes, self->ndim,
                           (gems_view){out->data, out->strides, dtype},
                           (gems_view){self->data, self->strides, self->dtype});
}

/* ---- fills ---- */

static gems_status fill(gems_call *call, const gems_value *value) {
    const gems_tensor *out = &call->out[0];
    uint8_t bits[16] = {0};
    if (!gems_store_number(value, out->dtype, bits))
        return gems_decline("the value is no number of this dtype");
    return gems_fill_view(call, out->sizes, out->ndim,
                          (gems_view){out->data, out->strides, out->dtype}, bits);
}

/* fill.Scalar and fill.Tensor, in place and not; zero. */
static gems_status run_fill(gems_call *call, bool zero) {
    const gems_tensor *self = gems_arg_tensor(call, 0), *from = NULL;
    gems_value number = {.kind = GEMS_INT};
    int64_t strides[GEMS_MAX_DIMS], still[GEMS_MAX_DIMS] = {0};
    if (!self || !same_place(call, self)) return gems_decline("self is on another device");
    if (!zero) {
        from = gems_arg_tensor(call, 1);
        number = call->args[1];
        if (from && from->ndim) return gems_decline("the value is no 0-dim tensor");
        if (from && !same_place(call, from)) {
            if (!gems_load_number(from, &number)) return gems_decline("the value's dtype");
            from = NULL;
        }
        if (!from && !gems_number_fits(&number, self->dtype))
            return gems_decline("the value does not fit the dtype");
    }
    if (!gems_format_strides(self, GEMS_FORMAT_PRESERVE, strides))
        return gems_decline("no such memory format");
    GEMS_TRY(gems_output(call, 0, self->ndim, self->sizes, strides, self->dtype));
    const gems_tensor *out = &call->out[0];
    if (!from) return fill(call, &number);
    return gems_copy_views(call, out->sizes, out->ndim,
                           (gems_view){out->data, out->strides, out->dtype},
                           (gems_view){from->data, still, from->dtype});
}

/* The dtype of full(): that of its value. */
static int dtype_of_number(const gems_value *value) {
    switch (value->kind) {
    case GEMS_BOOLEAN: return GEMS_BOOL;
    case GEMS_INT: return GEMS_I64;
    case GEMS_FLOAT: return gems_default_dtype();
    default: return GEMS_NO_DTYPE;
    }
}

/* zeros, ones, full: of a size, like a tensor, or new_ from a tensor; scalar_tensor. */
static gems_status run_factory(gems_call *call, int kind, int how) {
    bool alone = how == GEMS_COPY_SIZED || how == GEMS_COPY_SCALAR;
    const gems_tensor *self = alone ? NULL : gems_arg_tensor(call, 0);
    int at = alone ? 0 : 1, ndim = 0, dtype = 0;
    const int64_t *sizes = NULL, *strides = NULL;
    int64_t like[GEMS_MAX_DIMS];
    gems_value number = {.kind = GEMS_INT, .i = kind == GEMS_COPY_ONE};
    if (!alone && (!self || !same_place(call, self)))
        return gems_decline("self is on another device");
    if (how == GEMS_COPY_LIKE) {
        sizes = self->sizes;
        ndim = self->ndim;
    } else if (how != GEMS_COPY_SCALAR) {
        const gems_value *size = &call->args[at++];
        if (size->kind != GEMS_INTS || size->ints.n > GEMS_MAX_DIMS)
            return gems_decline("the size");
        sizes = size->ints.v;
        ndim = size->ints.n;
        for (int d = 0; d < ndim; d++)
            if (sizes[d] < 0) return gems_decline("a negative size");
    }
    if (kind == GEMS_COPY_FULL) number = call->args[at++];
    if (call->entry->variant == GEMS_OUT) {
        const gems_value *out = &call->args[call->entry->out_arg];
        if (out->kind != GEMS_TENSOR) return gems_decline("out is no tensor");
        dtype = out->t.dtype;
    } else {
        if (!gems_arg_none(call, at))
            dtype = (int)gems_arg_int(call, at);
        else if (self)
            dtype = self->dtype;
        else
            dtype = kind == GEMS_COPY_FULL && how == GEMS_COPY_SIZED ? dtype_of_number(&number)
                                                                     : gems_default_dtype();
        if (!gems_plain_options(call, at + 1))
            return gems_decline("another layout or device, or pinned memory");
        if (how == GEMS_COPY_LIKE) {
            int format = gems_format_arg(call, at + 4);
            if (format < 0 || !gems_format_strides(self, format, like))
                return gems_decline("no such memory format for this rank");
            strides = like;
        }
    }
    if (dtype >= GEMS_DTYPES || !gems_dtype_size(dtype)) return gems_decline("the dtype");
    if (!gems_number_fits(&number, dtype)) return gems_decline("the value does not fit the dtype");
    GEMS_TRY(gems_output(call, 0, ndim, sizes, strides, dtype));
    return fill(call, &number);
}

static gems_status run(gems_call *call) {
    int kind = call->op->mode & GEMS_COPY_KIND, how = call->op->mode & ~GEMS_COPY_KIND;
    if (how) return run_factory(call, kind, how);
    switch (kind) {
    case GEMS_COPY_FROM: return run_copy(call);
    case GEMS_COPY_CLONE: return run_clone(call, false);
    case GEMS_COPY_CAST: return run_clone(call, true);
    default: return run_fill(call, kind == GEMS_COPY_ZERO);
    }
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    static const int others[] = {GEMS_F32, GEMS_BF16, GEMS_F16};
    switch (op->mode) {
    case GEMS_COPY_FROM:
    case GEMS_COPY_CLONE: return gems_copy_warm(dtype, dtype, i, info, key);
    case GEMS_COPY_CAST: {
        int other = others[i / 2 < 3 ? i / 2 : 0];
        if (i >= 6) return false;
        return gems_copy_warm(dtype, other, i % 2, info, key);
    }
    default: return gems_fill_warm(dtype, i, info, key);
    }
}

const gems_family gems_family_copy = {
    .name = "copy",
    .run = run,
    .program = gems_copy_program,
    .warm = warm,
    .strided_output = true,
};
