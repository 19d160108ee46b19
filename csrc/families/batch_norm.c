/* native_batch_norm and its gradients. Twin of kernels/batch_norm.cu. */
#include <stdio.h>
#include <string.h>

#include "copy_views.h"
#include "rows.h"

enum { THREADS = 256, MOST_RUNS = 1024 };
enum { COLUMNS = 1, EVALUATION = 2, WIDE = 4 }; /* key->flags */
enum { STATS, FINISH, PREPARE, APPLY };         /* entries forward */
enum { SUMS, FINISH_SUMS, INPUTS };             /* entries backward */
enum { BACKWARD_KERNEL = 1 };                   /* key->kernel; 0: forward */

/* Twin of Shape in the kernel. */
typedef struct shape {
    int64_t samples;
    int32_t channels, plane, units, run, runs;
    gems_fastdiv in_plane, in_channels;
} shape;

/* Where the arguments of an overload are; -1: it has none. */
typedef struct places {
    int8_t x, weight, bias, mean, var, training, momentum, eps;
} places;

typedef struct batch_norm {
    const gems_tensor *x, *weight, *bias, *mean, *var;
    int64_t samples, channels, plane, numel;
    int64_t sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS]; /* of the result */
    bool last;    /* channels are innermost in memory, and in the result */
    bool columns; /* the kernel sees rows of channels */
    int params;   /* dtype of weight, bias and running statistics */
} batch_norm;

static bool is_vector(const gems_tensor *t, int64_t n) {
    return !t || (t->ndim == 1 && t->sizes[0] == n);
}

static gems_status take_param(batch_norm *norm, const gems_tensor *t) {
    if (!t) return GEMS_OK;
    if (!is_vector(t, norm->channels)) return gems_decline("size of weight, bias or statistics");
    if (!gems_is_contiguous(t)) return gems_decline("strided weight, bias or statistics");
    if (norm->params != GEMS_NO_DTYPE && norm->params != t->dtype)
        return gems_decline("weight, bias and statistics of different dtypes");
    norm->params = t->dtype;
    return GEMS_OK;
}

static bool param_fits(const batch_norm *norm, int dtype) {
    int x = norm->x->dtype;
    return dtype == x || (dtype == GEMS_F32 && (GEMS_HALF_MASK & GEMS_BIT(x)));
}

