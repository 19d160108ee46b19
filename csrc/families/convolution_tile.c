/* Convolution in two dims as a product of matrices on the tensor cores: the image is read window by
 * window, nothing is unfolded in memory. Twin of kernels/convolution_tile.cu. */
#include "convolution.h"
#include "matmul_config.h"

#include <stdio.h>
#include <string.h>

/* key->tune; tiles in eighths */
enum { TILE_M, TILE_N, TILE_K, ACROSS_M, ACROSS_N, STAGES, PAD, BLOCKS, BACK, PIXELS_FIRST };
/* Multiplications below which a thread an element is as good; the modes that follow a GPU on a CPU
 * take smaller ones too. */
#define LEAST_WORK          1048576.0
#define LEAST_WORK_FAITHFUL 8192.0

/* Twin of Implicit in kernels/convolution_tile.cu. */
typedef struct implicit {
    const void *image, *weight, *bias;
    void *out;
    int32_t channels, made, height, width, out_height, out_width, pixels, tiles_n, wide;
    gems_window window[2];
    gems_fastdiv plane, row;
} implicit;

bool gems_convolution_tiles(const gems_convolution *c, int kind, const gems_device_info *info) {
    bool half = c->dtype == GEMS_F16 || c->dtype == GEMS_BF16;
    int32_t read = kind == GEMS_CONVOLVE_RESULT ? c->image_channels : c->result_channels;
    int64_t image = gems_numel(c->image.sizes, 4), result = gems_numel(c->result.sizes, 4);
    return half && !info->fast && (!info->arch || info->arch >= 80) && c->rank == 2 &&
           c->groups == 1 && kind != GEMS_CONVOLVE_WEIGHT && read % 8 == 0 &&
           c->work >= (info->arch ? LEAST_WORK : LEAST_WORK_FAITHFUL) && image < INT32_MAX / 2 &&
           result < INT32_MAX / 2 && gems_numel(c->weight.sizes, 4) < INT32_MAX / 2;
}

void gems_convolution_tile_strides(const gems_convolution *c, int kind, const int64_t *sizes,
                                   int64_t *image, int64_t *weight) {
    gems_channels_last_strides(sizes, 4, image);
    /* [written][y][x][read]; the weight's dims are [result channel][image channel][y][x] */
    int64_t read = kind == GEMS_CONVOLVE_RESULT ? c->image_channels : c->result_channels;
    int64_t taps = c->weight.sizes[2] * c->weight.sizes[3];
    weight[kind == GEMS_CONVOLVE_RESULT ? 1 : 0] = 1;
    weight[kind == GEMS_CONVOLVE_RESULT ? 0 : 1] = taps * read;
    weight[2] = c->weight.sizes[3] * read;
    weight[3] = read;
}

static void to_key(const gems_matmul_config *config, int dtype, bool back, bool pixels_first,
                   gems_key *key) {
    key->kernel = GEMS_CONVOLUTION_TILE;
    key->dtype[0] = (uint8_t)dtype;
    key->tune[TILE_M] = (uint8_t)(config->parts.tile_m / 8);
    key->tune[TILE_N] = (uint8_t)(config->parts.tile_n / 8);
    key->tune[TILE_K] = (uint8_t)(config->tile_k / 8);
    key->tune[ACROSS_M] = config->across_m;
    key->tune[ACROSS_N] = config->across_n;
    key->tune[STAGES] = config->stages;
    key->tune[PAD] = config->pad;
    key->tune[BLOCKS] = config->blocks;
    key->tune[BACK] = back;
    key->tune[PIXELS_FIRST] = pixels_first;
}

/* The configuration of a product; false: none is on the tensor cores. */
static bool configure(const gems_convolution *c, int32_t pixels, int32_t made, int32_t depth,
                      const gems_device_info *info, gems_matmul_config *config) {
    gems_matmul_shape shape = {.batch = 1,
                               .m = c->last ? pixels : made,
                               .n = c->last ? made : pixels,
                               .k = depth,
                               .dtype = (uint8_t)c->dtype,
                               .feed_a = GEMS_ALONG_K,
                               .feed_b = GEMS_ALONG_K};
    gems_matmul_config first;
    gems_matmul_configure(&shape, info, &first);
    /* that may be of another kind, which is not ours: the first of the tensor cores' that has the
     * same tile, else the last
     */
    for (int i = 0; gems_matmul_candidate(c->dtype, info->arch, i, config); i++)
        if (config->kernel == GEMS_MATMUL_MMA && config->parts.tile_m == first.parts.tile_m &&
            config->parts.tile_n == first.parts.tile_n)
            break;
    return config->kernel == GEMS_MATMUL_MMA && config->shared <= info->shared_bytes;
}

