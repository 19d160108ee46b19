/* The rows of index maps: what each operator's arguments say of the map, by ATen's rules for values
 * and layouts. */
#include <stdlib.h>
#include <string.h>

#include "../base/dtype.h"
#include "index_map.h"
#include "modes.h"

static const gems_value *ints_arg(const gems_call *call, int i) {
    const gems_value *value = &call->args[i];
    return value->kind == GEMS_INTS && value->ints.n <= GEMS_MAX_DIMS * 2 ? value : NULL;
}

/* An optional int, `otherwise` when it is None or left out. */
static int64_t int_or(const gems_call *call, int i, int64_t otherwise) {
    return i >= call->nargs || gems_arg_none(call, i) ? otherwise : gems_arg_int(call, i);
}

/* Adds to the pointer of index 0. */
static void move_start(gems_index_map *map, int64_t elements) {
    map->in += elements * (int64_t)gems_dtype_size(map->dtype);
}

/* Torch's suggest_memory_format as strides of new sizes: channels last as t is, else contiguous.
 * False where ATen's own kernels have no rule for it. */
static bool suggested(const gems_call *call, const gems_tensor *t, const int64_t *sizes,
                      int64_t *strides) {
    if (call->device_type == GEMS_CPU && gems_like_channels_last(t)) {
        gems_channels_last_strides(sizes, t->ndim, strides);
        return t->ndim == 4;
    }
    gems_contiguous_strides(sizes, t->ndim, strides);
    return call->device_type == GEMS_CPU || !gems_like_channels_last(t);
}

/* ---- pads ---- */

/* Pads are named from the last dim on, before and after; *first: the first dim that has one. */
static gems_status read_pads(const gems_call *call, const gems_tensor *self, gems_index_map *map) {
    const gems_value *pads = ints_arg(call, 1);
    if (!pads || pads->ints.n % 2 || pads->ints.n / 2 > self->ndim) return gems_decline("the pads");
    for (int i = 0; i < pads->ints.n / 2; i++) {
        gems_index_dim *dim = &map->dim[self->ndim - 1 - i];
        int64_t before = pads->ints.v[2 * i], after = pads->ints.v[2 * i + 1];
        if (llabs(before) > INT64_MAX / 8 || llabs(after) > INT64_MAX / 8)
            return gems_decline("the pads");
        /* ATen crops first, then pads */
        if ((before < 0 ? before : 0) + (after < 0 ? after : 0) + dim->count < 0)
            return gems_decline("a pad that crops more than there is");
        dim->size = dim->count + before + after;
        dim->lo = before;
    }
    return GEMS_OK;
}

static gems_status pad_constant(gems_call *call, const gems_tensor *self) {
    gems_index_map map;
    int64_t sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS];
    bool grows = false;
    gems_index_map_of(&map, self);
    GEMS_TRY(read_pads(call, self, &map));
    for (int d = 0; d < map.ndim; d++) {
        gems_index_dim *dim = &map.dim[d];
        grows |= dim->lo > 0 || dim->size - dim->lo > dim->count;
        sizes[d] = dim->size;
    }
    if (!grows) { /* ATen clones what is left */
        gems_tensor left = *self;
        for (int d = 0; d < map.ndim; d++) {
            move_start(&map, -map.dim[d].lo * map.dim[d].in);
            map.dim[d].lo = 0;
            map.dim[d].count = map.dim[d].size;
        }
        left.sizes = sizes;
        left.numel = gems_numel(sizes, left.ndim);
        if (!gems_format_strides(&left, GEMS_FORMAT_PRESERVE, strides))
            return gems_decline("no such memory format");
        return gems_index_map_run(call, &map, strides);
    }
    map.rest = GEMS_REST_FILL;
    if (!gems_number_fits(&call->args[2], self->dtype) ||
        !gems_store_number(&call->args[2], self->dtype, map.fill))
        return gems_decline("the value does not fit the dtype");
    if (gems_like_channels_last(self))
        gems_channels_last_strides(sizes, map.ndim, strides);
    else
        gems_contiguous_strides(sizes, map.ndim, strides);
    return gems_index_map_run(call, &map, strides);
}

/* Whether an out= tensor already lies as ATen's own pads would restride it, or is to be resized to
 * a contiguous one. */
