/* pool.c - blocks by size class, kept for the next caller.

   (1) A block is a header of WM_ALIGN bytes and the caller's bytes behind it; both start on a cache line.
   (2) Classes are geometric, eight to a doubling, so at most an eighth of a block is wasted.
   (3) Idle blocks wait in one list per class; a request takes the newest, else it is a miss and asks the system.
   (4) When the system or the limit says no, the idle blocks go back and the request is tried once more.
   (5) What stays for long and is read again and again (packed weights) lies side by side in regions of large pages: one
       address-cache miss in 2 MB instead of 512.  A region goes back to the system when the last of its blocks does.
   (6) Guarded (tests): blocks are handed out full of NaN, with sentinels on both sides that wm_free looks at. */
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
    struct region *region;  /* (5); else NULL */
    int class;
    uint8_t sentinel[WM_ALIGN - 36];   /* up to the caller's first byte, with (6) */
} block;

typedef struct region { size_t used; int blocks; } region;

enum { STEPS = 8, CLASSES = 64 * STEPS, SENTINEL = 0xA5, SENTINELS = 64 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *idle[CLASSES];
static wm_pool_counts count;
static size_t limit;
static bool guard;
static region *filling;         /* the region that lasting blocks are cut from */
enum { LARGE = 2 << 20, REGION = 32 << 20, LASTING = 256 << 10 };     /* large page; region; least block of one */

/* The smallest class that holds so many cache lines, and its size in lines: (8 + s) 2^e. */
static int class_of(size_t lines, size_t *rounded) {
    if (lines < STEPS) return *rounded = lines, (int)lines;
    int e = 63 - __builtin_clzll(lines) - 3;
    size_t s = (lines + ((size_t)1 << e) - 1) >> e;          /* 8 .. 16 */
    *rounded = s << e;
    return e * STEPS + (int)s;
}

static void give_back(block *b) {
    region *r = b->region;
    if (!r) {
        free(b);
    } else if (--r->blocks == 0) {
        if (filling == r) filling = NULL;
        free(r);
    }
}

static void trim(void) {
    for (int c = 0; c < CLASSES; c++)
        for (block *b; (b = idle[c]);) {
            idle[c] = b->next;
            count.bytes_idle -= b->bytes;
            give_back(b);
        }
}

/* Cut from the region that is being filled, or from a new one; NULL if none is to be had.  (5) */
static block *from_region(size_t bytes) {
    if (!filling || filling->used + bytes > REGION) {
        void *p = NULL;
        if (posix_memalign(&p, LARGE, REGION)) return NULL;
#ifdef MADV_HUGEPAGE
        madvise(p, REGION, MADV_HUGEPAGE);
#endif
        filling = p;
        *filling = (region){.used = WM_ALIGN};
    }
    block *b = (block *)((char *)filling + filling->used);
    filling->used += bytes, filling->blocks++;
    b->region = filling;
    return b;
}

/* Large blocks ask for large pages: a sweep over many arrays at once misses the address cache less, and faults less. */
static void *from_system(size_t bytes) {
#ifdef MADV_HUGEPAGE
    if (bytes >= 2 * LARGE) {
        void *p = NULL;
        if (posix_memalign(&p, LARGE, bytes)) return NULL;
        madvise(p, bytes, MADV_HUGEPAGE);
        return p;
    }
#endif
    return aligned_alloc(WM_ALIGN, bytes);
}

static block *ask_system(size_t bytes, int class, bool lasting) {
    if (limit && count.bytes_in_use + count.bytes_idle + bytes > limit) trim();
    if (limit && count.bytes_in_use + bytes > limit) return NULL;
    block *b = lasting ? from_region(bytes) : NULL;
    if (!b) {
        if (!(b = from_system(bytes))) trim(), b = from_system(bytes);
        if (b) b->region = NULL;
    }
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

/* The newest idle block of a class; a lasting one is wanted from a region. */
static block *from_idle(int class, bool lasting) {
    block **at = &idle[class];
    while (lasting && *at && !(*at)->region) at = &(*at)->next;
    block *b = *at;
    if (b) *at = b->next, count.bytes_idle -= b->bytes;
    return b;
}

static void *alloc(size_t bytes, bool lasting) {
    _Static_assert(sizeof(block) == WM_ALIGN, "the header is one cache line, sentinels to its end");
    size_t lines, room = bytes + (guard ? SENTINELS : 0);
    int class = bytes > SIZE_MAX / 4 ? -1 : class_of((room + WM_ALIGN - 1) / WM_ALIGN + 1, &lines);
    block *b = NULL;
    if (class >= 0) {
        pthread_mutex_lock(&lock);
        lasting = lasting && lines * WM_ALIGN >= LASTING && lines * WM_ALIGN <= REGION / 4;
        if (!(b = from_idle(class, lasting))) b = ask_system(lines * WM_ALIGN, class, lasting);
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

void *wm_alloc(size_t bytes) { return alloc(bytes, false); }
void *wm_alloc_lasting(size_t bytes) { return alloc(bytes, true); }

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
