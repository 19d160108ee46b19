/* Elements that go where index tensors say: scatter and its reductions, index_add, index_copy,
 * index_reduce, index_fill, index_put, put. Of equal destinations the last in the order of the
 * index wins; sums are made in that order. An index out of range is never followed. */
#include "scatter.h"

#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"
#include "modes.h"

#define THREADS    256
#define SHORT_LINE 32 /* places that one thread of a GPU does itself */
/* Elements from which a GPU leaves to ATen what does not gain by shared memory. */
#define GPU_MOST   (1 << 16)
#define GPU_PLACES (1 << 17) /* and places, where a place has less bytes than */
#define GPU_WIDTH  32
#define TOGETHER   4 /* lines that the fast cpu backend takes together */

/* How the fast cpu backend goes through lines and places, in the numbers of kernels/scatter.cu. */
enum { LINE_BY_LINE, PLACE_BY_PLACE, RUN_BY_RUN };

void gems_scatter_key(const scatter_request *r, gems_key *key) {
    bool set = r->op == SCATTER_SET;
    int flags = r->flags;
    if (!r->src) flags |= SCATTER_FILL;
    if (r->varies) flags |= SCATTER_VARIES;
    if (!r->include) flags |= SCATTER_EXCLUDE;
    if (r->mean) flags |= SCATTER_MEAN;
    if (r->wrap) flags |= SCATTER_WRAP;
    key->flags = (uint8_t)flags;
    key->dtype[0] = (uint8_t)(set ? gems_copy_carrier(r->self->dtype) : r->self->dtype);
    key->tune[TUNE_VECTOR] = 1;
    key->tune[TUNE_COUNT] = (uint8_t)r->count;
    key->tune[TUNE_OP] = (uint8_t)r->op;
}

static void add_truth(gems_program *program, const char *name, bool truth) {
    gems_text_add(&program->head, "constexpr bool %s = %s;\n", name, truth ? "true" : "false");
}

void gems_scatter_head(const gems_key *key, gems_program *program) {
    gems_gather_head(key, program);
    gems_text_add(&program->head,
                  "constexpr int kV = %d, kRank = %d, kCount = %d, kOp = %d, kWay = %d;\n",
                  key->tune[TUNE_VECTOR], key->tune[TUNE_RANK], key->tune[TUNE_COUNT],
                  key->tune[TUNE_OP], key->tune[TUNE_WAY]);
    add_truth(program, "kCheck", key->tune[TUNE_CHECK]);
    add_truth(program, "kUnit", key->tune[TUNE_UNIT]);
    add_truth(program, "kFill", key->flags & SCATTER_FILL);
    add_truth(program, "kVaries", key->flags & SCATTER_VARIES);
    add_truth(program, "kInclude", !(key->flags & SCATTER_EXCLUDE));
    add_truth(program, "kMean", key->flags & SCATTER_MEAN);
    add_truth(program, "kWrap", key->flags & SCATTER_WRAP);
}

gems_status gems_scatter_start(gems_call *call, const gems_tensor *self, gems_view to) {
    if (self->data == to.data) return GEMS_OK;
    return gems_copy_views(call, self->sizes, self->ndim, to,
                           (gems_view){self->data, self->strides, self->dtype});
}

/* ---- lines: a thread has all places of a line ---- */

/* One index with one stride along the places, and a source likewise. */
typedef struct {
    const void *index, *src;
    int64_t length, out_step, index_step, src_step, size;
    int64_t src_lines[GEMS_MAX_DIMS];
    bool checked, wrap;
    uint8_t flags;
} straight;

/* A copy of the source whose places lie one behind the other, each with its lines. */
static gems_status pack_source(gems_call *call, const scatter_request *r, straight *s) {
    int n = 0;
    int64_t sizes[GEMS_MAX_DIMS], from[GEMS_MAX_DIMS], to[GEMS_MAX_DIMS];
    for (int part = 0; part < 2; part++) {
        const scatter_dims *of = part ? &r->lines : &r->places;
        for (int d = 0; d < of->n; d++, n++) {
            if (n == GEMS_MAX_DIMS) return gems_decline("more dimensions than kernels take");
            sizes[n] = of->size[d];
            from[n] = of->src[d];
        }
    }
    gems_contiguous_strides(sizes, n, to);
    int dtype = r->src->dtype;
    void *data;
    GEMS_TRY(gems_scratch(call, (size_t)gems_numel(sizes, n) * gems_dtype_size(dtype), &data));
    GEMS_TRY(gems_copy_views(call, sizes, n, (gems_view){data, to, dtype},
                             (gems_view){r->src->data, from, dtype}));
    s->src = data;
    s->src_step = gems_numel(r->lines.size, r->lines.n);
    memcpy(s->src_lines, to + r->places.n, (size_t)r->lines.n * sizeof *to);
    return GEMS_OK;
}

