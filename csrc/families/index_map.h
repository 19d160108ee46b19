/* Moves by an index map: the element of the output at index i is an element of the input at an index
 * that follows from i dim by dim, or, where there is none, a number or an element of another tensor. */
#ifndef GEMS_INDEX_MAP_H
#define GEMS_INDEX_MAP_H

#include "copy_views.h"

/* What an index beside the input means. */
typedef enum gems_edge {
    GEMS_EDGE_OUT,     /* no element: the rest */
    GEMS_EDGE_CLAMP,   /* the nearest one */
    GEMS_EDGE_REFLECT, /* mirrored, the border once */
    GEMS_EDGE_WRAP     /* from the other end */
} gems_edge;

/* What stands where the input has no element. */
typedef enum gems_rest {
    GEMS_REST_NONE,  /* there is no such place */
    GEMS_REST_FILL,  /* `fill` */
    GEMS_REST_OTHER, /* the element of `other` at the output's own index */
    GEMS_REST_ONLY   /* `fill`; all else is left as it is: out is the input, in place */
} gems_rest;

/* Which elements a pair of dims keeps, by i_b - i_a: bits. */
typedef enum gems_keep { GEMS_KEEP_ALL, GEMS_KEEP_FROM = 1, GEMS_KEEP_UPTO = 2, GEMS_KEEP_AT = 3 } gems_keep;

/* A dim of the output. Its index i is that of the input's element (i - lo) / step, one of `count`; with a step of
 * more than 1 only where that leaves no remainder. Strides count elements and may be negative. */
typedef struct gems_index_dim {
    int64_t size, in, other, lo, count, step;
} gems_index_dim;

typedef struct gems_index_map {
    int ndim, dtype, a, b; /* a, b: the dims of `keep` */
    uint8_t edge, keep, rest;
    int64_t k;
    const char *in, *other; /* the elements of index 0 */
    uint8_t fill[16];
    gems_index_dim dim[GEMS_MAX_DIMS]; /* in torch's order */
} gems_index_map;

/* A map of t's dims that moves every element to its own index. */
void gems_index_map_of(gems_index_map *map, const gems_tensor *t);

/* Makes output 0 with the map's sizes (strides NULL: contiguous) and fills it. */
gems_status gems_index_map_run(gems_call *call, const gems_index_map *map, const int64_t *strides);

/* The same into a tensor that exists and has the map's sizes. */
gems_status gems_index_map_into(gems_call *call, const gems_index_map *map, const gems_tensor *out);

/* Rows of the family, by their mode; families/index_ops.c and view_copies.c. */
gems_status gems_index_op(gems_call *call);
gems_status gems_view_copy(gems_call *call);

/* Gradients of pads; families/pad_backward.c. */
enum { GEMS_PAD_BACKWARD_KERNEL = GEMS_COPY_END + 1 }; /* gems_key.kernel */
gems_status gems_pad_backward(gems_call *call);
gems_status gems_pad_backward_program(const gems_op *op, const gems_key *key, gems_program *program);

#endif
