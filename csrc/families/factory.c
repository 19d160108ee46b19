/* Factories: sequences, the identity, indices of triangles. What is computed, and in which dtype,
 * is ATen's: steps are found here, once, as ATen finds them for the device; the kernel multiplies
 * and adds. */
#include "../base/dtype.h"
#include "copy_views.h"
#include "modes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* gems_key.kernel */
enum { SEQUENCE_DENSE = 1, SEQUENCE_STRIDED, EYE_DENSE, EYE_STRIDED, TRIANGLE };

#define THREADS   256
#define DIMS      8
#define FLAG_WIDE 1 /* 64-bit index */

/* Twin of Sequence in kernels/factory.cu. An arange counts up from `start`; a linspace counts down
 * from `end` in its second half. */
typedef struct {
    double start, end, step, base;
    int64_t first, by; /* of an arange of integers */
    int64_t count, half;
} sequence;

typedef struct {
    int32_t ndim, n;
    gems_fastdiv div[DIMS];
    int32_t stride[DIMS][1];
} strided1;

/* ---- numbers ---- */

static double number_of(const gems_value *value) {
    return value->kind == GEMS_FLOAT ? value->f : (double)value->i;
}

static bool is_integer(const gems_value *value) {
    return value->kind == GEMS_INT || value->kind == GEMS_BOOLEAN;
}

/* An argument as a number; a 0-dim tensor of the CPU counts as one. */
static gems_status read_number(const gems_call *call, int arg, gems_value *value) {
    *value = call->args[arg];
    if (value->kind == GEMS_TENSOR) {
        const gems_tensor *t = gems_arg_tensor(call, arg);
        if (t->ndim || t->device_type != GEMS_CPU) return gems_decline("an end on a device");
        if (!gems_load_number(t, value)) return gems_decline("the dtype of an end");
    }
    return is_integer(value) || value->kind == GEMS_FLOAT ? GEMS_OK
                                                          : gems_decline("a number of this kind");
}

/* What of a number is left in a dtype. */
static double rounded(double number, int dtype) {
    uint8_t bits[16] = {0};
    gems_value value = {.kind = GEMS_FLOAT, .f = number};
    gems_tensor one = {.data = bits, .dtype = (uint8_t)dtype};
    gems_store_number(&value, dtype, bits);
    gems_load_number(&one, &value);
    return number_of(&value);
}

/* The number as ATen's Scalar gives it for a dtype; false where ATen refuses it. */
static bool scalar_to(const gems_value *value, int dtype, double *real, int64_t *integer) {
    if (!gems_number_fits(value, dtype)) return false;
    *real = number_of(value);
    if (gems_dtype_is_int(dtype)) {
        if (value->kind == GEMS_FLOAT && !isfinite(value->f)) return false;
        *integer = value->kind == GEMS_FLOAT ? (int64_t)value->f : value->i;
        *real = (double)*integer;
    } else {
        *real = rounded(*real, dtype);
        *integer = 0;
    }
    return true;
}

/* ---- arange and range ---- */

/* How many elements an arange of integers has; false on overflow. */
static bool count_of_integers(int64_t start, int64_t end, int64_t step, int64_t *count) {
    int64_t length;
    return !__builtin_sub_overflow(end, start, &length) &&
           !__builtin_add_overflow(length, step, &length) &&
           !__builtin_sub_overflow(length, (step > 0) - (step < 0), &length) &&
           (*count = length / step) >= 0;
}

