// The gradients of attention in the cpu backend's fast mode: the passes of attention_backward.cu over panels.
extern "C" __global__ void attention_delta(const AttentionParams p) {
    GEMS_FOR_GRID(row, (int64_t)p.batch * p.heads * p.queries) {
        int position = (int)(row % p.queries), line = (int)(row / p.queries), head = line % p.heads, batch = line / p.heads;
        const Scalar *g = static_cast<const Scalar *>(p.grad) + batch * p.gs.batch + head * p.gs.head + position * p.gs.row;
        const Scalar *o = static_cast<const Scalar *>(p.o) + batch * p.os.batch + head * p.os.head + position * p.os.row;
        Op part[kLane] = {}, sum = 0;
        int c = 0;
        for (; c + kLane <= p.dim_v; c += kLane)
            for (int i = 0; i < kLane; i++) part[i] += to_op(g[c + i]) * to_op(o[c + i]);
        for (; c < p.dim_v; c++) sum += to_op(g[c]) * to_op(o[c]);
        for (int i = 0; i < kLane; i++) sum += part[i];
        static_cast<Op *>(const_cast<void *>(p.delta))[row] = sum;
    }
}

namespace {

// Groups of kRows lines: to[group][d][kRows].
inline void pack_groups(Op *to, const Scalar *from, int64_t row, int rows, int dim) {
    for (int i = 0; i < rows; i += kRows, to += (int64_t)dim * kRows)
        pack<kRows>(to, from + i * row, row, 1, lesser(kRows, rows - i), dim);
}

// exponents[j] of a row to weights, and the products with dO to dS. log and delta: of the row, or of each column.
template <bool COLUMNS>
__attribute__((noinline)) void differentiate(Op *__restrict w, Op *__restrict d, int n, const Op *__restrict log,
                                             const Op *__restrict delta, Op scale) {
    for (int j = 0; j < n; j++) {
        Op l = log[COLUMNS ? j : 0] * kLog2E, e = exp2(w[j] - l);
        w[j] = w[j] == -Limits<Op>::inf() ? (Op)0 : e;
        d[j] = w[j] * (d[j] - delta[COLUMNS ? j : 0]) * scale;
    }
}

// As exponents(), of the queries of one key.
__attribute__((noinline)) void exponents_of_key(const AttentionParams &p, const Sequence &s, Op *__restrict w, int first,
                                                int n, int key) {
    const Op scale = (Op)p.scale * kLog2E;
    for (int j = 0; j < n; j++) w[j] *= scale;
    if constexpr (kMask) {
        const Mask *mask = mask_row(p, s.batch, s.head, first) + key * p.mask_col;
        for (int j = 0; j < n; j++) {
            const Mask m = mask[j * p.mask_row];
            if constexpr (kMask == 1) w[j] = convert<bool>(m) ? w[j] : -Limits<Op>::inf();
            else w[j] += (Op)to_op(m) * kLog2E;
        }
    }
    const int begin = key - s.shift - p.right - first, end = key - s.shift + p.left + 1 - first;
    for (int j = 0; j < lesser(begin, n); j++) w[j] = -Limits<Op>::inf();
    for (int j = greater(end, 0); j < n; j++) w[j] = -Limits<Op>::inf();
}

inline void write_rows(const AttentionParams &p, const Op *sums, int64_t pitch, Scalar *to, int64_t row, int rows, int dim) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < dim; c += kLane) {
            Scalar rounded[kLane];
            narrow_lane(rounded, sums + r * pitch + c);
            memcpy(to + r * row + c, rounded, sizeof(Scalar) * (size_t)lesser(kLane, dim - c));
        }
}

}  // namespace

