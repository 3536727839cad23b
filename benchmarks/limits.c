/* limits: what this machine can do at best, as the yardstick of the benchmarks.  Compiled by measure.py for the lanes
   of the kernels in use. */
#include <stdatomic.h>
#include <string.h>

#ifndef LANES
#define LANES 16
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));

enum { CHAINS = 12 };       /* more than two units of four cycles keep busy; with x they fit sixteen registers */

/* from is read at run time: a chain that starts at a constant may be worked out by the compiler instead. */
static float chain(long n, const volatile float *from) {
    vec a[CHAINS], x = (vec){0} + *from;
    for (int i = 0; i < CHAINS; i++) a[i] = (vec){0} + *from * (float)i;
    for (long k = 0; k < n; k++) {
        #pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) a[i] = a[i] * x + x;
    }
    float sum = 0;
    for (int i = 0; i < CHAINS; i++) sum += a[i][0];
    return sum;
}

/* n rounds of multiply-adds in registers on each thread: how many operations that was. */
double multiply_adds(int threads, long n) {
    volatile float sink = 0, from = 0.5f;
    #pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; t++) sink = chain(n, &from);
    (void)sink;
    return 2.0 * CHAINS * LANES * (double)n * threads;
}

/* Reads and writes so many bytes. */
void copy(int threads, char *to, const char *from, long bytes) {
    #pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; t++) {
        long first = bytes / threads * t;
        memcpy(to + first, from + first, (size_t)(bytes / threads));
    }
}

/* A cache line goes to another core and back, so many times. */
void exchange(int rounds) {
    static struct { _Alignas(128) atomic_int at; } there, back;
    there.at = back.at = 0;
    #pragma omp parallel for num_threads(2) schedule(static, 1)
    for (int t = 0; t < 2; t++)
        for (int i = 1; i <= rounds; i++)
            if (t == 0) {
                atomic_store(&there.at, i);
                while (atomic_load(&back.at) != i);
            } else {
                while (atomic_load(&there.at) != i);
                atomic_store(&back.at, i);
            }
}
