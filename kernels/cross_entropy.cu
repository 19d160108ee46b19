/* cross_entropy of logits with classes or distributions as targets, and its gradient. The head gives T, kProb (targets are
 * distributions), kWeight, kSmooth, kColumns, GRADIENT (which entries there are), and what index.cuh,
 * rows.cuh and columns.cuh need, which come before this file. Twin of csrc/families/cross_entropy.c.
 *
 * A row's loss is mass * lse - sum(y * x): y is weight * (keep * target + spread), with keep = 1 - smoothing and spread =
 * smoothing / classes, mass its sum, lse the logarithm of the sum of exponentials. Logits are read once, and once more for the
 * gradient, which is g * (mass * exp(x - lse) - y): lse and mass of each row are kept, no probabilities. Rows that are ignored
 * are not read.
 */
using C = opmath_t<T>;
constexpr bool kMixed = kProb || kSmooth; /* y is more than one element of a row */
using Target = either<kProb, T, int64_t>;

template <int N> struct Width { static constexpr int count = N; };

/* exp, of which logits of 16 bits need few digits. */
GEMS_DI C exp_of(C v) {
    if constexpr (!kFast && is_half<T>) return exp2_near(v * 1.4426950408889634f);
    else return exp(v);
}

/* What is the same for all rows. */
struct Setting {
    const T* weight;
    int64_t ignored;
    C keep, spread;
    int n;
    int32_t* flag;

    /* An element of y, but for what a class that is the target adds. */
    GEMS_DI C share(int c, C target) const {
        C y = spread;
        if constexpr (kProb) y = keep * target + spread;
        if constexpr (kWeight) y *= to_op(weight[c]);
        return y;
    }
    /* The target of a row: -1 when it is ignored. */
    template <class I> GEMS_DI int64_t place(I target) const {
        if constexpr (kProb) return 0;
        else return target != ignored && in_range(target, n, flag) ? target : int64_t(-1);
    }
    /* What the class that is the target adds to y. */
    GEMS_DI C own(int64_t target) const {
        if constexpr (kProb) return C(0);
        else if constexpr (kWeight) return keep * to_op(weight[target]);
        else return keep;
    }
    GEMS_DI C counted(int64_t target) const {
        if constexpr (kProb || !kWeight) return C(1);
        else return to_op(weight[target]);
    }
};

GEMS_DI Setting make_setting(const T* weight, int64_t ignored, double smoothing, int n, int32_t* flag) {
    return Setting{weight, ignored, C(1.0 - smoothing), C(smoothing / n), n, flag};
}

/* A NaN is no maximum here: it comes through the sum. */
struct Larger {
    GEMS_DI C operator()(C a, C b) const { return b > a ? b : a; }
};

#if !GRADIENT
/* The largest element seen, the sum of exp(element - largest), the sums of y * (element - largest) and of y. */
struct Plain {
    C top, sum;
};
struct Mixed {
    C top, sum, dot, mass;
};
using State = either<kMixed, Mixed, Plain>;
template <class S> GEMS_DI S state(C top, C sum, C dot, C mass) {
    if constexpr (kMixed) return S{top, sum, dot, mass};
    else return S{top, sum};
}
template <class S> GEMS_DI S nothing() { return state<S>(-Limits<C>::inf(), C(0), C(0), C(0)); }
GEMS_DI C base_of(C top) { return top == -Limits<C>::inf() ? C(0) : top; }
GEMS_DI C moved(C mass, C from, C to) { return from > -Limits<C>::inf() ? mass * (from - to) : C(0); }

template <int N, class S> GEMS_DI void take(S& s, const C (&v)[N], const C (&y)[N]) {
    C high = s.top, part = 0;
    GEMS_UNROLL for (int k = 0; k < N; k++) high = Larger{}(high, v[k]);
    C base = base_of(high);
    GEMS_UNROLL for (int k = 0; k < N; k++) part += exp_of(v[k] - base);
    s.sum = s.sum * exp_of(s.top - base) + part;
    if constexpr (kMixed) {
        C dot = moved(s.mass, s.top, base), mass = 0;
        GEMS_UNROLL for (int k = 0; k < N; k++) {
            dot += y[k] * (v[k] - base);
            mass += y[k];
        }
        s.dot += dot;
        s.mass += mass;
    }
    s.top = high;
}
struct Join {
    template <class S> GEMS_DI S operator()(S a, S b) const {
        S s{};
        s.top = Larger{}(a.top, b.top);
        C base = base_of(s.top);
        s.sum = a.sum * exp_of(a.top - base) + b.sum * exp_of(b.top - base);
        if constexpr (kMixed) {
            s.dot = a.dot + moved(a.mass, a.top, base) + b.dot + moved(b.mass, b.top, base);
            s.mass = a.mass + b.mass;
        }
        return s;
    }
};

