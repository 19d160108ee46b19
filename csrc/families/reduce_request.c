/* The arguments of reductions. */
#include <math.h>

#include "reduce.h"

int gems_reduce_value(int reduction, int in, int cast) {
    if (reduction == GEMS_ANY || reduction == GEMS_ALL)
        return gems_dtype_size(in) == 1 ? GEMS_U8 : GEMS_U32;
    if (reduction == GEMS_COUNT) return GEMS_I64;
    if (gems_reduce_is_extreme(reduction)) return in == GEMS_BOOL ? GEMS_U8 : gems_dtype_opmath(in);
    return gems_dtype_is_float(cast) ? gems_dtype_opmath(cast) : GEMS_I64;
}

/* ---- arguments ---- */

static gems_status add_dim(gems_reduce_request *r, int64_t dim) {
    int d = gems_wrap_dim(dim, r->self->ndim);
    if (d < 0) return gems_decline("dimension out of range");
    if (r->dims >> d & 1) return gems_decline("dimension given twice");
    r->dims |= 1u << d;
    return GEMS_OK;
}

static gems_status read_dtypes(const gems_call *call, int asked, gems_reduce_request *r) {
    int out_arg = call->entry->out_arg;
    r->in = r->self->dtype;
    if (r->in >= GEMS_DTYPES || !(call->op->dtypes & GEMS_BIT(r->in))) return gems_decline("dtype");
    r->cast = r->out = r->in;
    if (r->reduction == GEMS_ANY || r->reduction == GEMS_ALL) {
        r->out = r->in == GEMS_U8 ? GEMS_U8 : GEMS_BOOL;
    } else if (r->reduction == GEMS_COUNT) {
        r->out = GEMS_I64;
    } else if (r->reduction == GEMS_LOGSUMEXP) {
        if (!gems_dtype_is_float(r->in)) r->cast = r->out = gems_default_dtype();
    } else if (call->op->mode == GEMS_NORM) { /* no narrower than self */
        if (asked != GEMS_NO_DTYPE && asked != r->in && asked != GEMS_F64 &&
            (asked != GEMS_F32 || r->in == GEMS_F64))
            return gems_decline("dtype of a norm");
        if (asked != GEMS_NO_DTYPE) r->cast = r->out = asked;
    } else if (r->other || gems_reduce_is_moments(r->reduction)) {
        return GEMS_OK;
    } else if (!gems_reduce_is_extreme(r->reduction)) {
        if (asked == GEMS_NO_DTYPE && call->entry->variant == GEMS_OUT &&
            call->args[out_arg].kind == GEMS_TENSOR)
            asked = call->args[out_arg].t.dtype;
        if (asked != GEMS_NO_DTYPE)
            r->cast = asked;
        else if (!gems_dtype_is_float(r->in) && r->reduction != GEMS_MEAN)
            r->cast = GEMS_I64;
        if (r->cast >= GEMS_DTYPES || !(GEMS_REAL_MASK & GEMS_BIT(r->cast)))
            return gems_decline("result dtype");
        if (r->reduction == GEMS_MEAN && !gems_dtype_is_float(r->cast))
            return gems_decline("mean of integers");
        r->out = r->cast;
    }
    return GEMS_OK;
}

/* Powers with a kernel of their own; the rest keeps GEMS_NORM. */
static int norm_of(double power) {
    if (power == 0) return GEMS_NORM0;
    if (power == 1) return GEMS_NORM1;
    if (power == 2) return GEMS_NORM2;
    if (power == HUGE_VAL) return GEMS_NORM_MAX;
    return power == -HUGE_VAL ? GEMS_NORM_MIN : GEMS_NORM;
}

static bool reduces_one(const gems_reduce_request *r) {
    for (int d = 0; d < r->self->ndim; d++)
        if (r->dims >> d & 1 && r->self->sizes[d] != 1) return false;
    return true;
}

static bool reduces_none(const gems_reduce_request *r) {
    for (int d = 0; d < r->self->ndim; d++)
        if (r->dims >> d & 1 && r->self->sizes[d] == 0) return true;
    return false;
}

