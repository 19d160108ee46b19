/* Finding and opening the two libraries. NVRTC: the one that torch has loaded, then NVIDIA's
 * wheels, then a CUDA toolkit, then the loader's own search. An NVRTC whose builtins library cannot
 * be found fails at its first compile, so one that has them is preferred.
 *
 * Environment: FLAGGEMS_NVRTC_LIBRARY and FLAGGEMS_CUDA_LIBRARY, when set, are the only files that
 * are tried.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

const char *gems_cuda_search_path;

enum { PATHS = 12, PATH_SIZE = 1024 };

/* What was tried, a line each; what does not fit is left out. */
typedef struct notes {
    size_t size;
    char text[12000];
} notes;

static void note(notes *tried, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void note(notes *tried, const char *format, ...) {
    size_t room = sizeof tried->text - tried->size;
    va_list list;
    va_start(list, format);
    int size = vsnprintf(tried->text + tried->size, room, format, list);
    va_end(list);
    if (size < 0 || (size_t)size + 2 > room) {
        tried->text[tried->size] = 0;
        return;
    }
    tried->size += (size_t)size;
    tried->text[tried->size++] = '\n';
    tried->text[tried->size] = 0;
}

/* Why dlopen failed; its words mostly begin with the file's name. */
static void note_failed_open(notes *tried, const char *file) {
    const char *why = dlerror();
    if (!why) why = "cannot be opened";
    if (!strncmp(why, file, strlen(file)))
        note(tried, "  %s", why);
    else
        note(tried, "  %s: %s", file, why);
}

/* ---- symbols ---- */

static const char *compiler_symbols(void *library, gems_cuda_compiler *table) {
#define GEMS_COMPILER(required, field, symbol, parameters) \
    *(void **)&table->field = dlsym(library, symbol);      \
    if (required && !table->field) return symbol;
#define GEMS_COMPILER_TEXT(required, field, symbol, parameters) \
    GEMS_COMPILER(required, field, symbol, parameters)
#define GEMS_DRIVER(required, field, symbol, parameters)
#include GEMS_CUDA_SYMBOLS
#undef GEMS_COMPILER
#undef GEMS_COMPILER_TEXT
#undef GEMS_DRIVER
    return NULL;
}

static const char *driver_symbols(void *library, gems_cuda_driver *table) {
#define GEMS_COMPILER(required, field, symbol, parameters)
#define GEMS_COMPILER_TEXT(required, field, symbol, parameters)
#define GEMS_DRIVER(required, field, symbol, parameters) \
    *(void **)&table->field = dlsym(library, symbol);    \
    if (required && !table->field) return symbol;
#include GEMS_CUDA_SYMBOLS
#undef GEMS_COMPILER
#undef GEMS_COMPILER_TEXT
#undef GEMS_DRIVER
    return NULL;
}

/* The file that an address of a library came from. */
static void path_of(void *address, const char *asked, char *path, size_t size) {
    Dl_info info;
    bool known = dladdr(address, &info) && info.dli_fname && strchr(info.dli_fname, '/');
    snprintf(path, size, "%s", known ? info.dli_fname : asked);
}

/* Cuts a path behind its last slash but one: the directory; "" when there is none. */
static void parent(char *path) {
    char *slash = strrchr(path, '/');
    if (slash)
        *slash = 0;
    else
        *path = 0;
}

/* ---- NVRTC ---- */

/* NVRTC opens its builtins by bare name when it first compiles, and finds them only by the loader's
 * path or its own runpath; loaded ahead from where they belong they are found in any case. False:
 * nowhere. */
static bool load_builtins(gems_cuda_compiler *compiler) {
    char name[64], file[PATH_SIZE + 80], directory[PATH_SIZE];
    snprintf(name, sizeof name, "libnvrtc-builtins.so.%d.%d", compiler->major, compiler->minor);
    snprintf(directory, sizeof directory, "%s", compiler->path);
    parent(directory);
    snprintf(file, sizeof file, "%s/%s", directory, name);
    if (dlopen(file, RTLD_NOW | RTLD_LOCAL)) return true;
    char *real =
        realpath(compiler->path, NULL); /* a link to the file that lies beside its builtins */
    if (real) {
        snprintf(directory, sizeof directory, "%s", real);
        free(real);
        parent(directory);
        snprintf(file, sizeof file, "%s/%s", directory, name);
        if (dlopen(file, RTLD_NOW | RTLD_LOCAL)) return true;
    }
    if (dlopen(name, RTLD_NOW | RTLD_LOCAL)) return true;
    snprintf(compiler->remark, sizeof compiler->remark,
             "%s, which NVRTC %d.%d needs, is neither in %.300s nor on the loader's path", name,
             compiler->major, compiler->minor, directory);
    return false;
}

static int ascending(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

typedef struct search {
    notes tried;
    gems_cuda_compiler found, spare; /* spare: the first that lacks its builtins */
    bool has_spare;
} search;

/* Opens one file and keeps it when it is whole. True: search->found is it. */
static bool try_compiler(search *s, const char *file) {
    gems_cuda_compiler c = {0};
    int count = 0;
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        note_failed_open(&s->tried, file);
        return false;
    }
    const char *missing = compiler_symbols(library, &c);
    if (missing) {
        note(&s->tried, "  %s: has no %s", file, missing);
        dlclose(library);
        return false;
    }
    if (c.version(&c.major, &c.minor) || c.arch_count(&count) || count < 1 ||
        count > GEMS_CUDA_ARCHS || c.archs(c.known)) {
        note(&s->tried, "  %s: does not say its version and archs", file);
        dlclose(library);
        return false;
    }
    c.known_count = count;
    qsort(c.known, (size_t)count, sizeof *c.known, ascending);
    path_of(*(void **)&c.version, file, c.path, sizeof c.path);
    if (load_builtins(&c)) {
        s->found = c;
        return true;
    }
    note(&s->tried, "  %s: %s", c.path, c.remark);
    if (!s->has_spare) {
        s->spare = c;
        s->has_spare = true;
    }
    return false;
}

/* The newest libnvrtc of a directory. */
static bool try_directory(search *s, const char *directory) {
    char best[256] = "", file[PATH_SIZE + 300];
    DIR *open = opendir(directory);
    if (!open) {
        note(&s->tried, "  %s: no such directory", directory);
        return false;
    }
    for (struct dirent *item; (item = readdir(open));)
        if (!strncmp(item->d_name, "libnvrtc.so", 11) && strlen(item->d_name) < sizeof best &&
            strverscmp(item->d_name, best) > 0)
            snprintf(best, sizeof best, "%s", item->d_name);
    closedir(open);
    if (!*best) {
        note(&s->tried, "  %s: no libnvrtc.so", directory);
        return false;
    }
    snprintf(file, sizeof file, "%s/%s", directory, best);
    return try_compiler(s, file);
}

static int is_release(const struct dirent *item) {
    return !strncmp(item->d_name, "cu", 2) && item->d_name[2] >= '0' && item->d_name[2] <= '9';
}

/* The wheels under a directory of packages: nvidia/cu13/lib and its successors,
 * nvidia/cuda_nvrtc/lib. */
static bool try_packages(search *s, const char *packages) {
    char directory[PATH_SIZE + 300];
    struct dirent **items = NULL;
    bool found = false;
    if (!*packages) return false;
    snprintf(directory, sizeof directory, "%s/nvidia", packages);
    int count = scandir(directory, &items, is_release, versionsort);
    for (int i = count - 1; i >= 0; i--) {
        snprintf(directory, sizeof directory, "%s/nvidia/%s/lib", packages, items[i]->d_name);
        found = found || try_directory(s, directory);
        free(items[i]);
    }
    free(items);
    if (found) return true;
    snprintf(directory, sizeof directory, "%s/nvidia/cuda_nvrtc/lib", packages);
    if (strstr(s->tried.text, directory)) return false; /* tried before */
    return try_directory(s, directory);
}

static bool try_toolkit(search *s, const char *home) {
    static const char *const parts[] = {"lib64", "lib", "targets/x86_64-linux/lib",
                                        "targets/sbsa-linux/lib"};
    char directory[PATH_SIZE + 64];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(directory, sizeof directory, "%.*s/%s", PATH_SIZE, home, parts[i]);
        if (try_directory(s, directory)) return true;
    }
    return false;
}

