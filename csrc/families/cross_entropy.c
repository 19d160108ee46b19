/* cross_entropy, forward and backward, of logits with classes along dim 1 (dim 0 of a vector). Twin
 * of kernels/cross_entropy.cu.
 *
 * `saved` holds the logarithm of the sum of exponentials of each row, then the sum of each row's
 * target distribution, then what the gradient is divided by: all that the backward pass needs
 * beside the logits.
 */
#include <stdio.h>
#include <string.h>

#include "gather.h"
#include "rows.h"

#define THREADS        256
#define LINES_OF_BLOCK 16384 /* rows that one block adds up; more: several blocks first */

enum { LOSS = GEMS_COPY_END, GRADIENT };                /* key->kernel */
enum { PROB = 1, WEIGHT = 2, SMOOTH = 4, COLUMNS = 8 }; /* key->flags */
enum { REDUCE_NONE, REDUCE_MEAN, REDUCE_SUM };          /* torch's numbers */

typedef struct entropy {
    const gems_tensor *self, *target, *weight;
    int reduction, axis; /* axis: of the classes */
    int64_t ignored, outer, n, inner, rows;
    double smoothing;
    bool columns, innermost; /* innermost: the classes are, of more than two dimensions */
    const void *x, *targets, *weights;
    int64_t x_apart, t_apart;
    uint8_t flags;
    int64_t sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS]; /* of self, the classes last */
} entropy;

/* A tensor of self's sizes, its classes last; sizes and strides are e's. */
static gems_tensor turned(entropy *e, const gems_tensor *t) {
    gems_tensor view = *t;
    int at = 0;
    for (int d = 0; d < t->ndim; d++) {
        if (d == e->axis) continue;
        e->sizes[at] = t->sizes[d];
        e->strides[at++] = t->strides[d];
    }
    e->sizes[at] = t->sizes[e->axis];
    e->strides[at] = t->strides[e->axis];
    view.sizes = e->sizes;
    view.strides = e->strides;
    return view;
}

static gems_status read_target(entropy *e) {
    const gems_tensor *self = e->self, *target = e->target;
    if (target->dtype == self->dtype && gems_same_sizes(self, target)) {
        e->flags |= PROB;
        return GEMS_OK;
    }
    if (target->dtype != GEMS_I64 || target->ndim != self->ndim - 1)
        return gems_decline("the target's dtype or rank");
    for (int d = 0; d < target->ndim; d++)
        if (target->sizes[d] != self->sizes[d < e->axis ? d : d + 1])
            return gems_decline("the target's shape");
    return GEMS_OK;
}

