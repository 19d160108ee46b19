/* rotary_embedding: q and k turned by the angles of their positions, in one launch. Twin of
 * kernels/rope.cu. */
#include <stdio.h>
#include <string.h>

#include "modes.h"
#include "token_rows.h"

enum { THREADS = 128 };
enum { INTERLEAVED = 1, INVERSE = 2, WIDE = 4, INDEX32 = 8, PLACED = 16 }; /* key->flags */
enum { DATA, ANGLES };                                                     /* key->dtype */
enum { VECTOR };                                                           /* key->tune */

/* The dims of q or k: batch, place in the sequence, head, and within a head. */
enum { BATCH, PLACE, HEAD, WITHIN, DIMS };

/* Heads that a thread turns: four accesses of 16 bytes are under way. */
static int heads_of(bool interleaved) { return interleaved ? 4 : 2; }

typedef struct side {
    int64_t from[DIMS], to[DIMS]; /* strides */
    int32_t heads, groups;
} side;

/* Twins of Rope<Index> in the kernel. */
#define ROPE(name, index)                                        \
    typedef struct name {                                        \
        index items, from[2][DIMS], to[2][DIMS], rows[2], at[2]; \
        int32_t heads[2], groups[2], half, dim, turning;         \
        gems_fastdiv units, all_groups, seq;                     \
        int64_t positions;                                       \
    } name
ROPE(rope32, int32_t);
ROPE(rope64, int64_t);

typedef struct request {
    const gems_tensor *of[2], *cos, *sin, *place;
    int64_t batch, seq, half, dim, rows[2], at[2]; /* at: strides of place by batch and sequence */
    side side[2];
    bool interleaved, inverse, in_place;
} request;

/* Sizes of the four dims of q or k, and their strides. */
static void dims_of(const gems_tensor *t, const int64_t *values, int64_t missing,
                    int64_t dims[DIMS]) {
    int lead = DIMS - t->ndim;
    for (int d = 0; d < DIMS; d++) dims[d] = d < lead ? missing : values[d - lead];
}

static gems_status read_places(request *r) {
    const gems_tensor *p = r->place;
    r->at[0] = r->at[1] = 0;
    if (!p) return GEMS_OK;
    if (p->dtype != GEMS_I32 && p->dtype != GEMS_I64) return gems_decline("dtype of position_ids");
    if (p->ndim == 2 && p->sizes[1] == r->seq && (p->sizes[0] == r->batch || p->sizes[0] == 1)) {
        r->at[0] = p->sizes[0] == 1 ? 0 : p->strides[0];
        r->at[1] = p->strides[1];
    } else if (p->ndim == 1 && p->sizes[0] == r->seq) {
        r->at[1] = p->strides[0];
    } else if (p->numel == r->batch * r->seq && gems_is_contiguous(p)) {
        r->at[0] = r->seq;
        r->at[1] = 1;
    } else {
        return gems_decline("position_ids of another shape than the tokens");
    }
    return GEMS_OK;
}

