/* Calls of the scatter family, taken apart: where the elements are, and where they go. */
#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"
#include "modes.h"
#include "scatter.h"

static gems_status check_index(const gems_call *call, const gems_tensor *index, bool narrow,
                               scatter_request *r) {
    if (index->device_type != call->device_type) return gems_decline("tensors on several devices");
    if (index->dtype == GEMS_I32 && !narrow) return gems_decline("the index's dtype");
    if (!gems_gather_index(index->dtype, &r->flags)) return gems_decline("the index's dtype");
    r->count = 1;
    r->data[0] = index->data;
    return GEMS_OK;
}

static gems_status check_src(const gems_call *call, const gems_tensor *self,
                             const gems_tensor *src) {
    if (!src || self->dtype != src->dtype) return gems_decline("the source's dtype");
    if (src->device_type != call->device_type) return gems_decline("tensors on several devices");
    return GEMS_OK;
}

/* A number as an element of self. */
static gems_status read_value(const gems_value *value, int dtype, uint64_t bits[2]) {
    static const struct {
        int dtype;
        double least, most;
    } ranges[] = {{GEMS_U8, 0, 255},
                  {GEMS_I8, -128, 127},
                  {GEMS_I16, -32768, 32767},
                  {GEMS_I32, -2147483648.0, 2147483647.0}};
    bits[0] = bits[1] = 0;
    if (value->kind == GEMS_COMPLEX && !gems_dtype_is_complex(dtype))
        return gems_decline("a complex value");
    if (!gems_store_number(value, dtype, bits)) return gems_decline("the value is no number");
    if (value->kind == GEMS_FLOAT && gems_dtype_is_int(dtype) &&
        !(value->f > -9e18 && value->f < 9e18))
        return gems_decline("a value beyond the dtype");
    double number = value->kind == GEMS_FLOAT ? value->f : (double)value->i;
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (ranges[i].dtype == dtype && !(number >= ranges[i].least && number <= ranges[i].most))
            return gems_decline("a value beyond the dtype");
    double most = dtype == GEMS_F16 ? 65504.0 : 3.3895e38;
    if ((dtype == GEMS_F16 || dtype == GEMS_BF16 || dtype == GEMS_F32) &&
        value->kind != GEMS_COMPLEX && (number > most || number < -most) && number - number == 0)
        return gems_decline("a value beyond the dtype");
    return GEMS_OK;
}

/* The word of a reduction. */
static gems_status read_op(const gems_value *word, scatter_request *r) {
    static const struct {
        const char *word;
        int op;
        bool old;
    } words[] = {{"sum", SCATTER_SUM, false},     {"prod", SCATTER_PROD, false},
                 {"mean", SCATTER_SUM, false},    {"amax", SCATTER_MAX, false},
                 {"amin", SCATTER_MIN, false},    {"add", SCATTER_SUM, true},
                 {"multiply", SCATTER_PROD, true}};
    bool old = r->op < 0;
    if (word->kind != GEMS_STRING) return gems_decline("the reduction is no word");
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(words[i].word, word->s) || words[i].old != old) continue;
        r->op = words[i].op;
        r->mean = !strcmp(word->s, "mean");
        return GEMS_OK;
    }
    return gems_decline("an unknown reduction");
}

/* ---- scatter: scatter.src, .value, .reduce, .value_reduce, scatter_reduce.two ---- */

static gems_status ask_scatter(const gems_call *call, scatter_request *r) {
    const gems_schema *schema = &call->entry->schema;
    const gems_tensor *self = r->self, *index = gems_arg_tensor(call, 2);
    if (!index) return gems_decline("no tensors");
    GEMS_TRY(check_index(call, index, true, r));
    int word = gems_schema_arg(schema, "reduce"), ndim = self->ndim;
    int dim = gems_wrap_dim(gems_arg_int(call, 1), ndim);
    if (dim < 0 || !ndim || index->ndim != ndim) return gems_decline("dim or a rank");
    r->include = true;
    if (word >= 0) {
        bool old = !strcmp(schema->name, "scatter") || !strcmp(schema->name, "scatter_");
        r->op = old ? -1 : 0;
        GEMS_TRY(read_op(&call->args[word], r));
        if (!old) r->include = gems_arg_int(call, word + 1) != 0;
    }
    if (gems_schema_arg(schema, "src") >= 0) {
        r->src = gems_arg_tensor(call, 3);
        GEMS_TRY(check_src(call, self, r->src));
        if (r->src->ndim != ndim) return gems_decline("src's rank");
    } else {
        GEMS_TRY(read_value(&call->args[3], self->dtype, r->value));
    }
    r->varies = true;
    r->whole = index;
    r->dim[0] = dim;
    r->size[0] = self->sizes[dim];
    for (int d = 0; d < ndim; d++) {
        if ((r->src && index->sizes[d] > r->src->sizes[d]) ||
            (d != dim && index->sizes[d] > self->sizes[d]))
            return gems_decline("the index is larger than self or src");
        scatter_dims *of = d == dim ? &r->places : &r->lines;
        of->size[of->n] = index->sizes[d];
        of->src[of->n] = r->src ? r->src->strides[d] : 0;
        of->index[0][of->n] = index->strides[d];
        of->dim[of->n++] = d;
    }
    return GEMS_OK;
}

