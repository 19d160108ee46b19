/* operators.def, expanded: rows as they are written, entries derived from them. */
#include <ctype.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../families/modes.h"
#include "../families/op.h"

#define GEMS_OP(id, ...) {__VA_ARGS__},
static const gems_op rows[] = {
#include "../operators.def"
    {.schema = NULL}};
#undef GEMS_OP

#define GEMS_OP(id, ...) #id,
static const char *const ids[] = {
#include "../operators.def"
    ""};
#undef GEMS_OP

enum { WRITTEN = (int)(sizeof rows / sizeof *rows) - 1 }; /* rows of operators.def */

/* Rows that the program added. A row does not move or change once it counts. */
static gems_op added[GEMS_ADDED_ROWS];
static char *added_ids[GEMS_ADDED_ROWS];
static int added_count;
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;

/* All that there can be, at places that stay: pages are only had when they are written. */
static gems_entry *entries;
static int entry_total, aten_entries, entry_room;

int gems_op_count(void) { return WRITTEN + __atomic_load_n(&added_count, __ATOMIC_ACQUIRE); }
int gems_op_room(void) { return WRITTEN + GEMS_ADDED_ROWS; }
const gems_op *gems_op_at(int index) {
    return index < WRITTEN ? &rows[index] : &added[index - WRITTEN];
}
const char *gems_op_id(int index) {
    return index < WRITTEN ? ids[index] : added_ids[index - WRITTEN];
}
static bool is_own(const char *schema) {
    return !strncmp(schema, GEMS_OWN_PREFIX, strlen(GEMS_OWN_PREFIX));
}
bool gems_op_own(int index) { return is_own(gems_op_at(index)->schema); }
bool gems_op_added(int index) { return index >= WRITTEN; }
int gems_entry_count(void) { return aten_entries; }
int gems_entry_total(void) { return __atomic_load_n(&entry_total, __ATOMIC_ACQUIRE); }
int gems_entry_room(void) { return entry_room; }
gems_entry *gems_entry_at(int index) { return &entries[index]; }

int gems_entry_find(const char *qualified) {
    for (int i = 0; i < gems_entry_total(); i++)
        if (!strcmp(entries[i].qualified, qualified)) return i;
    return -1;
}

static gems_status add(int op, const char *text) {
    if (entry_total == entry_room) {
        return gems_fail(GEMS_RUNTIME_ERROR, "the operator table has more entries than expected");
    }
    gems_entry *entry = &entries[entry_total];
    gems_schema *schema = &entry->schema;
    memset(entry, 0, sizeof *entry);
    GEMS_TRY(gems_schema_parse(text, schema));
    snprintf(entry->qualified, sizeof entry->qualified, "%s%s%s%s",
             schema->own ? GEMS_OWN_PREFIX : "", schema->name, *schema->overload ? "." : "",
             schema->overload);
    entry->own = schema->own;
    entry->gate = schema->own; /* nothing else would run */
    entry->op = (uint16_t)op;
    entry->index = (uint16_t)entry_total;
    entry->nouts = entry->nresults = (uint8_t)schema->nreturns;
    const char *results = gems_op_at(op)->results;
    if (results) {
        entry->nouts = 0;
        for (const char *r = results; *r; r++) entry->nouts += *r >= '0' && *r <= '9';
    }
    entry->inputs = (uint8_t)schema->nargs;
    entry->out_arg = -1;
    for (int i = 0; i < schema->nargs; i++) {
        entry->scalar |= schema->args[i].type == GEMS_T_SCALAR;
        schema->args[i].undefined = gems_op_at(op)->undefined >> i & 1;
        if (schema->args[i].written && entry->out_arg < 0) entry->out_arg = (int8_t)i;
    }
    entry->variant = entry->out_arg < 0                          ? GEMS_FUNCTIONAL
                     : schema->args[entry->out_arg].keyword_only ? GEMS_OUT
                                                                 : GEMS_INPLACE;
    if (entry->variant == GEMS_OUT) entry->inputs = (uint8_t)entry->out_arg;
    __atomic_store_n(&entry_total, entry_total + 1, __ATOMIC_RELEASE);
    return GEMS_OK;
}

