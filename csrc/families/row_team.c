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

/* The least cluster in which a block has at most so many vectors; more than most: there is none. */
static int cluster_for(int64_t vectors, int64_t of_block, int most) {
    int cluster = 1;
    while (cluster <= most && vectors > of_block * cluster) cluster *= 2;
    return cluster;
}

/* Up to 2048 accesses lie in the registers of a block. More lie in shared memory, so that two
 * blocks or more are on a processor: one reads while the other one writes (faster on an H200 than
 * registers, of which there are enough for two). */
static gems_team block_team(const gems_device_info *info, const gems_rows *r, int vec) {
    gems_team team = {.vec = (uint8_t)vec, .stage = GEMS_STAGE_SHARED, .items = 1};
    const int most = most_blocks(info), all = most < 8 ? most : 8;
    const int64_t vectors = (r->n + vec - 1) / vec, bytes = vec * (int64_t)r->size,
                  room = info->shared_bytes - 4096, half = info->shared_bytes / 2 - 4096;
    const int held = held_vectors(r, vec);
    int cluster = cluster_for(vectors, half / (bytes * r->kept), most);
    /* Of two rows sixteen blocks take longer than eight that read them again. */
    if (r->kept > 1 && cluster > all && cluster <= most) {
        cluster = all;
        team.stage = GEMS_STAGE_AGAIN;
    } else if (cluster > most) {
        team.stage = GEMS_STAGE_SHARED;
        cluster = cluster_for(vectors, room / (bytes * r->kept), all);
        if (cluster > all) team.stage = GEMS_STAGE_AGAIN;
        if (cluster > all) cluster = all;
    }
    const int share = gems_team_share(info, r->rows, vectors);
    if (share > cluster) cluster = share;
    const int64_t own = (vectors + cluster - 1) / cluster;
    team.cluster = (uint8_t)cluster;
    if (own <= 2048 && own <= 512 * held) team.stage = GEMS_STAGE_REGISTERS;
    if (team.stage == GEMS_STAGE_REGISTERS) {
        /* A cluster's exchange takes registers too. */
        team.threads = (uint32_t)gems_power_of_two((own + 3) / 4, cluster > 1 ? 512 : 256);
        if (team.threads < 64) team.threads = 64;
        while ((own + team.threads - 1) / team.threads > held) team.threads *= 2;
        team.items = (uint8_t)gems_power_of_two((own + team.threads - 1) / team.threads, held);
    } else {
        if (team.stage == GEMS_STAGE_SHARED) team.shared = (uint32_t)(own * bytes * r->kept);
        team.threads = team.shared > half || most == 1 ? 1024 : 512;
    }
    return team;
}

gems_team gems_team_of(const gems_device_info *info, const gems_rows *r) {
    if (info->fast) return fast_team(info, r->rows, r->n);
    int64_t rows = r->rows, cap = 64 * (int64_t)info->processors;
    /* Of a short row a thread has one element each way. */
    const bool edges = r->lie == GEMS_LIE_ALIKE && r->n > 32;
    int vec = r->lie == GEMS_LIE_ALIGNED || edges ? 16 / (int)r->size : 1;
    int held = held_vectors(r, vec);
    int items = gems_power_of_two(((r->n + vec - 1) / vec + 31) / 32, 16);
    gems_team team;
    if (items <= held && (items <= 2 || rows >= 4 * (int64_t)info->processors)) {
        /* Two rows a block where a thread has many registers (faster on an H200 than four). */
        const int threads = items > 4 ? 64 : 128;
        team = (gems_team){.vec = (uint8_t)vec,
                           .stage = GEMS_STAGE_REGISTERS,
                           .items = (uint8_t)items,
                           .warp_row = 1,
                           .cluster = 1,
                           .threads = (uint32_t)threads};
        rows = (rows + threads / 32 - 1) / (threads / 32);
    } else {
        team = block_team(info, r, vec);
    }
    team.grid = (uint32_t)(rows < cap ? rows : cap) * team.cluster;
    team.edges = edges;
    return team;
}

gems_team gems_team_make(const gems_device_info *info, int64_t rows, int64_t n, size_t size,
                         int kept, gems_lie lie) {
    return gems_team_of(info, &(gems_rows){rows, n, size, kept, kept, lie});
}
