/* Convolution as a product of matrices on the tensor cores: the image is read window by window,
 * nothing is unfolded in memory. Twin of kernels/convolution_tile.cu. */
#include "convolution.h"
#include "matmul_config.h"

#include <stdio.h>
#include <string.h>

/* key->tune; tiles in eighths */
enum { TILE_M, TILE_N, TILE_K, ACROSS_M, ACROSS_N, STAGES, BLOCKS, KIND, TURNED, RANK, WARPGROUPS };
enum { TILE, FINISH }; /* kernels of the program */
/* What is computed: of KIND. An image whose result's windows lie next to each other needs no
 * division. */
enum { RESULT, IMAGE, IMAGE_STRIDED, WEIGHT };
#define PAD                 8 /* elements between rows of a staged slab; 4 between columns */
/* Multiplications below which a thread an element is as good; the modes that follow a GPU on a CPU
 * take smaller ones too. */
#define LEAST_WORK          1048576.0
#define LEAST_WORK_FAITHFUL 8192.0
#define MOST_PARTS          64
#define MOST_PARTIAL        (INT64_C(1) << 26) /* elements of their sums */

typedef struct tile {
    int16_t m, n, k;
    uint8_t across_m, across_n, stages, blocks;
} tile;

/* Largest first: of equal costs the first wins. */
static const tile mma_tiles[] = {
    {128, 128, 32, 2, 2, 4, 2},
    {128, 64, 32, 4, 1, 4, 3},
    {64, 128, 32, 2, 2, 4, 2},
    {64, 64, 64, 2, 2, 3, 2},
};
static const tile wgmma_tiles[] = {
    {128, 256, 64, 2, 1, 4, 1}, {128, 128, 64, 2, 1, 3, 2}, {128, 128, 64, 2, 1, 6, 1},
    {128, 64, 64, 2, 1, 4, 2},  {64, 128, 64, 1, 1, 4, 2},  {64, 64, 64, 1, 1, 4, 3},
};
#define COUNT(list) ((int)(sizeof(list) / sizeof *(list)))

/* Twin of Implicit in kernels/convolution_feed.cuh. */
typedef struct implicit {
    const void *image, *other, *bias;
    void *out, *partial;
    int32_t channels, lines;
    int32_t groups, split, split_k;
    int32_t rows, cols, depth;
    int32_t in[3], to[3];
    int32_t tiles_n, wide;
    int64_t weight[5];
    gems_window window[3];
    gems_fastdiv space[3], step[3];
    gems_fastdiv taps[4];
} implicit;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

bool gems_convolution_tiles(const gems_convolution *c, int kind, const gems_device_info *info) {
    bool half = c->dtype == GEMS_F16 || c->dtype == GEMS_BF16;
    int32_t read = kind == GEMS_CONVOLVE_IMAGE ? c->result_channels : c->image_channels;
    int64_t image = gems_numel(c->image.sizes, c->rank + 2),
            result = gems_numel(c->result.sizes, c->rank + 2);
    return half && !info->fast && (!info->arch || info->arch >= 80) && read % 8 == 0 &&
           (kind != GEMS_CONVOLVE_WEIGHT || c->result_channels % 8 == 0) &&
           c->work >= (info->arch ? LEAST_WORK : LEAST_WORK_FAITHFUL) && image < INT32_MAX / 2 &&
           result < INT32_MAX / 2 && gems_numel(c->weight.sizes, c->rank + 2) < INT32_MAX / 2;
}

/* ---- how the inputs have to lie ---- */

gems_status gems_convolution_pack_last(gems_call *call, const gems_tensor *t, const void **data) {
    int64_t strides[5], step = 1;
    strides[1] = 1;
    step = t->sizes[1];
    for (int d = t->ndim - 1; d >= 2; step *= t->sizes[d--]) strides[d] = step;
    strides[0] = step;
    return gems_image_pack(call, t, strides, data);
}