bool gems_entry_shorten(gems_entry *entry, int count) {
    gems_schema *schema = &entry->schema;
    if (entry->variant != GEMS_FUNCTIONAL || count < 1) return false;
    for (int i = count; i < schema->nargs; i++)
        if (!schema->args[i].keyword_only || !schema->args[i].has_default ||
            schema->args[i].fallback.kind != GEMS_NONE)
            return false;
    if (count >= schema->nargs) return true;
    entry->lacks = (uint8_t)(entry->lacks + schema->nargs - count);
    schema->nargs = count;
    entry->inputs = (uint8_t)count;
    return true;
}

/* Where the arguments of a schema text end: its last ") ->". */
static const char *arguments_end(const char *text) {
    const char *end = NULL;
    for (const char *p = strstr(text, ") ->"); p; p = strstr(p + 1, ") ->")) end = p;
    return end;
}

/* "add_.Tensor" from "add.Tensor(Tensor self, ...) -> Tensor". */
static gems_status add_inplace(int op, const char *name, const char *text) {
    char derived[512];
    const char *open = strchr(text, '('), *end = arguments_end(text);
    if (!open || !end || strncmp(open, "(Tensor ", 8))
        return gems_fail(GEMS_VALUE_ERROR, "no in-place form: %s", text);
    snprintf(derived, sizeof derived, "%s%s(Tensor(a!) %.*s) -> Tensor(a!)",
             is_own(text) ? GEMS_OWN_PREFIX : "", name, (int)(end - open - 8), open + 8);
    return add(op, derived);
}

/* A factory's text without dtype, layout, device and pin_memory: its out forms have none. */
static const char *without_options(const char *text, char *room, size_t size) {
    const char *first = strstr(text, "ScalarType? dtype=");
    const char *last = strstr(text, "bool? pin_memory=None");
    if (!first || !last) return text;
    last += strlen("bool? pin_memory=None");
    if (!strncmp(last, ", ", 2))
        last += 2;
    else if (!strncmp(first - 5, ", *, ", 5))
        first -= 5;
    else
        first -= 2;
    snprintf(room, size, "%.*s%s", (int)(first - text), text, last);
    return room;
}

/* "add.out" from the functional text; names: of the out arguments, by commas. */
static gems_status add_out(int op, const char *name, const char *names, const char *text) {
    char derived[512], plain[512], outs[160] = "", returns[96] = "";
    text = without_options(text, plain, sizeof plain);
    const char *open = strchr(text, '('), *end = arguments_end(text);
    if (!open || !end) return gems_fail(GEMS_VALUE_ERROR, "no out form: %s", text);
    int count = 0;
    for (const char *p = names ? names : "out"; *p; count++) {
        int length = (int)strcspn(p, ",");
        size_t o = strlen(outs), r = strlen(returns);
        snprintf(outs + o, sizeof outs - o, "%sTensor(%c!) %.*s", count ? ", " : "", 'a' + count,
                 length, p);
        snprintf(returns + r, sizeof returns - r, "%sTensor(%c!)", count ? ", " : "", 'a' + count);
        p += length + (p[length] == ',');
    }
    bool has_keywords = memmem(open, (size_t)(end - open), "*, ", 3) != NULL;
    bool has_arguments = end - open > 1;
    snprintf(derived, sizeof derived, "%s%s%.*s%s%s%s) -> %s%s%s",
             is_own(text) ? GEMS_OWN_PREFIX : "", name, (int)(end - open), open,
             has_arguments ? ", " : "", has_keywords ? "" : "*, ", outs, count > 1 ? "(" : "",
             returns, count > 1 ? ")" : "");
    return add(op, derived);
}

