// Elements picked by an index. The head names GATHER_KERNEL, T, Int (of the index), Index (of offsets), kV (elements of one
// access), kRank, kRows (fast mode: whole rows under one index). Twin of csrc/families/gather.c.
using namespace gems;

#if GATHER_KERNEL == 1
// Operands of m: out, index, self without its indexed dim; step and size: self's stride and size there.
extern "C" __global__ void gather_elements(T* __restrict__ out, const Int* __restrict__ index, const T* __restrict__ self,
                                           Strided<3, Index> m, int64_t step, int64_t size, int64_t run, int32_t* flag) {
    for_each_strided<kRank>(m, [&](const Index (&off)[3]) {
        Int at = index[off[1]];
        if (in_range(at, size, flag)) {
            const T* from = self + off[2] + (Index)at * (Index)step;
            if constexpr (kRows) {
                if (run * sizeof(T) >= 64) memcpy(out + off[0], from, (size_t)run * sizeof(T));
                else for (int64_t i = 0; i < run; i++) out[off[0] + i] = from[i];
            } else {
                store<kV>(out + off[0], load<kV>(from));
            }
        }
    });
}
#endif

#if GATHER_KERNEL == 2
// Operands of m: out, index, src, all without dim; a thread adds up one line along dim, in order: the same bits every time.
extern "C" __global__ void scatter_add(opmath_t<T>* __restrict__ out, const Int* __restrict__ index, const T* __restrict__ src,
                                       Strided<3, Index> m, int64_t length, int64_t out_step, int64_t index_step,
                                       int64_t src_step, int64_t size, int32_t* flag) {
    for_each_strided<kRank>(m, [&](const Index (&off)[3]) {
        for (int64_t j = 0; j < length; j++) {
            Int at = index[off[1] + j * index_step];
            if (in_range(at, size, flag)) {
                out[off[0] + at * out_step] += to_op(src[off[2] + j * src_step]);
            }
        }
    });
}

extern "C" __global__ void check_lines(opmath_t<T>*, const Int* __restrict__ index, const T*, Strided<3, Index> m, int64_t length,
                                       int64_t, int64_t index_step, int64_t, int64_t size, int32_t* flag) {
    for_each_strided<kRank>(m, [&](const Index (&off)[3]) {
        for (int64_t j = 0; j < length; j++) in_range(index[off[1] + j * index_step], size, flag);
    });
}
#endif
