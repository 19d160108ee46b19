/* Elements that a test picks, in their order: nonzero, nonzero_static, masked_select,
 * masked_scatter. Twin of kernels/compact.cu.
 *
 * The kernels take contiguous tensors; what is not is copied first. nonzero and masked_select have
 * to wait for the count before there is a result to write to: they decline while a stream is
 * captured. nonzero_static and masked_scatter never wait on a GPU.
 */
#include <stdio.h>
#include <string.h>

#include "copy_views.h"
#include "modes.h"

enum { COMPACT = GEMS_COPY_END };
enum flags { WIDE = 1, FAST = 2, ALIGNED = 4 };
enum { COUNT, OFFSETS, PICK }; /* kernels of a program */

#define RANK         8
#define THREADS      256
#define SCAN_THREADS 1024
#define TILE         4096 /* elements of a block */
#define FAST_TILE    32768

/* Twin of Dims in kernels/compact.cu. */
typedef struct dims {
    int32_t rank;
    gems_fastdiv div[RANK];
    int64_t size[RANK];
} dims;

/* A count under way: what is tested, and where each tile's picks begin. */
typedef struct picks {
    const void *test;
    int64_t n, tiles, *starts; /* starts[tiles]: how many there are, in device memory */
    uint16_t *bits;            /* of threads of blocks: what was picked, 16 elements each */
    const gems_plan *plan;
    bool fast;
} picks;

static bool same_place(const gems_call *call, const gems_tensor *t) {
    return t->device_type == call->device_type && t->device_index == call->device_index;
}

/* t as a contiguous tensor of a shape that it broadcasts to. */
static gems_status contiguous(gems_call *call, const gems_tensor *t, const int64_t *sizes, int ndim,
                              const void **data) {
    int64_t strides[GEMS_MAX_DIMS], wanted[GEMS_MAX_DIMS];
    *data = t->data;
    if (t->ndim == ndim && gems_same_sizes(t, &(gems_tensor){.ndim = ndim, .sizes = sizes}) &&
        gems_is_contiguous(t))
        return GEMS_OK;
    void *copy;
    gems_broadcast_strides(t, sizes, ndim, strides);
    gems_contiguous_strides(sizes, ndim, wanted);
    size_t bytes = (size_t)gems_numel(sizes, ndim) * gems_dtype_size(t->dtype);
    GEMS_TRY(gems_scratch(call, bytes, &copy));
    *data = copy;
    return gems_copy_views(call, sizes, ndim, (gems_view){copy, wanted, t->dtype},
                           (gems_view){t->data, strides, t->dtype});
}

/* Counts what is picked of n contiguous elements; item: the dtype that is moved. */
static gems_status count(gems_call *call, const void *test, int dtype, int item, int64_t n,
                         picks *p) {
    const gems_device_info *info = gems_device_information(call->device);
    bool wide = !gems_fits_int32(n + FAST_TILE);
    int64_t tile = info->fast ? FAST_TILE : TILE;
    *p = (picks){.test = test, .n = n, .tiles = (n + tile - 1) / tile, .fast = info->fast};
    gems_key key = {.kernel = COMPACT,
                    .flags = (uint8_t)((wide ? WIDE : 0) | (info->fast ? FAST : 0)),
                    .dtype = {(uint8_t)dtype, (uint8_t)item}};
    if (!info->fast && (uintptr_t)test % 16 == 0) key.flags |= ALIGNED;
    GEMS_TRY(gems_call_plan(call, &key, &p->plan));
    void *memory;
    size_t starts = (size_t)(p->tiles + 1) * sizeof(int64_t);
    size_t each = sizeof(int32_t) + (info->fast ? 0 : TILE / 8);
    GEMS_TRY(gems_scratch(call, starts + (size_t)p->tiles * each, &memory));
    p->starts = memory;
    int32_t *counts = (int32_t *)((char *)memory + starts);
    p->bits = (uint16_t *)(counts + p->tiles);
    uint32_t grid[3] = {gems_grid_for(info, p->tiles, 1), 1, 1}, one[3] = {1, 1, 1};
    uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    void *count_args[] = {&p->test, &counts, &p->bits, &p->n, &p->tiles};
    GEMS_TRY(gems_call_launch(call, p->plan, COUNT, grid, block, 0, count_args));
    void *offset_args[] = {&counts, &p->starts, &p->tiles};
    block[0] = info->fast ? 1 : SCAN_THREADS;
    return gems_call_launch(call, p->plan, OFFSETS, one, block, 0, offset_args);
}

