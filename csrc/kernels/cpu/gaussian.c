/* gaussian: diagonal normals and directions, row by row of (R,C).  z = (x - mean) e^-log_std. */

/* d[i..] += v */
static inline void row_add(float *d, int64_t i, int64_t C, vec v) { row_store(d, i, C, row_load(d, i, C, 0.0f) + v); }

/* ln |d tanh / du| = 2 (ln 2 - u - softplus(-2u)) */
static inline vec log_slope_of_tanh(vec u) {
    const vec w = -2.0f * u, soft = vec_select(w > 0.0f, w, (vec){0}) + vec_log1p(vec_exp(-vec_abs(w)));
    return 2.0f * (0.693147180559945309f - u - soft);
}

/* out (R) = sum - z^2 / 2 - log_std - ln(2 pi) / 2; through tanh: of tanh(x), less its log slope. */
static void gaussian_log_prob_forward(float *out, const float *x, const float *mean, const float *log_std, int through_tanh,
                                      int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const float *px = x + r * C, *pm = mean + r * C, *pl = log_std + r * C;
        vec sum = {0};
        for (int64_t i = 0; i < C; i += WM_LANES) {
            const vec u = row_load(px, i, C, 0.0f), l = row_load(pl, i, C, 0.0f), z = (u - row_load(pm, i, C, 0.0f)) * vec_exp(-l);
            sum -= 0.5f * z * z + l;
            if (through_tanh) sum -= log_slope_of_tanh(u);
        }
        out[r] = vec_sum(sum) - 0.918938533204672742f * (float)C;
    }
}
/* dx -= dout z / std (- through tanh: + 2 tanh x),  dmean += dout z / std,  dlog_std += dout (z^2 - 1) */
static void gaussian_log_prob_backward(float *dx, float *dmean, float *dlog_std, const float *dout, const float *x,
                                       const float *mean, const float *log_std, int through_tanh, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++)
        for (int64_t i = 0; i < C; i += WM_LANES) {
            const int64_t at = r * C;
            const vec u = row_load(x + at, i, C, 0.0f), inverse = vec_exp(-row_load(log_std + at, i, C, 0.0f));
            const vec z = (u - row_load(mean + at, i, C, 0.0f)) * inverse, g = vec_set(dout[r]);
            if (dx) row_add(dx + at, i, C, g * (through_tanh ? 2.0f * vec_tanh(u) - z * inverse : -z * inverse));
            if (dmean) row_add(dmean + at, i, C, g * z * inverse);
            if (dlog_std) row_add(dlog_std + at, i, C, g * (z * z - 1.0f));
        }
}

/* out (R) = sum log_std + ln(2 pi e) / 2 */
static void gaussian_entropy_forward(float *out, const float *log_std, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r++) out[r] = sum_flat(log_std + r * C, NULL, C) + 1.418938533204672742f * (float)C;
}

/* With a = log_std_p - log_std_q, z = (mean_p - mean_q) / std_q:  loss (R) = sum (e^2a - 1) / 2 - a + z^2 / 2.
   mean_q, log_std_q may be NULL: 0. */
static void kl_gaussian_forward(float *loss, const float *mean_p, const float *log_std_p, const float *mean_q,
                                const float *log_std_q, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const int64_t at = r * C;
        vec sum = {0};
        for (int64_t i = 0; i < C; i += WM_LANES) {
            const vec lq = log_std_q ? row_load(log_std_q + at, i, C, 0.0f) : (vec){0};
            const vec mq = mean_q ? row_load(mean_q + at, i, C, 0.0f) : (vec){0};
            const vec a = row_load(log_std_p + at, i, C, 0.0f) - lq, z = (row_load(mean_p + at, i, C, 0.0f) - mq) * vec_exp(-lq);
            sum += 0.5f * (vec_expm1(2.0f * a) + z * z) - a;
        }
        loss[r] = vec_sum(sum);
    }
}
/* dmean_p += drow z / std_q = - dmean_q,  dlog_std_p += drow (e^2a - 1),  dlog_std_q += drow (1 - e^2a - z^2) */
static void kl_gaussian_backward(float *dmean_p, float *dlog_std_p, float *dmean_q, float *dlog_std_q, const float *drow,
                                 const float *mean_p, const float *log_std_p, const float *mean_q, const float *log_std_q,
                                 int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++)
        for (int64_t i = 0; i < C; i += WM_LANES) {
            const int64_t at = r * C;
            const vec lq = log_std_q ? row_load(log_std_q + at, i, C, 0.0f) : (vec){0};
            const vec mq = mean_q ? row_load(mean_q + at, i, C, 0.0f) : (vec){0}, inverse = vec_exp(-lq), g = vec_set(drow[r]);
            const vec e = vec_expm1(2.0f * (row_load(log_std_p + at, i, C, 0.0f) - lq));
            const vec z = (row_load(mean_p + at, i, C, 0.0f) - mq) * inverse;
            if (dmean_p) row_add(dmean_p + at, i, C, g * z * inverse);
            if (dmean_q) row_add(dmean_q + at, i, C, -g * z * inverse);
            if (dlog_std_p) row_add(dlog_std_p + at, i, C, g * e);
            if (dlog_std_q) row_add(dlog_std_q + at, i, C, -g * (e + z * z));
        }
}

/* ---- cosine: loss (R) = 1 - x.y / max(|x| |y|, 1e-8) ---- */

typedef struct { float dot, x, y; } lengths;
static inline lengths lengths_of(const float *x, const float *y, int64_t C) {
    vec d = {0}, a = {0}, b = {0};
    for (int64_t i = 0; i < C; i += WM_LANES) {
        const vec u = row_load(x, i, C, 0.0f), v = row_load(y, i, C, 0.0f);
        d += u * v, a += u * u, b += v * v;
    }
    return (lengths){vec_sum(d), sqrtf(vec_sum(a)), sqrtf(vec_sum(b))};
}
static inline float length_product(lengths l) { return l.x * l.y > 1e-8f ? l.x * l.y : 1e-8f; }

static void cosine_loss_forward(float *loss, const float *x, const float *y, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const lengths l = lengths_of(x + r * C, y + r * C, C);
        loss[r] = 1.0f - l.dot / length_product(l);
    }
}
/* dx -= drow (y / (|x| |y|) - cos x / |x|^2), and the same with x and y changed. */
static void cosine_loss_backward(float *dx, float *dy, const float *drow, const float *x, const float *y, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const float *px = x + r * C, *py = y + r * C;
        const lengths l = lengths_of(px, py, C);
        const float product = length_product(l), cosine = l.dot / product, near = l.x * l.y > 1e-8f ? cosine : 0.0f;
        const float bx = near == 0.0f ? 0.0f : near / (l.x * l.x), by = near == 0.0f ? 0.0f : near / (l.y * l.y);
        for (int64_t i = 0; i < C; i += WM_LANES) {
            const vec u = row_load(px, i, C, 0.0f), v = row_load(py, i, C, 0.0f);
            if (dx) row_add(dx + r * C, i, C, -drow[r] * (v / product - bx * u));
            if (dy) row_add(dy + r * C, i, C, -drow[r] * (u / product - by * v));
        }
    }
}
