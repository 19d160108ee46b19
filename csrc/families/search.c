/* searchsorted, bucketize and isin. */
#include <stdio.h>
#include <string.h>

#include "../base/dtype.h"
#include "gather.h"
#include "sort.h"

#define THREADS 256
#define FEW     16 /* values that isin compares one by one */

/* Elements of t in their order, in a dtype: t's own memory, or a copy in scratch. */
static gems_status contiguous_as(gems_call *call, const gems_tensor *t, int dtype, void **data) {
    *data = t->data;
    if (t->dtype == dtype && gems_is_contiguous(t)) return GEMS_OK;
    int64_t strides[GEMS_MAX_DIMS];
    gems_contiguous_strides(t->sizes, t->ndim, strides);
    GEMS_TRY(gems_scratch(call, (size_t)t->numel * gems_dtype_size(dtype), data));
    return gems_copy_views(call, t->sizes, t->ndim, (gems_view){*data, strides, dtype},
                           (gems_view){t->data, t->strides, t->dtype});
}

static gems_status launch(gems_call *call, const gems_plan *plan, int64_t n, int64_t per_block,
                          void **args) {
    const gems_device_info *info = gems_device_information(call->device);
    const uint32_t grid[3] = {gems_grid_for(info, n, info->fast ? per_block : THREADS), 1, 1};
    const uint32_t block[3] = {info->fast ? 1 : THREADS, 1, 1};
    return gems_call_launch(call, plan, 0, grid, block, 0, args);
}

/* A tensor of the call's device, of any rank. */
static const gems_tensor *placed(const gems_call *call, int arg) {
    const gems_tensor *t = gems_arg_tensor(call, arg);
    bool here = t && t->device_type == call->device_type && t->device_index == call->device_index;
    return here ? t : NULL;
}

/* ---- searchsorted, bucketize ---- */

typedef struct {
    const gems_tensor *sequence, *values, *sorter; /* values NULL: the number */
    const gems_value *number;
    bool right, int32;
    int dtype; /* of the comparison */
} search;

static gems_status read_search(const gems_call *call, search *s) {
    bool bucketize = call->op->mode == GEMS_BUCKETIZE;
    int sequence = bucketize, value = !bucketize;
    *s = (search){.sequence = placed(call, sequence)};
    if (!s->sequence || !s->sequence->ndim) return gems_decline("no sequence");
    s->int32 = gems_arg_int(call, 2) != 0;
    s->right = gems_arg_int(call, 3) != 0;
    if (call->args[value].kind == GEMS_TENSOR) {
        s->values = placed(call, value);
        if (!s->values) return gems_decline("values on another device");
        if (s->values->dtype != s->sequence->dtype) return gems_decline("dtypes that differ");
        s->dtype = s->values->dtype;
    } else {
        s->number = &call->args[value];
        const gems_value *both[2] = {&call->args[sequence], s->number};
        s->dtype = gems_result_type(both, 2);
    }
    if (s->dtype >= GEMS_DTYPES || !(call->op->dtypes & GEMS_BIT(s->dtype)) ||
        s->sequence->dtype >= GEMS_DTYPES || !(call->op->dtypes & GEMS_BIT(s->sequence->dtype)))
        return gems_decline("the dtype");
    if (bucketize) return s->sequence->ndim == 1 ? GEMS_OK : gems_decline("boundaries of rank 2");
    if (!gems_arg_none(call, 4)) {
        const char *side = call->args[4].kind == GEMS_STRING ? call->args[4].s : "";
        bool right = !strcmp(side, "right");
        if ((!right && strcmp(side, "left")) || (!right && s->right)) return gems_decline("side");
        s->right = right;
    }
    if (!gems_arg_none(call, 5)) {
        s->sorter = placed(call, 5);
        if (!s->sorter || s->sorter->dtype != GEMS_I64 || !gems_same_sizes(s->sorter, s->sequence))
            return gems_decline("the sorter");
    }
    if (s->sequence->ndim == 1) return GEMS_OK;
    if (!s->values || s->values->ndim != s->sequence->ndim ||
        memcmp(s->values->sizes, s->sequence->sizes,
               (size_t)(s->values->ndim - 1) * sizeof *s->values->sizes))
        return gems_decline("rows of the sequence and of the values");
    return GEMS_OK;
}

