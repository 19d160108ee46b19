// Float forms of the inverse trigonometric and hyperbolic functions, erfc, erfinv and the gamma functions for kernels on a CPU:
// without a branch or a call, within 2 ulp, erfc within 2.5. Polynomials: near-minimax fits of what stands beside them.
namespace gems {

// (atan(t) / t - 1) * t on [0, 1].
GEMS_INLINE float gems_atan_tail(float t) {
    float z = t * t, p = -1.939470530e-03f;
    p = fma(p, z, 1.157979388e-02f);
    p = fma(p, z, -3.244445100e-02f);
    p = fma(p, z, 5.926121399e-02f);
    p = fma(p, z, -8.481851965e-02f);
    p = fma(p, z, 1.097995192e-01f);
    p = fma(p, z, -1.426976770e-01f);
    p = fma(p, z, 1.999909431e-01f);
    p = fma(p, z, -3.333331943e-01f);
    return p * z * t;
}
GEMS_INLINE float atan(float x) {
    float a = abs(x), t = (a > 1.0f ? 1.0f : a) / (a > 1.0f ? a : 1.0f), r = gems_atan_tail(t);
    float turned = 1.57079637f - (t + (r + 4.37113883e-08f));
    return a == a ? copysign(a > 1.0f ? turned : t + r, x) : x;
}
GEMS_INLINE float atan2(float y, float x) {
    float a = abs(x), b = abs(y), low = a < b ? a : b, high = a < b ? b : a;
    float t = low / high;
    t = high == 0.0f ? 0.0f : t;
    t = low == gems_infinity ? 1.0f : t;
    float r = gems_atan_tail(t);
    float up = 1.57079637f - (t + (r + 4.37113883e-08f)), flat = t + r;
    float steep = 1.57079637f + (t + (r - 4.37113883e-08f)), back = 3.14159274f - (t + (r + 8.74227766e-08f));
    uint32_t left = gems_sign(x);
    float right = b > a ? up : flat, other = b > a ? steep : back;
    float v = copysign(left ? other : right, y);
    return (x != x) | (y != y) ? x + y : v;
}

// asin(y) - y on [0, 1/2], z the square of y.
GEMS_INLINE float gems_asin_tail(float y, float z) {
    float p = 3.622305393e-02f;
    p = fma(p, z, 1.543109491e-02f);
    p = fma(p, z, 3.152150661e-02f);
    p = fma(p, z, 4.455497861e-02f);
    p = fma(p, z, 7.500278950e-02f);
    p = fma(p, z, 1.666666418e-01f);
    return p * z * y;
}
// From 1/2 on through the half angle: asin(a) = pi/2 - 2 asin(sqrt((1 - a) / 2)).
struct gems_half_angle { float y, tail; bool far; };
GEMS_INLINE gems_half_angle gems_asin_parts(float a) {
    bool far = a > 0.5f;
    float z = far ? fma(-0.5f, a, 0.5f) : a * a, root = __builtin_sqrtf(z), y = far ? root : a;
    return {y, gems_asin_tail(y, z), far};
}
GEMS_INLINE float asin(float x) {
    gems_half_angle v = gems_asin_parts(abs(x));
    float far = 1.57079637f - 2.0f * (v.y + (v.tail + 2.18556941e-08f));
    return copysign(v.far ? far : v.y + v.tail, x);
}
GEMS_INLINE float acos(float x) {
    gems_half_angle v = gems_asin_parts(abs(x));
    float far = 2.0f * (v.y + v.tail), back = 3.14159274f - 2.0f * (v.y + (v.tail + 4.37113883e-08f));
    float y = copysign(v.y, x), tail = copysign(v.tail, x), near = 1.57079637f - (y + (tail - 4.37113883e-08f));
    return v.far ? (x < 0.0f ? back : far) : near;
}

// e^a / 4 and e^-a / 4, a from 0 to 89.5, where twice the sum is infinite.
struct gems_quarters { float up, down; };
GEMS_INLINE gems_quarters gems_exp_quarters(float a) {
    float n = fma(a, 1.44269504f, gems_whole + 125.0f), r = gems_exp_rest(a, n - (gems_whole + 125.0f));
    uint32_t up = gems_as_bits(n) << 23, down = up < 250u << 23 ? (250u << 23) - up : 0;
    float s = gems_as_float(up), t = gems_as_float(down);
    return {fma(s, gems_expm1_near(r), s), fma(t, gems_expm1_near(-r), t)};
}
GEMS_INLINE float sinh(float x) {
    float a = abs(x), z = x * x;
    gems_quarters e = gems_exp_quarters(a > 89.5f ? 89.5f : a);
    float p = 2.816643473e-06f; // (sinh(x) / x - 1) / x^2 on [0, 1]
    p = fma(p, z, 1.983622933e-04f);
    p = fma(p, z, 8.333349600e-03f);
    p = fma(p, z, 1.666666716e-01f);
    return a > 1.0f ? copysign(2.0f * (e.up - e.down), x) : fma(p * z, x, x);
}
GEMS_INLINE float cosh(float x) {
    float a = abs(x);
    gems_quarters e = gems_exp_quarters(a > 89.5f ? 89.5f : a);
    return 2.0f * (e.up + e.down);
}
GEMS_INLINE float asinh(float x) {
    float a = abs(x), z = a * a;
    bool far = a > 1e9f;
    float r = log1p(far ? a : a + z / (1.0f + __builtin_sqrtf(1.0f + z)));
    return copysign(far ? r + 0.693147182f : r, x);
}
GEMS_INLINE float acosh(float x) {
    float t = x - 1.0f;
    bool far = x > 1e9f;
    float r = log1p(far ? t : t + __builtin_sqrtf(fma(t, t, 2.0f * t)));
    r = far ? r + 0.693147182f : r;
    return x < 1.0f ? __builtin_nanf("") : r;
}
GEMS_INLINE float atanh(float x) {
    float a = abs(x);
    return copysign(0.5f * (log1p(a) - log1p(-a)), x);
}
// In double no square overflows.
GEMS_INLINE float hypot(float x, float y) {
    double a = x, b = y;
    float r = (float)__builtin_sqrt(a * a + b * b);
    return (abs(x) == gems_infinity) | (abs(y) == gems_infinity) ? gems_infinity : r;
}

// From 1/2 on e^(-a^2) * p(q) / d with d = a + 2, q = (a - 2) / d, as gems_normal_tail in normal.cuh.
GEMS_INLINE float erfc(float x) {
    float a = abs(x), d = a + 2.0f, lost = a - (d - 2.0f), by = gems_reciprocal(d), q = (a - 2.0f) * by;
    float t = -4.784720368e-04f;
    t = fma(t, q, -8.022487746e-04f);
    t = fma(t, q, 3.007619409e-03f);
    t = fma(t, q, 6.470424123e-03f);
    t = fma(t, q, -2.149581723e-02f);
    t = fma(t, q, -3.644153476e-02f);
    t = fma(t, q, 2.794711888e-01f);
    t = fma(t, q, -6.871606708e-01f);
    float p = fma(t, q, 1.021582723f), q_rest = fma(-q, lost, fma(-q, d, a - 2.0f)) * by;
    float p_rest = fma(t, q_rest, fma(t, q, 1.021582723f - p));
    float s = a * a, bias = gems_whole + 191.0f, n = fma(s, -1.44269504f, bias);
    float e = gems_expm1_near(gems_exp_rest(-s, n - bias) - fma(a, a, -s));
    float more = fma(p, e, p_rest), z = p + more, z_rest = (p - z) + more;
    float by_rest = fma(-by, lost, fma(-by, d, 1.0f)) * by;
    float r = fma(z, by, fma(z_rest, by, z * by_rest)) * gems_as_float(gems_as_bits(n) << 23) * 5.42101086e-20f;
    r = a > 10.1f ? 0.0f : r;
    r = x < 0.0f ? 2.0f - r : r;
    float near = 4.719927935e-03f, square = x * x; // erf(x) / x - 1 up to 0.5
    near = fma(near, square, -2.675815559e-02f);
    near = fma(near, square, 1.128283804e-01f);
    near = fma(near, square, -3.761260934e-01f);
    near = fma(near, square, 1.283791656e-01f);
    return a < 0.5f ? 1.0f - fma(near, x, x) : r;
}

// With w = -log(1 - x^2): a polynomial in w, from 5 on in its root.
GEMS_INLINE float erfinv(float x) {
    float a = abs(x), w = -log_near((1.0f - a) * (1.0f + a)), s = __builtin_sqrtf(w) - 3.0f, u = w - 1.0f;
    float p = -8.791075423e-09f;
    p = fma(p, u, 1.419121674e-07f);
    p = fma(p, u, -5.246980095e-07f);
    p = fma(p, u, -4.401572369e-06f);
    p = fma(p, u, 3.822899089e-05f);
    p = fma(p, u, 1.002813078e-04f);
    p = fma(p, u, -2.376442775e-03f);
    p = fma(p, u, 4.250642844e-03f);
    p = fma(p, u, 2.478328943e-01f);
    float c = fma(p, u, 1.127374411f), rest = (fma(p, u, 1.127374411f - c) - 1.17979870e-08f) * x;
    float q = 1.060042923e-04f;
    q = fma(q, s, -3.000499564e-04f);
    q = fma(q, s, -4.294540486e-05f);
    q = fma(q, s, 1.473210868e-03f);
    q = fma(q, s, -3.604582511e-03f);
    q = fma(q, s, 5.691519938e-03f);
    q = fma(q, s, -7.635759190e-03f);
    q = fma(q, s, 9.444755502e-03f);
    q = fma(q, s, 1.001674891e+00f);
    q = fma(q, s, 2.832976818e+00f);
    float r = w < 5.0f ? fma(c, x, rest) : q * x;
    r = a == 1.0f ? copysign(gems_infinity, x) : r;
    return a > 1.0f ? __builtin_nanf("") : r;
}

// The gamma functions are made in double: near their zeros a sum of floats keeps few digits.
// log(x) of a normal x above 0.
GEMS_INLINE double gems_log_double(double x) {
    uint64_t u = gems_bits(x) - 0x3fe6a09e667f3bcdull; // sqrt(1/2)
    double e = (double)((int64_t)u >> 52), f = gems_double((u & 0xfffffffffffffull) + 0x3fe6a09e667f3bcdull) - 1.0;
    double s = f / (2.0 + f), z = s * s, p = 2.0 / 19;
    p = gems_fma(p, z, 2.0 / 17);
    p = gems_fma(p, z, 2.0 / 15);
    p = gems_fma(p, z, 2.0 / 13);
    p = gems_fma(p, z, 2.0 / 11);
    p = gems_fma(p, z, 2.0 / 9);
    p = gems_fma(p, z, 2.0 / 7);
    p = gems_fma(p, z, 2.0 / 5);
    p = gems_fma(p, z, 2.0 / 3);
    return gems_fma(e, 0.69314718055994531, gems_fma(p * z, s, s + s));
}
// sin(t) of a t within pi/2.
GEMS_INLINE double gems_sin_half(double t) {
    double z = t * t, p = -7.6471637318198164e-13;
    p = gems_fma(p, z, 1.6059043836821613e-10);
    p = gems_fma(p, z, -2.5052108385441720e-08);
    p = gems_fma(p, z, 2.7557319223985893e-06);
    p = gems_fma(p, z, -1.9841269841269841e-04);
    p = gems_fma(p, z, 8.3333333333333332e-03);
    p = gems_fma(p, z, -1.6666666666666666e-01);
    return gems_fma(p * z, t, t);
}
constexpr double gems_pi = 3.14159265358979324;
// Stirling's series from 8 on; below 8 at x + 8, less the logarithm of x (x + 1) ... (x + 7). Below 0 by reflection.
GEMS_INLINE float lgamma(float x) {
    double v = x, y = __builtin_fabs(v), p = y + 1.0;
    p = p * (y + 2.0) * (y + 3.0) * (y + 4.0) * ((y + 5.0) * (y + 6.0) * (y + 7.0));
    bool low = y < 8.0, negative = x < 0.0f;
    double z = low ? y + 8.0 : y, r = 1.0 / z, q = r * r, t = 1.0 / 156;
    t = gems_fma(t, q, -691.0 / 360360);
    t = gems_fma(t, q, 1.0 / 1188);
    t = gems_fma(t, q, -1.0 / 1680);
    t = gems_fma(t, q, 1.0 / 1260);
    t = gems_fma(t, q, -1.0 / 360);
    t = gems_fma(t, q, 1.0 / 12);
    double sum = gems_fma(z - 0.5, gems_log_double(z), -z) + gems_fma(t, r, 0.91893853320467274);
    double part = y - __builtin_nearbyint(y), wave = __builtin_fabs(gems_sin_half(part * gems_pi));
    p = low ? p : 1.0;
    double factor = low ? y * p : 1.0, far = low ? 1.0 : y;
    double top = negative ? gems_pi * p : 1.0, bottom = negative ? wave * far : factor;
    sum = negative ? -sum : sum;
    float result = (float)(sum + gems_log_double(top / bottom));
    result = (x == 1.0f) | (x == 2.0f) ? 0.0f : result;
    result = (x <= 0.0f) & (part == 0.0) ? gems_infinity : result;
    return y == (double)gems_infinity ? gems_infinity : result;
}
// The same of its derivative: sum of 1 / (x + k), k below 8, is the product's derivative over the product.
GEMS_INLINE float gems_digamma(float x) {
    double v = x, y = __builtin_fabs(v), p = y, slope = 1.0;
    slope = gems_fma(slope, y + 1.0, p), p *= y + 1.0;
    slope = gems_fma(slope, y + 2.0, p), p *= y + 2.0;
    slope = gems_fma(slope, y + 3.0, p), p *= y + 3.0;
    slope = gems_fma(slope, y + 4.0, p), p *= y + 4.0;
    slope = gems_fma(slope, y + 5.0, p), p *= y + 5.0;
    slope = gems_fma(slope, y + 6.0, p), p *= y + 6.0;
    slope = gems_fma(slope, y + 7.0, p), p *= y + 7.0;
    bool low = y < 8.0, negative = x < 0.0f;
    double z = low ? y + 8.0 : y, r = 1.0 / z, q = r * r, t = 691.0 / 32760;
    t = gems_fma(t, q, -1.0 / 132);
    t = gems_fma(t, q, 1.0 / 240);
    t = gems_fma(t, q, -1.0 / 252);
    t = gems_fma(t, q, 1.0 / 120);
    t = gems_fma(t, q, -1.0 / 12);
    double sum = gems_fma(t, q, gems_fma(-0.5, r, gems_log_double(z)));
    sum = low ? sum - slope / p : sum;
    double part = y - __builtin_nearbyint(y), s = gems_sin_half(part * gems_pi);
    double c = gems_sin_half((0.5 - __builtin_fabs(part)) * gems_pi);
    double mirrored = sum + gems_fma(gems_pi * y, c, s) / (s * y); // 1 / y + pi / tan(pi y)
    float result = (float)(negative ? mirrored : sum);
    result = negative & (part == 0.0) ? __builtin_nanf("") : result;
    result = x == 0.0f ? copysign(gems_infinity, -x) : result;
    return x == gems_infinity ? x : result;
}

} // namespace gems
