/* Attention on sm_90a: which problems its kernel takes, its tiles, and the maps of its operands.
 * Twin of kernels/attention_wgmma.cu. */
#include "attention.h"

#define SLACK 1024 /* to begin the tiles at a multiple of so many bytes */
#define BARS  256  /* bytes of the barriers behind them */
/* Queries below which a GPU leaves a problem to the kernel that parts the keys. */
#define FEW   64

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

bool gems_attention_wgmma_configure(const gems_device_info *info, int dtype, int dim, bool narrow,
                                    gems_attention_config *c) {
    if (!info->hopper || (dtype != GEMS_F16 && dtype != GEMS_BF16) || dim > 256) return false;
    const int32_t d = dim <= 64    ? 64
                      : dim <= 96  ? 96
                      : dim <= 128 ? 128
                      : dim <= 192 ? 192
                                   : 256,
                  groups = d == 64 ? 3 : 2,
                  tile_n = d == 256                        ? 80
                           : d == 192                      ? 112
                           : d <= 128 && d > 64 && !narrow ? 176
                                                           : 128,
                  tile_m = groups * 64;
    const int64_t wide = ceil_div(d, 64) * 64, stage = 4 * tile_n * wide,
                  queries = 2 * tile_m * wide;
    const int64_t stages = least((info->shared_bytes - SLACK - BARS - queries) / stage, 3);
    *c = (gems_attention_config){
        .kernel = GEMS_ATTENTION_WGMMA,
        .warps = (uint8_t)(groups * 4 + 4),
        .each = (uint8_t)stages,
        .kd = d,
        .kdv = d,
        .tile_m = tile_m,
        .tile_n = tile_n,
        .threads = (uint32_t)(groups * 128 + 128),
        .shared = (uint32_t)(SLACK + queries + stages * stage + BARS),
    };
    return stages >= 2;
}

bool gems_attention_has_map(const gems_attention_strides *s, int64_t batch, int64_t heads,
                            int64_t rows) {
    return (batch == 1 || s->batch > 0) && (heads == 1 || s->head > 0) && (rows == 1 || s->row > 0);
}

static int64_t blocks_of(const gems_attention_params *p) {
    return ceil_div(p->queries, 128) * p->batch * p->heads;
}

bool gems_attention_wgmma_fills(const gems_device_info *info, const gems_attention_params *p) {
    const int64_t blocks = blocks_of(p), wanted = info->processors;
    return p->queries >= 128 && blocks * (p->keys <= 1024 ? 3 : 2) >= wanted;
}

bool gems_attention_wgmma_beats_cudnn(const gems_device_info *info,
                                      const gems_attention_params *p) {
    const int64_t dim = most(p->dim, p->dim_v), keys = p->keys;
    const bool causal = p->right < keys;
    if (!gems_attention_wgmma_fills(info, p)) return false;
    if (dim <= 48) return keys >= 2048;
    if (dim <= 64) return keys >= 4096;
    if (dim <= 128) return keys >= (causal ? 1024 : dim <= 96 ? 2048 : 8192);
    if (dim <= 192) return keys >= 2048;
    return causal && keys >= 1024 && keys <= 2048;
}

bool gems_attention_wgmma_takes(const gems_device_info *info, const gems_attention_params *p,
                                int dtype, int mask, int flags, int splits) {
    if (!info->hopper || (dtype != GEMS_F16 && dtype != GEMS_BF16)) return false;
    if (mask != GEMS_NO_DTYPE || flags || splits > 1 || !(p->scale > 0)) return false;
    if (p->dim % 8 || p->dim_v % 8 || p->dim > 256 || p->dim_v > 256 || !p->keys) return false;
    if (!gems_attention_aligned(p->q, &p->qs, dtype) ||
        !gems_attention_aligned(p->k, &p->ks, dtype) ||
        !gems_attention_aligned(p->v, &p->vs, dtype))
        return false;
    if (!gems_attention_has_map(&p->qs, p->cu_q ? 1 : p->batch, p->heads, p->queries) ||
        !gems_attention_has_map(&p->ks, p->cu_k ? 1 : p->batch, p->heads / p->group, p->keys) ||
        !gems_attention_has_map(&p->vs, p->cu_k ? 1 : p->batch, p->heads / p->group, p->keys))
        return false;
    if (!info->arch) return true; /* a CPU that plays the device */
    /* Few blocks would go over many keys: a kernel that parts the keys is faster. */
    return p->queries >= FEW && (blocks_of(p) * 2 >= info->processors || p->keys <= 1024);
}

