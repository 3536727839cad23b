/* attention: out_i = sum_j p_ij v_j,  p_ij = e^(scale q_i k_j) / sum of e^(scale q_i k_j) over the keys j that i sees.

   Streaming softmax (Milakov & Gimelshein 2018; Dao et al. 2022).  What a query sees is one interval of keys, so a mask
   is two numbers a row.  One product tile does all of it: C(r, lanes) += sum_t A(r, t) B(t, lanes), where A is read a
   number at a time at any strides and only B wants its lanes side by side:
       S^T(j, i) = sum_d K(j, d) Q^T(d, i)       queries in the lanes, so the softmax needs no sum across them
       O(i, d)   = sum_j P^T(j, i) V(j, d)       head columns in the lanes, v read where it lies
   Laws: (1) a row's bits depend on its own numbers and on key indices only: every sum runs over d, or over keys, in
   ascending order, whatever the grouping of rows, the layout or the threads; (2) a hidden key is never read into a sum,
   so NaN behind a mask stays there. */
#define LOG2E 1.44269504088896341f

/* The keys [lo[i], hi[i]) that queries first .. first + n see, of `length` keys; query i stands at key i + offset. */
static void attention_sees(int32_t *lo, int32_t *hi, const wm_attention *a, int64_t first, int64_t n, int64_t offset,
                           int64_t length) {
    for (int64_t i = 0; i < n; i++) {
        int64_t at = first + i + offset, low = 0, high = length;
        if (a->mask == WM_MASK_CAUSAL || a->mask == WM_MASK_WINDOW) high = at + 1;
        if (a->mask == WM_MASK_WINDOW) low = at + 1 - a->window;
        if (a->mask == WM_MASK_FRAME_CAUSAL) {
            int64_t frame = at >= 0 ? at / a->frame : -1;
            high = (frame + 1) * a->frame;
            if (a->window) low = (frame + 1 - a->window) * a->frame;
        }
        high = high > length ? length : high < 0 ? 0 : high;
        low = low < 0 ? 0 : low > high ? high : low;
        lo[i] = (int32_t)low;
        hi[i] = (int32_t)high;
    }
    for (int64_t i = n; i < whole_vecs(n); i++) lo[i] = hi[i] = 0;
}

/* One block of rows against a stretch of keys: what is carried from key block to key block. */
typedef struct {
    float top[ATTEND_ROWS], sum[ATTEND_ROWS];        /* the scale of the sums so far, in log2; the sums */
    float shrink[ATTEND_ROWS];                   /* what this key block does to the sums before it */
    int32_t lo[ATTEND_ROWS], hi[ATTEND_ROWS];        /* keys seen, absolute */
    int32_t from[ATTEND_ROWS], to[ATTEND_ROWS];      /* the same within this key block */
    int64_t first, last, n;                  /* the keys that any row sees; rows */
    bool ragged, shrinks;                    /* rows of this key block differ; any shrink is not 1 */
} attention_rows;

static void rows_begin(attention_rows *w, int64_t n) {
    w->n = n;
    w->first = w->lo[0], w->last = w->hi[0];
    for (int64_t i = 0; i < whole_vecs(n); i++) w->top[i] = -INFINITY, w->sum[i] = 0;
    for (int64_t i = 1; i < n; i++) {
        bool none = w->lo[i] >= w->hi[i];
        if (w->first >= w->last) w->first = w->lo[i], w->last = w->hi[i];
        if (!none && w->lo[i] < w->first) w->first = w->lo[i];
        if (!none && w->hi[i] > w->last) w->last = w->hi[i];
    }
}

static void rows_enter(attention_rows *w, int64_t j, int64_t keys) {
    w->ragged = false;
    for (int64_t i = 0; i < w->n; i++) {
        int64_t from = w->lo[i] - j, to = w->hi[i] - j;
        w->from[i] = (int32_t)(from < 0 ? 0 : from > keys ? keys : from);
        w->to[i] = (int32_t)(to > keys ? keys : to < w->from[i] ? w->from[i] : to);
        w->ragged |= w->from[i] != 0 || w->to[i] != keys;
    }
    for (int64_t i = w->n; i < whole_vecs(w->n); i++) w->from[i] = w->to[i] = 0;
}

