/* device.cuh - the only CUDA header that kernel files include.

   nvcc sees thin macros over the real thing; WM_EMULATED (tests/cuda/emulator) runs the same sources on the processor, one fiber
   a CUDA thread.  So kernels keep to these rules:
   (1) shared memory is WM_SHARED or WM_SHARED_DYN, at function scope; a launch is WM_LAUNCH;
   (2) a kernel is a plain named function in its file's namespace, so that its name in PTX can be told from its address;
   (3) no atomics on floats, no order of blocks: the same numbers give the same bits, at any batch size (csrc/README.md, law 7);
   (4) what needs inline PTX has one wrapper, in mma.cuh;
   (5) no local array with a run-time index, nor sinf, cosf or powf: they live in local memory, and the build refuses that. */
#pragma once
#if defined(WM_EMULATED)
#include "emulator.h"
#else
#include <cuda_runtime.h>
#define WM_SHARED(T, name, dims) __shared__ T name dims
#define WM_SHARED_DYN(T, name)                                          \
    extern __shared__ __align__(128) unsigned char wm_dynamic_shared[]; \
    T *name = reinterpret_cast<T *>(wm_dynamic_shared)
#define WM_LAUNCH(kernel, grid, block, bytes, ...) \
    (kernel)<<<(grid), (block), (bytes), wm_cuda::stream>>>(__VA_ARGS__)
#endif
#ifndef WM_MOST_BLOCKS
#define WM_MOST_BLOCKS 0        /* as many as the device likes */
#endif
#ifndef WM_EACH_THREADS
#define WM_EACH_THREADS 256
#endif
#ifndef WM_SENTINELS
#define WM_SENTINELS 64         /* bytes behind a guarded block */
#endif
#include <cfloat>
#include <cmath>
#include <cstdint>
#define _Thread_local thread_local
extern "C" {
#include "../../base/random.h"
#include "../device.h"
}
#undef _Thread_local

