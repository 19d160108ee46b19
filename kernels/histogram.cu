// How many elements are in each of so many equal bins between two numbers: histc. Twin of csrc/families/histogram.c.
// `hist_range` finds the least and the largest element of each block's part, `hist_count` counts in integers, in shared memory
// where the bins fit there, and `hist_write` leaves the counts in T. The head names T.
using namespace gems;

constexpr int kBins = 4096; // that lie in shared memory

struct Ends { T least, most; }; // NaN: there is one
extern "C" __global__ void __launch_bounds__(256, 1) hist_range(const T* __restrict__ x, Ends* __restrict__ ranges, int64_t n) {
    __shared__ Ends buf[33];
    constexpr int W = kFast ? 64 : 1;
    T least[W], most[W];
    for (int k = 0; k < W; k++) least[k] = Limits<T>::inf(), most[k] = -Limits<T>::inf();
#if GEMS_CPU && GEMS_FAST
    auto part = grid_chunk(n);
    int64_t i = part.first;
    for (; i + W <= part.last; i += W)
        GEMS_IVDEP for (int k = 0; k < W; k++) {
            T v = x[i + k];
            least[k] = v < least[k] || v != v ? v : least[k];
            most[k] = v > most[k] || v != v ? v : most[k];
        }
    for (; i < part.last; i++) least[0] = min_nan(x[i], least[0]), most[0] = max_nan(x[i], most[0]);
    for (int k = 1; k < W; k++) least[0] = min_nan(least[0], least[k]), most[0] = max_nan(most[0], most[k]);
#else
    GEMS_FOR_GRID(i, n) least[0] = min_nan(x[i], least[0]), most[0] = max_nan(x[i], most[0]);
#endif
    Ends own = block_reduce(Ends{least[0], most[0]}, [](Ends a, Ends b) {
        return Ends{min_nan(a.least, b.least), max_nan(a.most, b.most)};
    }, buf);
    if (threadIdx.x == 0) ranges[blockIdx.x] = own;
}

// The bin of an element; -1: it is outside, or no number.
GEMS_DI int bin_of(T v, T least, T most, int bins) {
    bool inside = v >= least && v <= most;
    int bin = (int)((inside ? v - least : T(0)) * T(bins) / (most - least));
    return inside ? bin < bins ? bin : bins - 1 : -1;
}

// counts are 0 before.
extern "C" __global__ void __launch_bounds__(256, 1)
hist_count(const T* __restrict__ x, uint64_t* __restrict__ counts, int64_t n, int32_t bins, double from, double to) {
    const T least = T(from), most = T(to);
#if GEMS_CPU && GEMS_FAST
    constexpr int W = 256;
    auto part = grid_chunk(n);
    const bool few = bins < kBins / 4;
    uint32_t apart[4][kBins / 4]; // so that equal neighbours do not wait for each other; the first is what is outside
    if (few)
        for (int k = 0; k < 4; k++) memset(apart[k], 0, (size_t)(bins + 1) * 4);
    for (int64_t i = part.first; i < part.last; i += W) {
        int at[W], count = (int)(part.last - i < W ? part.last - i : W);
        for (int k = count; k < W; k++) at[k] = -1;
        GEMS_IVDEP for (int k = 0; k < count; k++) at[k] = bin_of(x[i + k], least, most, bins);
        if (few) {
            for (int k = 0; k < W; k++) apart[k % 4][at[k] + 1]++;
        } else { // one block
            for (int k = 0; k < count; k++)
                if (at[k] >= 0) counts[at[k]]++;
        }
    }
    if (few)
        for (int b = 0; b < bins; b++) {
            uint64_t c = (uint64_t)apart[0][b + 1] + apart[1][b + 1] + apart[2][b + 1] + apart[3][b + 1];
            if (c) atomicAdd(&counts[b], c);
        }
#else
    __shared__ uint32_t count[kBins];
    if (bins <= kBins) {
        GEMS_FOR_BLOCK(b, bins) count[b] = 0;
        __syncthreads();
        GEMS_FOR_GRID(i, n) {
            int bin = bin_of(x[i], least, most, bins);
            if (bin >= 0) atomicAdd(&count[bin], 1u);
        }
        __syncthreads();
        GEMS_FOR_BLOCK(b, bins)
            if (count[b]) atomicAdd(&counts[b], (uint64_t)count[b]);
    } else {
        GEMS_FOR_GRID(i, n) {
            int bin = bin_of(x[i], least, most, bins);
            if (bin >= 0) atomicAdd(&counts[bin], (uint64_t)1);
        }
    }
#endif
}

extern "C" __global__ void __launch_bounds__(256, 1) hist_write(const uint64_t* __restrict__ counts, T* __restrict__ out, int32_t bins) {
    GEMS_FOR_GRID(b, bins) out[b] = T(counts[b]);
}
