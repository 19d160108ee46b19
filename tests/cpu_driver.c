/* Loads a program that a cross compiler made and launches it on the cpu backend (test_aarch64.py).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jit/jit.h"

enum { BLOCKS = 5, LENGTH = 300 };

const gems_embedded gems_embedded_files[] = {{NULL, NULL, 0}};

static int failed(const char *what) {
    printf("%s: %s\n", what, gems_error_text());
    return 1;
}

static gems_blob read_file(const char *path) {
    gems_blob blob = {malloc(1 << 22), 0};
    FILE *file = fopen(path, "rb");
    if (!file || !blob.data) exit(2);
    blob.size = fread(blob.data, 1, 1 << 22, file);
    fclose(file);
    return blob;
}

/* Launches the first kernel and compares; 0: right. */
static int sums(gems_module *module, unsigned threads, const char *say) {
    static float x[BLOCKS * LENGTH], y[BLOCKS * LENGTH];
    const float *in = x;
    float *out = y;
    int n = LENGTH;
    void *args[] = {&in, &out, &n};
    gems_launch launch = {
        .grid = {BLOCKS, 1, 1}, .block = {threads, 1, 1}, .args = args, .name = "sums"};
    for (int i = 0; i < BLOCKS * LENGTH; i++) x[i] = (float)(i % 17);
    if (gems_backend_cpu.launch(0, module, 0, &launch) != GEMS_OK) return failed("launch");
    for (int b = 0; b < BLOCKS; b++) {
        float sum = 0;
        for (int i = 0; i < LENGTH; i++) sum += x[b * LENGTH + i];
        for (int i = 0; i < LENGTH; i++)
            if (fabsf(y[b * LENGTH + i] - sum) > 0.01f) {
                printf("block %d, element %d: %g instead of %g\n", b, i, (double)y[b * LENGTH + i],
                       (double)sum);
                return 1;
            }
    }
    puts(say);
    return 0;
}

int main(int argc, char **argv) {
    static const char *const entries[] = {"kernel", "stuck"};
    gems_module *module;
    if (argc != 3) return 2;
    int fast = strcmp(argv[2], "fast") == 0;
    gems_blob code = read_file(argv[1]);
    if (gems_backend_cpu.open() != GEMS_OK) return failed("open");
    if (gems_backend_cpu.load(0, &code, argv[1], entries, 2, &module) != GEMS_OK)
        return failed("load");
    gems_blob_free(&code);
    if (sums(module, fast ? 1 : 256, "sums agree")) return 1;
    if (!fast) {
        gems_launch launch = {.grid = {1, 1, 1}, .block = {32, 1, 1}, .name = "stuck"};
        if (gems_backend_cpu.launch(0, module, 1, &launch) != GEMS_ERROR)
            return failed("no deadlock");
        puts(gems_error_text());
    }
    if (sums(module, fast ? 1 : 1024, "sums agree again")) return 1;
    gems_backend_cpu.unload(module);
    return 0;
}
