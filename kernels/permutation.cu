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
constexpr int kMostHigh = 10, kMostLow = 16;

// Where the words of [begin, end) go by `bits` bits of their keys from `shift` on.
GEMS_DI void partition(const uint64_t* from, uint64_t* to, int32_t begin, int32_t end, int32_t* count, int shift, int bits) {
    uint32_t mask = (1u << bits) - 1;
    int32_t before = begin;
    for (int32_t i = begin; i < end; i++) count[(uint32_t)(from[i] >> 32) >> shift & mask]++;
    for (uint32_t c = 0; c <= mask; c++) {
        int32_t own = count[c];
        count[c] = before;
        before += own;
    }
    for (int32_t i = begin; i < end; i++) to[count[(uint32_t)(from[i] >> 32) >> shift & mask]++] = from[i];
}

// One thread; a key and its number are one word. Split by the high bits, each part by the next ones, so that a word or two
// are left together; then the whole is nearly in order.
extern "C" __global__ void permutation_fast(T* __restrict__ out, uint64_t* __restrict__ room, int32_t n, uint64_t seed,
                                            uint64_t offset) {
    uint64_t *from = room, *to = room + n;
    int32_t edges[1 << kMostHigh] = {}, small[1 << kMostLow];
    int bits = 0;
    while (n >> bits > 1) bits++;
    int high = bits < kMostHigh ? bits : kMostHigh, low = bits - high;
    for (int32_t first = 0; first < n; first += 4 * kGroup) {
        uint32_t r[4][kGroup], keys[4 * kGroup];
        draw(seed, offset, (uint32_t)first / 4, r);
        for (int w = 0; w < 4; w++)
            for (int s = 0; s < kGroup; s++) keys[4 * s + w] = r[w][s] >> 2;
        for (int i = 0; i < 4 * kGroup && first + i < n; i++)
            from[first + i] = (uint64_t)keys[i] << 32 | (uint32_t)(first + i);
    }
    partition(from, to, 0, n, edges, 30 - high, high);
    for (int32_t c = 0, begin = 0; low && c < 1 << high; c++) { // edges are the ends of the parts now
        for (int i = 0; i < 1 << low; i++) small[i] = 0;
        partition(to, from, begin, edges[c], small, 30 - high - low, low);
        begin = edges[c];
    }
    uint64_t* words = low ? from : to;
    for (int32_t i = 1; i < n; i++) {
        uint64_t word = words[i];
        int32_t at = i;
        for (; at > 0 && words[at - 1] > word; at--) words[at] = words[at - 1];
        words[at] = word;
    }
    for (int32_t i = 0; i < n;) {
        int32_t end = i + 1;
        while (end < n && words[end] >> 32 == words[i] >> 32) end++;
        if (end - i > 1) shuffle(words + i, end - i, i, seed, offset);
        for (; i < end; i++) out[i] = convert<T>((int32_t)(uint32_t)words[i]);
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
