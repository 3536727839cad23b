/* reduce: sums, extremes, variances and scans along the middle axis of x (A,R,B).
   Sums are pairwise: halves of halves down to a few rows, so that the error grows with log R.  How a sum is cut depends
   on R, and on whether B is 1, never on threads or A: the same slab gives the same bits in any batch in front of it. */

enum {
    SUM_LEAF = 16,          /* rows that are added one after the other */
    SUM_COLUMNS = 256,      /* columns that are summed together */
    SUM_PARTS = 16,         /* parts of a column that threads may share */
    SUM_PIECES = 1024,      /* pieces of a row that threads may share */
    SUM_PIECE = 8192,       /* numbers in a piece at least */
    REDUCE_GRAIN = 1 << 15,
};

/* ---- sums along contiguous numbers: of x, or of (x - mean)^2 ---- */

static inline vec sum_term(vec x, const float *mean) {
    if (!mean) return x;
    x -= *mean;
    return x * x;
}

static float sum_flat(const float *x, const float *mean, int64_t n) {
    if (n > 32 * WM_LANES) {
        const int64_t half = (n / 2 + WM_LANES - 1) / WM_LANES * WM_LANES;
        return sum_flat(x, mean, half) + sum_flat(x + half, mean, n - half);
    }
    vec s[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * WM_LANES <= n; i += 4 * WM_LANES)
        UNROLL for (int j = 0; j < 4; j++) s[j] += sum_term(vec_load(x + i + j * WM_LANES), mean);
    for (; i + WM_LANES <= n; i += WM_LANES) s[0] += sum_term(vec_load(x + i), mean);
    float rest = 0;
    for (; i < n; i++) rest += mean ? (x[i] - *mean) * (x[i] - *mean) : x[i];
    return vec_sum((s[0] + s[1]) + (s[2] + s[3])) + rest;
}

/* One row of R numbers, in pieces that threads may share when rows are few. */
static float sum_row(const float *x, const float *mean, int64_t R, bool share) {
    if (R <= SUM_PIECE) return sum_flat(x, mean, R);
    int64_t piece = (R + SUM_PIECES - 1) / SUM_PIECES;
    piece = piece < SUM_PIECE ? SUM_PIECE : (piece + WM_LANES - 1) / WM_LANES * WM_LANES;
    const int64_t pieces = (R + piece - 1) / piece;
    float part[SUM_PIECES];
    #pragma omp parallel for num_threads(wm_threads) if (share && R > REDUCE_GRAIN)
    for (int64_t i = 0; i < pieces; i++)
        part[i] = sum_flat(x + i * piece, mean, i + 1 < pieces ? piece : R - i * piece);
    return sum_flat(part, NULL, pieces);
}

/* ---- sums of rows, column by column: out[cols] = sum over r of x[r * stride + column] ---- */

static void sum_leaf(float *out, const float *x, const float *mean, int64_t rows, int64_t stride, int64_t cols) {
    int64_t c = 0;
    for (; c + WM_LANES <= cols; c += WM_LANES) {
        const vec m = mean ? vec_load(mean + c) : (vec){0};
        vec s[2] = {{0}};
        for (int64_t r = 0; r < rows; r++) {
            vec v = vec_load(x + r * stride + c) - m;
            s[r & 1] += mean ? v * v : v;
        }
        vec_store(out + c, s[0] + s[1]);
    }
    for (; c < cols; c++) {
        const float m = mean ? mean[c] : 0.0f;
        float s[2] = {0};
        for (int64_t r = 0; r < rows; r++) {
            const float v = x[r * stride + c] - m;
            s[r & 1] += mean ? v * v : v;
        }
        out[c] = s[0] + s[1];
    }
}

