/* Fibers for x86-64 and aarch64: the switch saves what a function call must keep, and the stack
 * pointer. */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fiber.h"

#define STACK_SIZE (128 * 1024)

/* Rounding and exception modes stay as they are: no fiber changes them. */
void gems_fiber_jump(void **save, void *to);

#if defined(__x86_64__)
#define SAVED_WORDS 6
__asm__(".text\n"
        ".globl gems_fiber_jump\n"
        ".hidden gems_fiber_jump\n"
        ".type gems_fiber_jump,@function\n"
        "gems_fiber_jump:\n"
        "    endbr64\n"
        "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    mov %rsi, %rsp\n"
        "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
        "    ret\n"
        ".size gems_fiber_jump, .-gems_fiber_jump\n");
#elif defined(__aarch64__)
#define SAVED_WORDS 20
#define LINK_WORD   11
__asm__(".text\n"
        ".globl gems_fiber_jump\n"
        ".hidden gems_fiber_jump\n"
        ".type gems_fiber_jump,%function\n"
        "gems_fiber_jump:\n"
        "    sub sp, sp, #160\n"
        "    stp x19, x20, [sp]\n    stp x21, x22, [sp, #16]\n    stp x23, x24, [sp, #32]\n"
        "    stp x25, x26, [sp, #48]\n    stp x27, x28, [sp, #64]\n    stp x29, x30, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n    stp d10, d11, [sp, #112]\n    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    mov x9, sp\n"
        "    str x9, [x0]\n"
        "    mov sp, x1\n"
        "    ldp x19, x20, [sp]\n    ldp x21, x22, [sp, #16]\n    ldp x23, x24, [sp, #32]\n"
        "    ldp x25, x26, [sp, #48]\n    ldp x27, x28, [sp, #64]\n    ldp x29, x30, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n    ldp d10, d11, [sp, #112]\n    ldp d12, d13, [sp, #128]\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    add sp, sp, #160\n"
        "    ret\n"
        ".size gems_fiber_jump, .-gems_fiber_jump\n");
#else
#error "the cpu backend has fibers for x86-64 and aarch64"
#endif

#ifdef __SANITIZE_ADDRESS__
void __asan_unpoison_memory_region(void const volatile *start, size_t size);
#endif

bool gems_fiber_make(gems_fiber *fiber, unsigned index) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    (void)index;
    char *memory = mmap(NULL, STACK_SIZE + page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    if (mprotect(memory, page, PROT_NONE) != 0) {
        munmap(memory, STACK_SIZE + page);
        return false;
    }
    fiber->stack = memory + page;
    fiber->size = STACK_SIZE;
    fiber->sp = NULL;
    return true;
}

void gems_fiber_begin(gems_fiber *fiber, unsigned index, void (*entry)(void)) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(fiber->stack, fiber->size); /* an abandoned frame's red zones */
#endif
    /* Stacks start at different lines of the first-level cache: otherwise all of them share a few
     * sets. */
    uintptr_t top =
        ((uintptr_t)fiber->stack + fiber->size - 64 - index % 32 * 128) & ~(uintptr_t)63;
    void **sp = (void **)top;
#if defined(__x86_64__)
    *--sp = NULL; /* the return address of entry, which does not return; keeps the stack aligned as
                     after a call */
    sp--;
    memcpy(sp, &entry, sizeof entry);
    sp -= SAVED_WORDS;
    memset(sp, 0, SAVED_WORDS * sizeof *sp);
#else
    sp -= SAVED_WORDS;
    memset(sp, 0, SAVED_WORDS * sizeof *sp);
    memcpy(sp + LINK_WORD, &entry, sizeof entry);
#endif
    fiber->sp = sp;
}

void gems_fiber_switch(gems_fiber *from, gems_fiber *to) { gems_fiber_jump(&from->sp, to->sp); }
