// Random numbers, element for element those of ATen's CUDA kernels. The head names T, RANDOM_KERNEL, kMode (the distribution),
// kV (vector stores, or the elements of one of ATen's threads in dropout), kPairs (integers of two words each). Twin of
// csrc/families/random.c.
//
// ATen's grid has `threads` threads; thread s draws from subsequence s, four 32-bit numbers a round. Element
// (round * each + i) * threads + s is number i of that round. Here a thread takes kGroup neighbouring subsequences, so that
// its stores are vectors.
using namespace gems;

typedef opmath_t<T> Op;
constexpr int kGroup = kFast ? 64 : 4;  // 64: loops that a compiler vectorises rather than unrolls
enum { kUniform, kNormal, kExponential, kBernoulli, kCauchy, kLogNormal, kGeometric, kRandom };
constexpr bool kGauss = kMode == kNormal || kMode == kLogNormal;

// One Philox call for each of kGroup subsequences from `first` on: number i of subsequence s is r[i][s].
GEMS_DI void draw(uint64_t seed, uint64_t offset, uint32_t first, uint32_t (&r)[4][kGroup]) {
    if constexpr (kFast) {  // the rounds outside: a vector holds the same word of all subsequences
        uint64_t call = offset >> 2;
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        for (int s = 0; s < kGroup; s++) {
            r[0][s] = (uint32_t)call, r[1][s] = (uint32_t)(call >> 32);
            r[2][s] = first + s, r[3][s] = 0;
        }
        for (int round = 0; round < 10; round++) {
#ifdef GEMS_WIDE_PRODUCTS
            GEMS_UNROLL for (int s = 0; s < kGroup; s += 16) {
                gems_cpu::word16 w0 = gems_cpu::word16_at(r[0] + s), w1 = gems_cpu::word16_at(r[1] + s);
                gems_cpu::word16 w2 = gems_cpu::word16_at(r[2] + s), w3 = gems_cpu::word16_at(r[3] + s), high0, low0, high2, low2;
                gems_cpu::multiply(w0, 0xD2511F53u, high0, low0);
                gems_cpu::multiply(w2, 0xCD9E8D57u, high2, low2);
                w0 = high2 ^ w1 ^ k0, w2 = high0 ^ w3 ^ k1;
                memcpy(r[0] + s, &w0, 64), memcpy(r[1] + s, &low2, 64);
                memcpy(r[2] + s, &w2, 64), memcpy(r[3] + s, &low0, 64);
            }
#else
            GEMS_IVDEP for (int s = 0; s < kGroup; s++) {
                uint32_t x = __umulhi(0xCD9E8D57u, r[2][s]) ^ r[1][s] ^ k0, y = 0xCD9E8D57u * r[2][s];
                uint32_t z = __umulhi(0xD2511F53u, r[0][s]) ^ r[3][s] ^ k1, w = 0xD2511F53u * r[0][s];
                r[0][s] = x, r[1][s] = y, r[2][s] = z, r[3][s] = w;
            }
#endif
            k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
        }
    } else {
        GEMS_UNROLL for (int s = 0; s < kGroup; s++) {
            Random4 v = Philox(seed, first + s, offset).next4();
            GEMS_UNROLL for (int i = 0; i < 4; i++) r[i][s] = v.v[i];
        }
    }
}

GEMS_DI double uniform53(uint32_t x, uint32_t y) {
    uint64_t z = (uint64_t)x ^ ((uint64_t)y << 21);
    return (double)z * 1.1102230246251565e-16 + 5.5511151231257827e-17;
}

