/* What the files of the sort family share. */
#ifndef GEMS_SORT_H
#define GEMS_SORT_H

#include "copy_views.h"
#include "modes.h"

/* Values of gems_key.kernel, after those of copies. */
enum {
    SORT_FAST = GEMS_COPY_END, /* rows on the fast cpu backend */
    SORT_BLOCK,                /* short rows */
    SORT_ROW,                  /* rows that a block has room for */
    SORT_RADIX,                /* long rows */
    SORT_SELECT,               /* a few elements of rows, or one */
    SORT_FAR,                  /* the same of a few rows that many blocks share */
    SORT_SEARCH,               /* searchsorted, bucketize */
    SORT_MEMBER                /* isin */
};

/* gems_key.flags */
enum { SORT_DESCENDING = 1, SORT_INT32 = 2, SORT_SORTER = 4, SORT_RIGHT = 8, SORT_BRUTE = 16, SORT_KEYS_ONLY = 32 };

/* gems_key.tune */
enum { SORT_TUNE_SIZE, SORT_TUNE_WHAT, SORT_TUNE_THREADS, SORT_TUNE_HELD }; /* log2 of the items sorted at once (SORT_RADIX: elements of a thread); what is written */

/* What is written of a sorted row; kernels/sort.cuh has the same numbers. */
enum { SORT_WRITE, SORT_KTH, SORT_MEDIAN, SORT_NANMEDIAN };

#define SORT_DIMS 8

/* Rows that are sorted: twin of Lines in kernels/sort.cuh. */
typedef struct gems_lines {
    int32_t ndim;
    gems_fastdiv div[SORT_DIMS];
    int64_t start[SORT_DIMS][3], step[3], count, n; /* of the input, the values, the places */
} gems_lines;

/* Rows to sort, and what is wanted of them. */
typedef struct gems_sort_job {
    gems_lines lines;
    int dtype, what;
    bool descending;
    bool keys_only; /* no places are wanted, and zeros of both signs and NaN may be in any order among themselves */
    int64_t limit; /* SORT_WRITE: elements of each row that are written */
    int64_t rank;  /* else: of the element that is written, where there is no NaN */
    void *in, *values, *places; /* places: NULL when they are not wanted */
} gems_sort_job;

/* Lines of a shape along dim, with the strides of input, values and places (in the shape's dims). False: too many dims or
 * elements for the kernels. */
bool gems_lines_make(gems_lines *lines, const int64_t *sizes, int ndim, int dim, const int64_t *const strides[3]);

gems_status gems_sort_launch(gems_call *call, const gems_sort_job *job);
/* For the files of the sort: a job's key, a launch, and sorts of a few elements of each row. */
gems_key gems_sort_key(const gems_sort_job *job, int kernel, int size);
gems_status gems_sort_kernel(gems_call *call, const gems_plan *plan, int entry, int64_t blocks, uint32_t threads,
                             uint32_t shared, void **args);
void gems_sort_radix_key(gems_key *key); /* for warmup: of its dtype */
bool gems_sort_selects(const gems_sort_job *job);
gems_status gems_sort_select(gems_call *call, gems_sort_job *job);
void gems_sort_select_key(gems_key *key, int64_t n, int64_t limit); /* for warmup: rows of n, of which `limit` are wanted */
int gems_sort_select_program(const gems_key *key, gems_program *p); /* how many files it names */

gems_status gems_sort_program(const gems_op *op, const gems_key *key, gems_program *p);

gems_status gems_search_run(gems_call *call);
gems_status gems_member_run(gems_call *call);
gems_status gems_search_program(const gems_op *op, const gems_key *key, gems_program *p);
bool gems_search_warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key);

#endif
