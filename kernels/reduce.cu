/* Reductions over any set of dimensions; what is accumulated stands in reduce_values.cuh.
 *
 * The program's head also gives kRow, kVec (elements of one access; 1: any strides) and kGroup (threads of one row, 0: the
 * block).
 *
 * Row form: the reduced dimensions are inside; a group of threads or a block reads one row. Column form: the kept dimensions
 * are inside; a thread reads kVec columns, threadIdx.y takes every blockDim.y-th element. In both gridDim.y blocks
 * may share the reduced elements: each leaves a partial result, and `finish` joins those in order.
 */
using namespace gems;

/* Where a result goes: to the output, or to the partial results when several blocks share a row. */
struct Target {
    Out* y;
    void* where;
    Acc* partial;
    double number;
    int64_t kept;
    GEMS_DI void put(Index place, Index out, Acc a, Val base = Val(0)) const {
        if (gridDim.y > 1) partial[blockIdx.y * kept + place] = a;
        else write(y, where, out, based(a, base), number);
    }
};

/* ---- one thread's part of a row, threads as on a GPU ---- */

template <int N> GEMS_DI Acc fold(Acc (&a)[N]) {
    GEMS_UNROLL for (int h = N / 2; h > 0; h /= 2) {
        GEMS_UNROLL for (int k = 0; k < N / 2; k++)
            if (k < h) a[k] = join(a[k], a[k + h]);
    }
    return a[0];
}

/* Loads this many vectors before it uses them. */
constexpr int kAhead = 4;
constexpr int kAccs = kMoments ? 1 : kVec; /* accumulators of a thread; moments of many values are found at once */

/* N vectors of a row, the first at `place`, each `apart` from the last. */
template <int N> GEMS_DI void take(Acc (&a)[kAccs], const Fetched<kVec> (&v)[N], Index place, Index apart, Val base) {
    if constexpr (kMoments) {
        Val e[N * kVec];
        GEMS_UNROLL for (int q = 0; q < N; q++) {
            GEMS_UNROLL for (int k = 0; k < kVec; k++) e[q * kVec + k] = element(v[q].at(k)) - base;
        }
        a[0] = join(a[0], moments<Acc>(e));
    } else {
        GEMS_UNROLL for (int q = 0; q < N; q++) {
            GEMS_UNROLL for (int k = 0; k < kVec; k++) step(a[k], v[q].at(k), place + q * apart + k, base);
        }
    }
}

GEMS_DI Acc row_part(From p, const Shape& s, Index begin, Index end, int lane, int lanes, Val base) {
    Acc a[kAccs];
    GEMS_UNROLL for (int k = 0; k < kAccs; k++) a[k] = identity();
    Index i = begin;
    if constexpr (kVec > 1 && kSimple) { /* up to the first aligned element */
        int past = (int)(address(p + begin) / sizeof(In) % kVec);
        Index head = past ? kVec - past : 0;
        if (head > end - begin) head = end - begin;
        for (Index j = begin + lane; j < begin + head; j += lanes) step(a[0], p[j], j, base);
        i += head;
    }
    /* All lanes go through as many batches, so that those of a warp stay together. */
    const Index units = (end - i) / kVec, whole = units / (kAhead * lanes) * (kAhead * lanes);
    Index u = lane;
    for (; u < whole; u += kAhead * lanes) {
        Fetched<kVec> v[kAhead];
        GEMS_UNROLL for (int q = 0; q < kAhead; q++) v[q] = fetch<kVec>(p + reduced_offset(s, i + (u + q * lanes) * kVec));
        take(a, v, i + u * kVec, lanes * kVec, base);
    }
    if (u < units) { /* a part of one is left */
        Fetched<kVec> v[kAhead][1];
        GEMS_UNROLL for (int q = 0; q < kAhead; q++)
            if (u + q * lanes < units) v[q][0] = fetch<kVec>(p + reduced_offset(s, i + (u + q * lanes) * kVec));
        GEMS_UNROLL for (int q = 0; q < kAhead; q++)
            if (u + q * lanes < units) take(a, v[q], i + (u + q * lanes) * kVec, 0, base);
    }
    Acc all = fold(a);
    if constexpr (kVec > 1 && kSimple) {
        Acc last = identity();
        for (Index j = i + units * kVec + lane; j < end; j += lanes) step(last, p[j], j, base);
        all = join(all, last);
    }
    return all;
}

