/* shape: moving numbers.  item is the size of one in bytes: 1, 2 or 4; strides and sizes count items.
   Forward reads with strides and writes densely, backward reads densely and adds with strides. */

enum {
    MOVE_GRAIN = 1 << 15,       /* fewer items than this are not worth a second thread */
    MOVE_TURN = 1 << 12,        /* items that one turn of a parallel loop moves */
    MOVE_TILE = 32,             /* side of a square that is transposed at once */
};

/* ---- strided: all axes but the last are walked by an odometer (pointwise.c) ---- */

static inline void line_copy(char *out, const char *x, int64_t item, int64_t stride, int64_t n) {
    if (stride == 1) { memcpy(out, x, (size_t)(n * item)); return; }
    if (item == 4) for (int64_t i = 0; i < n; i++) ((int32_t *)out)[i] = ((const int32_t *)x)[i * stride];
    else if (item == 2) for (int64_t i = 0; i < n; i++) ((int16_t *)out)[i] = ((const int16_t *)x)[i * stride];
    else for (int64_t i = 0; i < n; i++) out[i] = x[i * stride];
}

static void lines_copy(char *out, const char *x, int64_t item, const int64_t *shape, const int64_t *stride, int ndim) {
    const int64_t C = shape[ndim - 1], rows = numbers_in(shape, ndim) / C, turn = C < MOVE_TURN ? MOVE_TURN / C : 1;
    #pragma omp parallel for num_threads(wm_threads) if (rows * C > MOVE_GRAIN)
    for (int64_t r0 = 0; r0 < rows; r0 += turn) {
        odometer o = odometer_at(r0, shape, stride, ndim);
        for (int64_t r = r0; r < rows && r < r0 + turn; r++, odometer_step(&o, shape, stride, ndim))
            line_copy(out + r * C * item, x + o.at * item, item, stride[ndim - 1], C);
    }
}

/* One square: out (rows, cols) with line length to, from x with its numbers along rows next to each other. */
static inline void tile_copy(char *out, int64_t to, const char *x, int64_t from, int64_t item, int64_t rows, int64_t cols) {
    if (item == 4)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++) ((int32_t *)out)[i * to + j] = ((const int32_t *)x)[j * from + i];
    else if (item == 2)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++) ((int16_t *)out)[i * to + j] = ((const int16_t *)x)[j * from + i];
    else
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++) out[i * to + j] = x[j * from + i];
}
static inline void tile_add(float *d, int64_t to, const float *g, int64_t from, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) d[i * to + j] += g[j * from + i];
}

/* A transposition: axis t of out is dense in x, the last is not.  The other axes are walked, these two cut into squares. */
typedef struct { int64_t M, N, line, from, squares_m, squares_n, outer, shape[WM_DIMS], dense[WM_DIMS], stride[WM_DIMS]; int ndim; } transposition;

static transposition transposition_of(const int64_t *shape, const int64_t *stride, int ndim, int t) {
    transposition p = {.M = shape[t], .N = shape[ndim - 1], .line = 1, .from = stride[ndim - 1], .outer = 1};
    int64_t dense = 1;
    for (int d = ndim - 1; d >= 0; dense *= shape[d--]) {
        if (d == t) p.line = dense;
        if (d == t || d == ndim - 1) continue;
        for (int e = p.ndim++; e > 0; e--) p.shape[e] = p.shape[e - 1], p.stride[e] = p.stride[e - 1], p.dense[e] = p.dense[e - 1];
        p.shape[0] = shape[d], p.stride[0] = stride[d], p.dense[0] = dense;
        p.outer *= shape[d];
    }
    p.squares_m = (p.M + MOVE_TILE - 1) / MOVE_TILE, p.squares_n = (p.N + MOVE_TILE - 1) / MOVE_TILE;
    return p;
}

