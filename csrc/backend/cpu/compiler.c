/* The host's C++ compiler: finding it, its options, a program's text to the bytes of a shared
 * object. */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../base/text.h"
#include "cpu.h"

#define MAX_WORDS    64
#define MAX_COMMAND  16 /* of them the compiler and its fixed arguments */
#define DIGEST_START UINT64_C(0xcbf29ce484222325)
#define LOG_LIMIT    (64 * 1024)
#define PROGRAM      "program" /* what the compiler calls the program's text in its messages */

bool gems_cpu_find_program(const char *name, char *path, size_t size) {
    if (strchr(name, '/')) {
        snprintf(path, size, "%s", name);
        return access(path, X_OK) == 0;
    }
    const char *directories = getenv("PATH");
    if (!directories) directories = "/usr/local/bin:/usr/bin:/bin";
    while (*directories) {
        size_t length = strcspn(directories, ":");
        int written = snprintf(path, size, "%.*s/%s", (int)length, directories, name);
        struct stat info;
        if (length && written > 0 && (size_t)written < size && stat(path, &info) == 0 &&
            S_ISREG(info.st_mode) && access(path, X_OK) == 0)
            return true;
        directories += length;
        if (*directories) directories++;
    }
    return false;
}

static uint64_t mix(uint64_t digest, const void *data, size_t size) { /* FNV-1a */
    for (size_t i = 0; i < size; i++)
        digest = (digest ^ ((const unsigned char *)data)[i]) * UINT64_C(0x100000001b3);
    return digest;
}

/* Takes "program argument ..."; false when the program is not there. The identity covers every
 * word, and the file behind each word that names a program ("ccache g++"). */
static bool take(const char *command, gems_cpu_compiler *compiler) {
    char words[512], path[PATH_MAX], real[PATH_MAX], *rest;
    char base[41] = "";
    uint64_t digest = DIGEST_START;
    size_t used = 0;
    int count = 0;
    if (strlen(command) >= sizeof words) return false;
    memcpy(words, command, strlen(command) + 1);
    memset(compiler, 0, sizeof *compiler);
    for (char *word = strtok_r(words, " \t", &rest); word; word = strtok_r(NULL, " \t", &rest)) {
        struct stat info;
        bool program = word[0] != '-' && gems_cpu_find_program(word, path, sizeof path);
        if (!count && !program) return false;
        const char *kept = count ? word : path;
        size_t length = strlen(kept) + 1;
        if (++count > MAX_COMMAND || used + length + 1 > sizeof compiler->command) return false;
        memcpy(compiler->command + used, kept, length);
        used += length;
        digest = mix(digest, kept, length);
        if (!program || !realpath(path, real) || stat(real, &info) != 0) continue;
        digest = mix(digest, &info.st_size, sizeof info.st_size);
        digest = mix(digest, &info.st_mtim, sizeof info.st_mtim);
        const char *slash = strrchr(real, '/');
        snprintf(base, sizeof base, "%.40s", slash ? slash + 1 : real);
    }
    snprintf(compiler->identity, sizeof compiler->identity, "%s %016llx", base,
             (unsigned long long)digest);
    return count > 0;
}

gems_status gems_cpu_find_compiler(gems_cpu_compiler *compiler) {
    static const char *const usual[] = {"c++", "g++", "clang++"};
    const char *chosen = getenv("CXX"), *path = getenv("PATH");
    if (chosen && *chosen && take(chosen, compiler)) return GEMS_OK;
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (take(usual[i], compiler)) return GEMS_OK;
    return gems_fail(GEMS_RUNTIME_ERROR,
                     "no C++ compiler was found, so no kernel can be compiled for the CPU. Tried "
                     "CXX (%s), and c++, g++, "
                     "clang++ in PATH (%s). Install one of them, or set CXX.",
                     chosen && *chosen ? chosen : "not set", path ? path : "not set");
}

/* Points words at the compiler's command; returns how many. */
static int command_words(const gems_cpu_compiler *compiler, char **words) {
    int count = 0;
    for (const char *at = compiler->command; *at; at += strlen(at) + 1) words[count++] = (char *)at;
    return count;
}