/* self, target and weight stand at argument `first` and after it, the numbers at `number`. */
static gems_status read(const gems_call *call, int first, int number, entropy *e) {
    *e = (entropy){.self = gems_arg_tensor(call, first),
                   .target = gems_arg_tensor(call, first + 1),
                   .weight = gems_arg_tensor(call, first + 2),
                   .reduction = (int)gems_arg_int(call, number),
                   .ignored = gems_arg_int(call, number + 1),
                   .smoothing = gems_arg_double(call, number + 2)};
    const gems_tensor *self = e->self;
    if (!self || !e->target || self->ndim < 1) return gems_decline("no tensors");
    if (!(call->op->dtypes & GEMS_BIT(self->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    if (e->reduction < REDUCE_NONE || e->reduction > REDUCE_SUM)
        return gems_decline("the reduction");
    if (!(e->smoothing >= 0 && e->smoothing <= 1)) return gems_decline("label_smoothing");
    e->axis = self->ndim > 1;
    e->n = self->sizes[e->axis];
    if (e->n < 1 || e->n > 1 << 30) return gems_decline("so many classes");
    GEMS_TRY(read_target(e));
    if (e->weight &&
        (e->weight->ndim != 1 || e->weight->sizes[0] != e->n || e->weight->dtype != self->dtype))
        return gems_decline("the weight's shape or dtype");
    if (e->weight) e->flags |= WEIGHT;
    if (e->smoothing > 0) e->flags |= SMOOTH;
    e->rows = self->numel / e->n;
    return GEMS_OK;
}

/* Where the rows lie: by rows as they are, by columns of contiguous data, or in a contiguous copy.
 */
static gems_status lay_out(gems_call *call, entropy *e) {
    const gems_tensor *self = e->self, *target = e->target;
    bool prob = e->flags & PROB;
    e->inner = gems_numel(self->sizes + e->axis + 1, self->ndim - e->axis - 1);
    e->x_apart = e->t_apart = e->n;
    e->outer = e->rows;
    if (self->ndim <= 2) {
        e->x_apart = gems_row_stride(self, e->axis);
        if (prob) e->t_apart = gems_row_stride(target, e->axis);
    } else if (!gems_is_contiguous(self) || (prob && !gems_is_contiguous(target))) {
        gems_tensor view = turned(e, self);
        e->innermost = gems_is_contiguous(&view);
        if (prob && e->innermost) {
            view = turned(e, target);
            if (!gems_is_contiguous(&view)) e->t_apart = 0;
        }
    }
    e->x = self->data;
    e->targets = target->data;
    if (!e->innermost && (self->ndim > 2 || !e->x_apart)) {
        e->x_apart = e->n;
        GEMS_TRY(gems_pack(call, self, &e->x));
    }
    if (!prob) {
        GEMS_TRY(gems_pack(call, target, &e->targets));
    } else if (!e->t_apart && e->innermost) { /* as self lies */
        gems_tensor view = turned(e, target);
        e->t_apart = e->n;
        GEMS_TRY(gems_pack(call, &view, &e->targets));
    } else if (!e->innermost && (self->ndim > 2 || !e->t_apart)) {
        e->t_apart = e->n;
        GEMS_TRY(gems_pack(call, target, &e->targets));
    }
    if (e->weight) GEMS_TRY(gems_pack(call, e->weight, &e->weights));
    e->columns = !e->innermost && e->inner > 1;
    if (e->columns) {
        e->flags |= COLUMNS;
        e->outer = e->rows / e->inner;
    }
    return GEMS_OK;
}

/* ---- launches ---- */

typedef struct geometry {
    gems_team team;
    uint32_t grid[3], block[3];
} geometry;

/* Whether rows of b begin as far from a multiple of 16 bytes as those of a. */
static bool alike(const void *a, int64_t a_apart, const void *b, int64_t b_apart, size_t size) {
    return ((uintptr_t)a - (uintptr_t)b) % 16 == 0 && (size_t)(a_apart - b_apart) * size % 16 == 0;
}

/* state: bytes that threads of one column hand over. Alignment of rows does not matter: they are
 * read from the first aligned element on. */
static geometry rows_or_columns(const gems_device_info *info, const entropy *e, bool vectors,
                                size_t size, size_t state) {
    geometry g = {.grid = {1, 1, 1}, .block = {1, 1, 1}};
    gems_team *team = &g.team;
    int64_t cap = 64 * (int64_t)info->processors, blocks;
    int vec = vectors ? 16 / (int)size : 1;
    *team = (gems_team){.vec = (uint8_t)vec, .items = 1, .threads = THREADS};
    if (info->fast) {
        int64_t tiles = e->columns ? e->outer * ((e->inner + 63) / 64) : e->rows;
        team->vec = 16;
        team->threads = 1;
        g.grid[0] = gems_grid_for(info, tiles, (e->columns ? 256 : 16384) / e->n + 1);
        return g;
    }
    if (e->columns) {
        int64_t units = e->rows / vec;
        int bx = gems_power_of_two(units, 32), by = gems_power_of_two(e->n, THREADS / bx);
        if (bx * by < 128) bx = gems_power_of_two(units, 128 / by);
        g.block[0] = (uint32_t)bx;
        g.block[1] = (uint32_t)by;
        team->shared = by > 1 ? (uint32_t)((size_t)(bx * by * vec) * state) : 0;
        blocks = (units + bx - 1) / bx;
    } else {
        int64_t accesses = (e->n + vec - 1) / vec;
        team->warp_row = accesses <= 256;
        team->threads = team->warp_row ? 128 : (uint32_t)gems_power_of_two((accesses + 3) / 4, 512);
        g.block[0] = team->threads;
        blocks = team->warp_row ? (e->rows + 3) / 4 : e->rows;
        team->cluster = (uint8_t)(team->warp_row ? 1 : gems_team_share(info, e->rows, accesses));
        g.grid[0] = team->cluster;
    }
    g.grid[0] *= (uint32_t)(blocks < cap ? blocks : cap);
    return g;
}

static gems_status find_plan(gems_call *call, const entropy *e, int kernel, const geometry *g,
                             const gems_plan **plan) {
    gems_key key = {.kernel = (uint8_t)kernel, .flags = e->flags, .dtype = {e->self->dtype}};
    gems_team_to_key(&g->team, &key);
    return gems_call_plan(call, &key, plan);
}

/* Adds up the rows. */
static gems_status run_total(gems_call *call, const entropy *e, const gems_plan *plan, void *lines,
                             size_t element) {
    const gems_device_info *info = gems_device_information(call->device);
    void *loss = call->out[0].data, *from = lines, *partial = NULL;
    char *saved = call->out[1].data;
    void *divisor = saved + (size_t)(2 * e->rows) * element;
    int32_t mean = e->reduction == REDUCE_MEAN;
    int64_t count = e->rows, parts = (count + LINES_OF_BLOCK - 1) / LINES_OF_BLOCK;
    uint32_t grid[3] = {1, 1, 1}, block[3] = {info->fast ? 1 : THREADS, 1, 1};
    if (parts > 512) parts = 512;
    if (parts > 1) {
        GEMS_TRY(gems_scratch(call, (size_t)(2 * parts) * element, &partial));
        grid[0] = (uint32_t)parts;
        void *args[] = {&from, &partial, &loss, &divisor, &count, &mean};
        GEMS_TRY(gems_call_launch(call, plan, 1, grid, block, 0, args));
        grid[0] = 1;
        from = partial;
        count = parts;
        partial = NULL;
    }
    void *args[] = {&from, &partial, &loss, &divisor, &count, &mean};
    return gems_call_launch(call, plan, 1, grid, block, 0, args);
}

static gems_status forward(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    entropy e;
    GEMS_TRY(read(call, 0, 3, &e));
    const gems_tensor *self = e.self;
    int opmath = gems_dtype_opmath(self->dtype);
    size_t size = gems_dtype_size(self->dtype), element = gems_dtype_size(opmath);
    bool none = e.reduction == REDUCE_NONE;
    int64_t sizes[GEMS_MAX_DIMS], kept = 2 * e.rows + 1;
    for (int d = 0; d < self->ndim - 1; d++) sizes[d] = self->sizes[d < e.axis ? d : d + 1];
    GEMS_TRY(gems_output(call, 0, none ? self->ndim - 1 : 0, sizes, NULL, self->dtype));
    GEMS_TRY(gems_output(call, 1, 1, &kept, NULL, opmath));
    GEMS_TRY(lay_out(call, &e));
    bool vectors = e.columns
                       ? e.inner % (16 / (int)size) == 0 && gems_aligned(e.x, 16) &&
                             (!(e.flags & PROB) || gems_aligned(e.targets, 16))
                       : !(e.flags & PROB) || alike(e.x, e.x_apart, e.targets, e.t_apart, size);
    geometry g = rows_or_columns(info, &e, vectors, size, 4 * element);
    const gems_plan *plan;
    GEMS_TRY(find_plan(call, &e, LOSS, &g, &plan));
    void *lines = NULL, *loss = call->out[0].data, *saved = call->out[1].data, *flag;
    if (!none && e.rows) GEMS_TRY(gems_scratch(call, (size_t)(2 * e.rows) * element, &lines));
    int32_t n = (int32_t)e.n, local;
    GEMS_TRY(gems_range_open(call, &local, &flag));
    void *args[] = {&e.x, &e.targets, &e.weights, &loss,      &lines,     &saved,       &e.outer,
                    &n,   &e.inner,   &e.x_apart, &e.t_apart, &e.ignored, &e.smoothing, &flag};
    if (e.rows)
        GEMS_TRY(gems_call_launch_cluster(call, plan, 0, g.grid, g.block, g.team.cluster,
                                          g.team.shared, args));
    GEMS_TRY(gems_range_close(call, flag));
    return none ? GEMS_OK : run_total(call, &e, plan, lines, element);
}

static gems_status backward(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *grad = gems_arg_tensor(call, 0), *saved = gems_arg_tensor(call, 4);
    entropy e;
    GEMS_TRY(read(call, 1, 5, &e));
    const gems_tensor *self = e.self;
    bool none = e.reduction == REDUCE_NONE;
    if (!grad || !saved || grad->dtype != self->dtype || grad->numel != (none ? e.rows : 1))
        return gems_decline("the loss's gradient");
    if (saved->dtype != gems_dtype_opmath(self->dtype) || saved->numel != 2 * e.rows + 1 ||
        !gems_is_contiguous(saved))
        return gems_decline("what the forward pass kept");
    GEMS_TRY(lay_out(call, &e));
    int64_t strides[GEMS_MAX_DIMS], step = e.n, dx_apart = e.n, grad_step = none;
    gems_contiguous_strides(self->sizes, self->ndim, strides);
    if (e.innermost)
        for (int d = self->ndim - 1; d >= 0; d--) {
            strides[d] = d == e.axis ? 1 : step;
            if (d != e.axis) step *= self->sizes[d] > 1 ? self->sizes[d] : 1;
        }
    GEMS_TRY(gems_output(call, 0, self->ndim, self->sizes, strides, self->dtype));
    if (!e.rows) return GEMS_OK;
    const void *g_data = NULL;
    GEMS_TRY(gems_pack(call, grad, &g_data));
    size_t size = gems_dtype_size(self->dtype);
    void *dx = call->out[0].data, *kept = saved->data, *flag;
    bool prob = e.flags & PROB, vectors;
    if (e.columns)
        vectors = e.inner % (16 / (int)size) == 0 && gems_aligned(e.x, 16) &&
                  gems_aligned(dx, 16) && (!prob || gems_aligned(e.targets, 16));
    else
        vectors = alike(e.x, e.x_apart, dx, dx_apart, size) &&
                  (!prob || alike(e.targets, e.t_apart, dx, dx_apart, size));
    geometry g = rows_or_columns(info, &e, vectors, size, 0);
    const gems_plan *plan;
    GEMS_TRY(find_plan(call, &e, GRADIENT, &g, &plan));
    int32_t n = (int32_t)e.n, local;
    GEMS_TRY(gems_range_open(call, &local, &flag));
    void *args[] = {&e.x,       &e.targets, &e.weights,   &g_data,    &kept,      &dx,
                    &e.outer,   &n,         &e.inner,     &e.x_apart, &e.t_apart, &dx_apart,
                    &grad_step, &e.ignored, &e.smoothing, &flag};
    GEMS_TRY(gems_call_launch_cluster(call, plan, 0, g.grid, g.block, g.team.cluster, 0, args));
    return gems_range_close(call, flag);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    return call->op->mode == GEMS_NORM_BACKWARD ? backward(call) : forward(call);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    if (key->kernel == GEMS_PACK_KERNEL) return gems_pack_program(key, p);
    bool backwards = key->kernel == GRADIENT;
    static const char *const names[] = {"kProb", "kWeight", "kSmooth", "kColumns"};
    gems_text_add(&p->head, "typedef %s T;\n#define GRADIENT %d\n",
                  gems_dtype_kernel(key->dtype[0]), backwards);
    for (int i = 0; i < 4; i++)
        gems_text_add(&p->head, "constexpr bool %s = %s;\n", names[i],
                      key->flags >> i & 1 ? "true" : "false");
    gems_team_head(key, &p->head);
    p->files[0] = "index.cuh";
    p->files[1] = "cluster.cuh";
    p->files[2] = "pair.cuh";
    p->files[3] = "rows.cuh";
    p->files[4] = "columns.cuh";
    p->files[5] = "cross_entropy.cu";
    p->entries[0] = backwards ? "gradient" : "loss";
    p->entries[1] = backwards ? NULL : "total";
    p->entry_count = backwards ? 1 : 2;
    snprintf(p->name, sizeof p->name, "%.*s %s %s x%d", (int)strcspn(op->schema, "("), op->schema,
             key->flags & COLUMNS ? "columns" : "rows", gems_dtype_name(key->dtype[0]),
             key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}

/* Classes as targets by short and by long rows and by columns; with smoothing and weights;
 * distributions. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    static const struct {
        int64_t n, inner;
        uint8_t flags;
    } shapes[] = {{1000, 1, 0},      {131072, 1, 0},     {131072, 1, SMOOTH | WEIGHT},
                  {1000, 1, PROB},   {32, 1 << 16, 0},   {32, 1 << 16, SMOOTH | WEIGHT},
                  {131072, 1, PROB}, {32, 1 << 16, PROB}};
    if (i >= (int)(sizeof shapes / sizeof *shapes)) return false;
    bool backwards = op->mode == GEMS_NORM_BACKWARD;
    size_t size = gems_dtype_size(dtype);
    entropy e = {.n = shapes[i].n, .inner = shapes[i].inner, .rows = 1 << 20, .outer = 1 << 4};
    e.columns = e.inner > 1;
    geometry g = rows_or_columns(info, &e, true, size, 0);
    key->kernel = backwards ? GRADIENT : LOSS;
    key->flags = (uint8_t)(shapes[i].flags | (e.columns ? COLUMNS : 0));
    key->dtype[0] = (uint8_t)dtype;
    gems_team_to_key(&g.team, key);
    return true;
}

const gems_family gems_family_cross_entropy = {
    .name = "cross_entropy", .run = run, .program = program, .warm = warm};
