// A part of the contract for programs that count their instructions: quotients of common numbers, without the steps that
// the others need. On a CPU divisions.
namespace gems {

// 1 / d of a normal d, to a unit of the last place; 0 where that is subnormal. Of doubles all are exact.
GEMS_DI float reciprocal_near(float d) {
#if GEMS_CPU
    return 1.0f / d;
#else
    float r;
    asm("rcp.approx.ftz.f32 %0,%1;" : "=f"(r) : "f"(d));
    return r;
#endif
}
GEMS_DI double reciprocal_near(double d) { return 1.0 / d; }
// n / d of finite numbers, d below 2^126.
GEMS_DI float quotient_near(float n, float d) {
#if GEMS_CPU
    return n / d;
#else
    float by = reciprocal_near(d), q = n * by;
    return fma(fma(-q, d, n), by, q);
#endif
}
GEMS_DI double quotient_near(double n, double d) { return n / d; }

} // namespace gems
