/* The stable shim: torch's dispatcher calls C functions with a stack of 64-bit words, without the
 * GIL.
 *
 * The function pointer carries no user data, so there is a trampoline for each entry of the table.
 * Arguments are owned here: what is not handed back as a result is released, also before an
 * exception is thrown through these frames.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../engine/kept.h"
#include "stable.h"

/* Arguments that own something, a bit each; set when an entry is registered. */
static uint32_t owning[GEMS_SHIM_ENTRIES];

/* What is known of the words of an entry's calls: set likewise. `known`: all of them are plain
 * tensors (those that are owned), the first one too, ints and bools. */
static struct words {
    bool known;
    uint32_t numbers;              /* a bit each */
    uint64_t mask[GEMS_KEPT_ARGS]; /* bits of a number that count */
} words[GEMS_SHIM_ENTRIES];

static void note_words(const gems_entry *entry) {
    struct words *w = &words[entry->index];
    const gems_arg *args = entry->schema.args;
    int count = entry->schema.nargs;
    *w = (struct words){.known = gems_layout.keys >= 0 && count && count <= GEMS_KEPT_ARGS &&
                                 args->type == GEMS_T_TENSOR};
    for (int i = 0; i < count && w->known; i++) {
        bool number = args[i].type == GEMS_T_INT || args[i].type == GEMS_T_BOOL;
        w->known =
            !args[i].optional && !args[i].written && (number || args[i].type == GEMS_T_TENSOR);
        w->numbers |= (uint32_t)number << i;
        w->mask[i] = args[i].type == GEMS_T_BOOL ? 1 : UINT64_MAX;
    }
}

static uint32_t owning_of(const gems_entry *entry) {
    uint32_t bits = 0;
    for (int i = 0; i < entry->schema.nargs; i++) {
        const gems_arg *arg = &entry->schema.args[i];
        bool owns = arg->optional || arg->type == GEMS_T_TENSOR || arg->type == GEMS_T_TENSORS ||
                    arg->type == GEMS_T_INTS || arg->type == GEMS_T_FLOATS ||
                    arg->type == GEMS_T_BOOLS || arg->type == GEMS_T_STRING;
        bits |= (uint32_t)owns << i;
    }
    return bits;
}

/* Releases all arguments but those that went back as results. */
static void release(const gems_entry *entry, const uint64_t *stack, int first, int count) {
    uint32_t bits = owning[entry->index] & ~(((1u << count) - 1) << first);
    for (; bits; bits &= bits - 1) {
        int i = __builtin_ctz(bits);
        const gems_arg *arg = &entry->schema.args[i];
        if (arg->type == GEMS_T_TENSOR && !arg->optional)
            gems_torch.delete_handle((void *)(uintptr_t)stack[i]);
        else
            gems_shim_release(arg, stack[i]);
    }
}

/* Argument i of a call whose arguments are released is numbers[i]. */
static void give_new(const gems_entry *entry, const gems_torch_call *made,
                     const gems_value *numbers, uint64_t *stack) {
    const char *results = gems_op_at(entry->op)->results;
    for (int i = 0; i < entry->nresults; i++) {
        const char of = results ? results[i] : (char)('0' + i);
        if (of >= 'a') {
            stack[i] = (uint64_t)numbers[of - 'a'].i;
            continue;
        }
        void *handle = of == '-' ? NULL : made->out[of - '0'];
        if (!handle && gems_torch.undefined) gems_torch.undefined(&handle);
        stack[i] = (uint64_t)(uintptr_t)handle;
    }
}

/* Puts the results on the stack and releases the rest. */
static void give(gems_call *call, uint64_t *stack) {
    const gems_entry *entry = call->entry;
    gems_torch_call *made = call->host_data;
    if (entry->variant == GEMS_FUNCTIONAL) {
        release(entry, stack, 0, 0);
        give_new(entry, made, call->args, stack);
    } else {
        uint64_t results[GEMS_MAX_OUTS];
        int count = entry->nouts;
        for (int i = 0; i < count; i++) results[i] = stack[entry->out_arg + i];
        release(entry, stack, entry->out_arg, count);
        for (int i = 0; i < count; i++) stack[i] = results[i];
    }
    gems_torch_call_close(made, true);
}

