/* bf16: linear on numbers rounded to bfloat16 (8 bits of mantissa), sums in float32, for inference.

       v[r,n] = sum_k x[r,k] w[n,k] + b[n], then the epilogues of linear.c

   Where the processor multiplies bf16 (BF16_DOT_ASM: two products a lane at once), x is rounded too; elsewhere it
   stays float32, and weights widen in the tile.  To nearest even both; numbers below 2^-126 count as 0 there.
   A packed panel: pairs = K/2 rows, rounded up, of PANEL words: w[n,2k] the low half, w[n,2k+1] the high one.

   (1) Every sum is a chain over each block of k in order, added to b or to the block before: blocks depend on K alone,
       so no row, tile or thread changes a bit. */

typedef uint16_t hvec __attribute__((vector_size(2 * WM_LANES)));
typedef uint16_t uhvec __attribute__((vector_size(2 * WM_LANES), aligned(2), may_alias));

enum { BF16_PAIRS = 256 };      /* of k in a block at most: a panel's part stays in the first cache */

static inline int64_t pairs_of(int64_t K) { return (K + 1) / 2; }
static inline int64_t bf16_panel_words(int64_t K) { return PANEL * pairs_of(K); }

#ifdef BF16_DOT_ASM
static inline bool bf16_dots(void) { return __builtin_cpu_supports(BF16_NEEDS); }
static inline vec dot_2(vec sum, ivec a, ivec b) {
    __asm__(BF16_DOT_ASM : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}
static inline hvec bf16_lanes(vec v) {
    hvec h;
    __asm__(BF16_ROUND_ASM : "=v"(h) : "v"(v));
    return h;
}
#else
static inline bool bf16_dots(void) { return false; }
static inline vec dot_2(vec sum, ivec a, ivec b) { return sum + (vec)(a & b); }
static inline hvec bf16_lanes(vec v) { return __builtin_convertvector((ivec)v >> 16, hvec); }
#endif

/* ---- rounding ---------------------------------------------------------------------------------------------- */

static wm_bf16 bf16_number(const void *w, int bf16, int64_t i) {
    return bf16 ? ((const wm_bf16 *)w)[i] : bf16_of(((const float *)w)[i]);
}

/* The panel of out-features n ... n + width of w (..., K). */
static void bf16_pack_panel(uint32_t *panel, const void *w, int bf16, int64_t n, int64_t width, int64_t K) {
    memset(panel, 0, sizeof *panel * (size_t)bf16_panel_words(K));
    for (int64_t j = 0; j < width; j++)
        for (int64_t k = 0; k < K; k++)
            panel[k / 2 * PANEL + j] |= (uint32_t)bf16_number(w, bf16, (n + j) * K + k) << k % 2 * 16;
}

static size_t linear_bf16_bytes(int64_t N, int64_t K) { return sizeof(uint32_t) * (size_t)(gemm_panels(N) * bf16_panel_words(K)); }

static void linear_bf16_pack(void *packed, const void *w, int bf16, int64_t N, int64_t K) {
    #pragma omp parallel for num_threads(wm_threads) if (N * K > 1 << 15)
    for (int64_t p = 0; p < gemm_panels(N); p++) {
        int64_t n = p * PANEL, width = N - n < PANEL ? N - n : PANEL;
        bf16_pack_panel((uint32_t *)packed + p * bf16_panel_words(K), w, bf16, n, width, K);
    }
}

static void swiglu_bf16_pack(void *packed, const void *w, int bf16, int64_t N, int64_t K) {
    #pragma omp parallel for num_threads(wm_threads) if (N * K > 1 << 15)
    for (int64_t p = 0; p < 2 * gemm_panels(N); p++) {
        int64_t n = p / 2 * PANEL, width = N - n < PANEL ? N - n : PANEL;
        bf16_pack_panel((uint32_t *)packed + p * bf16_panel_words(K), w, bf16, n + p % 2 * N, width, K);
    }
}

/* Rows of x as the tile reads them: of pairs, or of 2 pairs_of(K) floats. */
static size_t linear_bf16_room(int64_t R, int64_t K) {
    return sizeof(uint32_t) * (size_t)(R * pairs_of(K) * (bf16_dots() ? 1 : 2)) + 64;
}

static void bf16_row(void *room, int64_t r, const float *x, int64_t K, bool dots) {
    int64_t wide = 2 * pairs_of(K);
    if (!dots) {
        float *to = (float *)room + r * wide;
        memcpy(to, x, sizeof *x * (size_t)K);
        if (wide > K) to[K] = 0;
        return;
    }
    wm_bf16 *to = (wm_bf16 *)room + r * wide;
    int64_t k = 0;
    for (; k + WM_LANES <= K; k += WM_LANES) *(uhvec *)(to + k) = bf16_lanes(vec_load(x + k));
    if (k == K) return;
    hvec last = bf16_lanes(vec_load_part(x + k, K - k));
    memcpy(to + k, &last, sizeof *to * (size_t)(wide - k));
}

/* ---- tiles ------------------------------------------------------------------------------------------------- */

/* sums (rows, PANEL) = start + x w^T over some pairs of k.  x: rows of pairs, or of floats; start in rows of step. */
static inline __attribute__((always_inline)) void bf16_tile(const int rows, const bool dots, float *sums, int64_t lds,
        const float *start, int64_t step, const uint32_t *x, int64_t x_row, const uint32_t *b, int64_t pairs,
        const char *ahead) {
    vec acc[TILE_M][TILE_N];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < TILE_N; j++) acc[i][j] = vec_set(0.0f);
    for (int64_t k = 0; k < pairs; k++, b += PANEL, ahead += 64) {
        ivec p[TILE_N];
        __builtin_prefetch(ahead, 0, 2);
        UNROLL for (int j = 0; j < TILE_N; j++) p[j] = *(const uivec *)(b + j * WM_LANES);
        if (dots) {
            UNROLL for (int i = 0; i < rows; i++) {
                ivec s = (int32_t)x[i * x_row + k] - (ivec){0};
                UNROLL for (int j = 0; j < TILE_N; j++) acc[i][j] = dot_2(acc[i][j], p[j], s);
            }
            continue;
        }
        for (int half = 0; half < 2; half++) {
            vec wide[TILE_N];
            UNROLL for (int j = 0; j < TILE_N; j++) wide[j] = (vec)(half ? p[j] & (int32_t)0xffff0000 : p[j] << 16);
            UNROLL for (int i = 0; i < rows; i++) {
                vec s = vec_set(((const float *)x)[i * x_row + 2 * k + half]);
                UNROLL for (int j = 0; j < TILE_N; j++) acc[i][j] += s * wide[j];
            }
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < TILE_N; j++)
            vec_store(sums + i * lds + j * WM_LANES, acc[i][j] + vec_load(start + i * step + j * WM_LANES));
}

typedef void bf16_tile_fn(float *sums, int64_t lds, const float *start, int64_t step, const uint32_t *x, int64_t x_row,
                          const uint32_t *b, int64_t pairs, const char *ahead);
#define TILE(name, rows, dots)                                                                                   \
    static void name##_##rows(float *sums, int64_t lds, const float *start, int64_t step, const uint32_t *x,     \
                              int64_t x_row, const uint32_t *b, int64_t pairs, const char *ahead) {              \
        bf16_tile(rows, dots, sums, lds, start, step, x, x_row, b, pairs, ahead);                                \
    }
