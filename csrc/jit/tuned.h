/* The table of what tuning found: from a text that says what is computed and where, to a text that says how it is done
 * fastest there. It is made of the lines of tuned.def, which the extension carries, and of the file tuned.txt in the cache
 * directory, whose lines come later and win. It is read once, by whoever asks first, and never changes afterwards.
 *
 * A line: "1 KEY = VALUE ~HASH", 1 being the format and HASH the first 8 digits of a SHA-256 over all before " ~". Any
 * other line is no entry: a comment, one of another format, or one that something happened to. What a key and a value
 * mean the families know; a key has in it all that would make an entry foreign (device, version of the kernels).
 */
#ifndef GEMS_TUNED_H
#define GEMS_TUNED_H

#include "jit.h"

#define GEMS_TUNED_KEY 128  /* most bytes of a key, with its NUL */
#define GEMS_TUNED_VALUE 96 /* of a value */
#define GEMS_TUNED_LINE (GEMS_TUNED_KEY + GEMS_TUNED_VALUE + 20)

typedef struct gems_tuned_entry {
    char key[GEMS_TUNED_KEY], value[GEMS_TUNED_VALUE];
    bool shipped; /* from tuned.def */
} gems_tuned_entry;

/* Whether there are entries at all. */
bool gems_tuned_any(void);
/* The value of a key, good until the process ends; NULL: none. */
const char *gems_tuned_find(const char *key);
/* The i-th entry in the order of keys; NULL: no more. */
const gems_tuned_entry *gems_tuned_at(int i);
/* Writes the line of an entry, without its newline, to GEMS_TUNED_LINE bytes; false: a text is too long or has a newline,
 * " = " or " ~" in it. */
bool gems_tuned_line(const char *key, const char *value, char *line);
/* Reads a line, which need not end in a NUL; false: it is no entry. */
bool gems_tuned_parse(const char *line, size_t size, gems_tuned_entry *entry);
/* The file of the cache directory; false: there is none. It need not exist. */
bool gems_tuned_path(char *path, size_t size);

#endif
