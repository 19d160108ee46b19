// Index tensors: an index out of range is never followed. On a CPU the kernel says so in *flag, and the call is left to ATen,
// which raises its error; on a GPU the kernel stops with a device-side assertion, as ATen's do.
namespace gems {
template <class I>
GEMS_DI bool in_range(I index, int64_t size, int32_t* flag) {
    if ((uint64_t)(int64_t)index < (uint64_t)size) return true;
#if GEMS_CPU
    atomicExch(flag, 1);
#else
    __assertfail("index out of bounds", "index.cuh", 1, "in_range", 1);
#endif
    return false;
}

// The index tensors of a call; sizes and steps of what they pick from. Twins of gems_pointers and gems_steps in
// csrc/families/index.h.
template <class Int> struct Pointers { const Int* at[5]; };
struct Steps { int64_t size[5], step[5]; };
}  // namespace gems
