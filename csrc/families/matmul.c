/* The matrix product: D = alpha * A B + beta * C, for one matrix or a batch. mm, addmm, bmm,
 * baddbmm, mv and addmv are brought to one form, a matmul, in which every operand is an address and
 * strides; no operand is ever copied. */
#include "matmul.h"
#include "matmul_options.h"
#include "modes.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef gems_matmul_params params;
typedef gems_matmul_product product;

/* Sizes and strides of a tensor, seen as [batch, rows, columns]. */
typedef struct view {
    int64_t batch, rows, cols;
    int64_t batch_stride, row_stride, col_stride;
} view;

static view view_of(const gems_tensor *t) {
    const int64_t *sizes = t->sizes, *strides = t->strides;
    switch (t->ndim) {
    case 1: return (view){1, sizes[0], 1, 0, strides[0], 1};
    case 2: return (view){1, sizes[0], sizes[1], 0, strides[0], strides[1]};
    default: return (view){sizes[0], sizes[1], sizes[2], strides[0], strides[1], strides[2]};
    }
}

/* C as a view of the result's shape, expanded where a size is 1; false when it cannot be. */
static bool expand(const gems_tensor *t, const int64_t *sizes, int ndim, int64_t *strides) {
    if (t->ndim > ndim) return false;
    for (int d = 0; d < ndim; d++) {
        int at = d - (ndim - t->ndim);
        if (at < 0 || t->sizes[at] == 1)
            strides[d] = 0;
        else if (t->sizes[at] == sizes[d])
            strides[d] = t->strides[at];
        else
            return false;
    }
    return true;
}

static bool number(const gems_value *value) {
    return value->kind == GEMS_INT || value->kind == GEMS_FLOAT || value->kind == GEMS_BOOLEAN;
}

/* Exchanges the two sides: D^T = B^T A^T. */
static void transpose(product *t) {
    params *p = &t->p;
    const params q = *p;
    const uint8_t type = t->types.a;
    t->types.a = t->types.b, t->types.b = type;
    p->scale_a = q.scale_b, p->scale_b = q.scale_a;
    p->scale_rows = q.scale_cols, p->scale_cols = q.scale_rows;
    p->a = q.b, p->a_batch = q.b_batch, p->a_row = q.b_col, p->a_k = q.b_k;
    p->b = q.a, p->b_batch = q.a_batch, p->b_k = q.a_k, p->b_col = q.a_row;
    p->c_row = q.c_col, p->c_col = q.c_row;
    p->d_row = q.d_col, p->d_col = q.d_row;
    p->m = q.n, p->n = q.m;
}

/* True when rows of a matrix can be read and written in vectors of 16 bytes. */
static bool is_wide(const void *data, int64_t batch_stride, int64_t row_stride, int64_t col_stride,
                    int64_t vector) {
    return col_stride == 1 && (uintptr_t)data % 16 == 0 && row_stride % vector == 0 &&
           batch_stride % vector == 0;
}

static gems_status launch_tiles(gems_call *call, const gems_plan *plan,
                                const gems_matmul_config *config, params *p, void **args) {
    const uint32_t grid[3] = {(uint32_t)config->grid, 1, 1}, block[3] = {config->threads, 1, 1};
    const uint32_t cluster = config->cluster;
    if (config->parts.split == 1)
        return gems_call_launch_cluster(call, plan, 0, grid, block, cluster, config->shared, args);
    size_t size = call->out[0].dtype == GEMS_F64 ? 8 : 4;
    int64_t outputs = (int64_t)p->batch * p->m * p->n;
    GEMS_TRY(gems_scratch(call, (size_t)outputs * (size_t)config->parts.split * size, &p->partial));
    GEMS_TRY(gems_call_launch_cluster(call, plan, 0, grid, block, cluster, config->shared, args));
    const uint32_t threads[3] = {256, 1, 1};
    const uint32_t blocks[3] = {gems_grid_for(gems_device_information(call->device), outputs, 256),
                                1, 1};
    return gems_call_launch(call, plan, 1, blocks, threads, 0, args);
}

/* A map that was made, and of what. */
typedef struct kept_map {
    gems_tensor_map of; /* data NULL: none */
    unsigned char map[GEMS_TENSOR_MAP_BYTES];
} kept_map;