#if GEMS_CPU
// Of v in [0, 2 pi]: one reduction to a quarter turn, in float.
GEMS_DI float quarter_sin(float v, int shift) {
    float q = (float)(int)(v * 0.63661977f + 0.5f);
    float r = fma(q, 4.3711388e-8f, fma(q, -1.57079637f, v)), z = r * r;
    float s = r + r * z * (-1.6666667e-1f + z * (8.3333333e-3f + z * (-1.9841270e-4f + z * 2.7557319e-6f)));
    float c = 1.0f + z * (-0.5f + z * (4.1666668e-2f + z * (-1.3888889e-3f + z * 2.4801588e-5f)));
    int quarter = (int)q + shift;
    float picked = quarter & 1 ? c : s;
    return quarter & 2 ? -picked : picked;
}
GEMS_DI float fast_sin(float v) { return quarter_sin(v, 0); }
GEMS_DI float fast_cos(float v) { return quarter_sin(v, 1); }
GEMS_DI float fast_log(float v) { return log(v); }
GEMS_DI float fast_exp(float v) { return exp(v); }
GEMS_DI float fast_tan(float v) { // within a quarter turn
    float a = abs(v), t = quarter_sin(a, 0) / quarter_sin(a, 1);
    return v < 0 ? -t : t;
}
GEMS_DI double sin_pi(double v) { return sin(v * 3.1415926535897932); }
GEMS_DI double cos_pi(double v) { return cos(v * 3.1415926535897932); }
#else  // what ATen's kernels use there
GEMS_DI float fast_sin(float v) { return __sinf(v); }
GEMS_DI float fast_cos(float v) { return __cosf(v); }
GEMS_DI float fast_log(float v) { return __logf(v); }
GEMS_DI float fast_exp(float v) { return __expf(v); }
GEMS_DI float fast_tan(float v) { return __tanf(v); }
GEMS_DI double sin_pi(double v) { return ::sinpi(v); }
GEMS_DI double cos_pi(double v) { return ::cospi(v); }
#endif
GEMS_DI double fast_log(double v) { return log(v); }
GEMS_DI double fast_exp(double v) { return exp(v); }
GEMS_DI double fast_tan(double v) { return tan(v); }

// Words become normal numbers in their places, two of two: a pair has its logarithm and root in common.
template <int PAIRS> GEMS_DI void make_normal(uint32_t (&r)[4][kGroup]) {
    GEMS_UNROLL for (int i = 0; i < 2 * PAIRS; i += 2) {
        GEMS_IVDEP for (int s = 0; s < kGroup; s++) {
            float angle = (float)r[i + 1][s] * 1.4629180792671596e-09f + 7.3145903963357981e-10f;
            float length = sqrt(-2.0f * log(uniform01(r[i][s])));
            r[i][s] = float_bits(fast_sin(angle) * length), r[i + 1][s] = float_bits(fast_cos(angle) * length);
        }
    }
}
// A number of a call before the distribution's own numbers come in: uniform in (0, 1], or normal.
GEMS_DI float raw(uint32_t word) { return kGauss ? bits_float(word) : uniform01(word); }
template <int I>
GEMS_DI double raw_double(uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
    if constexpr (kGauss) {
        double v = (double)((uint64_t)w2 ^ ((uint64_t)w3 << 21)) * 2.2204460492503131e-16 + 1.1102230246251565e-16;
        double s = sqrt(-2.0 * log(uniform53(w0, w1)));
        return (I ? cos_pi(v) : sin_pi(v)) * s;
    } else {
        return I ? uniform53(w2, w3) : uniform53(w0, w1);
    }
}

constexpr bool kDouble = is_same<T, double> && kMode != kRandom;
typedef either<kDouble, double, float> Real;
constexpr int kEach = kDouble || kPairs ? 2 : 4;

// The distribution: a and b are from and to; mean and std; lambda; the probability; median and sigma.
struct Reals {
    Real a, b, range;
    T from, to;
    GEMS_DI Reals(double x, double y) {
        if constexpr (kMode == kUniform) {
            from = convert<T>((Real)x), to = convert<T>((Real)y);
            a = (Real)to_op(from), b = (Real)to_op(to), range = (Real)to_op(convert<T>((Real)(b - a)));
        } else {
            a = (Real)x, b = (Real)y, range = 0;
        }
    }
    GEMS_DI T operator()(Real v) const {
        constexpr Real half = Limits<Real>::eps() / 2;
        if constexpr (kMode == kUniform) {
            T value = convert<T>((Real)(v * range + a));
            return to_op(value) == b ? from : value;
        } else if constexpr (kMode == kNormal) {
            return convert<T>((Real)(v * b + a));
        } else if constexpr (kMode == kLogNormal) {
            return convert<T>(fast_exp((Real)(v * b + a)));
        } else if constexpr (kMode == kExponential) {
            Real l = v >= Real(1) - half ? -half : fast_log(v);
            return convert<T>((Real)(Real(-1) / a * l));
        } else if constexpr (kMode == kCauchy) {
            constexpr Real eps = Limits<Real>::eps(), most = 1 - eps;
            Real u = kDouble ? v : v > most ? most : v < eps ? eps : v;
            return convert<T>((Real)(a + b * fast_tan((Real)3.14159265358979323846 * (u - Real(0.5)))));
        } else if constexpr (kMode == kGeometric) {
            return convert<T>((Real)ceil(fast_log(v) / fast_log((Real)(Real(1) - a))));
        } else {
            return convert<T>(v < a);
        }
    }
};

