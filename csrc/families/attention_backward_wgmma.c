/* The gradients of attention on sm_90a: which problems its kernels take, their tiles, and the
 * launches. Twin of kernels/attention_backward_wgmma.cu. */
#include "attention.h"

#include <stdio.h>

#define SLACK 1024 /* to begin the tiles at a multiple of so many bytes */
#define BARS  256  /* bytes of the barriers behind them */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Heads whose other side fits in half of the cache, `each` of which share it; all sections are of a
 * size. */
static int32_t section_of(const gems_device_info *info, int64_t heads, int64_t bytes,
                          int64_t each) {
    int64_t fit = info->l2_bytes / 2 / bytes * each;
    if (fit < each) fit = each;
    const int64_t sections = ceil_div(heads, least(fit, heads));
    return (int32_t)least(ceil_div(ceil_div(heads, sections), each) * each, heads);
}

static bool place(gems_attention_pass *pass, int64_t room, int dim, int groups, int tile) {
    const int64_t wide = ceil_div(dim, 64) * 64, lines = groups * 2 * tile * 8,
                  rows = 2 * 2 * groups * 64 * wide, stage = 2 * 2 * tile * wide;
    int64_t stages = (room - SLACK - BARS - lines - rows) / stage;
    if (stages > 4) stages = 4;
    *pass = (gems_attention_pass){
        .groups = groups,
        .tile = tile,
        .stages = (int)stages,
        .rows = groups * 64,
        .threads = (uint32_t)(groups * 128 + 128),
        .shared = (uint32_t)(SLACK + rows + stages * stage + BARS + lines),
    };
    return stages >= 2;
}

bool gems_attention_back_configure(const gems_device_info *info, int dtype, int dim,
                                   gems_attention_back *c) {
    if (!info->hopper || (dtype != GEMS_F16 && dtype != GEMS_BF16) || dim > 128) return false;
    c->dim = dim <= 64 ? 64 : dim <= 96 ? 96 : 128;
    const int64_t room = info->shared_bytes;
    return place(&c->queries, room, c->dim, 2, 128) && place(&c->keys, room, c->dim, 2, 64);
}

static gems_key key_of(const gems_attention_back *c, int dtype) {
    return (gems_key){
        .kernel = GEMS_ATTENTION_BACK_WGMMA,
        .dtype = {(uint8_t)dtype, GEMS_NO_DTYPE},
        .tune = {(uint8_t)(c->dim / 16), (uint8_t)c->queries.groups,
                 (uint8_t)(c->queries.tile / 16), (uint8_t)c->queries.stages,
                 (uint8_t)c->keys.groups, (uint8_t)(c->keys.tile / 16), (uint8_t)c->keys.stages},
    };
}

void gems_attention_back_program(const gems_key *key, gems_program *p) {
    const uint8_t *tune = key->tune;
    gems_text_add(&p->head,
                  "constexpr int kD = %d, kQueryGroups = %d, kQueryTile = %d, kQueryStages = %d, "
                  "kKeyGroups = %d, kKeyTile = %d, kKeyStages = %d;\n",
                  tune[0] * 16, tune[1], tune[2] * 16, tune[3], tune[4], tune[5] * 16, tune[6]);
    static const char *const files[] = {"attention.cuh", "pair.cuh", "hopper.cuh",
                                        "attention_backward_wgmma.cu"};
    static const char *const entries[] = {"attention_delta", "attention_queries", "attention_keys"};
    for (int i = 0; i < 4; i++) p->files[i] = files[i];
    for (int i = 0; i < 3; i++) p->entries[i] = entries[i];
    p->entry_count = 3;
    snprintf(p->name, sizeof p->name, "attention gradients wgmma %s %d",
             gems_dtype_name(key->dtype[0]), tune[0] * 16);
}

bool gems_attention_back_warm(const gems_device_info *info, int dtype, int dim, gems_key *key) {
    gems_attention_back config;
    if (!gems_attention_back_configure(info, dtype, dim, &config)) return false;
    const uint16_t row = key->op;
    *key = key_of(&config, dtype);
    key->op = row;
    return true;
}

bool gems_attention_back_takes(const gems_device_info *info, const gems_attention_params *p,
                               int dtype, int mask, int flags) {
    if (!info->hopper || (dtype != GEMS_F16 && dtype != GEMS_BF16)) return false;
    if (mask != GEMS_NO_DTYPE || flags || !(p->scale > 0)) return false;
    if (p->dim % 8 || p->dim_v % 8 || p->dim > 128 || p->dim_v > 128 || !p->keys || !p->queries)
        return false;
    const int64_t kv_heads = p->heads / p->group, batch = p->cu_q ? 1 : p->batch;
    return gems_attention_aligned(p->q, &p->qs, dtype) &&
           gems_attention_aligned(p->k, &p->ks, dtype) &&
           gems_attention_aligned(p->v, &p->vs, dtype) &&
           gems_attention_aligned(p->grad, &p->gs, dtype) &&
           gems_attention_aligned(p->o, &p->os, dtype) &&
           gems_attention_has_map(&p->qs, batch, p->heads, p->queries) &&
           gems_attention_has_map(&p->gs, batch, p->heads, p->queries) &&
           gems_attention_has_map(&p->ks, batch, kv_heads, p->keys) &&
           gems_attention_has_map(&p->vs, batch, kv_heads, p->keys);
}

