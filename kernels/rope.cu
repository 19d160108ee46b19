// rotary_embedding: the pairs of every head of q and k, turned by the angles of a token's position, in one launch. A thread
// has one part of the row of angles and turns it in kHeads heads. In place a thread reads a pair before it writes it, and no
// other thread has it. The head names T, Angle, Int (of positions), Index (of offsets), kV (elements of one access; 1: of
// any stride), kHeads, kInterleaved, kInverse, kPlaced (positions are given). Twin of csrc/families/rope.c.
using namespace gems;

typedef opmath_t<T> C;
enum { kBatch, kPlace, kHead, kWithin, kDims };
constexpr int kPairs = kInterleaved && kV > 1 ? kV / 2 : kV;  // that a thread of a GPU turns

struct Rope {
    Index items, from[2][kDims], to[2][kDims], rows[2], at[2];
    int32_t heads[2], groups[2], half, dim, turning;
    FastDiv units, all_groups, seq;
    int64_t positions;
};

// The row of angles of a token; -1 where there is none.
GEMS_DI int64_t position_of(const Rope& m, const Int* place, Index batch, Index s) {
    if constexpr (!kPlaced) return s;
    int64_t position = place[batch * m.at[0] + s * m.at[1]];
    if ((uint64_t)position < (uint64_t)m.positions) return position;
#if !GEMS_CPU
    __assertfail("position is out of range of cos and sin", "rope.cu", 1, "rope", 1);
#endif
    return -1;
}

GEMS_DI void turn(C& a, C& b, C c, C s) {
    C x = a * c - b * s;
    b = b * c + a * s;
    a = x;
}

// ---- fast mode: a head at a time
template <bool Unit>
GEMS_DI void turn_head(const T* x, T* y, const Angle* __restrict__ cos, const Angle* __restrict__ sin, const Rope& m,
                       Index from, Index to) {
    int32_t half = m.half;
    if constexpr (Unit) from = to = 1;
    GEMS_IVDEP for (int32_t i = 0; i < half; i++) {
        int32_t p = kInterleaved ? 2 * i : i, q = kInterleaved ? 2 * i + 1 : i + half;
        C a = to_op(x[p * from]), b = to_op(x[q * from]), s = convert<C>(sin[i]);
        turn(a, b, convert<C>(cos[i]), kInverse ? -s : s);
        y[p * to] = from_op<T>(a);
        y[q * to] = from_op<T>(b);
    }
    if (x != y) GEMS_IVDEP for (int32_t i = 2 * half; i < m.dim; i++) y[i * to] = x[i * from];
}

GEMS_DI void turn_token(const T* q, const T* k, const Angle* cos, const Angle* sin, const Int* place, T* to_q, T* to_k,
                        const Rope& m, Index token) {
    Index batch, s;
    divmod(token, m.seq, batch, s);
    int64_t position = position_of(m, place, batch, s);
    if (position < 0) return;
    const Angle *c = cos + position * m.rows[0], *d = sin + position * m.rows[1];
    for (int which = 0; which < 2; which++) {
        const Index *from = m.from[which], *to = m.to[which];
        const T* x = (which ? k : q) + batch * from[kBatch] + s * from[kPlace];
        T* y = (which ? to_k : to_q) + batch * to[kBatch] + s * to[kPlace];
        for (int32_t h = 0; h < m.heads[which]; h++, x += from[kHead], y += to[kHead])
            turn_head<(kV > 1)>(x, y, c, d, m, from[kWithin], to[kWithin]);
    }
}

// ---- GPU
// N elements, in accesses of 16 bytes where they are more.
template <int N, class E>
GEMS_DI void fetch(const E* p, C (&to)[N]) {
    constexpr int most = 16 / (int)sizeof(E), each = N < most ? N : most;
    GEMS_UNROLL for (int i = 0; i < N; i += each) {
        Vec<E, each> v = load<each>(p + i);
        GEMS_UNROLL for (int j = 0; j < each; j++) to[i + j] = convert<C>(v.v[j]);
    }
}

struct Pairs { Vec<T, kV> first, second; };  // interleaved vectors have all in the first

