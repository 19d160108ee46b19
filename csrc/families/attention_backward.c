/* The gradients of attention. Twin of kernels/attention_backward.cu. */
#include "attention.h"
#include "modes.h"

#include <string.h>

/* What ATen's operator for a CPU, and ours, have at which place. */
typedef struct arguments {
    const gems_tensor *grad, *q, *k, *v, *out, *lse, *mask;
    double drop;
    bool causal, gqa;
    int scale;
} arguments;

static arguments arguments_of(const gems_call *call, bool for_cpu) {
    return (arguments){
        .grad = gems_arg_tensor(call, 0),
        .q = gems_arg_tensor(call, 1),
        .k = gems_arg_tensor(call, 2),
        .v = gems_arg_tensor(call, 3),
        .out = gems_arg_tensor(call, 4),
        .lse = gems_arg_tensor(call, 5),
        .mask = gems_arg_tensor(call, for_cpu ? 8 : 6),
        .drop = gems_arg_double(call, for_cpu ? 6 : 7),
        .causal = gems_arg_int(call, for_cpu ? 7 : 8),
        .gqa = for_cpu || gems_arg_int(call, 10),
        .scale = 9,
    };
}

static gems_status check(const arguments *a, const gems_attention_params *p) {
    const int64_t out[4] = {p->batch, p->heads, p->queries, p->dim_v};
    const int dtype = a->q->dtype;
    if (!a->grad || !a->out || !a->lse) return gems_decline("an argument is no tensor");
    if (a->grad->ndim != 4 || a->out->ndim != 4 || memcmp(a->grad->sizes, out, sizeof out) ||
        memcmp(a->out->sizes, out, sizeof out) || a->grad->dtype != dtype || a->out->dtype != dtype)
        return gems_decline("the gradient or the result does not fit");
    if (a->lse->ndim != 3 || memcmp(a->lse->sizes, out, 3 * sizeof *out) ||
        a->lse->dtype != gems_dtype_opmath(dtype))
        return gems_decline("the logsumexp does not fit");
    if (!(a->drop >= 0 && a->drop < 1)) return gems_decline("dropout_p");
    return GEMS_OK;
}

/* The gradient of t: laid out as it, or, as ATen's for a CPU, with heads inside positions. */
static gems_status make(gems_call *call, int i, const gems_tensor *t, bool for_cpu, void **data,
                        gems_attention_strides *s) {
    const int64_t *n = t->sizes;
    int64_t strides[4] = {n[1] * n[2] * n[3], n[3], n[1] * n[3], 1};
    if (!for_cpu) gems_attention_follow(t, n, strides);
    GEMS_TRY(gems_output(call, i, 4, n, strides, t->dtype));
    *data = call->out[i].data;
    const int64_t *made = call->out[i].strides;
    *s = (gems_attention_strides){made[0], made[1], made[2]};
    return GEMS_OK;
}

