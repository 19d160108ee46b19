// Pooling of images and its gradients. An image is [plane][y][x][channel]: planes are samples and channels with one channel
// inside, or samples with all channels inside (channels last). The head names T, Index, kKind, kInner (channels are
// inside) and kVecLanes (elements of one thread: channels; 1 where there is one). Twin of csrc/families/pool.c.
//
// A gradient is gathered: each element sums the outputs whose window holds it, in their order.
using namespace gems;

enum { kAverage, kAverageBackward, kMax, kMaxBackward };

struct Pool {
    Index n;                    // items: elements of the result, by lanes; rows or more of it in the fast mode
    FastDiv div[3];             // of an item: groups of lanes, x, y
    int32_t across, channels;   // groups of lanes, and channels inside
    int32_t in[2], out[2];      // y, x
    Window window[2];
    int32_t bands, band;        // parts of y that an item has one of, and rows of one
    int32_t divisor;            // of averages; 0: the size of the window,
    int32_t padded;             // padding counted
    int32_t tiled;              // windows lie side by side
    int32_t zeroth;             // nothing is larger than the smallest number: place 0, as ATen has it on a GPU; else the first
};

typedef opmath_t<T> Op;
constexpr int kWidth = kFast ? (kInner ? 128 : 256) : kVecLanes; // elements that are held at a time

// What an average is divided by: the size of a window along one dim.
GEMS_DI int32_t extent(const Window &w, int32_t o, int32_t n, bool padded) {
    int32_t start = window_start(w, o), end = start + w.size;
    end = end < n + w.pad ? end : n + w.pad;
    if (padded) return end - start;
    return (end < n ? end : n) - (start > 0 ? start : 0);
}

GEMS_DI int32_t divisor_of(const Pool &p, int32_t height, int32_t width) { return p.divisor ? p.divisor : height * width; }

// What an output of a window hands to each of its elements.
GEMS_DI Op shared_out(const Pool &p, Op grad, int32_t height, int32_t width) {
    if constexpr (is_float<T>) return grad * (Op(1) / (Op)divisor_of(p, height, width));
    else return grad / (Op)divisor_of(p, height, width);
}

// A NaN is larger than all others, and the last of them stays.
GEMS_DI bool exceeds(Op v, Op best) { return (v > best) | (v != v); }

GEMS_DI Op least() {
    if constexpr (is_float<T>) return -Limits<Op>::inf();
    else return Limits<Op>::lowest();
}

// Neighbouring elements: held in registers on a GPU, read where they lie in the fast mode.
template <class E, int N> struct Lanes {
#if GEMS_CPU && GEMS_FAST
    const E *p;
    GEMS_DI explicit Lanes(const E *from) : p(from) {}
    GEMS_DI E operator[](int e) const { return p[e]; }
#else
    static constexpr int kOnce = N * (int)sizeof(E) <= 16 ? N : 16 / (int)sizeof(E);
    E v[N];
    GEMS_DI explicit Lanes(const E *from) {
        GEMS_UNROLL for (int i = 0; i < N / kOnce; i++) {
            Vec<E, kOnce> part = load<kOnce>(from + i * kOnce);
            GEMS_UNROLL for (int e = 0; e < kOnce; e++) v[i * kOnce + e] = part.v[e];
        }
    }
    GEMS_DI E operator[](int e) const { return v[e]; }
#endif
};
template <class E, class F> GEMS_DI void put(E *to, int count, F value) {
#if GEMS_CPU && GEMS_FAST
    GEMS_IVDEP for (int e = 0; e < count; e++) to[e] = value(e);
#else
    constexpr int N = kVecLanes, kOnce = N * (int)sizeof(E) <= 16 ? N : 16 / (int)sizeof(E);
    GEMS_UNROLL for (int i = 0; i < N / kOnce; i++) {
        Vec<E, kOnce> part;
        GEMS_UNROLL for (int e = 0; e < kOnce; e++) part.v[e] = value(i * kOnce + e);
        store<kOnce>(to + i * kOnce, part);
    }
#endif
}
template <class F> GEMS_DI void each(int count, F f) {
#if GEMS_CPU && GEMS_FAST
    GEMS_IVDEP for (int e = 0; e < count; e++) f(e);
#else
    GEMS_UNROLL for (int e = 0; e < kVecLanes; e++) f(e);
#endif
}

