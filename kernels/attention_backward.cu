// The gradients of attention by multiply and add. Scores are computed again, in two passes: one over tiles of queries, which
// sums dq over the keys, one over tiles of keys, which sums dk and dv over the queries of all heads that share them. So every
// sum has its order. In both, P is exp(score - logsumexp) and dS is P * (dO V^T - delta).

namespace {

GEMS_DI Op weight(Op exponent, Op log) {
    return exponent == -Limits<Op>::inf() ? (Op)0 : exp2(exponent - log * kLog2E);
}

struct Tiles {
    Op *first, *second, *near, *other, *weights;
    GEMS_DI explicit Tiles(Op *shared)
        : first(shared), second(first + kTile * kPitch), near(second + kTile * kPitch), other(near + kTile * kPitch),
          weights(other + kTile * kPitch) {}
};

template <int D>
GEMS_DI void write_rows(const Op (&sums)[kR][D / 16], Scalar *to, int64_t row, int rows, int dim) {
    GEMS_UNROLL for (int i = 0; i < kR; i++) {
        int r = ty() * kR + i;
        if (r >= rows) break;
        GEMS_UNROLL for (int u = 0; u < D / 16; u++)
            if (column<D>(u) < dim) to[r * row + column<D>(u)] = from_op<Scalar>(sums[i][u]);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 1) attention_queries(const __grid_constant__ AttentionParams p) {
    GEMS_DYN_SMEM(Op, shared);
    const Tiles t(shared);
    const Part part(p, p.heads);
    const Sequence s(p, part.batch, part.head);
    const int first = part.tile * kTile, rows = lesser(kTile, s.queries - first);
    const Scalar *q = s.rows(static_cast<const Scalar *>(p.q), p.qs, s.head, first);
    const Scalar *g = s.rows(static_cast<const Scalar *>(p.grad), p.gs, s.head, first);
    const Keys keys(p, s, p.k, p.ks), values(p, s, p.v, p.vs);
    bring<kD>(t.first, rows, p.dim, p.wide, [&](int r) { return q + r * p.qs.row; });
    bring<kDV>(t.second, rows, p.dim_v, p.wide, [&](int r) { return g + r * p.gs.row; });
    Op dq[kR][kD / 16] = {}, log[kR], delta[kR];
    const Mask *mask[kR];
    GEMS_UNROLL for (int i = 0; i < kR; i++) {
        int position = first + lesser(ty() * kR + i, rows - 1);
        log[i] = static_cast<const Op *>(p.lse)[s.lse_place(p, s.head, position)];
        delta[i] = static_cast<const Op *>(p.delta)[((int64_t)s.batch * p.heads + s.head) * p.queries + position];
        mask[i] = mask_row(p, s.batch, s.head, position);
    }
    const int end = s.last_key(p, first + rows - 1);
#pragma unroll 1
    for (int begin = s.first_key(p, first); begin < end; begin += kTile) {
        const int count = lesser(kTile, end - begin);
        __syncthreads();
        bring<kD>(t.near, count, p.dim, p.wide, [&](int r) { return keys.at(begin + r); });
        bring<kDV>(t.other, count, p.dim_v, p.wide, [&](int r) { return values.at(begin + r); });
        __syncthreads();
        Op score[kR][kR] = {}, change[kR][kR] = {};
        rows_by_rows<kD>(score, t.first, t.near);
        rows_by_rows<kDV>(change, t.second, t.other);
        GEMS_UNROLL for (int i = 0; i < kR; i++) {
            int position = first + ty() * kR + i;
            GEMS_UNROLL for (int j = 0; j < kR; j++) {
                int key = begin + tx() + 16 * j;
                Op d = 0;
                if (ty() * kR + i < rows && key < end && s.sees(p, position, key)) {
                    Op w = weight(exponent(p, score[i][j], 0, mask_at(p, mask[i], key), 0), log[i]);
                    d = w * (change[i][j] * dropout(p, s.batch, s.head, position, key) - delta[i]) * (Op)p.scale;
                }
                t.weights[(ty() * kR + i) * kPitchP + tx() + 16 * j] = d;
            }
        }
        __syncwarp();
        scores_by_rows<kD>(dq, t.weights, t.near);
    }
    write_rows<kD>(dq, s.rows(static_cast<Scalar *>(p.dq), p.dqs, s.head, first), p.dqs.row, rows, p.dim);
}

extern "C" __global__ void __launch_bounds__(kThreads, 1) attention_keys(const __grid_constant__ AttentionParams p) {
    GEMS_DYN_SMEM(Op, shared);
    const Tiles t(shared);
    const Part part(p, p.heads / p.group);
    const Sequence all(p, part.batch, part.head * p.group);
    const int first = part.tile * kTile, rows = lesser(kTile, all.keys - first);
    const Keys keys(p, all, p.k, p.ks), values(p, all, p.v, p.vs);
    bring<kD>(t.first, rows, p.dim, p.wide, [&](int r) { return keys.at(first + r); });
    bring<kDV>(t.second, rows, p.dim_v, p.wide, [&](int r) { return values.at(first + r); });
    Op dk[kR][kD / 16] = {}, dv[kR][kDV / 16] = {};
    const int start = greater(first - all.shift - p.right, 0);
    const int end = lesser(all.queries, first + rows - 1 - all.shift + p.left + 1);
#pragma unroll 1
    for (int h = 0; h < p.group; h++) {
        const Sequence s(p, part.batch, part.head * p.group + h);
        const Scalar *q = s.rows(static_cast<const Scalar *>(p.q), p.qs, s.head, 0);
        const Scalar *g = s.rows(static_cast<const Scalar *>(p.grad), p.gs, s.head, 0);
        const Op *deltas = static_cast<const Op *>(p.delta) + ((int64_t)s.batch * p.heads + s.head) * p.queries;
#pragma unroll 1
        for (int begin = start; begin < end; begin += kTile) {
            const int count = lesser(kTile, end - begin);
            __syncthreads();
            bring<kD>(t.near, count, p.dim, p.wide, [&](int r) { return q + (begin + r) * p.qs.row; });
            bring<kDV>(t.other, count, p.dim_v, p.wide, [&](int r) { return g + (begin + r) * p.gs.row; });
            __syncthreads();
            Op score[kR][kR] = {}, change[kR][kR] = {};
            rows_by_rows<kD>(score, t.first, t.near);
            rows_by_rows<kDV>(change, t.second, t.other);
            GEMS_UNROLL for (int j = 0; j < kR; j++) {
                const int position = begin + tx() + 16 * j;
                const bool exists = position < end;
                const Op log = exists ? static_cast<const Op *>(p.lse)[s.lse_place(p, s.head, position)] : (Op)0;
                const Op delta = exists ? deltas[position] : (Op)0;
                const Mask *mask = mask_row(p, s.batch, s.head, position);
                GEMS_UNROLL for (int i = 0; i < kR; i++) {
                    const int key = first + ty() * kR + i;
                    Op w = 0, d = 0;
                    if (exists && s.sees(p, position, key)) {
                        w = weight(exponent(p, score[i][j], 0, mask_at(p, mask, key), 0), log);
                        Op stays = dropout(p, s.batch, s.head, position, key);
                        d = w * (change[i][j] * stays - delta) * (Op)p.scale;
                        w *= stays;
                    }
                    t.weights[(ty() * kR + i) * kPitchP + tx() + 16 * j] = w;
                    change[i][j] = d;
                }
            }
            __syncwarp();
            scores_by_rows<kDV>(dv, t.weights, t.other);
            __syncwarp();
            GEMS_UNROLL for (int i = 0; i < kR; i++)
                GEMS_UNROLL for (int j = 0; j < kR; j++)
                    t.weights[(ty() * kR + i) * kPitchP + tx() + 16 * j] = change[i][j];
            __syncwarp();
            scores_by_rows<kD>(dk, t.weights, t.near);
        }
    }
    write_rows<kD>(dk, static_cast<Scalar *>(p.dk) + all.batch * p.dks.batch + all.kv * p.dks.head + first * p.dks.row,
                   p.dks.row, rows, p.dim);
    write_rows<kDV>(dv, static_cast<Scalar *>(p.dv) + all.batch * p.dvs.batch + all.kv * p.dvs.head + first * p.dvs.row,
                    p.dvs.row, rows, p.dim_v);
}