static bool lies_as(const gems_call *call, int ndim, const int64_t *sizes, const int64_t *strides) {
    int64_t contiguous[GEMS_MAX_DIMS];
    if (call->entry->variant != GEMS_OUT) return true;
    const gems_value *out = &call->args[call->entry->out_arg];
    if (out->kind != GEMS_TENSOR) return false;
    gems_contiguous_strides(sizes, ndim, contiguous);
    bool fits = out->t.ndim == ndim && !memcmp(out->t.sizes, sizes, (size_t)ndim * sizeof *sizes);
    const int64_t *has = fits ? out->t.strides : contiguous;
    for (int d = 0; d < ndim; d++)
        if (sizes[d] != 1 && has[d] != strides[d]) return false;
    return true;
}

/* Reflection and replication of the last 1 to 3 dims, with one or two dims before them. */
static gems_status pad_edges(gems_call *call, const gems_tensor *self, bool reflect) {
    gems_index_map map;
    int64_t sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS];
    gems_index_map_of(&map, self);
    const gems_value *pads = ints_arg(call, 1);
    if (call->device_type != GEMS_CPU && GEMS_INTS_MASK & GEMS_BIT(self->dtype))
        return gems_decline("integers on a GPU");
    /* "reflection_pad2d": the rank stands before the last letter */
    int rank = call->op->schema[strcspn(call->op->schema, "(") - 2] - '0';
    if (!pads || pads->ints.n != 2 * rank) return gems_decline("the pads");
    if (self->ndim != rank + 1 && self->ndim != rank + 2) return gems_decline("the rank");
    if (!self->numel) return gems_decline("an empty tensor");
    GEMS_TRY(read_pads(call, self, &map));
    map.edge = reflect ? GEMS_EDGE_REFLECT : GEMS_EDGE_CLAMP;
    for (int d = 0; d < map.ndim; d++) {
        const gems_index_dim *dim = &map.dim[d];
        if (dim->size < 1) return gems_decline("nothing is left");
        if (reflect && (dim->lo >= dim->count || dim->size - dim->lo - dim->count >= dim->count) &&
            d >= map.ndim - rank)
            return gems_decline("a pad as long as the dim");
        sizes[d] = dim->size;
    }
    /* ATen's pads follow channels last on a CPU only */
    if (rank == 1 || (rank == 2 && self->ndim == 3) || call->device_type != GEMS_CPU)
        gems_contiguous_strides(sizes, map.ndim, strides);
    else if (!suggested(call, self, sizes, strides))
        return gems_decline("a channels-last tensor");
    if (!lies_as(call, map.ndim, sizes, strides))
        return gems_decline("the output has other strides");
    return gems_index_map_run(call, &map, strides);
}

/* ---- order ---- */

static void flip_dim(gems_index_map *map, int d) {
    move_start(map, (map->dim[d].size - 1) * map->dim[d].in);
    map->dim[d].in = -map->dim[d].in;
}

static gems_status flip(gems_call *call, const gems_tensor *self) {
    const gems_value *dims = ints_arg(call, 1);
    gems_index_map map;
    int64_t strides[GEMS_MAX_DIMS];
    uint32_t seen = 0;
    if (!dims) return gems_decline("the dims");
    gems_index_map_of(&map, self);
    for (int i = 0; i < dims->ints.n; i++) {
        int d = gems_wrap_dim(dims->ints.v[i], self->ndim);
        if (d < 0 || seen >> d & 1) return gems_decline("the dims");
        seen |= 1u << d;
        if (self->ndim && self->numel) flip_dim(&map, d);
    }
    if (!gems_format_strides(self, GEMS_FORMAT_PRESERVE, strides))
        return gems_decline("no such memory format");
    return gems_index_map_run(call, &map, strides);
}