GEMS_DI Pairs load_pairs(const T* x, Index from, int32_t part, int32_t half) {
    Pairs p;
    if constexpr (kInterleaved && kV > 1) {
        p.first = load<kV>(x + part * kV);
    } else if constexpr (kV > 1) {
        p.first = load<kV>(x + part * kV);
        p.second = load<kV>(x + half + part * kV);
    } else {
        p.first.v[0] = x[(kInterleaved ? 2 * part : part) * from];
        p.second.v[0] = x[(kInterleaved ? 2 * part + 1 : part + half) * from];
    }
    return p;
}

GEMS_DI void store_pairs(T* y, Index to, int32_t part, int32_t half, const Pairs& p) {
    if constexpr (kInterleaved && kV > 1) {
        store<kV>(y + part * kV, p.first);
    } else if constexpr (kV > 1) {
        store<kV>(y + part * kV, p.first);
        store<kV>(y + half + part * kV, p.second);
    } else {
        y[(kInterleaved ? 2 * part : part) * to] = p.first.v[0];
        y[(kInterleaved ? 2 * part + 1 : part + half) * to] = p.second.v[0];
    }
}

GEMS_DI void turn_pairs(Pairs& p, const C (&c)[kPairs], const C (&s)[kPairs]) {
    GEMS_UNROLL for (int i = 0; i < kPairs; i++) {
        constexpr bool together = kInterleaved && kV > 1;
        T& first = p.first.v[together ? 2 * i : i];
        T& second = together ? p.first.v[2 * i + 1] : p.second.v[i];
        C a = to_op(first), b = to_op(second);
        turn(a, b, c[i], kInverse ? -s[i] : s[i]);
        first = from_op<T>(a);
        second = from_op<T>(b);
    }
}

extern "C" __global__ void __launch_bounds__(kThreads)
rope(const T* q, const T* k, const Angle* __restrict__ cos, const Angle* __restrict__ sin, const Int* __restrict__ place,
     T* to_q, T* to_k, const __grid_constant__ Rope m) {
    GEMS_FOR_GRID(item, m.items) {
        if constexpr (kFast) {
            turn_token(q, k, cos, sin, place, to_q, to_k, m, item);
        } else {
            Index rest = item, unit, group, batch, s;
            divmod(rest, m.units, rest, unit);
            divmod(rest, m.all_groups, rest, group);
            divmod(rest, m.seq, batch, s);
            int which = group >= m.groups[0];
            int32_t head = (int32_t)(group - (which ? m.groups[0] : 0)) * kHeads, heads = m.heads[which];
            Index from = m.from[which][kHead], to = m.to[which][kHead];
            const T* x = (which ? k : q) + batch * m.from[which][kBatch] + s * m.from[which][kPlace] + head * from;
            T* y = (which ? to_k : to_q) + batch * m.to[which][kBatch] + s * m.to[which][kPlace] + head * to;
            Index step = m.from[which][kWithin], to_step = m.to[which][kWithin];
            if (unit < m.turning) {
                int64_t position = position_of(m, place, batch, s);
                if (position >= 0) {
                    C c[kPairs], d[kPairs];
                    Pairs p[kHeads];
                    int32_t part = (int32_t)unit;
                    fetch(cos + position * m.rows[0] + part * kPairs, c);
                    fetch(sin + position * m.rows[1] + part * kPairs, d);
                    GEMS_UNROLL for (int h = 0; h < kHeads; h++)
                        if (head + h < heads) p[h] = load_pairs(x + h * from, step, part, m.half);
                    GEMS_UNROLL for (int h = 0; h < kHeads; h++) {
                        if (head + h < heads) {
                            turn_pairs(p[h], c, d);
                            store_pairs(y + h * to, to_step, part, m.half, p[h]);
                        }
                    }
                }
            } else {  // what is not turned is copied
                Index at = 2 * m.half + (unit - m.turning) * kV;
                GEMS_UNROLL for (int h = 0; h < kHeads; h++) {
                    if (head + h < heads) {
                        if constexpr (kV > 1) store<kV>(y + h * to + at, load<kV>(x + h * from + at));
                        else y[h * to + at * to_step] = x[h * from + at * step];
                    }
                }
            }
        }
    }
}
