#include "symbols.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

gems_torch_symbols gems_torch;

enum { CPU, PYTHON, CUDA, C10, LIBRARIES };
enum { MUST, MAY };

static void *libraries[LIBRARIES];

static const struct {
    size_t offset;
    const char *symbol;
    int library, need;
} wanted[] = {
#define TORCH_SYMBOL(need, library, field, symbol, result, parameters) \
    {offsetof(gems_torch_symbols, field), symbol, library, need},
#include "symbols.def"
#undef TORCH_SYMBOL
};

gems_status gems_torch_open(void) {
    static const char *const names[LIBRARIES] = {"libtorch_cpu.so", "libtorch_python.so",
                                                 "libtorch_cuda.so", "libc10.so"};
    char missing[512] = "";
    if (gems_torch.empty_strided) return GEMS_OK;
    for (int i = 0; i < LIBRARIES; i++) libraries[i] = dlopen(names[i], RTLD_NOLOAD | RTLD_LAZY);
    if (!libraries[CPU]) return gems_fail(GEMS_RUNTIME_ERROR, "libtorch_cpu.so is not loaded");
    gems_torch_symbols found = {0};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *library = libraries[wanted[i].library];
        void *address = library ? dlsym(library, wanted[i].symbol) : NULL;
        memcpy((char *)&found + wanted[i].offset, &address, sizeof address);
        if (address || wanted[i].need == MAY) continue;
        size_t used = strlen(missing);
        snprintf(missing + used, sizeof missing - used, " %s", wanted[i].symbol);
    }
    if (*missing) return gems_fail(GEMS_RUNTIME_ERROR, "this torch lacks:%s", missing);
    gems_torch = found;
    return GEMS_OK;
}

const uint64_t *gems_torch_thread_keys(void) {
    static _Thread_local const uint64_t *keys;
    /* A thread-local symbol: dlsym gives the calling thread's own copy. */
    if (!keys && libraries[C10])
        keys = dlsym(libraries[C10], "_ZN3c104impl26raw_local_dispatch_key_setE");
    return keys;
}