/* Where the results of rows go. */
struct Results {
    T* loss;
    Two<C>* lines; /* loss and weight of each row, where they are to be added; else NULL */
    C* saved;
    int64_t rows;

    GEMS_DI void put(int64_t row, C lse, C mass, C value, C weight) const {
        saved[row] = lse;
        saved[rows + row] = mass;
        if (lines) lines[row] = Two<C>{value, weight};
        else loss[row] = from_op<T>(value);
    }
    /* target: what place() said; x: the logit there. */
    template <class S> GEMS_DI void put(int64_t row, const S& s, const Setting& set, int64_t target, C x) const {
        if (target < 0) return put(row, C(0), C(0), C(0), C(0));
        C log_sum = log(s.sum), own = set.own(target), mass = own, value = C(0);
        if constexpr (!kProb) value = own * (log_sum - (x - s.top));
        if constexpr (kMixed) {
            mass += s.mass;
            value += s.mass * log_sum - s.dot;
        }
        bool usable = isfinite(s.top);
        put(row, usable ? s.top + log_sum : Limits<C>::nan(), mass, usable ? value : Limits<C>::nan(), set.counted(target));
    }
};
#endif

/* ---- rows by a team ---- */

#if !GRADIENT
/* What the threads of a team have: the largest element first, so that each makes good its own sums once. */
template <class S> GEMS_DI S team_state(S s) {
    __shared__ C largest[33];
    __shared__ S buf[33];
    C top = part_reduce(s.top, Larger{}, largest), base = base_of(top);
    s.sum *= exp_of(s.top - base);
    if constexpr (kMixed) s.dot += moved(s.mass, s.top, base);
    s.top = top;
    s = part_reduce(s, [](S a, S b) {
        a.sum += b.sum;
        if constexpr (kMixed) {
            a.dot += b.dot;
            a.mass += b.mass;
        }
        return a;
    }, buf);
    return team_join(s, Join{}, buf);
}
#endif

/* Blocks of a processor: while one joins what its threads have, others read. */
constexpr int kBeside = kFast || kWarpRow || kColumns || kMixed ? 1 : 1024 / kThreads;
constexpr int kBatch = kVec > 1 ? 4 : 8; /* accesses that a thread has in flight */

struct Everything {
    GEMS_DI bool has(int) const { return true; }
};
struct Before {
    int stop;
    GEMS_DI bool has(int column) const { return column < stop; }
};
/* f(column, step, width, count, those) over a row: `count` vectors of that width, `step` columns apart, of which `those`
 * has all or the first ones, from the first aligned element on; single elements before and after. Threads go through as many batches, so that
 * those of a warp stay together. */
template <class F> GEMS_DI void along(const T* x, int n, F f) {
    int lane = team_lane(), lanes = team_size(), past = (int)((uint64_t)x / sizeof(T) % kVec), head = past ? kVec - past : 0;
    if (head > n) head = n;
    int stop = head + (n - head) / kVec * kVec;
    if constexpr (kVec > 1)
        for (int c = lane; c < head; c += lanes) f(c, 0, Width<1>{}, Width<1>{}, Everything{});
    const int step = lanes * kVec, whole = head + (stop - head) / (kBatch * step) * (kBatch * step);
    int c = head + lane * kVec;
    for (; c < whole; c += kBatch * step) f(c, step, Width<kVec>{}, Width<kBatch>{}, Everything{});
    if (c < stop) f(c, step, Width<kVec>{}, Width<kBatch>{}, Before{stop});
    if constexpr (kVec > 1)
        for (c = stop + lane; c < n; c += lanes) f(c, 0, Width<1>{}, Width<1>{}, Everything{});
}

