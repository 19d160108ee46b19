/* Elementwise work on the host: output shape, shape class, launch. Rows are one line of
 * operators.def each. */
#include "elementwise.h"

#include <string.h>

/* Twin of the contract's Strided<NT, int32_t> and <NT, int64_t>: the strides come packed behind,
 * kTensors a dim. */
typedef struct strided32 {
    int32_t ndim, n;
    gems_fastdiv div[GEMS_EW_RANK];
    int32_t stride[GEMS_EW_RANK * GEMS_ITER_OPERANDS];
} strided32;
typedef struct strided64 {
    int32_t ndim;
    int64_t n;
    gems_fastdiv div[GEMS_EW_RANK];
    int64_t stride[GEMS_EW_RANK * GEMS_ITER_OPERANDS];
} strided64;

/* The operands that have memory: inputs first, then outputs, as the kernel's parameters go. */
typedef struct operands {
    int inputs, count;
    const gems_tensor *t[GEMS_ITER_OPERANDS];
    uint8_t input[GEMS_EW_INPUTS]; /* which input of the row the i-th operand is */
} operands;

/* How a call is launched. */
typedef struct work {
    gems_key key;
    void *pointer[GEMS_ITER_OPERANDS];
    gems_ew_parts parts;
    int64_t
        items; /* that threads take: elements, or vectors of key.tune[GEMS_EW_VECTOR] elements */
    union {
        int32_t i32[2];
        int64_t i64[2];
    } range; /* dense: pad and end */
    union {
        strided32 narrow;
        strided64 wide;
    } space;
    union {
        int32_t i32[2 + 2 * GEMS_ITER_OPERANDS];
        int64_t i64[2 + 2 * GEMS_ITER_OPERANDS];
    } tile;
} work;

/* ---- shapes ---- */

/* The strides of a contiguous tensor, those of dims of one element too. */
static bool is_canonical(const gems_tensor *t) {
    int64_t step = 1;
    for (int d = t->ndim - 1; d >= 0; d--) {
        if (t->strides[d] != step) return false;
        step *= t->sizes[d] > 1 ? t->sizes[d] : 1;
    }
    return true;
}

static bool same_layout(const gems_tensor *a, const gems_tensor *b) {
    if (a->ndim != b->ndim) return false;
    for (int d = 0; d < a->ndim; d++)
        if (a->sizes[d] != b->sizes[d] || a->strides[d] != b->strides[d]) return false;
    return true;
}

/* Whether an out tensor of the call is to get another shape. */
static bool is_resized(const gems_call *call, int ndim, const int64_t *sizes) {
    if (call->entry->variant != GEMS_OUT) return false;
    for (int i = 0; i < call->entry->nouts; i++) {
        const gems_value *out = &call->args[call->entry->out_arg + i];
        if (out->kind == GEMS_TENSOR &&
            (out->t.ndim != ndim || memcmp(out->t.sizes, sizes, (size_t)ndim * sizeof *sizes)))
            return true;
    }
    return false;
}

/* Where the operands have an input of the row. */
static int place_of(const operands *in, int input) {
    int place = 0;
    while (place < in->inputs - 1 && in->input[place] != input) place++;
    return place;
}

/* Makes the outputs in the broadcast shape of the inputs, laid out as TensorIterator would. alike:
 * all inputs have one layout and it is dense. */
