/* How a strided copy is done: which kernel, which vector, which index width. */
#include "copy_views.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define THREADS 256
#define UNROLL \
    4 /* accesses in flight of a thread, where they are smaller than 16 bytes: kernels/copy.cu */
#define MOST_DIMS  8  /* of Strided in kernels/gems.cuh */
#define SHORT      16 /* elements of a row, to the fast cpu backend */
#define TILE_LEAST 8  /* a shorter side is not worth a tile */
#define FLAG_WIDE  1  /* 64-bit index */
#define FLAG_SPLAT 2  /* one source element for a whole vector */
#define FLAG_ZIP   4  /* the range of a zip is in the output */
#define ZIP_MOST   4  /* elements of its short dim */

int gems_copy_carrier(int dtype) {
    switch (gems_dtype_size(dtype)) {
    case 1: return GEMS_U8;
    case 2: return GEMS_I16;
    case 4: return GEMS_I32;
    case 8: return GEMS_I64;
    case 16: return GEMS_C128;
    default: return GEMS_NO_DTYPE;
    }
}

#define CONVERTED                                                                        \
    (GEMS_ALL_MASK | GEMS_COMPLEX_MASK | GEMS_BIT(GEMS_F8E5M2) | GEMS_BIT(GEMS_F8E4M3) | \
     GEMS_BIT(GEMS_U16) | GEMS_BIT(GEMS_U32) | GEMS_BIT(GEMS_U64))

bool gems_copy_converts(int from, int to) {
    if (from == to) return gems_copy_carrier(from) != GEMS_NO_DTYPE;
    if (gems_dtype_is_complex(from) && !gems_dtype_is_complex(to) && to != GEMS_BOOL)
        return false; /* ATen warns */
    return (GEMS_BIT(from) & CONVERTED) && (GEMS_BIT(to) & CONVERTED);
}

/* Twins of Strided<NT, Index> in kernels/gems.cuh. */
typedef struct {
    int32_t ndim, n;
    gems_fastdiv div[MOST_DIMS];
    int32_t stride[MOST_DIMS][2];
} strided2_narrow;
typedef struct {
    int32_t ndim;
    int64_t n;
    gems_fastdiv div[MOST_DIMS];
    int64_t stride[MOST_DIMS][2];
} strided2_wide;
typedef struct {
    int32_t ndim, n;
    gems_fastdiv div[MOST_DIMS];
    int32_t stride[MOST_DIMS][1];
} strided1_narrow;
typedef struct {
    int32_t ndim;
    int64_t n;
    gems_fastdiv div[MOST_DIMS];
    int64_t stride[MOST_DIMS][1];
} strided1_wide;

/* Twin of Tiles in kernels/copy.cu. */
typedef struct {
    int32_t tiles_a, tiles_b, ndim;
    uint32_t total;
    int64_t size_a, size_b, out_b, in_a;
    int64_t size[MOST_DIMS], stride[MOST_DIMS][2];
} tiles;

static bool narrow(const gems_iter *iter) {
    int64_t most = iter->numel;
    for (int k = 0; k < iter->operands; k++) {
        int64_t offset = gems_max_offset(iter->size, iter->stride[k], iter->ndim);
        if (offset > most) most = offset;
    }
    return most < INT32_MAX - (1 << 24); /* room for a step of the whole grid */
}

static uint32_t alignment_of(const void *a, const void *b) {
    uintptr_t bits = (uintptr_t)a | (uintptr_t)b | 16;
    return (uint32_t)(bits & (~bits + 1));
}

static uint32_t block_of(const gems_device_info *info) { return info->fast ? 1 : THREADS; }

