// The matrix product on a GPU, and in the cpu backend's faithful mode: one tile a block.
//
// The head of the program gives: Scalar (storage type of C and D), Input (of A and B), GEMS_LOOP (MmaLoop or FmaLoop with its configuration), kTileM, kTileN,
// kPad (elements between rows of a slab), kBlocks (blocks that shall be resident on a processor).
namespace {

typedef GEMS_LOOP Loop;

}  // namespace

extern "C" __global__ void __launch_bounds__(Loop::kThreads, kBlocks) matmul_tile(const __grid_constant__ MatmulParams p) {
    GEMS_DYN_SMEM(unsigned char, shared);
    MatmulBlock block(p);
    const int k0 = block.split * p.split_k, depth = p.k - k0 < p.split_k ? p.k - k0 : p.split_k;
    const Input *a = static_cast<const Input *>(p.a) + block.batch * p.a_batch + block.row * p.a_row + k0 * p.a_k;
    const Input *b = static_cast<const Input *>(p.b) + block.batch * p.b_batch + block.col * p.b_col + k0 * p.b_k;
    Loop loop;
    loop.run(Source<Input>{a, p.a_row, p.a_k, p.m - block.row, depth},
             Source<Input>{b, p.b_col, p.b_k, p.n - block.col, depth}, shared);

    // Slab by slab through shared memory, so that a warp reads C and writes D in whole lines. The pitch keeps the rows
    // that a warp writes in different banks.
    constexpr int kPitch = kTileN + kPad, kVec = 16 / (int)sizeof(Scalar), kAcross = kTileN / kVec;
    const int64_t place = block.split * (int64_t)p.batch + block.batch;
    Op *sums = p.partial ? static_cast<Op *>(p.partial) + place * p.m * p.n : nullptr;
    Op *staged = reinterpret_cast<Op *>(shared);
    Scalar *d = static_cast<Scalar *>(p.d) + block.batch * p.d_batch;
    const Scalar *c = p.c ? static_cast<const Scalar *>(p.c) + block.batch * p.c_batch : nullptr;
    GEMS_UNROLL for (int slab = 0; slab < Loop::kSlabs; slab++) {
        if (slab) __syncthreads();
        loop.stage(slab, staged, kPitch);
        __syncthreads();
#pragma unroll 1
        for (int i = (int)threadIdx.x; i < Loop::kSlabRows * kAcross; i += Loop::kThreads) {
            int r = i / kAcross, q = (i - r * kAcross) * kVec;
            int row = block.row + Loop::slab_row(slab, r), col = block.col + q;
            if (row >= p.m || col >= p.n) continue;
            Op v[kVec];
            GEMS_UNROLL for (int e = 0; e < kVec; e++) v[e] = staged[r * kPitch + q + e];
            if (sums) {
                GEMS_UNROLL for (int e = 0; e < kVec; e++)
                    if (col + e < p.n) sums[(int64_t)row * p.n + col + e] = v[e];
            } else {
                finish(p, c, d, row, col, v);
            }
        }
    }
}
