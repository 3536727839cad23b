/* categorical: losses of rows of logits x (R,C), and values as two-hot rows over bins; a warp a row (rows.cuh). */
#include "rows.cuh"

namespace wm_cuda {
namespace categorical {

/* ---- cross-entropy with an index: - (1 - e) ln p[index] - e mean ln p --------------------------------------- */

__global__ void cross_entropy_kernel(float *loss, float *log_sum, const float *x, const int32_t *index, float smoothing, int64_t R,
                                     int64_t C) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_of(x + r * C, C);
        float l = -(1.0f - smoothing) * log_p(x[r * C + index[r]], s);
        if (smoothing != 0.0f) {
            float sum = 0.0f;
            FOR_LANE(c, C) sum += x[r * C + c] - s.top;
            l -= smoothing * (warp_sum(sum) / (float)C - s.log_sum);
        }
        if (first_lane()) log_sum[r] = s.log_sum, loss[r] = l;
    }
}
static void cross_entropy_forward(float *loss, float *log_sum, const float *x, const int32_t *index, float smoothing, int64_t R,
                                  int64_t C) {
    ROWS(cross_entropy_kernel, R, loss, log_sum, x, index, smoothing, R, C);
}
__global__ void cross_entropy_backward_kernel(float *dx, const float *drow, const float *log_sum, const float *x, const int32_t *index,
                                              float smoothing, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_again(x + r * C, log_sum[r], C);
        FOR_LANE(c, C) {
            const float target = (c == index[r] ? 1.0f - smoothing : 0.0f) + smoothing / (float)C;
            dx[r * C + c] += drow[r] * (expf(log_p(x[r * C + c], s)) - target);
        }
    }
}
static void cross_entropy_backward(float *dx, const float *drow, const float *log_sum, const float *x, const int32_t *index,
                                   float smoothing, int64_t R, int64_t C) {
    ROWS(cross_entropy_backward_kernel, R, dx, drow, log_sum, x, index, smoothing, R, C);
}

/* ---- with probabilities: - sum t' ln p, t' = (1 - e) t + e / C ------------------------------------------------- */

__device__ inline float smoothed(float t, float smoothing, int64_t C) { return (1.0f - smoothing) * t + smoothing / (float)C; }
__global__ void soft_kernel(float *loss, float *log_sum, const float *x, const float *target, float smoothing, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_of(x + r * C, C);
        float sum = 0.0f;
        FOR_LANE(c, C) sum -= weighted(smoothed(target[r * C + c], smoothing, C), log_p(x[r * C + c], s));
        sum = warp_sum(sum);
        if (first_lane()) log_sum[r] = s.log_sum, loss[r] = sum;
    }
}
static void soft_cross_entropy_forward(float *loss, float *log_sum, const float *x, const float *target, float smoothing, int64_t R,
                                       int64_t C) {
    ROWS(soft_kernel, R, loss, log_sum, x, target, smoothing, R, C);
}
/* dx += drow (p sum t' - t') */
__global__ void soft_backward_kernel(float *dx, const float *drow, const float *log_sum, const float *x, const float *target,
                                     float smoothing, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_again(x + r * C, log_sum[r], C);
        float total = 0.0f;
        FOR_LANE(c, C) total += smoothed(target[r * C + c], smoothing, C);
        total = warp_sum(total);
        FOR_LANE(c, C)
            dx[r * C + c] += drow[r] * (expf(log_p(x[r * C + c], s)) * total - smoothed(target[r * C + c], smoothing, C));
    }
}
static void soft_cross_entropy_backward(float *dx, const float *drow, const float *log_sum, const float *x, const float *target,
                                        float smoothing, int64_t R, int64_t C) {
    ROWS(soft_backward_kernel, R, dx, drow, log_sum, x, target, smoothing, R, C);
}

/* ---- two-hot ------------------------------------------------------------------------------------------------------- */

struct two_hot { int64_t low; float up; };      /* 1 - up on bin low, up on the next */
__device__ inline two_hot two_hot_of(float x, const float *bins, int64_t K) {
    two_hot t;
    t.low = 0, t.up = x == x ? 0.0f : x;
    if (!(x > bins[0])) return t;
    t.low = K - 2, t.up = 1.0f;
    if (x >= bins[K - 1]) return t;
    int64_t low = 0, high = K - 1;                      /* bins[low] <= x < bins[high] */
    while (high - low > 1) {
        const int64_t mid = (low + high) / 2;
        if (bins[mid] <= x) low = mid;
        else high = mid;
    }
    t.low = low, t.up = (float)(((double)x - (double)bins[low]) / ((double)bins[high] - (double)bins[low]));
    return t;
}
__device__ inline float two_hot_at(two_hot t, int64_t k) { return k == t.low ? 1.0f - t.up : k == t.low + 1 ? t.up : 0.0f; }

