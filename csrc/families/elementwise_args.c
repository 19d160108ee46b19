/* The values of a call sorted out: promotion, and what becomes a kernel argument. */
#include "elementwise.h"

#include <float.h>
#include <math.h>
#include <string.h>

gems_status gems_ew_types_of(const gems_ew_row *row, int choice, int together,
                             gems_ew_types *types) {
    int promotion = row->op->promotion;
    if (together == GEMS_NO_DTYPE) return gems_decline("the dtypes do not promote");
    if (promotion == GEMS_INT_TO_FLOAT && choice > 0) promotion = GEMS_DEFAULT;
    bool counts = together == GEMS_BOOL || gems_dtype_is_int(together);
    if (promotion == GEMS_INT_TO_FLOAT && counts) together = gems_default_dtype();
    if (promotion == GEMS_BOOL_TO_LONG && together == GEMS_BOOL) together = GEMS_I64;
    if (!(row->op->dtypes & GEMS_BIT(together)))
        return gems_decline("dtype not taken by this operator");
    types->common = (uint8_t)together;
    types->compute =
        (uint8_t)(promotion == GEMS_NO_OPMATH ? together : gems_dtype_opmath(together));
    types->result = (uint8_t)(promotion == GEMS_ALWAYS_BOOL        ? GEMS_BOOL
                              : promotion == GEMS_COMPLEX_TO_FLOAT ? gems_dtype_real(together)
                              : promotion != GEMS_FLOAT_TO_COMPLEX ? together
                              : together == GEMS_F64               ? GEMS_C128
                                                                   : GEMS_C64);
    return GEMS_OK;
}

/* 0 bool, 1 ints, 2 floats, 3 complex. */
static int category(const gems_value *value) {
    switch (value->kind) {
    case GEMS_BOOLEAN: return 0;
    case GEMS_INT: return 1;
    case GEMS_FLOAT: return 2;
    case GEMS_COMPLEX: return 3;
    default: break;
    }
    int dtype = value->t.dtype;
    return gems_dtype_is_complex(dtype) ? 3
           : gems_dtype_is_float(dtype) ? 2
           : dtype == GEMS_BOOL         ? 0
                                        : 1;
}

/* torch.result_type of the inputs that promote. GEMS_NO_DTYPE: there is none, or it cannot be told
 * here. */
static int result_type(gems_call *call, const gems_value *const *values, int count) {
    const gems_value *large[GEMS_EW_INPUTS];
    int larges = 0, tensors = 0;
    bool same = true;
    for (int i = 0; i < count; i++) {
        if (values[i]->kind != GEMS_TENSOR) continue;
        tensors++;
        if (values[i]->t.ndim) large[larges++] = values[i];
    }
    if (larges) { /* nearly always: one dtype, and nothing of a higher category beside it */
        int highest = category(large[0]);
        for (int i = 0; i < count; i++) {
            bool dims = values[i]->kind == GEMS_TENSOR && values[i]->t.ndim;
            same = same && (dims ? values[i]->t.dtype == large[0]->t.dtype
                                 : category(values[i]) <= highest);
        }
        if (same) return large[0]->t.dtype;
    }
    int type = gems_result_type(values, count);
    if (!call->host->result_type || larges == tensors) return type;
    /* Some 0-dim tensor may be a number in disguise: the host knows. */
    if (tensors == count && count <= 2)
        return call->host->result_type(call, &values[0]->t, &values[count - 1]->t);
    return larges && gems_result_type(large, larges) == type ? type : GEMS_NO_DTYPE;
}