GEMS_DI void block_rows(From x, const Target& target, const Shape& s, Index begin, Index end) {
    __shared__ Acc buf[33];
    int lanes = kGroup ? kGroup : (int)blockDim.x;
    int lane = (int)threadIdx.x % lanes, group = (int)threadIdx.x / lanes, groups = (int)blockDim.x / lanes;
    for (int64_t first = (int64_t)blockIdx.x * groups; first < s.kept; first += (int64_t)gridDim.x * groups) {
        int64_t place = first + group;
        Acc a = identity();
        Index in = 0, out = 0;
        Val base = Val(0);
        if (place < s.kept) {
            kept_offsets(s, (Index)place, in, out);
            if (kMoments && s.reduced) base = base_of(x[in]);
            a = row_part(x + in, s, begin, end, lane, lanes, base);
        }
        if constexpr (kGroup == 0) {
            a = block_reduce(a, Join{}, buf);
        } else {
            GEMS_UNROLL for (int m = kGroup / 2; m > 0; m /= 2) a = join(a, shuffle_xor(a, m));
        }
        if (lane == 0 && place < s.kept) target.put((Index)place, out, a, base);
    }
}

/* Joins the accumulators of the threads with the same threadIdx.x, in order; valid where threadIdx.y is 0. */
template <int N> GEMS_DI void join_down(Acc (&a)[N], Acc* buf) {
    int bx = blockDim.x, by = blockDim.y, tx = threadIdx.x, ty = threadIdx.y;
    if (by == 1) return;
    __syncthreads();
    GEMS_UNROLL for (int k = 0; k < N; k++) buf[(k * by + ty) * bx + tx] = a[k];
    for (int h = by / 2; h > 0; h /= 2) {
        __syncthreads();
        if (ty < h) {
            GEMS_UNROLL for (int k = 0; k < N; k++) {
                Acc* at = buf + (k * by + ty) * bx + tx;
                *at = join(*at, at[h * bx]);
            }
        }
    }
    if (ty == 0) {
        GEMS_UNROLL for (int k = 0; k < N; k++) a[k] = buf[k * by * bx + tx];
    }
}

GEMS_DI void block_columns(From x, const Target& target, const Shape& s, Index begin, Index end) {
    GEMS_DYN_SMEM(Acc, buf);
    int64_t units = s.kept / kVec;
    for (int64_t first = (int64_t)blockIdx.x * blockDim.x; first < units; first += (int64_t)gridDim.x * blockDim.x) {
        int64_t unit = first + threadIdx.x;
        Acc a[kVec];
        Val base[kVec];
        Index in = 0, out = 0;
        GEMS_UNROLL for (int k = 0; k < kVec; k++) a[k] = identity(), base[k] = Val(0);
        if (unit < units) {
            kept_offsets(s, (Index)(unit * kVec), in, out);
            if (kMoments && s.reduced) {
                Fetched<kVec> v = fetch<kVec>(x + in);
                GEMS_UNROLL for (int k = 0; k < kVec; k++) base[k] = base_of(v.at(k));
            }
            Index r = begin + (Index)threadIdx.y, by = (Index)blockDim.y;
            for (; r + (kAhead - 1) * by < end; r += kAhead * by) {
                Fetched<kVec> v[kAhead];
                GEMS_UNROLL for (int q = 0; q < kAhead; q++) v[q] = fetch<kVec>(x + in + reduced_offset(s, r + q * by));
                if constexpr (kMoments) {
                    GEMS_UNROLL for (int k = 0; k < kVec; k++) {
                        Val e[kAhead];
                        GEMS_UNROLL for (int q = 0; q < kAhead; q++) e[q] = element(v[q].at(k)) - base[k];
                        a[k] = join(a[k], moments<Acc>(e));
                    }
                } else {
                    GEMS_UNROLL for (int q = 0; q < kAhead; q++) {
                        GEMS_UNROLL for (int k = 0; k < kVec; k++) step(a[k], v[q].at(k), r + q * by, base[k]);
                    }
                }
            }
            for (; r < end; r += by) {
                Fetched<kVec> v = fetch<kVec>(x + in + reduced_offset(s, r));
                GEMS_UNROLL for (int k = 0; k < kVec; k++) step(a[k], v.at(k), r, base[k]);
            }
        }
        join_down(a, buf);
        if (threadIdx.y == 0 && unit < units) {
            GEMS_UNROLL for (int k = 0; k < kVec; k++)
                target.put((Index)(unit * kVec + k), out + k * (Index)s.kept_out[0], a[k], base[k]);
        }
    }
}

