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
// One thread; a key and its number are one word.
extern "C" __global__ void permutation_fast(T* __restrict__ out, uint64_t* __restrict__ room, int32_t n, uint64_t seed,
                                            uint64_t offset) {
    constexpr int kBits = 10, kCells = 1 << kBits;
    uint64_t *from = room, *to = room + n;
    int32_t count[3][kCells] = {};
    for (int32_t first = 0; first < n; first += 4 * kGroup) {
        uint32_t r[4][kGroup], keys[4 * kGroup];
        draw(seed, offset, (uint32_t)first / 4, r);
        for (int w = 0; w < 4; w++)
            for (int s = 0; s < kGroup; s++) keys[4 * s + w] = r[w][s] >> 2;
        for (int i = 0; i < 4 * kGroup && first + i < n; i++) {
            from[first + i] = (uint64_t)keys[i] << 32 | (uint32_t)(first + i);
            for (int pass = 0; pass < 3; pass++) count[pass][keys[i] >> pass * kBits & (kCells - 1)]++;
        }
    }
    for (int pass = 0; pass < 3; pass++) {
        int32_t before = 0;
        for (int c = 0; c < kCells; c++) {
            int32_t own = count[pass][c];
            count[pass][c] = before;
            before += own;
        }
        for (int32_t i = 0; i < n; i++) to[count[pass][from[i] >> (32 + pass * kBits) & (kCells - 1)]++] = from[i];
        uint64_t* other = from;
        from = to;
        to = other;
    }
    for (int32_t i = 0; i < n;) {
        int32_t end = i + 1;
        while (end < n && from[end] >> 32 == from[i] >> 32) end++;
        if (end - i > 1) shuffle(from + i, end - i, i, seed, offset);
        for (; i < end; i++) out[i] = convert<T>((int32_t)(uint32_t)from[i]);
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