static gems_status make_outputs(const gems_ew_row *row, gems_call *call,
                                const gems_ew_arguments *arguments, const operands *in,
                                bool *alike) {
    int64_t sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS], broadcast[GEMS_EW_INPUTS][GEMS_MAX_DIMS];
    const int64_t *chosen = NULL;
    int ndim = in->inputs ? in->t[0]->ndim : 0;
    bool canonical = false; /* contiguous, all of them */
    bool numbers = false;   /* that are operands to TensorIterator */
    for (int i = 0; arguments->numbers && i < row->inputs; i++)
        numbers |= row->input[i].operand && arguments->numbers >> i & 1;
    bool real = arguments->types.result != arguments->types.common &&
                call->op->promotion == GEMS_COMPLEX_TO_FLOAT;
    *alike = true;
    for (int i = 1; i < in->inputs; i++) *alike = *alike && same_layout(in->t[0], in->t[i]);
    if (in->inputs) memcpy(sizes, in->t[0]->sizes, (size_t)ndim * sizeof *sizes);
    if (*alike) {
        bool odd = numbers || real; /* ATen takes no short way for contiguous ones */
        canonical = !in->inputs || (odd ? is_canonical(in->t[0]) : gems_is_contiguous(in->t[0]));
        *alike = canonical || gems_is_non_overlapping_and_dense(in->t[0]);
    } else {
        for (int i = 1; i < in->inputs; i++)
            if (!gems_broadcast(sizes, &ndim, in->t[i]->sizes, in->t[i]->ndim))
                return gems_decline("the shapes do not broadcast");
    }
    const gems_tensor *column =
        row->inputs > 2 && row->input[1].column ? arguments->tensor[1] : NULL;
    if (column && (ndim != 2 || !arguments->tensor[2] || arguments->tensor[2]->ndim != 1 ||
                   sizes[0] != column->sizes[0] || sizes[1] != arguments->tensor[2]->sizes[0]))
        return gems_decline("not the shape of an outer product");
    if (row->joined) {
        const gems_tensor *whole = &call->args[row->input[1].arg].t, *half = arguments->tensor[1];
        if (ndim != half->ndim || memcmp(sizes, half->sizes, (size_t)ndim * sizeof *sizes))
            return gems_decline("not the shape of a half");
        return gems_output(call, 0, ndim, whole->sizes, NULL, arguments->types.result);
    }
    int layout = row->buffer && call->device_type == GEMS_CPU ? GEMS_EW_CONTIGUOUS
                                                              : call->op->mode & GEMS_EW_LAYOUT;
    const gems_tensor *self = arguments->tensor[row->self];
    if (layout == GEMS_EW_BY_SELF || call->op->mode & GEMS_EW_SHAPE_OF_SELF)
        if (!self || self->ndim != ndim || memcmp(self->sizes, sizes, (size_t)ndim * sizeof *sizes))
            return gems_decline("an input that is larger than self");
    if (call->entry->variant == GEMS_OUT && call->op->mode & GEMS_EW_OUT_EXACT)
        for (int i = 0; i < row->outputs; i++)
            if (call->args[call->entry->out_arg + i].kind == GEMS_TENSOR &&
                call->args[call->entry->out_arg + i].t.dtype != arguments->types.result)
                return gems_decline("the output has another dtype");
    bool resized = !canonical && is_resized(call, ndim, sizes);
    if (!canonical && (resized || call->entry->variant == GEMS_FUNCTIONAL)) {
        const int64_t *views[GEMS_EW_INPUTS];
        int count = in->inputs;
        for (int i = 0; i < count; i++) {
            gems_tensor copy = *in->t[i];
            int64_t dense[GEMS_MAX_DIMS];
            if (call->device_type == GEMS_CPU && copy.dtype != arguments->types.common &&
                row->input[in->input[i]].role == GEMS_EW_VALUE &&
                !gems_is_non_overlapping_and_dense(&copy)) {
                gems_output_strides(copy.sizes, copy.ndim, &copy.strides, 1, dense);
                copy.strides = dense; /* ATen casts it first, and the cast one is dense */
            }
            gems_broadcast_strides(&copy, sizes, ndim, broadcast[i]);
            views[layout == GEMS_EW_BY_LAST_FIRST ? count - 1 - i
                  : layout == GEMS_EW_FIRST_LAST  ? (i + count - 1) % count
                                                  : i] = broadcast[i];
        }
        if (numbers) { /* one more tensor, of another shape */
            memset(broadcast[count], 0, (size_t)ndim * sizeof **broadcast);
            views[count] = broadcast[count];
            count++;
        }
        if (layout == GEMS_EW_BY_SELF && gems_is_non_overlapping_and_dense(self)) {
            chosen = self->strides;
        } else if (layout != GEMS_EW_CONTIGUOUS) {
            if (layout == GEMS_EW_BY_SELF) views[0] = broadcast[place_of(in, row->self)], count = 1;
            gems_output_strides(sizes, ndim, views, count, strides);
            chosen = *alike && real ? in->t[0]->strides : strides; /* as empty_like has them */
        }
    }
    if (resized && chosen) {
        int64_t contiguous[GEMS_MAX_DIMS];
        gems_contiguous_strides(sizes, ndim, contiguous);
        if (memcmp(contiguous, chosen, (size_t)ndim * sizeof *contiguous))
            return gems_decline("an empty out that does not become contiguous");
    }
    static const int64_t nothing[1] = {0};
    for (int i = 0; i < row->outputs; i++) {
        bool left = i && row->buffer && call->device_type != GEMS_CPU;
        GEMS_TRY(gems_output(call, i, left ? 1 : ndim, left ? nothing : sizes, left ? NULL : chosen,
                             arguments->types.result));
    }
    return GEMS_OK;
}

