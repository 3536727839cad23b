/* scan: recurrent cells over time.  The products with the input are one big linear outside; here are the products with the
   state, one step after the other, and the gates.  B sequences of T steps, H numbers of state; one step is T = 1.

   A step whose reset flag is set begins from a state of 0.  Backward wants every step's gates and cells (keep); without
   it one step's place serves all. */

/* ---- what LSTM and GRU share ------------------------------------------------------------------------- */

/* state (B,H) = before, rows of step numbers, 0 where before is NULL or the row is reset; reset: the flag of sequence 0 or NULL */
static void scan_enter(float *state, const float *before, int64_t step, const uint8_t *reset, int64_t B, int64_t T, int64_t H) {
    for (int64_t b = 0; b < B; b++) {
        bool cleared = !before || (reset && reset[b * T]);
        if (cleared) memset(state + b * H, 0, sizeof *state * (size_t)H);
        else memcpy(state + b * H, before + b * step, sizeof *state * (size_t)H);
    }
}

/* The states every step began from, (B,T,H): h0 and out, shifted by one step, with the resets. */
static void scan_shift(float *states, const float *h0, const float *out, const uint8_t *reset, int64_t B, int64_t T, int64_t H) {
    #pragma omp parallel for num_threads(wm_threads) if (B * T * H > 1 << 15)
    for (int64_t r = 0; r < B * T; r++) {
        const float *before = r % T ? out + (r - 1) * H : h0 ? h0 + r / T * H : NULL;
        if (!before || (reset && reset[r])) memset(states + r * H, 0, sizeof *states * (size_t)H);
        else memcpy(states + r * H, before, sizeof *states * (size_t)H);
    }
}

/* dstate (B,H) goes to the step before: 0 where this step was reset */
static void scan_leave(float *dstate, const uint8_t *reset, int64_t B, int64_t T, int64_t H) {
    for (int64_t b = 0; reset && b < B; b++)
        if (reset[b * T]) memset(dstate + b * H, 0, sizeof *dstate * (size_t)H);
}

static void scan_add(float *to, const float *from, int64_t n) {
    if (!to) return;
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 15)
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

/* ---- LSTM: gates i f g o;  c = f c' + i g;  h = o tanh(c) -------------------------------------------------- */

/* One row of one step.  gates (4H): sums in, activated out. */
static void lstm_row(float *gates, float *h, float *c, const float *before, int64_t H) {
    for (int64_t j = 0; j < H; j += WM_LANES) {
        int64_t left = H - j;
        vec i = vec_sigmoid(load_up_to(gates + j, left)), f = vec_sigmoid(load_up_to(gates + H + j, left));
        vec g = vec_tanh(load_up_to(gates + 2 * H + j, left)), o = vec_sigmoid(load_up_to(gates + 3 * H + j, left));
        vec cell = f * load_up_to(before + j, left) + i * g;
        store_up_to(gates + j, i, left), store_up_to(gates + H + j, f, left);
        store_up_to(gates + 2 * H + j, g, left), store_up_to(gates + 3 * H + j, o, left);
        store_up_to(c + j, cell, left);
        store_up_to(h + j, o * vec_tanh(cell), left);
    }
}

/* out (B,T,H), h (B,H), c (B,H) of x (B,T,4H), the input's share of the gates.  packed: weight (4H,H) by linear_pack; h, bias (4H),
   h0, c0 (B,H), reset (B,T) may be NULL.  gates (B,T,4H), cells (B,T,H), or without keep (B,4H), (B,H); room (B,2H). */
static void lstm_forward(float *out, float *h, float *c, float *gates, float *cells, float *room, const float *x,
                         const float *packed, const float *bias, const float *h0, const float *c0, const uint8_t *reset, int keep,
                         int64_t B, int64_t T, int64_t H) {
    int64_t row = keep ? T : 1;
    float *state = room, *before = room + B * H;
    for (int64_t t = 0; t < T; t++) {
        float *g = gates + (keep ? t * 4 * H : 0), *cell = cells + (keep ? t * H : 0);
        const uint8_t *flags = reset ? reset + t : NULL;
        scan_enter(state, t ? out + (t - 1) * H : h0, t ? T * H : H, flags, B, T, H);
        scan_enter(before, t ? c : c0, H, flags, B, T, H);
        #pragma omp parallel for num_threads(wm_threads) if (B * H > 1 << 13)
        for (int64_t b = 0; b < B; b++)
            for (int64_t j = 0; j < 4 * H; j++) g[b * row * 4 * H + j] = x[(b * T + t) * 4 * H + j] + (bias ? bias[j] : 0);
        gemm_parallel(&(gemm){.M = B, .N = 4 * H, .K = H, .a = state, .lda = H, .b = packed, .b_form = GEMM_PACKED, .add = true,
                              .c = g, .ldc = row * 4 * H});
        #pragma omp parallel for num_threads(wm_threads) if (B * H > 1 << 12)
        for (int64_t b = 0; b < B; b++) {
            lstm_row(g + b * row * 4 * H, out + (b * T + t) * H, cell + b * row * H, before + b * H, H);
            memcpy(c + b * H, cell + b * row * H, sizeof *c * (size_t)H);
        }
    }
    if (h) scan_enter(h, out + (T - 1) * H, T * H, NULL, B, T, H);
}

