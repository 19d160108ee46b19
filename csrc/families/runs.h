/* What the files of the runs family share: elements in a row, cut where they change. */
#ifndef GEMS_RUNS_H
#define GEMS_RUNS_H

#include "sort.h"

/* Values of gems_key.kernel, after those of copies and sorts. */
enum { RUNS_FLAT = 32, RUNS_ROWS, RUNS_MODE, RUNS_BYTES };
/* gems_key.flags */
enum { RUNS_WHOLE = 1 };
/* Kernels of the programs RUNS_FLAT and RUNS_ROWS. */
enum { RUNS_COUNT, RUNS_OFFSETS, RUNS_PICK, RUNS_LENGTHS, RUNS_OF_ROWS };

#define RUNS_TILE      4096 /* elements of a block */
#define RUNS_FAST_TILE 32768

/* Elements that are cut into runs. */
typedef struct gems_runs {
    const gems_plan *plan;
    const void *x;          /* n elements one behind the other; NULL: flags says where runs begin */
    const uint8_t *flags;
    const int64_t *source;  /* where each was; NULL: where it is */
    int64_t n, total;       /* total: of runs */
    int64_t *starts;        /* device memory, as firsts: where each run begins */
    int32_t *firsts, tiles;
} gems_runs;

/* Counts the runs of n > 0 elements, and waits for the number. Takes one scratch buffer. */
gems_status gems_runs_count(gems_call *call, gems_runs *r);
/* After it, into outputs that exist: each run's first element, the number of each element's run, how long each is. NULL where
 * they are not wanted. firsts: where each begins is wanted in r->firsts. */
gems_status gems_runs_pick(gems_call *call, gems_runs *r, void *values, int64_t *inverse, int64_t *lengths, bool firsts);

/* unique_dim: the slices of self along a dim. */
gems_status gems_runs_rows(gems_call *call, int64_t along, bool sorts, bool inverse, bool counts);

/* Elements of t, seen with sizes and strides, one behind the other: its own memory or a copy in scratch. */
gems_status gems_runs_contiguous(gems_call *call, const gems_tensor *t, const int64_t *sizes, const int64_t *strides,
                                 void **data);

#endif