gems_status gems_search_run(gems_call *call) {
    search s;
    GEMS_TRY(read_search(call, &s));
    int64_t length = s.sequence->sizes[s.sequence->ndim - 1];
    if (length >= INT32_MAX) return gems_decline("a sequence of 2^31 elements");
    gems_key key = {.kernel = SORT_SEARCH,
                    .flags = (uint8_t)((s.int32 ? SORT_INT32 : 0) | (s.right ? SORT_RIGHT : 0) |
                                       (s.sorter ? SORT_SORTER : 0))};
    key.dtype[0] = (uint8_t)s.dtype;
    uint8_t number[16] = {0};
    if (s.number && !gems_store_number(s.number, s.dtype, number))
        return gems_decline("the number");
    GEMS_TRY(gems_output(call, 0, s.values ? s.values->ndim : 0, s.values ? s.values->sizes : NULL,
                         NULL, s.int32 ? GEMS_I32 : GEMS_I64));
    if (!gems_is_contiguous(&call->out[0])) return gems_decline("the output is not contiguous");
    if (!call->out[0].numel) return GEMS_OK;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *sequence, *values = NULL, *sorter = NULL, *out = call->out[0].data, *flag;
    int32_t local;
    GEMS_TRY(contiguous_as(call, s.sequence, s.dtype, &sequence));
    if (s.values) GEMS_TRY(contiguous_as(call, s.values, s.dtype, &values));
    if (s.sorter) GEMS_TRY(contiguous_as(call, s.sorter, GEMS_I64, &sorter));
    GEMS_TRY(gems_range_open(call, &local, &flag));
    int64_t n = call->out[0].numel;
    int64_t per_row = s.sequence->ndim > 1 ? s.values->sizes[s.values->ndim - 1] : 0;
    void *args[] = {&sequence, &values, &sorter, &out, &n, &length, &per_row, number, &flag};
    GEMS_TRY(launch(call, plan, n, 2048, args));
    return gems_range_close(call, flag);
}

/* ---- isin ---- */

/* The number of an isin with one, as a tensor of one element in scratch. */
static gems_status spread_number(gems_call *call, const gems_value *number, int dtype,
                                 void **data) {
    uint8_t bits[16] = {0};
    int64_t one = 1;
    if (!gems_store_number(number, dtype, bits)) return gems_decline("the number");
    GEMS_TRY(gems_scratch(call, 16, data));
    return gems_fill_view(call, &one, 1, (gems_view){*data, &one, dtype}, bits);
}

static gems_status sorted_values(gems_call *call, int64_t count, int dtype, void **values) {
    int64_t one = 1;
    const int64_t *strides[3] = {&one, &one, &one};
    gems_sort_job job = {.dtype = dtype, .what = SORT_WRITE, .limit = count, .in = *values};
    gems_lines_make(&job.lines, &count, 1, 0, strides);
    GEMS_TRY(gems_scratch(call, (size_t)count * gems_dtype_size(dtype), &job.values));
    *values = job.values;
    return gems_sort_launch(call, &job);
}

