/* Two sums over the rows of every column: the gradients of what all rows share. Twin of
 * kernels/column_sums.cuh. */
#ifndef GEMS_COLUMN_SUMS_H
#define GEMS_COLUMN_SUMS_H

#include "rows.h"

typedef struct gems_column_sums {
    gems_team team;                     /* for the key */
    uint32_t grid[3], block[3], shared; /* columns along x, runs of rows along y */
    int64_t n, run, parts;
    size_t element; /* bytes of a sum */
    bool fast;
    void *partial; /* sums of parts of the rows; NULL where there is one */
} gems_column_sums;

/* For rows of n elements, read by vectors of so many, and sums of this dtype. */
gems_column_sums gems_column_sums_make(const gems_device_info *info, int64_t rows, int64_t n,
                                       int vec, int dtype);
/* Memory for the partial sums. */
gems_status gems_column_sums_open(gems_call *call, gems_column_sums *sums);
/* Launches kernel 0 of the plan with these arguments, of which sums->partial and run are some, and
 * kernel 1, `finish`, where rows were parted. */
gems_status gems_column_sums_launch(gems_call *call, const gems_plan *plan,
                                    const gems_column_sums *sums, void **args, void *first,
                                    void *second);

#endif
