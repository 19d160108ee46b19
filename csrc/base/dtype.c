#include "dtype.h"

#include <math.h>
#include <string.h>

/* One line a dtype: torch's number, size, torch's name, name in kernel text, kind. */
enum { INT = 1, FLOAT = 2, COMPLEX = 4, BOOLEAN = 8, NARROW = 16 /* computes in float32 */ };

static const struct fact {
    uint8_t size, kind;
    const char *name, *kernel;
} facts[GEMS_DTYPES] = {
    [GEMS_U8] = {1, INT, "uint8", "uint8_t"},
    [GEMS_I8] = {1, INT, "int8", "int8_t"},
    [GEMS_I16] = {2, INT, "int16", "int16_t"},
    [GEMS_I32] = {4, INT, "int32", "int32_t"},
    [GEMS_I64] = {8, INT, "int64", "int64_t"},
    [GEMS_U16] = {2, INT, "uint16", "uint16_t"},
    [GEMS_U32] = {4, INT, "uint32", "uint32_t"},
    [GEMS_U64] = {8, INT, "uint64", "uint64_t"},
    [GEMS_F16] = {2, FLOAT | NARROW, "float16", "gems::f16"},
    [GEMS_BF16] = {2, FLOAT | NARROW, "bfloat16", "gems::bf16"},
    [GEMS_F32] = {4, FLOAT, "float32", "float"},
    [GEMS_F64] = {8, FLOAT, "float64", "double"},
    [GEMS_F8E5M2] = {1, FLOAT | NARROW, "float8_e5m2", "gems::f8e5m2"},
    [GEMS_F8E4M3] = {1, FLOAT | NARROW, "float8_e4m3fn", "gems::f8e4m3"},
    [GEMS_F8E5M2FNUZ] = {1, FLOAT | NARROW, "float8_e5m2fnuz", NULL},
    [GEMS_F8E4M3FNUZ] = {1, FLOAT | NARROW, "float8_e4m3fnuz", NULL},
    [GEMS_C32] = {4, COMPLEX | NARROW, "complex32", NULL},
    [GEMS_C64] = {8, COMPLEX, "complex64", "gems::c64"},
    [GEMS_C128] = {16, COMPLEX, "complex128", "gems::c128"},
    [GEMS_BOOL] = {1, BOOLEAN, "bool", "bool"},
};

static const struct fact *fact(int dtype) {
    static const struct fact unknown;
    return dtype >= 0 && dtype < GEMS_DTYPES ? &facts[dtype] : &unknown;
}

size_t gems_dtype_size(int dtype) { return fact(dtype)->size; }
const char *gems_dtype_name(int dtype) { return fact(dtype)->name; }
const char *gems_dtype_kernel(int dtype) { return fact(dtype)->kernel; }
bool gems_dtype_is_float(int dtype) { return fact(dtype)->kind & FLOAT; }
bool gems_dtype_is_complex(int dtype) { return fact(dtype)->kind & COMPLEX; }
bool gems_dtype_is_int(int dtype) { return fact(dtype)->kind & INT; }

int gems_dtype_parse(const char *name) {
    for (int i = 0; i < GEMS_DTYPES; i++)
        if (facts[i].name && !strcmp(facts[i].name, name)) return i;
    return GEMS_NO_DTYPE;
}

int gems_dtype_opmath(int dtype) {
    if (!(fact(dtype)->kind & NARROW)) return dtype;
    return gems_dtype_is_complex(dtype) ? GEMS_C64 : GEMS_F32;
}

/* The complex dtype that holds a real floating one, and the reverse. */
static int complex_of(int dtype) {
    return dtype == GEMS_F64 || dtype == GEMS_C128  ? GEMS_C128
           : dtype == GEMS_F16 || dtype == GEMS_C32 ? GEMS_C32
                                                    : GEMS_C64;
}

int gems_dtype_real(int dtype) {
    return dtype == GEMS_C32    ? GEMS_F16
           : dtype == GEMS_C64  ? GEMS_F32
           : dtype == GEMS_C128 ? GEMS_F64
                                : dtype;
}

static bool is_fp8(int dtype) { return gems_dtype_is_float(dtype) && gems_dtype_size(dtype) == 1; }
static bool is_wide_unsigned(int dtype) {
    return dtype == GEMS_U16 || dtype == GEMS_U32 || dtype == GEMS_U64;
}