/* The vectors of queries that see any of keys [j, j + count) of this key block: [*v0, *v1). */
static void lanes_that_see(const attention_rows *w, int64_t j, int64_t count, int64_t *v0, int64_t *v1) {
    int64_t low = 0, high = w->n;
    if (w->ragged) {
        while (low < high && (w->from[low] >= j + count || w->to[low] <= j)) low++;
        while (high > low && (w->from[high - 1] >= j + count || w->to[high - 1] <= j)) high--;
    }
    *v0 = low / WM_LANES;
    *v1 = high > low ? (high + WM_LANES - 1) / WM_LANES : *v0;
}

/* S(j, i), queries in the lanes: from K rows (A) and packed queries; hidden stretches are left as they are. */
static void scores_of_lanes(float *S, int64_t wide, const attention_rows *w, const float *rows, int64_t row,
                            const float *columns, int64_t keys, int64_t D) {
    int64_t v0 = 0, v1 = (w->n + WM_LANES - 1) / WM_LANES;
    if (!w->ragged) {
        attention_product(S, wide, rows, row, 1, columns, wide, D, keys, v1 * WM_LANES, false);
        return;
    }
    for (int64_t j = 0; j < keys; j += 12) {
        int64_t count = keys - j < 12 ? keys - j : 12;
        lanes_that_see(w, j, count, &v0, &v1);
        if (v0 < v1)
            attention_product(S + j * wide + v0 * WM_LANES, wide, rows + j * row, row, 1, columns + v0 * WM_LANES, wide,
                              D, count, (v1 - v0) * WM_LANES, false);
    }
}

/* The new scale: the old one, unless the block's highest score passes it by more than 8; the first block always does. */
static inline vec raised(vec old, vec top) { return vec_select(top > old + 8.0f, top, old); }

/* The highest score of each lane; hidden ones become -inf.  Four chains: one would wait for itself. */
static inline vec highest_score(float *S, int64_t wide, ivec from, ivec to, bool ragged, int64_t keys) {
    vec best[4] = {vec_set(-INFINITY), vec_set(-INFINITY), vec_set(-INFINITY), vec_set(-INFINITY)};
    int64_t j = 0;
    for (int64_t key = 0; ragged && key < keys; key++) {
        ivec at = (ivec){0} + (int32_t)key;
        vec_store(S + key * wide, vec_select((from <= at) & (at < to), vec_load(S + key * wide), best[0]));
    }
    for (; j + 4 <= keys; j += 4)
        UNROLL for (int b = 0; b < 4; b++) best[b] = vec_max(vec_load(S + (j + b) * wide), best[b]);
    for (; j < keys; j++) best[0] = vec_max(vec_load(S + j * wide), best[0]);
    return vec_max(vec_max(best[0], best[1]), vec_max(best[2], best[3]));
}

/* Scores become weights, in place, queries in the lanes. */
static void soften_lanes(float *S, int64_t wide, attention_rows *w, int64_t keys, float c) {
    w->shrinks = false;
    for (int64_t i = 0; i < w->n; i += WM_LANES) {
        ivec from = *(const uivec *)(w->from + i), to = *(const uivec *)(w->to + i);
        vec best = highest_score(S + i, wide, from, to, w->ragged, keys), old = vec_load(w->top + i);
        vec top = raised(old, best * c), sum = vec_load(w->sum + i);
        ivec rose = top > old;
        vec shrink = vec_select(rose, vec_exp2(old - top), vec_set(1.0f));
        for (int lane = 0; lane < WM_LANES; lane++) w->shrinks |= rose[lane] != 0;
        sum *= shrink;
        for (int64_t j = 0; j < keys; j++) {
            vec s = vec_load(S + j * wide + i), p = vec_exp2(s * c - top);
            if (w->ragged) {
                ivec key = (ivec){0} + (int32_t)j;
                p = vec_select((from <= key) & (key < to), p, (vec){0});
            }
            vec_store(S + j * wide + i, p);
            sum += p;
        }
        vec_store(w->top + i, top);
        vec_store(w->sum + i, sum);
        vec_store(w->shrink + i, shrink);
    }
}

