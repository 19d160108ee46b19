/* Rows of tokens written to the slots of a cache of blocks: keys and values, or both parts of a
 * latent row, in one launch. Twin of kernels/kv_cache.cu. */
#include <stdio.h>
#include <string.h>

#include "modes.h"
#include "token_rows.h"

enum { THREADS = 128 };
enum { WIDE = 1, INDEX32 = 2, SCALED = 4 }; /* key->flags */
enum { FROM, TO };                          /* key->dtype */
enum { VECTOR };                            /* key->tune */

/* One tensor of rows and where its elements go: element d of a head lies at d / run * group + d %
 * run behind the head's start. Twin of Part in the kernel. */
typedef struct part {
    int64_t from_token, from_head, from_step;
    int64_t block, slot, head, group;
    int32_t heads, size, run, units; /* units: items of a token */
    gems_fastdiv in_units, in_head, in_run;
    float scale_value;
    int32_t whole; /* items are whole vectors in the cache too */
} part;

/* Twin of Cache in the kernel. */
typedef struct cache {
    part part[2];
    int64_t first; /* items of part 0 */
    int64_t items, tokens, slot_step, slots;
    gems_fastdiv in_tokens, in_block;
} cache;

typedef struct request {
    const gems_tensor *from[2], *to[2], *place;
    int64_t blocks, block_size;
    int stored;                         /* the dtype that elements are stored in */
    const void *source[2], *divisor[2]; /* divisor NULL: scale_value */
    void *target[2];
    cache c;
} request;

static gems_status read_format(const gems_call *call, int arg, int cache_dtype, request *r) {
    const char *word = call->args[arg].kind == GEMS_STRING ? call->args[arg].s : "";
    int wanted = !strcmp(word, "auto")                               ? cache_dtype
                 : !strcmp(word, "fp8") || !strcmp(word, "fp8_e4m3") ? GEMS_F8E4M3
                 : !strcmp(word, "fp8_e5m2")                         ? GEMS_F8E5M2
                                                                     : GEMS_NO_DTYPE;
    if (wanted == GEMS_NO_DTYPE)
        return gems_decline("a kv_cache_dtype that the kernel does not know");
    if (strcmp(word, "auto") && cache_dtype != GEMS_U8 && cache_dtype != wanted)
        return gems_decline("an fp8 cache is of uint8, or of the dtype itself");
    if (!(GEMS_FLOAT_MASK & GEMS_BIT(wanted % GEMS_DTYPES)) && !strcmp(word, "auto"))
        return gems_decline("dtype of the cache");
    r->stored = wanted;
    return GEMS_OK;
}

/* The factor that part i is divided by. */
static gems_status read_scale(const gems_call *call, int i, int arg, request *r) {
    const gems_tensor *t = gems_arg_tensor(call, arg);
    part *p = &r->c.part[i];
    r->divisor[i] = NULL;
    p->scale_value = 1;
    if (!t || !gems_dtype_is_float(r->stored) || gems_dtype_size(r->stored) != 1) return GEMS_OK;
    if (t->numel != 1) return gems_decline("a scale of several elements");
    if (t->device_type == GEMS_CPU) {
        gems_value number;
        gems_tensor one = *t;
        one.ndim = 0;
        if (!gems_load_number(&one, &number) || number.kind == GEMS_COMPLEX)
            return gems_decline("dtype of a scale");
        p->scale_value = number.kind == GEMS_FLOAT ? (float)number.f : (float)number.i;
        return GEMS_OK;
    }
    if (t->dtype != GEMS_F32) return gems_decline("dtype of a scale");
    r->divisor[i] = t->data;
    return GEMS_OK;
}

/* Rows [tokens, heads, size] or [tokens, size]. */
static void set_source(part *p, const gems_tensor *t) {
    bool headed = t->ndim == 3;
    p->heads = headed ? (int32_t)t->sizes[1] : 1;
    p->size = (int32_t)t->sizes[t->ndim - 1];
    p->from_token = t->strides[0];
    p->from_head = headed ? t->strides[1] : 0;
    p->from_step = p->size > 1 ? t->strides[t->ndim - 1] : 1;
}

