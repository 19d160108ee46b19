// Some elements of few rows that are so long that many blocks share them. A launch a digit (select.cuh): every block finds what
// the launch before has counted, then counts in its part of the row. Then those wanted are collected and sorted by a block
// (kWrite), or the element among those of the key whose turn it is, in the order of the row, is found. The head names kSize (of
// the sort, at least `limit`) besides what kernels/sort.cuh needs. Right on an H200.
constexpr int kThreads = 256, kBatch = 8;
constexpr int kSorters = kSize / kOwn < 32 ? 32 : kSize / kOwn; // threads that sort

// Of a row: what is known before each step and after the last one, and what each counts. All 0 but what is known at first.
struct Far {
    Known known[kSteps + 1];
    int32_t taken, count[kSteps][kDigits];
};

extern "C" __global__ void __launch_bounds__(kThreads, 4) far_begin(Far* far, Lines m, int64_t rank) {
    Far& f = far[blockIdx.x];
    GEMS_FOR_BLOCK(i, kSteps * kDigits) f.count[i / kDigits][i % kDigits] = 0;
    if (threadIdx.x == 0) {
        f.taken = 0;
        for (int s = 0; s <= kSteps; s++) f.known[s] = Known{0, (int32_t)rank, (int32_t)m.n, kKeyBits, 0};
    }
}

// A block's part of its row.
struct Part {
    const T* from;
    int64_t step;
    int32_t row, part, first, last;
    GEMS_DI Part(const T* in, const Lines& m, int32_t chunk, int32_t chunks) {
        row = (int32_t)(blockIdx.x / (uint32_t)chunks);
        part = (int32_t)(blockIdx.x % (uint32_t)chunks);
        from = in + line_offsets(m, row).in;
        step = m.step[0];
        first = part * chunk;
        last = (int32_t)m.n - first < chunk ? (int32_t)m.n : first + chunk;
    }
    // f(keys, the first one's place): elements of a thread kThreads apart, those from `last` on are none; by whole warps.
    template <class F> GEMS_DI void batches(F f) const {
        for (int32_t base = first + (int32_t)threadIdx.x; base - (int32_t)threadIdx.x < last; base += kBatch * kThreads) {
            Key own[kBatch];
            GEMS_UNROLL for (int k = 0; k < kBatch; k++) {
                int32_t i = base + k * kThreads;
                own[k] = i < last ? key_of(from[i * step]) : (Key)0;
            }
            f(own, base);
        }
    }
    // f(key, place, whether there is such a place).
    template <class F> GEMS_DI void each(F f) const {
        batches([&](const Key(&own)[kBatch], int32_t i) {
            GEMS_UNROLL for (int k = 0; k < kBatch; k++) f(own[k], i + k * kThreads, i + k * kThreads < last);
        });
    }
};

// What is known before a step, from what the launch before has left.
GEMS_DI Known before_step(const Far& f, int step, int32_t n, int32_t* buf, Choice* chosen) {
    if (step == 0) return f.known[0];
    Known known = f.known[step - 1];
    if (known.done()) return known; // the same in all threads
    if ((kWhat == kMedian || kWhat == kNanMedian) && step == 1) known.wanted = picked_rank(known.wanted, n, f.known[1].nans);
    choose_digit<kThreads>(known, step - 1, f.count[step - 1], buf, chosen);
    return known;
}

// A word that the blocks of the launch before have added to stands in the next known: nans of known[1].
GEMS_DI void keep(Far& f, int step, const Known& known, const Part& p) {
    if (step == 0 || p.part != 0 || threadIdx.x != 0) return;
    f.known[step].prefix = known.prefix;
    f.known[step].wanted = known.wanted;
    f.known[step].equal = known.equal;
    f.known[step].shift = known.shift;
}

extern "C" __global__ void __launch_bounds__(kThreads, 4)
far_count(const T* __restrict__ in, Far* far, Lines m, int32_t chunk, int32_t chunks, int32_t step) {
    __shared__ int32_t count[kDigits], buf[33];
    __shared__ Choice chosen;
    const Part p(in, m, chunk, chunks);
    Far& f = far[p.row];
    GEMS_FOR_BLOCK(d, kDigits) count[d] = 0;
    const Known known = before_step(f, step, (int32_t)m.n, buf, &chosen);
    keep(f, step, known, p);
    if (known.done()) return;
    __syncthreads();
    int32_t nans = 0;
    p.each([&](Key key, int32_t, bool there) {
        int digit;
        nans += there && key == kNanKey;
        if (there && digit_of(known, step, key, digit)) atomicAdd(&count[digit], 1);
    });
    __syncthreads();
    GEMS_FOR_BLOCK(d, kDigits)
        if (count[d]) atomicAdd(&f.count[step][d], count[d]);
    if ((kWhat == kMedian || kWhat == kNanMedian) && step == 0) {
        nans = block_reduce(nans, Sum{}, buf);
        if (threadIdx.x == 0 && nans) atomicAdd(&f.known[1].nans, nans);
    }
}

