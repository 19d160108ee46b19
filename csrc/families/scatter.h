/* What the files of the scatter family share: a call as it was asked for, and the ways to do it. */
#ifndef GEMS_SCATTER_H
#define GEMS_SCATTER_H

#include "index.h"

/* Values of gems_key.kernel; kernels/scatter.cu has the same numbers. */
enum {
    SCATTER_LINES = GEMS_COPY_END, /* one thread a line, in the order of the places */
    SCATTER_OFFSETS,               /* several index tensors become one of offsets */
    SCATTER_CLAIM,                 /* the last place of every destination, then one store each */
    SCATTER_SORT,                  /* a stable sort of the places, then one thread a destination */
    SCATTER_ROWS = 48              /* a block a line, or some side by side, in shared memory; apart from those of gather too */
};

/* What is done with an element; kernels/scatter.cu has the same numbers. */
enum { SCATTER_SET, SCATTER_SUM, SCATTER_PROD, SCATTER_MAX, SCATTER_MIN };

/* Dims of the elements that are moved. Places: those along which destinations repeat, in order. Lines: the others. */
typedef struct scatter_dims {
    int n;
    int64_t size[GEMS_MAX_DIMS], src[GEMS_MAX_DIMS];
    int64_t index[INDEX_MOST][GEMS_MAX_DIMS]; /* strides of the index tensors */
    int dim[GEMS_MAX_DIMS];                   /* lines: the dim of self */
} scatter_dims;

typedef struct scatter_request {
    const gems_tensor *self, *src; /* src NULL: value */
    uint64_t value[2], alpha[2];   /* of self's dtype, of its opmath dtype */
    int op;
    bool mean, include;            /* include: self's own element is the first */
    bool wrap;                     /* a negative index counts from the end */
    bool preserve;                 /* a new output has self's strides */
    bool varies;                   /* scatter: every line has an index of its own; `whole` is it */
    const gems_tensor *whole;
    int count;
    uint8_t flags;                 /* GATHER_INDEX32 */
    const void *data[INDEX_MOST];
    int dim[INDEX_MOST];           /* the dim of self that each index is of; -1: all of self as one */
    int64_t size[INDEX_MOST];
    scatter_dims lines, places;
} scatter_request;

/* Reads a call of any row of the family. Declines whatever ATen is to raise, but for indices out of range. */
gems_status gems_scatter_ask(gems_call *call, scatter_request *r);
gems_status gems_scatter_ask_add(gems_call *call, scatter_request *r); /* a call of scatter_add, which is of gather's family */

/* self as `to`, converted; nothing when it is the same memory. */
gems_status gems_scatter_start(gems_call *call, const gems_tensor *self, gems_view to);

/* The two ways for devices that run many threads; out exists. */
gems_status gems_scatter_claim(gems_call *call, const scatter_request *r);
gems_status gems_scatter_sort(gems_call *call, const scatter_request *r);
/* Several index tensors as one of offsets into out, row-major over the places: checked. */
gems_status gems_scatter_offsets(gems_call *call, const scatter_request *r, void *offsets);

/* Lines that fit shared memory, for the same devices: whether those of a call do; *done: out, which exists, is written. */
bool gems_scatter_gains(const gems_call *call, const scatter_request *r); /* and is faster than ATen by that on a GPU */
bool gems_scatter_fits(const gems_call *call, const scatter_request *r);
gems_status gems_scatter_rows(gems_call *call, const scatter_request *r, bool *done);
/* scatter_add, all of it, where it fits; else nothing was done. */
gems_status gems_scatter_add_rows(gems_call *call, bool *done);
void gems_scatter_rows_key(gems_key *key, int op); /* for warmup: what is done */
gems_status gems_scatter_rows_program(const gems_op *op, const gems_key *key, gems_program *p);

gems_status gems_scatter_places_program(const gems_key *key, gems_program *program);
/* Lines of every program of the family. */
void gems_scatter_head(const gems_key *key, gems_program *program);
/* The key's part that says what is done. */
void gems_scatter_key(const scatter_request *r, gems_key *key);

/* gems_key.tune: what a program is made for. */
enum { TUNE_VECTOR, TUNE_RANK, TUNE_COUNT, TUNE_OP, TUNE_WAY, TUNE_CHECK, TUNE_UNIT, TUNE_LANES, TUNE_THREADS };
/* gems_key.flags, beside GATHER_WIDE and GATHER_INDEX32. */
enum { SCATTER_FILL = 2, SCATTER_VARIES = 8, SCATTER_EXCLUDE = 16, SCATTER_MEAN = 32, SCATTER_WRAP = 64, SCATTER_CLAIMED = 128 };

#endif
