// What the kernels of attention for the cpu backend's fast mode share, beside the register block of panel.cuh. The head gives
// kTileM, the rows of a tile, and kTileN, the lines that are packed at a time.
namespace {

static_assert(kTileM % kRows == 0 && kTileN % kCols == 0, "tiles are whole panels");

GEMS_DI int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// sums[r][0 .. kCols) += rows of `weights`, kTileN apart, times a panel of B over depth.
template <int ROWS>
__attribute__((noinline)) void multiply_weights(const Op *__restrict w, const Op *__restrict b, int depth,
                                                Op *__restrict sums, int64_t pitch) {
    Lane acc[ROWS][2];
    GEMS_UNROLL for (int r = 0; r < ROWS; r++) {
        acc[r][0] = lane(sums + r * pitch);
        acc[r][1] = lane(sums + r * pitch + kLane);
    }
    for (int k = 0; k < depth; k++, w++, b += kCols) {
        Lane b0 = lane(b), b1 = lane(b + kLane);
        GEMS_UNROLL for (int r = 0; r < ROWS; r++) {
            acc[r][0] += w[r * kTileN] * b0;
            acc[r][1] += w[r * kTileN] * b1;
        }
    }
    GEMS_UNROLL for (int r = 0; r < ROWS; r++) {
        put(sums + r * pitch, acc[r][0]);
        put(sums + r * pitch + kLane, acc[r][1]);
    }
}
inline void weights_rows(const Op *w, const Op *b, int depth, Op *sums, int64_t pitch, int rows) {
    if (rows > kRows / 2) multiply_weights<kRows>(w, b, depth, sums, pitch);
    else if (rows > 2) multiply_weights<kRows / 2>(w, b, depth, sums, pitch);
    else multiply_weights<2>(w, b, depth, sums, pitch);
}

// Panels of keys as columns: to[panel][d][kCols].
inline void pack_keys(Op *to, const Keys &keys, int first, int count, int dim) {
    for (int j = 0; j < count; j += kCols, to += (int64_t)dim * kCols) {
        const int n = lesser(kCols, count - j);
        if constexpr (kPaged) {
            if (n < kCols) memset(to, 0, sizeof(Op) * (size_t)dim * kCols);
            for (int i = 0; i < n;) { // runs within a page
                int place = (first + j + i) % (int)keys.size.d, run = lesser(n - i, (int)keys.size.d - place);
                const Scalar *from = keys.at(first + j + i);
                for (int k = 0; k < run; k++)
                    for (int d = 0; d < dim; d++) to[(int64_t)d * kCols + i + k] = to_op(from[k * keys.row + d]);
                i += run;
            }
        } else pack<kCols>(to, keys.at(first + j), keys.row, 1, n, dim);
    }
}
// Panels of the columns of rows: to[panel][row][kCols].
inline void pack_rows(Op *to, const Keys &keys, int first, int count, int dim) {
    for (int c = 0; c < dim; c += kCols, to += (int64_t)count * kCols) {
        const int n = lesser(kCols, dim - c);
        if constexpr (kPaged) {
            for (int i = 0; i < count;) {
                int place = (first + i) % (int)keys.size.d, run = lesser(count - i, (int)keys.size.d - place);
                pack<kCols>(to + (int64_t)i * kCols, keys.at(first + i) + c, 1, keys.row, n, run);
                i += run;
            }
        } else pack<kCols>(to, keys.at(first) + c, 1, keys.row, n, count);
    }
}

// Exponents of one row to weights; gives their sum, in *top the largest so far, and what the sums before shrink by. A NaN is
// no maximum here: it comes through the sum.
__attribute__((noinline)) Op weigh(Op *__restrict w, int n, Op *top, Op *change) {
    Op largest = *top, sum = 0;
    int j = 0;
    if (n >= kLane) {
        Lane part = lane(w);
        for (j = kLane; j + kLane <= n; j += kLane) {
            Lane v = lane(w + j);
            part = v > part ? v : part;
        }
        for (int i = 0; i < kLane; i++) largest = part[i] > largest ? part[i] : largest;
    }
    for (; j < n; j++) largest = w[j] > largest ? w[j] : largest;
    const Op base = largest == -Limits<Op>::inf() ? (Op)0 : largest;
    *change = exp2(*top - base);
    *top = largest;
    for (j = 0; j < n; j++) w[j] = exp2(w[j] - base);
    Lane part{};
    for (j = 0; j + kLane <= n; j += kLane) part += lane(w + j);
    for (; j < n; j++) sum += w[j];
    for (int i = 0; i < kLane; i++) sum += part[i];
    return sum;
}

// Products to exponents, and what a row does not see to nothing.
__attribute__((noinline)) void exponents(const AttentionParams &p, const Sequence &s, Op *__restrict w, int first, int n,
                                         int head, int position) {
    if constexpr (kPlain) {
        const Op scale = (Op)p.scale * kLog2E;
        for (int j = 0; j < n; j++) w[j] *= scale;
    }
    if constexpr (!kPlain || kMask) {
        const Mask *mask = mask_row(p, s.batch, head, position);
        const Op slope = Slope(p, s.batch, head).value;
        const int away = first - position - s.shift;
        if constexpr (kMask) mask += first * p.mask_col;
        auto all = [&](auto at) {
            for (int j = 0; j < n; j++) {
                if constexpr (kPlain) w[j] = convert<bool>(at(j)) ? w[j] : -Limits<Op>::inf();
                else w[j] = exponent(p, w[j], slope, at(j), away + j);
            }
        };
        if (kMask == 0 || p.mask_col == 1) all([&](int j) { return kMask ? mask[j] : Mask{}; });
        else all([&](int j) { return mask[j * p.mask_col]; });
    }
    const int begin = position + s.shift - p.left - first, end = position + s.shift + p.right + 1 - first;
    for (int j = 0; j < lesser(begin, n); j++) w[j] = -Limits<Op>::inf();
    for (int j = greater(end, 0); j < n; j++) w[j] = -Limits<Op>::inf();
}

}  // namespace
