/* random: draws from counter-based streams, the same bits as cpu/random.c.  S streams fill the S equal parts of a tensor. */
#include "device.cuh"

namespace wm_cuda {
namespace random {

__global__ void uniform_kernel(float *out, const int32_t *rows, float low, float high, uint32_t salt, int64_t n, int64_t all) {
    FOR_EACH(i, all) out[i] = low + (high - low) * random_uniform(rows + WM_STREAM * (i / n), salt, i % n);
}
static void uniform(float *out, const int32_t *rows, float low, float high, uint32_t salt, int64_t S, int64_t n) {
    EACH(uniform_kernel, S * n, out, rows, low, high, salt, n, S * n);
}
__global__ void normal_kernel(float *out, const int32_t *rows, float mean, float std, uint32_t salt, int64_t n, int64_t all) {
    FOR_EACH(i, all) out[i] = mean + std * random_normal(rows + WM_STREAM * (i / n), salt, i % n);
}
static void normal(float *out, const int32_t *rows, float mean, float std, uint32_t salt, int64_t S, int64_t n) {
    EACH(normal_kernel, S * n, out, rows, mean, std, salt, n, S * n);
}
__global__ void integers_kernel(int32_t *out, const int32_t *rows, int64_t low, uint64_t range, uint32_t salt, int64_t n, int64_t all) {
    FOR_EACH(i, all) {
        const uint64_t bits = random_bits(rows + WM_STREAM * (i / n), salt, i % n);
        out[i] = (int32_t)(low + (int64_t)(bits * range >> 32));
    }
}
static void integers(int32_t *out, const int32_t *rows, int64_t low, int64_t high, uint32_t salt, int64_t S, int64_t n) {
    EACH(integers_kernel, S * n, out, rows, low, (uint64_t)(high - low), salt, n, S * n);
}
__global__ void bernoulli_kernel(float *out, const float *p, const int32_t *rows, uint32_t salt, int64_t n, int64_t all) {
    FOR_EACH(i, all) out[i] = random_uniform(rows + WM_STREAM * (i / n), salt, i % n) < p[i] ? 1.0f : 0.0f;
}
static void bernoulli(float *out, const float *p, const int32_t *rows, uint32_t salt, int64_t S, int64_t n) {
    EACH(bernoulli_kernel, S * n, out, p, rows, salt, n, S * n);
}
__global__ void dropout_kernel(float *out, uint8_t *keep, const float *x, const int32_t *rows, float p, float scale, uint32_t salt,
                               int64_t n, int64_t all) {
    FOR_EACH(i, all) {
        const bool stays = random_uniform(rows + WM_STREAM * (i / n), salt, i % n) >= p;
        keep[i] = stays, out[i] = stays ? x[i] * scale : 0.0f;
    }
}
static float dropout_scale(float p) { return p < 1.0f ? 1.0f / (1.0f - p) : 0.0f; }
static void dropout_forward(float *out, uint8_t *keep, const float *x, const int32_t *rows, float p, uint32_t salt, int64_t S,
                            int64_t n) {
    EACH(dropout_kernel, S * n, out, keep, x, rows, p, dropout_scale(p), salt, n, S * n);
}
__global__ void dropout_backward_kernel(float *dx, const float *dout, const uint8_t *keep, float scale, int64_t n) {
    FOR_EACH(i, n) dx[i] += keep[i] ? dout[i] * scale : 0.0f;
}
static void dropout_backward(float *dx, const float *dout, const uint8_t *keep, float p, int64_t n) {
    EACH(dropout_backward_kernel, n, dx, dout, keep, dropout_scale(p), n);
}
__global__ void advance_kernel(int32_t *rows, int64_t by, int64_t S) {
    FOR_EACH(s, S) rows[WM_STREAM * s + 3] = (int32_t)((uint32_t)rows[WM_STREAM * s + 3] + (uint32_t)by);
}
static void stream_advance(int32_t *rows, int64_t by, int64_t S) { EACH(advance_kernel, S, rows, by, S); }

/* ---- draws from a distribution that a network wrote: a thread a row, as the processor adds them ---------------- */

__device__ inline float exp_weights(float *p, const float *x, int64_t C) {
    float top = x[0], sum = 0.0f;
    for (int64_t i = 1; i < C; i++) top = x[i] > top ? x[i] : top;
    for (int64_t i = 0; i < C; i++) sum += p[i] = expf(x[i] - top);
    return sum;
}
__device__ inline int64_t inverse_cdf(const float *p, float u, int64_t C) {
    float total = 0.0f, sum = 0.0f;
    int64_t last = 0;
    for (int64_t i = 0; i < C; i++) total += p[i];
    for (int64_t i = 0; i < C; i++) {
        if (p[i] > 0.0f) last = i;
        sum += p[i];
        if (sum > u * total && p[i] > 0.0f) return i;
    }
    return last;
}
__global__ void categorical_kernel(int32_t *out, float *weights, const float *logits, const int32_t *rows, uint32_t salt, int64_t all,
                                   int64_t R, int64_t C) {
    FOR_EACH(row, all) {
        float *p = weights + row * C;
        exp_weights(p, logits + row * C, C);
        out[row] = (int32_t)inverse_cdf(p, random_uniform(rows + WM_STREAM * (row / R), salt, row % R), C);
    }
}
static void categorical(int32_t *out, float *weights, const float *logits, const int32_t *rows, uint32_t salt, int64_t S, int64_t R,
                        int64_t C) {
    EACH(categorical_kernel, S * R, out, weights, logits, rows, salt, S * R, R, C);
}
__global__ void onehot_kernel(float *out, float *p, const float *logits, const int32_t *rows, float mix, uint32_t salt, int64_t all,
                              int64_t R, int64_t C) {
    FOR_EACH(row, all) {
        float *o = out + row * C, *q = p + row * C;
        const float scale = 1.0f / exp_weights(q, logits + row * C, C);
        for (int64_t i = 0; i < C; i++) q[i] *= scale, o[i] = (1.0f - mix) * q[i] + mix / (float)C;
        const int64_t chosen = inverse_cdf(o, random_uniform(rows + WM_STREAM * (row / R), salt, row % R), C);
        for (int64_t i = 0; i < C; i++) o[i] = i == chosen ? 1.0f : 0.0f;
    }
}
static void onehot_forward(float *out, float *p, const float *logits, const int32_t *rows, float mix, uint32_t salt, int64_t S,
                           int64_t R, int64_t C) {
    EACH(onehot_kernel, S * R, out, p, logits, rows, mix, salt, S * R, R, C);
}
/* dlogits += (1 - mix) p (dout - sum(p dout)) */
__global__ void onehot_backward_kernel(float *dlogits, const float *dout, const float *p, float mix, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const float *g = dout + r * C, *q = p + r * C;
        float dot = 0.0f;
        FOR_LANE(i, C) dot += q[i] * g[i];
        dot = warp_sum(dot);
        FOR_LANE(i, C) dlogits[r * C + i] += (1.0f - mix) * q[i] * (g[i] - dot);
    }
}
static void onehot_backward(float *dlogits, const float *dout, const float *p, float mix, int64_t R, int64_t C) {
    ROWS(onehot_backward_kernel, R, dlogits, dout, p, mix, R, C);
}

__global__ void gaussian_kernel(float *out, float *e, const float *mean, const float *log_std, const int32_t *rows, uint32_t salt,
                                int64_t n, int64_t all) {
    FOR_EACH(i, all) {
        e[i] = random_normal(rows + WM_STREAM * (i / n), salt, i % n);
        out[i] = mean[i] + expf(log_std[i]) * e[i];
    }
}
static void gaussian_forward(float *out, float *e, const float *mean, const float *log_std, const int32_t *rows, uint32_t salt,
                             int64_t S, int64_t n) {
    EACH(gaussian_kernel, S * n, out, e, mean, log_std, rows, salt, n, S * n);
}
__global__ void gaussian_backward_kernel(float *dmean, float *dlog_std, const float *dout, const float *e, const float *log_std,
                                         int64_t n) {
    FOR_EACH(i, n) {
        if (dmean) dmean[i] += dout[i];
        if (dlog_std) dlog_std[i] += dout[i] * expf(log_std[i]) * e[i];
    }
}
static void gaussian_backward(float *dmean, float *dlog_std, const float *dout, const float *e, const float *log_std, int64_t n) {
    EACH(gaussian_backward_kernel, n, dmean, dlog_std, dout, e, log_std, n);
}

/* ln(1 + e^x) without overflow */
__device__ inline float soft_plus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

__global__ void tanh_gaussian_kernel(float *a, float *log_prob, float *e, const float *mean, const float *log_std, const int32_t *rows,
                                     uint32_t salt, int64_t all, int64_t R, int64_t C) {
    FOR_ROW(row, all) {
        float sum = 0.0f;
        FOR_LANE(c, C) {
            const int64_t i = row * C + c;
            const float z = random_normal(rows + WM_STREAM * (row / R), salt, row % R * C + c), s = log_std[i];
            const float u = mean[i] + expf(s) * z;
            e[i] = z, a[i] = tanhf(u);
            sum += -0.5f * z * z - s - 0.918938533204672742f - 2.0f * (0.693147180559945309f - u - soft_plus(-2.0f * u));
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) log_prob[row] = sum;
    }
}
static void tanh_gaussian_forward(float *a, float *log_prob, float *e, const float *mean, const float *log_std, const int32_t *rows,
                                  uint32_t salt, int64_t S, int64_t R, int64_t C) {
    ROWS(tanh_gaussian_kernel, S * R, a, log_prob, e, mean, log_std, rows, salt, S * R, R, C);
}
/* du = da (1 - a^2) + 2 a dlog_prob;  dmean += du;  dlog_std += du e^log_std e - dlog_prob */
__global__ void tanh_gaussian_backward_kernel(float *dmean, float *dlog_std, const float *da, const float *dlog_prob, const float *a,
                                              const float *e, const float *log_std, int64_t C, int64_t n) {
    FOR_EACH(i, n) {
        const float dl = dlog_prob ? dlog_prob[i / C] : 0.0f;
        const float du = (da ? da[i] : 0.0f) * (1.0f - a[i] * a[i]) + 2.0f * a[i] * dl;
        if (dmean) dmean[i] += du;
        if (dlog_std) dlog_std[i] += du * expf(log_std[i]) * e[i] - dl;
    }
}
static void tanh_gaussian_backward(float *dmean, float *dlog_std, const float *da, const float *dlog_prob, const float *a,
                                   const float *e, const float *log_std, int64_t R, int64_t C) {
    EACH(tanh_gaussian_backward_kernel, R * C, dmean, dlog_std, da, dlog_prob, a, e, log_std, C, R * C);
}

}  // namespace random

void random_table(wm_kernels *k) {
    using namespace random;
    k->uniform = uniform, k->normal = normal, k->integers = integers, k->bernoulli = bernoulli;
    k->dropout_forward = dropout_forward, k->dropout_backward = dropout_backward, k->stream_advance = stream_advance;
    k->categorical = categorical, k->onehot_forward = onehot_forward, k->onehot_backward = onehot_backward;
    k->gaussian_forward = gaussian_forward, k->gaussian_backward = gaussian_backward;
    k->tanh_gaussian_forward = tanh_gaussian_forward, k->tanh_gaussian_backward = tanh_gaussian_backward;
}
}  // namespace wm_cuda
