/* A launch with every thread of every block: threads are fibers, which switch at each collective.
 *
 * One launch runs at a time, on the caller's thread; blocks run one after another. All state is
 * static. A failure is recorded, the launch's fibers are abandoned where they stand, and their
 * stacks serve the next launch.
 */
#include "simt.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cpu.h"
#include "fiber.h"

#define MAX_THREADS 1024
#define MAX_WARPS   32
#define MAX_PENDING 4 /* masks of one warp that wait at the same time */

/* A warp's collective that not all lanes have reached. */
struct pending {
    unsigned mask, arrived;
    gems_cpu_collective all;
    int line;
    const char *what;
};

struct warp {
    unsigned alive, ready;
    int pending_count;
    struct pending pending[MAX_PENDING];
    void *operands[32];
};

/* A copy to shared memory that has not been waited for. */
struct copy {
    void *to;
    const void *from;
    unsigned bytes, total;
    int group, line;
};

struct thread {
    gems_cpu_thread view; /* what the kernel sees */
    int fiber;            /* -1: not started, or ended */
    const char *waits_at;
    int line;
    bool (*ready)(void *); /* what the thread waits for; NULL: nothing that has to be asked */
    void *what;
    struct copy *copies;
    int copy_count, copy_room, groups;
};

static struct {
    pthread_mutex_t lock;
    const gems_cpu_config *config;
    void (*entry)(void **args);
    const gems_launch *launch;
    unsigned threads, warps, alive;
    unsigned current_warp;
    int running;                         /* thread; -1: none */
    unsigned arrived, count, last_count; /* at the block's barrier */
    int barrier_line;
    uint64_t random;
    struct warp warp[MAX_WARPS];
    struct thread thread[MAX_THREADS];
    gems_fiber fiber[MAX_THREADS];
    int fibers;                        /* made */
    int idle[MAX_THREADS], idle_count; /* fibers */
    gems_fiber main;
    unsigned char *dynamic;
    size_t dynamic_room;
    bool failed;
    char message[2048];
    gems_cpu_runtime runtime;
} simt = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool checked(void) { return simt.config->mode == GEMS_CPU_CHECKED; }

static uint64_t next_random(void) { /* xorshift64* */
    simt.random ^= simt.random >> 12;
    simt.random ^= simt.random << 25;
    simt.random ^= simt.random >> 27;
    return simt.random * UINT64_C(2685821657736338717);
}

/* Leaves the launch with a message. Does not return to the kernel. */
__attribute__((format(printf, 1, 2), noreturn)) static void stop(const char *format, ...) {
    const gems_uint3 *block = &simt.thread[0].view.block;
    va_list list;
    va_start(list, format);
    int used = vsnprintf(simt.message, sizeof simt.message, format, list);
    va_end(list);
    if (used > 0 && (size_t)used < sizeof simt.message)
        snprintf(simt.message + used, sizeof simt.message - (size_t)used, "; block (%u,%u,%u)",
                 block->x, block->y, block->z);
    simt.failed = true;
    gems_fiber gone;
    gems_fiber_switch(&gone, &simt.main);
    abort(); /* nobody comes back to an abandoned fiber */
}

void gems_cpu_simt_stop(const char *message) { stop("%s", message); }

gems_cpu_place gems_cpu_simt_place(void) {
    if (simt.running < 0) return (gems_cpu_place){0};
    const struct thread *t = &simt.thread[simt.running];
    const gems_fiber *fiber = &simt.fiber[t->fiber];
    return (gems_cpu_place){&t->view, fiber->stack, fiber->size};
}

/* The lowest bit at or behind `from`, around. */
static int next_bit(unsigned bits, unsigned from) {
    unsigned behind = bits & ~((1u << from) - 1);
    return __builtin_ctz(behind ? behind : bits);
}

