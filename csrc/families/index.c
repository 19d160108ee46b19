/* index, take: elements picked by several index tensors at once, in one launch. An index out of
 * range is never followed: on a CPU the call declines and ATen raises, on a GPU the kernel
 * asserts. */
#include "index.h"

#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"
#include "modes.h"

#define THREADS 256

enum { INDEX_ELEMENTS = GEMS_COPY_END };

/* ---- maps ---- */

bool gems_map_make(const gems_iter *iter, int first, int vector, bool wide, gems_map *map) {
    int ndim = iter->ndim - first, operands = iter->operands;
    if (ndim > GATHER_DIMS) return false;
    memset(map->bytes, 0, sizeof map->bytes);
    map->ndim = ndim;
    map->n = 1;
    unsigned char *div = map->bytes + (wide ? 16 : 8), *stride = div + GATHER_DIMS * 12;
    for (int d = 0; d < ndim; d++) {
        int64_t scale = d + first == 0 ? vector : 1, size = iter->size[d + first] / scale;
        if (size > INT32_MAX) return false;
        map->n *= size;
        gems_fastdiv by = gems_fastdiv_make((uint32_t)(size ? size : 1));
        memcpy(div + d * (int)sizeof by, &by, sizeof by);
        for (int k = 0; k < operands; k++) {
            int64_t step = iter->stride[k][d + first] * scale;
            int32_t small = (int32_t)step;
            unsigned char *to = stride + (size_t)(d * operands + k) * (wide ? 8 : 4);
            memcpy(to, wide ? (void *)&step : (void *)&small, wide ? 8 : 4);
        }
    }
    int32_t small_ndim = ndim, small_n = (int32_t)map->n;
    memcpy(map->bytes, &small_ndim, 4);
    memcpy(map->bytes + (wide ? 8 : 4), wide ? (void *)&map->n : (void *)&small_n, wide ? 8 : 4);
    return true;
}

int gems_index_vector(const gems_iter *iter, int from, int64_t steps, int size, const void *out,
                      const void *in) {
    int vector = 16 / size;
    int64_t bits = iter->size[0] | steps;
    for (int k = 0; k < iter->operands; k++) {
        bool moves = k == 0 || k == from;
        if (iter->stride[k][0] != (moves ? 1 : 0)) return 1;
        for (int d = 1; moves && d < iter->ndim; d++) bits |= iter->stride[k][d];
    }
    uintptr_t places = (uintptr_t)out | (uintptr_t)(from >= 0 ? in : NULL);
    while (vector > 1 && (bits % vector || places % (uintptr_t)(vector * size))) vector /= 2;
    return vector;
}

/* ---- the list of indices ---- */

/* Where a mask is true: calls it with the place, row-major; returns how often. to: columns of
 * `total` places for every dim of the mask, or NULL. */
static int64_t places_of(const gems_tensor *mask, int64_t *to, int64_t total) {
    int64_t at[GEMS_MAX_DIMS] = {0}, found = 0, last = mask->ndim - 1;
    const unsigned char *data = mask->data;
    int64_t run = mask->sizes[last], step = mask->strides[last];
    if (!mask->numel) return 0;
    for (int64_t row = 0, rows = mask->numel / run; row < rows; row++) {
        const unsigned char *line = data;
        for (int d = 0; d < last; d++) line += at[d] * mask->strides[d];
        if (!to) {
            for (int64_t i = 0; i < run; i++) found += line[i * step] != 0;
        } else {
            int64_t *column = to + last * total;
            for (int64_t i = 0; i < run && found < total; i++) {
                if (!line[i * step]) continue;
                for (int d = 0; d < last; d++) to[d * total + found] = at[d];
                column[found++] = i;
            }
        }
        for (int d = (int)last - 1; d >= 0 && ++at[d] == mask->sizes[d]; d--) at[d] = 0;
    }
    return found;
}

/* The indices as tensors of places: t[k] with its sizes and strides, at dim d of self. */
typedef struct {
    int count, dim[INDEX_MOST], ndim[INDEX_MOST];
    const void *data[INDEX_MOST];
    const int64_t *sizes[INDEX_MOST], *strides[INDEX_MOST];
    int64_t found, one;
    uint64_t dtypes;
} places_list;

