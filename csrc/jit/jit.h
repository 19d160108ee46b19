/* From a plan key to a loaded kernel: program text, disk cache, compile, load; each done once.
 *
 * A plan key says all there is to know to write a program: the same key gives the same text. So the
 * path of a call on a hit is a lookup by key, and warmup is a loop over keys.
 */
#ifndef GEMS_JIT_H
#define GEMS_JIT_H

#include "../backend/backend.h"
#include "../base/text.h"

/* No padding, compared as bytes. All but op and flags is the family's own to use. */
typedef struct gems_key {
    uint16_t op;           /* row of the operator table (gems_op_at) */
    uint8_t kernel;        /* which of the family's programs: shape class */
    uint8_t flags;
    uint8_t dtype[8];      /* inputs, then outputs, then what the program computes in */
    uint8_t tune[12];      /* small constants of the program: rank, tile configuration, ... */
} gems_key;

#define GEMS_MAX_FILES 6

/* What a family writes for a key. The jit puts the pieces together in this order:
 * kernels/gems.cuh, then head, then the files. */
typedef struct gems_program {
    const char *files[GEMS_MAX_FILES]; /* embedded kernel texts in order: "tile.cuh", "matmul.cu"; NULL ends */
    gems_text head;            /* typedefs, constexpr and #define lines that the files need */
    const char *entries[GEMS_MAX_ENTRIES]; /* extern "C" kernels; index = kernel of gems_plan_launch */
    int entry_count;
    int elements;              /* that a thread of a GPU makes at once where it can; 0: not said */
    bool alone;                /* nothing of ATen's runs where this cannot */
    char name[96];             /* for messages and reports: "add.Tensor dense float32" */
} gems_program;

/* A loaded program of one device. Never freed before the process ends; safe to read without a lock. */
typedef struct gems_plan {
    gems_key key;
    gems_module *module;       /* NULL: it failed to compile or load; launches decline */
    char *error;               /* then: what failed; NULL when there was no memory to keep it */
} gems_plan;

typedef struct gems_device gems_device;

/* The device of a torch device type and index; NULL when no backend takes it (gems_reason says why).
 * Opens the backend on the first call. Lock-free afterwards. */
gems_device *gems_device_get(int device_type, int index);
const gems_device_info *gems_device_information(const gems_device *device);
const gems_backend *gems_device_backend(const gems_device *device);
int gems_device_index(const gems_device *device);

/* Finds the plan of a key; on a miss compiles it (one thread does, the others wait; the GIL is released
 * through gems_unlocked_* below). While stream is being captured a miss declines and does nothing.
 * GEMS_DECLINE also when the program failed before, with *plan set: the error is logged once, with the source.
 * FLAGGEMS_ASSERT_COMPILED=1: a miss of the disk cache is GEMS_ERROR. */
gems_status gems_plan_get(gems_device *device, void *stream, const gems_key *key, const gems_plan **plan);
gems_status gems_plan_launch(gems_device *device, const gems_plan *plan, int entry, const gems_launch *launch);

/* Compiles the program of a key for an arch into the disk cache without loading it. cached: it was there. */
gems_status gems_plan_warm(const gems_backend *backend, const char *arch, const gems_key *key,
                           gems_report *report, bool *cached);
/* Writes the program of a key: head, files, entries, name. The layer that knows the operators sets it, once. */
extern gems_status (*gems_program_write)(const gems_key *key, gems_program *program);
/* The whole text of a key's program, and its entries; the caller frees text. */
gems_status gems_plan_text(const gems_key *key, gems_text *text, gems_program *program);

typedef struct gems_jit_stats { uint64_t compiled, disk_hits, loaded, failed; double compile_ms; } gems_jit_stats;
gems_jit_stats gems_jit_statistics(void);

/* Set by python/: called around a compile and around waiting for one. NULL where there is no GIL. */
extern void *(*gems_unlocked_begin)(void);
extern void (*gems_unlocked_end)(void *);

/* ---- disk cache (jit/cache.c) ---- */
/* key: hex digest. A hit gives bytes (free with gems_blob_free) and the path of the file. Anything wrong with an entry
 * deletes it and is a miss. Neither function ever fails a call: a cache that cannot be used warns once. */
bool gems_cache_get(const char *key, gems_blob *code, gems_report *report, char *path, size_t path_size);
void gems_cache_put(const char *key, const gems_blob *code, const gems_report *report, char *path, size_t path_size);
/* Digest of everything that a program's code depends on: 64 hex digits and a NUL. */
void gems_cache_key(const gems_identity *identity, const char *text, char key[65]);
const char *gems_cache_directory(void);   /* NULL: memory only */
typedef struct gems_cache_info { int64_t entries, bytes; } gems_cache_info;
gems_cache_info gems_cache_measure(void);
int64_t gems_cache_clear(void);           /* entries removed */
int64_t gems_cache_prune(int64_t keep_bytes); /* oldest first, until at most keep_bytes stay */
void gems_sha256(const void *data, size_t size, uint8_t digest[32]);

#endif
