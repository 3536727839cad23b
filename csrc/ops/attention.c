/* attention: the ops of this family; see kernels.def for the arithmetic.

   Heads are column blocks of the rows, so a linear layer's output is attended to where it lies; `axis` says which axis
   is the sequence, so space (-2) and time (-3 of (B, T, N, C)) need no transposition. */
#include "../tape/tape.h"
#include "axes.h"
#include <math.h>

/* What an attention op was told, as numbers; the order of attributes is that of the specs below. */
enum { HEADS, KV_HEADS, MASK, WINDOW, FRAME, SCALE, AXIS };

static int64_t row_width(const wm_tensor *t) { return t->ndim ? t->shape[t->ndim - 1] : 1; }

/* The sequence axis, counted from the front; -1 with an error if x has no such axis before its last. */
static int sequence_axis(const char *op, const wm_tensor *x, int64_t axis) {
    int64_t at = axis < 0 ? axis + x->ndim : axis;
    if (at >= 0 && at < x->ndim - 1) return (int)at;
    return wm_fail("%s: axis wanted one before the last of %d axes, got %lld", op, x->ndim, (long long)axis);
}

static int64_t product_of(const wm_tensor *t, int from, int to) {
    int64_t n = 1;
    for (int i = from; i < to; i++) n *= t->shape[i];
    return n;
}

/* Heads, masks and scale from the attributes; the caller adds sizes and widths. */
static int describe(wm_node *n, wm_attention *a) {
    const char *op = n->op->name;
    int64_t heads = n->attr[HEADS].i, kv_heads = n->attr[KV_HEADS].i ? n->attr[KV_HEADS].i : heads;
    *a = (wm_attention){.H = heads, .mask = n->attr[MASK].i, .window = n->attr[WINDOW].i, .frame = n->attr[FRAME].i};
    if (heads < 1) return wm_fail("%s: heads wanted at least 1, got %lld", op, (long long)heads);
    if (kv_heads < 1 || heads % kv_heads)
        return wm_fail("%s: kv_heads wanted a divisor of %lld heads, got %lld", op, (long long)heads, (long long)kv_heads);
    a->G = heads / kv_heads;
    if (a->window < 0 || (a->mask == WM_MASK_WINDOW && !a->window))
        return wm_fail("%s: window wanted at least 1, got %lld", op, (long long)a->window);
    if (a->mask == WM_MASK_FRAME_CAUSAL && a->frame < 1)
        return wm_fail("%s: frame wanted at least 1 token, got %lld", op, (long long)a->frame);
    if (n->attr[SCALE].f < 0) return wm_fail("%s: scale wanted above 0, got %g", op, n->attr[SCALE].f);
    return 0;
}

static int head_width(wm_node *n, wm_attention *a, int64_t columns, int64_t heads) {
    if (columns % heads)
        return wm_fail("%s: rows of %lld numbers do not divide into %lld heads", n->op->name, (long long)columns,
                       (long long)heads);
    a->D = columns / heads;
    if (a->D > WM_HEAD_WIDEST)
        return wm_fail("%s: heads wanted at most %d wide, got %lld", n->op->name, WM_HEAD_WIDEST, (long long)a->D);
    a->scale = n->attr[SCALE].f > 0 ? (float)n->attr[SCALE].f : (float)(1 / sqrt((double)a->D));
    return 0;
}

static int check_lengths(wm_node *n, const wm_tensor *lengths, wm_attention *a) {
    a->lengths = lengths ? lengths->size : 1;
    if (a->outer % a->lengths)
        return wm_fail("%s: lengths wanted one a sample (of %lld), got %lld", n->op->name, (long long)a->outer,
                       (long long)a->lengths);
    return 0;
}

static int check_range(const wm_node *n, const wm_tensor *lengths, int64_t most) {
    const int32_t *numbers = lengths ? wm_read(lengths) : NULL;
    if (!lengths) return 0;
    int failed = numbers ? 0 : -1;
    for (int64_t i = 0; i < lengths->size && !failed; i++)
        if (numbers[i] < 0 || numbers[i] > most)
            failed = wm_fail_as(WM_INDEX, "%s: lengths wanted 0 to %lld keys, got %d", n->op->name, (long long)most, numbers[i]);
    wm_read_done(lengths, numbers);
    return failed;
}

