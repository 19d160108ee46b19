// What CUDA C++ needs on a host compiler; comes before kernels/gems.cuh. No system header is read: a program compiles in
// 100 ms. GEMS_FAST 1: a block is one thread, all collectives are the identity. GEMS_FAST 0: a block has all its threads,
// which the runtime (csrc/backend/cpu/) switches at every collective. GEMS_CHECKED 1: every access is reported to it too.
#define GEMS_CPU 1
#ifndef GEMS_CHECKED
#define GEMS_CHECKED 0
#endif
typedef __INT8_TYPE__ int8_t;
typedef __UINT8_TYPE__ uint8_t;
typedef __INT16_TYPE__ int16_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __INT32_TYPE__ int32_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT64_TYPE__ uint64_t;
typedef __UINTPTR_TYPE__ uintptr_t;
typedef __SIZE_TYPE__ size_t;

#define __device__
#define __host__
#define __global__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define memcpy __builtin_memcpy
#define memset __builtin_memset
#define GEMS_INLINE inline __attribute__((always_inline))
#define GEMS_UNSEEN __attribute__((no_sanitize("thread"))) // not the kernel's own accesses
#define GEMS_EXPORTED extern "C" __attribute__((visibility("default")))
#ifdef __clang__
#define GEMS_UNROLL _Pragma("clang loop unroll(full)")
#define GEMS_IVDEP _Pragma("clang loop vectorize(assume_safety)")
#define GEMS_VECTOR GEMS_IVDEP
#else
#define GEMS_UNROLL _Pragma("GCC unroll 64")
#define GEMS_IVDEP _Pragma("GCC ivdep")
#define GEMS_VECTOR _Pragma("GCC ivdep") _Pragma("GCC unroll 1") // a short loop becomes vectors, not single steps
#endif

// Where the compiler turns whole vectors of halves into floats by itself; elsewhere integer code does, which vectorises
// too. GCC 12 has the type but converts element by element: softmax took 15 times as long as ATen's.
#if defined(GEMS_NO_NATIVE_HALF)
#elif defined(__aarch64__)
#define GEMS_NATIVE_HALF __fp16
#elif (defined(__AVX512FP16__) && (defined(__clang__) || __GNUC__ >= 13)) || (defined(__F16C__) && __clang_major__ >= 15)
#define GEMS_NATIVE_HALF _Float16
#endif

// Where a processor converts vectors of halves but the compiler does not by itself: blocks of them, to nearest even.
#if defined(__F16C__) && !defined(GEMS_NATIVE_HALF) && !defined(GEMS_NO_NATIVE_HALF)
#define GEMS_HALF_BLOCKS 1
namespace gems_cpu {
typedef short half8 __attribute__((vector_size(16)));
typedef float float8 __attribute__((vector_size(32)));
GEMS_INLINE void halves_to_floats(float* to, const void* halves, int n) {
    const char* from = (const char*)halves;
    half8 h;
    float8 f;
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&h, from + 2 * i, 16);
        f = __builtin_ia32_vcvtph2ps256(h);
        memcpy(to + i, &f, 32);
    }
    if (i < n) {
        h = half8{};
        memcpy(&h, from + 2 * i, 2 * (size_t)(n - i));
        f = __builtin_ia32_vcvtph2ps256(h);
        memcpy(to + i, &f, 4 * (size_t)(n - i));
    }
}
GEMS_INLINE void floats_to_halves(void* halves, const float* from, int n) {
    char* to = (char*)halves;
    float8 f;
    half8 h;
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&f, from + i, 32);
        h = __builtin_ia32_vcvtps2ph256(f, 0);
        memcpy(to + 2 * i, &h, 16);
    }
    if (i < n) {
        f = float8{};
        memcpy(&f, from + i, 4 * (size_t)(n - i));
        h = __builtin_ia32_vcvtps2ph256(f, 0);
        memcpy(to + 2 * i, &h, 2 * (size_t)(n - i));
    }
}
} // namespace gems_cpu
#endif

