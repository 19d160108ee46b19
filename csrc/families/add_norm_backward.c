/* Gradients of skip_layer_norm and of rms_norm of one tensor. Twin of kernels/add_norm_backward.cu;
 * those of weight and bias are in kernels/row_norm_backward.cu. */
#include <stdio.h>
#include <string.h>

#include "add_norm.h"

enum { WEIGHT = 1 };

static gems_team make_team(const gems_device_info *info, int64_t rows, int64_t n, size_t size,
                           gems_lie lie) {
    return gems_team_of(info, &(gems_rows){rows, n, size, 2, 2, lie});
}

static gems_status run_rows(gems_call *call, const gems_add_norm *norm, const gems_norm_inputs *in,
                            int weight_dtype) {
    const gems_device_info *info = gems_device_information(call->device);
    size_t size = gems_dtype_size(norm->x->dtype);
    void *dx = call->out[0].data, *other = norm->residual ? call->out[1].data : NULL;
    const void *rows_of[] = {in->grad, in->x, in->residual, dx, other};
    const int64_t apart[] = {norm->n, norm->n, norm->n, norm->n, norm->n};
    gems_lie lie = gems_rows_lie(size, norm->n, 5, rows_of, apart);
    if (!gems_aligned(in->weight, 16)) lie = gems_lie_edges(lie);
    gems_team team = make_team(info, norm->count, norm->n, size, lie);
    gems_key key = {.kernel = GEMS_ADD_NORM_ROWS,
                    .flags = in->weight ? WEIGHT : 0,
                    .dtype = {norm->x->dtype, (uint8_t)weight_dtype, (uint8_t)in->stat}};
    gems_team_to_key(&team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int64_t rows = norm->count;
    int32_t n = (int32_t)norm->n;
    double eps = norm->eps;
    gems_norm_inputs data = *in;
    void *args[] = {&data.grad, &data.x,    &data.residual, &data.weight, &dx, &other,
                    &data.mean, &data.rstd, &rows,          &n,           &eps};
    return gems_team_launch(call, plan, &team, args);
}

gems_status gems_add_norm_backward_run(gems_call *call) {
    gems_add_norm norm;
    const gems_tensor *grad = gems_arg_tensor(call, 0);
    bool rms = gems_add_norm_rms(call->op), alone = gems_add_norm_alone(call->op);
    GEMS_TRY(gems_add_norm_read(call, &norm));
    const gems_tensor *x = norm.x, *given = norm.weight ? norm.weight : norm.bias;
    if (!grad || grad->dtype != x->dtype || !gems_same_sizes(grad, x))
        return gems_decline("the gradient's shape or dtype");
    int at = 0, inner = x->ndim - norm.outer, weight_dtype = given ? given->dtype : x->dtype;
    GEMS_TRY(gems_output(call, at++, x->ndim, x->sizes, NULL, x->dtype));
    if (!alone) GEMS_TRY(gems_output(call, at++, x->ndim, x->sizes, NULL, x->dtype));
    int weight = at++, bias = at;
    if (norm.weight) GEMS_TRY(gems_output(call, weight, inner, norm.shape, NULL, weight_dtype));
    if (norm.bias) GEMS_TRY(gems_output(call, bias, inner, norm.shape, NULL, weight_dtype));

    gems_norm_inputs in = {.stat = gems_dtype_opmath(x->dtype)};
    GEMS_TRY(gems_pack(call, grad, &in.grad));
    GEMS_TRY(gems_pack(call, x, &in.x));
    if (norm.residual) GEMS_TRY(gems_pack(call, norm.residual, &in.residual));
    if (norm.weight) GEMS_TRY(gems_pack(call, norm.weight, &in.weight));
    void *mean = NULL, *rstd = NULL;
    size_t bytes = (size_t)norm.count * gems_dtype_size(in.stat);
    if (norm.count && !rms) GEMS_TRY(gems_scratch(call, bytes, &mean));
    if (norm.count) GEMS_TRY(gems_scratch(call, bytes, &rstd));
    in.mean = mean;
    in.rstd = rstd;
    if (norm.count) GEMS_TRY(run_rows(call, &norm, &in, weight_dtype));
    if (!given) return GEMS_OK;
    gems_norm whole = {.x = x, .rows = norm.count, .n = norm.n, .weight_dtype = weight_dtype};
    return gems_norm_weights_run(call, GEMS_ADD_NORM_WEIGHTS, &whole, &in,
                                 norm.weight ? call->out[weight].data : NULL,
                                 norm.bias ? call->out[bias].data : NULL);
}

gems_status gems_add_norm_backward_program(const gems_op *op, const gems_key *key,
                                           gems_program *p) {
    bool weights = key->kernel == GEMS_ADD_NORM_WEIGHTS;
    gems_norm_head(key, &p->head);
    gems_text_add(&p->head, "constexpr bool kRms = %s, kWeight = %s, kAdd = %s, kSum = false;\n",
                  gems_add_norm_rms(op) ? "true" : "false", key->flags & WEIGHT ? "true" : "false",
                  gems_add_norm_alone(op) ? "false" : "true");
    if (weights) gems_text_add(&p->head, "#define WEIGHTS 1\n");
    p->files[0] = "cluster.cuh";
    p->files[1] = "rows.cuh";
    p->files[2] = weights ? "column_sums.cuh" : "moments.cuh";
    p->files[3] = weights ? "row_norm_backward.cu" : "added.cuh";
    p->files[4] = weights ? NULL : "add_norm_backward.cu";
    p->entries[0] = weights ? "weights" : "backward";
    p->entries[1] = weights ? "finish" : NULL;
    p->entry_count = weights ? 2 : 1;
    snprintf(p->name, sizeof p->name, "%.*s %s %s x%d", (int)strcspn(op->schema, "("), op->schema,
             weights ? "weights" : "rows", gems_dtype_name(key->dtype[GEMS_ROW_DATA]),
             key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}

/* With a weight of the data's dtype. */
bool gems_add_norm_backward_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                                 gems_key *key) {
    static const int64_t lengths[] = {1024, 4096, 16384, 32768, 131072, 262144};
    int rows = info->fast ? 1 : 6;
    size_t size = gems_dtype_size(dtype);
    (void)op;
    if (i > rows) return false;
    gems_team team = {
        .vec = (uint8_t)(info->fast ? 16 : 16 / size), .items = 1, .threads = info->fast ? 1 : 256};
    if (i < rows) team = make_team(info, 1 << 20, lengths[i], size, GEMS_LIE_ALIGNED);
    key->kernel = i < rows ? GEMS_ADD_NORM_ROWS : GEMS_ADD_NORM_WEIGHTS;
    key->flags = i < rows ? WEIGHT : 0;
    key->dtype[GEMS_ROW_DATA] = key->dtype[GEMS_ROW_OTHER] = (uint8_t)dtype;
    key->dtype[GEMS_ROW_STAT] = (uint8_t)gems_dtype_opmath(dtype);
    gems_team_to_key(&team, key);
    return true;
}
