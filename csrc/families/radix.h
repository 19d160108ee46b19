/* A stable radix sort of int32 keys with their positions, for families that order something else by them. Twin of
 * kernels/radix.cuh. */
#ifndef GEMS_RADIX_H
#define GEMS_RADIX_H

#include "call.h"

/* n keys of at most `most`. Buffer 0 holds them and their positions; `which` is the buffer where they end up. */
typedef struct gems_radix {
    int32_t *keys[2], *positions[2], *counts; /* counts: gems_radix_cells(n) */
    int32_t n, most;
    int which;
} gems_radix;

size_t gems_radix_cells(int64_t n);
/* entry: that of radix_count in the plan, radix_scan and radix_place behind it. */
gems_status gems_radix_sort(gems_call *call, const gems_plan *plan, int entry, gems_radix *r);
/* Adds the constants and the choice of kernels of radix.cuh to a program. */
void gems_radix_head(gems_program *program);

#endif