__global__ void two_hot_kernel(float *out, const float *x, const float *bins, int64_t R, int64_t K) {
    FOR_ROW(r, R) {
        const two_hot t = two_hot_of(x[r], bins, K);
        FOR_LANE(k, K) out[r * K + k] = two_hot_at(t, k);
    }
}
static void two_hot_forward(float *out, const float *x, const float *bins, int64_t R, int64_t K) {
    ROWS(two_hot_kernel, R, out, x, bins, R, K);
}
__global__ void two_hot_loss_kernel(float *loss, float *log_sum, const float *x, const float *value, const float *bins, int64_t R,
                                    int64_t K) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_of(x + r * K, K);
        const two_hot t = two_hot_of(value[r], bins, K);
        const float low = log_p(x[r * K + t.low], s), high = log_p(x[r * K + t.low + 1], s);
        if (first_lane()) {
            log_sum[r] = s.log_sum;
            loss[r] = -(t.up == 1.0f ? 0.0f : (1.0f - t.up) * low) - (t.up == 0.0f ? 0.0f : t.up * high);
        }
    }
}
static void two_hot_loss_forward(float *loss, float *log_sum, const float *x, const float *value, const float *bins, int64_t R,
                                 int64_t K) {
    ROWS(two_hot_loss_kernel, R, loss, log_sum, x, value, bins, R, K);
}
__global__ void two_hot_loss_backward_kernel(float *dx, const float *drow, const float *log_sum, const float *x, const float *value,
                                             const float *bins, int64_t R, int64_t K) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_again(x + r * K, log_sum[r], K);
        const two_hot t = two_hot_of(value[r], bins, K);
        FOR_LANE(k, K) dx[r * K + k] += drow[r] * (expf(log_p(x[r * K + k], s)) - two_hot_at(t, k));
    }
}
static void two_hot_loss_backward(float *dx, const float *drow, const float *log_sum, const float *x, const float *value,
                                  const float *bins, int64_t R, int64_t K) {
    ROWS(two_hot_loss_backward_kernel, R, dx, drow, log_sum, x, value, bins, R, K);
}
/* out = sum p bins, paired from both ends and summed in double: mirrored bins under equal logits give 0. */
__global__ void two_hot_mean_kernel(float *out, float *log_sum, const float *x, const float *bins, int64_t R, int64_t K) {
    FOR_ROW(r, R) {
        const float *row = x + r * K;
        const row_scale s = row_scale_of(row, K);
        double sum = 0.0;
        FOR_LANE(k, K / 2)
            sum += (double)expf(row[k] - s.top) * (double)bins[k] + (double)expf(row[K - 1 - k] - s.top) * (double)bins[K - 1 - k];
        sum = warp_sum(sum);
        if (K % 2) sum += (double)expf(row[K / 2] - s.top) * (double)bins[K / 2];
        if (first_lane()) log_sum[r] = s.log_sum, out[r] = (float)(sum / exp((double)s.log_sum));
    }
}
static void two_hot_mean_forward(float *out, float *log_sum, const float *x, const float *bins, int64_t R, int64_t K) {
    ROWS(two_hot_mean_kernel, R, out, log_sum, x, bins, R, K);
}
__global__ void two_hot_mean_backward_kernel(float *dx, const float *dout, const float *out, const float *log_sum, const float *x,
                                             const float *bins, int64_t R, int64_t K) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_again(x + r * K, log_sum[r], K);
        FOR_LANE(k, K) dx[r * K + k] += dout[r] * expf(log_p(x[r * K + k], s)) * (bins[k] - out[r]);
    }
}
static void two_hot_mean_backward(float *dx, const float *dout, const float *out, const float *log_sum, const float *x,
                                  const float *bins, int64_t R, int64_t K) {
    ROWS(two_hot_mean_backward_kernel, R, dx, dout, out, log_sum, x, bins, R, K);
}
__global__ void two_hot_bins_kernel(float *out, float high, int symexp, int64_t K) {
    FOR_EACH(i, K) {
        const int64_t k = i < K / 2 ? i : K - 1 - i;
        const double x = (double)high * (double)(K - 1 - 2 * k) / (double)(K - 1);
        const float b = K % 2 && i == K / 2 ? 0.0f : (float)(symexp ? expm1(x) : x);
        out[i] = i < K / 2 ? -b : b;
    }
}
static void two_hot_bins(float *out, float high, int symexp, int64_t K) { EACH(two_hot_bins_kernel, K, out, high, symexp, K); }

/* ---- KL(p || q) of rows of G groups of C logits --------------------------------------------------------------------- */