static gems_status read_total(const gems_call *call, const picks *p, int64_t *total) {
    return gems_call_read(call, p->starts + p->tiles, sizeof *total, total);
}

/* Moves what is picked. rest: what the other elements become, or NULL; places: of nonzero; row,
 * column: strides of the result. */
static gems_status pick(gems_call *call, picks *p, const dims *shape, const void *from,
                        const void *rest, void *to, void *places, int64_t row, int64_t column,
                        int64_t limit) {
    const gems_device_info *info = gems_device_information(call->device);
    uint32_t grid[3] = {gems_grid_for(info, p->tiles, 1), 1, 1};
    uint32_t block[3] = {p->fast ? 1 : THREADS, 1, 1};
    dims none = *shape;
    void *args[] = {&p->test, &p->starts, &p->bits, &p->n, &p->tiles, &none, &from,
                    &rest,    &to,        &places,  &row,  &column,   &limit};
    return gems_call_launch(call, p->plan, PICK, grid, block, 0, args);
}

/* ---- nonzero ---- */

static gems_status make_dims(const gems_tensor *t, dims *shape) {
    memset(shape, 0, sizeof *shape);
    if (t->ndim > RANK) return gems_decline("more dimensions than this kernel takes");
    shape->rank = t->ndim;
    for (int d = 0; d < t->ndim; d++) {
        int64_t size = t->sizes[t->ndim - 1 - d];
        shape->size[d] = size;
        shape->div[d] = gems_fastdiv_make(size > 0 && size <= INT32_MAX ? (uint32_t)size : 1);
    }
    return GEMS_OK;
}

/* Whether out= of nonzero has the sizes of the result already. */
static bool out_fits(const gems_call *call, int64_t rows, int ndim) {
    const gems_value *out = &call->args[call->entry->out_arg];
    return out->kind == GEMS_TENSOR && out->t.ndim == 2 && out->t.sizes[0] == rows &&
           out->t.sizes[1] == ndim;
}

/* Whether ATen on a GPU would give an out= that fits other strides: it writes into one whose
 * transpose is contiguous as if it had the strides of a new one. */
static bool gets_strides(const gems_tensor *out, int64_t rows, int ndim) {
    bool transposed = out->numel == 0 || ((rows == 1 || out->strides[0] == 1) &&
                                          (ndim == 1 || out->strides[1] == rows));
    bool same = out->strides[0] == 1 && out->strides[1] == (rows ? rows : 1);
    return transposed && (rows == ndim || !same);
}

/* The result of nonzero is the transpose of a contiguous tensor, in ATen on every device. An
 * out= of another shape, that is to become one, is left to it. */
static gems_status nonzero_output(gems_call *call, int64_t total, int ndim) {
    const int64_t sizes[2] = {total, ndim}, strides[2] = {1, total ? total : 1};
    if (call->entry->variant == GEMS_OUT) {
        if (!out_fits(call, total, ndim))
            return gems_decline("an out= that has yet to become a transpose");
        const gems_tensor *out = &call->args[call->entry->out_arg].t;
        if (call->device_type != GEMS_CPU && gets_strides(out, total, ndim))
            return gems_decline("an out= that ATen gives other strides");
    }
    return gems_output(call, 0, 2, sizes, strides, GEMS_I64);
}