// Integers from `base`, `range` of them; a range of 0 stands for all 64 bits.
struct Integers {
    int64_t base;
    uint64_t range;
    double inverse;
    bool power;
    GEMS_DI Integers(int64_t from, uint64_t count)
        : base(from), range(count), inverse(1.0 / (double)count), power((count & (count - 1)) == 0) {}
    GEMS_DI T operator()(uint64_t v) const {
        return convert<T>((int64_t)((power ? v & (range - 1) : v % range) + (uint64_t)base));
    }
    GEMS_DI T operator()(uint32_t v) const {
#if GEMS_CPU  // a division that vectorises: the quotient is off by one at most
        int64_t r = (int64_t)v - (int64_t)((double)v * inverse) * (int64_t)range;
        r += r < 0 ? (int64_t)range : 0;
        r -= r >= (int64_t)range ? (int64_t)range : 0;
        return convert<T>(r + base);
#else
        return convert<T>((int64_t)(v % (uint32_t)range) + base);
#endif
    }
};
typedef either<kMode == kRandom, Integers, Reals> Shape;
typedef either<kMode == kRandom, int64_t, double> First;
typedef either<kMode == kRandom, uint64_t, double> Second;

template <int I>
GEMS_DI T number(const Reals& shape, const uint32_t (&r)[4][kGroup], int s) {
    if constexpr (kDouble) return shape(raw_double<I>(r[0][s], r[1][s], r[2][s], r[3][s]));
    else return shape(raw(r[I][s]));
}
template <int I>
GEMS_DI T number(const Integers& shape, const uint32_t (&r)[4][kGroup], int s) {
    if constexpr (kPairs) return shape((uint64_t)r[2 * (I & 1)][s] << 32 | r[2 * (I & 1) + 1][s]);
    else return shape(r[I][s]);
}

// The elements of a group that begins at `at`, with their offsets; along dim 0 in fast mode, which vectorises.
template <int NT, class F>
GEMS_DI void for_each_of_group(const Strided<NT, int32_t>& m, int64_t at, F body) {
    int left = at + kGroup <= m.n ? kGroup : at < m.n ? (int)(m.n - at) : 0;
    int32_t off[NT];
    if constexpr (kFast) {
        for (int s = 0, run; s < left; s += run) {
            int32_t i = (int32_t)at + s;
            strided_offsets<8>(m, i, off);
            run = left - s;
            if (m.ndim > 1 && run > (int32_t)m.div[0].d - i % (int32_t)m.div[0].d)
                run = (int32_t)m.div[0].d - i % (int32_t)m.div[0].d;
            GEMS_IVDEP for (int k = 0; k < run; k++) {
                int32_t o[NT];
                for (int t = 0; t < NT; t++) o[t] = off[t] + k * m.stride[0][t];
                body(s + k, o);
            }
        }
    } else {
        GEMS_UNROLL for (int s = 0; s < kGroup; s++) {
            if (s >= left) break;
            strided_offsets<8>(m, (int32_t)at + s, off);
            body(s, off);
        }
    }
}

// ATen's threads draw kEach numbers a round, number I for the element I * threads further on: put(Which<I>, at, words) for
// kGroup elements in a row, of n.
template <int I> struct Which { static constexpr int number = I; };
template <class F>
GEMS_DI void for_each_draw(int32_t n, uint64_t seed, uint64_t offset, uint32_t threads, uint32_t rounds, F put) {
    uint32_t groups = threads / kGroup;
    GEMS_FOR_GRID(item, groups * rounds) {
        uint32_t round = item / groups, first = (item - round * groups) * kGroup;
        uint32_t r[4][kGroup];
        int64_t at = (int64_t)round * kEach * threads + first;
        draw(seed, offset + (uint64_t)round * 4, first, r);
        if constexpr (kGauss && !kDouble) { // few elements need no more than the first two, which saves a CPU time
            if (!kFast || at + 2 * (int64_t)threads < n) make_normal<2>(r);
            else make_normal<1>(r);
        }
        put(Which<0>(), at, r);
        put(Which<1>(), at + threads, r);
        if constexpr (kEach == 4) {
            put(Which<2>(), at + 2 * (int64_t)threads, r);
            put(Which<3>(), at + 3 * (int64_t)threads, r);
        }
    }
}

