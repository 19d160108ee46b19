/* Runs of equal elements: _unique2, unique_consecutive, and mode; of rows: runs_rows.c. Twin of
 * kernels/runs.cu.
 *
 * Elements that are to be unique wherever they stand are sorted first, as sort does; so are the
 * rows of mode. The first two have to wait for the number of runs before there is a result to write
 * to: they decline while a stream is captured.
 */
#include "runs.h"

#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"

/* Elements from which a GPU leaves unique without an inverse to ATen. */
#define GPU_MOST     (1 << 21)
#define THREADS      256
#define SCAN_THREADS 1024
#define WARP_ROW     1024 /* longest row of mode that a warp takes */

static int64_t tiles_of(int64_t n, bool fast) {
    int64_t tile = fast ? RUNS_FAST_TILE : RUNS_TILE;
    return (n + tile - 1) / tile;
}

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int64_t blocks,
                          uint32_t threads, void **args) {
    bool fast = gems_device_information(call->device)->fast;
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {fast ? 1 : threads, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, 0, args);
}

gems_status gems_runs_count(gems_call *call, gems_runs *r) {
    const gems_device_info *info = gems_device_information(call->device);
    int32_t tiles = r->tiles = (int32_t)tiles_of(r->n, info->fast), n = (int32_t)r->n;
    size_t starts = (size_t)(tiles + 1) * sizeof(int64_t), words = (size_t)tiles + (size_t)r->n;
    void *memory;
    GEMS_TRY(gems_scratch(call, starts + words * sizeof(int32_t), &memory));
    r->starts = memory;
    int32_t *counts = (int32_t *)((char *)memory + starts);
    r->firsts = counts + tiles;
    int64_t many = tiles, total;
    void *count_args[] = {&r->x, &r->flags, &counts, &r->starts, &n, &tiles};
    void *offset_args[] = {&counts, &r->starts, &many};
    GEMS_TRY(launch(call, r->plan, RUNS_COUNT, gems_grid_for(info, tiles, 1), THREADS, count_args));
    if (tiles > 1) GEMS_TRY(launch(call, r->plan, RUNS_OFFSETS, 1, SCAN_THREADS, offset_args));
    GEMS_TRY(gems_call_read(call, r->starts + tiles, sizeof total, &total));
    r->total = total;
    return GEMS_OK;
}

gems_status gems_runs_pick(gems_call *call, gems_runs *r, void *values, int64_t *inverse,
                           int64_t *lengths, bool firsts) {
    const gems_device_info *info = gems_device_information(call->device);
    int32_t n = (int32_t)r->n, total = (int32_t)r->total;
    int32_t *places = firsts || (lengths && !info->fast) ? r->firsts : NULL;
    int64_t *at_once = info->fast ? lengths : NULL;
    void *args[] = {&r->x,    &r->flags, &r->starts, &r->source, &values,
                    &inverse, &at_once,  &places,    &n,         &r->tiles};
    GEMS_TRY(launch(call, r->plan, RUNS_PICK, gems_grid_for(info, r->tiles, 1), THREADS, args));
    if (!lengths || info->fast) return GEMS_OK;
    void *length_args[] = {&places, &lengths, &n, &total};
    return launch(call, r->plan, RUNS_LENGTHS, gems_grid_for(info, total, THREADS), THREADS,
                  length_args);
}

gems_status gems_runs_contiguous(gems_call *call, const gems_tensor *t, const int64_t *sizes,
                                 const int64_t *strides, void **data) {
    gems_tensor seen = *t;
    int64_t wanted[GEMS_MAX_DIMS];
    seen.sizes = sizes;
    seen.strides = strides;
    *data = t->data;
    if (gems_is_contiguous(&seen)) return GEMS_OK;
    gems_contiguous_strides(sizes, t->ndim, wanted);
    GEMS_TRY(gems_scratch(call, (size_t)t->numel * gems_dtype_size(t->dtype), data));
    return gems_copy_views(call, sizes, t->ndim, (gems_view){*data, wanted, t->dtype},
                           (gems_view){t->data, strides, t->dtype});
}

/* ---- _unique2, unique_consecutive without a dim ---- */

