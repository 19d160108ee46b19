/* The cpu backend: kernels compiled by the host's C++ compiler. Its fast mode runs them, its
 * faithful and checked modes test them (docs/contract.md). */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu.h"
#include "simt.h"

static const char *const mode_names[] = {"fast", "faithful", "checked"};

static struct {
    pthread_mutex_t lock;
    _Atomic bool ready;
    gems_cpu_config config;
    gems_cpu_compiler compiler;
    char host[32];
    char options[512];
} cpu = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int online_processors(void) {
    static _Atomic int count;
    int known = atomic_load_explicit(&count, memory_order_relaxed);
    if (known) return known;
    cpu_set_t set;
    known = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                        : (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (known < 1) known = 1;
    atomic_store_explicit(&count, known, memory_order_relaxed);
    return known;
}

int (*gems_cpu_thread_count)(void) = online_processors;

static gems_status read_config(gems_cpu_config *config) {
    const char *mode = getenv("GEMS_CPU_MODE"), *order = getenv("GEMS_CPU_ORDER"),
               *named = getenv("GEMS_CPU_DEVICE");
    *config = (gems_cpu_config){GEMS_CPU_FAST, GEMS_ORDER_FORWARD, 0, false};
    if (mode && *mode) {
        int i = 0;
        while (i < 3 && strcmp(mode, mode_names[i]) != 0) i++;
        if (i == 3)
            return gems_fail(GEMS_VALUE_ERROR,
                             "GEMS_CPU_MODE=%s: it is one of fast, faithful, checked", mode);
        config->mode = (gems_cpu_mode)i;
    }
    config->hopper = named && strcmp(named, "sm_90a") == 0 && config->mode != GEMS_CPU_FAST;
    if (named && *named && strcmp(named, "sm_90a") != 0)
        return gems_fail(GEMS_VALUE_ERROR, "GEMS_CPU_DEVICE=%s: it is sm_90a, or nothing", named);
    if (order && *order) {
        char *end = NULL;
        if (strcmp(order, "forward") == 0) return GEMS_OK;
        if (strcmp(order, "reverse") == 0) {
            config->order = GEMS_ORDER_REVERSE;
            return GEMS_OK;
        }
        if (strncmp(order, "random:", 7) == 0) config->seed = strtoull(order + 7, &end, 10);
        if (!end || end == order + 7 || *end)
            return gems_fail(GEMS_VALUE_ERROR,
                             "GEMS_CPU_ORDER=%s: it is one of forward, reverse, random:SEED",
                             order);
        config->order = GEMS_ORDER_RANDOM;
    }
    return GEMS_OK;
}

/* A name for what -march=native means here: the machine's kind and a digest of its first
 * processor's description. */
static void name_host(char name[32]) {
    static const char *const fields[] = {"vendor_id", "cpu family", "model", "stepping",
                                         "flags",     "Features",   "CPU "};
    uint64_t digest = UINT64_C(0xcbf29ce484222325);
    char text[8192];
    size_t size = 0;
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (file) {
        size = fread(text, 1, sizeof text - 1, file);
        fclose(file);
    }
    text[size] = 0;
    for (char *line = text; *line && *line != '\n';) {
        size_t length = strcspn(line, "\n");
        for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
            if (strncmp(line, fields[i], strlen(fields[i])) == 0)
                for (size_t k = 0; k < length; k++)
                    digest = (digest ^ (unsigned char)line[k]) * UINT64_C(0x100000001b3);
        line += length;
        if (*line) line++;
    }
#if defined(__x86_64__)
    const char *kind = "x86_64";
#elif defined(__aarch64__)
    const char *kind = "aarch64";
#else
    const char *kind = "cpu";
#endif
    snprintf(name, 32, "%s-%016llx", kind, (unsigned long long)digest);
}

static gems_status open_backend(void) {
    gems_status status = GEMS_OK;
    if (atomic_load_explicit(&cpu.ready, memory_order_acquire)) return GEMS_OK;
    pthread_mutex_lock(&cpu.lock);
    if (!atomic_load_explicit(&cpu.ready, memory_order_relaxed)) {
        status = read_config(&cpu.config);
        if (status == GEMS_OK) status = gems_cpu_find_compiler(&cpu.compiler);
        if (status == GEMS_OK) {
            name_host(cpu.host);
            gems_cpu_options(cpu.config.mode, cpu.options, sizeof cpu.options);
            atomic_store_explicit(&cpu.ready, true, memory_order_release);
        }
    }
    pthread_mutex_unlock(&cpu.lock);
    return status;
}

static void describe(char *text, size_t size) {
    char version[256];
    if (open_backend() != GEMS_OK) {
        snprintf(text, size, "cpu: not usable: %s\n", gems_error_text());
        return;
    }
    gems_cpu_compiler_version(&cpu.compiler, version, sizeof version);
    snprintf(text, size, "cpu: mode %s, %d threads, compiler %s (%s)\n",
             mode_names[cpu.config.mode], gems_cpu_thread_count(), cpu.compiler.command,
             *version ? version : "does not run");
}

static int device_count(void) { return 1; }

static gems_status device_info(int device, gems_device_info *info) {
    bool fast = cpu.config.mode == GEMS_CPU_FAST;
    long l2 = -1;
    (void)device;
#ifdef _SC_LEVEL2_CACHE_SIZE
    l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    const bool hopper = cpu.config.hopper;
    /* Faithful modes stand for a small GPU whose shared memory is the least of those supported. */
    *info = (gems_device_info){.arch = 0,
                               .processors = fast ? gems_cpu_thread_count() : 4,
                               .warp = fast ? 1 : 32,
                               .max_threads = fast ? 1 : 1024,
                               .vector_bytes = fast ? 64 : 16,
                               .shared_bytes = fast     ? 256 * 1024
                                               : hopper ? 227 * 1024
                                                        : 99 * 1024,
                               .l2_bytes = l2 > 0 ? l2 : 1 << 20,
                               .fast = fast,
                               .wants_extents = cpu.config.mode == GEMS_CPU_CHECKED,
                               .hopper = hopper};
    return GEMS_OK;
}

static gems_status identity(int device, const char *arch, gems_identity *out) {
    (void)device;
    memset(out, 0, sizeof *out);
    if (arch && strcmp(arch, "native") != 0 && strcmp(arch, cpu.host) != 0)
        return gems_fail(GEMS_VALUE_ERROR,
                         "the cpu backend compiles for this machine (native), not for %s", arch);
    snprintf(out->arch, sizeof out->arch, "%s", cpu.host);
    memcpy(out->compiler, cpu.compiler.identity, sizeof out->compiler);
    memcpy(out->options, cpu.options, sizeof out->options);
    return GEMS_OK;
}

static double milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static gems_status compile(const gems_identity *id, const char *name, const char *text,
                           const char *const *entries, int entry_count, gems_blob *code,
                           gems_report *report) {
    double before = milliseconds();
    gems_status status = gems_cpu_compile(&cpu.compiler, cpu.config.mode, id->options, name, text,
                                          entries, entry_count, code);
    *report = (gems_report){-1, -1, -1, -1, milliseconds() - before};
    return status;
}

/* Opens bytes that lie in no file: from a private file, else (nothing may be executed there) from
 * memory, whose descriptor then stays open: the loader knows libraries by their path. */
static void *open_bytes(const gems_blob *code, int *memory) {
    char directory[PATH_MAX - 16], path[PATH_MAX];
    void *library = NULL;
    *memory = -1;
    if (gems_cpu_make_directory(directory, sizeof directory)) {
        snprintf(path, sizeof path, "%s/program.so", directory);
        if (gems_cpu_write_file(path, code->data, code->size))
            library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        gems_cpu_remove_directory(directory);
    }
    if (library) return library;
    int file = memfd_create("flag_gems", MFD_CLOEXEC);
    if (file < 0) return NULL;
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    if (gems_cpu_write_file(path, code->data, code->size))
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library)
        *memory = file;
    else
        close(file);
    return library;
}

