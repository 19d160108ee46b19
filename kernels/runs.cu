// Runs of equal elements: unique, unique_consecutive, unique_dim, and the mode of sorted rows. Twin of csrc/families/runs.c.
//
// The elements lie one behind the other, sorted or not, n of them below 2^31; a run is where equal ones follow each other
// (NaN is equal to nothing, -0.0 to 0.0). `run_count` counts the runs that begin in each tile, offsets.cuh adds them up,
// `run_pick` goes through the tiles again: the r-th run's first element, its place, and r for each of its elements. Where
// kRows, an element is a row of a matrix, `order` its sorted rows, and whether a run begins there stands in flags already.
// The head names T, kTile (elements of a block), kRows; a block has 256 threads.
using namespace gems;

#if RUNS
struct Runs {
    const T* x;
    const uint8_t* flags;
    int32_t n;
    GEMS_DI bool begins(int32_t i) const {
        if constexpr (kRows) return flags[i];
        else return i == 0 || to_op(x[i]) != to_op(x[i - 1]);
    }
};

// What is made of runs; each may be NULL. source: where an element was before the sort, NULL: where it is. lengths: only
// the fast mode knows them at once, else they follow from the firsts.
struct Made {
    T* values;
    const int64_t* source;
    int64_t *inverse, *lengths;
    int32_t* firsts;
};

#if GEMS_CPU && GEMS_FAST
GEMS_DI int32_t count_tile(const Runs& runs, int32_t first, int32_t last) {
    int32_t c = 0, i = first;
    if (i == 0 && i < last) c = runs.begins(i++);
    if constexpr (kRows) {
        for (; i < last; i++) c += runs.flags[i];
    } else {
        const T *here = runs.x, *before = runs.x - 1;
        for (; i < last; i++) c += to_op(here[i]) != to_op(before[i]);
    }
    return c;
}
// Whose run began in a tile before has that tile's length; the last run is followed beyond the tile.
template <bool Inverse, bool Lengths>
GEMS_DI void pick_from(const Runs& runs, const Made& made, int32_t first, int32_t last, int32_t rank) {
    const int64_t* __restrict__ source = made.source;
    int64_t *__restrict__ inverse = made.inverse, *__restrict__ lengths = made.lengths;
    int32_t* __restrict__ firsts = made.firsts;
    T* __restrict__ values = made.values;
    int32_t begin = first, from = first;
    for (; begin < last && !runs.begins(begin); begin++)
        if (Inverse) inverse[source ? source[begin] : begin] = rank;
    if (begin == last) return;
    T value{};
    for (int32_t i = begin; i < last; i++) {
        bool begins = runs.begins(i);
        rank += begins;
        from = begins ? i : from;
        if constexpr (kRows) {
            firsts[rank] = from;
        } else {
            value = begins ? runs.x[i] : value;
            values[rank] = value;
        }
        if (Lengths) lengths[rank] = i + 1 - from;
        if (Inverse) inverse[source ? source[i] : i] = rank;
    }
    if (!Lengths) return;
    int32_t end = last;
    while (end < runs.n && !runs.begins(end)) end++;
    lengths[rank] = end - from;
}
GEMS_DI void pick_tile(const Runs& runs, const Made& made, int32_t first, int32_t last, int64_t at) {
    int32_t rank = (int32_t)at - 1;
    if (made.inverse) {
        if (made.lengths) pick_from<true, true>(runs, made, first, last, rank);
        else pick_from<true, false>(runs, made, first, last, rank);
    } else {
        if (made.lengths) pick_from<false, true>(runs, made, first, last, rank);
        else pick_from<false, false>(runs, made, first, last, rank);
    }
}
#else
// A warp has kTile / 8 elements in a row, kWarp of them at a time: who begins a run is a word of bits.
constexpr int kSteps = kTile / 256, kWarps = 256 / kWarp;

