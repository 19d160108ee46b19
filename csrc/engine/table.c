/* operators.def, expanded: rows as they are written, entries derived from them. */
#include <ctype.h>
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

static gems_entry *entries;
static int entry_count, entry_room;

int gems_op_count(void) { return (int)(sizeof rows / sizeof *rows) - 1; }
const gems_op *gems_op_at(int index) { return &rows[index]; }
const char *gems_op_id(int index) { return ids[index]; }
int gems_entry_count(void) { return entry_count; }
gems_entry *gems_entry_at(int index) { return &entries[index]; }

int gems_entry_find(const char *qualified) {
    for (int i = 0; i < entry_count; i++)
        if (!strcmp(entries[i].qualified, qualified)) return i;
    return -1;
}

static gems_status add(int op, const char *text) {
    if (entry_count == entry_room) {
        return gems_fail(GEMS_RUNTIME_ERROR, "the operator table has more entries than expected");
    }
    gems_entry *entry = &entries[entry_count];
    gems_schema *schema = &entry->schema;
    GEMS_TRY(gems_schema_parse(text, schema));
    snprintf(entry->qualified, sizeof entry->qualified, "%s%s%s", schema->name,
             *schema->overload ? "." : "", schema->overload);
    entry->op = (uint16_t)op;
    entry->index = (uint16_t)entry_count;
    entry->nouts = (uint8_t)schema->nreturns;
    entry->inputs = (uint8_t)schema->nargs;
    entry->out_arg = -1;
    for (int i = 0; i < schema->nargs; i++) {
        entry->scalar |= schema->args[i].type == GEMS_T_SCALAR;
        if (schema->args[i].written && entry->out_arg < 0) entry->out_arg = (int8_t)i;
    }
    entry->variant = entry->out_arg < 0    ? GEMS_FUNCTIONAL
                     : entry->out_arg == 0 ? GEMS_INPLACE
                                           : GEMS_OUT;
    if (entry->variant == GEMS_OUT) entry->inputs = (uint8_t)entry->out_arg;
    entry_count++;
    return GEMS_OK;
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
    snprintf(derived, sizeof derived, "%s(Tensor(a!) %.*s) -> Tensor(a!)", name,
             (int)(end - open - 8), open + 8);
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
    snprintf(derived, sizeof derived, "%s%.*s%s%s%s) -> %s%s%s", name, (int)(end - open), open,
             has_arguments ? ", " : "", has_keywords ? "" : "*, ", outs, count > 1 ? "(" : "",
             returns, count > 1 ? ")" : "");
    return add(op, derived);
}

static gems_status add_alias(int op, const char *name) {
    char base[64];
    snprintf(base, sizeof base, "%.*s", (int)strcspn(name, "."), name);
    const char *overload = strchr(name, '.');
    const gems_op *row = &rows[op];
    size_t length = strlen(base);
    if (length > 1 && base[length - 1] == '_' && base[0] != '_')
        return add_inplace(op, name, row->schema);
    if (overload && strstr(overload, "out")) return add_out(op, name, row->out_names, row->schema);
    char derived[512];
    snprintf(derived, sizeof derived, "%s%s", name, strchr(row->schema, '('));
    return add(op, derived);
}

static gems_status write_program(const gems_key *key, gems_program *program) {
    const gems_op *op = &rows[key->op];
    return op->family->program(op, key, program);
}

gems_status gems_table_open(void) {
    if (entries) return GEMS_OK;
    gems_program_write = write_program;
    entry_room = 8 * gems_op_count() + 1;
    entries = calloc((size_t)entry_room, sizeof *entries);
    if (!entries) return gems_fail(GEMS_MEMORY_ERROR, "no memory for the operator table");
    for (int op = 0; op < gems_op_count(); op++) {
        const gems_op *row = &rows[op];
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
    }
    return GEMS_OK;
}
