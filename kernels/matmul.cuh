// What every matmul kernel is given: D[m, n] = alpha * sum_k A[m, k] B[k, n] + beta * C[m, n], for each of
// `batch` matrices; where the head of the program says kScaled, alpha is the product of the scales of A and B. The twin of params in csrc/families/matmul.c: same order, same types.
// Strides count elements; 0 expands. c is null when there is no C (beta is 0, or the operator has none).

namespace gems {

struct MatmulParams {
    const void *a, *b, *c;
    void *d, *partial; // partial: sums of the parts of k, [split][batch][m][n] in the compute type; null: one part
    int64_t a_batch, a_row, a_k;
    int64_t b_batch, b_k, b_col;
    int64_t c_batch, c_row, c_col;
    int64_t d_batch, d_row, d_col;
    double alpha, beta;
    int32_t m, n, k, batch;
    int32_t tile_m, tile_n;            // what a block computes
    int32_t tiles_m, tiles_n;          // number of tiles
    int32_t split, split_k;            // parts of k, each split_k deep but the last
    int32_t group;                     // rows of tiles that are walked together, for the cache
    int32_t batches;                   // fast mode: matrices of a block
    int32_t panel_m, panel_n, panel_k; // fast mode: what is packed at a time
    int32_t share;                     // sm_90a: blocks of a cluster, each of which has a part of k of the same tile
    int32_t wide_c, wide_d;            // rows are contiguous and aligned to 16 bytes
    const float *scale_a, *scale_b, *scale_d; // kScaled: what A and B are multiplied by; D is divided by its own
    int32_t scale_rows, scale_cols;    // 1: a number for each row of A, column of B; 0: one for all
};

// Which part of which matrix a block computes. The grid is one line: batches, then splits, then tiles;
// tiles go down a group of `group` rows before they step to the next column.
struct MatmulBlock {
    int32_t batch, split, row, col;

    GEMS_DI explicit MatmulBlock(const MatmulParams &p) : MatmulBlock(p, blockIdx.x) {}
    GEMS_DI MatmulBlock(const MatmulParams &p, uint32_t at) {
        uint32_t tiles = (uint32_t)p.tiles_m * (uint32_t)p.tiles_n;
        uint32_t outer = at / tiles, tile = at - outer * tiles;
        batch = (int32_t)(outer / (uint32_t)p.split);
        split = (int32_t)(outer - (uint32_t)batch * (uint32_t)p.split);
        uint32_t band = (uint32_t)p.group * (uint32_t)p.tiles_n, first = tile / band * (uint32_t)p.group;
        uint32_t rows = (uint32_t)p.tiles_m - first;
        if (rows > (uint32_t)p.group) rows = (uint32_t)p.group;
        uint32_t inside = tile - tile / band * band, column = inside / rows;
        row = (int32_t)((first + inside - column * rows) * (uint32_t)p.tile_m);
        col = (int32_t)(column * (uint32_t)p.tile_n);
    }
};

}  // namespace gems
