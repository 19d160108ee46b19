/* Scans by the threads of blocks. Twin of csrc/families/scan.c; scan.cuh says what is accumulated.
 *
 * Row form: a group of threads or a block takes one line, tile after tile. Column form: lines lie side by side; a thread
 * takes kVec lines, threadIdx.y parts of each. In both, gridDim.y blocks may share a line: `totals` leaves what each has
 * accumulated, and `scan` begins with what the blocks before have. All is joined in one fixed order, so that two runs give
 * the same bits.
 */

/* ---- rows ---- */

/* A thread's accesses of the next kRing - 1 tiles, which are copied to shared memory while it works on this one. What it copies
 * only it reads, so no barrier is needed. The last accesses of a line may be parts: those are read when they are wanted. */
struct Ring {
    const In* x;
    In* slots;
    Index end;
    GEMS_DI bool has(Index from) const { return from < end && (!kEdges || (from >= 0 && from + kVec <= end)); }
    GEMS_DI In* slot(int turn, int q) const {
        return slots + ((turn % kRing * kItems + q) * (int)blockDim.x + (int)threadIdx.x) * kVec;
    }
    GEMS_DI void copy(int turn, Index first) const {
        GEMS_UNROLL for (int q = 0; q < kItems; q++) {
            Index from = first + q * kTeam * kVec;
            if (has(from)) cp_async16(slot(turn, q), x + from);
        }
        cp_async_commit();
    }
    GEMS_DI void get(int turn, int q, Index from, Acc (&a)[kVec]) const {
        if (!has(from)) return fetch(x, from, 1, end, a);
        Vec<In, kVec> v = load<kVec>(slot(turn, q));
        GEMS_UNROLL for (int k = 0; k < kVec; k++) a[k] = element(v.v[k], from + k);
    }
};

/* The elements [begin, end) of a line after `carry`; what is accumulated in the end. A line that is not real is read and
 * not written. */
template <bool Write>
GEMS_DI Carry scan_row(const In* x, Out* y, int64_t* where, const Lines& s, Index line, bool real, Index begin, Index end,
                       Carry carry, Carry* buf) {
    const int team = kGroup ? 0 : (int)threadIdx.x / kTeam, teams = kGroup ? 1 : (int)blockDim.x / kTeam;
    const Start at = start_of(s, line);
    x += at.at[0];
    /* Lines of a warp go through as many tiles, wherever they begin. */
    const Index before = before_line(at.at[0]), stop = end < (Index)s.n || !kEdges ? end : end + kVec - 1;
    if (end < (Index)s.n) end -= before;
    const Index size = (Index)kSpan * teams, mine = (Index)(team * kSpan + team_lane() * kVec) - before;
    GEMS_DYN_SMEM(In, slots);
    const Ring ring{x, slots, end};
    if constexpr (kRing > 0)
        for (int i = 0; i < kRing - 1; i++) ring.copy(i, begin + i * size + mine);
    int turn = 0;
    for (Index tile = begin; tile < stop; tile += size, turn++) {
        Index first = tile + mine;
        Acc run = identity();
        Part part;
        if constexpr (kRing > 0) {
            ring.copy(turn + kRing - 1, first + (kRing - 1) * size);
            cp_async_wait<kRing - 1>();
            part.take([&](int q) { ring.get(turn, q, first + q * kTeam * kVec, part.a[q]); });
        } else {
            part.take(x, first, step_of(s, 0), end);
        }
        if constexpr (kGroup == 0) run = part.share(buf);
        if constexpr (Write) part.write(y, where, s, at, first, end, carry, run, real);
        carry = join(carry, part.total);
    }
    return carry;
}

/* What the parts before `part` have accumulated, in order. */
GEMS_DI Carry before_part(const Carry* partial, int64_t count, Index line, int part, Carry* buf) {
    Carry a = no_carry<Carry>();
    if (part == 0) return a;
    int each = (part + (int)blockDim.x - 1) / (int)blockDim.x, from = (int)threadIdx.x * each;
    for (int p = from; p < from + each && p < part; p++) a = join(a, partial[p * count + line]);
    return block_reduce(a, Join{}, buf);
}

template <bool Write>
GEMS_DI void block_rows(const In* x, Out* y, int64_t* where, Carry* partial, const Lines& s, Index begin, Index end) {
    __shared__ Carry buf[33];
    if constexpr (kGroup == 0) {
        for (int64_t line = blockIdx.x; line < s.count; line += gridDim.x) {
            Carry carry = Write ? before_part(partial, s.count, (Index)line, (int)blockIdx.y, buf) : no_carry<Carry>();
            Carry last = scan_row<Write>(x, y, where, s, (Index)line, true, begin, end, carry, buf);
            if (!Write && threadIdx.x == 0) partial[(int64_t)blockIdx.y * s.count + line] = last;
        }
    } else {
        /* A warp goes on together, since all its lanes take part in a shuffle: a group without a line reads the last. */
        int64_t rows = (int)blockDim.x / kTeam, mine = (int)threadIdx.x / kTeam;
        for (int64_t first = blockIdx.x * rows; first < s.count; first += gridDim.x * rows) {
            bool real = first + mine < s.count;
            Index line = (Index)(real ? first + mine : s.count - 1);
            scan_row<Write>(x, y, where, s, line, real, begin, end, no_carry<Carry>(), buf);
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
scan(const In* x, Out* y, int64_t* where, Carry* partial, Lines s, int64_t chunk) {
    int64_t first = chunk * blockIdx.y, last = first + chunk < s.n ? first + chunk : s.n;
    if constexpr (kRow) block_rows<true>(x, y, where, partial, s, (Index)first, (Index)last);
    else block_columns<true>(x, y, where, (Acc*)partial, s, (Index)first, (Index)last);
}

/* partial[part * lines + line] = what a part of a line accumulates. */
extern "C" __global__ void __launch_bounds__(256, 1)
totals(const In* x, Out* y, int64_t* where, Carry* partial, Lines s, int64_t chunk) {
    int64_t first = chunk * blockIdx.y, last = first + chunk < s.n ? first + chunk : s.n;
    if constexpr (kRow) block_rows<false>(x, y, where, partial, s, (Index)first, (Index)last);
    else block_columns<false>(x, y, where, (Acc*)partial, s, (Index)first, (Index)last);
}
