/* attention_tile: what attention.c multiplies with: C(r, lanes) (+)= sum_t A(r, t) B(t, lanes), A at any strides.
   Every number of C is one chain of multiply-adds over t = 0, 1, ..., whatever the grouping of rows and lanes. */

enum {
    ATTEND_ROWS = 64, ATTEND_KEYS = 64,         /* the block of scores, when D <= 128; fewer for wider heads */
    ATTEND_PANEL = 64 * 128,                /* numbers in one packed block of rows or columns */
#if WM_LANES == 16
    TILE_VECS = 4,
#else
    TILE_VECS = 2,
#endif
};
static int64_t attention_block(int64_t D) { return D <= 128 ? 64 : D <= 256 ? 32 : 16; }
static int64_t whole_vecs(int64_t n) { return (n + WM_LANES - 1) / WM_LANES * WM_LANES; }

/* One tile: rows x vecs accumulators. */
static inline __attribute__((always_inline)) void attention_tile(
    float *C, int64_t c_row, const float *A, int64_t a_row, int64_t a_step, const float *B, int64_t b_row, int64_t n,
    bool add, const int rows, const int vecs) {
    vec acc[12][TILE_VECS];      /* of fixed size, or they would live in memory */
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vecs; v++) acc[r][v] = add ? vec_load(C + r * c_row + v * WM_LANES) : (vec){0};
    for (int64_t t = 0; t < n; t++) {
        vec b[TILE_VECS];
        UNROLL for (int v = 0; v < vecs; v++) b[v] = vec_load(B + t * b_row + v * WM_LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            const float a = A[r * a_row + t * a_step];
            UNROLL for (int v = 0; v < vecs; v++) acc[r][v] += a * b[v];
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vecs; v++) vec_store(C + r * c_row + v * WM_LANES, acc[r][v]);
}

#define TILES_OF_SIX(X, v) X(1, v) X(2, v) X(3, v) X(4, v) X(5, v) X(6, v)
#define TILES_OF_TWELVE(X, v) TILES_OF_SIX(X, v) X(7, v) X(8, v) X(9, v) X(10, v) X(11, v) X(12, v)
#if WM_LANES == 16
#define ATTENTION_TILES(X) TILES_OF_TWELVE(X, 1) TILES_OF_TWELVE(X, 2) TILES_OF_SIX(X, 3) TILES_OF_SIX(X, 4)
#else
#define ATTENTION_TILES(X) TILES_OF_TWELVE(X, 1) TILES_OF_SIX(X, 2)
#endif
static int64_t rows_beside(int64_t vecs) { return vecs * 2 > TILE_VECS ? 6 : 12; }

static void attention_whole_tile(float *C, int64_t c_row, const float *A, int64_t a_row, int64_t a_step, const float *B,
                                 int64_t b_row, int64_t n, bool add, int64_t rows, int64_t vecs) {
    switch (vecs * 16 + rows) {
#define TILE_CASE(r, v) case (v) * 16 + (r): attention_tile(C, c_row, A, a_row, a_step, B, b_row, n, add, r, v); break;
        ATTENTION_TILES(TILE_CASE)
#undef TILE_CASE
    }
}

/* C(rows, cols) = or += A B over t < n; B is readable up to whole vectors of cols. */
static void attention_product(float *C, int64_t c_row, const float *A, int64_t a_row, int64_t a_step, const float *B,
                              int64_t b_row, int64_t n, int64_t rows, int64_t cols, bool add) {
    for (int64_t c = 0; c < cols; c += TILE_VECS * WM_LANES) {
        int64_t width = cols - c < TILE_VECS * WM_LANES ? cols - c : TILE_VECS * WM_LANES;
        int64_t vecs = (width + WM_LANES - 1) / WM_LANES, whole = vecs * WM_LANES, most = rows_beside(vecs);
        for (int64_t r = 0; r < rows; r += most) {
            int64_t count = rows - r < most ? rows - r : most;
            float *to = C + r * c_row + c, edge[12 * TILE_VECS * WM_LANES];
            if (width == whole) {
                attention_whole_tile(to, c_row, A + r * a_row, a_row, a_step, B + c, b_row, n, add, count, vecs);
                continue;
            }
            size_t bytes = (size_t)width * sizeof *C;
            for (int64_t i = 0; add && i < count; i++) memcpy(edge + i * whole, to + i * c_row, bytes);
            attention_whole_tile(edge, whole, A + r * a_row, a_row, a_step, B + c, b_row, n, add, count, vecs);
            for (int64_t i = 0; i < count; i++) memcpy(to + i * c_row, edge + i * whole, bytes);
        }
    }
}

