/* Text that grows, and the kernel texts that the extension carries. */
#ifndef GEMS_TEXT_H
#define GEMS_TEXT_H

#include "../gems.h"

/* Program text under construction. Grows by itself; failed is set when memory ran out. */
typedef struct gems_text {
    char *data;
    size_t size, room;
    bool failed;
} gems_text;
void gems_text_add(gems_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void gems_text_free(gems_text *text);

/* The kernel texts that the extension carries (a C file made by setup.py). GEMS_KERNEL_DIR reads them from disk. */
typedef struct gems_embedded { const char *path; const char *text; size_t size; } gems_embedded;
extern const gems_embedded gems_embedded_files[];
/* The text of "gems.cuh", "elementwise.cu", "cpu/simt.h"...; NULL when there is none. */
const char *gems_kernel_text(const char *path);

#endif
