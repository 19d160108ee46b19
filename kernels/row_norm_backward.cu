/* Gradients of layer_norm and rms_norm. The head gives T, W (weight), Stat (mean and rstd), kRms, kWeight, kAdd (weights of
 * x + residual), WEIGHTS (which of the two parts), and what rows.cuh needs.
 *
 * With d = gradient * weight and h = (x - mean) * rstd, the gradient of a row is rstd * (d - mean(d) - h * mean(d * h));
 * rms_norm has no mean(d). The gradients of weight and bias are the sums over rows of gradient * h and of the gradient:
 * those of column_sums.cuh, which comes before this file where WEIGHTS is 1.
 */
using C = opmath_t<T>;

GEMS_DI C normalized(C v, C mean, C rstd) { return kRms ? v * rstd : (v - mean) * rstd; }
GEMS_DI C mean_of(const Stat* mean, int64_t row) {
    if constexpr (kRms) return C(0);
    else return convert<C>(mean[row]);
}

#if !WEIGHTS
GEMS_DI void team_backward(const T* g, const T* x, const W* weight, T* dx, C mean, C rstd, int n, const Turn& turn) {
    __shared__ Two<C> buf[33];
    Kept<T> grad;
    Kept<T> row;
    if constexpr (kStage == kShared || kAhead) grad.shared = shared_row<T>(0, n);
    if constexpr (kStage == kShared || kAhead) row.shared = shared_row<T>(kStage == kShared || kAhead ? 1 : 0, n);
    auto start = [&](int64_t i) {
        grad.start(g + i * n, n);
        row.start(x + i * n, n);
    };
    if (turn.first || !kAhead) start(turn.row);
    landed();
    grad.take(n);
    row.take(n);
    if (kAhead && turn.next >= 0) start(turn.next);
    dx += turn.row * n;
    auto add = [](Two<C> a, Two<C> b) { return Two<C>{a.a + b.a, a.b + b.b}; };
    Two<C> sum{0, 0};
    each_vector(n, [&](int q, int c) {
        Vec<T, kVec> a = grad.at(q, c), b = row.at(q, c);
        Vec<W, kVec> w{};
        if constexpr (kWeight) w = load<kVec>(weight + c);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            C d = to_op(a.v[k]);
            if constexpr (kWeight) d *= convert<C>(w.v[k]);
            sum.a += d;
            sum.b += d * normalized(to_op(b.v[k]), mean, rstd);
        }
    });
    sum = team_reduce(sum, add, buf);
    C first = kRms ? C(0) : sum.a / C(n), second = sum.b / C(n);
    each_vector(n, [&](int q, int c) {
        Vec<T, kVec> a = grad.at(q, c), b = row.at(q, c);
        Vec<W, kVec> w{};
        if constexpr (kWeight) w = load<kVec>(weight + c);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            C d = to_op(a.v[k]);
            if constexpr (kWeight) d *= convert<C>(w.v[k]);
            a.v[k] = from_op<T>(rstd * (d - first - normalized(to_op(b.v[k]), mean, rstd) * second));
        }
        store_row<kVec>(dx + c, a);
    });
}

GEMS_DI void fast_backward(const T* g, const T* x, const W* weight, T* dx, C mean, C rstd, int n) {
    auto scaled = [&](int c) {
        C d = to_op(g[c]);
        if constexpr (kWeight) d *= convert<C>(weight[c]);
        return d;
    };
    Two<C> sum = row_sums<C>(n, [&](int c) {
        C d = scaled(c);
        return Two<C>{d, d * normalized(to_op(x[c]), mean, rstd)};
    });
    C first = kRms ? C(0) : sum.a / C(n), second = sum.b / C(n);
    row_map(dx, n, [&](int c) { return rstd * (scaled(c) - first - normalized(to_op(x[c]), mean, rstd) * second); });
}

/* The gradient of x. */
extern "C" __global__ void __launch_bounds__(kThreads, kResident)
backward(const T* __restrict__ g, const T* __restrict__ x, const Stat* __restrict__ mean, const Stat* __restrict__ rstd,
         const W* __restrict__ weight, T* __restrict__ dx, int64_t rows, int32_t n) {
    each_turn(rows, [&](const Turn& turn) {
        int64_t row = turn.row, at = row * n;
        C m = mean_of(mean, row), r = convert<C>(rstd[row]);
        if constexpr (kFast) fast_backward(g + at, x + at, weight, dx + at, m, r, n);
        else team_backward(g, x, weight, dx, m, r, n, turn);
    });
}

#else
/* x, or x + residual, rounded as it would be if it were a tensor. */
GEMS_DI T input(const T* x, const T* residual, int64_t at) {
    if constexpr (kAdd) return from_op<T>(to_op(x[at]) + to_op(residual[at]));
    else return x[at];
}
GEMS_DI Vec<T, kVec> input_vector(const T* x, const T* residual, int64_t at) {
    Vec<T, kVec> a = load<kVec>(x + at);
    if constexpr (kAdd) {
        Vec<T, kVec> b = load<kVec>(residual + at);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) a.v[k] = from_op<T>(to_op(a.v[k]) + to_op(b.v[k]));
    }
    return a;
}

/* What a thread reads of a row. */
struct Fetched {
    Vec<T, kVec> g, x;
    C mean, rstd;
};

/* The gradients of weight and bias over `run` rows a block along y. */
extern "C" __global__ void __launch_bounds__(256, 1)
weights(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ residual, const Stat* __restrict__ mean,
        const Stat* __restrict__ rstd, W* dweight, W* dbias, C* partial, int64_t rows, int32_t n, int64_t run) {
    Columns to{dweight, dbias, partial, n};
    if constexpr (kFast) {
        fast_column_sums(to, rows, run, [&](int64_t row) {
            const T *a = g + row * n, *b = x + row * n, *more = kAdd ? residual + row * n : b;
            C m = mean_of(mean, row), r = convert<C>(rstd[row]);
            return [=](int column) {
                C d = to_op(a[column]);
                return Two<C>{d * normalized(to_op(input(b, more, column)), m, r), d};
            };
        });
    } else {
        auto fetch = [&](int64_t row, int column) {
            int64_t at = row * n + column;
            return Fetched{load<kVec>(g + at), input_vector(x, residual, at), mean_of(mean, row), convert<C>(rstd[row])};
        };
        block_column_sums(to, rows, run, fetch, [](const Fetched& f, int k) {
            C d = to_op(f.g.v[k]);
            return Two<C>{d * normalized(to_op(f.x.v[k]), f.mean, f.rstd), d};
        });
    }
}
#endif
