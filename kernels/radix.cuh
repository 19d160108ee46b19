// One pass of a stable radix sort of keys with their positions. The head names kRadixBits, kRadixThreads, kTile (keys of one
// block).
using namespace gems;

constexpr int kDigits = 1 << kRadixBits, kItems = kTile / kRadixThreads;

// counts[digit][block]: how often a block has a digit.
extern "C" __global__ void radix_count(const int32_t* __restrict__ keys, int32_t* __restrict__ counts, int32_t n,
                                       int32_t blocks, int32_t shift) {
    __shared__ int32_t count[kDigits];
    GEMS_FOR_BLOCK(d, kDigits) count[d] = 0;
    __syncthreads();
    int32_t begin = (int32_t)blockIdx.x * kTile, size = n - begin < kTile ? n - begin : kTile;
    GEMS_FOR_BLOCK(i, size) atomicAdd(&count[(keys[begin + i] >> shift) & (kDigits - 1)], 1);
    __syncthreads();
    GEMS_FOR_BLOCK(d, kDigits) counts[d * blocks + (int32_t)blockIdx.x] = count[d];
}

// counts becomes its exclusive sum; one block.
extern "C" __global__ void radix_scan(int32_t* counts, int32_t n) {
    __shared__ int32_t buf[33];
    int32_t before = 0;
    for (int32_t base = 0; base < n; base += (int32_t)blockDim.x) {
        int32_t i = base + (int32_t)threadIdx.x, total;
        int32_t own = i < n ? counts[i] : 0;
        int32_t sum = block_exclusive_sum(own, total, buf);
        if (i < n) counts[i] = before + sum;
        before += total;
        __syncthreads();
    }
}

// Every index to its place. A thread has kItems indices in a row and counts its digits by itself; the sum over
// (digit, thread) then gives every index its place among those of the block, in order.
extern "C" __global__ void radix_place(const int32_t* __restrict__ keys, const int32_t* __restrict__ positions,
                                       int32_t* __restrict__ keys_out, int32_t* __restrict__ positions_out,
                                       const int32_t* __restrict__ counts, int32_t n, int32_t blocks, int32_t shift) {
    constexpr int kCells = kDigits * kRadixThreads, kOwn = kCells / kRadixThreads, kPad = kOwn + 2;
    __shared__ uint16_t cell[kCells / kOwn * kPad];  // padded: the cells of a thread fall on different banks
    __shared__ int32_t buf[33], start[kDigits];
    int t = (int)threadIdx.x;
    auto at = [](int i) { return i / kOwn * kPad + i % kOwn; };
    GEMS_FOR_BLOCK(i, kCells) cell[at(i)] = 0;
    __syncthreads();
    int32_t begin = (int32_t)blockIdx.x * kTile + t * kItems;
    int32_t key[kItems];
    uint16_t rank[kItems];
    GEMS_UNROLL for (int k = 0; k < kItems; k++) {
        key[k] = begin + k < n ? keys[begin + k] : 0;
        rank[k] = 0;
        if (begin + k < n) rank[k] = cell[at(((key[k] >> shift) & (kDigits - 1)) * kRadixThreads + t)]++;
    }
    __syncthreads();
    int32_t own = 0, total;
    for (int i = 0; i < kOwn; i++) own += cell[t * kPad + i];
    int32_t sum = block_exclusive_sum(own, total, buf);
    for (int i = 0; i < kOwn; i++) {
        int32_t count = cell[t * kPad + i];
        cell[t * kPad + i] = (uint16_t)sum;
        sum += count;
    }
    __syncthreads();
    GEMS_FOR_BLOCK(d, kDigits) start[d] = counts[d * blocks + (int32_t)blockIdx.x] - cell[at(d * kRadixThreads)];
    __syncthreads();
    GEMS_UNROLL for (int k = 0; k < kItems; k++) {
        if (begin + k < n) {
            int digit = (key[k] >> shift) & (kDigits - 1);
            int32_t to = start[digit] + cell[at(digit * kRadixThreads + t)] + rank[k];
            keys_out[to] = key[k];
            positions_out[to] = positions[begin + k];
        }
    }
}
