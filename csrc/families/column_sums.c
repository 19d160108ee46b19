#include "column_sums.h"

gems_column_sums gems_column_sums_make(const gems_device_info *info, int64_t rows, int64_t n,
                                       int vec, int dtype) {
    gems_column_sums s = {.team = {.vec = (uint8_t)(info->fast ? 16 : vec),
                                   .items = 1,
                                   .threads = info->fast ? 1 : 256},
                          .grid = {1, 1, 1},
                          .block = {1, 1, 1},
                          .n = n,
                          .element = gems_dtype_size(dtype),
                          .fast = info->fast};
    if (info->fast) {
        s.parts = rows / 128 < 64 ? rows / 128 : 64;
        s.grid[0] = gems_grid_for(info, (n + 63) / 64, 1);
    } else {
        int64_t units = (n + vec - 1) / vec;
        int bx = gems_power_of_two(units, 32), by = 256 / bx;
        int64_t columns = (units + bx - 1) / bx, most = rows / (4 * by);
        s.parts = (4 * (int64_t)info->processors + columns - 1) / columns;
        if (s.parts > most) s.parts = most;
        s.grid[0] = (uint32_t)columns;
        s.block[0] = (uint32_t)bx;
        s.block[1] = (uint32_t)by;
        s.shared = (uint32_t)((size_t)(2 * vec * bx * by) * s.element);
    }
    if (s.parts < 1) s.parts = 1;
    s.run = (rows + s.parts - 1) / s.parts;
    if (s.run) s.parts = (rows + s.run - 1) / s.run;
    s.grid[1] = (uint32_t)s.parts;
    return s;
}

gems_status gems_column_sums_open(gems_call *call, gems_column_sums *s) {
    if (s->parts == 1) return GEMS_OK;
    return gems_scratch(call, (size_t)(2 * s->parts * s->n) * s->element, &s->partial);
}

gems_status gems_column_sums_launch(gems_call *call, const gems_plan *plan,
                                    const gems_column_sums *s, void **args, void *first,
                                    void *second) {
    GEMS_TRY(gems_call_launch(call, plan, 0, s->grid, s->block, s->shared, args));
    if (s->parts == 1) return GEMS_OK;
    const gems_device_info *info = gems_device_information(call->device);
    int32_t n = (int32_t)s->n;
    int64_t parts = s->parts;
    void *partial = s->partial;
    uint32_t grid[3] = {s->fast ? gems_grid_for(info, n, 4096) : (uint32_t)(n + 31) / 32, 1, 1};
    uint32_t block[3] = {s->fast ? 1 : 32, s->fast ? 1 : 8, 1};
    void *finish[] = {&partial, &first, &second, &n, &parts};
    return gems_call_launch(call, plan, 1, grid, block, s->fast ? 0 : (uint32_t)(512 * s->element),
                            finish);
}
