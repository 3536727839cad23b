/* diffuse: noising, conversions and solver updates, one level a row (a sample, or a frame of it).

   A noisy row is y = a x + s e with x clean, e ~ N(0, 1):
       kind            level     a             s                 v
       NOISE_FLOW  0   tau       tau           1 - tau           x - e              tau = 1: clean
       NOISE_EDM   1   sigma     1             sigma             F = (x - c_skip y) / c_out (Karras et al., arXiv 2206.00364)
       NOISE_DDPM  2   abar      sqrt(abar)    sqrt(1 - abar)    a e - s x
   Every conversion and every deterministic update is linear in two tensors with two numbers a row, so that there is one kernel
   for the numbers (coefficients, in float64) and one for the tensors (mix).  R rows of P numbers. */

enum { NOISE_FLOW, NOISE_EDM, NOISE_DDPM };     /* kind */
enum { IS_X, IS_EPS, IS_V };                    /* what a network says */
enum { LEVEL_STEP = 6, LEVEL_HEUN = 4 };        /* coefficients a row */

static const double least = 1e-5;               /* denominators stay above: 1 / (1 - tau) at tau = 1 */

typedef struct { double a, s; } level_parts;    /* signal, noise */
typedef struct { double of, y; } level_pair;    /* out = of * tensor + y * noisy */

static level_parts parts_of(int kind, double level) {
    if (kind == NOISE_FLOW) return (level_parts){level, 1 - level};
    if (kind == NOISE_EDM) return (level_parts){1, level};
    double abar = level < 0 ? 0 : level > 1 ? 1 : level;
    return (level_parts){sqrt(abar), sqrt(1 - abar)};
}

static double at_least(double x) { return x > least ? x : least; }

/* EDM preconditioning with offset noise (DIAMOND, Alonso et al., arXiv 2405.12399): s^2 = sigma^2 + offset^2 */
typedef struct { double in, skip, out, noise; } edm_parts;
static edm_parts edm_of(double sigma, double data, double offset) {
    double s2 = sigma * sigma + offset * offset, all = s2 + data * data;
    return (edm_parts){1 / sqrt(all), data * data / all, sqrt(s2) * data / sqrt(all), log(at_least(sqrt(s2))) / 4};
}

/* target = of * source + y * noisy */
static level_pair convert_pair(int kind, int from, int to, double level, double data, double offset) {
    level_parts p = parts_of(kind, level);
    double a = p.a, s = p.s, over_a = 1 / at_least(a), over_s = 1 / at_least(s);
    if (from == to) return (level_pair){1, 0};
    if (from == IS_X && to == IS_EPS) return (level_pair){-a * over_s, over_s};
    if (from == IS_EPS && to == IS_X) return (level_pair){-s * over_a, over_a};
    if (kind == NOISE_FLOW) {
        if (from == IS_X) return (level_pair){over_s, -over_s};
        if (from == IS_EPS) return (level_pair){-over_a, over_a};
        return to == IS_X ? (level_pair){s, 1} : (level_pair){-a, 1};
    }
    if (kind == NOISE_DDPM) {
        if (from == IS_X) return (level_pair){-over_s, a * over_s};
        if (from == IS_EPS) return (level_pair){over_a, -s * over_a};
        return to == IS_X ? (level_pair){-s, a} : (level_pair){a, s};
    }
    edm_parts e = edm_of(level, data, offset);
    double over_out = 1 / at_least(e.out);
    if (from == IS_X) return (level_pair){over_out, -e.skip * over_out};
    if (from == IS_EPS) return (level_pair){-s * over_out, (1 - e.skip) * over_out};
    return to == IS_X ? (level_pair){e.out, e.skip} : (level_pair){-e.out * over_s, (1 - e.skip) * over_s};
}

/* ---- coefficients of a row -------------------------------------------------------------------------- */

static void convert_coefficients(float *of, float *y, const float *level, int kind, int from, int to, double data, double offset,
                                 int64_t R) {
    for (int64_t r = 0; r < R; r++) {
        level_pair p = convert_pair(kind, from, to, (double)level[r], data, offset);
        of[r] = (float)p.of, y[r] = (float)p.y;
    }
}