#if RANDOM_KERNEL == 0
// Number I of a group goes to kGroup elements in a row.
template <int I>
GEMS_DI void put(T* out, int64_t at, int32_t n, const Shape& shape, const uint32_t (&r)[4][kGroup]) {
    if (at >= n) return;
    if (at + kGroup <= n && (kV || kFast)) {
        if constexpr (kFast) {
            GEMS_IVDEP for (int s = 0; s < kGroup; s++) out[at + s] = number<I>(shape, r, s);
        } else {
            constexpr int kWide = sizeof(T) * kGroup > 16 ? 16 / sizeof(T) : kGroup;
            GEMS_UNROLL for (int s = 0; s < kGroup; s += kWide) {
                Vec<T, kWide> v;
                GEMS_UNROLL for (int k = 0; k < kWide; k++) v.v[k] = number<I>(shape, r, s + k);
                store<kWide>(out + at + s, v);
            }
        }
    } else {
        for (int s = 0; s < kGroup && at + s < n; s++) out[at + s] = number<I>(shape, r, s);
    }
}

extern "C" __global__ void random_dense(T* __restrict__ out, int32_t n, uint64_t seed, uint64_t offset, uint32_t threads,
                                        uint32_t rounds, First a, Second b, Strided<1, int32_t>) {
    Shape shape(a, b);
    for_each_draw(n, seed, offset, threads, rounds, [&](auto which, int64_t at, const uint32_t (&r)[4][kGroup]) {
        put<which.number>(out, at, n, shape, r);
    });
}
#endif

#if RANDOM_KERNEL == 1
template <int I>
GEMS_DI void put(T* out, const Strided<1, int32_t>& m, int64_t at, const Shape& shape, const uint32_t (&r)[4][kGroup]) {
    T value[kGroup];
    GEMS_IVDEP for (int s = 0; s < kGroup; s++) value[s] = number<I>(shape, r, s);
    for_each_of_group(m, at, [&](int s, const int32_t (&off)[1]) { out[off[0]] = value[s]; });
}

extern "C" __global__ void random_strided(T* __restrict__ out, int32_t n, uint64_t seed, uint64_t offset, uint32_t threads,
                                          uint32_t rounds, First a, Second b, Strided<1, int32_t> m) {
    Shape shape(a, b);
    for_each_draw(n, seed, offset, threads, rounds, [&](auto which, int64_t at, const uint32_t (&r)[4][kGroup]) {
        put<which.number>(out, m, at, shape, r);
    });
}
#endif

#if RANDOM_KERNEL == 2
// kV elements of one of ATen's threads: it draws once for four of them, or once for all when there are fewer.
constexpr int kCalls = kV > 4 ? kV / 4 : 1, kWords = kV > 4 ? 4 : kV;

GEMS_DI void keep_or_drop(T* out, uint8_t* mask, const T* in, int64_t at, uint8_t keep, Op scale) {
    out[at] = from_op<T>(to_op(in[at]) * (Op)keep * scale);
    mask[at] = keep;
}

