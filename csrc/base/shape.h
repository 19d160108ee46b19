/* Shapes and strides: broadcasting, contiguity, memory formats, overlap, coalescing. Plain host
 * functions on arrays; a negative or impossible input is the caller's error. */
#ifndef GEMS_SHAPE_H
#define GEMS_SHAPE_H

#include "../gems.h"

int64_t gems_numel(const int64_t *sizes, int ndim);
void gems_contiguous_strides(const int64_t *sizes, int ndim, int64_t *strides); /* as torch: size 0 counts as 1 */
bool gems_is_contiguous(const gems_tensor *t);
bool gems_is_non_overlapping_and_dense(const gems_tensor *t);
bool gems_same_sizes(const gems_tensor *a, const gems_tensor *b);

/* Wraps a negative dim; -1 when out of range. ndim 0 takes -1 and 0. */
int gems_wrap_dim(int64_t dim, int ndim);

/* Broadcasts sizes (in and out) with those of another shape; false when they do not fit. *ndim grows. */
bool gems_broadcast(int64_t *sizes, int *ndim, const int64_t *other, int other_ndim);
/* Strides of t seen as a tensor of the broadcast shape: 0 where it is expanded. */
void gems_broadcast_strides(const gems_tensor *t, const int64_t *sizes, int ndim, int64_t *strides);

/* Largest element offset that indexing can reach, and the extent in bytes it covers (0 when empty). */
int64_t gems_max_offset(const int64_t *sizes, const int64_t *strides, int ndim);
/* True when offsets of all operands fit 31 bits. */
bool gems_fits_int32(int64_t offset);

/* Internal overlap: a dim of size > 1 and stride 0. Memory overlap of two tensors. */
typedef enum gems_overlap { GEMS_APART, GEMS_SAME, GEMS_PARTLY } gems_overlap;
bool gems_overlaps_itself(const gems_tensor *t);
gems_overlap gems_overlap_of(const gems_tensor *a, const gems_tensor *b);

/* An iteration space over up to GEMS_ITER_OPERANDS operands, dims ordered innermost first, coalesced. */
#define GEMS_ITER_OPERANDS 8
typedef struct gems_iter {
    int ndim, operands;
    int64_t numel;
    int64_t size[GEMS_MAX_DIMS];
    int64_t stride[GEMS_ITER_OPERANDS][GEMS_MAX_DIMS]; /* elements, per operand */
    int perm[GEMS_MAX_DIMS];       /* original dim of each dim before coalescing, innermost first */
} gems_iter;

/* Orders the dims of a shape (outermost first, as torch gives them) by the operands' strides, operand 0
 * deciding first, as TensorIterator does; drops dims of size 1; merges what can be merged for all. strides[k] has
 * ndim entries. numel 0 gives ndim 1 and size 0. */
void gems_iter_make(gems_iter *iter, const int64_t *sizes, int ndim, const int64_t *const *strides, int operands);

/* The same with the dims in the order of the shape, the last one innermost. */
void gems_iter_ordered(gems_iter *iter, const int64_t *sizes, int ndim, const int64_t *const *strides, int operands);

/* TensorIterator's choice of an output's strides: the permutation of the inputs' dims, dense. strides_in[k]
 * has ndim entries (broadcast), count inputs. Writes the strides for sizes. */
void gems_output_strides(const int64_t *sizes, int ndim, const int64_t *const *strides_in, int count, int64_t *strides);

/* Division by an invariant: q = (mulhi(n, m) + n) >> s for n < 2^31. The twin of FastDiv in kernels/gems.cuh. */
typedef struct gems_fastdiv { uint32_t d, m, s; } gems_fastdiv;
gems_fastdiv gems_fastdiv_make(uint32_t divisor);

#endif
