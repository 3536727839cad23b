/* diffuse: noising, conversions and solver updates, one level a row; ../levels.h has what depends on the level alone, and
   cpu/diffuse.c the kinds of levels.  Noise is drawn by counter: the same as on the processor. */
#include "device.cuh"

namespace wm_cuda {
namespace diffuse {
#include "../levels.h"

enum : uint32_t { OFFSET_SALT = 1u << 30 };       /* the offset noise draws from a stream of its own */

/* ---- numbers of a row, a thread each -------------------------------------------------------------------------- */

__global__ void convert_kernel(float *of, float *y, const float *level, int kind, int from, int to, double data, double offset,
                               int64_t R) {
    FOR_EACH(r, R) {
        const level_pair p = convert_pair(kind, from, to, (double)level[r], data, offset);
        of[r] = (float)p.of, y[r] = (float)p.y;
    }
}
static void convert_coefficients(float *of, float *y, const float *level, int kind, int from, int to, double data, double offset,
                                 int64_t R) {
    EACH(convert_kernel, R, of, y, level, kind, from, to, data, offset, R);
}
__global__ void edm_kernel(float *in, float *noise, const float *sigma, double data, double offset, int64_t R) {
    FOR_EACH(r, R) {
        const edm_parts e = edm_of((double)sigma[r], data, offset);
        in[r] = (float)e.in, noise[r] = (float)e.noise;
    }
}
static void edm_coefficients(float *in, float *noise, const float *sigma, double data, double offset, int64_t R) {
    EACH(edm_kernel, R, in, noise, sigma, data, offset, R);
}
__global__ void step_rows_kernel(float *coef, const float *level, const float *next, const float *last, int kind, int target,
                                 int as_size, double eta, double data, double offset, int64_t R) {
    FOR_EACH(r, R)
        step_row(coef + LEVEL_STEP * r, (double)level[r], (double)next[r], last ? last + r : nullptr, kind, target, as_size, eta, data,
                 offset);
}
static void step_coefficients(float *coef, const float *level, const float *next, const float *last, int kind, int target, int as_size,
                              double eta, double data, double offset, int64_t R) {
    EACH(step_rows_kernel, R, coef, level, next, last, kind, target, as_size, eta, data, offset, R);
}
__global__ void heun_rows_kernel(float *coef, const float *level, const float *next, int kind, int target, int mode, double data,
                                 double offset, int64_t R) {
    FOR_EACH(r, R) heun_row(coef + LEVEL_HEUN * r, (double)level[r], (double)next[r], kind, target, mode, data, offset);
}
static void heun_coefficients(float *coef, const float *level, const float *next, int kind, int target, int mode, double data,
                              double offset, int64_t R) {
    EACH(heun_rows_kernel, R, coef, level, next, kind, target, mode, data, offset, R);
}
__global__ void weights_kernel(float *w, const float *level, int kind, int law, int target, double value, double data, double offset,
                               int64_t R) {
    FOR_EACH(r, R) w[r] = level_weight((double)level[r], kind, law, target, value, data, offset);
}
static void level_weights(float *w, const float *level, int kind, int law, int target, double value, double data, double offset,
                          int64_t R) {
    EACH(weights_kernel, R, w, level, kind, law, target, value, data, offset, R);
}
__global__ void fused_snr_kernel(float *w, const float *level, int kind, int target, double clip, double g, int64_t B, int64_t T) {
    FOR_EACH(b, B) fused_snr_row(w + b * T, level + b * T, kind, target, clip, g, T);
}
static void fused_snr_weights(float *w, const float *level, int kind, int target, double clip, double g, int64_t B, int64_t T) {
    EACH(fused_snr_kernel, B, w, level, kind, target, clip, g, B, T);
}
__global__ void alpha_bar_kernel(float *out, const float *t, int law, int64_t steps, double shift, int64_t n) {
    FOR_EACH(i, n) out[i] = alpha_bar_at((double)t[i], law, steps, shift);
}
static void alpha_bar(float *out, const float *t, int law, int64_t steps, double shift, int64_t n) {
    EACH(alpha_bar_kernel, n, out, t, law, steps, shift, n);
}
__global__ void karras_kernel(float *sigma, double low, double high, double rho, int64_t n) {
    FOR_EACH(i, n + 1) sigma[i] = karras_at(i, low, high, rho, n);
}
static void karras_sigmas(float *sigma, double low, double high, double rho, int64_t n) {
    EACH(karras_kernel, n + 1, sigma, low, high, rho, n);
}

/* ---- linear maps by row --------------------------------------------------------------------------------------------- */

__global__ void mix_kernel(float *out, const float *x, const float *y, const float *a, const float *b, int64_t P, int64_t n) {
    FOR_EACH(i, n) out[i] = y ? a[i / P] * x[i] + b[i / P] * y[i] : a[i / P] * x[i];
}
static void levels_mix(float *out, const float *x, const float *y, const float *a, const float *b, int64_t R, int64_t P) {
    EACH(mix_kernel, R * P, out, x, y, a, b, P, R * P);
}
__global__ void mix_backward_kernel(float *dx, float *dy, const float *dout, const float *a, const float *b, int64_t P, int64_t n) {
    FOR_EACH(i, n) {
        if (dx) dx[i] += a[i / P] * dout[i];
        if (dy) dy[i] += b[i / P] * dout[i];
    }
}
static void levels_mix_backward(float *dx, float *dy, const float *dout, const float *a, const float *b, int64_t R, int64_t P) {
    EACH(mix_backward_kernel, R * P, dx, dy, dout, a, b, P, R * P);
}
__global__ void heun_kernel(float *out, const float *x, const float *pred, const float *x2, const float *pred2, const float *coef,
                            int64_t P, int64_t n) {
    FOR_EACH(i, n) {
        const float *c = coef + LEVEL_HEUN * (i / P);
        out[i] = c[0] * x[i] + c[1] * pred[i] + c[2] * x2[i] + c[3] * pred2[i];
    }
}
static void heun_forward(float *out, const float *x, const float *pred, const float *x2, const float *pred2, const float *coef,
                         int64_t R, int64_t P) {
    EACH(heun_kernel, R * P, out, x, pred, x2, pred2, coef, P, R * P);
}
__global__ void heun_backward_kernel(float *dx, float *dpred, float *dx2, float *dpred2, const float *dout, const float *coef, int64_t P,
                                     int64_t n) {
    FOR_EACH(i, n) {
        const float *c = coef + LEVEL_HEUN * (i / P), g = dout[i];
        if (dx) dx[i] += c[0] * g;
        if (dpred) dpred[i] += c[1] * g;
        if (dx2) dx2[i] += c[2] * g;
        if (dpred2) dpred2[i] += c[3] * g;
    }
}
static void heun_backward(float *dx, float *dpred, float *dx2, float *dpred2, const float *dout, const float *coef, int64_t R,
                          int64_t P) {
    EACH(heun_backward_kernel, R * P, dx, dpred, dx2, dpred2, dout, coef, P, R * P);
}

/* ---- noising ----------------------------------------------------------------------------------------------------------- */

struct noising {
    const int32_t *rows;
    const float *level;
    int kind;
    float offset;
    uint32_t salt;
    int64_t R, P, C;
};
/* noisy = a x + s e (+ the row's and channel's own normal, times offset) of number i of all; e goes to eps */
__device__ inline float noised(float *eps, float x, const noising &t, int64_t i) {
    const int64_t n = t.R * t.P, s = i / n, j = i % n, row = j / t.P, c = j % t.P % t.C;
    const int32_t *rows = t.rows + WM_STREAM * s;
    const level_parts p = parts_of(t.kind, (double)t.level[s * t.R + row]);
    const float e = random_normal(rows, t.salt, j), a = (float)p.a, noise = (float)p.s;
    float y = a * x + noise * e;
    if (t.offset != 0.0f)
        y += (t.kind == NOISE_EDM ? t.offset : noise * t.offset) * random_normal(rows, t.salt + OFFSET_SALT, row * ((t.C + 3) / 4 * 4) + c);
    if (eps) eps[i] = e;
    return y;
}
__global__ void noise_frames_kernel(float *noisy, float *clean, float *eps, const uint8_t *frames, noising t, int64_t n) {
    FOR_EACH(i, n) {
        clean[i] = (float)frames[i] / 127.5f - 1.0f;
        noisy[i] = noised(eps, clean[i], t, i);
    }
}
static void noise_frames(float *noisy, float *clean, float *eps, const uint8_t *frames, const int32_t *rows, const float *level, int kind,
                         float offset, uint32_t salt, int64_t S, int64_t R, int64_t P, int64_t C) {
    EACH(noise_frames_kernel, S * R * P, noisy, clean, eps, frames, (noising{rows, level, kind, offset, salt, R, P, C}), S * R * P);
}
__global__ void noise_floats_kernel(float *noisy, float *eps, const float *x, noising t, int64_t n) {
    FOR_EACH(i, n) noisy[i] = noised(eps, x[i], t, i);
}
static void noise_floats(float *noisy, float *eps, const float *x, const int32_t *rows, const float *level, int kind, float offset,
                         uint32_t salt, int64_t S, int64_t R, int64_t P, int64_t C) {
    EACH(noise_floats_kernel, S * R * P, noisy, eps, x, (noising{rows, level, kind, offset, salt, R, P, C}), S * R * P);
}
__global__ void noise_backward_kernel(float *dx, const float *dout, const float *level, int kind, int64_t P, int64_t n) {
    FOR_EACH(i, n) dx[i] += (float)parts_of(kind, (double)level[i / P]).a * dout[i];
}
static void noise_backward(float *dx, const float *dout, const float *level, int kind, int64_t R, int64_t P) {
    EACH(noise_backward_kernel, R * P, dx, dout, level, kind, P, R * P);
}

/* ---- a solver step ------------------------------------------------------------------------------------------------------- */

__device__ inline float settle(float x, float clip, int to_bytes) {
    if (clip > 0.0f) x = x > clip ? clip : x < -clip ? -clip : x;
    if (!to_bytes) return x;
    x = x > 1.0f ? 1.0f : x < -1.0f ? -1.0f : x;
    return truncf((x + 1.0f) / 2.0f * 255.0f) / 255.0f * 2.0f - 1.0f;
}
__global__ void step_kernel(float *out, float *clean, const float *y, const float *pred, const float *prev, const int32_t *rows,
                            const float *coef, float clip, int to_bytes, uint32_t salt, int64_t R, int64_t P, int64_t n) {
    FOR_EACH(i, n) {
        const float *c = coef + LEVEL_STEP * (i / P), x = settle(c[0] * pred[i] + c[1] * y[i], clip, to_bytes);
        float v = c[2] * x + c[4] * y[i];
        if (prev) v += c[3] * prev[i];
        if (rows && c[5] != 0.0f) v += c[5] * random_normal(rows + WM_STREAM * (i / (R * P)), salt, i % (R * P));
        if (clean) clean[i] = x;
        out[i] = v;
    }
}
static void step_forward(float *out, float *clean, const float *y, const float *pred, const float *prev, const int32_t *rows,
                         const float *coef, float clip, int to_bytes, uint32_t salt, int64_t S, int64_t R, int64_t P) {
    EACH(step_kernel, S * R * P, out, clean, y, pred, prev, rows, coef, clip, to_bytes, salt, R, P, S * R * P);
}
__global__ void step_backward_kernel(float *dy, float *dpred, float *dprev, const float *dout, const float *dclean, const float *y,
                                     const float *pred, const float *coef, float clip, int64_t P, int64_t n) {
    FOR_EACH(i, n) {
        const float *c = coef + LEVEL_STEP * (i / P), x = c[0] * pred[i] + c[1] * y[i];
        float g = c[2] * dout[i] + (dclean ? dclean[i] : 0.0f);
        if (clip > 0.0f && (x > clip || x < -clip)) g = 0.0f;
        if (dpred) dpred[i] += c[0] * g;
        if (dy) dy[i] += c[1] * g + c[4] * dout[i];
        if (dprev) dprev[i] += c[3] * dout[i];
    }
}
static void step_backward(float *dy, float *dpred, float *dprev, const float *dout, const float *dclean, const float *y,
                          const float *pred, const float *coef, float clip, int64_t R, int64_t P) {
    EACH(step_backward_kernel, R * P, dy, dpred, dprev, dout, dclean, y, pred, coef, clip, P, R * P);
}

}  // namespace diffuse

void diffuse_table(wm_kernels *k) {
    using namespace diffuse;
    k->noise_frames = noise_frames, k->noise_floats = noise_floats, k->noise_backward = noise_backward;
    k->convert_coefficients = convert_coefficients, k->edm_coefficients = edm_coefficients;
    k->step_coefficients = step_coefficients, k->heun_coefficients = heun_coefficients;
    k->levels_mix = levels_mix, k->levels_mix_backward = levels_mix_backward;
    k->step_forward = step_forward, k->step_backward = step_backward;
    k->heun_forward = heun_forward, k->heun_backward = heun_backward;
    k->level_weights = level_weights, k->fused_snr_weights = fused_snr_weights;
    k->alpha_bar = alpha_bar, k->karras_sigmas = karras_sigmas;
}
}  // namespace wm_cuda
