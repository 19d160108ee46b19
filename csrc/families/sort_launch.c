/* Rows sorted: which kernel takes them, its geometry and its program. Nothing here knows operators.
 */
#include "sort.h"

#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"

#define OWN         4    /* kOwn in kernels/sort.cuh */
#define RADIX_BITS  8    /* kernels/radix.cuh */
#define ROW_THREADS 256  /* kThreads in kernels/sort_row.cu */
#define ROW_SIZE    1024 /* least elements of a row that are sorted by digits in a block */
#define SHORT       32   /* kShort in kernels/sort_fast.cu */

/* Items that a block sorts at once: as many as lie in 32 KiB. */
static int block_items(int dtype) { return gems_dtype_size(dtype) == 8 ? 2048 : 4096; }

/* A pass: threads of a block, elements of a thread, how equal digits are found. */
typedef struct {
    int threads, items, match, look;
} radix_shape;

static radix_shape shape_of(int dtype) {
    int width = (int)gems_dtype_size(dtype);
    return (radix_shape){512, width == 8 ? 10 : width == 1 ? 12 : 14, 1, 4};
}

static void set_shape(gems_key *key, radix_shape s) {
    key->tune[SORT_TUNE_SIZE] = (uint8_t)s.items;
    key->tune[SORT_TUNE_THREADS] = (uint8_t)(s.threads / 32);
    key->tune[SORT_TUNE_HELD] = (uint8_t)(s.match | s.look << 1);
}

void gems_sort_radix_key(gems_key *key) { set_shape(key, shape_of(key->dtype[0])); }

/* Fewer elements where tiles would be too few for the device. */
static radix_shape radix_of(const gems_sort_job *job, const gems_device_info *info) {
    int64_t all = job->lines.count * job->lines.n;
    radix_shape s = shape_of(job->dtype);
    if (all < (int64_t)info->processors * 512 * 8) s.items = 4;
    return s;
}

static int log2_up(int64_t n) {
    int bits = 2;
    while ((INT64_C(1) << bits) < n) bits++;
    return bits;
}

bool gems_lines_make(gems_lines *lines, const int64_t *sizes, int ndim, int dim,
                     const int64_t *const strides[3]) {
    int64_t kept[GEMS_MAX_DIMS], own[3][GEMS_MAX_DIMS];
    const int64_t *all[3] = {own[0], own[1], own[2]};
    int rank = 0;
    memset(lines, 0, sizeof *lines);
    lines->n = ndim ? sizes[dim] : 1;
    for (int k = 0; k < 3; k++) lines->step[k] = ndim ? strides[k][dim] : 1;
    if (lines->n == 1) lines->step[0] = 1;
    for (int d = 0; d < ndim; d++) {
        if (d == dim) continue;
        kept[rank] = sizes[d];
        for (int k = 0; k < 3; k++) own[k][rank] = strides[k][d];
        rank++;
    }
    gems_iter iter;
    gems_iter_make(&iter, kept, rank, all, 3);
    lines->count = gems_numel(kept, rank);
    lines->ndim = iter.ndim;
    if (iter.ndim > SORT_DIMS || lines->n >= INT32_MAX - (1 << 20) || lines->count >= INT32_MAX)
        return false;
    for (int d = 0; d < iter.ndim; d++) {
        lines->div[d] = gems_fastdiv_make((uint32_t)(iter.size[d] ? iter.size[d] : 1));
        for (int k = 0; k < 3; k++) lines->start[d][k] = iter.stride[k][d];
    }
    return true;
}

gems_status gems_sort_kernel(gems_call *call, const gems_plan *plan, int entry, int64_t blocks,
                             uint32_t threads, uint32_t shared, void **args) {
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {threads, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, shared, args);
}

gems_key gems_sort_key(const gems_sort_job *job, int kernel, int size) {
    gems_key key = {.kernel = (uint8_t)kernel, .flags = job->descending ? SORT_DESCENDING : 0};
    key.dtype[0] = (uint8_t)job->dtype;
    key.tune[SORT_TUNE_SIZE] = (uint8_t)size;
    key.tune[SORT_TUNE_WHAT] = (uint8_t)job->what;
    return key;
}

/* ---- one thread a block ---- */

