/* Gradients of group_norm. With d = gradient * weight and h = (x - mean) * rstd, the gradient of a row (one group of one
 * sample) is rstd * (d - mean(d) - h * mean(d * h)). `sums` leaves for every channel of every sample the sums of the gradient
 * and of gradient * h; `inputs` makes the means of them, `weights` adds them over the samples.
 */
enum { kDivided, kWholeVector, kColumn };

#if SUMS
/* Rows are channels of samples here, n elements each. */
GEMS_DI void team_sums(const T* g, const T* x, C mean, C rstd, C* dh, C* db, int n) {
    __shared__ Two<C> buf[33];
    Two<C> part[kVec];
    GEMS_UNROLL for (int k = 0; k < kVec; k++) part[k] = {0, 0};
    each_vector(n, [&](int, int c) {
        Vec<T, kVec> a = load<kVec>(g + c), b = load<kVec>(x + c);
        GEMS_UNROLL for (int k = 0; k < kVec; k++) {
            C d = to_op(a.v[k]);
            part[k].a += d * ((to_op(b.v[k]) - mean) * rstd);
            part[k].b += d;
        }
    });
    Two<C> sum = team_reduce(lane_reduce(part, SumTwo{}), SumTwo{}, buf);
    if (team_lane() == 0) {
        *dh = sum.a;
        *db = sum.b;
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
sums(const T* __restrict__ g, const T* __restrict__ x, const Stat* __restrict__ mean, const Stat* __restrict__ rstd,
     C* __restrict__ dh, C* __restrict__ db, int64_t rows, int32_t n, int32_t planes) {
    each_row(rows, [&](int64_t row) {
        C m = convert<C>(mean[row / planes]), r = convert<C>(rstd[row / planes]);
        const T *gr = g + row * n, *xr = x + row * n;
        if constexpr (kFast) {
            if (n < 8) { // a loop of its own: too short to be set up as vectors
                C a = 0, b = 0;
                for (int c = 0; c < n; c++) {
                    a += to_op(gr[c]) * ((to_op(xr[c]) - m) * r);
                    b += to_op(gr[c]);
                }
                dh[row] = a;
                db[row] = b;
                return;
            }
            Two<C> sum = row_sums<C>(n, [&](int c) {
                C d = to_op(gr[c]);
                return Two<C>{d * ((to_op(xr[c]) - m) * r), d};
            });
            dh[row] = sum.a;
            db[row] = sum.b;
        } else {
            team_sums(gr, xr, m, r, dh + row, db + row, n);
        }
    });
}

/* The gradients of weight and bias: the sums over samples. */
extern "C" __global__ void __launch_bounds__(256, 1)
weights(const C* __restrict__ dh, const C* __restrict__ db, W* dweight, W* dbias, int64_t samples, int32_t channels) {
    auto write = [&](int c, C w, C b) {
        if (dweight) dweight[c] = convert<W>(w);
        if (dbias) dbias[c] = convert<W>(b);
    };
    if constexpr (kFast) {
        GEMS_FOR_GRID(c, channels) {
            C w = 0, b = 0;
            for (int64_t i = 0; i < samples; i++) {
                w += dh[i * channels + c];
                b += db[i * channels + c];
            }
            write(c, w, b);
        }
    } else {
        __shared__ Two<C> buf[256];
        int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
        Two<C> sum{0, 0};
        if (c < channels)
            for (int64_t i = threadIdx.y; i < samples; i += blockDim.y) {
                sum.a += dh[i * channels + c];
                sum.b += db[i * channels + c];
            }
        sum = fold_down(sum, SumTwo{}, buf);
        if (threadIdx.y == 0 && c < channels) write(c, sum.a, sum.b);
    }
}

#else
GEMS_DI int channel_of(int column, FastDiv plane) {
    if constexpr (kChannel == kColumn) return column;
    int q, r;
    divmod(column, plane, q, r);
    return q;
}

GEMS_DI C weight_at(const W* weight, int channel) {
    if constexpr (kWeight) return convert<C>(weight[channel]);
    else return C(1);
}

/* The sums over a row of d * h and of d. */
GEMS_DI Two<C> row_totals(const W* weight, const C* dh, const C* db, int planes) {
    Two<C> sum{0, 0};
    if constexpr (kFast) {
        return row_sums<C>(planes, [&](int c) {
            C w = weight_at(weight, c);
            return Two<C>{w * dh[c], w * db[c]};
        });
    } else {
        __shared__ Two<C> buf[33];
        for (int c = team_lane(); c < planes; c += team_size()) {
            C w = weight_at(weight, c);
            sum.a += w * dh[c];
            sum.b += w * db[c];
        }
        return team_reduce(sum, SumTwo{}, buf);
    }
}

extern "C" __global__ void __launch_bounds__(kThreads, 1)
inputs(const T* __restrict__ g, const T* __restrict__ x, const Stat* __restrict__ mean, const Stat* __restrict__ rstd,
       const W* __restrict__ weight, const C* __restrict__ dh, const C* __restrict__ db, T* __restrict__ dx, int64_t rows,
       int32_t n, int32_t groups, int32_t planes, FastDiv plane) {
    each_row(rows, [&](int64_t row) {
        C m = convert<C>(mean[row]), r = convert<C>(rstd[row]);
        const T *gr = g + row * n, *xr = x + row * n;
        const W* w = kWeight ? weight + row % groups * planes : weight;
        Two<C> sum = row_totals(w, dh + row * planes, db + row * planes, planes);
        C second = sum.a / C(n), first = sum.b / C(n);
        T* to = dx + row * n;
        if constexpr (kFast) {
            int size = (int)plane.d;
            if (kChannel == kColumn || size < 16) {
                row_map(to, n, [&](int c) {
                    C d = to_op(gr[c]) * weight_at(w, kWeight ? channel_of(c, plane) : 0);
                    return r * (d - first - (to_op(xr[c]) - m) * r * second);
                });
            } else {
                for (int from = 0, channel = 0; from < n; from += size, channel++) {
                    C scale = weight_at(w, channel);
                    const T *a = gr + from, *b = xr + from;
                    row_map(to + from, size, [&](int c) {
                        return r * (to_op(a[c]) * scale - first - (to_op(b[c]) - m) * r * second);
                    });
                }
            }
        } else {
            each_vector(n, [&](int, int c) {
                Vec<T, kVec> a = load<kVec>(gr + c), b = load<kVec>(xr + c);
                C scale = kChannel == kWholeVector ? weight_at(w, kWeight ? channel_of(c, plane) : 0) : C(1);
                GEMS_UNROLL for (int k = 0; k < kVec; k++) {
                    if constexpr (kWeight && kChannel != kWholeVector) scale = weight_at(w, channel_of(c + k, plane));
                    C d = to_op(a.v[k]) * scale;
                    a.v[k] = from_op<T>(r * (d - first - (to_op(b.v[k]) - m) * r * second));
                }
                store<kVec>(to + c, a);
            });
        }
    });
}
#endif
