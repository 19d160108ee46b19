/* Rows of a matrix, each done by a team: a warp, a block, or a cluster of blocks with a part of the row each. A team keeps the
 * row while it is read several times.
 *
 * The program's head gives kVec (elements of one access), kStage (where a row is kept), kItems (vectors of a thread kept in registers), kWarpRow,
 * kThreads (of a block), kCluster (blocks of a team) and
 * kAhead (while a team does a row, its next one is copied to shared memory). cluster.cuh comes before this file. Clusters have run on an
 * H200; copying ahead has not run on a GPU yet.
 */
using namespace gems;

/* Where a row is kept: nowhere (it is read again), in registers, in shared memory. */
enum { kAgain, kRegisters, kShared };

/* Blocks of a processor, so that one reads while another one writes: it bounds the registers of a thread to 64. */
constexpr int kResident = kWarpRow || kStage == kAgain || kThreads < 256 ? 1 : 1024 / kThreads;

/* The block's number in its team. */
GEMS_DI int team_block() { return kCluster > 1 ? (int)(blockIdx.x % kCluster) : 0; }
GEMS_DI int team_lane() { return kWarpRow ? (int)threadIdx.x % kWarp : team_block() * kThreads + (int)threadIdx.x; }
GEMS_DI int team_size() { return kWarpRow ? kWarp : kThreads * kCluster; }

/* A row of a team and the one that it does next; -1: none. */
struct Turn {
    int64_t row, next;
    bool first;
};
/* f(turn) for the rows of this team. */
template <class F> GEMS_DI void each_turn(int64_t rows, F f) {
    if constexpr (kFast) {
        int64_t chunk = (rows + gridDim.x - 1) / gridDim.x, row = chunk * blockIdx.x;
        int64_t stop = row + chunk < rows ? row + chunk : rows;
        for (; row < stop; row++) f(Turn{row, -1, true});
    } else {
        int teams = kWarpRow ? kThreads / kWarp : 1, team = kWarpRow ? (int)threadIdx.x / kWarp : 0;
        int64_t first = (int64_t)(blockIdx.x / kCluster) * teams + team, step = (int64_t)(gridDim.x / kCluster) * teams;
        if constexpr (kCluster > 1) cluster_arrive(); /* team_join waits for this, and at last the end does */
        for (int64_t row = first; row < rows; row += step) f(Turn{row, row + step < rows ? row + step : -1, row == first});
        if constexpr (kCluster > 1) cluster_wait();
    }
}
/* f(row) for the rows of this team. */
template <class F> GEMS_DI void each_row(int64_t rows, F f) {
    each_turn(rows, [&](const Turn& turn) { f(turn.row); });
}

/* f over what the threads of this warp or block have. */
template <class V, class F> GEMS_DI V part_reduce(V v, F f, V* buf) {
    if constexpr (kWarpRow) return warp_reduce(v, f);
    else return block_reduce(v, f, buf);
}
/* f over what the blocks of a team have, in their order; every thread of a block has the same v. */
template <class V, class F> GEMS_DI V team_join(V v, F f, V* buf) {
    if constexpr (kCluster > 1) {
        cluster_wait(); /* nobody reads any more what was there before */
        if (threadIdx.x == 0) buf[32] = v;
        cluster_arrive();
        cluster_wait();
        v = cluster_read(buf + 32, (int)threadIdx.x % kCluster);
        cluster_arrive();
        GEMS_UNROLL for (int o = 1; o < kCluster; o <<= 1) {
            V other = shuffle_xor(v, o);
            bool right = threadIdx.x & o;
            v = f(right ? other : v, right ? v : other);
        }
    }
    return v;
}
template <class V, class F> GEMS_DI V team_reduce(V v, F f, V* buf) { return team_join(part_reduce(v, f, buf), f, buf); }

/* The columns of a row of n elements that are this block's, whole vectors. */
struct Part {
    int first, stop;
};
GEMS_DI int part_size(int n) { return kCluster > 1 ? ((n + kVec - 1) / kVec + kCluster - 1) / kCluster * kVec : n; }
GEMS_DI Part team_part(int n) {
    if constexpr (kCluster == 1) return Part{0, n};
    int size = part_size(n), first = size * team_block();
    return Part{first < n ? first : n, first + size < n ? first + size : n};
}

