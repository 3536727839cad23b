/* conv: out[b,y,x,o] = end(sum over ky, kx, c of in[b, stride y - top + ky, stride x - left + kx, c] w[o,ky,kx,c]).

   No im2col: the kh rows that an output row looks at are copied once, with their zeros and repetitions, so that the kw*C
   numbers under a kernel row lie side by side; a register tile then walks over kh such runs. */
#include "conv_tile.h"
#include <omp.h>

enum { CONV_SEGMENT = 48, CONV_BAND = 128, BIAS_CHUNK = 256 };

static inline int64_t conv_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int conv_threads(int64_t workers, double work) {
    return work < 1e6 ? 1 : (int)conv_min(wm_threads, workers);
}

/* ---- packing ------------------------------------------------------------------------------------ */

/* weight (N,K) -> [panel][K][2 vectors of N]; a vector is transposed from WM_LANES rows at a time. */
static void conv_pack(void *packed, const void *weight, int dtype, int64_t N, int64_t K) {
    float *out = packed;
    #pragma omp parallel for num_threads(wm_threads) if (N * K > 1 << 16)
    for (int64_t n = 0; n < N; n += WM_LANES) {
        int64_t panel = n / CONV_WIDE * CONV_WIDE, width = N - panel > WM_LANES ? CONV_WIDE : WM_LANES;
        float *to = out + panel * K + (n - panel);
        for (int64_t k = 0; k < K; k += WM_LANES) {
            vec v[WM_LANES];
            int64_t part = conv_min(K - k, WM_LANES);
            for (int64_t i = 0; i < WM_LANES; i++)
                v[i] = n + i < N ? conv_weight_load(weight, dtype, (n + i) * K + k, part) : (vec){0};
            vec_transpose(v);
            for (int64_t i = 0; i < part; i++) vec_store(to + (k + i) * width, v[i]);
        }
    }
}

/* For dx at rows py and columns px modulo stride: the taps that reach them, last first, as [panel of C][ky][kx][O][lanes].
   s is the forward convolution. */
static void conv_pack_phase(float *packed, const void *weight, int dtype, int64_t py, int64_t px, const wm_conv *s) {
    int64_t ky0 = (py + s->top) % s->stride, kx0 = (px + s->left) % s->stride;
    int64_t ny = (s->kh - ky0 + s->stride - 1) / s->stride, nx = (s->kw - kx0 + s->stride - 1) / s->stride;
    int64_t K = ny * nx * s->O;
    #pragma omp parallel for num_threads(wm_threads) if (K * s->C > 1 << 16)
    for (int64_t c = 0; c < s->C; c += WM_LANES) {
        int64_t panel = c / CONV_WIDE * CONV_WIDE, width = s->C - panel > WM_LANES ? CONV_WIDE : WM_LANES;
        float *to = packed + panel * K + (c - panel);
        for (int64_t i = ny * nx * s->O; i-- > 0; to += width) {
            int64_t iy = i / s->O / nx, ix = i / s->O % nx, o = s->O - 1 - i % s->O;
            int64_t tap = (o * s->kh + ky0 + iy * s->stride) * s->kw + kx0 + ix * s->stride;
            vec_store(to, conv_weight_load(weight, dtype, tap * s->C + c, conv_min(s->C - c, WM_LANES)));
        }
    }
}

/* ---- what follows the sums ---------------------------------------------------------------------- */

static inline vec conv_act(vec v, wm_act act) {
    return act == WM_ACT_SILU ? v * vec_sigmoid(v) : act == WM_ACT_RELU ? vec_select(v > 0.0f, v, (vec){0}) : v;
}

/* n <= WM_LANES sums to out + at. */
static inline void conv_finish(float *out, int64_t at, vec v, int64_t n, const wm_conv_end *end) {
    if (n == WM_LANES) {
        if (end->before) vec_store(end->before + at, v);
        v = conv_act(v, end->act);
        if (end->residual) v += vec_load(end->residual + at);
        if (end->add) v += vec_load(out + at);
        vec_store(out + at, v);
    } else {
        if (end->before) vec_store_part(end->before + at, v, n);
        v = conv_act(v, end->act);
        if (end->residual) v += vec_load_part(end->residual + at, n);
        if (end->add) v += vec_load_part(out + at, n);
        vec_store_part(out + at, v, n);
    }
}

