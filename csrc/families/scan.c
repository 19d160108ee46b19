/* Running results along a dimension: cumsum, cumprod, cummax, cummin, logcumsumexp. Twin of
 * kernels/scan.cu, kernels/scan_chain.cu and kernels/scan_fast.cu.
 *
 * A line is the elements along the scanned dimension. Few long lines are shared by blocks in two
 * launches: the first leaves what each part accumulates, the second scans and begins with what the
 * parts before have. Where lines along memory have more tiles than the device has room for, each
 * block takes one and waits for what those before it have, so that the input is read once.
 */
#include <stdio.h>
#include <string.h>

#include "copy_views.h"
#include "modes.h"

enum form { ROW = GEMS_COPY_END, COLUMN };
enum flags { WIDE = 1, UNIT = 2, FAST = 4, CHAIN = 8, EDGES = 16 };
enum tune { VEC, GROUP, ITEMS, RING };

#define RANK      8
#define THREADS   256
#define FAST_PART 65536 /* elements of a part in the fast mode, whatever the number of threads */
#define FAN       32    /* kFan in kernels/lookback.cuh */
#define COLUMNS   16    /* lines beside each other from which the fast mode takes them together */

/* Twin of Lines in kernels/scan.cuh. */
typedef struct lines {
    int64_t count, n;
    int64_t step[3];
    int32_t rank;
    gems_fastdiv div[RANK];
    int64_t size[RANK], stride[RANK][3];
} lines;

typedef struct request {
    const gems_tensor *self;
    int scan, dim;
    int in, out; /* dtypes */
    bool places; /* a second result */
} request;

/* How it is launched. */
typedef struct geometry {
    bool row;
    bool edges; /* lines begin and end anywhere, at the same distance from an access in all tensors
                 */
    int vec, group, items, ring;
    uint32_t grid[3], block[3], shared;
    int64_t parts, chunk; /* blocks that share a line, elements of each */
    int64_t tiles;        /* of a line, a block each that waits for those before; 0: not so */
} geometry;

static bool has_places(int scan) { return scan == GEMS_SCAN_MAX || scan == GEMS_SCAN_MIN; }

/* The dtype of what is accumulated. In the fast mode doubles, as ATen's on a CPU. */
static int value_dtype(int scan, int in, int out, bool fast) {
    if (has_places(scan)) return in == GEMS_BOOL ? GEMS_U8 : gems_dtype_opmath(in);
    if (!gems_dtype_is_float(out)) return GEMS_I64;
    return fast ? GEMS_F64 : gems_dtype_opmath(out);
}

/* Bytes of what is accumulated. */
static size_t element_size(int scan, size_t value, bool wide) {
    if (scan == GEMS_SCAN_LOGSUMEXP) return 2 * value;
    if (!has_places(scan)) return value;
    size_t index = wide ? 8 : 4;
    return 2 * (value > index ? value : index);
}

/* Whether a sum is carried along lines that blocks go through with what rounding takes from it:
 * twin of kExact in kernels/scan.cuh. */
static bool is_exact(const request *r, const geometry *g, bool fast) {
    return g->row && !g->group && r->scan == GEMS_SCAN_SUM && r->out == GEMS_F32 && !fast;
}

/* ---- arguments ---- */

static gems_status read_request(const gems_call *call, request *r) {
    *r = (request){.self = gems_arg_tensor(call, 0), .scan = call->op->mode};
    if (!r->self) return gems_decline("self is no tensor");
    r->places = has_places(r->scan);
    r->in = r->self->dtype;
    if (r->in >= GEMS_DTYPES || !(call->op->dtypes & GEMS_BIT(r->in))) return gems_decline("dtype");
    if (call->args[1].kind != GEMS_INT) return gems_decline("dim is no number");
    r->dim = gems_wrap_dim(gems_arg_int(call, 1), r->self->ndim);
    if (r->dim < 0) return gems_decline("dimension out of range");
    r->out = r->in;
    if (r->scan != GEMS_SCAN_SUM && r->scan != GEMS_SCAN_PROD) return GEMS_OK;
    int out_arg = call->entry->out_arg;
    if (!gems_arg_none(call, 2))
        r->out = (int)gems_arg_int(call, 2);
    else if (call->entry->variant == GEMS_OUT && call->args[out_arg].kind == GEMS_TENSOR)
        r->out = call->args[out_arg].t.dtype;
    else if (call->entry->variant == GEMS_FUNCTIONAL && !gems_dtype_is_float(r->in))
        r->out = GEMS_I64;
    if (r->out >= GEMS_DTYPES || !(GEMS_REAL_MASK & GEMS_BIT(r->out)))
        return gems_decline("result dtype");
    return GEMS_OK;
}

