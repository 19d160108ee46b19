// Convolution by its definition, for few channels, many groups, or small images: the result, the gradient of the image
// (which is the result of a transposed convolution) and the gradient of the weight. Up to three dims z, y, x; those that are
// not there have size 1. The head names T, Index, kKind, kInner (an item's channel runs fastest). Twin of
// csrc/families/convolution.c.
//
// An image has `groups` times `image_channels` channels, a result `groups` times `result_channels`; weight element
// [result channel][image channel of the group][tap]. Everything is added up in one order.
using namespace gems;

enum { kForward, kImage, kWeight };

struct Convolution {
    Index n;         // items
    FastDiv div[5];  // of an item: x, y, z, channel; channels of a group
    int32_t size[4]; // x, y, z, channels of what is written
    int32_t batch, groups, image_channels, result_channels;
    int32_t in[3], out[3]; // z, y, x
    Window window[3];
    Index image[5], result[5], weight[5]; // strides: sample, channel, z, y, x; result channel, image channel, z, y, x
};

typedef opmath_t<T> Op;
constexpr int kWidth = 256; // elements of a row that are held at a time

// Calls f(output) for the outputs of which a tap is at position i, with that tap.
template <class F> GEMS_DI void each_holder(const Window &w, int32_t i, int32_t outs, F f) {
    Span over = outputs_over(w, i, outs);
    for (int32_t o = over.first; o < over.last; o++) {
        int32_t far = i - window_start(w, o), tap = w.dilation == 1 ? far : far / w.dilation;
        if (tap * w.dilation == far) f(o, tap);
    }
}

GEMS_DI Op result_at(const Convolution &p, const T *image, const T *weight, int32_t z, int32_t y, int32_t x) {
    Span zs = taps_inside(p.window[0], z, p.in[0]), ys = taps_inside(p.window[1], y, p.in[1]),
         xs = taps_inside(p.window[2], x, p.in[2]);
    Op sum = 0;
    for (int32_t c = 0; c < p.image_channels; c++) {
        for (int32_t i = zs.first; i < zs.last; i++) {
            for (int32_t j = ys.first; j < ys.last; j++) {
                const T *from = image + (Index)c * p.image[1] +
                                (Index)(window_start(p.window[0], z) + i * p.window[0].dilation) * p.image[2] +
                                (Index)(window_start(p.window[1], y) + j * p.window[1].dilation) * p.image[3] +
                                (Index)window_start(p.window[2], x) * p.image[4];
                const T *w = weight + (Index)c * p.weight[1] + (Index)i * p.weight[2] + (Index)j * p.weight[3];
                Index step = (Index)p.window[2].dilation * p.image[4];
                for (int32_t k = xs.first; k < xs.last; k++)
                    sum = gems::fma(to_op(from[k * step]), to_op(w[k * p.weight[4]]), sum);
            }
        }
    }
    return sum;
}

GEMS_DI Op image_at(const Convolution &p, const T *result, const T *weight, int32_t z, int32_t y, int32_t x) {
    Op sum = 0;
    for (int32_t o = 0; o < p.result_channels; o++) {
        const T *plane = result + (Index)o * p.result[1], *w = weight + (Index)o * p.weight[0];
        each_holder(p.window[0], z, p.out[0], [&](int32_t i, int32_t tz) {
            each_holder(p.window[1], y, p.out[1], [&](int32_t j, int32_t ty) {
                each_holder(p.window[2], x, p.out[2], [&](int32_t k, int32_t tx) {
                    Op value = to_op(plane[(Index)i * p.result[2] + (Index)j * p.result[3] + (Index)k * p.result[4]]);
                    sum = gems::fma(value, to_op(w[(Index)tz * p.weight[2] + (Index)ty * p.weight[3] + (Index)tx * p.weight[4]]), sum);
                });
            });
        });
    }
    return sum;
}

// ---- the fast mode: rows along x, part by part; the images' elements along x lie next to each other
template <int Stride, class F> GEMS_DI void along(int32_t first, int32_t last, int32_t stride, F f) {
    const int32_t step = Stride ? Stride : stride;
    GEMS_IVDEP for (int32_t j = first; j < last; j++) f(j, j * step);
}
template <class F> GEMS_DI void along_row(int32_t first, int32_t last, int32_t stride, F f) {
    if (stride == 1) along<1>(first, last, stride, f);
    else if (stride == 2) along<2>(first, last, stride, f);
    else along<0>(first, last, stride, f);
}

