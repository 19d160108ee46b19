/* aten schemas, parsed: "add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor". */
#ifndef GEMS_SCHEMA_H
#define GEMS_SCHEMA_H

#include "../gems.h"

typedef enum gems_type {
    GEMS_T_TENSOR, GEMS_T_TENSORS, GEMS_T_SCALAR, GEMS_T_INT, GEMS_T_FLOAT, GEMS_T_BOOL,
    GEMS_T_INTS, GEMS_T_FLOATS, GEMS_T_BOOLS, GEMS_T_DTYPE, GEMS_T_LAYOUT, GEMS_T_DEVICE, GEMS_T_MEMORY_FORMAT,
    GEMS_T_STRING, GEMS_T_GENERATOR, GEMS_T_OTHER
} gems_type;

typedef struct gems_arg {
    char name[32];
    uint8_t type;          /* gems_type */
    bool optional;         /* T? */
    bool list_of_optional; /* Tensor?[] */
    bool keyword_only;
    bool written;          /* (a!) */
    bool undefined;        /* a Tensor that may be an undefined one, which is read as None: the row says so */
    bool has_default;
    int8_t list_size;      /* int[2] -> 2; 0 when free */
    gems_value fallback;   /* the default value */
} gems_arg;

/* An operator of this package's own has "flag_gems::" in front of its text; aten's have no namespace there. */
#define GEMS_OWN_PREFIX "flag_gems::"

typedef struct gems_schema {
    char text[512];
    bool own;              /* the text has GEMS_OWN_PREFIX */
    char name[64];         /* "add" */
    char overload[48];     /* "Tensor"; "" for the default */
    int nargs, npositional, nreturns;
    gems_arg args[GEMS_MAX_ARGS];
} gems_schema;

gems_status gems_schema_parse(const char *text, gems_schema *schema);
int gems_schema_arg(const gems_schema *schema, const char *name); /* index; -1 */

#endif