/* ---- shape classes ---- */

static size_t widest_of(const operands *all) {
    int last = all->t[0]->dtype;
    size_t widest = gems_dtype_size(last);
    for (int i = 1; i < all->count; i++) {
        if (all->t[i]->dtype == last) continue;
        last = all->t[i]->dtype;
        size_t size = gems_dtype_size(last);
        if (size > widest) widest = size;
    }
    return widest;
}

/* The widest access for which every operand stands equally far from a whole one; *pad: how far, in
 * elements. */
static int dense_vector(const operands *all, int bytes, int64_t *pad) {
    int most = bytes / (int)widest_of(all);
    uintptr_t bits = 0;
    *pad = 0;
    for (int i = 0; i < all->count; i++) bits |= (uintptr_t)all->t[i]->data;
    if (bits % (uintptr_t)bytes == 0) return most;
    for (int n = most; n > 1; n /= 2) {
        bool fits = true;
        for (int i = 0; i < all->count; i++) {
            size_t size = gems_dtype_size(all->t[i]->dtype);
            uintptr_t address = (uintptr_t)all->t[i]->data;
            int64_t off = (int64_t)(address / size % (size_t)n);
            if (i == 0) *pad = off;
            fits = fits && off == *pad && address % size == 0;
        }
        if (fits) return n;
    }
    *pad = 0;
    return 1;
}

static void plan_dense(const gems_op *op, const gems_device_info *info, const operands *all,
                       work *w) {
    int64_t n = all->t[all->count - 1]->numel, pad = 0;
    int vector = info->fast ? 0 : dense_vector(all, info->vector_bytes, &pad);
    w->key.kernel = GEMS_EW_DENSE;
    w->key.tune[GEMS_EW_VECTOR] = (uint8_t)vector;
    w->parts = gems_ew_parts_for(op, &w->key, all->inputs, n + pad, info);
    w->key.tune[GEMS_EW_VECTOR] = (uint8_t)w->parts.vector;
    if (pad) pad %= w->parts.vector;
    for (int i = 0; i < all->count; i++) w->pointer[i] = all->t[i]->data;
    if (__builtin_expect(pad != 0, 0))
        for (int i = 0; i < all->count; i++)
            w->pointer[i] =
                (char *)all->t[i]->data - (size_t)pad * gems_dtype_size(all->t[i]->dtype);
    w->items = n + pad;
    if (!gems_fits_int32(n + (1 << 20))) {
        w->key.flags |= GEMS_EW_WIDE;
        w->range.i64[0] = pad, w->range.i64[1] = n + pad;
    } else {
        w->range.i32[0] = (int32_t)pad, w->range.i32[1] = (int32_t)(n + pad);
    }
}