static gems_status rot90(gems_call *call, const gems_tensor *self) {
    const gems_value *dims = ints_arg(call, 2);
    gems_index_map map;
    int64_t strides[GEMS_MAX_DIMS];
    int turns = (int)(gems_arg_int(call, 1) % 4);
    if (!dims || dims->ints.n != 2 || self->ndim < 2) return gems_decline("the dims");
    int a = gems_wrap_dim(dims->ints.v[0], self->ndim);
    int b = gems_wrap_dim(dims->ints.v[1], self->ndim);
    if (a < 0 || b < 0 || a == b) return gems_decline("the dims");
    if (turns < 0) turns += 4;
    gems_index_map_of(&map, self);
    if (self->numel && (turns == 1 || turns == 2)) flip_dim(&map, b);
    if (self->numel && (turns == 2 || turns == 3)) flip_dim(&map, a);
    if (!gems_format_strides(self, turns ? GEMS_FORMAT_PRESERVE : GEMS_FORMAT_CONTIGUOUS, strides))
        return gems_decline("no such memory format");
    if (turns % 2) { /* a view of what was flipped */
        gems_index_dim dim = map.dim[a];
        int64_t stride = strides[a];
        map.dim[a] = map.dim[b];
        map.dim[b] = dim;
        strides[a] = strides[b];
        strides[b] = stride;
    }
    return gems_index_map_run(call, &map, strides);
}

/* Whether ATen's roll of a dim, a concatenation of two parts, stays channels last. */
static bool roll_keeps_format(const gems_tensor *self, const int64_t *strides, int d,
                              int64_t start) {
    int64_t sizes[GEMS_MAX_DIMS];
    gems_tensor part = *self;
    bool kept = true;
    part.sizes = sizes;
    part.strides = strides;
    for (int k = 0; k < 2; k++) {
        memcpy(sizes, self->sizes, (size_t)self->ndim * sizeof *sizes);
        sizes[d] = k ? start : self->sizes[d] - start;
        part.numel = gems_numel(sizes, self->ndim);
        kept = kept && gems_like_channels_last(&part);
    }
    return kept;
}

static gems_status roll(gems_call *call, const gems_tensor *self) {
    const gems_value *shifts = ints_arg(call, 1), *dims = ints_arg(call, 2);
    gems_index_map map;
    int64_t strides[GEMS_MAX_DIMS], total[GEMS_MAX_DIMS] = {0};
    if (!shifts || !dims || !shifts->ints.n) return gems_decline("the shifts");
    bool flat = !dims->ints.n, last = false;
    if (flat ? shifts->ints.n != 1 : shifts->ints.n != dims->ints.n)
        return gems_decline("the shifts");
    if (!self->numel) return gems_decline("an empty tensor");
    gems_index_map_of(&map, self);
    map.edge = GEMS_EDGE_WRAP;
    if (flat) {
        if (!gems_is_contiguous(self)) return gems_decline("roll of the flattened elements");
        int64_t shift = shifts->ints.v[0] % self->numel, numel = self->numel;
        if (shift < 0) shift += numel;
        gems_contiguous_strides(self->sizes, self->ndim, strides);
        GEMS_TRY(gems_output(call, 0, self->ndim, self->sizes, strides, self->dtype));
        if (!gems_is_contiguous(&call->out[0])) return gems_decline("the output has other strides");
        map.ndim = 1;
        map.dim[0] =
            (gems_index_dim){.size = numel, .in = 1, .lo = shift, .count = numel, .step = 1};
        gems_tensor line = call->out[0];
        int64_t one = 1;
        line.ndim = 1;
        line.sizes = &numel;
        line.strides = &one;
        return gems_index_map_into(call, &map, &line);
    }
    if (!self->ndim) return gems_decline("roll of a dim of a 0-dim tensor");
    memcpy(strides, self->strides, (size_t)self->ndim * sizeof *strides);
    for (int i = 0; i < dims->ints.n; i++) {
        int d = gems_wrap_dim(dims->ints.v[i], self->ndim);
        if (d < 0) return gems_decline("the dims");
        int64_t size = self->sizes[d], shift = shifts->ints.v[i] % size;
        if (shift < 0) shift += size;
        total[d] = (total[d] + shift) % size;
        last = call->device_type == GEMS_CPU && (i == 0 || last) &&
               roll_keeps_format(self, strides, d, (size - shift) % size);
        if (last) gems_channels_last_strides(self->sizes, self->ndim, strides);
    }
    for (int d = 0; d < map.ndim; d++) map.dim[d].lo = total[d];
    if (!last) gems_contiguous_strides(self->sizes, self->ndim, strides);
    return gems_index_map_run(call, &map, strides);
}

/* ---- triangles and diagonals ---- */

