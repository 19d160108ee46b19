/* Scans by the threads of blocks. Twin of csrc/families/scan.c; scan.cuh says what is accumulated.
 *
 * Row form: a group of threads or a block takes one line, tile after tile. Column form: lines lie side by side; a thread
 * takes kVec lines, threadIdx.y parts of each. In both, gridDim.y blocks may share a line: `totals` leaves what each has
 * accumulated, and `scan` begins with what the blocks before have. All is joined in one fixed order, so that two runs give
 * the same bits; blocks that look back at whatever the ones before have ready would not.
 */

/* ---- accesses of kVec elements ---- */

template <class T> GEMS_DI void store_pieces(T* p, const Vec<T, kVec>& v) {
    constexpr int piece = sizeof(T) * kVec > 16 ? 16 / (int)sizeof(T) : kVec;
    GEMS_UNROLL for (int k = 0; k < kVec; k += piece) {
        Vec<T, piece> part;
        GEMS_UNROLL for (int j = 0; j < piece; j++) part.v[j] = v.v[k + j];
        store<piece>(p + k, part);
    }
}
/* kVec > 1 only where lines are contiguous and their lengths and starts multiples of kVec. */
GEMS_DI void fetch(const In* x, Index from, Index step, Index end, Acc (&a)[kVec]) {
    if (from < end) {
        Vec<In, kVec> v = load<kVec>(x + from * step);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) a[k] = element(v.v[k], from + k);
    } else {
        GEMS_UNROLL for (int k = 0; k < kVec; k++) a[k] = identity();
    }
}
GEMS_DI void put(Out* y, Index y_at, int64_t* where, Index where_at, const Acc (&a)[kVec]) {
    Vec<Out, kVec> v;
    GEMS_UNROLL for (int k = 0; k < kVec; k++) v.v[k] = result(a[k]);
    store_pieces(y + y_at, v);
    if constexpr (kPlaces) {
        Vec<int64_t, kVec> w;
        GEMS_UNROLL for (int k = 0; k < kVec; k++) w.v[k] = place_of(a[k]);
        store_pieces(where + where_at, w);
    }
}

/* ---- rows ---- */

constexpr int kTeam = kGroup ? kGroup : 32;

/* The elements [begin, end) of a line after `carry`; what is accumulated in the end. A warp's (group's) part of a tile
 * is contiguous: kItems accesses of all its lanes. A line that is not real is read and not written. */
template <bool Write>
GEMS_DI Acc scan_row(const In* x, Out* y, int64_t* where, const Lines& s, Index line, bool real, Index begin, Index end,
                     Acc carry, Acc* buf) {
    const int lane = (int)threadIdx.x % kTeam, team = kGroup ? 0 : (int)threadIdx.x / kTeam;
    const int teams = kGroup ? 1 : (int)blockDim.x / kTeam;
    constexpr int kSpan = kTeam * kVec * kItems;
    const Index step = step_of(s, 0);
    const Start at = start_of(s, line);
    x += at.at[0];
    for (Index tile = begin; tile < end; tile += (Index)kSpan * teams) {
        Index first = tile + (Index)(team * kSpan + lane * kVec);
        Acc a[kItems][kVec], before[kItems], all[kItems];
        GEMS_UNROLL for (int q = 0; q < kItems; q++) fetch(x, first + q * kTeam * kVec, step, end, a[q]);
        GEMS_UNROLL for (int q = 0; q < kItems; q++) {
            GEMS_UNROLL for (int k = 1; k < kVec; k++) a[q][k] = join(a[q][k - 1], a[q][k]);
            Acc sum = a[q][kVec - 1];
            GEMS_UNROLL for (int o = 1; o < kTeam; o <<= 1) {
                Acc left = shuffle_up(sum, o);
                if (lane >= o) sum = join(left, sum);
            }
            before[q] = shuffle_up(sum, 1);
            if (lane == 0) before[q] = identity();
            all[q] = shuffle_from(sum, (int)threadIdx.x % 32 | (kTeam - 1));
        }
        Acc run = carry;
        if constexpr (kGroup == 0) {
            Acc mine = all[0];
            GEMS_UNROLL for (int q = 1; q < kItems; q++) mine = join(mine, all[q]);
            __syncthreads();
            if (lane == 0) buf[team] = mine;
            __syncthreads();
            for (int i = 0; i < teams; i++) {
                if (i == team) run = carry;
                carry = join(carry, buf[i]);
            }
        }
        GEMS_UNROLL for (int q = 0; q < kItems; q++) {
            Acc left = join(run, before[q]);
            run = join(run, all[q]);
            Index from = first + q * kTeam * kVec;
            if constexpr (Write) {
                GEMS_UNROLL for (int k = 0; k < kVec; k++) a[q][k] = join(left, a[q][k]);
                if (real && from < end)
                    put(y, at.at[1] + from * step_of(s, 1), where, at.at[2] + from * step_of(s, 2), a[q]);
            }
        }
        if constexpr (kGroup != 0) carry = run;
    }
    return carry;
}

