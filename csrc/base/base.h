/* base.h - the ground floor: limits, errors, memory, threads.  Knows nothing of tensors. */
#ifndef WM_BASE_H
#define WM_BASE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    WM_DIMS = 6,     /* axes of a tensor at most */
    WM_IN = 12,      /* inputs of an op at most */
    WM_OUT = 3,      /* outputs of an op at most */
    WM_SAVED = 4,    /* tensors an op may keep for its backward */
    WM_ATTR = 8,     /* numbers that configure an op */
    WM_ALIGN = 64,   /* every block starts on a cache line */
};

/* What went wrong, in the calling thread: the kind chooses the Python exception, the text names op, argument,
   wanted and got.  Functions that can fail return 0 or -1 (or NULL) and leave their sentence here. */
typedef enum { WM_VALUE, WM_TYPE, WM_INDEX, WM_MEMORY, WM_RUNTIME, WM_INTERRUPTED } wm_failure;
extern _Thread_local wm_failure wm_error_kind;
extern _Thread_local char wm_error[512];
int wm_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));               /* a ValueError; -1 */
int wm_fail_as(wm_failure, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* -1 */

/* Blocks of memory, aligned to WM_ALIGN and kept by size for the next caller.  In a steady training step every
   request finds such a block: misses then stands still. */
void *wm_alloc(size_t bytes);                       /* NULL, with wm_error set, when memory is out */
void *wm_alloc_lasting(size_t bytes);               /* the same, side by side with others that stay, on large pages */
void  wm_free(void *block);                         /* NULL is fine */
void  wm_pool_trim(void);                           /* hand the idle blocks back to the system */
typedef struct { uint64_t misses, bytes_in_use, bytes_idle, bytes_peak, overruns; } wm_pool_counts;
wm_pool_counts wm_pool_count(void);
void  wm_pool_limit(size_t bytes);                  /* refuse to hold more than this; 0: no limit */

void  wm_pool_guard(bool on);                       /* tests: NaN in new blocks, sentinels round them; overruns are counted */

/* Threads that a kernel may use.  Results do not depend on it. */
extern int wm_threads;

/* Called between the nodes of a long walk; nonzero means stop (Ctrl-C).  Set by the binding. */
extern int (*wm_poll)(void);
#endif