static gems_status arange_of(int dtype, bool inclusive, const gems_value number[3],
                             const gems_device_info *info, sequence *s) {
    double start = number_of(&number[0]), end = number_of(&number[1]), step = number_of(&number[2]);
    if (inclusive && dtype == GEMS_BF16 && info->arch)
        return gems_decline("a range of bfloat16, which ATen has on a CPU only");
    /* ints are read as int64, floats of a CPU as double, all others as float */
    bool integer = gems_dtype_is_int(dtype);
    int wide = integer                                                   ? GEMS_I64
               : dtype == GEMS_F64 || (dtype == GEMS_F32 && !info->arch) ? GEMS_F64
                                                                         : GEMS_F32;
    int64_t whole[3] = {0};
    double real[3];
    for (int i = 0; i < 3; i++)
        if (!isfinite(number_of(&number[i])) || !scalar_to(&number[i], wide, &real[i], &whole[i]))
            return gems_decline("a bound or step that the dtype does not hold");
    bool up = integer ? whole[2] > 0 : real[2] > 0, down = integer ? whole[2] < 0 : real[2] < 0;
    bool fits = integer ? (up ? whole[1] >= whole[0] : whole[1] <= whole[0])
                        : (up ? real[1] >= real[0] : real[1] <= real[0]);
    if ((!up && !down) || !fits) return gems_decline("a step of 0 or away from the end");
    double count = ceil((end - start) / step);
    int64_t length;
    if (inclusive) {
        if (__builtin_sub_overflow(whole[1], whole[0], &length))
            return gems_decline("a length beyond 64 bits");
        count =
            dtype == GEMS_I64 ? (double)length / (double)whole[2] + 1 : (end - start) / step + 1;
    }
    if (dtype == GEMS_I64 && !inclusive) {
        if (!count_of_integers(whole[0], whole[1], whole[2], &s->count))
            return gems_decline("more elements than 64 bits count");
    } else {
        if (!(count >= 0 && count < 9.2e18)) return gems_decline("the number of elements");
        s->count = (int64_t)count;
    }
    s->start = real[0];
    s->step = real[2];
    s->first = whole[0];
    s->by = whole[2];
    return GEMS_OK;
}

/* ---- linspace and logspace ---- */

static gems_status spaced_of(int dtype, bool powers, const gems_value number[2], double base,
                             const gems_device_info *info, sequence *s) {
    int64_t whole[2];
    double real[2], gaps = (double)(s->count - 1);
    for (int i = 0; i < 2; i++)
        if (!scalar_to(&number[i], dtype, &real[i], &whole[i]))
            return gems_decline("an end that the dtype does not hold");
    bool integer = gems_dtype_is_int(dtype), gpu = info->arch != 0;
    s->start = real[0];
    s->end = real[1];
    s->half = s->count / 2;
    s->base = base;
    if (s->count == 1) { /* one element is the start, whatever the end */
        if (powers) s->base = pow(base, number_of(&number[0])), s->step = 0, s->start = 1;
        s->end = s->start;
        s->step = 0;
        return GEMS_OK;
    }
    if (integer) {
        double distance = real[1] - real[0];
        if (powers && dtype == GEMS_I64) distance = (double)(whole[1] - whole[0]);
        if (gpu) distance = powers ? (float)distance : (float)real[1] - (float)real[0];
        s->step = gpu ? (float)distance / (float)(s->count - 1) : distance / gaps;
        return GEMS_OK;
    }
    double distance = rounded(real[1] - real[0], dtype);
    if (powers && !gpu)
        s->step = distance / gaps;
    else
        s->step = dtype == GEMS_F64 ? distance / gaps
                                    : rounded((float)distance / (float)rounded(gaps, dtype), dtype);
    if (powers && gpu) s->base = rounded(base, dtype);
    return GEMS_OK;
}

/* ---- launches ---- */

/* Dims innermost first in the order of indexing, not of memory; false when there are too many. */
static bool map_of(const gems_tensor *out, strided1 *map) {
    int64_t expected = 0;
    map->ndim = 0;
    map->n = (int32_t)out->numel;
    for (int d = out->ndim - 1; d >= 0; d--) {
        if (out->sizes[d] == 1) continue;
        int last = map->ndim - 1;
        if (last >= 0 && out->strides[d] == expected) {
            map->div[last] = gems_fastdiv_make(map->div[last].d * (uint32_t)out->sizes[d]);
        } else {
            if (map->ndim == DIMS) return false;
            last = map->ndim++;
            map->div[last] = gems_fastdiv_make((uint32_t)out->sizes[d]);
            map->stride[last][0] = (int32_t)out->strides[d];
        }
        expected = out->strides[d] * out->sizes[d];
        if (map->stride[last][0] * (int64_t)map->div[last].d != expected) return false;
    }
    if (!map->ndim) {
        map->ndim = 1;
        map->div[0] = gems_fastdiv_make(1);
        map->stride[0][0] = 1;
    }
    return true;
}