static gems_status triangle(gems_call *call, const gems_tensor *self, uint8_t keep) {
    gems_index_map map;
    if (self->ndim < 2) return gems_decline("fewer than two dims");
    gems_index_map_of(&map, self);
    map.keep = keep;
    map.a = self->ndim - 2;
    map.b = self->ndim - 1;
    map.k = int_or(call, 1, 0);
    map.rest = call->entry->variant == GEMS_INPLACE ? GEMS_REST_ONLY : GEMS_REST_FILL;
    return gems_index_map_run(call, &map, NULL);
}

/* A map whose source lies on the diagonal of two dims of `sizes`: src has the other dims in their
 * order, then the diagonal. False when src has not that shape. */
static bool diagonal_of(gems_index_map *map, const gems_tensor *src, const int64_t *sizes, int ndim,
                        int64_t offset, int a, int b) {
    int64_t room = offset >= 0 ? sizes[b] - offset : sizes[a] + offset;
    int64_t along = offset >= 0 ? sizes[a] : sizes[b], length = room < along ? room : along;
    gems_index_map_of(map, src);
    if (src->ndim != ndim - 1 || src->sizes[src->ndim - 1] != (length > 0 ? length : 0))
        return false;
    map->ndim = ndim;
    map->keep = GEMS_KEEP_AT;
    map->a = a;
    map->b = b;
    map->k = offset;
    for (int d = 0, from = 0; d < ndim; d++) {
        map->dim[d] = (gems_index_dim){.size = sizes[d], .count = sizes[d], .step = 1};
        if (d == a || d == b) {
            bool first = offset >= 0 ? d == a : d == b;
            map->dim[d].in = first ? src->strides[src->ndim - 1] : 0;
            continue;
        }
        if (src->sizes[from] != sizes[d]) return false;
        map->dim[d].in = src->strides[from++];
    }
    return true;
}

static gems_status diag_embed(gems_call *call, const gems_tensor *self) {
    int64_t offset = int_or(call, 1, 0), sizes[GEMS_MAX_DIMS];
    int ndim = self->ndim + 1;
    if (!self->ndim || ndim > GEMS_MAX_DIMS) return gems_decline("the rank");
    int a = gems_wrap_dim(int_or(call, 2, -2), ndim), b = gems_wrap_dim(int_or(call, 3, -1), ndim);
    if (a < 0 || b < 0 || a == b || llabs(offset) > INT32_MAX) return gems_decline("the dims");
    for (int d = 0, from = 0; d < ndim; d++)
        sizes[d] =
            d == a || d == b ? self->sizes[self->ndim - 1] + llabs(offset) : self->sizes[from++];
    gems_index_map map;
    if (!diagonal_of(&map, self, sizes, ndim, offset, a, b)) return gems_decline("the shape");
    map.rest = GEMS_REST_FILL;
    return gems_index_map_run(call, &map, NULL);
}

/* The sizes that a backward names; NULL when they are none. */
static const int64_t *sizes_arg(const gems_call *call, int i, int *ndim) {
    const gems_value *sizes = ints_arg(call, i);
    if (!sizes || sizes->ints.n > GEMS_MAX_DIMS) return NULL;
    for (int d = 0; d < sizes->ints.n; d++)
        if (sizes->ints.v[d] < 0) return NULL;
    *ndim = sizes->ints.n;
    return sizes->ints.v;
}

static gems_status diagonal_backward(gems_call *call, const gems_tensor *grad) {
    gems_index_map map;
    int ndim = 0;
    const int64_t *sizes = sizes_arg(call, 1, &ndim);
    if (!sizes || ndim < 2 || llabs(gems_arg_int(call, 2)) > INT32_MAX)
        return gems_decline("the sizes");
    int a = gems_wrap_dim(gems_arg_int(call, 3), ndim);
    int b = gems_wrap_dim(gems_arg_int(call, 4), ndim);
    if (a < 0 || b < 0 || a == b) return gems_decline("the dims");
    if (!diagonal_of(&map, grad, sizes, ndim, gems_arg_int(call, 2), a, b))
        return gems_decline("the gradient's shape");
    map.rest = GEMS_REST_FILL;
    return gems_index_map_run(call, &map, NULL);
}

/* ---- parts of a tensor ---- */

/* Bounds of a slice by Python's rules. */
static bool slice_bounds(const gems_call *call, int arg, int64_t size, int64_t *start,
                         int64_t *count, int64_t *step) {
    int64_t end = int_or(call, arg + 1, INT64_MAX);
    *start = int_or(call, arg, 0);
    *step = int_or(call, arg + 2, 1);
    if (*step < 1) return false;
    if (*start < 0) *start += size;
    if (end < 0) end += size;
    *start = *start < 0 ? 0 : *start > size ? size : *start;
    end = end < *start ? *start : end > size ? size : end;
    *count = (end - *start) / *step + ((end - *start) % *step != 0);
    return true;
}