// ---- one place of the result, some channels of it
GEMS_DI void forward_at(const Pool &p, const T *in, T *out, int64_t *places, int32_t y, int32_t x, int count) {
    Span ys = taps_inside(p.window[0], y, p.in[0]), xs = taps_inside(p.window[1], x, p.in[1]);
    int32_t y0 = window_start(p.window[0], y), x0 = window_start(p.window[1], x);
    Op best[kWidth];
    Index at[kKind == kMax ? kWidth : 1];
    Index first = (Index)(y0 + ys.first * p.window[0].dilation) * p.in[1] + x0 + xs.first * p.window[1].dilation;
    if (p.zeroth) first = 0;
    each(count, [&](int e) {
        best[e] = kKind == kMax ? least() : Op(0);
        if constexpr (kKind == kMax) at[e] = first;
    });
    for (int32_t i = ys.first; i < ys.last; i++) {
        for (int32_t j = xs.first; j < xs.last; j++) {
            Index place = (Index)(y0 + i * p.window[0].dilation) * p.in[1] + x0 + j * p.window[1].dilation;
            Lanes<T, kVecLanes> v(in + place * p.channels);
            each(count, [&](int e) {
                Op value = to_op(v[e]);
                if constexpr (kKind == kMax) {
                    bool larger = exceeds(value, best[e]);
                    best[e] = larger ? value : best[e];
                    at[e] = larger ? place : at[e];
                } else {
                    best[e] += value;
                }
            });
        }
    }
    if constexpr (kKind == kMax) {
        put(out, count, [&](int e) { return from_op<T>(best[e]); });
        put(places, count, [&](int e) { return (int64_t)at[e]; });
    } else {
        int32_t height = extent(p.window[0], y, p.in[0], p.padded), width = extent(p.window[1], x, p.in[1], p.padded);
        Op size = (Op)divisor_of(p, height, width);
        put(out, count, [&](int e) { return from_op<T>(best[e] / size); });
    }
}

GEMS_DI void backward_at(const Pool &p, const T *grad, T *out, const int64_t *places, int32_t y, int32_t x, int count) {
    Span ys = outputs_over(p.window[0], y, p.out[0]), xs = outputs_over(p.window[1], x, p.out[1]);
    int64_t self = (int64_t)y * p.in[1] + x;
    Op sum[kWidth];
    each(count, [&](int e) { sum[e] = 0; });
    for (int32_t i = ys.first; i < ys.last; i++) {
        int32_t height = kKind == kAverageBackward ? extent(p.window[0], i, p.in[0], p.padded) : 0;
        for (int32_t j = xs.first; j < xs.last; j++) {
            Index from = ((Index)i * p.out[1] + j) * p.channels;
            Lanes<T, kVecLanes> v(grad + from);
            if constexpr (kKind == kMaxBackward) {
                Lanes<int64_t, kVecLanes> place(places + from);
                each(count, [&](int e) { sum[e] += place[e] == self ? to_op(v[e]) : Op(0); });
            } else {
                int32_t width = extent(p.window[1], j, p.in[1], p.padded);
                each(count, [&](int e) { sum[e] += shared_out(p, to_op(v[e]), height, width); });
            }
        }
    }
    put(out, count, [&](int e) { return from_op<T>(sum[e]); });
}

// ---- the fast mode where channels are not inside: rows, which vectorise along x

// A row of taps of outputs [first, last), all of them inside. f(output, position, value); Size, Stride: constants where
// they are usual (0: any).
template <int Size, int Stride, class F>
GEMS_DI void row_taps(const Window &w, const T *row, int32_t first, int32_t last, F f) {
    const int32_t step = Stride ? Stride : w.stride;
    if constexpr (Size > 0) {
        GEMS_IVDEP for (int32_t j = first; j < last; j++) {
            GEMS_UNROLL for (int32_t tap = 0; tap < Size; tap++) {
                int32_t at = j * step + tap - w.pad;
                f(j, at, to_op(row[at]));
            }
        }
    } else {
        for (int32_t tap = 0; tap < w.size; tap++) {
            int32_t shift = tap * w.dilation - w.pad;
            GEMS_IVDEP for (int32_t j = first; j < last; j++) f(j, j * step + shift, to_op(row[j * step + shift]));
        }
    }
}
template <class F> GEMS_DI void row_of_taps(const Window &w, const T *row, int32_t first, int32_t last, F f) {
    const bool plain = w.dilation == 1;
    if (plain && w.size == 2 && w.stride == 2) row_taps<2, 2>(w, row, first, last, f);
    else if (plain && w.size == 3 && w.stride == 2) row_taps<3, 2>(w, row, first, last, f);
    else if (plain && w.size == 3 && w.stride == 1) row_taps<3, 1>(w, row, first, last, f);
    else if (w.stride == 1) row_taps<0, 1>(w, row, first, last, f);
    else if (w.stride == 2) row_taps<0, 2>(w, row, first, last, f);
    else row_taps<0, 0>(w, row, first, last, f);
}