/* c_in and c_noise of the EDM network input */
static void edm_coefficients(float *in, float *noise, const float *sigma, double data, double offset, int64_t R) {
    for (int64_t r = 0; r < R; r++) {
        edm_parts e = edm_of((double)sigma[r], data, offset);
        in[r] = (float)e.in, noise[r] = (float)e.noise;
    }
}

/* coef (R,6): x^ = c0 pred + c1 y;  out = c2 x^ + c3 prev + c4 y + c5 n, from level A to B:
       n's weight  u = eta s_B sqrt(1 - q^2), q = s_B a_A / (a_B s_A);  d = sqrt(s_B^2 - u^2) / s_A
       out = (a_B - a_A d) x^ + d y + u n
   which is Euler (flow and EDM) and DDIM for eta = 0, DDIM(eta), and the ancestral Euler step for eta = 1.  With last (the
   level of the step before) and prev, the x^ there: DPM-Solver++(2M), Lu et al., arXiv 2211.01095: x^ + (x^ - prev) / (2 r),
   r = (l_A - l_last) / (l_B - l_A), l = ln(a / s).  A row whose level does not change, or is clean, is copied.
   as_size: next is how far to go (shortcut models), not where. */
static void step_coefficients(float *coef, const float *level, const float *next, const float *last, int kind, int target,
                              int as_size, double eta, double data, double offset, int64_t R) {
    for (int64_t r = 0; r < R; r++) {
        float *c = coef + LEVEL_STEP * r;
        double to = as_size ? (double)level[r] + (double)next[r] : (double)next[r];
        if (as_size && to > 1 - 1e-6) to = 1;
        level_parts A = parts_of(kind, (double)level[r]), B = parts_of(kind, to);
        level_pair p = convert_pair(kind, target, IS_X, (double)level[r], data, offset);
        double q = B.s * A.a / (at_least(B.a) * at_least(A.s)), u = 0, d = 0, extra = 0;
        c[0] = (float)p.of, c[1] = (float)p.y;
        c[2] = 0, c[3] = 0, c[4] = 1, c[5] = 0;
        if ((double)level[r] == to || A.s <= 0) continue;
        if (eta > 0 && q < 1) u = eta * B.s * sqrt(1 - q * q);
        if (u > B.s) u = B.s;
        d = sqrt(B.s * B.s - u * u) / A.s;
        if (last && B.s > 0 && A.a > 0) {
            level_parts Z = parts_of(kind, (double)last[r]);
            double h = log(B.a / B.s) - log(A.a / A.s), before = log(A.a / A.s) - log(Z.a / Z.s);
            if (h > 0 && before > 0) extra = h / (2 * before);
        }
        c[2] = (float)((B.a - A.a * d) * (1 + extra));
        c[3] = (float)(-(B.a - A.a * d) * extra);
        c[4] = (float)d;
        c[5] = (float)u;
    }
}

/* coef (R,4): out = c0 y + c1 pred + c2 y' + c3 pred', with y' = the Euler step and pred' said at (y', next).
   mode 0, Heun: y' - y is replaced by the mean of both slopes (flow: v; EDM: e; DDPM: e in y / a against s / a); a row that ends
   clean keeps y', where the slope is not defined.  mode 1, the shortcut bootstrap (Frans et al., arXiv 2410.12557): the target
   in x of a step from level to twice as far as next: y + (1 - tau) (v + v') / 2. */
static void heun_coefficients(float *coef, const float *level, const float *next, int kind, int target, int mode, double data,
                              double offset, int64_t R) {
    int slope = kind == NOISE_FLOW ? IS_V : IS_EPS;
    for (int64_t r = 0; r < R; r++) {
        float *c = coef + LEVEL_HEUN * r;
        level_parts A = parts_of(kind, (double)level[r]), B = parts_of(kind, (double)next[r]);
        level_pair p = convert_pair(kind, target, slope, (double)level[r], data, offset);
        level_pair q = convert_pair(kind, target, slope, (double)next[r], data, offset);
        bool undefined = mode == 0 && (level[r] == next[r] || (B.s <= 0 && !(target == slope && kind == NOISE_FLOW)));
        double scale = 1, half = (1 - (double)level[r]) / 2;
        if (mode == 0) {
            scale = kind == NOISE_DDPM ? B.a / at_least(A.a) : 1;
            half = kind == NOISE_FLOW ? (B.a - A.a) / 2 : (B.s - (kind == NOISE_DDPM ? A.s * scale : A.s)) / 2;
        }
        c[0] = undefined ? 0 : (float)(scale + half * p.y);
        c[1] = undefined ? 0 : (float)(half * p.of);
        c[2] = undefined ? 1 : (float)(half * q.y);
        c[3] = undefined ? 0 : (float)(half * q.of);
    }
}

