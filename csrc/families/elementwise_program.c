/* The program of a key: the row's expression and its types, as the lines that
 * kernels/elementwise.cu is written over. */
#include "elementwise.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const char *const class_names[GEMS_EW_CLASSES] = {"dense", "rows", "strided", "tiled"};

static bool is_word(char c) { return isalnum((unsigned char)c) || c == '_'; }

static bool is_parameter(const gems_ew_row *row, const char *word, int size) {
    for (int i = 0; i < row->parameters; i++)
        if ((int)strlen(row->parameter[i].name) == size &&
            !memcmp(row->parameter[i].name, word, (size_t)size))
            return true;
    return false;
}

/* The expression's text, its literals with a point or an exponent in the type that is computed in:
 * "compute_t(0.5)"; parameters by the names that they have in the kernel, "s_alpha", where no other
 * name begins so. */
static void add_expression(gems_text *text, const gems_ew_row *row, const char *expr, int size) {
    for (int i = 0; i < size;) {
        int start = i;
        bool digit = isdigit((unsigned char)expr[i]) ||
                     (expr[i] == '.' && i + 1 < size && isdigit((unsigned char)expr[i + 1]));
        if (!digit) {
            if (is_word(expr[i]))
                while (i < size && is_word(expr[i])) i++;
            else
                i++;
            gems_text_add(text, "%s%.*s", is_parameter(row, expr + start, i - start) ? "s_" : "",
                          i - start, expr + start);
            continue;
        }
        bool hex = expr[i] == '0' && i + 1 < size && (expr[i + 1] | 32) == 'x', real = false;
        while (i < size &&
               (is_word(expr[i]) || expr[i] == '.' ||
                ((expr[i] == '-' || expr[i] == '+') && !hex && (expr[i - 1] | 32) == 'e'))) {
            real |= expr[i] == '.' || (!hex && (expr[i] | 32) == 'e');
            i++;
        }
        gems_text_add(text, real ? "compute_t(%.*s)" : "%.*s", i - start, expr + start);
    }
}

/* Size of the part of an expression before its first comma outside parentheses. */
static int one_output(const char *expr, int size) {
    int depth = 0;
    for (int i = 0; i < size; i++) {
        depth += expr[i] == '(' || expr[i] == '[' || expr[i] == '{';
        depth -= expr[i] == ')' || expr[i] == ']' || expr[i] == '}';
        if (expr[i] == ',' && !depth) return i;
    }
    return size;
}

static void add_inputs(gems_text *text, const gems_ew_row *row, const gems_key *key) {
    gems_text_add(text, "#define EW_INPUTS(X)");
    for (int i = 0; i < row->inputs; i++) {
        if ((key->tune[GEMS_EW_NUMBERS] | key->tune[GEMS_EW_ABSENT]) >> i & 1) continue;
        bool mask = row->input[i].role == GEMS_EW_MASK;
        gems_text_add(text, " X(%d, %c, %s, %s, %s, %d)", i, 'a' + i,
                      gems_dtype_kernel(key->dtype[i]), mask ? "bool" : "common_t",
                      mask ? "bool" : "compute_t", key->tune[GEMS_EW_BROADCAST] >> i & 1);
    }
    gems_text_add(text, "\n#define EW_OUTPUTS(X)");
    for (int i = 0; i < row->outputs; i++)
        if (key->dtype[GEMS_EW_INPUTS + i] != GEMS_NO_DTYPE)
            gems_text_add(text, " X(%d, %s, EW_EXPRESSION_%d)", i,
                          gems_dtype_kernel(key->dtype[GEMS_EW_INPUTS + i]), i);
    gems_text_add(text, "\n");
}

static void add_numbers(gems_text *text, const gems_ew_row *row, const gems_key *key) {
    gems_text_add(text, "#define EW_NUMBERS(X)");
    for (int i = 0; i < row->inputs; i++)
        if (key->tune[GEMS_EW_NUMBERS] >> i & 1)
            gems_text_add(text, " X(%s, %c)",
                          row->input[i].role == GEMS_EW_MASK ? "bool" : "compute_t", 'a' + i);
    for (int i = 0; i < row->parameters; i++) {
        const gems_ew_parameter *parameter = &row->parameter[i];
        const char *type = parameter->type == GEMS_T_INT    ? "int64_t"
                           : parameter->type == GEMS_T_BOOL ? "bool"
                                                            : "compute_t";
        gems_text_add(text, " X(%s, s_%s)", type, parameter->name);
    }
    gems_text_add(text, "\n#define EW_GIVEN");
    for (int i = 0; i < row->inputs; i++) {
        bool absent = key->tune[GEMS_EW_ABSENT] >> i & 1;
        if (row->input[i].optional)
            gems_text_add(text, " constexpr bool has_%c = %d;", 'a' + i, !absent);
        if (absent) gems_text_add(text, " constexpr compute_t %c{};", 'a' + i);
    }
    for (int i = 0; i < row->parameters; i++)
        if (row->parameter[i].optional)
            gems_text_add(text, " constexpr bool has_%s = %d;", row->parameter[i].name,
                          !(key->tune[GEMS_EW_ABSENT_PARAMETERS] >> i & 1));
    gems_text_add(text, "\n");
}