extern "C" __global__ void attention_queries(const AttentionParams p) {
    GEMS_DYN_SMEM(Op, room);
    const int dim = p.dim, dim_v = p.dim_v;
    const Part part(p, p.heads);
    const Sequence s(p, part.batch, part.head);
    const int first = part.tile * kTileM, rows = lesser(kTileM, s.queries - first);
    const int64_t pitch = round_up(dim, kCols);
    Op *queries = room, *grads = queries + kTileM * dim, *k_columns = grads + kTileM * dim_v;
    Op *v_columns = k_columns + kTileN * dim, *k_rows = v_columns + kTileN * dim_v, *sums = k_rows + kTileN * pitch;
    Op *weights = sums + kTileM * pitch, *changes = weights + kRows * kTileN;
    pack_groups(queries, s.rows(static_cast<const Scalar *>(p.q), p.qs, s.head, first), p.qs.row, rows, dim);
    pack_groups(grads, s.rows(static_cast<const Scalar *>(p.grad), p.gs, s.head, first), p.gs.row, rows, dim_v);
    memset(sums, 0, sizeof(Op) * (size_t)(round_up(rows, kRows) * pitch));
    memset(changes, 0, sizeof(Op) * (size_t)kRows * kTileN);
    const Op *deltas = static_cast<const Op *>(p.delta) + ((int64_t)s.batch * p.heads + s.head) * p.queries;
    const Keys keys(p, s, p.k, p.ks), values(p, s, p.v, p.vs);
    const int end = s.last_key(p, first + rows - 1);
    for (int begin = s.first_key(p, first); begin < end; begin += kTileN) {
        const int count = lesser(kTileN, end - begin);
        pack_keys(k_columns, keys, begin, count, dim);
        pack_keys(v_columns, values, begin, count, dim_v);
        pack_rows(k_rows, keys, begin, count, dim);
        for (int i = 0; i < rows; i += kRows) {
            const int n = lesser(kRows, rows - i), seen = lesser(count, s.last_key(p, first + i + n - 1) - begin);
            if (seen <= 0) continue;
            for (int j = 0; j < seen; j += kCols) {
                multiply_rows(queries + i * dim, k_columns + j * dim, dim, weights + j, kTileN, true, n);
                multiply_rows(grads + i * dim_v, v_columns + j * dim_v, dim_v, changes + j, kTileN, true, n);
            }
            for (int r = 0; r < n; r++) {
                const int position = first + i + r;
                Op *w = weights + r * kTileN, *d = changes + r * kTileN;
                exponents(p, s, w, begin, seen, s.head, position);
                if constexpr (kDropout)
                    for (int j = 0; j < seen; j++) d[j] *= dropout(p, s.batch, s.head, position, begin + j);
                const Op log = static_cast<const Op *>(p.lse)[s.lse_place(p, s.head, position)];
                differentiate<false>(w, d, seen, &log, deltas + position, (Op)p.scale);
            }
            for (int c = 0; c < dim; c += kCols)
                weights_rows(changes, k_rows + c * count, seen, sums + i * pitch + c, pitch, n);
        }
    }
    write_rows(p, sums, pitch, s.rows(static_cast<Scalar *>(p.dq), p.dqs, s.head, first), p.dqs.row, rows, dim);
}

