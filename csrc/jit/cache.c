/* The disk cache: entries in, entries out. Nothing here ever fails a call. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cache.h"
#include "sha256.h"

static const char magic[8] = {'g', 'e', 'm', 's', 'c', 'a', 'c', 'h'};

/* Reads or writes all of size bytes; false with errno set otherwise (0: the file ended). */
static bool read_all(int fd, void *data, size_t size) {
    for (char *at = data; size;) {
        ssize_t got = read(fd, at, size);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            if (got == 0) errno = 0;
            return false;
        }
        at += got;
        size -= (size_t)got;
    }
    return true;
}

static bool write_all(int fd, const void *data, size_t size) {
    for (const char *at = data; size;) {
        ssize_t put = write(fd, at, size);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        at += put;
        size -= (size_t)put;
    }
    return true;
}

/* An entry's path; false when it does not fit. */
static bool entry_path(const gems_cache_place *place, const char *key, char *path, size_t size) {
    int n = snprintf(path, size, "%s/%.2s/%s" GEMS_CACHE_SUFFIX, place->path, key, key + 2);
    return n > 0 && (size_t)n < size;
}

static bool key_is_valid(const char *key) {
    return strlen(key) == 64 && strspn(key, "0123456789abcdef") == 64;
}

void gems_cache_key(const gems_identity *identity, const char *text, char key[65]) {
    const char *const parts[] = {identity->arch, identity->compiler, identity->options, text};
    uint8_t digest[32];
    gems_sha256_state s;
    gems_sha256_begin(&s);
    uint32_t format = GEMS_CACHE_FORMAT;
    gems_sha256_add(&s, &format, sizeof format);
    for (int i = 0; i < 4; i++)
        gems_sha256_add(&s, parts[i], strlen(parts[i]) + 1); /* the NUL keeps parts apart */
    gems_sha256_end(&s, digest);
    for (int i = 0; i < 32; i++) snprintf(key + 2 * i, 3, "%02x", digest[i]);
}

/* ---- out ---- */

static bool trailer_holds(const gems_trailer *t, const char *key, uint64_t payload_bytes) {
    uint8_t hash[32];
    if (memcmp(t->magic, magic, sizeof magic) || t->format != GEMS_CACHE_FORMAT ||
        t->trailer_bytes != sizeof *t)
        return false;
    if (memcmp(t->key, key, sizeof t->key) || t->payload_bytes != payload_bytes) return false;
    gems_sha256(t, offsetof(gems_trailer, trailer_hash), hash);
    return !memcmp(hash, t->trailer_hash, sizeof hash);
}

/* Pruning goes by the last use. Most systems mount with relatime, so a hit notes it when the note
 * is an hour old. */
static void note_use(int fd, const struct stat *st) {
    time_t last = st->st_atime > st->st_mtime ? st->st_atime : st->st_mtime;
    if (time(NULL) - last < 3600) return;
    const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
    (void)!futimens(fd, times);
}

typedef enum verdict { HIT, DAMAGED, UNREADABLE } verdict;

/* Reads and checks an open entry. HIT alone fills *code and *report. */
static verdict read_entry(int fd, const char *key, gems_blob *code, gems_report *report) {
    struct stat st;
    gems_trailer t;
    uint8_t hash[32];
    verdict result = DAMAGED;
    if (fstat(fd, &st)) return UNREADABLE;
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_size < (off_t)sizeof t)
        return DAMAGED;
    size_t payload = (size_t)st.st_size - sizeof t;
    char *data = malloc(payload ? payload : 1);
    if (!data) return UNREADABLE;
    if (!read_all(fd, data, payload) || !read_all(fd, &t, sizeof t)) {
        if (errno) result = UNREADABLE; /* 0: it shrank meanwhile */
        goto done;
    }
    if (!trailer_holds(&t, key, payload)) goto done;
    gems_sha256(data, payload, hash);
    if (memcmp(hash, t.payload_hash, sizeof hash)) goto done;
    if (report)
        *report = (gems_report){.registers = t.registers,
                                .spill_bytes = t.spill_bytes,
                                .shared_bytes = t.shared_bytes,
                                .instructions = t.instructions,
                                .milliseconds = t.milliseconds};
    *code = (gems_blob){.data = data, .size = payload};
    data = NULL;
    note_use(fd, &st);
    result = HIT;
