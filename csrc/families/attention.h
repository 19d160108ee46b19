/* What the files of the attention family share: the problem as the kernels see it, and the choice
 * of a kernel. */
#ifndef GEMS_ATTENTION_H
#define GEMS_ATTENTION_H

#include "call.h"

#define GEMS_ATTENTION_FAR (1 << 30) /* a window without an end; positions are below it */

/* gems_key.kernel */
enum {
    GEMS_ATTENTION_FMA,  /* multiply and add: every dtype and architecture */
    GEMS_ATTENTION_MMA,  /* tensor cores: 16-bit floats */
    GEMS_ATTENTION_FAST, /* fast cpu mode */
    GEMS_ATTENTION_BACK, /* the gradients, multiply and add */
    GEMS_ATTENTION_BACK_FAST,
    GEMS_ATTENTION_BACK_MMA,
    GEMS_ATTENTION_WGMMA, /* sm_90a: 16-bit floats */
    GEMS_ATTENTION_BACK_WGMMA
};

/* gems_key.flags */
enum {
    GEMS_ATTENTION_PAGED = 1,
    GEMS_ATTENTION_CAPPED = 2,
    GEMS_ATTENTION_ALIBI = 4,
    GEMS_ATTENTION_DROPOUT = 8,
    GEMS_ATTENTION_ALIGNED = 16, /* rows begin at multiples of 16 bytes */
    GEMS_ATTENTION_SHARED = 32   /* values are the first columns of the keys */
};

typedef struct gems_attention_strides {
    int64_t batch, head, row;
} gems_attention_strides;

/* What the kernels take: the twin of AttentionParams in kernels/attention.cuh. */
typedef struct gems_attention_params {
    const void *q, *k, *v, *mask, *grad, *delta;
    void *o, *lse, *partial, *dq, *dk, *dv;
    const void *cu_q, *cu_k, *used_k, *table, *alibi;
    void *counter;
    gems_attention_strides qs, ks, vs, os, gs, dqs, dks, dvs;
    int64_t mask_batch, mask_head, mask_row, mask_col;
    int64_t lse_batch, lse_head, lse_row;
    int64_t table_row, alibi_batch;
    int64_t rows_q, rows_k; /* of packed tensors */
    uint64_t seed, offset;
    double scale, cap, keep, empty_lse;
    int32_t batch, heads, group, queries, keys, dim, dim_v;
    int32_t left, right, from_end;
    int32_t splits, split_keys, tiles, section, wide, wide_o;
    gems_fastdiv pack, page;
} gems_attention_params;

/* A kernel and its tiles. */
typedef struct gems_attention_config {
    uint8_t kernel;
    uint8_t warps, across,
        each; /* MMA: warps; those that share rows; 16-row pieces of a warp. FMA: each is kR */
    int32_t kd, kdv, tile_m, tile_n;
    uint32_t threads, shared;
} gems_attention_config;

/* Picks a kernel. rows: queries times the heads that share a tile; shared: of
 * GEMS_ATTENTION_SHARED. GEMS_DECLINE where head dimensions are too large for the device. */
gems_status gems_attention_configure(const gems_device_info *info, int dtype, int dim, int dim_v,
                                     int64_t rows, bool tensor_cores, bool shared,
                                     gems_attention_config *config);
/* The same for the gradients. */
gems_status gems_attention_configure_backward(const gems_device_info *info, int dtype, int dim,
                                              int dim_v, gems_attention_config *config);
/* The key of a configuration's program. mask: dtype of the mask, or GEMS_NO_DTYPE. */
gems_key gems_attention_key(const gems_attention_config *config, int dtype, int mask, int flags);
gems_status gems_attention_program(const gems_op *op, const gems_key *key, gems_program *program);
bool gems_attention_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                         gems_key *key);

/* ---- attention.c ---- */
/* Reads query, key and value of [batch, heads, length, dim] and a mask (or NULL) into p; the last
 * dimension is made contiguous. Declines what the kernels do not take. */
gems_status gems_attention_read(gems_call *call, const gems_tensor *q, const gems_tensor *k,
                                const gems_tensor *v, const gems_tensor *mask, bool gqa,
                                gems_attention_params *p);
/* Data and strides of a tensor of [batch, heads, length, dim]; its last dimension is made
 * contiguous. */
gems_status gems_attention_operand(gems_call *call, const gems_tensor *t, const void **data,
                                   gems_attention_strides *strides);
/* Whether rows of a tensor can be read and written in vectors of 16 bytes. */
bool gems_attention_aligned(const void *data, const gems_attention_strides *s, int dtype);
/* The layout of a result of `sizes` that follows t's, with its last dimension contiguous. */
void gems_attention_follow(const gems_tensor *t, const int64_t *sizes, int64_t *strides);
/* Launches the forward kernels of a problem whose outputs exist. splits: parts of the keys; 0: as
 * many as fill the device. */
