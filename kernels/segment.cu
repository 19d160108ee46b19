// embedding_dense_backward: a stable radix sort of the indices with their positions, then one ordered sum for every row of
// the weight. The head names T, Int (of the indices), Index (of the output's vectors), kV, kRadixBits, kRadixThreads, kTile
// (indices of one block). Twin of csrc/families/gather_segment.c.
using namespace gems;

constexpr int kDigits = 1 << kRadixBits, kItems = kTile / kRadixThreads;

// The key of an index: its row, or `rows` where it has none (padding, out of range).
extern "C" __global__ void segment_prepare(const Int* __restrict__ index, int32_t n, int32_t rows, int64_t padding,
                                           int32_t* __restrict__ keys, int32_t* __restrict__ positions,
                                           int32_t* __restrict__ first, int32_t* __restrict__ last) {
    GEMS_FOR_GRID(i, n) {
        Int at = index[i];
        keys[i] = at >= 0 && at < rows && at != padding ? (int32_t)at : rows;
        positions[i] = i;
    }
    GEMS_FOR_GRID(r, rows + 1) {
        first[r] = 0;
        last[r] = 0;
    }
}

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

// Where the segment of every key begins and ends.
extern "C" __global__ void segment_edges(const int32_t* __restrict__ keys, int32_t n, int32_t* __restrict__ first,
                                         int32_t* __restrict__ last) {
    GEMS_FOR_GRID(i, n) {
        int32_t key = keys[i];
        if (i == 0 || keys[i - 1] != key) first[key] = i;
        if (i == n - 1 || keys[i + 1] != key) last[key] = i + 1;
    }
}

// A thread has kV columns of a row and adds its segment in order.
extern "C" __global__ void segment_sum(T* __restrict__ out, const T* __restrict__ grad, const int32_t* __restrict__ positions,
                                       const int32_t* __restrict__ first, const int32_t* __restrict__ last, int32_t rows,
                                       int64_t width, bool by_count) {
    typedef opmath_t<T> Acc;
    constexpr int kUnroll = 4;
    Index columns = (Index)(width / kV);
    GEMS_FOR_GRID(i, (Index)(rows * columns)) {
        int32_t row = (int32_t)(i / columns);
        const T* from = grad + (i - row * columns) * kV;
        int32_t begin = first[row], end = last[row];
        Acc acc[kV];
        GEMS_UNROLL for (int c = 0; c < kV; c++) acc[c] = 0;
        int32_t j = begin;
        for (; j + kUnroll <= end; j += kUnroll) {
            Vec<T, kV> v[kUnroll];
            GEMS_UNROLL for (int k = 0; k < kUnroll; k++) v[k] = load<kV>(from + (int64_t)positions[j + k] * width);
            GEMS_UNROLL for (int k = 0; k < kUnroll; k++)
                GEMS_UNROLL for (int c = 0; c < kV; c++) acc[c] += to_op(v[k].v[c]);
        }
        for (; j < end; j++) {
            Vec<T, kV> v = load<kV>(from + (int64_t)positions[j] * width);
            GEMS_UNROLL for (int c = 0; c < kV; c++) acc[c] += to_op(v.v[c]);
        }
        Acc scale = by_count && end > begin ? Acc(1) / Acc(end - begin) : Acc(1);
        Vec<T, kV> sum;
        GEMS_UNROLL for (int c = 0; c < kV; c++) sum.v[c] = from_op<T>(acc[c] * scale);
        store<kV>(out + (int64_t)i * kV, sum);
    }
}
