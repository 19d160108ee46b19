// Tiles of a matrix product: how operands reach shared memory, and the loops that multiply there.
//
// A tile has LINES lines (rows of A, columns of B) of BK elements. A feed brings it to shared memory in chunks of 16 bytes:
// along k or along the lines, whichever is contiguous, asynchronously where chunks are aligned, else element by element
// with any strides. No layout needs a copy: a tile that lies along its lines is transposed while it is read.
// A loop (MmaLoop, FmaLoop) multiplies: run(); then gives its result in slabs of rows: stage(). Another one, for wgmma say, needs the
// same names and nothing else.

namespace gems {

// How an operand is read. Gathering takes any strides and any alignment.
enum Feeding { kAlongK, kAlongLines, kGatherAlongK, kGatherAlongLines };

// Place of a 16-byte chunk in shared memory, so that 8 rows of one column of chunks lie in different banks.
template <int CHUNKS> GEMS_DI int swizzle(int row, int chunk) {
    if constexpr (CHUNKS >= 8) return row * CHUNKS + (chunk ^ (row & 7));
    else if constexpr (CHUNKS == 4) return row * CHUNKS + (chunk ^ (row >> 1 & 3));
    else return row * CHUNKS + (chunk ^ (row >> 2 & 1));
}

// Where a chunk of a tile of T lies; tile_wide.cuh has other ways for elements that no ldmatrix reads.
template <class T, int CHUNKS, bool FOLLOWS_K> struct Place {
    static GEMS_DI int of(int row, int chunk) { return swizzle<CHUNKS>(row, chunk); }
};

// The part of an operand that a block reads: an origin, two strides, what is left in both directions.
template <class T> struct Source {
    const T *start;
    int64_t line, k;
    int lines, depth;
};

// The chunks of a tile that one thread brings.
template <class T, int LINES, int BK, int THREADS, int MODE> struct Feed {
    static constexpr bool kFollowsK = MODE == kAlongK || MODE == kGatherAlongK;
    static constexpr bool kGathers = MODE == kGatherAlongK || MODE == kGatherAlongLines;
    static constexpr int kVec = 16 / (int)sizeof(T);
    static constexpr int kChunks = (kFollowsK ? BK : LINES) / kVec, kRows = kFollowsK ? LINES : BK;
    static constexpr int kTotal = kChunks * kRows, kEach = (kTotal + THREADS - 1) / THREADS;
    static constexpr int kPass = THREADS / kChunks;
    typedef gems::Place<T, kChunks, kFollowsK> Place;
    static_assert(THREADS % kChunks == 0 && (kTotal % THREADS == 0 || kTotal < THREADS), "chunks do not split evenly");

    const T *safe, *at;
    int64_t pass, step, unit;
    int row, chunk, rows, columns;
    T held[kGathers ? kEach : 1][kVec];

    GEMS_DI explicit Feed(const Source<T> &s) {
        int t = (int)threadIdx.x;
        row = t / kChunks;
        chunk = t - row * kChunks;
        int64_t row_stride = kFollowsK ? s.line : s.k;
        unit = kGathers ? (kFollowsK ? s.k : s.line) : 1;
        safe = s.start;
        at = s.start + row * row_stride + chunk * kVec * unit;
        pass = kPass * row_stride;
        step = BK * (kGathers || !kFollowsK ? s.k : 1);
        rows = kFollowsK ? s.lines : s.depth;
        columns = (kFollowsK ? s.depth : s.lines) - chunk * kVec;
        if (kTotal < THREADS && t >= kTotal) rows = 0;
    }

    GEMS_DI bool mine() const { return kTotal >= THREADS || (int)threadIdx.x < kTotal; }

    // Elements of chunk i that exist.
    GEMS_DI int count(int i) const {
        int left = columns < 0 ? 0 : columns > kVec ? kVec : columns;
        return row + i * kPass < rows ? left : 0;
    }

    GEMS_DI void next() {
        at += step;
        if (kFollowsK) columns -= BK;
        else rows -= BK;
    }

    // Starts the copies of a tile to shared memory; elements that do not exist become zero.
    GEMS_DI void copy(T *tile) const {
        if (!mine()) return;
        GEMS_UNROLL for (int i = 0; i < kEach; i++) {
            int n = count(i);
            cp_async16(tile + Place::of(row + i * kPass, chunk) * kVec, n ? at + i * pass : safe,
                       n * (int)sizeof(T));
        }
    }

    // Brings a tile to registers, element by element.
    GEMS_DI void gather() {
        GEMS_UNROLL for (int i = 0; i < kEach; i++) {
            int n = count(i);
            const T *from = at + i * pass;
            GEMS_UNROLL for (int e = 0; e < kVec; e++) held[i][e] = e < n ? from[e * unit] : T{};
        }
    }

    // Writes what gather() holds to a tile.
    GEMS_DI void put(T *tile) const {
        if (!mine()) return;
        GEMS_UNROLL for (int i = 0; i < kEach; i++) {
            Vec<T, kVec> v;
            GEMS_UNROLL for (int e = 0; e < kVec; e++) v.v[e] = held[i][e];
            store<kVec>(tile + Place::of(row + i * kPass, chunk) * kVec, v);
        }
    }

    // The two halves of bringing a tile: before and after the multiplication of another one.
    GEMS_DI void begin(T *tile) {
        if constexpr (kGathers) gather();
        else copy(tile);
    }
    GEMS_DI void end(T *tile) {
        if constexpr (kGathers) put(tile);
    }
};

// Four 8x8 matrices of a tile as the operand of an m16n8k16 product: 16 lines from `line`, 16 deep from `k`.
// SECOND: the order of B (lines in the upper half are the last two), else that of A.
template <class T, int LINES, int BK, bool FOLLOWS_K, bool SECOND>
GEMS_DI void fragment(uint32_t (&r)[4], const T *tile, int line, int k) {
    constexpr int kChunks = (FOLLOWS_K ? BK : LINES) / 8;
    int lane = (int)threadIdx.x & 31, matrix = lane >> 3;
    int down = SECOND ? matrix >> 1 : matrix & 1, across = SECOND ? matrix & 1 : matrix >> 1;
    if constexpr (FOLLOWS_K) {
        ldmatrix_x4(r, tile + swizzle<kChunks>(line + down * 8 + (lane & 7), k / 8 + across) * 8);
    } else {
        ldmatrix_x4_trans(r, tile + swizzle<kChunks>(k + across * 8 + (lane & 7), line / 8 + down) * 8);
    }
}

// One step of a warp on the tensor cores: the operands of a product of 16 x 16 elements and of another one beside it, and the
// products themselves. This is the one of 16-bit floats; those of other types are in tile_wide.cuh. U: the elements of B.
template <class T, class U> struct Multiplier {
    typedef float Op;
    typedef uint32_t Reg;
    static constexpr int kDepth = 16, kRegs = 4;
    template <int LINES, int BK, bool FOLLOWS_K> static GEMS_DI void load_a(Reg (&r)[4], const T *tile, int line, int k) {
        fragment<T, LINES, BK, FOLLOWS_K, false>(r, tile, line, k);
    }
    template <int LINES, int BK, bool FOLLOWS_K> static GEMS_DI void load_b(Reg (&r)[4], const T *tile, int line, int k) {
        fragment<T, LINES, BK, FOLLOWS_K, true>(r, tile, line, k);
    }
    static GEMS_DI void multiply(Op *d, const Reg *a, const Reg *b) { mma_m16n8k16<T>(d, a, b); }
};

// The tensor cores: a ring of STAGES tiles in shared memory, WM x WN warps. FEED brings the tiles: it is made of what run() is
// given and has the names of Feed. U: the elements of B, as wide as T.
template <class T, int BM, int BN, int BK, int WM, int WN, int STAGES, int MODE_A, int MODE_B,
          template <class, int, int, int, int> class FEED = Feed, class U = T>
struct MmaLoop {
    typedef Multiplier<T, U> Step;
    typedef typename Step::Op Op;
    typedef typename Step::Reg Reg;
    static constexpr int kDepth = Step::kDepth, kRegs = Step::kRegs;
    static constexpr int kThreads = WM * WN * 32, kVector = 2;
    static constexpr int kRows = BM / WM / 16, kCols = BN / WN / 8;
    static constexpr int kTileA = BM * BK, kTileB = BN * BK;
    static_assert(kCols % 2 == 0 && BK % kDepth == 0, "a warp multiplies 16 x 16 at a time");
    typedef FEED<T, BM, BK, kThreads, MODE_A> FeedA;
    typedef FEED<T, BN, BK, kThreads, MODE_B> FeedB;

