/* Running results along one dimension: sum, product, largest and smallest element with its place, log of the sum of
 * exponentials. What scan.cu and scan_fast.cu share: lines, and what is accumulated along them.
 *
 * The program's head gives: In; Out; Val, what is accumulated; Index; kScan; kRow; kVec (elements of one access); kGroup
 * (threads of one row, 0: the block); kItems; kUnit (elements of a line follow each other); kEdges (lines
 * begin and end anywhere, not at whole accesses); kRing (tiles that have room in shared memory, 0: they are read as they come).
 */
using namespace gems;

enum { kSum, kProd, kMax, kMin, kLogSumExp };
constexpr bool kPlaces = kScan == kMax || kScan == kMin;
constexpr int kMaxRank = 8;

struct Lines {
    int64_t count, n;
    int64_t step[3]; /* from element to element: of the input, the result, the places */
    int32_t rank;
    FastDiv div[kMaxRank];
    int64_t size[kMaxRank], stride[kMaxRank][3];
};

/* Where a line begins in the three tensors. */
struct Start { Index at[3]; };
GEMS_DI Start start_of(const Lines& s, Index line) {
    Start r{{0, 0, 0}};
    GEMS_UNROLL for (int d = 0; d < kMaxRank; d++) {
        if (d >= s.rank) break;
        Index c = d + 1 < s.rank ? split(line, s.div[d], s.size[d]) : line;
        GEMS_UNROLL for (int k = 0; k < (kPlaces ? 3 : 2); k++) r.at[k] += c * (Index)s.stride[d][k];
    }
    return r;
}
GEMS_DI Index step_of(const Lines& s, int k) { return kUnit ? Index(1) : (Index)s.step[k]; }

/* ---- what is accumulated ---- */

struct Pair {
    Val v;
    Index i; /* -1: nothing yet */
};
template <class V> struct OnlineOf {
    V top, sum; /* the largest element, the sum of exp(element - top) */
};
typedef OnlineOf<Val> Online;
using Acc = either<kPlaces, Pair, either<kScan == kLogSumExp, Online, Val>>;

template <class A> GEMS_DI A identity_of() {
    if constexpr (is_same<A, Pair>) {
        if constexpr (is_float<Val>) return Pair{kScan == kMax ? -Limits<Val>::inf() : Limits<Val>::inf(), -1};
        else return Pair{kScan == kMax ? Limits<Val>::lowest() : Limits<Val>::max(), -1};
    } else if constexpr (is_same<A, Online>) {
        return Online{-Limits<Val>::inf(), Val(0)};
    } else {
        return A(kScan == kSum ? 0 : 1);
    }
}
GEMS_DI Acc identity() { return identity_of<Acc>(); }

/* As ATen: of equal elements the last, and a NaN stays until the next one. */
GEMS_DI bool replaces(Val b, Val a) {
    bool wins = kScan == kMax ? b >= a : b <= a;
    if constexpr (is_float<Val>) return b != b || (a == a && wins);
    else return wins;
}

/* a comes before b. */
GEMS_DI Val join(Val a, Val b) {
    if constexpr (is_float<Val>) return kScan == kSum ? a + b : a * b;
    else return Val(kScan == kSum ? (uint64_t)a + (uint64_t)b : (uint64_t)a * (uint64_t)b);
}
GEMS_DI Pair join(Pair a, Pair b) { return b.i >= 0 && (a.i < 0 || replaces(b.v, a.v)) ? b : a; }
template <class V> GEMS_DI OnlineOf<V> join(OnlineOf<V> a, OnlineOf<V> b) {
    V e = a.top == b.top ? V(1) : exp(-abs(a.top - b.top));
    bool first = a.top > b.top || a.top != a.top;
    return first ? OnlineOf<V>{a.top, a.sum + b.sum * e} : OnlineOf<V>{b.top, a.sum * e + b.sum};
}
struct Join {
    template <class A> GEMS_DI A operator()(A a, A b) const { return join(a, b); }
};

/* What is carried from tile to tile of a long line. A sum of floats with what rounding has taken from it: the errors of
 * the parts would add up along the line. Once hi is no number lo means nothing. */
struct Exact {
    Val hi, lo;
};
constexpr bool kExact = kRow && kGroup == 0 && kScan == kSum && is_same<Out, float> && is_same<Val, float>;
using Carry = either<kExact, Exact, Acc>;

/* What rounding took from sum = a + b. */
template <class V> GEMS_DI V lost(V a, V b, V sum) {
    V part = sum - a;
    return (a - (sum - part)) + (b - part);
}
GEMS_DI Exact join(Exact a, Exact b) {
    Val sum = a.hi + b.hi;
    return Exact{sum, a.lo + b.lo + lost(a.hi, b.hi, sum)};
}
template <class K> GEMS_DI K no_carry() {
    if constexpr (is_same<K, Exact>) return K{0, 0};
    else return identity_of<K>();
}

template <class A> GEMS_DI A element_of(In v, Index place) {
    if constexpr (is_same<A, Pair>) return Pair{Val(to_op(v)), place};
    else if constexpr (is_same<A, Online>) return Online{Val(to_op(v)), Val(1)};
    else return A(to_op(convert<Out>(v)));
}
GEMS_DI Acc element(In v, Index place) { return element_of<Acc>(v, place); }

GEMS_DI Out result(Val a) { return from_op<Out>(opmath_t<Out>(a)); }
GEMS_DI Out result(Pair a) { return from_op<Out>(opmath_t<Out>(a.v)); }
template <class V> GEMS_DI Out result(OnlineOf<V> a) { return from_op<Out>(opmath_t<Out>(a.top + log(a.sum))); }
GEMS_DI int64_t place_of(const Pair& a) { return (int64_t)a.i; }
GEMS_DI int64_t place_of(const Online&) { return 0; }
GEMS_DI int64_t place_of(Val) { return 0; }
