// Math for kernels on a CPU. The float forms of exp, log, sin, cos, tan, tanh, erf and sigmoid have no branch and no call, so
// that loops over them vectorise; they are within 2 ulp, sigmoid within 2.5 (tests/test_cpu_math.py). The rest is the C
// library's, through builtins. Polynomials: near-minimax fits of the functions named beside them.
namespace gems {

GEMS_INLINE float gems_as_float(uint32_t v) { float r; memcpy(&r, &v, 4); return r; }
GEMS_INLINE uint32_t gems_as_bits(float v) { uint32_t r; memcpy(&r, &v, 4); return r; }

#define GEMS_BOTH(name)                                                        \
    GEMS_INLINE float name(float x) { return __builtin_##name##f(x); }         \
    GEMS_INLINE double name(double x) { return __builtin_##name(x); }
#define GEMS_BOTH2(name)                                                               \
    GEMS_INLINE float name(float x, float y) { return __builtin_##name##f(x, y); }     \
    GEMS_INLINE double name(double x, double y) { return __builtin_##name(x, y); }
GEMS_BOTH(exp2) GEMS_BOTH(expm1) GEMS_BOTH(log2) GEMS_BOTH(log10) GEMS_BOTH(log1p) GEMS_BOTH(sqrt) GEMS_BOTH(asin) GEMS_BOTH(acos)
GEMS_BOTH(atan) GEMS_BOTH(sinh) GEMS_BOTH(cosh) GEMS_BOTH(asinh) GEMS_BOTH(acosh) GEMS_BOTH(atanh) GEMS_BOTH(lgamma)
GEMS_BOTH(floor) GEMS_BOTH(ceil) GEMS_BOTH(trunc) GEMS_BOTH(nearbyint) GEMS_BOTH2(atan2) GEMS_BOTH2(pow) GEMS_BOTH2(fmod)
GEMS_BOTH2(copysign) GEMS_BOTH2(hypot)
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
GEMS_INLINE float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
GEMS_INLINE double rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }

GEMS_INLINE double exp(double x) { return __builtin_exp(x); }
GEMS_INLINE double log(double x) { return __builtin_log(x); }
GEMS_INLINE double sin(double x) { return __builtin_sin(x); }
GEMS_INLINE double cos(double x) { return __builtin_cos(x); }
GEMS_INLINE double tan(double x) { return __builtin_tan(x); }
GEMS_INLINE double tanh(double x) { return __builtin_tanh(x); }
GEMS_INLINE double erf(double x) { return __builtin_erf(x); }
GEMS_INLINE double erfc(double x) { return __builtin_erfc(x); }
GEMS_INLINE float erfc(float x) { return (float)__builtin_erfc(x); } // erfcf is 3 ulp off
GEMS_INLINE double sigmoid(double x) { return 1.0 / (1.0 + __builtin_exp(-x)); }

GEMS_INLINE float exp(float x) {
    float c = x < -104.0f ? -104.0f : x;
    c = c > 89.0f ? 89.0f : c;
    float n = fma(c, 1.44269504f, 12582912.0f); // 1.5 * 2^23: the integer is in the low bits
    int e = (int)gems_as_bits(n) - 0x4b400000;
    n -= 12582912.0f;
    float high = fma(n, -0.693359375f, c), r = fma(n, 2.12194440e-4f, high), lost = fma(n, 2.12194440e-4f, high - r);
    float p = 1.991559444e-04f; // (e^r - 1 - r) / r^2
    p = fma(p, r, 1.394614428e-03f);
    p = fma(p, r, 8.333269683e-03f);
    p = fma(p, r, 4.166626863e-02f);
    p = fma(p, r, 1.666666684e-01f);
    p = fma(p, r, 5.000000078e-01f);
    p = fma(p, r * r, lost) + r + 1.0f;
    int half = e >> 1, rest = e - half; // twice, for subnormal results
    return p * gems_as_float((uint32_t)(half + 127) << 23) * gems_as_float((uint32_t)(rest + 127) << 23);
}

GEMS_INLINE float log(float x) {
    bool small = x < 1.17549435e-38f;
    float s = small ? x * 8388608.0f : x;
    uint32_t u = gems_as_bits(s) - 0x3f3504f3u; // sqrt(1/2)
    float e = (float)((int32_t)u >> 23) - (small ? 23.0f : 0.0f);
    float f = gems_as_float((u & 0x7fffffu) + 0x3f3504f3u) - 1.0f, z = f * f;
    float p = 6.920425919e-02f; // (log(1 + f) - f + f^2 / 2) / f^3
    p = fma(p, f, -1.179877435e-01f);
    p = fma(p, f, 1.187550291e-01f);
    p = fma(p, f, -1.238309303e-01f);
    p = fma(p, f, 1.421818104e-01f);
    p = fma(p, f, -1.666930258e-01f);
    p = fma(p, f, 2.000225013e-01f);
    p = fma(p, f, -2.499998599e-01f);
    p = fma(p, f, 3.333331012e-01f);
    float y = fma(e, -2.12194440e-4f, p * f * z);
    y = fma(-0.5f, z, y) + f;
    float r = fma(e, 0.693359375f, y);
    r = x > 3.4028235e38f ? x : r;
    r = x == 0.0f ? gems_as_float(0xff800000u) : r;
    return x < 0.0f || x != x ? gems_as_float(0x7fc00000u) : r;
}

GEMS_INLINE float sigmoid(float x) {
    float e = exp(-abs(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

GEMS_INLINE float tanh(float x) {
    float a = abs(x), z = x * x;
    float p = 2.147527594e-03f; // (tanh(x) / x - 1) / x^2
    p = fma(p, z, -8.182662925e-03f);
    p = fma(p, z, 2.170296227e-02f);
    p = fma(p, z, -5.394720329e-02f);
    p = fma(p, z, 1.333320975e-01f);
    p = fma(p, z, -3.333333091e-01f);
    float near = fma(p * z, x, x), far = 1.0f - 2.0f / (exp(a + a) + 1.0f);
    return copysign(a < 0.625f ? near : far, x); // -0 too
}

GEMS_INLINE float erf(float x) {
    float a = abs(x), z = x * x, t = a > 4.1f ? 4.1f : a;
    float p = 8.360109458e-05f; // erf(x) / x - 1
    p = fma(p, z, -8.140961292e-04f);
    p = fma(p, z, 5.200944407e-03f);
    p = fma(p, z, -2.685939523e-02f);
    p = fma(p, z, 1.128369617e-01f);
    p = fma(p, z, -3.761263384e-01f);
    p = fma(p, z, 1.283791671e-01f);
    float near = fma(p, x, x);
    float q = -2.223060419e-06f; // -log(erfc(t)) / t
    q = fma(q, t, 3.555190278e-05f);
    q = fma(q, t, -2.256829649e-04f);
    q = fma(q, t, 5.417779442e-04f);
    q = fma(q, t, 1.744354914e-03f);
    q = fma(q, t, -2.118646151e-02f);
    q = fma(q, t, 1.041216263e-01f);
    q = fma(q, t, 6.361148529e-01f);
    q = fma(q, t, 1.128461713e+00f);
    float far = copysign(1.0f - exp(-q * t), x);
    return a < 0.9277f ? near : x != x ? x : far;
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
GEMS_INLINE float erfinv(float y) { return (float)erfinv((double)y); }

} // namespace gems