/* A configuration that was chosen, the key of its program, and the maps of its last operands. */
typedef struct choice {
    const gems_device_info *info;
    uint64_t words[3]; /* the shape and the types */
    gems_matmul_config config;
    gems_key key;
    kept_map maps[3];
} choice;

/* The choices that a thread made last, by a hash of the shape; freed when it ends. */
#define CHOICES 16
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t choices;
static bool have_choices;
static _Thread_local gems_matmul_watch *watching;

static void make_choices(void) { have_choices = pthread_key_create(&choices, free) == 0; }

static choice *kept_choices(void) {
    pthread_once(&once, make_choices);
    choice *kept = have_choices ? pthread_getspecific(choices) : NULL;
    if (!kept && have_choices && (kept = calloc(CHOICES, sizeof *kept)) &&
        pthread_setspecific(choices, kept)) {
        free(kept);
        kept = NULL;
    }
    return kept;
}

void gems_matmul_watch_calls(gems_matmul_watch *watch) {
    choice *kept = kept_choices();
    for (int i = 0; kept && i < CHOICES; i++) kept[i].info = NULL;
    watching = watch;
}

/* What tune wants to be used, and is told. */
static void choose_watched(const gems_matmul_shape *s, const gems_device_info *info,
                           gems_matmul_route route, gems_matmul_config *config) {
    watching->asked[route] = true;
    watching->shape[route] = *s;
    watching->info = info;
    const char *forced = watching->forced[route];
    if (!strcmp(forced, "table"))
        gems_matmul_choose(s, info, route, config);
    else if (!gems_matmul_option_find(s, info, route, forced, config))
        gems_matmul_model(s, info, route, config);
    gems_matmul_option_text(config, watching->chosen[route]);
}

/* The configuration of a shape, by the kernel of sm_90a or by the others. Programs multiply the
 * same few shapes again and again, so it is looked up first; `spare` takes it when there is no
 * memory for that. */
static choice *choose(const gems_matmul_shape *s, const gems_matmul_types *types,
                      const gems_device_info *info, bool wgmma, choice *spare) {
    choice *kept = kept_choices();
    const uint64_t words[3] = {
        (uint64_t)s->m << 32 | (uint64_t)s->n, (uint64_t)s->k << 32 | (uint64_t)s->batch,
        (uint64_t)s->workers << 48 | (uint64_t)types->result << 40 | (uint64_t)types->b << 32 |
            (uint64_t)(types->scaled << 28 | s->promotes << 27 | s->tf32 << 26 | s->crooked << 25 |
                       wgmma << 24 | types->a << 16 | s->feed_a << 8 | s->feed_b)};
    uint64_t hash = (words[0] ^ words[1] * 3 ^ words[2] * 5) * UINT64_C(0x9e3779b97f4a7c15) >> 60;
    choice *c = kept ? &kept[hash % CHOICES] : spare;
    if (kept && c->info == info && c->words[0] == words[0] && c->words[1] == words[1] &&
        c->words[2] == words[2])
        return c;
    const gems_matmul_route route = wgmma ? GEMS_MATMUL_HOPPER : GEMS_MATMUL_TILES;
    if (watching)
        choose_watched(s, info, route, &c->config);
    else
        gems_matmul_choose(s, info, route, &c->config);
    gems_matmul_key(&c->config, s->dtype, s->feed_a, s->feed_b, &c->key);
    gems_matmul_key_types(&c->key, types);
    memcpy(c->words, words, sizeof words);
    for (int i = 0; i < 3; i++) c->maps[i].of.data = NULL;
    c->info = info;
    return c;
}

/* How an operand is read. Bytes lie along k in every tile. */
static uint8_t feed_of(const void *data, size_t element, const params *p, int64_t batch_stride,
                       int64_t lines, int64_t line_stride, int64_t k_stride) {
    const gems_matmul_feed feed = gems_matmul_choose_feed(data, element, p->batch, batch_stride,
                                                          lines, line_stride, p->k, k_stride);
    return (uint8_t)(element == 1 && feed != GEMS_ALONG_K ? GEMS_GATHER_ALONG_K : feed);
}

