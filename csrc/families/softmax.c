/* _softmax, _log_softmax and their gradients. Twin of kernels/softmax.cu. */
#include <stdio.h>
#include <string.h>

#include "rows.h"

static bool is_log(const gems_op *op) {
    return op->mode == GEMS_LOG_SOFTMAX || op->mode == GEMS_LOG_SOFTMAX_BACKWARD;
}
static bool is_backward(const gems_op *op) {
    return op->mode == GEMS_SOFTMAX_BACKWARD || op->mode == GEMS_LOG_SOFTMAX_BACKWARD;
}

/* outer x n x inner elements, contiguous; the operator runs along n. */
typedef struct layout {
    int64_t outer, n, inner;
} layout;

static gems_status read_layout(const gems_tensor *t, int64_t dim, layout *l) {
    int d = gems_wrap_dim(dim, t->ndim);
    if (d < 0) return gems_decline("dimension out of range");
    l->outer = t->ndim ? gems_numel(t->sizes, d) : 1;
    l->n = t->ndim ? t->sizes[d] : 1;
    l->inner = t->ndim ? gems_numel(t->sizes + d + 1, t->ndim - d - 1) : 1;
    return l->n <= 1 << 30 ? GEMS_OK : gems_decline("rows of more than 2^30 elements");
}

static gems_team column_team(const gems_device_info *info, const layout *l, int vec, size_t element,
                             uint32_t *by) {
    gems_team team = {.vec = (uint8_t)vec, .items = 1, .threads = 256};
    int64_t columns = l->outer * l->inner;
    *by = 1;
    if (info->fast) {
        int64_t tiles = l->outer * ((l->inner + 63) / 64);
        team.threads = 1;
        team.vec = 16;
        team.grid = gems_grid_for(info, tiles, 256 / l->n + 1);
        return team;
    }
    int64_t units = columns / vec, blocks;
    int bx = gems_power_of_two(units, 32), rows = gems_power_of_two(l->n, 256 / bx);
    if (bx * rows < 128) bx = gems_power_of_two(units, 128 / rows);
    *by = (uint32_t)rows;
    team.shared = rows > 1 ? (uint32_t)((size_t)(bx * rows * vec) * element) : 0;
    blocks = (units + bx - 1) / bx;
    int64_t cap = 64 * (int64_t)info->processors;
    team.grid = (uint32_t)(blocks < cap ? blocks : cap);
    team.items = (uint8_t)bx; /* blockDim.x; the kernel keeps nothing in registers */
    return team;
}

/* Launches the key's kernel over the layout with up to two inputs. */
static gems_status launch(gems_call *call, gems_key *key, const layout *l, const void *a,
                          const void *b) {
    const gems_device_info *info = gems_device_information(call->device);
    size_t size = gems_dtype_size(key->dtype[GEMS_ROW_DATA]);
    void *out = call->out[0].data;
    int vec = 16 / (int)size;
    bool aligned = gems_aligned(a, 16) && gems_aligned(b, 16) && gems_aligned(out, 16);
    uint32_t by = 1, block[3] = {1, 1, 1};
    gems_team team;
    if (l->inner == 1) {
        const void *data[] = {a, b, out};
        const int64_t apart[] = {l->n, l->n, l->n};
        gems_lie lie = gems_rows_lie(size, l->n, 3, data, apart);
        /* Of a result in another dtype other bytes are the same distance. */
        if (!aligned && key->dtype[GEMS_ROW_OTHER] != key->dtype[GEMS_ROW_DATA])
            lie = GEMS_LIE_ANYHOW;
        key->kernel = GEMS_ROWS;
        team = gems_team_make(info, l->outer, l->n, size, b ? 2 : 1, lie);
        block[0] = team.threads;
        gems_team_to_key(&team, key);
    } else {
        size_t element =
            gems_dtype_size(gems_dtype_opmath(key->dtype[GEMS_ROW_DATA])) * (b ? 1 : 2);
        key->kernel = GEMS_COLUMNS;
        team = column_team(info, l, aligned && l->inner % vec == 0 ? vec : 1, element, &by);
        block[0] = info->fast ? 1 : team.items;
        block[1] = by;
        team.items = 1;
        gems_team_to_key(&team, key);
    }
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, key, &plan));
    layout sizes = *l;
    int32_t n = (int32_t)l->n;
    uint32_t grid[3] = {team.grid, 1, 1};
    void *args[] = {&a, &b, &out, &sizes.outer, &n, &sizes.inner};
    static const uint16_t bytes[] = {8, 8, 8, 8, 4, 8};
    args[!b] = &a; /* of one input and the result, or of two */
    return gems_call_launch_cluster_kept(call, plan, grid, block, team.cluster, team.shared,
                                         args + !b, 3 - !b, bytes + !b, 6 - !b);
}

