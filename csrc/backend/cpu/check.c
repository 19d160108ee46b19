/* Races, accesses out of bounds, misaligned vectors, writes through const. Every access of the
 * kernel comes here. */
#include "check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FINDINGS 12
#define MAX_REGIONS  96

/* One access to a cell. Two accesses are ordered by a barrier between them: other epochs. */
struct access {
    const void *pc; /* where; NULL: line says it */
    int line;
    uint32_t block, epoch, warp_epoch;
    uint16_t thread;
    bool valid, atomic;
};

/* What is remembered of a few bytes. */
struct cell {
    struct access write, read;             /* the last ones */
    struct access other_write, other_read; /* of another thread; other_write only among atomics */
    int pending; /* line of a copy in the background that has not landed; 0 */
};

/* Memory with a history: an argument's, or shared. */
struct region {
    uintptr_t start, end;
    unsigned grain; /* bytes a cell: 4, less when smaller accesses come */
    struct cell *cells;
    const char *name; /* of a shared array; NULL: an argument */
};

struct finding {
    char text[256];
    const void *pc[2];
    int line[2];
    int places;
};

static struct {
    const struct gems_cpu_image *image;
    const gems_launch *launch;
    struct region regions[MAX_REGIONS];
    int region_count, last_region;
    uint32_t block, epoch, warp_epoch[32];
    struct finding findings[MAX_FINDINGS];
    int finding_count, more;
} check;

