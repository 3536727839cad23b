/* attention.cuh - what attention in float32 and on tensor cores share: which keys a query sees. */
#pragma once
#include "rotary.cuh"

namespace wm_cuda {

#define LOG2E 1.44269504088896341f

struct sees { int64_t low, high; };       /* keys [low, high) */
__device__ inline sees seen_by(const wm_attention &a, int64_t i, int64_t offset, int64_t length) {
    const int64_t at = i + offset;
    sees s;
    s.low = 0, s.high = length;
    if (a.mask == WM_MASK_CAUSAL || a.mask == WM_MASK_WINDOW) s.high = at + 1;
    if (a.mask == WM_MASK_WINDOW) s.low = at + 1 - a.window;
    if (a.mask == WM_MASK_FRAME_CAUSAL) {
        const int64_t frame = at >= 0 ? (int)at / (int)a.frame : -1;
        s.high = (frame + 1) * a.frame;
        if (a.window) s.low = (frame + 1 - a.window) * a.frame;
    }
    s.high = s.high > length ? length : s.high < 0 ? 0 : s.high;
    s.low = s.low < 0 ? 0 : s.low > s.high ? s.high : s.low;
    return s;
}
__device__ inline int64_t length_of(const int32_t *lengths, const wm_attention &a, int64_t outer) {
    return lengths ? (int64_t)lengths[(int)outer / ((int)a.outer / (int)a.lengths)] : a.Nk;
}

/* attention_mma.cu: on tensor cores, if the shape suits it; false: it does not. */
bool attend_bf16(float *out, float *lse, const float *q, const float *k, const float *v, const int32_t *lengths, const wm_attention *a);
bool attend_backward_bf16(float *dq, float *dk, float *dv, const float *dout, const float *lse, const float *delta, const float *q,
                          const float *k, const float *v, const int32_t *lengths, const wm_attention *a);

}  // namespace wm_cuda
