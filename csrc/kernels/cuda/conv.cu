/* conv: convolutions of images, channels last, as one product whose rows are gathered as they are read (no im2col in memory).

   out (pixels, O) = in (pixels, taps C) w (O, taps C) transposed: 64 pixels x 64 channels a block, 16 of taps C at a time, as in gemm.cu.
   A number is one sum over ascending taps, whatever the batch.  Winograd's entries lead here too.  On tensor cores: conv_mma.cu. */
#include "conv.cuh"

namespace wm_cuda {
namespace conv {

enum { TILE = 64, DEEP = 16, SPLIT = 2048 };

/* ---- weights as float rows (N, K) ------------------------------------------------------------------------------------------- */

__device__ inline float weight_at(const void *w, int dtype, int64_t i) { return load_weight(w, dtype == WM_KIND_BF16, i); }
__global__ void pack_kernel(float *packed, const void *weight, int dtype, int64_t n) { FOR_EACH(i, n) packed[i] = weight_at(weight, dtype, i); }
static void conv_pack(void *packed, const void *weight, int dtype, int64_t N, int64_t K) {
    EACH(pack_kernel, N * K, (float *)packed, weight, dtype, N * K);
}
/* For dx at rows py and columns px modulo stride: the taps that reach them, last first: (C, ky, kx, O). */
__global__ void pack_phase_kernel(float *packed, const void *weight, int dtype, int64_t ky0, int64_t kx0, int64_t ny, int64_t nx,
                                  wm_conv s) {
    FOR_EACH(i, s.C * ny * nx * s.O) {
        const int64_t o = i % s.O, ix = nx - 1 - i / s.O % nx, iy = ny - 1 - i / (s.O * nx) % ny, c = i / (s.O * nx * ny);
        const int64_t tap = (o * s.kh + ky0 + iy * s.stride) * s.kw + kx0 + ix * s.stride;
        packed[i] = weight_at(weight, dtype, tap * s.C + c);
    }
}
static void conv_pack_phase(float *packed, const void *weight, int dtype, int64_t py, int64_t px, const wm_conv *s) {
    const int64_t ky0 = (py + s->top) % s->stride, kx0 = (px + s->left) % s->stride;
    const int64_t ny = (s->kh - ky0 + s->stride - 1) / s->stride, nx = (s->kw - kx0 + s->stride - 1) / s->stride;
    EACH(pack_phase_kernel, s->C * ny * nx * s->O, packed, weight, dtype, ky0, kx0, ny, nx, *s);
}
static void winograd_pack_backward(float *packed, const void *weight, int dtype, int64_t O, int64_t C) {
    wm_conv s = {};
    s.C = C, s.O = O, s.kh = s.kw = 3, s.stride = 1;
    conv_pack_phase(packed, weight, dtype, 0, 0, &s);
}
static int64_t no_scratch(const wm_conv *s) { (void)s; return 0; }

/* ---- out ------------------------------------------------------------------------------------------------------------------------ */

/* The number under tap k of output pixel p; 0 outside. */
__device__ inline float under(const float *x, const wm_conv &s, int64_t p, int64_t k) {
    const int64_t c = k % s.C, kx = k / s.C % s.kw, ky = k / (s.C * s.kw), ox = p % s.OW, oy = p / s.OW % s.OH, b = p / (s.OW * s.OH);
    const int64_t y = oy * s.stride - s.top + ky, z = ox * s.stride - s.left + kx;
    if (y < 0 || y >= s.H * s.up || z < 0 || z >= s.W * s.up) return 0.0f;
    return x[((b * s.H + y / s.up) * s.W + z / s.up) * s.C + c];
}
__global__ void __launch_bounds__(256) conv_kernel(float *out, const float *x, const float *w, wm_conv_end end, wm_conv s) {
    WM_SHARED(float, as, [DEEP][TILE + 4]);
    WM_SHARED(float, bs, [DEEP][TILE + 4]);
    const int64_t P = s.B * s.OH * s.OW, K = s.kh * s.kw * s.C, p0 = (int64_t)blockIdx.x * TILE, o0 = (int64_t)blockIdx.y * TILE;
    const int t = threadIdx.x, tp = t / 16 * 4, to = t % 16 * 4;
    float sum[4][4] = {};
    for (int64_t k0 = 0; k0 < K; k0 += DEEP) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = t / DEEP + 16 * i, k = t % DEEP;
            as[k][row] = p0 + row < P && k0 + k < K ? under(x, s, p0 + row, k0 + k) : 0.0f;
            bs[k][row] = o0 + row < s.O && k0 + k < K ? w[(o0 + row) * K + k0 + k] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEEP; k++) {
            const float4 u = *(const float4 *)&as[k][tp], v = *(const float4 *)&bs[k][to];
            const float a[4] = {u.x, u.y, u.z, u.w}, b[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (p0 + tp + i < P && o0 + to + j < s.O) conv_finish(out, end, s, p0 + tp + i, o0 + to + j, sum[i][j]);
}
static void conv_direct(float *out, const float *x, const float *packed, const wm_conv_end *end, float *scratch, int64_t workers,
                        const wm_conv *s) {
    (void)scratch, (void)workers;
    if (convolve_mma(out, x, packed, *end, *s)) return;
    const dim3 grid((unsigned)((s->B * s->OH * s->OW + TILE - 1) / TILE), (unsigned)((s->O + TILE - 1) / TILE), 1);
    WM_LAUNCH(conv_kernel, grid, 256, 0, out, x, packed, *end, *s);
}

/* ---- dweight (O, taps C) += sum over pixels of dout in: in parts of SPLIT pixels, which are added in order ----------------------------- */

__global__ void __launch_bounds__(256) weight_kernel(float *part, const float *dout, const float *x, wm_conv s) {
    WM_SHARED(float, as, [DEEP][TILE + 4]);
    WM_SHARED(float, bs, [DEEP][TILE + 4]);
    const int64_t P = s.B * s.OH * s.OW, K = s.kh * s.kw * s.C, o0 = (int64_t)blockIdx.x * TILE, k0 = (int64_t)blockIdx.y * TILE;
    const int64_t first = (int64_t)blockIdx.z * SPLIT, end = first + SPLIT < P ? first + SPLIT : P;
    const int t = threadIdx.x, to = t / 16 * 4, tk = t % 16 * 4;
    float sum[4][4] = {};
    for (int64_t p0 = first; p0 < end; p0 += DEEP) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int column = t % TILE, p = t / TILE + 4 * i;
            as[p][column] = p0 + p < end && o0 + column < s.O ? dout[(p0 + p) * s.O + o0 + column] : 0.0f;
            bs[p][column] = p0 + p < end && k0 + column < K ? under(x, s, p0 + p, k0 + column) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int p = 0; p < DEEP; p++) {
            const float4 u = *(const float4 *)&as[p][to], v = *(const float4 *)&bs[p][tk];
            const float a[4] = {u.x, u.y, u.z, u.w}, b[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (o0 + to + i < s.O && k0 + tk + j < K) part[((int64_t)blockIdx.z * s.O + o0 + to + i) * K + k0 + tk + j] = sum[i][j];
}
__global__ void weight_sum_kernel(float *dweight, const float *part, int64_t splits, int64_t n) {
    FOR_EACH(i, n) {
        float s = 0.0f;
        for (int64_t k = 0; k < splits; k++) s += part[k * n + i];
        dweight[i] += s;
    }
}
static void conv_weight(float *dweight, const float *dout, const float *x, float *scratch, int64_t workers, const wm_conv *s) {
    (void)scratch, (void)workers;
    const int64_t K = s->kh * s->kw * s->C, splits = (s->B * s->OH * s->OW + SPLIT - 1) / SPLIT;
    float *part = (float *)workspace((size_t)(splits * s->O * K) * sizeof *part);
    if (!part) return;
    const dim3 grid((unsigned)((s->O + TILE - 1) / TILE), (unsigned)((K + TILE - 1) / TILE), (unsigned)splits);
    if (!conv_weight_mma(part, dout, x, SPLIT, splits, *s)) WM_LAUNCH(weight_kernel, grid, 256, 0, part, dout, x, *s);
    EACH(weight_sum_kernel, s->O * K, dweight, (const float *)part, splits, s->O * K);
}
static void winograd_weight(float *dweight, const float *dout, const float *x, float *scratch, const wm_conv *s) {
    conv_weight(dweight, dout, x, scratch, 1, s);
}

/* ---- the rest of backward ------------------------------------------------------------------------------------------------------------ */

static void conv_bias(float *dbias, const float *dout, float *scratch, int64_t R, int64_t O) {
    (void)scratch;
    add_columns(dbias, O, dout, NULL, 1, R, O);
}
__global__ void end_backward_kernel(float *dsum, const float *dout, const float *before, wm_act act, int64_t n) {
    FOR_EACH(i, n) {
        const float v = before[i], s = vec_sigmoid(v);
        dsum[i] = dout[i] * (act == WM_ACT_SILU ? s * (1.0f + v * (1.0f - s)) : act == WM_ACT_RELU ? (v > 0.0f ? 1.0f : 0.0f) : 1.0f);
    }
}
static void conv_end_backward(float *dsum, const float *dout, const float *before, wm_act act, int64_t n) {
    EACH(end_backward_kernel, n, dsum, dout, before, act, n);
}
/* dx += the sum over the up x up copies of a pixel */
__global__ void up_backward_kernel(float *dx, const float *dup, int64_t up, int64_t H, int64_t W, int64_t C, int64_t n) {
    FOR_EACH(i, n) {
        const int64_t c = i % C, x = i / C % W, y = i / (C * W) % H, b = i / (C * W * H);
        float s = 0.0f;
        for (int64_t j = 0; j < up; j++)
            for (int64_t k = 0; k < up; k++) s += dup[((b * H * up + y * up + j) * W * up + x * up + k) * C + c];
        dx[i] += s;
    }
}
static void conv_up_backward(float *dx, const float *dup, int64_t up, int64_t B, int64_t H, int64_t W, int64_t C) {
    EACH(up_backward_kernel, B * H * W * C, dx, dup, up, H, W, C, B * H * W * C);
}
__global__ void add_kernel(float *dx, const float *dout, int64_t n) { FOR_EACH(i, n) dx[i] += dout[i]; }
static void conv_add(float *dx, const float *dout, int64_t n) { EACH(add_kernel, n, dx, dout, n); }

}  // namespace conv

void conv_table(wm_kernels *k) {
    using namespace conv;
    k->conv_pack = conv_pack, k->conv_pack_phase = conv_pack_phase;
    k->winograd_pack = conv_pack, k->winograd_pack_backward = winograd_pack_backward;
    k->conv_direct_scratch = k->conv_weight_scratch = k->winograd_scratch = k->winograd_weight_scratch = no_scratch;
    k->conv_direct = k->winograd_forward = conv_direct;
    k->conv_weight = conv_weight, k->winograd_weight = winograd_weight;
    k->conv_bias = conv_bias, k->conv_end_backward = conv_end_backward, k->conv_up_backward = conv_up_backward, k->conv_add = conv_add;
}
}  // namespace wm_cuda
