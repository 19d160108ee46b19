/* What reductions accumulate: a value (sum, mean, prod, max, min, any, all, count, norms), the place of one (argmax, argmin,
 * max.dim, min.dim), the moments of the elements (var, std, with their means), both extremes, or the largest element and the sum
 * of exponentials below it (logsumexp).
 *
 * The program's head gives: In; Cast, the dtype in which elements are taken; Val, what is accumulated; Out; Index; kReduce;
 * kBoth (values and places, or deviations and means, are written); kTwo (an element is made of two tensors' elements a and
 * b by GEMS_PAIR_EXPRESSION, which may use the number GEMS_PAIR_PARAMETER); kSimple (the reduced elements lie along one
 * dimension).
 */
using namespace gems;

enum {
    kSum, kMean, kProd, kMax, kMin, kAny, kAll, kArgMax, kArgMin,
    kNanSum, kCount, kNormP, kNorm0, kNorm1, kNorm2, kNormMax, kNormMin, kVar, kStd,
    kLogSumExp = 21, kAMinMax
};
constexpr bool kPair = kReduce == kArgMax || kReduce == kArgMin;
constexpr bool kMoments = kReduce == kVar || kReduce == kStd;
constexpr bool kOnline = kReduce == kLogSumExp, kBounds = kReduce == kAMinMax;
constexpr bool kLess = kReduce == kMin || kReduce == kArgMin || kReduce == kNormMin;
constexpr bool kAdds = kReduce == kSum || kReduce == kMean || (kReduce >= kNanSum && kReduce <= kNorm2);
constexpr bool kMapped = kTwo || kReduce == kNormP; /* an element is more than what one pointer gives */
constexpr int kMaxRank = 8;

struct Shape {
    int64_t kept, reduced;
    int32_t kept_rank, reduced_rank;
    FastDiv kept_div[kMaxRank], reduced_div[kMaxRank];
    int64_t kept_size[kMaxRank], kept_in[kMaxRank], kept_out[kMaxRank]; /* innermost first, in elements */
    int64_t reduced_size[kMaxRank], reduced_in[kMaxRank];
};

GEMS_DI void kept_offsets(const Shape& s, Index place, Index& in, Index& out) {
    in = out = 0;
    GEMS_UNROLL for (int d = 0; d < kMaxRank; d++) {
        if (d >= s.kept_rank) break;
        Index r = d + 1 < s.kept_rank ? split(place, s.kept_div[d], s.kept_size[d]) : place;
        in += r * (Index)s.kept_in[d];
        out += r * (Index)s.kept_out[d];
    }
}

GEMS_DI Index reduced_offset(const Shape& s, Index place) {
    if constexpr (kSimple) return place * (Index)s.reduced_in[0];
    Index in = 0;
    GEMS_UNROLL for (int d = 0; d < kMaxRank; d++) {
        if (d >= s.reduced_rank) break;
        Index r = d + 1 < s.reduced_rank ? split(place, s.reduced_div[d], s.reduced_size[d]) : place;
        in += r * (Index)s.reduced_in[d];
    }
    return in;
}

/* ---- where elements come from ---- */

struct Cell {
    In a, b;
    Val parameter;
};
struct Source {
    const In *a, *b;
    Val parameter;
    GEMS_DI Cell operator[](Index i) const { return Cell{a[i], kTwo ? b[i] : a[i], parameter}; }
    GEMS_DI Source operator+(Index i) const { return Source{a + i, b + i, parameter}; }
    GEMS_DI void operator+=(Index i) { a += i, b += i; }
};
using From = either<kMapped, Source, const In*>;

template <class F> GEMS_DI F source(const In* a, const In* b, double parameter) {
    if constexpr (kMapped) return F{a, b, Val(parameter)};
    else return a;
}

GEMS_DI uint64_t address(const In* p) { return (uint64_t)p; }
GEMS_DI uint64_t address(const Source& p) { return (uint64_t)p.a; }

/* N elements side by side, read by one access. */
template <int N> struct Cells {
    Vec<In, N> v;
    GEMS_DI In at(int k) const { return v.v[k]; }
};
template <int N> struct MappedCells {
    Vec<In, N> a, b;
    Val parameter;
    GEMS_DI Cell at(int k) const { return Cell{a.v[k], b.v[k], parameter}; }
};
template <int N> GEMS_DI Cells<N> fetch(const In* p) { return Cells<N>{load<N>(p)}; }
template <int N> GEMS_DI MappedCells<N> fetch(const Source& p) {
    if constexpr (kTwo) return MappedCells<N>{load<N>(p.a), load<N>(p.b), p.parameter};
    Vec<In, N> a = load<N>(p.a);
    return MappedCells<N>{a, a, p.parameter};
}
template <int N> using Fetched = either<kMapped, MappedCells<N>, Cells<N>>;

/* ---- what is accumulated ---- */

