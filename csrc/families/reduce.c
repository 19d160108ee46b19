/* Reductions: sums, means, products, extremes and their places, counts, norms, moments, dot
 * products. Twin of kernels/reduce.cu.
 *
 * A row's mode is one of enum gems_reduction, plus GEMS_WITH_VALUES for the operators that give two
 * results: values and places, deviations and means. The arguments are read in reduce_request.c.
 *
 * The loss family is the same over two tensors: each row's expression, as in the elementwise
 * family, gives a loss of each pair of elements, and the argument reduction says whether they stay
 * (that family's own kernels), are averaged or added.
 */
#include <stdio.h>
#include <string.h>

#include "elementwise.h"
#include "pack.h"
#include "reduce.h"

enum form { ROW = 64, COLUMN }; /* beside the shape classes of elementwise */
enum flags { WIDE = 1, SIMPLE = 2, VALUES = 4, TWO = 8 };
enum { REDUCTION = 2 }; /* in key->tune */

#define RANK             GEMS_REDUCE_RANK
#define PARTIAL_ELEMENTS 32768 /* of one block, where several share a row in the fast mode */

/* Twin of Shape in kernels/reduce.cu. */
typedef struct shape {
    int64_t kept, reduced;
    int32_t kept_rank, reduced_rank;
    gems_fastdiv kept_div[RANK], reduced_div[RANK];
    int64_t kept_size[RANK], kept_in[RANK], kept_out[RANK];
    int64_t reduced_size[RANK], reduced_in[RANK];
} shape;

/* How it is launched. */
typedef struct geometry {
    uint32_t grid[3], block[3], shared;
    int64_t parts, chunk; /* blocks that share a row, elements of each */
} geometry;

/* ---- shape ---- */

static void add_kept(shape *s, int64_t size, int64_t in, int64_t out) {
    int d = s->kept_rank++;
    s->kept_size[d] = size;
    s->kept_in[d] = in;
    s->kept_out[d] = out;
    s->kept_div[d] = gems_fastdiv_make(size > 0 && size <= INT32_MAX ? (uint32_t)size : 1);
    s->kept *= size;
}

static void add_reduced(shape *s, int64_t size, int64_t in) {
    int d = s->reduced_rank++;
    s->reduced_size[d] = size;
    s->reduced_in[d] = in;
    s->reduced_div[d] = gems_fastdiv_make(size > 0 && size <= INT32_MAX ? (uint32_t)size : 1);
    s->reduced *= size;
}

/* Kept and reduced dimensions of a call with its output made, coalesced, innermost first. Returns
 * whether the innermost of all is reduced. */
static bool make_shape(const gems_reduce_request *r, const gems_tensor *out, bool packed,
                       shape *s) {
    const gems_tensor *self = r->self;
    s->kept = s->reduced = 1;
    s->kept_rank = s->reduced_rank = 0;
    if (packed) {
        add_reduced(s, self->numel, 1);
    } else if (self->numel) {
        int64_t out_strides[GEMS_MAX_DIMS];
        const int64_t *strides[2] = {self->strides, out_strides};
        gems_iter iter;
        for (int d = 0, o = 0; d < self->ndim; d++) {
            bool reduced = r->dims >> d & 1;
            out_strides[d] = reduced ? 0 : out->strides[o];
            o += !reduced || r->keepdim;
        }
        gems_iter_make(&iter, self->sizes, self->ndim, strides, 2);
        for (int d = 0; d < iter.ndim; d++) {
            if (iter.stride[1][d])
                add_kept(s, iter.size[d], iter.stride[0][d], iter.stride[1][d]);
            else
                add_reduced(s, iter.size[d], iter.stride[0][d]);
        }
        if (s->reduced_rank && !iter.stride[1][0]) return true;
        if (s->reduced_rank) return false;
        add_reduced(s, 1, 0);
        return false;
    } else { /* nothing to reduce: every result is the identity */
        for (int d = out->ndim - 1; d >= 0; d--) add_kept(s, out->sizes[d], 0, out->strides[d]);
        add_reduced(s, 0, 0);
    }
    return true;
}

