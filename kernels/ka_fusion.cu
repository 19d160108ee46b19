/* The keys of RWKV-7's channel mixing, for heads of n channels: o_k = k * (1 + (a - 1) * ka), o_kk = k * kk over its length in
 * each head, o_kka = o_kk * a. k and a have a row of heads for each token, kk and ka one row. The head gives T and what rows.cuh
 * needs, which comes before this file. Twin of csrc/families/ka_fusion.c.
 */
using C = opmath_t<T>;

/* torch's normalize divides by no less than this. */
GEMS_DI C over_length(C squares) {
    C length = sqrt(squares);
    return C(1) / (length > C(1e-12) || length != length ? length : C(1e-12));
}
GEMS_DI C mixed(C k, C a, C ka) { return k * (C(1) + (a - C(1)) * ka); }

struct Head {
    const T *k, *kk, *a, *ka;
    T *o_k, *o_kk, *o_kka;
};

GEMS_DI void team_head(const Head& h, int n) {
    __shared__ C buf[33];
    C sum = 0;
    each_vector(n, [&](int, int c) {
        Vec<T, kVec> k = load<kVec>(h.k + c), kk = load<kVec>(h.kk + c);
        GEMS_UNROLL for (int i = 0; i < kVec; i++) {
            C p = to_op(k.v[i]) * to_op(kk.v[i]);
            sum += p * p;
        }
    });
    C scale = over_length(team_reduce(sum, Sum{}, buf));
    each_vector(n, [&](int, int c) {
        Vec<T, kVec> k = load<kVec>(h.k + c), kk = load<kVec>(h.kk + c), a = load<kVec>(h.a + c), ka = load<kVec>(h.ka + c);
        GEMS_UNROLL for (int i = 0; i < kVec; i++) {
            C key = to_op(k.v[i]), rate = to_op(a.v[i]), normed = key * to_op(kk.v[i]) * scale;
            k.v[i] = from_op<T>(mixed(key, rate, to_op(ka.v[i])));
            kk.v[i] = from_op<T>(normed);
            a.v[i] = from_op<T>(normed * rate);
        }
        store<kVec>(h.o_k + c, k);
        store<kVec>(h.o_kk + c, kk);
        store<kVec>(h.o_kka + c, a);
    });
}

GEMS_DI void fast_head(const Head& h, int n) {
    C scale = over_length(row_sum<C>(n, [&](int c) {
        C p = to_op(h.k[c]) * to_op(h.kk[c]);
        return p * p;
    }));
    row_map(h.o_k, n, [&](int c) { return mixed(to_op(h.k[c]), to_op(h.a[c]), to_op(h.ka[c])); });
    row_map(h.o_kk, n, [&](int c) { return to_op(h.k[c]) * to_op(h.kk[c]) * scale; });
    row_map(h.o_kka, n, [&](int c) { return to_op(h.k[c]) * to_op(h.kk[c]) * scale * to_op(h.a[c]); });
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
ka_fusion(const T* __restrict__ k, const T* __restrict__ kk, const T* __restrict__ a, const T* __restrict__ ka,
          T* __restrict__ o_k, T* __restrict__ o_kk, T* __restrict__ o_kka, int64_t rows, int32_t n, int64_t heads) {
    each_row(rows, [&](int64_t row) {
        int64_t at = row * n, once = row % heads * n;
        Head h{k + at, kk + once, a + at, ka + once, o_k + at, o_kk + at, o_kka + at};
        if constexpr (kFast) fast_head(h, n);
        else team_head(h, n);
    });
}