void gems_cpu_compiler_version(const gems_cpu_compiler *compiler, char *text, size_t size) {
    char directory[PATH_MAX - 16], output[PATH_MAX], *words[MAX_WORDS];
    static char flag[] = "--version";
    text[0] = 0;
    if (!gems_cpu_make_directory(directory, sizeof directory)) return;
    snprintf(output, sizeof output, "%s/out", directory);
    int count = command_words(compiler, words);
    words[count++] = flag;
    words[count] = NULL;
    if (gems_cpu_run_program(words, output) == 0) {
        gems_blob log = gems_cpu_read_file(output, LOG_LIMIT);
        if (log.data) snprintf(text, size, "%.*s", (int)strcspn(log.data, "\n"), (char *)log.data);
        gems_blob_free(&log);
    }
    gems_cpu_remove_directory(directory);
}

/* Results must be ATen's: no fast-math, and a product is fused into a sum only where a kernel says
 * fma(). */
#define COMMON_OPTIONS                                                                      \
    "-x c++ -std=c++17 -fPIC -shared -fvisibility=hidden -fno-exceptions -fno-rtti "        \
    "-fno-math-errno "                                                                      \
    "-fno-trapping-math -fno-strict-aliasing -ffp-contract=off -fno-threadsafe-statics -w " \
    "-nostdlib "
#if defined(__aarch64__)
#define NATIVE_OPTION "-mcpu=native"
#else
#define NATIVE_OPTION "-march=native"
#endif

void gems_cpu_options(gems_cpu_mode mode, char *text, size_t size) {
    static const char *const by_mode[] = {
        [GEMS_CPU_FAST] = "-O3 -DGEMS_FAST=1",
        [GEMS_CPU_FAITHFUL] = "-O1 -DGEMS_FAST=0",
        [GEMS_CPU_CHECKED] = "-O1 -g1 -DGEMS_FAST=0 -DGEMS_CHECKED=1 -fsanitize=thread"};
    static const char *const files[] = {"cpu/simt.h",   "cpu/checked.h",     "cpu/math.h",
                                        "cpu/angles.h", "cpu/tensor_core.h", "cpu/export.h"};
    uint64_t digest = DIGEST_START;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const char *at = gems_kernel_text(files[i]);
        if (at) digest = mix(digest, at, strlen(at));
    }
    snprintf(text, size, COMMON_OPTIONS NATIVE_OPTION " %s -DGEMS_TEXTS=0x%016llx", by_mode[mode],
             (unsigned long long)digest);
}

static void add_file(gems_text *source, const char *path) {
    const char *text = gems_kernel_text(path);
    gems_text_add(source, "#line 1 \"%s\"\n", path);
    if (text)
        gems_text_add(source, "%s\n", text);
    else
        source->failed = true;
}

/* All that the compiler reads. */
static gems_text whole_source(gems_cpu_mode mode, const char *text, const char *const *entries,
                              int entry_count) {
    gems_text source = {NULL, 0, 0, false};
    add_file(&source, "cpu/simt.h");
    if (mode == GEMS_CPU_CHECKED) add_file(&source, "cpu/checked.h");
    add_file(&source, "cpu/math.h");
    add_file(&source, "cpu/angles.h");
    if (mode != GEMS_CPU_FAST) add_file(&source, "cpu/tensor_core.h");
    gems_text_add(&source, "#line 1 \"" PROGRAM "\"\n%s\n", text);
    add_file(&source, "cpu/export.h");
    for (int i = 0; i < entry_count; i++) gems_text_add(&source, "GEMS_ENTRY(%s)\n", entries[i]);
    return source;
}

/* A place in the program's text, in the numbers of its #line directives; line 0: none. The file's
 * name is borrowed. */
typedef struct place {
    const char *file;
    size_t file_size;
    int line;
} place;

/* What a line of the log that begins with "file:12:" speaks of. */
static place place_of(const char *line, size_t size) {
    const char *colon = memchr(line, ':', size);
    int number = colon ? atoi(colon + 1) : 0;
    return number > 0 ? (place){line, (size_t)(colon - line), number} : (place){NULL, 0, 0};
}

/* Where the first error is, else the first place that the log names. */
static place error_place(const char *log) {
    place first = {NULL, 0, 0};
    while (*log) {
        size_t size = strcspn(log, "\n");
        place here = place_of(log, size);
        const char *error = strstr(log, "error:");
        if (here.line && error && error < log + size) return here;
        if (!first.line) first = here;
        log += size + (log[size] == '\n');
    }
    return first;
}

