/* cublas: NVIDIA's library for plain products, opened when it is first chosen (set_matmul("cublas")), never linked.

   It wants column-major matrices: c (M,N) in rows is c^T (N,M) in columns, so c^T = b^T a^T.  What follows the sums is one more
   kernel of ours.  Other batch sizes may mean other bits (law 7 is cuBLAS's to break), so it is a choice, not the default. */
#include "gemm.cuh"
#include <cstdio>
#include <cstdlib>

#if !defined(WM_EMULATED)
#include <dlfcn.h>
#endif

namespace wm_cuda {
namespace cublas {

/* As cublas_v2.h declares them; written out so that building needs no cuBLAS. */
typedef struct cublasContext *context;
enum { PLAIN = 0, TRANSPOSED = 1, FLOAT = 0 /* CUDA_R_32F */, COMPUTE_FLOAT = 68 /* CUBLAS_COMPUTE_32F */, DEFAULT = -1 };
typedef int create_fn(context *);
typedef int set_stream_fn(context, cudaStream_t);
typedef int gemm_fn(context, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int, const void *, void *,
                    int, int, int, int);

static context open_context;
static gemm_fn *gemm;

#if defined(WM_EMULATED)
/* Column-major reference with cuBLAS's signature. */
static int reference(context, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int, int lda, const void *b, int,
                     int ldb, const void *beta, void *c, int, int ldc, int, int) {
    const float *A = (const float *)a, *B = (const float *)b;
    float *C = (float *)c;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            float s = 0.0f;
            for (int l = 0; l < k; l++) s += (ta ? A[i * (int64_t)lda + l] : A[l * (int64_t)lda + i]) * (tb ? B[l * (int64_t)ldb + j] : B[j * (int64_t)ldb + l]);
            float *to = C + j * (int64_t)ldc + i;
            *to = *(const float *)alpha * s + (*(const float *)beta != 0.0f ? *(const float *)beta * *to : 0.0f);
        }
    return 0;
}
static bool open() {
    gemm = reference;
    return true;
}
#else
static void *library() {
    const char *given = getenv("WM_CUBLAS");
    void *l = given && *given ? dlopen(given, RTLD_NOW | RTLD_LOCAL) : NULL;
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so"};
    for (int i = 0; !l && i < 3; i++) l = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return l;
}
static bool open() {
    if (gemm) return true;
    void *l = library();
    if (!l) return note("cuBLAS cannot be opened (%s)", dlerror()), false;
    create_fn *create;
    set_stream_fn *set_stream;
    gemm_fn *found;
    *(void **)&create = dlsym(l, "cublasCreate_v2");
    *(void **)&set_stream = dlsym(l, "cublasSetStream_v2");
    *(void **)&found = dlsym(l, "cublasGemmEx");
    if (!create || !set_stream || !found) return note("%s", "cuBLAS lacks cublasCreate_v2, cublasSetStream_v2 or cublasGemmEx"), false;
    if (create(&open_context) || set_stream(open_context, stream)) return note("%s", "cublasCreate failed"), false;
    gemm = found;
    return true;
}
#endif

__global__ void finish_kernel(epilogue e, const float *v, int64_t N, int64_t n) { FOR_EACH(i, n) finish(e, i / N, i % N, v[i]); }

/* A side as cuBLAS sees it: dense along one axis. */
static bool lay(int *transposed, int *leading, int64_t row, int64_t column) {
    if (column == 1) return *transposed = TRANSPOSED, *leading = (int)row, true;
    if (row == 1) return *transposed = PLAIN, *leading = (int)column, true;
    return false;
}

}  // namespace cublas

bool cublas_open() { return cublas::open(); }

bool multiply_cublas(const product &p) {
    using namespace cublas;
    int ta, lda, tb, ldb;
    if (p.b_bf16 || p.M > INT32_MAX || p.N > INT32_MAX || p.K > INT32_MAX || !gemm) return false;
    /* b^T (N,K) by columns of b_row ... and a^T (K,M) */
    if (!lay(&tb, &ldb, p.b_column, p.b_row) || !lay(&ta, &lda, p.a_row, p.a_column)) return false;
    const epilogue &e = p.end;
    const bool plain = !e.bias && !e.pre && !e.gate && !e.act;
    float *to = plain ? e.out : (float *)workspace((size_t)(p.M * p.N) * sizeof *to);
    if (!to) return true;
    const float one = 1.0f, beta = plain && e.add ? 1.0f : 0.0f;
    const int failed = gemm(open_context, tb, !ta, (int)p.N, (int)p.M, (int)p.K, &one, p.b, FLOAT, ldb, p.a, FLOAT, lda, &beta, to, FLOAT,
                            (int)(plain ? e.out_row : p.N), COMPUTE_FLOAT, DEFAULT);
    if (failed) {
        char code[32];
        snprintf(code, sizeof code, "%d", failed);
        note("cublasGemmEx failed with status %s", code);
    }
    if (!plain) EACH(finish_kernel, p.M * p.N, e, (const float *)to, p.N, p.M * p.N);
    return true;
}

}  // namespace wm_cuda
