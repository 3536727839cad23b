/* embed: tables, sinusoids, Fourier features, axial positions, one-hot rows.  Angles are formed in double. */
#include "device.cuh"

namespace wm_cuda {
namespace embed {

__global__ void embedding_kernel(float *out, const void *table, const int32_t *index, int kind, int64_t B, int64_t n) {
    FOR_EACH(i, n) out[i] = load_weight(table, kind == WM_KIND_BF16, (int64_t)index[i / B] * B + i % B);
}
static void embedding_forward(float *out, const void *table, const int32_t *index, int kind, int64_t M, int64_t B) {
    EACH(embedding_kernel, M * B, out, table, index, kind, B, M * B);
}

/* scale_i = scale max_period^(-i / half) */
__device__ inline double sinusoid_scale(double scale, double max_period, int64_t half, int64_t i) {
    return scale * exp(-log(max_period) / (double)half * (double)i);
}
__global__ void sinusoidal_kernel(float *out, const float *t, float scale, float max_period, int sin_first, int64_t R, int64_t D) {
    const int64_t half = D / 2, c0 = sin_first ? half : 0, s0 = half - c0;
    FOR_EACH(k, R * half) {
        const int64_t r = k / half, i = k % half;
        const angle a = angle_of((double)t[r] * sinusoid_scale((double)scale, (double)max_period, half, i));
        out[r * D + c0 + i] = a.cos, out[r * D + s0 + i] = a.sin;
    }
    if (D % 2) FOR_EACH(r, R) out[r * D + D - 1] = 0.0f;
}
static void sinusoidal_forward(float *out, const float *t, float scale, float max_period, int sin_first, int64_t R, int64_t D) {
    EACH(sinusoidal_kernel, R * (D / 2 + 1), out, t, scale, max_period, sin_first, R, D);
}
/* dt += sum_i scale_i (dsin_i cos_i - dcos_i sin_i) */
__global__ void sinusoidal_backward_kernel(float *dt, const float *dout, const float *t, float scale, float max_period, int sin_first,
                                           int64_t R, int64_t D) {
    const int64_t half = D / 2, c0 = sin_first ? half : 0, s0 = half - c0;
    FOR_ROW(r, R) {
        double sum = 0.0;
        FOR_LANE(i, half) {
            const double s = sinusoid_scale((double)scale, (double)max_period, half, i);
            const angle a = angle_of((double)t[r] * s);
            sum += s * (double)(dout[r * D + s0 + i] * a.cos - dout[r * D + c0 + i] * a.sin);
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) dt[r] += (float)sum;
    }
}
static void sinusoidal_backward(float *dt, const float *dout, const float *t, float scale, float max_period, int sin_first, int64_t R,
                                int64_t D) {
    ROWS(sinusoidal_backward_kernel, R, dt, dout, t, scale, max_period, sin_first, R, D);
}

#define TWO_PI 6.283185307179586477
__global__ void fourier_kernel(float *out, const float *t, const float *w, int64_t D, int64_t n) {
    FOR_EACH(k, n) {
        const int64_t r = k / D, i = k % D;
        const angle a = angle_of((double)t[r] * (TWO_PI * (double)w[i]));
        out[r * 2 * D + i] = a.cos, out[r * 2 * D + D + i] = a.sin;
    }
}
static void fourier_forward(float *out, const float *t, const float *w, int64_t R, int64_t D) {
    EACH(fourier_kernel, R * D, out, t, w, D, R * D);
}
/* h = 2 pi (dsin cos - dcos sin):  dt += sum_D h w,  dw += sum_R h t */
__global__ void fourier_dt_kernel(float *dt, const float *dout, const float *out, const float *w, int64_t R, int64_t D) {
    FOR_ROW(r, R) {
        const float *g = dout + r * 2 * D, *o = out + r * 2 * D;
        double sum = 0.0;
        FOR_LANE(i, D) sum += (double)(g[D + i] * o[i] - g[i] * o[D + i]) * (double)w[i];
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) dt[r] += (float)(TWO_PI * sum);
    }
}
__global__ void fourier_dw_kernel(float *dw, const float *dout, const float *out, const float *t, int64_t R, int64_t D) {
    FOR_ROW(i, D) {
        double sum = 0.0;
        FOR_LANE(r, R) {
            const float *g = dout + r * 2 * D, *o = out + r * 2 * D;
            sum += (double)(g[D + i] * o[i] - g[i] * o[D + i]) * (double)t[r];
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) dw[i] += (float)(TWO_PI * sum);
    }
}
static void fourier_backward(float *dt, float *dw, const float *dout, const float *out, const float *t, const float *w, int64_t R,
                             int64_t D) {
    if (dt) ROWS(fourier_dt_kernel, R, dt, dout, out, w, R, D);
    if (dw) ROWS(fourier_dw_kernel, D, dw, dout, out, t, R, D);
}

__global__ void axial_kernel(float *out, float max_period, int64_t W, int64_t D, int64_t n) {
    const int64_t Q = D / 4;
    FOR_EACH(i, n) {
        const int64_t d = i % D, w = i / D % W, h = i / (D * W);
        if (d >= 4 * Q) continue;
        const angle a = angle_of((double)(d < 2 * Q ? h : w) * sinusoid_scale(1.0, (double)max_period, Q, d % Q));
        out[i] = d / Q % 2 ? a.cos : a.sin;
    }
}
static void axial_positions(float *out, float max_period, int64_t H, int64_t W, int64_t D) {
    EACH(axial_kernel, H * W * D, out, max_period, W, D, H * W * D);
}

__global__ void one_hot_kernel(float *out, const int32_t *index, int64_t N, int64_t n) {
    FOR_EACH(i, n) out[i] = index[i / N] == i % N ? 1.0f : 0.0f;
}
static void one_hot_forward(float *out, const int32_t *index, int64_t M, int64_t N) {
#ifdef WM_PLANT_OVERRUN
    EACH(one_hot_kernel, M * N, out, index, N, M * N + 1);
#else
    EACH(one_hot_kernel, M * N, out, index, N, M * N);
#endif
}

}  // namespace embed

void embed_table(wm_kernels *k) {
    using namespace embed;
    k->embedding_forward = embedding_forward, k->one_hot_forward = one_hot_forward, k->axial_positions = axial_positions;
    k->sinusoidal_forward = sinusoidal_forward, k->sinusoidal_backward = sinusoidal_backward;
    k->fourier_forward = fourier_forward, k->fourier_backward = fourier_backward;
}
}  // namespace wm_cuda