/* ---- one thread a block ---- */

/* Many accumulators beside each other, so that loops over them become vector instructions; a sum is flushed to `high` now
 * and then, which keeps its error that of a sum of short sums. */
constexpr int kFlush = 128;

template <int W> struct Lanes {
    Val v[W];
    Index i[kPair ? W : 1];
    GEMS_DI void clear() {
        for (int k = 0; k < W; k++) v[k] = identity_value();
        if constexpr (kPair)
            for (int k = 0; k < W; k++) i[k] = Limits<Index>::max();
    }
    /* One loop over all lanes: the compiler makes vectors of it, where it would unroll a short one. */
    GEMS_DI void take(From p, Index stride, Index place) {
        GEMS_IVDEP for (int k = 0; k < W; k++) {
            Val b = element(p[k * stride]);
            if constexpr (kPair) {
                bool better = beats(b, v[k]) | (i[k] == Limits<Index>::max());
                v[k] = better ? b : v[k];
                i[k] = better ? place : i[k];
            } else {
                v[k] = join_values(v[k], b);
            }
        }
    }
    GEMS_DI void join(const Lanes& b) {
        GEMS_IVDEP for (int k = 0; k < W; k++) v[k] = join_values(v[k], b.v[k]);
    }
    GEMS_DI Val fold() {
        Val t[W];
        for (int k = 0; k < W; k++) t[k] = v[k];
        for (int h = W / 2; h > 0; h /= 2) {
            GEMS_IVDEP for (int k = 0; k < h; k++) t[k] = join_values(t[k], t[k + h]);
        }
        return t[0];
    }
};

/* The value of n elements side by side; p moves on, what does not fill W elements is left. */
template <int W> GEMS_DI Val run_lanes(From& p, Index& n) {
    Lanes<W> high;
    high.clear();
    while (n >= W) {
        Index blocks = n / W < kFlush ? n / W : kFlush;
        Lanes<W> low;
        low.clear();
        for (Index b = 0; b < blocks; b++) low.take(p + b * W, 1, 0);
        high.join(low);
        p += blocks * W;
        n -= blocks * W;
    }
    return high.fold();
}

GEMS_DI Val run_values(From p, Index n, Index stride) {
    Val a = identity_value();
    if constexpr (kVec > 1) {
        if (n >= 4 * kVec) a = run_lanes<4 * kVec>(p, n);
        /* Not with 8 lanes: GCC 12 unrolls those and then makes wrong code where they are wider than the elements. */
        if constexpr (kVec >= 16)
            if (n >= kVec) a = join_values(a, run_lanes<kVec>(p, n));
        for (Index i = 0; i < n; i++) a = join_values(a, element(p[i]));
    } else {
        constexpr int W = 8;
        Val high[W], low[W];
        for (int k = 0; k < W; k++) high[k] = identity_value();
        Index i = 0;
        while (i + W <= n) {
            Index stop = n - i < kFlush * W ? n : i + kFlush * W;
            for (int k = 0; k < W; k++) low[k] = identity_value();
            for (; i + W <= stop; i += W) {
                for (int k = 0; k < W; k++) low[k] = join_values(low[k], element(p[(i + k) * stride]));
            }
            for (int k = 0; k < W; k++) high[k] = join_values(high[k], low[k]);
        }
        for (; i < n; i++) high[0] = join_values(high[0], element(p[i * stride]));
        for (int k = 0; k < W; k++) a = join_values(a, high[k]);
    }
    return a;
}

