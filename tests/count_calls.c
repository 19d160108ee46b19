/* Preloaded: counts what a range of code calls of the C library's allocator, locks and formatted
 * printing. The range is that of one shared object, told by count_range. Calls are passed on to the
 * next definition. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uintptr_t low, high;
static uint64_t allocations, locks, strings, all_allocations;

void count_range(uintptr_t from, uintptr_t to) {
    low = from;
    high = to;
    allocations = locks = strings = all_allocations = 0;
}
void count_read(uint64_t counts[4]) {
    counts[0] = allocations;
    counts[1] = locks;
    counts[2] = strings;
    counts[3] = all_allocations;
}

#define HERE()          ((uintptr_t)__builtin_return_address(0))
#define INSIDE(address) ((address) >= low && (address) < high)
#define ADD(counter)    __atomic_fetch_add(&(counter), 1, __ATOMIC_RELAXED)
#define SEEN_ALLOCATION()                     \
    do {                                      \
        ADD(all_allocations);                 \
        if (INSIDE(HERE())) ADD(allocations); \
    } while (0)

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size) {
    SEEN_ALLOCATION();
    return __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    SEEN_ALLOCATION();
    return __libc_calloc(count, size);
}
void *realloc(void *old, size_t size) {
    SEEN_ALLOCATION();
    return __libc_realloc(old, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
    SEEN_ALLOCATION();
    return __libc_memalign(alignment, size);
}
int posix_memalign(void **made, size_t alignment, size_t size) {
    SEEN_ALLOCATION();
    *made = __libc_memalign(alignment, size);
    return *made ? 0 : 12;
}

int pthread_mutex_lock(pthread_mutex_t *mutex) {
    static int (*next)(pthread_mutex_t *);
    if (!next) next = (int (*)(pthread_mutex_t *))(uintptr_t)dlsym(RTLD_NEXT, "pthread_mutex_lock");
    if (INSIDE(HERE())) ADD(locks);
    return next(mutex);
}

static int formatted(uintptr_t caller, char *text, size_t size, const char *format, va_list list) {
    static int (*next)(char *, size_t, const char *, va_list);
    if (!next)
        next = (int (*)(char *, size_t, const char *, va_list))(uintptr_t)dlsym(RTLD_NEXT,
                                                                                "vsnprintf");
    if (INSIDE(caller)) ADD(strings);
    return next(text, size, format, list);
}
int vsnprintf(char *text, size_t size, const char *format, va_list list) {
    return formatted(HERE(), text, size, format, list);
}
int snprintf(char *text, size_t size, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int written = formatted(HERE(), text, size, format, list);
    va_end(list);
    return written;
}
/* What a compiler that fortifies by default makes of the two above. */
int __vsnprintf_chk(char *text, size_t size, int flag, size_t room, const char *format,
                    va_list list);
int __vsnprintf_chk(char *text, size_t size, int flag, size_t room, const char *format,
                    va_list list) {
    (void)flag, (void)room;
    return formatted(HERE(), text, size, format, list);
}
int __snprintf_chk(char *text, size_t size, int flag, size_t room, const char *format, ...);
int __snprintf_chk(char *text, size_t size, int flag, size_t room, const char *format, ...) {
    va_list list;
    (void)flag, (void)room;
    va_start(list, format);
    int written = formatted(HERE(), text, size, format, list);
    va_end(list);
    return written;
}
