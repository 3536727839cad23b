/* rotary: tables of angles, and the norm and rotation of queries and keys, head by head; arithmetic in kernels.def. */
#include "../tape/tape.h"
#include <math.h>

static int64_t columns_of(const wm_tensor *t) { return t->ndim ? t->shape[t->ndim - 1] : 1; }
static float *numbers(const wm_tensor *t) { return t ? t->data : NULL; }

/* ---- rotary_table -------------------------------------------------------------------------------- */

enum { WIDTH, BASE, AXES, KIND };

static int table_infer(wm_node *n) {
    const wm_tensor *p = n->in[0];
    int64_t pairs = n->attr[WIDTH].i / 2, axes = n->attr[AXES].i ? n->attr[AXES].i : 1, shape[WM_DIMS];
    int ndim = p->ndim;
    if (p->dtype != WM_F32 && p->dtype != WM_I32)
        return wm_fail_as(WM_TYPE, "rotary_table: position wanted float32 or int32, got %s", wm_dtype_name(p->dtype));
    if (n->attr[WIDTH].i < 2 || n->attr[WIDTH].i % 2 || axes < 1 || pairs % axes)
        return wm_fail("rotary_table: width wanted a multiple of %lld, got %lld", (long long)(2 * axes),
                       (long long)n->attr[WIDTH].i);
    if (!(n->attr[BASE].f > 0)) return wm_fail("rotary_table: base wanted above 0, got %g", n->attr[BASE].f);
    if (n->attr[AXES].i && columns_of(p) != axes)
        return wm_fail("rotary_table: position wanted (..., %lld), got %lld columns", (long long)axes,
                       (long long)columns_of(p));
    if (!n->attr[AXES].i && ++ndim > WM_DIMS) return wm_fail("rotary_table: position has too many axes");
    for (int i = 0; i < ndim - 1; i++) shape[i] = p->shape[i];
    shape[ndim - 1] = pairs;
    return wm_out(n, 0, WM_F32, ndim, shape) < 0 ? -1 : wm_out(n, 1, WM_F32, ndim, shape);
}
static void table_forward(wm_node *n) {
    const wm_tensor *p = n->in[0];
    int64_t axes = n->attr[AXES].i ? n->attr[AXES].i : 1;
    n->k->rotary_table(n->out[0]->data, n->out[1]->data, p->dtype == WM_F32 ? p->data : NULL,
                       p->dtype == WM_I32 ? p->i32 : NULL, (float)n->attr[BASE].f, n->attr[KIND].i == 1, p->size / axes, axes,
                       n->attr[WIDTH].i / 2 / axes);
}
static const wm_op rotary_table = {
    "rotary_table", "position@any width:i base:f=10000 axes:i=0 kind:e=base|pixel -> cos sin",
    "cos and sin, each (..., width / 2), of rotary positions (...), whole numbers or not (Su et al. 2021).  axes A > 0:\n"
    "position (..., A), for example row and column, and each axis gets width / 2 / A frequencies, side by side.\n"
    "kind=base: frequencies base^(-i / F); pixel: pi times 1 .. base / 2, evenly spaced, for positions in -1 .. 1\n"
    "(Lu et al. 2023).  Angles are made in float64: there is no largest position.  No gradient.",
    table_infer, table_forward, NULL, NULL};

/* ---- norm and rotation ----------------------------------------------------------------------------- */

/* Sizes common to both ops; the last four attributes are norm, pairs, eps, axis. */
static int describe(wm_node *n, wm_head_norm *a, int first, int64_t parts) {
    const wm_tensor *x = n->in[0], *cos = n->in[1], *sin = n->in[2];
    const char *op = n->op->name;
    int64_t axis = n->attr[first + 3].i, at = axis < 0 ? axis + x->ndim : axis, N, outer = 1;
    *a = (wm_head_norm){.x_width = columns_of(x), .R = x->size / columns_of(x), .inner = 1, .tables = 1,
                        .norm = n->attr[first].i == 0 ? WM_HEAD_RMS : n->attr[first].i == 1 ? WM_HEAD_LAYER : WM_HEAD_PLAIN,
                        .interleaved = n->attr[first + 1].i, .eps = (float)n->attr[first + 2].f};
    if (parts < 1 || a->x_width % parts || a->x_width / parts > WM_HEAD_WIDEST)
        return wm_fail("%s: rows of %lld numbers do not divide into %lld heads of at most %d", op, (long long)a->x_width,
                       (long long)parts, WM_HEAD_WIDEST);
    a->D = a->x_width / parts;
    if (at < 0 || at >= x->ndim - 1)
        return wm_fail("%s: axis wanted one before the last of %d axes, got %lld", op, x->ndim, (long long)axis);
    if (!cos != !sin) return wm_fail("%s: cos and sin go together", op);
    if (!cos) return 0;
    for (int i = 0; i < at; i++) outer *= x->shape[i];
    for (int i = (int)at + 1; i < x->ndim - 1; i++) a->inner *= x->shape[i];
    N = x->shape[at], a->pairs = columns_of(cos), a->tables = cos->size / a->pairs;
    if (cos->size != sin->size || columns_of(sin) != a->pairs || 2 * a->pairs > a->D ||
        (a->tables != N && a->tables != outer * N))
        return wm_fail("%s: cos and sin wanted %lld rows (or one a sample and position) of at most %lld, got %lld of %lld", op,
                       (long long)N, (long long)a->D / 2, (long long)a->tables, (long long)a->pairs);
    return 0;
}

