// Products on the tensor cores of elements that have not 16 bits: float32 rounded to tf32, float64, int8 and fp8, as part of the
// contract for the programs that name this file (behind tile.cuh).
//
// Elements of one byte lie along k, 32 deep a product; those of 4 and 8 bytes along k or along the lines. No ldmatrix turns these
// around: elements that lie along the lines are read one by one, from places in different banks.
// On a GPU (an H200) each has run and was right; the instructions of sm_89 and sm_120 for fp8 have only been compiled.
#if GEMS_CPU
namespace gems_cpu {

// 16 x 32 bytes of A, 32 x 8 of B, as the lanes hold them.
template <class T> GEMS_UNSEEN inline void gather_bytes(void** lanes, T (&a)[16][32], T (&b)[32][8]) {
    for (int l = 0; l < 32; l++) {
        const Mma* m = (const Mma*)lanes[l];
        const T *x = (const T*)m->a, *y = (const T*)m->b;
        int row = l >> 2, col = (l & 3) * 4;
        for (int i = 0; i < 16; i++) a[row + (i & 4 ? 8 : 0)][col + (i & 3) + (i & 8 ? 16 : 0)] = x[i];
        for (int i = 0; i < 8; i++) b[col + (i & 3) + (i & 4 ? 16 : 0)][row] = y[i];
    }
}
GEMS_UNSEEN inline void mma_16832_s8(void** lanes, unsigned) {
    signed char a[16][32], b[32][8];
    gather_bytes(lanes, a, b);
    for (int l = 0; l < 32; l++) {
        int* d = (int*)((Mma*)lanes[l])->d;
        for (int i = 0; i < 4; i++) {
            int row = (l >> 2) + (i & 2 ? 8 : 0), col = (l & 3) * 2 + (i & 1);
            unsigned sum = (unsigned)d[i];
            for (int k = 0; k < 32; k++) sum += (unsigned)(a[row][k] * b[k][col]);
            d[i] = (int)sum;
        }
    }
}
template <bool Five> GEMS_UNSEEN inline float f8_value(unsigned char x) {
    constexpr int bits = Five ? 2 : 3, bias = Five ? 15 : 7;
    int exponent = x >> bits & (Five ? 31 : 15), fraction = x & ((1 << bits) - 1);
    float v = exponent ? __builtin_ldexpf((float)(fraction | 1 << bits), exponent - bias - bits)
                       : __builtin_ldexpf((float)fraction, 1 - bias - bits);
    if (Five && exponent == 31) v = fraction ? __builtin_nanf("") : __builtin_inff();
    if (!Five && (x & 0x7f) == 0x7f) v = __builtin_nanf("");
    return x & 0x80 ? -v : v;
}
template <bool FiveA, bool FiveB> GEMS_UNSEEN void mma_16832_f8(void** lanes, unsigned) {
    unsigned char a[16][32], b[32][8];
    gather_bytes(lanes, a, b);
    for (int l = 0; l < 32; l++) {
        float* d = (float*)((Mma*)lanes[l])->d;
        for (int i = 0; i < 4; i++) {
            int row = (l >> 2) + (i & 2 ? 8 : 0), col = (l & 3) * 2 + (i & 1);
            double sum = d[i];
            for (int k = 0; k < 32; k++) sum += (double)f8_value<FiveA>(a[row][k]) * f8_value<FiveB>(b[k][col]);
            d[i] = (float)sum;
        }
    }
}

} // namespace gems_cpu
#endif

