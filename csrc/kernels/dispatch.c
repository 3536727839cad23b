/* dispatch.c - the kernel tables in order of preference; the first that this processor runs is used. */
#include "kernels.h"
#include <string.h>

extern const wm_kernels wm_kernels_baseline, wm_kernels_avx2, wm_kernels_avx512;
const wm_kernels *wm_k;

static int always(void) { return 1; }
#if defined(__x86_64__)
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
#endif

/* Best first; the last always runs. */
static const struct {
    const wm_kernels *table;
    int (*runs_here)(void);
} candidates[] = {
#if defined(__x86_64__)
    {&wm_kernels_avx512, has_avx512},
    {&wm_kernels_avx2, has_avx2},
#endif
    {&wm_kernels_baseline, always},
};
enum { CANDIDATES = sizeof candidates / sizeof *candidates };

const wm_kernels *wm_kernels_best(void) {
    int i = 0;
    while (!candidates[i].runs_here()) i++;
    return candidates[i].table;
}

const wm_kernels *wm_kernels_named(const char *name) {
    for (int i = 0; i < CANDIDATES; i++)
        if (!strcmp(candidates[i].table->name, name) && candidates[i].runs_here()) return candidates[i].table;
    return NULL;
}

const char *wm_kernels_name(int wanted) {
    for (int i = 0; i < CANDIDATES; i++)
        if (candidates[i].runs_here() && wanted-- == 0) return candidates[i].table->name;
    return NULL;
}
