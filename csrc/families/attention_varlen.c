#include "attention.h"
gems_status gems_attention_varlen_run(gems_call *call) {
    (void)call;
    return gems_decline("todo");
}
