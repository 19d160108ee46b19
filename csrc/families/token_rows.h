/* Tensors of rows of tokens: what rope and kv_cache share. */
#ifndef GEMS_TOKEN_ROWS_H
#define GEMS_TOKEN_ROWS_H

#include "call.h"

/* Whether two tensors may have an element in common. Views that take turns in one memory, as q and
 * k do in the rows of a fused projection, have none. */
bool gems_may_share(const gems_tensor *a, const gems_tensor *b);

/* Makes argument `arg` result `slot`, which the call writes though its schema gives nothing back.
 * Declines when it overlaps itself or may share elements with another tensor of the call. */
gems_status gems_claim(gems_call *call, int slot, int arg);

/* The narrowest vector among those that fit: `vector` halved until it divides a number of elements.
 */
static inline int gems_vector_for(int vector, int64_t elements) {
    while (vector > 1 && elements % vector) vector /= 2;
    return vector;
}
/* The same for an address. */
static inline int gems_vector_at(int vector, const void *data, size_t size) {
    while (vector > 1 && (uintptr_t)data % ((size_t)vector * size)) vector /= 2;
    return vector;
}

/* Element i of a tensor of int32 or int64 on a CPU, by its offset. */
static inline int64_t gems_place_at(const gems_tensor *t, int64_t offset) {
    return t->dtype == GEMS_I32 ? ((const int32_t *)t->data)[offset]
                                : ((const int64_t *)t->data)[offset];
}

#endif
