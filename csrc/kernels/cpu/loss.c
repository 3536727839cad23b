/* loss: a term of every number, weighted and summed.  Numbers are O cells of n, one result a cell; a weight covers m
   numbers in a row (weight NULL: 1).  out = scale * sum over the cell of weight * term, pairwise: how a cell is cut
   depends on n alone. */

enum { LOSS_CHUNK = 512, LOSS_GRAIN = 1 << 14 };

typedef struct { const float *pred, *target, *weight; float delta; int64_t m; } loss_in;
typedef void loss_terms(float *to, const loss_in *, int64_t start, int64_t n);

/* to[i] *= weight of number start + i */
static void weigh(float *to, const float *weight, int64_t m, int64_t start, int64_t n) {
    if (weight && m == 1)
        for (int64_t i = 0; i < n; i++) to[i] *= weight[start + i];
    else if (weight)
        for (int64_t i = 0, run; i < n; i += run) {
            const int64_t left = m - (start + i) % m;
            const float w = weight[(start + i) / m];
            run = left < n - i ? left : n - i;
            for (int64_t j = 0; j < run; j++) to[i + j] *= w;
        }
}

static float loss_sum(loss_terms terms, const loss_in *in, int64_t start, int64_t n) {
    if (n > LOSS_CHUNK) {
        const int64_t half = (n / 2 + LOSS_CHUNK - 1) / LOSS_CHUNK * LOSS_CHUNK;
        return loss_sum(terms, in, start, half) + loss_sum(terms, in, start + half, n - half);
    }
    float t[LOSS_CHUNK];
    terms(t, in, start, n);
    weigh(t, in->weight, in->m, start, n);
    return sum_flat(t, NULL, n);
}

/* One cell, in pieces that threads may share when cells are few. */
static float loss_cell(loss_terms terms, const loss_in *in, int64_t start, int64_t n, bool share) {
    if (n <= SUM_PIECE) return loss_sum(terms, in, start, n);
    int64_t piece = (n + SUM_PIECES - 1) / SUM_PIECES;
    piece = piece < SUM_PIECE ? SUM_PIECE : (piece + LOSS_CHUNK - 1) / LOSS_CHUNK * LOSS_CHUNK;
    const int64_t pieces = (n + piece - 1) / piece;
    float part[SUM_PIECES];
    #pragma omp parallel for num_threads(wm_threads) if (share)
    for (int64_t i = 0; i < pieces; i++)
        part[i] = loss_sum(terms, in, start + i * piece, i + 1 < pieces ? piece : n - i * piece);
    return sum_flat(part, NULL, pieces);
}

static void loss_forward(float *out, loss_terms terms, const loss_in *in, double scale, int64_t O, int64_t n) {
    const bool share = O < 2 * wm_threads;
    #pragma omp parallel for num_threads(wm_threads) if (!share && O * n > LOSS_GRAIN)
    for (int64_t o = 0; o < O; o++) out[o] = (float)(scale * (double)loss_cell(terms, in, o * n, n, share));
}

/* to[i] = scale dout weight of number start + i */
static void loss_slopes(float *to, const float *dout, const float *weight, double scale, int64_t n, int64_t m, int64_t start,
                        int64_t count) {
    for (int64_t i = 0, run; i < count; i += run) {
        run = n - (start + i) % n < count - i ? n - (start + i) % n : count - i;
        const float g = (float)scale * dout[(start + i) / n];
        for (int64_t j = 0; j < run; j++) to[i + j] = g;
    }
    weigh(to, weight, m, start, count);
}

/* ---- huber: d = pred - target; d^2 / 2 up to delta, then delta (|d| - delta / 2).  delta = inf: half the square ---- */

