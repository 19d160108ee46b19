/* A launch with every thread of every block: threads are fibers, which switch at each collective.
 *
 * One launch runs at a time, on the caller's thread; blocks run one after another, and those of a
 * cluster in turns, each as far as it can without the others. All state is static. A failure is
 * recorded, the launch's fibers are abandoned where they stand, and their stacks serve the next
 * launch.
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

#define MAX_THREADS 1024 /* of a block */
#define MAX_WARPS   32
#define MAX_BLOCKS  16 /* of a cluster */
#define MAX_FIBERS  (MAX_THREADS * MAX_BLOCKS)
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
    unsigned phases; /* of the cluster's barrier that it has arrived at */
};

struct block {
    unsigned alive, current_warp;
    unsigned arrived, count, last_count; /* at its barrier */
    int barrier_line;
    uint64_t index;
    char *arrays; /* what its shared arrays hold while another block of the cluster runs */
};

static struct {
    pthread_mutex_t lock;
    const gems_cpu_config *config;
    void (*entry)(void **args);
    const gems_launch *launch;
    unsigned threads, warps;         /* of a block */
    unsigned blocks, current, alive; /* of the cluster */
    unsigned arrived, phase;         /* at the cluster's barrier */
    int running;                     /* thread of the cluster; -1: none */
    uint64_t random;
    const struct gems_cpu_image *image;
    struct block block[MAX_BLOCKS];
    struct warp warp[MAX_WARPS * MAX_BLOCKS];
    struct thread thread[MAX_FIBERS];
    gems_fiber fiber[MAX_FIBERS];
    int fibers;                       /* made */
    int idle[MAX_FIBERS], idle_count; /* fibers */
    gems_fiber main;
    unsigned char *dynamic; /* the blocks' one behind another */
    size_t dynamic_room, dynamic_each;
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
    const gems_uint3 *block = &simt.thread[simt.running < 0 ? 0 : simt.running].view.block;
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

/* Warps of a block with a thread that can run. */
static unsigned ready_warps(unsigned block) {
    const struct warp *warp = &simt.warp[block * simt.warps];
    unsigned ready = 0;
    for (unsigned i = 0; i < simt.warps; i++)
        if (warp[i].ready) ready |= 1u << i;
    return ready;
}

static struct warp *warp_of(unsigned thread) {
    return &simt.warp[thread / simt.threads * simt.warps + thread % simt.threads / 32];
}
static unsigned lane_bit(unsigned thread) { return 1u << thread % simt.threads % 32; }

/* ---- clusters ---- */

static size_t arrays_bytes(void) {
    size_t bytes = 0;
    for (int i = 0; i < simt.image->array_count; i++) bytes += simt.image->arrays[i].bytes;
    return bytes;
}

/* Copies the program's shared arrays out of the way, or back. */
static void move_arrays(char *kept, bool back) {
    for (int i = 0; i < simt.image->array_count; i++) {
        const gems_cpu_array *array = &simt.image->arrays[i];
        char *at = (char *)(uintptr_t)array->start;
        memcpy(back ? at : kept, back ? kept : at, array->bytes);
        kept += array->bytes;
    }
}

/* Makes another block of the cluster the one that runs. */
static void turn_to(unsigned block) {
    if (block == simt.current) return;
    move_arrays(simt.block[simt.current].arrays, false);
    move_arrays(simt.block[block].arrays, true);
    simt.current = block;
    if (checked()) gems_check_turn(simt.block[block].index);
}

/* Where another block of the cluster has what this one has at p. */
static const void *peer(const void *p, int block, size_t bytes) {
    const char *at = p;
    const char *dynamic = (const char *)simt.dynamic + simt.current * simt.dynamic_each;
    if (block < 0 || (unsigned)block >= simt.blocks)
        stop("block %d of a cluster of %u is looked into", block, simt.blocks);
    if ((unsigned)block == simt.current) return p;
    if (simt.launch->shared && at >= dynamic && at + bytes <= dynamic + simt.launch->shared)
        return (const char *)simt.dynamic + (size_t)block * simt.dynamic_each + (at - dynamic);
    const char *kept = simt.block[block].arrays;
    for (int i = 0; i < simt.image->array_count; i++) {
        const gems_cpu_array *array = &simt.image->arrays[i];
        if (at >= array->start && at + bytes <= array->start + array->bytes)
            return kept + (at - array->start);
        kept += array->bytes;
    }
    stop("what is read of another block of the cluster is no shared memory");
}

/* All threads that live have arrived: the phase ends. */
static void end_phase(void) {
    simt.arrived = 0;
    simt.phase++;
    if (checked()) gems_check_barrier();
}

static bool phase_over(void *what) { return ((struct thread *)what)->phases <= simt.phase; }

static void cluster_arrive(int line) {
    struct thread *t = &simt.thread[simt.running];
    if (t->phases > simt.phase)
        stop("thread %u arrives at the cluster's barrier again, program:%d, and has not waited",
             t->view.rank, line);
    t->phases++;
    if (++simt.arrived == simt.alive) end_phase();
}

static void wait_for(bool (*ready)(void *), void *what, const char *name, int line);

static void cluster_wait(int line) {
    struct thread *t = &simt.thread[simt.running];
    if (!phase_over(t)) wait_for(phase_over, t, "cluster_wait", line);
}

/* Asks what threads wait for; whatever is ready makes its threads so. */
static void ask(void) {
    for (unsigned t = 0; t < simt.threads * simt.blocks; t++) {
        struct thread *thread = &simt.thread[t];
        if (!thread->ready || !thread->ready(thread->what)) continue;
        thread->ready = NULL;
        warp_of(t)->ready |= lane_bit(t);
    }
}

/* The next block of the cluster that can run, this one first; NULL: none. */
static struct block *ready_block(void) {
    for (unsigned i = 0; i < simt.blocks; i++) {
        unsigned b =
            simt.current + (simt.config->order == GEMS_ORDER_REVERSE ? simt.blocks - i : i);
        b %= simt.blocks;
        if (!ready_warps(b)) continue;
        turn_to(b);
        return &simt.block[b];
    }
    return NULL;
}

/* Takes the next thread to run off the ready lists; -1 when there is none. */
static int pick(void) {
    struct block *block = ready_block();
    int lane;
    if (!block) {
        ask();
        block = ready_block();
    }
    if (!block) return -1;
    unsigned ready = ready_warps(simt.current);
    switch (simt.config->order) {
    case GEMS_ORDER_FORWARD:
        block->current_warp = (unsigned)next_bit(ready, block->current_warp);
        break;
    case GEMS_ORDER_REVERSE: block->current_warp = 31u - (unsigned)__builtin_clz(ready); break;
    case GEMS_ORDER_RANDOM:
        block->current_warp = (unsigned)next_bit(ready, next_random() >> 59);
        break;
    }
    struct warp *warp = &simt.warp[simt.current * simt.warps + block->current_warp];
    switch (simt.config->order) {
    case GEMS_ORDER_REVERSE: lane = 31 - __builtin_clz(warp->ready); break;
    case GEMS_ORDER_RANDOM: lane = next_bit(warp->ready, next_random() >> 59); break;
    default: lane = __builtin_ctz(warp->ready); break;
    }
    warp->ready &= ~(1u << lane);
    return (int)(simt.current * simt.threads + block->current_warp * 32) + lane;
}

/* Says who waits where, and leaves. */
__attribute__((noreturn)) static void report_deadlock(void) {
    char text[1500];
    size_t used = 0;
    static bool told[MAX_FIBERS];
    unsigned all = simt.threads * simt.blocks;
    text[0] = 0;
    memset(told, 0, sizeof told);
    for (unsigned t = 0; t < all && used + 120 < sizeof text; t++) {
        if (simt.thread[t].fiber < 0 || told[t]) continue;
        unsigned same = 0;
        for (unsigned u = t; u < all; u++) {
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
    stop("deadlock: %u threads have ended, the others wait for each other%s", all - simt.alive,
         text);
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
    struct block *block = &simt.block[simt.current];
    struct warp *warp = &simt.warp[simt.current * simt.warps];
    block->last_count = block->count;
    block->count = block->arrived = 0;
    for (unsigned i = 0; i < simt.warps; i++) warp[i].ready = warp[i].alive;
    if (checked()) gems_check_barrier();
}

static int barrier(int predicate, int line) {
    struct block *block = &simt.block[simt.current];
    unsigned me = (unsigned)simt.running;
    block->count += predicate != 0;
    if (!block->arrived)
        block->barrier_line = line;
    else if (block->barrier_line != line)
        stop("divergent barrier: thread %u is at __syncthreads, program:%d, others at program:%d",
             simt.thread[me].view.rank, line, block->barrier_line);
    if (++block->arrived == block->alive) {
        release_barrier();
        warp_of(me)->ready &= ~lane_bit(me); /* it goes on itself */
    } else
        wait_here("__syncthreads", line);
    return (int)block->last_count;
}

static void warp_collective(unsigned mask, gems_cpu_collective all, void *operand, int line,
                            const char *what) {
    const gems_cpu_thread *view = &simt.thread[simt.running].view;
    struct warp *warp = warp_of((unsigned)simt.running);
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
    struct block *block = &simt.block[simt.current];
    struct warp *warp = warp_of((unsigned)t);
    unsigned bit = lane_bit((unsigned)t);
    warp->alive &= ~bit;
    block->alive--;
    simt.alive--;
    for (int i = 0; i < warp->pending_count; i++)
        if (warp->pending[i].mask & bit)
            stop("thread %u has ended, but others wait for its lane at %s, program:%d",
                 simt.thread[t].view.rank, warp->pending[i].what, warp->pending[i].line);
    if (block->arrived && block->arrived == block->alive) release_barrier();
    if (simt.thread[t].phases > simt.phase) simt.arrived--; /* it has ended and arrived */
    if (simt.arrived && simt.arrived == simt.alive) end_phase();
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

/* Runs a block, or the blocks of a cluster, of which this is the first. */
static void run_block(uint64_t index) {
    const gems_launch *l = simt.launch;
    simt.alive = simt.threads * simt.blocks;
    simt.arrived = simt.phase = 0;
    simt.current = 0;
    for (unsigned b = 0; b < simt.blocks; b++) {
        struct block *block = &simt.block[b];
        uint64_t at = block->index = index + b;
        gems_uint3 place = {(unsigned)(at % l->grid[0]), (unsigned)(at / l->grid[0] % l->grid[1]),
                            (unsigned)(at / l->grid[0] / l->grid[1])};
        block->alive = simt.threads;
        block->arrived = block->count = block->current_warp = 0;
        for (unsigned i = 0; i < simt.warps; i++) {
            struct warp *warp = &simt.warp[b * simt.warps + i];
            unsigned lanes = simt.threads - i * 32;
            warp->alive = warp->ready = lanes < 32 ? (1u << lanes) - 1 : ~0u;
            warp->pending_count = 0;
        }
        for (unsigned t = 0; t < simt.threads; t++) {
            struct thread *thread = &simt.thread[b * simt.threads + t];
            thread->view.block = place;
            thread->fiber = -1;
            thread->copy_count = thread->groups = 0;
            thread->phases = 0;
            thread->ready = NULL;
        }
        if (simt.blocks > 1) memset(block->arrays, 0xff, arrays_bytes());
    }
    if (l->shared) /* what was not written is NaN */
        memset(simt.dynamic, 0xff, simt.dynamic_each * simt.blocks);
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

/* Room for what the blocks of a cluster hold while others run. */
static gems_status prepare_cluster(const gems_launch *l, const char *name) {
    if (simt.blocks > MAX_BLOCKS || l->grid[0] % simt.blocks)
        return gems_fail(GEMS_RUNTIME_ERROR, "%s: clusters of %u blocks in a grid of %u", name,
                         simt.blocks, l->grid[0]);
    if (simt.blocks == 1) return GEMS_OK;
    for (unsigned b = 0; b < simt.blocks; b++) {
        char *room = realloc(simt.block[b].arrays, arrays_bytes() + 1);
        if (!room) return gems_fail(GEMS_MEMORY_ERROR, "%s: no memory for a cluster", name);
        simt.block[b].arrays = room;
    }
    return GEMS_OK;
}

/* Fills in what stays the same for all blocks. */
static gems_status prepare(const gems_launch *l, const char *name) {
    uint64_t threads = (uint64_t)l->block[0] * l->block[1] * l->block[2];
    if (!threads || threads > MAX_THREADS)
        return gems_fail(GEMS_RUNTIME_ERROR, "%s: a block of %u x %u x %u threads", name,
                         l->block[0], l->block[1], l->block[2]);
    simt.threads = (unsigned)threads;
    simt.warps = (simt.threads + 31) / 32;
    simt.blocks = l->cluster > 1 ? l->cluster : 1;
    GEMS_TRY(prepare_cluster(l, name));
    simt.failed = false;
    simt.random = simt.config->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    /* Blocks of a cluster align tiles in it by themselves, to the same place. */
    simt.dynamic_each = ((size_t)l->shared + 1023) & ~(size_t)1023;
    if (simt.dynamic_each * simt.blocks > simt.dynamic_room) {
        size_t room = simt.dynamic_each * simt.blocks;
        unsigned char *memory = aligned_alloc(1024, room);
        if (!memory)
            return gems_fail(GEMS_MEMORY_ERROR, "%s: no memory for %u bytes of shared memory", name,
                             l->shared);
        free(simt.dynamic);
        simt.dynamic = memory;
        simt.dynamic_room = room;
    }
    for (unsigned i = 0; i < simt.threads * simt.blocks; i++) {
        unsigned t = i % simt.threads, b = i / simt.threads;
        simt.thread[i].view =
            (gems_cpu_thread){.thread = {t % l->block[0], t / l->block[0] % l->block[1],
                                         t / l->block[0] / l->block[1]},
                              .size = {l->block[0], l->block[1], l->block[2]},
                              .grid = {l->grid[0], l->grid[1], l->grid[2]},
                              .rank = t,
                              .lane = t % 32,
                              .warp = t / 32,
                              .dynamic = simt.dynamic + b * simt.dynamic_each};
    }
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
    simt.image = module->image;
    memcpy(&simt.entry, &module->entries[entry], sizeof simt.entry);
    status = prepare(l, name);
    if (status == GEMS_OK && checked())
        status = gems_check_begin(module->image, l, simt.dynamic,
                                  simt.dynamic_each * (simt.blocks - 1) + l->shared);
    if (status != GEMS_OK) goto done;
    uint64_t salt = config->order == GEMS_ORDER_RANDOM ? next_random() >> 32 : 0;
    blocks /= simt.blocks;
    for (uint64_t i = 0; i < blocks && !simt.failed; i++)
        run_block(block_at(i, blocks, salt) * simt.blocks);
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
    simt.runtime.cluster_arrive = cluster_arrive;
    simt.runtime.cluster_wait = cluster_wait;
    simt.runtime.peer = peer;
    return &simt.runtime;
}

bool gems_cpu_simt_owns(const void *p) {
    const char *at = p, *start = (const char *)&simt;
    return at >= start && at < start + sizeof simt;
}
