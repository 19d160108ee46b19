/* Program text to machine code. Needs NVRTC alone: no driver, no GPU, no header, no temporary file.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda.h"

static bool knows(const gems_cuda_compiler *c, int arch) {
    for (int i = 0; i < c->known_count; i++)
        if (c->known[i] == arch) return true;
    return false;
}

/* Archs whose fastest instructions exist only under the arch-specific name; sm_90a came with
 * CUDA 12. */
static bool has_specific(const gems_cuda_compiler *c, int arch) {
    return (arch == 90 && c->major >= 12) || arch == 100 || arch == 101 || arch == 103 ||
           arch == 110;
}

gems_status gems_cuda_arch_name(const gems_cuda_compiler *c, int arch, char *name, size_t size) {
    int below = 0;
    if (knows(c, arch)) {
        snprintf(name, size, "sm_%d%s", arch, has_specific(c, arch) ? "a" : "");
        return GEMS_OK;
    }
    for (int i = 0; i < c->known_count; i++)
        if (c->known[i] < arch) below = c->known[i];
    if (!below)
        return gems_fail(GEMS_RUNTIME_ERROR,
                         "NVRTC %d.%d (%s) compiles for sm_%d and later, not for sm_%d", c->major,
                         c->minor, c->path, c->known[0], arch);
    snprintf(name, size, "compute_%d", below);
    return GEMS_OK;
}

/* What an arch that the caller names is compiled as: "sm_90" as a device of that arch would have it
 * (gems_cuda_arch_name), a name with a letter and PTX, "compute_80", as they are. */
static gems_status parse_arch(const gems_cuda_compiler *c, const char *arch, char *name,
                              size_t size) {
    bool real = !strncmp(arch, "sm_", 3);
    const char *digits = real ? arch + 3 : !strncmp(arch, "compute_", 8) ? arch + 8 : arch;
    char *rest;
    long number = isdigit((unsigned char)*digits) ? strtol(digits, &rest, 10) : 0;
    if (digits == arch || number < 10 || number > 9999 ||
        (*rest && (strlen(rest) != 1 || !strchr("af", *rest))))
        return gems_fail(GEMS_VALUE_ERROR,
                         "%.40s is no CUDA architecture; one is written sm_90a or compute_90",
                         arch);
    if (knows(c, (int)number) && (!real || *rest)) {
        snprintf(name, size, "%s", arch);
        return GEMS_OK;
    }
    return gems_cuda_arch_name(c, (int)number, name, size);
}

gems_status gems_cuda_identity(int device, const char *arch, gems_identity *identity) {
    const gems_cuda_compiler *c = gems_cuda_compiler_open();
    if (!c) return GEMS_ERROR;
    memset(identity, 0, sizeof *identity);
    if (arch) {
        GEMS_TRY(parse_arch(c, arch, identity->arch, sizeof identity->arch));
    } else {
        int number;
        GEMS_TRY(gems_cuda_device_arch(device, &number));
        GEMS_TRY(gems_cuda_arch_name(c, number, identity->arch, sizeof identity->arch));
    }
    snprintf(identity->compiler, sizeof identity->compiler, "nvrtc %d.%d", c->major, c->minor);
    /* --minimal leaves the runtime's types out, which no kernel may use: a sixth of a small
     * program's compile time. Without --no-cache NVRTC 13 opens the driver and keeps a cache of its
     * own in HOME, which makes a first compile several times as long. */
    snprintf(identity->options, sizeof identity->options,
             "--gpu-architecture=%s --std=c++17 --device-as-default-execution-space%s%s",
             identity->arch, c->major >= 13 ? " --minimal --no-cache" : "",
             identity->arch[0] == 's' ? " --ptxas-options=-v" : "");
    return GEMS_OK;
}

/* The compiler's log, NUL-terminated, freed by the caller; NULL when there is none to be had. */
static char *log_of(const gems_cuda_compiler *c, void *program) {
    size_t size = 0;
    if (c->log_size(program, &size)) return NULL;
    char *log = calloc(1, size + 1);
    if (log && size && c->log(program, log)) log[0] = 0;
    return log;
}

