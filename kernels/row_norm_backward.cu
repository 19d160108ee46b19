/* Gradients of layer_norm and rms_norm. The head gives T, W (weight), Stat (mean and rstd), kRms, kWeight, WEIGHTS (which
 * of the two parts), and what rows.cuh needs.
 *
 * With d = gradient * weight and h = (x - mean) * rstd, the gradient of a row is rstd * (d - mean(d) - h * mean(d * h));
 * rms_norm has no mean(d). The gradients of weight and bias are the sums over rows of gradient * h and of the
 * gradient: blocks along y each take a run of rows and leave partial sums, which `finish` adds in order.
 */
using C = opmath_t<T>;

GEMS_DI C normalized(C v, C mean, C rstd) { return kRms ? v * rstd : (v - mean) * rstd; }
GEMS_DI C mean_of(const Stat* mean, int64_t row) {
    if constexpr (kRms) return C(0);
    else return convert<C>(mean[row]);
}

#if !WEIGHTS
GEMS_DI void team_backward(const T* g, const T* x, const W* weight, T* dx, C mean, C rstd, int n) {
    __shared__ Two<C> buf[33];
    Kept<T> grad, row;
    if constexpr (kStage == kShared) {
        grad.shared = shared_row<T>(0, n);
        row.shared = shared_row<T>(1, n);
    }
    grad.fetch(g, n);
    row.fetch(x, n);
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
    each_row(rows, [&](int64_t row) {
        const T *gr = g + row * n, *xr = x + row * n;
        C m = mean_of(mean, row), r = convert<C>(rstd[row]);
        if constexpr (kFast) fast_backward(gr, xr, weight, dx + row * n, m, r, n);
        else team_backward(gr, xr, weight, dx + row * n, m, r, n);
    });
}

#else
/* Where the sums of a column go: to the results, or to the partial sums of this run of rows. */
struct Columns {
    W *dweight, *dbias;
    C* partial;
    int n;
    GEMS_DI void put(int column, C dw, C db) const {
        if (gridDim.y > 1) {
            partial[(2 * (int64_t)blockIdx.y) * n + column] = dw;
            partial[(2 * (int64_t)blockIdx.y + 1) * n + column] = db;
        } else {
            write(column, dw, db);
        }
    }
    GEMS_DI void write(int column, C dw, C db) const {
        if (dweight) dweight[column] = convert<W>(dw);
        if (dbias) dbias[column] = convert<W>(db);
    }
};

/* Adds what the threads of one threadIdx.x have, in order; valid where threadIdx.y is 0. */
template <int N> GEMS_DI void add_down(C (&a)[N]) {
    GEMS_DYN_SMEM(C, buf);
    int bx = blockDim.x, by = blockDim.y, tx = threadIdx.x, ty = threadIdx.y;
    if (by == 1) return;
    __syncthreads();
    GEMS_UNROLL for (int k = 0; k < N; k++) buf[(k * by + ty) * bx + tx] = a[k];
    for (int h = by / 2; h > 0; h /= 2) {
        __syncthreads();
        if (ty < h) {
            GEMS_UNROLL for (int k = 0; k < N; k++) {
                C* at = buf + (k * by + ty) * bx + tx;
                *at += at[h * bx];
            }
        }
    }
    if (ty == 0) {
        GEMS_UNROLL for (int k = 0; k < N; k++) a[k] = buf[k * by * bx + tx];
    }
}

constexpr int kAhead = 4;