namespace gems {

// d += a b: 16 x 32 signed bytes times 32 x 8, in int32.
#if GEMS_CPU
GEMS_DI void mma_m16n8k32_s8(int32_t* d, const uint32_t* a, const uint32_t* b, GEMS_LINE_) {
    gems_cpu::mma(d, a, b, gems_cpu::mma_16832_s8, line);
}
template <class T, class U> GEMS_DI void mma_m16n8k32_f8(float* d, const uint32_t* a, const uint32_t* b, GEMS_LINE_) {
    gems_cpu::mma(d, a, b, gems_cpu::mma_16832_f8<is_same<T, f8e5m2>, is_same<U, f8e5m2>>, line);
}
GEMS_DI uint32_t to_tf32(uint32_t v) { // to nearest, ties away from zero
    return (v & 0x7f800000u) == 0x7f800000u ? v : (v + 0x1000u) & 0xffffe000u;
}
#else
GEMS_DI void mma_m16n8k32_s8(int32_t* d, const uint32_t* a, const uint32_t* b) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#define GEMS_MMA_16832_(first, second)                                                                                     \
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32." first "." second ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                          \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
// The same of fp8 (sm_89 and later).
template <class T, class U> GEMS_DI void mma_m16n8k32_f8(float* d, const uint32_t* a, const uint32_t* b) {
    if constexpr (is_same<T, f8e4m3> && is_same<U, f8e4m3>) GEMS_MMA_16832_("e4m3", "e4m3");
    else if constexpr (is_same<T, f8e4m3>) GEMS_MMA_16832_("e4m3", "e5m2");
    else if constexpr (is_same<U, f8e4m3>) GEMS_MMA_16832_("e5m2", "e4m3");
    else GEMS_MMA_16832_("e5m2", "e5m2");
}
GEMS_DI uint32_t to_tf32(uint32_t v) {
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0,%1;" : "=r"(r) : "f"(bits_float(v)));
    return r;
}
#endif
// d += a b of float64, 16 x 16 times 16 x 8. Registers go on along k as those of mma_m16n8k8_tf32.
GEMS_DI void mma_m16n8k16_f64(double* d, const double* a, const double* b) {
#if !GEMS_CPU && GEMS_ARCH >= 900
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%0,%1,%2,%3},{%4,%5,%6,%7,%8,%9,%10,%11},{%12,%13,%14,%15},{%0,%1,%2,%3};"
                 : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3])
                 : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]), "d"(b[0]), "d"(b[1]),
                   "d"(b[2]), "d"(b[3]));
#else
    GEMS_UNROLL for (int half = 0; half < 2; half++) {
        GEMS_UNROLL for (int k = 0; k < 4; k++) mma_m8n8k4_f64(d + half * 2, a + k * 2 + half, b + k);
    }
#endif
}

// Places at which lanes that read together find different banks.
template <int CHUNKS> struct Place<float, CHUNKS, false> { // four rows, two chunks
    static GEMS_DI int of(int row, int chunk) { return row * CHUNKS + (chunk ^ (row & (CHUNKS < 8 ? 1 : 3)) << 1); }
};
template <int CHUNKS> struct Place<double, CHUNKS, false> { // every second of eight rows, two chunks
    static GEMS_DI int of(int row, int chunk) { return row * CHUNKS + (chunk ^ (row >> 1 & 3) << 1); }
};
template <int CHUNKS> struct Place<double, CHUNKS, true> { // two rows, four chunks
    static GEMS_DI int of(int row, int chunk) { return row * CHUNKS + (chunk ^ (row & 1) << 2); }
};

// An element of a tile that lies along its lines.
template <class T, int LINES> GEMS_DI T element(const T *tile, int line, int k) {
    constexpr int kVec = 16 / (int)sizeof(T);
    return load<1>(tile + Place<T, LINES / kVec, false>::of(k, line / kVec) * kVec + line % kVec).v[0];
}

// 16 lines of a tile that lies along k, 32 bytes deep: the order of B where SECOND, else that of A.
template <class T, int BK, bool SECOND> GEMS_DI void byte_fragment(uint32_t (&r)[4], const T *tile, int line, int k) {
    constexpr int kVec = 16 / (int)sizeof(T);
    int lane = (int)threadIdx.x & 31, matrix = lane >> 3;
    int down = SECOND ? matrix >> 1 : matrix & 1, across = SECOND ? matrix & 1 : matrix >> 1;
    ldmatrix_x4(r, tile + Place<T, BK / kVec, true>::of(line + down * 8 + (lane & 7), k / kVec + across) * kVec);
}

template <class U> struct Multiplier<int8_t, U> {
    typedef int32_t Op;
    typedef uint32_t Reg;
    static constexpr int kDepth = 32, kRegs = 4;
    template <int LINES, int BK, bool FOLLOWS_K> static GEMS_DI void load_a(Reg (&r)[4], const int8_t *tile, int line, int k) {
        static_assert(FOLLOWS_K, "bytes lie along k");
        byte_fragment<int8_t, BK, false>(r, tile, line, k);
    }
    template <int LINES, int BK, bool FOLLOWS_K> static GEMS_DI void load_b(Reg (&r)[4], const int8_t *tile, int line, int k) {
        byte_fragment<int8_t, BK, true>(r, tile, line, k);
    }
    static GEMS_DI void multiply(Op *d, const Reg *a, const Reg *b) { mma_m16n8k32_s8(d, a, b); }
};

