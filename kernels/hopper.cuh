// What only sm_90a has, as part of the contract for the programs that name this file: copies of tiles by tensor maps,
// barriers in shared memory that count bytes, products of a warpgroup; cluster.cuh comes before it. Rows of a tile have 128 bytes, swizzled:
// the 16-byte chunk of a row changes its place by an exclusive or with bits 7 to 9 of its address. A tile begins at a multiple of
// 1024 bytes.
//
// A tile lies in one of two ways. Along k: a row of 128 bytes is of one line, 64 deep where elements have 16 bits. Along lines, which
// those alone can: a row is 64 lines at one k, and 64 such rows are followed by the next 64 lines. float32 is rounded to tf32 by the
// copy.
// On a CPU (faithful and checked modes) a copy lands when its barrier is waited for, and a product is made when it is waited for,
// so that a wait that is missing gives wrong numbers.
namespace gems {

template <class T> struct Accumulator { typedef float type; };
template <> struct Accumulator<int8_t> { typedef int32_t type; };
struct alignas(64) TensorMap { uint64_t words[16]; }; // made by the backend (gems_tensor_map in csrc/backend/backend.h)

// A descriptor of a tile, or of what is `bytes` behind its begin; the same numbers serve both ways to lie.
GEMS_DI uint64_t tile_descriptor(uint32_t address) {
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(8192 >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

// The same of a tile that lies along lines, whose next 64 lines are `lead` bytes behind.
GEMS_DI uint64_t chunk_descriptor(uint32_t address, uint32_t lead) {
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(lead >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

#if !GEMS_CPU
GEMS_DI void mbarrier_init(uint64_t* bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0],%1;" ::"r"(shared_address(bar)), "r"(count) : "memory");
}
// Makes what mbarrier_init wrote seen by copies and by the cluster; a barrier of the block or cluster comes next.
GEMS_DI void mbarrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
GEMS_DI void mbarrier_arrive(uint64_t* bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _,[%0];" ::"r"(shared_address(bar)) : "memory");
}
// Arrives at the barrier that another block of the cluster has at the same place.
GEMS_DI void mbarrier_arrive_at(uint64_t* bar, int block) {
    asm volatile("{\n.reg .b32 r;\nmapa.shared::cluster.u32 r,%0,%1;\nmbarrier.arrive.shared::cluster.b64 _,[r];\n}"
                 ::"r"(shared_address(bar)), "r"(block) : "memory");
}
// Arrives, and lets the barrier wait for so many bytes of copies too.
GEMS_DI void mbarrier_expect(uint64_t* bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(shared_address(bar)), "r"(bytes) : "memory");
}
// Waits until the phase of this parity has ended. A wait that never ends becomes a trap: an error that is reported, not a GPU that
// hangs.
GEMS_DI void mbarrier_wait(uint64_t* bar, uint32_t parity) {
    uint32_t at = shared_address(bar), done = 0;
    for (uint32_t tries = 0; !done; tries++) {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p,[%1],%2;\nselp.u32 %0,1,0,p;\n}"
                     : "=r"(done) : "r"(at), "r"(parity) : "memory");
        if (tries == 1u << 26) asm volatile("trap;");
    }
}
// The same without the trap: where a kernel has one, no warpgroup is compiled for more registers than the kernel begins with.
GEMS_DI void mbarrier_await(uint64_t* bar, uint32_t parity) {
    uint32_t at = shared_address(bar), done = 0;
    while (!done)
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p,[%1],%2;\nselp.u32 %0,1,0,p;\n}"
                     : "=r"(done) : "r"(at), "r"(parity) : "memory");
}
GEMS_DI void tensor_map_prefetch(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"((uint64_t)&map) : "memory");
}
// Copies the box at (x, y, z) to shared memory; zeros where the tensor ends. The barrier is told the bytes of the whole box.
GEMS_DI void tensor_copy(void* to, const TensorMap& map, uint64_t* bar, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1,{%3,%4,%5}],[%2];"
                 ::"r"(shared_address(to)), "l"((uint64_t)&map), "r"(shared_address(bar)), "r"(x), "r"(y), "r"(z) : "memory");
}
// The same of a tensor of four dimensions.
GEMS_DI void tensor_copy(void* to, const TensorMap& map, uint64_t* bar, int x, int y, int z, int w) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1,{%3,%4,%5,%6}],[%2];"
                 ::"r"(shared_address(to)), "l"((uint64_t)&map), "r"(shared_address(bar)), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}
