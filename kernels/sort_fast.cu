// Sorting on the fast cpu backend, a row at a time by one thread: a radix sort that leaves out digits all elements share,
// insertion for short rows, for a few elements of a row a filter by the last one wanted, for one element counting of digits.
// Results are those of kernels/sort_block.cu. The head names kWhat. scratch: twice `room` items a block.
typedef item_t<32> Item;
constexpr int kShort = 32, kStep = 64;

// An element's value; only zeros and NaN are looked up, whose key does not tell them apart.
template <class V> GEMS_DI V value_of(Key key, const V* from) {
    Key bits = kDescending ? (Key)~key : key;
    if constexpr (is_float<V>) {
        if (bits == kSign || bits == kAll) return *from;
        bits = bits & kSign ? (Key)(bits ^ kSign) : (Key)~bits;
        V v;
        memcpy(&v, &bits, sizeof v);
        return v;
    } else if constexpr ((V)-1 < (V)0) {
        return (V)(bits ^ kSign);
    } else {
        return (V)bits;
    }
}

GEMS_DI void insertion_sort(Item* a, int32_t n) {
    for (int32_t i = 1; i < n; i++) {
        Item v = a[i];
        int32_t j = i;
        for (; j > 0 && item_before(v, a[j - 1]); j--) a[j] = a[j - 1];
        a[j] = v;
    }
}

// Sorts n items; gives the one of the two buffers that they are in.
template <int Bits> __noinline__ static Item* radix_sort(Item* from, Item* to, int32_t n) {
    constexpr int kPasses = (kKeyBits + Bits - 1) / Bits, kBuckets = 1 << Bits;
    int32_t count[kPasses][kBuckets];
    memset(count, 0, sizeof count);
    for (int32_t i = 0; i < n; i++) {
        uint64_t key = item_key(from[i]);
        GEMS_UNROLL for (int p = 0; p < kPasses; p++) count[p][key >> (p * Bits) & (kBuckets - 1)]++;
    }
    for (int p = 0; p < kPasses; p++) {
        int shift = p * Bits;
        if (count[p][(uint64_t)item_key(from[0]) >> shift & (kBuckets - 1)] == n) continue;
        int32_t before = 0;
        for (int b = 0; b < kBuckets; b++) {
            int32_t c = count[p][b];
            count[p][b] = before;
            before += c;
        }
        for (int32_t i = 0; i < n; i++) {
            Item v = from[i];
            to[count[p][(uint64_t)item_key(v) >> shift & (kBuckets - 1)]++] = v;
        }
        Item* other = from;
        from = to;
        to = other;
    }
    return from;
}
GEMS_DI Item* sort_buffer(Item* a, Item* b, int32_t n) {
    if (n <= kShort) {
        insertion_sort(a, n);
        return a;
    }
    return kKeyBits > 16 && n >= 8192 ? radix_sort<11>(a, b, n) : radix_sort<8>(a, b, n);
}

template <bool Unit> GEMS_DI void fill_items(const T* from, int64_t step, int32_t n, Item* to) {
    if constexpr (Unit) step = 1;
    GEMS_IVDEP for (int32_t i = 0; i < n; i++) to[i] = item_make<Item>(key_of(from[i * step]), (uint32_t)i);
}

// push(key, i) for elements i >= first whose key is below `bound` as it is then; kStep at once are passed over.
template <bool Unit, class F>
GEMS_DI void each_below(const T* from, int64_t step, int32_t first, int32_t n, const Key& bound, F push) {
    if constexpr (Unit) step = 1;
    int32_t i = first;
    for (; i + kStep <= n; i += kStep) {
        Key keys[kStep], limit = bound, any = 0;
        const T* part = from + i * step;
        for (int j = 0; j < kStep; j++) keys[j] = key_of(part[j * step]);
        for (int j = 0; j < kStep; j++) any |= keys[j] < limit ? (Key)1 : (Key)0;
        if (!any) continue;
        for (int j = 0; j < kStep; j++)
            if (keys[j] < bound) push(keys[j], i + j);
    }
    for (; i < n; i++) {
        Key key = key_of(from[i * step]);
        if (key < bound) push(key, i);
    }
}

