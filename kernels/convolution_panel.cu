// Convolution in the cpu backend's fast mode, by the register block of matrix products. What is read is laid into a padded copy,
// a band of rows at a time, where a tap is a shift: of the pixels that follow each other there, the operand of every tap and
// channel lies in one piece, and nothing is unfolded. Where the windows move by more than a pixel, the copy has a plane for each
// remainder. Pixels between the rows are computed and thrown away.
//
// The head gives Scalar. Twin of csrc/families/convolution_panel.c; behind panel.cuh.
namespace {

struct Panels {
    int64_t n;                           // items: [group][part of what is made][sample][band]
    const void *read, *weight, *bias;    // weight: of its gradient, the result's; bias: NULL
    void *out;
    int32_t batch, groups, channels, made; // of a group
    int32_t taps[3], in[3], out_size[3];   // z, y, x
    int32_t stride[3], dilation[3];
    int32_t spread[3], before[3];        // element i of what is read lies at i * spread + before
    int32_t wide[3];                     // a plane of the copy: z, y of a band, x
    int32_t bands, band, parts, part;    // parts of the rows y, and of what is made
    int64_t read_sample, read_channel;   // strides; an image's elements are contiguous
    int64_t weight_group, line, channel, tap[3], origin;
    int64_t to[5];                       // sample, channel, z, y, x
    int32_t width, joint;                // the weight's gradient: pixels of a copy, whole vectors; samples that it has
};

struct Segment {
    int32_t from, count;
    int64_t at;
};

// A row of what is read, from position `begin` of the copy's row on: to[p / stride] of the phase p % stride, which are `plane` apart.
void lay_row(const Panels &p, const Scalar *from, Op *row, int64_t plane, int length) {
    const int spread = p.spread[2], before = p.before[2], stride = p.stride[2];
    int first = before >= 0 ? 0 : (-before + spread - 1) / spread;
    int last = before >= length ? 0 : (length - before + spread - 1) / spread;
    if (last > p.in[2]) last = p.in[2];
    if (first >= last) return;
    if (stride == 1 && spread == 1) {
        if constexpr (kSame) memcpy(row + first + before, from + first, (size_t)(last - first) * sizeof(Op));
        else widen(row + first + before, from + first, last - first);
    } else if (stride == 1) {
        for (int x = first; x < last; x++) row[x * spread + before] = to_op(from[x]);
    } else if (stride == 2 && spread == 1) {
        for (int phase = 0; phase < 2; phase++) {
            int start = first + ((first + before + phase) & 1);
            Op *to = row + phase * plane + (start + before) / 2;
            const Scalar *source = from + start;
            int count = (last - start + 1) / 2;
            for (int x = 0; x < count; x++) to[x] = to_op(source[2 * x]);
        }
    } else {
        for (int x = first; x < last; x++) {
            int at = x * spread + before;
            row[at % stride * plane + at / stride] = to_op(from[x]);
        }
    }
}

// The copy of the rows that outputs from y0 on read, of all channels of a group; what lies between is zero before. plane: from a
// phase to the next.
void lay(const Panels &p, const Scalar *read, Op *copy, int y0, int64_t plane, int64_t pitch) {
    const int across = p.stride[2], down = p.stride[1];
    const int length = p.wide[2] * across, height = p.wide[1] * down, deep = p.wide[0] * p.stride[0];
    for (int c = 0; c < p.channels; c++, copy += pitch, read += p.read_channel) {
        for (int z = 0; z < p.in[0]; z++) {
            int at_z = z * p.spread[0] + p.before[0];
            if (at_z < 0 || at_z >= deep) continue;
            int shift = p.before[1] - y0 * down;
            int first = shift >= 0 ? 0 : (-shift + p.spread[1] - 1) / p.spread[1];
            for (int y = first; y < p.in[1]; y++) {
                int at_y = y * p.spread[1] + shift;
                if (at_y >= height) break;
                int phase = (at_z % p.stride[0] * down + at_y % down) * across;
                lay_row(p, read + ((int64_t)z * p.in[1] + y) * p.in[2],
                        copy + phase * plane + ((int64_t)(at_z / p.stride[0]) * p.wide[1] + at_y / down) * p.wide[2], plane, length);
            }
        }
    }
}

// Lines [first, first + width) of the weight as a panel: [channel][tap][line].
void pack_weight(const Panels &p, const Scalar *weight, Op *to, int width) {
    const int taps = p.taps[0] * p.taps[1] * p.taps[2];
    const bool lines = (p.taps[1] == 1 || p.tap[1] == p.tap[2] * p.taps[2]) && (p.taps[0] == 1 || p.tap[0] == p.tap[2] * p.taps[2] * p.taps[1]);
    if (lines && p.channel == p.tap[2] * taps) return pack<kRows>(to, weight, p.line, p.tap[2], width, taps * p.channels);
    for (int c = 0; c < p.channels; c++)
        for (int z = 0; z < p.taps[0]; z++)
            for (int y = 0; y < p.taps[1]; y++) {
                const Scalar *from = weight + c * p.channel + z * p.tap[0] + y * p.tap[1];
                for (int x = 0; x < p.taps[2]; x++, to += kRows, from += p.tap[2])
                    for (int w = 0; w < kRows; w++) to[w] = w < width ? to_op(from[w * p.line]) : Op(0);
            }
}

constexpr int kPart = 40; // terms that are added up one after the other: more would lose digits

// sums[r][0 .. kCols): a panel of the weight times the pixels from b on, and what is added.
template <int ROWS>
__attribute__((noinline)) void multiply_shifted(const Op *__restrict a, const Op *__restrict b, const int32_t *__restrict shifts,
                                                int depth, const Op *__restrict add, Op *__restrict sums, int64_t pitch) {
    for (int first = 0; first < depth; first += kPart) {
        const int last = least(first + kPart, depth);
        Lane acc[ROWS][2] = {};
        for (int k = first; k < last; k++, a += kRows) {
            const Op *at = b + shifts[k];
            Lane b0 = lane(at), b1 = lane(at + kLane);
            GEMS_UNROLL for (int r = 0; r < ROWS; r++) {
                acc[r][0] += a[r] * b0;
                acc[r][1] += a[r] * b1;
            }
        }
        GEMS_UNROLL for (int r = 0; r < ROWS; r++) {
            Op *to = sums + r * pitch;
            put(to, acc[r][0] + (first ? lane(to) : Lane{} + add[r]));
            put(to + kLane, acc[r][1] + (first ? lane(to + kLane) : Lane{} + add[r]));
        }
    }
}

inline void multiply_lines(const Op *a, const Op *b, const int32_t *shifts, int depth, const Op *add, Op *sums, int64_t pitch, int lines) {
    if (lines > kRows / 2) multiply_shifted<kRows>(a, b, shifts, depth, add, sums, pitch);
    else if (lines > 2) multiply_shifted<kRows / 2>(a, b, shifts, depth, add, sums, pitch);
    else multiply_shifted<2>(a, b, shifts, depth, add, sums, pitch);
}

// Writes the pixels of a panel that exist, of one channel.
void write_row(const Segment *segment, int count, const Op *value, Scalar *out, int64_t step) {
    alignas(64) Scalar rounded[kCols];
    for (int j = 0; j < kCols; j += kLane) narrow_lane(rounded + j, value + j);
    for (int s = 0; s < count; s++) {
        Scalar *to = out + segment[s].at;
        const Scalar *from = rounded + segment[s].from;
        const int n = segment[s].count;
        if (step == 1 && n == kCols) {
            memcpy(to, from, sizeof rounded);
        } else if (step == 1) {
            int j = 0;
            for (; j + 8 <= n; j += 8) memcpy(to + j, from + j, 8 * sizeof(Scalar));
            GEMS_UNROLL_NOT for (; j < n; j++) to[j] = from[j];
        } else {
            GEMS_UNROLL_NOT for (int j = 0; j < n; j++) to[j * step] = from[j];
        }
    }
}

// A panel of pixels: its segments in what is written.
int find_segments(const Panels &p, int j0, int pixels, int y0, int rows, Segment *segment) {
    int count = 0;
    for (int j = j0; j < least(j0 + kCols, pixels);) {
        int line = j / p.wide[2], x = j - line * p.wide[2], z = line / p.wide[1], y = line - z * p.wide[1];
        int end = least(j0 + kCols, line * p.wide[2] + p.out_size[2]);
        if (y < rows && end > j) segment[count++] = {j - j0, end - j, z * p.to[2] + (y0 + y) * p.to[3] + x * p.to[4]};
        j = (line + 1) * p.wide[2];
    }
    return count;
}

constexpr int kGroup = 8; // panels of pixels for which a panel of the weight stays in the first cache

// How far the element of a tap and channel is from that of the first.
void find_shifts(const Panels &p, int64_t plane, int64_t pitch, int32_t *shifts) {
    for (int c = 0; c < p.channels; c++)
        for (int z = 0; z < p.taps[0]; z++)
            for (int y = 0; y < p.taps[1]; y++)
                for (int x = 0; x < p.taps[2]; x++) {
                    int far[3] = {z * p.dilation[0], y * p.dilation[1], x * p.dilation[2]};
                    int phase = (far[0] % p.stride[0] * p.stride[1] + far[1] % p.stride[1]) * p.stride[2] + far[2] % p.stride[2];
                    int64_t line = (int64_t)(far[0] / p.stride[0]) * p.wide[1] + far[1] / p.stride[1];
                    *shifts++ = (int32_t)(c * pitch + phase * plane + line * p.wide[2] + far[2] / p.stride[2]);
                }
}

// ---- the weight's gradient: dot products of the result's gradient and the copy, both along the copy's pixels

constexpr int kDown = kRows / 3, kAcross = kRows / 2, kLong = 2048;

// The sum of a vector's elements, by halves.
#if defined(__AVX__)
typedef Op Half __attribute__((vector_size(kBytes / 2), aligned(alignof(Op)), may_alias));
typedef Op Quarter __attribute__((vector_size(kBytes / 4), aligned(alignof(Op)), may_alias));
GEMS_DI Op fold(Lane v) {
    union { Lane whole; Half half[2]; } a;
    a.whole = v;
    union { Half whole; Quarter quarter[2]; } b;
    b.whole = a.half[0] + a.half[1];
    Quarter q = b.quarter[0] + b.quarter[1];
    Op sum = q[0];
    for (int e = 1; e < kLane / 4; e++) sum += q[e];
    return sum;
}
#else
GEMS_DI Op fold(Lane v) {
    Op low = v[0], high = v[kLane / 2];
    for (int e = 1; e < kLane / 2; e++) low += v[e], high += v[kLane / 2 + e];
    return low + high;
}
#endif

// sums[r * pitch + c] += what kDown lines of g, `width` apart, and the elements `shifts` behind x have.
template <int DOWN>
__attribute__((noinline)) void dots(const Op *__restrict g, int64_t width, const Op *__restrict x, const int32_t *__restrict shifts,
                                    int count, Op *__restrict sums, int64_t pitch, int across) {
    Lane acc[DOWN][kAcross] = {};
    const Op *from[kAcross];
    for (int c = 0; c < kAcross; c++) from[c] = x + shifts[c < across ? c : 0];
    for (int v = 0; v < count; v += kLane) {
        Lane line[DOWN];
        GEMS_UNROLL for (int r = 0; r < DOWN; r++) line[r] = lane(g + r * width + v);
        GEMS_UNROLL for (int c = 0; c < kAcross; c++) {
            Lane value = lane(from[c] + v);
            GEMS_UNROLL for (int r = 0; r < DOWN; r++) acc[r][c] += line[r] * value;
        }
    }
    GEMS_UNROLL for (int r = 0; r < DOWN; r++) {
        Op total[kAcross];
        GEMS_UNROLL for (int c = 0; c < kAcross; c++) total[c] = fold(acc[r][c]);
        for (int c = 0; c < across; c++) sums[r * pitch + c] += total[c];
    }
}

// Whether no element is infinite or NaN.
bool finite(const Op *v, int64_t n) {
    Lane sum = {};
    int64_t i = 0;
    for (; i + kLane <= n; i += kLane) sum += lane(v + i) * 0;
    Op rest = 0;
    for (int e = 0; e < kLane; e++) rest += sum[e];
    for (; i < n; i++) rest += v[i] * 0;
    return rest == 0;
}

// The same as dots of all lines and taps, of the pixels of the result alone: an element that is not finite is multiplied by nothing
// else.
void exact_dots(const Panels &p, const Op *grad, const Op *copy, const int32_t *shifts, int64_t plane, Op *sums, int lines, int samples,
                int rows) {
    const int depth = p.taps[0] * p.taps[1] * p.taps[2] * p.channels;
    for (int i = 0; i < lines; i++, grad += p.width)
        for (int k = 0; k < depth; k++, sums++)
            for (int s = 0; s < samples; s++)
                for (int z = 0; z < p.out_size[0]; z++)
                    for (int y = 0; y < rows; y++) {
                        int64_t at = s * plane + ((int64_t)z * p.wide[1] + y) * p.wide[2];
                        for (int x = 0; x < p.out_size[2]; x++) *sums += grad[at + x] * copy[shifts[k] + at + x];
                    }
}

// The result's gradient of a band, laid as the copy's pixels are, zeros between.
void lay_gradient(const Panels &p, const Scalar *from, Op *to, int lines, int y0, int rows) {
    const int64_t plane = (int64_t)p.out_size[0] * p.out_size[1] * p.out_size[2];
    for (int i = 0; i < lines; i++, from += plane, to += p.width) {
        for (int z = 0; z < p.out_size[0]; z++)
            for (int y = 0; y < rows; y++)
                widen(to + ((int64_t)z * p.wide[1] + y) * p.wide[2], from + ((int64_t)z * p.out_size[1] + y0 + y) * p.out_size[2],
                      p.out_size[2]);
    }
}

}  // namespace