template <class V> GEMS_DI V identity_of() {
    if constexpr (kAdds || kReduce == kAny) return V(0);
    else if constexpr (kReduce == kProd || kReduce == kAll) return V(1);
    else if constexpr (is_float<V>) return kLess ? Limits<V>::inf() : -Limits<V>::inf();
    else return kLess ? Limits<V>::max() : Limits<V>::lowest();
}
template <class V> GEMS_DI V magnitude(V v) {
    if constexpr (is_float<V>) return abs(v);
    else return v; // norms are of floats
}
using Real = either<is_float<Val>, Val, double>;
GEMS_DI Val identity_value() { return identity_of<Val>(); }

GEMS_DI Val element(In v) {
    if constexpr (kReduce == kAny || kReduce == kAll) return Val(to_op(v) != opmath_t<In>(0));
    else if constexpr (kReduce == kCount || kReduce == kNorm0) return Val(to_op(v) != opmath_t<In>(0));
    else if constexpr (kReduce == kMax || kReduce == kMin || kPair || kBounds) return Val(to_op(v));
    else {
        Val b = Val(to_op(convert<Cast>(v)));
        if constexpr (kReduce == kNanSum) return b != b ? Val(0) : b;
        else if constexpr (kReduce == kNorm1 || kReduce == kNormMax || kReduce == kNormMin) return magnitude(b);
        else if constexpr (kReduce == kNorm2) return b * b;
        else return b;
    }
}
#ifdef GEMS_PAIR_EXPRESSION
GEMS_DI Val pair_value(Val a, Val b, Val GEMS_PAIR_PARAMETER) { return GEMS_PAIR_EXPRESSION; }
#else
GEMS_DI Val pair_value(Val a, Val, Val) { return a; }
#endif
GEMS_DI Val element(const Cell& c) {
    if constexpr (kTwo) return pair_value(element(c.a), element(c.b), c.parameter);
    else if constexpr (kReduce == kNormP) return Val(pow(Real(magnitude(element(c.a))), Real(c.parameter)));
    else return element(c.a);
}

/* b goes before a: larger (smaller), or the first NaN. */
GEMS_DI bool beats(Val b, Val a) {
    if constexpr (is_float<Val>) return (kLess ? b < a : b > a) || (b != b && a == a);
    else return kLess ? b < a : b > a;
}

GEMS_DI Val join_values(Val a, Val b) {
    if constexpr (kAdds) {
        if constexpr (is_float<Val>) return a + b;
        else return Val((uint64_t)a + (uint64_t)b);
    } else if constexpr (kReduce == kProd) {
        if constexpr (is_float<Val>) return a * b;
        else return Val((uint64_t)a * (uint64_t)b);
    } else if constexpr (kReduce == kAny) {
        return Val((uint64_t)a | (uint64_t)b);
    } else if constexpr (kReduce == kAll) {
        return Val((uint64_t)a & (uint64_t)b);
    } else if constexpr (is_float<Val>) {
        return (kLess ? b < a : b > a) || b != b ? b : a;
    } else {
        return beats(b, a) ? b : a;
    }
}

struct Pair {
    Val v;
    Index i;
};

/* Of n elements; m2 is the sum of the squared distances from their mean. On a CPU in double, as ATen has it there; a GPU takes
 * the elements of a row from its first one, its base, so that a mean far from 0 costs no digits. */
using Wide = either<kFast, double, Real>;
struct Moments {
    Wide mean, m2, n;
};

/* The largest element, and the sum of exp(element - largest). */
struct Online {
    Val top, sum;
};
/* Both extremes. */
struct Bounds {
    Val low, high;
};

using Acc = either<kPair, Pair, either<kMoments, Moments, either<kOnline, Online, either<kBounds, Bounds, Val>>>>;

template <class A> GEMS_DI A made(Val v, Index i) {
    if constexpr (is_same<A, Pair>) return A{v, i};
    else if constexpr (is_same<A, Moments>) return A{Wide(0), Wide(0), Wide(0)};
    else if constexpr (is_same<A, Online>) return A{v, Val(1)};
    else if constexpr (is_same<A, Bounds>) return A{v, v};
    else return v;
}

template <class A> GEMS_DI A moments_of(Wide mean, Wide m2, Wide n) {
    if constexpr (is_same<A, Moments>) return A{mean, m2, n};
    else return made<A>(Val(mean), Index(0));
}

GEMS_DI Val join(Val a, Val b) { return join_values(a, b); }
GEMS_DI Pair join(Pair a, Pair b) {
    bool tie = !beats(b.v, a.v) && !beats(a.v, b.v);
    return beats(b.v, a.v) || (tie && b.i < a.i) ? b : a;
}
GEMS_DI Moments join(Moments a, Moments b) {
    Wide n = a.n + b.n, d = b.mean - a.mean, share = b.n / n;
    Moments both{a.mean + d * share, a.m2 + b.m2 + d * (d * (a.n * share)), n};
    return a.n == Wide(0) ? b : b.n == Wide(0) ? a : both;
}
/* exp(v - top), also where both are infinite. */
GEMS_DI Val part_of(Val v, Val top) { return v == top ? Val(1) : Val(exp(Real(v - top))); }
GEMS_DI Online join(Online a, Online b) {
    Val top = b.top > a.top || b.top != b.top ? b.top : a.top;
    return Online{top, a.sum * part_of(a.top, top) + b.sum * part_of(b.top, top)};
}
GEMS_DI Bounds join(Bounds a, Bounds b) { return Bounds{min_nan(a.low, b.low), max_nan(a.high, b.high)}; }
struct Join {
    GEMS_DI Acc operator()(Acc a, Acc b) const { return join(a, b); }
};