gems_status gems_attention_write_map(const gems_call *call, const void *data,
                                     const gems_attention_strides *s, int dtype, int64_t dim,
                                     int64_t rows, int64_t heads, int64_t batch, int box,
                                     unsigned char *map) {
    const int64_t some = ceil_div(dim, 8) * 16; /* where a stride says nothing */
    const gems_tensor_map of = {
        .data = data,
        .sizes = {dim, rows, heads, batch},
        .strides = {s->row > 0 ? s->row * 2 : some, s->head > 0 ? s->head * 2 : some,
                    s->batch > 0 ? s->batch * 2 : some},
        .box = {64, box},
        .dtype = (uint8_t)dtype,
    };
    return gems_device_backend(call->device)->tensor_map(gems_device_index(call->device), &of, map);
}

gems_status gems_attention_wgmma_launch(gems_call *call, gems_attention_params *p, int dtype) {
    const gems_device_info *info = gems_device_information(call->device);
    const bool narrow = p->right < p->keys || p->left < p->keys;
    gems_attention_config config;
    if (!gems_attention_aligned(p->o, &p->os, dtype))
        return gems_decline("a result whose rows are not at multiples of 16 bytes");
    if (!gems_attention_wgmma_configure(info, dtype, (int)most(p->dim, p->dim_v), narrow, &config))
        return gems_decline("head dimensions, or less shared memory than tiles");
    const int64_t lines = (int64_t)p->batch * p->heads, kv_heads = p->heads / p->group;
    /* Half of the cache keeps the keys and values of the heads that are at work. */
    const int64_t fit = info->l2_bytes / 2 / ((int64_t)p->keys * (p->dim + p->dim_v) * 2);
    const int64_t sections = ceil_div(lines, least(most(fit, 1) * p->group, lines));
    p->section = (int32_t)(ceil_div(ceil_div(lines, sections), p->group) * p->group);
    p->tiles = (int32_t)ceil_div(p->queries, config.tile_m);
    if (p->tiles * lines > INT32_MAX) return gems_decline("more tiles than a grid takes");
    _Alignas(64) unsigned char maps[3][GEMS_TENSOR_MAP_BYTES];
    const int64_t rows_q = p->cu_q ? p->rows_q : p->queries, batch_q = p->cu_q ? 1 : p->batch,
                  rows_k = p->cu_k ? p->rows_k : p->keys, batch_k = p->cu_k ? 1 : p->batch;
    GEMS_TRY(gems_attention_write_map(call, p->q, &p->qs, dtype, p->dim, rows_q, p->heads, batch_q,
                                      config.tile_m, maps[0]));
    GEMS_TRY(gems_attention_write_map(call, p->k, &p->ks, dtype, p->dim, rows_k, kv_heads, batch_k,
                                      config.tile_n, maps[1]));
    GEMS_TRY(gems_attention_write_map(call, p->v, &p->vs, dtype, p->dim_v, rows_k, kv_heads,
                                      batch_k, config.tile_n, maps[2]));
    gems_key key = gems_attention_key(&config, dtype, GEMS_NO_DTYPE, 0);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    const int64_t units = p->tiles * lines, blocks = least(units, info->processors);
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {config.threads, 1, 1},
                   one[3] = {1, 1, 1}, few[3] = {32, 1, 1};
    void *args[] = {p, maps[0], maps[1], maps[2]}, *begins[] = {&p->counter};
    /* Tiles of unequal length are drawn by the block that is ready for one. */
    p->counter = NULL;
    if (units > blocks && (narrow || p->cu_q || p->cu_k || p->used_k)) {
        GEMS_TRY(gems_scratch(call, sizeof(uint32_t), &p->counter));
        GEMS_TRY(gems_call_launch(call, plan, 1, one, few, 0, begins));
    }
    return gems_call_launch(call, plan, 0, grid, block, config.shared, args);
}
