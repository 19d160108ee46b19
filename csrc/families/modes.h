/* What the field `mode` of a row means, by family: the names that operators.def uses. */
#ifndef GEMS_MODES_H
#define GEMS_MODES_H

/* elementwise: how a new output is laid out. */
typedef enum gems_ew_layout {
    GEMS_EW_BY_INPUTS,     /* as TensorIterator decides from the inputs in their order */
    GEMS_EW_BY_LAST_FIRST, /* the last input decides before the others: ATen swaps them */
    GEMS_EW_CONTIGUOUS
} gems_ew_layout;

#endif