static bool is_wide(const shape *s) {
    int64_t in = s->reduced, out = s->kept;
    for (int d = 0; d < s->kept_rank; d++) {
        in += (s->kept_size[d] - 1) * s->kept_in[d];
        out += (s->kept_size[d] - 1) * s->kept_out[d];
    }
    for (int d = 0; d < s->reduced_rank; d++)
        in += s->reduced_size[d] ? (s->reduced_size[d] - 1) * s->reduced_in[d] : 0;
    int64_t spare = 1 << 20; /* loops may count past the end */
    return !gems_fits_int32(in + spare) || !gems_fits_int32(out + spare);
}

/* ---- geometry ---- */

static int power_of_two(int64_t n, int most) {
    int p = 1;
    while (p < n && p < most) p *= 2;
    return p;
}

static bool multiples(const int64_t *strides, int from, int rank, int vec) {
    for (int d = from; d < rank; d++)
        if (strides[d] % vec) return false;
    return true;
}

/* Elements of one access. */
static int vector_of(const shape *s, bool row, const gems_device_info *info, const void *data,
                     size_t in, size_t value) {
    int64_t unit = row ? s->reduced_in[0] : s->kept_rank ? s->kept_in[0] : 0;
    int vec = info->vector_bytes / (int)(info->fast && value > in ? value : in);
    if (unit != 1 || vec < 2) return 1;
    if (info->fast || (row && s->reduced_rank == 1)) return vec;
    int64_t inner = row ? s->reduced_size[0] : s->kept_size[0];
    bool aligned = inner % vec == 0 && (uintptr_t)data % (in * (size_t)vec) == 0 &&
                   multiples(s->kept_in, row ? 0 : 1, s->kept_rank, vec) &&
                   multiples(s->reduced_in, row ? 1 : 0, s->reduced_rank, vec);
    return aligned ? vec : 1;
}

static void share(geometry *g, const shape *s, int64_t parts, int64_t step) {
    if (parts > 1024) parts = 1024;
    g->parts = parts > 1 ? parts : 1;
    g->chunk = (s->reduced + g->parts - 1) / g->parts;
    if (g->parts > 1) {
        g->chunk = (g->chunk + step - 1) / step * step;
        g->parts = (s->reduced + g->chunk - 1) / g->chunk;
    }
    g->grid[1] = (uint32_t)g->parts;
    g->grid[2] = 1;
}

static void fast_geometry(const shape *s, bool row, int vec, const gems_device_info *info,
                          geometry *g) {
    int64_t tasks = s->kept, each = s->reduced;
    if (!row) {
        int64_t tile = vec > 1 ? 8 * vec : 16, line = s->kept_size[0];
        tasks = s->kept / line * ((line + tile - 1) / tile);
        each *= line < tile ? line : tile;
    }
    int64_t parts = tasks < 16 && s->kept ? each / PARTIAL_ELEMENTS : 1;
    share(g, s, parts < 64 ? parts : 64, 256);
    g->grid[0] = gems_grid_for(info, tasks, each < 16384 ? 16384 / (each + 1) + 1 : 1);
    g->block[0] = g->block[1] = g->block[2] = 1;
    g->shared = 0;
}

static void row_geometry(const shape *s, int vec, int group, const gems_device_info *info,
                         geometry *g) {
    int threads = group ? 256 : s->reduced >= 16384 ? 512 : s->reduced >= 256 * vec ? 256 : 128;
    int64_t rows = group ? threads / group : 1, blocks = (s->kept + rows - 1) / rows, parts = 1;
    int64_t full = 4 * (int64_t)info->processors;
    if (!group && blocks < full) {
        int64_t most = s->reduced / ((int64_t)threads * vec * 4);
        parts = (full + blocks / 2) / blocks; /* one wave: a second one would be short */
        if (parts > most) parts = most;
    }
    share(g, s, parts, (int64_t)threads * vec);
    g->grid[0] = (uint32_t)(blocks < 32 * full ? blocks : 32 * full);
    g->block[0] = (uint32_t)threads;
    g->block[1] = g->block[2] = 1;
    g->shared = 0;
}