    Op acc[kRows][kCols][4];

    GEMS_DI void load(Reg (&a)[kRows][kRegs], Reg (&b)[kCols / 2][kRegs], const T *tile, int k) {
        int warp = (int)threadIdx.x >> 5, m0 = warp / WN * (BM / WM), n0 = warp % WN * (BN / WN);
        GEMS_UNROLL for (int i = 0; i < kRows; i++)
            Step::template load_a<BM, BK, FeedA::kFollowsK>(a[i], tile, m0 + i * 16, k);
        GEMS_UNROLL for (int j = 0; j < kCols / 2; j++)
            Step::template load_b<BN, BK, FeedB::kFollowsK>(b[j], tile + kTileA, n0 + j * 16, k);
    }

    template <class A, class B> GEMS_DI void run(const A &a, const B &b, unsigned char *shared) {
        T *ring = reinterpret_cast<T *>(shared);
        FeedA feed_a(a);
        FeedB feed_b(b);
        int tiles = (a.depth + BK - 1) / BK;
        GEMS_UNROLL for (int i = 0; i < kRows; i++)
            GEMS_UNROLL for (int j = 0; j < kCols; j++)
                GEMS_UNROLL for (int e = 0; e < 4; e++) acc[i][j][e] = 0;
#pragma unroll 1
        for (int s = 0; s < STAGES - 1; s++) {
            if (s < tiles) {
                T *tile = ring + s * (kTileA + kTileB);
                feed_a.begin(tile);
                feed_b.begin(tile + kTileA);
                feed_a.end(tile);
                feed_b.end(tile + kTileA);
                feed_a.next();
                feed_b.next();
            }
            cp_async_commit();
        }
        int reads = 0, writes = STAGES - 1;
        for (int t = 0; t < tiles; t++) {
            // The copies of tile t are complete in all threads, and all threads have left the tile that is overwritten.
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            T *coming = ring + writes * (kTileA + kTileB);
            const T *tile = ring + reads * (kTileA + kTileB);
            bool more = t + STAGES - 1 < tiles;
            if (more) {
                feed_a.begin(coming);
                feed_b.begin(coming + kTileA);
            }
            cp_async_commit();
            Reg fa[2][kRows][kRegs], fb[2][kCols / 2][kRegs];
            load(fa[0], fb[0], tile, 0);
            GEMS_UNROLL for (int k = 0; k < BK / kDepth; k++) {
                if (k + 1 < BK / kDepth) load(fa[(k + 1) & 1], fb[(k + 1) & 1], tile, (k + 1) * kDepth);
                GEMS_UNROLL for (int i = 0; i < kRows; i++)
                    GEMS_UNROLL for (int j = 0; j < kCols; j++)
                        Step::multiply(acc[i][j], fa[k & 1][i], fb[k & 1][j / 2] + j % 2 * (kRegs / 2));
            }
            if (more) {
                feed_a.end(coming);
                feed_b.end(coming + kTileA);
                feed_a.next();
                feed_b.next();
            }
            reads = reads + 1 == STAGES ? 0 : reads + 1;
            writes = writes + 1 == STAGES ? 0 : writes + 1;
        }
        cp_async_wait<0>();
        __syncthreads();
    }

