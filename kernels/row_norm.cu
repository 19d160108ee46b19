/* layer_norm and rms_norm along rows. The head gives T, W (weight and bias), Stat (mean and rstd), kRms, kWeight, kBias,
 * and what rows.cuh, moments.cuh and normalize.cuh need, which come before this file.
 */

/* ---- a team a row ---- */

GEMS_DI void team_norm(const T* x, const W* weight, const W* bias, T* y, Stat* mean_out, Stat* rstd_out, int n, int64_t stride,
                       C eps, int64_t i) {
    Kept<T> row;
    const Frame at = frame_of(x + i * stride, n);
    if constexpr (kStage == kShared) row.shared = shared_row<T>(0, n);
    row.start(x + i * stride, n);
    row.take(x + i * stride, n);
    landed();
    Normal normal = team_normalize(row, weight, bias, y + i * n + at.head, at, eps);
    if (team_lane() == 0) {
        if constexpr (!kRms) mean_out[i] = from_op<Stat>(opmath_t<Stat>(normal.mean));
        rstd_out[i] = from_op<Stat>(opmath_t<Stat>(normal.rstd));
    }
}

/* ---- one thread a block ---- */

GEMS_DI void fast_norm(const T* x, const W* weight, const W* bias, T* y, Stat* mean_out, Stat* rstd_out, int n, C eps) {
    C mean = 0, variance;
    if constexpr (kRms) {
        variance = row_sum<C>(n, [&](int c) { return to_op(x[c]) * to_op(x[c]); }) / C(n);
    } else {
        Spread spread = row_spread(x, n);
        mean = spread.mean;
        variance = spread.variance;
    }
    C rstd = rsqrt(variance + eps);
    row_map(y, n, [&](int c) {
        C r = normalized(to_op(x[c]), mean, rstd);
        if constexpr (kWeight) r *= convert<C>(weight[c]);
        if constexpr (kBias) r += convert<C>(bias[c]);
        return r;
    });
    if constexpr (!kRms) *mean_out = from_op<Stat>(opmath_t<Stat>(mean));
    *rstd_out = from_op<Stat>(opmath_t<Stat>(rstd));
}

/* Rows of n elements, `stride` apart in x, contiguous in y. */
extern "C" __global__ void __launch_bounds__(kThreads, kResident)
normalize(const T* __restrict__ x, const W* __restrict__ weight, const W* __restrict__ bias, T* __restrict__ y,
          Stat* __restrict__ mean, Stat* __restrict__ rstd, int64_t rows, int32_t n, int64_t stride, double eps) {
    each_row(rows, [&](int64_t row) {
        if constexpr (kFast) fast_norm(x + row * stride, weight, bias, y + row * n, mean + row, rstd + row, n, C(eps));
        else team_norm(x, weight, bias, y, mean, rstd, n, stride, C(eps), row);
    });
}
