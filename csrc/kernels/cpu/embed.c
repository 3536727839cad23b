/* embed: tables, sinusoids, one-hot rows.  Angles are formed and brought below one turn in double: a float angle of 1000
   radians would be off by 3e-5. */

enum {
    ANGLES = 64,                    /* angles that are worked on together */
    EMBED_GRAIN = 1 << 13,
};

/* out[m, :] = table[index[m], :], from float or bf16 rows of B. */
static void embedding_forward(float *out, const void *table, const int32_t *index, int kind, int64_t M, int64_t B) {
    #pragma omp parallel for num_threads(wm_threads) if (M * B > MOVE_GRAIN)
    for (int64_t m = 0; m < M; m++) {
        if (kind == WM_KIND_BF16) cast_to_f32(out + m * B, (const wm_bf16 *)table + index[m] * B, kind, B);
        else memcpy(out + m * B, (const float *)table + index[m] * B, (size_t)B * sizeof(float));
    }
}

/* Radians, less whole turns. */
static inline float below_turn(double radians) {
    const double turn = 6.283185307179586477, count = radians * (1.0 / turn);
    return (float)(radians - nearbyint(count) * turn);
}

/* cos and sin of scale[i] * t for n <= ANGLES scales. */
static inline void angle_block(float *cosines, float *sines, double t, const double *scale, int64_t n) {
    float radians[ANGLES] = {0};
    for (int64_t i = 0; i < n; i++) radians[i] = below_turn(t * scale[i]);
    for (int64_t i = 0; i < n; i += WM_LANES) {
        const vec_angle a = vec_sincos(vec_load(radians + i));
        vec_store(cosines + i, a.cos), vec_store(sines + i, a.sin);
    }
}

/* scale_i = scale * max_period^(-i / half), i = first.. */
static inline void sinusoid_scales(double *to, double scale, double max_period, int64_t half, int64_t first, int64_t n) {
    const double l = -log(max_period) / (double)half;
    for (int64_t i = 0; i < n; i++) to[i] = scale * exp(l * (double)(first + i));
}

/* out (R,D): cos(t scale_i) in one half, sin in the other; a zero behind them if D is odd. */
static void sinusoidal_forward(float *out, const float *t, float scale, float max_period, int sin_first, int64_t R, int64_t D) {
    const int64_t half = D / 2, blocks = (half + ANGLES - 1) / ANGLES, c0 = sin_first ? half : 0, s0 = half - c0;
    #pragma omp parallel for num_threads(wm_threads) if (R * D > EMBED_GRAIN)
    for (int64_t r0 = 0; r0 < R; r0 += ANGLES)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t first = b * ANGLES, n = half - first < ANGLES ? half - first : ANGLES;
            double scales[ANGLES];
            float c[ANGLES], s[ANGLES];
            sinusoid_scales(scales, scale, max_period, half, first, n);
            for (int64_t r = r0; r < R && r < r0 + ANGLES; r++) {
                angle_block(c, s, t[r], scales, n);
                memcpy(out + r * D + c0 + first, c, (size_t)n * sizeof(float));
                memcpy(out + r * D + s0 + first, s, (size_t)n * sizeof(float));
            }
        }
    for (int64_t r = 0; D % 2 && r < R; r++) out[r * D + D - 1] = 0.0f;
}

/* dt += sum_i scale_i (dsin_i cos_i - dcos_i sin_i) */
static void sinusoidal_backward(float *dt, const float *dout, const float *t, float scale, float max_period, int sin_first,
                                int64_t R, int64_t D) {
    const int64_t half = D / 2, c0 = sin_first ? half : 0, s0 = half - c0;
    #pragma omp parallel for num_threads(wm_threads) if (R * D > EMBED_GRAIN)
    for (int64_t r = 0; r < R; r++) {
        double sum = 0.0;
        for (int64_t first = 0; first < half; first += ANGLES) {
            const int64_t n = half - first < ANGLES ? half - first : ANGLES;
            double scales[ANGLES];
            float c[ANGLES], s[ANGLES];
            sinusoid_scales(scales, scale, max_period, half, first, n);
            angle_block(c, s, t[r], scales, n);
            for (int64_t i = 0; i < n; i++)
                sum += scales[i] * (double)(dout[r * D + s0 + first + i] * c[i] - dout[r * D + c0 + first + i] * s[i]);
        }
        dt[r] += (float)sum;
    }
}

