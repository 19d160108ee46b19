/* scatter and its reductions along a dim whose lines fit the shared memory of a block, lines side
 * by side where the dim is not the innermost. Twin of kernels/scatter_rows.cu. */
#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"
#include "scatter.h"

#define CELLS_BYTES (96 << 10) /* of shared memory: two blocks of a processor have it */
#define GPU_MOST \
    (1 << 16)      /* elements from which a GPU leaves sums to ATen, which adds in any order */
#define OWN    8   /* kOwn in kernels/scatter_rows.cu */
#define LEAST  256 /* places of a block, on a GPU */
#define PLACES (1 << 26) /* of all lanes: a chunk takes numbers down from 2^31 */
#define MOST   (INT32_MAX - (1 << 24))

/* Twin of Shape. */
typedef struct {
    int64_t step[4], lane[4];
    int32_t size, places, lanes;
} shape;

/* How lines are taken: so many side by side along a dim of the lines (-1: one each). */
typedef struct {
    int lanes, along;
    int64_t bytes;
    bool covers; /* every line of self has places */
} way;

/* Strides that the output is going to have, where it does not exist yet. */
static void expect_strides(const gems_call *call, const scatter_request *r, int64_t *strides) {
    const gems_entry *entry = call->entry;
    const gems_tensor *like = r->self;
    if (entry->variant == GEMS_OUT && call->args[entry->out_arg].kind == GEMS_TENSOR)
        like = &call->args[entry->out_arg].t;
    if (entry->variant == GEMS_FUNCTIONAL || like->ndim != r->self->ndim || !like->numel)
        gems_contiguous_strides(r->self->sizes, r->self->ndim, strides);
    else
        memcpy(strides, like->strides, (size_t)like->ndim * sizeof *strides);
}

static bool find_way(const gems_call *call, const scatter_request *r, const int64_t *out, way *w) {
    const gems_device_info *info = gems_device_information(call->device);
    int width = (int)gems_dtype_size(r->self->dtype);
    int opmath = (int)gems_dtype_size(gems_dtype_opmath(r->self->dtype));
    int64_t cell = r->op == SCATTER_SET ? 4 : 4 + (r->mean ? 4 : 0) + opmath;
    int64_t places = r->places.size[0], groups = 1, most = CELLS_BYTES;
    if (info->fast || !r->varies || r->count != 1 || r->places.n != 1) return false;
    if (most > (int64_t)info->shared_bytes - (20 << 10))
        most = (int64_t)info->shared_bytes - (20 << 10);
    /* Of a CPU an index out of range is found when out has been written. */
    if (call->device_type == GEMS_CPU && call->entry->variant != GEMS_FUNCTIONAL) return false;
    *w = (way){.lanes = 1, .along = -1, .covers = true};
    for (int d = 0; d < r->lines.n; d++) {
        int at = r->lines.dim[d];
        if (r->lines.size[d] > 1 && out[at] == 1 && out[r->dim[0]] != 1) w->along = d;
        w->covers = w->covers && r->lines.size[d] == r->self->sizes[at];
        groups *= r->lines.size[d];
    }
    if (w->along >= 0)
        for (w->lanes = 64; w->lanes > 1 && (r->size[0] * w->lanes * cell > most ||
                                             w->lanes / 2 >= r->lines.size[w->along]);)
            w->lanes /= 2;
    w->bytes = r->size[0] * w->lanes * cell;
    /* Less than a sector of memory side by side, few blocks, or few places in long lines do not
     * pay. */
    if (w->bytes > most || (w->along >= 0 && w->lanes * width < 32)) return false;
    if (places * 4 < r->size[0] || places * w->lanes > PLACES) return false;
    if (info->arch && places * w->lanes < LEAST) return false;
    return info->arch == 0 || groups / w->lanes * 2 >= info->processors;
}

bool gems_scatter_fits(const gems_call *call, const scatter_request *r) {
    int64_t strides[GEMS_MAX_DIMS];
    way w;
    if (!r->self->numel || !gems_numel(r->lines.size, r->lines.n)) return false;
    expect_strides(call, r, strides);
    return find_way(call, r, strides, &w);
}

bool gems_scatter_gains(const gems_call *call, const scatter_request *r) {
    return (r->op != SCATTER_SUM || r->mean) && gems_scatter_fits(call, r);
}

