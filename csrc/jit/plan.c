/* Plans: found without a lock, made once. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "jit.h"

#define MAX_DEVICES 64

/* Open addressing. A slot goes from NULL to a plan and never changes again, so readers need no
 * lock; growth publishes a new table and leaves the old one to readers that still probe it. */
typedef struct table {
    size_t mask, used;
    _Atomic(gems_plan *) slots[];
} table;

/* A key that one thread is compiling. */
typedef struct pending {
    gems_key key;
    struct pending *next;
} pending;

struct gems_device {
    const gems_backend *backend;
    int index;
    gems_device_info info;
    gems_identity identity;
    _Atomic(table *) plans;
    pthread_mutex_t lock; /* over growth, insertion and compiling */
    pthread_cond_t compiled;
    pending *compiling;
};

gems_status (*gems_program_write)(const gems_key *key, gems_program *program);
void *(*gems_unlocked_begin)(void);
void (*gems_unlocked_end)(void *);

static _Atomic uint64_t compiled_count, disk_hits, loaded_count, failed_count, compile_microseconds;

gems_jit_stats gems_jit_statistics(void) {
    return (gems_jit_stats){compiled_count, disk_hits, loaded_count, failed_count,
                            (double)compile_microseconds / 1000};
}

static void *unlock_begin(void) { return gems_unlocked_begin ? gems_unlocked_begin() : NULL; }
static void unlock_end(void *state) {
    if (gems_unlocked_end) gems_unlocked_end(state);
}

/* ---- the table of a device ---- */

static uint64_t hash(const gems_key *key) {
    uint64_t words[sizeof *key / 8], h = UINT64_C(0x9e3779b97f4a7c15);
    memcpy(words, key, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        h = (h ^ words[i]) * UINT64_C(0xff51afd7ed558ccd);
        h ^= h >> 32;
    }
    return h;
}
_Static_assert(sizeof(gems_key) == 24, "a key is three words without padding");

static gems_plan *find(const table *t, const gems_key *key) {
    for (size_t i = hash(key) & t->mask;; i = (i + 1) & t->mask) {
        gems_plan *plan = atomic_load_explicit(&t->slots[i], memory_order_acquire);
        if (!plan || !memcmp(&plan->key, key, sizeof *key)) return plan;
    }
}

static void put(table *t, gems_plan *plan) {
    size_t i = hash(&plan->key) & t->mask;
    while (atomic_load_explicit(&t->slots[i], memory_order_relaxed)) i = (i + 1) & t->mask;
    atomic_store_explicit(&t->slots[i], plan, memory_order_release);
    t->used++;
}

static table *make_table(size_t room) {
    table *t = calloc(1, sizeof *t + room * sizeof *t->slots);
    if (t) t->mask = room - 1;
    return t;
}

/* Stores a plan under the device's lock; false when memory ran out. */
static bool insert(gems_device *device, gems_plan *plan) {
    table *t = device->plans;
    if (2 * (t->used + 1) > t->mask) {
        table *larger = make_table(2 * (t->mask + 1));
        if (!larger) return false;
        for (size_t i = 0; i <= t->mask; i++)
            if (t->slots[i]) put(larger, t->slots[i]);
        atomic_store_explicit(&device->plans, larger, memory_order_release);
        t = larger;
    }
    put(t, plan);
    return true;
}

/* ---- devices ---- */

static _Atomic(gems_device *) devices[2][MAX_DEVICES];
static gems_device unusable; /* stands for a device that no backend could open */
static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;

/* A child of fork has one thread: what others were doing is not going to be finished there. */
static void after_fork(void) {
    pthread_mutex_init(&devices_lock, NULL);
    for (int type = 0; type < 2; type++) {
        for (int i = 0; i < MAX_DEVICES; i++) {
            gems_device *device = devices[type][i];
            if (!device || device == &unusable) continue;
            pthread_mutex_init(&device->lock, NULL);
            pthread_cond_init(&device->compiled, NULL);
            device->compiling = NULL;
        }
    }
}

static const gems_backend *choose_backend(int device_type) {
    const char *wanted = getenv("GEMS_BACKEND");
    if (device_type == GEMS_CUDA) return &gems_backend_cuda;
    return wanted && !strcmp(wanted, "null") ? &gems_backend_null : &gems_backend_cpu;
}