/* The dims of a cache: block, slot within it, head (-1: none), group or element of a head. */
static void set_target(part *p, const gems_tensor *t, int slot, int head, int group, int64_t run) {
    p->block = t->strides[0];
    p->slot = t->strides[slot];
    p->head = head < 0 ? 0 : t->strides[head];
    p->group = t->strides[group];
    p->run = (int32_t)run;
    if (run == 1 && (p->group == 1 || p->size == 1)) { /* elements side by side are one run */
        p->run = p->size > 0 ? p->size : 1;
        p->group = 0;
    }
}

static bool fits(const gems_tensor *t, int ndim, const int64_t *sizes) {
    return t->ndim == ndim && !memcmp(t->sizes, sizes, (size_t)ndim * sizeof *sizes);
}

static gems_status read_pair(request *r, bool paged) {
    const gems_tensor *key = r->from[0], *value = r->from[1];
    const gems_tensor *keys = r->to[0], *values = r->to[1];
    if (key->ndim != 3 || value->ndim != 3)
        return gems_decline("key and value are [tokens, heads, size]");
    int64_t heads = key->sizes[1], size = key->sizes[2];
    if (value->sizes[1] != heads || value->sizes[0] != key->sizes[0])
        return gems_decline("key and value differ in tokens or heads");
    if (keys->dtype != values->dtype) return gems_decline("caches of different dtypes");
    if (keys->ndim < 4) return gems_decline("rank of key_cache");
    r->blocks = keys->sizes[0];
    set_source(&r->c.part[0], key);
    set_source(&r->c.part[1], value);
    if (paged) {
        if (keys->ndim != 5)
            return gems_decline("key_cache is [blocks, heads, size / x, block, x]");
        int64_t x = keys->sizes[4];
        r->block_size = keys->sizes[3];
        if (keys->sizes[1] != heads || keys->sizes[2] * x != size || x < 1)
            return gems_decline("key_cache does not fit key");
        if (x > 1 && keys->strides[4] != 1) return gems_decline("strided groups in key_cache");
        if (!fits(values, 4, (int64_t[]){r->blocks, heads, value->sizes[2], r->block_size}))
            return gems_decline("value_cache does not fit value");
        set_target(&r->c.part[0], keys, 3, 1, 2, x);
        set_target(&r->c.part[1], values, 3, 1, 2, 1);
        return GEMS_OK;
    }
    r->block_size = keys->sizes[1];
    if (!fits(keys, 4, (int64_t[]){r->blocks, r->block_size, heads, size}) ||
        !fits(values, 4, (int64_t[]){r->blocks, r->block_size, heads, value->sizes[2]}))
        return gems_decline("caches are [blocks, block, heads, size]");
    set_target(&r->c.part[0], keys, 1, 2, 3, 1);
    set_target(&r->c.part[1], values, 1, 2, 3, 1);
    return GEMS_OK;
}

static gems_status read_latent(request *r) {
    const gems_tensor *latent = r->from[0], *rope = r->from[1], *to = r->to[0];
    if (latent->ndim != 2 || rope->ndim != 2 || latent->sizes[0] != rope->sizes[0])
        return gems_decline("kv_c and k_pe are [tokens, size]");
    if (to->ndim != 3 || to->sizes[2] != latent->sizes[1] + rope->sizes[1])
        return gems_decline("kv_cache is [blocks, block, size of kv_c and k_pe]");
    r->blocks = to->sizes[0];
    r->block_size = to->sizes[1];
    for (int i = 0; i < 2; i++) {
        set_source(&r->c.part[i], r->from[i]);
        set_target(&r->c.part[i], to, 1, -1, 2, 1);
    }
    r->target[1] =
        (char *)to->data + (size_t)(latent->sizes[1] * to->strides[2]) * gems_dtype_size(to->dtype);
    return GEMS_OK;
}