/* The same, where row r takes t in [lo[r], hi[r]) only and never touches the others (law 2); ascending for each row (law 1). */
static void ranged_product(float *C, int64_t c_row, const float *A, int64_t a_row, int64_t a_step, const float *B,
                           int64_t b_row, const int32_t *lo, const int32_t *hi, int64_t rows, int64_t cols, bool add) {
    for (int64_t r = 0; r < rows; r += 6) {
        int64_t count = rows - r < 6 ? rows - r : 6, low = lo[r], high = hi[r];
        bool early = false;
        for (int64_t i = r; i < r + count; i++) {
            early |= lo[i] != lo[r];
            low = lo[i] > low ? lo[i] : low;
            high = hi[i] < high ? hi[i] : high;
        }
        high = high > low ? high : low;
        if (early) {
            if (!add) attention_product(C + r * c_row, c_row, A, 0, 0, B, 0, 0, count, cols, false);
            for (int64_t i = r; i < r + count; i++) {
                int64_t end = hi[i] < low ? hi[i] : low;
                if (lo[i] < end)
                    attention_product(C + i * c_row, c_row, A + i * a_row + lo[i] * a_step, a_row, a_step,
                                      B + lo[i] * b_row, b_row, end - lo[i], 1, cols, true);
            }
        }
        attention_product(C + r * c_row, c_row, A + r * a_row + low * a_step, a_row, a_step, B + low * b_row, b_row,
                          high - low, count, cols, add || early);
        for (int64_t i = r; i < r + count; i++) {
            int64_t from = lo[i] > high ? lo[i] : high;
            if (from < hi[i])
                attention_product(C + i * c_row, c_row, A + i * a_row + from * a_step, a_row, a_step, B + from * b_row,
                                  b_row, hi[i] - from, 1, cols, true);
        }
    }
}

/* The halves of a and b put together by a pattern that is known at compile time: one instruction. */
typedef enum { PAIRS_LOW, PAIRS_HIGH, TWOS_LOW, TWOS_HIGH, FOURS_EVEN, FOURS_ODD } weave_pattern;
static inline __attribute__((always_inline)) vec weave(vec a, vec b, const weave_pattern how) {
    ivec from;
    UNROLL for (int i = 0; i < WM_LANES; i++) {
        int four = i / 4 * 4, at = i % 4, half = i < WM_LANES / 2 ? 0 : WM_LANES, step = i % (WM_LANES / 2) / 4 * 8 + at;
        from[i] = how == PAIRS_LOW    ? four + at / 2 + at % 2 * WM_LANES
                  : how == PAIRS_HIGH ? four + 2 + at / 2 + at % 2 * WM_LANES
                  : how == TWOS_LOW   ? four + at % 2 + at / 2 * WM_LANES
                  : how == TWOS_HIGH  ? four + 2 + at % 2 + at / 2 * WM_LANES
                  : how == FOURS_EVEN ? half + step
                                      : half + 4 + step;
    }
    return __builtin_shuffle(a, b, from);
}