/* One row of one step: dgates (4H) before their activations; dc becomes the gradient of the cell before, short of a reset. */
static void lstm_row_backward(float *dgates, float *dc, const float *dh, const float *dout, const float *gates, const float *cell,
                              const float *before, int64_t H) {
    for (int64_t j = 0; j < H; j += WM_LANES) {
        int64_t left = H - j;
        vec i = load_up_to(gates + j, left), f = load_up_to(gates + H + j, left);
        vec g = load_up_to(gates + 2 * H + j, left), o = load_up_to(gates + 3 * H + j, left);
        vec t = vec_tanh(load_up_to(cell + j, left)), d = load_up_to(dh + j, left) + load_up_to(dout + j, left);
        vec e = load_up_to(dc + j, left) + d * o * (1.0f - t * t);
        store_up_to(dgates + j, e * g * i * (1.0f - i), left);
        store_up_to(dgates + H + j, e * load_up_to(before + j, left) * f * (1.0f - f), left);
        store_up_to(dgates + 2 * H + j, e * i * (1.0f - g * g), left);
        store_up_to(dgates + 3 * H + j, d * t * o * (1.0f - o), left);
        store_up_to(dc + j, e * f, left);
    }
}

/* room: (B,T,4H) + (B,T,H) + 3 (B,H) + weight (4H,H) in panels.  Any of dx, dweight, dbias, dh0, dc0, dh_last may be NULL. */
static void lstm_backward(float *dx, float *dweight, float *dbias, float *dh0, float *dc0, float *room, const float *dout,
                          const float *dh_last, const float *dc_last, const float *gates, const float *cells, const float *out,
                          const float *weight, const float *h0, const float *c0, const uint8_t *reset, int64_t B, int64_t T,
                          int64_t H) {
    float *dgates = room, *states = dgates + B * T * 4 * H, *dh = states + B * T * H, *dc = dh + B * H, *before = dc + B * H;
    float *packed = before + B * H;
    gemm_pack_kn(packed, weight, H, H, 4 * H);
    scan_enter(dh, dh_last, H, NULL, B, T, H);
    scan_enter(dc, dc_last, H, NULL, B, T, H);
    for (int64_t t = T; t-- > 0;) {
        const uint8_t *flags = reset ? reset + t : NULL;
        scan_enter(before, t ? cells + (t - 1) * H : c0, t ? T * H : H, flags, B, T, H);
        #pragma omp parallel for num_threads(wm_threads) if (B * H > 1 << 12)
        for (int64_t b = 0; b < B; b++) {
            int64_t r = b * T + t;
            lstm_row_backward(dgates + r * 4 * H, dc + b * H, dh + b * H, dout + r * H, gates + r * 4 * H, cells + r * H,
                              before + b * H, H);
        }
        gemm_parallel(&(gemm){.M = B, .N = H, .K = 4 * H, .a = dgates + t * 4 * H, .lda = T * 4 * H, .b = packed,
                              .b_form = GEMM_PACKED, .c = dh, .ldc = H});
        scan_leave(dh, flags, B, T, H), scan_leave(dc, flags, B, T, H);
    }
    scan_add(dh0, dh, B * H), scan_add(dc0, dc, B * H), scan_add(dx, dgates, B * T * 4 * H);
    if (dbias) linear_db(dbias, dgates, B * T, 4 * H);
    if (!dweight) return;
    scan_shift(states, h0, out, reset, B, T, H);
    linear_dw(dweight, dgates, states, B * T, 4 * H, H);
}

/* ---- GRU: r, z = sigmoid(x + u);  n = tanh(x_n + r u_n);  h = (1 - z) n + z h',  u = weight h' + bias ---------- */

/* One row of one step.  u (3H): the state's share; gates (4H): r z n u_n out. */
static void gru_row(float *gates, float *h, const float *x, const float *u, const float *state, int64_t H) {
    for (int64_t j = 0; j < H; j += WM_LANES) {
        int64_t left = H - j;
        vec r = vec_sigmoid(load_up_to(x + j, left) + load_up_to(u + j, left));
        vec z = vec_sigmoid(load_up_to(x + H + j, left) + load_up_to(u + H + j, left)), un = load_up_to(u + 2 * H + j, left);
        vec n = vec_tanh(load_up_to(x + 2 * H + j, left) + r * un);
        store_up_to(gates + j, r, left), store_up_to(gates + H + j, z, left);
        store_up_to(gates + 2 * H + j, n, left), store_up_to(gates + 3 * H + j, un, left);
        store_up_to(h + j, n + z * (load_up_to(state + j, left) - n), left);
    }
}