static gems_status read(const gems_call *call, request *r) {
    int mode = call->op->mode, last = mode == GEMS_CACHE_LATENT ? 2 : 3;
    *r = (request){.from = {gems_arg_tensor(call, 0), gems_arg_tensor(call, 1)},
                   .to = {gems_arg_tensor(call, 2), gems_arg_tensor(call, last)},
                   .place = gems_arg_tensor(call, last + 1)};
    if (!r->from[0] || !r->from[1] || !r->to[0] || !r->to[1] || !r->place)
        return gems_decline("rows, caches and slot_mapping are tensors");
    if (r->from[0]->dtype != r->from[1]->dtype) return gems_decline("rows of different dtypes");
    if (!(call->op->dtypes & GEMS_BIT(r->from[0]->dtype % GEMS_DTYPES)))
        return gems_decline("dtype");
    if (r->place->ndim != 1 || (r->place->dtype != GEMS_I32 && r->place->dtype != GEMS_I64))
        return gems_decline("slot_mapping is a vector of int32 or int64");
    if (r->from[0]->ndim < 2) return gems_decline("rank of the rows");
    if (r->place->numel > r->from[0]->sizes[0]) return gems_decline("more slots than tokens");
    for (int i = 0; i < 2; i++)
        for (int d = 1; d < r->from[i]->ndim; d++)
            if (r->from[i]->sizes[d] > 1 << 24) return gems_decline("rows of this size");
    for (int i = 0; i < 2; i++) {
        r->source[i] = r->from[i]->data;
        r->target[i] = r->to[i]->data;
    }
    GEMS_TRY(read_format(call, last + 2, r->to[0]->dtype, r));
    GEMS_TRY(mode == GEMS_CACHE_LATENT ? read_latent(r) : read_pair(r, mode == GEMS_CACHE_PAGED));
    for (int i = 0; i < 2; i++)
        GEMS_TRY(read_scale(call, i, last + 3 + (mode == GEMS_CACHE_LATENT ? 0 : i), r));
    if (r->block_size > INT32_MAX || r->place->numel > INT32_MAX)
        return gems_decline("blocks of this size");
    r->c.tokens = r->place->numel;
    r->c.slot_step = r->c.tokens > 1 ? r->place->strides[0] : 1;
    r->c.slots = r->blocks * r->block_size;
    return GEMS_OK;
}

/* On a CPU slots are looked at before anything is written; on a GPU the kernel asserts. */
static gems_status check_slots(const gems_call *call, const request *r) {
    if (call->device_type != GEMS_CPU) return GEMS_OK;
    for (int64_t i = 0; i < r->c.tokens; i++) {
        int64_t slot = gems_place_at(r->place, i * r->c.slot_step);
        if (slot >= r->c.slots)
            return gems_fail(GEMS_INDEX_ERROR, "%s: slot %lld is out of range of a cache with %lld",
                             call->entry->qualified, (long long)slot, (long long)r->c.slots);
    }
    return GEMS_OK;
}

/* Heads that lie one behind another on both sides are one long head. */
static void merge_heads(part *p) {
    if (p->heads <= 1 || p->from_step != 1 || p->run != p->size || p->from_head != p->size ||
        p->head != p->size || (int64_t)p->heads * p->size > 1 << 24)
        return;
    p->size *= p->heads;
    p->run = p->size;
    p->heads = 1;
}

static int narrower(int a, int b) { return a < b ? a : b; }

/* Elements of an item: as many as one access has on the side of the smaller dtype. */
static int vector_of(const request *r) {
    int from = 16 / (int)gems_dtype_size(r->from[0]->dtype),
        to = 16 / (int)gems_dtype_size(r->stored);
    int vector = from > to ? from : to;
    for (int i = 0; i < 2; i++) {
        const part *p = &r->c.part[i];
        if (p->from_step != 1) return 1;
        vector = gems_vector_for(vector, p->size);
        int piece = narrower(vector, from);
        int fit =
            gems_vector_for(gems_vector_for(piece, p->from_token), p->heads > 1 ? p->from_head : 0);
        fit = gems_vector_at(fit, r->source[i], gems_dtype_size(r->from[0]->dtype));
        if (fit < piece) vector = fit;
    }
    return vector;
}

static void set_items(request *r, int vector) {
    size_t size = gems_dtype_size(r->stored);
    int64_t items[2];
    for (int i = 0; i < 2; i++) {
        part *p = &r->c.part[i];
        int piece = narrower(vector, 16 / (int)size), fit = gems_vector_for(piece, p->block);
        fit = gems_vector_for(gems_vector_for(fit, p->slot), p->heads > 1 ? p->head : 0);
        fit = gems_vector_at(gems_vector_for(fit, p->group), r->target[i], size);
        p->whole = fit == piece && p->run % vector == 0 && (p->run > 1 || p->size <= 1);
        p->units = p->heads * (p->size / vector);
        p->in_units = gems_fastdiv_make(p->units ? (uint32_t)p->units : 1);
        p->in_head = gems_fastdiv_make(p->size ? (uint32_t)(p->size / vector) : 1);
        p->in_run = gems_fastdiv_make((uint32_t)p->run);
        items[i] = r->c.tokens * p->units;
    }
    r->c.first = items[0];
    r->c.items = items[0] + items[1];
    r->c.in_tokens = gems_fastdiv_make(r->c.tokens ? (uint32_t)r->c.tokens : 1);
    r->c.in_block = gems_fastdiv_make(r->block_size ? (uint32_t)r->block_size : 1);
}

