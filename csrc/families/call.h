/* One call of an operator, whoever made it: the torch dispatcher, flag_gems.ops, NumPy. */
#ifndef GEMS_CALL_H
#define GEMS_CALL_H

#include "../base/shape.h"
#include "op.h"

#define GEMS_MAX_SCRATCH 8 /* scratch buffers of one call */

typedef struct gems_call gems_call;

/* Who gives and takes tensors. A host never raises: failures are a status with the text recorded. */
typedef struct gems_host {
    const char *name;          /* "torch", "numpy" */
    /* Makes a new tensor for out slot, as empty does, at a multiple of 64 bytes, and returns its memory; NULL: it
     * could not be made so. The function is NULL where the host does not promise that. */
    void *(*fresh)(gems_call *call, int slot, int ndim, const int64_t *sizes, const int64_t *strides, int dtype);
    /* Makes a new tensor and fills *t; the host keeps it for out slot (slot < 0: scratch, freed when the call ends). */
    gems_status (*empty)(gems_call *call, int slot, int ndim, const int64_t *sizes, const int64_t *strides,
                         int dtype, gems_tensor *t);
    /* Resizes the tensor of an argument (an empty out=), contiguous; refreshes *t. */
    gems_status (*resize)(gems_call *call, gems_tensor *t, int ndim, const int64_t *sizes);
    void *(*stream)(const gems_call *call); /* the device's current stream */
    /* torch.result_type of two tensors when the host cannot see which are wrapped numbers; NULL: it can. */
    int (*result_type)(gems_call *call, const gems_tensor *a, const gems_tensor *b);
    /* Whether a GPU's products of float32 matrices are to be rounded to tf32, as things are; NULL: never. */
    bool (*tf32)(void);
    /* Takes `increment` Philox values from a generator (NULL: the default one): seed and offset before. GEMS_DECLINE when it
     * cannot (CUDA graph capture, foreign generator). The cpu backend's numbers come from the CPU generator's seed and a counter. */
    gems_status (*philox)(gems_call *call, void *generator, uint64_t increment, uint64_t *seed, uint64_t *offset);
} gems_host;

struct gems_call {
    const gems_op *op;
    gems_entry *entry;
    const gems_host *host;
    void *host_data;                     /* the host's own */
    int16_t device_type, device_index;   /* set by the host for a call without a tensor (factories) */
    gems_device *device;                 /* set by gems_call_run, as all below but args */
    void *stream;
    int nargs;                           /* what the family sees: entry->inputs */
    bool nonempty;                       /* some output has an element; else launches are skipped */
    uint8_t made;                        /* bit i: out[i] exists */
    uint8_t scratches;
    uint8_t launches;                    /* so far */
    struct gems_kept *keeping;           /* where this call is being kept (engine/kept.c); NULL: nowhere */
    gems_tensor scratch[GEMS_MAX_SCRATCH];
    gems_value args[GEMS_MAX_ARGS];      /* all arguments of the entry's schema, the out ones last */
    gems_tensor out[GEMS_MAX_OUTS];      /* after gems_output */
};

/* Runs a call whose op, entry, host, args are set: picks the device, checks what concerns every operator
 * (rank, one device, dtype known, memory there), runs the family, counts. GEMS_OK: out[0 .. entry->nouts) are the results
 * (made bit clear: the family left that one out, it is None). GEMS_DECLINE: nothing that the user has was changed. */
gems_status gems_call_run(gems_call *call);

/* ---- for families ---- */
/* Makes output i: a new tensor; or the self / out argument of the entry's variant, checked (sizes, dtype, strides, overlap
 * with the inputs; an empty out is resized). In an in-place call out[0] is args[0]'s memory, whatever allows_alias says. strides NULL: contiguous. Declines where ATen is to warn or raise. Fills call->out[i].
 * Nothing has been written to a user's tensor before all outputs exist: make outputs after every check. */
gems_status gems_output(gems_call *call, int i, int ndim, const int64_t *sizes, const int64_t *strides, int dtype);

/* The same for a row that only exists in place (fill_, copy_, uniform_): out[0] = args[0] as it is. Declines when it overlaps
 * itself or partly overlaps another argument. */
gems_status gems_output_self(gems_call *call);

/* Device memory for the length of the call. */
gems_status gems_scratch(gems_call *call, size_t bytes, void **data);

/* Plan of a key on the call's device. key->op is set here. */
gems_status gems_call_plan(gems_call *call, gems_key *key, const gems_plan **plan);

/* Launches kernel `entry` of a plan on the call's stream; skipped when the call is empty or the grid is 0.
 * args: one pointer a kernel parameter. */
gems_status gems_call_launch(gems_call *call, const gems_plan *plan, int entry, const uint32_t grid[3],
                             const uint32_t block[3], uint32_t shared, void **args);

/* The same with so many blocks in a cluster, which divide grid[0]. */
gems_status gems_call_launch_cluster(gems_call *call, const gems_plan *plan, int entry, const uint32_t grid[3],
                                     const uint32_t block[3], uint32_t cluster, uint32_t shared, void **args);

/* As gems_call_launch of kernel 0, for the only launch of a call in which nothing but its arguments' dtypes, shapes,
 * strides, alignment and numbers decided anything: no state, no content of a tensor. The call may be kept, so that one
 * alike is launched without the family. The first `pointers` parameters are each the memory of a tensor or NULL; sizes:
 * bytes of each parameter. */
gems_status gems_call_launch_kept(gems_call *call, const gems_plan *plan, const uint32_t grid[3],
                                  const uint32_t block[3], uint32_t shared, void **args,
                                  int pointers, const uint16_t *sizes, int count);

/* The same in clusters of so many blocks. */
gems_status gems_call_launch_cluster_kept(gems_call *call, const gems_plan *plan,
                                          const uint32_t grid[3], const uint32_t block[3],
                                          uint32_t cluster, uint32_t shared, void **args,
                                          int pointers, const uint16_t *sizes, int count);

/* Whether gems_call_read may be called: declines while the stream is being captured. To be asked before the first launch. */
gems_status gems_call_readable(const gems_call *call);
/* Copies what earlier launches of the call wrote, bytes of device memory, to the host; waits for the stream, with the GIL
 * released. For results whose size depends on the data. */
gems_status gems_call_read(const gems_call *call, const void *from, size_t bytes, void *to);

/* A read-only view of an argument; NULL when it is None or left out. */
static inline const gems_tensor *gems_arg_tensor(const gems_call *call, int i) {
    return call->args[i].kind == GEMS_TENSOR ? &call->args[i].t : NULL;
}
static inline bool gems_arg_none(const gems_call *call, int i) { return call->args[i].kind == GEMS_NONE; }
static inline int64_t gems_arg_int(const gems_call *call, int i) { return call->args[i].i; } /* int, bool, dtype */
/* A Scalar or float argument as double. */
double gems_arg_double(const gems_call *call, int i);

/* Blocks for n independent items when one block of `threads` takes `per_block` of them: enough to fill the device, at
 * most `waves` times what is resident on it; on the fast cpu backend a few chunks a worker. At least 1 when n > 0. */
uint32_t gems_grid_for(const gems_device_info *info, int64_t n, int64_t per_block);
/* The same for light work, which a GPU does fastest with a block for each part: as many blocks as there are parts (which
 * may be more than INT32_MAX, what a grid takes). */
int64_t gems_grid_of_all(const gems_device_info *info, int64_t n, int64_t per_block);

#endif
