/* winograd: a 3x3 convolution of stride 1 by F(4x4,3x3): 36 products for 16 outputs instead of 144.

       Y = A' [ (G w G') * (B' d B) ] A          d 6x6 inputs, Y 4x4 outputs, w 3x3; summed over channels inside [ ]
       dw = G' [ (A dY A') * (B' d B) ] G        summed over tiles

   after S. Winograd and A. Lavin, "Fast algorithms for convolutional neural networks" (2015), on the points
   0, +-5/8, +-3/2, infinity instead of their 0, +-1, +-2, infinity: every constant of A and B is exact and the
   measured error is a third.  The products are 36 matrix products over channels, whose chains are cut short: with
   that the error stays below twice that of one long chain over 9 C numbers, from 32 channels on.  The sums over tiles
   of dw have no such help where the pixels are few; ops/conv.c then goes the direct way (tests/oracle). */
enum { WINO_TILES = 24, WINO_WEIGHT_TILES = 48, WINO_POSITIONS = 36 };
static inline int64_t wino_chain(int64_t C) { return C < 64 ? 8 : 32; }
static const float wino_a = 0.625f, wino_b = 1.5f, wino_aa = 0.390625f, wino_bb = 2.25f;
static const float wino_sum = 2.640625f, wino_product = 0.87890625f;      /* aa + bb, aa bb */

/* ---- the three small matrices --------------------------------------------------------------------- */

/* v <- B' v */
static inline __attribute__((always_inline)) void wino_input(vec v[6]) {
    vec even_a = v[4] - wino_bb * v[2], odd_a = wino_a * (v[3] - wino_bb * v[1]);
    vec even_b = v[4] - wino_aa * v[2], odd_b = wino_b * (v[3] - wino_aa * v[1]);
    v[0] = wino_product * v[0] + (v[4] - wino_sum * v[2]);
    v[5] = wino_product * v[1] + (v[5] - wino_sum * v[3]);
    v[1] = even_a + odd_a, v[2] = even_a - odd_a, v[3] = even_b + odd_b, v[4] = even_b - odd_b;
}

/* v[0..3] <- A' v[0..5] */
static inline __attribute__((always_inline)) void wino_output(vec v[6]) {
    vec sum_a = v[1] + v[2], odd_a = wino_a * (v[1] - v[2]), sum_b = v[3] + v[4], odd_b = wino_b * (v[3] - v[4]);
    v[0] = v[0] + (sum_a + sum_b);
    v[1] = odd_a + odd_b;
    v[2] = wino_aa * sum_a + wino_bb * sum_b;
    v[3] = (wino_aa * odd_a + wino_bb * odd_b) + v[5];
}

/* v[0..5] <- A v[0..3] */
static inline __attribute__((always_inline)) void wino_gradient(vec v[6]) {
    vec even_a = v[0] + wino_aa * v[2], odd_a = wino_a * (v[1] + wino_aa * v[3]);
    vec even_b = v[0] + wino_bb * v[2], odd_b = wino_b * (v[1] + wino_bb * v[3]);
    v[5] = v[3];
    v[1] = even_a + odd_a, v[2] = even_a - odd_a, v[3] = even_b + odd_b, v[4] = even_b - odd_b;
}

/* 1 / (product of the differences of a point to the others) */
static const float wino_0 = (float)(1 / 0.87890625), wino_na = (float)(1 / (2 * 0.390625 * (0.390625 - 2.25))),
                   wino_nb = (float)(1 / (2 * 2.25 * (2.25 - 0.390625)));

/* v[0..5] <- G v[0..2] */
static inline __attribute__((always_inline)) void wino_weight(vec v[6]) {
    vec even_a = wino_na * (v[0] + wino_aa * v[2]), odd_a = wino_na * wino_a * v[1];
    vec even_b = wino_nb * (v[0] + wino_bb * v[2]), odd_b = wino_nb * wino_b * v[1];
    v[5] = v[2], v[0] = wino_0 * v[0];
    v[1] = even_a + odd_a, v[2] = even_a - odd_a, v[3] = even_b + odd_b, v[4] = even_b - odd_b;
}