// equals[row][part] = how many elements of a part agree, where not all of them are wanted.
extern "C" __global__ void __launch_bounds__(kThreads, 4)
far_equal(const T* __restrict__ in, Far* far, int32_t* equals, Lines m, int32_t chunk, int32_t chunks) {
    __shared__ int32_t buf[33];
    __shared__ Choice chosen;
    const Part p(in, m, chunk, chunks);
    Far& f = far[p.row];
    const Known known = before_step(f, kSteps, (int32_t)m.n, buf, &chosen);
    keep(f, kSteps, known, p);
    if (known.equal == (kWhat == kWrite ? known.wanted + 1 : 1)) return;
    int32_t own = 0;
    p.each([&](Key key, int32_t, bool there) { own += there && known.side(key) == 0; });
    own = block_reduce(own, Sum{}, buf);
    if (threadIdx.x == 0) equals[blockIdx.x] = own;
}

// f(place, which of the row's elements that agree it is) for those of a part up to the one that is wanted, in order.
template <class F> GEMS_DI void in_order(const Part& p, const Known& known, const int32_t* of_row, int32_t* buf, F f) {
    int32_t before = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < p.part; i += kThreads) before += of_row[i];
    before = block_reduce(before, Sum{}, buf);
    int32_t left = before + of_row[p.part];
    for (int32_t first = p.first; before <= known.wanted && before < left; first += kThreads) { // the same in all threads
        int32_t i = first + (int32_t)threadIdx.x, total;
        bool hit = i < p.last && known.side(key_of(p.from[i * p.step])) == 0;
        int32_t ahead = before + block_exclusive_sum((int32_t)hit, total, buf);
        if (hit) f(i, ahead);
        before += total;
    }
}

// The element of a row's rank; of kWrite all that come before it, and it, in no order: picked[row][limit].
extern "C" __global__ void __launch_bounds__(kThreads, 4)
far_find(const T* __restrict__ in, T* __restrict__ values, int64_t* __restrict__ places, Far* far,
         const int32_t* __restrict__ equals, int32_t* __restrict__ picked, Lines m, int64_t limit, int32_t chunk, int32_t chunks) {
    __shared__ int32_t buf[33];
    const Part p(in, m, chunk, chunks);
    Far& f = far[p.row];
    const Known known = f.known[kSteps];
    const int32_t* of_row = equals + (int64_t)p.row * chunks;
    if constexpr (kWhat == kWrite) {
        const bool every = known.equal == known.wanted + 1;
        int32_t* to = picked + p.row * limit;
        p.batches([&](const Key(&own)[kBatch], int32_t i) {
            uint32_t hits = 0;
            GEMS_UNROLL for (int k = 0; k < kBatch; k++) {
                int side = known.side(own[k]);
                hits |= (uint32_t)((i + k * kThreads < p.last) & ((side < 0) | (every & (side == 0)))) << k;
            }
            if (!__ballot_sync(0xffffffffu, hits)) return; // as most often
            GEMS_UNROLL for (int k = 0; k < kBatch; k++) {
                int32_t at = take_places(hits >> k & 1, &f.taken);
                if (hits >> k & 1) to[at] = i + k * kThreads;
            }
        });
        if (!every)
            in_order(p, known, of_row, buf, [&](int32_t i, int32_t ahead) {
                if (ahead <= known.wanted) to[limit - known.wanted - 1 + ahead] = i;
            });
    } else {
        const Offsets o = line_offsets(m, p.row);
        auto write = [&](int32_t i) {
            values[o.values] = p.from[i * p.step];
            if (places) places[o.places] = i;
        };
        if (known.equal == 1) {
            int32_t at = -1;
            p.each([&](Key key, int32_t i, bool there) { at = there && known.side(key) == 0 ? i : at; });
            if (at >= 0) write(at);
        } else {
            in_order(p, known, of_row, buf, [&](int32_t i, int32_t ahead) {
                if (ahead == known.wanted) write(i);
            });
        }
    }
}

// Sorts what was picked of a row, a block each.
extern "C" __global__ void __launch_bounds__(kSorters, 1)
far_sort(const T* __restrict__ in, T* __restrict__ values, int64_t* __restrict__ places, const int32_t* __restrict__ picked, Lines m,
         int64_t limit) {
    typedef item_t<32> Item;
    __shared__ Item items[kSorters * kOwn];
    const int t = (int)threadIdx.x;
    const Offsets o = line_offsets(m, (int32_t)blockIdx.x);
    const T* from = in + o.in;
    const int32_t* of_row = picked + blockIdx.x * limit;
    Item v[kOwn];
    GEMS_UNROLL for (int i = 0; i < kOwn; i++) {
        int at = t * kOwn + i;
        v[i] = item_last<Item>();
        if (at < limit) v[i] = item_make<Item>(key_of(from[of_row[at] * m.step[0]]), (uint32_t)of_row[at]);
    }
    sort_items<kSize>(v, t % (kSize / kOwn), items);
    GEMS_UNROLL for (int i = 0; i < kOwn; i++) {
        int r = t * kOwn + i;
        if (r >= limit) continue;
        values[o.values + r * m.step[1]] = from[item_at(v[i]) * m.step[0]];
        if (places) places[o.places + r * m.step[2]] = item_at(v[i]);
    }
}
