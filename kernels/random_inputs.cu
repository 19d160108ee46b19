// Random numbers whose parameters are tensors; after random.cu. kMean, kStd: which of the two is a tensor; P: the dtype of
// probabilities. Twin of csrc/families/random_inputs.c.

// ATen draws into the result, multiplies and adds there: each of the three rounds to T.
GEMS_DI T moved(T drawn, const T* mean, int64_t at_mean, double plain, const T* std, int64_t at_std) {
    if constexpr (kStd) drawn = convert<T>((Real)((Real)to_op(drawn) * (Real)to_op(std[at_std])));
    Real by = kMean ? (Real)to_op(mean[at_mean]) : (Real)to_op(convert<T>((Real)plain));
    return convert<T>((Real)((Real)to_op(drawn) + by));
}

#if RANDOM_KERNEL == 5
template <int I>
GEMS_DI void put(T* out, const T* mean, const T* std, double plain, int64_t at, int32_t n, const Reals& shape,
                 const uint32_t (&r)[4][kGroup]) {
    if (at >= n) return;
    if (at + kGroup <= n) {
        GEMS_IVDEP for (int s = 0; s < kGroup; s++)
            out[at + s] = moved(number<I>(shape, r, s), mean, at + s, plain, std, at + s);
    } else {
        for (int s = 0; s < kGroup && at + s < n; s++)
            out[at + s] = moved(number<I>(shape, r, s), mean, at + s, plain, std, at + s);
    }
}
#define PUT(I, at) put<I>(out, mean, std, plain, at, n, shape, r)
extern "C" __global__ void normal_dense(
#elif RANDOM_KERNEL == 6
template <int I>
GEMS_DI void put(T* out, const T* mean, const T* std, double plain, int64_t at, const Strided<3, int32_t>& m, const Reals& shape,
                 const uint32_t (&r)[4][kGroup]) {
    T value[kGroup];
    GEMS_IVDEP for (int s = 0; s < kGroup; s++) value[s] = number<I>(shape, r, s);
    for_each_of_group(m, at, [&](int s, const int32_t (&off)[3]) {
        out[off[0]] = moved(value[s], mean, off[1], plain, std, off[2]);
    });
}
#define PUT(I, at) put<I>(out, mean, std, plain, at, m, shape, r)
extern "C" __global__ void normal_strided(
#endif
#if RANDOM_KERNEL <= 6
    T* __restrict__ out, const T* __restrict__ mean, const T* __restrict__ std, int32_t n, uint64_t seed, uint64_t offset,
    uint32_t threads, uint32_t rounds, double plain, double scale, Strided<3, int32_t> m) {
    Reals shape(0.0, scale);
    for_each_draw(n, seed, offset, threads, rounds,
                  [&](auto which, int64_t at, const uint32_t (&r)[4][kGroup]) { PUT(which.number, at); });
}
#endif

#if RANDOM_KERNEL >= 7
// The word of an element is number i % 4 of subsequence i / 4. A probability is compared in float, in double for a double result.
typedef either<is_same<T, double>, double, float> Chance;
GEMS_DI T hit(uint32_t word, P p) {
    Chance chance = convert<Chance>(p);
#if !GEMS_CPU  // a CPU has looked at them before
    if (!(chance >= 0 && chance <= 1)) __assertfail("0 <= p && p <= 1", "random_inputs.cu", 1, "bernoulli", 1);
#endif
    return convert<T>((Chance)uniform01(word) <= chance);
}
#endif

#if RANDOM_KERNEL == 7
// Elements of a type to another; halves by the processor's own instructions, where the compiler has none for loops.
template <class To, class From> GEMS_DI void convert_run(To* to, const From* from, int n) {
    GEMS_IVDEP for (int i = 0; i < n; i++) to[i] = convert<To>(from[i]);
}
#ifdef GEMS_HALF_BLOCKS
GEMS_DI void convert_run(float* to, const f16* from, int n) { gems_cpu::halves_to_floats(to, from, n); }
GEMS_DI void convert_run(f16* to, const float* from, int n) { gems_cpu::floats_to_halves(to, from, n); }
#endif

extern "C" __global__ void bernoulli_dense(T* __restrict__ out, const P* __restrict__ p, int32_t n, uint64_t seed,
                                           uint64_t offset, Strided<3, int32_t>) {
    int32_t groups = (n + 4 * kGroup - 1) / (4 * kGroup);
    if constexpr (kFast) {
        GEMS_FOR_GRID(item, groups) {
            uint32_t r[4][kGroup], words[4 * kGroup];
            draw(seed, offset, (uint32_t)item * kGroup, r);
            for (int w = 0; w < 4; w++)
                for (int s = 0; s < kGroup; s++) words[4 * s + w] = r[w][s];
            int32_t at = item * 4 * kGroup, count = n - at < 4 * kGroup ? n - at : 4 * kGroup;
            Chance chance[4 * kGroup], hits[4 * kGroup];
            convert_run(chance, p + at, count);
            GEMS_IVDEP for (int32_t i = 0; i < count; i++)
                hits[i] = (Chance)uniform01(words[i]) <= chance[i] ? Chance(1) : Chance(0);
            convert_run(out + at, hits, count);
        }
    } else {
        constexpr uint64_t whole_p = 4 * sizeof(P) > 16 ? 16 : 4 * sizeof(P), whole_out = 4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T);
        const bool vectors = (uint64_t)p % whole_p == 0 && (uint64_t)out % whole_out == 0;
        GEMS_FOR_GRID(s, (n + 3) / 4) {
            Random4 r = Philox(seed, s, offset).next4();
            if (vectors && 4 * s + 4 <= n) {
                Vec<P, 4> chance = load<4>(p + 4 * s);
                Vec<T, 4> v;
                GEMS_UNROLL for (int i = 0; i < 4; i++) v.v[i] = hit(r.v[i], chance.v[i]);
                store<4>(out + 4 * s, v);
            } else {
                for (int i = 0; i < 4 && 4 * s + i < n; i++) out[4 * s + i] = hit(r.v[i], p[4 * s + i]);
            }
        }
    }
}
#endif

#if RANDOM_KERNEL == 8
extern "C" __global__ void bernoulli_strided(T* __restrict__ out, const P* __restrict__ p, int32_t n, uint64_t seed,
                                             uint64_t offset, Strided<3, int32_t> m) {
    GEMS_FOR_GRID(s, (n + 3) / 4) {
        Random4 r = Philox(seed, s, offset).next4();
        for (int i = 0; i < 4 && 4 * s + i < n; i++) {
            int32_t off[3];
            strided_offsets<8>(m, 4 * s + i, off);
            out[off[0]] = hit(r.v[i], p[off[1]]);
        }
    }
}
#endif
