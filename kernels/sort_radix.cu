// Long rows: passes of kernels/radix.cuh over keys and places. The first pass reads the input, the last one writes the
// results of ranks below `limit`.
extern "C" __global__ void __launch_bounds__(kRadixThreads) sort_count(const T* __restrict__ in, const Key* __restrict__ keys,
                                                                       int32_t* __restrict__ counts, Lines m, int32_t tiles,
                                                                       int32_t shift) {
    int32_t row = (int32_t)(blockIdx.x / (uint32_t)tiles), tile = (int32_t)(blockIdx.x % (uint32_t)tiles);
    const T* from = in + line_offsets(m, row).in;
    const Key* line = keys + row * m.n;
    int64_t step = m.step[0];
    auto key = [&](int32_t i) { return shift ? line[i] : key_of(from[i * step]); };
    radix_count_tile(key, (int32_t)m.n, tile, tiles, shift, counts + (int64_t)row * kDigits * tiles);
}

extern "C" __global__ void sort_scan(int32_t* __restrict__ counts, int32_t* __restrict__ totals, int64_t lines, int32_t tiles) {
    radix_scan_lines(counts, totals, lines, tiles);
}

extern "C" __global__ void __launch_bounds__(kRadixThreads, 1)
    sort_place(const T* __restrict__ in, const Key* __restrict__ keys, const uint32_t* __restrict__ held,
               Key* __restrict__ keys_out, uint32_t* __restrict__ held_out, T* __restrict__ values,
               int64_t* __restrict__ places, Lines m, int64_t limit, const int32_t* __restrict__ counts,
               const int32_t* __restrict__ totals, int32_t tiles, int32_t shift) {
    int32_t row = (int32_t)(blockIdx.x / (uint32_t)tiles), tile = (int32_t)(blockIdx.x % (uint32_t)tiles);
    Offsets o = line_offsets(m, row);
    const T* from = in + o.in;
    int64_t line = row * m.n, step = m.step[0];
    bool last = shift + kRadixBits >= kKeyBits;
    auto key = [&](int32_t i) { return shift ? keys[line + i] : key_of(from[i * step]); };
    auto place = [&](int32_t i) { return shift ? held[line + i] : (uint32_t)i; };
    auto write = [&](int32_t rank, Key k, uint32_t at) {
        if (!last) {
            keys_out[line + rank] = k;
            held_out[line + rank] = at;
        } else if (rank < limit) {
            values[o.values + rank * m.step[1]] = value_of(k, from + at * step);
            if (places) places[o.places + rank * m.step[2]] = at;
        }
    };
    radix_place_tile<Key>(key, place, write, (int32_t)m.n, tile, tiles, shift, counts + (int64_t)row * kDigits * tiles,
                          totals + (int64_t)row * kDigits);
}
