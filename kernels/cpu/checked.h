// The hooks that -fsanitize=thread calls at every access of a kernel: they go to the checked mode's own book-keeping, no
// sanitizer runtime is linked.
extern "C" {
#define GEMS_HOOK __attribute__((visibility("hidden"), no_sanitize("thread"), used)) void
#define GEMS_SEEN(p, bytes, kind) gems_cpu_runtime->access((const void*)(p), bytes, kind, __builtin_return_address(0))
#define GEMS_HOOKS(bytes)                                                                \
    GEMS_HOOK __tsan_read##bytes(void* p) { GEMS_SEEN(p, bytes, 4); }                    \
    GEMS_HOOK __tsan_write##bytes(void* p) { GEMS_SEEN(p, bytes, 4 | 1); }               \
    GEMS_HOOK __tsan_unaligned_read##bytes(void* p) { GEMS_SEEN(p, bytes, 0); }          \
    GEMS_HOOK __tsan_unaligned_write##bytes(void* p) { GEMS_SEEN(p, bytes, 1); }         \
    GEMS_HOOK __tsan_read_write##bytes(void* p) { GEMS_SEEN(p, bytes, 4 | 1); }          \
    GEMS_HOOK __tsan_unaligned_read_write##bytes(void* p) { GEMS_SEEN(p, bytes, 1); }
GEMS_HOOKS(1) GEMS_HOOKS(2) GEMS_HOOKS(4) GEMS_HOOKS(8) GEMS_HOOKS(16)
GEMS_HOOK __tsan_read_range(void* p, size_t bytes) { GEMS_SEEN(p, bytes, 0); }
GEMS_HOOK __tsan_write_range(void* p, size_t bytes) { GEMS_SEEN(p, bytes, 1); }
GEMS_HOOK __tsan_init() {}
GEMS_HOOK __tsan_func_entry(void*) {}
GEMS_HOOK __tsan_func_exit() {}
GEMS_HOOK __tsan_atomic_thread_fence(int) {}
#define GEMS_ATOMIC_HOOK(type) __attribute__((visibility("hidden"), no_sanitize("thread"), used)) type
#define GEMS_ATOMIC_HOOKS(bits, type)                                                                                       \
    GEMS_ATOMIC_HOOK(type) __tsan_atomic##bits##_load(const volatile type* p, int) { GEMS_SEEN(p, bits / 8, 6); return *p; } \
    GEMS_ATOMIC_HOOK(void) __tsan_atomic##bits##_store(volatile type* p, type v, int) { GEMS_SEEN(p, bits / 8, 6); *p = v; } \
    GEMS_ATOMIC_HOOK(type) __tsan_atomic##bits##_exchange(volatile type* p, type v, int) {                                  \
        GEMS_SEEN(p, bits / 8, 6);                                                                                          \
        type old = *p;                                                                                                      \
        *p = v;                                                                                                             \
        return old;                                                                                                         \
    }                                                                                                                       \
    GEMS_ATOMIC_HOOK(type) __tsan_atomic##bits##_fetch_add(volatile type* p, type v, int) {                                 \
        GEMS_SEEN(p, bits / 8, 6);                                                                                          \
        type old = *p;                                                                                                      \
        *p = old + v;                                                                                                       \
        return old;                                                                                                         \
    }                                                                                                                       \
    GEMS_ATOMIC_HOOK(int) __tsan_atomic##bits##_compare_exchange_strong(volatile type* p, type* e, type v, int, int) {      \
        GEMS_SEEN(p, bits / 8, 6);                                                                                          \
        type old = *p;                                                                                                      \
        if (old == *e) { *p = v; return 1; }                                                                                \
        *e = old;                                                                                                           \
        return 0;                                                                                                           \
    }                                                                                                                       \
    GEMS_ATOMIC_HOOK(int) __tsan_atomic##bits##_compare_exchange_weak(volatile type* p, type* e, type v, int a, int b) {    \
        return __tsan_atomic##bits##_compare_exchange_strong(p, e, v, a, b);                                                \
    }                                                                                                                       \
    GEMS_ATOMIC_HOOK(type) __tsan_atomic##bits##_compare_exchange_val(volatile type* p, type e, type v, int a, int b) {     \
        __tsan_atomic##bits##_compare_exchange_strong(p, &e, v, a, b);                                                      \
        return e;                                                                                                           \
    }
GEMS_ATOMIC_HOOKS(8, unsigned char) GEMS_ATOMIC_HOOKS(16, unsigned short) GEMS_ATOMIC_HOOKS(32, unsigned)
GEMS_ATOMIC_HOOKS(64, unsigned long)
#ifdef __clang__
__attribute__((visibility("hidden"), no_sanitize("thread"), used)) void* __tsan_memcpy(void* to, const void* from, size_t n) {
    GEMS_SEEN(from, n, 0);
    GEMS_SEEN(to, n, 1);
    return memcpy(to, from, n);
}
__attribute__((visibility("hidden"), no_sanitize("thread"), used)) void* __tsan_memset(void* to, int v, size_t n) {
    GEMS_SEEN(to, n, 1);
    return memset(to, v, n);
}
#endif
}