/* Sums of the distances from `middle`, and of their squares. */
template <int W> GEMS_DI void add_distances(From p, Index n, Index stride, Val middle, Val& first, Val& second) {
    Val a[W], b[W];
    for (int k = 0; k < W; k++) a[k] = b[k] = Val(0);
    Index i = 0;
    for (; i + W <= n; i += W) {
        GEMS_IVDEP for (int k = 0; k < W; k++) {
            Val d = element(p[(i + k) * stride]) - middle;
            a[k] += d;
            b[k] += d * d;
        }
    }
    for (; i < n; i++) {
        Val d = element(p[i * stride]) - middle;
        a[0] += d;
        b[0] += d * d;
    }
    for (int h = W / 2; h > 0; h /= 2) {
        GEMS_IVDEP for (int k = 0; k < h; k++) a[k] += a[k + h], b[k] += b[k + h];
    }
    first = a[0];
    second = b[0];
}

/* Pieces that stay in the nearest cache are read twice, as in moments(). */
template <int W> GEMS_DI Acc run_moments(From p, Index n, Index stride) {
    constexpr Index kPiece = 1024;
    Acc all = identity();
    for (Index i = 0; i < n; i += kPiece) {
        Index m = n - i < kPiece ? n - i : kPiece;
        Val sum[W], first, second;
        for (int k = 0; k < W; k++) sum[k] = Val(0);
        From at = p + i * stride;
        Index j = 0;
        for (; j + W <= m; j += W) {
            GEMS_IVDEP for (int k = 0; k < W; k++) sum[k] += element(at[(j + k) * stride]) * (Val(1) / Val(kPiece));
        }
        for (; j < m; j++) sum[0] += element(at[j * stride]) * (Val(1) / Val(kPiece));
        for (int h = W / 2; h > 0; h /= 2) {
            GEMS_IVDEP for (int k = 0; k < h; k++) sum[k] += sum[k + h];
        }
        Val middle = sum[0] * (Val(kPiece) / Val(m));
        add_distances<W>(at, m, stride, middle, first, second);
        Wide share = Wide(first) / Wide(m);
        all = join(all, moments_of<Acc>(Wide(middle) + share, Wide(second) - Wide(first) * share, Wide(m)));
    }
    return all;
}

/* The sum of exp(element - top). */
template <int W> GEMS_DI Val run_exponentials(From p, Index n, Index stride, Val top) {
    Val high[W];
    for (int k = 0; k < W; k++) high[k] = Val(0);
    Index i = 0;
    while (i + W <= n) {
        Index stop = n - i < kFlush * W ? n : i + kFlush * W;
        Val low[W];
        for (int k = 0; k < W; k++) low[k] = Val(0);
        for (; i + W <= stop; i += W) {
            GEMS_IVDEP for (int k = 0; k < W; k++) low[k] += part_of(element(p[(i + k) * stride]), top);
        }
        for (int k = 0; k < W; k++) high[k] += low[k];
    }
    for (; i < n; i++) high[0] += part_of(element(p[i * stride]), top);
    for (int h = W / 2; h > 0; h /= 2) {
        GEMS_IVDEP for (int k = 0; k < h; k++) high[k] += high[k + h];
    }
    return high[0];
}