/* Launches the kernels of a problem whose outputs exist. */
static gems_status launch(gems_call *call, gems_attention_params *p, int dtype, int mask) {
    const gems_device_info *info = gems_device_information(call->device);
    const int flags = p->keep != 1 ? GEMS_ATTENTION_DROPOUT : 0;
    if (gems_attention_back_takes(info, p, dtype, mask, flags)) {
        gems_status status = gems_attention_back_launch(call, p, dtype);
        if (status != GEMS_DECLINE) return status;
    }
    gems_attention_config config;
    GEMS_TRY(gems_attention_configure_backward(info, dtype, p->dim, p->dim_v, &config));
    const int64_t lines = (int64_t)p->batch * p->heads * p->queries;
    const int64_t q_tiles = (p->queries + config.tile_m - 1) / config.tile_m,
                  k_tiles = (p->keys + config.tile_m - 1) / config.tile_m;
    p->wide = gems_attention_aligned(p->q, &p->qs, dtype) &&
              gems_attention_aligned(p->k, &p->ks, dtype) &&
              gems_attention_aligned(p->v, &p->vs, dtype) &&
              gems_attention_aligned(p->grad, &p->gs, dtype);
    p->wide_o = gems_attention_aligned(p->dq, &p->dqs, dtype) &&
                gems_attention_aligned(p->dk, &p->dks, dtype) &&
                gems_attention_aligned(p->dv, &p->dvs, dtype);
    gems_key key =
        gems_attention_key(&config, dtype, mask, flags | (p->wide ? GEMS_ATTENTION_ALIGNED : 0));
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *delta;
    GEMS_TRY(gems_scratch(call, (size_t)lines * (dtype == GEMS_F64 ? 8 : 4), &delta));
    p->delta = delta;
    void *args[] = {p};
    const uint32_t block[3] = {config.threads, 1, 1};
    const uint32_t by_rows[3] = {gems_grid_for(info, lines, info->fast ? 256 : config.threads / 32),
                                 1, 1};
    GEMS_TRY(gems_call_launch(call, plan, 0, by_rows, block, 0, args));
    p->tiles = (int32_t)q_tiles;
    const uint32_t by_queries[3] = {(uint32_t)(q_tiles * p->heads * p->batch), 1, 1};
    GEMS_TRY(gems_call_launch(call, plan, 1, by_queries, block, config.shared, args));
    p->tiles = (int32_t)k_tiles;
    const uint32_t by_keys[3] = {(uint32_t)(k_tiles * (p->heads / p->group) * p->batch), 1, 1};
    return gems_call_launch(call, plan, 2, by_keys, block, config.shared, args);
}

/* Whether every kernel has a grid for a problem. */
static gems_status check_grid(const gems_attention_params *p) {
    const int64_t most = p->queries > p->keys ? p->queries : p->keys;
    return (most + 15) / 16 * p->heads * p->batch > INT32_MAX
               ? gems_decline("more tiles than a grid takes")
               : GEMS_OK;
}

static void read_logs(gems_attention_params *p, const gems_tensor *lse) {
    p->lse = lse->data;
    p->lse_batch = lse->strides[0], p->lse_head = lse->strides[1], p->lse_row = lse->strides[2];
}

gems_status gems_attention_backward_run(gems_call *call) {
    const bool for_cpu = call->op->mode == GEMS_ATTENTION_MODE_FOR_CPU_BACKWARD;
    const arguments a = arguments_of(call, for_cpu);
    gems_attention_params p;
    GEMS_TRY(gems_attention_read(call, a.q, a.k, a.v, a.mask, a.gqa, &p));
    GEMS_TRY(check(&a, &p));
    if (for_cpu && (a.drop != 0 || p.dim != p.dim_v || (a.mask && a.mask->dtype == GEMS_BOOL)))
        return gems_decline("a case that ATen does not take");
    if (!gems_arg_none(call, a.scale)) p.scale = gems_arg_double(call, a.scale);
    if (a.causal) p.right = 0;
    if (a.drop != 0) {
        p.keep = 1 - a.drop;
        p.seed = (uint64_t)gems_arg_int(call, 11);
        p.offset = (uint64_t)gems_arg_int(call, 12);
    }
    const gems_device_info *info = gems_device_information(call->device);
    const int dtype = a.q->dtype;
    gems_attention_config config;
    GEMS_TRY(gems_attention_configure_backward(info, dtype, p.dim, p.dim_v, &config));
    GEMS_TRY(check_grid(&p));
    const void *out;
    GEMS_TRY(gems_attention_operand(call, a.q, &p.q, &p.qs));
    GEMS_TRY(gems_attention_operand(call, a.k, &p.k, &p.ks));
    GEMS_TRY(gems_attention_operand(call, a.v, &p.v, &p.vs));
    GEMS_TRY(gems_attention_operand(call, a.grad, &p.grad, &p.gs));
    GEMS_TRY(gems_attention_operand(call, a.out, &out, &p.os));
    GEMS_TRY(make(call, 0, a.q, for_cpu, &p.dq, &p.dqs));
    GEMS_TRY(make(call, 1, a.k, for_cpu, &p.dk, &p.dks));
    GEMS_TRY(make(call, 2, a.v, for_cpu, &p.dv, &p.dvs));
    if (!call->nonempty) return GEMS_OK;
    p.o = (void *)(uintptr_t)out;
    read_logs(&p, a.lse);
    return launch(call, &p, dtype, a.mask ? a.mask->dtype : GEMS_NO_DTYPE);
}

