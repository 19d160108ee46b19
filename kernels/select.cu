// Some elements of rows, a block a row, whose keys it keeps in registers, kHeld a thread (0: it reads the row for each step).
// Digits of the key of a rank (select.cuh); then the elements before it and the first of those equal to it are collected and
// sorted (kWrite), or that element alone is found. The head names kSize (of the sort, at least `limit`), kThreads, kHeld.
// Has not run on a GPU.
constexpr int kBatch = kHeld ? kHeld : 8;
constexpr int kBlocks = 1024 / kThreads;

extern "C" __global__ void __launch_bounds__(kThreads, kBlocks) select_rows(const T* __restrict__ in, T* __restrict__ values,
                                                                         int64_t* __restrict__ places, Lines m, int64_t limit,
                                                                         int64_t rank) {
    typedef item_t<32> Item;
    __shared__ int32_t count[kDigits], buf[33], taken;
    __shared__ Choice chosen;
    __shared__ Item items[kWhat == kWrite ? kThreads * kOwn : 1];
    const int t = (int)threadIdx.x;
    const int32_t n = (int32_t)m.n;
    const int64_t step = m.step[0];
    for (int64_t row = blockIdx.x; row < m.count; row += gridDim.x) {
        const T* from = in + line_offsets(m, (int32_t)row).in;
        Key own[kBatch];
        auto take = [&](int32_t base) {
            GEMS_UNROLL for (int k = 0; k < kBatch; k++) {
                int32_t i = base + k * kThreads + t;
                own[k] = i < n ? key_of(from[i * step]) : (Key)0;
            }
        };
        // f(key, place, whether there is such a place), by whole warps.
        auto each = [&](auto f) {
            for (int32_t base = 0; base < (kHeld ? 1 : n); base += kBatch * kThreads) {
                if constexpr (!kHeld) take(base);
                GEMS_UNROLL for (int k = 0; k < kBatch; k++) f(own[k], base + k * kThreads + t, base + k * kThreads + t < n);
            }
        };
        if constexpr (kHeld) take(0);
        Known known{0, (int32_t)(kWhat == kWrite ? limit - 1 : rank), n, kKeyBits, 0};
#pragma unroll 1
        for (int s = 0; s < kSteps && !known.done(); s++) {
            GEMS_FOR_BLOCK(d, kDigits) count[d] = 0;
            __syncthreads();
            int32_t nans = 0;
            each([&](Key key, int32_t, bool there) {
                int digit;
                nans += there && key == kNanKey;
                if (there && digit_of(known, s, key, digit)) atomicAdd(&count[digit], 1);
            });
            __syncthreads();
            if constexpr (kWhat == kMedian || kWhat == kNanMedian) {
                if (s == 0) known.wanted = picked_rank(known.wanted, n, block_reduce(nans, Sum{}, buf));
            }
            choose_digit<kThreads>(known, s, count, buf, &chosen);
        }
        const Offsets o = line_offsets(m, (int32_t)row); // found again: before it registers are scarce
        const bool every = known.equal == known.wanted + 1;
        // Of the elements that agree, the first `wanted` + 1 in their order are asked for.
        auto in_order = [&](auto f) {
            for (int32_t first = 0, found = 0; found <= known.wanted; first += kThreads) {
                int32_t i = first + t, total;
                bool hit = i < n && known.side(key_of(from[i * step])) == 0;
                int32_t ahead = found + block_exclusive_sum((int32_t)hit, total, buf);
                if (hit) f(i, ahead);
                found += total;
            }
        };
        if constexpr (kWhat == kWrite) {
            const int32_t below = (int32_t)limit - known.wanted - 1;
            if (t == 0) taken = 0;
            __syncthreads();
            each([&](Key key, int32_t i, bool there) {
                int side = known.side(key);
                bool hit = there && (side < 0 || (every && side == 0));
                int32_t to = take_places(hit, &taken);
                if (hit) items[to] = item_make<Item>(key, (uint32_t)i);
            });
            if (!every)
                in_order([&](int32_t i, int32_t ahead) {
                    if (ahead <= known.wanted) items[below + ahead] = item_make<Item>(key_of(from[i * step]), (uint32_t)i);
                });
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
            auto write = [&](int32_t i) {
                values[o.values] = from[i * step];
                if (places) places[o.places] = i;
            };
            if (known.equal == 1) {
                int32_t at = -1;
                each([&](Key key, int32_t i, bool there) { at = there && known.side(key) == 0 ? i : at; });
                if (at >= 0) write(at);
            } else {
                in_order([&](int32_t i, int32_t ahead) {
                    if (ahead == known.wanted) write(i);
                });
            }
        }
        __syncthreads();
    }
}
