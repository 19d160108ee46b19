// Elementwise work: one expression over up to five inputs, up to three outputs. The program's head (csrc/families/
// elementwise_program.c) says over what:
//   compute_t, common_t, result_t   the type of the expression, the inputs' promoted type, ATen's result type
//   EW_INPUTS(X)    X(index, name, storage type, type read through, type of the name, flag): tensors that are read
//   EW_OUTPUTS(X)   X(index, storage type, expression)
//   EW_NUMBERS(X)   X(type, name): kernel arguments that the expression reads
//   EW_GIVEN        constants: whether optional arguments were given
//   EW_CLASS        the shape class: 0 dense, 1 rows, 2 strided, 3 tiled
//   Index, kVector (elements of an access), kRank, kTensors, kUnroll (accesses of a thread in flight), kThreads
using namespace gems;

// ---- functions that expressions may use besides the contract's
template <class T> GEMS_DI T maximum(T a, T b) {
    if constexpr (is_float<T>) return max_nan(a, b);
    else return a > b ? a : b;
}
template <class T> GEMS_DI T minimum(T a, T b) {
    if constexpr (is_float<T>) return min_nan(a, b);
    else return a < b ? a : b;
}
// Integers: INT_MIN / -1 wraps, x / 0 is 0 (a GPU raises no error).
template <class T> GEMS_DI T div_trunc(T a, T b) {
    if constexpr (is_float<T>) return trunc(a / b);
    else if (b == 0) return T(0);
    else if (T(0) > T(-1) && b == T(-1)) return T(uint64_t(0) - uint64_t(a));
    else return T(a / b);
}
// Expressions that name kNear have a form for common arguments, which vectorises on a CPU; the row's helper defines EW_NEAR,
// their condition (kernels/cpu/math.h). Elsewhere kNear is false.
#if GEMS_CPU
#define EW_NEAR_FORM(near_form, form) \
    if constexpr (NEAR && is_same<T, float>) return near_form; \
    else return form;
