/* What a compiled program and the backend both know: the twin of kernels/cpu/simt.h and kernels/cpu/export.h, which a
 * change here must follow. */
#ifndef GEMS_CPU_SIMT_H
#define GEMS_CPU_SIMT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Fast mode: the blocks that one call runs. */
typedef struct gems_cpu_blocks {
    unsigned grid[3];
    unsigned char *dynamic;
    uint64_t first, last;
} gems_cpu_blocks;

typedef struct gems_uint3 { unsigned x, y, z; } gems_uint3;

/* The other modes: who runs, and where it is. */
typedef struct gems_cpu_thread {
    gems_uint3 thread, block, size, grid;
    unsigned rank, lane, warp;
    unsigned char *dynamic;
} gems_cpu_thread;

/* Runs once when all lanes of the mask have come; operands has an entry a lane. */
typedef void (*gems_cpu_collective)(void **operands, unsigned mask);

/* What access() is told; a vector must be aligned to its size. */
enum { GEMS_WRITES = 1, GEMS_ATOMIC = 2, GEMS_VECTOR = 4 };

typedef struct gems_cpu_runtime {
    gems_cpu_thread *self;
    void (*warp)(unsigned mask, gems_cpu_collective all, void *operand, int line, const char *what);
    int (*barrier)(int predicate, int line);
    void (*access)(const void *p, size_t bytes, int kind, const void *pc);
    void (*copy_later)(void *to, const void *from, unsigned bytes, unsigned total, int line);
    void (*copy_commit)(void);
    void (*copy_wait)(int groups, int line);
    void (*wait_for)(bool (*ready)(void *), void *what, const char *name, int line);
    void (*stop)(const char *message);
    void (*ordered)(void);
    void (*cluster_arrive)(int line);
    void (*cluster_wait)(int line);
    const void *(*peer)(const void *p, int block, size_t bytes);
} gems_cpu_runtime;

#endif