// sum[j - begin] for outputs [begin, end) of a row.
GEMS_DI void result_row(const Convolution &p, const T *image, const T *weight, int32_t z, int32_t y, int32_t begin,
                        int32_t end, Op *sum) {
    const Window &across = p.window[2];
    Span zs = taps_inside(p.window[0], z, p.in[0]), ys = taps_inside(p.window[1], y, p.in[1]);
    for (int32_t k = 0; k < across.size; k++) {
        Span inside = outputs_with(across, k, 0, p.in[2], p.out[2]);
        int32_t first = inside.first > begin ? inside.first : begin, last = inside.last < end ? inside.last : end;
        int32_t shift = k * across.dilation - across.pad;
        if (first >= last) continue;
        for (int32_t c = 0; c < p.image_channels; c++)
            for (int32_t i = zs.first; i < zs.last; i++)
                for (int32_t j = ys.first; j < ys.last; j++) {
                    const T *from = image + (Index)c * p.image[1] +
                                    (Index)(window_start(p.window[0], z) + i * p.window[0].dilation) * p.image[2] +
                                    (Index)(window_start(p.window[1], y) + j * p.window[1].dilation) * p.image[3];
                    Op w = to_op(weight[(Index)c * p.weight[1] + (Index)i * p.weight[2] + (Index)j * p.weight[3] +
                                        (Index)k * p.weight[4]]);
                    along_row(first, last, across.stride,
                              [&](int32_t x, int32_t at) { sum[x - begin] += w * to_op(from[at + shift]); });
                }
    }
}

GEMS_DI void image_row(const Convolution &p, const T *result, const T *weight, int32_t z, int32_t y, int32_t begin,
                       int32_t end, Op *sum) {
    const Window &across = p.window[2];
    for (int32_t k = across.size - 1; k >= 0; k--) {
        Span held = outputs_with(across, k, begin, end, p.out[2]);
        int32_t shift = k * across.dilation - across.pad - begin;
        if (held.first >= held.last) continue;
        for (int32_t o = 0; o < p.result_channels; o++) {
            const T *plane = result + (Index)o * p.result[1], *w = weight + (Index)o * p.weight[0] + (Index)k * p.weight[4];
            each_holder(p.window[0], z, p.out[0], [&](int32_t i, int32_t tz) {
                each_holder(p.window[1], y, p.out[1], [&](int32_t j, int32_t ty) {
                    const T *from = plane + (Index)i * p.result[2] + (Index)j * p.result[3];
                    Op v = to_op(w[(Index)tz * p.weight[2] + (Index)ty * p.weight[3]]);
                    along_row(held.first, held.last, across.stride,
                              [&](int32_t x, int32_t at) { sum[at + shift] += v * to_op(from[x]); });
                });
            });
        }
    }
}

// One element of the weight's gradient: what the threads of a block add up, in their order.
GEMS_DI Op weight_at(const Convolution &p, const T *image, const T *result, int32_t tz, int32_t ty, int32_t tx) {
    Span zs = outputs_with(p.window[0], tz, 0, p.in[0], p.out[0]), ys = outputs_with(p.window[1], ty, 0, p.in[1], p.out[1]),
         xs = outputs_with(p.window[2], tx, 0, p.in[2], p.out[2]);
    int32_t z0 = tz * p.window[0].dilation - p.window[0].pad, y0 = ty * p.window[1].dilation - p.window[1].pad,
            x0 = tx * p.window[2].dilation - p.window[2].pad;
    int32_t depth = zs.last - zs.first, height = ys.last - ys.first, width = xs.last - xs.first;
    if (depth <= 0 || height <= 0 || width <= 0) return 0;
    auto rows = [&](int32_t n, int32_t i, int32_t j, const T *&g, const T *&v) {
        g = result + n * p.result[0] + (Index)i * p.result[2] + (Index)j * p.result[3];
        v = image + n * p.image[0] + (Index)(i * p.window[0].stride + z0) * p.image[2] +
            (Index)(j * p.window[1].stride + y0) * p.image[3] + (Index)x0 * p.image[4];
    };
    const T *g, *v;
    if constexpr (kFast) {
        constexpr int kParts = 16;
        Op part[kParts] = {};
        for (int32_t n = 0; n < p.batch; n++)
            for (int32_t i = zs.first; i < zs.last; i++)
                for (int32_t j = ys.first; j < ys.last; j++) {
                    rows(n, i, j, g, v);
                    int32_t x = xs.first;
                    if (p.window[2].stride == 1)
                        for (; x + kParts <= xs.last; x += kParts)
                            for (int e = 0; e < kParts; e++) part[e] += to_op(g[x + e]) * to_op(v[x + e]);
                    for (; x < xs.last; x++) part[0] += to_op(g[x]) * to_op(v[(Index)x * p.window[2].stride]);
                }
        return lane_reduce(part, Sum());
    } else {
        Op sum = 0;
        int64_t total = (int64_t)p.batch * depth * height * width;
        GEMS_FOR_BLOCK(f, total) {
            int64_t line = f / width;
            int32_t x = xs.first + (int32_t)(f - line * width), j = (int32_t)(line % height);
            line /= height;
            rows((int32_t)(line / depth), zs.first + (int32_t)(line % depth), ys.first + j, g, v);
            sum = gems::fma(to_op(g[x * p.result[4]]), to_op(v[(Index)x * p.window[2].stride * p.image[4]]), sum);
        }
        return sum;
    }
}

