/* Copies of views: sizes and strides as torch's view of the same name has them, and a contiguous
 * copy of that. */
#include <string.h>

#include "../base/dtype.h"
#include "index_map.h"
#include "modes.h"

/* A view of self being made; sizes and strides are changed in place. */
typedef struct {
    int ndim;
    int64_t start, sizes[GEMS_MAX_DIMS + 1], strides[GEMS_MAX_DIMS + 1];
} view;

static void insert(view *v, int d, int64_t size, int64_t stride) {
    memmove(v->sizes + d + 1, v->sizes + d, (size_t)(v->ndim - d) * sizeof *v->sizes);
    memmove(v->strides + d + 1, v->strides + d, (size_t)(v->ndim - d) * sizeof *v->strides);
    v->sizes[d] = size;
    v->strides[d] = stride;
    v->ndim++;
}

static void erase(view *v, int d) {
    v->ndim--;
    memmove(v->sizes + d, v->sizes + d + 1, (size_t)(v->ndim - d) * sizeof *v->sizes);
    memmove(v->strides + d, v->strides + d + 1, (size_t)(v->ndim - d) * sizeof *v->strides);
}

static void swap(view *v, int a, int b) {
    int64_t size = v->sizes[a], stride = v->strides[a];
    v->sizes[a] = v->sizes[b];
    v->strides[a] = v->strides[b];
    v->sizes[b] = size;
    v->strides[b] = stride;
}

static bool diagonal(view *v, int64_t offset, int a, int b) {
    if (v->ndim < 2 || a < 0 || b < 0 || a == b || offset < -INT32_MAX || offset > INT32_MAX)
        return false;
    int64_t room = offset >= 0 ? v->sizes[b] - offset : v->sizes[a] + offset;
    int64_t along = offset >= 0 ? v->sizes[a] : v->sizes[b];
    int64_t length = room < along ? room : along, stride = v->strides[a] + v->strides[b];
    if (length > 0) v->start += offset >= 0 ? offset * v->strides[b] : -offset * v->strides[a];
    erase(v, a > b ? a : b);
    erase(v, a > b ? b : a);
    insert(v, v->ndim, length > 0 ? length : 0, stride);
    return true;
}

static bool expand(view *v, const gems_value *sizes) {
    int lead = sizes->ints.n - v->ndim;
    if (lead < 0 || sizes->ints.n > GEMS_MAX_DIMS) return false;
    for (int i = 0; i < lead; i++) insert(v, 0, 1, 0);
    for (int d = 0; d < v->ndim; d++) {
        int64_t size = sizes->ints.v[d];
        if (size == -1 && d >= lead) continue;
        if (size < 0 || (v->sizes[d] != size && v->sizes[d] != 1)) return false;
        if (v->sizes[d] != size) v->strides[d] = 0;
        v->sizes[d] = size;
    }
    return true;
}

static bool permute(view *v, const gems_value *dims) {
    view old = *v;
    uint32_t seen = 0;
    if (dims->ints.n != v->ndim) return false;
    for (int i = 0; i < old.ndim; i++) {
        int d = gems_wrap_dim(dims->ints.v[i], old.ndim);
        if (d < 0 || seen >> d & 1) return false;
        seen |= 1u << d;
        v->sizes[i] = old.sizes[d];
        v->strides[i] = old.strides[d];
    }
    return true;
}

static bool squeeze_dims(view *v, const gems_value *dims) {
    uint32_t seen = 0;
    for (int i = 0; i < dims->ints.n; i++) {
        int d = gems_wrap_dim(dims->ints.v[i], v->ndim);
        if (d < 0 || seen >> d & 1) return false;
        seen |= 1u << d;
    }
    for (int d = v->ndim - 1; d >= 0; d--)
        if (seen >> d & 1 && v->sizes[d] == 1) erase(v, d);
    return true;
}

/* New sizes with at most one -1 over the same elements in their order; the strides follow where the
 * view has them. */
