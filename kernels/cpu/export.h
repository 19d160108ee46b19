// The entry of a kernel as the backend calls it; comes last. GEMS_ENTRY(kernel) is added for every entry.
namespace gems_cpu {
template <int... I> struct Numbers {};
template <int N, int... I> struct CountTo : CountTo<N - 1, N - 1, I...> {};
template <int... I> struct CountTo<0, I...> { typedef Numbers<I...> type; };
template <class T> struct Plain { typedef T type; };
template <class T> struct Plain<const T> { typedef T type; };

#if GEMS_FAST
// Shared with csrc/backend/cpu/simt.h: keep it the same.
struct Blocks { unsigned grid[3]; unsigned char* dynamic; uint64_t first, last; };
template <class... A, int... I>
GEMS_INLINE void run(void (*kernel)(A...), void** args, const Blocks* b, Numbers<I...>) {
    dynamic_memory = b->dynamic;
    gridDim = {b->grid[0], b->grid[1], b->grid[2]};
    uint64_t plane = (uint64_t)b->grid[0] * b->grid[1];
    unsigned x = (unsigned)(b->first % b->grid[0]), y = (unsigned)(b->first / b->grid[0] % b->grid[1]);
    unsigned z = (unsigned)(b->first / plane);
    for (uint64_t i = b->first; i < b->last; i++) {
        blockIdx = {x, y, z};
        kernel(*(typename Plain<A>::type*)args[I]...);
        if (++x == b->grid[0]) {
            x = 0;
            if (++y == b->grid[1]) y = 0, z++;
        }
    }
}
template <class... A> GEMS_INLINE void run(void (*kernel)(A...), void** args, const Blocks* b) {
    run(kernel, args, b, typename CountTo<(int)sizeof...(A)>::type{});
}
}
#define GEMS_ENTRY(kernel) \
    GEMS_EXPORTED void gems_run_##kernel(void** args, const gems_cpu::Blocks* b) { gems_cpu::run(kernel, args, b); }
#else
template <class... A, int... I>
GEMS_UNSEEN GEMS_INLINE void run(void (*kernel)(A...), void** args, Numbers<I...>) {
    kernel(*(typename Plain<A>::type*)args[I]...);
}
template <class... A> GEMS_UNSEEN GEMS_INLINE void run(void (*kernel)(A...), void** args) {
    run(kernel, args, typename CountTo<(int)sizeof...(A)>::type{});
}
}
#define GEMS_ENTRY(kernel) \
    GEMS_EXPORTED GEMS_UNSEEN void gems_run_##kernel(void** args) { gems_cpu::run(kernel, args); }
#endif