#define TILES(rows) TILE(bf16_floats, rows, false) TILE(bf16_dots, rows, true)
#define ENTRY(rows) {bf16_floats_##rows, bf16_dots_##rows},
EACH_HEIGHT(TILES)
static bf16_tile_fn *const bf16_tiles[TILE_M + 1][2] = {{NULL}, EACH_HEIGHT(ENTRY)};
#undef TILE
#undef TILES
#undef ENTRY

typedef struct { const float *bias; const uint32_t *x; int64_t x_row; bool dots; const epilogue *next; } bf16_context;

static inline int64_t pairs_block(int64_t pairs) {
    int64_t blocks = (pairs + BF16_PAIRS - 1) / BF16_PAIRS;
    return blocks ? (pairs + blocks - 1) / blocks : 1;
}

/* One panel, or a pair, of a block of rows; then the epilogue.  The first tiles of each panel fetch the next one. */
static void bf16_panel(const gemm *g, int64_t m0, int64_t rows, int64_t n) {
    const bf16_context *c = g->context;
    float sums[GEMM_MC * PANEL] __attribute__((aligned(64))), bias[PANEL];
    int64_t panels = g->pair ? 2 : 1, lds = panels * PANEL, pairs = pairs_of(g->K), step = pairs_block(pairs);
    int64_t t = tile_count(rows), width = g->N - n < lds ? g->N - n : lds;
    for (int64_t j = 0; j < PANEL; j++) bias[j] = c->bias && !g->pair && j < width ? c->bias[n + j] : 0;
    for (int64_t k0 = 0; k0 < pairs || k0 == 0; k0 += step) {
        int64_t depth = pairs - k0 < step ? pairs - k0 : step;
        for (int64_t p = 0; p < panels; p++) {
            const uint32_t *b = (const uint32_t *)g->b + (n / PANEL + p) * bf16_panel_words(g->K) + k0 * PANEL;
            for (int64_t i = 0; i < t; i++) {
                int64_t m = tile_start(i, t, rows), height = tile_start(i + 1, t, rows) - m;
                float *to = sums + m * lds + p * PANEL;
                const char *ahead = (const char *)(b + depth * PANEL) + (i * 16 < PANEL ? i * depth * 64 : 0);
                bf16_tiles[height][c->dots](to, lds, k0 ? to : bias, k0 ? lds : 0,
                                            c->x + (m0 + m) * c->x_row + k0 * (c->dots ? 1 : 2), c->x_row, b, depth, ahead);
            }
        }
    }
    g->finish(g, sums, lds, m0, n, (int)rows, (int)width);
}

