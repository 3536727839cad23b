/* conv_tile.h - the register tile of the convolutions: up to TILE_M rows x 2 vectors of sums, and what packs weights for it.

   Weights lie in panels of two vectors of outputs, the numbers of one input side by side: w[panel][k][2 WM_LANES];
   the last panel has one vector if that is enough, lanes past the last output are 0. */
enum { CONV_WIDE = 2 * WM_LANES };

/* Mixes two vectors as a card player does: low or high halves, lane by lane. */
#if WM_LANES == 16
#define MIX_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define MIX_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif WM_LANES == 8
#define MIX_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define MIX_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define MIX_LOW 0, 4, 1, 5
#define MIX_HIGH 2, 6, 3, 7
#endif

/* Rows become columns: as many shuffles of the whole pack as WM_LANES has bits. */
static inline void vec_transpose(vec v[WM_LANES]) {
    vec mixed[WM_LANES];
    UNROLL for (int bit = 1; bit < WM_LANES; bit *= 2) {
        UNROLL for (int i = 0; i < WM_LANES / 2; i++) {
            mixed[2 * i] = __builtin_shufflevector(v[i], v[i + WM_LANES / 2], MIX_LOW);
            mixed[2 * i + 1] = __builtin_shufflevector(v[i], v[i + WM_LANES / 2], MIX_HIGH);
        }
        UNROLL for (int i = 0; i < WM_LANES; i++) v[i] = mixed[i];
    }
}

/* n <= WM_LANES numbers from place i of a float or bf16 weight, 0 behind them. */
static inline vec conv_weight_load(const void *weight, int bf16, int64_t i, int64_t n) {
    if (!bf16) return n == WM_LANES ? vec_load((const float *)weight + i) : vec_load_part((const float *)weight + i, n);
    uint32_t lane[WM_LANES] = {0};
    const wm_bf16 *w = (const wm_bf16 *)weight + i;
    for (int64_t j = 0; j < n; j++) lane[j] = (uint32_t)w[j] << 16;
    return vec_load((const float *)(const void *)lane);
}

/* out[m][v] = start[v] + sum over k of a[m ld + k] w[k][v], one chain a run.  a is read in runs of `run` numbers that lie
   `step` apart; each run's chain starts at 0 and is then added, in order: fewer roundings pile up than in one chain.
   ahead: weights of the calls to come.  Each k fetches a line of them, two where a tile is low and few calls follow. */
static inline __attribute__((always_inline)) void conv_tile_body(int rows, int vectors, float *out, int64_t ldo, const float *start,
                                                            const float *a, int64_t ld, int64_t run, int64_t step,
                                                            const float *w, int64_t K, const float *ahead) {
    int64_t ld3 = 3 * ld;
    for (int64_t k = 0; k < K; k += run, a += step) {
        int64_t n = K - k < run ? K - k : run;
        const float *a4 = a + 4 * ld, *a8 = a + 8 * ld;
        vec sum[TILE_M][2];
        UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++)
            sum[m][v] = k || !start ? (vec){0} : vec_load(start + v * WM_LANES);
        for (int64_t j = 0; j < n; j++, w += vectors * WM_LANES, ahead += 16) {
            __builtin_prefetch(ahead, 0, 3);
            if (2 * rows <= TILE_M) __builtin_prefetch(ahead + 16 * K, 0, 3);
            vec w0 = vec_load(w), w1 = vectors > 1 ? vec_load(w + WM_LANES) : w0;
            UNROLL for (int m = 0; m < rows; m++) {
                const float *p = m < 4 ? a : m < 8 ? a4 : a8;
                float s = m % 4 == 3 ? p[j + ld3] : p[j + m % 4 * ld];
                sum[m][0] += s * w0;
                if (vectors > 1) sum[m][1] += s * w1;
            }
        }
        UNROLL for (int m = 0; m < rows; m++) UNROLL for (int v = 0; v < vectors; v++) {
            float *to = out + m * ldo + v * WM_LANES;
            vec_store(to, k ? vec_load(to) + sum[m][v] : sum[m][v]);
        }
    }
}

#define TILE_CASE(m)                                                                                             \
    case m:                                                                                                      \
        if (vectors > 1) conv_tile_body(m, 2, out, ldo, start, a, ld, run, step, w, K, ahead);                               \
        else conv_tile_body(m, 1, out, ldo, start, a, ld, run, step, w, K, ahead);                                           \
        break;
static __attribute__((noinline)) void conv_tile(int rows, int vectors, float *out, int64_t ldo, const float *start, const float *a,
                                           int64_t ld, int64_t run, int64_t step, const float *w, int64_t K,
                                           const float *ahead) {
    switch (rows) {
        TILE_CASE(1) TILE_CASE(2) TILE_CASE(3) TILE_CASE(4) TILE_CASE(5) TILE_CASE(6)
#if TILE_M >= 8
        TILE_CASE(7) TILE_CASE(8)
#endif
#if TILE_M >= 12
        TILE_CASE(9) TILE_CASE(10) TILE_CASE(11) TILE_CASE(12)
#endif
    }
}
#undef TILE_CASE

/* n rows in tiles of nearly equal height: the i-th of `tiles` starts here. */
static inline int64_t conv_tiles(int64_t n) { return (n + TILE_M - 1) / TILE_M; }
static inline int64_t conv_cut(int64_t i, int64_t n, int64_t tiles) { return i * n / tiles; }
