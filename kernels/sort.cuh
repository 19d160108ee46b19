// What the kernels of sorting share: keys, items, rows, a sort of a few items a thread.
//
// A key is unsigned, and its order is the order of sorting: NaN after all numbers (and equal to itself), -0.0 as 0.0,
// everything the other way round when kDescending. With kKeysOnly, where no places are wanted, an element follows from its key:
// -0.0 comes before 0.0. An item is a key with the element's place along its row; items are all different, and their order is
// that of a stable sort. The head names T, kDescending and kKeysOnly.
using namespace gems;

template <int Bytes> struct Uint { typedef uint64_t type; };
template <> struct Uint<1> { typedef uint8_t type; };
template <> struct Uint<2> { typedef uint16_t type; };
template <> struct Uint<4> { typedef uint32_t type; };
typedef Uint<sizeof(T)>::type Key;

constexpr int kKeyBits = 8 * (int)sizeof(T);
constexpr Key kSign = (Key)((Key)1 << (kKeyBits - 1)), kAll = (Key)~(Key)0;
constexpr Key kInfinity = is_same<T, double> ? (Key)0x7ff0000000000000ull
                          : is_same<T, float> ? (Key)0x7f800000u : is_same<T, f16> ? (Key)0x7c00 : (Key)0x7f80;
constexpr Key kNanKey = kDescending ? (Key)0 : kAll;

template <class V> GEMS_DI Key key_of(V v) {
    Key key;
    if constexpr (is_float<V>) {
        Key bits;
        memcpy(&bits, &v, sizeof bits);
        bits = !kKeysOnly && bits == kSign ? (Key)0 : bits;
        key = bits & kSign ? (Key)~bits : (Key)(bits | kSign);
        key = (Key)(bits & (Key)~kSign) > kInfinity ? kAll : key;
    } else if constexpr ((V)-1 < (V)0) {
        key = (Key)((Key)v ^ kSign);
    } else {
        key = (Key)v;
    }
    return kDescending ? (Key)~key : key;
}

// The element of a key alone; any NaN for that of NaN.
template <class V = T> GEMS_DI V value_of(Key key) {
    Key bits = kDescending ? (Key)~key : key;
    if constexpr (is_float<V>) bits = bits & kSign ? (Key)(bits ^ kSign) : (Key)~bits;
    else if constexpr ((V)-1 < (V)0) bits = (Key)(bits ^ kSign);
    V v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

// The element of a key, which lies at p: that is read only where several have the same key.
template <class V> GEMS_DI V value_of(Key key, const V* p) {
    Key bits = kDescending ? (Key)~key : key;
    if constexpr (is_float<V>) {
        if (bits == kSign || bits == kAll) return *p;
        bits = bits & kSign ? (Key)(bits ^ kSign) : (Key)~bits;
    } else if constexpr ((V)-1 < (V)0) {
        bits = (Key)(bits ^ kSign);
    }
    V v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

// The place of an element as the upper half of a word is its key's: no two items are equal.
struct Pair { uint64_t key; uint32_t at; };
template <int PlaceBits>
using item_t = either<kKeyBits + PlaceBits <= 32, uint32_t, either<sizeof(Key) <= 4, uint64_t, Pair>>;

template <class I> GEMS_DI I item_make(Key key, uint32_t at) {
    if constexpr (is_same<I, Pair>) return Pair{key, at};
    else if constexpr (sizeof(I) == 4) return (I)key << 16 | at;
    else return (I)key << 32 | at;
}
template <class I> GEMS_DI I item_last() { // after every item
    if constexpr (is_same<I, Pair>) return Pair{~(uint64_t)0, ~0u};
    else return (I)~(I)0;
}
GEMS_DI uint32_t item_at(uint32_t i) { return i & 0xffffu; }
GEMS_DI uint32_t item_at(uint64_t i) { return (uint32_t)i; }
GEMS_DI uint32_t item_at(Pair i) { return i.at; }
GEMS_DI Key item_key(uint32_t i) { return (Key)(i >> 16); }
GEMS_DI Key item_key(uint64_t i) { return (Key)(i >> 32); }
GEMS_DI Key item_key(Pair i) { return (Key)i.key; }
template <class I> GEMS_DI bool item_before(I a, I b) {
    if constexpr (is_same<I, Pair>) return a.key < b.key || (a.key == b.key && a.at < b.at);
    else return a < b;
}

// Rows of a call: count of them, n elements each, `step` apart; offsets of the input, the values, the places. Twin of
// gems_lines in csrc/families/sort.h.
struct Lines {
    int32_t ndim;
    FastDiv div[8];
    int64_t start[8][3], step[3], count, n;
};
struct Offsets { int64_t in, values, places; };
GEMS_DI Offsets line_offsets(const Lines& m, int32_t row) {
    Offsets o{0, 0, 0};
#pragma unroll 1 // once a row: not worth the registers of all dimensions
    for (int d = 0; d < m.ndim; d++) {
        int32_t q = 0, r = row;
        if (d + 1 < m.ndim) divmod(row, m.div[d], q, r);
        row = q;
        o.in += r * m.start[d][0];
        o.values += r * m.start[d][1];
        o.places += r * m.start[d][2];
    }
    return o;
}

// What is written of a sorted row.
enum { kWrite, kKth, kMedian, kNanMedian };
GEMS_DI int32_t picked_rank(int32_t rank, int32_t n, int32_t nans) {
    if (!is_float<T> || nans == 0 || kWhat == kKth) return rank;
    if (kWhat == kMedian) return n - nans;
    return n > nans ? (n - nans - 1) / 2 : 0;
}

// Sorts Size items of every group of Size / kOwn threads: v[i] of its thread t becomes the item of rank t * kOwn + i. All
// threads of the block take part. shared: kOwn items a thread of the block, needed where a group is more than a warp.
constexpr int kOwn = 4;
template <int Size, class I> GEMS_DI void sort_items(I (&v)[kOwn], int t, I* shared) {
    for (int size = 2; size <= Size; size *= 2) {
        for (int stride = size / 2; stride >= kOwn; stride /= 2) {
            int mask = stride / kOwn;
            bool smaller = ((t & mask) == 0) == ((t * kOwn & size) == 0);
            I other[kOwn];
            if (mask < kWarp) {
                GEMS_UNROLL for (int i = 0; i < kOwn; i++) other[i] = shuffle_xor(v[i], mask);
            } else {
                int threads = (int)blockDim.x, self = (int)threadIdx.x;
                __syncthreads();
                GEMS_UNROLL for (int i = 0; i < kOwn; i++) shared[i * threads + self] = v[i];
                __syncthreads();
                GEMS_UNROLL for (int i = 0; i < kOwn; i++) other[i] = shared[i * threads + (self ^ mask)];
            }
            GEMS_UNROLL for (int i = 0; i < kOwn; i++) v[i] = item_before(other[i], v[i]) == smaller ? other[i] : v[i];
        }
        GEMS_UNROLL for (int stride = kOwn / 2; stride > 0; stride /= 2) {
            if (stride < size) {
                GEMS_UNROLL for (int i = 0; i < kOwn; i++) {
                    if (i & stride) continue;
                    int j = i | stride;
                    I a = v[i], b = v[j];
                    bool up = ((t * kOwn + i) & size) == 0, swap = item_before(b, a) == up;
                    v[i] = swap ? b : a;
                    v[j] = swap ? a : b;
                }
            }
        }
    }
}
