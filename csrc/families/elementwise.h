/* The elementwise family's own types: a row's expression taken apart, and what a program's key holds.
 *
 * A row's expression is C++ over its inputs and parameters, in the type it computes in:
 *   - inputs are a, b, c, ... : the Tensor arguments in the schema's order, and the Scalar ones that stand where another
 *     overload has a Tensor (called self, other, exponent, min or max). They take part in promotion, but for one called
 *     mask or condition (a bool of its own) and a Tensor called value (0-dim, converted);
 *   - parameters (other Scalar, float, int and bool arguments) go by the schema's names;
 *   - has_b tells whether an optional input was given, has_eps the same of an optional parameter;
 *   - a Tensor called buffer is no input, and a result of that name is left empty but for a CPU, as ATen does;
 *   - a Tensor called vec1 stands as a column, and is as long as the result is high;
 *   - numel is the number of elements of the argument self;
 *   - a literal with a point or an exponent has the type that is computed in;
 *   - several outputs: expressions with a comma between;
 *   - "switch (argument) label: expression; label: expression; else: expression" chooses by a string argument
 *     (None is the label none) or by a number. With GEMS_INT_TO_FLOAT only the first expression turns ints to floats.
 */
#ifndef GEMS_ELEMENTWISE_H
#define GEMS_ELEMENTWISE_H

#include "call.h"
#include "modes.h"

#define GEMS_EW_INPUTS 5
#define GEMS_EW_OUTPUTS 3
#define GEMS_EW_PARAMETERS 6
#define GEMS_EW_CHOICES 8
#define GEMS_EW_RANK 8 /* dims of the contract's Strided */

typedef enum gems_ew_role {
    GEMS_EW_VALUE,  /* takes part in promotion, read in the compute type */
    GEMS_EW_MASK,   /* a bool of its own */
    GEMS_EW_SINGLE  /* 0-dim, converted to the compute type */
} gems_ew_role;

typedef struct gems_ew_input {
    uint8_t arg;    /* index in the schema */
    uint8_t role;   /* gems_ew_role */
    uint8_t half;   /* 1, 2: of a tensor along dim; 0: all of it */
    bool tensor;    /* a Tensor, not a Scalar */
    bool column;
    bool optional;
    bool operand;   /* as a number too it is an operand of ATen's TensorIterator: not min, max, exponent */
} gems_ew_input;

typedef struct gems_ew_parameter {
    uint8_t arg;
    uint8_t type;   /* gems_type */
    bool optional;
    bool counts;    /* numel: of the tensor that arg is */
    char name[32];
} gems_ew_parameter;

typedef struct gems_ew_choice {
    const char *label, *expr; /* parts of the row's text */
    int label_size, expr_size;
    double number;            /* the label as a number; NaN when it is none */
    bool divides, powers;     /* calls div_trunc, div_floor, mod_trunc or mod_floor; pow */
} gems_ew_choice;

typedef struct gems_ew_row {
    const gems_op *op;
    int inputs, parameters, outputs, choices;
    int selector;             /* argument that chooses; -1: there is one choice */
    int self;                 /* the input called self; 0 when none is */
    int dim;                  /* argument along which an input is halved; -1: none is */
    bool joined;              /* the values are the halves of one result */
    bool buffer;              /* the second result is a buffer */
    bool plain;               /* inputs are tensors, all given, that promote; no choice divides integers */
    gems_ew_input input[GEMS_EW_INPUTS];
    gems_ew_parameter parameter[GEMS_EW_PARAMETERS];
    gems_ew_choice choice[GEMS_EW_CHOICES];
} gems_ew_row;

/* The row of the table taken apart: made on first use, kept for good, lock-free afterwards. NULL: the row does not
 * follow the rules above (gems_error_text says why). */
const gems_ew_row *gems_ew_row_of(int op);

/* Shape classes: key->kernel. */
typedef enum gems_ew_class {
    GEMS_EW_DENSE,     /* all tensors alike and dense: one dimension, vectors */
    GEMS_EW_ROWS,      /* innermost strides 1, or 0 for a broadcast input: vectors along it */
    GEMS_EW_STRIDED,   /* any strides */
    GEMS_EW_TILED,     /* some inputs run along the second dimension: through a tile in shared memory */
    GEMS_EW_CLASSES
} gems_ew_class;

/* key->flags */
#define GEMS_EW_WIDE 1          /* 64-bit index */
#define GEMS_EW_CHOICE_SHIFT 1  /* bits 1 to 3: the choice */

