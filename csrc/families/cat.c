/* cat and stack: every input that is contiguous goes into one launch, by a table of pointers that
 * travels as the kernel's argument. What does not fit the table is copied as a strided view. */
#include "../base/dtype.h"
#include "copy_views.h"
#include "modes.h"

#include <stdio.h>
#include <string.h>

enum { KERNEL_TABLE = GEMS_COPY_END }; /* gems_key.kernel */
#define THREADS    256
#define CHUNK      1024u  /* vectors that a block takes at once, kernels/cat.cu */
#define CHUNK_FAST 32768u /* the same on the fast cpu backend */
#define MOST       336    /* inputs of one launch: the arguments of a kernel have 4 KiB */

/* Twin of Table in kernels/cat.cu. Places are in vectors, in a row of the output: input i has those
 * from at[i] to at[i + 1], and no input (NULL) where something else is put. */
typedef struct {
    const void *in[MOST];
    uint32_t at[MOST + 1];
    uint32_t count, outer, out_inner;
} table;

/* Adds an input; there is room for two more entries. */
static void append(table *t, const void *in, int64_t begin, int64_t end) {
    if (t->count && t->at[t->count] != (uint32_t)begin) t->in[t->count++] = NULL;
    t->in[t->count] = in;
    t->at[t->count++] = (uint32_t)begin;
    t->at[t->count] = (uint32_t)end;
}

/* One call, resolved. */
typedef struct {
    const gems_tensor *in;
    int count, dim, ndim, dtype, format;
    int64_t sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS];
} request;

/* torch.cat ignores tensors of shape [0], whatever the rank of the others. */
static bool skipped(const gems_tensor *t) { return t->ndim == 1 && t->numel == 0; }

/* Sizes, dtype and strides of the result. */
static gems_status resolve(const gems_call *call, request *r) {
    const gems_value *list = &call->args[0];
    const gems_tensor *lead = NULL;
    bool stack = call->op->mode == GEMS_CAT_STACK, last = true;
    if (list->kind != GEMS_TENSORS || !list->tensors.n) return gems_decline("no tensors");
    r->in = list->tensors.v;
    r->count = list->tensors.n;
    r->dtype = r->in[0].dtype;
    for (int i = 0; i < r->count; i++) {
        const gems_tensor *t = &r->in[i];
        if (!t->handle && !t->data && t->numel) return gems_decline("a tensor that is None");
        if (t->device_type != call->device_type || t->device_index != call->device_index)
            return gems_decline("tensors on several devices");
        r->dtype = gems_promote(r->dtype, t->dtype);
        if (r->dtype == GEMS_NO_DTYPE) return gems_decline("dtypes that do not promote");
        last = last && gems_like_channels_last(t);
        if (!lead && (stack || !skipped(t))) lead = t;
    }
    if (!lead || (!stack && !lead->ndim)) return gems_decline("nothing to put together");
    if (stack && last) return gems_decline("stack of channels-last tensors");
    if (lead->ndim + stack > GEMS_MAX_DIMS)
        return gems_decline("more dimensions than kernels take");
    r->ndim = lead->ndim + stack;
    r->dim = gems_wrap_dim(gems_arg_int(call, 1), r->ndim);
    if (r->dim < 0) return gems_decline("dim out of range");
    for (int d = 0; d < r->ndim; d++)
        r->sizes[d] = stack && d == r->dim ? r->count : lead->sizes[d - (stack && d > r->dim)];
    if (!stack) r->sizes[r->dim] = 0;
    for (int i = 0; i < r->count; i++) {
        const gems_tensor *t = &r->in[i];
        if (!stack && skipped(t)) continue;
        if (t->ndim != lead->ndim) return gems_decline("tensors of several ranks");
        for (int d = 0; d < t->ndim; d++)
            if ((stack || d != r->dim) && t->sizes[d] != lead->sizes[d])
                return gems_decline("sizes that do not match");
        if (!stack) r->sizes[r->dim] += t->sizes[r->dim];
        if (!gems_copy_converts(t->dtype, r->dtype))
            return gems_decline("no conversion kernel between these dtypes");
    }
    r->format = last ? GEMS_FORMAT_CHANNELS_LAST : GEMS_FORMAT_CONTIGUOUS;
    if (last)
        gems_channels_last_strides(r->sizes, r->ndim, r->strides);
    else
        gems_contiguous_strides(r->sizes, r->ndim, r->strides);
    return GEMS_OK;
}