gems_status gems_member_run(gems_call *call) {
    const gems_tensor *elements = gems_arg_tensor(call, 0), *tests = gems_arg_tensor(call, 1);
    const gems_value *both[2] = {&call->args[0], &call->args[1]};
    if ((elements && !placed(call, 0)) || !placed(call, 1))
        return gems_decline("tensors on several devices");
    int dtype = gems_result_type(both, 2), given = elements ? elements->dtype : dtype;
    int64_t count = tests->numel;
    bool invert = gems_arg_int(call, 3) != 0;
    uint64_t mask = call->op->dtypes;
    if (dtype >= GEMS_DTYPES || !(mask & GEMS_BIT(dtype)) || given >= GEMS_DTYPES ||
        !(mask & GEMS_BIT(given)) || !(mask & GEMS_BIT(tests->dtype)))
        return gems_decline("the dtype");
    if (count >= INT32_MAX - (1 << 20)) return gems_decline("more elements than the kernels take");
    GEMS_TRY(gems_output(call, 0, elements ? elements->ndim : 0, elements ? elements->sizes : NULL,
                         NULL, GEMS_BOOL));
    if (!gems_is_contiguous(&call->out[0])) return gems_decline("the output is not contiguous");
    if (!call->out[0].numel) return GEMS_OK;
    gems_key key = {.kernel = SORT_MEMBER, .flags = count <= FEW || !elements ? SORT_BRUTE : 0};
    key.dtype[0] = (uint8_t)dtype;
    key.dtype[1] = (uint8_t)given;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *values = NULL, *from, *out = call->out[0].data;
    if (elements)
        GEMS_TRY(contiguous_as(call, elements, given, &from));
    else
        GEMS_TRY(spread_number(call, both[0], dtype, &from));
    if (count) GEMS_TRY(contiguous_as(call, tests, dtype, &values));
    if (!(key.flags & SORT_BRUTE)) GEMS_TRY(sorted_values(call, count, dtype, &values));
    int64_t n = call->out[0].numel;
    void *args[] = {&from, &values, &out, &n, &count, &invert};
    return launch(call, plan, n, 8192, args);
}

/* ---- programs ---- */

gems_status gems_search_program(const gems_op *op, const gems_key *key, gems_program *p) {
    bool member = key->kernel == SORT_MEMBER;
    gems_text_add(&p->head, "typedef %s T;\n", gems_dtype_kernel(key->dtype[0]));
    p->files[1] = "search.cuh";
    p->files[2] = member ? "member.cu" : "search.cu";
    p->entries[0] = member ? "member" : "search";
    p->entry_count = 1;
    if (member) {
        p->files[0] = "sort.cuh";
        gems_text_add(
            &p->head,
            "typedef %s E;\nconstexpr bool kDescending = false, kKeysOnly = false, kBrute = %s;\n"
            "constexpr int kWhat = 0;\n",
            gems_dtype_kernel(key->dtype[1]), key->flags & SORT_BRUTE ? "true" : "false");
    } else {
        p->files[0] = "index.cuh";
        gems_text_add(&p->head, "typedef %s Out;\nconstexpr bool kRight = %s, kSorter = %s;\n",
                      key->flags & SORT_INT32 ? "int32_t" : "int64_t",
                      key->flags & SORT_RIGHT ? "true" : "false",
                      key->flags & SORT_SORTER ? "true" : "false");
    }
    snprintf(p->name, sizeof p->name, "%.*s %s", (int)strcspn(op->schema, "("), op->schema,
             gems_dtype_name(key->dtype[0]));
    return GEMS_OK;
}

/* Tensors of one dtype; isin both with a few and with many values, and the sort of those. */
bool gems_search_warm(const gems_op *op, int dtype, int i, const gems_device_info *info,
                      gems_key *key) {
    bool isin = op->mode == GEMS_ISIN,
         many = strstr(op->schema, "Tensor elements, Tensor test") != NULL;
    key->dtype[0] = key->dtype[1] = (uint8_t)dtype;
    if (!isin) {
        key->kernel = SORT_SEARCH;
        key->flags = i == 1 ? SORT_RIGHT : 0;
        return i < 2;
    }
    key->kernel = i == 2 ? (info->fast ? SORT_FAST : SORT_BLOCK) : SORT_MEMBER;
    key->flags = i == 0 ? SORT_BRUTE : 0;
    if (i == 2) key->dtype[1] = 0;
    if (i == 2 && !info->fast) key->tune[SORT_TUNE_SIZE] = 10;
    return i < (many ? 3 : 1);
}