/* A map whose source is a part of `sizes` along dim d; `fresh`: the source has no such dim. False
 * when it has another shape. */
static bool part_of(gems_index_map *map, const gems_tensor *src, const int64_t *sizes, int ndim,
                    int d, bool fresh, int64_t start, int64_t count, int64_t step) {
    gems_index_map_of(map, src);
    if (src->ndim != ndim - fresh) return false;
    map->ndim = ndim;
    for (int i = 0; i < ndim; i++) {
        int from = i - (fresh && i > d);
        if (i == d) {
            if (!fresh && src->sizes[i] != count) return false;
            map->dim[i] = (gems_index_dim){.size = sizes[i],
                                           .in = fresh ? 0 : src->strides[i],
                                           .lo = start,
                                           .count = count,
                                           .step = step};
            continue;
        }
        if (src->sizes[from] != sizes[i]) return false;
        map->dim[i] = (gems_index_dim){
            .size = sizes[i], .in = src->strides[from], .count = sizes[i], .step = 1};
    }
    return true;
}

/* The index that select takes, or -1. */
static int64_t wrap_index(int64_t index, int64_t size) {
    if (index < -size || index >= size) return -1;
    return index < 0 ? index + size : index;
}

static gems_status part_backward(gems_call *call, const gems_tensor *grad, bool select) {
    gems_index_map map;
    int ndim = 0;
    int64_t start, count = 1, step = 1;
    const int64_t *sizes = sizes_arg(call, 1, &ndim);
    if (!sizes || !ndim) return gems_decline("the sizes");
    int d = gems_wrap_dim(gems_arg_int(call, 2), ndim);
    if (d < 0) return gems_decline("the dim");
    if (select)
        start = wrap_index(gems_arg_int(call, 3), sizes[d]);
    else if (!slice_bounds(call, 3, sizes[d], &start, &count, &step))
        start = -1;
    if (start < 0) return gems_decline("the index");
    if (!part_of(&map, grad, sizes, ndim, d, select, start, count, step))
        return gems_decline("the gradient's shape");
    map.rest = GEMS_REST_FILL;
    return gems_index_map_run(call, &map, NULL);
}

/* select_scatter, slice_scatter, diagonal_scatter: a copy of self with a part of it from src. */
static gems_status scatter(gems_call *call, const gems_tensor *self) {
    const gems_tensor *src = gems_arg_tensor(call, 1);
    gems_index_map map;
    int64_t strides[GEMS_MAX_DIMS], start, count = 1, step = 1;
    if (!src || src->dtype != self->dtype || src->device_type != call->device_type ||
        src->device_index != call->device_index)
        return gems_decline("src has another dtype or device");
    /* ATen clones with the strides, gaps included, unless elements are shared */
    if (gems_is_non_overlapping_and_dense(self) || !self->numel)
        memcpy(strides, self->strides, (size_t)self->ndim * sizeof *strides);
    else if (!gems_overlaps_itself(self))
        return gems_decline("self has gaps in memory");
    else if (!gems_format_strides(self, GEMS_FORMAT_PRESERVE, strides))
        return gems_decline("no such memory format");
    if (call->op->mode == GEMS_DIAGONAL_SCATTER) {
        int64_t offset = int_or(call, 2, 0);
        int a = gems_wrap_dim(int_or(call, 3, 0), self->ndim);
        int b = gems_wrap_dim(int_or(call, 4, 1), self->ndim);
        if (self->ndim < 2 || a < 0 || b < 0 || a == b || llabs(offset) > INT32_MAX)
            return gems_decline("the dims");
        if (!diagonal_of(&map, src, self->sizes, self->ndim, offset, a, b))
            return gems_decline("the shape of src");
    } else {
        bool select = call->op->mode == GEMS_SELECT_SCATTER;
        int d = self->ndim ? gems_wrap_dim(int_or(call, 2, 0), self->ndim) : -1;
        if (d < 0) return gems_decline("the dim");
        if (select)
            start = wrap_index(gems_arg_int(call, 3), self->sizes[d]);
        else if (!slice_bounds(call, 3, self->sizes[d], &start, &count, &step))
            start = -1;
        if (start < 0) return gems_decline("the index");
        if (!part_of(&map, src, self->sizes, self->ndim, d, select, start, count, step))
            return gems_decline("the shape of src");
    }
    map.rest = GEMS_REST_OTHER;
    map.other = self->data;
    for (int d = 0; d < map.ndim; d++) map.dim[d].other = self->strides[d];
    return gems_index_map_run(call, &map, strides);
}