/* Both extremes of a run; the first of its elements is there. */
template <int W> GEMS_DI Bounds run_bounds(From p, Index n, Index stride) {
    Val first = element(p[0]), low[W], high[W];
    for (int k = 0; k < W; k++) low[k] = high[k] = first;
    Index i = 0;
    for (; i + W <= n; i += W) {
        GEMS_IVDEP for (int k = 0; k < W; k++) {
            Val v = element(p[(i + k) * stride]);
            low[k] = v < low[k] || v != v ? v : low[k];
            high[k] = v > high[k] || v != v ? v : high[k];
        }
    }
    Bounds all{low[0], high[0]};
    for (int k = 1; k < W; k++) all = join(all, Bounds{low[k], high[k]});
    for (; i < n; i++) {
        Val v = element(p[i * stride]);
        all = join(all, Bounds{v, v});
    }
    return all;
}

template <class A> GEMS_DI A run_both(From p, Index n, Index stride) {
    constexpr int W = kVec > 1 ? 4 * kVec : 8;
    if (n < 1) return identity_acc<A>();
    if constexpr (is_same<A, Bounds>) return run_bounds<W>(p, n, kVec > 1 ? Index(1) : stride);
    else {
        Val top = run_values(p, n, stride);
        return A{top, run_exponentials<W>(p, n, kVec > 1 ? Index(1) : stride, top)};
    }
}

/* n elements along one dimension, the first of them at `place` of the row. */
GEMS_DI Acc run(From p, Index n, Index stride, Index place) {
    if constexpr (kMoments) {
        if constexpr (kVec > 1)
            if (n >= 4 * kVec) return run_moments<4 * kVec>(p, n, 1);
        return run_moments<8>(p, n, stride);
    } else if constexpr (kOnline || kBounds) {
        return run_both<Acc>(p, n, stride);
    } else {
        Val best = run_values(p, n, stride);
        if constexpr (kPair) { /* the best value with many lanes, then the first place that has it */
            Index i = 0;
            for (; i + 1 < n; i++) {
                Val v = element(p[i * stride]);
                if (v == best || (v != v && best != best)) break;
            }
            place += i;
        }
        return made<Acc>(best, place);
    }
}

GEMS_DI Acc fast_row(From p, const Shape& s, Index begin, Index end) {
    if constexpr (kSimple) {
        Index stride = kVec > 1 ? 1 : (Index)s.reduced_in[0];
        return begin < end ? run(p + begin * stride, end - begin, stride, begin) : identity();
    } else {
        Acc a = identity();
        Index size = (Index)s.reduced_size[0], stride = (Index)s.reduced_in[0];
        while (begin < end) {
            Index n = size - begin % size;
            if (n > end - begin) n = end - begin;
            a = join(a, run(p + reduced_offset(s, begin), n, stride, begin));
            begin += n;
        }
        return a;
    }
}

GEMS_DI void fast_rows(From x, const Target& target, const Shape& s, Index begin, Index end) {
    int64_t chunk = (s.kept + gridDim.x - 1) / gridDim.x, place = chunk * blockIdx.x;
    int64_t stop = place + chunk < s.kept ? place + chunk : s.kept;
    for (; place < stop; place++) {
        Index in, out;
        kept_offsets(s, (Index)place, in, out);
        target.put((Index)place, out, fast_row(x + in, s, begin, end));
    }
}

