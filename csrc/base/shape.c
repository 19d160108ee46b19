#include "shape.h"

#include <string.h>

#include "dtype.h"

int64_t gems_numel(const int64_t *sizes, int ndim) {
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) n *= sizes[i];
    return n;
}

void gems_contiguous_strides(const int64_t *sizes, int ndim, int64_t *strides) {
    int64_t step = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        strides[i] = step;
        step *= sizes[i] > 1 ? sizes[i] : 1;
    }
}

static bool contiguous(const int64_t *sizes, const int64_t *strides, int ndim) {
    int64_t step = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        if (sizes[i] == 0) return true;
        if (sizes[i] != 1) {
            if (strides[i] != step) return false;
            step *= sizes[i];
        }
    }
    return true;
}

bool gems_is_contiguous(const gems_tensor *t) {
    return t->numel == 0 || contiguous(t->sizes, t->strides, t->ndim);
}

/* Some order of the dims makes it contiguous. */
static bool dense(const int64_t *sizes, const int64_t *strides, int ndim) {
    int64_t step = 1;
    uint32_t left = 0;
    for (int i = 0; i < ndim; i++)
        if (sizes[i] != 1) left |= 1u << i;
    while (left) {
        int found = -1;
        for (int i = 0; i < ndim; i++)
            if (left >> i & 1 && strides[i] == step) found = i;
        if (found < 0) return false;
        step *= sizes[found];
        left &= ~(1u << found);
    }
    return true;
}

bool gems_is_non_overlapping_and_dense(const gems_tensor *t) {
    return t->numel == 0 || dense(t->sizes, t->strides, t->ndim);
}

bool gems_same_sizes(const gems_tensor *a, const gems_tensor *b) {
    return a->ndim == b->ndim && !memcmp(a->sizes, b->sizes, (size_t)a->ndim * sizeof *a->sizes);
}

int gems_wrap_dim(int64_t dim, int ndim) {
    int64_t range = ndim ? ndim : 1;
    if (dim < -range || dim >= range) return -1;
    return (int)(dim < 0 ? dim + range : dim);
}

bool gems_broadcast(int64_t *sizes, int *ndim, const int64_t *other, int other_ndim) {
    if (other_ndim > *ndim) {
        int grow = other_ndim - *ndim;
        memmove(sizes + grow, sizes, (size_t)*ndim * sizeof *sizes);
        for (int i = 0; i < grow; i++) sizes[i] = 1;
        *ndim = other_ndim;
    }
    int64_t *tail = sizes + (*ndim - other_ndim);
    for (int i = 0; i < other_ndim; i++) {
        if (tail[i] == other[i] || other[i] == 1) continue;
        if (tail[i] != 1) return false;
        tail[i] = other[i];
    }
    return true;
}

void gems_broadcast_strides(const gems_tensor *t, const int64_t *sizes, int ndim,
                            int64_t *strides) {
    int lead = ndim - t->ndim;
    for (int i = 0; i < lead; i++) strides[i] = 0;
    for (int i = 0; i < t->ndim; i++)
        strides[lead + i] = t->sizes[i] == 1 && sizes[lead + i] != 1 ? 0 : t->strides[i];
}

int64_t gems_max_offset(const int64_t *sizes, const int64_t *strides, int ndim) {
    int64_t offset = 0;
    for (int i = 0; i < ndim; i++) {
        if (sizes[i] == 0) return 0;
        offset += (sizes[i] - 1) * strides[i];
    }
    return offset;
}

bool gems_fits_int32(int64_t offset) { return offset <= INT32_MAX; }

bool gems_overlaps_itself(const gems_tensor *t) {
    for (int i = 0; i < t->ndim; i++)
        if (t->sizes[i] > 1 && t->strides[i] == 0) return t->numel > 0;
    return false;
}

/* As ATen's get_overlap_status: ranges apart, the same view, or partly (two interleaved views count
 * as that). */
gems_overlap gems_overlap_of(const gems_tensor *a, const gems_tensor *b) {
    if (!a->numel || !b->numel) return GEMS_APART;
    const char *a_start = a->data, *b_start = b->data;
    const char *a_end = a_start + ((size_t)gems_max_offset(a->sizes, a->strides, a->ndim) + 1) *
                                      gems_dtype_size(a->dtype);
    const char *b_end = b_start + ((size_t)gems_max_offset(b->sizes, b->strides, b->ndim) + 1) *
                                      gems_dtype_size(b->dtype);
    if (a_end <= b_start || b_end <= a_start) return GEMS_APART;
    bool same = a_start == b_start && a->dtype == b->dtype && gems_same_sizes(a, b);
    for (int i = 0; same && i < a->ndim; i++)
        same = a->sizes[i] == 1 || a->strides[i] == b->strides[i];
    return same ? GEMS_SAME : GEMS_PARTLY;
}

/* ---- iteration order ---- */

/* Whether dim x must stand outside dim y: 1; inside: -1; undecided: 0. TensorIterator's rule: the
 * first operand with different strides in them decides; a broadcast dim (stride 0) says nothing;
 * equal strides: the larger size is outer. */
static int compare_dims(const int64_t *sizes, const int64_t *const *strides, int operands, int x,
                        int y) {
    for (int k = 0; k < operands; k++) {
        int64_t a = strides[k][x], b = strides[k][y];
        if (a == 0 || b == 0) continue;
        if (a != b) return a < b ? -1 : 1;
        if (sizes[x] > sizes[y]) return 1;
    }
    return 0;
}

