// The gradient of the weight of a convolution of each channel with a window of its own, in two passes: sums of parts of the outputs,
// then those of all parts, in their order. Channels last (kLast) a thread has some channels and goes along rows of outputs, keeping
// what the next windows share; else a block has a channel, and a thread every so many-th output.
//
// The head gives T, kLast, and constants of the window: kTapsY, kTapsX, kStrideY, kStrideX, kFarY, kFarX (dilations; 1 where kLast).
// Twin of csrc/families/convolution_depthwise.c.
using namespace gems;

struct EachWeight {
    int32_t n, parts, blocks;     // outputs or strips of them; parts of these; blocks of channels
    FastDiv across, down;         // by outputs, or strips, of a row; rows
    int32_t channels, wide;       // outputs of a strip
    int32_t in[2], out[2], pad[2]; // y, x
    int32_t stride[3];            // of what is written: channel, y, x
};

typedef opmath_t<T> Op;
constexpr int kTaps = kTapsY * kTapsX, kWarps = 8;
constexpr int kVec = !kLast ? 1 : sizeof(T) == 8 || kTaps > 9 ? 2 : 4, kAcross = kLast ? 8 : 1, kBeside = 256 / kAcross;

// All strips of this thread.
template <int N> GEMS_DI void add_strips(Op (&acc)[kTaps][N], const T *image, const T *result, const EachWeight &p, int part, int32_t channel) {
    typedef Vec<T, N> Some;
    constexpr int kOld = kTapsX > kStrideX ? kTapsX - kStrideX : 0;
    for (int32_t item = part * kBeside + (int)threadIdx.x / kAcross; item < p.n; item += p.parts * kBeside) {
        int32_t rest, strip, y, sample;
        divmod(item, p.across, rest, strip);
        divmod(rest, p.down, sample, y);
        const int32_t x0 = strip * p.wide, x1 = x0 + p.wide < p.out[1] ? x0 + p.wide : p.out[1], start_y = y * kStrideY - p.pad[0];
        const T *plane = image + (int64_t)sample * p.in[0] * p.in[1] * p.channels + channel;
        const T *row = result + ((int64_t)sample * p.out[0] + y) * p.out[1] * p.channels + channel;
        Some window[kTapsX][kTapsY];
        const auto column = [&](Some (&v)[kTapsY], int32_t x) {
            const bool there = (uint32_t)x < (uint32_t)p.in[1];
            GEMS_UNROLL for (int i = 0; i < kTapsY; i++) {
                v[i] = {};
                if (there && (uint32_t)(start_y + i) < (uint32_t)p.in[0])
                    v[i] = load<N>(plane + ((start_y + i) * p.in[1] + x) * p.channels);
            }
        };
        GEMS_UNROLL for (int k = 0; k < kOld; k++) column(window[k + kTapsX - kOld], x0 * kStrideX - p.pad[1] + k);
#pragma unroll 1
        for (int32_t x = x0; x < x1; x++) {
            const Some grad = load<N>(row + x * p.channels);
            GEMS_UNROLL for (int k = 0; k < kOld; k++) {
                GEMS_UNROLL for (int i = 0; i < kTapsY; i++) window[k][i] = window[k + kTapsX - kOld][i];
            }
            GEMS_UNROLL for (int k = kOld; k < kTapsX; k++) column(window[k], x * kStrideX - p.pad[1] + k);
            GEMS_UNROLL for (int j = 0; j < kTapsY; j++) {
                GEMS_UNROLL for (int k = 0; k < kTapsX; k++) {
                    GEMS_UNROLL for (int e = 0; e < N; e++)
                        acc[j * kTapsX + k][e] = gems::fma(to_op(window[k][j].v[e]), to_op(grad.v[e]), acc[j * kTapsX + k][e]);
                }
            }
        }
    }
}

// All outputs of this thread.
template <int N> GEMS_DI void add_outputs(Op (&acc)[kTaps][N], const T *image, const T *result, const EachWeight &p, int part, int32_t channel) {
    for (int32_t item = part * kBeside + (int)threadIdx.x; item < p.n; item += p.parts * kBeside) {
        int32_t rest, x, y, sample;
        divmod(item, p.across, rest, x);
        divmod(rest, p.down, sample, y);
        const int64_t plane = (int64_t)sample * p.channels + channel;
        const T *from = image + plane * p.in[0] * p.in[1];
        const Op grad = to_op(result[plane * p.out[0] * p.out[1] + y * p.out[1] + x]);
        GEMS_UNROLL for (int j = 0; j < kTapsY; j++) {
            const int32_t at = y * kStrideY - p.pad[0] + j * kFarY;
            GEMS_UNROLL for (int k = 0; k < kTapsX; k++) {
                const int32_t beside = x * kStrideX - p.pad[1] + k * kFarX;
                if ((uint32_t)at < (uint32_t)p.in[0] && (uint32_t)beside < (uint32_t)p.in[1])
                    acc[j * kTapsX + k][0] = gems::fma(to_op(from[at * p.in[1] + beside]), grad, acc[j * kTapsX + k][0]);
            }
        }
    }
}

// sums: [part][tap][channel].
extern "C" __global__ void __launch_bounds__(256)
each_weight(Op *__restrict__ sums, const T *__restrict__ image, const T *__restrict__ result, const __grid_constant__ EachWeight p) {
    __shared__ Op warps[kWarps][kAcross * kVec];
    const int thread = (int)threadIdx.x, warp = thread >> 5, part = (int)blockIdx.x / p.blocks;
    const int32_t first = ((int)blockIdx.x - part * p.blocks) * kAcross * kVec, channel = first + thread % kAcross * kVec;
    Op acc[kTaps][kVec];
    GEMS_UNROLL for (int t = 0; t < kTaps; t++) {
        GEMS_UNROLL for (int e = 0; e < kVec; e++) acc[t][e] = 0;
    }
    if (channel < p.channels) {
        if constexpr (kLast) add_strips(acc, image, result, p, part, channel);
        else add_outputs(acc, image, result, p, part, channel);
    }
    GEMS_UNROLL for (int t = 0; t < kTaps; t++) {
        GEMS_UNROLL for (int e = 0; e < kVec; e++) {
            Op v = acc[t][e];
            GEMS_UNROLL for (int by = kAcross; by < 32; by *= 2) v += shuffle_xor(v, by);
            if ((thread & 31) < kAcross) warps[warp][thread % kAcross * kVec + e] = v;
        }
        __syncthreads();
        if (thread < kAcross * kVec && first + thread < p.channels) {
            Op v = 0;
            GEMS_UNROLL for (int w = 0; w < kWarps; w++) v += warps[w][thread];
            sums[((int64_t)part * kTaps + t) * p.channels + first + thread] = v;
        }
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(256)
each_weight_sum(T *__restrict__ to, const Op *__restrict__ sums, const __grid_constant__ EachWeight p) {
    GEMS_FOR_GRID(i, p.channels * kTaps) {
        const int32_t tap = i / p.channels, channel = i - tap * p.channels;
        Op v = 0;
        for (int32_t part = 0; part < p.parts; part++) v += sums[(int64_t)part * p.channels * kTaps + i];
        to[channel * p.stride[0] + tap / kTapsX * p.stride[1] + tap % kTapsX * p.stride[2]] = from_op<T>(v);
    }
}
