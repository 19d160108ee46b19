/* Rows of a matrix, each done by a team: a warp, a block, or a cluster of blocks with a part of the row each. A team keeps the
 * row while it is read several times.
 *
 * The program's head gives kVec (elements of one access), kStage (where a row is kept), kItems (vectors of a thread kept in registers), kWarpRow,
 * kThreads (of a block), kCluster (blocks of a team),
 * kAhead (while a team writes a row, its next one is copied to where it was in shared memory; in few kernels) and
 * kEdges (rows begin and end anywhere: not at whole vectors). cluster.cuh comes before this file. All of it has run on an
 * H200.
 */
using namespace gems;

/* Where a row is kept: nowhere (it is read again), in registers, in shared memory. */
enum { kAgain, kRegisters, kShared };

/* Blocks of a processor, so that one reads while another one writes: it bounds the registers of a thread to 64. */
constexpr int kResident = kWarpRow ? (sizeof(T) * kVec * kItems <= 128 && !kEdges ? 1024 / kThreads : 1)
                          : kStage == kAgain || kThreads < 256 ? 1 : 1024 / kThreads;

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
GEMS_DI int part_size(int n) { return kCluster > 1 || kEdges ? ((n + kVec - 1) / kVec + kCluster - 1) / kCluster * kVec : n; }
GEMS_DI Part team_part(int n) {
    if constexpr (kCluster == 1) return Part{0, n};
    int size = part_size(n), first = size * team_block();
    return Part{first < n ? first : n, first + size < n ? first + size : n};
}

/* f(item, column) for the vectors of a row of n elements that are this thread's, not more than kItems where that is more than
 * one; n is a multiple of kVec. */
template <class F> GEMS_DI void each_vector(int n, F f) {
    int lane = kWarpRow ? (int)threadIdx.x % kWarp : (int)threadIdx.x, lanes = kWarpRow ? kWarp : kThreads;
    Part part = team_part(n);
    if constexpr (kStage == kRegisters || kItems > 1) {
        GEMS_UNROLL for (int q = 0; q < kItems; q++) {
            int column = part.first + (q * lanes + lane) * kVec;
            if (column < part.stop) f(q, column);
        }
    } else {
#pragma unroll 2
        for (int column = part.first + lane * kVec; column < part.stop; column += lanes * kVec) f(0, column);
    }
}

/* ---- rows that begin anywhere ---- */

/* Where the whole vectors of a row lie. Columns count from the first of them: those before it are negative. */
struct Frame {
    int n, whole, head; /* elements: all, those in whole vectors, those before the first of these */
    GEMS_DI Frame(int n) : n(n), whole(n), head(0) {}
    GEMS_DI Frame(int n, int whole, int head) : n(n), whole(whole), head(head) {}
};
/* Of a row of n elements at p; all tensors that are read and written by it have such a row at the same distance from a vector. */
template <class U> GEMS_DI Frame frame_of(const U* p, int n) {
    if constexpr (!kEdges) return Frame(n);
    int past = (int)((uint64_t)p / sizeof(U) % kVec), head = past ? kVec - past : 0;
    if (head > n) head = n;
    return Frame(n, (n - head) / kVec * kVec, head);
}
/* The element that this thread has of those in no whole vector. */
struct Edge {
    int column;
    bool real;
};
GEMS_DI Edge edge_of(const Frame& row) {
    int lane = team_lane();
    return Edge{lane < row.head ? lane - row.head : row.whole + lane - row.head, lane < row.n - row.whole};
}
/* Elements of a row that the block has. */
GEMS_DI int part_count(const Frame& row) {
    Part part = team_part(row.whole);
    return part.stop - part.first + (kEdges && team_block() == 0 ? row.n - row.whole : 0);
}

