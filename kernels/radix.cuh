// A stable radix sort of keys with a place each, kRadixBits of the key a pass: every block counts the digits of its tile,
// one warp sums the tiles of a digit, every block puts its tile's elements where they belong. Keys of several rows are
// sorted side by side: row r has its own counts, tiles and n elements. The head names kRadixThreads (at least the digits of
// a pass, and whole warps) and kTile (elements of a block, a multiple of kRadixThreads).
using namespace gems;

constexpr int kRadixBits = 8, kDigits = 1 << kRadixBits, kItems = kTile / kRadixThreads;
constexpr int kRadixWarps = kRadixThreads / kWarp;

GEMS_DI int radix_digit(uint64_t key, int shift) { return (int)(key >> shift) & (kDigits - 1); }

// counts[digit][tile] of one row: how often the block's tile has a digit. key(i): of the row's i-th element.
template <class F>
GEMS_DI void radix_count_tile(F key, int32_t n, int32_t tile, int32_t tiles, int shift, int32_t* __restrict__ counts) {
    __shared__ int32_t count[kDigits];
    GEMS_FOR_BLOCK(d, kDigits) count[d] = 0;
    __syncthreads();
    int32_t begin = tile * kTile, size = n - begin < kTile ? n - begin : kTile;
    GEMS_FOR_BLOCK(i, size) atomicAdd(&count[radix_digit(key(begin + i), shift)], 1);
    __syncthreads();
    GEMS_FOR_BLOCK(d, kDigits) counts[(int64_t)d * tiles + tile] = count[d];
}

// Of each line of `tiles` counts its exclusive sum, and its total; a warp a line.
GEMS_DI void radix_scan_lines(int32_t* __restrict__ counts, int32_t* __restrict__ totals, int64_t lines, int32_t tiles) {
    int lane = (int)threadIdx.x % kWarp;
    int64_t warps = (int64_t)gridDim.x * blockDim.x / kWarp;
    for (int64_t line = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / kWarp; line < lines; line += warps) {
        int32_t before = 0;
        for (int32_t base = 0; base < tiles; base += kWarp) {
            int32_t own = base + lane < tiles ? counts[line * tiles + base + lane] : 0, sum = own;
            GEMS_UNROLL for (int o = 1; o < kWarp; o <<= 1) {
                int32_t y = shuffle_up(sum, o);
                if (lane >= o) sum += y;
            }
            if (base + lane < tiles) counts[line * tiles + base + lane] = before + sum - own;
            before += __shfl_sync(0xffffffffu, sum, kWarp - 1);
        }
        if (lane == 0) totals[line] = before;
    }
}

// Every element of a tile to its place in the row: write(rank, key, place). A warp has kItems times kWarp elements in a
// row; lanes with the same digit find each other by ballots, so that equal digits keep their order.
template <class K, class F, class P, class W>
GEMS_DI void radix_place_tile(F key, P place, W write, int32_t n, int32_t tile, int32_t tiles, int shift,
                              const int32_t* __restrict__ counts, const int32_t* __restrict__ totals) {
    __shared__ int32_t seen[kRadixWarps][kDigits];
    __shared__ int32_t start[kDigits], base[kDigits], buf[33];
    __shared__ K keys[kTile];
    __shared__ uint32_t held[kTile];
    int t = (int)threadIdx.x, lane = t % kWarp, warp = t / kWarp;
    int32_t begin = tile * kTile, size = n - begin < kTile ? n - begin : kTile;
    GEMS_FOR_BLOCK(i, kRadixWarps * kDigits) seen[i / kDigits][i % kDigits] = 0;
    __syncthreads();
    K own[kItems];
    uint16_t rank[kItems];
    GEMS_UNROLL for (int k = 0; k < kItems; k++) {
        int32_t i = (warp * kItems + k) * kWarp + lane;
        own[k] = i < size ? (K)key(begin + i) : (K)~(K)0; // those behind the end come last, and are not written
        int digit = radix_digit(own[k], shift);
        uint32_t same = 0xffffffffu;
        GEMS_UNROLL for (int b = 0; b < kRadixBits; b++) {
            bool bit = digit >> b & 1;
            uint32_t vote = __ballot_sync(0xffffffffu, bit);
            same &= bit ? vote : ~vote;
        }
        int ahead = __popc(same & ((1u << lane) - 1u)), before = seen[warp][digit];
        __syncwarp();
        if (ahead == 0) seen[warp][digit] = before + __popc(same);
        __syncwarp();
        rank[k] = (uint16_t)(before + ahead);
    }
    __syncthreads();
    int32_t count = 0, total, all = 0;
    if (t < kDigits) {
        GEMS_UNROLL for (int w = 0; w < kRadixWarps; w++) {
            int32_t c = seen[w][t];
            seen[w][t] = count;
            count += c;
        }
        all = totals[t];
    }
    int32_t first = block_exclusive_sum(count, total, buf);
    __syncthreads();
    int32_t before = block_exclusive_sum(all, total, buf);
    if (t < kDigits) {
        start[t] = first;
        base[t] = before + counts[(int64_t)t * tiles + tile] - first;
    }
    __syncthreads();
    GEMS_UNROLL for (int k = 0; k < kItems; k++) {
        int32_t i = (warp * kItems + k) * kWarp + lane;
        int digit = radix_digit(own[k], shift);
        int32_t to = start[digit] + seen[warp][digit] + rank[k];
        keys[to] = own[k];
        held[to] = i < size ? place(begin + i) : 0;
    }
    __syncthreads();
    GEMS_FOR_BLOCK(j, size) write(base[radix_digit(keys[j], shift)] + j, keys[j], held[j]);
}

#if RADIX_PAIRS // int32 keys with their positions, one row
extern "C" __global__ void __launch_bounds__(kRadixThreads) radix_count(const int32_t* __restrict__ keys,
                                                                        int32_t* __restrict__ counts, int32_t n,
                                                                        int32_t tiles, int32_t shift) {
    radix_count_tile([&](int32_t i) { return keys[i]; }, n, (int32_t)blockIdx.x, tiles, shift, counts);
}

extern "C" __global__ void radix_scan(int32_t* __restrict__ counts, int32_t* __restrict__ totals, int32_t tiles) {
    radix_scan_lines(counts, totals, kDigits, tiles);
}

extern "C" __global__ void __launch_bounds__(kRadixThreads, 1)
    radix_place(const int32_t* __restrict__ keys, const int32_t* __restrict__ positions, int32_t* __restrict__ keys_out,
                int32_t* __restrict__ positions_out, const int32_t* __restrict__ counts, const int32_t* __restrict__ totals,
                int32_t n, int32_t tiles, int32_t shift) {
    auto key = [&](int32_t i) { return (uint32_t)keys[i]; };
    auto place = [&](int32_t i) { return (uint32_t)positions[i]; };
    auto write = [&](int32_t rank, uint32_t k, uint32_t at) {
        keys_out[rank] = (int32_t)k;
        positions_out[rank] = (int32_t)at;
    };
    radix_place_tile<uint32_t>(key, place, write, n, (int32_t)blockIdx.x, tiles, shift, counts, totals);
}
#endif
