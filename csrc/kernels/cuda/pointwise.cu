/* pointwise: the functions of pointwise.def, one number a thread, four where rows are dense and lie on 16 bytes. */
#include "device.cuh"

namespace wm_cuda {
namespace pointwise {

/* silu' = s (1 + x (1 - s)); gelu and mish in the same words as cpu/pointwise.c */
__device__ inline float vec_silu_slope(float x) { const float s = vec_sigmoid(x); return s + x * s * (1.0f - s); }
__device__ inline float vec_mish_gate(float x) {
    const float e = expf(-fabsf(x));          /* tanh(softplus x) = ((1 + e^x)^2 - 1) / ((1 + e^x)^2 + 1) */
    return x < 0.0f ? e * (e + 2.0f) / (e * (e + 2.0f) + 2.0f) : (1.0f + 2.0f * e) / (1.0f + 2.0f * e + 2.0f * e * e);
}
__device__ inline float vec_mish_slope(float x) {
    const float t = vec_mish_gate(x);
    return t + x * (1.0f - t) * (1.0f + t) * vec_sigmoid(x);
}
__device__ inline float vec_gelu_u(float x) { return 1.59576912160573071f * (x + 0.044715f * x * x * x); }
__device__ inline float vec_gelu_tanh_slope(float x) {
    const float s = vec_sigmoid(vec_gelu_u(x));
    return s + x * s * (1.0f - s) * 1.59576912160573071f * (1.0f + 3.0f * 0.044715f * x * x);
}
__device__ inline float vec_share(float a, float b) { return a > b ? 1.0f : a == b ? 0.5f : 0.0f; }

static bool wide(const void *p) { return ((uintptr_t)p & 15) == 0; }

/* ---- one input ------------------------------------------------------------------------------------- */

#define WM_UNARY(name, spec, doc, value, slope)                                                                        \
    __device__ inline float name##_value(float x, float a, float b) { (void)a, (void)b; return value; }               \
    __device__ inline float name##_slope(float g, float x, float y, float a, float b) {                               \
        (void)a, (void)b, (void)x, (void)y, (void)g;                                                                   \
        return slope;                                                                                                  \
    }                                                                                                                  \
    __global__ void name##_forward_kernel(float *out, const float *x, float a, float b, int64_t n, int64_t fours) {    \
        FOR_EACH(i, fours) {                                                                                           \
            float4 v = ((const float4 *)x)[i];                                                                         \
            v.x = name##_value(v.x, a, b), v.y = name##_value(v.y, a, b);                                              \
            v.z = name##_value(v.z, a, b), v.w = name##_value(v.w, a, b);                                              \
            ((float4 *)out)[i] = v;                                                                                    \
        }                                                                                                              \
        FOR_EACH(i, n - 4 * fours) out[4 * fours + i] = name##_value(x[4 * fours + i], a, b);                          \
    }                                                                                                                  \
    __global__ void name##_backward_kernel(float *dx, const float *dout, const float *x, const float *out, float a,    \
                                           float b, int64_t n) {                                                       \
        FOR_EACH(i, n) dx[i] += name##_slope(dout[i], x[i], out[i], a, b);                                             \
    }                                                                                                                  \
    static void name##_forward(float *out, const float *x, float a, float b, int64_t n) {                              \
        const int64_t fours = wide(out) && wide(x) ? n / 4 : 0;                                                        \
        EACH(name##_forward_kernel, fours ? fours : n, out, x, a, b, n, fours);                                        \
    }                                                                                                                  \
    static void name##_backward(float *dx, const float *dout, const float *x, const float *out, float a, float b,      \
                                int64_t n) {                                                                           \
        EACH(name##_backward_kernel, n, dx, dout, x, out, a, b, n);                                                    \
    }
#include "../pointwise.def"
#undef WM_UNARY

/* ---- two inputs, whose rows broadcast ---------------------------------------------------------------- */

static bool dense(int64_t stride, int ndim) { return ndim == 1 && stride == 1; }

#define WM_BINARY(name, doc, value, slope_a, slope_b)                                                                  \
    __device__ inline float name##_value(float a, float b) { return value; }                                          \
    __device__ inline float name##_slope_a(float g, float a, float b) { (void)a, (void)b; return slope_a; }            \
    __device__ inline float name##_slope_b(float g, float a, float b) { (void)a, (void)b; return slope_b; }            \
    __global__ void name##_dense_kernel(float *out, const float *a, const float *b, int64_t n, int64_t fours) {        \
        FOR_EACH(i, fours) {                                                                                           \
            const float4 u = ((const float4 *)a)[i], v = ((const float4 *)b)[i];                                       \
            float4 y;                                                                                                  \
            y.x = name##_value(u.x, v.x), y.y = name##_value(u.y, v.y);                                                \
            y.z = name##_value(u.z, v.z), y.w = name##_value(u.w, v.w);                                                \
            ((float4 *)out)[i] = y;                                                                                    \
        }                                                                                                              \
        FOR_EACH(i, n - 4 * fours) out[4 * fours + i] = name##_value(a[4 * fours + i], b[4 * fours + i]);              \
    }                                                                                                                  \
    __global__ void name##_forward_kernel(float *out, const float *a, const float *b, walk w, int64_t n) {             \
        FOR_EACH(i, n) {                                                                                               \
            const places p = places_of(w, i);                                                                          \
            out[i] = name##_value(a[p.at[0]], b[p.at[1]]);                                                             \
        }                                                                                                              \
    }                                                                                                                  \
    __global__ void name##_backward_kernel(float *da, float *db, const float *dout, const float *a, const float *b,    \
                                           walk w, int64_t n) {                                                        \
        FOR_EACH(i, n) {                                                                                               \
            const places p = places_of(w, i);                                                                          \
            const float g = dout[i], u = a[p.at[0]], v = b[p.at[1]];                                                   \
            if (da) da[i] += name##_slope_a(g, u, v);                                                                  \
            if (db) db[i] += name##_slope_b(g, u, v);                                                                  \
        }                                                                                                              \
    }                                                                                                                  \
    static void name##_forward(float *out, const float *a, const float *b, const int64_t *shape, const int64_t *sa,    \
                               const int64_t *sb, int ndim) {                                                          \
        const int64_t n = count_of(shape, ndim), fours = wide(out) && wide(a) && wide(b) ? n / 4 : 0;                  \
        if (dense(sa[0], ndim) && dense(sb[0], ndim)) EACH(name##_dense_kernel, fours ? fours : n, out, a, b, n, fours); \
        else EACH(name##_forward_kernel, n, out, a, b, walk_of(shape, ndim, sa, sb, NULL), n);                         \
    }                                                                                                                  \
    static void name##_backward(float *da, float *db, const float *dout, const float *a, const float *b,               \
                                const int64_t *shape, const int64_t *sa, const int64_t *sb, int ndim) {                \
        const int64_t n = count_of(shape, ndim);                                                                       \
        EACH(name##_backward_kernel, n, da, db, dout, a, b, walk_of(shape, ndim, sa, sb, NULL), n);                    \
    }
#define WM_COMPARE(name, doc, mask)                                                                                    \
    __global__ void name##_forward_kernel(uint8_t *out, const float *pa, const float *pb, walk w, int64_t n) {         \
        FOR_EACH(i, n) {                                                                                               \
            const places p = places_of(w, i);                                                                          \
            const float a = pa[p.at[0]], b = pb[p.at[1]];                                                              \
            out[i] = (mask) ? 1 : 0;                                                                                   \
        }                                                                                                              \
    }                                                                                                                  \
    static void name##_forward(uint8_t *out, const float *a, const float *b, const int64_t *shape, const int64_t *sa,  \
                               const int64_t *sb, int ndim) {                                                          \
        const int64_t n = count_of(shape, ndim);                                                                       \
        EACH(name##_forward_kernel, n, out, a, b, walk_of(shape, ndim, sa, sb, NULL), n);                              \
    }
#include "../pointwise.def"
#undef WM_BINARY
#undef WM_COMPARE

/* ---- where ------------------------------------------------------------------------------------------- */

__global__ void where_kernel(float *out, const uint8_t *mask, const float *a, const float *b, walk w, int64_t n) {
    FOR_EACH(i, n) {
        const places p = places_of(w, i);
        out[i] = mask[p.at[0]] ? a[p.at[1]] : b[p.at[2]];
    }
}
__global__ void where_backward_kernel(float *da, float *db, const float *dout, const uint8_t *mask, walk w, int64_t n) {
    FOR_EACH(i, n) {
        const bool yes = mask[places_of(w, i).at[0]];
        if (da) da[i] += yes ? dout[i] : 0.0f;
        if (db) db[i] += yes ? 0.0f : dout[i];
    }
}
static void where_forward(float *out, const uint8_t *mask, const float *a, const float *b, const int64_t *shape,
                          const int64_t *sm, const int64_t *sa, const int64_t *sb, int ndim) {
    const int64_t n = count_of(shape, ndim);
    EACH(where_kernel, n, out, mask, a, b, walk_of(shape, ndim, sm, sa, sb), n);
}
static void where_backward(float *da, float *db, const float *dout, const uint8_t *mask, const int64_t *shape,
                           const int64_t *sm, int ndim) {
    const int64_t n = count_of(shape, ndim);
    EACH(where_backward_kernel, n, da, db, dout, mask, walk_of(shape, ndim, sm, NULL, NULL), n);
}

/* ---- cast: to bf16, u8 and i32 rounds to nearest even; u8 and i32 saturate, NaN becomes 0 -------------- */

__device__ inline float number_as_float(const void *x, int kind, int64_t i) {
    switch (kind) {
    case WM_KIND_BF16: return from_bf16(((const wm_bf16 *)x)[i]);
    case WM_KIND_U8: return ((const uint8_t *)x)[i];
    case WM_KIND_I32: return (float)((const int32_t *)x)[i];
    default: return ((const float *)x)[i];
    }
}
__global__ void cast_kernel(void *out, const void *x, int to, int from, int64_t n) {
    FOR_EACH(i, n) {
        if (from == WM_KIND_I32 && (to == WM_KIND_U8 || to == WM_KIND_I32)) {     /* not by way of float */
            const int32_t v = ((const int32_t *)x)[i];
            if (to == WM_KIND_I32) ((int32_t *)out)[i] = v;
            else ((uint8_t *)out)[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
            continue;
        }
        if (from == WM_KIND_BF16 && to == WM_KIND_BF16) {
            ((wm_bf16 *)out)[i] = ((const wm_bf16 *)x)[i];
            continue;
        }
        const float v = number_as_float(x, from, i);
        switch (to) {
        case WM_KIND_BF16: ((wm_bf16 *)out)[i] = to_bf16(v); break;
        case WM_KIND_U8: ((uint8_t *)out)[i] = (uint8_t)(v > 0.0f ? v < 255.0f ? rintf(v) : 255.0f : 0.0f); break;
        case WM_KIND_I32:
            ((int32_t *)out)[i] = v >= 2147483648.0f ? INT32_MAX : v > -2147483648.0f ? (int32_t)rintf(v) : v == v ? INT32_MIN : 0;
            break;
        default: ((float *)out)[i] = v;
        }
    }
}
static void cast_forward(void *out, const void *x, int to, int from, int64_t n) { EACH(cast_kernel, n, out, x, to, from, n); }

}  // namespace pointwise

void pointwise_table(wm_kernels *k) {
    using namespace pointwise;
#define WM_UNARY(name, spec, doc, value, slope) k->name##_forward = name##_forward, k->name##_backward = name##_backward;
#define WM_BINARY(name, doc, value, slope_a, slope_b) k->name##_forward = name##_forward, k->name##_backward = name##_backward;
#define WM_COMPARE(name, doc, mask) k->name##_forward = name##_forward;
#include "../pointwise.def"
#undef WM_UNARY
#undef WM_BINARY
#undef WM_COMPARE
    k->where_forward = where_forward, k->where_backward = where_backward, k->cast_forward = cast_forward;
}
}  // namespace wm_cuda