static void conv_end_backward(float *dsum, const float *dout, const float *before, wm_act act, int64_t n) {
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 15)
    for (int64_t i = 0; i < n; i += WM_LANES) {
        int64_t part = conv_min(n - i, WM_LANES);
        vec g = part == WM_LANES ? vec_load(dout + i) : vec_load_part(dout + i, part);
        vec v = part == WM_LANES ? vec_load(before + i) : vec_load_part(before + i, part), s = vec_sigmoid(v);
        g = act == WM_ACT_SILU ? g * s * (1.0f + v * (1.0f - s)) : vec_select(v > 0.0f, g, (vec){0});
        if (part == WM_LANES) vec_store(dsum + i, g); else vec_store_part(dsum + i, g, part);
    }
}

static void conv_add(float *dx, const float *dout, int64_t n) {
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 15)
    for (int64_t i = 0; i < n; i++) dx[i] += dout[i];
}

/* ---- staging ------------------------------------------------------------------------------------ */

/* Columns x0 .. x0+n of row y of image b, as the convolution sees them. */
static void conv_stage_row(float *to, const float *x, int64_t b, int64_t y, int64_t x0, int64_t n, const wm_conv *s) {
    int64_t C = s->C, begin = x0 < 0 ? conv_min(-x0, n) : 0, end = conv_min(n, s->W * s->up - x0);
    if (y < 0 || y >= s->H * s->up || end <= begin) {
        memset(to, 0, (size_t)(n * C) * sizeof *to);
        return;
    }
    const float *row = x + (b * s->H + y / s->up) * s->W * C;
    memset(to, 0, (size_t)(begin * C) * sizeof *to);
    if (s->up == 1)
        memcpy(to + begin * C, row + (x0 + begin) * C, (size_t)((end - begin) * C) * sizeof *to);
    else
        for (int64_t i = begin; i < end; i++) memcpy(to + i * C, row + (x0 + i) / s->up * C, (size_t)C * sizeof *to);
    memset(to + end * C, 0, (size_t)((n - end) * C) * sizeof *to);
}

/* Does every window lie inside x, unenlarged?  Then x can be read in place. */
static bool conv_in_place(const wm_conv *s) {
    return s->up == 1 && s->top == 0 && s->left == 0 && (s->OH - 1) * s->stride + s->kh <= s->H &&
           (s->OW - 1) * s->stride + s->kw <= s->W;
}

/* A 1x1 convolution over contiguous pixels is one long row. */
static wm_conv conv_one_row(const wm_conv *s) {
    wm_conv f = *s;
    if (s->kh * s->kw * s->stride == 1 && conv_in_place(s) && s->OH == s->H && s->OW == s->W && s->pixel == s->O &&
        s->row == s->OW * s->O && s->image == s->OH * s->row) {
        f.W = f.OW = s->B * s->H * s->W, f.B = f.H = f.OH = 1;
        f.row = f.image = f.OW * f.pixel;
    }
    return f;
}

/* ---- forward, and dx ---------------------------------------------------------------------------- */

static int64_t conv_direct_scratch(const wm_conv *s) {
    return s->kh * ((CONV_SEGMENT - 1) * s->stride + s->kw) * s->C + CONV_WIDE * TILE_M;
}

/* n pixels from (b,y,x0) on. */
static void conv_segment(float *out, const float *x, const float *packed, const wm_conv_end *end, float *scratch,
                           int64_t b, int64_t y, int64_t x0, int64_t n, const wm_conv *s) {
    int64_t C = s->C, K = s->kh * s->kw * C, run = s->kw * C, wide = (n - 1) * s->stride + s->kw, step = s->W * C;
    const float *a = x + ((b * s->H + y * s->stride) * s->W + x0 * s->stride) * C;
    float *block = scratch;
    if (!conv_in_place(s)) {
        a = scratch + CONV_WIDE * TILE_M, step = wide * C;
        for (int64_t ky = 0; ky < s->kh; ky++)
            conv_stage_row(scratch + CONV_WIDE * TILE_M + ky * step, x, b, y * s->stride - s->top + ky,
                           x0 * s->stride - s->left, wide, s);
    } else if (s->kh == 1)
        run = step = 64;
    bool plain = !end->before && !end->residual && !end->add && end->act == WM_ACT_NONE;
    float start[CONV_WIDE] = {0};
    for (int64_t o = 0; o < s->O; o += CONV_WIDE) {
        int64_t width = conv_min(s->O - o, CONV_WIDE), vectors = (width + WM_LANES - 1) / WM_LANES;
        int64_t tiles = conv_tiles(n);
        if (end->bias) memcpy(start, end->bias + o, (size_t)width * sizeof *start);
        for (int64_t i = 0; i < tiles; i++) {
            int64_t m = conv_cut(i, n, tiles), rows = conv_cut(i + 1, n, tiles) - m;
            int64_t at = b * s->image + y * s->row + (x0 + m) * s->pixel + o, ldo = vectors * WM_LANES;
            bool straight = plain && width == ldo;
            const float *w = packed + o * K;                    /* the row before has read them all: nothing to fetch */
            conv_tile((int)rows, (int)vectors, straight ? out + at : block, straight ? s->pixel : ldo,
                      end->bias ? start : NULL, a + m * s->stride * C, s->stride * C, run, step, w, K, w);
            if (straight) continue;
            for (int64_t r = 0; r < rows; r++, at += s->pixel) for (int64_t v = 0; v < vectors; v++)
                conv_finish(out, at + v * WM_LANES, vec_load(block + r * ldo + v * WM_LANES),
                            conv_min(width - v * WM_LANES, WM_LANES), end);
        }
    }
}

