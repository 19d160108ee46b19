/* The matrix product of sm_90a: which products it takes, its tiles, and the maps of its operands.
 */
#include "matmul_config.h"
#include "../base/dtype.h"

/* What of the products that the kernel can do it runs on a GPU. Where it is false ATen's kernel, or
 * a kernel of other devices, has the product. Measured: benchmarks/matmul_shapes.py. */
#define RUNS_ON_A_GPU true
/* Multiplications below which a product is left to the kernels of other devices: what it needs to
 * begin is longer than theirs. */
#define SMALL         (INT64_C(1) << 22)
/* Pairs of blocks that share B. Without them every block brings its own. */
#define CLUSTERS      true
/* Clusters whose blocks have parts of k. */
#define SHARED_K      true

#define TILE_M 128
#define STEP   128  /* bytes of k in a tile */
#define THIN   64   /* columns up to which a product is bound by reading A */
#define SLACK  1024 /* to begin the ring at a multiple of so many bytes */

/* Boxes of 16 rows and 64 columns, of 2048 bytes, in which each of the eight warps that multiply
 * leaves results until copies have read them. Four take a whole tile of 256 columns, and a stage of
 * the ring. */
#define BUFFERS        4
/* Bytes through which results are written: the sums of a thin tile; boxes, or slabs. */
#define BOXES(buffers) ((uint32_t)(buffers) * 8 * 2048)
#define STAGED(tile_m, tile_n, thin, buffers)                            \
    ((thin)                   ? (uint32_t)(tile_n) * ((tile_m) + 32) * 4 \
     : BOXES(buffers) > 18432 ? BOXES(buffers)                           \
                              : 18432u)

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static bool by_copies(int feed) { return feed == GEMS_ALONG_K || feed == GEMS_ALONG_LINES; }

bool gems_matmul_wgmma_takes(const gems_matmul_shape *s, const gems_device_info *info) {
    const bool half = s->dtype == GEMS_F16 || s->dtype == GEMS_BF16;
    if (!info->hopper || s->dtype == GEMS_F64 || (s->dtype == GEMS_F32 && !s->tf32)) return false;
    /* Of float32 one operand may lie along its lines, which is A when sides have been exchanged. */
    if (!half && s->feed_a != GEMS_ALONG_K && s->feed_b != GEMS_ALONG_K) return false;
    if (gems_dtype_size(s->dtype) == 1 && s->feed_a != s->feed_b) return false;
    if (!by_copies(s->feed_a) || !by_copies(s->feed_b) || s->k < 1) return false;
    if (!info->arch) return true; /* a CPU that plays the device */
    return RUNS_ON_A_GPU && (double)s->batch * (double)s->m * (double)s->n * (double)s->k >= SMALL;
}

bool gems_matmul_wgmma_exchanges(const gems_matmul_shape *s, bool *thin) {
    *thin = gems_dtype_size(s->dtype) == 2 && least(s->m, s->n) <= THIN;
    return *thin && s->m < s->n;
}

static uint32_t stage_bytes(int tile_m, int tile_n) { return (uint32_t)(tile_m + tile_n) * STEP; }

/* A tile of a block, which is not the pair's, and how many of such blocks a processor is to hold.
 */
typedef struct tile {
    uint16_t tile_m, tile_n;
    uint8_t cluster;
    bool thin;
    uint8_t blocks;
} tile;

static void take(const gems_device_info *info, int dtype, const tile *t, int cluster,
                 gems_matmul_config *c) {
    const int tile_m = t->tile_m, tile_n = t->tile_n;
    const int buffers = tile_n / 64 < BUFFERS ? (tile_n < 64 ? 1 : tile_n / 64) : BUFFERS;
    const uint32_t staged = STAGED(tile_m, tile_n, t->thin, buffers);
    /* A processor has a KB more than a block may have, and takes one for itself of each block. */
    const int64_t room = (info->shared_bytes + 1024) / t->blocks - 1024;
    int64_t stages = (room - SLACK - 256 - staged) / stage_bytes(tile_m, tile_n);
    stages = most(least(stages, 12), 1);
    *c = (gems_matmul_config){
        .kernel = GEMS_MATMUL_WGMMA,
        .tile_k = (uint8_t)(STEP / gems_dtype_size(dtype)),
        .stages = (uint8_t)stages,
        .pad = (uint8_t)buffers,
        .cluster = (uint8_t)cluster,
        .thin = t->thin,
        .blocks = t->blocks,
        .parts = {.tile_m = tile_m * (t->thin ? 1 : cluster),
                  .tile_n = tile_n,
                  .split = 1,
                  .group = 8,
                  .batches = 1},
        .threads = 128 + (uint32_t)tile_m * 2,
        .shared = (uint32_t)stages * (stage_bytes(tile_m, tile_n) + 16) + staged + SLACK,
    };
}

