/* Files and child processes: a compiler is started without a shell. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu.h"

extern char **environ;

bool gems_cpu_make_directory(char *path, size_t size) {
    const char *base = getenv("TMPDIR");
    if (!base || base[0] != '/') base = "/tmp";
    int length = snprintf(path, size, "%s/flag_gems-XXXXXX", base);
    if (length < 0 || (size_t)length >= size) {
        errno = ENAMETOOLONG;
        return false;
    }
    return mkdtemp(path) != NULL; /* mode 0700 */
}

void gems_cpu_remove_directory(const char *path) {
    DIR *directory = opendir(path);
    if (directory) {
        struct dirent *entry;
        while ((entry = readdir(directory)))
            if (entry->d_name[0] != '.') unlinkat(dirfd(directory), entry->d_name, 0);
        closedir(directory);
    }
    rmdir(path);
}

bool gems_cpu_write_file(const char *path, const void *data, size_t size) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
    if (file < 0) return false;
    const char *at = data;
    while (size) {
        ssize_t written = write(file, at, size);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) break;
        at += written;
        size -= (size_t)written;
    }
    return close(file) == 0 && size == 0;
}

gems_blob gems_cpu_read_file(const char *path, size_t limit) {
    gems_blob blob = {NULL, 0};
    struct stat info;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return blob;
    if (fstat(file, &info) != 0) goto done;
    size_t size = info.st_size > 0 ? (size_t)info.st_size : 0;
    if (size > limit) size = limit;
    if (!(blob.data = malloc(size + 1))) goto done;
    while (blob.size < size) {
        ssize_t got = read(file, (char *)blob.data + blob.size, size - blob.size);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        blob.size += (size_t)got;
    }
    ((char *)blob.data)[blob.size] = 0;
done:
    close(file);
    return blob;
}

/* The environment with LC_ALL=C, so that messages have the form that is searched. NULL: no memory.
 */
static char **plain_environment(void) {
    static char locale[] = "LC_ALL=C";
    size_t count = 0, kept = 0;
    while (environ && environ[count]) count++;
    char **copy = malloc((count + 2) * sizeof *copy);
    if (!copy) return NULL;
    for (size_t i = 0; i < count; i++)
        if (strncmp(environ[i], "LC_ALL=", 7) != 0) copy[kept++] = environ[i];
    copy[kept++] = locale;
    copy[kept] = NULL;
    return copy;
}

int gems_cpu_run_program(char *const *words, const char *output) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t child;
    int status = -1, error;
    char **environment = plain_environment();
    if (!environment) {
        errno = ENOMEM;
        return -1;
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    error = posix_spawn(&child, words[0], &actions, &attributes, words, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    if (error) {
        errno = error;
        return -1;
    }
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return 0; /* the host ignores SIGCHLD: what it wrote tells how it went */
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
