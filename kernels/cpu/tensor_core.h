// Tensor cores and background copies, for the modes where every thread exists. A warp's lanes hand in their registers, the
// last one computes. Products are summed in double and rounded once: no order of summation is relied on.
namespace gems_cpu {

GEMS_UNSEEN inline float half_value(uint16_t x, bool brain) {
    uint32_t m = (uint32_t)(x & 0x7fff) << 13, u = (uint32_t)x << 16;
    float r;
    if (!brain) {
        if (m < 0x00800000u) { // 2^-14 times the fraction
            float small = (float)(x & 0x3ff) * 5.9604644775390625e-08f;
            return x & 0x8000 ? -small : small;
        }
        u = (u & 0x80000000u) | (m >= 0x0f800000u ? m + 0x70000000u : m + 0x38000000u);
    }
    memcpy(&r, &u, 4);
    return r;
}

struct Mma { void* d; const void *a, *b; };

template <bool Brain> GEMS_UNSEEN void mma_16816(void** lanes, unsigned) {
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; l++) {
        const Mma* m = (const Mma*)lanes[l];
        const uint16_t *x = (const uint16_t*)m->a, *y = (const uint16_t*)m->b;
        int row = l >> 2, col = (l & 3) * 2;
        for (int i = 0; i < 8; i++) a[row + (i & 2 ? 8 : 0)][col + (i & 1) + (i & 4 ? 8 : 0)] = half_value(x[i], Brain);
        for (int i = 0; i < 4; i++) b[col + (i & 1) + (i & 2 ? 8 : 0)][row] = half_value(y[i], Brain);
    }
    for (int l = 0; l < 32; l++) {
        float* d = (float*)((Mma*)lanes[l])->d;
        for (int i = 0; i < 4; i++) {
            int row = (l >> 2) + (i & 2 ? 8 : 0), col = (l & 3) * 2 + (i & 1);
            double sum = d[i];
            for (int k = 0; k < 16; k++) sum += (double)a[row][k] * b[k][col];
            d[i] = (float)sum;
        }
    }
}
GEMS_UNSEEN inline float tf32(uint32_t u) { // the low 13 bits are not looked at
    float r;
    u &= 0xffffe000u;
    memcpy(&r, &u, 4);
    return r;
}
GEMS_UNSEEN inline void mma_1688_tf32(void** lanes, unsigned) {
    float a[16][8], b[8][8];
    for (int l = 0; l < 32; l++) {
        const Mma* m = (const Mma*)lanes[l];
        const uint32_t *x = (const uint32_t*)m->a, *y = (const uint32_t*)m->b;
        int row = l >> 2, col = l & 3;
        for (int i = 0; i < 4; i++) a[row + (i & 1 ? 8 : 0)][col + (i & 2 ? 4 : 0)] = tf32(x[i]);
        for (int i = 0; i < 2; i++) b[col + i * 4][row] = tf32(y[i]);
    }
    for (int l = 0; l < 32; l++) {
        float* d = (float*)((Mma*)lanes[l])->d;
        for (int i = 0; i < 4; i++) {
            int row = (l >> 2) + (i & 2 ? 8 : 0), col = (l & 3) * 2 + (i & 1);
            double sum = d[i];
            for (int k = 0; k < 8; k++) sum += (double)a[row][k] * b[k][col];
            d[i] = (float)sum;
        }
    }
}
GEMS_UNSEEN inline void mma_884_f64(void** lanes, unsigned) {
    double a[8][4], b[4][8];
    for (int l = 0; l < 32; l++) {
        const Mma* m = (const Mma*)lanes[l];
        a[l >> 2][l & 3] = *(const double*)m->a;
        b[l & 3][l >> 2] = *(const double*)m->b;
    }
    for (int l = 0; l < 32; l++) {
        double* d = (double*)((Mma*)lanes[l])->d;
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < 4; k++) d[i] = __builtin_fma(a[l >> 2][k], b[k][(l & 3) * 2 + i], d[i]);
    }
}
struct LoadMatrix { uint32_t* r; const char* row; };
template <bool Transposed> GEMS_UNSEEN void ldmatrix_x4(void** lanes, unsigned) {
    for (int j = 0; j < 4; j++)
        for (int l = 0; l < 32; l++) {
            uint16_t two[2];
            for (int i = 0; i < 2; i++) {
                int row = Transposed ? (l & 3) * 2 + i : l >> 2, col = Transposed ? l >> 2 : (l & 3) * 2 + i;
                memcpy(&two[i], ((LoadMatrix*)lanes[j * 8 + row])->row + col * 2, 2);
            }
            memcpy(&((LoadMatrix*)lanes[l])->r[j], two, 4);
        }
}
template <bool Transposed> GEMS_UNSEEN __noinline__ void load_matrix(uint32_t* r, const void* row, int line) {
#if GEMS_CHECKED
    gems_cpu_runtime->access(row, 16, 4, __builtin_return_address(0));
#endif
    LoadMatrix m{r, (const char*)row};
    gems_cpu_runtime->warp(~0u, ldmatrix_x4<Transposed>, &m, line, "ldmatrix");
}
GEMS_UNSEEN inline void mma(void* d, const void* a, const void* b, Collective all, int line) {
    Mma m{d, a, b};
    gems_cpu_runtime->warp(~0u, all, &m, line, "mma");
}

} // namespace gems_cpu

namespace gems {
GEMS_INLINE void cp_async16(void* smem, const void* gmem, int bytes = 16, GEMS_LINE_) {
    gems_cpu_runtime->copy_later(smem, gmem, (unsigned)bytes, 16, line);
}
GEMS_INLINE void cp_async4(void* smem, const void* gmem, int bytes = 4, GEMS_LINE_) {
    gems_cpu_runtime->copy_later(smem, gmem, (unsigned)bytes, 4, line);
}
GEMS_INLINE void cp_async_commit() { gems_cpu_runtime->copy_commit(); }
template <int N> GEMS_INLINE void cp_async_wait(GEMS_LINE_) { gems_cpu_runtime->copy_wait(N, line); }
GEMS_INLINE void ldmatrix_x4(uint32_t* r, const void* smem, GEMS_LINE_) { gems_cpu::load_matrix<false>(r, smem, line); }
GEMS_INLINE void ldmatrix_x4_trans(uint32_t* r, const void* smem, GEMS_LINE_) { gems_cpu::load_matrix<true>(r, smem, line); }
struct f16;
struct bf16;
template <class T> struct gems_brain { static constexpr bool value = false; };
template <> struct gems_brain<bf16> { static constexpr bool value = true; };
template <class T> GEMS_INLINE void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, GEMS_LINE_) {
    gems_cpu::mma(d, a, b, gems_cpu::mma_16816<gems_brain<T>::value>, line);
}
GEMS_INLINE void mma_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b, GEMS_LINE_) {
    gems_cpu::mma(d, a, b, gems_cpu::mma_1688_tf32, line);
}
GEMS_INLINE void mma_m8n8k4_f64(double* d, const double* a, const double* b, GEMS_LINE_) {
    gems_cpu::mma(d, a, b, gems_cpu::mma_884_f64, line);
}
} // namespace gems
