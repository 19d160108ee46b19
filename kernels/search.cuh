// The place of values in a sorted sequence: how many of its elements are before one. Elements are looked at in the order that
// ATen looks at them: NaN is before everything and after nothing, so that among NaN the result depends on it. In the fast
// mode many values are looked for side by side.
using namespace gems;

constexpr int kBeside = kFast ? 32 : 1;

// element(at): of the sequence's length, below 2^31; found[q]: the place of value(q), q below kBeside.
template <class E, class V, class B>
GEMS_DI void find_places(int32_t length, E element, V value, B before, int32_t (&found)[kBeside]) {
    int32_t left[kBeside]; // found[q] elements are before the value, those from found[q] + left[q] on are not
    for (int q = 0; q < kBeside; q++) {
        found[q] = 0;
        left[q] = length;
    }
    for (int32_t most = length; most > 0; most >>= 1) {
        for (int q = 0; q < kBeside; q++) {
            int32_t half = left[q] >> 1, at = found[q] + half;
            bool is = before(element(at < length ? at : length - 1), value(q)) & (left[q] > 0);
            found[q] = is ? at + 1 : found[q];
            left[q] = is ? left[q] - half - 1 : half;
        }
    }
}
