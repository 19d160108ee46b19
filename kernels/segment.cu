// embedding_dense_backward: a stable radix sort of the indices with their positions, then one ordered sum for every row of
// the weight. The head names T, Int (of the indices), Index (of the output's vectors), kV, and what kernels/radix.cuh needs.
// Twin of csrc/families/gather_segment.c.

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
