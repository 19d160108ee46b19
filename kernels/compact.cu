/* Elements that a test picks, in order: nonzero, masked_select, masked_scatter. Twin of csrc/families/compact.c.
 *
 * The head names Test (what is tested: != 0), Item (what is moved), Index, kKind and kTile (elements of a block). The tested
 * elements and what is moved beside them are contiguous. `count` counts each tile's, offsets.cuh adds the counts up in
 * one block, `pick` goes through the tiles again and knows where its first element goes.
 */
using namespace gems;

enum { kNonzero, kSelect, kScatter };
constexpr int kMaxRank = 8;

struct Dims { /* innermost first */
    int32_t rank;
    FastDiv div[kMaxRank];
    int64_t size[kMaxRank];
};

GEMS_DI bool picked(Test v) { return convert<bool>(v); }

/* What happens with the element at i, the one before which `at` were picked. limit: room in the result, or what the
 * source has. */
struct Move {
    const Item* from;
    Item* to;
    int64_t* places;
    int64_t row, column, limit; /* strides of the result */
    GEMS_DI void operator()(const Dims& dims, Index i, int64_t at) const {
        if constexpr (kKind == kNonzero) {
            if (at >= limit) return;
            int64_t* place = places + at * row + (dims.rank - 1) * column;
            GEMS_UNROLL for (int d = 0; d < kMaxRank; d++) {
                if (d >= dims.rank) break;
                place[-d * column] = (int64_t)(d + 1 < dims.rank ? split(i, dims.div[d], dims.size[d]) : i);
            }
        } else if constexpr (kKind == kSelect) {
            to[at * row] = from[i];
        } else {
            if (in_range(at, limit, nullptr)) to[i] = from[at];
        }
    }
};

#if GEMS_CPU && GEMS_FAST
/* ---- one thread a block: 64 elements at a time as the bits of a word ---- */

GEMS_DI uint64_t bits_of(const Test* x) {
    uint8_t f[64];
    uint64_t bits = 0;
    GEMS_VECTOR for (int k = 0; k < 64; k++) f[k] = picked(x[k]);
    for (int k = 0; k < 8; k++) {
        uint64_t bytes;
        memcpy(&bytes, f + 8 * k, 8);
        bits |= (bytes * 0x0102040810204080ull >> 56) << (8 * k);
    }
    return bits;
}
GEMS_DI int64_t count_tile(const Test* x, int64_t n) {
    int32_t c = 0;
    for (int32_t k = 0; k < (int32_t)n; k++) c += picked(x[k]);
    return c;
}
GEMS_DI void pick_tile(const Test* x, const Dims& dims, const Move& move, Index first, Index last, int64_t at) {
    Index i = first;
    for (; i + 64 <= last; i += 64) {
        uint64_t bits = bits_of(x + i);
        if (kKind == kSelect && bits == ~0ull && move.row == 1) {
            memcpy(move.to + at, move.from + i, 64 * sizeof(Item));
            at += 64;
            continue;
        }
        for (; bits; bits &= bits - 1) move(dims, i + (Index)__builtin_ctzll(bits), at++);
    }
    for (; i < last; i++)
        if (picked(x[i])) move(dims, i, at++);
}
#else
/* ---- a block: kPer elements of a thread follow each other ---- */

constexpr int kPer = kTile / 256;

GEMS_DI uint32_t bits_of(const Test* x, int64_t left) {
    uint32_t bits = 0;
    if (kAligned && left >= kPer) {
        constexpr int kVec = sizeof(Test) >= 16 ? 1 : 16 / (int)sizeof(Test) > kPer ? kPer : 16 / (int)sizeof(Test);
        GEMS_UNROLL for (int q = 0; q < kPer; q += kVec) {
            Vec<Test, kVec> v = load<kVec>(x + q);
            GEMS_UNROLL for (int k = 0; k < kVec; k++) bits |= (uint32_t)picked(v.v[k]) << (q + k);
        }
    } else {
        GEMS_UNROLL for (int k = 0; k < kPer; k++)
            if (k < left) bits |= (uint32_t)picked(x[k]) << k;
    }
    return bits;
}
GEMS_DI int64_t count_tile(const Test* x, int64_t n) {
    __shared__ int32_t buf[33];
    int32_t from = (int32_t)threadIdx.x * kPer;
    return block_reduce((int32_t)__popc(bits_of(x + from, n - from)), Sum{}, buf);
}
GEMS_DI void pick_tile(const Test* x, const Dims& dims, const Move& move, Index first, Index last, int64_t at) {
    __shared__ int32_t buf[33];
    Index i = first + (Index)threadIdx.x * kPer;
    uint32_t bits = bits_of(x + i, (int64_t)last - (int64_t)i);
    int32_t all;
    at += block_exclusive_sum((int32_t)__popc(bits), all, buf);
    GEMS_UNROLL for (int k = 0; k < kPer; k++)
        if (bits >> k & 1) move(dims, i + k, at++);
}
#endif

/* counts[tile] = how many of a tile's elements are picked */
extern "C" __global__ void __launch_bounds__(256, 1) count(const Test* __restrict__ x, int32_t* counts, int64_t n, int64_t tiles) {
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t first = tile * kTile, left = n - first < kTile ? n - first : kTile, c = count_tile(x + first, left);
        if (threadIdx.x == 0) counts[tile] = (int32_t)c;
    }
}

extern "C" __global__ void __launch_bounds__(256, 1)
pick(const Test* __restrict__ x, const int64_t* __restrict__ starts, int64_t n, int64_t tiles, Dims dims, const Item* from, Item* to,
     int64_t* places, int64_t row, int64_t column, int64_t limit) {
    Move move{from, to, places, row, column, limit};
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t first = tile * kTile, last = n - first < kTile ? n : first + kTile;
        pick_tile(x, dims, move, (Index)first, (Index)last, starts[tile]);
    }
}
