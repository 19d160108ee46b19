/* The model behind gems_matmul_configure. */
#include "matmul_config.h"
#include "../base/dtype.h"

typedef struct tile {
    int16_t m, n, k;
    uint8_t across_m, across_n, stages, pad, blocks;
} tile;

/* Largest first: of equal costs the first wins. The one for decoding (16 rows) stands before the
 * one that ties with it. */
static const tile mma_tiles[] = {
    {128, 256, 32, 2, 4, 3, 8, 1}, {128, 128, 32, 2, 2, 4, 8, 2}, {64, 128, 32, 2, 2, 4, 8, 2},
    {16, 128, 64, 1, 4, 4, 8, 2},  {64, 64, 64, 2, 2, 3, 8, 2},
};
static const tile fma_tiles[] = {{128, 128, 16, 8, 8, 2, 4, 1}, {64, 64, 16, 4, 4, 2, 4, 2}};

/* Of what has not 16 bits: a tile is as deep in bytes. */
static const tile word_tiles[] = {{128, 256, 16, 2, 4, 3, 8, 1},
                                  {128, 128, 16, 2, 2, 4, 8, 2},
                                  {64, 128, 16, 2, 2, 4, 8, 2},
                                  {64, 64, 32, 2, 2, 3, 8, 2}};
static const tile byte_tiles[] = {{128, 256, 64, 2, 4, 3, 8, 1},
                                  {128, 128, 64, 2, 2, 4, 8, 2},
                                  {64, 128, 64, 2, 2, 4, 8, 2},
                                  {64, 64, 128, 2, 2, 3, 8, 2}};
static const tile double_tiles[] = {{128, 128, 16, 2, 4, 3, 4, 1},
                                    {128, 64, 32, 4, 2, 3, 4, 1},
                                    {128, 64, 16, 4, 2, 4, 4, 1},
                                    {64, 64, 32, 2, 2, 3, 4, 2}};

#define COUNT(list) ((int)(sizeof(list) / sizeof *(list)))

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t op_size(int dtype) { return dtype == GEMS_F64 ? 8 : 4; }
static bool is_half(int dtype) { return dtype == GEMS_F16 || dtype == GEMS_BF16; }
/* Faithful CPU modes (arch 0) have the tensor cores of sm_80, and those of fp8. */
static bool has_cores(int arch) { return arch == 0 || arch >= 80; }
bool gems_matmul_has_tf32(int arch) { return has_cores(arch); }

static const tile *tiles_of(int dtype, int arch, bool tf32, int *count, int *kernel) {
    *kernel = GEMS_MATMUL_WIDE;
    if (is_half(dtype) && has_cores(arch)) {
        *kernel = GEMS_MATMUL_MMA;
        *count = COUNT(mma_tiles);
        return mma_tiles;
    }
    if (gems_dtype_size(dtype) == 1) {
        /* sm_90 and sm_100 multiply fp8 as halves there, which takes registers. */
        const int first = dtype != GEMS_I8 && arch >= 90 && arch < 120 ? 2 : 0;
        *count = COUNT(byte_tiles) - first;
        return byte_tiles + first;
    }
    if (dtype == GEMS_F32 && tf32) {
        *count = COUNT(word_tiles);
        return word_tiles;
    }
    if (dtype == GEMS_F64 && has_cores(arch)) {
        *count = COUNT(double_tiles);
        return double_tiles;
    }
    *kernel = GEMS_MATMUL_FMA;
    *count = dtype == GEMS_F64 ? 1 : COUNT(fma_tiles);
    return dtype == GEMS_F64 ? fma_tiles + 1 : fma_tiles;
}

/* Elements that are gathered one by one need the registers. */
bool gems_matmul_gathers(int dtype, int kernel, int tile_m, int tile_n, int feed_a, int feed_b) {
    if (kernel != GEMS_MATMUL_WIDE || op_size(dtype) > (int64_t)gems_dtype_size(dtype)) return true;
    if (dtype == GEMS_F64 && feed_a == GEMS_GATHER_ALONG_K && feed_b == GEMS_GATHER_ALONG_K)
        return tile_m == 128 && tile_n == 64;
    return tile_n <= 64 || most(feed_a, feed_b) <= GEMS_ALONG_LINES;
}

static uint32_t shared_of(const tile *t, bool mma, int dtype) {
    int64_t size = mma ? (int64_t)gems_dtype_size(dtype) : op_size(dtype),
            ring = (int64_t)t->stages * (t->m + t->n) * t->k * size;
    int64_t rows = mma ? t->across_m * 16 : t->m / (t->across_m / (16 / op_size(dtype)));
    return (uint32_t)most(ring, rows * (t->n + t->pad) * op_size(dtype));
}