#if !GRADIENT
GEMS_DI void team_loss(int64_t row, const T* x, const Target* targets, int64_t apart, const Setting& set, const Results& to) {
    int64_t target = set.place(targets[kProb ? 0 : row]);
    const Target* t = targets + (kProb ? row * apart : 0);
    State s = nothing<State>();
    if (target >= 0) {
        along(x, set.n, [&](int from, int step, auto w, auto many, auto those) {
            constexpr int N = decltype(w)::count, M = decltype(many)::count;
            Vec<T, N> v[M], given[M]{};
            GEMS_UNROLL for (int i = 0; i < M; i++) {
                if (!those.has(from + i * step)) continue;
                v[i] = load<N>(x + from + i * step);
                if constexpr (kProb) given[i] = load<N>((const T*)t + from + i * step);
            }
            GEMS_UNROLL for (int i = 0; i < M; i++) {
                if (!those.has(from + i * step)) continue;
                C e[N], y[N];
                GEMS_UNROLL for (int k = 0; k < N; k++) {
                    e[k] = to_op(v[i].v[k]);
                    y[k] = kMixed ? set.share(from + i * step + k, kProb ? C(to_op(given[i].v[k])) : C(0)) : C(0);
                }
                take(s, e, y);
            }
        });
        s = team_state(s);
    }
    if (team_lane() == 0) to.put(row, s, set, target, target < 0 ? C(0) : to_op(x[target]));
}
#else
GEMS_DI void team_gradient(int64_t row, const T* x, const Target* targets, int64_t apart, const Setting& set, T* dx, C lse,
                           C mass, C g) {
    int64_t target = set.place(targets[kProb ? 0 : row]);
    const Target* t = targets + (kProb ? row * apart : 0);
    C scale = g * mass, own = target < 0 ? C(0) : g * set.own(target);
    along(dx, set.n, [&](int from, int step, auto w, auto many, auto those) {
        constexpr int N = decltype(w)::count, M = decltype(many)::count;
        Vec<T, N> v[M], given[M]{};
        if (target >= 0) {
            GEMS_UNROLL for (int i = 0; i < M; i++) {
                if (!those.has(from + i * step)) continue;
                v[i] = load<N>(x + from + i * step);
                if constexpr (kProb) given[i] = load<N>((const T*)t + from + i * step);
            }
        }
        GEMS_UNROLL for (int i = 0; i < M; i++) {
            int c = from + i * step;
            if (!those.has(c)) continue;
            GEMS_UNROLL for (int k = 0; k < N; k++) {
                C r = 0;
                if (target >= 0) {
                    r = scale * exp_of(to_op(v[i].v[k]) - lse);
                    if constexpr (kMixed) r -= g * set.share(c + k, to_op(given[i].v[k]));
                    if constexpr (!kProb) r -= c + k == target ? own : C(0);
                }
                v[i].v[k] = from_op<T>(r);
            }
            store_stream<N>(dx + c, v[i]);
        }
    });
}
#endif

/* ---- rows in a fast program ---- */

#if !GRADIENT
GEMS_DI void fast_loss(int64_t row, const T* x, const Target* targets, int64_t apart, const Setting& set, const Results& to) {
    int64_t target = set.place(targets[kProb ? 0 : row]);
    const Target* t = targets + (kProb ? row * apart : 0);
    if (target < 0) return to.put(row, nothing<State>(), set, target, C(0));
    int n = set.n;
    Lanes<C> lanes;
    lanes.fill(-Limits<C>::inf());
    spans(0, n, [&](int c, auto w) {
        GEMS_IVDEP for (int k = 0; k < w.count; k++) lanes.v[k] = Larger{}(lanes.v[k], to_op(x[c + k]));
    });
    C top = lanes.fold(Larger{}), base = base_of(top);
    Two<C> both{0, 0};
    C sum = row_sum<C>(n, [&](int c) { return exp(to_op(x[c]) - base); });
    if constexpr (kMixed)
        both = row_sums<C>(n, [&](int c) {
            C y = set.share(c, kProb ? C(convert<C>(t[c])) : C(0));
            return Two<C>{y * (to_op(x[c]) - base), y};
        });
    to.put(row, state<State>(top, sum, both.a, both.b), set, target, to_op(x[target]));
}
#else
GEMS_DI void fast_gradient(int64_t row, const T* x, const Target* targets, int64_t apart, const Setting& set, T* dx, C lse,
                           C mass, C g) {
    int64_t target = set.place(targets[kProb ? 0 : row]);
    const Target* t = targets + (kProb ? row * apart : 0);
    if (target < 0) return row_map(dx, set.n, [&](int) { return C(0); });
    C scale = g * mass;
    auto value = [&](int c) {
        C r = scale * exp(to_op(x[c]) - lse);
        if constexpr (kMixed) r -= g * set.share(c, kProb ? C(convert<C>(t[c])) : C(0));
        return r;
    };
    row_map(dx, set.n, value);
    if constexpr (!kProb) dx[target] = from_op<T>(value((int)target) - g * set.own(target));
}
#endif