/* The widest access along dim 0 of operands whose strides there are 1 or 0. */
static int row_vector(const operands *all, const gems_iter *iter, const int *place, int bytes) {
    int n = bytes / (int)widest_of(all);
    for (; n > 1; n /= 2) {
        bool fits = iter->size[0] % n == 0;
        for (int i = 0; i < all->count && fits; i++) {
            const int64_t *stride = iter->stride[place[i]];
            if (stride[0] == 0) continue;
            fits =
                (uintptr_t)all->t[i]->data % ((size_t)n * gems_dtype_size(all->t[i]->dtype)) == 0;
            for (int d = 1; d < iter->ndim && fits; d++) fits = stride[d] % n == 0;
        }
        if (fits) break;
    }
    return n;
}

/* Ranks that programs are made for. */
static int program_rank(int ndim) { return ndim <= 2 ? 2 : ndim <= 4 ? ndim : GEMS_EW_RANK; }

/* Operands over the broadcast shape, the outputs deciding the order of the dims. */
static void make_iter(const operands *all, const gems_tensor *out, gems_iter *iter, int *place) {
    int64_t strides[GEMS_ITER_OPERANDS][GEMS_MAX_DIMS];
    const int64_t *views[GEMS_ITER_OPERANDS];
    int outputs = all->count - all->inputs;
    for (int i = 0; i < all->count; i++) {
        place[i] = i < all->inputs ? outputs + i : i - all->inputs;
        gems_broadcast_strides(all->t[i], out->sizes, out->ndim, strides[place[i]]);
        views[place[i]] = strides[place[i]];
    }
    gems_iter_make(iter, out->sizes, out->ndim, views, all->count);
}

/* A dim other than 0 along which all inputs run whose memory does not go along dim 0; 0: there is
 * none. *flags: they. */
static int tiled_dim(const operands *all, const gems_iter *iter, const int *place, uint8_t *flags) {
    enum { SMALLEST = 16 };
    int dim = 0;
    *flags = 0;
    for (int i = 0; i < all->count; i++) {
        const int64_t *stride = iter->stride[place[i]];
        if (stride[0] == 1 || (stride[0] == 0 && i < all->inputs)) continue;
        if (i >= all->inputs) return 0;
        if (!dim)
            for (int d = 1; d < iter->ndim; d++)
                if (stride[d] == 1) dim = d;
        if (!dim || stride[dim] != 1) return 0;
        *flags |= (uint8_t)(1u << all->input[i]);
    }
    return dim && iter->size[0] >= SMALLEST && iter->size[dim] >= SMALLEST ? dim : 0;
}

static void swap_dims(gems_iter *iter, int a, int b) {
    int64_t size = iter->size[a];
    iter->size[a] = iter->size[b];
    iter->size[b] = size;
    for (int k = 0; k < iter->operands; k++) {
        int64_t stride = iter->stride[k][a];
        iter->stride[k][a] = iter->stride[k][b];
        iter->stride[k][b] = stride;
    }
}

/* Writes the kernel's Strided: steps[d] elements of dim d are one item. */
static gems_status fill_space(const operands *all, const gems_iter *iter, const int *place,
                              const int *steps, work *w) {
    bool wide = w->key.flags & GEMS_EW_WIDE;
    w->items = 1;
    w->space.narrow.ndim = iter->ndim; /* in both forms at the same place */
    for (int d = 0; d < iter->ndim; d++) {
        int step = d < 2 ? steps[d] : 1;
        int64_t size = (iter->size[d] + step - 1) / step;
        if (size > UINT32_MAX) return gems_decline("a dimension of more than 2^32 elements");
        w->items *= size;
        if (wide)
            w->space.wide.div[d] = (gems_fastdiv){(uint32_t)size, 0, 0};
        else
            w->space.narrow.div[d] = gems_fastdiv_make((uint32_t)size);
        for (int i = 0; i < all->count; i++) {
            int64_t stride = iter->stride[place[i]][d] * step;
            if (wide)
                w->space.wide.stride[d * all->count + i] = stride;
            else
                w->space.narrow.stride[d * all->count + i] = (int32_t)stride;
        }
    }
    if (wide)
        w->space.wide.n = w->items;
    else
        w->space.narrow.n = (int32_t)w->items;
    return GEMS_OK;
}

