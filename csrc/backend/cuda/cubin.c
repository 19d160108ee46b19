/* What a compiled program is made of: read from ptxas' log and from the ELF file that a cubin is.
 */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

/* The number that stands before `word` in a line, -1 when the word is not there. */
static int number_before(const char *line, const char *end, const char *word) {
    size_t size = strlen(word);
    for (const char *at = line; at + size <= end; at++) {
        if (memcmp(at, word, size)) continue;
        const char *digit = at;
        while (digit > line && digit[-1] >= '0' && digit[-1] <= '9') digit--;
        return digit < at ? atoi(digit) : -1;
    }
    return -1;
}

static void raise_to(int *value, int other) {
    if (other > *value) *value = other;
}

void gems_cuda_read_log(const char *log, gems_report *report) {
    report->registers = report->spill_bytes = report->shared_bytes = -1;
    for (const char *line = log; *line;) {
        const char *end = strchr(line, '\n');
        if (!end) end = line + strlen(line);
        int registers = number_before(line, end, " registers");
        int stores = number_before(line, end, " bytes spill stores");
        int loads = number_before(line, end, " bytes spill loads");
        raise_to(&report->registers, registers);
        raise_to(&report->spill_bytes, stores > loads ? stores : loads);
        raise_to(&report->shared_bytes, number_before(line, end, " bytes smem"));
        /* A kernel without shared memory has no word of it in its line. */
        if (registers >= 0) raise_to(&report->shared_bytes, 0);
        line = *end ? end + 1 : end;
    }
}

/* A section's bytes when they lie inside the file. */
static const unsigned char *bytes_of(const gems_blob *code, const Elf64_Shdr *section) {
    if (section->sh_type == SHT_NOBITS || section->sh_offset > code->size ||
        section->sh_size > code->size - section->sh_offset)
        return NULL;
    return (const unsigned char *)code->data + section->sh_offset;
}

static bool section_at(const gems_blob *code, const Elf64_Ehdr *header, unsigned i,
                       Elf64_Shdr *section) {
    uint64_t offset = header->e_shoff + (uint64_t)i * header->e_shentsize;
    if (header->e_shentsize < sizeof *section || offset > code->size ||
        code->size - offset < sizeof *section)
        return false;
    memcpy(section, (const char *)code->data + offset, sizeof *section);
    return true;
}

/* Instructions are 16 bytes, the opcode in the lowest 12 bits; ptxas fills the end of a kernel with
 * NOP. */
static int without_padding(const unsigned char *bytes, size_t size) {
    enum { NOP = 0x918 };
    size_t count = size / 16;
    while (count && (bytes[count * 16 - 16] | (bytes[count * 16 - 15] & 0xf) << 8) == NOP) count--;
    return (int)count;
}

int gems_cuda_count_instructions(const gems_blob *code, const char *const *entries, int count,
                                 int *missing) {
    Elf64_Ehdr header;
    Elf64_Shdr names, section;
    *missing = -1;
    if (code->size < sizeof header || memcmp(code->data, ELFMAG, SELFMAG)) return -1;
    memcpy(&header, code->data, sizeof header);
    if (header.e_ident[EI_CLASS] != ELFCLASS64 ||
        !section_at(code, &header, header.e_shstrndx, &names))
        return -1;
    const char *text = (const char *)bytes_of(code, &names);
    if (!text || !names.sh_size || text[names.sh_size - 1]) return -1;

    int total = 0;
    for (int i = 0; i < count; i++) {
        bool found = false;
        for (unsigned k = 0; k < header.e_shnum && !found; k++) {
            if (!section_at(code, &header, k, &section) || section.sh_name >= names.sh_size)
                return -1;
            const char *name = text + section.sh_name;
            if (strncmp(name, ".text.", 6) || strcmp(name + 6, entries[i])) continue;
            const unsigned char *bytes = bytes_of(code, &section);
            if (!bytes) return -1;
            total += without_padding(bytes, section.sh_size);
            found = true;
        }
        if (!found) {
            *missing = i;
            return -1;
        }
    }
    return total;
}
