/* gemm: C = A B, one tile for every matrix product of the library.

   C (M,N), rows of ldc     A (M,K), rows of lda, or given by columns     B (K,N), in panels
   Panel p of B holds columns p PANEL ... of it, K rows of PANEL numbers one after another (0 beyond N); a tile is
   TILE_M rows x PANEL columns of C and lives in registers:

       for block of rows       as many as keep A in the second cache            } the units that
         for panel             packed once (weights), or packed here            }   threads divide
           for block of K      keeps the panel's part in the first cache
             for tile          TILE_M rows or fewer
               for k           TILE_M x TILE_N multiply-adds

   (1) Every number of C is a chain of multiply-adds over each block of k in order, added to bias, 0 or C block by block
       (which keeps long sums accurate).  The blocks depend on K alone: M, N, the tile and the threads change no bit.
       Row i alone == row i of a batch.
   (2) Nothing here allocates.  What is packed on the way lives on the stack: up to 50 KB, 150 KB more where A is
       given by columns.

   For other kernels of this folder (attention, conv):
       gemm_serial(&(gemm){.M, .N, .K, .a, .lda, .b, .ldb, .b_form, .c, .ldc, ...});    no OpenMP: call it from your own loop
       gemm_parallel(&same);                                                            divides the units among wm_threads
       b_form   GEMM_KN      b[k ldb + n]    packed here, panel by panel
                GEMM_NK      b[n ldb + k]    the same, transposing
                GEMM_PACKED  by gemm_pack_kn or gemm_pack_nk into gemm_packed_size(N, K) floats: worth it when B is used again
                GEMM_PACKED_BF16  the same number of wm_bf16
       add      C += A B instead of C = A B
       bias     (N), added to every row
       columns  A[i,k] = a[k lda + i] instead of a[i lda + k]
       finish   called with each finished panel of a block of rows instead of storing it (epilogues); pair: with two
   There is no alpha: scale what you pack or load anyway. */

enum { PANEL = TILE_N * WM_LANES };
enum { GEMM_KC = 192 };                 /* K block: long enough for the tile, short enough for exact long sums */
enum { GEMM_A_BYTES = 640 << 10 };      /* a row block of A stays in a second cache of 1 MB */
enum { GEMM_MC = 192 };                 /* rows at most in a block that is packed here, or finished by a callback */
enum { GEMM_MC_DIRECT = 1024 };         /* rows at most in a block of a product that stores directly */
enum { GEMM_ALONE = 1 << 17 };          /* multiply-adds below which one thread is faster; reading a weight counts as 4 */

typedef enum { GEMM_KN, GEMM_NK, GEMM_PACKED, GEMM_PACKED_BF16 } gemm_form;

typedef struct gemm {
    int64_t M, N, K;
    const float *a;
    int64_t lda;
    const void *b;
    int64_t ldb;
    gemm_form b_form;
    bool columns, add;
    const float *bias;      /* (N), or NULL */
    float *c;
    int64_t ldc;
    bool pair;              /* finish takes two panels side by side; packed B only, N a multiple of two panels, no bias */
    /* sums (rows, columns), rows of lds, belong to C[m.., n..] and may be changed.  NULL: stored to c. */
    void (*finish)(const struct gemm *, float *sums, int64_t lds, int64_t m, int64_t n, int rows, int columns);
    void (*panel)(const struct gemm *, int64_t m0, int64_t rows, int64_t n);   /* instead of the float tiles (int8.c) */
    const void *context;    /* for finish and panel */
} gemm;

/* ---- panels ------------------------------------------------------------------------------------------------ */

static inline int64_t gemm_panels(int64_t N) { return (N + PANEL - 1) / PANEL; }
static inline __attribute__((unused)) int64_t gemm_packed_size(int64_t N, int64_t K) { return gemm_panels(N) * PANEL * K; }

/* One panel of n <= PANEL columns: p[k,j] = b[k ldb + j] */
static void pack_panel_kn(float *p, const float *b, int64_t ldb, int64_t n, int64_t K) {
    if (n == PANEL) {
        for (int64_t k = 0; k < K; k++, p += PANEL, b += ldb)
            UNROLL for (int j = 0; j < PANEL; j += WM_LANES) vec_store(p + j, vec_load(b + j));
        return;
    }
    for (int64_t k = 0; k < K; k++, p += PANEL, b += ldb)
        for (int64_t j = 0; j < PANEL; j++) p[j] = j < n ? b[j] : 0;
}