/* v[0..2] <- G' v[0..5] */
static inline __attribute__((always_inline)) void wino_weight_gradient(vec v[6]) {
    vec sum_a = wino_na * (v[1] + v[2]), odd_a = wino_na * wino_a * (v[1] - v[2]);
    vec sum_b = wino_nb * (v[3] + v[4]), odd_b = wino_nb * wino_b * (v[3] - v[4]);
    v[0] = wino_0 * v[0] + (sum_a + sum_b);
    v[1] = odd_a + odd_b;
    v[2] = (wino_aa * sum_a + wino_bb * sum_b) + v[5];
}

typedef void wino_step(vec v[6]);

/* p <- S p S', where S makes n_out numbers of n_in: rows of p are 6 apart. */
static inline __attribute__((always_inline)) void wino_both(vec p[36], wino_step step, int n_in, int n_out) {
    vec v[6];
    UNROLL for (int j = 0; j < n_in; j++) {
        UNROLL for (int i = 0; i < n_in; i++) v[i] = p[6 * i + j];
        step(v);
        UNROLL for (int i = 0; i < n_out; i++) p[6 * i + j] = v[i];
    }
    UNROLL for (int i = 0; i < n_out; i++) step(p + 6 * i);
}

/* 36 vectors from and to places `step` numbers apart.  Two loops of 6: GCC would not unroll one of 36. */
static inline __attribute__((always_inline)) void wino_get(vec p[36], const float *from, int64_t step) {
    UNROLL for (int i = 0; i < 6; i++)
        UNROLL for (int j = 0; j < 6; j++) p[6 * i + j] = vec_load(from + (6 * i + j) * step);
}
static inline __attribute__((always_inline)) void wino_put(float *to, int64_t step, const vec p[36]) {
    UNROLL for (int i = 0; i < 6; i++)
        UNROLL for (int j = 0; j < 6; j++) vec_store(to + (6 * i + j) * step, p[6 * i + j]);
}

/* ---- weights ------------------------------------------------------------------------------------ */

/* U[position][panel of N][k][lanes] for WM_LANES outputs and as many inputs, which lie in u[position][output]. */
static void wino_pack_block(float *packed, vec (*u)[WM_LANES], int turned, int64_t n, int64_t k, int64_t part,
                            int64_t N, int64_t K) {
    int64_t panel = n / CONV_WIDE * CONV_WIDE, width = N - panel > WM_LANES ? CONV_WIDE : WM_LANES;
    int64_t position = (N + WM_LANES - 1) / WM_LANES * WM_LANES * K;
    float *to = packed + panel * K + (n - panel) + k * width;
    for (int64_t p = 0; p < WINO_POSITIONS; p++) {
        if (turned) vec_transpose(u[p]);
        for (int64_t i = 0; i < part; i++) vec_store(to + p * position + i * width, u[p][i]);
    }
}

/* weight (N,3,3,C), K = 9 C */
static void winograd_pack(void *packed, const void *weight, int dtype, int64_t N, int64_t K) {
    int64_t C = K / 9;
    #pragma omp parallel for num_threads(wm_threads) if (N * K > 1 << 14)
    for (int64_t n = 0; n < N; n += WM_LANES) for (int64_t c = 0; c < C; c += WM_LANES) {
        vec u[WINO_POSITIONS][WM_LANES], p[36];
        int64_t part = conv_min(C - c, WM_LANES);
        for (int64_t i = 0; i < WM_LANES; i++) {
            for (int64_t t = 0; t < 9; t++)
                p[t / 3 * 6 + t % 3] =
                    n + i < N ? conv_weight_load(weight, dtype, (n + i) * K + t * C + c, part) : (vec){0};
            wino_both(p, wino_weight, 3, 6);
            for (int64_t t = 0; t < WINO_POSITIONS; t++) u[t][i] = p[t];
        }
        wino_pack_block(packed, u, 1, n, c, part, N, C);
    }
}

