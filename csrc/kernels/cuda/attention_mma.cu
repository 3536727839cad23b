/* attention_mma: attention.cu's forward on tensor cores, for heads of 32 or 64 columns, where set_matmul chose 'bf16': q, k, v and the
   weights are rounded to bf16, sums and the softmax are float32 (Dao et al. 2022).

   A block of 4 warps takes 64 queries, a warp 16 of them, against 64 keys at a time:
       floats of the next keys and values to shared memory by copies that do not wait;  wait for these;  barrier
       they become bf16;  barrier;  s = q k^T by mma;  hidden scores are -inf;  new maximum, weights p, sums;  out += p v by mma
   What a warp holds of p (the layout of an mma's result) is what the next mma wants as its first factor.
   NaN behind a mask is not kept out of a block of keys that is partly seen, unlike in attention.cu. */
#include "attention.cuh"
#include "mma.cuh"

namespace wm_cuda {
namespace attention_mma {

enum { TILE = 64, THREADS = 128 };

template <int D> __device__ inline void fetch(float *to, const float *from, int64_t row, int64_t j0, int64_t end) {
    for (int i = threadIdx.x; i < TILE * D / 4; i += THREADS) {
        const int r = i / (D / 4), c = i % (D / 4) * 4;
        const bool inside = j0 + r < end;
        copy_soon(to + r * D + c, from + (inside ? (j0 + r) * row + c : 0), inside);
    }
}
template <int D> __device__ inline void convert(wm_bf16 *to, const float *from) {
    for (int i = threadIdx.x; i < TILE * D / 2; i += THREADS) {
        const int r = 2 * i / D, c = 2 * i % D;
        *(uint32_t *)(to + r * (D + 8) + c) = pair_of_bf16(from[2 * i], from[2 * i + 1]);
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS) forward_kernel(float *out, float *lse, const float *q, const float *k, const float *v,
                                                          const int32_t *lengths, wm_attention a, unsigned blocks) {
    WM_SHARED_DYN(float, room);           /* floats: 2 steps of keys and values; then bf16 of queries, keys, values */
    constexpr int W = D + 8;
    wm_bf16 *qs = (wm_bf16 *)(room + 4 * TILE * D), *ks = qs + TILE * W, *vs = ks + TILE * W;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t2 = lane % 4 * 2;
    const unsigned u = blockIdx.x, H = (unsigned)a.H, I = (unsigned)a.inner;
    const int64_t i0 = (int64_t)(u % blocks) * TILE, h = u / blocks % H, inner = u / (blocks * H) % I, outer = u / (blocks * H * I);
    const int64_t k_at = outer * a.Nk * a.inner + inner, column = (int)h / (int)a.G * a.D, length = length_of(lengths, a, outer);
    const float *keys = k + k_at * a.k_width + column, *values = v + k_at * a.v_width + column;
    const int64_t k_row = a.inner * a.k_width, v_row = a.inner * a.v_width, offset = a.Nk - a.Nq;

    for (int i = threadIdx.x; i < TILE * D; i += THREADS) {
        const int64_t row = i0 + i / D;
        qs[i / D * W + i % D] = to_bf16(row < a.Nq ? q[((outer * a.Nq + row) * a.inner + inner) * a.q_width + h * a.D + i % D] : 0.0f);
    }
    sees see[2];                          /* of this lane's two rows; and of all rows of the block */
    int64_t low = INT64_MAX, high = 0;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int64_t row = i0 + warp * 16 + g + 8 * r;
        see[r] = seen_by(a, row, offset, length);
        if (row >= a.Nq) see[r].low = see[r].high = 0;
    }
    for (int r = 0; r < TILE && i0 + r < a.Nq; r++) {
        const sees s = seen_by(a, i0 + r, offset, length);
        if (s.low < s.high) low = s.low < low ? s.low : low, high = s.high > high ? s.high : high;
    }
    low = low / TILE * TILE;

    const float c = a.scale * LOG2E;
    float acc[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    uint32_t fq[D / 16][4];
    if (low < high) fetch<D>(room, keys, k_row, low, high), fetch<D>(room + TILE * D, values, v_row, low, high);
    copies_end();
    int step = 0;
    for (int64_t j0 = low; j0 < high; j0 += TILE, step ^= 1) {
        float *now = room + step * 2 * TILE * D, *next = room + (step ^ 1) * 2 * TILE * D;
        if (j0 + TILE < high) fetch<D>(next, keys, k_row, j0 + TILE, high), fetch<D>(next + TILE * D, values, v_row, j0 + TILE, high);
        copies_end();
        copies_wait<1>();
        __syncthreads();
        convert<D>(ks, now), convert<D>(vs, now + TILE * D);
        __syncthreads();
        if (j0 == low) {
#pragma unroll
            for (int d = 0; d < D / 16; d++) load_matrices<false>(fq[d], qs + (warp * 16 + (lane & 15)) * W + d * 16 + (lane >> 4) * 8);
        }
        float s[8][4] = {};
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int d = 0; d < D / 16; d += 2) {
                uint32_t b[4];
                load_matrices<false>(b, ks + (n * 8 + (lane & 7)) * W + d * 16 + (lane >> 3) * 8);
                mma(s[n], fq[d], b[0], b[1]);
                mma(s[n], fq[d + 1], b[2], b[3]);
            }
        float best[2] = {top[0], top[1]};
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int64_t j = j0 + n * 8 + t2 + e % 2;
#ifdef WM_PLANT_BAD_MASK
                const bool hidden = j < see[e / 2].low || j > see[e / 2].high;
#else
                const bool hidden = j < see[e / 2].low || j >= see[e / 2].high;
#endif
                s[n][e] = hidden ? -INFINITY : s[n][e] * c;
                best[e / 2] = fmaxf(best[e / 2], s[n][e]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            for (int o = 1; o < 4; o *= 2) best[r] = fmaxf(best[r], __shfl_xor_sync(0xffffffffu, best[r], o));
            const float shift = best[r] == -INFINITY ? 0.0f : best[r], shrink = exp2f(top[r] - shift);
            float more = 0.0f;
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) s[n][2 * r + e] = exp2f(s[n][2 * r + e] - shift), more += s[n][2 * r + e];
            for (int o = 1; o < 4; o *= 2) more += __shfl_xor_sync(0xffffffffu, more, o);
            sum[r] = sum[r] * shrink + more, top[r] = best[r];
#pragma unroll
            for (int n = 0; n < D / 8; n++) acc[n][2 * r] *= shrink, acc[n][2 * r + 1] *= shrink;
        }
#pragma unroll
        for (int m = 0; m < 4; m++) {
            const uint32_t p[4] = {pair_of_bf16(s[2 * m][0], s[2 * m][1]), pair_of_bf16(s[2 * m][2], s[2 * m][3]),
                                   pair_of_bf16(s[2 * m + 1][0], s[2 * m + 1][1]), pair_of_bf16(s[2 * m + 1][2], s[2 * m + 1][3])};
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                uint32_t b[4];
                load_matrices<true>(b, vs + (m * 16 + (lane & 15)) * W + n * 8 + (lane >> 4) * 8);
                mma(acc[n], p, b[0], b[1]);
                mma(acc[n + 1], p, b[2], b[3]);
            }
        }
    }
    copies_wait<0>();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int64_t row = i0 + warp * 16 + g + 8 * r;
        if (row >= a.Nq) continue;
        const float over = sum[r] > 0.0f || sum[r] != sum[r] ? 1.0f / sum[r] : 0.0f;
        float *to = out + ((outer * a.Nq + row) * a.inner + inner) * a.H * a.D + h * a.D;
#pragma unroll
        for (int n = 0; n < D / 8; n++) to[n * 8 + t2] = acc[n][2 * r] * over, to[n * 8 + t2 + 1] = acc[n][2 * r + 1] * over;
        if (lse && lane % 4 == 0) lse[((outer * a.inner + inner) * a.H + h) * a.Nq + row] = top[r] + log2f(sum[r]);
    }
}

