/* Scans by one thread a block: a line after the other, or kWide lines that lie side by side. Twin of csrc/families/scan.c;
 * scan.cuh says what is accumulated. Sums are accumulated in double as ATen's are; blockIdx.y is the part of a line.
 */
constexpr int kWide = 64;

/* Doubles go element by element, several lines at a time: it is as quick, and a product that is joined otherwise could
 * overflow where ATen's does not. */
constexpr bool kAdds = !kPlaces && kScan != kLogSumExp;
constexpr bool kByEights = kUnit && kAdds && !is_same<Out, double>;
constexpr int kTogether = kUnit && kAdds && is_same<Out, double> ? 4 : 1;

struct Combine { /* of whole vectors too */
    template <class T> GEMS_DI T operator()(T a, T b) const {
        if constexpr (kScan == kSum) return a + b;
        else return a * b;
    }
};

/* Elements one by one from `at`. */
template <bool Write>
GEMS_DI Acc each(const In* x, Out* y, int64_t* where, const Lines& s, const Start& at, Index begin, Index end, Acc carry) {
    const Index in = step_of(s, 0), out = step_of(s, 1), place = step_of(s, 2);
    for (Index i = begin; i < end; i++) {
        carry = join(carry, element(x[at.at[0] + i * in], i));
        if constexpr (Write) {
            y[at.at[1] + i * out] = result(carry);
            if constexpr (kPlaces) where[at.at[2] + i * place] = place_of(carry);
        }
    }
    return carry;
}

/* What follows does W elements beside each other: short loops that the compiler makes vectors of, with eight values of a
 * running result in one vector. */

/* ---- sums and products ---- */

/* every: a line ends after so many elements, a multiple of 8; W where it does not. */
template <int W, bool Write, class A> GEMS_DI A sum_stretch(const In* x, Out* y, A carry, int every = W) {
    typedef either<is_float<A>, A, uint64_t> Wrapping;
    Wrapping v[W];
    GEMS_VECTOR for (int k = 0; k < W; k++) v[k] = (Wrapping)element_of<A>(x[k], 0);
    for (int k = 0; k < W; k += 8) {
        Eight<Wrapping> r = lane_scan(load_eight(v + k), Combine{}, Wrapping(kScan == kSum ? 0 : 1));
        if (k % every == 0 && every < W) carry = identity_of<A>();
        store_eight(v + k, Combine{}(eight((Wrapping)carry), r));
        carry = join(carry, (A)r[7]);
    }
    if constexpr (Write)
        GEMS_VECTOR for (int k = 0; k < W; k++) y[k] = result((A)v[k]);
    return carry;
}

template <bool Write, class A>
GEMS_DI A sum_line(const In* x, Out* y, Index begin, Index end, A carry) {
    Index i = begin;
    if constexpr (!Write && kScan == kSum) {
        A sum[32] = {};
        for (; i + 32 <= end; i += 32)
            GEMS_IVDEP for (int k = 0; k < 32; k++) sum[k] = join(sum[k], element_of<A>(x[i + k], 0));
        carry = join(carry, lane_reduce(sum, Join{}));
    }
    for (; i + kWide <= end; i += kWide) carry = sum_stretch<kWide, Write>(x + i, y + i, carry);
    for (; i + 16 <= end; i += 16) carry = sum_stretch<16, Write>(x + i, y + i, carry);
    for (; i < end; i++) {
        carry = join(carry, element_of<A>(x[i], 0));
        if constexpr (Write) y[i] = result(carry);
    }
    return carry;
}

/* ---- places ---- */

struct Later { /* of whole vectors too: b replaces a */
    template <class V> GEMS_DI V operator()(V a, V b) const {
        if constexpr (is_float<Val>) return (b != b) | ((a == a) & (kScan == kMax ? b >= a : b <= a)) ? b : a;
        else return (kScan == kMax ? b >= a : b <= a) ? b : a;
    }
};
struct Largest {
    template <class V> GEMS_DI V operator()(V a, V b) const { return a > b ? a : b; }
};

