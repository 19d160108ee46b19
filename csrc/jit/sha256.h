/* SHA-256 in pieces; gems_sha256 of jit.h is the whole in one call. */
#ifndef GEMS_SHA256_H
#define GEMS_SHA256_H

#include "jit.h"

typedef struct gems_sha256_state {
    uint32_t state[8];
    size_t size;       /* bytes added */
    uint8_t block[64]; /* the bytes that did not fill a block yet */
} gems_sha256_state;

void gems_sha256_begin(gems_sha256_state *s);
void gems_sha256_add(gems_sha256_state *s, const void *data, size_t size);
void gems_sha256_end(gems_sha256_state *s, uint8_t digest[32]); /* s may not be added to afterwards */

#endif
