// The product of a matrix and a column, or of each of a batch, which memory bounds: every element of A is read once, 16 bytes at a
// time, with several loads of a thread under way.
//
// The head of the program gives Scalar, kLines (A is contiguous along its lines; else along k) and kShare. Along k a warp has two
// lines, and kShare warps of a block have a part of k each. Along lines kShare lanes lie across neighbouring lines, the others of
// a block go down k, and where GEMS_CLUSTERS says so the blocks of a cluster (p.share) have a part of k each. Parts are added in their
// order. Has run on an H200.
using namespace gems;

namespace {

constexpr int kVec = vec_n<Scalar>, kThreads = 256, kWarps = kThreads / 32;
constexpr int kOwn = 2;                                     // lines of a warp
constexpr int kAhead = kLines ? 8 : 4;                      // loads of a line under way
constexpr int kOutputs = kLines ? kShare * kVec : kWarps / kShare * kOwn; // of a block
static_assert(kLines ? kShare == 4 || kShare == 8 || kShare == 16 : kShare <= kWarps, "");

// Sums of a warp's lines over k from `first` to `last`, of this lane.
GEMS_DI void along_k(const MatmulParams &p, const Scalar *a, const Scalar *b, int row, int first, int last, Op (&sum)[kOwn]) {
    constexpr int kStep = 32 * kVec;
    const Scalar *line[kOwn];
    GEMS_UNROLL for (int r = 0; r < kOwn; r++) {
        line[r] = a + (row + r < p.m ? row + r : p.m - 1) * p.a_row;
        sum[r] = 0;
    }
    int k = first + ((int)threadIdx.x & 31) * kVec;
    for (; k + (kAhead - 1) * kStep + kVec <= last; k += kAhead * kStep) {
        Vec<Scalar, kVec> v[kOwn][kAhead], x[kAhead];
        GEMS_UNROLL for (int i = 0; i < kAhead; i++) {
            GEMS_UNROLL for (int r = 0; r < kOwn; r++) v[r][i] = load_stream<kVec>(line[r] + k + i * kStep);
        }
        GEMS_UNROLL for (int i = 0; i < kAhead; i++) x[i] = load<kVec>(b + k + i * kStep);
        GEMS_UNROLL for (int i = 0; i < kAhead; i++) {
            GEMS_UNROLL for (int e = 0; e < kVec; e++) {
                GEMS_UNROLL for (int r = 0; r < kOwn; r++) sum[r] = gems::fma(to_op(v[r][i].v[e]), to_op(x[i].v[e]), sum[r]);
            }
        }
    }
    for (; k < last; k += kStep) {
        for (int e = 0; e < kVec && k + e < last; e++) {
            GEMS_UNROLL for (int r = 0; r < kOwn; r++) sum[r] = gems::fma(to_op(line[r][k + e]), to_op(b[k + e]), sum[r]);
        }
    }
}

// Sums of kVec neighbouring lines over every kDown-th k from `first` to `last`.
constexpr int kDown = kThreads / kShare;
GEMS_DI void along_lines(const MatmulParams &p, const Scalar *a, const Scalar *b, int row, int first, int last, Op (&sum)[kVec]) {
    GEMS_UNROLL for (int e = 0; e < kVec; e++) sum[e] = 0;
    if (row >= p.m) return;
    const bool whole = row + kVec <= p.m;
    int k = first;
    for (; whole && k + (kAhead - 1) * kDown < last; k += kAhead * kDown) {
        Vec<Scalar, kVec> v[kAhead];
        Op x[kAhead];
        GEMS_UNROLL for (int i = 0; i < kAhead; i++) v[i] = load_stream<kVec>(a + (k + i * kDown) * p.a_k + row);
        GEMS_UNROLL for (int i = 0; i < kAhead; i++) x[i] = to_op(b[k + i * kDown]);
        GEMS_UNROLL for (int i = 0; i < kAhead; i++) {
            GEMS_UNROLL for (int e = 0; e < kVec; e++) sum[e] = gems::fma(to_op(v[i].v[e]), x[i], sum[e]);
        }
    }
    for (; k < last; k += kDown) {
        const Op x = to_op(b[k]);
        GEMS_UNROLL for (int e = 0; e < kVec; e++)
            if (row + e < p.m) sum[e] = gems::fma(to_op(a[k * p.a_k + row + e]), x, sum[e]);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 3) matmul_one(const __grid_constant__ MatmulParams p) {
    __shared__ Op parts[kLines ? kWarps * kOutputs : kWarps * kOwn];
#if GEMS_CLUSTERS
    __shared__ Op sums[kOutputs];
#endif
    const int share = GEMS_CLUSTERS ? p.share : 1, rank = (int)blockIdx.x % share, tile = (int)blockIdx.x / share;
    const int batch = tile / p.tiles_m, row0 = (tile - batch * p.tiles_m) * kOutputs, thread = (int)threadIdx.x;
    const int warp = thread >> 5, lane = thread & 31, part = kLines ? rank : warp % kShare;
    const int first = part * p.split_k, last = first + p.split_k < p.k ? first + p.split_k : p.k;
    const Scalar *a = static_cast<const Scalar *>(p.a) + batch * p.a_batch, *b = static_cast<const Scalar *>(p.b) + batch * p.b_batch;
    const Scalar *c = p.c ? static_cast<const Scalar *>(p.c) + batch * p.c_batch : nullptr;
    Scalar *d = static_cast<Scalar *>(p.d) + batch * p.d_batch;
    if constexpr (kLines) {
        Op sum[kVec];
        along_lines(p, a, b, row0 + thread % kShare * kVec, first + thread / kShare, last, sum);
        GEMS_UNROLL for (int e = 0; e < kVec; e++) {
            GEMS_UNROLL for (int by = kShare; by < 32; by *= 2) sum[e] += shuffle_xor(sum[e], by);
            if (lane < kShare) parts[warp * kOutputs + lane * kVec + e] = sum[e];
        }
    } else {
        Op sum[kOwn];
        along_k(p, a, b, row0 + warp / kShare * kOwn, first, last, sum);
        GEMS_UNROLL for (int r = 0; r < kOwn; r++) {
            sum[r] = warp_reduce(sum[r], Sum{});
            if (lane == 0) parts[warp * kOwn + r] = sum[r];
        }
    }
    __syncthreads();
    Op v[1] = {0};
    if (thread < kOutputs) {
        GEMS_UNROLL for (int i = 0; i < (kLines ? kWarps : kShare); i++)
            v[0] += parts[kLines ? i * kOutputs + thread : (thread / kOwn * kShare + i) * kOwn + thread % kOwn];
    }
#if GEMS_CLUSTERS
    if (thread < kOutputs) sums[thread] = v[0];
    cluster_arrive();
    cluster_wait();
    if (thread < kOutputs && thread * share / kOutputs == rank) {
        v[0] = 0;
        for (int i = 0; i < share; i++) v[0] += cluster_read(sums + thread, i);
    }
#endif
    if (thread < kOutputs && row0 + thread < p.m && (!kLines || thread * share / kOutputs == rank)) finish(p, c, d, row0 + thread, 0, v);
#if GEMS_CLUSTERS // no block ends while another one may still read its sums
    cluster_arrive();
    cluster_wait();
#endif
}
