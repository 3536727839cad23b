/* rows.cuh - a warp and its row of logits x (C): softmax p = e^(x - top - log_sum), as softmax, loss and categorical need it.
   -inf is a probability of exactly 0; a row of nothing but -inf has p = 0 everywhere. */
#pragma once
#include "device.cuh"

namespace wm_cuda {

struct row_scale { float top, log_sum; };       /* ln p = (x - top) - log_sum */

__device__ inline float row_top(const float *x, int64_t C) {
    float m = -INFINITY;
    FOR_LANE(c, C) m = x[c] > m || x[c] != x[c] ? x[c] : m;
    return warp_top(m);
}
__device__ inline float row_exp_sum(const float *x, float shift, int64_t C) {
    float s = 0.0f;
    FOR_LANE(c, C) s += expf(x[c] - shift);
    return warp_sum(s);
}
__device__ inline row_scale row_scale_of(const float *x, int64_t C) {
    const float m = row_top(x, C);
    row_scale s;
    s.top = m == -INFINITY ? 0.0f : m;
    s.log_sum = m == -INFINITY ? 0.0f : logf(row_exp_sum(x, m, C));
    return s;
}
/* ... when log_sum was kept */
__device__ inline row_scale row_scale_again(const float *x, float log_sum, int64_t C) {
    const float m = row_top(x, C);
    row_scale s;
    s.top = m == -INFINITY ? 0.0f : m, s.log_sum = log_sum;
    return s;
}
__device__ inline float log_p(float x, row_scale s) { return (x - s.top) - s.log_sum; }
/* a b, and 0 where a is 0, whatever b */
__device__ inline float weighted(float a, float b) { return a == 0.0f ? 0.0f : a * b; }
__device__ inline bool first_lane() { return threadIdx.x % 32 == 0; }

}  // namespace wm_cuda
