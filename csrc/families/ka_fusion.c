/* rwkv_ka_fusion and its gradients. Twin of kernels/ka_fusion.cu and ka_fusion_backward.cu. */
#include <stdio.h>
#include <string.h>

#include "column_sums.h"

enum { INPUTS = GEMS_ROWS, SUMS = GEMS_WEIGHTS }; /* key->kernel of the gradients */

/* k, kk, a, ka and the heads, from argument `at` on; checked. */
static gems_status read(const gems_call *call, int at, const gems_tensor *in[4], int64_t *heads,
                        int64_t *n) {
    *heads = gems_arg_int(call, at + 4);
    *n = gems_arg_int(call, at + 5);
    for (int i = 0; i < 4; i++) {
        in[i] = gems_arg_tensor(call, at + i);
        if (!in[i]) return gems_decline("no tensor");
        if (in[i]->dtype != in[0]->dtype) return gems_decline("several dtypes");
    }
    const gems_tensor *k = in[0];
    if (!(call->op->dtypes & GEMS_BIT(k->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    if (k->ndim < 1 || *heads < 1 || *n < 1 || *heads > INT32_MAX || *n > 1 << 30 ||
        k->sizes[k->ndim - 1] != *heads * *n)
        return gems_decline("heads do not fit the channels");
    if (!gems_same_sizes(k, in[2])) return gems_decline("a of another shape");
    for (int i = 1; i < 4; i += 2)
        if (in[i]->numel != *heads * *n || in[i]->ndim < 1 || in[i]->ndim > k->ndim ||
            in[i]->sizes[in[i]->ndim - 1] != *heads * *n)
            return gems_decline("kk or ka is no vector of the channels");
    return GEMS_OK;
}

/* Nothing is kept: heads are short, and read again from the caches. */
static gems_team make_team(const gems_device_info *info, int64_t rows, int64_t n, size_t size,
                           bool aligned) {
    gems_team team = gems_team_make(info, rows, n, size, 2, aligned);
    if (team.stage != GEMS_STAGE_REGISTERS) team.stage = GEMS_STAGE_AGAIN;
    team.shared = 0;
    return team;
}

static gems_status forward(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *in[4];
    int64_t heads, n;
    GEMS_TRY(read(call, 0, in, &heads, &n));
    const gems_tensor *k = in[0];
    for (int i = 0; i < 3; i++) GEMS_TRY(gems_output(call, i, k->ndim, k->sizes, NULL, k->dtype));
    if (!k->numel) return GEMS_OK;
    const void *data[7];
    for (int i = 0; i < 4; i++) GEMS_TRY(gems_pack(call, in[i], &data[i]));
    for (int i = 0; i < 3; i++) data[4 + i] = call->out[i].data;
    size_t size = gems_dtype_size(k->dtype);
    bool aligned = n % (16 / (int)size) == 0;
    for (int i = 0; i < 7; i++) aligned &= gems_aligned(data[i], 16);
    int64_t rows = k->numel / n;
    gems_team team = make_team(info, rows, n, size, aligned);
    gems_key key = {.kernel = GEMS_ROWS, .dtype = {k->dtype}};
    gems_team_to_key(&team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t length = (int32_t)n;
    void *args[] = {&data[0], &data[1], &data[2], &data[3], &data[4],
                    &data[5], &data[6], &rows,    &length,  &heads};
    static const uint16_t bytes[] = {8, 8, 8, 8, 8, 8, 8, 8, 4, 8};
    return gems_team_launch_kept(call, plan, &team, args, 7, bytes, 10);
}

/* The gradients of k and a, and two numbers of every head of every token. data: k, a, three
 * gradients, kk, ka. */
static gems_status run_inputs(gems_call *call, const void *const *data, int64_t rows, int64_t n,
                              int64_t heads, int dtype, void *lengths) {
    const gems_device_info *info = gems_device_information(call->device);
    size_t size = gems_dtype_size(dtype);
    void *dk = call->out[0].data, *da = call->out[2].data;
    bool aligned = n % (16 / (int)size) == 0 && gems_aligned(dk, 16) && gems_aligned(da, 16);
    for (int i = 0; i < 7; i++) aligned &= gems_aligned(data[i], 16);
    gems_team team = make_team(info, rows, n, size, aligned);
    gems_key key = {.kernel = INPUTS, .dtype = {(uint8_t)dtype}};
    gems_team_to_key(&team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    int32_t length = (int32_t)n;
    const void *in[7];
    memcpy(in, data, sizeof in);
    void *args[] = {&in[0], &in[1], &in[2],   &in[3], &in[4],  &in[5], &in[6],
                    &dk,    &da,    &lengths, &rows,  &length, &heads};
    return gems_team_launch(call, plan, &team, args);
}

/* The gradients of kk and ka: sums over the tokens. */
static gems_status run_sums(gems_call *call, const void *const *data, int64_t tokens, int64_t n,
                            int64_t heads, int dtype, void *lengths) {
    const gems_device_info *info = gems_device_information(call->device);
    int vec = 16 / (int)gems_dtype_size(dtype);
    for (int i = 0; i < 6; i++)
        if (n % vec || !gems_aligned(data[i], 16)) vec = 1;
    gems_column_sums sums =
        gems_column_sums_make(info, tokens, heads * n, vec, gems_dtype_opmath(dtype));
    gems_key key = {.kernel = SUMS, .dtype = {(uint8_t)dtype}};
    gems_team_to_key(&sums.team, &key);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    GEMS_TRY(gems_column_sums_open(call, &sums));
    int32_t channels = (int32_t)(heads * n), head = (int32_t)n;
    void *dkk = call->out[1].data, *dka = call->out[3].data;
    const void *in[6];
    memcpy(in, data, sizeof in);
    void *args[] = {&in[0], &in[1], &in[2],        &in[3],  &in[4],    &in[5],    &lengths,
                    &dkk,   &dka,   &sums.partial, &tokens, &channels, &sums.run, &head};
    return gems_column_sums_launch(call, plan, &sums, args, dkk, dka);
}

static gems_status backward(gems_call *call) {
    const gems_tensor *in[4], *grads[3];
    int64_t heads, n;
    GEMS_TRY(read(call, 3, in, &heads, &n));
    const gems_tensor *k = in[0];
    for (int i = 0; i < 3; i++) {
        grads[i] = gems_arg_tensor(call, i);
        if (!grads[i] || grads[i]->dtype != k->dtype || !gems_same_sizes(grads[i], k))
            return gems_decline("a gradient's shape or dtype");
    }
    if (heads * n > INT32_MAX) return gems_decline("so many channels");
    for (int i = 0; i < 4; i++)
        GEMS_TRY(gems_output(call, i, in[i]->ndim, in[i]->sizes, NULL, k->dtype));
    const gems_tensor *all[7] = {k, in[2], grads[0], grads[1], grads[2], in[1], in[3]};
    const void *data[7];
    for (int i = 0; i < 7; i++) GEMS_TRY(gems_pack(call, all[i], &data[i]));
    int64_t rows = k->numel / n;
    void *lengths = NULL;
    if (rows) {
        size_t element = gems_dtype_size(gems_dtype_opmath(k->dtype));
        GEMS_TRY(gems_scratch(call, (size_t)(2 * rows) * element, &lengths));
        GEMS_TRY(run_inputs(call, data, rows, n, heads, k->dtype, lengths));
    }
    return run_sums(call, data, rows / heads, n, heads, k->dtype, lengths);
}

static gems_status run(gems_call *call) {
    return call->op->mode == GEMS_NORM_BACKWARD ? backward(call) : forward(call);
}

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    if (key->kernel == GEMS_PACK_KERNEL) return gems_pack_program(key, p);
    bool back = op->mode == GEMS_NORM_BACKWARD, sums = back && key->kernel == SUMS;
    gems_text_add(&p->head, "typedef %s T;\n", gems_dtype_kernel(key->dtype[0]));
    gems_team_head(key, &p->head);
    p->files[0] = "cluster.cuh";
    p->files[1] = "rows.cuh";
    if (back) gems_text_add(&p->head, "typedef T W;\n#define WEIGHTS %d\n", sums);
    p->files[2] = !back ? "ka_fusion.cu" : sums ? "column_sums.cuh" : "ka_fusion_backward.cu";
    p->files[3] = sums ? "ka_fusion_backward.cu" : NULL;
    p->entries[0] = !back ? "ka_fusion" : sums ? "sums" : "inputs";
    p->entries[1] = sums ? "finish" : NULL;
    p->entry_count = sums ? 2 : 1;
    snprintf(p->name, sizeof p->name, "rwkv_ka_fusion%s %s x%d",
             !back  ? ""
             : sums ? " sums"
                    : " gradients",
             gems_dtype_name(key->dtype[0]), key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    static const int64_t lengths[] = {64, 256};
    bool back = op->mode == GEMS_NORM_BACKWARD;
    int rows = info->fast ? 1 : 2;
    size_t size = gems_dtype_size(dtype);
    if (i >= rows + back) return false;
    gems_team team = {
        .vec = (uint8_t)(info->fast ? 16 : 16 / size), .items = 1, .threads = info->fast ? 1 : 256};
    if (i < rows) team = make_team(info, 1 << 20, lengths[i], size, true);
    key->kernel = i < rows ? GEMS_ROWS : SUMS;
    key->dtype[0] = (uint8_t)dtype;
    gems_team_to_key(&team, key);
    return true;
}

const gems_family gems_family_ka_fusion = {
    .name = "ka_fusion", .run = run, .program = program, .warm = warm};
