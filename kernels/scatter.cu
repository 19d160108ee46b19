// One thread a line, its places in their order: the last of equal places wins, sums are the same bits every time. Beside
// scatter.cuh the head names kRank, kVaries (lines have indices of their own), kAcross (fast mode: place by place, all
// lines of a chunk). Twin of csrc/families/scatter.c.
using namespace gems;
typedef scatter_acc<T> Acc;

extern "C" __global__ void scatter_check(const Int* __restrict__ index, Strided<1, Index> m, int64_t size, int32_t* flag) {
    if constexpr (kFast) {
        int bad = 0;
        for_each_strided<8>(m, [&](const Index (&off)[1]) {
            bad |= (uint64_t)scatter_wrap(index[off[0]], size) >= (uint64_t)size;
        });
        if (bad) in_range((int64_t)-1, size, flag);
    } else {
        for_each_strided<8>(m, [&](const Index (&off)[1]) { in_range(scatter_wrap(index[off[0]], size), size, flag); });
    }
}

// Operands of m: out, index, src, over the lines.
extern "C" __global__ void scatter_lines(Acc* __restrict__ out, int32_t* __restrict__ counts, const Int* __restrict__ index,
                                         const T* __restrict__ src, Strided<3, Index> m, int64_t length, int64_t out_step,
                                         int64_t index_step, int64_t src_step, int64_t size, Bits value, Bits factor,
                                         int32_t* flag) {
    T fill = value_of<T>(value);
    Acc alpha = value_of<Acc>(factor);
    auto place = [&](Index from, int64_t j) { return scatter_wrap(index[from + j * index_step], size); };
    auto put = [&](int64_t to, int64_t from) {
        out[to] = scatter_merge<Acc, T>(out[to], kFill ? fill : src[from], alpha);
        if constexpr (kMean) counts[to]++;
    };
    if constexpr (kAcross) {
        if constexpr (!kInclude) {
            for (int64_t j = 0; j < length; j++) {
                int64_t same = kVaries ? 0 : place(0, j) * out_step;
                for_each_strided<kRank>(m, [&](const Index (&off)[3]) {
                    out[off[0] + (kVaries ? place(off[1], j) * out_step : same)] = scatter_identity<Acc>();
                });
            }
        }
        for (int64_t j = 0; j < length; j++) {
            int64_t same = kVaries ? 0 : place(0, j) * out_step, from = j * src_step;
            for_each_strided<kRank>(m, [&](const Index (&off)[3]) {
                put(off[0] + (kVaries ? place(off[1], j) * out_step : same), off[2] + from);
            });
        }
    } else {
        for_each_strided<kRank>(m, [&](const Index (&off)[3]) {
            if constexpr (!kInclude) {
                for (int64_t j = 0; j < length; j++) {
                    int64_t at = place(off[1], j);
                    if (kFast || in_range(at, size, flag)) out[off[0] + at * out_step] = scatter_identity<Acc>();
                }
            }
            for (int64_t j = 0; j < length; j++) {
                int64_t at = place(off[1], j);
                if (kFast || in_range(at, size, flag)) put(off[0] + at * out_step, off[2] + j * src_step);
            }
        });
    }
}

// Sums and how many each is of, both contiguous.
extern "C" __global__ void scatter_finish(Acc* __restrict__ sums, const int32_t* __restrict__ counts, int64_t n) {
    GEMS_FOR_GRID(i, n) sums[i] = scatter_mean(sums[i], counts[i]);
}