static gems_status add_mask(gems_call *call, const gems_tensor *self, const gems_tensor *mask,
                            int dim, places_list *list) {
    if (call->device_type != GEMS_CPU)
        return gems_decline("a mask, whose count would have to be waited for");
    if (!strcmp(call->entry->schema.name, "_unsafe_index"))
        return gems_decline("a mask, which this operator refuses");
    if (list->found >= 0) return gems_decline("several masks");
    if (!mask->ndim || dim + mask->ndim > self->ndim) return gems_decline("a mask's rank");
    if (list->count + mask->ndim > INDEX_MOST)
        return gems_decline("more index tensors than the kernel takes");
    for (int d = 0; d < mask->ndim; d++)
        if (mask->sizes[d] != self->sizes[dim + d]) return gems_decline("a mask's shape");
    void *columns = NULL;
    list->found = places_of(mask, NULL, 0);
    list->one = 1;
    if (list->found)
        GEMS_TRY(
            gems_scratch(call, (size_t)(list->found * mask->ndim) * sizeof(int64_t), &columns));
    if (columns) places_of(mask, columns, list->found);
    for (int d = 0; d < mask->ndim; d++) {
        int k = list->count++;
        list->dim[k] = dim + d;
        list->ndim[k] = 1;
        list->data[k] = columns ? (int64_t *)columns + d * list->found : NULL;
        list->sizes[k] = &list->found;
        list->strides[k] = &list->one;
    }
    list->dtypes |= GEMS_BIT(GEMS_I64);
    return GEMS_OK;
}

static gems_status list_places(gems_call *call, const gems_tensor *self, places_list *list) {
    const gems_value *given = &call->args[1];
    *list = (places_list){.found = -1};
    int dim = 0;
    for (int i = 0; i < given->tensors.n; i++) {
        const gems_tensor *t = &given->tensors.v[i];
        if (!t->handle) {
            dim++;
            continue;
        }
        if (t->device_type != call->device_type) return gems_decline("an index on another device");
        if (t->dtype == GEMS_BOOL) {
            GEMS_TRY(add_mask(call, self, t, dim, list));
            dim += t->ndim;
            continue;
        }
        uint8_t flags = 0;
        if (!gems_gather_index(t->dtype, &flags)) return gems_decline("an index's dtype");
        if (list->count == INDEX_MOST)
            return gems_decline("more index tensors than the kernel takes");
        int k = list->count++;
        list->dim[k] = dim++;
        list->ndim[k] = t->ndim;
        list->data[k] = t->data;
        list->sizes[k] = t->sizes;
        list->strides[k] = t->strides;
        list->dtypes |= GEMS_BIT(t->dtype);
    }
    if (dim > self->ndim || !list->count) return gems_decline("too many indices, or none");
    return GEMS_OK;
}

gems_status gems_indexing_read(gems_call *call, gems_indexing *x) {
    const gems_tensor *self = gems_arg_tensor(call, 0);
    places_list list;
    if (!self || call->args[1].kind != GEMS_TENSORS) return gems_decline("no tensors");
    if (self->device_type != call->device_type) return gems_decline("tensors on several devices");
    GEMS_TRY(list_places(call, self, &list));
    if (list.dtypes & (list.dtypes - 1)) return gems_decline("indices of two dtypes");
    *x = (gems_indexing){.self = self, .count = list.count};
    x->flags = list.dtypes == GEMS_BIT(GEMS_I32) ? GATHER_INDEX32 : 0;

    int64_t shape[GEMS_MAX_DIMS];
    bool adjacent = true;
    for (int k = 0; k < list.count; k++) {
        if (!gems_broadcast(shape, &x->places, list.sizes[k], list.ndim[k]))
            return gems_decline("indices do not broadcast");
        adjacent = adjacent && (!k || list.dim[k] == list.dim[k - 1] + 1);
        if (!self->sizes[list.dim[k]]) return gems_decline("an index into no elements");
        x->data[k] = list.data[k];
        x->dim[k] = list.dim[k];
    }
    x->ndim = self->ndim - list.count + x->places;
    if (x->ndim > GEMS_MAX_DIMS) return gems_decline("more dimensions than kernels take");
    x->first = adjacent ? list.dim[0] : 0;
    int n = 0, next = 0;
    for (int d = 0; d <= self->ndim; d++) { /* the places stand before dim x->first */
        if (d == x->first) {
            for (int p = 0; p < x->places; p++, n++) {
                x->shape[n] = shape[p];
                x->self_dim[n] = -1;
            }
        }
        if (next < list.count && d == list.dim[next]) {
            next++;
        } else if (d < self->ndim) {
            x->shape[n] = self->sizes[d];
            x->self_dim[n++] = d;
        }
    }
    for (int k = 0; k < list.count; k++) {
        gems_tensor t = {.sizes = list.sizes[k], .strides = list.strides[k], .ndim = list.ndim[k]};
        gems_broadcast_strides(&t, shape, x->places, &x->strides[k][x->first]);
    }
    return GEMS_OK;
}

