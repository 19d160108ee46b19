/* What a product may be computed with: the enumeration that `flag_gems tune` measures, and the entries that it stored
 * (jit/tuned.h). The tiles are those of matmul_config.c and matmul_wgmma.c; here they are combined with parts of k and with
 * the order in which tiles are walked, which the model chooses by rule. */
#ifndef GEMS_MATMUL_OPTIONS_H
#define GEMS_MATMUL_OPTIONS_H

#include "../jit/tuned.h"
#include "matmul_config.h"

/* Who chooses. A product that the kernel of sm_90a takes is seen by both: an option of the first, GEMS_MATMUL_OTHER, is to
 * leave it to the second, which may exchange its sides. */
typedef enum gems_matmul_route { GEMS_MATMUL_TILES, GEMS_MATMUL_HOPPER, GEMS_MATMUL_ROUTES } gems_matmul_route;
#define GEMS_MATMUL_OTHER "other"

/* Writes what a table calls a product: kernels, device, dtype, layout and the shape's class. Shapes of a class have as
 * many tiles of 64 lines or more as each other. */
void gems_matmul_tuned_key(const gems_matmul_shape *shape, const gems_device_info *info, gems_matmul_route route,
                           char key[GEMS_TUNED_KEY]);

/* The i-th version of configurations that keys name; NULL: no more. */
const char *gems_matmul_version(int i);

/* The model's own choice, without any table. */
void gems_matmul_model(const gems_matmul_shape *shape, const gems_device_info *info, gems_matmul_route route,
                       gems_matmul_config *config);

/* Writes what a table calls a configuration. */
void gems_matmul_option_text(const gems_matmul_config *config, char text[GEMS_TUNED_VALUE]);

/* The i-th text of an option, which is GEMS_MATMUL_OTHER for one; false: no more. The first is the model's. */
bool gems_matmul_option(const gems_matmul_shape *shape, const gems_device_info *info, gems_matmul_route route, int i,
                        char text[GEMS_TUNED_VALUE]);

/* The configuration that a text names; false: it names none that this product may have. One whose kernel is not its route's
 * stands for GEMS_MATMUL_OTHER. */
bool gems_matmul_option_find(const gems_matmul_shape *shape, const gems_device_info *info, gems_matmul_route route,
                             const char *text, gems_matmul_config *config);

/* The configuration of a product: the table's where it has one that the product may have, else the model's. */
void gems_matmul_choose(const gems_matmul_shape *shape, const gems_device_info *info, gems_matmul_route route,
                        gems_matmul_config *config);

/* ---- matmul.c: the calls of one thread, watched by tune ---- */

typedef struct gems_matmul_watch {
    bool asked[GEMS_MATMUL_ROUTES];                       /* a route had to choose; then: */
    gems_matmul_shape shape[GEMS_MATMUL_ROUTES];          /* for the last shape */
    const gems_device_info *info;                         /* and on this device */
    char forced[GEMS_MATMUL_ROUTES][GEMS_TUNED_VALUE];    /* what is to be used where it can; "": the model's; "table": */
                                                          /* what is chosen when nobody watches */
    char chosen[GEMS_MATMUL_ROUTES][GEMS_TUNED_VALUE];    /* what is used */
} gems_matmul_watch;

/* From now on this thread's choices are written down, and are those that `watch` says. NULL: no more. The watch stays its
 * owner's. */
void gems_matmul_watch_calls(gems_matmul_watch *watch);

#endif
