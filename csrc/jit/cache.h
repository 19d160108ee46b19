/* What the files of the disk cache share: where it is, and what an entry looks like.
 *
 * DIRECTORY/ab/cdef...-62-digits.entry: the bytes that the backend made, then a trailer. Loaders of ELF ignore
 * what follows the last segment, so a backend may dlopen the file itself. An entry is written to .tmp-* in the same
 * directory, synced, and renamed: it is never seen half written.
 */
#ifndef GEMS_CACHE_H
#define GEMS_CACHE_H

#include "jit.h"

#define GEMS_CACHE_FORMAT 1
#define GEMS_CACHE_SUFFIX ".entry"
#define GEMS_CACHE_TEMPORARY ".tmp-"

typedef struct gems_trailer {
    char magic[8]; /* "gemscach" */
    uint32_t format, trailer_bytes;
    char key[64];
    uint64_t payload_bytes;
    int32_t registers, spill_bytes, shared_bytes, instructions;
    double milliseconds;
    uint8_t payload_hash[32];
    uint8_t trailer_hash[32]; /* of all the fields before */
} gems_trailer;

/* A directory that the environment named, and what is known of it. Never freed. */
typedef struct gems_cache_place {
    struct gems_cache_place *next;
    char *path;   /* NULL: the environment names none */
    bool usable;  /* it exists, is ours, and can be read */
    bool warned;  /* one warning for each place */
} gems_cache_place;

/* The place that the environment names now, made and checked on first use; NULL when memory ran out. */
gems_cache_place *gems_cache_place_now(void);
/* Warns once for a place: what, the path, and the text of an errno (0: none). */
void gems_cache_warn(gems_cache_place *place, const char *what, const char *path, int error);

#endif
