/* The gradient of x (and of the residual, the same) of layer_norm and rms_norm of x + residual, from the gradient of the result
 * and what went in: mean and rstd are found again while the row is here, and left for the gradients of weight and bias
 * (row_norm_backward.cu). The head gives T, W (weight), Stat, kRms, kWeight, kAdd, kSum (false), and what rows.cuh, moments.cuh
 * and added.cuh need, which come before this file.
 */
GEMS_DI C normalized(C v, C mean, C rstd) { return kRms ? v * rstd : (v - mean) * rstd; }

struct Row {
    const T *g, *x, *residual;
    const W* weight;
    T *dx, *other; /* other: the residual's */
    Stat *mean, *rstd;

    GEMS_DI Row at(int64_t row, int n) const {
        int64_t i = row * n;
        return Row{g + i, x + i, kAdd ? residual + i : residual, weight, dx + i, kAdd ? other + i : other, mean + row, rstd + row};
    }
};

GEMS_DI void team_backward(const Row& all, int n, C eps, int64_t i) {
    __shared__ Two<C> buf[33];
    Kept<T> grad;
    Added row;
    const Row r = all.at(i, n);
    row.x = r.x;
    row.residual = r.residual;
    row.sum = nullptr;
    if constexpr (kStage == kShared) row.shared = shared_row<T>(0, n);
    if constexpr (kStage == kShared) grad.shared = shared_row<T>(kStage == kShared ? 1 : 0, n);
    grad.start(r.g, n);
    const Frame at = frame_of(r.g, n);
    row.take(n);
    grad.take(r.g, n);
    landed();
    C mean = 0, variance;
    if constexpr (kRms) {
        variance = team_sum(row, at, [](C v) { return v * v; }) / C(n);
    } else {
        Spread spread = team_spread(row, at);
        mean = spread.mean;
        variance = spread.variance;
    }
    C rstd = rsqrt(variance + eps);
    Two<C> sum{0, 0};
    each_piece(at, [&](int q, int c, auto wide) {
        auto a = piece(grad, q, c, wide), b = piece(row, q, c, wide);
        Vec<W, wide.count> w{};
        if constexpr (kWeight) w = piece_of(r.weight + at.head, c, r.weight + n, wide);
        GEMS_UNROLL for (int k = 0; k < wide.count; k++) {
            C d = to_op(a.v[k]);
            if constexpr (kWeight) d *= convert<C>(w.v[k]);
            sum.a += d;
            sum.b += d * normalized(to_op(b.v[k]), mean, rstd);
        }
    });
    sum = team_reduce(sum, SumTwo{}, buf);
    C first = kRms ? C(0) : sum.a / C(n), second = sum.b / C(n);
    each_piece(at, [&](int q, int c, auto wide) {
        auto a = piece(grad, q, c, wide), b = piece(row, q, c, wide);
        Vec<W, wide.count> w{};
        if constexpr (kWeight) w = piece_of(r.weight + at.head, c, r.weight + n, wide);
        GEMS_UNROLL for (int k = 0; k < wide.count; k++) {
            C d = to_op(a.v[k]);
            if constexpr (kWeight) d *= convert<C>(w.v[k]);
            a.v[k] = from_op<T>(rstd * (d - first - normalized(to_op(b.v[k]), mean, rstd) * second));
        }
        store_row<wide.count>(r.dx + at.head + c, a);
        if constexpr (kAdd) store_row<wide.count>(r.other + at.head + c, a);
    });
    if (team_lane() == 0) {
        if constexpr (!kRms) *r.mean = mean;
        *r.rstd = rstd;
    }
}

GEMS_DI void fast_backward(const Row& r, int n, C eps) {
    auto value = [&](int c) { return to_op(added(r.x, r.residual, c)); };
    auto scaled = [&](int c) {
        C d = to_op(r.g[c]);
        if constexpr (kWeight) d *= convert<C>(r.weight[c]);
        return d;
    };
    C mean = 0, variance;
    if constexpr (kRms) {
        variance = row_sum<C>(n, [&](int c) { return value(c) * value(c); }) / C(n);
    } else {
        mean = row_sum<C>(n, value) / C(n);
        variance = row_sum<C>(n, [&](int c) { return (value(c) - mean) * (value(c) - mean); }) / C(n);
    }
    C rstd = rsqrt(variance + eps);
    Two<C> sum = row_sums<C>(n, [&](int c) {
        C d = scaled(c);
        return Two<C>{d, d * normalized(value(c), mean, rstd)};
    });
    C first = kRms ? C(0) : sum.a / C(n), second = sum.b / C(n);
    row_map(r.dx, n, [&](int c) { return rstd * (scaled(c) - first - normalized(value(c), mean, rstd) * second); });
    if constexpr (kAdd) memcpy(r.other, r.dx, (size_t)n * sizeof(T));
    if constexpr (!kRms) *r.mean = mean;
    *r.rstd = rstd;
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
backward(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ residual, const W* __restrict__ weight,
         T* __restrict__ dx, T* __restrict__ other, Stat* __restrict__ mean, Stat* __restrict__ rstd, int64_t rows, int32_t n,
         double eps) {
    Row all{g, x, residual, weight, dx, other, mean, rstd};
    each_row(rows, [&](int64_t row) {
        if constexpr (kFast) fast_backward(all.at(row, n), n, C(eps));
        else team_backward(all, n, C(eps), row);
    });
}