static const int32_t lane_numbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* The same for few queries, keys in the lanes: S(i, j).  The sums run key by key, as above (law 1). */
static void soften_rows(float *S, int64_t wide, attention_rows *w, float c) {
    w->shrinks = false;
    for (int64_t i = 0; i < w->n; i++) {
        float *s = S + i * wide;
        int64_t from = w->from[i], to = w->to[i];
        w->shrink[i] = 1;
        if (from >= to) continue;
        vec best = vec_set(-INFINITY);
        for (int64_t j = from / WM_LANES * WM_LANES; j < to; j += WM_LANES) {
            ivec key = *(const uivec *)lane_numbers + (int32_t)j;
            best = vec_max(vec_select((key >= (int32_t)from) & (key < (int32_t)to), vec_load(s + j), vec_set(-INFINITY)), best);
        }
        vec old = vec_set(w->top[i]), top = raised(old, vec_set(vec_top(best)) * c);
        if (top[0] > old[0]) {
            w->shrink[i] = vec_exp2(old - top)[0];
            w->shrinks = true;
            w->top[i] = top[0];
        }
        for (int64_t j = from / WM_LANES * WM_LANES; j < to; j += WM_LANES)
            vec_store(s + j, vec_exp2(vec_load(s + j) * c - top));
        float sum = w->sum[i] * w->shrink[i];
        for (int64_t j = from; j < to; j++) sum += s[j];
        w->sum[i] = sum;
    }
}

static void shrink_rows(float *out, int64_t out_row, const float *by, int64_t n, int64_t D) {
    for (int64_t i = 0; i < n; i++) {
        float *o = out + i * out_row;
        int64_t d = 0;
        if (by[i] == 1.0f) continue;
        for (; d + WM_LANES <= D; d += WM_LANES) vec_store(o + d, vec_load(o + d) * by[i]);
        for (; d < D; d++) o[d] *= by[i];
    }
}

/* out /= sum, and lse = top + log2(sum); a row that saw nothing is 0. */
static void rows_end(float *out, int64_t out_row, float *lse, attention_rows *w, int64_t D) {
    for (int64_t i = 0; i < w->n; i += WM_LANES) {
        vec sum = vec_load(w->sum + i), top = vec_load(w->top + i);
        ivec some = sum != 0.0f;
        vec_store(w->shrink + i, vec_select(some, 1.0f / sum, (vec){0}));
        vec_store(w->top + i, vec_select(some, top + vec_log(sum) * LOG2E, (vec){0}));
    }
    shrink_rows(out, out_row, w->shrink, w->n, D);
    if (lse) memcpy(lse, w->top, (size_t)w->n * sizeof *lse);
}

/* Where the keys of one problem lie: rows a stride apart, or frames in a ring (rotated as they are read). */
typedef struct {
    const float *k, *v;
    int64_t k_row, v_row;
    const wm_attention *ring;        /* NULL: plain rows */
    int64_t rows, start;             /* rows of one frame; the slot of the oldest frame behind the sinks */
    const int32_t *pages;            /* the frame of memory that each slot is; NULL: block + slot */
    int64_t block;
    const float *cos, *sin;          /* NULL: not rotated */
} attention_keys;

/* Frame `age` of a ring, oldest first with the sinks before all, lies in this slot. */
static int64_t ring_slot(const wm_attention *a, int64_t start, int64_t age) {
    return age < a->sinks ? age : a->sinks + (start + age - a->sinks) % a->ring;
}

static int64_t page_of(const attention_keys *s, int64_t slot) { return s->pages ? s->pages[slot] : s->block + slot; }

/* Keys j .. j + n as rows; v in whole vectors. */
static void keys_at(const attention_keys *s, float *k_packed, float *v_packed, int64_t j, int64_t n, int64_t D,
                    const float **k, int64_t *k_row, const float **v, int64_t *v_row) {
    if (!s->ring) {
        *k = whole_rows(k_packed, k_row, s->k + j * s->k_row, s->k_row, n, D);
        *v = whole_rows(v_packed, v_row, s->v + j * s->v_row, s->v_row, n, D);
        return;
    }
    *k = k_packed, *v = v_packed, *k_row = *v_row = whole_vecs(D);
    for (int64_t i = 0; i < n; i++) {
        int64_t age = (j + i) / s->rows, pairs = s->ring->pairs;
        int64_t at = page_of(s, ring_slot(s->ring, s->start, age)) * s->rows + (j + i) % s->rows;
        if (s->cos)
            rotate_row(k_packed + i * *k_row, s->k + at * s->k_row, s->cos + age * pairs, s->sin + age * pairs, pairs, D,
                       s->ring->interleaved);
        else
            memcpy(k_packed + i * *k_row, s->k + at * s->k_row, (size_t)D * sizeof(float));
        memcpy(v_packed + i * *v_row, s->v + at * s->v_row, (size_t)D * sizeof(float));
        memset(v_packed + i * *v_row + D, 0, (size_t)(*v_row - D) * sizeof(float));
    }
}

