// Images enlarged or reduced by picking the nearest pixel, and the gradient. An image is [plane][y][x][channel], as in
// pool.cu. The head names T, Index, kBackward, kExact (pixel centres are compared), kInner (channels are inside) and kVecLanes
// (elements of one thread: channels, or neighbours along x). Twin of csrc/families/resample.c.
using namespace gems;

// How a pixel finds its source. kBack: a gradient as ATen's on a GPU has it, where an element finds its outputs by a scale of
// their own, and those that lie behind the last element's are in none.
enum { kByScale, kSame, kDoubled, kBack };

struct Axis {
    int32_t in, out, how;
    float scale, back; // of an output to its source, and of that to the output
};
struct Nearest {
    Index n;
    FastDiv div[3];           // of an item: groups of lanes, x, y
    int32_t across, channels; // groups of lanes, and channels inside
    int32_t columns, bands, band; // groups along x; groups along y, and the rows of one
    Axis axis[2];             // y, x
};

typedef opmath_t<T> Op;
constexpr int kWidth = 256; // elements that are held at a time

GEMS_DI int32_t source(const Axis &a, int32_t o) {
    if (a.how == kSame) return o;
    if (a.how == kDoubled) return o >> 1;
    int32_t at = (int32_t)floor((kExact ? (float)o + 0.5f : (float)o) * a.scale);
    return at < a.in ? at : a.in - 1;
}

// The first output whose source is i or more: outputs are in the order of their sources.
GEMS_DI int32_t first_from(const Axis &a, int32_t i) {
    if (a.how == kBack) {
        int32_t o = (int32_t)ceil(kExact ? gems::fma((float)i, a.back, -0.5f) : (float)i * a.back);
        return o < a.out ? o : a.out;
    }
    if (i >= a.in) return a.out;
    if (a.how == kSame) return i;
    if (a.how == kDoubled) return 2 * i;
    float guess = (float)i / a.scale;
    int32_t o = guess < (float)a.out ? (int32_t)guess : a.out;
    while (o > 0 && source(a, o - 1) >= i) o--;
    while (o < a.out && source(a, o) < i) o++;
    return o;
}

// ---- the fast mode where channels are not inside
GEMS_DI void pick_rows(const Nearest &p, const T *plane, T *out, int32_t y, int32_t rows) {
    const Axis &across = p.axis[1];
    int32_t width = across.out;
    for (int32_t begin = 0; begin < width; begin += kWidth) {
        int32_t count = width - begin < kWidth ? width - begin : kWidth, before = -1;
        int32_t from[kWidth];
        GEMS_IVDEP for (int32_t j = 0; j < count; j++) from[j] = source(across, begin + j);
        for (int32_t r = 0; r < rows; r++) {
            int32_t row = source(p.axis[0], y + r);
            const T *in = plane + (Index)row * across.in;
            T *to = out + (Index)r * width + begin;
            if (row == before) {
                memcpy(to, to - width, (size_t)count * sizeof(T));
            } else if (across.how == kSame) {
                memcpy(to, in + begin, (size_t)count * sizeof(T));
            } else if (across.how == kDoubled) {
                const T *half = in + begin / 2;
                GEMS_IVDEP for (int32_t j = 0; j < count / 2; j++) {
                    T v = half[j];
                    to[2 * j] = v;
                    to[2 * j + 1] = v;
                }
                if (count & 1) to[count - 1] = half[count / 2];
            } else {
                for (int32_t j = 0; j < count; j++) to[j] = in[from[j]];
            }
            before = row;
        }
    }
}

// A row of the gradient: outputs are added up down the column first, then along the row.
GEMS_DI void gather_row(const Nearest &p, const T *plane, T *out, int32_t y) {
    const Axis &across = p.axis[1];
    int32_t top = first_from(p.axis[0], y), bottom = first_from(p.axis[0], y + 1);
    for (int32_t begin = 0; begin < across.in; begin += kWidth) {
        int32_t end = across.in - begin < kWidth ? across.in : begin + kWidth;
        int32_t first = first_from(across, begin), last = first_from(across, end);
        Op sum[kWidth];
        for (int32_t j = 0; j < end - begin; j++) sum[j] = 0;
        for (int32_t part = first; part < last; part += kWidth) {
            int32_t count = last - part < kWidth ? last - part : kWidth;
            Op column[kWidth];
            for (int32_t j = 0; j < count; j++) column[j] = 0;
            for (int32_t i = top; i < bottom; i++) {
                const T *from = plane + (Index)i * across.out + part;
                GEMS_IVDEP for (int32_t j = 0; j < count; j++) column[j] += to_op(from[j]);
            }
            if (across.how == kDoubled) { // a part begins with the first of two
                Op *to = sum + (part / 2 - begin);
                GEMS_IVDEP for (int32_t j = 0; j < count / 2; j++) to[j] += column[2 * j] + column[2 * j + 1];
            } else {
                for (int32_t j = 0; j < count; j++) sum[source(across, part + j) - begin] += column[j];
            }
        }
        GEMS_IVDEP for (int32_t j = begin; j < end; j++) out[j] = from_op<T>(sum[j - begin]);
    }
}

