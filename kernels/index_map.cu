// Moves by an index map. The head names T (elements are only moved: any type of the size), Index, kV (elements of one
// access where the output is one dense range, else 0), kRank, and the map's kinds: kEdge, kKeep, kRest, kStep (some dim
// has a step). Twin of csrc/families/index_map.c.
using namespace gems;

enum Edge { kOut, kClamp, kReflect, kWrap };
enum Rest { kNone, kFill, kOther, kOnly };

struct Pattern { uint64_t low, high; };

// Dim 0 is innermost in the output.
struct Map {
    int32_t ndim, a, b;
    Index n, inner, k;
    FastDiv div[8], step[8];
    Index stride[8][3];                        // out, in, other
    Index lo[8], first[8], last[8], count[8];  // first, last: the indexes that have an element
};

// A row along dim 0: offsets of its index 0 (of its first element in `in`), and the indexes that have an element.
struct Row { Index out, in, other, first, last; };

GEMS_DI Index folded(Index j, Index count) {
    if constexpr (kEdge == kClamp) return j < 0 ? 0 : j >= count ? count - 1 : j;
    if constexpr (kEdge == kReflect) {
        j = j < 0 ? -j : j;
        return j >= count ? 2 * (count - 1) - j : j;
    }
    if constexpr (kEdge == kWrap) return j < 0 ? j + count : j >= count ? j - count : j;
    return j;
}

GEMS_DI Row row_of(const Map& m, Index r) {
    Row w = {0, 0, 0, m.first[0], m.last[0]};
    Index ia = 0, ib = 0;
    bool kept = true;
    GEMS_UNROLL for (int d = 1; d < kRank; d++) {
        if (d >= m.ndim) break;
        Index q = 0, i = r;
        if (d + 1 < m.ndim) divmod(r, m.div[d], q, i);
        r = q;
        Index j = i - m.lo[d];
        if constexpr (kEdge == kOut) {
            bool inside = i >= m.first[d] && i < m.last[d];
            if constexpr (kStep) {
                Index quotient, left;
                divmod(inside ? j : 0, m.step[d], quotient, left);
                inside = inside && left == 0;
                j = quotient;
            }
            kept = kept && inside;
        } else {
            j = folded(j, m.count[d]);
        }
        w.out += i * m.stride[d][0];
        w.in += j * m.stride[d][1];
        if constexpr (kRest == kOther) w.other += i * m.stride[d][2];
        if constexpr (kKeep != 0) {
            if (d == m.a) ia = i;
            if (d == m.b) ib = i;
        }
    }
    if constexpr (kKeep != 0) {
        if (m.b == 0) {
            if ((kKeep & 1) && ia + m.k > w.first) w.first = ia + m.k;
            if ((kKeep & 2) && ia + m.k + 1 < w.last) w.last = ia + m.k + 1;
        } else if (m.a == 0) {
            if ((kKeep & 1) && ib - m.k + 1 < w.last) w.last = ib - m.k + 1;
            if ((kKeep & 2) && ib - m.k > w.first) w.first = ib - m.k;
        } else {
            if ((kKeep & 1) && ib - ia < m.k) kept = false;
            if ((kKeep & 2) && ib - ia > m.k) kept = false;
        }
    }
    if (!kept) w.first = w.last = 0;
    return w;
}

#if GEMS_CPU && GEMS_FAST

GEMS_DI void move_run(T* out, int64_t so, const T* in, int64_t si, int64_t n) {
    if (so == 1 && si == 1) {
        if (n * sizeof(T) >= 1024) memcpy(out, in, (size_t)n * sizeof(T));
        else GEMS_IVDEP for (int64_t i = 0; i < n; i++) out[i] = in[i];
    } else if (so == 1 && si == -1) {
        GEMS_IVDEP for (int64_t i = 0; i < n; i++) out[i] = in[-i];
    } else if (so == 1) {
        GEMS_IVDEP for (int64_t i = 0; i < n; i++) out[i] = in[i * si];
    } else {
        GEMS_IVDEP for (int64_t i = 0; i < n; i++) out[i * so] = in[i * si];
    }
}

GEMS_DI void fill_run(T* out, int64_t so, T value, int64_t n) {
    if (so == 1) GEMS_IVDEP for (int64_t i = 0; i < n; i++) out[i] = value;
    else GEMS_IVDEP for (int64_t i = 0; i < n; i++) out[i * so] = value;
}