/* What follows from the dimensions. */
static gems_status settle(gems_reduce_request *r, bool all) {
    if (gems_reduce_is_extreme(r->reduction) && (reduces_none(r) || (all && !r->self->numel)))
        return gems_decline("maximum of nothing");
    if (r->reduction == GEMS_NORM) {
        if ((r->power < 0 || r->power == HUGE_VAL) && reduces_none(r))
            return gems_decline("maximum of nothing");
        r->reduction = norm_of(r->power);
        /* Of one element without a power, which could be out of range. */
        if (r->reduction != GEMS_NORM0 && reduces_one(r)) r->reduction = GEMS_NORM1;
    }
    if (gems_reduce_is_moments(r->reduction)) {
        double count = 1;
        for (int d = 0; d < r->self->ndim; d++)
            if (r->dims >> d & 1) count *= (double)r->self->sizes[d];
        if (!(count > r->correction)) return gems_decline("no degrees of freedom");
    }
    return GEMS_OK;
}

static gems_status read_diagonal(gems_reduce_request *r) {
    const gems_tensor *t = r->self;
    if (t->ndim != 2) return gems_decline("self is no matrix");
    r->sizes[0] = t->sizes[0] < t->sizes[1] ? t->sizes[0] : t->sizes[1];
    r->strides[0] = t->strides[0] + t->strides[1];
    r->diagonal = *t;
    r->diagonal.ndim = 1;
    r->diagonal.sizes = r->sizes;
    r->diagonal.strides = r->strides;
    r->diagonal.numel = r->sizes[0];
    r->self = &r->diagonal;
    r->reduction = GEMS_SUM;
    return GEMS_OK;
}

static gems_status read_other(gems_reduce_request *r, const gems_tensor *other) {
    if (!other || r->self->ndim != 1 || other->ndim != 1 || other->dtype != r->self->dtype ||
        other->sizes[0] != r->self->sizes[0])
        return gems_decline("no two vectors alike");
    r->other = other;
    r->reduction = GEMS_SUM;
    r->flatten = true;
    return GEMS_OK;
}

static gems_status read_number(gems_reduce_request *r, const gems_value *value) {
    double number = gems_reduce_is_moments(r->reduction) ? 1 : 2;
    if (value->kind == GEMS_INT)
        number = (double)value->i;
    else if (value->kind == GEMS_FLOAT)
        number = value->f;
    else if (value->kind != GEMS_NONE)
        return gems_decline("a number of this kind");
    if (number != number) return gems_decline("NaN");
    r->correction = r->power = number;
    return GEMS_OK;
}

gems_status gems_reduce_read(const gems_call *call, gems_reduce_request *r) {
    *r = (gems_reduce_request){.self = gems_arg_tensor(call, 0),
                               .reduction = call->op->mode & ~GEMS_WITH_VALUES,
                               .both = call->op->mode & GEMS_WITH_VALUES};
    if (!r->self) return gems_decline("self is no tensor");
    int ndim = r->self->ndim, asked = GEMS_NO_DTYPE;
    if (ndim > GEMS_REDUCE_RANK) return gems_decline("more dimensions than this kernel takes");
    if (r->reduction == GEMS_TRACE) GEMS_TRY(read_diagonal(r));
    bool all = true, dotted = r->reduction == GEMS_DOT;
    ndim = r->self->ndim;
    for (int i = 1; i < call->nargs; i++) {
        const gems_value *value = &call->args[i];
        switch (call->entry->schema.args[i].type) {
        case GEMS_T_INT:
            if (value->kind != GEMS_INT) break;
            GEMS_TRY(add_dim(r, value->i));
            all = false;
            break;
        case GEMS_T_INTS:
            if (value->kind != GEMS_INTS) break;
            for (int k = 0; k < value->ints.n; k++) GEMS_TRY(add_dim(r, value->ints.v[k]));
            /* An empty list means all dimensions, but for any and all, where it means none. */
            all = value->ints.n == 0 && r->reduction != GEMS_ANY && r->reduction != GEMS_ALL;
            break;
        case GEMS_T_BOOL: r->keepdim = value->i != 0; break;
        case GEMS_T_DTYPE:
            if (value->kind != GEMS_NONE) asked = (int)value->i;
            break;
        case GEMS_T_SCALAR: GEMS_TRY(read_number(r, value)); break;
        case GEMS_T_TENSOR:
            if (!dotted) return gems_decline("argument");
            GEMS_TRY(read_other(r, gems_arg_tensor(call, i)));
            break;
        default: return gems_decline("argument");
        }
    }
    if (all) r->dims = (1u << ndim) - 1;
    r->flatten |= all && gems_reduce_is_pair(r->reduction);
    GEMS_TRY(settle(r, all));
    return read_dtypes(call, asked, r);
}