static gems_status run_nonzero(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0);
    const void *test = NULL;
    dims shape;
    picks p = {.n = 0};
    int64_t total = 0;
    if (!self) return gems_decline("self is no tensor");
    if (!(call->op->dtypes & GEMS_BIT(self->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    GEMS_TRY(make_dims(self, &shape));
    GEMS_TRY(gems_call_readable(call));
    if (self->numel) {
        GEMS_TRY(contiguous(call, self, self->sizes, self->ndim, &test));
        GEMS_TRY(count(call, test, self->dtype, GEMS_U8, self->numel, &p));
        GEMS_TRY(read_total(call, &p, &total));
    }
    GEMS_TRY(nonzero_output(call, total, self->ndim));
    const gems_tensor *out = &call->out[0];
    if (!out->numel) return GEMS_OK;
    return pick(call, &p, &shape, NULL, NULL, NULL, out->data, out->strides[0], out->strides[1],
                total);
}

static gems_status run_nonzero_static(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0);
    const void *test = NULL;
    dims shape;
    picks p;
    uint8_t bits[16] = {0};
    if (!self) return gems_decline("self is no tensor");
    if (!(call->op->dtypes & GEMS_BIT(self->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    if (call->args[1].kind != GEMS_INT || call->args[2].kind != GEMS_INT)
        return gems_decline("size or fill_value");
    const int64_t size = gems_arg_int(call, 1), sizes[2] = {size, self->ndim};
    const int64_t transposed[2] = {1, size ? size : 1};
    const bool cpu = call->device_type == GEMS_CPU;
    if (size < 0) return gems_decline("a negative size");
    if (!cpu && call->entry->variant == GEMS_OUT && !out_fits(call, size, self->ndim))
        return gems_decline("an out= that ATen makes another shape on a GPU");
    GEMS_TRY(make_dims(self, &shape));
    if (self->numel && size && self->ndim) {
        GEMS_TRY(contiguous(call, self, self->sizes, self->ndim, &test));
        GEMS_TRY(count(call, test, self->dtype, GEMS_U8, self->numel, &p));
    }
    GEMS_TRY(gems_output(call, 0, 2, sizes, cpu ? NULL : transposed, GEMS_I64));
    const gems_tensor *out = &call->out[0];
    if (!out->numel) return GEMS_OK;
    gems_store_number(&call->args[2], GEMS_I64, bits);
    GEMS_TRY(gems_fill_view(call, sizes, 2, (gems_view){out->data, out->strides, GEMS_I64}, bits));
    if (!self->numel) return GEMS_OK;
    return pick(call, &p, &shape, NULL, NULL, NULL, out->data, out->strides[0], out->strides[1],
                size);
}

/* ---- masks ---- */

/* The shape of self and mask together. */
static gems_status mask_shape(const gems_call *call, int64_t *sizes, int *ndim) {
    const gems_tensor *self = gems_arg_tensor(call, 0), *mask = gems_arg_tensor(call, 1);
    if (!self || !mask) return gems_decline("an argument is no tensor");
    if (!same_place(call, self) || !same_place(call, mask))
        return gems_decline("tensors on several devices");
    if (mask->dtype != GEMS_BOOL) return gems_decline("the mask is not bool");
    if (!(call->op->dtypes & GEMS_BIT(self->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    *ndim = self->ndim;
    memcpy(sizes, self->sizes, (size_t)self->ndim * sizeof *sizes);
    if (!gems_broadcast(sizes, ndim, mask->sizes, mask->ndim))
        return gems_decline("self and mask do not broadcast");
    return GEMS_OK;
}

static gems_status run_select(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0), *mask = gems_arg_tensor(call, 1);
    int64_t sizes[GEMS_MAX_DIMS], total = 0;
    int ndim;
    const void *test = NULL, *from = NULL;
    const dims none = {.rank = 0};
    picks p = {.n = 0};
    GEMS_TRY(mask_shape(call, sizes, &ndim));
    GEMS_TRY(gems_call_readable(call));
    int64_t n = gems_numel(sizes, ndim);
    if (n) {
        GEMS_TRY(contiguous(call, mask, sizes, ndim, &test));
        GEMS_TRY(count(call, test, GEMS_BOOL, gems_copy_carrier(self->dtype), n, &p));
        GEMS_TRY(read_total(call, &p, &total));
        if (total) GEMS_TRY(contiguous(call, self, sizes, ndim, &from));
    }
    GEMS_TRY(gems_output(call, 0, 1, &total, NULL, self->dtype));
    if (!total) return GEMS_OK;
    return pick(call, &p, &none, from, NULL, call->out[0].data, NULL, call->out[0].strides[0], 0,
                total);
}

/* masked_scatter: self, with elements of the source where the mask is set. */
static gems_status run_scatter(gems_call *call) {
    const gems_tensor *self = gems_arg_tensor(call, 0), *mask = gems_arg_tensor(call, 1);
    const gems_tensor *source = gems_arg_tensor(call, 2);
    int64_t sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS], dense[GEMS_MAX_DIMS], total = 0;
    int ndim;
    const void *test = NULL, *from = NULL;
    const dims none = {.rank = 0};
    bool inplace = call->entry->variant == GEMS_INPLACE;
    picks p;
    GEMS_TRY(mask_shape(call, sizes, &ndim));
    if (!source || !same_place(call, source) || source->dtype != self->dtype)
        return gems_decline("the source's dtype or device");
    int64_t n = gems_numel(sizes, ndim);
    if (n) {
        GEMS_TRY(contiguous(call, mask, sizes, ndim, &test));
        GEMS_TRY(count(call, test, GEMS_BOOL, gems_copy_carrier(self->dtype), n, &p));
        if (source->numel) GEMS_TRY(contiguous(call, source, source->sizes, source->ndim, &from));
        if (call->device_type == GEMS_CPU) { /* a GPU's kernel stops, as ATen's does */
            GEMS_TRY(read_total(call, &p, &total));
            if (total > source->numel) return gems_decline("the source has too few elements");
        }
    }
    GEMS_TRY(gems_output(call, 0, ndim, sizes, NULL, self->dtype));
    if (!n) return GEMS_OK;
    gems_view out = {call->out[0].data, call->out[0].strides, self->dtype}, work = out;
    gems_broadcast_strides(self, sizes, ndim, strides);
    bool direct = gems_is_contiguous(&call->out[0]);
    if (!direct) {
        gems_contiguous_strides(sizes, ndim, dense);
        work.strides = dense;
        GEMS_TRY(gems_scratch(call, (size_t)n * gems_dtype_size(self->dtype), &work.data));
    }
    /* Blocks of threads take the rest from a self that lies alike; else it is copied first. */
    const gems_tensor shape = {.ndim = ndim, .sizes = sizes};
    bool alike = !p.fast && gems_same_sizes(self, &shape) && gems_is_contiguous(self);
    const void *rest = alike && !(inplace && direct) ? self->data : NULL;
    if (!rest && !(inplace && direct))
        GEMS_TRY(gems_copy_views(call, sizes, ndim, work,
                                 (gems_view){self->data, strides, self->dtype}));
    GEMS_TRY(pick(call, &p, &none, from, rest, work.data, NULL, 1, 0, source->numel));
    return direct ? GEMS_OK : gems_copy_views(call, sizes, ndim, out, work);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    switch (call->op->mode) {
    case GEMS_NONZERO: return run_nonzero(call);
    case GEMS_NONZERO_STATIC: return run_nonzero_static(call);
    case GEMS_MASKED_SELECT: return run_select(call);
    default: return run_scatter(call);
    }
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    static const int kinds[] = {[GEMS_NONZERO] = 0,
                                [GEMS_NONZERO_STATIC] = 0,
                                [GEMS_MASKED_SELECT] = 1,
                                [GEMS_MASKED_SCATTER] = 2};
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, p);
    gems_text_add(&p->head,
                  "typedef %s Test;\ntypedef %s Item;\ntypedef %s Index;\ntypedef int32_t Count;\n",
                  gems_dtype_kernel(key->dtype[0]), gems_dtype_kernel(key->dtype[1]),
                  key->flags & WIDE ? "int64_t" : "int32_t");
    gems_text_add(&p->head,
                  "constexpr int kKind = %d, kTile = %d;\nconstexpr bool kAligned = %s;\n",
                  kinds[op->mode], key->flags & FAST ? FAST_TILE : TILE,
                  key->flags & ALIGNED ? "true" : "false");
    p->files[0] = "index.cuh";
    p->files[1] = "offsets.cuh";
    p->files[2] = "compact.cu";
    p->entries[COUNT] = "count";
    p->entries[OFFSETS] = "offsets";
    p->entries[PICK] = "pick";
    p->entry_count = 3;
    snprintf(p->name, sizeof p->name, "%.*s %s", (int)strcspn(op->schema, "("), op->schema,
             gems_dtype_name(key->dtype[1]));
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    bool places = op->mode == GEMS_NONZERO || op->mode == GEMS_NONZERO_STATIC;
    if (i > 0) return false;
    key->kernel = COMPACT;
    key->flags = info->fast ? FAST : ALIGNED;
    key->dtype[0] = (uint8_t)(places ? dtype : GEMS_BOOL);
    key->dtype[1] = (uint8_t)(places ? GEMS_U8 : gems_copy_carrier(dtype));
    return true;
}

const gems_family gems_family_compact = {
    .name = "compact", .run = run, .program = program, .warm = warm, .strided_output = true};
