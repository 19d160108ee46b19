// Copies, conversions and fills. The head names COPY_KERNEL, Src, Dst, Index, kV (elements of one access), kRank, kSide
// (of a tile, or a short dim), kThreads (of a block), kSplat (one source element for a vector), kSame (Src and Dst are one type: bytes are
// moved as they are).
using namespace gems;

// Accesses of a thread in flight: whole ones are fastest one a thread (as gems_ew_unroll says).
constexpr int kUnroll = kV * (sizeof(Src) > sizeof(Dst) ? sizeof(Src) : sizeof(Dst)) >= 16 ? 1 : 4;

template <int N>
GEMS_DI Vec<Dst, N> converted(const Vec<Src, N>& in) {
    if constexpr (kSame) {
        return in;
    } else {
        Vec<Dst, N> out;
        GEMS_UNROLL for (int i = 0; i < N; i++) out.v[i] = convert<Dst>(in.v[i]);
        return out;
    }
}

// vector(i, step, vectors) for the first of each thread's kUnroll vectors, `step` apart, of those in [0, n); tail(i) for
// every element after them. The grid has a thread for each kUnroll vectors.
template <class Vector, class Tail>
GEMS_DI void for_each_vector(Index n, Vector vector, Tail tail) {
    Index vectors = n / kV, step = (Index)blockDim.x, first = (Index)blockIdx.x * kUnroll * step + threadIdx.x;
    vector(first, step, vectors);
    if (first < n - vectors * kV) tail(vectors * kV + first);
}

#if COPY_KERNEL == 1
extern "C" __global__ void copy_dense(Dst* __restrict__ out, const Src* __restrict__ in, Index n) {
    if constexpr (kFast && kSame) {
        int64_t chunk = ((int64_t)n + gridDim.x - 1) / gridDim.x;
        int64_t first = blockIdx.x * chunk, last = first + chunk < (int64_t)n ? first + chunk : (int64_t)n;
        if (first < last) memcpy(out + first, in + first, (size_t)(last - first) * sizeof(Dst));
    } else if constexpr (kFast) {
        GEMS_FOR_GRID(i, n) out[i] = convert<Dst>(in[i]);
    } else {
        for_each_vector(n, [&](Index i, Index step, Index vectors) {
            Vec<Src, kV> v[kUnroll];
            GEMS_UNROLL for (int k = 0; k < kUnroll; k++)
                if (i + k * step < vectors) v[k] = load<kV>(in + (i + k * step) * kV);
            GEMS_UNROLL for (int k = 0; k < kUnroll; k++)
                if (i + k * step < vectors) store<kV>(out + (i + k * step) * kV, converted(v[k]));
        }, [&](Index i) { out[i] = converted<1>(Vec<Src, 1>{{in[i]}}).v[0]; });
    }
}
#endif

#if COPY_KERNEL == 2
extern "C" __global__ void copy_strided(Dst* __restrict__ out, const Src* __restrict__ in, Strided<2, Index> m) {
    for_each_strided<kRank>(m, [&](const Index (&off)[2]) {
        if constexpr (kV == 1) {
            out[off[0]] = convert<Dst>(in[off[1]]);
        } else if constexpr (kSplat) {
            Vec<Src, kV> v;
            Src one = in[off[1]];
            GEMS_UNROLL for (int i = 0; i < kV; i++) v.v[i] = one;
            store<kV>(out + off[0], converted(v));
        } else {
            store<kV>(out + off[0], converted(load<kV>(in + off[1])));
        }
    });
}
#endif

#if COPY_KERNEL == 3
// Dim a is contiguous in out, dim b in in; all others are batches. Twin of `tiles` in csrc/families/copy_views.c.
struct Tiles {
    int32_t tiles_a, tiles_b, ndim;
    uint32_t total;
    int64_t size_a, size_b, out_b, in_a;
    int64_t size[8], stride[8][2];
};

