/* rotary.cuh - the turn of a pair of columns: rounded the same wherever it is done, so that a cache that turns as it reads gets
   the same bits. */
#pragma once
#include "device.cuh"

namespace wm_cuda {

__device__ inline float turned_first(float a, float b, float cos, float sin) { return __fmaf_rn(a, cos, -__fmul_rn(b, sin)); }
__device__ inline float turned_second(float a, float b, float cos, float sin) { return __fmaf_rn(b, cos, __fmul_rn(a, sin)); }

/* Which pair column d belongs to, and its partner; pair is -1 behind the turned columns. */
struct pairing { int64_t pair, partner; bool second; };
__device__ inline pairing pairing_of(int64_t d, int64_t pairs, bool interleaved) {
    pairing p;
    p.pair = -1, p.partner = d, p.second = false;
    if (d >= 2 * pairs) return p;
    p.second = interleaved ? d & 1 : d >= pairs;
    p.pair = interleaved ? d / 2 : p.second ? d - pairs : d;
    p.partner = interleaved ? (p.second ? d - 1 : d + 1) : p.second ? d - pairs : d + pairs;
    return p;
}
/* Column d of the turned row x; cos, sin: the row's table, NULL: not turned */
__device__ inline float turned_at(const float *x, int64_t d, const float *cos, const float *sin, int64_t pairs, bool interleaved) {
    if (!cos) return x[d];
    const pairing p = pairing_of(d, pairs, interleaved);
    if (p.pair < 0) return x[d];
    return p.second ? turned_second(x[p.partner], x[d], cos[p.pair], sin[p.pair])
                    : turned_first(x[d], x[p.partner], cos[p.pair], sin[p.pair]);
}

}  // namespace wm_cuda
