/* Program text: a buffer that grows, and the kernel texts that the extension carries. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

/* Room for `more` bytes and a NUL; sets failed when there is none. */
static bool reserve(gems_text *text, size_t more) {
    size_t need = text->size + more + 1;
    if (text->failed) return false;
    if (need <= text->room) return true;
    size_t room = text->room ? text->room : 1024;
    while (room < need) room *= 2;
    char *data = realloc(text->data, room);
    if (!data) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->room = room;
    return true;
}

void gems_text_add(gems_text *text, const char *format, ...) {
    va_list list;
    va_start(list, format);
    if (!strcmp(format, "%s")) { /* whole files go this way */
        const char *string = va_arg(list, const char *);
        size_t size = strlen(string);
        if (reserve(text, size)) {
            memcpy(text->data + text->size, string, size + 1);
            text->size += size;
        }
        va_end(list);
        return;
    }
    va_list again;
    va_copy(again, list);
    int size = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (size < 0) {
        text->failed = true;
    } else if (reserve(text, (size_t)size)) {
        vsnprintf(text->data + text->size, (size_t)size + 1, format, list);
        text->size += (size_t)size;
    }
    va_end(list);
}

void gems_text_free(gems_text *text) {
    free(text->data);
    *text = (gems_text){0};
}

/* ---- GEMS_KERNEL_DIR ---- */

/* A text that was read from disk. Kept for good, since callers hold the pointer: one for each
 * version of a file that was edited while the process ran. */
typedef struct disk_text {
    struct disk_text *next;
    char *path;
    char *text;
} disk_text;

static pthread_mutex_t disk_lock = PTHREAD_MUTEX_INITIALIZER;
static disk_text *disk_texts;

/* The whole file as a string that the caller frees; NULL when it cannot be read. */
static char *read_file(const char *path) {
    gems_text text = {0};
    FILE *file = fopen(path, "re");
    if (!file) return NULL;
    for (;;) {
        if (!reserve(&text, 16384)) break;
        size_t got = fread(text.data + text.size, 1, 16384, file);
        text.size += got;
        if (got == 0) break;
    }
    bool failed = text.failed || ferror(file);
    fclose(file);
    if (failed) {
        gems_text_free(&text);
        return NULL;
    }
    text.data[text.size] = 0;
    return text.data;
}

static const char *text_on_disk(const char *directory, const char *path) {
    size_t size = strlen(directory) + strlen(path) + 2;
    const char *result = NULL;
    char *full = malloc(size);
    if (!full) return NULL;
    snprintf(full, size, "%s/%s", directory, path);
    char *text = read_file(full);
    if (!text) {
        free(full);
        return NULL;
    }
    pthread_mutex_lock(&disk_lock);
    for (const disk_text *t = disk_texts; t && !result; t = t->next)
        if (!strcmp(t->path, full) && !strcmp(t->text, text)) result = t->text;
    if (!result) {
        disk_text *t = malloc(sizeof *t);
        if (t) {
            *t = (disk_text){.next = disk_texts, .path = full, .text = text};
            disk_texts = t;
            result = text;
            full = text = NULL; /* the list owns them */
        }
    }
    pthread_mutex_unlock(&disk_lock);
    free(full);
    free(text);
    return result;
}

const char *gems_kernel_text(const char *path) {
    const char *directory = getenv("GEMS_KERNEL_DIR");
    if (directory && *directory) {
        const char *text = text_on_disk(directory, path);
        if (text) return text;
    }
    for (const gems_embedded *file = gems_embedded_files; file->path; file++)
        if (!strcmp(file->path, path)) return file->text;
    return NULL;
}
