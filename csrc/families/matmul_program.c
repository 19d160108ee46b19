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

enum { SCALED = 1, PROMOTES = 2 }; /* gems_key.flags */

void gems_matmul_key(const gems_matmul_config *config, int dtype, int feed_a, int feed_b,
                     gems_key *key) {
    memset(key, 0, sizeof *key);
    key->kernel = config->kernel;
    key->dtype[0] = (uint8_t)(dtype == GEMS_I8 ? GEMS_I32 : dtype);
    key->dtype[1] = key->dtype[2] = (uint8_t)dtype;
    if (config->promotes) key->flags |= PROMOTES;
    if (config->kernel == GEMS_MATMUL_BYTES) return;
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
    if (config->kernel == GEMS_MATMUL_WGMMA) {
        key->tune[ACROSS_M] = config->thin && config->cluster > 2 ? 2 : config->cluster;
        key->tune[ACROSS_N] = config->thin;
    }
}

void gems_matmul_key_types(gems_key *key, const gems_matmul_types *types) {
    key->dtype[0] = types->result;
    key->dtype[1] = types->a;
    key->dtype[2] = types->b;
    if (types->scaled) key->flags |= SCALED;
}

/* ---- a matrix and a column ---- */

enum { LINES, SHARE, CLUSTERS, COLUMNS }; /* gems_key.tune */

void gems_matmul_one_key(int dtype, bool lines, int share, bool clusters, gems_key *key) {
    *key = (gems_key){.kernel = GEMS_MATMUL_ONE,
                      .dtype = {(uint8_t)dtype, (uint8_t)dtype, (uint8_t)dtype}};
    key->tune[LINES] = lines;
    key->tune[SHARE] = (uint8_t)share;
    key->tune[CLUSTERS] = clusters;
}

void gems_matmul_few_key(int dtype, int columns, int share, bool clusters, gems_key *key) {
    gems_matmul_one_key(dtype, false, share, clusters, key);
    key->kernel = GEMS_MATMUL_FEW;
    key->tune[COLUMNS] = (uint8_t)columns;
}

static gems_status few_program(const gems_key *key, gems_program *program) {
    const uint8_t *tune = key->tune;
    gems_text_add(&program->head,
                  "typedef %s Scalar;\nconstexpr bool kScaled = false;\n"
                  "constexpr int kShare = %d, kColumns = %d;\n"
                  "#define GEMS_CLUSTERS %d\n",
                  gems_dtype_kernel(key->dtype[0]), tune[SHARE], tune[COLUMNS], tune[CLUSTERS]);
    int file = 0;
    program->files[file++] = "matmul.cuh";
    program->files[file++] = "matmul_end.cuh";
    if (tune[CLUSTERS]) program->files[file++] = "cluster.cuh";
    program->files[file++] = "matmul_few.cu";
    program->entries[0] = "matmul_few";
    program->entry_count = 1;
    snprintf(program->name, sizeof program->name, "matmul few %d of 16x%d %s", tune[SHARE],
             tune[COLUMNS], gems_dtype_name(key->dtype[0]));
    return GEMS_OK;
}

static gems_status one_program(const gems_key *key, gems_program *program) {
    const uint8_t *tune = key->tune;
    gems_text_add(&program->head,
                  "typedef %s Scalar;\nconstexpr bool kScaled = false, kLines = %s;\n"
                  "constexpr int kShare = %d;\n#define GEMS_CLUSTERS %d\n",
                  gems_dtype_kernel(key->dtype[0]), tune[LINES] ? "true" : "false", tune[SHARE],
                  tune[CLUSTERS]);
    program->files[0] = "matmul.cuh";
    program->files[1] = "matmul_end.cuh";
    program->files[2] = tune[CLUSTERS] ? "cluster.cuh" : "matmul_one.cu";
    program->files[3] = tune[CLUSTERS] ? "matmul_one.cu" : NULL;
    program->entries[0] = "matmul_one";
    program->entry_count = 1;
    snprintf(program->name, sizeof program->name, "matmul one %s %d %s",
             tune[LINES] ? "along lines" : "along k", tune[SHARE], gems_dtype_name(key->dtype[0]));
    return GEMS_OK;
}

/* What warmup compiles: along lines?, share. */
static const uint8_t ones[][2] = {{0, 1}, {0, 2}, {0, 4}, {0, 8}, {1, 4}, {1, 8}, {1, 16}};
#define ONES ((int)(sizeof ones / sizeof *ones))
/* The same of few columns: columns, share. */
static const uint8_t fews[][2] = {{8, 2}, {8, 4}, {8, 8}, {16, 2}, {16, 4}, {16, 8}};
#define FEWS ((int)(sizeof fews / sizeof *fews))