/* A block of queries against all that it sees. */
static void attend(float *out, int64_t out_row, float *lse, const float *q, int64_t q_row, attention_rows *w,
                   const attention_keys *source, int64_t D, float scale) {
    float columns[ATTEND_PANEL], S[ATTEND_ROWS * ATTEND_KEYS], k_packed[ATTEND_PANEL], v_packed[ATTEND_PANEL];
    float sums[ATTEND_PANEL];
    const int64_t block = attention_block(D), wide = block, n = w->n, first = w->first / block * block;
    const bool few = n <= WM_LANES / 4, apart = crowded(out_row, n);
    const float c = scale * LOG2E;
    float *to = apart ? sums : out;
    const int64_t to_row = apart ? D : out_row;
    if (w->first >= w->last) {
        for (int64_t i = 0; i < n; i++) memset(out + i * out_row, 0, (size_t)D * sizeof *out);
        if (lse) memset(lse, 0, (size_t)n * sizeof *lse);
        return;
    }
    if (!few) transpose_rows(columns, wide, q, q_row, n, D);
    for (int64_t j = first; j < w->last; j += block) {
        int64_t keys = w->last - j < block ? w->last - j : block, k_row, v_row;
        const float *k, *v;
        keys_at(source, k_packed, v_packed, j, keys, D, &k, &k_row, &v, &v_row);
        rows_enter(w, j, keys);
        if (few) {
            transpose_rows(columns, wide, k, k_row, keys, D);
            attention_product(S, wide, q, q_row, 1, columns, wide, D, n, keys, false);
            soften_rows(S, wide, w, c);
        } else {
            scores_of_lanes(S, wide, w, k, k_row, columns, keys, D);
            soften_lanes(S, wide, w, keys, c);
        }
        if (j > first && w->shrinks) shrink_rows(to, to_row, w->shrink, n, D);
        ranged_product(to, to_row, S, few ? wide : 1, few ? 1 : wide, v, v_row, w->from, w->to, n, D, j > first);
    }
    rows_end(to, to_row, lse, w, D);
    for (int64_t i = 0; apart && i < n; i++) memcpy(out + i * out_row, sums + i * D, (size_t)D * sizeof *out);
}

/* Ask for the rows of the head after this one: strided rows are too far apart for the processor to guess. */
static void expect_rows(const float *x, int64_t row, int64_t n, int64_t D) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = D; d < 2 * D; d += 16) __builtin_prefetch(x + i * row + d, 0, 2);
}

static int64_t attention_length(const int32_t *lengths, const wm_attention *a, int64_t outer) {
    return lengths ? lengths[outer / (a->outer / a->lengths)] : a->Nk;
}

/* out (outer, Nq, inner, H D) of q (outer, Nq, inner, H D), k v (outer, Nk, inner, H/G D), rows *_width apart;
   lse (outer, inner, H, Nq): log2 of the sum, kept for backward, may be NULL; lengths (outer or fewer), may be NULL. */
static void attention_forward(float *out, float *lse, const float *q, const float *k, const float *v,
                              const int32_t *lengths, const wm_attention *a) {
    const int64_t block = attention_block(a->D), blocks = (a->Nq + block - 1) / block;
    const int64_t units = a->outer * a->inner * a->H * blocks, work = a->outer * a->inner * a->H * a->Nq * a->Nk * a->D;
    #pragma omp parallel for num_threads(wm_threads) schedule(static) if (units > 1 && work > 1 << 17)
    for (int64_t u = 0; u < units; u++) {
        int64_t first = u % blocks * block, h = u / blocks % a->H, inner = u / (blocks * a->H) % a->inner;
        int64_t outer = u / (blocks * a->H * a->inner), n = a->Nq - first < block ? a->Nq - first : block;
        int64_t q_at = (outer * a->Nq + first) * a->inner + inner, k_at = outer * a->Nk * a->inner + inner;
        attention_keys keys = {.k = k + k_at * a->k_width + h / a->G * a->D, .k_row = a->inner * a->k_width,
                               .v = v + k_at * a->v_width + h / a->G * a->D, .v_row = a->inner * a->v_width};
        attention_rows w;
        if (blocks == 1 && a->Nk <= ATTEND_KEYS) {
            expect_rows(keys.k, keys.k_row, a->Nk, a->D);
            expect_rows(keys.v, keys.v_row, a->Nk, a->D);
            expect_rows(q + q_at * a->q_width + h * a->D, a->inner * a->q_width, n, a->D);
        }
        attention_sees(w.lo, w.hi, a, first, n, a->Nk - a->Nq, attention_length(lengths, a, outer));
        rows_begin(&w, n);
        attend(out + q_at * a->H * a->D + h * a->D, a->inner * a->H * a->D,
               lse ? lse + ((outer * a->inner + inner) * a->H + h) * a->Nq + first : NULL,
               q + q_at * a->q_width + h * a->D, a->inner * a->q_width, &w, &keys, a->D, a->scale);
    }
}

