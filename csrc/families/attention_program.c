/* The programs of the attention family: which kernel a problem gets, its text, what warmup
 * compiles. */
#include "attention.h"
#include "modes.h"
#include "pack.h"

#include <stdio.h>
#include <string.h>

enum { DIM, DIM_V, TILE_N, WARPS, ACROSS, EACH, TILE_M }; /* gems_key.tune; sizes in sixteenths */

static bool is_half(int dtype) { return dtype == GEMS_F16 || dtype == GEMS_BF16; }
static int32_t most(int32_t a, int32_t b) { return a > b ? a : b; }

/* The first of a list of sizes that is large enough; 0: none. */
static int32_t fit(int dim, const int32_t *sizes, int count) {
    for (int i = 0; i < count; i++)
        if (dim <= sizes[i]) return sizes[i];
    return 0;
}
#define FIT(dim, sizes) fit(dim, sizes, (int)(sizeof(sizes) / sizeof *(sizes)))

/* ---- tensor cores ---- */

static int32_t pitch_of(int32_t d) { return d <= 32 ? 32 : (d + 63) / 64 * 64; }

static void take(gems_attention_config *c, int warps, int across, int each, int tile_n,
                 bool shared) {
    c->warps = (uint8_t)warps, c->across = (uint8_t)across, c->each = (uint8_t)each;
    c->tile_n = tile_n;
    c->tile_m = warps / across * 16 * each;
    c->threads = 32u * (uint32_t)warps;
    int32_t wide = pitch_of(c->kd), wide_v = shared ? 0 : pitch_of(c->kdv);
    c->shared =
        2u * (uint32_t)(c->tile_m * most(wide, pitch_of(c->kdv)) + 2 * tile_n * (wide + wide_v));
}

static bool configure_mma(const gems_device_info *info, int dim, int dim_v, int64_t rows,
                          bool shared, gems_attention_config *c) {
    static const int32_t sizes[] = {32, 64, 96, 128, 192, 256};
    const int64_t room = info->shared_bytes;
    c->kernel = GEMS_ATTENTION_MMA;
    c->kd = FIT(dim, sizes), c->kdv = FIT(dim_v, sizes);
    if (!c->kd || !c->kdv) { /* of latent attention */
        if (dim > 576 || dim_v > 512) return false;
        c->kd = 576, c->kdv = 512;
        take(c, 8, 2, 1, 32, shared);
        if (rows <= 16 || c->shared > room) take(c, 4, 4, 1, 32, shared);
        if (c->shared > room) take(c, 4, 4, 1, 16, shared);
        return c->shared <= room;
    }
    const int32_t wide = most(c->kd, c->kdv);
    if (rows <= 16) {
        int across = c->kdv % 64 == 0 ? 4 : 2;
        take(c, across, across, 1, wide <= 128 ? 64 : 32, shared);
    } else if (wide <= 128) {
        take(c, rows <= 64 ? 4 : 8, 1, 1, 64, shared);
    } else {
        take(c, 4, 1, 1, 32, shared);
    }
    return c->shared <= room;
}

/* Of the gradients: a block has a tile of rows of both operands, and a ring of two tiles of the
 * other side's. */
static bool configure_mma_backward(const gems_device_info *info, int dim, int dim_v,
                                   gems_attention_config *c) {
    static const int32_t sizes[] = {32, 64, 96, 128, 192, 256};
    c->kernel = GEMS_ATTENTION_BACK_MMA;
    c->kd = FIT(dim, sizes), c->kdv = FIT(dim_v, sizes);
    if (!c->kd || !c->kdv) return false;
    const int32_t wide = most(c->kd, c->kdv);
    c->warps = 4, c->each = 1;
    c->across = wide <= 128 ? 1 : 2;
    c->tile_m = c->warps / c->across * 16;
    c->tile_n = wide <= 64 ? 64 : 32;
    c->threads = 128;
    c->shared = 2u * (uint32_t)((c->tile_m + 2 * c->tile_n) * (pitch_of(c->kd) + pitch_of(c->kdv)) +
                                8 * c->tile_n); /* and two numbers of each row, twice */
    return c->shared <= info->shared_bytes;
}

/* ---- multiply and add ---- */