static void column_geometry(const shape *s, int vec, size_t element, const gems_device_info *info,
                            geometry *g) {
    int64_t units = s->kept / vec, full = 4 * (int64_t)info->processors, parts = 1;
    int bx = power_of_two(units, 32), by = power_of_two(s->reduced, 256 / bx);
    if (by < 8 && units > 32) bx = power_of_two(units, 256 / by);
    while ((size_t)(bx * by * vec) * element > 48 * 1024) by /= 2;
    int64_t blocks = (units + bx - 1) / bx;
    if (blocks < full) {
        int64_t most = s->reduced / (by * 8);
        parts = (full + blocks - 1) / blocks;
        if (parts > most) parts = most;
    }
    share(g, s, parts, by);
    g->grid[0] = (uint32_t)(blocks < 32 * full ? blocks : 32 * full);
    g->block[0] = (uint32_t)bx;
    g->block[1] = (uint32_t)by;
    g->block[2] = 1;
    g->shared = by > 1 ? (uint32_t)((size_t)(bx * by * vec) * element) : 0;
}

/* Threads of one row; 0: a block. */
static int group_of(const shape *s, int vec, const gems_device_info *info) {
    if (info->fast) return 0;
    if (s->reduced > 2048 * vec ||
        (s->reduced >= 512 * vec && s->kept < 8 * (int64_t)info->processors))
        return 0;
    return s->reduced > 16 * vec ? 32 : 8;
}

/* ---- the call ---- */

static gems_status run_finish(gems_call *call, const gems_plan *plan, const gems_device_info *info,
                              const shape *s, int64_t parts, size_t element, void **args) {
    uint32_t grid[3] = {1, 1, 1}, block[3] = {1, 1, 1}, shared = 0;
    if (info->fast) {
        grid[0] = gems_grid_for(info, s->kept, 1024);
    } else {
        int bx = power_of_two(s->kept, 32), by = power_of_two(parts, 256 / bx);
        block[0] = (uint32_t)bx;
        block[1] = (uint32_t)by;
        grid[0] = (uint32_t)((s->kept + bx - 1) / bx);
        shared = (uint32_t)((size_t)(bx * by) * element);
    }
    return gems_call_launch(call, plan, 1, grid, block, shared, args);
}

/* The elements of a tensor one after the other, where they are taken so. */
static gems_status flat_data(gems_call *call, const gems_reduce_request *r, const gems_tensor *t,
                             const void **data) {
    *data = t ? t->data : NULL;
    return t && r->flatten ? gems_pack(call, t, data) : GEMS_OK;
}

/* Two tensors whose elements lie alike, without gaps, can be taken as they lie. */
static bool lie_alike(const gems_tensor *a, const gems_tensor *b) {
    const int64_t *strides[2] = {a->strides, b->strides};
    gems_iter iter;
    gems_iter_make(&iter, a->sizes, a->ndim, strides, 2);
    return iter.ndim == 0 || (iter.ndim == 1 && iter.stride[0][0] == 1 && iter.stride[1][0] == 1);
}

/* Bytes of what is accumulated. */
static size_t accumulated(int reduction, size_t value, size_t index, bool fast) {
    if (gems_reduce_is_moments(reduction)) return 3 * (fast ? sizeof(double) : value);
    if (reduction == GEMS_LOGSUMEXP || reduction == GEMS_AMINMAX) return 2 * value;
    if (gems_reduce_is_pair(reduction)) return 2 * (value > index ? value : index);
    return value;
}