static void sum_columns(float *out, const float *x, const float *mean, int64_t rows, int64_t stride, int64_t cols) {
    if (rows <= SUM_LEAF) { sum_leaf(out, x, mean, rows, stride, cols); return; }
    const int64_t half = (rows / 2 + SUM_LEAF - 1) / SUM_LEAF * SUM_LEAF;
    float other[SUM_COLUMNS];
    sum_columns(out, x, mean, half, stride, cols);
    sum_columns(other, x + half * stride, mean, rows - half, stride, cols);
    for (int64_t c = 0; c < cols; c++) out[c] += other[c];
}

/* SUM_COLUMNS columns over R rows, in parts that threads may share when there is little else to do. */
static void sum_block(float *out, const float *x, const float *mean, int64_t R, int64_t stride, int64_t cols, bool share) {
    int64_t part = (R + SUM_PARTS - 1) / SUM_PARTS;
    if (part < 4 * SUM_LEAF) part = 4 * SUM_LEAF;
    const int64_t parts = (R + part - 1) / part;
    float sums[SUM_PARTS][SUM_COLUMNS];
    #pragma omp parallel for num_threads(wm_threads) if (share && R * cols > REDUCE_GRAIN)
    for (int64_t i = 0; i < parts; i++)
        sum_columns(sums[i], x + i * part * stride, mean, i + 1 < parts ? part : R - i * part, stride, cols);
    sum_columns(out, sums[0], NULL, parts, SUM_COLUMNS, cols);
}

typedef struct { int64_t a, column, cols; } block;   /* columns [column, column + cols) of slab a */
static inline int64_t block_count(int64_t A, int64_t B) { return A * ((B + SUM_COLUMNS - 1) / SUM_COLUMNS); }
static inline block block_at(int64_t i, int64_t B) {
    const int64_t per = (B + SUM_COLUMNS - 1) / SUM_COLUMNS, column = i % per * SUM_COLUMNS;
    return (block){i / per, column, B - column < SUM_COLUMNS ? B - column : SUM_COLUMNS};
}

/* out = scale * sum (+ out): mean is NULL, or (A,B), for sums of squared distances from it. */
static void sum_any(float *out, const float *x, const float *mean, double scale, bool keep, int64_t A, int64_t R, int64_t B) {
    const int64_t blocks = block_count(A, B);
    const bool share = blocks < 2 * wm_threads;
    #pragma omp parallel for num_threads(wm_threads) if (!share && A * R * B > REDUCE_GRAIN)
    for (int64_t i = 0; i < blocks; i++) {
        const block b = block_at(i, B);
        const float *from = x + b.a * R * B + b.column, *m = mean ? mean + b.a * B + b.column : NULL;
        float *to = out + b.a * B + b.column, s[SUM_COLUMNS];
        if (B == 1) s[0] = sum_row(from, m, R, share);
        else sum_block(s, from, m, R, B, b.cols, share);
        for (int64_t c = 0; c < b.cols; c++) to[c] = (keep ? to[c] : 0.0f) + (float)(scale * (double)s[c]);
    }
}

/* out = scale * sum over R.  x (A,R,B), out (A,B). */
static void sum_forward(float *out, const float *x, double scale, int64_t A, int64_t R, int64_t B) {
    sum_any(out, x, NULL, scale, false, A, R, B);
}

/* out += scale * sum over R */
static void sum_into(float *out, const float *x, double scale, int64_t A, int64_t R, int64_t B) {
    sum_any(out, x, NULL, scale, true, A, R, B);
}

/* dx += scale * dout, for each of R */
static void sum_backward(float *dx, const float *dout, double scale, int64_t A, int64_t R, int64_t B) {
    const float s = (float)scale;
    #pragma omp parallel for num_threads(wm_threads) if (A * R * B > REDUCE_GRAIN) collapse(2)
    for (int64_t a = 0; a < A; a++)
        for (int64_t r = 0; r < R; r++) {
            float *to = dx + (a * R + r) * B;
            const float *g = dout + a * B;
            for (int64_t b = 0; b < B; b++) to[b] += s * g[b];
        }
}

