// Rows of up to kSize elements, a block each: a stable radix sort in shared memory. A warp has kItems times kWarp elements in a
// row; lanes with the same digit find each other by ballots, so that equal keys keep their order. The head names kSize, a
// multiple of kThreads (256 or more), and kWhat besides what kernels/sort.cuh needs.
constexpr int kBits = 8, kDigits = 1 << kBits, kItems = kSize / kThreads, kWarps = kThreads / kWarp;

extern "C" __global__ void __launch_bounds__(kThreads, kThreads > 256 || sizeof(Key) == 8 ? 2 : 3)
sort_row(const T* __restrict__ in, T* __restrict__ values, int64_t* __restrict__ places, Lines m, int64_t limit, int64_t rank) {
    __shared__ Key keys[kSize];
    __shared__ uint16_t held[kSize], seen[kWarps][kDigits];
    __shared__ int32_t buf[33];
    const int t = (int)threadIdx.x, lane = t % kWarp, warp = t / kWarp, n = (int)m.n;
    for (uint32_t row = blockIdx.x; row < (uint32_t)m.count; row += gridDim.x) {
        Key own[kItems];
        uint32_t at[kItems]; // the place; above it the rank in the warp
        int32_t nans = 0;
        {
            const T* from = in + line_offsets(m, (int32_t)row).in;
            GEMS_UNROLL for (int k = 0; k < kItems; k++) {
                int i = (warp * kItems + k) * kWarp + lane;
                own[k] = i < n ? key_of(from[i * m.step[0]]) : kAll; // behind the end: after everything
                at[k] = (uint32_t)i;
                nans += i < n && own[k] == kNanKey;
            }
        }
        if constexpr (kWhat == kMedian || kWhat == kNanMedian) nans = block_reduce(nans, Sum{}, buf);
#pragma unroll 1
        for (int shift = 0; shift < kKeyBits; shift += kBits) {
            GEMS_UNROLL for (int d = 0; d < kDigits; d += kWarp) seen[warp][d + lane] = 0;
            __syncwarp();
            GEMS_UNROLL for (int k = 0; k < kItems; k++) {
                int digit = (int)(own[k] >> shift) & (kDigits - 1);
                uint32_t same = 0xffffffffu;
                GEMS_UNROLL for (int b = 0; b < kBits; b++) {
                    bool bit = digit >> b & 1;
                    uint32_t vote = __ballot_sync(0xffffffffu, bit);
                    same &= bit ? vote : ~vote;
                }
                uint32_t ahead = (uint32_t)__popc(same & ((1u << lane) - 1u)), before = seen[warp][digit];
                __syncwarp();
                if (ahead == 0) seen[warp][digit] = (uint16_t)(before + (uint32_t)__popc(same));
                __syncwarp();
                at[k] = (at[k] & 0xffffu) | (before + ahead) << 16;
            }
            __syncthreads();
            int32_t all = 0, total;
            if (t < kDigits) {
                GEMS_UNROLL for (int w = 0; w < kWarps; w++) all += seen[w][t];
            }
            int32_t first = block_exclusive_sum(all, total, buf);
            if (t < kDigits) {
                GEMS_UNROLL for (int w = 0; w < kWarps; w++) {
                    int32_t count = seen[w][t];
                    seen[w][t] = (uint16_t)first;
                    first += count;
                }
            }
            __syncthreads();
            GEMS_UNROLL for (int k = 0; k < kItems; k++) {
                uint32_t to = seen[warp][(int)(own[k] >> shift) & (kDigits - 1)] + (at[k] >> 16);
                keys[to] = own[k];
                held[to] = (uint16_t)at[k];
            }
            __syncthreads();
            if (shift + kBits < kKeyBits) {
                GEMS_UNROLL for (int k = 0; k < kItems; k++) {
                    int i = (warp * kItems + k) * kWarp + lane;
                    own[k] = keys[i];
                    at[k] = held[i];
                }
            }
        }
        Offsets o = line_offsets(m, (int32_t)row); // found again: while sorting registers are scarce
        const T* from = in + o.in;
        if constexpr (kWhat == kWrite) {
            for (int r = t; r < (int)limit; r += kThreads) {
                uint32_t place = held[r];
                values[o.values + r * m.step[1]] = value_of(keys[r], from + place * m.step[0]);
                if (places) places[o.places + r * m.step[2]] = place;
            }
        } else if (t == 0) {
            int32_t wanted = (int32_t)rank;
            if constexpr (kWhat != kKth) wanted = picked_rank(wanted, n, nans);
            uint32_t place = held[wanted];
            values[o.values] = from[place * m.step[0]];
            if (places) places[o.places] = place;
        }
        __syncthreads();
    }
}
