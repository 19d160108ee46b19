// Images enlarged or reduced by a filter that is as wide as what an output pixel stands for (antialiased), one axis after
// the other, and the gradient. The head names T, Index, kCubic (else linear), kBackward and Place, in which places and weights
// are found. Twin of csrc/families/resample.c.
//
// Along an axis output o is a weighted sum of `count` inputs from `first` on. `tables` finds these; a gradient needs for an
// input the outputs that it is in, which follow each other too.
using namespace gems;

typedef opmath_t<T> Op;

struct Axis {
    int32_t in, out, taps; // taps: at most so many inputs of an output
    int32_t spans, weights; // where the tables of the axis begin: outputs; weights
    double scale, support, inverse;
};
struct Reach {
    int32_t first, count;
};
struct Axes {
    Axis axis[2];   // y, x
    int32_t outputs; // of both; what inputs are in follows them in the table
};

// Place is double on a CPU: there are few, and their differences lose digits. ATen's on a GPU lose them.
GEMS_DI Place centre(const Axis &a, int32_t o) { return (Place)a.scale * ((Place)o + (Place)0.5); }

GEMS_DI Reach reach_of(const Axis &a, int32_t o) {
    const Place middle = centre(a, o), support = (Place)a.support, half = (Place)0.5;
    int32_t first = (int32_t)(middle - support + half), last = (int32_t)(middle + support + half);
    if (first < 0) first = 0;
    if (last > a.in) last = a.in;
    int32_t count = last - first;
    return {first, count < 0 ? 0 : count > a.taps ? a.taps : count};
}

GEMS_DI Place filter(Place x) {
    if (x < 0) x = -x;
    if constexpr (!kCubic) {
        return x < 1 ? 1 - x : 0;
    } else { // the cubic convolution of Keys with -1/2
        if (x < 1) return ((Place)1.5 * x - (Place)2.5) * x * x + 1;
        if (x < 2) return (((x - 5) * x + 8) * x - 4) * (Place)-0.5;
        return 0;
    }
}

extern "C" __global__ void tables(Reach *__restrict__ reach, Op *__restrict__ weights, const __grid_constant__ Axes p) {
    int32_t inputs = kBackward ? p.axis[0].in + p.axis[1].in : 0;
    GEMS_FOR_GRID(f, p.outputs + inputs) {
        if (f < p.outputs) {
            const Axis &a = p.axis[f >= p.axis[0].out];
            int32_t o = f - a.spans;
            Reach r = reach_of(a, o);
            Op *w = weights + a.weights + (int64_t)o * a.taps;
            const Place nearest = (Place)r.first - centre(a, o), inverse = (Place)a.inverse;
            auto at = [&](int32_t k) { return filter(((Place)k + nearest + (Place)0.5) * inverse); };
            Place total = 0;
            for (int32_t k = 0; k < r.count; k++) total += at(k);
            if (total == 0) total = 1;
            for (int32_t k = 0; k < r.count; k++) w[k] = (Op)(at(k) / total);
            reach[f] = r;
        } else {
            int32_t i = f - p.outputs;
            bool second = i >= p.axis[0].in;
            const Axis &a = p.axis[second];
            if (second) i -= p.axis[0].in;
            int32_t low = 0, high = a.out; // the first that reaches beyond i
            while (low < high) {
                int32_t middle = (low + high) / 2;
                Reach r = reach_of(a, middle);
                if (r.first + r.count > i) high = middle;
                else low = middle + 1;
            }
            int32_t first = low;
            high = a.out; // the first that begins behind i
            while (low < high) {
                int32_t middle = (low + high) / 2;
                if (reach_of(a, middle).first > i) high = middle;
                else low = middle + 1;
            }
            reach[f] = {first, low - first};
        }
    }
}

struct Pass {
    Index n;
    FastDiv inner_div, length_div;
    int32_t inner, from, to; // elements inside the axis; its length before and after
    int32_t spans, inputs;   // its outputs in the table; what its inputs are in
    int32_t taps, weights;
};

// f(k, weight) for what element `at` of the result is made of, which begins at `first`.
template <class F> GEMS_DI void each_tap(const Pass &p, const Reach *reach, const Op *weights, int32_t at, F f) {
    const Op *w = weights + p.weights;
    if constexpr (kBackward) {
        Reach r = reach[p.inputs + at];
        for (int32_t k = 0; k < r.count; k++) {
            int32_t o = r.first + k, tap = at - reach[p.spans + o].first;
            f(o, w[(int64_t)o * p.taps + tap]);
        }
    } else {
        Reach r = reach[p.spans + at];
        w += (int64_t)at * p.taps;
        for (int32_t k = 0; k < r.count; k++) f(r.first + k, w[k]);
    }
}

template <class From, class To>
GEMS_DI void pass(To *out, const From *in, const Reach *reach, const Op *weights, const Pass &p) {
    constexpr int kTile = 128;
    GEMS_FOR_GRID(f, p.n) {
        Index rest = f;
        int32_t inside = 0;
        if constexpr (!kFast) inside = (int32_t)split(rest, p.inner_div, p.inner);
        int32_t at = (int32_t)split(rest, p.length_div, p.to);
        const From *line = in + rest * p.from * p.inner + inside;
        To *to = out + (rest * p.to + at) * p.inner + inside;
        if (!kFast || p.inner == 1) {
            Op sum = 0;
            each_tap(p, reach, weights, at, [&](int32_t k, Op w) { sum += w * to_op(line[(Index)k * p.inner]); });
            *to = from_op<To>(sum);
        } else {
            for (int32_t begin = 0; begin < p.inner; begin += kTile) {
                int32_t count = p.inner - begin < kTile ? p.inner - begin : kTile;
                Op sum[kTile];
                for (int32_t e = 0; e < count; e++) sum[e] = 0;
                each_tap(p, reach, weights, at, [&](int32_t k, Op w) {
                    const From *from = line + (Index)k * p.inner + begin;
                    GEMS_IVDEP for (int32_t e = 0; e < count; e++) sum[e] += w * to_op(from[e]);
                });
                GEMS_IVDEP for (int32_t e = 0; e < count; e++) to[begin + e] = from_op<To>(sum[e]);
            }
        }
    }
}

extern "C" __global__ void along_x(Op *__restrict__ out, const T *__restrict__ in, const Reach *__restrict__ reach,
                                   const Op *__restrict__ weights, const __grid_constant__ Pass p) {
    pass(out, in, reach, weights, p);
}
extern "C" __global__ void along_y(T *__restrict__ out, const Op *__restrict__ in, const Reach *__restrict__ reach,
                                   const Op *__restrict__ weights, const __grid_constant__ Pass p) {
    pass(out, in, reach, weights, p);
}