// Indexes [at, end) of a row.
GEMS_DI void run_of(const Map& m, const Row& w, T* out, const T* in, const T* other, T value, int64_t at, int64_t end) {
    int64_t so = m.stride[0][0], si = m.stride[0][1], lo = m.lo[0];
    T* to = out + w.out;
    const T* from = in + w.in;
    int64_t low = w.first < at ? at : w.first > end ? end : w.first;
    int64_t high = w.last < low ? low : w.last > end ? end : w.last;
    auto rest = [&](int64_t begin, int64_t stop) {
        if (begin >= stop) return;
        if constexpr (kRest == kOther)
            move_run(to + begin * so, so, other + w.other + begin * m.stride[0][2], m.stride[0][2], stop - begin);
        else if constexpr (kRest != kNone) fill_run(to + begin * so, so, value, stop - begin);
    };
    if constexpr (kEdge != kOut) {
        low = lo < at ? at : lo > end ? end : lo;
        high = lo + (int64_t)m.count[0];
        high = high < low ? low : high > end ? end : high;
        if constexpr (kEdge == kWrap) {
            move_run(to + at * so, so, from + (at - lo + m.count[0]) * si, si, low - at);
            move_run(to + high * so, so, from + (high - lo - m.count[0]) * si, si, end - high);
        } else {
            for (int64_t i = at; i < low; i++) to[i * so] = from[folded((Index)(i - lo), m.count[0]) * si];
            for (int64_t i = high; i < end; i++) to[i * so] = from[folded((Index)(i - lo), m.count[0]) * si];
        }
    } else {
        rest(at, low);
        rest(high, end);
    }
    if constexpr (kRest == kOnly) return;
    if (kStep && m.step[0].d != 1) {
        int64_t step = m.step[0].d, j = (low - lo + step - 1) / step;
        rest(low, high);
        for (int64_t i = lo + j * step; i < high; i += step, j++) to[i * so] = from[j * si];
    } else {
        move_run(to + low * so, so, from + (low - lo) * si, si, high - low);
    }
}

#else

// Whether index i of a row has an element; j: its index there.
GEMS_DI bool inside(const Map& m, const Row& w, Index i, Index& j) {
    j = i - m.lo[0];
    if constexpr (kEdge != kOut) {
        j = folded(j, m.count[0]);
        return true;
    } else {
        bool kept = i >= w.first && i < w.last;
        if constexpr (kStep) {
            Index quotient, left;
            divmod(kept ? j : 0, m.step[0], quotient, left);
            kept = kept && left == 0;
            j = quotient;
        }
        return kept;
    }
}

GEMS_DI T value_at(const Map& m, const Row& w, const T* in, const T* other, T value, Index i) {
    Index j;
    if (inside(m, w, i, j)) return in[w.in + j * m.stride[0][1]];
    if constexpr (kRest == kOther) return other[w.other + i * m.stride[0][2]];
    return value;
}

template <int N> GEMS_DI bool aligned(const T* p) { return ((uint64_t)p & (N * sizeof(T) - 1)) == 0; }

// N elements of a row from index `at` on.
template <int N>
GEMS_DI Vec<T, N> vector_at(const Map& m, const Row& w, const T* in, const T* other, T value, Index at) {
    Vec<T, N> v;
    Index lo = m.lo[0];
    bool all = kEdge == kOut ? at >= w.first && at + N <= w.last : at >= lo && at + N <= lo + m.count[0];
    const T* from = in + w.in + (at - lo);
    if (!kStep && all && m.stride[0][1] == 1 && aligned<N>(from)) return load<N>(from);
    if constexpr (kEdge == kOut && kRest == kFill) {
        if (at + N <= w.first || at >= w.last) {
            GEMS_UNROLL for (int e = 0; e < N; e++) v.v[e] = value;
            return v;
        }
    }
    if constexpr (kEdge == kOut && kRest == kOther) {
        const T* rest = other + w.other + at;
        if ((at + N <= w.first || at >= w.last) && m.stride[0][2] == 1 && aligned<N>(rest)) return load<N>(rest);
    }
    GEMS_UNROLL for (int e = 0; e < N; e++) v.v[e] = value_at(m, w, in, other, value, at + e);
    return v;
}

#endif

extern "C" __global__ void index_map(T* out, const T* in, const T* other, Pattern pattern,
                                     const __grid_constant__ Map m) {
    T value;
    memcpy(&value, &pattern, sizeof value);
#if GEMS_CPU && GEMS_FAST
    auto chunk = grid_chunk<Index>(m.n);
    if (chunk.first >= chunk.last) return;
    Index r = chunk.first / m.inner, at = chunk.first - r * m.inner;
    for (Index left = chunk.last - chunk.first; left > 0; r++, at = 0) {
        Index end = m.inner - at < left ? m.inner : at + left;
        run_of(m, row_of(m, r), out, in, other, value, at, end);
        left -= end - at;
    }
#else
    if constexpr (kV == 0) {
        GEMS_FOR_GRID(f, m.n) {
            Index r, i, j;
            divmod(f, m.div[0], r, i);
            Row w = row_of(m, r);
            if constexpr (kRest == kOnly) {
                if (!inside(m, w, i, j)) out[w.out + i * m.stride[0][0]] = value;
            } else {
                out[w.out + i * m.stride[0][0]] = value_at(m, w, in, other, value, i);
            }
        }
    } else {
        constexpr int N = kV ? kV : 1;
        Index vectors = m.n / N;
        GEMS_FOR_GRID(vector, vectors) {
            Index f = vector * N, r, at;
            divmod(f, m.div[0], r, at);
            Row w = row_of(m, r);
            if (at + N <= m.inner) {
                store<N>(out + f, vector_at<N>(m, w, in, other, value, at));
            } else {  // the rows of these elements are several
                for (int e = 0; e < N; e++) {
                    if (at == m.inner) {
                        at = 0;
                        w = row_of(m, ++r);
                    }
                    out[f + e] = value_at(m, w, in, other, value, at++);
                }
            }
        }
        GEMS_FOR_GRID(left, m.n - vectors * N) {
            Index f = vectors * N + left, r, at;
            divmod(f, m.div[0], r, at);
            out[f] = value_at(m, row_of(m, r), in, other, value, at);
        }
    }
#endif
}