/* Insertion sort that stops at the first decided neighbour, as TensorIterator's: perm is innermost
 * first. */
static void order_dims(const int64_t *sizes, int ndim, const int64_t *const *strides, int operands,
                       int *perm) {
    for (int i = 0; i < ndim; i++) perm[i] = ndim - 1 - i;
    for (int i = 1; i < ndim; i++) {
        int moving = i;
        for (int j = i - 1; j >= 0; j--) {
            int order = compare_dims(sizes, strides, operands, perm[j], perm[moving]);
            if (order > 0) {
                int held = perm[j];
                perm[j] = perm[moving];
                perm[moving] = held;
                moving = j;
            } else if (order < 0) {
                break;
            }
        }
    }
}

/* Dims in the order of perm, innermost first, merged where all operands allow it. */
static void fill_iter(gems_iter *iter, const int64_t *sizes, int ndim, const int *perm,
                      const int64_t *const *strides, int operands) {
    int n = 0;
    iter->operands = operands;
    for (int i = 0; i < ndim; i++) {
        int d = perm[i];
        if (sizes[d] == 1) continue;
        bool merge = n > 0;
        for (int k = 0; merge && k < operands; k++)
            merge = strides[k][d] == iter->stride[k][n - 1] * iter->size[n - 1];
        if (merge) {
            iter->size[n - 1] *= sizes[d];
            continue;
        }
        iter->size[n] = sizes[d];
        iter->perm[n] = d;
        for (int k = 0; k < operands; k++) iter->stride[k][n] = strides[k][d];
        n++;
    }
    if (!n) { /* one element */
        iter->size[0] = 1;
        iter->perm[0] = 0;
        for (int k = 0; k < operands; k++) iter->stride[k][0] = 1;
        n = 1;
    }
    iter->ndim = n;
}

void gems_iter_make(gems_iter *iter, const int64_t *sizes, int ndim, const int64_t *const *strides,
                    int operands) {
    int perm[GEMS_MAX_DIMS];
    iter->operands = operands;
    iter->numel = gems_numel(sizes, ndim);
    if (iter->numel == 0 || ndim == 0) {
        iter->ndim = 1;
        iter->size[0] = iter->numel;
        iter->perm[0] = 0;
        for (int k = 0; k < operands; k++) iter->stride[k][0] = 1;
        return;
    }
    order_dims(sizes, ndim, strides, operands, perm);
    fill_iter(iter, sizes, ndim, perm, strides, operands);
}

void gems_iter_ordered(gems_iter *iter, const int64_t *sizes, int ndim,
                       const int64_t *const *strides, int operands) {
    int perm[GEMS_MAX_DIMS];
    for (int i = 0; i < ndim; i++) perm[i] = ndim - 1 - i;
    iter->numel = gems_numel(sizes, ndim);
    fill_iter(iter, sizes, ndim, perm, strides, operands);
}

/* Dense with dim 1 innermost, as torch.channels_last: only dims of more than one element count. */
static bool channels_last(const int64_t *sizes, const int64_t *strides, int ndim) {
    static const int order[4] = {1, 3, 2, 0};
    int64_t step = 1;
    for (int i = 0; i < 4 && ndim == 4; i++) {
        if (sizes[order[i]] != 1 && strides[order[i]] != step) return false;
        step *= sizes[order[i]];
    }
    return ndim == 4;
}

static void channels_last_strides(const int64_t *sizes, int64_t *strides) {
    strides[1] = 1;
    strides[3] = sizes[1];
    strides[2] = strides[3] * sizes[3];
    strides[0] = strides[2] * sizes[2];
}

void gems_output_strides(const int64_t *sizes, int ndim, const int64_t *const *strides_in,
                         int count, int64_t *strides) {
    bool all_contiguous = true, all_channels_last = count > 0, alike = count > 0;
    for (int k = 0; k < count; k++) {
        all_contiguous = all_contiguous && contiguous(sizes, strides_in[k], ndim);
        all_channels_last = all_channels_last && channels_last(sizes, strides_in[k], ndim);
        alike = alike && !memcmp(strides_in[k], strides_in[0], (size_t)ndim * sizeof **strides_in);
    }
    if (all_contiguous) {
        gems_contiguous_strides(sizes, ndim, strides);
        return;
    }
    if (all_channels_last) {
        channels_last_strides(sizes, strides);
        return;
    }
    if (alike && dense(sizes, strides_in[0], ndim)) {
        memcpy(strides, strides_in[0], (size_t)ndim * sizeof *strides);
        return;
    }
    int perm[GEMS_MAX_DIMS];
    order_dims(sizes, ndim, strides_in, count, perm);
    int64_t step = 1;
    for (int i = 0; i < ndim; i++) {
        strides[perm[i]] = step;
        step *= sizes[perm[i]] > 1 ? sizes[perm[i]] : 1;
    }
}

gems_fastdiv gems_fastdiv_make(uint32_t divisor) {
    uint32_t shift = 0;
    while (shift < 31 && (UINT32_C(1) << shift) < divisor) shift++;
    uint64_t magic = ((UINT64_C(1) << 32) * ((UINT64_C(1) << shift) - divisor)) / divisor + 1;
    return (gems_fastdiv){divisor, (uint32_t)magic, shift};
}