/* The usual kinds, without detours: a plain CPU tensor, an int, a bool. */
static inline bool read_at_once(const gems_arg *arg, uint64_t word, gems_value *value) {
    if (arg->type == GEMS_T_TENSOR) {
        void *handle = (void *)(uintptr_t)word;
        const char *impl = gems_handle_impl(handle);
        if (gems_layout.keys < 0 || !gems_keys_plain(gems_impl_keys(impl)) ||
            !gems_fields_read(impl, &value->t) || value->t.device_type != GEMS_CPU)
            return false;
        value->t.handle = handle;
        value->kind = GEMS_TENSOR;
        return true;
    }
    if (arg->type != GEMS_T_INT && arg->type != GEMS_T_BOOL) return false;
    value->kind = arg->type == GEMS_T_INT ? GEMS_INT : GEMS_BOOLEAN;
    value->i = arg->type == GEMS_T_INT ? (int64_t)word : (int64_t)(word & 1);
    return true;
}

static gems_status read_arguments(gems_call *call, const uint64_t *stack, gems_shim_store *store) {
    const gems_schema *schema = &call->entry->schema;
    for (int i = 0; i < schema->nargs; i++) {
        const gems_arg *arg = &schema->args[i];
        if (!arg->optional && !arg->written && read_at_once(arg, stack[i], &call->args[i]))
            continue;
        GEMS_TRY(gems_shim_read(arg, stack[i], store, &call->args[i]));
        if (arg->type == GEMS_T_DEVICE && call->args[i].kind == GEMS_OTHER) {
            int64_t device = call->args[i].i;
            int32_t index = (int32_t)(device & 0xffffffff);
            if (device >> 32 != call->device_type)
                return gems_decline("another device is asked for");
            if (index >= 0) call->device_index = (int16_t)index;
        }
    }
    return GEMS_OK;
}

/* Runs a call that this thread keeps, of CPU tensors, ints and bools: the words are compared where
 * they are. False: nothing was done. */
