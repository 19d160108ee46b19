/* Inside of the cuda backend: the two libraries as tables of functions, and what its files give
 * each other. */
#ifndef GEMS_CUDA_H
#define GEMS_CUDA_H

#include "../backend.h"

#ifndef GEMS_CUDA_SYMBOLS
#define GEMS_CUDA_SYMBOLS "symbols.def"
#endif

#define GEMS_CUDA_DEVICES 64 /* ordinals that the backend takes */
#define GEMS_CUDA_ARCHS   64 /* archs that a compiler may know */

/* Directories, separated by colons, under which NVIDIA's wheels may lie (Python's sys.path). Set by
 * python/ before the first open, kept by the setter; NULL: only places found without it. */
extern const char *gems_cuda_search_path;

/* CUlaunchConfig with its only attribute that we use, in the driver's layout. */
typedef struct gems_cuda_attribute {
    int id;
    int pad;
    union {
        unsigned cluster[3];
        char room[64];
    } value;
} gems_cuda_attribute;

typedef struct gems_cuda_config {
    unsigned grid[3], block[3], shared;
    void *stream;
    gems_cuda_attribute *attributes;
    unsigned attribute_count;
} gems_cuda_config;

/* The run-time compiler, opened once. */
typedef struct gems_cuda_compiler {
#define GEMS_COMPILER(required, field, symbol, parameters)      int(*field) parameters;
#define GEMS_COMPILER_TEXT(required, field, symbol, parameters) const char *(*field)parameters;
#define GEMS_DRIVER(required, field, symbol, parameters)
#include GEMS_CUDA_SYMBOLS
#undef GEMS_COMPILER
#undef GEMS_COMPILER_TEXT
#undef GEMS_DRIVER
    int major, minor;
    int known[GEMS_CUDA_ARCHS],
        known_count; /* archs it makes machine code for, ascending: 75, 80, 90 ... */
    char path[1024];
    char remark[512]; /* why it may not work: builtins that were not found; "" */
} gems_cuda_compiler;

/* The driver, opened once and initialised. */
typedef struct gems_cuda_driver {
#define GEMS_COMPILER(required, field, symbol, parameters)
#define GEMS_COMPILER_TEXT(required, field, symbol, parameters)
#define GEMS_DRIVER(required, field, symbol, parameters) int(*field) parameters;
#include GEMS_CUDA_SYMBOLS
#undef GEMS_COMPILER
#undef GEMS_COMPILER_TEXT
#undef GEMS_DRIVER
    int number; /* 13000: supports CUDA 13.0 */
    int devices;
    char path[1024];
} gems_cuda_driver;

/* ---- library.c ----
 * Finds and opens the library on the first call that can; NULL with an error text that lists what
 * was tried. Lock-free once it is open. A compiler that was not found is looked for again (torch
 * may have brought one meanwhile); a driver that failed is not asked again. */
const gems_cuda_compiler *gems_cuda_compiler_open(void);
const gems_cuda_driver *gems_cuda_driver_open(void);

/* ---- nvrtc.c ---- */
gems_status gems_cuda_identity(int device, const char *arch, gems_identity *identity);
gems_status gems_cuda_compile(const gems_identity *identity, const char *name, const char *text,
                              const char *const *entries, int entry_count, gems_blob *code,
                              gems_report *report);
/* "sm_90a" of 90: the name under which this compiler has most of the arch's instructions, or
 * "compute_XY" of the highest arch below when it does not know this one. GEMS_ERROR when it knows
 * none below. */
gems_status gems_cuda_arch_name(const gems_cuda_compiler *compiler, int arch, char *name,
                                size_t size);

/* ---- source.c ---- */
/* The lines of a program that a compiler's log speaks of, numbered as the log numbers them, each
 * with its neighbours; the whole text when it is short, its end when the log names no line. Freed
 * by the caller with free; NULL when memory ran out. */
char *gems_cuda_listing(const char *text, const char *log);

/* ---- cubin.c ---- */
/* Reads registers, spills and shared memory from the log of ptxas -v: the largest over the entries,
 * -1 where it does not say. */
void gems_cuda_read_log(const char *log, gems_report *report);
/* Instructions of all entries in a cubin, without the padding behind their ends; -1 when it is no
 * cubin that we can read. missing: index of the first entry that it does not have, -1 when it has
 * all. */
int gems_cuda_count_instructions(const gems_blob *code, const char *const *entries, int count,
                                 int *missing);

/* ---- driver.c ---- */
gems_status gems_cuda_device_arch(int device, int *arch);
void gems_cuda_device_label(int device, char *name,
                            size_t size); /* "NVIDIA H200"; "" when it cannot be asked */
int gems_cuda_device_count(void);
gems_status gems_cuda_device_info(int device, gems_device_info *info);
gems_status gems_cuda_load(int device, const gems_blob *code, const char *path,
                           const char *const *entries, int entry_count, gems_module **module);
gems_status gems_cuda_launch(int device, gems_module *module, int entry, const gems_launch *launch);
void gems_cuda_unload(gems_module *module);
bool gems_cuda_capturing(int device, void *stream);
gems_status gems_cuda_read(int device, void *stream, const void *from, size_t bytes, void *to);
gems_status gems_cuda_tensor_map(int device, const gems_tensor_map *tensor, void *map);

#endif