typedef float quad __attribute__((vector_size(16)));
typedef float uquad __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t iquad __attribute__((vector_size(16)));

/* to[i][j] = from[j][i], 4 x 4 */
static inline void transpose_4(float *to, int64_t to_step, const float *from, int64_t from_step) {
    const iquad even = {0, 4, 2, 6}, odd = {1, 5, 3, 7}, low = {0, 1, 4, 5}, high = {2, 3, 6, 7};
    quad r0 = *(const uquad *)from, r1 = *(const uquad *)(from + from_step);
    quad r2 = *(const uquad *)(from + 2 * from_step), r3 = *(const uquad *)(from + 3 * from_step);
    quad a = __builtin_shuffle(r0, r1, even), b = __builtin_shuffle(r0, r1, odd);       /* 00 10 02 12 | 01 11 03 13 */
    quad c = __builtin_shuffle(r2, r3, even), d = __builtin_shuffle(r2, r3, odd);
    *(uquad *)to = __builtin_shuffle(a, c, low);
    *(uquad *)(to + to_step) = __builtin_shuffle(b, d, low);
    *(uquad *)(to + 2 * to_step) = __builtin_shuffle(a, c, high);
    *(uquad *)(to + 3 * to_step) = __builtin_shuffle(b, d, high);
}

/* The same of a transposed B: p[k,j] = b[j ldb + k].  Sixteen k at a time: a cache line is read once. */
static void pack_panel_nk(float *restrict p, const float *b, int64_t ldb, int64_t n, int64_t K) {
    if (n < PANEL) memset(p, 0, sizeof *p * (size_t)(PANEL * K));
    int64_t whole = n & ~INT64_C(3), deep = K & ~INT64_C(3);
    for (int64_t k0 = 0; k0 < deep; k0 += 16)
        for (int64_t j = 0; j < whole; j += 4)
            for (int64_t k = k0; k < k0 + 16 && k < deep; k += 4)
                transpose_4(p + k * PANEL + j, PANEL, b + j * ldb + k, ldb);
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = j < whole ? deep : 0; k < K; k++) p[k * PANEL + j] = b[j * ldb + k];
}

static __attribute__((unused)) void gemm_pack_kn(float *packed, const float *b, int64_t ldb, int64_t N, int64_t K) {
    for (int64_t n = 0; n < N; n += PANEL)
        pack_panel_kn(packed + n * K, b + n, ldb, N - n < PANEL ? N - n : PANEL, K);
}
static __attribute__((unused)) void gemm_pack_nk(float *packed, const float *b, int64_t ldb, int64_t N, int64_t K) {
    for (int64_t n = 0; n < N; n += PANEL)
        pack_panel_nk(packed + n * K, b + n * ldb, ldb, N - n < PANEL ? N - n : PANEL, K);
}

/* A bf16 panel from weights w (N,K): columns j and j + WM_LANES of a pair of vectors are the low and the high half
   of one 32-bit lane, so that a shift and a mask widen both. */
static __attribute__((unused)) void pack_panel_bf16(wm_bf16 *p, const wm_bf16 *w, int64_t n, int64_t K) {
    for (int64_t k = 0; k < K; k++)
        for (int64_t j = 0; j < PANEL; j++) {
            int64_t pair = j / (2 * WM_LANES), lane = j % WM_LANES, high = j / WM_LANES % 2;
            p[k * PANEL + pair * 2 * WM_LANES + 2 * lane + high] = j < n ? w[j * K + k] : 0;
        }
}

/* ---- the tile ---------------------------------------------------------------------------------------------- */

typedef struct { vec v[TILE_N]; } row_of_b;