// The words of a warp's elements, of which this lane's first is i, and those elements; all are read before one is looked at.
GEMS_DI void words_of(const Runs& runs, int32_t i, int32_t last, uint32_t (&word)[kSteps], T (&own)[kSteps]) {
    const int lane = (int)threadIdx.x % kWarp;
    if constexpr (kRows) {
        GEMS_UNROLL for (int k = 0; k < kSteps; k++)
            word[k] = __ballot_sync(0xffffffffu, i + k * kWarp < last && runs.flags[i + k * kWarp]);
    } else {
        GEMS_UNROLL for (int k = 0; k < kSteps; k++) own[k] = i + k * kWarp < last ? runs.x[i + k * kWarp] : T{};
        T before = lane == 0 && i > 0 && i < last ? runs.x[i - 1] : T{};
        GEMS_UNROLL for (int k = 0; k < kSteps; k++) {
            T left = shuffle_up(own[k], 1), next = shuffle_from(own[k], kWarp - 1);
            if (lane == 0) left = before;
            bool begins = i + k * kWarp == 0 || to_op(own[k]) != to_op(left);
            word[k] = __ballot_sync(0xffffffffu, i + k * kWarp < last && begins);
            before = next;
        }
    }
}
GEMS_DI int32_t count_tile(const Runs& runs, int32_t first, int32_t last) {
    __shared__ int32_t of_warp[kWarps];
    int lane = (int)threadIdx.x % kWarp, warp = (int)threadIdx.x / kWarp;
    int32_t own = 0;
    uint32_t words[kSteps];
    T elements[kSteps];
    words_of(runs, first + warp * kSteps * kWarp + lane, last, words, elements);
    GEMS_UNROLL for (int k = 0; k < kSteps; k++) own += __popc(words[k]);
    __syncthreads();
    if (lane == 0) of_warp[warp] = own;
    __syncthreads();
    own = 0;
    GEMS_UNROLL for (int w = 0; w < kWarps; w++) own += of_warp[w];
    return own;
}
GEMS_DI void pick_tile(const Runs& runs, const Made& made, int32_t first, int32_t last, int64_t at) {
    __shared__ int32_t of_warp[kWarps];
    int lane = (int)threadIdx.x % kWarp, warp = (int)threadIdx.x / kWarp;
    int32_t own = 0, begin = first + warp * kSteps * kWarp + lane;
    const uint32_t until = ~0u >> (kWarp - 1 - lane); // the bits up to this lane's
    uint32_t words[kSteps];
    T elements[kSteps];
    words_of(runs, begin, last, words, elements);
    GEMS_UNROLL for (int k = 0; k < kSteps; k++) own += __popc(words[k]);
    __syncthreads();
    if (lane == 0) of_warp[warp] = own;
    __syncthreads();
    int32_t before = (int32_t)at;
    GEMS_UNROLL for (int w = 0; w < kWarps; w++) before += w < warp ? of_warp[w] : 0;
    GEMS_UNROLL for (int k = 0; k < kSteps; k++) {
        int32_t i = begin + k * kWarp, rank = before + __popc(words[k] & until) - 1;
        if (i < last) {
            if (words[k] >> lane & 1) {
                if constexpr (!kRows) made.values[rank] = elements[k];
                if (made.firsts) made.firsts[rank] = i;
            }
            if (made.inverse) made.inverse[made.source ? made.source[i] : i] = rank;
        }
        before += __popc(words[k]);
    }
}
#endif

// counts[tile] = how many runs begin in a tile; of a single tile, where its runs begin and how many there are: starts[0, 1].
extern "C" __global__ void __launch_bounds__(256, 1)
    run_count(const T* __restrict__ x, const uint8_t* __restrict__ flags, int32_t* counts, int64_t* starts, int32_t n, int32_t tiles) {
    Runs runs{x, flags, n};
    for (int32_t tile = (int32_t)blockIdx.x; tile < tiles; tile += (int32_t)gridDim.x) {
        int32_t first = tile * kTile, c = count_tile(runs, first, n - first < kTile ? n : first + kTile);
        if (threadIdx.x != 0) continue;
        if (tiles == 1) {
            starts[0] = 0;
            starts[1] = c;
        } else counts[tile] = c;
    }
}

extern "C" __global__ void __launch_bounds__(256, 1)
    run_pick(const T* __restrict__ x, const uint8_t* __restrict__ flags, const int64_t* __restrict__ starts,
             const int64_t* __restrict__ source, T* values, int64_t* inverse, int64_t* lengths,
             int32_t* firsts, int32_t n, int32_t tiles) {
    Runs runs{x, flags, n};
    Made made{values, source, inverse, lengths, firsts};
    for (int32_t tile = (int32_t)blockIdx.x; tile < tiles; tile += (int32_t)gridDim.x) {
        int32_t first = tile * kTile;
        pick_tile(runs, made, first, n - first < kTile ? n : first + kTile, starts[tile]);
    }
}

// counts[r] = how many elements the r-th of `total` runs has.
extern "C" __global__ void __launch_bounds__(256, 1)
    run_lengths(const int32_t* __restrict__ firsts, int64_t* __restrict__ counts, int32_t n, int32_t total) {
    GEMS_FOR_GRID(r, total) counts[r] = (r + 1 < total ? firsts[r + 1] : n) - firsts[r];
}
#endif

#if BYTES
// Elements of one byte: how often each of the 256 is there, then what the host makes of that.
struct Table { uint8_t value[256], rank[256]; };