#else
#define EW_NEAR_FORM(near_form, form) return form;
#endif
template <bool NEAR, class T> GEMS_DI T sine(T a) { EW_NEAR_FORM(sin_near(a), sin(a)) }
template <bool NEAR, class T> GEMS_DI T cosine(T a) { EW_NEAR_FORM(cos_near(a), cos(a)) }
template <bool NEAR, class T> GEMS_DI T tangent(T a) { EW_NEAR_FORM(tan_near(a), tan(a)) }
template <bool NEAR, class T> GEMS_DI T logarithm(T a) { EW_NEAR_FORM(log_near(a), log(a)) }
template <bool NEAR, class T> GEMS_DI T logarithm2(T a) { EW_NEAR_FORM(log2_near(a), log2(a)) }
template <bool NEAR, class T> GEMS_DI T logarithm10(T a) { EW_NEAR_FORM(log10_near(a), log10(a)) }
template <bool NEAR, class T> GEMS_DI T mod_floor(T a, T b) {
    EW_NEAR_FORM(gems_mod_down(b, fmod_near(a, b)), mod_floor(a, b))
}
template <bool NEAR, class T> GEMS_DI T div_floor(T a, T b) {
    EW_NEAR_FORM(gems_div_down(a, b, fmod_near(a, b)), div_floor(a, b))
}
// By the same b for all elements: as ATen on a GPU, times 1 / b.
template <bool NEAR, class T> GEMS_DI T div_floor_by(T a, T b) {
    if constexpr (GEMS_CPU || !is_float<T>) return div_floor<NEAR>(a, b);
    else return div_floor(a, b, [&](T d) { return d * (T(1) / b); });
}
template <bool NEAR, class T> GEMS_DI T mod_trunc(T a, T b) {
    if constexpr (is_float<T>) { EW_NEAR_FORM(fmod_near(a, b), fmod(a, b)) }
    else if (b == 0 || (T(0) > T(-1) && b == T(-1))) return T(0);
    else return T(a % b);
}
// Integers: products wrap; a negative exponent leaves 1 and -1 alone and makes 0 of the rest.
template <class T> GEMS_DI T power(T a, T b) {
#if !GEMS_CPU
    if constexpr (is_same<T, float>) return power_near(a, b);
#endif
    if constexpr (is_float<T>) return pow(a, b);
    else {
        if (b < 0) return a == T(1) ? T(1) : a == T(-1) ? (b % 2 ? T(-1) : T(1)) : T(0);
        uint64_t base = uint64_t(a), result = 1;
        for (T e = b; e; e = T(e / 2)) {
            if (e & 1) result *= base;
            base *= base;
        }
        return T(result);
    }
}
// By 0, and of 1: of a complex number the logarithm's way would make NaN of some.
template <class T> GEMS_DI T scalar_power(T a, T b) {
    if constexpr (is_complex<T>) return b == T(0) ? T(1) : power(a, b);
    else return power(a, b);
}
template <class T> GEMS_DI T power_of_scalar(T a, T b) {
    if constexpr (is_complex<T>) return a == T(1) ? T(1) : power(a, b);
    else return power(a, b);
}
template <class T> GEMS_DI T bit_not(T a) {
    if constexpr (is_same<T, bool>) return !a;
    else return T(~a);
}
// Shifts by less than nothing or by the width and more give what a shift by all bits gives.
template <class T> GEMS_DI T shift_left(T a, T b) {
    return b < 0 || uint64_t(b) >= 8 * sizeof(T) ? T(0) : T(uint64_t(a) << b);
}
template <class T> GEMS_DI T shift_right(T a, T b) {
    if (b < 0 || uint64_t(b) >= 8 * sizeof(T)) return a < 0 ? T(-1) : T(0);
    return T(a >> b);
}
template <class T> GEMS_DI bool is_infinite(T a) {
    if constexpr (is_float<T>) return abs(a) == Limits<T>::inf();
    else return false;
}
template <class T> GEMS_DI T absolute(T a) {
    if constexpr (is_float<T>) return abs(a);
    else return a < 0 ? T(uint64_t(0) - uint64_t(a)) : a;
}
template <class T> GEMS_DI T conj(T a) { return a; }
// ATen multiplies by an alpha of 1 too: a complex infinity gets a NaN by it.
template <class T> GEMS_DI T once(T a) { return a; }
// c ? a : b by bits: compilers make a branch of the choice, or load only what is chosen, and do not vectorise it.
template <class T> GEMS_DI T chosen(bool c, T a, T b) {
#if GEMS_CPU && GEMS_FAST
    if constexpr (sizeof(T) <= 8) {
        typedef either<sizeof(T) == 8, uint64_t, either<sizeof(T) == 4, uint32_t, either<sizeof(T) == 2, uint16_t, uint8_t>>> U;
        U x, y, mask = U(0) - U(c);
        memcpy(&x, &a, sizeof x), memcpy(&y, &b, sizeof y);
        x = U((x & mask) | (y & U(~mask)));
        memcpy(&a, &x, sizeof x);
        return a;
    }
#endif
    return c ? a : b;
}
template <class T> GEMS_DI T lerp(T a, T b, T weight) {
    T d = b - a;
    return abs(weight) < T(0.5) ? a + weight * d : b - d * (T(1) - weight);
}

