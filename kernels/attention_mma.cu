// Attention of 16-bit floats on the tensor cores. A block has a tile of queries, kept in shared memory, and goes over the keys
// that they see in a ring of two tiles of keys and values: while one is multiplied the next comes. Weights go from the
// first product to the second in registers.
//
// The head gives, beside what attention_mma.cuh needs: kTileN (keys), kEach (16-row pieces of a warp), kShared (the values are
// the first columns of the keys).
namespace {

constexpr int kTileM = kWarps / kAcross * 16 * kEach;
constexpr int kPitch = pitch_of(kD), kPitchV = kShared ? kPitch : pitch_of(kDV), kPitchO = pitch_of(kDV);
constexpr int kKeyTile = kTileN * kPitch, kStage = kKeyTile + (kShared ? 0 : kTileN * kPitchV);
constexpr int kQueryTile = kTileM * (kPitch > kPitchO ? kPitch : kPitchO);
constexpr int kColumns = kDV / kAcross; // of a warp
static_assert(kD % 16 == 0 && kColumns % 16 == 0 && kTileN % 16 == 0, "a warp multiplies 16 x 16 x 16 at a time");

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 1) attention(const __grid_constant__ AttentionParams p) {
    GEMS_DYN_SMEM(Scalar, shared);
    Scalar *queries = shared, *ring = shared + kQueryTile;
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
    const int pack = (int)p.pack.d;
    const Part part(p, p.heads / pack);
    const Sequence s(p, part.batch, part.head * pack);
    const int first = part.tile * kTileM, rows = lesser(kTileM, s.queries * pack - first);
    if (rows <= 0) return;
    const Scalar *q = s.rows(static_cast<const Scalar *>(p.q), p.qs, s.head, s.first_q);
    int low, high, unused;
    divmod(first, p.pack, low, unused);
    divmod(first + rows - 1, p.pack, high, unused);
    int begin = greater(s.first_key(p, low), part.split * p.split_keys);
    const int end = lesser(s.last_key(p, high), part.split + 1 == p.splits ? s.keys : (part.split + 1) * p.split_keys);
    const Keys keys(p, s, p.k, p.ks), values(p, s, p.v, p.vs);
    auto bring_keys = [&](int from, int stage) {
        Scalar *tile = ring + stage * kStage;
        bring<kTileN, kD, kPitch>(tile, end - from, p.dim, q, [&](int r) { return keys.at(from + r); });
        if constexpr (!kShared)
            bring<kTileN, kDV, kPitchV>(tile + kKeyTile, end - from, p.dim_v, q, [&](int r) { return values.at(from + r); });
    };
    bring<kTileM, kD, kPitch>(queries, rows, p.dim, q, [&](int r) {
        int position, h;
        divmod(first + r, p.pack, position, h);
        return q + position * p.qs.row + h * p.qs.head;
    });

    // A thread has rows lane / 4 and 8 below of each piece, and of 8 columns two.
    const int row0 = warp / kAcross * 16 * kEach, column0 = warp % kAcross * kColumns;
    float out[kEach][kColumns / 8][4], top[kEach][2], sum[kEach][2];
    int position[kEach][2], head[kEach][2];
    GEMS_UNROLL for (int m = 0; m < kEach; m++) {
        GEMS_UNROLL for (int n = 0; n < kColumns / 8; n++)
            GEMS_UNROLL for (int e = 0; e < 4; e++) out[m][n][e] = 0;
        GEMS_UNROLL for (int h = 0; h < 2; h++) {
            top[m][h] = -Limits<float>::inf();
            sum[m][h] = 0;
            int r = lesser(first + row0 + m * 16 + h * 8 + (lane >> 2), s.queries * pack - 1);
            divmod(r, p.pack, position[m][h], head[m][h]);
            head[m][h] += s.head;
        }
    }
    const float scale = kPlain ? (float)p.scale * kLog2E : 1.0f;
    const int matrix = lane >> 3, line = lane & 7;

    // The first round only brings.
    const int start = begin;
    begin -= kTileN;
#pragma unroll 1
    for (int stage = 1; begin < end; begin += kTileN, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();
        if (begin + kTileN < end) bring_keys(begin + kTileN, stage ^ 1);
        cp_async_commit();
        if (begin < start) continue;
        const Scalar *key_tile = ring + stage * kStage, *value_tile = kShared ? key_tile : key_tile + kKeyTile;

        float score[kEach][kTileN / 8][4];
        GEMS_UNROLL for (int m = 0; m < kEach; m++)
            GEMS_UNROLL for (int n = 0; n < kTileN / 8; n++)
                GEMS_UNROLL for (int e = 0; e < 4; e++) score[m][n][e] = 0;
#pragma unroll(kD > 256 ? 4 : 16)
        for (int k = 0; k < kD / 16; k++) {
            uint32_t a[kEach][4];
            GEMS_UNROLL for (int m = 0; m < kEach; m++)
                ldmatrix_x4(a[m], queries + place<kPitch>(row0 + m * 16 + (matrix & 1) * 8 + line, k * 2 + (matrix >> 1)));
            GEMS_UNROLL for (int n = 0; n < kTileN / 16; n++) {
                uint32_t b[4];
                ldmatrix_x4(b, key_tile + place<kPitch>(n * 16 + (matrix >> 1) * 8 + line, k * 2 + (matrix & 1)));
                GEMS_UNROLL for (int m = 0; m < kEach; m++) {
                    mma_m16n8k16<Scalar>(score[m][2 * n], a[m], b);
                    mma_m16n8k16<Scalar>(score[m][2 * n + 1], a[m], b + 2);
                }
            }
        }

        // Every row of the tile sees every key of it?
        const bool whole = begin + kTileN <= end && begin + kTileN - 1 - low - s.shift <= p.right &&
                           begin - high - s.shift >= -p.left;
        GEMS_UNROLL for (int m = 0; m < kEach; m++) {
            GEMS_UNROLL for (int h = 0; h < 2; h++) {
                if constexpr (!kPlain || kMask) {
                    const Mask *mask = mask_row(p, s.batch, head[m][h], position[m][h]);
                    const float slope = Slope(p, s.batch, head[m][h]).value;
                    GEMS_UNROLL for (int n = 0; n < kTileN / 8; n++)
                        GEMS_UNROLL for (int e = 0; e < 2; e++) {
                            float &v = score[m][n][2 * h + e];
                            int key = begin + n * 8 + (lane & 3) * 2 + e;
                            if constexpr (kPlain) {
                                if (key < end && !convert<bool>(mask_at(p, mask, key))) v = -Limits<float>::inf();
                            } else if (key < end) {
                                v = exponent(p, v, slope, mask_at(p, mask, key), key - position[m][h] - s.shift);
                            }
                        }
                }
                if (!whole) {
                    GEMS_UNROLL for (int n = 0; n < kTileN / 8; n++)
                        GEMS_UNROLL for (int e = 0; e < 2; e++) {
                            int key = begin + n * 8 + (lane & 3) * 2 + e;
                            if (key >= end || !s.sees(p, position[m][h], key)) score[m][n][2 * h + e] = -Limits<float>::inf();
                        }
                }
                float largest = top[m][h];
                GEMS_UNROLL for (int n = 0; n < kTileN / 8; n++)
                    largest = max_nan(largest, max_nan(score[m][n][2 * h], score[m][n][2 * h + 1]));
                largest = max_nan(largest, shuffle_xor(largest, 1));
                largest = max_nan(largest, shuffle_xor(largest, 2));
                const float base = largest == -Limits<float>::inf() ? 0.0f : largest * scale;
                const float change = exp2_near(top[m][h] * scale - base);
                top[m][h] = largest;
                float added = 0;
                GEMS_UNROLL for (int n = 0; n < kTileN / 8; n++)
                    GEMS_UNROLL for (int e = 0; e < 2; e++) {
                        float w = exp2_near(gems::fma(score[m][n][2 * h + e], scale, -base));
                        added += w;
                        if constexpr (kDropout)
                            w *= dropout(p, s.batch, head[m][h], position[m][h], begin + n * 8 + (lane & 3) * 2 + e);
                        score[m][n][2 * h + e] = w;
                    }
                sum[m][h] = sum[m][h] * change + added;
                GEMS_UNROLL for (int n = 0; n < kColumns / 8; n++) {
                    out[m][n][2 * h] *= change;
                    out[m][n][2 * h + 1] *= change;
                }
            }
        }

        GEMS_UNROLL for (int k = 0; k < kTileN / 16; k++) {
            uint32_t a[kEach][4];
            GEMS_UNROLL for (int m = 0; m < kEach; m++)
                GEMS_UNROLL for (int i = 0; i < 4; i++)
                    a[m][i] = round_pair<Scalar>(score[m][2 * k + i / 2][i % 2 * 2], score[m][2 * k + i / 2][i % 2 * 2 + 1]);
            GEMS_UNROLL for (int n = 0; n < kColumns / 16; n++) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, value_tile + place<kPitchV>(k * 16 + (matrix & 1) * 8 + line,
                                                                 column0 / 8 + n * 2 + (matrix >> 1)));
                GEMS_UNROLL for (int m = 0; m < kEach; m++) {
                    mma_m16n8k16<Scalar>(out[m][2 * n], a[m], b);
                    mma_m16n8k16<Scalar>(out[m][2 * n + 1], a[m], b + 2);
                }
            }
        }
    }
    cp_async_wait<0>();
    __syncthreads(); // the tile of queries becomes that of the result

    GEMS_UNROLL for (int m = 0; m < kEach; m++) {
        GEMS_UNROLL for (int h = 0; h < 2; h++) {
            float total = sum[m][h];
            total += shuffle_xor(total, 1);
            total += shuffle_xor(total, 2);
            const float inverse = total == 0 ? 0.0f : 1.0f / total;
            const int r = row0 + m * 16 + h * 8 + (lane >> 2);
            const bool exists = r < rows, writes_log = exists && column0 == 0 && (lane & 3) == 0;
            if (p.partial) {
                if (!exists) continue;
                int64_t row = partial_row(p, part.split, s.batch, head[m][h], position[m][h]);
                float *to = static_cast<float *>(p.partial) + row * p.dim_v;
                GEMS_UNROLL for (int n = 0; n < kColumns / 8; n++) {
                    int c = column0 + n * 8 + (lane & 3) * 2;
                    if (c < p.dim_v) to[c] = out[m][n][2 * h] * inverse;
                    if (c + 1 < p.dim_v) to[c + 1] = out[m][n][2 * h + 1] * inverse;
                }
                if (writes_log)
                    static_cast<float *>(p.partial)[partial_rows(p) * p.dim_v + row] =
                        total == 0 ? -Limits<float>::inf() : top[m][h] * scale + log2(total);
            } else {
                GEMS_UNROLL for (int n = 0; n < kColumns / 8; n++) {
                    uint32_t two = round_pair<Scalar>(out[m][n][2 * h] * inverse, out[m][n][2 * h + 1] * inverse);
                    Vec<uint32_t, 1> word{{two}};
                    store<1>(reinterpret_cast<uint32_t *>(queries + place<kPitchO>(r, column0 / 8 + n)) + (lane & 3), word);
                }
                if (writes_log)
                    static_cast<float *>(p.lse)[s.lse_place(p, head[m][h], position[m][h])] =
                        logsumexp(p, top[m][h] * scale, total);
            }
        }
    }
    if (p.partial) return;
    __syncthreads();
    constexpr int kChunks = kDV / 8;
    for (int i = (int)threadIdx.x; i < rows * kChunks; i += kThreads) {
        int r = i / kChunks, c = i - r * kChunks, at, h;
        divmod(first + r, p.pack, at, h);
        Scalar *to = s.rows(static_cast<Scalar *>(p.o), p.os, s.head + h, s.first_q + at) + c * 8;
        Vec<Scalar, 8> v = load<8>(queries + place<kPitchO>(r, c));
        if (p.wide_o && c * 8 + 8 <= p.dim_v) store<8>(to, v);
        else
            GEMS_UNROLL for (int e = 0; e < 8; e++)
                if (c * 8 + e < p.dim_v) to[e] = v.v[e];
    }
}