/* n elements in order, and where each was (places wanted); both in one scratch buffer. */
static gems_status sort_all(gems_call *call, gems_runs *r, int dtype, bool places) {
    int64_t one = 1, n = r->n;
    const int64_t *strides[3] = {&one, &one, &one};
    size_t values = ((size_t)n * gems_dtype_size(dtype) + 7) / 8 * 8;
    gems_sort_job job = {
        .dtype = dtype, .what = SORT_WRITE, .keys_only = !places, .limit = n, .in = (void *)r->x};
    if (!gems_lines_make(&job.lines, &n, 1, 0, strides))
        return gems_decline("more elements than the kernels take");
    void *memory;
    GEMS_TRY(gems_scratch(call, values + (places ? (size_t)n * sizeof(int64_t) : 0), &memory));
    job.values = memory;
    job.places = places ? (char *)memory + values : NULL;
    r->x = memory;
    r->source = job.places;
    return gems_sort_launch(call, &job);
}

static gems_status run_flat(gems_call *call, bool sorts, bool inverse, bool counts) {
    const gems_tensor *self = gems_arg_tensor(call, 0);
    int64_t none = 0;
    gems_runs r = {.n = self->numel};
    gems_key key = {.kernel = RUNS_FLAT};
    key.dtype[0] = self->dtype;
    if (self->numel) {
        if (sorts && !inverse && call->device_type != GEMS_CPU && self->numel > GPU_MOST)
            return gems_decline("a size at which ATen is faster on a GPU");
        if (self->numel >= INT32_MAX - (1 << 20))
            return gems_decline("more elements than the kernels take");
        GEMS_TRY(gems_call_readable(call));
        GEMS_TRY(gems_call_plan(call, &key, &r.plan));
        void *data;
        GEMS_TRY(gems_runs_contiguous(call, self, self->sizes, self->strides, &data));
        r.x = data;
        if (sorts) GEMS_TRY(sort_all(call, &r, self->dtype, inverse));
        GEMS_TRY(gems_runs_count(call, &r));
    }
    GEMS_TRY(gems_output(call, 0, 1, &r.total, NULL, self->dtype));
    GEMS_TRY(gems_output(call, 1, inverse ? self->ndim : 1, inverse ? self->sizes : &none, NULL,
                         GEMS_I64));
    GEMS_TRY(gems_output(call, 2, 1, counts ? &r.total : &none, NULL, GEMS_I64));
    if (!r.total) return GEMS_OK;
    return gems_runs_pick(call, &r, call->out[0].data, inverse ? call->out[1].data : NULL,
                          counts ? call->out[2].data : NULL, false);
}

/* ---- _unique2 of bytes: they are counted ---- */

typedef struct {
    uint8_t value[256], rank[256];
} table; /* twin of Table in kernels/runs.cu */

/* The bytes that are there, in the order of the dtype. */
static int32_t make_table(const uint64_t counts[256], int dtype, table *t) {
    int32_t total = 0;
    memset(t, 0, sizeof *t);
    for (int i = 0; i < 256; i++) {
        int byte = dtype == GEMS_I8 ? i ^ 128 : i;
        if (!counts[byte]) continue;
        t->value[total] = (uint8_t)byte;
        t->rank[byte] = (uint8_t)total++;
    }
    return total;
}

static gems_status run_bytes(gems_call *call, bool inverse, bool lengths) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *self = gems_arg_tensor(call, 0);
    const gems_plan *plan;
    gems_key key = {.kernel = RUNS_BYTES};
    int64_t n = self->numel, none = 0, total, bins = 256, one = 1;
    uint64_t read[256];
    const uint8_t zero[16] = {0};
    table t;
    void *x, *counts;
    key.dtype[0] = self->dtype;
    if (n >= UINT32_MAX) return gems_decline("more elements than the kernels take");
    GEMS_TRY(gems_call_readable(call));
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    GEMS_TRY(gems_runs_contiguous(call, self, self->sizes, self->strides, &x));
    GEMS_TRY(gems_scratch(call, sizeof read, &counts));
    GEMS_TRY(gems_fill_view(call, &bins, 1, (gems_view){counts, &one, GEMS_I64}, zero));
    int64_t blocks = gems_grid_for(info, n, info->fast ? 65536 : THREADS * 16);
    void *count_args[] = {&x, &counts, &n};
    GEMS_TRY(launch(call, plan, 0, blocks, THREADS, count_args));
    GEMS_TRY(gems_call_read(call, counts, sizeof read, read));
    int32_t found = make_table(read, self->dtype, &t);
    total = found;
    GEMS_TRY(gems_output(call, 0, 1, &total, NULL, self->dtype));
    GEMS_TRY(gems_output(call, 1, inverse ? self->ndim : 1, inverse ? self->sizes : &none, NULL,
                         GEMS_I64));
    GEMS_TRY(gems_output(call, 2, 1, lengths ? &total : &none, NULL, GEMS_I64));
    void *no = NULL;
    void *args[] = {&x,
                    &counts,
                    &t,
                    &call->out[0].data,
                    inverse ? &call->out[1].data : &no,
                    lengths ? &call->out[2].data : &no,
                    &n,
                    &found};
    return launch(call, plan, 1, inverse ? blocks : 1, THREADS, args);
}

