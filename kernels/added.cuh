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
    T *sum, *shared, *more; /* more: the residual's, where rows are copied ahead */
    int begin;              /* column of the block's part */
    Vec<T, kVec> held[kStage == kRegisters ? kItems : 1];

    GEMS_DI void fetch(int n) {
        begin = team_part(n).first;
        if constexpr (kStage != kAgain || kSum)
            each_vector(n, [&](int q, int c) {
                Vec<T, kVec> v = added_vector(x, residual, c);
                if constexpr (kStage == kRegisters) held[q] = v;
                if constexpr (kStage == kShared) store<kVec>(shared + (c - begin), v);
                if constexpr (kSum) store<kVec>(sum + c, v);
            });
    }
    /* As those of Kept; x and residual are this row's when it is taken. */
    GEMS_DI void start(const T* from, const T* from_residual, int n) {
        if constexpr (kAhead) {
            begin = team_part(n).first;
            each_vector(n, [&](int, int c) {
                cp_async16(shared + (c - begin), from + c);
                if constexpr (kAdd) cp_async16(more + (c - begin), from_residual + c);
            });
            cp_async_commit();
        }
    }
    GEMS_DI void take(int n) {
        if constexpr (kAhead)
            each_vector(n, [&](int q, int c) {
                held[q] = added_vector(shared, more, c - begin);
                if constexpr (kSum) store<kVec>(sum + c, held[q]);
            });
        else fetch(n);
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