/* The weight as [group][channel written][tap][channel read]. */
gems_status gems_convolution_pack_weight(gems_call *call, const gems_convolution *c, int kind,
                                         const gems_tensor *t, const void **data) {
    int64_t sizes[6], from[6], to[6];
    int ndim = c->rank + 3, read = kind == GEMS_CONVOLVE_IMAGE ? 1 : 2, written = 3 - read;
    sizes[0] = c->groups;
    sizes[1] = c->result_channels;
    from[0] = t->strides[0] * c->result_channels;
    from[1] = t->strides[0];
    for (int d = 2; d < ndim; d++) {
        sizes[d] = t->sizes[d - 1];
        from[d] = t->strides[d - 1];
    }
    int64_t step = sizes[read];
    to[read] = 1;
    for (int d = ndim - 1; d >= 3; step *= sizes[d--]) to[d] = step;
    to[written] = step;
    to[0] = step * sizes[written];
    gems_tensor view = *t;
    view.sizes = sizes;
    view.strides = from;
    view.ndim = ndim;
    return gems_image_pack(call, &view, to, data);
}

/* ---- the tile ---- */

static uint32_t shared_of(const tile *t, bool warpgroups, bool turned) {
    int64_t ring = (int64_t)t->stages * (t->m + t->n) * t->k * 2 + (warpgroups ? 1024 : 0);
    int64_t slab = warpgroups ? t->m : t->across_m * 16;
    return (uint32_t)most(ring, 4 * (turned ? t->n * (slab + 4) : slab * (t->n + PAD)));
}

static const tile *tiles_of(const gems_device_info *info, int *count) {
    *count = info->hopper ? COUNT(wgmma_tiles) : COUNT(mma_tiles);
    return info->hopper ? wgmma_tiles : mma_tiles;
}

/* The tile that takes the least time, as far as multiplications and loads say, and the parts of the
 * depth where there are few tiles; NULL: there is none. */
static const tile *choose(const implicit *p, bool turned, const gems_device_info *info,
                          int64_t *parts) {
    int count;
    const tile *tiles = tiles_of(info, &count), *best = NULL;
    double lowest = 0;
    for (int i = 0; i < count; i++) {
        const tile *t = &tiles[i];
        if (shared_of(t, info->hopper, turned) > info->shared_bytes) continue;
        int64_t blocks = ceil_div(p->rows, t->m) * ceil_div(p->cols, t->n) * p->groups;
        int64_t places = most(info->processors, 1) * t->blocks, split = 1;
        int64_t outputs = (int64_t)p->rows * p->cols * p->groups;
        if (blocks * 2 <= places)
            split = most(1, least(least(places / blocks, p->depth / 512),
                                  least(MOST_PARTS, MOST_PARTIAL / outputs)));
        double products = (double)t->m * t->n, loads = 48.0 * (t->m + t->n);
        double cost = (double)ceil_div(blocks * split, most(info->processors, 1)) *
                      (products + loads) / (double)split;
        /* a block that is alone on its processor needs more tiles on their way, one that is not
         * leaves room for them */
        if ((blocks * split <= info->processors) != (t->blocks == 1)) cost *= 1.2;
        if (!best || cost < lowest) {
            lowest = cost;
            best = t;
            *parts = split;
        }
    }
    return best;
}

static void to_key(const tile *t, int dtype, int kind, bool turned, int rank, bool warpgroups,
                   gems_key *key) {
    key->kernel = GEMS_CONVOLUTION_TILE;
    key->dtype[0] = (uint8_t)dtype;
    key->tune[TILE_M] = (uint8_t)(t->m / 8);
    key->tune[TILE_N] = (uint8_t)(t->n / 8);
    key->tune[TILE_K] = (uint8_t)(t->k / 8);
    key->tune[ACROSS_M] = t->across_m;
    key->tune[ACROSS_N] = t->across_n;
    key->tune[STAGES] = t->stages;
    key->tune[BLOCKS] = t->blocks;
    key->tune[KIND] = (uint8_t)kind;
    key->tune[TURNED] = turned;
    key->tune[RANK] = (uint8_t)rank;
    key->tune[WARPGROUPS] = warpgroups;
}