/* The same of moments: pieces of a few elements of each column. */
template <int W>
GEMS_DI void moments_tile(From p, const Target& target, const Shape& s, Index begin, Index end, Index place, Index out) {
    constexpr Index kPiece = 32;
    Index stride = kVec > 1 ? 1 : (Index)s.kept_in[0];
    Wide mean[W], m2[W], n = 0;
    for (int k = 0; k < W; k++) mean[k] = m2[k] = Wide(0);
    for (Index r = begin; r < end; r += kPiece) {
        Index m = end - r < kPiece ? end - r : kPiece;
        Val middle[W], first[W], second[W];
        for (int k = 0; k < W; k++) middle[k] = first[k] = second[k] = Val(0);
        for (Index j = 0; j < m; j++) {
            From at = p + reduced_offset(s, r + j);
            GEMS_IVDEP for (int k = 0; k < W; k++) middle[k] += element(at[k * stride]) * (Val(1) / Val(kPiece));
        }
        for (int k = 0; k < W; k++) middle[k] *= Val(kPiece) / Val(m);
        for (Index j = 0; j < m; j++) {
            From at = p + reduced_offset(s, r + j);
            GEMS_IVDEP for (int k = 0; k < W; k++) {
                Val d = element(at[k * stride]) - middle[k];
                first[k] += d;
                second[k] += d * d;
            }
        }
        Wide total = n + Wide(m), share = Wide(m) / total, each = Wide(1) / Wide(m);
        GEMS_IVDEP for (int k = 0; k < W; k++) {
            Wide shift = Wide(first[k]) * each, d = Wide(middle[k]) + shift - mean[k];
            m2[k] += Wide(second[k]) - Wide(first[k]) * shift + (n > Wide(0) ? d * (d * (n * share)) : Wide(0));
            mean[k] = n > Wide(0) ? mean[k] + d * share : Wide(middle[k]) + shift;
        }
        n = total;
    }
    for (int k = 0; k < W; k++) target.put(place + k, out + k * (Index)s.kept_out[0], moments_of<Acc>(mean[k], m2[k], n));
}

/* The same of a logarithm of sums, which reads the elements twice, and of both extremes. */
template <class A, int W>
GEMS_DI void both_tile(From p, const Target& target, const Shape& s, Index begin, Index end, Index place, Index out) {
    Index stride = kVec > 1 ? 1 : (Index)s.kept_in[0];
    Val high[W], other[W];
    constexpr bool bounds = is_same<A, Bounds>;
    for (int k = 0; k < W; k++) high[k] = -Limits<Val>::inf(), other[k] = bounds ? Limits<Val>::inf() : Val(0);
    if constexpr (!is_float<Val>)
        for (int k = 0; k < W; k++) high[k] = Limits<Val>::lowest(), other[k] = Limits<Val>::max();
    for (Index r = begin; r < end; r++) {
        From at = p + reduced_offset(s, r);
        GEMS_IVDEP for (int k = 0; k < W; k++) {
            Val v = element(at[k * stride]);
            high[k] = v > high[k] || v != v ? v : high[k];
            if constexpr (bounds) other[k] = v < other[k] || v != v ? v : other[k];
        }
    }
    if constexpr (!bounds)
        for (Index r = begin; r < end; r++) {
            From at = p + reduced_offset(s, r);
            GEMS_IVDEP for (int k = 0; k < W; k++) other[k] += part_of(element(at[k * stride]), high[k]);
        }
    for (int k = 0; k < W; k++)
        target.put(place + k, out + k * (Index)s.kept_out[0], bounds ? A{other[k], high[k]} : A{high[k], other[k]});
}

/* W columns from `column` of the innermost kept dimension on. */
template <int W>
GEMS_DI void fast_column_tile(From p, const Target& target, const Shape& s, Index begin, Index end, Index place, Index out) {
    Index stride = kVec > 1 ? 1 : (Index)s.kept_in[0];
    if constexpr (kMoments) return moments_tile<W>(p, target, s, begin, end, place, out);
    else if constexpr (kOnline || kBounds) return both_tile<Acc, W>(p, target, s, begin, end, place, out);
    else {
        Lanes<W> low, high;
        low.clear();
        high.clear();
        for (Index r = begin; r < end; r++) {
            low.take(p + reduced_offset(s, r), stride, r);
            if constexpr (kAdds) {
                if ((r - begin) % kFlush == kFlush - 1) {
                    high.join(low);
                    low.clear();
                }
            }
        }
        if constexpr (kAdds) low.join(high);
        for (int k = 0; k < W; k++) {
            Acc a = made<Acc>(low.v[k], low.i[kPair ? k : 0]);
            target.put(place + k, out + k * (Index)s.kept_out[0], a);
        }
    }
}

