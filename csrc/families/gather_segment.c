/* embedding_dense_backward: rows of the gradient added up for each row of the weight, always in the
 * order of the indices. The indices are sorted (stable) with their positions, then every row of the
 * weight adds its own segment: no floating atomics, the same bits on every run. */
#include "radix.h"
#include "gather.h"

#include <string.h>

#include "../base/dtype.h"

#define THREADS 256

/* Kernels of kernels/radix.cuh and segment.cu; of kernels/segment_fast.cu, where one thread sorts.
 */
enum { PREPARE, COUNT, SCAN, PLACE, EDGES, SUM };
enum { SORT_FAST, SUM_FAST };

/* What the kernels need beside the sort: where every row's segment is. */
typedef struct {
    gems_radix radix;
    int32_t *first, *last;
    int32_t rows;
    int64_t padding;
} sorter;

static gems_status launch(gems_call *call, const gems_plan *plan, int entry, int64_t blocks,
                          uint32_t threads, void **args) {
    const uint32_t grid[3] = {(uint32_t)blocks, 1, 1}, block[3] = {threads, 1, 1};
    return gems_call_launch(call, plan, entry, grid, block, 0, args);
}

/* Splits one scratch buffer. */
static gems_status make_room(gems_call *call, sorter *s, bool fast) {
    gems_radix *r = &s->radix;
    size_t n = (size_t)r->n, rows = (size_t)s->rows + 1, cells = fast ? 0 : gems_radix_cells(r->n);
    void *data;
    GEMS_TRY(gems_scratch(call, (4 * n + 2 * rows + cells) * sizeof(int32_t), &data));
    int32_t *next = data;
    for (int i = 0; i < 2; i++) {
        r->keys[i] = next;
        r->positions[i] = next + n;
        next += 2 * n;
    }
    s->first = next;
    s->last = next + rows;
    r->counts = next + 2 * rows;
    return GEMS_OK;
}

/* Leaves the positions of every row r in positions[first[r] .. last[r]) of the sort's last buffer.
 */
static gems_status sort(gems_call *call, const gems_plan *plan, const gems_device_info *info,
                        sorter *s, void *index) {
    gems_radix *r = &s->radix;
    int64_t most = r->n > s->rows + 1 ? r->n : s->rows + 1;
    if (info->fast) {
        void *args[] = {&index,           &r->n,     &s->rows, &s->padding,
                        &r->positions[0], &s->first, &s->last};
        return launch(call, plan, SORT_FAST, 1, 1, args);
    }
    void *prepare[] = {&index,           &r->n,     &s->rows, &s->padding, &r->keys[0],
                       &r->positions[0], &s->first, &s->last};
    GEMS_TRY(launch(call, plan, PREPARE, gems_grid_for(info, most, THREADS * 4), THREADS, prepare));
    GEMS_TRY(gems_radix_sort(call, plan, COUNT, r));
    void *edges[] = {&r->keys[r->which], &r->n, &s->first, &s->last};
    return launch(call, plan, EDGES, gems_grid_for(info, r->n, THREADS), THREADS, edges);
}

gems_status gems_segment_run(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *grad = gems_arg_tensor(call, 0), *index = gems_arg_tensor(call, 1);
    int64_t rows = gems_arg_int(call, 2);
    if (!grad || !index || !grad->ndim || index->ndim + 1 != grad->ndim)
        return gems_decline("shapes of the gradient and the indices");
    if (memcmp(grad->sizes, index->sizes, (size_t)index->ndim * sizeof *index->sizes))
        return gems_decline("shapes of the gradient and the indices");
    if (!(GEMS_BIT(grad->dtype) & GEMS_FLOAT_MASK)) return gems_decline("the dtype");
    if (rows < 0 || rows >= INT32_MAX - 1 || index->numel > INT32_MAX / 4)
        return gems_decline("more rows or indices than the sort takes");
    int64_t width = grad->sizes[grad->ndim - 1], sizes[2] = {rows, width};
    gems_key key = {.kernel = GATHER_SEGMENT, .flags = info->fast ? GATHER_FAST : 0};
    key.dtype[0] = grad->dtype;
    if (!gems_gather_index(index->dtype, &key.flags)) return gems_decline("the indices' dtype");
    GEMS_TRY(gems_output(call, 0, 2, sizes, NULL, grad->dtype));
    const gems_tensor *out = &call->out[0];
    if (!gems_is_contiguous(out)) return gems_decline("the output is not contiguous");
    if (!out->numel) return GEMS_OK;
    if (!index->numel) {
        const uint8_t zero[16] = {0};
        return gems_fill_view(call, sizes, 2, (gems_view){out->data, out->strides, out->dtype},
                              zero);
    }
    int size = (int)gems_dtype_size(grad->dtype);
    void *values, *indices, *out_data = out->data;
    GEMS_TRY(gems_gather_contiguous(call, grad, &values));
    GEMS_TRY(gems_gather_contiguous(call, index, &indices));
    int vector = info->fast ? 1 : 16 / size;
    while (vector > 1 && (width % vector ||
                          ((uintptr_t)values | (uintptr_t)out_data) % (uintptr_t)(vector * size)))
        vector /= 2;
    key.tune[0] = (uint8_t)vector;
    if (out->numel / vector >= INT32_MAX - (1 << 24)) key.flags |= GATHER_WIDE;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));

    sorter s = {.radix = {.n = (int32_t)index->numel, .most = (int32_t)rows},
                .rows = (int32_t)rows,
                .padding = gems_arg_int(call, 3)};
    GEMS_TRY(make_room(call, &s, info->fast));
    GEMS_TRY(sort(call, plan, info, &s, indices));
    bool by_count = gems_arg_int(call, 4) != 0;
    void *args[] = {&out_data, &values,  &s.radix.positions[s.radix.which],
                    &s.first,  &s.last,  &s.rows,
                    &width,    &by_count};
    if (info->fast)
        return launch(call, plan, SUM_FAST, gems_grid_for(info, rows, 32768 / width + 1), 1, args);
    return launch(call, plan, SUM, gems_grid_for(info, out->numel / vector, THREADS), THREADS,
                  args);
}

gems_status gems_segment_program(const gems_key *key, gems_program *program) {
    static const char *const entries[] = {"segment_prepare", "radix_clear",   "radix_count",
                                          "radix_place",     "segment_edges", "segment_sum"};
    bool fast = (key->flags & GATHER_FAST) != 0;
    gems_gather_head(key, program);
    gems_text_add(&program->head, "constexpr int kV = %d;\n", key->tune[0]);
    gems_radix_head(program);
    program->files[0] = fast ? "segment_fast.cu" : "lookback.cuh";
    program->files[1] = fast ? NULL : "radix.cuh";
    program->files[2] = fast ? NULL : "segment.cu";
    for (int i = 0; i < 6; i++) program->entries[i] = entries[i];
    program->entry_count = 6;
    if (fast) {
        program->entries[0] = "segment_sort";
        program->entries[1] = "segment_sum";
        program->entry_count = 2;
    }
    return GEMS_OK;
}
