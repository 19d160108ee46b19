// Convolution of each channel with a window of its own, which memory bounds: the result, and the gradient of the image where
// windows move by one pixel (the taps then come in the other order). A thread has kRows outputs below each other; each input is read
// once by it for all of them. One or two dims.
//
// The head gives T, kLast (channels last: a thread has whole vectors of channels, and the weight lies [tap][channel]), kRows, and
// constants of the window: kTapsY, kTapsX, kStrideY, kStrideX, kFarY, kFarX (dilations). Twin of csrc/families/convolution_depthwise.c.
// Has run on an H200.
using namespace gems;

struct Depthwise {
    int32_t n;                        // items: [sample, channel][rows][x], or [sample][rows][x][vector of channels]
    FastDiv across, bands, vectors, filters, channel_div; // by an item's x, bands of rows, vectors of channels; results of a channel; results
    int32_t channels;                 // of what is written
    int32_t in[2], out[2], pad[2];    // y, x
    int32_t line, tap[2], origin;     // the weight: strides of channel and taps, and where the first tap is
};

typedef opmath_t<T> Op;
constexpr int kVec = kLast ? (sizeof(T) == 8 ? 2 : 4) : 1;
constexpr int kDown = (kRows - 1) * kStrideY + (kTapsY - 1) * kFarY + 1; // rows that are read

// f(output row, tap along y) for the outputs that have a tap in row i of what is read.
template <class F> GEMS_DI void each_output(int i, F f) {
    GEMS_UNROLL for (int r = 0; r < kRows; r++) {
        const int far = i - r * kStrideY;
        if (far >= 0 && far % kFarY == 0 && far / kFarY < kTapsY) f(r, far / kFarY);
    }
}

extern "C" __global__ void __launch_bounds__(256, kLast ? 2 : 4)
depthwise(T *__restrict__ to, const T *__restrict__ from, const T *__restrict__ weight, const T *__restrict__ bias,
          const __grid_constant__ Depthwise p) {
    GEMS_FOR_GRID(f, p.n) {
        int32_t rest = f, lane = 0, x, band;
        if constexpr (kLast) divmod(rest, p.vectors, rest, lane);
        divmod(rest, p.across, rest, x);
        divmod(rest, p.bands, rest, band);
        int32_t channel, source; // of the weight; and the plane, or sample, that is read
        if constexpr (kLast) {
            channel = lane * kVec;
            source = rest;
        } else {
            int32_t sample, inside;
            divmod(rest, p.channel_div, sample, channel);
            divmod(rest, p.filters, source, inside);
        }
        const int32_t y0 = band * kRows, start_y = y0 * kStrideY - p.pad[0], start_x = x * kStrideX - p.pad[1];
        const T *plane = from + (int64_t)source * p.in[0] * p.in[1] * (kLast ? p.channels : 1) + (kLast ? channel : 0);
        const T *w = weight + (kLast ? channel : channel * p.line) + p.origin;
        Op acc[kRows][kVec];
        GEMS_UNROLL for (int e = 0; e < kVec; e++) {
            Op added = bias ? to_op(bias[channel + e]) : Op(0);
            GEMS_UNROLL for (int r = 0; r < kRows; r++) acc[r][e] = added;
        }
        GEMS_UNROLL for (int i = 0; i < kDown; i++) {
            bool used = false;
            each_output(i, [&](int, int) { used = true; });
            if (!used) continue;
            const int32_t y = start_y + i;
            const bool there = (uint32_t)y < (uint32_t)p.in[0];
            GEMS_UNROLL for (int k = 0; k < kTapsX; k++) {
                const int32_t at = start_x + k * kFarX;
                Op v[kVec];
                GEMS_UNROLL for (int e = 0; e < kVec; e++) v[e] = 0;
                if (there && (uint32_t)at < (uint32_t)p.in[1]) {
                    const Vec<T, kVec> read = load<kVec>(plane + (y * p.in[1] + at) * (kLast ? p.channels : 1));
                    GEMS_UNROLL for (int e = 0; e < kVec; e++) v[e] = to_op(read.v[e]);
                }
                each_output(i, [&](int r, int tap) {
                    Vec<T, kVec> u = load<kVec>(w + tap * p.tap[0] + k * p.tap[1]);
                    GEMS_UNROLL for (int e = 0; e < kVec; e++) acc[r][e] = gems::fma(v[e], to_op(u.v[e]), acc[r][e]);
                });
            }
        }
        T *place = to + (((int64_t)rest * p.out[0] + y0) * p.out[1] + x) * (kLast ? p.channels : 1) + (kLast ? channel : 0);
        GEMS_UNROLL for (int r = 0; r < kRows; r++) {
            if (y0 + r >= p.out[0]) continue;
            Vec<T, kVec> v;
            GEMS_UNROLL for (int e = 0; e < kVec; e++) v.v[e] = from_op<T>(acc[r][e]);
            store<kVec>(place + (int64_t)r * p.out[1] * (kLast ? p.channels : 1), v);
        }
    }
}