// The same into every block of `mask` in the cluster, at the same place, told to the barrier at the same place there.
GEMS_DI void tensor_copy_to(void* to, const TensorMap& map, uint64_t* bar, int x, int y, int z, uint16_t mask) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0],[%1,{%3,%4,%5}],[%2],%6;"
                 ::"r"(shared_address(to)), "l"((uint64_t)&map), "r"(shared_address(bar)), "r"(x), "r"(y), "r"(z), "h"(mask)
                 : "memory");
}
// What this thread wrote to shared memory is seen by copies that start behind it.
GEMS_DI void copy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Starts to copy a box of shared memory to (x, y, z), as far as the tensor goes.
GEMS_DI void tensor_store(const TensorMap& map, const void* from, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0,{%2,%3,%4}],[%1];\ncp.async.bulk.commit_group;"
                 ::"l"((uint64_t)&map), "r"(shared_address(from)), "r"(x), "r"(y), "r"(z) : "memory");
}
// Waits until all but the last N boxes that this thread stored have been read from shared memory.
template <int N> GEMS_DI void tensor_store_wait() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"); }
// True in one lane of a warp of which all come here.
GEMS_DI bool elect_one() {
    uint32_t r;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p,0xffffffff;\nselp.u32 %0,1,0,p;\n}" : "=r"(r));
    return r != 0;
}
// A barrier of some whole warps of a block, `threads` threads; ID is 1 to 15.
template <int ID> GEMS_DI void part_sync(int threads) { asm volatile("bar.sync %0,%1;" ::"n"(ID), "r"(threads) : "memory"); }
// The same with a number that is known as it runs; and to arrive there without waiting.
GEMS_DI void part_wait(int id, int threads) { asm volatile("bar.sync %0,%1;" ::"r"(id), "r"(threads) : "memory"); }
GEMS_DI void part_arrive(int id, int threads) { asm volatile("bar.arrive %0,%1;" ::"r"(id), "r"(threads) : "memory"); }
template <int N> GEMS_DI void registers_down() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> GEMS_DI void registers_up() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