/* What the parts before `part` have accumulated, in order. */
GEMS_DI Acc before_part(const Acc* partial, int64_t count, Index line, int part, Acc* buf) {
    Acc a = identity();
    if (part == 0) return a;
    int each = (part + (int)blockDim.x - 1) / (int)blockDim.x, from = (int)threadIdx.x * each;
    for (int p = from; p < from + each && p < part; p++) a = join(a, partial[p * count + line]);
    return block_reduce(a, Join{}, buf);
}

template <bool Write>
GEMS_DI void block_rows(const In* x, Out* y, int64_t* where, Acc* partial, const Lines& s, Index begin, Index end) {
    __shared__ Acc buf[33];
    if constexpr (kGroup == 0) {
        for (int64_t line = blockIdx.x; line < s.count; line += gridDim.x) {
            Acc carry = Write ? before_part(partial, s.count, (Index)line, (int)blockIdx.y, buf) : identity();
            Acc last = scan_row<Write>(x, y, where, s, (Index)line, true, begin, end, carry, buf);
            if (!Write && threadIdx.x == 0) partial[(int64_t)blockIdx.y * s.count + line] = last;
        }
    } else {
        /* A warp goes on together, since all its lanes take part in a shuffle: a group without a line reads the last. */
        int64_t rows = (int)blockDim.x / kTeam, mine = (int)threadIdx.x / kTeam;
        for (int64_t first = blockIdx.x * rows; first < s.count; first += gridDim.x * rows) {
            bool real = first + mine < s.count;
            Index line = (Index)(real ? first + mine : s.count - 1);
            scan_row<Write>(x, y, where, s, line, real, begin, end, identity(), buf);
        }
    }
}

/* ---- columns ---- */

