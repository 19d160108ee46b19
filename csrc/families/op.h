/* The operator table, expanded: rows (gems_op) and their registrations (gems_entry). */
#ifndef GEMS_OP_H
#define GEMS_OP_H

#include "../base/dtype.h"
#include "../base/schema.h"
#include "../jit/jit.h"

typedef struct gems_family gems_family;

/* torch's rules for the dtype in which an operator computes, and of its result. */
typedef enum gems_promotion {
    GEMS_DEFAULT,          /* result_type; fp16 and bf16 compute in fp32 */
    GEMS_NO_OPMATH,        /* result_type; computes in it: minimum, where, ... */
    GEMS_INT_TO_FLOAT,     /* ints and bool become the default dtype */
    GEMS_ALWAYS_BOOL,      /* computes in result_type, gives bool */
    GEMS_BOOL_TO_LONG,     /* elementwise: bool becomes int64; reductions: ints too */
    GEMS_COMPLEX_TO_FLOAT, /* gives the real dtype: abs, angle */
    GEMS_KEEP,             /* the family decides */
    GEMS_FLOAT_TO_COMPLEX  /* inputs of one real dtype; gives the complex one: complex, polar */
} gems_promotion;

/* How gradients are kept; the table test holds the row to it. */
typedef enum gems_gradient {
    GEMS_GRAD_FORMULA,     /* torch has a derivative formula on the Autograd key */
    GEMS_GRAD_NONE         /* not differentiable: comparisons, argmax, *_backward helpers torch never differentiates */
} gems_gradient;

/* One row of operators.def. Fields not named are zero. */
typedef struct gems_op {
    const char *schema;        /* functional form, aten:: left out; "flag_gems::..." for one that aten does not have */
    const char *inplace;       /* "add_.Tensor": the in-place overload, same arguments; NULL: none */
    const char *out;           /* "add.out": the out overload; NULL: none */
    const char *out_names;     /* names of the out arguments, "out" when NULL; several: "values,indices" */
    const char *aliases;       /* other aten names with the same arguments: "divide.Tensor,true_divide.Tensor" */
    const char *functions;     /* further names in flag_gems.ops: "sum_dim,sum_dim_out" */
    const gems_family *family;
    const char *expr;          /* elementwise: the expression; others: the family's own word */
    const char *helper;        /* kernel text that expr needs, or the name of its file ("special.cuh"); or NULL */
    uint64_t dtypes;           /* mask of dtypes that it computes in; others decline */
    uint8_t promotion;         /* gems_promotion */
    uint8_t gradient;          /* gems_gradient */
    uint8_t mode;              /* the family's own: which reduction, which norm ... */
    uint8_t nondeterministic;  /* needs no fixed bits (random) */
    const char *results;       /* what is returned, where that is not the family's outputs in their order, a character each:
                                * '0' .. an output, 'a' .. the number that is argument 0 .. (or that the family has put there), '-' an undefined tensor */
    uint32_t undefined;        /* bit i: argument i, a Tensor, may be an undefined one (autograd passes them) */
    uint8_t masks;             /* elementwise: bit i: input i is a bool of its own, beside those called mask */
    int64_t gpu_most;          /* elements of the first tensor up to which a GPU takes it: ATen was measured faster
                                * beyond (benchmarks/results); 0: any number */
    const char *domain;        /* of the inputs in tests: "real", "positive", "unit" (-1, 1), "nonzero", "index" ... */
    double bytes, flops;       /* per element, for benchmarks; 0: from shapes and dtypes */
    const char *doc;           /* one line for docs/operators.md */
} gems_op;

typedef enum gems_variant { GEMS_FUNCTIONAL, GEMS_INPLACE, GEMS_OUT } gems_variant;

/* One overload that can be registered with torch: a row's functional, in-place or out form, or an alias of one. */
typedef struct gems_entry {
    uint16_t op, index;        /* row, own index */
    uint8_t variant;           /* gems_variant */
    uint8_t nouts;             /* outputs of the family */
    uint8_t nresults;          /* what is returned: as the row's `results` say, else the outputs */
    int8_t out_arg;            /* index of the first written argument; -1 for functional */
    uint8_t inputs;            /* arguments without the out ones: those that the family sees */
    uint8_t lacks;             /* arguments behind them that this torch does not know: the family sees None */
    bool scalar;               /* an argument is a Scalar: takes the torch.library route */
    bool own;                  /* an operator of flag_gems:: : nothing of ATen's stands behind it */
    char qualified[112];       /* "add.Tensor", "mm", without aten::; "flag_gems::silu_and_mul" */
    gems_schema schema;
    /* state, atomically changed */
    uint8_t gate;              /* open: our kernel may run (overrides) */
    bool alone;                /* ATen has no kernel of it here: ours runs although the gate is closed */
    bool kept;                 /* calls of it are kept (engine/kept.c) */
    uint64_t kernels, fallbacks;
    const char *reason;        /* of the last fallback, or NULL */
} gems_entry;

