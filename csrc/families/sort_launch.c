/* Rows sorted: which kernel takes them, its geometry and its program. Nothing here knows operators.
 */
#include "sort.h"

#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"

#define OWN           4 /* kOwn in kernels/sort.cuh */
#define RADIX_BITS    8 /* kernels/radix.cuh */
#define RADIX_THREADS 512
#define ROW_THREADS   256       /* kThreads in kernels/sort_row.cu */
#define ROW_SIZE      1024      /* least elements of a row that are sorted by digits in a block */
#define FAR_THREADS   256       /* kThreads in kernels/select_far.cu */
#define FAR_LENGTH    (1 << 16) /* least elements of a row that blocks share */
#define FAR_CHUNK     2048      /* least elements of such a block */
#define SHORT         32        /* kShort in kernels/sort_fast.cu */

/* Items that a block sorts at once: as many as lie in 32 KiB. */
static int block_items(int dtype) { return gems_dtype_size(dtype) == 8 ? 2048 : 4096; }
/* Of rows from which some are selected: half as many threads, which have twice the registers. */
static int select_items(int dtype) { return block_items(dtype) / 2; }
/* Elements of a thread of a pass: fewer where tiles would be too few for the device. */
static int radix_items(const gems_sort_job *job, const gems_device_info *info) {
    int64_t all = job->lines.count * job->lines.n;
    if (all < (int64_t)info->processors * RADIX_THREADS * 8) return 4;
    return gems_dtype_size(job->dtype) == 8 ? 8 : 14;
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

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int64_t blocks,
                          uint32_t threads, uint32_t shared, void **args) {
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {threads, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, shared, args);
}

static gems_key key_of(const gems_sort_job *job, int kernel, int size) {
    gems_key key = {.kernel = (uint8_t)kernel, .flags = job->descending ? SORT_DESCENDING : 0};
    key.dtype[0] = (uint8_t)job->dtype;
    key.tune[SORT_TUNE_SIZE] = (uint8_t)size;
    key.tune[SORT_TUNE_WHAT] = (uint8_t)job->what;
    return key;
}

/* ---- one thread a block ---- */

static gems_status run_fast(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    gems_key key = key_of(job, SORT_FAST, 0);
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
    return launch(call, plan, 0, blocks, 1, 0, args);
}

/* ---- blocks of threads ---- */

static gems_status run_block(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    int size = log2_up(job->lines.n);
    gems_key key = key_of(job, SORT_BLOCK, size);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int group = (1 << size) / OWN, threads = group < 128 ? 128 : group, rows = threads / group;
    int64_t blocks = gems_grid_for(info, job->lines.count, rows);
    void *args[] = {&job->in, &job->values, &job->places, &job->lines, &job->limit, &job->rank};
    return launch(call, plan, 0, blocks, (uint32_t)threads, 0, args);
}

/* Eight elements a thread, or as many as a block of all digits leaves. */
static uint32_t row_threads(int size) { return 1 << size > 2048 ? 512 : 256; }

static gems_status run_row(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    int size = log2_up(job->lines.n);
    gems_key key = key_of(job, SORT_ROW, size);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {&job->in, &job->values, &job->places, &job->lines, &job->limit, &job->rank};
    return launch(call, plan, 0, gems_grid_for(info, job->lines.count, 1), row_threads(size), 0,
                  args);
}

static gems_status run_select(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    int size = job->what == SORT_WRITE ? log2_up(job->limit) : 2;
    gems_key key = key_of(job, SORT_SELECT, size);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {&job->in, &job->values, &job->places, &job->lines, &job->limit, &job->rank};
    return launch(call, plan, 0, gems_grid_for(info, job->lines.count, 1),
                  (uint32_t)select_items(job->dtype) / OWN, 0, args);
}

/* Rows too few to fill the device, a block each. */
static bool is_far(const gems_sort_job *job, const gems_device_info *info) {
    return job->what != SORT_WRITE && job->lines.n >= FAR_LENGTH &&
           job->lines.count < info->processors;
}

/* Twin of Found in kernels/select_far.cu. */
typedef struct found {
    uint64_t prefix;
    int32_t wanted, nans, count[1 << RADIX_BITS];
} found;

static gems_status run_far(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    gems_key key = key_of(job, SORT_FAR, 0);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    gems_lines *m = &job->lines;
    int64_t rows = m->count, parts = 8 * (int64_t)info->processors / rows;
    if (parts > m->n / FAR_CHUNK) parts = m->n / FAR_CHUNK;
    int32_t chunk = (int32_t)((m->n + parts - 1) / parts);
    int32_t chunks = (int32_t)((m->n + chunk - 1) / chunk);
    void *data;
    size_t states = (size_t)rows * sizeof(found);
    GEMS_TRY(gems_scratch(call, states + (size_t)(rows * chunks) * sizeof(int32_t), &data));
    void *equals = (char *)data + states;
    void *begin[] = {&data, &job->rank};
    GEMS_TRY(launch(call, plan, 0, rows, FAR_THREADS, 0, begin));
    for (int32_t shift = 8 * (int32_t)gems_dtype_size(job->dtype) - RADIX_BITS; shift >= 0;
         shift -= RADIX_BITS) {
        void *tally[] = {&job->in, &data, m, &chunk, &chunks, &shift};
        void *choose[] = {&data, m, &shift};
        GEMS_TRY(launch(call, plan, 1, rows * chunks, FAR_THREADS, 0, tally));
        GEMS_TRY(launch(call, plan, 2, rows, FAR_THREADS, 0, choose));
    }
    void *equal[] = {&job->in, &data, &equals, m, &chunk, &chunks};
    void *find[] = {&job->in, &job->values, &job->places, &data, &equals, m, &chunk, &chunks};
    GEMS_TRY(launch(call, plan, 3, rows * chunks, FAR_THREADS, 0, equal));
    return launch(call, plan, 4, rows * chunks, FAR_THREADS, 0, find);
}

