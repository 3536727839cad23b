/* softmax: over the last axis of x (R,C), and what is made of it.
   With m = max x:  lse = m + ln sum e^(x - m),  p = e^(x - lse).  -inf is a probability of exactly 0; a row of nothing
   but -inf has lse = -inf and p = 0 everywhere. */

enum { SOFTMAX_GRAIN = 1 << 13 };

/* Numbers i.. of a row, with fill behind its end. */
static inline vec row_load(const float *x, int64_t i, int64_t C, float fill) {
    if (i + WM_LANES <= C) return vec_load(x + i);
    float lane[WM_LANES];
    for (int j = 0; j < WM_LANES; j++) lane[j] = i + j < C ? x[i + j] : fill;
    return vec_load(lane);
}
static inline void row_store(float *x, int64_t i, int64_t C, vec v) {
    if (i + WM_LANES <= C) vec_store(x + i, v); else vec_store_part(x + i, v, C - i);
}

/* m = max x; NaN if there is one. */
static inline float row_top(const float *x, int64_t C) {
    vec m = vec_set(-INFINITY), bad = {0};
    for (int64_t i = 0; i < C; i += WM_LANES) {
        vec v = row_load(x, i, C, -INFINITY);
        m = vec_max(v, m);
        bad = vec_select(v != v, v, bad);
    }
    return vec_top(m) + vec_sum(bad);
}
/* Sum over the row of e^(x - m); a row of -inf gives 0. */
static inline float row_exp_sum(const float *x, float m, int64_t C) {
    const float shift = m == -INFINITY ? 0.0f : m;
    vec s[2] = {{0}};
    for (int64_t i = 0; i < C; i += WM_LANES) s[i / WM_LANES & 1] += vec_exp(row_load(x, i, C, -INFINITY) - shift);
    return vec_sum(s[0] + s[1]);
}
static inline float row_lse(const float *x, int64_t C) {
    const float m = row_top(x, C);
    return m == -INFINITY ? m : m + logf(row_exp_sum(x, m, C));
}
static void softmax_forward(float *out, const float *x, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const float *row = x + r * C, m = row_top(row, C), shift = m == -INFINITY ? 0.0f : m;
        float *to = out + r * C;
        vec s[2] = {{0}};
        for (int64_t i = 0; i < C; i += WM_LANES) {
            vec e = vec_exp(row_load(row, i, C, -INFINITY) - shift);
            s[i / WM_LANES & 1] += e;
            row_store(to, i, C, e);
        }
        const float total = vec_sum(s[0] + s[1]), scale = total == 0.0f ? 0.0f : 1.0f / total;
        for (int64_t i = 0; i < C; i++) to[i] *= scale;
    }
}

/* dx += out (dout - sum dout out) */
static void softmax_backward(float *dx, const float *dout, const float *out, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const float *g = dout + r * C, *p = out + r * C;
        float *d = dx + r * C;
        vec s[2] = {{0}};
        for (int64_t i = 0; i < C; i += WM_LANES) s[i / WM_LANES & 1] += row_load(g, i, C, 0.0f) * row_load(p, i, C, 0.0f);
        const float dot = vec_sum(s[0] + s[1]);
        for (int64_t i = 0; i < C; i++) d[i] += p[i] * (g[i] - dot);
    }
}

/* out = x - lse, computed as (x - m) - ln sum e^(x - m) */
static void log_softmax_forward(float *out, const float *x, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const float *row = x + r * C, m = row_top(row, C);
        const float shift = m == -INFINITY ? 0.0f : m, l = m == -INFINITY ? 0.0f : logf(row_exp_sum(row, m, C));
        for (int64_t i = 0; i < C; i++) out[r * C + i] = (row[i] - shift) - l;
    }
}

