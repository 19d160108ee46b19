// A matrix product with at most 4 rows, in the cpu backend's fast mode: B is read once, in place. A block computes a range of
// columns of some matrices. B is contiguous along k, or has at
// least 64 columns and is contiguous along them.
namespace {

inline Lane widened(const Scalar *p) {
    Op v[kLane];
    widen_lane(v, p);
    return lane(v);
}

inline Op sum_of(Lane v) {
    Op r[kLane];
    put(r, v);
    for (int step = kLane / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++) r[i] += r[i + step];
    return r[0];
}

// B lies along its columns: sums[m][0 .. WIDE * kLane) over all k. a: [k][ROWS].
template <int ROWS, int WIDE>
void down(const Op *__restrict a, const Scalar *__restrict b, int64_t step, int depth, Op *sums, int64_t pitch) {
    Lane acc[ROWS][WIDE];
    GEMS_UNROLL for (int r = 0; r < ROWS; r++) {
        GEMS_UNROLL for (int w = 0; w < WIDE; w++) acc[r][w] = Lane{};
    }
    for (int k = 0; k < depth; k++, a += ROWS, b += step) {
        GEMS_UNROLL for (int w = 0; w < WIDE; w++) {
            Lane v = widened(b + w * kLane);
            GEMS_UNROLL for (int r = 0; r < ROWS; r++) acc[r][w] += a[r] * v;
        }
    }
    GEMS_UNROLL for (int r = 0; r < ROWS; r++) {
        GEMS_UNROLL for (int w = 0; w < WIDE; w++) put(sums + r * pitch + w * kLane, acc[r][w]);
    }
}

// B lies along k: sums[m][0 .. WIDE) over all k. a: [ROWS][k].
template <int ROWS, int WIDE>
void along(const Op *__restrict a, const Scalar *__restrict b, int64_t line, int depth, Op *sums, int64_t pitch) {
    Lane acc[ROWS][WIDE];
    GEMS_UNROLL for (int r = 0; r < ROWS; r++) {
        GEMS_UNROLL for (int w = 0; w < WIDE; w++) acc[r][w] = Lane{};
    }
    int k = 0;
    for (; k + kLane <= depth; k += kLane) {
        GEMS_UNROLL for (int w = 0; w < WIDE; w++) {
            Lane v = widened(b + w * line + k);
            GEMS_UNROLL for (int r = 0; r < ROWS; r++) acc[r][w] += lane(a + (int64_t)r * depth + k) * v;
        }
    }
    for (int w = 0; w < WIDE; w++) {
        Op rest[kLane];
        widen(rest, b + w * line + k, depth - k);
        for (int r = 0; r < ROWS; r++) {
            Op sum = sum_of(acc[r][w]);
            GEMS_UNROLL_NOT for (int t = k; t < depth; t++) sum += a[(int64_t)r * depth + t] * rest[t - k];
            sums[r * pitch + w] = sum;
        }
    }
}

// All columns of a block for one matrix. ROWS may be more than there are: the others are zeros.
template <int ROWS> void columns(const MatmulParams &p, int batch, int col, int col_end, Op *packed) {
    constexpr int kWide = 4 * kLane;
    const Scalar *a = (const Scalar *)p.a + batch * p.a_batch, *b = (const Scalar *)p.b + batch * p.b_batch;
    const bool by_k = p.b_k == 1 || p.k == 1;
    alignas(64) Op sums[ROWS * kWide];
    if (by_k) {
        for (int r = 0; r < ROWS; r++) {
            if (r < p.m) gather(packed + (int64_t)r * p.k, a + r * p.a_row, p.a_k, p.k);
            else memset(packed + (int64_t)r * p.k, 0, p.k * sizeof(Op));
        }
    } else {
        pack<ROWS>(packed, a, p.a_row, p.a_k, p.m, p.k);
    }
    for (int j = col; j < col_end; j += kWide) {
        const int width = least(kWide, col_end - j);
        const Scalar *from = b + j * p.b_col;
        if (by_k) {
            int w = 0;
            for (; w + 4 <= width; w += 4) along<ROWS, 4>(packed, from + w * p.b_col, p.b_col, p.k, sums + w, kWide);
            for (; w < width; w++) along<ROWS, 1>(packed, from + w * p.b_col, p.b_col, p.k, sums + w, kWide);
        } else if (width == kWide) {
            down<ROWS, 4>(packed, from, p.b_k, p.k, sums, kWide);
        } else {
            // The last vector may begin before the last multiple of a vector, or before this range; b has more columns.
            for (int w = 0; w < width; w += kLane) {
                const int back = w + kLane > width ? w + kLane - width : 0;
                Op shifted[ROWS * kLane];
                down<ROWS, 1>(packed, from + w - back, p.b_k, p.k, shifted, kLane);
                for (int r = 0; r < ROWS; r++)
                    memcpy(sums + r * kWide + w, shifted + r * kLane + back, (kLane - back) * sizeof(Op));
            }
        }
        finish(p, batch, 0, j, p.m, width, sums, kWide);
    }
}

}  // namespace

extern "C" __global__ void matmul_thin(const MatmulParams p) {
    GEMS_DYN_SMEM(Op, room);
    const MatmulBlock block(p);
    const int last_batch = least(block.batch * p.batches + p.batches, p.batch);
    const int col_end = least(block.col + p.tile_n, p.n);
    for (int batch = block.batch * p.batches; batch < last_batch; batch++) {
        if (p.m == 1) columns<1>(p, batch, block.col, col_end, room);
        else columns<4>(p, batch, block.col, col_end, room);
    }
}
