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
template <class T> GEMS_DI T relu6(T a) { return min_nan(max_nan(a, T(0)), T(6)); }
// v / BY; for a result of 16 bits a product is as good, and a division is slow.
template <int BY, class T> GEMS_DI T part_of(T v) {
    if constexpr (is_half<result_t>) return v * T(1.0 / BY);
    else return v / T(BY);
}
template <class T> GEMS_DI T hardswish_gradient(T grad, T a) {
    T r = a < T(3) ? grad * (part_of<3>(a) + T(0.5)) : grad;
    return a <= T(-3) ? T(0) : r;
}
template <class T> GEMS_DI T softplus_gradient(T grad, T a, T threshold) {
    T z = exp(a);
    return a > threshold ? grad : grad * z / (z + T(1));
}
template <class T> GEMS_DI T mish(T a) { return a * tanh(log1p(exp(a))); }
template <class T> GEMS_DI T mish_gradient(T grad, T a) {
    T t = tanh(log1p(exp(a)));
    return grad * (t + a * sigmoid(a) * (T(1) - t * t));
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
