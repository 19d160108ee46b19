/* torch's symbols as function pointers; NULL where this torch has none (symbols.def). */
#ifndef GEMS_TORCH_SYMBOLS_H
#define GEMS_TORCH_SYMBOLS_H

#include "../gems.h"

/* Stands for a std::vector returned by value. */
typedef struct gems_words3 {
    void *word[3];
} gems_words3;

typedef struct gems_torch_symbols {
#define TORCH_SYMBOL(need, library, field, symbol, result, parameters) result(*field) parameters;
#include "symbols.def"
#undef TORCH_SYMBOL
} gems_torch_symbols;

extern gems_torch_symbols gems_torch;

/* Finds all symbols in the libraries that the process has loaded. GEMS_ERROR: torch is not loaded
 * or lacks something; the text lists it. Idempotent. */
gems_status gems_torch_open(void);

/* The calling thread's dispatch keys, two words: included and excluded, each XOR its default. NULL:
 * not found. */
const uint64_t *gems_torch_thread_keys(void);

#endif
