/* rotary: pairs of a head's columns turned by an angle that grows with the position (Su et al. 2021), and the norm of
   queries and keys per head that goes before it (Henry et al. 2020; Dehghani et al. 2023). */

/* out = x with its first 2 pairs columns turned: (x1 cos - x2 sin, x2 cos + x1 sin); partners lie `pairs` apart, or side
   by side if interleaved.  Never inlined: the cache rotates as it reads, and must get the same bits. */
static __attribute__((noinline)) void rotate_row(float *out, const float *x, const float *cos, const float *sin,
                                                 int64_t pairs, int64_t D, bool interleaved) {
    if (interleaved) {
        for (int64_t i = 0; i < pairs; i++) {
            float a = x[2 * i], b = x[2 * i + 1];
            out[2 * i] = a * cos[i] - b * sin[i];
            out[2 * i + 1] = b * cos[i] + a * sin[i];
        }
    } else {
        int64_t i = 0;
        for (; i + WM_LANES <= pairs; i += WM_LANES) {
            vec a = vec_load(x + i), b = vec_load(x + pairs + i), c = vec_load(cos + i), s = vec_load(sin + i);
            vec_store(out + i, a * c - b * s);
            vec_store(out + pairs + i, b * c + a * s);
        }
        for (; i < pairs; i++) {
            float a = x[i], b = x[pairs + i];
            out[i] = a * cos[i] - b * sin[i];
            out[pairs + i] = b * cos[i] + a * sin[i];
        }
    }
    for (int64_t d = 2 * pairs; d < D; d++) out[d] = x[d];
}

/* cos, sin (N, A F): angles of N positions in A axes, each axis F frequencies; position (N, A) as floats or integers.
   Frequencies base^(-i / F); `pixel`: pi times 1 .. base / 2, evenly spaced.  In double: no largest position. */
static void rotary_table(float *cos_out, float *sin_out, const float *position, const int32_t *index, float base,
                         bool pixel, int64_t N, int64_t A, int64_t F) {
    #pragma omp parallel for num_threads(wm_threads) if (N * A * F > 1 << 12)
    for (int64_t r = 0; r < N * A; r++) {
        double at = position ? (double)position[r] : (double)index[r];
        for (int64_t i = 0; i < F; i++) {
            double rate = pixel ? 3.14159265358979323846 * (F > 1 ? 1 + (base / 2 - 1) * i / (F - 1.0) : 1)
                                : pow(base, -(double)i / F);
            cos_out[r * F + i] = (float)cos(at * rate);
            sin_out[r * F + i] = (float)sin(at * rate);
        }
    }
}

/* mean and 1 / sqrt(variance + eps) of one head (mean 0 if rms). */
static void head_moments(float *mean, float *rstd, const float *x, int64_t D, bool layer, float eps) {
    vec sum = {0};
    float m = 0;
    for (int64_t d = 0; layer && d < D; d += WM_LANES)
        sum += D - d >= WM_LANES ? vec_load(x + d) : vec_load_part(x + d, D - d);
    if (layer) m = vec_sum(sum) / (float)D;
    sum = (vec){0};
    for (int64_t d = 0; d < D; d += WM_LANES) {
        vec v = (D - d >= WM_LANES ? vec_load(x + d) : vec_load_part(x + d, D - d)) - m;
        if (layer && D - d < WM_LANES)
            for (int64_t i = D - d; i < WM_LANES; i++) v[i] = 0;
        sum += v * v;
    }
    *mean = m;
    *rstd = 1.0f / sqrtf(vec_sum(sum) / (float)D + eps);
}

/* out = rotate(scale (x - mean) rstd), head by head.  x (R rows of x_width numbers), out (R, H D); scale (D) may be NULL;
   cos, sin (tables, pairs) may be NULL; row r takes table row (r / inner) mod tables. */