/* ---- the call ---- */

static void space_of(const gems_side *side, int rank, int32_t *to) {
    for (int d = 0; d < 3; d++) to[d] = d < 3 - rank ? 1 : (int32_t)side->sizes[2 + d - (3 - rank)];
}

gems_status gems_convolution_tile(gems_call *call, const gems_convolution *c, int kind, void *out,
                                  const void *image, const void *other, const void *bias) {
    const gems_device_info *info = gems_device_information(call->device);
    bool back = kind == GEMS_CONVOLVE_IMAGE, weight = kind == GEMS_CONVOLVE_WEIGHT;
    bool turned = !weight && !c->last;
    int32_t taps = 1, mode = weight ? WEIGHT : back ? IMAGE : RESULT;
    implicit p = {.image = image,
                  .other = other,
                  .bias = bias,
                  .out = out,
                  .channels = back ? c->result_channels : c->image_channels,
                  .lines = c->result_channels,
                  .groups = c->groups};
    space_of(back ? &c->result : &c->image, c->rank, p.in);
    space_of(back ? &c->image : &c->result, c->rank, p.to);
    for (int d = 0; d < 3; d++) {
        p.window[d] = c->window[d];
        p.step[d] = gems_fastdiv_make((uint32_t)c->window[d].stride);
        taps *= c->window[d].size;
        p.taps[1 + d] = gems_fastdiv_make((uint32_t)c->window[d].size);
        if (back && c->window[d].stride != 1) mode = IMAGE_STRIDED;
    }
    p.taps[0] = gems_fastdiv_make((uint32_t)p.channels);
    int32_t plane = p.to[1] * p.to[2], sample = plane * p.to[0], pixels = sample * c->batch;
    p.space[0] = gems_fastdiv_make((uint32_t)sample);
    p.space[1] = gems_fastdiv_make((uint32_t)plane);
    p.space[2] = gems_fastdiv_make((uint32_t)p.to[2]);
    int32_t made = back ? c->image_channels : c->result_channels;
    p.rows = weight ? c->result_channels : pixels;
    p.cols = weight ? taps * c->image_channels : made;
    p.depth = weight ? pixels : taps * p.channels;
    p.wide = (uintptr_t)out % 16 == 0 && (turned ? sample : made) % 8 == 0;
    p.weight[0] = c->weight.strides[0];
    p.weight[1] = c->weight.strides[1];
    for (int d = 0; d < 3; d++)
        p.weight[2 + d] = d < 3 - c->rank ? 0 : c->weight.strides[2 + d - (3 - c->rank)];
    int64_t parts;
    const tile *t = choose(&p, turned, info, &parts);
    if (!t) return gems_decline("no tile of the tensor cores");
    p.split_k = (int32_t)(ceil_div(ceil_div(p.depth, parts), t->k) * t->k);
    p.split = (int32_t)ceil_div(p.depth, p.split_k);
    p.tiles_n = (int32_t)ceil_div(p.cols, t->n);
    const uint32_t grid[3] = {(uint32_t)(ceil_div(p.rows, t->m) * p.tiles_n),
                              (uint32_t)(p.groups * p.split), 1};
    if ((int64_t)p.groups * p.split > 65535) return gems_decline("more groups than a grid takes");
    gems_key key = {0};
    to_key(t, c->dtype, mode, turned, c->rank, info->hopper, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int64_t outputs = (int64_t)p.rows * p.cols * p.groups;
    if (p.split > 1) GEMS_TRY(gems_scratch(call, (size_t)(outputs * p.split) * 4, &p.partial));
    const uint32_t block[3] = {
        info->hopper ? (uint32_t)t->m * 2 : (uint32_t)t->across_m * t->across_n * 32, 1, 1};
    void *args[] = {&p};
    GEMS_TRY(
        gems_call_launch(call, plan, TILE, grid, block, shared_of(t, info->hopper, turned), args));
    if (p.split == 1) return GEMS_OK;
    const uint32_t threads[3] = {256, 1, 1}, blocks[3] = {gems_grid_for(info, outputs, 256), 1, 1};
    return gems_call_launch(call, plan, FINISH, blocks, threads, 0, args);
}

/* ---- the program ---- */

gems_status gems_convolution_tile_program(const gems_op *op, const gems_key *key,
                                          gems_program *program) {
    static const char *const words[] = {"false", "true"};
    static const char *const kinds[] = {"result", "image", "image by steps", "weight"};
    const uint8_t *tune = key->tune;
    int kind = tune[KIND] & 3, file = 0;
    gems_text_add(&program->head, "typedef %s Scalar;\n", gems_dtype_kernel(key->dtype[0]));
    gems_text_add(&program->head,
                  "constexpr bool kBack = %s, kStrided = %s, kWeight = %s, kTurned = %s;\n",
                  words[kind == IMAGE || kind == IMAGE_STRIDED], words[kind == IMAGE_STRIDED],
                  words[kind == WEIGHT], words[tune[TURNED] & 1]);
    gems_text_add(&program->head, "%s#define GEMS_LOOP gems::%s<Scalar, %d, %d, %d, %d, %d, %d, ",
                  tune[WARPGROUPS] ? "#define GEMS_WARPGROUPS\n" : "",
                  tune[WARPGROUPS] ? "WgmmaLoop" : "MmaLoop", tune[TILE_M] * 8, tune[TILE_N] * 8,
                  tune[TILE_K] * 8, tune[ACROSS_M], tune[ACROSS_N], tune[STAGES]);
    gems_text_add(&program->head, "%s, WindowFeed>\n",
                  kind == WEIGHT ? "kGrad, kTaps" : "kPixels, gems::kAlongK");
    gems_text_add(&program->head,
                  "constexpr int kTileM = %d, kTileN = %d, kPad = %d, kBlocks = %d, kRank = %d;\n",
                  tune[TILE_M] * 8, tune[TILE_N] * 8, PAD, tune[BLOCKS], tune[RANK]);
    program->files[file++] = "window.cuh";
    program->files[file++] = "tile.cuh";
    if (tune[WARPGROUPS]) {
        program->files[file++] = "hopper.cuh";
        program->files[file++] = "wgmma_loop.cuh";
    }
    program->files[file++] = "convolution_feed.cuh";
    program->files[file++] = "convolution_tile.cu";
    program->entries[TILE] = "convolution_tile";
    program->entries[FINISH] = "convolution_finish";
    program->entry_count = 2;
    snprintf(program->name, sizeof program->name, "%.*s %s tile %dx%dx%d %dd %s%s",
             (int)strcspn(op->schema, "("), op->schema, kinds[kind], tune[TILE_M] * 8,
             tune[TILE_N] * 8, tune[TILE_K] * 8, tune[RANK], gems_dtype_name(key->dtype[0]),
             tune[TURNED] || kind == WEIGHT ? "" : " channels last");
    return GEMS_OK;
}

/* Two dims: the result, or the gradients, in both orders. */
bool gems_convolution_tile_warm(const gems_op *op, int dtype, int i, bool back,
                                const gems_device_info *info, gems_key *key) {
    static const struct {
        uint8_t kind, turned;
    } made[] = {{RESULT, 1}, {RESULT, 0}}, gradients[] = {{IMAGE, 1}, {IMAGE, 0}, {WEIGHT, 0}};
    int count, each = back ? COUNT(gradients) : COUNT(made);
    (void)op;
    if ((dtype != GEMS_F16 && dtype != GEMS_BF16) || info->fast || (info->arch && info->arch < 80))
        return false;
    const tile *tiles = tiles_of(info, &count);
    if (i / each >= count) return false;
    const tile *t = &tiles[i / each];
    int kind = back ? gradients[i % each].kind : made[i % each].kind;
    bool turned = back ? gradients[i % each].turned : made[i % each].turned;
    if (shared_of(t, info->hopper, turned) > info->shared_bytes) return false;
    to_key(t, dtype, kind, turned, 2, info->hopper, key);
    return true;
}