static inline __attribute__((always_inline)) row_of_b load_b(const void *b, int64_t k, bool bf16) {
    row_of_b r;
    if (bf16) {
        UNROLL for (int j = 0; j < TILE_N; j += 2) {
            ivec pair = *(const uivec *)((const wm_bf16 *)b + k * PANEL + j * WM_LANES);
            r.v[j] = (vec)(pair << 16);
            r.v[j + 1] = (vec)(pair & (int32_t)0xffff0000);
        }
    } else {
        UNROLL for (int j = 0; j < TILE_N; j++) r.v[j] = vec_load((const float *)b + k * PANEL + j * WM_LANES);
    }
    return r;
}

/* c (rows, PANEL) = start + A B over K.  start is read in rows of start_step: c itself, a row of bias, or zeros.
   A line of what comes next is fetched into the second cache each k, and c at once if it is read. */
static inline __attribute__((always_inline)) void tile(const int rows, const bool columns, const bool bf16, float *c,
        int64_t ldc, const float *start, int64_t start_step, const float *a, int64_t lda, const void *b, int64_t K,
        const char *ahead, int64_t ahead_step) {
    vec acc[TILE_M][TILE_N];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < TILE_N; j++) acc[i][j] = vec_set(0.0f);
    if (start == c)
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int j = 0; j < PANEL; j += 16) __builtin_prefetch(c + i * ldc + j, 1, 3);
    for (int64_t k = 0; k < K; k++, ahead += ahead_step) {
        __builtin_prefetch(ahead, 0, 2);
        row_of_b r = load_b(b, k, bf16);
        UNROLL for (int i = 0; i < rows; i++) {
            vec s = vec_set(columns ? a[k * lda + i] : a[i * lda + k]);
            UNROLL for (int j = 0; j < TILE_N; j++) acc[i][j] += s * r.v[j];
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < TILE_N; j++)
            vec_store(c + i * ldc + j * WM_LANES, acc[i][j] + vec_load(start + i * start_step + j * WM_LANES));
}

typedef void tile_fn(float *c, int64_t ldc, const float *start, int64_t start_step, const float *a, int64_t lda,
                     const void *b, int64_t K, const char *ahead, int64_t ahead_step);
#define TILE(name, rows, columns, bf16)                                                                          \
    static void name##_##rows(float *c, int64_t ldc, const float *start, int64_t start_step, const float *a,        \
                            int64_t lda, const void *b, int64_t K, const char *ahead, int64_t ahead_step) {     \
        tile(rows, columns, bf16, c, ldc, start, start_step, a, lda, b, K, ahead, ahead_step);                  \
    }
#define TILES(rows) TILE(tile_rows, rows, false, false) TILE(tile_columns, rows, true, false) TILE(tile_bf16, rows, false, true)
#define ENTRY(rows) {tile_rows_##rows, tile_columns_##rows, tile_bf16_##rows},
#if TILE_M == 12
#define EACH_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#elif TILE_M == 8
#define EACH_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#else
#define EACH_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#endif
EACH_HEIGHT(TILES)
static tile_fn *const tiles[TILE_M + 1][3] = {{NULL}, EACH_HEIGHT(ENTRY)};
#undef TILE
#undef TILES
#undef ENTRY

/* ---- blocks ------------------------------------------------------------------------------------------------ */

static const float zeros[PANEL];

/* Rows of tile i of t in a block of M rows: as even as can be, so that no tile is a thin one. */
static inline int64_t tile_start(int64_t i, int64_t t, int64_t M) { return M * i / t; }
static inline int64_t tile_count(int64_t M) { return (M + TILE_M - 1) / TILE_M; }

/* What to fetch while tiles run: tile i of them takes line i of each row, one a k. */
typedef struct { const void *at; int64_t tile_step, k_step, lines; } fetch;
typedef struct { fetch b, a; } fetches;

static fetch next_of_b(const gemm *g, const void *part, int64_t n, int64_t k0, int64_t K) {
    enum { LINES = (PANEL * 4 + 63) / 64 };
    if (g->b_form == GEMM_PACKED) return (fetch){(const float *)part + K * PANEL, K * 64, 64, LINES};
    if (g->b_form == GEMM_PACKED_BF16) return (fetch){(const wm_bf16 *)part + K * PANEL, K * 64, 64, (LINES + 1) / 2};
    if (g->b_form == GEMM_NK) return (fetch){0};
    bool deeper = k0 + K < g->K && !g->columns;             /* the next block of this panel, or the next panel */
    return (fetch){(const float *)g->b + (deeper ? (k0 + K) * g->ldb + n : k0 * g->ldb + n + PANEL), 64, g->ldb * 4, LINES};
}

