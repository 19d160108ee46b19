/* What all backends share. */
#include <stdlib.h>

#include "backend.h"

void gems_blob_free(gems_blob *blob) {
    free(blob->data);
    *blob = (gems_blob){NULL, 0};
}
