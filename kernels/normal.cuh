// The normal distribution of floats, and gelu: before elementwise.cu in the programs that name them. No branch, no call; the
// same digits on every device, down to the last of a subnormal tail.
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
GEMS_DI float gems_reciprocal(float d) { return __fdividef(1.0f, d); }
GEMS_DI float gems_quotient(float n, float d) { return __fdividef(n, d); }
#else
GEMS_DI float gems_quotient(float n, float d) { return n / d; }
#endif

// m times the standard normal distribution up to -a, a from 0.74 on: m * e^(-a^2 / 2) * p(q) / d with d = a + 3 and
// q = (a - 3) / d. What rounding takes from a^2, d, q, p and the quotient is given back: the whole is within 2 ulp.
GEMS_DI float gems_normal_tail(float a, float m) {
    float d = a + 3.0f, lost = a - (d - 3.0f), by = gems_reciprocal(d), q = (a - 3.0f) * by;
    float t = -1.275102404e-04f;
    t = fma(t, q, -9.261443047e-04f);
    t = fma(t, q, 9.606968961e-04f);
    t = fma(t, q, 6.940755993e-03f);
    t = fma(t, q, -1.044980064e-02f);
    t = fma(t, q, -4.725988582e-02f);
    t = fma(t, q, 2.300168574e-01f);
    t = fma(t, q, -5.093320608e-01f);
    float p = fma(t, q, 7.290837169e-01f), q_rest = fma(-q, lost, fma(-q, d, a - 3.0f)) * by;
    float p_rest = fma(t, q_rest, fma(t, q, 7.290837169e-01f - p));
    float s = a * a, half = -0.5f * s, bias = gems_whole + 191.0f, n = fma(half, 1.44269504f, bias);
    float e = gems_expm1_near(fma(-0.5f, fma(a, a, -s), gems_exp_rest(half, n - bias)));
    float more = fma(p, e, p_rest), z = p + more, z_rest = (p - z) + more;
    float w = m * by, w_rest = fma(-w, lost, fma(-w, d, m)) * by;
    float r = fma(z, w, fma(z_rest, w, z * w_rest)) * bits_float(float_bits(n) << 23) * 5.42101086e-20f;
    return a > 14.7f ? m * 0.0f : r;
}
// The standard normal distribution up to x, less 1/2, over x; |x| below 0.74.
GEMS_DI float gems_normal_near(float x) {
    float z = x * x, p = 1.021612043e-04f;
    p = fma(p, z, -1.180488267e-03f);
    p = fma(p, z, 9.972099215e-03f);
    p = fma(p, z, -6.649027020e-02f);
    return fma(p, z, 3.989422917e-01f);
}
GEMS_DI float normal_cdf(float x) {
    float a = abs(x), t = gems_normal_tail(a, 1.0f);
    t = x < 0.0f ? t : 1.0f - t;
    return a < 0.74f ? fma(gems_normal_near(x), x, 0.5f) : t;
}
// The same for all a, good for results of 16 bits: e^(-a^2 / 2) * p(a) / q(a).
GEMS_DI float gems_normal_rough(float a, float m) {
    float p = fma(fma(6.300956804e-02f, a, 2.794131899e-01f), a, 5.000127192e-01f);
    float q = fma(fma(fma(1.577765499e-01f, a, 7.052734892e-01f), a, 1.357495775f), a, 1.0f);
    float half = -0.5f * a * a, bias = gems_whole + 191.0f, n = fma(half, 1.44269504f, bias);
    float e = 4.145807432e-02f, r = fma(n - bias, -0.693147182f, half); // e^r
    e = fma(e, r, 1.679121084e-01f);
    e = fma(e, r, 5.000438036e-01f);
    e = fma(e, r, 9.999632269e-01f);
    e = fma(e, r, 9.999992560e-01f) * bits_float(float_bits(n) << 23) * 5.42101086e-20f;
    return a > 14.7f ? m * 0.0f : gems_quotient(m * p, q) * e;
}
template <bool HALF> GEMS_DI float normal_cdf_for(float x) {
    if constexpr (!HALF) return normal_cdf(x);
    float t = gems_normal_rough(abs(x), 1.0f);
    return x < 0.0f ? t : 1.0f - t;
}
template <bool HALF> GEMS_DI float times_normal_cdf(float x) {
    float a = abs(x), m = x < 0.0f ? x : 1.0f, t = HALF ? gems_normal_rough(a, m) : gems_normal_tail(a, m);
    t = x < 0.0f ? t : x * (1.0f - t);
    return !HALF && a < 0.74f ? x * fma(gems_normal_near(x), x, 0.5f) : t;
}

} // namespace gems
