// The product of a matrix that lies along k with few columns that do, at most 16, of 16-bit floats: the tensor cores multiply what
// plain loads have brought to registers, so that nothing goes through shared memory but sums. A lane has eight neighbours along k of
// each of its lines and columns, which are two products: these add over k in whatever order, the same for both sides.
//
// The head of the program gives Scalar, kShare and kColumns (8 or 16). Has run on an H200. kShare warps of a block
// have a part of k each, and where GEMS_CLUSTERS says so the blocks of a cluster (p.share). Parts are added in their order.
using namespace gems;

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kStep = 32;  // of k
constexpr int kTall = 1;                          // products of 16 lines of a warp; two were slower
constexpr int kAhead = kColumns > 8 ? 4 : 6;      // steps under way
constexpr int kLines = kTall * 16, kGroups = kWarps / kShare, kWide = kColumns / 8;
constexpr int kPitch = kLines + 4, kOutputs = kGroups * kLines * kColumns;
static_assert(kColumns == 8 || kColumns == 16, "");

typedef Vec<uint32_t, 4> Eight; // neighbours along k

struct Lane {
    const Scalar *line[kTall * 2], *column[kWide];
    float acc[kTall][kWide][4];

    GEMS_DI Lane(const MatmulParams &p, const Scalar *a, const Scalar *b, int row) {
        const int lane = (int)threadIdx.x & 31, g = lane >> 2, k = (lane & 3) * 8;
        GEMS_UNROLL for (int i = 0; i < kTall * 2; i++) line[i] = a + least(row + g + i * 8, p.m - 1) * p.a_row + k;
        GEMS_UNROLL for (int i = 0; i < kWide; i++) column[i] = b + least(g + i * 8, p.n - 1) * p.b_col + k;
        GEMS_UNROLL for (int t = 0; t < kTall; t++) {
            GEMS_UNROLL for (int w = 0; w < kWide; w++) {
                GEMS_UNROLL for (int i = 0; i < 4; i++) acc[t][w][i] = 0;
            }
        }
    }
    static GEMS_DI int least(int a, int b) { return a < b ? a : b; }
    static GEMS_DI Eight fetch(const Scalar *p) {
        const Vec<Scalar, 8> v = load<8>(p);
        Eight r;
        memcpy(&r, &v, 16);
        return r;
    }
    static GEMS_DI Eight fetch_once(const Scalar *p) {
        const Vec<Scalar, 8> v = load_stream<8>(p);
        Eight r;
        memcpy(&r, &v, 16);
        return r;
    }
    GEMS_DI void multiply(const Eight (&a)[kTall * 2], const Eight (&b)[kWide]) {
        GEMS_UNROLL for (int h = 0; h < 4; h += 2) {
            GEMS_UNROLL for (int t = 0; t < kTall; t++) {
                const uint32_t x[4] = {a[t * 2].v[h], a[t * 2 + 1].v[h], a[t * 2].v[h + 1], a[t * 2 + 1].v[h + 1]};
                GEMS_UNROLL for (int w = 0; w < kWide; w++) {
                    const uint32_t y[2] = {b[w].v[h], b[w].v[h + 1]};
                    mma_m16n8k16<Scalar>(acc[t][w], x, y);
                }
            }
        }
    }
    // Adds k from `first` to `last`, of which all lanes of the warp do as many steps.
    GEMS_DI void add(int first, int last) {
        int k = first;
        for (; k + kAhead * kStep <= last; k += kAhead * kStep) {
            Eight a[kAhead][kTall * 2], b[kWide];
            GEMS_UNROLL for (int s = 0; s < kAhead; s++) {
                GEMS_UNROLL for (int i = 0; i < kTall * 2; i++) a[s][i] = fetch_once(line[i] + k + s * kStep);
            }
            GEMS_UNROLL for (int s = 0; s < kAhead; s++) {
                GEMS_UNROLL for (int i = 0; i < kWide; i++) b[i] = fetch(column[i] + k + s * kStep);
                multiply(a[s], b);
            }
        }
        for (; k < last; k += kStep) {
            const bool there = k + ((int)threadIdx.x & 3) * 8 < last; // a multiple of 8
            Eight a[kTall * 2], b[kWide];
            GEMS_UNROLL for (int i = 0; i < kTall * 2; i++) a[i] = there ? fetch(line[i] + k) : Eight{};
            GEMS_UNROLL for (int i = 0; i < kWide; i++) b[i] = there ? fetch(column[i] + k) : Eight{};
            multiply(a, b);
        }
    }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 2) matmul_few(const __grid_constant__ MatmulParams p) {
    __shared__ float parts[kWarps * kColumns * kPitch];
#if GEMS_CLUSTERS
    __shared__ float sums[kOutputs];
#endif
    const int share = GEMS_CLUSTERS ? p.share : 1, rank = (int)blockIdx.x % share, tile = (int)blockIdx.x / share;
    const int batch = tile / p.tiles_m, row0 = (tile - batch * p.tiles_m) * kGroups * kLines, thread = (int)threadIdx.x;
    const int warp = thread >> 5, lane = thread & 31, part = rank * kShare + warp % kShare;
    const int first = part * p.split_k, last = first + p.split_k < p.k ? first + p.split_k : p.k;
    const Scalar *a = static_cast<const Scalar *>(p.a) + batch * p.a_batch, *b = static_cast<const Scalar *>(p.b) + batch * p.b_batch;
    const Scalar *c = p.c ? static_cast<const Scalar *>(p.c) + batch * p.c_batch : nullptr;
    Scalar *d = static_cast<Scalar *>(p.d) + batch * p.d_batch;
    {
        Lane own(p, a, b, row0 + warp / kShare * kLines);
        own.add(first, last);
        GEMS_UNROLL for (int t = 0; t < kTall; t++) {
            GEMS_UNROLL for (int w = 0; w < kWide; w++) {
                GEMS_UNROLL for (int i = 0; i < 4; i++)
                    parts[(warp * kColumns + w * 8 + (lane & 3) * 2 + (i & 1)) * kPitch + t * 16 + (lane >> 2) + (i & 2) * 4] = own.acc[t][w][i];
            }
        }
    }
    __syncthreads();
    // Neighbours have lines below each other, which are neighbours in D.
#if GEMS_CLUSTERS
    for (int i = thread; i < kOutputs; i += kThreads) {
        const int line = i % (kGroups * kLines), column = i / (kGroups * kLines), from = line / kLines * kShare;
        float v = 0;
        GEMS_UNROLL for (int s = 0; s < kShare; s++) v += parts[((from + s) * kColumns + column) * kPitch + line % kLines];
        sums[i] = v;
    }
    cluster_arrive();
    cluster_wait();
#endif
    for (int i = thread + rank * kThreads; i < kOutputs; i += kThreads * share) {
        const int line = i % (kGroups * kLines), column = i / (kGroups * kLines);
        float v[1] = {0};
#if GEMS_CLUSTERS
        for (int s = 0; s < share; s++) v[0] += cluster_read(sums + i, s);
#else
        const int from = line / kLines * kShare;
        GEMS_UNROLL for (int s = 0; s < kShare; s++) v[0] += parts[((from + s) * kColumns + column) * kPitch + line % kLines];
#endif
        if (row0 + line < p.m && column < p.n) finish(p, c, d, row0 + line, column, v);
    }
#if GEMS_CLUSTERS // no block ends while another one may still read its sums
    cluster_arrive();
    cluster_wait();
#endif
}