static void take(const tile *t, int kernel, int dtype, gems_matmul_config *c) {
    const bool mma = kernel != GEMS_MATMUL_FMA;
    *c = (gems_matmul_config){
        .kernel = (uint8_t)kernel,
        .tile_k = (uint8_t)t->k,
        .across_m = t->across_m,
        .across_n = t->across_n,
        .stages = t->stages,
        .pad = t->pad,
        .blocks = t->blocks,
        .parts = {.tile_m = t->m, .tile_n = t->n, .split = 1, .group = 8, .batches = 1},
        .threads = mma ? t->across_m * t->across_n * 32u
                       : (uint32_t)(t->m / t->across_m * (t->n / t->across_n)),
        .shared = shared_of(t, mma, dtype),
    };
}

void gems_matmul_divide(const gems_matmul_shape *s, int64_t parts, gems_matmul_config *c) {
    c->parts.tiles_m = (int32_t)ceil_div(s->m, c->parts.tile_m);
    c->parts.tiles_n = (int32_t)ceil_div(s->n, c->parts.tile_n);
    c->parts.split_k = (int32_t)most(round_up(ceil_div(s->k, parts), c->tile_k), c->tile_k);
    c->parts.split = (int32_t)most(ceil_div(s->k, c->parts.split_k), 1);
    c->grid = s->batch * c->parts.tiles_m * c->parts.tiles_n * c->parts.split;
}

bool gems_matmul_candidate(int dtype, int arch, int i, gems_matmul_config *config) {
    int count, kernel;
    const tile *tiles = tiles_of(dtype, arch, false, &count, &kernel);
    if (i >= count && dtype == GEMS_F32 && has_cores(arch)) {
        i -= count;
        tiles = tiles_of(dtype, arch, true, &count, &kernel);
    }
    if (i < 0 || i >= count) return false;
    take(&tiles[i], kernel, dtype, config);
    return true;
}

/* A step along k costs the larger of its multiplications (1024 a cycle and processor) and of its
 * loads (32 elements a cycle), and, because the two overlap imperfectly, a quarter of the smaller;
 * a processor does one tile after another. */
static int64_t cost_of(const tile *t, int64_t tiles, int64_t processors) {
    int64_t products = (int64_t)t->m * t->n, loads = (int64_t)(t->m + t->n) * 32;
    return ceil_div(tiles, processors) * (most(products, loads) + least(products, loads) / 4);
}

/* Parts of k when there are too few tiles to fill the device. A part is at least 256 deep. */
static int64_t parts_of(int64_t k, int64_t tiles, int64_t outputs, int64_t processors) {
    if (tiles * 2 > processors || outputs > INT32_MAX / 2) return 1;
    return most(1, least(least(processors / tiles, k / 256), 32));
}

static void configure_tiles(const gems_matmul_shape *s, const gems_device_info *info,
                            gems_matmul_config *c) {
    int count, kernel;
    const tile *tiles = tiles_of(s->dtype, info->arch, s->tf32, &count, &kernel), *best = NULL;
    const bool mma = kernel != GEMS_MATMUL_FMA;
    int64_t processors = most(info->processors, 1), lowest = INT64_MAX;
    for (int i = 0; i < count; i++) {
        if (i + 1 < count && shared_of(&tiles[i], mma, s->dtype) > info->shared_bytes) continue;
        if (!gems_matmul_gathers(s->dtype, kernel, tiles[i].m, tiles[i].n, s->feed_a, s->feed_b))
            continue;
        int64_t blocks = s->batch * ceil_div(s->m, tiles[i].m) * ceil_div(s->n, tiles[i].n);
        int64_t cost = cost_of(&tiles[i], blocks, processors);
        if (cost < lowest) {
            lowest = cost;
            best = &tiles[i];
        }
    }
    take(best, kernel, s->dtype, c);
    gems_matmul_divide(s, 1, c);
    gems_matmul_divide(s, parts_of(s->k, c->grid, s->batch * s->m * s->n, processors), c);
}

/* ---- the fast mode of the cpu backend ---- */

#define PANEL_ROWS 12 /* a multiple of the register block's rows and columns on every CPU */
#define PANEL_COLS 32

/* Divides a matrix between workers: the division with the smallest perimeter, which is what each
 * has to pack; with `rows`, that into so many along its rows. */
static void divide(const gems_matmul_shape *s, int64_t workers, int64_t rows, int64_t unit_m,
                   int64_t unit_n, gems_matmul_config *c) {
    int64_t lowest = INT64_MAX;
    for (int64_t down = most(rows, 1); down <= (rows ? rows : workers); down++) {
        int64_t across = ceil_div(workers, down);
        int64_t m = round_up(ceil_div(s->m, down), unit_m),
                n = round_up(ceil_div(s->n, across), unit_n);
        int64_t cost = m * n + 8 * (m + n);
        if (cost < lowest) {
            lowest = cost;
            c->parts.tile_m = (int32_t)least(m, s->m);
            c->parts.tile_n = (int32_t)least(n, s->n);
        }
    }
    c->parts.tiles_m = (int32_t)ceil_div(s->m, c->parts.tile_m);
    c->parts.tiles_n = (int32_t)ceil_div(s->n, c->parts.tile_n);
}

