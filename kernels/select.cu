// Some elements of rows, a block a row, whose keys it keeps in registers, kHeld a thread (0: it reads the row for each step).
// Digits of the key of a rank (select.cuh); then the elements before it and the first of those equal to it are collected and
// sorted (kWrite), or that element alone is found. The head names kSize (of the sort, at least `limit`), kThreads, kHeld.
// Right on an H200.
constexpr int kBatch = kHeld ? kHeld : 8;
// Blocks of a processor: fewer where registers would not suffice.
constexpr int kBlocks = (kWhat == kWrite && (GEMS_ARCH >= 1000 || sizeof(Key) == 8) ? 512 : 1024) / kThreads;

extern "C" __global__ void __launch_bounds__(kThreads, kBlocks) select_rows(const T* __restrict__ in, T* __restrict__ values,
                                                                         int64_t* __restrict__ places, Lines m, int64_t limit,
                                                                         int64_t rank) {
    typedef item_t<32> Item;
    __shared__ int32_t count[kDigits], buf[33], taken, votes_of[kBatch * (kThreads / kWarp)];
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
        // f(the first place of this thread), after as many as kBatch elements, kThreads apart, are in `own`; by whole warps.
        auto each = [&](auto f) {
            for (int32_t base = 0; base < (kHeld ? 1 : n); base += kBatch * kThreads) {
                if constexpr (!kHeld) take(base);
                f(base + t);
            }
        };
        if constexpr (kHeld) take(0);
        Known known{0, (int32_t)(kWhat == kWrite ? limit - 1 : rank), n, kKeyBits, 0};
#pragma unroll 1
        for (int s = 0; s < kSteps && !known.done(); s++) {
            GEMS_FOR_BLOCK(d, kDigits) count[d] = 0;
            __syncthreads();
            int32_t nans = 0;
            each([&](int32_t i) {
                GEMS_UNROLL for (int k = 0; k < kBatch; k++) {
                    const bool there = i + k * kThreads < n;
                    int digit;
                    nans += there && own[k] == kNanKey;
                    if (there && digit_of(known, s, own[k], digit)) atomicAdd(&count[digit], 1);
                }
            });
            __syncthreads();
            if constexpr (kWhat == kMedian || kWhat == kNanMedian) {
                if (s == 0) known.wanted = picked_rank(known.wanted, n, block_reduce(nans, Sum{}, buf));
            }
            choose_digit<kThreads>(known, s, count, buf, &chosen);
        }
        const bool every = known.equal == known.wanted + 1;
        // Of the elements that agree, the first `wanted` + 1 in their order are asked for: f(key, place, how many are before).
        // An element's order is its warp's of those of the same k.
        auto in_order = [&](auto f) {
            int32_t found = 0;
            each([&](int32_t i) {
                uint32_t votes[kBatch];
                if (found > known.wanted) return; // the same in all threads
                GEMS_UNROLL for (int k = 0; k < kBatch; k++) {
                    votes[k] = __ballot_sync(0xffffffffu, (i + k * kThreads < n) & (known.side(own[k]) == 0));
                    if (t % kWarp == 0) votes_of[k * (kThreads / kWarp) + t / kWarp] = __popc(votes[k]);
                }
                __syncthreads();
                int32_t total, mine = t < kBatch * (kThreads / kWarp) ? votes_of[t] : 0;
                mine = block_exclusive_sum(mine, total, buf);
                __syncthreads();
                if (t < kBatch * (kThreads / kWarp)) votes_of[t] = mine;
                __syncthreads();
                GEMS_UNROLL for (int k = 0; k < kBatch; k++) {
                    int32_t ahead = found + votes_of[k * (kThreads / kWarp) + t / kWarp] + __popc(votes[k] & ((1u << t % kWarp) - 1u));
                    if (votes[k] >> t % kWarp & 1) f(own[k], i + k * kThreads, ahead);
                }
                found += total;
                __syncthreads();
            });
        };
        if constexpr (kWhat == kWrite) {
            const int32_t below = (int32_t)limit - known.wanted - 1;
            if (t == 0) taken = 0;
            __syncthreads();
            each([&](int32_t i) {
                uint32_t hits = 0;
                GEMS_UNROLL for (int k = 0; k < kBatch; k++) {
                    int side = known.side(own[k]);
                    hits |= (uint32_t)((i + k * kThreads < n) & ((side < 0) | (every & (side == 0)))) << k;
                }
                if (!__ballot_sync(0xffffffffu, hits)) return; // as most often
                GEMS_UNROLL for (int k = 0; k < kBatch; k++) {
                    int32_t to = take_places(hits >> k & 1, &taken);
                    if (hits >> k & 1) items[to] = item_make<Item>(own[k], (uint32_t)(i + k * kThreads));
                }
            });
            if (!every)
                in_order([&](Key key, int32_t i, int32_t ahead) {
                    if (ahead <= known.wanted) items[below + ahead] = item_make<Item>(key, (uint32_t)i);
                });
            __syncthreads();
            uint32_t* order = reinterpret_cast<uint32_t*>(items);
            Item v[kOwn];
            GEMS_UNROLL for (int i = 0; i < kOwn; i++) {
                int at = t * kOwn + i;
                v[i] = at < limit ? items[at] : item_last<Item>();
            }
            __syncthreads();
            if (kSize > kWarp * kOwn || t < kWarp) sort_items<kSize>(v, t % (kSize / kOwn), items); // of a warp: without barriers
            __syncthreads();
            GEMS_UNROLL for (int i = 0; i < kOwn; i++) order[t * kOwn + i] = item_at(v[i]);
            __syncthreads();
            const Offsets o = line_offsets(m, (int32_t)row); // found again: before it registers are scarce
            for (int r = t; r < (int)limit; r += kThreads) {
                uint32_t at = order[r];
                values[o.values + r * m.step[1]] = from[at * step];
                if (places) places[o.places + r * m.step[2]] = at;
            }
        } else {
            const Offsets o = line_offsets(m, (int32_t)row);
            auto write = [&](int32_t i) {
                values[o.values] = from[i * step];
                if (places) places[o.places] = i;
            };
            if (known.equal == 1) {
                int32_t at = -1;
                each([&](int32_t i) {
                    GEMS_UNROLL for (int k = 0; k < kBatch; k++)
                        at = (i + k * kThreads < n) & (known.side(own[k]) == 0) ? i + k * kThreads : at;
                });
                if (at >= 0) write(at);
            } else {
                in_order([&](Key, int32_t i, int32_t ahead) {
                    if (ahead == known.wanted) write(i);
                });
            }
        }
        __syncthreads();
    }
}