static gems_status run_forward(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0);
    if (!self) return gems_decline("self is no tensor");
    if (!(call->op->dtypes & GEMS_BIT(self->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    int out = self->dtype;
    if (gems_arg_int(call, 2)) { /* half_to_float */
        if (self->dtype != GEMS_F16 || self->device_type == GEMS_CPU)
            return gems_decline("half_to_float");
        out = GEMS_F32;
    }
    layout l;
    GEMS_TRY(read_layout(self, gems_arg_int(call, 1), &l));
    GEMS_TRY(gems_output(call, 0, self->ndim, self->sizes, NULL, out));
    if (!self->numel) return GEMS_OK;
    const void *x = NULL;
    GEMS_TRY(gems_pack(call, self, &x));
    gems_key key = {.dtype = {self->dtype, (uint8_t)out}};
    return launch(call, &key, &l, x, NULL);
}

static gems_status run_backward(gems_call *call) {
    const gems_tensor *grad = gems_arg_tensor(call, 0), *output = gems_arg_tensor(call, 1);
    if (!grad || !output) return gems_decline("an argument is no tensor");
    if (grad->dtype != output->dtype || !(call->op->dtypes & GEMS_BIT(grad->dtype % GEMS_DTYPES)))
        return gems_decline("dtype");
    if (!gems_same_sizes(grad, output)) return gems_decline("sizes differ");
    int out = (int)gems_arg_int(call, 3);
    bool halved = grad->dtype == GEMS_F32 && out == GEMS_F16 && grad->device_type != GEMS_CPU;
    if (out != grad->dtype && !halved) return gems_decline("input_dtype");
    layout l;
    GEMS_TRY(read_layout(grad, gems_arg_int(call, 2), &l));
    GEMS_TRY(gems_output(call, 0, grad->ndim, grad->sizes, NULL, out));
    if (!grad->numel) return GEMS_OK;
    const void *g = NULL, *y = NULL;
    GEMS_TRY(gems_pack(call, grad, &g));
    GEMS_TRY(gems_pack(call, output, &y));
    gems_key key = {.dtype = {grad->dtype, (uint8_t)out}};
    return launch(call, &key, &l, g, y);
}

gems_status gems_softmax_run(gems_call *call) {
    return is_backward(call->op) ? run_backward(call) : run_forward(call);
}

gems_status gems_softmax_program(const gems_op *op, const gems_key *key, gems_program *p) {
    bool columns = key->kernel == GEMS_COLUMNS, backward = is_backward(op);
    gems_text_add(&p->head, "typedef %s T;\ntypedef %s Out;\n",
                  gems_dtype_kernel(key->dtype[GEMS_ROW_DATA]),
                  gems_dtype_kernel(key->dtype[GEMS_ROW_OTHER]));
    gems_team_head(key, &p->head);
    gems_text_add(&p->head, "constexpr bool kLog = %s, kColumns = %s;\n#define GRADIENT %d\n",
                  is_log(op) ? "true" : "false", columns ? "true" : "false", backward);
    p->files[0] = "cluster.cuh";
    p->files[1] = "pair.cuh";
    p->files[2] = "rows.cuh";
    p->files[3] = "columns.cuh";
    p->files[4] = "softmax.cu";
    p->entries[0] = backward ? "gradient" : "softmax";
    p->entry_count = 1;
    snprintf(p->name, sizeof p->name, "%.*s %s %s x%d", (int)strcspn(op->schema, "("), op->schema,
             columns ? "columns" : "rows", gems_dtype_name(key->dtype[GEMS_ROW_DATA]),
             key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}

bool gems_softmax_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                       gems_key *key) {
    static const int64_t lengths[] = {1024, 4096, 16384, 32768, 131072, 262144};
    bool backward = is_backward(op);
    size_t size = gems_dtype_size(dtype);
    int rows = info->fast ? 1 : 6;
    gems_team team;
    if (i > rows) return false;
    key->dtype[GEMS_ROW_DATA] = key->dtype[GEMS_ROW_OTHER] = (uint8_t)dtype;
    if (i < rows) {
        key->kernel = GEMS_ROWS;
        team = gems_team_make(info, 1 << 20, lengths[i], size, backward ? 2 : 1, GEMS_LIE_ALIGNED);
    } else {
        uint32_t by;
        layout l = {1, 1024, 1 << 16};
        key->kernel = GEMS_COLUMNS;
        team = column_team(info, &l, 16 / (int)size, size, &by);
        team.items = 1;
    }
    gems_team_to_key(&team, key);
    return true;
}
