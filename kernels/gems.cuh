// The contract that every kernel is written against (docs/contract.md). NVRTC compiles this text for a GPU, the host's
// C++ compiler for a CPU: there kernels/cpu/simt.h and kernels/cpu/math.h come first and define GEMS_CPU.
#ifndef GEMS_CPU
#define GEMS_CPU 0
#define GEMS_ARCH __CUDA_ARCH__
#define GEMS_UNROLL _Pragma("unroll")
#define GEMS_IVDEP
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define GEMS_DYN_SMEM(T, name)                                       \
    extern __shared__ __align__(128) unsigned char gems_dyn_smem_[]; \
    T* name = reinterpret_cast<T*>(gems_dyn_smem_)
#else
#define GEMS_ARCH 0
#endif
#define GEMS_DI __device__ __forceinline__

namespace gems {

#if GEMS_CPU && GEMS_FAST
constexpr bool kFast = true;
constexpr int kWarp = 1, kVecBytes = 64, kLanes = 16;
#else
constexpr bool kFast = false;
constexpr int kWarp = 32, kVecBytes = 16, kLanes = 1;
#endif

// ---- types
struct f16 { uint16_t x; };
struct bf16 { uint16_t x; };
struct f8e4m3 { uint8_t x; };
struct f8e5m2 { uint8_t x; };
template <class P> struct alignas(2 * sizeof(P)) Complex { // arithmetic and functions: complex.cuh
    typedef P part;
    P re, im;
    Complex() = default;
    GEMS_DI constexpr Complex(P real, P imaginary) : re(real), im(imaginary) {}
    GEMS_DI constexpr explicit Complex(P real) : re(real), im(0) {}
};
typedef Complex<float> c64;
typedef Complex<double> c128;

template <class A, class B> struct Same { static constexpr bool value = false; };
template <class A> struct Same<A, A> { static constexpr bool value = true; };
template <class A, class B> constexpr bool is_same = Same<A, B>::value;
template <class T> constexpr bool is_half = is_same<T, f16> || is_same<T, bf16>;
template <class T> constexpr bool is_f8 = is_same<T, f8e4m3> || is_same<T, f8e5m2>;
template <class T> constexpr bool is_complex = is_same<T, c64> || is_same<T, c128>;
template <class T> constexpr bool is_float = is_half<T> || is_f8<T> || is_same<T, float> || is_same<T, double>;
template <bool C, class A, class B> struct Either { typedef A type; };
template <class A, class B> struct Either<false, A, B> { typedef B type; };
template <bool C, class A, class B> using either = typename Either<C, A, B>::type;
template <class T> using opmath_t = either<is_half<T> || is_f8<T>, float, T>;

GEMS_DI uint32_t float_bits(float v) { uint32_t r; memcpy(&r, &v, 4); return r; }
GEMS_DI float bits_float(uint32_t v) { float r; memcpy(&r, &v, 4); return r; }

// ---- storage types to float and back: one rounding, to nearest even
GEMS_DI float to_op(bf16 v) { return bits_float((uint32_t)v.x << 16); }
GEMS_DI float to_op(f16 v) {
#if GEMS_CPU && defined(GEMS_NATIVE_HALF)
    GEMS_NATIVE_HALF r;
    memcpy(&r, &v, 2);
    return (float)r;
#elif GEMS_CPU
    uint32_t m = (uint32_t)(v.x & 0x7fff) << 13, s = (uint32_t)(v.x & 0x8000) << 16;
    uint32_t normal = m + 0x38000000u, small = float_bits(bits_float(m + 0x38800000u) - bits_float(0x38800000u));
    uint32_t r = m >= 0x0f800000u ? m + 0x70000000u : m < 0x00800000u ? small : normal;
    return bits_float(r | s);
#else
    float r;
    asm("cvt.f32.f16 %0,%1;" : "=f"(r) : "h"(v.x));
    return r;
#endif
}
GEMS_DI float to_op(f8e5m2 v) { return to_op(f16{(uint16_t)(v.x << 8)}); }
GEMS_DI float to_op(f8e4m3 v) {
    uint32_t m = (uint32_t)(v.x & 0x7f) << 20, s = (uint32_t)(v.x & 0x80) << 24;
    uint32_t small = float_bits(bits_float(m + 0x3c800000u) - bits_float(0x3c800000u));
    uint32_t r = m == 0x07f00000u ? 0x7fc00000u : m < 0x00800000u ? small : m + 0x3c000000u;
    return bits_float(r | s);
}
template <class T> GEMS_DI T to_op(T v) { return v; }

template <class T> struct Round { template <class V> GEMS_DI static T from(V v) { return (T)v; } };
template <> struct Round<bf16> {
    GEMS_DI static bf16 from(float v) {
#if GEMS_CPU
        uint32_t u = float_bits(v), r = (u + 0x7fff + (u >> 16 & 1)) >> 16;
        return {(uint16_t)(v != v ? 0x7fc0 : r)};
#else
        bf16 r;
        asm("cvt.rn.bf16.f32 %0,%1;" : "=h"(r.x) : "f"(v));
        return r;
#endif
    }
};
template <> struct Round<f16> {
    GEMS_DI static f16 from(float v) {
#if GEMS_CPU && defined(GEMS_NATIVE_HALF)
        GEMS_NATIVE_HALF h = (GEMS_NATIVE_HALF)v;
        f16 r;
        memcpy(&r, &h, 2);
        return r;
#elif GEMS_CPU
        uint32_t u = float_bits(v), s = u >> 16 & 0x8000u;
        u &= 0x7fffffffu;
        uint32_t small = float_bits(bits_float(u) + 0.5f) - 0x3f000000u;
        uint32_t normal = (u - 0x38000000u + 0xfff + (u >> 13 & 1)) >> 13;
        uint32_t r = u < 0x38800000u ? small : normal;
        r = u >= 0x477ff000u ? 0x7c00u : r;
        r = u > 0x7f800000u ? 0x7e00u : r;
        return {(uint16_t)(r | s)};
#else
        f16 r;
        asm("cvt.rn.f16.f32 %0,%1;" : "=h"(r.x) : "f"(v));
        return r;
#endif
    }
};
// fp8 as torch rounds it: e4m3 has no infinity and saturates at 448, e5m2 has one.
template <int MantissaBits, int Bias> GEMS_DI uint8_t round_f8(float v, uint32_t limit, uint32_t beyond) {
    constexpr int drop = 23 - MantissaBits;
    constexpr uint32_t magic = (uint32_t)(127 - Bias + drop + 1) << 23;
    uint32_t u = float_bits(v), s = u >> 24 & 0x80;
    u &= 0x7fffffffu;
    uint32_t small = float_bits(bits_float(u) + bits_float(magic)) - magic;
    uint32_t normal = (u - ((uint32_t)(127 - Bias) << 23) + ((1u << (drop - 1)) - 1) + (u >> drop & 1)) >> drop;
    uint32_t r = u < (uint32_t)(128 - Bias) << 23 ? small : normal;
    r = u >= limit ? beyond : r;
    r = u > 0x7f800000u ? 0x7f : r;
    return (uint8_t)(r | s);
}
template <> struct Round<f8e4m3> {
    GEMS_DI static f8e4m3 from(float v) { return {round_f8<3, 7>(v, 0x43e00000u, 0x7e)}; }
};
template <> struct Round<f8e5m2> {
    GEMS_DI static f8e5m2 from(float v) { return {round_f8<2, 15>(v, 0x47800000u, 0x7c)}; }
};
template <class T> GEMS_DI T from_op(opmath_t<T> v) { return Round<T>::from(v); }

// Any storage type to any other, as a cast of ATen.
template <class To, class From> GEMS_DI To convert(From v) {
    if constexpr (is_same<To, From>) return v;
    else if constexpr (is_complex<From>) {
        if constexpr (is_complex<To>) return To{(typename To::part)v.re, (typename To::part)v.im};
        else if constexpr (is_same<To, bool>) return v.re != 0 || v.im != 0;
        else return convert<To>(v.re);
    } else if constexpr (is_complex<To>) return To{convert<typename To::part>(v), 0};
    else {
        auto o = to_op(v);
        if constexpr (is_same<To, bool>) return o != 0;
        else if constexpr (is_float<To> && !is_same<To, double>) return Round<To>::from((float)o);
        else if constexpr (is_same<To, uint8_t> && is_float<From>) return (To)(int64_t)o;
        else return (To)o;
    }
}

template <class T> struct Limits { // integers
    GEMS_DI static constexpr T max() {
        return (T)-1 > (T)0 ? (T)-1 : (T)(((uint64_t)1 << (8 * sizeof(T) - 1)) - 1);
    }
    GEMS_DI static constexpr T lowest() { return (T)-1 > (T)0 ? (T)0 : (T)((uint64_t)1 << (8 * sizeof(T) - 1)); }
    GEMS_DI static constexpr T inf() { return max(); }
};
template <> struct Limits<bool> {
    GEMS_DI static constexpr bool max() { return true; }
    GEMS_DI static constexpr bool lowest() { return false; }
    GEMS_DI static constexpr bool inf() { return true; }
};
template <> struct Limits<float> {
    GEMS_DI static constexpr float max() { return 3.402823466e+38f; }
    GEMS_DI static constexpr float lowest() { return -3.402823466e+38f; }
    GEMS_DI static constexpr float eps() { return 1.1920928955e-07f; }
    GEMS_DI static float inf() { return bits_float(0x7f800000u); }
    GEMS_DI static float nan() { return bits_float(0x7fc00000u); }
};
template <> struct Limits<double> {
    GEMS_DI static constexpr double max() { return 1.7976931348623157e+308; }
    GEMS_DI static constexpr double lowest() { return -1.7976931348623157e+308; }
    GEMS_DI static constexpr double eps() { return 2.2204460492503131e-16; }
    GEMS_DI static double inf() { return Limits<float>::inf(); }
    GEMS_DI static double nan() { return Limits<float>::nan(); }
};
template <class T, uint16_t Max, uint16_t Inf, uint16_t Nan, uint16_t Eps, uint16_t Sign> struct SmallLimits {
    typedef decltype(T::x) bits;
    GEMS_DI static constexpr T max() { return T{(bits)Max}; }
    GEMS_DI static constexpr T lowest() { return T{(bits)(Max | Sign)}; }
    GEMS_DI static constexpr T inf() { return T{(bits)Inf}; }
    GEMS_DI static constexpr T nan() { return T{(bits)Nan}; }
    GEMS_DI static constexpr T eps() { return T{(bits)Eps}; }
};
template <> struct Limits<f16> : SmallLimits<f16, 0x7bff, 0x7c00, 0x7e00, 0x1400, 0x8000> {};
template <> struct Limits<bf16> : SmallLimits<bf16, 0x7f7f, 0x7f80, 0x7fc0, 0x3c00, 0x8000> {};
template <> struct Limits<f8e4m3> : SmallLimits<f8e4m3, 0x7e, 0x7f, 0x7f, 0x20, 0x80> {};
template <> struct Limits<f8e5m2> : SmallLimits<f8e5m2, 0x7b, 0x7c, 0x7f, 0x34, 0x80> {};

// ---- vectors
template <class T, int N> constexpr int vec_align = kFast ? (int)alignof(T) : sizeof(T) * N > 16 ? 16 : sizeof(T) * N;
template <class T, int N> struct alignas(vec_align<T, N>) Vec { T v[N]; };
template <class T> constexpr int vec_n = kVecBytes / (kFast && sizeof(T) < 4 ? 4 : (int)sizeof(T));

template <int N, class T> GEMS_DI Vec<T, N> load(const T* p) {
#if GEMS_CPU
    Vec<T, N> r;
    gems_cpu::copy_in(&r, p, sizeof r);
    return r;
#else
    return *reinterpret_cast<const Vec<T, N>*>(p);
#endif
}
template <int N, class T> GEMS_DI void store(T* p, const Vec<T, N>& v) {
#if GEMS_CPU
    gems_cpu::copy_out(p, &v, sizeof v);
#else
    *reinterpret_cast<Vec<T, N>*>(p) = v;
#endif
}
// For data that is touched once: evicted first from the caches.
template <int N, class T> GEMS_DI Vec<T, N> load_stream(const T* p) {
#if !GEMS_CPU
    if constexpr (sizeof(T) * N == 16) {
        uint32_t w[4];
        asm volatile("ld.global.cs.v4.b32 {%0,%1,%2,%3},[%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "l"(p));
        Vec<T, N> r;
        memcpy(&r, w, 16);
        return r;
    }
#endif
    return load<N>(p);
}
template <int N, class T> GEMS_DI void store_stream(T* p, const Vec<T, N>& v) {
#if !GEMS_CPU
    if constexpr (sizeof(T) * N == 16) {
        uint32_t w[4];
        memcpy(w, &v, 16);
        asm volatile("st.global.cs.v4.b32 [%0],{%1,%2,%3,%4};" ::"l"(p), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]) : "memory");
        return;
    }
#endif
    store<N>(p, v);
}