/* ---- linear maps by row ------------------------------------------------------------------------------- */

/* out = a x + b y; y may be NULL */
static void levels_mix(float *out, const float *x, const float *y, const float *a, const float *b, int64_t R, int64_t P) {
    #pragma omp parallel for num_threads(wm_threads) if (R * P > 1 << 15)
    for (int64_t r = 0; r < R; r++) {
        float *o = out + r * P;
        const float *u = x + r * P, *v = y ? y + r * P : NULL;
        if (v) for (int64_t i = 0; i < P; i++) o[i] = a[r] * u[i] + b[r] * v[i];
        else for (int64_t i = 0; i < P; i++) o[i] = a[r] * u[i];
    }
}

/* dx += a dout; dy += b dout; either may be NULL */
static void levels_mix_backward(float *dx, float *dy, const float *dout, const float *a, const float *b, int64_t R, int64_t P) {
    #pragma omp parallel for num_threads(wm_threads) if (R * P > 1 << 15)
    for (int64_t r = 0; r < R; r++) {
        const float *g = dout + r * P;
        if (dx) for (int64_t i = 0; i < P; i++) dx[r * P + i] += a[r] * g[i];
        if (dy) for (int64_t i = 0; i < P; i++) dy[r * P + i] += b[r] * g[i];
    }
}

/* out = c0 x + c1 pred + c2 x2 + c3 pred2, coef (R,4) */
static void heun_forward(float *out, const float *x, const float *pred, const float *x2, const float *pred2, const float *coef,
                         int64_t R, int64_t P) {
    #pragma omp parallel for num_threads(wm_threads) if (R * P > 1 << 15)
    for (int64_t r = 0; r < R; r++) {
        const float *c = coef + LEVEL_HEUN * r;
        for (int64_t i = r * P; i < (r + 1) * P; i++) out[i] = c[0] * x[i] + c[1] * pred[i] + c[2] * x2[i] + c[3] * pred2[i];
    }
}

static void heun_backward(float *dx, float *dpred, float *dx2, float *dpred2, const float *dout, const float *coef, int64_t R,
                          int64_t P) {
    float *const to[LEVEL_HEUN] = {dx, dpred, dx2, dpred2};
    #pragma omp parallel for num_threads(wm_threads) if (R * P > 1 << 15)
    for (int64_t r = 0; r < R; r++)
        for (int j = 0; j < LEVEL_HEUN; j++)
            if (to[j])
                for (int64_t i = r * P; i < (r + 1) * P; i++) to[j][i] += coef[LEVEL_HEUN * r + j] * dout[i];
}

/* ---- noising ---------------------------------------------------------------------------------------------- */

enum { OFFSET_SALT = 1 << 30 };   /* the offset noise draws from a stream of its own */

/* o[i] += scale n_c for the numbers first ... first + n - 1 of a row, c = their channel; n_c: one normal a row and channel */
static void add_offset_noise(float *o, const int32_t *stream, uint32_t salt, float scale, int64_t row, int64_t first, int64_t n,
                             int64_t C) {
    int64_t blocks = (C + RANDOM_CHUNK - 1) / RANDOM_CHUNK;
    float e[RANDOM_CHUNK];
    for (int64_t b = 0; b < blocks; b++) {
        int64_t c0 = b * RANDOM_CHUNK, some = C - c0 < RANDOM_CHUNK ? C - c0 : RANDOM_CHUNK;
        fill_normal(e, stream, salt + OFFSET_SALT, row * ((C + 3) / 4 * 4) + c0, some);
        for (int64_t i = 0, c = first % C; i < n; i++, c = c + 1 < C ? c + 1 : 0)
            if (c >= c0 && c < c0 + some) o[i] += scale * e[c - c0];
    }
}

/* One chunk of noise for numbers first ... of a stream whose rows have P numbers: noisy = a x + s (e + offset / s n_c), where
   kind EDM adds offset n_c as it is.  x, noisy, eps: at the first number of the chunk; eps may be NULL. */