// Before the first product of a thread, in a kernel without barriers of mbarrier_init.
GEMS_DI void wgmma_begin() {}
// Before the first product that uses accumulators which other code has written.
GEMS_DI void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
GEMS_DI void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N groups of products are not complete.
template <int N> GEMS_DI void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// Nothing is read from the accumulators before, or written to them behind this line.
template <int N> GEMS_DI void wgmma_keep(float (&d)[N]) {
    GEMS_UNROLL for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N> GEMS_DI void wgmma_keep(int32_t (&d)[N]) {
    GEMS_UNROLL for (int i = 0; i < N; i++) asm volatile("" : "+r"(d[i])::"memory");
}

#define GEMS_TEN_(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define GEMS_ONES_ "%0,%1,%2,%3,%4,%5,%6,%7"
#define GEMS_NAMES_8_ GEMS_ONES_
#define GEMS_NAMES_16_ GEMS_ONES_ ",%8,%9,%10,%11,%12,%13,%14,%15"
#define GEMS_NAMES_32_ GEMS_ONES_ ",%8,%9," GEMS_TEN_(1) GEMS_TEN_(2) "%30,%31"
#define GEMS_NAMES_40_ GEMS_ONES_ ",%8,%9," GEMS_TEN_(1) GEMS_TEN_(2) "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39"
#define GEMS_NAMES_48_ GEMS_ONES_ ",%8,%9," GEMS_TEN_(1) GEMS_TEN_(2) GEMS_TEN_(3) "%40,%41,%42,%43,%44,%45,%46,%47"
#define GEMS_NAMES_56_ GEMS_ONES_ ",%8,%9," GEMS_TEN_(1) GEMS_TEN_(2) GEMS_TEN_(3) GEMS_TEN_(4) "%50,%51,%52,%53,%54,%55"
#define GEMS_NAMES_64_ GEMS_ONES_ ",%8,%9," GEMS_TEN_(1) GEMS_TEN_(2) GEMS_TEN_(3) GEMS_TEN_(4) GEMS_TEN_(5) "%60,%61,%62,%63"
#define GEMS_NAMES_88_                                                                                                      \
    GEMS_ONES_ ",%8,%9," GEMS_TEN_(1) GEMS_TEN_(2) GEMS_TEN_(3) GEMS_TEN_(4) GEMS_TEN_(5) GEMS_TEN_(6) GEMS_TEN_(7)           \
        "%80,%81,%82,%83,%84,%85,%86,%87"
#define GEMS_NAMES_96_                                                                                                      \
    GEMS_ONES_ ",%8,%9," GEMS_TEN_(1) GEMS_TEN_(2) GEMS_TEN_(3) GEMS_TEN_(4) GEMS_TEN_(5) GEMS_TEN_(6) GEMS_TEN_(7)           \
        GEMS_TEN_(8) "%90,%91,%92,%93,%94,%95"
#define GEMS_NAMES_128_                                                                                                     \
    GEMS_ONES_ ",%8,%9," GEMS_TEN_(1) GEMS_TEN_(2) GEMS_TEN_(3) GEMS_TEN_(4) GEMS_TEN_(5) GEMS_TEN_(6) GEMS_TEN_(7) GEMS_TEN_(8) \
        GEMS_TEN_(9) GEMS_TEN_(10) GEMS_TEN_(11) "%120,%121,%122,%123,%124,%125,%126,%127"
#define GEMS_REGS_8_(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define GEMS_REGS_16_(i) GEMS_REGS_8_(i), GEMS_REGS_8_(i + 8)
#define GEMS_REGS_32_(i) GEMS_REGS_16_(i), GEMS_REGS_16_(i + 16)
#define GEMS_REGS_40_(i) GEMS_REGS_32_(i), GEMS_REGS_8_(i + 32)
#define GEMS_REGS_48_(i) GEMS_REGS_32_(i), GEMS_REGS_16_(i + 32)
#define GEMS_REGS_56_(i) GEMS_REGS_48_(i), GEMS_REGS_8_(i + 48)
#define GEMS_REGS_64_(i) GEMS_REGS_32_(i), GEMS_REGS_32_(i + 32)
#define GEMS_REGS_88_(i) GEMS_REGS_64_(i), GEMS_REGS_16_(i + 64), GEMS_REGS_8_(i + 80)
#define GEMS_REGS_96_(i) GEMS_REGS_64_(i), GEMS_REGS_32_(i + 64)
#define GEMS_REGS_128_(i) GEMS_REGS_64_(i), GEMS_REGS_64_(i + 64)
// n: columns; count: accumulators of a thread; a, b, keep, ta, tb: numbers of the operands behind them.
#define GEMS_WGMMA_(type, n, count, a, b, keep, ta, tb)                                                                     \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p,%" #keep ",0;\nwgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type \
                 " {" GEMS_NAMES_##count##_ "},%" #a ",%" #b ",p,1,1,%" #ta ",%" #tb ";\n}"                                 \
                 : GEMS_REGS_##count##_(0) : "l"(first), "l"(second), "r"(add), "n"((int)LINES_A), "n"((int)LINES_B))
#define GEMS_WGMMA_N_(type)                                                   \
    if constexpr (N == 16) GEMS_WGMMA_(type, 16, 8, 8, 9, 10, 11, 12);         \
    else if constexpr (N == 32) GEMS_WGMMA_(type, 32, 16, 16, 17, 18, 19, 20); \
    else if constexpr (N == 64) GEMS_WGMMA_(type, 64, 32, 32, 33, 34, 35, 36); \
    else if constexpr (N == 80) GEMS_WGMMA_(type, 80, 40, 40, 41, 42, 43, 44); \
    else if constexpr (N == 96) GEMS_WGMMA_(type, 96, 48, 48, 49, 50, 51, 52); \
    else if constexpr (N == 112) GEMS_WGMMA_(type, 112, 56, 56, 57, 58, 59, 60); \
    else if constexpr (N == 176) GEMS_WGMMA_(type, 176, 88, 88, 89, 90, 91, 92); \
    else if constexpr (N == 128) GEMS_WGMMA_(type, 128, 64, 64, 65, 66, 67, 68); \
    else GEMS_WGMMA_(type, 256, 128, 128, 129, 130, 131, 132)

// Starts d = a b + (add ? d : 0) of the warpgroup: 64 lines of a, N lines of b, 16 deep, read through descriptors.
// LINES_A, LINES_B: the tile lies along lines. d[4 i + 2 h + e] is row 16 w + l / 4 + 8 h, column 8 i + l % 4 * 2 + e of
// lane l of the warpgroup's warp w.
template <class T, int N, bool LINES_A, bool LINES_B>
GEMS_DI void wgmma(float (&d)[N / 2], uint64_t first, uint64_t second, int add) {
    static_assert(N == 16 || N == 32 || N == 64 || N == 80 || N == 96 || N == 112 || N == 128 || N == 176 || N == 256, "no such product");
    if constexpr (is_same<T, bf16>) { GEMS_WGMMA_N_("bf16"); }
    else { GEMS_WGMMA_N_("f16"); }
}

// n, count, b, keep, tb: as above; a0 to a3: numbers of the registers of a.
#define GEMS_WGMMA_A_(type, n, count, a0, a1, a2, a3, b, keep, tb)                                                           \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p,%" #keep ",0;\nwgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type \
                 " {" GEMS_NAMES_##count##_ "},{%" #a0 ",%" #a1 ",%" #a2 ",%" #a3 "},%" #b ",p,1,1,%" #tb ";\n}"             \
                 : GEMS_REGS_##count##_(0)                                                                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(second), "r"(add), "n"((int)LINES_B))
#define GEMS_WGMMA_A_N_(type)                                                            \
    if constexpr (N == 64) GEMS_WGMMA_A_(type, 64, 32, 32, 33, 34, 35, 36, 37, 38);      \
    else if constexpr (N == 96) GEMS_WGMMA_A_(type, 96, 48, 48, 49, 50, 51, 52, 53, 54); \
    else if constexpr (N == 128) GEMS_WGMMA_A_(type, 128, 64, 64, 65, 66, 67, 68, 69, 70); \
    else if constexpr (N == 192) GEMS_WGMMA_A_(type, 192, 96, 96, 97, 98, 99, 100, 101, 102); \
    else GEMS_WGMMA_A_(type, 256, 128, 128, 129, 130, 131, 132, 133, 134)

#define GEMS_WGMMA_R_(n, count, a0, a1, a2, a3, b, keep)                                                                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p,%" #keep ",0;\nwgmma.mma_async.sync.aligned.m64n" #n "k8.f32.tf32.tf32" \
                 " {" GEMS_NAMES_##count##_ "},{%" #a0 ",%" #a1 ",%" #a2 ",%" #a3 "},%" #b ",p,1,1;\n}"                     \
                 : GEMS_REGS_##count##_(0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(second), "r"(add))
#define GEMS_WGMMA_R_N_                                                                  \
    if constexpr (N == 64) GEMS_WGMMA_R_(64, 32, 32, 33, 34, 35, 36, 37);                 \
    else if constexpr (N == 128) GEMS_WGMMA_R_(128, 64, 64, 65, 66, 67, 68, 69);          \
    else GEMS_WGMMA_R_(256, 128, 128, 129, 130, 131, 132, 133)

// wgmma with a in registers, which are not written before the product is complete: two neighbours in a register, a[2 j + h]
// is row 16 w + l / 4 + 8 h, columns 8 j + l % 4 * 2 and behind it; of float (tf32, LINES_B false) column 4 j + l % 4 alone.
template <class T, int N, bool LINES_B>
GEMS_DI void wgmma_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t second, int add) {
    static_assert(N == 64 || N == 128 || ((N == 96 || N == 192) && !is_same<T, float>) || N == 256, "no such product");
    if constexpr (is_same<T, float>) { GEMS_WGMMA_R_N_; }
    else if constexpr (is_same<T, bf16>) { GEMS_WGMMA_A_N_("bf16"); }
    else { GEMS_WGMMA_A_N_("f16"); }
}