static const tile tiles[] = {
    {128, 256, 2, false, 1}, {128, 256, 1, false, 1}, {128, 128, 2, false, 1},
    {128, 128, 1, false, 1}, {128, 64, 1, false, 1},  {128, 128, 2, true, 1},
    {128, 64, 1, true, 1},   {128, 64, 2, true, 1},   {128, 32, 1, true, 1},
    {128, 32, 2, true, 1},   {128, 16, 1, true, 1},   {128, 16, 2, true, 1},
    {64, 64, 2, true, 2},    {64, 32, 2, true, 2},    {64, 16, 2, true, 2},
    {64, 64, 1, true, 2},    {64, 32, 1, true, 2},    {64, 16, 1, true, 2}};
#define TILES ((int)(sizeof tiles / sizeof *tiles))

/* Whether a tile is one of those of a dtype. */
static bool fits(bool thin, int tile_n, int dtype, bool promotes) {
    return gems_dtype_size(dtype) == 2 || (!thin && (!promotes || tile_n < 256));
}

bool gems_matmul_wgmma_candidate(const gems_device_info *info, int dtype, int i,
                                 gems_matmul_config *config) {
    if (!info->hopper || i < 0) return false;
    /* Then those of any cluster in the others. */
    for (int cluster = 2; cluster <= 8; cluster++) {
        for (int t = 0; t < TILES; t++) {
            if (!fits(tiles[t].thin, tiles[t].tile_n, dtype, false)) continue;
            if (cluster > 2 && (!tiles[t].thin || tiles[t].cluster == 1)) continue;
            if (i-- == 0) {
                take(info, dtype, &tiles[t], cluster > 2 ? cluster : tiles[t].cluster, config);
                return true;
            }
        }
    }
    return false;
}

/* Divides a product into tiles, and k into `parts` of whole steps. Returns the number of tiles. */
static int64_t divide(const gems_matmul_shape *s, int64_t parts, gems_matmul_config *c) {
    c->parts.tiles_m = (int32_t)ceil_div(s->m, c->parts.tile_m);
    c->parts.tiles_n = (int32_t)ceil_div(s->n, c->parts.tile_n);
    c->parts.split_k = (int32_t)(ceil_div(ceil_div(s->k, parts), c->tile_k) * c->tile_k);
    c->parts.split = (int32_t)ceil_div(s->k, c->parts.split_k);
    return s->batch * c->parts.tiles_m * c->parts.tiles_n;
}

void gems_matmul_wgmma_divide(const gems_matmul_shape *s, const gems_device_info *info,
                              int64_t parts, gems_matmul_config *c) {
    if (c->thin && c->cluster > 1) {
        const int64_t count = divide(s, c->cluster, c);
        c->parts.split = 1;
        c->parts.share = c->cluster;
        c->grid = count * c->cluster;
        return;
    }
    const int64_t blocks = c->thin ? 1 : c->cluster, count = divide(s, parts, c) * c->parts.split;
    c->grid = least(count, most(info->processors * c->blocks / blocks, 1)) * blocks;
}

bool gems_matmul_wgmma_allows(const gems_matmul_shape *s, const gems_device_info *info,
                              const gems_matmul_config *c) {
    if (!fits(c->thin, c->parts.tile_n, s->dtype, s->promotes)) return false;
    /* On a CPU no box is copied to two blocks. */
    if (c->cluster > 1 && !(c->thin ? SHARED_K : CLUSTERS && info->arch)) return false;
    if (s->n > THIN || gems_dtype_size(s->dtype) != 2)
        return !c->thin || (c->parts.tile_n >= 64 && c->cluster > 1);
    return c->thin && (s->feed_b != GEMS_ALONG_LINES || c->parts.tile_n >= 64);
}

/* Parts of k when there are too few tiles to fill the device. A part is at least 256 deep. */
static int64_t parts_of(const gems_matmul_shape *s, int64_t tiles_count, int64_t slots) {
    if (tiles_count * 2 > slots || s->batch * s->m * s->n > INT32_MAX / 2) return 1;
    return most(least(least(slots / tiles_count, s->k / 256), 32), 1);
}

