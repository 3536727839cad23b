/* attention_cached: attention over the frames of a ring, read where they lie, and the writing of them.

   One token a step over a short history is most of what an imagined environment asks for: few_keys.  There a head is
   too little work for blocks, so a token's heads go together, keys in the lanes.  Every sum is the chain that attend()
   makes, over d or over keys in ascending order, so that a roll-out has the bits of one pass over all its frames. */

enum { FEW_HEADS = 4, FEW_WIDEST = 128 };       /* heads at once; columns of a head at most */

/* The keys of one token, first head, as the ring holds them. */
static attention_keys ring_keys(const float *k, const float *v, const int32_t *position, const float *cos, const float *sin,
                                const int32_t *pages, const wm_attention *a, int64_t outer, int64_t inner) {
    int64_t seen = (int64_t)position[outer] + 1, frames = a->sinks + a->ring;
    return (attention_keys){.k = k + inner * a->k_width, .v = v + inner * a->v_width, .k_row = a->inner * a->k_width,
                            .v_row = a->inner * a->v_width, .ring = a, .rows = a->frame,
                            .pages = pages ? pages + outer * frames : NULL, .block = outer * frames,
                            .start = seen > frames ? (seen - a->sinks) % a->ring : 0, .cos = cos, .sin = sin};
}

/* ---- one query a head, no more keys than lanes ---------------------------------------------------------------- */

static bool few_keys(const wm_attention *a) {
    return a->Nq == 1 && a->frame == 1 && a->sinks + a->ring <= WM_LANES && a->D % WM_LANES == 0 && a->D <= FEW_WIDEST;
}

typedef struct {
    float rows[WM_LANES * FEW_WIDEST], q[FEW_HEADS * FEW_WIDEST];        /* keys of one head, queries of all; turned */
    float columns[FEW_HEADS * FEW_WIDEST * WM_LANES];                   /* (head, d, key) */
    int64_t page[WM_LANES], held;
} few_room;

static void turned(float *to, const float *x, const attention_keys *s, int64_t age, int64_t D) {
    int64_t pairs = s->ring->pairs;
    if (s->cos) rotate_row(to, x, s->cos + age * pairs, s->sin + age * pairs, pairs, D, s->ring->interleaved);
    else memcpy(to, x, (size_t)D * sizeof *to);
}

/* scores[i] = sum_d q(head + i, d) K(d, lane) */
static inline __attribute__((always_inline)) void few_scores(vec *scores, const few_room *room, int64_t D, const int heads) {
    vec acc[FEW_HEADS] = {{0}};
    for (int64_t d = 0; d < D; d++)
        UNROLL for (int i = 0; i < heads; i++)
            acc[i] += room->q[i * D + d] * vec_load(room->columns + (i * D + d) * WM_LANES);
    UNROLL for (int i = 0; i < heads; i++) scores[i] = acc[i];
}

/* Weights p (lane) of scores, hidden lanes anything; returns 1 / their sum. */
static float few_weights(float *p, vec scores, int64_t held, float c) {
    vec none = vec_set(-INFINITY), lane = __builtin_convertvector(*(const uivec *)lane_numbers, vec);
    vec best = vec_max(vec_select(lane < (float)held, scores, none), none);
    vec top = raised(none, vec_set(vec_top(best)) * c);
    vec_store(p, vec_exp2(scores * c - top));
    float sum = 0;
    for (int64_t j = 0; j < held; j++) sum += p[j];
    return sum != 0 ? 1.0f / sum : 0;
}

static void few_heads(float *out, const float *q, const attention_keys *s, const wm_attention *a, few_room *room, int64_t h,
                      int64_t heads) {
    int64_t D = a->D, held = room->held;
    vec scores[FEW_HEADS];
    for (int64_t i = 0; i < heads; i++) {
        const float *k = s->k + (h + i) / a->G * D;
        turned(room->q + i * D, q + (h + i) * D, s, held - 1, D);
        for (int64_t j = 0; j < held; j++) turned(room->rows + j * D, k + room->page[j] * s->k_row, s, j, D);
        transpose_rows(room->columns + i * D * WM_LANES, WM_LANES, room->rows, D, WM_LANES, D);
    }
    switch (heads) {
    case 1: few_scores(scores, room, D, 1); break;
    case 2: few_scores(scores, room, D, 2); break;
    case 3: few_scores(scores, room, D, 3); break;
    default: few_scores(scores, room, D, FEW_HEADS);
    }
    for (int64_t i = 0; i < heads; i++) {
        float p[WM_LANES], by = few_weights(p, scores[i], held, a->scale * LOG2E);
        const float *v = s->v + (h + i) / a->G * D;
        for (int64_t d = 0; d < D; d += WM_LANES) {
            vec acc = {0};
            for (int64_t j = 0; j < held; j++) acc += p[j] * vec_load(v + room->page[j] * s->v_row + d);
            vec_store(out + (h + i) * D + d, acc * by);
        }
    }
}

/* Ask for the next token's rows: frames lie too far apart for the processor to guess. */
static void expect_token(const attention_keys *s, const few_room *room, const wm_attention *a) {
    int64_t width = a->H / a->G * a->D;
    for (int64_t j = 0; j < room->held; j++) {
        expect_rows(s->k + room->page[j] * s->k_row + a->k_width - width, 0, 1, width);
        expect_rows(s->v + room->page[j] * s->v_row + a->v_width - width, 0, 1, width);
    }
}