/* ---- attention: q, k, v apart ------------------------------------------------------------------- */

static int shape_of(wm_node *n, wm_attention *a) {
    const wm_tensor *q = n->in[0], *k = n->in[1], *v = n->in[2];
    char text[2][96];
    int axis;
    if (describe(n, a) < 0 || head_width(n, a, row_width(q), a->H) < 0) return -1;
    if ((axis = sequence_axis("attention", q, n->attr[AXIS].i)) < 0) return -1;
    bool fits = k->ndim == q->ndim && row_width(k) == a->H / a->G * a->D;
    for (int i = 0; fits && i < q->ndim - 1; i++) fits = i == axis || k->shape[i] == q->shape[i];
    if (!fits)
        return wm_fail("attention: k wanted the shape of q %s but for axis %d and %lld columns, got %s",
                       wm_shape_text(q, text[0], 96), axis, (long long)(a->H / a->G * a->D), wm_shape_text(k, text[1], 96));
    fits = v->ndim == k->ndim;
    for (int i = 0; fits && i < k->ndim; i++) fits = v->shape[i] == k->shape[i];
    if (!fits)
        return wm_fail("attention: v wanted the shape of k %s, got %s", wm_shape_text(k, text[0], 96),
                       wm_shape_text(v, text[1], 96));
    a->outer = product_of(q, 0, axis), a->inner = product_of(q, axis + 1, q->ndim - 1);
    a->Nq = q->shape[axis], a->Nk = k->shape[axis];
    a->q_width = row_width(q), a->k_width = a->v_width = row_width(k);
    return check_lengths(n, n->in[3], a);
}

static int save_lse(wm_node *n, const wm_attention *a) {
    return n->needs_grad ? wm_save(n, 0, WM_F32, 1, (int64_t[]){a->outer * a->inner * a->H * a->Nq}) : 0;
}
static float *lse_of(const wm_node *n) { return n->saved[0] ? n->saved[0]->data : NULL; }
static const int32_t *numbers_of(const wm_tensor *t) { return t ? t->i32 : NULL; }

static int attention_infer(wm_node *n) {
    wm_attention a;
    return shape_of(n, &a) < 0 || save_lse(n, &a) < 0 ? -1 : wm_out(n, 0, WM_F32, n->in[0]->ndim, n->in[0]->shape);
}
static int attention_check(wm_node *n) {
    wm_attention a;
    return shape_of(n, &a) < 0 ? -1 : check_range(n, n->in[3], a.Nk);
}
static void attention_forward(wm_node *n) {
    wm_attention a;
    shape_of(n, &a);
    n->k->attention_forward(n->out[0]->data, lse_of(n), n->in[0]->data, n->in[1]->data, n->in[2]->data,
                            numbers_of(n->in[3]), &a);
}
static void attention_backward(wm_node *n) {
    wm_attention a;
    shape_of(n, &a);
    n->k->attention_backward(wm_grad(n->in[0]), wm_grad(n->in[1]), wm_grad(n->in[2]), n->out[0]->grad, n->out[0]->data,
                             lse_of(n), n->in[0]->data, n->in[1]->data, n->in[2]->data, numbers_of(n->in[3]), &a);
}
static const wm_op attention = {
    "attention",
    "q k v lengths@i32? heads:i kv_heads:i=0 mask:e=full|causal|window|frame_causal window:i=0 frame:i=0 scale:f=0 axis:i=-2",
    "softmax(scale q k^T) v for each head, over the sequence axis (Vaswani et al. 2017; streaming: Dao et al. 2022).\n"
    "q (..., Nq, ..., heads D), k and v (..., Nk, ..., kv_heads D): heads are column blocks; any D up to 512; scale 0 is\n"
    "1/sqrt(D).  mask: causal and window (the latest `window` keys) align the last query with the last key;\n"
    "frame_causal lets a token see all tokens of its own frame (`frame` tokens) and of those before it (the latest\n"
    "`window` frames, 0: all).  lengths: keys that count in each sample.  A query that sees no key gives 0.",
    attention_infer, attention_forward, attention_backward, attention_check};

/* ---- attention_qkv: one row holds q, k and v ------------------------------------------------------ */