/* ---- index_add, index_copy, index_reduce, index_fill: along a dim, by an index vector ---- */

static gems_status ask_along(gems_call *call, scatter_request *r) {
    const gems_tensor *self = r->self, *index = gems_arg_tensor(call, 2);
    int mode = call->op->mode, ndim = self->ndim;
    if (!index || index->ndim > 1) return gems_decline("the index is no vector");
    GEMS_TRY(check_index(call, index, mode == GEMS_INDEX_ADD || mode == GEMS_INDEX_REDUCE, r));
    int dim = gems_wrap_dim(gems_arg_int(call, 1), ndim);
    if (dim < 0 || !ndim) return gems_decline("dim out of range");
    r->include = true;
    if (mode == GEMS_INDEX_FILL) {
        gems_value number = call->args[3];
        if (number.kind == GEMS_TENSOR) {
            const gems_tensor *t = &call->args[3].t;
            if (t->ndim) return gems_decline("the value has dimensions");
            if (t->device_type == GEMS_CPU) {
                if (!gems_load_number(t, &number)) return gems_decline("the value's dtype");
            } else {
                if (t->dtype != self->dtype) return gems_decline("the value's dtype");
                r->src = t;
            }
        }
        if (!r->src) GEMS_TRY(read_value(&number, self->dtype, r->value));
        r->wrap = r->preserve = true;
    } else {
        r->src = gems_arg_tensor(call, 3);
        GEMS_TRY(check_src(call, self, r->src));
        if (r->src->ndim != ndim) return gems_decline("the source's rank");
    }
    if (mode == GEMS_INDEX_ADD) {
        r->op = SCATTER_SUM;
        int opmath = gems_dtype_opmath(self->dtype);
        if (call->args[4].kind == GEMS_FLOAT && !gems_dtype_is_float(self->dtype))
            return gems_decline("alpha's kind");
        GEMS_TRY(read_value(&call->args[4], opmath, r->alpha));
    }
    if (mode == GEMS_INDEX_REDUCE) {
        GEMS_TRY(read_op(&call->args[4], r));
        if (r->op == SCATTER_SUM && !r->mean) return gems_decline("an unknown reduction");
        r->include = gems_arg_int(call, 5) != 0;
    }
    bool along = r->src && r->src->ndim;
    r->dim[0] = dim;
    r->size[0] = self->sizes[dim];
    r->places.n = 1;
    r->places.size[0] = index->numel;
    r->places.index[0][0] = index->ndim ? index->strides[0] : 1;
    r->places.src[0] = along ? r->src->strides[dim] : 0;
    for (int d = 0; d < ndim; d++) {
        if (along && r->src->sizes[d] != (d == dim ? index->numel : self->sizes[d]))
            return gems_decline("the source's shape");
        if (d == dim) continue;
        r->lines.size[r->lines.n] = self->sizes[d];
        r->lines.src[r->lines.n] = along ? r->src->strides[d] : 0;
        r->lines.dim[r->lines.n++] = d;
    }
    return GEMS_OK;
}

/* ---- index_put: by a list of indices ---- */

