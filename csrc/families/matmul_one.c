/* The product of a matrix and a column. Twin of kernels/matmul_one.cu. */
#include "matmul.h"
#include "../base/dtype.h"

#define THREADS 256
#define WARPS   (THREADS / 32)
#define OWN     2 /* lines of a warp */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Whether its kernel takes this product, whose n is 1: floats, of which A has whole vectors and the
 * column lies side by side. Fewer elements are for those kernels that have been measured with them.
 */
bool gems_matmul_one_takes(const gems_device_info *info, const gems_matmul_product *t, int feed) {
    const gems_matmul_params *p = &t->p;
    const gems_matmul_types *types = &t->types;
    if (info->fast || types->scaled || types->a != types->b || types->a != types->result ||
        !(GEMS_FLOAT_MASK >> types->a & 1) || p->n != 1 || p->k < 1)
        return false;
    if (feed != GEMS_ALONG_K && feed != GEMS_ALONG_LINES) return false;
    if (p->b_k != 1 && p->k > 1) return false;
    if (feed == GEMS_ALONG_K &&
        ((uintptr_t)p->b % 16 || (p->batch > 1 && p->b_batch * gems_dtype_size(types->b) % 16)))
        return false;
    /* Few lines are too few for a device. */
    return ((int64_t)p->m * p->batch >= 256 || p->k <= 4096) && p->m < 1 << 30;
}

/* Whether the kernel of few columns takes a product: they and the matrix lie along k. */
bool gems_matmul_few_takes(const gems_device_info *info, const gems_matmul_product *t, int feed_a,
                           int feed_b) {
    const gems_matmul_params *p = &t->p;
    const gems_matmul_types *types = &t->types;
    return !info->fast && (!info->arch || info->arch >= 80) && !types->scaled &&
           types->a == types->b && types->a == types->result && GEMS_HALF_MASK >> types->a & 1 &&
           p->n > 1 && p->n <= GEMS_MATMUL_FEW_COLUMNS && feed_a == GEMS_ALONG_K &&
           feed_b == GEMS_ALONG_K && p->k >= 1 && p->k % 8 == 0 &&
           ((int64_t)p->m * p->batch >= 256 || p->k <= 4096) && p->m < 1 << 30;
}

static gems_status few(gems_call *call, gems_matmul_params *p, int dtype) {
    const gems_device_info *info = gems_device_information(call->device);
    const int columns = p->n > 8 ? 16 : 8;
    const int64_t processors = info->processors, groups = p->batch * ceil_div(p->m, 16);
    int64_t share = 1;
    uint32_t cluster = 1;
    while (share < WARPS && groups * share * 2 <= 2 * processors * WARPS && p->k >= share * 256)
        share *= 2;
    const int64_t outputs = WARPS / share * 16, tiles = ceil_div(p->m, outputs);
    const uint32_t most = info->arch >= 90 ? 8 : info->hopper ? 2 : 1;
    while (share == WARPS && cluster < most &&
           (!info->arch ||
            (p->batch * tiles * cluster * 4 < processors * 3 && p->k >= share * cluster * 256)))
        cluster *= 2;
    p->parts.split_k = (int32_t)(ceil_div(ceil_div(p->k, share * cluster), 32) * 32);
    p->parts.share = (int32_t)cluster;
    p->parts.tiles_m = (int32_t)tiles;
    const int64_t blocks = p->batch * tiles * cluster;
    if (blocks > INT32_MAX) return gems_decline("more tiles than a grid takes");
    gems_key key;
    gems_matmul_few_key(dtype, columns, (int)share, cluster > 1, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {p};
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {THREADS, 1, 1};
    return gems_call_launch_cluster(call, plan, 0, grid, block, cluster, 0, args);
}

/* Launches it, or that of few columns. */
gems_status gems_matmul_one(gems_call *call, gems_matmul_params *p, int dtype, int feed) {
    const gems_device_info *info = gems_device_information(call->device);
    const int64_t vector = 16 / (int64_t)gems_dtype_size(dtype), processors = info->processors;
    const bool lines = feed == GEMS_ALONG_LINES;
    int64_t share = 1, outputs, unit;
    if (p->n > 1) return few(call, p, dtype);
    uint32_t cluster = 1;
    if (lines) {
        /* Two blocks for each processor, and no third, whose processors the others would wait
         * for. */
        share = 16;
        while (share > 4 && p->batch * ceil_div(p->m, share * vector) * 12 < 2 * processors)
            share /= 2;
        outputs = share * vector;
        const int64_t blocks = p->batch * ceil_div(p->m, outputs), down = THREADS / share * 8;
        const uint32_t most = info->arch >= 90 ? 8 : info->hopper ? 2 : 1;
        while (cluster < most && (!info->arch || 2 * blocks * cluster <= 2 * processors) &&
               (!info->arch || p->k >= 2 * cluster * down))
            cluster *= 2;
        unit = THREADS / share;
        p->parts.split_k = (int32_t)(ceil_div(ceil_div(p->k, cluster), unit) * unit);
    } else {
        unit = 32 * vector;
        while (share < WARPS && p->batch * ceil_div(p->m, OWN) * share < 12 * processors &&
               p->k >= 2 * share * unit * 4)
            share *= 2;
        outputs = WARPS / share * OWN;
        p->parts.split_k = (int32_t)(ceil_div(ceil_div(p->k, share), unit) * unit);
    }
    p->parts.share = (int32_t)cluster;
    p->parts.tiles_m = (int32_t)ceil_div(p->m, outputs);
    const int64_t blocks = p->batch * p->parts.tiles_m * cluster;
    if (blocks > INT32_MAX) return gems_decline("more tiles than a grid takes");
    gems_key key;
    gems_matmul_one_key(dtype, lines, (int)share, cluster > 1, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {p};
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {THREADS, 1, 1};
    return gems_call_launch_cluster(call, plan, 0, grid, block, cluster, 0, args);
}