/* Whether rows of a matrix begin elsewhere than lines of the cache, of 128 bytes. */
static bool is_crooked(const void *data, size_t element, int64_t one_stride, int64_t other_stride) {
    return (uintptr_t)data % 128 ||
           (one_stride == 1 ? other_stride : one_stride) * (int64_t)element % 128;
}

static gems_matmul_shape shape_of(const product *t) {
    const params *p = &t->p;
    const size_t element = gems_dtype_size(t->types.a);
    return (gems_matmul_shape){
        .batch = p->batch,
        .m = p->m,
        .n = p->n,
        .k = p->k,
        .dtype = t->types.a,
        .feed_a = feed_of(p->a, element, p, p->a_batch, p->m, p->a_row, p->a_k),
        .feed_b = feed_of(p->b, element, p, p->b_batch, p->n, p->b_col, p->b_k),
        .tf32 = t->tf32,
        .promotes = t->promotes,
    };
}

/* Everything but partial, the parts and what is wide is set, and the result exists as call->out[0].
 */
static gems_status compute(gems_call *call, product *t) {
    const gems_device_info *info = gems_device_information(call->device);
    params *p = &t->p;
    const size_t element = gems_dtype_size(t->types.a);
    const int64_t vector = (int64_t)(16 / gems_dtype_size(t->types.result));
    /* Rows of the result are to be contiguous; a narrow result is to be a low one where there are
     * kernels for those. */
    const int32_t low = info->fast ? GEMS_MATMUL_THIN_ROWS : element == 2 ? 16 : 0;
    const bool narrow = p->m > p->n && p->n <= low;
    if ((p->d_col != 1 && p->d_row == 1) || narrow) transpose(t);
    /* Strides of what has one element say nothing. */
    if (p->m == 1) p->c_row = p->d_row = 0;
    if (p->n == 1) p->c_col = p->d_col = 1;
    if (p->batch == 1) p->a_batch = p->b_batch = p->c_batch = p->d_batch = 0;

    gems_matmul_shape shape;
    if (info->fast) {
        shape = (gems_matmul_shape){
            .batch = p->batch, .m = p->m, .n = p->n, .k = p->k, .dtype = t->types.a};
        shape.feed_a = GEMS_GATHER_ALONG_K;
        if ((double)p->m * p->n * p->k * p->batch >= 1048576)
            shape.workers = gems_cpu_thread_count();
        shape.feed_b = p->b_k == 1 || p->k == 1 ? GEMS_ALONG_K
                       : p->b_col == 1          ? GEMS_ALONG_LINES
                                                : GEMS_GATHER_ALONG_K;
    } else {
        shape = shape_of(t);
    }
    choice spare;
    const choice *chosen = choose(&shape, &t->types, info, false, &spare);
    const gems_matmul_config config = chosen->config;
    gems_key key = chosen->key;
    if (config.grid > INT32_MAX) return gems_decline("more tiles than a grid takes");
    p->parts = config.parts;
    p->wide_c = p->c && is_wide(p->c, p->c_batch, p->c_row, p->c_col, vector);
    p->wide_d = is_wide(p->d, p->d_batch, p->d_row, p->d_col, vector);

    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {p};
    return launch_tiles(call, plan, &config, p, args);
}

/* ---- sm_90a ---- */

bool gems_matmul_takes_wgmma(const gems_device_info *info, const product *t) {
    const params *p = &t->p;
    if (!info->hopper) return false;
    /* No map lets lines stand still. */
    if ((p->m > 1 && !p->a_row) || (p->n > 1 && !p->b_col)) return false;
    if (p->k > 1 && (!p->a_k || !p->b_k)) return false;
    const gems_matmul_shape shape = shape_of(t);
    return gems_matmul_wgmma_takes(&shape, info);
}

/* Writes the map of an operand, at a multiple of 64 bytes. It is made where it is not the one that
 * is kept: a model's weights stay where they are, and so, mostly, do its activations. */
