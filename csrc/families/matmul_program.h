/* Keys and programs of the matmul family, between matmul.c (calls) and matmul_config.c (the choice). */
#ifndef GEMS_MATMUL_PROGRAM_H
#define GEMS_MATMUL_PROGRAM_H

#include "op.h"
#include "matmul_config.h"

/* The key of a configuration; op is left 0. */
void gems_matmul_key(const gems_matmul_config *config, int dtype, int feed_a, int feed_b, gems_key *key);

gems_status gems_matmul_program(const gems_op *op, const gems_key *key, gems_program *program);
bool gems_matmul_warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key);

#endif
