// Numbers repeated: repeat_interleave of a vector of repeats. Twin of csrc/families/interleave.c. out has the number i
// repeats[i] times. `interleave_sum` adds up each tile's repeats, offsets.cuh adds those up where there are several,
// `interleave_fill` writes: a block of threads has a part of the result and looks for the tiles whose numbers are in it. A
// negative one makes the sum of all negative. The head names T and kTile.
// A GPU's way without reading, where the size is given, has not run on one yet.
constexpr int64_t kNegative = -((int64_t)1 << 56); // below the sum of all others

extern "C" __global__ void __launch_bounds__(256, 1)
    interleave_sum(const T* __restrict__ repeats, int64_t* __restrict__ sums, int64_t* __restrict__ starts, int64_t n, int64_t tiles) {
    __shared__ int64_t buf[33];
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t first = tile * kTile;
        int32_t size = n - first < kTile ? (int32_t)(n - first) : kTile;
        const T* from = repeats + first;
        int64_t sum = 0;
        T least = 0;
        GEMS_FOR_BLOCK(i, size) {
            sum += from[i];
            least = from[i] < least ? from[i] : least;
        }
        sum = block_reduce(least < 0 ? kNegative : sum, [](int64_t a, int64_t b) { return a < 0 || b < 0 ? kNegative : a + b; }, buf);
        if (threadIdx.x != 0) continue;
        if (tiles == 1) {
            starts[0] = 0;
            starts[1] = sum;
        } else sums[tile] = sum;
    }
}

// total: elements of out; the repeats were not read where they could not be, and have to add up to it.
extern "C" __global__ void __launch_bounds__(256, 1)
    interleave_fill(const T* __restrict__ repeats, const int64_t* __restrict__ starts, T* __restrict__ out, int64_t n, int64_t tiles,
                    int64_t total) {
#if GEMS_CPU && GEMS_FAST
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t first = tile * kTile, last = n - first < kTile ? n : first + kTile;
        T* __restrict__ to = out;
        int64_t at = starts[tile], end = starts[tile + 1];
        for (int64_t i = first; i < last; i++) {
            int64_t count = repeats[i];
            if (count <= 4 && at + 4 <= end) { // what is too much is written over
                GEMS_UNROLL for (int k = 0; k < 4; k++) to[at + k] = (T)i;
            } else {
                for (int64_t k = 0; k < count; k++) to[at + k] = (T)i;
            }
            at += count;
        }
    }
#else
    constexpr int kOwn = kTile / 256, kPart = 4096; // elements of out that a block writes at once
    __shared__ int64_t ends[kTile], buf[33];
    if (!in_range(starts[tiles] == total ? 0 : -1, 1, nullptr)) return;
    for (int64_t part = blockIdx.x; part * kPart < total; part += gridDim.x) {
        int64_t first = part * kPart, last = total - first < kPart ? total : first + kPart, low = 0, high = tiles;
        while (high - low > 1) { // the last tile that begins at `first` or before
            int64_t middle = low + (high - low) / 2;
            if (starts[middle] <= first) low = middle;
            else high = middle;
        }
        for (int64_t tile = low; tile < tiles && starts[tile] < last; tile++) {
            int64_t begin = starts[tile], end = starts[tile + 1], sum = 0, all;
            if (begin == end) continue;
            int64_t own[kOwn], base = tile * kTile + (int64_t)threadIdx.x * kOwn;
            GEMS_UNROLL for (int k = 0; k < kOwn; k++) sum += own[k] = base + k < n ? (int64_t)repeats[base + k] : 0;
            sum = begin + block_exclusive_sum(sum, all, buf);
            GEMS_UNROLL for (int k = 0; k < kOwn; k++) ends[threadIdx.x * kOwn + k] = sum += own[k];
            __syncthreads();
            int64_t from = begin < first ? first : begin, until = end < last ? end : last;
            for (int64_t at = from + threadIdx.x; at < until; at += blockDim.x) {
                int32_t before = 0, after = kTile - 1; // the first number that ends behind `at`
                while (before < after) {
                    int32_t middle = (before + after) / 2;
                    if (ends[middle] > at) after = middle;
                    else before = middle + 1;
                }
                out[at] = (T)(tile * kTile + before);
            }
            __syncthreads();
        }
    }
#endif
}