/* ---- lines ---- */

/* Where the input is read: self, or a copy of it. */
static gems_status make_lines(const request *r, const gems_view *in, const gems_tensor *out,
                              const gems_tensor *places, lines *s) {
    int ndim = r->self->ndim, kept = 0;
    int64_t sizes[GEMS_MAX_DIMS], strides[3][GEMS_MAX_DIMS];
    const int64_t *from[3] = {in->strides, out->strides, places ? places->strides : out->strides};
    memset(s, 0, sizeof *s);
    s->n = ndim ? r->self->sizes[r->dim] : 1;
    for (int k = 0; k < 3; k++) s->step[k] = s->n > 1 ? from[k][r->dim] : 1;
    for (int d = 0; d < ndim; d++) {
        if (d == r->dim) continue;
        sizes[kept] = r->self->sizes[d];
        for (int k = 0; k < 3; k++) strides[k][kept] = from[k][d];
        kept++;
    }
    const int64_t *operands[3] = {strides[0], strides[1], strides[2]};
    gems_iter iter;
    gems_iter_make(&iter, sizes, kept, operands, 3);
    if (iter.ndim > RANK) return gems_decline("more dimensions than this kernel takes");
    s->count = iter.numel;
    s->rank = iter.ndim;
    for (int d = 0; d < iter.ndim; d++) {
        s->size[d] = iter.size[d];
        s->div[d] = gems_fastdiv_make(iter.size[d] <= INT32_MAX ? (uint32_t)iter.size[d] : 1);
        for (int k = 0; k < 3; k++) s->stride[d][k] = iter.stride[k][d];
    }
    return GEMS_OK;
}

static bool is_wide(const lines *s) {
    int64_t most = s->count > s->n ? s->count : s->n;
    for (int k = 0; k < 3; k++) {
        int64_t offset = (s->n - 1) * s->step[k];
        for (int d = 0; d < s->rank; d++) offset += (s->size[d] - 1) * s->stride[d][k];
        if (offset > most) most = offset;
    }
    return !gems_fits_int32(most + (1 << 20)); /* loops count past the end */
}

static bool is_unit(const lines *s) {
    return s->step[0] == 1 && s->step[1] == 1 && s->step[2] == 1;
}

/* Whether lines lie beside each other, where an operand is read or written. */
static bool beside(const lines *s, int k) {
    return s->count > 1 && s->n > 1 && s->step[k] != 1 && s->stride[0][k] == 1;
}

/* ---- geometry ---- */

static int power_of_two(int64_t n, int most) {
    int p = 1;
    while (p < n && p < most) p *= 2;
    return p;
}

static bool multiple(const void *data, int64_t unit) {
    return (uintptr_t)data % (uintptr_t)unit == 0;
}

/* Elements of one access: 16 bytes of the input, at most 32 of a result. */
static int vector_of(const lines *s, bool row, const request *r, const void *x,
                     const gems_tensor *outs, bool *edges) {
    size_t in = gems_dtype_size(r->in), out = r->places ? 8 : gems_dtype_size(r->out);
    int vec = (int)(16 / in);
    if (vec > (int)(32 / out)) vec = (int)(32 / out);
    if (r->scan == GEMS_SCAN_LOGSUMEXP && vec > 4) vec = 4; /* two numbers an element are kept */
    *edges = false;
    if (vec < 2) return 1;
    bool whole = (row ? s->n : s->size[0]) % vec == 0, alike = true;
    for (int k = 0; k < 3; k++) {
        if ((row ? s->step[k] : s->stride[0][k]) != 1) return 1;
        if (!row && s->step[k] % vec) return 1;
        for (int d = row ? 0 : 1; d < s->rank; d++) {
            if (s->size[d] > 1 && s->stride[d][k] % vec) whole = false;
            if (s->size[d] > 1 && (s->stride[d][k] - s->stride[d][0]) % vec) alike = false;
        }
    }
    bool aligned = multiple(x, vec * (int64_t)in) &&
                   multiple(outs[0].data, vec * (int64_t)gems_dtype_size(r->out)) &&
                   (!r->places || multiple(outs[1].data, vec * 8));
    if (!aligned || (!whole && (!row || !alike || s->n < 8 * vec))) return 1;
    *edges = !whole;
    return vec;
}