/* ---- columns ---- */

/* The row of the loss that a column at this offset is. */
GEMS_DI int64_t row_of(int64_t at, int n, int64_t inner) {
    int64_t block = at / (n * inner);
    return block * inner + (at - block * n * inner);
}

#if !GRADIENT
GEMS_DI void block_loss_columns(const T* x, const Target* targets, int64_t outer, int64_t inner, const Setting& set,
                                const Results& to) {
    constexpr int kAhead = 4;
    int n = set.n;
    each_column(outer, n, inner, [&](int64_t at, bool live) {
        State part[kVec];
        GEMS_UNROLL for (int k = 0; k < kVec; k++) part[k] = nothing<State>();
        int64_t row = live ? row_of(at, n, inner) : 0;
        auto some = [&](int r, auto w) {
            constexpr int N = decltype(w)::count;
            Vec<T, kVec> v[N], given[kProb ? N : 1];
            GEMS_UNROLL for (int q = 0; q < N; q++) {
                int64_t place = at + (r + q * (int64_t)blockDim.y) * inner;
                v[q] = load<kVec>(x + place);
                if constexpr (kProb) given[q] = load<kVec>((const T*)targets + place);
            }
            GEMS_UNROLL for (int k = 0; k < kVec; k++) {
                C e[N], y[N];
                GEMS_UNROLL for (int q = 0; q < N; q++) {
                    e[q] = to_op(v[q].v[k]);
                    y[q] = C(0);
                    if constexpr (kMixed) y[q] = set.share(r + q * (int)blockDim.y, kProb ? C(to_op(given[kProb ? q : 0].v[k])) : C(0));
                }
                take(part[k], e, y);
            }
        };
        int stop = live ? n : 0, by = (int)blockDim.y, r = (int)threadIdx.y;
        for (; r + (kAhead - 1) * by < stop; r += kAhead * by) some(r, Width<kAhead>{});
        for (; r < stop; r += by) some(r, Width<1>{});
        join_column(part, Join{});
        if (threadIdx.y == 0 && live) {
            GEMS_UNROLL for (int k = 0; k < kVec; k++) {
                int64_t target = set.place(targets[kProb ? 0 : row + k]);
                C e = kProb || target < 0 ? C(0) : C(to_op(x[at + k + target * inner]));
                to.put(row + k, part[k], set, target, e);
            }
        }
    });
}