#define GEMS_ADDED_ROWS 4096            /* most rows that a program adds */

int gems_op_count(void);                /* rows, added ones included */
int gems_op_room(void);                 /* rows that there can be: what is kept for each has so many places */
const gems_op *gems_op_at(int index);
const char *gems_op_id(int index);      /* the row's identifier in operators.def; of an added row its name */
bool gems_op_composite(int index);      /* torch takes it apart: the row has no entries */
bool gems_op_own(int index);            /* its schema is in flag_gems:: */
bool gems_op_added(int index);          /* it is not in operators.def */

/* Expands the table: parses schemas, derives in-place and out forms. Called once at import. */
gems_status gems_table_open(void);
/* Adds a row to the table while the program runs: functional form and out form, in flag_gems::. Everything is copied and
 * stays, at the same place, until the process ends, so that callers need no lock. *index: the row. From any thread. */
gems_status gems_table_add(const gems_op *op, int *index);
/* Entries of aten operators have the numbers 0 .. gems_entry_count(): those can be registered behind torch, and have
 * gates. This package's own follow, up to gems_entry_total(). */
int gems_entry_count(void);
int gems_entry_total(void);
int gems_entry_room(void);
gems_entry *gems_entry_at(int index);
/* Takes the last arguments of a functional entry away, which this torch's operator does not have: `count` are left. Those
 * are keyword arguments that are None when left out; false: they are not. */
bool gems_entry_shorten(gems_entry *entry, int count);
int gems_entry_find(const char *qualified); /* -1 */

/* ---- families (csrc/families/) ---- */
struct gems_call;
struct gems_family {
    const char *name;                  /* also the kernel text: kernels/<name>.cu */
    /* Does a call: checks, infers, finds its plan, makes outputs, launches. */
    gems_status (*run)(struct gems_call *call);
    /* Writes the program of a key. A pure function of the row and the key; no device is asked. */
    gems_status (*program)(const gems_op *op, const gems_key *key, gems_program *program);
    /* Writes the i-th key that warmup compiles for a row and dtype, for an arch (80, 90, 100, 120; 0: cpu) and
     * a vector width; false: no more. key->op is already set. */
    bool (*warm)(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key);
    bool casts_output;                 /* writes into an out tensor of another dtype (same-kind cast) */
    bool strided_output;               /* writes into an out tensor of any strides */
    bool allows_alias;                 /* an output may be the same memory as an input, element by element */
};

/* The families, each in a file of its name. */
extern const gems_family gems_family_elementwise;
extern const gems_family gems_family_reduce;
extern const gems_family gems_family_loss;
extern const gems_family gems_family_row_norm;
extern const gems_family gems_family_add_norm;
extern const gems_family gems_family_cross_entropy;
extern const gems_family gems_family_ka_fusion;
extern const gems_family gems_family_weight_norm;
extern const gems_family gems_family_group_norm;
extern const gems_family gems_family_histogram;
extern const gems_family gems_family_batch_norm;
extern const gems_family gems_family_matmul;
extern const gems_family gems_family_copy;
extern const gems_family gems_family_bincount;
extern const gems_family gems_family_compact;
extern const gems_family gems_family_composite;
extern const gems_family gems_family_cat;
extern const gems_family gems_family_experts;
extern const gems_family gems_family_gather;
extern const gems_family gems_family_random;
extern const gems_family gems_family_factory;
extern const gems_family gems_family_index;
extern const gems_family gems_family_index_map;
extern const gems_family gems_family_interleave;
extern const gems_family gems_family_runs;
extern const gems_family gems_family_scan;
extern const gems_family gems_family_scatter;
extern const gems_family gems_family_sort;
extern const gems_family gems_family_rope;
extern const gems_family gems_family_kv_cache;
extern const gems_family gems_family_pool;
extern const gems_family gems_family_resample;
extern const gems_family gems_family_attention;
extern const gems_family gems_family_group_quant;
extern const gems_family gems_family_convolution;

#endif