/* ---- views of input and output with more dims: strided copies ---- */

/* One view of both sides, dim by dim; dims of one element are left out. */
typedef struct {
    int ndim;
    int64_t sizes[GEMS_MAX_DIMS], out[GEMS_MAX_DIMS], in[GEMS_MAX_DIMS];
} pair_view;

static bool add_dim(pair_view *v, int64_t size, int64_t out, int64_t in) {
    if (size == 1) return true;
    if (v->ndim == GEMS_MAX_DIMS) return false;
    v->sizes[v->ndim] = size;
    v->out[v->ndim] = out;
    v->in[v->ndim++] = in;
    return true;
}

static gems_status copy_pair(gems_call *call, const pair_view *v, const gems_tensor *self) {
    const gems_tensor *out = &call->out[0];
    return gems_copy_views(call, v->sizes, v->ndim, (gems_view){out->data, v->out, out->dtype},
                           (gems_view){self->data, v->in, self->dtype});
}

static gems_status repeat(gems_call *call, const gems_tensor *self) {
    const gems_value *repeats = ints_arg(call, 1);
    int64_t sizes[GEMS_MAX_DIMS];
    pair_view v = {0};
    if (!repeats || repeats->ints.n > GEMS_MAX_DIMS || repeats->ints.n < self->ndim)
        return gems_decline("the repeats");
    int ndim = repeats->ints.n, lead = ndim - self->ndim;
    for (int d = 0; d < ndim; d++) {
        if (repeats->ints.v[d] < 0) return gems_decline("the repeats");
        sizes[d] = repeats->ints.v[d] * (d < lead ? 1 : self->sizes[d - lead]);
    }
    GEMS_TRY(gems_output(call, 0, ndim, sizes, NULL, self->dtype));
    for (int d = 0; d < ndim; d++) {
        int64_t size = d < lead ? 1 : self->sizes[d - lead];
        int64_t out = call->out[0].strides[d];
        if (!add_dim(&v, repeats->ints.v[d], out * size, 0) ||
            !add_dim(&v, size, out, d < lead ? 0 : self->strides[d - lead]))
            return gems_decline("more dimensions than a repeat takes");
    }
    return copy_pair(call, &v, self);
}

static gems_status pixel_shuffle(gems_call *call, const gems_tensor *self, bool reverse) {
    int64_t factor = gems_arg_int(call, 1), sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS];
    int c = self->ndim - 3, h = self->ndim - 2, w = self->ndim - 1;
    pair_view v = {0};
    if (self->ndim < 3 || factor < 1 || factor > 1 << 15 || !self->numel)
        return gems_decline("the rank or factor");
    if (call->device_type != GEMS_CPU && factor == 1) return gems_decline("a view");
    memcpy(sizes, self->sizes, (size_t)self->ndim * sizeof *sizes);
    if (reverse ? sizes[h] % factor || sizes[w] % factor : sizes[c] % (factor * factor) != 0)
        return gems_decline("sizes that the factor does not divide");
    sizes[c] = reverse ? sizes[c] * factor * factor : sizes[c] / (factor * factor);
    sizes[h] = reverse ? sizes[h] / factor : sizes[h] * factor;
    sizes[w] = reverse ? sizes[w] / factor : sizes[w] * factor;
    if (!suggested(call, self, sizes, strides)) return gems_decline("a channels-last tensor");
    GEMS_TRY(gems_output(call, 0, self->ndim, sizes, strides, self->dtype));
    const int64_t *so = call->out[0].strides, *si = self->strides;
    bool fits = true;
    for (int d = 0; d < c; d++) fits = fits && add_dim(&v, sizes[d], so[d], si[d]);
    /* the side with fewer channels has the factor inside its rows and columns */
    const int64_t *few = reverse ? si : so, *many = reverse ? so : si;
    const int64_t counts[5] = {reverse ? self->sizes[c] : sizes[c],
                               reverse ? sizes[h] : self->sizes[h], factor,
                               reverse ? sizes[w] : self->sizes[w], factor};
    const int64_t of_few[5] = {few[c], few[h] * factor, few[h], few[w] * factor, few[w]};
    const int64_t of_many[5] = {many[c] * factor * factor, many[h], many[c] * factor, many[w],
                                many[c]};
    for (int i = 0; i < 5; i++)
        fits = fits && add_dim(&v, counts[i], reverse ? of_many[i] : of_few[i],
                               reverse ? of_few[i] : of_many[i]);
    return fits ? copy_pair(call, &v, self) : gems_decline("more dimensions than a shuffle takes");
}