// Products of 32-bit words in two words, where the compiler takes a slower instruction for loops over them.
#if defined(__AVX512F__) && !defined(__clang__)
#define GEMS_WIDE_PRODUCTS 1
namespace gems_cpu {
typedef unsigned word16 __attribute__((vector_size(64)));
GEMS_INLINE word16 word16_at(const unsigned* p) {
    word16 v;
    memcpy(&v, p, 64);
    return v;
}
GEMS_INLINE void multiply(word16 a, unsigned by, word16& high, word16& low) {
    typedef int int16 __attribute__((vector_size(64)));
    typedef long long long8 __attribute__((vector_size(64)));
    typedef unsigned long long word8 __attribute__((vector_size(64)));
    const word16 b = word16{} + by;
    word8 even = (word8)__builtin_ia32_pmuludq512_mask((int16)a, (int16)b, long8{}, 0xff);
    word8 odd = (word8)__builtin_ia32_pmuludq512_mask((int16)((word8)a >> 32), (int16)b, long8{}, 0xff);
    const word8 upper = word8{} + 0xffffffff00000000ull;
    high = (word16)((even >> 32) | (odd & upper));
    low = (word16)((even & ~upper) | (odd << 32));
}
} // namespace gems_cpu
#endif

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
template <class T> GEMS_INLINE T max(T a, T b) { return a < b ? b : a; }
template <class T> GEMS_INLINE T min(T a, T b) { return b < a ? b : a; }
GEMS_INLINE unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
GEMS_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
GEMS_INLINE int __ffs(int x) { return __builtin_ffs(x); }
GEMS_INLINE int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
template <class T> GEMS_INLINE T __ldg(const T* p) { return *p; }

#if GEMS_FAST
namespace gems_cpu {
static thread_local unsigned char* dynamic_memory;
GEMS_INLINE void copy_in(void* to, const void* from, size_t n) { memcpy(to, from, n); }
GEMS_INLINE void copy_out(void* to, const void* from, size_t n) { memcpy(to, from, n); }
}
static thread_local uint3 blockIdx;
static thread_local dim3 gridDim;
static constexpr uint3 threadIdx{0, 0, 0};
static constexpr dim3 blockDim{1, 1, 1};
static constexpr int warpSize = 1;
#define __shared__ // the block is this one call
#define GEMS_DYN_SMEM(T, name) T* name = (T*)gems_cpu::dynamic_memory