gems_status gems_scatter_rows(gems_call *call, const scatter_request *r, bool *done) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *out = &call->out[0], *self = r->self;
    way w;
    *done = false;
    if (!find_way(call, r, out->strides, &w)) return GEMS_OK;
    int64_t sizes[GEMS_MAX_DIMS], own[5][GEMS_MAX_DIMS] = {{0}};
    shape s = {.size = (int32_t)r->size[0], .places = (int32_t)r->places.size[0], .lanes = 1};
    const int64_t along[4] = {out->strides[r->dim[0]], self->strides[r->dim[0]],
                              r->places.index[0][0], r->places.src[0]};
    memcpy(s.step, along, sizeof s.step);
    bool wide = gems_max_offset(out->sizes, out->strides, out->ndim) >= MOST ||
                gems_max_offset(self->sizes, self->strides, self->ndim) >= MOST ||
                gems_max_offset(r->whole->sizes, r->whole->strides, r->whole->ndim) >= MOST ||
                (r->src && gems_max_offset(r->src->sizes, r->src->strides, r->src->ndim) >= MOST);
    for (int d = 0; d < r->lines.n; d++) {
        int at = r->lines.dim[d];
        sizes[d] = r->lines.size[d];
        own[0][d] = out->strides[at];
        own[1][d] = self->strides[at];
        own[2][d] = r->lines.index[0][d];
        own[3][d] = r->lines.src[d];
        if (d != w.along) continue;
        s.lanes = (int32_t)sizes[d];
        sizes[d] = (sizes[d] + w.lanes - 1) / w.lanes;
        for (int k = 0; k < 4; k++) {
            s.lane[k] = own[k][d];
            own[k][d] *= w.lanes;
        }
        own[4][d] = w.lanes;
    }
    const int64_t *strides[5] = {own[0], own[1], own[2], own[3], own[4]};
    gems_iter iter;
    gems_map map;
    gems_iter_make(&iter, sizes, r->lines.n, strides, 5);
    if (!gems_map_make(&iter, 0, 1, wide, &map)) return GEMS_OK;
    gems_key key = {.kernel = SCATTER_ROWS};
    gems_scatter_key(r, &key);
    key.flags |= (uint8_t)(wide ? GATHER_WIDE : 0);
    key.tune[TUNE_RANK] = map.ndim <= 2 ? 2 : 8;
    int threads = (int64_t)s.places * w.lanes <= 256 * OWN ? 256 : 512;
    key.tune[TUNE_THREADS] = (uint8_t)(threads / 32);
    key.tune[TUNE_LANES] = (uint8_t)w.lanes;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    bool beside = self->data != out->data;
    if (beside && !w.covers)
        GEMS_TRY(gems_scatter_start(call, self, (gems_view){out->data, out->strides, out->dtype}));
    int32_t local;
    void *flag, *out_data = out->data, *self_data = beside && w.covers ? self->data : NULL;
    void *src = r->src ? r->src->data : NULL, *index = (void *)(uintptr_t)r->data[0];
    uint64_t value[2] = {r->value[0], r->value[1]}, alpha[2] = {r->alpha[0], r->alpha[1]};
    GEMS_TRY(gems_range_open(call, &local, &flag));
    void *args[] = {&out_data, &self_data, &index, &src, map.bytes, &s, value, alpha, &flag};
    const uint32_t grid[3] = {gems_grid_for(info, map.n, 1), 1, 1};
    const uint32_t block[3] = {(uint32_t)threads, 1, 1};
    *done = true;
    GEMS_TRY(
        gems_call_launch(call, plan, 0, grid, block, (uint32_t)((w.bytes + 15) / 16 * 16), args));
    return gems_range_close(call, flag);
}

gems_status gems_scatter_add_rows(gems_call *call, bool *done) {
    scatter_request r;
    *done = false;
    GEMS_TRY(gems_scatter_ask_add(call, &r));
    if (!r.places.size[0] || !gems_scatter_fits(call, &r)) return GEMS_OK;
    if (gems_device_information(call->device)->arch && r.self->numel > GPU_MOST) return GEMS_OK;
    GEMS_TRY(gems_output(call, 0, r.self->ndim, r.self->sizes, NULL, r.self->dtype));
    GEMS_TRY(gems_scatter_rows(call, &r, done));
    return *done ? GEMS_OK : gems_decline("strides of the output");
}

void gems_scatter_rows_key(gems_key *key, int op) {
    key->kernel = SCATTER_ROWS;
    key->flags = (uint8_t)((key->flags & SCATTER_FILL) | SCATTER_VARIES);
    memset(key->tune, 0, sizeof key->tune);
    key->tune[TUNE_VECTOR] = key->tune[TUNE_COUNT] = key->tune[TUNE_LANES] = 1;
    key->tune[TUNE_RANK] = 2;
    key->tune[TUNE_OP] = (uint8_t)op;
    key->tune[TUNE_THREADS] = 16;
}

gems_status gems_scatter_rows_program(const gems_op *op, const gems_key *key, gems_program *p) {
    gems_scatter_head(key, p);
    gems_text_add(&p->head, "constexpr int kThreads = %d, kSide = %d;\n",
                  32 * key->tune[TUNE_THREADS], key->tune[TUNE_LANES]);
    p->files[0] = "index.cuh";
    p->files[1] = "scatter.cuh";
    p->files[2] = "scatter_rows.cu";
    p->entries[0] = "scatter_rows";
    p->entry_count = 1;
    snprintf(p->name, sizeof p->name, "%.*s %s in shared memory", (int)strcspn(op->schema, "("),
             op->schema, gems_dtype_name(key->dtype[0]));
    return GEMS_OK;
}