/* Whether the dims from `first` on are one range of memory, as a view of them as one dim needs. */
static bool flattens(const gems_tensor *t, int first) {
    int64_t next = -1;
    for (int d = t->ndim - 1; d >= first; d--) {
        if (t->sizes[d] == 1) continue;
        if (next >= 0 && t->strides[d] != next) return false;
        next = t->strides[d] * t->sizes[d];
    }
    return true;
}

static gems_status channel_shuffle(gems_call *call, const gems_tensor *self) {
    int64_t groups = gems_arg_int(call, 1), strides[GEMS_MAX_DIMS];
    pair_view v = {0};
    if (self->ndim < 3 || groups < 1 || !self->numel || self->sizes[1] % groups)
        return gems_decline("the rank or groups");
    if (call->device_type == GEMS_CPU) {
        if (!suggested(call, self, self->sizes, strides))
            return gems_decline("a channels-last tensor");
    } else { /* there ATen permutes a view, which it must have, and copies where that moves anything
              */
        if (!flattens(self, 2)) return gems_decline("dims that no view makes one");
        if (groups == 1 || groups == self->sizes[1]) return gems_decline("a view");
        gems_contiguous_strides(self->sizes, self->ndim, strides);
    }
    GEMS_TRY(gems_output(call, 0, self->ndim, self->sizes, strides, self->dtype));
    const int64_t *so = call->out[0].strides, *si = self->strides;
    int64_t each = self->sizes[1] / groups;
    bool fits = add_dim(&v, self->sizes[0], so[0], si[0]);
    fits = fits && add_dim(&v, each, so[1] * groups, si[1]);
    fits = fits && add_dim(&v, groups, so[1], si[1] * each);
    for (int d = 2; d < self->ndim; d++) fits = fits && add_dim(&v, self->sizes[d], so[d], si[d]);
    return fits ? copy_pair(call, &v, self) : gems_decline("more dimensions than a shuffle takes");
}

gems_status gems_index_op(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0);
    if (!self || self->device_type != call->device_type || self->device_index != call->device_index)
        return gems_decline("self is on another device");
    if (!(GEMS_BIT(self->dtype) & call->op->dtypes)) return gems_decline("dtype");
    switch (call->op->mode) {
    case GEMS_PAD_CONSTANT: return pad_constant(call, self);
    case GEMS_PAD_REFLECT: return pad_edges(call, self, true);
    case GEMS_PAD_REPLICATE: return pad_edges(call, self, false);
    case GEMS_FLIP: return flip(call, self);
    case GEMS_ROT90: return rot90(call, self);
    case GEMS_ROLL: return roll(call, self);
    case GEMS_TRIU: return triangle(call, self, GEMS_KEEP_FROM);
    case GEMS_TRIL: return triangle(call, self, GEMS_KEEP_UPTO);
    case GEMS_DIAG_EMBED: return diag_embed(call, self);
    case GEMS_DIAGONAL_BACKWARD: return diagonal_backward(call, self);
    case GEMS_SELECT_BACKWARD: return part_backward(call, self, true);
    case GEMS_SLICE_BACKWARD: return part_backward(call, self, false);
    case GEMS_SELECT_SCATTER:
    case GEMS_SLICE_SCATTER:
    case GEMS_DIAGONAL_SCATTER: return scatter(call, self);
    case GEMS_REPEAT: return repeat(call, self);
    case GEMS_PIXEL_SHUFFLE: return pixel_shuffle(call, self, false);
    case GEMS_PIXEL_UNSHUFFLE: return pixel_shuffle(call, self, true);
    default: return channel_shuffle(call, self);
    }
}
