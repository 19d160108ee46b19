/* Keys and programs of the matmul family, between matmul.c (calls) and matmul_config.c (the choice). */
#ifndef GEMS_MATMUL_PROGRAM_H
#define GEMS_MATMUL_PROGRAM_H

#include "op.h"
#include "matmul_config.h"

/* Types of a product beside that of the result: of A and B, and whether it is scaled (fp8). */
typedef struct gems_matmul_types {
    uint8_t result, a, b;
    bool scaled;
} gems_matmul_types;

/* Says the types in a key where they are not all the result's. */
void gems_matmul_key_types(gems_key *key, const gems_matmul_types *types);

/* The key of a configuration; op is left 0. dtype: of the operands and the result; int8 gives int32. */
void gems_matmul_key(const gems_matmul_config *config, int dtype, int feed_a, int feed_b, gems_key *key);

/* The same of a matrix and a column (matmul_one.c). */
void gems_matmul_one_key(int dtype, bool lines, int share, bool clusters, gems_key *key);
void gems_matmul_few_key(int dtype, int columns, int share, bool clusters, gems_key *key);

gems_status gems_matmul_program(const gems_op *op, const gems_key *key, gems_program *program);
bool gems_matmul_warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key);

#endif
