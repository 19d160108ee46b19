/* native_group_norm and its gradients. Twin of kernels/group_norm.cu and group_norm_backward.cu. */
#include <stdio.h>
#include <string.h>

#include "copy_views.h"
#include "rows.h"

enum { WEIGHT = 1, BIAS = 2 };
enum { TUNE_CHANNEL = GEMS_TUNE_END };         /* key->tune: how a column finds its channel */
enum { BY_DIVISION, BY_VECTOR, EVERY_COLUMN }; /* kChannel */

typedef struct group_norm {
    const gems_tensor *x, *weight, *bias;
    int64_t samples, channels, plane, groups;
    int64_t rows, n; /* groups of samples, and elements of one */
    int64_t planes;  /* channels of a group */
    int weight_dtype;
} group_norm;

static bool is_vector(const gems_tensor *t, int64_t n) {
    return !t || (t->ndim == 1 && t->sizes[0] == n);
}

/* Weights have the dtype of the data; beside half data ATen takes float ones on a CPU. */
static bool fits(const gems_tensor *x, int weight) {
    return weight == x->dtype || (x->device_type == GEMS_CPU && weight == GEMS_F32 &&
                                  (GEMS_HALF_MASK & GEMS_BIT(x->dtype)));
}

/* The four sizes and the group count begin at argument `first`. */
static gems_status read(const gems_call *call, int x, int weight, int bias, int first,
                        group_norm *norm) {
    *norm = (group_norm){.x = gems_arg_tensor(call, x), .weight = gems_arg_tensor(call, weight)};
    if (bias >= 0) norm->bias = gems_arg_tensor(call, bias);
    if (!norm->x) return gems_decline("input is no tensor");
    if (!(call->op->dtypes & GEMS_BIT(norm->x->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    norm->samples = gems_arg_int(call, first);
    norm->channels = gems_arg_int(call, first + 1);
    norm->plane = gems_arg_int(call, first + 2);
    norm->groups = gems_arg_int(call, first + 3);
    if (norm->groups < 1 || norm->channels < 1 || norm->samples < 0 || norm->plane < 1 ||
        norm->channels % norm->groups || norm->channels > 1 << 30 || norm->plane > 1 << 30)
        return gems_decline("sizes of group_norm");
    if (norm->samples * norm->channels * norm->plane != norm->x->numel)
        return gems_decline("sizes do not fit the input");
    norm->planes = norm->channels / norm->groups;
    norm->n = norm->planes * norm->plane;
    norm->rows = norm->samples * norm->groups;
    if (norm->n > 1 << 30) return gems_decline("groups of this size");
    if (!is_vector(norm->weight, norm->channels) || !is_vector(norm->bias, norm->channels))
        return gems_decline("shape of weight or bias");
    norm->weight_dtype = norm->weight ? norm->weight->dtype
                         : norm->bias ? norm->bias->dtype
                                      : norm->x->dtype;
    if (!fits(norm->x, norm->weight_dtype) ||
        (norm->bias && norm->bias->dtype != norm->weight_dtype))
        return gems_decline("dtype of weight or bias");
    if (norm->x->device_type == GEMS_CPU && gems_like_channels_last(norm->x))
        return gems_decline("group_norm of channels last");
    return GEMS_OK;
}

static int channel_rule(const group_norm *norm, const gems_device_info *info, int vec) {
    if (norm->plane == 1) return EVERY_COLUMN;
    return !info->fast && norm->plane % vec == 0 ? BY_VECTOR : BY_DIVISION;
}

static gems_status forward(gems_call *call) {
    group_norm norm;
    GEMS_TRY(read(call, 0, 1, 2, 3, &norm));
    if (!gems_is_contiguous(norm.x)) return gems_decline("group_norm of a strided tensor");
    int64_t sizes[2] = {norm.samples, norm.groups};
    GEMS_TRY(gems_output(call, 0, norm.x->ndim, norm.x->sizes, NULL, norm.x->dtype));
    GEMS_TRY(gems_output(call, 1, 2, sizes, NULL, norm.weight_dtype));
    GEMS_TRY(gems_output(call, 2, 2, sizes, NULL, norm.weight_dtype));
    if (!norm.rows) return GEMS_OK;
    const gems_device_info *info = gems_device_information(call->device);
    const void *data = norm.x->data, *weight = NULL, *bias = NULL;
    if (norm.weight) GEMS_TRY(gems_pack(call, norm.weight, &weight));
    if (norm.bias) GEMS_TRY(gems_pack(call, norm.bias, &bias));
    void *y = call->out[0].data, *mean = call->out[1].data, *rstd = call->out[2].data;
    size_t size = gems_dtype_size(norm.x->dtype);
    bool aligned = norm.n % (16 / (int)size) == 0 && gems_aligned(data, 16) &&
                   gems_aligned(y, 16) && gems_aligned(weight, 16) && gems_aligned(bias, 16);
    gems_team team = gems_team_make(info, norm.rows, norm.n, size, 1, aligned);
    gems_key key = {
        .kernel = GEMS_ROWS,
        .flags = (uint8_t)((weight ? WEIGHT : 0) | (bias ? BIAS : 0)),
        .dtype = {norm.x->dtype, (uint8_t)norm.weight_dtype, (uint8_t)norm.weight_dtype}};
    gems_team_to_key(&team, &key);
    key.tune[TUNE_CHANNEL] = (uint8_t)channel_rule(&norm, info, team.vec);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t n = (int32_t)norm.n, groups = (int32_t)norm.groups, planes = (int32_t)norm.planes;
    gems_fastdiv plane = gems_fastdiv_make((uint32_t)norm.plane);
    double eps = gems_arg_double(call, 7);
    void *args[] = {&data,      &weight, &bias,   &y,      &mean,  &rstd,
                    &norm.rows, &n,      &groups, &planes, &plane, &eps};
    static const uint16_t bytes[] = {8, 8, 8, 8, 8, 8, 8, 4, 4, 4, sizeof plane, 8};
    return gems_team_launch_kept(call, plan, &team, args, 6, bytes, 12);
}

/* ---- gradients ---- */

typedef struct inputs {
    const void *grad, *x, *mean, *rstd, *weight;
    void *dh, *db; /* sums of every channel of every sample */
    gems_key key;
} inputs;

static gems_status run_sums(gems_call *call, const group_norm *norm, inputs *in, void *dweight,
                            void *dbias, bool weights) {
    const gems_device_info *info = gems_device_information(call->device);
    size_t size = gems_dtype_size(norm->x->dtype);
    int64_t rows = norm->samples * norm->channels, samples = norm->samples;
    bool aligned = norm->plane % (16 / (int)size) == 0 && gems_aligned(in->grad, 16) &&
                   gems_aligned(in->x, 16);
    gems_team team = gems_team_make(info, rows, norm->plane, size, 2, aligned);
    team.stage = GEMS_STAGE_AGAIN;
    team.items = 1;
    gems_key key = in->key;
    key.kernel = GEMS_WEIGHTS;
    gems_team_to_key(&team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t n = (int32_t)norm->plane, planes = (int32_t)norm->planes,
            channels = (int32_t)norm->channels;
    void *args[] = {&in->grad, &in->x, &in->mean, &in->rstd, &in->dh, &in->db, &rows, &n, &planes};
    team.shared = 0;
    GEMS_TRY(gems_team_launch(call, plan, &team, args));
    if (!weights) return GEMS_OK;
    uint32_t grid[3] = {
        info->fast ? gems_grid_for(info, channels, 1024) : (uint32_t)(channels + 31) / 32, 1, 1};
    uint32_t block[3] = {info->fast ? 1 : 32, info->fast ? 1 : 8, 1};
    void *finish[] = {&in->dh, &in->db, &dweight, &dbias, &samples, &channels};
    return gems_call_launch(call, plan, 1, grid, block, 0, finish);
}

static gems_status run_inputs(gems_call *call, const group_norm *norm, inputs *in) {
    const gems_device_info *info = gems_device_information(call->device);
    size_t size = gems_dtype_size(norm->x->dtype);
    void *dx = call->out[0].data;
    bool aligned = norm->n % (16 / (int)size) == 0 && gems_aligned(in->grad, 16) &&
                   gems_aligned(in->x, 16) && gems_aligned(dx, 16);
    gems_team team = gems_team_make(info, norm->rows, norm->n, size, 2, aligned);
    team.stage = GEMS_STAGE_AGAIN;
    team.items = 1;
    team.shared = 0;
    gems_key key = in->key;
    key.flags = in->weight ? WEIGHT : 0;
    gems_team_to_key(&team, &key);
    key.tune[TUNE_CHANNEL] = (uint8_t)channel_rule(norm, info, team.vec);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int64_t rows = norm->rows;
    int32_t n = (int32_t)norm->n, groups = (int32_t)norm->groups, planes = (int32_t)norm->planes;
    gems_fastdiv plane = gems_fastdiv_make((uint32_t)norm->plane);
    void *args[] = {&in->grad, &in->x, &in->mean, &in->rstd, &in->weight, &in->dh, &in->db,
                    &dx,       &rows,  &n,        &groups,   &planes,     &plane};
    return gems_team_launch(call, plan, &team, args);
}

static gems_status backward(gems_call *call) {
    group_norm norm;
    bool wanted[3] = {false};
    const gems_tensor *grad = gems_arg_tensor(call, 0), *mean = gems_arg_tensor(call, 2),
                      *rstd = gems_arg_tensor(call, 3);
    GEMS_TRY(read(call, 1, 4, -1, 5, &norm));
    if (!grad || grad->dtype != norm.x->dtype || grad->numel != norm.x->numel)
        return gems_decline("gradient");
    if (!mean || !rstd || mean->numel != norm.rows || rstd->numel != norm.rows ||
        mean->dtype != rstd->dtype || !fits(norm.x, mean->dtype))
        return gems_decline("mean or rstd");
    for (int i = 0; i < call->args[9].ints.n && i < 3; i++)
        wanted[i] = call->args[9].ints.v[i] != 0;
    if ((wanted[1] || wanted[2]) && !norm.weight)
        return gems_decline("gradient of an absent weight");
    if (call->entry->variant == GEMS_OUT && !(wanted[0] && wanted[1] && wanted[2]))
        return gems_decline("results that are not wanted");
    if (!norm.rows) return gems_decline("no elements");
    if (wanted[0]) GEMS_TRY(gems_output(call, 0, norm.x->ndim, norm.x->sizes, NULL, norm.x->dtype));
    for (int i = 1; i < 3; i++)
        if (wanted[i]) GEMS_TRY(gems_output(call, i, 1, &norm.channels, NULL, norm.weight_dtype));
    if (!wanted[0] && !wanted[1] && !wanted[2]) return GEMS_OK;
    inputs in = {.key = {.kernel = GEMS_ROWS,
                         .dtype = {norm.x->dtype, (uint8_t)norm.weight_dtype, mean->dtype}}};
    size_t element = gems_dtype_size(gems_dtype_opmath(norm.x->dtype));
    size_t bytes = (size_t)(norm.samples * norm.channels) * element;
    GEMS_TRY(gems_scratch(call, 2 * bytes, &in.dh));
    in.db = (char *)in.dh + bytes;
    GEMS_TRY(gems_pack(call, grad, &in.grad));
    GEMS_TRY(gems_pack(call, norm.x, &in.x));
    if (!gems_is_contiguous(mean) || !gems_is_contiguous(rstd) ||
        (norm.weight && !gems_is_contiguous(norm.weight)))
        return gems_decline("strided mean, rstd or weight");
    in.mean = mean->data;
    in.rstd = rstd->data;
    in.weight = norm.weight ? norm.weight->data : NULL;
    GEMS_TRY(run_sums(call, &norm, &in, wanted[1] ? call->out[1].data : NULL,
                      wanted[2] ? call->out[2].data : NULL, wanted[1] || wanted[2]));
    return wanted[0] ? run_inputs(call, &norm, &in) : GEMS_OK;
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    return call->op->mode == GEMS_NORM_FORWARD ? forward(call) : backward(call);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    if (key->kernel == GEMS_PACK_KERNEL) return gems_pack_program(key, p);
    bool back = op->mode == GEMS_NORM_BACKWARD, sums = key->kernel == GEMS_WEIGHTS;
    gems_norm_head(key, &p->head);
    gems_text_add(&p->head, "constexpr bool kWeight = %s, kBias = %s;\n",
                  key->flags & WEIGHT ? "true" : "false", key->flags & BIAS ? "true" : "false");
    gems_text_add(&p->head, "constexpr int kChannel = %d;\n#define SUMS %d\n",
                  key->tune[TUNE_CHANNEL], sums);
    p->files[0] = "cluster.cuh";
    p->files[1] = "rows.cuh";
    p->files[2] = "moments.cuh";
    p->files[3] = back ? "group_norm_backward.cu" : "group_norm.cu";
    p->entries[0] = !back ? "normalize" : sums ? "sums" : "inputs";
    p->entries[1] = sums ? "weights" : NULL;
    p->entry_count = sums ? 2 : 1;
    snprintf(p->name, sizeof p->name, "%.*s %s %s x%d", (int)strcspn(op->schema, "("), op->schema,
             sums ? "sums" : "rows", gems_dtype_name(key->dtype[GEMS_ROW_DATA]),
             key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}

/* With a weight (and a bias) of the data's dtype, planes of whole vectors; backward also the sums.
 */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    static const int64_t lengths[] = {1024, 8192, 32768, 262144};
    bool back = op->mode == GEMS_NORM_BACKWARD, sums;
    int rows = info->fast ? 1 : 4;
    size_t size = gems_dtype_size(dtype);
    if (i >= rows * (1 + back)) return false;
    sums = i >= rows;
    key->kernel = sums ? GEMS_WEIGHTS : GEMS_ROWS;
    memset(key->dtype, dtype, 3);
    key->flags = (uint8_t)(sums ? 0 : WEIGHT | (back ? 0 : BIAS));
    gems_team team = gems_team_make(info, 1 << 20, lengths[i % rows], size, back ? 2 : 1, true);
    if (back) {
        team.stage = GEMS_STAGE_AGAIN;
        team.items = 1;
    }
    gems_team_to_key(&team, key);
    key->tune[TUNE_CHANNEL] = info->fast || sums ? BY_DIVISION : BY_VECTOR;
    return true;
}

const gems_family gems_family_group_norm = {
    .name = "group_norm", .run = run, .program = program, .warm = warm};
