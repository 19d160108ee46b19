/* Measuring, clearing and pruning the disk cache. Only files that the cache itself makes are
 * touched; another process may read, write and clear at the same time. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cache.h"

typedef struct entry {
    char *path;
    int64_t bytes;
    struct timespec used;
    bool temporary; /* of a writer that is at work, or was killed */
} entry;

typedef struct entries {
    entry *v;
    size_t count, room;
} entries;

static void free_entries(entries *list) {
    for (size_t i = 0; i < list->count; i++) free(list->v[i].path);
    free(list->v);
}

static bool is_hex(const char *name, size_t digits) {
    return strspn(name, "0123456789abcdef") == digits;
}

static bool is_entry(const char *name) {
    return is_hex(name, 62) && !strcmp(name + 62, GEMS_CACHE_SUFFIX);
}

static bool is_temporary(const char *name) {
    return !strncmp(name, GEMS_CACHE_TEMPORARY, sizeof GEMS_CACHE_TEMPORARY - 1);
}

static bool later(struct timespec a, struct timespec b) {
    return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

/* Adds one file; what cannot be seen or remembered is left out. */
static void add(entries *list, const char *directory, const char *name) {
    struct stat st;
    char *path;
    if (asprintf(&path, "%s/%s", directory, name) < 0) return;
    if (lstat(path, &st)) goto done;
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 256;
        entry *v = realloc(list->v, room * sizeof *v);
        if (!v) goto done;
        list->v = v;
        list->room = room;
    }
    list->v[list->count++] =
        (entry){.path = path,
                .bytes = st.st_size,
                .used = later(st.st_atim, st.st_mtim) ? st.st_atim : st.st_mtim,
                .temporary = is_temporary(name)};
    return;
done:
    free(path);
}

/* Calls what(directory) for each of the 256 directories that exist. */
static void each_directory(const char *top, void (*what)(const char *directory, void *data),
                           void *data) {
    DIR *d = opendir(top);
    if (!d) return;
    for (const struct dirent *e; (e = readdir(d));) {
        char *path;
        if (strlen(e->d_name) != 2 || !is_hex(e->d_name, 2) ||
            asprintf(&path, "%s/%s", top, e->d_name) < 0)
            continue;
        what(path, data);
        free(path);
    }
    closedir(d);
}

static void collect(const char *directory, void *data) {
    DIR *d = opendir(directory);
    if (!d) return;
    for (const struct dirent *e; (e = readdir(d));)
        if (is_entry(e->d_name) || is_temporary(e->d_name)) add(data, directory, e->d_name);
    closedir(d);
}

static entries all_entries(void) {
    entries list = {0};
    const char *top = gems_cache_directory();
    if (top) each_directory(top, collect, &list);
    return list;
}

static void remove_directory(const char *directory, void *data) {
    (void)data;
    (void)!rmdir(directory); /* stays when it is not empty */
}

gems_cache_info gems_cache_measure(void) {
    gems_cache_info info = {0};
    entries list = all_entries();
    for (size_t i = 0; i < list.count; i++) {
        info.entries += !list.v[i].temporary;
        info.bytes += list.v[i].bytes;
    }
    free_entries(&list);
    return info;
}

/* A temporary file this old has no writer any more. */
static bool is_abandoned(const entry *e) {
    return e->temporary && time(NULL) - e->used.tv_sec > 3600;
}

int64_t gems_cache_clear(void) {
    int64_t removed = 0;
    entries list = all_entries();
    for (size_t i = 0; i < list.count; i++) {
        const entry *e = &list.v[i];
        if (e->temporary && !is_abandoned(e)) continue;
        if (!unlink(e->path)) removed += !e->temporary;
    }
    free_entries(&list);
    const char *top = gems_cache_directory();
    if (top) each_directory(top, remove_directory, NULL);
    return removed;
}

static int oldest_first(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (later(x->used, y->used)) return 1;
    if (later(y->used, x->used)) return -1;
    return strcmp(x->path, y->path);
}

int64_t gems_cache_prune(int64_t keep_bytes) {
    int64_t removed = 0, bytes = 0;
    entries list = all_entries();
    if (list.count) qsort(list.v, list.count, sizeof *list.v, oldest_first);
    for (size_t i = 0; i < list.count; i++) {
        if (is_abandoned(&list.v[i])) (void)!unlink(list.v[i].path);
        if (!list.v[i].temporary) bytes += list.v[i].bytes;
    }
    for (size_t i = 0; i < list.count && bytes > keep_bytes; i++) {
        if (list.v[i].temporary) continue;
        bytes -= list.v[i].bytes;
        removed += !unlink(list.v[i].path);
    }
    free_entries(&list);
    return removed;
}