/* Cycles of a thin product whose parts of k are added by a second launch. The memory brings A, and
 * the second cache A again for every further tile of columns and B for every tile of rows, at twice
 * the speed; less where blocks are few, or where some processors have one more than others. No
 * block takes more than 56 bytes a cycle. Fitted to times of an H200. */
static int64_t thin_cycles(const gems_matmul_shape *s, const gems_device_info *info,
                           const gems_matmul_config *c) {
    const int64_t processors = most(info->processors, 1), outputs = s->batch * s->m * s->n,
                  parts = c->parts.split, tile_m = c->parts.tile_m, tile_n = c->parts.tile_n,
                  tiles_m = s->batch * c->parts.tiles_m, tiles_n = c->parts.tiles_n,
                  units = tiles_m * tiles_n * parts, beside = ceil_div(units, processors),
                  steps = c->parts.split_k / c->tile_k;
    const int64_t bytes = (tiles_m * tile_m * (tiles_n + 1) + tiles_m * tiles_n * tile_n) * s->k,
                  few = units < processors ? 35 * (processors - units)
                                           : 25 * (beside * processors - units);
    const int64_t read =
                      bytes / (processors * 35 / 2) * (100 * processors + few) / (100 * processors),
                  brought = beside * steps * (tile_m + tile_n) * STEP / 56;
    return most(read, brought) + 4200 + 20 * tile_n +
           (parts > 1 ? 5000 + (outputs * parts * 3 / 4 + outputs * 3) / processors : 0);
}

/* Parts of k by a second launch, as the model has them. */
static void split_thin(const gems_matmul_shape *s, const gems_device_info *info, int width,
                       gems_matmul_config *c) {
    int64_t lowest = INT64_MAX;
    for (int i = 0; i < TILES; i++) {
        gems_matmul_config tried;
        if (!tiles[i].thin || tiles[i].tile_n > width || tiles[i].cluster > 1) continue;
        for (int p = 1; p <= 32; p++) {
            take(info, s->dtype, &tiles[i], 1, &tried);
            if (!gems_matmul_wgmma_allows(s, info, &tried)) break;
            /* Tiles beside each other read the same of A: they are to do it together. */
            if (s->n > tried.parts.tile_n) tried.parts.group = 2;
            const int64_t count = divide(s, 1, &tried);
            if (p > parts_of(s, count, 2 * (int64_t)info->processors)) break;
            gems_matmul_wgmma_divide(s, info, p, &tried);
            const int64_t cycles = thin_cycles(s, info, &tried);
            if (cycles < lowest) {
                lowest = cycles;
                *c = tried;
            }
        }
    }
}

/* A thin product has tiles no wider than it takes for its columns, of 64 rows unless there are very
 * many. Few tiles share k in clusters, so that there is about a block for each processor, or for
 * wide tiles, which bring more of B, one and a half. Measured on an H200: decode in
 * benchmarks/results. */
static void configure_thin(const gems_matmul_shape *s, const gems_device_info *info,
                           gems_matmul_config *c) {
    const int width = s->feed_b == GEMS_ALONG_LINES || s->n > 32 ? 64 : s->n > 16 ? 32 : 16;
    const int64_t most_blocks = most(info->processors / 8 * 8, 1) * (width > 32 ? 3 : 2) / 2,
                  count = s->batch * ceil_div(s->m, 64);
    const int64_t share = least(least(most_blocks / count, s->k / 256), 8);
    if (share < 8 || count * 16 > info->processors || s->k <= 8192) {
        const bool many = count > 2 * (int64_t)info->processors, parted = SHARED_K && share > 1;
        const tile t = {many ? TILE_M : 64, (uint16_t)width, parted ? 2 : 1, true, many ? 1 : 2};
        take(info, s->dtype, &t, parted ? (int)share : 1, c);
        gems_matmul_wgmma_divide(s, info, 1, c);
        return;
    }
    split_thin(s, info, width, c);
}

/* Cycles of a product: what a processor multiplies (2048 a cycle), brings (64 bytes a cycle,
 * 26 where each row of a box lies in two lines of the cache) or
 * stores meanwhile (12 bytes a cycle where all do), whichever is longer, a start and an end for
 * every tile, and what it takes to add parts of k, where it is split, by a second launch. */
