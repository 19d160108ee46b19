/* repeat_interleave of a vector of repeats: the numbers 0, 1, ... each as often as it says. Twin of
 * kernels/interleave.cu.
 *
 * Where the size of the result is given, nothing is read from a GPU: the kernel stops when it does
 * not fit, as ATen's does. */
#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"
#include "gather.h"

enum { INTERLEAVE = GEMS_COPY_END };
enum { SUM, OFFSETS, FILL };

#define THREADS      256
#define SCAN_THREADS 1024
#define TILE         1024 /* repeats that a block has in shared memory */
#define FAST_TILE    16384
#define PART         4096 /* kPart in the kernel */

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int64_t blocks,
                          uint32_t threads, void **args) {
    bool fast = gems_device_information(call->device)->fast;
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {fast ? 1 : threads, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, 0, args);
}

static gems_status run(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *repeats = gems_arg_tensor(call, 0);
    if (!repeats || repeats->ndim != 1) return gems_decline("repeats is no vector");
    if (repeats->dtype >= GEMS_DTYPES || !(call->op->dtypes & GEMS_BIT(repeats->dtype)))
        return gems_decline("the dtype");
    int64_t n = repeats->numel, tile = info->fast ? FAST_TILE : TILE, total = 0;
    int64_t tiles = (n + tile - 1) / tile;
    bool given = !gems_arg_none(call, 1), reads = !given || call->device_type == GEMS_CPU;
    if (given) total = gems_arg_int(call, 1);
    if (total < 0) return gems_decline("a negative output_size");
    if (!n) {
        total = 0;
        return gems_output(call, 0, 1, &total, NULL, repeats->dtype);
    }
    if (reads) GEMS_TRY(gems_call_readable(call));
    gems_key key = {.kernel = INTERLEAVE};
    key.dtype[0] = repeats->dtype;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *from, *memory;
    GEMS_TRY(gems_gather_contiguous(call, repeats, &from));
    GEMS_TRY(gems_scratch(call, (size_t)(2 * tiles + 1) * sizeof(int64_t), &memory));
    int64_t *sums = memory, *starts = sums + tiles;
    void *sum_args[] = {&from, &sums, &starts, &n, &tiles},
         *offset_args[] = {&sums, &starts, &tiles};
    if (!reads) { /* an output that does not fit is found before anything runs */
        GEMS_TRY(gems_output(call, 0, 1, &total, NULL, repeats->dtype));
    }
    GEMS_TRY(launch(call, plan, SUM, gems_grid_for(info, tiles, 1), THREADS, sum_args));
    if (tiles > 1) GEMS_TRY(launch(call, plan, OFFSETS, 1, SCAN_THREADS, offset_args));
    if (reads) {
        int64_t found;
        GEMS_TRY(gems_call_read(call, starts + tiles, sizeof found, &found));
        if (found < 0) return gems_decline("a negative number of repeats");
        if (given && found != total) return gems_decline("output_size is not the sum of repeats");
        total = found;
        GEMS_TRY(gems_output(call, 0, 1, &total, NULL, repeats->dtype));
    }
    int64_t blocks = info->fast ? gems_grid_for(info, tiles, 1) : gems_grid_for(info, total, PART);
    void *args[] = {&from, &starts, &call->out[0].data, &n, &tiles, &total};
    return launch(call, plan, FILL, blocks, THREADS, args);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, p);
    gems_text_add(
        &p->head,
        "typedef %s T;\ntypedef int64_t Count;\nconstexpr int kTile = gems::kFast ? %d : %d;\n"
        "using namespace gems;\n",
        gems_dtype_kernel(key->dtype[0]), FAST_TILE, TILE);
    p->files[0] = "index.cuh";
    p->files[1] = "offsets.cuh";
    p->files[2] = "interleave.cu";
    p->entries[SUM] = "interleave_sum";
    p->entries[OFFSETS] = "offsets";
    p->entries[FILL] = "interleave_fill";
    p->entry_count = 3;
    snprintf(p->name, sizeof p->name, "repeat_interleave %s", gems_dtype_name(key->dtype[0]));
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    (void)op, (void)info;
    key->kernel = INTERLEAVE;
    key->dtype[0] = (uint8_t)dtype;
    return i == 0;
}

const gems_family gems_family_interleave = {
    .name = "interleave", .run = run, .program = program, .warm = warm};
