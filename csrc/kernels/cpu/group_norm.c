/* group_norm: out = act(h (plus + factor) + term), h = (x - mean) rstd, over the S pixels and C / groups channels of a
   group of each sample; x (B,S,C).  factor and term by channel, one row for all samples (weight, bias) or one each (AdaGN).

   Statistics in one reading of x: the sum and the squares around the mean of each channel, over chunks of pixels that
   stay in the first cache; put together in double precision.  Backward, with z the sum before act and
   d = dout act'(z), g = d (plus + factor), n = S C / groups:

       dx = rstd (g - sum g / n - h sum (g h) / n),    dfactor = sum over pixels of d h,    dterm = sum of d */

/* Pixels of a chunk: about 16 KB. */
static inline int64_t group_pixels(int64_t C) { return C >= 512 ? 8 : 4096 / C; }
static inline int64_t group_chunks(int64_t S, int64_t C) { return (S + group_pixels(C) - 1) / group_pixels(C); }
static int64_t group_norm_scratch(int64_t S, int64_t C) { return (2 * group_chunks(S, C) + 7) * C; }

typedef struct {
    float *out, *mean, *rstd;                                   /* forward */
    float *dx;                                                  /* backward */
    const float *dout, *x;
    const wm_modulation *m;
    bool silu;
    float eps, *scratch;
    int64_t S, C, groups, pixels, chunks;
} group_task;

/* Chunk k of sample b: how many pixels, and where the first number is. */
static inline int64_t group_count(const group_task *t, int64_t k) {
    return k + 1 < t->chunks ? t->pixels : t->S - k * t->pixels;
}
static inline int64_t group_place(const group_task *t, int64_t b, int64_t k) {
    return (b * t->S + k * t->pixels) * t->C;
}

enum { GROUP_GRAIN = 1 << 14 };        /* fewer numbers than this are not worth a second thread */

/* Samples side by side if they are enough for the threads, else one by one with their chunks side by side: the same bits. */
static void group_each(const group_task *t, void (*sample)(const group_task *, int64_t b, bool split), int64_t B) {
    if (B < wm_threads) {
        for (int64_t b = 0; b < B; b++) sample(t, b, t->S * t->C > GROUP_GRAIN);
        return;
    }
    #pragma omp parallel for num_threads(wm_threads) if (B * t->S * t->C > GROUP_GRAIN)
    for (int64_t b = 0; b < B; b++) sample(t, b, false);
}

/* ---- statistics --------------------------------------------------------------------------------- */

/* part (2,C): the sum of n pixels of x, and their squares around their mean */
static void group_chunk(float *part, const float *x, int64_t n, int64_t C) {
    for (int64_t c = 0; c < C; c += WM_LANES) {
        int64_t left = C - c, i = 0;
        vec s[4] = {{0}}, q[4] = {{0}};
        for (; i + 4 <= n; i += 4) UNROLL for (int j = 0; j < 4; j++) s[j] += norm_load(x + (i + j) * C + c, left);
        for (; i < n; i++) s[0] += norm_load(x + i * C + c, left);
        vec sum = (s[0] + s[1]) + (s[2] + s[3]), mean = sum * (1.0f / (float)n);
        for (i = 0; i + 4 <= n; i += 4) UNROLL for (int j = 0; j < 4; j++) {
            vec d = norm_load(x + (i + j) * C + c, left) - mean;
            q[j] += d * d;
        }
        for (; i < n; i++) {
            vec d = norm_load(x + i * C + c, left) - mean;
            q[0] += d * d;
        }
        norm_store(part + c, sum, left);
        norm_store(part + C + c, (q[0] + q[1]) + (q[2] + q[3]), left);
    }
}

/* mean and rstd (groups) of one sample from its chunks' parts */
static void group_statistics(const group_task *t, float *mean, float *rstd, const float *parts) {
    int64_t C = t->C, width = C / t->groups;
    for (int64_t g = 0; g < t->groups; g++) {
        double sum = 0, squares = 0, n = (double)t->S * (double)width;
        for (int64_t k = 0; k < t->chunks; k++) {
            const float *s = parts + 2 * k * C + g * width;
            #pragma omp simd reduction(+ : sum)
            for (int64_t c = 0; c < width; c++) sum += (double)s[c];
        }
        double mu = sum / n;
        for (int64_t k = 0; k < t->chunks; k++) {
            const float *s = parts + 2 * k * C + g * width, *q = s + C;
            double pixels = (double)group_count(t, k), each = 1 / pixels;
            #pragma omp simd reduction(+ : squares)
            for (int64_t c = 0; c < width; c++) {
                double d = (double)s[c] * each - mu;
                squares += (double)q[c] + pixels * d * d;
            }
        }
        mean[g] = (float)mu, rstd[g] = (float)(1 / sqrt(squares / n + (double)t->eps));
    }
}