static gems_status launch(gems_call *call, gems_key *key, int64_t blocks, void **args) {
    const gems_plan *plan;
    if (blocks > INT32_MAX) return gems_decline("more blocks than a grid takes");
    GEMS_TRY(gems_call_plan(call, key, &plan));
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1};
    const uint32_t block[3] = {block_of(gems_device_information(call->device)), 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

/* Launches a kernel that loops over n items whose places it works out: a few of them a thread. */
static gems_status launch_strided(gems_call *call, gems_key *key, int64_t n, void **args) {
    const gems_device_info *info = gems_device_information(call->device);
    return launch(call, key, gems_grid_for(info, n, info->fast ? 16384 : THREADS * 4), args);
}

/* Launches a kernel over n elements of a dense out, `vector` an access of at most `bytes`. */
static gems_status launch_dense(gems_call *call, gems_key *key, int64_t n, int vector, int bytes,
                                void **args) {
    const gems_device_info *info = gems_device_information(call->device);
    int64_t per_block = (int64_t)THREADS * vector * (bytes >= 16 ? 1 : UNROLL);
    return launch(call, key, gems_grid_of_all(info, n, info->fast ? 65536 : per_block), args);
}

/* Elements of one access: as many as fit 16 bytes, the alignment, and every stride and inner size.
 */
static int vector_of(const gems_device_info *info, int most_size, uint32_t aligned, int size_out,
                     int size_in) {
    if (info->fast) return 1; /* its loops over a unit stride vectorise by themselves */
    int n = 16 / most_size;
    while (n > 1 && ((uint32_t)(n * size_out) > aligned || (uint32_t)(n * size_in) > aligned))
        n /= 2;
    return n;
}

/* Launches a kernel that runs along a dense out, `vector` elements an access. */
static gems_status copy_flat(gems_call *call, uint8_t kernel, const gems_iter *iter, gems_view out,
                             gems_view in, int vector) {
    bool wide = !narrow(iter);
    gems_key key = {.kernel = kernel, .flags = wide ? FLAG_WIDE : 0};
    key.dtype[0] = (uint8_t)in.dtype;
    key.dtype[1] = (uint8_t)out.dtype;
    key.tune[0] = (uint8_t)vector;
    int64_t n = iter->numel;
    int32_t n32 = (int32_t)n;
    void *args[] = {&out.data, &in.data, wide ? (void *)&n : (void *)&n32};
    int size_in = (int)gems_dtype_size(in.dtype), size_out = (int)gems_dtype_size(out.dtype);
    int most_size = size_in > size_out ? size_in : size_out;
    return launch_dense(call, &key, n, vector, vector * most_size, args);
}

static gems_status copy_dense(gems_call *call, const gems_iter *iter, gems_view out, gems_view in) {
    const gems_device_info *info = gems_device_information(call->device);
    int size_out = (int)gems_dtype_size(out.dtype), size_in = (int)gems_dtype_size(in.dtype);
    int vector = vector_of(info, size_out > size_in ? size_out : size_in, 16, size_out, size_in);
    while (vector > 1 && (((uintptr_t)out.data % (uintptr_t)(vector * size_out)) ||
                          ((uintptr_t)in.data % (uintptr_t)(vector * size_in))))
        vector /= 2;
    return copy_flat(call, GEMS_COPY_DENSE, iter, out, in, vector);
}

static gems_status copy_spread(gems_call *call, const gems_iter *iter, gems_view out,
                               gems_view in) {
    const gems_device_info *info = gems_device_information(call->device);
    int size = (int)gems_dtype_size(out.dtype);
    int vector = vector_of(info, size, alignment_of(out.data, NULL), size, 1);
    return copy_flat(call, GEMS_COPY_SPREAD, iter, out, in, vector);
}

/* Rank of the program that takes ndim dims. */
static int rank_of(int ndim) { return ndim <= 2 ? 2 : ndim <= 4 ? 4 : 8; }

/* A loop over a few elements costs more than a step in memory: the nearest dim that is long goes
 * innermost. */
static void lengthen(gems_iter *iter) {
    int best = 0;
    for (int d = 1; d < iter->ndim && iter->size[best] < SHORT; d++)
        if (iter->size[d] > iter->size[best]) best = d;
    if (!best) return;
    int64_t size = iter->size[best];
    memmove(iter->size + 1, iter->size, (size_t)best * sizeof *iter->size);
    iter->size[0] = size;
    for (int k = 0; k < iter->operands; k++) {
        int64_t stride = iter->stride[k][best];
        memmove(iter->stride[k] + 1, iter->stride[k], (size_t)best * sizeof *iter->stride[k]);
        iter->stride[k][0] = stride;
    }
}

static gems_status copy_strided(gems_call *call, const gems_iter *given, gems_view out,
                                gems_view in) {
    const gems_device_info *info = gems_device_information(call->device);
    gems_iter ordered = *given;
    const gems_iter *iter = &ordered;
    if (info->fast) lengthen(&ordered);
    if (iter->ndim > MOST_DIMS) return gems_decline("more dimensions than the strided copy takes");
    for (int d = 0; d < iter->ndim; d++)
        if (iter->size[d] > INT32_MAX)
            return gems_decline("a dimension beyond the strided copy's index");
    int size_out = (int)gems_dtype_size(out.dtype), size_in = (int)gems_dtype_size(in.dtype);
    bool unit_out = iter->stride[0][0] == 1, splat = iter->stride[1][0] == 0;
    int vector = 1;
    if (unit_out && (splat || iter->stride[1][0] == 1)) {
        int64_t bits = iter->size[0];
        for (int d = 1; d < iter->ndim; d++)
            bits |= iter->stride[0][d] | (splat ? 0 : iter->stride[1][d]);
        vector = vector_of(info, size_out > size_in ? size_out : size_in, 16, size_out, size_in);
        while (vector > 1 &&
               (bits % vector || (uintptr_t)out.data % (uintptr_t)(vector * size_out) ||
                (!splat && (uintptr_t)in.data % (uintptr_t)(vector * size_in))))
            vector /= 2;
    }
    bool wide = !narrow(iter);
    splat = splat && vector > 1;
    gems_key key = {.kernel = GEMS_COPY_STRIDED,
                    .flags = (uint8_t)((wide ? FLAG_WIDE : 0) | (splat ? FLAG_SPLAT : 0))};
    key.dtype[0] = (uint8_t)in.dtype;
    key.dtype[1] = (uint8_t)out.dtype;
    key.tune[0] = (uint8_t)vector;
    key.tune[1] = (uint8_t)rank_of(iter->ndim);

    int64_t n = iter->numel / vector;
    strided2_narrow small;
    strided2_wide large;
    small.ndim = large.ndim = iter->ndim;
    small.n = (int32_t)n;
    large.n = n;
    for (int d = 0; d < MOST_DIMS; d++) {
        bool used = d < iter->ndim;
        int64_t size = used ? iter->size[d] / (d ? 1 : vector) : 1;
        small.div[d] = large.div[d] = gems_fastdiv_make((uint32_t)size);
        for (int k = 0; k < 2; k++) {
            int64_t stride = used ? iter->stride[k][d] * (d ? 1 : vector) : 0;
            small.stride[d][k] = (int32_t)stride;
            large.stride[d][k] = stride;
        }
    }
    void *args[] = {&out.data, &in.data, wide ? (void *)&large : (void *)&small};
    return launch_strided(call, &key, n, args);
}

/* The dim along which `in` is contiguous, when a tile pays: out is contiguous along dim 0. -1:
 * none. */
static int tile_dim(const gems_iter *iter) {
    if (iter->stride[0][0] != 1 || iter->size[0] < TILE_LEAST) return -1;
    if (iter->stride[1][0] == 1 || iter->stride[1][0] == 0) return -1;
    for (int d = 1; d < iter->ndim; d++)
        if (iter->stride[1][d] == 1 && iter->size[d] >= TILE_LEAST) return d;
    return -1;
}

/* Side of a tile, kernels/copy.cu. */
static int tile_side(int dtype) { return gems_dtype_size(dtype) <= 4 ? 64 : 32; }

static gems_status copy_tile(gems_call *call, const gems_iter *iter, int dim, gems_view out,
                             gems_view in) {
    int side = tile_side(in.dtype);
    tiles t = {.size_a = iter->size[0],
               .size_b = iter->size[dim],
               .out_b = iter->stride[0][dim],
               .in_a = iter->stride[1][0]};
    int64_t across = (t.size_a + side - 1) / side, down = (t.size_b + side - 1) / side;
    int64_t total = across * down;
    for (int d = 1; d < iter->ndim; d++) {
        if (d == dim) continue;
        if (t.ndim == MOST_DIMS) return copy_strided(call, iter, out, in);
        t.size[t.ndim] = iter->size[d];
        t.stride[t.ndim][0] = iter->stride[0][d];
        t.stride[t.ndim][1] = iter->stride[1][d];
        t.ndim++;
        total *= iter->size[d];
    }
    if (total > INT32_MAX) return copy_strided(call, iter, out, in);
    t.tiles_a = (int32_t)across;
    t.tiles_b = (int32_t)down;
    t.total = (uint32_t)total;
    gems_key key = {.kernel = GEMS_COPY_TILE};
    key.dtype[0] = (uint8_t)in.dtype;
    key.dtype[1] = (uint8_t)out.dtype;
    void *args[] = {&out.data, &in.data, &t};
    return launch(call, &key, gems_grid_of_all(gems_device_information(call->device), total, 1),
                  args);
}

/* A copy as copy_zip makes it: dims of the iteration, and elements of the long one that a thread
 * takes. */
typedef struct {
    bool out;         /* the range is in the output */
    int small, large; /* dims */
    int vector;
} zip;

/* Whether one side has dims `small` and `large` in one range and the other side has `large` in a
 * row. */
static bool is_zip(const gems_iter *iter, int range, int small, int large) {
    int64_t size = iter->size[small];
    return size >= 2 && size <= ZIP_MOST && iter->stride[range][small] == 1 &&
           iter->stride[range][large] == size && iter->stride[1 - range][large] == 1;
}

/* Whether `vector` elements of the long dim fit every stride, size and address. */
static bool zip_fits(const gems_iter *iter, const zip *z, int vector, const gems_view *view,
                     int widest) {
    int range = z->out ? 0 : 1, all = (int)iter->size[z->small] * vector;
    bool one = all * widest <= 16 && !(all & (all - 1)); /* access for the range's part */
    if (iter->size[z->large] % vector) return false;
    for (int k = 0; k < 2; k++) {
        int elements = k == range && one ? all : vector;
        if ((uintptr_t)view[k].data % (elements * gems_dtype_size(view[k].dtype))) return false;
        for (int d = 0; d < iter->ndim; d++) {
            if (d == z->large || (d == z->small && k == range)) continue;
            if (iter->stride[k][d] % elements) return false;
        }
    }
    return true;
}

/* Finds the dims and the vector of a zip; false: it is none, or none that pays. */
static bool find_zip(const gems_iter *iter, const gems_view *view, zip *z) {
    int size[2] = {(int)gems_dtype_size(view[0].dtype), (int)gems_dtype_size(view[1].dtype)};
    int widest = size[0] > size[1] ? size[0] : size[1];
    if (iter->ndim < 2 || iter->ndim > MOST_DIMS || iter->stride[0][0] != 1) return false;
    *z = (zip){.out = is_zip(iter, 0, 0, 1), .small = 0, .large = 1};
    if (!z->out) {
        z->large = 0;
        for (int d = 1; d < iter->ndim && !z->small; d++)
            if (is_zip(iter, 1, d, 0)) z->small = d;
        if (!z->small) return false;
    }
    for (int d = 0; d < iter->ndim; d++)
        if (iter->size[d] > INT32_MAX) return false;
    int bytes = (int)iter->size[z->small] * widest;
    for (z->vector = 16 % bytes ? 16 / widest : 16 / bytes; z->vector > 1; z->vector /= 2)
        if (zip_fits(iter, z, z->vector, view, widest)) return true;
    return zip_fits(iter, z, 1, view, widest);
}

static gems_status copy_zip(gems_call *call, const gems_iter *iter, const zip *z, gems_view out,
                            gems_view in) {
    const gems_device_info *info = gems_device_information(call->device);
    bool wide = !narrow(iter);
    gems_key key = {.kernel = GEMS_COPY_ZIP,
                    .flags = (uint8_t)((wide ? FLAG_WIDE : 0) | (z->out ? FLAG_ZIP : 0))};
    key.dtype[0] = (uint8_t)in.dtype;
    key.dtype[1] = (uint8_t)out.dtype;
    key.tune[0] = (uint8_t)z->vector;
    key.tune[1] = (uint8_t)rank_of(iter->ndim - 1);
    key.tune[2] = (uint8_t)iter->size[z->small];
    int64_t n = iter->numel / iter->size[z->small] / z->vector;
    int64_t across = iter->stride[z->out ? 1 : 0][z->small];
    int32_t across32 = (int32_t)across;
    strided2_narrow small = {.ndim = iter->ndim - 1, .n = (int32_t)n};
    strided2_wide large = {.ndim = iter->ndim - 1, .n = n};
    for (int d = 0, to = 0; d < iter->ndim; d++) {
        if (d == z->small) continue;
        int step = d == z->large ? z->vector : 1;
        small.div[to] = large.div[to] = gems_fastdiv_make((uint32_t)(iter->size[d] / step));
        for (int k = 0; k < 2; k++) {
            large.stride[to][k] = iter->stride[k][d] * step;
            small.stride[to][k] = (int32_t)large.stride[to][k];
        }
        to++;
    }
    void *args[] = {&out.data, &in.data, wide ? (void *)&large : (void *)&small,
                    wide ? (void *)&across : (void *)&across32};
    return launch(call, &key, gems_grid_of_all(info, n, info->fast ? 16384 : THREADS), args);
}

gems_status gems_copy_views(gems_call *call, const int64_t *sizes, int ndim, gems_view out,
                            gems_view in) {
    if (out.dtype == in.dtype) {
        out.dtype = in.dtype = gems_copy_carrier(in.dtype);
        if (in.dtype == GEMS_NO_DTYPE) return gems_decline("dtype without a copy kernel");
    } else if (!gems_copy_converts(in.dtype, out.dtype)) {
        return gems_decline("no conversion kernel between these dtypes");
    }
    const int64_t *strides[2] = {out.strides, in.strides};
    gems_iter iter;
    gems_iter_make(&iter, sizes, ndim, strides, 2);
    if (!iter.numel) return GEMS_OK;
    if (iter.ndim == 1 && (iter.stride[0][0] == 1 || iter.numel == 1)) {
        if (iter.stride[1][0] == 1 || iter.numel == 1) return copy_dense(call, &iter, out, in);
        if (iter.stride[1][0] == 0) return copy_spread(call, &iter, out, in);
    }
    zip z;
    const gems_view view[2] = {out, in};
    if (!gems_device_information(call->device)->fast && find_zip(&iter, view, &z))
        return copy_zip(call, &iter, &z, out, in);
    int dim = tile_dim(&iter);
    return dim > 0 ? copy_tile(call, &iter, dim, out, in) : copy_strided(call, &iter, out, in);
}

gems_status gems_fill_view(gems_call *call, const int64_t *sizes, int ndim, gems_view out,
                           const uint8_t bits[16]) {
    const gems_device_info *info = gems_device_information(call->device);
    const int64_t *strides[1] = {out.strides};
    gems_iter iter;
    gems_iter_make(&iter, sizes, ndim, strides, 1);
    if (!iter.numel) return GEMS_OK;
    int size = (int)gems_dtype_size(out.dtype);
    bool wide = !narrow(&iter);
    gems_key key = {.flags = wide ? FLAG_WIDE : 0};
    key.dtype[0] = key.dtype[1] = (uint8_t)gems_copy_carrier(out.dtype);
    if (key.dtype[0] == GEMS_NO_DTYPE) return gems_decline("dtype without a fill kernel");
    struct {
        uint64_t low, high;
    } pattern;
    memcpy(&pattern, bits, sizeof pattern);
    if (iter.ndim == 1 && (iter.stride[0][0] == 1 || iter.numel == 1)) {
        int vector = vector_of(info, size, alignment_of(out.data, NULL), size, 1);
        key.kernel = GEMS_FILL_DENSE;
        key.tune[0] = (uint8_t)vector;
        int64_t n = iter.numel;
        int32_t n32 = (int32_t)n;
        void *args[] = {&out.data, &pattern, wide ? (void *)&n : (void *)&n32};
        return launch_dense(call, &key, n, vector, vector * size, args);
    }
    if (iter.ndim > MOST_DIMS) return gems_decline("more dimensions than the strided fill takes");
    strided1_narrow small = {.ndim = iter.ndim, .n = (int32_t)iter.numel};
    strided1_wide large = {.ndim = iter.ndim, .n = iter.numel};
    for (int d = 0; d < MOST_DIMS; d++) {
        bool used = d < iter.ndim;
        if (used && iter.size[d] > INT32_MAX)
            return gems_decline("a dimension beyond the strided fill's index");
        small.div[d] = large.div[d] = gems_fastdiv_make(used ? (uint32_t)iter.size[d] : 1);
        large.stride[d][0] = used ? iter.stride[0][d] : 0;
        small.stride[d][0] = (int32_t)large.stride[d][0];
    }
    key.kernel = GEMS_FILL_STRIDED;
    key.tune[0] = 1;
    key.tune[1] = (uint8_t)rank_of(iter.ndim);
    void *args[] = {&out.data, &pattern, wide ? (void *)&large : (void *)&small};
    return launch_strided(call, &key, iter.numel, args);
}

gems_status gems_copy_program(const gems_op *op, const gems_key *key, gems_program *program) {
    static const char *const entries[] = {NULL,          "copy_dense", "copy_strided", "copy_tile",
                                          "copy_spread", "fill_dense", "fill_strided", "copy_zip"};
    const char *from = gems_dtype_kernel(key->dtype[0]), *to = gems_dtype_kernel(key->dtype[1]);
    if (!from || !to || key->kernel < 1 || key->kernel > GEMS_COPY_ZIP)
        return gems_fail(GEMS_RUNTIME_ERROR, "not a key of a copy");
    gems_text_add(&program->head, "#define COPY_KERNEL %d\n", key->kernel);
    gems_text_add(&program->head, "typedef %s Src;\ntypedef %s Dst;\n", from, to);
    gems_text_add(&program->head, "typedef %s Index;\n",
                  key->flags & FLAG_WIDE ? "int64_t" : "int32_t");
    gems_text_add(&program->head, "constexpr int kV = %d, kRank = %d, kSide = %d, kThreads = %d;\n",
                  key->tune[0] ? key->tune[0] : 1, key->tune[1],
                  key->kernel == GEMS_COPY_ZIP ? key->tune[2] : tile_side(key->dtype[0]), THREADS);
    gems_text_add(&program->head, "constexpr bool kSplat = %s, kZip = %s, kSame = %s;\n",
                  key->flags & FLAG_SPLAT ? "true" : "false",
                  key->flags & FLAG_ZIP ? "true" : "false",
                  key->dtype[0] == key->dtype[1] ? "true" : "false");
    snprintf(program->name, sizeof program->name, "%.*s %s %s to %s", (int)strcspn(op->schema, "("),
             op->schema, entries[key->kernel], gems_dtype_name(key->dtype[0]),
             gems_dtype_name(key->dtype[1]));
    int vector = key->tune[0] ? key->tune[0] : 1, side = tile_side(key->dtype[0]);
    program->elements = key->kernel == GEMS_COPY_STRIDED   ? vector
                        : key->kernel == GEMS_FILL_STRIDED ? 1
                        : key->kernel == GEMS_COPY_TILE    ? side * side / THREADS
                        : key->kernel == GEMS_COPY_ZIP     ? vector * key->tune[2]
                                                           : vector * UNROLL;
    program->files[0] = "copy.cu";
    program->entries[0] = entries[key->kernel];
    program->entry_count = 1;
    return GEMS_OK;
}

static void warm_key(gems_key *key, int kernel, int from, int to, int vector, int rank) {
    key->kernel = (uint8_t)kernel;
    key->dtype[0] = (uint8_t)from;
    key->dtype[1] = (uint8_t)to;
    key->tune[0] = (uint8_t)vector;
    key->tune[1] = (uint8_t)rank;
}

bool gems_copy_warm(int from, int to, int i, const gems_device_info *info, gems_key *key) {
    if (from == to) from = to = gems_copy_carrier(from);
    if (from == GEMS_NO_DTYPE || i > 2) return false;
    int a = (int)gems_dtype_size(from), b = (int)gems_dtype_size(to);
    int vector = vector_of(info, a > b ? a : b, 16, b, a);
    if (i == 0) warm_key(key, GEMS_COPY_DENSE, from, to, vector, 0);
    if (i == 1) warm_key(key, GEMS_COPY_STRIDED, from, to, vector, 4);
    if (i == 2) warm_key(key, GEMS_COPY_TILE, from, to, 0, 0);
    return true;
}

bool gems_fill_warm(int dtype, int i, const gems_device_info *info, gems_key *key) {
    dtype = gems_copy_carrier(dtype);
    if (dtype == GEMS_NO_DTYPE || i > 1) return false;
    int size = (int)gems_dtype_size(dtype);
    if (i == 0) warm_key(key, GEMS_FILL_DENSE, dtype, dtype, vector_of(info, size, 16, size, 1), 0);
    if (i == 1) warm_key(key, GEMS_FILL_STRIDED, dtype, dtype, 1, 4);
    return true;
}

void gems_channels_last_strides(const int64_t *sizes, int ndim, int64_t *strides) {
    int64_t step = 1;
    strides[1] = 1;
    step = sizes[1];
    for (int d = ndim - 1; d >= 2; d--) {
        strides[d] = step;
        step *= sizes[d];
    }
    strides[0] = step;
}

bool gems_format_strides(const gems_tensor *t, int format, int64_t *strides) {
    switch (format) {
    case GEMS_FORMAT_CONTIGUOUS: gems_contiguous_strides(t->sizes, t->ndim, strides); return true;
    case GEMS_FORMAT_PRESERVE:
        if (gems_is_non_overlapping_and_dense(t)) {
            memcpy(strides, t->strides, (size_t)t->ndim * sizeof *strides);
        } else {
            gems_output_strides(t->sizes, t->ndim, &t->strides, 1, strides);
        }
        return true;
    case GEMS_FORMAT_CHANNELS_LAST:
    case GEMS_FORMAT_CHANNELS_LAST_3D:
        if (t->ndim != (format == GEMS_FORMAT_CHANNELS_LAST ? 4 : 5)) return false;
        gems_channels_last_strides(t->sizes, t->ndim, strides);
        return true;
    default: return false;
    }
}

bool gems_like_channels_last(const gems_tensor *t) {
    static const int order4[] = {1, 3, 2, 0}, order5[] = {1, 4, 3, 2, 0};
    const int *order = t->ndim == 4 ? order4 : order5;
    int64_t least = 0;
    if (t->ndim != 4 && t->ndim != 5) return false;
    if (t->strides[1] == 0) return false;
    for (int i = 0; i < t->ndim; i++) {
        int d = order[i];
        if (t->sizes[d] == 0 || t->strides[d] < least) return false;
        if (d == 0 && least == t->strides[1]) return false;
        least = t->strides[d] * (t->sizes[d] > 1 ? t->sizes[d] : 1);
    }
    return true;
}

bool gems_number_fits(const gems_value *value, int dtype) {
    static const int64_t low[] = {0, INT8_MIN, INT16_MIN, INT32_MIN};
    static const int64_t high[] = {UINT8_MAX, INT8_MAX, INT16_MAX, INT32_MAX};
    if (value->kind == GEMS_COMPLEX) return dtype == GEMS_C128;
    if (dtype == GEMS_BOOL || dtype == GEMS_F64 || dtype == GEMS_C128) return true;
    double number = value->kind == GEMS_FLOAT ? value->f : (double)value->i;
    switch (dtype) {
    case GEMS_F16: return !isfinite(number) || fabs(number) <= 65504.0;
    case GEMS_BF16: return !isfinite(number) || fabs(number) <= 3.3895313892515355e38;
    case GEMS_C64:
    case GEMS_F32: return !isfinite(number) || fabs(number) <= 3.4028234663852886e38;
    case GEMS_I64: return value->kind != GEMS_FLOAT || fabs(number) < 9.2233720368547758e18;
    default: break;
    }
    if (dtype > GEMS_I32) return false;
    if (value->kind == GEMS_FLOAT)
        return number >= (double)low[dtype] && number <= (double)high[dtype];
    return value->i >= low[dtype] && value->i <= high[dtype];
}