typedef struct { int64_t out, x, rows, cols; } square;
static inline square square_at(const transposition *p, int64_t i) {
    const int64_t n = i % p->squares_n * MOVE_TILE, m = i / p->squares_n % p->squares_m * MOVE_TILE;
    square s = {m * p->line + n, m + n * p->from, p->M - m < MOVE_TILE ? p->M - m : MOVE_TILE,
                p->N - n < MOVE_TILE ? p->N - n : MOVE_TILE};
    int64_t row = i / (p->squares_n * p->squares_m);
    for (int d = p->ndim - 1; d >= 0; row /= p->shape[d--]) {
        s.out += row % p->shape[d] * p->dense[d];
        s.x += row % p->shape[d] * p->stride[d];
    }
    return s;
}

/* The axis of out that is dense in x, if it is worth transposing by squares; else -1. */
static int dense_axis(const int64_t *shape, const int64_t *stride, int ndim) {
    if (stride[ndim - 1] == 1 || shape[ndim - 1] < 4) return -1;
    for (int d = ndim - 2; d >= 0; d--)
        if (stride[d] == 1 && shape[d] >= 4) return d;
    return -1;
}

/* out[i, j, ...] = x[i stride_0 + j stride_1 + ...].  Strides may be 0 or negative. */
static void strided_copy(void *out, const void *x, int64_t item, const int64_t *shape, const int64_t *stride, int ndim) {
    const int t = dense_axis(shape, stride, ndim);
    if (t < 0) { lines_copy(out, x, item, shape, stride, ndim); return; }
    const transposition p = transposition_of(shape, stride, ndim, t);
    const int64_t squares = p.outer * p.squares_m * p.squares_n;
    #pragma omp parallel for num_threads(wm_threads) if (p.outer * p.M * p.N > MOVE_GRAIN)
    for (int64_t i = 0; i < squares; i++) {
        const square s = square_at(&p, i);
        tile_copy((char *)out + s.out * item, p.line, (const char *)x + s.x * item, p.from, item, s.rows, s.cols);
    }
}

/* dx[i stride_0 + j stride_1 + ...] += dout[i, j, ...].  No two places may meet: no stride is 0. */
static void strided_add(float *dx, const float *dout, const int64_t *shape, const int64_t *stride, int ndim) {
    const int t = dense_axis(shape, stride, ndim);
    if (t >= 0) {
        const transposition p = transposition_of(shape, stride, ndim, t);
        const int64_t squares = p.outer * p.squares_m * p.squares_n;
        #pragma omp parallel for num_threads(wm_threads) if (p.outer * p.M * p.N > MOVE_GRAIN)
        for (int64_t i = 0; i < squares; i++) {
            const square s = square_at(&p, i);
            tile_add(dx + s.x, p.from, dout + s.out, p.line, s.cols, s.rows);
        }
        return;
    }
    const int64_t C = shape[ndim - 1], rows = numbers_in(shape, ndim) / C, turn = C < MOVE_TURN ? MOVE_TURN / C : 1;
    const int64_t step = stride[ndim - 1];
    #pragma omp parallel for num_threads(wm_threads) if (rows * C > MOVE_GRAIN)
    for (int64_t r0 = 0; r0 < rows; r0 += turn) {
        odometer o = odometer_at(r0, shape, stride, ndim);
        for (int64_t r = r0; r < rows && r < r0 + turn; r++, odometer_step(&o, shape, stride, ndim)) {
            const float *g = dout + r * C;
            float *d = dx + o.at;
            if (step == 1) for (int64_t i = 0; i < C; i++) d[i] += g[i];
            else for (int64_t i = 0; i < C; i++) d[i * step] += g[i];
        }
    }
}

/* ---- rows of two arrays with their own distances between rows ---- */

/* out[r, 0..width) = x[r, 0..width) */
static void rows_copy(void *out, int64_t to, const void *x, int64_t from, int64_t item, int64_t width, int64_t rows) {
    const int64_t turns = (width + MOVE_TURN - 1) / MOVE_TURN;
    #pragma omp parallel for num_threads(wm_threads) if (rows * width > MOVE_GRAIN)
    for (int64_t i = 0; i < rows * turns; i++) {
        const int64_t r = i / turns, c = i % turns * MOVE_TURN, part = width - c < MOVE_TURN ? width - c : MOVE_TURN;
        memcpy((char *)out + (r * to + c) * item, (const char *)x + (r * from + c) * item, (size_t)(part * item));
    }
}

