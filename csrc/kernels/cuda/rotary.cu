/* rotary: tables of angles, and the norm and rotation of queries and keys per head, a warp a head.  cpu/rotary.c has the formulas. */
#include "rotary.cuh"

namespace wm_cuda {
namespace rotary {

__global__ void table_kernel(float *cos_out, float *sin_out, const float *position, const int32_t *index, double base, bool pixel,
                             int64_t F, int64_t n) {
    FOR_EACH(k, n) {
        const int64_t i = k % F;
        const double at = position ? (double)position[k / F] : (double)index[k / F];
        const double rate = pixel ? 3.14159265358979323846 * (F > 1 ? 1.0 + (base / 2.0 - 1.0) * (double)i / ((double)F - 1.0) : 1.0)
                                  : exp(-log(base) * (double)i / (double)F);
        const angle a = angle_of(at * rate);
        cos_out[k] = a.cos, sin_out[k] = a.sin;
    }
}
static void rotary_table(float *cos_out, float *sin_out, const float *position, const int32_t *index, float base, bool pixel, int64_t N,
                         int64_t A, int64_t F) {
    EACH(table_kernel, N * A * F, cos_out, sin_out, position, index, (double)base, pixel, F, N * A * F);
}

struct moments { float mean, rstd; };
__device__ inline moments moments_of(const float *x, const wm_head_norm &a) {
    moments m;
    m.mean = 0.0f, m.rstd = 1.0f;
    if (!a.norm) return m;
    float s = 0.0f;
    if (a.norm == WM_HEAD_LAYER) {
        FOR_LANE(d, a.D) s += x[d];
        m.mean = warp_sum(s) / (float)a.D;
    }
    s = 0.0f;
    FOR_LANE(d, a.D) s += (x[d] - m.mean) * (x[d] - m.mean);
    m.rstd = 1.0f / sqrtf(warp_sum(s) / (float)a.D + a.eps);
    return m;
}
__device__ inline float normed(const float *x, int64_t d, moments m, const float *scale) {
    const float y = (x[d] - m.mean) * m.rstd;
    return scale ? y * scale[d] : y;
}

__global__ void forward_kernel(float *out, const float *x, const float *cos, const float *sin, const float *scale, wm_head_norm a) {
    FOR_ROW(i, a.R * a.H) {
        const int64_t r = i / a.H, h = i % a.H, at = r / a.inner % a.tables * a.pairs;
        const float *from = x + r * a.x_width + h * a.D;
        const moments m = moments_of(from, a);
        FOR_LANE(d, a.D) {
            const pairing p = pairing_of(d, cos ? a.pairs : 0, a.interleaved);
            const float y = normed(from, d, m, scale);
            float v = y;
            if (p.pair >= 0) {
                const float other = normed(from, p.partner, m, scale), c = cos[at + p.pair], s = sin[at + p.pair];
                v = p.second ? turned_second(other, y, c, s) : turned_first(y, other, c, s);
            }
            out[i * a.D + d] = v;
        }
    }
}
static void head_norm_forward(float *out, const float *x, const float *cos, const float *sin, const float *scale, const wm_head_norm *a) {
    ROWS(forward_kernel, a->R * a->H, out, x, cos, sin, scale, *a);
}

/* dout of column d turned back */
__device__ inline float back(const float *g, int64_t d, const float *cos, const float *sin, int64_t at, const wm_head_norm &a) {
    const pairing p = pairing_of(d, cos ? a.pairs : 0, a.interleaved);
    if (p.pair < 0) return g[d];
    const float c = cos[at + p.pair], s = -sin[at + p.pair];
    return p.second ? turned_second(g[p.partner], g[d], c, s) : turned_first(g[d], g[p.partner], c, s);
}
/* dx += rstd (g - mean(g) - normed mean(g normed)); stats (R H, 2) keep mean and rstd for dscale */
__global__ void backward_kernel(float *dx, float *stats, const float *dout, const float *x, const float *cos, const float *sin,
                                const float *scale, wm_head_norm a) {
    FOR_ROW(i, a.R * a.H) {
        const int64_t r = i / a.H, h = i % a.H, at = r / a.inner % a.tables * a.pairs;
        const float *from = x + r * a.x_width + h * a.D, *g = dout + i * a.D;
        const moments m = moments_of(from, a);
        if (stats && threadIdx.x % 32 == 0) stats[2 * i] = m.mean, stats[2 * i + 1] = m.rstd;
        if (!dx) continue;
        float sum = 0.0f, with = 0.0f;
        FOR_LANE(d, a.D) {
            const float u = back(g, d, cos, sin, at, a) * (scale ? scale[d] : 1.0f);
            sum += u, with += u * ((from[d] - m.mean) * m.rstd);
        }
        sum = a.norm == WM_HEAD_LAYER ? warp_sum(sum) / (float)a.D : 0.0f;
        with = a.norm ? warp_sum(with) / (float)a.D : 0.0f;
        FOR_LANE(d, a.D) {
            const float u = back(g, d, cos, sin, at, a) * (scale ? scale[d] : 1.0f);
            dx[r * a.x_width + h * a.D + d] += m.rstd * (u - sum - (from[d] - m.mean) * m.rstd * with);
        }
    }
}
/* part (WM_HEAD_PARTS, D): sums of dout normed over a part of the rows */
__global__ void scale_kernel(float *part, const float *stats, const float *dout, const float *x, const float *cos, const float *sin,
                             wm_head_norm a) {
    const int64_t chunk = (a.R + WM_HEAD_PARTS - 1) / WM_HEAD_PARTS;
    FOR_EACH(k, WM_HEAD_PARTS * a.D) {
        const int64_t c = k / a.D, d = k % a.D;
        float s = 0.0f;
        for (int64_t r = c * chunk; r < a.R && r < (c + 1) * chunk; r++)
            for (int64_t h = 0; h < a.H; h++) {
                const int64_t i = r * a.H + h, at = r / a.inner % a.tables * a.pairs;
                s += back(dout + i * a.D, d, cos, sin, at, a) * ((x[r * a.x_width + h * a.D + d] - stats[2 * i]) * stats[2 * i + 1]);
            }
        part[k] = s;
    }
}
__global__ void scale_sum_kernel(float *dscale, const float *part, int64_t D) {
    FOR_EACH(d, D) {
        float s = 0.0f;
        for (int64_t c = 0; c < WM_HEAD_PARTS; c++) s += part[c * D + d];
        dscale[d] += s;
    }
}
static void head_norm_backward(float *dx, float *dscale, float *part, const float *dout, const float *x, const float *cos,
                               const float *sin, const float *scale, const wm_head_norm *a) {
    float *stats = dscale ? (float *)workspace((size_t)(2 * a->R * a->H) * sizeof *stats) : NULL;
    if (dscale && !stats) return;
    ROWS(backward_kernel, a->R * a->H, dx, stats, dout, x, cos, sin, scale, *a);
    if (!dscale) return;
    EACH(scale_kernel, WM_HEAD_PARTS * a->D, part, stats, dout, x, cos, sin, *a);
    EACH(scale_sum_kernel, a->D, dscale, part, a->D);
}

}  // namespace rotary

void rotary_table_entries(wm_kernels *k) {
    using namespace rotary;
    k->rotary_table = rotary_table;
    k->head_norm_forward = head_norm_forward, k->head_norm_backward = head_norm_backward;
}
}  // namespace wm_cuda
