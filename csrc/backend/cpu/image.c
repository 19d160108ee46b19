/* A compiled program as the checked mode sees it: its shared arrays, and source lines for return
 * addresses. */
#include <dlfcn.h>
#include <elf.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* "_ZZ6kernelE3buf" is the array buf of kernel; other names stay. */
static void plain_name(const char *symbol, char *name, size_t size) {
    const char *best = symbol;
    if (strncmp(symbol, "_ZZ", 3) == 0)
        for (const char *at = symbol; (at = strchr(at, 'E')); at++) {
            char *end;
            long length = strtol(at + 1, &end, 10);
            if (end != at + 1 && length > 0 && (size_t)length <= strlen(end)) {
                snprintf(name, size, "%.*s", (int)length, end);
                best = NULL;
            }
        }
    if (best) snprintf(name, size, "%s", best);
}

/* Whether an object is in namespace gems_cpu: what plays a device there, no array of the kernel. */
static bool is_own(const char *name) {
    return !strncmp(name, "_ZN8gems_cpu", 12) || !strncmp(name, "_ZZN8gems_cpu", 13);
}

/* Takes the writable objects of the symbol table: a kernel's text has no others than __shared__
 * arrays. */
static bool read_arrays(struct gems_cpu_image *image) {
    const char *bytes = image->code.data;
    size_t size = image->code.size;
    const Elf64_Ehdr *header = (const void *)bytes;
    if (size < sizeof *header || memcmp(bytes, ELFMAG, SELFMAG) != 0 ||
        header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_shoff > size ||
        (size - header->e_shoff) / sizeof(Elf64_Shdr) < header->e_shnum)
        return false;
    const Elf64_Shdr *sections = (const void *)(bytes + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_flags & SHF_ALLOC) {
            const char *end = image->start + sections[i].sh_addr + sections[i].sh_size;
            if (end > image->end) image->end = end;
        }
        if (sections[i].sh_type != SHT_SYMTAB || sections[i].sh_link >= header->e_shnum) continue;
        const Elf64_Shdr *names = &sections[sections[i].sh_link];
        if (sections[i].sh_offset > size || sections[i].sh_size > size - sections[i].sh_offset ||
            names->sh_offset > size || names->sh_size > size - names->sh_offset || !names->sh_size)
            return false;
        const Elf64_Sym *symbols = (const void *)(bytes + sections[i].sh_offset);
        size_t count = sections[i].sh_size / sizeof *symbols;
        image->arrays = calloc(count ? count : 1, sizeof *image->arrays);
        if (!image->arrays) return false;
        for (size_t k = 0; k < count; k++) {
            const Elf64_Sym *s = &symbols[k];
            if (ELF64_ST_TYPE(s->st_info) != STT_OBJECT || !s->st_size ||
                s->st_shndx >= header->e_shnum || !(sections[s->st_shndx].sh_flags & SHF_WRITE) ||
                s->st_name >= names->sh_size)
                continue;
            const char *name = bytes + names->sh_offset + s->st_name;
            if (strcmp(name, "gems_cpu_runtime") == 0 || is_own(name)) continue;
            gems_cpu_array *array = &image->arrays[image->array_count++];
            array->start = image->start + s->st_value;
            array->bytes = s->st_size;
            plain_name(name, array->name, sizeof array->name);
        }
    }
    return true;
}

struct gems_cpu_image *gems_cpu_image_open(const gems_blob *code, const void *runtime) {
    Dl_info info;
    struct gems_cpu_image *image = calloc(1, sizeof *image);
    if (!image || !(image->code.data = malloc(code->size + 1))) {
        free(image);
        gems_fail(GEMS_MEMORY_ERROR, "out of memory");
        return NULL;
    }
    memcpy(image->code.data, code->data, code->size);
    ((char *)image->code.data)[code->size] = 0; /* ends a name that is cut off */
    image->code.size = code->size;
    if (dladdr(runtime, &info)) image->start = image->end = info.dli_fbase;
    if (!image->start || !read_arrays(image)) {
        gems_cpu_image_close(image);
        gems_fail(GEMS_RUNTIME_ERROR, "a compiled program has no symbol table that can be read");
        return NULL;
    }
    return image;
}

void gems_cpu_image_close(struct gems_cpu_image *image) {
    if (!image) return;
    gems_blob_free(&image->code);
    free(image->arrays);
    free(image);
}

/* Reads what addr2line -a -i wrote: an address, then a line a frame, innermost first. */
static void parse_lines(char *log, int count, char (*text)[128]) {
    int index = -1, frames = 0;
    char *rest, *line = strtok_r(log, "\n", &rest);
    for (; line; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "0x", 2) == 0) {
            index++;
            frames = 0;
            continue;
        }
        if (index < 0 || index >= count || line[0] == '?') continue;
        line[strcspn(line, " ")] = 0; /* a discriminator */
        const char *base = strrchr(line, '/');
        base = base ? base + 1 : line;
        size_t used = frames ? strlen(text[index]) : 0;
        if (frames == 4) continue;
        snprintf(text[index] + used, sizeof text[index] - used, "%s%s",
                 frames ? ", called at " : "", base);
        frames++;
    }
}

void gems_cpu_image_lines(const struct gems_cpu_image *image, const void *const *pcs, int count,
                          char (*text)[128]) {
    enum { MAX = 64 };
    char directory[PATH_MAX - 32], object[PATH_MAX], output[PATH_MAX], tool[PATH_MAX];
    char addresses[MAX][24], *words[MAX + 6];
    static char a[] = "-a", i_flag[] = "-i", e[] = "-e";
    int n = 0;
    if (count > MAX) count = MAX;
    for (int i = 0; i < count; i++) {
        /* A return address is behind its call. */
        snprintf(addresses[i], sizeof addresses[i], "0x%zx",
                 (size_t)((const char *)pcs[i] - image->start - 1));
        snprintf(text[i], sizeof text[i], "+%.23s", addresses[i]);
    }
    if (!gems_cpu_find_program("addr2line", tool, sizeof tool)) return;
    if (!gems_cpu_make_directory(directory, sizeof directory)) return;
    snprintf(object, sizeof object, "%s/program.so", directory);
    snprintf(output, sizeof output, "%s/lines", directory);
    words[n++] = tool;
    words[n++] = a;
    words[n++] = i_flag;
    words[n++] = e;
    words[n++] = object;
    for (int i = 0; i < count; i++) words[n++] = addresses[i];
    words[n] = NULL;
    if (gems_cpu_write_file(object, image->code.data, image->code.size) &&
        gems_cpu_run_program(words, output) == 0) {
        gems_blob log = gems_cpu_read_file(output, 1 << 16);
        if (log.data) parse_lines(log.data, count, text);
        gems_blob_free(&log);
    }
    gems_cpu_remove_directory(directory);
}
