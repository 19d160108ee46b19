/* Attention of packed sequences, over packed keys or pages of them. */
#include "attention.h"
#include "modes.h"
#include "pack.h"

#include <math.h>
#include <string.h>

/* The arguments of our operator and of ATen's, by place. */
enum {
    Q,
    K,
    V,
    CU_Q,
    CU_K,
    USED_K,
    TABLE,
    ALIBI,
    MAX_Q,
    MAX_K,
    SCALE,
    CAUSAL,
    LEFT,
    RIGHT,
    SOFTCAP,
    SPLITS,
    ARGUMENTS
};
static const int8_t ours[ARGUMENTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const int8_t atens[ARGUMENTS] = {0, 1, 2, 3, 4, 13, 15, 14, 5, 6, 10, 8, 11, 12, -1, 16};

/* An argument of int32 numbers that lie side by side along its last dimension. */
static gems_status read_ints(const gems_call *call, int i, int ndim, int64_t count,
                             const void **data) {
    const gems_tensor *t = gems_arg_tensor(call, i);
    if (!t) return GEMS_OK;
    if (t->dtype != GEMS_I32)
        return gems_decline("cu_seqlens, seqused_k and block_table are int32");
    if (t->ndim != ndim || t->sizes[0] != count ||
        (t->sizes[ndim - 1] > 1 && t->strides[ndim - 1] != 1))
        return gems_decline("shape of cu_seqlens, seqused_k or block_table");
    *data = t->data;
    return GEMS_OK;
}

/* Data and strides of [total, heads, dim] or [batch, length, heads, dim]. */
static gems_status read_rows(gems_call *call, const gems_tensor *t, bool pages, const void **data,
                             gems_attention_strides *s) {
    const int n = t->ndim;
    const int64_t *strides = t->strides;
    int64_t contiguous[GEMS_MAX_DIMS];
    *data = t->data;
    if (t->sizes[n - 1] > 1 && strides[n - 1] != 1) {
        if (pages) return gems_decline("pages whose last dimension is not contiguous");
        GEMS_TRY(gems_pack(call, t, data));
        gems_contiguous_strides(t->sizes, n, contiguous);
        strides = contiguous;
    }
    *s = (gems_attention_strides){n == 4 ? strides[0] : 0, strides[n - 2], strides[n - 3]};
    return GEMS_OK;
}

static gems_status check(const gems_call *call, const int8_t *at, const gems_tensor *q,
                         const gems_tensor *k, const gems_tensor *v) {
    if (!q || !k || !v) return gems_decline("an argument is no tensor");
    if (!(call->op->dtypes & GEMS_BIT(q->dtype % GEMS_DTYPES)))
        return gems_decline("dtype without a kernel");
    if (k->dtype != q->dtype || v->dtype != q->dtype)
        return gems_decline("tensors of several dtypes");
    if (q->ndim != (gems_arg_none(call, at[CU_Q]) ? 4 : 3)) return gems_decline("dimensions of q");
    if (k->ndim != (gems_arg_none(call, at[CU_K]) ? 4 : 3) || v->ndim != k->ndim)
        return gems_decline("dimensions of k and v: packed ones need cu_seqlens_k");
    if (!gems_arg_none(call, at[TABLE]) && (k->ndim != 4 || gems_arg_none(call, at[USED_K])))
        return gems_decline("pages of keys need seqused_k, and no cu_seqlens_k");
    for (int d = 0; d + 1 < k->ndim; d++)
        if (k->sizes[d] != v->sizes[d]) return gems_decline("sizes of k and v differ");
    if (q->sizes[q->ndim - 1] != k->sizes[k->ndim - 1] || q->sizes[q->ndim - 1] < 1 ||
        v->sizes[v->ndim - 1] < 1)
        return gems_decline("head dimensions");
    const int64_t heads = q->sizes[q->ndim - 2], kv_heads = k->sizes[k->ndim - 2];
    if (!kv_heads || heads % kv_heads)
        return gems_decline("the heads of q are no multiple of those of k");
    return GEMS_OK;
}

static int32_t window(int64_t n) {
    return n < 0 || n > GEMS_ATTENTION_FAR ? GEMS_ATTENTION_FAR : (int32_t)n;
}

/* A number that may be left out. */
static int64_t whole(const gems_call *call, int i, int64_t otherwise) {
    return i < 0 || gems_arg_none(call, i) ? otherwise : gems_arg_int(call, i);
}

/* What ATen's operator gives beside: the state of random numbers that nobody draws, and no mask of
 * them. */
static gems_status make_rest(gems_call *call, int dtype) {
    const int64_t sizes[2] = {2, 0};
    GEMS_TRY(gems_output(call, 2, 1, sizes, NULL, GEMS_U64));
    GEMS_TRY(gems_output(call, 3, 0, sizes, NULL, GEMS_U64));
    GEMS_TRY(gems_output(call, 4, 1, sizes + 1, NULL, dtype));
    if (call->device_type == GEMS_CPU) {
        memset(call->out[2].data, 0, 16);
        memset(call->out[3].data, 0, 8);
    }
    return GEMS_OK;
}

gems_status gems_attention_varlen_run(gems_call *call) {
    const bool aten = call->op->mode == GEMS_ATTENTION_MODE_FLASH;
    const int8_t *at = aten ? atens : ours;
    const gems_tensor *q = gems_arg_tensor(call, at[Q]), *k = gems_arg_tensor(call, at[K]),
                      *v = gems_arg_tensor(call, at[V]);
    const gems_tensor *cu_q = gems_arg_tensor(call, at[CU_Q]),
                      *table = gems_arg_tensor(call, at[TABLE]),
                      *alibi = gems_arg_tensor(call, at[ALIBI]);
    if (aten && (gems_arg_double(call, 7) != 0 || gems_arg_int(call, 9)))
        return gems_decline("dropout, or its mask");
    GEMS_TRY(check(call, at, q, k, v));
    if (aten && (q->sizes[q->ndim - 1] != v->sizes[v->ndim - 1] ||
                 gems_arg_none(call, at[CU_Q]) != gems_arg_none(call, at[CU_K])))
        return gems_decline("arguments that ATen does not take");
    const int64_t batch = cu_q ? cu_q->numel - 1 : q->sizes[0], heads = q->sizes[q->ndim - 2];
    const int64_t max_q = cu_q ? gems_arg_int(call, at[MAX_Q]) : q->sizes[1],
                  max_k = gems_arg_int(call, at[MAX_K]);
    const bool causal = gems_arg_int(call, at[CAUSAL]);
    if (batch < 0) return gems_decline("cu_seqlens_q has no element");
    if (!table && k->ndim == 4 && k->sizes[0] != batch) return gems_decline("batch sizes differ");
    if (max_q < 0 || max_k < 0 || max_q >= GEMS_ATTENTION_FAR || max_k >= GEMS_ATTENTION_FAR ||
        batch >= GEMS_ATTENTION_FAR)
        return gems_decline("max_seqlen");
    gems_attention_params p = {
        .scale = gems_arg_none(call, at[SCALE]) ? 1 / sqrt((double)q->sizes[q->ndim - 1])
                                                : gems_arg_double(call, at[SCALE]),
        .cap = aten ? 0 : gems_arg_double(call, at[SOFTCAP]),
        .keep = 1,
        .empty_lse = INFINITY,
        .batch = (int32_t)batch,
        .heads = (int32_t)heads,
        .group = (int32_t)(heads / k->sizes[k->ndim - 2]),
        .queries = (int32_t)max_q,
        .keys = (int32_t)max_k,
        .dim = (int32_t)q->sizes[q->ndim - 1],
        .dim_v = (int32_t)v->sizes[v->ndim - 1],
        .rows_q = q->sizes[0],
        .rows_k = k->sizes[0],
        .left = window(whole(call, at[LEFT], -1)),
        .right = causal ? 0 : window(whole(call, at[RIGHT], -1)),
        .from_end = 1,
        .page = gems_fastdiv_make(1),
    };
    int flags = (p.cap != 0 ? GEMS_ATTENTION_CAPPED : 0);
    if (p.cap < 0) return gems_decline("a softcap below 0");
    GEMS_TRY(read_ints(call, at[CU_Q], 1, batch + 1, &p.cu_q));
    GEMS_TRY(read_ints(call, at[CU_K], 1, batch + 1, &p.cu_k));
    GEMS_TRY(read_ints(call, at[USED_K], 1, batch, &p.used_k));
    GEMS_TRY(read_ints(call, at[TABLE], 2, batch, &p.table));
    if (table) {
        if (k->sizes[1] < 1 || k->sizes[1] > INT32_MAX) return gems_decline("size of a page");
        p.page = gems_fastdiv_make((uint32_t)k->sizes[1]);
        p.table_row = table->strides[0];
        flags |= GEMS_ATTENTION_PAGED;
    } else if (k->ndim == 4) {
        p.keys = (int32_t)k->sizes[1];
    }
    if (alibi) {
        if (alibi->dtype != GEMS_F32 || alibi->ndim < 1 || alibi->ndim > 2 ||
            alibi->sizes[alibi->ndim - 1] != heads ||
            (heads > 1 && alibi->strides[alibi->ndim - 1] != 1) ||
            (alibi->ndim == 2 && alibi->sizes[0] != batch))
            return gems_decline("alibi_slopes are float32, [heads] or [batch, heads]");
        p.alibi = alibi->data;
        p.alibi_batch = alibi->ndim == 2 ? alibi->strides[0] : 0;
        flags |= GEMS_ATTENTION_ALIBI;
    }
    if (aten && (q->strides[q->ndim - 1] != 1 || k->strides[k->ndim - 1] != 1 ||
                 v->strides[v->ndim - 1] != 1))
        return gems_decline("a last dimension that is not contiguous");
    GEMS_TRY(read_rows(call, q, false, &p.q, &p.qs));
    GEMS_TRY(read_rows(call, k, table, &p.k, &p.ks));
    GEMS_TRY(read_rows(call, v, table, &p.v, &p.vs));

    const int splits = (int)whole(call, at[SPLITS], 0);
    const gems_device_info *info = gems_device_information(call->device);
    if (aten && call->device_type != GEMS_CPU &&
        !(gems_attention_wgmma_takes(info, &p, q->dtype, GEMS_NO_DTYPE, flags, splits) &&
          gems_attention_wgmma_fills(info, &p)))
        return gems_decline("a case in which ATen is faster on a GPU");

    int64_t sizes[4], strides[4], lse[3];
    for (int d = 0; d < q->ndim; d++) sizes[d] = q->sizes[d];
    sizes[q->ndim - 1] = p.dim_v;
    const int packed = cu_q != NULL;
    lse[0] = batch, lse[1 - packed] = heads, lse[2 - packed] = packed ? q->sizes[0] : max_q;
    if (aten) gems_output_strides(sizes, q->ndim, &q->strides, 1, strides);
    GEMS_TRY(gems_output(call, 0, q->ndim, sizes, aten ? strides : NULL, q->dtype));
    GEMS_TRY(gems_output(call, 1, 3 - packed, lse, NULL, gems_dtype_opmath(q->dtype)));
    if (aten) GEMS_TRY(make_rest(call, q->dtype));
    const gems_tensor *out = &call->out[0];
    if (!call->nonempty || !batch || !max_q) return GEMS_OK;
    if (out->sizes[out->ndim - 1] > 1 && out->strides[out->ndim - 1] != 1)
        return gems_decline("an output whose last dimension is not contiguous");
    p.o = out->data, p.lse = call->out[1].data;
    p.os = (gems_attention_strides){packed ? 0 : out->strides[0], out->strides[out->ndim - 2],
                                    out->strides[out->ndim - 3]};
    const int64_t *ls = call->out[1].strides;
    p.lse_batch = packed ? 0 : ls[0], p.lse_head = ls[1 - packed], p.lse_row = ls[2 - packed];
    return gems_attention_launch(call, &p, q->dtype, GEMS_NO_DTYPE, flags, splits);
}