/* d[r, 0..width) += g[r, 0..width) */
static void rows_add(float *d, int64_t to, const float *g, int64_t from, int64_t width, int64_t rows) {
    const int64_t turns = (width + MOVE_TURN - 1) / MOVE_TURN;
    #pragma omp parallel for num_threads(wm_threads) if (rows * width > MOVE_GRAIN)
    for (int64_t i = 0; i < rows * turns; i++) {
        const int64_t r = i / turns, c = i % turns * MOVE_TURN, part = width - c < MOVE_TURN ? width - c : MOVE_TURN;
        float *p = d + r * to + c;
        const float *q = g + r * from + c;
        for (int64_t j = 0; j < part; j++) p[j] += q[j];
    }
}

/* out[r, 0..width) = the item at value */
static void rows_fill(void *out, int64_t to, const void *value, int64_t item, int64_t width, int64_t rows) {
    int32_t v4;
    int16_t v2;
    memcpy(&v4, value, sizeof v4), memcpy(&v2, value, sizeof v2);
    for (int64_t r = 0; r < rows; r++) {
        char *p = (char *)out + r * to * item;
        if (item == 4) for (int64_t i = 0; i < width; i++) ((int32_t *)p)[i] = v4;
        else if (item == 2) for (int64_t i = 0; i < width; i++) ((int16_t *)p)[i] = v2;
        else memset(p, v2 & 255, (size_t)width);
    }
}

/* ---- rows chosen by indices ---- */

/* out[a, m, :] = x[a, index[m], :].  x (A,N,B), index (M), out (A,M,B). */
static void gather_forward(void *out, const void *x, const int32_t *index, int64_t item, int64_t A, int64_t N, int64_t M,
                           int64_t B) {
    #pragma omp parallel for num_threads(wm_threads) if (A * M * B > MOVE_GRAIN) collapse(2)
    for (int64_t a = 0; a < A; a++)
        for (int64_t m = 0; m < M; m++)
            line_copy((char *)out + (a * M + m) * B * item, (const char *)x + (a * N + index[m]) * B * item, item, 1, B);
}

/* dx[a, index[m], :] += dout[a, m, :], in the order of m.  Threads share the N rows of dx: each looks at all indices
   and adds what falls into its rows, so every row is summed in one order whatever their number. */
static void gather_backward(float *dx, const float *dout, const int32_t *index, int64_t A, int64_t N, int64_t M, int64_t B) {
    const int64_t parts = A * M * B > MOVE_GRAIN ? (wm_threads < N ? wm_threads : N) : 1;
    #pragma omp parallel for num_threads(wm_threads) if (parts > 1)
    for (int64_t p = 0; p < parts; p++) {
        const int64_t first = N * p / parts, end = N * (p + 1) / parts;
        for (int64_t a = 0; a < A; a++)
            for (int64_t m = 0; m < M; m++) {
                if (index[m] < first || index[m] >= end) continue;
                float *d = dx + (a * N + index[m]) * B;
                const float *g = dout + (a * M + m) * B;
                for (int64_t b = 0; b < B; b++) d[b] += g[b];
            }
    }
}

/* out[a, m, b] = x[a, index[a, m, b], b].  x (A,N,B), index, out (A,M,B). */
static void take_forward(void *out, const void *x, const int32_t *index, int64_t item, int64_t A, int64_t N, int64_t M,
                         int64_t B) {
    #pragma omp parallel for num_threads(wm_threads) if (A * M * B > MOVE_GRAIN)
    for (int64_t i = 0; i < A * M * B; i++)
        memcpy((char *)out + i * item, (const char *)x + ((i / (M * B) * N + index[i]) * B + i % B) * item, (size_t)item);
}

/* dx[a, index[a, m, b], b] += dout[a, m, b], in the order of m */
static void take_backward(float *dx, const float *dout, const int32_t *index, int64_t A, int64_t N, int64_t M, int64_t B) {
    #pragma omp parallel for num_threads(wm_threads) if (A * M * B > MOVE_GRAIN)
    for (int64_t a = 0; a < A; a++)
        for (int64_t i = a * M * B; i < (a + 1) * M * B; i++) dx[(a * N + index[i]) * B + i % B] += dout[i];
}
