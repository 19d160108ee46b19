/* What the field `mode` of a row means, by family: the names that operators.def uses. */
#ifndef GEMS_MODES_H
#define GEMS_MODES_H

/* elementwise: how a new output is laid out, and bits. */
enum gems_ew_mode {
    GEMS_EW_BY_INPUTS,     /* as TensorIterator decides from the inputs in their order */
    GEMS_EW_BY_LAST_FIRST, /* the last input decides before the others: ATen swaps them */
    GEMS_EW_CONTIGUOUS,
    GEMS_EW_BY_SELF,       /* as the input self, whose shape it has */
    GEMS_EW_FIRST_LAST,    /* the first input decides after the others */
    GEMS_EW_LAYOUT = 7,
    GEMS_EW_SHAPE_OF_SELF = 8, /* other inputs do not make it larger */
    GEMS_EW_NOT_NEGATIVE = 16, /* ATen may raise on a parameter below 0 */
    GEMS_EW_POSITIVE = 32,     /* ATen may raise on a parameter of 0 and below */
    GEMS_EW_OUT_EXACT = 64,    /* an out tensor has the result's dtype */
    GEMS_EW_HALVES = 128       /* self is two inputs, its halves along dim; two values make one result of its shape */
};

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
    GEMS_COPY_SIZED = 48, /* of a size, */
    GEMS_COPY_SCALAR = 64 /* without dimensions */
};

/* factory: what is made. GEMS_ARANGE_STEP, GEMS_RANGE_STEP: from start, end and step. */
enum gems_factory_mode {
    GEMS_ARANGE, /* to an end */
    GEMS_ARANGE_START,
    GEMS_ARANGE_STEP,
    GEMS_RANGE,
    GEMS_RANGE_STEP,
    GEMS_LINSPACE,
    GEMS_LOGSPACE,
    GEMS_EYE,
    GEMS_EYE_M,
    GEMS_TRIL_INDICES,
    GEMS_TRIU_INDICES
};

enum gems_cat_mode { GEMS_CAT_CAT, GEMS_CAT_STACK };

/* index_map: what is moved. From GEMS_VIEW_COPY on, a copy of the view that a name says. */
enum gems_index_map_mode {
    GEMS_PAD_CONSTANT,
    GEMS_PAD_REFLECT,
    GEMS_PAD_REPLICATE,
    GEMS_FLIP,
    GEMS_ROT90,
    GEMS_ROLL,
    GEMS_TRIU,
    GEMS_TRIL,
    GEMS_DIAG_EMBED,
    GEMS_DIAGONAL_BACKWARD,
    GEMS_SELECT_BACKWARD,
    GEMS_SLICE_BACKWARD,
    GEMS_SELECT_SCATTER,
    GEMS_SLICE_SCATTER,
    GEMS_DIAGONAL_SCATTER,
    GEMS_REPEAT,
    GEMS_PIXEL_SHUFFLE,
    GEMS_PIXEL_UNSHUFFLE,
    GEMS_CHANNEL_SHUFFLE,
    GEMS_PAD_REFLECT_BACKWARD,
    GEMS_PAD_REPLICATE_BACKWARD,
    GEMS_VIEW_COPY = 32,
    GEMS_VIEW_ALIAS = GEMS_VIEW_COPY,
    GEMS_VIEW_AS_STRIDED,
    GEMS_VIEW_DIAGONAL,
    GEMS_VIEW_EXPAND,
    GEMS_VIEW_NARROW,
    GEMS_VIEW_PERMUTE,
    GEMS_VIEW_SELECT,
    GEMS_VIEW_SLICE,
    GEMS_VIEW_SQUEEZE,
    GEMS_VIEW_SQUEEZE_DIM,
    GEMS_VIEW_SQUEEZE_DIMS,
    GEMS_VIEW_T,
    GEMS_VIEW_TRANSPOSE,
    GEMS_VIEW_UNFOLD,
    GEMS_VIEW_UNSQUEEZE,
    GEMS_VIEW_RESHAPE
};

/* reduce: the reduction; kernels/reduce_values.cuh has the same numbers. max.dim and min.dim give values beside places,
 * var_mean and std_mean means, aminmax maxima. A norm whose power has a kernel of its own is one of those that follow it. */
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
    GEMS_NAN_SUM,
    GEMS_COUNT, /* of those that are not zero */
    GEMS_NORM,
    GEMS_NORM0,
    GEMS_NORM1,
    GEMS_NORM2,
    GEMS_NORM_MAX,
    GEMS_NORM_MIN,
    GEMS_VAR,
    GEMS_STD,
    GEMS_TRACE, /* a sum of the diagonal */
    GEMS_DOT,   /* a sum of products */
    GEMS_LOGSUMEXP,
    GEMS_AMINMAX, /* both extremes */
    GEMS_WITH_VALUES = 128
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

enum gems_index_mode { GEMS_INDEX_PICK, GEMS_INDEX_TAKE };

/* scatter: where the elements go. */
enum gems_scatter_mode {
    GEMS_SCATTER,     /* scatter, scatter_reduce */
    GEMS_INDEX_ADD,   /* along a dim, by an index vector */
    GEMS_INDEX_COPY,
    GEMS_INDEX_REDUCE,
    GEMS_INDEX_FILL,
    GEMS_INDEX_PUT,   /* by a list of indices */
    GEMS_PUT          /* by places in the flat self */
};

