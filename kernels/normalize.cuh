/* A row less its mean, times the reciprocal of its deviation, and weight and bias: for the programs of row_norm.cu and
 * add_norm.cu, which say T, W (weight and bias), kRms, kWeight and kBias, behind rows.cuh and moments.cuh.
 */
GEMS_DI C normalized(C v, C mean, C rstd) { return kRms ? v * rstd : (v - mean) * rstd; }

struct Normal {
    C mean, rstd;
};
/* By a team whose threads have the row's pieces; y: the row's element of column 0. */
template <class Row> GEMS_DI Normal team_normalize(const Row& row, const W* weight, const W* bias, T* y, const Frame& n, C eps) {
    C mean = 0, variance;
    if constexpr (kRms) {
        variance = team_sum(row, n, [](C v) { return v * v; }) / C(n.n);
    } else {
        Spread spread = team_spread(row, n);
        mean = spread.mean;
        variance = spread.variance;
    }
    C rstd = rsqrt(variance + eps);
    each_piece(n, [&](int q, int c, auto wide) {
        constexpr int count = wide.count;
        auto v = piece(row, q, c, wide);
        Vec<W, count> w{}, b{};
        if constexpr (kWeight) w = piece_of(weight + n.head, c, weight + n.n, wide);
        if constexpr (kBias) b = piece_of(bias + n.head, c, bias + n.n, wide);
        GEMS_UNROLL for (int k = 0; k < count; k++) {
            C r = normalized(to_op(v.v[k]), mean, rstd);
            if constexpr (kWeight) r *= convert<C>(w.v[k]);
            if constexpr (kBias) r += convert<C>(b.v[k]);
            v.v[k] = from_op<T>(r);
        }
        store_row<count>(y + c, v);
    });
    return Normal{mean, rstd};
}