static bool reshape(view *v, const gems_value *sizes) {
    int64_t numel = gems_numel(v->sizes, v->ndim), known = 1, wanted[GEMS_MAX_DIMS];
    int n = sizes->ints.n, inferred = -1;
    if (n > GEMS_MAX_DIMS || !numel) return false;
    for (int i = 0; i < n; i++) {
        wanted[i] = sizes->ints.v[i];
        if (wanted[i] == -1 && inferred < 0) {
            inferred = i;
            continue;
        }
        if (wanted[i] < 1 || known > numel / wanted[i]) return false;
        known *= wanted[i];
    }
    if (inferred >= 0) wanted[inferred] = numel / known;
    if (inferred >= 0 ? numel % known : known != numel) return false;
    /* from the innermost dims on: runs of old dims that are one range against runs of new dims */
    int64_t strides[GEMS_MAX_DIMS];
    int to = n - 1, from = v->ndim - 1;
    while (from >= 0) {
        int64_t stride = v->strides[from], size = v->sizes[from], step = 1;
        while (from > 0 && (v->sizes[from - 1] == 1 || v->strides[from - 1] == stride * size))
            size *= v->sizes[--from];
        while (to >= 0 && (step < size || wanted[to] == 1)) {
            strides[to] = step * stride;
            step *= wanted[to--];
        }
        if (step != size) return false;
        from--;
    }
    while (to >= 0) strides[to--] = 1;
    v->ndim = n;
    memcpy(v->sizes, wanted, (size_t)n * sizeof *wanted);
    memcpy(v->strides, strides, (size_t)n * sizeof *strides);
    return true;
}

/* Within self's own memory: all that is known to be there. */
static bool as_strided(view *v, const gems_tensor *self, const gems_value *sizes,
                       const gems_value *strides) {
    int64_t most = gems_max_offset(self->sizes, self->strides, self->ndim);
    if (sizes->ints.n != strides->ints.n || sizes->ints.n > GEMS_MAX_DIMS || !self->numel)
        return false;
    v->ndim = sizes->ints.n;
    for (int d = 0; d < v->ndim; d++) {
        v->sizes[d] = sizes->ints.v[d];
        v->strides[d] = strides->ints.v[d];
        if (v->sizes[d] < 0 || v->strides[d] < 0 || v->sizes[d] > INT32_MAX ||
            v->strides[d] > INT32_MAX)
            return false;
    }
    return gems_max_offset(v->sizes, v->strides, v->ndim) <= most;
}

static bool slice(const gems_call *call, view *v, int d) {
    int64_t size = d < 0 ? 0 : v->sizes[d], start = 0, end = INT64_MAX,
            step = gems_arg_int(call, 4);
    if (!v->ndim || d < 0 || step < 1) return false;
    if (!gems_arg_none(call, 2)) start = gems_arg_int(call, 2);
    if (!gems_arg_none(call, 3)) end = gems_arg_int(call, 3);
    if (start < 0) start += size;
    if (end < 0) end += size;
    start = start < 0 ? 0 : start > size ? size : start;
    end = end < start ? start : end > size ? size : end;
    v->start += start * v->strides[d];
    v->sizes[d] = (end - start) / step + ((end - start) % step != 0);
    v->strides[d] *= v->sizes[d] > 1 ? step : 1;
    return true;
}

static bool narrow(const gems_call *call, view *v, int d) {
    int64_t start = gems_arg_int(call, 2), length = gems_arg_int(call, 3);
    if (!v->ndim || d < 0 || length < 0 || start < -v->sizes[d] || start > v->sizes[d])
        return false;
    if (start < 0) start += v->sizes[d];
    if (start > v->sizes[d] - length) return false;
    v->start += start * v->strides[d];
    v->sizes[d] = length;
    return true;
}

static bool select_index(const gems_call *call, view *v, int d) {
    int64_t index = gems_arg_int(call, 2);
    if (!v->ndim || d < 0 || index < -v->sizes[d] || index >= v->sizes[d]) return false;
    v->start += (index < 0 ? index + v->sizes[d] : index) * v->strides[d];
    erase(v, d);
    return true;
}

