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

static gems_lie lie_of(const gems_norm *norm, const inputs *in, const void *dx) {
    const void *data[] = {in->grad, in->x, dx};
    const int64_t apart[] = {norm->n, norm->n, norm->n};
    gems_lie lie = gems_rows_lie(gems_dtype_size(norm->x->dtype), norm->n, 3, data, apart);
    return gems_aligned(in->weight, 16) ? lie : gems_lie_edges(lie);
}

static gems_status run_rows(gems_call *call, const gems_norm *norm, const inputs *in) {
    const gems_device_info *info = gems_device_information(call->device);
    size_t size = gems_dtype_size(norm->x->dtype);
    void *dx = call->out[0].data;
    gems_team team = gems_team_make(info, norm->rows, norm->n, size, 2, lie_of(norm, in, dx));
    gems_key key = {.kernel = GEMS_ROWS,
                    .flags = in->weight ? WEIGHT : 0,
                    .dtype = {norm->x->dtype, (uint8_t)norm->weight_dtype, (uint8_t)in->stat}};
    gems_team_to_key(&team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int64_t rows = norm->rows;
    int32_t n = (int32_t)norm->n;
    inputs from = *in;
    void *args[] = {&from.grad, &from.x, &from.mean, &from.rstd, &from.weight, &dx, &rows, &n};
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

gems_team gems_norm_both_team(const gems_device_info *info, int64_t rows, int64_t n, size_t size,
                              gems_lie lie) {
    gems_team team = {.vec = (uint8_t)(16 / size), .stage = GEMS_STAGE_SHARED, .cluster = 1};
    const int64_t vectors = n / team.vec;
    if (info->fast || size == 8 || lie != GEMS_LIE_ALIGNED || vectors < 64 || vectors > 2048)
        return team;
    team.items = vectors <= 128 ? 2 : 4;
    const int threads = gems_power_of_two((vectors + team.items - 1) / team.items, 512);
    const int64_t grid = (int64_t)info->processors * (512 / threads);
    if (rows < 4 * grid) return team;
    team.threads = (uint32_t)(threads < 64 ? 64 : threads);
    team.grid = (uint32_t)grid;
    team.shared = (uint32_t)(vectors * 16 * 2);
    team.ahead = 1;
    return team;
}

static gems_status run_both(gems_call *call, const gems_norm *norm, const inputs *in,
                            const gems_team *team, void *dweight, void *dbias) {
    void *dx = call->out[0].data, *partial;
    gems_key key = {.kernel = GEMS_BOTH,
                    .flags = in->weight ? WEIGHT : 0,
                    .dtype = {norm->x->dtype, (uint8_t)norm->weight_dtype, (uint8_t)in->stat}};
    gems_team_to_key(team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int64_t rows = norm->rows, parts = team->grid;
    int32_t n = (int32_t)norm->n;
    GEMS_TRY(gems_scratch(call, (size_t)(2 * parts * n) * sizeof(float), &partial));
    inputs from = *in;
    void *args[] = {&from.grad, &from.x,  &from.mean, &from.rstd, &from.weight,
                    &dx,        &partial, &rows,      &n};
    GEMS_TRY(gems_team_launch(call, plan, team, args));
    uint32_t grid[3] = {(uint32_t)(n + 31) / 32, 1, 1}, block[3] = {32, 32, 1};
    void *finish[] = {&partial, &dweight, &dbias, &n, &parts};
    return gems_call_launch(call, plan, 1, grid, block, 0, finish);
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
    void *dweight = wanted[1] ? call->out[1].data : NULL,
         *dbias = wanted[2] ? call->out[2].data : NULL;
    if (wanted[0] && (dweight || dbias)) {
        const gems_team team =
            gems_norm_both_team(gems_device_information(call->device), norm.rows, norm.n,
                                gems_dtype_size(x->dtype), lie_of(&norm, &in, call->out[0].data));
        if (team.threads) return run_both(call, &norm, &in, &team, dweight, dbias);
    }
    if (wanted[0] && norm.rows) GEMS_TRY(run_rows(call, &norm, &in));
    if (!dweight && !dbias) return GEMS_OK;
    return gems_norm_weights_run(call, GEMS_WEIGHTS, &norm, &in, dweight, dbias);
}

gems_status gems_norm_backward_program(const gems_op *op, const gems_key *key, gems_program *p) {
    bool weights = key->kernel == GEMS_WEIGHTS, both = key->kernel == GEMS_BOTH;
    gems_norm_head(key, &p->head);
    gems_text_add(&p->head,
                  "constexpr bool kRms = %s, kWeight = %s, kAdd = false;\n#define WEIGHTS %d\n",
                  op->mode == GEMS_RMS_NORM_BACKWARD ? "true" : "false",
                  key->flags & WEIGHT ? "true" : "false", both ? 2 : weights);
    p->files[0] = "cluster.cuh";
    p->files[1] = "rows.cuh";
    p->files[2] = weights ? "column_sums.cuh" : "row_norm_backward.cu";
    p->files[3] = weights ? "row_norm_backward.cu" : NULL;
    p->entries[0] = both ? "both" : weights ? "weights" : "backward";
    p->entries[1] = weights || both ? "finish" : NULL;
    p->entry_count = weights || both ? 2 : 1;
    snprintf(p->name, sizeof p->name, "%.*s %s %s x%d", (int)strcspn(op->schema, "("), op->schema,
             both      ? "all"
             : weights ? "weights"
                       : "rows",
             gems_dtype_name(key->dtype[GEMS_ROW_DATA]), key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}