// The first `limit` items of a sorted row.
template <bool Unit>
GEMS_DI Item* first_items(const T* from, int64_t step, int32_t n, int32_t limit, int64_t room, Item* a, Item* b) {
    if (limit <= kShort && limit < n) {
        fill_items<Unit>(from, step, limit, a);
        insertion_sort(a, limit);
        Key bound = item_key(a[limit - 1]);
        each_below<Unit>(from, step, limit, n, bound, [&](Key key, int32_t i) {
            Item v = item_make<Item>(key, (uint32_t)i);
            int32_t j = limit - 1;
            for (; j > 0 && item_before(v, a[j - 1]); j--) a[j] = a[j - 1];
            a[j] = v;
            bound = item_key(a[limit - 1]);
        });
        return a;
    }
    if (room >= n) {
        fill_items<Unit>(from, step, n, a);
        return sort_buffer(a, b, n);
    }
    int32_t held = (int32_t)room;
    fill_items<Unit>(from, step, held, a);
    Key bound;
    auto keep = [&] {
        Item* sorted = sort_buffer(a, b, held);
        if (sorted != a) {
            b = a;
            a = sorted;
        }
        held = limit;
        bound = item_key(a[limit - 1]);
    };
    keep();
    each_below<Unit>(from, step, (int32_t)room, n, bound, [&](Key key, int32_t i) {
        if (held == room) {
            keep();
            if (!(key < bound)) return;
        }
        a[held++] = item_make<Item>(key, (uint32_t)i);
    });
    return sort_buffer(a, b, held);
}

// The place of the element that is wanted of a row.
template <bool Unit, int Bits> GEMS_DI uint32_t picked(const T* from, int64_t step, int32_t n, int32_t rank, Item* a) {
    if constexpr (Unit) step = 1;
    constexpr int kBits = Bits < kKeyBits ? Bits : kKeyBits, kBuckets = 1 << kBits;
    int shift = kKeyBits - kBits;
    int32_t count[kBuckets], nans = 0, held = 0;
    auto find = [&] { // the bucket of the rank, which becomes the rank within it
        int32_t b = 0;
        while (rank >= count[b]) rank -= count[b++];
        return (uint64_t)b;
    };
    memset(count, 0, sizeof count);
    for (int32_t base = 0; base < n; base += kStep) {
        Key keys[kStep];
        int32_t size = n - base < kStep ? n - base : kStep;
        const T* part = from + base * step;
        for (int32_t j = 0; j < size; j++) keys[j] = key_of(part[j * step]);
        for (int32_t j = 0; j < size; j++) nans += keys[j] == kNanKey;
        for (int32_t j = 0; j < size; j++) count[keys[j] >> shift]++;
    }
    rank = picked_rank(rank, n, nans);
    uint64_t bucket = find();
    for (int32_t i = 0; i < n; i++) {
        Key key = key_of(from[i * step]);
        a[held] = item_make<Item>(key, (uint32_t)i);
        held += (uint64_t)key >> shift == bucket;
    }
    while (shift > 0 && held > kShort) {
        shift = shift > kBits ? shift - kBits : 0;
        memset(count, 0, sizeof count);
        for (int32_t i = 0; i < held; i++) count[(uint64_t)item_key(a[i]) >> shift & (kBuckets - 1)]++;
        bucket = find();
        int32_t left = 0;
        for (int32_t i = 0; i < held; i++) {
            Item v = a[i];
            a[left] = v;
            left += ((uint64_t)item_key(v) >> shift & (kBuckets - 1)) == bucket;
        }
        held = left;
    }
    if (shift > 0) insertion_sort(a, held);
    return item_at(a[rank]);
}

template <bool Unit>
GEMS_DI void sort_row(const T* from, T* values, int64_t* places, const Lines& m, int64_t limit, int64_t rank, Item* a,
                      Item* b, int64_t room) {
    int32_t n = (int32_t)m.n;
    if constexpr (kWhat == kWrite) {
        const Item* sorted = first_items<Unit>(from, m.step[0], n, (int32_t)limit, room, a, b);
        for (int32_t r = 0; r < (int32_t)limit; r++) {
            uint32_t at = item_at(sorted[r]);
            values[r * m.step[1]] = value_of(item_key(sorted[r]), from + at * m.step[0]);
        }
        if (places)
            for (int32_t r = 0; r < (int32_t)limit; r++) places[r * m.step[2]] = item_at(sorted[r]);
    } else {
        uint32_t at = n < 8192 ? picked<Unit, 8>(from, m.step[0], n, (int32_t)rank, a)
                               : picked<Unit, 11>(from, m.step[0], n, (int32_t)rank, a);
        *values = from[at * m.step[0]];
        if (places) *places = at;
    }
}

extern "C" __global__ void sort_fast(const T* in, T* values, int64_t* places, Lines m, int64_t limit, int64_t rank,
                                     Item* scratch, int64_t room) {
    int64_t part = (m.count + gridDim.x - 1) / gridDim.x, row = part * blockIdx.x;
    int64_t last = row + part < m.count ? row + part : m.count;
    Item *a = scratch + 2 * room * blockIdx.x, *b = a + room;
    for (; row < last; row++) {
        Offsets o = line_offsets(m, (int32_t)row);
        int64_t* to = places ? places + o.places : nullptr;
        if (m.step[0] == 1) sort_row<true>(in + o.in, values + o.values, to, m, limit, rank, a, b, room);
        else sort_row<false>(in + o.in, values + o.values, to, m, limit, rank, a, b, room);
    }
}
