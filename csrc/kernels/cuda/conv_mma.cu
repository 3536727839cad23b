/* conv_mma: conv.cu's products on tensor cores, by the tiles of tiles.cuh, where set_matmul chose 'bf16' or 'split'.

   out (pixels, O) = under (pixels, taps C) w (O, taps C) transposed;  dweight (O, taps C) = dout (pixels, O) transposed under, in parts.
   `under` is gathered on its way to shared memory: four numbers of one tap at a time where C is a multiple of 4, else one by one;
   zeros where a tap is outside.  A number is one sum in one order, whatever the batch. */
#include "conv.cuh"
#include "tiles.cuh"

namespace wm_cuda {
namespace conv_mma {

using namespace tiles;

/* An output pixel: its image, and where its first tap lies in the enlarged image. */
struct pixel { int image, y, x; };
__device__ inline pixel pixel_of(const wm_conv &s, int p) {
    const int OW = (int)s.OW, OH = (int)s.OH;
    pixel o = {p / (OW * OH), p / OW % OH * (int)s.stride - (int)s.top, p % OW * (int)s.stride - (int)s.left};
    return o;
}
/* Where the number at k = (tap, channel) under a pixel lies in x; -1: outside. */
__device__ inline int under(const wm_conv &s, const pixel &o, int k) {
    const int C = (int)s.C, kw = (int)s.kw, H = (int)s.H, W = (int)s.W, up = (int)s.up, tap = k / C;
    const int y = o.y + tap / kw, x = o.x + tap % kw;
    if (y < 0 || y >= H * up || x < 0 || x >= W * up) return -1;
    return ((o.image * H + y / up) * W + x / up) * C + k % C;
}
/* Four numbers from k on, of `end` in all, under a pixel; zeros if it is none. */
template <bool FOURS> __device__ inline void fetch_under(float *to, const float *x, const wm_conv &s, const pixel &o, int k, int end, bool is) {
    if constexpr (FOURS) {
        const int at = is && k < end ? under(s, o, k) : -1;
        copy_soon(to, x + (at < 0 ? 0 : at), at >= 0);
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int at = is && k + j < end ? under(s, o, k + j) : -1;
            to[j] = at < 0 ? 0.0f : x[at];
        }
    }
}
/* Four numbers of a row, of which `left` are there. */
template <bool FOURS> __device__ inline void fetch_four(float *to, const float *from, const float *anywhere, int left) {
    if constexpr (FOURS) {
        copy_soon(to, left > 0 ? from : anywhere, left > 0);
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) to[j] = j < left ? from[j] : 0.0f;
    }
}

template <int TERMS, bool FOURS> __global__ void forward_kernel(float *out, const float *x, const float *w, wm_conv_end end, wm_conv s) {
    WM_SHARED_DYN(float, room);
    const int P = (int)(s.B * s.OH * s.OW), K = (int)(s.kh * s.kw * s.C), O = (int)s.O;
    const int p0 = (int)blockIdx.x * TILE, o0 = (int)blockIdx.y * TILE, row = threadIdx.x / 8, column = threadIdx.x % 8 * 4;
    pixel rows[4];
#pragma unroll
    for (int j = 0; j < 4; j++) rows[j] = pixel_of(s, p0 + row + 16 * j);
    const auto fetch = [&](float *to, int k0) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int r = row + 16 * j, k = k0 + column;
            fetch_under<FOURS>(to + r * DEEP + column, x, s, rows[j], k, K, p0 + r < P);
            fetch_four<FOURS>(to + NUMBERS + r * DEEP + column, w + (int64_t)(o0 + r) * K + k, w, o0 + r < O ? K - k : 0);
        }
    };
    float sum[2][4][4] = {};
    accumulate<TERMS>(sum, room, 0, K, false, false, fetch);
    each_sum(sum, [&](int r, int c, float value) {
        if (p0 + r < P && o0 + c < O) conv_finish(out, end, s, p0 + r, o0 + c, value);
    });
}

