#include "../engine/call.h"

static gems_status run(gems_call *call) {
    (void)call;
    return gems_decline("no kernel yet");
}

const gems_family gems_family_random = {.name = "random", .run = run};