/* ---- forward ------------------------------------------------------------------------------------ */

/* By channel: h = (x - offset) scale, z = h factor + term.  Behind them lies room for two means (backward). */
static float *group_coefficients(const group_task *t, int64_t b) {
    int64_t C = t->C;
    float *scale = t->scratch + b * group_norm_scratch(t->S, C) + 2 * t->chunks * C, *offset = scale + C;
    float *factor = offset + C, *term = factor + C;
    const wm_modulation *m = t->m;
    for (int64_t c = 0; c < C; c++) {
        int64_t g = b * t->groups + c / (C / t->groups);
        scale[c] = t->rstd[g], offset[c] = t->mean[g];
        factor[c] = m->plus + (m->factor ? m->factor[b * m->step_factor + c] : 0);
        term[c] = m->term ? m->term[b * m->step_term + c] : 0;
    }
    return scale;
}

/* n pixels: out = act(h factor + term) */
static void group_apply(float *out, const float *x, const float *coefficients, bool silu, int64_t n, int64_t C) {
    for (int64_t c = 0; c < C; c += WM_LANES) {
        int64_t left = C - c;
        const float *k = coefficients + c;
        vec scale = norm_load(k, left), offset = norm_load(k + C, left), factor = norm_load(k + 2 * C, left);
        vec term = norm_load(k + 3 * C, left);
        for (int64_t i = 0; i < n; i++) {
            vec z = (norm_load(x + i * C + c, left) - offset) * scale * factor + term;
            norm_store(out + i * C + c, silu ? z * vec_sigmoid(z) : z, left);
        }
    }
}

static void group_sample(const group_task *t, int64_t b, bool split) {
    float *parts = t->scratch + b * group_norm_scratch(t->S, t->C);
    #pragma omp parallel for num_threads(wm_threads) if (split)
    for (int64_t k = 0; k < t->chunks; k++)
        group_chunk(parts + 2 * k * t->C, t->x + group_place(t, b, k), group_count(t, k), t->C);
    group_statistics(t, t->mean + b * t->groups, t->rstd + b * t->groups, parts);
    const float *coefficients = group_coefficients(t, b);
    #pragma omp parallel for num_threads(wm_threads) if (split)
    for (int64_t k = 0; k < t->chunks; k++) {
        int64_t at = group_place(t, b, k);
        group_apply(t->out + at, t->x + at, coefficients, t->silu, group_count(t, k), t->C);
    }
}

/* scratch: group_norm_scratch numbers a sample */
static void group_norm_forward(float *out, float *mean, float *rstd, const float *x, const wm_modulation *m, bool silu,
                               float eps, float *scratch, int64_t B, int64_t S, int64_t C, int64_t groups) {
    group_task t = {.out = out, .mean = mean, .rstd = rstd, .x = x, .m = m, .silu = silu, .eps = eps, .scratch = scratch,
                    .S = S, .C = C, .groups = groups, .pixels = group_pixels(C), .chunks = group_chunks(S, C)};
    group_each(&t, group_sample, B);
}

/* ---- backward ----------------------------------------------------------------------------------- */

/* d = dout act'(h factor + term) */
static inline vec group_slope(vec dout, vec h, vec factor, vec term, bool silu) {
    if (!silu) return dout;
    vec z = h * factor + term, s = vec_sigmoid(z);
    return dout * s * (1.0f + z * (1.0f - s));
}

/* part (2,C): the sums of d and d h over n pixels */
static void group_chunk_backward(float *part, const float *dout, const float *x, const float *coefficients, bool silu, int64_t n,
                                 int64_t C) {
    for (int64_t c = 0; c < C; c += WM_LANES) {
        int64_t left = C - c;
        const float *k = coefficients + c;
        vec scale = norm_load(k, left), offset = norm_load(k + C, left), factor = norm_load(k + 2 * C, left);
        vec term = norm_load(k + 3 * C, left), sum[2] = {{0}}, sum_h[2] = {{0}};
        for (int64_t i = 0; i < n; i++) {
            vec h = (norm_load(x + i * C + c, left) - offset) * scale;
            vec d = group_slope(norm_load(dout + i * C + c, left), h, factor, term, silu);
            sum[i % 2] += d, sum_h[i % 2] += d * h;
        }
        norm_store(part + c, sum[0] + sum[1], left);
        norm_store(part + C + c, sum_h[0] + sum_h[1], left);
    }
}

