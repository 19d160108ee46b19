/* Scatter for devices that run many threads. Elements that are only stored: the last place of every
 * destination claims it, then each is stored once. Sums and the like: the places are sorted by
 * destination (stable), then one thread has all of a destination, in order. Both give the same bits
 * on every run. */
#include <string.h>

#include "radix.h"
#include "../base/dtype.h"
#include "scatter.h"

#define THREADS 256
#define MOST    (INT32_MAX - (1 << 24))

/* The places with everything that a kernel follows over them: all dims of scatter's index, else the
 * places of the request. */
typedef struct {
    int n;
    int64_t size[GEMS_MAX_DIMS], src[GEMS_MAX_DIMS], out[GEMS_MAX_DIMS], key[GEMS_MAX_DIMS];
    const int64_t *index[INDEX_MOST];
    int64_t count;        /* of places */
    int64_t destinations; /* numbers below this */
    gems_pointers pointers;
    gems_steps keys, offsets;
    int ranks; /* dims of a destination: sizes and strides of out, row-major */
    int64_t rank_size[GEMS_MAX_DIMS], rank_out[GEMS_MAX_DIMS];
} layout;

static int64_t out_step(const gems_call *call, const scatter_request *r, int k) {
    return r->dim[k] < 0 ? 1 : call->out[0].strides[r->dim[k]];
}

static void lay_out(const gems_call *call, const scatter_request *r, layout *l) {
    const gems_tensor *out = &call->out[0];
    *l = (layout){.destinations = 1};
    for (int k = 0; k < r->count; k++) {
        l->pointers.at[k] = r->data[k];
        l->keys.size[k] = l->offsets.size[k] = r->size[k];
        l->offsets.step[k] = out_step(call, r, k);
        l->index[k] = r->varies ? r->whole->strides : r->places.index[k];
    }
    if (r->varies) {
        l->n = l->ranks = r->whole->ndim;
        for (int d = l->n - 1; d >= 0; d--) {
            bool at = d == r->dim[0];
            l->size[d] = r->whole->sizes[d];
            l->src[d] = r->src ? r->src->strides[d] : 0;
            l->out[d] = at ? 0 : out->strides[d];
            l->key[d] = at ? 0 : l->destinations;
            l->rank_size[d] = at ? r->size[0] : l->size[d];
            l->rank_out[d] = out->strides[d];
            if (at) l->keys.step[0] = l->destinations;
            l->destinations *= l->rank_size[d];
        }
    } else {
        l->n = r->places.n;
        l->ranks = r->count;
        memcpy(l->size, r->places.size, sizeof l->size);
        memcpy(l->src, r->places.src, sizeof l->src);
        for (int k = r->count - 1; k >= 0; k--) {
            l->keys.step[k] = l->destinations;
            l->rank_size[k] = r->size[k];
            l->rank_out[k] = l->offsets.step[k];
            l->destinations *= r->size[k];
        }
    }
    l->count = gems_numel(l->size, l->n);
}

/* The map that tells a place's destination: its indices, then what the other dims add. */
static bool key_map(const scatter_request *r, const layout *l, bool wide, gems_map *map) {
    const int64_t *strides[INDEX_MOST + 1];
    for (int k = 0; k < r->count; k++) strides[k] = l->index[k];
    if (r->varies) strides[r->count] = l->key;
    gems_iter iter;
    gems_iter_ordered(&iter, l->size, l->n, strides, r->count + r->varies);
    return gems_map_make(&iter, 0, 1, wide, map);
}

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int64_t n,
                          int64_t per_block, void **args) {
    const gems_device_info *info = gems_device_information(call->device);
    const uint32_t grid[3] = {gems_grid_for(info, n, info->fast ? 16384 : per_block), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, 0, args);
}

static bool far(const gems_tensor *t) {
    return t && gems_max_offset(t->sizes, t->strides, t->ndim) >= MOST;
}

/* Whether an offset or a count needs 64 bits. */
static bool needs_wide(const gems_call *call, const scatter_request *r, const layout *l) {
    bool wide = far(&call->out[0]) || far(r->src) || l->count >= MOST;
    int64_t total = l->count;
    for (int d = 0; d < r->lines.n && !r->varies; d++) total *= r->lines.size[d];
    for (int k = 0; k < r->count; k++)
        wide = wide || gems_max_offset(l->size, l->index[k], l->n) >= MOST;
    return wide || total >= MOST;
}

gems_status gems_scatter_offsets(gems_call *call, const scatter_request *r, void *offsets) {
    layout l;
    gems_map map;
    lay_out(call, r, &l);
    gems_key key = {.kernel = SCATTER_OFFSETS, .flags = r->flags | GATHER_WIDE | SCATTER_WRAP};
    key.dtype[0] = (uint8_t)gems_copy_carrier(r->self->dtype);
    key.tune[TUNE_VECTOR] = 1;
    key.tune[TUNE_RANK] = 8;
    key.tune[TUNE_COUNT] = (uint8_t)r->count;
    if (!key_map(r, &l, true, &map)) return gems_decline("more dimensions than the kernel takes");
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t local;
    void *flag, *positions = NULL;
    GEMS_TRY(gems_range_open(call, &local, &flag));
    void *args[] = {&l.pointers, map.bytes, &l.offsets, &offsets, &positions, &flag};
    GEMS_TRY(launch(call, plan, 0, l.count, THREADS, args));
    return gems_range_close(call, flag);
}

