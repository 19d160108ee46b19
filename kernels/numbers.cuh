// Functions of elementwise rows: decimals, signs, neighbours, divisors. A row names this file as its helper.
using namespace gems;

// 10^n, exact as long as it can be; of an n from 512 on infinite. No loop, so that one over elements vectorises.
GEMS_DI double power_of_ten(int64_t n) {
    double low = (n & 1 ? 1e1 : 1.0) * (n & 2 ? 1e2 : 1.0) * (n & 4 ? 1e4 : 1.0) * (n & 8 ? 1e8 : 1.0);
    double high = (n & 16 ? 1e16 : 1.0) * (n & 32 ? 1e32 : 1.0) * (n & 64 ? 1e64 : 1.0) * (n & 128 ? 1e128 : 1.0);
    return low * high * (n & 256 ? 1e256 : 1.0) * (n > 511 ? 1e308 * 1e308 : 1.0);
}
template <class T> GEMS_DI T rounded_to(T a, int64_t decimals) {
    const T scale = T(power_of_ten(decimals < 0 ? -decimals : decimals));
    return decimals < 0 ? nearbyint(a / scale) * scale : nearbyint(a * scale) / scale;
}

// What stands for NaN and the infinities; the limits are those of the result's type R.
template <class R, class T>
GEMS_DI T finite_of(T a, T nan, bool has_high, T high, bool has_low, T low) {
    if constexpr (is_float<T>) {
        const T most = has_high ? high : T(to_op(Limits<R>::max())), least = has_low ? low : T(to_op(Limits<R>::lowest()));
        T r = a != a ? nan : a;
        r = a == Limits<T>::inf() ? most : r;
        return a == -Limits<T>::inf() ? least : r;
    } else {
        return a;
    }
}

template <class T> GEMS_DI bool sign_bit(T a) {
    if constexpr (is_float<T>) return signbit(a);
    else return a < T(0);
}
template <class T> GEMS_DI bool is_signed_infinity(T a, bool negative) {
    if constexpr (is_float<T>) return a == (negative ? -Limits<T>::inf() : Limits<T>::inf());
    else return false;
}
template <class T> GEMS_DI T step(T a, T at_zero) {
    if constexpr (is_same<T, bool>) return a || at_zero;
    else return a == T(0) ? at_zero : T(a > T(0));
}

template <class T> GEMS_DI T larger(T a, T b) {
    if constexpr (is_float<T>) return fmax(a, b);
    else return a > b ? a : b;
}
template <class T> GEMS_DI T smaller(T a, T b) {
    if constexpr (is_float<T>) return fmin(a, b);
    else return a < b ? a : b;
}

template <int BYTES> struct Bits { typedef uint32_t type; };
template <> struct Bits<2> { typedef uint16_t type; };
template <> struct Bits<8> { typedef uint64_t type; };
// In storage types: one bit pattern up or down.
template <class T> GEMS_DI T next_after(T a, T b) {
    typedef typename Bits<sizeof(T)>::type U;
    auto x = to_op(a), y = to_op(b);
    if (x != x) return a;
    if (y != y || x == y) return b;
    const U sign = U(U(1) << (8 * sizeof(T) - 1));
    U u;
    memcpy(&u, &a, sizeof u);
    if (x == 0) u = U((y < 0 ? sign : 0) | 1);
    else u = U((x < y) == (x > 0) ? u + 1 : u - 1);
    T r;
    memcpy(&r, &u, sizeof u);
    return r;
}

template <class T> GEMS_DI T magnitude(T a) { return a < T(0) ? T(uint64_t(0) - uint64_t(a)) : a; }
template <class T> GEMS_DI T common_divisor(T a, T b) {
    a = magnitude(a), b = magnitude(b);
    while (a != T(0)) {
        T rest = T(b % a);
        b = a, a = rest;
    }
    return b;
}
// The magnitude of a small integer's product is taken before it wraps, as C promotes it. With the least integer the divisor
// can be -1: there the quotient wraps.
template <class T> GEMS_DI T common_multiple(T a, T b) {
    typedef either<sizeof(T) < 4, int32_t, T> W;
    T divisor = common_divisor(a, b);
    if (divisor == T(0)) return T(0);
    T quotient = T(0) > T(-1) && divisor == T(-1) ? T(uint64_t(0) - uint64_t(a)) : T(a / divisor);
    return T(magnitude(W(uint64_t(quotient) * uint64_t(b))));
}
