/* linear: out = epilogue(x w^T + b).  x (R,K), w (N,K), b (N) or NULL, out (R,N).

   Weights meet the matrix kernels in panels (gemm.c), packed once for as long as they do not change; bf16 weights
   stay bf16 there and widen in the tile.  Epilogues run on sums that are still in the cache:
       act          out = act(v), v = x w^T + b; none, gelu (tanh form), gelu_erf, silu
       gated        out = residual + gate v; gate (G,N), each row serves R/G consecutive rows
       swiglu       w (2N,K): out = silu(first half) * second half
   pre keeps v for backward; NULL if nobody will ask. */

enum { ACT_NONE, ACT_GELU, ACT_GELU_ERF, ACT_SILU };

typedef struct {
    float *out, *pre;
    const float *bias, *gate, *residual;
    int act;
    int64_t rows_a_gate, N;
} epilogue;

/* ---- packing ----------------------------------------------------------------------------------------------- */

/* Which layout linear_pack makes: the panel's width, and one bit for bf16.  Tables differ in it. */
static int linear_layout(int bf16) { return 2 * PANEL + (bf16 != 0); }

static size_t linear_packed_bytes(int bf16, int64_t N, int64_t K) {
    return (size_t)gemm_packed_size(N, K) * (bf16 ? sizeof(wm_bf16) : sizeof(float));
}

static void pack_panel(void *to, int64_t p, const void *w, int bf16, int64_t n, int64_t N, int64_t K) {
    int64_t width = N - n < PANEL ? N - n : PANEL;
    if (bf16) pack_panel_bf16((wm_bf16 *)to + p * PANEL * K, (const wm_bf16 *)w + n * K, width, K);
    else pack_panel_nk((float *)to + p * PANEL * K, (const float *)w + n * K, K, width, K);
}

static void linear_pack(void *packed, const void *w, int bf16, int64_t N, int64_t K) {
    #pragma omp parallel for num_threads(wm_threads) if (N * K > 1 << 16)
    for (int64_t p = 0; p < gemm_panels(N); p++) pack_panel(packed, p, w, bf16, p * PANEL, N, K);
}

/* Weights (2N,K): panels of the two halves in turn. */
static void swiglu_pack(void *packed, const void *w, int bf16, int64_t N, int64_t K) {
    const void *second = (const char *)w + N * K * (bf16 ? 2 : 4);
    #pragma omp parallel for num_threads(wm_threads) if (N * K > 1 << 15)
    for (int64_t p = 0; p < 2 * gemm_panels(N); p++)
        pack_panel(packed, p, p % 2 ? second : w, bf16, p / 2 * PANEL, N, K);
}

/* ---- epilogues --------------------------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) vec activate(int act, vec v) {
    switch (act) {
    case ACT_GELU: return v * vec_sigmoid(v * (v * v * 0.0713548162726f + 1.59576912160573f));
    case ACT_GELU_ERF: return v * vec_normal_cdf(v);
    case ACT_SILU: return v * vec_sigmoid(v);
    default: return v;
    }
}

/* d act / d v.  gelu: s + v s (1-s) u', s = sigmoid(u) */
static inline __attribute__((always_inline)) vec activate_slope(int act, vec v) {
    switch (act) {
    case ACT_GELU: {
        vec s = vec_sigmoid(v * (v * v * 0.0713548162726f + 1.59576912160573f));
        return s + v * s * (1.0f - s) * (v * v * 0.2140644488178f + 1.59576912160573f);
    }
    case ACT_GELU_ERF: return vec_normal_cdf(v) + v * 0.398942280401432678f * vec_exp(-0.5f * v * v);
    case ACT_SILU: {
        vec s = vec_sigmoid(v);
        return s + v * s * (1.0f - s);
    }
    default: return vec_set(1.0f);
    }
}

static inline vec load_left(const float *p, int64_t left) { return left < WM_LANES ? vec_load_part(p, left) : vec_load(p); }
static inline void store_left(float *p, vec v, int64_t left) {
    if (left < WM_LANES) vec_store_part(p, v, left); else vec_store(p, v);
}

static inline __attribute__((always_inline)) void finish_rows(const epilogue *e, int act, const float *sums, int64_t lds,
                                                            int64_t m, int64_t n, int rows, int columns) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += WM_LANES) {
            vec v = vec_load(sums + i * lds + j);
            int64_t at = (m + i) * e->N + n + j, left = columns - j;
            if (e->pre) store_left(e->pre + at, v, left);
            store_left(e->out + at, activate(act, v), left);
        }
}

static void finish_act(const gemm *g, float *sums, int64_t lds, int64_t m, int64_t n, int rows, int columns) {
    const epilogue *e = g->context;
    switch (e->act) {
    case ACT_GELU: finish_rows(e, ACT_GELU, sums, lds, m, n, rows, columns); break;
    case ACT_GELU_ERF: finish_rows(e, ACT_GELU_ERF, sums, lds, m, n, rows, columns); break;
    case ACT_SILU: finish_rows(e, ACT_SILU, sums, lds, m, n, rows, columns); break;
    default: finish_rows(e, ACT_NONE, sums, lds, m, n, rows, columns);
    }
}