static inline void turn_scales(double *to, const float *w, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = 6.283185307179586477 * (double)w[i];
}

/* out (R,2D) = cos(2 pi t w), sin(2 pi t w).  t (R), w (D). */
static void fourier_forward(float *out, const float *t, const float *w, int64_t R, int64_t D) {
    #pragma omp parallel for num_threads(wm_threads) if (R * D > EMBED_GRAIN)
    for (int64_t r = 0; r < R; r++)
        for (int64_t first = 0; first < D; first += ANGLES) {
            const int64_t n = D - first < ANGLES ? D - first : ANGLES;
            double scales[ANGLES];
            float c[ANGLES], s[ANGLES];
            turn_scales(scales, w + first, n);
            angle_block(c, s, t[r], scales, n);
            memcpy(out + r * 2 * D + first, c, (size_t)n * sizeof(float));
            memcpy(out + r * 2 * D + D + first, s, (size_t)n * sizeof(float));
        }
}

/* With h = 2 pi (dsin cos - dcos sin):  dt += sum_D h w,  dw += sum_R h t.  out holds the cosines and sines. */
static void fourier_backward(float *dt, float *dw, const float *dout, const float *out, const float *t, const float *w,
                             int64_t R, int64_t D) {
    for (int64_t r = 0; dt && r < R; r++) {
        const float *g = dout + r * 2 * D, *o = out + r * 2 * D;
        double sum = 0.0;
        for (int64_t i = 0; i < D; i++) sum += (double)(g[D + i] * o[i] - g[i] * o[D + i]) * (double)w[i];
        dt[r] += (float)(6.283185307179586477 * sum);
    }
    for (int64_t i = 0; dw && i < D; i++) {
        double sum = 0.0;
        for (int64_t r = 0; r < R; r++) {
            const float *g = dout + r * 2 * D, *o = out + r * 2 * D;
            sum += (double)(g[D + i] * o[i] - g[i] * o[D + i]) * (double)t[r];
        }
        dw[i] += (float)(6.283185307179586477 * sum);
    }
}

/* out (H,W,D): sin and cos of the row in D/4 scales each, then of the column; scale_i = max_period^(-i / (D/4)). */
static void axial_positions(float *out, float max_period, int64_t H, int64_t W, int64_t D) {
    const int64_t Q = D / 4;
    for (int64_t first = 0; first < Q; first += ANGLES) {
        const int64_t n = Q - first < ANGLES ? Q - first : ANGLES;
        const size_t bytes = (size_t)n * sizeof(float);
        double scales[ANGLES];
        float c[ANGLES], s[ANGLES];
        sinusoid_scales(scales, 1.0, max_period, Q, first, n);
        for (int64_t h = 0; h < H; h++) {
            angle_block(c, s, (double)h, scales, n);
            for (int64_t w = 0; w < W; w++) {
                float *to = out + (h * W + w) * D + first;
                memcpy(to, s, bytes), memcpy(to + Q, c, bytes);
            }
        }
        for (int64_t w = 0; w < W; w++) {
            angle_block(c, s, (double)w, scales, n);
            for (int64_t h = 0; h < H; h++) {
                float *to = out + (h * W + w) * D + 2 * Q + first;
                memcpy(to, s, bytes), memcpy(to + Q, c, bytes);
            }
        }
    }
}

/* out (M,N): 1 at the index, 0 elsewhere. */
static void one_hot_forward(float *out, const int32_t *index, int64_t M, int64_t N) {
    memset(out, 0, (size_t)(M * N) * sizeof(float));
    for (int64_t m = 0; m < M; m++) out[m * N + index[m]] = 1.0f;
}