static gems_status read(const gems_call *call, request *r) {
    *r = (request){.of = {gems_arg_tensor(call, 0), gems_arg_tensor(call, 1)},
                   .cos = gems_arg_tensor(call, 2),
                   .sin = gems_arg_tensor(call, 3),
                   .place = gems_arg_tensor(call, 4),
                   .interleaved = gems_arg_int(call, 5) != 0,
                   .inverse = call->op->mode & GEMS_ROPE_INVERSE,
                   .in_place = call->op->mode & GEMS_ROPE_INPLACE};
    const gems_tensor *q = r->of[0], *k = r->of[1];
    if (!q || !k || !r->cos || !r->sin) return gems_decline("q, k, cos and sin are tensors");
    if (!(call->op->dtypes & GEMS_BIT(q->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    if (q->dtype != k->dtype) return gems_decline("q and k of different dtypes");
    if ((q->ndim != 3 && q->ndim != 4) || k->ndim != q->ndim)
        return gems_decline("q and k are [batch, sequence, heads, dim] or [tokens, heads, dim]");
    for (int d = 0; d < q->ndim; d++)
        if (d != q->ndim - 2 && q->sizes[d] != k->sizes[d])
            return gems_decline("q and k differ in more than their heads");
    if (r->cos->ndim != 2 || !gems_same_sizes(r->cos, r->sin))
        return gems_decline("cos and sin are [positions, rotary dim / 2]");
    if (r->cos->dtype != r->sin->dtype ||
        !(GEMS_FLOAT_MASK & GEMS_BIT(r->cos->dtype % GEMS_DTYPES)))
        return gems_decline("dtype of cos and sin");
    if ((r->cos->sizes[1] > 1 && r->cos->strides[1] != 1) ||
        (r->sin->sizes[1] > 1 && r->sin->strides[1] != 1))
        return gems_decline("cos or sin with strided rows");
    r->batch = q->ndim == 4 ? q->sizes[0] : 1;
    r->seq = q->sizes[q->ndim - 3];
    r->dim = q->sizes[q->ndim - 1];
    r->half = r->cos->sizes[1];
    if (2 * r->half > r->dim) return gems_decline("a rotary dim beyond the head's");
    if (r->dim > 1 << 24 || r->batch * r->seq > INT32_MAX || r->seq > INT32_MAX)
        return gems_decline("more tokens than the kernel counts");
    for (int i = 0; i < 2; i++) {
        int64_t heads = r->of[i]->sizes[q->ndim - 2];
        if (heads > 1 << 24) return gems_decline("more heads than the kernel counts");
        r->side[i].heads = (int32_t)heads;
        int together = heads_of(r->interleaved);
        r->side[i].groups = (int32_t)((heads + together - 1) / together);
        dims_of(r->of[i], r->of[i]->strides, 0, r->side[i].from);
    }
    r->rows[0] = r->cos->strides[0];
    r->rows[1] = r->sin->strides[0];
    GEMS_TRY(read_places(r));
    if (!r->place && q->numel + k->numel && r->seq > r->cos->sizes[0])
        return gems_decline("a sequence longer than cos and sin");
    return GEMS_OK;
}

/* On a CPU positions are looked at before anything is written; on a GPU the kernel asserts. */
static gems_status check_places(const gems_call *call, const request *r) {
    if (!r->place || call->device_type != GEMS_CPU) return GEMS_OK;
    int64_t batches = r->at[0] ? r->batch : 1;
    for (int64_t b = 0; b < batches; b++)
        for (int64_t s = 0; s < r->seq; s++) {
            int64_t p = gems_place_at(r->place, b * r->at[0] + s * r->at[1]);
            if (p < 0 || p >= r->cos->sizes[0])
                return gems_fail(GEMS_INDEX_ERROR,
                                 "%s: position %lld is out of range of cos and sin with %lld rows",
                                 call->entry->qualified, (long long)p, (long long)r->cos->sizes[0]);
        }
    return GEMS_OK;
}

/* A new result in the memory order of its input, as empty_like. */
static gems_status make_output(gems_call *call, int i, const gems_tensor *t) {
    int64_t strides[GEMS_MAX_DIMS];
    const int64_t *use = t->strides, *const from[1] = {t->strides};
    if (!gems_is_non_overlapping_and_dense(t)) {
        gems_output_strides(t->sizes, t->ndim, from, 1, strides);
        use = strides;
    }
    return gems_output(call, i, t->ndim, t->sizes, use, t->dtype);
}

static bool is_strided(const request *r) {
    for (int i = 0; r->dim > 1 && i < 2; i++)
        if (r->side[i].from[WITHIN] != 1 || r->side[i].to[WITHIN] != 1) return true;
    return false;
}

/* Elements of one access that every row of both tensors, and of cos and sin, allows. */
static int vector_of(const request *r, const gems_call *call) {
    size_t size = gems_dtype_size(r->of[0]->dtype), angle = gems_dtype_size(r->cos->dtype);
    int vector = 16 / (int)size;
    if (is_strided(r)) return 1;
    for (int i = 0; i < 2; i++) {
        const side *s = &r->side[i];
        for (int d = 0; d < WITHIN; d++) {
            vector = gems_vector_for(vector, s->from[d]);
            vector = gems_vector_for(vector, s->to[d]);
        }
        vector = gems_vector_at(vector, r->of[i]->data, size);
        vector = gems_vector_at(vector, call->out[i].data, size);
    }
    vector = gems_vector_for(vector, r->interleaved ? 2 * r->half : r->half);
    vector = gems_vector_for(vector, r->dim - 2 * r->half);
    for (int i = 0; i < 2; i++) {
        int pairs = r->interleaved && vector > 1 ? vector / 2 : vector;
        int most = 16 / (int)angle, together = pairs < most ? pairs : most;
        int fits = gems_vector_for(together, r->rows[i]);
        fits = gems_vector_at(fits, i ? r->sin->data : r->cos->data, angle);
        if (fits < together) vector = r->interleaved ? 2 * fits : fits;
    }
    return vector;
}

static bool is_wide(const request *r, const gems_call *call, int64_t items) {
    int64_t most = items;
    for (int i = 0; i < 2; i++) {
        int64_t from = gems_max_offset(r->of[i]->sizes, r->of[i]->strides, r->of[i]->ndim);
        int64_t to = gems_max_offset(call->out[i].sizes, call->out[i].strides, call->out[i].ndim);
        int64_t rows = r->cos->sizes[0] * r->rows[i];
        if (from > most) most = from;
        if (to > most) most = to;
        if (rows > most) most = rows;
    }
    int64_t places = r->batch * r->at[0] + r->seq * r->at[1];
    if (places > most) most = places;
    return most >= INT32_MAX - (1 << 24);
}

#define FILL(m)                                                             \
    do {                                                                    \
        (m)->items = items;                                                 \
        for (int i = 0; i < 2; i++) {                                       \
            for (int d = 0; d < DIMS; d++) {                                \
                (m)->from[i][d] = r->side[i].from[d];                       \
                (m)->to[i][d] = r->side[i].to[d];                           \
            }                                                               \
            (m)->rows[i] = r->rows[i];                                      \
            (m)->at[i] = r->at[i];                                          \
            (m)->heads[i] = r->side[i].heads;                               \
            (m)->groups[i] = r->side[i].groups;                             \
        }                                                                   \
        (m)->half = (int32_t)r->half;                                       \
        (m)->dim = (int32_t)r->dim;                                         \
        (m)->turning = turning;                                             \
        (m)->units = gems_fastdiv_make(units ? (uint32_t)units : 1);        \
        (m)->all_groups = gems_fastdiv_make(groups ? (uint32_t)groups : 1); \
        (m)->seq = gems_fastdiv_make(r->seq ? (uint32_t)r->seq : 1);        \
        (m)->positions = r->cos->sizes[0];                                  \
    } while (0)

static gems_status launch(gems_call *call, const request *r) {
    const gems_device_info *info = gems_device_information(call->device);
    int64_t tokens = r->batch * r->seq, groups = r->side[0].groups + r->side[1].groups;
    int vector = info->fast ? 2 - is_strided(r) : vector_of(r, call);
    int pairs = r->interleaved && vector > 1 ? vector / 2 : vector;
    int32_t turning = (int32_t)(r->half / pairs);
    int64_t rest = r->in_place ? 0 : (r->dim - 2 * r->half) / vector;
    int64_t units = turning + rest, items = info->fast ? tokens : tokens * groups * units;
    bool wide = is_wide(r, call, items);
    const void *q = r->of[0]->data, *k = r->of[1]->data, *cos = r->cos->data, *sin = r->sin->data,
               *place = r->place ? r->place->data : NULL;
    void *to_q = call->out[0].data, *to_k = call->out[1].data;
    rope32 narrow;
    rope64 broad;
    gems_key key = {.dtype = {r->of[0]->dtype, r->cos->dtype}};
    const gems_plan *plan;
    if (wide)
        FILL(&broad);
    else
        FILL(&narrow);
    key.flags = (uint8_t)((r->interleaved ? INTERLEAVED : 0) | (r->inverse ? INVERSE : 0) |
                          (wide ? WIDE : 0) | (r->place ? PLACED : 0) |
                          (r->place && r->place->dtype == GEMS_I32 ? INDEX32 : 0));
    key.tune[VECTOR] = (uint8_t)vector;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {&q, &k, &cos, &sin, &place, &to_q, &to_k, wide ? (void *)&broad : &narrow};
    int64_t per_block =
        info->fast ? 4096 / (r->dim * (r->side[0].heads + r->side[1].heads) + 1) + 1 : THREADS;
    const uint32_t grid[3] = {gems_grid_for(info, items, per_block), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

static gems_status run(gems_call *call) {
    request r;
    GEMS_TRY(read(call, &r));
    GEMS_TRY(check_places(call, &r));
    for (int i = 0; i < 2; i++)
        GEMS_TRY(r.in_place ? gems_claim(call, i, i) : make_output(call, i, r.of[i]));
    for (int i = 0; i < 2; i++) dims_of(&call->out[i], call->out[i].strides, 0, r.side[i].to);
    return launch(call, &r);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *program) {
    const char *data = gems_dtype_kernel(key->dtype[DATA]),
               *angles = gems_dtype_kernel(key->dtype[ANGLES]);
    if (!data || !angles) return gems_fail(GEMS_RUNTIME_ERROR, "not a key of rope");
    bool interleaved = key->flags & INTERLEAVED, inverse = key->flags & INVERSE;
    gems_text_add(&program->head, "typedef %s T;\ntypedef %s Angle;\n", data, angles);
    gems_text_add(&program->head, "typedef %s Index;\ntypedef %s Int;\n",
                  key->flags & WIDE ? "int64_t" : "int32_t",
                  key->flags & INDEX32 ? "int32_t" : "int64_t");
    gems_text_add(&program->head,
                  "constexpr bool kInterleaved = %d, kInverse = %d, kPlaced = %d;\n", interleaved,
                  inverse, (key->flags & PLACED) != 0);
    gems_text_add(&program->head, "constexpr int kV = %d, kHeads = %d, kThreads = %d;\n",
                  key->tune[VECTOR], heads_of(interleaved), THREADS);
    snprintf(program->name, sizeof program->name, "%.*s %s %s %s%s%s",
             (int)strcspn(op->schema, "("), op->schema, interleaved ? "interleaved" : "halves",
             gems_dtype_name(key->dtype[DATA]), gems_dtype_name(key->dtype[ANGLES]),
             key->flags & PLACED ? " placed" : "", key->tune[VECTOR] > 1 ? " vectors" : "");
    program->files[0] = "rope.cu";
    program->entries[0] = "rope";
    program->entry_count = 1;
    return GEMS_OK;
}

/* With and without positions, halves and interleaved; angles of the data's dtype, and of float32.
 */
static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    bool half = GEMS_HALF_MASK & GEMS_BIT(dtype);
    if (i >= (half ? 8 : 4)) return false;
    key->dtype[DATA] = (uint8_t)dtype;
    key->dtype[ANGLES] = (uint8_t)(i & 4 ? GEMS_F32 : dtype);
    key->flags = (uint8_t)((i & 1 ? INTERLEAVED : 0) | (i & 2 ? PLACED : 0) |
                           (op->mode & GEMS_ROPE_INVERSE ? INVERSE : 0));
    key->tune[VECTOR] = (uint8_t)(info->fast ? 2 : 16 / (int)gems_dtype_size(dtype));
    return true;
}

const gems_family gems_family_rope = {.name = "rope", .run = run, .program = program, .warm = warm};
