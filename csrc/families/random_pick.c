/* multinomial and randperm.
 *
 * multinomial without replacement is the race that ATen runs: the largest quotients of a
 * probability and an exponential number. ATen waits for the device to look at the probabilities
 * before it; here that is done on a CPU only, on a GPU the call is left to ATen, whose steps are
 * operators of ours. With replacement a sample is looked up in the running sum of its row, which is
 * kept in double: ATen keeps it in the dtype of the probabilities, so now and then a neighbour is
 * picked there.
 * randperm sorts numbers by random keys, and shuffles those whose keys are the same. */
#include "../base/dtype.h"
#include "modes.h"
#include "radix.h"
#include "random.h"

#include <string.h>

#define PICK_MOST 64 /* samples of one race */

enum { PICK_RACE, PICK_SUMS, PICK_SEARCH };
#define PERM_GAPS (2 * 40 << 10) /* words of 4 bytes between parts: kernels/permutation.cu */
enum { PERM_KEYS, PERM_COUNT, PERM_SHUFFLE = PERM_COUNT + 3 }; /* the sort's between them */

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int64_t blocks,
                          uint32_t threads, void **args) {
    const gems_device_info *info = gems_device_information(call->device);
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {info->fast ? 1 : threads, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, 0, args);
}

static void *generator_of(const gems_call *call, int arg) {
    return call->args[arg].kind == GEMS_GENERATOR ? call->args[arg].generator : NULL;
}

/* ---- multinomial ---- */

typedef struct {
    const gems_tensor *p;
    int64_t rows, columns, along, across, samples; /* strides of p */
} draw;

/* Each row has a probability above 0, and none that is negative or not finite. */
static bool rows_are_fair(const draw *d) {
    int64_t size = (int64_t)gems_dtype_size(d->p->dtype);
    gems_tensor row = *d->p;
    int64_t sizes[1] = {d->columns}, strides[1] = {d->across};
    row.sizes = sizes;
    row.strides = strides;
    row.ndim = 1;
    row.numel = d->columns;
    for (int64_t r = 0; r < d->rows; r++) {
        row.data = (char *)d->p->data + r * d->along * size;
        if (!gems_random_within(&row, 0, 1.7976931348623157e308) || gems_random_within(&row, 0, 0))
            return false;
    }
    return true;
}

static gems_status output_of(gems_call *call, const draw *d) {
    int64_t sizes[2] = {d->rows, d->samples};
    int flat = d->p->ndim == 1;
    GEMS_TRY(gems_output(call, 0, 2 - flat, sizes + flat, NULL, GEMS_I64));
    return gems_is_contiguous(&call->out[0]) ? GEMS_OK : gems_decline("an output of these strides");
}

/* Exponential numbers as exponential_ draws them into a tensor of p's shape. */
static gems_status draw_noise(gems_call *call, const draw *d, const gems_plan *plan, void *noise) {
    const gems_device_info *info = gems_device_information(call->device);
    int32_t n = (int32_t)d->p->numel;
    uint32_t threads = gems_aten_threads(info, n);
    int each = d->p->dtype == GEMS_F64 ? 2 : 4;
    uint32_t rounds = (uint32_t)(((int64_t)n - 1) / ((int64_t)threads * each)) + 1;
    double rate = 1, unused = 0;
    uint64_t seed, offset;
    gems_random_map1 map = {.ndim = 1, .n = n};
    GEMS_TRY(call->host->philox(call, generator_of(call, 3), (uint64_t)rounds * 4, &seed, &offset));
    void *args[] = {&noise, &n, &seed, &offset, &threads, &rounds, &rate, &unused, &map};
    return gems_random_launch(call, plan, (int64_t)threads * rounds,
                              info->fast ? 8192 : GEMS_RANDOM_THREADS * 4, args);
}