gems_status gems_scatter_claim(gems_call *call, const scatter_request *r) {
    const gems_tensor *out = &call->out[0];
    layout l;
    lay_out(call, r, &l);
    int operands = 3 + r->count + r->varies;
    if (l.count >= MOST || l.destinations >= MOST || operands > GEMS_ITER_OPERANDS)
        return gems_decline("more places than the kernel's index");
    bool wide = needs_wide(call, r, &l), claim = r->src || call->device_type == GEMS_CPU;

    /* All elements: the places' dims, then the lines'. */
    int n = l.n;
    static const int64_t still[GEMS_MAX_DIMS] = {0};
    int64_t sizes[GEMS_MAX_DIMS], place[GEMS_MAX_DIMS] = {0};
    int64_t own[INDEX_MOST + 3][GEMS_MAX_DIMS] = {{0}};
    memcpy(sizes, l.size, sizeof sizes);
    memcpy(own[0], l.out, sizeof *own);
    memcpy(own[1], l.src, sizeof *own);
    gems_contiguous_strides(l.size, l.n, place);
    for (int k = 0; k < r->count; k++) memcpy(own[2 + k], l.index[k], (size_t)l.n * sizeof **own);
    if (r->varies) memcpy(own[2 + r->count], l.key, sizeof *own);
    for (int d = 0; d < r->lines.n && !r->varies; d++, n++) {
        if (n == GEMS_MAX_DIMS) return gems_decline("more dimensions than kernels take");
        sizes[n] = r->lines.size[d];
        own[0][n] = out->strides[r->lines.dim[d]];
        own[1][n] = r->lines.src[d];
    }
    const int64_t *strides[GEMS_ITER_OPERANDS] = {own[0], r->src ? own[1] : still, place};
    for (int k = 0; k < r->count + r->varies; k++) strides[3 + k] = own[2 + k];
    gems_iter iter;
    gems_iter_make(&iter, sizes, n, strides, operands);
    int64_t bits = 0;
    for (int k = 0; k < r->count; k++) bits |= l.offsets.step[k];
    int size = (int)gems_dtype_size(r->self->dtype);
    int vector = gems_index_vector(&iter, r->src ? 1 : -1, bits, size, out->data,
                                   r->src ? r->src->data : NULL);
    gems_map keys, all;
    if (!key_map(r, &l, wide, &keys) || !gems_map_make(&iter, 0, vector, wide, &all))
        return gems_decline("more dimensions than the kernel takes");

    gems_key key = {.kernel = SCATTER_CLAIM};
    gems_scatter_key(r, &key);
    key.flags |= (uint8_t)(wide ? GATHER_WIDE : 0);
    key.tune[TUNE_VECTOR] = (uint8_t)vector;
    int most = all.ndim > keys.ndim ? all.ndim : keys.ndim;
    key.tune[TUNE_RANK] = most <= 2 ? 2 : most <= 4 ? 4 : 8;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t local;
    void *flag, *winner = NULL, *out_data = out->data;
    void *src = r->src ? r->src->data : NULL;
    GEMS_TRY(gems_range_open(call, &local, &flag));
    if (claim) {
        uint8_t none[16];
        memset(none, 0xff, sizeof none);
        int64_t step = 1;
        GEMS_TRY(gems_scratch(call, (size_t)l.destinations * sizeof(int32_t), &winner));
        GEMS_TRY(
            gems_fill_view(call, &l.destinations, 1, (gems_view){winner, &step, GEMS_I32}, none));
        void *args[] = {&l.pointers, keys.bytes, &l.keys, &winner, &flag};
        GEMS_TRY(launch(call, plan, 1, l.count, THREADS, args));
        GEMS_TRY(gems_range_close(call, flag));
    }
    GEMS_TRY(gems_scatter_start(call, r->self, (gems_view){out->data, out->strides, out->dtype}));
    uint64_t value[2] = {r->value[0], r->value[1]};
    void *args[] = {&out_data,  &src,    &l.pointers, all.bytes, &l.keys,
                    &l.offsets, &winner, value,       &flag};
    return launch(call, plan, 2, all.n, THREADS * 4, args);
}

