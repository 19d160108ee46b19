/* The operators of attention that torch names memory-efficient, forward and backward, without a
 * mask: of 16-bit floats by the kernels of sm_90a. Their numbers were compared on an H200; the
 * times are those beside torch's flash kernel, torch's memory-efficient one was not timed. */
#include "attention.h"

#include <string.h>

enum {
    QUERY,
    KEY,
    VALUE,
    BIAS,
    CU_Q,
    CU_K,
    MAX_Q,
    MAX_K,
    DROPOUT,
    MASK_KIND,
    WITH_LOGS,
    SCALE,
    USED_K,
    WINDOW
};
/* Outputs; behind them the lengths are returned, which stand in for MAX_Q and MAX_K. */
enum { OUT, LOGS, SEED, OFFSET };

#define LOGS_TILE 32 /* rows of the logsumexp are rounded up to so many */

gems_status gems_attention_efficient_run(gems_call *call) {
    const gems_tensor *inside[3];
    gems_tensor t[3];
    int64_t sizes[3][4], strides[3][4];
    for (int i = 0; i < 3; i++) {
        inside[i] = gems_arg_tensor(call, i);
        if (!inside[i]) return gems_decline("an argument is no tensor");
        if (inside[i]->ndim != 4) return gems_decline("tensors of other than four dimensions");
        if (inside[i]->sizes[3] > 1 && inside[i]->strides[3] != 1)
            return gems_decline("a last dimension that is not contiguous");
        static const int order[] = {0, 2, 1, 3};
        for (int d = 0; d < 4; d++)
            sizes[i][d] = inside[i]->sizes[order[d]], strides[i][d] = inside[i]->strides[order[d]];
        t[i] = *inside[i];
        t[i].sizes = sizes[i], t[i].strides = strides[i];
    }
    for (int i = BIAS; i <= CU_K; i++)
        if (!gems_arg_none(call, i)) return gems_decline("a bias, or packed sequences");
    if (!gems_arg_none(call, USED_K) || !gems_arg_none(call, WINDOW))
        return gems_decline("seqlen_k, or a window");
    if (gems_arg_double(call, DROPOUT) != 0) return gems_decline("dropout");
    const int64_t kind = gems_arg_int(call, MASK_KIND);
    if (kind < 0 || kind > 2) return gems_decline("custom_mask_type");
    gems_attention_params p;
    GEMS_TRY(gems_attention_read(call, &t[0], &t[1], &t[2], NULL, false, &p));
    if (!gems_arg_none(call, SCALE)) p.scale = gems_arg_double(call, SCALE);
    if (kind) p.right = 0;
    p.from_end = kind == 2;
    const bool with_logs = gems_arg_int(call, WITH_LOGS);
    if (with_logs && p.queries % LOGS_TILE)
        return gems_decline("a logsumexp that ends within a tile");
    GEMS_TRY(gems_attention_operand(call, &t[0], &p.q, &p.qs));
    GEMS_TRY(gems_attention_operand(call, &t[1], &p.k, &p.ks));
    GEMS_TRY(gems_attention_operand(call, &t[2], &p.v, &p.vs));
    const gems_device_info *info = gems_device_information(call->device);
    if (call->device_type != GEMS_CPU &&
        !(gems_attention_wgmma_takes(info, &p, t[0].dtype, GEMS_NO_DTYPE, 0, 0) &&
          gems_attention_wgmma_fills(info, &p)))
        return gems_decline("a case in which ATen is faster on a GPU");

    const int64_t out[4] = {p.batch, p.queries, p.heads, p.dim_v},
                  logs[3] = {p.batch, p.heads, with_logs ? p.queries : 0};
    GEMS_TRY(gems_output(call, OUT, 4, out, NULL, t[0].dtype));
    GEMS_TRY(gems_output(call, LOGS, 3, logs, NULL, GEMS_F32));
    GEMS_TRY(gems_output(call, SEED, 0, out, NULL, GEMS_I64));
    GEMS_TRY(gems_output(call, OFFSET, 0, out, NULL, GEMS_I64));
    call->args[MAX_Q] = (gems_value){.kind = GEMS_INT, .i = p.queries};
    call->args[MAX_K] = (gems_value){.kind = GEMS_INT, .i = p.keys};
    if (call->device_type == GEMS_CPU) {
        memset(call->out[SEED].data, 0, 8);
        memset(call->out[OFFSET].data, 0, 8);
    }
    if (!call->out[OUT].numel) return GEMS_OK;
    const int64_t *os = call->out[OUT].strides;
    p.o = call->out[OUT].data;
    p.os = (gems_attention_strides){os[0], os[2], os[1]};
    if (with_logs)
        p.lse = call->out[LOGS].data;
    else
        GEMS_TRY(gems_scratch(call, (size_t)(out[0] * out[1] * out[2]) * 4, &p.lse));
    p.lse_batch = out[1] * out[2], p.lse_head = out[1], p.lse_row = 1;
    return gems_attention_launch(call, &p, t[0].dtype, GEMS_NO_DTYPE, 0, 0);
}

/* grad, query, key, value, bias, out, cu_seqlens of both, max_seqlens, logsumexp, dropout, seed,
 * offset, mask type, bias_requires_grad, scale, num_splits_key, window_size, shared_storage_dqdkdv
 */
gems_status gems_attention_efficient_backward_run(gems_call *call) {
    static const int tensors[] = {0, 1, 2, 3, 5};
    const int64_t kind = gems_arg_int(call, 14);
    gems_attention_inside given = {
        .lse = gems_arg_tensor(call, 10),
        .causal = kind != 0,
        .from_end = kind == 2,
        .contiguous = true,
    };
    for (int i = 0; i < 5; i++) given.t[i] = gems_arg_tensor(call, tensors[i]);
    if (!gems_arg_none(call, 4) || gems_arg_int(call, 15)) return gems_decline("a bias");
    if (!gems_arg_none(call, 6) || !gems_arg_none(call, 7)) return gems_decline("packed sequences");
    if (gems_arg_double(call, 11) != 0) return gems_decline("dropout");
    if (kind < 0 || kind > 2) return gems_decline("custom_mask_type");
    if (!gems_arg_none(call, 18)) return gems_decline("a window");
    if (gems_arg_int(call, 19)) return gems_decline("gradients that share a storage");
    if (!gems_arg_none(call, 16) && (given.scale = gems_arg_double(call, 16)) == 0)
        return gems_decline("a scale of 0");
    return gems_attention_inside_backward(call, &given);
}