/* Warps with a thread that can run. */
static unsigned ready_warps(void) {
    unsigned ready = 0;
    for (unsigned i = 0; i < simt.warps; i++)
        if (simt.warp[i].ready) ready |= 1u << i;
    return ready;
}

/* Asks what threads wait for; whatever is ready makes its threads so. */
static void ask(void) {
    for (unsigned t = 0; t < simt.threads; t++) {
        struct thread *thread = &simt.thread[t];
        if (!thread->ready || !thread->ready(thread->what)) continue;
        thread->ready = NULL;
        simt.warp[t / 32].ready |= 1u << t % 32;
    }
}

/* Takes the next thread to run off the ready lists; -1 when there is none. */
static int pick(void) {
    unsigned ready = ready_warps();
    int lane;
    if (!ready) {
        ask();
        ready = ready_warps();
    }
    if (!ready) return -1;
    switch (simt.config->order) {
    case GEMS_ORDER_FORWARD:
        simt.current_warp = (unsigned)next_bit(ready, simt.current_warp);
        break;
    case GEMS_ORDER_REVERSE: simt.current_warp = 31u - (unsigned)__builtin_clz(ready); break;
    case GEMS_ORDER_RANDOM:
        simt.current_warp = (unsigned)next_bit(ready, next_random() >> 59);
        break;
    }
    struct warp *warp = &simt.warp[simt.current_warp];
    switch (simt.config->order) {
    case GEMS_ORDER_REVERSE: lane = 31 - __builtin_clz(warp->ready); break;
    case GEMS_ORDER_RANDOM: lane = next_bit(warp->ready, next_random() >> 59); break;
    default: lane = __builtin_ctz(warp->ready); break;
    }
    warp->ready &= ~(1u << lane);
    return (int)(simt.current_warp * 32) + lane;
}

/* Says who waits where, and leaves. */
__attribute__((noreturn)) static void report_deadlock(void) {
    char text[1500];
    size_t used = 0;
    bool told[MAX_THREADS] = {false};
    text[0] = 0;
    for (unsigned t = 0; t < simt.threads && used + 120 < sizeof text; t++) {
        if (simt.thread[t].fiber < 0 || told[t]) continue;
        unsigned same = 0;
        for (unsigned u = t; u < simt.threads; u++) {
            if (simt.thread[u].fiber < 0 || simt.thread[u].line != simt.thread[t].line ||
                strcmp(simt.thread[u].waits_at, simt.thread[t].waits_at) != 0)
                continue;
            told[u] = true;
            same++;
        }
        used += (size_t)snprintf(
            text + used, sizeof text - used, "; %u thread%s (first: %u) at %s, program:%d", same,
            same == 1 ? "" : "s", t, simt.thread[t].waits_at, simt.thread[t].line);
    }
    stop("deadlock: %u threads have ended, the others wait for each other%s",
         simt.threads - simt.alive, text);
}

static void fiber_main(void);

/* Makes thread t the running one. from is where the caller stops. */
static void go_to(gems_fiber *from, int t) {
    struct thread *thread = &simt.thread[t];
    if (thread->fiber < 0) {
        if (!simt.idle_count) {
            if (!gems_fiber_make(&simt.fiber[simt.fibers], (unsigned)simt.fibers))
                stop("no memory for another stack");
            gems_fiber_begin(&simt.fiber[simt.fibers], (unsigned)simt.fibers, fiber_main);
            simt.idle[simt.idle_count++] = simt.fibers++;
        }
        thread->fiber = simt.idle[--simt.idle_count];
    }
    simt.running = t;
    simt.runtime.self = &thread->view;
    gems_fiber_switch(from, &simt.fiber[thread->fiber]);
}

/* Stops the running thread until somebody makes it ready. */
static void wait_here(const char *what, int line) {
    int me = simt.running;
    simt.thread[me].waits_at = what;
    simt.thread[me].line = line;
    int next = pick();
    if (next < 0) report_deadlock();
    if (next != me) go_to(&simt.fiber[simt.thread[me].fiber], next);
}

