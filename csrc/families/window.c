#include "window.h"

#include <string.h>

bool gems_window_ints(const gems_value *value, int rank, const int32_t *otherwise, int32_t *to) {
    if (value->kind == GEMS_INT) {
        if (value->i < INT32_MIN || value->i > INT32_MAX) return false;
        for (int d = 0; d < rank; d++) to[d] = (int32_t)value->i;
        return true;
    }
    if (value->kind == GEMS_NONE || (value->kind == GEMS_INTS && !value->ints.n)) {
        if (otherwise) memcpy(to, otherwise, (size_t)rank * sizeof *to);
        return otherwise != NULL;
    }
    if (value->kind != GEMS_INTS || (value->ints.n != 1 && value->ints.n != rank)) return false;
    for (int d = 0; d < rank; d++) {
        int64_t v = value->ints.v[value->ints.n == 1 ? 0 : d];
        if (v < INT32_MIN || v > INT32_MAX) return false;
        to[d] = (int32_t)v;
    }
    return true;
}

bool gems_window_fits(const gems_window *window, int64_t in) {
    int64_t reach = ((int64_t)window->size + 1) * window->dilation;
    return in + 2 * (int64_t)window->pad + reach + window->stride < 1 << 30;
}

int64_t gems_window_pooled(const gems_window *window, int64_t in, bool ceil) {
    int64_t span = (int64_t)window->dilation * (window->size - 1) + 1;
    int64_t room = in + 2 * (int64_t)window->pad - span + (ceil ? window->stride - 1 : 0);
    if (room < 0) return 0;
    int64_t out = room / window->stride + 1;
    /* the last window begins in the image or in the padding before it */
    if (ceil && (out - 1) * window->stride >= in + window->pad) out--;
    return out;
}

void gems_image_strides(const int64_t *sizes, int ndim, bool last, int64_t *strides) {
    if (last && ndim == 3) {
        strides[0] = sizes[1] * sizes[2];
        strides[1] = 1;
        strides[2] = sizes[1];
    } else if (last)
        gems_channels_last_strides(sizes, ndim, strides);
    else
        gems_contiguous_strides(sizes, ndim, strides);
}

gems_status gems_image_pack(gems_call *call, const gems_tensor *t, const int64_t *strides,
                            const void **data) {
    bool same = true;
    for (int d = 0; d < t->ndim; d++)
        same = same && (t->sizes[d] == 1 || t->strides[d] == strides[d]);
    *data = t->data;
    if (same || !t->numel) return GEMS_OK;
    void *copy;
    GEMS_TRY(gems_scratch(call, (size_t)t->numel * gems_dtype_size(t->dtype), &copy));
    *data = copy;
    return gems_copy_views(call, t->sizes, t->ndim, (gems_view){copy, strides, t->dtype},
                           (gems_view){t->data, t->strides, t->dtype});
}