static int check_scale(wm_node *n, const wm_tensor *scale, const wm_head_norm *a) {
    if (scale && scale->size != a->D)
        return wm_fail("%s: scale wanted %lld numbers, one a column of a head, got %lld", n->op->name, (long long)a->D,
                       (long long)scale->size);
    if (scale && n->needs_grad) n->scratch_bytes = (size_t)WM_HEAD_PARTS * a->D * sizeof(float);
    return 0;
}

static int heads_of(wm_node *n, wm_head_norm *a) {
    if (describe(n, a, 1, n->attr[0].i) < 0) return -1;
    a->H = n->attr[0].i;
    return check_scale(n, n->in[3], a);
}
static int norm_infer(wm_node *n) {
    wm_head_norm a;
    return heads_of(n, &a) < 0 ? -1 : wm_out(n, 0, WM_F32, n->in[0]->ndim, n->in[0]->shape);
}
static void norm_forward(wm_node *n) {
    wm_head_norm a;
    heads_of(n, &a);
    n->k->head_norm_forward(n->out[0]->data, n->in[0]->data, numbers(n->in[1]), numbers(n->in[2]), numbers(n->in[3]), &a);
}
static void norm_backward(wm_node *n) {
    wm_head_norm a;
    heads_of(n, &a);
    n->k->head_norm_backward(wm_grad(n->in[0]), wm_grad(n->in[3]), n->scratch, n->out[0]->grad, n->in[0]->data,
                             numbers(n->in[1]), numbers(n->in[2]), numbers(n->in[3]), &a);
}
static const wm_op qk_norm_rotary = {
    "qk_norm_rotary",
    "x cos? sin? scale? heads:i norm:e=rms|layer|none pairs:e=half|interleaved eps:f=0.000001 axis:i=-2",
    "rotate(scale (x - mean) / sqrt(variance + eps)) for each head of x (..., N, ..., heads D): the norm of queries and keys\n"
    "(Dehghani et al. 2023; mean 0 for rms) and the rotary embedding (Su et al. 2021) in one pass.  cos, sin (N, P) or one\n"
    "such table a sample, P <= D / 2: the first 2 P columns of a head turn, partners P apart (half) or side by side\n"
    "(interleaved).  scale (D).  axis: the sequence.  No gradient for cos and sin.",
    norm_infer, norm_forward, norm_backward, NULL};

/* q and k of fused rows, one after the other: part 0 or 1. */
static int fused_heads_of(wm_node *n, wm_head_norm *a, int part) {
    int64_t heads = n->attr[0].i, groups = n->attr[1].i ? n->attr[1].i : heads;
    if (heads < 1 || groups < 1 || heads % groups)
        return wm_fail("qkv_norm_rotary: kv_heads wanted a divisor of %lld heads, got %lld", (long long)heads,
                       (long long)groups);
    if (describe(n, a, 2, heads + 2 * groups) < 0) return -1;
    a->H = part ? groups : heads;
    return check_scale(n, n->in[3 + part], a);
}
static int fused_infer(wm_node *n) {
    int64_t shape[WM_DIMS];
    for (int i = 0; i < n->in[0]->ndim; i++) shape[i] = n->in[0]->shape[i];
    for (int part = 0; part < 2; part++) {
        wm_head_norm a;
        if (fused_heads_of(n, &a, part) < 0) return -1;
        shape[n->in[0]->ndim - 1] = a.H * a.D;
        if (wm_out(n, part, WM_F32, n->in[0]->ndim, shape) < 0) return -1;
    }
    return 0;
}
static void fused_forward(wm_node *n) {
    for (int part = 0; part < 2; part++) {
        wm_head_norm a;
        fused_heads_of(n, &a, part);
        n->k->head_norm_forward(n->out[part]->data, n->in[0]->data + (part ? n->attr[0].i * a.D : 0), numbers(n->in[1]),
                                numbers(n->in[2]), numbers(n->in[3 + part]), &a);
    }
}
static void fused_backward(wm_node *n) {
    float *dx = wm_grad(n->in[0]);
    for (int part = 0; part < 2; part++) {
        wm_head_norm a;
        fused_heads_of(n, &a, part);
        int64_t first = part ? n->attr[0].i * a.D : 0;
        n->k->head_norm_backward(dx ? dx + first : NULL, wm_grad(n->in[3 + part]), n->scratch, n->out[part]->grad,
                                 n->in[0]->data + first, numbers(n->in[1]), numbers(n->in[2]), numbers(n->in[3 + part]), &a);
    }
}
static const wm_op qkv_norm_rotary = {
    "qkv_norm_rotary",
    "qkv cos? sin? q_scale? k_scale? heads:i kv_heads:i=0 norm:e=rms|layer|none pairs:e=half|interleaved eps:f=0.000001 axis:i=-2 -> q k",
    "qk_norm_rotary of the q (..., heads D) and the k (..., kv_heads D) in rows qkv (..., (heads + 2 kv_heads) D), read where\n"
    "they lie; attention_qkv takes both beside qkv.",
    fused_infer, fused_forward, fused_backward, NULL};

const wm_op *const wm_ops_rotary[] = {&rotary_table, &qk_norm_rotary, &qkv_norm_rotary, NULL};