/* What the process has loaded already: its NVRTC, and the directories of packages that its
 * libraries lie in. */
typedef struct loaded {
    int compilers, packages;
    char compiler[PATHS][PATH_SIZE], package[PATHS][PATH_SIZE];
} loaded;

static void keep(char list[][PATH_SIZE], int *count, const char *path, size_t size) {
    if (*count == PATHS || size >= PATH_SIZE) return;
    for (int i = 0; i < *count; i++)
        if (strlen(list[i]) == size && !memcmp(list[i], path, size)) return;
    memcpy(list[*count], path, size);
    list[(*count)++][size] = 0;
}

static int see_library(struct dl_phdr_info *info, size_t size, void *into) {
    static const char *const folders[] = {"/site-packages/", "/dist-packages/"};
    loaded *all = into;
    (void)size;
    const char *path = info->dlpi_name;
    if (!path || !strchr(path, '/')) return 0;
    const char *name = strrchr(path, '/') + 1;
    /* Wheels that carry their own copy rename it: libnvrtc-672ee683.so.11.2. */
    if (!strncmp(name, "libnvrtc", 8) && strncmp(name, "libnvrtc-builtins", 17))
        keep(all->compiler, &all->compilers, path, strlen(path));
    for (int i = 0; i < 2; i++) {
        const char *at = strstr(path, folders[i]);
        if (at)
            keep(all->package, &all->packages, path, (size_t)(at - path) + strlen(folders[i]) - 1);
    }
    return 0;
}

