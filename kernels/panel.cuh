// The register block of the cpu backend's fast mode: panels of A and B are packed, which takes any strides and widens
// 16-bit floats, and native vectors run over them. The head of the program gives Scalar, the storage type.
using namespace gems;

namespace {

// Products of int8 are whole numbers, which float32 has up to a depth of 1024.
typedef either<is_same<Scalar, int8_t>, float, opmath_t<Scalar>> Op;

// Bytes of a native vector and rows of the register block: a row is two vectors, and all rows, two vectors of B and one
// number of A fit the registers.
#if defined(__AVX512F__)
constexpr int kBytes = 64, kRows = 12;
#elif defined(__AVX__)
constexpr int kBytes = 32, kRows = 6;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kRows = 12;
#else
constexpr int kBytes = 16, kRows = 6;
#endif
constexpr int kLane = kBytes / (int)sizeof(Op), kCols = 2 * kLane;
typedef Op Lane __attribute__((vector_size(kBytes), aligned(alignof(Op)), may_alias));

// Products and sums may be fused here, for speed as for accuracy.
#ifdef __clang__
#pragma clang fp contract(fast)
#define GEMS_UNROLL_NOT _Pragma("clang loop vectorize(disable) unroll(disable)")
#else
#pragma GCC optimize("fp-contract=fast")
#define GEMS_UNROLL_NOT _Pragma("GCC unroll 1")
#endif

GEMS_DI Lane lane(const Op *p) { return *(const Lane *)p; }
GEMS_DI void put(Op *p, Lane v) { *(Lane *)p = v; }
GEMS_DI int least(int a, int b) { return a < b ? a : b; }

// The only places where values change their type: functions of their own, which compilers vectorise most surely.
constexpr bool kSame = is_same<Scalar, Op>;
GEMS_DI void widen_lane(Op *__restrict to, const Scalar *__restrict from) {
    for (int i = 0; i < kLane; i++) to[i] = to_op(from[i]);
}
__attribute__((noinline)) void widen(Op *__restrict to, const Scalar *__restrict from, int n) {
    int i = 0;
    for (; i + kLane <= n; i += kLane) widen_lane(to + i, from + i);
    GEMS_UNROLL_NOT for (; i < n; i++) to[i] = to_op(from[i]);
}
__attribute__((noinline)) void round_lane(Scalar *__restrict to, const Op *__restrict from) {
    for (int i = 0; i < kLane; i++) to[i] = from_op<Scalar>(from[i]);
}
GEMS_DI void narrow_lane(Scalar *to, const Op *from) {
    if constexpr (kSame) memcpy(to, from, kBytes);
    else round_lane(to, from);
}
// n elements that are `stride` apart.
__attribute__((noinline)) void gather(Op *to, const Scalar *from, int64_t stride, int n) {
    if (stride == 1) return widen(to, from, n);
    Scalar near[64];
    for (int first = 0; first < n; first += 64) {
        int count = least(64, n - first);
        GEMS_UNROLL_NOT for (int i = 0; i < count; i++) near[i] = from[(first + i) * stride];
        widen(to + first, near, count);
    }
}

// Packs `width` lines of `depth` elements as to[k * W + w], lines beyond `width` as zeros.
template <int W>
void pack(Op *__restrict to, const Scalar *__restrict from, int64_t line, int64_t step, int width, int depth) {
    if (line == 1 && width == W && W % kLane == 0) {
        for (int k = 0; k < depth; k++, to += W, from += step) {
            if constexpr (kSame) memcpy(to, from, W * sizeof(Op));
            else widen(to, from, W);
        }
        return;
    }
    if (line == 1) {
        for (int k = 0; k < depth; k++, to += W, from += step) {
            if (width == W) {
                for (int w = 0; w < W; w++) to[w] = to_op(from[w]);
            } else {
                memset(to, 0, W * sizeof(Op));
                widen(to, from, width);
            }
        }
        return;
    }
    constexpr int kStrip = 32;
    Op strip[W][kStrip];
    for (int w = width; w < W; w++) memset(strip[w], 0, sizeof strip[w]);
    for (int k = 0; k < depth; k += kStrip, to += W * kStrip) {
        int count = least(kStrip, depth - k);
        for (int w = 0; w < width; w++) gather(strip[w], from + w * line + k * step, step, count);
        GEMS_UNROLL_NOT for (int i = 0; i < count; i++) {
            GEMS_UNROLL for (int w = 0; w < W; w++) to[i * W + w] = strip[w][i];
        }
    }
}

// sums[r][0 .. kCols) (+)= panel of A (kRows wide) times panel of B (kCols wide) over depth.
template <int ROWS>
__attribute__((noinline)) void multiply(const Op *__restrict a, const Op *__restrict b, int depth, Op *__restrict sums,
                                        int64_t pitch, bool first) {
    Lane acc[ROWS][2];
    GEMS_UNROLL for (int r = 0; r < ROWS; r++) {
        acc[r][0] = first ? Lane{} : lane(sums + r * pitch);
        acc[r][1] = first ? Lane{} : lane(sums + r * pitch + kLane);
    }
    for (int k = 0; k < depth; k++, a += kRows, b += kCols) {
        Lane b0 = lane(b), b1 = lane(b + kLane);
        GEMS_UNROLL for (int r = 0; r < ROWS; r++) {
            acc[r][0] += a[r] * b0;
            acc[r][1] += a[r] * b1;
        }
    }
    GEMS_UNROLL for (int r = 0; r < ROWS; r++) {
        put(sums + r * pitch, acc[r][0]);
        put(sums + r * pitch + kLane, acc[r][1]);
    }
}

inline void multiply_rows(const Op *a, const Op *b, int depth, Op *sums, int64_t pitch, bool first, int rows) {
    if (rows > kRows / 2) multiply<kRows>(a, b, depth, sums, pitch, first);
    else if (rows > 2) multiply<kRows / 2>(a, b, depth, sums, pitch, first);
    else multiply<2>(a, b, depth, sums, pitch, first);
}

// D = alpha * sums + beta * C for `rows` rows of `cols` columns, rounded once. A row of sums may be read up to the next
// multiple of a vector.
__attribute__((noinline)) void finish(const MatmulParams &p, int batch, int row, int col, int rows, int cols, const Op *sums,
                                      int64_t pitch) {
    const Op alpha = (Op)p.alpha, beta = (Op)p.beta;
    Scalar *d = (Scalar *)p.d + batch * p.d_batch + row * p.d_row + col * p.d_col;
    const Scalar *c = p.c ? (const Scalar *)p.c + batch * p.c_batch + row * p.c_row + col * p.c_col : nullptr;
    for (int r = 0; r < rows; r++, sums += pitch, d += p.d_row) {
        for (int j = 0; j < cols; j += kLane) {
            const int n = least(kLane, cols - j);
            Op value[kLane], add[kLane] = {};
            Scalar rounded[kLane];
            Lane v = alpha * lane(sums + j);
            if (c) {
                gather(add, c + r * p.c_row + j * p.c_col, p.c_col, n);
                v += beta * lane(add);
            }
            put(value, v);
            narrow_lane(rounded, value);
            if (p.d_col == 1 && n == kLane) {
                memcpy(d + j, rounded, sizeof rounded);
            } else {
                GEMS_UNROLL_NOT for (int i = 0; i < n; i++) d[(j + i) * p.d_col] = rounded[i];
            }
        }
    }
}

}  // namespace
