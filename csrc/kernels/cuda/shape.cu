/* shape: moving numbers of 1, 2 or 4 bytes (item); strides and sizes count numbers. */
#include "device.cuh"
#include <cstring>

namespace wm_cuda {
namespace shape {

__device__ inline void move(void *out, int64_t to, const void *x, int64_t from, int64_t item) {
    if (item == 4) ((uint32_t *)out)[to] = ((const uint32_t *)x)[from];
    else if (item == 2) ((uint16_t *)out)[to] = ((const uint16_t *)x)[from];
    else ((uint8_t *)out)[to] = ((const uint8_t *)x)[from];
}

/* ---- strided: out dense, x by strides ------------------------------------------------------------------ */

__global__ void strided_copy_kernel(void *out, const void *x, int64_t item, walk w, int64_t n) {
    FOR_EACH(i, n) move(out, i, x, places_of(w, i).at[0], item);
}
__global__ void strided_add_kernel(float *dx, const float *dout, walk w, int64_t n) {
    FOR_EACH(i, n) dx[places_of(w, i).at[0]] += dout[i];
}
static void strided_copy(void *out, const void *x, int64_t item, const int64_t *shape, const int64_t *stride, int ndim) {
    const int64_t n = count_of(shape, ndim);
    EACH(strided_copy_kernel, n, out, x, item, walk_of(shape, ndim, stride, NULL, NULL), n);
}
static void strided_add(float *dx, const float *dout, const int64_t *shape, const int64_t *stride, int ndim) {
    const int64_t n = count_of(shape, ndim);
    EACH(strided_add_kernel, n, dx, dout, walk_of(shape, ndim, stride, NULL, NULL), n);
}

/* ---- rows of two arrays with their own distances between rows -------------------------------------------- */

__global__ void rows_copy_kernel(void *out, int64_t to, const void *x, int64_t from, int64_t item, int64_t width, int64_t n) {
    FOR_EACH(i, n) move(out, i / width * to + i % width, x, i / width * from + i % width, item);
}
static void rows_copy(void *out, int64_t to, const void *x, int64_t from, int64_t item, int64_t width, int64_t rows) {
    EACH(rows_copy_kernel, rows * width, out, to, x, from, item, width, rows * width);
}
__global__ void rows_add_kernel(float *d, int64_t to, const float *g, int64_t from, int64_t width, int64_t n) {
    FOR_EACH(i, n) d[i / width * to + i % width] += g[i / width * from + i % width];
}
static void rows_add(float *d, int64_t to, const float *g, int64_t from, int64_t width, int64_t rows) {
    EACH(rows_add_kernel, rows * width, d, to, g, from, width, rows * width);
}
__global__ void rows_fill_kernel(void *out, int64_t to, uint32_t value, int64_t item, int64_t width, int64_t n) {
    FOR_EACH(i, n) {
        const int64_t at = i / width * to + i % width;
        if (item == 4) ((uint32_t *)out)[at] = value;
        else if (item == 2) ((uint16_t *)out)[at] = (uint16_t)value;
        else ((uint8_t *)out)[at] = (uint8_t)value;
    }
}
static void rows_fill(void *out, int64_t to, const void *value, int64_t item, int64_t width, int64_t rows) {
    uint32_t v;
    memcpy(&v, value, sizeof v);
    EACH(rows_fill_kernel, rows * width, out, to, v, item, width, rows * width);
}

/* ---- rows chosen by indices; an index outside is skipped (the op has checked what it could) ----------------- */

/* out[a,m,b] = x[a,index[m],b], or with one index a number (each) x[a,index[a,m,b],b] */
__global__ void gather_kernel(void *out, const void *x, const int32_t *index, bool each, int64_t item, int64_t N, int64_t M,
                              int64_t B, int64_t n) {
    FOR_EACH(i, n) {
        const int64_t k = each ? index[i] : index[i / B % M];
        if (k >= 0 && k < N) move(out, i, x, (i / (M * B) * N + k) * B + i % B, item);
    }
}
static void gather_forward(void *out, const void *x, const int32_t *index, int64_t item, int64_t A, int64_t N, int64_t M,
                           int64_t B) {
    EACH(gather_kernel, A * M * B, out, x, index, false, item, N, M, B, A * M * B);
}
static void take_forward(void *out, const void *x, const int32_t *index, int64_t item, int64_t A, int64_t N, int64_t M, int64_t B) {
    EACH(gather_kernel, A * M * B, out, x, index, true, item, N, M, B, A * M * B);
}
/* A thread a number of dx adds what is its own, in the order of m. */
__global__ void gather_backward_kernel(float *dx, const float *dout, const int32_t *index, bool each, int64_t N, int64_t M,
                                       int64_t B, int64_t n) {
    FOR_EACH(i, n) {
        const int64_t b = i % B, row = i / B % N, a = i / (N * B);
        float s = dx[i];
        for (int64_t m = 0; m < M; m++) {
            const int64_t at = (a * M + m) * B + b;
            if ((each ? index[at] : index[m]) == row) s += dout[at];
        }
        dx[i] = s;
    }
}
static void gather_backward(float *dx, const float *dout, const int32_t *index, int64_t A, int64_t N, int64_t M, int64_t B) {
    EACH(gather_backward_kernel, A * N * B, dx, dout, index, false, N, M, B, A * N * B);
}
static void take_backward(float *dx, const float *dout, const int32_t *index, int64_t A, int64_t N, int64_t M, int64_t B) {
    EACH(gather_backward_kernel, A * N * B, dx, dout, index, true, N, M, B, A * N * B);
}

}  // namespace shape

void shape_table(wm_kernels *k) {
    using namespace shape;
    k->strided_copy = strided_copy, k->strided_add = strided_add;
    k->rows_copy = rows_copy, k->rows_add = rows_add, k->rows_fill = rows_fill;
    k->gather_forward = gather_forward, k->gather_backward = gather_backward;
    k->take_forward = take_forward, k->take_backward = take_backward;
}
}  // namespace wm_cuda