// inside: the outputs all of whose taps along x lie in the image.
GEMS_DI void forward_row(const Pool &p, const T *in, T *out, int64_t *places, int32_t y, Span inside) {
    const Window &across = p.window[1];
    Span ys = taps_inside(p.window[0], y, p.in[0]);
    int32_t y0 = window_start(p.window[0], y);
    auto alone = [&](int32_t x) { forward_at(p, in, out + x, kKind == kMax ? places + x : nullptr, y, x, 1); };
    for (int32_t x = 0; x < inside.first; x++) alone(x);
    for (int32_t x = inside.last; x < p.out[1]; x++) alone(x);
    for (int32_t begin = inside.first; begin < inside.last; begin += kWidth) {
        int32_t end = inside.last - begin < kWidth ? inside.last : begin + kWidth;
        Op best[kWidth];
        Index at[kKind == kMax ? kWidth : 1];
        Index top = (Index)(y0 + ys.first * p.window[0].dilation) * p.in[1] - across.pad;
        GEMS_IVDEP for (int32_t j = begin; j < end; j++) {
            best[j - begin] = kKind == kMax ? least() : Op(0);
            if constexpr (kKind == kMax) at[j - begin] = top + j * across.stride;
        }
        for (int32_t i = ys.first; i < ys.last; i++) {
            Index row = (Index)(y0 + i * p.window[0].dilation) * p.in[1];
            row_of_taps(across, in + row, begin, end, [&](int32_t j, int32_t place, Op value) {
                if constexpr (kKind == kMax) {
                    bool larger = exceeds(value, best[j - begin]);
                    best[j - begin] = larger ? value : best[j - begin];
                    at[j - begin] = larger ? row + place : at[j - begin];
                } else {
                    best[j - begin] += value;
                }
            });
        }
        if constexpr (kKind == kMax) {
            GEMS_IVDEP for (int32_t j = begin; j < end; j++) out[j] = from_op<T>(best[j - begin]);
            GEMS_IVDEP for (int32_t j = begin; j < end; j++) places[j] = at[j - begin];
        } else {
            Op size = (Op)divisor_of(p, extent(p.window[0], y, p.in[0], p.padded), across.size);
            GEMS_IVDEP for (int32_t j = begin; j < end; j++) out[j] = from_op<T>(best[j - begin] / size);
        }
    }
}