static void unload(gems_module *module) {
    if (!module) return;
    gems_cpu_image_close(module->image);
    if (module->library) dlclose(module->library);
    if (module->memory >= 0) close(module->memory);
    free(module);
}

static gems_status load(int device, const gems_blob *code, const char *path,
                        const char *const *entries, int entry_count, gems_module **out) {
    char name[256];
    (void)device;
    gems_module *module = calloc(1, sizeof *module);
    if (!module) return gems_fail(GEMS_MEMORY_ERROR, "out of memory");
    module->memory = -1;
    module->entry_count = entry_count;
    if (path) module->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module->library) module->library = open_bytes(code, &module->memory);
    if (!module->library) {
        const char *reason = dlerror();
        gems_fail(GEMS_RUNTIME_ERROR, "a compiled program could not be loaded: %s",
                  reason ? reason : strerror(errno));
        goto failed;
    }
    for (int i = 0; i < entry_count; i++) {
        snprintf(name, sizeof name, "gems_run_%s", entries[i]);
        void *symbol = dlsym(module->library, name);
        if (!symbol) {
            gems_fail(GEMS_RUNTIME_ERROR, "a compiled program has no entry %s", entries[i]);
            goto failed;
        }
        memcpy(&module->entries[i], &symbol, sizeof symbol);
    }
    if (cpu.config.mode != GEMS_CPU_FAST) {
        void *runtime = dlsym(module->library, "gems_cpu_runtime");
        if (!runtime) {
            gems_fail(GEMS_RUNTIME_ERROR, "a compiled program is not of the %s mode",
                      mode_names[cpu.config.mode]);
            goto failed;
        }
        *(const void **)runtime = gems_cpu_simt_runtime();
        if (!(module->image = gems_cpu_image_open(code, runtime))) goto failed;
    }
    *out = module;
    return GEMS_OK;