gems_status gems_scatter_sort(gems_call *call, const scatter_request *r) {
    const gems_tensor *out = &call->out[0];
    layout l;
    lay_out(call, r, &l);
    if (l.count >= MOST / 4 || l.destinations >= MOST)
        return gems_decline("more places than the sort takes");
    bool wide = needs_wide(call, r, &l);

    /* What every place has: the lines of the request. */
    int n = r->varies ? 0 : r->lines.n;
    int64_t strides[2][GEMS_MAX_DIMS] = {{0}}, steps_of = 0;
    for (int d = 0; d < n; d++) {
        strides[0][d] = out->strides[r->lines.dim[d]];
        strides[1][d] = r->lines.src[d];
    }
    const int64_t *lines[2] = {strides[0], strides[1]}, *outer[1] = {l.rank_out}, *src[1] = {l.src};
    gems_iter inner_iter, outer_iter, place_iter;
    gems_iter_make(&inner_iter, r->lines.size, n, lines, 2);
    gems_iter_ordered(&outer_iter, l.rank_size, l.ranks, outer, 1);
    gems_iter_ordered(&place_iter, l.size, l.n, src, 1);
    for (int d = 0; d < l.ranks; d++) steps_of |= l.rank_out[d];
    for (int d = 0; d < l.n; d++) steps_of |= l.src[d];
    int size = (int)gems_dtype_size(r->self->dtype), vector = 1;
    if (n && r->src)
        vector = gems_index_vector(&inner_iter, 1, steps_of, size, out->data, r->src->data);
    gems_map keys, outer_map, place_map, inner_map;
    if (!key_map(r, &l, wide, &keys) || !gems_map_make(&outer_iter, 0, 1, wide, &outer_map) ||
        !gems_map_make(&place_iter, 0, 1, wide, &place_map) ||
        !gems_map_make(&inner_iter, 0, vector, wide, &inner_map))
        return gems_decline("more dimensions than the kernel takes");

    gems_key key = {.kernel = SCATTER_SORT};
    gems_scatter_key(r, &key);
    key.flags |= (uint8_t)(wide ? GATHER_WIDE : 0);
    key.tune[TUNE_VECTOR] = (uint8_t)vector;
    key.tune[TUNE_RANK] = keys.ndim <= 2 ? 2 : 8;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t local;
    void *flag, *room;
    GEMS_TRY(gems_range_open(call, &local, &flag));
    gems_radix radix = {.n = (int32_t)l.count, .most = (int32_t)l.destinations};
    size_t count = (size_t)l.count;
    GEMS_TRY(gems_scratch(call, (4 * count + gems_radix_cells(l.count)) * sizeof(int32_t), &room));
    for (int i = 0; i < 2; i++) {
        radix.keys[i] = (int32_t *)room + 2 * (size_t)i * count;
        radix.positions[i] = radix.keys[i] + count;
    }
    radix.counts = (int32_t *)room + 4 * count;
    void *listed[] = {&l.pointers, keys.bytes, &l.keys, &radix.keys[0], &radix.positions[0], &flag};
    GEMS_TRY(launch(call, plan, 0, l.count, THREADS * 4, listed));
    GEMS_TRY(gems_range_close(call, flag));
    GEMS_TRY(gems_radix_sort(call, plan, 1, &radix));
    GEMS_TRY(gems_scatter_start(call, r->self, (gems_view){out->data, out->strides, out->dtype}));
    uint64_t value[2] = {r->value[0], r->value[1]}, alpha[2] = {r->alpha[0], r->alpha[1]};
    void *out_data = out->data, *src_data = r->src ? r->src->data : NULL;
    int32_t columns = (int32_t)inner_map.n;
    void *args[] = {&out_data,
                    &src_data,
                    &radix.keys[radix.which],
                    &radix.positions[radix.which],
                    outer_map.bytes,
                    place_map.bytes,
                    inner_map.bytes,
                    &radix.n,
                    wide ? (void *)&inner_map.n : (void *)&columns,
                    value,
                    alpha};
    return launch(call, plan, 4, l.count * inner_map.n, THREADS, args);
}

gems_status gems_scatter_places_program(const gems_key *key, gems_program *program) {
    static const char *const claim[] = {"scatter_keys", "scatter_claim", "scatter_put"};
    static const char *const sort[] = {"scatter_keys", "radix_clear", "radix_count", "radix_place",
                                       "scatter_apply"};
    bool sorts = key->kernel == SCATTER_SORT, offsets = key->kernel == SCATTER_OFFSETS;
    gems_scatter_head(key, program);
    gems_text_add(&program->head, "#define SCATTER_KERNEL %d\ntypedef %s Key;\n",
                  offsets ? 1
                  : sorts ? 3
                          : 2,
                  offsets ? "int64_t" : "int32_t");
    int files = 0;
    program->files[files++] = "index.cuh";
    if (sorts) {
        gems_radix_head(program);
        program->files[files++] = "lookback.cuh";
        program->files[files++] = "radix.cuh";
    }
    program->files[files++] = "scatter.cuh";
    program->files[files] = "scatter_places.cu";
    program->entry_count = offsets ? 1 : sorts ? 5 : 3;
    for (int i = 0; i < program->entry_count; i++) program->entries[i] = sorts ? sort[i] : claim[i];
    return GEMS_OK;
}