/* Writes the kernel's Tile: sizes of dims 0 and 1, strides along them. */
static void fill_tile(const operands *all, const gems_iter *iter, const int *place, work *w) {
    bool wide = w->key.flags & GEMS_EW_WIDE;
    for (int d = 0; d < 2; d++) {
        if (wide)
            w->tile.i64[d] = iter->size[d];
        else
            w->tile.i32[d] = (int32_t)iter->size[d];
        for (int i = 0; i < all->count; i++) {
            int64_t stride = iter->stride[place[i]][d];
            if (wide)
                w->tile.i64[2 + d * all->count + i] = stride;
            else
                w->tile.i32[2 + d * all->count + i] = (int32_t)stride;
        }
    }
}

static gems_status plan_strided(const gems_op *op, const gems_device_info *info,
                                const operands *all, const gems_tensor *out, work *w) {
    int place[GEMS_ITER_OPERANDS], steps[2] = {1, 1},
                                   dim = 0; /* place: of an operand in the iteration */
    gems_iter iter;
    uint8_t broadcast = 0, flags = 0;
    int64_t largest = 0;
    make_iter(all, out, &iter, place);
    bool dense = iter.ndim == 1, rows = true;
    for (int i = 0; i < all->count; i++) {
        int64_t inner = iter.stride[place[i]][0];
        int64_t offset = gems_max_offset(iter.size, iter.stride[place[i]], iter.ndim);
        if (offset > largest) largest = offset;
        dense = dense && inner == 1;
        rows = rows && (inner == 1 || (inner == 0 && i < all->inputs));
        if (inner == 0 && i < all->inputs) broadcast |= (uint8_t)(1u << all->input[i]);
    }
    if (dense) {
        plan_dense(op, info, all, w);
        return GEMS_OK;
    }
    if (iter.ndim > GEMS_EW_RANK) return gems_decline("more dimensions than strided kernels take");
    int vector = rows && !info->fast ? row_vector(all, &iter, place, info->vector_bytes) : 1;
    rows = rows && (info->fast || vector > 1);
    if (!rows) dim = tiled_dim(all, &iter, place, &flags);
    if (dim) vector = widest_of(all) <= 2 ? 64 : 32;
    w->key.kernel = rows ? GEMS_EW_ROWS : dim ? GEMS_EW_TILED : GEMS_EW_STRIDED;
    if (!gems_fits_int32(largest + (1 << 20)) || !gems_fits_int32(iter.numel + (1 << 20)))
        w->key.flags |= GEMS_EW_WIDE;
    w->key.tune[GEMS_EW_VECTOR] = info->fast && !dim ? 0 : (uint8_t)vector;
    w->key.tune[GEMS_EW_DIMS] = (uint8_t)program_rank(iter.ndim);
    w->key.tune[GEMS_EW_BROADCAST] = rows ? broadcast : flags;
    for (int i = 0; i < all->count; i++) w->pointer[i] = all->t[i]->data;
    if (dim) {
        swap_dims(&iter, 1, dim);
        fill_tile(all, &iter, place, w);
        steps[1] = vector;
    }
    steps[0] = vector;
    GEMS_TRY(fill_space(all, &iter, place, steps, w));
    w->parts = gems_ew_parts_for(op, &w->key, all->inputs, w->items, info);
    return GEMS_OK;
}