/* The digits of all passes are counted at once; then a launch a pass, keys and places going from
 * one half of the scratch buffer to the other. */
static gems_status run_radix(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    gems_lines *m = &job->lines;
    int items = radix_items(job, info);
    gems_key key = key_of(job, SORT_RADIX, items);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    size_t width = gems_dtype_size(job->dtype), all = (size_t)(m->count * m->n);
    int32_t passes = (int32_t)width, tile = items * RADIX_THREADS, length = (int32_t)m->n;
    int32_t tiles = (int32_t)((m->n + tile - 1) / tile), parts = tiles;
    int64_t blocks = m->count * tiles, words = 1 + (blocks << RADIX_BITS);
    if (blocks >= INT32_MAX) return gems_decline("more blocks than a launch has");
    int64_t totals = (m->count * passes) << RADIX_BITS, clear = passes * words + totals / 2;
    size_t turns = (size_t)(m->count * passes + 7) / 8, key_words = (all * width + 3) / 4;
    void *data;
    GEMS_TRY(gems_scratch(call, 8 * ((size_t)clear + turns + key_words + all), &data));
    uint64_t *word = data;
    void *total = word + passes * words, *turn = word + clear, *keys = word + clear + turns;
    void *held = (uint64_t *)keys + key_words;
    while (parts > 1 && m->count * parts > 8 * (int64_t)info->processors) parts = (parts + 1) / 2;
    void *clear_args[] = {&data, &clear}, *count_args[] = {&job->in, &total, m, &parts};
    void *plan_args[] = {&total, &turn, &length};
    GEMS_TRY(launch(call, plan, 0, gems_grid_for(info, clear, 1024), 512, 0, clear_args));
    GEMS_TRY(launch(call, plan, 1, m->count * parts, RADIX_THREADS, 0, count_args));
    GEMS_TRY(launch(call, plan, 2, m->count, 1 << RADIX_BITS, 0, plan_args));
    for (int32_t pass = 0; pass < passes; pass++, word += words) {
        void *args[] = {&job->in,    &keys, &held,  &job->values, &job->places, m,
                        &job->limit, &word, &total, &turn,        &tiles,       &pass};
        GEMS_TRY(launch(call, plan, 3, blocks, RADIX_THREADS,
                        (uint32_t)tile * (uint32_t)(width + 4), args));
    }
    return GEMS_OK;
}

gems_status gems_sort_launch(gems_call *call, const gems_sort_job *given) {
    const gems_device_info *info = gems_device_information(call->device);
    gems_sort_job job = *given;
    if (info->fast) return run_fast(call, &job, info);
    int most = block_items(job.dtype);
    if (job.lines.n <= most)
        return job.lines.n > ROW_SIZE / 2 ? run_row(call, &job, info) : run_block(call, &job, info);
    if (is_far(&job, info)) return run_far(call, &job, info);
    if (job.what != SORT_WRITE || job.limit <= select_items(job.dtype))
        return run_select(call, &job, info);
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
    int dtype = key->dtype[0], size = 1 << key->tune[SORT_TUNE_SIZE];
    gems_text_add(&p->head, "typedef %s T;\n", gems_dtype_kernel(dtype));
    gems_text_add(&p->head, "constexpr bool kDescending = %s;\nconstexpr int kWhat = %d;\n",
                  key->flags & SORT_DESCENDING ? "true" : "false", key->tune[SORT_TUNE_WHAT]);
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
        gems_text_add(&p->head, "constexpr int kSize = %d, kThreads = %d;\n", size,
                      select_items(dtype) / OWN);
        p->entries[0] = "select_rows";
        break;
    case SORT_FAR:
        p->entries[0] = "begin";
        p->entries[1] = "tally";
        p->entries[2] = "choose";
        p->entries[3] = "equal";
        p->entries[4] = "find";
        p->entry_count = 5;
        break;
    case SORT_RADIX:
        gems_text_add(&p->head, "constexpr int kRadixThreads = %d, kItems = %d;\n", RADIX_THREADS,
                      key->tune[SORT_TUNE_SIZE]);
        p->entries[0] = "radix_clear";
        p->entries[1] = "sort_count";
        p->entries[2] = "sort_plan";
        p->entries[3] = "sort_place";
        p->entry_count = 4;
        p->files[1] = "lookback.cuh";
        p->files[2] = "radix.cuh";
        break;
    default: return gems_fail(GEMS_RUNTIME_ERROR, "no such kernel");
    }
    p->files[key->kernel == SORT_RADIX ? 3 : 1] = texts[key->kernel].file;
    snprintf(p->name, sizeof p->name, "%.*s %s %s", (int)strcspn(op->schema, "("), op->schema,
             texts[key->kernel].name, gems_dtype_name(dtype));
    return GEMS_OK;
}
