/* norm: layer and RMS norm over the last axis, with a factor and a term per group of rows.

       out = h (plus + factor) + term,    h = (x - mean) rstd
       layer: mean = sum x / C, rstd = 1 / sqrt(sum (x - mean)^2 / C + eps);    rms: mean = 0

   An affine norm is one group of all rows with plus 0 (weight, bias); AdaLN is a group a condition with plus 1 (scale,
   shift).  Backward, with g = dout (plus + factor):

       dx = rstd (g - sum g / C - h sum (g h) / C)      the middle term only for layer norm
       dfactor = sum over the group's rows of dout h,    dterm = sum of dout

   Sums over rows go in chunks of NORM_CHUNK rows of one group, whatever the threads.  NORM_BLOCK rows take each step
   together: they stay in the first cache, and the long chains of one row's sums hide behind those of the others. */
enum { NORM_CHUNK = 64, NORM_BLOCK = 4 };

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

/* ---- forward ------------------------------------------------------------------------------------ */

/* plus + factor at a column; the same for all if there is no factor */
static inline vec norm_factor(const float *factor, float plus, int64_t c, int64_t left) {
    return factor ? plus + norm_load(factor + c, left) : vec_set(plus);
}

static inline void norm_apply(float *out, const float *x, const float *factor, const float *term, float plus, float mean,
                              float rstd, int64_t c, int64_t left) {
    vec h = (norm_load(x + c, left) - mean) * rstd * norm_factor(factor, plus, c, left);
    norm_store(out + c, term ? h + norm_load(term + c, left) : h, left);
}

static void norm_row(float *out, const float *x, const float *factor, const float *term, float plus, float mean, float rstd,
                     int64_t C) {
    int64_t c = 0;
    if (factor && term) for (; c + WM_LANES <= C; c += WM_LANES) norm_apply(out, x, factor, term, plus, mean, rstd, c, WM_LANES);
    for (; c + WM_LANES <= C; c += WM_LANES) norm_apply(out, x, factor, term, plus, mean, rstd, c, WM_LANES);
    if (c < C) norm_apply(out, x, factor, term, plus, mean, rstd, c, C - c);
}

/* mean (R), rstd (R) may be NULL; mean is not written for rms. */
static void norm_forward(float *out, float *mean, float *rstd, const float *x, const wm_modulation *m, bool rms, float eps,
                         int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) schedule(static) if (R * C >= 1 << 14)
    for (int64_t first = 0; first < R; first += NORM_BLOCK) {
        int64_t n = R - first < NORM_BLOCK ? R - first : NORM_BLOCK;
        float mu[NORM_BLOCK] = {0}, scale[NORM_BLOCK];
        const float *from = x + first * C;
        for (int64_t i = 0; i < n && !rms; i++) mu[i] = norm_sum(from + i * C, C) / (float)C;
        for (int64_t i = 0; i < n; i++) scale[i] = 1 / sqrtf(norm_squares(from + i * C, mu[i], C) / (float)C + eps);
        for (int64_t i = 0; i < n; i++) {
            int64_t r = first + i, group = r / m->rows;
            if (mean && !rms) mean[r] = mu[i];
            if (rstd) rstd[r] = scale[i];
            norm_row(out + r * C, x + r * C, m->factor ? m->factor + group * m->step_factor : NULL,
                     m->term ? m->term + group * m->step_term : NULL, m->plus, mu[i], scale[i], C);
        }
    }
}

/* ---- backward ----------------------------------------------------------------------------------- */

/* The means of g and g h of a row. */
static inline void norm_means(float *mean_g, float *mean_gh, const float *dout, const float *x, const float *factor, float plus,
                              float mean, float rstd, int64_t C) {
    vec s[2] = {{0}}, q[2] = {{0}};
    int64_t c = 0;
    for (; c + 2 * WM_LANES <= C; c += 2 * WM_LANES) UNROLL for (int i = 0; i < 2; i++) {
        vec g = vec_load(dout + c + i * WM_LANES) * norm_factor(factor, plus, c + i * WM_LANES, WM_LANES);
        s[i] += g, q[i] += g * ((vec_load(x + c + i * WM_LANES) - mean) * rstd);
    }
    for (; c < C; c += WM_LANES) {
        vec g = norm_load(dout + c, C - c) * norm_factor(factor, plus, c, C - c);
        s[0] += g, q[0] += g * ((norm_load(x + c, C - c) - mean) * rstd);
    }
    *mean_g = vec_sum(s[0] + s[1]) / (float)C, *mean_gh = vec_sum(q[0] + q[1]) / (float)C;
}