template <class T> GEMS_DI T clamped(T a, T low, T high, bool has_low, bool has_high) {
#if GEMS_CPU // a where it equals a limit, NaN where one of them is, and no branch
    if constexpr (is_float<T>) {
        if (has_low) a = (a < low) | (low != low) ? low : a;
        if (has_high) a = (a > high) | (high != high) ? high : a;
        return a;
    }
#endif
    if (has_low) a = maximum(a, low);
    return has_high ? minimum(a, high) : a;
}
// As clamped, but for ATen on a GPU a NaN that is the only limit is none.
template <class T> GEMS_DI T clamped_by_numbers(T a, T low, T high, bool has_low, bool has_high) {
    if (!GEMS_CPU && has_low != has_high && !(has_low ? low == low : high == high)) return a;
    return clamped(a, low, high, has_low, has_high);
}
// Of -0.0 ATen makes 0.0 on a GPU and -0.0 on a CPU; NaN stays.
template <class T> GEMS_DI T relu(T a) {
    bool low = GEMS_CPU ? a < T(0) : a <= T(0);
    return low ? T(0) : a;
}
template <class T> GEMS_DI T squared(T a) { return T(a * a); }
template <class T> GEMS_DI T sign_of(T a) { return T(int(a > T(0)) - int(a < T(0))); }
// Integers stay as they are.
template <class T> GEMS_DI T rounded_down(T a) {
    if constexpr (is_float<T>) return floor(a);
    else return a;
}
template <class T> GEMS_DI T rounded_up(T a) {
    if constexpr (is_float<T>) return ceil(a);
    else return a;
}
template <class T> GEMS_DI T rounded_to_zero(T a) {
    if constexpr (is_float<T>) return trunc(a);
    else return a;
}
template <class T> GEMS_DI T rounded(T a) {
    if constexpr (is_float<T>) return nearbyint(a);
    else return a;
}
template <class T> GEMS_DI T silu(T x) { return x * sigmoid(x); }
template <class T> GEMS_DI T exp_minus(T x) { return exp(-x); }
// log(1 + u) of a u from 0 to 1, to 2 units of the last place.
template <class T> GEMS_DI T log1p_unit(T u) { return log1p(u); }
GEMS_DI float log1p_unit(float u) {
    float p = -5.365422461e-03f; // (u - log(1 + u)) / u^2
    p = fma(p, u, 3.006830066e-02f);
    p = fma(p, u, -7.920882851e-02f);
    p = fma(p, u, 1.375418752e-01f);
    p = fma(p, u, -1.915384829e-01f);
    p = fma(p, u, 2.485721707e-01f);
    p = fma(p, u, -3.332132995e-01f);
    p = fma(p, u, 4.999964833e-01f);
    return fma(-u * u, p, u);
}
template <class T> GEMS_DI T softplus(T x) { return max_nan(x, T(0)) + log1p_unit(exp_minus(abs(x))); }
// Of a * beta, over beta, which is the same for all elements; a itself beyond a threshold.
template <class T> GEMS_DI T softplus(T a, T beta, T threshold) {
    T inverse = T(1) / beta, z = a * beta, v = softplus(z);
    v = GEMS_CPU ? v / beta : v * inverse;
    return z > threshold ? a : v;
}
template <class T> GEMS_DI T silu_gradient(T grad, T x) {
    T s = sigmoid(x);
    return grad * s * (T(1) + x * (T(1) - s));
}
// x * Phi(x), and its approximation x * sigmoid(2u) = x/2 * (1 + tanh(u)).
// 1 + erf() would lose the digits of a negative x; what rounding takes from erfc's argument is given back.
template <class T> GEMS_DI T normal_cdf(T x) {
    const T root = T(0.70710678118654752440), rest = T(0.70710678118654752440 - double(root));
    T t = -x * root, lost = fma(-x, root, -t) - x * rest, r = T(0.5) * erfc(t);
    return t > T(0.5) & t < T(30) ? fma(T(-2) * t * lost, r, r) : r;
}
// HALF: good enough for 16 bits. Of floats: normal.cuh.
template <bool HALF, class T> GEMS_DI T times_normal_cdf(T x) { return x * normal_cdf(x); }
template <bool HALF, class T> GEMS_DI T normal_slope(T x) {
    return normal_cdf(x) + x * T(0.39894228040143267794) * exp_minus(T(0.5) * x * x);
}
template <bool HALF, class T> GEMS_DI T erfc_for(T x) { return erfc(x); }
template <class T> GEMS_DI T gelu_erf(T x) { return times_normal_cdf<is_half<result_t>>(x); }
template <class T> GEMS_DI T gelu_inner(T x) { return T(1.59576912160573071176) * (x + T(0.044715) * x * x * x); }
template <class T> GEMS_DI T gelu_tanh(T x) { return x * sigmoid(gelu_inner(x)); }
template <class T> GEMS_DI T gelu_erf_gradient(T grad, T x) { return grad * normal_slope<is_half<result_t>>(x); }
template <class T> GEMS_DI T gelu_tanh_gradient(T grad, T x) {
    T s = sigmoid(gelu_inner(x)), slope = T(1.59576912160573071176) * (T(1) + T(3 * 0.044715) * x * x);
    return grad * (s + x * s * (T(1) - s) * slope);
}

