/* Elements that a test picks, in order: nonzero, masked_select, masked_scatter. Twin of csrc/families/compact.c.
 *
 * The head names Test (what is tested: != 0), Item (what is moved), Index, kKind, kTile (elements of a block) and kAligned
 * (16-byte accesses of what is tested). The tested elements and what is moved beside them are contiguous. `count` counts
 * each tile's and keeps the answers as bits, offsets.cuh adds the counts up in one block, `pick` goes through the tiles
 * again and knows where its first element goes. A block lines up the picked elements of a tile in shared memory, so that
 * neighbours in the result are written by neighbours.
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
 * source has. rest: what the other elements become; NULL: they stay. */
struct Move {
    const Item *from, *rest;
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
GEMS_DI int64_t count_tile(const Test* x, int64_t n, uint16_t*) {
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
GEMS_DI int64_t count_tile(const Test* x, int64_t n, uint16_t* bits) {
    __shared__ int32_t buf[33];
    int32_t from = (int32_t)threadIdx.x * kPer;
    uint32_t own = bits_of(x + from, n - from);
    bits[threadIdx.x] = (uint16_t)own;
    return block_reduce((int32_t)__popc(own), Sum{}, buf);
}

/* The elements [first, last) of a tensor that is written whole: those that are picked from the source. */
template <int kVec>
GEMS_DI void mix_tile(const Move& move, Index first, Index last, int64_t at, const uint16_t* marks, const int32_t* before) {
    int32_t size = (int32_t)(last - first), whole = size / kVec * kVec;
    auto mix = [&](int32_t e, Item v) {
        uint32_t mark = marks[e / kPer], bit = (uint32_t)e % kPer;
        if (!(mark >> bit & 1)) return v;
        int64_t from = at + before[e / kPer] + __popc(mark & ((1u << bit) - 1u));
        return in_range(from, move.limit, nullptr) ? move.from[from] : v;
    };
    for (int32_t e = (int32_t)threadIdx.x * kVec; e < whole; e += 256 * kVec) {
        Vec<Item, kVec> v = load<kVec>(move.rest + first + e);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) v.v[k] = mix(e + k, v.v[k]);
        store<kVec>(move.to + first + e, v);
    }
    for (int32_t e = whole + (int32_t)threadIdx.x; e < size; e += 256) move.to[first + e] = mix(e, move.rest[first + e]);
}
GEMS_DI void pick_tile(const uint16_t* bits, const Dims& dims, const Move& move, Index first, Index last, int64_t at) {
    __shared__ int32_t buf[33], before[256];
    __shared__ uint16_t marks[256], slots[kTile];
    uint32_t own = bits[threadIdx.x];
    int32_t all, slot = block_exclusive_sum((int32_t)__popc(own), all, buf);
    if (kKind == kScatter && move.rest) {
        marks[threadIdx.x] = (uint16_t)own;
        before[threadIdx.x] = slot;
        __syncthreads();
        constexpr int kVec = sizeof(Item) >= 16 ? 1 : 16 / (int)sizeof(Item);
        if (((uint64_t)move.to | (uint64_t)move.rest) % 16 == 0) mix_tile<kVec>(move, first, last, at, marks, before);
        else mix_tile<1>(move, first, last, at, marks, before);
    } else {
        GEMS_UNROLL for (int k = 0; k < kPer; k++)
            if (own >> k & 1) slots[slot++] = (uint16_t)(threadIdx.x * kPer + k);
        __syncthreads();
        for (int32_t j = (int32_t)threadIdx.x; j < all; j += 256) move(dims, first + (Index)slots[j], at + j);
    }
}
#endif

/* counts[tile] = how many of a tile's elements are picked */
extern "C" __global__ void __launch_bounds__(256, 1)
count(const Test* __restrict__ x, int32_t* counts, uint16_t* bits, int64_t n, int64_t tiles) {
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t first = tile * kTile, left = n - first < kTile ? n - first : kTile;
        int64_t c = count_tile(x + first, left, bits + tile * 256);
        if (threadIdx.x == 0) counts[tile] = (int32_t)c;
    }
}

extern "C" __global__ void __launch_bounds__(256, 1)
pick(const Test* __restrict__ x, const int64_t* __restrict__ starts, const uint16_t* __restrict__ bits, int64_t n, int64_t tiles,
     Dims dims, const Item* from, const Item* rest, Item* to, int64_t* places, int64_t row, int64_t column, int64_t limit) {
    Move move{from, rest, to, places, row, column, limit};
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t first = tile * kTile, last = n - first < kTile ? n : first + kTile;
#if GEMS_CPU && GEMS_FAST
        pick_tile(x, dims, move, (Index)first, (Index)last, starts[tile]);
#else
        pick_tile(bits + tile * 256, dims, move, (Index)first, (Index)last, starts[tile]);
#endif
    }
}