static int64_t configure_tile(const gems_matmul_shape *s, const gems_device_info *info, bool split,
                              gems_matmul_config *c) {
    const int64_t slots = most(info->processors / c->cluster, 1), outputs = s->batch * s->m * s->n,
                  tile_n = c->parts.tile_n;
    const int64_t rest = 1000 + 2 * tile_n, count = divide(s, 1, c);
    gems_matmul_wgmma_divide(s, info, split ? parts_of(s, count, slots) : 1, c);
    const int64_t step =
        most(4 * tile_n, (TILE_M + tile_n / c->cluster) * STEP / (s->crooked ? 26 : 64));
    const int64_t each =
        most(c->parts.split_k / c->tile_k * step, TILE_M * tile_n * 2 / 12) + 500 + rest;
    const int64_t second =
        c->parts.split > 1 ? 12000 + outputs * c->parts.split / (info->processors * 2) : 0;
    return ceil_div(count * c->parts.split, slots) * each + second;
}

/* Few rows, and tiles of columns for about half of the processors: two blocks share the depth of
 * each. On an H200 128 x 4096 x 4096 and 128 x 4096 x 14336 took 15.2 and 37.6 us so, and 16.9 and
 * 45.7 otherwise. */
static void share_depth(const gems_matmul_shape *s, const gems_device_info *info,
                        gems_matmul_config *config) {
    static const tile half = {128, 64, 2, true, 1};
    const int64_t tiles_n = ceil_div(s->n, half.tile_n);
    gems_matmul_config c;
    if (s->batch != 1 || s->m <= THIN || s->m > TILE_M || s->k < 4096 || s->crooked ||
        5 * tiles_n > 2 * info->processors + info->processors / 2 ||
        9 * tiles_n < 4 * info->processors)
        return;
    take(info, s->dtype, &half, 2, &c);
    if (!gems_matmul_wgmma_allows(s, info, &c)) return;
    gems_matmul_wgmma_divide(s, info, 1, &c);
    *config = c;
}

void gems_matmul_wgmma_configure(const gems_matmul_shape *s, const gems_device_info *info,
                                 gems_matmul_config *config) {
    int64_t lowest = INT64_MAX;
    if (s->n <= THIN && gems_dtype_size(s->dtype) == 2) {
        configure_thin(s, info, config);
        return;
    }
    for (int i = 0; i < TILES; i++) {
        gems_matmul_config c;
        if (tiles[i].thin) continue; /* not measured of more columns */
        take(info, s->dtype, &tiles[i], tiles[i].cluster, &c);
        c.promotes = s->promotes;
        if (!gems_matmul_wgmma_allows(s, info, &c)) continue;
        for (int split = 0; split < 2; split++) {
            int64_t cost = configure_tile(s, info, split, &c);
            if (cost < lowest) {
                lowest = cost;
                *config = c;
            }
        }
    }
    share_depth(s, info, config);
}

void gems_matmul_wgmma_result_map(int dtype, const void *data, int64_t batch, int64_t batch_stride,
                                  int64_t m, int64_t n, int64_t row_stride, gems_tensor_map *map) {
    const int64_t stride = m == 1 ? ceil_div(n * 2, 16) * 16 : row_stride * 2;
    *map = (gems_tensor_map){
        .data = data,
        .sizes = {n, m, batch},
        .strides = {stride, batch == 1 ? m * stride : batch_stride * 2},
        .box = {64, 16},
        .dtype = (uint8_t)dtype,
    };
}

void gems_matmul_wgmma_map(const gems_matmul_config *config, bool first, int feed, int dtype,
                           const void *data, int64_t batch, int64_t batch_stride, int64_t lines,
                           int64_t line_stride, int64_t k, int64_t k_stride, gems_tensor_map *map) {
    const bool along_k = feed == GEMS_ALONG_K;
    const int share = config->thin ? 1 : config->cluster;
    const int tile_m = config->parts.tile_m / share;
    const int box_lines = first ? tile_m : config->parts.tile_n / share;
    const int64_t inner = along_k ? k : lines, outer = along_k ? lines : k;
    const int64_t size = (int64_t)gems_dtype_size(dtype);
    int64_t stride = (along_k ? line_stride : k_stride) * size;
    /* The stride of what has one element says nothing, and the map wants one. */
    if (outer == 1) stride = ceil_div(inner * size, 16) * 16;
    const bool one = batch == 1 || batch_stride == 0;
    *map = (gems_tensor_map){
        .data = data,
        .sizes = {inner, outer, one ? 1 : batch},
        .strides = {stride, one ? outer * stride : batch_stride * size},
        .box = {(int32_t)(STEP / size), along_k ? box_lines : (int32_t)(STEP / size)},
        .dtype = (uint8_t)dtype,
    };
}