static void huber_terms(float *to, const loss_in *in, int64_t start, int64_t n) {
    const vec delta = vec_set(in->delta);
    for (int64_t i = 0; i < n; i += WM_LANES) {
        const vec d = row_load(in->pred + start, i, n, 0.0f) - row_load(in->target + start, i, n, 0.0f), a = vec_abs(d);
        row_store(to, i, n, vec_select(a > delta, delta * (a - 0.5f * delta), 0.5f * d * d));
    }
}
static void huber_forward(float *out, const float *pred, const float *target, const float *weight, float delta, double scale,
                          int64_t O, int64_t n, int64_t m) {
    loss_forward(out, huber_terms, &(loss_in){pred, target, weight, delta, m}, scale, O, n);
}
static void huber_backward(float *dpred, float *dtarget, const float *dout, const float *pred, const float *target,
                           const float *weight, float delta, double scale, int64_t O, int64_t n, int64_t m) {
    const vec top = vec_set(delta);
    #pragma omp parallel for num_threads(wm_threads) if (O * n > LOSS_GRAIN)
    for (int64_t start = 0; start < O * n; start += LOSS_CHUNK) {
        const int64_t count = O * n - start < LOSS_CHUNK ? O * n - start : LOSS_CHUNK;
        float slope[LOSS_CHUNK];
        loss_slopes(slope, dout, weight, scale, n, m, start, count);
        for (int64_t i = 0; i < count; i += WM_LANES) {
            vec d = row_load(pred + start, i, count, 0.0f) - row_load(target + start, i, count, 0.0f);
            d = vec_select(d > top, top, vec_select(d < -top, -top, d)) * row_load(slope, i, count, 0.0f);
            if (dpred) row_store(dpred + start, i, count, row_load(dpred + start, i, count, 0.0f) + d);
            if (dtarget) row_store(dtarget + start, i, count, row_load(dtarget + start, i, count, 0.0f) - d);
        }
    }
}

/* ---- binary cross-entropy of logits: max(x, 0) - x t + log1p(e^-|x|) ---- */

static void bce_terms(float *to, const loss_in *in, int64_t start, int64_t n) {
    for (int64_t i = 0; i < n; i += WM_LANES) {
        const vec x = row_load(in->pred + start, i, n, 0.0f), t = row_load(in->target + start, i, n, 0.0f);
        row_store(to, i, n, vec_select(x > 0.0f, x, (vec){0}) - x * t + vec_log1p(vec_exp(-vec_abs(x))));
    }
}
static void bce_forward(float *out, const float *logits, const float *target, const float *weight, double scale, int64_t O,
                        int64_t n, int64_t m) {
    loss_forward(out, bce_terms, &(loss_in){logits, target, weight, 0.0f, m}, scale, O, n);
}
/* dlogits += sigmoid(x) - t */
static void bce_backward(float *dlogits, const float *dout, const float *logits, const float *target, const float *weight,
                         double scale, int64_t O, int64_t n, int64_t m) {
    #pragma omp parallel for num_threads(wm_threads) if (O * n > LOSS_GRAIN)
    for (int64_t start = 0; start < O * n; start += LOSS_CHUNK) {
        const int64_t count = O * n - start < LOSS_CHUNK ? O * n - start : LOSS_CHUNK;
        float slope[LOSS_CHUNK], *d = dlogits + start;
        loss_slopes(slope, dout, weight, scale, n, m, start, count);
        for (int64_t i = 0; i < count; i += WM_LANES) {
            const vec s = vec_sigmoid(row_load(logits + start, i, count, 0.0f)) - row_load(target + start, i, count, 0.0f);
            row_store(d, i, count, row_load(d, i, count, 0.0f) + s * row_load(slope, i, count, 0.0f));
        }
    }
}

/* ---- losses that are one number a row already ---- */

static void row_terms(float *to, const loss_in *in, int64_t start, int64_t n) {
    memcpy(to, in->pred + start, (size_t)n * sizeof(float));
}
static void row_loss_forward(float *out, const float *loss, const float *weight, double scale, int64_t O, int64_t n, int64_t m) {
    loss_forward(out, row_terms, &(loss_in){loss, NULL, weight, 0.0f, m}, scale, O, n);
}
/* drow = scale dout weight: what each row's loss receives (assigned). */
static void row_loss_backward(float *drow, const float *dout, const float *weight, double scale, int64_t O, int64_t n, int64_t m) {
    for (int64_t start = 0; start < O * n; start += LOSS_CHUNK)
        loss_slopes(drow + start, dout, weight, scale, n, m, start, O * n - start < LOSS_CHUNK ? O * n - start : LOSS_CHUNK);
}