static gems_status write_map(const gems_call *call, const gems_tensor_map *of, kept_map *kept,
                             unsigned char *map) {
    const gems_tensor_map *k = &kept->of;
    if (k->data == of->data && !memcmp(k->sizes, of->sizes, sizeof of->sizes) &&
        !memcmp(k->strides, of->strides, sizeof of->strides) &&
        !memcmp(k->box, of->box, sizeof of->box)) {
        memcpy(map, kept->map, sizeof kept->map);
        return GEMS_OK;
    }
    const gems_backend *backend = gems_device_backend(call->device);
    GEMS_TRY(backend->tensor_map(gems_device_index(call->device), of, map));
    memcpy(kept->map, map, sizeof kept->map);
    kept->of = *of;
    return GEMS_OK;
}

/* As compute. GEMS_DECLINE: nothing was launched, and another kernel may do it. */
static gems_status compute_wgmma(gems_call *call, product *t) {
    const gems_device_info *info = gems_device_information(call->device);
    params *p = &t->p;
    const uint8_t dtype = t->types.result;
    const size_t element = gems_dtype_size(t->types.a), result = gems_dtype_size(dtype);
    const int64_t vector = (int64_t)(16 / result);
    _Alignas(64) unsigned char maps[3][GEMS_TENSOR_MAP_BYTES] = {{0}};
    gems_tensor_map map;
    choice spare;
    bool thin;
    gems_matmul_shape shape = shape_of(t);
    const bool exchanges = gems_matmul_wgmma_exchanges(&shape, &thin);
    const bool words = element == 4 && shape.feed_a != shape.feed_b;
    if (words ? shape.feed_b != GEMS_ALONG_K : thin ? exchanges : p->d_col != 1 && p->d_row == 1) {
        transpose(t);
        shape = shape_of(t);
    }
    shape.crooked =
        is_crooked(p->a, element, p->a_row, p->a_k) || is_crooked(p->b, element, p->b_col, p->b_k);
    if (p->m == 1) p->c_row = p->d_row = 0;
    if (p->n == 1) p->c_col = p->d_col = 1;
    if (p->batch == 1) p->a_batch = p->b_batch = p->c_batch = p->d_batch = 0;
    choice *chosen = choose(&shape, &t->types, info, true, &spare);
    const gems_matmul_config config = chosen->config;
    gems_key key = chosen->key;
    if (config.kernel != GEMS_MATMUL_WGMMA) return GEMS_DECLINE; /* another is faster here */
    if (config.shared > info->shared_bytes) return gems_decline("less shared memory than tiles");
    p->parts = config.parts;
    p->wide_c = p->c && is_wide(p->c, p->c_batch, p->c_row, p->c_col, vector);
    p->wide_d = is_wide(p->d, p->d_batch, p->d_row, p->d_col, vector);

    gems_matmul_wgmma_map(&config, true, shape.feed_a, t->types.a, p->a, p->batch, p->a_batch, p->m,
                          p->a_row, p->k, p->a_k, &map);
    GEMS_TRY(write_map(call, &map, &chosen->maps[0], maps[0]));
    gems_matmul_wgmma_map(&config, false, shape.feed_b, t->types.b, p->b, p->batch, p->b_batch,
                          p->n, p->b_col, p->k, p->b_k, &map);
    GEMS_TRY(write_map(call, &map, &chosen->maps[1], maps[1]));
    /* Results whose rows are wide are stored by a map too. */
    if (p->wide_d && !config.thin && config.parts.split == 1 && result == 2) {
        gems_matmul_wgmma_result_map(dtype, p->d, p->batch, p->d_batch, p->m, p->n, p->d_row, &map);
        GEMS_TRY(write_map(call, &map, &chosen->maps[2], maps[2]));
    }
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {p, maps[0], maps[1], maps[2]};
    return launch_tiles(call, plan, &config, p, args);
}

/* ---- a matrix and a column ---- */

/* False: neither side has as few columns or rows as the kernels below are for. Costs nearly
 * nothing: most products are asked. */
static bool is_narrow(const gems_device_info *info, const product *t) {
    const bool few = !info->fast && GEMS_HALF_MASK >> t->types.a & 1;
    const int64_t most = few ? GEMS_MATMUL_FEW_COLUMNS : 1;
    return t->p.n <= most || t->p.m <= most;
}

/* Turns a narrow product so that its second side is a column, or few; false: the kernels do not
 * take it. *feed: how the matrix lies. */
