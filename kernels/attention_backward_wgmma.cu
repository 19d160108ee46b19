// The gradients of attention of 16-bit floats on sm_90a, in the passes of attention_backward.cu: one over tiles of queries, one
// over tiles of keys. A block has a tile of rows of both operands of its side, 64 for each of the warpgroups that multiply; one more
// warpgroup brings the tiles of the other side by tensor maps, in a ring. A warpgroup makes scores and changes of its rows, and both
// go on from registers: as they lie behind a product, so the next one takes them. No sum has another order from run to run.
//
// The head gives, beside what attention.cuh needs: kD (head dimension, rounded up), kQueryGroups and kKeyGroups (warpgroups that
// multiply), kQueryTile and kKeyTile (rows of the other side), kQueryStages and kKeyStages (of the rings). Has run on an H200.
namespace {

constexpr int kChunks = (kD + 63) / 64; // of 64 columns
static_assert(kD == 64 || kD == 96 || kD == 128, "what a thread sums has its place in registers");

// logsumexp as an exponent of 2, and delta, of each query; of what does not exist the first is infinite, so that weights are 0.
struct Line {
    float log, delta;
};

// A place in a ring, and the parity of its barriers' phase there.
template <int STAGES> struct Place {
    int stage = 0;
    uint32_t parity = 0;
    GEMS_DI void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// KEYS: rows are keys and values, and the sums are dk and dv; else rows are queries and dO, and the sum is dq.
template <bool KEYS> struct Pass {
    static constexpr int kGroups = KEYS ? kKeyGroups : kQueryGroups, kTileN = KEYS ? kKeyTile : kQueryTile;
    static constexpr int kStages = KEYS ? kKeyStages : kQueryStages;
    static constexpr int kTileM = kGroups * 64, kThreads = kGroups * 128 + 128;
    static constexpr int kRowChunk = kTileM * 128, kRowBytes = kRowChunk * kChunks; // of an operand of the block's rows
    static constexpr int kChunk = kTileN * 128, kTileBytes = kChunk * kChunks;     // of one of a tile of the other side
    static constexpr int kStageBytes = 2 * kTileBytes;
    static constexpr int kFew = kGroups == 3 ? 32 : 24, kMany = kGroups == 3 ? 160 : 240; // registers

    // Starts scores = rows times the rows of a tile.
    GEMS_DI static void start_scores(float (&score)[kTileN / 2], uint64_t rows, uint64_t tile) {
        wgmma_keep(score);
        wgmma_fence();
        GEMS_UNROLL for (int k = 0; k < kD / 16; k++)
            wgmma<Scalar, kTileN, false, false>(score, rows + ((k / 4 * kRowChunk + k % 4 * 32) >> 4),
                                                tile + ((k / 4 * kChunk + k % 4 * 32) >> 4), k);
        wgmma_commit();
    }
    // The rows of a tile behind the end of a sequence, which are those of another one, become 0: a weight of 0 would not hide a NaN.
    GEMS_DI static void clear(unsigned char *tile, int rows, int thread) {
        constexpr Vec<uint32_t, 4> kZero = {};
        for (int i = rows * 8 + thread; i < kTileN * 8; i += kGroups * 128)
            GEMS_UNROLL for (int c = 0; c < 2 * kChunks; c++) store<4>(reinterpret_cast<uint32_t *>(tile + c * kChunk + i * 16), kZero);
        copy_fence();
        part_sync<8>(kGroups * 128);
    }
    // Starts sums += weights times the rows of a tile.
    GEMS_DI static void start_sums(float (&sums)[kD / 2], const uint32_t (&weights)[kTileN / 16][4], uint64_t tile) {
        wgmma_keep(sums);
        wgmma_fence();
        GEMS_UNROLL for (int k = 0; k < kTileN / 16; k++)
            wgmma_registers<Scalar, kD, true>(sums, weights[k], tile + (k * 2048 >> 4), 1);
        wgmma_commit();
    }
    GEMS_DI static void round(uint32_t (&weights)[kTileN / 16][4], const float (&score)[kTileN / 2]) {
        GEMS_UNROLL for (int k = 0; k < kTileN / 16; k++)
            GEMS_UNROLL for (int i = 0; i < 4; i++) weights[k][i] = round_pair<Scalar>(score[8 * k + 2 * i], score[8 * k + 2 * i + 1]);
    }
};

// The rows of the other side that a row of this side sees: first and last.
template <bool KEYS> GEMS_DI int first_seen(const AttentionParams &p, const Sequence &s, int row) {
    return KEYS ? row - s.shift - p.right : row + s.shift - p.left;
}
template <bool KEYS> GEMS_DI int last_seen(const AttentionParams &p, const Sequence &s, int row) {
    return KEYS ? lesser(s.queries - 1, row - s.shift + p.left) : lesser(s.keys - 1, row + s.shift + p.right);
}

// Where the line of a query is.
GEMS_DI int64_t line_place(const AttentionParams &p, const Sequence &s, int head, int position) {
    return p.cu_q ? head * p.rows_q + s.first_q + position : ((int64_t)s.batch * p.heads + head) * p.queries + position;
}

// Writes a thread's part of a gradient, rounded once: rows `row` and 8 below of those that exist.
GEMS_DI void write_sums(const float (&sums)[kD / 2], float scale, Scalar *to, int64_t step, int row, int rows, int dim, int lane) {
    GEMS_UNROLL for (int h = 0; h < 2; h++) {
        const int r = row + h * 8;
        GEMS_UNROLL for (int g = 0; g < kD / 32; g++) {
            uint32_t w[4];
            GEMS_UNROLL for (int i = 0; i < 4; i++) {
                const int at = (g * 4 + i) * 4 + h * 2;
                w[i] = round_pair<Scalar>(sums[at] * scale, sums[at + 1] * scale);
            }
            turn(w, lane);
            const int column = (g * 4 + (lane & 3)) * 8;
            if (r < rows && column < dim)
                store<4>(reinterpret_cast<uint32_t *>(to + r * step + column), Vec<uint32_t, 4>{w[0], w[1], w[2], w[3]});
        }
    }
}

// What a block does between two results: a tile of rows of a head, and the rows of the other side that they see.
template <bool KEYS> struct Unit : Sequence {
    int first, rows_end, start, end, steps;
    // Units go over the heads of a section, whose other side fits in the cache, tile by tile: those that see most first.
    GEMS_DI static Unit at(const AttentionParams &p, uint32_t x) {
        const int group = KEYS ? p.group : 1, heads = p.heads / group;
        const uint32_t each = (uint32_t)p.tiles * p.section, section = x / each, within = x - section * each;
        const uint32_t some = lesser(p.section, p.batch * heads - (int)section * p.section), tile = within / some;
        const int line = (int)(section * p.section + within - tile * some), batch = line / heads;
        return Unit(p, batch, (line - batch * heads) * group, (KEYS ? (int)tile : p.tiles - 1 - (int)tile) * Pass<KEYS>::kTileM);
    }
    GEMS_DI Unit(const AttentionParams &p, int batch, int head, int row) : Sequence(p, batch, head), first(row) {
        constexpr int kTileN = Pass<KEYS>::kTileN;
        rows_end = lesser(first + Pass<KEYS>::kTileM, KEYS ? keys : queries);
        start = greater(first_seen<KEYS>(p, *this, first), 0), end = last_seen<KEYS>(p, *this, rows_end - 1) + 1;
        steps = end > start && first < rows_end ? (end - start + kTileN - 1) / kTileN * (KEYS ? p.group : 1) : 0;
    }
};

// mine: of the block's rows; other: of the tiles. The first are of what scores are made of, the second of dO and values.
template <bool KEYS>
GEMS_DI void gradients(const AttentionParams &p, unsigned char *given, const TensorMap &mine, const TensorMap &mine_v,
                       const TensorMap &other, const TensorMap &other_v) {
    typedef Pass<KEYS> P;
    constexpr int kTileN = P::kTileN, kStages = P::kStages;
    unsigned char *rows = given + (-shared_address(given) & 1023), *ring = rows + 2 * P::kRowBytes;
    uint64_t *come = reinterpret_cast<uint64_t *>(ring + kStages * P::kStageBytes), *gone = come + 1; // the rows
    uint64_t *told = come + 2, *heard = come + 3; // of the next unit
    uint64_t *full = come + 4, *empty = full + kStages;
    uint32_t *unit = reinterpret_cast<uint32_t *>(empty + kStages);
    Line *lines = reinterpret_cast<Line *>(come + 32);
    const int warp = shuffle_from((int)threadIdx.x >> 5, 0), lane = (int)threadIdx.x & 31;
    if (threadIdx.x == 0) {
        mbarrier_init(come, 1), mbarrier_init(gone, P::kGroups * 4);
        mbarrier_init(told, 1), mbarrier_init(heard, P::kGroups * 4);
        GEMS_UNROLL for (int i = 0; i < kStages; i++) mbarrier_init(full + i, 1), mbarrier_init(empty + i, P::kGroups * 4);
        mbarrier_init_done();
    }
    __syncthreads();

    const uint32_t units = (uint32_t)p.tiles * (p.batch * (p.heads / (KEYS ? p.group : 1)));
    Place<kStages> at;
    uint32_t parity = 0, turn_parity = 0; // of the rows, of the units
    if (warp < 4) {
        registers_down<P::kFew>();
        if (warp == 0 && elect_one()) {
#pragma unroll 1
            for (uint32_t x = blockIdx.x, next; x < units; x = next, turn_parity ^= 1) {
                const Unit<KEYS> u = Unit<KEYS>::at(p, x);
                next = gridDim.x + (p.counter ? atomicAdd(p.counter, 1u) : x);
                if (u.steps) {
                    const int q_batch = p.cu_q ? 0 : u.batch, k_batch = p.cu_k ? 0 : u.batch;
                    const int mine_batch = KEYS ? k_batch : q_batch, other_batch = KEYS ? q_batch : k_batch;
                    const int mine_row = (int)(KEYS ? u.first_k : u.first_q) + u.first;
                    const int other_row = (int)(KEYS ? u.first_q : u.first_k);
                    mbarrier_await(gone, parity ^ 1);
                    parity ^= 1;
                    mbarrier_expect(come, 2 * P::kRowBytes);
                    GEMS_UNROLL for (int c = 0; c < kChunks; c++) {
                        unsigned char *to = rows + c * P::kRowChunk;
                        tensor_copy(to, mine, come, c * 64, mine_row, KEYS ? u.kv : u.head, mine_batch);
                        tensor_copy(to + P::kRowBytes, mine_v, come, c * 64, mine_row, KEYS ? u.kv : u.head, mine_batch);
                    }
#pragma unroll 1
                    for (int h = 0; h < (KEYS ? p.group : 1); h++) {
                        const int head = KEYS ? u.head + h : u.kv;
#pragma unroll 1
                        for (int begin = u.start; begin < u.end; begin += kTileN) {
                            unsigned char *to = ring + at.stage * P::kStageBytes;
                            mbarrier_await(empty + at.stage, at.parity ^ 1);
                            mbarrier_expect(full + at.stage, P::kStageBytes);
                            GEMS_UNROLL for (int c = 0; c < kChunks; c++)
                                tensor_copy(to + c * P::kChunk, other, full + at.stage, c * 64, other_row + begin, head, other_batch);
                            GEMS_UNROLL for (int c = 0; c < kChunks; c++)
                                tensor_copy(to + P::kTileBytes + c * P::kChunk, other_v, full + at.stage, c * 64, other_row + begin,
                                            head, other_batch);
                            at.next();
                        }
                    }
                }
                mbarrier_await(heard, turn_parity ^ 1);
                atomicExch(unit, next);
                mbarrier_arrive(told);
            }
        }
    } else {
        registers_up<P::kMany>();
        const int part = (warp >> 2) - 1, thread = (int)threadIdx.x & 127;
        const int row = part * 64 + (warp & 3) * 16 + (lane >> 2); // the thread's first, of the block's
        const float scale = (float)p.scale * kLog2E;
        const uint64_t my_rows = tile_descriptor(shared_address(rows) + part * 8192), my_values = my_rows + (P::kRowBytes >> 4);
        const uint64_t tile_rows = tile_descriptor(shared_address(ring));
        const uint64_t tile_sums = chunk_descriptor(shared_address(ring), P::kChunk);
        if constexpr (KEYS) lines += part * 2 * kTileN;
        int side = 0; // of two, where the lines of a tile lie
#pragma unroll 1
        for (uint32_t x = blockIdx.x; x < units; turn_parity ^= 1) {
            const Unit<KEYS> s = Unit<KEYS>::at(p, x);
            const int low = s.first + part * 64; // the warpgroup's first row
            // Of a head that is `h` behind the first.
            const auto line_at = [&](int h, int position) {
                const Line nothing = {Limits<float>::inf(), 0.0f};
                return position < s.queries ? static_cast<const Line *>(p.delta)[line_place(p, s, s.head + h, position)] : nothing;
            };
            Line mine_at[2]; // of the thread's queries; where queries are the other side, they lie beside its tiles
            Line next = {};
            if constexpr (KEYS) {
                if (thread < kTileN) next = line_at(0, s.start + thread);
            } else {
                GEMS_UNROLL for (int i = 0; i < 2; i++) mine_at[i] = line_at(0, s.first + row + i * 8);
            }
            float sums[kD / 2], sums_v[KEYS ? kD / 2 : 1];
            GEMS_UNROLL for (int i = 0; i < kD / 2; i++) sums[i] = 0.0f;
            GEMS_UNROLL for (int i = 0; i < (KEYS ? kD / 2 : 1); i++) sums_v[i] = 0.0f;
            float score[kTileN / 2], change[kTileN / 2];
            uint32_t weights[KEYS ? kTileN / 16 : 1][4], changes[kTileN / 16][4]; // what products read until they are complete
            if (s.steps) {
                mbarrier_await(come, parity);
                parity ^= 1;
            }
            int begin = s.start, h = 0;
#pragma unroll 1
            for (int step = 0; step < s.steps; step++, side ^= 1) {
                const Line *beside = lines + side * kTileN + (lane & 3) * 2;
                const int here = begin;
                const uint32_t offset = (uint32_t)(at.stage * P::kStageBytes) >> 4;
                mbarrier_await(full + at.stage, at.parity);
                if ((p.cu_q || p.cu_k) && here + kTileN > (KEYS ? s.queries : s.keys))
                    P::clear(ring + at.stage * P::kStageBytes, (KEYS ? s.queries : s.keys) - here, (int)threadIdx.x - 128);
                P::start_scores(score, my_rows, tile_rows + offset);
                P::start_scores(change, my_values, tile_rows + (offset + (P::kTileBytes >> 4)));
                begin += kTileN;
                if (begin >= s.end) begin = s.start, h++;
                if constexpr (KEYS) {
                    if (thread < kTileN) {
                        lines[side * kTileN + thread] = next;
                        if (step + 1 < s.steps) next = line_at(h, begin + thread);
                    }
                    part_wait(1 + part, 128);
                }
                wgmma_wait<1>();
                wgmma_keep(score);
                // Unless every row of the warpgroup sees every row of the tile.
                if (first_seen<KEYS>(p, s, low + 63) > here || last_seen<KEYS>(p, s, low) < here + kTileN - 1) {
                    GEMS_UNROLL for (int i = 0; i < 2; i++) {
                        const int column = here + (lane & 3) * 2, from = first_seen<KEYS>(p, s, s.first + row + i * 8) - column;
                        const int to = last_seen<KEYS>(p, s, s.first + row + i * 8) - column;
                        GEMS_UNROLL for (int n = 0; n < kTileN / 8; n++)
                            GEMS_UNROLL for (int e = 0; e < 2; e++)
                                if (n * 8 + e > to || n * 8 + e < from) score[4 * n + 2 * i + e] = -Limits<float>::inf();
                    }
                }
                GEMS_UNROLL for (int n = 0; n < kTileN / 8; n++)
                    GEMS_UNROLL for (int e = 0; e < 2; e++)
                        GEMS_UNROLL for (int i = 0; i < 2; i++) {
                            float &v = score[4 * n + 2 * i + e];
                            v = exp2_near(gems::fma(v, scale, -(KEYS ? beside[n * 8 + e].log : mine_at[i].log)));
                        }
                if constexpr (KEYS) {
                    P::round(weights, score);
                    P::start_sums(sums_v, weights, tile_sums + (offset + (P::kTileBytes >> 4)));
                    wgmma_wait<1>();
                } else {
                    wgmma_wait<0>();
                }
                wgmma_keep(change);
                GEMS_UNROLL for (int n = 0; n < kTileN / 8; n++)
                    GEMS_UNROLL for (int e = 0; e < 2; e++)
                        GEMS_UNROLL for (int i = 0; i < 2; i++) {
                            const int c = 4 * n + 2 * i + e;
                            change[c] = score[c] * (change[c] - (KEYS ? beside[n * 8 + e].delta : mine_at[i].delta));
                        }
                P::round(changes, change);
                P::start_sums(sums, changes, tile_sums + offset);
                if (step + 1 == s.steps && lane == 0) mbarrier_arrive(gone);
                wgmma_wait<0>();
                wgmma_keep(sums);
                if constexpr (KEYS) wgmma_keep(sums_v);
                if (lane == 0) mbarrier_arrive(empty + at.stage);
                at.next();
            }
            const Strides &strides = KEYS ? p.dks : p.dqs;
            Scalar *to = s.rows(static_cast<Scalar *>(KEYS ? p.dk : p.dq), strides, KEYS ? s.kv : s.head, KEYS ? s.first_k : s.first_q);
            write_sums(sums, (float)p.scale, to, strides.row, s.first + row, s.rows_end, p.dim, lane);
            if constexpr (KEYS) {
                to = s.rows(static_cast<Scalar *>(p.dv), p.dvs, s.kv, s.first_k);
                write_sums(sums_v, 1.0f, to, p.dvs.row, s.first + row, s.rows_end, p.dim_v, lane);
            }
            mbarrier_await(told, turn_parity);
            x = shuffle_from(lane == 0 ? atomicAdd(unit, 0u) : 0u, 0);
            if (lane == 0) mbarrier_arrive(heard);
        }
    }
}

}  // namespace

// What the passes need of each query, and the counters from which their blocks draw. Some lanes have a row, 8 of its columns each.
extern "C" __global__ void __launch_bounds__(256) attention_delta(const __grid_constant__ AttentionParams p) {
    constexpr int kLanes = kChunks * 8, kRows = 256 / kLanes;
    const int64_t rows = (int64_t)p.batch * p.heads * p.queries;
    const int column = (int)threadIdx.x % kLanes * 8;
    if (p.counter && blockIdx.x == 0 && threadIdx.x < 2) p.counter[threadIdx.x] = 0;
    for (int64_t base = (int64_t)blockIdx.x * kRows; base < rows; base += (int64_t)gridDim.x * kRows) {
        const int64_t row = base + threadIdx.x / kLanes;
        const bool exists = row < rows;
        // Most have so few rows that they need no division of 64 bits.
        const int line = !exists ? 0 : rows <= Limits<int32_t>::max() ? (int)row / p.queries : (int)(row / p.queries);
        const int position = exists ? (int)(row - (int64_t)line * p.queries) : 0;
        const int head = line % p.heads, batch = line / p.heads;
        float sum = 0;
        if (exists && column < p.dim_v) {
            const auto g = load<8>(static_cast<const Scalar *>(p.grad) + batch * p.gs.batch + head * p.gs.head + position * p.gs.row + column);
            const auto o = load<8>(static_cast<const Scalar *>(p.o) + batch * p.os.batch + head * p.os.head + position * p.os.row + column);
            GEMS_UNROLL for (int i = 0; i < 8; i++) sum += to_op(g.v[i]) * to_op(o.v[i]);
        }
        GEMS_UNROLL for (int i = kLanes / 2; i; i /= 2) sum += shuffle_xor(sum, i);
        if (exists && column == 0) {
            const float log = static_cast<const float *>(p.lse)[batch * p.lse_batch + head * p.lse_head + position * p.lse_row];
            static_cast<Line *>(const_cast<void *>(p.delta))[row] = {
                log == -Limits<float>::inf() ? Limits<float>::inf() : log * kLog2E, sum};
        }
    }
}

extern "C" __global__ void __launch_bounds__(Pass<false>::kThreads, 1)
    attention_queries(const __grid_constant__ AttentionParams p, const __grid_constant__ TensorMap map_q,
                      const __grid_constant__ TensorMap map_g, const __grid_constant__ TensorMap map_k,
                      const __grid_constant__ TensorMap map_v) {
    GEMS_DYN_SMEM(unsigned char, given);
    gradients<false>(p, given, map_q, map_g, map_k, map_v);
}

extern "C" __global__ void __launch_bounds__(Pass<true>::kThreads, 1)
    attention_keys(const __grid_constant__ AttentionParams p, const __grid_constant__ TensorMap map_k,
                   const __grid_constant__ TensorMap map_v, const __grid_constant__ TensorMap map_q,
                   const __grid_constant__ TensorMap map_g) {
    GEMS_DYN_SMEM(unsigned char, given);
    gradients<true>(p, given, map_k, map_v, map_q, map_g);
}