namespace wm_cuda {

/* ---- what the files of this folder share (library.cu) ------------------------------------------ */

extern cudaStream_t stream;                          /* everything runs on it, in order */
void *workspace(size_t bytes);                       /* scratch until the next call that asks for it; NULL: an error is noted */
void note(const char *fmt, const char *what);        /* an error for error(), unless one waits already */
int64_t most_blocks();                               /* blocks that fill the device a few times over */

/* Blocks of `threads` for n items that threads take in strides. */
inline unsigned blocks_for(int64_t n, int threads) {
    const int64_t wanted = (n + threads - 1) / threads, most = most_blocks();
    return (unsigned)(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

enum { EACH_THREADS = WM_EACH_THREADS, ROW_WARPS = 4, LANES = 32 };

/* Launches `kernel(..., n)` with a thread for each of n items, or `kernel(..., R, ...)` with a warp for each of R rows. */
#define EACH(kernel, n, ...) WM_LAUNCH(kernel, wm_cuda::blocks_for(n, wm_cuda::EACH_THREADS), wm_cuda::EACH_THREADS, 0, __VA_ARGS__)
#define ROWS(kernel, R, ...) WM_LAUNCH(kernel, wm_cuda::blocks_for(R, wm_cuda::ROW_WARPS), wm_cuda::ROW_WARPS * 32, 0, __VA_ARGS__)

/* The loops inside such kernels. */
#define FOR_EACH(i, n) \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (int64_t)gridDim.x * blockDim.x)
#define FOR_ROW(r, R)                                                                                          \
    for (int64_t r = (int64_t)blockIdx.x * wm_cuda::ROW_WARPS + threadIdx.x / 32; r < (R);                    \
         r += (int64_t)gridDim.x * wm_cuda::ROW_WARPS)
#define FOR_LANE(c, C) for (int64_t c = threadIdx.x & 31; c < (C); c += 32)

/* ---- warps --------------------------------------------------------------------------------------- */

__device__ inline float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
__device__ inline double warp_sum(double v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
/* The largest; NaN if there is one. */
__device__ inline float warp_top(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) {
        const float w = __shfl_xor_sync(0xffffffffu, v, o);
        v = w > v || w != w ? w : v;
    }
    return v;
}

/* The sum over a block, for every thread; `part` is shared, 32 of them.  The same order whatever the schedule. */
template <typename T> __device__ inline T block_sum(T v, T *part) {
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (unsigned w = 0; w < blockDim.x / 32; w++) v += part[w];
    return v;
}

/* ---- the words of pointwise.def and of cpu/vec.h, for one number ----------------------------------- */

__device__ inline float vec_set(float x) { return x; }
__device__ inline float vec_select(bool mask, float a, float b) { return mask ? a : b; }
__device__ inline float vec_abs(float x) { return fabsf(x); }
__device__ inline float vec_sqrt(float x) { return sqrtf(x); }
__device__ inline float vec_exp(float x) { return expf(x); }
__device__ inline float vec_expm1(float x) { return expm1f(x); }
__device__ inline float vec_log(float x) { return logf(x); }
__device__ inline float vec_log1p(float x) { return log1pf(x); }
__device__ inline float vec_tanh(float x) { return tanhf(x); }
__device__ inline float vec_erf(float x) { return erff(x); }
__device__ inline float vec_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float vec_normal_cdf(float x) { return 0.5f * erfcf(-0.707106781186547524f * x); }
__device__ inline float vec_sign_of(float magnitude, float x) { return copysignf(magnitude, x); }

/* sin and cos: x = n pi/2 + r with pi/2 in two doubles, |r| <= pi/4; polynomials in r (Cephes).  sinf would keep a table
   in local memory for the largest angles. */
struct angle { float sin, cos; };
__device__ inline angle angle_of(double x) {
    const double n = rint(x * 0.63661977236758134);
    const float r = (float)fma(-n, 6.123233995736766e-17, fma(-n, 1.5707963267948966, x)), z = r * r;
    float s = -1.9515295891e-4f, c = 2.443315711809948e-5f;
    s = s * z + 8.3321608736e-3f;
    s = s * z + -1.6666654611e-1f;
    s = s * z * r + r;
    c = c * z + -1.388731625493765e-3f;
    c = c * z + 4.166664568298827e-2f;
    c = (c * z - 0.5f) * z + 1.0f;
    const int64_t q = fabs(n) < 4e18 ? (int64_t)n : 0;
    const float sine = q & 1 ? c : s, cosine = q & 1 ? s : c;
    angle a;
    a.sin = q & 2 ? -sine : sine, a.cos = (q + 1) & 2 ? -cosine : cosine;
    return a;
}
__device__ inline float vec_sin(float x) { return angle_of(x).sin; }
__device__ inline float vec_cos(float x) { return angle_of(x).cos; }

/* x^a by way of double logarithms; negative x wants a whole a. */
__device__ inline float vec_pow(float x, float a) {
    if (a == 2.0f) return x * x;
    if (a == 3.0f) return x * x * x;
    if (a == 4.0f) return (x * x) * (x * x);
    if (a == 1.0f) return x;
    if (a == 0.0f) return 1.0f;
    if (a == -1.0f) return 1.0f / x;
    if (a == 0.5f) return sqrtf(x);
    const bool whole = a == truncf(a), odd = whole && fabsf(a) < 16777216.0f && ((int64_t)a & 1);
    if (x == 0.0f) return a > 0.0f ? (odd ? x : 0.0f) : odd ? copysignf(INFINITY, x) : INFINITY;
    if (x < 0.0f && !whole) return NAN;
    const float p = (float)exp((double)a * log(fabs((double)x)));
    return x < 0.0f && odd ? -p : p;
}

/* ---- bf16 -------------------------------------------------------------------------------------------- */

__device__ inline float bits_float(uint32_t u) { return __uint_as_float(u); }
__device__ inline float from_bf16(wm_bf16 b) { return __uint_as_float((uint32_t)b << 16); }
__device__ inline wm_bf16 to_bf16(float f) {        /* to nearest even; NaN stays NaN */
    const uint32_t u = __float_as_uint(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (wm_bf16)(u >> 16 | 0x40);
    return (wm_bf16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
__device__ inline float load_weight(const void *w, int bf16, int64_t i) {
    return bf16 ? from_bf16(((const wm_bf16 *)w)[i]) : ((const float *)w)[i];
}

/* ---- Philox (base/random.h): the same bits as on the processor ----------------------------------------- */

struct words { uint32_t x[4]; };
__device__ inline words philox(const int32_t *row, uint32_t salt, int64_t block) {
    uint32_t x0 = (uint32_t)block, x1 = salt, x2 = (uint32_t)row[2], x3 = (uint32_t)row[3];
    uint32_t k0 = (uint32_t)row[0], k1 = (uint32_t)row[1];
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t h0 = __umulhi(0xD2511F53u, x0), l0 = 0xD2511F53u * x0, h1 = __umulhi(0xCD9E8D57u, x2), l1 = 0xCD9E8D57u * x2;
        x0 = h1 ^ x1 ^ k0, x1 = l1, x2 = h0 ^ x3 ^ k1, x3 = l0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    words w;
    w.x[0] = x0, w.x[1] = x1, w.x[2] = x2, w.x[3] = x3;
    return w;
}
__device__ inline uint32_t word_of(const words &w, int64_t j) {
    const int k = (int)(j & 3);
    return k == 0 ? w.x[0] : k == 1 ? w.x[1] : k == 2 ? w.x[2] : w.x[3];
}
__device__ inline uint32_t random_bits(const int32_t *row, uint32_t salt, int64_t j) { return word_of(philox(row, salt, j / 4), j); }
__device__ inline float random_uniform(const int32_t *row, uint32_t salt, int64_t j) {
    return (float)(random_bits(row, salt, j) >> 8) * 0x1p-24f;
}

/* Number j as a normal (Box and Muller on words 0, 1 and 2, 3 of its block; cpu/random.c has the formula). */
__device__ inline float random_normal(const int32_t *row, uint32_t salt, int64_t j) {
    const words w = philox(row, salt, j / 4);
    const uint32_t a = j & 2 ? w.x[2] : w.x[0], b = j & 2 ? w.x[3] : w.x[1];
    const float radius = sqrtf(-2.0f * logf(((float)(a >> 8) + 1.0f) * 0x1p-24f));
    const float t = (float)(int32_t)(b << 2) * (0.785398163397448310f * 0x1p-31f), z = t * t;
    float s = -1.9515295891e-4f, c = 2.443315711809948e-5f;
    s = s * z + 8.3321608736e-3f;
    s = s * z - 1.6666654611e-1f;
    s = s * z * t + t;
    c = c * z - 1.388731625493765e-3f;
    c = c * z + 4.166664568298827e-2f;
    c = c * (z * z) - 0.5f * z + 1.0f;
    const uint32_t q = b >> 30;
    const float cosine = q & 1 ? s : c, sine = q & 1 ? c : s;
    return radius * (j & 1 ? (q & 2 ? -sine : sine) : ((q + 1) & 2 ? -cosine : cosine));
}

/* ---- shapes ---------------------------------------------------------------------------------------------- */

/* Up to three operands walked together with a dense result. */
struct walk {
    int ndim;
    int64_t shape[WM_DIMS], stride[3][WM_DIMS];
};
inline int64_t count_of(const int64_t *shape, int ndim) {
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) n *= shape[i];
    return n;
}
inline walk walk_of(const int64_t *shape, int ndim, const int64_t *s0, const int64_t *s1, const int64_t *s2) {
    walk w = {};
    w.ndim = ndim;
    for (int i = 0; i < ndim; i++) {
        w.shape[i] = shape[i];
        w.stride[0][i] = s0 ? s0[i] : 0, w.stride[1][i] = s1 ? s1[i] : 0, w.stride[2][i] = s2 ? s2[i] : 0;
    }
    return w;
}
struct places { int64_t at[3]; };
__device__ inline places places_of(const walk &w, int64_t i) {
    places p = {};
#pragma unroll
    for (int d = WM_DIMS - 1; d >= 0; d--) {
        if (d >= w.ndim) continue;
        const int64_t k = i % w.shape[d];
        i /= w.shape[d];
        p.at[0] += k * w.stride[0][d], p.at[1] += k * w.stride[1][d], p.at[2] += k * w.stride[2][d];
    }
    return p;
}

/* Each file writes its launchers into the table. */
void pointwise_table(wm_kernels *), reduce_table(wm_kernels *), softmax_table(wm_kernels *), shape_table(wm_kernels *);
void norm_table(wm_kernels *), linear_table(wm_kernels *), attention_table(wm_kernels *), rotary_table_entries(wm_kernels *);
void conv_table(wm_kernels *), embed_table(wm_kernels *), random_table(wm_kernels *), loss_table(wm_kernels *);
void categorical_table(wm_kernels *), gaussian_table(wm_kernels *), diffuse_table(wm_kernels *), image_table(wm_kernels *);
void scan_table(wm_kernels *), optimise_table(wm_kernels *);

}  // namespace wm_cuda