// ---- one element
template <class Through, class As, class T> GEMS_DI As read(T v) {
    if constexpr (is_same<As, T>) return v;
    else if constexpr (is_same<As, Through>) return convert<As>(v);
    else return to_op(convert<Through>(v));
}
// The expression's value rounded as ATen rounds its result, then cast to the output's type.
template <class O, class V> GEMS_DI O written(V v) {
    if constexpr (is_same<V, result_t>) return convert<O>(v);
    else return convert<O>(from_op<result_t>(v));
}
typedef either<is_same<result_t, bool> || is_complex<compute_t> != is_complex<result_t>, result_t, compute_t> value_t;

// STAGED: halves come and go as the floats that they are computed in.
template <bool STAGED, class T> constexpr bool is_staged = STAGED && is_same<T, f16> && is_same<compute_t, float>;
template <bool STAGED, class T, class As>
using stored_t = either<is_staged<STAGED, T> && is_same<As, float>, float, T>;
template <bool STAGED, class T> using result_or_float = either<is_staged<STAGED, T> && is_same<result_t, f16>, float, T>;
#define EW_STORED(i, name, T, through, as, flag) stored_t<STAGED, T, as> stored_##name,
#define EW_READ(i, name, T, through, as, flag) const as name = read<through, as>(stored_##name);
#define EW_RESULT(i, T, expression) result_or_float<STAGED, T> &result_##i,
#define EW_WRITE(i, T, expression) \
    if constexpr (is_same<T, result_or_float<STAGED, T>>) result_##i = written<T>(value_t(expression)); \
    else result_##i = value_t(expression);
#define EW_NUMBER(T, name) T name,
template <bool kNear = false, bool STAGED = false>
GEMS_DI void element(EW_INPUTS(EW_STORED) EW_OUTPUTS(EW_RESULT) EW_NUMBERS(EW_NUMBER) int) {
    EW_GIVEN
    EW_INPUTS(EW_READ)
    EW_OUTPUTS(EW_WRITE)
}

// Whether EW_NEAR holds. EW_NAMES_NEAR: the expression names kNear.
#if EW_NAMES_NEAR && GEMS_CPU && GEMS_FAST
#define EW_CHOOSES 1
template <bool STAGED = false> GEMS_DI bool near_element(EW_INPUTS(EW_STORED) EW_NUMBERS(EW_NUMBER) int) {
    EW_GIVEN
    EW_INPUTS(EW_READ)
    if constexpr (is_same<compute_t, float>) return EW_NEAR;
    else return false;
}
#else
#define EW_CHOOSES 0
#endif

// ---- what the kernels below do for each tensor
#define EW_IN_POINTER(i, name, T, through, as, flag) const T *in_##name,
#define EW_OUT_POINTER(i, T, expression) T *out_##i,
#define EW_PASS_NUMBER(T, name) name,
#define EW_PARAMETERS EW_INPUTS(EW_IN_POINTER) EW_OUTPUTS(EW_OUT_POINTER) EW_NUMBERS(EW_NUMBER)

// A bool is read as the byte that it is: compilers have no vectors of bools.
template <class T> GEMS_DI T element_at(const T *p) {
#if GEMS_CPU && GEMS_FAST
    if constexpr (is_same<T, bool>) return *reinterpret_cast<const uint8_t *>(p) != 0;
#endif
    return *p;
}

#if GEMS_CPU && GEMS_FAST && defined(GEMS_HALF_BLOCKS)
#define EW_IS_STAGED(i, name, T, through, as, flag) || !is_same<T, stored_t<true, T, as>>
#define EW_OUT_IS_STAGED(i, T, expression) || !is_same<T, result_or_float<true, T>>
constexpr bool kStaged = false EW_INPUTS(EW_IS_STAGED) EW_OUTPUTS(EW_OUT_IS_STAGED);
constexpr int kBlock = 512; // elements that are staged at once

