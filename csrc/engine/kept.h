/* Calls seen before: what a family worked out for a call is kept, and a call alike is launched at once.
 *
 * Only functional calls of one launch are kept, and only where the family says that nothing but the
 * arguments' dtypes, shapes, strides, alignment and numbers decided (gems_call_launch_kept). Each
 * thread keeps its own, so that no lock is needed and a change of shapes costs no other thread.
 */
#ifndef GEMS_KEPT_H
#define GEMS_KEPT_H

#include "../families/call.h"

#define GEMS_KEPT_ARGS    8  /* a call with more is not kept */
#define GEMS_KEPT_DIMS    5  /* nor one with a tensor of more */
#define GEMS_KEPT_NUMBERS 4  /* nor one with a list of more */
#define GEMS_KEPT_RESULTS 3  /* nor one that gives more */
#define GEMS_KEPT_PARAMS  16 /* nor a kernel with more */
#define GEMS_KEPT_BYTES   1024 /* of all parameters */
#define GEMS_KEPT_ALIGN   63 /* bits of an address that may decide a program or its geometry */

typedef struct gems_kept_tensor {
    int64_t sizes[GEMS_KEPT_DIMS], strides[GEMS_KEPT_DIMS];
    int32_t ndim;
    uint8_t dtype, device_type;
    int16_t device_index;
    uint8_t low; /* bits of the address */
} gems_kept_tensor;

typedef struct gems_kept_arg {
    uint8_t kind;
    union {
        gems_kept_tensor t;
        int64_t i;
        double c[2];
        struct {
            int64_t v[GEMS_KEPT_NUMBERS];
            int32_t n;
        } ints;
        char s[16];
    };
} gems_kept_arg;

typedef struct gems_kept {
    bool whole; /* the call that it comes from ended well */
    uint8_t nargs, results, patches, made;
    int16_t device_type, device_index;
    gems_device *device;
    const gems_plan *plan;
    gems_launch launch;
    struct {
        void **at;    /* a parameter */
        uint8_t from; /* whose memory it is: an argument, or GEMS_KEPT_ARGS + a result */
    } patch[GEMS_KEPT_ARGS + GEMS_KEPT_RESULTS];
    void *params[GEMS_KEPT_PARAMS];
    gems_kept_arg arg[GEMS_KEPT_ARGS];
    uint64_t word[GEMS_KEPT_ARGS]; /* of an int or a bool, for the shim */
    struct {
        int64_t sizes[GEMS_KEPT_DIMS], strides[GEMS_KEPT_DIMS];
        uint8_t ndim, dtype, slot;
    } result[GEMS_KEPT_RESULTS];
    union {
        char bytes[GEMS_KEPT_BYTES];
        int64_t align;
    } store;
} gems_kept;

/* The memory of a call's arguments and results, as patches count them. */
typedef struct gems_kept_memory {
    void *of[GEMS_KEPT_ARGS + GEMS_KEPT_RESULTS];
} gems_kept_memory;

/* What this thread keeps of the entry for a first tensor of so many elements (0: the first argument
 * is none); NULL. It is the caller's to see that the arguments are alike. */
gems_kept *gems_kept_at(const gems_entry *entry, int64_t numel);

static inline bool gems_kept_same(const gems_kept_tensor *k, const gems_tensor *t) {
    if (k->ndim != t->ndim || k->dtype != t->dtype || k->device_type != t->device_type ||
        k->device_index != t->device_index || !t->data ||
        ((uintptr_t)t->data & GEMS_KEPT_ALIGN) != k->low)
        return false;
    for (int d = 0; d < t->ndim; d++)
        if (k->sizes[d] != t->sizes[d] || k->strides[d] != t->strides[d]) return false;
    return true;
}

/* What this thread keeps for the call, and the memory of its arguments; NULL. */
gems_kept *gems_kept_find(const gems_call *call, gems_kept_memory *memory);

/* Makes the outputs and launches; memory has the arguments'. As gems_call_run, without counting. Of
 * the call only host and host_data need be set. */
static inline gems_status gems_kept_run(gems_kept *kept, gems_call *call, gems_kept_memory *memory) {
    call->device = kept->device;
    call->device_type = kept->device_type;
    call->device_index = kept->device_index;
    call->made = kept->made;
    for (int i = 0; i < kept->results; i++) {
        int slot = kept->result[i].slot;
        void *data = call->host->fresh(call, slot, kept->result[i].ndim, kept->result[i].sizes,
                                       kept->result[i].strides, kept->result[i].dtype);
        if (!data) { /* the next call is its family's, which says why */
            kept->whole = false;
            return gems_decline("no output of the kind that was kept");
        }
        memory->of[GEMS_KEPT_ARGS + slot] = data;
    }
    for (int i = 0; i < kept->patches; i++)
        *kept->patch[i].at = memory->of[kept->patch[i].from];
    if (kept->device_type != GEMS_CPU) kept->launch.stream = call->host->stream(call);
    return gems_plan_launch(kept->device, kept->plan, 0, &kept->launch);
}

/* The call that began keeping has ended well. */
void gems_kept_finish(gems_call *call);

#endif