/* The i-th of both that a dtype and a device have; false: no more. */
static bool one_or_few(int dtype, int i, const gems_device_info *info, gems_key *key) {
    if (i < ONES) {
        gems_matmul_one_key(dtype, ones[i][0], ones[i][1], ones[i][0] && info->arch >= 90, key);
        return true;
    }
    i -= ONES;
    if (i >= FEWS || gems_dtype_size(dtype) != 2 || (info->arch && info->arch < 80)) return false;
    gems_matmul_few_key(dtype, fews[i][0], fews[i][1], false, key);
    return true;
}

/* ---- the others ---- */

static const char *const feeds[] = {"kAlongK", "kAlongLines", "kGatherAlongK", "kGatherAlongLines"};

gems_status gems_matmul_program(const gems_op *op, const gems_key *key, gems_program *program) {
    (void)op;
    const uint8_t *tune = key->tune;
    const int tile_m = tune[TILE_M] * 8, tile_n = tune[TILE_N] * 8, tile_k = tune[TILE_K] * 8;
    const char *dtype = gems_dtype_name(key->dtype[1]);
    if (key->kernel == GEMS_MATMUL_ONE) return one_program(key, program);
    if (key->kernel == GEMS_MATMUL_FEW) return few_program(key, program);
    static const char *const words[] = {"false", "true"};
    if (key->kernel == GEMS_MATMUL_BYTES)
        gems_text_add(&program->head,
                      "typedef %s Scalar;\ntypedef %s InputB;\ntypedef %s Result;\n"
                      "constexpr bool kScaled = %s;\n",
                      gems_dtype_kernel(key->dtype[1]), gems_dtype_kernel(key->dtype[2]),
                      gems_dtype_kernel(key->dtype[0]), words[key->flags & SCALED]);
    else
        gems_text_add(&program->head, "typedef %s Scalar;\n", gems_dtype_kernel(key->dtype[0]));
    if (key->kernel == GEMS_MATMUL_MMA || key->kernel == GEMS_MATMUL_FMA ||
        key->kernel == GEMS_MATMUL_WIDE || key->kernel == GEMS_MATMUL_WGMMA)
        gems_text_add(&program->head,
                      "typedef %s InputA;\ntypedef %s InputB;\ntypedef InputA Input;\n"
                      "constexpr bool kScaled = %s, kPromotes = %s;\n",
                      gems_dtype_kernel(key->dtype[1]), gems_dtype_kernel(key->dtype[2]),
                      words[key->flags & SCALED], words[key->flags / PROMOTES & 1]);
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
    if (key->kernel == GEMS_MATMUL_BYTES) {
        program->files[1] = "panel.cuh";
        program->files[2] = "dot_bytes.cuh";
        program->files[3] = "matmul_bytes.cu";
        program->entries[0] = "matmul_bytes";
        snprintf(program->name, sizeof program->name, "matmul bytes %s", dtype);
        return GEMS_OK;
    }
    program->files[1] = "matmul_end.cuh";
    program->entries[1] = "matmul_finish";
    program->entry_count = 2;
    if (key->kernel == GEMS_MATMUL_WGMMA) {
        const bool lines_a = tune[FEED_A] == GEMS_ALONG_LINES,
                   lines_b = tune[FEED_B] == GEMS_ALONG_LINES;
        program->files[2] = "cluster.cuh";
        program->files[3] = "hopper.cuh";
        program->files[4] = "matmul_wgmma.cu";
        program->entries[0] = "matmul_wgmma";
        gems_text_add(&program->head,
                      "constexpr int kTileM = %d, kTileN = %d, kStages = %d, kCluster = %d, "
                      "kBuffers = %d, kBlocks = %d;\n"
                      "constexpr bool kThin = %s, kLinesA = %s, kLinesB = %s;\n",
                      tune[ACROSS_N] ? tile_m : tile_m / tune[ACROSS_M], tile_n, tune[STAGES],
                      tune[ACROSS_M], tune[PAD], tune[BLOCKS], words[tune[ACROSS_N] & 1],
                      words[lines_a], words[lines_b]);
        snprintf(program->name, sizeof program->name, "matmul wgmma %dx%dx%d %s %s %s", tile_m,
                 tile_n, tune[ACROSS_M], feeds[tune[FEED_A] & 3] + 1, feeds[tune[FEED_B] & 3] + 1,
                 dtype);
        return GEMS_OK;
    }
    const bool wide = key->kernel == GEMS_MATMUL_WIDE, mma = wide || key->kernel == GEMS_MATMUL_MMA;
    program->files[2] = "tile.cuh";
    program->files[3] = wide ? "tile_wide.cuh" : "matmul.cu";
    program->files[4] = wide ? "matmul.cu" : NULL;
    program->entries[0] = "matmul_tile";
    gems_text_add(&program->head, "#define GEMS_LOOP gems::%s<Input, %d, %d, %d, %d, %d, ",
                  mma ? "MmaLoop" : "FmaLoop", tile_m, tile_n, tile_k, tune[ACROSS_M],
                  tune[ACROSS_N]);
    if (mma) gems_text_add(&program->head, "%d, ", tune[STAGES]);
    gems_text_add(&program->head, "gems::%s, gems::%s%s>\n", feeds[tune[FEED_A] & 3],
                  feeds[tune[FEED_B] & 3], wide ? ", gems::Feed, InputB" : "");
    gems_text_add(&program->head,
                  "constexpr int kTileM = %d, kTileN = %d, kPad = %d, kBlocks = %d;\n", tile_m,
                  tile_n, tune[PAD], tune[BLOCKS]);
    snprintf(program->name, sizeof program->name, "matmul %s %dx%dx%d %s %s %s",
             wide  ? "wide"
             : mma ? "mma"
                   : "fma",
             tile_m, tile_n, tile_k, feeds[tune[FEED_A] & 3] + 1, feeds[tune[FEED_B] & 3] + 1,
             dtype);
    return GEMS_OK;
}

