/* int8: linear on whole numbers, for inference.

   w[n,k] ~ scale_w[n] q[n,k], x[r,k] ~ scale_x[r] p[r,k], q and p whole numbers from -127 to 127, scale = max | | / 127:
       v[r,n] = scale_x[r] scale_w[n] sum_k p[r,k] q[n,k] + b[n], then the epilogues of linear.c

   The sum is exact in int32 where the processor multiplies bytes (DOT_ASM: unsigned p + 128, so 128 sum_k q is taken off
   again); elsewhere the same whole numbers are multiplied as floats, exact up to 2^24.
   A packed panel: K4 = K/4 rows, rounded up, of PANEL x 4 bytes; PANEL scales; PANEL numbers 128 sum_k q. */

typedef uint8_t bvec __attribute__((vector_size(WM_LANES)));
typedef uint8_t ubvec __attribute__((vector_size(WM_LANES), aligned(1), may_alias));

static inline int64_t fours(int64_t K) { return (K + 3) / 4; }
static inline int64_t int8_panel_bytes(int64_t K) { return PANEL * (4 * fours(K) + 8); }

#ifdef DOT_ASM
static inline bool int8_dots(void) { return __builtin_cpu_supports(DOT_NEEDS); }
static inline ivec dot_4(ivec sum, ivec a, ivec b) {
    __asm__(DOT_ASM : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}
#else
static inline bool int8_dots(void) { return false; }
static inline ivec dot_4(ivec sum, ivec a, ivec b) { return sum + 0 * a * b; }
#endif

/* ---- rounding ---------------------------------------------------------------------------------------------- */

static float weight_at(const void *w, int bf16, int64_t i) {
    return bf16 ? float_of(((const wm_bf16 *)w)[i]) : ((const float *)w)[i];
}

/* One out-feature: its bytes into column j of a panel, its scale and its sum. */
static void int8_pack_row(int8_t *panel, int64_t j, const void *w, int bf16, int64_t first, int64_t K) {
    float *scale = (float *)(panel + PANEL * 4 * fours(K)), top = 0;
    int32_t *offset = (int32_t *)(scale + PANEL), sum = 0;
    for (int64_t k = 0; k < K; k++) top = fmaxf(top, fabsf(weight_at(w, bf16, first + k)));
    float by = top > 0 ? 127 / top : 0;
    for (int64_t k = 0; k < K; k++) {
        int q = (int)lrintf(weight_at(w, bf16, first + k) * by);
        panel[k / 4 * PANEL * 4 + j * 4 + k % 4] = (int8_t)q, sum += q;
    }
    scale[j] = top / 127, offset[j] = 128 * sum;
}

static void int8_pack_panel(int8_t *panel, const void *w, int bf16, int64_t n, int64_t width, int64_t K) {
    memset(panel, 0, (size_t)int8_panel_bytes(K));
    for (int64_t j = 0; j < width; j++) int8_pack_row(panel, j, w, bf16, (n + j) * K, K);
}

static size_t linear_int8_bytes(int64_t N, int64_t K) { return (size_t)(gemm_panels(N) * int8_panel_bytes(K)); }

static void linear_int8_pack(void *packed, const void *w, int bf16, int64_t N, int64_t K) {
    #pragma omp parallel for num_threads(wm_threads) if (N * K > 1 << 15)
    for (int64_t n = 0; n < N; n += PANEL)
        int8_pack_panel((int8_t *)packed + n / PANEL * int8_panel_bytes(K), w, bf16, n, N - n < PANEL ? N - n : PANEL, K);
}

static void swiglu_int8_pack(void *packed, const void *w, int bf16, int64_t N, int64_t K) {
    #pragma omp parallel for num_threads(wm_threads) if (N * K > 1 << 15)
    for (int64_t p = 0; p < 2 * gemm_panels(N); p++) {
        int64_t n = p / 2 * PANEL, width = N - n < PANEL ? N - n : PANEL;
        int8_pack_panel((int8_t *)packed + p * int8_panel_bytes(K), w, bf16, n + p % 2 * N, width, K);
    }
}

/* Rows of x as whole numbers: bytes p + 128, or floats p; 4 fours(K) of them, the last ones p = 0.  Then the scales. */
typedef struct { uint8_t *bytes; float *numbers, *scales; } int8_rows;

static int8_rows int8_rows_in(void *room, int64_t R, int64_t K) {
    int64_t size = R * 4 * fours(K) * (int8_dots() ? 1 : 4);
    return (int8_rows){room, room, (float *)((char *)room + size)};
}
static size_t linear_int8_room(int64_t R, int64_t K) {
    return (size_t)(R * 4 * fours(K) * (int8_dots() ? 1 : 4) + 4 * R) + 64;
}

static void int8_round_row(int8_rows to, int64_t r, const float *x, int64_t K, bool dots) {
    int64_t wide = 4 * fours(K), k = 0;
    const vec magic = vec_set(12582912.0f);
    vec top = vec_set(0.0f);
    for (k = 0; k + WM_LANES <= K; k += WM_LANES) top = vec_max(top, vec_abs(vec_load(x + k)));
    if (k < K) top = vec_max(top, vec_abs(vec_load_part(x + k, K - k)));
    float most = vec_top(top), by = most > 0 ? 127 / most : 0;
    to.scales[r] = most / 127;
    for (k = 0; k < wide; k += WM_LANES) {
        int64_t left = K - k, room = wide - k;
        vec v = left >= WM_LANES ? vec_load(x + k) : left > 0 ? vec_load_part(x + k, left) : vec_set(0.0f);
        vec p = (v * by + magic) - magic;
        if (!dots) {
            store_left(to.numbers + r * wide + k, p, room);
            continue;
        }
        bvec bytes = __builtin_convertvector(__builtin_convertvector(p + 128.0f, ivec), bvec);
        if (room >= WM_LANES) *(ubvec *)(to.bytes + r * wide + k) = bytes;
        else memcpy(to.bytes + r * wide + k, &bytes, (size_t)room);
    }
}

/* ---- tiles ------------------------------------------------------------------------------------------------- */

typedef struct { const float *bias; int8_rows x; const epilogue *next; } int8_context;

/* sums (rows, PANEL), rows of lds = scale_x scale_w (sum p q) + bias.  a: the tile's rows of bytes, or of floats. */
static inline __attribute__((always_inline)) void int8_tile(const int rows, const bool dots, float *sums, int64_t lds,
        const void *a, const float *scale_x, const int8_t *panel, const float *bias, int64_t K4) {
    const float *scale = (const float *)(panel + PANEL * 4 * K4);
    const int32_t *offset = (const int32_t *)(scale + PANEL);
    ivec whole[TILE_M][TILE_N];
    vec acc[TILE_M][TILE_N];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < TILE_N; j++) whole[i][j] = (ivec){0}, acc[i][j] = vec_set(0.0f);
    for (int64_t k = 0; k < K4; k++, panel += 4 * PANEL) {
        ivec b[TILE_N];
        UNROLL for (int j = 0; j < TILE_N; j++) b[j] = *(const uivec *)(panel + j * 4 * WM_LANES);
        if (dots) {
            __builtin_prefetch(panel + 4 * PANEL * K4 + 8 * PANEL, 0, 2);
            __builtin_prefetch(panel + 4 * PANEL * K4 + 10 * PANEL, 0, 2);
            UNROLL for (int i = 0; i < rows; i++) {
                ivec s = *(const int32_t *)((const uint8_t *)a + 4 * (i * K4 + k)) - (ivec){0};
                UNROLL for (int j = 0; j < TILE_N; j++) whole[i][j] = dot_4(whole[i][j], s, b[j]);
            }
            continue;
        }
        for (int q = 0; q < 4; q++) {
            vec wide[TILE_N];
            UNROLL for (int j = 0; j < TILE_N; j++) wide[j] = __builtin_convertvector((b[j] << (24 - 8 * q)) >> 24, vec);
            UNROLL for (int i = 0; i < rows; i++) {
                vec s = vec_set(((const float *)a)[4 * (i * K4 + k) + q]);
                UNROLL for (int j = 0; j < TILE_N; j++) acc[i][j] += s * wide[j];
            }
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < TILE_N; j++) {
            int at = j * WM_LANES;
            vec v = dots ? __builtin_convertvector(whole[i][j] - *(const uivec *)(offset + at), vec) : acc[i][j];
            v = v * (scale_x[i] * vec_load(scale + at)) + vec_load(bias + at);
            vec_store(sums + i * lds + at, v);
        }
}

typedef void int8_tile_fn(float *sums, int64_t lds, const void *a, const float *scale_x, const int8_t *panel,
                          const float *bias, int64_t K4);
#define TILES(rows)                                                                                              \
    static void int8_dots_##rows(float *sums, int64_t lds, const void *a, const float *scale_x, const int8_t *panel, \
                                 const float *bias, int64_t K4) {                                                \
        int8_tile(rows, true, sums, lds, a, scale_x, panel, bias, K4);                                           \
    }                                                                                                            \
    static void int8_floats_##rows(float *sums, int64_t lds, const void *a, const float *scale_x,                \
                                   const int8_t *panel, const float *bias, int64_t K4) {                         \
        int8_tile(rows, false, sums, lds, a, scale_x, panel, bias, K4);                                          \
    }
