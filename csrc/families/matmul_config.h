/* From the shape of a matrix product to the kernel that computes it: a model of the device, no measurement, no state. */
#ifndef GEMS_MATMUL_CONFIG_H
#define GEMS_MATMUL_CONFIG_H

#include "../backend/backend.h"

/* The programs of the family; numbers of gems_key.kernel. */
typedef enum gems_matmul_kernel {
    GEMS_MATMUL_MMA,   /* tensor cores: 16-bit floats */
    GEMS_MATMUL_FMA,   /* multiply and add: every dtype and architecture */
    GEMS_MATMUL_PANEL, /* fast cpu mode: packed panels */
    GEMS_MATMUL_THIN,  /* fast cpu mode: at most GEMS_MATMUL_THIN_ROWS rows */
    GEMS_MATMUL_WGMMA, /* sm_90a: by warpgroups and tensor maps; what has not 16 bits lies along k */
    GEMS_MATMUL_WIDE,  /* tensor cores: tf32, float64, int8, fp8 */
    GEMS_MATMUL_BYTES, /* fast cpu mode: packed panels of int8 and fp8 */
    GEMS_MATMUL_ONE,   /* a GPU: a matrix and a column (matmul_one.c) */
    GEMS_MATMUL_FEW    /* a GPU: a matrix and at most 16 columns */
} gems_matmul_kernel;

#define GEMS_MATMUL_THIN_ROWS 4

/* How an operand reaches shared memory: along k or along its lines (rows of A, columns of B), in aligned vectors of 16 bytes
 * or element by element. The twin of Feeding in kernels/tile.cuh. */
typedef enum gems_matmul_feed {
    GEMS_ALONG_K,
    GEMS_ALONG_LINES,
    GEMS_GATHER_ALONG_K,
    GEMS_GATHER_ALONG_LINES
} gems_matmul_feed;

typedef struct gems_matmul_shape {
    int64_t batch, m, n, k;
    uint8_t dtype;          /* of the operands */
    uint8_t feed_a, feed_b; /* gems_matmul_feed */
    int32_t workers;        /* threads of the fast mode; 0: as many as the device has */
    bool crooked;           /* sm_90a: rows of an operand do not begin where lines of the cache do */
    bool tf32;              /* float32 is rounded to tf32 and multiplied on the tensor cores */
    bool promotes;          /* fp8: sums of 128 elements of k are added up in float32 */
} gems_matmul_shape;

/* How the work is parted. Passed to the kernels as it is: the twin of the fields of MatmulParams in
 * kernels/matmul.cuh. */
typedef struct gems_matmul_parts {
    int32_t tile_m, tile_n;            /* what a block computes */
    int32_t tiles_m, tiles_n;          /* number of tiles */
    int32_t split, split_k;            /* parts of k, each split_k deep but the last */
    int32_t group;                     /* rows of tiles that are walked together */
    int32_t batches;                   /* fast mode: matrices of a block */
    int32_t panel_m, panel_n, panel_k; /* fast mode: what is packed at a time */
    int32_t share;                     /* WGMMA, thin: blocks of a cluster, each with a part of k of the same tile */
} gems_matmul_parts;

typedef struct gems_matmul_config {
    uint8_t kernel;             /* gems_matmul_kernel */
    uint8_t tile_k;             /* depth of a tile in shared memory */
    uint8_t across_m, across_n; /* MMA: warps; FMA: elements of a thread */
    uint8_t stages;             /* MMA: tiles in shared memory */
    uint8_t pad;                /* elements between the rows of a staged slab; WGMMA: boxes of results of each warp */
    uint8_t blocks;             /* resident on a processor at a time, which limits the registers */
    uint8_t cluster;            /* WGMMA: blocks below each other that bring B together; tile_m is theirs together.
                                 * Thin: blocks that do a part of k each; parts.split is 1 and parts.split_k theirs */
    bool thin;                  /* WGMMA: tiles are few, or have at most 64 columns */
    bool promotes;              /* as in the shape */
    gems_matmul_parts parts;
    int64_t grid; /* blocks */
    uint32_t threads, shared;
} gems_matmul_config;

