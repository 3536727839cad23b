/* gemm_mma: the product of gemm.cuh on tensor cores.

   A block of 4 warps computes 64 x 64 numbers of c, 32 of K at a time, each warp 32 x 32 (tiles.cuh):
       floats of step i + 1 to shared memory by copies that do not wait;  wait for step i;  barrier
       floats become bf16 terms, K side by side;  barrier
       for each 16 of K:  ldmatrix of a and b, mma of each pair of terms
   A number is one sum in one order, whatever M and N. */
#include "gemm.cuh"
#include "tiles.cuh"

namespace wm_cuda {
namespace gemm_mma {

using namespace tiles;
enum { SPLIT = 2048 };

/* One side of the product: rows (of m or n) at row strides, K at k strides. */
struct side {
    const void *at;
    int64_t row, k, rows;
    int bf16, form;                       /* how it may be copied */
};
enum { PLAIN, K_DENSE, ROWS_DENSE };

/* 64 rows x 32 of K as floats: (row, k), or (k, row) if rows lie dense. */
__device__ inline void fetch(float *to, const side &s, int64_t r0, int64_t k0, int64_t end) {
    for (int i = threadIdx.x; i < TILE * DEEP / 4; i += THREADS) {
        if (s.form == K_DENSE) {
            const int r = i / (DEEP / 4), k = i % (DEEP / 4) * 4;
            const bool inside = r0 + r < s.rows && k0 + k < end;
            copy_soon(to + r * DEEP + k, (const float *)s.at + (inside ? (r0 + r) * s.row + k0 + k : 0), inside);
        } else if (s.form == ROWS_DENSE) {
            const int k = i / (TILE / 4), r = i % (TILE / 4) * 4;
            const bool inside = r0 + r < s.rows && k0 + k < end;
            copy_soon(to + k * TILE + r, (const float *)s.at + (inside ? r0 + r + (k0 + k) * s.k : 0), inside);
        } else {
            const int r = i / (DEEP / 4), k = i % (DEEP / 4) * 4;
#pragma unroll
            for (int j = 0; j < 4; j++)
                to[r * DEEP + k + j] = r0 + r < s.rows && k0 + k + j < end
                                           ? load_weight(s.at, s.bf16, (r0 + r) * s.row + (k0 + k + j) * s.k) : 0.0f;
        }
    }
}

template <int TERMS>
__global__ void product_kernel(product p, side a, side b, float *part, int64_t depth) {
    WM_SHARED_DYN(float, room);
    const int64_t m0 = (int64_t)blockIdx.x * TILE, n0 = (int64_t)blockIdx.y * TILE, first = (int64_t)blockIdx.z * depth;
    const int64_t end = first + depth < p.K ? first + depth : p.K;
    float sum[2][4][4] = {};
    accumulate<TERMS>(sum, room, first, end, a.form == ROWS_DENSE, b.form == ROWS_DENSE, [&](float *to, int64_t k0) {
        fetch(to, a, m0, k0, end), fetch(to + NUMBERS, b, n0, k0, end);
    });
    each_sum(sum, [&](int r, int c, float value) {
        const int64_t m = m0 + r, n = n0 + c;
        if (m >= p.M || n >= p.N) return;
        if (part) part[((int64_t)blockIdx.z * p.M + m) * p.N + n] = value;
        else finish(p.end, m, n, value);
    });
}

/* Copies of 16 bytes want everything on 16 bytes, and whole fours. */
static int form_of(const side &s, int64_t K) {
    if (s.bf16 || ((uintptr_t)s.at & 15)) return PLAIN;
    if (s.k == 1 && s.row % 4 == 0 && K % 4 == 0) return K_DENSE;
    if (s.row == 1 && s.k % 4 == 0 && s.rows % 4 == 0) return ROWS_DENSE;
    return PLAIN;
}

template <int TERMS> static void run(const product &p) {
    side a = {p.a, p.a_row, p.a_column, p.M, 0, 0}, b = {p.b, p.b_column, p.b_row, p.N, p.b_bf16, 0};
    a.form = form_of(a, p.K), b.form = form_of(b, p.K);
    const int64_t splits = p.split ? (p.K + SPLIT - 1) / SPLIT : 1;
    float *part = splits > 1 ? (float *)workspace((size_t)(splits * p.M * p.N) * sizeof *part) : NULL;
    if (splits > 1 && !part) return;
    cudaFuncSetAttribute((const void *)product_kernel<TERMS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes<TERMS>());
    const dim3 grid((unsigned)((p.M + TILE - 1) / TILE), (unsigned)((p.N + TILE - 1) / TILE), (unsigned)splits);
    WM_LAUNCH(product_kernel<TERMS>, grid, THREADS, bytes<TERMS>(), p, a, b, part, splits > 1 ? (int64_t)SPLIT : p.K);
    if (part) add_parts(p, part, splits);
}

}  // namespace gemm_mma

void multiply_bf16(const product &p) { gemm_mma::run<1>(p); }
void multiply_split(const product &p) { gemm_mma::run<3>(p); }

}  // namespace wm_cuda
