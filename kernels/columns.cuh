/* Columns of a contiguous block: n elements, `inner` apart, for operators that run along a dimension with others inside it.
 * The head gives T and what rows.cuh needs, which comes before this file.
 */

/* Joins what the threads of one threadIdx.x have; every thread gets the result. */
template <int N, class V, class F> GEMS_DI void join_column(V (&a)[N], F f) {
    GEMS_DYN_SMEM(V, buf);
    int bx = blockDim.x, by = blockDim.y, tx = threadIdx.x, ty = threadIdx.y;
    if (by == 1) return;
    __syncthreads();
    GEMS_UNROLL for (int k = 0; k < N; k++) buf[(k * by + ty) * bx + tx] = a[k];
    for (int h = by / 2; h > 0; h /= 2) {
        __syncthreads();
        if (ty < h) {
            GEMS_UNROLL for (int k = 0; k < N; k++) {
                V* at = buf + (k * by + ty) * bx + tx;
                *at = f(*at, at[h * bx]);
            }
        }
    }
    __syncthreads();
    GEMS_UNROLL for (int k = 0; k < N; k++) a[k] = buf[k * by * bx + tx];
}

/* f(offset of the first element, whether there is one) for groups of kVec columns. */
template <class F> GEMS_DI void each_column(int64_t outer, int n, int64_t inner, F f) {
    int64_t units = outer * inner / kVec;
    for (int64_t first = (int64_t)blockIdx.x * blockDim.x; first < units; first += (int64_t)gridDim.x * blockDim.x) {
        int64_t column = (first + threadIdx.x) * kVec, block = column / inner;
        f(block * n * inner + (column - block * inner), first + threadIdx.x < units);
    }
}

/* f(offset, width) for tiles of up to kWide columns. */
template <class F> GEMS_DI void fast_columns(int64_t outer, int n, int64_t inner, F f) {
    int64_t tiles = (inner + kWide - 1) / kWide, all = outer * tiles;
    int64_t chunk = (all + gridDim.x - 1) / gridDim.x, t = chunk * blockIdx.x;
    int64_t stop = t + chunk < all ? t + chunk : all;
    for (; t < stop; t++) {
        int64_t column = t % tiles * kWide, left = inner - column, base = t / tiles * n * inner + column;
        spans(0, (int)(left < kWide ? left : kWide), [&](int c, auto w) { f(base + c, w); });
    }
}

