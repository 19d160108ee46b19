/* A row's expression taken apart (rules: elementwise.h), once per row. */
#include "elementwise.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_one_of(const char *name, const char *const *names) {
    for (; *names; names++)
        if (!strcmp(name, *names)) return true;
    return false;
}

static const char *const number_inputs[] = {"self", "other", "test_element", "exponent", "min",
                                            "max",  NULL};
static const char *const operands[] = {"self", "other", NULL};
static const char *const masks[] = {"mask", "condition", NULL};

static gems_status take_arguments(gems_ew_row *row, const gems_schema *schema) {
    for (int i = 0; i < schema->nargs; i++) {
        const gems_arg *arg = &schema->args[i];
        bool tensor = arg->type == GEMS_T_TENSOR;
        bool halved = tensor && row->op->mode & GEMS_EW_HALVES && !strcmp(arg->name, "self");
        if (tensor && !strcmp(arg->name, "buffer")) continue;
        if (tensor || (arg->type == GEMS_T_SCALAR && is_one_of(arg->name, number_inputs))) {
            if (row->inputs + halved >= GEMS_EW_INPUTS)
                return gems_fail(GEMS_VALUE_ERROR, "%s: too many inputs", schema->text);
            gems_ew_input *input = &row->input[row->inputs++];
            input->arg = (uint8_t)i;
            input->tensor = tensor;
            if (!strcmp(arg->name, "self")) row->self = row->inputs - 1;
            input->optional = arg->optional;
            input->operand = tensor || is_one_of(arg->name, operands);
            input->role = !tensor ? GEMS_EW_VALUE
                          : is_one_of(arg->name, masks) || row->op->masks >> (row->inputs - 1) & 1
                              ? GEMS_EW_MASK
                          : !strcmp(arg->name, "value") ? GEMS_EW_SINGLE
                                                        : GEMS_EW_VALUE;
            input->column = tensor && !strcmp(arg->name, "vec1");
            if (halved) {
                input->half = 1;
                row->input[row->inputs] = *input;
                row->input[row->inputs++].half = 2;
            }
        } else if (arg->type == GEMS_T_SCALAR || arg->type == GEMS_T_FLOAT ||
                   arg->type == GEMS_T_INT || arg->type == GEMS_T_BOOL) {
            if (row->parameters == GEMS_EW_PARAMETERS)
                return gems_fail(GEMS_VALUE_ERROR, "%s: too many parameters", schema->text);
            gems_ew_parameter *parameter = &row->parameter[row->parameters++];
            parameter->arg = (uint8_t)i;
            parameter->type = arg->type;
            parameter->optional = arg->optional;
            memcpy(parameter->name, arg->name, sizeof parameter->name);
        } else if (arg->type != GEMS_T_STRING) {
            return gems_fail(GEMS_VALUE_ERROR, "%s: argument %s is not for elementwise work",
                             schema->text, arg->name);
        }
    }
    if (row->op->expr && strstr(row->op->expr, "numel")) {
        if (row->parameters == GEMS_EW_PARAMETERS)
            return gems_fail(GEMS_VALUE_ERROR, "%s: too many parameters", schema->text);
        row->parameter[row->parameters++] =
            (gems_ew_parameter){row->input[row->self].arg, GEMS_T_SCALAR, false, true, "numel"};
    }
    row->dim = row->op->mode & GEMS_EW_HALVES ? gems_schema_arg(schema, "dim") : -1;
    row->joined = row->dim >= 0 && row->inputs == 3;
    row->buffer =
        schema->nreturns == 2 && row->op->out_names && !strcmp(row->op->out_names, "output,buffer");
    row->outputs = row->joined ? 2 : schema->nreturns;
    if (row->outputs < 1 || row->outputs > GEMS_EW_OUTPUTS)
        return gems_fail(GEMS_VALUE_ERROR, "%s: number of outputs", schema->text);
    return GEMS_OK;
}

static const char *skip_spaces(const char *p) {
    while (isspace((unsigned char)*p)) p++;
    return p;
}

/* "label: expression; label: expression; ..." */
static gems_status take_choices(gems_ew_row *row, const char *p) {
    while (*(p = skip_spaces(p))) {
        const char *colon = strchr(p, ':');
        if (!colon || row->choices == GEMS_EW_CHOICES)
            return gems_fail(GEMS_VALUE_ERROR, "bad choices: %s", p);
        gems_ew_choice *choice = &row->choice[row->choices++];
        choice->label = p;
        choice->label_size = (int)(colon - p);
        choice->expr = skip_spaces(colon + 1);
        choice->expr_size = (int)strcspn(choice->expr, ";");
        char *end;
        choice->number = strtod(p, &end);
        if (end != colon) choice->number = NAN;
        p = choice->expr + choice->expr_size;
        p += *p == ';';
    }
    return row->choices ? GEMS_OK : gems_fail(GEMS_VALUE_ERROR, "no choices");
}