// Outputs of a row are added up down the column first, then along the row.
constexpr int kReach = 16;
GEMS_DI void average_backward_row(const Pool &p, const T *grad, T *out, int32_t y, Span inside) {
    const Window &across = p.window[1];
    Span ys = outputs_over(p.window[0], y, p.out[0]);
    for (int32_t begin = 0; begin < p.in[1]; begin += kWidth) {
        int32_t end = p.in[1] - begin < kWidth ? p.in[1] : begin + kWidth;
        int32_t last = outputs_over(across, end - 1, p.out[1]).last;
        bool spread = across.stride > 1 && across.size <= kReach;
        Op sum[kWidth], wide[kWidth + kReach]; // wide: each column where its last tap is, kReach further on
        for (int32_t j = 0; j < end - begin; j++) sum[j] = 0;
        if (spread)
            for (int32_t j = 0; j < end - begin + kReach; j++) wide[j] = 0;
        for (int32_t part = outputs_over(across, begin, p.out[1]).first; part < last; part += kWidth) {
            int32_t count = last - part < kWidth ? last - part : kWidth;
            Op column[kWidth];
            for (int32_t j = 0; j < count; j++) column[j] = 0;
            for (int32_t i = ys.first; i < ys.last; i++) {
                const T *from = grad + (Index)i * p.out[1] + part;
                int32_t height = extent(p.window[0], i, p.in[0], p.padded);
                int32_t first = inside.first - part < 0 ? 0 : inside.first - part < count ? inside.first - part : count;
                int32_t after = inside.last - part < first ? first : inside.last - part < count ? inside.last - part : count;
                auto alone = [&](int32_t j) {
                    column[j] += shared_out(p, to_op(from[j]), height, extent(across, part + j, p.in[1], p.padded));
                };
                for (int32_t j = 0; j < first; j++) alone(j);
                for (int32_t j = after; j < count; j++) alone(j);
                GEMS_IVDEP for (int32_t j = first; j < after; j++)
                    column[j] += shared_out(p, to_op(from[j]), height, across.size);
            }
            if (spread) {
                int32_t shift = kReach - across.pad - begin;
                GEMS_IVDEP for (int32_t j = 0; j < count; j++) wide[(part + j) * across.stride + shift] = column[j];
                continue;
            }
            for (int32_t tap = across.size - 1; tap >= 0; tap--) { // outputs in their order
                Span held = outputs_with(across, tap, begin, end, p.out[1]);
                int32_t from = held.first > part ? held.first : part, to = held.last < part + count ? held.last : part + count;
                int32_t shift = tap - across.pad - begin;
                GEMS_IVDEP for (int32_t j = from; j < to; j++) sum[j * across.stride + shift] += column[j - part];
            }
        }
        for (int32_t tap = across.size - 1; spread && tap >= 0; tap--)
            GEMS_IVDEP for (int32_t j = 0; j < end - begin; j++) sum[j] += wide[j + kReach - tap];
        GEMS_IVDEP for (int32_t j = begin; j < end; j++) out[j] = from_op<T>(sum[j - begin]);
    }
}

// Windows side by side, so that no element is in two: rows [y, y + rows) belong to one row of outputs.
GEMS_DI void average_backward_tiles(const Pool &p, const T *grad, T *out, int32_t y, int32_t rows) {
    int32_t step = p.window[1].stride, above = y / p.window[0].stride, width = p.in[1], whole = width / step;
    if (above >= p.out[0]) {
        memset(out, 0, (size_t)((Index)rows * width) * sizeof(T));
        return;
    }
    const T *from = grad + (Index)above * p.out[1];
    int32_t height = extent(p.window[0], above, p.in[0], p.padded);
    Op scale = Op(1);
    if constexpr (is_float<T>) scale = Op(1) / (Op)divisor_of(p, height, step);
    if (whole > p.out[1]) whole = p.out[1];
    if (is_float<T> && step == 2) {
        GEMS_IVDEP for (int32_t j = 0; j < whole; j++) {
            T v = from_op<T>(to_op(from[j]) * scale);
            out[2 * j] = v;
            out[2 * j + 1] = v;
        }
    } else {
        for (int32_t j = 0; j < whole; j++) {
            T v = from_op<T>(shared_out(p, to_op(from[j]), height, step));
            for (int32_t k = 0; k < step; k++) out[j * step + k] = v;
        }
    }
    for (int32_t x = whole * step; x < width; x++) {
        T v = from_op<T>(Op(0));
        if (whole < p.out[1])
            v = from_op<T>(shared_out(p, to_op(from[whole]), height, extent(p.window[1], whole, width, p.padded)));
        out[x] = v;
    }
    for (int32_t r = 1; r < rows; r++) memcpy(out + (Index)r * width, out, (size_t)width * sizeof(T));
}

