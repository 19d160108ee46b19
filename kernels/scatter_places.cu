// Scatter for devices that run many threads: the place that is last in order claims a destination, or the places are sorted
// (stable) by destination, and one thread has all of a destination, in their order. Beside scatter.cuh the head names
// SCATTER_KERNEL, kCount (index tensors), kVaries (a place's other dims are part of its destination), kV, kRank, Key (of
// destinations, or offsets). Twin of csrc/families/scatter_places.c.
using namespace gems;
typedef scatter_acc<T> Acc;

// The destination of a place: from its offsets in the indices, off[First] on, and `before`.
template <int First, int N>
GEMS_DI bool destination(const Pointers<Int>& index, const Index (&off)[N], const Steps& by, int32_t* flag, int64_t& key) {
    bool good = true;
    GEMS_UNROLL for (int k = 0; k < kCount; k++) {
        int64_t at = scatter_wrap(index.at[k][off[First + k]], by.size[k]);
        good = in_range(at, by.size[k], flag) && good;
        key += at * by.step[k];
    }
    if constexpr (kVaries) key += off[First + kCount];
    return good;
}
constexpr int kOperands = kCount + (kVaries ? 1 : 0);

// Operands of m: the indices, then with kVaries what the other dims add; row-major over the places.
extern "C" __global__ void scatter_keys(Pointers<Int> index, Strided<kOperands, Index> m, Steps by, Key* __restrict__ keys,
                                        int32_t* __restrict__ positions, int32_t* flag) {
    GEMS_FOR_GRID(p, m.n) {
        Index off[kOperands];
        strided_offsets<kRank>(m, p, off);
        int64_t key = 0;
        bool good = destination<0>(index, off, by, flag, key);
        keys[p] = good ? (Key)key : 0;
        if (positions) positions[p] = (int32_t)p;
    }
}

#if SCATTER_KERNEL == 2
extern "C" __global__ void scatter_claim(Pointers<Int> index, Strided<kOperands, Index> m, Steps by, int32_t* __restrict__ winner,
                                         int32_t* flag) {
    GEMS_FOR_GRID(p, m.n) {
        Index off[kOperands];
        strided_offsets<kRank>(m, p, off);
        int64_t key = 0;
        if (destination<0>(index, off, by, flag, key)) atomicMax(&winner[key], (int32_t)p);
    }
}

// Operands of m: out, src, the place, then those of scatter_claim. winner NULL: all of a destination store the same.
extern "C" __global__ void scatter_put(T* __restrict__ out, const T* __restrict__ src, Pointers<Int> index,
                                       Strided<3 + kOperands, Index> m, Steps by, Steps to, const int32_t* __restrict__ winner,
                                       Bits value, int32_t* flag) {
    for_each_strided<kRank>(m, [&](const Index (&off)[3 + kOperands]) {
        int64_t key = 0, offset = off[0];
        if (!destination<3>(index, off, by, flag, key) || (winner && winner[key] != (int32_t)off[2])) return;
        GEMS_UNROLL for (int k = 0; k < kCount; k++)
            offset += scatter_wrap(index.at[k][off[3 + k]], by.size[k]) * to.step[k];
        Vec<T, kV> v;
        if constexpr (kFill) {
            GEMS_UNROLL for (int c = 0; c < kV; c++) v.v[c] = value_of<T>(value);
        } else {
            v = load<kV>(src + off[1]);
        }
        store<kV>(out + offset, v);
    });
}
#endif

#if SCATTER_KERNEL == 3
// Sorted keys and positions. Operands: of `outer` out, by key; of `places` src, by position; of `inner` out and src, in
// vectors, for the `columns` that every place has.
extern "C" __global__ void scatter_apply(T* __restrict__ out, const T* __restrict__ src, const int32_t* __restrict__ keys,
                                         const int32_t* __restrict__ positions, Strided<1, Index> outer,
                                         Strided<1, Index> places, Strided<2, Index> inner, int32_t n, Index columns, Bits value,
                                         Bits factor) {
    constexpr int kUnroll = 4;
    Acc alpha = value_of<Acc>(factor);
    T fill = value_of<T>(value);
    GEMS_FOR_GRID(i, (Index)(n * columns)) {
        int32_t j = (int32_t)(i / columns);
        int32_t key = keys[j];
        if (j > 0 && keys[j - 1] == key) continue;
        Index at[2], base[1];
        strided_offsets<8>(inner, (Index)(i - j * columns), at);
        strided_offsets<8>(outer, (Index)key, base);
        T* to = out + base[0] + at[0];
        const T* from = src + at[1];
        auto element = [&](int32_t position) {
            Vec<T, kV> v;
            if constexpr (kFill) {
                GEMS_UNROLL for (int c = 0; c < kV; c++) v.v[c] = fill;
            } else {
                Index off[1];
                strided_offsets<8>(places, (Index)position, off);
                v = load<kV>(from + off[0]);
            }
            return v;
        };
        Acc acc[kV];
        int32_t begin = j;
        if constexpr (kInclude) {
            Vec<T, kV> self = load<kV>(to);
            GEMS_UNROLL for (int c = 0; c < kV; c++) acc[c] = to_op(self.v[c]);
        } else {
            GEMS_UNROLL for (int c = 0; c < kV; c++) acc[c] = scatter_identity<Acc>();
        }
        for (; j + kUnroll <= n && keys[j + kUnroll - 1] == key; j += kUnroll) {
            Vec<T, kV> v[kUnroll];
            GEMS_UNROLL for (int k = 0; k < kUnroll; k++) v[k] = element(positions[j + k]);
            GEMS_UNROLL for (int k = 0; k < kUnroll; k++)
                GEMS_UNROLL for (int c = 0; c < kV; c++) acc[c] = scatter_merge<Acc, T>(acc[c], v[k].v[c], alpha);
        }
        for (; j < n && keys[j] == key; j++) {
            Vec<T, kV> v = element(positions[j]);
            GEMS_UNROLL for (int c = 0; c < kV; c++) acc[c] = scatter_merge<Acc, T>(acc[c], v.v[c], alpha);
        }
        Vec<T, kV> result;
        GEMS_UNROLL for (int c = 0; c < kV; c++) {
            if constexpr (kMean) acc[c] = scatter_mean(acc[c], j - begin + (kInclude ? 1 : 0));
            result.v[c] = from_op<T>(acc[c]);
        }
        store<kV>(to, result);
    }
}
#endif