/* Where q, k, v begin in a row of qkv; q and k may have been given apart (normed and rotated). */
static int fused_shape_of(wm_node *n, wm_attention *a) {
    const wm_tensor *x = n->in[0];
    int axis;
    if (describe(n, a) < 0 || head_width(n, a, row_width(x), a->H + 2 * (a->H / a->G)) < 0) return -1;
    if ((axis = sequence_axis("attention_qkv", x, n->attr[AXIS].i)) < 0) return -1;
    for (int i = 1; i < 3; i++) {
        int64_t columns = (i == 1 ? a->H : a->H / a->G) * a->D, rows = product_of(x, 0, x->ndim - 1);
        char text[2][96];
        if (n->in[i] && (row_width(n->in[i]) != columns || n->in[i]->size != rows * columns))
            return wm_fail("attention_qkv: %s wanted the rows of qkv %s with %lld columns, got %s", i == 1 ? "q" : "k",
                           wm_shape_text(x, text[0], 96), (long long)columns, wm_shape_text(n->in[i], text[1], 96));
    }
    a->outer = product_of(x, 0, axis), a->inner = product_of(x, axis + 1, x->ndim - 1);
    a->Nq = a->Nk = x->shape[axis];
    a->v_width = row_width(x);
    a->q_width = n->in[1] ? row_width(n->in[1]) : a->v_width;
    a->k_width = n->in[2] ? row_width(n->in[2]) : a->v_width;
    return check_lengths(n, n->in[3], a);
}

static int fused_infer(wm_node *n) {
    wm_attention a;
    int64_t shape[WM_DIMS];
    if (fused_shape_of(n, &a) < 0 || save_lse(n, &a) < 0) return -1;
    for (int i = 0; i < n->in[0]->ndim; i++) shape[i] = n->in[0]->shape[i];
    shape[n->in[0]->ndim - 1] = a.H * a.D;
    return wm_out(n, 0, WM_F32, n->in[0]->ndim, shape);
}
static int fused_check(wm_node *n) {
    wm_attention a;
    return fused_shape_of(n, &a) < 0 ? -1 : check_range(n, n->in[3], a.Nk);
}
static void fused_forward(wm_node *n) {
    wm_attention a;
    fused_shape_of(n, &a);
    const float *x = n->in[0]->data, *q = n->in[1] ? n->in[1]->data : x, *k = n->in[2] ? n->in[2]->data : x + a.H * a.D;
    n->k->attention_forward(n->out[0]->data, lse_of(n), q, k, x + (a.H + a.H / a.G) * a.D, numbers_of(n->in[3]), &a);
}
static void fused_backward(wm_node *n) {
    wm_attention a;
    fused_shape_of(n, &a);
    int64_t k_at = a.H * a.D, v_at = (a.H + a.H / a.G) * a.D;
    const float *x = n->in[0]->data, *q = n->in[1] ? n->in[1]->data : x, *k = n->in[2] ? n->in[2]->data : x + k_at;
    float *dx = wm_grad(n->in[0]), *dq = n->in[1] ? wm_grad(n->in[1]) : dx;
    float *dk = n->in[2] ? wm_grad(n->in[2]) : dx ? dx + k_at : NULL;
    n->k->attention_backward(dq, dk, dx ? dx + v_at : NULL, n->out[0]->grad, n->out[0]->data, lse_of(n), q, k, x + v_at,
                             numbers_of(n->in[3]), &a);
}
static const wm_op attention_qkv = {
    "attention_qkv",
    "qkv q? k? lengths@i32? heads:i kv_heads:i=0 mask:e=full|causal|window|frame_causal window:i=0 frame:i=0 scale:f=0 axis:i=-2",
    "attention over rows that hold q, k and v side by side: qkv (..., N, ..., (heads + 2 kv_heads) D), as one linear layer\n"
    "makes them.  q (..., heads D) and k (..., kv_heads D), if given, take the place of those in qkv (see\n"
    "qkv_norm_rotary); v is always read from qkv.  The rest as in attention.",
    fused_infer, fused_forward, fused_backward, fused_check};

/* ---- the cache: frames in a ring, sinks kept for good --------------------------------------------- */

/* Pages, if there: one number for each of the frames of the caches (B, frames). */
static int pages_infer(const char *op, const wm_tensor *pages, int64_t B, int64_t frames) {
    if (!pages || (pages->ndim == 2 && pages->shape[0] == B && pages->shape[1] == frames)) return 0;
    char text[96];
    return wm_fail("%s: pages wanted (%lld, %lld), got %s", op, (long long)B, (long long)frames,
                   wm_shape_text(pages, text, 96));
}

