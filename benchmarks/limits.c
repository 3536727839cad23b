/* limits: what this machine can do at best, as the yardstick of the benchmarks.  Compiled by measure.py for the lanes
   of the kernels in use. */
#include <string.h>
#include <time.h>

#ifndef LANES
#define LANES 16
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float chain(long n) {
    vec a[10], x = (vec){0} + 0.5f;
    for (int i = 0; i < 10; i++) a[i] = (vec){0} + (float)i;
    for (long k = 0; k < n; k++) {
        #pragma GCC unroll 10
        for (int i = 0; i < 10; i++) a[i] = a[i] * x + x;
    }
    float sum = 0;
    for (int i = 0; i < 10; i++) sum += a[i][0];
    return sum;
}

/* Multiply-adds in registers: FLOP/s. */
double fma_limit(int threads, long n) {
    volatile float sink = 0;
    double start = now();
    #pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; t++) sink = chain(n);
    (void)sink;
    return 2.0 * 10 * LANES * (double)n * threads / (now() - start);
}

/* Copying: bytes read and written a second. */
double copy_limit(int threads, char *to, const char *from, long bytes) {
    double start = now();
    #pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; t++) {
        long first = bytes / threads * t;
        memcpy(to + first, from + first, (size_t)(bytes / threads));
    }
    return 2.0 * (double)bytes / (now() - start);
}