static void noise_chunk(float *noisy, float *eps, const float *x, const int32_t *stream, const float *level, int kind,
                        float offset, uint32_t salt, int64_t first, int64_t n, int64_t P, int64_t C) {
    float e[RANDOM_CHUNK];
    fill_normal(e, stream, salt, first, n);
    for (int64_t i = 0; i < n;) {
        int64_t row = (first + i) / P, in_row = (first + i) % P, part = P - in_row < n - i ? P - in_row : n - i;
        level_parts p = parts_of(kind, (double)level[row]);
        float a = (float)p.a, s = (float)p.s;
        for (int64_t j = i; j < i + part; j++) noisy[j] = a * x[j] + s * e[j];
        if (offset != 0)
            add_offset_noise(noisy + i, stream, salt, kind == NOISE_EDM ? offset : s * offset, row, in_row, part, C);
        i += part;
    }
    if (eps) memcpy(eps, e, (size_t)n * sizeof *eps);
}

/* clean = frames / 127.5 - 1 and noisy of it: S streams of R rows of P numbers, C channels; eps may be NULL */
static void noise_frames(float *noisy, float *clean, float *eps, const uint8_t *frames, const int32_t *stream, const float *level,
                         int kind, float offset, uint32_t salt, int64_t S, int64_t R, int64_t P, int64_t C) {
    int64_t n = R * P, chunks = random_chunks(n);
    #pragma omp parallel for num_threads(wm_threads) if (S * n > 1 << 12)
    for (int64_t c = 0; c < S * chunks; c++) {
        int64_t s = c / chunks, first = c % chunks * RANDOM_CHUNK, part = n - first < RANDOM_CHUNK ? n - first : RANDOM_CHUNK;
        int64_t at = s * n + first;
        for (int64_t i = at; i < at + part; i++) clean[i] = (float)frames[i] / 127.5f - 1.0f;
        noise_chunk(noisy + at, eps ? eps + at : NULL, clean + at, stream + WM_STREAM * s, level + R * s, kind, offset, salt,
                    first, part, P, C);
    }
}

static void noise_floats(float *noisy, float *eps, const float *x, const int32_t *stream, const float *level, int kind,
                         float offset, uint32_t salt, int64_t S, int64_t R, int64_t P, int64_t C) {
    int64_t n = R * P, chunks = random_chunks(n);
    #pragma omp parallel for num_threads(wm_threads) if (S * n > 1 << 12)
    for (int64_t c = 0; c < S * chunks; c++) {
        int64_t s = c / chunks, first = c % chunks * RANDOM_CHUNK, part = n - first < RANDOM_CHUNK ? n - first : RANDOM_CHUNK;
        int64_t at = s * n + first;
        noise_chunk(noisy + at, eps ? eps + at : NULL, x + at, stream + WM_STREAM * s, level + R * s, kind, offset, salt, first,
                    part, P, C);
    }
}

/* dx += a dout */
static void noise_backward(float *dx, const float *dout, const float *level, int kind, int64_t R, int64_t P) {
    #pragma omp parallel for num_threads(wm_threads) if (R * P > 1 << 15)
    for (int64_t r = 0; r < R; r++) {
        float a = (float)parts_of(kind, (double)level[r]).a;
        for (int64_t i = r * P; i < (r + 1) * P; i++) dx[i] += a * dout[i];
    }
}

/* ---- a solver step ------------------------------------------------------------------------------------------ */

/* x^ kept in [-clip, clip] (0: free); to_bytes: and cut to the 256 levels of a byte, toward -1, as DIAMOND does */
static inline float settle(float x, float clip, int to_bytes) {
    if (clip > 0) x = x > clip ? clip : x < -clip ? -clip : x;
    if (!to_bytes) return x;
    x = x > 1 ? 1 : x < -1 ? -1 : x;
    return truncf((x + 1.0f) / 2.0f * 255.0f) / 255.0f * 2.0f - 1.0f;
}