extern "C" __global__ void dropout(T* __restrict__ out, uint8_t* __restrict__ mask, const T* __restrict__ in, uint32_t n,
                                   double p, uint64_t seed, uint64_t offset, uint32_t threads) {
    Op keep = (Op)p, scale = (Op)(1.0 / (double)keep);
    uint32_t groups = threads / kGroup;
    if constexpr (kV == 1) {
        uint32_t rounds = (n - 1) / (threads * 4) + 1;
        GEMS_FOR_GRID(item, (int64_t)groups * rounds) {
            uint32_t round = (uint32_t)item / groups, first = ((uint32_t)item - round * groups) * kGroup;
            uint32_t r[4][kGroup];
            draw(seed, offset + (uint64_t)round * 4, first, r);
            int64_t at = (int64_t)round * 4 * threads + first;
            GEMS_UNROLL for (int i = 0; i < 4; i++)
                for (int s = 0; s < kGroup; s++)
                    if (at + i * (int64_t)threads + s < n)
                        keep_or_drop(out, mask, in, at + i * (int64_t)threads + s, uniform01(r[i][s]) < keep, scale);
        }
    } else if constexpr (kFast) {
        uint32_t vectors = n / kV;
        GEMS_FOR_GRID(item, (int64_t)(vectors + kGroup - 1) / kGroup) {
            uint32_t v = (uint32_t)item * kGroup, turn = v / threads, first = v - turn * threads;
            int count = vectors - v < kGroup ? (int)(vectors - v) : kGroup;
            uint8_t kept[kGroup * kV];
            for (int c = 0; c < kCalls; c++) {
                uint32_t r[4][kGroup];
                draw(seed, offset + ((uint64_t)turn * kCalls + c) * 4, first, r);
                for (int w = 0; w < kWords; w++)
                    for (int s = 0; s < kGroup; s++) kept[s * kV + c * 4 + w] = uniform01(r[w][s]) < keep;
            }
            int64_t at = (int64_t)v * kV;
            GEMS_IVDEP for (int i = 0; i < count * kV; i++) {
                out[at + i] = from_op<T>(to_op(in[at + i]) * (Op)kept[i] * scale);
                mask[at + i] = kept[i];
            }
        }
    } else {
        GEMS_FOR_GRID(v, n / kV) {
            uint32_t turn = v / threads;
            Philox philox(seed, v - turn * threads, offset + (uint64_t)turn * kCalls * 4);
            Vec<T, kV> x = load<kV>(in + (int64_t)v * kV);
            Vec<uint8_t, kV> kept;
            GEMS_UNROLL for (int c = 0; c < kCalls; c++) {
                Random4 r = philox.next4();
                GEMS_UNROLL for (int w = 0; w < kWords; w++) kept.v[c * 4 + w] = uniform01(r.v[w]) < keep;
            }
            GEMS_UNROLL for (int i = 0; i < kV; i++)
                x.v[i] = from_op<T>(to_op(x.v[i]) * (Op)kept.v[i] * scale);
            store<kV>(out + (int64_t)v * kV, x);
            store<kV>(mask + (int64_t)v * kV, kept);
        }
    }
}
#endif

#if RANDOM_KERNEL == 3 || RANDOM_KERNEL == 4
GEMS_DI T scaled(T grad, uint8_t keep, Op scale) { return from_op<T>((Op)keep * to_op(grad) * scale); }
#endif

#if RANDOM_KERNEL == 3
extern "C" __global__ void masked_scale(T* __restrict__ out, const T* __restrict__ grad, const uint8_t* __restrict__ mask,
                                        double factor, Strided<3, int32_t> m) {
    Op scale = (Op)factor;
    if constexpr (kFast) {
        GEMS_FOR_GRID(i, m.n) out[i] = scaled(grad[i], mask[i], scale);
    } else {
        GEMS_FOR_GRID(i, m.n / kV) {
            Vec<T, kV> g = load<kV>(grad + i * kV);
            Vec<uint8_t, kV> keep = load<kV>(mask + i * kV);
            GEMS_UNROLL for (int k = 0; k < kV; k++) g.v[k] = scaled(g.v[k], keep.v[k], scale);
            store<kV>(out + i * kV, g);
        }
        GEMS_FOR_GRID(i, m.n % kV) {
            int32_t at = m.n / kV * kV + i;
            out[at] = scaled(grad[at], mask[at], scale);
        }
    }
}
#endif

#if RANDOM_KERNEL == 4
extern "C" __global__ void masked_scale_strided(T* __restrict__ out, const T* __restrict__ grad, const uint8_t* __restrict__ mask,
                                                double factor, Strided<3, int32_t> m) {
    Op scale = (Op)factor;
    for_each_strided<8>(m, [&](const int32_t (&off)[3]) { out[off[0]] = scaled(grad[off[1]], mask[off[2]], scale); });
}
#endif