static void head_norm_forward(float *out, const float *x, const float *cos, const float *sin, const float *scale,
                              const wm_head_norm *a) {
    #pragma omp parallel for num_threads(wm_threads) schedule(static) if (a->R * a->H * a->D > 1 << 13)
    for (int64_t r = 0; r < a->R; r++) {
        int64_t at = r / a->inner % a->tables * a->pairs, D = a->D;
        float normed[WM_HEAD_WIDEST];
        for (int64_t h = 0; h < a->H; h++) {
            const float *from = x + r * a->x_width + h * D;
            float *to = out + (r * a->H + h) * D, *y = cos ? normed : to, mean = 0, rstd = 1;
            if (a->norm) head_moments(&mean, &rstd, from, D, a->norm == WM_HEAD_LAYER, a->eps);
            if (scale)
                for (int64_t d = 0; d < D; d++) y[d] = (from[d] - mean) * rstd * scale[d];
            else if (a->norm)
                for (int64_t d = 0; d < D; d++) y[d] = (from[d] - mean) * rstd;
            else if (cos)
                y = NULL;
            else
                memcpy(y, from, (size_t)D * sizeof *y);
            if (cos) rotate_row(to, y ? y : from, cos + at, sin + at, a->pairs, D, a->interleaved);
        }
    }
}

/* The gradient of one head: g is d normed times scale on entry; dx += rstd (g - mean(g) - normed mean(g normed)). */
static void head_norm_back(float *dx, const float *g, const float *x, float mean, float rstd, const wm_head_norm *a) {
    int64_t D = a->D;
    vec sum = {0}, with = {0};
    float mean_g = 0, mean_gx = 0;
    for (int64_t d = 0; a->norm && d < D; d += WM_LANES) {
        vec u = D - d >= WM_LANES ? vec_load(g + d) : vec_load_part(g + d, D - d);
        vec v = D - d >= WM_LANES ? vec_load(x + d) : vec_load_part(x + d, D - d);
        sum += u;
        with += u * ((v - mean) * rstd);
    }
    if (a->norm == WM_HEAD_LAYER) mean_g = vec_sum(sum) / (float)D;
    if (a->norm) mean_gx = vec_sum(with) / (float)D;
    for (int64_t d = 0; d < D; d++) dx[d] += rstd * (g[d] - mean_g - (x[d] - mean) * rstd * mean_gx);
}

/* dx (rows of x_width numbers) and dscale (D) += ; either may be NULL.  part: WM_HEAD_PARTS x D numbers of scratch, for
   a sum over the rows whose order does not depend on the threads. */
static void head_norm_backward(float *dx, float *dscale, float *part, const float *dout, const float *x, const float *cos,
                               const float *sin, const float *scale, const wm_head_norm *a) {
    const int64_t D = a->D, chunk = (a->R + WM_HEAD_PARTS - 1) / WM_HEAD_PARTS;
    #pragma omp parallel for num_threads(wm_threads) schedule(static) if (a->R * a->H * D > 1 << 13)
    for (int64_t c = 0; c < WM_HEAD_PARTS; c++) {
        float *sum = part + c * D, turned[WM_HEAD_WIDEST], back[WM_HEAD_WIDEST];
        if (dscale) memset(sum, 0, (size_t)D * sizeof *sum);
        for (int64_t r = c * chunk; r < a->R && r < (c + 1) * chunk; r++)
            for (int64_t h = 0; h < a->H; h++) {
                const float *from = x + r * a->x_width + h * D, *g = dout + (r * a->H + h) * D;
                int64_t at = r / a->inner % a->tables * a->pairs;
                float mean = 0, rstd = 1;
                if (a->norm) head_moments(&mean, &rstd, from, D, a->norm == WM_HEAD_LAYER, a->eps);
                if (cos) {
                    for (int64_t i = 0; i < a->pairs; i++) back[i] = -sin[at + i];
                    rotate_row(turned, g, cos + at, back, a->pairs, D, a->interleaved);
                    g = turned;
                }
                for (int64_t d = 0; dscale && d < D; d++) sum[d] += g[d] * ((from[d] - mean) * rstd);
                if (!dx) continue;
                for (int64_t d = 0; scale && d < D; d++) back[d] = g[d] * scale[d];
                head_norm_back(dx + r * a->x_width + h * D, scale ? back : g, from, mean, rstd, a);
            }
    }
    for (int64_t c = 0; dscale && c < WM_HEAD_PARTS; c++)
        for (int64_t d = 0; d < D; d++) dscale[d] += part[c * D + d];
}
