/* tiles.cuh - a block's share of a product on tensor cores: 64 x 64 numbers of c by 4 warps of 32 x 32, 32 of K at a time.

   Who includes it brings the numbers, as floats, to shared memory: gemm_mma.cu from rows that lie, conv_mma.cu from under taps.
   TERMS 1: they are rounded to bf16.  TERMS 3: a float is the sum of three bf16 numbers, and the six products of terms that are not
   below float32's own rounding give its accuracy. */
#pragma once
#include "mma.cuh"

namespace wm_cuda {
namespace tiles {

enum { TILE = 64, DEEP = 32, ROW = DEEP + 8, THREADS = 128, NUMBERS = TILE * DEEP };    /* ROW: 80 bytes, so that ldmatrix meets all banks */

/* Shared memory: floats of two steps of both sides, then terms of both. */
template <int TERMS> constexpr size_t bytes() { return 4 * NUMBERS * sizeof(float) + (size_t)2 * TERMS * TILE * ROW * sizeof(wm_bf16); }

/* Floats (row, k), or turned (k, row), as terms of bf16: term t of (row, k) at to[t TILE ROW + row ROW + k] */
template <int TERMS> __device__ inline void convert(wm_bf16 *to, const float *from, bool turned) {
    for (int i = threadIdx.x; i < NUMBERS; i += THREADS) {
        const int r = turned ? i % TILE : i / DEEP, k = turned ? i / TILE : i % DEEP;
        wm_bf16 t[TERMS];
        terms_of<TERMS>(t, from[i]);
#pragma unroll
        for (int j = 0; j < TERMS; j++) to[(j * TILE + r) * ROW + k] = t[j];
    }
}

/* sum += the products of one step; sum[i][n][e] is c(row_of(i, e), column_of(n, e)) */
template <int TERMS> __device__ inline void multiply_add(float (&sum)[2][4][4], const wm_bf16 *at, const wm_bf16 *bt) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, wm = warp / 2 * 32, wn = warp % 2 * 32;
    uint32_t fb[TERMS][4][4];          /* of 8 columns, all 32 of K */
#pragma unroll
    for (int t = 0; t < TERMS; t++)
#pragma unroll
        for (int n = 0; n < 4; n++) load_matrices<false>(fb[t][n], bt + (t * TILE + wn + n * 8 + (lane & 7)) * ROW + (lane >> 3) * 8);
#pragma unroll
    for (int k = 0; k < 2; k++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t fa[TERMS][4];
#pragma unroll
            for (int t = 0; t < TERMS; t++)
                load_matrices<false>(fa[t], at + (t * TILE + wm + i * 16 + (lane & 15)) * ROW + k * 16 + (lane >> 4) * 8);
#pragma unroll
            for (int below = TERMS - 1; below >= 0; below--)       /* the smallest products first */
#pragma unroll
                for (int t = 0; t <= below; t++)
#pragma unroll
                    for (int n = 0; n < 4; n++) mma(sum[i][n], fa[t], fb[below - t][n][2 * k], fb[below - t][n][2 * k + 1]);
        }
}

/* The block's sums over K from first to end.  fetch(to, k) asks for the floats of the DEEP numbers from k on, of both sides, by
   copies that do not wait: those of the next step are on their way while this one's are converted and multiplied.
   room: bytes<TERMS> of shared memory; a_turned, b_turned: as convert takes them. */
template <int TERMS, class Index, class Fetch>
__device__ inline void accumulate(float (&sum)[2][4][4], float *room, Index first, Index end, bool a_turned, bool b_turned, const Fetch &fetch) {
    wm_bf16 *at = (wm_bf16 *)(room + 4 * NUMBERS), *bt = at + TERMS * TILE * ROW;
    fetch(room, first);
    copies_end();
    int step = 0;
    for (Index k = first; k < end; k += DEEP, step ^= 1) {
        const float *now = room + step * 2 * NUMBERS;
        if (k + DEEP < end) fetch(room + (step ^ 1) * 2 * NUMBERS, (Index)(k + DEEP));
        copies_end();
#ifdef WM_PLANT_EARLY_READ
        copies_wait<2>();
#else
        copies_wait<1>();
#endif
        __syncthreads();
        convert<TERMS>(at, now, a_turned), convert<TERMS>(bt, now + NUMBERS, b_turned);
        __syncthreads();
        multiply_add<TERMS>(sum, at, bt);
    }
    copies_wait<0>();
}

__device__ inline int row_of(int i, int e) { return threadIdx.x / 64 * 32 + i * 16 + threadIdx.x % 32 / 4 + e / 2 * 8; }
__device__ inline int column_of(int n, int e) { return threadIdx.x / 32 % 2 * 32 + n * 8 + threadIdx.x % 4 * 2 + e % 2; }

/* f(row, column, sum) of every number of this thread's share. */
template <class Each> __device__ inline void each_sum(const float (&sum)[2][4][4], const Each &f) {
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) f(row_of(i, e), column_of(n, e), sum[i][n][e]);
}

}  // namespace tiles
}  // namespace wm_cuda
