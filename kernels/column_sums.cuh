/* Two sums over the rows of every column, in a fixed order: blocks along y each take a run of rows and leave partial sums,
 * which `finish` adds. The head gives T, W (of the results) and what rows.cuh needs, which comes before this file.
 */
using C = opmath_t<T>;

/* Where the sums of a column go: to the results, or to the partial sums of this run of rows. */
struct Columns {
    W *first, *second;
    C* partial;
    int n;
    GEMS_DI void put(int column, C a, C b) const {
        if (gridDim.y > 1) {
            partial[(2 * (int64_t)blockIdx.y) * n + column] = a;
            partial[(2 * (int64_t)blockIdx.y + 1) * n + column] = b;
        } else {
            write(column, a, b);
        }
    }
    GEMS_DI void write(int column, C a, C b) const {
        if (first) first[column] = convert<W>(a);
        if (second) second[column] = convert<W>(b);
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

/* Of the `run` rows of this block: add(fetch(row, column), k) is what element k of a vector adds to the sums of its column. */
template <class Fetch, class Add>
GEMS_DI void block_column_sums(const Columns& to, int64_t rows, int64_t run, Fetch fetch, Add add) {
    constexpr int kAhead = 4;
    int64_t from = run * blockIdx.y, stop = from + run < rows ? from + run : rows;
    int column = (int)(blockIdx.x * blockDim.x + threadIdx.x) * kVec;
    C sum[2 * kVec];
    GEMS_UNROLL for (int k = 0; k < 2 * kVec; k++) sum[k] = 0;
    int64_t by = blockDim.y, row = column < to.n ? from + threadIdx.y : stop;
    auto take = [&](const auto& fetched) {
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            Two<C> more = add(fetched, k);
            sum[k] += more.a;
            sum[kVec + k] += more.b;
        }
    };
    for (; row + (kAhead - 1) * by < stop; row += kAhead * by) {
        decltype(fetch(row, column)) some[kAhead];
        GEMS_UNROLL for (int q = 0; q < kAhead; q++) some[q] = fetch(row + q * by, column);
        GEMS_UNROLL for (int q = 0; q < kAhead; q++) take(some[q]);
    }
    for (; row < stop; row += by) take(fetch(row, column));
    add_down(sum);
    if (threadIdx.y == 0 && column < to.n) {
        GEMS_UNROLL for (int k = 0; k < kVec; k++) to.put(column + k, sum[k], sum[kVec + k]);
    }
}

/* of(row) gives a function of the column that gives what it adds. */
template <class Of> GEMS_DI void fast_column_sums(const Columns& to, int64_t rows, int64_t run, Of of) {
    int64_t from = run * blockIdx.y, stop = from + run < rows ? from + run : rows;
    int n = to.n, tiles = (n + kWide - 1) / kWide, chunk = (tiles + (int)gridDim.x - 1) / (int)gridDim.x;
    int first = chunk * (int)blockIdx.x * kWide, last = first + chunk * kWide < n ? first + chunk * kWide : n;
    spans(first, last, [&](int column, auto w) {
        Lanes<C> a, b;
        a.fill(0);
        b.fill(0);
        for (int64_t row = from; row < stop; row++) {
            auto term = of(row);
            GEMS_IVDEP for (int k = 0; k < w.count; k++) {
                Two<C> more = term(column + k);
                a.v[k] += more.a;
                b.v[k] += more.b;
            }
        }
        for (int k = 0; k < w.count; k++) to.put(column + k, a.v[k], b.v[k]);
    });
}

extern "C" __global__ void __launch_bounds__(256, 1)
finish(const C* __restrict__ partial, W* first, W* second, int32_t n, int64_t parts) {
    Columns to{first, second, nullptr, n};
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
