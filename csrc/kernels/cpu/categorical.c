/* categorical: losses of rows of logits x (R,C), p = softmax x, and values as two-hot rows over bins.
   log_sum (R) = ln sum e^(x - max x) is kept for backward; drow (R) is what each row's loss receives. */

/* ln p of numbers i.. of a row; -inf behind its end. */
static inline vec log_p(const float *x, row_scale s, int64_t i, int64_t C) {
    return (row_load(x, i, C, -INFINITY) - s.top) - s.log_sum;
}
static inline row_scale row_scale_again(const float *x, float log_sum, int64_t C) {
    const float m = row_top(x, C);
    return (row_scale){m == -INFINITY ? 0.0f : m, log_sum};
}
/* a b, and 0 where a is 0, whatever b */
static inline vec vec_weighted(vec a, vec b) { return vec_select(a == 0.0f, (vec){0}, a * b); }

/* ---- cross-entropy with an index: - (1 - e) ln p[index] - e mean ln p, e = smoothing ---- */

static void cross_entropy_forward(float *loss, float *log_sum, const float *x, const int32_t *index, float smoothing, int64_t R,
                                  int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const row_scale s = row_scale_of(x + r * C, C);
        float l = -(1.0f - smoothing) * ((x[r * C + index[r]] - s.top) - s.log_sum);
        if (smoothing != 0.0f) {
            vec sum = {0};
            for (int64_t i = 0; i < C; i += WM_LANES) sum += row_load(x + r * C, i, C, s.top) - s.top;
            l -= smoothing * (vec_sum(sum) / (float)C - s.log_sum);
        }
        log_sum[r] = s.log_sum, loss[r] = l;
    }
}
/* dx += drow (p - (1 - e) one_hot(index) - e / C) */
static void cross_entropy_backward(float *dx, const float *drow, const float *log_sum, const float *x, const int32_t *index,
                                   float smoothing, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const row_scale s = row_scale_again(x + r * C, log_sum[r], C);
        for (int64_t i = 0; i < C; i += WM_LANES) {
            const vec d = vec_exp(log_p(x + r * C, s, i, C)) - smoothing / (float)C;
            row_store(dx + r * C, i, C, row_load(dx + r * C, i, C, 0.0f) + drow[r] * d);
        }
        dx[r * C + index[r]] -= drow[r] * (1.0f - smoothing);
    }
}

/* ---- cross-entropy with probabilities: - sum t' ln p, t' = (1 - e) t + e / C ---- */

static inline vec smoothed(const float *target, float smoothing, int64_t i, int64_t C) {
    const vec t = (1.0f - smoothing) * row_load(target, i, C, 0.0f) + smoothing / (float)C;
    if (i + WM_LANES <= C) return t;
    vec inside = {0};
    for (int64_t j = 0; j < C - i; j++) inside[j] = t[j];
    return inside;
}
static void soft_cross_entropy_forward(float *loss, float *log_sum, const float *x, const float *target, float smoothing,
                                       int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const row_scale s = row_scale_of(x + r * C, C);
        vec sum = {0};
        for (int64_t i = 0; i < C; i += WM_LANES)
            sum -= vec_weighted(smoothed(target + r * C, smoothing, i, C), log_p(x + r * C, s, i, C));
        log_sum[r] = s.log_sum, loss[r] = vec_sum(sum);
    }
}
/* dx += drow (p sum t' - t') */
static void soft_cross_entropy_backward(float *dx, const float *drow, const float *log_sum, const float *x,
                                        const float *target, float smoothing, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const row_scale s = row_scale_again(x + r * C, log_sum[r], C);
        vec sum = {0};
        for (int64_t i = 0; i < C; i += WM_LANES) sum += smoothed(target + r * C, smoothing, i, C);
        const float total = vec_sum(sum);
        for (int64_t i = 0; i < C; i += WM_LANES) {
            const vec d = vec_exp(log_p(x + r * C, s, i, C)) * total - smoothed(target + r * C, smoothing, i, C);
            row_store(dx + r * C, i, C, row_load(dx + r * C, i, C, 0.0f) + drow[r] * d);
        }
    }
}

/* ---- two-hot: a value as weights on its two neighbours among ascending bins (K); outside, on the last one ---- */