static bool make_one(const gems_device_info *info, product *t, int *feed) {
    if (watching && watching->forced[GEMS_MATMUL_HOPPER][0]) return false;
    if (t->p.m < t->p.n) transpose(t);
    params *p = &t->p;
    if (p->batch == 1) p->a_batch = p->b_batch = p->c_batch = p->d_batch = 0;
    *feed = (int)gems_matmul_choose_feed(p->a, gems_dtype_size(t->types.a), p->batch, p->a_batch,
                                         p->m, p->a_row, p->k, p->a_k);
    if (p->n == 1) return gems_matmul_one_takes(info, t, *feed);
    const int other = (int)gems_matmul_choose_feed(p->b, gems_dtype_size(t->types.b), p->batch,
                                                   p->b_batch, p->n, p->b_col, p->k, p->b_k);
    return gems_matmul_few_takes(info, t, *feed, other);
}

gems_status gems_matmul_compute(gems_call *call, const product *t, bool wgmma) {
    product copy = *t;
    if (wgmma) {
        gems_status status = compute_wgmma(call, &copy);
        if (status != GEMS_DECLINE) return status;
        copy = *t;
    }
    return compute(call, &copy);
}

/* Elements of the first operand up to which a GPU takes what the kernel of sm_90a does not: beyond,
 * ATen was measured faster (benchmarks/results). */
#define MOST         (INT64_C(1) << 19)
#define MOST_BATCHED (INT64_C(1) << 20)

/* Multiplications of tf32 from which on a GPU takes a product whose operands both lie along k, or
 * one of them along its lines (an H200 ran those of 1024 cubed at 1.11 and 0.88 of ATen's speed,
 * those from 2048 cubed on at 0.94 to 1.04), and of float64 up to which (256 cubed: 0.37, 1024
 * cubed: 0.72, 8192 cubed: 0.78). */
#define LEAST_TF32   ((double)(INT64_C(1) << 30))
#define LEAST_TURNED ((double)(INT64_C(1) << 31))
#define MOST_DOUBLE  ((double)(INT64_C(1) << 21))

/* Whether ATen was measured faster with this product on a GPU. */
static bool left_to_aten(const product *t, const gems_tensor *a, bool batched, bool wgmma) {
    const params *p = &t->p;
    const double products = (double)p->batch * p->m * p->n * p->k;
    if (t->tf32)
        return !wgmma || products < (p->a_k == 1 && p->b_k == 1 ? LEAST_TF32 : LEAST_TURNED);
    if (a->dtype == GEMS_F64) return products > MOST_DOUBLE;
    return !wgmma && a->numel > (batched ? MOST_BATCHED : MOST);
}

/* Multiplications below which float32 is never rounded: nothing is to be gained. */
#define SMALL_TF32 (1 << 15)

/* Whether this product's float32 is rounded to tf32 as ATen's setting allows: torch is asked in
 * every call. On a CPU the modes that have all threads of a block do what a GPU would. Products
 * with a vector are never rounded. */
static bool rounds_to_tf32(const gems_call *call, const gems_device_info *info, const product *t,
                           int bits) {
    return t->types.a == GEMS_F32 && !info->fast && !(bits & GEMS_MATMUL_VECTOR) &&
           (double)t->p.m * t->p.n * t->p.k >= SMALL_TF32 && gems_matmul_has_tf32(info->arch) &&
           call->host->tf32 && call->host->tf32();
}