GEMS_DI void fast_loss_columns(const T* x, const Target* targets, int64_t outer, int64_t inner, const Setting& set,
                               const Results& to) {
    int n = set.n;
    fast_columns(outer, n, inner, [&](int64_t at, auto w) {
        Lanes<C> top, sum, dot, mass;
        top.fill(-Limits<C>::inf());
        sum.fill(0);
        dot.fill(0);
        mass.fill(0);
        for (int r = 0; r < n; r++) {
            const T* p = x + at + r * inner;
            GEMS_IVDEP for (int k = 0; k < w.count; k++) top.v[k] = Larger{}(top.v[k], to_op(p[k]));
        }
        for (int r = 0; r < n; r++) {
            const T* p = x + at + r * inner;
            const Target* t = targets + (kProb ? at + r * inner : 0);
            GEMS_IVDEP for (int k = 0; k < w.count; k++) {
                C e = to_op(p[k]) - base_of(top.v[k]);
                sum.v[k] += exp(e);
                if constexpr (kMixed) {
                    C y = set.share(r, kProb ? C(convert<C>(t[k])) : C(0));
                    dot.v[k] += y * e;
                    mass.v[k] += y;
                }
            }
        }
        int64_t row = row_of(at, n, inner);
        for (int k = 0; k < w.count; k++) {
            State s = state<State>(top.v[k], sum.v[k], dot.v[k], mass.v[k]);
            int64_t target = set.place(targets[kProb ? 0 : row + k]);
            C e = kProb || target < 0 ? C(0) : C(to_op(x[at + k + target * inner]));
            to.put(row + k, s, set, target, e);
        }
    });
}
#else
/* What a column's gradient is made of. */
struct Column {
    C lse, scale, g, own;
    int target;
};
struct Gradients {
    const C* saved;
    const T* grad;
    int64_t rows, step; /* step: of grad, from row to row */
    GEMS_DI C of_row(int64_t row) const { return to_op(grad[row * step]) / saved[2 * rows]; }
    GEMS_DI Column column(const Setting& set, const Target* targets, int64_t row) const {
        int64_t target = set.place(targets[kProb ? 0 : row]);
        C g = of_row(row);
        if (target < 0) return Column{C(0), C(0), C(0), C(0), -1};
        return Column{saved[row], g * saved[rows + row], g, g * set.own(target), (int)target};
    }
};

/* An ignored column may hold a NaN. */
GEMS_DI C gradient_of(const Column& a, const Setting& set, int c, C x, C given) {
    C r = a.scale * exp(x - a.lse);
    if constexpr (kMixed) r -= a.g * set.share(c, given);
    if constexpr (!kProb) {
        r -= c == a.target ? a.own : C(0);
        r = a.target < 0 ? C(0) : r;
    }
    return r;
}

GEMS_DI void block_gradient_columns(const T* x, const Target* targets, T* dx, int64_t outer, int64_t inner,
                                    const Setting& set, const Gradients& from) {
    int n = set.n;
    each_column(outer, n, inner, [&](int64_t at, bool live) {
        if (!live) return;
        Column a[kVec];
        int64_t row = row_of(at, n, inner);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) a[k] = from.column(set, targets, row + k);
        for (int r = (int)threadIdx.y; r < n; r += (int)blockDim.y) {
            int64_t place = at + r * inner;
            Vec<T, kVec> v = load<kVec>(x + place), given{};
            if constexpr (kProb) given = load<kVec>((const T*)targets + place);
            GEMS_UNROLL for (int k = 0; k < kVec; k++)
                v.v[k] = from_op<T>(gradient_of(a[k], set, r, to_op(v.v[k]), to_op(given.v[k])));
            store_stream<kVec>(dx + place, v);
        }
    });
}

GEMS_DI void fast_gradient_columns(const T* x, const Target* targets, T* dx, int64_t outer, int64_t inner,
                                   const Setting& set, const Gradients& from) {
    int n = set.n;
    auto fix = [&](const Column& a, int64_t place) { /* the target, or an ignored column */
        if (a.target >= 0) {
            place += a.target * inner;
            dx[place] = from_op<T>(gradient_of(a, set, a.target, to_op(x[place]), C(0)));
        } else {
            for (int r = 0; r < n; r++) dx[place + r * inner] = from_op<T>(C(0));
        }
    };
    fast_columns(outer, n, inner, [&](int64_t at, auto w) {
        Lanes<C> lse, scale, g;
        Column a[kWide];
        int64_t row = row_of(at, n, inner);
        for (int k = 0; k < w.count; k++) {
            a[k] = from.column(set, targets, row + k);
            lse.v[k] = a[k].lse;
            scale.v[k] = a[k].scale;
            g.v[k] = a[k].g;
        }
        for (int r = 0; r < n; r++) {
            const T* p = x + at + r * inner;
            const Target* t = targets + (kProb ? at + r * inner : 0);
            T* q = dx + at + r * inner;
            GEMS_IVDEP for (int k = 0; k < w.count; k++) {
                C v = scale.v[k] * exp(to_op(p[k]) - lse.v[k]);
                if constexpr (kMixed) v -= g.v[k] * set.share(r, kProb ? C(convert<C>(t[k])) : C(0));
                q[k] = from_op<T>(v);
            }
        }
        if constexpr (!kProb) {
            for (int k = 0; k < w.count; k++) fix(a[k], at + k);
        }
    });
}
#endif

