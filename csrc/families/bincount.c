/* bincount. Twin of kernels/bincount.cu.
 *
 * The size of the result is the largest number's: there is a wait for it, and the call declines
 * while a stream is captured. Weights are added in a fixed order. */
#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"
#include "gather.h"
#include "radix.h"

enum { BINCOUNT = GEMS_COPY_END };
enum { WEIGHTED = 1, FAST = 2 };
/* Kernels: of all programs; without weights; with them, in the fast mode; with them. */
enum { RANGE, COUNT, SUM_ALL = COUNT, KEYS = COUNT, RADIX, EDGES = RADIX + 3, SUM };

#define THREADS   256
#define FAST_BINS 1024 /* bins that a thread of the fast mode has of its own */
#define PARTS     512  /* blocks that look for the largest number */

typedef struct {
    int64_t least, most;
} range;

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int64_t blocks,
                          void **args) {
    bool fast = gems_device_information(call->device)->fast;
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, 0, args);
}

static gems_status find_range(gems_call *call, const gems_plan *plan, void *x, int64_t n,
                              range *found) {
    const gems_device_info *info = gems_device_information(call->device);
    range parts[PARTS];
    int64_t blocks = gems_grid_for(info, n, info->fast ? 65536 : THREADS * 16);
    if (blocks > PARTS) blocks = PARTS;
    void *memory;
    GEMS_TRY(gems_scratch(call, (size_t)blocks * sizeof *parts, &memory));
    void *args[] = {&x, &memory, &n};
    GEMS_TRY(launch(call, plan, RANGE, blocks, args));
    GEMS_TRY(gems_call_read(call, memory, (size_t)blocks * sizeof *parts, parts));
    *found = parts[0];
    for (int64_t i = 1; i < blocks; i++) {
        if (parts[i].least < found->least) found->least = parts[i].least;
        if (parts[i].most > found->most) found->most = parts[i].most;
    }
    return GEMS_OK;
}

/* Sorts the numbers with their places, finds each one's part, and adds its weights up. */
static gems_status sum_sorted(gems_call *call, const gems_plan *plan, void *x, void *weights,
                              int32_t most, int64_t bins) {
    const gems_device_info *info = gems_device_information(call->device);
    int32_t n = (int32_t)gems_arg_tensor(call, 0)->numel, all = (int32_t)bins;
    size_t places = (size_t)n, cells = gems_radix_cells(n);
    int64_t edges = 2 * bins, one = 1;
    const uint8_t zero[16] = {0};
    void *memory;
    gems_radix r = {.n = n, .most = most};
    GEMS_TRY(gems_scratch(call, (4 * places + cells + (size_t)edges) * sizeof(int32_t), &memory));
    int32_t *next = memory;
    for (int i = 0; i < 2; i++) {
        r.keys[i] = next;
        r.positions[i] = next + places;
        next += 2 * places;
    }
    r.counts = next;
    int32_t *first = next + cells, *last = first + bins;
    GEMS_TRY(gems_fill_view(call, &edges, 1, (gems_view){first, &one, GEMS_I32}, zero));
    void *key_args[] = {&x, &r.keys[0], &r.positions[0], &n};
    GEMS_TRY(launch(call, plan, KEYS, gems_grid_for(info, n, THREADS), key_args));
    GEMS_TRY(gems_radix_sort(call, plan, RADIX, &r));
    void *edge_args[] = {&r.keys[r.which], &first, &last, &n};
    GEMS_TRY(launch(call, plan, EDGES, gems_grid_for(info, n, THREADS), edge_args));
    void *args[] = {&weights, &r.positions[r.which], &first, &last, &call->out[0].data, &all};
    return launch(call, plan, SUM, gems_grid_for(info, bins, THREADS / 32), args);
}

