// randperm: numbers sorted by random keys of 30 bits, stable; those with the same key are shuffled. After random.cu
// and radix.cuh. Twin of csrc/families/random_pick.c.

// Numbers from `first` on have the same key: the later ones change places at random.
template <class Place>
GEMS_DI void shuffle(Place* places, int32_t count, int32_t first, uint64_t seed, uint64_t offset) {
    for (int32_t i = count - 1; i > 0; i--) {
        uint32_t word = Philox(seed, first + i, offset + 4).next4().v[0];
        int32_t with = (int32_t)(word % (uint32_t)(i + 1));
        Place kept = places[i];
        places[i] = places[with];
        places[with] = kept;
    }
}

#if GEMS_CPU && GEMS_FAST
constexpr int kMostHigh = 10, kMostDigit = 10, kPart = 11; // bits
constexpr int32_t kGap = 40;       // words between parts: else they would begin in the same sets of the caches
constexpr int kDrawn = 4 * kGroup; // keys of a draw

GEMS_DI void draw_keys(uint32_t (&keys)[kDrawn], int32_t first, uint64_t seed, uint64_t offset) {
    uint32_t r[4][kGroup];
    draw(seed, offset, (uint32_t)first / 4, r);
    for (int s = 0; s < kGroup; s++)
        for (int w = 0; w < 4; w++) keys[4 * s + w] = r[w][s] >> 2;
}
// Counts become places.
GEMS_DI void add_up(int32_t* count, int size, int32_t before) {
    for (int c = 0; c < size; c++) {
        int32_t own = count[c];
        count[c] = before;
        before += own;
    }
}
// Words of a part by two digits of their keys, the lower one first; `to` ends with them.
GEMS_DI void sort_part(uint64_t* to, uint64_t* room, int32_t n, int shift, int bits) {
    int32_t low[1 << kMostDigit], high[1 << kMostDigit];
    const uint32_t mask = (1u << bits) - 1;
    for (uint32_t c = 0; c <= mask; c++) low[c] = high[c] = 0;
    for (int32_t i = 0; i < n; i++) {
        uint32_t key = (uint32_t)(to[i] >> 32) >> shift;
        low[key & mask]++, high[key >> bits & mask]++;
    }
    add_up(low, 1 << bits, 0);
    add_up(high, 1 << bits, 0);
    for (int32_t i = 0; i < n; i++) room[low[(uint32_t)(to[i] >> 32) >> shift & mask]++] = to[i];
    for (int32_t i = 0; i < n; i++) to[high[(uint32_t)(room[i] >> 32) >> (shift + bits) & mask]++] = room[i];
}

// Keys of numbers to the parts of their high bits.
__attribute__((noinline)) static void split(uint64_t* to, const uint32_t* keys, int32_t n, int32_t* places, int shift) {
    for (int32_t i = 0; i < n; i++) {
        uint32_t key = keys[i], c = key >> shift;
        uint64_t* at = to + (places[c]++ + (int32_t)c * kGap);
        __builtin_prefetch(at + 8, 1);
        *at = (uint64_t)key << 32 | (uint32_t)i;
    }
}

// One thread; a key and its number are one word. Split into parts of a few thousand by the highest bits, each part sorted by
// as many of the next ones as leave hardly a word out of its place.
extern "C" __global__ void permutation_fast(T* __restrict__ out, uint64_t* __restrict__ room, int32_t n, uint64_t seed,
                                            uint64_t offset) {
    uint64_t *words = room + n;
    int32_t edges[1 << kMostHigh] = {};
    uint32_t keys[kDrawn];
    int bits = 0;
    while (n >> bits > 1) bits++;
    int high = bits < kPart ? 0 : bits - kPart < kMostHigh ? bits - kPart : kMostHigh;
    int digit = (bits - high) / 2 + 3 < kMostDigit ? (bits - high) / 2 + 3 : kMostDigit;
    uint32_t* drawn = reinterpret_cast<uint32_t*>(room);
    for (int32_t first = 0; first < n; first += kDrawn) {
        int count = n - first < kDrawn ? n - first : kDrawn;
        draw_keys(keys, first, seed, offset);
        if (high) {
            for (int i = 0; i < count; i++) drawn[first + i] = keys[i];
            for (int i = 0; i < count; i++) edges[keys[i] >> (30 - high)]++;
        } else {
            for (int i = 0; i < count; i++) words[first + i] = (uint64_t)keys[i] << 32 | (uint32_t)(first + i);
        }
    }
    if (high) {
        add_up(edges, 1 << high, 0);
        split(words, drawn, n, edges, 30 - high);
    }
    edges[0] = high ? edges[0] : n; // the ends of the parts
    for (int32_t c = 0, begin = 0; c < 1 << high; begin = edges[c++]) {
        uint64_t* part = words + begin + c * kGap;
        const int32_t size = edges[c] - begin;
        sort_part(part, room, size, 30 - high - 2 * digit, digit);
        int32_t least = size, most = 0; // where words with the same key are
        for (int32_t i = 1; i < size; i++) {
            uint64_t word = part[i];
            if (word >> 32 > part[i - 1] >> 32) continue;
            int32_t at = i;
            for (; at > 0 && part[at - 1] > word; at--) part[at] = part[at - 1];
            part[at] = word;
            most += most > at;
            if (at > 0 && part[at - 1] >> 32 == word >> 32) {
                least = at - 1 < least ? at - 1 : least;
                most = at + 1 > most ? at + 1 : most;
            }
        }
        for (int32_t i = least + 1, first = least; i <= most; i++) {
            if (i < most && part[i] >> 32 == part[i - 1] >> 32) continue;
            if (i - first > 1) shuffle(part + first, i - first, begin + first, seed, offset);
            first = i;
        }
        GEMS_IVDEP for (int32_t i = 0; i < size; i++) out[begin + i] = convert<T>((int32_t)(uint32_t)part[i]);
    }
}
#else
extern "C" __global__ void permutation_keys(int32_t* __restrict__ keys, int32_t* __restrict__ places, int32_t n, uint64_t seed,
                                            uint64_t offset) {
    GEMS_FOR_GRID(s, (n + 3) / 4) {
        Random4 r = Philox(seed, s, offset).next4();
        GEMS_UNROLL for (int i = 0; i < 4; i++) {
            if (4 * s + i < n) {
                keys[4 * s + i] = (int32_t)(r.v[i] >> 2);
                places[4 * s + i] = 4 * s + i;
            }
        }
    }
}

// The thread of the first of several numbers with the same key shuffles and writes them all.
extern "C" __global__ void permutation_shuffle(T* __restrict__ out, const int32_t* __restrict__ keys, int32_t* places, int32_t n,
                                               uint64_t seed, uint64_t offset) {
    GEMS_FOR_GRID(i, n) {
        if (i == 0 || keys[i - 1] != keys[i]) {
            int32_t end = i + 1;
            while (end < n && keys[end] == keys[i]) end++;
            if (end - i > 1) shuffle(places + i, end - i, i, seed, offset);
            for (int32_t k = i; k < end; k++) out[k] = convert<T>(places[k]);
        }
    }
}
#endif
