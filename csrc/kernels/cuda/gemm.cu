/* gemm: the one product (gemm.cuh).

   A block computes 64 x 64 numbers of c, 16 of K at a time:
       for each 16 of K:  a (64 x 16) and b (16 x 64) to shared memory;  barrier;
           for each k:  each of 16 x 16 threads adds 4 x 4 products in registers;  barrier
   A number is one sum over ascending k, whatever M and N: the same bits at any batch size. */
#include "gemm.cuh"

namespace wm_cuda {
namespace gemm {

enum { TILE = 64, DEEP = 16, SPLIT = 2048 };

/* a and b of one step into shared memory; the side that lies dense in memory is the one that neighbours read. */
__device__ inline void load_tiles(float (&as)[DEEP][TILE + 4], float (&bs)[DEEP][TILE + 4], const product &p, int64_t m0, int64_t n0,
                                  int64_t k0, int64_t end) {
    const int t = threadIdx.x;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int m = p.a_column == 1 ? t / DEEP + 16 * i : t % TILE, k = p.a_column == 1 ? t % DEEP : t / TILE + 4 * i;
        const bool inside = m0 + m < p.M && k0 + k < end;
        as[k][m] = inside ? p.a[(m0 + m) * p.a_row + (k0 + k) * p.a_column] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int n = p.b_row == 1 ? t / DEEP + 16 * i : t % TILE, k = p.b_row == 1 ? t % DEEP : t / TILE + 4 * i;
        const bool inside = n0 + n < p.N && k0 + k < end;
        bs[k][n] = inside ? load_weight(p.b, p.b_bf16, (k0 + k) * p.b_row + (n0 + n) * p.b_column) : 0.0f;
    }
}

/* part: NULL, or (splits, M, N): the sums over one part of K each, without what follows */
__global__ void __launch_bounds__(256) gemm_kernel(product p, float *part, int64_t depth) {
    WM_SHARED(float, as, [DEEP][TILE + 4]);
    WM_SHARED(float, bs, [DEEP][TILE + 4]);
    const int64_t m0 = (int64_t)blockIdx.x * TILE, n0 = (int64_t)blockIdx.y * TILE, first = (int64_t)blockIdx.z * depth;
    const int64_t end = first + depth < p.K ? first + depth : p.K;
    const int tm = threadIdx.x / 16 * 4, tn = threadIdx.x % 16 * 4;
    float sum[4][4] = {};
    for (int64_t k0 = first; k0 < end; k0 += DEEP) {
        load_tiles(as, bs, p, m0, n0, k0, end);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEEP; k++) {
            const float4 x = *(const float4 *)&as[k][tm], y = *(const float4 *)&bs[k][tn];
            const float u[4] = {x.x, x.y, x.z, x.w}, v[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] = fmaf(u[i], v[j], sum[i][j]);
        }
#ifndef WM_PLANT_NO_BARRIER
        __syncthreads();
#endif
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int64_t m = m0 + tm + i, n = n0 + tn + j;
            if (m >= p.M || n >= p.N) continue;
            if (part) part[((int64_t)blockIdx.z * p.M + m) * p.N + n] = sum[i][j];
            else finish(p.end, m, n, sum[i][j]);
        }
}
__global__ void parts_kernel(product p, const float *part, int64_t splits) {
    FOR_EACH(i, p.M * p.N) {
        float s = 0.0f;
        for (int64_t k = 0; k < splits; k++) s += part[k * p.M * p.N + i];
        finish(p.end, i / p.N, i % p.N, s);
    }
}

static void exact(const product &p) {
    const dim3 grid((unsigned)((p.M + TILE - 1) / TILE), (unsigned)((p.N + TILE - 1) / TILE), 1);
    const int64_t splits = p.split ? (p.K + SPLIT - 1) / SPLIT : 1;
    if (splits == 1) {
        WM_LAUNCH(gemm_kernel, grid, 256, 0, p, (float *)NULL, p.K);
        return;
    }
    float *part = (float *)workspace((size_t)(splits * p.M * p.N) * sizeof *part);
    if (!part) return;
    WM_LAUNCH(gemm_kernel, dim3(grid.x, grid.y, (unsigned)splits), 256, 0, p, part, (int64_t)SPLIT);
    add_parts(p, part, splits);
}

/* ---- column sums ---------------------------------------------------------------------------------------------------- */

enum { CHUNK = 64 };
__global__ void columns_kernel(float *to, int64_t step, const float *x, const float *y, int64_t groups, int64_t rows, int64_t C,
                               int64_t chunks, bool add) {
    FOR_EACH(i, groups * chunks * C) {
        const int64_t c = i % C, k = i / C % chunks, g = i / (C * chunks), first = k * CHUNK;
        const int64_t last = first + CHUNK < rows ? first + CHUNK : rows;
        float s = 0.0f;
        for (int64_t r = g * rows + first; r < g * rows + last; r++) s += y ? x[r * C + c] * y[r * C + c] : x[r * C + c];
        float *at = add ? to + g * step + c : to + i;
        *at = add ? *at + s : s;
    }
}
__global__ void chunk_sums_kernel(float *to, int64_t step, const float *part, int64_t groups, int64_t C, int64_t chunks) {
    FOR_EACH(i, groups * C) {
        const int64_t g = i / C, c = i % C;
        float s = 0.0f;
        for (int64_t k = 0; k < chunks; k++) s += part[(g * chunks + k) * C + c];
        to[g * step + c] += s;
    }
}

}  // namespace gemm

int matmul_way = BY_EXACT;

void multiply(const product &p) {
    if (matmul_way >= BY_CUBLAS && multiply_cublas(p, matmul_way == BY_CUBLAS_BF16)) return;
    if (matmul_way == BY_BF16) multiply_bf16(p);
    else if (matmul_way == BY_SPLIT) multiply_split(p);
    else gemm::exact(p);
}

void add_parts(const product &p, const float *part, int64_t parts) { EACH(gemm::parts_kernel, p.M * p.N, p, part, parts); }

void add_columns(float *to, int64_t step, const float *x, const float *y, int64_t groups, int64_t rows, int64_t C) {
    using namespace gemm;
    const int64_t chunks = (rows + CHUNK - 1) / CHUNK;
    if (chunks == 1) {
        EACH(columns_kernel, groups * C, to, step, x, y, groups, rows, C, (int64_t)1, true);
        return;
    }
    float *part = (float *)workspace((size_t)(groups * chunks * C) * sizeof *part);
    if (!part) return;
    EACH(columns_kernel, groups * chunks * C, part, step, x, y, groups, rows, C, chunks, false);
    EACH(chunk_sums_kernel, groups * C, to, step, part, groups, C, chunks);
}

}  // namespace wm_cuda
