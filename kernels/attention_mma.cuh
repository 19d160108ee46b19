// Tiles of 16-bit rows in shared memory, as the kernels of attention for tensor cores have them.
//
// The head gives: kD and kDV (head dimensions, rounded up), kWarps, kAcross (warps that share rows and divide the columns of
// the result), kAligned (rows begin at multiples of 16 bytes).
namespace {

constexpr int kThreads = kWarps * 32;
constexpr int pitch_of(int d) { return d <= 32 ? 32 : (d + 63) / 64 * 64; }

// Element of a 16-byte chunk in a tile: 8 rows of one column of chunks lie in different banks.
template <int PITCH> GEMS_DI int place(int row, int chunk) {
    if constexpr (PITCH == 32) return (row * 4 + (chunk ^ (row >> 1 & 3))) * 8;
    else return row * PITCH + (chunk ^ (row & 7)) * 8;
}

// Starts bringing ROWS rows of D elements, of which `rows` rows of `dim` exist; the rest becomes zero. at(r): row r.
template <int ROWS, int D, int PITCH, class At>
GEMS_DI void bring(Scalar *tile, int rows, int dim, const Scalar *safe, At at) {
    constexpr int kChunks = D / 8, kTotal = ROWS * kChunks;
    GEMS_UNROLL for (int i0 = 0; i0 < kTotal; i0 += kThreads) {
        int i = i0 + (int)threadIdx.x, r = i / kChunks, c = i - r * kChunks;
        if (kTotal % kThreads != 0 && i >= kTotal) break;
        int n = r < rows ? lesser(greater(dim - c * 8, 0), 8) : 0;
        const Scalar *from = n ? at(r) + c * 8 : safe;
        Scalar *to = tile + place<PITCH>(r, c);
        if constexpr (kAligned) {
            cp_async16(to, from, n * 2);
        } else {
            Vec<Scalar, 8> v;
            GEMS_UNROLL for (int e = 0; e < 8; e++) v.v[e] = e < n ? from[e] : Scalar{};
            store<8>(to, v);
        }
    }
}

}  // namespace