failed:
    unload(module);
    return GEMS_ERROR;
}

/* ---- fast launches: chunks of blocks, taken by the pool's threads ---- */
struct job {
    void (*run)(void **args, const gems_cpu_blocks *blocks);
    const gems_launch *launch;
    uint64_t total, chunk;
    _Atomic uint64_t next;
    _Atomic bool failed;
};

static void run_chunks(void *data) {
    struct job *job = data;
    const gems_launch *launch = job->launch;
    gems_cpu_blocks blocks = {{launch->grid[0], launch->grid[1], launch->grid[2]}, NULL, 0, 0};
    if (launch->shared && !(blocks.dynamic = gems_cpu_thread_memory(launch->shared))) {
        atomic_store(&job->failed, true);
        return;
    }
    for (;;) {
        blocks.first = atomic_fetch_add_explicit(&job->next, job->chunk, memory_order_relaxed);
        if (blocks.first >= job->total) return;
        blocks.last =
            blocks.first + job->chunk < job->total ? blocks.first + job->chunk : job->total;
        job->run(launch->args, &blocks);
    }
}

static gems_status launch_fast(gems_module *module, int entry, const gems_launch *launch) {
    struct job job = {.launch = launch,
                      .total = (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2]};
    if (!job.total) return GEMS_OK;
    memcpy(&job.run, &module->entries[entry], sizeof job.run);
    int threads = job.total > 1 ? gems_cpu_thread_count() : 1;
    if (threads < 1) threads = 1;
    if ((uint64_t)threads > job.total) threads = (int)job.total;
    /* Several chunks a thread even out their speeds; one thread takes all. */
    job.chunk =
        threads > 1 ? (job.total + (uint64_t)threads * 8 - 1) / ((uint64_t)threads * 8) : job.total;
    gems_cpu_pool_run(run_chunks, &job, threads);
    if (atomic_load(&job.failed))
        return gems_fail(GEMS_MEMORY_ERROR, "%s: no memory for %u bytes of shared memory",
                         launch->name ? launch->name : "kernel", launch->shared);
    return GEMS_OK;
}

static gems_status launch(int device, gems_module *module, int entry, const gems_launch *l) {
    (void)device;
    if (entry < 0 || entry >= module->entry_count)
        return gems_fail(GEMS_RUNTIME_ERROR, "a program of %d kernels has no kernel %d",
                         module->entry_count, entry);
    if (cpu.config.mode == GEMS_CPU_FAST) return launch_fast(module, entry, l);
    return gems_cpu_simt_launch(&cpu.config, module, entry, l);
}

static bool capturing(int device, void *stream) {
    (void)device, (void)stream;
    return false;
}

static gems_status read_memory(int device, void *stream, const void *from, size_t bytes, void *to) {
    (void)device, (void)stream;
    memcpy(to, from, bytes);
    return GEMS_OK;
}

/* What kernels/hopper.cuh reads on a CPU: the twin of Map there. */
static gems_status tensor_map(int device, const gems_tensor_map *tensor, void *map) {
    (void)device;
    _Static_assert(sizeof *tensor <= GEMS_TENSOR_MAP_BYTES, "a map has room for all of it");
    for (int i = 0; i < (tensor->sizes[3] ? 3 : 2); i++)
        if (tensor->strides[i] <= 0 || tensor->strides[i] % 16)
            return gems_decline("a tensor of which there is no map");
    for (int i = 0; i < 2; i++)
        if (tensor->box[i] < 1 || tensor->box[i] > 256)
            return gems_decline("a tensor of which there is no map");
    memset(map, 0, GEMS_TENSOR_MAP_BYTES);
    memcpy(map, tensor, sizeof *tensor);
    return GEMS_OK;
}

const gems_backend gems_backend_cpu = {
    .version = GEMS_BACKEND_VERSION,
    .name = "cpu",
    .device_type = GEMS_CPU,
    .open = open_backend,
    .describe = describe,
    .device_count = device_count,
    .device_info = device_info,
    .identity = identity,
    .compile = compile,
    .load = load,
    .launch = launch,
    .unload = unload,
    .capturing = capturing,
    .read = read_memory,
    .tensor_map = tensor_map,
};