static inline void norm_dx(float *dx, const float *dout, const float *x, const float *factor, float plus, float mean, float rstd,
                           float mean_g, float mean_gh, int64_t c, int64_t left) {
    vec g = norm_load(dout + c, left) * norm_factor(factor, plus, c, left), h = (norm_load(x + c, left) - mean) * rstd;
    norm_store(dx + c, norm_load(dx + c, left) + rstd * (g - mean_g - h * mean_gh), left);
}

/* What n rows add to dfactor and dterm at one vector of columns. */
static inline void norm_columns(float *dfactor, float *dterm, const float *dout, const float *x, const float *mean,
                                const float *rstd, int64_t n, int64_t c, int64_t left, int64_t C) {
    vec sum = {0}, sum_h = {0};
    for (int64_t i = 0; i < n; i++) {
        vec d = norm_load(dout + i * C + c, left);
        sum += d, sum_h += d * ((norm_load(x + i * C + c, left) - mean[i]) * rstd[i]);
    }
    if (dfactor) norm_store(dfactor + c, norm_load(dfactor + c, left) + sum_h, left);
    if (dterm) norm_store(dterm + c, norm_load(dterm + c, left) + sum, left);
}

/* n <= NORM_BLOCK rows of one group: dx, and their part of the sums over rows.  dx, dfactor, dterm may be NULL. */
static void norm_block_backward(float *dx, float *dfactor, float *dterm, const float *dout, const float *x, const float *factor,
                                float plus, const float *mean, const float *rstd, bool rms, int64_t n, int64_t C) {
    float mean_g[NORM_BLOCK], mean_gh[NORM_BLOCK];
    int64_t c = 0;
    for (int64_t i = 0; i < n && dx; i++) {
        norm_means(&mean_g[i], &mean_gh[i], dout + i * C, x + i * C, factor, plus, mean[i], rstd[i], C);
        if (rms) mean_g[i] = 0;
    }
    if (dfactor || dterm) {
        if (n == NORM_BLOCK) for (; c + WM_LANES <= C; c += WM_LANES)
            norm_columns(dfactor, dterm, dout, x, mean, rstd, NORM_BLOCK, c, WM_LANES, C);
        for (; c < C; c += WM_LANES) norm_columns(dfactor, dterm, dout, x, mean, rstd, n, c, C - c, C);
    }
    for (int64_t i = 0; i < n && dx; i++, dx += C, dout += C, x += C) {
        c = 0;
        if (factor) for (; c + WM_LANES <= C; c += WM_LANES)
            norm_dx(dx, dout, x, factor, plus, mean[i], rstd[i], mean_g[i], mean_gh[i], c, WM_LANES);
        for (; c + WM_LANES <= C; c += WM_LANES)
            norm_dx(dx, dout, x, NULL, plus, mean[i], rstd[i], mean_g[i], mean_gh[i], c, WM_LANES);
        if (c < C) norm_dx(dx, dout, x, factor, plus, mean[i], rstd[i], mean_g[i], mean_gh[i], c, C - c);
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
    const float no_mean[NORM_BLOCK] = {0};
    #pragma omp parallel for num_threads(wm_threads) if (R * C > 1 << 16)
    for (int64_t i = 0; i < groups * chunks; i++) {
        int64_t g = i / chunks, first = i % chunks * NORM_CHUNK, last = first + NORM_CHUNK < m->rows ? first + NORM_CHUNK : m->rows;
        float *part = scratch + 2 * i * C;
        if (!whole && (dfactor || dterm)) memset(part, 0, (size_t)(2 * C) * sizeof *part);
        float *to_factor = !dfactor ? NULL : whole ? dfactor + g * m->step_factor : part;
        float *to_term = !dterm ? NULL : whole ? dterm + g * m->step_term : part + C;
        for (int64_t r = g * m->rows + first, end = g * m->rows + last; r < end; r += NORM_BLOCK)
            norm_block_backward(dx ? dx + r * C : NULL, to_factor, to_term, dout + r * C, x + r * C,
                                m->factor ? m->factor + g * m->step_factor : NULL, m->plus, rms ? no_mean : mean + r, rstd + r,
                                rms, end - r < NORM_BLOCK ? end - r : NORM_BLOCK, C);
    }
    if (!whole && dfactor) norm_add_chunks(dfactor, m->step_factor, scratch, 2 * C, groups, chunks, C);
    if (!whole && dterm) norm_add_chunks(dterm, m->step_term, scratch + C, 2 * C, groups, chunks, C);
}
