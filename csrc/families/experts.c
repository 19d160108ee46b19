/* What a mixture of experts is served with: which experts a token has (kernels/topk_softmax.cu),
 * and the tokens of each expert in whole blocks (kernels/moe_align.cu).
 *
 * Nothing is read back: the number of blocks in use stays on the device. */
#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"
#include "gather.h"
#include "modes.h"

enum { TOPK = GEMS_COPY_END, ALIGN };
enum { ONE, COUNT, SCAN, PLACE };                         /* kernels of ALIGN */
enum { FAST = 1 };                                        /* gems_key.flags */
enum { TUNE_PER, TUNE_VECTOR, TUNE_GROUP, TUNE_EXPERTS }; /* log2, but the vector */

#define THREADS      256
#define SCAN_THREADS 1024
#define TILE         2048 /* pairs of a block */
#define WARP_MOST    512  /* logits of a token that a warp takes */
#define BLOCK_MOST   4096 /* that a block takes */
#define EXPERTS_MOST 1024 /* of ALIGN: counts of a block's warps lie in shared memory */
#define FAST_MOST    4096 /* of it, in the fast mode */

static int log2_up(int64_t n) {
    int bits = 0;
    while ((INT64_C(1) << bits) < n) bits++;
    return bits;
}

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int64_t blocks,
                          uint32_t threads, void **args) {
    bool fast = gems_device_information(call->device)->fast;
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {fast ? 1 : threads, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, 0, args);
}

/* The dtype of output i: of the tensor given where it is among those of a mask, else the usual one.
 */
static int out_dtype(const gems_call *call, int i, uint64_t mask, int usual) {
    if (call->entry->variant != GEMS_OUT) return usual;
    const gems_value *out = &call->args[call->entry->out_arg + i];
    bool taken = out->kind == GEMS_TENSOR && out->t.dtype < GEMS_DTYPES && mask >> out->t.dtype & 1;
    return taken ? out->t.dtype : usual;
}

/* ---- topk_softmax ---- */

static void topk_tune(gems_key *key, int64_t width, int size, bool aligned, bool fast) {
    int vector = fast ? 1 : 16 / size;
    while (vector > 1 && (!aligned || width % vector || width <= 32 * vector / 2)) vector /= 2;
    bool warp = width <= WARP_MOST;
    int threads = fast ? 1 : warp ? 32 : THREADS;
    int per = log2_up((width + threads - 1) / threads);
    key->tune[TUNE_PER] = (uint8_t)((1 << per) < vector ? log2_up(vector) : per);
    key->tune[TUNE_VECTOR] = (uint8_t)vector;
    key->tune[TUNE_GROUP] = warp ? 5 : 8;
}

static gems_status run_topk(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *logits = gems_arg_tensor(call, 0);
    int64_t k = gems_arg_int(call, 1);
    if (!logits || logits->ndim != 2) return gems_decline("gating_output is no matrix");
    if (logits->dtype >= GEMS_DTYPES || !(call->op->dtypes & GEMS_BIT(logits->dtype)))
        return gems_decline("the dtype of gating_output");
    int64_t tokens = logits->sizes[0], width = logits->sizes[1], sizes[2] = {tokens, k};
    if (k < 0 || k > width) return gems_decline("more experts for a token than there are");
    if (width > BLOCK_MOST) return gems_decline("more experts than the kernel takes");
    if (tokens * (k + 1) >= INT32_MAX) return gems_decline("more tokens than places count");
    const uint64_t ints = GEMS_BIT(GEMS_I32) | GEMS_BIT(GEMS_I64) | GEMS_BIT(GEMS_U32);
    gems_key key = {.kernel = TOPK};
    key.dtype[0] = logits->dtype;
    key.dtype[1] = (uint8_t)out_dtype(call, 0, call->op->dtypes, GEMS_F32);
    key.dtype[2] = (uint8_t)out_dtype(call, 1, ints, GEMS_I32);
    key.dtype[3] = (uint8_t)out_dtype(call, 2, ints, GEMS_I32);
    for (int i = 0; i < 3; i++) GEMS_TRY(gems_output(call, i, 2, sizes, NULL, key.dtype[1 + i]));
    if (!call->out[0].numel) return GEMS_OK;
    void *from;
    const gems_plan *plan;
    GEMS_TRY(gems_gather_contiguous(call, logits, &from));
    topk_tune(&key, width, (int)gems_dtype_size(logits->dtype), (uintptr_t)from % 16 == 0,
              info->fast);
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t columns = (int32_t)width, wanted = (int32_t)k;
    void *args[] = {
        &from,  &call->out[0].data, &call->out[1].data, &call->out[2].data, &tokens, &columns,
        &wanted};
    int64_t group = info->fast ? 16384 / width + 1 : THREADS >> key.tune[TUNE_GROUP];
    return launch(call, plan, 0, gems_grid_for(info, tokens, group), THREADS, args);
}

