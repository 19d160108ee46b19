/* What the files of the gather family share: index checks, strided programs, the operators that have files of their own. */
#ifndef GEMS_GATHER_H
#define GEMS_GATHER_H

#include "copy_views.h"

/* Values of gems_key.kernel, after those of copies and fills. */
enum {
    GATHER_ELEMENTS = GEMS_COPY_END, /* embedding, index_select, gather */
    GATHER_SCATTER_ADD,
    GATHER_SEGMENT,                  /* embedding_dense_backward */
    GATHER_LOSS,                     /* nll_loss forward */
    GATHER_LOSS_BACKWARD
};

/* gems_key.flags */
enum { GATHER_WIDE = 1, GATHER_ROWS = 2, GATHER_INDEX32 = 4, GATHER_FAST = 8, GATHER_WEIGHT = 16 };

#define GATHER_DIMS 8

/* Twins of Strided<3, Index> in kernels/gems.cuh. */
typedef struct { int32_t ndim, n; gems_fastdiv div[GATHER_DIMS]; int32_t stride[GATHER_DIMS][3]; } gather_narrow;
typedef struct { int32_t ndim; int64_t n; gems_fastdiv div[GATHER_DIMS]; int64_t stride[GATHER_DIMS][3]; } gather_wide;
typedef union { gather_narrow narrow; gather_wide wide; } gather_map;

/* Fills a map for iter's three operands, from its dim `first` on, the innermost dim counted in vectors. False: too many dims,
 * or one too large. */
bool gems_gather_map(const gems_iter *iter, int first, int vector, bool wide, gather_map *map);

/* Whether some operand's offsets or the count need 64 bits; more: another offset that must fit. */
bool gems_gather_needs_wide(const gems_iter *iter, int64_t more);

/* An index dtype that kernels read; adds its flag. */
bool gems_gather_index(int dtype, uint8_t *flags);

/* Where a kernel on a CPU says that an index was out of range: *flag points at *local or at scratch; NULL on a GPU, where
 * the kernel stops as ATen's does. */
gems_status gems_range_open(gems_call *call, int32_t *local, void **flag);
/* Declines when it was said, so that ATen raises its own IndexError. */
gems_status gems_range_close(const gems_call *call, const void *flag);

/* Lines of every program of the family: the index type of a key, the dtype of its values. */
void gems_gather_head(const gems_key *key, gems_program *program);

/* A contiguous version of t: its own memory or a copy in scratch. */
gems_status gems_gather_contiguous(gems_call *call, const gems_tensor *t, void **data);

gems_status gems_segment_run(gems_call *call);
gems_status gems_segment_program(const gems_key *key, gems_program *program);
gems_status gems_loss_run(gems_call *call, bool backward, bool image);
gems_status gems_loss_program(const gems_key *key, gems_program *program);

#endif