static bool run_kept(gems_entry *entry, uint64_t *stack) {
    const struct words *w = &words[entry->index];
    gems_torch_call made;
    gems_kept_memory memory;
    gems_call call;
    if (!w->known) return false;
    gems_kept *kept = NULL;
    for (uint32_t bits = owning[entry->index]; bits; bits &= bits - 1) {
        int i = __builtin_ctz(bits);
        const char *impl = gems_handle_impl((void *)(uintptr_t)stack[i]);
        gems_tensor t;
        if (!gems_keys_plain(gems_impl_keys(impl)) || !gems_fields_read(impl, &t)) return false;
        if (!kept && !(kept = gems_kept_at(entry, t.numel))) return false;
        if (kept->arg[i].kind != GEMS_TENSOR || !gems_kept_same(&kept->arg[i].t, &t)) return false;
        memory.of[i] = t.data;
    }
    for (uint32_t bits = w->numbers; bits; bits &= bits - 1) {
        int i = __builtin_ctz(bits);
        if ((kept->word[i] ^ stack[i]) & w->mask[i]) return false;
    }
    if (kept->device_type != GEMS_CPU) return false; /* its index was not read */
    gems_torch_call_open(&made);
    call.host = &gems_host_shim;
    call.host_data = &made;
    if (gems_kept_run(kept, &call, &memory) != GEMS_OK) { /* the general way says why */
        gems_torch_call_close(&made, false);
        return false;
    }
    __atomic_fetch_add(&entry->kernels, 1, __ATOMIC_RELAXED);
    for (uint32_t bits = owning[entry->index]; bits; bits &= bits - 1)
        gems_torch.delete_handle((void *)(uintptr_t)stack[__builtin_ctz(bits)]);
    give_new(entry, &made, NULL, stack);
    return true;
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The device of factories without a device argument. */
static int16_t route_device_type;

static void run(int index, uint64_t *stack) {
    gems_entry *entry = gems_entry_at(index);
    if (!gems_gate_open(entry) && !entry->alone) {
        gems_python.fallback(entry, stack, NULL);
        return;
    }
    if (__atomic_load_n(&entry->kept, __ATOMIC_RELAXED) && !gems_observing &&
        run_kept(entry, stack))
        return;
    gems_torch_call made;
    gems_shim_store store;
    gems_call call;
    gems_torch_call_open(&made);
    gems_shim_store_open(&store);
    call.entry = entry;
    call.host = &gems_host_shim;
    call.host_data = &made;
    call.device_type = route_device_type;
    call.device_index = 0;
    int64_t start = __builtin_expect(gems_observing, 0) ? now() : 0;
    gems_status status = read_arguments(&call, stack, &store);
    if (status == GEMS_OK) {
        status = gems_call_run(&call);
    } else {
        __atomic_fetch_add(&entry->fallbacks, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&entry->reason, gems_reason(), __ATOMIC_RELAXED);
    }
    if (__builtin_expect(gems_observing, 0)) gems_python.observe(&call, status, now() - start);
    gems_shim_store_close(&store);
    if (status == GEMS_OK) {
        give(&call, stack);
        return;
    }
    gems_torch_call_close(&made, false);
    if (status == GEMS_DECLINE) {
        gems_python.fallback(entry, stack, gems_reason());
        return;
    }
    release(entry, stack, 0, 0);
    gems_python.raise();
}

/* Four digits to the base 16, 8 and 8: 1024 functions and a table of them. */
#define EACH8(M, a) M(a##0) M(a##1) M(a##2) M(a##3) M(a##4) M(a##5) M(a##6) M(a##7)
#define EACH64(M, a) \
    EACH8(M, a##0)   \
    EACH8(M, a##1)   \
    EACH8(M, a##2) EACH8(M, a##3) EACH8(M, a##4) EACH8(M, a##5) EACH8(M, a##6) EACH8(M, a##7)
#define EACH512(M, a) \
    EACH64(M, a##0)   \
    EACH64(M, a##1)   \
    EACH64(M, a##2) EACH64(M, a##3) EACH64(M, a##4) EACH64(M, a##5) EACH64(M, a##6) EACH64(M, a##7)
#define EACH(M) EACH512(M, 00) EACH512(M, 01)

/* The digits are an octal number: 00000 to 01777. */
#define TRAMPOLINE(digits)                                                              \
    static void entry_##digits(uint64_t *stack, uint64_t arguments, uint64_t results) { \
        (void)arguments;                                                                \
        (void)results;                                                                  \
        run(digits, stack);                                                             \
    }
EACH(TRAMPOLINE)

#define NAME(digits) entry_##digits,
static void (*const trampolines[GEMS_SHIM_ENTRIES])(uint64_t *, uint64_t, uint64_t) = {EACH(NAME)};

gems_status gems_shim_register(const char *key, const uint16_t *entries, int count,
                               void **library) {
    uint64_t version = gems_torch.abi_version ? gems_torch.abi_version() : 0;
    if (!*library && gems_torch.library_open("aten", key, __FILE__, __LINE__, library))
        return gems_fail(GEMS_RUNTIME_ERROR, "torch does not open a library for %s", key);
    route_device_type = !strcmp(key, "CPU") ? GEMS_CPU : GEMS_CUDA;
    for (int i = 0; i < count; i++) {
        const gems_entry *entry = gems_entry_at(entries[i]);
        owning[entries[i]] = owning_of(entry);
        note_words(entry);
        int32_t failed =
            gems_torch.library_impl_versioned
                ? gems_torch.library_impl_versioned(*library, entry->qualified,
                                                    trampolines[entries[i]], version)
                : gems_torch.library_impl(*library, entry->qualified, trampolines[entries[i]]);
        if (failed)
            return gems_fail(GEMS_RUNTIME_ERROR, "torch refuses a kernel for aten::%s",
                             entry->qualified);
    }
    return GEMS_OK;
}

void gems_shim_close(void *library) { gems_torch.library_close(library); }
