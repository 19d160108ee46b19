/* batch_norm and its gradients. Data is planes ([sample][channel][plane]) or columns ([row][channel]). The head gives W (weight
 * and bias and running statistics), Stat (saved mean and deviation), kColumns, kEvaluation, Index, BACKWARD and what rows.cuh
 * and moments.cuh need, which come before this file.
 *
 * Runs of each channel are reduced to partial values, [run][channel]; `finish` joins these in order and leaves what the last
 * kernel multiplies with and adds, `factors`, a vector of channels each.
 */
struct Shape {
    int64_t samples;    /* planes: samples; columns: rows */
    int32_t channels, plane;
    int32_t units;      /* of a channel: planes: vectors (elements in the fast mode); columns: rows */
    int32_t run, runs;  /* units that are reduced together, and how many such runs there are */
    FastDiv in_plane;   /* vectors of a plane */
    FastDiv in_channels; /* planes: channels; columns: vectors of a row */
};

GEMS_DI int run_stop(const Shape& s) {
    int64_t stop = (int64_t)s.run * blockIdx.y + s.run;
    return stop < s.units ? (int)stop : s.units;
}

/* f(offset) for the vectors of a channel that are this thread's; offset(channel): of the element where the channel begins. */
template <class F> GEMS_DI void plane_vectors(const Shape& s, int channel, F f) {
    int stop = run_stop(s);
    for (int64_t i = (int64_t)s.run * blockIdx.y + threadIdx.x; i < stop; i += kThreads) {
        int sample, at;
        divmod((int)i, s.in_plane, sample, at);
        f(((int64_t)sample * s.channels + channel) * s.plane + (int64_t)at * kVec);
    }
}

/* f(offset, count) for the parts of planes in this block's run of a channel; in the fast mode. */
template <class F> GEMS_DI void plane_parts(const Shape& s, int channel, F f) {
    int i = s.run * (int)blockIdx.y, stop = run_stop(s);
    while (i < stop) {
        int sample = i / s.plane, at = i - sample * s.plane, count = s.plane - at;
        if (count > stop - i) count = stop - i;
        f(((int64_t)sample * s.channels + channel) * s.plane + at, count);
        i += count;
    }
}

/* f(column, width) for the tiles of columns that are this block's; in the fast mode. */
template <class F> GEMS_DI void column_tiles(const Shape& s, F f) {
    int tiles = (s.channels + kWide - 1) / kWide, chunk = (tiles + (int)gridDim.x - 1) / (int)gridDim.x;
    int first = chunk * (int)blockIdx.x * kWide, last = first + chunk * kWide;
    spans(first, last < s.channels ? last : s.channels, f);
}

/* f(channel, offset) for the channels of a vector's first element, over all vectors. */
template <class F> GEMS_DI void every_vector(const Shape& s, Index vectors, F f) {
    GEMS_FOR_GRID(i, vectors) {
        Index q, r;
        if constexpr (kColumns) {
            divmod(i, s.in_channels, q, r);
            f((int)r * kVec, (int64_t)i * kVec);
        } else {
            Index p;
            divmod(i, s.in_plane, p, r);
            divmod(p, s.in_channels, q, r);
            f((int)r, (int64_t)i * kVec);
        }
    }
}

template <class V> GEMS_DI C factor(const V* p, int channel, int k) { return p[channel + (kColumns ? k : 0)]; }

/* ---- in the fast mode: y[offset + k] = f(offset + k, channel) over all elements ---- */
template <class U, class F> GEMS_DI void map_all(const Shape& s, U* y, F f) {
    if constexpr (kColumns) {
        each_row(s.samples, [&](int64_t row) {
            int64_t from = row * s.channels;
            row_map(y + from, s.channels, [&](int c) { return f(from + c, c); });
        });
    } else if (s.plane < 16) {
        each_row(s.samples, [&](int64_t row) {
            for (int channel = 0; channel < s.channels; channel++) {
                int64_t from = (row * s.channels + channel) * s.plane;
                for (int k = 0; k < s.plane; k++) y[from + k] = from_op<U>(f(from + k, channel));
            }
        });
    } else {
        each_row(s.samples * s.channels, [&](int64_t row) {
            int channel = (int)(row % s.channels);
            int64_t from = row * s.plane;
            row_map(y + from, s.plane, [&](int c) { return f(from + c, channel); });
        });
    }
}

#if !BACKWARD
/* partial[run][channel]: the moments of a run, their means from a base on, and in partial[runs][channel] that base as a mean.
 * In the fast mode it is 0. */