static gems_status run(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *self = gems_arg_tensor(call, 0), *weights = gems_arg_tensor(call, 1);
    int64_t minlength = gems_arg_int(call, 2), one = 1;
    const uint8_t zero[16] = {0};
    if (!self || self->ndim != 1) return gems_decline("self is no vector");
    if (self->dtype >= GEMS_DTYPES || !(call->op->dtypes & GEMS_BIT(self->dtype)))
        return gems_decline("the dtype");
    if (minlength < 0 || minlength >= INT32_MAX) return gems_decline("minlength");
    if (!gems_arg_none(call, 1) && !weights) return gems_decline("weights are no tensor");
    if (weights) {
        if (weights->ndim != 1 || weights->numel != self->numel ||
            weights->device_type != call->device_type ||
            weights->device_index != call->device_index)
            return gems_decline("the shape or device of the weights");
        if (weights->dtype >= GEMS_DTYPES || !(GEMS_ALL_MASK & GEMS_BIT(weights->dtype)))
            return gems_decline("the dtype of the weights");
    }
    int sums = weights ? (weights->dtype == GEMS_F32 ? GEMS_F32 : GEMS_F64) : GEMS_I64;
    int64_t n = self->numel, bins = minlength;
    gems_key key = {.kernel = BINCOUNT,
                    .flags = (weights ? WEIGHTED : 0) | (info->fast ? FAST : 0)};
    key.dtype[0] = self->dtype;
    if (weights) key.dtype[1] = weights->dtype;
    const gems_plan *plan = NULL;
    range found = {0, -1};
    void *x = NULL, *beside = NULL;
    if (n) {
        if (n >= INT32_MAX / 4) return gems_decline("more elements than the kernels take");
        GEMS_TRY(gems_call_readable(call));
        GEMS_TRY(gems_call_plan(call, &key, &plan));
        GEMS_TRY(gems_gather_contiguous(call, self, &x));
        GEMS_TRY(find_range(call, plan, x, n, &found));
        if (found.least < 0) return gems_decline("a negative number");
        if (found.most >= INT32_MAX / 2) return gems_decline("more bins than the kernels take");
        if (found.most >= bins) bins = found.most + 1;
    } else {
        sums = GEMS_I64; /* as ATen */
    }
    GEMS_TRY(gems_output(call, 0, 1, &bins, NULL, sums));
    if (!bins) return GEMS_OK;
    if (!n || !weights || info->fast)
        GEMS_TRY(gems_fill_view(call, &bins, 1, (gems_view){call->out[0].data, &one, sums}, zero));
    if (!n) return GEMS_OK;
    if (!weights) {
        void *args[] = {&x, &call->out[0].data, &n, &bins};
        int64_t per_block = !info->fast ? THREADS * 16 : bins <= FAST_BINS ? 65536 : n;
        return launch(call, plan, COUNT, gems_grid_for(info, n, per_block), args);
    }
    GEMS_TRY(gems_gather_contiguous(call, weights, &beside));
    if (!info->fast) return sum_sorted(call, plan, x, beside, (int32_t)found.most, bins);
    void *args[] = {&x, &beside, &call->out[0].data, &n};
    return launch(call, plan, SUM_ALL, 1, args);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    static const char *const sorted[] = {"bin_range",   "bin_keys",  "radix_clear", "radix_count",
                                         "radix_place", "bin_edges", "bin_sum"};
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, p);
    bool weighted = key->flags & WEIGHTED, fast = key->flags & FAST;
    int files = 0;
    gems_text_add(&p->head, "typedef %s T;\n", gems_dtype_kernel(key->dtype[0]));
    p->entries[RANGE] = "bin_range";
    p->entries[COUNT] = fast && weighted ? "bin_sum_all" : "bin_count";
    p->entry_count = 2;
    if (weighted) {
        gems_text_add(&p->head, "#define WEIGHTED 1\ntypedef %s W;\ntypedef %s S;\n",
                      gems_dtype_kernel(key->dtype[1]),
                      key->dtype[1] == GEMS_F32 ? "float" : "double");
        if (!fast) {
            gems_radix_head(p);
            p->files[files++] = "lookback.cuh";
            p->files[files++] = "radix.cuh";
            for (int i = 0; i <= SUM; i++) p->entries[i] = sorted[i];
            p->entry_count = SUM + 1;
        }
    }
    p->files[files] = "bincount.cu";
    snprintf(p->name, sizeof p->name, "bincount %s%s%s", gems_dtype_name(key->dtype[0]),
             weighted ? " weights " : "", weighted ? gems_dtype_name(key->dtype[1]) : "");
    return GEMS_OK;
}

/* Counts, and weights in float32. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    (void)op;
    key->kernel = BINCOUNT;
    key->dtype[0] = (uint8_t)dtype;
    key->flags = (uint8_t)((i ? WEIGHTED : 0) | (info->fast ? FAST : 0));
    if (i) key->dtype[1] = GEMS_F32;
    return i < 2;
}

const gems_family gems_family_bincount = {
    .name = "bincount", .run = run, .program = program, .warm = warm};