static gems_status configure_fma(const gems_device_info *info, int dtype, int dim, int dim_v,
                                 int tiles, gems_attention_config *c) {
    static const int32_t sizes[] = {16, 32, 64, 128, 192, 256, 576};
    const int32_t size = dtype == GEMS_F64 ? 8 : 4, near = 16 / size;
    c->kd = FIT(dim, sizes), c->kdv = FIT(dim_v, sizes);
    if (!c->kd || !c->kdv) return gems_decline("head dimensions beyond 576");
    const int32_t wide = most(c->kd, c->kdv);
    c->threads = 256;
    int first = wide <= 128 && tiles == 2 && size == 4      ? 4
                : wide <= 256 && (size == 4 || wide <= 128) ? 2
                                                            : 1;
    for (int each = first; each; each /= 2) {
        c->each = (uint8_t)each;
        c->tile_m = c->tile_n = 16 * each;
        c->shared =
            (uint32_t)(size * (tiles * c->tile_m * (wide + near) + c->tile_m * (c->tile_m + near)));
        if (c->shared <= info->shared_bytes) return GEMS_OK;
    }
    return gems_decline("head dimensions that need more shared memory than the device has");
}

/* ---- the fast mode ---- */

#define FAST_ROWS 96  /* a multiple of the register block's rows on every CPU */
#define FAST_KEYS 256 /* of its columns */
#define PANEL     32

