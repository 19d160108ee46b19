// Powers of floats on a GPU, within 2 ulp: before elementwise.cu in the programs that name them. An H200 gave special values
// right, and powers by 2.5 of 16M values within 1.3 ulp.
#if !GEMS_CPU
namespace gems {

// y * log2(a * 2^e) of a normal a above 0, as a sum of two floats.
struct gems_two { float most, rest; };
GEMS_DI gems_two gems_power_log(float a, float e, float y) {
    uint32_t up = (float_bits(a) - 0x3f3504f3u) & 0xff800000u; // a = 2^up * (1 + f), from sqrt(1/2) to sqrt(2)
    float f = bits_float(float_bits(a) - up) - 1.0f;
    e += (float)((int32_t)up >> 23);
    // log(1 + f) = 2 s + 2/3 s^3 + ..., s = f / (2 + f) and what rounding took from it. Products whose rounding counts are
    // __fmul_rn: the compiler must not fuse them into sums.
    float by = reciprocal_near(2.0f + f), s = __fmul_rn(f, by), rest = fma(-s, f, fma(-2.0f, s, f)) * by, z = s * s;
    float q = 2.427904308e-01f;
    q = fma(q, z, 2.849878967e-01f);
    q = fma(q, z, 4.000097215e-01f);
    q = fma(q, z, 6.666666269e-01f);
    float high = s + s, low = fma(s * z, q, fma(rest + rest, z, rest + rest));
    float l = __fmul_rn(high, 1.44269502f), lost = fma(high, 1.44269502f, -l);
    lost = fma(low, 1.44269502f, fma(high, 1.92596303e-08f, lost));
    float sum = e + l;
    lost += (e - sum) + l;
    float log2 = sum + lost, t = __fmul_rn(y, log2);
    lost += sum - log2;
    return {t, fma(y, lost, fma(y, log2, -t))};
}
// 2^r of an r within 1/2.
GEMS_DI float gems_power_exp(float r) {
    float p = 1.546166459e-04f;
    p = fma(p, r, 1.339117531e-03f);
    p = fma(p, r, 9.618065320e-03f);
    p = fma(p, r, 5.550359190e-02f);
    p = fma(p, r, 2.402265072e-01f);
    p = fma(p, r, 6.931471825e-01f);
    return fma(p, r, 1.0f);
}
constexpr float gems_power_whole = 12582912.0f; // 1.5 * 2^23: a sum with it is rounded to a whole number
// |x|^y with the sign that x^y has, where |x| is no normal number or the result may not be one.
__device__ __noinline__ float gems_power_beside(float x, float y) {
    const float inf = Limits<float>::inf();
    float a = abs(x), b = abs(y);
    if (y == 0.0f || x == 1.0f) return 1.0f;
    if (!(a <= inf) || !(b <= inf)) return x + y;
    if (b == inf) return a == 1.0f ? 1.0f : (a > 1.0f) == (y > 0.0f) ? inf : 0.0f;
    bool small = a < 1.17549435e-38f;
    gems_two t = gems_power_log(small ? a * 16777216.0f : a, small ? -24.0f : 0.0f, y);
    float v = 0.0f;
    if (a == 0.0f || a == inf) v = (a == inf) == (y > 0.0f) ? inf : 0.0f;
    else if (t.most >= 129.0f) v = inf;
    else if (t.most > -152.0f) {
        float n = t.most + gems_power_whole;
        int32_t whole = (int32_t)(float_bits(n) - float_bits(gems_power_whole)), half = whole >> 1;
        v = gems_power_exp((t.most - (n - gems_power_whole)) + t.rest);
        v = v * bits_float((uint32_t)(half + 127) << 23) * bits_float((uint32_t)(whole - half + 127) << 23);
    }
    return signbit(x) && trunc(y) == y && trunc(0.5f * y) != 0.5f * y ? -v : v;
}
GEMS_DI float power_near(float x, float y) {
    float a = abs(x);
    gems_two t = gems_power_log(a, 0.0f, y);
    float n = t.most + gems_power_whole, v = gems_power_exp((t.most - (n - gems_power_whole)) + t.rest);
    v = bits_float(float_bits(v) + (float_bits(n) << 23));
    bool common = float_bits(a) - 0x00800000u < 0x7f000000u && abs(t.most) < 125.0f;
    if (!common) v = gems_power_beside(x, y);
    else if (x < 0.0f && trunc(0.5f * y) != 0.5f * y) v = -v; // an odd y; NaN takes its place where y is not whole
    return x < 0.0f && abs(x) < Limits<float>::inf() && trunc(y) != y ? Limits<float>::nan() : v;
}

} // namespace gems
#endif
