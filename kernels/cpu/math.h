// Math for kernels on a CPU. The float forms of exp, exp2, expm1, log, log2, log10, log1p, tanh, erf, sigmoid and pow have no
// branch and no call, so that loops over them vectorise; sin, cos, tan and fmod have such forms for arguments of common size
// (near_angle, near_ratio); cpu/angles.h has more. They are within 2 ulp, sigmoid within 2.5, tan_near within 3 (tests/test_cpu_math.py). The rest is the C library's,
// through builtins. Polynomials: near-minimax fits of the functions named beside them.
namespace gems {

GEMS_INLINE float gems_as_float(uint32_t v) { float r; memcpy(&r, &v, 4); return r; }
GEMS_INLINE uint32_t gems_as_bits(float v) { uint32_t r; memcpy(&r, &v, 4); return r; }

// All bits where the sign is set. A choice by it stays a choice, where compilers make one by ?: into two computations.
GEMS_INLINE uint32_t gems_sign(float v) { return (uint32_t)((int32_t)gems_as_bits(v) >> 31); }

// The smaller of an a above 0 and a limit, by bits: of a choice compilers make two computations. NaN becomes the limit.
GEMS_INLINE float gems_at_most(float a, float limit) {
    uint32_t u = gems_as_bits(a), v = gems_as_bits(limit);
    return gems_as_float(u < v ? u : v);
}

#define GEMS_BOTH(name)                                                        \
    GEMS_INLINE float name(float x) { return __builtin_##name##f(x); }         \
    GEMS_INLINE double name(double x) { return __builtin_##name(x); }
#define GEMS_BOTH2(name)                                                               \
    GEMS_INLINE float name(float x, float y) { return __builtin_##name##f(x, y); }     \
    GEMS_INLINE double name(double x, double y) { return __builtin_##name(x, y); }
GEMS_BOTH(sqrt)
GEMS_BOTH(floor) GEMS_BOTH(ceil) GEMS_BOTH(trunc) GEMS_BOTH(nearbyint) GEMS_BOTH2(fmod)
GEMS_BOTH2(copysign)
GEMS_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
GEMS_INLINE double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
GEMS_INLINE float abs(float x) { return __builtin_fabsf(x); }
GEMS_INLINE double abs(double x) { return __builtin_fabs(x); }
template <class T> GEMS_INLINE T abs(T x) { return x < 0 ? (T)(0 - (uint64_t)x) : x; } // integers
GEMS_INLINE bool abs(bool x) { return x; }
template <class T> GEMS_INLINE bool isnan(T x) { return x != x; }
template <class T> GEMS_INLINE bool isfinite(T x) { return x - x == 0; }
template <class T> GEMS_INLINE bool isinf(T x) { return x == x && x - x != 0; }
GEMS_INLINE bool signbit(float x) { return (gems_as_bits(x) >> 31) != 0; }
GEMS_INLINE bool signbit(double x) { return __builtin_signbit(x) != 0; }
template <class T> GEMS_INLINE T fmax(T a, T b) { return a > b || b != b ? a : b; }
template <class T> GEMS_INLINE T fmin(T a, T b) { return a < b || b != b ? a : b; }
// NaN wins, as in kernels/gems.cuh, where || would be a branch.
GEMS_INLINE float max_nan(float a, float b) { return (a > b) | (a != a) ? a : b; }
GEMS_INLINE float min_nan(float a, float b) { return (a < b) | (a != a) ? a : b; }
GEMS_INLINE double max_nan(double a, double b) { return (a > b) | (a != a) ? a : b; }
GEMS_INLINE double min_nan(double a, double b) { return (a < b) | (a != a) ? a : b; }
GEMS_INLINE float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
GEMS_INLINE double rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }

GEMS_INLINE double lgamma(double x) { return __builtin_lgamma(x); }
GEMS_INLINE double exp(double x) { return __builtin_exp(x); }
GEMS_INLINE double exp2(double x) { return __builtin_exp2(x); }
GEMS_INLINE double expm1(double x) { return __builtin_expm1(x); }
GEMS_INLINE double log(double x) { return __builtin_log(x); }
GEMS_INLINE double log2(double x) { return __builtin_log2(x); }
GEMS_INLINE double log10(double x) { return __builtin_log10(x); }
GEMS_INLINE double log1p(double x) { return __builtin_log1p(x); }
GEMS_INLINE double pow(double x, double y) { return __builtin_pow(x, y); }
GEMS_INLINE double sin(double x) { return __builtin_sin(x); }
GEMS_INLINE double cos(double x) { return __builtin_cos(x); }
GEMS_INLINE double tan(double x) { return __builtin_tan(x); }
GEMS_INLINE double tanh(double x) { return __builtin_tanh(x); }
GEMS_INLINE double erf(double x) { return __builtin_erf(x); }
GEMS_INLINE double erfc(double x) { return __builtin_erfc(x); }
GEMS_INLINE double asin(double x) { return __builtin_asin(x); }
GEMS_INLINE double acos(double x) { return __builtin_acos(x); }
GEMS_INLINE double atan(double x) { return __builtin_atan(x); }
GEMS_INLINE double sinh(double x) { return __builtin_sinh(x); }
GEMS_INLINE double cosh(double x) { return __builtin_cosh(x); }
GEMS_INLINE double asinh(double x) { return __builtin_asinh(x); }
GEMS_INLINE double acosh(double x) { return __builtin_acosh(x); }
GEMS_INLINE double atanh(double x) { return __builtin_atanh(x); }
GEMS_INLINE double atan2(double x, double y) { return __builtin_atan2(x, y); }
GEMS_INLINE double hypot(double x, double y) { return __builtin_hypot(x, y); }
GEMS_INLINE double sigmoid(double x) { return 1.0 / (1.0 + __builtin_exp(-x)); }

constexpr float gems_infinity = __builtin_inff();
// 2^23 + 2^22 + a bias: added to a float, it leaves the nearest integer and the bias in the low bits, and shifted by 23
// these are the bits of the bias' power of two times 2^integer.
constexpr float gems_whole = 12582912.0f;

// e^r on [-0.35, 0.35]; the same less 1.
GEMS_INLINE float gems_exp_tail(float r) { // (e^r - 1 - r) / r^2
    float p = 1.394221443e-03f;
    p = fma(p, r, 8.368848823e-03f);
    p = fma(p, r, 4.166638479e-02f);
    p = fma(p, r, 1.666651964e-01f);
    return fma(p, r, 0.5f);
}
GEMS_INLINE float gems_exp_near(float r) { return fma(fma(gems_exp_tail(r), r, 1.0f), r, 1.0f); }
GEMS_INLINE float gems_expm1_near(float r) { return fma(gems_exp_tail(r), r * r, r); }
GEMS_INLINE float gems_exp_rest(float x, float n) { return fma(n, 2.12194440e-4f, fma(n, -0.693359375f, x)); }

// Powers are scaled in two steps, by 2^(n -+ 64) and by 2^+-64, so that subnormal results are rounded once. Both
// come from the sign's bit.
GEMS_INLINE float gems_bias(float x) { return gems_as_float(0x4b40003fu + (gems_as_bits(x) >> 24 & 128u)); }
GEMS_INLINE float gems_unbias(float x) { return gems_as_float(0x5f800000u ^ (gems_as_bits(x) >> 1 & 0x40000000u)); }
GEMS_INLINE float exp(float x) {
    float bias = gems_bias(x), n = fma(x, 1.44269504f, bias), scale = gems_as_float(gems_as_bits(n) << 23);
    float r = gems_exp_near(gems_exp_rest(x, n - bias)) * scale * gems_unbias(x);
    r = x > 89.0f ? gems_infinity : r;
    return x < -104.0f ? 0.0f : r;
}
// e^-a of an a that is not below 0.
GEMS_INLINE float exp_minus(float a) {
    float bias = gems_whole + 191.0f, n = fma(a, -1.44269504f, bias), scale = gems_as_float(gems_as_bits(n) << 23);
    float r = gems_exp_near(gems_exp_rest(-a, n - bias)) * scale * 5.42101086e-20f;
    return gems_as_float(gems_as_bits(r) & ~gems_sign(104.0f - a)); // 0 beyond
}
GEMS_INLINE float exp2(float x) {
    float bias = gems_bias(x), n = x + bias, r = x - (n - bias), scale = gems_as_float(gems_as_bits(n) << 23);
    float p = 1.546166459e-04f; // (2^r - 1) / r
    p = fma(p, r, 1.339117531e-03f);
    p = fma(p, r, 9.618065320e-03f);
    p = fma(p, r, 5.550359190e-02f);
    p = fma(p, r, 2.402265072e-01f);
    p = fma(p, r, 6.931471825e-01f);
    p = fma(p, r, 1.0f) * scale * gems_unbias(x);
    p = x >= 128.0f ? gems_infinity : p;
    return x < -150.0f ? 0.0f : p;
}
GEMS_INLINE float expm1(float x) {
    float c = x < -20.0f ? -20.0f : x, n = fma(c, 1.44269504f, gems_whole + 127.0f);
    uint32_t top = gems_as_bits(n) > 0x4b4000feu ? 1u : 0u; // 2^128
    float scale = gems_as_float((gems_as_bits(n) - top) << 23);
    float p = gems_expm1_near(gems_exp_rest(c, n - (gems_whole + 127.0f)));
    p = fma(scale, p, scale - 1.0f) * (top ? 2.0f : 1.0f);
    return copysign(x > 89.0f ? gems_infinity : p, x);
}

// log(1 + f) - f on [sqrt(1/2) - 1, sqrt(2) - 1].
GEMS_INLINE float gems_log_tail(float f) {
    float z = f * f, p = -7.634429906e-02f; // (log(1 + f) - f + f^2 / 2) / f^3
    p = fma(p, f, 1.276155036e-01f);
    p = fma(p, f, -1.316019505e-01f);
    p = fma(p, f, 1.420176247e-01f);
    p = fma(p, f, -1.662335648e-01f);
    p = fma(p, f, 2.000122667e-01f);
    p = fma(p, f, -2.500082106e-01f);
    p = fma(p, f, 3.333333171e-01f);
    return fma(p, f, -0.5f) * z;
}
struct gems_parts { float e, f; }; // 2^e * (1 + f), f in [sqrt(1/2) - 1, sqrt(2) - 1]
GEMS_INLINE gems_parts gems_split(float x) {
    bool small = x < 1.17549435e-38f;
    uint32_t u = gems_as_bits(small ? x * 8388608.0f : x) - 0x3f3504f3u; // sqrt(1/2)
    return {(float)((int32_t)u >> 23) - (small ? 23.0f : 0.0f), gems_as_float((u & 0x7fffffu) + 0x3f3504f3u) - 1.0f};
}
// Of a normal number above 0, and what the _near forms below take.
GEMS_INLINE bool near_normal(float x) { return gems_as_bits(x) - 0x00800000u < 0x7f000000u; }
GEMS_INLINE gems_parts gems_split_near(float x) {
    uint32_t u = gems_as_bits(x) - 0x3f3504f3u;
    return {(float)((int32_t)u >> 23), gems_as_float((u & 0x7fffffu) + 0x3f3504f3u) - 1.0f};
}
// The logarithm's value r of x, or what it is at 0, infinity, below 0 and of NaN.
GEMS_INLINE float gems_log_of(float x, float r) {
    r = x < gems_infinity ? r : x; // NaN too
    r = x == 0.0f ? -gems_infinity : r;
    return x < 0.0f ? __builtin_nanf("") : r;
}
GEMS_INLINE float gems_log_parts(gems_parts v) {
    float y = fma(v.e, -2.12194440e-4f, gems_log_tail(v.f)) + v.f;
    return fma(v.e, 0.693359375f, y);
}
GEMS_INLINE float gems_log2_parts(gems_parts v) {
    float low = fma(gems_log_tail(v.f), 1.44269502f, v.f * 1.92596303e-08f);
    return v.e + fma(v.f, 1.44269502f, low);
}
GEMS_INLINE float gems_log10_parts(gems_parts v) {
    float low = fma(gems_log_tail(v.f), 0.434294492f, fma(v.f, -1.01007183e-08f, v.e * 2.48745664e-04f));
    return fma(v.e, 0.30078125f, fma(v.f, 0.434294492f, low));
}
GEMS_INLINE float log(float x) { return gems_log_of(x, gems_log_parts(gems_split(x))); }
GEMS_INLINE float log2(float x) { return gems_log_of(x, gems_log2_parts(gems_split(x))); }
GEMS_INLINE float log10(float x) { return gems_log_of(x, gems_log10_parts(gems_split(x))); }
GEMS_INLINE float log_near(float x) { return gems_log_parts(gems_split_near(x)); }
GEMS_INLINE float log2_near(float x) { return gems_log2_parts(gems_split_near(x)); }
GEMS_INLINE float log10_near(float x) { return gems_log10_parts(gems_split_near(x)); }
// x + 1 = 2^e * (1 + f): f comes from x itself, so that nothing of a small x is lost.
GEMS_INLINE float log1p(float x) {
    bool big = x > 1.15292150e+18f;
    float s = big ? x * 5.42101086e-20f : x, u = big ? s : s + 1.0f;
    int32_t e = (int32_t)(gems_as_bits(u) - 0x3f3504f3u) >> 23;
    float down = gems_as_float((uint32_t)(127 - e) << 23), f = fma(s, down, big ? -1.0f : down - 1.0f);
    float n = (float)e + (big ? 64.0f : 0.0f);
    float y = fma(n, -2.12194440e-4f, gems_log_tail(f)) + f;
    float r = fma(n, 0.693359375f, y);
    r = x < gems_infinity ? copysign(r, x) : x;
    r = x == -1.0f ? -gems_infinity : r;
    return x < -1.0f ? __builtin_nanf("") : r;
}

GEMS_INLINE float sigmoid(float x) {
    float e = exp_minus(abs(x));
    uint32_t low = gems_sign(x);
    return gems_as_float((gems_as_bits(e) & low) | (0x3f800000u & ~low)) / (1.0f + e);
}

GEMS_INLINE float erf(float x) {
    float a = abs(x), z = x * x;
    float p = 7.920368080e-05f; // erf(x) / x - 1
    p = fma(p, z, -8.030761383e-04f);
    p = fma(p, z, 5.190733820e-03f);
    p = fma(p, z, -2.685512602e-02f);
    p = fma(p, z, 1.128361821e-01f);
    p = fma(p, z, -3.761262894e-01f);
    p = fma(p, z, 1.283791661e-01f);
    float u = fma(a, 6.84931507e-01f, -1.68493151f), q = 2.207025973e-04f; // erf(2.46 + 1.46 u)
    q = fma(q, u, 2.470817526e-05f);
    q = fma(q, u, -1.634067390e-03f);
    q = fma(q, u, 1.547446474e-03f);
    q = fma(q, u, 3.351529827e-03f);
    q = fma(q, u, -8.978008293e-03f);
    q = fma(q, u, 7.334457245e-03f);
    q = fma(q, u, 6.460660137e-03f);
    q = fma(q, u, -2.844115160e-02f);
    q = fma(q, u, 4.511834681e-02f);
    q = fma(q, u, -4.504894465e-02f);
    q = fma(q, u, 3.059825487e-02f);
    q = fma(q, u, -1.392878313e-02f);
    q = fma(q, u, 3.878188552e-03f);
    q = fma(q, u, 9.994966388e-01f);
    q = a >= 3.92f ? 1.0f : q;
    return a < 1.0f ? fma(p, x, x) : copysign(q, x);
}
// 1 / d of a common d above 0, within 2 ulp: a guess from the bits and two cubic steps cost less than a division.
GEMS_INLINE float gems_reciprocal(float d) {
    float r = gems_as_float(0x7ef311c7u - gems_as_bits(d)), e = fma(-d, r, 1.0f);
    r = fma(r, fma(e, e, e), r), e = fma(-d, r, 1.0f);
    return fma(r, fma(e, e, e), r);
}

// 1 - 2 / (e^(2a) + 1) from 0.55 on, where the result is above a half and the quotient's error counts half.
GEMS_INLINE float tanh(float x) {
    float a = abs(x), c = a > 10.0f ? 10.0f : a;
    float n = fma(c, 2.88539008f, gems_whole + 127.0f), f = fma(c, 2.88539008f, (gems_whole + 127.0f) - n);
    float p = 1.547589819e-04f; // (2^f - 1) / f
    p = fma(p, f, 1.340028311e-03f);
    p = fma(p, f, 9.618005410e-03f);
    p = fma(p, f, 5.550327743e-02f);
    p = fma(p, f, 2.402265133e-01f);
    p = fma(p, f, 6.931472063e-01f);
    float scale = gems_as_float(gems_as_bits(n) << 23), q = fma(-2.0f, 1.0f / fma(fma(p, f, 1.0f), scale, 1.0f), 1.0f);
    float z = x * x, near = 1.644254206e-02f; // (tanh(x) / x - 1) / x^2 up to 0.55
    near = fma(near, z, -5.267591705e-02f);
    near = fma(near, z, 1.332081870e-01f);
    near = fma(near, z, -3.333295241e-01f);
    return copysign(a < 0.55f ? fma(near * z, x, x) : q, x); // -0 too
}

// Powers are made in double: 2^(y log2 |x|).
GEMS_INLINE double gems_double(uint64_t v) { double r; memcpy(&r, &v, 8); return r; }
GEMS_INLINE uint64_t gems_bits(double v) { uint64_t r; memcpy(&r, &v, 8); return r; }
GEMS_INLINE double gems_fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
GEMS_INLINE float pow(float x, float y) {
    float a = abs(x);
    uint64_t u = gems_bits((double)a) - 0x3fe6a09e667f3bcdull; // sqrt(1/2)
    double e = (double)((int64_t)u >> 52), f = gems_double((u & 0xfffffffffffffull) + 0x3fe6a09e667f3bcdull) - 1.0;
    double p = -0.088757844125400456; // log2(1 + f) / f
    p = gems_fma(p, f, 0.15646609428758615);
    p = gems_fma(p, f, -0.15664078522975355);
    p = gems_fma(p, f, 0.15863778480570195);
    p = gems_fma(p, f, -0.17905164045446936);
    p = gems_fma(p, f, 0.20612563317218777);
    p = gems_fma(p, f, -0.2405051488832117);
    p = gems_fma(p, f, 0.28853965049124553);
    p = gems_fma(p, f, -0.360672764401403);
    p = gems_fma(p, f, 0.48089833280746164);
    p = gems_fma(p, f, -0.7213475254689018);
    p = gems_fma(p, f, 1.4426950409152473);
    double l = gems_fma(p, f, e);
    l = a < gems_infinity ? l : (double)a;
    double t = (a == 0.0f ? -(double)gems_infinity : l) * (double)y;
    t = t > 200.0 ? 200.0 : t;
    t = t < -200.0 ? -200.0 : t;
    double n = t + 6755399441055744.0, r = t - (n - 6755399441055744.0); // 1.5 * 2^52
    double q = 0.00015478047602683268;                                  // 2^r
    q = gems_fma(q, r, 0.0013400458479020459);
    q = gems_fma(q, r, 0.0096179944233302922);
    q = gems_fma(q, r, 0.055503271487223296);
    q = gems_fma(q, r, 0.24022651505868017);
    q = gems_fma(q, r, 0.69314720674108055);
    q = gems_fma(q, r, 0.99999999991895949);
    float v = (float)(q * gems_double((gems_bits(n) + 1023) << 52));
    // Where one of both is the same for all elements, a choice by what it alone decides would not vectorise: masks do.
    float half = y * 0.5f, unit = abs(y) == gems_infinity ? 1.0f : -1.0f;
    bool whole = __builtin_truncf(y) == y, odd = whole & (__builtin_truncf(half) != half);
    uint32_t sign = odd ? 0x80000000u : 0u, broken = whole ? 0u : 0x7fc00000u;
    uint32_t below = (x < 0.0f) & (a < gems_infinity) ? 0xffffffffu : 0u;
    uint32_t one = (y == 0.0f ? 0xffffffffu : 0u) | (x == 1.0f ? 0xffffffffu : 0u) | (a == unit ? 0xffffffffu : 0u);
    uint32_t bits = gems_as_bits(v) | (gems_as_bits(x) & sign) | (broken & below);
    return gems_as_float((bits & ~one) | (0x3f800000u & one));
}

// 2^(8k) modulo 2 pi, as a sum of two doubles.
static constexpr double gems_turns[14][2] = {
    {1, 0}, {4.672587712816541, -2.7211776477447861e-17}, {2.3772461169130459, -2.1208796381855949e-16},
    {5.3892164404993892, 3.519636524306108e-16}, {3.6218264955142851, 4.7850011877161456e-17},
    {3.5593426962577985, -2.1828473232553208e-16}, {0.12986070095632937, 3.4618516565559846e-18},
    {1.8284129089223877, 1.0567643478104146e-16}, {3.1179919528418854, 4.6610479564533324e-17},
    {0.24140591571517903, 5.3568205773396542e-18}, {5.2512466584695536, 5.5160249033841014e-17},
    {6.0006741389538236, 1.4274215609143944e-16}, {3.0753646203597835, -1.2813292677908609e-16},
    {1.8951794146562411, 8.655777442908311e-17}};
struct gems_sincos { double s, c; };
// Sine and cosine of any float: exact reduction in double, Taylor series on [-pi/4, pi/4].
GEMS_INLINE gems_sincos gems_sin_cos(float x) {
    uint32_t u = gems_as_bits(x) & 0x7fffffffu;
    int k = ((int)(u >> 23) - 151) >> 3; // from 2^32 on: x = m * 2^(8k)
    k = k < 0 ? 0 : k;
    double m = (double)gems_as_float(u) * (double)gems_as_float((uint32_t)(127 - 8 * k) << 23);
    double hi = gems_turns[k][0], lo = gems_turns[k][1], p = m * hi;
    double shifted = __builtin_fma(p, 0.63661977236758134, 6755399441055744.0), n = shifted - 6755399441055744.0;
    double r = __builtin_fma(n, -1.5707963267948966, p) + __builtin_fma(m, hi, -p);
    r = __builtin_fma(n, -6.123233995736766e-17, __builtin_fma(m, lo, r));
    int64_t quarter;
    memcpy(&quarter, &shifted, 8);
    double z = r * r;
    double s = -1.0 / 39916800, c = 1.0 / 479001600;
    s = __builtin_fma(s, z, 1.0 / 362880);
    c = __builtin_fma(c, z, -1.0 / 3628800);
    s = __builtin_fma(s, z, -1.0 / 5040);
    c = __builtin_fma(c, z, 1.0 / 40320);
    s = __builtin_fma(s, z, 1.0 / 120);
    c = __builtin_fma(c, z, -1.0 / 720);
    s = __builtin_fma(s, z, -1.0 / 6);
    c = __builtin_fma(c, z, 1.0 / 24);
    c = __builtin_fma(c, z, -0.5);
    s = __builtin_fma(s * z, r, r);
    c = __builtin_fma(c, z, 1.0);
    double sine = quarter & 1 ? c : s, cosine = quarter & 1 ? s : c;
    sine = quarter & 2 ? -sine : sine;
    return {__builtin_signbit(x) ? -sine : sine, (quarter + 1) & 2 ? -cosine : cosine};
}
GEMS_INLINE float sin(float x) { return (float)gems_sin_cos(x).s; }
GEMS_INLINE float cos(float x) { return (float)gems_sin_cos(x).c; }
GEMS_INLINE float tan(float x) {
    gems_sincos t = gems_sin_cos(x);
    return (float)(t.s / t.c);
}

// The same for |x| up to 1e5, where a product with three parts of pi/2 is exact enough: loops over these vectorise.
GEMS_INLINE bool near_angle(float x) { return abs(x) <= 1e5f; }
struct gems_angle { float s, c; uint32_t quarter; };
// EXACT: with what rounding takes from the reduced angle.
template <bool EXACT> GEMS_INLINE gems_angle gems_near_angle(float a) {
    float n = fma(a, 0.636619772f, gems_whole);
    uint32_t quarter = gems_as_bits(n);
    n -= gems_whole;
    float high = fma(n, -1.57079637f, a), low = n * 4.37113883e-08f, most = high + low;
    float r = fma(n, 1.71512450e-15f, fma(n, 4.37113883e-08f, high)), lost = 0.0f;
    if constexpr (EXACT) {
        float rest = fma(n, 1.71512450e-15f, fma(n, 4.37113883e-08f, -low)) + (high - most + low);
        r = most + rest, lost = rest - (r - most);
    }
    float z = r * r, s = fma(fma(-1.950679725e-04f, z, 8.332101628e-03f), z, -1.666665375e-01f);
    float c = fma(fma(2.443088124e-05f, z, -1.388730248e-03f), z, 4.166664556e-02f);
    return {fma(s * z, r, lost) + r, fma(-r, lost, fma(c, z * z, fma(-0.5f, z, 1.0f))), quarter};
}
GEMS_INLINE float sin_near(float x) {
    gems_angle v = gems_near_angle<false>(abs(x));
    uint32_t sign = v.quarter << 30 ^ gems_as_bits(x);
    return gems_as_float(gems_as_bits(v.quarter & 1 ? v.c : v.s) ^ (sign & 0x80000000u));
}
GEMS_INLINE float cos_near(float x) {
    gems_angle v = gems_near_angle<false>(abs(x));
    return gems_as_float(gems_as_bits(v.quarter & 1 ? v.s : v.c) ^ ((v.quarter + 1) << 30 & 0x80000000u));
}
GEMS_INLINE float tan_near(float x) {
    gems_angle v = gems_near_angle<true>(abs(x));
    float r = (v.quarter & 1 ? v.c : v.s) / (v.quarter & 1 ? v.s : v.c);
    return gems_as_float(gems_as_bits(r) ^ ((v.quarter << 31 ^ gems_as_bits(x)) & 0x80000000u));
}

// fmod where the quotient has at most 22 bits: it is off by one at most, and the remainder is exact.
GEMS_INLINE bool near_ratio(float a, float b) { return (abs(a) < 4194304.0f * abs(b)) & (abs(b) < gems_infinity); }
GEMS_INLINE float fmod_near(float a, float b) {
    float x = abs(a), y = abs(b), r = fma(-__builtin_truncf(x / y), y, x);
    return copysign(r < 0.0f ? r + y : r, a);
}
// kernels/gems.cuh has these for all types; here the steps are chosen, not branched over. rest: fmod(a, b).
GEMS_INLINE float gems_mod_down(float b, float rest) {
    return (rest != 0.0f) & ((b < 0.0f) != (rest < 0.0f)) ? rest + b : rest;
}
GEMS_INLINE float gems_div_down(float a, float b, float rest) {
    float d = (a - rest) / b, exact = a / b;
    d = (rest != 0.0f) & ((b < 0.0f) != (rest < 0.0f)) ? d - 1.0f : d;
    float f = __builtin_floorf(d), r = d - f > 0.5f ? f + 1.0f : f;
    r = d == 0.0f ? copysign(0.0f, exact) : r;
    return b == 0.0f ? exact : r;
}

// A rational guess and Newton steps; exact at -1, 0, 1.
GEMS_INLINE double erfinv(double y) {
    double a = abs(y), x;
    if (!(a < 1)) return a == 1 ? copysign(1 / (1 - a), y) : 0 / (1 - a / a);
    if (a <= 0.7) {
        double z = y * y;
        x = y * (((-0.140543331 * z + 0.914624893) * z - 1.645349621) * z + 0.886226899) /
            ((((0.012229801 * z - 0.329097515) * z + 1.442710462) * z - 2.118377725) * z + 1);
    } else {
        double z = sqrt(-log((1 - a) / 2));
        x = copysign((((1.641345311 * z + 3.429567803) * z - 1.624906493) * z - 1.970840454) /
                         ((1.637067800 * z + 3.543889200) * z + 1), y);
    }
    for (int i = 0; i < 2; i++) {
        double tail = (1 - a) - erfc(abs(x)), error = a <= 0.7 ? erf(x) - y : y < 0 ? -tail : tail;
        x -= error / (1.1283791670955126 * exp(-x * x));
    }
    return x;
}

} // namespace gems