/* ---- entries. Rows of n elements, x_apart and t_apart from one to the next; columns: outer x n x inner elements. ---- */

#if !GRADIENT
extern "C" __global__ void __launch_bounds__(kThreads, kBeside)
loss(const T* __restrict__ x, const Target* __restrict__ targets, const T* __restrict__ weight, T* __restrict__ loss,
     Two<C>* __restrict__ lines, C* __restrict__ saved, int64_t outer, int32_t n, int64_t inner, int64_t x_apart,
     int64_t t_apart, int64_t ignored, double smoothing, int32_t* flag) {
    Setting set = make_setting(weight, ignored, smoothing, n, flag);
    Results to{loss, lines, saved, kColumns ? outer * inner : outer};
    if (!lines)
        if (blockIdx.x == 0 && threadIdx.x == 0 && threadIdx.y == 0) saved[2 * to.rows] = C(1);
    if constexpr (kColumns && kFast) fast_loss_columns(x, targets, outer, inner, set, to);
    else if constexpr (kColumns) block_loss_columns(x, targets, outer, inner, set, to);
    else
        each_row(outer, [&](int64_t row) {
            if constexpr (kFast) fast_loss(row, x + row * x_apart, targets, t_apart, set, to);
            else team_loss(row, x + row * x_apart, targets, t_apart, set, to);
        });
}

/* Adds the rows, or what several blocks made of them, in a fixed order: one block gives the loss. */
using Wide = either<kFast, double, C>;
struct Add {
    GEMS_DI Two<Wide> operator()(Two<Wide> a, Two<Wide> b) const { return Two<Wide>{a.a + b.a, a.b + b.b}; }
};
extern "C" __global__ void __launch_bounds__(256, 1)
total(const Two<C>* __restrict__ lines, Two<C>* __restrict__ partial, T* __restrict__ loss, C* __restrict__ divisor,
      int64_t count, int32_t mean) {
    __shared__ Two<Wide> buf[33];
    Two<Wide> sum{0, 0};
    GEMS_FOR_GRID(i, count) sum = Add{}(sum, Two<Wide>{Wide(lines[i].a), Wide(lines[i].b)});
    sum = block_reduce(sum, Add{}, buf);
    if (threadIdx.x) return;
    if (gridDim.x > 1) {
        partial[blockIdx.x] = Two<C>{C(sum.a), C(sum.b)};
        return;
    }
    loss[0] = from_op<T>(C(mean ? sum.a / sum.b : sum.a));
    divisor[0] = mean ? C(sum.b) : C(1);
}

#else
/* grad: of the loss. */
extern "C" __global__ void __launch_bounds__(kThreads, 1)
gradient(const T* __restrict__ x, const Target* __restrict__ targets, const T* __restrict__ weight, const T* __restrict__ grad,
         const C* __restrict__ saved, T* __restrict__ dx, int64_t outer, int32_t n, int64_t inner, int64_t x_apart,
         int64_t t_apart, int64_t dx_apart, int64_t step, int64_t ignored, double smoothing, int32_t* flag) {
    Setting set = make_setting(weight, ignored, smoothing, n, flag);
    Gradients from{saved, grad, kColumns ? outer * inner : outer, step};
    if constexpr (kColumns && kFast) fast_gradient_columns(x, targets, dx, outer, inner, set, from);
    else if constexpr (kColumns) block_gradient_columns(x, targets, dx, outer, inner, set, from);
    else
        each_row(outer, [&](int64_t row) {
            const T* xr = x + row * x_apart;
            T* to = dx + row * dx_apart;
            C lse = saved[row], mass = saved[from.rows + row], g = from.of_row(row);
            if constexpr (kFast) fast_gradient(row, xr, targets, t_apart, set, to, lse, mass, g);
            else team_gradient(row, xr, targets, t_apart, set, to, lse, mass, g);
        });
}
#endif