/* x^ = settle(c0 pred + c1 y); out = c2 x^ + c3 prev + c4 y + c5 n.  prev, clean (gets x^), stream may be NULL. */
static void step_forward(float *out, float *clean, const float *y, const float *pred, const float *prev, const int32_t *stream,
                         const float *coef, float clip, int to_bytes, uint32_t salt, int64_t S, int64_t R, int64_t P) {
    int64_t n = R * P, chunks = random_chunks(n);
    #pragma omp parallel for num_threads(wm_threads) if (S * n > 1 << 13)
    for (int64_t k = 0; k < S * chunks; k++) {
        int64_t s = k / chunks, first = k % chunks * RANDOM_CHUNK, part = n - first < RANDOM_CHUNK ? n - first : RANDOM_CHUNK;
        float e[RANDOM_CHUNK];
        if (stream) fill_normal(e, stream + WM_STREAM * s, salt, first, part);
        for (int64_t i = 0; i < part;) {
            int64_t row = (first + i) / P, left = P - (first + i) % P, run = left < part - i ? left : part - i;
            int64_t at = s * n + first + i;
            const float *c = coef + LEVEL_STEP * (s * R + row);
            for (int64_t j = 0; j < run; j++) {
                float x = settle(c[0] * pred[at + j] + c[1] * y[at + j], clip, to_bytes);
                out[at + j] = c[2] * x + c[4] * y[at + j];
                if (clean) clean[at + j] = x;
            }
            if (prev) for (int64_t j = 0; j < run; j++) out[at + j] += c[3] * prev[at + j];
            if (stream && c[5] != 0) for (int64_t j = 0; j < run; j++) out[at + j] += c[5] * e[i + j];
            i += run;
        }
    }
}

/* g = c2 dout + dclean, 0 where clip held x^: dpred += c0 g; dy += c1 g + c4 dout; dprev += c3 dout.  Bytes: straight through.
   Any gradient and dclean may be NULL. */
static void step_backward(float *dy, float *dpred, float *dprev, const float *dout, const float *dclean, const float *y,
                          const float *pred, const float *coef, float clip, int64_t R, int64_t P) {
    #pragma omp parallel for num_threads(wm_threads) if (R * P > 1 << 14)
    for (int64_t r = 0; r < R; r++) {
        const float *c = coef + LEVEL_STEP * r;
        for (int64_t i = r * P; i < (r + 1) * P; i++) {
            float x = c[0] * pred[i] + c[1] * y[i], g = c[2] * dout[i] + (dclean ? dclean[i] : 0.0f);
            if (clip > 0 && (x > clip || x < -clip)) g = 0;
            if (dpred) dpred[i] += c[0] * g;
            if (dy) dy[i] += c[1] * g + c[4] * dout[i];
            if (dprev) dprev[i] += c[3] * dout[i];
        }
    }
}

/* ---- weights and schedules -------------------------------------------------------------------------------------- */

enum { WEIGHT_RAMP, WEIGHT_INVERSE, WEIGHT_SQUARE, WEIGHT_EDM, WEIGHT_SIGMOID, WEIGHT_SNR };

/* min-SNR (Hang et al., arXiv 2303.09556): min(SNR, clip) for x, over SNR for eps, over SNR + 1 for v */
static double snr_weight(double f, double r, int target) {
    return target == IS_X ? f : target == IS_V ? f / (r + 1) : r > 0 ? f / r : 1;
}

static double snr_of(int kind, double level) {
    level_parts p = parts_of(kind, level);
    return p.s > 0 ? p.a * p.a / (p.s * p.s) : INFINITY;
}

/* One weight a level, with tau = a / (a + s):
   ramp 0.9 tau + 0.1;  inverse 1 / (1 - tau)^2;  square (1 - tau)^2;  edm 1 / c_out^2;  sigmoid 1 / (1 + SNR e^-value), for eps;
   snr min-SNR with clip = value. */
static void level_weights(float *w, const float *level, int kind, int law, int target, double value, double data, double offset,
                          int64_t R) {
    for (int64_t r = 0; r < R; r++) {
        level_parts p = parts_of(kind, (double)level[r]);
        double tau = p.a / (p.a + p.s), snr = snr_of(kind, (double)level[r]), out = edm_of((double)level[r], data, offset).out;
        double choice = law == WEIGHT_RAMP      ? 0.9 * tau + 0.1
                        : law == WEIGHT_INVERSE ? 1 / (at_least(1 - tau) * at_least(1 - tau))
                        : law == WEIGHT_SQUARE  ? (1 - tau) * (1 - tau)
                        : law == WEIGHT_EDM     ? 1 / (at_least(out) * at_least(out))
                        : law == WEIGHT_SIGMOID ? 1 / (1 + snr * exp(-value))
                                                : snr_weight(snr < value ? snr : value, snr, target);
        w[r] = (float)choice;
    }
}

