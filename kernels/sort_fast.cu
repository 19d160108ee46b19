// Sorting on the fast cpu backend, a row at a time by one thread: a radix sort that leaves out digits all elements share,
// ranks by comparing all with all for short rows; the first elements of a row by a filter, where they are few, or by the one
// of the last rank, which is found by counting digits.
// Results are those of kernels/sort_block.cu. The head names kWhat. scratch: twice `room` items a block.
typedef item_t<32> Item;
constexpr int kShort = 32, kStep = 64;

// Sorts at most N items by counting for each those before it; equal keys keep their order. `to` gets them.
template <int N> __noinline__ static void rank_sort(const Item* from, Item* to, int32_t n) {
    Key keys[N], rank[N], place[N];
    for (int i = 0; i < N; i++) {
        keys[i] = kAll;
        rank[i] = 0;
        place[i] = (Key)i;
    }
    for (int32_t i = 0; i < n; i++) keys[i] = item_key(from[i]);
    for (int32_t j = 0; j < n; j++) {
        Key key = keys[j], at = (Key)j;
        for (int i = 0; i < N; i++)
            rank[i] += (Key)((key < keys[i]) | ((key == keys[i]) & (at < place[i])));
    }
    for (int32_t i = 0; i < n; i++) to[rank[i]] = from[i];
}

// Sorts n items; gives the one of the two buffers that they are in. Digits are those of the distance from the least key.
template <int Bits> __noinline__ static Item* radix_sort(Item* from, Item* to, int32_t n) {
    constexpr int kPasses = (kKeyBits + Bits - 1) / Bits, kBuckets = 1 << Bits;
    int32_t count[kPasses][kBuckets];
    Key least = kAll, most = 0;
    for (int32_t i = 0; i < n; i++) {
        Key key = item_key(from[i]);
        least = key < least ? key : least;
        most = key > most ? key : most;
    }
    int passes = 0;
    for (uint64_t range = (Key)(most - least); range; range >>= Bits) passes++;
    memset(count, 0, (size_t)passes * sizeof *count);
    auto digit = [&](Item v, int p) {
        return (uint64_t)(Key)(item_key(v) - least) >> (p * Bits) & (uint64_t)(kBuckets - 1);
    };
    for (int32_t i = 0; i < n; i++)
        for (int p = 0; p < passes; p++) count[p][digit(from[i], p)]++;
    for (int p = 0; p < passes; p++) {
        if (count[p][digit(from[0], p)] == n) continue;
        int32_t before = 0;
        for (int b = 0; b < kBuckets; b++) {
            int32_t c = count[p][b];
            count[p][b] = before;
            before += c;
        }
        for (int32_t i = 0; i < n; i++) {
            Item v = from[i];
            to[count[p][digit(v, p)]++] = v;
        }
        Item* other = from;
        from = to;
        to = other;
    }
    return from;
}
__noinline__ static Item* sort_buffer(Item* a, Item* b, int32_t n) {
    if (n > 64) return kKeyBits > 16 && n >= 8192 ? radix_sort<11>(a, b, n) : radix_sort<8>(a, b, n);
    if (n <= 16) rank_sort<16>(a, b, n);
    else rank_sort<64>(a, b, n);
    return b;
}

