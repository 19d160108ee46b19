// The register block of int8 in the cpu backend's fast mode, where the CPU sums four products of bytes at once (AVX512 VNNI), as part
// of the contract for the programs that name this file, behind panel.cuh. kDots: there is such an instruction.
//
// It takes unsigned bytes times signed ones. A is made unsigned by adding 128 to each element, and the sums begin at what that adds
// too much: -128 times the sum of a column of B.
#if defined(__AVX512VNNI__)
namespace {

constexpr bool kDots = true;
typedef int32_t Words __attribute__((vector_size(64), aligned(4), may_alias));

GEMS_DI void dot(Words &sums, Words a, Words b) { asm("vpdpbusd %2,%1,%0" : "+v"(sums) : "v"(a), "v"(b)); }

// A word in all places, loaded so: through a register it would take the unit that the products need.
GEMS_DI Words spread(const uint32_t *from) {
    Words r;
    asm("vpbroadcastd %1,%0" : "=v"(r) : "m"(*from));
    return r;
}

// Four elements that are `step` apart, as many as exist; others are zeros.
GEMS_DI uint32_t four(const int8_t *from, int64_t step, int count) {
    uint32_t r = 0;
    if (step == 1 && count >= 4) {
        memcpy(&r, from, 4);
        return r;
    }
    for (int i = 0; i < least(4, count); i++) r |= (uint32_t)(uint8_t)from[i * step] << i * 8;
    return r;
}

// N lines that lie along k, whole words of them.
template <int N> GEMS_DI void pack_words(uint32_t *__restrict to, const int8_t *__restrict from, int64_t line, int words, uint32_t flip) {
    for (int k = 0; k < words; k++, to += N, from += 4) {
        GEMS_UNROLL for (int i = 0; i < N; i++) {
            uint32_t w;
            memcpy(&w, from + i * line, 4);
            to[i] = w ^ flip;
        }
    }
}

// kRows lines of A as to[k / 4][line], four bytes a word.
inline void pack_dots_a(uint32_t *to, const int8_t *from, int64_t line, int64_t step, int width, int depth) {
    int whole = 0;
    if (step == 1 && width == kRows) {
        whole = depth / 4 * 4;
        pack_words<kRows>(to, from, line, depth / 4, 0x80808080u);
    }
    for (int r = 0; r < kRows; r++)
        for (int k = whole; k < depth; k += 4)
            to[k / 4 * kRows + r] = (r < width ? four(from + r * line + k * step, step, depth - k) : 0) ^ 0x80808080u;
}

__attribute__((noinline)) void interleave(int8_t *__restrict to, const int8_t *__restrict a, const int8_t *__restrict b,
                                          const int8_t *__restrict c, const int8_t *__restrict d) {
    for (int i = 0; i < kCols; i++) {
        to[4 * i] = a[i];
        to[4 * i + 1] = b[i];
        to[4 * i + 2] = c[i];
        to[4 * i + 3] = d[i];
    }
}
// kCols columns of B as to[k / 4][column], and where their sums begin.
inline void pack_dots_b(uint32_t *to, const int8_t *from, int64_t line, int64_t step, int width, int depth, int32_t *begin) {
    int whole = 0;
    if (step == 1 && width == kCols) {
        whole = depth / 4 * 4;
        pack_words<kCols>(to, from, line, depth / 4, 0);
        to += whole / 4 * kCols;
    }
    for (int k = whole; k < depth; k += 4, to += kCols) {
        if (line == 1 && width == kCols && k + 4 <= depth) {
            const int8_t *at = from + k * step;
            interleave((int8_t *)to, at, at + step, at + 2 * step, at + 3 * step);
        } else {
            for (int i = 0; i < kCols; i++) to[i] = i < width ? four(from + i * line + k * step, step, depth - k) : 0;
        }
    }
    to -= (depth + 3) / 4 * kCols;
    const Words ones = Words{} + 0x01010101;
    for (int v = 0; v < 2; v++) {
        Words sum = {};
        for (int k = 0; k < depth; k += 4) dot(sum, ones, *(const Words *)(to + k / 4 * kCols + v * 16));
        *(Words *)(begin + v * 16) = sum * -128;
    }
}

__attribute__((noinline)) void multiply_dots(const uint32_t *__restrict a, const uint32_t *__restrict b, int depth,
                                             const int32_t *begin, int32_t *__restrict sums, int64_t pitch, bool first) {
    Words acc[kRows][2];
    GEMS_UNROLL for (int r = 0; r < kRows; r++) {
        acc[r][0] = *(const Words *)begin;
        acc[r][1] = *(const Words *)(begin + 16);
        if (!first) {
            acc[r][0] += *(const Words *)(sums + r * pitch);
            acc[r][1] += *(const Words *)(sums + r * pitch + 16);
        }
    }
    for (int k = 0; k < depth; k += 4, a += kRows, b += kCols) {
        const Words b0 = *(const Words *)b, b1 = *(const Words *)(b + 16);
        GEMS_UNROLL for (int r = 0; r < kRows; r++) {
            const Words x = spread(a + r);
            dot(acc[r][0], x, b0);
            dot(acc[r][1], x, b1);
        }
    }
    GEMS_UNROLL for (int r = 0; r < kRows; r++) {
        *(Words *)(sums + r * pitch) = acc[r][0];
        *(Words *)(sums + r * pitch + 16) = acc[r][1];
    }
}

}  // namespace
#else
namespace {
constexpr bool kDots = false;
inline void pack_dots_a(uint32_t *, const int8_t *, int64_t, int64_t, int, int) {}
inline void pack_dots_b(uint32_t *, const int8_t *, int64_t, int64_t, int, int, int32_t *) {}
inline void multiply_dots(const uint32_t *, const uint32_t *, int, const int32_t *, int32_t *, int64_t, bool) {}
}  // namespace
#endif