static gems_status launch(gems_call *call, const gems_reduce_request *r) {
    const gems_device_info *info = gems_device_information(call->device);
    bool pair = gems_reduce_is_pair(r->reduction);
    int value = gems_reduce_value(r->reduction, r->in, r->cast);
    size_t in_size = gems_dtype_size(r->in), value_size = gems_dtype_size(value);
    shape s;
    geometry g;
    const void *x = NULL, *x2 = NULL;
    bool alike = r->other && lie_alike(r->self, r->other);
    bool row = make_shape(r, &call->out[0], r->flatten, &s), wide = is_wide(&s);
    size_t element = accumulated(r->reduction, value_size, wide ? 8 : 4, info->fast);
    if (row && s.kept_rank && !info->fast && s.reduced < 8) row = false; /* a thread a row */
    if (!s.kept_rank && !row) add_kept(&s, 1, 0, 0);
    if (alike) {
        x = r->self->data;
        x2 = r->other->data;
    } else {
        GEMS_TRY(flat_data(call, r, r->self, &x));
        GEMS_TRY(flat_data(call, r, r->other, &x2));
    }
    int vec = vector_of(&s, row, info, x, in_size, value_size);
    /* Two tensors are read side by side. */
    if (r->other && !info->fast && ((uintptr_t)x - (uintptr_t)x2) % 16) vec = 1;
    int group = row ? group_of(&s, vec, info) : 0;
    if (info->fast)
        fast_geometry(&s, row, vec, info, &g);
    else if (row)
        row_geometry(&s, vec, group, info, &g);
    else
        column_geometry(&s, vec, element, info, &g);

    gems_key key = {.kernel = row ? ROW : COLUMN,
                    .flags = (uint8_t)((wide ? WIDE : 0) | (s.reduced_rank < 2 ? SIMPLE : 0) |
                                       (r->both ? VALUES : 0) | (r->other ? TWO : 0)),
                    .dtype = {(uint8_t)r->in, (uint8_t)r->cast, (uint8_t)r->out},
                    .tune = {(uint8_t)vec, (uint8_t)group, (uint8_t)r->reduction}};
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *partial = NULL;
    if (g.parts > 1) GEMS_TRY(gems_scratch(call, (size_t)(g.parts * s.kept) * element, &partial));
    void *y = pair && !r->both ? NULL : call->out[0].data,
         *where = pair || r->both ? call->out[r->both].data : NULL;
    double number = (double)s.reduced, parameter = r->power;
    if (gems_reduce_is_moments(r->reduction)) number -= r->correction;
    if (r->reduction == GEMS_NORM) number = r->power;
    void *args[] = {&x, &x2, &y, &where, &partial, &s, &g.chunk, &number, &parameter};
    static const uint16_t bytes[] = {
        8, 8, 8, 8, 8, sizeof s, sizeof g.chunk, sizeof number, sizeof parameter};
    GEMS_TRY(gems_call_launch_kept(call, plan, g.grid, g.block, g.shared, args, 5, bytes, 9));
    if (g.parts == 1) return GEMS_OK;
    void *finish_args[] = {&partial, &x, &x2, &y, &where, &s, &g.parts, &number, &parameter};
    return run_finish(call, plan, info, &s, g.parts, element, finish_args);
}

static gems_status run_request(gems_call *call, const gems_reduce_request *r) {
    int64_t sizes[GEMS_MAX_DIMS];
    int ndim = 0;
    for (int d = 0; d < r->self->ndim; d++) {
        if (!(r->dims >> d & 1))
            sizes[ndim++] = r->self->sizes[d];
        else if (r->keepdim)
            sizes[ndim++] = 1;
    }
    bool pair = gems_reduce_is_pair(r->reduction);
    if (!pair || r->both) GEMS_TRY(gems_output(call, 0, ndim, sizes, NULL, r->out));
    if (pair) GEMS_TRY(gems_output(call, r->both, ndim, sizes, NULL, GEMS_I64));
    if (!pair && r->both) GEMS_TRY(gems_output(call, 1, ndim, sizes, NULL, r->out));
    if (r->both) { /* one set of output strides serves both results */
        for (int d = 0; d < ndim; d++)
            if (sizes[d] > 1 && call->out[0].strides[d] != call->out[1].strides[d])
                return gems_decline("outputs with different strides");
    }
    return call->out[0].numel ? launch(call, r) : GEMS_OK;
}