/* Running values first; an element's place counts where it is the running value itself. */
template <int W, bool Write, class A> GEMS_DI A place_stretch(const In* x, Out* y, int64_t* where, Index i, A carry) {
    Val v[W];
    GEMS_VECTOR for (int k = 0; k < W; k++) v[k] = Val(to_op(x[k]));
    if constexpr (W > 16) { /* most long stretches have no element that replaces the one before */
        int any = carry.i < 0;
        GEMS_VECTOR for (int k = 0; k < W; k++) any |= replaces(v[k], carry.v);
        if (!any) {
            const Out value = result(carry);
            const int64_t at = place_of(carry);
            if constexpr (Write) {
                GEMS_VECTOR for (int k = 0; k < W; k++) y[k] = value;
                GEMS_VECTOR for (int k = 0; k < W; k++) where[k] = at;
            }
            return carry;
        }
    }
    for (int k = 0; k < W; k += 8) {
        typedef either<sizeof(Val) == 8, int64_t, either<sizeof(Val) == 4, int32_t, either<sizeof(Val) == 2, int16_t, int8_t>>> Place;
        typedef Eight<Place> Places; /* what comparisons of eight values give */
        Eight<Val> own = load_eight(v + k), all = lane_scan(own, Later{}, identity_of<A>().v);
        all = Later{}(eight(carry.v), all);
        Places place = (Places)((own != own) | (own == all)) ? Places{0, 1, 2, 3, 4, 5, 6, 7} : eight(Place(-1));
        place = lane_scan<Place>(place, Largest{}, Place(-1));
        const int64_t old = (int64_t)carry.i, base = (int64_t)i + k;
        store_eight(v + k, all);
        carry = A{all[7], place[7] < 0 ? carry.i : Index(i + k + place[7])};
        if constexpr (Write) {
            Eight<int64_t> at = __builtin_convertvector(place, Eight<int64_t>);
            store_eight(where + k, at < 0 ? eight(old) : at + base);
        }
    }
    if constexpr (Write)
        GEMS_VECTOR for (int k = 0; k < W; k++) y[k] = result(v[k]);
    return carry;
}

template <bool Write, class A>
GEMS_DI A place_line(const In* x, Out* y, int64_t* where, const Lines& s, const Start& at, Index begin, Index end, A carry) {
    const In* from = x + at.at[0];
    Out* to = y + at.at[1];
    int64_t* place = where + at.at[2];
    Index i = begin;
    for (; i + kWide <= end; i += kWide) carry = place_stretch<kWide, Write>(from + i, to + i, place + i, i, carry);
    for (; i + 16 <= end; i += 16) carry = place_stretch<16, Write>(from + i, to + i, place + i, i, carry);
    return each<Write>(x, y, where, s, at, i, end, carry);
}

/* ---- logs of sums of exponentials ---- */

/* With one largest element for a stretch, as long as nothing that counts gets lost beside it; else one by one. */
template <int W, bool Write, class A>
GEMS_DI A log_stretch(const In* x, Out* y, int64_t* where, const Lines& s, const Start& at, Index i, A carry) {
    typedef either<is_same<In, double>, double, float> Fast;
    constexpr Fast kRange = is_same<In, double> ? 600 : 60;
    const In* from = x + at.at[0] + i;
    Fast v[W], top = -Limits<Fast>::inf();
    bool odd = false;
    GEMS_VECTOR for (int k = 0; k < W; k++) v[k] = to_op(from[k]);
    GEMS_VECTOR for (int k = 0; k < W; k++) top = v[k] > top ? v[k] : top;
    GEMS_VECTOR for (int k = 0; k < W; k++) odd |= v[k] != v[k];
    Fast before = carry.sum > 0 ? Fast(carry.top + log(carry.sum)) : -Limits<Fast>::inf();
    Fast low = before > v[0] ? before : v[0];
    if (odd || !(top - low <= kRange) || !(before - top <= kRange)) /* infinities too */
        return each<Write>(x, y, where, s, at, i, i + W, carry);
    double sum = carry.sum > 0 ? carry.sum * exp(double(carry.top) - double(top)) : 0, part[W];
    GEMS_VECTOR for (int k = 0; k < W; k++) v[k] = exp(v[k] - top);
    GEMS_VECTOR for (int k = 0; k < W; k++) part[k] = double(v[k]);
    for (int k = 0; k < W; k += 8) {
        Eight<double> r = lane_scan(load_eight(part + k), Sum{}, 0.0);
        store_eight(part + k, r + eight(sum));
        sum += r[7];
    }
    if constexpr (Write) {
        GEMS_VECTOR for (int k = 0; k < W; k++) v[k] = log(Fast(part[k])) + top;
        GEMS_VECTOR for (int k = 0; k < W; k++) y[at.at[1] + i + k] = from_op<Out>(opmath_t<Out>(v[k]));
    }
    return A{top, sum};
}

