/* Mean and variance without differences of large squares, and sums over teams. The head gives T and what rows.cuh needs,
 * which comes before this file. A Row gives a thread's vectors by at(), as Kept does, and some element of it, the same to all, by some().
 *
 * A mean that is far from 0 costs no digits of the variance: elements that are read once are taken from one of them, their
 * base, and of those that are read twice the second reading makes good what rounding left of the first.
 */
using C = opmath_t<T>;

/* Mean and squared deviations of `count` elements; joined as by Chan, Golub and LeVeque. */
struct Moments {
    C count, mean, m2;
};
struct JoinMoments {
    GEMS_DI Moments operator()(Moments a, Moments b) const {
        C count = a.count + b.count, d = b.mean - a.mean, part = count > 0 ? b.count / count : C(0);
        return Moments{count, a.mean + d * part, a.m2 + b.m2 + d * d * a.count * part};
    }
};
/* The base of elements of which v is one. */
GEMS_DI C base_of(T v) {
    C base = to_op(v);
    return isfinite(base) ? base : C(0);
}
/* What two readings find: the mean of the first, and the sums of the distances from there and of their squares. */
GEMS_DI Moments corrected(C count, C mean, C sum, C squares) {
    C shift = sum / count;
    return Moments{count, mean + shift, squares - sum * shift};
}
struct SumTwo {
    GEMS_DI Two<C> operator()(Two<C> a, Two<C> b) const { return Two<C>{a.a + b.a, a.b + b.b}; }
};

/* Welford's steps, N of them beside each other; means from the bases on. */
template <int N> struct Running {
    C count, mean[N], m2[N];
    GEMS_DI void clear() {
        count = 0;
        GEMS_UNROLL for (int k = 0; k < N; k++) mean[k] = m2[k] = 0;
    }
    GEMS_DI void take(const Vec<T, N>& v, const C (&base)[N]) {
        count += C(1);
        C share = C(1) / count;
        GEMS_UNROLL for (int k = 0; k < N; k++) {
            C e = to_op(v.v[k]) - base[k], d = e - mean[k];
            mean[k] += d * share;
            m2[k] += d * (e - mean[k]);
        }
    }
    GEMS_DI Moments joined() const {
        Moments part[N];
        GEMS_UNROLL for (int k = 0; k < N; k++) part[k] = Moments{count, mean[k], m2[k]};
        return lane_reduce(part, JoinMoments{});
    }
};

/* Mean and variance of a row that is not kept, in one reading. */
template <class Row> GEMS_DI Moments stream_moments(const Row& row, const Frame& n) {
    __shared__ Moments buf[33];
    Running<kVec> own;
    C base[kVec];
    base[0] = base_of(row.some());
    GEMS_UNROLL for (int k = 1; k < kVec; k++) base[k] = base[0];
    own.clear();
    Moments all{0, 0, 0};
    each_piece(n, [&](int q, int c, auto w) {
        auto v = piece(row, q, c, w);
        if constexpr (w.count == kVec) own.take(v, base);
        else all = Moments{C(1), to_op(v.v[0]) - base[0], C(0)};
    });
    all = team_reduce(JoinMoments{}(own.joined(), all), JoinMoments{}, buf);
    all.mean += base[0];
    return all;
}

/* Sums beside each other in a thread. */
constexpr int kBeside = kVec < 4 ? kVec : 4;

/* The sums over the block's part of a row of the distances from `from`, and of their squares. */
template <class Row> GEMS_DI Two<C> part_distances(const Row& row, const Frame& n, C from) {
    __shared__ Two<C> buf[33];
    Two<C> sum[kBeside];
    GEMS_UNROLL for (int k = 0; k < kBeside; k++) sum[k] = Two<C>{0, 0};
    each_piece(n, [&](int q, int c, auto w) {
        auto v = piece(row, q, c, w);
        GEMS_UNROLL for (int k = 0; k < w.count; k++) {
            C d = to_op(v.v[k]) - from;
            sum[k % kBeside].a += d;
            sum[k % kBeside].b += d * d;
        }
    });
    return part_reduce(lane_reduce(sum, SumTwo{}), SumTwo{}, buf);
}

/* The sum over the block's part of a row of f(element). */
template <class Row, class F> GEMS_DI C part_sum(const Row& row, const Frame& n, F f, C* buf) {
    C sum[kBeside];
    GEMS_UNROLL for (int k = 0; k < kBeside; k++) sum[k] = 0;
    each_piece(n, [&](int q, int c, auto w) {
        auto v = piece(row, q, c, w);
        GEMS_UNROLL for (int k = 0; k < w.count; k++) sum[k % kBeside] += f(to_op(v.v[k]));
    });
    return part_reduce(lane_reduce(sum, Sum{}), Sum{}, buf);
}
/* The same of the whole row. */
template <class Row, class F> GEMS_DI C team_sum(const Row& row, const Frame& n, F f) {
    __shared__ C buf[33];
    return team_join(part_sum(row, n, f, buf), Sum{}, buf);
}

/* Mean and variance of a row: a team's, and in a fast program. */
struct Spread {
    C mean, variance;
};
template <class Row> GEMS_DI Spread team_spread(const Row& row, const Frame& n) {
    if constexpr (kStage == kAgain) {
        Moments all = stream_moments(row, n);
        return Spread{all.mean, all.m2 / C(n.n)};
    } else {
        __shared__ C buf[33];
        __shared__ Moments moments[33];
        C count = C(part_count(n)), over = count > 0 ? count : C(1);
        C mean = part_sum(row, n, [](C v) { return v; }, buf) / over;
        Two<C> sums = part_distances(row, n, mean);
        Moments all = corrected(over, mean, sums.a, sums.b);
        all.count = count;
        all = team_join(all, JoinMoments{}, moments);
        return Spread{all.mean, all.m2 / C(n.n)};
    }
}
GEMS_DI Spread row_spread(const T* x, int n) {
    C mean = row_sum<C>(n, [&](int c) { return to_op(x[c]); }) / C(n);
    return Spread{mean, row_sum<C>(n, [&](int c) { return (to_op(x[c]) - mean) * (to_op(x[c]) - mean); }) / C(n)};
}

/* Joins what the threads of one threadIdx.x have, in the order of threadIdx.y; valid where that is 0. buf: one a thread. */
template <class V, class F> GEMS_DI V fold_down(V v, F f, V* buf) {
    if constexpr (!kFast) {
        int bx = blockDim.x, by = blockDim.y, tx = threadIdx.x, ty = threadIdx.y;
        __syncthreads();
        buf[ty * bx + tx] = v;
        for (int h = 1; h < by; h *= 2) {
            __syncthreads();
            if (ty % (2 * h) == 0 && ty + h < by) buf[ty * bx + tx] = f(buf[ty * bx + tx], buf[(ty + h) * bx + tx]);
        }
        v = buf[ty * bx + tx];
    }
    return v;
}