/* ---- forward ----------------------------------------------------------------------------------------------- */

static void bf16_finish(const gemm *g, float *sums, int64_t lds, int64_t m, int64_t n, int rows, int columns) {
    const bf16_context *c = g->context;
    finish_any(c->next, g->pair, sums, lds, m, n, rows, columns);
}

static void bf16_product(const epilogue *e, void *room, const float *x, const void *packed, const float *bias, bool pair,
                         int64_t R, int64_t N, int64_t K) {
    bf16_context c = {.bias = bias, .x = room, .dots = bf16_dots(), .next = e};
    c.x_row = pairs_of(K) * (c.dots ? 1 : 2);
    if (!c.dots && K % 2 == 0) c.x = (const uint32_t *)x;
    else {
        #pragma omp parallel for num_threads(wm_threads) if (R * K > 1 << 15)
        for (int64_t r = 0; r < R; r++) bf16_row(room, r, x + r * K, K, c.dots);
    }
    gemm_parallel(&(gemm){.M = R, .N = N, .K = K, .b = packed, .pair = pair, .panel = bf16_panel, .finish = bf16_finish,
                          .context = &c});
}

static void linear_bf16_forward(float *out, void *room, const float *x, const void *packed, const float *bias, int act,
                                int64_t R, int64_t N, int64_t K) {
    bf16_product(&(epilogue){.out = out, .act = act, .N = N}, room, x, packed, bias, false, R, N, K);
}

static void linear_gated_bf16_forward(float *out, void *room, const float *x, const void *packed, const float *bias,
                                      const float *gate, const float *residual, int64_t R, int64_t G, int64_t N,
                                      int64_t K) {
    epilogue e = {.out = out, .gate = gate, .residual = residual, .rows_a_gate = R / G, .N = N};
    bf16_product(&e, room, x, packed, bias, false, R, N, K);
}

static void swiglu_bf16_forward(float *out, void *room, const float *x, const void *packed, const float *bias, int64_t R,
                                int64_t N, int64_t K) {
    epilogue e = {.out = out, .bias = bias, .N = N};
    bf16_product(&e, room, x, packed, NULL, true, R, 2 * PANEL * gemm_panels(N), K);
}
