// The end of a matrix product, for every kernel of the family that a GPU runs: alpha * v + beta * C, rounded once, and the second
// pass of a product whose k was split.
//
// The head of the program gives Scalar (storage type of C and D) and kScaled. Both ways of matmul_finish have run on an H200; the
// size at which one takes over from the other has not.
using namespace gems;

namespace {

typedef opmath_t<Scalar> Op;

// N neighbours of row `row` from column `col` on: writes alpha * v + beta * C, rounded once, as far as they exist.
template <int N>
GEMS_DI void finish(const MatmulParams &p, const Scalar *c, Scalar *d, int row, int col, Op (&v)[N]) {
    const Op alpha = (Op)p.alpha, beta = (Op)p.beta;
    const bool whole = col + N <= p.n;
    if constexpr (kScaled) {
        const float scale = p.scale_a[row * p.scale_rows];
        GEMS_UNROLL for (int e = 0; e < N; e++)
            if (col + e < p.n) v[e] *= scale * p.scale_b[(col + e) * p.scale_cols];
    } else {
        GEMS_UNROLL for (int e = 0; e < N; e++) v[e] *= alpha;
    }
    if (c && p.wide_c && whole) {
        Vec<Scalar, N> add = load<N>(c + row * p.c_row + col);
        GEMS_UNROLL for (int e = 0; e < N; e++) v[e] += beta * to_op(add.v[e]);
    } else if (c) {
        GEMS_UNROLL for (int e = 0; e < N; e++)
            if (col + e < p.n) v[e] += beta * to_op(c[row * p.c_row + (col + e) * p.c_col]);
    }
    if (kScaled && p.scale_d) {
        const float scale = 1.0f / *p.scale_d;
        GEMS_UNROLL for (int e = 0; e < N; e++) v[e] *= scale;
    }
    Vec<Scalar, N> result;
    GEMS_UNROLL for (int e = 0; e < N; e++) result.v[e] = from_op<Scalar>(v[e]);
    if (p.wide_d && whole) {
        store<N>(d + row * p.d_row + col, result);
    } else {
        GEMS_UNROLL for (int e = 0; e < N; e++)
            if (col + e < p.n) d[row * p.d_row + (col + e) * p.d_col] = result.v[e];
    }
}

}  // namespace

// The second pass of a split product: adds the splits in their order, then as above.
extern "C" __global__ void __launch_bounds__(256) matmul_finish(const __grid_constant__ MatmulParams p) {
    const uint32_t columns = (uint32_t)p.n, rows = (uint32_t)p.m, total = columns * rows * (uint32_t)p.batch;
    const Op *sums = static_cast<const Op *>(p.partial);
    if (sizeof(Scalar) == 2 && p.d_row == 1 && p.d_col != 1 && columns % 4 == 0 && total >= 131072) {
        // Columns of D are contiguous: neighbours have rows below each other, of which they read four columns at a time. Of
        // fewer sums there would be too few threads.
        for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < total / 4; i += gridDim.x * blockDim.x) {
            uint32_t four = i / rows, row = i - four * rows, batch = four / (columns / 4), col = (four - batch * (columns / 4)) * 4;
            Vec<Op, 4> v = {};
            for (int s = 0; s < p.split; s++) {
                Vec<Op, 4> more = load<4>(sums + s * (int64_t)total + (batch * rows + row) * columns + col);
                GEMS_UNROLL for (int e = 0; e < 4; e++) v.v[e] += more.v[e];
            }
            const Scalar *c = p.c ? static_cast<const Scalar *>(p.c) + batch * p.c_batch : nullptr;
            GEMS_UNROLL for (int e = 0; e < 4; e++) {
                Op one[1] = {v.v[e]};
                finish(p, c, static_cast<Scalar *>(p.d) + batch * p.d_batch, (int)row, (int)col + e, one);
            }
        }
        return;
    }
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        uint32_t line = i / columns, col = i - line * columns, batch = line / rows, row = line - batch * rows;
        Op v[1] = {0};
        for (int s = 0; s < p.split; s++) v[0] += sums[s * (int64_t)total + i];
        const Scalar *c = p.c ? static_cast<const Scalar *>(p.c) + batch * p.c_batch : nullptr;
        finish(p, c, static_cast<Scalar *>(p.d) + batch * p.d_batch, (int)row, (int)col, v);
    }
}
