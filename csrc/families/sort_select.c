/* Some elements of rows, or one: by selecting digits (kernels/select.cuh). */
#include "sort.h"

#include "../base/dtype.h"

#define OWN         4         /* kOwn in kernels/sort.cuh */
#define FAR_THREADS 256       /* kThreads in kernels/select_far.cu */
#define FAR_LENGTH  (1 << 16) /* least elements of a row that blocks share */
#define FAR_FEW     (1 << 14) /* the same, where rows are few */
#define FAR_CHUNK   2048      /* least elements of such a block */
#define MOST_HELD   16        /* elements of a row that a thread keeps */
#define STEP        11        /* kStep in kernels/select.cuh */

static int log2_up(int64_t n) {
    int bits = 2;
    while ((INT64_C(1) << bits) < n) bits++;
    return bits;
}

/* Rows by a block: its threads, and the elements that each keeps; 0: rows are read again. */
typedef struct {
    int threads, held;
} shape;

static shape shape_of(int64_t n) {
    int threads = n <= 1024 ? 128 : n <= 2048 ? 256 : 512, held = 8;
    while ((int64_t)threads * held < n) held *= 2;
    return (shape){threads, held > MOST_HELD ? 0 : held};
}

/* Items that a block sorts at once: as many as lie in 16 KiB. */
static int64_t most_picked(int dtype) { return gems_dtype_size(dtype) == 8 ? 1024 : 2048; }

bool gems_sort_selects(const gems_sort_job *job) {
    if (job->what != SORT_WRITE) return true;
    int64_t most = most_picked(job->dtype), room = OWN * shape_of(job->lines.n).threads;
    return job->limit <= (most < room ? most : room) && 4 * job->limit <= job->lines.n;
}

/* Rows too few to fill the device, a block each. */
static bool is_far(const gems_lines *m, const gems_device_info *info) {
    return (m->n >= FAR_LENGTH && m->count < info->processors) ||
           (m->n > FAR_FEW && m->count * 16 < info->processors);
}

static gems_status run_rows(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    shape s = shape_of(job->lines.n);
    gems_key key =
        gems_sort_key(job, SORT_SELECT, job->what == SORT_WRITE ? log2_up(job->limit) : 2);
    key.tune[SORT_TUNE_THREADS] = (uint8_t)(s.threads / 32);
    key.tune[SORT_TUNE_HELD] = (uint8_t)s.held;
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    void *args[] = {&job->in, &job->values, &job->places, &job->lines, &job->limit, &job->rank};
    return gems_sort_kernel(call, plan, 0, gems_grid_for(info, job->lines.count, 1),
                            (uint32_t)s.threads, 0, args);
}

/* Twins of Known and of Far in kernels/select_far.cu, which has as many of each as there are steps
 * for the keys' size. */
typedef struct known {
    uint64_t prefix;
    int32_t wanted, equal, shift, nans;
} known;

static size_t far_size(int steps, int bits) {
    size_t words = 1 + (size_t)steps * ((size_t)1 << bits);
    return ((size_t)steps + 1) * sizeof(known) + (words * sizeof(int32_t) + 7) / 8 * 8;
}

static gems_status run_far(gems_call *call, gems_sort_job *job, const gems_device_info *info) {
    bool writes = job->what == SORT_WRITE;
    gems_key key = gems_sort_key(job, SORT_FAR, writes ? log2_up(job->limit) : 2);
    const gems_plan *plan;
    GEMS_TRY(gems_call_plan(call, &key, &plan));
    gems_lines *m = &job->lines;
    int64_t rows = m->count, parts = 8 * (int64_t)info->processors / rows;
    int64_t rank = writes ? job->limit - 1 : job->rank;
    if (parts > m->n / FAR_CHUNK) parts = m->n / FAR_CHUNK;
    if (parts < 1) parts = 1;
    int32_t chunk = (int32_t)((m->n + parts - 1) / parts);
    int32_t chunks = (int32_t)((m->n + chunk - 1) / chunk);
    int width = 8 * (int)gems_dtype_size(job->dtype), bits = width < STEP ? width : STEP;
    int32_t steps = (width + bits - 1) / bits;
    size_t states = (size_t)rows * far_size(steps, bits);
    size_t equal = (size_t)(rows * chunks), picked = writes ? (size_t)(rows * job->limit) : 0;
    void *data;
    GEMS_TRY(gems_scratch(call, states + (equal + picked) * sizeof(int32_t), &data));
    int32_t *equals = (int32_t *)((char *)data + states), *list = equals + equal;
    void *begin[] = {&data, m, &rank};
    GEMS_TRY(gems_sort_kernel(call, plan, 0, rows, FAR_THREADS, 0, begin));
    for (int32_t step = 0; step < steps; step++) {
        void *count[] = {&job->in, &data, m, &chunk, &chunks, &step};
        GEMS_TRY(gems_sort_kernel(call, plan, 1, rows * chunks, FAR_THREADS, 0, count));
    }
    void *same[] = {&job->in, &data, &equals, m, &chunk, &chunks};
    void *find[] = {&job->in, &job->values, &job->places, &data,  &equals, &list,
                    m,        &job->limit,  &chunk,       &chunks};
    GEMS_TRY(gems_sort_kernel(call, plan, 2, rows * chunks, FAR_THREADS, 0, same));
    GEMS_TRY(gems_sort_kernel(call, plan, 3, rows * chunks, FAR_THREADS, 0, find));
    if (!writes) return GEMS_OK;
    void *sort[] = {&job->in, &job->values, &job->places, &list, m, &job->limit};
    int sorters = (1 << key.tune[SORT_TUNE_SIZE]) / OWN;
    return gems_sort_kernel(call, plan, 4, rows, (uint32_t)(sorters < 32 ? 32 : sorters), 0, sort);
}

gems_status gems_sort_select(gems_call *call, gems_sort_job *job) {
    const gems_device_info *info = gems_device_information(call->device);
    return is_far(&job->lines, info) ? run_far(call, job, info) : run_rows(call, job, info);
}

void gems_sort_select_key(gems_key *key, int64_t n, int64_t limit) {
    shape s = shape_of(n);
    key->tune[SORT_TUNE_SIZE] = (uint8_t)log2_up(limit);
    if (key->kernel == SORT_FAR) return;
    key->tune[SORT_TUNE_THREADS] = (uint8_t)(s.threads / 32);
    key->tune[SORT_TUNE_HELD] = (uint8_t)s.held;
}

int gems_sort_select_program(const gems_key *key, gems_program *p) {
    static const char *const far[] = {"far_begin", "far_count", "far_equal", "far_find",
                                      "far_sort"};
    gems_text_add(&p->head, "constexpr int kSize = %d;\n", 1 << key->tune[SORT_TUNE_SIZE]);
    p->files[1] = "select.cuh";
    if (key->kernel == SORT_FAR) {
        for (int i = 0; i < 5; i++) p->entries[i] = far[i];
        p->entry_count = 5;
        return 2;
    }
    gems_text_add(&p->head, "constexpr int kThreads = %d, kHeld = %d;\n",
                  32 * key->tune[SORT_TUNE_THREADS], key->tune[SORT_TUNE_HELD]);
    p->entries[0] = "select_rows";
    return 2;
}
