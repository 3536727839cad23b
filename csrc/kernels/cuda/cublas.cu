/* cublas: NVIDIA's library for plain products, opened when it is first chosen (set_matmul("cublas") or "cublas_bf16"), never linked.

   It wants column-major matrices: c (M,N) in rows is c^T (N,M) in columns, so c^T = b^T a^T.  All goes by one of its functions, the
   strided batch: a batch of one; for long sums, the parts of K, added in order by our own kernel, which also does what follows.
   "cublas_bf16" rounds both sides to bf16 before (a weight that is bf16 is read where it lies); sums are float32 either way.
   Other batch sizes may mean other bits (law 7 is cuBLAS's to break), so it is a choice, not the default. */
#include "gemm.cuh"
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>

namespace wm_cuda {
namespace cublas {

/* As cublas_v2.h declares them; written out so that building needs no cuBLAS. */
typedef struct cublasContext *context;
enum { PLAIN = 0, TRANSPOSED = 1, DEFAULT = -1 };
enum { FLOAT = 0 /* CUDA_R_32F */, BF16 = 14 /* CUDA_R_16BF */, COMPUTE_FLOAT = 68 /* CUBLAS_COMPUTE_32F */ };
typedef int create_fn(context *);
typedef int set_stream_fn(context, cudaStream_t);
typedef int set_workspace_fn(context, void *, size_t);
typedef int gemm_fn(context, int, int, int, int, int, const void *, const void *, int, int, long long, const void *, int, int, long long,
                    const void *, void *, int, int, long long, int, int, int);

enum { SPLIT = 2048, OWN = 32 << 20 };      /* OWN: what NVIDIA recommends as cuBLAS's workspace; its own could not be captured */

static context open_context;
static gemm_fn *gemm;

static void *library() {
    const char *given = getenv("WM_CUBLAS");
    void *l = given && *given ? dlopen(given, RTLD_NOW | RTLD_LOCAL) : NULL;
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so"};
    for (int i = 0; !l && i < 3; i++) l = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return l;
}
static bool open() {
    if (gemm) return true;
    void *l = library(), *room = NULL;
    if (!l) return note("cuBLAS cannot be opened (%s)", dlerror()), false;
    create_fn *create;
    set_stream_fn *set_stream;
    set_workspace_fn *set_workspace;
    gemm_fn *found;
    *(void **)&create = dlsym(l, "cublasCreate_v2");
    *(void **)&set_stream = dlsym(l, "cublasSetStream_v2");
    *(void **)&set_workspace = dlsym(l, "cublasSetWorkspace_v2");
    *(void **)&found = dlsym(l, "cublasGemmStridedBatchedEx");
    if (!create || !set_stream || !set_workspace || !found)
        return note("%s", "cuBLAS lacks cublasCreate_v2, cublasSetStream_v2, cublasSetWorkspace_v2 or cublasGemmStridedBatchedEx"), false;
    if (cudaMalloc(&room, OWN) != cudaSuccess) return note("%s", "cuBLAS: no memory for its workspace"), false;
    if (create(&open_context) || set_stream(open_context, stream) || set_workspace(open_context, room, OWN))
        return note("%s", "cublasCreate failed"), cudaFree(room), false;
    gemm = found;
    return true;
}

/* A side as it lies: `rows` dense rows of `dense` numbers, a row every `row`. */
struct side {
    const void *at;
    int type, transposed, row;
    int64_t rows, dense;
    long long step;                     /* from one part of K to the next */
};
/* x(i,k) = at[i i_step + k k_step], I by K; transposed: rows of K.  False: dense along neither axis. */
static bool lay(side *s, const void *at, int bf16, int64_t i_step, int64_t k_step, int64_t I, int64_t K) {
    s->at = at, s->type = bf16 ? BF16 : FLOAT, s->step = (long long)(SPLIT * k_step), s->transposed = k_step == 1;
    if (k_step != 1 && i_step != 1) return false;
    s->rows = s->transposed ? I : K, s->dense = s->transposed ? K : I;
    const int64_t row = s->transposed ? i_step : k_step;
    s->row = (int)(row < s->dense ? s->dense : row);        /* shorter only if there is but one */
    return row < INT32_MAX;
}

__global__ void round_kernel(wm_bf16 *to, const float *from, int64_t dense, int64_t row, int64_t n) {
    FOR_EACH(i, n) to[i] = to_bf16(from[i / dense * row + i % dense]);
}
static void round_side(side *s, wm_bf16 *to) {
    if (s->type == BF16) return;
    EACH(round_kernel, s->rows * s->dense, to, (const float *)s->at, s->dense, (int64_t)s->row, s->rows * s->dense);
    s->at = to, s->type = BF16, s->row = (int)s->dense, s->step = SPLIT * (long long)(s->transposed ? 1 : s->dense);
}

/* c (count,M,N), rows of c_row, (+)= `count` parts of K, each of `depth`, from part `first` on. */
static void run(const product &p, const side &a, const side &b, float *c, int64_t c_row, bool add, int first, int depth, int count) {
    const float one = 1.0f, beta = add ? 1.0f : 0.0f;
    const size_t size_a = a.type == BF16 ? 2 : 4, size_b = b.type == BF16 ? 2 : 4;
    const long long step = (long long)(p.M * p.N);
    const int failed = gemm(open_context, b.transposed, !a.transposed, (int)p.N, (int)p.M, depth, &one,
                            (const char *)b.at + (size_t)(first * b.step) * size_b, b.type, b.row, b.step,
                            (const char *)a.at + (size_t)(first * a.step) * size_a, a.type, a.row, a.step, &beta, c + first * step, FLOAT,
                            (int)c_row, step, count, COMPUTE_FLOAT, DEFAULT);
    if (!failed) return;
    char code[32];
    snprintf(code, sizeof code, "%d", failed);
    note("cublasGemmStridedBatchedEx failed with status %s", code);
}
static size_t padded(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace cublas

bool cublas_open() { return cublas::open(); }

bool multiply_cublas(const product &p, bool half) {
    using namespace cublas;
    side a, b;
    if ((p.b_bf16 && !half) || p.M > INT32_MAX || p.N > INT32_MAX || p.K > INT32_MAX || !p.K || !gemm) return false;
    if (!lay(&a, p.a, 0, p.a_row, p.a_column, p.M, p.K) || !lay(&b, p.b, p.b_bf16, p.b_column, p.b_row, p.N, p.K)) return false;
    const epilogue &e = p.end;
    const int parts = p.split && p.K > SPLIT ? (int)(p.K / SPLIT) : 0, rest = (int)(p.K - (int64_t)parts * SPLIT);
    const bool plain = !parts && !e.bias && !e.pre && !e.gate && !e.act;
    const int64_t sums = parts ? parts + (rest > 0) : 1;
    const size_t sums_bytes = plain ? 0 : padded((size_t)(sums * p.M * p.N) * sizeof(float));
    const size_t a_bytes = half ? padded((size_t)(p.M * p.K) * sizeof(wm_bf16)) : 0;
    const size_t b_bytes = half && !p.b_bf16 ? padded((size_t)(p.N * p.K) * sizeof(wm_bf16)) : 0, bytes = sums_bytes + a_bytes + b_bytes;
    char *room = bytes ? (char *)workspace(bytes) : NULL;
    if (bytes && !room) return true;
    if (half) round_side(&a, (wm_bf16 *)(room + sums_bytes)), round_side(&b, (wm_bf16 *)(room + sums_bytes + a_bytes));
    float *to = plain ? e.out : (float *)room;
    if (parts) run(p, a, b, to, p.N, false, 0, SPLIT, parts);
    if (rest) run(p, a, b, to, plain ? e.out_row : p.N, plain && e.add, parts, rest, 1);
    if (!plain) add_parts(p, to, sums);
    return true;
}

}  // namespace wm_cuda