/* f(item, column) for the vectors of a row of n elements that are this thread's; n is a multiple of kVec. */
template <class F> GEMS_DI void each_vector(int n, F f) {
    int lane = kWarpRow ? (int)threadIdx.x % kWarp : (int)threadIdx.x, lanes = kWarpRow ? kWarp : kThreads;
    Part part = team_part(n);
    if constexpr (kStage == kRegisters) {
        GEMS_UNROLL for (int q = 0; q < kItems; q++) {
            int column = part.first + (q * lanes + lane) * kVec;
            if (column < part.stop) f(q, column);
        }
    } else {
#pragma unroll 2
        for (int column = part.first + lane * kVec; column < part.stop; column += lanes * kVec) f(0, column);
    }
}

/* A thread's part of a row. What it stages in shared memory only it reads again, so no barrier is needed. */
template <class T> struct Kept {
    const T* row;
    T* shared; /* room for the block's part of the row, where it is kept there */
    int first; /* column of that part */
    Vec<T, kVec> held[kStage == kRegisters ? kItems : 1];

    GEMS_DI void fetch(const T* from, int n) {
        row = from;
        first = team_part(n).first;
        if constexpr (kStage == kRegisters) each_vector(n, [&](int q, int c) { held[q] = load<kVec>(from + c); });
        if constexpr (kStage == kShared) {
            if constexpr (sizeof(T) * kVec == 16) {
                each_vector(n, [&](int, int c) { cp_async16(shared + (c - first), from + c); });
                cp_async_commit();
                cp_async_wait<0>();
            } else {
                each_vector(n, [&](int, int c) { store<kVec>(shared + (c - first), load<kVec>(from + c)); });
            }
        }
    }
    /* The same in two steps, between which landed() waits; the next row may start when this one is taken. */
    GEMS_DI void start(const T* from, int n) {
        if constexpr (kAhead) {
            first = team_part(n).first;
            each_vector(n, [&](int q, int c) { cp_async16(shared + (c - first), from + c); });
            cp_async_commit();
        } else {
            fetch(from, n);
        }
    }
    GEMS_DI void take(int n) {
        if constexpr (kAhead) each_vector(n, [&](int q, int c) { held[q] = load<kVec>(shared + (c - first)); });
    }
    GEMS_DI Vec<T, kVec> at(int q, int column) const {
        if constexpr (kStage == kRegisters) return kItems == 1 ? held[q] : made_again(held[q]);
        else if constexpr (kStage == kShared) return load<kVec>(shared + (column - first));
        else return load<kVec>(row + column);
    }
    GEMS_DI T some() const { return row[0]; }
};

GEMS_DI void landed() {
    if constexpr (kAhead) cp_async_wait<0>();
}

/* What is written of long rows need not stay in the caches; and the next vector's operands are not read before it is written,
 * for which there are no registers. */
template <int N, class U> GEMS_DI void store_row(U* p, const Vec<U, N>& v) {
    if constexpr (kStage == kRegisters && kThreads * kItems <= 1024) store<N>(p, v);
    else store_stream<N>(p, v);
}

/* The dynamic shared memory, as the place where the block's part of row `index` of the rows that are kept at once lies. */
template <class T> GEMS_DI T* shared_row(int index, int n) {
    GEMS_DYN_SMEM(T, rows);
    return rows + (int64_t)index * part_size(n);
}

/* ---- one thread a block ---- */

/* How many elements are done beside each other: a constant, or what is left at the end of a row. */
template <int W> struct Full { static constexpr int count = W; };
struct Rest { int count; };

constexpr int kWide = sizeof(T) == 8 ? 32 : 64;

/* f(column, width) over [from, to): loops over width.count elements, of which the compiler makes vectors. */
template <class F> GEMS_DI void spans(int from, int to, F f) {
    for (; from + kWide <= to; from += kWide) f(from, Full<kWide>{});
    if (from < to) f(from, Rest{to - from});
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
