/* What the field `mode` of a row means, by family: the names that operators.def uses. */
#ifndef GEMS_MODES_H
#define GEMS_MODES_H

/* elementwise: how a new output is laid out. */
typedef enum gems_ew_layout {
    GEMS_EW_BY_INPUTS,     /* as TensorIterator decides from the inputs in their order */
    GEMS_EW_BY_LAST_FIRST, /* the last input decides before the others: ATen swaps them */
    GEMS_EW_CONTIGUOUS
} gems_ew_layout;

/* copy: what is written, and for a factory where its shape comes from. */
enum gems_copy_mode {
    GEMS_COPY_FROM, /* copy_ */
    GEMS_COPY_CLONE,
    GEMS_COPY_CAST, /* _to_copy */
    GEMS_COPY_FILL, /* with an argument, in a tensor that exists */
    GEMS_COPY_ZERO,
    GEMS_COPY_ONE,
    GEMS_COPY_FULL, /* with an argument, by a factory */
    GEMS_COPY_KIND = 15,
    GEMS_COPY_LIKE = 16,  /* a factory: as another tensor, */
    GEMS_COPY_NEW = 32,   /* of a size, with another tensor's options, */
    GEMS_COPY_SIZED = 48  /* of a size */
};

enum gems_cat_mode { GEMS_CAT_CAT, GEMS_CAT_STACK };

/* reduce: the reduction; max.dim and min.dim give values beside places. */
enum gems_reduction {
    GEMS_SUM,
    GEMS_MEAN,
    GEMS_PROD,
    GEMS_MAX,
    GEMS_MIN,
    GEMS_ANY,
    GEMS_ALL,
    GEMS_ARGMAX,
    GEMS_ARGMIN,
    GEMS_WITH_VALUES = 16
};

/* scan: what runs along a dimension; kernels/scan.cuh has the same numbers. */
enum gems_scan_mode {
    GEMS_SCAN_SUM,
    GEMS_SCAN_PROD,
    GEMS_SCAN_MAX,
    GEMS_SCAN_MIN,
    GEMS_SCAN_LOGSUMEXP
};

/* compact */
enum gems_compact_mode {
    GEMS_NONZERO,
    GEMS_NONZERO_STATIC,
    GEMS_MASKED_SELECT,
    GEMS_MASKED_SCATTER
};

enum gems_gather_mode {
    GEMS_EMBEDDING,
    GEMS_INDEX_SELECT,
    GEMS_GATHER,
    GEMS_SCATTER_ADD,
    GEMS_EMBEDDING_BACKWARD,
    GEMS_NLL_LOSS,
    GEMS_NLL_LOSS_BACKWARD,
    GEMS_NLL_LOSS_2D,
    GEMS_NLL_LOSS_2D_BACKWARD
};

/* matmul: bits. */
enum gems_matmul_mode {
    GEMS_MATMUL_PLAIN = 0,
    GEMS_MATMUL_ADDED = 1,  /* something is added to the product */
    GEMS_MATMUL_VECTOR = 2, /* a matrix and a vector */
    GEMS_MATMUL_BATCHED = 4
};

/* random: the distribution; kernels/random.cu has the same numbers. */
enum gems_random_mode {
    GEMS_UNIFORM,
    GEMS_NORMAL,
    GEMS_EXPONENTIAL,
    GEMS_BERNOULLI,
    GEMS_DROPOUT,
    GEMS_DROPOUT_BACKWARD
};

/* row_norm */
enum gems_row_op {
    GEMS_SOFTMAX,
    GEMS_LOG_SOFTMAX,
    GEMS_SOFTMAX_BACKWARD,
    GEMS_LOG_SOFTMAX_BACKWARD,
    GEMS_LAYER_NORM,
    GEMS_LAYER_NORM_BACKWARD,
    GEMS_RMS_NORM,
    GEMS_RMS_NORM_BACKWARD
};

#endif
