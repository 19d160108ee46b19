/* A row less its mean, times the reciprocal of its deviation, and weight and bias: for the programs of row_norm.cu and
 * add_norm.cu, which say T, W (weight and bias), kRms, kWeight and kBias, behind rows.cuh and moments.cuh.
 */
GEMS_DI C normalized(C v, C mean, C rstd) { return kRms ? v * rstd : (v - mean) * rstd; }

struct Normal {
    C mean, rstd;
};
/* By a team whose threads have the row's vectors. */
template <class Row> GEMS_DI Normal team_normalize(const Row& row, const W* weight, const W* bias, T* y, int n, C eps) {
    C mean = 0, variance;
    if constexpr (kRms) {
        variance = team_sum(row, n, [](C v) { return v * v; }) / C(n);
    } else {
        Spread spread = team_spread(row, n);
        mean = spread.mean;
        variance = spread.variance;
    }
    C rstd = rsqrt(variance + eps);
    each_vector(n, [&](int q, int c) {
        Vec<T, kVec> v = row.at(q, c);
        Vec<W, kVec> w{}, b{};
        if constexpr (kWeight) w = load<kVec>(weight + c);
        if constexpr (kBias) b = load<kVec>(bias + c);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            C r = normalized(to_op(v.v[k]), mean, rstd);
            if constexpr (kWeight) r *= convert<C>(w.v[k]);
            if constexpr (kBias) r += convert<C>(b.v[k]);
            v.v[k] = from_op<T>(r);
        }
        store_row<kVec>(y + c, v);
    });
    return Normal{mean, rstd};
}