static gems_status promote(const gems_ew_row *row, gems_call *call, int choice,
                           gems_ew_types *types) {
    const gems_value *values[GEMS_EW_INPUTS];
    int count = 0;
    bool booleans = false;
    for (int i = 0; i < row->inputs; i++) {
        const gems_value *value = &call->args[row->input[i].arg];
        if (row->input[i].role != GEMS_EW_VALUE || value->kind == GEMS_NONE) continue;
        values[count++] = value;
        booleans |=
            value->kind == GEMS_TENSOR ? value->t.dtype == GEMS_BOOL : value->kind == GEMS_BOOLEAN;
    }
    if (!count) return gems_decline("no input decides the dtype");
    int together;
    if (row->op->promotion == GEMS_KEEP || row->op->promotion == GEMS_FLOAT_TO_COMPLEX) {
        together = values[0]->kind == GEMS_TENSOR ? values[0]->t.dtype : GEMS_NO_DTYPE;
        for (int i = 1; i < count; i++)
            if (values[i]->kind != GEMS_TENSOR || values[i]->t.dtype != together)
                return gems_decline("the inputs have several dtypes");
    } else {
        together = result_type(call, values, count);
    }
    GEMS_TRY(gems_ew_types_of(row, choice, together, types));
    bool plain = row->op->promotion == GEMS_DEFAULT || choice > 0;
    if (booleans && plain && !(row->op->dtypes & GEMS_BOOL_MASK))
        return gems_decline("not for bool inputs");
    return GEMS_OK;
}

/* Which expression the call asks for; -1: none. */
static int choose(const gems_ew_row *row, const gems_call *call) {
    if (row->selector < 0) return 0;
    const gems_value *value = &call->args[row->selector];
    bool word = value->kind == GEMS_STRING || value->kind == GEMS_NONE;
    const char *text = value->kind == GEMS_STRING ? value->s : "none";
    double number = word || value->kind == GEMS_TENSOR ? 0 : gems_arg_double(call, row->selector);
    if (value->kind == GEMS_COMPLEX && value->c[1] != 0) number = NAN; /* no label's */
    for (int i = 0; i < row->choices; i++) {
        const gems_ew_choice *choice = &row->choice[i];
        size_t size = (size_t)choice->label_size;
        if (size == 4 && !memcmp(choice->label, "else", 4)) return i;
        if (word ? strlen(text) == size && !memcmp(choice->label, text, size)
                 : number == choice->number)
            return i;
    }
    return -1;
}

/* True when the number is one of the dtype: ATen refuses it otherwise, where it is a Scalar of its
 * own. */
static bool in_range(const gems_value *value, int dtype) {
    if (value->kind == GEMS_COMPLEX) {
        gems_value re = {.kind = GEMS_FLOAT, .f = value->c[0]};
        gems_value im = {.kind = GEMS_FLOAT, .f = value->c[1]};
        return gems_dtype_is_complex(dtype) && in_range(&re, dtype) && in_range(&im, dtype);
    }
    if (value->kind != GEMS_FLOAT && value->i >= 0 && value->i < 128) return true; /* most often */
    dtype = gems_dtype_real(dtype);
    if (gems_dtype_is_float(dtype)) {
        double v = value->kind == GEMS_FLOAT ? fabs(value->f) : fabs((double)value->i);
        double most = dtype == GEMS_F64    ? DBL_MAX
                      : dtype == GEMS_F32  ? FLT_MAX
                      : dtype == GEMS_F16  ? 65504.0
                      : dtype == GEMS_BF16 ? 3.3895313892515355e38
                                           : 0;
        return !(v > most) || isinf(v);
    }
    if (value->kind == GEMS_FLOAT) return false;
    if (dtype == GEMS_BOOL || dtype == GEMS_I64) return true;
    if (dtype == GEMS_U8) return value->i >= 0 && value->i <= UINT8_MAX;
    int64_t half = INT64_C(1) << (8 * gems_dtype_size(dtype) - 1);
    return value->i >= -half && value->i < half;
}

static bool is_whole(int dtype) { return dtype == GEMS_BOOL || gems_dtype_is_int(dtype); }