static gems_device *make_device(int device_type, int index) {
    const gems_backend *backend = choose_backend(device_type);
    gems_device *device = calloc(1, sizeof *device);
    if (!device) return NULL;
    device->backend = backend;
    device->index = index;
    device->plans = make_table(256);
    if (!device->plans || backend->open() != GEMS_OK ||
        backend->device_info(index, &device->info) != GEMS_OK ||
        backend->identity(index, NULL, &device->identity) != GEMS_OK) {
        gems_log(GEMS_LOG_WARN, "the %s backend cannot be used, ATen's kernels run: %s",
                 backend->name, gems_error_text());
        free(device->plans);
        free(device);
        return NULL;
    }
    pthread_mutex_init(&device->lock, NULL);
    pthread_cond_init(&device->compiled, NULL);
    return device;
}

static gems_device *open_device(int device_type, int index) {
    static bool watching_forks;
    void *unlocked = unlock_begin();
    pthread_mutex_lock(&devices_lock);
    gems_device *device = devices[device_type][index];
    if (!device) {
        if (!watching_forks) pthread_atfork(NULL, NULL, after_fork);
        watching_forks = true;
        device = make_device(device_type, index);
        if (!device) device = &unusable;
        atomic_store_explicit(&devices[device_type][index], device, memory_order_release);
    }
    pthread_mutex_unlock(&devices_lock);
    unlock_end(unlocked);
    return device;
}

gems_device *gems_device_get(int device_type, int index) {
    if (device_type < 0 || device_type > 1 || index < 0 || index >= MAX_DEVICES) {
        gems_decline("no backend for this device type");
        return NULL;
    }
    gems_device *device = atomic_load_explicit(&devices[device_type][index], memory_order_acquire);
    if (!device) device = open_device(device_type, index);
    if (device == &unusable) {
        gems_decline("the backend could not be opened");
        return NULL;
    }
    return device;
}

const gems_device_info *gems_device_information(const gems_device *device) { return &device->info; }
const gems_backend *gems_device_backend(const gems_device *device) { return device->backend; }
int gems_device_index(const gems_device *device) { return device->index; }

/* ---- from a key to code ---- */

gems_status gems_plan_text(const gems_key *key, gems_text *text, gems_program *program) {
    memset(program, 0, sizeof *program);
    memset(text, 0, sizeof *text);
    gems_status status = gems_program_write(key, program);
    if (status == GEMS_OK) {
        gems_text_add(text, "%s\n%s\n", gems_kernel_text("gems.cuh"),
                      program->head.data ? program->head.data : "");
        for (int i = 0; i < GEMS_MAX_FILES && program->files[i]; i++) {
            const char *file = gems_kernel_text(program->files[i]);
            if (!file) {
                status = gems_fail(GEMS_RUNTIME_ERROR, "no kernel text %s", program->files[i]);
                break;
            }
            gems_text_add(text, "#line 1 \"%s\"\n%s\n", program->files[i], file);
        }
        if (text->failed || program->head.failed)
            status = gems_fail(GEMS_MEMORY_ERROR, "no memory for program text");
    }
    gems_text_free(&program->head);
    if (status != GEMS_OK) gems_text_free(text);
    return status;
}

/* Code from the disk cache or the compiler. path: the cached file, "" when there is none. */
static gems_status get_code(const gems_backend *backend, const gems_identity *identity,
                            const gems_program *program, const char *text, gems_blob *code,
                            gems_report *report, bool *cached, char *path, size_t path_size) {
    char digest[65];
    gems_cache_key(identity, text, digest);
    *path = 0;
    *cached = gems_cache_get(digest, code, report, path, path_size);
    if (*cached) {
        atomic_fetch_add(&disk_hits, 1);
        return GEMS_OK;
    }
    const char *forbidden = getenv("FLAGGEMS_ASSERT_COMPILED");
    if (forbidden && *forbidden && strcmp(forbidden, "0"))
        return gems_fail(GEMS_RUNTIME_ERROR,
                         "FLAGGEMS_ASSERT_COMPILED is set and %s (%s, %s) is not in the cache",
                         program->name, backend->name, identity->arch);
    GEMS_TRY(backend->compile(identity, program->name, text, program->entries, program->entry_count,
                              code, report));
    atomic_fetch_add(&compiled_count, 1);
    atomic_fetch_add(&compile_microseconds, (uint64_t)(report->milliseconds * 1000));
    gems_log(GEMS_LOG_INFO, "compiled %s for %s in %.1f ms", program->name, identity->arch,
             report->milliseconds);
    gems_cache_put(digest, code, report, path, path_size);
    return GEMS_OK;
}

/* Makes the module of a key. NULL module with GEMS_OK: it cannot be had; that was logged, and
 * *error says why. */