static gems_status straighten(gems_call *call, const scatter_request *r, straight *s) {
    const gems_tensor *out = &call->out[0];
    const int64_t *strides[2] = {r->places.index[0], r->places.src};
    gems_iter iter;
    *s = (straight){.index = r->data[0],
                    .src = r->src ? r->src->data : NULL,
                    .size = r->size[0],
                    .wrap = r->wrap,
                    .flags = r->flags};
    s->length = gems_numel(r->places.size, r->places.n);
    memcpy(s->src_lines, r->lines.src, sizeof s->src_lines);
    s->out_step = r->dim[0] < 0 ? 1 : out->strides[r->dim[0]];
    gems_iter_ordered(&iter, r->places.size, r->places.n, strides, 2);
    if (iter.ndim == 1 && r->count == 1) {
        s->index_step = iter.stride[0][0];
        s->src_step = iter.stride[1][0];
        return GEMS_OK;
    }
    void *offsets;
    GEMS_TRY(gems_scratch(call, (size_t)s->length * sizeof(int64_t), &offsets));
    GEMS_TRY(gems_scatter_offsets(call, r, offsets));
    s->index = offsets;
    s->index_step = s->out_step = 1;
    s->size = INT64_MAX;
    s->wrap = false;
    s->checked = true;
    s->flags &= (uint8_t)~GATHER_INDEX32;
    gems_iter_ordered(&iter, r->places.size, r->places.n, strides + 1, 1);
    s->src_step = iter.stride[0][0];
    return iter.ndim == 1 || !r->src ? GEMS_OK : pack_source(call, r, s);
}

