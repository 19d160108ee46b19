#include "kept.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define PLACES 8 /* of an entry, by a hash of the first tensor */

/* What one thread keeps. Never freed, but taken over by a thread that begins after this one ended:
 * so another thread may look at whose it is at any time. */
typedef struct keeper {
    void *thread;        /* that it belongs to, by its address; NULL: to none; read by all */
    struct keeper *next; /* of those that belong to none */
    int count;           /* of places */
    uint8_t *misses;
    gems_kept *kept[];
} keeper;

static keeper *latest; /* the last one that was looked for: found faster than a thread-local one */
static _Thread_local keeper *mine;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool have_key;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static keeper *ownerless;

static void leave(void *given) {
    keeper *m = given;
    mine = NULL;
    for (int i = 0; i < m->count; i++) {
        free(m->kept[i]);
        m->kept[i] = NULL;
    }
    __atomic_store_n(&m->thread, NULL, __ATOMIC_RELAXED);
    if (pthread_mutex_trylock(&lock)) return; /* never waited for: a fork may have left it locked */
    m->next = ownerless;
    ownerless = m;
    pthread_mutex_unlock(&lock);
}

static void make_key(void) { have_key = pthread_key_create(&key, leave) == 0; }

static keeper *take_ownerless(int count) {
    if (pthread_mutex_trylock(&lock)) return NULL;
    keeper **at = &ownerless;
    while (*at && (*at)->count != count) at = &(*at)->next;
    keeper *m = *at;
    if (m) *at = m->next;
    pthread_mutex_unlock(&lock);
    return m;
}

static keeper *make_keeper(void) {
    pthread_once(&once, make_key);
    int count = gems_entry_count() * PLACES;
    keeper *m = have_key ? take_ownerless(count) : NULL;
    if (have_key && !m) {
        m = calloc(1, sizeof *m + (size_t)count * (sizeof *m->kept + 1));
        if (!m) return NULL;
        m->count = count;
        m->misses = (uint8_t *)&m->kept[count];
    }
    if (m && pthread_setspecific(key, m)) {
        leave(m);
        return NULL;
    }
    if (m) __atomic_store_n(&m->thread, __builtin_thread_pointer(), __ATOMIC_RELAXED);
    return mine = m;
}

static inline keeper *find_keeper(void) {
    keeper *m = __atomic_load_n(&latest, __ATOMIC_RELAXED);
    if (m && __atomic_load_n(&m->thread, __ATOMIC_RELAXED) == __builtin_thread_pointer()) return m;
    if (mine) __atomic_store_n(&latest, mine, __ATOMIC_RELAXED);
    return mine;
}

static inline int place_of(const gems_entry *entry, int64_t numel) {
    return entry->index * PLACES + (int)((uint64_t)numel * UINT64_C(0x9e3779b97f4a7c15) >> 61);
}

static inline int64_t first_numel(const gems_call *call) {
    return call->args[0].kind == GEMS_TENSOR ? call->args[0].t.numel : 0;
}

/* ---- finding ---- */

static bool same_other(const gems_kept_arg *k, const gems_value *value) {
    switch (value->kind) {
    case GEMS_NONE: return true;
    case GEMS_FLOAT: return !memcmp(k->c, &value->f, sizeof value->f);
    case GEMS_COMPLEX: return !memcmp(k->c, value->c, sizeof value->c);
    case GEMS_INTS:
        return k->ints.n == value->ints.n &&
               !memcmp(k->ints.v, value->ints.v, (size_t)value->ints.n * sizeof *value->ints.v);
    case GEMS_STRING: return !strcmp(k->s, value->s);
    default: return k->i == value->i;
    }
}

gems_kept *gems_kept_at(const gems_entry *entry, int64_t numel) {
    const keeper *m = find_keeper();
    int place = place_of(entry, numel);
    gems_kept *kept = m && place < m->count ? m->kept[place] : NULL;
    return kept && kept->whole ? kept : NULL;
}