static int order_regions(const void *a, const void *b) {
    const struct region *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

static gems_status add_region(uintptr_t start, size_t bytes, const char *name) {
    if (!bytes) return GEMS_OK;
    if (check.region_count == MAX_REGIONS)
        return gems_fail(GEMS_RUNTIME_ERROR, "the checked mode takes at most %d arrays",
                         MAX_REGIONS);
    check.regions[check.region_count++] =
        (struct region){start & ~(uintptr_t)3, start + bytes, 4, NULL, name};
    return GEMS_OK;
}

/* Arguments that share memory have one history. */
static void merge_regions(void) {
    int kept = 0;
    qsort(check.regions, (size_t)check.region_count, sizeof *check.regions, order_regions);
    for (int i = 0; i < check.region_count; i++) {
        struct region *last = kept ? &check.regions[kept - 1] : NULL, *next = &check.regions[i];
        if (last && !last->name && !next->name && next->start < last->end) {
            if (next->end > last->end) last->end = next->end;
        } else
            check.regions[kept++] = *next;
    }
    check.region_count = kept;
}

static void forget(void) {
    for (int i = 0; i < check.region_count; i++) free(check.regions[i].cells);
    check.region_count = 0;
}

gems_status gems_check_begin(const struct gems_cpu_image *image, const gems_launch *launch,
                             const unsigned char *dynamic, size_t bytes) {
    gems_status status = GEMS_OK;
    memset(&check, 0, sizeof check);
    check.image = image;
    check.launch = launch;
    for (int i = 0; i < launch->extent_count && status == GEMS_OK; i++)
        status = add_region((uintptr_t)launch->extents[i].start, launch->extents[i].bytes, NULL);
    for (int i = 0; i < image->array_count && status == GEMS_OK; i++)
        status = add_region((uintptr_t)image->arrays[i].start, image->arrays[i].bytes,
                            image->arrays[i].name);
    if (status == GEMS_OK)
        status =
            add_region((uintptr_t)dynamic, launch->shared ? bytes : 0, "dynamic shared memory");
    if (status != GEMS_OK) return status;
    merge_regions();
    for (int i = 0; i < check.region_count; i++) {
        struct region *r = &check.regions[i];
        r->cells = calloc((r->end - r->start) / r->grain + 1, sizeof *r->cells);
        if (r->cells) continue;
        forget();
        return gems_fail(GEMS_MEMORY_ERROR,
                         "the checked mode has no memory for the history of %zu bytes",
                         (size_t)(r->end - r->start));
    }
    return GEMS_OK;
}

void gems_check_block(uint64_t index) {
    check.block = (uint32_t)index;
    check.epoch++;
    for (int i = 0; i < check.image->array_count; i++) /* what was not written is NaN */
        memset((char *)(uintptr_t)check.image->arrays[i].start, 0xff, check.image->arrays[i].bytes);
}

void gems_check_turn(uint64_t index) {
    check.block = (uint32_t)index;
    check.epoch++;
}

void gems_check_barrier(void) { check.epoch++; }
void gems_check_syncwarp(unsigned warp) { check.warp_epoch[warp]++; }

/* ---- findings ---- */
/* Records a finding of two places at most; the same places are told once. */
__attribute__((format(printf, 3, 4))) static void
find(const struct access *first, const struct access *second, const char *format, ...) {
    const struct access *places[2] = {first, second};
    struct finding new = {.places = second ? 2 : 1};
    va_list list;
    for (int i = 0; i < new.places; i++) {
        new.pc[i] = places[i]->pc;
        new.line[i] = places[i]->line;
    }
    va_start(list, format);
    vsnprintf(new.text, sizeof new.text, format, list);
    va_end(list);
    for (int i = 0; i < check.finding_count; i++) {
        const struct finding *old = &check.findings[i];
        if (old->places == new.places && !memcmp(old->pc, new.pc, sizeof old->pc) &&
            !memcmp(old->line, new.line, sizeof old->line) && strncmp(old->text, new.text, 12) == 0)
            return;
    }
    if (check.finding_count == MAX_FINDINGS)
        check.more++;
    else
        check.findings[check.finding_count++] = new;
}

static struct access make_access(const gems_cpu_thread *t, const void *pc, int line, bool atomic) {
    return (struct access){
        pc,   line,  check.block, check.epoch, check.warp_epoch[t->warp], (uint16_t)t->rank,
        true, atomic};
}

/* "thread 3 of block (0,1,0)" */
static const char *who(const struct access *a, char text[64]) {
    const uint32_t *grid = check.launch->grid;
    snprintf(text, 64, "thread %u of block (%u,%u,%u)", a->thread, a->block % grid[0],
             a->block / grid[0] % grid[1], a->block / grid[0] / grid[1]);
    return text;
}

static struct region *region_of(uintptr_t p) {
    if (check.last_region < check.region_count) {
        struct region *r = &check.regions[check.last_region];
        if (p >= r->start && p < r->end) return r;
    }
    for (int i = 0; i < check.region_count; i++)
        if (p >= check.regions[i].start && p < check.regions[i].end) {
            check.last_region = i;
            return &check.regions[i];
        }
    return NULL;
}

/* Where p lies beside the memory that the launch has. */
static void place_of(uintptr_t p, char *text, size_t size) {
    uintptr_t best = UINTPTR_MAX;
    snprintf(text, size, "far from all memory of the launch");
    for (int i = 0; i < check.region_count; i++) {
        const struct region *r = &check.regions[i];
        uintptr_t distance = p < r->start ? r->start - p : p < r->end ? 0 : p - r->end;
        if (distance >= best || distance > 1 << 20) continue;
        best = distance;
        snprintf(text, size, "%zu bytes %s %s of %zu bytes",
                 (size_t)(p < r->end && p >= r->start ? p - r->start : distance),
                 p < r->start ? "before"
                 : p < r->end ? "into"
                              : "behind",
                 r->name ? r->name : "an argument", (size_t)(r->end - r->start));
    }
}

__attribute__((noreturn)) static void out_of_bounds(uintptr_t p, size_t bytes, const char *what,
                                                    const struct access *me) {
    char place[160], name[64];
    place_of(p, place, sizeof place);
    find(me, NULL, "out of bounds: %s of %zu bytes by %s, %s", what, bytes, who(me, name), place);
    gems_cpu_simt_stop(""); /* the access itself might crash */
}

/* ---- histories ---- */
/* Cells of fewer bytes, for an access that covers a part of one. */
static void refine(struct region *r, unsigned grain) {
    size_t count = (r->end - r->start) / r->grain + 1, factor = r->grain / grain;
    struct cell *cells = calloc(count * factor, sizeof *cells);
    if (!cells) gems_cpu_simt_stop("the checked mode has no memory left");
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < factor; k++) cells[i * factor + k] = r->cells[i];
    free(r->cells);
    r->cells = cells;
    r->grain = grain;
}

