#include "token_rows.h"

/* Elements that the dims with strides below `limit` reach over. */
static int64_t reach_below(const gems_tensor *t, int64_t limit) {
    int64_t reach = 1;
    for (int d = 0; d < t->ndim; d++)
        if (t->sizes[d] > 1 && t->strides[d] < limit) reach += (t->sizes[d] - 1) * t->strides[d];
    return reach;
}

static bool steps_by(const gems_tensor *t, int64_t period) {
    for (int d = 0; d < t->ndim; d++)
        if (t->sizes[d] > 1 && t->strides[d] >= period && t->strides[d] % period) return false;
    return true;
}

/* Whether a and b keep to places of their own in every period of so many elements. */
static bool take_turns(const gems_tensor *a, const gems_tensor *b, int64_t period) {
    int64_t size = (int64_t)gems_dtype_size(a->dtype);
    int64_t bytes = (const char *)b->data - (const char *)a->data;
    if (period <= 0 || bytes % size || !steps_by(a, period) || !steps_by(b, period)) return false;
    int64_t from = bytes / size % period;
    if (from < 0) from += period;
    return from >= reach_below(a, period) && from + reach_below(b, period) <= period;
}

bool gems_may_share(const gems_tensor *a, const gems_tensor *b) {
    gems_overlap overlap = gems_overlap_of(a, b);
    if (overlap != GEMS_PARTLY) return overlap == GEMS_SAME;
    if (gems_dtype_size(a->dtype) != gems_dtype_size(b->dtype)) return true;
    for (int d = 0; d < a->ndim; d++)
        if (a->sizes[d] > 1 && take_turns(a, b, a->strides[d])) return false;
    return true;
}

gems_status gems_claim(gems_call *call, int slot, int arg) {
    const gems_tensor *t = gems_arg_tensor(call, arg);
    if (!t) return gems_decline("what is to be written is no tensor");
    if (t->device_type != call->device_type || t->device_index != call->device_index)
        return gems_decline("what is to be written is on another device");
    if (gems_overlaps_itself(t)) return gems_decline("what is to be written overlaps itself");
    for (int i = 0; i < call->nargs; i++)
        if (i != arg && call->args[i].kind == GEMS_TENSOR && gems_may_share(t, &call->args[i].t))
            return gems_decline("what is to be written shares memory with another argument");
    call->out[slot] = *t;
    call->made |= (uint8_t)(1u << slot);
    call->nonempty |= t->numel > 0;
    return GEMS_OK;
}
