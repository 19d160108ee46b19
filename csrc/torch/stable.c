/* Values of torch's stable stack: 64-bit words, each owned by who reads it. */
#include "stable.h"

#include <string.h>

static void *pointer(uint64_t word) { return (void *)(uintptr_t)word; }

static void free_optional(void *cell) {
    if (gems_torch.delete_optional)
        gems_torch.delete_optional(cell);
    else if (gems_torch.operator_delete)
        gems_torch.operator_delete(cell);
}

/* A list of tensors, or of optional ones. */
static void release_tensors(void *list, bool optional) {
    size_t count = 0;
    gems_torch.list_size(list, &count);
    for (size_t i = 0; i < count; i++) {
        uint64_t word = 0;
        if (gems_torch.list_get(list, i, &word) || !word) continue;
        if (optional) {
            gems_torch.delete_handle(pointer(*(uint64_t *)pointer(word)));
            free_optional(pointer(word));
        } else {
            gems_torch.delete_handle(pointer(word));
        }
    }
    gems_torch.list_delete(list);
}

static void release_plain(const gems_arg *arg, uint64_t word) {
    switch (arg->type) {
    case GEMS_T_TENSOR: gems_torch.delete_handle(pointer(word)); break;
    case GEMS_T_TENSORS: release_tensors(pointer(word), arg->list_of_optional); break;
    case GEMS_T_INTS:
    case GEMS_T_FLOATS:
    case GEMS_T_BOOLS: gems_torch.list_delete(pointer(word)); break;
    case GEMS_T_STRING: gems_torch.string_delete(pointer(word)); break;
    default: break;
    }
}

void gems_shim_release(const gems_arg *arg, uint64_t word) {
    if (!arg->optional) {
        release_plain(arg, word);
    } else if (word) {
        release_plain(arg, *(uint64_t *)pointer(word));
        free_optional(pointer(word));
    }
}

/* ---- reading ---- */

static gems_status read_tensor(uint64_t word, bool optional, bool written, gems_value *value) {
    void *handle = pointer(word);
    if (gems_layout.keys >= 0) {
        uint64_t keys = gems_impl_keys(gems_handle_impl(handle));
        if (!gems_keys_plain(keys)) {
            /* an undefined tensor, as autograd passes it for None, has the keys of no backend: they
             * are the low bits */
            if (!optional || keys & 0x7fff)
                return gems_decline("a tensor is not dense, or is conjugated, negated or wrapped");
            value->kind = GEMS_NONE;
            return GEMS_OK;
        }
    }
    value->kind = GEMS_TENSOR;
    if (!gems_handle_read(handle, &value->t)) return gems_decline("a tensor cannot be read");
    if (written && !gems_handle_write(handle, &value->t))
        return gems_decline("a tensor cannot be written");
    return GEMS_OK;
}

static gems_status read_ints(void *list, gems_shim_store *store, gems_value *value) {
    size_t count;
    if (gems_torch.list_size(list, &count)) return gems_decline("a list cannot be read");
    if (count > (size_t)(GEMS_SHIM_INTS - store->used)) return gems_decline("a list is too long");
    value->kind = GEMS_INTS;
    value->ints.v = store->ints + store->used;
    value->ints.n = (int32_t)count;
    for (size_t i = 0; i < count; i++)
        if (gems_torch.list_get(list, i, (uint64_t *)&value->ints.v[i]))
            return gems_decline("a list cannot be read");
    store->used += (int)count;
    return GEMS_OK;
}

static gems_status read_tensors(void *list, bool optional, gems_shim_store *store,
                                gems_value *value) {
    size_t count;
    if (gems_torch.list_size(list, &count)) return gems_decline("a list cannot be read");
    if (store->tensors) return gems_decline("two lists of tensors");
    gems_tensor *tensors = gems_shim_tensors(store, count);
    if (!tensors) return gems_decline("a list is too long");
    value->kind = GEMS_TENSORS;
    value->tensors.v = tensors;
    value->tensors.n = (int32_t)count;
    for (size_t i = 0; i < count; i++) {
        uint64_t word = 0;
        gems_value element;
        tensors[i] = (gems_tensor){0};
        if (gems_torch.list_get(list, i, &word)) return gems_decline("a list cannot be read");
        if (optional) {
            if (!word) continue;
            word = *(uint64_t *)pointer(word);
        }
        GEMS_TRY(read_tensor(word, optional, false, &element));
        if (element.kind == GEMS_TENSOR) tensors[i] = element.t;
    }
    return GEMS_OK;
}

