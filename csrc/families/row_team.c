/* How rows are spread over threads, blocks and clusters: no state, no measurement. */
#include "call.h"
#include "row_team.h"

int gems_power_of_two(int64_t n, int most) {
    int p = 1;
    while (p < n && p < most) p *= 2;
    return p;
}

static gems_team fast_team(const gems_device_info *info, int64_t rows, int64_t n) {
    return (gems_team){
        .vec = 16, .items = 1, .threads = 1, .grid = gems_grid_for(info, rows, 16384 / n + 1)};
}

/* Most blocks of a cluster: eight of any device that has them, sixteen where all of them find room.
 */
static int most_blocks(const gems_device_info *info) {
    if (info->arch >= 120) return 8;
    return info->arch >= 90 ? 16 : !info->arch && info->hopper ? 8 : 1;
}

int gems_team_share(const gems_device_info *info, int64_t rows, int64_t work) {
    int cluster = 1, most = most_blocks(info) < 8 ? most_blocks(info) : 8;
    while (cluster < most && rows * cluster <= info->processors && work >= 1024 * cluster)
        cluster *= 2;
    return cluster;
}

/* Accesses that a thread keeps of each row. */
static int held_vectors(const gems_rows *r, int vec) {
    int all = r->size == 8 && r->registers == 1 ? 4 : 8;
    return vec == 1 ? 8 : all / r->registers;
}

/* A thread keeps up to eight accesses in 64 registers, so that blocks of 512 threads are two on a
 * processor: one reads while the other one writes. Devices without clusters have larger blocks. */
static gems_team block_team(const gems_device_info *info, const gems_rows *r, int vec) {
    gems_team team = {.vec = (uint8_t)vec, .stage = GEMS_STAGE_REGISTERS};
    const int most = most_blocks(info), large = most > 1 ? 512 : 1024;
    const int held = held_vectors(r, vec);
    const int64_t vectors = (r->n + vec - 1) / vec, room = info->shared_bytes - 4096,
                  half = info->shared_bytes / 2 - 4096, bytes = vec * (int64_t)r->size * r->kept;
    int cluster = 1;
    while (cluster < most && vectors > (int64_t)large * held * cluster) cluster *= 2;
    if (vectors > (int64_t)large * held * cluster) {
        /* Of a part in shared memory two find room on a processor, or else one. */
        cluster = 1;
        while (cluster < most && (vectors + cluster - 1) / cluster * bytes > half) cluster *= 2;
        int64_t own = (vectors + cluster - 1) / cluster * bytes;
        if (own > half && cluster > 8) {
            cluster = 8;
            own = (vectors + cluster - 1) / cluster * bytes;
        }
        team.stage = own <= room ? GEMS_STAGE_SHARED : GEMS_STAGE_AGAIN;
    }
    const int share = gems_team_share(info, r->rows, vectors);
    if (share > cluster) cluster = share;
    const int64_t own = (vectors + cluster - 1) / cluster;
    team.cluster = (uint8_t)cluster;
    team.items = 1;
    if (team.stage == GEMS_STAGE_REGISTERS) {
        team.threads = (uint32_t)gems_power_of_two((own + 3) / 4, 256);
        if (team.threads < 64) team.threads = 64;
        while ((own + team.threads - 1) / team.threads > held) team.threads *= 2;
        team.items = (uint8_t)gems_power_of_two((own + team.threads - 1) / team.threads, held);
    } else {
        if (team.stage == GEMS_STAGE_SHARED) team.shared = (uint32_t)(own * bytes);
        team.threads = team.shared > half || most == 1 ? 1024 : 512;
    }
    return team;
}

gems_team gems_team_of(const gems_device_info *info, const gems_rows *r) {
    if (info->fast) return fast_team(info, r->rows, r->n);
    int64_t rows = r->rows, cap = 64 * (int64_t)info->processors;
    int vec = r->aligned ? 16 / (int)r->size : 1;
    int held = held_vectors(r, vec);
    int items = gems_power_of_two(((r->n + vec - 1) / vec + 31) / 32, 16);
    gems_team team;
    if (items <= held && (items <= 2 || rows >= 4 * (int64_t)info->processors)) {
        team = (gems_team){.vec = (uint8_t)vec,
                           .stage = GEMS_STAGE_REGISTERS,
                           .items = (uint8_t)items,
                           .warp_row = 1,
                           .cluster = 1,
                           .threads = 128};
        rows = (rows + 3) / 4;
    } else {
        team = block_team(info, r, vec);
    }
    team.grid = (uint32_t)(rows < cap ? rows : cap) * team.cluster;
    return team;
}

gems_team gems_team_make(const gems_device_info *info, int64_t rows, int64_t n, size_t size,
                         int kept, bool aligned) {
    return gems_team_of(info, &(gems_rows){rows, n, size, kept, kept, aligned});
}