/* ---- mode ---- */

static gems_status run_mode(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *self = gems_arg_tensor(call, 0);
    int dim = gems_wrap_dim(gems_arg_int(call, 1), self->ndim), ndim = 0;
    bool keepdim = gems_arg_int(call, 2) != 0;
    if (dim < 0) return gems_decline("dim out of range");
    int64_t n = self->ndim ? self->sizes[dim] : 1, sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS];
    if (!n) return gems_decline("the mode of nothing");
    int64_t rows = self->numel / n, step = n;
    for (int d = self->ndim - 1; d >= 0; d--) { /* the rows one behind the other */
        strides[d] = d == dim ? 1 : step;
        if (d != dim) step *= self->sizes[d] ? self->sizes[d] : 1;
    }
    for (int d = 0; d < self->ndim; d++)
        if (d != dim || keepdim) sizes[ndim++] = d == dim ? 1 : self->sizes[d];
    const int64_t *all[3] = {self->strides, strides, strides};
    gems_sort_job job = {.dtype = self->dtype, .what = SORT_WRITE, .limit = n, .in = self->data};
    if (self->numel && !gems_lines_make(&job.lines, self->sizes, self->ndim, dim, all))
        return gems_decline("more dimensions or elements than the kernels take");
    gems_key key = {.kernel = RUNS_MODE};
    const gems_plan *plan;
    key.dtype[0] = self->dtype;
    key.flags = n > WARP_ROW ? RUNS_WHOLE : 0;
    if (self->numel) GEMS_TRY(gems_call_plan(call, &key, &plan));
    GEMS_TRY(gems_output(call, 0, ndim, sizes, NULL, self->dtype));
    GEMS_TRY(gems_output(call, 1, ndim, sizes, NULL, GEMS_I64));
    if (!call->out[0].numel) return GEMS_OK;
    size_t values = ((size_t)self->numel * gems_dtype_size(self->dtype) + 7) / 8 * 8;
    void *memory;
    GEMS_TRY(gems_scratch(call, values + (size_t)self->numel * sizeof(int64_t), &memory));
    job.values = memory;
    job.places = (char *)memory + values;
    GEMS_TRY(gems_sort_launch(call, &job));
    int32_t length = (int32_t)n;
    void *args[] = {&job.values,        &job.places, &call->out[0].data,
                    &call->out[1].data, &rows,       &length};
    int64_t per_block = info->fast ? 16384 / n + 1 : key.flags & RUNS_WHOLE ? 1 : THREADS / 32;
    return launch(call, plan, 0, gems_grid_for(info, rows, per_block), THREADS, args);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0);
    if (!self) return gems_decline("self is no tensor");
    if (self->dtype >= GEMS_DTYPES || !(call->op->dtypes & GEMS_BIT(self->dtype)))
        return gems_decline("the dtype");
    switch (call->op->mode) {
    case GEMS_UNIQUE:
        if (gems_dtype_size(self->dtype) == 1 && self->numel)
            return run_bytes(call, gems_arg_int(call, 2) != 0, gems_arg_int(call, 3) != 0);
        return run_flat(call, true, gems_arg_int(call, 2) != 0, gems_arg_int(call, 3) != 0);
    case GEMS_UNIQUE_CONSECUTIVE: {
        bool flat = gems_arg_none(call, 3) || (self->ndim == 1 && gems_arg_int(call, 3) == 0);
        bool inverse = gems_arg_int(call, 1) != 0, counts = gems_arg_int(call, 2) != 0;
        return flat ? run_flat(call, false, inverse, counts)
                    : gems_runs_rows(call, gems_arg_int(call, 3), false, inverse, counts);
    }
    case GEMS_UNIQUE_DIM:
        return gems_runs_rows(call, gems_arg_int(call, 1), true, gems_arg_int(call, 3) != 0,
                              gems_arg_int(call, 4) != 0);
    case GEMS_UNIQUE_DIM_CONSECUTIVE:
        return gems_runs_rows(call, gems_arg_int(call, 1), false, gems_arg_int(call, 2) != 0,
                              gems_arg_int(call, 3) != 0);
    default: return run_mode(call);
    }
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    static const char *const entries[] = {"run_count", "offsets",    "run_pick",   "run_lengths",
                                          "rows_sort", "rows_merge", "rows_flags", "rows_gather"};
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, p);
    if (key->kernel < RUNS_FLAT) return gems_sort_program(op, key, p);
    bool mode = key->kernel == RUNS_MODE;
    gems_text_add(&p->head, "typedef %s T;\n", gems_dtype_kernel(key->dtype[0]));
    if (mode) {
        gems_text_add(&p->head, "#define MODE 1\nconstexpr bool kWhole = %s;\n",
                      key->flags & RUNS_WHOLE ? "true" : "false");
        p->files[0] = "runs.cu";
        p->entries[0] = "longest_runs";
        p->entry_count = 1;
    } else if (key->kernel == RUNS_BYTES) {
        gems_text_add(&p->head, "#define BYTES 1\n");
        p->files[0] = "runs.cu";
        p->entries[0] = "byte_count";
        p->entries[1] = "byte_pick";
        p->entry_count = 2;
    } else {
        bool rows = key->kernel == RUNS_ROWS;
        gems_text_add(&p->head,
                      "#define RUNS 1\ntypedef int32_t Count;\nconstexpr bool kRows = %s;\n"
                      "constexpr int kTile = gems::kFast ? %d : %d;\n",
                      rows ? "true" : "false", RUNS_FAST_TILE, RUNS_TILE);
        if (rows)
            gems_text_add(&p->head, "constexpr bool kDescending = false, kKeysOnly = false;\n"
                                    "constexpr int kWhat = 0;\n");
        int files = 0;
        p->files[files++] = "offsets.cuh";
        if (rows) p->files[files++] = "sort.cuh";
        p->files[files++] = "runs.cu";
        if (rows) p->files[files++] = "runs_rows.cu";
        p->entry_count = rows ? 8 : RUNS_OF_ROWS;
        for (int i = 0; i < p->entry_count; i++) p->entries[i] = entries[i];
    }
    snprintf(p->name, sizeof p->name, "%.*s %s", (int)strcspn(op->schema, "("), op->schema,
             gems_dtype_name(key->dtype[0]));
    return GEMS_OK;
}