GEMS_DI void fast_stats(const T* x, Moments* partial, const Shape& s) {
    Moments *to = partial + (int64_t)blockIdx.y * s.channels, *bases = partial + (int64_t)s.runs * s.channels;
    if constexpr (kColumns) {
        int64_t from = (int64_t)s.run * blockIdx.y, stop = run_stop(s);
        column_tiles(s, [&](int column, auto w) {
            Lanes<C> mean, sum, squares;
            mean.fill(0);
            sum.fill(0);
            squares.fill(0);
            for (int64_t row = from; row < stop; row++) {
                const T* p = x + row * s.channels + column;
                GEMS_IVDEP for (int k = 0; k < w.count; k++)
                    mean.v[k] += to_op(p[k]);
            }
            C count = C(stop - from), share = C(1) / count;
            for (int k = 0; k < w.count; k++) mean.v[k] *= share;
            for (int64_t row = from; row < stop; row++) {
                const T* p = x + row * s.channels + column;
                GEMS_IVDEP for (int k = 0; k < w.count; k++) {
                    C d = to_op(p[k]) - mean.v[k];
                    sum.v[k] += d;
                    squares.v[k] += d * d;
                }
            }
            for (int k = 0; k < w.count; k++) {
                to[column + k] = corrected(count, mean.v[k], sum.v[k], squares.v[k]);
                if (blockIdx.y == 0) bases[column + k] = Moments{0, 0, 0};
            }
        });
    } else {
        each_row(s.channels, [&](int64_t row) {
            int channel = (int)row;
            Lanes<C> sum, squares;
            sum.fill(0);
            C count = C(run_stop(s) - s.run * (int)blockIdx.y);
            plane_parts(s, channel, [&](int64_t at, int n) {
                const T* p = x + at;
                spans(0, n, [&](int c, auto w) {
                    GEMS_IVDEP for (int k = 0; k < w.count; k++)
                        sum.v[k] += to_op(p[c + k]);
                });
            });
            C mean = sum.fold(Sum{}) / count;
            sum.fill(0);
            squares.fill(0);
            plane_parts(s, channel, [&](int64_t at, int n) {
                const T* p = x + at;
                spans(0, n, [&](int c, auto w) {
                    GEMS_IVDEP for (int k = 0; k < w.count; k++) {
                        C d = to_op(p[c + k]) - mean;
                        sum.v[k] += d;
                        squares.v[k] += d * d;
                    }
                });
            });
            to[channel] = corrected(count, mean, sum.fold(Sum{}), squares.fold(Sum{}));
            if (blockIdx.y == 0) bases[channel] = Moments{0, 0, 0};
        });
    }
}