static gems_status add_alias(int op, const char *name) {
    char base[64];
    snprintf(base, sizeof base, "%.*s", (int)strcspn(name, "."), name);
    const char *overload = strchr(name, '.');
    const gems_op *row = gems_op_at(op);
    size_t length = strlen(base);
    if (length > 1 && base[length - 1] == '_' && base[0] != '_')
        return add_inplace(op, name, row->schema);
    if (overload && strstr(overload, "out")) return add_out(op, name, row->out_names, row->schema);
    char derived[512];
    snprintf(derived, sizeof derived, "%s%s%s", gems_op_own(op) ? GEMS_OWN_PREFIX : "", name,
             strchr(row->schema, '('));
    return add(op, derived);
}

static gems_status write_program(const gems_key *key, gems_program *program) {
    const gems_op *op = gems_op_at(key->op);
    program->alone = is_own(op->schema);
    return op->family->program(op, key, program);
}

bool gems_op_composite(int index) { return gems_op_at(index)->family == &gems_family_composite; }

static gems_status expand(int op) {
    const gems_op *row = gems_op_at(op);
    if (gems_op_composite(op)) return GEMS_OK;
    GEMS_TRY(add(op, row->schema));
    if (row->inplace) GEMS_TRY(add_inplace(op, row->inplace, row->schema));
    if (row->out) GEMS_TRY(add_out(op, row->out, row->out_names, row->schema));
    for (const char *p = row->aliases; p && *p;) {
        char name[96];
        int length = (int)strcspn(p, ",");
        snprintf(name, sizeof name, "%.*s", length, p);
        GEMS_TRY(add_alias(op, name));
        p += length + (p[length] == ',');
    }
    return GEMS_OK;
}

gems_status gems_table_open(void) {
    if (entries) return GEMS_OK;
    gems_program_write = write_program;
    entry_room = 8 * WRITTEN + 1 + 2 * GEMS_ADDED_ROWS;
    entries = calloc((size_t)entry_room, sizeof *entries);
    if (!entries) return gems_fail(GEMS_MEMORY_ERROR, "no memory for the operator table");
    for (int op = 0; op < WRITTEN; op++)
        if (!gems_op_own(op)) GEMS_TRY(expand(op));
    aten_entries = entry_total;
    for (int op = 0; op < WRITTEN; op++)
        if (gems_op_own(op)) GEMS_TRY(expand(op));
    return GEMS_OK;
}

/* A copy of a text that stays; *failed when there is no memory. */
static char *keep(const char *text, bool *failed) {
    char *copy = text ? strdup(text) : NULL;
    *failed |= text && !copy;
    return copy;
}

static gems_status add_row(const gems_op *op, int *index) {
    bool failed = false;
    if (added_count == GEMS_ADDED_ROWS)
        return gems_fail(GEMS_RUNTIME_ERROR, "more than %d operators were added", GEMS_ADDED_ROWS);
    gems_op *row = &added[added_count];
    int before = entry_total;
    *row = *op;
    row->schema = keep(op->schema, &failed);
    row->out = keep(op->out, &failed);
    row->out_names = keep(op->out_names, &failed);
    row->expr = keep(op->expr, &failed);
    row->helper = keep(op->helper, &failed);
    row->domain = keep(op->domain, &failed);
    row->doc = keep(op->doc, &failed);
    const char *name = op->schema + strlen(GEMS_OWN_PREFIX);
    char *id = strndup(name, strcspn(name, "(."));
    if (failed || !id) return gems_fail(GEMS_MEMORY_ERROR, "no memory for an operator");
    added_ids[added_count] = id;
    gems_status status = expand(WRITTEN + added_count);
    if (status != GEMS_OK) { /* what was copied is lost: no caller adds rows without end */
        __atomic_store_n(&entry_total, before, __ATOMIC_RELEASE);
        return status;
    }
    *index = WRITTEN + added_count;
    __atomic_store_n(&added_count, added_count + 1, __ATOMIC_RELEASE);
    return GEMS_OK;
}

gems_status gems_table_add(const gems_op *op, int *index) {
    if (!is_own(op->schema))
        return gems_fail(GEMS_VALUE_ERROR, "a row that is added has a schema in flag_gems::");
    pthread_mutex_lock(&adding);
    gems_status status = add_row(op, index);
    pthread_mutex_unlock(&adding);
    return status;
}
