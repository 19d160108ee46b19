/* Gradients of layer_norm and rms_norm. The head gives T, W (weight), Stat (mean and rstd), kRms, kWeight, kAdd (weights of
 * x + residual), WEIGHTS (which of the two parts: 0, 1, or 2 for both in one reading), and what rows.cuh needs.
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

#if WEIGHTS != 1
/* also(item, k, gradient, h) for the elements of this thread's vectors. */
template <class Also>
GEMS_DI void team_backward(const T* g, const T* x, const W* weight, T* dx, C mean, C rstd, int n, const Turn& turn, Also also) {
    __shared__ Two<C> buf[33];
    Kept<T> grad;
    Kept<T> row;
    if constexpr (kStage == kShared) grad.shared = shared_row<T>(0, n);
    if constexpr (kStage == kShared) row.shared = shared_row<T>(kStage == kShared ? 1 : 0, n);
    if (turn.first || !kAhead) {
        grad.start(g + turn.row * n, n);
        row.start(x + turn.row * n, n);
    }
    grad.take(g + turn.row * n, n);
    row.take(x + turn.row * n, n);
    landed();
    const Frame at = frame_of(g + turn.row * n, n);
    dx += turn.row * n + at.head;
    auto add = [](Two<C> a, Two<C> b) { return Two<C>{a.a + b.a, a.b + b.b}; };
    Two<C> sum{0, 0};
    each_piece(at, [&](int q, int c, auto wide) {
        auto a = piece(grad, q, c, wide), b = piece(row, q, c, wide);
        Vec<W, wide.count> w{};
        if constexpr (kWeight) w = piece_of(weight + at.head, c, weight + n, wide);
        GEMS_UNROLL for (int k = 0; k < wide.count; k++) {
            C d = to_op(a.v[k]);
            if constexpr (kWeight) d *= convert<C>(w.v[k]);
            sum.a += d;
            sum.b += d * normalized(to_op(b.v[k]), mean, rstd);
        }
    });
    sum = team_reduce(sum, add, buf);
    C first = kRms ? C(0) : sum.a / C(n), second = sum.b / C(n);
    grad.follow(turn.next < 0 ? nullptr : g + turn.next * n, n);
    row.follow(turn.next < 0 ? nullptr : x + turn.next * n, n);
    each_piece(at, [&](int q, int c, auto wide) {
        auto a = last_piece(grad, q, c, wide), b = last_piece(row, q, c, wide);
        Vec<W, wide.count> w{};
        if constexpr (kWeight) w = piece_of(weight + at.head, c, weight + n, wide);
        GEMS_UNROLL for (int k = 0; k < wide.count; k++) {
            C d = to_op(a.v[k]), h = normalized(to_op(b.v[k]), mean, rstd);
            also(q, k, d, h);
            if constexpr (kWeight) d *= convert<C>(w.v[k]);
            a.v[k] = from_op<T>(rstd * (d - first - h * second));
        }
        store_row<wide.count>(dx + c, a);
    });
    grad.followed(at);
    row.followed(at);
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

#if WEIGHTS == 0
/* The gradient of x. */
extern "C" __global__ void __launch_bounds__(kThreads, kResident)
backward(const T* __restrict__ g, const T* __restrict__ x, const Stat* __restrict__ mean, const Stat* __restrict__ rstd,
         const W* __restrict__ weight, T* __restrict__ dx, int64_t rows, int32_t n) {
    each_turn(rows, [&](const Turn& turn) {
        int64_t row = turn.row, at = row * n;
        C m = mean_of(mean, row), r = convert<C>(rstd[row]);
        if constexpr (kFast) fast_backward(g + at, x + at, weight, dx + at, m, r, n);
        else team_backward(g, x, weight, dx, m, r, n, turn, [](int, int, C, C) {});
    });
}

#else
/* The gradient of x, and what the rows of each block add to those of weight and bias: rows without edges, a block each, of which
 * a thread has up to kItems vectors. partial: two rows of n sums of every block. */
extern "C" __global__ void __launch_bounds__(kThreads, 512 / kThreads)
both(const T* __restrict__ g, const T* __restrict__ x, const Stat* __restrict__ mean, const Stat* __restrict__ rstd,
     const W* __restrict__ weight, T* __restrict__ dx, C* __restrict__ partial, int64_t rows, int32_t n) {
    C first[kItems * kVec], second[kItems * kVec];
    GEMS_UNROLL for (int k = 0; k < kItems * kVec; k++) first[k] = second[k] = 0;
    each_turn(rows, [&](const Turn& turn) {
        int64_t row = turn.row;
        team_backward(g, x, weight, dx, mean_of(mean, row), convert<C>(rstd[row]), n, turn, [&](int q, int k, C d, C h) {
            first[q * kVec + k] += d * h;
            if constexpr (!kRms) second[q * kVec + k] += d;
        });
    });
    partial += 2 * (int64_t)blockIdx.x * n;
    each_vector(n, [&](int q, int c) {
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            partial[c + k] = first[q * kVec + k];
            if constexpr (!kRms) partial[n + c + k] = second[q * kVec + k];
        }
    });
}

/* Adds the sums of the blocks: 32 columns a block, 32 threads a column. */
extern "C" __global__ void __launch_bounds__(1024, 1)
finish(const C* __restrict__ partial, W* first, W* second, int32_t n, int64_t parts) {
    __shared__ C buf[2][32][33];
    const int tx = threadIdx.x, ty = threadIdx.y, column = (int)blockIdx.x * 32 + tx;
    C a = 0, b = 0;
    if (column < n)
#pragma unroll 8
        for (int64_t j = ty; j < parts; j += 32) {
            a += partial[2 * j * n + column];
            if constexpr (!kRms) b += partial[(2 * j + 1) * n + column];
        }
    for (int h = 16; h > 0; h /= 2) {
        buf[0][ty][tx] = a;
        buf[1][ty][tx] = b;
        __syncthreads();
        if (ty < h) {
            a += buf[0][ty + h][tx];
            b += buf[1][ty + h][tx];
        }
        __syncthreads();
    }
    if (ty == 0 && column < n) {
        if (first) first[column] = convert<W>(a);
        if (second) second[column] = convert<W>(b);
    }
}
#endif

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
