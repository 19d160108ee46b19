/* Fibers: stacks that a thread of the host switches between by hand. */
#ifndef GEMS_CPU_FIBER_H
#define GEMS_CPU_FIBER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct gems_fiber {
    void *sp;       /* where it stopped; set by gems_fiber_switch */
    char *stack;    /* lowest usable byte, above a guard page */
    size_t size;
} gems_fiber;

/* Makes a stack whose overflow faults. False: no memory. The stack is kept for the life of the process. */
bool gems_fiber_make(gems_fiber *fiber, unsigned index);
/* Lets the fiber begin with entry(), which must not return, at its next switch. What ran on it before is forgotten. */
void gems_fiber_begin(gems_fiber *fiber, unsigned index, void (*entry)(void));
/* Stops the running fiber in *from and goes on in *to. */
void gems_fiber_switch(gems_fiber *from, gems_fiber *to);

#endif
