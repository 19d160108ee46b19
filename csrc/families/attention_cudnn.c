/* The operators of attention that torch keeps for cuDNN, and which its
 * F.scaled_dot_product_attention picks first on sm_90: by the kernels of sm_90a where they are
 * faster. Either takes what the other one, or cuDNN, has made. */
#include "attention.h"

#include <string.h>

/* Places of the arguments. */
enum {
    QUERY,
    KEY,
    VALUE,
    BIAS,
    CU_Q,
    CU_K,
    MAX_Q,
    MAX_K,
    WITH_LOGS,
    DROPOUT,
    CAUSAL,
    DEBUG,
    SCALE
};
/* Outputs; the rest of what is returned is undefined, or a number that was given. */
enum { OUT, LOGS, SEED, OFFSET };

gems_status gems_attention_cudnn_run(gems_call *call) {
    const gems_tensor *q = gems_arg_tensor(call, QUERY), *k = gems_arg_tensor(call, KEY),
                      *v = gems_arg_tensor(call, VALUE);
    gems_attention_params p;
    GEMS_TRY(gems_attention_read(call, q, k, v, NULL, true, &p));
    if (!gems_arg_none(call, BIAS)) return gems_decline("a bias");
    if (!gems_arg_none(call, CU_Q) || !gems_arg_none(call, CU_K))
        return gems_decline("packed sequences");
    if (gems_arg_double(call, DROPOUT) != 0 || gems_arg_int(call, DEBUG))
        return gems_decline("dropout, or its mask");
    if (gems_arg_int(call, MAX_Q) != p.queries || gems_arg_int(call, MAX_K) != p.keys)
        return gems_decline("lengths that are not those of the tensors");
    if ((p.dim > 1 && q->strides[3] != 1) || (p.dim > 1 && k->strides[3] != 1) ||
        (p.dim_v > 1 && v->strides[3] != 1))
        return gems_decline("a last dimension that is not contiguous");
    if (!gems_arg_none(call, SCALE)) p.scale = gems_arg_double(call, SCALE);
    if (gems_arg_int(call, CAUSAL)) p.right = 0;
    GEMS_TRY(gems_attention_operand(call, q, &p.q, &p.qs));
    GEMS_TRY(gems_attention_operand(call, k, &p.k, &p.ks));
    GEMS_TRY(gems_attention_operand(call, v, &p.v, &p.vs));
    const gems_device_info *info = gems_device_information(call->device);
    if (call->device_type != GEMS_CPU &&
        !(gems_attention_wgmma_takes(info, &p, q->dtype, GEMS_NO_DTYPE, 0, 0) &&
          gems_attention_wgmma_beats_cudnn(info, &p)))
        return gems_decline("a case in which cuDNN is faster on a GPU");

    const int64_t sizes[4] = {p.batch, p.heads, p.queries, p.dim_v};
    const int64_t logs[4] = {p.batch, p.heads, p.queries, 1};
    const bool with_logs = gems_arg_int(call, WITH_LOGS);
    int64_t strides[4];
    gems_attention_follow(q, sizes, strides);
    GEMS_TRY(gems_output(call, OUT, 4, sizes, strides, q->dtype));
    if (with_logs) GEMS_TRY(gems_output(call, LOGS, 4, logs, NULL, GEMS_F32));
    GEMS_TRY(gems_output(call, SEED, 0, sizes, NULL, GEMS_I64));
    GEMS_TRY(gems_output(call, OFFSET, 0, sizes, NULL, GEMS_I64));
    if (call->device_type == GEMS_CPU) {
        memset(call->out[SEED].data, 0, 8);
        memset(call->out[OFFSET].data, 0, 8);
    }
    if (!call->out[OUT].numel) return GEMS_OK;
    const int64_t *os = call->out[OUT].strides;
    p.o = call->out[OUT].data;
    p.os = (gems_attention_strides){os[0], os[1], os[2]};
    if (with_logs)
        p.lse = call->out[LOGS].data;
    else
        GEMS_TRY(gems_scratch(call, (size_t)(sizes[0] * sizes[1] * sizes[2]) * 4, &p.lse));
    p.lse_batch = sizes[1] * sizes[2], p.lse_head = sizes[2], p.lse_row = 1;
    return gems_attention_launch(call, &p, q->dtype, GEMS_NO_DTYPE, 0, 0);
}

/* grad_out, query, key, value, out, logsumexp, philox_seed, philox_offset, attn_bias, cu_seqlens of
 * both, max_seqlens, dropout_p, is_causal, scale. Has not run on a GPU behind this operator; the
 * kernels have, behind the flash kernel's. */
gems_status gems_attention_cudnn_backward_run(gems_call *call) {
    const gems_tensor *lse = gems_arg_tensor(call, 5);
    gems_attention_inside given = {
        .causal = gems_arg_int(call, 14),
        .heads_first = true,
        .behind_cudnn = true,
    };
    for (int i = 0; i < 5; i++) given.t[i] = gems_arg_tensor(call, i);
    if (!gems_arg_none(call, 8)) return gems_decline("a bias");
    if (!gems_arg_none(call, 9) || !gems_arg_none(call, 10))
        return gems_decline("packed sequences");
    if (gems_arg_double(call, 13) != 0) return gems_decline("dropout");
    if (!lse || lse->ndim != 4 || lse->sizes[3] != 1)
        return gems_decline("the logsumexp does not fit");
    gems_tensor logs = *lse; /* [batch, heads, length, 1] */
    logs.ndim = 3;
    given.lse = &logs;
    if (!gems_arg_none(call, 15) && (given.scale = gems_arg_double(call, 15)) == 0)
        return gems_decline("a scale of 0");
    return gems_attention_inside_backward(call, &given);
}
