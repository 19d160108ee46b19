/* The threads that run the blocks of a launch. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "cpu.h"

#define MAX_THREADS 256

static struct {
    pthread_mutex_t turn; /* held by the caller whose job it is */
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t work, idle;
    void (*call)(void *);
    void *data;
    int threads; /* started */
    int wanted;  /* may still join the job */
    int active;  /* are in it */
} pool = {.turn = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .work = PTHREAD_COND_INITIALIZER,
          .idle = PTHREAD_COND_INITIALIZER};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t memory_key;
static bool have_key;

struct memory {
    size_t size;
    void *data;
};

static void free_memory(void *pointer) {
    struct memory *memory = pointer;
    free(memory->data);
    free(memory);
}

/* No thread but the caller lives in a child, and any lock may have been held. */
static void after_fork(void) {
    pthread_mutex_init(&pool.turn, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.work, NULL);
    pthread_cond_init(&pool.idle, NULL);
    pool.threads = pool.wanted = pool.active = 0;
}

static void start(void) {
    pthread_atfork(NULL, NULL, after_fork);
    have_key = pthread_key_create(&memory_key, free_memory) == 0;
}

static void *worker(void *unused) {
    (void)unused;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (!pool.wanted) pthread_cond_wait(&pool.work, &pool.lock);
        pool.wanted--;
        pool.active++;
        void (*call)(void *) = pool.call;
        void *data = pool.data;
        pthread_mutex_unlock(&pool.lock);
        call(data);
        pthread_mutex_lock(&pool.lock);
        if (--pool.active == 0) pthread_cond_signal(&pool.idle);
    }
    return NULL;
}

/* Starts threads until there are `count`, or as many as the system gives. The pool is locked. */
static void grow(int count) {
    pthread_attr_t attributes;
    sigset_t all, before;
    if (pool.threads >= count || pthread_attr_init(&attributes) != 0) return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    sigfillset(&all); /* signals are for the host's own threads */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    while (pool.threads < count) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, worker, NULL) != 0) break;
        pool.threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

void gems_cpu_pool_run(void (*work)(void *), void *data, int threads) {
    pthread_once(&once, start);
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads <= 1 || pthread_mutex_trylock(&pool.turn) != 0) {
        work(data);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    grow(threads - 1);
    pool.call = work;
    pool.data = data;
    pool.wanted = threads - 1 < pool.threads ? threads - 1 : pool.threads;
    for (int i = 0; i < pool.wanted; i++) pthread_cond_signal(&pool.work);
    pthread_mutex_unlock(&pool.lock);

    work(data);

    pthread_mutex_lock(&pool.lock);
    pool.wanted = 0; /* who has not come yet is not waited for */
    while (pool.active) pthread_cond_wait(&pool.idle, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.turn);
}

void *gems_cpu_thread_memory(size_t size) {
    pthread_once(&once, start);
    if (!have_key) return NULL;
    struct memory *memory = pthread_getspecific(memory_key);
    if (!memory) {
        memory = calloc(1, sizeof *memory);
        if (!memory || pthread_setspecific(memory_key, memory) != 0) {
            free(memory);
            return NULL;
        }
    }
    if (memory->size < size) {
        free(memory->data);
        size = (size + 4095) & ~(size_t)4095;
        memory->data = aligned_alloc(128, size);
        memory->size = memory->data ? size : 0;
    }
    return memory->data;
}
