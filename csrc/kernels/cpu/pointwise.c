/* pointwise: one number in, one number out. */

/* out = x sigmoid(x) */
static void silu_forward(float *out, const float *x, int64_t n) {
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 15)
    for (int64_t i = 0; i < n; i += WM_LANES) {
        if (i + WM_LANES <= n) {
            vec v = vec_load(x + i);
            vec_store(out + i, v * vec_sigmoid(v));
        } else {
            vec v = vec_load_part(x + i, n - i);
            vec_store_part(out + i, v * vec_sigmoid(v), n - i);
        }
    }
}

/* dx += dout s (1 + x (1 - s)), s = sigmoid(x) */
static void silu_backward(float *dx, const float *dout, const float *x, int64_t n) {
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 15)
    for (int64_t i = 0; i < n; i += WM_LANES) {
        int64_t part = i + WM_LANES <= n ? WM_LANES : n - i;
        vec v = part == WM_LANES ? vec_load(x + i) : vec_load_part(x + i, part), s = vec_sigmoid(v);
        vec g = part == WM_LANES ? vec_load(dout + i) : vec_load_part(dout + i, part);
        vec d = part == WM_LANES ? vec_load(dx + i) : vec_load_part(dx + i, part);
        d += g * s * (1.0f + v * (1.0f - s));
        if (part == WM_LANES) vec_store(dx + i, d); else vec_store_part(dx + i, d, part);
    }
}
