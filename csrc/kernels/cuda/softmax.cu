/* softmax: over the last axis of x (R,C), and what is made of it; a warp a row (rows.cuh). */
#include "rows.cuh"

namespace wm_cuda {
namespace softmax {

__global__ void softmax_kernel(float *out, const float *x, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const float *row = x + r * C, m = row_top(row, C), shift = m == -INFINITY ? 0.0f : m, total = row_exp_sum(row, shift, C);
        const float scale = total == 0.0f ? 0.0f : 1.0f / total;
        FOR_LANE(c, C) out[r * C + c] = expf(row[c] - shift) * scale;
    }
}
static void softmax_forward(float *out, const float *x, int64_t R, int64_t C) { ROWS(softmax_kernel, R, out, x, R, C); }

/* dx += out (dout - sum dout out) */
__global__ void softmax_backward_kernel(float *dx, const float *dout, const float *out, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const float *g = dout + r * C, *p = out + r * C;
        float dot = 0.0f;
        FOR_LANE(c, C) dot += g[c] * p[c];
        dot = warp_sum(dot);
        FOR_LANE(c, C) dx[r * C + c] += p[c] * (g[c] - dot);
    }
}
static void softmax_backward(float *dx, const float *dout, const float *out, int64_t R, int64_t C) {
    ROWS(softmax_backward_kernel, R, dx, dout, out, R, C);
}

__global__ void log_softmax_kernel(float *out, const float *x, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_of(x + r * C, C);
        FOR_LANE(c, C) out[r * C + c] = log_p(x[r * C + c], s);
    }
}
static void log_softmax_forward(float *out, const float *x, int64_t R, int64_t C) { ROWS(log_softmax_kernel, R, out, x, R, C); }

/* dx += dout - e^out sum dout */
__global__ void log_softmax_backward_kernel(float *dx, const float *dout, const float *out, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        float total = 0.0f;
        FOR_LANE(c, C) total += dout[r * C + c];
        total = warp_sum(total);
        FOR_LANE(c, C) dx[r * C + c] += dout[r * C + c] - expf(out[r * C + c]) * total;
    }
}
static void log_softmax_backward(float *dx, const float *dout, const float *out, int64_t R, int64_t C) {
    ROWS(log_softmax_backward_kernel, R, dx, dout, out, R, C);
}

__global__ void logsumexp_kernel(float *out, const float *x, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const float m = row_top(x + r * C, C), s = row_exp_sum(x + r * C, m == -INFINITY ? 0.0f : m, C);
        if (first_lane()) out[r] = m == -INFINITY ? m : m + logf(s);
    }
}
static void logsumexp_forward(float *out, const float *x, int64_t R, int64_t C) { ROWS(logsumexp_kernel, R, out, x, R, C); }

/* dx += dout p */
__global__ void logsumexp_backward_kernel(float *dx, const float *dout, const float *out, const float *x, int64_t C, int64_t n) {
    FOR_EACH(i, n) {
        const float l = out[i / C];
        dx[i] += dout[i / C] * expf(x[i] - (l == -INFINITY ? 0.0f : l));
    }
}
static void logsumexp_backward(float *dx, const float *dout, const float *out, const float *x, int64_t R, int64_t C) {
    EACH(logsumexp_backward_kernel, R * C, dx, dout, out, x, C, R * C);
}

/* out = ln p[index] */
__global__ void log_prob_kernel(float *out, float *log_sum, const float *x, const int32_t *index, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_of(x + r * C, C);
        if (first_lane()) log_sum[r] = s.log_sum, out[r] = log_p(x[r * C + index[r]], s);
    }
}
static void log_prob_forward(float *out, float *log_sum, const float *x, const int32_t *index, int64_t R, int64_t C) {
    ROWS(log_prob_kernel, R, out, log_sum, x, index, R, C);
}
/* dx += dout (one_hot(index) - p) */
__global__ void log_prob_backward_kernel(float *dx, const float *dout, const float *log_sum, const float *x, const int32_t *index,
                                         int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_again(x + r * C, log_sum[r], C);
        FOR_LANE(c, C) dx[r * C + c] += dout[r] * ((c == index[r] ? 1.0f : 0.0f) - expf(log_p(x[r * C + c], s)));
    }
}
static void log_prob_backward(float *dx, const float *dout, const float *log_sum, const float *x, const int32_t *index, int64_t R,
                              int64_t C) {
    ROWS(log_prob_backward_kernel, R, dx, dout, log_sum, x, index, R, C);
}

/* out = - sum p ln p */
__global__ void entropy_kernel(float *out, float *log_sum, const float *x, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_of(x + r * C, C);
        float sum = 0.0f;
        FOR_LANE(c, C) {
            const float l = log_p(x[r * C + c], s);
            sum -= weighted(expf(l), l);
        }
        sum = warp_sum(sum);
        if (first_lane()) log_sum[r] = s.log_sum, out[r] = sum;
    }
}
static void entropy_forward(float *out, float *log_sum, const float *x, int64_t R, int64_t C) {
    ROWS(entropy_kernel, R, out, log_sum, x, R, C);
}
/* dx -= dout p (ln p + entropy) */
__global__ void entropy_backward_kernel(float *dx, const float *dout, const float *out, const float *log_sum, const float *x,
                                        int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const row_scale s = row_scale_again(x + r * C, log_sum[r], C);
        FOR_LANE(c, C) {
            const float l = log_p(x[r * C + c], s);
            dx[r * C + c] -= dout[r] * weighted(expf(l), l + out[r]);
        }
    }
}
static void entropy_backward(float *dx, const float *dout, const float *out, const float *log_sum, const float *x, int64_t R,
                             int64_t C) {
    ROWS(entropy_backward_kernel, R, dx, dout, out, log_sum, x, R, C);
}

}  // namespace softmax

void softmax_table(wm_kernels *k) {
    using namespace softmax;
    k->softmax_forward = softmax_forward, k->softmax_backward = softmax_backward;
    k->log_softmax_forward = log_softmax_forward, k->log_softmax_backward = log_softmax_backward;
    k->logsumexp_forward = logsumexp_forward, k->logsumexp_backward = logsumexp_backward;
    k->log_prob_forward = log_prob_forward, k->log_prob_backward = log_prob_backward;
    k->entropy_forward = entropy_forward, k->entropy_backward = entropy_backward;
}
}  // namespace wm_cuda