gems_kept *gems_kept_find(const gems_call *call, gems_kept_memory *memory) {
    gems_kept *kept = gems_kept_at(call->entry, first_numel(call));
    for (int i = 0; kept && i < kept->nargs; i++) {
        const gems_value *value = &call->args[i];
        const gems_kept_arg *k = &kept->arg[i];
        if (k->kind != value->kind) return NULL;
        if (value->kind == GEMS_TENSOR) {
            if (!gems_kept_same(&k->t, &value->t)) return NULL;
            memory->of[i] = value->t.data;
        } else if (!same_other(k, value)) {
            return NULL;
        }
    }
    return kept;
}

/* ---- keeping ---- */

static bool keep_tensor(const gems_tensor *t, gems_kept_tensor *k) {
    if (t->ndim > GEMS_KEPT_DIMS) return false;
    k->ndim = t->ndim;
    k->dtype = t->dtype;
    k->device_type = t->device_type;
    k->device_index = t->device_index;
    k->low = (uint8_t)((uintptr_t)t->data & GEMS_KEPT_ALIGN);
    memcpy(k->sizes, t->sizes, (size_t)t->ndim * sizeof *k->sizes);
    memcpy(k->strides, t->strides, (size_t)t->ndim * sizeof *k->strides);
    return true;
}

static bool keep_arg(const gems_value *value, gems_kept_arg *k) {
    k->kind = value->kind;
    switch (value->kind) {
    case GEMS_TENSOR: return keep_tensor(&value->t, &k->t);
    case GEMS_NONE: return true;
    case GEMS_FLOAT: memcpy(k->c, &value->f, sizeof value->f); return true;
    case GEMS_COMPLEX: memcpy(k->c, value->c, sizeof value->c); return true;
    case GEMS_INTS:
        if (value->ints.n > GEMS_KEPT_NUMBERS) return false;
        k->ints.n = value->ints.n;
        memcpy(k->ints.v, value->ints.v, (size_t)value->ints.n * sizeof *value->ints.v);
        return true;
    case GEMS_STRING:
        if (strlen(value->s) >= sizeof k->s) return false;
        strcpy(k->s, value->s);
        return true;
    case GEMS_INT:
    case GEMS_BOOLEAN:
    case GEMS_DTYPE_ARG:
    case GEMS_OTHER: k->i = value->i; return true;
    default: return false;
    }
}

/* Which argument or result a pointer is the memory of: only where that is beyond doubt. */
static bool find_tensor(const gems_call *call, const void *pointer, uint8_t *from) {
    int found = 0;
    for (int i = 0; i < call->nargs; i++)
        if (call->args[i].kind == GEMS_TENSOR && call->args[i].t.data == pointer)
            found++, *from = (uint8_t)i;
    for (int i = 0; i < GEMS_KEPT_RESULTS; i++)
        if (call->made >> i & 1 && call->out[i].data == pointer)
            found++, *from = (uint8_t)(GEMS_KEPT_ARGS + i);
    return found == 1;
}

static bool keep_results(gems_kept *k, const gems_call *call) {
    k->results = 0;
    for (int i = 0; i < GEMS_KEPT_RESULTS; i++) {
        const gems_tensor *t = &call->out[i];
        if (!(call->made >> i & 1)) continue;
        if (t->ndim > GEMS_KEPT_DIMS || !t->data || (uintptr_t)t->data & GEMS_KEPT_ALIGN)
            return false;
        int at = k->results++;
        k->result[at].ndim = (uint8_t)t->ndim;
        k->result[at].dtype = t->dtype;
        k->result[at].slot = (uint8_t)i;
        memcpy(k->result[at].sizes, t->sizes, (size_t)t->ndim * sizeof *t->sizes);
        memcpy(k->result[at].strides, t->strides, (size_t)t->ndim * sizeof *t->strides);
    }
    return true;
}

