/* The programs of the matmul family: the key of a configuration, its text, and what warmup
 * compiles. */
#include "matmul_program.h"

#include <stdio.h>
#include <string.h>

enum {
    TILE_M,
    TILE_N,
    TILE_K,
    ACROSS_M,
    ACROSS_N,
    STAGES,
    PAD,
    BLOCKS,
    FEED_A,
    FEED_B
}; /* gems_key.tune; tiles in eighths */

void gems_matmul_key(const gems_matmul_config *config, int dtype, int feed_a, int feed_b,
                     gems_key *key) {
    memset(key, 0, sizeof *key);
    key->kernel = config->kernel;
    key->dtype[0] = (uint8_t)dtype;
    if (config->kernel == GEMS_MATMUL_PANEL || config->kernel == GEMS_MATMUL_THIN) return;
    key->tune[TILE_M] = (uint8_t)(config->parts.tile_m / 8);
    key->tune[TILE_N] = (uint8_t)(config->parts.tile_n / 8);
    key->tune[TILE_K] = (uint8_t)(config->tile_k / 8);
    key->tune[ACROSS_M] = config->across_m;
    key->tune[ACROSS_N] = config->across_n;
    key->tune[STAGES] = config->stages;
    key->tune[PAD] = config->pad;
    key->tune[BLOCKS] = config->blocks;
    key->tune[FEED_A] = (uint8_t)feed_a;
    key->tune[FEED_B] = (uint8_t)feed_b;
}

static const char *const feeds[] = {"kAlongK", "kAlongLines", "kGatherAlongK", "kGatherAlongLines"};

gems_status gems_matmul_program(const gems_op *op, const gems_key *key, gems_program *program) {
    (void)op;
    const uint8_t *tune = key->tune;
    const int tile_m = tune[TILE_M] * 8, tile_n = tune[TILE_N] * 8, tile_k = tune[TILE_K] * 8;
    const char *dtype = gems_dtype_name(key->dtype[0]);
    gems_text_add(&program->head, "typedef %s Scalar;\n", gems_dtype_kernel(key->dtype[0]));
    program->files[0] = "matmul.cuh";
    program->entry_count = 1;
    if (key->kernel == GEMS_MATMUL_PANEL || key->kernel == GEMS_MATMUL_THIN) {
        bool thin = key->kernel == GEMS_MATMUL_THIN;
        program->files[1] = "panel.cuh";
        program->files[2] = thin ? "matmul_thin.cu" : "matmul_panel.cu";
        program->entries[0] = thin ? "matmul_thin" : "matmul_panel";
        snprintf(program->name, sizeof program->name, "matmul %s %s", thin ? "thin" : "panel",
                 dtype);
        return GEMS_OK;
    }
    bool mma = key->kernel == GEMS_MATMUL_MMA;
    program->files[1] = "tile.cuh";
    program->files[2] = "matmul.cu";
    program->entries[0] = "matmul_tile";
    program->entries[1] = "matmul_finish";
    program->entry_count = 2;
    gems_text_add(&program->head, "#define GEMS_LOOP gems::%s<Scalar, %d, %d, %d, %d, %d, ",
                  mma ? "MmaLoop" : "FmaLoop", tile_m, tile_n, tile_k, tune[ACROSS_M],
                  tune[ACROSS_N]);
    if (mma) gems_text_add(&program->head, "%d, ", tune[STAGES]);
    gems_text_add(&program->head, "gems::%s, gems::%s>\n", feeds[tune[FEED_A] & 3],
                  feeds[tune[FEED_B] & 3]);
    gems_text_add(&program->head,
                  "constexpr int kTileM = %d, kTileN = %d, kPad = %d, kBlocks = %d;\n", tile_m,
                  tile_n, tune[PAD], tune[BLOCKS]);
    snprintf(program->name, sizeof program->name, "matmul %s %dx%dx%d %s %s %s",
             mma ? "mma" : "fma", tile_m, tile_n, tile_k, feeds[tune[FEED_A] & 3] + 1,
             feeds[tune[FEED_B] & 3] + 1, dtype);
    return GEMS_OK;
}

/* Row-major times row-major (a product), times column-major (a linear layer), and column-major
 * times row-major (the gradient of a weight): the layouts of training. */
static const uint8_t layouts[][2] = {{GEMS_ALONG_K, GEMS_ALONG_LINES},
                                     {GEMS_ALONG_K, GEMS_ALONG_K},
                                     {GEMS_ALONG_LINES, GEMS_ALONG_LINES}};
#define LAYOUTS ((int)(sizeof layouts / sizeof *layouts))

bool gems_matmul_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                      gems_key *key) {
    uint16_t row = key->op;
    gems_matmul_config config = {.kernel = i ? GEMS_MATMUL_THIN : GEMS_MATMUL_PANEL};
    const uint8_t *layout = layouts[i % LAYOUTS];
    if (!(op->dtypes >> dtype & 1)) return false;
    if (info->fast) {
        if (i > 1) return false;
    } else if (!gems_matmul_candidate(dtype, info->arch, i / LAYOUTS, &config) ||
               config.shared > info->shared_bytes) {
        return false;
    }
    gems_matmul_key(&config, dtype, layout[0], layout[1], key);
    key->op = row;
    return true;
}