int gems_promote(int a, int b) {
    if (!gems_dtype_size(a) || !gems_dtype_size(b)) return GEMS_NO_DTYPE;
    if (a == b) return a;
    bool float_a = gems_dtype_is_float(a), float_b = gems_dtype_is_float(b);
    if (is_fp8(a) || is_fp8(b)) return GEMS_NO_DTYPE;
    if ((is_wide_unsigned(a) && !float_b) || (is_wide_unsigned(b) && !float_a))
        return GEMS_NO_DTYPE;
    if (a == GEMS_BOOL) return b;
    if (b == GEMS_BOOL) return a;
    bool same_size = gems_dtype_size(a) == gems_dtype_size(b);
    int larger = gems_dtype_size(a) > gems_dtype_size(b) ? a : b;
    if (gems_dtype_is_complex(a) || gems_dtype_is_complex(b)) {
        int wide_a = gems_dtype_is_int(a) ? GEMS_C32 : complex_of(a);
        int wide_b = gems_dtype_is_int(b) ? GEMS_C32 : complex_of(b);
        return gems_dtype_size(wide_a) >= gems_dtype_size(wide_b) ? wide_a : wide_b;
    }
    if (float_a && float_b) return same_size ? GEMS_F32 : larger; /* float16 with bfloat16 */
    if (float_a || float_b) return float_a ? a : b;
    if (a == GEMS_U8 || b == GEMS_U8)
        return same_size ? GEMS_I16 : larger; /* int16 and wider hold uint8 */
    return larger;
}

bool gems_can_cast(int from, int to) {
    if (!gems_dtype_size(from) || !gems_dtype_size(to)) return false;
    if (gems_dtype_is_complex(from) && !gems_dtype_is_complex(to)) return false;
    if (gems_dtype_is_float(from) && !gems_dtype_is_float(to) && !gems_dtype_is_complex(to))
        return false;
    return from == GEMS_BOOL || to != GEMS_BOOL;
}

static _Atomic int default_dtype = GEMS_F32;
int (*gems_default_dtype_source)(void);
int gems_default_dtype(void) {
    return gems_default_dtype_source ? gems_default_dtype_source() : default_dtype;
}
void gems_set_default_dtype(int dtype) { default_dtype = dtype; }

/* torch's rule for operands of a higher and a lower rank: only a higher category of the lower one
 * counts. */
static int combine(int higher, int lower) {
    if (higher == GEMS_NO_DTYPE || lower == GEMS_NO_DTYPE)
        return higher == GEMS_NO_DTYPE ? lower : higher;
    if (gems_dtype_is_complex(higher)) return higher;
    if (gems_dtype_is_float(higher))
        return gems_dtype_is_complex(lower) ? complex_of(higher) : higher;
    if (higher == GEMS_BOOL || gems_dtype_is_float(lower) || gems_dtype_is_complex(lower))
        return gems_promote(higher, lower);
    return higher;
}

static int number_dtype(const gems_value *value) {
    switch (value->kind) {
    case GEMS_BOOLEAN: return GEMS_BOOL;
    case GEMS_INT: return GEMS_I64;
    case GEMS_FLOAT: return gems_default_dtype();
    case GEMS_COMPLEX: return complex_of(gems_default_dtype());
    default: return GEMS_NO_DTYPE;
    }
}

int gems_result_type(const gems_value *const *values, int count) {
    int result[3] = {GEMS_NO_DTYPE, GEMS_NO_DTYPE, GEMS_NO_DTYPE}; /* dimensioned, 0-dim, numbers */
    for (int i = 0; i < count; i++) {
        const gems_value *value = values[i];
        int rank, dtype;
        if (value->kind == GEMS_TENSOR) {
            rank = value->t.ndim ? 0 : 1;
            dtype = value->t.dtype;
        } else {
            rank = 2;
            dtype = number_dtype(value);
            if (dtype == GEMS_NO_DTYPE) continue;
        }
        if (result[rank] == GEMS_NO_DTYPE)
            result[rank] = dtype;
        else if ((result[rank] = gems_promote(result[rank], dtype)) == GEMS_NO_DTYPE)
            return GEMS_NO_DTYPE;
    }
    return combine(result[0], combine(result[1], result[2]));
}