static bool keep_params(gems_kept *k, const gems_call *call, void **args, int pointers,
                        const uint16_t *sizes, int count) {
    size_t used = 0;
    k->patches = 0;
    for (int i = 0; i < count; i++) {
        if (used + sizes[i] > GEMS_KEPT_BYTES) return false;
        k->params[i] = k->store.bytes + used;
        memcpy(k->params[i], args[i], sizes[i]);
        used += (sizes[i] + 7u) & ~(size_t)7;
        if (i >= pointers || !*(void **)args[i]) continue;
        if (k->patches == GEMS_KEPT_ARGS + GEMS_KEPT_RESULTS) return false;
        k->patch[k->patches].at = k->params[i];
        if (!find_tensor(call, *(void **)args[i], &k->patch[k->patches++].from)) return false;
    }
    return true;
}

static bool keep(gems_kept *k, const gems_call *call, const gems_plan *plan, const uint32_t grid[3],
                 const uint32_t block[3], uint32_t cluster, uint32_t shared, void **args,
                 int pointers, const uint16_t *sizes, int count) {
    if (call->nargs > GEMS_KEPT_ARGS || count > GEMS_KEPT_PARAMS ||
        call->made >> GEMS_KEPT_RESULTS || !keep_results(k, call) ||
        !keep_params(k, call, args, pointers, sizes, count))
        return false;
    k->nargs = (uint8_t)call->nargs;
    k->made = call->made;
    for (int i = 0; i < call->nargs; i++) {
        if (!keep_arg(&call->args[i], &k->arg[i])) return false;
        k->word[i] = (uint64_t)k->arg[i].i;
    }
    k->device = call->device;
    k->device_type = call->device_type;
    k->device_index = call->device_index;
    k->plan = plan;
    k->launch = (gems_launch){.grid = {grid[0], grid[1], grid[2]},
                              .block = {block[0], block[1], block[2]},
                              .shared = shared,
                              .cluster = cluster,
                              .args = k->params,
                              .name = call->entry->qualified};
    return true;
}

/* The place to keep a call in; NULL when this one is not to be kept. Where another call is kept,
 * only every fourth that misses takes its place: keeping costs more than it saves to numbers that
 * change with every call. */
static gems_kept *room_for(const gems_call *call) {
    keeper *m = mine ? mine : make_keeper();
    int place = place_of(call->entry, first_numel(call));
    if (!m || place >= m->count || m->misses[place]++ & 3) return NULL;
    if (!m->kept[place]) m->kept[place] = calloc(1, sizeof(gems_kept));
    return m->kept[place];
}

gems_status gems_call_launch_cluster_kept(gems_call *call, const gems_plan *plan,
                                          const uint32_t grid[3], const uint32_t block[3],
                                          uint32_t cluster, uint32_t shared, void **args,
                                          int pointers, const uint16_t *sizes, int count) {
    if (call->entry->variant == GEMS_FUNCTIONAL && call->host->fresh && call->nonempty &&
        !call->launches && !call->scratches && grid[0] &&
        !gems_device_information(call->device)->wants_extents) {
        gems_kept *kept = room_for(call);
        if (kept) {
            kept->whole = false;
            if (keep(kept, call, plan, grid, block, cluster, shared, args, pointers, sizes, count))
                call->keeping = kept;
        }
    }
    return gems_call_launch_cluster(call, plan, 0, grid, block, cluster, shared, args);
}

gems_status gems_call_launch_kept(gems_call *call, const gems_plan *plan, const uint32_t grid[3],
                                  const uint32_t block[3], uint32_t shared, void **args,
                                  int pointers, const uint16_t *sizes, int count) {
    return gems_call_launch_cluster_kept(call, plan, grid, block, 1, shared, args, pointers, sizes,
                                         count);
}

void gems_kept_finish(gems_call *call) {
    call->keeping->whole = call->launches == 1 && !call->scratches;
    if (call->keeping->whole) __atomic_store_n(&call->entry->kept, true, __ATOMIC_RELAXED);
}