static gems_status run_fast(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    gems_key key = gems_sort_key(job, SORT_FAST, 0);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int64_t n = job->lines.n, blocks = gems_grid_for(info, job->lines.count, 16384 / n + 1);
    int64_t room = n;
    if (job->what == SORT_WRITE && job->limit <= SHORT)
        room = 2 * SHORT;
    else if (job->what == SORT_WRITE && 256 * job->limit < n)
        room = 2 * job->limit + 64;
    if (room > n) room = n;
    size_t item = gems_dtype_size(job->dtype) == 8 ? 16 : 8;
    void *scratch;
    GEMS_TRY(gems_scratch(call, 2 * item * (size_t)(room * blocks), &scratch));
    void *args[] = {&job->in,    &job->values, &job->places, &job->lines,
                    &job->limit, &job->rank,   &scratch,     &room};
    return gems_sort_kernel(call, plan, 0, blocks, 1, 0, args);
}

/* ---- blocks of threads ---- */

static gems_status run_block(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    int size = log2_up(job->lines.n);
    gems_key key = gems_sort_key(job, SORT_BLOCK, size);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int group = (1 << size) / OWN, threads = group < 128 ? 128 : group, rows = threads / group;
    int64_t blocks = gems_grid_for(info, job->lines.count, rows);
    void *args[] = {&job->in, &job->values, &job->places, &job->lines, &job->limit, &job->rank};
    return gems_sort_kernel(call, plan, 0, blocks, (uint32_t)threads, 0, args);
}

/* Eight elements a thread, or as many as a block of all digits leaves. */
static uint32_t row_threads(int size) { return 1 << size > 2048 ? 512 : 256; }

static gems_status run_row(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    int size = log2_up(job->lines.n);
    gems_key key = gems_sort_key(job, SORT_ROW, size);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {&job->in, &job->values, &job->places, &job->lines, &job->limit, &job->rank};
    return gems_sort_kernel(call, plan, 0, gems_grid_for(info, job->lines.count, 1),
                            row_threads(size), 0, args);
}

/* The digits of all passes are counted at once; then a launch a pass, keys and places going from
 * one half of the scratch buffer to the other. */
static gems_status run_radix(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    gems_lines *m = &job->lines;
    radix_shape shape = radix_of(job, info);
    gems_key key = gems_sort_key(job, SORT_RADIX, 0);
    set_shape(&key, shape);
    if (job->keys_only) key.flags |= SORT_KEYS_ONLY;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    size_t width = gems_dtype_size(job->dtype), all = (size_t)(m->count * m->n);
    int32_t passes = (int32_t)width, tile = shape.items * shape.threads, length = (int32_t)m->n;
    int32_t tiles = (int32_t)((m->n + tile - 1) / tile), parts = tiles;
    int64_t blocks = m->count * tiles, words = 1 + (blocks << RADIX_BITS);
    if (blocks >= INT32_MAX) return gems_decline("more blocks than a launch has");
    int64_t totals = (m->count * passes) << RADIX_BITS, clear = passes * words + totals / 2;
    size_t room = job->keys_only ? 0 : sizeof(int32_t); /* of a place */
    size_t turns = (size_t)(m->count * passes + 7) / 8, key_words = (all * width + 3) / 4;
    void *data;
    GEMS_TRY(gems_scratch(call, 8 * ((size_t)clear + turns + key_words + all * room / 4), &data));
    uint64_t *word = data;
    void *total = word + passes * words, *turn = word + clear, *keys = word + clear + turns;
    void *held = (uint64_t *)keys + key_words;
    while (parts > 1 && m->count * parts > 8 * (int64_t)info->processors) parts = (parts + 1) / 2;
    void *clear_args[] = {&data, &clear}, *count_args[] = {&job->in, &total, m, &parts};
    void *plan_args[] = {&total, &turn, &length};
    GEMS_TRY(gems_sort_kernel(call, plan, 0, gems_grid_for(info, clear, 1024), 512, 0, clear_args));
    GEMS_TRY(
        gems_sort_kernel(call, plan, 1, m->count * parts, (uint32_t)shape.threads, 0, count_args));
    GEMS_TRY(gems_sort_kernel(call, plan, 2, m->count, 1 << RADIX_BITS, 0, plan_args));
    for (int32_t pass = 0; pass < passes; pass++, word += words) {
        void *args[] = {&job->in,    &keys, &held,  &job->values, &job->places, m,
                        &job->limit, &word, &total, &turn,        &tiles,       &pass};
        GEMS_TRY(gems_sort_kernel(call, plan, 3, blocks, (uint32_t)shape.threads,
                                  (uint32_t)tile * (uint32_t)(width + room), args));
    }
    return GEMS_OK;
}