/* Before anything is written: every index of the call, once. */
static gems_status check(gems_call *call, const gems_plan *plan, const scatter_request *r,
                         const straight *s, bool wide) {
    const gems_device_info *info = gems_device_information(call->device);
    int n = r->varies ? r->lines.n : 0;
    int64_t sizes[GEMS_MAX_DIMS + 1], strides[GEMS_MAX_DIMS + 1];
    for (int d = 0; d < n; d++) {
        sizes[d] = r->lines.size[d];
        strides[d] = r->lines.index[0][d];
    }
    sizes[n] = s->length;
    strides[n++] = s->index_step;
    const int64_t *operand[1] = {strides};
    gems_iter iter;
    gems_map map;
    int32_t local;
    void *flag, *index = (void *)(uintptr_t)s->index;
    int64_t size = s->size;
    gems_iter_make(&iter, sizes, n, operand, 1);
    if (!gems_map_make(&iter, 0, 1, wide, &map))
        return gems_decline("more dimensions than the kernel takes");
    GEMS_TRY(gems_range_open(call, &local, &flag));
    const uint32_t grid[3] = {gems_grid_for(info, map.n, info->fast ? 32768 : THREADS), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    void *args[] = {&index, map.bytes, &size, &flag};
    GEMS_TRY(gems_call_launch(call, plan, 0, grid, block, 0, args));
    return gems_range_close(call, flag);
}

static gems_status run_lines(gems_call *call, const scatter_request *r) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *out = &call->out[0], *self = r->self;
    straight s;
    GEMS_TRY(straighten(call, r, &s));

    /* Halves are summed in float32, beside, and rounded once; so are sums whose mean is wanted. */
    int64_t contiguous[GEMS_MAX_DIMS];
    gems_view result = {out->data, out->strides, out->dtype}, sums = result;
    int opmath = gems_dtype_opmath(self->dtype);
    bool beside = r->op != SCATTER_SET && (opmath != self->dtype || r->mean);
    if (beside) {
        gems_contiguous_strides(out->sizes, out->ndim, contiguous);
        if (r->dim[0] >= 0 && !s.checked) s.out_step = contiguous[r->dim[0]];
        if (s.checked && memcmp(contiguous, out->strides, (size_t)out->ndim * sizeof *contiguous))
            return gems_decline("sums of halves in a tensor that is not contiguous");
        sums.strides = contiguous;
        sums.dtype = opmath;
        GEMS_TRY(gems_scratch(call, (size_t)out->numel * gems_dtype_size(opmath), &sums.data));
    }
    int64_t strides[3][GEMS_MAX_DIMS];
    for (int d = 0; d < r->lines.n; d++) {
        strides[0][d] = sums.strides[r->lines.dim[d]];
        strides[1][d] = r->varies ? r->lines.index[0][d] : 0;
        strides[2][d] = s.src_lines[d];
    }
    const int64_t *operands[3] = {strides[0], strides[1], strides[2]};
    gems_iter iter;
    gems_iter_make(&iter, r->lines.size, r->lines.n, operands, 3);
    int64_t most = gems_max_offset(out->sizes, out->strides, out->ndim);
    if (s.length * s.index_step > most) most = s.length * s.index_step;
    if (s.length * s.src_step > most) most = s.length * s.src_step;
    bool wide = gems_gather_needs_wide(&iter, most);
    int way = LINE_BY_LINE;
    int64_t run = iter.size[0], src_run = r->src ? iter.stride[2][0] : 0;
    if (info->fast && iter.numel >= TOGETHER && iter.stride[0][0] < s.out_step)
        way = r->varies || run < TOGETHER || iter.stride[0][0] != 1 || src_run > 1 || src_run < 0
                  ? PLACE_BY_PLACE
                  : RUN_BY_RUN;
    gems_map map;
    if (!gems_map_make(&iter, way == RUN_BY_RUN, 1, wide, &map))
        return gems_decline("more dimensions than the kernel takes");

    gems_key key = {.kernel = SCATTER_LINES};
    gems_scatter_key(r, &key);
    key.flags &= (uint8_t)~(GATHER_INDEX32 | SCATTER_WRAP);
    key.flags |= (uint8_t)(s.flags | (s.wrap ? SCATTER_WRAP : 0) | (wide ? GATHER_WIDE : 0));
    key.tune[TUNE_COUNT] = 1;
    key.tune[TUNE_RANK] = map.ndim <= 2 ? 2 : 8;
    key.tune[TUNE_WAY] = (uint8_t)way;
    key.tune[TUNE_UNIT] = s.out_step == 1 && s.index_step == 1 && (s.src_step == 1 || !r->src);
    /* A new output may be half written when a bad index is found, and is dropped. */
    bool cpu = call->device_type == GEMS_CPU, fresh = call->entry->variant == GEMS_FUNCTIONAL;
    key.tune[TUNE_CHECK] = !s.checked && (!cpu || fresh);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    if (cpu && !s.checked && !fresh) GEMS_TRY(check(call, plan, r, &s, wide));
    void *counts = NULL;
    if (r->mean) {
        int32_t one = 1;
        uint8_t bits[16] = {0};
        int64_t step = 1, numel = out->numel;
        if (r->include) memcpy(bits, &one, sizeof one);
        GEMS_TRY(gems_scratch(call, (size_t)numel * sizeof(int32_t), &counts));
        GEMS_TRY(gems_fill_view(call, &numel, 1, (gems_view){counts, &step, GEMS_I32}, bits));
    }
    GEMS_TRY(gems_scatter_start(call, self, sums));
    int32_t local;
    void *flag;
    GEMS_TRY(gems_range_open(call, &local, &flag));
    void *index = (void *)(uintptr_t)s.index, *src = (void *)(uintptr_t)s.src;
    uint64_t value[2] = {r->value[0], r->value[1]}, alpha[2] = {r->alpha[0], r->alpha[1]};
    int64_t per_block = info->fast ? 4096 / (s.length + 1) + 1 : THREADS, items = map.n;
    if (way == RUN_BY_RUN && map.n == 1) { /* the run is shared out, in lines that fill vectors */
        items = run;
        per_block = per_block < 64 ? 64 : per_block;
    }
    uint32_t grid[3] = {gems_grid_for(info, items, per_block), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    void *args[] = {&sums.data, &counts,     &index,        &src,        map.bytes,
                    &s.length,  &s.out_step, &s.index_step, &s.src_step, &s.size,
                    &run,       &src_run,    value,         alpha,       &flag};
    GEMS_TRY(gems_call_launch(call, plan, 1, grid, block, 0, args));
    GEMS_TRY(gems_range_close(call, flag));
    if (r->mean) {
        int64_t numel = out->numel;
        void *finish[] = {&sums.data, &counts, &numel};
        grid[0] = gems_grid_for(info, numel, info->fast ? 16384 : THREADS * 4);
        GEMS_TRY(gems_call_launch(call, plan, 2, grid, block, 0, finish));
    }
    return sums.data == result.data ? GEMS_OK
                                    : gems_copy_views(call, out->sizes, out->ndim, result, sums);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    scatter_request r;
    int64_t strides[GEMS_MAX_DIMS];
    GEMS_TRY(gems_scatter_ask(call, &r));
    const gems_tensor *self = r.self;
    if (info->arch && call->op->mode == GEMS_SCATTER && self->numel > GPU_MOST &&
        !gems_scatter_gains(call, &r))
        return gems_decline("a size at which ATen is faster on a GPU");
    int64_t width = gems_numel(r.lines.size, r.lines.n) * (int64_t)gems_dtype_size(self->dtype);
    if (info->arch && !r.varies && width < GPU_WIDTH &&
        gems_numel(r.places.size, r.places.n) > GPU_PLACES &&
        (r.op == SCATTER_SET || call->op->mode == GEMS_INDEX_ADD))
        return gems_decline("many single elements, which ATen is faster with on a GPU");
    if (r.preserve && !gems_format_strides(self, GEMS_FORMAT_PRESERVE, strides))
        return gems_decline("self's strides");
    GEMS_TRY(
        gems_output(call, 0, self->ndim, self->sizes, r.preserve ? strides : NULL, self->dtype));
    const gems_tensor *out = &call->out[0];
    if (!out->numel) {
        int64_t places = gems_numel(r.places.size, r.places.n);
        return places ? gems_decline("an index into no elements") : GEMS_OK;
    }
    if (r.dim[0] < 0 && !gems_is_contiguous(out))
        return gems_decline("the output is not contiguous");
    int64_t places = gems_numel(r.places.size, r.places.n);
    if (!places || !gems_numel(r.lines.size, r.lines.n))
        return gems_scatter_start(call, self, (gems_view){out->data, out->strides, out->dtype});
    if (info->fast || (r.count == 1 && r.places.n == 1 && places <= SHORT_LINE))
        return run_lines(call, &r);
    bool done;
    GEMS_TRY(gems_scatter_rows(call, &r, &done));
    if (done) return GEMS_OK;
    return r.op == SCATTER_SET ? gems_scatter_claim(call, &r) : gems_scatter_sort(call, &r);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    static const char *const entries[] = {"scatter_check", "scatter_lines", "scatter_finish"};
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, program);
    if (key->kernel == SCATTER_ROWS) return gems_scatter_rows_program(op, key, program);
    snprintf(program->name, sizeof program->name, "%.*s %s%s", (int)strcspn(op->schema, "("),
             op->schema, gems_dtype_name(key->dtype[0]),
             key->kernel == SCATTER_SORT    ? " sorted"
             : key->kernel == SCATTER_CLAIM ? " claimed"
                                            : "");
    if (key->kernel != SCATTER_LINES) return gems_scatter_places_program(key, program);
    gems_scatter_head(key, program);
    program->files[0] = "index.cuh";
    program->files[1] = "scatter.cuh";
    program->files[2] = "scatter.cu";
    for (int i = 0; i < 3; i++) program->entries[i] = entries[i];
    program->entry_count = 3;
    return GEMS_OK;
}

