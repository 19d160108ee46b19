/* How rows are spread over threads, blocks and clusters. */
#ifndef GEMS_ROW_TEAM_H
#define GEMS_ROW_TEAM_H

#include "../backend/backend.h"

/* Where a row stays while it is read several times. */
enum { GEMS_STAGE_AGAIN, GEMS_STAGE_REGISTERS, GEMS_STAGE_SHARED };

/* Where the rows of all tensors that are read and written by them begin: anywhere, at accesses of
 * 16 bytes, or each at the same distance from one in all tensors. */
typedef enum gems_lie { GEMS_LIE_ANYHOW, GEMS_LIE_ALIGNED, GEMS_LIE_ALIKE } gems_lie;

/* How rows are spread over threads. */
typedef struct gems_team {
    uint8_t vec, stage, items, warp_row;
    uint8_t cluster; /* blocks that have a row together; 0 or 1: one */
    uint8_t ahead;   /* while a row is written the next one is copied to shared memory */
    uint8_t edges;   /* rows have elements before and behind their whole accesses */
    uint32_t threads, grid, shared;
} gems_team;

/* What is to be done to rows. */
typedef struct gems_rows {
    int64_t rows, n;
    size_t size;   /* of an element, bytes */
    int registers; /* rows' worth of registers that a thread needs: 1, 2 or 4 */
    int kept;      /* rows that lie in shared memory where registers do not suffice */
    int lie;       /* a gems_lie; not GEMS_LIE_ALIKE where the kernel has no edges */
} gems_rows;

/* The team for them. */
gems_team gems_team_of(const gems_device_info *info, const gems_rows *rows);
/* The same, where `kept` rows are held at once wherever they are. */
gems_team gems_team_make(const gems_device_info *info, int64_t rows, int64_t n, size_t size,
                         int kept, gems_lie lie);
/* Blocks that share a row of `work` accesses which is read as it comes, so that few rows fill the
 * device too: a power of two, 1 where the device has no clusters. */
int gems_team_share(const gems_device_info *info, int64_t rows, int64_t work);

/* A power of two, at least n where `most` allows it. */
int gems_power_of_two(int64_t n, int most);

#endif