/* ---- moe_align_block_size ---- */

/* Twin of Align in kernels/moe_align.cu. */
typedef struct {
    const void *ids, *map;
    void *sorted, *experts_of, *padded;
    int64_t places, blocks;
    int32_t n, experts, size;
} align;

/* Sizes of the outputs: those of the tensors given; else the places that are enough for any ids. */
static gems_status align_sizes(const gems_call *call, const align *a, int64_t sizes[3]) {
    if (call->entry->variant == GEMS_OUT) {
        for (int i = 0; i < 3; i++) {
            const gems_value *out = &call->args[call->entry->out_arg + i];
            if (out->kind != GEMS_TENSOR || out->t.ndim != 1)
                return gems_decline("an output is no vector");
            sizes[i] = out->t.sizes[0];
        }
        return sizes[2] ? GEMS_OK : gems_decline("no room for the number of places");
    }
    sizes[0] = a->n + (int64_t)a->experts * (a->size - 1);
    sizes[1] = (sizes[0] + a->size - 1) / a->size;
    sizes[2] = 1;
    if (gems_arg_int(call, 4)) sizes[0] = sizes[1] * a->size;
    return sizes[0] < INT32_MAX ? GEMS_OK : gems_decline("more places than the kernels count");
}

static gems_status run_align(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *ids = gems_arg_tensor(call, 0), *map = gems_arg_tensor(call, 3);
    int64_t experts = gems_arg_int(call, 1), size = gems_arg_int(call, 2), sizes[3];
    if (!ids || ids->dtype >= GEMS_DTYPES || !(call->op->dtypes & GEMS_BIT(ids->dtype)))
        return gems_decline("the dtype of topk_ids");
    if (experts < 1 || experts > (info->fast ? FAST_MOST : EXPERTS_MOST))
        return gems_decline("the number of experts");
    if (size < 1 || size > INT32_MAX / 2 || ids->numel >= INT32_MAX - (1 << 20))
        return gems_decline("the size of blocks or the number of ids");
    int mapped = GEMS_I32;
    if (map) {
        mapped = map->dtype;
        if (map->ndim != 1 || map->sizes[0] < experts || map->device_type != call->device_type ||
            (mapped != GEMS_I32 && mapped != GEMS_I64))
            return gems_decline("expert_map");
    }
    align a = {.n = (int32_t)ids->numel, .experts = (int32_t)experts, .size = (int32_t)size};
    if (a.n + experts * (size - 1) >= INT32_MAX)
        return gems_decline("more places than the kernels count");
    GEMS_TRY(align_sizes(call, &a, sizes));
    gems_key key = {.kernel = ALIGN, .flags = info->fast ? FAST : 0};
    key.dtype[0] = ids->dtype;
    key.dtype[1] = (uint8_t)mapped;
    key.tune[TUNE_EXPERTS] = (uint8_t)(experts <= 64 ? 6 : log2_up(experts));
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    GEMS_TRY(gems_output(call, 0, 1, &sizes[0], NULL, GEMS_I32));
    GEMS_TRY(gems_output(call, 1, 1, &sizes[1], NULL, mapped));
    GEMS_TRY(gems_output(call, 2, 1, &sizes[2], NULL, GEMS_I32));
    void *data = NULL, *numbers = NULL;
    GEMS_TRY(gems_gather_contiguous(call, ids, &data));
    if (map) GEMS_TRY(gems_gather_contiguous(call, map, &numbers));
    a.ids = data;
    a.map = numbers;
    a.sorted = call->out[0].data;
    a.experts_of = call->out[1].data;
    a.padded = call->out[2].data;
    a.places = sizes[0];
    a.blocks = sizes[1];
    int32_t tiles = (a.n + TILE - 1) / TILE;
    void *args[] = {&a, &data, &tiles};
    if (info->fast || tiles <= 1) return launch(call, plan, ONE, 1, THREADS, args);
    GEMS_TRY(gems_scratch(call, (size_t)experts * (size_t)tiles * sizeof(int32_t), &data));
    GEMS_TRY(launch(call, plan, COUNT, tiles, THREADS, args));
    GEMS_TRY(launch(call, plan, SCAN, 1, SCAN_THREADS, args));
    return launch(call, plan, PLACE, tiles, THREADS, args);
}