/* True when nothing can run in between of an earlier access and this one. */
static bool ordered(const struct region *r, const struct access *earlier,
                    const struct access *now) {
    if (!earlier->valid) return true;
    if (earlier->block != now->block) return r->name != NULL; /* shared memory is another's */
    return earlier->thread == now->thread || earlier->epoch != now->epoch ||
           (earlier->thread / 32 == now->thread / 32 && earlier->warp_epoch != now->warp_epoch);
}

static bool same_thread(const struct access *a, const struct access *b) {
    return a->thread == b->thread && a->block == b->block;
}

static const char *verb(const struct access *a, bool writes) {
    return a->atomic ? "atomic" : writes ? "write" : "read";
}

/* Tells a race unless the two accesses are ordered, or both atomic. True: it is one. */
static bool races(const struct region *r, uintptr_t at, const struct access *earlier, bool wrote,
                  const struct access *now, bool writes) {
    char first[64], second[64];
    if (ordered(r, earlier, now) || (earlier->atomic && now->atomic)) return false;
    find(now, earlier, "race in %s, byte %zu: %s by %s, %s by %s, with no barrier between",
         r->name ? r->name : "an argument", (size_t)(at - r->start), verb(now, writes),
         who(now, second), verb(earlier, wrote), who(earlier, first));
    return true;
}

static void touch_cell(struct region *r, uintptr_t at, bool writes, const struct access *me) {
    struct cell *cell = &r->cells[(at - r->start) / r->grain];
    if (cell->pending && cell->write.block == me->block)
        find(me, &cell->write, "missing wait: %s of %s, byte %zu, where a copy has not landed",
             verb(me, writes), r->name ? r->name : "an argument", (size_t)(at - r->start));
    if (!races(r, at, &cell->write, true, me, writes))
        races(r, at, &cell->other_write, true, me, writes);
    if (writes) {
        if (!races(r, at, &cell->read, false, me, true))
            races(r, at, &cell->other_read, false, me, true);
        if (!me->atomic)
            cell->other_write.valid = false;
        else if (cell->write.atomic && !same_thread(&cell->write, me))
            cell->other_write = cell->write;
        cell->write = *me;
        cell->pending = 0;
        return;
    }
    /* Of the older reads the one is kept that is least likely to be ordered with a later write. */
    if (cell->read.valid && !same_thread(&cell->read, me) &&
        (!cell->other_read.valid || cell->other_read.block == me->block ||
         cell->read.block != me->block))
        cell->other_read = cell->read;
    cell->read = *me;
}

static void touch(struct region *r, uintptr_t p, size_t bytes, bool writes,
                  const struct access *me) {
    unsigned grain = (p | bytes) & 1 ? 1 : (p | bytes) & 2 ? 2 : 4;
    if (grain < r->grain) refine(r, grain);
    for (uintptr_t at = p; at < p + bytes; at += r->grain) touch_cell(r, at, writes, me);
}

/* May the kernel do this? Does not return when the access could crash. */
static struct region *permitted(uintptr_t p, size_t bytes, bool writes, const struct access *me) {
    struct region *r = region_of(p);
    char name[64];
    bool inside = false, writable = false;
    if (!r || p + bytes > r->end || p + bytes < p)
        out_of_bounds(p, bytes, writes ? "write" : "read", me);
    if (r->name) return r;
    for (int i = 0; i < check.launch->extent_count; i++) {
        const gems_extent *e = &check.launch->extents[i];
        uintptr_t start = (uintptr_t)e->start;
        if (p < start || p + bytes > start + e->bytes) continue;
        inside = true;
        writable |= e->writable;
    }
    if (!inside) out_of_bounds(p, bytes, writes ? "write" : "read", me);
    if (writes && !writable) {
        find(me, NULL, "write through const: %zu bytes by %s, to memory of an input", bytes,
             who(me, name));
        gems_cpu_simt_stop("");
    }
    return r;
}

