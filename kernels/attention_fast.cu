// Attention in the cpu backend's fast mode: a block has a tile of queries and goes over the keys in panels (panel.cuh). The
// weights of a group of rows stay in the first cache between the two products.
extern "C" __global__ void attention(const AttentionParams p) {
    GEMS_DYN_SMEM(Op, room);
    const int pack_heads = (int)p.pack.d, dim = p.dim, dim_v = p.dim_v;
    const Part part(p, p.heads / pack_heads);
    const Sequence s(p, part.batch, part.head * pack_heads);
    const int first = part.tile * kTileM, rows = lesser(kTileM, s.queries * pack_heads - first);
    if (rows <= 0) return;
    const int64_t pitch = round_up(dim_v, kCols);
    Op *queries = room, *keys_packed = queries + (int64_t)kTileM * dim, *values_packed = keys_packed + (int64_t)kTileN * dim;
    Op *sums = values_packed + (int64_t)kTileN * pitch, *weights = sums + (int64_t)kTileM * pitch;
    const Scalar *q = s.rows(static_cast<const Scalar *>(p.q), p.qs, s.head, s.first_q);
    Op top[kTileM], total[kTileM];
    int position[kTileM], head[kTileM];
    for (int r = 0; r < rows; r++) {
        divmod(first + r, p.pack, position[r], head[r]);
        top[r] = -Limits<Op>::inf();
        total[r] = 0;
    }
    for (int i = 0; i < rows; i += kRows) {
        const int n = lesser(kRows, rows - i);
        Op *to = queries + (int64_t)i * dim;
        if (pack_heads == 1) {
            pack<kRows>(to, q + position[i] * p.qs.row, p.qs.row, 1, n, dim);
        } else {
            memset(to, 0, sizeof(Op) * (size_t)dim * kRows);
            for (int r = 0; r < n; r++) {
                const Scalar *from = q + position[i + r] * p.qs.row + head[i + r] * p.qs.head;
                for (int d = 0; d < dim; d++) to[(int64_t)d * kRows + r] = to_op(from[d]);
            }
        }
    }
    memset(sums, 0, sizeof(Op) * (size_t)(round_up(rows, kRows) * pitch));
    memset(weights, 0, sizeof(Op) * (size_t)kRows * kTileN);

    int begin = greater(s.first_key(p, position[0]), part.split * p.split_keys);
    const int end = lesser(s.last_key(p, position[rows - 1]), part.split + 1 == p.splits ? s.keys : (part.split + 1) * p.split_keys);
    const Keys keys(p, s, p.k, p.ks), values(p, s, p.v, p.vs);
    for (; begin < end; begin += kTileN) {
        const int count = lesser(kTileN, end - begin);
        pack_keys(keys_packed, keys, begin, count, dim);
        pack_rows(values_packed, values, begin, count, dim_v);
        for (int i = 0; i < rows; i += kRows) {
            const int n = lesser(kRows, rows - i);
            // The keys of this tile that the group sees.
            const int seen = lesser(count, s.last_key(p, position[i + n - 1]) - begin);
            if (seen <= 0 || begin + count <= s.first_key(p, position[i])) continue;
            for (int j = 0; j < seen; j += kCols)
                multiply_rows(queries + (int64_t)i * dim, keys_packed + (int64_t)j * dim, dim, weights + j, kTileN, true, n);
            Op *group = sums + (int64_t)i * pitch;
            for (int r = 0; r < n; r++) {
                Op *w = weights + (int64_t)r * kTileN, change;
                const int h = s.head + head[i + r], at = position[i + r];
                exponents(p, s, w, begin, seen, h, at);
                const Op added = weigh(w, seen, &top[i + r], &change);
                total[i + r] = total[i + r] * change + added;
                if constexpr (kDropout)
                    for (int j = 0; j < seen; j++) w[j] *= dropout(p, s.batch, h, at, begin + j);
                if (change != 1)
                    for (int c = 0; c < pitch; c++) group[r * pitch + c] *= change;
            }
            for (int c = 0; c < dim_v; c += kCols)
                weights_rows(weights, values_packed + (int64_t)c * count, seen, group + c, pitch, n);
        }
    }

    for (int r = 0; r < rows; r++) {
        const int h = s.head + head[r];
        const Op scale = total[r] == 0 ? (Op)0 : (Op)1 / total[r];
        Op *from = sums + r * pitch;
        for (int c = 0; c < pitch; c++) from[c] *= scale;
        if (p.partial) {
            int64_t row = partial_row(p, part.split, s.batch, h, position[r]);
            memcpy(static_cast<Op *>(p.partial) + row * dim_v, from, sizeof(Op) * (size_t)dim_v);
            static_cast<Op *>(p.partial)[partial_rows(p) * dim_v + row] =
                total[r] == 0 ? -Limits<Op>::inf() : top[r] + log2(total[r]);
        } else {
            Scalar *to = s.rows(static_cast<Scalar *>(p.o), p.os, h, s.first_q + position[r]);
            for (int c = 0; c < dim_v; c += kLane) {
                const int n = lesser(kLane, dim_v - c);
                Scalar rounded[kLane];
                narrow_lane(rounded, from + c);
                memcpy(to + c, rounded, sizeof(Scalar) * (size_t)n);
            }
            static_cast<Op *>(p.lse)[s.lse_place(p, h, position[r])] = logsumexp(p, top[r], total[r]);
        }
    }
}