static gems_status launch(gems_call *call, const gems_key *key, int64_t items, int64_t per_block,
                          void **args) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_plan *plan;
    gems_key copy = *key;
    GEMS_TRY(gems_call_plan(call, &copy, &plan));
    const uint32_t grid[3] = {gems_grid_for(info, items, per_block), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

/* Elements of one store. */
static int vector_of(const gems_device_info *info, const gems_tensor *out) {
    int size = (int)gems_dtype_size(out->dtype);
    return info->fast || (uintptr_t)out->data % 16 ? 1 : 16 / size;
}

static bool is_wide(const gems_tensor *out) {
    return !gems_fits_int32(gems_max_offset(out->sizes, out->strides, out->ndim) + (1 << 24)) ||
           out->numel > INT32_MAX - (1 << 24);
}

static gems_status fill_sequence(gems_call *call, sequence *s) {
    const gems_tensor *out = &call->out[0];
    const gems_device_info *info = gems_device_information(call->device);
    if (!out->numel) return GEMS_OK;
    bool dense = gems_is_contiguous(out), wide = is_wide(out);
    gems_key key = {.kernel = dense ? SEQUENCE_DENSE : SEQUENCE_STRIDED,
                    .flags = wide ? FLAG_WIDE : 0};
    strided1 map;
    key.dtype[0] = out->dtype;
    key.tune[0] = (uint8_t)(dense ? vector_of(info, out) : 1);
    if (!dense && (wide || !map_of(out, &map))) return gems_decline("an output of these strides");
    void *data = out->data;
    int64_t n = out->numel, items = info->fast ? 16384 : (int64_t)THREADS * key.tune[0] * 2;
    int32_t n32 = (int32_t)n;
    void *args[] = {&data, wide ? (void *)&n : (void *)&n32, s, &map};
    return launch(call, &key, n, items, args);
}

/* ---- arguments ---- */

/* The out tensor of an out= call, else NULL. */
static const gems_tensor *out_of(const gems_call *call) {
    const gems_entry *entry = call->entry;
    return entry->variant == GEMS_OUT ? gems_arg_tensor(call, entry->out_arg) : NULL;
}

/* The result's dtype; `inferred` where none is asked for. */
static gems_status dtype_of(const gems_call *call, int options, int inferred, int *dtype) {
    const gems_tensor *out = out_of(call);
    *dtype = inferred;
    if (out) {
        *dtype = out->dtype;
    } else {
        if (!gems_arg_none(call, options)) *dtype = (int)gems_arg_int(call, options);
        if (!gems_plain_options(call, options + 1))
            return gems_decline("another layout or device, or pinned memory");
    }
    if (*dtype >= GEMS_DTYPES || !(GEMS_BIT(*dtype) & call->op->dtypes))
        return gems_decline("the dtype");
    return GEMS_OK;
}

/* An output of n elements: one of another shape is filled as it is when it has as many. */
static gems_status output_of(gems_call *call, int64_t n, int dtype) {
    const gems_tensor *out = out_of(call);
    if (out && out->numel == n) return gems_output(call, 0, out->ndim, out->sizes, NULL, dtype);
    return gems_output(call, 0, 1, &n, NULL, dtype);
}

static gems_status run_arange(gems_call *call) {
    int mode = call->op->mode;
    bool inclusive = mode == GEMS_RANGE || mode == GEMS_RANGE_STEP;
    int given = mode == GEMS_ARANGE                                   ? 1
                : mode == GEMS_ARANGE_STEP || mode == GEMS_RANGE_STEP ? 3
                                                                      : 2;
    gems_value number[3] = {
        {.kind = GEMS_INT, .i = 0}, {.kind = GEMS_INT}, {.kind = GEMS_INT, .i = 1}};
    bool whole = !inclusive;
    int dtype;
    sequence s = {0};
    for (int i = 0; i < given; i++) {
        gems_value *value = &number[given == 1 ? 1 : i];
        GEMS_TRY(read_number(call, i, value));
        whole = whole && is_integer(value);
    }
    GEMS_TRY(dtype_of(call, given, whole ? GEMS_I64 : gems_default_dtype(), &dtype));
    GEMS_TRY(arange_of(dtype, inclusive, number, gems_device_information(call->device), &s));
    GEMS_TRY(output_of(call, s.count, dtype));
    return fill_sequence(call, &s);
}

static gems_status run_spaced(gems_call *call) {
    bool powers = call->op->mode == GEMS_LOGSPACE;
    gems_value number[2];
    int dtype, options = powers ? 4 : 3;
    sequence s = {.count = gems_arg_int(call, 2)};
    for (int i = 0; i < 2; i++) GEMS_TRY(read_number(call, i, &number[i]));
    if (s.count < 0) return gems_decline("a negative number of steps");
    GEMS_TRY(dtype_of(call, options, gems_default_dtype(), &dtype));
    double base = powers ? gems_arg_double(call, 3) : 0;
    GEMS_TRY(spaced_of(dtype, powers, number, base, gems_device_information(call->device), &s));
    GEMS_TRY(output_of(call, s.count, dtype));
    return fill_sequence(call, &s);
}

static gems_status run_eye(gems_call *call) {
    bool square = call->op->mode == GEMS_EYE;
    int64_t rows = gems_arg_int(call, 0), columns = square ? rows : gems_arg_int(call, 1), sizes[2];
    int dtype;
    if (rows < 0 || columns < 0) return gems_decline("a negative size");
    GEMS_TRY(dtype_of(call, square ? 1 : 2, gems_default_dtype(), &dtype));
    sizes[0] = rows;
    sizes[1] = columns;
    GEMS_TRY(gems_output(call, 0, 2, sizes, NULL, dtype));
    const gems_tensor *out = &call->out[0];
    const gems_device_info *info = gems_device_information(call->device);
    if (!out->numel) return GEMS_OK;
    bool dense = gems_is_contiguous(out), wide = is_wide(out);
    gems_key key = {.kernel = dense ? EYE_DENSE : EYE_STRIDED, .flags = wide ? FLAG_WIDE : 0};
    key.dtype[0] = out->dtype;
    key.tune[0] = (uint8_t)(dense ? vector_of(info, out) : 1);
    if (columns >= INT32_MAX || rows >= INT32_MAX) return gems_decline("a side beyond 32 bits");
    gems_fastdiv by = gems_fastdiv_make((uint32_t)columns + (uint32_t)dense);
    int32_t rows32 = (int32_t)rows, columns32 = (int32_t)columns;
    int64_t along = out->strides[0], across = out->strides[1];
    void *data = out->data;
    void *args[] = {&data,
                    wide ? (void *)&rows : (void *)&rows32,
                    wide ? (void *)&columns : (void *)&columns32,
                    &by,
                    &along,
                    &across};
    return launch(call, &key, out->numel, info->fast ? 65536 : (int64_t)THREADS * key.tune[0] * 2,
                  args);
}

/* Elements on and below the diagonal `offset` of a matrix. */
static int64_t triangle(int64_t rows, int64_t columns, int64_t offset) {
    int64_t total = 0, first = offset + 1; /* of the lower triangle */
    if (first <= 0) {                      /* rows above it are empty */
        rows += first - 1;
        first = 1;
    }
    if (rows <= 0 || columns <= 0) return 0;
    int64_t growing = first < columns ? columns - first : 0;
    if (growing > rows) growing = rows;
    total = growing * first + growing * (growing - 1) / 2;
    return total + (rows - growing) * columns;
}

static gems_status run_indices(gems_call *call) {
    bool lower = call->op->mode == GEMS_TRIL_INDICES;
    int64_t rows = gems_arg_int(call, 0), columns = gems_arg_int(call, 1);
    int64_t offset = gems_arg_int(call, 2), sizes[2] = {2, 0};
    int dtype;
    if (rows < 0 || columns < 0) return gems_decline("a negative size");
    if (rows >= INT32_MAX || columns >= INT32_MAX || offset <= -INT32_MAX || offset >= INT32_MAX)
        return gems_decline("a side beyond 32 bits");
    GEMS_TRY(dtype_of(call, 3, GEMS_I64, &dtype));
    sizes[1] = triangle(rows, columns, lower ? offset : offset - 1);
    if (!lower) sizes[1] = rows * columns - sizes[1];
    GEMS_TRY(gems_output(call, 0, 2, sizes, NULL, dtype));
    const gems_tensor *out = &call->out[0];
    const gems_device_info *info = gems_device_information(call->device);
    if (!gems_is_contiguous(out)) return gems_decline("an output of these strides");
    if (!out->numel) return GEMS_OK;
    gems_key key = {.kernel = TRIANGLE};
    key.dtype[0] = out->dtype;
    key.tune[0] = 1;
    void *data = out->data;
    void *args[] = {&data, &rows, &columns, &offset, &sizes[1]};
    return launch(call, &key, info->fast ? rows : sizes[1], info->fast ? 64 : THREADS, args);
}

static gems_status run(gems_call *call) {
    switch (call->op->mode) {
    case GEMS_LINSPACE:
    case GEMS_LOGSPACE: return run_spaced(call);
    case GEMS_EYE:
    case GEMS_EYE_M: return run_eye(call);
    case GEMS_TRIL_INDICES:
    case GEMS_TRIU_INDICES: return run_indices(call);
    default: return run_arange(call);
    }
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    static const char *const entries[] = {"sequence_dense", "sequence_strided", "eye_dense",
                                          "eye_strided", "triangle"};
    if (key->kernel < SEQUENCE_DENSE || key->kernel > TRIANGLE)
        return gems_fail(GEMS_RUNTIME_ERROR, "not a key of the factory family");
    const char *entry = entries[key->kernel - SEQUENCE_DENSE];
    gems_text_add(&program->head, "typedef %s T;\n", gems_dtype_kernel(key->dtype[0]));
    gems_text_add(&program->head, "typedef %s Index;\n",
                  key->flags & FLAG_WIDE ? "int64_t" : "int32_t");
    gems_text_add(&program->head, "#define FACTORY_KERNEL %d\n", key->kernel);
    int how = op->mode == GEMS_LINSPACE       ? 1
              : op->mode == GEMS_LOGSPACE     ? 2
              : op->mode == GEMS_TRIU_INDICES ? 3
                                              : 0;
    gems_text_add(&program->head, "constexpr int kHow = %d, kV = %d;\n", how, key->tune[0]);
    snprintf(program->name, sizeof program->name, "%.*s %s %s", (int)strcspn(op->schema, "("),
             op->schema, entry, gems_dtype_name(key->dtype[0]));
    program->files[0] = "factory.cu";
    program->entries[0] = entry;
    program->entry_count = 1;
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    if (i || !(GEMS_BIT(dtype) & op->dtypes)) return false;
    bool eye = op->mode == GEMS_EYE || op->mode == GEMS_EYE_M, plain = op->mode < GEMS_EYE;
    key->dtype[0] = (uint8_t)dtype;
    key->kernel = plain ? SEQUENCE_DENSE : eye ? EYE_DENSE : TRIANGLE;
    key->tune[0] = (uint8_t)(info->fast || !(plain || eye) ? 1 : 16 / gems_dtype_size(dtype));
    return true;
}

const gems_family gems_family_factory = {
    .name = "factory",
    .run = run,
    .program = program,
    .warm = warm,
    .strided_output = true,
};
