// One thread a line, its places in their order: the last of equal places wins, sums are the same bits every time. Beside
// scatter.cuh the head names kRank, kVaries (lines have indices of their own), kCheck (indices were not checked before), kUnit
// (all steps are 1) and how the fast mode goes: kWay 0 line by line, 1 place by place over all lines of a chunk, 2 the same
// with runs of lines that are contiguous. Twin of csrc/families/scatter.c.
using namespace gems;
typedef scatter_acc<T> Acc;

extern "C" __global__ void scatter_check(const Int* __restrict__ index, Strided<1, Index> m, int64_t size, int32_t* flag) {
#if GEMS_CPU && GEMS_FAST // negative where one is out of range: subtractions vectorise, comparisons of 64 bits hardly
    uint64_t bad = 0;
    const uint64_t below = kWrap ? (uint64_t)size : 0, last = (uint64_t)size - 1;
    auto look = [&](int64_t at) { bad |= ((uint64_t)at + below) | (last - (uint64_t)at); };
    if (m.ndim == 1 && m.stride[0][0] == 1) {
        auto chunk = grid_chunk((int64_t)m.n);
        for (int64_t i = chunk.first; i < chunk.last; i++) look(index[i]);
    } else {
        for_each_strided<8>(m, [&](const Index (&off)[1]) { look(index[off[0]]); });
    }
    if ((int64_t)bad < 0) in_range((int64_t)-1, size, flag);
#else
    for_each_strided<8>(m, [&](const Index (&off)[1]) { in_range(scatter_wrap(index[off[0]], size), size, flag); });
#endif
}

// Operands of m: out, index, src, over the lines; with kWay 2 without the innermost dim, which has `run` lines.
extern "C" __global__ void scatter_lines(Acc* __restrict__ out, int32_t* __restrict__ counts, const Int* __restrict__ index,
                                         const T* __restrict__ src, Strided<3, Index> m, int64_t length, int64_t by_out,
                                         int64_t by_index, int64_t by_src, int64_t size, int64_t run, int64_t src_run, Bits value,
                                         Bits factor, int32_t* flag) {
    const int64_t out_step = kUnit ? 1 : by_out, index_step = kUnit ? 1 : by_index, src_step = kUnit ? 1 : by_src;
    T fill = value_of<T>(value);
    Acc alpha = value_of<Acc>(factor);
    auto place = [&](Index from, int64_t j) { return scatter_wrap(index[from + j * index_step], size); };
    auto good = [&](int64_t at) { return !kCheck || in_range(at, size, flag); };
    auto put = [&](int64_t to, int64_t from) {
        out[to] = scatter_merge<Acc, T>(out[to], kFill ? fill : src[from], alpha);
        if constexpr (kMean) counts[to]++;
    };
    if constexpr (kWay == 2) {
        auto rows = [&](int64_t out_at, int64_t src_at, int64_t lines) {
            if constexpr (!kInclude) {
                for (int64_t j = 0; j < length; j++) {
                    int64_t at = place(0, j);
                    Acc* __restrict__ to = out + out_at + at * out_step;
                    if (good(at))
                        for (int64_t i = 0; i < lines; i++) to[i] = scatter_identity<Acc>();
                }
            }
            for (int64_t j = 0; j < length; j++) {
                int64_t at = place(0, j);
                if (!good(at)) continue;
                Acc* __restrict__ to = out + out_at + at * out_step;
                const T* __restrict__ from = src + src_at + j * src_step;
                if (kFill || !src_run) {
                    T v = kFill ? fill : *from;
                    for (int64_t i = 0; i < lines; i++) to[i] = scatter_merge<Acc, T>(to[i], v, alpha);
                } else {
                    for (int64_t i = 0; i < lines; i++) to[i] = scatter_merge<Acc, T>(to[i], from[i], alpha);
                }
                if constexpr (kMean) {
                    int32_t* __restrict__ own = counts + out_at + at * out_step;
                    for (int64_t i = 0; i < lines; i++) own[i]++;
                }
            }
        };
        if (m.n == 1) { // one run: its lines are shared out
            int64_t share = (run + gridDim.x - 1) / gridDim.x, first = share * blockIdx.x;
            if (first < run) rows(first, first * src_run, run - first < share ? run - first : share);
        } else {
            for_each_strided<kRank>(m, [&](const Index (&off)[3]) { rows(off[0], off[2], run); });
        }
    } else if constexpr (kWay == 1) {
        if constexpr (!kInclude) {
            for (int64_t j = 0; j < length; j++) {
                for_each_strided<kRank>(m, [&](const Index (&off)[3]) {
                    int64_t at = place(off[1], j);
                    if (good(at)) out[off[0] + at * out_step] = scatter_identity<Acc>();
                });
            }
        }
        for (int64_t j = 0; j < length; j++) {
            for_each_strided<kRank>(m, [&](const Index (&off)[3]) {
                int64_t at = place(off[1], j);
                if (good(at)) put(off[0] + at * out_step, off[2] + j * src_step);
            });
        }
    } else {
        GEMS_FOR_GRID(line, m.n) { // not for_each_strided: compilers would put lines into vectors
            Index off[3];
            strided_offsets<kRank>(m, line, off);
            if constexpr (!kInclude) {
                for (int64_t j = 0; j < length; j++) {
                    int64_t at = place(off[1], j);
                    if (good(at)) out[off[0] + at * out_step] = scatter_identity<Acc>();
                }
            }
            Acc* __restrict__ to = out + off[0];
            int32_t* __restrict__ own = counts + off[0];
            const T* __restrict__ from = src + off[2];
            for (int64_t j = 0; j < length; j++) {
                int64_t at = place(off[1], j);
                if (!good(at)) continue;
                Acc* one = to + at * out_step;
                *one = scatter_merge<Acc, T>(*one, kFill ? fill : from[j * src_step], alpha);
                if constexpr (kMean) own[at * out_step]++;
            }
        }
    }
}

// Sums and how many each is of, both contiguous.
extern "C" __global__ void scatter_finish(Acc* __restrict__ sums, const int32_t* __restrict__ counts, int64_t n) {
    GEMS_FOR_GRID(i, n) sums[i] = scatter_mean(sums[i], counts[i]);
}