// For the fast cpu mode: parts of a tile of a known size, put together in registers (a loop along a stride becomes
// gathers).
template <int A, int B>
GEMS_DI void transpose_block(Dst* to, int64_t out_b, const Src* from, int64_t in_a) {
    Vec<Src, A> row[B];
    GEMS_UNROLL for (int a = 0; a < A; a++) GEMS_UNROLL for (int b = 0; b < B; b++) row[b].v[a] = from[a * in_a + b];
    GEMS_UNROLL for (int b = 0; b < B; b++) store<A>(to + b * out_b, converted(row[b]));
}
GEMS_DI void transpose(Dst* to, int64_t out_b, const Src* from, int64_t in_a, int wide, int high) {
    constexpr int A = sizeof(Src) <= 4 ? 16 : sizeof(Src) == 8 ? 8 : 4, B = sizeof(Src) == 16 ? 4 : 8;
    int a = 0;
    for (; a + A <= wide; a += A) {
        int b = 0;
        for (; b + B <= high; b += B) transpose_block<A, B>(to + b * out_b + a, out_b, from + a * in_a + b, in_a);
        for (; b < high; b++) transpose_block<A, 1>(to + b * out_b + a, out_b, from + a * in_a + b, in_a);
    }
    for (; a < wide; a++)
        for (int b = 0; b < high; b++) to[b * out_b + a] = converted<1>(Vec<Src, 1>{{from[a * in_a + b]}}).v[0];
}

extern "C" __global__ void copy_tile(Dst* __restrict__ out, const Src* __restrict__ in, Tiles t) {
    constexpr int kPad = sizeof(Src) < 4 ? 4 / sizeof(Src) : 1;  // columns fall on different banks
    __shared__ Src tile[kFast ? 1 : kSide][kSide + kPad];
    for (uint32_t number = blockIdx.x; number < t.total; number += gridDim.x) {
        uint32_t rest = number;
        int64_t a0 = (int64_t)(rest % t.tiles_a) * kSide;
        rest /= t.tiles_a;
        int64_t b0 = (int64_t)(rest % t.tiles_b) * kSide;
        rest /= t.tiles_b;
        Dst* to = out + b0 * t.out_b + a0;
        const Src* from = in + a0 * t.in_a + b0;
        for (int d = 0; d < t.ndim; d++) {
            uint32_t size = (uint32_t)t.size[d], i = rest % size;
            rest /= size;
            to += i * t.stride[d][0];
            from += i * t.stride[d][1];
        }
        int wide = t.size_a - a0 < kSide ? (int)(t.size_a - a0) : kSide;
        int high = t.size_b - b0 < kSide ? (int)(t.size_b - b0) : kSide;
        if constexpr (kFast) {
            transpose(to, t.out_b, from, t.in_a, wide, high);
        } else if (wide == kSide && high == kSide) {
            constexpr int kRows = kThreads / kSide, kSteps = kSide / kRows; // rows that the block moves at once
            const int lane = (int)threadIdx.x % kSide, row = (int)threadIdx.x / kSide;
            const Src* p = from + row * t.in_a + lane;
            Dst* q = to + row * t.out_b + lane;
            Src v[kSteps];
            GEMS_UNROLL for (int k = 0; k < kSteps; k++) v[k] = p[k * (kRows * t.in_a)];
            GEMS_UNROLL for (int k = 0; k < kSteps; k++) tile[row + k * kRows][lane] = v[k];
            __syncthreads();
            GEMS_UNROLL for (int k = 0; k < kSteps; k++)
                q[k * (kRows * t.out_b)] = converted(Vec<Src, 1>{{tile[lane][row + k * kRows]}}).v[0];
            __syncthreads();
        } else {
            constexpr int kCells = kSide * kSide;
#if !GEMS_CPU
#pragma unroll 8
#endif
            for (int i = threadIdx.x; i < kCells; i += blockDim.x) {
                int a = i / kSide, b = i % kSide;
                if (a < wide && b < high) tile[a][b] = from[a * t.in_a + b];
            }
            __syncthreads();
#if !GEMS_CPU
#pragma unroll 8
#endif
            for (int i = threadIdx.x; i < kCells; i += blockDim.x) {
                int b = i / kSide, a = i % kSide;
                if (a < wide && b < high) to[b * t.out_b + a] = converted<1>(Vec<Src, 1>{{tile[a][b]}}).v[0];
            }
            __syncthreads();
        }
    }
}
#endif