/* One panel, one block of K, some rows: into to (rows of ldt), started from start. */
static void run_tiles(const gemm *g, float *to, int64_t ldt, const float *start, int64_t start_step, const float *a,
                      const void *b, int64_t k0, int64_t K, int64_t rows, const fetches *next) {
    int kind = g->columns ? 1 : g->b_form == GEMM_PACKED_BF16 ? 2 : 0;
    for (int64_t i = 0, t = tile_count(rows); i < t; i++) {
        int64_t m = tile_start(i, t, rows), height = tile_start(i + 1, t, rows) - m;
        const float *from = g->columns ? a + m * K : a + m * g->lda + k0;
        const char *ahead = b;
        int64_t ahead_step = 0;
        if (i < next->b.lines) ahead = (const char *)next->b.at + i * next->b.tile_step, ahead_step = next->b.k_step;
        else if (i - next->b.lines < next->a.lines)
            ahead = (const char *)next->a.at + (i - next->b.lines) * next->a.tile_step, ahead_step = next->a.k_step;
        tiles[height][kind](to + m * ldt, ldt, start + m * start_step, start_step, from, g->columns ? height : g->lda, b,
                            K, ahead, ahead_step);
    }
}

/* A block of a transposed A, tile by tile: p[tile][k][height].  One row of A after the other, since rows may be far
   apart.  Whole vectors are copied where the row goes on; what they write too much the next k writes again. */
static void pack_columns(const gemm *g, float *p, int64_t m0, int64_t rows, int64_t k0, int64_t K) {
    int64_t t = tile_count(rows), ends[GEMM_MC / TILE_M + 1];
    for (int64_t i = 0; i < t; i++) ends[i] = tile_start(i + 1, t, rows);
    for (int64_t k = 0; k < K; k++) {
        const float *from = g->a + (k0 + k) * g->lda + m0;
        for (int64_t i = 0, m = 0; i < t; m = ends[i++]) {
            int64_t height = ends[i] - m;
            float *to = p + m * K + k * height;
            if (k + 1 < K && height <= 2 * WM_LANES && m0 + m + 2 * WM_LANES <= g->M) {
                vec_store(to, vec_load(from + m));
                if (height > WM_LANES) vec_store(to + WM_LANES, vec_load(from + m + WM_LANES));
            } else {
                for (int64_t r = 0; r < height; r++) to[r] = from[m + r];
            }
        }
    }
}

/* The part of panel n ... that holds rows k0 ... of B, packed now if it is not yet. */
static const void *panel_part(const gemm *g, float *room, int64_t n, int64_t width, int64_t k0, int64_t K) {
    switch (g->b_form) {
    case GEMM_PACKED: return (const float *)g->b + n * g->K + k0 * PANEL;
    case GEMM_PACKED_BF16: return (const wm_bf16 *)g->b + n * g->K + k0 * PANEL;
    case GEMM_KN: pack_panel_kn(room, (const float *)g->b + k0 * g->ldb + n, g->ldb, width, K); return room;
    default: pack_panel_nk(room, (const float *)g->b + n * g->ldb + k0, g->ldb, width, K); return room;
    }
}

static inline int64_t k_block(int64_t K) {   /* even blocks, so that none is a short one */
    int64_t blocks = (K + GEMM_KC - 1) / GEMM_KC;
    return blocks ? (K + blocks - 1) / blocks : 1;
}

/* Where the sums of some rows and one panel start: c, a row of bias, or zeros. */
typedef struct { const float *from; int64_t step; } beginning;

static beginning begin(const gemm *g, float *sums, float *first, int64_t m0, int64_t rows, int64_t n, int64_t width) {
    if (g->add) {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < PANEL; j++) sums[i * PANEL + j] = j < width ? g->c[(m0 + i) * g->ldc + n + j] : 0;
        return (beginning){sums, PANEL};
    }
    if (!g->bias) return (beginning){zeros, 0};
    for (int64_t j = 0; j < PANEL; j++) first[j] = j < width ? g->bias[n + j] : 0;
    return (beginning){first, 0};
}