// ---- ranges. The counter of the GPU form is unsigned, so that adding the step cannot wrap a 32-bit index.
template <class I> struct Unsigned { typedef uint64_t type; };
template <> struct Unsigned<int32_t> { typedef uint32_t type; };
template <> struct Unsigned<uint32_t> { typedef uint32_t type; };
#if GEMS_CPU && GEMS_FAST
template <class I> struct Chunk { I first, last; };
template <class I> GEMS_DI Chunk<I> grid_chunk(I n) { // starts are multiples of 16: whole vectors
    int64_t c = ((int64_t)n + gridDim.x - 1) / gridDim.x;
    c = (c + 15) & ~(int64_t)15;
    int64_t lo = c * blockIdx.x, hi = lo + c;
    return {(I)(lo < (int64_t)n ? lo : (int64_t)n), (I)(hi < (int64_t)n ? hi : (int64_t)n)};
}
#define GEMS_FOR_GRID(i, n)                                                                               \
    for (auto gems_chunk_##i = gems::grid_chunk<decltype((n) + 0)>(n), *gems_once_##i = &gems_chunk_##i; \
         gems_once_##i; gems_once_##i = nullptr)                                                          \
        for (decltype((n) + 0) i = gems_chunk_##i.first, gems_last_##i = gems_chunk_##i.last; i < gems_last_##i; ++i)
#define GEMS_FOR_BLOCK(i, n) for (decltype((n) + 0) i = 0, gems_last_##i = (n); i < gems_last_##i; ++i)
#else
template <class I> struct Range {
    typename Unsigned<I>::type at, last, step;
    GEMS_DI bool more() const { return at < last; }
    GEMS_DI void next() { at += step; }
};
template <class I> GEMS_DI Range<I> grid_range(I n) {
    typedef typename Unsigned<I>::type U;
    return {(U)blockIdx.x * blockDim.x + threadIdx.x, (U)(n > 0 ? n : 0), (U)gridDim.x * blockDim.x};
}
template <class I> GEMS_DI Range<I> block_range(I n) {
    typedef typename Unsigned<I>::type U;
    return {(U)threadIdx.x, (U)(n > 0 ? n : 0), (U)blockDim.x};
}
#define GEMS_RANGE_(i, n, range)                                                                   \
    for (auto gems_range_##i = gems::range<decltype((n) + 0)>(n); gems_range_##i.more(); gems_range_##i.next()) \
        if (decltype((n) + 0) i = (decltype((n) + 0))gems_range_##i.at; true)
#define GEMS_FOR_GRID(i, n) GEMS_RANGE_(i, n, grid_range)
#define GEMS_FOR_BLOCK(i, n) GEMS_RANGE_(i, n, block_range)
#endif

// ---- division by an invariant, n < 2^31; the 64-bit form divides
struct FastDiv { uint32_t d, m, s; };
GEMS_DI void divmod(uint32_t n, FastDiv f, uint32_t& q, uint32_t& r) {
    q = (__umulhi(n, f.m) + n) >> f.s;
    r = n - q * f.d;
}
GEMS_DI void divmod(int32_t n, FastDiv f, int32_t& q, int32_t& r) {
    q = (int32_t)((__umulhi((uint32_t)n, f.m) + (uint32_t)n) >> f.s);
    r = n - q * (int32_t)f.d;
}
GEMS_DI void divmod(int64_t n, FastDiv f, int64_t& q, int64_t& r) {
    q = n / f.d;
    r = n - q * f.d;
}
// The remainder of `rest` by a dimension's size; the quotient becomes `rest`. In 64 bits a size may be beyond a FastDiv.
GEMS_DI int32_t split(int32_t& rest, const FastDiv& div, int64_t) {
    int32_t r;
    divmod(rest, div, rest, r);
    return r;
}
GEMS_DI int64_t split(int64_t& rest, const FastDiv&, int64_t size) {
    int64_t q = rest / size, r = rest - q * size;
    rest = q;
    return r;
}

// ---- strided iteration: dim 0 innermost, strides in elements; the outermost dim's div is not used
template <int NT, class Index> struct Strided {
    int ndim;
    Index n;
    FastDiv div[8];
    Index stride[8][NT];
};
template <int RANK, int NT, class Index>
GEMS_DI void strided_offsets(const Strided<NT, Index>& m, Index i, Index (&off)[NT]) {
    GEMS_UNROLL for (int t = 0; t < NT; t++) off[t] = 0;
    GEMS_UNROLL for (int d = 0; d < RANK; d++) {
        if (d >= m.ndim) break;
        Index q = 0, r = i;
        if (d + 1 < RANK && d + 1 < m.ndim) divmod(i, m.div[d], q, r);
        i = q;
        GEMS_UNROLL for (int t = 0; t < NT; t++) off[t] += r * m.stride[d][t];
    }
}
#if GEMS_CPU && GEMS_FAST
// One run along dim 0. Still: the operand that stands still; NT: none does; -1: strides as they are.
template <int Still, int NT, class Index, class F>
GEMS_DI void strided_run(const Strided<NT, Index>& m, const Index (&off)[NT], Index run, F& body) {
    GEMS_IVDEP for (Index k = 0; k < run; k++) {
        Index o[NT];
        GEMS_UNROLL for (int t = 0; t < NT; t++) o[t] = off[t] + (Still < 0 ? k * m.stride[0][t] : t == Still ? 0 : k);
        body(o);
    }
}
template <int Still, int NT, class Index, class F>
GEMS_DI void strided_pick(const Strided<NT, Index>& m, const Index (&off)[NT], Index run, int still, F& body) {
    if constexpr (Still <= NT) {
        if (still == Still) return strided_run<Still>(m, off, run, body);
        strided_pick<Still + 1>(m, off, run, still, body);
    } else strided_run<-1>(m, off, run, body);
}
template <int RANK, int NT, class Index, class F> GEMS_DI void for_each_strided(const Strided<NT, Index>& m, F body) {
    auto chunk = grid_chunk<Index>(m.n);
    int still = NT; // -1: neither 1 nor one operand at 0
    for (int t = NT - 1; t >= 0; t--)
        if (m.stride[0][t] != 1) still = m.stride[0][t] == 0 && still == NT && t > 0 ? t : -1;
    for (Index i = chunk.first; i < chunk.last;) {
        Index off[NT], left = chunk.last - i, run = left;
        strided_offsets<RANK>(m, i, off);
        if (m.ndim > 1) run = (Index)m.div[0].d - i % (Index)m.div[0].d;
        if (run > left) run = left;
        strided_pick<1>(m, off, run, still, body);
        i += run;
    }
}
#else
template <int RANK, int NT, class Index, class F> GEMS_DI void for_each_strided(const Strided<NT, Index>& m, F body) {
    GEMS_FOR_GRID(i, m.n) {
        Index off[NT];
        strided_offsets<RANK>(m, i, off);
        body(off);
    }
}
#endif

// ---- collectives of a warp or of a one-dimensional block whose size is a multiple of kWarp
template <class T, class F> GEMS_DI T shuffle_words(T v, F shuffle) {
    constexpr int words = (sizeof(T) + 3) / 4;
    uint32_t w[words] = {};
    memcpy(w, &v, sizeof(T));
    GEMS_UNROLL for (int i = 0; i < words; i++) w[i] = shuffle(w[i]);
    memcpy(&v, w, sizeof(T));
    return v;
}
template <class T> GEMS_DI T shuffle_xor(T v, int mask) {
    return shuffle_words(v, [&](uint32_t w) { return __shfl_xor_sync(0xffffffffu, w, mask); });
}
template <class T> GEMS_DI T shuffle_up(T v, int by) {
    return shuffle_words(v, [&](uint32_t w) { return __shfl_up_sync(0xffffffffu, w, by); });
}
// The value of lane `from` of the warp.
template <class T> GEMS_DI T shuffle_from(T v, int from) {
    return shuffle_words(v, [&](uint32_t w) { return __shfl_sync(0xffffffffu, w, from); });
}
// f gets its operands in thread order. Every thread has the result, the same bits.
template <class T, class F> GEMS_DI T warp_reduce(T v, F f) {
    GEMS_UNROLL for (int o = 1; o < kWarp; o <<= 1) {
        T other = shuffle_xor(v, o);
        bool right = threadIdx.x & o;
        v = f(right ? other : v, right ? v : other);
    }
    return v;
}
template <class T, class F> GEMS_DI T block_reduce(T v, F f, T* buf) {
    if constexpr (!kFast) {
        v = warp_reduce(v, f);
        int warps = (int)blockDim.x / kWarp;
        if (warps == 1) return v;
        __syncthreads();
        if (threadIdx.x % kWarp == 0) buf[threadIdx.x / kWarp] = v;
        __syncthreads();
        v = buf[0];
        for (int i = 1; i < warps; i++) v = f(v, buf[i]);
    }
    return v;
}
template <class T> GEMS_DI T block_broadcast(T v, T* buf) {
    if constexpr (!kFast) {
        __syncthreads();
        if (threadIdx.x == 0) buf[32] = v;
        __syncthreads();
        v = buf[32];
    }
    return v;
}
// The sum of v over the threads before this one; total: over all threads.
template <class T> GEMS_DI T block_exclusive_sum(T v, T& total, T* buf) {
    if constexpr (kFast) {
        total = v;
        return T(0);
    } else {
        int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = (int)blockDim.x / kWarp;
        T sum = v;
        GEMS_UNROLL for (int o = 1; o < kWarp; o <<= 1) {
            T y = shuffle_up(sum, o);
            if (lane >= o) sum += y;
        }
        T before = shuffle_up(sum, 1);
        if (lane == 0) before = T(0);
        __syncthreads();
        if (lane == kWarp - 1) buf[warp] = sum;
        __syncthreads();
        T all = T(0), mine = T(0);
        for (int i = 0; i < warps; i++) {
            if (i == warp) mine = all;
            all += buf[i];
        }
        total = all;
        return mine + before;
    }
}
struct Sum { template <class T> GEMS_DI T operator()(T a, T b) const { return a + b; } };
struct Prod { template <class T> GEMS_DI T operator()(T a, T b) const { return a * b; } };
struct And { template <class T> GEMS_DI T operator()(T a, T b) const { return a && b; } };
struct Or { template <class T> GEMS_DI T operator()(T a, T b) const { return a || b; } };
template <class T> GEMS_DI T max_nan(T a, T b) { return a > b || a != a ? a : b; }
template <class T> GEMS_DI T min_nan(T a, T b) { return a < b || a != a ? a : b; }
#if !GEMS_CPU
GEMS_DI float max_nan(float a, float b) { float r; asm("max.NaN.f32 %0,%1,%2;" : "=f"(r) : "f"(a), "f"(b)); return r; }
GEMS_DI float min_nan(float a, float b) { float r; asm("min.NaN.f32 %0,%1,%2;" : "=f"(r) : "f"(a), "f"(b)); return r; }
#endif
struct Max { template <class T> GEMS_DI T operator()(T a, T b) const { return max_nan(a, b); } };
struct Min { template <class T> GEMS_DI T operator()(T a, T b) const { return min_nan(a, b); } };
// Folds an array of independent accumulators pairwise.
template <int N, class T, class F> GEMS_DI T lane_reduce(const T (&v)[N], F f) {
    T r[N];
    GEMS_UNROLL for (int i = 0; i < N; i++) r[i] = v[i];
    GEMS_UNROLL for (int o = 1; o < N; o *= 2) GEMS_UNROLL for (int i = 0; i + o < N; i += 2 * o) r[i] = f(r[i], r[i + o]);
    return r[0];
}

// ---- math; on a CPU the functions are in kernels/cpu/math.h
#if !GEMS_CPU
using ::exp; using ::exp2; using ::expm1; using ::log; using ::log2; using ::log10; using ::log1p; using ::sqrt; using ::rsqrt;
using ::sin; using ::cos; using ::tan; using ::asin; using ::acos; using ::atan; using ::sinh; using ::cosh; using ::tanh;
using ::asinh; using ::acosh; using ::atanh; using ::atan2; using ::erf; using ::erfc; using ::erfinv; using ::lgamma; using ::pow;
using ::fmod; using ::floor; using ::ceil; using ::trunc; using ::nearbyint; using ::fma; using ::abs; using ::copysign;
using ::hypot; using ::isnan; using ::isinf; using ::isfinite; using ::signbit; using ::fmax; using ::fmin;
GEMS_DI float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }
GEMS_DI double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
GEMS_DI int8_t abs(int8_t x) { return (int8_t)(x < 0 ? -x : x); }
GEMS_DI int16_t abs(int16_t x) { return (int16_t)(x < 0 ? -x : x); }
GEMS_DI uint8_t abs(uint8_t x) { return x; }
GEMS_DI bool abs(bool x) { return x; }
#endif

// Division and remainder with the signs of Python, as torch.floor_divide and torch.remainder. An integer divided by 0 gives 0.
template <class T> GEMS_DI T mod_floor(T a, T b) {
    if constexpr (is_float<T>) {
        T r = fmod(a, b);
        return r != 0 && (b < 0) != (r < 0) ? r + b : r;
    } else {
        if (b == 0 || b == (T)-1) return (T)0 > (T)-1 || b == 0 ? (T)0 : (T)(a % b);
        T r = (T)(a % b);
        return r != 0 && (b < 0) != (r < 0) ? (T)(r + b) : r;
    }
}
template <class T> GEMS_DI T remainder_(T a, T b) { return mod_floor(a, b); }
// a / b rounded down; by_b(d) is d / b for a d that is nearly a multiple of b.
template <class T, class F> GEMS_DI T div_floor(T a, T b, F by_b) {
    if constexpr (is_float<T>) {
        if (b == 0) return a / b;
        T r = fmod(a, b), d = by_b(a - r);
        if (r != 0 && (b < 0) != (r < 0)) d -= T(1);
        if (d == 0) return copysign(T(0), b < 0 ? -a : a);
        T f = floor(d);
        return d - f > T(0.5) ? f + T(1) : f;
    } else {
        if (b == 0) return (T)0;
        if ((T)0 > (T)-1 && b == (T)-1) return (T)((T)0 - (typename Unsigned<T>::type)a);
        T q = (T)(a / b);
        return a % b != 0 && (a < 0) != (b < 0) ? (T)(q - 1) : q;
    }
}
template <class T> GEMS_DI T div_floor(T a, T b) {
    return div_floor(a, b, [&](T d) { return d != 0 ? d / b : d; }); // a GPU divides 0 slowly
}

// ---- random numbers: Philox 4x32-10 with curand's counters. offset counts 32-bit numbers, a multiple of 4.
struct Random4 { uint32_t v[4]; };
struct RandomPair { float x, y; };
struct Philox {
    uint32_t key[2], counter[4];
    GEMS_DI Philox(uint64_t seed, uint64_t subsequence, uint64_t offset)
        : key{(uint32_t)seed, (uint32_t)(seed >> 32)},
          counter{(uint32_t)(offset >> 2), (uint32_t)(offset >> 34), (uint32_t)subsequence, (uint32_t)(subsequence >> 32)} {}
    GEMS_DI Random4 next4() {
        uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
        GEMS_UNROLL for (int i = 0; i < 10; i++) {
            uint32_t h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
            uint32_t h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
            c0 = h1 ^ c1 ^ k0, c1 = l1, c2 = h0 ^ c3 ^ k1, c3 = l0;
            k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
        }
        if (++counter[0] == 0 && ++counter[1] == 0 && ++counter[2] == 0) ++counter[3];
        return {{c0, c1, c2, c3}};
    }
};
GEMS_DI float uniform01(uint32_t u) { return (float)u * 2.3283064365386963e-10f + 1.1641532182693481e-10f; } // (0, 1]
GEMS_DI RandomPair box_muller(uint32_t a, uint32_t b) {
    float angle = (float)b * 1.4629180792671596e-09f + 7.3145903963357981e-10f;
    float s = sqrt(-2.0f * log(uniform01(a)));
    return {s * sin(angle), s * cos(angle)};
}

// ---- tiles: copies to shared memory in the background, tensor cores. CPU: kernels/cpu/tensor_core.h
#if !GEMS_CPU
GEMS_DI uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
GEMS_DI void cp_async16(void* smem, const void* gmem, int bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(shared_address(smem)), "l"(gmem), "r"(bytes) : "memory");
}
GEMS_DI void cp_async4(void* smem, const void* gmem, int bytes = 4) {
    asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(shared_address(smem)), "l"(gmem), "r"(bytes) : "memory");
}
GEMS_DI void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> GEMS_DI void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
GEMS_DI void ldmatrix_x4(uint32_t* r, const void* smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(smem)) : "memory");
}
GEMS_DI void ldmatrix_x4_trans(uint32_t* r, const void* smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(smem)) : "memory");
}
#define GEMS_MMA_16816_(type)                                                                                          \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
template <class T> GEMS_DI void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b) {
    if constexpr (is_same<T, bf16>) GEMS_MMA_16816_("bf16");
    else GEMS_MMA_16816_("f16");
}
GEMS_DI void mma_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
GEMS_DI void mma_m8n8k4_f64(double* d, const double* a, const double* b) {
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1},{%2},{%3},{%0,%1};"
                 : "+d"(d[0]), "+d"(d[1]) : "d"(a[0]), "d"(b[0]));
}
#endif

} // namespace gems
