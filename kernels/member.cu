// isin: whether an element is equal to one of some values, in the dtype T of both. A few values are compared one by one; many
// are sorted, and searched by their keys. NaN is equal to nothing. The head names E (of the elements), T, kBrute.
extern "C" __global__ void member(const E* __restrict__ elements, const T* __restrict__ values, bool* __restrict__ out,
                                  int64_t n, int64_t count, bool invert) {
    GEMS_FOR_GRID(part, (n + kBeside - 1) / kBeside) {
        int64_t first = part * kBeside;
        int size = n - first < kBeside ? (int)(n - first) : kBeside;
        T wanted[kBeside];
        bool found[kBeside];
        for (int q = 0; q < kBeside; q++) {
            wanted[q] = convert<T>(elements[first + (q < size ? q : size - 1)]);
            found[q] = invert;
        }
        if constexpr (kBrute) {
            for (int64_t j = 0; j < count; j++) {
                auto value = to_op(values[j]);
                for (int q = 0; q < kBeside; q++) found[q] = to_op(wanted[q]) == value ? !invert : found[q];
            }
        } else {
            Key keys[kBeside];
            int32_t places[kBeside];
            for (int q = 0; q < kBeside; q++) keys[q] = key_of(wanted[q]);
            find_places((int32_t)count, [&](int32_t at) { return key_of(values[at]); }, [&](int q) { return keys[q]; },
                        [](Key element, Key value) { return element < value; }, places);
            for (int q = 0; q < kBeside; q++) {
                bool equal = places[q] < count && key_of(values[places[q] < count ? places[q] : 0]) == keys[q];
                if (is_float<T> && keys[q] == kNanKey) equal = false;
                found[q] = equal != invert;
            }
        }
        for (int q = 0; q < size; q++) out[first + q] = found[q];
    }
}
