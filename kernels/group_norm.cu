/* group_norm. A row is one group of one sample: n elements, `planes` channels of `plane` elements each. The head gives W
 * (weight and bias), Stat (mean and rstd), kWeight, kBias, kChannel (how a column finds its channel) and what rows.cuh and
 * moments.cuh need, which come before this file.
 */
enum { kDivided, kWholeVector, kColumn }; /* by division; one channel a vector; every column is a channel */

GEMS_DI int channel_of(int column, FastDiv plane) {
    if constexpr (kChannel == kColumn) return column;
    int q, r;
    divmod(column, plane, q, r);
    return q;
}

/* The values of p that belong to the columns of a vector. */
GEMS_DI void affine(const W* p, int column, FastDiv plane, C (&to)[kVec]) {
    if constexpr (kChannel == kColumn) {
        Vec<W, kVec> v = load<kVec>(p + column);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) to[k] = convert<C>(v.v[k]);
    } else if constexpr (kChannel == kWholeVector) {
        C v = convert<C>(p[channel_of(column, plane)]);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) to[k] = v;
    } else {
        GEMS_UNROLL for (int k = 0; k < kVec; k++) to[k] = convert<C>(p[channel_of(column + k, plane)]);
    }
}

GEMS_DI void team_norm(const T* x, const W* weight, const W* bias, T* y, Stat* mean_out, Stat* rstd_out, int n,
                       FastDiv plane, C eps) {
    Kept<T> row;
    if constexpr (kStage == kShared) row.shared = shared_row<T>(0, n);
    row.fetch(x, n);
    Spread spread = team_spread(row, n);
    C mean = spread.mean, rstd = rsqrt(spread.variance + eps);
    each_vector(n, [&](int q, int c) {
        Vec<T, kVec> v = row.at(q, c);
        C w[kVec], b[kVec];
        if constexpr (kWeight) affine(weight, c, plane, w);
        if constexpr (kBias) affine(bias, c, plane, b);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            C r = (to_op(v.v[k]) - mean) * rstd;
            if constexpr (kWeight) r *= w[k];
            if constexpr (kBias) r += b[k];
            v.v[k] = from_op<T>(r);
        }
        store_row<kVec>(y + c, v);
    });
    if (team_lane() == 0) {
        *mean_out = convert<Stat>(mean);
        *rstd_out = convert<Stat>(rstd);
    }
}

constexpr int kShortPlane = 16;

GEMS_DI void fast_norm(const T* x, const W* weight, const W* bias, T* y, Stat* mean_out, Stat* rstd_out, int n,
                       FastDiv plane, C eps) {
    Spread spread = row_spread(x, n);
    C mean = spread.mean, rstd = rsqrt(spread.variance + eps);
    int size = (int)plane.d;
    if (kChannel == kColumn || size < kShortPlane) {
        row_map(y, n, [&](int c) {
            C r = (to_op(x[c]) - mean) * rstd;
            int channel = kWeight || kBias ? channel_of(c, plane) : 0;
            if constexpr (kWeight) r *= convert<C>(weight[channel]);
            if constexpr (kBias) r += convert<C>(bias[channel]);
            return r;
        });
    } else {
        for (int from = 0, channel = 0; from < n; from += size, channel++) {
            C scale = rstd, shift = 0;
            if constexpr (kWeight) scale *= convert<C>(weight[channel]);
            if constexpr (kBias) shift = convert<C>(bias[channel]);
            const T* p = x + from;
            row_map(y + from, size, [&](int c) { return (to_op(p[c]) - mean) * scale + shift; });
        }
    }
    *mean_out = convert<Stat>(mean);
    *rstd_out = convert<Stat>(rstd);
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
normalize(const T* __restrict__ x, const W* __restrict__ weight, const W* __restrict__ bias, T* __restrict__ y,
          Stat* __restrict__ mean, Stat* __restrict__ rstd, int64_t rows, int32_t n, int32_t groups, int32_t planes,
          FastDiv plane, double eps) {
    each_row(rows, [&](int64_t row) {
        int64_t first = row % groups * planes;
        const W *w = kWeight ? weight + first : weight, *b = kBias ? bias + first : bias;
        if constexpr (kFast) fast_norm(x + row * n, w, b, y + row * n, mean + row, rstd + row, n, plane, C(eps));
        else team_norm(x + row * n, w, b, y + row * n, mean + row, rstd + row, n, plane, C(eps));
    });
}