/* ---- index, take ---- */

static gems_status pick(gems_call *call, const gems_indexing *x, const gems_tensor *self,
                        const void *self_data, const int64_t *self_strides, const gems_steps *by,
                        int64_t farthest) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *out = &call->out[0];
    gems_key key = {.kernel = INDEX_ELEMENTS, .flags = x->flags};
    key.dtype[0] = (uint8_t)gems_copy_carrier(self->dtype);
    const int64_t *strides[2 + INDEX_MOST] = {out->strides, self_strides};
    gems_pointers index = {{NULL}};
    int64_t bits = 0;
    for (int k = 0; k < x->count; k++) {
        strides[2 + k] = x->strides[k];
        index.at[k] = x->data[k];
        bits |= by->step[k];
    }
    gems_iter iter;
    gems_iter_make(&iter, x->shape, x->ndim, strides, 2 + x->count);
    bool wide = gems_gather_needs_wide(&iter, farthest);
    bool rows = iter.stride[0][0] == 1 && iter.stride[1][0] == 1;
    for (int k = 0; k < x->count; k++) rows = rows && iter.stride[2 + k][0] == 0;
    int size = (int)gems_dtype_size(self->dtype);
    int vector =
        rows && !info->fast ? gems_index_vector(&iter, 1, bits, size, out->data, self_data) : 1;
    rows = rows && info->fast;
    int64_t run = iter.size[0];
    gems_map map;
    if (!gems_map_make(&iter, rows, vector, wide, &map))
        return gems_decline("more dimensions than the kernel takes");
    key.flags |= (uint8_t)((wide ? GATHER_WIDE : 0) | (rows ? GATHER_ROWS : 0));
    key.tune[0] = (uint8_t)vector;
    key.tune[1] = map.ndim <= 2 ? 2 : map.ndim <= 4 ? 4 : 8;
    key.tune[2] = (uint8_t)x->count;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t local;
    void *flag, *out_data = out->data;
    GEMS_TRY(gems_range_open(call, &local, &flag));
    int64_t per_block = !info->fast ? THREADS : rows ? 32768 / run + 1 : 16384;
    int64_t blocks = gems_grid_of_all(info, map.n, per_block);
    const uint32_t grid[3] = {blocks < INT32_MAX ? (uint32_t)blocks : INT32_MAX, 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    gems_steps bounds = *by;
    void *args[] = {&out_data, &index, &self_data, map.bytes, &bounds, &run, &flag};
    GEMS_TRY(gems_call_launch(call, plan, 0, grid, block, 0, args));
    return gems_range_close(call, flag);
}

/* The strides that index k has for TensorIterator, which decide on those of a new result: ATen
 * views the index with dims of one element around its own, and these have strides too. */
static void viewed_strides(const gems_indexing *x, int k, int64_t *strides) {
    const int64_t *shape = x->shape + x->first, *own = x->strides[k] + x->first;
    int d = x->ndim - 1, last = x->first + x->places;
    int64_t base = x->places ? own[x->places - 1] : 1, viewed = 1, numel = 1;
    for (int p = x->places - 1; p >= 0; p--) {
        numel *= shape[p];
        if (p > 0 && (shape[p - 1] == 1 || own[p - 1] == numel * base)) continue;
        for (; d >= 0; d--) {
            int64_t size = d >= x->first && d < last ? x->shape[d] : 1;
            if (viewed >= numel && size != 1) break;
            strides[d] = viewed * base;
            viewed *= size;
        }
        if (p > 0) base = own[p - 1];
        viewed = numel = 1;
    }
    for (; d >= 0; d--) strides[d] = 1;
    for (d = 0; d < x->ndim; d++)
        if ((d < x->first || d >= last) && x->shape[d] != 1) strides[d] = 0;
}