/* out (B,T,H), h (B,H) of x (B,T,3H).  packed: weight (3H,H); h, bias (3H), h0 (B,H), reset (B,T) may be NULL.  gates (B,T,4H), or
   (B,4H) without keep; room (B,4H). */
static void gru_forward(float *out, float *h, float *gates, float *room, const float *x, const float *packed, const float *bias,
                        const float *h0, const uint8_t *reset, int keep, int64_t B, int64_t T, int64_t H) {
    int64_t row = keep ? T : 1;
    float *state = room, *u = room + B * H;
    for (int64_t t = 0; t < T; t++) {
        float *g = gates + (keep ? t * 4 * H : 0);
        scan_enter(state, t ? out + (t - 1) * H : h0, t ? T * H : H, reset ? reset + t : NULL, B, T, H);
        gemm_parallel(&(gemm){.M = B, .N = 3 * H, .K = H, .a = state, .lda = H, .b = packed, .b_form = GEMM_PACKED, .bias = bias,
                              .c = u, .ldc = 3 * H});
        #pragma omp parallel for num_threads(wm_threads) if (B * H > 1 << 12)
        for (int64_t b = 0; b < B; b++)
            gru_row(g + b * row * 4 * H, out + (b * T + t) * H, x + (b * T + t) * 3 * H, u + b * 3 * H, state + b * H, H);
    }
    if (h) scan_enter(h, out + (T - 1) * H, T * H, NULL, B, T, H);
}

/* One row of one step: du (3H) of the state's share, dx (3H) added unless NULL; dh becomes its direct share of dh'. */
static void gru_row_backward(float *du, float *dx, float *dh, const float *dout, const float *gates, const float *state,
                             int64_t H) {
    for (int64_t j = 0; j < H; j += WM_LANES) {
        int64_t left = H - j;
        vec r = load_up_to(gates + j, left), z = load_up_to(gates + H + j, left), n = load_up_to(gates + 2 * H + j, left);
        vec un = load_up_to(gates + 3 * H + j, left), d = load_up_to(dh + j, left) + load_up_to(dout + j, left);
        vec dn = d * (1.0f - z) * (1.0f - n * n), dr = dn * un * r * (1.0f - r);
        vec dz = d * (load_up_to(state + j, left) - n) * z * (1.0f - z);
        store_up_to(du + j, dr, left), store_up_to(du + H + j, dz, left), store_up_to(du + 2 * H + j, dn * r, left);
        store_up_to(dh + j, d * z, left);
        if (!dx) continue;
        store_up_to(dx + j, load_up_to(dx + j, left) + dr, left);
        store_up_to(dx + H + j, load_up_to(dx + H + j, left) + dz, left);
        store_up_to(dx + 2 * H + j, load_up_to(dx + 2 * H + j, left) + dn, left);
    }
}

/* room: (B,T,3H) + (B,T,H) + (B,H) + weight (3H,H) in panels.  Any of dx, dweight, dbias, dh0, dh_last may be NULL. */
static void gru_backward(float *dx, float *dweight, float *dbias, float *dh0, float *room, const float *dout,
                         const float *dh_last, const float *gates, const float *out, const float *weight, const float *h0,
                         const uint8_t *reset, int64_t B, int64_t T, int64_t H) {
    float *du = room, *states = du + B * T * 3 * H, *dh = states + B * T * H, *packed = dh + B * H;
    gemm_pack_kn(packed, weight, H, H, 3 * H);
    scan_shift(states, h0, out, reset, B, T, H);
    scan_enter(dh, dh_last, H, NULL, B, T, H);
    for (int64_t t = T; t-- > 0;) {
        #pragma omp parallel for num_threads(wm_threads) if (B * H > 1 << 12)
        for (int64_t b = 0; b < B; b++) {
            int64_t r = b * T + t;
            gru_row_backward(du + r * 3 * H, dx ? dx + r * 3 * H : NULL, dh + b * H, dout + r * H, gates + r * 4 * H,
                             states + r * H, H);
        }
        gemm_parallel(&(gemm){.M = B, .N = H, .K = 3 * H, .a = du + t * 3 * H, .lda = T * 3 * H, .b = packed,
                              .b_form = GEMM_PACKED, .add = true, .c = dh, .ldc = H});
        scan_leave(dh, reset ? reset + t : NULL, B, T, H);
    }
    scan_add(dh0, dh, B * H);
    if (dbias) linear_db(dbias, du, B * T, 3 * H);
    if (dweight) linear_dw(dweight, du, states, B * T, 3 * H, H);
}