done:
    free(data);
    return result;
}

bool gems_cache_get(const char *key, gems_blob *code, gems_report *report, char *path,
                    size_t path_size) {
    char own[4096];
    if (!path || !path_size) {
        path = own;
        path_size = sizeof own;
    }
    path[0] = 0;
    gems_cache_place *place = gems_cache_place_now();
    if (!place || !place->usable || !key_is_valid(key)) return false;
    if (!entry_path(place, key, path, path_size)) goto miss;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        if (errno == ELOOP || errno == ENXIO) unlink(path);
        goto miss;
    }
    verdict result = read_entry(fd, key, code, report);
    close(fd);
    if (result == HIT) return true;
    if (result == DAMAGED) {
        gems_log(GEMS_LOG_INFO, "the kernel cache's entry %s is damaged or stale; it is deleted",
                 path);
        unlink(path);
    }
miss:
    path[0] = 0;
    return false;
}

/* ---- in ---- */

/* Writes payload and trailer to a new file at `temporary`; 0 or an errno. The file is gone after a
 * failure. */
static int write_entry(const char *temporary, const char *key, const gems_blob *code,
                       const gems_report *report) {
    gems_trailer t;
    memset(&t, 0, sizeof t);
    memcpy(t.magic, magic, sizeof magic);
    t.format = GEMS_CACHE_FORMAT;
    t.trailer_bytes = sizeof t;
    memcpy(t.key, key, sizeof t.key);
    t.payload_bytes = code->size;
    t.registers = report ? report->registers : -1;
    t.spill_bytes = report ? report->spill_bytes : -1;
    t.shared_bytes = report ? report->shared_bytes : -1;
    t.instructions = report ? report->instructions : -1;
    t.milliseconds = report ? report->milliseconds : -1;
    gems_sha256(code->data, code->size, t.payload_hash);
    gems_sha256(&t, offsetof(gems_trailer, trailer_hash), t.trailer_hash);

    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return errno;
    int error = 0;
    if (!write_all(fd, code->data, code->size) || !write_all(fd, &t, sizeof t) || fsync(fd))
        error = errno ? errno : EIO;
    if (close(fd) && !error) error = errno;
    if (error) unlink(temporary);
    return error;
}

/* One try; 0 or an errno. */
static int put(const gems_cache_place *place, const char *key, const gems_blob *code,
               const gems_report *report, const char *path) {
    static uint64_t counter; /* so that no two threads write the same file */
    char temporary[4096];
    int n = snprintf(temporary, sizeof temporary, "%s/%.2s", place->path, key);
    if (n < 0 || (size_t)n >= sizeof temporary - 64) return ENAMETOOLONG;
    if (mkdir(temporary, 0700) && errno != EEXIST) return errno;
    snprintf(temporary + n, sizeof temporary - (size_t)n, "/" GEMS_CACHE_TEMPORARY "%ld-%llu",
             (long)getpid(), (unsigned long long)__atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED));
    int error = write_entry(temporary, key, code, report);
    if (error) return error;
    if (rename(temporary, path)) {
        error = errno;
        unlink(temporary);
    }
    return error;
}

void gems_cache_put(const char *key, const gems_blob *code, const gems_report *report, char *path,
                    size_t path_size) {
    char own[4096];
    if (!path || !path_size) {
        path = own;
        path_size = sizeof own;
    }
    path[0] = 0;
    gems_cache_place *place = gems_cache_place_now();
    if (!place || !place->usable || !key_is_valid(key) || !entry_path(place, key, path, path_size))
        return;
    /* A clear in another process may take the directory away between its making and the file's; a
     * file of a killed process whose id is ours now may be in the way. */
    int error = 0;
    for (int tries = 0; tries < 8; tries++) {
        error = put(place, key, code, report, path);
        if (error != ENOENT && error != EEXIST) break;
    }
    if (error) {
        gems_cache_warn(place, "cannot write to the kernel cache", place->path, error);
        path[0] = 0;
    }
}