typedef struct { int64_t low; float up; } two_hot;      /* 1 - up on bin low, up on the next */
static inline two_hot two_hot_of(float x, const float *bins, int64_t K) {
    if (!(x > bins[0])) return (two_hot){0, x == x ? 0.0f : x};
    if (x >= bins[K - 1]) return (two_hot){K - 2, 1.0f};
    int64_t low = 0, high = K - 1;                      /* bins[low] <= x < bins[high] */
    while (high - low > 1) {
        const int64_t mid = (low + high) / 2;
        if (bins[mid] <= x) low = mid; else high = mid;
    }
    return (two_hot){low, (float)(((double)x - bins[low]) / ((double)bins[high] - bins[low]))};
}

static void two_hot_forward(float *out, const float *x, const float *bins, int64_t R, int64_t K) {
    for (int64_t r = 0; r < R; r++) {
        const two_hot t = two_hot_of(x[r], bins, K);
        memset(out + r * K, 0, (size_t)K * sizeof(float));
        out[r * K + t.low] = 1.0f - t.up, out[r * K + t.low + 1] = t.up;
    }
}

/* loss = - sum two_hot(value) ln p.  logits (R,K), value (R), bins (K). */
static void two_hot_loss_forward(float *loss, float *log_sum, const float *x, const float *value, const float *bins, int64_t R,
                                 int64_t K) {
    #pragma omp parallel for num_threads(wm_threads) if (R * K > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const row_scale s = row_scale_of(x + r * K, K);
        const two_hot t = two_hot_of(value[r], bins, K);
        const float *p = x + r * K + t.low, low = (p[0] - s.top) - s.log_sum, high = (p[1] - s.top) - s.log_sum;
        log_sum[r] = s.log_sum;
        loss[r] = -(t.up == 1.0f ? 0.0f : (1.0f - t.up) * low) - (t.up == 0.0f ? 0.0f : t.up * high);
    }
}
/* dx += drow (p - two_hot(value)) */
static void two_hot_loss_backward(float *dx, const float *drow, const float *log_sum, const float *x, const float *value,
                                  const float *bins, int64_t R, int64_t K) {
    #pragma omp parallel for num_threads(wm_threads) if (R * K > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const row_scale s = row_scale_again(x + r * K, log_sum[r], K);
        const two_hot t = two_hot_of(value[r], bins, K);
        float *d = dx + r * K;
        for (int64_t i = 0; i < K; i += WM_LANES)
            row_store(d, i, K, row_load(d, i, K, 0.0f) + drow[r] * vec_exp(log_p(x + r * K, s, i, K)));
        d[t.low] -= drow[r] * (1.0f - t.up), d[t.low + 1] -= drow[r] * t.up;
    }
}

/* out (R) = sum p bins, bins paired from both ends and summed in double: mirrored bins under equal logits give 0. */
static void two_hot_mean_forward(float *out, float *log_sum, const float *x, const float *bins, int64_t R, int64_t K) {
    #pragma omp parallel for num_threads(wm_threads) if (R * K > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const float *row = x + r * K;
        const row_scale s = row_scale_of(row, K);
        double sum = K % 2 ? (double)expf(row[K / 2] - s.top) * bins[K / 2] : 0.0;
        for (int64_t i = 0; i < K / 2; i += WM_LANES) {
            const int64_t n = K / 2 - i < WM_LANES ? K / 2 - i : WM_LANES;
            float mirrored[WM_LANES] = {0};
            for (int64_t j = 0; j < n; j++) mirrored[j] = row[K - 1 - i - j] - s.top;
            const vec low = vec_exp(row_load(row, i, K / 2, -INFINITY) - s.top), high = vec_exp(vec_load(mirrored));
            for (int64_t j = 0; j < n; j++)
                sum += (double)low[j] * bins[i + j] + (double)high[j] * bins[K - 1 - i - j];
        }
        log_sum[r] = s.log_sum;
        out[r] = (float)(sum / exp((double)s.log_sum));
    }
}
/* dx += dout p (bins - out) */
static void two_hot_mean_backward(float *dx, const float *dout, const float *out, const float *log_sum, const float *x,
                                  const float *bins, int64_t R, int64_t K) {
    #pragma omp parallel for num_threads(wm_threads) if (R * K > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const row_scale s = row_scale_again(x + r * K, log_sum[r], K);
        for (int64_t i = 0; i < K; i += WM_LANES) {
            const vec d = vec_exp(log_p(x + r * K, s, i, K)) * (row_load(bins, i, K, 0.0f) - out[r]);
            row_store(dx + r * K, i, K, row_load(dx + r * K, i, K, 0.0f) + dout[r] * d);
        }
    }
}