/* For dx: outputs are C, inputs O, and the kernel is turned by half a circle. */
static void winograd_pack_backward(float *packed, const void *weight, int dtype, int64_t O, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (O * C > 1 << 11)
    for (int64_t c = 0; c < C; c += WM_LANES) for (int64_t o = 0; o < O; o += WM_LANES) {
        vec u[WINO_POSITIONS][WM_LANES], p[36];
        int64_t part = conv_min(O - o, WM_LANES);
        for (int64_t i = 0; i < part; i++) {
            for (int64_t t = 0; t < 9; t++)
                p[(8 - t) / 3 * 6 + (8 - t) % 3] =
                    conv_weight_load(weight, dtype, ((o + i) * 9 + t) * C + c, conv_min(C - c, WM_LANES));
            wino_both(p, wino_weight, 3, 6);
            for (int64_t t = 0; t < WINO_POSITIONS; t++) u[t][i] = p[t];
        }
        wino_pack_block(packed, u, 0, c, o, part, C, O);
    }
}

/* ---- tiles of x, of out ------------------------------------------------------------------------- */

typedef struct { int64_t b, y, x; } wino_place;      /* image, first row and column of the outputs of a tile */

static inline wino_place wino_at(int64_t i, const wm_conv *s) {
    int64_t across = (s->OW + 3) / 4, down = (s->OH + 3) / 4;
    return (wino_place){i / across / down, i / across % down * 4, i % across * 4};
}

/* From one position of a transformed block to the next: an odd number of cache lines, so that the 36 do not collide. */
static inline int64_t wino_step_of(int64_t tiles, int64_t channels) { return ((tiles * channels + 15) / 16 | 1) * 16; }

/* V[position] <- B' d B for one tile; step lies between positions. */
static inline __attribute__((always_inline)) void wino_read(float *V, int64_t step, const float *x, const int64_t *row,
                                                            const int64_t *column, const int32_t *inside, int masked, int64_t C) {
    for (int64_t at = 0; at < C; at += WM_LANES) {
        int64_t c = conv_min(at, C - WM_LANES);     /* the last vector overlaps the one before */
        vec p[36];
        UNROLL for (int i = 0; i < 6; i++) UNROLL for (int j = 0; j < 6; j++) {
            p[6 * i + j] = vec_load(x + row[i] + column[j] + c);
            if (j > 1) __builtin_prefetch(x + row[i] + column[j] + c + 4 * C, 0, 3);       /* of the tile to the right */
            if (masked) p[6 * i + j] = (vec)((ivec)p[6 * i + j] & (inside[i] & inside[6 + j]));
        }
        wino_both(p, wino_input, 6, 6);
        wino_put(V + c, step, p);
    }
}

static void wino_read_tile(float *V, int64_t step, const float *x, wino_place at, const wm_conv *s) {
    int64_t row[6], column[6];
    int32_t inside[12], all = -1;
    for (int i = 0; i < 6; i++) {
        int64_t y = at.y - s->top + i, z = at.x - s->left + i;
        inside[i] = -(y >= 0 && y < s->H * s->up), inside[6 + i] = -(z >= 0 && z < s->W * s->up);
        row[i] = inside[i] ? y / s->up * s->W * s->C : 0, column[i] = inside[6 + i] ? z / s->up * s->C : 0;
        all &= inside[i] & inside[6 + i];
    }
    x += at.b * s->H * s->W * s->C;
    if (all) wino_read(V, step, x, row, column, inside, 0, s->C);
    else wino_read(V, step, x, row, column, inside, 1, s->C);
}

/* out <- end(A' M A) for one tile and one panel of channels from o on. */
static void wino_write_tile(float *out, const float *M, int64_t step, wino_place at, int64_t o, const wm_conv_end *end,
                            const wm_conv *s) {
    int64_t rows = conv_min(4, s->OH - at.y), columns = conv_min(4, s->OW - at.x);
    int64_t first = at.b * s->image + at.y * s->row + at.x * s->pixel + o;
    bool whole = rows == 4 && columns == 4 && !end->before && end->act == WM_ACT_NONE;
    for (int64_t v = 0; v < CONV_WIDE && o + v < s->O; v += WM_LANES) {
        int64_t n = conv_min(s->O - o - v, WM_LANES);
        vec p[36], bias = {0};
        if (end->bias) bias = n == WM_LANES ? vec_load(end->bias + o + v) : vec_load_part(end->bias + o + v, n);
        UNROLL for (int i = 0; i < 4; i++) UNROLL for (int j = 4; j < 8; j++)
            __builtin_prefetch(out + first + i * s->row + j * s->pixel + v, 1, 3);      /* of the tile to the right */
        wino_get(p, M + v, step);
        wino_both(p, wino_output, 6, 4);
        if (whole && n == WM_LANES) {
            UNROLL for (int i = 0; i < 4; i++) UNROLL for (int j = 0; j < 4; j++) {
                float *to = out + first + i * s->row + j * s->pixel + v;
                vec sum = p[6 * i + j] + bias;
                if (end->residual) sum += vec_load(end->residual + (to - out));
                if (end->add) sum += vec_load(to);
                vec_store(to, sum);
            }
            continue;
        }
        for (int i = 0; i < rows; i++) for (int j = 0; j < columns; j++)
            conv_finish(out, first + i * s->row + j * s->pixel + v, p[6 * i + j] + bias, n, end);
    }
}