/* ---- numbers in and out of storage ---- */

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static float bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static uint16_t to_bf16(float value) {
    uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* Rounds to a small format of `exponent` and `mantissa` bits, to nearest even. Its callers pass a
 * float32 value, since torch's Scalars reach the small dtypes through one. finite: the format has
 * no infinity and one NaN (float8_e4m3fn). */
static uint16_t to_small(double value, int exponent, int mantissa, bool finite) {
    uint16_t sign = signbit(value) ? (uint16_t)(1u << (exponent + mantissa)) : 0;
    int bias = (1 << (exponent - 1)) - 1, top = (1 << exponent) - 1;
    uint16_t infinity = (uint16_t)(top << mantissa);
    uint16_t nan = finite ? (uint16_t)(infinity | ((1 << mantissa) - 1))
                          : (uint16_t)(infinity | 1 << (mantissa - 1));
    if (isnan(value)) return sign | nan;
    value = fabs(value);
    int power;
    if (isinf(value)) return sign | (finite ? nan - 1 : infinity);
    frexp(value, &power);
    power = power - 1 < 1 - bias ? 1 - bias : power - 1;
    double steps = nearbyint(ldexp(value, mantissa - power)); /* multiples of the last place */
    if (value == 0 || steps == 0) return sign;
    int64_t code = (int64_t)steps + ((int64_t)(power + bias - 1) << mantissa);
    int64_t limit = finite ? nan - 1 : infinity; /* the format without an infinity saturates */
    if (code > limit) code = limit;
    return sign | (uint16_t)code;
}

static double from_small(uint16_t bits, int exponent, int mantissa, bool finite) {
    int bias = (1 << (exponent - 1)) - 1, top = (1 << exponent) - 1;
    int fraction = bits & ((1 << mantissa) - 1), power = bits >> mantissa & top;
    double sign = bits >> (exponent + mantissa) & 1 ? -1 : 1;
    if (power == top && finite && fraction == (1 << mantissa) - 1) return sign * NAN;
    if (power == top && !finite) return fraction ? sign * NAN : sign * INFINITY;
    if (!power) return sign * ldexp(fraction, 1 - bias - mantissa);
    return sign * ldexp(fraction + (1 << mantissa), power - bias - mantissa);
}

/* A C cast of a double out of an integer's range is undefined; torch's casts wrap through int64. */
static int64_t wrap_to_int(double value) {
    if (!(value >= -9223372036854775808.0 && value < 9223372036854775808.0)) return INT64_MIN;
    return (int64_t)value;
}

bool gems_store_number(const gems_value *value, int dtype, void *bytes) {
    double real, imaginary = 0;
    int64_t integer;
    switch (value->kind) {
    case GEMS_BOOLEAN:
    case GEMS_INT: integer = value->i, real = (double)value->i; break;
    case GEMS_FLOAT: real = value->f, integer = wrap_to_int(real); break;
    case GEMS_COMPLEX:
        real = value->c[0], imaginary = value->c[1], integer = wrap_to_int(real);
        break;
    default: return false;
    }
    float single = value->kind == GEMS_INT ? (float)integer : (float)real;
    uint16_t small;
    switch (dtype) {
    case GEMS_BOOL: *(uint8_t *)bytes = real != 0 || imaginary != 0; return true;
    case GEMS_F64: memcpy(bytes, &real, 8); return true;
    case GEMS_F32: memcpy(bytes, &single, 4); return true;
    case GEMS_BF16: small = to_bf16(single), memcpy(bytes, &small, 2); return true;
    case GEMS_F16: small = to_small(single, 5, 10, false), memcpy(bytes, &small, 2); return true;
    case GEMS_F8E5M2: *(uint8_t *)bytes = (uint8_t)to_small(single, 5, 2, false); return true;
    case GEMS_F8E4M3: *(uint8_t *)bytes = (uint8_t)to_small(single, 4, 3, true); return true;
    case GEMS_C64: {
        float pair[2] = {single, (float)imaginary};
        memcpy(bytes, pair, 8);
        return true;
    }
    case GEMS_C128: {
        double pair[2] = {real, imaginary};
        memcpy(bytes, pair, 16);
        return true;
    }
    default:
        if (!gems_dtype_is_int(dtype)) return false;
        memcpy(bytes, &integer, gems_dtype_size(dtype)); /* little endian: the low bytes */
        return true;
    }
}

bool gems_load_number(const gems_tensor *tensor, gems_value *value) {
    const void *data = tensor->data;
    uint16_t small;
    float single;
    *value = (gems_value){.kind = GEMS_FLOAT};
    switch (tensor->dtype) {
    case GEMS_F64: memcpy(&value->f, data, 8); return true;
    case GEMS_F32: memcpy(&single, data, 4), value->f = single; return true;
    case GEMS_F16: memcpy(&small, data, 2), value->f = from_small(small, 5, 10, false); return true;
    case GEMS_BF16:
        memcpy(&small, data, 2), value->f = bits_float((uint32_t)small << 16);
        return true;
    case GEMS_F8E5M2: value->f = from_small(*(const uint8_t *)data, 5, 2, false); return true;
    case GEMS_F8E4M3: value->f = from_small(*(const uint8_t *)data, 4, 3, true); return true;
    default: break;
    }
    value->kind = tensor->dtype == GEMS_BOOL ? GEMS_BOOLEAN : GEMS_INT;
    switch (tensor->dtype) {
    case GEMS_BOOL: value->i = *(const uint8_t *)data != 0; return true;
    case GEMS_U8: value->i = *(const uint8_t *)data; return true;
    case GEMS_I8: value->i = *(const int8_t *)data; return true;
    case GEMS_I16: value->i = *(const int16_t *)data; return true;
    case GEMS_I32: value->i = *(const int32_t *)data; return true;
    case GEMS_I64: value->i = *(const int64_t *)data; return true;
    case GEMS_U16: value->i = *(const uint16_t *)data; return true;
    case GEMS_U32: value->i = *(const uint32_t *)data; return true;
    case GEMS_C64: {
        float pair[2];
        memcpy(pair, data, 8);
        *value = (gems_value){.kind = GEMS_COMPLEX, .c = {pair[0], pair[1]}};
        return true;
    }
    case GEMS_C128:
        value->kind = GEMS_COMPLEX;
        memcpy(value->c, data, 16);
        return true;
    default: return false;
    }
}
