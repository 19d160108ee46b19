/* softmax and log_softmax along rows (the last dimension) or columns (a dimension with others inside it), and their
 * gradients. The head gives T and Out (dtypes read and written), kLog, kColumns, GRADIENT (which of the two
 * entries there is), and what rows.cuh and columns.cuh need, which come before this file.
 */
using C = opmath_t<T>;

/* exp, of which results of 16 bits need few digits. */
GEMS_DI C exp_of(C v) {
    if constexpr (!kFast && is_half<T> && is_half<Out>) return exp2_near(v * 1.4426950408889634f);
    else return exp(v);
}

/* The largest element seen and the sum of exp(element - largest). */
struct Online {
    C top, sum;
    GEMS_DI void take(C v) {
        C d = v - top, e = v == -Limits<C>::inf() ? C(0) : exp_of(-abs(d));
        sum = d > 0 ? sum * e + C(1) : sum + e;
        top = v > top ? v : top;
    }
};
GEMS_DI C rescale(C from, C to) { return from == -Limits<C>::inf() ? C(0) : exp_of(from - to); }
struct Merge {
    GEMS_DI Online operator()(Online a, Online b) const {
        C top = a.top > b.top ? a.top : b.top;
        return Online{top, a.sum * rescale(a.top, top) + b.sum * rescale(b.top, top)};
    }
};
GEMS_DI Online nothing() { return Online{-Limits<C>::inf(), C(0)}; }

/* A NaN is no maximum here: it comes through the sum. */
struct Larger {
    GEMS_DI C operator()(C a, C b) const {
        if constexpr (kFast) return b > a ? b : a;
        else return fmax(a, b);
    }
};

/* An element's result; scale is 1 / sum or log(sum). */
GEMS_DI C result(C v, C top, C scale) {
    if constexpr (kLog) return v - top - scale;
    else return exp_of(v - top) * scale;
}
GEMS_DI C scale_of(C sum) {
    if constexpr (kLog) return log(sum);
    else return C(1) / sum;
}

/* A gradient from the gradient g and the result y; sum is of what term() gives. */
GEMS_DI C term(C g, C y) { return kLog ? g : g * y; }
GEMS_DI C gradient(C g, C y, C sum) {
    if constexpr (kLog) return g - exp_of(y) * sum;
    else return y * (g - sum);
}

/* ---- rows ---- */

GEMS_DI void team_softmax(const T* x, Out* y, int n) {
    __shared__ C buf[33];
    __shared__ Online online[33];
    Kept<T> row;
    if constexpr (kStage == kShared) row.shared = shared_row<T>(0, n);
    row.start(x, n);
    row.take(x, n);
    landed();
    const Frame at = frame_of(x, n);
    y += at.head;
    C top = -Limits<C>::inf(), sum = 0;
    if constexpr (kStage == kAgain) {
        Online part[kVec];
        GEMS_UNROLL for (int k = 0; k < kVec; k++) part[k] = nothing();
        each_piece(at, [&](int q, int c, auto w) {
            auto v = piece(row, q, c, w);
            GEMS_UNROLL for (int k = 0; k < w.count; k++) part[k].take(to_op(v.v[k]));
        });
        Online all = team_reduce(lane_reduce(part, Merge{}), Merge{}, online);
        top = all.top;
        sum = all.sum;
    } else {
        each_piece(at, [&](int q, int c, auto w) {
            auto v = piece(row, q, c, w);
            GEMS_UNROLL for (int k = 0; k < w.count; k++) top = Larger{}(top, to_op(v.v[k]));
        });
        top = part_reduce(top, Larger{}, buf);
        C base = kCluster > 1 && top == -Limits<C>::inf() ? C(0) : top; /* of a part others may be larger */
        each_piece(at, [&](int q, int c, auto w) {
            auto v = piece(row, q, c, w);
            GEMS_UNROLL for (int k = 0; k < w.count; k++) sum += exp_of(to_op(v.v[k]) - base);
        });
        Online all = team_join(Online{top, part_reduce(sum, Sum{}, buf)}, Merge{}, online);
        top = all.top;
        sum = all.sum;
    }
    C scale = scale_of(sum);
    each_piece(at, [&](int q, int c, auto w) {
        auto v = piece(row, q, c, w);
        Vec<Out, w.count> r;
        GEMS_UNROLL for (int k = 0; k < w.count; k++) r.v[k] = from_op<Out>(result(to_op(v.v[k]), top, scale));
        store_row<w.count>(y + c, r);
    });
}