gems_status gems_sort_launch(gems_call *call, const gems_sort_job *given) {
    const gems_device_info *info = gems_device_information(call->device);
    gems_sort_job job = *given;
    if (info->fast) return run_fast(call, &job, info);
    int most = block_items(job.dtype);
    if (job.lines.n <= ROW_SIZE / 2) return run_block(call, &job, info);
    if (gems_sort_selects(&job)) return gems_sort_select(call, &job);
    if (job.lines.n <= most) return run_row(call, &job, info);
    return run_radix(call, &job, info);
}

/* ---- programs ---- */

gems_status gems_sort_program(const gems_op *op, const gems_key *key, gems_program *p) {
    static const struct {
        const char *name, *file;
    } texts[] = {[SORT_FAST] = {"rows by one thread", "sort_fast.cu"},
                 [SORT_BLOCK] = {"short rows", "sort_block.cu"},
                 [SORT_ROW] = {"rows of a block", "sort_row.cu"},
                 [SORT_RADIX] = {"long rows", "sort_radix.cu"},
                 [SORT_SELECT] = {"selected", "select.cu"},
                 [SORT_FAR] = {"selected of few rows", "select_far.cu"}};
    int dtype = key->dtype[0], size = 1 << key->tune[SORT_TUNE_SIZE], last = 1;
    gems_text_add(&p->head, "typedef %s T;\n", gems_dtype_kernel(dtype));
    gems_text_add(&p->head,
                  "constexpr bool kDescending = %s, kKeysOnly = %s;\nconstexpr int kWhat = %d;\n",
                  key->flags & SORT_DESCENDING ? "true" : "false",
                  key->flags & SORT_KEYS_ONLY ? "true" : "false", key->tune[SORT_TUNE_WHAT]);
    p->files[0] = "sort.cuh";
    p->entry_count = 1;
    switch (key->kernel) {
    case SORT_FAST: p->entries[0] = "sort_fast"; break;
    case SORT_BLOCK:
        gems_text_add(&p->head, "constexpr int kSize = %d, kThreads = %d;\n", size,
                      size / OWN < 128 ? 128 : size / OWN);
        p->entries[0] = "sort_block";
        break;
    case SORT_ROW:
        gems_text_add(&p->head, "constexpr int kSize = %d, kThreads = %d;\n", size,
                      (int)row_threads(key->tune[SORT_TUNE_SIZE]));
        p->entries[0] = "sort_row";
        break;
    case SORT_SELECT:
    case SORT_FAR: last = gems_sort_select_program(key, p); break;
    case SORT_RADIX:
        gems_text_add(&p->head,
                      "constexpr int kRadixThreads = %d, kItems = %d, kLook = %d;\nconstexpr bool "
                      "kMatchInMemory = %s;\n",
                      32 * key->tune[SORT_TUNE_THREADS], key->tune[SORT_TUNE_SIZE],
                      key->tune[SORT_TUNE_HELD] >> 1,
                      key->tune[SORT_TUNE_HELD] & 1 ? "true" : "false");
        p->entries[0] = "radix_clear";
        p->entries[1] = "sort_count";
        p->entries[2] = "sort_plan";
        p->entries[3] = "sort_place";
        p->entry_count = 4;
        p->files[1] = "lookback.cuh";
        p->files[2] = "radix.cuh";
        last = 3;
        break;
    default: return gems_fail(GEMS_RUNTIME_ERROR, "no such kernel");
    }
    p->files[last] = texts[key->kernel].file;
    snprintf(p->name, sizeof p->name, "%.*s %s %s", (int)strcspn(op->schema, "("), op->schema,
             texts[key->kernel].name, gems_dtype_name(dtype));
    return GEMS_OK;
}