/* v[i][j] <-> v[j][i]: squares of four by four within every four lanes, then fours of lanes among the vectors. */
static inline __attribute__((always_inline)) void transpose_square(vec *v) {
    UNROLL for (int i = 0; i < WM_LANES; i += 4) {
        vec a = weave(v[i], v[i + 1], PAIRS_LOW), b = weave(v[i], v[i + 1], PAIRS_HIGH);
        vec c = weave(v[i + 2], v[i + 3], PAIRS_LOW), d = weave(v[i + 2], v[i + 3], PAIRS_HIGH);
        v[i] = weave(a, c, TWOS_LOW), v[i + 1] = weave(a, c, TWOS_HIGH);
        v[i + 2] = weave(b, d, TWOS_LOW), v[i + 3] = weave(b, d, TWOS_HIGH);
    }
#if WM_LANES == 8
    UNROLL for (int i = 0; i < 4; i++) {
        vec a = v[i], b = v[i + 4];
        v[i] = weave(a, b, FOURS_EVEN), v[i + 4] = weave(a, b, FOURS_ODD);
    }
#elif WM_LANES == 16
    UNROLL for (int i = 0; i < 4; i++) {
        vec a = weave(v[i], v[i + 4], FOURS_EVEN), b = weave(v[i], v[i + 4], FOURS_ODD);
        vec c = weave(v[i + 8], v[i + 12], FOURS_EVEN), d = weave(v[i + 8], v[i + 12], FOURS_ODD);
        v[i] = weave(a, c, FOURS_EVEN), v[i + 8] = weave(a, c, FOURS_ODD);
        v[i + 4] = weave(b, d, FOURS_EVEN), v[i + 12] = weave(b, d, FOURS_ODD);
    }
#endif
}

/* out(d, i) = x(i, d) for i < n, columns of out `out_row` numbers apart; lanes beyond n are 0. */
static void transpose_rows(float *out, int64_t out_row, const float *x, int64_t x_row, int64_t n, int64_t D) {
    for (int64_t i = 0; i < n; i += WM_LANES)
        for (int64_t d = 0; d < D; d += WM_LANES) {
            vec v[WM_LANES];
            int64_t rows = n - i < WM_LANES ? n - i : WM_LANES, part = D - d < WM_LANES ? D - d : WM_LANES;
            if (rows == WM_LANES && part == WM_LANES) {
                UNROLL for (int r = 0; r < WM_LANES; r++) v[r] = vec_load(x + (i + r) * x_row + d);
            } else {
                for (int64_t r = 0; r < WM_LANES; r++)
                    v[r] = r >= rows ? (vec){0} : part == WM_LANES ? vec_load(x + (i + r) * x_row + d)
                                                                   : vec_load_part(x + (i + r) * x_row + d, part);
            }
            transpose_square(v);
            if (part == WM_LANES) {
                UNROLL for (int r = 0; r < WM_LANES; r++) vec_store(out + (d + r) * out_row + i, v[r]);
            } else {
                for (int64_t r = 0; r < part; r++) vec_store(out + (d + r) * out_row + i, v[r]);
            }
        }
}

/* Rows that lie a multiple of 1 KB apart share few sets of the first cache and would push each other out. */
static bool crowded(int64_t row, int64_t n) { return n > 4 && row * sizeof(float) % 1024 == 0; }

/* Rows as B wants them: where they lie if D is whole vectors, else copied to whole vectors, padded with 0. */
static const float *whole_rows(float *packed, int64_t *row, const float *x, int64_t x_row, int64_t n, int64_t D) {
    if (D % WM_LANES == 0 && !crowded(x_row, n)) return *row = x_row, x;
    *row = whole_vecs(D);
    for (int64_t i = 0; i < n; i++) {
        memcpy(packed + i * *row, x + i * x_row, (size_t)D * sizeof *x);
        memset(packed + i * *row + D, 0, (size_t)(*row - D) * sizeof *x);
    }
    return packed;
}

typedef uint32_t attention_bits __attribute__((vector_size(4 * WM_LANES)));

/* 2^x for x of at most a few hundred; below -126 it stays at 2^-126.  NaN stays NaN.  2^x = 2^n 2^r, |r| <= 1/2. */
static inline vec vec_exp2(vec x) {
    const vec bottom = vec_set(-126.0f), magic = vec_set(12582912.0f);
    x = vec_select(x < bottom, bottom, x);
    vec shifted = x + magic, r = x - (shifted - magic);
    vec p = vec_set(1.535336188319500e-4f);
    p = p * r + 1.339887440266574e-3f;
    p = p * r + 9.618437357674640e-3f;
    p = p * r + 5.550332471162809e-2f;
    p = p * r + 2.402264791363012e-1f;
    p = p * r + 6.931472028550421e-1f;
    p = p * r + 1.0f;
    return p * (vec)(((attention_bits)shifted << 23) + 0x3f800000u);      /* unsigned: lanes beyond a row may hold anything */
}