/* ---- forward, and dx ---------------------------------------------------------------------------- */

static int64_t winograd_scratch(const wm_conv *s) {
    return WINO_POSITIONS * (wino_step_of(WINO_TILES, s->C) + wino_step_of(WINO_TILES, CONV_WIDE));
}

/* Channels from_o ... to_o of n tiles. */
static void wino_block(float *out, const float *x, const float *packed, const wm_conv_end *end, float *scratch, int64_t first,
                       int64_t n, int64_t from_o, int64_t to_o, const wm_conv *s) {
    int64_t step_V = wino_step_of(WINO_TILES, s->C), step_M = wino_step_of(WINO_TILES, CONV_WIDE);
    int64_t tiles = conv_tiles(n), chain = wino_chain(s->C);
    int64_t position = (s->O + WM_LANES - 1) / WM_LANES * WM_LANES * s->C;
    float *V = scratch, *M = scratch + WINO_POSITIONS * step_V;
    for (int64_t i = 0; i < n; i++) wino_read_tile(V + i * s->C, step_V, x, wino_at(first + i, s), s);
    for (int64_t o = from_o; o < to_o; o += CONV_WIDE) {
        int vectors = s->O - o > WM_LANES ? 2 : 1;
        for (int64_t p = 0; p < WINO_POSITIONS; p++) for (int64_t i = 0; i < tiles; i++) {
            int64_t m = conv_cut(i, n, tiles), rows = conv_cut(i + 1, n, tiles) - m;
            const float *u = packed + p * position + o * s->C;
            conv_tile((int)rows, vectors, M + p * step_M + m * CONV_WIDE, CONV_WIDE, NULL, V + p * step_V + m * s->C,
                      s->C, chain, chain, u, s->C, u + position + i * s->C * 16);
        }
        for (int64_t i = 0; i < n; i++) wino_write_tile(out, M + i * CONV_WIDE, step_M, wino_at(first + i, s), o, end, s);
    }
}

/* Blocks of tiles, as many for each thread; where the tiles are few, threads share a block's channels, so that none of
   them reads weights that another reads too. */
static void winograd_forward(float *out, const float *x, const float *packed, const wm_conv_end *end, float *scratch,
                             int64_t workers, const wm_conv *s) {
    int64_t n = s->B * ((s->OH + 3) / 4) * ((s->OW + 3) / 4), blocks = (n + WINO_TILES - 1) / WINO_TILES;
    int64_t panels = (s->O + CONV_WIDE - 1) / CONV_WIDE, shares = 1;
    int threads = conv_threads(workers, (double)(n + 4) * 36 * (double)(s->C * s->O));
    if (blocks < threads) {
        shares = conv_min(panels, (threads + blocks - 1) / blocks);
        if (blocks * shares < threads && n >= 8) blocks = conv_min((threads + shares - 1) / shares, n / 4);
    } else blocks = conv_min((blocks + threads - 1) / threads * threads, n);
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < blocks * shares; i++) {
        int64_t first = conv_cut(i / shares, n, blocks), share = i % shares;
        wino_block(out, x, packed, end, scratch + omp_get_thread_num() * winograd_scratch(s), first,
                   conv_cut(i / shares + 1, n, blocks) - first, conv_cut(share, panels, shares) * CONV_WIDE,
                   conv_min(conv_cut(share + 1, panels, shares) * CONV_WIDE, s->O), s);
    }
}

/* ---- dw ----------------------------------------------------------------------------------------- */