/* On a device they are not read to be checked: its kernels wrap them round. */
static int pages_check(const wm_node *n, const wm_tensor *pages) {
    return pages && !n->device ? wm_check_index(n, pages, pages->size) : 0;
}

static int ring_infer(const char *op, const wm_tensor *cache, const wm_tensor *frames, const wm_tensor *position,
                      int64_t sinks) {
    char text[2][96];
    bool fits = cache->ndim >= 3 && cache->ndim == frames->ndim && cache->shape[0] == frames->shape[0];
    for (int i = 2; fits && i < cache->ndim; i++) fits = cache->shape[i] == frames->shape[i];
    if (!fits)
        return wm_fail("%s: frames wanted the shape of the cache %s but for axis 1, got %s", op,
                       wm_shape_text(cache, text[0], 96), wm_shape_text(frames, text[1], 96));
    if (position->size != cache->shape[0])
        return wm_fail("%s: position wanted one a sample (%lld), got %lld", op, (long long)cache->shape[0],
                       (long long)position->size);
    if (sinks < 0 || sinks >= cache->shape[1])
        return wm_fail("%s: sinks wanted 0 to %lld (the cache has %lld frames), got %lld", op,
                       (long long)cache->shape[1] - 1, (long long)cache->shape[1], (long long)sinks);
    return 0;
}

static int write_infer(wm_node *n) {
    const wm_tensor *cache = n->in[0], *frames = n->in[1];
    if (ring_infer("cache_write", cache, frames, n->in[2], n->attr[0].i) < 0) return -1;
    if (pages_infer("cache_write", n->in[3], cache->shape[0], cache->shape[1]) < 0) return -1;
    if (frames->shape[1] > cache->shape[1] - n->attr[0].i)
        return wm_fail("cache_write: frames wanted at most %lld at once (the ring), got %lld",
                       (long long)(cache->shape[1] - n->attr[0].i), (long long)frames->shape[1]);
    return wm_out_view(n, 0, n->in[0], 0, cache->ndim, cache->shape);
}
static int write_check(wm_node *n) { return pages_check(n, n->in[3]); }
static void write_forward(wm_node *n) {
    wm_tensor *cache = n->in[0], *frames = n->in[1];
    int64_t sinks = n->attr[0].i;
    n->k->cache_write(cache->data, frames->data, n->in[2]->i32, numbers_of(n->in[3]), sinks, cache->shape[1] - sinks,
                      cache->shape[0], frames->shape[1], frames->size / (frames->shape[0] * frames->shape[1]));
    wm_written(cache);
}
static const wm_op cache_write = {
    "cache_write", "cache frames position@i32 pages@i32? sinks:i=0",
    "Writes frames (B, F, ...) into cache (B, sinks + ring, ...), in place, and gives the cache.  The last of the F frames\n"
    "is frame position[b] of sample b's stream (counted from 0); frame p lies in slot p if p < sinks, else in slot\n"
    "sinks + (p - sinks) % ring.  Frames before 0 are padding and are not written, so samples may have any lengths.\n"
    "pages (B, sinks + ring): the place of each slot among all B (sinks + ring) frames of the cache, so that samples may\n"
    "share frames; two must not write into one.  No gradient.",
    write_infer, write_forward, NULL, write_check};

/* Attributes of attention_cached. */
enum { C_HEADS, C_KV_HEADS, C_SINKS, C_SCALE, C_OVER, C_PAIRS };

