/* Which configurations a product may have, under which names a table keeps them, and the choice
 * between the table and the model. */
#include "matmul_options.h"
#include "../base/dtype.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* A configuration without its sizes. In the fast mode: rows, depth. */
typedef struct option {
    int kernel, thin, tile_m, tile_n, tile_k, stages, cluster, split, group;
} option;

static const char *const names[] = {"mma", "fma", "panel", "thin", "wgmma", "wide", "bytes"};
static const int splits[] = {1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32};
static const int groups[] = {8, 4, 16, 2};
static const int depths[] = {256, 128, 512};
#define COUNT(list) ((int)(sizeof(list) / sizeof *(list)))

static bool is_fast(int kernel) {
    return kernel == GEMS_MATMUL_PANEL || kernel == GEMS_MATMUL_THIN || kernel == GEMS_MATMUL_BYTES;
}

static option option_of(const gems_matmul_config *c) {
    if (is_fast(c->kernel))
        return (option){.kernel = c->kernel,
                        .tile_m = c->parts.tiles_m,
                        .tile_k = c->kernel == GEMS_MATMUL_THIN ? 0 : c->parts.panel_k};
    return (option){.kernel = c->kernel,
                    .thin = c->thin,
                    .tile_m = c->parts.tile_m,
                    .tile_n = c->parts.tile_n,
                    .tile_k = c->tile_k,
                    .stages = c->stages,
                    .cluster = c->cluster,
                    .split = c->parts.split,
                    .group = c->parts.group};
}

static void write_option(const option *o, char text[GEMS_TUNED_VALUE]) {
    const char *name = names[o->kernel];
    if (is_fast(o->kernel))
        snprintf(text, GEMS_TUNED_VALUE, "%s rows %d depth %d", name, o->tile_m, o->tile_k);
    else
        snprintf(text, GEMS_TUNED_VALUE, "%s%s %dx%dx%d stages %d cluster %d split %d group %d",
                 name, o->thin ? "_thin" : "", o->tile_m, o->tile_n, o->tile_k, o->stages,
                 o->cluster, o->split, o->group);
}

/* Reads what write_option wrote, and nothing else. */
static bool read_option(const char *text, option *o) {
    char again[GEMS_TUNED_VALUE];
    for (int kernel = 0; kernel < COUNT(names); kernel++) {
        const size_t size = strlen(names[kernel]);
        if (strncmp(text, names[kernel], size)) continue;
        const char *rest = text + size;
        *o = (option){.kernel = kernel, .thin = !strncmp(rest, "_thin ", 6)};
        if (o->thin) rest += 5;
        const int got =
            is_fast(kernel)
                ? 5 + sscanf(rest, " rows %7d depth %7d", &o->tile_m, &o->tile_k)
                : sscanf(rest, " %7dx%7dx%7d stages %7d cluster %7d split %7d group %7d",
                         &o->tile_m, &o->tile_n, &o->tile_k, &o->stages, &o->cluster, &o->split,
                         &o->group);
        write_option(o, again);
        if (got == 7 && !strcmp(text, again)) return true;
    }
    return false;
}

/* ---- from options to configurations ---- */

/* The i-th tile of a route; *allowed: the product may have it. false: no more. */
static bool tile_at(const gems_matmul_shape *s, const gems_device_info *info,
                    gems_matmul_route route, int i, gems_matmul_config *c, bool *allowed) {
    if (route == GEMS_MATMUL_HOPPER) {
        if (!gems_matmul_wgmma_candidate(info, s->dtype, i, c)) return false;
        *allowed = gems_matmul_wgmma_allows(s, info, c);
    } else {
        if (!gems_matmul_candidate(s->dtype, info->arch, i, c)) return false;
        *allowed = (s->dtype != GEMS_F32 || (c->kernel == GEMS_MATMUL_WIDE) == s->tf32) &&
                   gems_matmul_gathers(s->dtype, c->kernel, c->parts.tile_m, c->parts.tile_n,
                                       s->feed_a, s->feed_b);
    }
    c->promotes = s->promotes;
    *allowed = *allowed && (int64_t)c->shared <= info->shared_bytes;
    return true;
}