#define GEMS_INTS_8_(i) \
    "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]), "+r"(d[i + 7])
#define GEMS_INTS_16_(i) GEMS_INTS_8_(i), GEMS_INTS_8_(i + 8)
#define GEMS_INTS_32_(i) GEMS_INTS_16_(i), GEMS_INTS_16_(i + 16)
#define GEMS_INTS_64_(i) GEMS_INTS_32_(i), GEMS_INTS_32_(i + 32)
#define GEMS_INTS_128_(i) GEMS_INTS_64_(i), GEMS_INTS_64_(i + 64)
// kind: what follows the columns in the instruction's name; rest: what follows the predicate.
#define GEMS_WGMMA_K_(kind, rest, regs, n, count, a, b, keep)                                                              \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p,%" #keep ",0;\nwgmma.mma_async.sync.aligned.m64n" #n kind              \
                 " {" GEMS_NAMES_##count##_ "},%" #a ",%" #b ",p" rest ";\n}"                                             \
                 : GEMS_##regs##_##count##_(0) : "l"(first), "l"(second), "r"(add))
#define GEMS_WGMMA_K_N_(kind, rest, regs)                                               \
    if constexpr (N == 64) GEMS_WGMMA_K_(kind, rest, regs, 64, 32, 32, 33, 34);          \
    else if constexpr (N == 128) GEMS_WGMMA_K_(kind, rest, regs, 128, 64, 64, 65, 66);   \
    else GEMS_WGMMA_K_(kind, rest, regs, 256, 128, 128, 129, 130)

// As wgmma, of elements that have not 16 bits: float (tf32), fp8, int8, 32 bytes deep.
template <class A, class B, int N, class D> GEMS_DI void wgmma_along_k(D (&d)[N / 2], uint64_t first, uint64_t second, int add) {
    static_assert(N == 64 || N == 128 || N == 256, "no such product");
    if constexpr (is_same<A, float>) { GEMS_WGMMA_K_N_("k8.f32.tf32.tf32", ",1,1", REGS); }
    else if constexpr (is_same<A, int8_t>) { GEMS_WGMMA_K_N_("k32.s32.s8.s8", "", INTS); }
    else if constexpr (is_same<A, f8e4m3> && is_same<B, f8e4m3>) { GEMS_WGMMA_K_N_("k32.f32.e4m3.e4m3", ",1,1", REGS); }
    else if constexpr (is_same<A, f8e4m3>) { GEMS_WGMMA_K_N_("k32.f32.e4m3.e5m2", ",1,1", REGS); }
    else if constexpr (is_same<B, f8e4m3>) { GEMS_WGMMA_K_N_("k32.f32.e5m2.e4m3", ",1,1", REGS); }
    else { GEMS_WGMMA_K_N_("k32.f32.e5m2.e5m2", ",1,1", REGS); }
}

