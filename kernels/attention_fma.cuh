// Products of tiles in shared memory by multiply and add, for attention in every dtype. Blocks of 16 x 16 threads; thread
// (y, x) has kR rows from y * kR on, and of a tile of scores the columns x, x + 16, ...
//
// The head gives kD and kDV (head dimensions, rounded up to multiples of 16) and kR.
namespace {

constexpr int kThreads = 256, kTile = 16 * kR, kWide = 16 / (int)sizeof(Op);
constexpr int kPitch = (kD > kDV ? kD : kDV) + kWide, kPitchP = kTile + kWide;
// Neighbouring columns of a thread in a product of scores with rows.
template <int D> constexpr int kNear = D % (16 * kWide) == 0 ? kWide : 1;

GEMS_DI int ty() { return (int)threadIdx.x >> 4; }
GEMS_DI int tx() { return (int)threadIdx.x & 15; }

// Brings rows to shared memory in the compute type; what does not exist is zero. at(r): row r.
template <int D, class At> GEMS_DI void bring(Op *tile, int rows, int dim, bool wide, At at) {
    constexpr int kVec = 16 / (int)sizeof(Scalar);
    if (wide) {
        constexpr int kAcross = (D + kVec - 1) / kVec;
        for (int i = (int)threadIdx.x; i < kTile * kAcross; i += kThreads) {
            int r = i / kAcross, c = (i - r * kAcross) * kVec;
            if (r < rows && c + kVec <= dim) {
                Vec<Scalar, kVec> v = load<kVec>(at(r) + c);
                GEMS_UNROLL for (int e = 0; e < kVec; e++) tile[r * kPitch + c + e] = to_op(v.v[e]);
            } else {
                for (int e = 0; e < kVec && c + e < D; e++)
                    tile[r * kPitch + c + e] = r < rows && c + e < dim ? to_op(at(r)[c + e]) : (Op)0;
            }
        }
    } else {
        for (int i = (int)threadIdx.x; i < kTile * D; i += kThreads) {
            int r = i / D, c = i - r * D;
            tile[r * kPitch + c] = r < rows && c < dim ? to_op(at(r)[c]) : (Op)0;
        }
    }
}

// acc[i][j] += row y * kR + i of a times row x + 16 * j of b.
template <int D> GEMS_DI void rows_by_rows(Op (&acc)[kR][kR], const Op *a, const Op *b) {
    a += ty() * kR * kPitch;
    b += tx() * kPitch;
#pragma unroll 4
    for (int d = 0; d < D; d += kWide) {
        Vec<Op, kWide> x[kR], y[kR];
        GEMS_UNROLL for (int i = 0; i < kR; i++) x[i] = load<kWide>(a + i * kPitch + d);
        GEMS_UNROLL for (int j = 0; j < kR; j++) y[j] = load<kWide>(b + j * 16 * kPitch + d);
        GEMS_UNROLL for (int i = 0; i < kR; i++)
            GEMS_UNROLL for (int j = 0; j < kR; j++)
                GEMS_UNROLL for (int e = 0; e < kWide; e++) acc[i][j] = gems::fma(x[i].v[e], y[j].v[e], acc[i][j]);
    }
}

// Column u of a thread in a product with rows of D elements.
template <int D> GEMS_DI int column(int u) {
    constexpr int n = kNear<D>;
    return u / n * 16 * n + tx() * n + u % n;
}

// acc[i][u] += row y * kR + i of p (kTile long) times the rows of v.
template <int D> GEMS_DI void scores_by_rows(Op (&acc)[kR][D / 16], const Op *p, const Op *v) {
    constexpr int n = kNear<D>;
    p += ty() * kR * kPitchP;
    v += tx() * n;
#pragma unroll 1
    for (int j = 0; j < kTile; j += kWide) {
        Vec<Op, kWide> w[kR];
        GEMS_UNROLL for (int i = 0; i < kR; i++) w[i] = load<kWide>(p + i * kPitchP + j);
        GEMS_UNROLL for (int e = 0; e < kWide; e++)
            GEMS_UNROLL for (int u = 0; u < D / 16; u += n) {
                Vec<Op, n> x = load<n>(v + (j + e) * kPitch + u * 16);
                GEMS_UNROLL for (int i = 0; i < kR; i++)
                    GEMS_UNROLL for (int k = 0; k < n; k++)
                        acc[i][u + k] = gems::fma(w[i].v[e], x.v[k], acc[i][u + k]);
            }
    }
}

// Over the 16 threads that have the same rows.
template <class F> GEMS_DI Op across(Op v, F f) {
    GEMS_UNROLL for (int o = 1; o < 16; o <<= 1) v = f(v, shuffle_xor(v, o));
    return v;
}

}  // namespace
