/* _weight_norm_interface and its gradients. Twin of kernels/weight_norm.cu. */
#include <stdio.h>
#include <string.h>

#include "rows.h"

#define THREADS 256

typedef struct weight_norm {
    const gems_tensor *v, *g;
    int64_t rows, n; /* lengths, and elements that one is taken of */
    bool columns;
} weight_norm;

static gems_status read(const gems_call *call, int v, int g, int dim, weight_norm *w) {
    *w = (weight_norm){.v = gems_arg_tensor(call, v), .g = gems_arg_tensor(call, g)};
    int64_t kept = gems_arg_int(call, dim);
    if (!w->v || !w->g || w->v->ndim < 1) return gems_decline("no tensors");
    if (!(call->op->dtypes & GEMS_BIT(w->v->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    if (w->g->dtype != w->v->dtype) return gems_decline("dtype of g");
    if (kept != 0 && kept != w->v->ndim - 1) return gems_decline("neither first nor last dim");
    w->columns = kept != 0;
    w->rows = w->v->sizes[kept];
    if (w->g->numel != w->rows || !gems_is_contiguous(w->g)) return gems_decline("shape of g");
    if (!w->v->numel) return gems_decline("no elements");
    w->n = w->v->numel / w->rows;
    return w->n > 1 << 30 ? gems_decline("rows of this length") : GEMS_OK;
}

static gems_team column_team(const gems_device_info *info, const weight_norm *w, int vec,
                             size_t element, uint32_t block[3]) {
    gems_team team = {.vec = (uint8_t)vec, .items = 1, .threads = THREADS};
    if (info->fast) {
        team.vec = 16;
        team.threads = 1;
        team.grid = gems_grid_for(info, (w->rows + 255) / 256, 256 / w->n + 1);
        return team;
    }
    int64_t units = w->rows / vec, cap = 64 * (int64_t)info->processors;
    int bx = gems_power_of_two(units, 32), by = gems_power_of_two(w->n, THREADS / bx);
    if (bx * by < 128) bx = gems_power_of_two(units, 128 / by);
    int64_t blocks = (units + bx - 1) / bx;
    team.shared = by > 1 ? (uint32_t)((size_t)(bx * by * vec) * element) : 0;
    team.grid = (uint32_t)(blocks < cap ? blocks : cap);
    block[0] = (uint32_t)bx;
    block[1] = (uint32_t)by;
    return team;
}

/* x: v, or the gradient of the result. */
static gems_status launch(gems_call *call, const weight_norm *w, const void *x, const void *y,
                          const void *lengths, int norm, void *out, void *dg) {
    const gems_device_info *info = gems_device_information(call->device);
    bool back = dg != NULL;
    size_t size = gems_dtype_size(w->v->dtype);
    int vec = 16 / (int)size;
    bool aligned = gems_aligned(x, 16) && gems_aligned(y, 16) && gems_aligned(out, 16) &&
                   (w->columns ? w->rows : w->n) % vec == 0;
    uint32_t block[3] = {1, 1, 1};
    gems_key key = {.kernel = w->columns ? GEMS_COLUMNS : GEMS_ROWS,
                    .dtype = {w->v->dtype, w->g->dtype, (uint8_t)norm}};
    gems_team team;
    if (w->columns) {
        size_t element = gems_dtype_size(gems_dtype_opmath(w->v->dtype));
        team = column_team(info, w, aligned ? vec : 1, element, block);
    } else {
        team = gems_team_make(info, w->rows, w->n, size, back ? 2 : 1, aligned);
        block[0] = team.threads;
    }
    gems_team_to_key(&team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int64_t rows = w->rows;
    int32_t n = (int32_t)w->n;
    const void *g = w->g->data;
    void *args[] = {&x, &y, &g, &lengths, &out, &dg, &rows, &n};
    static const uint16_t bytes[] = {8, 8, 8, 8, 8, 8, 8, 4};
    uint32_t grid[3] = {team.grid, 1, 1};
    return gems_call_launch_cluster_kept(call, plan, grid, block, team.cluster, team.shared, args,
                                         6, bytes, 8);
}

static gems_status run(gems_call *call) {
    weight_norm w;
    if (call->op->mode == GEMS_NORM_FORWARD) {
        GEMS_TRY(read(call, 0, 1, 2, &w));
        const gems_tensor *v = w.v, *g = w.g;
        int norm = gems_dtype_opmath(g->dtype);
        GEMS_TRY(gems_output(call, 0, v->ndim, v->sizes, NULL, v->dtype));
        GEMS_TRY(gems_output(call, 1, g->ndim, g->sizes, g->strides, norm));
        const void *x = NULL;
        GEMS_TRY(gems_pack(call, v, &x));
        return launch(call, &w, x, x, call->out[1].data, norm, call->out[0].data, NULL);
    }
    const gems_tensor *grad = gems_arg_tensor(call, 0), *lengths = gems_arg_tensor(call, 3);
    GEMS_TRY(read(call, 1, 2, 4, &w));
    const gems_tensor *v = w.v, *g = w.g;
    int norm = gems_dtype_opmath(g->dtype);
    if (!grad || grad->dtype != v->dtype || !gems_same_sizes(grad, v))
        return gems_decline("the gradient's shape or dtype");
    if (!lengths || lengths->dtype != norm || lengths->numel != w.rows ||
        !gems_is_contiguous(lengths))
        return gems_decline("the lengths' shape or dtype");
    GEMS_TRY(gems_output(call, 0, v->ndim, v->sizes, NULL, v->dtype));
    GEMS_TRY(gems_output(call, 1, g->ndim, g->sizes, NULL, g->dtype));
    const void *x = NULL, *y = NULL;
    GEMS_TRY(gems_pack(call, grad, &x));
    GEMS_TRY(gems_pack(call, v, &y));
    return launch(call, &w, x, y, lengths->data, norm, call->out[0].data, call->out[1].data);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    if (key->kernel == GEMS_PACK_KERNEL) return gems_pack_program(key, p);
    bool columns = key->kernel == GEMS_COLUMNS;
    gems_text_add(&p->head, "typedef %s T;\ntypedef %s G;\ntypedef %s Norm;\n",
                  gems_dtype_kernel(key->dtype[0]), gems_dtype_kernel(key->dtype[1]),
                  gems_dtype_kernel(key->dtype[2]));
    gems_text_add(&p->head, "constexpr bool kBack = %s, kColumns = %s;\n",
                  op->mode == GEMS_NORM_BACKWARD ? "true" : "false", columns ? "true" : "false");
    gems_team_head(key, &p->head);
    p->files[0] = "cluster.cuh";
    p->files[1] = "rows.cuh";
    p->files[2] = "columns.cuh";
    p->files[3] = "weight_norm.cu";
    p->entries[0] = "weight_norm";
    p->entry_count = 1;
    snprintf(p->name, sizeof p->name, "%.*s %s %s x%d", (int)strcspn(op->schema, "("), op->schema,
             columns ? "columns" : "rows", gems_dtype_name(key->dtype[0]),
             key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    static const int64_t lengths[] = {1024, 4096, 32768};
    int rows = info->fast ? 1 : 3;
    if (i > rows) return false;
    size_t size = gems_dtype_size(dtype);
    bool back = op->mode == GEMS_NORM_BACKWARD;
    uint32_t block[3];
    weight_norm w = {.rows = 1024, .n = 1 << 16, .columns = true};
    gems_team team = i < rows ? gems_team_make(info, 1 << 20, lengths[i], size, back ? 2 : 1, true)
                              : column_team(info, &w, 16 / (int)size, size, block);
    key->kernel = i < rows ? GEMS_ROWS : GEMS_COLUMNS;
    key->dtype[0] = key->dtype[1] = (uint8_t)dtype;
    key->dtype[2] = (uint8_t)gems_dtype_opmath(dtype);
    gems_team_to_key(&team, key);
    return true;
}

const gems_family gems_family_weight_norm = {
    .name = "weight_norm", .run = run, .program = program, .warm = warm};
