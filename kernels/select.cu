// Some elements of long rows, a block a row: the digits of the key of a rank, from the highest, each by counting those that
// agree with it so far. Then the elements before it and the first of those equal to it are collected and sorted (kWrite), or
// that element alone is found. The head names kSize (of the sort, at least `limit`) and kThreads.
constexpr int kDigits = 256;

extern "C" __global__ void __launch_bounds__(kThreads, 1) select_rows(const T* __restrict__ in, T* __restrict__ values,
                                                                   int64_t* __restrict__ places, Lines m, int64_t limit,
                                                                   int64_t rank) {
    typedef item_t<32> Item;
    __shared__ int32_t count[kDigits], buf[33], digit_found, rank_found, taken;
    __shared__ Item items[kWhat == kWrite ? kThreads * kOwn : 1];
    int t = (int)threadIdx.x;
    int32_t n = (int32_t)m.n;
    int64_t step = m.step[0];
    for (int64_t row = blockIdx.x; row < m.count; row += gridDim.x) {
        Offsets o = line_offsets(m, (int32_t)row);
        const T* from = in + o.in;
        Key prefix = 0, mask = 0;
        int32_t wanted = (int32_t)(kWhat == kWrite ? limit - 1 : rank), equal = 0;
        for (int shift = kKeyBits - 8; shift >= 0; shift -= 8) {
            GEMS_FOR_BLOCK(d, kDigits) count[d] = 0;
            __syncthreads();
            int32_t nans = 0;
#pragma unroll 4
            for (int32_t i = t; i < n; i += kThreads) {
                Key key = key_of(from[i * step]);
                nans += key == kNanKey;
                if ((Key)(key & mask) == prefix) atomicAdd(&count[(int)(key >> shift) & (kDigits - 1)], 1);
            }
            __syncthreads();
            if constexpr (kWhat == kMedian || kWhat == kNanMedian) {
                if (mask == 0) wanted = picked_rank(wanted, n, block_reduce(nans, Sum{}, buf));
            }
            int32_t own = t < kDigits ? count[t] : 0, total;
            int32_t before = block_exclusive_sum(own, total, buf);
            if (wanted >= before && wanted < before + own) {
                digit_found = t;
                rank_found = wanted - before;
            }
            __syncthreads();
            wanted = rank_found;
            equal = count[digit_found];
            prefix = (Key)(prefix | (Key)((Key)digit_found << shift));
            mask = (Key)(mask | (Key)((Key)(kDigits - 1) << shift));
            __syncthreads();
        }
        // Of the elements equal to the key, the first `wanted` + 1 in their order are asked for.
        if constexpr (kWhat == kWrite) {
            bool every = equal == wanted + 1;
            int32_t below = (int32_t)limit - wanted - 1;
            if (t == 0) taken = 0;
            __syncthreads();
            for (int32_t i = t; i < n; i += kThreads) {
                Key key = key_of(from[i * step]);
                if (key < prefix || (every && key == prefix))
                    items[atomicAdd(&taken, 1)] = item_make<Item>(key, (uint32_t)i);
            }
            for (int32_t first = 0, found = 0; !every && found <= wanted; first += kThreads) {
                int32_t i = first + t, total;
                bool hit = i < n && key_of(from[i * step]) == prefix;
                int32_t ahead = found + block_exclusive_sum((int32_t)hit, total, buf);
                if (hit && ahead <= wanted) items[below + ahead] = item_make<Item>(prefix, (uint32_t)i);
                found += total;
                __syncthreads();
            }
            __syncthreads();
            Item v[kOwn];
            GEMS_UNROLL for (int i = 0; i < kOwn; i++) {
                int at = t * kOwn + i;
                v[i] = at < limit ? items[at] : item_last<Item>();
            }
            __syncthreads();
            sort_items<kSize>(v, t % (kSize / kOwn), items);
            uint32_t* order = reinterpret_cast<uint32_t*>(items);
            __syncthreads();
            GEMS_UNROLL for (int i = 0; i < kOwn; i++) order[t * kOwn + i] = item_at(v[i]);
            __syncthreads();
            for (int r = t; r < (int)limit; r += kThreads) {
                uint32_t at = order[r];
                values[o.values + r * m.step[1]] = from[at * step];
                if (places) places[o.places + r * m.step[2]] = at;
            }
        } else {
            for (int32_t first = 0, found = 0; found <= wanted; first += kThreads) {
                int32_t i = first + t, total;
                bool hit = i < n && key_of(from[i * step]) == prefix;
                int32_t ahead = found + block_exclusive_sum((int32_t)hit, total, buf);
                if (hit && ahead == wanted) {
                    values[o.values] = from[i * step];
                    if (places) places[o.places] = i;
                }
                found += total;
                __syncthreads();
            }
        }
        __syncthreads();
    }
}