static gems_status read(const gems_call *call, const places *at, batch_norm *norm) {
    *norm = (batch_norm){.x = gems_arg_tensor(call, at->x),
                         .weight = gems_arg_tensor(call, at->weight),
                         .params = GEMS_NO_DTYPE};
    if (at->bias >= 0) norm->bias = gems_arg_tensor(call, at->bias);
    if (at->mean >= 0) norm->mean = gems_arg_tensor(call, at->mean);
    if (at->var >= 0) norm->var = gems_arg_tensor(call, at->var);
    const gems_tensor *x = norm->x;
    if (!x) return gems_decline("input is no tensor");
    if (!(call->op->dtypes & GEMS_BIT(x->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    if (x->ndim < 2) return gems_decline("fewer than 2 dimensions");
    if (!x->numel) return gems_decline("no elements");
    norm->samples = x->sizes[0];
    norm->channels = x->sizes[1];
    norm->numel = x->numel;
    norm->plane = x->numel / norm->samples / norm->channels;
    if (norm->channels > 1 << 30 || norm->plane > 1 << 30 ||
        norm->samples * norm->plane > INT32_MAX)
        return gems_decline("channels of this size");
    GEMS_TRY(take_param(norm, norm->weight));
    GEMS_TRY(take_param(norm, norm->bias));
    GEMS_TRY(take_param(norm, norm->mean));
    GEMS_TRY(take_param(norm, norm->var));
    if (norm->params != GEMS_NO_DTYPE && !param_fits(norm, norm->params))
        return gems_decline("dtype of weight, bias or statistics");
    memcpy(norm->sizes, x->sizes, (size_t)x->ndim * sizeof *x->sizes);
    norm->last = !gems_is_contiguous(x) && gems_like_channels_last(x);
    if (norm->last)
        gems_channels_last_strides(x->sizes, x->ndim, norm->strides);
    else
        gems_contiguous_strides(x->sizes, x->ndim, norm->strides);
    /* ATen's kernels for a GPU differ in what they make of other strides. */
    for (int d = 0; x->device_type != GEMS_CPU && d < x->ndim; d++)
        if (norm->last || x->strides[d] != norm->strides[d])
            return gems_decline("batch_norm of a tensor that is not contiguous");
    norm->columns = norm->last || norm->plane == 1;
    return GEMS_OK;
}

/* The data as the kernel sees it: channels last where they are so in x, else in logical order. */
static gems_status pack(gems_call *call, const batch_norm *norm, const gems_tensor *t,
                        const void **data) {
    int64_t sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS];
    if (!norm->last) return gems_pack(call, t, data);
    gems_tensor view = *t;
    for (int d = 0; d < t->ndim; d++) {
        int from = d == 0 ? 0 : d == t->ndim - 1 ? 1 : d + 1;
        sizes[d] = t->sizes[from];
        strides[d] = t->strides[from];
    }
    view.sizes = sizes;
    view.strides = strides;
    return gems_pack(call, &view, data);
}

/* ---- geometry ---- */

static shape make_shape(const batch_norm *norm, const gems_device_info *info, int vec) {
    int64_t plane = norm->plane, count = norm->samples * plane;
    int64_t columns = (norm->channels + vec - 1) / vec;
    shape s = {.samples = norm->columns ? count : norm->samples,
               .channels = (int32_t)norm->channels,
               .plane = (int32_t)plane,
               .units = (int32_t)(norm->columns ? count : count / vec),
               .in_plane = gems_fastdiv_make((uint32_t)(norm->columns ? 1 : plane / vec)),
               .in_channels =
                   gems_fastdiv_make((uint32_t)(norm->columns ? columns : norm->channels))};
    int64_t runs, most;
    if (info->fast) { /* by the shape alone: the same bits with any number of workers */
        runs = 64;
        most = norm->columns ? count / 256 : norm->channels >= 64 ? 1 : count / 16384;
    } else {
        int64_t blocks = norm->columns ? (columns + 31) / 32 : norm->channels;
        int by = THREADS / gems_power_of_two(columns, 32);
        runs = (4 * (int64_t)info->processors + blocks - 1) / blocks;
        most = norm->columns ? count / (8 * by) : s.units / (4 * THREADS);
    }
    if (runs > most) runs = most;
    if (runs > MOST_RUNS) runs = MOST_RUNS;
    if (runs < 1) runs = 1;
    s.run = (int32_t)((s.units + runs - 1) / runs);
    s.runs = (int32_t)(((int64_t)s.units + s.run - 1) / s.run);
    return s;
}

typedef struct launches {
    const gems_plan *plan;
    const gems_device_info *info;
    shape s;
    int64_t vectors;
    uint32_t reduce[3], reduce_block[3], small[3], flat[3], block[3];
} launches;

static gems_status make_launches(gems_call *call, const batch_norm *norm, gems_key *key,
                                 bool aligned, launches *l) {
    const gems_device_info *info = gems_device_information(call->device);
    int64_t row = norm->columns ? norm->channels : norm->plane;
    int vec = 16 / (int)gems_dtype_size(norm->x->dtype);
    if (info->fast || !aligned || row % vec) vec = 1;
    gems_team team = {.vec = (uint8_t)vec,
                      .stage = GEMS_STAGE_AGAIN,
                      .items = 1,
                      .threads = info->fast ? 1 : THREADS};
    *l = (launches){.info = info, .s = make_shape(norm, info, vec), .vectors = norm->numel / vec};
    key->flags |= (uint8_t)((norm->columns ? COLUMNS : 0) | (l->vectors > INT32_MAX ? WIDE : 0));
    gems_team_to_key(&team, key);
    GEMS_TRY(gems_call_plan(call, key, &l->plan));
    uint32_t threads = team.threads, channels = (uint32_t)norm->channels;
    int64_t each = norm->samples * norm->plane;
    memcpy(l->block, (uint32_t[3]){threads, 1, 1}, sizeof l->block);
    memcpy(l->reduce_block, l->block, sizeof l->block);
    l->small[0] = gems_grid_for(info, channels, info->fast ? 2048 : threads);
    if (info->fast) {
        int64_t rows = norm->columns      ? l->s.samples
                       : norm->plane < 16 ? norm->samples
                                          : norm->samples * norm->channels;
        l->flat[0] = gems_grid_for(info, rows, 16384 / (norm->numel / rows) + 1);
        l->reduce[0] = norm->columns ? gems_grid_for(info, (channels + 63) / 64, 1)
                                     : gems_grid_for(info, channels, 16384 / each + 1);
    } else {
        l->flat[0] = gems_grid_for(info, l->vectors, threads);
        l->reduce[0] = channels;
        if (norm->columns) {
            int64_t columns = (channels + vec - 1) / vec;
            int bx = gems_power_of_two(columns, 32);
            l->reduce[0] = (uint32_t)((columns + bx - 1) / bx);
            l->reduce_block[0] = (uint32_t)bx;
            l->reduce_block[1] = threads / (uint32_t)bx;
        }
    }
    l->reduce[1] = (uint32_t)l->s.runs;
    l->reduce[2] = l->small[1] = l->small[2] = l->flat[1] = l->flat[2] = 1;
    return GEMS_OK;
}

static gems_status launch_flat(gems_call *call, const launches *l, int entry, void **args, int n) {
    int32_t narrow = (int32_t)l->vectors;
    int64_t wide = l->vectors;
    args[n] = l->vectors > INT32_MAX ? (void *)&wide : (void *)&narrow;
    return gems_call_launch(call, l->plan, entry, l->flat, l->block, 0, args);
}

/* ---- forward ---- */

/* Running statistics are written, though no schema says so: results behind the ones that are given
 * back. */
static gems_status claim(gems_call *call, int slot, const gems_tensor *t) {
    if (!t) return GEMS_OK;
    for (int i = 0; i < call->nargs; i++)
        if (call->args[i].kind == GEMS_TENSOR && &call->args[i].t != t &&
            gems_overlap_of(&call->args[i].t, t) != GEMS_APART)
            return gems_decline("running statistics share memory with another argument");
    for (int i = 0; i < slot; i++)
        if ((call->made >> i & 1) && gems_overlap_of(&call->out[i], t) != GEMS_APART)
            return gems_decline("running statistics share memory with a result");
    call->out[slot] = *t;
    call->made |= (uint8_t)(1u << slot);
    return GEMS_OK;
}

static gems_status train(gems_call *call, const batch_norm *norm, launches *l, const void *data,
                         void *factors, double momentum, double eps) {
    size_t element = gems_dtype_size(gems_dtype_opmath(norm->x->dtype));
    const void *weight = norm->weight ? norm->weight->data : NULL,
               *bias = norm->bias ? norm->bias->data : NULL;
    void *mean = norm->mean ? norm->mean->data : NULL, *var = norm->var ? norm->var->data : NULL;
    void *partial, *save_mean = call->out[1].data, *save_invstd = call->out[2].data;
    GEMS_TRY(
        gems_scratch(call, (size_t)(3 * (l->s.runs + 1) * norm->channels) * element, &partial));
    void *args[] = {&data, &partial, &l->s};
    GEMS_TRY(gems_call_launch(call, l->plan, STATS, l->reduce, l->reduce_block, 0, args));
    void *finish[] = {&partial,     &weight,  &bias,          &mean,      &var,      &save_mean,
                      &save_invstd, &factors, &l->s.channels, &l->s.runs, &momentum, &eps};
    return gems_call_launch(call, l->plan, FINISH, l->small, l->block, 0, finish);
}

static gems_status forward(gems_call *call, const places *at) {
    batch_norm norm;
    GEMS_TRY(read(call, at, &norm));
    const gems_tensor *x = norm.x;
    bool cpu = x->device_type == GEMS_CPU;
    bool training = at->training >= 0 && gems_arg_int(call, at->training);
    if (!training && (!norm.mean || !norm.var)) return gems_decline("no running statistics");
    double momentum = at->momentum >= 0 ? gems_arg_double(call, at->momentum) : 0;
    double eps = gems_arg_double(call, at->eps);
    int params = norm.params == GEMS_NO_DTYPE ? x->dtype : norm.params;
    int saved = cpu ? params : gems_dtype_opmath(x->dtype);
    int64_t count = training || !cpu ? norm.channels : 0;
    GEMS_TRY(gems_output(call, 0, x->ndim, norm.sizes, norm.strides, x->dtype));
    GEMS_TRY(gems_output(call, 1, 1, &count, NULL, saved));
    GEMS_TRY(gems_output(call, 2, 1, &count, NULL, saved));
    if (training) {
        GEMS_TRY(claim(call, 3, norm.mean));
        GEMS_TRY(claim(call, 4, norm.var));
    }
    const void *data;
    GEMS_TRY(pack(call, &norm, x, &data));
    void *y = call->out[0].data, *factors;
    gems_key key = {.dtype = {x->dtype, (uint8_t)params, (uint8_t)saved}};
    launches l;
    GEMS_TRY(make_launches(call, &norm, &key, gems_aligned(data, 16) && gems_aligned(y, 16), &l));
    GEMS_TRY(gems_scratch(
        call, (size_t)(3 * norm.channels) * gems_dtype_size(gems_dtype_opmath(x->dtype)),
        &factors));
    if (training) {
        GEMS_TRY(train(call, &norm, &l, data, factors, momentum, eps));
    } else {
        const void *weight = norm.weight ? norm.weight->data : NULL,
                   *bias = norm.bias ? norm.bias->data : NULL, *mean = norm.mean->data,
                   *var = norm.var->data;
        void *save_mean = count ? call->out[1].data : NULL,
             *save_invstd = count ? call->out[2].data : NULL;
        void *args[] = {&mean,        &var,     &weight,       &bias, &save_mean,
                        &save_invstd, &factors, &l.s.channels, &eps};
        GEMS_TRY(gems_call_launch(call, l.plan, PREPARE, l.small, l.block, 0, args));
    }
    void *args[5] = {&data, &factors, &y, &l.s};
    return launch_flat(call, &l, APPLY, args, 4);
}

/* ---- backward ---- */

static gems_status check_saved(batch_norm *norm, const gems_tensor *mean,
                               const gems_tensor *deviation, bool training) {
    if (!mean || !deviation) return gems_decline("no mean or deviation");
    if (!is_vector(mean, norm->channels) || !is_vector(deviation, norm->channels) ||
        !gems_is_contiguous(mean) || !gems_is_contiguous(deviation))
        return gems_decline("size of mean or deviation");
    if (mean->dtype != deviation->dtype || !param_fits(norm, mean->dtype))
        return gems_decline("dtype of mean or deviation");
    if (training && norm->x->device_type == GEMS_CPU)
        GEMS_TRY(take_param(norm, mean)); /* all of one dtype there */
    return GEMS_OK;
}

static gems_status backward(gems_call *call) {
    static const places at = {1, 2, -1, 3, 4, 7, -1, 8};
    batch_norm norm;
    bool wanted[3] = {false}, training = gems_arg_int(call, 7) != 0;
    const gems_tensor *grad = gems_arg_tensor(call, 0);
    GEMS_TRY(read(call, &at, &norm));
    const gems_tensor *x = norm.x;
    if (!grad || grad->dtype != x->dtype || !gems_same_sizes(grad, x))
        return gems_decline("gradient");
    const gems_tensor *mean = training ? gems_arg_tensor(call, 5) : norm.mean,
                      *deviation = training ? gems_arg_tensor(call, 6) : norm.var;
    GEMS_TRY(check_saved(&norm, mean, deviation, training));
    for (int i = 0; i < call->args[9].ints.n && i < 3; i++)
        wanted[i] = call->args[9].ints.v[i] != 0;
    if (call->entry->variant == GEMS_OUT && !(wanted[0] && wanted[1] && wanted[2]))
        return gems_decline("results that are not wanted");
    if ((wanted[1] || wanted[2]) && !norm.weight && x->device_type != GEMS_CPU)
        return gems_decline("gradient of an absent weight");
    int params = norm.params == GEMS_NO_DTYPE ? x->dtype : norm.params;
    if (!norm.last && gems_like_channels_last(x))
        return gems_decline("memory that is both contiguous and channels last");
    if (wanted[0]) GEMS_TRY(gems_output(call, 0, x->ndim, norm.sizes, norm.strides, x->dtype));
    for (int i = 1; i < 3; i++)
        if (wanted[i]) GEMS_TRY(gems_output(call, i, 1, &norm.channels, NULL, params));
    if (!wanted[0] && !wanted[1] && !wanted[2]) return GEMS_OK;
    const void *g, *data, *weight = norm.weight ? norm.weight->data : NULL, *center = mean->data,
                          *spread = deviation->data;
    GEMS_TRY(pack(call, &norm, grad, &g));
    GEMS_TRY(pack(call, &norm, x, &data));
    void *dx = wanted[0] ? call->out[0].data : NULL,
         *dweight = wanted[1] ? call->out[1].data : NULL,
         *dbias = wanted[2] ? call->out[2].data : NULL, *partial, *factors;
    size_t element = gems_dtype_size(gems_dtype_opmath(x->dtype));
    gems_key key = {.kernel = BACKWARD_KERNEL,
                    .flags = training ? 0 : EVALUATION,
                    .dtype = {x->dtype, (uint8_t)params, mean->dtype}};
    launches l;
    bool aligned = gems_aligned(g, 16) && gems_aligned(data, 16) && gems_aligned(dx, 16);
    GEMS_TRY(make_launches(call, &norm, &key, aligned, &l));
    int32_t runs = training || wanted[1] || wanted[2] ? l.s.runs : 0;
    GEMS_TRY(gems_scratch(call, (size_t)(2 * (runs + 2) * norm.channels) * element, &factors));
    partial = (char *)factors + (size_t)(4 * norm.channels) * element;
    double count = (double)(norm.samples * norm.plane), eps = gems_arg_double(call, 8);
    void *sums[] = {&g, &data, &center, &partial, &l.s};
    if (runs) GEMS_TRY(gems_call_launch(call, l.plan, SUMS, l.reduce, l.reduce_block, 0, sums));
    void *finish[] = {&partial, &weight,       &center, &spread, &dweight, &dbias,
                      &factors, &l.s.channels, &runs,   &count,  &eps};
    GEMS_TRY(gems_call_launch(call, l.plan, FINISH_SUMS, l.small, l.block, 0, finish));
    if (!wanted[0]) return GEMS_OK;
    void *args[6] = {&g, &data, &factors, &dx, &l.s};
    return launch_flat(call, &l, INPUTS, args, 5);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    static const places full = {0, 1, 2, 3, 4, 5, 6, 7}, no_stats = {0, 1, 2, -1, -1, 3, 4, 5},
                        evaluation = {0, 1, 2, 3, 4, -1, 5, 6};
    switch (call->op->mode) {
    case GEMS_NORM_BACKWARD: return backward(call);
    case GEMS_NORM_NO_STATS: return forward(call, &no_stats);
    case GEMS_NORM_EVALUATION: return forward(call, &evaluation);
    default: return forward(call, &full);
    }
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    static const char *const forward_entries[] = {"stats", "finish", "prepare", "apply"};
    static const char *const backward_entries[] = {"sums", "finish", "inputs"};
    if (key->kernel == GEMS_PACK_KERNEL) return gems_pack_program(key, p);
    bool back = key->kernel == BACKWARD_KERNEL;
    gems_norm_head(key, &p->head);
    gems_text_add(&p->head,
                  "typedef %s Index;\nconstexpr bool kColumns = %s, kEvaluation = %s;\n"
                  "#define BACKWARD %d\n",
                  key->flags & WIDE ? "int64_t" : "int32_t",
                  key->flags & COLUMNS ? "true" : "false",
                  key->flags & EVALUATION ? "true" : "false", back);
    p->files[0] = "cluster.cuh";
    p->files[1] = "rows.cuh";
    p->files[2] = "moments.cuh";
    p->files[3] = "batch_norm.cu";
    p->entry_count = back ? 3 : 4;
    memcpy(p->entries, back ? backward_entries : forward_entries,
           (size_t)p->entry_count * sizeof *p->entries);
    snprintf(p->name, sizeof p->name, "%.*s %s %s x%d", (int)strcspn(op->schema, "("), op->schema,
             key->flags & COLUMNS ? "columns" : "planes",
             gems_dtype_name(key->dtype[GEMS_ROW_DATA]), key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}

/* Weights and statistics of the data's dtype on a CPU, as they are kept on a GPU; planes and
 * columns, of whole vectors and not. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    bool back = op->mode == GEMS_NORM_BACKWARD;
    int vec = info->fast ? 1 : 16 / (int)gems_dtype_size(dtype);
    if (i >= (info->fast ? 2 : 4)) return false;
    gems_team team = {.vec = (uint8_t)(i < 2 ? vec : 1),
                      .stage = GEMS_STAGE_AGAIN,
                      .items = 1,
                      .threads = info->fast ? 1 : THREADS};
    key->kernel = back ? BACKWARD_KERNEL : 0;
    key->flags = i % 2 ? COLUMNS : 0;
    memset(key->dtype, info->arch ? gems_dtype_opmath(dtype) : dtype, 3);
    key->dtype[GEMS_ROW_DATA] = (uint8_t)dtype;
    gems_team_to_key(&team, key);
    return true;
}

const gems_family gems_family_batch_norm = {
    .name = "batch_norm", .run = run, .program = program, .warm = warm};