// Two neighbours, rounded once.
template <class T> GEMS_DI uint32_t pack_two(float low, float high) {
    uint32_t r;
    if constexpr (is_same<T, bf16>) asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low));
    else asm("cvt.rn.f16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
#else
} // namespace gems
namespace gems_cpu {
using gems::TensorMap;

// The twin of gems_tensor_map in csrc/backend/backend.h.
struct Map { const unsigned char* data; int64_t sizes[4], strides[3]; int32_t box[2]; uint8_t dtype; }; // sizes[3] 0: three dimensions
struct Barrier { uint16_t count, pending; int32_t bytes; };         // bit 15 of count: the phase
struct BoxCopy { Barrier* bar; unsigned char* to; Map map; int at[4]; }; // has not landed
struct Wanted { Barrier* bar; uint32_t parity; bool (*ready)(void*); };
enum Kind { HALF, BRAIN, TF32, BYTE, E4M3, E5M2 };
template <class T> constexpr Kind kind_of = gems::is_same<T, gems::bf16> ? BRAIN : gems::is_same<T, float> ? TF32 : gems::is_same<T, int8_t> ? BYTE
    : gems::is_same<T, gems::f8e4m3> ? E4M3 : gems::is_same<T, gems::f8e5m2> ? E5M2 : HALF;
struct Product { void* d; uint64_t a, b; int n, group; Kind kind_a, kind_b; bool lines_a, lines_b, add; const uint32_t* registers; };
struct BoxStore { Map map; const unsigned char* from; int at[3]; };
struct Worker { Product product[64]; int count, group; BoxStore store[8]; int stores; };
// What products from registers read of a thread, as they come; the other threads of four read it too.
struct Shown { uint32_t words[64][4]; int count; };

static BoxCopy box_copies[256];
static int box_copy_count;
// Blocks of a cluster, at most 8 that lie beside each other, run in turns: each has its own.
static Worker workers[8][1024];
static Shown shown[8][1024];
static struct { int arrived, turn; } parts[8][16];
static Wanted wanted[8][1024];
GEMS_UNSEEN inline int own_block() { return (int)(gems_cpu_runtime->self->block.x % 8); }
GEMS_UNSEEN inline int own_rank() { return (int)gems_cpu_runtime->self->rank; }
GEMS_UNSEEN inline Worker& own_worker() { return workers[own_block()][own_rank()]; }

// Bytes of an element: gems_dtype in csrc/gems.h.
GEMS_UNSEEN inline int element_bytes(const Map& m) { return m.dtype == 6 ? 4 : m.dtype == 5 || m.dtype == 15 ? 2 : 1; }
GEMS_UNSEEN inline int box_bytes(const Map& m) { return m.box[0] * m.box[1] * element_bytes(m); }
GEMS_UNSEEN inline uint64_t swizzled(uint64_t address) { return address ^ (address >> 7 & 7) << 4; }
GEMS_UNSEEN inline bool outside(const BoxCopy& c) {
    const Map& m = c.map;
    return c.at[2] < 0 || c.at[2] >= m.sizes[2] || (m.sizes[3] && (c.at[3] < 0 || c.at[3] >= m.sizes[3]));
}
GEMS_UNSEEN inline const unsigned char* line_of(const BoxCopy& c, int64_t y) {
    return c.map.data + y * c.map.strides[0] + c.at[2] * c.map.strides[1] + (c.map.sizes[3] ? c.at[3] * c.map.strides[2] : 0);
}
GEMS_UNSEEN __noinline__ static void land(const BoxCopy& c) {
    const int size = element_bytes(c.map);
    for (int y = 0; y < c.map.box[1]; y++) {
        for (int x = 0; x < c.map.box[0]; x++) {
            int64_t i = (int64_t)c.at[0] + x, j = (int64_t)c.at[1] + y;
            uint32_t v = 0;
            if (i >= 0 && i < c.map.sizes[0] && j >= 0 && j < c.map.sizes[1] && !outside(c)) memcpy(&v, line_of(c, j) + i * size, size);
            if (size == 4 && (v & 0x7f800000u) != 0x7f800000u) v = (v + 0xfff + (v >> 13 & 1)) & 0xffffe000u;
            memcpy((void*)swizzled((uint64_t)(c.to + (y * c.map.box[0] + x) * size)), &v, size);
        }
    }
}
// Ends the phase when everything has come. asked: somebody waits, so that copies land now.
GEMS_UNSEEN __noinline__ static void settle(Barrier* bar, bool asked) {
    if (bar->pending) return;
    int kept = 0, mine = 0;
    for (int i = 0; i < box_copy_count; i++) {
        BoxCopy& c = box_copies[i];
        if (c.bar == bar && asked) {
            land(c);
            bar->bytes -= box_bytes(c.map);
        } else {
            mine += c.bar == bar;
            if (kept != i) box_copies[kept] = c;
            kept++;
        }
    }
    box_copy_count = kept;
    if (bar->bytes || mine) return;
    bar->count ^= 0x8000;
    bar->pending = bar->count & 0x7fff;
}
GEMS_UNSEEN __noinline__ static bool phase_ended(void* p) {
    Wanted* w = (Wanted*)p;
    if ((uint32_t)(w->bar->count >> 15) == w->parity) settle(w->bar, true);
    return (uint32_t)(w->bar->count >> 15) != w->parity;
}
GEMS_UNSEEN __noinline__ static void arrive(void* p, int bytes) {
    Barrier* bar = (Barrier*)p;
    if (!bar->pending) gems_cpu_runtime->stop("a barrier in shared memory has more arrivals than it waits for");
    bar->bytes += bytes;
    bar->pending--;
    settle(bar, false);
}
// The tile that a product reads: from the multiple of 1024 at or before its begin on.
GEMS_UNSEEN inline unsigned char* tile_of(uint64_t descriptor) {
    uint64_t base = (uint64_t)gems_cpu_runtime->self->dynamic, low = (descriptor & 0x3fff) << 4;
    return (unsigned char*)(base + ((low - base) & 0x3ffff));
}
// Whether a product reads from such bytes: rows of k, or 16 rows of each 64 lines.
GEMS_UNSEEN inline bool overlaps(uint64_t tile, int count, bool lines, const unsigned char* to, int bytes) {
    const unsigned char* from = tile_of(tile);
    if (!lines) {
        from = (const unsigned char*)((uint64_t)from & ~(uint64_t)1023);
        return to < from + count * 128 && from < to + bytes;
    }
    for (int i = 0; i < count; i += 64, from += (tile >> 16 & 0x3fff) << 4)
        if (to < from + 2048 && from < to + bytes) return true;
    return false;
}
GEMS_UNSEEN __noinline__ static void copy_box(void* to, const TensorMap& map, void* bar, int x, int y, int z, int w) {
    BoxCopy c{(Barrier*)bar, (unsigned char*)to, {}, {x, y, z, w}};
    memcpy(&c.map, &map, sizeof c.map);
    if ((uint64_t)to & 1023) gems_cpu_runtime->stop("a box is copied to a place that is no multiple of 1024 bytes");
    const int size = element_bytes(c.map);
    if (c.map.box[0] * size != 128) gems_cpu_runtime->stop("a row of a box is not 128 bytes");
    for (const Worker& worker : workers[own_block()])
        for (const Product* p = worker.product; p < worker.product + worker.count; p++)
            if ((!p->registers && overlaps(p->a, 64, p->lines_a, c.to, box_bytes(c.map))) ||
                overlaps(p->b, p->n, p->lines_b, c.to, box_bytes(c.map)))
                gems_cpu_runtime->stop("a box is copied over a tile that a product which has not been waited for reads");
#if GEMS_CHECKED
    for (int r = 0; r < c.map.box[1]; r++) {
        int64_t width = c.map.sizes[0] - x < c.map.box[0] ? c.map.sizes[0] - x : c.map.box[0];
        if (x < 0 || y < 0 || width <= 0 || y + r >= c.map.sizes[1] || outside(c)) continue;
        gems_cpu_runtime->access(line_of(c, y + r) + (int64_t)x * size, (size_t)(width * size), 0, __builtin_return_address(0));
    }
#endif
    if (box_copy_count == 256) gems_cpu_runtime->stop("too many boxes are copied at once");
    box_copies[box_copy_count++] = c;
}
GEMS_UNSEEN inline double tile_value(uint64_t descriptor, bool lines, int line, int k, Kind kind) {
    const int size = kind == TF32 ? 4 : kind <= BRAIN ? 2 : 1;
    uint64_t lead = (descriptor >> 16 & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
    uint64_t at = (uint64_t)tile_of(descriptor);
    at += lines ? line % 64 * 2 + line / 64 * lead + k % 8 * 128 + k / 8 * stride : line % 8 * 128 + line / 8 * stride + k * size;
    uint32_t v = 0;
    memcpy(&v, (const void*)swizzled(at), size);
    switch (kind) {
    case TF32: return tf32(v);
    case BYTE: return (signed char)v;
    case E4M3:
    case E5M2: {
        const int bits = kind == E5M2 ? 2 : 3, bias = kind == E5M2 ? 15 : 7;
        int exponent = v >> bits & (kind == E5M2 ? 31 : 15), fraction = v & ((1 << bits) - 1);
        double x = exponent ? __builtin_ldexp(fraction | 1 << bits, exponent - bias - bits) : __builtin_ldexp(fraction, 1 - bias - bits);
        if (kind == E5M2 && exponent == 31) x = fraction ? __builtin_nan("") : __builtin_inf();
        if (kind == E4M3 && (v & 0x7f) == 0x7f) x = __builtin_nan("");
        return v & 0x80 ? -x : x;
    }
    default: return half_value((uint16_t)v, kind == BRAIN);
    }
}
struct Four { const Shown* first; int count; };
GEMS_UNSEEN __noinline__ static bool four_shown(void* p) {
    const Four* f = (const Four*)p;
    for (int i = 0; i < 4; i++)
        if (f->first[i].count < f->count) return false;
    return true;
}
// Shows what the product reads of this thread's registers, and takes what it reads of its neighbours'.
GEMS_UNSEEN __noinline__ static void read_registers(const Product& p, int depth, double (&a)[2][32]) {
    const int rank = own_rank();
    Shown& mine = shown[own_block()][rank];
    int place = mine.count % 64;
    memcpy(mine.words[place], p.registers, 16);
    Four four{&mine - (rank & 3), ++mine.count};
    if (!four_shown(&four)) gems_cpu_runtime->wait_for(four_shown, &four, "wgmma_wait", 0);
    for (int h = 0; h < 2; h++)
        for (int k = 0; k < depth; k++) {
            const bool whole = p.kind_a == TF32;
            uint32_t word = four.first[whole ? k % 4 : k % 8 / 2].words[place][(whole ? k / 4 : k / 8) * 2 + h];
            a[h][k] = whole ? tf32(word) : half_value((uint16_t)(k % 2 ? word >> 16 : word), p.kind_a == BRAIN);
        }
}
GEMS_UNSEEN __noinline__ static void multiply(const Product& p) {
    int rank = (int)gems_cpu_runtime->self->rank % 128, row = rank / 32 * 16 + rank % 32 / 4;
    double a[2][32];
    const int depth = p.kind_a == TF32 ? 8 : p.kind_a <= BRAIN ? 16 : 32;
    if ((!p.registers && p.a >> 62 != 1) || p.b >> 62 != 1) gems_cpu_runtime->stop("a descriptor of another swizzle");
    if (p.registers) read_registers(p, depth, a);
    else
        for (int h = 0; h < 2; h++)
            for (int k = 0; k < depth; k++) a[h][k] = tile_value(p.a, p.lines_a, row + h * 8, k, p.kind_a);
    for (int i = 0; i < p.n / 8; i++) {
        for (int e = 0; e < 2; e++) {
            double b[32];
            for (int k = 0; k < depth; k++) b[k] = tile_value(p.b, p.lines_b, i * 8 + rank % 4 * 2 + e, k, p.kind_b);
            for (int h = 0; h < 2; h++) {
                const int at = i * 4 + h * 2 + e;
                if (p.kind_a == BYTE) {
                    int& d = ((int*)p.d)[at];
                    unsigned sum = p.add ? (unsigned)d : 0;
                    for (int k = 0; k < depth; k++) sum += (unsigned)((int)a[h][k] * (int)b[k]);
                    d = (int)sum;
                    continue;
                }
                float& d = ((float*)p.d)[at];
                double sum = p.add ? (double)d : 0.0;
                for (int k = 0; k < depth; k++) sum += a[h][k] * b[k];
                d = (float)sum;
            }
        }
    }
}
GEMS_UNSEEN __noinline__ static void start_product(void* d, uint64_t a, uint64_t b, int n, Kind kind_a, Kind kind_b, bool lines_a,
                                                   bool lines_b, bool add, const uint32_t* registers) {
    Worker& w = own_worker();
    if (w.count == 64) gems_cpu_runtime->stop("too many products have not been waited for");
    w.product[w.count++] = {d, a, b, n, w.group, kind_a, kind_b, lines_a, lines_b, add, registers};
}
GEMS_UNSEEN __noinline__ static void begin_products() {
    Worker& w = own_worker();
    w.count = w.group = w.stores = 0;
}
GEMS_UNSEEN __noinline__ static void end_group() { own_worker().group++; }
GEMS_UNSEEN __noinline__ static void wait_products(int groups) {
    Worker& w = own_worker();
    int kept = 0;
    for (int i = 0; i < w.count; i++) {
        const Product p = w.product[i];
        if (p.group < w.group - groups) multiply(p);
        else w.product[kept++] = p;
    }
    w.count = kept;
}
GEMS_UNSEEN __noinline__ static void store_box(const TensorMap& map, const void* from, int x, int y, int z) {
    Worker& w = own_worker();
    if (w.stores == 8) gems_cpu_runtime->stop("too many boxes are stored at once");
    if ((uint64_t)from & 1023) gems_cpu_runtime->stop("a box is stored from a place that is no multiple of 1024 bytes");
    BoxStore& s = w.store[w.stores++];
    s = {{}, (const unsigned char*)from, {x, y, z}};
    memcpy(&s.map, &map, sizeof s.map);
}
GEMS_UNSEEN __noinline__ static void wait_stores(int left) {
    Worker& w = own_worker();
    for (; w.stores > left; w.stores--) {
        const BoxStore s = w.store[0];
        for (int i = 1; i < w.stores; i++) w.store[i - 1] = w.store[i];
        for (int y = 0; y < s.map.box[1]; y++) {
            for (int x = 0; x < s.map.box[0]; x++) {
                int64_t i = (int64_t)s.at[0] + x, j = (int64_t)s.at[1] + y, k = s.at[2];
                if (i >= s.map.sizes[0] || j >= s.map.sizes[1] || k >= s.map.sizes[2]) continue;
                void* to = (void*)(s.map.data + i * 2 + j * s.map.strides[0] + k * s.map.strides[1]);
#if GEMS_CHECKED
                gems_cpu_runtime->access(to, 2, 1, __builtin_return_address(0));
#endif
                memcpy(to, (const void*)swizzled((uint64_t)(s.from + (y * s.map.box[0] + x) * 2)), 2);
            }
        }
    }
}
GEMS_UNSEEN __noinline__ static void init_barrier(void* p, int count) {
    Barrier* bar = (Barrier*)p;
    *bar = {(uint16_t)count, (uint16_t)count, 0};
    int kept = 0; // what an earlier block or launch left behind
    for (int i = 0; i < box_copy_count; i++)
        if (box_copies[i].bar != bar) box_copies[kept++] = box_copies[i];
    box_copy_count = kept;
    for (Worker& w : workers[own_block()]) w.count = w.stores = 0;
    for (Shown& s : shown[own_block()]) s.count = 0;
    for (auto& part : parts[own_block()]) part.arrived = 0;
}
GEMS_UNSEEN __noinline__ static bool part_came(int id, int threads) {
    auto& part = parts[own_block()][id];
    if (++part.arrived != threads) return false;
    part.arrived = 0;
    part.turn++;
    return true;
}
struct Turn { int block, id, turn; };
GEMS_UNSEEN __noinline__ static bool turned(void* p) { return parts[((Turn*)p)->block][((Turn*)p)->id].turn != ((Turn*)p)->turn; }
GEMS_UNSEEN __noinline__ static void part_barrier(int id, int threads, int line) {
    Turn t{own_block(), id, parts[own_block()][id].turn};
    if (part_came(id, threads)) gems_cpu_runtime->ordered();
    else gems_cpu_runtime->wait_for(turned, &t, "part_sync", line);
}
GEMS_UNSEEN __noinline__ static void wait_barrier(void* p, uint32_t parity, int line) {
    Wanted& w = wanted[own_block()][own_rank()];
    w = {(Barrier*)p, parity, nullptr};
    if ((uint32_t)(w.bar->count >> 15) == parity) gems_cpu_runtime->wait_for(phase_ended, &w, "mbarrier_wait", line);
}
} // namespace gems_cpu
namespace gems {
GEMS_DI uint32_t shared_address(const void* p) { return (uint32_t)((uint64_t)p & 0x3ffff); }
GEMS_DI void mbarrier_init(uint64_t* bar, int count) { gems_cpu::init_barrier(bar, count); }
GEMS_DI void mbarrier_init_done() {}
GEMS_DI void mbarrier_arrive(uint64_t* bar) { gems_cpu::arrive(bar, 0); }
GEMS_DI void mbarrier_expect(uint64_t* bar, int bytes) { gems_cpu::arrive(bar, bytes); }
GEMS_DI void mbarrier_wait(uint64_t* bar, uint32_t parity, GEMS_LINE_) { gems_cpu::wait_barrier(bar, parity, line); }
GEMS_DI void mbarrier_await(uint64_t* bar, uint32_t parity, GEMS_LINE_) { gems_cpu::wait_barrier(bar, parity, line); }
GEMS_DI void tensor_map_prefetch(const TensorMap&) {}
GEMS_DI void tensor_copy(void* to, const TensorMap& map, uint64_t* bar, int x, int y, int z) {
    gems_cpu::copy_box(to, map, bar, x, y, z, 0);
}
GEMS_DI void tensor_copy(void* to, const TensorMap& map, uint64_t* bar, int x, int y, int z, int w) {
    gems_cpu::copy_box(to, map, bar, x, y, z, w);
}
GEMS_DI void copy_fence() {}
GEMS_DI void tensor_store(const TensorMap& map, const void* from, int x, int y, int z) {
    gems_cpu::store_box(map, from, x, y, z);
}
template <int N> GEMS_DI void tensor_store_wait() { gems_cpu::wait_stores(N); }
GEMS_DI bool elect_one() { return gems_cpu_runtime->self->lane == 0; }
template <int N> GEMS_DI void registers_down() {}
template <int N> GEMS_DI void registers_up() {}
GEMS_DI void wgmma_begin() { gems_cpu::begin_products(); }
GEMS_DI void wgmma_fence() {}
GEMS_DI void wgmma_commit() { gems_cpu::end_group(); }
template <int N> GEMS_DI void wgmma_wait() { gems_cpu::wait_products(N); }
template <class D, int N> GEMS_DI void wgmma_keep(D (&d)[N]) { asm volatile("" : : "r"(d) : "memory"); }
template <class T, int N, bool LINES_A, bool LINES_B>
GEMS_DI void wgmma(float (&d)[N / 2], uint64_t first, uint64_t second, int add) {
    const gems_cpu::Kind kind = gems_cpu::kind_of<T>;
    gems_cpu::start_product(d, first, second, N, kind, kind, LINES_A, LINES_B, add != 0, nullptr);
}
template <class A, class B, int N, class D> GEMS_DI void wgmma_along_k(D (&d)[N / 2], uint64_t first, uint64_t second, int add) {
    gems_cpu::start_product(d, first, second, N, gems_cpu::kind_of<A>, gems_cpu::kind_of<B>, false, false, add != 0, nullptr);
}
template <class T, int N, bool LINES_B>
GEMS_DI void wgmma_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t second, int add) {
    const gems_cpu::Kind kind = gems_cpu::kind_of<T>;
    gems_cpu::start_product(d, 0, second, N, kind, kind, false, LINES_B, add != 0, a);
}
template <class T> GEMS_DI uint32_t pack_two(float low, float high) {
    return (uint32_t)from_op<T>(low).x | (uint32_t)from_op<T>(high).x << 16;
}
template <int ID> GEMS_DI void part_sync(int threads, GEMS_LINE_) { gems_cpu::part_barrier(ID, threads, line); }
GEMS_DI void part_wait(int id, int threads, GEMS_LINE_) { gems_cpu::part_barrier(id, threads, line); }
GEMS_DI void part_arrive(int id, int threads) { gems_cpu::part_came(id, threads); }
GEMS_DI void mbarrier_arrive_at(uint64_t* bar, int) { mbarrier_arrive(bar); }
GEMS_DI void tensor_copy_to(void* to, const TensorMap& map, uint64_t* bar, int x, int y, int z, uint16_t) {
    tensor_copy(to, map, bar, x, y, z);
}
#endif

// Four lanes that hold a 4 x 4 square of words, a row each, exchange it: then each holds a column.
GEMS_DI void turn(uint32_t (&w)[4], int lane) {
    const bool odd = lane & 1, high = lane & 2;
    GEMS_UNROLL for (int i = 0; i < 4; i += 2) {
        uint32_t got = shuffle_xor(odd ? w[i] : w[i + 1], 1);
        if (odd) w[i] = got;
        else w[i + 1] = got;
    }
    GEMS_UNROLL for (int i = 0; i < 2; i++) {
        uint32_t got = shuffle_xor(high ? w[i] : w[i + 2], 2);
        if (high) w[i] = got;
        else w[i + 2] = got;
    }
}

}  // namespace gems
