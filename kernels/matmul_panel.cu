// The matrix product of the cpu backend's fast mode: a block computes a region of one matrix, or some whole matrices.
extern "C" __global__ void matmul_panel(const MatmulParams p) {
    GEMS_DYN_SMEM(Op, room);
    const MatmulBlock block(p);
    const int last_batch = least(block.batch * p.batches + p.batches, p.batch);
    const int row_end = least(block.row + p.tile_m, p.m), col_end = least(block.col + p.tile_n, p.n);
    const bool once = p.k <= p.panel_k; // k needs one panel, and no sums outlive a register block
    Op *packed_a = room, *packed_b = packed_a + (int64_t)p.panel_m * p.panel_k;
    Op *kept = packed_b + (int64_t)p.panel_n * p.panel_k;
    alignas(64) Op small[kRows * kCols];
    for (int batch = block.batch * p.batches; batch < last_batch; batch++) {
        const Scalar *a = (const Scalar *)p.a + batch * p.a_batch, *b = (const Scalar *)p.b + batch * p.b_batch;
        for (int j0 = block.col; j0 < col_end; j0 += p.panel_n) {
            const int width = least(p.panel_n, col_end - j0);
            for (int i0 = block.row; i0 < row_end; i0 += p.panel_m) {
                const int height = least(p.panel_m, row_end - i0);
                int k0 = 0;
                do {
                    const int depth = least(p.panel_k, p.k - k0);
                    const Scalar *corner_a = a + i0 * p.a_row + k0 * p.a_k, *corner_b = b + j0 * p.b_col + k0 * p.b_k;
                    for (int i = 0; i < height; i += kRows)
                        pack<kRows>(packed_a + (int64_t)i * depth, corner_a + i * p.a_row, p.a_row, p.a_k,
                                    least(kRows, height - i), depth);
                    for (int j = 0; j < width && (!once || i0 == block.row); j += kCols)
                        pack<kCols>(packed_b + (int64_t)j * depth, corner_b + j * p.b_col, p.b_col, p.b_k,
                                    least(kCols, width - j), depth);
                    const bool last = k0 + depth >= p.k;
                    for (int j = 0; j < width; j += kCols) {
                        for (int i = 0; i < height; i += kRows) {
                            Op *sums = once ? small : kept + (int64_t)i * p.panel_n + j;
                            const int64_t pitch = once ? kCols : p.panel_n;
                            const int rows = least(kRows, height - i);
                            multiply_rows(packed_a + (int64_t)i * depth, packed_b + (int64_t)j * depth, depth, sums,
                                          pitch, k0 == 0, rows);
                            if (last) finish(p, batch, i0 + i, j0 + j, rows, least(kCols, width - j), sums, pitch);
                        }
                    }
                    k0 += depth;
                } while (k0 < p.k);
            }
        }
    }
}