static bool calls(const gems_ew_choice *choice, const char *function) {
    return memmem(choice->expr, (size_t)choice->expr_size, function, strlen(function)) != NULL;
}

/* What ATen refuses of integers. An operator of our own has no such rule: x / 0 is 0. */
static void note_calls(gems_ew_row *row, bool own) {
    if (own) return;
    bool powers = false; /* of the row: "2: a * a" is a power too */
    for (int i = 0; i < row->choices; i++) {
        gems_ew_choice *choice = &row->choice[i];
        choice->divides = calls(choice, "div_floor") || calls(choice, "div_trunc") ||
                          calls(choice, "mod_floor") || calls(choice, "mod_trunc");
        powers |= calls(choice, "pow(") || calls(choice, "power(");
    }
    for (int i = 0; i < row->choices; i++) row->choice[i].powers = powers;
}

/* Whether tensors of one dtype need no more than a look each. */
static bool is_plain(const gems_ew_row *row) {
    bool plain = row->inputs > 0 && row->op->promotion != GEMS_KEEP;
    for (int i = 0; i < row->choices; i++) plain = plain && !row->choice[i].divides;
    for (int i = 0; i < row->inputs; i++)
        plain = plain && row->input[i].tensor && !row->input[i].optional && !row->input[i].half &&
                !row->input[i].column && row->input[i].role == GEMS_EW_VALUE;
    return plain;
}

static gems_status take_expression(gems_ew_row *row, const gems_schema *schema) {
    const char *expr = row->op->expr;
    row->selector = -1;
    if (!expr) return gems_fail(GEMS_VALUE_ERROR, "%s: no expression", schema->text);
    if (strncmp(expr, "switch (", 8)) {
        row->choices = 1;
        row->choice[0] = (gems_ew_choice){"", expr, 0, (int)strlen(expr), NAN, false, false};
        return GEMS_OK;
    }
    char name[32];
    int length = (int)strcspn(expr + 8, ")");
    if (length >= (int)sizeof name || !expr[8 + length])
        return gems_fail(GEMS_VALUE_ERROR, "bad switch: %s", expr);
    memcpy(name, expr + 8, (size_t)length);
    name[length] = 0;
    row->selector = gems_schema_arg(schema, name);
    if (row->selector < 0)
        return gems_fail(GEMS_VALUE_ERROR, "%s: no argument %s", schema->text, name);
    return take_choices(row, expr + 8 + length + 1);
}

static gems_ew_row *make_row(int op) {
    gems_ew_row *row = calloc(1, sizeof *row);
    gems_schema *schema = calloc(1, sizeof *schema);
    gems_status status =
        row && schema ? GEMS_OK : gems_fail(GEMS_MEMORY_ERROR, "no memory for a row");
    if (status == GEMS_OK) {
        row->op = gems_op_at(op);
        status = gems_schema_parse(row->op->schema, schema);
    }
    if (status == GEMS_OK) status = take_arguments(row, schema);
    if (status == GEMS_OK) status = take_expression(row, schema);
    free(schema);
    if (status == GEMS_OK) {
        note_calls(row, gems_op_own(op));
        row->plain = is_plain(row);
        return row;
    }
    free(row);
    return NULL;
}

const gems_ew_row *gems_ew_row_of(int op) {
    static gems_ew_row **rows; /* one place a row of the table */
    gems_ew_row **all = __atomic_load_n(&rows, __ATOMIC_ACQUIRE);
    if (!all) {
        gems_ew_row **fresh = calloc((size_t)gems_op_room(), sizeof *fresh);
        if (!fresh) {
            gems_fail(GEMS_MEMORY_ERROR, "no memory for the rows");
            return NULL;
        }
        if (__atomic_compare_exchange_n(&rows, &all, fresh, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE))
            all = fresh;
        else
            free(fresh); /* another thread was first: all is its array now */
    }
    gems_ew_row *row = __atomic_load_n(&all[op], __ATOMIC_ACQUIRE);
    if (row) return row;
    gems_ew_row *made = make_row(op), *expected = NULL;
    if (!made || __atomic_compare_exchange_n(&all[op], &expected, made, false, __ATOMIC_ACQ_REL,
                                             __ATOMIC_ACQUIRE))
        return made;
    free(made);
    return expected;
}
