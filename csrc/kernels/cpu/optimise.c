/* optimise: one arena of parameters, one sweep.  A chunk of the arena is the unit of work: no result depends on the threads. */

enum { SWEEP = 1 << 14 };   /* numbers in a chunk: seven arrays of it fit the second cache */

static int64_t sweep_chunks(int64_t n) { return (n + SWEEP - 1) / SWEEP; }

/* Sum of g^2 over a chunk: vectors of float32 over 1024 numbers, those in float64. */
static double sum_squares(const float *g, int64_t n) {
    double total = 0;
    for (int64_t i = 0; i < n; i += 1024) {
        int64_t end = i + 1024 < n ? i + 1024 : n, j = i;
        vec sum[4] = {{0}};
        for (; j + 4 * WM_LANES <= end; j += 4 * WM_LANES)
            UNROLL for (int k = 0; k < 4; k++) {
                vec x = vec_load(g + j + k * WM_LANES);
                sum[k] += x * x;
            }
        float rest = 0;
        for (; j < end; j++) rest += g[j] * g[j];
        total += (double)(vec_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest);
    }
    return total;
}

/* The Euclidean norm of g (n); parts: one number for every 2^14 of n. */
static double gradient_norm(double *parts, const float *g, int64_t n) {
    int64_t chunks = sweep_chunks(n);
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 16)
    for (int64_t c = 0; c < chunks; c++) {
        int64_t first = c * SWEEP, part = n - first < SWEEP ? n - first : SWEEP;
        parts[c] = sum_squares(g + first, part);
    }
    double total = 0;
    for (int64_t c = 0; c < chunks; c++) total += parts[c];
    return sqrt(total);
}

/* The update of n numbers that share a decay; the formula is adamw_step's.  shadow: the EMA or NULL */
static inline __attribute__((always_inline)) void adamw_run(float *restrict p, float *restrict g,
                                                            float *restrict m, float *restrict v, float *restrict shadow,
                                                            const wm_adamw_numbers *a, float keep, int64_t n, bool ema) {
    float step = a->step, root = a->root, eps = a->eps, clip = a->clip, b1 = a->rest1, b2 = a->beta2, c2 = a->rest2;
    float follow = a->follow[0];
    for (int64_t i = 0; i < n; i++) {
        float d = g[i] * clip;
        float mi = m[i] + b1 * (d - m[i]), vi = b2 * v[i] + c2 * d * d;
        float x = p[i] * keep - step * mi / (sqrtf(vi) * root + eps);
        g[i] = 0, m[i] = mi, v[i] = vi, p[i] = x;
        if (ema) shadow[i] += follow * (x - shadow[i]);
    }
}

static void adamw_part(float *p, float *g, float *m, float *v, float *const *shadow, const wm_adamw_numbers *a, float keep,
                       int64_t n) {
    if (a->shadows) adamw_run(p, g, m, v, shadow[0], a, keep, n, true);
    else adamw_run(p, g, m, v, NULL, a, keep, n, false);
}

/* d = clip g;  m += (1 - beta1) (d - m);  v = beta2 v + (1 - beta2) d^2;  p = keep p - step m / (root sqrt(v) + eps);
   shadow_k += (1 - ema_k) (p - shadow_k);  g = 0, where keep = decays ? a->keep : 1 by segment: ends[s] is where
   segment s ends.  step = lr / (1 - beta1^t), root = 1 / sqrt(1 - beta2^t).  Loshchilov and Hutter, arXiv 1711.05101. */
static void adamw_step(float *p, float *g, float *m, float *v, float *const *shadow, const wm_adamw_numbers *a,
                       const int64_t *ends, const uint8_t *decays, int64_t segments, int64_t n) {
    int64_t chunks = sweep_chunks(n);
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 16)
    for (int64_t k = 0; k < chunks; k++) {          /* backwards: the norm's sweep left the end of g in the cache */
        int64_t c = chunks - 1 - k, first = c * SWEEP, end = n - first < SWEEP ? n : first + SWEEP, low = 0, high = segments - 1;
        while (low < high) {                        /* the segment that holds `first` */
            int64_t middle = (low + high) / 2;
            if (ends[middle] > first) high = middle;
            else low = middle + 1;
        }
        for (int64_t i = first; i < end; low++) {
            int64_t to = ends[low] < end ? ends[low] : end;
            float *at[WM_SHADOWS] = {NULL};
            for (int j = 0; j < a->shadows; j++) at[j] = shadow[j] + i;
            adamw_part(p + i, g + i, m + i, v + i, at, a, decays[low] ? a->keep : 1.0f, to - i);
            i = to;
        }
        for (int j = 1; j < a->shadows; j++)
            for (int64_t i = first; i < end; i++) shadow[j][i] += a->follow[j] * (p[i] - shadow[j][i]);
    }
}
