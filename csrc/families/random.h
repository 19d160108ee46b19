/* What the files of the random family share. */
#ifndef GEMS_RANDOM_H
#define GEMS_RANDOM_H

#include "copy_views.h"

#define GEMS_RANDOM_THREADS 256 /* of ATen's blocks, and of ours */
#define GEMS_RANDOM_DIMS    8

/* gems_key.kernel */
enum {
    GEMS_FILL_RANDOM = GEMS_COPY_END,
    GEMS_FILL_RANDOM_STRIDED,
    GEMS_DROPOUT_DENSE,
    GEMS_SCALE_DENSE,
    GEMS_SCALE_STRIDED,
    GEMS_NORMAL_DENSE, /* mean or std are tensors */
    GEMS_NORMAL_STRIDED,
    GEMS_BERNOULLI_P_DENSE, /* the probabilities are */
    GEMS_BERNOULLI_P_STRIDED,
    GEMS_PICK,   /* multinomial */
    GEMS_PERMUTE /* randperm */
};

/* Twins of Strided<NT, int32_t> in kernels/gems.cuh. */
typedef struct gems_random_map1 {
    int32_t ndim, n;
    gems_fastdiv div[GEMS_RANDOM_DIMS];
    int32_t stride[GEMS_RANDOM_DIMS][1];
} gems_random_map1;
typedef struct gems_random_map3 {
    int32_t ndim, n;
    gems_fastdiv div[GEMS_RANDOM_DIMS];
    int32_t stride[GEMS_RANDOM_DIMS][3];
} gems_random_map3;

/* ATen's grid for n elements, in threads. */
uint32_t gems_aten_threads(const gems_device_info *info, int64_t n);
/* ATen draws larger tensors in parts, each with an offset of its own. */
bool gems_random_too_large(const gems_call *call, const gems_tensor *t);
gems_status gems_random_launch(gems_call *call, const gems_plan *plan, int64_t items,
                               int64_t per_block, void **args);

/* ---- random_inputs.c: distributions whose parameters are tensors ---- */
gems_status gems_run_normal_tensors(gems_call *call);
gems_status gems_run_bernoulli_tensor(gems_call *call);
bool gems_random_inputs_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                             gems_key *key);
/* Whether low <= v <= high for every element of a float tensor of the CPU. */
bool gems_random_within(const gems_tensor *t, double low, double high);

/* ---- random_pick.c ---- */
gems_status gems_run_multinomial(gems_call *call);
gems_status gems_run_randperm(gems_call *call);
/* Files and entries of a key of theirs. */
gems_status gems_pick_program(const gems_key *key, gems_program *program);

#endif
