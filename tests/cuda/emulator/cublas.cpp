/* cublas.cpp - a stand-in for cuBLAS: the four functions that csrc/kernels/cuda/cublas.cu looks up, as NVIDIA documents them, on the
   processor and as plain as can be; strict about sizes and leading dimensions, as the real one is. */
#include "emulator.h"

namespace {

enum { OK = 0, NOT_INITIALIZED = 1, INVALID = 7, NOT_SUPPORTED = 15 };
enum { FLOAT = 0, BF16 = 14, COMPUTE_FLOAT = 68 };

struct Context {
    cuemu::Stream* stream;
    bool has_workspace;
};

float number(const void* x, int type, int64_t i) {
    return type == BF16 ? cuemu::bf16_bits_to_float(((const uint16_t*)x)[i]) : ((const float*)x)[i];
}
struct Matrix {
    const void* at;
    int type, transposed, leading;
    long long step;
    float operator()(int part, int i, int j) const {
        return number(at, type, part * step + (transposed ? i * (int64_t)leading + j : j * (int64_t)leading + i));
    }
};

}  // namespace

extern "C" {
int cublasCreate_v2(Context** c) { return *c = new Context{nullptr, false}, OK; }
int cublasSetStream_v2(Context* c, void* stream) { return *c = {(cuemu::Stream*)stream, false}, OK; } /* and the workspace is reset */
int cublasSetWorkspace_v2(Context* c, void* at, size_t bytes) {
    if (!c || ((uintptr_t)at & 255) || bytes < (4 << 20)) return INVALID;
    return c->has_workspace = true, OK;
}
int cublasGemmStridedBatchedEx(Context* c, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda,
                               long long a_step, const void* b, int b_type, int ldb, long long b_step, const void* beta, void* out,
                               int type, int ldc, long long step, int count, int compute, int) {
    if (!c || !c->stream || !c->has_workspace) return NOT_INITIALIZED;
    if (m < 0 || n < 0 || k < 0 || count < 0 || ta < 0 || ta > 1 || tb < 0 || tb > 1) return INVALID;
    if (lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m || lda < 1 || ldb < 1) return INVALID;
    if (compute != COMPUTE_FLOAT || type != FLOAT || a_type != b_type || (a_type != FLOAT && a_type != BF16)) return NOT_SUPPORTED;
    const Matrix A = {a, a_type, ta, lda, a_step}, B = {b, b_type, tb, ldb, b_step};
    const float scale = *(const float*)alpha, keep = *(const float*)beta; /* on the host: read now, not when a graph runs */
    c->stream->perform([=] {
        for (int p = 0; p < count; p++)
            for (int j = 0; j < n; j++)
                for (int i = 0; i < m; i++) {
                    float s = 0.0f, *to = (float*)out + p * step + j * (int64_t)ldc + i;
                    for (int l = 0; l < k; l++) s += A(p, i, l) * B(p, l, j);
                    *to = scale * s + (keep != 0.0f ? keep * *to : 0.0f);
                }
    });
    return OK;
}
}