/* Rows m0 ... m0+rows of a whole panel, stored directly; partial sums stay in c. */
static void panel_direct(const gemm *g, int64_t m0, int64_t rows, int64_t n) {
    float room[GEMM_KC * PANEL] __attribute__((aligned(64)));
    float *to = g->c + m0 * g->ldc + n;
    int64_t step = k_block(g->K);
    beginning at = g->add ? (beginning){to, g->ldc} : (beginning){g->bias ? g->bias + n : zeros, 0};
    for (int64_t k0 = 0; k0 < g->K || k0 == 0; k0 += step) {
        int64_t depth = g->K - k0 < step ? g->K - k0 : step;
        const void *b = panel_part(g, room, n, PANEL, k0, depth);
        fetches next = {.b = next_of_b(g, b, n, k0, depth)};
        run_tiles(g, to, g->ldc, at.from, at.step, g->a + m0 * g->lda, b, k0, depth, rows, &next);
        at = (beginning){to, g->ldc};
    }
}

/* The same for a panel that is cut short, or finished elsewhere: the sums stay in a block of their own.  A pair of
   panels is finished together, side by side. */
static void panel_aside(const gemm *g, int64_t m0, int64_t rows, int64_t n) {
    float room[GEMM_KC * PANEL] __attribute__((aligned(64)));
    float sums[GEMM_MC * PANEL] __attribute__((aligned(64))), first[PANEL];
    int64_t step = k_block(g->K), panels = g->pair ? 2 : 1, lds = panels * PANEL;
    int64_t width = g->N - n < lds ? g->N - n : lds;
    beginning at = g->pair ? (beginning){zeros, 0} : begin(g, sums, first, m0, rows, n, width);
    for (int64_t p = 0; p < panels; p++) {                  /* one after the other, as they lie: each fetches the next */
        float *to = sums + p * PANEL;
        for (int64_t k0 = 0; k0 < g->K || k0 == 0; k0 += step) {
            int64_t depth = g->K - k0 < step ? g->K - k0 : step;
            const void *b = panel_part(g, room, n + p * PANEL, g->pair ? PANEL : width, k0, depth);
            fetches next = {.b = next_of_b(g, b, n + p * PANEL, k0, depth)};
            run_tiles(g, to, lds, k0 ? to : at.from, k0 ? lds : at.step, g->a + m0 * g->lda, b, k0, depth, rows, &next);
        }
    }
    if (g->finish) g->finish(g, sums, lds, m0, n, (int)rows, (int)width);
    else
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < width; j++) g->c[(m0 + i) * g->ldc + n + j] = sums[i * lds + j];
}

/* A given by columns: a block of it is packed, then meets panels p0 ... p1; sums stay in c. */
static void columns_of_rows(const gemm *g, int64_t m0, int64_t rows, int64_t p0, int64_t p1) {
    float packed[GEMM_MC * GEMM_KC + PANEL] __attribute__((aligned(64)));
    float room[GEMM_KC * PANEL] __attribute__((aligned(64))), sums[TILE_M * PANEL];
    int64_t step = k_block(g->K);
    for (int64_t k0 = 0; k0 < g->K || k0 == 0; k0 += step) {
        int64_t depth = g->K - k0 < step ? g->K - k0 : step;
        pack_columns(g, packed, m0, rows, k0, depth);
        for (int64_t n = p0 * PANEL; n < p1 * PANEL && n < g->N; n += PANEL) {
            int64_t width = g->N - n < PANEL ? g->N - n : PANEL;
            const void *b = panel_part(g, room, n, width, k0, depth);
            float *to = g->c + m0 * g->ldc + n;
            bool fresh = !g->add && k0 == 0;
            if (width == PANEL) {
                fetches next = {.b = next_of_b(g, b, n, k0, depth)};
                if (n == p0 * PANEL && k0 + depth < g->K)
                    next.a = (fetch){g->a + (k0 + depth) * g->lda + m0, 64, g->lda * 4, (rows + 15) / 16 + 1};
                run_tiles(g, to, g->ldc, fresh ? zeros : to, fresh ? 0 : g->ldc, packed, b, 0, depth, rows, &next);
                continue;
            }
            for (int64_t i = 0, t = tile_count(rows); i < t; i++) {
                int64_t m = tile_start(i, t, rows), height = tile_start(i + 1, t, rows) - m;
                for (int64_t r = 0; r < height; r++)
                    for (int64_t j = 0; j < PANEL; j++)
                        sums[r * PANEL + j] = j < width && !fresh ? to[(m + r) * g->ldc + j] : 0;
                tiles[height][1](sums, PANEL, sums, PANEL, packed + m * depth, height, b, depth, b, 0);
                for (int64_t r = 0; r < height; r++)
                    for (int64_t j = 0; j < width; j++) to[(m + r) * g->ldc + j] = sums[r * PANEL + j];
            }
        }
    }
}