gems_ew_parts gems_ew_parts_for(const gems_op *op, const gems_key *key, int tensors_read,
                                int64_t items, const gems_device_info *info) {
    enum { FILLS = 16, FEW = 1024 };
    gems_ew_parts p = {key->tune[GEMS_EW_VECTOR], gems_ew_unroll(op, key, tensors_read),
                       GEMS_EW_THREADS};
    if (!info->arch || key->kernel != GEMS_EW_DENSE) return p;
    bool function = tensors_read <= 1 && op->flops >= 10;
    if (function && p.unroll <= 2) p.threads = GEMS_EW_THREADS / 2;
    int64_t per_block = (int64_t)p.threads * p.unroll * p.vector;
    if (p.unroll > 1 && items < per_block * FILLS * info->processors) p.unroll = 1;
    if (function && p.unroll == 1) p.threads = GEMS_EW_THREADS / 2;
    if (op->flops >= GEMS_EW_HEAVY && p.unroll == 1 && p.vector > 1 &&
        items <= (int64_t)FEW * info->processors) {
        p.vector /= 2;
        p.threads = GEMS_EW_THREADS / 2;
    }
    return p;
}

/* ---- the call ---- */

static void fill_key(const gems_ew_row *row, const gems_ew_arguments *arguments, gems_key *key) {
    memset(key, 0, sizeof *key);
    memset(key->dtype, GEMS_NO_DTYPE, sizeof key->dtype);
    key->flags = (uint8_t)(arguments->choice << GEMS_EW_CHOICE_SHIFT);
    key->tune[GEMS_EW_COMPUTE] = arguments->types.compute;
    key->tune[GEMS_EW_COMMON] = arguments->types.common;
    key->tune[GEMS_EW_RESULT] = arguments->types.result;
    key->tune[GEMS_EW_NUMBERS] = arguments->numbers;
    key->tune[GEMS_EW_ABSENT] = arguments->absent;
    key->tune[GEMS_EW_ABSENT_PARAMETERS] = arguments->absent_parameters;
    for (int i = 0; i < row->inputs; i++)
        if (arguments->tensor[i]) key->dtype[i] = arguments->tensor[i]->dtype;
}

/* Whether the call's dtypes and shapes decide everything: no 0-dim tensor, whose value may count as
 * a number's, and a float tensor, so that the default dtype does not matter. */
static bool is_settled(const gems_ew_row *row, const gems_call *call) {
    bool floats = false;
    for (int i = 0; i < row->inputs; i++) {
        const gems_value *value = &call->args[row->input[i].arg];
        if (value->kind != GEMS_TENSOR) continue;
        if (!value->t.ndim) return false;
        floats |= gems_dtype_is_float(value->t.dtype);
    }
    return floats;
}

static gems_status launch(gems_call *call, const gems_device_info *info, const gems_ew_row *row,
                          const operands *all, const gems_ew_arguments *arguments, work *w) {
    const gems_plan *plan;
    w->key.tune[GEMS_EW_UNROLL] = (uint8_t)w->parts.unroll;
    GEMS_TRY(gems_call_plan(call, &w->key, &plan));
    void *args[GEMS_ITER_OPERANDS + GEMS_EW_INPUTS + GEMS_EW_PARAMETERS + 2];
    uint16_t bytes[sizeof args / sizeof *args];
    int count = 0;
    for (int i = 0; i < all->count; i++) {
        bytes[count] = sizeof(void *);
        args[count++] = &w->pointer[i];
    }
    for (int i = 0; i < arguments->arguments; i++) {
        bytes[count] = sizeof arguments->store[0];
        args[count++] = (void *)arguments->argument[i];
    }
    bool wide = w->key.flags & GEMS_EW_WIDE;
    size_t index = wide ? sizeof(int64_t) : sizeof(int32_t);
    int vector = w->key.tune[GEMS_EW_VECTOR], class = w->key.kernel;
    int64_t per_block = (int64_t)w->parts.threads * w->parts.unroll;
    if (class == GEMS_EW_DENSE) {
        for (int i = 0; i < 2; i++) {
            bytes[count] = (uint16_t)index;
            args[count++] = wide ? (void *)&w->range.i64[i] : (void *)&w->range.i32[i];
        }
        per_block *= vector;
    } else {
        size_t strides = wide ? offsetof(strided64, stride) : offsetof(strided32, stride);
        bytes[count] = (uint16_t)(strides + index * GEMS_EW_RANK * (size_t)all->count);
        args[count++] = &w->space;
        if (class == GEMS_EW_TILED) {
            bytes[count] = (uint16_t)(index * (2 + 2 * (size_t)all->count));
            args[count++] = &w->tile;
        }
    }
    if (class == GEMS_EW_TILED)
        per_block = info->fast ? 8 : 1;
    else if (info->fast)
        per_block = 1 << 15; /* elements worth a thread of their own */
    int64_t blocks = gems_grid_of_all(info, w->items, per_block);
    if (blocks > INT32_MAX) return gems_decline("more blocks than a grid takes");
    uint32_t grid[3] = {(uint32_t)blocks, 1, 1},
             block[3] = {info->fast ? 1 : (uint32_t)w->parts.threads, 1, 1};
    if (!is_settled(row, call)) return gems_call_launch(call, plan, 0, grid, block, 0, args);
    return gems_call_launch_kept(call, plan, grid, block, 0, args, all->count, bytes, count);
}

