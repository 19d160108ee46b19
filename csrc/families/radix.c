#include "radix.h"

#define BITS    8 /* of one pass: kRadixBits */
#define THREADS 512
#define ITEMS   8
#define TILE    (THREADS * ITEMS) /* keys of one block */
#define PASSES  4

static int32_t tiles_of(int64_t n) { return (int32_t)((n + TILE - 1) / TILE); }

/* Words of a pass: its counter, and one for each digit of each tile. */
static int64_t words_of(int64_t n) { return 1 + ((int64_t)tiles_of(n) << BITS); }

/* The words of all passes, from a multiple of 8 bytes on, then the digits' totals. */
size_t gems_radix_cells(int64_t n) {
    return 1 + 2 * PASSES * (size_t)words_of(n) + ((size_t)PASSES << BITS);
}

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int64_t blocks,
                          uint32_t shared, void **args) {
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {THREADS, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, shared, args);
}

gems_status gems_radix_sort(gems_call *call, const gems_plan *plan, int entry, gems_radix *r) {
    const gems_device_info *info = gems_device_information(call->device);
    int32_t tiles = tiles_of(r->n), passes = 0;
    while (passes < PASSES && r->most >> BITS * passes) passes++;
    uint64_t *words = (uint64_t *)(((uintptr_t)r->counts + 7) & ~(uintptr_t)7);
    int32_t *totals = (int32_t *)(words + passes * words_of(r->n));
    int64_t clear = passes * words_of(r->n) + ((int64_t)passes << BITS) / 2;
    r->which = 0;
    if (!passes) return GEMS_OK;
    void *cleared[] = {&words, &clear}, *count[] = {&r->keys[0], &totals, &r->n, &passes};
    GEMS_TRY(launch(call, plan, entry, gems_grid_for(info, clear, THREADS * 2), 0, cleared));
    GEMS_TRY(launch(call, plan, entry + 1, gems_grid_for(info, r->n, TILE), 0, count));
    for (int32_t pass = 0; pass < passes; pass++) {
        int from = r->which, to = 1 - from;
        int32_t shift = BITS * pass;
        void *place[] = {&r->keys[from], &r->positions[from],
                         &r->keys[to],   &r->positions[to],
                         &words,         &totals,
                         &r->n,          &shift};
        GEMS_TRY(launch(call, plan, entry + 2, tiles, TILE * 8, place));
        words += words_of(r->n);
        totals += 1 << BITS;
        r->which = to;
    }
    return GEMS_OK;
}

void gems_radix_head(gems_program *program) {
    gems_text_add(&program->head,
                  "constexpr int kRadixThreads = %d, kItems = %d, kLook = 4;\n"
                  "constexpr bool kMatchInMemory = true;\n#define RADIX_PAIRS 1\n",
                  THREADS, ITEMS);
}