/* What is waited for is asked as late as can be: when nobody else can run. */
static void wait_for(bool (*ready)(void *), void *what, const char *name, int line) {
    struct thread *t = &simt.thread[simt.running];
    t->ready = ready;
    t->what = what;
    wait_here(name, line);
}

static void ordered(void) {
    if (checked()) gems_check_barrier();
}

static void release_barrier(void) {
    simt.last_count = simt.count;
    simt.count = simt.arrived = 0;
    for (unsigned i = 0; i < simt.warps; i++) simt.warp[i].ready = simt.warp[i].alive;
    if (checked()) gems_check_barrier();
}

static int barrier(int predicate, int line) {
    int me = simt.running;
    simt.count += predicate != 0;
    if (!simt.arrived)
        simt.barrier_line = line;
    else if (simt.barrier_line != line)
        stop("divergent barrier: thread %d is at __syncthreads, program:%d, others at program:%d",
             me, line, simt.barrier_line);
    if (++simt.arrived == simt.alive) {
        release_barrier();
        simt.warp[me / 32].ready &= ~(1u << me % 32); /* it goes on itself */
    } else
        wait_here("__syncthreads", line);
    return (int)simt.last_count;
}

static void warp_collective(unsigned mask, gems_cpu_collective all, void *operand, int line,
                            const char *what) {
    const gems_cpu_thread *view = &simt.thread[simt.running].view;
    struct warp *warp = &simt.warp[view->warp];
    unsigned bit = 1u << view->lane, lanes = simt.threads - view->warp * 32;
    if (lanes < 32) mask &= (1u << lanes) - 1;
    if (!(mask & bit))
        stop("thread %u is at %s, program:%d, with a mask (%08x) without its own lane", view->rank,
             what, line, mask);
    if (mask & ~warp->alive)
        stop("%s, program:%d: the mask %08x names lanes that have ended (%08x)", what, line, mask,
             mask & ~warp->alive);
    int i = 0;
    while (i < warp->pending_count && !(warp->pending[i].mask & mask)) i++;
    if (i == warp->pending_count) {
        if (i == MAX_PENDING)
            stop("%s, program:%d: too many masks of one warp wait at once", what, line);
        warp->pending[warp->pending_count++] = (struct pending){mask, 0, all, line, what};
    }
    struct pending *pending = &warp->pending[i];
    if (pending->mask != mask || pending->line != line || pending->all != all)
        stop("divergent warp: lane %u is at %s, program:%d, mask %08x; others at %s, program:%d, "
             "mask %08x",
             view->lane, what, line, mask, pending->what, pending->line, pending->mask);
    warp->operands[view->lane] = operand;
    pending->arrived |= bit;
    if (pending->arrived != mask) {
        wait_here(what, line);
        return;
    }
    *pending = warp->pending[--warp->pending_count];
    all(warp->operands, mask);
    warp->ready |= mask & ~bit;
    if (checked() && strcmp(what, "__syncwarp") == 0) gems_check_syncwarp(view->warp);
}

/* ---- copies in the background: they land as late as the kernel's waits allow ---- */
static void land(struct copy *copy) {
    if (checked()) gems_check_copy_lands(copy->to, copy->total, copy->line);
    memset(copy->to, 0, copy->total);
    memcpy(copy->to, copy->from, copy->bytes);
}

static void copy_later(void *to, const void *from, unsigned bytes, unsigned total, int line) {
    struct thread *t = &simt.thread[simt.running];
    if (bytes > total)
        stop("a copy of %u bytes in the background, program:%d, is asked for %u", total, line,
             bytes);
    if (checked()) gems_check_copy_begins(to, from, bytes, total, line);
    if (t->copy_count == t->copy_room) {
        int room = t->copy_room ? t->copy_room * 2 : 16;
        struct copy *copies = realloc(t->copies, (size_t)room * sizeof *copies);
        if (!copies) stop("no memory for a copy in the background");
        t->copies = copies;
        t->copy_room = room;
    }
    t->copies[t->copy_count++] = (struct copy){to, from, bytes, total, t->groups, line};
}

