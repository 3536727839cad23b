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

/* The numbers of a step, and of a run of parameters that share a decay. */
typedef struct { float *p, *g, *m, *v, *shadow; } adamw_at;

static inline __attribute__((always_inline)) void adamw_vector(adamw_at at, const wm_adamw_numbers *a, float keep, int64_t i,
                                                               int64_t left, bool ema, bool past) {
    vec d = load_up_to(at.g + i, left) * a->clip, m = load_up_to(at.m + i, left), v = load_up_to(at.v + i, left);
    m += a->rest1 * (d - m);
    v = a->beta2 * v + a->rest2 * d * d;
    vec x = load_up_to(at.p + i, left) * keep - a->step * m / (vec_sqrt(v) * a->root + a->eps);
    store_up_to(at.p + i, x, left), store_up_to(at.g + i, (vec){0}, left);
    if (past) vec_store_past(at.m + i, m), vec_store_past(at.v + i, v);
    else store_up_to(at.m + i, m, left), store_up_to(at.v + i, v, left);
    if (!ema) return;
    vec s = load_up_to(at.shadow + i, left);
    s += a->follow[0] * (x - s);
    if (past) vec_store_past(at.shadow + i, s);
    else store_up_to(at.shadow + i, s, left);
}

static inline __attribute__((always_inline)) void adamw_run(adamw_at at, const wm_adamw_numbers *numbers, float keep, int64_t n,
                                                            bool ema, bool past) {
    const wm_adamw_numbers a = *numbers;
    int64_t i = 0;
    for (; i + WM_LANES <= n; i += WM_LANES) adamw_vector(at, &a, keep, i, WM_LANES, ema, past);
    if (i < n) adamw_vector(at, &a, keep, i, n - i, ema, false);
}

static bool on_boundary(const void *p) { return (uintptr_t)p % sizeof(vec) == 0; }

static void adamw_part(adamw_at at, const wm_adamw_numbers *a, float keep, int64_t n, bool past) {
    bool ema = at.shadow;
    past = past && on_boundary(at.m) && on_boundary(at.v) && on_boundary(at.shadow);
    if (ema && past) adamw_run(at, a, keep, n, true, true);
    else if (ema) adamw_run(at, a, keep, n, true, false);
    else if (past) adamw_run(at, a, keep, n, false, true);
    else adamw_run(at, a, keep, n, false, false);
}

/* Parameters above which a sweep stores past the caches: five arrays of them are 40 MB, and what is written is not read
   again before the next sweep. */
enum { PAST_CACHES = 1 << 21 };

/* d = clip g;  m += (1 - beta1) (d - m);  v = beta2 v + (1 - beta2) d^2;  p = keep p - step m / (root sqrt(v) + eps);
   shadow_k += (1 - ema_k) (p - shadow_k);  g = 0, where keep = decays ? a->keep : 1 by segment: ends[s] is where
   segment s ends.  step = lr / (1 - beta1^t), root = 1 / sqrt(1 - beta2^t).  Loshchilov and Hutter, arXiv 1711.05101. */
static void adamw_step(float *p, float *g, float *m, float *v, float *const *shadow, const wm_adamw_numbers *a,
                       const int64_t *ends, const uint8_t *decays, int64_t segments, int64_t n) {
    int64_t chunks = sweep_chunks(n);
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 16)
    for (int64_t c = 0; c < chunks; c++) {
        int64_t first = c * SWEEP, end = n - first < SWEEP ? n : first + SWEEP, low = 0, high = segments - 1;
        while (low < high) {                        /* the segment that holds `first` */
            int64_t middle = (low + high) / 2;
            if (ends[middle] > first) high = middle;
            else low = middle + 1;
        }
        for (int64_t i = first; i < end; low++) {
            int64_t to = ends[low] < end ? ends[low] : end;
            adamw_at at = {p + i, g + i, m + i, v + i, a->shadows ? shadow[0] + i : NULL};
            adamw_part(at, a, decays[low] ? a->keep : 1.0f, to - i, n > PAST_CACHES);
            i = to;
        }
        for (int j = 1; j < a->shadows; j++)
            for (int64_t i = first; i < end; i++) shadow[j][i] += a->follow[j] * (p[i] - shadow[j][i]);
        vec_past_done();
    }
}
