// Long rows: passes of kernels/radix.cuh over keys and places. The first pass reads the input, the last one writes the
// results of ranks below `limit`. A digit that all elements of a row share needs no pass: which passes there are is found on
// the device. Places are 32 bits wide until they are written. Right on an H200 for every size of dtype.
constexpr int kPasses = kKeyBits / kRadixBits;

// What a row's passes do: bits of a byte each.
enum { kRuns = 1, kFirst = 2, kLast = 4, kFrom = 8 }; // kFrom: from the second buffer to the first

// totals[row][pass][digit], which are 0; parts: blocks of a row.
extern "C" __global__ void __launch_bounds__(kRadixThreads) sort_count(const T* __restrict__ in, int32_t* totals, Lines m, int32_t parts) {
    int32_t row = (int32_t)(blockIdx.x / (uint32_t)parts), part = (int32_t)(blockIdx.x % (uint32_t)parts), n = (int32_t)m.n;
    const T* from = in + line_offsets(m, row).in;
    int64_t step = m.step[0];
    int32_t size = (n - 1) / parts + 1, first = part * size;
    radix_histogram<Key, kPasses>([&](int32_t i) { return key_of(from[i * step]); }, first, n - first < size ? n : first + size,
                                  kPasses, totals + (int64_t)row * kPasses * kDigits);
}

// totals become how many elements have a lower digit; turns[row][pass]. A block of kDigits threads a row.
extern "C" __global__ void __launch_bounds__(kDigits) sort_plan(int32_t* totals, uint8_t* turns, int32_t n) {
    __shared__ int32_t buf[33];
    __shared__ int32_t most_buf[33];
    int64_t row = blockIdx.x;
    int32_t* of_row = totals + row * kPasses * kDigits + threadIdx.x;
    uint32_t wanted = 0;
    for (int p = 0; p < kPasses; p++) {
        int32_t own = of_row[p * kDigits], total;
        int32_t most = block_reduce(own, Max{}, most_buf);
        of_row[p * kDigits] = block_exclusive_sum(own, total, buf);
        wanted |= (uint32_t)(most < n) << p;
    }
    if (threadIdx.x) return;
    if (!wanted) wanted = 1;
    int done = 0;
    for (int p = 0; p < kPasses; p++) {
        int turn = wanted >> p & 1 ? kRuns | (done ? 0 : kFirst) | (wanted >> p >> 1 ? 0 : kLast) | (done & 1 ? 0 : kFrom) : 0;
        turns[row * kPasses + p] = (uint8_t)turn;
        done += turn & kRuns;
    }
}

// words: of this pass, the counter and those of each row's tiles; all 0. Two buffers of keys and of places, `all` each.
extern "C" __global__ void __launch_bounds__(kRadixThreads, 1024 / kRadixThreads)
    sort_place(const T* __restrict__ in, Key* keys, uint32_t* held, T* __restrict__ values, int64_t* __restrict__ places, Lines m,
               int64_t limit, uint64_t* words, const int32_t* __restrict__ firsts, const uint8_t* __restrict__ turns, int32_t tiles,
               int32_t pass) {
    const uint32_t ticket = radix_ticket(words);
    const int32_t row = (int32_t)(ticket / (uint32_t)tiles), tile = (int32_t)(ticket - (uint32_t)row * (uint32_t)tiles);
    const int turn = turns[(int64_t)row * kPasses + pass];
    if (!(turn & kRuns)) return;
    const Offsets o = line_offsets(m, row);
    const T* from = in + o.in;
    const int64_t all = m.count * m.n, line = row * m.n, step = m.step[0];
    const Key* keys_in = keys + line + (turn & kFrom ? all : 0);
    const uint32_t* held_in = held + line + (turn & kFrom ? all : 0);
    Key* keys_out = keys + line + (turn & kFrom ? 0 : all);
    uint32_t* held_out = held + line + (turn & kFrom ? 0 : all);
    const bool is_first = turn & kFirst, is_last = turn & kLast;
    const int32_t n = (int32_t)m.n;
    auto key = [&](Key(&own)[kItems], int32_t i) {
        if (is_first) radix_take(own, i, n, kAll, [&](int32_t at) { return key_of(from[at * step]); });
        else radix_take(own, i, n, kAll, [&](int32_t at) { return keys_in[at]; });
    };
    auto place = [&](uint32_t(&own)[kItems], int32_t i) {
        if (is_first) radix_take(own, i, n, 0u, [&](int32_t at) { return at; });
        else radix_take(own, i, n, 0u, [&](int32_t at) { return held_in[at]; });
    };
    auto write = [&](int32_t rank, Key k, uint32_t at) {
        if (!is_last) {
            keys_out[rank] = k;
            if constexpr (!kKeysOnly) held_out[rank] = at;
        } else if (rank < limit) {
            values[o.values + rank * m.step[1]] = kKeysOnly ? value_of(k) : value_of(k, from + at * step);
            if (places) places[o.places + rank * m.step[2]] = at;
        }
    };
    int32_t first = (int)threadIdx.x < kDigits ? firsts[((int64_t)row * kPasses + pass) * kDigits + threadIdx.x] : 0;
    radix_place_tile<Key, !kKeysOnly>(key, place, write, n, tile, pass * kRadixBits, words + 1 + (int64_t)row * tiles * kDigits,
                          first);
}