/* bins (K), rising and mirrored bit for bit: linspace(low, high) with low = -high, through symexp if asked. */
static void two_hot_bins(float *out, float high, int symexp, int64_t K) {
    for (int64_t i = 0; i < K; i++) out[i] = 0.0f;
    for (int64_t i = 0; i < K / 2; i++) {
        const double x = (double)high * (double)(K - 1 - 2 * i) / (double)(K - 1);
        const float b = (float)(symexp ? expm1(x) : x);
        out[i] = -b, out[K - 1 - i] = b;
    }
}

/* ---- KL(p || q) of rows of G groups of C logits, summed over the groups, at least free ---- */

typedef struct { row_scale p, q; float kl; } kl_group;
static kl_group kl_group_of(const float *p, const float *q, int64_t C) {
    kl_group k = {row_scale_of(p, C), row_scale_of(q, C), 0.0f};
    vec sum = {0};
    for (int64_t i = 0; i < C; i += WM_LANES) {
        const vec l = log_p(p, k.p, i, C);
        sum += vec_weighted(vec_exp(l), l - log_p(q, k.q, i, C));
    }
    k.kl = vec_sum(sum);
    return k;
}
static void kl_categorical_forward(float *loss, const float *p, const float *q, float free, int64_t R, int64_t G, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * G * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        float sum = 0.0f;
        for (int64_t g = 0; g < G; g++) sum += kl_group_of(p + (r * G + g) * C, q + (r * G + g) * C, C).kl;
        loss[r] = free > 0.0f && sum < free ? free : sum;
    }
}
/* dp += drow p (ln p - ln q - kl),  dq += drow (q - p);  nothing where the loss was held at free. */
static void kl_categorical_backward(float *dp, float *dq, const float *drow, const float *loss, const float *p, const float *q,
                                    float free, int64_t R, int64_t G, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * G * C > SOFTMAX_GRAIN)
    for (int64_t i = 0; i < R * G; i++) {
        const int64_t r = i / G, at = i * C;
        if (free > 0.0f && loss[r] <= free) continue;
        const kl_group k = kl_group_of(p + at, q + at, C);
        for (int64_t c = 0; c < C; c += WM_LANES) {
            const vec lp = log_p(p + at, k.p, c, C), lq = log_p(q + at, k.q, c, C), e = vec_exp(lp);
            if (dp) row_store(dp + at, c, C, row_load(dp + at, c, C, 0.0f) + drow[r] * vec_weighted(e, lp - lq - k.kl));
            if (dq) row_store(dq + at, c, C, row_load(dq + at, c, C, 0.0f) + drow[r] * (vec_exp(lq) - e));
        }
    }
}

/* ---- unimix: out = ln ((1 - mix) p + mix / C) ---- */

static void unimix_forward(float *out, float *log_sum, const float *x, float mix, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const row_scale s = row_scale_of(x + r * C, C);
        log_sum[r] = s.log_sum;
        for (int64_t i = 0; i < C; i += WM_LANES)
            row_store(out + r * C, i, C, vec_log((1.0f - mix) * vec_exp(log_p(x + r * C, s, i, C)) + mix / (float)C));
    }
}
/* h = dout (1 - mix) / e^out;  dx += p (h - sum p h) */
static void unimix_backward(float *dx, const float *dout, const float *out, const float *log_sum, const float *x, float mix,
                            int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > SOFTMAX_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        const float *g = dout + r * C, *y = out + r * C;
        const row_scale s = row_scale_again(x + r * C, log_sum[r], C);
        vec sum = {0};
        for (int64_t i = 0; i < C; i += WM_LANES)
            sum += vec_exp(log_p(x + r * C, s, i, C) - row_load(y, i, C, 0.0f)) * row_load(g, i, C, 0.0f);
        const float dot = (1.0f - mix) * vec_sum(sum);
        for (int64_t i = 0; i < C; i += WM_LANES) {
            const vec l = log_p(x + r * C, s, i, C), share = vec_exp(l - row_load(y, i, C, 0.0f));
            const vec d = (1.0f - mix) * share * row_load(g, i, C, 0.0f) - vec_exp(l) * dot;
            row_store(dx + r * C, i, C, row_load(dx + r * C, i, C, 0.0f) + d);
        }
    }
}