/* Divides k and sets the order; false: the product has no such parts. */
static bool divide(const gems_matmul_shape *s, const gems_device_info *info,
                   gems_matmul_route route, int split, int group, gems_matmul_config *c) {
    if (split < 1 || group < 1) return false;
    /* Blocks of a cluster have their parts of k by themselves. */
    if (split > 1 && c->thin && c->cluster > 1) return false;
    if (split > 1 && (split > splits[COUNT(splits) - 1] || s->k / split < 256 ||
                      s->batch * s->m * s->n > INT32_MAX / 2))
        return false;
    if (route == GEMS_MATMUL_HOPPER)
        gems_matmul_wgmma_divide(s, info, split, c);
    else
        gems_matmul_divide(s, split, c);
    c->parts.group = group;
    return c->grid <= INT32_MAX;
}

static bool make(const gems_matmul_shape *s, const gems_device_info *info, gems_matmul_route route,
                 const option *o, gems_matmul_config *c) {
    bool allowed;
    if (info->fast) {
        if (!is_fast(o->kernel) || o->tile_m < 1 || o->tile_m > 1024 || o->tile_k < 0 ||
            o->tile_k > 4096 || (o->kernel == GEMS_MATMUL_THIN) != !o->tile_k)
            return false;
        const gems_matmul_fast_option wanted = {.rows = o->tile_m, .depth = o->tile_k};
        gems_matmul_fast(s, info, &wanted, c);
        return c->kernel == o->kernel && c->parts.tiles_m == o->tile_m;
    }
    bool known = false;
    for (int i = 0; i < COUNT(groups); i++) known |= groups[i] == o->group;
    if (!known) return false;
    for (int i = 0; tile_at(s, info, route, i, c, &allowed); i++) {
        const option t = option_of(c);
        if (t.kernel == o->kernel && t.thin == o->thin && t.tile_m == o->tile_m &&
            t.tile_n == o->tile_n && t.tile_k == o->tile_k && t.stages == o->stages &&
            t.cluster == o->cluster)
            return allowed && divide(s, info, route, o->split, o->group, c);
    }
    return false;
}

/* ---- the enumeration ---- */

/* What is left of the places before the one that is looked for. */
typedef struct search {
    int left;
    char *text;
    const char *model;
} search;

static bool found(search *at, const gems_matmul_config *c) {
    const option o = option_of(c);
    write_option(&o, at->text);
    return strcmp(at->text, at->model) && at->left-- == 0;
}

static bool find_fast(const gems_matmul_shape *s, const gems_device_info *info, search *at) {
    gems_matmul_config c;
    const int workers = s->workers ? s->workers : info->processors;
    for (int d = -1; d < COUNT(depths); d++) {
        const int depth = d < 0 ? 0 : depths[d];
        if (d > 0 && least(s->k, depth) == least(s->k, depths[0])) continue;
        for (int rows = 1; rows <= workers; rows++) {
            const option o = {.kernel = depth ? GEMS_MATMUL_PANEL : GEMS_MATMUL_THIN,
                              .tile_m = rows,
                              .tile_k = depth};
            if (make(s, info, GEMS_MATMUL_TILES, &o, &c) && found(at, &c)) return true;
        }
    }
    return false;
}

static bool find_tiles(const gems_matmul_shape *s, const gems_device_info *info,
                       gems_matmul_route route, search *at) {
    gems_matmul_config c;
    bool allowed;
    for (int i = 0; tile_at(s, info, route, i, &c, &allowed); i++) {
        if (!allowed) continue;
        for (int p = 0; p < COUNT(splits); p++) {
            if (!divide(s, info, route, 1, 8, &c)) break;
            const int64_t tiles = s->batch * c.parts.tiles_m * c.parts.tiles_n;
            /* More parts than keep the device busy for two rounds only cost. */
            if (splits[p] > 1 && tiles * splits[p] > 2 * (int64_t)info->processors) break;
            for (int g = 0; g < COUNT(groups); g++) {
                if (!divide(s, info, route, splits[p], groups[g], &c)) continue;
                if (c.parts.split != splits[p]) continue; /* the same as fewer parts */
                if (g && (c.parts.tiles_n == 1 || c.parts.tiles_m <= least(groups[g], 8))) continue;
                if (found(at, &c)) return true;
            }
        }
    }
    return false;
}

void gems_matmul_model(const gems_matmul_shape *s, const gems_device_info *info,
                       gems_matmul_route route, gems_matmul_config *config) {
    if (route == GEMS_MATMUL_HOPPER)
        gems_matmul_wgmma_configure(s, info, config);
    else
        gems_matmul_configure(s, info, config);
}