GEMS_DI void block_stats(const T* x, Moments* partial, const Shape& s) {
    Moments *to = partial + (int64_t)blockIdx.y * s.channels, *bases = partial + (int64_t)s.runs * s.channels;
    Running<kVec> own;
    C base[kVec];
    if constexpr (kColumns) {
        __shared__ Moments buf[kThreads];
        int column = (int)(blockIdx.x * blockDim.x + threadIdx.x) * kVec;
        int64_t row = (int64_t)s.run * blockIdx.y + threadIdx.y, stop = run_stop(s);
        own.clear();
        if (column < s.channels) {
            Vec<T, kVec> v = load<kVec>(x + column);
            GEMS_UNROLL for (int k = 0; k < kVec; k++) base[k] = base_of(v.v[k]);
            for (; row < stop; row += blockDim.y) own.take(load<kVec>(x + row * s.channels + column), base);
        }
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            Moments all = fold_down(Moments{own.count, own.mean[k], own.m2[k]}, JoinMoments{}, buf);
            if (threadIdx.y == 0 && column < s.channels) {
                to[column + k] = all;
                if (blockIdx.y == 0) bases[column + k] = Moments{0, base[k], 0};
            }
        }
    } else {
        __shared__ Moments buf[33];
        for (int channel = (int)blockIdx.x; channel < s.channels; channel += (int)gridDim.x) {
            GEMS_UNROLL for (int k = 0; k < kVec; k++) base[k] = base_of(x[(int64_t)channel * s.plane]);
            own.clear();
            plane_vectors(s, channel, [&](int64_t at) { own.take(load<kVec>(x + at), base); });
            Moments all = block_reduce(own.joined(), JoinMoments{}, buf);
            if (threadIdx.x == 0) {
                to[channel] = all;
                if (blockIdx.y == 0) bases[channel] = Moments{0, base[0], 0};
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1) stats(const T* __restrict__ x, Moments* __restrict__ partial, Shape s) {
    if constexpr (kFast) fast_stats(x, partial, s);
    else block_stats(x, partial, s);
}

GEMS_DI void set_factors(C* factors, const W* weight, const W* bias, int channels, int c, C mean, C invstd) {
    factors[c] = mean;
    factors[channels + c] = weight ? invstd * convert<C>(weight[c]) : invstd;
    factors[2 * channels + c] = bias ? convert<C>(bias[c]) : C(0);
}

/* Joins the runs of each channel; saves mean and deviation, moves the running statistics. */
extern "C" __global__ void __launch_bounds__(kThreads, 1)
finish(const Moments* __restrict__ partial, const W* weight, const W* bias, W* running_mean, W* running_var, Stat* save_mean,
       Stat* save_invstd, C* __restrict__ factors, int32_t channels, int32_t runs, double momentum, double eps) {
    GEMS_FOR_GRID(c, channels) {
        Moments all = partial[c];
        for (int i = 1; i < runs; i++) all = JoinMoments{}(all, partial[(int64_t)i * channels + c]);
        all.mean += partial[(int64_t)runs * channels + c].mean;
        C invstd = C(1) / sqrt(all.m2 / all.count + C(eps)), m = C(momentum);
        set_factors(factors, weight, bias, channels, c, all.mean, invstd);
        save_mean[c] = convert<Stat>(all.mean);
        save_invstd[c] = convert<Stat>(invstd);
        if (running_mean) running_mean[c] = convert<W>(m * all.mean + (C(1) - m) * convert<C>(running_mean[c]));
        if (running_var)
            running_var[c] = convert<W>(m * (all.m2 / (all.count - C(1))) + (C(1) - m) * convert<C>(running_var[c]));
    }
}

/* The factors from running statistics; those are saved where save_mean is not NULL. */
extern "C" __global__ void __launch_bounds__(kThreads, 1)
prepare(const W* running_mean, const W* running_var, const W* weight, const W* bias, Stat* save_mean, Stat* save_invstd,
        C* __restrict__ factors, int32_t channels, double eps) {
    GEMS_FOR_GRID(c, channels) {
        C mean = convert<C>(running_mean[c]), invstd = C(1) / sqrt(convert<C>(running_var[c]) + C(eps));
        set_factors(factors, weight, bias, channels, c, mean, invstd);
        if (save_mean) {
            save_mean[c] = convert<Stat>(mean);
            save_invstd[c] = convert<Stat>(invstd);
        }
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
apply(const T* __restrict__ x, const C* __restrict__ factors, T* __restrict__ y, Shape s, Index vectors) {
    const C *mean = factors, *scale = factors + s.channels, *shift = factors + 2 * s.channels;
    if constexpr (kFast) {
        map_all(s, y, [&](int64_t i, int c) { return (to_op(x[i]) - mean[c]) * scale[c] + shift[c]; });
    } else {
        every_vector(s, vectors, [&](int c, int64_t at) {
            Vec<T, kVec> v = load<kVec>(x + at);
            GEMS_UNROLL for (int k = 0; k < kVec; k++)
                v.v[k] = from_op<T>((to_op(v.v[k]) - factor(mean, c, k)) * factor(scale, c, k) + factor(shift, c, k));
            store<kVec>(y + at, v);
        });
    }
}

#else
/* The sums of gradient * (x - mean) and of the gradient. */
GEMS_DI void fast_sums(const T* g, const T* x, const Stat* mean, Two<C>* partial, const Shape& s) {
    Two<C>* to = partial + (int64_t)blockIdx.y * s.channels;
    if constexpr (kColumns) {
        int64_t from = (int64_t)s.run * blockIdx.y, stop = run_stop(s);
        column_tiles(s, [&](int column, auto w) {
            Lanes<C> a, b, m;
            a.fill(0);
            b.fill(0);
            for (int k = 0; k < w.count; k++) m.v[k] = convert<C>(mean[column + k]);
            for (int64_t row = from; row < stop; row++) {
                const T *p = g + row * s.channels + column, *q = x + row * s.channels + column;
                GEMS_IVDEP for (int k = 0; k < w.count; k++) {
                    C d = to_op(p[k]);
                    a.v[k] += d * (to_op(q[k]) - m.v[k]);
                    b.v[k] += d;
                }
            }
            for (int k = 0; k < w.count; k++) to[column + k] = {a.v[k], b.v[k]};
        });
    } else {
        each_row(s.channels, [&](int64_t row) {
            int channel = (int)row;
            Lanes<C> a, b;
            a.fill(0);
            b.fill(0);
            C m = convert<C>(mean[channel]);
            plane_parts(s, channel, [&](int64_t at, int n) {
                const T *p = g + at, *q = x + at;
                spans(0, n, [&](int c, auto w) {
                    GEMS_IVDEP for (int k = 0; k < w.count; k++) {
                        C d = to_op(p[c + k]);
                        a.v[k] += d * (to_op(q[c + k]) - m);
                        b.v[k] += d;
                    }
                });
            });
            to[channel] = {a.fold(Sum{}), b.fold(Sum{})};
        });
    }
}

GEMS_DI void block_sums(const T* g, const T* x, const Stat* mean, Two<C>* partial, const Shape& s) {
    Two<C>* to = partial + (int64_t)blockIdx.y * s.channels;
    Two<C> own[kVec];
    C m[kVec];
    auto take = [&](int64_t at) {
        Vec<T, kVec> a = load<kVec>(g + at), b = load<kVec>(x + at);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            C d = to_op(a.v[k]);
            own[k].a += d * (to_op(b.v[k]) - m[k]);
            own[k].b += d;
        }
    };
    if constexpr (kColumns) {
        __shared__ Two<C> buf[kThreads];
        int column = (int)(blockIdx.x * blockDim.x + threadIdx.x) * kVec;
        int64_t row = (int64_t)s.run * blockIdx.y + threadIdx.y, stop = run_stop(s);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            own[k] = {0, 0};
            m[k] = column < s.channels ? convert<C>(mean[column + k]) : C(0);
        }
        if (column < s.channels)
            for (; row < stop; row += blockDim.y) take(row * s.channels + column);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            Two<C> all = fold_down(own[k], SumTwo{}, buf);
            if (threadIdx.y == 0 && column < s.channels) to[column + k] = all;
        }
    } else {
        __shared__ Two<C> buf[33];
        for (int channel = (int)blockIdx.x; channel < s.channels; channel += (int)gridDim.x) {
            GEMS_UNROLL for (int k = 0; k < kVec; k++) {
                own[k] = {0, 0};
                m[k] = convert<C>(mean[channel]);
            }
            plane_vectors(s, channel, take);
            Two<C> all = block_reduce(lane_reduce(own, SumTwo{}), SumTwo{}, buf);
            if (threadIdx.x == 0) to[channel] = all;
        }
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
sums(const T* __restrict__ g, const T* __restrict__ x, const Stat* __restrict__ mean, Two<C>* __restrict__ partial, Shape s) {
    if constexpr (kFast) fast_sums(g, x, mean, partial, s);
    else block_sums(g, x, mean, partial, s);
}

/* deviation: the reciprocal one of a training call, else the running variance. runs may be 0: nothing was summed. */
extern "C" __global__ void __launch_bounds__(kThreads, 1)
finish(const Two<C>* __restrict__ partial, const W* weight, const Stat* mean, const Stat* deviation, W* dweight, W* dbias,
       C* __restrict__ factors, int32_t channels, int32_t runs, double count, double eps) {
    GEMS_FOR_GRID(c, channels) {
        Two<C> all{0, 0};
        for (int i = 0; i < runs; i++) all = SumTwo{}(all, partial[(int64_t)i * channels + c]);
        C invstd = convert<C>(deviation[c]);
        if constexpr (kEvaluation) invstd = C(1) / sqrt(invstd + C(eps));
        C product = all.a * invstd;
        if (dweight) dweight[c] = convert<W>(product);
        if (dbias) dbias[c] = convert<W>(all.b);
        factors[c] = convert<C>(mean[c]);
        factors[channels + c] = weight ? invstd * convert<C>(weight[c]) : invstd;
        factors[2 * channels + c] = all.b / C(count);
        factors[3 * channels + c] = product / C(count) * invstd;
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
inputs(const T* __restrict__ g, const T* __restrict__ x, const C* __restrict__ factors, T* __restrict__ dx, Shape s,
       Index vectors) {
    const C *mean = factors, *scale = factors + s.channels, *first = scale + s.channels, *second = first + s.channels;
    if constexpr (kFast) {
        map_all(s, dx, [&](int64_t i, int c) {
            if constexpr (kEvaluation) return to_op(g[i]) * scale[c];
            else return (to_op(g[i]) - first[c] - (to_op(x[i]) - mean[c]) * second[c]) * scale[c];
        });
    } else {
        every_vector(s, vectors, [&](int c, int64_t at) {
            Vec<T, kVec> a = load<kVec>(g + at);
            if constexpr (kEvaluation) {
                GEMS_UNROLL for (int k = 0; k < kVec; k++) a.v[k] = from_op<T>(to_op(a.v[k]) * factor(scale, c, k));
            } else {
                Vec<T, kVec> b = load<kVec>(x + at);
                GEMS_UNROLL for (int k = 0; k < kVec; k++) {
                    C d = to_op(a.v[k]) - factor(first, c, k) - (to_op(b.v[k]) - factor(mean, c, k)) * factor(second, c, k);
                    a.v[k] = from_op<T>(d * factor(scale, c, k));
                }
            }
            store<kVec>(dx + at, a);
        });
    }
}
#endif
