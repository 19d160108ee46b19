// Rows of a matrix in lexicographic order, and which of them differ from the one before: unique_dim. Twin of
// csrc/families/runs_rows.c. x has n rows of `width` elements; `order` are numbers of rows. Elements compare as in sort
// (NaN above all), so that the order is one; a row with NaN is still equal to none. In blocks of threads rows are merged: a
// row's place among two sorted runs is its own plus its rank in the other run.
struct Before {
    const T* x;
    int64_t width;
    GEMS_DI bool operator()(int64_t a, int64_t b) const {
        const T *left = x + a * width, *right = x + b * width;
        for (int64_t k = 0; k < width; k++) {
            Key l = key_of(left[k]), r = key_of(right[k]);
            if (l != r) return l < r;
        }
        return false;
    }
};

// Where the i-th of `from` stands when its run of `size` elements is merged with the other one of the pair; last: the
// number of elements.
template <class F> GEMS_DI int32_t merged_place(const int64_t* from, int32_t i, int32_t size, int32_t last, F before) {
    int32_t pair = i - i % (2 * size), middle = last - pair < size ? last : pair + size;
    bool left = i < middle;
    int32_t low = left ? middle : pair, high = left ? (last - pair < 2 * size ? last : pair + 2 * size) : middle, first = low;
    int64_t own = from[i];
    while (low < high) {
        int32_t at = low + (high - low) / 2;
        bool ahead = left ? before(from[at], own) : !before(own, from[at]);
        if (ahead) low = at + 1;
        else high = at;
    }
    return (left ? i : i - size) + (low - first);
}

#if GEMS_CPU && GEMS_FAST
// One thread: runs of 8 by insertion, then merges. The result is in `order`.
extern "C" __global__ void rows_sort(const T* __restrict__ x, int64_t* order, int64_t* other, int32_t n, int64_t width) {
    Before before{x, width};
    int64_t *from = order, *to = other;
    for (int32_t base = 0; base < n; base += 8) {
        int32_t last = n - base < 8 ? n : base + 8;
        for (int32_t i = base; i < last; i++) {
            int32_t j = i;
            for (; j > base && before(i, from[j - 1]); j--) from[j] = from[j - 1];
            from[j] = i;
        }
    }
    for (int64_t size = 8; size < n; size *= 2) {
        for (int64_t base = 0; base < n; base += 2 * size) {
            int64_t middle = base + size < n ? base + size : n, last = base + 2 * size < n ? base + 2 * size : n;
            int64_t a = base, b = middle;
            for (int64_t i = base; i < last; i++) {
                bool right = b < last && (a == middle || before(from[b], from[a]));
                to[i] = right ? from[b++] : from[a++];
            }
        }
        int64_t* swap = from;
        from = to;
        to = swap;
    }
    if (from != order) memcpy(order, from, (size_t)n * sizeof *order);
}
#else
// Sorts the rows of each block.
extern "C" __global__ void __launch_bounds__(256) rows_sort(const T* __restrict__ x, int64_t* __restrict__ order, int64_t*,
                                                            int32_t n, int64_t width) {
    __shared__ int64_t rows[2][256];
    int32_t base = (int32_t)blockIdx.x * 256, t = (int32_t)threadIdx.x, last = n - base < 256 ? n - base : 256, which = 0;
    Before before{x, width};
    rows[0][t] = base + t;
    __syncthreads();
    for (int32_t size = 1; size < 256; size *= 2) {
        if (t < last) rows[1 - which][merged_place(rows[which], t, size, last, before)] = rows[which][t];
        which = 1 - which;
        __syncthreads();
    }
    if (t < last) order[base + t] = rows[which][t];
}
#endif

extern "C" __global__ void __launch_bounds__(256)
    rows_merge(const T* __restrict__ x, const int64_t* __restrict__ from, int64_t* __restrict__ to, int32_t n, int64_t width,
               int32_t size) {
    Before before{x, width};
    GEMS_FOR_GRID(i, n) to[merged_place(from, i, size, n, before)] = from[i];
}

// flags[i] = whether the i-th row in order differs from the one before. order NULL: as they are.
extern "C" __global__ void __launch_bounds__(256)
    rows_flags(const T* __restrict__ x, const int64_t* __restrict__ order, uint8_t* __restrict__ flags, int32_t n, int64_t width) {
    int lane = (int)threadIdx.x % kWarp;
    int64_t warps = (int64_t)gridDim.x * blockDim.x / kWarp;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / kWarp; i < n; i += warps) {
        bool differs = i == 0;
        if (i > 0) {
            const T *own = x + (order ? order[i] : i) * width, *last = x + (order ? order[i - 1] : i - 1) * width;
            for (int64_t k = lane; k < width && !differs; k += kWarp) differs = to_op(own[k]) != to_op(last[k]);
        }
        differs = warp_reduce((int)differs, Or{});
        if (lane == 0) flags[i] = differs;
    }
}

// The first row of each run. `inner` of its elements stay together: the rows of the result lie one behind the other where
// that is all of them, else along a dim within it.
extern "C" __global__ void __launch_bounds__(256)
    rows_gather(const T* __restrict__ x, const int64_t* __restrict__ order, const int32_t* __restrict__ firsts, T* __restrict__ out,
                int32_t total, int64_t width, int64_t inner) {
    int lane = (int)threadIdx.x % kWarp;
    int64_t warps = (int64_t)gridDim.x * blockDim.x / kWarp;
    // Element k is the `rest`-th of the `piece`-th run of `inner`; both are counted on, which is cheaper than to divide.
    const int32_t few = inner < 1 ? 1 : inner < kWarp ? (int32_t)inner : kWarp + 1;
    const int32_t pieces = kWarp / few, left = kWarp - pieces * few;
    for (int64_t r = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / kWarp; r < total; r += warps) {
        const T* from = x + (order ? order[firsts[r]] : firsts[r]) * width;
        T* to = out + r * inner;
        int64_t piece = lane / few, rest = lane % few;
        for (int64_t k = lane; k < width; k += kWarp) {
            to[piece * total * inner + rest] = from[k];
            piece += pieces;
            rest += left;
            if (rest >= inner) rest -= inner, piece++;
        }
    }
}