static bool find_compiler(search *s, loaded *all) {
    static const char *const sonames[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2",
                                          "libnvrtc.so"};
    static const char *const homes[] = {"CUDA_HOME", "CUDA_PATH"};
    const char *only = getenv("FLAGGEMS_NVRTC_LIBRARY");
    char place[PATH_SIZE];
    if (only && *only) {
        note(&s->tried, "FLAGGEMS_NVRTC_LIBRARY:");
        return try_compiler(s, only);
    }

    dl_iterate_phdr(see_library, all);
    note(&s->tried, "loaded in this process: %s", all->compilers ? "" : "no libnvrtc");
    for (int i = 0; i < all->compilers; i++)
        if (try_compiler(s, all->compiler[i])) return true;

    note(&s->tried, "wheels (nvidia-cuda-nvrtc):");
    for (const char *at = gems_cuda_search_path; at && *at;) {
        size_t size = strcspn(at, ":");
        if (size && size < sizeof place) keep(all->package, &all->packages, at, size);
        at += size + (at[size] == ':');
    }
    path_of(&gems_cuda_search_path, "", place, sizeof place);
    for (int up = 0; up < 3 && *place; up++) { /* the package's own folder, and where that lies */
        parent(place);
        if (*place) keep(all->package, &all->packages, place, strlen(place));
    }
    for (int i = 0; i < all->packages; i++)
        if (try_packages(s, all->package[i])) return true;

    for (int i = 0; i < 2; i++) {
        const char *home = getenv(homes[i]);
        note(&s->tried, "%s: %s", homes[i], home && *home ? home : "not set");
        if (home && *home && try_toolkit(s, home)) return true;
    }
    note(&s->tried, "the usual place of a CUDA toolkit:");
    if (try_toolkit(s, "/usr/local/cuda")) return true;

    note(&s->tried, "the loader's path:");
    for (size_t i = 0; i < sizeof sonames / sizeof *sonames; i++)
        if (try_compiler(s, sonames[i])) return true;
    return false;
}