static void share(geometry *g, int64_t n, int64_t parts, int64_t unit) {
    if (parts > 1024) parts = 1024;
    g->parts = parts > 1 ? parts : 1;
    g->chunk = n;
    if (g->parts > 1) {
        g->chunk = ((n + g->parts - 1) / g->parts + unit - 1) / unit * unit;
        g->parts = (n + g->chunk - 1) / g->chunk;
    }
    g->grid[1] = (uint32_t)g->parts;
    g->grid[2] = 1;
}

static void fast_geometry(const lines *s, const gems_device_info *info, geometry *g) {
    int64_t tasks = s->count, each = s->n;
    g->row = !(s->step[0] != 1 && s->stride[0][0] == 1 && s->stride[0][1] == 1 &&
               s->stride[0][2] == 1 && s->size[0] >= COLUMNS);
    if (!g->row) {
        int64_t width = s->size[0] < 64 ? s->size[0] : 64;
        tasks = s->count / s->size[0] * ((s->size[0] + 63) / 64);
        each *= width;
    }
    g->vec = g->items = 1;
    g->group = 0;
    share(g, s->n, g->row && tasks < 16 && s->n >= 2 * FAST_PART ? s->n / FAST_PART : 1, 64);
    g->grid[0] = gems_grid_for(info, tasks, each < 16384 ? 16384 / (each + 1) + 1 : 1);
    g->block[0] = g->block[1] = g->block[2] = 1;
    g->shared = 0;
}

static void row_geometry(const lines *s, const request *r, const gems_device_info *info,
                         geometry *g) {
    const int64_t n = s->n + (g->edges ? g->vec - 1 : 0); /* wherever it begins */
    int64_t vectors = (n + g->vec - 1) / g->vec, full = 4 * (int64_t)info->processors;
    bool large = r->places || r->scan == GEMS_SCAN_LOGSUMEXP || gems_dtype_size(r->out) == 8;
    int most = g->vec == 1 ? 8 : large ? 2 : 4;
    const int warp = most == 4 ? 8 : most; /* accesses of a thread, where a warp has a line */
    g->group = vectors <= 8 ? 4 : vectors <= 32 * warp ? 32 : 0;
    int threads = g->group || vectors <= 128 * most ? 128 : THREADS;
    g->items = power_of_two((vectors + (g->group ? g->group : threads) - 1) /
                                (g->group ? g->group : threads),
                            g->group ? warp : most);
    int64_t rows = g->group ? threads / g->group : 1, blocks = (s->count + rows - 1) / rows;
    int64_t tile = (int64_t)threads * g->vec * g->items, parts = 1;
    if (!g->group && blocks < full / 4 * 3 / 4) { /* else one reading by fewer blocks is faster */
        parts = (full + blocks - 1) / blocks;
        if (parts > s->n / tile) parts = s->n / tile;
    }
    share(g, s->n, parts, tile);
    int64_t tiles = (n + tile - 1) / tile;
    /* Where a first pass costs little, two of them are faster than blocks that wait (on an H200).
     */
    if (r->scan == GEMS_SCAN_LOGSUMEXP && g->parts > 1 && tiles * s->count >= full &&
        tiles * s->count <= INT32_MAX)
        g->tiles = tiles;
    /* Two tiles of halves are as much work as four of others. */
    g->ring = gems_dtype_size(r->in) < 4 ? 2 : 4;
    if (g->group || g->tiles || g->vec * gems_dtype_size(r->in) != 16 || n < g->ring * tile)
        g->ring = 0;
    g->grid[0] = (uint32_t)(blocks < 32 * full ? blocks : 32 * full);
    g->block[0] = (uint32_t)threads;
    g->block[1] = g->block[2] = 1;
    g->shared = (uint32_t)(g->ring * tile * (int64_t)gems_dtype_size(r->in));
}

static void column_geometry(const lines *s, size_t element, const gems_device_info *info,
                            geometry *g) {
    int64_t units = s->count / g->vec, full = 4 * (int64_t)info->processors, parts = 1;
    g->items = g->vec >= 4 ? 4 : 8;
    int bx = power_of_two(units, 32);
    int by = power_of_two((s->n + g->items - 1) / g->items, THREADS / bx);
    if (by < 8) bx = power_of_two(units, THREADS / by);
    while ((size_t)(bx * by * g->vec) * element > 32 * 1024) by /= 2;
    int64_t blocks = (units + bx - 1) / bx, tile = by * g->items;
    if (blocks < full / 2) {
        parts = (full + blocks - 1) / blocks;
        if (parts > s->n / (2 * tile)) parts = s->n / (2 * tile);
    }
    share(g, s->n, parts, tile);
    g->grid[0] = (uint32_t)(blocks < 32 * full ? blocks : 32 * full);
    g->block[0] = (uint32_t)bx;
    g->block[1] = (uint32_t)by;
    g->block[2] = 1;
    g->group = 0;
    g->shared = (uint32_t)((size_t)(bx * by * g->vec) * element);
}

