/* Index maps: dims are ordered and merged, then one launch moves everything. What is a plain copy,
 * or worth a tile, goes through the strided copies. */
#include "index_map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "modes.h"

enum { KERNEL_MAP = GEMS_COPY_END };
#define THREADS    256
#define MOST_DIMS  8 /* of Map in kernels/index_map.cu */
#define TILE_LEAST 8
#define FLAG_WIDE  1 /* 64-bit index */
#define FLAG_STEP  2
#define FLAG_FAST  4 /* the fast cpu backend's text has no vectors to tell apart */

/* Twins of Map in kernels/index_map.cu. */
typedef struct {
    int32_t ndim, a, b, n, inner, k;
    gems_fastdiv div[MOST_DIMS], step[MOST_DIMS];
    int32_t stride[MOST_DIMS][3];
    int32_t lo[MOST_DIMS], first[MOST_DIMS], last[MOST_DIMS], count[MOST_DIMS];
} map_narrow;
typedef struct {
    int32_t ndim, a, b;
    int64_t n, inner, k;
    gems_fastdiv div[MOST_DIMS], step[MOST_DIMS];
    int64_t stride[MOST_DIMS][3];
    int64_t lo[MOST_DIMS], first[MOST_DIMS], last[MOST_DIMS], count[MOST_DIMS];
} map_wide;

/* A map along the output's memory: dim 0 innermost, out strides beside. */
typedef struct {
    int ndim, a, b;
    int64_t n;
    gems_index_dim dim[GEMS_MAX_DIMS];
    int64_t out[GEMS_MAX_DIMS];
} ordered;

void gems_index_map_of(gems_index_map *map, const gems_tensor *t) {
    memset(map, 0, offsetof(gems_index_map, dim));
    map->ndim = t->ndim;
    map->dtype = t->dtype;
    map->a = map->b = -1;
    map->in = t->data;
    for (int d = 0; d < t->ndim; d++)
        map->dim[d] = (gems_index_dim){
            .size = t->sizes[d], .in = t->strides[d], .count = t->sizes[d], .step = 1};
}

/* Whether every index of the dim has its own element. */
static bool whole(const gems_index_dim *d) {
    return d->lo == 0 && d->step == 1 && d->count == d->size;
}

/* Whether dim `outer` can be one with the dim inside it. */
static bool merges(const gems_index_map *map, const ordered *o, const gems_index_dim *outer,
                   int64_t out) {
    const gems_index_dim *inner = &o->dim[o->ndim - 1];
    bool plain = whole(outer) ||
                 (outer->step == 1 && (map->edge == GEMS_EDGE_OUT || map->edge == GEMS_EDGE_WRAP));
    return whole(inner) && plain && out == o->out[o->ndim - 1] * inner->size &&
           outer->in == inner->in * inner->size &&
           (map->rest != GEMS_REST_OTHER || outer->other == inner->other * inner->size);
}

static void order(const gems_index_map *map, const int64_t *strides, ordered *o) {
    int perm[GEMS_MAX_DIMS];
    o->ndim = 0;
    o->n = 1;
    o->a = o->b = -1;
    for (int i = 0; i < map->ndim; i++) {
        int d = map->ndim - 1 - i, at = i;
        o->n *= map->dim[d].size;
        for (; at > 0 && strides[perm[at - 1]] > strides[d]; at--) perm[at] = perm[at - 1];
        perm[at] = d;
    }
    for (int i = 0; i < map->ndim; i++) {
        int d = perm[i];
        const gems_index_dim *dim = &map->dim[d];
        bool kept = map->keep && (d == map->a || d == map->b);
        if (dim->size == 1 && whole(dim) && !kept) continue;
        bool before = o->ndim && map->keep && (o->ndim - 1 == o->a || o->ndim - 1 == o->b);
        if (o->ndim && !kept && !before && merges(map, o, dim, strides[d])) {
            gems_index_dim *inner = &o->dim[o->ndim - 1];
            inner->lo = dim->lo * inner->size;
            inner->count = dim->count * inner->size;
            inner->size *= dim->size;
            continue;
        }
        if (kept && d == map->a) o->a = o->ndim;
        if (kept && d == map->b) o->b = o->ndim;
        o->dim[o->ndim] = *dim;
        o->out[o->ndim++] = strides[d];
    }
    if (!o->ndim) {
        o->dim[0] = (gems_index_dim){.size = 1, .in = 1, .other = 1, .count = 1, .step = 1};
        o->out[0] = 1;
        o->ndim = 1;
    }
}