/* Row-major times row-major (a product), times column-major (a linear layer), and column-major
 * times row-major (the gradient of a weight): the layouts of training. */
static const uint8_t layouts[][2] = {{GEMS_ALONG_K, GEMS_ALONG_LINES},
                                     {GEMS_ALONG_K, GEMS_ALONG_K},
                                     {GEMS_ALONG_LINES, GEMS_ALONG_LINES}};
#define LAYOUTS ((int)(sizeof layouts / sizeof *layouts))

/* The i-th configuration of a GPU: those of every device, then those of sm_90a. */
static bool candidate(int dtype, const gems_device_info *info, int i, gems_matmul_config *config) {
    gems_matmul_config other;
    int count = 0;
    if (gems_matmul_candidate(dtype, info->arch, i, config)) return true;
    while (gems_matmul_candidate(dtype, info->arch, count, &other)) count++;
    return dtype != GEMS_F64 && gems_matmul_wgmma_candidate(info, dtype, i - count, config);
}

bool gems_matmul_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                      gems_key *key) {
    uint16_t row = key->op;
    gems_matmul_config config = {.kernel = i ? GEMS_MATMUL_THIN : GEMS_MATMUL_PANEL};
    const bool bytes = gems_dtype_size(dtype) == 1;
    if (!(op->dtypes >> dtype & 1)) return false;
    if (!info->fast && !bytes) {
        if (one_or_few(dtype, i, info, key)) {
            key->op = row;
            return true;
        }
        gems_key other;
        for (int count = 0; one_or_few(dtype, count, info, &other); count++) i--;
    }
    if (info->fast) {
        if (i > (bytes ? 0 : 1)) return false;
        if (bytes) config.kernel = GEMS_MATMUL_BYTES;
    } else if (bytes && info->arch && info->arch < (dtype == GEMS_I8 ? 80 : 89)) {
        return false;
    } else if (!candidate(dtype, info, bytes ? i : i / LAYOUTS, &config) ||
               config.shared > info->shared_bytes || (config.thin && config.cluster > 2)) {
        return false;
    }
    const uint8_t *layout = layouts[bytes ? 1 : i % LAYOUTS];
    /* A tile of less than 64 columns cannot lie along them, nor one of other than 16 bits on
     * sm_90a. */
    const bool wgmma = config.kernel == GEMS_MATMUL_WGMMA, words = gems_dtype_size(dtype) != 2;
    const bool narrow = wgmma && (words || config.parts.tile_n < 64);
    gems_matmul_key(&config, dtype, wgmma && bytes ? GEMS_ALONG_K : layout[0],
                    narrow ? GEMS_ALONG_K : layout[1], key);
    if (bytes && dtype != GEMS_I8)
        gems_matmul_key_types(key,
                              &(gems_matmul_types){GEMS_BF16, (uint8_t)dtype, GEMS_F8E4M3, true});
    key->op = row;
    return true;
}