// Part of a tensor: where it lies, or as floats; or the one element that a broadcast input has for all.
template <class T, bool HALF, bool ONE> struct Part {
    const T *p;
    GEMS_DI void read(const T *from, int) { p = from; }
    GEMS_DI T operator[](int i) const { return element_at(p + i); }
};
template <> struct Part<f16, true, false> {
    float v[kBlock];
    GEMS_DI void read(const f16 *from, int n) { gems_cpu::halves_to_floats(v, from, n); }
    GEMS_DI float operator[](int i) const { return v[i]; }
};
template <class T, bool HALF> struct Part<T, HALF, true> {
    either<HALF, float, T> one;
    GEMS_DI void read(const T *from, int) {
        if constexpr (HALF) one = to_op(*from);
        else one = element_at(from);
    }
    GEMS_DI either<HALF, float, T> operator[](int) const { return one; }
};
template <class T, bool HALF> struct OutPart {
    T *p;
    GEMS_DI void begin(T *to) { p = to; }
    GEMS_DI T &operator[](int i) { return p[i]; }
    GEMS_DI void end(int) {}
};
template <> struct OutPart<f16, true> {
    float v[kBlock];
    f16 *p;
    GEMS_DI void begin(f16 *to) { p = to; }
    GEMS_DI float &operator[](int i) { return v[i]; }
    GEMS_DI void end(int n) { gems_cpu::floats_to_halves(p, v, n); }
};
#define EW_PART(i, name, T, through, as, flag) Part<T, !is_same<T, stored_t<true, T, as>>, EW_CLASS == 1 && flag> part_##name;
#define EW_OUT_PART(i, T, expression) OutPart<T, !is_same<T, result_or_float<true, T>>> part_out_##i;
#define EW_PART_READ(i, name, T, through, as, flag) part_##name.read(in_##name, n);
#define EW_PART_BEGIN(i, T, expression) part_out_##i.begin(out_##i);
#define EW_PART_END(i, T, expression) part_out_##i.end(n);
#define EW_PART_IN(i, name, T, through, as, flag) part_##name[at],
#define EW_PART_OUT(i, T, expression) part_out_##i[at],
#define EW_PART_FROM(i, name, T, through, as, flag) in_##name + first,
#define EW_PART_TO(i, T, expression) out_##i + first,
// At most kBlock elements in a row.
GEMS_DI void compute_part(EW_PARAMETERS int n) {
    EW_INPUTS(EW_PART)
    EW_OUTPUTS(EW_OUT_PART)
    EW_INPUTS(EW_PART_READ)
    EW_OUTPUTS(EW_PART_BEGIN)
#if EW_CHOOSES
    int far = 0;
    GEMS_IVDEP for (int at = 0; at < n; at++) far |= !near_element<true>(EW_INPUTS(EW_PART_IN) EW_NUMBERS(EW_PASS_NUMBER) 0);
    if (!far) {
        GEMS_IVDEP for (int at = 0; at < n; at++)
            element<true, true>(EW_INPUTS(EW_PART_IN) EW_OUTPUTS(EW_PART_OUT) EW_NUMBERS(EW_PASS_NUMBER) 0);
    } else
#endif
    {
        GEMS_IVDEP for (int at = 0; at < n; at++)
            element<false, true>(EW_INPUTS(EW_PART_IN) EW_OUTPUTS(EW_PART_OUT) EW_NUMBERS(EW_PASS_NUMBER) 0);
    }
    EW_OUTPUTS(EW_PART_END)
}
#else
constexpr bool kStaged = false;
#endif

// What one access of a tensor holds: N elements, or the one that a broadcast input has for all of them.
template <class T, int N, bool ONE> struct Access {
    Vec<T, N> all;
    GEMS_DI void read(const T *p) { all = load<N>(p); }
    GEMS_DI T operator[](int k) const { return all.v[k]; }
};
template <class T, int N> struct Access<T, N, true> {
    T one;
    GEMS_DI void read(const T *p) { one = *p; }
    GEMS_DI T operator[](int) const { return one; }
};
#if GEMS_CPU
#define EW_ROLLED
#else
#define EW_ROLLED _Pragma("unroll 1")
#endif
constexpr int kN = kVector ? kVector : 1;
#define EW_ACCESS(i, name, T, through, as, flag) Access<T, kN, EW_CLASS == 1 && flag> v_##name[kUnroll];
#define EW_OUT_ACCESS(i, T, expression) Vec<T, kN> r_##i;
#define EW_ELEMENT_IN(i, name, T, through, as, flag) v_##name[u][k],
#define EW_ELEMENT_OUT(i, T, expression) r_##i.v[k],
#define EW_COMPUTE(u)                                                                           \
    EW_OUTPUTS(EW_OUT_ACCESS)                                                                   \
    GEMS_UNROLL for (int k = 0; k < kN; k++)                                                    \
        element(EW_INPUTS(EW_ELEMENT_IN) EW_OUTPUTS(EW_ELEMENT_OUT) EW_NUMBERS(EW_PASS_NUMBER) 0);