// Rows [y, y + rows) of a plane, in parts of kBand elements: what lies elsewhere is passed over.
constexpr int kBand = 2048;
GEMS_DI void max_backward_band(const Pool &p, const T *grad, T *out, const int64_t *places, int32_t y, int32_t rows) {
    Index first = (Index)outputs_over(p.window[0], y, p.out[0]).first * p.out[1];
    Index last = (Index)outputs_over(p.window[0], y + rows - 1, p.out[0]).last * p.out[1];
    Index origin = (Index)y * p.in[1], size = (Index)rows * p.in[1];
    for (Index begin = 0; begin < size; begin += kBand) {
        Index count = size - begin < kBand ? size - begin : kBand;
        Op sum[kBand];
        for (Index j = 0; j < count; j++) sum[j] = 0;
        for (Index j = first; j < last; j++) {
            uint64_t at = (uint64_t)(places[j] - origin - begin);
            if (at < (uint64_t)count) sum[at] += to_op(grad[j]);
        }
        GEMS_IVDEP for (Index j = 0; j < count; j++) out[begin + j] = from_op<T>(sum[j]);
    }
}

// Channels inside: some channels of a sample, where elements are added in the dtype that they have.
GEMS_DI void max_backward_sample(const Pool &p, const T *grad, T *out, const int64_t *places, int count) {
    Index size = (Index)p.in[0] * p.in[1], outs = (Index)p.out[0] * p.out[1];
    if (count == p.channels) memset(out, 0, (size_t)(size * count) * sizeof(T));
    else
        for (Index j = 0; j < size; j++) memset(out + j * p.channels, 0, (size_t)count * sizeof(T));
    for (Index j = 0; j < outs; j++) {
        const int64_t *place = places + j * p.channels;
        const T *from = grad + j * p.channels;
        for (int e = 0; e < count; e++)
            if ((uint64_t)place[e] < (uint64_t)size) {
                T *to = out + (Index)place[e] * p.channels + e;
                *to = from_op<T>(to_op(*to) + to_op(from[e]));
            }
    }
}

// in: the image, or the gradient of the result. places: where the largest elements were.
extern "C" __global__ void pool(T *__restrict__ out, GEMS_PLACES *__restrict__ places, const T *__restrict__ in,
                                const __grid_constant__ Pool given) {
    constexpr bool kBack = kKind == kAverageBackward || kKind == kMaxBackward;
    constexpr bool kRows = kFast && !kInner, kSamples = kFast && kInner && kKind == kMaxBackward && is_same<T, Op>;
    const Pool p = given;
    const int32_t *size = kBack ? p.in : p.out, *from = kBack ? p.out : p.in;
    const Index plane_out = (Index)size[0] * size[1] * p.channels, plane_in = (Index)from[0] * from[1] * p.channels;
    Span inside = {0, 0};
    if constexpr (kRows) {
        Span first = outputs_with(p.window[1], 0, 0, p.in[1], p.out[1]);
        Span last = outputs_with(p.window[1], p.window[1].size - 1, 0, p.in[1], p.out[1]);
        inside = {first.first < p.out[1] ? first.first : p.out[1], last.last};
        if (inside.last < inside.first) inside.last = inside.first;
    }
    GEMS_FOR_GRID(f, p.n) {
        Index rest = f;
        int32_t lane = 0, x = 0, y = 0;
        if constexpr (kInner) lane = (int32_t)split(rest, p.div[0], p.across) * kWidth;
        if constexpr (!kRows && !kSamples) x = (int32_t)split(rest, p.div[1], size[1]);
        if constexpr (!kSamples) y = (int32_t)split(rest, p.div[2], p.bands) * p.band;
        int count = kInner && p.channels - lane < kWidth ? p.channels - lane : kWidth;
        const T *source = in + rest * plane_in + lane;
        Index at = rest * plane_out + ((Index)y * size[1] + x) * p.channels + lane;
        if constexpr (kBack) {
            const int64_t *place = kKind == kMaxBackward ? places + rest * plane_in + lane : nullptr;
            if constexpr (kSamples) max_backward_sample(p, source, out + at, place, count);
            else if constexpr (!kRows) backward_at(p, source, out + at, place, y, x, count);
            else if constexpr (kKind == kMaxBackward)
                max_backward_band(p, source, out + at, place, y, size[0] - y < p.band ? size[0] - y : p.band);
            else if (p.tiled)
                average_backward_tiles(p, source, out + at, y, size[0] - y < p.band ? size[0] - y : p.band);
            else average_backward_row(p, source, out + at, y, inside);
        } else {
            int64_t *place = kKind == kMax ? (int64_t *)places + at : nullptr;
            if constexpr (kRows) forward_row(p, source, out + at, place, y, inside);
            else forward_at(p, source, out + at, place, y, x, count);
        }
    }
}
