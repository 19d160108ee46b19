/* Rows of a matrix, each done by a warp or by a block, which keeps the row while it is read several times.
 *
 * The program's head gives kVec (elements of one access), kStage, kItems (vectors of a thread kept in registers), kWarpRow
 * and kThreads.
 */
using namespace gems;

/* Where a row is kept: nowhere (it is read again), in registers, in shared memory. */
enum { kAgain, kRegisters, kShared };

GEMS_DI int team_lane() { return kWarpRow ? (int)threadIdx.x % kWarp : (int)threadIdx.x; }
GEMS_DI int team_size() { return kWarpRow ? kWarp : kThreads; }

/* f(row) for the rows of this team. */
template <class F> GEMS_DI void each_row(int64_t rows, F f) {
    if constexpr (kFast) {
        int64_t chunk = (rows + gridDim.x - 1) / gridDim.x, row = chunk * blockIdx.x;
        int64_t stop = row + chunk < rows ? row + chunk : rows;
        for (; row < stop; row++) f(row);
    } else {
        int teams = kWarpRow ? kThreads / kWarp : 1, team = kWarpRow ? (int)threadIdx.x / kWarp : 0;
        for (int64_t row = (int64_t)blockIdx.x * teams + team; row < rows; row += (int64_t)gridDim.x * teams) f(row);
    }
}

template <class V, class F> GEMS_DI V team_reduce(V v, F f, V* buf) {
    if constexpr (kWarpRow) return warp_reduce(v, f);
    else return block_reduce(v, f, buf);
}

/* f(item, column) for the vectors of a row of n elements that are this thread's; n is a multiple of kVec. */
template <class F> GEMS_DI void each_vector(int n, F f) {
    int lane = team_lane(), lanes = team_size();
    if constexpr (kStage == kRegisters) {
        GEMS_UNROLL for (int q = 0; q < kItems; q++) {
            int column = (q * lanes + lane) * kVec;
            if (column < n) f(q, column);
        }
    } else {
#pragma unroll 2
        for (int column = lane * kVec; column < n; column += lanes * kVec) f(0, column);
    }
}

/* A thread's part of a row. What it stages in shared memory only it reads again, so no barrier is needed. */
template <class T> struct Kept {
    const T* row;
    T* shared; /* room for the whole row, where it is kept there */
    Vec<T, kVec> held[kStage == kRegisters ? kItems : 1];

    GEMS_DI void fetch(const T* from, int n) {
        row = from;
        if constexpr (kStage == kRegisters) each_vector(n, [&](int q, int c) { held[q] = load<kVec>(from + c); });
        if constexpr (kStage == kShared) {
            if constexpr (sizeof(T) * kVec == 16) {
                each_vector(n, [&](int, int c) { cp_async16(shared + c, from + c); });
                cp_async_commit();
                cp_async_wait<0>();
            } else {
                each_vector(n, [&](int, int c) { store<kVec>(shared + c, load<kVec>(from + c)); });
            }
        }
    }
    GEMS_DI Vec<T, kVec> at(int q, int column) const {
        if constexpr (kStage == kRegisters) return held[q];
        else return load<kVec>((kStage == kShared ? shared : row) + column);
    }
    GEMS_DI T first() const { return row[0]; }
};

/* Rows that are not kept in registers are long: what is written of them need not stay in the caches. */
template <int N, class U> GEMS_DI void store_row(U* p, const Vec<U, N>& v) {
    if constexpr (kStage == kRegisters) store<N>(p, v);
    else store_stream<N>(p, v);
}

/* The dynamic shared memory, as the place where row `index` of the rows that are kept at once lies. */
template <class T> GEMS_DI T* shared_row(int index, int n) {
    GEMS_DYN_SMEM(T, rows);
    return rows + (int64_t)index * n;
}

/* ---- one thread a block ---- */

/* How many elements are done beside each other: a constant, or what is left at the end of a row. */
template <int W> struct Full { static constexpr int count = W; };
struct Part { int count; };

constexpr int kWide = sizeof(T) == 8 ? 32 : 64;

/* f(column, width) over [from, to): loops over width.count elements, of which the compiler makes vectors. */
template <class F> GEMS_DI void spans(int from, int to, F f) {
    for (; from + kWide <= to; from += kWide) f(from, Full<kWide>{});
    if (from < to) f(from, Part{to - from});
}

template <class V> struct Lanes {
    V v[kWide];
    GEMS_DI void fill(V x) {
        for (int k = 0; k < kWide; k++) v[k] = x;
    }
    template <class F> GEMS_DI V fold(F f) {
        for (int h = kWide / 2; h > 0; h /= 2) {
            GEMS_IVDEP for (int k = 0; k < h; k++) v[k] = f(v[k], v[k + h]);
        }
        return v[0];
    }
};

/* The sum of value(column) over a row, and of two values at once (value gives a Two); sums of short sums. */
constexpr int kRun = 4096;
template <class V> struct Two { V a, b; };

template <class V, class F> GEMS_DI V row_sum(int n, F value) {
    V total = 0;
    for (int from = 0; from < n; from += kRun) {
        Lanes<V> sum;
        sum.fill(0);
        spans(from, n - from < kRun ? n : from + kRun, [&](int c, auto w) {
            GEMS_IVDEP for (int k = 0; k < w.count; k++)
                sum.v[k] += value(c + k);
        });
        total += sum.fold(Sum{});
    }
    return total;
}

template <class V, class F> GEMS_DI Two<V> row_sums(int n, F value) {
    Two<V> total{0, 0};
    for (int from = 0; from < n; from += kRun) {
        Lanes<V> a, b;
        a.fill(0);
        b.fill(0);
        spans(from, n - from < kRun ? n : from + kRun, [&](int c, auto w) {
            GEMS_IVDEP for (int k = 0; k < w.count; k++) {
                Two<V> t = value(c + k);
                a.v[k] += t.a;
                b.v[k] += t.b;
            }
        });
        total.a += a.fold(Sum{});
        total.b += b.fold(Sum{});
    }
    return total;
}

/* to[column] = value(column) over a row. */
template <class U, class F> GEMS_DI void row_map(U* to, int n, F value) {
    spans(0, n, [&](int c, auto w) {
        GEMS_IVDEP for (int k = 0; k < w.count; k++)
            to[c + k] = from_op<U>(value(c + k));
    });
}