/* Whether all offsets and indexes, with room for a step of the whole grid, fit 32 bits. */
static bool narrow(const ordered *o) {
    int64_t most = o->n, offset[3] = {0, 0, 0};
    for (int d = 0; d < o->ndim; d++) {
        const gems_index_dim *dim = &o->dim[d];
        int64_t reach = dim->size > dim->count ? dim->size : dim->count;
        reach += llabs(dim->lo);
        offset[0] += reach * llabs(o->out[d]);
        offset[1] += reach * llabs(dim->in);
        offset[2] += reach * llabs(dim->other);
        if (2 * reach > most) most = 2 * reach;
    }
    for (int k = 0; k < 3; k++)
        if (offset[k] > most) most = offset[k];
    return most < INT32_MAX - (1 << 24);
}

static int64_t clamped(int64_t v, int64_t low, int64_t high) {
    return v < low ? low : v > high ? high : v;
}

static gems_status launch(gems_call *call, const gems_index_map *map, const ordered *o, void *out) {
    const gems_device_info *info = gems_device_information(call->device);
    int size = (int)gems_dtype_size(map->dtype);
    bool wide = !narrow(o), dense = map->rest != GEMS_REST_ONLY, stepped = false;
    int64_t expected = 1;
    if (o->ndim > MOST_DIMS) return gems_decline("more dimensions than an index map takes");
    map_narrow small = {.ndim = o->ndim, .a = o->a, .b = o->b};
    map_wide large = {.ndim = o->ndim, .a = o->a, .b = o->b};
    for (int d = 0; d < MOST_DIMS; d++) {
        static const gems_index_dim none = {.size = 1, .count = 1, .step = 1};
        const gems_index_dim *dim = d < o->ndim ? &o->dim[d] : &none;
        if (dim->size > INT32_MAX || dim->step > INT32_MAX)
            return gems_decline("a dimension beyond an index map's index");
        if (d < o->ndim) {
            dense = dense && (o->out[d] == expected || dim->size == 1);
            expected *= dim->size;
            stepped |= dim->step > 1;
        }
        small.div[d] = large.div[d] = gems_fastdiv_make((uint32_t)dim->size);
        small.step[d] = large.step[d] = gems_fastdiv_make((uint32_t)dim->step);
        large.stride[d][0] = d < o->ndim ? o->out[d] : 0;
        large.stride[d][1] = dim->in;
        large.stride[d][2] = dim->other;
        large.lo[d] = dim->lo;
        large.count[d] = dim->count;
        large.first[d] = clamped(dim->lo, 0, dim->size);
        large.last[d] = clamped(dim->lo + dim->count * dim->step, large.first[d], dim->size);
        for (int k = 0; k < 3; k++) small.stride[d][k] = (int32_t)large.stride[d][k];
        small.lo[d] = (int32_t)large.lo[d];
        small.count[d] = (int32_t)large.count[d];
        small.first[d] = (int32_t)large.first[d];
        small.last[d] = (int32_t)large.last[d];
    }
    large.n = o->n;
    large.inner = o->dim[0].size;
    large.k = map->keep ? clamped(map->k, -o->dim[o->a].size, o->dim[o->b].size) : 0;
    small.n = (int32_t)large.n;
    small.inner = (int32_t)large.inner;
    small.k = (int32_t)large.k;
    int vector = 0;
    if (dense && !info->fast)
        for (vector = 16 / size; (uintptr_t)out % (uintptr_t)(vector * size); vector /= 2) {}
    gems_key key = {.kernel = KERNEL_MAP};
    const gems_plan *plan;
    key.flags = (uint8_t)((wide ? FLAG_WIDE : 0) | (stepped ? FLAG_STEP : 0) |
                          (info->fast ? FLAG_FAST : 0));
    key.dtype[0] = (uint8_t)map->dtype;
    key.tune[0] = (uint8_t)vector;
    key.tune[1] = o->ndim <= 4 ? 4 : 8;
    key.tune[2] = map->edge;
    key.tune[3] = map->keep;
    key.tune[4] = map->rest;
    struct {
        uint64_t low, high;
    } pattern;
    memcpy(&pattern, map->fill, sizeof pattern);
    const char *in = map->in, *other = map->other;
    void *args[] = {&out, &in, &other, &pattern, wide ? (void *)&large : (void *)&small};
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int64_t per_block = info->fast ? 16384 : (int64_t)THREADS * 2 * (vector ? vector : 2);
    const uint32_t grid[3] = {gems_grid_for(info, o->n, per_block), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

/* Whether reading in the output's order jumps through the input, and a tile would not. */
static bool jumps(const ordered *o) {
    if (o->out[0] != 1 || o->dim[0].size < TILE_LEAST || llabs(o->dim[0].in) <= 1) return false;
    for (int d = 1; d < o->ndim; d++)
        if (o->dim[d].in == 1 && o->dim[d].size >= TILE_LEAST) return true;
    return false;
}

/* The diagonal of two dims, as a strided copy: dim a stands for it, dim b for one element. */
static void as_diagonal(const gems_index_map *map, int64_t *sizes, int64_t *to, int64_t *from,
                        int64_t *skip) {
    int a = map->a, b = map->b;
    int64_t at_a = map->k < 0 ? -map->k : 0, at_b = map->k > 0 ? map->k : 0;
    int64_t down = sizes[a] - at_a, across = sizes[b] - at_b,
            length = down < across ? down : across;
    *skip = length > 0 ? at_a * to[a] + at_b * to[b] : 0;
    sizes[a] = length > 0 ? length : 0;
    sizes[b] = 1;
    to[a] += to[b];
    from[a] += from[b]; /* one of them is 0 */
}

/* The elements that have a source, as a strided copy. */
static gems_status copy_region(gems_call *call, const gems_index_map *map, const gems_tensor *out) {
    int64_t sizes[GEMS_MAX_DIMS], to[GEMS_MAX_DIMS], from[GEMS_MAX_DIMS];
    int64_t size = (int64_t)gems_dtype_size(map->dtype);
    char *target = out->data;
    const char *source = map->in;
    for (int d = 0; d < map->ndim; d++) {
        const gems_index_dim *dim = &map->dim[d];
        int64_t first = clamped(dim->lo, 0, dim->size);
        int64_t last = clamped(dim->lo + dim->count * dim->step, first, dim->size);
        sizes[d] = (last - first + dim->step - 1) / dim->step;
        to[d] = out->strides[d] * dim->step;
        from[d] = dim->in;
        target += first * out->strides[d] * size;
        source += (first - dim->lo) * dim->in * size;
    }
    if (map->keep == GEMS_KEEP_AT) {
        int64_t skip;
        as_diagonal(map, sizes, to, from, &skip);
        target += skip * size;
    }
    return gems_copy_views(call, sizes, map->ndim, (gems_view){target, to, map->dtype},
                           (gems_view){(void *)(uintptr_t)source, from, map->dtype});
}

gems_status gems_index_map_into(gems_call *call, const gems_index_map *given,
                                const gems_tensor *out) {
    gems_index_map map = *given;
    ordered o;
    map.dtype = gems_copy_carrier(map.dtype);
    if (map.dtype == GEMS_NO_DTYPE) return gems_decline("dtype without a copy kernel");
    if (!out->numel) return GEMS_OK;
    order(&map, out->strides, &o);
    bool plain = map.rest != GEMS_REST_ONLY && !map.keep, forward = true;
    for (int d = 0; d < map.ndim; d++) {
        plain = plain &&
                (whole(&map.dim[d]) || (map.rest == GEMS_REST_NONE && map.edge == GEMS_EDGE_OUT));
        forward = forward && (map.dim[d].in >= 0 || map.dim[d].size == 1);
    }
    if (plain && forward) return copy_region(call, &map, out);
    /* a diagonal beside a fill of everything costs a CPU less than to look for it in each row */
    bool apart = map.keep == GEMS_KEEP_AT ? gems_device_information(call->device)->fast : jumps(&o);
    if (!apart || !forward || map.edge != GEMS_EDGE_OUT || map.rest == GEMS_REST_ONLY)
        return launch(call, &map, &o, out->data);
    if (map.keep &&
        map.keep != GEMS_KEEP_AT) { /* everything through a tile, then what is not kept */
        GEMS_TRY(copy_region(call, &map, out));
        map.rest = GEMS_REST_ONLY;
        map.in = out->data;
        for (int d = 0; d < map.ndim; d++) map.dim[d].in = out->strides[d];
        order(&map, out->strides, &o);
        return launch(call, &map, &o, out->data);
    }
    int64_t strides[GEMS_MAX_DIMS];
    for (int d = 0; d < map.ndim; d++) strides[d] = map.dim[d].other;
    if (map.rest == GEMS_REST_FILL)
        GEMS_TRY(gems_fill_view(call, out->sizes, out->ndim,
                                (gems_view){out->data, out->strides, map.dtype}, map.fill));
    else
        GEMS_TRY(gems_copy_views(call, out->sizes, out->ndim,
                                 (gems_view){out->data, out->strides, map.dtype},
                                 (gems_view){(void *)(uintptr_t)map.other, strides, map.dtype}));
    return copy_region(call, &map, out);
}

gems_status gems_index_map_run(gems_call *call, const gems_index_map *map, const int64_t *strides) {
    int64_t sizes[GEMS_MAX_DIMS];
    for (int d = 0; d < map->ndim; d++) sizes[d] = map->dim[d].size;
    GEMS_TRY(gems_output(call, 0, map->ndim, sizes, strides, map->dtype));
    return gems_index_map_into(call, map, &call->out[0]);
}

static bool backward_of_pad(const gems_op *op) {
    return op->mode == GEMS_PAD_REFLECT_BACKWARD || op->mode == GEMS_PAD_REPLICATE_BACKWARD;
}

static gems_status run(gems_call *call) {
    if (backward_of_pad(call->op)) return gems_pad_backward(call);
    return call->op->mode >= GEMS_VIEW_COPY ? gems_view_copy(call) : gems_index_op(call);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    if (key->kernel == GEMS_PAD_BACKWARD_KERNEL) return gems_pad_backward_program(op, key, program);
    if (key->kernel != KERNEL_MAP) return gems_copy_program(op, key, program);
    static const char *const edges[] = {"out", "clamp", "reflect", "wrap"};
    static const char *const rests[] = {"", " fill", " other", " in place"};
    const char *name = gems_dtype_kernel(key->dtype[0]);
    if (!name || key->tune[2] > GEMS_EDGE_WRAP || key->tune[4] > GEMS_REST_ONLY)
        return gems_fail(GEMS_RUNTIME_ERROR, "not a key of an index map");
    gems_text_add(&program->head, "typedef %s T;\ntypedef %s Index;\n", name,
                  key->flags & FLAG_WIDE ? "int64_t" : "int32_t");
    gems_text_add(&program->head,
                  "constexpr int kV = %d, kRank = %d, kEdge = %d, kKeep = %d, kRest = %d;\n",
                  key->tune[0], key->tune[1], key->tune[2], key->tune[3], key->tune[4]);
    gems_text_add(&program->head, "constexpr bool kStep = %s;\n",
                  key->flags & FLAG_STEP ? "true" : "false");
    snprintf(program->name, sizeof program->name, "%.*s map %s%s%s %d bytes",
             (int)strcspn(op->schema, "("), op->schema, edges[key->tune[2]],
             key->tune[3] ? " part" : "", rests[key->tune[4]], (int)gems_dtype_size(key->dtype[0]));
    program->files[0] = "index_map.cu";
    program->entries[0] = "index_map";
    program->entry_count = 1;
    return GEMS_OK;
}

/* What the programs of a mode hold: edge, keep, rest. */
static const uint8_t *kinds_of(int mode) {
    static const uint8_t kinds[][3] = {
        [GEMS_PAD_CONSTANT] = {GEMS_EDGE_OUT, 0, GEMS_REST_FILL},
        [GEMS_PAD_REFLECT] = {GEMS_EDGE_REFLECT, 0, GEMS_REST_NONE},
        [GEMS_PAD_REPLICATE] = {GEMS_EDGE_CLAMP, 0, GEMS_REST_NONE},
        [GEMS_FLIP] = {GEMS_EDGE_OUT, 0, GEMS_REST_NONE},
        [GEMS_ROT90] = {GEMS_EDGE_OUT, 0, GEMS_REST_NONE},
        [GEMS_ROLL] = {GEMS_EDGE_WRAP, 0, GEMS_REST_NONE},
        [GEMS_TRIU] = {GEMS_EDGE_OUT, GEMS_KEEP_FROM, GEMS_REST_FILL},
        [GEMS_TRIL] = {GEMS_EDGE_OUT, GEMS_KEEP_UPTO, GEMS_REST_FILL},
        [GEMS_DIAG_EMBED] = {GEMS_EDGE_OUT, GEMS_KEEP_AT, GEMS_REST_FILL},
        [GEMS_DIAGONAL_BACKWARD] = {GEMS_EDGE_OUT, GEMS_KEEP_AT, GEMS_REST_FILL},
        [GEMS_SELECT_BACKWARD] = {GEMS_EDGE_OUT, 0, GEMS_REST_FILL},
        [GEMS_SLICE_BACKWARD] = {GEMS_EDGE_OUT, 0, GEMS_REST_FILL},
        [GEMS_SELECT_SCATTER] = {GEMS_EDGE_OUT, 0, GEMS_REST_OTHER},
        [GEMS_SLICE_SCATTER] = {GEMS_EDGE_OUT, 0, GEMS_REST_OTHER},
        [GEMS_DIAGONAL_SCATTER] = {GEMS_EDGE_OUT, GEMS_KEEP_AT, GEMS_REST_OTHER},
    };
    return (size_t)mode < sizeof kinds / sizeof *kinds ? kinds[mode] : NULL;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    const uint8_t *kinds = kinds_of(op->mode);
    if (backward_of_pad(op)) {
        key->kernel = GEMS_PAD_BACKWARD_KERNEL;
        key->dtype[0] = (uint8_t)dtype;
        key->tune[0] = op->mode == GEMS_PAD_REFLECT_BACKWARD;
        return i == 0;
    }
    dtype = gems_copy_carrier(dtype);
    if (dtype == GEMS_NO_DTYPE) return false;
    if (!kinds) return gems_copy_warm(dtype, dtype, i, info, key);
    bool part = kinds[1] == GEMS_KEEP_FROM || kinds[1] == GEMS_KEEP_UPTO;
    if (i > (part ? 1 : 0)) return false;
    key->kernel = KERNEL_MAP;
    key->dtype[0] = (uint8_t)dtype;
    key->flags = info->fast ? FLAG_FAST : 0;
    key->tune[0] = (uint8_t)(info->fast || i ? 0 : 16 / gems_dtype_size(dtype));
    key->tune[1] = 4;
    key->tune[2] = kinds[0];
    key->tune[3] = kinds[1];
    key->tune[4] = i ? GEMS_REST_ONLY : kinds[2];
    return true;
}

const gems_family gems_family_index_map = {
    .name = "index_map",
    .run = run,
    .program = program,
    .warm = warm,
    .strided_output = true,
};
