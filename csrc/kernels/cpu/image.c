/* image: bytes and floats, resizing; channels last.

   A resize is a sum over the taps of a row, then over the taps of a column:
       area      pixel o of n covers [o m, (o + 1) m) of m n parts, input pixel i of m covers [i n, (i + 1) n): the weight is
                 their overlap over m, in whole numbers, so that any ratio is exact
       bilinear  from (o + 1/2) m / n - 1/2, at least 0, between its two neighbours (align_corners false, no antialiasing) */

enum { RESIZE_AREA, RESIZE_BILINEAR };

typedef struct { int64_t first, last; float second; } taps;    /* second: bilinear's weight of `last` */

static taps taps_of(int mode, int64_t o, int64_t from, int64_t to) {
    if (mode == RESIZE_AREA) return (taps){o * from / to, ((o + 1) * from - 1) / to, 0};
    float at = ((float)o + 0.5f) * ((float)from / (float)to) - 0.5f;
    at = at < 0 ? 0 : at;
    int64_t i = (int64_t)at;
    if (i >= from - 1) return (taps){from - 1, from - 1, 0};
    return (taps){i, i + 1, at - (float)i};
}

static float tap_weight(int mode, taps t, int64_t i, int64_t o, int64_t from, int64_t to) {
    if (mode == RESIZE_BILINEAR) return i == t.first ? 1 - t.second : t.second;
    int64_t end = (o + 1) * from < (i + 1) * to ? (o + 1) * from : (i + 1) * to, start = o * from > i * to ? o * from : i * to;
    return (float)(end - start) / (float)from;
}

/* row (W C) = output row o of an image: sums over its input rows */
static inline __attribute__((always_inline)) void resize_rows(float *row, const void *image, bool bytes, int mode, int64_t o,
                                                              int64_t H, int64_t n, int64_t OH) {
    taps t = taps_of(mode, o, H, OH);
    for (int64_t i = t.first; i <= t.last; i++) {
        float w = tap_weight(mode, t, i, o, H, OH);
        const float *f = (const float *)image + i * n;
        const uint8_t *b = (const uint8_t *)image + i * n;
        if (i == t.first) for (int64_t j = 0; j < n; j++) row[j] = w * (bytes ? (float)b[j] : f[j]);
        else for (int64_t j = 0; j < n; j++) row[j] += w * (bytes ? (float)b[j] : f[j]);
    }
}

/* out (OW,C) from row (W,C) */
static void resize_columns(float *out, const float *row, int mode, int64_t W, int64_t C, int64_t OW) {
    for (int64_t o = 0; o < OW; o++) {
        taps t = taps_of(mode, o, W, OW);
        float *to = out + o * C;
        for (int64_t c = 0; c < C; c++) to[c] = 0;
        for (int64_t i = t.first; i <= t.last; i++) {
            float w = tap_weight(mode, t, i, o, W, OW);
            for (int64_t c = 0; c < C; c++) to[c] += w * row[i * C + c];
        }
    }
}

static inline uint8_t nearest_byte(float x) { return !(x > 0) ? 0 : x >= 255 ? 255 : (uint8_t)rintf(x); }

/* out (B,OH,OW,C) of x (B,H,W,C); rows: scratch (B OH, W C) */
static void resize_forward(float *out, float *rows, const float *x, int mode, int64_t B, int64_t H, int64_t W, int64_t C,
                           int64_t OH, int64_t OW) {
    int64_t n = W * C;
    #pragma omp parallel for num_threads(wm_threads) if (B * (H + OH) * n > 1 << 15)
    for (int64_t r = 0; r < B * OH; r++) {
        resize_rows(rows + r * n, x + r / OH * H * n, false, mode, r % OH, H, n, OH);
        resize_columns(out + r * OW * C, rows + r * n, mode, W, C, OW);
    }
}

/* The same of bytes, rounded to the nearest; rows: scratch (B OH, (W + OW) C) */
static void resize_bytes(uint8_t *out, float *rows, const uint8_t *x, int mode, int64_t B, int64_t H, int64_t W, int64_t C,
                         int64_t OH, int64_t OW) {
    int64_t n = W * C, m = OW * C;
    #pragma omp parallel for num_threads(wm_threads) if (B * (H + OH) * n > 1 << 15)
    for (int64_t r = 0; r < B * OH; r++) {
        float *row = rows + r * (n + m), *line = row + n;
        resize_rows(row, x + r / OH * H * n, true, mode, r % OH, H, n, OH);
        resize_columns(line, row, mode, W, C, OW);
        for (int64_t j = 0; j < m; j++) out[r * m + j] = nearest_byte(line[j]);
    }
}

/* dx += the transposed map of dout; rows: scratch (B OH, W C).  One image is one unit of work. */
static void resize_backward(float *dx, float *rows, const float *dout, int mode, int64_t B, int64_t H, int64_t W, int64_t C,
                            int64_t OH, int64_t OW) {
    int64_t n = W * C;
    #pragma omp parallel for num_threads(wm_threads) if (B * (H + OH) * n > 1 << 15)
    for (int64_t b = 0; b < B; b++)
        for (int64_t y = 0; y < OH; y++) {
            float *row = rows + (b * OH + y) * n;
            const float *from = dout + (b * OH + y) * OW * C;
            for (int64_t j = 0; j < n; j++) row[j] = 0;
            for (int64_t o = 0; o < OW; o++) {
                taps t = taps_of(mode, o, W, OW);
                for (int64_t i = t.first; i <= t.last; i++) {
                    float w = tap_weight(mode, t, i, o, W, OW);
                    for (int64_t c = 0; c < C; c++) row[i * C + c] += w * from[o * C + c];
                }
            }
            taps t = taps_of(mode, y, H, OH);
            for (int64_t i = t.first; i <= t.last; i++) {
                float w = tap_weight(mode, t, i, y, H, OH), *to = dx + (b * H + i) * n;
                for (int64_t j = 0; j < n; j++) to[j] += w * row[j];
            }
        }
}

/* out = low + (high - low) x / 255 */
static void bytes_to_floats(float *out, const uint8_t *x, float low, float high, int64_t n) {
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 15)
    for (int64_t i = 0; i < n; i++) out[i] = (float)x[i] / 255.0f * (high - low) + low;
}

/* out = 255 (x - low) / (high - low), to the nearest byte (half to even) or cut toward 0; what lies outside, and NaN, to an end */
static void floats_to_bytes(uint8_t *out, const float *x, float low, float high, int cut, int64_t n) {
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 15)
    for (int64_t i = 0; i < n; i++) {
        float y = (x[i] - low) / (high - low) * 255.0f;
        y = y > 0 ? y : 0;
        y = y < 255 ? y : 255;
        out[i] = (uint8_t)(int32_t)(cut ? y : rintf(y));
    }
}
