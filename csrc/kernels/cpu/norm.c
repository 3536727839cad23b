/* norm: layer and RMS norm over the last axis, with a factor and a term per group of rows.

       out = h (plus + factor) + term,    h = (x - mean) rstd
       layer: mean = sum x / C, rstd = 1 / sqrt(sum (x - mean)^2 / C + eps);    rms: mean = 0

   An affine norm is one group of all rows with plus 0 (weight, bias); AdaLN is a group a condition with plus 1 (scale,
   shift).  Backward, with g = dout (plus + factor):

       dx = rstd (g - sum g / C - h sum (g h) / C)      the middle term only for layer norm
       dfactor = sum over the group's rows of dout h,    dterm = sum of dout

   Sums over rows go in chunks of NORM_CHUNK rows of one group, whatever the threads. */
enum { NORM_CHUNK = 64 };

/* The next vector of a row with `left` numbers to go; the lanes behind them are 0, and are not written. */
static inline vec norm_load(const float *p, int64_t left) { return left >= WM_LANES ? vec_load(p) : vec_load_part(p, left); }
static inline void norm_store(float *p, vec v, int64_t left) {
    if (left >= WM_LANES) vec_store(p, v); else vec_store_part(p, v, left);
}

/* v with the lanes from `left` on set to 0 */
static inline vec norm_keep(vec v, int64_t left) {
    float lane[WM_LANES];
    if (left >= WM_LANES) return v;
    vec_store(lane, v);
    return vec_load_part(lane, left);
}

/* sum of x, sum of (x - mean)^2: four chains, so that they hide each other's latency */
static inline float norm_sum(const float *x, int64_t C) {
    vec s[4] = {{0}};
    int64_t c = 0;
    for (; c + 4 * WM_LANES <= C; c += 4 * WM_LANES) UNROLL for (int i = 0; i < 4; i++) s[i] += vec_load(x + c + i * WM_LANES);
    for (; c < C; c += WM_LANES) s[0] += norm_load(x + c, C - c);
    return vec_sum((s[0] + s[1]) + (s[2] + s[3]));
}
static inline float norm_squares(const float *x, float mean, int64_t C) {
    vec s[4] = {{0}};
    int64_t c = 0;
    for (; c + 4 * WM_LANES <= C; c += 4 * WM_LANES) UNROLL for (int i = 0; i < 4; i++) {
        vec d = vec_load(x + c + i * WM_LANES) - mean;
        s[i] += d * d;
    }
    for (; c < C; c += WM_LANES) {
        vec d = norm_keep(norm_load(x + c, C - c) - mean, C - c);
        s[0] += d * d;
    }
    return vec_sum((s[0] + s[1]) + (s[2] + s[3]));
}

/* plus + factor at column c; the same for every group if there is no factor */
static inline vec norm_factor(const float *factor, float plus, int64_t c, int64_t left) {
    return factor ? plus + norm_load(factor + c, left) : vec_set(plus);
}

static inline __attribute__((always_inline)) void norm_row(float *out, const float *x, const float *factor, const float *term,
                                                           float plus, float mean, float rstd, int64_t C) {
    for (int64_t c = 0; c < C; c += WM_LANES) {
        vec h = (norm_load(x + c, C - c) - mean) * rstd * norm_factor(factor, plus, c, C - c);
        if (term) h += norm_load(term + c, C - c);
        norm_store(out + c, h, C - c);
    }
}

/* mean (R), rstd (R) may be NULL; mean is not written for rms. */
static void norm_forward(float *out, float *mean, float *rstd, const float *x, const wm_modulation *m, bool rms, float eps,
                         int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > 1 << 14)
    for (int64_t r = 0; r < R; r++) {
        const float *from = x + r * C;
        float mu = rms ? 0 : norm_sum(from, C) / (float)C;
        float scale = 1 / sqrtf(norm_squares(from, mu, C) / (float)C + eps);
        if (mean && !rms) mean[r] = mu;
        if (rstd) rstd[r] = scale;
        int64_t group = r / m->rows;
        norm_row(out + r * C, from, m->factor ? m->factor + group * m->step_factor : NULL,
                 m->term ? m->term + group * m->step_term : NULL, m->plus, mu, scale, C);
    }
}