static gems_status run(gems_call *call) {
    gems_reduce_request r;
    GEMS_TRY(gems_reduce_read(call, &r));
    return run_request(call, &r);
}

/* reduction: 0 none, 1 mean, 2 sum, as in torch. */
static gems_status run_loss(gems_call *call) {
    const gems_schema *schema = &call->entry->schema;
    int place = gems_schema_arg(schema, "reduction");
    const gems_tensor *self = gems_arg_tensor(call, 0), *target = gems_arg_tensor(call, 1);
    if (!self || !target) return gems_decline("self or target is no tensor");
    if (gems_arg_int(call, place) == 0) return gems_family_elementwise.run(call);
    if (gems_arg_int(call, place) != 1 && gems_arg_int(call, place) != 2)
        return gems_decline("reduction");
    if (self->dtype != target->dtype || !(call->op->dtypes & GEMS_BIT(self->dtype)))
        return gems_decline("dtype");
    bool same = self->ndim == target->ndim;
    for (int d = 0; same && d < self->ndim; d++) same = self->sizes[d] == target->sizes[d];
    if (!same) return gems_decline("target of another shape");
    gems_reduce_request r = {.self = self,
                             .other = target,
                             .flatten = true,
                             .dims = (1u << self->ndim) - 1,
                             .reduction = gems_arg_int(call, place) == 1 ? GEMS_MEAN : GEMS_SUM,
                             .in = self->dtype,
                             .cast = self->dtype,
                             .out = self->dtype};
    if (place + 1 < call->nargs) {
        r.power = gems_arg_double(call, place + 1);
        if (!(r.power > 0)) return gems_decline("a parameter that is not positive");
    }
    return run_request(call, &r);
}

/* ---- programs ---- */

/* What a pair of elements gives: the product, or a loss. */
static gems_status pair_expression(const gems_op *op, int row_number, int value, gems_program *p,
                                   int *files) {
    const char *text = gems_dtype_is_float(value) ? "a * b" : "Val(uint64_t(a) * uint64_t(b))",
               *parameter = "";
    int size = (int)strlen(text);
    if (op->family == &gems_family_loss) {
        const gems_ew_row *row = gems_ew_row_of(row_number);
        if (!row) return GEMS_ERROR;
        text = row->choice[0].expr;
        size = row->choice[0].expr_size;
        if (row->parameters) parameter = row->parameter[row->parameters - 1].name;
        if (op->helper) p->files[(*files)++] = op->helper;
    }
    gems_text_add(&p->head, "#define GEMS_PAIR_EXPRESSION %.*s\n#define GEMS_PAIR_PARAMETER %s\n",
                  size, text, parameter);
    return GEMS_OK;
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    if (key->kernel == GEMS_PACK_KERNEL) return gems_pack_program(key, p);
    if (key->kernel < ROW) return gems_ew_program(op, key, p);
    int reduction = key->tune[REDUCTION], in = key->dtype[0], files = 0;
    int value = gems_reduce_value(reduction, in, key->dtype[1]);
    const char *index = key->flags & WIDE ? "int64_t" : "int32_t";
    gems_text_add(
        &p->head,
        "typedef %s In;\ntypedef %s Cast;\ntypedef %s Val;\ntypedef %s Out;\ntypedef %s Index;\n",
        gems_dtype_kernel(in), gems_dtype_kernel(key->dtype[1]), gems_dtype_kernel(value),
        gems_dtype_kernel(key->dtype[2]), index);
    gems_text_add(&p->head, "constexpr int kReduce = %d, kVec = %d, kGroup = %d;\n", reduction,
                  key->tune[0], key->tune[1]);
    gems_text_add(&p->head, "constexpr bool kRow = %s, kSimple = %s, kBoth = %s;\n",
                  key->kernel == ROW ? "true" : "false", key->flags & SIMPLE ? "true" : "false",
                  key->flags & VALUES ? "true" : "false");
    gems_text_add(&p->head, "constexpr bool kTwo = %s;\n", key->flags & TWO ? "true" : "false");
    if (key->flags & TWO) GEMS_TRY(pair_expression(op, key->op, value, p, &files));
    p->files[files++] = "reduce_values.cuh";
    p->files[files] = "reduce.cu";
    p->entries[0] = "reduce";
    p->entries[1] = "finish";
    p->entry_count = 2;
    snprintf(p->name, sizeof p->name, "%.*s %s %s x%d", (int)strcspn(op->schema, "("), op->schema,
             key->kernel == ROW ? "rows" : "columns", gems_dtype_name(in), key->tune[0]);
    return GEMS_OK;
}