static void cached_few(float *out, const float *q, const float *k, const float *v, const int32_t *position, const float *cos,
                       const float *sin, const int32_t *pages, const wm_attention *a) {
    int64_t frames = a->sinks + a->ring, tokens = a->outer * a->inner;
    #pragma omp parallel for num_threads(wm_threads) schedule(static) if (tokens * a->H * frames * a->D > 1 << 14)
    for (int64_t u = 0; u < tokens; u++) {
        int64_t outer = u / a->inner, seen = (int64_t)position[outer] + 1;
        attention_keys s = ring_keys(k, v, position, cos, sin, pages, a, outer, u % a->inner);
        few_room room;
        room.held = seen < 0 ? 0 : seen < frames ? seen : frames;
        if (!room.held) {
            memset(out + u * a->H * a->D, 0, (size_t)(a->H * a->D) * sizeof *out);
            continue;
        }
        for (int64_t j = 0; j < room.held; j++) room.page[j] = page_of(&s, ring_slot(a, s.start, j));
        expect_token(&s, &room, a);
        memset(room.rows + room.held * a->D, 0, (size_t)((WM_LANES - room.held) * a->D) * sizeof *room.rows);
        for (int64_t h = 0; h < a->H; h += FEW_HEADS)
            few_heads(out + u * a->H * a->D, q + u * a->q_width, &s, a, &room, h, a->H - h < FEW_HEADS ? a->H - h : FEW_HEADS);
    }
}

/* ---- any number of either ------------------------------------------------------------------------------------- */

/* The latest `n` frames of a ring that has just been given frame `position`: query row i belongs to frame
   position - Nq / tokens + 1 + ..., which sees the frames behind it and itself; forward only.
   q, out (outer, Nq rows in frames of `frame`, inner, H D); k, v (outer, sinks + ring, frame, inner, H/G D);
   position (outer); cos, sin (sinks + ring, pairs) may be NULL: q and k are rotated as they are read, by their
   place among the cached frames, so no position grows without end.  pages (outer, sinks + ring) or NULL: where the
   frames lie, so that samples can share what they have in common. */
static void attention_cached(float *out, const float *q, const float *k, const float *v, const int32_t *position,
                             const float *cos, const float *sin, const int32_t *pages, const wm_attention *a) {
    const int64_t block = attention_block(a->D), blocks = (a->Nq + block - 1) / block, frames = a->sinks + a->ring;
    const int64_t units = a->outer * a->inner * a->H * blocks;
    if (few_keys(a)) {
        cached_few(out, q, k, v, position, cos, sin, pages, a);
        return;
    }
    #pragma omp parallel for num_threads(wm_threads) schedule(static) if (units > 1 && units * a->Nk * a->D > 1 << 14)
    for (int64_t u = 0; u < units; u++) {
        int64_t first = u % blocks * block, h = u / blocks % a->H, inner = u / (blocks * a->H) % a->inner;
        int64_t outer = u / (blocks * a->H * a->inner), n = a->Nq - first < block ? a->Nq - first : block;
        int64_t q_at = (outer * a->Nq + first) * a->inner + inner, seen = (int64_t)position[outer] + 1;
        int64_t held = seen < 0 ? 0 : seen < frames ? seen : frames, offset = held * a->frame - a->Nq;
        attention_keys keys = ring_keys(k, v, position, cos, sin, pages, a, outer, inner);
        keys.k += h / a->G * a->D, keys.v += h / a->G * a->D;
        const float *x = q + q_at * a->q_width + h * a->D;
        int64_t x_row = a->inner * a->q_width;
        float rotated[ATTEND_PANEL];
        for (int64_t i = 0; cos && i < n; i++) {
            int64_t age = first + i + offset < 0 ? 0 : (first + i + offset) / a->frame;
            rotate_row(rotated + i * a->D, x + i * x_row, cos + age * a->pairs, sin + age * a->pairs, a->pairs, a->D,
                       a->interleaved);
        }
        attention_rows w;
        attention_sees(w.lo, w.hi, a, first, n, offset, held * a->frame);
        rows_begin(&w, n);
        attend(out + q_at * a->H * a->D + h * a->D, a->inner * a->H * a->D, NULL, cos ? rotated : x, cos ? a->D : x_row,
               &w, &keys, a->D, a->scale);
    }
}

/* Frame `position` of a stream, and those before it, to their slots of a ring: frames (B, F, n), the last of them is
   frame `position` (B) of the stream; cache (B, sinks + ring, n), pages (B, sinks + ring) or NULL.  Frames before 0 are
   padding and are not written. */
static void cache_write(float *cache, const float *frames, const int32_t *position, const int32_t *pages, int64_t sinks,
                        int64_t ring, int64_t B, int64_t F, int64_t n) {
    #pragma omp parallel for num_threads(wm_threads) schedule(static) if (B > 1 && B * F * n > 1 << 15)
    for (int64_t b = 0; b < B; b++)
        for (int64_t f = 0; f < F; f++) {
            int64_t at = (int64_t)position[b] - F + 1 + f;
            if (at < 0) continue;
            at = b * (sinks + ring) + (at < sinks ? at : sinks + (at - sinks) % ring);
            memcpy(cache + (pages ? pages[at] : at) * n, frames + (b * F + f) * n, (size_t)n * sizeof *cache);
        }
}
