/* What csrc/jit/plan.c needs around it to be a library of its own: one small program, whose text a
 * key decides. tune[0]: a constant in it, so that keys differ; tune[1] = 1: it does not compile. */
#include <stdio.h>

#include "jit/jit.h"

const gems_embedded gems_embedded_files[] = {
    {"gems.cuh", "", 0},
    {"one.cu",
     "extern \"C\" __global__ void one(float *p) { *p += VALUE; }\n"
     "extern \"C\" __global__ void two(float *p) { *p *= VALUE; }\n",
     0},
    {NULL, NULL, 0},
};

static gems_status write_program(const gems_key *key, gems_program *program) {
    program->files[0] = "one.cu";
    program->entries[0] = "one";
    program->entries[1] = "two";
    program->entry_count = 2;
    gems_text_add(&program->head, "#define VALUE %d%s\n", key->tune[0], key->tune[1] ? " +" : "");
    snprintf(program->name, sizeof program->name, "add.fake");
    return GEMS_OK;
}

static gems_status refuse(void) { return gems_fail(GEMS_RUNTIME_ERROR, "not in this library"); }
const gems_backend gems_backend_cpu = {.name = "cpu", .device_type = GEMS_CPU, .open = refuse};

static gems_key key_of(int value, int broken) {
    gems_key key = {.tune = {(uint8_t)value, (uint8_t)broken}};
    return key;
}

/* gems_plan_get and a launch of entry 1 on a stream. */
int plans_call(int device, void *stream, int value, int broken);
int plans_call(int device, void *stream, int value, int broken) {
    gems_device *d = gems_device_get(GEMS_CUDA, device);
    gems_key key = key_of(value, broken);
    const gems_plan *plan;
    if (!d) return GEMS_DECLINE;
    GEMS_TRY(gems_plan_get(d, stream, &key, &plan));
    float *nothing = NULL;
    void *args[] = {&nothing};
    gems_launch launch = {.grid = {1, 1, 1}, .block = {32, 1, 1}, .stream = stream, .args = args};
    return gems_plan_launch(d, plan, 1, &launch);
}

/* gems_plan_warm: 1 when it was in the cache, 0 when it was compiled, -1 when it failed. */
int plans_warm(const char *arch, int value);
int plans_warm(const char *arch, int value) {
    gems_key key = key_of(value, 0);
    gems_report report;
    bool cached = false;
    return gems_plan_warm(&gems_backend_cuda, arch, &key, &report, &cached) == GEMS_OK ? cached
                                                                                       : -1;
}

void plans_open(void);
void plans_open(void) { gems_program_write = write_program; }