/* Rows of a block, rows of a warp and columns, contiguous, with vectors; full reductions have no
 * columns. */
static bool warm_one(int reduction, bool both, bool two, int dtype, int i,
                     const gems_device_info *info, gems_key *key) {
    bool floats = gems_dtype_is_float(dtype),
         truth = reduction == GEMS_ANY || reduction == GEMS_ALL,
         adds = reduction == GEMS_SUM || reduction == GEMS_PROD;
    if ((reduction == GEMS_MEAN || reduction == GEMS_LOGSUMEXP) && !floats) return false;
    int cast = adds && !two && !floats ? GEMS_I64 : dtype,
        out = truth                     ? (dtype == GEMS_U8 ? GEMS_U8 : GEMS_BOOL)
              : reduction == GEMS_COUNT ? GEMS_I64
                                        : cast;
    int in_size = (int)gems_dtype_size(dtype),
        value = (int)gems_dtype_size(gems_reduce_value(reduction, dtype, cast));
    static const struct {
        uint8_t form, group;
    } gpu[] = {{ROW, 0}, {ROW, 32}, {COLUMN, 0}}, fast[] = {{ROW, 0}, {COLUMN, 0}};
    if (i >= (two ? 1 : info->fast ? 2 : 3)) return false;
    key->kernel = info->fast ? fast[i].form : gpu[i].form;
    key->flags = (uint8_t)(SIMPLE | (both ? VALUES : 0) | (two ? TWO : 0));
    key->dtype[0] = (uint8_t)dtype;
    key->dtype[1] = (uint8_t)cast;
    key->dtype[2] = (uint8_t)out;
    key->tune[0] =
        (uint8_t)(info->vector_bytes / (info->fast && value > in_size ? value : in_size));
    key->tune[1] = info->fast ? 0 : gpu[i].group;
    key->tune[REDUCTION] = (uint8_t)reduction;
    return true;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    int reduction = op->mode & ~GEMS_WITH_VALUES;
    if (reduction == GEMS_NORM) reduction = GEMS_NORM2;
    if (reduction == GEMS_TRACE)
        return warm_one(GEMS_SUM, false, false, dtype, i ? 9 : 0, info, key);
    if (reduction == GEMS_DOT) return warm_one(GEMS_SUM, false, true, dtype, i, info, key);
    return warm_one(reduction, op->mode & GEMS_WITH_VALUES, false, dtype, i, info, key);
}

static bool warm_loss(const gems_op *op, int dtype, int i, const gems_device_info *info,
                      gems_key *key) {
    if (i == 0) return warm_one(GEMS_MEAN, false, true, dtype, i, info, key);
    return gems_family_elementwise.warm(op, dtype, i - 1, info, key);
}

const gems_family gems_family_reduce = {
    .name = "reduce", .run = run, .program = program, .warm = warm, .strided_output = true};

const gems_family gems_family_loss = {.name = "loss",
                                      .run = run_loss,
                                      .program = program,
                                      .warm = warm_loss,
                                      .casts_output = true,
                                      .strided_output = true};
