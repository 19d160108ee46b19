// Attention of 16-bit floats on sm_90a. A block has a tile of queries, 64 rows for each of its warpgroups that multiply, and goes
// over the tiles of keys that they see, the last one first; one more warpgroup brings tiles by tensor maps, keys and values in a
// ring each. A warpgroup starts the scores of a tile, then the product of the weights before with their values, and takes
// exponentials while that runs. Warpgroups start their products in turns, so that the exponentials of one lie under the products
// of another. Weights go from the first product to the second in registers.
//
// The head gives, beside what attention.cuh needs: kD (head dimension, rounded up), kTileN (keys), kGroups (warpgroups that
// multiply), kStages (tiles of keys, and of values, in shared memory). Has run on an H200.
namespace {

constexpr int kTileM = kGroups * 64, kThreads = kGroups * 128 + 128, kChunks = (kD + 63) / 64; // of 64 columns
constexpr int kQueryChunk = kTileM * 128, kChunk = kTileN * 128; // bytes of 64 columns of a tile
constexpr int kQueryBytes = kQueryChunk * kChunks, kTileBytes = kChunk * kChunks;
constexpr int kFewRegisters = kGroups == 3 ? 32 : 24, kManyRegisters = kGroups == 3 ? 160 : 240;
static_assert(kD % 32 == 0 && kTileN % 16 == 0, "a tile has rows of 128 bytes, and 16 keys are multiplied at a time");

// A place in a ring, and the parity of its barriers' phase there.
struct Place {
    int stage = 0;
    uint32_t parity = 0;
    GEMS_DI void next() {
        if (++stage == kStages) stage = 0, parity ^= 1;
    }
};

// A ring of tiles and its barriers: full when a tile has come, empty when all warps have left it.
struct Ring {
    unsigned char *tiles;
    uint64_t *full, *empty;
    GEMS_DI Ring(unsigned char *tiles, uint64_t *bars) : tiles(tiles), full(bars), empty(bars + kStages) {}
    // Starts to bring the tile that begins at row y.
    GEMS_DI void bring(Place &at, const TensorMap &map, int y, int head, int batch) const {
        mbarrier_await(empty + at.stage, at.parity ^ 1);
        mbarrier_expect(full + at.stage, kTileBytes);
        GEMS_UNROLL for (int c = 0; c < kChunks; c++)
            tensor_copy(tiles + at.stage * kTileBytes + c * kChunk, map, full + at.stage, c * 64, y, head, batch);
        at.next();
    }
    GEMS_DI void await(const Place &at) const { mbarrier_await(full + at.stage, at.parity); }
    GEMS_DI void leave(Place &at, int lane) const {
        if (lane == 0) mbarrier_arrive(empty + at.stage);
        at.next();
    }
};

// What a thread has of the 64 rows of its warpgroup: rows lane / 4 and 8 below of its warp's 16, and of 8 columns two.
struct Rows {
    float top[2], sum[2], change[2];
    GEMS_DI Rows() {
        GEMS_UNROLL for (int h = 0; h < 2; h++) top[h] = -Limits<float>::inf(), sum[h] = 0, change[h] = 1;
    }
    // Makes weights of scores: exponentials below the largest score so far. change: of what was summed before.
    GEMS_DI void weigh(float (&score)[kTileN / 2], float scale) {
        GEMS_UNROLL for (int h = 0; h < 2; h++) {
            float largest = top[h];
            GEMS_UNROLL for (int i = 0; i < kTileN / 8; i++)
                largest = max_nan(largest, max_nan(score[4 * i + 2 * h], score[4 * i + 2 * h + 1]));
            largest = max_nan(largest, shuffle_xor(largest, 1));
            largest = max_nan(largest, shuffle_xor(largest, 2));
            const float base = largest == -Limits<float>::inf() ? 0.0f : largest * scale;
            change[h] = exp2_near(top[h] * scale - base);
            top[h] = largest;
            float added[2] = {0, 0};
            GEMS_UNROLL for (int i = 0; i < kTileN / 8; i++)
                GEMS_UNROLL for (int e = 0; e < 2; e++) {
                    float &v = score[4 * i + 2 * h + e];
                    v = exp2_near(gems::fma(v, scale, -base));
                    added[e] += v;
                }
            sum[h] = sum[h] * change[h] + (added[0] + added[1]);
        }
    }
    GEMS_DI void rescale(float (&out)[kD / 2]) const {
        GEMS_UNROLL for (int i = 0; i < kD / 8; i++)
            GEMS_UNROLL for (int e = 0; e < 4; e++) out[4 * i + e] *= change[e >> 1];
    }
};

// Takes the scores away that a row does not see. position: of the thread's first row; column: its first key.
GEMS_DI void hide(const AttentionParams &p, const Sequence &s, float (&score)[kTileN / 2], int position, int column) {
    GEMS_UNROLL for (int h = 0; h < 2; h++) {
        const int place = position + h * 8 + s.shift;
        const int last = lesser(s.keys - 1, place + p.right) - column, first = place - p.left - column;
        GEMS_UNROLL for (int i = 0; i < kTileN / 8; i++)
            GEMS_UNROLL for (int e = 0; e < 2; e++)
                if (i * 8 + e > last || i * 8 + e < first) score[4 * i + 2 * h + e] = -Limits<float>::inf();
    }
}

// Starts score = Q K^T.
GEMS_DI void start_scores(float (&score)[kTileN / 2], uint64_t queries, uint64_t keys) {
    wgmma_keep(score);
    wgmma_fence();
    GEMS_UNROLL for (int k = 0; k < kD / 16; k++)
        wgmma<Scalar, kTileN, false, false>(score, queries + ((k / 4 * kQueryChunk + k % 4 * 32) >> 4),
                                            keys + ((k / 4 * kChunk + k % 4 * 32) >> 4), k);
    wgmma_commit();
}

// Starts out += P V.
GEMS_DI void start_sums(float (&out)[kD / 2], const uint32_t (&weights)[kTileN / 16][4], uint64_t values) {
    wgmma_keep(out);
    wgmma_fence();
    GEMS_UNROLL for (int k = 0; k < kTileN / 16; k++)
        wgmma_registers<Scalar, kD, true>(out, weights[k], values + (k * 2048 >> 4), 1);
    wgmma_commit();
}

GEMS_DI void round_weights(uint32_t (&weights)[kTileN / 16][4], const float (&score)[kTileN / 2]) {
    GEMS_UNROLL for (int k = 0; k < kTileN / 16; k++)
        GEMS_UNROLL for (int i = 0; i < 4; i++) weights[k][i] = round_pair<Scalar>(score[8 * k + 2 * i], score[8 * k + 2 * i + 1]);
}

// The values behind the end of a sequence, which are those of another one, become 0: a weight of 0 would not hide a NaN.
GEMS_DI void clear_values(unsigned char *tile, int rows, int thread) {
    constexpr Vec<uint32_t, 4> kZero = {};
    for (int i = rows * 8 + thread; i < kTileN * 8; i += kGroups * 128)
        GEMS_UNROLL for (int c = 0; c < kChunks; c++) store<4>(reinterpret_cast<uint32_t *>(tile + c * kChunk + i * 16), kZero);
    copy_fence();
    part_sync<8>(kGroups * 128);
}

GEMS_DI void write_rows(const AttentionParams &p, const Sequence &s, const float (&out)[kD / 2], const Rows &rows, int position,
                        int lane) {
    GEMS_UNROLL for (int h = 0; h < 2; h++) {
        float total = rows.sum[h];
        total += shuffle_xor(total, 1);
        total += shuffle_xor(total, 2);
        const float inverse = total == 0 ? 0.0f : 1.0f / total;
        const int row = position + h * 8;
        const bool exists = row < s.queries;
        Scalar *to = s.rows(static_cast<Scalar *>(p.o), p.os, s.head, s.first_q) + row * p.os.row;
        GEMS_UNROLL for (int g = 0; g < kD / 32; g++) {
            uint32_t w[4];
            GEMS_UNROLL for (int i = 0; i < 4; i++) {
                const int at = (g * 4 + i) * 4 + h * 2;
                w[i] = round_pair<Scalar>(out[at] * inverse, out[at + 1] * inverse);
            }
            turn(w, lane);
            const int column = (g * 4 + (lane & 3)) * 8;
            if (exists && column < p.dim_v) store<4>(reinterpret_cast<uint32_t *>(to + column), Vec<uint32_t, 4>{w[0], w[1], w[2], w[3]});
        }
        if (exists && (lane & 3) == 0)
            static_cast<float *>(p.lse)[s.lse_place(p, s.head, row)] = logsumexp(p, rows.top[h] * ((float)p.scale * kLog2E), total);
    }
}

// What a block does between two results: a tile of the queries of a head, and the tiles of keys that they see.
struct Unit : Sequence {
    int first, tile0, count;
    // Units go over the heads of a section, whose keys and values fit in the cache, tile by tile: those that see most first.
    GEMS_DI static Unit at(const AttentionParams &p, uint32_t x) {
        const uint32_t each = (uint32_t)p.tiles * p.section, section = x / each, within = x - section * each;
        const uint32_t heads = lesser(p.section, p.batch * p.heads - (int)section * p.section), tile = within / heads;
        const int line = (int)(section * p.section + within - tile * heads), batch = line / p.heads;
        return Unit(p, batch, line - batch * p.heads, (p.tiles - 1 - (int)tile) * kTileM);
    }
    GEMS_DI Unit(const AttentionParams &p, int batch, int head, int row) : Sequence(p, batch, head), first(row) {
        const int begin = first_key(p, first), end = last_key(p, lesser(first + kTileM, queries) - 1);
        tile0 = begin / kTileN;
        count = end > begin ? (end - 1) / kTileN + 1 - tile0 : 0;
    }
    GEMS_DI bool exists() const { return first < queries; }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    attention(const __grid_constant__ AttentionParams p, const __grid_constant__ TensorMap map_q,
              const __grid_constant__ TensorMap map_k, const __grid_constant__ TensorMap map_v) {
    GEMS_DYN_SMEM(unsigned char, given);
    unsigned char *queries = given + (-shared_address(given) & 1023), *tiles = queries + kQueryBytes;
    uint64_t *full = reinterpret_cast<uint64_t *>(tiles + 2 * kStages * kTileBytes), *empty = full + 1; // of the queries
    uint64_t *told = full + 2, *heard = full + 3;                                                       // of the next unit
    const Ring keys(tiles, full + 4), values(tiles + kStages * kTileBytes, full + 4 + 2 * kStages);
    uint32_t *unit = reinterpret_cast<uint32_t *>(values.empty + kStages);
    const uint32_t units = (uint32_t)p.tiles * p.batch * p.heads;
    const int warp = shuffle_from((int)threadIdx.x >> 5, 0), lane = (int)threadIdx.x & 31;
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1), mbarrier_init(empty, kGroups * 4);
        mbarrier_init(told, 1), mbarrier_init(heard, kGroups * 4);
        GEMS_UNROLL for (int i = 0; i < kStages; i++) {
            mbarrier_init(keys.full + i, 1), mbarrier_init(keys.empty + i, kGroups * 4);
            mbarrier_init(values.full + i, 1), mbarrier_init(values.empty + i, kGroups * 4);
        }
        mbarrier_init_done();
    }
    __syncthreads();

