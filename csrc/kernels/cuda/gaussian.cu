/* gaussian: diagonal normals and directions, row by row of (R,C), a warp a row.  z = (x - mean) e^-log_std. */
#include "rows.cuh"

namespace wm_cuda {
namespace gaussian {

/* ln |d tanh / du| = 2 (ln 2 - u - softplus(-2u)) */
__device__ inline float log_slope_of_tanh(float u) {
    const float w = -2.0f * u, soft = fmaxf(w, 0.0f) + log1pf(expf(-fabsf(w)));
    return 2.0f * (0.693147180559945309f - u - soft);
}
__global__ void log_prob_kernel(float *out, const float *x, const float *mean, const float *log_std, int through_tanh, int64_t R,
                                int64_t C) {
    FOR_ROW(r, R) {
        float sum = 0.0f;
        FOR_LANE(c, C) {
            const float u = x[r * C + c], l = log_std[r * C + c], z = (u - mean[r * C + c]) * expf(-l);
            sum -= 0.5f * z * z + l;
            if (through_tanh) sum -= log_slope_of_tanh(u);
        }
        sum = warp_sum(sum);
        if (first_lane()) out[r] = sum - 0.918938533204672742f * (float)C;
    }
}
static void gaussian_log_prob_forward(float *out, const float *x, const float *mean, const float *log_std, int through_tanh, int64_t R,
                                      int64_t C) {
    ROWS(log_prob_kernel, R, out, x, mean, log_std, through_tanh, R, C);
}
__global__ void log_prob_backward_kernel(float *dx, float *dmean, float *dlog_std, const float *dout, const float *x, const float *mean,
                                         const float *log_std, int through_tanh, int64_t C, int64_t n) {
    FOR_EACH(i, n) {
        const float u = x[i], inverse = expf(-log_std[i]), z = (u - mean[i]) * inverse, g = dout[i / C];
        if (dx) dx[i] += g * (through_tanh ? 2.0f * tanhf(u) - z * inverse : -z * inverse);
        if (dmean) dmean[i] += g * z * inverse;
        if (dlog_std) dlog_std[i] += g * (z * z - 1.0f);
    }
}
static void gaussian_log_prob_backward(float *dx, float *dmean, float *dlog_std, const float *dout, const float *x, const float *mean,
                                       const float *log_std, int through_tanh, int64_t R, int64_t C) {
    EACH(log_prob_backward_kernel, R * C, dx, dmean, dlog_std, dout, x, mean, log_std, through_tanh, C, R * C);
}

__global__ void entropy_kernel(float *out, const float *log_std, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        float sum = 0.0f;
        FOR_LANE(c, C) sum += log_std[r * C + c];
        sum = warp_sum(sum);
        if (first_lane()) out[r] = sum + 1.418938533204672742f * (float)C;
    }
}
static void gaussian_entropy_forward(float *out, const float *log_std, int64_t R, int64_t C) {
    ROWS(entropy_kernel, R, out, log_std, R, C);
}

/* a = log_std_p - log_std_q, z = (mean_p - mean_q) / std_q:  sum (e^2a - 1) / 2 - a + z^2 / 2 */
__global__ void kl_kernel(float *loss, const float *mean_p, const float *log_std_p, const float *mean_q, const float *log_std_q,
                          int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        float sum = 0.0f;
        FOR_LANE(c, C) {
            const int64_t i = r * C + c;
            const float lq = log_std_q ? log_std_q[i] : 0.0f, mq = mean_q ? mean_q[i] : 0.0f;
            const float a = log_std_p[i] - lq, z = (mean_p[i] - mq) * expf(-lq);
            sum += 0.5f * (expm1f(2.0f * a) + z * z) - a;
        }
        sum = warp_sum(sum);
        if (first_lane()) loss[r] = sum;
    }
}
static void kl_gaussian_forward(float *loss, const float *mean_p, const float *log_std_p, const float *mean_q, const float *log_std_q,
                                int64_t R, int64_t C) {
    ROWS(kl_kernel, R, loss, mean_p, log_std_p, mean_q, log_std_q, R, C);
}
__global__ void kl_backward_kernel(float *dmean_p, float *dlog_std_p, float *dmean_q, float *dlog_std_q, const float *drow,
                                   const float *mean_p, const float *log_std_p, const float *mean_q, const float *log_std_q, int64_t C,
                                   int64_t n) {
    FOR_EACH(i, n) {
        const float lq = log_std_q ? log_std_q[i] : 0.0f, mq = mean_q ? mean_q[i] : 0.0f, inverse = expf(-lq), g = drow[i / C];
        const float e = expm1f(2.0f * (log_std_p[i] - lq)), z = (mean_p[i] - mq) * inverse;
        if (dmean_p) dmean_p[i] += g * z * inverse;
        if (dmean_q) dmean_q[i] += -g * z * inverse;
        if (dlog_std_p) dlog_std_p[i] += g * e;
        if (dlog_std_q) dlog_std_q[i] += -g * (e + z * z);
    }
}
static void kl_gaussian_backward(float *dmean_p, float *dlog_std_p, float *dmean_q, float *dlog_std_q, const float *drow,
                                 const float *mean_p, const float *log_std_p, const float *mean_q, const float *log_std_q, int64_t R,
                                 int64_t C) {
    EACH(kl_backward_kernel, R * C, dmean_p, dlog_std_p, dmean_q, dlog_std_q, drow, mean_p, log_std_p, mean_q, log_std_q, C, R * C);
}

