// A stable radix sort of keys with a place each, kRadixBits of the key a pass, after Adinets and Merrill's one sweep: the
// digits of all passes are counted in one reading; then each pass reads a tile, finds how many of each digit the tiles before
// it have (blocks in a row, kernels/lookback.cuh), and puts its elements where they belong. Keys of several rows are sorted
// side by side. The head names kRadixThreads (at least the digits of a pass, and whole warps) and kItems (elements of a
// thread; a block has a tile of them). Sums are of integers, so that no order of blocks changes them.
//
// The tests of sorts pass on an H200.
using namespace gems;

constexpr int kRadixBits = 8, kDigits = 1 << kRadixBits, kTile = kItems * kRadixThreads;
constexpr int kRadixWarps = kRadixThreads / kWarp;
constexpr uint32_t kWhole = 1u << 31; // of a posted count: it has the tiles before in it

GEMS_DI int radix_digit(uint64_t key, int shift) { return (int)(key >> shift) & (kDigits - 1); }

// Adds to totals[pass][digit] how often the keys first .. last of a row have a digit. Lanes count apart, so that equal
// neighbours seldom wait for each other.
template <class K, int Passes, class F>
GEMS_DI void radix_histogram(F key, int32_t first, int32_t last, int32_t passes, int32_t* totals) {
    constexpr int kApart = Passes > 4 ? 2 : 4, kBatch = 8;
    __shared__ int32_t count[Passes * kDigits * kApart];
    int t = (int)threadIdx.x, step = (int)blockDim.x, lane = t % kApart;
    GEMS_FOR_BLOCK(i, Passes * kDigits * kApart) count[i] = 0;
    __syncthreads();
    for (int32_t base = first; base < last; base += kBatch * step) {
        K own[kBatch];
        GEMS_UNROLL for (int k = 0; k < kBatch; k++) {
            int32_t i = base + k * step + t;
            own[k] = i < last ? (K)key(i) : (K)0;
        }
        GEMS_UNROLL for (int k = 0; k < kBatch; k++) {
            if (base + k * step + t >= last) continue;
            GEMS_UNROLL for (int p = 0; p < Passes; p++)
                if (p < passes) atomicAdd(&count[(p * kDigits + radix_digit(own[k], p * kRadixBits)) * kApart + lane], 1);
        }
    }
    __syncthreads();
    GEMS_FOR_BLOCK(i, passes * kDigits) {
        int32_t sum = 0;
        GEMS_UNROLL for (int a = 0; a < kApart; a++) sum += count[i * kApart + a];
        if (sum) atomicAdd(&totals[i], sum);
    }
}

// How many elements of a digit the tiles before `tile` have, which is not the first; words: those of the digit.
GEMS_DI uint32_t radix_before(const uint64_t* words, int32_t tile) {
    uint32_t sum = 0;
    for (int32_t at = tile - 1;;) {
        uint64_t word[kLook];
        GEMS_UNROLL for (int j = 0; j < kLook; j++) word[j] = look_at_word(words + (int64_t)(at > j ? at - j : 0) * kDigits);
        bool there = true;
        GEMS_UNROLL for (int j = 0; j < kLook; j++) {
            there = there && word[j] >> 32;
            if (!there) continue;
            sum += (uint32_t)word[j] & ~kWhole;
            if ((uint32_t)word[j] & kWhole) return sum;
            at--;
        }
    }
}

// The next tile of a launch: blocks take them in the order in which they begin.
GEMS_DI uint32_t radix_ticket(uint64_t* counter) {
    __shared__ uint32_t ticket;
    if (threadIdx.x == 0) ticket = atomicAdd(reinterpret_cast<uint32_t*>(counter), 1u);
    __syncthreads();
    return ticket;
}

// The elements of a thread from place i of a row of n on, kWarp apart; `rest` behind the end.
template <class K, class F> GEMS_DI void radix_take(K (&own)[kItems], int32_t i, int32_t n, K rest, F f) {
    GEMS_UNROLL for (int k = 0; k < kItems; k++) own[k] = i + k * kWarp < n ? (K)f(i + k * kWarp) : rest;
}

