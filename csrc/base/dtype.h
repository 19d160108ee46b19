/* Facts about dtypes and torch's type promotion. */
#ifndef GEMS_DTYPE_H
#define GEMS_DTYPE_H

#include "../gems.h"

#define GEMS_BIT(dtype) (UINT64_C(1) << (dtype))
#define GEMS_INTS_MASK (GEMS_BIT(GEMS_U8) | GEMS_BIT(GEMS_I8) | GEMS_BIT(GEMS_I16) | GEMS_BIT(GEMS_I32) | GEMS_BIT(GEMS_I64))
#define GEMS_BOOL_MASK GEMS_BIT(GEMS_BOOL)
#define GEMS_HALF_MASK (GEMS_BIT(GEMS_F16) | GEMS_BIT(GEMS_BF16))
#define GEMS_FLOAT_MASK (GEMS_HALF_MASK | GEMS_BIT(GEMS_F32) | GEMS_BIT(GEMS_F64))
#define GEMS_COMPLEX_MASK (GEMS_BIT(GEMS_C64) | GEMS_BIT(GEMS_C128))
#define GEMS_REAL_MASK (GEMS_FLOAT_MASK | GEMS_INTS_MASK)
#define GEMS_ALL_MASK (GEMS_REAL_MASK | GEMS_BOOL_MASK)

size_t gems_dtype_size(int dtype);          /* bytes; 0: unknown to us (quantised, bits, ...) */
const char *gems_dtype_name(int dtype);     /* torch's name, "float32"; NULL when unknown */
const char *gems_dtype_kernel(int dtype);   /* name in kernel text, "gems::bf16"; NULL when unknown */
int gems_dtype_parse(const char *name);     /* the reverse of _name; GEMS_NO_DTYPE */
int gems_dtype_opmath(int dtype);           /* f16, bf16, fp8 -> f32; c32 -> c64; the others themselves */
bool gems_dtype_is_float(int dtype);        /* real floating point, fp8 included */
bool gems_dtype_is_complex(int dtype);
bool gems_dtype_is_int(int dtype);          /* without bool */
int gems_dtype_real(int dtype);             /* of a complex dtype that of its parts; the others themselves */

int gems_promote(int a, int b);             /* torch.promote_types; GEMS_NO_DTYPE when torch has none */
bool gems_can_cast(int from, int to);       /* torch.can_cast */
int gems_default_dtype(void);               /* torch.get_default_dtype(); kept by gems_set_default_dtype */
void gems_set_default_dtype(int dtype);
extern int (*gems_default_dtype_source)(void); /* asked each time where it is set */

/* torch.result_type over values that are tensors or wrapped numbers (others are skipped): tensors of
 * rank 1 or more first, then 0-dim ones, then numbers, each only where its category is higher.
 * GEMS_NO_DTYPE when the list has neither. */
int gems_result_type(const gems_value *const *values, int count);

/* Writes a number (int, float, bool or complex value) as one element of dtype. False when value is no number.
 * Out of range ints wrap, as a C cast does. bytes: room for 16. */
bool gems_store_number(const gems_value *value, int dtype, void *bytes);
/* Reads the only element of a CPU tensor as a number value; false for dtypes without a number. */
bool gems_load_number(const gems_tensor *tensor, gems_value *value);

#endif