static void finish_gated(const gemm *g, float *sums, int64_t lds, int64_t m, int64_t n, int rows, int columns) {
    const epilogue *e = g->context;
    for (int i = 0; i < rows; i++) {
        const float *gate = e->gate + (m + i) / e->rows_a_gate * e->N + n;
        for (int j = 0; j < columns; j += WM_LANES) {
            vec v = vec_load(sums + i * lds + j);
            int64_t at = (m + i) * e->N + n + j, left = columns - j;
            if (e->pre) store_left(e->pre + at, v, left);
            store_left(e->out + at, load_left(e->residual + at, left) + load_left(gate + j, left) * v, left);
        }
    }
}

/* n counts columns of panel pairs: twice those of out.  The second half of a row lies PANEL behind the first. */
static void finish_swiglu(const gemm *g, float *sums, int64_t lds, int64_t m, int64_t n, int rows, int columns) {
    const epilogue *e = g->context;
    (void)columns;
    for (int64_t j = 0; j < PANEL && n / 2 + j < e->N; j += WM_LANES) {
        int64_t at = n / 2 + j, left = e->N - at;
        vec first = e->bias ? load_left(e->bias + at, left) : vec_set(0.0f);
        vec second = e->bias ? load_left(e->bias + e->N + at, left) : vec_set(0.0f);
        for (int i = 0; i < rows; i++) {
            vec a = vec_load(sums + i * lds + j) + first, b = vec_load(sums + i * lds + PANEL + j) + second;
            if (e->pre) {
                float *pre = e->pre + (m + i) * 2 * e->N + at;
                store_left(pre, a, left), store_left(pre + e->N, b, left);
            }
            store_left(e->out + (m + i) * e->N + at, a * vec_sigmoid(a) * b, left);
        }
    }
}

/* Whichever of the three, for products that are not sums of floats (int8.c, bf16.c). */
static void finish_any(const epilogue *e, bool pair, float *sums, int64_t lds, int64_t m, int64_t n, int rows, int columns) {
    gemm g = {.context = e};
    if (e->gate) finish_gated(&g, sums, lds, m, n, rows, columns);
    else if (pair) finish_swiglu(&g, sums, lds, m, n, rows, columns);
    else finish_act(&g, sums, lds, m, n, rows, columns);
}

/* ---- forward ----------------------------------------------------------------------------------------------- */

static gemm product(const float *x, const void *packed, const float *bias, int bf16, int64_t R, int64_t N, int64_t K) {
    return (gemm){.M = R, .N = N, .K = K, .a = x, .lda = K, .b = packed, .bias = bias,
                  .b_form = bf16 ? GEMM_PACKED_BF16 : GEMM_PACKED};
}

static void linear_forward(float *out, float *pre, const float *x, const void *packed, const float *bias, int bf16,
                           int act, int64_t R, int64_t N, int64_t K) {
    epilogue e = {.out = out, .pre = pre, .act = act, .N = N};
    gemm g = product(x, packed, bias, bf16, R, N, K);
    if (act == ACT_NONE) g.c = out, g.ldc = N;
    else g.finish = finish_act, g.context = &e;
    gemm_parallel(&g);
}

static void linear_gated_forward(float *out, float *pre, const float *x, const void *packed, const float *bias,
                                 const float *gate, const float *residual, int bf16, int64_t R, int64_t G, int64_t N,
                                 int64_t K) {
    epilogue e = {.out = out, .pre = pre, .gate = gate, .residual = residual, .rows_a_gate = R / G, .N = N};
    gemm g = product(x, packed, bias, bf16, R, N, K);
    g.finish = finish_gated, g.context = &e;
    gemm_parallel(&g);
}

static void swiglu_forward(float *out, float *pre, const float *x, const void *packed, const float *bias, int bf16,
                           int64_t R, int64_t N, int64_t K) {
    epilogue e = {.out = out, .pre = pre, .bias = bias, .N = N};
    gemm g = product(x, packed, NULL, bf16, R, 2 * PANEL * gemm_panels(N), K);
    g.pair = true, g.finish = finish_swiglu, g.context = &e;
    gemm_parallel(&g);
}

/* ---- backward: through the epilogue ------------------------------------------------------------------------ */

/* dv = dout act'(v) */
static void linear_act_backward(float *dv, const float *dout, const float *v, int act, int64_t n) {
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 14)
    for (int64_t i = 0; i < n; i += WM_LANES) {
        vec x = load_left(v + i, n - i), slope;
        switch (act) {
        case ACT_GELU: slope = activate_slope(ACT_GELU, x); break;
        case ACT_GELU_ERF: slope = activate_slope(ACT_GELU_ERF, x); break;
        default: slope = activate_slope(ACT_SILU, x);
        }
        store_left(dv + i, load_left(dout + i, n - i) * slope, n - i);
    }
}