static int name_types(char *name, size_t size, const gems_ew_row *row, const gems_key *key) {
    int used = 0;
    for (int i = 0; i < row->inputs; i++) {
        if (key->tune[GEMS_EW_ABSENT] >> i & 1) continue;
        bool number = key->tune[GEMS_EW_NUMBERS] >> i & 1;
        used += snprintf(name + used, size - (size_t)used, "%s%s", used ? "," : "",
                         number ? "number" : gems_dtype_name(key->dtype[i]));
        if (used >= (int)size) return (int)size - 1;
    }
    return used;
}

static bool names(const gems_ew_choice *choice, const char *name) {
    return memmem(choice->expr, (size_t)choice->expr_size, name, strlen(name)) != NULL;
}

gems_status gems_ew_program(const gems_op *op, const gems_key *key, gems_program *program) {
    const gems_ew_row *row = gems_ew_row_of(key->op);
    if (!row) return GEMS_ERROR;
    const gems_ew_choice *choice = &row->choice[key->flags >> GEMS_EW_CHOICE_SHIFT & 7];
    gems_text *text = &program->head;
    int tensors = 0;
    for (int i = 0; i < row->outputs; i++)
        tensors += key->dtype[GEMS_EW_INPUTS + i] != GEMS_NO_DTYPE;
    for (int i = 0; i < row->inputs; i++)
        tensors += !((key->tune[GEMS_EW_NUMBERS] | key->tune[GEMS_EW_ABSENT]) >> i & 1);
    int unroll = key->tune[GEMS_EW_UNROLL];
    gems_text_add(
        text,
        "typedef %s compute_t;\ntypedef %s common_t;\ntypedef %s result_t;\ntypedef %s Index;\n",
        gems_dtype_kernel(key->tune[GEMS_EW_COMPUTE]), gems_dtype_kernel(key->tune[GEMS_EW_COMMON]),
        gems_dtype_kernel(key->tune[GEMS_EW_RESULT]),
        key->flags & GEMS_EW_WIDE ? "int64_t" : "int32_t");
    gems_text_add(
        text,
        "constexpr int kVector = %d, kRank = %d, kTensors = %d, kUnroll = %d, kThreads = %d;\n",
        key->tune[GEMS_EW_VECTOR], key->tune[GEMS_EW_DIMS], tensors, unroll, GEMS_EW_THREADS);
    int vector = key->tune[GEMS_EW_VECTOR] ? key->tune[GEMS_EW_VECTOR] : 1;
    program->elements =
        key->kernel == GEMS_EW_TILED ? vector * vector / GEMS_EW_THREADS : vector * unroll;
    bool complex = gems_dtype_is_complex(key->tune[GEMS_EW_COMPUTE]);
    gems_text_add(text, "#define EW_CLASS %d\n#define EW_NAMES_NEAR %d\n", key->kernel,
                  !complex && names(choice, "kNear"));
    add_inputs(text, row, key);
    add_numbers(text, row, key);
    const char *expr = choice->expr;
    int left = choice->expr_size;
    for (int i = 0; i < row->outputs; i++) {
        int size = row->outputs > 1 ? one_output(expr, left) : left;
        gems_text_add(text, "#define EW_EXPRESSION_%d ", i);
        add_expression(text, row, expr, size);
        gems_text_add(text, "\n");
        expr += size + (size < left);
        left -= size + (size < left);
    }
    const char *point = op->helper ? strrchr(op->helper, '.') : NULL;
    bool file = point && !strcmp(point, ".cuh");
    if (op->helper && !file) gems_text_add(text, "namespace gems {\n%s\n}\n", op->helper);
    int files = 0;
    program->files[files++] = "near.cuh";
    if (file) program->files[files++] = op->helper;
    if (names(choice, "power")) program->files[files++] = "power.cuh";
    if (!complex &&
        (names(choice, "gelu_erf") || names(choice, "normal_cdf") || names(choice, "erfc_for"))) {
        program->files[files++] = "pair.cuh";
        program->files[files++] = "normal.cuh";
    }
    program->files[files++] = "elementwise.cu";
    program->files[files] = NULL;
    program->entries[0] = "elementwise";
    program->entry_count = 1;
    const char *end = strchr(op->schema, '(');
    int used =
        snprintf(program->name, sizeof program->name, "%.*s %s ", end ? (int)(end - op->schema) : 0,
                 op->schema, class_names[key->kernel < GEMS_EW_CLASSES ? key->kernel : 0]);
    if (used > 0 && used < (int)sizeof program->name)
        name_types(program->name + used, sizeof program->name - (size_t)used, row, key);
    if (complex) { /* before the others */
        memmove(program->files + 1, program->files, sizeof program->files - sizeof *program->files);
        program->files[0] = "complex.cuh";
    }
    return text->failed ? gems_fail(GEMS_MEMORY_ERROR, "no memory for a program's text") : GEMS_OK;
}