static int cached_shape_of(wm_node *n, wm_attention *a) {
    const wm_tensor *q = n->in[0], *k = n->in[1], *v = n->in[2], *cos = n->in[4], *sin = n->in[5];
    char text[2][96];
    int64_t heads = n->attr[C_HEADS].i, groups = n->attr[C_KV_HEADS].i ? n->attr[C_KV_HEADS].i : heads;
    bool all = n->attr[C_OVER].i;
    if (heads < 1 || groups < 1 || heads % groups)
        return wm_fail("attention_cached: kv_heads wanted a divisor of %lld heads, got %lld", (long long)heads,
                       (long long)groups);
    if (q->ndim != 4 || row_width(q) % heads || row_width(q) / heads > WM_HEAD_WIDEST)
        return wm_fail("attention_cached: q wanted (B, F, N, heads D) with D at most %d, got %s for %lld heads",
                       WM_HEAD_WIDEST, wm_shape_text(q, text[0], 96), (long long)heads);
    int64_t D = row_width(q) / heads, N = q->shape[2], frames;
    bool fits = k->ndim == 4 && v->ndim == 4 && k->shape[0] == q->shape[0] && k->shape[2] == N && row_width(k) == groups * D;
    for (int i = 0; fits && i < 4; i++) fits = k->shape[i] == v->shape[i];
    if (!fits)
        return wm_fail("attention_cached: caches wanted (%lld, frames, %lld, %lld), got %s and %s", (long long)q->shape[0],
                       (long long)N, (long long)(groups * D), wm_shape_text(k, text[0], 96), wm_shape_text(v, text[1], 96));
    frames = k->shape[1];
    *a = (wm_attention){.outer = q->shape[0], .inner = all ? 1 : N, .H = heads, .G = heads / groups, .D = D,
                        .frame = all ? N : 1, .mask = all ? WM_MASK_FRAME_CAUSAL : WM_MASK_CAUSAL, .lengths = 1,
                        .q_width = row_width(q), .k_width = row_width(k), .v_width = row_width(v),
                        .sinks = n->attr[C_SINKS].i, .ring = frames - n->attr[C_SINKS].i,
                        .interleaved = n->attr[C_PAIRS].i, .pairs = cos ? row_width(cos) : 0};
    a->Nq = q->shape[1] * a->frame, a->Nk = frames * a->frame;
    a->scale = n->attr[C_SCALE].f > 0 ? (float)n->attr[C_SCALE].f : (float)(1 / sqrt((double)D));
    if (a->sinks < 0 || a->ring < 1)
        return wm_fail("attention_cached: sinks wanted 0 to %lld, got %lld", (long long)frames - 1, (long long)a->sinks);
    if (n->in[3]->size != a->outer)
        return wm_fail("attention_cached: position wanted one a sample (%lld), got %lld", (long long)a->outer,
                       (long long)n->in[3]->size);
    if (!cos != !sin || (cos && (cos->size != frames * a->pairs || sin->size != cos->size || 2 * a->pairs > D)))
        return wm_fail("attention_cached: cos and sin wanted (%lld, at most %lld) both, one row a cached frame",
                       (long long)frames, (long long)D / 2);
    return pages_infer("attention_cached", n->in[6], a->outer, frames);
}

static int cached_check(wm_node *n) { return pages_check(n, n->in[6]); }
static int cached_infer(wm_node *n) {
    wm_attention a;
    return cached_shape_of(n, &a) < 0 ? -1 : wm_out(n, 0, WM_F32, n->in[0]->ndim, n->in[0]->shape);
}
static void cached_forward(wm_node *n) {
    wm_attention a;
    cached_shape_of(n, &a);
    n->k->attention_cached(n->out[0]->data, n->in[0]->data, n->in[1]->data, n->in[2]->data, n->in[3]->i32,
                           n->in[4] ? n->in[4]->data : NULL, n->in[5] ? n->in[5]->data : NULL, numbers_of(n->in[6]), &a);
}
static const wm_op attention_cached = {
    "attention_cached",
    "q k_cache v_cache position@i32 cos? sin? pages@i32? heads:i kv_heads:i=0 sinks:i=0 scale:f=0 over:e=time|all pairs:e=half|interleaved",
    "Attention of the latest F frames, q (B, F, N, heads D), over caches (B, sinks + ring, N, kv_heads D) that cache_write\n"
    "has filled up to frame position[b], read where they lie; causal over frames.  over=time: a token sees the same token\n"
    "of other frames; over=all: all tokens of them.  cos, sin (sinks + ring, pairs): q and the keys, stored unrotated,\n"
    "are turned as they are read, by their place among the cached frames (StreamingLLM, Xiao et al. 2024), so that a\n"
    "stream has no largest length.  pages: see cache_write.  The same bits as attention over all frames while none was evicted.  No gradient.",
    cached_infer, cached_forward, NULL, cached_check};

const wm_op *const wm_ops_attention[] = {&attention, &attention_qkv, &attention_cached, &cache_write, NULL};