/* ---- the call ---- */

/* A block a tile; element: bytes of what it posts for those after it. */
static gems_status launch_chain(gems_call *call, const gems_plan *plan, const geometry *g,
                                const gems_device_info *info, lines *s, size_t element, void *x,
                                void *y, void *where) {
    int32_t tiles = (int32_t)g->tiles;
    int64_t slots = g->tiles + g->tiles / FAN + g->tiles / (FAN * FAN);
    int64_t n = 1 + s->count * slots * (int64_t)((element + 3) / 4);
    void *words;
    GEMS_TRY(gems_scratch(call, (size_t)n * sizeof(uint64_t), &words));
    const uint32_t few[3] = {gems_grid_for(info, n, THREADS), 1, 1};
    const uint32_t grid[3] = {(uint32_t)(g->tiles * s->count), 1, 1};
    void *clear[] = {&words, &n}, *args[] = {&x, &y, &where, &words, s, &tiles};
    GEMS_TRY(gems_call_launch(call, plan, 1, few, g->block, 0, clear));
    return gems_call_launch(call, plan, 0, grid, g->block, 0, args);
}

static gems_status launch(gems_call *call, const request *r, const gems_view *in) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *outs = call->out;
    lines s;
    geometry g = {0};
    GEMS_TRY(make_lines(r, in, &outs[0], r->places ? &outs[1] : NULL, &s));
    bool wide = is_wide(&s);
    int value = value_dtype(r->scan, r->in, r->out, info->fast);
    size_t element = element_size(r->scan, gems_dtype_size(value), wide);
    if (info->fast) {
        fast_geometry(&s, info, &g);
    } else {
        g.row = !beside(&s, 0);
        g.vec = vector_of(&s, g.row, r, in->data, outs, &g.edges);
        if (g.row)
            row_geometry(&s, r, info, &g);
        else
            column_geometry(&s, element, info, &g);
    }
    gems_key key = {.kernel = g.row ? ROW : COLUMN,
                    .flags = (uint8_t)((wide ? WIDE : 0) | (is_unit(&s) ? UNIT : 0) |
                                       (info->fast ? FAST : 0) | (g.tiles ? CHAIN : 0) |
                                       (g.edges ? EDGES : 0)),
                    .dtype = {(uint8_t)r->in, (uint8_t)r->out},
                    .tune = {(uint8_t)g.vec, (uint8_t)g.group, (uint8_t)g.items, (uint8_t)g.ring}};
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    if (is_exact(r, &g, info->fast)) element *= 2;
    void *partial = NULL, *x = in->data, *y = outs[0].data;
    void *where = r->places ? outs[1].data : NULL;
    if (g.tiles) return launch_chain(call, plan, &g, info, &s, element, x, y, where);
    if (g.parts > 1) GEMS_TRY(gems_scratch(call, (size_t)(g.parts * s.count) * element, &partial));
    void *args[] = {&x, &y, &where, &partial, &s, &g.chunk};
    if (g.parts > 1) GEMS_TRY(gems_call_launch(call, plan, 1, g.grid, g.block, g.shared, args));
    return gems_call_launch(call, plan, 0, g.grid, g.block, g.shared, args);
}

/* Reading along one dimension and writing along another: a copy with the result's order of dims
 * costs less than accesses that each touch their own line of memory. */
static bool crosswise(const request *r, const gems_tensor *out) {
    const gems_tensor *self = r->self;
    int64_t in_step = self->strides[r->dim], out_step = out->strides[r->dim];
    if (self->sizes[r->dim] < 8 || self->numel < 4096 || in_step == 0) return false;
    return (in_step == 1) != (out_step == 1);
}

static gems_status run(gems_call *call) {
    request r;
    int64_t contiguous[GEMS_MAX_DIMS];
    GEMS_TRY(read_request(call, &r));
    int ndim = r.self->ndim;
    GEMS_TRY(gems_output(call, 0, ndim, r.self->sizes, NULL, r.out));
    if (r.places) GEMS_TRY(gems_output(call, 1, ndim, r.self->sizes, NULL, GEMS_I64));
    if (!r.self->numel) return GEMS_OK;
    gems_view in = {r.self->data, r.self->strides, r.in};
    if (ndim && crosswise(&r, &call->out[0])) {
        gems_view copy = {NULL, contiguous, r.in};
        gems_contiguous_strides(r.self->sizes, ndim, contiguous);
        GEMS_TRY(gems_scratch(call, (size_t)r.self->numel * gems_dtype_size(r.in), &copy.data));
        GEMS_TRY(gems_copy_views(call, r.self->sizes, ndim, copy, in));
        in = copy;
    }
    return launch(call, &r, &in);
}

