#include "radix.h"

#define BITS         8 /* of one pass: kRadixBits */
#define THREADS      256
#define TILE         4096 /* keys of one block */
#define SCAN_THREADS 256

static int32_t tiles_of(int64_t n) { return (int32_t)((n + TILE - 1) / TILE); }

/* The counts of every tile's digits, then the digits' totals. */
size_t gems_radix_cells(int64_t n) { return (size_t)(tiles_of(n) + 1) << BITS; }

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int32_t blocks,
                          uint32_t threads, void **args) {
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {threads, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, 0, args);
}

gems_status gems_radix_sort(gems_call *call, const gems_plan *plan, int entry, gems_radix *r) {
    int32_t tiles = tiles_of(r->n), *totals = r->counts + ((size_t)tiles << BITS);
    r->which = 0;
    for (int32_t shift = 0; shift < 31 && r->most >> shift; shift += BITS) {
        int from = r->which, to = 1 - from;
        void *count[] = {&r->keys[from], &r->counts, &r->n, &tiles, &shift};
        void *scan[] = {&r->counts, &totals, &tiles};
        void *place[] = {&r->keys[from], &r->positions[from],
                         &r->keys[to],   &r->positions[to],
                         &r->counts,     &totals,
                         &r->n,          &tiles,
                         &shift};
        GEMS_TRY(launch(call, plan, entry, tiles, THREADS, count));
        GEMS_TRY(
            launch(call, plan, entry + 1, (1 << BITS) / (SCAN_THREADS / 32), SCAN_THREADS, scan));
        GEMS_TRY(launch(call, plan, entry + 2, tiles, THREADS, place));
        r->which = to;
    }
    return GEMS_OK;
}

void gems_radix_head(gems_program *program) {
    gems_text_add(&program->head,
                  "constexpr int kRadixThreads = %d, kTile = %d;\n#define RADIX_PAIRS 1\n", THREADS,
                  TILE);
}
