// The matrix product on sm_90a, of 16-bit floats, fp8, int8 and of float32 rounded to tf32: one warpgroup starts copies by tensor maps, two multiply. A block does one tile of
// 128 x kTileN (64 x kTileN, of thin ones alone, where one multiplies) after another, and copies of the next tile run while a tile is written. Blocks of a cluster lie below each other
// and bring B together. Where tiles are few or narrow (kThin) they take a part of k each for the same tile instead, and add their
// sums in the order of the parts.
//
// Of a cluster that shares k each block has one tile, and none ends before the others have read its sums.
//
// The head of the program gives: Scalar (storage type of C and D), InputA, InputB (of A and B, of one size), kPromotes (sums of 128
// bytes of k are added up in float32, as those of fp8 lose digits in the tensor cores), kTileM, kTileN,
// kStages (tiles in shared memory), kBlocks (blocks that shall be resident on a processor), kCluster (of a thin product: 2 stands for any number, p.share), kBuffers (boxes of results of each warp), kThin, kLinesA, kLinesB (the operand is contiguous along its
// lines, not along k: 16-bit floats, and float32 for A).
namespace {

typedef typename Accumulator<InputA>::type Acc;
constexpr int kTileK = 128 / (int)sizeof(InputA), kProducts = kTileM / 16; // warps that multiply
constexpr int kThreads = 128 + kProducts * 32;
constexpr bool kDivides = kBlocks == 1; // registers between those that copy and those that multiply
constexpr int kBytesA = kTileM * 128, kBytesB = kTileN * 128, kBytes = kBytesA + kBytesB;
constexpr bool kParted = kThin && kCluster > 1;              // the blocks of a cluster have parts of k
constexpr int kShare = kThin ? 1 : kCluster;                 // blocks that bring B together
constexpr int kLoadB = kTileN / kShare;                      // lines of B that a block brings
constexpr int kPitch = kTileM + 4, kMultiplying = kProducts * 32;
constexpr int kChunks = kThin ? 0 : kTileN / 64; // boxes of 16 rows and 64 columns that a warp stores
constexpr int kSlab = kTileN < 32 ? kTileN : 32, kSlabPitch = kSlab + 4;
constexpr int kGroup = sizeof(Scalar) == 2 ? 1 : 4; // results that a lane writes at once where boxes do not
constexpr int kBoxes = kProducts * kBuffers * 2048;
constexpr int kStaged = kThin ? kTileN * (kTileM + 32) * 4 : kBoxes > 18432 ? kBoxes : 18432;
static_assert(!kLinesB || kLoadB % 64 == 0, "a tile that lies along lines has 64 of them");
constexpr bool kTurned = kLinesA && sizeof(InputA) == 4; // A is read to registers, which turns it around
constexpr int kBoxLines = 128 / (int)sizeof(InputA);      // of a box that lies along lines
static_assert(sizeof(InputA) == 2 || (!kThin && (!kLinesA || kTurned) && !kLinesB), "elements that have not 16 bits lie along k");

// All threads of the cluster: what each wrote to shared memory before is seen behind.
GEMS_DI void meet() {
    cluster_arrive();
    cluster_wait();
}

// A place in the ring, and the parity of its barriers' phase there.
struct Place {
    int stage = 0;
    uint32_t parity = 0;
    GEMS_DI void next() {
        if (++stage == kStages) stage = 0, parity ^= 1;
    }
};

// A unit of work: what a block or a pair of blocks does between two results.
struct Unit : MatmulBlock {
    int k0, steps;
    GEMS_DI Unit(const MatmulParams &p, uint32_t at, int rank) : MatmulBlock(p, at) {
        if (!kThin) row += rank * kTileM;
        k0 = (kParted ? rank : split) * p.split_k;
        int depth = p.k - k0 < p.split_k ? p.k - k0 : p.split_k;
        steps = depth > 0 ? (depth + kTileK - 1) / kTileK : 0;
    }
};

GEMS_DI void copy_tile(unsigned char *to, const TensorMap &a, const TensorMap &b, uint64_t *bar, const Unit &unit, int k,
                       int rank, int a_batch, int b_batch) {
    if constexpr (kLinesA) {
        GEMS_UNROLL for (int i = 0; i < kTileM / kBoxLines; i++)
            tensor_copy(to + i * (kBoxLines * 128), a, bar, unit.row + i * kBoxLines, k, a_batch);
    } else {
        tensor_copy(to, a, bar, k, unit.row, a_batch);
    }
    const int part = kShare > 1 ? rank : 0, line = unit.col + part * kLoadB;
    to += kBytesA + part * (kLoadB * 128);
    GEMS_UNROLL for (int i = 0; i < (kLinesB ? kLoadB / 64 : 1); i++) {
        const int x = kLinesB ? line + i * 64 : k, y = kLinesB ? k : line;
        if constexpr (kShare > 1) tensor_copy_to(to + i * 8192, b, bar, x, y, b_batch, (1 << kShare) - 1);
        else tensor_copy(to + i * 8192, b, bar, x, y, b_batch);
    }
}

template <class A, class B, class D> GEMS_DI void multiply(D &acc, uint64_t a, uint64_t b, int add) {
    if constexpr (sizeof(A) == 2) wgmma<A, kTileN, kLinesA, kLinesB>(acc, a, b, add);
    else wgmma_along_k<A, B, kTileN>(acc, a, b, add);
}

// All steps of a unit, each to sums of its own, which are added to `whole` while the next one is multiplied.
template <int N, class F>
GEMS_DI void promoted(float (&whole)[N], int steps, Place &at, uint64_t *full, uint64_t tiles, int group, const F &leave) {
    float first[N], second[N];
    int before = 0, s = 0;
    GEMS_UNROLL for (int i = 0; i < N; i++) first[i] = second[i] = 0.0f;
    const auto start = [&](float (&acc)[N]) {
        mbarrier_wait(full + at.stage, at.parity);
        const uint64_t a = tiles + ((at.stage * kBytes + group * 8192) >> 4), b = tiles + ((at.stage * kBytes + kBytesA) >> 4);
        wgmma_keep(acc);
        wgmma_fence();
        GEMS_UNROLL for (int k = 0; k < 4; k++) multiply<InputA, InputB>(acc, a + k * (32 >> 4), b + k * (32 >> 4), k);
        wgmma_commit();
    };
    // True behind the last step. coming: the sums of the next step; done: of the one that has begun.
    const auto step = [&](float (&coming)[N], float (&done)[N]) {
        const bool last = s + 1 >= steps;
        before = at.stage;
        at.next();
        if (last) {
            wgmma_wait<0>();
        } else {
            start(coming);
            wgmma_wait<1>();
        }
        wgmma_keep(done);
        leave(before);
        GEMS_UNROLL for (int i = 0; i < N; i++) whole[i] += done[i];
        s++;
        return last;
    };
    if (!steps) return;
    start(first);
    while (!step(second, first) && !step(first, second)) {}
}

template <class D, class F>
GEMS_DI void promote_all(D &whole, int steps, Place &at, uint64_t *full, uint64_t tiles, int group, const F &leave) {
    if constexpr (kPromotes) promoted(whole, steps, at, full, tiles, group, leave);
}

template <class D> GEMS_DI void multiply_turned(D &acc, const uint32_t (&a)[4], uint64_t b, int add) {
    if constexpr (kTurned) wgmma_registers<float, kTileN, false>(acc, a, b, add);
}

// Of float32 that lies along its lines, the line of 32 in a box that is row r of the 16 of a warp: those of neighbouring lanes lie in
// different banks, whatever k is.
GEMS_DI int turned_line(int warp, int r) { return (r & 3) + (r >> 2 & 1) * 16 + (warp & 1) * 8 + (r >> 3) * 4; }

// A warp's part of such a tile, 32 deep, as registers of four products.
GEMS_DI void turn_tile(uint32_t (&a)[4][4], const unsigned char *tile, int group, int warp) {
    const int lane = (int)threadIdx.x & 31, t = lane & 3, line = turned_line(warp, lane >> 2);
    const unsigned char *box = tile + (group * 2 + (warp >> 1 & 1)) * 4096;
    GEMS_UNROLL for (int k = 0; k < 4; k++) {
        GEMS_UNROLL for (int i = 0; i < 4; i++) {
            const int row = t + (i >> 1) * 4, at = line + (i & 1) * 4;
            a[k][i] = load<1>(reinterpret_cast<const uint32_t *>(box + (k * 8 + row) * 128 + ((at >> 2 ^ row) << 4) + (at & 3) * 4)).v[0];
        }
    }
}

template <class S> GEMS_DI float low_of(uint32_t w) { return to_op(S{(uint16_t)w}); }
template <class S> GEMS_DI float high_of(uint32_t w) { return to_op(S{(uint16_t)(w >> 16)}); }

// 64 columns of the 16 rows of C that a warp adds: what a thread reads, 16 bytes at a time, for its neighbours and itself.
struct Added {
    Vec<Scalar, 8> part[2][2];
    GEMS_DI void fetch(const MatmulParams &p, const Scalar *c, int row, int col) { // n is a multiple of 8
        GEMS_UNROLL for (int h = 0; h < 2; h++) {
            GEMS_UNROLL for (int g = 0; g < 2; g++) {
                part[h][g] = {};
                if (row + h * 8 < p.m && col + g * 32 < p.n) part[h][g] = load<8>(c + (row + h * 8) * p.c_row + col + g * 32);
            }
        }
    }
};

// Writes 64 columns after 64 of the 16 rows that a warp holds to shared memory, from where copies bring them to D while the next
// tile is multiplied.
template <bool ADDS>
GEMS_DI void write_boxes(const MatmulParams &p, const TensorMap &map_d, const Scalar *c, int row0, int col0, int batch,
                         const Acc (&acc)[kTileN / 2], unsigned char *boxes) {
    const int lane = (int)threadIdx.x & 31, r = lane >> 2, q = lane & 3;
    float rows[2] = {}, one = 0.0f; // of kScaled: what the two rows are multiplied by, and all columns
    if constexpr (kScaled) {
        one = *p.scale_b;
        GEMS_UNROLL for (int h = 0; h < 2; h++)
            if (row0 + r + h * 8 < p.m) rows[h] = p.scale_a[(row0 + r + h * 8) * p.scale_rows];
    }
    const float alpha = (float)p.alpha, beta = (float)p.beta;
    Added added[2]; // of this chunk and of the next one
    if constexpr (ADDS) added[0].fetch(p, c, row0 + r, col0 + q * 8);
    GEMS_UNROLL for (int chunk = 0; chunk < kChunks; chunk++) {
        unsigned char *box = boxes + chunk % kBuffers * 2048;
        float columns[kScaled ? 16 : 1]; // what the columns of this chunk are multiplied by
        if constexpr (kScaled) {
            GEMS_UNROLL for (int i = 0; i < 16; i++) {
                const int col = col0 + chunk * 64 + i / 2 * 8 + q * 2 + i % 2;
                columns[i] = p.scale_cols == 0 ? one : col < p.n ? p.scale_b[col] : 0.0f;
            }
        }
        if constexpr (ADDS) {
            if (chunk + 1 < kChunks) added[(chunk + 1) & 1].fetch(p, c, row0 + r, col0 + (chunk + 1) * 64 + q * 8);
        }
        // What was stored from this place before has been read.
        if (lane == 0) tensor_store_wait<kBuffers - 1>();
        __syncwarp();
        GEMS_UNROLL for (int h = 0; h < 2; h++) {
            GEMS_UNROLL for (int g = 0; g < 2; g++) {
                uint32_t w[4];
                if constexpr (ADDS) {
                    memcpy(w, &added[chunk & 1].part[h][g], 16);
                    turn(w, lane);
                }
                GEMS_UNROLL for (int i = 0; i < 4; i++) {
                    const int at = (chunk * 8 + g * 4 + i) * 4 + h * 2;
                    float x = alpha * acc[at], y = alpha * acc[at + 1];
                    if constexpr (kScaled) {
                        x = acc[at] * (rows[h] * columns[(g * 4 + i) * 2]);
                        y = acc[at + 1] * (rows[h] * columns[(g * 4 + i) * 2 + 1]);
                    }
                    if constexpr (ADDS) x += beta * low_of<Scalar>(w[i]), y += beta * high_of<Scalar>(w[i]);
                    Vec<uint32_t, 1> two = {{pack_two<Scalar>(x, y)}};
                    store<1>(reinterpret_cast<uint32_t *>(box + (h * 8 + r) * 128 + (((g * 4 + i) ^ r) << 4) + q * 4), two);
                }
            }
        }
        copy_fence();
        __syncwarp();
        if (lane == 0) tensor_store(map_d, box, col0 + chunk * 64, row0, batch);
    }
}

// Four neighbours of a column, which lie side by side in D.
GEMS_DI void finish_down(const MatmulParams &p, const Scalar *c, Scalar *d, int row, int col, const Acc (&v)[4], bool four) {
    const float alpha = (float)p.alpha, beta = (float)p.beta;
    if (row >= p.m || col >= p.n) return;
    Vec<Scalar, 4> result;
    GEMS_UNROLL for (int e = 0; e < 4; e++) {
        float x = alpha * (float)v[e];
        if (c && row + e < p.m) x += beta * to_op(c[(row + e) * p.c_row + col * p.c_col]);
        result.v[e] = convert<Scalar>(x);
    }
    Scalar *to = d + row + col * p.d_col;
    if (four && row + 4 <= p.m) {
        store<4>(to, result);
    } else {
        GEMS_UNROLL for (int e = 0; e < 4; e++)
            if (row + e < p.m) to[e] = result.v[e];
    }
}

// The same for any strides, element by element, or to the sums of a part of k; slab by slab through shared memory that is the
// warp's own, so that its lanes are neighbours in a row.
GEMS_DI void write_any(const MatmulParams &p, const Scalar *c, Scalar *d, Acc *sums, int row0, int col0,
                       const Acc (&acc)[kTileN / 2], Acc *slab) {
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    const bool down = kTurned && !sums && p.d_row == 1; // neighbours in D are lines of A
    const bool four = p.d_col % 4 == 0 && p.d_batch % 4 == 0 && ((uint64_t)p.d & 15) == 0;
    Acc *mine = slab + (lane >> 2) * kSlabPitch + (lane & 3) * 2;
    GEMS_UNROLL for (int g = 0; g < kTileN / kSlab; g++) {
        GEMS_UNROLL for (int i = 0; i < kSlab / 4; i++) {
            const int at = g * (kSlab / 2) + i * 2;
            store<2>(mine + (i & 1) * 8 * kSlabPitch + i / 2 * 8, Vec<Acc, 2>{acc[at], acc[at + 1]});
        }
        __syncwarp();
        if constexpr (kTurned) {
#pragma unroll 1
            for (int i = lane; down && i < 4 * kSlab; i += 32) {
                const int r = (i & 1) * 8 + (i & 2) * 2, col = col0 + g * kSlab + (i >> 2), row = row0 + turned_line(warp, r);
                Acc v[4];
                GEMS_UNROLL for (int e = 0; e < 4; e++) v[e] = slab[(r + e) * kSlabPitch + (i >> 2)];
                finish_down(p, c, d, row, col, v, four);
            }
            if (down) {
                __syncwarp();
                continue;
            }
        }
#pragma unroll 1
        for (int i = lane; i < 16 * kSlab / kGroup; i += 32) {
            const int r = i / (kSlab / kGroup), q = i % (kSlab / kGroup) * kGroup, col = col0 + g * kSlab + q;
            const int row = row0 + (kTurned ? turned_line(warp, r) : r);
            if (row >= p.m || col >= p.n) continue;
            const Vec<Acc, kGroup> from = load<kGroup>(slab + r * kSlabPitch + q);
            Acc v[kGroup];
            GEMS_UNROLL for (int e = 0; e < kGroup; e++) v[e] = from.v[e];
            if (sums) {
                GEMS_UNROLL for (int e = 0; e < kGroup; e++)
                    if (col + e < p.n) sums[(int64_t)row * p.n + col + e] = v[e];
            } else {
                finish(p, c, d, row, col, v);
            }
        }
        __syncwarp();
    }
}

// A thin product: every block of the cluster has its sums in shared memory, a column after the other, and ends some of them.
GEMS_DI void write_thin(const MatmulParams &p, const Scalar *c, Scalar *d, const float *sums, int row0, int col0, int rank) {
    const float alpha = (float)p.alpha, beta = (float)p.beta;
    const bool four = p.d_row == 1 && p.m % 4 == 0 && (p.n == 1 || p.d_col % 4 == 0) && p.d_batch % 4 == 0 && ((uint64_t)p.d & 7) == 0;
    const int blocks = kParted ? p.share : 1;
    for (int i = (int)threadIdx.x - 128 + rank * kMultiplying; i < kTileN * (kTileM / 4); i += kMultiplying * blocks) {
        // Neighbours take what lies side by side in D.
        const int r = p.d_col == 1 && p.d_row != 1 ? i / kTileN * 4 : i % (kTileM / 4) * 4;
        const int row = row0 + r, at = p.d_col == 1 && p.d_row != 1 ? i % kTileN : i / (kTileM / 4), col = col0 + at;
        if (row >= p.m || col >= p.n) continue;
        const float *from = sums + at * kPitch + r;
        Vec<float, 4> v = kParted ? cluster_load(from, 0) : load<4>(from);
        for (int b = 1; b < blocks; b++) {
            Vec<float, 4> more = cluster_load(from, b);
            GEMS_UNROLL for (int e = 0; e < 4; e++) v.v[e] += more.v[e];
        }
        Vec<Scalar, 4> result;
        GEMS_UNROLL for (int e = 0; e < 4; e++) {
            float x = alpha * v.v[e];
            if (c && row + e < p.m) x += beta * to_op(c[(row + e) * p.c_row + col * p.c_col]);
            result.v[e] = from_op<Scalar>(x);
        }
        Scalar *to = d + row * p.d_row + col * p.d_col;
        if (four) {
            store<4>(to, result);
        } else {
            GEMS_UNROLL for (int e = 0; e < 4; e++)
                if (row + e < p.m) to[e * p.d_row] = result.v[e];
        }
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, kBlocks)
    matmul_wgmma(const __grid_constant__ MatmulParams p, const __grid_constant__ TensorMap map_a,
                 const __grid_constant__ TensorMap map_b, const __grid_constant__ TensorMap map_d) {
    GEMS_DYN_SMEM(unsigned char, given);
    unsigned char *ring = given + (-shared_address(given) & 1023);
    // The twin of STAGED in csrc/families/matmul_wgmma.c: sums of a thin tile, boxes to store, or slabs.
    unsigned char *staged = ring + kStages * kBytes;
    uint64_t *full = reinterpret_cast<uint64_t *>(staged + kStaged), *empty = full + kStages;
    const uint32_t blocks = kParted ? (uint32_t)p.share : (uint32_t)kCluster;
    const int rank = kParted ? (int)(blockIdx.x % blocks) : kCluster > 1 ? cluster_rank() : 0, warp = shuffle_from((int)threadIdx.x >> 5, 0), lane = (int)threadIdx.x & 31;
    const uint32_t units = (uint32_t)p.tiles_m * (uint32_t)p.tiles_n * (uint32_t)p.split * (uint32_t)p.batch;
    if (threadIdx.x == 0) {
        tensor_map_prefetch(map_a);
        tensor_map_prefetch(map_b);
        GEMS_UNROLL for (int i = 0; i < kStages; i++) {
            mbarrier_init(full + i, 1);
            mbarrier_init(empty + i, kProducts * kShare);
        }
        mbarrier_init_done();
    }
    if constexpr (kShare > 1) cluster_sync();
    else __syncthreads();

    Place at;
    if (warp < 4) {
        if constexpr (kDivides) registers_down<40>();
        if (warp == 0 && elect_one()) {
            for (uint32_t u = blockIdx.x / blocks; u < units; u += gridDim.x / blocks) {
                const Unit unit(p, u, rank);
                const int a_batch = p.a_batch ? unit.batch : 0, b_batch = p.b_batch ? unit.batch : 0;
                for (int s = 0; s < unit.steps; s++, at.next()) {
                    mbarrier_wait(empty + at.stage, at.parity ^ 1);
                    mbarrier_expect(full + at.stage, kBytes);
                    copy_tile(ring + at.stage * kBytes, map_a, map_b, full + at.stage, unit, unit.k0 + s * kTileK, rank, a_batch,
                              b_batch);
                }
            }
        }
        __syncwarp();
        if constexpr (kParted) meet();
    } else {
        if constexpr (kDivides) registers_up<232>();
        const int group = (warp >> 2) - 1;
        const uint64_t tiles = tile_descriptor(shared_address(ring));
        const auto leave = [&](int stage) {
            if constexpr (kShare > 1) {
                if (lane < kShare) mbarrier_arrive_at(empty + stage, lane);
            } else {
                if (lane == 0) mbarrier_arrive(empty + stage);
            }
        };
        for (uint32_t u = blockIdx.x / blocks; u < units; u += gridDim.x / blocks) {
            const Unit unit(p, u, rank);
            Acc acc[kTileN / 2];
            int before = 0;
            GEMS_UNROLL for (int i = 0; i < kTileN / 2; i++) acc[i] = 0;
            if constexpr (kPromotes) promote_all(acc, unit.steps, at, full, tiles, group, leave);
            wgmma_keep(acc);
#pragma unroll 1
            for (int s = 0; !kPromotes && s < unit.steps; s++, at.next()) {
                mbarrier_wait(full + at.stage, at.parity);
                const uint64_t a = tiles + ((at.stage * kBytes + group * 8192) >> 4), b = tiles + ((at.stage * kBytes + kBytesA) >> 4);
                if constexpr (kTurned) {
                    // The other warpgroup multiplies meanwhile.
                    uint32_t turned[4][4];
                    turn_tile(turned, ring + at.stage * kBytes, group, warp & 3);
                    wgmma_fence();
                    GEMS_UNROLL for (int k = 0; k < 4; k++) multiply_turned(acc, turned[k], b + k * (32 >> 4), s + k);
                    wgmma_commit();
                    wgmma_wait<0>();
                    leave(at.stage);
                    continue;
                }
                wgmma_fence();
                GEMS_UNROLL for (int k = 0; k < 4; k++) {
                    const uint64_t ak = a + k * (kLinesA ? 2048 >> 4 : 32 >> 4), bk = b + k * (kLinesB ? 2048 >> 4 : 32 >> 4);
                    multiply<InputA, InputB>(acc, ak, bk, s + k);
                }
                wgmma_commit();
                // The products of the step before are complete: its tile may be overwritten.
                wgmma_wait<1>();
                if (s) leave(before);
                before = at.stage;
            }
            wgmma_wait<0>();
            wgmma_keep(acc);
            if (unit.steps && !kTurned && !kPromotes) leave(before);

            const int row = unit.row + group * 64 + (kTurned ? (warp >> 1 & 1) * 32 : (warp & 3) * 16);
            const Scalar *c = p.c ? static_cast<const Scalar *>(p.c) + unit.batch * p.c_batch : nullptr;
            Scalar *d = static_cast<Scalar *>(p.d) + unit.batch * p.d_batch;
            const int64_t place = unit.split * (int64_t)p.batch + unit.batch;
            Acc *sums = p.partial ? static_cast<Acc *>(p.partial) + place * p.m * p.n : nullptr;
            if (kThin && !sums) {
                float *sums_of_tile = reinterpret_cast<float *>(staged);
                const int line = group * 64 + (warp & 3) * 16 + (lane >> 2);
                GEMS_UNROLL for (int i = 0; i < kTileN / 2; i++)
                    sums_of_tile[(i / 4 * 8 + (lane & 3) * 2 + (i & 1)) * kPitch + line + (i & 2) * 4] = acc[i];
                if constexpr (kParted) meet();
                else part_sync<1>(kMultiplying);
                write_thin(p, c, d, sums_of_tile, unit.row, unit.col, rank);
                if constexpr (kParted) break; // the only unit
                part_sync<1>(kMultiplying);
                continue;
            }
            if constexpr (!kThin && sizeof(Scalar) == 2) {
                if (!sums && p.wide_d && !p.scale_d && (!c || (p.wide_c && p.n % 8 == 0))) {
                    unsigned char *boxes = staged + (warp - 4) * (kBuffers * 2048);
                    const int batch = p.d_batch ? unit.batch : 0;
                    if (c) write_boxes<true>(p, map_d, c, row, unit.col, batch, acc, boxes);
                    else write_boxes<false>(p, map_d, c, row, unit.col, batch, acc, boxes);
                    continue;
                }
            }
            write_any(p, c, d, sums, row, unit.col, acc, reinterpret_cast<Acc *>(staged) + (warp - 4) * (16 * kSlabPitch));
        }
    }
    // What was stored has been read.
    if (!kThin && warp >= 4 && lane == 0) tensor_store_wait<0>();
    // No block ends while another one of its cluster may still arrive at its barriers or read its sums.
    if constexpr (kParted) meet();
    else if constexpr (kCluster > 1) cluster_sync();
}