/* What backward holds of one block of queries. */
typedef struct {
    float q_columns[ATTEND_PANEL], dout_columns[ATTEND_PANEL];          /* (D, i) */
    float q_packed[ATTEND_PANEL], dout_packed[ATTEND_PANEL];            /* rows, where D is not whole vectors */
    float lse[ATTEND_ROWS], delta[ATTEND_ROWS];
    const float *q, *dout;                                /* rows in whole vectors */
    int64_t q_row, dout_row;
    attention_rows w;
} backward_rows;

/* delta_i = sum_d dout out */
static void backward_begin(backward_rows *b, const float *q, int64_t q_row, const float *dout, const float *out,
                           int64_t out_row, const float *lse, int64_t D, int64_t wide) {
    int64_t n = b->w.n;
    for (int64_t i = 0; i < n; i++) {
        vec sum = {0};
        for (int64_t d = 0; d < D; d += WM_LANES) {
            int64_t part = D - d;
            const float *x = dout + i * out_row + d, *y = out + i * out_row + d;
            sum += part >= WM_LANES ? vec_load(x) * vec_load(y) : vec_load_part(x, part) * vec_load_part(y, part);
        }
        b->lse[i] = lse[i];
        b->delta[i] = vec_sum(sum);
    }
    for (int64_t i = n; i < whole_vecs(n); i++) b->lse[i] = b->delta[i] = 0;
    b->q = whole_rows(b->q_packed, &b->q_row, q, q_row, n, D);
    b->dout = whole_rows(b->dout_packed, &b->dout_row, dout, out_row, n, D);
    transpose_rows(b->q_columns, wide, b->q, b->q_row, n, D);
    transpose_rows(b->dout_columns, wide, b->dout, b->dout_row, n, D);
}

/* P = 2^(c S - lse), dS = P (dP - delta) scale, in place, queries in the lanes; hidden places are 0. */
static void backward_weights(float *S, float *dP, const backward_rows *b, int64_t wide, int64_t keys, float scale) {
    const float c = scale * LOG2E;
    for (int64_t i = 0; i < b->w.n; i += WM_LANES) {
        ivec from = *(const uivec *)(b->w.from + i), to = *(const uivec *)(b->w.to + i);
        vec lse = vec_load(b->lse + i), delta = vec_load(b->delta + i);
        for (int64_t j = 0; j < keys; j++) {
            vec p = vec_exp2(vec_load(S + j * wide + i) * c - lse), ds = p * (vec_load(dP + j * wide + i) - delta) * scale;
            if (b->w.ragged) {
                ivec key = (ivec){0} + (int32_t)j, seen = (from <= key) & (key < to);
                p = vec_select(seen, p, (vec){0});
                ds = vec_select(seen, ds, (vec){0});
            }
            vec_store(S + j * wide + i, p);
            vec_store(dP + j * wide + i, ds);
        }
    }
}

/* dx(j, d) += sum_i P(j, i) y(i, d), over the queries that see key j. */
static void backward_keys(float *dx, int64_t dx_row, const float *P, int64_t wide, const attention_rows *w,
                          const float *y, int64_t y_row, int64_t keys, int64_t D) {
    int64_t step = w->ragged ? 12 : keys, v0 = 0, v1;
    for (int64_t j = 0; j < keys; j += step) {
        int64_t count = keys - j < step ? keys - j : step, i, n = w->n;
        lanes_that_see(w, j, count, &v0, &v1);
        i = v0 * WM_LANES;
        n = v1 * WM_LANES < n ? v1 * WM_LANES : n;
        if (i < n)
            attention_product(dx + j * dx_row, dx_row, P + j * wide + i, wide, 1, y + i * y_row, y_row, n - i, count, D, true);
    }
}