template <bool Unit> __noinline__ static void fill_items(const T* from, int64_t step, int32_t n, Item* to) {
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

// What is known of a row before its keys are counted.
struct Range { Key least, most; int32_t nans; };
template <bool Unit> __noinline__ static Range range_of(const T* from, int64_t step, int32_t n) {
    if constexpr (Unit) step = 1;
    Key least = kAll, most = 0;
    int32_t nans = 0;
    for (int32_t i = 0; i < n; i++) {
        Key key = key_of(from[i * step]);
        least = key < least ? key : least;
        most = key > most ? key : most;
        nans += key == kNanKey;
    }
    return {least, most, nans};
}

// Finds the element of a rank: a[rank], where rank becomes that among those collected in `a`. They are the elements that
// agree with it in a leading digit of the distance from the least key, then in the next ones, until few are left.
template <bool Unit, int Bits>
__noinline__ static void narrow(const T* from, int64_t step, int32_t n, Range range, int32_t& rank, Item* a) {
    if constexpr (Unit) step = 1;
    constexpr int kBits = Bits < kKeyBits ? Bits : kKeyBits, kBuckets = 1 << kBits;
    uint64_t width = (Key)(range.most - range.least);
    int shift = 0;
    while (width >> shift >= (uint64_t)kBuckets) shift++;
    int32_t count[kBuckets], held = 0;
    Key least = range.least;
    auto find = [&] { // the digit of the rank, which becomes the rank within it
        int32_t b = 0;
        while (rank >= count[b]) rank -= count[b++];
        return (uint64_t)b;
    };
    memset(count, 0, sizeof count);
    for (int32_t base = 0; base < n; base += kStep) {
        Key keys[kStep];
        int32_t size = n - base < kStep ? n - base : kStep;
        const T* part = from + base * step;
        for (int32_t j = 0; j < size; j++) keys[j] = (Key)((Key)(key_of(part[j * step]) - least) >> shift);
        for (int32_t j = 0; j < size; j++) count[keys[j]]++;
    }
    uint64_t wanted = find();
    for (int32_t base = 0; base < n; base += kStep) {
        Key keys[kStep];
        int32_t size = n - base < kStep ? n - base : kStep;
        const T* part = from + base * step;
        for (int32_t j = 0; j < size; j++) keys[j] = key_of(part[j * step]);
        for (int32_t j = 0; j < size; j++) {
            uint64_t digit = (Key)((Key)(keys[j] - least) >> shift);
            a[held] = item_make<Item>(keys[j], (uint32_t)(base + j));
            held += digit == wanted;
        }
    }
    while (shift > 0 && held > 64) {
        shift = shift > kBits ? shift - kBits : 0;
        auto digit = [&](Item v) { return (uint64_t)(Key)(item_key(v) - least) >> shift & (uint64_t)(kBuckets - 1); };
        memset(count, 0, sizeof count);
        for (int32_t i = 0; i < held; i++) count[digit(a[i])]++;
        wanted = find();
        int32_t left = 0;
        for (int32_t i = 0; i < held; i++) {
            Item v = a[i];
            a[left] = v;
            left += digit(v) == wanted;
        }
        held = left;
    }
    if (shift > 0) {
        Item sorted[64];
        rank_sort<64>(a, sorted, held);
        for (int32_t i = 0; i < held; i++) a[i] = sorted[i];
    }
}

// The place of the element that is wanted of a row.
template <bool Unit, int Bits> GEMS_DI uint32_t picked(const T* from, int64_t step, int32_t n, int32_t rank, Item* a) {
    Range range = range_of<Unit>(from, step, n);
    rank = picked_rank(rank, n, range.nans);
    narrow<Unit, Bits>(from, step, n, range, rank, a);
    return item_at(a[rank]);
}

// The first `limit` items of a sorted row.
template <bool Unit>
GEMS_DI Item* first_items(const T* from, int64_t step, int32_t n, int32_t limit, int64_t room, Item* a, Item* b) {
    if (n <= 64 && n <= room) {
        fill_items<Unit>(from, step, n, a);
        return sort_buffer(a, b, n);
    }
    if (limit <= kShort && limit < n) {
        fill_items<Unit>(from, step, limit, b);
        rank_sort<64>(b, a, limit);
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
        if (limit > n - n / 4) {
            fill_items<Unit>(from, step, n, a);
            return sort_buffer(a, b, n);
        }
        // The element of the last rank first, then those up to it in their order.
        int32_t rank = limit - 1, held = 0;
        Range range = range_of<Unit>(from, step, n);
        if (n < 8192) narrow<Unit, 8>(from, step, n, range, rank, a);
        else narrow<Unit, 11>(from, step, n, range, rank, a);
        Item last = a[rank];
        for (int32_t base = 0; base < n; base += kStep) {
            Key keys[kStep];
            int32_t size = n - base < kStep ? n - base : kStep;
            const T* part = from + base * step;
            for (int32_t j = 0; j < size; j++) keys[j] = key_of(part[j * step]);
            for (int32_t j = 0; j < size; j++) {
                a[held] = item_make<Item>(keys[j], (uint32_t)(base + j));
                held += !item_before(last, a[held]);
            }
        }
        return sort_buffer(a, b, held);
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
