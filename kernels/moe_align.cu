// The tokens of each expert together, in blocks of `size` places: a stable sort by expert in which each expert's part is
// padded to whole blocks. Twin of csrc/families/experts.c. n pairs of a token and an expert are numbered along `ids`; an id
// that is no expert is left out. Several tiles of kTile pairs: `align_count` counts every tile's experts and fills the
// places, `align_scan` finds where each expert begins, `align_place` puts the pairs there. One tile: `align_one` does it all.
// The head names Id (of ids), Mapped (of the experts' numbers as they are given back), kTile, kExperts (a power of two that
// is not below the number of experts).
using namespace gems;

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kItems = kTile / kThreads;

// What is asked for: places of `sorted`, blocks of `experts_of`; map NULL: experts have the numbers that they have.
struct Align {
    const Id* ids;
    const Mapped* map;
    int32_t* sorted;
    Mapped* experts_of;
    int32_t* padded;
    int64_t places, blocks;
    int32_t n, experts, size;
    GEMS_DI int32_t expert(int32_t i) const {
        Id id = ids[i];
        return (int64_t)id >= 0 && (int64_t)id < experts ? (int32_t)id : kExperts;
    }
    GEMS_DI int32_t whole(int32_t count) const { return (count + size - 1) / size * size; }
};

#if GEMS_CPU && GEMS_FAST
extern "C" __global__ void align_one(Align a) {
    int32_t first[kExperts + 1] = {}, next = 0;
    for (int32_t i = 0; i < a.n; i++) first[a.expert(i)]++;
    int64_t block = 0;
    for (int32_t e = 0; e < a.experts; e++) {
        int32_t count = first[e];
        first[e] = next;
        next += a.whole(count);
        for (; block < a.blocks && block * a.size < next; block++) a.experts_of[block] = a.map ? a.map[e] : (Mapped)e;
    }
    for (; block < a.blocks; block++) a.experts_of[block] = a.map ? a.map[0] : (Mapped)0;
    for (int64_t i = 0; i < a.places; i++) a.sorted[i] = a.n;
    for (int32_t i = 0; i < a.n; i++) {
        int32_t e = a.expert(i);
        if (e < a.experts && first[e] < a.places) a.sorted[first[e]] = i;
        if (e < a.experts) first[e]++;
    }
    *a.padded = next;
}
#else
// Of each pair of a tile its expert and its rank among those of the same expert and warp; seen: how many each warp has.
GEMS_DI void rank_tile(const Align& a, int32_t begin, int32_t (&seen)[kWarps][kExperts], int32_t (&own)[kItems],
                       int32_t (&rank)[kItems]) {
    int lane = (int)threadIdx.x % kWarp, warp = (int)threadIdx.x / kWarp;
    GEMS_FOR_BLOCK(i, kWarps * kExperts) seen[i / kExperts][i % kExperts] = 0;
    __syncthreads();
    GEMS_UNROLL for (int k = 0; k < kItems; k++) {
        int32_t i = begin + (warp * kItems + k) * kWarp + lane;
        own[k] = i < a.n ? a.expert(i) : kExperts;
        bool there = own[k] < kExperts;
        uint32_t same = __ballot_sync(0xffffffffu, there);
        GEMS_UNROLL for (int b = 1; b < kExperts; b *= 2) {
            bool bit = own[k] & b;
            uint32_t vote = __ballot_sync(0xffffffffu, bit);
            same &= bit ? vote : ~vote;
        }
        int ahead = __popc(same & ((1u << lane) - 1u)), before = there ? seen[warp][own[k]] : 0;
        __syncwarp();
        if (there && ahead == 0) seen[warp][own[k]] = before + __popc(same);
        __syncwarp();
        rank[k] = before + ahead;
    }
    __syncthreads();
}

// counts[e] of the block's experts become where each begins, padded to whole blocks; gives where the last one ends.
GEMS_DI int32_t scan_experts(const Align& a, int32_t* counts, int32_t* buf) {
    int32_t before = 0;
    for (int32_t base = 0; base < kExperts; base += (int32_t)blockDim.x) {
        int32_t e = base + (int32_t)threadIdx.x, total, own = e < a.experts ? a.whole(counts[e]) : 0;
        int32_t begin = before + block_exclusive_sum(own, total, buf);
        if (e < kExperts) counts[e] = begin;
        before += total;
    }
    __syncthreads();
    return before;
}

// The expert of each block: the last one that begins at it or before, of those that end behind it.
GEMS_DI void name_blocks(const Align& a, const int32_t* begins, int32_t end) {
    GEMS_FOR_BLOCK(block, a.blocks) {
        int64_t at = block * a.size;
        int32_t low = 0, high = a.experts; // begins[low] <= at; the end of a.experts is beyond
        while (high - low > 1) {
            int32_t middle = (low + high) / 2;
            if (begins[middle] <= at) low = middle;
            else high = middle;
        }
        if (at >= end) low = 0;
        a.experts_of[block] = a.map ? a.map[low] : (Mapped)low;
    }
    if (threadIdx.x == 0) *a.padded = end;
}