template <int D>
static void run(float *out, float *lse, const float *q, const float *k, const float *v, const int32_t *lengths, const wm_attention *a) {
    const size_t bytes = 4 * TILE * D * sizeof(float) + (size_t)3 * TILE * (D + 8) * sizeof(wm_bf16);
    const unsigned blocks = (unsigned)((a->Nq + TILE - 1) / TILE);
    cudaFuncSetAttribute((const void *)forward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    WM_LAUNCH(forward_kernel<D>, (unsigned)(a->outer * a->inner * a->H) * blocks, THREADS, bytes, out, lse, q, k, v, lengths, *a, blocks);
}

}  // namespace attention_mma

/* Does it fit?  Copies of 16 bytes want rows on 16 bytes. */
bool attend_bf16(float *out, float *lse, const float *q, const float *k, const float *v, const int32_t *lengths, const wm_attention *a) {
    const bool fits = (a->D == 32 || a->D == 64) && a->k_width % 4 == 0 && a->v_width % 4 == 0 && !(((uintptr_t)k | (uintptr_t)v) & 15);
    if (!fits) return false;
    if (a->D == 32) attention_mma::run<32>(out, lse, q, k, v, lengths, a);
    else attention_mma::run<64>(out, lse, q, k, v, lengths, a);
    return true;
}

}  // namespace wm_cuda
