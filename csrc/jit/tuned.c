/* Reading the table of what tuning found. */
#include "tuned.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES (1 << 20) /* what lies beyond is not read */

static const char *const shipped[] = {
#define GEMS_TUNED(line) line,
#include "tuned.def"
#undef GEMS_TUNED
    NULL};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static gems_tuned_entry *entries;
static int count, room;

static void hash_of(const char *text, size_t size, char digits[9]) {
    uint8_t digest[32];
    gems_sha256(text, size, digest);
    for (int i = 0; i < 4; i++) snprintf(digits + 2 * i, 3, "%02x", digest[i]);
}

/* Whether a text can stand in a line. */
static bool fits(const char *text, size_t size, size_t most) {
    if (!size || size >= most) return false;
    for (size_t i = 0; i < size; i++)
        if (text[i] < ' ' || text[i] > '}' || text[i] == '=') return false;
    return true;
}

bool gems_tuned_line(const char *key, const char *value, char *line) {
    char digits[9];
    if (!fits(key, strlen(key), GEMS_TUNED_KEY)) return false;
    if (!fits(value, strlen(value), GEMS_TUNED_VALUE)) return false;
    int size = snprintf(line, GEMS_TUNED_LINE, "1 %s = %s", key, value);
    hash_of(line, (size_t)size, digits);
    snprintf(line + size, GEMS_TUNED_LINE - (size_t)size, " ~%s", digits);
    return true;
}

bool gems_tuned_parse(const char *line, size_t size, gems_tuned_entry *entry) {
    char digits[9];
    if (size < 17 || size >= GEMS_TUNED_LINE || memcmp(line, "1 ", 2)) return false;
    const size_t text = size - 10;
    if (memcmp(line + text, " ~", 2)) return false;
    hash_of(line, text, digits);
    if (memcmp(line + text + 2, digits, 8)) return false;
    const char *key = line + 2, *end = line + text, *middle = memmem(key, text - 2, " = ", 3);
    if (!middle) return false;
    const size_t key_size = (size_t)(middle - key), value_size = (size_t)(end - middle - 3);
    if (!fits(key, key_size, GEMS_TUNED_KEY) || !fits(middle + 3, value_size, GEMS_TUNED_VALUE))
        return false;
    memset(entry, 0, sizeof *entry);
    memcpy(entry->key, key, key_size);
    memcpy(entry->value, middle + 3, value_size);
    return true;
}

/* The first entry whose key is not before another; *same: it is that key's. */
static int place_of(const char *key, bool *same) {
    int low = 0, high = count;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (strcmp(entries[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *same = low < count && !strcmp(entries[low].key, key);
    return low;
}

/* Adds the entry of a line, or replaces the one before it. */
static void add(const char *line, size_t size, bool ships) {
    gems_tuned_entry entry;
    bool same;
    if (!gems_tuned_parse(line, size, &entry)) return;
    entry.shipped = ships;
    const int at = place_of(entry.key, &same);
    if (!same) {
        if (count == room) {
            const int more = room ? 2 * room : 64;
            gems_tuned_entry *moved = realloc(entries, (size_t)more * sizeof *moved);
            if (!moved) return;
            entries = moved;
            room = more;
        }
        memmove(entries + at + 1, entries + at, (size_t)(count - at) * sizeof *entries);
        count++;
    }
    entries[at] = entry;
}

bool gems_tuned_path(char *path, size_t size) {
    const char *directory = gems_cache_directory();
    if (!directory) return false;
    const int wanted = snprintf(path, size, "%s/tuned.txt", directory);
    return wanted > 0 && (size_t)wanted < size;
}

static void read_file(void) {
    char path[4096];
    struct stat st;
    if (!gems_tuned_path(path, sizeof path)) return;
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0) return;
    char *text = NULL;
    size_t size = 0;
    if (fstat(file, &st) || !S_ISREG(st.st_mode) || st.st_uid != geteuid()) goto done;
    if (!(text = malloc(FILE_BYTES))) goto done;
    while (size < FILE_BYTES) {
        const ssize_t got = read(file, text + size, FILE_BYTES - size);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        size += (size_t)got;
    }
    for (size_t at = 0; at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        const size_t line = end ? (size_t)(end - text) - at : size - at;
        add(text + at, line, false);
        at += line + 1;
    }
done:
    free(text);
    close(file);
}

static void read_table(void) {
    for (const char *const *line = shipped; *line; line++) add(*line, strlen(*line), true);
    read_file();
}

bool gems_tuned_any(void) {
    pthread_once(&once, read_table);
    return count > 0;
}

const char *gems_tuned_find(const char *key) {
    bool same;
    if (!gems_tuned_any()) return NULL;
    const int at = place_of(key, &same);
    return same ? entries[at].value : NULL;
}

const gems_tuned_entry *gems_tuned_at(int i) {
    return gems_tuned_any() && i >= 0 && i < count ? &entries[i] : NULL;
}