GEMS_DI void team_gradient(const T* g, const T* y, Out* dx, int n) {
    __shared__ C buf[33];
    Kept<T> grad;
    Kept<T> out;
    if constexpr (kStage == kShared) grad.shared = shared_row<T>(0, n);
    if constexpr (kStage == kShared) out.shared = shared_row<T>(kStage == kShared ? 1 : 0, n);
    grad.start(g, n);
    out.start(y, n);
    grad.take(g, n);
    out.take(y, n);
    landed();
    const Frame at = frame_of(g, n);
    dx += at.head;
    C sum = 0;
    each_piece(at, [&](int q, int c, auto w) {
        auto a = piece(grad, q, c, w), b = piece(out, q, c, w);
        GEMS_UNROLL for (int k = 0; k < w.count; k++) sum += term(to_op(a.v[k]), to_op(b.v[k]));
    });
    sum = team_reduce(sum, Sum{}, buf);
    each_piece(at, [&](int q, int c, auto w) {
        auto a = piece(grad, q, c, w), b = piece(out, q, c, w);
        Vec<Out, w.count> r;
        GEMS_UNROLL for (int k = 0; k < w.count; k++) r.v[k] = from_op<Out>(gradient(to_op(a.v[k]), to_op(b.v[k]), sum));
        store_row<w.count>(dx + c, r);
    });
}

/* Exponentials wait for their sum in the output, or, where that would round them, in a buffer for rows up to kRoom. */
constexpr bool kHolds = is_same<Out, C> && !kLog;
constexpr int kRoom = 4096;

GEMS_DI void fast_softmax(const T* x, Out* y, int n) {
    Lanes<C> lanes;
    lanes.fill(-Limits<C>::inf());
    spans(0, n, [&](int c, auto w) {
        GEMS_IVDEP for (int k = 0; k < w.count; k++) lanes.v[k] = Larger{}(lanes.v[k], to_op(x[c + k]));
    });
    C top = lanes.fold(Larger{});
    if (!kLog && !kHolds && n <= kRoom) {
        C room[kRoom];
        C scale = scale_of(row_sum<C>(n, [&](int c) { return room[c] = exp(to_op(x[c]) - top); }));
        row_map(y, n, [&](int c) { return room[c] * scale; });
        return;
    }
    C sum = row_sum<C>(n, [&](int c) {
        C e = exp(to_op(x[c]) - top);
        if constexpr (kHolds) y[c] = from_op<Out>(e);
        return e;
    });
    C scale = scale_of(sum);
    row_map(y, n, [&](int c) {
        if constexpr (kHolds) return to_op(y[c]) * scale;
        else return result(to_op(x[c]), top, scale);
    });
}

GEMS_DI void fast_gradient(const T* g, const T* y, Out* dx, int n) {
    C sum = row_sum<C>(n, [&](int c) { return term(to_op(g[c]), to_op(y[c])); });
    row_map(dx, n, [&](int c) { return gradient(to_op(g[c]), to_op(y[c]), sum); });
}

/* ---- columns ---- */

GEMS_DI void block_softmax_columns(const T* x, Out* y, int64_t outer, int n, int64_t inner) {
    each_column(outer, n, inner, [&](int64_t at, bool live) {
        Online part[kVec];
        GEMS_UNROLL for (int k = 0; k < kVec; k++) part[k] = nothing();
        int count = live ? n : 0;
        for (int r = threadIdx.y; r < count; r += (int)blockDim.y) {
            Vec<T, kVec> v = load<kVec>(x + at + r * inner);
            GEMS_UNROLL for (int k = 0; k < kVec; k++) part[k].take(to_op(v.v[k]));
        }
        join_column(part, Merge{});
        GEMS_UNROLL for (int k = 0; k < kVec; k++) part[k].sum = scale_of(part[k].sum);
        for (int r = threadIdx.y; r < count; r += (int)blockDim.y) {
            Vec<T, kVec> v = load<kVec>(x + at + r * inner);
            Vec<Out, kVec> w;
            GEMS_UNROLL for (int k = 0; k < kVec; k++)
                w.v[k] = from_op<Out>(result(to_op(v.v[k]), part[k].top, part[k].sum));
            store<kVec>(y + at + r * inner, w);
        }
    });
}

