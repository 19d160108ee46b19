// The normal distribution of floats, gelu and erfc: with near.cuh and pair.cuh before elementwise.cu, in the programs that
// name them. No branch, no call. gelu of floats is within 2 ulp, erfc within 3.
namespace gems {

#if !GEMS_CPU // as in cpu/math.h
constexpr float gems_whole = 12582912.0f;
GEMS_DI float gems_exp_tail(float r) {
    float p = 1.394221443e-03f;
    p = fma(p, r, 8.368848823e-03f);
    p = fma(p, r, 4.166638479e-02f);
    p = fma(p, r, 1.666651964e-01f);
    return fma(p, r, 0.5f);
}
GEMS_DI float gems_exp_near(float r) { return fma(fma(gems_exp_tail(r), r, 1.0f), r, 1.0f); }
GEMS_DI float gems_expm1_near(float r) { return fma(gems_exp_tail(r), r * r, r); }
GEMS_DI float gems_exp_rest(float x, float n) { return fma(n, 2.12194440e-4f, fma(n, -0.693359375f, x)); }
GEMS_DI float gems_at_most(float a, float limit) { return fminf(a, limit); }
#endif

// e^s of an s that is not above 0, with what rounding took from s: 2^-64 * scale * (1 + r + r^2 * gems_exp_tail(r)). What
// may be subnormal is multiplied by 2^-64 last, and rounded once.
constexpr float gems_2_64 = 5.42101086e-20f; // 2^-64
struct gems_power { float r, scale; };
GEMS_DI gems_power gems_power_of(float s, float lost) {
    constexpr float bias = gems_whole + 191.0f;
    float n = fma(s, 1.44269504f, bias), whole = n - bias;
    float r = fma(whole, -0.693359375f, s) + fma(whole, 2.12194440e-4f, lost);
    return {r, bits_float(float_bits(n) << 23)};
}

// The standard normal distribution up to -a is P(g) / (a + k) * e^(-a^2 / 2), with g = a / (a + k). P is base + more: the
// larger part without an error, the smaller one with what rounding took from the larger.
constexpr float gems_share_k = 2.5625f;
struct gems_sum { float base, more; };
GEMS_DI gems_sum gems_normal_sum(float g) {
    float base = 1.28125f - g, t = -7.494661212e-02f;
    t = fma(t, g, 2.423828840e-01f);
    t = fma(t, g, -2.358091027e-01f);
    t = fma(t, g, 8.674662560e-02f);
    t = fma(t, g, -1.415540874e-01f);
    t = fma(t, g, 2.344877645e-02f);
    t = fma(t, g, 3.070812821e-01f);
    t = fma(t, g, 2.486980110e-01f);
    t = fma(t, g, -3.383687139e-01f);
    return {base, fma(g, t, (1.28125f - base) - g)};
}
// by * (base + more) * e^s, times 2^64, by and s with what rounding took from them.
GEMS_DI float gems_tail(float by, gems_sum v, gems_power e) {
    float more = by * v.more, p = fma(by, v.base, more);
    return fma(by, v.base, fma(p, e.r, fma(p * (e.r * e.r), gems_exp_tail(e.r), more))) * e.scale;
}
// a times the distribution up to -a, times 2^64; a up to 15. k has few digits: the error of g's first guess is found
// without rounding, k's part first.
GEMS_DI float gems_normal_part(float a) {
    float by = reciprocal_near(a + gems_share_k), g = a * by;
    g = fma(fma(-g, a, fma(-gems_share_k, g, a)), by, g);
    float half = -0.5f * a, s = half * a;
    return gems_tail(g, gems_normal_sum(g), gems_power_of(s, fma(half, a, -s)));
}
// 1 / (a + k), as g above. b is a, or what a was limited from: NaN stays.
GEMS_DI float gems_inverse(float a, float b, float k) {
    float by = reciprocal_near(b + k);
    return fma(fma(-by, a, fma(-k, by, 1.0f)), by, by);
}
// The same two, good for results of 16 bits: P with a k of its own, and e^s times 2^64.
constexpr float gems_rough_k = 3.25f;
GEMS_DI float gems_rough_sum(float g) {
    float t = 2.438429594e-01f;
    t = fma(t, g, -6.041640639e-01f);
    t = fma(t, g, -4.739186540e-02f);
    t = fma(t, g, 1.770857573e+00f);
    t = fma(t, g, -2.588432789e+00f);
    return fma(t, g, 1.625001550e+00f);
}
GEMS_DI float gems_rough_power(float s) {
#if GEMS_CPU
    constexpr float bias = gems_whole + 191.0f;
    float n = fma(s, 1.44269504f, bias), f = fma(s, 1.44269504f, bias - n), e = 9.567767382e-03f; // 2^f
    e = fma(e, f, 5.591951311e-02f);
    e = fma(e, f, 2.402482182e-01f);
    e = fma(e, f, 6.931216121e-01f);
    return fma(e, f, 9.999992251e-01f) * bits_float(float_bits(n) << 23);
#else
    return exp2_near(fma(s, 1.44269504f, 64.0f));
#endif
}

GEMS_DI float normal_cdf(float x) {
    float b = abs(x), a = gems_at_most(b, 15.0f), half = -0.5f * a, s = half * a, by = gems_inverse(a, b, gems_share_k);
    float t = gems_tail(by, gems_normal_sum(a * by), gems_power_of(s, fma(half, a, -s))) * gems_2_64;
    return x < 0.0f ? t : 1.0f - t;
}
// x times the distribution up to x: x, or 0 below 0, less |x| times the distribution up to -|x|. Of -inf NaN, as in ATen.
template <bool HALF> GEMS_DI float times_normal_cdf(float x) {
    float a = gems_at_most(abs(x), 15.0f), t;
    if constexpr (HALF) {
        float g = a * reciprocal_near(a + gems_rough_k);
        t = g * gems_rough_sum(g) * gems_rough_power(-0.5f * a * a);
    } else t = gems_normal_part(a);
    return fma(t, -gems_2_64, x < 0.0f ? x * 0.0f : x);
}
// Its slope: below 0 the distribution up to -a less a times the density; above 0 that is what is missing from 1. NaN at
// infinities, as in ATen.
template <bool HALF> GEMS_DI float normal_slope(float x) {
    float b = abs(x), a = gems_at_most(b, 15.0f), s = -0.5f * a * a, sum, power;
    float by = reciprocal_near(a + (HALF ? gems_rough_k : gems_share_k));
    if constexpr (HALF) {
        sum = gems_rough_sum(a * by), power = gems_rough_power(s);
    } else {
        gems_sum v = gems_normal_sum(a * by);
        gems_power e = gems_power_of(s, 0.0f);
        sum = v.base + v.more, power = gems_exp_near(e.r) * e.scale;
    }
    float low = fma(fma(b, -0.398942280f, sum * by), power * gems_2_64, 0.0f); // not -0
    return x < 0.0f ? low : 1.0f - low;
}
// The same with constants of its own; of 16 bits twice the distribution up to -sqrt(2) * x.
template <bool HALF> GEMS_DI float erfc_for(float x) {
    float b = abs(x), a = gems_at_most(b, 10.5f), s = -a * a, t;
    if constexpr (HALF) {
        float by = reciprocal_near(b + 0.707106781f * gems_rough_k);
        t = gems_rough_sum(a * by) * by * gems_rough_power(s) * (1.41421356f * gems_2_64);
    } else {
        float by = gems_inverse(a, b, 1.8125f), g = a * by, base = 1.8125f - g;
        float p = -1.057586446e-01f;
        p = fma(p, g, 3.416000903e-01f);
        p = fma(p, g, -3.313682079e-01f);
        p = fma(p, g, 1.211918667e-01f);
        p = fma(p, g, -1.997276694e-01f);
        p = fma(p, g, 3.247423843e-02f);
        p = fma(p, g, 4.345131814e-01f);
        p = fma(p, g, 3.531501591e-01f);
        p = fma(p, g, -8.944041133e-01f);
        gems_sum v = {base, fma(g, p, (1.8125f - base) - g)};
        t = gems_tail(by, v, gems_power_of(s, fma(-a, a, -s))) * gems_2_64;
    }
    return x < 0.0f ? 2.0f - t : t;
}

} // namespace gems
