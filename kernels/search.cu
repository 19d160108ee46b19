// searchsorted and bucketize. The head names T, Out, kRight, kSorter.
template <class V> GEMS_DI bool is_before(V element, V value) {
    return kRight ? !(element > value) : !(element >= value);
}

extern "C" __global__ void search(const T* __restrict__ sequence, const T* __restrict__ values,
                                  const int64_t* __restrict__ sorter, Out* __restrict__ out, int64_t n, int64_t length,
                                  int64_t per_row, T number, int32_t* flag) {
    typedef opmath_t<T> Op;
    GEMS_FOR_GRID(part, (n + kBeside - 1) / kBeside) {
        int64_t first = part * kBeside, row = per_row ? first / per_row : 0;
        int count = n - first < kBeside ? (int)(n - first) : kBeside;
        bool together = per_row == 0 || first + count <= (row + 1) * per_row;
        for (int done = 0; done < count;) { // values of one row at a time
            int size = count;
            if (!together) {
                row = (first + done) / per_row;
                size = count - done < (row + 1) * per_row - first - done ? count - done
                                                                         : (int)((row + 1) * per_row - first - done);
            }
            Op wanted[kBeside];
            int32_t found[kBeside];
            for (int q = 0; q < kBeside; q++)
                wanted[q] = to_op(!values ? number : values[first + done + (q < size ? q : size - 1)]);
            const T* line = sequence + row * length;
            auto element = [&](int32_t at) {
                if constexpr (kSorter) {
                    int64_t from = sorter[row * length + at];
                    return to_op(line[in_range(from, length, flag) ? from : 0]);
                } else {
                    return to_op(line[at]);
                }
            };
            find_places((int32_t)length, element, [&](int q) { return wanted[q]; }, is_before<Op>, found);
            for (int q = 0; q < size; q++) out[first + done + q] = (Out)found[q];
            done += size;
        }
    }
}
