/* gemm.cuh - one product for all: c (M,N) = end(a (M,K) b (K,N)), any strides, b of float or bf16; and column sums. */
#pragma once
#include "device.cuh"

namespace wm_cuda {

enum { ACT_NONE, ACT_GELU, ACT_GELU_ERF, ACT_SILU };

/* What follows a sum v of row m and column n: v += bias; pre keeps it; out (+)= act(v), or residual + gate v. */
struct epilogue {
    float *out, *pre;
    const float *bias, *gate, *residual;
    int act;
    bool add;
    int64_t out_row, rows_a_gate, N;        /* gate, residual and pre have rows of N */
};
__device__ inline float activate(int act, float v) {
    switch (act) {
    case ACT_GELU: return v * vec_sigmoid(v * (v * v * 0.0713548162726f + 1.59576912160573f));
    case ACT_GELU_ERF: return v * vec_normal_cdf(v);
    case ACT_SILU: return v * vec_sigmoid(v);
    default: return v;
    }
}
__device__ inline void finish(const epilogue &e, int64_t m, int64_t n, float v) {
    if (e.bias) v += e.bias[n];
    if (e.pre) e.pre[m * e.N + n] = v;
    float *out = e.out + m * e.out_row + n;
    if (e.gate) v = e.residual[m * e.N + n] + e.gate[m / e.rows_a_gate * e.N + n] * v;
    else v = activate(e.act, v);
    *out = e.add ? *out + v : v;
}

struct product {
    int64_t M, N, K;
    const float *a;
    int64_t a_row, a_column;        /* a(m,k) = a[m a_row + k a_column] */
    const void *b;
    int64_t b_row, b_column;        /* b(k,n) = b[k b_row + n b_column] */
    int b_bf16;
    bool split;                     /* K in parts of fixed size, whose sums are added in order: for long K and few outputs */
    epilogue end;
};
void multiply(const product &);     /* gemm.cu: by the way that set_matmul chose */

/* The ways: float32 multiply-adds; tensor cores on inputs rounded to bf16, or split into three terms of it; cuBLAS in
   float32; cuBLAS on inputs rounded to bf16. */
enum { BY_EXACT, BY_BF16, BY_SPLIT, BY_CUBLAS, BY_CUBLAS_BF16, WAYS };
extern int matmul_way;
void multiply_bf16(const product &), multiply_split(const product &);      /* gemm_mma.cu */
bool multiply_cublas(const product &, bool half);                          /* cublas.cu; false: not a product for it */
void add_parts(const product &, const float *part, int64_t parts);         /* gemm.cu: end(the sum of part (parts,M,N)) */
bool cublas_open();                                                        /* false, with the reason noted */

/* to[g step + c] += sum over the `rows` rows of group g of x[r,c] (times y[r,c], unless NULL) */
void add_columns(float *to, int64_t step, const float *x, const float *y, int64_t groups, int64_t rows, int64_t C);

}  // namespace wm_cuda