/* mean = sum x / R;  out = sum (x - mean)^2 / (R - correction) */
static void var_forward(float *out, float *mean, const float *x, float correction, int64_t A, int64_t R, int64_t B) {
    sum_any(mean, x, NULL, 1.0 / (double)R, false, A, R, B);
    sum_any(out, x, mean, 1.0 / ((double)R - (double)correction), false, A, R, B);
}

/* dx += dout 2 (x - mean) / (R - correction) */
static void var_backward(float *dx, const float *dout, const float *mean, const float *x, float correction, int64_t A,
                         int64_t R, int64_t B) {
    const float scale = 2.0f / ((float)R - correction);
    #pragma omp parallel for num_threads(wm_threads) if (A * R * B > REDUCE_GRAIN) collapse(2)
    for (int64_t a = 0; a < A; a++)
        for (int64_t r = 0; r < R; r++) {
            const int64_t at = (a * R + r) * B;
            for (int64_t b = 0; b < B; b++)
                dx[at + b] += scale * dout[a * B + b] * (x[at + b] - mean[a * B + b]);
        }
}

/* ---- extremes ---- */

/* v takes the place of best: larger, or the first NaN. */
static inline ivec wins(vec v, vec best) { return ((v > best) | (v != v)) & (best == best); }

/* Columns [0, cols) of R rows: the largest of sign * x, and the first row that has it. */
static void top_columns(float *out, int32_t *index, const float *x, float sign, int64_t R, int64_t stride, int64_t cols) {
    for (int64_t c = 0; c < cols; c += WM_LANES) {
        const int64_t part = cols - c < WM_LANES ? cols - c : WM_LANES;
        vec best = {0};
        ivec row = {0};
        for (int64_t r = 0; r < R; r++) {
            const float *p = x + r * stride + c;
            const vec v = sign * (part == WM_LANES ? vec_load(p) : vec_load_part(p, part));
            const ivec win = r ? wins(v, best) : ~(ivec){0};
            best = vec_select(win, v, best);
            row = (win & (int32_t)r) | (~win & row);
        }
        best *= sign;
        for (int64_t j = 0; j < part; j++) {
            if (out) out[c + j] = best[j];
            if (index) index[c + j] = row[j];
        }
    }
}

/* The same along contiguous numbers: lane j sees every WM_LANES-th, then the lanes are compared. */
static void top_flat(float *out, int32_t *index, const float *x, float sign, int64_t R) {
    float top[WM_LANES], best = 0;
    int32_t at[WM_LANES], first = 0;
    const int64_t rows = R / WM_LANES, lanes = rows ? WM_LANES : 0;
    if (rows) top_columns(top, at, x, sign, rows, WM_LANES, WM_LANES);
    for (int64_t j = 0; j < lanes + R % WM_LANES; j++) {
        const bool rest = j >= lanes;
        const int32_t i = (int32_t)(rest ? rows * WM_LANES + j - lanes : at[j] * (int64_t)WM_LANES + j);
        const float v = sign * (rest ? x[i] : top[j]);
        const bool nan = v != v, nan_best = best != best;
        if (!j || (nan != nan_best ? nan : v > best || ((v == best || nan) && i < first))) best = v, first = i;
    }
    if (out) *out = sign * best;
    if (index) *index = first;
}

/* out = the largest of sign * x over R, times sign; index = the first r that has it.  Either may be NULL. */
static void top_forward(float *out, int32_t *index, const float *x, float sign, int64_t A, int64_t R, int64_t B) {
    const int64_t blocks = block_count(A, B);
    #pragma omp parallel for num_threads(wm_threads) if (A * R * B > REDUCE_GRAIN)
    for (int64_t i = 0; i < blocks; i++) {
        const block b = block_at(i, B);
        const int64_t at = b.a * B + b.column;
        const float *from = x + b.a * R * B + b.column;
        float *o = out ? out + at : NULL;
        int32_t *k = index ? index + at : NULL;
        if (B == 1) top_flat(o, k, from, sign, R);
        else top_columns(o, k, from, sign, R, B, b.cols);
    }
}