/* part (parts, O, taps C): the sums over `depth` pixels each */
template <int TERMS, bool FOURS>
__global__ void weight_kernel(float *part, const float *dout, const float *x, int depth, wm_conv s) {
    WM_SHARED_DYN(float, room);
    const int P = (int)(s.B * s.OH * s.OW), K = (int)(s.kh * s.kw * s.C), O = (int)s.O;
    const int o0 = (int)blockIdx.x * TILE, k0 = (int)blockIdx.y * TILE, first = (int)blockIdx.z * depth;
    const int end = first + depth < P ? first + depth : P, row = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    const auto fetch = [&](float *to, int p0) {      /* turned: a row a pixel */
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int r = row + 8 * j, p = p0 + r;
            fetch_four<FOURS>(to + r * TILE + column, dout + (int64_t)p * O + o0 + column, dout, p < end ? O - o0 - column : 0);
            fetch_under<FOURS>(to + NUMBERS + r * TILE + column, x, s, pixel_of(s, p), k0 + column, K, p < end);
        }
    };
    float sum[2][4][4] = {};
    accumulate<TERMS>(sum, room, first, end, true, true, fetch);
    each_sum(sum, [&](int r, int c, float value) {
        if (o0 + r < O && k0 + c < K) part[((int64_t)blockIdx.z * O + o0 + r) * K + k0 + c] = value;
    });
}

template <int TERMS, bool FOURS> static void forward(float *out, const float *x, const float *w, const wm_conv_end &end, const wm_conv &s) {
    const dim3 grid((unsigned)((s.B * s.OH * s.OW + TILE - 1) / TILE), (unsigned)((s.O + TILE - 1) / TILE), 1);
    cudaFuncSetAttribute((const void *)forward_kernel<TERMS, FOURS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes<TERMS>());
    WM_LAUNCH((forward_kernel<TERMS, FOURS>), grid, THREADS, bytes<TERMS>(), out, x, w, end, s);
}
template <int TERMS, bool FOURS> static void weight(float *part, const float *dout, const float *x, int64_t depth, int64_t parts, const wm_conv &s) {
    const dim3 grid((unsigned)((s.O + TILE - 1) / TILE), (unsigned)((s.kh * s.kw * s.C + TILE - 1) / TILE), (unsigned)parts);
    cudaFuncSetAttribute((const void *)weight_kernel<TERMS, FOURS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes<TERMS>());
    WM_LAUNCH((weight_kernel<TERMS, FOURS>), grid, THREADS, bytes<TERMS>(), part, dout, x, (int)depth, s);
}

/* Places are counted in 32 bits. */
static bool chosen(const wm_conv &s) {
    const int64_t most = INT32_MAX - 4096, pixels = s.B * s.OH * s.OW, K = s.kh * s.kw * s.C;
    return (matmul_way == BY_BF16 || matmul_way == BY_SPLIT) && s.B * s.H * s.W * s.C < most && pixels < most && K < most && s.O < most;
}
static bool wide(const float *p) { return !((uintptr_t)p & 15); }

}  // namespace conv_mma

bool convolve_mma(float *out, const float *x, const float *packed, const wm_conv_end &end, const wm_conv &s) {
    using namespace conv_mma;
    if (!chosen(s)) return false;
    const bool fours = s.C % 4 == 0 && wide(x) && wide(packed), split = matmul_way == BY_SPLIT;
    if (split && fours) forward<3, true>(out, x, packed, end, s);
    else if (split) forward<3, false>(out, x, packed, end, s);
    else if (fours) forward<1, true>(out, x, packed, end, s);
    else forward<1, false>(out, x, packed, end, s);
    return true;
}

bool conv_weight_mma(float *part, const float *dout, const float *x, int64_t depth, int64_t parts, const wm_conv &s) {
    using namespace conv_mma;
    if (!chosen(s)) return false;
    const bool fours = s.C % 4 == 0 && s.O % 4 == 0 && wide(x) && wide(dout), split = matmul_way == BY_SPLIT;
    if (split && fours) weight<3, true>(part, dout, x, depth, parts, s);
    else if (split) weight<3, false>(part, dout, x, depth, parts, s);
    else if (fours) weight<1, true>(part, dout, x, depth, parts, s);
    else weight<1, false>(part, dout, x, depth, parts, s);
    return true;
}

}  // namespace wm_cuda
