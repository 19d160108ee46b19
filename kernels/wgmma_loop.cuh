// A loop as those of tile.cuh, by the products of a warpgroup (hopper.cuh), whose tiles feeds bring by copies in the background: for
// operands that no tensor map describes. Behind tile.cuh and hopper.cuh.
//
// A feed's tile lies as hopper.cuh has it: 64 deep rows along k (swizzle<8> of tile.cuh), or 64 lines a row, along lines.
// Has run on an H200.
namespace gems {

// Place of a 16-byte chunk of a tile along lines: row k, chunk of its lines.
template <int BK> GEMS_DI int lines_swizzle(int k, int chunk) { return (chunk >> 3) * (BK * 8) + k * 8 + ((chunk & 7) ^ (k & 7)); }

// BM / 64 warpgroups below each other; a ring of STAGES tiles, of which one is multiplied, one may still be read, and the others
// are on their way.
template <class T, int BM, int BN, int BK, int WM, int WN, int STAGES, int MODE_A, int MODE_B,
          template <class, int, int, int, int> class FEED>
struct WgmmaLoop {
    typedef float Op;
    static constexpr int kThreads = BM / 64 * 128, kVector = 2;
    static constexpr int kTileA = BM * BK, kTileB = BN * BK, kAhead = STAGES - 2;
    static_assert(BK == 64 && STAGES >= 3 && WM == BM / 64 && WN == 1, "no such ring");
    typedef FEED<T, BM, BK, kThreads, MODE_A> FeedA;
    typedef FEED<T, BN, BK, kThreads, MODE_B> FeedB;

    float acc[BN / 2];

    template <class A, class B> GEMS_DI void run(const A &a, const B &b, unsigned char *shared) {
        constexpr bool kLinesA = !FeedA::kFollowsK, kLinesB = !FeedB::kFollowsK;
        T *ring = reinterpret_cast<T *>(shared + (-shared_address(shared) & 1023));
        FeedA feed_a(a);
        FeedB feed_b(b);
        const int tiles = (a.depth + BK - 1) / BK, group = (int)threadIdx.x >> 7;
        GEMS_UNROLL for (int i = 0; i < BN / 2; i++) acc[i] = 0.0f;
        auto bring = [&](int stage) {
            T *tile = ring + stage * (kTileA + kTileB);
            feed_a.begin(tile);
            feed_b.begin(tile + kTileA);
            feed_a.next();
            feed_b.next();
        };
#pragma unroll 1
        for (int s = 0; s < kAhead; s++) {
            if (s < tiles) bring(s);
            cp_async_commit();
        }
        wgmma_begin();
        wgmma_keep(acc);
        int reads = 0, writes = kAhead;
        const uint64_t first = tile_descriptor(shared_address(ring));
#pragma unroll 1
        for (int t = 0; t < tiles; t++) {
            // The copies of tile t are complete, and the products of tile t - 2 are, in all threads.
            cp_async_wait<kAhead - 1>();
            copy_fence();
            __syncthreads();
            const uint64_t tile = first + (uint32_t)(reads * (kTileA + kTileB) * (int)sizeof(T) >> 4);
            const uint64_t at_a = tile + (uint32_t)(group * 64 * BK * (int)sizeof(T) >> 4), at_b = tile + (kTileA * (int)sizeof(T) >> 4);
            wgmma_fence();
            GEMS_UNROLL for (int k = 0; k < BK / 16; k++)
                wgmma<T, BN, kLinesA, kLinesB>(acc, at_a + k * (kLinesA ? 2048 >> 4 : 32 >> 4),
                                               at_b + k * (kLinesB ? 2048 >> 4 : 32 >> 4), t + k);
            wgmma_commit();
            if (t + kAhead < tiles) bring(writes);
            cp_async_commit();
            wgmma_wait<1>();
            reads = reads + 1 == STAGES ? 0 : reads + 1;
            writes = writes + 1 == STAGES ? 0 : writes + 1;
        }
        wgmma_wait<0>();
        wgmma_keep(acc);
        cp_async_wait<0>();
        __syncthreads();
    }

    static constexpr int kSlabs = 1, kSlabRows = BM;
    static GEMS_DI int slab_row(int, int r) { return r; }

    // f(row, column, value) for what the thread holds of a slab.
    template <class F> GEMS_DI void each(int, F f) const {
        const int lane = (int)threadIdx.x & 31, row = ((int)threadIdx.x >> 5) * 16 + (lane >> 2), col = (lane & 3) * 2;
        GEMS_UNROLL for (int i = 0; i < BN / 2; i++) f(row + (i & 2) * 4, col + i / 4 * 8 + (i & 1), acc[i]);
    }
    GEMS_DI void stage(int, float *to, int pitch) const {
        const int lane = (int)threadIdx.x & 31, row = ((int)threadIdx.x >> 5) * 16 + (lane >> 2), col = (lane & 3) * 2;
        to += row * pitch + col;
        GEMS_UNROLL for (int i = 0; i < BN / 4; i++)
            store<2>(to + (i & 1) * 8 * pitch + i / 2 * 8, Vec<float, 2>{acc[2 * i], acc[2 * i + 1]});
    }
};

}  // namespace gems