template <class T, class U> struct MultiplierF8 {
    typedef float Op;
    typedef uint32_t Reg;
    static constexpr int kDepth = 32, kRegs = 4;
    template <int LINES, int BK, bool FOLLOWS_K> static GEMS_DI void load_a(Reg (&r)[4], const T *tile, int line, int k) {
        static_assert(FOLLOWS_K, "bytes lie along k");
        byte_fragment<T, BK, false>(r, tile, line, k);
    }
    template <int LINES, int BK, bool FOLLOWS_K> static GEMS_DI void load_b(Reg (&r)[4], const T *tile, int line, int k) {
        byte_fragment<T, BK, true>(r, tile, line, k);
    }
    static GEMS_DI void multiply(Op *d, const Reg *a, const Reg *b) { mma_m16n8k32_f8<T, U>(d, a, b); }
};
template <class U> struct Multiplier<f8e4m3, U> : MultiplierF8<f8e4m3, U> {};
template <class U> struct Multiplier<f8e5m2, U> : MultiplierF8<f8e5m2, U> {};

template <class U> struct Multiplier<float, U> { // tf32
    typedef float Op;
    typedef uint32_t Reg;
    static constexpr int kDepth = 8, kRegs = 4;
    template <int LINES, int BK, bool FOLLOWS_K, bool SECOND>
    static GEMS_DI void load_any(Reg (&r)[4], const float *tile, int line, int k) {
        if constexpr (FOLLOWS_K) {
            byte_fragment<float, BK, SECOND>(r, tile, line, k);
        } else {
            const int lane = (int)threadIdx.x & 31, g = lane >> 2, t = lane & 3;
            GEMS_UNROLL for (int i = 0; i < 4; i++) {
                const int down = SECOND ? i >> 1 : i & 1, across = SECOND ? i & 1 : i >> 1;
                r[i] = float_bits(element<float, LINES>(tile, line + down * 8 + g, k + across * 4 + t));
            }
        }
        GEMS_UNROLL for (int i = 0; i < 4; i++) r[i] = to_tf32(r[i]);
    }
    template <int LINES, int BK, bool FOLLOWS_K> static GEMS_DI void load_a(Reg (&r)[4], const float *tile, int line, int k) {
        load_any<LINES, BK, FOLLOWS_K, false>(r, tile, line, k);
    }
    template <int LINES, int BK, bool FOLLOWS_K> static GEMS_DI void load_b(Reg (&r)[4], const float *tile, int line, int k) {
        load_any<LINES, BK, FOLLOWS_K, true>(r, tile, line, k);
    }
    static GEMS_DI void multiply(Op *d, const Reg *a, const Reg *b) { mma_m16n8k8_tf32(d, a, b); }
};

// Of each line a lane has two neighbours in every eight along k: which of the eight a product calls the first is the same for A and B.
template <class U> struct Multiplier<double, U> {
    typedef double Op;
    typedef double Reg;
    static constexpr int kDepth = 16, kRegs = 8;
    template <int LINES, int BK, bool FOLLOWS_K> static GEMS_DI Vec<double, 2> two(const double *tile, int line, int k) {
        if constexpr (FOLLOWS_K) return load<2>(tile + Place<double, BK / 2, true>::of(line, k / 2) * 2);
        else return {element<double, LINES>(tile, line, k), element<double, LINES>(tile, line, k + 1)};
    }
    template <int LINES, int BK, bool FOLLOWS_K> static GEMS_DI void load_a(Reg (&r)[8], const double *tile, int line, int k) {
        const int lane = (int)threadIdx.x & 31, g = lane >> 2, t = lane & 3;
        GEMS_UNROLL for (int i = 0; i < 4; i++) {
            const Vec<double, 2> v = two<LINES, BK, FOLLOWS_K>(tile, line + (i & 1) * 8 + g, k + (i >> 1) * 8 + 2 * t);
            r[(i >> 1) * 4 + (i & 1)] = v.v[0];
            r[(i >> 1) * 4 + (i & 1) + 2] = v.v[1];
        }
    }
    template <int LINES, int BK, bool FOLLOWS_K> static GEMS_DI void load_b(Reg (&r)[8], const double *tile, int line, int k) {
        const int lane = (int)threadIdx.x & 31, g = lane >> 2, t = lane & 3;
        GEMS_UNROLL for (int i = 0; i < 4; i++) {
            const Vec<double, 2> v = two<LINES, BK, FOLLOWS_K>(tile, line + (i >> 1) * 8 + g, k + (i & 1) * 8 + 2 * t);
            r[(i >> 1) * 4 + (i & 1) * 2] = v.v[0];
            r[(i >> 1) * 4 + (i & 1) * 2 + 1] = v.v[1];
        }
    }
    static GEMS_DI void multiply(Op *d, const Reg *a, const Reg *b) { mma_m16n8k16_f64(d, a, b); }
};

}  // namespace gems