void gems_check_access(const void *address, size_t bytes, int kind, const void *pc) {
    gems_cpu_place place = gems_cpu_simt_place();
    const char *p = address;
    uintptr_t at = (uintptr_t)address;
    bool writes = kind & (GEMS_WRITES | GEMS_ATOMIC);
    char name[64];
    if (!place.thread || !bytes) return;
    if ((p >= place.stack && p < place.stack + place.stack_size) || gems_cpu_simt_owns(p)) return;
    if (!writes && p >= check.image->start && p < check.image->end && !region_of(at))
        return; /* its constants */
    struct access me = make_access(place.thread, pc, 0, kind & GEMS_ATOMIC);
    if (kind & GEMS_VECTOR && (bytes & (bytes - 1)) == 0 && at & (bytes - 1))
        find(&me, NULL,
             "misaligned: %s of %zu bytes by %s at an address that is no multiple of %zu",
             writes ? "write" : "read", bytes, who(&me, name), bytes);
    touch(permitted(at, bytes, writes, &me), at, bytes, writes, &me);
}

void gems_check_copy_begins(const void *to, const void *from, unsigned bytes, unsigned total,
                            int line) {
    struct access me = make_access(gems_cpu_simt_place().thread, NULL, line, false);
    uintptr_t source = (uintptr_t)from, target = (uintptr_t)to;
    char name[64];
    if ((bytes && source % total) || target % total)
        find(&me, NULL, "misaligned: a copy of %u bytes in the background by %s", total,
             who(&me, name));
    if (bytes) touch(permitted(source, bytes, false, &me), source, bytes, false, &me);
    struct region *r = permitted(target, total, true, &me);
    if (!r->name)
        find(&me, NULL, "a copy in the background to memory that is not shared, by %s",
             who(&me, name));
    touch(r, target, total, true, &me);
    for (uintptr_t at = target; at < target + total; at += r->grain)
        r->cells[(at - r->start) / r->grain].pending = line ? line : 1;
}

void gems_check_copy_lands(const void *to, unsigned total, int line) {
    struct access me = make_access(gems_cpu_simt_place().thread, NULL, line, false);
    struct region *r = region_of((uintptr_t)to);
    if (!r) return;
    for (uintptr_t at = (uintptr_t)to; at < (uintptr_t)to + total; at += r->grain) {
        struct cell *cell = &r->cells[(at - r->start) / r->grain];
        cell->pending = 0;
        cell->write = me;
    }
}

gems_status gems_check_end(const char *name, const char *stopped) {
    char report[8192], lines[2 * MAX_FINDINGS][128];
    const void *pcs[2 * MAX_FINDINGS];
    int count = 0, total = check.finding_count + (stopped && *stopped);
    size_t used = 0;
    forget();
    if (!total) return GEMS_OK;
    for (int i = 0; i < check.finding_count; i++)
        for (int k = 0; k < check.findings[i].places; k++)
            if (check.findings[i].pc[k]) pcs[count++] = check.findings[i].pc[k];
    if (count) gems_cpu_image_lines(check.image, pcs, count, lines);
    count = 0;
    report[0] = 0;
    for (int i = 0; i < check.finding_count && used < sizeof report; i++) {
        const struct finding *f = &check.findings[i];
        used += (size_t)snprintf(report + used, sizeof report - used, "\n  %s", f->text);
        for (int k = 0; k < f->places && used < sizeof report; k++) {
            const char *lead = k ? "; the other at" : "; at";
            if (f->pc[k])
                used += (size_t)snprintf(report + used, sizeof report - used, "%s %s", lead,
                                         lines[count++]);
            else
                used += (size_t)snprintf(report + used, sizeof report - used, "%s program:%d", lead,
                                         f->line[k]);
        }
    }
    if (stopped && *stopped && used < sizeof report)
        used += (size_t)snprintf(report + used, sizeof report - used, "\n  %s", stopped);
    if (check.more && used < sizeof report)
        snprintf(report + used, sizeof report - used, "\n  and %d more", check.more);
    return gems_fail(GEMS_RUNTIME_ERROR, "%s: the checked mode found %d problem%s:%s", name,
                     total + check.more, total + check.more == 1 ? "" : "s", report);
}