__device__ inline float kl_of(const float *p, const float *q, row_scale sp, row_scale sq, int64_t C) {
    float sum = 0.0f;
    FOR_LANE(c, C) {
        const float l = log_p(p[c], sp);
        sum += weighted(expf(l), l - log_p(q[c], sq));
    }
    return warp_sum(sum);
}
__global__ void kl_kernel(float *loss, const float *p, const float *q, float free, int64_t R, int64_t G, int64_t C) {
    FOR_ROW(r, R) {
        float sum = 0.0f;
        for (int64_t g = 0; g < G; g++) {
            const float *u = p + (r * G + g) * C, *v = q + (r * G + g) * C;
            sum += kl_of(u, v, row_scale_of(u, C), row_scale_of(v, C), C);
        }
        if (first_lane()) loss[r] = free > 0.0f && sum < free ? free : sum;
    }
}
static void kl_categorical_forward(float *loss, const float *p, const float *q, float free, int64_t R, int64_t G, int64_t C) {
    ROWS(kl_kernel, R, loss, p, q, free, R, G, C);
}
/* dp += drow p (ln p - ln q - kl),  dq += drow (q - p);  nothing where the loss was held at free. */
__global__ void kl_backward_kernel(float *dp, float *dq, const float *drow, const float *loss, const float *p, const float *q,
                                   float free, int64_t R, int64_t G, int64_t C) {
    FOR_ROW(i, R * G) {
        const int64_t r = i / G, at = i * C;
        if (free > 0.0f && loss[r] <= free) continue;
        const row_scale sp = row_scale_of(p + at, C), sq = row_scale_of(q + at, C);
        const float kl = kl_of(p + at, q + at, sp, sq, C);
        FOR_LANE(c, C) {
            const float lp = log_p(p[at + c], sp), lq = log_p(q[at + c], sq), e = expf(lp);
            if (dp) dp[at + c] += drow[r] * weighted(e, lp - lq - kl);
            if (dq) dq[at + c] += drow[r] * (expf(lq) - e);
        }
    }
}
static void kl_categorical_backward(float *dp, float *dq, const float *drow, const float *loss, const float *p, const float *q,
                                    float free, int64_t R, int64_t G, int64_t C) {
    ROWS(kl_backward_kernel, R * G, dp, dq, drow, loss, p, q, free, R, G, C);
}

/* ---- unimix: out = ln ((1 - mix) p + mix / C) ------------------------------------------------------------------------- */

__global__ void unimix_kernel(float *out, float *log_sum, const float *x, float mix, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_of(x + r * C, C);
        FOR_LANE(c, C) out[r * C + c] = logf((1.0f - mix) * expf(log_p(x[r * C + c], s)) + mix / (float)C);
        if (first_lane()) log_sum[r] = s.log_sum;
    }
}
static void unimix_forward(float *out, float *log_sum, const float *x, float mix, int64_t R, int64_t C) {
    ROWS(unimix_kernel, R, out, log_sum, x, mix, R, C);
}
/* h = dout (1 - mix) / e^out;  dx += p (h - sum p h) */
__global__ void unimix_backward_kernel(float *dx, const float *dout, const float *out, const float *log_sum, const float *x, float mix,
                                       int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const float *g = dout + r * C, *y = out + r * C, *row = x + r * C;
        const row_scale s = row_scale_again(row, log_sum[r], C);
        float sum = 0.0f;
        FOR_LANE(c, C) sum += expf(log_p(row[c], s) - y[c]) * g[c];
        const float dot = (1.0f - mix) * warp_sum(sum);
        FOR_LANE(c, C) {
            const float l = log_p(row[c], s);
            dx[r * C + c] += (1.0f - mix) * expf(l - y[c]) * g[c] - expf(l) * dot;
        }
    }
}
static void unimix_backward(float *dx, const float *dout, const float *out, const float *log_sum, const float *x, float mix, int64_t R,
                            int64_t C) {
    ROWS(unimix_backward_kernel, R, dx, dout, out, log_sum, x, mix, R, C);
}

}  // namespace categorical

void categorical_table(wm_kernels *k) {
    using namespace categorical;
    k->cross_entropy_forward = cross_entropy_forward, k->cross_entropy_backward = cross_entropy_backward;
    k->soft_cross_entropy_forward = soft_cross_entropy_forward, k->soft_cross_entropy_backward = soft_cross_entropy_backward;
    k->two_hot_forward = two_hot_forward, k->two_hot_bins = two_hot_bins;
    k->two_hot_loss_forward = two_hot_loss_forward, k->two_hot_loss_backward = two_hot_loss_backward;
    k->two_hot_mean_forward = two_hot_mean_forward, k->two_hot_mean_backward = two_hot_mean_backward;
    k->kl_categorical_forward = kl_categorical_forward, k->kl_categorical_backward = kl_categorical_backward;
    k->unimix_forward = unimix_forward, k->unimix_backward = unimix_backward;
}
}  // namespace wm_cuda
