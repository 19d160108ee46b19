/* Accesses of kVec elements, and the tiles of a line that a block or a group of threads goes through: what scan.cu and
 * scan_chain.cu share.
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
/* kVec > 1 only where lines are contiguous, and begin at accesses and have whole ones, or (kEdges) all begin at the same distance
 * from one in every tensor. */
GEMS_DI void fetch(const In* x, Index from, Index step, Index end, Acc (&a)[kVec]) {
    if (kEdges && from < end && (from < 0 || from + kVec > end)) {
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            Index at = from + k;
            a[k] = at >= 0 && at < end ? element(x[at], at) : identity();
        }
    } else if (from < end) {
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

/* The same of what a line has of them. */
GEMS_DI void put_part(Out* y, int64_t* where, Index from, Index end, const Acc (&a)[kVec]) {
    GEMS_UNROLL for (int k = 0; k < kVec; k++) {
        Index at = from + k;
        if (at < 0 || at >= end) continue;
        y[at] = result(a[k]);
        if constexpr (kPlaces) where[at] = place_of(a[k]);
    }
}
/* Elements of a line that begins here which the access that has its first one has before that. */
GEMS_DI Index before_line(Index at) { return kEdges ? at & (kVec - 1) : 0; }

/* ---- tiles ---- */

constexpr int kTeam = kGroup ? kGroup : 32;
constexpr int kSpan = kTeam * kVec * kItems; /* a warp's (group's) part of a tile: kItems accesses of all its lanes */

GEMS_DI int team_lane() { return (int)threadIdx.x % kTeam; }

/* A thread's part of a tile, scanned: elements after those of its access, and what its warp (group) has before each. */
template <class A, class K> struct PartOf {
    static constexpr bool exact = is_same<K, Exact>;
    A a[kItems][kVec], before[kItems], all[kItems];
    K total; /* of the warp (group) */

    /* first: of this thread's first access; those behind `end` are not read. */
    GEMS_DI void take(const In* x, Index first, Index step, Index end) {
        take([&](int q) { fetch(x, first + q * kTeam * kVec, step, end, a[q]); });
    }
    /* get(q) gives a[q]. */
    template <class Get> GEMS_DI void take(Get get) {
        const int lane = team_lane();
        K own = no_carry<K>();
        GEMS_UNROLL for (int q = 0; q < kItems; q++) get(q);
        GEMS_UNROLL for (int q = 0; q < kItems; q++) {
            GEMS_UNROLL for (int k = 1; k < kVec; k++) {
                A sum = join(a[q][k - 1], a[q][k]);
                if constexpr (exact) own.lo += lost(a[q][k - 1], a[q][k], sum);
                a[q][k] = sum;
            }
            A sum = a[q][kVec - 1];
            if constexpr (exact) own = join(own, K{sum, 0});
            GEMS_UNROLL for (int o = 1; o < kTeam; o <<= 1) {
                A left = shuffle_up(sum, o);
                if (lane >= o) sum = join(left, sum);
            }
            before[q] = shuffle_up(sum, 1);
            if (lane == 0) before[q] = identity_of<A>();
            all[q] = shuffle_from(sum, (int)threadIdx.x % 32 | (kTeam - 1));
        }
        if constexpr (exact) {
            total = warp_reduce(own, Join{});
        } else {
            total = all[0];
            GEMS_UNROLL for (int q = 1; q < kItems; q++) total = join(total, all[q]);
        }
    }

    /* What the warps before this one have; total becomes that of the block. buf: one a warp. */
    GEMS_DI A share(K* buf) {
        const int team = (int)threadIdx.x / kTeam, teams = (int)blockDim.x / kTeam;
        A run = identity_of<A>();
        __syncthreads();
        if (team_lane() == 0) buf[team] = total;
        __syncthreads();
        total = no_carry<K>();
        for (int i = 0; i < teams; i++) {
            if constexpr (exact) run += i < team ? buf[i].hi : A(0);
            else if (i == team) run = total;
            total = join(total, buf[i]);
        }
        return run;
    }

    /* The results: after `carry`, and `run` since then. */
    GEMS_DI void write(Out* y, int64_t* where, const Lines& s, const Start& at, Index first, Index end, K carry, A run,
                       bool real) {
        A base = identity_of<A>();
        if constexpr (exact) base = carry.hi, run += isfinite(carry.hi) ? carry.lo : A(0);
        else run = join(carry, run);
        GEMS_UNROLL for (int q = 0; q < kItems; q++) {
            A left = join(run, before[q]);
            run = join(run, all[q]);
            Index from = first + q * kTeam * kVec;
            GEMS_UNROLL for (int k = 0; k < kVec; k++) {
                a[q][k] = join(left, a[q][k]);
                if constexpr (exact) a[q][k] = join(base, a[q][k]);
            }
            if (kEdges && (from < 0 || from + kVec > end)) {
                if (real) put_part(y + at.at[1], where + at.at[2], from, end, a[q]);
            } else if (real && from < end)
                put(y, at.at[1] + from * step_of(s, 1), where, at.at[2] + from * step_of(s, 2), a[q]);
        }
    }
};
typedef PartOf<Acc, Carry> Part;