static gems_status make_module(gems_device *device, const gems_key *key, gems_module **module,
                               char **error) {
    gems_text text;
    gems_program program;
    gems_blob code = {0};
    gems_report report = {-1, -1, -1, -1, 0};
    char path[4096];
    bool cached = false;
    *module = NULL;
    gems_status status = gems_plan_text(key, &text, &program);
    if (status != GEMS_OK) return status;
    status = get_code(device->backend, &device->identity, &program, text.data, &code, &report,
                      &cached, path, sizeof path);
    if (status == GEMS_ERROR && getenv("FLAGGEMS_ASSERT_COMPILED")) goto done;
    if (status == GEMS_OK) {
        status = device->backend->load(device->index, &code, *path ? path : NULL, program.entries,
                                       program.entry_count, module);
        atomic_fetch_add(&loaded_count, status == GEMS_OK);
    }
    if (status != GEMS_OK) {
        atomic_fetch_add(&failed_count, 1);
        gems_log(GEMS_LOG_ERROR, "%s: no kernel%s: %s", program.name,
                 program.alone ? "" : ", ATen's runs instead", gems_error_text());
        *module = NULL;
        *error = strdup(gems_error_text());
        status = GEMS_OK;
    }
done:
    gems_blob_free(&code);
    gems_text_free(&text);
    return status;
}

static bool is_compiling(const gems_device *device, const gems_key *key) {
    for (const pending *p = device->compiling; p; p = p->next)
        if (!memcmp(&p->key, key, sizeof *key)) return true;
    return false;
}

static void finish(gems_device *device, const pending *mine) {
    pending **link = &device->compiling;
    while (*link && *link != mine) link = &(*link)->next;
    if (*link) *link = mine->next;
    pthread_cond_broadcast(&device->compiled);
}

/* Called on a miss, without the GIL: one thread compiles a key, others wait for it. */
static gems_status make_plan(gems_device *device, const gems_key *key, gems_plan **plan) {
    pending mine = {.key = *key};
    gems_status status = GEMS_OK;
    pthread_mutex_lock(&device->lock);
    while (!(*plan = find(device->plans, key)) && is_compiling(device, key))
        pthread_cond_wait(&device->compiled, &device->lock);
    if (!*plan) {
        mine.next = device->compiling;
        device->compiling = &mine;
        pthread_mutex_unlock(&device->lock);
        gems_plan *fresh = calloc(1, sizeof *fresh);
        if (fresh) {
            fresh->key = *key;
            status = make_module(device, key, &fresh->module, &fresh->error);
        } else {
            status = gems_fail(GEMS_MEMORY_ERROR, "no memory for a plan");
        }
        pthread_mutex_lock(&device->lock);
        if (status == GEMS_OK && !insert(device, fresh))
            status = gems_fail(GEMS_MEMORY_ERROR, "no memory for a plan");
        if (status == GEMS_OK)
            *plan = fresh;
        else if (fresh) {
            free(fresh->error);
            free(fresh);
        }
        finish(device, &mine);
    }
    pthread_mutex_unlock(&device->lock);
    return status;
}

gems_status gems_plan_get(gems_device *device, void *stream, const gems_key *key,
                          const gems_plan **plan) {
    gems_plan *found = find(atomic_load_explicit(&device->plans, memory_order_acquire), key);
    if (!found) {
        if (device->backend->capturing(device->index, stream))
            return gems_decline("a graph is being captured and the kernel is not loaded");
        void *unlocked = unlock_begin();
        gems_status status = make_plan(device, key, &found);
        unlock_end(unlocked);
        if (status != GEMS_OK) return status;
    }
    *plan = found;
    if (!found->module) return gems_decline("the kernel could not be compiled or loaded");
    return GEMS_OK;
}

gems_status gems_plan_launch(gems_device *device, const gems_plan *plan, int entry,
                             const gems_launch *launch) {
    return device->backend->launch(device->index, plan->module, entry, launch);
}

gems_status gems_plan_warm(const gems_backend *backend, const char *arch, const gems_key *key,
                           gems_report *report, bool *cached) {
    gems_identity identity;
    gems_text text;
    gems_program program;
    gems_blob code = {0};
    char path[4096];
    *report = (gems_report){-1, -1, -1, -1, 0};
    GEMS_TRY(backend->open());
    GEMS_TRY(backend->identity(0, arch, &identity));
    GEMS_TRY(gems_plan_text(key, &text, &program));
    gems_status status =
        get_code(backend, &identity, &program, text.data, &code, report, cached, path, sizeof path);
    gems_blob_free(&code);
    gems_text_free(&text);
    return status;
}