/* dx += rstd (g - mean_g - h mean_gh) over n pixels; the means lie behind the coefficients, by channel */
static void group_apply_backward(float *dx, const float *dout, const float *x, const float *coefficients, bool silu, int64_t n,
                                 int64_t C) {
    for (int64_t c = 0; c < C; c += WM_LANES) {
        int64_t left = C - c;
        const float *k = coefficients + c;
        vec scale = norm_load(k, left), offset = norm_load(k + C, left), factor = norm_load(k + 2 * C, left);
        vec term = norm_load(k + 3 * C, left), mean_g = norm_load(k + 4 * C, left), mean_gh = norm_load(k + 5 * C, left);
        for (int64_t i = 0; i < n; i++) {
            vec h = (norm_load(x + i * C + c, left) - offset) * scale;
            vec d = group_slope(norm_load(dout + i * C + c, left), h, factor, term, silu);
            vec to = norm_load(dx + i * C + c, left) + scale * (d * factor - mean_g - h * mean_gh);
            norm_store(dx + i * C + c, to, left);
        }
    }
}

/* The sums over a sample's chunks: into parts[0], and their means by group behind the coefficients. */
static void group_sums(const group_task *t, float *parts, float *coefficients) {
    int64_t C = t->C, width = C / t->groups;
    const float *factor = coefficients + 2 * C;
    for (int64_t k = 1; k < t->chunks; k++)
        for (int64_t c = 0; c < 2 * C; c++) parts[c] += parts[2 * k * C + c];
    for (int64_t g = 0; g < t->groups; g++) {
        double sum_g = 0, sum_gh = 0, n = (double)t->S * (double)width;
        for (int64_t c = g * width; c < (g + 1) * width; c++)
            sum_g += (double)factor[c] * parts[c], sum_gh += (double)factor[c] * parts[C + c];
        for (int64_t c = g * width; c < (g + 1) * width; c++)
            coefficients[4 * C + c] = (float)(sum_g / n), coefficients[5 * C + c] = (float)(sum_gh / n);
    }
}

static void group_sample_backward(const group_task *t, int64_t b, bool split) {
    float *parts = t->scratch + b * group_norm_scratch(t->S, t->C), *coefficients = group_coefficients(t, b);
    #pragma omp parallel for num_threads(wm_threads) if (split)
    for (int64_t k = 0; k < t->chunks; k++) {
        int64_t at = group_place(t, b, k);
        group_chunk_backward(parts + 2 * k * t->C, t->dout + at, t->x + at, coefficients, t->silu, group_count(t, k), t->C);
    }
    group_sums(t, parts, coefficients);
    if (!t->dx) return;
    #pragma omp parallel for num_threads(wm_threads) if (split)
    for (int64_t k = 0; k < t->chunks; k++) {
        int64_t at = group_place(t, b, k);
        group_apply_backward(t->dx + at, t->dout + at, t->x + at, coefficients, t->silu, group_count(t, k), t->C);
    }
}

/* dx, dfactor, dterm may be NULL.  scratch as in forward. */
static void group_norm_backward(float *dx, float *dfactor, float *dterm, const float *dout, const float *x, const float *mean,
                                const float *rstd, const wm_modulation *m, bool silu, float *scratch, int64_t B, int64_t S,
                                int64_t C, int64_t groups) {
    group_task t = {.mean = (float *)mean, .rstd = (float *)rstd, .dx = dx, .dout = dout, .x = x, .m = m, .silu = silu,
                    .scratch = scratch, .S = S, .C = C, .groups = groups, .pixels = group_pixels(C), .chunks = group_chunks(S, C)};
    group_each(&t, group_sample_backward, B);
    for (int64_t b = 0; b < B; b++) {
        const float *sums = scratch + b * group_norm_scratch(S, C);
        for (int64_t c = 0; c < C; c++) {
            if (dterm) dterm[b * m->step_term + c] += sums[c];
            if (dfactor) dfactor[b * m->step_factor + c] += sums[C + c];
        }
    }
}
