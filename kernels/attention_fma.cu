// Attention by multiply and add: every dtype, any head dimensions, any alignment. A block has a tile of queries and goes over
// the keys that they see, tile by tile, with a running maximum and sum.
extern "C" __global__ void __launch_bounds__(kThreads, 1) attention(const __grid_constant__ AttentionParams p) {
    GEMS_DYN_SMEM(Op, shared);
    Op *queries = shared, *near = queries + kTile * kPitch, *weights = near + kTile * kPitch;
    const int pack = (int)p.pack.d;
    const Part part(p, p.heads / pack);
    const Sequence s(p, part.batch, part.head * pack);
    const int first = part.tile * kTile, rows = lesser(kTile, s.queries * pack - first);
    if (rows <= 0) return;
    const Scalar *q = s.rows(static_cast<const Scalar *>(p.q), p.qs, s.head, s.first_q);
    bring<kD>(queries, rows, p.dim, p.wide, [&](int r) {
        int position, h;
        divmod(first + r, p.pack, position, h);
        return q + position * p.qs.row + h * p.qs.head;
    });

    Op out[kR][kDV / 16] = {}, top[kR], sum[kR] = {}, slope[kR];
    const Mask *mask[kR];
    int position[kR], head[kR];
    GEMS_UNROLL for (int i = 0; i < kR; i++) {
        top[i] = -Limits<Op>::inf();
        divmod(lesser(first + ty() * kR + i, s.queries * pack - 1), p.pack, position[i], head[i]);
        head[i] += s.head;
        mask[i] = mask_row(p, s.batch, head[i], position[i]);
        slope[i] = Slope(p, s.batch, head[i]).value;
    }
    int low, high, h;
    divmod(first, p.pack, low, h);
    divmod(first + rows - 1, p.pack, high, h);
    int begin = greater(s.first_key(p, low), part.split * p.split_keys);
    const int end = lesser(s.last_key(p, high), part.split + 1 == p.splits ? s.keys : (part.split + 1) * p.split_keys);
    const Keys keys(p, s, p.k, p.ks), values(p, s, p.v, p.vs);
#pragma unroll 1
    for (; begin < end; begin += kTile) {
        const int count = lesser(kTile, end - begin);
        __syncthreads();
        bring<kD>(near, count, p.dim, p.wide, [&](int r) { return keys.at(begin + r); });
        __syncthreads();
        Op score[kR][kR] = {};
        rows_by_rows<kD>(score, queries, near);
        GEMS_UNROLL for (int i = 0; i < kR; i++) {
            Op largest = top[i];
            GEMS_UNROLL for (int j = 0; j < kR; j++) {
                int key = begin + tx() + 16 * j;
                bool seen = key < end && s.sees(p, position[i], key);
                score[i][j] = seen ? exponent(p, score[i][j], slope[i], mask_at(p, mask[i], key), key - position[i] - s.shift)
                                   : -Limits<Op>::inf();
                largest = max_nan(largest, score[i][j]);
            }
            largest = across(largest, Max{});
            Op base = largest == -Limits<Op>::inf() ? (Op)0 : largest, change = exp2(top[i] - base), added = 0;
            top[i] = largest;
            GEMS_UNROLL for (int j = 0; j < kR; j++) {
                Op w = exp2(score[i][j] - base);
                added += w;
                if constexpr (kDropout) w *= dropout(p, s.batch, head[i], position[i], begin + tx() + 16 * j);
                weights[(ty() * kR + i) * kPitchP + tx() + 16 * j] = w;
            }
            sum[i] = sum[i] * change + added;
            GEMS_UNROLL for (int u = 0; u < kDV / 16; u++) out[i][u] *= change;
        }
        __syncthreads();
        bring<kDV>(near, count, p.dim_v, p.wide, [&](int r) { return values.at(begin + r); });
        __syncthreads();
        scores_by_rows<kDV>(out, weights, near);
    }

    GEMS_UNROLL for (int i = 0; i < kR; i++) {
        sum[i] = across(sum[i], Sum{});
        if (ty() * kR + i >= rows) continue;
        Op scale = sum[i] == 0 ? (Op)0 : (Op)1 / sum[i];
        if (p.partial) {
            int64_t row = partial_row(p, part.split, s.batch, head[i], position[i]);
            Op *to = static_cast<Op *>(p.partial) + row * p.dim_v;
            GEMS_UNROLL for (int u = 0; u < kDV / 16; u++)
                if (column<kDV>(u) < p.dim_v) to[column<kDV>(u)] = out[i][u] * scale;
            if (tx() == 0)
                static_cast<Op *>(p.partial)[partial_rows(p) * p.dim_v + row] =
                    sum[i] == 0 ? -Limits<Op>::inf() : top[i] + log2(sum[i]);
        } else {
            Scalar *to = s.rows(static_cast<Scalar *>(p.o), p.os, head[i], s.first_q + position[i]);
            GEMS_UNROLL for (int u = 0; u < kDV / 16; u++)
                if (column<kDV>(u) < p.dim_v) to[column<kDV>(u)] = from_op<Scalar>(out[i][u] * scale);
            if (tx() == 0) static_cast<Op *>(p.lse)[s.lse_place(p, head[i], position[i])] = logsumexp(p, top[i], sum[i]);
        }
    }
}
