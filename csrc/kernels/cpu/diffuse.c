/* diffuse: noising, conversions and solver updates, one level a row (a sample, or a frame of it).

   A noisy row is y = a x + s e with x clean, e ~ N(0, 1):
       kind            level     a             s                 v
       NOISE_FLOW  0   tau       tau           1 - tau           x - e              tau = 1: clean
       NOISE_EDM   1   sigma     1             sigma             F = (x - c_skip y) / c_out (Karras et al., arXiv 2206.00364)
       NOISE_DDPM  2   abar      sqrt(abar)    sqrt(1 - abar)    a e - s x
   Every conversion and every deterministic update is linear in two tensors with two numbers a row, so that there is one kernel
   for the numbers (coefficients, in float64) and one for the tensors (mix).  R rows of P numbers. */
#include "../levels.h"

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

/* ---- coefficients, weights and schedules, row by row --------------------------------------------------------- */

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

static void step_coefficients(float *coef, const float *level, const float *next, const float *last, int kind, int target,
                              int as_size, double eta, double data, double offset, int64_t R) {
    for (int64_t r = 0; r < R; r++)
        step_row(coef + LEVEL_STEP * r, (double)level[r], (double)next[r], last ? last + r : NULL, kind, target, as_size, eta, data,
                 offset);
}

static void heun_coefficients(float *coef, const float *level, const float *next, int kind, int target, int mode, double data,
                              double offset, int64_t R) {
    for (int64_t r = 0; r < R; r++)
        heun_row(coef + LEVEL_HEUN * r, (double)level[r], (double)next[r], kind, target, mode, data, offset);
}

static void level_weights(float *w, const float *level, int kind, int law, int target, double value, double data, double offset,
                          int64_t R) {
    for (int64_t r = 0; r < R; r++) w[r] = level_weight((double)level[r], kind, law, target, value, data, offset);
}

static void fused_snr_weights(float *w, const float *level, int kind, int target, double clip, double g, int64_t B, int64_t T) {
    for (int64_t row = 0; row < B; row++) fused_snr_row(w + row * T, level + row * T, kind, target, clip, g, T);
}

static void alpha_bar(float *out, const float *t, int law, int64_t steps, double shift, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = alpha_bar_at((double)t[i], law, steps, shift);
}

static void karras_sigmas(float *sigma, double low, double high, double rho, int64_t n) {
    for (int64_t i = 0; i <= n; i++) sigma[i] = karras_at(i, low, high, rho, n);
}
