#include "schema.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* A cursor over the text; every reader skips blanks before what it reads. */
typedef struct {
    const char *at;
} cursor;

static void skip(cursor *c) {
    while (*c->at == ' ') c->at++;
}

static bool accept(cursor *c, char wanted) {
    skip(c);
    if (*c->at != wanted) return false;
    c->at++;
    return true;
}

static bool word(cursor *c, char *out, size_t room) {
    size_t n = 0;
    skip(c);
    while (isalnum((unsigned char)*c->at) || *c->at == '_' || *c->at == '.') {
        if (n + 1 >= room) return false;
        out[n++] = *c->at++;
    }
    out[n] = 0;
    return n > 0;
}

static bool base_type(const char *name, gems_arg *arg) {
    static const struct {
        const char *name;
        uint8_t type;
    } types[] = {
        {"Tensor", GEMS_T_TENSOR},    {"Scalar", GEMS_T_SCALAR},
        {"int", GEMS_T_INT},          {"SymInt", GEMS_T_INT},
        {"float", GEMS_T_FLOAT},      {"bool", GEMS_T_BOOL},
        {"ScalarType", GEMS_T_DTYPE}, {"Layout", GEMS_T_LAYOUT},
        {"Device", GEMS_T_DEVICE},    {"MemoryFormat", GEMS_T_MEMORY_FORMAT},
        {"str", GEMS_T_STRING},       {"Generator", GEMS_T_GENERATOR},
    };
    arg->type = GEMS_T_OTHER;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, name)) arg->type = types[i].type;
    return true;
}

/* Tensor(a!)?, int[2]?, Tensor?[] ... */
static bool type(cursor *c, gems_arg *arg) {
    char name[32];
    if (!word(c, name, sizeof name) || !base_type(name, arg)) return false;
    if (*c->at == '(') {
        for (; *c->at && *c->at != ')'; c->at++) arg->written |= *c->at == '!';
        if (!accept(c, ')')) return false;
    } else if (*c->at == '!') {
        c->at++;
        arg->written = true;
    }
    if (*c->at == '?') {
        c->at++;
        arg->optional = true;
    }
    if (*c->at == '[') {
        arg->list_size = (int8_t)strtol(c->at + 1, (char **)&c->at, 10);
        if (!accept(c, ']')) return false;
        arg->list_of_optional = arg->optional;
        arg->optional = false;
        switch (arg->type) {
        case GEMS_T_TENSOR: arg->type = GEMS_T_TENSORS; break;
        case GEMS_T_INT: arg->type = GEMS_T_INTS; break;
        case GEMS_T_FLOAT: arg->type = GEMS_T_FLOATS; break;
        case GEMS_T_BOOL: arg->type = GEMS_T_BOOLS; break;
        default: arg->type = GEMS_T_OTHER;
        }
        if (*c->at == '(') { /* Tensor(a!)[] has it before, Tensor[](a!) after */
            for (; *c->at && *c->at != ')'; c->at++) arg->written |= *c->at == '!';
            if (!accept(c, ')')) return false;
        }
        if (*c->at == '?') {
            c->at++;
            arg->optional = true;
        }
    }
    return true;
}

/* int[] defaults live as long as the table, which is filled before any call. */
static int64_t lists[256][4];
static int lists_used;

/* The default values that schemas hold: None, True, numbers, contiguous_format, 'mean', [], [0, 1],
 * Mean. */