/* kVec lines of a thread; threadIdx.y takes kItems elements of each in a tile. */
template <bool Write>
GEMS_DI void block_columns(const In* x, Out* y, int64_t* where, Acc* partial, const Lines& s, Index begin, Index end) {
    GEMS_DYN_SMEM(Acc, buf);
    const int bx = (int)blockDim.x, by = (int)blockDim.y, tx = (int)threadIdx.x, ty = (int)threadIdx.y;
    const int64_t units = s.count / kVec;
    for (int64_t first = (int64_t)blockIdx.x * bx; first < units; first += (int64_t)gridDim.x * bx) {
        bool real = first + tx < units;
        Index line = (Index)((real ? first + tx : 0) * kVec);
        Start at = start_of(s, line);
        Acc carry[kVec];
        GEMS_UNROLL for (int k = 0; k < kVec; k++) carry[k] = identity();
        auto share = [&](Acc (&mine)[kVec], Acc (&left)[kVec]) { /* left: carry and the threads before; carry grows */
            __syncthreads();
            GEMS_UNROLL for (int k = 0; k < kVec; k++) buf[(ty * bx + tx) * kVec + k] = mine[k];
            __syncthreads();
            for (int i = 0; i < by; i++) {
                GEMS_UNROLL for (int k = 0; k < kVec; k++) {
                    if (i == ty) left[k] = carry[k];
                    carry[k] = join(carry[k], buf[(i * bx + tx) * kVec + k]);
                }
            }
        };
        if (Write && blockIdx.y) {
            int part = (int)blockIdx.y, each = (part + by - 1) / by;
            Acc mine[kVec], left[kVec];
            GEMS_UNROLL for (int k = 0; k < kVec; k++) mine[k] = identity();
            for (int p = ty * each; p < (ty + 1) * each && p < part; p++)
                GEMS_UNROLL for (int k = 0; k < kVec; k++) mine[k] = join(mine[k], partial[p * s.count + line + k]);
            share(mine, left);
        }
        for (Index tile = begin; tile < end; tile += (Index)(by * kItems)) {
            Acc a[kItems][kVec], mine[kVec], left[kVec];
            GEMS_UNROLL for (int q = 0; q < kItems; q++) {
                Index place = tile + ty * kItems + q;
                if (real && place < end) {
                    Vec<In, kVec> v = load<kVec>(x + at.at[0] + place * (Index)s.step[0]);
                    GEMS_UNROLL for (int k = 0; k < kVec; k++) a[q][k] = element(v.v[k], place);
                } else {
                    GEMS_UNROLL for (int k = 0; k < kVec; k++) a[q][k] = identity();
                }
            }
            GEMS_UNROLL for (int k = 0; k < kVec; k++) {
                GEMS_UNROLL for (int q = 1; q < kItems; q++) a[q][k] = join(a[q - 1][k], a[q][k]);
                mine[k] = a[kItems - 1][k];
            }
            if (by > 1) {
                share(mine, left);
            } else {
                GEMS_UNROLL for (int k = 0; k < kVec; k++) {
                    left[k] = carry[k];
                    carry[k] = join(carry[k], mine[k]);
                }
            }
            if constexpr (Write) {
                GEMS_UNROLL for (int q = 0; q < kItems; q++) {
                    Index place = tile + ty * kItems + q;
                    GEMS_UNROLL for (int k = 0; k < kVec; k++) a[q][k] = join(left[k], a[q][k]);
                    if (real && place < end)
                        put(y, at.at[1] + place * (Index)s.step[1], where, at.at[2] + place * (Index)s.step[2], a[q]);
                }
            }
        }
        if (!Write && real && ty == 0)
            GEMS_UNROLL for (int k = 0; k < kVec; k++) partial[(int64_t)blockIdx.y * s.count + line + k] = carry[k];
    }
}

/* ---- entries ---- */

/* chunk: elements of one block along y. */
extern "C" __global__ void __launch_bounds__(256, 1)
scan(const In* x, Out* y, int64_t* where, Acc* partial, Lines s, int64_t chunk) {
    int64_t first = chunk * blockIdx.y, last = first + chunk < s.n ? first + chunk : s.n;
    if constexpr (kRow) block_rows<true>(x, y, where, partial, s, (Index)first, (Index)last);
    else block_columns<true>(x, y, where, partial, s, (Index)first, (Index)last);
}

/* partial[part * lines + line] = what a part of a line accumulates. */
extern "C" __global__ void __launch_bounds__(256, 1)
totals(const In* x, Out* y, int64_t* where, Acc* partial, Lines s, int64_t chunk) {
    int64_t first = chunk * blockIdx.y, last = first + chunk < s.n ? first + chunk : s.n;
    if constexpr (kRow) block_rows<false>(x, y, where, partial, s, (Index)first, (Index)last);
    else block_columns<false>(x, y, where, partial, s, (Index)first, (Index)last);
}
