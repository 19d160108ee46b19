/* The part of a program's text that an error message needs. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

enum { WHOLE = 120, AROUND = 4, END = 60, PLACES = 8 };

/* A place that the log names: "tile.cuh(12): error: ...". The file's name is borrowed from the log.
 */
typedef struct place {
    const char *file;
    size_t file_size;
    long line;
} place;

static int find_places(const char *log, place *places) {
    int count = 0;
    for (const char *line = log; line && *line && count < PLACES;) {
        const char *end = strchr(line, '\n');
        size_t size = end ? (size_t)(end - line) : strlen(line);
        const char *open = memchr(line, '(', size);
        char *after;
        if (open && isdigit((unsigned char)open[1])) {
            long number = strtol(open + 1, &after, 10);
            if (!strncmp(after, "): error", 8) || !strncmp(after, "): catastrophic", 15))
                places[count++] = (place){line, (size_t)(open - line), number};
        }
        line = end ? end + 1 : NULL;
    }
    return count;
}

/* A directive `#line 12 "name"` or `# 12 "name"`: the next line's number, and the file when it
 * names one. */
static bool line_directive(const char *line, size_t size, long *number, const char **file,
                           size_t *file_size) {
    const char *at = line, *end = line + size;
    while (at < end && isblank((unsigned char)*at)) at++;
    if (at == end || *at++ != '#') return false;
    while (at < end && isblank((unsigned char)*at)) at++;
    if (end - at > 4 && !memcmp(at, "line", 4)) at += 4;
    while (at < end && isblank((unsigned char)*at)) at++;
    if (at == end || !isdigit((unsigned char)*at)) return false;
    *number = strtol(at, NULL, 10);
    const char *quote = memchr(at, '"', (size_t)(end - at));
    const char *close = quote ? memchr(quote + 1, '"', (size_t)(end - quote - 1)) : NULL;
    if (close) {
        *file = quote + 1;
        *file_size = (size_t)(close - quote - 1);
    }
    return true;
}

/* Room for the whole text with numbers is taken at once: nothing here can run over it. */
typedef struct writer {
    char *data;
    size_t size, room;
} writer;

static void write_line(writer *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void write_line(writer *out, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int size = vsnprintf(out->data + out->size, out->room - out->size, format, list);
    va_end(list);
    if (size > 0 && (size_t)size < out->room - out->size) out->size += (size_t)size;
}

char *gems_cuda_listing(const char *text, const char *log) {
    place places[PLACES];
    int count = find_places(log, places);
    long lines = 1;
    for (const char *at = text; *at; at++) lines += *at == '\n';

    writer out = {NULL, 0, strlen(text) + strlen(log) + (size_t)lines * 24 + 1024};
    out.data = malloc(out.room);
    if (!out.data) return NULL;
    out.data[0] = 0;

    /* Places with AROUND lines each; a second pass prints the end when no place was met. */
    for (int pass = 0; pass < 2 && !out.size; pass++) {
        const char *file = "program.cu", *shown = NULL;
        size_t file_size = strlen(file);
        long number = 0, last = -1, at = 0;
        for (const char *line = text; line; at++) {
            const char *end = strchr(line, '\n');
            size_t size = end ? (size_t)(end - line) : strlen(line);
            bool near = lines <= WHOLE || (pass == 1 && at >= lines - END), here = false;
            number++;
            for (int i = 0; i < count; i++) {
                if (places[i].file_size != file_size || memcmp(places[i].file, file, file_size))
                    continue;
                near |= labs(places[i].line - number) <= AROUND;
                here |= places[i].line == number;
            }
            if (near) {
                if (shown != file)
                    write_line(&out, "  %.*s\n", (int)file_size, file);
                else if (last != at - 1)
                    write_line(&out, "        ...\n");
                write_line(&out, "%c %5ld | %.*s\n", here ? '>' : ' ', number, (int)size, line);
                shown = file;
                last = at;
            }
            long next;
            if (line_directive(line, size, &next, &file, &file_size)) number = next - 1;
            line = end ? end + 1 : NULL;
        }
    }
    return out.data;
}