template <class A> GEMS_DI A identity_acc() {
    if constexpr (is_same<A, Online>) return A{identity_value(), Val(0)};
    else if constexpr (is_same<A, Bounds>) {
        if constexpr (is_float<Val>) return A{Limits<Val>::inf(), -Limits<Val>::inf()};
        else return A{Limits<Val>::max(), Limits<Val>::lowest()};
    } else return made<A>(identity_value(), Limits<Index>::max());
}
GEMS_DI Acc identity() { return identity_acc<Acc>(); }

/* The elements of a thread come with rising places, so a tie keeps the one it has. */
template <class C> GEMS_DI void step(Val& a, C v, Index, Val) { a = join_values(a, element(v)); }
template <class C> GEMS_DI void step(Pair& a, C v, Index place, Val) {
    Val b = element(v);
    if (beats(b, a.v) || a.i == Limits<Index>::max()) a = Pair{b, place};
}

template <class C> GEMS_DI void step(Online& a, C v, Index, Val) {
    Val b = element(v), d = b - a.top, e = b == a.top ? Val(1) : Val(exp(Real(d > Val(0) ? -d : d)));
    bool larger = b > a.top;
    a = larger ? Online{b, a.sum * e + Val(1)} : Online{a.top, a.sum + e};
}
template <class C> GEMS_DI void step(Bounds& a, C v, Index, Val) {
    Val b = element(v);
    a = join(a, Bounds{b, b});
}

template <class C> GEMS_DI void step(Moments& a, C v, Index, Val base) {
    a = join(a, Moments{Wide(element(v) - base), Wide(0), Wide(1)});
}

/* What the elements of a row are taken from: the first of them where that is a number. */
template <class C> GEMS_DI Val base_of(C first) {
    if constexpr (kMoments && !kFast) {
        Val v = element(first);
        return isfinite(Real(v)) ? v : Val(0);
    } else {
        return Val(0);
    }
}
GEMS_DI Val based(Val a, Val) { return a; }
GEMS_DI Pair based(Pair a, Val) { return a; }
GEMS_DI Online based(Online a, Val) { return a; }
GEMS_DI Bounds based(Bounds a, Val) { return a; }
GEMS_DI Moments based(Moments a, Val base) { return Moments{a.mean + Wide(base), a.m2, a.n}; }

/* The moments of n values: first about where the mean is, then the distances from there, so that a large mean costs no
 * digits. A: Moments; of another type this is never run. */
template <class A, int N> GEMS_DI A moments(const Val (&v)[N]) {
    Val mean = Val(0), first = Val(0), second = Val(0);
    GEMS_UNROLL for (int k = 0; k < N; k++) mean += v[k] * (Val(1) / Val(N));
    GEMS_UNROLL for (int k = 0; k < N; k++) {
        Val d = v[k] - mean;
        first += d;
        second += d * d;
    }
    return moments_of<A>(Wide(mean + first * (Val(1) / Val(N))), Wide(second - first * (first * (Val(1) / Val(N)))), Wide(N));
}

/* ---- results ---- */

/* where: places, means, or maxima. number: what a sum is divided by, the power of a norm. */
GEMS_DI void write(Out* y, void*, Index out, Val a, double number) {
    if constexpr (kReduce == kMean) a = Val(a / Val(number));
    if constexpr (kReduce == kNorm2) a = Val(sqrt(Real(a)));
    if constexpr (kReduce == kNormP) a = Val(pow(Real(a), Real(1.0 / number)));
    y[out] = from_op<Out>(opmath_t<Out>(a));
}
GEMS_DI void write(Out* y, void* where, Index out, Pair a, double) {
    if constexpr (kBoth) y[out] = from_op<Out>(opmath_t<Out>(a.v));
    ((int64_t*)where)[out] = (int64_t)a.i;
}
GEMS_DI void write(Out* y, void*, Index out, Online a, double) {
    y[out] = from_op<Out>(opmath_t<Out>(Real(a.top) + log(Real(a.sum))));
}
GEMS_DI void write(Out* y, void* where, Index out, Bounds a, double) {
    y[out] = from_op<Out>(opmath_t<Out>(a.low));
    ((Out*)where)[out] = from_op<Out>(opmath_t<Out>(a.high));
}
GEMS_DI void write(Out* y, void* where, Index out, Moments a, double number) {
    Wide v = a.n == Wide(0) ? Limits<Wide>::nan() : a.m2 / Wide(number);
    if constexpr (kReduce == kStd) v = sqrt(v);
    y[out] = from_op<Out>(opmath_t<Out>(v));
    if constexpr (kBoth) ((Out*)where)[out] = from_op<Out>(opmath_t<Out>(a.n == Wide(0) ? v : a.mean));
}
