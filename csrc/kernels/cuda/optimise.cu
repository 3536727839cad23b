/* optimise: one arena of parameters: its gradient's norm, and one sweep that clips, updates, averages and clears. */
#include "device.cuh"
#include <cstring>

namespace wm_cuda {
namespace optimise {

enum { SWEEP = 1 << 14, SEGMENTS = 160 };     /* numbers of a partial sum; runs of equal decay that one launch takes along */

__global__ void squares_kernel(double *parts, const float *g, int64_t n, int64_t chunks) {
    WM_SHARED(double, room, [32]);
    for (int64_t k = blockIdx.x; k < chunks; k += gridDim.x) {
        const int64_t first = k * SWEEP, end = first + SWEEP < n ? first + SWEEP : n;
        double s = 0;
        for (int64_t i = first + threadIdx.x; i < end; i += blockDim.x) s += (double)g[i] * (double)g[i];
        s = block_sum(s, room);
        if (threadIdx.x == 0) parts[k] = s;
    }
}
__global__ void norm_kernel(double *parts, int64_t chunks) {
    double s = 0;
    for (int64_t k = threadIdx.x; k < chunks; k += 32) s += parts[k];
    s = warp_sum(s);
    if (threadIdx.x == 0) parts[0] = sqrt(s);
}
/* The norm comes home, so this waits for the device. */
static double gradient_norm(double *parts, const float *g, int64_t n) {
    const int64_t chunks = (n + SWEEP - 1) / SWEEP;
    double norm = 0;
    WM_LAUNCH(squares_kernel, blocks_for(chunks, 1), 256, 0, parts, g, n, chunks);
    WM_LAUNCH(norm_kernel, 1, 32, 0, parts, chunks);
    const bool failed = cudaMemcpyAsync(&norm, parts, sizeof norm, cudaMemcpyDeviceToHost, stream) != cudaSuccess ||
                        cudaStreamSynchronize(stream) != cudaSuccess;
    if (failed) note("%s", "gradient_norm: the norm did not come back"), norm = NAN;
    return norm;
}

struct runs {                   /* where each run of parameters ends, and whether weight decay applies to it */
    int64_t ends[SEGMENTS];
    uint8_t decays[SEGMENTS];
    int count;
};
struct shadows { float *at[WM_SHADOWS]; };

/* cpu/optimise.c has the formula. */
__global__ void adamw_kernel(float *p, float *g, float *m, float *v, shadows shadow, wm_adamw_numbers a, runs r, int64_t first,
                             int64_t end) {
    FOR_EACH(k, end - first) {
        const int64_t i = first + k;
        int low = 0, high = r.count - 1;
        while (low < high) {
            const int middle = (low + high) / 2;
            if (r.ends[middle] > i) high = middle;
            else low = middle + 1;
        }
        const float d = g[i] * a.clip, mi = m[i] + a.rest1 * (d - m[i]), vi = a.beta2 * v[i] + a.rest2 * d * d;
        const float x = p[i] * (r.decays[low] ? a.keep : 1.0f) - a.step * mi / (sqrtf(vi) * a.root + a.eps);
        m[i] = mi, v[i] = vi, p[i] = x, g[i] = 0.0f;
#pragma unroll
        for (int j = 0; j < WM_SHADOWS; j++)
            if (j < a.shadows) shadow.at[j][i] += a.follow[j] * (x - shadow.at[j][i]);
    }
}
static void adamw_step(float *p, float *g, float *m, float *v, float *const *shadow, const wm_adamw_numbers *a, const int64_t *ends,
                       const uint8_t *decays, int64_t segments, int64_t n) {
    shadows s = {};
    for (int j = 0; j < a->shadows; j++) s.at[j] = shadow[j];
    (void)n;
    for (int64_t at = 0; at < segments; at += SEGMENTS) {
        runs r = {};
        r.count = segments - at < SEGMENTS ? (int)(segments - at) : (int)SEGMENTS;
        memcpy(r.ends, ends + at, sizeof *ends * (size_t)r.count), memcpy(r.decays, decays + at, (size_t)r.count);
        const int64_t first = at ? ends[at - 1] : 0, end = r.ends[r.count - 1];
        if (end > first) EACH(adamw_kernel, end - first, p, g, m, v, s, *a, r, first, end);
    }
}

}  // namespace optimise

void optimise_table(wm_kernels *k) {
    using namespace optimise;
    k->gradient_norm = gradient_norm, k->adamw_step = adamw_step;
}
}  // namespace wm_cuda