#if COPY_KERNEL == 4
extern "C" __global__ void copy_spread(Dst* __restrict__ out, const Src* __restrict__ in, Index n) {
    Dst value = converted<1>(Vec<Src, 1>{{in[0]}}).v[0];
    if constexpr (kFast) {
        GEMS_FOR_GRID(i, n) out[i] = value;
    } else {
        Vec<Dst, kV> v;
        GEMS_UNROLL for (int i = 0; i < kV; i++) v.v[i] = value;
        for_each_vector(n, [&](Index i, Index step, Index vectors) {
            GEMS_UNROLL for (int k = 0; k < kUnroll; k++)
                if (i + k * step < vectors) store<kV>(out + (i + k * step) * kV, v);
        }, [&](Index i) { out[i] = value; });
    }
}
#endif

#if COPY_KERNEL == 7
// A short dim of kSide elements beside a long one that `in` has (kZip) or `out` has in a row, `across` from one element of the
// short dim to the next; the other side has both in one range. A thread takes kV elements of the long dim.
extern "C" __global__ void copy_zip(Dst* __restrict__ out, const Src* __restrict__ in, Strided<2, Index> m, Index across) {
    constexpr int kAll = kSide * kV, kSize = sizeof(Src) > sizeof(Dst) ? sizeof(Src) : sizeof(Dst);
    constexpr int kPart = kAll * kSize <= 16 && !(kAll & (kAll - 1)) ? kAll : kV; // of the range, by an access
    for_each_strided<kRank>(m, [&](const Index (&off)[2]) {
        Vec<Src, kV> row[kSide];
        Vec<Src, kPart> range[kAll / kPart];
        const Src* from = in + off[1];
        Dst* to = out + off[0];
        if constexpr (kZip) {
            GEMS_UNROLL for (int s = 0; s < kSide; s++) row[s] = load<kV>(from + s * across);
            GEMS_UNROLL for (int i = 0; i < kAll; i++) range[i / kPart].v[i % kPart] = row[i % kSide].v[i / kSide];
            GEMS_UNROLL for (int i = 0; i < kAll / kPart; i++) store<kPart>(to + i * kPart, converted(range[i]));
        } else {
            GEMS_UNROLL for (int i = 0; i < kAll / kPart; i++) range[i] = load<kPart>(from + i * kPart);
            GEMS_UNROLL for (int i = 0; i < kAll; i++) row[i % kSide].v[i / kSide] = range[i / kPart].v[i % kPart];
            GEMS_UNROLL for (int s = 0; s < kSide; s++) store<kV>(to + s * across, converted(row[s]));
        }
    });
}
#endif

#if COPY_KERNEL == 5 || COPY_KERNEL == 6
struct Pattern { uint64_t low, high; };

// The element whose bytes stand first in a pattern.
GEMS_DI Dst element(Pattern p) {
    Dst value;
    memcpy(&value, &p, sizeof value);
    return value;
}
#endif

#if COPY_KERNEL == 5
extern "C" __global__ void fill_dense(Dst* __restrict__ out, Pattern pattern, Index n) {
    Dst value = element(pattern);
    if constexpr (kFast) {
        GEMS_FOR_GRID(i, n) out[i] = value;
    } else {
        Vec<Dst, kV> v;
        GEMS_UNROLL for (int i = 0; i < kV; i++) v.v[i] = value;
        for_each_vector(n, [&](Index i, Index step, Index vectors) {
            GEMS_UNROLL for (int k = 0; k < kUnroll; k++)
                if (i + k * step < vectors) store<kV>(out + (i + k * step) * kV, v);
        }, [&](Index i) { out[i] = value; });
    }
}
#endif

#if COPY_KERNEL == 6
extern "C" __global__ void fill_strided(Dst* __restrict__ out, Pattern pattern, Strided<1, Index> m) {
    Dst value = element(pattern);
    for_each_strided<kRank>(m, [&](const Index (&off)[1]) { out[off[0]] = value; });
}
#endif
