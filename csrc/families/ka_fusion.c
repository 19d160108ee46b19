/* rwkv_ka_fusion. Twin of kernels/ka_fusion.cu. */
#include <stdio.h>

#include "rows.h"

static gems_status run(gems_call *call) {
    const gems_device_info *info = gems_device_information(call->device);
    const gems_tensor *in[4];
    int64_t heads = gems_arg_int(call, 4), n = gems_arg_int(call, 5);
    for (int i = 0; i < 4; i++) {
        in[i] = gems_arg_tensor(call, i);
        if (!in[i]) return gems_decline("no tensor");
        if (in[i]->dtype != in[0]->dtype) return gems_decline("several dtypes");
    }
    const gems_tensor *k = in[0];
    if (!(call->op->dtypes & GEMS_BIT(k->dtype % GEMS_DTYPES))) return gems_decline("dtype");
    if (k->ndim < 1 || heads < 1 || n < 1 || heads > INT32_MAX || n > 1 << 30 ||
        k->sizes[k->ndim - 1] != heads * n)
        return gems_decline("heads do not fit the channels");
    if (!gems_same_sizes(k, in[2])) return gems_decline("a of another shape");
    for (int i = 1; i < 4; i += 2)
        if (in[i]->numel != heads * n || in[i]->ndim < 1 || in[i]->ndim > k->ndim ||
            in[i]->sizes[in[i]->ndim - 1] != heads * n)
            return gems_decline("kk or ka is no vector of the channels");
    for (int i = 0; i < 3; i++) GEMS_TRY(gems_output(call, i, k->ndim, k->sizes, NULL, k->dtype));
    if (!k->numel) return GEMS_OK;
    const void *data[7];
    for (int i = 0; i < 4; i++) GEMS_TRY(gems_pack(call, in[i], &data[i]));
    for (int i = 0; i < 3; i++) data[4 + i] = call->out[i].data;
    size_t size = gems_dtype_size(k->dtype);
    bool aligned = n % (16 / (int)size) == 0;
    for (int i = 0; i < 7; i++) aligned &= gems_aligned(data[i], 16);
    int64_t rows = k->numel / n;
    gems_team team = gems_team_make(info, rows, n, size, 2, aligned);
    if (team.stage == GEMS_STAGE_SHARED) team.stage = GEMS_STAGE_AGAIN; /* nothing is kept */
    team.shared = 0;
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

static gems_status program(const gems_op *op, const gems_key *key, gems_program *p) {
    (void)op;
    if (key->kernel == GEMS_PACK_KERNEL) return gems_pack_program(key, p);
    gems_text_add(&p->head, "typedef %s T;\n", gems_dtype_kernel(key->dtype[0]));
    gems_team_head(key, &p->head);
    p->files[0] = "cluster.cuh";
    p->files[1] = "rows.cuh";
    p->files[2] = "ka_fusion.cu";
    p->entries[0] = "ka_fusion";
    p->entry_count = 1;
    snprintf(p->name, sizeof p->name, "rwkv_ka_fusion %s x%d", gems_dtype_name(key->dtype[0]),
             key->tune[GEMS_TUNE_VEC]);
    return GEMS_OK;
}

static bool warm(const gems_op *op, int dtype, int i, const gems_device_info *info, gems_key *key) {
    static const int64_t lengths[] = {64, 256};
    (void)op;
    if (i >= (info->fast ? 1 : 2)) return false;
    gems_team team = gems_team_make(info, 1 << 20, lengths[i], gems_dtype_size(dtype), 2, true);
    key->kernel = GEMS_ROWS;
    key->dtype[0] = (uint8_t)dtype;
    gems_team_to_key(&team, key);
    return true;
}

const gems_family gems_family_ka_fusion = {
    .name = "ka_fusion", .run = run, .program = program, .warm = warm};