static void copy_commit(void) { simt.thread[simt.running].groups++; }

static void copy_wait(int groups, int line) {
    struct thread *t = &simt.thread[simt.running];
    int kept = 0;
    (void)line;
    for (int i = 0; i < t->copy_count; i++) {
        if (t->copies[i].group < t->groups - groups)
            land(&t->copies[i]);
        else
            t->copies[kept++] = t->copies[i];
    }
    t->copy_count = kept;
}

/* ---- threads and blocks ---- */
/* The running thread has ended. */
static void end_thread(int t) {
    struct warp *warp = &simt.warp[t / 32];
    unsigned bit = 1u << t % 32;
    warp->alive &= ~bit;
    simt.alive--;
    for (int i = 0; i < warp->pending_count; i++)
        if (warp->pending[i].mask & bit)
            stop("thread %d has ended, but others wait for its lane at %s, program:%d", t,
                 warp->pending[i].what, warp->pending[i].line);
    if (simt.arrived && simt.arrived == simt.alive) release_barrier();
}

/* What every fiber runs: threads, one after another. */
static void fiber_main(void) {
    for (;;) {
        int t = simt.running, fiber = simt.thread[t].fiber;
        simt.entry(simt.launch->args);
        end_thread(t);
        simt.thread[t].fiber = -1;
        int next = pick();
        if (next < 0 && simt.alive) {
            simt.thread[t].fiber = -1;
            report_deadlock();
        }
        simt.idle[simt.idle_count++] = fiber;
        if (next < 0) {
            simt.running = -1;
            gems_fiber_switch(&simt.fiber[fiber], &simt.main);
        } else if (simt.thread[next].fiber < 0) { /* goes on here, on the stack just freed */
            simt.idle_count--;
            simt.thread[next].fiber = fiber;
            simt.running = next;
            simt.runtime.self = &simt.thread[next].view;
        } else
            go_to(&simt.fiber[fiber], next);
    }
}

static void run_block(uint64_t index) {
    const gems_launch *l = simt.launch;
    gems_uint3 block = {(unsigned)(index % l->grid[0]), (unsigned)(index / l->grid[0] % l->grid[1]),
                        (unsigned)(index / l->grid[0] / l->grid[1])};
    simt.alive = simt.threads;
    simt.arrived = simt.count = 0;
    simt.current_warp = 0;
    for (unsigned i = 0; i < simt.warps; i++) {
        unsigned lanes = simt.threads - i * 32;
        simt.warp[i].alive = simt.warp[i].ready = lanes < 32 ? (1u << lanes) - 1 : ~0u;
        simt.warp[i].pending_count = 0;
    }
    for (unsigned t = 0; t < simt.threads; t++) {
        struct thread *thread = &simt.thread[t];
        thread->view.block = block;
        thread->fiber = -1;
        thread->copy_count = thread->groups = 0;
        thread->ready = NULL;
    }
    if (l->shared) memset(simt.dynamic, 0xff, l->shared); /* what was not written is NaN */
    if (checked()) gems_check_block(index);
    go_to(&simt.main, pick());
    simt.running = -1;
    if (simt.failed) { /* every fiber is free again, whatever it was doing */
        simt.idle_count = 0;
        for (int i = 0; i < simt.fibers; i++) {
            gems_fiber_begin(&simt.fiber[i], (unsigned)i, fiber_main);
            simt.idle[simt.idle_count++] = i;
        }
    }
}