/* ---- cosine: 1 - x.y / max(|x| |y|, 1e-8) -------------------------------------------------------------------------- */

struct lengths { float dot, x, y; };
__device__ inline lengths lengths_of(const float *x, const float *y, int64_t C) {
    lengths l = {0.0f, 0.0f, 0.0f};
    FOR_LANE(c, C) l.dot += x[c] * y[c], l.x += x[c] * x[c], l.y += y[c] * y[c];
    l.dot = warp_sum(l.dot), l.x = sqrtf(warp_sum(l.x)), l.y = sqrtf(warp_sum(l.y));
    return l;
}
__global__ void cosine_kernel(float *loss, const float *x, const float *y, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const lengths l = lengths_of(x + r * C, y + r * C, C);
        if (first_lane()) loss[r] = 1.0f - l.dot / fmaxf(l.x * l.y, 1e-8f);
    }
}
static void cosine_loss_forward(float *loss, const float *x, const float *y, int64_t R, int64_t C) {
    ROWS(cosine_kernel, R, loss, x, y, R, C);
}
/* dx -= drow (y / (|x| |y|) - cos x / |x|^2), and the same with x and y changed. */
__global__ void cosine_backward_kernel(float *dx, float *dy, const float *drow, const float *x, const float *y, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const float *px = x + r * C, *py = y + r * C;
        const lengths l = lengths_of(px, py, C);
        const float product = fmaxf(l.x * l.y, 1e-8f), near = l.x * l.y > 1e-8f ? l.dot / product : 0.0f;
        const float bx = near == 0.0f ? 0.0f : near / (l.x * l.x), by = near == 0.0f ? 0.0f : near / (l.y * l.y);
        FOR_LANE(c, C) {
            if (dx) dx[r * C + c] += -drow[r] * (py[c] / product - bx * px[c]);
            if (dy) dy[r * C + c] += -drow[r] * (px[c] / product - by * py[c]);
        }
    }
}
static void cosine_loss_backward(float *dx, float *dy, const float *drow, const float *x, const float *y, int64_t R, int64_t C) {
    ROWS(cosine_backward_kernel, R, dx, dy, drow, x, y, R, C);
}

}  // namespace gaussian

void gaussian_table(wm_kernels *k) {
    using namespace gaussian;
    k->gaussian_log_prob_forward = gaussian_log_prob_forward, k->gaussian_log_prob_backward = gaussian_log_prob_backward;
    k->gaussian_entropy_forward = gaussian_entropy_forward;
    k->kl_gaussian_forward = kl_gaussian_forward, k->kl_gaussian_backward = kl_gaussian_backward;
    k->cosine_loss_forward = cosine_loss_forward, k->cosine_loss_backward = cosine_loss_backward;
}
}  // namespace wm_cuda