/* ---- the rows of [batch, length, heads, dim] ---- */

typedef struct turned {
    gems_tensor t; /* [batch, heads, length, dim]; packed sequences as one */
    int64_t sizes[4], strides[4];
} turned;

static void heads_first(const gems_tensor *t, turned *to) {
    static const int order[] = {0, 2, 1, 3};
    const int packed = t->ndim == 3;
    to->t = *t;
    to->sizes[0] = 1, to->strides[0] = 0;
    for (int d = packed; d < 4; d++)
        to->sizes[d] = t->sizes[order[d] - packed], to->strides[d] = t->strides[order[d] - packed];
    to->t.ndim = 4, to->t.sizes = to->sizes, to->t.strides = to->strides;
}

/* The logsumexp: [heads, length] of packed sequences as of one; [batch, heads, length] may have
 * room behind. */
static void logs_of(const gems_tensor *lse, int64_t queries, turned *to) {
    const int packed = lse->ndim == 2;
    to->t = *lse;
    to->sizes[0] = 1, to->strides[0] = 0;
    for (int d = packed; d < 3; d++)
        to->sizes[d] = lse->sizes[d - packed], to->strides[d] = lse->strides[d - packed];
    if (to->sizes[2] > queries) to->sizes[2] = queries;
    to->t.ndim = 3, to->t.sizes = to->sizes, to->t.strides = to->strides;
}

static gems_status make_like(gems_call *call, int i, const gems_attention_inside *given,
                             void **data, gems_attention_strides *s) {
    const gems_tensor *t = given->t[i + 1];
    const int n = t->ndim;
    int64_t strides[4];
    gems_output_strides(t->sizes, n, &t->strides, 1, strides);
    GEMS_TRY(gems_output(call, i, n, t->sizes, given->contiguous ? NULL : strides, t->dtype));
    const int64_t *made = call->out[i].strides;
    *data = call->out[i].data;
    const int head = given->heads_first ? 1 : n - 2, row = given->heads_first ? 2 : n - 3;
    *s = (gems_attention_strides){n == 4 ? made[0] : 0, made[head], made[row]};
    return GEMS_OK;
}

static bool is_starts(const gems_tensor *t) {
    return t && t->dtype == GEMS_I32 && t->ndim == 1 && t->numel > 1 && t->strides[0] == 1;
}

