// The gradients of attention of 16-bit floats on the tensor cores: the passes of attention_backward.cu, in one text. A block
// has a tile of rows in shared memory, queries and dO or keys and values, and goes over the other side in a ring of two tiles.
//
// The head gives, beside what attention_mma.cuh needs: kTileN, the rows of the other side.
namespace {

constexpr int kTileM = kWarps / kAcross * 16;
constexpr int kPitch = pitch_of(kD), kPitchV = pitch_of(kDV);
constexpr int kSecond = kTileN * kPitch, kStage = kSecond + kTileN * kPitchV;
typedef float Scores[kTileN / 8][4];

// acc += 16 rows of a from row0 times the kTileN rows of b.
template <int D, int PITCH> GEMS_DI void rows_by_rows(Scores &acc, const Scalar *a, const Scalar *b, int row0) {
    const int matrix = ((int)threadIdx.x & 31) >> 3, line = (int)threadIdx.x & 7;
    GEMS_UNROLL for (int n = 0; n < kTileN / 8; n++)
        GEMS_UNROLL for (int e = 0; e < 4; e++) acc[n][e] = 0;
    GEMS_UNROLL for (int k = 0; k < D / 16; k++) {
        uint32_t x[4];
        ldmatrix_x4(x, a + place<PITCH>(row0 + (matrix & 1) * 8 + line, k * 2 + (matrix >> 1)));
        GEMS_UNROLL for (int n = 0; n < kTileN / 16; n++) {
            uint32_t y[4];
            ldmatrix_x4(y, b + place<PITCH>(n * 16 + (matrix >> 1) * 8 + line, k * 2 + (matrix & 1)));
            mma_m16n8k16<Scalar>(acc[2 * n], x, y);
            mma_m16n8k16<Scalar>(acc[2 * n + 1], x, y + 2);
        }
    }
}

// acc += 16 rows of weights times COLUMNS columns of b from column0.
template <int COLUMNS, int PITCH>
GEMS_DI void weights_by_rows(float (&acc)[COLUMNS / 8][4], const Scores &w, const Scalar *b, int column0) {
    const int matrix = ((int)threadIdx.x & 31) >> 3, line = (int)threadIdx.x & 7;
    GEMS_UNROLL for (int k = 0; k < kTileN / 16; k++) {
        uint32_t x[4];
        GEMS_UNROLL for (int i = 0; i < 4; i++)
            x[i] = round_pair<Scalar>(w[2 * k + i / 2][i % 2 * 2], w[2 * k + i / 2][i % 2 * 2 + 1]);
        GEMS_UNROLL for (int n = 0; n < COLUMNS / 16; n++) {
            uint32_t y[4];
            ldmatrix_x4_trans(y, b + place<PITCH>(k * 16 + (matrix & 1) * 8 + line, column0 / 8 + n * 2 + (matrix >> 1)));
            mma_m16n8k16<Scalar>(acc[2 * n], x, y);
            mma_m16n8k16<Scalar>(acc[2 * n + 1], x, y + 2);
        }
    }
}

// Writes a warp's part of a gradient, rounded once.
template <int COLUMNS>
GEMS_DI void write_rows(const float (&acc)[COLUMNS / 8][4], float scale, Scalar *to, int64_t row, int row0, int rows,
                        int column0, int dim, bool wide) {
    const int lane = (int)threadIdx.x & 31;
    GEMS_UNROLL for (int h = 0; h < 2; h++) {
        int r = row0 + h * 8 + (lane >> 2);
        if (r >= rows) continue;
        GEMS_UNROLL for (int n = 0; n < COLUMNS / 8; n++) {
            int c = column0 + n * 8 + (lane & 3) * 2;
            Scalar *at = to + r * row + c;
            float low = acc[n][2 * h] * scale, high = acc[n][2 * h + 1] * scale;
            if (wide && c + 1 < dim) {
                store<1>(reinterpret_cast<uint32_t *>(at), Vec<uint32_t, 1>{{round_pair<Scalar>(low, high)}});
            } else {
                if (c < dim) at[0] = from_op<Scalar>(low);
                if (c + 1 < dim) at[1] = from_op<Scalar>(high);
            }
        }
    }
}

// KEYS: rows are keys and values, and the sums are dk and dv; else rows are queries and dO, and the sum is dq.
template <bool KEYS> GEMS_DI void gradients(const AttentionParams &p, Scalar *shared) {
    Scalar *mine = shared, *mine_v = mine + kTileM * kPitch, *ring = mine_v + kTileM * kPitchV;
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31, group = KEYS ? p.group : 1;
    const int row0 = warp / kAcross * 16, column0 = warp % kAcross * (kD / kAcross);
    const int column0_v = warp % kAcross * (kDV / kAcross);
    const Part part(p, p.heads / group);
    const Sequence s(p, part.batch, part.head * group);
    const int first = part.tile * kTileM, rows = lesser(kTileM, (KEYS ? s.keys : s.queries) - first);
    const int start = KEYS ? greater(first - s.shift - p.right, 0) : s.first_key(p, first);
    const int end = KEYS ? lesser(s.queries, first + rows - s.shift + p.left) : s.last_key(p, first + rows - 1);
    const int tiles = end > start ? (end - start + kTileN - 1) / kTileN : 0, steps = tiles * group;
    const Keys keys(p, s, p.k, p.ks), values(p, s, p.v, p.vs);
    const Keys queries(s.rows(static_cast<const Scalar *>(p.q), p.qs, s.head, 0), p.qs.row);
    const Keys grads(s.rows(static_cast<const Scalar *>(p.grad), p.gs, s.head, 0), p.gs.row);
    const Scalar *safe = keys.base;
    // Logsumexp, an exponent of 2 here once read, and delta of the rows of queries.
    const float *logs = static_cast<const float *>(p.lse) + s.lse_place(p, s.head, 0);
    const float *deltas = static_cast<const float *>(p.delta) + ((int64_t)s.batch * p.heads + s.head) * p.queries;
    float *lines = reinterpret_cast<float *>(ring + 2 * kStage);
    auto bring_step = [&](int step, int stage) {
        const int h = step / tiles, begin = start + (step - h * tiles) * kTileN;
        Scalar *tile = ring + stage * kStage;
        bring<kTileN, kD, kPitch>(tile, end - begin, p.dim, safe, [&](int r) {
            return KEYS ? queries.at(begin + r) + h * p.qs.head : keys.at(begin + r);
        });
        bring<kTileN, kDV, kPitchV>(tile + kSecond, end - begin, p.dim_v, safe, [&](int r) {
            return KEYS ? grads.at(begin + r) + h * p.gs.head : values.at(begin + r);
        });
        if (KEYS && (int)threadIdx.x < kTileN) {
            const int c = begin + (int)threadIdx.x, at = stage * 2 * kTileN + (int)threadIdx.x;
            lines[at] = c < end ? logs[h * p.lse_head + c * p.lse_row] * kLog2E : 0.0f;
            lines[at + kTileN] = c < end ? deltas[(int64_t)h * p.queries + c] : 0.0f;
        }
    };
    bring<kTileM, kD, kPitch>(mine, rows, p.dim, safe,
                              [&](int r) { return KEYS ? keys.at(first + r) : queries.at(first + r); });
    bring<kTileM, kDV, kPitchV>(mine_v, rows, p.dim_v, safe,
                                [&](int r) { return KEYS ? values.at(first + r) : grads.at(first + r); });

    float sums[kD / kAcross / 8][4], sums_v[KEYS ? kDV / kAcross / 8 : 1][4];
    GEMS_UNROLL for (int n = 0; n < kD / kAcross / 8; n++)
        GEMS_UNROLL for (int e = 0; e < 4; e++) sums[n][e] = 0;
    GEMS_UNROLL for (int n = 0; n < (KEYS ? kDV / kAcross / 8 : 1); n++)
        GEMS_UNROLL for (int e = 0; e < 4; e++) sums_v[n][e] = 0;
    float log[2], delta[2]; // of a row of queries; where queries are the other side, they lie beside its tiles
    if constexpr (!KEYS) {
        GEMS_UNROLL for (int i = 0; i < 2; i++) {
            int r = row0 + i * 8 + (lane >> 2);
            log[i] = r < rows ? logs[(first + r) * p.lse_row] * kLog2E : 0.0f;
            delta[i] = r < rows ? deltas[first + r] : 0.0f;
        }
    }

    // The first round only brings.
#pragma unroll 1
    for (int step = -1, stage = 1; step < steps; step++, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();
        if (step + 1 < steps) bring_step(step + 1, stage ^ 1);
        cp_async_commit();
        if (step < 0) continue;
        const Scalar *tile = ring + stage * kStage;
        const int h = step / tiles, begin = start + (step - h * tiles) * kTileN, head = s.head + h;
        Scores score, change;
        rows_by_rows<kD, kPitch>(score, mine, tile, row0);
        rows_by_rows<kDV, kPitchV>(change, mine_v, tile + kSecond, row0);
        GEMS_UNROLL for (int n = 0; n < kTileN / 8; n++) {
            const int column = begin + n * 8 + (lane & 3) * 2;
            if constexpr (KEYS) {
                GEMS_UNROLL for (int i = 0; i < 2; i++) {
                    log[i] = lines[stage * 2 * kTileN + column - begin + i];
                    delta[i] = lines[stage * 2 * kTileN + kTileN + column - begin + i];
                }
            }
            GEMS_UNROLL for (int e = 0; e < 4; e++) {
                const int r = row0 + e / 2 * 8 + (lane >> 2), c = column + e % 2;
                const int position = KEYS ? c : first + r, key = KEYS ? first + r : c, at = KEYS ? e % 2 : e / 2;
                const bool seen = (r < rows) & (c < end) & s.sees(p, position, key);
                float w, stays = 1;
                if constexpr (kMask || kDropout) {
                    w = 0;
                    if (seen) {
                        const Mask *mask = mask_row(p, s.batch, head, position);
                        const float x = exponent(p, score[n][e], 0, mask_at(p, mask, key), 0);
                        w = x == -Limits<float>::inf() ? 0.0f : exp2_near(x - log[at]);
                        stays = dropout(p, s.batch, head, position, key);
                    }
                } else {
                    w = exp2_near(exponent(p, score[n][e], 0, Mask{}, 0) - log[at]);
                    w = seen ? w : 0.0f;
                }
                score[n][e] = w * stays;
                change[n][e] = w * (change[n][e] * stays - delta[at]);
            }
        }
        if constexpr (KEYS) weights_by_rows<kDV / kAcross, kPitchV>(sums_v, score, tile + kSecond, column0_v);
        weights_by_rows<kD / kAcross, kPitch>(sums, change, tile, column0);
    }
    cp_async_wait<0>();

    const Strides &strides = KEYS ? p.dks : p.dqs;
    Scalar *to = static_cast<Scalar *>(KEYS ? p.dk : p.dq) + s.batch * strides.batch + (KEYS ? s.kv : s.head) * strides.head;
    write_rows<kD / kAcross>(sums, (float)p.scale, to + first * strides.row, strides.row, row0, rows, column0, p.dim, p.wide_o);
    if constexpr (KEYS) {
        to = static_cast<Scalar *>(p.dv) + s.batch * p.dvs.batch + s.kv * p.dvs.head + first * p.dvs.row;
        write_rows<kDV / kAcross>(sums_v, 1.0f, to, p.dvs.row, row0, rows, column0_v, p.dim_v, p.wide_o);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 1) attention_queries(const __grid_constant__ AttentionParams p) {
    GEMS_DYN_SMEM(Scalar, shared);
    gradients<false>(p, shared);
}

extern "C" __global__ void __launch_bounds__(kThreads, 1) attention_keys(const __grid_constant__ AttentionParams p) {
    GEMS_DYN_SMEM(Scalar, shared);
    gradients<true>(p, shared);
}