/* Tiles of kTile columns; one line of the innermost kept dimension has tiles_of(line) of them (the host counts alike). */
constexpr int kTile = kVec > 1 ? 8 * kVec : 16;

GEMS_DI void fast_columns(From x, const Target& target, const Shape& s, Index begin, Index end) {
    int64_t line = s.kept_size[0], tiles = (line + kTile - 1) / kTile, all = s.kept / line * tiles;
    int64_t chunk = (all + gridDim.x - 1) / gridDim.x, t = chunk * blockIdx.x;
    int64_t stop = t + chunk < all ? t + chunk : all;
    for (; t < stop; t++) {
        Index column = (Index)(t % tiles * kTile), place = (Index)(t / tiles * line) + column;
        Index left = (Index)line - column, in, out;
        kept_offsets(s, place, in, out);
        if (left >= kTile) {
            fast_column_tile<kTile>(x + in, target, s, begin, end, place, out);
            continue;
        }
        Index c = 0, step_in = (Index)s.kept_in[0], step_out = (Index)s.kept_out[0];
        if constexpr (kVec > 1)
            for (; c + kVec <= left; c += kVec)
                fast_column_tile<kVec>(x + in + c, target, s, begin, end, place + c, out + c * step_out);
        for (; c + 4 <= left; c += 4)
            fast_column_tile<4>(x + in + c * step_in, target, s, begin, end, place + c, out + c * step_out);
        for (; c < left; c++)
            fast_column_tile<1>(x + in + c * step_in, target, s, begin, end, place + c, out + c * step_out);
    }
}

/* ---- entries ---- */

/* x2: the second tensor, where there are two. chunk: reduced elements of one block along y. parameter: see kNormP,
 * GEMS_PAIR_PARAMETER; number: see write. */
extern "C" __global__ void __launch_bounds__(512, 1)
reduce(const In* __restrict__ x1, const In* __restrict__ x2, Out* y, void* where, Acc* partial, Shape s, int64_t chunk,
       double number, double parameter) {
    From x = source<From>(x1, x2, parameter);
    int64_t first = chunk * blockIdx.y, last = first + chunk < s.reduced ? first + chunk : s.reduced;
    Index begin = (Index)(first < s.reduced ? first : s.reduced), end = (Index)last;
    Target target{y, where, partial, number, s.kept};
    if constexpr (kFast) {
        if constexpr (kRow) fast_rows(x, target, s, begin, end);
        else fast_columns(x, target, s, begin, end);
    } else {
        if constexpr (kRow) block_rows(x, target, s, begin, end);
        else block_columns(x, target, s, begin, end);
    }
}

/* Joins `parts` partial results of each output in order. */
extern "C" __global__ void __launch_bounds__(512, 1)
finish(const Acc* __restrict__ partial, const In* __restrict__ x1, const In* __restrict__ x2, Out* y, void* where, Shape s,
       int64_t parts, double number, double parameter) {
    From x = source<From>(x1, x2, parameter);
    if constexpr (kFast) {
        GEMS_FOR_GRID(place, s.kept) {
            Acc a = identity();
            for (int64_t j = 0; j < parts; j++) a = join(a, partial[j * s.kept + place]);
            Index in, out;
            kept_offsets(s, (Index)place, in, out);
            write(y, where, out, a, number);
        }
    } else {
        GEMS_DYN_SMEM(Acc, buf);
        for (int64_t first = (int64_t)blockIdx.x * blockDim.x; first < s.kept; first += (int64_t)gridDim.x * blockDim.x) {
            int64_t place = first + threadIdx.x;
            Acc a[1] = {identity()};
            if (place < s.kept)
                for (int64_t j = threadIdx.y; j < parts; j += blockDim.y) a[0] = join(a[0], partial[j * s.kept + place]);
            join_down(a, buf);
            if (threadIdx.y == 0 && place < s.kept) {
                Index in, out;
                kept_offsets(s, (Index)place, in, out);
                write(y, where, out, based(a[0], base_of(x[in])), number);
            }
        }
    }
}