/* The i-th block to run of n, in the order asked for. */
static uint64_t block_at(uint64_t i, uint64_t n, uint64_t salt) {
    if (simt.config->order == GEMS_ORDER_FORWARD) return i;
    if (simt.config->order == GEMS_ORDER_REVERSE) return n - 1 - i;
    uint64_t mask = 1, at = i;
    while (mask < n) mask *= 2;
    mask--;
    do at = (at * 5 + (salt | 1)) & mask; /* a permutation of [0, mask] */
    while (at >= n);
    return at;
}

/* Fills in what stays the same for all blocks. */
static gems_status prepare(const gems_launch *l, const char *name) {
    uint64_t threads = (uint64_t)l->block[0] * l->block[1] * l->block[2];
    if (!threads || threads > MAX_THREADS)
        return gems_fail(GEMS_RUNTIME_ERROR, "%s: a block of %u x %u x %u threads", name,
                         l->block[0], l->block[1], l->block[2]);
    simt.threads = (unsigned)threads;
    simt.warps = (simt.threads + 31) / 32;
    simt.failed = false;
    simt.random = simt.config->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    if (l->shared > simt.dynamic_room) {
        size_t room = ((size_t)l->shared + 127) & ~(size_t)127;
        unsigned char *memory = aligned_alloc(128, room);
        if (!memory)
            return gems_fail(GEMS_MEMORY_ERROR, "%s: no memory for %u bytes of shared memory", name,
                             l->shared);
        free(simt.dynamic);
        simt.dynamic = memory;
        simt.dynamic_room = room;
    }
    for (unsigned t = 0; t < simt.threads; t++)
        simt.thread[t].view =
            (gems_cpu_thread){.thread = {t % l->block[0], t / l->block[0] % l->block[1],
                                         t / l->block[0] / l->block[1]},
                              .size = {l->block[0], l->block[1], l->block[2]},
                              .grid = {l->grid[0], l->grid[1], l->grid[2]},
                              .rank = t,
                              .lane = t % 32,
                              .warp = t / 32,
                              .dynamic = simt.dynamic};
    return GEMS_OK;
}

gems_status gems_cpu_simt_launch(const gems_cpu_config *config, gems_module *module, int entry,
                                 const gems_launch *l) {
    const char *name = l->name ? l->name : "kernel";
    uint64_t blocks = (uint64_t)l->grid[0] * l->grid[1] * l->grid[2];
    gems_status status;
    if (!blocks) return GEMS_OK;
    pthread_mutex_lock(&simt.lock);
    simt.config = config;
    simt.launch = l;
    simt.running = -1;
    memcpy(&simt.entry, &module->entries[entry], sizeof simt.entry);
    status = prepare(l, name);
    if (status == GEMS_OK && checked()) status = gems_check_begin(module->image, l, simt.dynamic);
    if (status != GEMS_OK) goto done;
    uint64_t salt = config->order == GEMS_ORDER_RANDOM ? next_random() >> 32 : 0;
    for (uint64_t i = 0; i < blocks && !simt.failed; i++) run_block(block_at(i, blocks, salt));
    if (checked())
        status = gems_check_end(name, simt.failed ? simt.message : NULL);
    else if (simt.failed)
        status = gems_fail(GEMS_RUNTIME_ERROR, "%s: %s", name, simt.message);
done:
    pthread_mutex_unlock(&simt.lock);
    return status;
}

const void *gems_cpu_simt_runtime(void) {
    simt.runtime.warp = warp_collective;
    simt.runtime.barrier = barrier;
    simt.runtime.access = gems_check_access;
    simt.runtime.copy_later = copy_later;
    simt.runtime.copy_commit = copy_commit;
    simt.runtime.copy_wait = copy_wait;
    simt.runtime.wait_for = wait_for;
    simt.runtime.stop = gems_cpu_simt_stop;
    simt.runtime.ordered = ordered;
    return &simt.runtime;
}

bool gems_cpu_simt_owns(const void *p) {
    const char *at = p, *start = (const char *)&simt;
    return at >= start && at < start + sizeof simt;
}