static gems_status race(gems_call *call, draw *d) {
    const gems_plan *fill, *pick;
    gems_key key = {.kernel = GEMS_FILL_RANDOM}, second = {.kernel = GEMS_PICK};
    void *noise, *data = NULL, *p = d->p->data;
    if (call->device_type != GEMS_CPU)
        return gems_decline("probabilities that cannot be looked at");
    if (d->samples > PICK_MOST) return gems_decline("more samples than one race gives");
    if (!rows_are_fair(d)) return gems_decline("no probabilities");
    key.dtype[0] = second.dtype[0] = d->p->dtype;
    key.tune[0] = 1;
    GEMS_TRY(gems_call_plan(call, &key, &fill));
    GEMS_TRY(gems_call_plan(call, &second, &pick));
    GEMS_TRY(output_of(call, d));
    data = call->out[0].data;
    GEMS_TRY(gems_scratch(call, (size_t)d->p->numel * gems_dtype_size(d->p->dtype), &noise));
    GEMS_TRY(draw_noise(call, d, fill, noise));
    void *args[] = {&data, &p, &noise, &d->columns, &d->along, &d->across, &d->samples};
    return launch(call, pick, PICK_RACE, d->rows, GEMS_RANDOM_THREADS, args);
}

static gems_status search(gems_call *call, draw *d) {
    const gems_plan *plan;
    gems_key key = {.kernel = GEMS_PICK};
    void *sums, *p = d->p->data;
    if (d->rows > 65535) return gems_decline("more rows than ATen's grid has");
    if (call->device_type == GEMS_CPU && !rows_are_fair(d)) return gems_decline("no probabilities");
    key.dtype[0] = d->p->dtype;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    GEMS_TRY(output_of(call, d));
    GEMS_TRY(gems_scratch(call, (size_t)d->p->numel * sizeof(double), &sums));
    uint64_t seed, offset;
    GEMS_TRY(call->host->philox(call, generator_of(call, 3), 4, &seed, &offset));
    void *first[] = {&sums, &p, &d->columns, &d->along, &d->across};
    GEMS_TRY(launch(call, plan, PICK_SUMS, d->rows, GEMS_RANDOM_THREADS, first));
    void *data = call->out[0].data;
    const gems_device_info *info = gems_device_information(call->device);
    int64_t groups = (d->samples + 127) / 128, items = d->rows * groups * (info->fast ? 2 : 128);
    void *second[] = {&data, &sums, &d->columns, &d->rows, &d->samples, &seed, &offset};
    return launch(call, plan, PICK_SEARCH,
                  gems_grid_for(info, items, info->fast ? 16 : GEMS_RANDOM_THREADS),
                  GEMS_RANDOM_THREADS, second);
}

gems_status gems_run_multinomial(gems_call *call) {
    draw d = {.p = gems_arg_tensor(call, 0), .samples = gems_arg_int(call, 1)};
    bool replaced = gems_arg_int(call, 2);
    if (!d.p || !(GEMS_BIT(d.p->dtype) & GEMS_FLOAT_MASK)) return gems_decline("the dtype");
    if (d.p->ndim < 1 || d.p->ndim > 2) return gems_decline("neither a row nor rows");
    bool flat = d.p->ndim == 1;
    d.rows = flat ? 1 : d.p->sizes[0];
    d.columns = d.p->sizes[!flat];
    d.along = flat ? 0 : d.p->strides[0];
    d.across = d.p->strides[!flat];
    if (d.samples <= 0 || !d.columns || (!replaced && d.samples > d.columns) || d.columns > 1 << 24)
        return gems_decline("the number of samples");
    if (!d.rows) return gems_decline("no row");
    if (d.samples * d.rows >= INT32_MAX || gems_random_too_large(call, d.p))
        return gems_decline("more than the kernel's index");
    return replaced && d.samples > 1 ? search(call, &d) : race(call, &d);
}

/* ---- randperm ---- */