extern "C" __global__ void __launch_bounds__(kThreads) align_one(Align a) {
    __shared__ int32_t seen[kWarps][kExperts], begins[kExperts], buf[33];
    int32_t own[kItems], rank[kItems];
    int lane = (int)threadIdx.x % kWarp, warp = (int)threadIdx.x / kWarp;
    GEMS_FOR_BLOCK(i, a.places) a.sorted[i] = a.n;
    rank_tile(a, 0, seen, own, rank);
    GEMS_FOR_BLOCK(e, kExperts) {
        int32_t count = 0;
        GEMS_UNROLL for (int w = 0; w < kWarps; w++) {
            int32_t c = seen[w][e];
            seen[w][e] = count;
            count += c;
        }
        begins[e] = count;
    }
    __syncthreads();
    int32_t end = scan_experts(a, begins, buf);
    GEMS_UNROLL for (int k = 0; k < kItems; k++) {
        int32_t e = own[k], at = e < kExperts ? begins[e] + seen[warp][e] + rank[k] : -1;
        if (at >= 0 && at < a.places) a.sorted[at] = (warp * kItems + k) * kWarp + lane;
    }
    name_blocks(a, begins, end);
}

// counts[e][tile]
extern "C" __global__ void __launch_bounds__(kThreads) align_count(Align a, int32_t* __restrict__ counts, int32_t tiles) {
    __shared__ int32_t count[kExperts + 1];
    int32_t tile = (int32_t)blockIdx.x, begin = tile * kTile, size = a.n - begin < kTile ? a.n - begin : kTile;
    GEMS_FOR_GRID(i, a.places) a.sorted[i] = a.n;
    GEMS_FOR_BLOCK(e, kExperts + 1) count[e] = 0;
    __syncthreads();
    GEMS_FOR_BLOCK(i, size) atomicAdd(&count[a.expert(begin + i)], 1);
    __syncthreads();
    GEMS_FOR_BLOCK(e, a.experts) counts[(int64_t)e * tiles + tile] = count[e];
}

// counts[e][tile] becomes where the tile's pairs of an expert begin. One block.
extern "C" __global__ void __launch_bounds__(1024) align_scan(Align a, int32_t* __restrict__ counts, int32_t tiles) {
    __shared__ int32_t begins[kExperts], buf[33];
    int lane = (int)threadIdx.x % kWarp, warp = (int)threadIdx.x / kWarp, warps = (int)blockDim.x / kWarp;
    for (int32_t e = warp; e < a.experts; e += warps) {
        int32_t* line = counts + (int64_t)e * tiles;
        int32_t own = 0;
        for (int32_t t = lane; t < tiles; t += kWarp) own += line[t];
        own = warp_reduce(own, Sum{});
        if (lane == 0) begins[e] = own;
    }
    __syncthreads();
    int32_t end = scan_experts(a, begins, buf);
    for (int32_t e = warp; e < a.experts; e += warps) {
        int32_t* line = counts + (int64_t)e * tiles;
        int32_t before = begins[e];
        for (int32_t base = 0; base < tiles; base += kWarp) {
            int32_t own = base + lane < tiles ? line[base + lane] : 0, sum = own;
            GEMS_UNROLL for (int o = 1; o < kWarp; o <<= 1) {
                int32_t y = shuffle_up(sum, o);
                if (lane >= o) sum += y;
            }
            if (base + lane < tiles) line[base + lane] = before + sum - own;
            before += __shfl_sync(0xffffffffu, sum, kWarp - 1);
        }
    }
    name_blocks(a, begins, end);
}

extern "C" __global__ void __launch_bounds__(kThreads) align_place(Align a, const int32_t* __restrict__ counts, int32_t tiles) {
    __shared__ int32_t seen[kWarps][kExperts];
    int32_t own[kItems], rank[kItems], tile = (int32_t)blockIdx.x, begin = tile * kTile;
    int lane = (int)threadIdx.x % kWarp, warp = (int)threadIdx.x / kWarp;
    rank_tile(a, begin, seen, own, rank);
    GEMS_FOR_BLOCK(e, a.experts) {
        int32_t at = counts[(int64_t)e * tiles + tile];
        GEMS_UNROLL for (int w = 0; w < kWarps; w++) {
            int32_t c = seen[w][e];
            seen[w][e] = at;
            at += c;
        }
    }
    __syncthreads();
    GEMS_UNROLL for (int k = 0; k < kItems; k++) {
        int32_t at = own[k] < kExperts ? seen[warp][own[k]] + rank[k] : -1;
        if (at >= 0 && at < a.places) a.sorted[at] = begin + (warp * kItems + k) * kWarp + lane;
    }
}
#endif
