// embedding_dense_backward on the fast cpu backend: one thread counts and places the indices in order, then the rows of the
// weight are summed. The same sums in the same order as kernels/segment.cu.
using namespace gems;

extern "C" __global__ void segment_sort(const Int* __restrict__ index, int32_t n, int32_t rows, int64_t padding,
                                        int32_t* __restrict__ positions, int32_t* __restrict__ first,
                                        int32_t* __restrict__ last) {
    memset(last, 0, (size_t)(rows + 1) * sizeof *last);
    auto key = [&](int32_t i) {
        Int at = index[i];
        return at >= 0 && at < rows && at != padding ? (int32_t)at : rows;
    };
    for (int32_t i = 0; i < n; i++) last[key(i)]++;
    for (int32_t r = 0, before = 0; r <= rows; r++) {
        int32_t count = last[r];
        first[r] = last[r] = before;
        before += count;
    }
    for (int32_t i = 0; i < n; i++) positions[last[key(i)]++] = i;
}

extern "C" __global__ void segment_sum(T* __restrict__ out, const T* __restrict__ grad, const int32_t* __restrict__ positions,
                                       const int32_t* __restrict__ first, const int32_t* __restrict__ last, int32_t rows,
                                       int64_t width, bool by_count) {
    typedef opmath_t<T> Acc;
    constexpr int kPart = 64;
    GEMS_FOR_GRID(row, rows) {
        int32_t begin = first[row], end = last[row];
        T* to = out + row * width;
        if (begin == end) {
            memset(to, 0, (size_t)width * sizeof(T));
            continue;
        }
        Acc scale = by_count ? Acc(1) / Acc(end - begin) : Acc(1);
        for (int64_t part = 0; part < width; part += kPart) {
            int size = width - part < kPart ? (int)(width - part) : kPart;
            Acc acc[kPart];
            for (int c = 0; c < kPart; c++) acc[c] = 0;
            for (int32_t j = begin; j < end; j++) {
                const T* from = grad + positions[j] * width + part;
                GEMS_IVDEP for (int c = 0; c < size; c++) acc[c] += to_op(from[c]);
            }
            GEMS_IVDEP for (int c = 0; c < size; c++) to[part + c] = from_op<T>(acc[c] * scale);
        }
    }
}