static bool fallback(cursor *c, gems_arg *arg) {
    gems_value *v = &arg->fallback;
    arg->has_default = true;
    skip(c);
    if (*c->at == '\'' || *c->at == '"') {
        char quote = *c->at++;
        const char *end = strchr(c->at, quote);
        if (!end) return false;
        char *copy = strndup(c->at, (size_t)(end - c->at)); /* kept for the life of the table */
        if (!copy) return false;
        *v = (gems_value){.kind = GEMS_STRING, .s = copy};
        c->at = end + 1;
        return true;
    }
    if (*c->at == '[') {
        c->at++;
        if (lists_used == 256) return false;
        *v = (gems_value){.kind = GEMS_INTS, .ints = {lists[lists_used++], 0}};
        while (!accept(c, ']')) {
            if (v->ints.n == 4) return false;
            char item[16];
            skip(c);
            if (isalpha((unsigned char)*c->at)) {
                if (!word(c, item, sizeof item)) return false;
                v->ints.v[v->ints.n++] = !strcmp(item, "True");
            } else {
                v->ints.v[v->ints.n++] = strtoll(c->at, (char **)&c->at, 10);
            }
            accept(c, ',');
        }
        return true;
    }
    if (isalpha((unsigned char)*c->at)) {
        char name[48];
        if (!word(c, name, sizeof name)) return false;
        if (!strcmp(name, "None"))
            *v = (gems_value){.kind = GEMS_NONE};
        else if (!strcmp(name, "True") || !strcmp(name, "False"))
            *v = (gems_value){.kind = GEMS_BOOLEAN, .i = *name == 'T'};
        else if (!strcmp(name, "Mean"))
            *v = (gems_value){.kind = GEMS_INT, .i = 1}; /* at::Reduction */
        else if (!strcmp(name, "contiguous_format"))
            *v = (gems_value){.kind = GEMS_OTHER, .i = 0};
        else if (!strcmp(name, "preserve_format"))
            *v = (gems_value){.kind = GEMS_OTHER, .i = 1};
        else
            return false;
        return true;
    }
    char *end_int, *end_float;
    long long integer = strtoll(c->at, &end_int, 10);
    double real = strtod(c->at, &end_float);
    if (end_float == c->at) return false;
    if (arg->type == GEMS_T_INTS) { /* int[2] stride=1: the number stands for each */
        if (lists_used == 256 || arg->list_size < 1 || arg->list_size > 4) return false;
        *v = (gems_value){.kind = GEMS_INTS, .ints = {lists[lists_used++], arg->list_size}};
        for (int i = 0; i < arg->list_size; i++) v->ints.v[i] = integer;
        c->at = end_int;
        return true;
    }
    bool is_float = end_float > end_int || arg->type == GEMS_T_FLOAT;
    *v = is_float ? (gems_value){.kind = GEMS_FLOAT, .f = real}
                  : (gems_value){.kind = GEMS_INT, .i = integer};
    c->at = end_float;
    return true;
}

gems_status gems_schema_parse(const char *text, gems_schema *schema) {
    memset(schema, 0, sizeof *schema);
    if (strlen(text) >= sizeof schema->text)
        return gems_fail(GEMS_VALUE_ERROR, "schema too long: %s", text);
    strcpy(schema->text, text);
    cursor c = {schema->text};
    schema->own = !strncmp(text, GEMS_OWN_PREFIX, strlen(GEMS_OWN_PREFIX));
    if (schema->own) c.at += strlen(GEMS_OWN_PREFIX);
    char full[sizeof schema->name + sizeof schema->overload];
    if (!word(&c, full, sizeof full)) goto bad;
    char *dot = strchr(full, '.');
    if (dot) *dot = 0;
    if (strlen(full) >= sizeof schema->name || (dot && strlen(dot + 1) >= sizeof schema->overload))
        goto bad;
    strcpy(schema->name, full);
    if (dot) strcpy(schema->overload, dot + 1);
    if (!accept(&c, '(')) goto bad;
    bool keyword_only = false;
    while (!accept(&c, ')')) {
        if (accept(&c, '*')) {
            keyword_only = true;
        } else {
            if (schema->nargs == GEMS_MAX_ARGS) goto bad;
            gems_arg *arg = &schema->args[schema->nargs];
            arg->keyword_only = keyword_only;
            if (!type(&c, arg) || !word(&c, arg->name, sizeof arg->name)) goto bad;
            if (accept(&c, '=') && !fallback(&c, arg)) goto bad;
            schema->nargs++;
            schema->npositional += !keyword_only;
        }
        accept(&c, ',');
    }
    skip(&c);
    if (strncmp(c.at, "->", 2)) goto bad;
    c.at += 2;
    if (accept(&c, '(')) {
        while (!accept(&c, ')')) {
            gems_arg ignored = {0};
            char name[48];
            if (!type(&c, &ignored)) goto bad;
            word(&c, name, sizeof name);
            accept(&c, ',');
            schema->nreturns++;
        }
    } else {
        schema->nreturns = 1;
    }
    return GEMS_OK;
bad:
    return gems_fail(GEMS_VALUE_ERROR, "schema not understood at \"%s\": %s", c.at, text);
}

int gems_schema_arg(const gems_schema *schema, const char *name) {
    for (int i = 0; i < schema->nargs; i++)
        if (!strcmp(schema->args[i].name, name)) return i;
    return -1;
}
