/* Gradients of ka_fusion.cu, for heads of n channels. With p = k * kk and h = p over its length, the gradient of p is that of h,
 * less its part along h, over the length. `inputs` gives those of k and a and leaves two numbers of each head of each token, with
 * which `sums` adds up those of kk and ka over the tokens (column_sums.cuh). The head gives T, W (the same), WEIGHTS (which of the
 * two), and what rows.cuh and, for sums, column_sums.cuh need, which come before this file. Twin of
 * csrc/families/ka_fusion.c.
 */
using C = opmath_t<T>;

/* 1 over the length, and how much of h the gradient has: none where the length is not divided by. */
struct Length {
    C over, along;
};
GEMS_DI Length length_of(C squares, C dot) {
    C length = sqrt(squares);
    if (length < C(1e-12)) return Length{C(1) / C(1e-12), C(0)};
    C over = C(1) / length;
    return Length{over, dot * over};
}
/* The gradient of p: g of h and ga of h * a. */
GEMS_DI C of_product(C p, C a, C g, C ga, Length l) { return (g + ga * a - p * l.over * l.along) * l.over; }

/* What is read of all tokens: k, a, the gradients of o_k, o_kk and o_kka. */
struct Tokens {
    const T *k, *a, *g, *gh, *ga;
};

#if !WEIGHTS
GEMS_DI void team_head(const Tokens& t, const T* kk, const T* ka, T* dk, T* da, Length* length, int n) {
    __shared__ Two<C> buf[33];
    Two<C> sum{0, 0};
    each_vector(n, [&](int, int c) {
        Vec<T, kVec> k = load<kVec>(t.k + c), w = load<kVec>(kk + c), a = load<kVec>(t.a + c);
        Vec<T, kVec> gh = load<kVec>(t.gh + c), ga = load<kVec>(t.ga + c);
        GEMS_UNROLL for (int i = 0; i < kVec; i++) {
            C p = to_op(k.v[i]) * to_op(w.v[i]);
            sum.a += p * p;
            sum.b += p * (to_op(gh.v[i]) + to_op(ga.v[i]) * to_op(a.v[i]));
        }
    });
    sum = team_reduce(sum, [](Two<C> x, Two<C> y) { return Two<C>{x.a + y.a, x.b + y.b}; }, buf);
    Length l = length_of(sum.a, sum.b);
    each_vector(n, [&](int, int c) {
        Vec<T, kVec> k = load<kVec>(t.k + c), w = load<kVec>(kk + c), a = load<kVec>(t.a + c), mix = load<kVec>(ka + c);
        Vec<T, kVec> g = load<kVec>(t.g + c), gh = load<kVec>(t.gh + c), ga = load<kVec>(t.ga + c);
        GEMS_UNROLL for (int i = 0; i < kVec; i++) {
            C key = to_op(k.v[i]), rate = to_op(a.v[i]), own = to_op(g.v[i]), along = to_op(ga.v[i]), scale = to_op(w.v[i]);
            C p = key * scale, mixed = to_op(mix.v[i]);
            k.v[i] = from_op<T>(own * (C(1) + (rate - C(1)) * mixed) + scale * of_product(p, rate, to_op(gh.v[i]), along, l));
            a.v[i] = from_op<T>(own * key * mixed + along * p * l.over);
        }
        store<kVec>(dk + c, k);
        store<kVec>(da + c, a);
    });
    if (team_lane() == 0) *length = l;
}

GEMS_DI void fast_head(const Tokens& t, const T* kk, const T* ka, T* dk, T* da, Length* length, int n) {
    Two<C> sum = row_sums<C>(n, [&](int c) {
        C p = to_op(t.k[c]) * to_op(kk[c]);
        return Two<C>{p * p, p * (to_op(t.gh[c]) + to_op(t.ga[c]) * to_op(t.a[c]))};
    });
    Length l = length_of(sum.a, sum.b);
    row_map(dk, n, [&](int c) {
        C rate = to_op(t.a[c]), scale = to_op(kk[c]);
        return to_op(t.g[c]) * (C(1) + (rate - C(1)) * to_op(ka[c])) +
               scale * of_product(to_op(t.k[c]) * scale, rate, to_op(t.gh[c]), to_op(t.ga[c]), l);
    });
    row_map(da, n, [&](int c) {
        C key = to_op(t.k[c]);
        return to_op(t.g[c]) * key * to_op(ka[c]) + to_op(t.ga[c]) * key * to_op(kk[c]) * l.over;
    });
    *length = l;
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
inputs(const T* __restrict__ k, const T* __restrict__ a, const T* __restrict__ g, const T* __restrict__ gh,
       const T* __restrict__ ga, const T* __restrict__ kk, const T* __restrict__ ka, T* __restrict__ dk, T* __restrict__ da,
       Length* __restrict__ lengths, int64_t rows, int32_t n, int64_t heads) {
    each_row(rows, [&](int64_t row) {
        int64_t at = row * n, once = row % heads * n;
        Tokens t{k + at, a + at, g + at, gh + at, ga + at};
        if constexpr (kFast) fast_head(t, kk + once, ka + once, dk + at, da + at, lengths + row, n);
        else team_head(t, kk + once, ka + once, dk + at, da + at, lengths + row, n);
    });
}

#else
struct Fetched {
    Vec<T, kVec> k, a, g, gh, ga, kk;
    Length length; /* whole vectors lie in one head */
};

/* Over `run` tokens a block along y; n: channels of all heads, `head` of one. */
extern "C" __global__ void __launch_bounds__(256, 1)
sums(const T* __restrict__ k, const T* __restrict__ a, const T* __restrict__ g, const T* __restrict__ gh,
     const T* __restrict__ ga, const T* __restrict__ kk, const Length* __restrict__ lengths, W* dkk, W* dka, C* partial,
     int64_t tokens, int32_t n, int64_t run, int32_t head) {
    Columns to{dkk, dka, partial, n};
    const int heads = n / head;
    auto both = [](C key, C scale, C rate, C own, C gh_, C ga_, Length l) {
        return Two<C>{key * of_product(key * scale, rate, gh_, ga_, l), own * key * (rate - C(1))};
    };
    if constexpr (kFast) {
        fast_column_sums(to, tokens, run, [&](int64_t row) {
            int64_t at = row * n;
            const Length* own = lengths + row * heads;
            Tokens t{k + at, a + at, g + at, gh + at, ga + at};
            return [=](int c) {
                return both(to_op(t.k[c]), to_op(kk[c]), to_op(t.a[c]), to_op(t.g[c]), to_op(t.gh[c]), to_op(t.ga[c]),
                            own[c / head]);
            };
        });
    } else {
        auto fetch = [&](int64_t row, int c) {
            int64_t at = row * n + c;
            return Fetched{load<kVec>(k + at),  load<kVec>(a + at),  load<kVec>(g + at),
                           load<kVec>(gh + at), load<kVec>(ga + at), load<kVec>(kk + c), lengths[row * heads + c / head]};
        };
        block_column_sums(to, tokens, run, fetch, [&](const Fetched& f, int i) {
            return both(to_op(f.k.v[i]), to_op(f.kk.v[i]), to_op(f.a.v[i]), to_op(f.g.v[i]), to_op(f.gh.v[i]),
                        to_op(f.ga.v[i]), f.length);
        });
    }
}
#endif
