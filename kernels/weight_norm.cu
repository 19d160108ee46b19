/* weight_norm: v over its length, times g, where a row (v's first dimension is kept) or a column (the last one is) has its own
 * length and g; and the gradients. The head gives T, G (g), Norm (the lengths), kBack, kColumns, and what rows.cuh and
 * columns.cuh need, which come before this file. Twin of csrc/families/weight_norm.c.
 *
 * x is v, or the gradient of the result, and y is v: forward x = y. Both ways sum(x * y) of a row comes first, then every element
 * is a * x, or a * x - b * y.
 */
using C = opmath_t<T>;

struct Scale {
    C a, b;
};
/* Where the numbers of rows are: g, lengths (written forward), the gradient of g. */
struct Numbers {
    const G* g;
    Norm* lengths;
    G* dg;

    GEMS_DI Scale of(int64_t place, C sum, bool writes) const {
        C own = convert<C>(g[place]);
        if constexpr (kBack) {
            C over = C(1) / convert<C>(lengths[place]);
            if (writes) dg[place] = convert<G>(sum * over);
            return Scale{own * over, own * over * over * over * sum};
        } else {
            C length = sqrt(sum);
            if (writes) lengths[place] = convert<Norm>(length);
            return Scale{own / length, C(0)};
        }
    }
};
GEMS_DI C result(C x, C y, Scale s) {
    if constexpr (kBack) return s.a * x - s.b * y;
    else return s.a * x;
}

GEMS_DI void team_row(int64_t place, const T* x, const T* y, T* out, int n, const Numbers& numbers) {
    __shared__ C buf[33];
    Kept<T> first;
    Kept<T> second;
    if constexpr (kStage == kShared) first.shared = shared_row<T>(0, n);
    if constexpr (kStage == kShared) second.shared = shared_row<T>(kBack && kStage == kShared ? 1 : 0, n);
    first.fetch(x, n);
    if constexpr (kBack) second.fetch(y, n);
    C sum = 0;
    each_vector(n, [&](int q, int c) {
        Vec<T, kVec> a = first.at(q, c), b = kBack ? second.at(q, c) : a;
        GEMS_UNROLL for (int k = 0; k < kVec; k++) sum += to_op(a.v[k]) * to_op(b.v[k]);
    });
    Scale s = numbers.of(place, team_reduce(sum, Sum{}, buf), team_lane() == 0);
    each_vector(n, [&](int q, int c) {
        Vec<T, kVec> a = first.at(q, c), b = kBack ? second.at(q, c) : a;
        GEMS_UNROLL for (int k = 0; k < kVec; k++) a.v[k] = from_op<T>(result(to_op(a.v[k]), to_op(b.v[k]), s));
        store_row<kVec>(out + c, a);
    });
}

GEMS_DI void fast_row(int64_t place, const T* x, const T* y, T* out, int n, const Numbers& numbers) {
    Scale s = numbers.of(place, row_sum<C>(n, [&](int c) { return to_op(x[c]) * to_op(y[c]); }), true);
    row_map(out, n, [&](int c) { return result(to_op(x[c]), to_op(y[c]), s); });
}

GEMS_DI void block_columns(const T* x, const T* y, T* out, int n, int64_t inner, const Numbers& numbers) {
    each_column(1, n, inner, [&](int64_t at, bool live) {
        C sum[kVec];
        GEMS_UNROLL for (int k = 0; k < kVec; k++) sum[k] = 0;
        int count = live ? n : 0;
#pragma unroll 4
        for (int r = threadIdx.y; r < count; r += (int)blockDim.y) {
            Vec<T, kVec> a = load<kVec>(x + at + r * inner), b = kBack ? load<kVec>(y + at + r * inner) : a;
            GEMS_UNROLL for (int k = 0; k < kVec; k++) sum[k] += to_op(a.v[k]) * to_op(b.v[k]);
        }
        join_column(sum, Sum{});
        Scale s[kVec];
        if (!live) return;
        GEMS_UNROLL for (int k = 0; k < kVec; k++) s[k] = numbers.of(at + k, sum[k], threadIdx.y == 0);
        for (int r = threadIdx.y; r < count; r += (int)blockDim.y) {
            Vec<T, kVec> a = load<kVec>(x + at + r * inner), b = kBack ? load<kVec>(y + at + r * inner) : a;
            GEMS_UNROLL for (int k = 0; k < kVec; k++) a.v[k] = from_op<T>(result(to_op(a.v[k]), to_op(b.v[k]), s[k]));
            store<kVec>(out + at + r * inner, a);
        }
    });
}

/* Wide tiles: lines of memory are read one after the other. */
GEMS_DI void fast_all_columns(const T* x, const T* y, T* out, int n, int64_t inner, const Numbers& numbers) {
    constexpr int kTile = 512;
    C high[kTile], low[kTile];
    int64_t chunk = ((inner + gridDim.x - 1) / gridDim.x + 63) / 64 * 64, at = chunk * blockIdx.x;
    int64_t last = at + chunk < inner ? at + chunk : inner;
    for (; at < last; at += kTile) {
        int count = (int)(last - at < kTile ? last - at : kTile);
        for (int k = 0; k < count; k++) high[k] = 0;
        for (int first = 0; first < n; first += 128) { /* sums of short sums */
            int stop = first + 128 < n ? first + 128 : n;
            for (int k = 0; k < count; k++) low[k] = 0;
            for (int r = first; r < stop; r++) {
                const T *p = x + at + r * inner, *q = y + at + r * inner;
                GEMS_IVDEP for (int k = 0; k < count; k++) low[k] += to_op(p[k]) * to_op(q[k]);
            }
            for (int k = 0; k < count; k++) high[k] += low[k];
        }
        for (int k = 0; k < count; k++) {
            Scale s = numbers.of(at + k, high[k], true);
            high[k] = s.a;
            low[k] = s.b;
        }
        for (int r = 0; r < n; r++) {
            const T *p = x + at + r * inner, *q = y + at + r * inner;
            T* to = out + at + r * inner;
            GEMS_IVDEP for (int k = 0; k < count; k++)
                to[k] = from_op<T>(result(to_op(p[k]), to_op(q[k]), Scale{high[k], low[k]}));
        }
    }
}

/* Rows: `rows` of n elements; columns: `rows` of them, each of n elements. */
extern "C" __global__ void __launch_bounds__(kThreads, 1)
weight_norm(const T* __restrict__ x, const T* __restrict__ y, const G* __restrict__ g, Norm* lengths, T* __restrict__ out,
            G* dg, int64_t rows, int32_t n) {
    Numbers numbers{g, lengths, dg};
    if constexpr (kColumns && kFast) fast_all_columns(x, y, out, n, rows, numbers);
    else if constexpr (kColumns) block_columns(x, y, out, n, rows, numbers);
    else
        each_row(rows, [&](int64_t row) {
            int64_t at = row * n;
            if constexpr (kFast) fast_row(row, x + at, y + at, out + at, n, numbers);
            else team_row(row, x + at, y + at, out + at, n, numbers);
        });
}