/* Adds a kernel argument: the number in `dtype`. */
static gems_status add_number(gems_ew_arguments *out, const gems_value *value, int dtype) {
    void *bytes = out->store[out->arguments].bytes;
    if (!gems_store_number(value, dtype, bytes))
        return gems_decline("a number that kernels do not take");
    out->argument[out->arguments++] = bytes;
    return GEMS_OK;
}

/* An input that is a number. In operators that compare or choose, ATen rounds it to the common
 * dtype first. */
static gems_status add_input_number(const gems_ew_row *row, gems_ew_arguments *out, int i,
                                    const gems_value *value) {
    const gems_ew_types *types = &out->types;
    const gems_ew_choice *choice = &row->choice[out->choice];
    out->numbers |= (uint8_t)(1u << i);
    if (row->input[i].role == GEMS_EW_MASK) return add_number(out, value, GEMS_BOOL);
    bool whole = is_whole(types->common);
    if (!in_range(value, types->common)) return gems_decline("a number out of the dtype's range");
    if (whole && choice->divides && i == 1 && !value->i)
        return gems_decline("integer division by zero");
    if (whole && choice->powers && i == 1 && value->i < 0)
        return gems_decline("integer to a negative power");
    int promotion = row->op->promotion;
    if (types->compute != types->common &&
        (promotion == GEMS_ALWAYS_BOOL || promotion == GEMS_NO_OPMATH)) {
        uint8_t rounded[16];
        gems_value narrow;
        gems_tensor single = {.data = rounded, .numel = 1, .dtype = types->common};
        if (!gems_store_number(value, types->common, rounded) ||
            !gems_load_number(&single, &narrow))
            return gems_decline("a number that kernels do not take");
        return add_number(out, &narrow, types->compute);
    }
    return add_number(out, value, types->compute);
}

/* What kernels read: every dtype that they have a type for. */
#define READABLE                                                                   \
    (GEMS_ALL_MASK | GEMS_COMPLEX_MASK | GEMS_BIT(GEMS_U16) | GEMS_BIT(GEMS_U32) | \
     GEMS_BIT(GEMS_U64) | GEMS_BIT(GEMS_F8E4M3) | GEMS_BIT(GEMS_F8E5M2))

gems_tensor gems_ew_half(const gems_tensor *t, int dim, int half, const int64_t *sizes) {
    gems_tensor view = *t;
    int64_t offset = half * (t->sizes[dim] / 2) * t->strides[dim];
    view.numel = t->numel / 2;
    view.sizes = sizes;
    if (t->data) view.data = (char *)t->data + offset * (int64_t)gems_dtype_size(t->dtype);
    return view;
}

/* The halves of a tensor along the argument dim, or a vector as a column. */
static gems_status take_view(const gems_ew_row *row, const gems_call *call, gems_ew_arguments *out,
                             int i) {
    const gems_ew_input *input = &row->input[i];
    const gems_tensor *t = &call->args[input->arg].t;
    if (t->device_type != call->device_type) return gems_decline("a tensor on another device");
    if (!(GEMS_BIT(t->dtype) & READABLE)) return gems_decline("dtype without a kernel");
    gems_tensor *view = &out->view[input->half == 2];
    if (input->half) {
        int dim = t->ndim ? gems_wrap_dim(gems_arg_int(call, row->dim), t->ndim) : -1;
        if (dim < 0 || t->sizes[dim] % 2) return gems_decline("no dim with two halves");
        memcpy(out->view_sizes, t->sizes, (size_t)t->ndim * sizeof *t->sizes);
        out->view_sizes[dim] /= 2;
        out->dim = dim;
        *view = gems_ew_half(t, dim, input->half - 1, out->view_sizes);
    } else {
        if (t->ndim != 1) return gems_decline("vec1 is no vector");
        *view = *t;
        view->ndim = 2;
        out->view_sizes[0] = t->sizes[0], out->view_sizes[1] = 1;
        out->view_strides[0] = t->strides[0], out->view_strides[1] = 1;
        view->sizes = out->view_sizes, view->strides = out->view_strides;
    }
    out->tensor[i] = view;
    return GEMS_OK;
}

