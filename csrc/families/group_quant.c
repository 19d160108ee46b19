/* Groups of elements rounded to fp8 with a scale each. Twin of kernels/group_quant.cu. */
#include <stdio.h>
#include <string.h>

#include "pack.h"
#include "token_rows.h"

enum { THREADS = 128, WARP = 32 };
enum { POWERS = 1 }; /* key->flags: scales are powers of two */
enum { FROM, TO };   /* key->dtype */
enum {
    EACH,
    LANES,
    HELD
}; /* key->tune: elements of an item, threads of a group, items that a thread holds; 0: none */

typedef struct request {
    const gems_tensor *x;
    int64_t size, groups; /* of a row: elements of a group, groups */
    int64_t rows;
    double eps;
    int to;
    bool columns, powers;
} request;

static gems_status read(const gems_call *call, request *r) {
    const gems_tensor *x = gems_arg_tensor(call, 0);
    if (!x || x->ndim < 1) return gems_decline("x is a tensor of at least one dimension");
    if (!(call->op->dtypes & GEMS_BIT(x->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    int64_t n = x->sizes[x->ndim - 1];
    *r = (request){.x = x,
                   .size = gems_arg_int(call, 1),
                   .eps = gems_arg_double(call, 2),
                   .to = gems_arg_none(call, 3) ? GEMS_F8E4M3 : (int)gems_arg_int(call, 3),
                   .columns = gems_arg_int(call, 4) != 0,
                   .powers = gems_arg_int(call, 5) != 0};
    if (r->size < 1 || r->size > 1 << 24 || n % r->size)
        return gems_decline("group_size does not divide the last dimension");
    if (r->to != GEMS_F8E4M3 && r->to != GEMS_F8E5M2) return gems_decline("dtype of the result");
    r->groups = n / r->size;
    r->rows = n ? x->numel / n : 0;
    if (r->rows * r->groups > INT32_MAX - (1 << 24))
        return gems_decline("more groups than are counted");
    return GEMS_OK;
}

static gems_status make_outputs(gems_call *call, const request *r) {
    int64_t sizes[GEMS_MAX_DIMS], strides[GEMS_MAX_DIMS];
    int last = r->x->ndim - 1;
    memcpy(sizes, r->x->sizes, (size_t)r->x->ndim * sizeof *sizes);
    GEMS_TRY(gems_output(call, 0, r->x->ndim, sizes, NULL, r->to));
    sizes[last] = r->groups;
    if (!r->columns) return gems_output(call, 1, r->x->ndim, sizes, NULL, GEMS_F32);
    gems_contiguous_strides(sizes, last, strides);
    strides[last] = 1;
    for (int d = 0; d < last; d++) strides[last] *= sizes[d] > 1 ? sizes[d] : 1;
    return gems_output(call, 1, r->x->ndim, sizes, strides, GEMS_F32);
}

static void fill_key(const gems_device_info *info, int64_t size, bool aligned, gems_key *key) {
    int each = aligned && size % 16 == 0 ? 16 : 1, lanes = 1;
    if (info->fast) {
        key->tune[EACH] = key->tune[LANES] = 1;
        return;
    }
    int64_t items = size / each;
    while (lanes < WARP && 2 * lanes <= items) lanes *= 2;
    int64_t held = (items + lanes - 1) / lanes;
    key->tune[EACH] = (uint8_t)each;
    key->tune[LANES] = (uint8_t)lanes;
    key->tune[HELD] = (uint8_t)(held * each <= 32 ? held : 0);
}

static gems_status run(gems_call *call) {
    request r;
    GEMS_TRY(read(call, &r));
    GEMS_TRY(make_outputs(call, &r));
    if (!r.x->numel) return GEMS_OK;
    const gems_device_info *info = gems_device_information(call->device);
    const void *x;
    GEMS_TRY(gems_pack(call, r.x, &x));
    void *q = call->out[0].data, *scales = call->out[1].data;
    gems_key key = {.dtype = {r.x->dtype, (uint8_t)r.to}, .flags = r.powers ? POWERS : 0};
    fill_key(info, r.size, (uintptr_t)x % 16 == 0 && (uintptr_t)q % 16 == 0, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t groups = (int32_t)(r.rows * r.groups), size = (int32_t)r.size;
    int64_t row_step = r.columns ? 1 : r.groups, column_step = r.columns ? r.rows : 1;
    gems_fastdiv in_row = gems_fastdiv_make((uint32_t)r.groups);
    float eps = (float)r.eps;
    void *args[] = {&x, &q, &scales, &groups, &size, &in_row, &row_step, &column_step, &eps};
    int64_t per_block = info->fast ? 8192 / r.size + 1 : THREADS / key.tune[LANES];
    const uint32_t grid[3] = {gems_grid_for(info, groups, per_block), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    if (key->kernel == GEMS_PACK_KERNEL) return gems_pack_program(key, program);
    const char *from = gems_dtype_kernel(key->dtype[FROM]), *to = gems_dtype_kernel(key->dtype[TO]);
    if (!from || !to) return gems_fail(GEMS_RUNTIME_ERROR, "not a key of group_quant");
    gems_text_add(&program->head, "typedef %s T;\ntypedef %s Q;\n", from, to);
    gems_text_add(&program->head, "constexpr bool kPowers = %d;\n", key->flags & POWERS);
    gems_text_add(&program->head,
                  "constexpr int kEach = %d, kTeam = %d, kHeld = %d, kThreads = %d;\n",
                  key->tune[EACH], key->tune[LANES], key->tune[HELD], THREADS);
    snprintf(program->name, sizeof program->name, "%.*s %s to %s%s", (int)strcspn(op->schema, "("),
             op->schema, gems_dtype_name(key->dtype[FROM]), gems_dtype_name(key->dtype[TO]),
             key->flags & POWERS ? " powers of two" : "");
    program->files[0] = "saturate.cuh";
    program->files[1] = "group_quant.cu";
    program->entries[0] = "group_quant";
    program->entry_count = 1;
    return GEMS_OK;
}

/* Groups of 128 and 64, with either kind of scales. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    (void)op;
    if (i >= (info->fast ? 2 : 4)) return false;
    key->dtype[FROM] = (uint8_t)dtype;
    key->dtype[TO] = GEMS_F8E4M3;
    key->flags = i & 1 ? POWERS : 0;
    fill_key(info, i & 2 ? 64 : 128, true, key);
    return true;
}

const gems_family gems_family_group_quant = {
    .name = "group_quant", .run = run, .program = program, .warm = warm};
