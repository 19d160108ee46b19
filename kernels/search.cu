// searchsorted and bucketize: the place of a value in a sorted sequence, by halving. The head names T, Out, kRight, kSorter.
using namespace gems;

extern "C" __global__ void search(const T* __restrict__ sequence, const T* __restrict__ values,
                                  const int64_t* __restrict__ sorter, Out* __restrict__ out, int64_t n, int64_t length,
                                  int64_t per_row, T number, int32_t* flag) {
    GEMS_FOR_GRID(i, n) {
        int64_t row = per_row ? i / per_row * length : 0;
        auto value = to_op(values ? values[i] : number);
        int64_t low = 0, left = length;
        // `low` elements are known to be before the value, those from low + left on not to be.
        while (left > 0) {
            int64_t half = left >> 1, at = row + low + half;
            if constexpr (kSorter) {
                int64_t from = sorter[at];
                if (!in_range(from, length, flag)) break;
                at = row + from;
            }
            auto other = to_op(sequence[at]);
            bool before = kRight ? !(other > value) : !(other >= value);
            low = before ? low + half + 1 : low;
            left = before ? left - half - 1 : half;
        }
        out[i] = (Out)low;
    }
}