GEMS_INLINE void __syncthreads() {}
GEMS_INLINE void __syncwarp(unsigned = 1) {}
GEMS_INLINE int __syncthreads_count(int p) { return p != 0; }
GEMS_INLINE int __syncthreads_or(int p) { return p != 0; }
GEMS_INLINE int __syncthreads_and(int p) { return p != 0; }
template <class T> GEMS_INLINE T __shfl_sync(unsigned, T v, int, int = 1) { return v; }
template <class T> GEMS_INLINE T __shfl_xor_sync(unsigned, T v, int, int = 1) { return v; }
template <class T> GEMS_INLINE T __shfl_down_sync(unsigned, T v, unsigned, int = 1) { return v; }
template <class T> GEMS_INLINE T __shfl_up_sync(unsigned, T v, unsigned, int = 1) { return v; }
GEMS_INLINE unsigned __ballot_sync(unsigned, int p) { return p != 0; }
GEMS_INLINE int __any_sync(unsigned, int p) { return p != 0; }
GEMS_INLINE int __all_sync(unsigned, int p) { return p != 0; }
GEMS_INLINE unsigned __activemask() { return 1; }
namespace gems { // copies land at once
GEMS_INLINE void cp_async16(void* smem, const void* gmem, int bytes = 16) {
    memset(smem, 0, 16);
    memcpy(smem, gmem, (size_t)bytes);
}
GEMS_INLINE void cp_async4(void* smem, const void* gmem, int bytes = 4) {
    memset(smem, 0, 4);
    memcpy(smem, gmem, (size_t)bytes);
}
GEMS_INLINE void cp_async_commit() {}
template <int N> GEMS_INLINE void cp_async_wait() {}

// Eight values as one vector of the compiler's, for operators on whole vectors.
template <class T> struct EightOf { typedef T type __attribute__((vector_size(8 * sizeof(T)))); };
template <class T> using Eight = typename EightOf<T>::type;
template <class T> GEMS_INLINE Eight<T> eight(T v) { return Eight<T>{v, v, v, v, v, v, v, v}; }
template <class T> GEMS_INLINE Eight<T> load_eight(const T* p) {
    Eight<T> r;
    memcpy(&r, p, sizeof r);
    return r;
}
template <class T> GEMS_INLINE void store_eight(T* p, Eight<T> v) { memcpy(p, &v, sizeof v); }
// r[i] = f(v[0], ..., v[i]) by an associative f of two vectors; f(zero, x) is x.
template <class T, class F> GEMS_INLINE Eight<T> lane_scan(Eight<T> v, F f, T zero) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
    Eight<T> z = eight(zero);
    v = f(__builtin_shufflevector(z, v, 0, 8, 9, 10, 11, 12, 13, 14), v);
    v = f(__builtin_shufflevector(z, v, 0, 1, 8, 9, 10, 11, 12, 13), v);
    v = f(__builtin_shufflevector(z, v, 0, 1, 2, 3, 8, 9, 10, 11), v);
#else
    for (int o = 1; o < 8; o *= 2) {
        Eight<T> left = eight(zero);
        for (int i = o; i < 8; i++) left[i] = v[i - o];
        v = f(left, v);
    }
#endif
    return v;
}
}
#else
namespace gems_cpu {
// The next three are shared with csrc/backend/cpu/simt.h: keep them the same.
typedef void (*Collective)(void** operands, unsigned mask);
struct Thread { uint3 thread, block; dim3 size, grid; unsigned rank, lane, warp; unsigned char* dynamic; };
struct Runtime {
    Thread* self;
    void (*warp)(unsigned mask, Collective all, void* operand, int line, const char* what);
    int (*barrier)(int predicate, int line); // how many threads had it true
    void (*access)(const void* p, size_t bytes, int kind, const void* pc); // kind: 1 write, 2 atomic, 4 one vector
    void (*copy_later)(void* to, const void* from, unsigned bytes, unsigned total, int line);
    void (*copy_commit)();
    void (*copy_wait)(int groups, int line);
    void (*wait_for)(bool (*ready)(void*), void* what, const char* name, int line); // others run until it is ready
    void (*stop)(const char* message);                                              // ends the launch with an error
    void (*ordered)(); // what the block's threads did so far is before what they do now
    void (*cluster_arrive)(int line);
    void (*cluster_wait)(int line);
    const void* (*peer)(const void* p, int block, size_t bytes); // the same place in another block of the cluster
};
}
GEMS_EXPORTED const gems_cpu::Runtime* gems_cpu_runtime = nullptr;
#define threadIdx (gems_cpu_runtime->self->thread)
#define blockIdx (gems_cpu_runtime->self->block)
#define blockDim (gems_cpu_runtime->self->size)
#define gridDim (gems_cpu_runtime->self->grid)
static constexpr int warpSize = 32;
#define __shared__ static
#define GEMS_DYN_SMEM(T, name) T* name = (T*)gems_cpu_runtime->self->dynamic