bool gems_attention_back_fills(const gems_device_info *info, const gems_attention_params *p) {
    return info->hopper && p->queries >= 128; /* 1.3 to 2 times as fast from 197 queries on */
}

bool gems_attention_back_beats_cudnn(const gems_device_info *info, const gems_attention_params *p) {
    const bool causal = p->right < p->keys;
    if (!gems_attention_back_fills(info, p) ||
        p->batch * (p->heads / p->group) * ceil_div(p->keys, 128) < 3 * info->processors)
        return false;
    if (p->dim > 64 && p->dim <= 96) return p->keys >= 2048 && p->keys <= 4096;
    return causal && p->keys <= (p->dim == 128 ? 1024 : p->dim == 64 ? 512 : 0);
}

gems_status gems_attention_back_launch(gems_call *call, gems_attention_params *p, int dtype) {
    const gems_device_info *info = gems_device_information(call->device);
    gems_attention_back config;
    if (!gems_attention_aligned(p->dq, &p->dqs, dtype) ||
        !gems_attention_aligned(p->dk, &p->dks, dtype) ||
        !gems_attention_aligned(p->dv, &p->dvs, dtype))
        return gems_decline("gradients whose rows are not at multiples of 16 bytes");
    if (!gems_attention_back_configure(info, dtype, p->dim > p->dim_v ? p->dim : p->dim_v, &config))
        return gems_decline("head dimensions, or less shared memory than tiles");
    const int64_t kv_heads = p->heads / p->group,
                  q_blocks = ceil_div(p->queries, config.queries.rows) * p->heads * p->batch,
                  k_blocks = ceil_div(p->keys, config.keys.rows) * kv_heads * p->batch;
    if (q_blocks > INT32_MAX || k_blocks > INT32_MAX)
        return gems_decline("more tiles than a grid takes");
    gems_key key = key_of(&config, dtype);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    /* Packed sequences lie as one. */
    gems_attention_params whole = *p;
    if (p->cu_q)
        whole.batch = 1, whole.queries = (int32_t)p->rows_q, whole.keys = (int32_t)p->rows_k;
    const int64_t lines = (int64_t)whole.batch * p->heads * whole.queries;
    void *delta;
    GEMS_TRY(gems_scratch(call, (size_t)lines * 8, &delta));
    p->delta = whole.delta = delta;

    /* Of each operand, boxes for the pass over its own tiles and for the other pass. */
    const struct {
        const void *data;
        const gems_attention_strides *strides;
        int64_t dim, rows, heads;
        int box[2];
    } operands[4] = {
        {p->q, &p->qs, p->dim, whole.queries, p->heads, {config.queries.rows, config.keys.tile}},
        {p->grad,
         &p->gs,
         p->dim_v,
         whole.queries,
         p->heads,
         {config.queries.rows, config.keys.tile}},
        {p->k, &p->ks, p->dim, whole.keys, kv_heads, {config.queries.tile, config.keys.rows}},
        {p->v, &p->vs, p->dim_v, whole.keys, kv_heads, {config.queries.tile, config.keys.rows}},
    };
    _Alignas(64) unsigned char maps[2][4][GEMS_TENSOR_MAP_BYTES];
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < 4; i++)
            GEMS_TRY(gems_attention_write_map(call, operands[i].data, operands[i].strides, dtype,
                                              operands[i].dim, operands[i].rows, operands[i].heads,
                                              whole.batch, operands[i].box[pass], maps[pass][i]));
    void *args[] = {&whole}, *by_queries[] = {p, maps[0][0], maps[0][1], maps[0][2], maps[0][3]},
         *by_keys[] = {p, maps[1][2], maps[1][3], maps[1][0], maps[1][1]};
    const uint32_t block[3] = {256, 1, 1}, q_block[3] = {config.queries.threads, 1, 1},
                   k_block[3] = {config.keys.threads, 1, 1};
    const uint32_t grid[3] = {gems_grid_for(info, lines, config.dim <= 64 ? 32 : 16), 1, 1},
                   q_grid[3] = {(uint32_t)least(q_blocks, info->processors), 1, 1},
                   k_grid[3] = {(uint32_t)least(k_blocks, info->processors), 1, 1};
    /* Tiles of unequal length are drawn by the block that is ready for one. */
    uint32_t *counters = NULL;
    if (p->cu_q || p->right < p->keys || p->left < p->keys) {
        void *words;
        GEMS_TRY(gems_scratch(call, 2 * sizeof *counters, &words));
        counters = words;
    }
    whole.counter = counters;
    const int64_t width = (int64_t)(p->dim + p->dim_v) * 2;
    GEMS_TRY(gems_call_launch(call, plan, 0, grid, block, 0, args));
    p->tiles = (int32_t)ceil_div(p->keys, config.keys.rows);
    p->section = section_of(info, p->batch * kv_heads, p->queries * width * p->group, 1);
    p->counter = counters;
    GEMS_TRY(gems_call_launch(call, plan, 2, k_grid, k_block, config.keys.shared, by_keys));
    p->tiles = (int32_t)ceil_div(p->queries, config.queries.rows);
    p->section = section_of(info, (int64_t)p->batch * p->heads, p->keys * width, p->group);
    p->counter = counters ? counters + 1 : NULL;
    return gems_call_launch(call, plan, 1, q_grid, q_block, config.queries.shared, by_queries);
}
