/* The few types that everybody shares: status, dtype, tensor view, argument value.
 *
 * Nothing here allocates. A view borrows: sizes, strides and data belong to the tensor that the
 * caller holds for the length of the call.
 */
#ifndef GEMS_H
#define GEMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GEMS_MAX_DIMS 16   /* a tensor of a higher rank is declined */
#define GEMS_MAX_ARGS 20   /* arguments of a schema */
#define GEMS_MAX_OUTS 5    /* tensors that a family makes for an operator */
#define GEMS_MAX_LIST 64   /* ints of an int[] argument */

/* What a function that can fail returns. GEMS_DECLINE: nothing was done, ATen's kernel is to run
 * (the reason: gems_reason()). GEMS_ERROR: gems_error_text() and gems_error_kind() say what. */
typedef enum gems_status { GEMS_OK = 0, GEMS_DECLINE = 1, GEMS_ERROR = 2 } gems_status;

#define GEMS_TRY(call)                              \
    do {                                            \
        gems_status gems_try_ = (call);             \
        if (gems_try_ != GEMS_OK) return gems_try_; \
    } while (0)

/* torch's ScalarType numbers, used as they are. */
typedef enum gems_dtype {
    GEMS_U8 = 0, GEMS_I8 = 1, GEMS_I16 = 2, GEMS_I32 = 3, GEMS_I64 = 4,
    GEMS_F16 = 5, GEMS_F32 = 6, GEMS_F64 = 7,
    GEMS_C32 = 8, GEMS_C64 = 9, GEMS_C128 = 10,
    GEMS_BOOL = 11,
    GEMS_BF16 = 15,
    GEMS_F8E5M2 = 23, GEMS_F8E4M3 = 24, GEMS_F8E5M2FNUZ = 25, GEMS_F8E4M3FNUZ = 26,
    GEMS_U16 = 27, GEMS_U32 = 28, GEMS_U64 = 29,
    GEMS_DTYPES = 64,      /* numbers are below this; a mask of dtypes is a uint64_t */
    GEMS_NO_DTYPE = 255
} gems_dtype;

/* torch's DeviceType numbers. */
typedef enum gems_device_type { GEMS_CPU = 0, GEMS_CUDA = 1 } gems_device_type;

/* A strided tensor, borrowed. Strides count elements. data may be NULL when numel is 0. */
typedef struct gems_tensor {
    void *data;
    const int64_t *sizes;
    const int64_t *strides;
    void *handle;          /* the host's own tensor (gems_host in families/call.h), or NULL */
    int64_t numel;
    int32_t ndim;
    uint8_t dtype;         /* gems_dtype */
    uint8_t device_type;   /* gems_device_type */
    int16_t device_index;  /* 0 for the CPU */
} gems_tensor;

/* The kind of one argument's value, as it came; the schema says what was expected. In a Tensor
 * position stands GEMS_TENSOR, GEMS_NONE, or a number kind: a wrapped number of torch's promotion. */
typedef enum gems_kind {
    GEMS_NONE, GEMS_TENSOR, GEMS_TENSORS, GEMS_BOOLEAN, GEMS_INT, GEMS_FLOAT, GEMS_COMPLEX,
    GEMS_INTS, GEMS_DTYPE_ARG, GEMS_STRING, GEMS_GENERATOR, GEMS_OTHER
} gems_kind;

typedef struct gems_value {
    uint8_t kind;
    union {
        int64_t i;                                    /* GEMS_INT, GEMS_BOOLEAN, GEMS_DTYPE_ARG, GEMS_OTHER */
        double f;                                     /* GEMS_FLOAT */
        double c[2];                                  /* GEMS_COMPLEX */
        gems_tensor t;                                /* GEMS_TENSOR */
        struct { int64_t *v; int32_t n; } ints;       /* GEMS_INTS: int[], bool[] */
        struct { gems_tensor *v; int32_t n; } tensors; /* GEMS_TENSORS; an element without a handle is None */
        const char *s;                                /* GEMS_STRING */
        void *generator;                              /* GEMS_GENERATOR: the host's own object */
    };
} gems_value;

/* ---- errors (base/error.c): thread-local, valid until the next failure on the same thread ---- */
typedef enum gems_error {
    GEMS_RUNTIME_ERROR, GEMS_VALUE_ERROR, GEMS_TYPE_ERROR, GEMS_INDEX_ERROR,
    GEMS_NOT_IMPLEMENTED_ERROR, GEMS_MEMORY_ERROR
} gems_error;

gems_status gems_fail(gems_error kind, const char *format, ...)
    __attribute__((format(printf, 2, 3))); /* records the error, returns GEMS_ERROR */
gems_status gems_decline(const char *reason); /* a string literal; returns GEMS_DECLINE */
/* Each reason is kept beside the name of its file in a section of its own, where the page of operators finds it. A reason
 * that is no literal: (gems_decline)(reason). */
typedef struct gems_decline_place { const char *file, *reason; } gems_decline_place;
#define gems_decline(text)                                                                        \
    (__extension__({                                                                              \
        static const gems_decline_place gems_here                                                 \
            __attribute__((section("gems_declines"), used)) = {__FILE__, text};                   \
        (gems_decline)(gems_here.reason);                                                         \
    }))
gems_error gems_error_kind(void);
const char *gems_error_text(void);
const char *gems_reason(void); /* of the last decline on this thread */

/* ---- log (base/error.c): GEMS_LOG=error|warn|info|debug, to standard error ---- */
typedef enum gems_level { GEMS_LOG_ERROR, GEMS_LOG_WARN, GEMS_LOG_INFO, GEMS_LOG_DEBUG } gems_level;
void gems_log(gems_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