void gems_matmul_fast(const gems_matmul_shape *s, const gems_device_info *info,
                      const gems_matmul_fast_option *option, gems_matmul_config *c) {
    /* A block's memory is its thread's own: what bounds it is the second cache. */
    int64_t size = op_size(s->dtype);
    int64_t room = most(info->shared_bytes, info->l2_bytes / 4 * 3) / size;
    double products = (double)s->batch * (double)s->m * (double)s->n * (double)most(s->k, 1);
    /* Another worker pays from about a million products on. */
    int64_t workers = most(s->workers ? s->workers : info->processors, 1);
    if (products < (double)workers * 1048576) workers = (int64_t)(products / 1048576) + 1;
    bool thin = gems_dtype_size(s->dtype) > 1 && s->m <= GEMS_MATMUL_THIN_ROWS &&
                option->depth == 0 && GEMS_MATMUL_THIN_ROWS * s->k <= least(room, 65536) &&
                (s->feed_b == GEMS_ALONG_K || (s->feed_b == GEMS_ALONG_LINES && s->n >= 64));
    const bool bytes = gems_dtype_size(s->dtype) == 1;
    *c = (gems_matmul_config){.kernel = bytes  ? GEMS_MATMUL_BYTES
                                        : thin ? GEMS_MATMUL_THIN
                                               : GEMS_MATMUL_PANEL,
                              .threads = 1};
    c->parts = (gems_matmul_parts){.tile_m = (int32_t)s->m,
                                   .tile_n = (int32_t)s->n,
                                   .tiles_m = 1,
                                   .tiles_n = 1,
                                   .split = 1,
                                   .group = 1,
                                   .batches = 1};
    if (s->batch >= workers)
        c->parts.batches = (int32_t)ceil_div(s->batch, workers);
    else if (thin)
        divide(s, ceil_div(workers, s->batch), option->rows, s->m, 128, c);
    else
        divide(s, ceil_div(workers, s->batch), option->rows, PANEL_ROWS, PANEL_COLS, c);
    c->parts.split_k = (int32_t)s->k;
    c->grid = ceil_div(s->batch, c->parts.batches) * c->parts.tiles_m * c->parts.tiles_n;
    if (thin) {
        c->shared = (uint32_t)(GEMS_MATMUL_THIN_ROWS * most(s->k, 1) * size);
        return;
    }
    /* A panel of B (32 columns) stays in the first cache; the packed blocks and the sums in the
     * second. */
    c->parts.panel_k = (int32_t)most(least(s->k, option->depth ? option->depth : 256), 1);
    c->parts.panel_m = (int32_t)least(20 * PANEL_ROWS, round_up(c->parts.tile_m, PANEL_ROWS));
    c->parts.panel_n = (int32_t)least(16 * PANEL_COLS, round_up(c->parts.tile_n, PANEL_COLS));
    int64_t wanted;
    for (;;) {
        wanted = (int64_t)(c->parts.panel_m + c->parts.panel_n) * c->parts.panel_k;
        if (s->k > c->parts.panel_k) wanted += (int64_t)c->parts.panel_m * c->parts.panel_n;
        if (wanted <= room || (c->parts.panel_n == PANEL_COLS && c->parts.panel_m == PANEL_ROWS))
            break;
        if (c->parts.panel_n > PANEL_COLS)
            c->parts.panel_n = (int32_t)round_up(c->parts.panel_n / 2, PANEL_COLS);
        else
            c->parts.panel_m = (int32_t)round_up(c->parts.panel_m / 2, PANEL_ROWS);
    }
    c->shared = (uint32_t)(wanted * size);
}

void gems_matmul_configure(const gems_matmul_shape *shape, const gems_device_info *info,
                           gems_matmul_config *config) {
    if (info->fast)
        gems_matmul_fast(shape, info, &(gems_matmul_fast_option){0}, config);
    else
        configure_tiles(shape, info, config);
}

gems_matmul_feed gems_matmul_choose_feed(const void *data, size_t element, int64_t batch,
                                         int64_t batch_stride, int64_t lines, int64_t line_stride,
                                         int64_t k, int64_t k_stride) {
    int64_t vector = (int64_t)(16 / element);
    bool aligned = (uintptr_t)data % 16 == 0 && (batch == 1 || batch_stride % vector == 0);
    bool along_k = k <= 1 || k_stride == 1, along_lines = lines <= 1 || line_stride == 1;
    if (along_k && aligned && (lines <= 1 || line_stride % vector == 0)) return GEMS_ALONG_K;
    if (along_lines && aligned && (k <= 1 || k_stride % vector == 0)) return GEMS_ALONG_LINES;
    if (along_k) return GEMS_GATHER_ALONG_K;
    if (along_lines) return GEMS_GATHER_ALONG_LINES;
    return k_stride <= line_stride ? GEMS_GATHER_ALONG_K : GEMS_GATHER_ALONG_LINES;
}