static gems_status run(gems_call *call) {
    request r;
    GEMS_TRY(read(call, &r));
    GEMS_TRY(check_slots(call, &r));
    int caches = call->op->mode == GEMS_CACHE_LATENT ? 1 : 2;
    for (int i = 0; i < caches; i++) GEMS_TRY(gems_claim(call, i, 2 + i));
    if (!r.c.tokens) return GEMS_OK;
    const gems_device_info *info = gems_device_information(call->device);
    for (int i = 0; i < 2; i++) merge_heads(&r.c.part[i]);
    int vector = info->fast ? 1 : vector_of(&r);
    set_items(&r, vector);
    bool wide = r.c.items >= INT32_MAX - (1 << 24);
    gems_key key = {.dtype = {r.from[0]->dtype, (uint8_t)r.stored}};
    key.flags = (uint8_t)((wide ? WIDE : 0) | (r.place->dtype == GEMS_I32 ? INDEX32 : 0) |
                          (gems_dtype_size(r.stored) == 1 ? SCALED : 0));
    key.tune[VECTOR] = (uint8_t)vector;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    const void *place = r.place->data;
    int64_t per_block = THREADS, items = r.c.items;
    if (info->fast) {
        items = r.c.tokens;
        per_block = 4096 / (r.c.items / items + 1) + 1;
    }
    void *args[] = {&r.source[0], &r.source[1], &r.divisor[0], &r.divisor[1],
                    &place,       &r.target[0], &r.target[1],  &r.c};
    const uint32_t grid[3] = {r.c.items ? gems_grid_for(info, items, per_block) : 0, 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    const char *from = gems_dtype_kernel(key->dtype[FROM]), *to = gems_dtype_kernel(key->dtype[TO]);
    if (!from || !to) return gems_fail(GEMS_RUNTIME_ERROR, "not a key of kv_cache");
    gems_text_add(&program->head, "typedef %s From;\ntypedef %s To;\n", from, to);
    gems_text_add(&program->head, "typedef %s Index;\ntypedef %s Int;\n",
                  key->flags & WIDE ? "int64_t" : "int32_t",
                  key->flags & INDEX32 ? "int32_t" : "int64_t");
    gems_text_add(&program->head,
                  "constexpr bool kScaled = %d;\nconstexpr int kV = %d, kThreads = %d;\n",
                  (key->flags & SCALED) != 0, key->tune[VECTOR], THREADS);
    snprintf(program->name, sizeof program->name, "%.*s %s to %s%s", (int)strcspn(op->schema, "("),
             op->schema, gems_dtype_name(key->dtype[FROM]), gems_dtype_name(key->dtype[TO]),
             key->tune[VECTOR] > 1 ? " vectors" : "");
    program->files[0] = "saturate.cuh";
    program->files[1] = "kv_cache.cu";
    program->entries[0] = "kv_cache";
    program->entry_count = 1;
    return GEMS_OK;
}

/* Into a cache of the rows' dtype, of e4m3 and of e5m2. */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    static const uint8_t stored[] = {0, GEMS_F8E4M3, GEMS_F8E5M2};
    (void)op;
    if (i >= (dtype == GEMS_F64 ? 1 : 3)) return false;
    key->dtype[FROM] = (uint8_t)dtype;
    key->dtype[TO] = i ? stored[i] : (uint8_t)dtype;
    key->flags = i ? SCALED : 0;
    key->tune[VECTOR] = (uint8_t)(info->fast ? 1 : 16 / (i ? 1 : (int)gems_dtype_size(dtype)));
    return true;
}

const gems_family gems_family_kv_cache = {
    .name = "kv_cache", .run = run, .program = program, .warm = warm};