static void conv_direct(float *out, const float *x, const float *packed, const wm_conv_end *end, float *scratch,
                        int64_t workers, const wm_conv *shape) {
    const wm_conv s = conv_one_row(shape);
    int64_t segments = (s.OW + CONV_SEGMENT - 1) / CONV_SEGMENT, size = conv_direct_scratch(&s);
    double work = (double)(s.B * s.OH * s.OW) * (double)(s.O * s.C * s.kh * s.kw);
    #pragma omp parallel for num_threads(conv_threads(workers, work)) schedule(static)
    for (int64_t i = 0; i < s.B * s.OH * segments; i++) {
        int64_t x0 = conv_cut(i % segments, s.OW, segments), x1 = conv_cut(i % segments + 1, s.OW, segments);
        conv_segment(out, x, packed, end, scratch + omp_get_thread_num() * size, i / segments / s.OH,
                     i / segments % s.OH, x0, x1 - x0, &s);
    }
}

/* ---- dw ----------------------------------------------------------------------------------------- */

/* out[m][v] += sum over runs and i < n of a[i lda + m] b[i ldb + v]: rows from a, lanes from b. */
static inline __attribute__((always_inline)) void conv_outer_body(int rows, int vectors, float *out, int64_t ldo, const float *a,
                                                             int64_t lda, int64_t step_a, const float *b, int64_t ldb,
                                                             int64_t step_b, int64_t n, int64_t runs) {
    vec sum[TILE_M][2];
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = (vec){0};
    for (int64_t r = 0; r < runs; r++, a += step_a, b += step_b) {
        const float *p = a, *q = b;
        for (int64_t i = 0; i < n; i++, p += lda, q += ldb) {
            vec q0 = vec_load(q), q1 = vectors > 1 ? vec_load(q + WM_LANES) : q0;
            UNROLL for (int m = 0; m < rows; m++) {
                sum[m][0] += p[m] * q0;
                if (vectors > 1) sum[m][1] += p[m] * q1;
            }
        }
    }
    UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++) {
        float *to = out + m * ldo + v * WM_LANES;
        vec_store(to, vec_load(to) + sum[m][v]);
    }
}

#define OUTER_CASE(m)                                                                                            \
    case m:                                                                                                      \
        if (vectors > 1) conv_outer_body(m, 2, out, ldo, a, lda, step_a, b, ldb, step_b, n, runs);                    \
        else conv_outer_body(m, 1, out, ldo, a, lda, step_a, b, ldb, step_b, n, runs);                                \
        break;
static __attribute__((noinline)) void conv_outer(int rows, int vectors, float *out, int64_t ldo, const float *a, int64_t lda,
                                            int64_t step_a, const float *b, int64_t ldb, int64_t step_b, int64_t n,
                                            int64_t runs) {
    switch (rows) {
        OUTER_CASE(1) OUTER_CASE(2) OUTER_CASE(3) OUTER_CASE(4) OUTER_CASE(5) OUTER_CASE(6)
#if TILE_M >= 8
        OUTER_CASE(7) OUTER_CASE(8)
#endif
#if TILE_M >= 12
        OUTER_CASE(9) OUTER_CASE(10) OUTER_CASE(11) OUTER_CASE(12)
#endif
    }
}
#undef OUTER_CASE

/* A band: so many output rows and columns that a tile of sums is worth loading. */
static int64_t conv_band_rows(const wm_conv *s) { return s->OW >= CONV_BAND ? 1 : conv_min(s->OH, CONV_BAND / s->OW); }
static int64_t conv_band_columns(const wm_conv *s) { return conv_min(s->OW, CONV_BAND); }

static int64_t conv_weight_scratch(const wm_conv *shape) {
    const wm_conv s = conv_one_row(shape);
    int64_t rows = (conv_band_rows(&s) - 1) * s.stride + s.kh, columns = (conv_band_columns(&s) - 1) * s.stride + s.kw;
    return rows * columns * s.C + CONV_WIDE;
}