GEMS_DI void block_gradient_columns(const T* g, const T* y, Out* dx, int64_t outer, int n, int64_t inner) {
    each_column(outer, n, inner, [&](int64_t at, bool live) {
        C sum[kVec];
        GEMS_UNROLL for (int k = 0; k < kVec; k++) sum[k] = 0;
        int count = live ? n : 0;
        for (int r = threadIdx.y; r < count; r += (int)blockDim.y) {
            Vec<T, kVec> a = load<kVec>(g + at + r * inner), b = load<kVec>(y + at + r * inner);
            GEMS_UNROLL for (int k = 0; k < kVec; k++) sum[k] += term(to_op(a.v[k]), to_op(b.v[k]));
        }
        join_column(sum, Sum{});
        for (int r = threadIdx.y; r < count; r += (int)blockDim.y) {
            Vec<T, kVec> a = load<kVec>(g + at + r * inner), b = load<kVec>(y + at + r * inner);
            Vec<Out, kVec> w;
            GEMS_UNROLL for (int k = 0; k < kVec; k++)
                w.v[k] = from_op<Out>(gradient(to_op(a.v[k]), to_op(b.v[k]), sum[k]));
            store<kVec>(dx + at + r * inner, w);
        }
    });
}

GEMS_DI void fast_softmax_columns(const T* x, Out* y, int64_t outer, int n, int64_t inner) {
    fast_columns(outer, n, inner, [&](int64_t at, auto w) {
        Lanes<C> top, sum;
        top.fill(-Limits<C>::inf());
        sum.fill(0);
        for (int r = 0; r < n; r++) {
            const T* p = x + at + r * inner;
            GEMS_IVDEP for (int k = 0; k < w.count; k++)
                top.v[k] = Larger{}(top.v[k], to_op(p[k]));
        }
        for (int r = 0; r < n; r++) {
            const T* p = x + at + r * inner;
            Out* q = y + at + r * inner;
            GEMS_IVDEP for (int k = 0; k < w.count; k++) {
                C e = exp(to_op(p[k]) - top.v[k]);
                sum.v[k] += e;
                if constexpr (kHolds) q[k] = from_op<Out>(e);
            }
        }
        for (int k = 0; k < w.count; k++) sum.v[k] = scale_of(sum.v[k]);
        for (int r = 0; r < n; r++) {
            const T* p = x + at + r * inner;
            Out* q = y + at + r * inner;
            GEMS_IVDEP for (int k = 0; k < w.count; k++) {
                if constexpr (kHolds) q[k] = from_op<Out>(to_op(q[k]) * sum.v[k]);
                else q[k] = from_op<Out>(result(to_op(p[k]), top.v[k], sum.v[k]));
            }
        }
    });
}

GEMS_DI void fast_gradient_columns(const T* g, const T* y, Out* dx, int64_t outer, int n, int64_t inner) {
    fast_columns(outer, n, inner, [&](int64_t at, auto w) {
        Lanes<C> sum;
        sum.fill(0);
        for (int r = 0; r < n; r++) {
            const T *a = g + at + r * inner, *b = y + at + r * inner;
            GEMS_IVDEP for (int k = 0; k < w.count; k++)
                sum.v[k] += term(to_op(a[k]), to_op(b[k]));
        }
        for (int r = 0; r < n; r++) {
            const T *a = g + at + r * inner, *b = y + at + r * inner;
            Out* q = dx + at + r * inner;
            GEMS_IVDEP for (int k = 0; k < w.count; k++)
                q[k] = from_op<Out>(gradient(to_op(a[k]), to_op(b[k]), sum.v[k]));
        }
    });
}

/* ---- entries. Rows of n elements, contiguous: outer of them; columns: outer x n x inner elements. ---- */

#if !GRADIENT
/* Rows in shared memory need few registers. */
constexpr int kBeside = kStage == kShared && kThreads == 512 && sizeof(T) <= 4 ? 3 : kResident;
extern "C" __global__ void __launch_bounds__(kThreads, kBeside)
softmax(const T* __restrict__ x, Out* __restrict__ y, int64_t outer, int32_t n, int64_t inner) {
    if constexpr (kFast && kColumns) fast_softmax_columns(x, y, outer, n, inner);
    else if constexpr (kColumns) block_softmax_columns(x, y, outer, n, inner);
    else
        each_row(outer, [&](int64_t row) {
            if constexpr (kFast) fast_softmax(x + row * n, y + row * n, n);
            else team_softmax(x + row * n, y + row * n, n);
        });
}

#else
extern "C" __global__ void __launch_bounds__(kThreads, kResident)
gradient(const T* __restrict__ g, const T* __restrict__ y, Out* __restrict__ dx, int64_t outer, int32_t n, int64_t inner) {
    if constexpr (kFast && kColumns) fast_gradient_columns(g, y, dx, outer, n, inner);
    else if constexpr (kColumns) block_gradient_columns(g, y, dx, outer, n, inner);
    else
        each_row(outer, [&](int64_t row) {
            int64_t at = row * n;
            if constexpr (kFast) fast_gradient(g + at, y + at, dx + at, n);
            else team_gradient(g + at, y + at, dx + at, n);
        });
}
#endif
