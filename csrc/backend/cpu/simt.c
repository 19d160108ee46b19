#include "simt.h"
#include "cpu.h"
gems_status gems_cpu_simt_launch(const gems_cpu_config *config, gems_module *module, int entry, const gems_launch *launch) { (void)config, (void)module, (void)entry, (void)launch; return gems_fail(GEMS_NOT_IMPLEMENTED_ERROR, "GEMS_CPU_MODE: only fast so far"); }
const void *gems_cpu_simt_runtime(void) { return NULL; }
struct gems_cpu_image *gems_cpu_image_open(const gems_blob *code, const void *runtime) { (void)code, (void)runtime; return NULL; }
void gems_cpu_image_close(struct gems_cpu_image *image) { (void)image; }