/* dv = dout gate; dresidual += dout; dgate += sum over a gate's rows of dout v.  dv, dgate, dresidual may be NULL. */
static void linear_gated_backward(float *dv, float *dgate, float *dresidual, const float *dout, const float *gate,
                                  const float *v, int64_t R, int64_t G, int64_t N) {
    int64_t each = R / G, chunk = 4 * WM_LANES, chunks = (N + chunk - 1) / chunk;
    #pragma omp parallel for num_threads(wm_threads) if (R * N > 1 << 15)
    for (int64_t unit = 0; unit < G * chunks; unit++) {
        int64_t group = unit / chunks, end = (unit % chunks + 1) * chunk < N ? (unit % chunks + 1) * chunk : N;
        for (int64_t n = unit % chunks * chunk; n < end; n += WM_LANES) {
            vec scale = load_left(gate + group * N + n, end - n), sum = vec_set(0.0f);
            for (int64_t r = group * each; r < (group + 1) * each; r++) {
                vec d = load_left(dout + r * N + n, end - n);
                if (dgate) sum += d * load_left(v + r * N + n, end - n);
                if (dv) store_left(dv + r * N + n, d * scale, end - n);
                if (dresidual) store_left(dresidual + r * N + n, load_left(dresidual + r * N + n, end - n) + d, end - n);
            }
            if (dgate) store_left(dgate + group * N + n, load_left(dgate + group * N + n, end - n) + sum, end - n);
        }
    }
}

/* v (R,2N) = a | b, out = silu(a) b:  da = dout b silu'(a), db = dout silu(a) */
static void swiglu_backward(float *dv, const float *dout, const float *v, int64_t R, int64_t N) {
    #pragma omp parallel for num_threads(wm_threads) if (R * N > 1 << 14)
    for (int64_t r = 0; r < R; r++)
        for (int64_t n = 0; n < N; n += WM_LANES) {
            int64_t at = r * 2 * N + n, left = N - n;
            vec a = load_left(v + at, left), b = load_left(v + at + N, left), d = load_left(dout + r * N + n, left);
            vec s = vec_sigmoid(a);
            store_left(dv + at, d * b * (s + a * s * (1.0f - s)), left);
            store_left(dv + at + N, d * a * s, left);
        }
}

/* ---- backward: the products -------------------------------------------------------------------------------- */

/* dx (R,K) += dv (R,N) w (N,K).  room: linear_packed_bytes(float, K, N) for w in panels of K. */
static void linear_dx(float *dx, float *room, const float *dv, const void *w, int bf16, int64_t R, int64_t N, int64_t K) {
    #pragma omp parallel for num_threads(wm_threads) if (N * K > 1 << 15)
    for (int64_t p = 0; p < gemm_panels(K); p++) {
        int64_t width = K - p * PANEL < PANEL ? K - p * PANEL : PANEL;
        float *to = room + p * PANEL * N;
        if (!bf16) {
            pack_panel_kn(to, (const float *)w + p * PANEL, K, width, N);
            continue;
        }
        for (int64_t n = 0; n < N; n++)
            for (int64_t j = 0; j < PANEL; j++) {
                union { uint32_t bits; float value; } wide = {0};
                if (j < width) wide.bits = (uint32_t)((const wm_bf16 *)w)[n * K + p * PANEL + j] << 16;
                to[n * PANEL + j] = wide.value;
            }
    }
    gemm_parallel(&(gemm){.M = R, .N = K, .K = N, .a = dv, .lda = N, .b = room, .b_form = GEMM_PACKED,
                          .add = true, .c = dx, .ldc = K});
}

/* dw (N,K) += dv^T (N,R) x (R,K) */
static void linear_dw(float *dw, const float *dv, const float *x, int64_t R, int64_t N, int64_t K) {
    gemm_parallel(&(gemm){.M = N, .N = K, .K = R, .a = dv, .lda = N, .columns = true, .b = x, .ldb = K,
                          .b_form = GEMM_KN, .add = true, .c = dw, .ldc = K});
}

/* db (N) += sum over rows of dv; 64 rows at a time, which keeps long sums accurate. */
static void linear_db(float *db, const float *dv, int64_t R, int64_t N) {
    enum { WIDE = 4 };
    #pragma omp parallel for num_threads(wm_threads) if (R * N > 1 << 15)
    for (int64_t n = 0; n < N; n += WIDE * WM_LANES) {
        vec total[WIDE] = {{0}};
        for (int64_t r0 = 0; r0 < R; r0 += 64) {
            vec sum[WIDE] = {{0}};
            for (int64_t r = r0; r < R && r < r0 + 64; r++)
                if (N - n >= WIDE * WM_LANES) {
                    UNROLL for (int j = 0; j < WIDE; j++) sum[j] += vec_load(dv + r * N + n + j * WM_LANES);
                } else {
                    for (int64_t j = 0; j * WM_LANES < N - n; j++) sum[j] += load_left(dv + r * N + n + j * WM_LANES, N - n - j * WM_LANES);
                }
            UNROLL for (int j = 0; j < WIDE; j++) total[j] += sum[j];
        }
        for (int64_t j = 0; j < WIDE && j * WM_LANES < N - n; j++) {
            float *to = db + n + j * WM_LANES;
            store_left(to, load_left(to, N - n - j * WM_LANES) + total[j], N - n - j * WM_LANES);
        }
    }
}
