/* Tensors from torch's allocator, on torch's streams. */
#include "torch.h"

gems_torch_layout gems_layout = {.impl = -1, .keys = -1, .autograd = -1, .shape = -1};
gems_torch_python gems_python;
bool gems_observing;
_Thread_local gems_thread_gate gems_this_thread;
int gems_special_gates;

bool gems_gate_special(const gems_entry *entry) {
    if (gems_this_thread.count == GEMS_ALL_ENTRIES) return gems_this_thread.force;
    for (int i = 0; i < gems_this_thread.count; i++)
        if (gems_this_thread.entries[i] == entry->index) return gems_this_thread.force;
    return __atomic_load_n(&entry->gate, __ATOMIC_RELAXED);
}

/* By torch's functions. */
static bool ask(void *handle, gems_tensor *t) {
    int64_t *sizes, *strides, ndim;
    int32_t dtype, device_type;
    if (gems_torch.get_dim(handle, &ndim) | gems_torch.get_sizes(handle, &sizes) |
        gems_torch.get_strides(handle, &strides) | gems_torch.get_dtype(handle, &dtype) |
        gems_torch.get_device_type(handle, &device_type) |
        gems_torch.get_data_ptr(handle, &t->data))
        return false;
    t->sizes = sizes;
    t->strides = strides;
    t->ndim = (int32_t)ndim;
    t->dtype = (uint8_t)dtype;
    t->device_type = (uint8_t)device_type;
    t->device_index = 0;
    t->numel = gems_numel(sizes, (int)ndim);
    return true;
}

bool gems_handle_read(void *handle, gems_tensor *t) {
    t->handle = handle;
    if (!gems_fields_read(gems_handle_impl(handle), t) && !ask(handle, t)) return false;
    if (__builtin_expect(t->device_type != GEMS_CPU, 0)) {
        int32_t index;
        if (gems_torch.get_device_index(handle, &index)) return false;
        t->device_index = (int16_t)index;
    }
    return true;
}

bool gems_handle_write(void *handle, gems_tensor *t) {
    return !gems_torch.get_data_ptr(handle, &t->data);
}

void gems_torch_call_free(gems_torch_call *made, bool keep) {
    for (int i = 0; i < made->scratches; i++) gems_torch.delete_handle(made->scratch[i]);
    if (keep) return;
    for (int i = 0; i < GEMS_MAX_OUTS; i++) {
        if (made->out[i]) gems_torch.delete_handle(made->out[i]);
        made->out[i] = NULL;
    }
}

static gems_status empty(gems_call *call, int slot, int ndim, const int64_t *sizes,
                         const int64_t *strides, int dtype, gems_tensor *t) {
    gems_torch_call *made = call->host_data;
    void **handle = slot < 0 ? &made->scratch[-1 - slot] : &made->out[slot];
    int64_t contiguous[GEMS_MAX_DIMS];
    if (!strides) {
        gems_contiguous_strides(sizes, ndim, contiguous);
        strides = contiguous;
    }
    if (gems_torch.empty_strided(ndim, sizes, strides, dtype, call->device_type, call->device_index,
                                 handle)) {
        *handle = NULL;
        const char *text = gems_torch.last_error ? gems_torch.last_error() : NULL;
        return gems_fail(GEMS_MEMORY_ERROR, "%s",
                         text && *text ? text : "torch could not allocate the output");
    }
    if (slot < 0) made->scratches = -slot;
    t->handle = *handle;
    if (call->device_type == GEMS_CPU && gems_fields_read(gems_handle_impl(*handle), t))
        return GEMS_OK;
    if (!gems_handle_read(*handle, t))
        return gems_fail(GEMS_RUNTIME_ERROR, "torch gave an output that cannot be read");
    return GEMS_OK;
}

/* torch's allocators align to 64 bytes and more; others may be put in their place. */
static void *fresh(gems_call *call, int slot, int ndim, const int64_t *sizes,
                   const int64_t *strides, int dtype) {
    gems_torch_call *made = call->host_data;
    void **handle = &made->out[slot], *data = NULL;
    if (gems_torch.empty_strided(ndim, sizes, strides, dtype, call->device_type, call->device_index,
                                 handle)) {
        *handle = NULL;
        return NULL;
    }
    if (gems_layout.shape < 0) {
        if (gems_torch.get_data_ptr(*handle, &data)) return NULL;
    } else {
        data = gems_fields_data(gems_handle_impl(*handle));
    }
    return (uintptr_t)data & 63 ? NULL : data;
}

static gems_status resize(gems_call *call, gems_tensor *t, int ndim, const int64_t *sizes) {
    return gems_python.resize(call, t, ndim, sizes);
}

static gems_status philox(gems_call *call, void *generator, uint64_t increment, uint64_t *seed,
                          uint64_t *offset) {
    return gems_python.philox(call, generator, increment, seed, offset);
}

static void *stream(const gems_call *call) {
    void *current = NULL;
    if (call->device_type == GEMS_CUDA && gems_torch.cuda_stream)
        gems_torch.cuda_stream(call->device_index, &current);
    return current;
}

/* torch knows which tensors are wrapped numbers. */
static int result_type(gems_call *call, const gems_tensor *a, const gems_tensor *b) {
    uint64_t stack[2] = {0};
    void *first, *second;
    (void)call;
    if (gems_torch.new_handle(a->handle, &first)) return GEMS_NO_DTYPE;
    if (gems_torch.new_handle(b->handle, &second)) {
        gems_torch.delete_handle(first);
        return GEMS_NO_DTYPE;
    }
    stack[0] = (uint64_t)(uintptr_t)first;
    stack[1] = (uint64_t)(uintptr_t)second;
    if (gems_torch.call_dispatcher("aten::result_type", "Tensor", stack)) return GEMS_NO_DTYPE;
    return (int32_t)stack[0];
}

/* A look into a table of torch's, so that no change of the setting is ever missed. */
static bool tf32(void) {
    if (!gems_torch.context || !gems_torch.float32_precision) return false;
    return gems_torch.float32_precision(gems_torch.context(), 1, 3) == 2 &&
           !(gems_torch.no_tf32 && gems_torch.no_tf32());
}

const gems_host gems_host_torch = {.name = "torch",
                                   .empty = empty,
                                   .fresh = fresh,
                                   .resize = resize,
                                   .stream = stream,
                                   .tf32 = tf32,
                                   .philox = philox};
const gems_host gems_host_shim = {.name = "torch",
                                  .empty = empty,
                                  .fresh = fresh,
                                  .resize = resize,
                                  .stream = stream,
                                  .result_type = result_type,
                                  .tf32 = tf32,
                                  .philox = philox};
