/* layer_norm and rms_norm of x + residual, the sum rounded to T as it would be if it were a tensor. The head gives T, W
 * (weight and bias), kRms, kWeight, kBias, kAdd (there is a residual), kSum (the sum is a result too), and what rows.cuh,
 * moments.cuh, normalize.cuh and added.cuh need, which come before this file.
 */

/* Rows of n elements, so far apart in each of the tensors. */
struct Apart {
    int64_t x, residual, y, sum;
};

/* ---- a team a row ---- */

GEMS_DI void team_norm(const T* x, const T* residual, const W* weight, const W* bias, T* y, T* sum, const Apart& apart, int n,
                       C eps, int64_t i) {
    Added row;
    row.x = x + i * apart.x;
    row.residual = residual + i * apart.residual;
    row.sum = sum + i * apart.sum;
    if constexpr (kStage == kShared) row.shared = shared_row<T>(0, n);
    const Frame at = frame_of(row.x, n);
    row.take(n);
    team_normalize(row, weight, bias, y + i * apart.y + at.head, at, eps);
}

/* ---- one thread a block ---- */

constexpr int kRoom = 4096; /* longest row that is kept as it is computed in, where no result holds its sum */

/* value(c): an element of the sum, once it is there. */
template <class F> GEMS_DI void fast_rest(T* y, const W* weight, const W* bias, int n, C mean, C variance, C eps, F value) {
    C rstd = rsqrt(variance + eps);
    row_map(y, n, [&](int c) {
        C r = normalized(value(c), mean, rstd);
        if constexpr (kWeight) r *= convert<C>(weight[c]);
        if constexpr (kBias) r += convert<C>(bias[c]);
        return r;
    });
}

/* first(c): an element of the sum, which it may put where value(c) finds it. */
template <class G, class F>
GEMS_DI void fast_row(const W* weight, const W* bias, T* y, int n, C eps, G first, F value) {
    C mean = 0, variance;
    if constexpr (kRms) {
        variance = row_sum<C>(n, [&](int c) {
            C v = first(c);
            return v * v;
        }) / C(n);
    } else {
        mean = row_sum<C>(n, first) / C(n);
        variance = row_sum<C>(n, [&](int c) { return (value(c) - mean) * (value(c) - mean); }) / C(n);
    }
    fast_rest(y, weight, bias, n, mean, variance, eps, value);
}

GEMS_DI void fast_norm(const T* x, const T* residual, const W* weight, const W* bias, T* y, T* sum, int n, C eps) {
    if constexpr (kSum) {
        auto first = [&](int c) {
            T v = added(x, residual, c);
            sum[c] = v;
            return to_op(v);
        };
        fast_row(weight, bias, y, n, eps, first, [&](int c) { return to_op(sum[c]); });
    } else if (kAdd && n <= kRoom) {
        C room[kRoom];
        auto first = [&](int c) { return room[c] = to_op(added(x, residual, c)); };
        fast_row(weight, bias, y, n, eps, first, [&](int c) { return room[c]; });
    } else {
        auto value = [&](int c) { return to_op(added(x, residual, c)); };
        fast_row(weight, bias, y, n, eps, value, value);
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, kWarpRow ? 1 : kResident)
add_norm(const T* x, const T* residual, const W* __restrict__ weight, const W* __restrict__ bias, T* y, T* sum, Apart apart,
         int64_t rows, int32_t n, double eps) {
    each_row(rows, [&](int64_t row) {
        const T *xr = x + row * apart.x, *rr = residual + row * apart.residual;
        T *yr = y + row * apart.y, *sr = kSum ? sum + row * apart.sum : nullptr;
        if constexpr (kFast) fast_norm(xr, rr, weight, bias, yr, sr, n, C(eps));
        else team_norm(x, residual, weight, bias, y, sum, apart, n, C(eps), row);
    });
}
