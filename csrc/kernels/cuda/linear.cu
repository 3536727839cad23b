/* linear: products with weights (N,K) that are read where they lie (no packing), what follows the sums fused; whole numbers. */
#include "gemm.cuh"

namespace wm_cuda {
namespace linear {

static int linear_layout(int bf16) { (void)bf16; return 0; }
static size_t linear_packed_bytes(int bf16, int64_t N, int64_t K) { (void)bf16, (void)N, (void)K; return 0; }

/* x (R,K) times w (N,K) transposed */
static product forward_of(const float *x, const void *w, int bf16, int64_t R, int64_t N, int64_t K) {
    product p = {};
    p.M = R, p.N = N, p.K = K;
    p.a = x, p.a_row = K, p.a_column = 1;
    p.b = w, p.b_row = 1, p.b_column = K, p.b_bf16 = bf16;
    p.end.out_row = N, p.end.N = N;
    return p;
}

static void linear_forward(float *out, float *pre, const float *x, const void *w, const float *b, int bf16, int act, int64_t R,
                           int64_t N, int64_t K) {
    product p = forward_of(x, w, bf16, R, N, K);
    p.end.out = out, p.end.pre = pre, p.end.bias = b, p.end.act = act;
    multiply(p);
}
static void linear_gated_forward(float *out, float *pre, const float *x, const void *w, const float *b, const float *gate,
                                 const float *residual, int bf16, int64_t R, int64_t G, int64_t N, int64_t K) {
    product p = forward_of(x, w, bf16, R, N, K);
    p.end.out = out, p.end.pre = pre, p.end.bias = b, p.end.gate = gate, p.end.residual = residual, p.end.rows_a_gate = R / G;
    multiply(p);
}

/* out = silu(first half) second half of v (R,2N) */
__global__ void swiglu_kernel(float *out, const float *v, int64_t N, int64_t n) {
    FOR_EACH(i, n) {
        const float a = v[i / N * 2 * N + i % N];
        out[i] = a * vec_sigmoid(a) * v[i / N * 2 * N + N + i % N];
    }
}
static void swiglu_forward(float *out, float *pre, const float *x, const void *w, const float *b, int bf16, int64_t R, int64_t N,
                           int64_t K) {
    float *v = pre ? pre : (float *)workspace((size_t)(R * 2 * N) * sizeof *v);
    if (!v) return;
    product p = forward_of(x, w, bf16, R, 2 * N, K);
    p.end.out = v, p.end.bias = b;
    multiply(p);
    EACH(swiglu_kernel, R * N, out, v, N, R * N);
}

/* ---- backward --------------------------------------------------------------------------------------------------------- */

__global__ void act_backward_kernel(float *dv, const float *dout, const float *v, int act, int64_t n) {
    FOR_EACH(i, n) {
        const float x = v[i];
        float slope;
        if (act == ACT_GELU) {
            const float s = vec_sigmoid(x * (x * x * 0.0713548162726f + 1.59576912160573f));
            slope = s + x * s * (1.0f - s) * (1.59576912160573f + 3.0f * 0.0713548162726f * x * x);
        } else if (act == ACT_GELU_ERF) {
            slope = vec_normal_cdf(x) + x * 0.398942280401432678f * expf(-0.5f * x * x);
        } else {
            const float s = vec_sigmoid(x);
            slope = s + x * s * (1.0f - s);
        }
        dv[i] = dout[i] * slope;
    }
}
static void linear_act_backward(float *dv, const float *dout, const float *v, int act, int64_t n) {
    EACH(act_backward_kernel, n, dv, dout, v, act, n);
}
__global__ void gated_backward_kernel(float *dv, float *dresidual, const float *dout, const float *gate, int64_t each, int64_t N,
                                      int64_t n) {
    FOR_EACH(i, n) {
        if (dv) dv[i] = dout[i] * gate[i / N / each * N + i % N];
        if (dresidual) dresidual[i] += dout[i];
    }
}
static void linear_gated_backward(float *dv, float *dgate, float *dresidual, const float *dout, const float *gate, const float *v,
                                  int64_t R, int64_t G, int64_t N) {
    if (dv || dresidual) EACH(gated_backward_kernel, R * N, dv, dresidual, dout, gate, R / G, N, R * N);
    if (dgate) add_columns(dgate, N, dout, v, G, R / G, N);
}
__global__ void swiglu_backward_kernel(float *dv, const float *dout, const float *v, int64_t N, int64_t n) {
    FOR_EACH(i, n) {
        const int64_t at = i / N * 2 * N + i % N;
        const float a = v[at], b = v[at + N], d = dout[i], s = vec_sigmoid(a);
        dv[at] = d * b * (s + a * s * (1.0f - s)), dv[at + N] = d * a * s;
    }
}
static void swiglu_backward(float *dv, const float *dout, const float *v, int64_t R, int64_t N) {
    EACH(swiglu_backward_kernel, R * N, dv, dout, v, N, R * N);
}
static void linear_dx(float *dx, float *room, const float *dv, const void *w, int bf16, int64_t R, int64_t N, int64_t K) {
    (void)room;
    product p = {};
    p.M = R, p.N = K, p.K = N;
    p.a = dv, p.a_row = N, p.a_column = 1;
    p.b = w, p.b_row = K, p.b_column = 1, p.b_bf16 = bf16;
    p.end.out = dx, p.end.out_row = K, p.end.N = K, p.end.add = true;
    multiply(p);
}
static void linear_dw(float *dw, const float *dv, const float *x, int64_t R, int64_t N, int64_t K) {
    product p = {};
    p.M = N, p.N = K, p.K = R;
    p.a = dv, p.a_row = 1, p.a_column = N;
    p.b = x, p.b_row = K, p.b_column = 1;
    p.split = true;
    p.end.out = dw, p.end.out_row = K, p.end.N = K, p.end.add = true;
    multiply(p);
}
static void linear_db(float *db, const float *dv, int64_t R, int64_t N) { add_columns(db, N, dv, NULL, 1, R, N); }

/* ---- whole numbers: rows rounded to int8, one scale each, products by dp4a ----------------------------------------------- */

static int64_t wide(int64_t K) { return (K + 3) / 4 * 4; }
static size_t linear_int8_bytes(int64_t N, int64_t K) { return (size_t)(N * (wide(K) + 4)); }
static size_t linear_int8_room(int64_t R, int64_t K) { return (size_t)(R * (wide(K) + 4)); }

/* rows (R,K4) of whole numbers, then their R scales */
__global__ void round_kernel(int8_t *to, float *scales, const void *x, int bf16, int64_t R, int64_t K, int64_t K4) {
    FOR_ROW(r, R) {
        float top = 0.0f;
        FOR_LANE(k, K) top = fmaxf(top, fabsf(load_weight(x, bf16, r * K + k)));
        top = warp_top(top);
        const float by = top > 0.0f ? 127.0f / top : 0.0f;
        FOR_LANE(k, K4) to[r * K4 + k] = k < K ? (int8_t)rintf(load_weight(x, bf16, r * K + k) * by) : (int8_t)0;
        if (threadIdx.x % 32 == 0) scales[r] = top / 127.0f;
    }
}
static void round_rows(void *to, const void *x, int bf16, int64_t R, int64_t K) {
    ROWS(round_kernel, R, (int8_t *)to, (float *)((char *)to + R * wide(K)), x, bf16, R, K, wide(K));
}
static void linear_int8_pack(void *packed, const void *w, int bf16, int64_t N, int64_t K) { round_rows(packed, w, bf16, N, K); }
static void swiglu_int8_pack(void *packed, const void *w, int bf16, int64_t N, int64_t K) { round_rows(packed, w, bf16, 2 * N, K); }

__global__ void int8_kernel(epilogue e, const int *x, const float *scale_x, const int *w, const float *scale_w, int64_t fours, int64_t n) {
    FOR_EACH(i, n) {
        const int64_t row = i / e.N, column = i % e.N;
        int sum = 0;
        for (int64_t k = 0; k < fours; k++) sum = __dp4a(x[row * fours + k], w[column * fours + k], sum);
        finish(e, row, column, (float)sum * (scale_x[row] * scale_w[column]));
    }
}
static void int8_product(const epilogue &e, void *room, const float *x, const void *packed, int64_t R, int64_t K) {
    const int64_t K4 = wide(K);
    round_rows(room, x, 0, R, K);
    EACH(int8_kernel, R * e.N, e, (const int *)room, (const float *)((const char *)room + R * K4), (const int *)packed,
         (const float *)((const char *)packed + e.N * K4), K4 / 4, R * e.N);
}
static void linear_int8_forward(float *out, void *room, const float *x, const void *packed, const float *b, int act, int64_t R,
                                int64_t N, int64_t K) {
    epilogue e = {};
    e.out = out, e.out_row = N, e.N = N, e.bias = b, e.act = act;
    int8_product(e, room, x, packed, R, K);
}
static void linear_gated_int8_forward(float *out, void *room, const float *x, const void *packed, const float *b, const float *gate,
                                      const float *residual, int64_t R, int64_t G, int64_t N, int64_t K) {
    epilogue e = {};
    e.out = out, e.out_row = N, e.N = N, e.bias = b, e.gate = gate, e.residual = residual, e.rows_a_gate = R / G;
    int8_product(e, room, x, packed, R, K);
}
static void swiglu_int8_forward(float *out, void *room, const float *x, const void *packed, const float *b, int64_t R, int64_t N,
                                int64_t K) {
    float *v = (float *)workspace((size_t)(R * 2 * N) * sizeof *v);
    if (!v) return;
    epilogue e = {};
    e.out = v, e.out_row = 2 * N, e.N = 2 * N, e.bias = b;
    int8_product(e, room, x, packed, R, K);
    EACH(swiglu_kernel, R * N, out, v, N, R * N);
}

/* ---- weights rounded to bf16; x is, where the way of multiplying says so ------------------------------------------------- */

static size_t linear_bf16_bytes(int64_t N, int64_t K) { return (size_t)(N * K) * sizeof(wm_bf16); }
static size_t linear_bf16_room(int64_t, int64_t) { return 64; }

__global__ void bf16_kernel(wm_bf16 *to, const void *w, int bf16, int64_t n) {
    FOR_EACH(i, n) to[i] = to_bf16(load_weight(w, bf16, i));
}
static void linear_bf16_pack(void *packed, const void *w, int bf16, int64_t N, int64_t K) {
    EACH(bf16_kernel, N * K, (wm_bf16 *)packed, w, bf16, N * K);
}
static void swiglu_bf16_pack(void *packed, const void *w, int bf16, int64_t N, int64_t K) { linear_bf16_pack(packed, w, bf16, 2 * N, K); }

static void linear_bf16_forward(float *out, void *, const float *x, const void *packed, const float *b, int act, int64_t R, int64_t N,
                                int64_t K) {
    linear_forward(out, nullptr, x, packed, b, 1, act, R, N, K);
}
static void linear_gated_bf16_forward(float *out, void *, const float *x, const void *packed, const float *b, const float *gate,
                                      const float *residual, int64_t R, int64_t G, int64_t N, int64_t K) {
    linear_gated_forward(out, nullptr, x, packed, b, gate, residual, 1, R, G, N, K);
}
static void swiglu_bf16_forward(float *out, void *, const float *x, const void *packed, const float *b, int64_t R, int64_t N,
                                int64_t K) {
    swiglu_forward(out, nullptr, x, packed, b, 1, R, N, K);
}

}  // namespace linear

void linear_table(wm_kernels *k) {
    using namespace linear;
    k->linear_layout = linear_layout, k->linear_packed_bytes = linear_packed_bytes;
    k->linear_pack = NULL, k->swiglu_pack = NULL;        /* weights are read where they lie */
    k->linear_forward = linear_forward, k->linear_gated_forward = linear_gated_forward, k->swiglu_forward = swiglu_forward;
    k->linear_act_backward = linear_act_backward, k->linear_gated_backward = linear_gated_backward;
    k->swiglu_backward = swiglu_backward, k->linear_dx = linear_dx, k->linear_dw = linear_dw, k->linear_db = linear_db;
    k->linear_int8_bytes = linear_int8_bytes, k->linear_int8_room = linear_int8_room;
    k->linear_int8_pack = linear_int8_pack, k->swiglu_int8_pack = swiglu_int8_pack;
    k->linear_int8_forward = linear_int8_forward, k->linear_gated_int8_forward = linear_gated_int8_forward;
    k->swiglu_int8_forward = swiglu_int8_forward;
    k->linear_bf16_bytes = linear_bf16_bytes, k->linear_bf16_room = linear_bf16_room;
    k->linear_bf16_pack = linear_bf16_pack, k->swiglu_bf16_pack = swiglu_bf16_pack;
    k->linear_bf16_forward = linear_bf16_forward, k->linear_gated_bf16_forward = linear_gated_bf16_forward;
    k->swiglu_bf16_forward = swiglu_bf16_forward;
}
}  // namespace wm_cuda
