// Parts of the contract that only kernels with tensor cores need: two floats rounded into one register, and an exponential
// that flushes what is below the normal numbers. On a CPU the portable forms.
namespace gems {

template <class T> GEMS_DI uint32_t round_pair(float low, float high) {
#if GEMS_CPU
    return (uint32_t)from_op<T>(low).x | (uint32_t)from_op<T>(high).x << 16;
#else
    uint32_t r;
    if constexpr (is_same<T, bf16>) asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low));
    else asm("cvt.rn.f16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
#endif
}
GEMS_DI float exp2_near(float x) {
#if GEMS_CPU
    return exp2(x);
#else
    float r;
    asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

}  // namespace gems