gems_status gems_run_randperm(gems_call *call) {
    const gems_entry *entry = call->entry;
    const gems_device_info *info = gems_device_information(call->device);
    bool own = call->op->mode & GEMS_RANDOM_LIKE; /* a generator stands before the options */
    int options = own ? 2 : 1, dtype;
    int64_t n = gems_arg_int(call, 0);
    gems_value largest = {.kind = GEMS_INT, .i = n};
    if (entry->variant == GEMS_OUT) {
        const gems_tensor *out = gems_arg_tensor(call, entry->out_arg);
        if (!out) return gems_decline("out is no tensor");
        dtype = out->dtype;
    } else {
        dtype =
            gems_arg_none(call, options) ? gems_default_dtype() : (int)gems_arg_int(call, options);
        if (!gems_plain_options(call, options + 1))
            return gems_decline("another layout or device, or pinned memory");
    }
    if (n < 0 || n >= 1 << 28) return gems_decline("a count that is negative or too large");
    if (dtype >= GEMS_DTYPES || !(GEMS_BIT(dtype) & GEMS_REAL_MASK) ||
        !gems_number_fits(&largest, dtype) || (dtype == GEMS_F16 && n > 2048) ||
        (dtype == GEMS_BF16 && n > 256) || (dtype == GEMS_F32 && n > 1 << 24))
        return gems_decline("a dtype that does not hold the count");
    gems_key key = {.kernel = GEMS_PERMUTE, .flags = info->fast};
    const gems_plan *plan;
    key.dtype[0] = (uint8_t)dtype;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    GEMS_TRY(gems_output(call, 0, 1, &n, NULL, dtype));
    const gems_tensor *out = &call->out[0];
    if (n > 1 && out->strides[0] != 1) return gems_decline("an output of these strides");
    if (!n) return GEMS_OK;

    gems_radix r = {.n = (int32_t)n, .most = (1 << 30) - 1};
    void *room, *data = out->data;
    uint64_t seed, offset;
    size_t cells = info->fast ? PERM_GAPS : gems_radix_cells(n);
    GEMS_TRY(gems_scratch(call, 4 * (4 * (size_t)n + cells), &room));
    void *generator = own ? generator_of(call, 1) : NULL;
    GEMS_TRY(call->host->philox(call, generator, 8, &seed, &offset));
    if (info->fast) {
        void *args[] = {&data, &room, &r.n, &seed, &offset};
        return launch(call, plan, 0, 1, 1, args);
    }
    for (int i = 0; i < 2; i++) {
        r.keys[i] = (int32_t *)room + i * n;
        r.positions[i] = (int32_t *)room + (2 + i) * n;
    }
    r.counts = (int32_t *)room + 4 * n;
    void *first[] = {&r.keys[0], &r.positions[0], &r.n, &seed, &offset};
    GEMS_TRY(launch(call, plan, PERM_KEYS, gems_grid_for(info, (n + 3) / 4, GEMS_RANDOM_THREADS),
                    GEMS_RANDOM_THREADS, first));
    GEMS_TRY(gems_radix_sort(call, plan, PERM_COUNT, &r));
    void *last[] = {&data, &r.keys[r.which], &r.positions[r.which], &r.n, &seed, &offset};
    return launch(call, plan, PERM_SHUFFLE, gems_grid_for(info, n, GEMS_RANDOM_THREADS),
                  GEMS_RANDOM_THREADS, last);
}

/* ---- programs ---- */

gems_status gems_pick_program(const gems_key *key, gems_program *program) {
    static const char *const picks[] = {"race", "running_sums", "search"};
    static const char *const sorts[] = {"permutation_keys", "radix_clear", "radix_count",
                                        "radix_place", "permutation_shuffle"};
    if (key->kernel == GEMS_PICK) {
        for (int i = 0; i < 3; i++) program->entries[i] = picks[i];
        program->entry_count = 3;
        program->files[1] = "random_pick.cu";
        return GEMS_OK;
    }
    if (key->flags) { /* one thread sorts */
        program->files[1] = "permutation.cu";
        program->entries[0] = "permutation_fast";
        program->entry_count = 1;
        return GEMS_OK;
    }
    gems_radix_head(program);
    program->files[1] = "lookback.cuh";
    program->files[2] = "radix.cuh";
    program->files[3] = "permutation.cu";
    for (int i = 0; i < 5; i++) program->entries[i] = sorts[i];
    program->entry_count = 5;
    return GEMS_OK;
}
