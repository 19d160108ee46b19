/* native_layer_norm_backward and _fused_rms_norm_backward. Twin of kernels/row_norm_backward.cu. */
#include <stdio.h>
#include <string.h>

#include "column_sums.h"

enum { WEIGHT = 1 };

typedef gems_norm_inputs inputs;

static gems_status check_stat(const gems_call *call, int arg, const gems_norm *norm, int *dtype) {
    const gems_tensor *t = gems_arg_tensor(call, arg);
    int x = norm->x->dtype;
    if (!t) return gems_decline("mean or rstd is no tensor");
    if (t->dtype != x && t->dtype != gems_dtype_opmath(x))
        return gems_decline("dtype of mean or rstd");
    if (t->numel != norm->rows) return gems_decline("size of mean or rstd");
    if (*dtype != GEMS_NO_DTYPE && *dtype != t->dtype)
        return gems_decline("mean and rstd of different dtypes");
    *dtype = t->dtype;
    return GEMS_OK;
}

static gems_status run_rows(gems_call *call, const gems_norm *norm, const inputs *in) {
    const gems_device_info *info = gems_device_information(call->device);
    size_t size = gems_dtype_size(norm->x->dtype);
    void *dx = call->out[0].data;
    bool aligned = norm->n % (16 / (int)size) == 0 && gems_aligned(in->grad, 16) &&
                   gems_aligned(in->x, 16) && gems_aligned(in->weight, 16) && gems_aligned(dx, 16);
    gems_team team = gems_team_make_ahead(info, norm->rows, norm->n, size, 2, aligned);
    gems_key key = {.kernel = GEMS_ROWS,
                    .flags = in->weight ? WEIGHT : 0,
                    .dtype = {norm->x->dtype, (uint8_t)norm->weight_dtype, (uint8_t)in->stat}};
    gems_team_to_key(&team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int64_t rows = norm->rows;
    int32_t n = (int32_t)norm->n;
    inputs data = *in;
    void *args[] = {&data.grad, &data.x, &data.mean, &data.rstd, &data.weight, &dx, &rows, &n};
    return gems_team_launch(call, plan, &team, args);
}

gems_status gems_norm_weights_run(gems_call *call, int kernel, const gems_norm *norm,
                                  const inputs *in, void *dweight, void *dbias) {
    const gems_device_info *info = gems_device_information(call->device);
    size_t size = gems_dtype_size(norm->x->dtype);
    int vec = 16 / (int)size;
    if (norm->n % vec || !gems_aligned(in->grad, 16) || !gems_aligned(in->x, 16) ||
        !gems_aligned(in->residual, 16))
        vec = 1;
    gems_column_sums sums =
        gems_column_sums_make(info, norm->rows, norm->n, vec, gems_dtype_opmath(norm->x->dtype));
    gems_key key = {.kernel = (uint8_t)kernel,
                    .dtype = {norm->x->dtype, (uint8_t)norm->weight_dtype, (uint8_t)in->stat}};
    gems_team_to_key(&sums.team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    GEMS_TRY(gems_column_sums_open(call, &sums));
    int64_t rows = norm->rows;
    int32_t n = (int32_t)norm->n;
    inputs data = *in;
    void *args[] = {&data.grad, &data.x,       &data.residual, &data.mean, &data.rstd, &dweight,
                    &dbias,     &sums.partial, &rows,          &n,         &sums.run};
    return gems_column_sums_launch(call, plan, &sums, args, dweight, dbias);
}

/* output_mask: the gradients of x, weight and bias that are wanted. */
gems_status gems_norm_backward_run(gems_call *call) {
    bool rms = call->op->mode == GEMS_RMS_NORM_BACKWARD, wanted[3] = {false};
    const gems_tensor *grad = gems_arg_tensor(call, 0);
    gems_norm norm;
    inputs in = {.stat = GEMS_NO_DTYPE};
    int mean = 3, rstd = rms ? 3 : 4, mask = rms ? 5 : 7;
    GEMS_TRY(gems_norm_read(call, 1, 2, rms ? 4 : 5, rms ? -1 : 6, rms, &norm));
    if (!grad || grad->dtype != norm.x->dtype || !gems_same_sizes(grad, norm.x))
        return gems_decline("gradient");
    if (!rms) GEMS_TRY(check_stat(call, mean, &norm, &in.stat));
    GEMS_TRY(check_stat(call, rstd, &norm, &in.stat));
    for (int i = 0; i < call->args[mask].ints.n && i < 3; i++)
        wanted[i] = call->args[mask].ints.v[i] != 0;
    if ((wanted[1] && !norm.weight) || (wanted[2] && !norm.bias))
        return gems_decline("gradient of an absent weight");

    const gems_tensor *x = norm.x;
    if (wanted[0]) GEMS_TRY(gems_output(call, 0, x->ndim, x->sizes, NULL, x->dtype));
    for (int i = 1; i < 3; i++)
        if (wanted[i])
            GEMS_TRY(gems_output(call, i, norm.shape_ndim, norm.shape, NULL, norm.weight_dtype));
    GEMS_TRY(gems_pack(call, grad, &in.grad));
    GEMS_TRY(gems_pack(call, x, &in.x));
    if (!rms) GEMS_TRY(gems_pack(call, gems_arg_tensor(call, mean), &in.mean));
    GEMS_TRY(gems_pack(call, gems_arg_tensor(call, rstd), &in.rstd));
    if (norm.weight) GEMS_TRY(gems_pack(call, norm.weight, &in.weight));
    if (wanted[0] && norm.rows) GEMS_TRY(run_rows(call, &norm, &in));
    if (!wanted[1] && !wanted[2]) return GEMS_OK;
    return gems_norm_weights_run(call, GEMS_WEIGHTS, &norm, &in,
                                 wanted[1] ? call->out[1].data : NULL,
                                 wanted[2] ? call->out[2].data : NULL);
}

gems_status gems_norm_backward_program(const gems_op *op, const gems_key *key, gems_program *p) {
    bool weights = key->kernel == GEMS_WEIGHTS;
    gems_norm_head(key, &p->head);
    gems_text_add(&p->head,
                  "constexpr bool kRms = %s, kWeight = %s, kAdd = false;\n#define WEIGHTS %d\n",
                  op->mode == GEMS_RMS_NORM_BACKWARD ? "true" : "false",
                  key->flags & WEIGHT ? "true" : "false", weights);
    p->files[0] = "cluster.cuh";
    p->files[1] = "rows.cuh";
    p->files[2] = weights ? "column_sums.cuh" : "row_norm_backward.cu";
    p->files[3] = weights ? "row_norm_backward.cu" : NULL;
    p->entries[0] = weights ? "weights" : "backward";
    p->entries[1] = weights ? "finish" : NULL;
    p->entry_count = weights ? 2 : 1;
    snprintf(p->name, sizeof p->name, "%.*s %s %s x%d", (int)strcspn(op->schema, "("), op->schema,
             weights ? "weights" : "rows", gems_dtype_name(key->dtype[GEMS_ROW_DATA]),
             key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}
