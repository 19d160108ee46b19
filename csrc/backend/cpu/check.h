/* The checked mode: every access of a kernel is held against the launch's memory and against all accesses that no barrier
 * separates it from. */
#ifndef GEMS_CPU_CHECK_H
#define GEMS_CPU_CHECK_H

#include "cpu.h"
#include "simt.h"

/* ---- check.c; called by simt.c on the thread that launches ---- */
/* Before the first block. dynamic: the dynamic shared memory of the blocks that run in turns, `bytes` together. */
gems_status gems_check_begin(const struct gems_cpu_image *image, const gems_launch *launch, const unsigned char *dynamic,
                             size_t bytes);
void gems_check_block(uint64_t index);
/* Another block of the cluster goes on. */
void gems_check_turn(uint64_t index);
void gems_check_barrier(void);
void gems_check_syncwarp(unsigned warp);
void gems_check_access(const void *p, size_t bytes, int kind, const void *pc);
void gems_check_copy_begins(const void *to, const void *from, unsigned bytes, unsigned total, int line);
void gems_check_copy_lands(const void *to, unsigned total, int line);
/* After the last block: GEMS_ERROR with a report when there is anything to report. stopped: why the launch ended early; NULL. */
gems_status gems_check_end(const char *name, const char *stopped);

/* ---- image.c ---- */
typedef struct gems_cpu_array {
    const char *start;
    size_t bytes;
    char name[48];
} gems_cpu_array;

struct gems_cpu_image {
    const char *start, *end;   /* where the program lies */
    int array_count;
    gems_cpu_array *arrays;    /* its __shared__ arrays */
    gems_blob code;            /* its own copy, for the lines */
};

/* Writes "program:12 (called at program:40)" for each of count return addresses; "+0x123" where lines cannot be found. */
void gems_cpu_image_lines(const struct gems_cpu_image *image, const void *const *pcs, int count, char (*text)[128]);

/* ---- simt.c ---- */
typedef struct gems_cpu_place {
    const gems_cpu_thread *thread; /* who runs; NULL: nobody */
    const char *stack;
    size_t stack_size;
} gems_cpu_place;
gems_cpu_place gems_cpu_simt_place(void);
/* Ends the launch. Does not return. */
void gems_cpu_simt_stop(const char *message) __attribute__((noreturn));
/* True for memory of the runtime itself, which a kernel reads as threadIdx and so on. */
bool gems_cpu_simt_owns(const void *p);

#endif