/* One query head of one problem: adds to its rows of dq, dk, dv (any may be NULL), block after block. */
static void attend_backward(float *dq, float *dk, float *dv, int64_t dq_row, int64_t k_row, int64_t v_row, const float *k,
                            const float *v, backward_rows *b, const wm_attention *a) {
    float S[ATTEND_ROWS * ATTEND_KEYS], dP[ATTEND_ROWS * ATTEND_KEYS], k_packed[ATTEND_PANEL], v_packed[ATTEND_PANEL];
    const int64_t D = a->D, block = attention_block(D);
    attention_rows *w = &b->w;
    if (w->first >= w->last) return;
    for (int64_t j = w->first / block * block; j < w->last; j += block) {
        int64_t keys = w->last - j < block ? w->last - j : block, ks_row, vs_row;
        const float *ks = whole_rows(k_packed, &ks_row, k + j * k_row, k_row, keys, D);
        const float *vs = whole_rows(v_packed, &vs_row, v + j * v_row, v_row, keys, D);
        rows_enter(w, j, keys);
        scores_of_lanes(S, block, w, ks, ks_row, b->q_columns, keys, D);
        scores_of_lanes(dP, block, w, vs, vs_row, b->dout_columns, keys, D);
        backward_weights(S, dP, b, block, keys, a->scale);
        if (dv) backward_keys(dv + j * v_row, v_row, S, block, w, b->dout, b->dout_row, keys, D);
        if (dk) backward_keys(dk + j * k_row, k_row, dP, block, w, b->q, b->q_row, keys, D);
        if (dq) ranged_product(dq, dq_row, dP, 1, block, ks, ks_row, w->from, w->to, w->n, D, true);
    }
}

/* dq, dk, dv as q, k, v of attention_forward: the weights are computed again from lse.  One thread a group of heads
   that share keys; query blocks and key blocks in ascending order. */
static void attention_backward(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                               const float *q, const float *k, const float *v, const int32_t *lengths,
                               const wm_attention *a) {
    const int64_t block = attention_block(a->D), groups = a->H / a->G, units = a->outer * a->inner * groups;
    const int64_t q_row = a->inner * a->q_width, out_row = a->inner * a->H * a->D;
    const int64_t k_row = a->inner * a->k_width, v_row = a->inner * a->v_width;
    #pragma omp parallel for num_threads(wm_threads) schedule(static) if (units > 1 && units * a->Nk * a->D > 1 << 13)
    for (int64_t u = 0; u < units; u++) {
        int64_t group = u % groups, inner = u / groups % a->inner, outer = u / (groups * a->inner);
        int64_t k_at = outer * a->Nk * a->inner + inner, length = attention_length(lengths, a, outer);
        int64_t k_first = k_at * a->k_width + group * a->D, v_first = k_at * a->v_width + group * a->D;
        for (int64_t h = group * a->G; h < (group + 1) * a->G; h++)
            for (int64_t first = 0; first < a->Nq; first += block) {
                int64_t n = a->Nq - first < block ? a->Nq - first : block, at = (outer * a->Nq + first) * a->inner + inner;
                int64_t q_first = at * a->q_width + h * a->D, out_first = at * a->H * a->D + h * a->D;
                backward_rows b;
                if (a->Nq <= block && a->Nk <= block) {
                    expect_rows(q + q_first, q_row, n, a->D);
                    expect_rows(k + k_first, k_row, a->Nk, a->D);
                    expect_rows(v + v_first, v_row, a->Nk, a->D);
                    expect_rows(out + out_first, out_row, n, a->D);
                    expect_rows(dout + out_first, out_row, n, a->D);
                    if (dq) expect_rows(dq + q_first, q_row, n, a->D);
                    if (dk) expect_rows(dk + k_first, k_row, a->Nk, a->D);
                    if (dv) expect_rows(dv + v_first, v_row, a->Nk, a->D);
                }
                attention_sees(b.w.lo, b.w.hi, a, first, n, a->Nk - a->Nq, length);
                rows_begin(&b.w, n);
                backward_begin(&b, q + q_first, q_row, dout + out_first, out + out_first, out_row,
                               lse + ((outer * a->inner + inner) * a->H + h) * a->Nq + first, a->D, block);
                attend_backward(dq ? dq + q_first : NULL, dk ? dk + k_first : NULL, dv ? dv + v_first : NULL, q_row, k_row,
                                v_row, k + k_first, v + v_first, &b, a);
            }
    }
}
