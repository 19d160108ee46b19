/* Attention: softmax(scale * Q K^T + mask) V, and the logsumexp of each row. Twin of
 * kernels/attention*.cu. */
#include "attention.h"
#include "modes.h"
#include "pack.h"

#include <math.h>
#include <string.h>

/* ---- operands ---- */

gems_status gems_attention_operand(gems_call *call, const gems_tensor *t, const void **data,
                                   gems_attention_strides *s) {
    const int64_t *strides = t->strides;
    int64_t contiguous[GEMS_MAX_DIMS];
    *data = t->data;
    if (t->sizes[3] > 1 && strides[3] != 1) {
        GEMS_TRY(gems_pack(call, t, data));
        gems_contiguous_strides(t->sizes, t->ndim, contiguous);
        strides = contiguous;
    }
    *s =
        (gems_attention_strides){t->sizes[0] > 1 ? strides[0] : 0, t->sizes[1] > 1 ? strides[1] : 0,
                                 t->sizes[2] > 1 ? strides[2] : 0};
    return GEMS_OK;
}

bool gems_attention_aligned(const void *data, const gems_attention_strides *s, int dtype) {
    const int64_t vector = 16 / (int64_t)gems_dtype_size(dtype);
    return (uintptr_t)data % 16 == 0 && s->batch % vector == 0 && s->head % vector == 0 &&
           s->row % vector == 0;
}

static gems_status check(const gems_call *call, const gems_tensor *q, const gems_tensor *k,
                         const gems_tensor *v, bool gqa) {
    if (!q || !k || !v) return gems_decline("an argument is no tensor");
    if (q->ndim != 4 || k->ndim != 4 || v->ndim != 4)
        return gems_decline("tensors of other than four dimensions");
    if (!(call->op->dtypes & GEMS_BIT(q->dtype % GEMS_DTYPES)))
        return gems_decline("dtype without a kernel");
    if (k->dtype != q->dtype || v->dtype != q->dtype)
        return gems_decline("tensors of several dtypes");
    if (k->sizes[0] != q->sizes[0] || v->sizes[0] != q->sizes[0])
        return gems_decline("batch sizes differ");
    if (k->sizes[1] != v->sizes[1] || k->sizes[2] != v->sizes[2] || k->sizes[3] != q->sizes[3])
        return gems_decline("sizes of query, key and value do not fit");
    if (!k->sizes[1] || q->sizes[1] % k->sizes[1] || (!gqa && q->sizes[1] != k->sizes[1]))
        return gems_decline("numbers of heads do not fit");
    if (q->sizes[3] < 1 || v->sizes[3] < 1) return gems_decline("a head dimension of 0");
    for (int d = 0; d < 4; d++)
        if (q->sizes[d] >= GEMS_ATTENTION_FAR || k->sizes[d] >= GEMS_ATTENTION_FAR)
            return gems_decline("a size of 2^30");
    return GEMS_OK;
}

static gems_status read_mask(const gems_tensor *q, const gems_tensor *k, const gems_tensor *mask,
                             gems_attention_params *p) {
    const int64_t wanted[4] = {q->sizes[0], q->sizes[1], q->sizes[2], k->sizes[2]};
    int64_t sizes[4], strides[4];
    int ndim = 4;
    memcpy(sizes, wanted, sizeof sizes);
    if (mask->ndim > 4 || !gems_broadcast(sizes, &ndim, mask->sizes, mask->ndim) ||
        memcmp(sizes, wanted, sizeof sizes))
        return gems_decline("the mask does not expand to the scores");
    gems_broadcast_strides(mask, wanted, 4, strides);
    p->mask = mask->data;
    p->mask_batch = strides[0], p->mask_head = strides[1], p->mask_row = strides[2],
    p->mask_col = strides[3];
    return GEMS_OK;
}

gems_status gems_attention_read(gems_call *call, const gems_tensor *q, const gems_tensor *k,
                                const gems_tensor *v, const gems_tensor *mask, bool gqa,
                                gems_attention_params *p) {
    GEMS_TRY(check(call, q, k, v, gqa));
    if (mask && mask->dtype != GEMS_BOOL && mask->dtype != q->dtype && mask->dtype != GEMS_F32)
        return gems_decline("dtype of the mask");
    *p = (gems_attention_params){
        .scale = 1 / sqrt((double)q->sizes[3]),
        .keep = 1,
        .empty_lse = -INFINITY,
        .batch = (int32_t)q->sizes[0],
        .heads = (int32_t)q->sizes[1],
        .group = (int32_t)(q->sizes[1] / k->sizes[1]),
        .queries = (int32_t)q->sizes[2],
        .keys = (int32_t)k->sizes[2],
        .dim = (int32_t)q->sizes[3],
        .dim_v = (int32_t)v->sizes[3],
        .left = GEMS_ATTENTION_FAR,
        .right = GEMS_ATTENTION_FAR,
        .splits = 1,
        .tiles = 1,
        .pack = gems_fastdiv_make(1),
        .page = gems_fastdiv_make(1),
    };
    return mask ? read_mask(q, k, mask, p) : GEMS_OK;
}