extern "C" __global__ void weight_panel(const Panels p) {
    GEMS_DYN_SMEM(Op, room);
    const int taps = p.taps[0] * p.taps[1] * p.taps[2], depth = taps * p.channels;
    const int64_t plane = (int64_t)p.wide[0] * p.wide[1] * p.wide[2];
    const int64_t planes = plane * p.joint, pitch = planes * p.stride[0] * p.stride[1] * p.stride[2];
    const int64_t result = (int64_t)p.out_size[0] * p.out_size[1] * p.out_size[2];
    int32_t *shifts = (int32_t *)room;
    Op *sums = room + (depth + 15) / 16 * 16, *grad = sums + (int64_t)p.part * depth, *copy = grad + (int64_t)p.part * p.width;
    find_shifts(p, planes, pitch, shifts);
    memset(copy + p.channels * pitch, 0, (size_t)p.width * sizeof(Op));
    GEMS_FOR_GRID(f, p.n) {
        const int group = (int)(f / p.parts), first = (int)(f - (int64_t)group * p.parts) * p.part, lines = least(p.part, p.made - first);
        memset(sums, 0, (size_t)((int64_t)lines * depth) * sizeof(Op));
        for (int sample = 0; sample < p.batch; sample += p.joint)
            for (int y0 = 0; y0 < p.out_size[1]; y0 += p.band) {
                const int rows = least(p.band, p.out_size[1] - y0), samples = least(p.joint, p.batch - sample);
                memset(copy, 0, (size_t)(p.channels * pitch) * sizeof(Op));
                memset(grad, 0, (size_t)((int64_t)lines * p.width) * sizeof(Op));
                for (int s = 0; s < samples; s++) {
                    lay(p, (const Scalar *)p.read + (sample + s) * p.read_sample + (int64_t)group * p.channels * p.read_channel,
                        copy + s * plane, y0, planes, pitch);
                    lay_gradient(p, (const Scalar *)p.weight + (((int64_t)(sample + s) * p.groups + group) * p.made + first) * result,
                                 grad + s * plane, lines, y0, rows);
                }
                if (!finite(copy, p.channels * pitch)) {
                    exact_dots(p, grad, copy, shifts, plane, sums, lines, samples, rows);
                    continue;
                }
                for (int v = 0; v < p.width; v += kLong) {
                    const int count = least(kLong, p.width - v);
                    for (int i = 0; i < lines; i += kDown)
                        for (int k = 0; k < depth; k += kAcross) {
                            const Op *g = grad + (int64_t)i * p.width + v;
                            Op *to = sums + (int64_t)i * depth + k;
                            const int across = least(kAcross, depth - k);
                            if (lines - i >= kDown) dots<kDown>(g, p.width, copy + v, shifts + k, count, to, depth, across);
                            else
                                for (int r = 0; r < lines - i; r++)
                                    dots<1>(g + r * p.width, p.width, copy + v, shifts + k, count, to + r * depth, depth, across);
                        }
                }
            }
        Scalar *out = (Scalar *)p.out + group * p.weight_group + first * p.line;
        for (int i = 0; i < lines; i++) {
            const Op *from = sums + (int64_t)i * depth;
            for (int c = 0; c < p.channels; c++)
                for (int z = 0; z < p.taps[0]; z++)
                    for (int y = 0; y < p.taps[1]; y++)
                        for (int x = 0; x < p.taps[2]; x++)
                            out[i * p.line + c * p.channel + z * p.tap[0] + y * p.tap[1] + x * p.tap[2]] = from_op<Scalar>(*from++);
        }
    }
}