/* Input i along the output's dims: its extent in r->dim, and its strides there. */
static void view_of(const request *r, bool stack, const gems_tensor *t, int64_t *sizes,
                    int64_t *strides) {
    for (int d = 0; d < r->ndim; d++) {
        int from = d - (stack && d > r->dim);
        bool fresh = stack && d == r->dim;
        sizes[d] = fresh ? 1 : t->sizes[from];
        strides[d] = fresh ? 1 : t->strides[from];
    }
}

/* Whether the elements of a view lie one after another in the order of the output's memory. */
static bool in_order(const request *r, const int64_t *sizes, const int64_t *strides) {
    int64_t step = 1;
    for (int i = 0; i < r->ndim; i++) {
        int d = r->ndim - 1 - i;
        if (r->format == GEMS_FORMAT_CHANNELS_LAST)
            d = i == 0 ? 1 : i == r->ndim - 1 ? 0 : r->ndim - i;
        if (sizes[d] == 1) continue;
        if (strides[d] != step) return false;
        step *= sizes[d];
    }
    return true;
}

/* Elements of the output that one row of a size-1 slice along r->dim has: the product of the sizes
 * inside that dim in memory. */
static int64_t inside(const request *r) {
    int64_t n = 1;
    for (int d = 0; d < r->ndim; d++)
        if (d != r->dim && r->strides[d] < r->strides[r->dim] && r->sizes[d] > 1) n *= r->sizes[d];
    return n;
}

/* Launches a table whose entries are still in elements, in vectors as wide as all of them allow. */
static gems_status launch(gems_call *call, table *t, int64_t outer, int64_t out_inner, int from) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *out = &call->out[0];
    gems_key key = {.kernel = KERNEL_TABLE};
    const gems_plan *plan;
    if (!t->count) return GEMS_OK;
    int size_in = (int)gems_dtype_size(from), size_out = (int)gems_dtype_size(out->dtype);
    uint32_t vector = info->fast ? 1 : 16u / (uint32_t)(size_in > size_out ? size_in : size_out);
    uint64_t bits = (uint64_t)out_inner;
    uintptr_t in_bits = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        bits |= t->at[i] | t->at[i + 1];
        in_bits |= (uintptr_t)t->in[i];
    }
    while (vector > 1 && (bits % vector || in_bits % (vector * (uint32_t)size_in) ||
                          (uintptr_t)out->data % (vector * (uint32_t)size_out)))
        vector /= 2;
    for (uint32_t i = 0; i <= t->count; i++) t->at[i] /= vector;
    /* as many as the kernel counts: an input may have one that is empty */
    uint64_t length = (uint64_t)outer * (t->at[t->count] - t->at[0]);
    uint64_t chunks = length / (info->fast ? CHUNK_FAST : CHUNK) + t->count;
    t->outer = (uint32_t)outer;
    t->out_inner = (uint32_t)((uint64_t)out_inner / vector);
    key.dtype[0] = (uint8_t)(from == out->dtype ? gems_copy_carrier(from) : from);
    key.dtype[1] = from == out->dtype ? key.dtype[0] : out->dtype;
    if (key.dtype[0] == GEMS_NO_DTYPE) return gems_decline("dtype without a copy kernel");
    key.tune[0] = (uint8_t)vector;
    key.flags = info->fast;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    const uint32_t grid[3] = {gems_grid_for(info, (int64_t)chunks, 1), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    void *data = out->data;
    void *args[] = {&data, t};
    gems_status status = gems_call_launch(call, plan, 0, grid, block, 0, args);
    t->count = 0;
    return status;
}