/* A program that failed: who, what the compiler said (its first errors), the source. */
static gems_status report_failure(const gems_cuda_compiler *c, const gems_identity *identity,
                                  const char *name, const char *text, const char *log, int result) {
    enum { MOST = 6000 };
    char *listing = gems_cuda_listing(text, log);
    bool builtins = *c->remark && strstr(log, "builtins");
    gems_fail(GEMS_RUNTIME_ERROR, "%s: NVRTC %d.%d cannot compile it for %s: %s\n%.*s%s\n%s%s\n%s",
              name, c->major, c->minor, identity->arch, c->error_name(result), MOST, log,
              strlen(log) > MOST ? " ..." : "", builtins ? c->remark : "", builtins ? "\n" : "",
              listing ? listing : "");
    free(listing);
    return GEMS_ERROR;
}

gems_status gems_cuda_compile(const gems_identity *identity, const char *name, const char *text,
                              const char *const *entries, int entry_count, gems_blob *code,
                              gems_report *report) {
    enum { OPTIONS = 32 };
    const gems_cuda_compiler *c = gems_cuda_compiler_open();
    gems_status status = GEMS_ERROR;
    const char *options[OPTIONS];
    char words[sizeof identity->options], *rest = NULL, *log = NULL;
    void *program = NULL;
    int count = 0, missing;
    struct timespec start, end;

    *code = (gems_blob){NULL, 0};
    *report = (gems_report){-1, -1, -1, -1, 0};
    if (!c) return GEMS_ERROR;
    bool ptx = !strncmp(identity->arch, "compute_", 8);
    memcpy(words, identity->options, sizeof words);
    words[sizeof words - 1] = 0;
    for (char *word = strtok_r(words, " ", &rest); word && count < OPTIONS;
         word = strtok_r(NULL, " ", &rest))
        options[count++] = word;

    clock_gettime(CLOCK_MONOTONIC, &start);
    int result = c->create(&program, text, "program.cu", 0, NULL, NULL);
    if (result) {
        gems_fail(GEMS_RUNTIME_ERROR, "%s: nvrtcCreateProgram: %s", name, c->error_name(result));
        goto done;
    }
    result = c->compile(program, count, options);
    clock_gettime(CLOCK_MONOTONIC, &end);
    log = log_of(c, program);
    if (!log) {
        gems_fail(GEMS_MEMORY_ERROR, "%s: no room for the compiler's log", name);
        goto done;
    }
    if (result) {
        report_failure(c, identity, name, text, log, result);
        goto done;
    }
    result = ptx ? c->ptx_size(program, &code->size) : c->cubin_size(program, &code->size);
    if (!result && code->size) {
        code->data = malloc(code->size);
        if (!code->data) {
            gems_fail(GEMS_MEMORY_ERROR, "%s: no room for %zu bytes of code", name, code->size);
            goto done;
        }
        result = ptx ? c->ptx(program, code->data) : c->cubin(program, code->data);
    }
    if (result || !code->size) {
        gems_fail(GEMS_RUNTIME_ERROR, "%s: NVRTC %d.%d gives no code for %s: %s", name, c->major,
                  c->minor, identity->arch, c->error_name(result));
        goto done;
    }
    gems_cuda_read_log(log, report);
    report->milliseconds =
        (double)(end.tv_sec - start.tv_sec) * 1e3 + (double)(end.tv_nsec - start.tv_nsec) / 1e6;
    report->instructions = gems_cuda_count_instructions(code, entries, entry_count, &missing);
    if (missing >= 0) {
        gems_fail(GEMS_RUNTIME_ERROR, "%s: the program has no kernel %s", name, entries[missing]);
        goto done;
    }
    status = GEMS_OK;
done:
    if (program) c->destroy(&program);
    free(log);
    if (status != GEMS_OK) gems_blob_free(code);
    return status;
}
