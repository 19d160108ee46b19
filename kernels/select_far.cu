// One element of each of few rows that are so long that many blocks share them: the digits of the key of a rank, from the
// highest, each by counting in all blocks those that agree with it so far; then the element among those of that key whose turn
// it is, in the order of the row. Counts are sums of integers, so no order of blocks changes them.
constexpr int kDigits = 256, kThreads = 256;

struct Found { // of a row: the digits so far, and the rank among those that agree with them
    uint64_t prefix;
    int32_t wanted, nans, count[kDigits];
};

extern "C" __global__ void __launch_bounds__(kThreads) begin(Found* found, int64_t rank) {
    Found& f = found[blockIdx.x];
    f.count[threadIdx.x] = 0;
    if (threadIdx.x == 0) {
        f.prefix = 0;
        f.wanted = (int32_t)rank;
        f.nans = 0;
    }
}

// f(key, place) for the elements of a block's part of its row.
template <class F> GEMS_DI void each_key(const T* __restrict__ in, const Lines& m, int32_t row, int32_t part, int32_t chunk, F f) {
    const T* from = in + line_offsets(m, row).in;
    int64_t step = m.step[0];
    int32_t n = (int32_t)m.n, first = part * chunk, last = n - first < chunk ? n : first + chunk;
#pragma unroll 8
    for (int32_t i = first + (int32_t)threadIdx.x; i < last; i += kThreads) f(key_of(from[i * step]), i);
}

extern "C" __global__ void __launch_bounds__(kThreads)
tally(const T* __restrict__ in, Found* found, Lines m, int32_t chunk, int32_t chunks, int32_t shift) {
    __shared__ int32_t count[kDigits], buf[33];
    int32_t row = (int32_t)(blockIdx.x / (uint32_t)chunks), part = (int32_t)(blockIdx.x % (uint32_t)chunks), nans = 0;
    Found& f = found[row];
    const bool whole = shift + 8 >= kKeyBits; // nothing is known yet
    const Key mask = whole ? (Key)0 : (Key)(kAll << (whole ? 0 : shift + 8)), prefix = (Key)f.prefix;
    count[threadIdx.x] = 0;
    __syncthreads();
    each_key(in, m, row, part, chunk, [&](Key key, int32_t) {
        nans += key == kNanKey;
        if ((Key)(key & mask) == prefix) atomicAdd(&count[(int)(key >> shift) & (kDigits - 1)], 1);
    });
    __syncthreads();
    if (count[threadIdx.x]) atomicAdd(&f.count[threadIdx.x], count[threadIdx.x]);
    if ((kWhat == kMedian || kWhat == kNanMedian) && whole) {
        nans = block_reduce(nans, Sum{}, buf);
        if (threadIdx.x == 0 && nans) atomicAdd(&f.nans, nans);
    }
}

extern "C" __global__ void __launch_bounds__(kThreads) choose(Found* found, Lines m, int32_t shift) {
    __shared__ int32_t buf[33];
    Found& f = found[blockIdx.x];
    int32_t own = f.count[threadIdx.x], wanted = f.wanted, total;
    if ((kWhat == kMedian || kWhat == kNanMedian) && shift + 8 >= kKeyBits) wanted = picked_rank(wanted, (int32_t)m.n, f.nans);
    int32_t before = block_exclusive_sum(own, total, buf);
    f.count[threadIdx.x] = 0;
    if (wanted >= before && wanted < before + own) {
        f.prefix |= (uint64_t)threadIdx.x << shift;
        f.wanted = wanted - before;
    }
}

// equals[row][part] = how many elements of a part have the key.
extern "C" __global__ void __launch_bounds__(kThreads)
equal(const T* __restrict__ in, const Found* __restrict__ found, int32_t* equals, Lines m, int32_t chunk, int32_t chunks) {
    __shared__ int32_t buf[33];
    int32_t row = (int32_t)(blockIdx.x / (uint32_t)chunks), part = (int32_t)(blockIdx.x % (uint32_t)chunks), own = 0;
    Key wanted = (Key)found[row].prefix;
    each_key(in, m, row, part, chunk, [&](Key key, int32_t) { own += key == wanted; });
    own = block_reduce(own, Sum{}, buf);
    if (threadIdx.x == 0) equals[blockIdx.x] = own;
}

extern "C" __global__ void __launch_bounds__(kThreads)
find(const T* __restrict__ in, T* __restrict__ values, int64_t* __restrict__ places, const Found* __restrict__ found,
     const int32_t* __restrict__ equals, Lines m, int32_t chunk, int32_t chunks) {
    __shared__ int32_t buf[33];
    int32_t row = (int32_t)(blockIdx.x / (uint32_t)chunks), part = (int32_t)(blockIdx.x % (uint32_t)chunks), before = 0;
    const int32_t* own = equals + (int64_t)row * chunks;
    for (int32_t i = (int32_t)threadIdx.x; i < part; i += kThreads) before += own[i];
    int32_t wanted = found[row].wanted - block_reduce(before, Sum{}, buf);
    if (wanted < 0 || wanted >= own[part]) return; // the same in all threads
    Key key = (Key)found[row].prefix;
    Offsets o = line_offsets(m, row);
    const T* from = in + o.in;
    int32_t n = (int32_t)m.n, first = part * chunk, last = n - first < chunk ? n : first + chunk;
    for (int32_t seen = 0; seen <= wanted && first < last; first += kThreads) {
        int32_t i = first + (int32_t)threadIdx.x, total;
        bool hit = i < last && key_of(from[i * m.step[0]]) == key;
        int32_t ahead = seen + block_exclusive_sum((int32_t)hit, total, buf);
        if (hit && ahead == wanted) {
            values[o.values] = from[i * m.step[0]];
            if (places) places[o.places] = i;
        }
        seen += total;
        __syncthreads();
    }
}