static gems_status run(gems_call *call) {
    request r;
    GEMS_TRY(resolve(call, &r));
    bool stack = call->op->mode == GEMS_CAT_STACK;
    GEMS_TRY(gems_output(call, 0, r.ndim, r.sizes, r.strides, r.dtype));
    const gems_tensor *out = &call->out[0];
    if (!out->numel) return GEMS_OK;
    int64_t unit = inside(&r), out_inner = unit * r.sizes[r.dim], outer = out->numel / out_inner;
    uint64_t done = 0; /* dtypes whose contiguous inputs were launched */
    table t;
    t.count = 0;
    for (;;) {
        int64_t at = 0;
        int from = GEMS_NO_DTYPE;
        for (int i = 0; i < r.count; i++) {
            const gems_tensor *in = &r.in[i];
            int64_t sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS], place = at;
            if (!in->numel) continue;
            view_of(&r, stack, in, sizes, strides);
            at += sizes[r.dim];
            if ((from != GEMS_NO_DTYPE && in->dtype != from) || done & GEMS_BIT(in->dtype))
                continue;
            from = in->dtype;
            if (out->numel <= INT32_MAX && in_order(&r, sizes, strides)) {
                append(&t, in->data, unit * place, unit * (place + sizes[r.dim]));
                if (t.count > MOST - 2) GEMS_TRY(launch(call, &t, outer, out_inner, from));
                continue;
            }
            char *data = (char *)out->data +
                         (size_t)(place * out->strides[r.dim]) * gems_dtype_size(r.dtype);
            GEMS_TRY(gems_copy_views(call, sizes, r.ndim, (gems_view){data, out->strides, r.dtype},
                                     (gems_view){in->data, strides, in->dtype}));
        }
        if (from == GEMS_NO_DTYPE) return GEMS_OK;
        GEMS_TRY(launch(call, &t, outer, out_inner, from));
        done |= GEMS_BIT(from);
    }
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    if (key->kernel != KERNEL_TABLE) return gems_copy_program(op, key, program);
    const char *from = gems_dtype_kernel(key->dtype[0]), *to = gems_dtype_kernel(key->dtype[1]);
    if (!from || !to) return gems_fail(GEMS_RUNTIME_ERROR, "not a key of cat");
    bool same = key->dtype[0] == key->dtype[1];
    gems_text_add(&program->head, "typedef %s Src;\ntypedef %s Dst;\n", from, to);
    gems_text_add(&program->head, "constexpr bool kSame = %s;\n", same ? "true" : "false");
    gems_text_add(&program->head, "constexpr int kV = %d, kMost = %d;\n", key->tune[0], MOST);
    gems_text_add(&program->head, "constexpr uint32_t kChunk = %u;\n",
                  key->flags ? CHUNK_FAST : CHUNK);
    snprintf(program->name, sizeof program->name, "%.*s table %s to %s",
             (int)strcspn(op->schema, "("), op->schema, gems_dtype_name(key->dtype[0]),
             gems_dtype_name(key->dtype[1]));
    program->files[0] = "cat.cu";
    program->entries[0] = "cat_table";
    program->entry_count = 1;
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    (void)op;
    dtype = gems_copy_carrier(dtype);
    if (dtype == GEMS_NO_DTYPE) return false;
    int size = (int)gems_dtype_size(dtype), tables = info->fast || size == 16 ? 1 : 2;
    if (i >= tables) return i == tables && gems_copy_warm(dtype, dtype, 1, info, key);
    key->kernel = KERNEL_TABLE;
    key->flags = info->fast;
    key->dtype[0] = key->dtype[1] = (uint8_t)dtype;
    key->tune[0] = (uint8_t)(info->fast || i ? 1 : 16 / size);
    return true;
}

const gems_family gems_family_cat = {.name = "cat", .run = run, .program = program, .warm = warm};