#if EW_CLASS == 0
// Elements [pad, end) of tensors that lie alike: pad counts the elements by which every pointer was moved back to stand
// at a whole access.
#define EW_LOAD_AT(i, name, T, through, as, flag) v_##name[u].read(in_##name + at);
#define EW_STORE_AT(i, T, expression) store<kN>(out_##i + at, r_##i);
#define EW_ONE_IN(i, name, T, through, as, flag) element_at(in_##name + at),
#define EW_AHEAD(i, name, T, through, as, flag) __builtin_prefetch(in_##name + at, 0, 2);
#define EW_ONE_OUT(i, T, expression) out_##i[at],
#define EW_ONE element(EW_INPUTS(EW_ONE_IN) EW_OUTPUTS(EW_ONE_OUT) EW_NUMBERS(EW_PASS_NUMBER) 0);
extern "C" __global__ void __launch_bounds__(kThreads) elementwise(EW_PARAMETERS Index pad, Index end) {
#if GEMS_CPU && GEMS_FAST
    auto chunk = grid_chunk<Index>(end);
#ifdef GEMS_HALF_BLOCKS
    if constexpr (kStaged) {
        for (Index first = chunk.first; first < chunk.last; first += kBlock)
            compute_part(EW_INPUTS(EW_PART_FROM) EW_OUTPUTS(EW_PART_TO) EW_NUMBERS(EW_PASS_NUMBER)
                         chunk.last - first < kBlock ? int(chunk.last - first) : kBlock);
        return;
    }
#endif
#if EW_CHOOSES
    // As many elements as stay in the first cache have one form.
    constexpr Index kBlock = 1024;
    for (Index first = chunk.first; first < chunk.last; first += kBlock) {
        const Index last = chunk.last - first < kBlock ? chunk.last : first + kBlock;
        int far = 0;
        GEMS_IVDEP for (Index at = first; at < last; at++) far |= !near_element(EW_INPUTS(EW_ONE_IN) EW_NUMBERS(EW_PASS_NUMBER) 0);
        // The next ones come while these are computed from the first cache alone.
        for (Index at = last; at < last + kBlock && at < chunk.last; at += 16) { EW_INPUTS(EW_AHEAD) }
        if (far) {
            GEMS_IVDEP for (Index at = first; at < last; at++) { EW_ONE }
        } else {
            GEMS_IVDEP for (Index at = first; at < last; at++)
                element<true>(EW_INPUTS(EW_ONE_IN) EW_OUTPUTS(EW_ONE_OUT) EW_NUMBERS(EW_PASS_NUMBER) 0);
        }
    }
    return;
#endif
    GEMS_IVDEP for (Index at = chunk.first; at < chunk.last; at++) { EW_ONE }
#else
    EW_INPUTS(EW_ACCESS)
    const Index step = Index(blockDim.x) * kN;
    const Index first = Index(blockIdx.x) * kUnroll * step + Index(threadIdx.x) * kN;
    if constexpr (kUnroll == 1) {
        if (first >= pad && first + kN <= end) {
            constexpr int u = 0;
            const Index at = first;
            EW_INPUTS(EW_LOAD_AT)
            EW_COMPUTE(u)
            EW_OUTPUTS(EW_STORE_AT)
        }
    } else {
        GEMS_UNROLL for (int u = 0; u < kUnroll; u++) {
            const Index at = first + u * step;
            if (at >= pad && at + kN <= end) { EW_INPUTS(EW_LOAD_AT) }
        }
        GEMS_UNROLL for (int u = 0; u < kUnroll; u++) {
            const Index at = first + u * step;
            if (at >= pad && at + kN <= end) {
                EW_COMPUTE(u)
                EW_OUTPUTS(EW_STORE_AT)
            }
        }
    }
    // What is left before the whole accesses and behind them: an element a thread, in the first block and in the last.
    if (kN > 1 && (pad | (end & (kN - 1))) && Index(threadIdx.x) < kN) {
        EW_ROLLED for (int side = 0; side < 2; side++) {
            const Index at = (side ? end & -Index(kN) : Index(0)) + Index(threadIdx.x);
            const bool here = side ? blockIdx.x == gridDim.x - 1 && (at >= kN || pad == 0) : blockIdx.x == 0 && pad > 0;
            if (here && at >= pad && at < end) { EW_ONE }
        }
    }
#endif
}
#endif

