/* A libnvrtc that knows its version (-DMAJOR -DMINOR) and archs and compiles nothing: for tests of
 * where the library is looked for. */
#include <stddef.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#define EXPORT __attribute__((visibility("default")))
#define API    EXPORT int

API nvrtcVersion(int *major, int *minor) {
    *major = MAJOR;
    *minor = MINOR;
    return 0;
}

API nvrtcGetNumSupportedArchs(int *count) {
    *count = 3;
    return 0;
}

API nvrtcGetSupportedArchs(int *archs) {
    const int known[] = {90, 75, 80};
    memcpy(archs, known, sizeof known);
    return 0;
}

static const char message[] = "nvrtc: error: failed to open libnvrtc-builtins.so";

API nvrtcCreateProgram(void **program, const char *text, const char *name, int headers,
                       const char *const *texts, const char *const *names) {
    (void)text, (void)name, (void)headers, (void)texts, (void)names;
    *program = program;
    return 0;
}

API nvrtcDestroyProgram(void **program) {
    *program = NULL;
    return 0;
}

API nvrtcCompileProgram(void *program, int count, const char *const *options) {
    (void)program, (void)count, (void)options;
    return 7;
}

API nvrtcGetProgramLogSize(void *program, size_t *size) {
    (void)program;
    *size = sizeof message;
    return 0;
}

API nvrtcGetProgramLog(void *program, char *log) {
    (void)program;
    memcpy(log, message, sizeof message);
    return 0;
}

static int nothing(size_t *size) {
    *size = 0;
    return 0;
}

API nvrtcGetPTXSize(void *program, size_t *size) {
    (void)program;
    return nothing(size);
}

API nvrtcGetCUBINSize(void *program, size_t *size) {
    (void)program;
    return nothing(size);
}

API nvrtcGetPTX(void *program, char *ptx) {
    (void)program, (void)ptx;
    return 0;
}

API nvrtcGetCUBIN(void *program, char *cubin) {
    (void)program, (void)cubin;
    return 0;
}

EXPORT const char *nvrtcGetErrorString(int result) {
    return result == 7 ? "NVRTC_ERROR_BUILTIN_OPERATION_FAILURE" : "NVRTC_SUCCESS";
}