/* dx[a, index, b] += dout */
static void top_backward(float *dx, const float *dout, const int32_t *index, int64_t A, int64_t R, int64_t B) {
    for (int64_t a = 0; a < A; a++)
        for (int64_t b = 0; b < B; b++) dx[(a * R + index[a * B + b]) * B + b] += dout[a * B + b];
}

/* ---- scans ---- */

/* out_r (+)= sum of x up to r, or from r on; sums are kept in double. */
static void scan_sums(float *out, const float *x, bool reverse, bool add, int64_t A, int64_t R, int64_t B) {
    const int64_t blocks = block_count(A, B);
    #pragma omp parallel for num_threads(wm_threads) if (A * R * B > REDUCE_GRAIN)
    for (int64_t i = 0; i < blocks; i++) {
        const block b = block_at(i, B);
        if (B == 1) {
            double s = 0;
            for (int64_t k = 0, at; k < R; k++) {
                at = b.a * R + (reverse ? R - 1 - k : k);
                s += (double)x[at];
                out[at] = add ? out[at] + (float)s : (float)s;
            }
            continue;
        }
        double s[SUM_COLUMNS] = {0};
        for (int64_t k = 0; k < R; k++) {
            const int64_t at = (b.a * R + (reverse ? R - 1 - k : k)) * B + b.column;
            for (int64_t c = 0; c < b.cols; c++) {
                s[c] += (double)x[at + c];
                out[at + c] = add ? out[at + c] + (float)s[c] : (float)s[c];
            }
        }
    }
}

static void cumsum_forward(float *out, const float *x, int64_t A, int64_t R, int64_t B) {
    scan_sums(out, x, false, false, A, R, B);
}
static void cumsum_backward(float *dx, const float *dout, int64_t A, int64_t R, int64_t B) {
    scan_sums(dx, dout, true, true, A, R, B);
}

/* out_t = a_t + b_t out_{t+1}, out_T = last.  a, b, out (A,T,B); last (A,B), NULL for 0. */
static void reverse_scan_forward(float *out, const float *a, const float *b, const float *last, int64_t A, int64_t T,
                                 int64_t B) {
    #pragma omp parallel for num_threads(wm_threads) if (A * T * B > REDUCE_GRAIN)
    for (int64_t i = 0; i < A; i++)
        for (int64_t t = T; t-- > 0;) {
            const int64_t at = (i * T + t) * B;
            const float *next = t + 1 < T ? out + at + B : last ? last + i * B : NULL;
            for (int64_t c = 0; c < B; c++) out[at + c] = a[at + c] + (next ? b[at + c] * next[c] : 0.0f);
        }
}

/* h_t = dout_t + b_{t-1} h_{t-1};  da += h, db_t += h_t out_{t+1}, dlast += b_{T-1} h_{T-1}.  Any of them may be NULL. */
static void reverse_scan_backward(float *da, float *db, float *dlast, const float *dout, const float *out, const float *b,
                                  const float *last, int64_t A, int64_t T, int64_t B) {
    #pragma omp parallel for num_threads(wm_threads) if (A * T * B > REDUCE_GRAIN)
    for (int64_t i = 0; i < A; i++)
        for (int64_t c = 0; c < B; c++) {
            float h = 0.0f;
            for (int64_t t = 0; t < T; t++) {
                const int64_t at = (i * T + t) * B + c;
                h = dout[at] + (t ? b[at - B] * h : 0.0f);
                const float next = t + 1 < T ? out[at + B] : last ? last[i * B + c] : 0.0f;
                if (da) da[at] += h;
                if (db) db[at] += h * next;
            }
            if (dlast) dlast[i * B + c] += b[(i * T + T - 1) * B + c] * h;
        }
}
