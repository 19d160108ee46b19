/* Rows of composite operators: names for the explicit functions, without kernels of their own. */
#include "call.h"

static gems_status run(gems_call *call) {
    (void)call;
    return gems_decline("a composite operator");
}

const gems_family gems_family_composite = {.name = "composite", .run = run};