gems_status gems_attention_launch(gems_call *call, gems_attention_params *p, int dtype, int mask,
                                  int flags, int splits);

/* ---- attention_wgmma.c ---- */
/* The kernel of sm_90a for a head dimension, rounded up; narrow: rows see other keys than their
 * neighbours do. false: none. */
bool gems_attention_wgmma_configure(const gems_device_info *info, int dtype, int dim, bool narrow,
                                    gems_attention_config *config);
/* Whether it takes a problem, as far as what is read says. */
bool gems_attention_wgmma_takes(const gems_device_info *info, const gems_attention_params *p,
                                int dtype, int mask, int flags, int splits);
/* Whether a problem is so large that ATen's kernel was measured slower than ours on an H200
 * (benchmarks/results/nvidia_h200_attention.txt). */
bool gems_attention_wgmma_fills(const gems_device_info *info, const gems_attention_params *p);
/* The same of cuDNN's. */
bool gems_attention_wgmma_beats_cudnn(const gems_device_info *info, const gems_attention_params *p);
/* Launches it. GEMS_DECLINE: nothing was launched, and another kernel may do it. */
gems_status gems_attention_wgmma_launch(gems_call *call, gems_attention_params *p, int dtype);

/* Whether a map can be made of rows: no stride is 0. */
bool gems_attention_has_map(const gems_attention_strides *s, int64_t batch, int64_t heads,
                            int64_t rows);
/* The map of an operand. rows: of a sequence, or of all of them one behind another; box: rows of a
 * copy. */
gems_status gems_attention_write_map(const gems_call *call, const void *data,
                                     const gems_attention_strides *s, int dtype, int64_t dim,
                                     int64_t rows, int64_t heads, int64_t batch, int box,
                                     unsigned char *map);

/* ---- attention_backward_wgmma.c ---- */
/* A pass of the gradients: warpgroups that multiply, rows of a block, rows of a tile of the other
 * side, and how many of those lie in shared memory. */
typedef struct gems_attention_pass {
    int groups, rows, tile, stages;
    uint32_t threads, shared;
} gems_attention_pass;

typedef struct gems_attention_back {
    int dim; /* rounded up */
    gems_attention_pass queries, keys;
} gems_attention_back;

/* The kernels of sm_90a for a head dimension. false: none. */
bool gems_attention_back_configure(const gems_device_info *info, int dtype, int dim,
                                   gems_attention_back *config);
void gems_attention_back_program(const gems_key *key, gems_program *program);
bool gems_attention_back_warm(const gems_device_info *info, int dtype, int dim, gems_key *key);
/* Whether they take a problem, as far as what is read says. */
bool gems_attention_back_takes(const gems_device_info *info, const gems_attention_params *p,
                               int dtype, int mask, int flags);
/* Whether ATen's kernel was measured slower than ours on an H200
 * (benchmarks/results/nvidia_h200_attention.txt). */
bool gems_attention_back_fills(const gems_device_info *info, const gems_attention_params *p);
/* The same of cuDNN's. */
bool gems_attention_back_beats_cudnn(const gems_device_info *info, const gems_attention_params *p);
/* Launches them: outputs exist. GEMS_DECLINE: nothing was launched, and other kernels may do it. */
gems_status gems_attention_back_launch(gems_call *call, gems_attention_params *p, int dtype);

gems_status gems_attention_backward_run(gems_call *call);
gems_status gems_attention_flash_backward_run(gems_call *call);
gems_status gems_attention_efficient_run(gems_call *call);
gems_status gems_attention_efficient_backward_run(gems_call *call);

/* What the gradients of [batch, length, heads, dim], or of packed sequences, need. */
typedef struct gems_attention_inside {
    const gems_tensor *t[5]; /* grad, query, key, value, out */
    const gems_tensor *lse, *cu_q, *cu_k;
    int64_t max_q, max_k;  /* of packed sequences */
    double scale;          /* 0: the usual one */
    bool causal, from_end; /* the last query is at the last key */
    bool heads_first;      /* [batch, heads, length, dim] */
    bool behind_cudnn;     /* cuDNN's kernel is what else would run */
    bool contiguous;       /* the gradients are; else they lie as their operands */
} gems_attention_inside;

/* Does the call: outputs 0 to 2 are the gradients. */
gems_status gems_attention_inside_backward(gems_call *call, const gems_attention_inside *given);

gems_status gems_attention_varlen_run(gems_call *call);
gems_status gems_attention_cudnn_run(gems_call *call);
gems_status gems_attention_cudnn_backward_run(gems_call *call);

#endif