/* ---- launches ---- */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Parts of the keys, so that few queries fill the device. */
static int64_t parts_of(const gems_device_info *info, int64_t blocks, int64_t keys,
                        int64_t tile_n) {
    const int64_t processors = info->fast ? gems_cpu_thread_count() : info->processors,
                  tiles = ceil_div(keys, tile_n);
    if (!blocks || blocks * 2 > processors || tiles < 2) return 1;
    int64_t parts = processors / blocks, longest = tiles / (info->fast ? 2 : 4);
    if (parts > longest) parts = longest > 1 ? longest : 1;
    return parts < 64 ? parts : 64;
}

gems_status gems_attention_launch(gems_call *call, gems_attention_params *p, int dtype, int mask,
                                  int flags, int splits) {
    const gems_device_info *info = gems_device_information(call->device);
    if (gems_attention_wgmma_takes(info, p, dtype, mask, flags, splits)) {
        gems_status status = gems_attention_wgmma_launch(call, p, dtype);
        if (status != GEMS_DECLINE) return status;
    }
    /* Few queries of several heads share a tile. */
    const int32_t pack = p->group > 1 && p->queries <= 16 ? p->group : 1;
    const int64_t rows = (int64_t)p->queries * pack;
    const bool aligned = gems_attention_aligned(p->q, &p->qs, dtype) &&
                         gems_attention_aligned(p->k, &p->ks, dtype) &&
                         gems_attention_aligned(p->v, &p->vs, dtype);
    const bool shared = p->k == p->v && p->dim_v <= p->dim && !memcmp(&p->ks, &p->vs, sizeof p->ks);
    gems_attention_config config;
    GEMS_TRY(gems_attention_configure(info, dtype, p->dim, p->dim_v, rows, p->scale > 0, shared,
                                      &config));
    flags |= (aligned ? GEMS_ATTENTION_ALIGNED : 0) | (shared ? GEMS_ATTENTION_SHARED : 0);
    gems_key key = gems_attention_key(&config, dtype, mask, flags);
    p->wide = aligned;
    p->wide_o = gems_attention_aligned(p->o, &p->os, dtype);
    p->pack = gems_fastdiv_make((uint32_t)pack);
    p->tiles = (int32_t)ceil_div(rows, config.tile_m);
    const int64_t blocks = (int64_t)p->tiles * (p->heads / pack) * p->batch;
    int64_t parts = splits > 0 ? splits : parts_of(info, blocks, p->keys, config.tile_n);
    p->split_keys = (int32_t)(ceil_div(ceil_div(p->keys, config.tile_n), parts) * config.tile_n);
    if (p->split_keys) parts = ceil_div(p->keys, p->split_keys);
    p->splits = p->split_keys ? (int32_t)parts : 1;
    if (blocks * p->splits > INT32_MAX) return gems_decline("more tiles than a grid takes");
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    const int64_t lines = (int64_t)p->batch * p->heads * p->queries;
    if (p->splits > 1)
        GEMS_TRY(gems_scratch(call,
                              (size_t)(lines * p->splits) * (size_t)(p->dim_v + 1) *
                                  (dtype == GEMS_F64 ? 8u : 4u),
                              &p->partial));
    const uint32_t grid[3] = {(uint32_t)(blocks * p->splits), 1, 1},
                   block[3] = {config.threads, 1, 1};
    void *args[] = {p};
    GEMS_TRY(gems_call_launch(call, plan, 0, grid, block, config.shared, args));
    if (p->splits == 1) return GEMS_OK;
    const int64_t items = lines * ceil_div(p->dim_v, info->fast ? 64 : 4);
    const uint32_t across[3] = {gems_grid_for(info, items, info->fast ? 64 : 256), 1, 1},
                   threads[3] = {info->fast ? 1 : 256, 1, 1};
    return gems_call_launch(call, plan, 1, across, threads, 0, args);
}

/* ---- the rows of [batch, heads, length, dim] ---- */