namespace gems_cpu {
#if GEMS_CHECKED
GEMS_UNSEEN __noinline__ static void copy_in(void* to, const void* from, size_t n) {
    gems_cpu_runtime->access(from, n, 4, __builtin_return_address(0));
    memcpy(to, from, n);
}
GEMS_UNSEEN __noinline__ static void copy_out(void* to, const void* from, size_t n) {
    gems_cpu_runtime->access(to, n, 4 | 1, __builtin_return_address(0));
    memcpy(to, from, n);
}
#else
GEMS_INLINE void copy_in(void* to, const void* from, size_t n) { memcpy(to, from, n); }
GEMS_INLINE void copy_out(void* to, const void* from, size_t n) { memcpy(to, from, n); }
#endif
template <class T> struct Shuffle { T in, out; int from; };
template <class T> GEMS_UNSEEN void shuffle_all(void** operands, unsigned mask) {
    for (unsigned m = mask; m; m &= m - 1) {
        Shuffle<T>* q = (Shuffle<T>*)operands[__builtin_ctz(m)];
        if (mask >> q->from & 1) q->out = ((Shuffle<T>*)operands[q->from])->in;
    }
}
template <class T> GEMS_UNSEEN T shuffle(unsigned mask, T v, int from, int width, int line) {
    int lane = (int)gems_cpu_runtime->self->lane;
    if (from < 0 || from / width != lane / width) from = lane;
    Shuffle<T> s{v, v, from};
    gems_cpu_runtime->warp(mask, shuffle_all<T>, &s, line, "shuffle");
    return s.out;
}
GEMS_INLINE int lane() { return (int)gems_cpu_runtime->self->lane; }
struct Vote { unsigned in, out; };
GEMS_UNSEEN inline void vote_all(void** operands, unsigned mask) {
    unsigned r = 0;
    for (unsigned m = mask; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        r |= (unsigned)(((Vote*)operands[l])->in != 0) << l;
    }
    for (unsigned m = mask; m; m &= m - 1) ((Vote*)operands[__builtin_ctz(m)])->out = r;
}
GEMS_UNSEEN inline unsigned vote(unsigned mask, int p, int line) {
    Vote v{p != 0, 0};
    gems_cpu_runtime->warp(mask, vote_all, &v, line, "vote");
    return v.out;
}
GEMS_UNSEEN inline void nothing(void**, unsigned) {}
}
#define GEMS_LINE_ int line = __builtin_LINE()
GEMS_UNSEEN inline void __syncthreads(GEMS_LINE_) { gems_cpu_runtime->barrier(0, line); }
GEMS_UNSEEN inline int __syncthreads_count(int p, GEMS_LINE_) { return gems_cpu_runtime->barrier(p != 0, line); }
GEMS_UNSEEN inline int __syncthreads_or(int p, GEMS_LINE_) { return gems_cpu_runtime->barrier(p != 0, line) != 0; }
GEMS_UNSEEN inline int __syncthreads_and(int p, GEMS_LINE_) { return gems_cpu_runtime->barrier(p == 0, line) == 0; }
GEMS_UNSEEN inline void __syncwarp(unsigned mask = ~0u, GEMS_LINE_) {
    gems_cpu_runtime->warp(mask, gems_cpu::nothing, nullptr, line, "__syncwarp");
}
template <class T> GEMS_INLINE T __shfl_sync(unsigned mask, T v, int from, int width = 32, GEMS_LINE_) {
    return gems_cpu::shuffle(mask, v, (gems_cpu::lane() & ~(width - 1)) | (from & (width - 1)), width, line);
}
template <class T> GEMS_INLINE T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, GEMS_LINE_) {
    return gems_cpu::shuffle(mask, v, gems_cpu::lane() ^ x, width, line);
}
template <class T> GEMS_INLINE T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, GEMS_LINE_) {
    return gems_cpu::shuffle(mask, v, gems_cpu::lane() + (int)by, width, line);
}
template <class T> GEMS_INLINE T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, GEMS_LINE_) {
    return gems_cpu::shuffle(mask, v, gems_cpu::lane() - (int)by, width, line);
}
GEMS_INLINE unsigned __ballot_sync(unsigned mask, int p, GEMS_LINE_) { return gems_cpu::vote(mask, p, line); }
GEMS_INLINE int __any_sync(unsigned mask, int p, GEMS_LINE_) { return gems_cpu::vote(mask, p, line) != 0; }
GEMS_INLINE int __all_sync(unsigned mask, int p, GEMS_LINE_) { return gems_cpu::vote(mask, !p, line) == 0; }
#endif

GEMS_INLINE void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
GEMS_INLINE void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// ---- atomics on integers; blocks run on several threads of the host, so these are real
template <class T> struct gems_itself { typedef T type; };
template <class T> GEMS_INLINE T atomicAdd(T* p, typename gems_itself<T>::type v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class T> GEMS_INLINE T atomicExch(T* p, typename gems_itself<T>::type v) {
    return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <class T>
GEMS_INLINE T atomicCAS(T* p, typename gems_itself<T>::type expected, typename gems_itself<T>::type v) {
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
template <class T> GEMS_INLINE T atomicMax(T* p, typename gems_itself<T>::type v) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
template <class T> GEMS_INLINE T atomicMin(T* p, typename gems_itself<T>::type v) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (v < old && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