/* The i-th: lines, then the ways for long ones. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    int mode = op->mode, carrier = gems_copy_carrier(dtype);
    bool reduces =
        mode == GEMS_INDEX_ADD || mode == GEMS_INDEX_REDUCE || strstr(op->schema, "reduce");
    bool fill = strstr(op->schema, " value)") || strstr(op->schema, " value,");
    if (carrier == GEMS_NO_DTYPE || (reduces && !(GEMS_BIT(dtype) & GEMS_REAL_MASK))) return false;
    key->dtype[0] = (uint8_t)(reduces ? dtype : carrier);
    key->flags = (uint8_t)((fill ? SCATTER_FILL : 0) | (mode == GEMS_SCATTER ? SCATTER_VARIES : 0) |
                           (mode >= GEMS_INDEX_FILL ? SCATTER_WRAP : 0));
    key->tune[TUNE_VECTOR] = key->tune[TUNE_COUNT] = 1;
    key->tune[TUNE_RANK] = 2;
    key->tune[TUNE_OP] = reduces ? SCATTER_SUM : SCATTER_SET;
    bool rows = mode != GEMS_SCATTER && mode != GEMS_PUT;
    key->kernel = SCATTER_LINES;
    key->tune[TUNE_CHECK] = i == 0;
    key->tune[TUNE_WAY] = info->fast && rows ? RUN_BY_RUN : LINE_BY_LINE;
    key->tune[TUNE_UNIT] = info->fast && !rows;
    if (i == 1) {
        key->kernel = reduces ? SCATTER_SORT : SCATTER_CLAIM;
        key->tune[TUNE_VECTOR] = (uint8_t)(rows ? 16 / gems_dtype_size(key->dtype[0]) : 1);
    }
    if (i == 2) gems_scatter_rows_key(key, key->tune[TUNE_OP]);
    return i == 0 || (i <= (mode == GEMS_SCATTER ? 2 : 1) && !info->fast);
}

const gems_family gems_family_scatter = {
    .name = "scatter",
    .run = run,
    .program = program,
    .warm = warm,
    .strided_output = true,
};