void gems_attention_follow(const gems_tensor *t, const int64_t *sizes, int64_t *strides) {
    gems_output_strides(sizes, 4, &t->strides, 1, strides);
    if (sizes[3] > 1 && strides[3] != 1) gems_contiguous_strides(sizes, 4, strides);
}

static gems_status run_dense(gems_call *call) {
    const bool for_cpu = call->op->mode == GEMS_ATTENTION_MODE_FOR_CPU;
    const gems_tensor *q = gems_arg_tensor(call, 0), *k = gems_arg_tensor(call, 1),
                      *v = gems_arg_tensor(call, 2);
    /* query, key, value, dropout_p, is_causal, attn_mask, scale; or attn_mask, dropout_p,
     * is_causal, scale, enable_gqa, seed, offset */
    const gems_tensor *mask = gems_arg_tensor(call, for_cpu ? 5 : 3);
    const double drop = gems_arg_double(call, for_cpu ? 3 : 4);
    const bool causal = gems_arg_int(call, for_cpu ? 4 : 5);
    gems_attention_params p;
    GEMS_TRY(gems_attention_read(call, q, k, v, mask, for_cpu || gems_arg_int(call, 7), &p));
    if (!(drop >= 0 && drop < 1)) return gems_decline("dropout_p");
    if (!gems_arg_none(call, 6)) p.scale = gems_arg_double(call, 6);
    if (causal) p.right = 0;
    if (for_cpu) {
        if (drop != 0) return gems_decline("dropout");
        if (v->sizes[3] != q->sizes[3]) return gems_decline("head dimensions differ");
        if (q->sizes[3] > 1 && q->strides[3] != 1)
            return gems_decline("a query whose last dimension is not contiguous");
        if (mask && (mask->dtype == GEMS_BOOL || (mask->ndim != 2 && mask->ndim != 4)))
            return gems_decline("a mask that ATen does not take");
        p.empty_lse = 0;
    } else if (drop != 0) {
        p.keep = 1 - drop;
        p.seed = (uint64_t)gems_arg_int(call, 8);
        p.offset = (uint64_t)gems_arg_int(call, 9);
    }
    const int64_t sizes[4] = {p.batch, p.heads, p.queries, p.dim_v};
    const int64_t lse[3] = {(int64_t)p.queries * p.heads, for_cpu ? 1 : p.queries,
                            for_cpu ? p.heads : 1};
    int64_t strides[4];
    gems_attention_follow(q, sizes, strides);
    GEMS_TRY(gems_attention_operand(call, q, &p.q, &p.qs));
    GEMS_TRY(gems_attention_operand(call, k, &p.k, &p.ks));
    GEMS_TRY(gems_attention_operand(call, v, &p.v, &p.vs));
    GEMS_TRY(gems_output(call, 0, 4, sizes, strides, q->dtype));
    GEMS_TRY(gems_output(call, 1, 3, sizes, lse, gems_dtype_opmath(q->dtype)));
    if (!call->nonempty) return GEMS_OK;
    const int64_t *os = call->out[0].strides;
    p.o = call->out[0].data, p.lse = call->out[1].data;
    p.os = (gems_attention_strides){os[0], os[1], os[2]};
    p.lse_batch = lse[0], p.lse_head = lse[1], p.lse_row = lse[2];
    return gems_attention_launch(call, &p, q->dtype, mask ? mask->dtype : GEMS_NO_DTYPE,
                                 p.keep != 1 ? GEMS_ATTENTION_DROPOUT : 0, 0);
}

static gems_status run(gems_call *call) {
    switch (call->op->mode) {
    case GEMS_ATTENTION_MODE_BACKWARD:
    case GEMS_ATTENTION_MODE_FOR_CPU_BACKWARD: return gems_attention_backward_run(call);
    case GEMS_ATTENTION_MODE_CUDNN_BACKWARD: return gems_attention_cudnn_backward_run(call);
    case GEMS_ATTENTION_MODE_EFFICIENT: return gems_attention_efficient_run(call);
    case GEMS_ATTENTION_MODE_EFFICIENT_BACKWARD: return gems_attention_efficient_backward_run(call);
    case GEMS_ATTENTION_MODE_CUDNN: return gems_attention_cudnn_run(call);
    case GEMS_ATTENTION_MODE_FLASH_BACKWARD: return gems_attention_flash_backward_run(call);
    case GEMS_ATTENTION_MODE_FLASH:
    case GEMS_ATTENTION_MODE_VARLEN: return gems_attention_varlen_run(call);
    default: return run_dense(call);
    }
}

const gems_family gems_family_attention = {
    .name = "attention",
    .run = run,
    .program = gems_attention_program,
    .warm = gems_attention_warm,
    .strided_output = true,
};
