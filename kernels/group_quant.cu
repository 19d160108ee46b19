// Groups of elements rounded to fp8, each divided by a scale that brings its largest to the largest of fp8. The head names T,
// Q, kPowers (scales are powers of two), kEach (elements of an item), kTeam (threads of a group, neighbours in a warp), kHeld
// (items that a thread keeps; 0: it reads them again). Twin of csrc/families/group_quant.c.
using namespace gems;

constexpr float kMost = is_same<Q, f8e4m3> ? 448.0f : 57344.0f;

// Magnitudes are compared as the integers that their bits are: NaN is above all.
typedef either<is_half<T>, uint16_t, uint32_t> Bits;
template <class E> GEMS_DI Bits magnitude(E v) {
    if constexpr (is_half<E>) return (Bits)(v.x & 0x7fff);
    else return float_bits(v) & 0x7fffffffu;
}
template <class B> GEMS_DI float as_float(B b) {
    if constexpr (is_half<T>) return to_op(T{b});
    else return bits_float(b);
}
GEMS_DI Bits larger(Bits a, Bits b) { return a > b ? a : b; }

GEMS_DI float scale_of(Bits most, float eps) {
    float largest = as_float(most), scale = (largest < eps ? eps : largest) / kMost;
    if constexpr (kPowers) {  // the next power of two; infinity and NaN stay
        uint32_t bits = float_bits(scale);
        if (bits < 0x7f800000u) scale = bits_float((bits + 0x7fffffu) & 0x7f800000u);
    }
    return scale;
}

GEMS_DI Q rounded(T v, float scale) { return saturated<Q>(to_op(v) / scale); }

// ---- fast mode
GEMS_DI float quantise(const T* __restrict__ x, Q* __restrict__ q, int32_t size, float eps) {
    Bits most = 0;
    GEMS_IVDEP for (int32_t i = 0; i < size; i++) most = larger(most, magnitude(x[i]));
    float scale = scale_of(most, eps);
    GEMS_IVDEP for (int32_t i = 0; i < size; i++) q[i] = rounded(x[i], scale);
    return scale;
}

// ---- GPU
struct Item { T v[kEach]; };
constexpr int kPiece = kEach * (int)sizeof(T) > 16 ? 16 / (int)sizeof(T) : kEach;

GEMS_DI Item load_item(const T* p) {
    Item item;
    GEMS_UNROLL for (int i = 0; i < kEach; i += kPiece) {
        Vec<T, kPiece> v = load<kPiece>(p + i);
        GEMS_UNROLL for (int j = 0; j < kPiece; j++) item.v[i + j] = v.v[j];
    }
    return item;
}

GEMS_DI Bits largest_of(const Item& item) {
    Bits most = 0;
    GEMS_UNROLL for (int i = 0; i < kEach; i++) most = larger(most, magnitude(item.v[i]));
    return most;
}

GEMS_DI void store_item(Q* p, const Item& item, float scale) {
    Vec<Q, kEach> made;
    GEMS_UNROLL for (int i = 0; i < kEach; i++) made.v[i] = rounded(item.v[i], scale);
    store<kEach>(p, made);
}

// All threads of a warp take part; without a group a thread has no items.
GEMS_DI float team_quantise(const T* x, Q* q, int32_t items, int lane, float eps) {
    constexpr int held = kHeld ? kHeld : 1;
    Item kept[held];
    Bits most = 0;
    if constexpr (kHeld > 0) {
        GEMS_UNROLL for (int k = 0; k < kHeld; k++) {
            int32_t i = lane + k * kTeam;
            if (i < items) {
                kept[k] = load_item(x + i * kEach);
                most = larger(most, largest_of(kept[k]));
            }
        }
    } else {
        for (int32_t i = lane; i < items; i += kTeam) most = larger(most, largest_of(load_item(x + i * kEach)));
    }
    GEMS_UNROLL for (int o = 1; o < kTeam; o <<= 1) most = larger(most, shuffle_xor(most, o));
    float scale = scale_of(most, eps);
    if constexpr (kHeld > 0) {
        GEMS_UNROLL for (int k = 0; k < kHeld; k++) {
            int32_t i = lane + k * kTeam;
            if (i < items) store_item(q + i * kEach, kept[k], scale);
        }
    } else {
        for (int32_t i = lane; i < items; i += kTeam) store_item(q + i * kEach, load_item(x + i * kEach), scale);
    }
    return scale;
}

extern "C" __global__ void __launch_bounds__(kThreads)
group_quant(const T* __restrict__ x, Q* __restrict__ q, float* __restrict__ scales, int32_t groups, int32_t size,
            FastDiv in_row, int64_t row_step, int64_t column_step, float eps) {
    auto place = [&](int32_t group) {
        int32_t row, column;
        divmod(group, in_row, row, column);
        return row * row_step + column * column_step;
    };
    if constexpr (kFast) {
        GEMS_FOR_GRID(group, groups) {
            int64_t at = (int64_t)group * size;
            scales[place(group)] = quantise(x + at, q + at, size, eps);
        }
    } else {
        constexpr int teams = kThreads / kTeam;  // of a block
        int lane = (int)threadIdx.x % kTeam;
        for (int64_t first = (int64_t)blockIdx.x * teams; first < groups; first += (int64_t)gridDim.x * teams) {
            int64_t group = first + threadIdx.x / kTeam;
            bool some = group < groups;
            int64_t at = (some ? group : 0) * size;
            float scale = team_quantise(x + at, q + at, some ? size / kEach : 0, lane, eps);
            if (some && lane == 0) scales[place((int32_t)group)] = scale;
        }
    }
}
