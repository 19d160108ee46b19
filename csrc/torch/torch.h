/* What python/ and the routes need of torch, without torch's headers. A handle is an at::Tensor *;
 * a borrowed handle is the address of the word in a Python tensor that holds its TensorImpl
 * pointer. */
#ifndef GEMS_TORCH_H
#define GEMS_TORCH_H

#include "../families/call.h"
#include "symbols.h"

/* Where things lie in torch's objects: found and checked at import (python/probe.c); -1: not found.
 */
typedef struct gems_torch_layout {
    int impl;     /* TensorImpl pointer in a Python tensor */
    int keys;     /* dispatch key set in a TensorImpl */
    int autograd; /* autograd_meta pointer in a TensorImpl */
    int shape; /* rank, then five sizes and five strides in a TensorImpl of at most five dimensions
                */
    int numel,
        dtype; /* in a TensorImpl; the device's type is the byte after the two of the dtype */
    int storage, offset; /* StorageImpl pointer and storage offset in a TensorImpl */
    int data;            /* data pointer in a StorageImpl */
    uint64_t plain;   /* keys that a dense tensor without conj, neg, wrapper or subclass may have */
    uint64_t dense;   /* keys that it must have */
    uint64_t inplace; /* the key ADInplaceOrView: inference tensors lack it */
    uint64_t below;   /* keys that inference mode excludes on a thread */
} gems_torch_layout;
extern gems_torch_layout gems_layout;

static inline const char *gems_handle_impl(const void *handle) { return *(char *const *)handle; }
static inline uint64_t gems_impl_keys(const char *impl) {
    return *(const uint64_t *)(impl + gems_layout.keys);
}
static inline bool gems_keys_plain(uint64_t keys) {
    return (keys & ~gems_layout.plain) == 0 && (keys & gems_layout.dense) == gems_layout.dense;
}

#define GEMS_INLINE_DIMS 5 /* a TensorImpl of more dimensions holds its shape elsewhere */

/* Where the storage of a TensorImpl begins: its fields must be known (shape >= 0). */
static inline char *gems_fields_data(const char *impl) {
    const char *storage = *(const char *const *)(impl + gems_layout.storage);
    return *(char *const *)(storage + gems_layout.data);
}

/* Reads the fields of a TensorImpl; the device's index is left 0. False: they are not known, or it
 * has too many dimensions. */
static inline bool gems_fields_read(const char *impl, gems_tensor *t) {
    const gems_torch_layout *at = &gems_layout;
    if (at->shape < 0) return false;
    const int64_t *shape = (const int64_t *)(impl + at->shape);
    if (shape[0] > GEMS_INLINE_DIMS) return false;
    const uint8_t *type = (const uint8_t *)(impl + at->dtype);
    char *data = gems_fields_data(impl);
    int64_t offset = *(const int64_t *)(impl + at->offset);
    t->data = offset ? data + offset * (int64_t)gems_dtype_size(type[0]) : data;
    t->sizes = shape + 1;
    t->strides = shape + 1 + GEMS_INLINE_DIMS;
    t->numel = *(const int64_t *)(impl + at->numel);
    t->ndim = (int32_t)shape[0];
    t->dtype = type[0];
    t->device_type = type[2];
    t->device_index = 0;
    return true;
}

/* Fills *t from a handle: from the TensorImpl's own fields where they are known (then a lazily
 * copied tensor keeps its shared memory: call gems_handle_write before writing), else by torch's
 * functions. Sizes and strides belong to the tensor. False: it has none (undefined, sparse, ...).
 */
bool gems_handle_read(void *handle, gems_tensor *t);
/* Gets memory of a tensor that is going to be written. */
bool gems_handle_write(void *handle, gems_tensor *t);

/* What a call made with torch's allocator: host_data of a call whose host is one of the two below.
 */
typedef struct gems_torch_call {
    void *out[GEMS_MAX_OUTS]; /* new handles, NULL where none; the route takes them */
    int scratches;
    void *scratch[GEMS_MAX_SCRATCH]; /* so many of them; on the hot path, thus not cleared */
} gems_torch_call;
static inline void gems_torch_call_open(gems_torch_call *made) {
    for (int i = 0; i < GEMS_MAX_OUTS; i++) made->out[i] = NULL;
    made->scratches = 0;
}
void gems_torch_call_free(gems_torch_call *made, bool keep);
/* Frees the scratch handles, and the outputs too unless keep. */
static inline void gems_torch_call_close(gems_torch_call *made, bool keep) {
    bool outputs = false;
    for (int i = 0; i < GEMS_MAX_OUTS; i++) outputs |= made->out[i] != NULL;
    if (made->scratches || (outputs && !keep)) gems_torch_call_free(made, keep);
}

/* Calls whose arguments came as Python objects, and through the stable shim. */
extern const gems_host gems_host_torch, gems_host_shim;

/* Set by python/: what needs the interpreter. Each takes the GIL by itself. */
typedef struct gems_torch_python {
    gems_status (*resize)(gems_call *call, gems_tensor *t, int ndim, const int64_t *sizes);
    gems_status (*philox)(gems_call *call, void *generator, uint64_t increment, uint64_t *seed,
                          uint64_t *offset);
    /* Runs ATen's kernel on a shim stack: takes the arguments, leaves the results. Throws through
     * its caller when ATen's kernel raises. */
    void (*fallback)(gems_entry *entry, uint64_t *stack, const char *reason);
    void (*observe)(const gems_call *call, gems_status status, int64_t nanoseconds);
    /* Raises what gems_error_text says, through its caller. */
    void (*raise)(void);
} gems_torch_python;
extern gems_torch_python gems_python;

/* True: the entry's kernel may run on this thread. */
static inline bool gems_gate_open(const gems_entry *entry);
#define GEMS_ALL_ENTRIES (-1)
/* Set around a call that flag_gems.ops passes to the dispatcher: the function's entries run their
 * kernel although the gate is closed (force), or ATen's although it is open (skip). */
typedef struct gems_thread_gate {
    const uint16_t *entries;
    int count; /* GEMS_ALL_ENTRIES: it concerns every entry */
    bool force;
} gems_thread_gate;
extern _Thread_local gems_thread_gate gems_this_thread;
extern int gems_special_gates; /* threads that have set one, changed atomically */
bool gems_gate_special(const gems_entry *entry);
static inline bool gems_gate_open(const gems_entry *entry) {
    if (__builtin_expect(__atomic_load_n(&gems_special_gates, __ATOMIC_RELAXED) != 0, 0))
        return gems_gate_special(entry);
    return __atomic_load_n(&entry->gate, __ATOMIC_RELAXED);
}

/* One flag for all that is rarely on: log records, explain, strict mode. */
extern bool gems_observing;

/* ---- the stable shim (route_shim.c) ---- */
/* True when this torch can carry all arguments of the entry through the shim. */
bool gems_shim_carries(const gems_entry *entry);
/* Registers entries on a dispatch key ("CPU"). *library: to close later. GEMS_ERROR when torch
 * refuses; entries already taken stay until the library is closed. */
gems_status gems_shim_register(const char *key, const uint16_t *entries, int count, void **library);
void gems_shim_close(void *library);
/* Frees one argument of a shim stack. */
void gems_shim_release(const gems_arg *arg, uint64_t word);

#endif
