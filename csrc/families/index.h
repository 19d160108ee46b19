/* Advanced indexing as it is asked for (index, index_put), and maps of any number of operands. */
#ifndef GEMS_INDEX_H
#define GEMS_INDEX_H

#include "gather.h"

#define INDEX_MOST 5 /* index tensors of one call */

/* Twins of Pointers and Steps in kernels/index.cuh: the index tensors, and the sizes and strides (in elements) of what they pick
 * from. */
typedef struct gems_pointers {
    const void *at[INDEX_MOST];
} gems_pointers;
typedef struct gems_steps {
    int64_t size[INDEX_MOST], step[INDEX_MOST];
} gems_steps;

/* self[indices], taken apart. A mask stands for its columns of places. */
typedef struct gems_indexing {
    const gems_tensor *self;
    int count;                       /* index tensors */
    const void *data[INDEX_MOST];
    int dim[INDEX_MOST];             /* the dim of self that each picks from */
    int64_t strides[INDEX_MOST][GEMS_MAX_DIMS]; /* over the result's dims */
    int ndim;                        /* of the result: */
    int64_t shape[GEMS_MAX_DIMS];
    int self_dim[GEMS_MAX_DIMS];     /* the dim of self behind each of its dims; -1: from the indices, */
    int first, places;               /* which are dims [first, first + places) */
    uint8_t flags;                   /* GATHER_INDEX32 */
} gems_indexing;

/* Reads self and the list of indices (arguments 0 and 1). Masks are expanded on the host: declined on other devices.
 * Declines whatever ATen is to raise, but for values out of range. */
gems_status gems_indexing_read(gems_call *call, gems_indexing *x);

/* Bytes of a Strided<NT, Index> in kernels/gems.cuh, for up to GEMS_ITER_OPERANDS operands. */
typedef struct gems_map {
    _Alignas(8) unsigned char bytes[112 + 8 * GATHER_DIMS * GEMS_ITER_OPERANDS];
    int64_t n;
    int ndim;
} gems_map;

/* Fills a map for iter's operands, from its dim `first` on, the innermost dim counted in vectors. False: too many dims, or one
 * too large. */
bool gems_map_make(const gems_iter *iter, int first, int vector, bool wide, gems_map *map);


/* Elements of one access along the innermost dim, of `size` bytes each: operands 0 and `from` (-1: none) are contiguous there,
 * the others stand still; steps: or of all other strides by which the two move. 1: none. */
int gems_index_vector(const gems_iter *iter, int from, int64_t steps, int size, const void *out, const void *in);

#endif