GEMS_DI void block_weights(const T* g, const T* x, const Stat* mean, const Stat* rstd, const Columns& to, int64_t from,
                           int64_t stop, int n) {
    int column = (int)(blockIdx.x * blockDim.x + threadIdx.x) * kVec;
    C sum[2 * kVec];
    GEMS_UNROLL for (int k = 0; k < 2 * kVec; k++) sum[k] = 0;
    int64_t by = blockDim.y, row = column < n ? from + threadIdx.y : stop;
    auto take = [&](const Vec<T, kVec>& a, const Vec<T, kVec>& b, C m, C r) {
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            C d = to_op(a.v[k]);
            sum[k] += d * normalized(to_op(b.v[k]), m, r);
            sum[kVec + k] += d;
        }
    };
    for (; row + (kAhead - 1) * by < stop; row += kAhead * by) {
        Vec<T, kVec> a[kAhead], b[kAhead];
        C m[kAhead], r[kAhead];
        GEMS_UNROLL for (int q = 0; q < kAhead; q++) {
            a[q] = load<kVec>(g + (row + q * by) * n + column);
            b[q] = load<kVec>(x + (row + q * by) * n + column);
            m[q] = mean_of(mean, row + q * by);
            r[q] = convert<C>(rstd[row + q * by]);
        }
        GEMS_UNROLL for (int q = 0; q < kAhead; q++) take(a[q], b[q], m[q], r[q]);
    }
    for (; row < stop; row += by)
        take(load<kVec>(g + row * n + column), load<kVec>(x + row * n + column), mean_of(mean, row), convert<C>(rstd[row]));
    add_down(sum);
    if (threadIdx.y == 0 && column < n) {
        GEMS_UNROLL for (int k = 0; k < kVec; k++) to.put(column + k, sum[k], sum[kVec + k]);
    }
}

GEMS_DI void fast_weights(const T* g, const T* x, const Stat* mean, const Stat* rstd, const Columns& to, int64_t from,
                          int64_t stop, int n) {
    int tiles = (n + kWide - 1) / kWide, chunk = (tiles + (int)gridDim.x - 1) / (int)gridDim.x;
    int first = chunk * (int)blockIdx.x * kWide, last = first + chunk * kWide < n ? first + chunk * kWide : n;
    spans(first, last, [&](int column, auto w) {
        Lanes<C> dw, db;
        dw.fill(0);
        db.fill(0);
        for (int64_t row = from; row < stop; row++) {
            const T *a = g + row * n + column, *b = x + row * n + column;
            C m = mean_of(mean, row), r = convert<C>(rstd[row]);
            GEMS_IVDEP for (int k = 0; k < w.count; k++) {
                C d = to_op(a[k]);
                dw.v[k] += d * normalized(to_op(b[k]), m, r);
                db.v[k] += d;
            }
        }
        for (int k = 0; k < w.count; k++) to.put(column + k, dw.v[k], db.v[k]);
    });
}

/* The gradients of weight and bias over `run` rows a block along y. */
extern "C" __global__ void __launch_bounds__(256, 1)
weights(const T* __restrict__ g, const T* __restrict__ x, const Stat* __restrict__ mean, const Stat* __restrict__ rstd,
        W* dweight, W* dbias, C* partial, int64_t rows, int32_t n, int64_t run) {
    int64_t from = run * blockIdx.y, stop = from + run < rows ? from + run : rows;
    Columns to{dweight, dbias, partial, n};
    if constexpr (kFast) fast_weights(g, x, mean, rstd, to, from, stop, n);
    else block_weights(g, x, mean, rstd, to, from, stop, n);
}

extern "C" __global__ void __launch_bounds__(256, 1)
finish(const C* __restrict__ partial, W* dweight, W* dbias, int32_t n, int64_t parts) {
    Columns to{dweight, dbias, nullptr, n};
    if constexpr (kFast) {
        GEMS_FOR_GRID(column, n) {
            C dw = 0, db = 0;
            for (int64_t j = 0; j < parts; j++) {
                dw += partial[2 * j * n + column];
                db += partial[(2 * j + 1) * n + column];
            }
            to.write(column, dw, db);
        }
    } else {
        int column = (int)(blockIdx.x * blockDim.x + threadIdx.x);
        C sum[2] = {0, 0};
        if (column < n)
            for (int64_t j = threadIdx.y; j < parts; j += blockDim.y) {
                sum[0] += partial[2 * j * n + column];
                sum[1] += partial[(2 * j + 1) * n + column];
            }
        add_down(sum);
        if (threadIdx.y == 0 && column < n) to.write(column, sum[0], sum[1]);
    }
}
#endif