#define LOOK(T) \
    for (int64_t i = 0; i < count; i++) zero |= ((const T *)first)[i * stride] == 0

/* Whether an element of a CPU tensor of integers is 0. */
static bool has_zero(const gems_tensor *t) {
    const int64_t *operands[1] = {t->strides};
    int64_t place[GEMS_MAX_DIMS] = {0}, at = 0;
    const size_t size = gems_dtype_size(t->dtype);
    bool zero = false;
    gems_iter iter;
    if (!t->numel) return false;
    gems_iter_make(&iter, t->sizes, t->ndim, operands, 1);
    for (int d = 0; d < iter.ndim && !zero;) {
        const int64_t stride = iter.stride[0][0], count = iter.size[0];
        const char *first = (const char *)t->data + at * (int64_t)size;
        switch (size) {
        case 1: LOOK(int8_t); break;
        case 2: LOOK(int16_t); break;
        case 4: LOOK(int32_t); break;
        default: LOOK(int64_t); break;
        }
        for (d = 1; d < iter.ndim; d++) { /* the next line */
            at += iter.stride[0][d];
            if (++place[d] < iter.size[d]) break;
            at -= iter.stride[0][d] * iter.size[d];
            place[d] = 0;
        }
    }
    return zero;
}
#undef LOOK

static gems_status take_tensor(const gems_ew_row *row, const gems_call *call,
                               gems_ew_arguments *out, int i, bool dimensioned) {
    const gems_ew_input *input = &row->input[i];
    const gems_tensor *t = &call->args[input->arg].t;
    if (input->half || input->column) return take_view(row, call, out, i);
    bool number = t->ndim == 0 && t->device_type == GEMS_CPU &&
                  (dimensioned || call->device_type != GEMS_CPU) &&
                  !(call->entry->variant == GEMS_INPLACE && input->arg == 0);
    if (input->role == GEMS_EW_MASK && t->dtype != GEMS_BOOL)
        return gems_decline("the mask is not bool");
    if (input->role == GEMS_EW_SINGLE) {
        if (t->ndim) return gems_decline("value is not 0-dim");
        if (!is_whole(t->dtype) && is_whole(out->types.common))
            return gems_decline("a float value for integers");
        if (gems_dtype_is_complex(t->dtype) && !gems_dtype_is_complex(out->types.common))
            return gems_decline("a complex value for real numbers");
    }
    if (!(GEMS_BIT(t->dtype) & READABLE)) return gems_decline("dtype without a kernel");
    if (number) {
        gems_value value;
        if (!gems_load_number(t, &value)) return gems_decline("a number that kernels do not take");
        return add_input_number(row, out, i, &value);
    }
    if (t->device_type != call->device_type) return gems_decline("a tensor on another device");
    if (row->op->promotion == GEMS_ALWAYS_BOOL && !(row->op->dtypes & GEMS_BIT(t->dtype)))
        return gems_decline("dtype"); /* promoted it may be one that the row takes */
    if (call->device_type == GEMS_CPU && i == 1 && row->choice[out->choice].divides &&
        is_whole(out->types.common) && has_zero(t))
        return gems_decline("integer division by zero");
    out->tensor[i] = t;
    return GEMS_OK;
}