/* ---- dividing ---------------------------------------------------------------------------------------------- */

/* Rows of a block: A stays in the second cache, and sums on the stack.  Blocks are as even as can be. */
static int64_t row_blocks(const gemm *g) {
    int64_t most = g->columns || g->finish || g->panel || g->N % PANEL ? GEMM_MC : GEMM_MC_DIRECT, fit = most;
    if (g->pair) most /= 2;
    if (!g->columns && g->K) fit = GEMM_A_BYTES / 4 / g->K / TILE_M * TILE_M;
    if (fit < 4 * TILE_M) fit = 4 * TILE_M;
    if (fit > most) fit = most;
    return (g->M + fit - 1) / fit;
}

static inline int64_t units_across(const gemm *g) { return gemm_panels(g->N) / (g->pair ? 2 : 1); }

/* Units first ... last of (row block, panel or pair), row blocks outside. */
static void run_units(const gemm *g, int64_t blocks, int64_t first, int64_t last) {
    int64_t across = units_across(g), width = g->pair ? 2 * PANEL : PANEL;
    while (first < last) {
        int64_t block = first / across, p = first % across, end = p + last - first;
        int64_t m0 = g->M * block / blocks, rows = g->M * (block + 1) / blocks - m0;
        if (end > across) end = across;
        if (g->columns) columns_of_rows(g, m0, rows, p, end);
        else
            for (int64_t n = p * width; n < end * width; n += width)
                if (g->panel) g->panel(g, m0, rows, n);
                else if (g->finish || g->N - n < width) panel_aside(g, m0, rows, n);
                else panel_direct(g, m0, rows, n);
        first += end - p;
    }
}

static __attribute__((unused)) void gemm_serial(const gemm *g) {
    int64_t blocks = row_blocks(g);
    run_units(g, blocks, 0, blocks * units_across(g));
}

/* Each thread has its share of the units, in pieces, and helps with the others' when it is done: a core that is busy
   elsewhere does not hold up the rest. */
static __attribute__((unused)) void gemm_parallel(const gemm *g) {
    enum { PIECES = 8, THREADS = 64 };
    int64_t blocks = row_blocks(g), units = blocks * units_across(g), threads = wm_threads < THREADS ? wm_threads : THREADS;
    if (threads > units) threads = units;
    if (threads < 2 || (g->M + 4) * g->N * g->K < GEMM_ALONE) {
        run_units(g, blocks, 0, units);
        return;
    }
    int64_t pieces = units / threads / (g->columns ? units_across(g) : 1);      /* columns: whole row blocks, packed once */
    if (pieces < 1) pieces = 1;
    if (pieces > PIECES) pieces = PIECES;
    struct { int64_t next; char line[56]; } share[THREADS] = {0};
    #pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t t = 0; t < threads; t++)
        for (int64_t i = 0; i < threads; i++) {
            int64_t owner = (t + i) % threads, p;
            int64_t first = units * owner / threads, count = units * (owner + 1) / threads - first;
            while ((p = __atomic_fetch_add(&share[owner].next, 1, __ATOMIC_RELAXED)) < pieces)
                run_units(g, blocks, first + count * p / pieces, first + count * (p + 1) / pieces);
        }
}