template <int N> struct Pieces { static constexpr int count = N; };
/* f(item, column, Pieces): this thread's vectors, and its element in none of them. */
template <class F> GEMS_DI void each_piece(const Frame& row, F f) {
    each_vector(row.whole, [&](int q, int c) { f(q, c, Pieces<kVec>{}); });
    if constexpr (kEdges) {
        Edge edge = edge_of(row);
        if (edge.real) f(0, edge.column, Pieces<1>{});
    }
}
/* What each_piece asks for of a row that is kept. */
template <class Row, class W> GEMS_DI auto piece(const Row& row, int q, int c, W) {
    if constexpr (kEdges && W::count == 1) return row.edge;
    else return row.at(q, c);
}
/* The same for the last time. */
template <class Row, class W> GEMS_DI auto last_piece(const Row& row, int q, int c, W w) {
    if constexpr (kAhead && W::count == kVec) return row.last(q, c);
    else return piece(row, q, c, w);
}
/* The same of a tensor that all rows read, whatever it lies at; p: its element of column 0, end: behind its last. */
template <class W, class U> GEMS_DI Vec<U, W::count> piece_of(const U* p, int c, const U* end, W) {
    if constexpr (!kEdges || W::count == 1) return load<W::count>(p + c);
    Vec<U, W::count> v;
#if !GEMS_CPU
    if constexpr (sizeof v == 16) { /* two vectors, of which the bytes from `past` on are wanted */
        const uint64_t at = (uint64_t)(p + c), from = at & ~(uint64_t)15;
        const int past = (int)(at & 15);
        if (from + 32 <= (uint64_t)end || past == 0) {
            uint32_t w[8];
            Vec<uint32_t, 4> low = load<4>((const uint32_t*)from), high = load<4>((const uint32_t*)(past ? from + 16 : from));
            memcpy(w, &low, 16);
            memcpy(w + 4, &high, 16);
            GEMS_UNROLL for (int i = 0; i < 6; i++) w[i] = past & 8 ? w[i + 2] : w[i];
            GEMS_UNROLL for (int i = 0; i < 5; i++) w[i] = past & 4 ? w[i + 1] : w[i];
            GEMS_UNROLL for (int i = 0; i < 4; i++) w[i] = (uint32_t)(((uint64_t)w[i + 1] << 32 | w[i]) >> past % 4 * 8);
            memcpy(&v, w, 16);
            return v;
        }
    }
#endif
    GEMS_UNROLL for (int k = 0; k < W::count; k++) v.v[k] = p[c + k];
    return v;
}

/* Waits for what is copied to shared memory. */
GEMS_DI void landed() {
    if constexpr (kStage == kShared) cp_async_wait<0>();
}

/* A thread's part of a row. What it stages in shared memory only it reads again, so no barrier is needed. */
template <class T> struct Kept {
    const T* row;
    T* shared; /* room for the block's part of the row, where it is kept there */
    int first; /* column of that part */
    Vec<T, kVec> held[kStage == kRegisters ? kItems : 1];
    Vec<T, 1> edge; /* the element of edge_of */

    const T* next; /* what is copied ahead: the next row's column 0; NULL: there is none */
    Frame next_at = Frame(0);
    Part next_part;

    GEMS_DI void fetch(const T* from, int n) {
        start(from, n);
        take(from, n);
        landed();
    }
    /* Reads the row of n elements that begins at `from`: it is there behind landed() and take(). */
    GEMS_DI void start(const T* from, int n) {
        const Frame at = frame_of(from, n);
        from += at.head;
        first = team_part(at.whole).first;
        if constexpr (kStage == kShared && sizeof(T) * kVec == 16) {
            each_vector(at.whole, [&](int, int c) { cp_async16(shared + (c - first), from + c); });
            cp_async_commit();
        } else if constexpr (kStage == kShared) {
            each_vector(at.whole, [&](int, int c) { store<kVec>(shared + (c - first), load<kVec>(from + c)); });
        } else if constexpr (kStage == kRegisters) {
            each_vector(at.whole, [&](int q, int c) { held[q] = load<kVec>(from + c); });
        }
    }
    GEMS_DI void take(const T* from, int n) {
        const Frame at = frame_of(from, n);
        row = from + at.head;
        first = team_part(at.whole).first;
        if constexpr (kEdges) {
            Edge own = edge_of(at);
            edge.v[0] = own.real ? row[own.column] : T{};
        }
    }
    GEMS_DI Vec<T, kVec> at(int q, int column) const {
        if constexpr (kStage == kRegisters) return kItems == 1 ? held[q] : made_again(held[q]);
        else if constexpr (kStage == kShared) return load<kVec>(shared + (column - first));
        else return load<kVec>(row + column);
    }
    /* The row that `last` copies where it has read this one, after its last vector of which followed() is called. */
    GEMS_DI void follow(const T* from, int n) {
        if constexpr (kAhead) {
            next = nullptr;
            if (!from) return;
            next_at = frame_of(from, n);
            next = from + next_at.head;
            next_part = team_part(next_at.whole);
        }
    }
    GEMS_DI Vec<T, kVec> last(int q, int column) const {
        Vec<T, kVec> v = at(q, column);
        if constexpr (kAhead) {
            int c = kEdges ? column - first + next_part.first : column;
            if (next && (!kEdges || c < next_part.stop)) cp_async16(shared + (column - first), next + c);
        }
        return v;
    }
    GEMS_DI void followed(const Frame& at) const {
        if constexpr (kAhead) {
            if (kEdges && next) { /* it may have a vector more */
                const int there = team_part(at.whole).stop - first;
                each_vector(next_at.whole, [&](int, int c) {
                    if (c - next_part.first >= there) cp_async16(shared + (c - next_part.first), next + c);
                });
            }
            cp_async_commit();
        }
    }
    GEMS_DI T some() const { return row[0]; }
};

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