static gems_status run_index(gems_call *call) {
    gems_indexing x;
    GEMS_TRY(gems_indexing_read(call, &x));
    const gems_tensor *self = x.self;
    if (gems_copy_carrier(self->dtype) == GEMS_NO_DTYPE)
        return gems_decline("dtype without a kernel");
    int64_t strides[GEMS_MAX_DIMS], self_strides[GEMS_MAX_DIMS];
    int64_t deciding[INDEX_MOST][GEMS_MAX_DIMS];
    const int64_t *inputs[1 + INDEX_MOST] = {self_strides};
    gems_steps by = {{0}, {0}};
    for (int d = 0; d < x.ndim; d++)
        self_strides[d] = x.self_dim[d] < 0 ? 0 : self->strides[x.self_dim[d]];
    for (int k = 0; k < x.count; k++) {
        viewed_strides(&x, k, deciding[k]);
        inputs[1 + k] = deciding[k];
        by.size[k] = self->sizes[x.dim[k]];
        by.step[k] = self->strides[x.dim[k]];
    }
    gems_output_strides(x.shape, x.ndim, inputs, 1 + x.count, strides);
    GEMS_TRY(gems_output(call, 0, x.ndim, x.shape, strides, self->dtype));
    if (!call->out[0].numel) return GEMS_OK;
    int64_t farthest = gems_max_offset(self->sizes, self->strides, self->ndim);
    return pick(call, &x, self, self->data, self_strides, &by, farthest);
}

static gems_status run_take(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0), *index = gems_arg_tensor(call, 1);
    if (!self || !index) return gems_decline("no tensors");
    if (self->device_type != call->device_type || index->device_type != call->device_type)
        return gems_decline("tensors on several devices");
    if (index->dtype != GEMS_I64) return gems_decline("the index's dtype");
    if (!self->numel) return gems_decline("an index into no elements");
    if (gems_copy_carrier(self->dtype) == GEMS_NO_DTYPE)
        return gems_decline("dtype without a kernel");
    gems_indexing x = {.self = self, .count = 1, .data = {index->data}, .ndim = index->ndim};
    static const int64_t still[GEMS_MAX_DIMS] = {0};
    memcpy(x.shape, index->sizes, (size_t)index->ndim * sizeof *x.shape);
    memcpy(x.strides[0], index->strides, (size_t)index->ndim * sizeof **x.strides);
    GEMS_TRY(gems_output(call, 0, x.ndim, x.shape, NULL, self->dtype));
    if (!call->out[0].numel) return GEMS_OK;
    void *data;
    GEMS_TRY(gems_gather_contiguous(call, self, &data));
    gems_steps by = {{self->numel}, {1}};
    return pick(call, &x, self, data, still, &by, self->numel - 1);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    return call->op->mode == GEMS_INDEX_TAKE ? run_take(call) : run_index(call);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, program);
    snprintf(program->name, sizeof program->name, "%.*s %s%s", (int)strcspn(op->schema, "("),
             op->schema, gems_dtype_name(key->dtype[0]), key->tune[0] > 1 ? " vectors" : "");
    gems_gather_head(key, program);
    gems_text_add(&program->head,
                  "constexpr int kV = %d, kRank = %d, kCount = %d;\nconstexpr bool kRows = %s;\n",
                  key->tune[0], key->tune[1], key->tune[2],
                  key->flags & GATHER_ROWS ? "true" : "false");
    program->files[0] = "index.cuh";
    program->files[1] = "index.cu";
    program->entries[0] = "index_elements";
    program->entry_count = 1;
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    int carrier = gems_copy_carrier(dtype);
    if (carrier == GEMS_NO_DTYPE) return false;
    bool rows = i == 0 && op->mode == GEMS_INDEX_PICK;
    key->kernel = INDEX_ELEMENTS;
    key->dtype[0] = (uint8_t)carrier;
    key->flags = rows && info->fast ? GATHER_ROWS : 0;
    key->tune[0] = (uint8_t)(rows && !info->fast ? 16 / gems_dtype_size(carrier) : 1);
    key->tune[1] = 2;
    key->tune[2] = i > 1 ? 2 : 1;
    return i < (op->mode == GEMS_INDEX_PICK ? 3 : 1);
}

const gems_family gems_family_index = {
    .name = "index",
    .run = run,
    .program = program,
    .warm = warm,
    .strided_output = true,
};
