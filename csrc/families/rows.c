#include "rows.h"

int gems_power_of_two(int64_t n, int most) {
    int p = 1;
    while (p < n && p < most) p *= 2;
    return p;
}

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

static gems_team fast_team(const gems_device_info *info, int64_t rows, int64_t n) {
    return (gems_team){
        .vec = 16, .items = 1, .threads = 1, .grid = gems_grid_for(info, rows, 16384 / n + 1)};
}

gems_team gems_team_make(const gems_device_info *info, int64_t rows, int64_t n, size_t size,
                         int kept, bool aligned) {
    if (info->fast) return fast_team(info, rows, n);
    int vec = aligned ? 16 / (int)size : 1, most = kept == 2 || size == 8 ? 4 : 8;
    if (vec == 1) most = 8;
    int64_t vectors = (n + vec - 1) / vec, cap = 64 * (int64_t)info->processors;
    gems_team team = {.vec = (uint8_t)vec, .stage = GEMS_STAGE_REGISTERS};
    int warp_items = gems_power_of_two((vectors + 31) / 32, 16);
    if (warp_items <= most && (warp_items <= 2 || rows >= 4 * (int64_t)info->processors)) {
        team.warp_row = 1;
        team.items = (uint8_t)warp_items;
        team.threads = 128;
        rows = (rows + 3) / 4;
    } else {
        team.threads = (uint32_t)gems_power_of_two((vectors + 3) / 4, 1024);
        if (team.threads < 64) team.threads = 64;
        int items = gems_power_of_two((vectors + team.threads - 1) / team.threads, 16);
        team.items = (uint8_t)(items <= most ? items : 1);
        if (items > most) {
            int64_t bytes = n * (int64_t)size * kept;
            bool fits = bytes + 4096 <= info->shared_bytes;
            team.stage = fits ? GEMS_STAGE_SHARED : GEMS_STAGE_AGAIN;
            team.shared = fits ? (uint32_t)bytes : 0;
        }
    }
    team.grid = (uint32_t)(rows < cap ? rows : cap);
    return team;
}

void gems_team_to_key(const gems_team *team, gems_key *key) {
    key->tune[GEMS_TUNE_VEC] = team->vec;
    key->tune[GEMS_TUNE_STAGE] = team->stage;
    key->tune[GEMS_TUNE_ITEMS] = team->items;
    key->tune[GEMS_TUNE_WARPS] = (uint8_t)(team->threads / 32);
    key->tune[GEMS_TUNE_WARP_ROW] = team->warp_row;
}

gems_status gems_team_launch(gems_call *call, const gems_plan *plan, const gems_team *team,
                             void **args) {
    uint32_t grid[3] = {team->grid, 1, 1}, block[3] = {team->threads, 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, team->shared, args);
}

void gems_team_head(const gems_key *key, gems_text *head) {
    const uint8_t *tune = key->tune;
    gems_text_add(head, "constexpr int kVec = %d, kStage = %d, kItems = %d, kThreads = %d;\n",
                  tune[GEMS_TUNE_VEC], tune[GEMS_TUNE_STAGE], tune[GEMS_TUNE_ITEMS],
                  tune[GEMS_TUNE_WARPS] ? 32 * tune[GEMS_TUNE_WARPS] : 1);
    gems_text_add(head, "constexpr bool kWarpRow = %s;\n",
                  tune[GEMS_TUNE_WARP_ROW] ? "true" : "false");
}

void gems_norm_head(const gems_key *key, gems_text *head) {
    gems_text_add(head, "typedef %s T;\ntypedef %s W;\ntypedef %s Stat;\n",
                  gems_dtype_kernel(key->dtype[GEMS_ROW_DATA]),
                  gems_dtype_kernel(key->dtype[GEMS_ROW_OTHER]),
                  gems_dtype_kernel(key->dtype[GEMS_ROW_STAT]));
    gems_team_head(key, head);
}