/* One row: dx, and its part of the sums over rows.  All but dout and x may be NULL. */
static void norm_row_backward(float *dx, float *dfactor, float *dterm, const float *dout, const float *x, const float *factor,
                              float plus, float mean, float rstd, bool rms, int64_t C) {
    vec sum_g = {0}, sum_gh = {0};
    for (int64_t c = 0; c < C; c += WM_LANES) {
        int64_t left = C - c;
        vec d = norm_load(dout + c, left), h = (norm_load(x + c, left) - mean) * rstd, g = d * norm_factor(factor, plus, c, left);
        sum_g += g, sum_gh += g * h;
        if (dfactor) norm_store(dfactor + c, norm_load(dfactor + c, left) + d * h, left);
        if (dterm) norm_store(dterm + c, norm_load(dterm + c, left) + d, left);
    }
    if (!dx) return;
    float mean_g = rms ? 0 : vec_sum(sum_g) / (float)C, mean_gh = vec_sum(sum_gh) / (float)C;
    for (int64_t c = 0; c < C; c += WM_LANES) {
        int64_t left = C - c;
        vec g = norm_load(dout + c, left) * norm_factor(factor, plus, c, left), h = (norm_load(x + c, left) - mean) * rstd;
        norm_store(dx + c, norm_load(dx + c, left) + rstd * (g - mean_g - h * mean_gh), left);
    }
}

/* Adds the chunks' sums in order: to[group] (rows of step) += sum over chunks of from[group][chunk] (rows of `wide`). */
static void norm_add_chunks(float *to, int64_t step, const float *from, int64_t wide, int64_t groups, int64_t chunks, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (groups > 1 && groups * chunks * C > 1 << 14)
    for (int64_t g = 0; g < groups; g++)
        for (int64_t k = 0; k < chunks; k++) {
            const float *part = from + (g * chunks + k) * wide;
            for (int64_t c = 0; c < C; c++) to[g * step + c] += part[c];
        }
}

/* dx, dfactor, dterm may be NULL; mean too, for rms.  scratch: 2 C numbers a chunk. */
static void norm_backward(float *dx, float *dfactor, float *dterm, const float *dout, const float *x, const float *mean,
                          const float *rstd, const wm_modulation *m, bool rms, float *scratch, int64_t R, int64_t C) {
    int64_t groups = R / m->rows, chunks = (m->rows + NORM_CHUNK - 1) / NORM_CHUNK;
    bool whole = chunks == 1;       /* then the sums need no scratch */
    #pragma omp parallel for num_threads(wm_threads) if (R * C > 1 << 14)
    for (int64_t i = 0; i < groups * chunks; i++) {
        int64_t g = i / chunks, first = i % chunks * NORM_CHUNK, last = first + NORM_CHUNK < m->rows ? first + NORM_CHUNK : m->rows;
        float *part = scratch + 2 * i * C;
        if (!whole && (dfactor || dterm)) memset(part, 0, (size_t)(2 * C) * sizeof *part);
        float *to_factor = !dfactor ? NULL : whole ? dfactor + g * m->step_factor : part;
        float *to_term = !dterm ? NULL : whole ? dterm + g * m->step_term : part + C;
        for (int64_t r = g * m->rows + first; r < g * m->rows + last; r++)
            norm_row_backward(dx ? dx + r * C : NULL, to_factor, to_term, dout + r * C, x + r * C,
                              m->factor ? m->factor + g * m->step_factor : NULL, m->plus, rms ? 0 : mean[r], rstd[r], rms, C);
    }
    if (!whole && dfactor) norm_add_chunks(dfactor, m->step_factor, scratch, 2 * C, groups, chunks, C);
    if (!whole && dterm) norm_add_chunks(dterm, m->step_term, scratch + C, 2 * C, groups, chunks, C);
}