    static constexpr int kSlabs = kRows, kSlabRows = WM * 16;
    static GEMS_DI int slab_row(int slab, int r) { return r / 16 * (BM / WM) + slab * 16 + r % 16; }

    // Writes slab number `slab` of the result, kSlabRows rows of the tile, to shared memory.
    GEMS_DI void stage(int slab, Op *to, int pitch) const {
        int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
        to += (warp / WN * 16 + (lane >> 2)) * pitch + warp % WN * (BN / WN) + (lane & 3) * 2;
        GEMS_UNROLL for (int j = 0; j < kCols; j++) {
            GEMS_UNROLL for (int h = 0; h < 2; h++)
                store<2>(to + h * 8 * pitch + j * 8, Vec<Op, 2>{acc[slab][j][2 * h], acc[slab][j][2 * h + 1]});
        }
    }
};

// Any dtype by multiply and add: exact, and for every architecture. A thread computes TM x TN, tiles lie [k][line] in the
// compute type, two of them in turn.
template <class T, int BM, int BN, int BK, int TM, int TN, int MODE_A, int MODE_B> struct FmaLoop {
    typedef opmath_t<T> Op;
    static constexpr int kVector = 16 / (int)sizeof(Op);
    static constexpr int kThreads = BM / TM * (BN / TN), kWide = BN / TN / 8;
    static constexpr int kTileA = BM * BK, kTileB = BN * BK;
    static_assert(TM % kVector == 0 && TN % kVector == 0 && (BN / TN) % 8 == 0 && (BM / TM) % 4 == 0, "uneven threads");
    // Gathering always: through registers, where the values are widened and transposed.
    template <int LINES, int MODE> struct Side : Feed<T, LINES, BK, kThreads, MODE | kGatherAlongK> {
        typedef Feed<T, LINES, BK, kThreads, MODE | kGatherAlongK> Base;
        static constexpr bool kAligned = MODE == kAlongK || MODE == kAlongLines;
        GEMS_DI explicit Side(const Source<T> &s) : Base(s) {}

        GEMS_DI void fetch() {
            if constexpr (kAligned) {
                GEMS_UNROLL for (int i = 0; i < Base::kEach; i++) {
                    int n = this->count(i);
                    const T *from = this->at + i * this->pass;
                    if (n == Base::kVec) {
                        Vec<T, Base::kVec> v = gems::load<Base::kVec>(from);
                        GEMS_UNROLL for (int e = 0; e < Base::kVec; e++) this->held[i][e] = v.v[e];
                    } else {
                        GEMS_UNROLL for (int e = 0; e < Base::kVec; e++) this->held[i][e] = e < n ? from[e] : T{};
                    }
                }
            } else {
                this->gather();
            }
        }

        // Lines are permuted by k so that the threads of a warp, which hold one line's neighbours along k, write different banks.
        static GEMS_DI int twist(int k) { return Base::kFollowsK ? (k / Base::kVec & 3) * 8 : 0; }

        GEMS_DI void stash(Op *tile) const {
            if (!this->mine()) return;
            GEMS_UNROLL for (int i = 0; i < Base::kEach; i++) {
                int line = this->row + i * Base::kPass, first = this->chunk * Base::kVec;
                GEMS_UNROLL for (int e = 0; e < Base::kVec; e++) {
                    if constexpr (Base::kFollowsK) {
                        tile[(first + e) * LINES + (line ^ twist(first))] = to_op(this->held[i][e]);
                    } else {
                        tile[line * LINES + first + e] = to_op(this->held[i][e]);
                    }
                }
            }
        }
    };
    typedef Side<BM, MODE_A> SideA;
    typedef Side<BN, MODE_B> SideB;

    Op acc[TM][TN];

    static GEMS_DI int thread_row() {
        int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
        return warp / kWide * 4 + (lane >> 3);
    }
    static GEMS_DI int thread_col() {
        int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
        return warp % kWide * 8 + (lane & 7);
    }

    GEMS_DI void multiply(const Op *tile) {
        int m0 = thread_row() * kVector, n0 = thread_col() * kVector;
        GEMS_UNROLL for (int k = 0; k < BK; k++) {
            Op a[TM], b[TN];
            GEMS_UNROLL for (int g = 0; g < TM / kVector; g++) {
                Vec<Op, kVector> v = gems::load<kVector>(
                    tile + k * BM + ((g * (BM / (TM / kVector)) + m0) ^ SideA::twist(k)));
                GEMS_UNROLL for (int e = 0; e < kVector; e++) a[g * kVector + e] = v.v[e];
            }
            GEMS_UNROLL for (int g = 0; g < TN / kVector; g++) {
                Vec<Op, kVector> v = gems::load<kVector>(
                    tile + kTileA + k * BN + ((g * (BN / (TN / kVector)) + n0) ^ SideB::twist(k)));
                GEMS_UNROLL for (int e = 0; e < kVector; e++) b[g * kVector + e] = v.v[e];
            }
            GEMS_UNROLL for (int i = 0; i < TM; i++)
                GEMS_UNROLL for (int j = 0; j < TN; j++) acc[i][j] = gems::fma(a[i], b[j], acc[i][j]);
        }
    }

    GEMS_DI void run(const Source<T> &a, const Source<T> &b, unsigned char *shared) {
        Op *tile = reinterpret_cast<Op *>(shared);
        SideA side_a(a);
        SideB side_b(b);
        int tiles = (a.depth + BK - 1) / BK;
        GEMS_UNROLL for (int i = 0; i < TM; i++)
            GEMS_UNROLL for (int j = 0; j < TN; j++) acc[i][j] = 0;
        side_a.fetch();
        side_b.fetch();
        side_a.stash(tile);
        side_b.stash(tile + kTileA);
        __syncthreads();
        for (int t = 0; t < tiles; t++) {
            Op *coming = tile + ((t + 1) & 1) * (kTileA + kTileB);
            bool more = t + 1 < tiles;
            if (more) {
                side_a.next();
                side_b.next();
                side_a.fetch();
                side_b.fetch();
            }
            multiply(tile + (t & 1) * (kTileA + kTileB));
            if (more) {
                side_a.stash(coming);
                side_b.stash(coming + kTileA);
            }
            __syncthreads();
        }
    }

    static constexpr int kSlabs = TM / kVector, kSlabRows = BM / kSlabs;
    static GEMS_DI int slab_row(int slab, int r) { return slab * kSlabRows + r; }

    // Writes slab number `slab` of the result, kSlabRows rows of the tile, to shared memory.
    GEMS_DI void stage(int slab, Op *to, int pitch) const {
        to += thread_row() * kVector * pitch + thread_col() * kVector;
        GEMS_UNROLL for (int i = 0; i < kVector; i++) {
            GEMS_UNROLL for (int g = 0; g < TN / kVector; g++) {
                Vec<Op, kVector> v;
                GEMS_UNROLL for (int e = 0; e < kVector; e++) v.v[e] = acc[slab * kVector + i][g * kVector + e];
                store<kVector>(to + i * pitch + g * (BN / (TN / kVector)), v);
            }
        }
    }
};

}  // namespace gems
