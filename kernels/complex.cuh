// Complex arithmetic and functions of the contract: after gems.cuh in the programs that have complex dtypes, and in no others.
// Special values are those of C's Annex G, which ATen has from the C library on a CPU and from thrust on a GPU; a product is
// the plain one, as ATen's. Choices are made between values, not by branches, so that loops vectorise on a CPU.
namespace gems {

template <class P> GEMS_DI bool is_infinite_part(P v) { return v == Limits<P>::inf() || v == -Limits<P>::inf(); }
template <class P> GEMS_DI bool is_wild(P v) { return !(v - v == P(0)); } // infinite or NaN

// Where exp leaves a type, e to that, and between what squares and halves are safe.
template <class P> struct Bounds;
template <> struct Bounds<float> { static constexpr float shift = 87, lift = 6.0760302250568721e37f, large = 8e37f, small = 2e-31f; };
template <> struct Bounds<double> { static constexpr double shift = 709, lift = 8.2184074615549724e307, large = 4e307, small = 2e-292; };

// ---- arithmetic
template <class P> GEMS_DI Complex<P> operator-(Complex<P> a) { return {-a.re, -a.im}; }
template <class P> GEMS_DI Complex<P> operator+(Complex<P> a, Complex<P> b) { return {a.re + b.re, a.im + b.im}; }
template <class P> GEMS_DI Complex<P> operator-(Complex<P> a, Complex<P> b) { return {a.re - b.re, a.im - b.im}; }
template <class P> GEMS_DI Complex<P> operator*(Complex<P> a, Complex<P> b) {
    return {a.re * b.re + a.im * -b.im, a.re * b.im + a.im * b.re}; // two sums: GCC fuses a difference beside a sum
}
template <class P> GEMS_DI Complex<P> times(Complex<P> a, P b) { return {a.re * b, a.im * b}; }
// By the larger part of the divisor first: no square of it can overflow. By 0 both parts are divided.
template <class P> GEMS_DI Complex<P> operator/(Complex<P> a, Complex<P> b) {
    const P c = abs(b.re), d = abs(b.im);
    const bool wide = c >= d, zero = (c == P(0)) & (d == P(0));
    const P large = wide ? b.re : b.im, small = wide ? b.im : b.re;
    const P u = wide ? a.re : a.im, v = wide ? a.im : a.re;
    const P ratio = small / large, scale = P(1) / (large + small * ratio);
    const P re = (u + v * ratio) * scale, im = (wide ? v - u * ratio : u * ratio - v) * scale;
    return {zero ? a.re * Limits<P>::inf() : re, zero ? a.im * Limits<P>::inf() : im};
}
template <class P> GEMS_DI bool operator==(Complex<P> a, Complex<P> b) { return (a.re == b.re) & (a.im == b.im); }
template <class P> GEMS_DI bool operator!=(Complex<P> a, Complex<P> b) { return (a.re != b.re) | (a.im != b.im); }
template <class P> GEMS_DI Complex<P> conj(Complex<P> a) { return {a.re, -a.im}; }

// ---- of the parts
template <class P> struct SinCos { P s, c; };
GEMS_DI SinCos<float> sin_cos(float x) {
#if GEMS_CPU
    gems_sincos v = gems_sin_cos(x);
    return {(float)v.s, (float)v.c};
#else
    SinCos<float> v;
    ::sincosf(x, &v.s, &v.c);
    return v;
#endif
}
GEMS_DI SinCos<double> sin_cos(double x) {
    SinCos<double> v;
#if GEMS_CPU
    v = {sin(x), cos(x)};
#else
    ::sincos(x, &v.s, &v.c);
#endif
    return v;
}
// e^x of an x that may be too large for it, as a product: e^x * v is of(v).
template <class P> struct Growth {
    P rest, lift;
    GEMS_DI explicit Growth(P x) {
        const bool far = x > Bounds<P>::shift;
        rest = exp(far ? x - Bounds<P>::shift : x), lift = far ? Bounds<P>::lift : P(1);
    }
    GEMS_DI P of(P v) const { return v * lift * rest; }
};
GEMS_DI float magnitude(float x, float y) {
#if GEMS_CPU
    float r = (float)sqrt((double)x * x + (double)y * y);
    return is_infinite_part(x) | is_infinite_part(y) ? Limits<float>::inf() : r;
#else
    return hypot(x, y);
#endif
}
GEMS_DI double magnitude(double x, double y) {
#if GEMS_CPU
    const double a = abs(x), b = abs(y), large = a > b ? a : b, ratio = (a > b ? b : a) / large;
    double r = large == 0 ? b + a : large * sqrt(1 + ratio * ratio);
    return is_infinite_part(x) | is_infinite_part(y) ? Limits<double>::inf() : r;
#else
    return hypot(x, y);
#endif
}
// The logarithm of |x + iy|. Near 1 it is that of x^2 + y^2 - 1, summed with what rounding takes from each term.
template <class P> GEMS_DI P log_magnitude(P x, P y) {
    const P a = abs(x), b = abs(y), m = a > b ? a : b, n = a > b ? b : a;
    const P p = m * m, q = n * n, p_low = fma(m, m, -p), q_low = fma(n, n, -q);
    const P less = p - P(1), lost = p - (less + P(1)), sum = less + q, part = sum - less;
    const P rest = (less - (sum - part)) + (q - part) + lost + p_low + q_low;
    const bool near = (p + q > P(0.5)) & (p + q < P(3));
    const P ratio = n / m, squared = m == P(0) ? P(0) : ratio * ratio;
    const P r = P(0.5) * log1p(near ? sum + rest : squared) + (near ? P(0) : log(m));
    return is_infinite_part(x) | is_infinite_part(y) ? Limits<P>::inf() : x + y != x + y ? Limits<P>::nan() : r;
}

// ---- functions
template <class P> GEMS_DI P absolute(Complex<P> a) { return magnitude(a.re, a.im); }
template <class P> GEMS_DI P angle(Complex<P> a) { return atan2(a.im, a.re); }
template <class P> GEMS_DI bool is_infinite(Complex<P> a) { return is_infinite_part(a.re) | is_infinite_part(a.im); }

template <class P> GEMS_DI Complex<P> exp(Complex<P> a) {
    const SinCos<P> t = sin_cos(a.im);
    const Growth<P> e(a.re);
    P re = e.of(t.c), im = a.im == P(0) ? a.im : e.of(t.s);
    const bool end = is_infinite_part(a.re) & is_wild(a.im);
    re = end ? (a.re > P(0) ? Limits<P>::inf() : P(0)) : re;
    im = end ? (a.re > P(0) ? Limits<P>::nan() : copysign(P(0), a.im)) : im;
    return {re, im};
}
template <class P> GEMS_DI Complex<P> exp2(Complex<P> a) { return exp(times(a, P(0.69314718055994530942))); }
template <class P> GEMS_DI Complex<P> expm1(Complex<P> a) {
    const SinCos<P> t = sin_cos(a.im), half = sin_cos(a.im / P(2));
    return {expm1(a.re) * t.c - P(2) * half.s * half.s, exp(a.re) * t.s};
}
template <class P> GEMS_DI Complex<P> log(Complex<P> a) { return {log_magnitude(a.re, a.im), atan2(a.im, a.re)}; }
template <class P> GEMS_DI Complex<P> divided(Complex<P> a, P b) { return {a.re / b, a.im / b}; }
template <class P> GEMS_DI Complex<P> log2(Complex<P> a) { return divided(log(a), P(0.69314718055994530942)); }
template <class P> GEMS_DI Complex<P> log10(Complex<P> a) { return divided(log(a), P(2.30258509299404568402)); }
// The nearer one to ATen's on each device: they differ where a part is infinite.
template <class P> GEMS_DI Complex<P> log1p(Complex<P> a) {
#if GEMS_CPU
    const Complex<P> u(a.re + P(1), a.im), kept(u.re - P(1), u.im), l = log(u), r = l * (a / kept);
    return u == Complex<P>(P(1)) ? a : kept == a ? l : r;
#else
    const P x = a.re + P(1), y = a.im, angle = atan2(y, x);
    // |1 + a|^2 - 1 where nothing is lost by it
    const P r = a.re * (P(2) + a.re) + y * y;
    const bool small = abs(a.re) + abs(y) < P(0.5);
    const P re = small ? (r == P(0) ? a.re : P(0.5) * log1p(r)) : log_magnitude(x, y);
    return {re, angle};
#endif
}
template <class P> GEMS_DI Complex<P> sqrt(Complex<P> a) {
    constexpr P large = Bounds<P>::large, small = Bounds<P>::small;
    const P m = abs(a.re) > abs(a.im) ? abs(a.re) : abs(a.im);
    const P scale = m > large ? P(0.0625) : m < small ? P(18014398509481984.0) : P(1);      // 2^54
    const P back = m > large ? P(4) : m < small ? P(7.450580596923828125e-09) : P(1);       // 2^-27
    const P x = abs(a.re) * scale, y = abs(a.im) * scale;
    const P t = sqrt((x + magnitude(x, y)) * P(0.5)), other = y / (P(2) * t);
    const bool zero = (a.re == P(0)) & (a.im == P(0)), right = a.re >= P(0);
    const P re = zero ? P(0) : (right ? t : other) * back, im = zero ? abs(a.im) : (right ? other : t) * back;
    const bool end = is_infinite_part(a.im);
    return {end ? Limits<P>::inf() : re, copysign(end ? Limits<P>::inf() : im, a.im)};
}
// 1 / a; by an infinity 0, as in C.
template <class P> GEMS_DI Complex<P> inverse(Complex<P> a) {
    const Complex<P> r = Complex<P>(P(1)) / a;
    const bool end = is_infinite(a);
    return {end ? copysign(P(0), a.re) : r.re, end ? copysign(P(0), -a.im) : r.im};
}
template <class P> GEMS_DI Complex<P> rsqrt(Complex<P> a) { return inverse(sqrt(a)); }

// sinh x and cosh x: times of(v), which is v, but for an x too large for them.
template <class P> struct Hyperbolic {
    P s, c;
    Growth<P> growth;
    bool far;
    GEMS_DI explicit Hyperbolic(P x) : growth(abs(x)) {
        far = abs(x) > Bounds<P>::shift;
        s = far ? copysign(P(0.5), x) : sinh(x), c = far ? P(0.5) : cosh(x);
    }
    GEMS_DI P of(P v) const { return far ? growth.of(v) : v; }
};
template <class P> GEMS_DI Complex<P> sinh(Complex<P> a) {
    const Hyperbolic<P> h(a.re);
    const SinCos<P> t = sin_cos(a.im);
    const bool end = is_infinite_part(a.re) & is_wild(a.im);
    const P re = (a.re == P(0)) & is_wild(a.im) ? a.re : h.of(h.s * t.c), im = a.im == P(0) ? a.im : h.of(h.c * t.s);
    return {end ? Limits<P>::inf() : re, end ? Limits<P>::nan() : im};
}
template <class P> GEMS_DI Complex<P> cosh(Complex<P> a) {
    const Hyperbolic<P> h(a.re);
    const SinCos<P> t = sin_cos(a.im);
    const bool end = is_infinite_part(a.re) & is_wild(a.im), flat = ((a.re == P(0)) & is_wild(a.im)) | (a.im == P(0));
    const P sign = copysign(P(1), a.re == a.re ? a.re : P(1));
    const P re = h.of(h.c * t.c), im = flat ? copysign(P(0), a.im) * sign : h.of(h.s * t.s);
    return {end ? Limits<P>::inf() : re, end ? Limits<P>::nan() : im};
}
template <class P> GEMS_DI Complex<P> tanh(Complex<P> a) {
    const P size = abs(a.re);
    const SinCos<P> t = sin_cos(a.im);
    const bool far = size > P(20), endless = is_infinite_part(a.re), wild = is_wild(a.im);
    const P x = far ? P(1) : a.re, s = sinh(x), c = cosh(x), across = t.s * t.c, whole = s * s + t.c * t.c;
    P re = far ? copysign(P(1), a.re) : s * c / whole, im = far ? P(4) * across * exp(P(-2) * size) : across / whole;
    im = endless ? copysign(P(0), wild ? a.im : across) : im;
    const bool level = a.im == P(0);
    re = wild & !endless ? (a.re == P(0) ? a.re : Limits<P>::nan()) : re;
    return {level ? tanh(a.re) : re, level ? a.im : im};
}
// What they are of i * a, turned back.
template <class P> GEMS_DI Complex<P> sin(Complex<P> a) {
    const Complex<P> w = sinh(Complex<P>(-a.im, a.re));
    return {w.im, is_wild(a.re) & is_infinite_part(a.im) ? Limits<P>::inf() : -w.re};
}
template <class P> GEMS_DI Complex<P> cos(Complex<P> a) { return cosh(Complex<P>(-a.im, a.re)); }
template <class P> GEMS_DI Complex<P> tan(Complex<P> a) {
    const Complex<P> w = tanh(Complex<P>(-a.im, a.re));
    return {w.im, -w.re};
}
// The inverse functions by square roots of 1 - a and 1 + a, of which nothing is lost near the branch points (W. Kahan).
template <class P> GEMS_DI Complex<P> asin(Complex<P> a) {
    const Complex<P> low = sqrt(Complex<P>(P(1) - a.re, -a.im)), high = sqrt(Complex<P>(P(1) + a.re, a.im));
    const bool end = is_infinite(a), still = (a.re == P(0)) & (a.im != a.im);
    const P re = atan2(a.re, end ? abs(a.im) : (low * high).re), im = asinh((conj(low) * high).im);
    return {still ? a.re : re, end ? copysign(Limits<P>::inf(), a.im) : copysign(im, a.im)};
}
template <class P> GEMS_DI Complex<P> acos(Complex<P> a) {
    const Complex<P> low = sqrt(Complex<P>(P(1) - a.re, -a.im)), high = sqrt(Complex<P>(P(1) + a.re, a.im));
    const bool end = is_infinite(a), still = (a.re == P(0)) & (a.im != a.im);
    const P re = end ? atan2(abs(a.im), a.re) : P(2) * atan2(low.re, high.re), im = asinh((conj(high) * low).im);
    return {still ? P(1.57079632679489661923) : re, copysign(end ? Limits<P>::inf() : im, -a.im)};
}
template <class P> GEMS_DI Complex<P> asinh(Complex<P> a) {
    const Complex<P> w = asin(Complex<P>(-a.im, a.re));
    return {w.im, -w.re};
}
template <class P> GEMS_DI Complex<P> acosh(Complex<P> a) {
    const Complex<P> w = acos(a);
    return {abs(w.im), copysign(w.re, a.im)};
}
template <class P> GEMS_DI Complex<P> atanh(Complex<P> a) {
    const P x = abs(a.re), y = abs(a.im), size = x > y ? x : y;
    const bool far = size > (sizeof(P) == 4 ? P(1e8) : P(1e16)), end = is_infinite(a), still = x == P(0);
    const P away = P(1) - x, near = away * away + y * y, ratio = far ? y / size : y, across = far ? x / size : x;
    const P re = far ? across / (across * across + ratio * ratio) / size : P(0.25) * log1p(P(4) * x / near);
    const P im = x + y != x + y ? x + y : far ? P(1.57079632679489661923) : P(0.5) * atan2(P(2) * y, away * (P(1) + x) - y * y);
    return {copysign(still | (end & (a.re == a.re || y == Limits<P>::inf())) ? P(0) : re, a.re),
            copysign(end ? (a.im == a.im ? P(1.57079632679489661923) : a.im) : im, a.im)};
}
template <class P> GEMS_DI Complex<P> atan(Complex<P> a) {
    const Complex<P> w = atanh(Complex<P>(-a.im, a.re));
    return {w.im, -w.re};
}
template <class P> GEMS_DI Complex<P> sigmoid(Complex<P> a) { return inverse(Complex<P>(P(1)) + exp(-a)); }
// On a CPU ATen's is the C library's, whose product finds the infinity where the plain one has NaN in both parts.
template <class P> GEMS_DI P only_sign(P v, bool infinite) { return copysign(infinite ? P(1) : P(0), v); }
template <class P> GEMS_DI Complex<P> exponent_of(Complex<P> a, Complex<P> b) {
    Complex<P> r = a * b;
#if GEMS_CPU
    if (__builtin_expect((r.re != r.re) & (r.im != r.im), 0)) {
        const bool wide = is_infinite(a), far = is_infinite(b);
        const bool over = is_infinite_part(a.re * b.re) | is_infinite_part(a.im * b.im) | is_infinite_part(a.re * b.im) |
                          is_infinite_part(a.im * b.re);
        if (!wide & !far & !over) return r;
        Complex<P> x = a, y = b;
        if (wide) x = {only_sign(a.re, is_infinite_part(a.re)), only_sign(a.im, is_infinite_part(a.im))};
        if (far) y = {only_sign(b.re, is_infinite_part(b.re)), only_sign(b.im, is_infinite_part(b.im))};
        x = {x.re == x.re ? x.re : copysign(P(0), x.re), x.im == x.im ? x.im : copysign(P(0), x.im)};
        y = {y.re == y.re ? y.re : copysign(P(0), y.re), y.im == y.im ? y.im : copysign(P(0), y.im)};
        r = times(x * y, Limits<P>::inf());
    }
#endif
    return r;
}
template <class P> GEMS_DI Complex<P> pow(Complex<P> a, Complex<P> b) { return exp(exponent_of(b, log(a))); }

// ---- what expressions of rows call
template <class P> GEMS_DI Complex<P> once(Complex<P> a) { return Complex<P>(P(1)) * a; }
template <class P> GEMS_DI Complex<P> power(Complex<P> a, Complex<P> b) { return pow(a, b); }
template <class P> GEMS_DI Complex<P> sign_of(Complex<P> a) {
    const P size = magnitude(a.re, a.im);
    return size == P(0) ? Complex<P>(P(0)) : divided(a, size);
}
template <class P> GEMS_DI Complex<P> lerp(Complex<P> a, Complex<P> b, Complex<P> weight) {
    const Complex<P> d = b - a, one(P(1));
    const bool near = weight.re * weight.re + weight.im * weight.im < P(0.25);
    return near ? a + weight * d : b - d * (one - weight);
}

} // namespace gems