static gems_status ask_put_list(gems_call *call, scatter_request *r) {
    const gems_tensor *self = r->self, *values = gems_arg_tensor(call, 2);
    gems_indexing x;
    if (!values || values->dtype != self->dtype) return gems_decline("the values' dtype");
    if (gems_arg_int(call, 3)) r->op = SCATTER_SUM;
    r->include = r->wrap = r->preserve = true;
    bool number = values->numel == 1 && !values->ndim && values->device_type == GEMS_CPU;
    if (values->device_type != call->device_type && !number)
        return gems_decline("tensors on several devices");
    if (call->args[1].kind == GEMS_TENSORS && values->numel == 1 && r->op == SCATTER_SET)
        for (int i = 0; i < call->args[1].tensors.n; i++)
            if (call->args[1].tensors.v[i].handle && call->args[1].tensors.v[i].dtype == GEMS_BOOL)
                return gems_decline("one value where a mask says, which is masked_fill");
    GEMS_TRY(gems_indexing_read(call, &x));
    int64_t strides[GEMS_MAX_DIMS], shape[GEMS_MAX_DIMS];
    int ndim = x.ndim;
    memcpy(shape, x.shape, sizeof shape);
    if (values->ndim > ndim || !gems_broadcast(shape, &ndim, values->sizes, values->ndim) ||
        memcmp(shape, x.shape, (size_t)ndim * sizeof *shape))
        return gems_decline("the values do not broadcast");
    if (number) {
        gems_value one;
        if (!gems_load_number(values, &one)) return gems_decline("the values' dtype");
        GEMS_TRY(read_value(&one, self->dtype, r->value));
        memset(strides, 0, sizeof strides);
    } else {
        r->src = values;
        gems_broadcast_strides(values, shape, ndim, strides);
    }
    r->count = x.count;
    r->flags = x.flags;
    for (int k = 0; k < x.count; k++) {
        r->data[k] = x.data[k];
        r->dim[k] = x.dim[k];
        r->size[k] = self->sizes[x.dim[k]];
    }
    for (int d = 0; d < x.ndim; d++) {
        scatter_dims *of = x.self_dim[d] < 0 ? &r->places : &r->lines;
        of->size[of->n] = x.shape[d];
        of->src[of->n] = strides[d];
        of->dim[of->n] = x.self_dim[d];
        for (int k = 0; k < x.count; k++) of->index[k][of->n] = x.strides[k][d];
        of->n++;
    }
    return GEMS_OK;
}

/* ---- put: by places in the flat self ---- */

static gems_status ask_put(gems_call *call, scatter_request *r) {
    const gems_tensor *self = r->self, *index = gems_arg_tensor(call, 1);
    r->src = gems_arg_tensor(call, 2);
    if (!index || !r->src) return gems_decline("no tensors");
    GEMS_TRY(check_index(call, index, false, r));
    GEMS_TRY(check_src(call, self, r->src));
    if (index->numel != r->src->numel) return gems_decline("index and source differ in size");
    if (!gems_is_contiguous(self)) return gems_decline("self is not contiguous");
    if (!gems_same_sizes(index, r->src) &&
        !(gems_is_contiguous(index) && gems_is_contiguous(r->src)))
        return gems_decline("index and source differ in shape");
    if (gems_arg_int(call, 3)) r->op = SCATTER_SUM;
    r->include = r->wrap = r->preserve = true;
    r->dim[0] = -1;
    r->size[0] = self->numel;
    bool same = gems_same_sizes(index, r->src);
    r->places.n = same ? index->ndim : 1;
    for (int d = 0; d < r->places.n; d++) {
        r->places.size[d] = same ? index->sizes[d] : index->numel;
        r->places.index[0][d] = same ? index->strides[d] : 1;
        r->places.src[d] = same ? r->src->strides[d] : 1;
    }
    return GEMS_OK;
}

gems_status gems_scatter_ask(gems_call *call, scatter_request *r) {
    *r = (scatter_request){.self = gems_arg_tensor(call, 0), .op = SCATTER_SET};
    if (!r->self) return gems_decline("no tensors");
    if (r->self->device_type != call->device_type)
        return gems_decline("tensors on several devices");
    gems_status status;
    switch (call->op->mode) {
    case GEMS_SCATTER: status = ask_scatter(call, r); break;
    case GEMS_INDEX_PUT: status = ask_put_list(call, r); break;
    case GEMS_PUT: status = ask_put(call, r); break;
    default: status = ask_along(call, r);
    }
    if (status != GEMS_OK) return status;
    int dtype = r->self->dtype;
    if (r->op == SCATTER_SET ? gems_copy_carrier(dtype) == GEMS_NO_DTYPE
                             : !(GEMS_BIT(dtype) & GEMS_REAL_MASK))
        return gems_decline("the dtype");
    if (call->op->mode != GEMS_INDEX_ADD) {
        const gems_value one = {.kind = GEMS_INT, .i = 1};
        gems_store_number(&one, gems_dtype_opmath(dtype), r->alpha);
    }
    return GEMS_OK;
}

gems_status gems_scatter_ask_add(gems_call *call, scatter_request *r) {
    const gems_value one = {.kind = GEMS_INT, .i = 1};
    *r = (scatter_request){.self = gems_arg_tensor(call, 0)};
    if (!r->self || !(GEMS_BIT(r->self->dtype) & GEMS_REAL_MASK)) return gems_decline("the dtype");
    GEMS_TRY(ask_scatter(call, r));
    r->op = SCATTER_SUM;
    gems_store_number(&one, gems_dtype_opmath(r->self->dtype), r->alpha);
    return GEMS_OK;
}
