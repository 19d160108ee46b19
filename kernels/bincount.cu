// How often each number is there, or the sum of the weights that stand beside it: bincount. Twin of csrc/families/bincount.c.
// `bin_range` finds the least and the largest number of each block's part, so that the host can make the result, which is 0
// before the others run. Numbers are counted in shared memory where the bins fit there. Weights are added in a fixed order:
// in the fast mode that of the numbers, else the numbers are sorted with their places and a warp adds up each bin.
// The head names T (of the numbers), and where WEIGHTED W (of the weights) and S (of their sums).
using namespace gems;

constexpr int kBins = 4096; // that lie in shared memory

struct Least { int64_t least, most; };
extern "C" __global__ void __launch_bounds__(256, 1) bin_range(const T* __restrict__ x, Least* __restrict__ ranges, int64_t n) {
    __shared__ Least buf[33];
    Least own{Limits<int64_t>::max(), Limits<int64_t>::lowest()};
    T least = Limits<T>::max(), most = Limits<T>::lowest();
    GEMS_FOR_GRID(i, n) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    if (least <= most) own = {(int64_t)least, (int64_t)most};
    own = block_reduce(own, [](Least a, Least b) {
        return Least{a.least < b.least ? a.least : b.least, a.most > b.most ? a.most : b.most};
    }, buf);
    if (threadIdx.x == 0) ranges[blockIdx.x] = own;
}

#if !WEIGHTED
extern "C" __global__ void __launch_bounds__(256, 1) bin_count(const T* __restrict__ x, uint64_t* __restrict__ out, int64_t n, int64_t bins) {
#if GEMS_CPU && GEMS_FAST
    auto part = grid_chunk(n);
    if (bins <= kBins / 4) {
        uint32_t apart[4][kBins / 4]; // so that equal neighbours do not wait for each other
        for (int k = 0; k < 4; k++) memset(apart[k], 0, (size_t)bins * 4);
        int64_t i = part.first;
        for (; i + 4 <= part.last; i += 4)
            for (int k = 0; k < 4; k++) apart[k][x[i + k]]++;
        for (; i < part.last; i++) apart[0][x[i]]++;
        for (int64_t b = 0; b < bins; b++) {
            uint64_t c = (uint64_t)apart[0][b] + apart[1][b] + apart[2][b] + apart[3][b];
            if (c) atomicAdd(&out[b], c);
        }
    } else { // one block
        for (int64_t i = 0; i < n; i++) out[x[i]]++;
    }
#else
    __shared__ uint32_t count[kBins];
    if (bins <= kBins) {
        GEMS_FOR_BLOCK(b, bins) count[b] = 0;
        __syncthreads();
        GEMS_FOR_GRID(i, n) atomicAdd(&count[x[i]], 1u);
        __syncthreads();
        GEMS_FOR_BLOCK(b, bins)
            if (count[b]) atomicAdd(&out[b], (uint64_t)count[b]);
    } else {
        GEMS_FOR_GRID(i, n) atomicAdd(&out[x[i]], (uint64_t)1);
    }
#endif
}
#elif GEMS_CPU && GEMS_FAST
extern "C" __global__ void bin_sum_all(const T* __restrict__ x, const W* __restrict__ weights, S* __restrict__ out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[x[i]] += convert<S>(weights[i]);
}
#else
extern "C" __global__ void __launch_bounds__(256, 1)
    bin_keys(const T* __restrict__ x, int32_t* __restrict__ keys, int32_t* __restrict__ places, int32_t n) {
    GEMS_FOR_GRID(i, n) {
        keys[i] = (int32_t)x[i];
        places[i] = i;
    }
}

// Where each bin's keys are: first[b] .. last[b]; both are 0 of bins without one.
extern "C" __global__ void __launch_bounds__(256, 1)
    bin_edges(const int32_t* __restrict__ keys, int32_t* __restrict__ first, int32_t* __restrict__ last, int32_t n) {
    GEMS_FOR_GRID(i, n) {
        if (i == 0 || keys[i - 1] != keys[i]) first[keys[i]] = i;
        if (i + 1 == n || keys[i + 1] != keys[i]) last[keys[i]] = i + 1;
    }
}

extern "C" __global__ void __launch_bounds__(256, 1)
    bin_sum(const W* __restrict__ weights, const int32_t* __restrict__ places, const int32_t* __restrict__ first,
            const int32_t* __restrict__ last, S* __restrict__ out, int32_t bins) {
    int lane = (int)threadIdx.x % kWarp;
    int64_t warps = (int64_t)gridDim.x * blockDim.x / kWarp;
    for (int64_t b = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / kWarp; b < bins; b += warps) {
        S sum = 0;
        for (int32_t i = first[b] + lane; i < last[b]; i += kWarp) sum += convert<S>(weights[places[i]]);
        sum = warp_reduce(sum, Sum{});
        if (lane == 0) out[b] = sum;
    }
}
#endif
