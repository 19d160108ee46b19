#include "rows.h"

int64_t gems_row_stride(const gems_tensor *x, int outer) {
    int64_t step = 1, stride = 0, next = 0;
    bool found = false;
    for (int d = x->ndim - 1; d >= outer; d--) {
        if (x->sizes[d] != 1 && x->strides[d] != step) return 0;
        step *= x->sizes[d];
    }
    for (int d = outer - 1; d >= 0; d--) {
        if (x->sizes[d] == 1) continue;
        if (found && x->strides[d] != next) return 0;
        if (!found) stride = x->strides[d];
        found = true;
        next = x->strides[d] * x->sizes[d];
    }
    return found ? stride : step;
}

gems_lie gems_rows_lie(size_t size, int64_t n, int count, const void *const *data,
                       const int64_t *apart) {
    const int64_t vec = 16 / (int64_t)size;
    uintptr_t begin = 0;
    int64_t step = n % vec;
    bool found = false, whole = step == 0;
    for (int i = 0; i < count; i++) {
        if (!data[i]) continue;
        const uintptr_t at = (uintptr_t)data[i] % 16;
        if (!found) {
            begin = at;
            step = (apart[i] % vec + vec) % vec;
        } else if (at != begin || (apart[i] - step) % vec) {
            return GEMS_LIE_ANYHOW;
        }
        found = true;
    }
    if (begin % size) return GEMS_LIE_ANYHOW;
    return whole && begin == 0 && step == 0 ? GEMS_LIE_ALIGNED : GEMS_LIE_ALIKE;
}

void gems_team_to_key(const gems_team *team, gems_key *key) {
    key->tune[GEMS_TUNE_VEC] = team->vec;
    key->tune[GEMS_TUNE_STAGE] = team->stage;
    key->tune[GEMS_TUNE_ITEMS] = team->items;
    key->tune[GEMS_TUNE_WARPS] = (uint8_t)(team->threads / 32);
    key->tune[GEMS_TUNE_WARP_ROW] = team->warp_row;
    key->tune[GEMS_TUNE_CLUSTER] = team->cluster;
    key->tune[GEMS_TUNE_AHEAD] = team->ahead;
    key->tune[GEMS_TUNE_EDGES] = team->edges;
}

gems_status gems_team_launch(gems_call *call, const gems_plan *plan, const gems_team *team,
                             void **args) {
    uint32_t grid[3] = {team->grid, 1, 1}, block[3] = {team->threads, 1, 1};
    return gems_call_launch_cluster(call, plan, 0, grid, block, team->cluster, team->shared, args);
}

gems_status gems_team_launch_kept(gems_call *call, const gems_plan *plan, const gems_team *team,
                                  void **args, int pointers, const uint16_t *sizes, int count) {
    uint32_t grid[3] = {team->grid, 1, 1}, block[3] = {team->threads, 1, 1};
    return gems_call_launch_cluster_kept(call, plan, grid, block, team->cluster, team->shared, args,
                                         pointers, sizes, count);
}

void gems_team_head(const gems_key *key, gems_text *head) {
    const uint8_t *tune = key->tune;
    gems_text_add(head, "constexpr int kVec = %d, kStage = %d, kItems = %d, kThreads = %d;\n",
                  tune[GEMS_TUNE_VEC], tune[GEMS_TUNE_STAGE], tune[GEMS_TUNE_ITEMS],
                  tune[GEMS_TUNE_WARPS] ? 32 * tune[GEMS_TUNE_WARPS] : 1);
    gems_text_add(
        head,
        "constexpr bool kWarpRow = %s, kAhead = %s, kEdges = %s;\nconstexpr int kCluster = %d;\n",
        tune[GEMS_TUNE_WARP_ROW] ? "true" : "false", tune[GEMS_TUNE_AHEAD] ? "true" : "false",
        tune[GEMS_TUNE_EDGES] ? "true" : "false",
        tune[GEMS_TUNE_CLUSTER] ? tune[GEMS_TUNE_CLUSTER] : 1);
}

void gems_norm_head(const gems_key *key, gems_text *head) {
    gems_text_add(head, "typedef %s T;\ntypedef %s W;\ntypedef %s Stat;\n",
                  gems_dtype_kernel(key->dtype[GEMS_ROW_DATA]),
                  gems_dtype_kernel(key->dtype[GEMS_ROW_OTHER]),
                  gems_dtype_kernel(key->dtype[GEMS_ROW_STAT]));
    gems_team_head(key, head);
}