// Every element of a tile to its place in the row: write(rank, key, place). key(own, i), place(own, i): radix_take of the keys,
// where those behind the end are all ones, so that they come last, and of the places. A warp has kItems times kWarp elements in a
// row; lanes with the same digit find each other by ballots, so that equal digits keep their order. words: those of the row,
// kDigits a tile; Places: there are places; first: of thread t < kDigits, how many elements of the row have a lower digit. Dynamic shared memory: a key
// and, with places, a word for each element of a tile.
template <class K, bool Places = true, class F, class P, class W>
GEMS_DI void radix_place_tile(F key, P place, W write, int32_t n, int32_t tile, int shift, uint64_t* words, int32_t first) {
    __shared__ uint16_t seen[kRadixWarps][kDigits];
    __shared__ uint32_t match[kMatchInMemory ? kRadixWarps : 1][kMatchInMemory ? kDigits : 1];
    __shared__ int32_t base[kDigits], buf[33];
    GEMS_DYN_SMEM(K, keys);
    uint32_t* held = reinterpret_cast<uint32_t*>(keys + kTile);
    int t = (int)threadIdx.x, lane = t % kWarp, warp = t / kWarp;
    int32_t begin = tile * kTile, size = n - begin < kTile ? n - begin : kTile;
    GEMS_UNROLL for (int d = 0; d < kDigits; d += kWarp) {
        seen[warp][d + lane] = 0;
        if constexpr (kMatchInMemory) match[warp][d + lane] = 0;
    }
    K own[kItems];
    uint32_t rank[kItems / 2]; // of two elements each
    auto rank_of = [&](int k) { return k & 1 ? rank[k / 2] >> 16 : rank[k / 2] & 0xffffu; };
    const int32_t at_0 = begin + warp * kItems * kWarp + lane; // of the thread's first element; the next is kWarp behind
    key(own, at_0);
    __syncwarp();
    GEMS_UNROLL for (int k = 0; k < kItems; k++) {
        int digit = radix_digit(own[k], shift);
        uint32_t same = 0xffffffffu;
        if constexpr (kMatchInMemory) {
            atomicAdd(&match[warp][digit], 1u << lane);
            __syncwarp();
            same = match[warp][digit];
        } else {
            GEMS_UNROLL for (int b = 0; b < kRadixBits; b++) {
                bool bit = digit >> b & 1;
                uint32_t vote = __ballot_sync(0xffffffffu, bit);
                same &= bit ? vote : ~vote;
            }
        }
        int ahead = __popc(same & ((1u << lane) - 1u)), before = seen[warp][digit];
        __syncwarp();
        if (ahead == 0) {
            seen[warp][digit] = (uint16_t)(before + __popc(same));
            if constexpr (kMatchInMemory) match[warp][digit] = 0;
        }
        __syncwarp();
        if (k & 1) rank[k / 2] |= (uint32_t)(before + ahead) << 16;
        else rank[k / 2] = (uint32_t)(before + ahead);
    }
    __syncthreads();
    int32_t count = 0, total;
    if (t < kDigits) {
        GEMS_UNROLL for (int w = 0; w < kRadixWarps; w++) count += seen[w][t];
        post_word(words + (int64_t)tile * kDigits + t, (uint32_t)count | (tile ? 0 : kWhole));
    }
    int32_t start = block_exclusive_sum(count, total, buf);
    if (t < kDigits) {
        int32_t to = start;
        GEMS_UNROLL for (int w = 0; w < kRadixWarps; w++) {
            int32_t c = seen[w][t];
            seen[w][t] = (uint16_t)to;
            to += c;
        }
    }
    __syncthreads();
    GEMS_UNROLL for (int k = 0; k < kItems; k++) {
        uint32_t first_of = seen[warp][radix_digit(own[k], shift)];
        rank[k / 2] += k & 1 ? first_of << 16 : first_of;
        keys[rank_of(k)] = own[k];
    }
    if constexpr (Places) {
        uint32_t at[kItems];
        place(at, at_0);
        GEMS_UNROLL for (int k = 0; k < kItems; k++) held[rank_of(k)] = at[k];
    }
    if (t < kDigits) {
        uint32_t before = tile ? radix_before(words + t, tile) : 0;
        if (tile) post_word(words + (int64_t)tile * kDigits + t, (before + (uint32_t)count) | kWhole);
        base[t] = first + (int32_t)before - start;
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < kItems; k++) {
        int32_t j = k * kRadixThreads + t;
        if (j < size) write(base[radix_digit(keys[j], shift)] + j, keys[j], Places ? held[j] : 0);
    }
}

extern "C" __global__ void radix_clear(uint64_t* words, int64_t n) { GEMS_FOR_GRID(i, n) words[i] = 0; }

#if RADIX_PAIRS // int32 keys with their positions, one row
// totals[pass][digit], which are 0.
extern "C" __global__ void __launch_bounds__(kRadixThreads) radix_count(const int32_t* __restrict__ keys, int32_t* totals, int32_t n,
                                                                        int32_t passes) {
    int32_t part = (n - 1) / (int32_t)gridDim.x + 1, first = part * (int32_t)blockIdx.x;
    radix_histogram<uint32_t, 4>([&](int32_t i) { return keys[i]; }, first, n - first < part ? n : first + part, passes, totals);
}

// words: the counter, then those of the tiles; all 0.
extern "C" __global__ void __launch_bounds__(kRadixThreads, 1)
    radix_place(const int32_t* __restrict__ keys, const int32_t* __restrict__ positions, int32_t* __restrict__ keys_out,
                int32_t* __restrict__ positions_out, uint64_t* words, const int32_t* __restrict__ totals, int32_t n,
                int32_t shift) {
    __shared__ int32_t buf[33];
    int32_t tile = (int32_t)radix_ticket(words), total;
    int32_t first = block_exclusive_sum((int)threadIdx.x < kDigits ? totals[threadIdx.x] : 0, total, buf);
    auto key = [&](uint32_t(&own)[kItems], int32_t i) { radix_take(own, i, n, ~0u, [&](int32_t at) { return keys[at]; }); };
    auto place = [&](uint32_t(&own)[kItems], int32_t i) { radix_take(own, i, n, 0u, [&](int32_t at) { return positions[at]; }); };
    auto write = [&](int32_t rank, uint32_t k, uint32_t at) {
        keys_out[rank] = (int32_t)k;
        positions_out[rank] = (int32_t)at;
    };
    radix_place_tile<uint32_t>(key, place, write, n, tile, shift, words + 1, first);
}
#endif
