/* The null backend runs nothing: it stands in for a device where the call path is timed and plans
 * are tested. */
#ifndef GEMS_NULL_H
#define GEMS_NULL_H

#include "backend.h"

/* The last launch, whichever thread made it. */
typedef struct gems_null_record {
    uint64_t launches; /* since the process began, or since gems_null_clear */
    const char *name;  /* the launch's own, borrowed; NULL before the first */
    int entry;
    uint32_t grid[3], block[3], shared;
    void *stream;
} gems_null_record;

gems_null_record gems_null_last(void);
void gems_null_clear(void);

#endif