void gems_matmul_option_text(const gems_matmul_config *config, char text[GEMS_TUNED_VALUE]) {
    const option o = option_of(config);
    write_option(&o, text);
}

bool gems_matmul_option(const gems_matmul_shape *s, const gems_device_info *info,
                        gems_matmul_route route, int i, char text[GEMS_TUNED_VALUE]) {
    char model[GEMS_TUNED_VALUE];
    gems_matmul_config c;
    const bool two = route == GEMS_MATMUL_HOPPER;
    gems_matmul_model(s, info, route, &c);
    gems_matmul_option_text(&c, model);
    if (i == 0) {
        strcpy(text, model);
        return true;
    }
    if (two && i == 1) {
        strcpy(text, GEMS_MATMUL_OTHER);
        return true;
    }
    search at = {i - 1 - two, text, model};
    return info->fast ? find_fast(s, info, &at) : find_tiles(s, info, route, &at);
}

bool gems_matmul_option_find(const gems_matmul_shape *s, const gems_device_info *info,
                             gems_matmul_route route, const char *text, gems_matmul_config *c) {
    option o;
    gems_matmul_config made;
    if (route == GEMS_MATMUL_HOPPER && !strcmp(text, GEMS_MATMUL_OTHER)) {
        *c = (gems_matmul_config){.kernel = GEMS_MATMUL_MMA};
        return true;
    }
    if (!read_option(text, &o) || !make(s, info, route, &o, &made)) return false;
    *c = made;
    return true;
}

/* ---- names of products ---- */

/* What an entry depends on, by route, the fast mode's last: which configurations its text can name
 * and what they do. Raised when a configuration of an old name does another thing, or when its
 * kernel has become so much faster or slower that old measurements choose wrongly. */
static const char *const versions[] = {"tiles-1", "hopper-2", "fast-1"};

const char *gems_matmul_version(int i) {
    return i >= 0 && i < COUNT(versions) ? versions[i] : NULL;
}

/* The largest size of the class of a size. Tiles have 64 lines times a power of two; those of
 * fewer are for few lines. */
static int64_t lines_class(int64_t size, bool fast) {
    return fast && size <= GEMS_MATMUL_THIN_ROWS ? GEMS_MATMUL_THIN_ROWS
           : size <= 16                          ? 16
           : size <= 32                          ? 32
                                                 : round_up(size, 64);
}

static int64_t depth_class(int64_t k) { return k <= 64 ? 64 : round_up(k, 256); }

void gems_matmul_tuned_key(const gems_matmul_shape *s, const gems_device_info *info,
                           gems_matmul_route route, char key[GEMS_TUNED_KEY]) {
    char device[48];
    static const char feeds[] = "klKL"; /* along k or lines; capitals: element by element */
    if (info->fast)
        snprintf(device, sizeof device, "cpu/%d/%lldK/%d", info->vector_bytes,
                 (long long)info->l2_bytes >> 10, s->workers ? s->workers : info->processors);
    else
        snprintf(device, sizeof device, "%s_%d/%d/%lldM", info->arch ? "sm" : "cpu", info->arch,
                 info->processors, (long long)info->l2_bytes >> 20);
    snprintf(key, GEMS_TUNED_KEY, "matmul %s %s %s%s %c%c%s %lldx%lldx%lldx%lld",
             gems_matmul_version(info->fast ? 2 : (int)route), device, gems_dtype_name(s->dtype),
             s->tf32       ? "/tf32"
             : s->promotes ? "/exact"
                           : "",
             feeds[s->feed_a & 3], feeds[s->feed_b & 3], s->crooked ? "c" : "", (long long)s->batch,
             (long long)lines_class(s->m, info->fast), (long long)lines_class(s->n, info->fast),
             (long long)depth_class(s->k));
}

void gems_matmul_choose(const gems_matmul_shape *s, const gems_device_info *info,
                        gems_matmul_route route, gems_matmul_config *config) {
    if (gems_tuned_any()) {
        char key[GEMS_TUNED_KEY];
        gems_matmul_tuned_key(s, info, route, key);
        const char *text = gems_tuned_find(key);
        if (text && gems_matmul_option_find(s, info, route, text, config)) return;
    }
    gems_matmul_model(s, info, route, config);
}