/* key->dtype: inputs in 0..4 (GEMS_NO_DTYPE: not a tensor), outputs in 5..7. key->tune: */
enum {
    GEMS_EW_COMPUTE,    /* dtype computed in */
    GEMS_EW_COMMON,     /* dtype that the inputs are promoted to */
    GEMS_EW_RESULT,     /* dtype that ATen gives; the output's may differ (out=) */
    GEMS_EW_NUMBERS,    /* bit i: input i is a number, a kernel argument */
    GEMS_EW_ABSENT,     /* bit i: input i was not given */
    GEMS_EW_ABSENT_PARAMETERS,
    GEMS_EW_VECTOR,     /* elements of one access, 0 in the cpu backend's fast mode; GEMS_EW_TILED: side of a tile */
    GEMS_EW_DIMS,       /* of GEMS_EW_ROWS and later */
    GEMS_EW_BROADCAST,  /* bit i: input i has innermost stride 0 (GEMS_EW_ROWS) or runs along the second dim (GEMS_EW_TILED) */
    GEMS_EW_UNROLL      /* accesses of a thread in flight */
};

/* What promotion says of a call. */
typedef struct gems_ew_types {
    uint8_t compute, common, result;
} gems_ew_types;

/* Fills types from the dtype that the inputs have together; GEMS_DECLINE when the row does not take it. */
gems_status gems_ew_types_of(const gems_ew_row *row, int choice, int together, gems_ew_types *types);

/* The values of a call sorted out: what is a tensor, what is a number. */
typedef struct gems_ew_arguments {
    gems_ew_types types;
    uint8_t choice, numbers, absent, absent_parameters;
    const gems_tensor *tensor[GEMS_EW_INPUTS];   /* NULL: number or absent */
    gems_tensor view[2];                         /* the halves, or the column */
    int64_t view_sizes[GEMS_MAX_DIMS], view_strides[2];
    int dim;                                     /* halved, of a tensor's dims */
    const void *argument[GEMS_EW_INPUTS + GEMS_EW_PARAMETERS]; /* kernel arguments of numbers, then of parameters */
    int arguments;
    union { _Alignas(16) uint8_t bytes[16]; } store[GEMS_EW_INPUTS + GEMS_EW_PARAMETERS];
} gems_ew_arguments;

/* Makes half 0 or 1 of a tensor along a dim; sizes: those of a half, kept by the caller. */
gems_tensor gems_ew_half(const gems_tensor *t, int dim, int half, const int64_t *sizes);

/* Reads the arguments of a call: choice, promotion, numbers and parameters in the compute type. Declines what ATen
 * is to judge or what the row does not take. Borrows from call. */
gems_status gems_ew_arguments_of(const gems_ew_row *row, gems_call *call, gems_ew_arguments *arguments);

/* Writes the program of a key. */
gems_status gems_ew_program(const gems_op *op, const gems_key *key, gems_program *program);

/* Threads of a block, and accesses of a thread in flight, for a number of tensors read. An H200 is fastest with one access a
 * thread where memory is all that takes time; functions of one tensor gain up to 8% by two, in blocks of 128 (sinc, logit, elu,
 * sin of bfloat16), those that compute as long as memory takes (gelu, erfc) by four. */
#define GEMS_EW_THREADS 256
#define GEMS_EW_HEAVY   20 /* flops of an element */
static inline int gems_ew_unroll(const gems_op *op, const gems_key *key, int tensors_read) {
    int vector = key->tune[GEMS_EW_VECTOR], size = (int)gems_dtype_size(key->dtype[GEMS_EW_INPUTS]);
    bool whole = key->kernel == GEMS_EW_DENSE && vector * size >= 16;
    int most = tensors_read <= 1 && vector > 2 ? 4 : tensors_read <= 2 ? 2 : 1;
    int elements = tensors_read <= 1 ? 16 : 8; /* of a thread: what its registers hold */
    if (whole && op->flops < 10) return 1;
    if (whole && tensors_read <= 1 && !(size == 4 && op->flops >= 40 && op->flops < 80)) most = 2;
    return most * vector <= elements ? most : vector >= elements ? 1 : elements / vector;
}

/* How dense work on so many elements is divided: a GPU is faster with one access a thread where blocks of more would not fill
 * it a few times, and with half an access of what is heavy where there are hardly threads for all its processors. Other shape
 * classes have what gems_ew_unroll says. */
typedef struct gems_ew_parts {
    int vector, unroll, threads;
} gems_ew_parts;
gems_ew_parts gems_ew_parts_for(const gems_op *op, const gems_key *key, int tensors_read,
                                int64_t items, const gems_device_info *info);

#endif