static gems_status take_parameter(const gems_ew_row *row, const gems_call *call,
                                  gems_ew_arguments *out, int i) {
    static const gems_value zero = {.kind = GEMS_INT, .i = 0};
    const gems_ew_parameter *parameter = &row->parameter[i];
    const gems_value *value = &call->args[parameter->arg];
    if (parameter->counts) {
        if (value->kind != GEMS_TENSOR) return gems_decline("self is no tensor");
        const gems_value count = {.kind = GEMS_INT, .i = value->t.numel};
        return add_number(out, &count, out->types.compute);
    }
    int dtype = parameter->type == GEMS_T_INT    ? GEMS_I64
                : parameter->type == GEMS_T_BOOL ? GEMS_BOOL
                                                 : out->types.compute;
    if (value->kind == GEMS_NONE) {
        out->absent_parameters |= (uint8_t)(1u << i);
        return add_number(out, &zero, dtype);
    }
    if (value->kind == GEMS_TENSOR) return gems_decline("a parameter that is no number");
    if (value->kind == GEMS_COMPLEX && !gems_dtype_is_complex(dtype))
        return gems_decline("a complex parameter of real numbers");
    if (parameter->type == GEMS_T_SCALAR && value->kind == GEMS_BOOLEAN &&
        out->types.common != GEMS_BOOL)
        return gems_decline("a bool parameter");
    if (dtype == out->types.compute && !in_range(value, out->types.common))
        return gems_decline("a parameter out of the dtype's range");
    bool real = parameter->type == GEMS_T_SCALAR || parameter->type == GEMS_T_FLOAT;
    if (real && row->op->mode & (GEMS_EW_NOT_NEGATIVE | GEMS_EW_POSITIVE)) {
        double number = gems_arg_double(call, parameter->arg);
        if (!(row->op->mode & GEMS_EW_POSITIVE ? number > 0 : number >= 0))
            return gems_decline("a parameter that ATen may not take");
    }
    return add_number(out, value, dtype);
}

/* The commonest call: tensors of one dtype with dimensions, on the call's device. What it gives is
 * what the general way below would. False: that way is to be gone. */
static bool take_alike(const gems_ew_row *row, const gems_call *call, gems_ew_arguments *out) {
    int dtype = GEMS_NO_DTYPE;
    for (int i = 0; i < row->inputs; i++) {
        const gems_value *value = &call->args[row->input[i].arg];
        const gems_tensor *t = &value->t;
        if (value->kind != GEMS_TENSOR || !t->ndim || t->device_type != call->device_type ||
            (i && t->dtype != dtype))
            return false;
        dtype = t->dtype;
        out->tensor[i] = t;
    }
    return dtype != GEMS_BOOL && dtype < GEMS_DTYPES && GEMS_BIT(dtype) & READABLE;
}

gems_status gems_ew_arguments_of(const gems_ew_row *row, gems_call *call, gems_ew_arguments *out) {
    out->numbers = out->absent = out->absent_parameters = 0;
    out->arguments = 0;
    int choice = choose(row, call), given = 0;
    if (choice < 0) return gems_decline("a word that this operator does not know");
    out->choice = (uint8_t)choice;
    if (row->plain && take_alike(row, call, out)) {
        GEMS_TRY(gems_ew_types_of(row, choice, out->tensor[0]->dtype, &out->types));
        for (int i = 0; i < row->parameters; i++) GEMS_TRY(take_parameter(row, call, out, i));
        return GEMS_OK;
    }
    GEMS_TRY(promote(row, call, choice, &out->types));
    bool dimensioned = false;
    for (int i = 0; i < row->inputs; i++) {
        const gems_value *value = &call->args[row->input[i].arg];
        dimensioned |= value->kind == GEMS_TENSOR && value->t.ndim;
    }
    for (int i = 0; i < row->inputs; i++) {
        const gems_value *value = &call->args[row->input[i].arg];
        out->tensor[i] = NULL;
        given += value->kind != GEMS_NONE;
        if (value->kind == GEMS_NONE)
            out->absent |= (uint8_t)(1u << i);
        else if (value->kind == GEMS_TENSOR)
            GEMS_TRY(take_tensor(row, call, out, i, dimensioned));
        else
            GEMS_TRY(add_input_number(row, out, i, value));
    }
    if (row->inputs > 1 && given < 2 && row->input[1].optional)
        return gems_decline("nothing but self was given");
    for (int i = 0; i < row->parameters; i++) GEMS_TRY(take_parameter(row, call, out, i));
    return GEMS_OK;
}