/* Picks the kernel and its tiles. Sizes are at least 1, k may be 0; every device has a configuration. */
void gems_matmul_configure(const gems_matmul_shape *shape, const gems_device_info *info, gems_matmul_config *config);

/* Whether a tile has the registers to gather operands as they lie; tile sizes: of gems_matmul_parts. */
bool gems_matmul_gathers(int dtype, int kernel, int tile_m, int tile_n, int feed_a, int feed_b);

/* Whether float32 has a kernel that rounds it to tf32, on a device of this arch. */
bool gems_matmul_has_tf32(int arch);

/* The i-th configuration that a GPU kernel of a dtype may get; false: no more. For warmup and tests. Float32 has those of
 * tf32 behind those of float32. */
bool gems_matmul_candidate(int dtype, int arch, int i, gems_matmul_config *config);

/* Divides a product into the tiles of a configuration, and k into at most `parts` of whole steps. */
void gems_matmul_divide(const gems_matmul_shape *shape, int64_t parts, gems_matmul_config *config);

/* What may be asked for in the fast mode; 0: as gems_matmul_configure does it. */
typedef struct gems_matmul_fast_option {
    int32_t rows;  /* workers along the rows of a matrix */
    int32_t depth; /* of what is packed at a time: the packed kernel, where another would be taken */
} gems_matmul_fast_option;
void gems_matmul_fast(const gems_matmul_shape *shape, const gems_device_info *info, const gems_matmul_fast_option *option,
                      gems_matmul_config *config);

/* ---- matmul_wgmma.c: the kernel of sm_90a ---- */

/* Whether it runs a product: the device, dtype, layouts and size are for it. feed_a, feed_b of the shape are those of
 * gems_matmul_choose_feed. What it does not run is for the other kernels, or for ATen. */
bool gems_matmul_wgmma_takes(const gems_matmul_shape *shape, const gems_device_info *info);

/* Whether the sides are to be exchanged first, D^T = B^T A^T: n is what is small in a product that is thin. */
bool gems_matmul_wgmma_exchanges(const gems_matmul_shape *shape, bool *thin);

/* As gems_matmul_configure. */
void gems_matmul_wgmma_configure(const gems_matmul_shape *shape, const gems_device_info *info, gems_matmul_config *config);
bool gems_matmul_wgmma_candidate(const gems_device_info *info, int dtype, int i, gems_matmul_config *config);

/* Whether a candidate may compute a product. */
bool gems_matmul_wgmma_allows(const gems_matmul_shape *shape, const gems_device_info *info, const gems_matmul_config *config);

/* As gems_matmul_divide, for a candidate whose blocks have no parts of k. */
void gems_matmul_wgmma_divide(const gems_matmul_shape *shape, const gems_device_info *info, int64_t parts,
                              gems_matmul_config *config);

/* An operand as its map has it. first: A, else B; lines, k: sizes. */
void gems_matmul_wgmma_map(const gems_matmul_config *config, bool first, int feed, int dtype, const void *data, int64_t batch,
                           int64_t batch_stride, int64_t lines, int64_t line_stride, int64_t k, int64_t k_stride,
                           gems_tensor_map *map);

/* The result, whose rows are contiguous and wide, as its map has it. */
void gems_matmul_wgmma_result_map(int dtype, const void *data, int64_t batch, int64_t batch_stride, int64_t m, int64_t n,
                                  int64_t row_stride, gems_tensor_map *map);

/* How an operand is best read. data: its address; lines, k: sizes. */
gems_matmul_feed gems_matmul_choose_feed(const void *data, size_t element, int64_t batch, int64_t batch_stride,
                                         int64_t lines, int64_t line_stride, int64_t k, int64_t k_stride);

#endif
