// Windows that slide over a line of positions: pooling and convolution. Output o has taps 0 .. size - 1, at the positions
// o * stride - pad + tap * dilation. The twin of gems_window in csrc/families/window.h.

namespace gems {

struct Window {
    int32_t size, stride, pad, dilation;
};

struct Span {
    int32_t first, last; // [first, last)
};

GEMS_DI int32_t ceil_div(int32_t a, int32_t b) { return b == 1 ? a : a > 0 ? (a - 1) / b + 1 : -(-a / b); }

// The position of an output's first tap.
GEMS_DI int32_t window_start(const Window &w, int32_t o) { return o * w.stride - w.pad; }

// The taps of output o that lie in [0, n).
GEMS_DI Span taps_inside(const Window &w, int32_t o, int32_t n) {
    int32_t start = window_start(w, o), first = start < 0 ? ceil_div(-start, w.dilation) : 0;
    int32_t last = start < n ? ceil_div(n - start, w.dilation) : 0;
    return {first, last < w.size ? last : w.size};
}

// The outputs, of `outs`, whose tap lies in [from, to).
GEMS_DI Span outputs_with(const Window &w, int32_t tap, int32_t from, int32_t to, int32_t outs) {
    int32_t shift = w.pad - tap * w.dilation;
    int32_t first = ceil_div(from + shift, w.stride), last = ceil_div(to + shift, w.stride);
    return {first > 0 ? first : 0, last < outs ? last : outs};
}

// The outputs, of `outs`, between whose first and last tap position i lies: with a dilation not all have a tap there.
GEMS_DI Span outputs_over(const Window &w, int32_t i, int32_t outs) {
    int32_t first = ceil_div(i + w.pad - (w.size - 1) * w.dilation, w.stride), last = (i + w.pad) / w.stride + 1;
    return {first > 0 ? first : 0, last < outs ? last : outs};
}

} // namespace gems