static gems_status read_plain(const gems_arg *arg, uint64_t word, gems_shim_store *store,
                              gems_value *value) {
    switch (arg->type) {
    case GEMS_T_TENSOR:
        return read_tensor(word, arg->optional || arg->undefined, arg->written, value);
    case GEMS_T_INTS: return read_ints(pointer(word), store, value);
    case GEMS_T_TENSORS: return read_tensors(pointer(word), arg->list_of_optional, store, value);
    case GEMS_T_INT:
        value->kind = GEMS_INT;
        value->i = (int64_t)word;
        return GEMS_OK;
    case GEMS_T_FLOAT:
        value->kind = GEMS_FLOAT;
        memcpy(&value->f, &word, sizeof value->f);
        return GEMS_OK;
    case GEMS_T_BOOL:
        value->kind = GEMS_BOOLEAN;
        value->i = word & 1;
        return GEMS_OK;
    case GEMS_T_BOOLS:
        GEMS_TRY(read_ints(pointer(word), store, value));
        for (int i = 0; i < value->ints.n; i++) value->ints.v[i] &= 1;
        return GEMS_OK;
    case GEMS_T_DTYPE:
        value->kind = GEMS_DTYPE_ARG;
        value->i = (int32_t)word;
        return GEMS_OK;
    case GEMS_T_LAYOUT:
    case GEMS_T_MEMORY_FORMAT:
        value->kind = GEMS_OTHER;
        value->i = (int32_t)word;
        return GEMS_OK;
    case GEMS_T_DEVICE:
        value->kind = GEMS_OTHER;
        value->i = (int64_t)word;
        return GEMS_OK;
    case GEMS_T_STRING:
        value->kind = GEMS_STRING;
        if (gems_torch.string_text(pointer(word), &value->s))
            return gems_decline("a string cannot be read");
        return GEMS_OK;
    default: return gems_decline("an argument of this kind");
    }
}

gems_status gems_shim_read(const gems_arg *arg, uint64_t word, gems_shim_store *store,
                           gems_value *value) {
    if (arg->optional) {
        if (!word) {
            value->kind = GEMS_NONE;
            return GEMS_OK;
        }
        word = *(uint64_t *)pointer(word);
    }
    return read_plain(arg, word, store, value);
}

/* ---- which schemas the shim carries ---- */

static bool carries(const gems_arg *arg, bool lists, bool symbolic) {
    switch (arg->type) {
    case GEMS_T_TENSOR:
    case GEMS_T_FLOAT:
    case GEMS_T_BOOL:
    case GEMS_T_DTYPE: return true;
    case GEMS_T_INT: return lists || !symbolic;
    /* torch moves the tensors out of a list of optional ones, which its caller may share: autograd
     * gives the indices of index_put to two operators */
    case GEMS_T_TENSORS: return lists && !arg->list_of_optional;
    case GEMS_T_INTS:
    case GEMS_T_BOOLS:
    case GEMS_T_LAYOUT:
    case GEMS_T_MEMORY_FORMAT:
    case GEMS_T_DEVICE: return lists;
    case GEMS_T_STRING: return gems_torch.string_text && gems_torch.string_delete;
    default: return false; /* Scalar: the shim has none; Generator: read as a Python object */
    }
}

bool gems_shim_carries(const gems_entry *entry) {
    bool lists = gems_torch.list_size && gems_torch.list_get && gems_torch.list_delete;
    bool symbolic = strstr(entry->schema.text, "SymInt") != NULL;
    if (!gems_torch.delete_optional && !gems_torch.operator_delete) return false;
    if (entry->index >= GEMS_SHIM_ENTRIES) return false;
    for (int i = 0; i < entry->schema.nargs; i++)
        if (!carries(&entry->schema.args[i], lists, symbolic)) return false;
    return true;
}
