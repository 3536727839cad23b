/* pool.c - blocks by size class, kept for the next caller.

   (1) A block is a header of WM_ALIGN bytes and the caller's bytes behind it; both start on a cache line.
   (2) Classes are geometric, eight to a doubling, so at most an eighth of a block is wasted.
   (3) Idle blocks wait in one list per class; a request takes the newest, else it is a miss and asks the system.
   (4) When the system or the limit says no, the idle blocks go back and the request is tried once more.
   (5) Guarded (tests): blocks are handed out full of NaN, with sentinels on both sides that wm_free looks at. */
#include "base.h"
#include <pthread.h>
#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

typedef struct block {
    struct block *next;
    size_t bytes;           /* of the whole block, header included */
    size_t guarded;         /* what the caller asked for, if a sentinel lies behind it; else 0 */
    int class;
    uint8_t sentinel[WM_ALIGN - 28];   /* up to the caller's first byte, with (5) */
} block;

enum { STEPS = 8, CLASSES = 64 * STEPS, SENTINEL = 0xA5, SENTINELS = 64 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *idle[CLASSES];
static wm_pool_counts count;
static size_t limit;
static bool guard;

/* The smallest class that holds so many cache lines, and its size in lines: (8 + s) 2^e. */
static int class_of(size_t lines, size_t *rounded) {
    if (lines < STEPS) return *rounded = lines, (int)lines;
    int e = 63 - __builtin_clzll(lines) - 3;
    size_t s = (lines + ((size_t)1 << e) - 1) >> e;          /* 8 .. 16 */
    *rounded = s << e;
    return e * STEPS + (int)s;
}

static void trim(void) {
    for (int c = 0; c < CLASSES; c++)
        for (block *b; (b = idle[c]);) {
            idle[c] = b->next;
            count.bytes_idle -= b->bytes;
            free(b);
        }
}

/* Large blocks ask for large pages: a sweep over many arrays at once misses the address cache less, and faults less. */
static void *from_system(size_t bytes) {
#ifdef MADV_HUGEPAGE
    enum { LARGE = 2 << 20 };
    if (bytes >= 2 * LARGE) {
        void *p = NULL;
        if (posix_memalign(&p, LARGE, bytes)) return NULL;
        madvise(p, bytes, MADV_HUGEPAGE);
        return p;
    }
#endif
    return aligned_alloc(WM_ALIGN, bytes);
}

static block *ask_system(size_t bytes, int class) {
    if (limit && count.bytes_in_use + count.bytes_idle + bytes > limit) trim();
    if (limit && count.bytes_in_use + bytes > limit) return NULL;
    block *b = from_system(bytes);
    if (!b) trim(), b = from_system(bytes);
    if (b) b->bytes = bytes, b->class = class, count.misses++;
    return b;
}

static void set_sentinels(block *b, size_t wanted) {
    uint8_t *data = (uint8_t *)b + WM_ALIGN;
    b->guarded = wanted;
    memset(b->sentinel, SENTINEL, sizeof b->sentinel);
    memset(data, 0xff, wanted);
    memset(data + wanted, SENTINEL, SENTINELS);
}

static bool sentinels_stand(const block *b) {
    const uint8_t *behind = (const uint8_t *)b + WM_ALIGN + b->guarded;
    bool stand = true;
    for (size_t i = 0; i < sizeof b->sentinel; i++) stand &= b->sentinel[i] == SENTINEL;
    for (size_t i = 0; i < SENTINELS; i++) stand &= behind[i] == SENTINEL;
    return stand;
}

void *wm_alloc(size_t bytes) {
    _Static_assert(sizeof(block) == WM_ALIGN, "the header is one cache line, sentinels to its end");
    size_t lines, room = bytes + (guard ? SENTINELS : 0);
    int class = bytes > SIZE_MAX / 4 ? -1 : class_of((room + WM_ALIGN - 1) / WM_ALIGN + 1, &lines);
    block *b = NULL;
    if (class >= 0) {
        pthread_mutex_lock(&lock);
        if ((b = idle[class])) idle[class] = b->next, count.bytes_idle -= b->bytes;
        else b = ask_system(lines * WM_ALIGN, class);
        if (b) {
            count.bytes_in_use += b->bytes;
            if (count.bytes_in_use > count.bytes_peak) count.bytes_peak = count.bytes_in_use;
        }
        pthread_mutex_unlock(&lock);
    }
    if (!b) return wm_fail_as(WM_MEMORY, "out of memory: %zu bytes wanted", bytes), NULL;
    b->guarded = 0;
    if (guard) set_sentinels(b, bytes);
    return (char *)b + WM_ALIGN;
}

void wm_free(void *p) {
    if (!p) return;
    block *b = (block *)((char *)p - WM_ALIGN);
    pthread_mutex_lock(&lock);
    if (b->guarded && !sentinels_stand(b)) count.overruns++;
    b->next = idle[b->class], idle[b->class] = b;
    count.bytes_in_use -= b->bytes, count.bytes_idle += b->bytes;
    pthread_mutex_unlock(&lock);
}

void wm_pool_trim(void) {
    pthread_mutex_lock(&lock);
    trim();
    count.bytes_peak = count.bytes_in_use;
    pthread_mutex_unlock(&lock);
#ifdef __GLIBC__
    malloc_trim(0);     /* what was freed between blocks that live stays with the C library otherwise */
#endif
}

void wm_pool_limit(size_t bytes) {
    pthread_mutex_lock(&lock);
    limit = bytes;
    pthread_mutex_unlock(&lock);
}

void wm_pool_guard(bool on) { guard = on; }

wm_pool_counts wm_pool_count(void) {
    pthread_mutex_lock(&lock);
    wm_pool_counts c = count;
    pthread_mutex_unlock(&lock);
    return c;
}