static gems_status run(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    if (call->op->mode == GEMS_MATMUL_INT) return gems_matmul_run_int(call);
    if (call->op->mode == GEMS_MATMUL_SCALED) return gems_matmul_run_scaled(call);
    const int bits = call->op->mode, ndim = bits & GEMS_MATMUL_BATCHED ? 3 : 2,
              first = bits & GEMS_MATMUL_ADDED;
    const gems_tensor *a = gems_arg_tensor(call, first), *b = gems_arg_tensor(call, first + 1);
    const gems_tensor *c = first ? gems_arg_tensor(call, 0) : NULL;
    if (!a || !b || (first && !c)) return gems_decline("an operand is no tensor");
    if (a->ndim != ndim || b->ndim != (bits & GEMS_MATMUL_VECTOR ? 1 : ndim))
        return gems_decline("ranks do not fit");
    if (a->dtype != b->dtype || (c && c->dtype != a->dtype))
        return gems_decline("operands of several dtypes");
    if (!(call->op->dtypes >> a->dtype & 1)) return gems_decline("dtype without a kernel");
    if (c && (c->device_type != a->device_type || c->device_index != a->device_index))
        return gems_decline("tensors on several devices");

    const view va = view_of(a), vb = view_of(b);
    if (va.cols != vb.rows || va.batch != vb.batch) return gems_decline("sizes do not fit");
    if (va.batch > INT32_MAX || va.rows > INT32_MAX || va.cols > INT32_MAX || vb.cols > INT32_MAX)
        return gems_decline("more than 2^31 rows or columns");
    int64_t sizes[3], c_strides[3] = {0, 0, 0};
    const int dims = bits & GEMS_MATMUL_VECTOR ? 1 : ndim;
    if (bits & GEMS_MATMUL_BATCHED)
        sizes[0] = va.batch, sizes[1] = va.rows, sizes[2] = vb.cols;
    else
        sizes[0] = va.rows, sizes[1] = vb.cols;

    product t = {.types = {a->dtype, a->dtype, a->dtype, false},
                 .p = {.a = a->data,
                       .b = b->data,
                       .a_batch = va.batch_stride,
                       .a_row = va.row_stride,
                       .a_k = va.col_stride,
                       .b_batch = vb.batch_stride,
                       .b_k = vb.row_stride,
                       .b_col = vb.col_stride,
                       .m = (int32_t)va.rows,
                       .n = (int32_t)vb.cols,
                       .k = (int32_t)va.cols,
                       .batch = (int32_t)va.batch,
                       .alpha = 1}};
    params *p = &t.p;
    if (c) {
        if (!number(&call->args[3]) || !number(&call->args[4]))
            return gems_decline("alpha or beta is no real number");
        p->beta = gems_arg_double(call, 3);
        p->alpha = gems_arg_double(call, 4);
        if (!expand(c, sizes, dims, c_strides))
            return gems_decline("the added tensor does not expand");
        /* As in BLAS: 0 takes the operand away, with its NaN. */
        if (p->alpha == 0) p->k = 0;
        if (p->beta != 0) {
            p->c = c->data;
            const int64_t *last = c_strides + dims;
            if (bits & GEMS_MATMUL_VECTOR)
                p->c_row = last[-1];
            else
                p->c_row = last[-2], p->c_col = last[-1];
            if (bits & GEMS_MATMUL_BATCHED) p->c_batch = last[-3];
        }
    }
    t.tf32 = rounds_to_tf32(call, info, &t, bits);
    const bool wgmma = gems_matmul_takes_wgmma(info, &t);
    int feed;
    bool one = false;
    if (is_narrow(info, &t)) {
        product turned = t;
        one = make_one(info, &turned, &feed);
    }
    if (!one && call->device_type != GEMS_CPU && !(bits & GEMS_MATMUL_VECTOR) &&
        left_to_aten(&t, a, bits & GEMS_MATMUL_BATCHED, wgmma))
        return gems_decline("a size at which ATen is faster on a GPU");
    if (!one && bits & GEMS_MATMUL_VECTOR && info->arch)
        return gems_decline(
            "a vector beside a matrix without whole vectors, where ATen is faster on a GPU");
    GEMS_TRY(gems_output(call, 0, dims, sizes, NULL, a->dtype));
    if (!call->nonempty) return GEMS_OK;
    const view vd = view_of(&call->out[0]);
    t.p.d = call->out[0].data;
    t.p.d_batch = vd.batch_stride, t.p.d_row = vd.row_stride, t.p.d_col = vd.col_stride;
    if (one && make_one(info, &t, &feed)) return gems_matmul_one(call, &t.p, t.types.result, feed);
    return gems_matmul_compute(call, &t, wgmma);
}

const gems_family gems_family_matmul = {
    .name = "matmul",
    .run = run,
    .program = gems_matmul_program,
    .warm = gems_matmul_warm,
    .strided_output = true,
};
