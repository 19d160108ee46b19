// The second step of attention over split keys: the parts of a row in their order, by their logsumexp. A thread has some
// neighbouring elements of a row.
extern "C" __global__ void __launch_bounds__(256) attention_merge(const __grid_constant__ AttentionParams p) {
    const Op *sums = static_cast<const Op *>(p.partial), *logs = sums + partial_rows(p) * p.dim_v;
    const int64_t rows = (int64_t)p.batch * p.heads * p.queries;
    constexpr int kEach = kFast ? 64 : 4;
    const int across = (p.dim_v + kEach - 1) / kEach;
    GEMS_FOR_GRID(i, rows * across) {
        int64_t row = i / across;
        int c = (int)(i - row * across) * kEach, end = lesser(c + kEach, p.dim_v);
        int position = (int)(row % p.queries), line = (int)(row / p.queries), head = line % p.heads;
        Sequence s(p, line / p.heads, head);
        if (position >= s.queries) continue;
        Op top = -Limits<Op>::inf();
        for (int k = 0; k < p.splits; k++) {
            Op l = logs[k * rows + row];
            top = l > top ? l : top;
        }
        Op base = top == -Limits<Op>::inf() ? (Op)0 : top, total = 0;
        for (int k = 0; k < p.splits; k++) total += exp2(logs[k * rows + row] - base);
        Scalar *o = s.rows(static_cast<Scalar *>(p.o), p.os, head, s.first_q + position);
        for (; c < end; c++) {
            Op sum = 0;
            for (int k = 0; k < p.splits; k++) {
                Op weight = exp2(logs[k * rows + row] - base);
                if (weight != 0) sum += weight * sums[(k * rows + row) * p.dim_v + c];
            }
            o[c] = from_op<Scalar>(total == 0 ? (Op)0 : sum / total);
            if (c == 0) static_cast<Op *>(p.lse)[s.lse_place(p, head, position)] = logsumexp(p, top, total);
        }
    }
}
