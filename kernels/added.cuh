/* A row of x + residual, rounded to T as it would be if it were a tensor: for the programs of add_norm.cu and
 * add_norm_backward.cu, which say T, kAdd (there is a residual) and kSum (the sum is a result too), behind rows.cuh.
 */
GEMS_DI T added(const T* x, const T* residual, int64_t c) {
    if constexpr (kAdd) return from_op<T>(to_op(x[c]) + to_op(residual[c]));
    else return x[c];
}
GEMS_DI Vec<T, kVec> added_vector(const T* x, const T* residual, int64_t c) {
    Vec<T, kVec> a = load<kVec>(x + c);
    if constexpr (kAdd) {
        Vec<T, kVec> b = load<kVec>(residual + c);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) a.v[k] = from_op<T>(to_op(a.v[k]) + to_op(b.v[k]));
    }
    return a;
}

/* A thread's part of the row, as Kept. y may be x, and sum the residual: a thread writes elements that it alone has read. */
struct Added {
    const T *x, *residual;
    T *sum, *shared;
    int begin;              /* column of the block's part */
    Vec<T, kVec> held[kStage == kRegisters ? kItems : 1];
    Vec<T, 1> edge;

    GEMS_DI void fetch(const Frame& row) {
        begin = team_part(row.whole).first;
        if constexpr (kStage != kAgain || kSum)
            each_vector(row.whole, [&](int q, int c) {
                Vec<T, kVec> v = added_vector(x, residual, c);
                if constexpr (kStage == kRegisters) held[q] = v;
                if constexpr (kStage == kShared) store<kVec>(shared + (c - begin), v);
                if constexpr (kSum) store<kVec>(sum + c, v);
            });
    }
    /* x and residual are where this row begins when it is taken, and then its column 0. */
    GEMS_DI void take(int n) {
        const Frame row = frame_of(x, n);
        if constexpr (kEdges) {
            x += row.head;
            residual += row.head;
            if constexpr (kSum) sum += row.head;
            Edge own = edge_of(row);
            if (own.real) {
                edge.v[0] = added(x, residual, own.column);
                if constexpr (kSum) sum[own.column] = edge.v[0];
            }
        }
        fetch(row);
    }
    GEMS_DI Vec<T, kVec> at(int q, int c) const {
        if constexpr (kStage == kRegisters) return kItems == 1 ? held[q] : made_again(held[q]);
        else if constexpr (kStage == kShared) return load<kVec>(shared + (c - begin));
        else if constexpr (kSum) return load<kVec>(sum + c);
        else return added_vector(x, residual, c);
    }
    GEMS_DI T some() const {
        static_assert(kRms || !kSum, "the sum is not where the inputs were");
        return added(x, residual, 0);
    }
};
