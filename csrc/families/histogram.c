/* histc. Twin of kernels/histogram.cu.
 *
 * Where no range is given that of the elements is taken: there is a wait for it, and the call
 * declines while a stream is captured. Counts are integers until they are written, so that they are
 * right beyond what the result's dtype counts one by one. */
#include <math.h>
#include <stdio.h>

#include "copy_views.h"
#include "gather.h"

enum { HISTOGRAM = GEMS_COPY_END };
enum { RANGE, COUNT, WRITE };

#define THREADS   256
#define FAST_BINS 1023 /* bins that a thread of the fast mode has of its own */
#define GPU_BINS  1024 /* bins up to which a GPU counts faster than ATen does */
#define PARTS     512  /* blocks that look for the range */

typedef struct ends {
    double least, most;
} ends;

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int64_t blocks,
                          void **args) {
    bool fast = gems_device_information(call->device)->fast;
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, 0, args);
}

/* The range of the elements, of which there are some; NaN where one of them is. */
static gems_status find_range(gems_call *call, const gems_plan *plan, void *x, int64_t n, int dtype,
                              ends *found) {
    const gems_device_info *info = gems_device_information(call->device);
    union {
        float single[2 * PARTS];
        double twice[2 * PARTS];
    } parts;
    int64_t blocks = gems_grid_for(info, n, info->fast ? 65536 : THREADS * 16);
    if (blocks > PARTS) blocks = PARTS;
    size_t bytes = (size_t)(2 * blocks) * gems_dtype_size(dtype);
    void *memory;
    GEMS_TRY(gems_scratch(call, bytes, &memory));
    void *args[] = {&x, &memory, &n};
    GEMS_TRY(launch(call, plan, RANGE, blocks, args));
    GEMS_TRY(gems_call_read(call, memory, bytes, &parts));
    for (int64_t i = 0; i < blocks; i++) {
        double least = dtype == GEMS_F64 ? parts.twice[2 * i] : (double)parts.single[2 * i],
               most = dtype == GEMS_F64 ? parts.twice[2 * i + 1] : (double)parts.single[2 * i + 1];
        if (i == 0 || least < found->least || isnan(least)) found->least = least;
        if (i == 0 || most > found->most || isnan(most)) found->most = most;
        if (isnan(least)) break;
    }
    return GEMS_OK;
}

/* Whether bins of some width are between these, as numbers of the dtype. */
static bool is_range(ends r, int dtype) {
    if (dtype == GEMS_F32) r = (ends){(float)r.least, (float)r.most};
    return isfinite(r.least) && isfinite(r.most) && isfinite(r.most - r.least) && r.least < r.most;
}

static gems_status run(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *self = gems_arg_tensor(call, 0);
    int64_t bins = gems_arg_int(call, 1), one = 1;
    ends range = {gems_arg_double(call, 2), gems_arg_double(call, 3)};
    const uint8_t zero[16] = {0};
    if (!self || !(call->op->dtypes & GEMS_BIT(self->dtype % GEMS_DTYPES)))
        return gems_decline("the dtype");
    if (bins < 1 || bins >= INT32_MAX / 2 || (info->arch && bins > GPU_BINS))
        return gems_decline("so many bins");
    if (!isfinite(range.least) || !isfinite(range.most) || range.least > range.most)
        return gems_decline("the range");
    int64_t n = self->numel;
    gems_key key = {.kernel = HISTOGRAM, .dtype = {self->dtype}};
    const gems_plan *plan = NULL;
    void *x = NULL, *counts;
    if (n) {
        bool search = range.least == range.most;
        if (search) GEMS_TRY(gems_call_readable(call));
        GEMS_TRY(gems_call_plan(call, &key, &plan));
        GEMS_TRY(gems_gather_contiguous(call, self, &x));
        if (search) GEMS_TRY(find_range(call, plan, x, n, self->dtype, &range));
        if (!isfinite(range.least) || !isfinite(range.most))
            return gems_decline("elements that are not finite");
        if (range.least == range.most) {
            range.least -= 1;
            range.most += 1;
        }
        if (!is_range(range, self->dtype)) return gems_decline("the range");
    }
    GEMS_TRY(gems_output(call, 0, 1, &bins, NULL, self->dtype));
    if (!n)
        return gems_fill_view(call, &bins, 1, (gems_view){call->out[0].data, &one, self->dtype},
                              zero);
    GEMS_TRY(gems_scratch(call, (size_t)bins * sizeof(uint64_t), &counts));
    GEMS_TRY(gems_fill_view(call, &bins, 1, (gems_view){counts, &one, GEMS_I64}, zero));
    int32_t number = (int32_t)bins;
    void *args[] = {&x, &counts, &n, &number, &range.least, &range.most};
    /* A block adds its bins to the others' in the end. */
    int64_t many = 16 * bins > THREADS * 16 ? 16 * bins : THREADS * 16;
    int64_t per_block = !info->fast ? many : bins <= FAST_BINS ? 65536 : n;
    GEMS_TRY(launch(call, plan, COUNT, gems_grid_for(info, n, per_block), args));
    void *write[] = {&counts, &call->out[0].data, &number};
    return launch(call, plan, WRITE, gems_grid_for(info, bins, info->fast ? 16384 : THREADS),
                  write);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, p);
    gems_text_add(&p->head, "typedef %s T;\n", gems_dtype_kernel(key->dtype[0]));
    p->files[0] = "histogram.cu";
    p->entries[RANGE] = "hist_range";
    p->entries[COUNT] = "hist_count";
    p->entries[WRITE] = "hist_write";
    p->entry_count = 3;
    snprintf(p->name, sizeof p->name, "histc %s", gems_dtype_name(key->dtype[0]));
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    (void)op;
    (void)info;
    key->kernel = HISTOGRAM;
    key->dtype[0] = (uint8_t)dtype;
    return i < 1;
}

const gems_family gems_family_histogram = {
    .name = "histogram", .run = run, .program = program, .warm = warm};
