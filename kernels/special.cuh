// Special functions of elementwise rows. A row names this file as its helper.
using namespace gems;

// pi / tan(pi * x) of an x within 1/2.
template <class T> GEMS_DI T pi_cotangent(T x) {
    const T pi = T(3.14159265358979323846);
#if GEMS_CPU
    return pi / tan(pi * x);
#else
    return pi * ::cospi(x) / ::sinpi(x); // without the way that tan has for far angles
#endif
}
// Recurrence up to 10, then the asymptotic series; below 0 by reflection.
template <class T> GEMS_DI T digamma_of(T x) {
    T sum = T(0);
    if (x == T(0)) return copysign(Limits<T>::inf(), -x);
    if (x < T(0)) {
        const T part = x - nearbyint(x); // beside a pole small, and exact
        if (part == T(0)) return Limits<T>::nan();
        sum = -pi_cotangent(part);
        x = T(1) - x;
    }
    for (; x < T(10); x += T(1)) sum -= T(1) / x;
    T z = T(1) / (x * x), y = T(1.0 / 12);
    y = y * z - T(691.0 / 32760);
    y = y * z + T(1.0 / 132);
    y = y * z - T(1.0 / 240);
    y = y * z + T(1.0 / 252);
    y = y * z - T(1.0 / 120);
    y = y * z + T(1.0 / 12);
    return sum + log(x) - T(0.5) / x - y * z;
}
GEMS_DI double digamma(double x) { return digamma_of(x); }
#if GEMS_CPU
GEMS_DI float digamma(float x) { return gems_digamma(x); }
#else
GEMS_DI float digamma(float x) { return digamma_of(x); }
#endif

// A negative eps is none. The limits are chosen before a is: a choice within the loop would not vectorise.
template <class T> GEMS_DI T logit(T a, bool has_eps, T eps) {
    const bool limited = has_eps && eps >= T(0);
    const T low = limited ? eps : -Limits<T>::inf(), high = limited ? T(1) - eps : Limits<T>::inf();
    T most = a > high ? high : a;
    a = a < low ? low : most;
    return log(a / (T(1) - a));
}
template <class T> GEMS_DI T logit_gradient(T grad, T a, bool has_eps, T eps) {
    const bool limited = has_eps && eps >= T(0);
    const T low = limited ? eps : T(0), high = T(1) - low;
    T inside = grad / (a * (T(1) - a));
    T edge = (a == T(0)) | (a == T(1)) ? grad * Limits<T>::inf() : inside;
    return (a < low) | (a > high) ? (limited ? T(0) : Limits<T>::nan()) : limited ? inside : edge;
}

template <class T> GEMS_DI T x_log(T a, T b) {
    T product = a * log(b);
    product = a == T(0) ? T(0) : product;
    return b != b ? b : product;
}
template <class T> GEMS_DI T x_log1p(T a, T b) {
    T product = a * log1p(b);
    product = a == T(0) ? T(0) : product;
    return b != b ? b : product;
}
// Equal infinities are their own sum.
template <class T> GEMS_DI T log_of_sum(T a, T b) {
    T sum = (a > b ? a : b) + log1p(exp(-abs(a - b)));
    return (a == b) & (abs(a) == Limits<T>::inf()) ? a : sum;
}
template <class T> GEMS_DI T log2_of_sum(T a, T b) {
    T sum = (a > b ? a : b) + log1p(exp2(-abs(a - b))) * T(1.44269504088896340736);
    return (a == b) & (abs(a) == Limits<T>::inf()) ? a : sum;
}
template <class T> GEMS_DI T entropy(T a) {
    T r = a > T(0) ? -a * log(a) : a == T(0) ? T(0) : -Limits<T>::inf();
    return a != a ? a : r;
}