/* Fused SNR (Diffusion Forcing, Chen et al., arXiv 2407.01392): what the frames before tell raises a frame's SNR.
   b = min(SNR, clip) / clip, a = SNR / clip; m_0 = b_0, m_t = g m_t-1 + (1 - g) b_t; M_0 = 0, M_t = m_t-1;
   F = clip (1 - (1 - g M)(1 - b)), R = clip (1 - (1 - g M)(1 - a)): x F, eps F / R, v F / (R + 1).  level (B,T). */
static void fused_snr_weights(float *w, const float *level, int kind, int target, double clip, double g, int64_t B, int64_t T) {
    for (int64_t row = 0; row < B; row++) {
        double m = 0, M = 0;
        for (int64_t t = 0; t < T; t++) {
            double snr = snr_of(kind, (double)level[row * T + t]), a = snr / clip, b = (snr < clip ? snr : clip) / clip;
            double F = clip * (1 - (1 - g * M) * (1 - b)), raw = clip * (1 - (1 - g * M) * (1 - a));
            w[row * T + t] = (float)snr_weight(F, raw, target);
            m = t ? g * m + (1 - g) * b : b;
            M = m;
        }
    }
}

enum { SCHEDULE_SIGMOID, SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_SHIFTED };

static double logistic(double x) { return 1 / (1 + exp(-x)); }

/* Shifted cosine (Hoogeboom et al., simple diffusion, arXiv 2301.11093): l(t) = -2 ln tan(t0 + t (t1 - t0)) + 2 ln shift, where
   t0, t1 put l in [-15, 15] for shift 1; abar = 1 / (1 + e^-l). */
static double shifted_cosine(double t, double shift) {
    double t0 = atan(exp(-7.5)), t1 = atan(exp(7.5)), l = -2 * log(tan(t0 + t * (t1 - t0))) + 2 * log(shift);
    return logistic(l > 15 ? 15 : l < -15 ? -15 : l);
}

/* abar(t), t in [0, 1] from clean to noise; step i of N is t = (i + 1) / N.  sigmoid from -3 to 3, normalised (Jabri et al.,
   arXiv 2212.11972); cosine with 0.008 (Nichol and Dhariwal, arXiv 2102.09672); linear: the product of 1 - beta over the first
   t steps of `steps`, beta from 0.1 / steps to 20 / steps (Ho et al., arXiv 2006.11239); shifted cosine. */
static void alpha_bar(float *out, const float *t, int law, int64_t steps, double shift, int64_t n) {
    const double half_pi = 1.57079632679489661923;
    for (int64_t i = 0; i < n; i++) {
        double x = (double)t[i] < 0 ? 0 : (double)t[i] > 1 ? 1 : (double)t[i], a = 1;
        if (law == SCHEDULE_SIGMOID) a = (logistic(3) - logistic(6 * x - 3)) / (logistic(3) - logistic(-3));
        if (law == SCHEDULE_SHIFTED) a = shifted_cosine(x, shift);
        if (law == SCHEDULE_COSINE) {
            double c = cos((x + 0.008) / 1.008 * half_pi), c0 = cos(0.008 / 1.008 * half_pi);
            a = c * c / (c0 * c0);
        }
        if (law == SCHEDULE_LINEAR)
            for (int64_t k = 0; k < llrint(x * (double)steps); k++)
                a *= 1 - (0.1 + 19.9 * (double)k / (double)(steps > 1 ? steps - 1 : 1)) / (double)steps;
        out[i] = (float)(a > 0 ? a : 0);
    }
}

/* sigma_i = (high^1/rho + i / (n - 1) (low^1/rho - high^1/rho))^rho, i < n; sigma_n = 0 (Karras et al.) */
static void karras_sigmas(float *sigma, double low, double high, double rho, int64_t n) {
    double top = pow(high, 1 / rho), bottom = pow(low, 1 / rho);
    for (int64_t i = 0; i < n; i++) sigma[i] = (float)pow(top + (n > 1 ? (double)i / (double)(n - 1) : 0) * (bottom - top), rho);
    sigma[n] = 0;
}