/* dx += dout - e^out sum dout */
static void log_softmax_backward(float *dx, const float *dout, const float *out, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const float *g = dout + r * C;
        vec s[2] = {{0}};
        for (int64_t i = 0; i < C; i += WM_LANES) s[i / WM_LANES & 1] += row_load(g, i, C, 0.0f);
        const float total = vec_sum(s[0] + s[1]);
        for (int64_t i = 0; i < C; i += WM_LANES) {
            vec p = vec_exp(row_load(out + r * C, i, C, -INFINITY));
            row_store(dx + r * C, i, C, row_load(dx + r * C, i, C, 0.0f) + row_load(g, i, C, 0.0f) - p * total);
        }
    }
}

/* out (R) = lse */
static void logsumexp_forward(float *out, const float *x, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) out[r] = row_lse(x + r * C, C);
}

/* dx += dout p */
static void logsumexp_backward(float *dx, const float *dout, const float *out, const float *x, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++)
        for (int64_t i = 0; i < C; i += WM_LANES) {
            vec p = vec_exp(row_load(x + r * C, i, C, -INFINITY) - (out[r] == -INFINITY ? 0.0f : out[r]));
            row_store(dx + r * C, i, C, row_load(dx + r * C, i, C, 0.0f) + dout[r] * p);
        }
}

/* A row as log-probabilities (x - top) - ln sum e^(x - top): accurate however far the row is from 0. */
typedef struct { float top, log_sum; } row_scale;
static inline row_scale row_scale_of(const float *x, int64_t C) {
    const float m = row_top(x, C);
    return m == -INFINITY ? (row_scale){0.0f, 0.0f} : (row_scale){m, logf(row_exp_sum(x, m, C))};
}

/* out (R) = ln p[index]; log_sum (R) is kept for backward, which finds top again. */
static void log_prob_forward(float *out, float *log_sum, const float *x, const int32_t *index, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const row_scale s = row_scale_of(x + r * C, C);
        log_sum[r] = s.log_sum;
        out[r] = (x[r * C + index[r]] - s.top) - s.log_sum;
    }
}

/* dx += dout (one_hot(index) - p) */
static void log_prob_backward(float *dx, const float *dout, const float *log_sum, const float *x, const int32_t *index,
                              int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const float m = row_top(x + r * C, C), top = m == -INFINITY ? 0.0f : m;
        for (int64_t i = 0; i < C; i += WM_LANES) {
            vec p = vec_exp((row_load(x + r * C, i, C, -INFINITY) - top) - log_sum[r]);
            row_store(dx + r * C, i, C, row_load(dx + r * C, i, C, 0.0f) - dout[r] * p);
        }
        dx[r * C + index[r]] += dout[r];
    }
}

/* out (R) = - sum p ln p; log_sum (R) is kept for backward.  A probability of 0 adds 0. */
static void entropy_forward(float *out, float *log_sum, const float *x, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const row_scale k = row_scale_of(x + r * C, C);
        vec s = {0};
        for (int64_t i = 0; i < C; i += WM_LANES) {
            const vec l = (row_load(x + r * C, i, C, -INFINITY) - k.top) - k.log_sum, p = vec_exp(l);
            s -= vec_select(p == 0.0f, (vec){0}, p * l);
        }
        log_sum[r] = k.log_sum;
        out[r] = vec_sum(s);
    }
}

/* dx -= dout p (ln p + entropy) */
static void entropy_backward(float *dx, const float *dout, const float *out, const float *log_sum, const float *x, int64_t R,
                             int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const float m = row_top(x + r * C, C), top = m == -INFINITY ? 0.0f : m;
        for (int64_t i = 0; i < C; i += WM_LANES) {
            const vec l = (row_load(x + r * C, i, C, -INFINITY) - top) - log_sum[r], p = vec_exp(l);
            const vec d = vec_select(p == 0.0f, (vec){0}, p * (l + out[r]));
            row_store(dx + r * C, i, C, row_load(dx + r * C, i, C, 0.0f) - dout[r] * d);
        }
    }
}
