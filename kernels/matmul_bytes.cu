// The matrix product of int8 and of fp8 in the cpu backend's fast mode: panels are widened to float32. Sums of a panel, at most
// 1024 deep, of int8 are whole numbers below 2^24, so that they are exact; those of several panels are added up in int32. Where the CPU
// sums products of bytes, int8 is not widened.
//
// The head of the program gives: Scalar (of A), InputB, Result (of C and D), kScaled.
namespace {

typedef either<is_same<Scalar, int8_t>, int32_t, float> Total;

// B where it has another type than A.
template <int W> void pack_other(Op *__restrict to, const InputB *from, int64_t line, int64_t step, int width, int depth) {
    for (int k = 0; k < depth; k++, to += W, from += step)
        for (int w = 0; w < W; w++) to[w] = w < width ? (Op)to_op(from[w * line]) : (Op)0;
}
template <class B> void pack_b(Op *to, const B *from, int64_t line, int64_t step, int width, int depth) {
    if constexpr (is_same<B, Scalar>) pack<kCols>(to, from, line, step, width, depth);
    else pack_other<kCols>(to, from, line, step, width, depth);
}

constexpr bool kWhole = is_same<Scalar, int8_t> && kDots;
constexpr int kMostColumns = 512; // of a panel of B: 16 * PANEL_COLS in csrc/families/matmul_config.c

template <class T> void add(Total *__restrict to, const T *__restrict from, bool first) {
    if (first) {
        for (int x = 0; x < kCols; x++) to[x] = (Total)from[x];
    } else {
        for (int x = 0; x < kCols; x++) to[x] += (Total)from[x];
    }
}

template <class T> void end(const MatmulParams &p, int row, int col, int rows, int cols, const T *sums, int64_t pitch) {
    for (int r = 0; r < rows; r++) {
        Result *d = (Result *)p.d + (row + r) * p.d_row + col * p.d_col;
        if constexpr (kScaled) {
            const Result *c = p.c ? (const Result *)p.c + (row + r) * p.c_row + col * p.c_col : nullptr;
            const float *scale_b = p.scale_b + col * p.scale_cols, last = p.scale_d ? 1.0f / *p.scale_d : 1.0f;
            const float scale_a = p.scale_a[(row + r) * p.scale_rows];
            for (int j = 0; j < cols; j++) {
                float v = (float)sums[r * pitch + j] * (scale_a * scale_b[j * p.scale_cols]);
                if (c) v += (float)to_op(c[j * p.c_col]);
                d[j * p.d_col] = from_op<Result>(v * last);
            }
        } else {
            if (is_same<T, Result> && p.d_col == 1 && cols == kCols) memcpy(d, sums + r * pitch, kCols * sizeof(T));
            else for (int j = 0; j < cols; j++) d[j * p.d_col] = (Result)sums[r * pitch + j];
        }
    }
}

}  // namespace

extern "C" __global__ void matmul_bytes(const MatmulParams p) {
    GEMS_DYN_SMEM(Op, room);
    const MatmulBlock block(p);
    const int row_end = least(block.row + p.tile_m, p.m), col_end = least(block.col + p.tile_n, p.n);
    const bool once = p.k <= p.panel_k; // k needs one panel, and no sums outlive a register block
    Op *packed_a = room, *packed_b = packed_a + (int64_t)p.panel_m * p.panel_k;
    Total *kept = (Total *)(packed_b + (int64_t)p.panel_n * p.panel_k);
    alignas(64) Op small[kRows * kCols];
    alignas(64) int32_t small_whole[kRows * kCols], begin[kMostColumns];
    uint32_t *words_a = (uint32_t *)packed_a, *words_b = (uint32_t *)packed_b; // kWhole: four elements a word
    const Scalar *a = (const Scalar *)p.a;
    const InputB *b = (const InputB *)p.b;
    for (int j0 = block.col; j0 < col_end; j0 += p.panel_n) {
        const int width = least(p.panel_n, col_end - j0);
        for (int i0 = block.row; i0 < row_end; i0 += p.panel_m) {
            const int height = least(p.panel_m, row_end - i0);
            int k0 = 0;
            do {
                const int depth = least(p.panel_k, p.k - k0), deep = (depth + 3) / 4;
                for (int i = 0; kWhole && i < height; i += kRows)
                    pack_dots_a(words_a + i * deep, (const int8_t *)a + (i0 + i) * p.a_row + k0 * p.a_k, p.a_row, p.a_k,
                                least(kRows, height - i), depth);
                for (int j = 0; kWhole && j < width && (!once || i0 == block.row); j += kCols)
                    pack_dots_b(words_b + j * deep, (const int8_t *)b + (j0 + j) * p.b_col + k0 * p.b_k, p.b_col, p.b_k,
                                least(kCols, width - j), depth, begin + j);
                for (int i = 0; !kWhole && i < height; i += kRows)
                    pack<kRows>(packed_a + (int64_t)i * depth, a + (i0 + i) * p.a_row + k0 * p.a_k, p.a_row, p.a_k,
                                least(kRows, height - i), depth);
                for (int j = 0; !kWhole && j < width && (!once || i0 == block.row); j += kCols)
                    pack_b(packed_b + (int64_t)j * depth, b + (j0 + j) * p.b_col + k0 * p.b_k, p.b_col, p.b_k,
                           least(kCols, width - j), depth);
                const bool last = k0 + depth >= p.k;
                for (int j = 0; j < width; j += kCols) {
                    const int cols = least(kCols, width - j);
                    for (int i = 0; i < height; i += kRows) {
                        const int rows = least(kRows, height - i);
                        Total *sums = kept + (int64_t)i * p.panel_n + j;
                        if constexpr (kWhole) {
                            int32_t *whole = once ? small_whole : (int32_t *)sums;
                            const int64_t pitch = once ? kCols : p.panel_n;
                            multiply_dots(words_a + i * deep, words_b + j * deep, depth, begin + j, whole, pitch, k0 == 0);
                            if (last) end(p, i0 + i, j0 + j, rows, cols, whole, pitch);
                            continue;
                        }
                        multiply_rows(packed_a + (int64_t)i * depth, packed_b + (int64_t)j * depth, depth, small, kCols, true, rows);
                        if (once) {
                            end(p, i0 + i, j0 + j, rows, cols, small, kCols);
                            continue;
                        }
                        for (int r = 0; r < rows; r++) {
                            Total *__restrict to = sums + (int64_t)r * p.panel_n;
                            add(to, small + r * kCols, k0 == 0);
                        }
                        if (last) end(p, i0 + i, j0 + j, rows, cols, sums, p.panel_n);
                    }
                }
                k0 += depth;
            } while (k0 < p.k);
        }
    }
}