static int32_t panels(int32_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

static void configure_fast(int dtype, int dim, int dim_v, gems_attention_config *c) {
    const int32_t size = dtype == GEMS_F64 ? 8 : 4;
    c->kernel = GEMS_ATTENTION_FAST;
    c->tile_m = FAST_ROWS, c->tile_n = FAST_KEYS;
    c->threads = 1;
    c->shared =
        (uint32_t)(size * ((FAST_ROWS + FAST_KEYS) * (dim + panels(dim_v)) + 16 * FAST_KEYS));
}

gems_status gems_attention_configure(const gems_device_info *info, int dtype, int dim, int dim_v,
                                     int64_t rows, bool tensor_cores, bool shared,
                                     gems_attention_config *c) {
    *c = (gems_attention_config){0};
    if (info->fast) {
        configure_fast(dtype, dim, dim_v, c);
        return GEMS_OK;
    }
    if (tensor_cores && is_half(dtype) && (info->arch == 0 || info->arch >= 80) &&
        configure_mma(info, dim, dim_v, rows, shared, c))
        return GEMS_OK;
    *c = (gems_attention_config){.kernel = GEMS_ATTENTION_FMA};
    return configure_fma(info, dtype, dim, dim_v, 2, c);
}

gems_status gems_attention_configure_backward(const gems_device_info *info, int dtype, int dim,
                                              int dim_v, gems_attention_config *c) {
    *c = (gems_attention_config){0};
    if (!info->fast && is_half(dtype) && (info->arch == 0 || info->arch >= 80) &&
        configure_mma_backward(info, dim, dim_v, c))
        return GEMS_OK;
    if (!info->fast) {
        GEMS_TRY(configure_fma(info, dtype, dim, dim_v, 4, c));
        c->kernel = GEMS_ATTENTION_BACK;
        return GEMS_OK;
    }
    const int32_t size = dtype == GEMS_F64 ? 8 : 4, d = panels(dim), dv = panels(dim_v);
    c->kernel = GEMS_ATTENTION_BACK_FAST;
    c->tile_m = FAST_ROWS, c->tile_n = FAST_KEYS;
    c->threads = 1;
    c->shared = (uint32_t)(size * (FAST_ROWS * 2 * (d + dv) + FAST_KEYS * 2 * (d + dv) +
                                   2 * 16 * FAST_KEYS + 2 * FAST_KEYS));
    return GEMS_OK;
}

/* ---- programs ---- */

gems_key gems_attention_key(const gems_attention_config *c, int dtype, int mask, int flags) {
    gems_key key = {
        .kernel = c->kernel, .flags = (uint8_t)flags, .dtype = {(uint8_t)dtype, (uint8_t)mask}};
    bool fast = c->kernel == GEMS_ATTENTION_FAST || c->kernel == GEMS_ATTENTION_BACK_FAST;
    if (c->kernel == GEMS_ATTENTION_BACK_MMA)
        key.flags &= (uint8_t)~GEMS_ATTENTION_SHARED;
    else if (c->kernel !=
             GEMS_ATTENTION_MMA) /* vectors are chosen as it runs, or need no alignment */
        key.flags &= (uint8_t)~(GEMS_ATTENTION_ALIGNED | GEMS_ATTENTION_SHARED);
    key.tune[TILE_M] = (uint8_t)(c->tile_m / 16);
    key.tune[TILE_N] = (uint8_t)(c->tile_n / 16);
    if (fast) return key;
    key.tune[DIM] = (uint8_t)(c->kd / 16);
    key.tune[DIM_V] = (uint8_t)(c->kdv / 16);
    key.tune[WARPS] = c->warps;
    key.tune[ACROSS] = c->across;
    key.tune[EACH] = c->each;
    return key;
}

static const char *word(int flags, int bit) { return flags & bit ? "true" : "false"; }

gems_status gems_attention_program(const gems_op *op, const gems_key *key, gems_program *p) {
    static const char *const names[] = {
        "fma", "mma", "fast", "gradients", "gradients fast", "gradients mma", "wgmma"};
    (void)op;
    if (key->kernel == GEMS_PACK_KERNEL) return gems_pack_program(key, p);
    const uint8_t *tune = key->tune;
    const int mask = key->dtype[1], kind = mask == GEMS_NO_DTYPE ? 0 : mask == GEMS_BOOL ? 1 : 2;
    gems_text_add(&p->head, "typedef %s Scalar;\ntypedef %s Mask;\n",
                  gems_dtype_kernel(key->dtype[0]), kind ? gems_dtype_kernel(mask) : "uint8_t");
    gems_text_add(&p->head,
                  "constexpr int kMask = %d;\nconstexpr bool kPaged = %s, kCapped = %s, kAlibi = "
                  "%s, kDropout = %s;\n",
                  kind, word(key->flags, GEMS_ATTENTION_PAGED),
                  word(key->flags, GEMS_ATTENTION_CAPPED), word(key->flags, GEMS_ATTENTION_ALIBI),
                  word(key->flags, GEMS_ATTENTION_DROPOUT));
    const bool fast = key->kernel == GEMS_ATTENTION_FAST || key->kernel == GEMS_ATTENTION_BACK_FAST;
    const bool mma = key->kernel == GEMS_ATTENTION_MMA || key->kernel == GEMS_ATTENTION_BACK_MMA;
    const bool back = key->kernel == GEMS_ATTENTION_BACK ||
                      key->kernel == GEMS_ATTENTION_BACK_MMA ||
                      key->kernel == GEMS_ATTENTION_BACK_FAST;
    int files = 0;
    p->files[files++] = "attention.cuh";
    if (key->kernel == GEMS_ATTENTION_WGMMA) {
        gems_text_add(&p->head, "constexpr int kD = %d, kTileN = %d, kGroups = %d, kStages = %d;\n",
                      tune[DIM] * 16, tune[TILE_N] * 16, tune[WARPS] / 4 - 1, tune[EACH]);
        p->files[files++] = "pair.cuh";
        p->files[files++] = "hopper.cuh";
        p->files[files++] = "attention_wgmma.cu";
        p->entries[0] = "attention";
        p->entries[1] = "attention_begin";
        p->entry_count = 2;
        snprintf(p->name, sizeof p->name, "attention wgmma %s %dx%d",
                 gems_dtype_name(key->dtype[0]), tune[DIM] * 16, tune[TILE_N] * 16);
        return GEMS_OK;
    }
    if (key->kernel == GEMS_ATTENTION_BACK_WGMMA) {
        gems_attention_back_program(key, p);
        return GEMS_OK;
    }
    if (fast) {
        gems_text_add(&p->head, "constexpr int kTileM = %d, kTileN = %d;\n", tune[TILE_M] * 16,
                      tune[TILE_N] * 16);
        p->files[files++] = "matmul.cuh";
        p->files[files++] = "panel.cuh";
        p->files[files++] = "attention_fast.cuh";
        p->files[files++] = back ? "attention_backward_fast.cu" : "attention_fast.cu";
    } else if (mma) {
        gems_text_add(
            &p->head,
            "constexpr int kD = %d, kDV = %d, kTileN = %d, kWarps = %d, kAcross = %d, kEach = %d;\n"
            "constexpr bool kAligned = %s, kShared = %s;\n",
            tune[DIM] * 16, tune[DIM_V] * 16, tune[TILE_N] * 16, tune[WARPS], tune[ACROSS],
            tune[EACH], word(key->flags, GEMS_ATTENTION_ALIGNED),
            word(key->flags, GEMS_ATTENTION_SHARED));
        p->files[files++] = "pair.cuh";
        p->files[files++] = "attention_mma.cuh";
        if (back) p->files[files++] = "attention_delta.cuh";
        p->files[files++] = back ? "attention_backward_mma.cu" : "attention_mma.cu";
    } else {
        gems_text_add(&p->head, "constexpr int kD = %d, kDV = %d, kR = %d;\n", tune[DIM] * 16,
                      tune[DIM_V] * 16, tune[EACH]);
        p->files[files++] = "attention_fma.cuh";
        if (back) p->files[files++] = "attention_delta.cuh";
        p->files[files++] = back ? "attention_backward.cu" : "attention_fma.cu";
    }
    if (!back) p->files[files++] = "attention_merge.cuh";
    p->entries[0] = back ? "attention_delta" : "attention";
    p->entries[1] = back ? "attention_queries" : "attention_merge";
    if (back) p->entries[2] = "attention_keys";
    p->entry_count = back ? 3 : 2;
    snprintf(p->name, sizeof p->name, "attention %s %s %dx%d%s%s%s%s%s", names[key->kernel],
             gems_dtype_name(key->dtype[0]), tune[DIM] * 16, tune[DIM_V] * 16, kind ? " mask" : "",
             key->flags & GEMS_ATTENTION_PAGED ? " paged" : "",
             key->flags & GEMS_ATTENTION_CAPPED ? " capped" : "",
             key->flags & GEMS_ATTENTION_ALIBI ? " alibi" : "",
             key->flags & GEMS_ATTENTION_DROPOUT ? " dropout" : "");
    return GEMS_OK;
}

bool gems_attention_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                         gems_key *key) {
    static const int dims[] = {64, 128};
    const bool back = op->mode == GEMS_ATTENTION_MODE_BACKWARD ||
                      op->mode == GEMS_ATTENTION_MODE_FOR_CPU_BACKWARD ||
                      op->mode == GEMS_ATTENTION_MODE_FLASH_BACKWARD ||
                      op->mode == GEMS_ATTENTION_MODE_EFFICIENT_BACKWARD ||
                      op->mode == GEMS_ATTENTION_MODE_CUDNN_BACKWARD;
    const bool varlen = op->mode == GEMS_ATTENTION_MODE_VARLEN;
    const int kinds = back || info->fast || !is_half(dtype) ? 1 : 2; /* many queries, few */
    const int count = (info->fast ? 1 : 2) * kinds;
    gems_attention_config config;
    uint16_t row = key->op;
    if (i >= count) {
        /* Those of sm_90a. */
        static const uint16_t sizes[][2] = {{64, 1},  {128, 1}, {128, 0}, {256, 1},
                                            {192, 1}, {96, 1},  {96, 0}};
        i -= count;
        if (back && i < 3)
            return gems_attention_back_warm(info, dtype, sizes[i == 2 ? 5 : i][0], key);
        if (back || varlen || i >= (int)(sizeof sizes / sizeof *sizes)) return false;
        if (!gems_attention_wgmma_configure(info, dtype, sizes[i][0], sizes[i][1], &config))
            return false;
        *key = gems_attention_key(&config, dtype, GEMS_NO_DTYPE, 0);
        key->op = row;
        return true;
    }
    const int dim = dims[i / kinds],
              flags = GEMS_ATTENTION_ALIGNED | (varlen ? GEMS_ATTENTION_PAGED : 0);
    gems_status status =
        back ? gems_attention_configure_backward(info, dtype, dim, dim, &config)
             : gems_attention_configure(info, dtype, dim, dim, i % kinds ? 16 : 4096, true, false,
                                        &config);
    if (status != GEMS_OK) return false;
    *key = gems_attention_key(&config, dtype, GEMS_NO_DTYPE, flags);
    key->op = row;
    return true;
}
