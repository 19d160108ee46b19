/* The thread's last failure and last decline, and the log. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../gems.h"

/* A compile error carries its numbered source, so the text grows on demand. */
static _Thread_local char *text;
static _Thread_local size_t room;
static _Thread_local gems_error kind;
static _Thread_local const char *reason = "";

gems_status gems_fail(gems_error error, const char *format, ...) {
    va_list list;
    kind = error;
    va_start(list, format);
    int size = vsnprintf(NULL, 0, format, list);
    va_end(list);
    if (size < 0) size = 0;
    /* Written to a new block before the old one goes: the arguments may point into the old text. */
    char *fresh = malloc((size_t)size + 1);
    if (!fresh) return GEMS_ERROR;
    va_start(list, format);
    vsnprintf(fresh, (size_t)size + 1, format, list);
    va_end(list);
    free(text);
    text = fresh;
    room = (size_t)size + 1;
    return GEMS_ERROR;
}

gems_status(gems_decline)(const char *why) {
    reason = why;
    return GEMS_DECLINE;
}

gems_error gems_error_kind(void) { return kind; }
const char *gems_error_text(void) { return room ? text : "unknown error"; }
const char *gems_reason(void) { return reason; }

static gems_level threshold(void) {
    static int level = -1; /* the same value whichever thread writes it */
    if (level < 0) {
        static const char *const names[] = {"error", "warn", "info", "debug"};
        const char *wanted = getenv("GEMS_LOG");
        int found = GEMS_LOG_WARN;
        for (int i = 0; wanted && i < 4; i++)
            if (!strcmp(wanted, names[i])) found = i;
        level = found;
    }
    return (gems_level)level;
}

void gems_log(gems_level level, const char *format, ...) {
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if (level > threshold()) return;
    va_list list;
    va_start(list, format);
    flockfile(stderr);
    fprintf(stderr, "flag_gems %s: ", names[level]);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    funlockfile(stderr);
    va_end(list);
}
