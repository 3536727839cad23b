/* conv.cuh - what convolutions in float32 and on tensor cores share: what follows the sums. */
#pragma once
#include "gemm.cuh"

namespace wm_cuda {

__device__ inline void conv_finish(float *out, const wm_conv_end &e, const wm_conv &s, int64_t p, int64_t o, float v) {
    const int64_t at = p / (s.OW * s.OH) * s.image + p / s.OW % s.OH * s.row + p % s.OW * s.pixel + o;
    if (e.bias) v += e.bias[o];
    if (e.before) e.before[at] = v;
    if (e.act == WM_ACT_SILU) v *= vec_sigmoid(v);
    if (e.act == WM_ACT_RELU) v = v > 0.0f ? v : 0.0f;
    if (e.residual) v += e.residual[at];
    out[at] = e.add ? out[at] + v : v;
}

/* conv_mma.cu: where set_matmul chose 'bf16' or 'split'; false: not there, or more than 2^31 numbers. */
bool convolve_mma(float *out, const float *x, const float *packed, const wm_conv_end &, const wm_conv &);
bool conv_weight_mma(float *part, const float *dout, const float *x, int64_t depth, int64_t parts, const wm_conv &);

}  // namespace wm_cuda