#if EW_CLASS == 1 || EW_CLASS == 2
// Items of kVector elements along dim 0; offset t belongs to the t-th tensor, the inputs first.
enum Tensors {
#define EW_IN_PLACE(i, name, T, through, as, flag) place_##name,
#define EW_OUT_PLACE(i, T, expression) place_out_##i,
    EW_INPUTS(EW_IN_PLACE) EW_OUTPUTS(EW_OUT_PLACE)
};
#define EW_LOAD_OFF(i, name, T, through, as, flag) v_##name[u].read(in_##name + off[u][place_##name]);
#define EW_STORE_OFF(i, T, expression) store<kN>(out_##i + off[u][place_out_##i], r_##i);
#if GEMS_CPU && GEMS_FAST
// Runs along dim 0. In class 1 its strides are known: 1, and 0 for the flagged inputs.
#define EW_RUN_IN(i, name, T, through, as, flag) \
    element_at(in_##name + off[0][place_##name] + (EW_CLASS == 1 ? (flag ? 0 : at) : at * m.stride[0][place_##name])),
#define EW_RUN_OUT(i, T, expression) \
    out_##i[off[0][place_out_##i] + (EW_CLASS == 1 ? at : at * m.stride[0][place_out_##i])],
#define EW_RUN_FROM(i, name, T, through, as, flag) in_##name + off[0][place_##name] + (flag ? 0 : at),
#define EW_RUN_TO(i, T, expression) out_##i + off[0][place_out_##i] + at,
#define EW_RUN_ONE element(EW_INPUTS(EW_RUN_IN) EW_OUTPUTS(EW_RUN_OUT) EW_NUMBERS(EW_PASS_NUMBER) 0);
extern "C" __global__ void elementwise(EW_PARAMETERS Strided<kTensors, Index> m) {
    auto chunk = grid_chunk<Index>(m.n);
    const Index inner = Index(m.div[0].d);
    for (Index item = chunk.first, run; item < chunk.last; item += run) {
        Index off[1][kTensors];
        strided_offsets<kRank>(m, item, off[0]);
        run = inner - item % inner;
        if (run > chunk.last - item) run = chunk.last - item;
#if EW_CLASS == 1 && defined(GEMS_HALF_BLOCKS)
        if constexpr (kStaged) {
            for (Index at = 0; at < run; at += kBlock)
                compute_part(EW_INPUTS(EW_RUN_FROM) EW_OUTPUTS(EW_RUN_TO) EW_NUMBERS(EW_PASS_NUMBER)
                             run - at < kBlock ? int(run - at) : kBlock);
            continue;
        }
#endif
        GEMS_IVDEP for (Index at = 0; at < run; at++) { EW_RUN_ONE }
    }
}
#else
extern "C" __global__ void __launch_bounds__(kThreads) elementwise(EW_PARAMETERS Strided<kTensors, Index> m) {
    const Index first = Index(blockIdx.x) * kUnroll * Index(blockDim.x) + Index(threadIdx.x);
    EW_INPUTS(EW_ACCESS)
    Index off[kUnroll][kTensors];
    GEMS_UNROLL for (int u = 0; u < kUnroll; u++) {
        const Index item = first + u * Index(blockDim.x);
        if (item < m.n) {
            strided_offsets<kRank>(m, item, off[u]);
            EW_INPUTS(EW_LOAD_OFF)
        }
    }
    GEMS_UNROLL for (int u = 0; u < kUnroll; u++) {
        if (first + u * Index(blockDim.x) < m.n) {
            EW_COMPUTE(u)
            EW_OUTPUTS(EW_STORE_OFF)
        }
    }
}
#endif
#endif

#if EW_CLASS == 3
// Inputs whose memory runs along dim 1 while the outputs' runs along dim 0: a block takes a tile of both dims. Such inputs
// come through shared memory, so that both sides touch whole lines. m counts tiles in its dims 0 and 1.
enum Tensors {
#define EW_IN_PLACE(i, name, T, through, as, flag) place_##name,
#define EW_OUT_PLACE(i, T, expression) place_out_##i,
    EW_INPUTS(EW_IN_PLACE) EW_OUTPUTS(EW_OUT_PLACE)
};
struct Tile {
    Index size[2];              // of dims 0 and 1
    Index stride[2][kTensors];
};
constexpr int kTile = kVector;
template <class T, bool FLAG> struct Staged { T at[kTile][kTile + 1]; };
template <class T> struct Staged<T, false> {};
#define EW_STAGED(i, name, T, through, as, flag) __shared__ Staged<T, flag> s_##name;
#define EW_STAGE(i, name, T, through, as, flag) \
    stage<flag>(s_##name, lane, row, in_##name, off[place_##name] + row * tile.stride[0][place_##name] + lane);
#define EW_PICK(i, name, T, through, as, flag) \
    picked<flag>(s_##name, lane, row, in_##name, off[place_##name] +                            \
                 lane * tile.stride[0][place_##name] + row * tile.stride[1][place_##name]),
#define EW_PUT(i, T, expression) \
    out_##i[off[place_out_##i] + lane * tile.stride[0][place_out_##i] + row * tile.stride[1][place_out_##i]],
template <bool FLAG, class S, class T> GEMS_DI void stage(S &staged, int lane, int row, const T *p, Index at) {
    if constexpr (FLAG) staged.at[row][lane] = p[at];
}
template <bool FLAG, class S, class T> GEMS_DI T picked(const S &staged, int lane, int row, const T *p, Index at) {
    if constexpr (FLAG && !kFast) return staged.at[lane][row];
    else return p[at];
}
#define EW_ONE element(EW_INPUTS(EW_PICK) EW_OUTPUTS(EW_PUT) EW_NUMBERS(EW_PASS_NUMBER) 0);
#if GEMS_CPU && GEMS_FAST // the tile stays in the cache: nothing is staged
#undef EW_STAGED
#define EW_STAGED(i, name, T, through, as, flag) const Staged<T, false> s_##name;
#endif
extern "C" __global__ void __launch_bounds__(kThreads) elementwise(EW_PARAMETERS Strided<kTensors, Index> m, Tile tile) {
    EW_INPUTS(EW_STAGED)
    auto range = Index(blockIdx.x), last = Index(blockIdx.x + 1);
#if GEMS_CPU && GEMS_FAST
    Index each = (m.n + Index(gridDim.x) - 1) / Index(gridDim.x);
    range = Index(blockIdx.x) * each, last = range + each < m.n ? range + each : m.n;
#endif
    for (; range < last; range++) {
        Index off[kTensors], rest, first0, first1;
        strided_offsets<kRank>(m, range, off);
        divmod(range, m.div[0], rest, first0);
        divmod(rest, m.div[1], rest, first1);
        const int size0 = int(min(tile.size[0] - first0 * kTile, Index(kTile)));
        const int size1 = int(min(tile.size[1] - first1 * kTile, Index(kTile)));
#if GEMS_CPU && GEMS_FAST
        for (int row = 0; row < size1; row++) {
            GEMS_IVDEP for (int lane = 0; lane < size0; lane++) { EW_ONE }
        }
#else
        const int lane = int(threadIdx.x) % kTile, step = int(blockDim.x) / kTile;
        if (lane < size1)
            for (int row = int(threadIdx.x) / kTile; row < size0; row += step) { EW_INPUTS(EW_STAGE) }
        __syncthreads();
        if (lane < size0)
            for (int row = int(threadIdx.x) / kTile; row < size1; row += step) { EW_ONE }
#endif
    }
}
#endif