gems_status gems_attention_inside_backward(gems_call *call, const gems_attention_inside *given) {
    const gems_tensor *cu_q = given->cu_q, *cu_k = given->cu_k, *lse = given->lse;
    const bool packed = cu_q || cu_k;
    if (packed && (!is_starts(cu_q) || !is_starts(cu_k) || cu_q->numel != cu_k->numel))
        return gems_decline("cu_seqlens are int32, one more than sequences");
    turned inside[5], logs;
    for (int i = 0; i < 5; i++) {
        const gems_tensor *t = given->t[i];
        if (!t) return gems_decline("an argument is no tensor");
        if (t->ndim != (packed ? 3 : 4)) return gems_decline("dimensions of the tensors");
        if (t->strides[t->ndim - 1] != 1 && t->sizes[t->ndim - 1] > 1)
            return gems_decline("a last dimension that is not contiguous");
        if (given->heads_first)
            inside[i].t = *t;
        else
            heads_first(t, inside + i);
    }
    if (!lse || lse->ndim != (packed ? 2 : 3)) return gems_decline("the logsumexp does not fit");
    logs_of(lse, inside[1].t.sizes[2], &logs);
    const arguments a = {.grad = &inside[0].t,
                         .q = &inside[1].t,
                         .k = &inside[2].t,
                         .v = &inside[3].t,
                         .out = &inside[4].t,
                         .lse = &logs.t};
    gems_attention_params p;
    GEMS_TRY(gems_attention_read(call, a.q, a.k, a.v, NULL, true, &p));
    GEMS_TRY(check(&a, &p));
    if (p.dim != p.dim_v) return gems_decline("head dimensions differ");
    GEMS_TRY(check_grid(&p));
    if (given->scale != 0) p.scale = given->scale;
    if (given->causal) p.right = 0;
    p.from_end = given->from_end;
    const void *out;
    const int dtype = a.q->dtype;
    GEMS_TRY(gems_attention_operand(call, a.q, &p.q, &p.qs));
    GEMS_TRY(gems_attention_operand(call, a.k, &p.k, &p.ks));
    GEMS_TRY(gems_attention_operand(call, a.v, &p.v, &p.vs));
    GEMS_TRY(gems_attention_operand(call, a.grad, &p.grad, &p.gs));
    GEMS_TRY(gems_attention_operand(call, a.out, &out, &p.os));
    p.o = (void *)(uintptr_t)out;
    if (packed) {
        if (given->max_q < 1 || given->max_k < 1 || given->max_q > p.queries ||
            given->max_k > p.keys)
            return gems_decline("max_seqlen");
        p.rows_q = p.queries, p.rows_k = p.keys;
        p.queries = (int32_t)given->max_q, p.keys = (int32_t)given->max_k;
        p.batch = (int32_t)(cu_q->numel - 1);
        p.cu_q = cu_q->data, p.cu_k = cu_k->data;
    }
    const gems_device_info *info = gems_device_information(call->device);
    const bool taken = gems_attention_back_takes(info, &p, dtype, GEMS_NO_DTYPE, 0);
    if (packed && !taken) return gems_decline("packed sequences");
    if (call->device_type != GEMS_CPU &&
        !(taken && (given->behind_cudnn ? gems_attention_back_beats_cudnn(info, &p)
                                        : gems_attention_back_fills(info, &p))))
        return gems_decline("a case in which ATen is faster on a GPU");
    gems_attention_config config;
    GEMS_TRY(gems_attention_configure_backward(info, dtype, p.dim, p.dim_v, &config));
    GEMS_TRY(make_like(call, 0, given, &p.dq, &p.dqs));
    GEMS_TRY(make_like(call, 1, given, &p.dk, &p.dks));
    GEMS_TRY(make_like(call, 2, given, &p.dv, &p.dvs));
    if (!call->nonempty) return GEMS_OK;
    read_logs(&p, a.lse);
    return packed ? gems_attention_back_launch(call, &p, dtype)
                  : launch(call, &p, dtype, GEMS_NO_DTYPE);
}

gems_status gems_attention_flash_backward_run(gems_call *call) {
    gems_attention_inside given = {
        .lse = gems_arg_tensor(call, 5),
        .cu_q = gems_arg_tensor(call, 6),
        .cu_k = gems_arg_tensor(call, 7),
        .max_q = gems_arg_int(call, 8),
        .max_k = gems_arg_int(call, 9),
        .causal = gems_arg_int(call, 11),
        .from_end = true,
    };
    for (int i = 0; i < 5; i++) given.t[i] = gems_arg_tensor(call, i);
    if (gems_arg_double(call, 10) != 0) return gems_decline("dropout");
    for (int i = 15; i < 17; i++)
        if (!gems_arg_none(call, i) && gems_arg_int(call, i) >= 0) return gems_decline("a window");
    if (!gems_arg_none(call, 14) && (given.scale = gems_arg_double(call, 14)) == 0)
        return gems_decline("a scale of 0");
    return gems_attention_inside_backward(call, &given);
}