/* Tiles first..last of dweight, from output rows [y,y+rows) x columns [x0,x0+n) of image b. */
static void conv_weight_band(float *dweight, const float *dout, const float *staged, int64_t wide, int64_t first, int64_t last,
                        int64_t rows, int64_t n, const wm_conv *s) {
    int64_t run = s->kw * s->C, K = s->kh * run, across = (run + CONV_WIDE - 1) / CONV_WIDE, down = conv_tiles(s->O);
    for (int64_t i = first; i < last; i++) {
        int64_t o = conv_cut(i % down, s->O, down), m = conv_cut(i % down + 1, s->O, down) - o;
        int64_t j = i / down % across * CONV_WIDE, ky = i / down / across, width = conv_min(run - j, CONV_WIDE);
        int64_t vectors = (width + WM_LANES - 1) / WM_LANES;
        float block[TILE_M * CONV_WIDE] = {0}, *to = dweight + o * K + ky * run + j;
        bool straight = width == vectors * WM_LANES;
        conv_outer((int)m, (int)vectors, straight ? to : block, straight ? K : CONV_WIDE, dout + o, s->O, s->OW * s->O,
              staged + ky * wide + j, s->stride * s->C, s->stride * wide, n, rows);
        for (int64_t r = 0; r < m && !straight; r++)
            for (int64_t l = 0; l < width; l++) to[r * K + l] += block[r * CONV_WIDE + l];
    }
}

/* dweight += sum over pixels of dout (x) window.  A thread owns some tiles of dweight and walks over all bands: the order of
   the sums does not depend on the threads. */
static void conv_weight(float *dweight, const float *dout, const float *x, float *scratch, int64_t workers,
                        const wm_conv *shape) {
    const wm_conv s = conv_one_row(shape);
    int64_t size = conv_weight_scratch(&s), R = conv_band_rows(&s), N = conv_band_columns(&s);
    int64_t items = s.kh * ((s.kw * s.C + CONV_WIDE - 1) / CONV_WIDE) * conv_tiles(s.O);
    double work = (double)(s.B * s.OH * s.OW) * (double)(s.O * s.C * s.kh * s.kw);
    #pragma omp parallel num_threads(conv_threads(workers, work))
    {
        int64_t t = omp_get_thread_num(), threads = omp_get_num_threads();
        float *staged = scratch + t * size;
        for (int64_t b = 0; b < s.B; b++)
        for (int64_t y = 0; y < s.OH; y += R)
        for (int64_t x0 = 0; x0 < s.OW; x0 += N) {
            int64_t rows = conv_min(R, s.OH - y), n = conv_min(N, s.OW - x0), wide = (n - 1) * s.stride + s.kw;
            for (int64_t r = 0; r < (rows - 1) * s.stride + s.kh; r++)
                conv_stage_row(staged + r * wide * s.C, x, b, y * s.stride - s.top + r, x0 * s.stride - s.left, wide,
                               &s);
            conv_weight_band(dweight, dout + ((b * s.OH + y) * s.OW + x0) * s.O, staged, wide * s.C,
                             items * t / threads, items * (t + 1) / threads, rows, n, &s);
        }
    }
}

/* dbias += sum over rows of dout (R,O): sums of BIAS_CHUNK rows first. */
static void conv_bias(float *dbias, const float *dout, float *scratch, int64_t R, int64_t O) {
    int64_t chunks = (R + BIAS_CHUNK - 1) / BIAS_CHUNK;
    #pragma omp parallel for num_threads(wm_threads) if (R * O > 1 << 16)
    for (int64_t i = 0; i < chunks; i++) {
        float *sum = scratch + i * O;
        memset(sum, 0, (size_t)O * sizeof *sum);
        for (int64_t r = i * BIAS_CHUNK; r < conv_min(R, (i + 1) * BIAS_CHUNK); r++)
            for (int64_t o = 0; o < O; o++) sum[o] += dout[r * O + o];
    }
    for (int64_t i = 0; i < chunks; i++)
        for (int64_t o = 0; o < O; o++) dbias[o] += scratch[i * O + o];
}

/* dx += sum over the up x up copies that a pixel had. */
static void conv_up_backward(float *dx, const float *dup, int64_t up, int64_t B, int64_t H, int64_t W, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (B * H * W * C > 1 << 15)
    for (int64_t i = 0; i < B * H; i++) for (int64_t x = 0; x < W; x++) {
        float *to = dx + (i * W + x) * C;
        for (int64_t a = 0; a < up; a++) for (int64_t b = 0; b < up; b++) {
            const float *from = dup + (((i * up + a) * W + x) * up + b) * C;
            for (int64_t c = 0; c < C; c++) to[c] += from[c];
        }
    }
}