#define ENTRY(rows) {int8_floats_##rows, int8_dots_##rows},
EACH_HEIGHT(TILES)
static int8_tile_fn *const int8_tiles[TILE_M + 1][2] = {{NULL}, EACH_HEIGHT(ENTRY)};
#undef TILES
#undef ENTRY

/* One panel, or a pair, of a block of rows; then the epilogue. */
static void int8_panel(const gemm *g, int64_t m0, int64_t rows, int64_t n) {
    const int8_context *c = g->context;
    float sums[GEMM_MC * PANEL] __attribute__((aligned(64))), bias[PANEL];
    int64_t panels = g->pair ? 2 : 1, lds = panels * PANEL, K4 = fours(g->K), t = tile_count(rows);
    int64_t width = g->N - n < lds ? g->N - n : lds;
    bool dots = int8_dots();
    for (int64_t j = 0; j < PANEL; j++) bias[j] = c->bias && !g->pair && j < width ? c->bias[n + j] : 0;
    for (int64_t p = 0; p < panels; p++) {
        const int8_t *panel = (const int8_t *)g->b + (n / PANEL + p) * int8_panel_bytes(g->K);
        for (int64_t i = 0; i < t; i++) {
            int64_t m = tile_start(i, t, rows), height = tile_start(i + 1, t, rows) - m;
            const void *a = dots ? (const void *)(c->x.bytes + (m0 + m) * 4 * K4) : c->x.numbers + (m0 + m) * 4 * K4;
            int8_tiles[height][dots](sums + m * lds + p * PANEL, lds, a, c->x.scales + m0 + m, panel, bias, K4);
        }
    }
    g->finish(g, sums, lds, m0, n, (int)rows, (int)width);
}