/* matmul: bits. */
enum gems_matmul_mode {
    GEMS_MATMUL_PLAIN = 0,
    GEMS_MATMUL_ADDED = 1,  /* something is added to the product */
    GEMS_MATMUL_VECTOR = 2, /* a matrix and a vector */
    GEMS_MATMUL_BATCHED = 4,
    GEMS_MATMUL_INT = 8,    /* int8 to int32; alone */
    GEMS_MATMUL_SCALED = 16 /* fp8, with scales; alone */
};

/* random: the distribution; kernels/random.cu has the same numbers. */
enum gems_random_mode {
    GEMS_UNIFORM,
    GEMS_NORMAL,
    GEMS_EXPONENTIAL,
    GEMS_BERNOULLI,
    GEMS_CAUCHY,
    GEMS_LOG_NORMAL,
    GEMS_GEOMETRIC,
    GEMS_RANDOM, /* integers */
    GEMS_DROPOUT,
    GEMS_DROPOUT_BACKWARD,
    GEMS_NORMAL_TENSORS,    /* mean or std are tensors */
    GEMS_BERNOULLI_TENSOR,  /* of a tensor of probabilities: self, */
    GEMS_BERNOULLI_TENSORS, /* or the second argument */
    GEMS_MULTINOMIAL,
    GEMS_RANDPERM,
    GEMS_RANDOM_KIND = 15,
    GEMS_RANDOM_LIKE = 16,  /* a factory: as another tensor, */
    GEMS_RANDOM_SIZED = 32, /* of a size; neither: in place, or a new tensor in the place of self, */
    GEMS_RANDOM_DENSE = 64  /* which is contiguous whatever self is */
};

/* sort: which elements of sorted rows; what is searched. */
enum gems_sort_mode {
    GEMS_SORT,
    GEMS_SORT_STABLE,
    GEMS_TOPK,
    GEMS_KTHVALUE,
    GEMS_MEDIAN,
    GEMS_NANMEDIAN,
    GEMS_SEARCHSORTED,
    GEMS_BUCKETIZE,
    GEMS_ISIN
};

/* experts */
enum gems_experts_mode { GEMS_EXPERTS_TOPK, GEMS_EXPERTS_ALIGN };

/* runs: what is made of runs of equal elements. */
enum gems_runs_mode {
    GEMS_UNIQUE,
    GEMS_UNIQUE_CONSECUTIVE,
    GEMS_UNIQUE_DIM,
    GEMS_UNIQUE_DIM_CONSECUTIVE,
    GEMS_MODE
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

/* add_norm: what is made of the sum; the second in place, the third of one tensor. */
enum gems_add_norm_mode {
    GEMS_SKIP_LAYER_NORM,
    GEMS_ADD_RMS_NORM,
    GEMS_PLAIN_RMS_NORM,
    GEMS_SKIP_LAYER_NORM_BACKWARD,
    GEMS_PLAIN_RMS_NORM_BACKWARD
};

/* group_norm, batch_norm, weight_norm, cross_entropy; of the latter: whether it trains is an argument, or always or never so. */
enum gems_norm_mode {
    GEMS_NORM_FORWARD,
    GEMS_NORM_BACKWARD,
    GEMS_NORM_NO_STATS,
    GEMS_NORM_EVALUATION
};

/* rope: bits. */
enum gems_rope_mode {
    GEMS_ROPE_INVERSE = 1, /* turned back: the gradient */
    GEMS_ROPE_INPLACE = 2
};

/* kv_cache: how the cache is laid out. */
enum gems_cache_mode {
    GEMS_CACHE_PAGED, /* slots of a block innermost */
    GEMS_CACHE_ROWS,  /* a token's heads one behind another */
    GEMS_CACHE_LATENT /* a token's row has both tensors */
};

/* pool: kernels/pool.cu has the same numbers. */
enum gems_pool_mode {
    GEMS_POOL_AVERAGE,
    GEMS_POOL_AVERAGE_BACKWARD,
    GEMS_POOL_MAX,
    GEMS_POOL_MAX_BACKWARD
};

/* resample: the filter, and bits. */
enum gems_resample_mode {
    GEMS_RESAMPLE_NEAREST,
    GEMS_RESAMPLE_NEAREST_EXACT,
    GEMS_RESAMPLE_LINEAR, /* antialiased, as the next */
    GEMS_RESAMPLE_CUBIC,
    GEMS_RESAMPLE_KIND = 15,
    GEMS_RESAMPLE_BACKWARD = 16
};

/* convolution: what the arguments are. */
enum gems_convolution_mode {
    GEMS_CONVOLUTION,
    GEMS_CONVOLUTION_BACKWARD,
    GEMS_CONVOLUTION_DEPTHWISE
};

/* attention: forward and gradients of [batch, heads, length, dim]; as ATen's operators for a CPU have their arguments; of
 * packed sequences and pages of keys. */
enum gems_attention_mode {
    GEMS_ATTENTION_MODE_FORWARD,
    GEMS_ATTENTION_MODE_BACKWARD,
    GEMS_ATTENTION_MODE_FOR_CPU,
    GEMS_ATTENTION_MODE_FOR_CPU_BACKWARD,
    GEMS_ATTENTION_MODE_VARLEN,
    GEMS_ATTENTION_MODE_FLASH, /* as ATen's for a GPU: [batch, length, heads, dim], or packed */
    GEMS_ATTENTION_MODE_FLASH_BACKWARD,
    GEMS_ATTENTION_MODE_CUDNN,
    GEMS_ATTENTION_MODE_CUDNN_BACKWARD,
    GEMS_ATTENTION_MODE_EFFICIENT,
    GEMS_ATTENTION_MODE_EFFICIENT_BACKWARD
};

#endif