/* The runs, and the sort of a few and of many elements. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    bool mode = op->mode == GEMS_MODE;
    if (op->mode >= GEMS_UNIQUE_CONSECUTIVE && op->mode <= GEMS_UNIQUE_DIM_CONSECUTIVE) {
        key->dtype[0] = (uint8_t)dtype;
        key->kernel = i == 0 ? RUNS_ROWS : RUNS_FLAT;
        return i < (op->mode == GEMS_UNIQUE_CONSECUTIVE ? 2 : 1);
    }
    if (op->mode == GEMS_UNIQUE && gems_dtype_size(dtype) == 1) {
        key->dtype[0] = (uint8_t)dtype;
        key->kernel = RUNS_BYTES;
        return i == 0;
    }
    if (i >= (info->fast ? 2 : 3)) return false;
    key->dtype[0] = (uint8_t)dtype;
    key->kernel = i == 0       ? (mode ? RUNS_MODE : RUNS_FLAT)
                  : info->fast ? SORT_FAST
                  : i == 1     ? SORT_BLOCK
                               : SORT_RADIX;
    if (key->kernel == SORT_BLOCK) key->tune[SORT_TUNE_SIZE] = 10;
    if (key->kernel == SORT_RADIX) {
        gems_sort_radix_key(key);
        key->flags = mode ? 0 : SORT_KEYS_ONLY;
    }
    return true;
}

const gems_family gems_family_runs = {.name = "runs", .run = run, .program = program, .warm = warm};
