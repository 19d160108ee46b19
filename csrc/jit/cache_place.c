/* Where the disk cache is: found from the environment, made with mode 0700, owner checked. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static gems_cache_place *places;

/* The directory's path in memory of the caller's; NULL when the environment names none (or no
 * memory is left). home: it lies below $HOME, which must exist, for a home is not ours to make. */
static char *path_from_environment(bool *home) {
    const char *base, *tail = "";
    *home = false;
    if ((base = getenv("FLAGGEMS_CACHE_DIR")) && *base) {
    } else if ((base = getenv("XDG_CACHE_HOME")) &&
               *base == '/') { /* relative ones are invalid by its rules */
        tail = "/flag_gems";
    } else if ((base = getenv("HOME")) && *base) {
        tail = "/.cache/flag_gems";
        *home = true;
    } else {
        return NULL;
    }
    char here[4096] = "";
    if (*base != '/' && getcwd(here, sizeof here - 1)) strcat(here, "/");
    size_t size = strlen(here) + strlen(base) + strlen(tail) + 1;
    char *path = malloc(size);
    if (path) snprintf(path, size, "%s%s%s", here, base, tail);
    return path;
}

void gems_cache_warn(gems_cache_place *place, const char *what, const char *path, int error) {
    if (__atomic_exchange_n(&place->warned, true, __ATOMIC_RELAXED)) return;
    gems_log(GEMS_LOG_WARN,
             "%s%s%s%s%s; compiled kernels are kept in memory only (FLAGGEMS_CACHE_DIR names "
             "another directory)",
             what, path ? " " : "", path ? path : "", error ? ": " : "",
             error ? strerror(error) : "");
}

/* Makes a directory and its parents; 0 or an errno. */
static int make_directories(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int failed = mkdir(path, 0777) && errno != EEXIST && errno != EROFS && errno != EACCES;
        *slash = '/';
        if (failed) return errno;
    }
    return mkdir(path, 0700) && errno != EEXIST ? errno : 0;
}

/* Sets usable, or warns. */
static void check(gems_cache_place *place, bool home) {
    struct stat st;
    if (!place->path) {
        gems_cache_warn(place, "there is no home directory for the kernel cache", NULL, 0);
        return;
    }
    const char *base = home ? getenv("HOME") : NULL;
    if (base && stat(base, &st)) {
        gems_cache_warn(place, "the home directory cannot be used for the kernel cache:", base,
                        errno);
        return;
    }
    int error = make_directories(place->path);
    if (stat(place->path, &st)) {
        gems_cache_warn(place, "cannot make the kernel cache's directory", place->path,
                        error ? error : errno);
        return;
    }
    if (!S_ISDIR(st.st_mode)) {
        gems_cache_warn(place, "the kernel cache is no directory:", place->path, 0);
        return;
    }
    if (st.st_uid != geteuid()) {
        gems_cache_warn(
            place, "the kernel cache belongs to another user and is not used:", place->path, 0);
        return;
    }
    /* Whoever can write there can run code here. */
    if (st.st_mode & 022 && chmod(place->path, st.st_mode & 0755)) {
        gems_cache_warn(
            place, "others can write to the kernel cache, which is not used:", place->path, errno);
        return;
    }
    place->usable = true;
}

static bool same(const char *a, const char *b) { return a && b ? !strcmp(a, b) : a == b; }

gems_cache_place *gems_cache_place_now(void) {
    bool home;
    char *path = path_from_environment(&home);
    pthread_mutex_lock(&lock);
    gems_cache_place *place = places;
    while (place && !same(place->path, path)) place = place->next;
    if (place) {
        free(path);
    } else if ((place = calloc(1, sizeof *place))) {
        place->path = path;
        check(place, home);
        place->next = places;
        places = place;
    } else {
        free(path);
    }
    pthread_mutex_unlock(&lock);
    return place;
}

const char *gems_cache_directory(void) {
    const gems_cache_place *place = gems_cache_place_now();
    return place && place->usable ? place->path : NULL;
}