static gems_status run(gems_call *call) {
    const gems_ew_row *row = gems_ew_row_of(call->entry->op);
    gems_ew_arguments arguments;
    operands all = {0};
    work w;
    bool alike;
    if (!row) return GEMS_ERROR;
    GEMS_TRY(gems_ew_arguments_of(row, call, &arguments));
    if (arguments.types.result != arguments.types.common &&
        call->op->promotion == GEMS_COMPLEX_TO_FLOAT && call->entry->out_arg >= 0) {
        const gems_tensor *out = &call->args[call->entry->out_arg].t;
        if (call->entry->variant == GEMS_INPLACE ||
            (gems_dtype_is_complex(out->dtype) && out->dtype != arguments.types.common))
            return gems_decline("a complex tensor made real in place, or in another complex one");
    }
    for (int i = 0; i < row->inputs; i++) {
        if (!arguments.tensor[i]) continue;
        all.input[all.inputs] = (uint8_t)i;
        all.t[all.inputs++] = arguments.tensor[i];
    }
    GEMS_TRY(make_outputs(row, call, &arguments, &all, &alike));
    if (!call->nonempty) return GEMS_OK;
    fill_key(row, &arguments, &w.key);
    all.count = all.inputs;
    gems_tensor halves[2];
    for (int i = 0; i < row->outputs; i++) {
        const gems_tensor *out = &call->out[i];
        if (i && row->buffer && call->device_type != GEMS_CPU) continue; /* left empty */
        if (row->joined) {
            halves[i] = gems_ew_half(&call->out[0], arguments.dim, i, arguments.view_sizes);
            out = &halves[i];
        }
        w.key.dtype[GEMS_EW_INPUTS + i] = out->dtype;
        alike = alike && (!all.count || same_layout(out, all.t[0]) ||
                          (gems_is_contiguous(out) && gems_is_contiguous(all.t[0])));
        all.t[all.count++] = out;
    }
    const gems_device_info *info = gems_device_information(call->device);
    if (alike)
        plan_dense(call->op, info, &all, &w);
    else
        GEMS_TRY(plan_strided(call->op, info, &all, all.t[all.inputs], &w));
    return launch(call, info, row, &all, &arguments, &w);
}

/* ---- warmup ---- */

/* The shape classes that a program is made for ahead of time: the first two for an operator of one
 * tensor, all for one that pairs two. A choice that is not the first has fewer. */
enum { WARM_DENSE, WARM_ROW, WARM_NUMBER, WARM_COLUMN, WARM_TILED, WARM_STRIDED };
enum { ALONE = WARM_NUMBER, PAIRED = WARM_STRIDED + 1, RARE_ALONE = 1, RARE_PAIRED = 2 };
static const uint8_t rare[RARE_PAIRED] = {WARM_DENSE, WARM_NUMBER};