extern "C" __global__ void attention_keys(const AttentionParams p) {
    GEMS_DYN_SMEM(Op, room);
    const int dim = p.dim, dim_v = p.dim_v;
    const Part part(p, p.heads / p.group);
    const Sequence all(p, part.batch, part.head * p.group);
    const int first = part.tile * kTileM, rows = lesser(kTileM, all.keys - first);
    const int64_t pitch = round_up(dim, kCols), pitch_v = round_up(dim_v, kCols);
    Op *keys = room, *values = keys + kTileM * dim, *q_columns = values + kTileM * dim_v;
    Op *g_columns = q_columns + kTileN * dim, *q_rows = g_columns + kTileN * dim_v, *g_rows = q_rows + kTileN * pitch;
    Op *dk = g_rows + kTileN * pitch_v, *dv = dk + kTileM * pitch, *weights = dv + kTileM * pitch_v;
    Op *changes = weights + kRows * kTileN, *logs = changes + kRows * kTileN;
    pack_groups(keys, Keys(p, all, p.k, p.ks).at(first), p.ks.row, rows, dim);
    pack_groups(values, Keys(p, all, p.v, p.vs).at(first), p.vs.row, rows, dim_v);
    memset(dk, 0, sizeof(Op) * (size_t)(kTileM * pitch));
    memset(dv, 0, sizeof(Op) * (size_t)(kTileM * pitch_v));
    memset(weights, 0, sizeof(Op) * (size_t)kRows * kTileN * 2);
    const int start = greater(first - all.shift - p.right, 0);
    const int end = lesser(all.queries, first + rows - 1 - all.shift + p.left + 1);
    for (int h = 0; h < p.group; h++) {
        const Sequence s(p, part.batch, part.head * p.group + h);
        const Keys queries(s.rows(static_cast<const Scalar *>(p.q), p.qs, s.head, 0), p.qs.row);
        const Keys grads(s.rows(static_cast<const Scalar *>(p.grad), p.gs, s.head, 0), p.gs.row);
        const Op *deltas = static_cast<const Op *>(p.delta) + ((int64_t)s.batch * p.heads + s.head) * p.queries;
        for (int begin = start; begin < end; begin += kTileN) {
            const int count = lesser(kTileN, end - begin);
            pack_keys(q_columns, queries, begin, count, dim);
            pack_keys(g_columns, grads, begin, count, dim_v);
            pack_rows(q_rows, queries, begin, count, dim);
            pack_rows(g_rows, grads, begin, count, dim_v);
            for (int j = 0; j < count; j++)
                logs[j] = static_cast<const Op *>(p.lse)[s.lse_place(p, s.head, begin + j)];
            for (int i = 0; i < rows; i += kRows) {
                const int n = lesser(kRows, rows - i);
                // The queries from which on one of these keys is seen.
                const int skip = greater(first + i - s.shift - p.right - begin, 0) / kCols * kCols;
                if (skip >= count) continue;
                for (int j = skip; j < count; j += kCols) {
                    multiply_rows(keys + i * dim, q_columns + j * dim, dim, weights + j, kTileN, true, n);
                    multiply_rows(values + i * dim_v, g_columns + j * dim_v, dim_v, changes + j, kTileN, true, n);
                }
                for (int r = 0; r < n; r++) {
                    const int key = first + i + r;
                    Op *w = weights + r * kTileN + skip, *d = changes + r * kTileN + skip;
                    exponents_of_key(p, s, w, begin + skip, count - skip, key);
                    if constexpr (kDropout)
                        for (int j = skip; j < count; j++) d[j - skip] *= dropout(p, s.batch, s.head, begin + j, key);
                    differentiate<true>(w, d, count - skip, logs + skip, deltas + begin + skip, (Op)p.scale);
                    if constexpr (kDropout)
                        for (int j = skip; j < count; j++) w[j - skip] *= dropout(p, s.batch, s.head, begin + j, key);
                }
                for (int c = 0; c < dim_v; c += kCols)
                    weights_rows(weights + skip, g_rows + c * count + skip * kCols, count - skip, dv + i * pitch_v + c, pitch_v, n);
                for (int c = 0; c < dim; c += kCols)
                    weights_rows(changes + skip, q_rows + c * count + skip * kCols, count - skip, dk + i * pitch + c, pitch, n);
            }
        }
    }
    write_rows(p, dk, pitch, static_cast<Scalar *>(p.dk) + all.batch * p.dks.batch + all.kv * p.dks.head + first * p.dks.row,
               p.dks.row, rows, dim);
    write_rows(p, dv, pitch_v, static_cast<Scalar *>(p.dv) + all.batch * p.dvs.batch + all.kv * p.dvs.head + first * p.dvs.row,
               p.dvs.row, rows, dim_v);
}