/* V and Z of a block of tiles, and the sums (36,O,C), whose rows are filled up to whole vectors. */
static inline int64_t wino_row(int64_t C) { return (C + 15) / 16 * 16; }
static int64_t winograd_weight_scratch(const wm_conv *s) {
    return WINO_POSITIONS * (wino_step_of(WINO_WEIGHT_TILES, s->C) + wino_step_of(WINO_WEIGHT_TILES, s->O) +
                             wino_step_of(s->O, wino_row(s->C)));
}

/* Z[position] <- A dY A' for one tile */
static void wino_read_gradient(float *Z, int64_t step, const float *dout, wino_place at, const wm_conv *s) {
    int64_t rows = conv_min(4, s->OH - at.y), columns = conv_min(4, s->OW - at.x), O = s->O;
    const float *first = dout + ((at.b * s->OH + at.y) * s->OW + at.x) * O;
    for (int64_t from = 0; from < O; from += WM_LANES) {
        int64_t o = conv_min(from, O - WM_LANES);
        vec p[36];
        for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++)
            p[6 * i + j] = i < rows && j < columns ? vec_load(first + (i * s->OW + j) * O + o) : (vec){0};
        wino_both(p, wino_gradient, 4, 6);
        wino_put(Z + o, step, p);
    }
}

/* dweight (O,3,3,C) += G' sums G */
static void wino_weight_out(float *dweight, const float *sums, int64_t step, int64_t o, int64_t C) {
    for (int64_t c = 0; c < C; c += WM_LANES) {
        vec p[36];
        wino_get(p, sums + o * wino_row(C) + c, step);
        wino_both(p, wino_weight_gradient, 6, 3);
        for (int t = 0; t < 9; t++) {
            float *to = dweight + (o * 9 + t) * C + c;
            if (C - c >= WM_LANES) vec_store(to, vec_load(to) + p[t / 3 * 6 + t % 3]);
            else vec_store_part(to, vec_load_part(to, C - c) + p[t / 3 * 6 + t % 3], C - c);
        }
    }
}

/* All threads transform a block of tiles, then each adds its share of the 36 products to the sums. */
static void winograd_weight(float *dweight, const float *dout, const float *x, float *scratch, const wm_conv *s) {
    int64_t C = s->C, O = s->O, n = s->B * ((s->OH + 3) / 4) * ((s->OW + 3) / 4);
    int64_t step_V = wino_step_of(WINO_WEIGHT_TILES, C), step_Z = wino_step_of(WINO_WEIGHT_TILES, O);
    int64_t step = wino_step_of(O, wino_row(C));
    float *V = scratch, *Z = V + WINO_POSITIONS * step_V, *sums = Z + WINO_POSITIONS * step_Z;
    int64_t down = conv_tiles(O), across = (C + CONV_WIDE - 1) / CONV_WIDE;
    #pragma omp parallel num_threads(conv_threads(wm_threads, (double)n * 36 * (double)(C * O)))
    {
        #pragma omp for schedule(static)
        for (int64_t i = 0; i < WINO_POSITIONS; i++) memset(sums + i * step, 0, (size_t)step * sizeof *sums);
        for (int64_t first = 0; first < n; first += WINO_WEIGHT_TILES) {
            int64_t count = conv_min(WINO_WEIGHT_TILES, n - first);
            #pragma omp for schedule(static)
            for (int64_t i = 0; i < count; i++) {
                wino_read_tile(V + i * C, step_V, x, wino_at(first + i, s), s);
                wino_read_gradient(Z + i * O, step_Z, dout, wino_at(first + i, s), s);
            }
            #pragma omp for schedule(static)
            for (int64_t i = 0; i < WINO_POSITIONS * down * across; i++) {
                int64_t p = i / down / across, c = i / down % across * CONV_WIDE;
                int64_t o = conv_cut(i % down, O, down), rows = conv_cut(i % down + 1, O, down) - o;
                conv_outer((int)rows, C - c > WM_LANES ? 2 : 1, sums + p * step + o * wino_row(C) + c, wino_row(C),
                           Z + p * step_Z + o, O, 0, V + p * step_V + c, C, 0, count, 1);
            }
        }
        #pragma omp for schedule(static)
        for (int64_t o = 0; o < O; o++) wino_weight_out(dweight, sums, step, o, C);
    }
}