/* What the second tensor is in a warm class: a number, broadcast along dim 0. */
static void warm_second(const gems_ew_row *row, int class, gems_key *key) {
    int seen = 0;
    for (int i = 0; i < row->inputs; i++) {
        if (!row->input[i].tensor || row->input[i].role != GEMS_EW_VALUE || seen++ == 0) continue;
        if (class == WARM_NUMBER) {
            key->tune[GEMS_EW_NUMBERS] |= (uint8_t)(1u << i);
            key->dtype[i] = GEMS_NO_DTYPE;
        }
        if (class == WARM_COLUMN || class == WARM_TILED)
            key->tune[GEMS_EW_BROADCAST] |= (uint8_t)(1u << i);
        return;
    }
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    const gems_ew_row *row = gems_ew_row_of(key->op);
    gems_ew_types types;
    (void)op;
    if (!row) return false;
    int pairs = 0;
    for (int k = 0; k < row->inputs; k++)
        pairs += row->input[k].tensor && row->input[k].role == GEMS_EW_VALUE;
    int kept = row->choices > 3 ? 2 : row->choices; /* of many choices: the first and the last */
    int first = pairs > 1 ? PAIRED : ALONE, other = pairs > 1 ? RARE_PAIRED : RARE_ALONE;
    int few = i - first - (kept - 1) * other; /* the last ones: dense, of few elements */
    if (few >= 0) i = WARM_DENSE;
    int choice = i < first ? 0 : 1 + (i - first) / other;
    int class = choice ? rare[(i - first) % other] : i;
    if (choice >= kept) return false;
    if (kept < row->choices && choice) choice = row->choices - 1;
    if (gems_ew_types_of(row, choice, dtype, &types) != GEMS_OK) return false;
    gems_ew_arguments arguments = {.types = types, .choice = (uint8_t)choice};
    uint16_t number = key->op;
    fill_key(row, &arguments, key);
    key->op = number;
    for (int k = 0; k < row->inputs; k++) {
        if (!row->input[k].tensor || row->input[k].role == GEMS_EW_SINGLE)
            key->tune[GEMS_EW_NUMBERS] |= (uint8_t)(1u << k);
        else
            key->dtype[k] = row->input[k].role == GEMS_EW_MASK ? GEMS_BOOL : (uint8_t)dtype;
    }
    int outputs = row->buffer && info->arch ? 1 : row->outputs;
    for (int k = 0; k < outputs; k++) key->dtype[GEMS_EW_INPUTS + k] = types.result;
    warm_second(row, class, key);
    size_t widest = gems_dtype_size(types.result), size = gems_dtype_size(dtype);
    key->kernel = class == WARM_STRIDED                       ? GEMS_EW_STRIDED
                  : class == WARM_TILED                       ? GEMS_EW_TILED
                  : class == WARM_ROW || class == WARM_COLUMN ? GEMS_EW_ROWS
                                                              : GEMS_EW_DENSE;
    key->tune[GEMS_EW_DIMS] = key->kernel == GEMS_EW_DENSE ? 0 : 2;
    key->tune[GEMS_EW_VECTOR] =
        class == WARM_TILED ? (size > 2 || widest > 2 ? 32 : 64)
        : info->fast        ? 0
        : class == WARM_STRIDED
            ? 1
            : (uint8_t)((size_t)info->vector_bytes / (size > widest ? size : widest));
    int read = 0;
    for (int k = 0; k < row->inputs; k++) read += key->dtype[k] != GEMS_NO_DTYPE;
    key->tune[GEMS_EW_UNROLL] = (uint8_t)gems_ew_unroll(op, key, read);
    if (few < 0) return true;
    few += key->tune[GEMS_EW_UNROLL] == 1; /* one access a thread, then half an access */
    bool half = few == 1 && op->flops >= GEMS_EW_HEAVY && key->tune[GEMS_EW_VECTOR] > 1;
    if (!info->arch || few > 1 || (few == 1 && !half)) return false;
    key->tune[GEMS_EW_UNROLL] = 1;
    if (half) key->tune[GEMS_EW_VECTOR] /= 2;
    return true;
}

const gems_family gems_family_elementwise = {
    .name = "elementwise",
    .run = run,
    .program = gems_ew_program,
    .warm = warm,
    .casts_output = true,
    .strided_output = true,
    .allows_alias = true,
};