template <bool Write, class A>
GEMS_DI A log_line(const In* x, Out* y, int64_t* where, const Lines& s, const Start& at, Index begin, Index end, A carry) {
    Index i = begin;
    for (; i + kWide <= end; i += kWide) carry = log_stretch<kWide, Write>(x, y, where, s, at, i, carry);
    for (; i + 16 <= end; i += 16) carry = log_stretch<16, Write>(x, y, where, s, at, i, carry);
    return each<Write>(x, y, where, s, at, i, end, carry);
}

/* ---- lines ---- */

template <bool Write, class A>
GEMS_DI A line_of(const In* x, Out* y, int64_t* where, const Lines& s, const Start& at, Index begin, Index end, A carry) {
    if constexpr (kByEights) return sum_line<Write>(x + at.at[0], y + at.at[1], begin, end, carry);
    else if constexpr (kUnit && is_same<A, Pair>) return place_line<Write>(x, y, where, s, at, begin, end, carry);
    else if constexpr (kUnit && is_same<A, Online>) return log_line<Write>(x, y, where, s, at, begin, end, carry);
    else return each<Write>(x, y, where, s, at, begin, end, carry);
}

template <bool Write>
GEMS_DI Acc carry_of(const Acc* partial, const Lines& s, int64_t line) {
    Acc carry = identity();
    if constexpr (Write)
        for (unsigned p = 0; p < blockIdx.y; p++) carry = join(carry, partial[p * s.count + line]);
    return carry;
}

/* N lines, their elements in turn. */
template <int N, bool Write>
GEMS_DI void in_turn(const In* x, Out* y, Acc* partial, const Lines& s, int64_t line, Index begin, Index end) {
    Start at[N];
    Acc carry[N];
    for (int k = 0; k < N; k++) at[k] = start_of(s, (Index)(line + k)), carry[k] = carry_of<Write>(partial, s, line + k);
    for (Index i = begin; i < end; i++) {
        GEMS_UNROLL for (int k = 0; k < N; k++) {
            carry[k] = join(carry[k], element(x[at[k].at[0] + i], i));
            if constexpr (Write) y[at[k].at[1] + i] = result(carry[k]);
        }
    }
    if constexpr (!Write)
        for (int k = 0; k < N; k++) partial[blockIdx.y * s.count + line + k] = carry[k];
}

template <bool Write>
GEMS_DI void rows(const In* x, Out* y, int64_t* where, Acc* partial, const Lines& s, Index begin, Index end) {
    int64_t together = kTogether, groups = kTogether > 1 ? s.count / kTogether : 0;
    GEMS_FOR_GRID(group, groups) in_turn<kTogether, Write>(x, y, partial, s, group * kTogether, begin, end);
    if constexpr (kByEights && Write) { /* short lines that follow each other */
        if ((s.n == 16 || s.n == 32) && s.rank == 1 && s.stride[0][0] == s.n && s.stride[0][1] == s.n) {
            together = kWide / s.n;
            groups = s.count / together;
            GEMS_FOR_GRID(g, groups) sum_stretch<kWide, true>(x + g * kWide, y + g * kWide, identity(), (int)s.n);
        }
    }
    const int64_t rest = s.count - groups * together;
    GEMS_FOR_GRID(r, rest) {
        int64_t line = groups * together + r;
        Acc carry = carry_of<Write>(partial, s, line);
        carry = line_of<Write>(x, y, where, s, start_of(s, (Index)line), begin, end, carry);
        if constexpr (!Write) partial[blockIdx.y * s.count + line] = carry;
    }
}

/* ---- columns: lines whose elements lie beside each other ---- */