/* ---- forward ----------------------------------------------------------------------------------------------- */

static void int8_finish(const gemm *g, float *sums, int64_t lds, int64_t m, int64_t n, int rows, int columns) {
    const int8_context *c = g->context;
    finish_any(c->next, g->pair, sums, lds, m, n, rows, columns);
}

static void int8_product(const epilogue *e, void *room, const float *x, const void *packed, const float *bias, bool pair,
                         int64_t R, int64_t N, int64_t K) {
    int8_context c = {.bias = bias, .x = int8_rows_in(room, R, K), .next = e};
    bool dots = int8_dots();
    #pragma omp parallel for num_threads(wm_threads) if (R * K > 1 << 15)
    for (int64_t r = 0; r < R; r++) int8_round_row(c.x, r, x + r * K, K, dots);
    gemm_parallel(&(gemm){.M = R, .N = N, .K = K, .b = packed, .pair = pair, .panel = int8_panel, .finish = int8_finish,
                          .context = &c});
}

static void linear_int8_forward(float *out, void *room, const float *x, const void *packed, const float *bias, int act,
                                int64_t R, int64_t N, int64_t K) {
    int8_product(&(epilogue){.out = out, .act = act, .N = N}, room, x, packed, bias, false, R, N, K);
}

static void linear_gated_int8_forward(float *out, void *room, const float *x, const void *packed, const float *bias,
                                      const float *gate, const float *residual, int64_t R, int64_t G, int64_t N,
                                      int64_t K) {
    epilogue e = {.out = out, .gate = gate, .residual = residual, .rows_a_gate = R / G, .N = N};
    int8_product(&e, room, x, packed, bias, false, R, N, K);
}

static void swiglu_int8_forward(float *out, void *room, const float *x, const void *packed, const float *bias, int64_t R,
                                int64_t N, int64_t K) {
    epilogue e = {.out = out, .bias = bias, .N = N};
    int8_product(&e, room, x, packed, NULL, true, R, 2 * PANEL * gemm_panels(N), K);
}
