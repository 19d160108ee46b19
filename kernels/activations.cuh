// Activations, and gradients of activations and losses. A row names this file as its helper.
using namespace gems;

// Of 0 and NaN ATen takes the upper branch on a CPU, the lower one on a GPU.
template <class T> GEMS_DI T elu(T a, T low, T high, T inner) {
    const bool below = GEMS_CPU ? a < T(0) : !(a > T(0));
    return below ? expm1(a * inner) * low : a * high;
}
template <bool OF_RESULT, class T> GEMS_DI T elu_gradient(T grad, T a, T low, T high, T inner) {
    T below = OF_RESULT ? grad * inner * (a + low) : grad * inner * low * exp(a * inner);
    return a <= T(0) ? below : grad * high;
}
template <class T> GEMS_DI T relu6(T a) {
    T low = a < T(0) ? T(0) : a; // NaN stays
    return low > T(6) ? T(6) : low;
}
// For a result of 16 bits a CPU needs fewer digits.
template <bool HALF, class T> GEMS_DI T sigmoid_for(T x) {
#if GEMS_CPU
    if constexpr (HALF) {
        T c = gems_at_most(abs(x), T(80)), n = fma(c, -1.44269504f, gems_whole + 127.0f);
        T f = fma(c, -1.44269504f, (gems_whole + 127.0f) - n), e = 5.516985804e-02f; // 2^f
        e = fma(e, f, 2.426205128e-01f);
        e = fma(e, f, 6.932619810e-01f);
        e = fma(e, f, 9.999275208e-01f) * bits_float(float_bits(n) << 23);
        T r = 1.0f / (1.0f + e);
        r = x < T(0) ? e * r : r;
        return x == x ? r : x;
    }
#endif
    return sigmoid(x);
}
// v / BY; for a result of 16 bits a product is as good, and a division is slow.
template <int BY, bool HALF, class T> GEMS_DI T part_of(T v) {
    if constexpr (HALF) return v * T(1.0 / BY);
    else return v / T(BY);
}
template <bool HALF, class T> GEMS_DI T hardswish_gradient(T grad, T a) {
    T r = a < T(3) ? grad * (part_of<3, HALF>(a) + T(0.5)) : grad;
    return a <= T(-3) ? T(0) : r;
}
template <class T> GEMS_DI T softplus_gradient(T grad, T a, T threshold) {
    T z = exp(a);
    return a > threshold ? grad : grad * z / (z + T(1));
}
// tanh(log(1 + u)) is w / (w + 2) with w = u * (u + 2); from 20 on, where w would overflow later, it is 1.
template <class T> GEMS_DI T mish(T a) {
    T u = exp(a > T(20) ? T(20) : a), w = fma(u, u, u + u);
    return a * quotient_near(w, w + T(2));
}
template <class T> GEMS_DI T mish_gradient(T grad, T a) {
    T u = exp(a > T(20) ? T(20) : a), w = fma(u, u, u + u), by = reciprocal_near(w + T(2)), slope = T(4) * fma(u, u, u) * by * by;
    return grad * (a > T(20) ? fma(a, T(0), T(1)) : fma(a, slope, w * by)); // NaN of infinity
}

// Losses in the difference d, and their slopes.
template <class T> GEMS_DI T smooth_l1(T d, T beta) {
    T z = abs(d);
    return z < beta ? T(0.5) * z * z / beta : z - T(0.5) * beta;
}
template <class T> GEMS_DI T huber(T d, T delta) {
    T z = abs(d);
    return z <= delta ? T(0.5) * z * z : delta * (z - T(0.5) * delta);
}
template <class T> GEMS_DI T smooth_l1_gradient(T d, T beta) {
    T r = d >= beta ? T(1) : d / beta;
    return d <= -beta ? T(-1) : r;
}
template <class T> GEMS_DI T huber_gradient(T d, T delta) {
    T r = d >= delta ? delta : d;
    return d <= -delta ? -delta : r;
}
template <class T> GEMS_DI T bce_gradient(T grad, T a, T target, bool has_weight, T weight) {
    T r = grad * (a - target) / max_nan((T(1) - a) * a, T(1e-12));
    return has_weight ? r * weight : r;
}
