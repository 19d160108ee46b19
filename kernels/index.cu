// Elements picked by kCount index tensors. The head names T, Int (of the indices), Index (of offsets), kCount, kV (elements of
// one access), kRank, kRows (fast mode: whole rows under one place). Twin of csrc/families/index.c.
using namespace gems;

// Operands of m: out, self without its indexed dims, then the indices; by: self's sizes and strides in the indexed dims.
extern "C" __global__ void index_elements(T* __restrict__ out, Pointers<Int> index, const T* __restrict__ self,
                                          Strided<2 + kCount, Index> m, Steps by, int64_t run, int32_t* flag) {
    for_each_strided<kRank>(m, [&](const Index (&off)[2 + kCount]) {
        Index from = off[1];
        bool good = true;
        GEMS_UNROLL for (int k = 0; k < kCount; k++) {
            int64_t at = index.at[k][off[2 + k]];
            if (at < 0) at += by.size[k];
            good = in_range(at, by.size[k], flag) && good;
            from += (Index)at * (Index)by.step[k];
        }
        if (good) {
            if constexpr (kRows) {
                if (run * sizeof(T) >= 64) memcpy(out + off[0], self + from, (size_t)run * sizeof(T));
                else for (int64_t i = 0; i < run; i++) out[off[0] + i] = self[from + i];
            } else {
                store<kV>(out + off[0], load<kV>(self + from));
            }
        }
    });
}