/* ---- the family ---- */

static gems_status run(gems_call *call) {
    return call->op->mode == GEMS_EXPERTS_TOPK ? run_topk(call) : run_align(call);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    static const char *const entries[] = {"align_one", "align_count", "align_scan", "align_place"};
    if (key->kernel < GEMS_COPY_END) return gems_copy_program(op, key, p);
    if (key->kernel == TOPK) {
        static const char *const names[] = {"T", "W", "I", "J"};
        for (int i = 0; i < 4; i++)
            gems_text_add(&p->head, "typedef %s %s;\n", gems_dtype_kernel(key->dtype[i]), names[i]);
        gems_text_add(&p->head,
                      "constexpr int kPer = %d, kVector = %d, kGroup = gems::kFast ? 1 : %d;\n",
                      1 << key->tune[TUNE_PER], key->tune[TUNE_VECTOR], 1 << key->tune[TUNE_GROUP]);
        p->files[0] = "topk_softmax.cu";
        p->entries[0] = "topk_softmax";
        p->entry_count = 1;
        snprintf(p->name, sizeof p->name, "topk_softmax %s, %d a thread",
                 gems_dtype_name(key->dtype[0]), 1 << key->tune[TUNE_PER]);
        return GEMS_OK;
    }
    gems_text_add(&p->head, "typedef %s Id;\ntypedef %s Mapped;\n",
                  gems_dtype_kernel(key->dtype[0]), gems_dtype_kernel(key->dtype[1]));
    gems_text_add(&p->head, "constexpr int kTile = %d, kExperts = %d;\n", TILE,
                  1 << key->tune[TUNE_EXPERTS]);
    p->files[0] = "moe_align.cu";
    p->entry_count = key->flags & FAST ? 1 : 4;
    for (int i = 0; i < p->entry_count; i++) p->entries[i] = entries[i];
    snprintf(p->name, sizeof p->name, "moe_align_block_size %s, %d experts",
             gems_dtype_name(key->dtype[0]), 1 << key->tune[TUNE_EXPERTS]);
    return GEMS_OK;
}

/* 64, 128, 256 and 512 experts. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    if (i > 3) return false;
    key->dtype[0] = (uint8_t)dtype;
    key->dtype[1] = op->mode == GEMS_EXPERTS_TOPK ? GEMS_F32 : GEMS_I32;
    if (op->mode == GEMS_EXPERTS_TOPK) {
        key->kernel = TOPK;
        key->dtype[2] = key->dtype[3] = GEMS_I32;
        topk_tune(key, 64 << i, (int)gems_dtype_size(dtype), true, info->fast);
    } else {
        key->kernel = ALIGN;
        key->flags = info->fast ? FAST : 0;
        key->tune[TUNE_EXPERTS] = (uint8_t)(6 + i);
    }
    return true;
}

const gems_family gems_family_experts = {
    .name = "experts", .run = run, .program = program, .warm = warm};