    Place key_at, value_at;
    uint32_t parity = 0, turn_parity = 0; // of the queries, of the units
    if (warp < 4) {
        registers_down<kFewRegisters>();
        if (warp == 0 && elect_one()) {
#pragma unroll 1
            for (uint32_t x = blockIdx.x, next; x < units; x = next, turn_parity ^= 1) {
                const Unit u = Unit::at(p, x);
                next = gridDim.x + (p.counter ? atomicAdd(p.counter, 1u) : x);
                if (u.exists() && u.count) {
                    const int q_batch = p.cu_q ? 0 : u.batch, k_batch = p.cu_k ? 0 : u.batch;
                    const int q0 = (int)u.first_q + u.first, k0 = (int)u.first_k + u.tile0 * kTileN;
                    mbarrier_await(empty, parity ^ 1);
                    mbarrier_expect(full, kQueryBytes);
                    GEMS_UNROLL for (int c = 0; c < kChunks; c++)
                        tensor_copy(queries + c * kQueryChunk, map_q, full, c * 64, q0, u.head, q_batch);
                    parity ^= 1;
#pragma unroll 1
                    for (int j = u.count - 1; j >= -1; j--) {
                        if (j >= 0) keys.bring(key_at, map_k, k0 + j * kTileN, u.kv, k_batch);
                        if (j + 1 < u.count) values.bring(value_at, map_v, k0 + (j + 1) * kTileN, u.kv, k_batch);
                    }
                }
                mbarrier_await(heard, turn_parity ^ 1);
                atomicExch(unit, next);
                mbarrier_arrive(told);
            }
        }
    } else {
        registers_up<kManyRegisters>();
        const int group = (warp >> 2) - 1, next = group + 1 == kGroups ? 0 : group + 1;
        const float scale = (float)p.scale * kLog2E;
        const uint64_t query_tile = tile_descriptor(shared_address(queries) + group * 8192);
        const uint64_t key_tiles = tile_descriptor(shared_address(keys.tiles));
        const uint64_t value_tiles = chunk_descriptor(shared_address(values.tiles), kChunk);
        if (group + 1 == kGroups) part_arrive(1, 256);
#pragma unroll 1
        for (uint32_t x = blockIdx.x; x < units; turn_parity ^= 1) {
            const Unit u = Unit::at(p, x);
            if (u.exists()) {
                const int low = u.first + group * 64, position = low + (warp & 3) * 16 + (lane >> 2);
                Rows rows;
                float out[kD / 2];
                GEMS_UNROLL for (int i = 0; i < kD / 2; i++) out[i] = 0.0f;
                if (u.count) {
                    // Whether every row of the warpgroup sees every key of a tile.
                    const auto whole = [&](int key) {
                        return key + kTileN <= u.keys && key + kTileN - 1 - low - u.shift <= p.right &&
                               key - (low + 63) - u.shift >= -p.left;
                    };
                    float score[kTileN / 2];
                    uint32_t weights[kTileN / 16][4];
                    int key = (u.tile0 + u.count - 1) * kTileN;
                    mbarrier_await(full, parity);
                    parity ^= 1;
                    keys.await(key_at);
                    start_scores(score, query_tile, key_tiles + (key_at.stage * kTileBytes >> 4));
                    wgmma_wait<0>();
                    wgmma_keep(score);
                    keys.leave(key_at, lane);
                    if (u.count == 1 && lane == 0) mbarrier_arrive(empty);
                    if (!whole(key)) hide(p, u, score, position, key + (lane & 3) * 2);
                    rows.weigh(score, scale);
                    round_weights(weights, score);
                    if ((p.cu_k || p.used_k) && key + kTileN > u.keys) {
                        values.await(value_at);
                        clear_values(values.tiles + value_at.stage * kTileBytes, u.keys - key, (int)threadIdx.x - 128);
                    }
                    if (u.count > 1) keys.await(key_at);
#pragma unroll 1
                    for (int j = u.count - 2; j >= 0; j--) {
                        key -= kTileN;
                        part_wait(1 + group, 256);
                        start_scores(score, query_tile, key_tiles + (key_at.stage * kTileBytes >> 4));
                        rows.rescale(out);
                        values.await(value_at);
                        start_sums(out, weights, value_tiles + (value_at.stage * kTileBytes >> 4));
                        part_arrive(1 + next, 256);
                        wgmma_wait<1>();
                        wgmma_keep(score);
                        keys.leave(key_at, lane);
                        if (!j && lane == 0) mbarrier_arrive(empty);
                        if (!whole(key)) hide(p, u, score, position, key + (lane & 3) * 2);
                        rows.weigh(score, scale);
                        // The exponentials stay before the wait for the sums because this one stands between.
                        wgmma_keep(score);
                        if (j) keys.await(key_at);
                        wgmma_wait<0>();
                        wgmma_keep(out);
                        values.leave(value_at, lane);
                        round_weights(weights, score);
                    }
                    rows.rescale(out);
                    values.await(value_at);
                    start_sums(out, weights, value_tiles + (value_at.stage * kTileBytes >> 4));
                    wgmma_wait<0>();
                    wgmma_keep(out);
                    values.leave(value_at, lane);
                }
                write_rows(p, u, out, rows, position, lane);
            }
            mbarrier_await(told, turn_parity);
            x = shuffle_from(lane == 0 ? atomicAdd(unit, 0u) : 0u, 0);
            if (lane == 0) mbarrier_arrive(heard);
        }
        if (group == 0) part_wait(1, 256);
    }
}

// Before it, where blocks draw their tiles.
extern "C" __global__ void attention_begin(uint32_t *counter) {
    if (threadIdx.x == 0) *counter = 0;
}
