/* scan: recurrent cells over time, a step a few launches: the state enters, one product, the gates.  cpu/scan.c has the formulas. */
#include "gemm.cuh"

namespace wm_cuda {
namespace scan {

/* state (B,H) = before, rows of step numbers, 0 where before is NULL or the row is reset; reset: the flag of sequence 0 or NULL */
__global__ void enter_kernel(float *state, const float *before, int64_t step, const uint8_t *reset, int64_t T, int64_t H, int64_t n) {
    FOR_EACH(i, n) {
        const bool cleared = !before || (reset && reset[i / H * T]);
        state[i] = cleared ? 0.0f : before[i / H * step + i % H];
    }
}
static void enter(float *state, const float *before, int64_t step, const uint8_t *reset, int64_t B, int64_t T, int64_t H) {
    EACH(enter_kernel, B * H, state, before, step, reset, T, H, B * H);
}
/* The states every step began from, (B,T,H). */
__global__ void shift_kernel(float *states, const float *h0, const float *out, const uint8_t *reset, int64_t T, int64_t H, int64_t n) {
    FOR_EACH(i, n) {
        const int64_t r = i / H, h = i % H;
        const float *before = r % T ? out + (r - 1) * H : h0 ? h0 + r / T * H : nullptr;
        states[i] = !before || (reset && reset[r]) ? 0.0f : before[h];
    }
}
/* dstate goes to the step before: 0 where this step was reset */
__global__ void leave_kernel(float *dstate, const uint8_t *reset, int64_t T, int64_t H, int64_t n) {
    FOR_EACH(i, n) if (reset[i / H * T]) dstate[i] = 0.0f;
}
static void leave(float *dstate, const uint8_t *reset, int64_t B, int64_t T, int64_t H) {
    if (reset) EACH(leave_kernel, B * H, dstate, reset, T, H, B * H);
}
__global__ void add_kernel(float *to, const float *from, int64_t n) { FOR_EACH(i, n) to[i] += from[i]; }
static void add(float *to, const float *from, int64_t n) {
    if (to) EACH(add_kernel, n, to, from, n);
}
/* c (B,N), rows of c_row, (+)= a (B,K), rows of a_row, times w (N,K) transposed, or w (K,N) as it lies */
static void times(float *c, int64_t c_row, const float *a, int64_t a_row, const float *w, bool transposed, const float *bias, bool sum,
                  int64_t B, int64_t N, int64_t K) {
    product p = {};
    p.M = B, p.N = N, p.K = K;
    p.a = a, p.a_row = a_row, p.a_column = 1;
    p.b = w, p.b_row = transposed ? 1 : N, p.b_column = transposed ? K : 1;
    p.end.out = c, p.end.out_row = c_row, p.end.N = N, p.end.add = sum, p.end.bias = bias;
    multiply(p);
}
/* dweight (N,H) += du^T states over R rows */
static void weigh(float *dweight, const float *du, const float *states, int64_t R, int64_t N, int64_t H) {
    product p = {};
    p.M = N, p.N = H, p.K = R;
    p.a = du, p.a_row = 1, p.a_column = N;
    p.b = states, p.b_row = H, p.b_column = 1, p.split = true;
    p.end.out = dweight, p.end.out_row = H, p.end.N = H, p.end.add = true;
    multiply(p);
}

/* ---- LSTM: gates i f g o;  c = f c' + i g;  h = o tanh(c) ---------------------------------------------------------------- */

__global__ void share_kernel(float *gates, int64_t row, const float *x, const float *bias, int64_t T, int64_t t, int64_t wide, int64_t n) {
    FOR_EACH(i, n) {
        const int64_t b = i / wide, j = i % wide;
        gates[b * row * wide + j] = x[(b * T + t) * wide + j] + (bias ? bias[j] : 0.0f);
    }
}
__global__ void lstm_kernel(float *gates, float *out, float *cells, float *c, const float *before, int64_t row, int64_t T, int64_t t,
                            int64_t H, int64_t n) {
    FOR_EACH(k, n) {
        const int64_t b = k / H, j = k % H;
        float *gate = gates + b * row * 4 * H;
        const float i = vec_sigmoid(gate[j]), f = vec_sigmoid(gate[H + j]), g = tanhf(gate[2 * H + j]), o = vec_sigmoid(gate[3 * H + j]);
        const float cell = f * before[k] + i * g;
        gate[j] = i, gate[H + j] = f, gate[2 * H + j] = g, gate[3 * H + j] = o;
        cells[b * row * H + j] = cell, c[k] = cell;
        out[(b * T + t) * H + j] = o * tanhf(cell);
    }
}
static void lstm_forward(float *out, float *h, float *c, float *gates, float *cells, float *room, const float *x, const float *weight,
                         const float *bias, const float *h0, const float *c0, const uint8_t *reset, int keep, int64_t B, int64_t T,
                         int64_t H) {
    const int64_t row = keep ? T : 1;
    float *state = room, *before = room + B * H;
    for (int64_t t = 0; t < T; t++) {
        float *g = gates + (keep ? t * 4 * H : 0), *cell = cells + (keep ? t * H : 0);
        const uint8_t *flags = reset ? reset + t : NULL;
        enter(state, t ? out + (t - 1) * H : h0, t ? T * H : H, flags, B, T, H);
        enter(before, t ? c : c0, H, flags, B, T, H);
        EACH(share_kernel, B * 4 * H, g, row, x, bias, T, t, 4 * H, B * 4 * H);
        times(g, row * 4 * H, state, H, weight, true, NULL, true, B, 4 * H, H);
        EACH(lstm_kernel, B * H, g, out, cell, c, before, row, T, t, H, B * H);
    }
    if (h) enter(h, out + (T - 1) * H, T * H, NULL, B, T, H);
}

__global__ void lstm_backward_kernel(float *dgates, float *dc, const float *dh, const float *dout, const float *gates, const float *cells,
                                     const float *before, int64_t T, int64_t t, int64_t H, int64_t n) {
    FOR_EACH(k, n) {
        const int64_t r = k / H * T + t, j = k % H;
        const float *gate = gates + r * 4 * H;
        float *to = dgates + r * 4 * H;
        const float i = gate[j], f = gate[H + j], g = gate[2 * H + j], o = gate[3 * H + j], th = tanhf(cells[r * H + j]);
        const float d = dh[k] + dout[r * H + j], e = dc[k] + d * o * (1.0f - th * th);
        to[j] = e * g * i * (1.0f - i);
        to[H + j] = e * before[k] * f * (1.0f - f);
        to[2 * H + j] = e * i * (1.0f - g * g);
        to[3 * H + j] = d * th * o * (1.0f - o);
        dc[k] = e * f;
    }
}
static void lstm_backward(float *dx, float *dweight, float *dbias, float *dh0, float *dc0, float *room, const float *dout,
                          const float *dh_last, const float *dc_last, const float *gates, const float *cells, const float *out,
                          const float *weight, const float *h0, const float *c0, const uint8_t *reset, int64_t B, int64_t T, int64_t H) {
    float *dgates = room, *states = dgates + B * T * 4 * H, *dh = states + B * T * H, *dc = dh + B * H, *before = dc + B * H;
    enter(dh, dh_last, H, NULL, B, T, H), enter(dc, dc_last, H, NULL, B, T, H);
    for (int64_t t = T; t-- > 0;) {
        const uint8_t *flags = reset ? reset + t : NULL;
        enter(before, t ? cells + (t - 1) * H : c0, t ? T * H : H, flags, B, T, H);
        EACH(lstm_backward_kernel, B * H, dgates, dc, dh, dout, gates, cells, before, T, t, H, B * H);
        times(dh, H, dgates + t * 4 * H, T * 4 * H, weight, false, NULL, false, B, H, 4 * H);
        leave(dh, flags, B, T, H), leave(dc, flags, B, T, H);
    }
    add(dh0, dh, B * H), add(dc0, dc, B * H), add(dx, dgates, B * T * 4 * H);
    if (dbias) add_columns(dbias, 4 * H, dgates, NULL, 1, B * T, 4 * H);
    if (!dweight) return;
    EACH(shift_kernel, B * T * H, states, h0, out, reset, T, H, B * T * H);
    weigh(dweight, dgates, states, B * T, 4 * H, H);
}

/* ---- GRU: r, z = sigmoid(x + u);  n = tanh(x_n + r u_n);  h = (1 - z) n + z h',  u = weight h' + bias --------------------- */

__global__ void gru_kernel(float *gates, float *out, const float *x, const float *u, const float *state, int64_t row, int64_t T, int64_t t,
                           int64_t H, int64_t n) {
    FOR_EACH(k, n) {
        const int64_t b = k / H, j = k % H;
        const float *from = x + (b * T + t) * 3 * H, *mine = u + b * 3 * H;
        float *gate = gates + b * row * 4 * H;
        const float r = vec_sigmoid(from[j] + mine[j]), z = vec_sigmoid(from[H + j] + mine[H + j]), un = mine[2 * H + j];
        const float nn = tanhf(from[2 * H + j] + r * un);
        gate[j] = r, gate[H + j] = z, gate[2 * H + j] = nn, gate[3 * H + j] = un;
        out[(b * T + t) * H + j] = nn + z * (state[k] - nn);
    }
}
static void gru_forward(float *out, float *h, float *gates, float *room, const float *x, const float *weight, const float *bias,
                        const float *h0, const uint8_t *reset, int keep, int64_t B, int64_t T, int64_t H) {
    const int64_t row = keep ? T : 1;
    float *state = room, *u = room + B * H;
    for (int64_t t = 0; t < T; t++) {
        enter(state, t ? out + (t - 1) * H : h0, t ? T * H : H, reset ? reset + t : NULL, B, T, H);
        times(u, 3 * H, state, H, weight, true, bias, false, B, 3 * H, H);
        EACH(gru_kernel, B * H, gates + (keep ? t * 4 * H : 0), out, x, u, state, row, T, t, H, B * H);
    }
    if (h) enter(h, out + (T - 1) * H, T * H, NULL, B, T, H);
}
__global__ void gru_backward_kernel(float *du, float *dx, float *dh, const float *dout, const float *gates, const float *states, int64_t T,
                                    int64_t t, int64_t H, int64_t n) {
    FOR_EACH(k, n) {
        const int64_t at = k / H * T + t, j = k % H;
        const float *gate = gates + at * 4 * H;
        const float r = gate[j], z = gate[H + j], nn = gate[2 * H + j], un = gate[3 * H + j], d = dh[k] + dout[at * H + j];
        const float dn = d * (1.0f - z) * (1.0f - nn * nn), dr = dn * un * r * (1.0f - r);
        const float dz = d * (states[at * H + j] - nn) * z * (1.0f - z);
        float *to = du + at * 3 * H;
        to[j] = dr, to[H + j] = dz, to[2 * H + j] = dn * r;
        dh[k] = d * z;
        if (!dx) continue;
        dx[at * 3 * H + j] += dr, dx[at * 3 * H + H + j] += dz, dx[at * 3 * H + 2 * H + j] += dn;
    }
}
static void gru_backward(float *dx, float *dweight, float *dbias, float *dh0, float *room, const float *dout, const float *dh_last,
                         const float *gates, const float *out, const float *weight, const float *h0, const uint8_t *reset, int64_t B,
                         int64_t T, int64_t H) {
    float *du = room, *states = du + B * T * 3 * H, *dh = states + B * T * H;
    EACH(shift_kernel, B * T * H, states, h0, out, reset, T, H, B * T * H);
    enter(dh, dh_last, H, NULL, B, T, H);
    for (int64_t t = T; t-- > 0;) {
        EACH(gru_backward_kernel, B * H, du, dx, dh, dout, gates, states, T, t, H, B * H);
        times(dh, H, du + t * 3 * H, T * 3 * H, weight, false, NULL, true, B, H, 3 * H);
        leave(dh, reset ? reset + t : NULL, B, T, H);
    }
    add(dh0, dh, B * H);
    if (dbias) add_columns(dbias, 3 * H, du, NULL, 1, B * T, 3 * H);
    if (dweight) weigh(dweight, du, states, B * T, 3 * H, H);
}

}  // namespace scan

void scan_table(wm_kernels *k) {
    using namespace scan;
    k->lstm_forward = lstm_forward, k->lstm_backward = lstm_backward;
    k->gru_forward = gru_forward, k->gru_backward = gru_backward;
}
}  // namespace wm_cuda
