/* Values of torch's stable stack, read. */
#ifndef GEMS_STABLE_H
#define GEMS_STABLE_H

#include <stdlib.h>

#include "torch.h"

#define GEMS_SHIM_ENTRIES 1024 /* trampolines: entries of the table that can take this route */
#define GEMS_SHIM_INTS    128  /* ints of all lists of one call */
#define GEMS_SHIM_TENSORS 16   /* tensors of a list before memory is asked for */

/* Where lists of one call lie while it runs. */
typedef struct gems_shim_store {
    int used;
    gems_tensor *tensors; /* NULL: none yet */
    int64_t ints[GEMS_SHIM_INTS];
    gems_tensor few[GEMS_SHIM_TENSORS];
} gems_shim_store;

static inline void gems_shim_store_open(gems_shim_store *store) {
    store->used = 0;
    store->tensors = NULL;
}
static inline gems_tensor *gems_shim_tensors(gems_shim_store *store, size_t count) {
    return store->tensors =
               count <= GEMS_SHIM_TENSORS ? store->few : calloc(count, sizeof *store->tensors);
}
static inline void gems_shim_store_close(gems_shim_store *store) {
    if (store->tensors != store->few) free(store->tensors);
}

/* Reads one argument; it stays owned by the stack. Declines what kernels do not take. */
gems_status gems_shim_read(const gems_arg *arg, uint64_t word, gems_shim_store *store,
                           gems_value *value);

#endif
