// isin: whether an element is equal to one of some values, in the dtype T of both. A few values are compared one by one; many
// are sorted, and searched by their keys. NaN is equal to nothing. The head names E (of the elements), T, kBrute.
extern "C" __global__ void member(const E* __restrict__ elements, const T* __restrict__ values, bool* __restrict__ out,
                                  int64_t n, int64_t count, bool invert) {
    GEMS_FOR_GRID(i, n) {
        T element = convert<T>(elements[i]);
        bool found = false;
        if constexpr (kBrute) {
            auto wanted = to_op(element);
            for (int64_t j = 0; j < count; j++) found |= to_op(values[j]) == wanted;
        } else {
            Key key = key_of(element);
            int64_t low = 0;
            for (int64_t left = count; left > 0;) {
                int64_t half = left >> 1;
                bool before = key_of(values[low + half]) < key;
                low = before ? low + half + 1 : low;
                left = before ? left - half - 1 : half;
            }
            found = low < count && key_of(values[low]) == key;
            if constexpr (is_float<T>) found &= key != kNanKey;
        }
        out[i] = found != invert;
    }
}