// ---- the fast mode where channels are inside: a row
GEMS_DI void pick_pixels(const Nearest &p, const T *plane, T *out, int32_t y) {
    const T *row = plane + (Index)source(p.axis[0], y) * p.axis[1].in * p.channels;
    int32_t channels = p.channels;
    for (int32_t x = 0; x < p.axis[1].out; x++) {
        const T *from = row + (Index)source(p.axis[1], x) * channels;
        T *to = out + (Index)x * channels;
        if (channels < 16)
            for (int32_t e = 0; e < channels; e++) to[e] = from[e];
        else memcpy(to, from, (size_t)channels * sizeof(T));
    }
}

GEMS_DI void gather_pixels(const Nearest &p, const T *plane, T *out, int32_t y) {
    int32_t top = first_from(p.axis[0], y), bottom = first_from(p.axis[0], y + 1), right = 0;
    for (int32_t x = 0; x < p.axis[1].in; x++) {
        int32_t left = right;
        while (right < p.axis[1].out && source(p.axis[1], right) <= x) right++;
        if (p.channels < 16) { // too few for vectors
            for (int32_t e = 0; e < p.channels; e++) {
                Op sum = 0;
                for (int32_t i = top; i < bottom; i++)
                    for (int32_t j = left; j < right; j++)
                        sum += to_op(plane[((Index)i * p.axis[1].out + j) * p.channels + e]);
                out[(Index)x * p.channels + e] = from_op<T>(sum);
            }
            continue;
        }
        for (int32_t begin = 0; begin < p.channels; begin += kWidth) {
            int32_t count = p.channels - begin < kWidth ? p.channels - begin : kWidth;
            T *to = out + (Index)x * p.channels + begin;
            Op sum[kWidth];
            for (int32_t e = 0; e < count; e++) sum[e] = 0;
            for (int32_t i = top; i < bottom; i++)
                for (int32_t j = left; j < right; j++) {
                    const T *from = plane + ((Index)i * p.axis[1].out + j) * p.channels + begin;
                    GEMS_IVDEP for (int32_t e = 0; e < count; e++) sum[e] += to_op(from[e]);
                }
            GEMS_IVDEP for (int32_t e = 0; e < count; e++) to[e] = from_op<T>(sum[e]);
        }
    }
}

// ---- one place, some channels of it
GEMS_DI void gather_at(const Nearest &p, const T *plane, T *out, int32_t y, int32_t x) {
    int32_t top = first_from(p.axis[0], y), bottom = first_from(p.axis[0], y + 1);
    int32_t left = first_from(p.axis[1], x), right = first_from(p.axis[1], x + 1);
    Op sum[kVecLanes];
    GEMS_UNROLL for (int e = 0; e < kVecLanes; e++) sum[e] = 0;
    for (int32_t i = top; i < bottom; i++)
        for (int32_t j = left; j < right; j++) {
            Vec<T, kVecLanes> v = load<kVecLanes>(plane + ((Index)i * p.axis[1].out + j) * p.channels);
            GEMS_UNROLL for (int e = 0; e < kVecLanes; e++) sum[e] += to_op(v.v[e]);
        }
    Vec<T, kVecLanes> r;
    GEMS_UNROLL for (int e = 0; e < kVecLanes; e++) r.v[e] = from_op<T>(sum[e]);
    store<kVecLanes>(out, r);
}

GEMS_DI void pick_at(const Nearest &p, const T *plane, T *out, int32_t y, int32_t x) {
    Index row = (Index)source(p.axis[0], y) * p.axis[1].in;
    if constexpr (kInner) {
        store<kVecLanes>(out, load<kVecLanes>(plane + (row + source(p.axis[1], x)) * p.channels));
    } else {
        Vec<T, kVecLanes> v;
        GEMS_UNROLL for (int e = 0; e < kVecLanes; e++) v.v[e] = plane[row + source(p.axis[1], x + e)];
        store<kVecLanes>(out, v);
    }
}

// in: the image, or the gradient of the result.
extern "C" __global__ void nearest(T *__restrict__ out, const T *__restrict__ in, const __grid_constant__ Nearest given) {
    const Nearest p = given;
    const int32_t height = kBackward ? p.axis[0].in : p.axis[0].out, width = kBackward ? p.axis[1].in : p.axis[1].out;
    const Index plane_out = (Index)height * width * p.channels;
    const Index plane_in = (kBackward ? (Index)p.axis[0].out * p.axis[1].out : (Index)p.axis[0].in * p.axis[1].in) * p.channels;
    GEMS_FOR_GRID(f, p.n) {
        Index rest = f;
        int32_t lane = 0, x = 0;
        if constexpr (!kFast) {
            if constexpr (kInner) lane = (int32_t)split(rest, p.div[0], p.across) * kVecLanes;
            x = (int32_t)split(rest, p.div[1], p.columns) * (kInner ? 1 : kVecLanes);
        }
        int32_t y = (int32_t)split(rest, p.div[2], p.bands) * p.band;
        const T *plane = in + rest * plane_in + lane;
        T *to = out + rest * plane_out + ((Index)y * width + x) * p.channels + lane;
        if constexpr (!kFast) {
            if constexpr (kBackward) gather_at(p, plane, to, y, x);
            else pick_at(p, plane, to, y, x);
        } else if constexpr (kInner) {
            if constexpr (kBackward) gather_pixels(p, plane, to, y);
            else pick_pixels(p, plane, to, y);
        } else {
            if constexpr (kBackward) gather_row(p, plane, to, y);
            else pick_rows(p, plane, to, y, height - y < p.band ? height - y : p.band);
        }
    }
}
