/* What the files of the cpu backend share. Nobody outside this folder includes it. */
#ifndef GEMS_CPU_BACKEND_H
#define GEMS_CPU_BACKEND_H

#include "../backend.h"

typedef enum gems_cpu_mode { GEMS_CPU_FAST, GEMS_CPU_FAITHFUL, GEMS_CPU_CHECKED } gems_cpu_mode;
typedef enum gems_cpu_order { GEMS_ORDER_FORWARD, GEMS_ORDER_REVERSE, GEMS_ORDER_RANDOM } gems_cpu_order;

/* GEMS_CPU_MODE, GEMS_CPU_ORDER and GEMS_CPU_DEVICE, read once. */
typedef struct gems_cpu_config {
    gems_cpu_mode mode;
    gems_cpu_order order;
    uint64_t seed;             /* of the random order */
    bool hopper;               /* the device is one of sm_90a */
} gems_cpu_config;

/* The start of one of the program's entries; what it takes depends on the mode. */
typedef void (*gems_cpu_entry)(void);

struct gems_module {
    void *library;             /* dlopen's handle */
    int memory;                /* descriptor that the library was opened from; -1 */
    int entry_count;
    gems_cpu_entry entries[GEMS_MAX_ENTRIES];
    struct gems_cpu_image *image; /* not in fast mode: where its shared arrays and lines are */
};

/* ---- compiler.c ---- */
typedef struct gems_cpu_compiler {
    char command[512];         /* path of the program, then its fixed arguments; words end with NUL, list with an empty word */
    char identity[96];         /* name and a digest of path, size and time: changes when the compiler does */
} gems_cpu_compiler;
/* CXX, then c++, g++, clang++. Starts no process. GEMS_ERROR: none was found; the text says what was tried. */
gems_status gems_cpu_find_compiler(gems_cpu_compiler *compiler);
/* Looks a program up in PATH, as a shell does; a name with a slash is taken as it is. */
bool gems_cpu_find_program(const char *name, char *path, size_t size);
/* First line of its --version; an empty string when it does not run. */
void gems_cpu_compiler_version(const gems_cpu_compiler *compiler, char *text, size_t size);
/* All options of a mode, one space between; they change with the texts that are put around a program. */
void gems_cpu_options(gems_cpu_mode mode, char *text, size_t size);
gems_status gems_cpu_compile(const gems_cpu_compiler *compiler, gems_cpu_mode mode, const char *options,
                             const char *name, const char *text, const char *const *entries,
                             int entry_count, gems_blob *code);

/* ---- process.c ---- */
/* A new directory that only this user can read; false: errno says why. */
bool gems_cpu_make_directory(char *path, size_t size);
/* Removes it with the files in it. */
void gems_cpu_remove_directory(const char *path);
bool gems_cpu_write_file(const char *path, const void *data, size_t size);
/* The bytes of a file with a NUL behind them (not counted); data NULL on failure. */
gems_blob gems_cpu_read_file(const char *path, size_t limit);
/* Runs a program and waits. words: argv, NULL at the end; standard output and error go to the file `output` ("/dev/null" to
 * drop them). Returns its exit status, 128 + signal, or -1 with errno when it could not be started. */
int gems_cpu_run_program(char *const *words, const char *output);

/* ---- pool.c ---- */
/* Calls work(data) on the caller's thread and on up to threads - 1 others, and returns when all came back. Several callers
 * at once are safe: those that find the pool taken run alone. So is fork: a child starts its own threads. */
void gems_cpu_pool_run(void (*work)(void *), void *data, int threads);
/* Memory of this thread, aligned to 128 bytes, at least size bytes; valid until the thread's next call. NULL: none left. */
void *gems_cpu_thread_memory(size_t size);

/* ---- simt.c ---- */
/* Runs a launch with every thread of every block; one launch at a time in the process. */
gems_status gems_cpu_simt_launch(const gems_cpu_config *config, gems_module *module, int entry,
                                 const gems_launch *launch);
/* The structure that a program calls back through. */
const void *gems_cpu_simt_runtime(void);

/* ---- image.c ---- */
/* Reads from a program's bytes where its shared arrays are; runtime: address of its gems_cpu_runtime, from which the place
 * it was loaded at follows. NULL with the error recorded. */
struct gems_cpu_image *gems_cpu_image_open(const gems_blob *code, const void *runtime);
void gems_cpu_image_close(struct gems_cpu_image *image);

#endif