gems_status gems_convolution_tile(gems_call *call, const gems_convolution *c, int kind, void *out,
                                  const void *image, const void *weight, const void *bias) {
    const gems_device_info *info = gems_device_information(call->device);
    bool back = kind == GEMS_CONVOLVE_IMAGE;
    const gems_side *from = back ? &c->result : &c->image, *to = back ? &c->image : &c->result;
    implicit p = {.image = image,
                  .weight = weight,
                  .bias = bias,
                  .out = out,
                  .channels = (int32_t)from->sizes[1],
                  .made = (int32_t)to->sizes[1],
                  .height = (int32_t)from->sizes[2],
                  .width = (int32_t)from->sizes[3],
                  .out_height = (int32_t)to->sizes[2],
                  .out_width = (int32_t)to->sizes[3],
                  .window = {c->window[1], c->window[2]}};
    int32_t plane = p.out_height * p.out_width;
    p.pixels = plane * c->batch;
    p.plane = gems_fastdiv_make((uint32_t)plane);
    p.row = gems_fastdiv_make((uint32_t)p.out_width);
    p.wide = (uintptr_t)out % 16 == 0 && (c->last ? p.made : plane) % 8 == 0;
    int32_t depth = p.channels * c->window[1].size * c->window[2].size;
    gems_matmul_config config;
    if (!configure(c, p.pixels, p.made, depth, info, &config))
        return gems_decline("no tile of the tensor cores");
    int32_t rows = c->last ? p.pixels : p.made, cols = c->last ? p.made : p.pixels;
    int32_t tiles_m = (rows + config.parts.tile_m - 1) / config.parts.tile_m;
    p.tiles_n = (cols + config.parts.tile_n - 1) / config.parts.tile_n;
    gems_key key = {0};
    to_key(&config, c->dtype, back, c->last, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    const uint32_t grid[3] = {(uint32_t)tiles_m * (uint32_t)p.tiles_n, 1, 1};
    const uint32_t block[3] = {config.threads, 1, 1};
    void *args[] = {&p};
    return gems_call_launch(call, plan, 0, grid, block, config.shared, args);
}

gems_status gems_convolution_tile_program(const gems_op *op, const gems_key *key,
                                          gems_program *program) {
    const uint8_t *tune = key->tune;
    gems_text_add(&program->head, "typedef %s Scalar;\n", gems_dtype_kernel(key->dtype[0]));
    gems_text_add(&program->head, "constexpr bool kBack = %s, kPixelsFirst = %s;\n",
                  tune[BACK] ? "true" : "false", tune[PIXELS_FIRST] ? "true" : "false");
    gems_text_add(
        &program->head,
        "#define GEMS_LOOP gems::MmaLoop<Scalar, %d, %d, %d, %d, %d, %d, %s, WindowFeed>\n",
        tune[TILE_M] * 8, tune[TILE_N] * 8, tune[TILE_K] * 8, tune[ACROSS_M], tune[ACROSS_N],
        tune[STAGES], tune[PIXELS_FIRST] ? "kWindows, gems::kAlongK" : "gems::kAlongK, kWindows");
    gems_text_add(&program->head,
                  "constexpr int kTileM = %d, kTileN = %d, kPad = %d, kBlocks = %d;\n",
                  tune[TILE_M] * 8, tune[TILE_N] * 8, tune[PAD], tune[BLOCKS]);
    program->files[0] = "window.cuh";
    program->files[1] = "tile.cuh";
    program->files[2] = "convolution_tile.cu";
    program->entries[0] = "convolution_tile";
    program->entry_count = 1;
    snprintf(program->name, sizeof program->name, "%.*s tile %dx%dx%d %s%s",
             (int)strcspn(op->schema, "("), op->schema, tune[TILE_M] * 8, tune[TILE_N] * 8,
             tune[TILE_K] * 8, gems_dtype_name(key->dtype[0]),
             tune[PIXELS_FIRST] ? " channels last" : "");
    return GEMS_OK;
}

bool gems_convolution_tile_warm(const gems_op *op, int dtype, int i, bool back,
                                const gems_device_info *info, gems_key *key) {
    gems_matmul_config config;
    (void)op;
    if ((dtype != GEMS_F16 && dtype != GEMS_BF16) || info->fast) return false;
    if (!gems_matmul_candidate(dtype, info->arch, i / 2, &config) ||
        config.kernel != GEMS_MATMUL_MMA || config.shared > info->shared_bytes)
        return false;
    to_key(&config, dtype, back, i & 1, key);
    return true;
}