/* Lines of text around a place, with their numbers; the first ones when there is none. */
static void add_numbered(gems_text *out, const char *text, place error) {
    static const char directive[] = "#line 1 \"";
    place at = {PROGRAM, sizeof PROGRAM - 1, 1};
    for (; *text; at.line++) {
        size_t length = strcspn(text, "\n");
        bool same = at.file_size == error.file_size && !memcmp(at.file, error.file, at.file_size);
        int distance = at.line - error.line;
        if (error.line ? same && distance >= -8 && distance <= 8 : at.line <= 40)
            gems_text_add(out, "%s%5d | %.*s\n", error.line && distance == 0 ? ">" : " ", at.line,
                          (int)length, text);
        if (!strncmp(text, directive, sizeof directive - 1)) {
            const char *name = text + sizeof directive - 1;
            at = (place){name, strcspn(name, "\"\n"), 0};
        }
        text += length + (text[length] == '\n');
    }
}

static gems_status compile_failed(const gems_cpu_compiler *compiler, const char *options,
                                  const char *name, const char *text, int code, const char *log) {
    gems_text numbered = {NULL, 0, 0, false};
    add_numbered(&numbered, text, error_place(log));
    gems_status status = gems_fail(
        GEMS_RUNTIME_ERROR, "%s: the compiler failed (exit status %d)\n  command: %s %s\n%s%s",
        name, code, compiler->command, options, numbered.data ? numbered.data : "", log);
    gems_text_free(&numbered);
    return status;
}

gems_status gems_cpu_compile(const gems_cpu_compiler *compiler, gems_cpu_mode mode,
                             const char *options, const char *name, const char *text,
                             const char *const *entries, int entry_count, gems_blob *code) {
    char directory[PATH_MAX - 32], source_path[PATH_MAX], object_path[PATH_MAX], log_path[PATH_MAX];
    char split[512], *words[MAX_WORDS], *rest;
    static char output_flag[] = "-o", math[] = "-lm", c[] = "-lc", gcc[] = "-lgcc",
                reset[] = "none", x[] = "-x";
    gems_blob log = {NULL, 0};
    gems_status status = GEMS_OK;
    *code = (gems_blob){NULL, 0};
    if (!gems_cpu_make_directory(directory, sizeof directory))
        return gems_fail(GEMS_RUNTIME_ERROR, "%s: no directory for the compiler's files: %s", name,
                         strerror(errno));
    snprintf(source_path, sizeof source_path, "%s/program.cpp", directory);
    snprintf(object_path, sizeof object_path, "%s/program.so", directory);
    snprintf(log_path, sizeof log_path, "%s/log", directory);
    gems_text source = whole_source(mode, text, entries, entry_count);
    if (source.failed || !source.data) {
        status =
            gems_fail(GEMS_MEMORY_ERROR, "%s: the program's text could not be put together", name);
        goto done;
    }
    if (!gems_cpu_write_file(source_path, source.data, source.size)) {
        status = gems_fail(GEMS_RUNTIME_ERROR, "%s: %s: %s", name, source_path, strerror(errno));
        goto done;
    }
    int count = command_words(compiler, words);
    snprintf(split, sizeof split, "%s", options);
    for (char *word = strtok_r(split, " ", &rest); word && count < MAX_WORDS - 10;
         word = strtok_r(NULL, " ", &rest))
        words[count++] = word;
    words[count++] = source_path;
    words[count++] = x; /* what follows are libraries */
    words[count++] = reset;
    words[count++] = output_flag;
    words[count++] = object_path;
    words[count++] = math;
    words[count++] = c;
    words[count++] = gcc;
    words[count] = NULL;
    int exit_status = gems_cpu_run_program(words, log_path);
    if (exit_status < 0) {
        status = gems_fail(GEMS_RUNTIME_ERROR, "%s: %s could not be started: %s", name, words[0],
                           strerror(errno));
        goto done;
    }
    if (exit_status == 0) *code = gems_cpu_read_file(object_path, SIZE_MAX / 2);
    if (!code->data || !code->size) {
        gems_blob_free(code);
        log = gems_cpu_read_file(log_path, LOG_LIMIT);
        status =
            compile_failed(compiler, options, name, text, exit_status, log.data ? log.data : "");
    }
done:
    gems_blob_free(&log);
    gems_text_free(&source);
    gems_cpu_remove_directory(directory);
    return status;
}