extern "C" __global__ void __launch_bounds__(256, 1) byte_count(const T* __restrict__ x, uint64_t* counts, int64_t n) {
    __shared__ uint32_t count[256];
    GEMS_FOR_BLOCK(b, 256) count[b] = 0;
    __syncthreads();
#if GEMS_CPU && GEMS_FAST
    auto part = grid_chunk(n);
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(x);
    if constexpr (is_same<T, bool>) {
        int64_t c = 0;
        for (int64_t i = part.first; i < part.last; i++) c += bytes[i];
        count[1] = (uint32_t)c;
        count[0] = (uint32_t)(part.last - part.first - c);
    } else {
        uint32_t apart[4][256] = {}; // so that equal neighbours do not wait for each other
        int64_t i = part.first;
        for (; i + 4 <= part.last; i += 4)
            for (int k = 0; k < 4; k++) apart[k][bytes[i + k]]++;
        for (; i < part.last; i++) apart[0][bytes[i]]++;
        for (int b = 0; b < 256; b++) count[b] = apart[0][b] + apart[1][b] + apart[2][b] + apart[3][b];
    }
#else
    GEMS_FOR_GRID(i, n) atomicAdd(&count[(uint8_t)x[i]], 1u);
#endif
    __syncthreads();
    GEMS_FOR_BLOCK(b, 256)
        if (count[b]) atomicAdd(&counts[b], (uint64_t)count[b]);
}

// The r-th of `total` bytes that are there, and how often it is; which of them each element is.
extern "C" __global__ void __launch_bounds__(256, 1)
    byte_pick(const T* __restrict__ x, const uint64_t* __restrict__ counts, Table table, T* __restrict__ values,
              int64_t* __restrict__ inverse, int64_t* __restrict__ lengths, int64_t n, int32_t total) {
    __shared__ uint8_t rank[256];
    if (blockIdx.x == 0) {
        GEMS_FOR_BLOCK(r, total) {
            values[r] = (T)table.value[r];
            if (lengths) lengths[r] = (int64_t)counts[table.value[r]];
        }
    }
    if (!inverse) return;
    if constexpr (kFast && is_same<T, bool>) {
        int64_t zero = table.rank[0], one = table.rank[1];
        GEMS_FOR_GRID(i, n) inverse[i] = x[i] ? one : zero;
    } else {
        GEMS_FOR_BLOCK(b, 256) rank[b] = table.rank[b];
        __syncthreads();
        GEMS_FOR_GRID(i, n) inverse[i] = rank[(uint8_t)x[i]];
    }
}
#endif

#if MODE
// The longest run of each sorted row, of those as long the first: its last element, and where that was. kWhole: a row has a
// block, else a warp.
struct Longest { int32_t length, first; };
struct Longer {
    GEMS_DI Longest operator()(Longest a, Longest b) const {
        return b.length > a.length || (b.length == a.length && b.first < a.first) ? b : a;
    }
};

// Where a run of sorted elements ends that begins at i: steps that double, then halves of the last one.
GEMS_DI int32_t run_end(const T* x, int32_t i, int32_t n) {
    auto value = to_op(x[i]);
    int32_t step = 1;
    while (i + step < n && to_op(x[i + step]) == value) step *= 2;
    int32_t low = i + step / 2, high = i + step < n ? i + step : n; // x[low] is equal, x[high] is not
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (to_op(x[middle]) == value) low = middle;
        else high = middle;
    }
    return high;
}

extern "C" __global__ void __launch_bounds__(256, 1)
    longest_runs(const T* __restrict__ sorted, const int64_t* __restrict__ source, T* __restrict__ values,
                 int64_t* __restrict__ places, int64_t rows, int32_t n) {
    __shared__ Longest buf[33];
    int group = kWhole || kFast ? (int)blockDim.x : kWarp, groups = (int)blockDim.x / group;
    int lane = (int)threadIdx.x % group;
    for (int64_t first = (int64_t)blockIdx.x * groups; first < rows; first += (int64_t)gridDim.x * groups) {
        int64_t row = first + (int)threadIdx.x / group;
        const T* x = sorted + (row < rows ? row : 0) * n;
        Longest best{0, 0};
        if constexpr (kFast) {
            for (int32_t i = 0; i < n;) {
                int32_t last = i + 1;
                while (last < n && to_op(x[last]) == to_op(x[i])) last++;
                if (last - i > best.length) best = {last - i, i};
                i = last;
            }
        } else {
            for (int32_t i = lane; i < n; i += group)
                if (i == 0 || to_op(x[i]) != to_op(x[i - 1])) best = Longer{}(best, Longest{run_end(x, i, n) - i, i});
            if constexpr (kWhole) best = block_reduce(best, Longer{}, buf);
            else best = warp_reduce(best, Longer{});
        }
        if (lane == 0 && row < rows) {
            int64_t at = row * n + best.first + best.length - 1;
            values[row] = sorted[at];
            places[row] = source[at];
        }
    }
}
#endif