static bool unfold(const gems_call *call, view *v, int d) {
    int64_t size = gems_arg_int(call, 2), step = gems_arg_int(call, 3);
    if (!v->ndim || d < 0 || size < 0 || step < 1 || size > v->sizes[d]) return false;
    int64_t stride = v->strides[d];
    v->sizes[d] = (v->sizes[d] - size) / step + 1;
    v->strides[d] = stride * step;
    insert(v, v->ndim, size, stride);
    return true;
}

/* Turns the view of self into the one that the operator names; false: ATen is to say why not. */
static bool change(const gems_call *call, const gems_tensor *self, view *v) {
    const gems_value *one = &call->args[1], *two = &call->args[2];
    int ndim = v->ndim, d = one->kind == GEMS_INT ? gems_wrap_dim(one->i, ndim) : -1;
    bool list = one->kind == GEMS_INTS;
    switch (call->op->mode) {
    case GEMS_VIEW_ALIAS: return true;
    case GEMS_VIEW_AS_STRIDED:
        return list && two->kind == GEMS_INTS && gems_arg_none(call, 3) &&
               as_strided(v, self, one, two);
    case GEMS_VIEW_DIAGONAL:
        return diagonal(v, one->i, gems_wrap_dim(two->i, ndim),
                        gems_wrap_dim(gems_arg_int(call, 3), ndim));
    case GEMS_VIEW_EXPAND: return list && expand(v, one);
    case GEMS_VIEW_NARROW: return narrow(call, v, d);
    case GEMS_VIEW_PERMUTE: return list && permute(v, one);
    case GEMS_VIEW_SELECT: return select_index(call, v, d);
    case GEMS_VIEW_SLICE: return slice(call, v, d);
    case GEMS_VIEW_SQUEEZE:
        for (int i = ndim - 1; i >= 0; i--)
            if (v->sizes[i] == 1) erase(v, i);
        return true;
    case GEMS_VIEW_SQUEEZE_DIM:
        if (d >= 0 && ndim && v->sizes[d] == 1) erase(v, d);
        return d >= 0;
    case GEMS_VIEW_SQUEEZE_DIMS: return list && squeeze_dims(v, one);
    case GEMS_VIEW_T:
        if (ndim == 2) swap(v, 0, 1);
        return ndim <= 2;
    case GEMS_VIEW_TRANSPOSE: {
        int other = gems_wrap_dim(two->i, ndim);
        if (d >= 0 && other >= 0 && ndim) swap(v, d, other);
        return d >= 0 && other >= 0;
    }
    case GEMS_VIEW_UNFOLD: return unfold(call, v, d);
    case GEMS_VIEW_UNSQUEEZE:
        d = gems_wrap_dim(one->i, ndim + 1);
        if (d < 0 || ndim == GEMS_MAX_DIMS) return false;
        insert(v, d, 1, d < ndim ? v->sizes[d] * v->strides[d] : 1);
        return true;
    case GEMS_VIEW_RESHAPE: return list && reshape(v, one);
    default: return false;
    }
}

gems_status gems_view_copy(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0);
    view v = {0};
    if (!self || self->device_type != call->device_type || self->device_index != call->device_index)
        return gems_decline("self is on another device");
    if (gems_copy_carrier(self->dtype) == GEMS_NO_DTYPE) return gems_decline("dtype");
    v.ndim = self->ndim;
    memcpy(v.sizes, self->sizes, (size_t)self->ndim * sizeof *v.sizes);
    memcpy(v.strides, self->strides, (size_t)self->ndim * sizeof *v.strides);
    if (!change(call, self, &v) || v.ndim > GEMS_MAX_DIMS)
        return gems_decline("a view that is left to ATen");
    GEMS_TRY(gems_output(call, 0, v.ndim, v.sizes, NULL, self->dtype));
    const gems_tensor *out = &call->out[0];
    char *data = (char *)self->data + v.start * (int64_t)gems_dtype_size(self->dtype);
    return gems_copy_views(call, v.sizes, v.ndim, (gems_view){out->data, out->strides, self->dtype},
                           (gems_view){data, v.strides, self->dtype});
}
