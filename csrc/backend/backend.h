/* What a backend is: one struct of functions. Memory stays with torch; a backend compiles program
 * text to bytes, loads the bytes, launches. Files of jit/ and engine/ are its only callers.
 *
 * All functions may be called from any thread, without the GIL. compile must be safe to run on
 * several threads at once. Every failure is a gems_status with the text recorded (gems_fail).
 */
#ifndef GEMS_BACKEND_H
#define GEMS_BACKEND_H

#include "../gems.h"

#define GEMS_BACKEND_VERSION 1
#define GEMS_MAX_ENTRIES 8 /* kernels of one program */

/* What the shape heuristics may ask about a device. */
typedef struct gems_device_info {
    int arch;              /* 80, 90, 100, 120; 0 on a CPU */
    int processors;        /* SMs; worker threads on a CPU */
    int warp;              /* 32; 1 in the cpu backend's fast mode */
    int max_threads;       /* of a block; 1 in the fast mode */
    int vector_bytes;      /* width of the contract's vectors: 16; 64 in the fast mode */
    int64_t shared_bytes;  /* most dynamic shared memory of a block */
    int64_t l2_bytes;
    bool fast;             /* one thread a block: ranges become chunks (kFast in kernels/gems.cuh) */
    bool wants_extents;    /* launch must be given the memory that the kernel may touch */
    bool hopper;           /* programs may use kernels/hopper.cuh: tensor maps and products of a warpgroup */
} gems_device_info;

/* What a compiled program depends on besides its text; part of the disk cache's key. */
typedef struct gems_identity {
    char arch[32];         /* "sm_90a", or the host CPU's name */
    char compiler[96];     /* compiler and version */
    char options[512];     /* all options, one space between */
} gems_identity;

/* Bytes owned by the receiver: free with gems_blob_free (backend.c). */
typedef struct gems_blob {
    void *data;
    size_t size;
} gems_blob;
void gems_blob_free(gems_blob *blob);

/* What the compiler says of one program, for warmup's report; -1 where it does not say. */
typedef struct gems_report {
    int registers, spill_bytes, shared_bytes, instructions;
    double milliseconds;
} gems_report;

/* Memory that a kernel may touch, for the checked mode. */
typedef struct gems_extent {
    const void *start;
    size_t bytes;
    bool writable;
} gems_extent;

/* A tensor of three or four dimensions, as copies by boxes see it (kernels/hopper.cuh): the innermost first, contiguous. */
typedef struct gems_tensor_map {
    const void *data;      /* at a multiple of 16 bytes */
    int64_t sizes[4];      /* at least 1; the last 0: three dimensions */
    int64_t strides[3];    /* of the outer dimensions, bytes: multiples of 16, not 0 */
    int32_t box[2];        /* of the inner dimensions, elements; a row of the box is 128 bytes. The others: 1 */
    uint8_t dtype;         /* one of 8 or 16 bits, or GEMS_F32: a copy rounds it to tf32 */
} gems_tensor_map;
#define GEMS_TENSOR_MAP_BYTES 128 /* what a kernel is given; at a multiple of 64 */

typedef struct gems_launch {
    uint32_t grid[3], block[3];
    uint32_t shared;           /* bytes of dynamic shared memory */
    uint32_t cluster;          /* blocks of a cluster along x; 0 or 1: none */
    void *stream;              /* the device's stream; NULL on a CPU */
    void **args;               /* one pointer a kernel parameter, as cuLaunchKernel takes them */
    const gems_extent *extents; /* only where wants_extents */
    int extent_count;
    const char *name;          /* operator, for reports */
} gems_launch;

typedef struct gems_module gems_module; /* a backend's own; opaque to all others */

typedef struct gems_backend {
    int version;           /* GEMS_BACKEND_VERSION */
    const char *name;      /* "cuda", "cpu", "null" */
    int device_type;       /* gems_device_type whose tensors it takes */

    /* Finds libraries or compilers. Idempotent, thread-safe. GEMS_ERROR: not usable here, the text
     * says what was tried. No other function but describe is called before it succeeded. */
    gems_status (*open)(void);

    /* Writes one line a found or missing thing for flag_gems.info(); never fails. */
    void (*describe)(char *text, size_t size);

    int (*device_count)(void);
    gems_status (*device_info)(int device, gems_device_info *info);

    /* arch NULL: the arch of the device. Otherwise compile for that arch, device ignored; "sm_90" means what a
     * device of that arch gets. identity->arch is the name under which it is compiled: "sm_90a". */
    gems_status (*identity)(int device, const char *arch, gems_identity *identity);

    /* name is for messages. On failure the text has the operator, the numbered source, the log. */
    gems_status (*compile)(const gems_identity *identity, const char *name, const char *text,
                           const char *const *entries, int entry_count, gems_blob *code, gems_report *report);

    /* The module copies what it needs of code. path: a file that holds the same bytes, or NULL. */
    gems_status (*load)(int device, const gems_blob *code, const char *path, const char *const *entries,
                        int entry_count, gems_module **module);
    gems_status (*launch)(int device, gems_module *module, int entry, const gems_launch *launch);
    void (*unload)(gems_module *module);

    /* True while the stream is being captured to a graph: nothing may be loaded or synchronised. */
    bool (*capturing)(int device, void *stream);

    /* Copies bytes of the device's memory to the host, after all that the stream was given before; waits for it.
     * Not while the stream is being captured. */
    gems_status (*read)(int device, void *stream, const void *from, size_t bytes, void *to);

    /* Writes the map of a tensor, GEMS_TENSOR_MAP_BYTES that a kernel takes by value. GEMS_DECLINE where it cannot be made.
     * NULL: no device of the backend has them. */
    gems_status (*tensor_map)(int device, const gems_tensor_map *tensor, void *map);
} gems_backend;

extern const gems_backend gems_backend_cpu, gems_backend_cuda, gems_backend_null;

/* The cpu backend asks this how many threads a launch may use (torch.get_num_threads; set by torch/). */
extern int (*gems_cpu_thread_count)(void);

#endif
