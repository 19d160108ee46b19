// Short rows, sorted in the registers of a few threads each: kSize / kOwn threads a row, kSize a power of two that is not
// below n. The head names kSize, kThreads and kWhat besides what kernels/sort.cuh needs.
extern "C" __global__ void __launch_bounds__(kThreads, 1) sort_block(const T* __restrict__ in, T* __restrict__ values,
                                                                  int64_t* __restrict__ places, Lines m, int64_t limit,
                                                                  int64_t rank) {
    typedef item_t<16> Item;
    constexpr int kGroup = kSize / kOwn, kRows = kThreads / kGroup;
    __shared__ Item shared[kThreads * kOwn];
    __shared__ int32_t nans[kRows];
    int slot = (int)threadIdx.x / kGroup, t = (int)threadIdx.x % kGroup, n = (int)m.n;
    for (int64_t first = (int64_t)blockIdx.x * kRows; first < m.count; first += (int64_t)gridDim.x * kRows) {
        bool mine = first + slot < m.count;
        Offsets o = line_offsets(m, mine ? (int32_t)(first + slot) : 0);
        const T* from = in + o.in;
        Item v[kOwn];
        int32_t own = 0;
        GEMS_UNROLL for (int i = 0; i < kOwn; i++) {
            int at = t * kOwn + i;
            v[i] = item_last<Item>();
            if (mine && at < n) {
                Key key = key_of(from[at * m.step[0]]);
                own += key == kNanKey;
                v[i] = item_make<Item>(key, (uint32_t)at);
            }
        }
        if constexpr (kWhat == kMedian || kWhat == kNanMedian) {
            if (t == 0) nans[slot] = 0;
            __syncthreads();
            if (own) atomicAdd(&nans[slot], own);
            __syncthreads();
        }
        sort_items<kSize>(v, t, shared);
        if constexpr (kWhat == kWrite) {
            uint32_t* order = reinterpret_cast<uint32_t*>(shared);
            __syncthreads();
            GEMS_UNROLL for (int i = 0; i < kOwn; i++) order[slot * kSize + t * kOwn + i] = item_at(v[i]);
            __syncthreads();
            int last = mine ? (int)limit : 0;
            for (int r = t; r < last; r += kGroup) {
                uint32_t at = order[slot * kSize + r];
                values[o.values + r * m.step[1]] = from[at * m.step[0]];
                if (places) places[o.places + r * m.step[2]] = at;
            }
        } else {
            int32_t wanted = (int32_t)rank;
            if constexpr (kWhat != kKth) wanted = picked_rank(wanted, n, nans[slot]);
            GEMS_UNROLL for (int i = 0; i < kOwn; i++) {
                if (mine && t * kOwn + i == wanted) {
                    values[o.values] = from[item_at(v[i]) * m.step[0]];
                    if (places) places[o.places] = item_at(v[i]);
                }
            }
        }
        __syncthreads();
    }
}