// a: the image, or the result where the image is written; b: the weight, or the result where the weight is written.
extern "C" __global__ void convolution(T *__restrict__ out, const T *__restrict__ a, const T *__restrict__ b,
                                       const T *__restrict__ bias, const __grid_constant__ Convolution p) {
    if constexpr (kKind == kWeight) { // an item: [result channel][image channel][tap]
        __shared__ Op buf[33];
        const Index items = p.n;
        for (Index f = blockIdx.x; f < items; f += gridDim.x) {
            Index rest = f;
            int32_t tx = (int32_t)split(rest, p.div[0], p.size[0]), ty = (int32_t)split(rest, p.div[1], p.size[1]),
                    tz = (int32_t)split(rest, p.div[2], p.size[2]), c = (int32_t)split(rest, p.div[3], p.size[3]);
            Index group = rest, o = split(group, p.div[4], p.result_channels);
            Op sum = weight_at(p, a + (group * p.image_channels + c) * p.image[1], b + rest * p.result[1], tz, ty, tx);
            sum = block_reduce(sum, Sum(), buf);
            (void)o;
            if (threadIdx.x == 0)
                out[rest * p.weight[0] + c * p.weight[1] + tz * p.weight[2] + ty * p.weight[3] + tx * p.weight[4]] = from_op<T>(sum);
        }
    } else {
        constexpr bool kBack = kKind == kImage;
        const Index(&to)[5] = kBack ? p.image : p.result;
        const Index(&from)[5] = kBack ? p.result : p.image;
        GEMS_FOR_GRID(f, p.n) {
            Index rest = f;
            int32_t channel = 0, x = 0;
            if constexpr (kInner) channel = (int32_t)split(rest, p.div[3], p.size[3]);
            if constexpr (!kFast) x = (int32_t)split(rest, p.div[0], p.size[0]);
            int32_t y = (int32_t)split(rest, p.div[1], p.size[1]), z = (int32_t)split(rest, p.div[2], p.size[2]);
            if constexpr (!kInner) channel = (int32_t)split(rest, p.div[3], p.size[3]);
            Index group = channel, inside = split(group, p.div[4], kBack ? p.image_channels : p.result_channels);
            const T *source = a + rest * from[0] + group * (kBack ? p.result_channels : p.image_channels) * from[1];
            const T *weight = b + (kBack ? group * p.result_channels * p.weight[0] + inside * p.weight[1] : channel * p.weight[0]);
            T *place = out + rest * to[0] + channel * to[1] + (Index)z * to[2] + (Index)y * to[3] + (Index)x * to[4];
            Op added = bias ? to_op(bias[channel]) : Op(0);
            if constexpr (!kFast) {
                Op sum = kBack ? image_at(p, source, weight, z, y, x) : result_at(p, source, weight, z, y, x);
                *place = from_op<T>(sum + added);
            } else {
                for (int32_t begin = 0; begin < p.size[0]; begin += kWidth) {
                    int32_t end = p.size[0] - begin < kWidth ? p.size[0] : begin + kWidth;
                    Op sum[kWidth];
                    for (int32_t j = 0; j < end - begin; j++) sum[j] = 0;
                    if constexpr (kBack) image_row(p, source, weight, z, y, begin, end, sum);
                    else result_row(p, source, weight, z, y, begin, end, sum);
                    if (to[4] == 1) {
                        GEMS_IVDEP for (int32_t j = begin; j < end; j++) place[j] = from_op<T>(sum[j - begin] + added);
                    } else {
                        for (int32_t j = begin; j < end; j++) place[(Index)j * to[4]] = from_op<T>(sum[j - begin] + added);
                    }
                }
            }
        }
    }
}

// The bias' gradient: a channel a block; rows of a plane one after another.
extern "C" __global__ void bias_gradient(T *__restrict__ out, const T *__restrict__ result,
                                            const __grid_constant__ Convolution p) {
    __shared__ Op buf[33];
    int32_t channels = p.groups * p.result_channels;
    for (int32_t c = (int32_t)blockIdx.x; c < channels; c += (int32_t)gridDim.x) {
        int64_t plane = (int64_t)p.out[0] * p.out[1] * p.out[2], total = plane * p.batch;
        Op sum = 0;
        GEMS_FOR_BLOCK(f, total) {
            int64_t n = f / plane, rest = f - n * plane, line = rest / p.out[2];
            int32_t x = (int32_t)(rest - line * p.out[2]), y = (int32_t)(line % p.out[1]), z = (int32_t)(line / p.out[1]);
            sum += to_op(result[n * p.result[0] + c * p.result[1] + (Index)z * p.result[2] + (Index)y * p.result[3] + (Index)x * p.result[4]]);
        }
        sum = block_reduce(sum, Sum(), buf);
        if (threadIdx.x == 0) out[c] = from_op<T>(sum);
    }
}