extern "C" __global__ void convolution_panel(const Panels p) {
    GEMS_DYN_SMEM(Op, room);
    const int taps = p.taps[0] * p.taps[1] * p.taps[2], depth = taps * p.channels;
    const int64_t plane = (int64_t)p.wide[0] * p.wide[1] * p.wide[2];
    const int64_t pitch = plane * p.stride[0] * p.stride[1] * p.stride[2];
    int32_t *shifts = (int32_t *)room;
    Op *packed = room + (depth + 15) / 16 * 16, *copy = packed + (int64_t)(p.part + kRows - 1) / kRows * kRows * depth;
    alignas(64) Op sums[kRows * kCols];
    Segment segment[kGroup][kCols];
    find_shifts(p, plane, pitch, shifts);
    memset(copy + p.channels * pitch, 0, kCols * sizeof(Op));
    int64_t before = -1;
    GEMS_FOR_GRID(f, p.n) {
        int band = (int)(f % p.bands);
        int64_t rest = f / p.bands, which = rest / p.batch;
        int sample = (int)(rest - which * p.batch), group = (int)(which / p.parts), first = (int)(which - (int64_t)group * p.parts) * p.part;
        const int lines = least(p.part, p.made - first), y0 = band * p.band, rows = least(p.band, p.out_size[1] - y0);
        if (which != before) {
            const Scalar *weight = (const Scalar *)p.weight + p.origin + group * p.weight_group + first * p.line;
            for (int i = 0; i < lines; i += kRows) pack_weight(p, weight + i * p.line, packed + (int64_t)i * depth, least(kRows, lines - i));
            before = which;
        }
        memset(copy, 0, (size_t)(p.channels * pitch) * sizeof(Op));
        lay(p, (const Scalar *)p.read + sample * p.read_sample + (int64_t)group * p.channels * p.read_channel, copy, y0, plane, pitch);
        Scalar *out = (Scalar *)p.out + sample * p.to[0] + ((int64_t)group * p.made + first) * p.to[1];
        const Scalar *bias = p.bias ? (const Scalar *)p.bias + group * p.made + first : nullptr;
        const int pixels = ((p.out_size[0] - 1) * p.wide[1] + rows - 1) * p.wide[2] + p.out_size[2];
        for (int g0 = 0; g0 < pixels; g0 += kGroup * kCols) {
            int counts[kGroup], panels = 0;
            for (; panels < kGroup && g0 + panels * kCols < pixels; panels++)
                counts[panels] = find_segments(p, g0 + panels * kCols, pixels, y0, rows, segment[panels]);
            for (int i = 0; i < lines; i += kRows) {
                const Op *a = packed + (int64_t)i * depth;
                const int height = least(kRows, lines - i);
                Op add[kRows] = {};
                for (int r = 0; bias && r < height; r++) add[r] = to_op(bias[i + r]);
                Scalar *line = out + i * p.to[1];
                for (int g = 0; g < panels; g++) {
                    if (!counts[g]) continue;
                    const Op *b = copy + g0 + g * kCols;
                    if (kSame && height == kRows && p.to[4] == 1 && segment[g]->count == kCols) {
                        multiply_shifted<kRows>(a, b, shifts, depth, add, (Op *)(line + segment[g]->at), p.to[1]);
                        continue;
                    }
                    multiply_lines(a, b, shifts, depth, add, sums, kCols, height);
                    for (int r = 0; r < height; r++) write_row(segment[g], counts[g], sums + r * kCols, line + r * p.to[1], p.to[4]);
                }
            }
        }
    }
}