const gems_cuda_compiler *gems_cuda_compiler_open(void) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static _Atomic(const gems_cuda_compiler *) ready;
    static gems_cuda_compiler kept;
    const gems_cuda_compiler *compiler = atomic_load_explicit(&ready, memory_order_acquire);
    if (compiler) return compiler;

    search *s = calloc(1, sizeof *s);
    loaded *all = calloc(1, sizeof *all);
    pthread_mutex_lock(&mutex);
    compiler = atomic_load_explicit(&ready, memory_order_relaxed);
    if (!compiler && s && all) {
        if (find_compiler(s, all))
            kept = s->found;
        else if (s->has_spare)
            kept = s->spare;
        if (kept.version) {
            compiler = &kept;
            atomic_store_explicit(&ready, compiler, memory_order_release);
        } else {
            gems_fail(GEMS_RUNTIME_ERROR,
                      "NVRTC was not found; install it with `pip install nvidia-cuda-nvrtc` or set "
                      "FLAGGEMS_NVRTC_LIBRARY. Tried:\n%s",
                      s->tried.text);
        }
    } else if (!compiler) {
        gems_fail(GEMS_MEMORY_ERROR, "out of memory");
    }
    pthread_mutex_unlock(&mutex);
    free(s);
    free(all);
    return compiler;
}

/* ---- driver ---- */

/* A driver that answered with an error, in its own words when it has some. */
static const char *describe_result(const gems_cuda_driver *d, int result, char *text, size_t size) {
    const char *name = NULL, *words = NULL;
    d->error_name(result, &name);
    d->error_text(result, &words);
    snprintf(text, size, "%s (%s)", name ? name : "unknown error",
             words ? words : "no description");
    return text;
}

static bool try_driver(notes *tried, const char *file, gems_cuda_driver *d) {
    char why[300];
    const char *call = "cuInit";
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        note_failed_open(tried, file);
        return false;
    }
    const char *missing = driver_symbols(library, d);
    if (missing) {
        note(tried, "  %s: has no %s, the driver is too old", file, missing);
        dlclose(library);
        return false;
    }
    path_of(*(void **)&d->init, file, d->path, sizeof d->path);
    int result = d->init(0);
    if (!result) {
        call = "cuDriverGetVersion";
        result = d->version(&d->number);
    }
    if (!result) {
        call = "cuDeviceGetCount";
        result = d->device_count(&d->devices);
    }
    if (result) {
        note(tried, "  %s: %s: %s", d->path, call, describe_result(d, result, why, sizeof why));
        return false; /* stays open: a driver that was initialised must not be unloaded */
    }
    if (d->devices > GEMS_CUDA_DEVICES) d->devices = GEMS_CUDA_DEVICES;
    return true;
}

const gems_cuda_driver *gems_cuda_driver_open(void) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static _Atomic(const gems_cuda_driver *) ready;
    static gems_cuda_driver kept;
    static notes tried;
    const gems_cuda_driver *driver = atomic_load_explicit(&ready, memory_order_acquire);
    if (driver) return driver;

    pthread_mutex_lock(&mutex);
    driver = atomic_load_explicit(&ready, memory_order_relaxed);
    if (!driver && !tried.size) {
        static const char *const files[] = {"libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"};
        const char *only = getenv("FLAGGEMS_CUDA_LIBRARY");
        if (only && *only) {
            note(&tried, "FLAGGEMS_CUDA_LIBRARY:");
            if (try_driver(&tried, only, &kept)) driver = &kept;
        } else {
            note(&tried, "the loader's path, and where WSL keeps it:");
            for (int i = 0; i < 2 && !driver; i++)
                if (try_driver(&tried, files[i], &kept)) driver = &kept;
        }
        if (driver) atomic_store_explicit(&ready, driver, memory_order_release);
    }
    if (!driver) gems_fail(GEMS_RUNTIME_ERROR, "no usable CUDA driver. Tried:\n%s", tried.text);
    pthread_mutex_unlock(&mutex);
    return driver;
}