template <int W, class A> struct Side { /* of sums and products */
    A a[W];
    GEMS_DI void clear() { for (int k = 0; k < W; k++) a[k] = identity_of<A>(); }
    GEMS_DI void row(const In* x, Out* y, int64_t*, Index) {
        GEMS_IVDEP for (int k = 0; k < W; k++) a[k] = join(a[k], element_of<A>(x[k], 0));
        GEMS_IVDEP for (int k = 0; k < W; k++) y[k] = result(a[k]);
    }
};
template <int W> struct Side<W, Pair> {
    Val v[W];
    Index at[W];
    GEMS_DI void clear() { for (int k = 0; k < W; k++) v[k] = 0, at[k] = -1; }
    GEMS_DI void row(const In* x, Out* y, int64_t* where, Index i) {
        GEMS_IVDEP for (int k = 0; k < W; k++) {
            Val b = Val(to_op(x[k]));
            bool take = at[k] < 0 || replaces(b, v[k]);
            v[k] = take ? b : v[k];
            at[k] = take ? i : at[k];
        }
        GEMS_IVDEP for (int k = 0; k < W; k++) y[k] = result(v[k]);
        GEMS_IVDEP for (int k = 0; k < W; k++) where[k] = (int64_t)at[k];
    }
};
template <int W, class V> struct Side<W, OnlineOf<V>> {
    typedef either<is_same<In, double>, double, float> Fast;
    Fast top[W];
    double sum[W];
    GEMS_DI void clear() { for (int k = 0; k < W; k++) top[k] = -Limits<Fast>::inf(), sum[k] = 0; }
    GEMS_DI void row(const In* x, Out* y, int64_t*, Index) {
        Fast v[W], e[W], r[W];
        GEMS_IVDEP for (int k = 0; k < W; k++) v[k] = to_op(x[k]);
        GEMS_IVDEP for (int k = 0; k < W; k++) e[k] = exp(v[k] == top[k] ? Fast(0) : -abs(v[k] - top[k]));
        GEMS_IVDEP for (int k = 0; k < W; k++) {
            sum[k] = v[k] > top[k] ? sum[k] * double(e[k]) + 1.0 : sum[k] + double(e[k]);
            top[k] = v[k] > top[k] ? v[k] : top[k];
            r[k] = Fast(sum[k]);
        }
        GEMS_IVDEP for (int k = 0; k < W; k++) y[k] = from_op<Out>(opmath_t<Out>(top[k] + log(r[k])));
    }
};

template <int W> GEMS_DI void side_by_side(const In* x, Out* y, int64_t* where, const Lines& s, const Start& at) {
    Side<W, Acc> side;
    side.clear();
    for (Index i = 0; i < (Index)s.n; i++)
        side.row(x + at.at[0] + i * (Index)s.step[0], y + at.at[1] + i * (Index)s.step[1],
                 kPlaces ? where + at.at[2] + i * (Index)s.step[2] : where, i);
}

GEMS_DI void columns(const In* x, Out* y, int64_t* where, const Lines& s) {
    int64_t line = s.size[0], tiles = (line + kWide - 1) / kWide, all = s.count / line * tiles;
    GEMS_FOR_GRID(t, all) {
        Index column = (Index)(t % tiles * kWide), left = (Index)line - column, c = 0;
        Index first = (Index)(t / tiles * line) + column;
        if (left >= kWide) {
            side_by_side<kWide>(x, y, where, s, start_of(s, first));
            continue;
        }
        for (; c + 16 <= left; c += 16) side_by_side<16>(x, y, where, s, start_of(s, first + c));
        for (; c < left; c++) side_by_side<1>(x, y, where, s, start_of(s, first + c));
    }
}

/* ---- entries: as in scan.cu ---- */

extern "C" __global__ void scan(const In* x, Out* y, int64_t* where, Acc* partial, Lines s, int64_t chunk) {
    int64_t first = chunk * blockIdx.y, last = first + chunk < s.n ? first + chunk : s.n;
    if constexpr (kRow) rows<true>(x, y, where, partial, s, (Index)first, (Index)last);
    else columns(x, y, where, s);
}

extern "C" __global__ void totals(const In* x, Out* y, int64_t* where, Acc* partial, Lines s, int64_t chunk) {
    int64_t first = chunk * blockIdx.y, last = first + chunk < s.n ? first + chunk : s.n;
    if constexpr (kRow) rows<false>(x, y, where, partial, s, (Index)first, (Index)last);
}