/* ---- programs ---- */

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, p);
    bool fast = (key->flags & FAST) != 0;
    int in = key->dtype[0], out = key->dtype[1];
    gems_text_add(&p->head, "typedef %s In;\ntypedef %s Out;\ntypedef %s Val;\ntypedef %s Index;\n",
                  gems_dtype_kernel(in), gems_dtype_kernel(out),
                  gems_dtype_kernel(value_dtype(op->mode, in, out, fast)),
                  key->flags & WIDE ? "int64_t" : "int32_t");
    gems_text_add(&p->head,
                  "constexpr int kScan = %d, kVec = %d, kGroup = %d, kItems = %d, kRing = %d;\n"
                  "constexpr bool kRow = %s, kUnit = %s, kEdges = %s;\n",
                  op->mode, key->tune[VEC], key->tune[GROUP], key->tune[ITEMS], key->tune[RING],
                  key->kernel == ROW ? "true" : "false", key->flags & UNIT ? "true" : "false",
                  key->flags & EDGES ? "true" : "false");
    p->files[0] = "scan.cuh";
    p->files[1] = fast ? "scan_fast.cu" : "scan_tile.cuh";
    bool chain = (key->flags & CHAIN) != 0;
    if (chain) p->files[2] = "lookback.cuh";
    if (!fast) p->files[2 + chain] = chain ? "scan_chain.cu" : "scan.cu";
    p->entries[0] = chain ? "chain" : "scan";
    p->entries[1] = chain ? "clear" : "totals";
    p->entry_count = 2;
    snprintf(p->name, sizeof p->name, "%.*s %s %s x%d", (int)strcspn(op->schema, "("), op->schema,
             chain                ? "long rows"
             : key->kernel == ROW ? "rows"
                                  : "columns",
             gems_dtype_name(in), key->tune[VEC]);
    return GEMS_OK;
}

/* Contiguous tensors: rows of 1024 and of 16384 elements, short rows, columns, one long line. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    static const int64_t lengths[] = {16384, 1024, 16, 1024, 1 << 26};
    bool sums = op->mode == GEMS_SCAN_SUM || op->mode == GEMS_SCAN_PROD;
    int out = sums && !gems_dtype_is_float(dtype) ? GEMS_I64 : dtype;
    bool column = info->fast ? i == 1 : i == 3;
    if (i >= (info->fast ? 2 : 5) || !gems_dtype_size(dtype)) return false;
    request r = {.scan = op->mode, .in = dtype, .out = out, .places = has_places(op->mode)};
    const gems_tensor outs[2] = {{.data = NULL}, {.data = NULL}};
    int64_t n = lengths[i], count = n > 1 << 16 ? 1 : 1 << 16;
    lines s = {.count = count, .n = n, .rank = 1, .size = {count}};
    for (int k = 0; k < 3; k++) {
        s.step[k] = column ? count : 1;
        s.stride[0][k] = column ? 1 : n;
    }
    geometry g = {.row = !column};
    if (info->fast) {
        fast_geometry(&s, info, &g);
    } else {
        g.vec = vector_of(&s, g.row, &r, NULL, outs, &g.edges);
        size_t value = gems_dtype_size(value_dtype(op->mode, dtype, out, false));
        if (g.row)
            row_geometry(&s, &r, info, &g);
        else
            column_geometry(&s, element_size(op->mode, value, false), info, &g);
    }
    key->kernel = column ? COLUMN : ROW;
    key->flags = (uint8_t)((column ? 0 : UNIT) | (info->fast ? FAST : 0) | (g.tiles ? CHAIN : 0));
    key->dtype[0] = (uint8_t)dtype;
    key->dtype[1] = (uint8_t)out;
    key->tune[VEC] = (uint8_t)g.vec;
    key->tune[GROUP] = (uint8_t)g.group;
    key->tune[ITEMS] = (uint8_t)g.items;
    key->tune[RING] = (uint8_t)g.ring;
    return true;
}

const gems_family gems_family_scan = {.name = "scan",
                                      .run = run,
                                      .program = program,
                                      .warm = warm,
                                      .strided_output = true,
                                      .allows_alias = true};
