/* reduce: sums, means, extremes and variances over axes; scans along one; softmax and its kin along the last.
   Kernels reduce the middle of (A,R,B).  Axes that do not lie side by side are first brought together in scratch. */
#include "axes.h"
#include <string.h>

/* ---- axes as (A,R,B) -------------------------------------------------------------------------- */

typedef struct {
    int64_t A, R, B;
    bool apart;             /* the axes do not lie side by side: B is 1 and x is read through walk */
    wm_walk walk;           /* kept axes, then reduced ones, with the strides of x */
} groups;

/* Bit d is set for a reduced axis; no axes named means all.  -1, with wm_error set, if one is wrong. */
static int reduced_axes(const wm_node *n, const wm_tensor *x) {
    int mask = 0;
    for (int i = 0; i < n->n_list; i++) {
        const int d = wm_axis(n, x, n->list[i]);
        if (d < 0) return -1;
        if (mask >> d & 1) return wm_fail("%s: axis %d is named twice", n->op->name, d);
        mask |= 1 << d;
    }
    return n->n_list ? mask : (1 << x->ndim) - 1;
}

static groups groups_of(const wm_node *n) {
    const wm_tensor *x = n->in[0];
    const int mask = reduced_axes(n, x);
    groups g = {1, 1, 1, false, {0, {0}, {0}}};
    int runs = 0;
    bool inside = false;
    for (int d = 0; d < x->ndim; d++) {
        if (x->shape[d] == 1) continue;
        const bool reduced = mask >> d & 1;
        runs += reduced && !inside;
        inside = reduced;
        *(reduced ? &g.R : runs ? &g.B : &g.A) *= x->shape[d];
    }
    if (runs <= 1) return g;
    g.apart = true, g.A *= g.B, g.B = 1;
    for (int wanted = 0; wanted < 2; wanted++) {
        int64_t stride = x->size;
        for (int d = 0; d < x->ndim; d++) {
            stride /= x->shape[d];
            if ((mask >> d & 1) == wanted) wm_walk_axis(&g.walk, x->shape[d], stride);
        }
    }
    return g;
}

/* x as the kernels want it: itself, or gathered into scratch. */
static const float *gathered(const wm_node *n, const groups *g) {
    if (!g->apart) return n->in[0]->data;
    n->k->strided_copy(n->scratch, n->in[0]->data, 4, g->walk.shape, g->walk.stride, g->walk.ndim);
    return n->scratch;
}

/* Where a gradient of x is added: its own, or zeroed scratch that give_back adds to it. */
static float *gradient(const wm_node *n, const groups *g, int64_t room) {
    if (!g->apart) return wm_grad(n->in[0]);
    float *dx = (float *)n->scratch + room;
    wm_zero(n->device, dx, (size_t)n->in[0]->size * sizeof *dx);
    return dx;
}
static void give_back(const wm_node *n, const groups *g, const float *dx) {
    if (g->apart) n->k->strided_add(wm_grad(n->in[0]), dx, g->walk.shape, g->walk.stride, g->walk.ndim);
}

/* Scratch for x gathered, and copies more of it; then the output without the reduced axes, or with length 1 in them. */
static int infer_reduced(wm_node *n, int out, wm_dtype dtype, bool keepdims) {
    const wm_tensor *x = n->in[0];
    const int mask = reduced_axes(n, x);
    if (mask < 0) return -1;
    int64_t shape[WM_DIMS];
    int ndim = 0;
    for (int d = 0; d < x->ndim; d++) {
        if (mask >> d & 1) { if (keepdims) shape[ndim++] = 1; }
        else shape[ndim++] = x->shape[d];
    }
    const groups g = groups_of(n);
    n->scratch_bytes = g.apart ? (size_t)x->size * sizeof(float) * (n->needs_grad ? 2 : 1) : 0;
    return wm_out(n, out, dtype, ndim, shape);
}

/* ---- sum, mean -------------------------------------------------------------------------------- */

static int infer_sum(wm_node *n) { return infer_reduced(n, 0, WM_F32, n->attr[0].i); }

static void sum_scaled(wm_node *n, bool mean) {
    const groups g = groups_of(n);
    n->k->sum_forward(n->out[0]->data, gathered(n, &g), mean ? 1.0 / (double)g.R : 1.0, g.A, g.R, g.B);
}
static void sum_spread(wm_node *n, bool mean) {
    const groups g = groups_of(n);
    float *dx = gradient(n, &g, 0);
    n->k->sum_backward(dx, n->out[0]->grad, mean ? 1.0 / (double)g.R : 1.0, g.A, g.R, g.B);
    give_back(n, &g, dx);
}
static void sum_forward(wm_node *n) { sum_scaled(n, false); }
static void sum_backward(wm_node *n) { sum_spread(n, false); }
static void mean_forward(wm_node *n) { sum_scaled(n, true); }
static void mean_backward(wm_node *n) { sum_spread(n, true); }

static const wm_op sum = {"sum", "x axes:t= keepdims:b=0",
    "Sum over the axes, all if none is named; pairwise, in a fixed order.", infer_sum, sum_forward, sum_backward, NULL};
static const wm_op mean = {"mean", "x axes:t= keepdims:b=0",
    "Mean over the axes, all if none is named; pairwise, in a fixed order.", infer_sum, mean_forward, mean_backward, NULL};

/* ---- var -------------------------------------------------------------------------------------- */

static int infer_var(wm_node *n) {
    if (infer_reduced(n, 0, WM_F32, n->attr[0].i) < 0) return -1;
    const groups g = groups_of(n);
    if (n->attr[1].i >= g.R)
        return wm_fail("var: correction %lld needs more than %lld numbers along the axes", (long long)n->attr[1].i, (long long)g.R);
    return wm_save(n, 0, WM_F32, n->out[0]->ndim, n->out[0]->shape);
}
static void var_forward(wm_node *n) {
    const groups g = groups_of(n);
    n->k->var_forward(n->out[0]->data, n->saved[0]->data, gathered(n, &g), (float)n->attr[1].i, g.A, g.R, g.B);
}
static void var_backward(wm_node *n) {
    const groups g = groups_of(n);
    const float *x = gathered(n, &g);
    float *dx = gradient(n, &g, n->in[0]->size);
    n->k->var_backward(dx, n->out[0]->grad, n->saved[0]->data, x, (float)n->attr[1].i, g.A, g.R, g.B);
    give_back(n, &g, dx);
}
static const wm_op var = {"var", "x axes:t= keepdims:b=0 correction:i=0",
    "Variance over the axes, all if none is named: sum (x - mean)^2 / (count - correction), in two passes.",
    infer_var, var_forward, var_backward, NULL};

/* ---- max, min, argmax ------------------------------------------------------------------------- */

static int infer_top(wm_node *n) {
    if (n->in[0]->size > INT32_MAX) return wm_fail("%s: more than 2^31 numbers", n->op->name);
    if (infer_reduced(n, 0, WM_F32, n->attr[0].i) < 0) return -1;
    return n->needs_grad ? wm_save(n, 0, WM_I32, n->out[0]->ndim, n->out[0]->shape) : 0;
}
static void top(wm_node *n, float sign) {
    const groups g = groups_of(n);
    n->k->top_forward(n->out[0]->data, n->saved[0] ? n->saved[0]->i32 : NULL, gathered(n, &g), sign, g.A, g.R, g.B);
}
static void max_forward(wm_node *n) { top(n, 1.0f); }
static void min_forward(wm_node *n) { top(n, -1.0f); }
static void top_backward(wm_node *n) {
    const groups g = groups_of(n);
    float *dx = gradient(n, &g, 0);
    n->k->top_backward(dx, n->out[0]->grad, n->saved[0]->i32, g.A, g.R, g.B);
    give_back(n, &g, dx);
}
static const wm_op max = {"max", "x axes:t= keepdims:b=0",
    "Largest number over the axes, all if none is named; NaN if there is one.  The first largest receives the gradient.",
    infer_top, max_forward, top_backward, NULL};
static const wm_op min = {"min", "x axes:t= keepdims:b=0",
    "Smallest number over the axes, all if none is named; NaN if there is one.  The first smallest receives the gradient.",
    infer_top, min_forward, top_backward, NULL};

static int infer_argmax(wm_node *n) {
    const int axis = wm_axis(n, n->in[0], n->attr[0].i);
    if (axis < 0) return -1;
    n->list[0] = axis, n->n_list = 1;
    return infer_reduced(n, 0, WM_I32, n->attr[1].i);
}
static void argmax_forward(wm_node *n) {
    const groups g = groups_of(n);
    n->k->top_forward(NULL, n->out[0]->i32, n->in[0]->data, n->attr[2].i ? -1.0f : 1.0f, g.A, g.R, g.B);
}
static const wm_op argmax = {"argmax", "x axis:i=-1 keepdims:b=0 smallest:b=0",
    "Index (int32) of the first largest number along an axis, of the first NaN if there is one; of the smallest if asked.",
    infer_argmax, argmax_forward, NULL, NULL};

/* ---- scans ------------------------------------------------------------------------------------ */

static int infer_cumsum(wm_node *n) {
    return wm_axis(n, n->in[0], n->attr[0].i) < 0 ? -1 : wm_out(n, 0, WM_F32, n->in[0]->ndim, n->in[0]->shape);
}
typedef struct { int64_t A, R, B; } slabs;
static slabs slabs_of(const wm_node *n) {
    const wm_tensor *x = n->in[0];
    const int d = wm_axis(n, x, n->attr[0].i);
    return (slabs){wm_size_between(x, 0, d), x->shape[d], wm_size_between(x, d + 1, x->ndim)};
}
static void cumsum_forward(wm_node *n) {
    const slabs s = slabs_of(n);
    n->k->cumsum_forward(n->out[0]->data, n->in[0]->data, s.A, s.R, s.B);
}
static void cumsum_backward(wm_node *n) {
    const slabs s = slabs_of(n);
    n->k->cumsum_backward(wm_grad(n->in[0]), n->out[0]->grad, s.A, s.R, s.B);
}
static const wm_op cumsum = {"cumsum", "x axis:i=-1", "Running sum along an axis, kept in double.", infer_cumsum,
                             cumsum_forward, cumsum_backward, NULL};

static int infer_scan(wm_node *n) {
    const wm_tensor *a = n->in[0], *b = n->in[1], *last = n->in[2];
    char want[96], got[96];
    const int axis = wm_axis(n, a, n->attr[0].i);
    if (axis < 0) return -1;
    if (b->ndim != a->ndim || memcmp(b->shape, a->shape, (size_t)a->ndim * sizeof *a->shape))
        return wm_fail("reverse_scan: b wanted the shape of a, %s, got %s", wm_shape_text(a, want, sizeof want),
                       wm_shape_text(b, got, sizeof got));
    bool fits = !last || last->ndim == a->ndim - 1;
    for (int d = 0; last && fits && d < last->ndim; d++) fits = last->shape[d] == a->shape[d + (d >= axis)];
    if (!fits)
        return wm_fail("reverse_scan: last wanted the shape of a, %s, without axis %d, got %s", wm_shape_text(a, want, sizeof want),
                       axis, wm_shape_text(last, got, sizeof got));
    return wm_out(n, 0, WM_F32, a->ndim, a->shape);
}
static void scan_forward(wm_node *n) {
    const slabs s = slabs_of(n);
    n->k->reverse_scan_forward(n->out[0]->data, n->in[0]->data, n->in[1]->data, n->in[2] ? n->in[2]->data : NULL, s.A, s.R, s.B);
}
static void scan_backward(wm_node *n) {
    const slabs s = slabs_of(n);
    n->k->reverse_scan_backward(wm_grad(n->in[0]), wm_grad(n->in[1]), wm_grad(n->in[2]), n->out[0]->grad, n->out[0]->data,
                                n->in[1]->data, n->in[2] ? n->in[2]->data : NULL, s.A, s.R, s.B);
}
static const wm_op reverse_scan = {"reverse_scan", "a b last? axis:i=-1",
    "out[t] = a[t] + b[t] out[t+1] along an axis of T, out[T] = last (without that axis; 0 if absent).  Lambda returns are\n"
    "this with a = r + gamma c (1 - lambda) v_next, b = gamma c lambda, last = v_next[T-1] (Sutton & Barto, ch. 12).",
    infer_scan, scan_forward, scan_backward, NULL};

/* ---- softmax and its kin: along the last axis ------------------------------------------------- */

static bool has_rows(const wm_node *n) {
    return n->in[0]->ndim || wm_fail("%s: a single number has no last axis", n->op->name) == 0;
}
static int infer_rows(wm_node *n) { return has_rows(n) ? wm_out(n, 0, WM_F32, n->in[0]->ndim, n->in[0]->shape) : -1; }
static int infer_row_number(wm_node *n) { return has_rows(n) ? wm_out(n, 0, WM_F32, n->in[0]->ndim - 1, n->in[0]->shape) : -1; }
/* One number a row, and its log_sum for backward. */
static int infer_with_log_sum(wm_node *n) {
    return infer_row_number(n) < 0 ? -1 : wm_save(n, 0, WM_F32, n->in[0]->ndim - 1, n->in[0]->shape);
}
static int64_t width(const wm_node *n) { return n->in[0]->ndim ? n->in[0]->shape[n->in[0]->ndim - 1] : 1; }
static int64_t rows(const wm_node *n) { return n->in[0]->size / width(n); }

static void softmax_forward(wm_node *n) { n->k->softmax_forward(n->out[0]->data, n->in[0]->data, rows(n), width(n)); }
static void softmax_backward(wm_node *n) {
    n->k->softmax_backward(wm_grad(n->in[0]), n->out[0]->grad, n->out[0]->data, rows(n), width(n));
}
static const wm_op softmax = {"softmax", "x",
    "e^x / sum e^x over the last axis; -inf gives exactly 0, a row of nothing else 0 everywhere.", infer_rows, softmax_forward,
    softmax_backward, NULL};

static void log_softmax_forward(wm_node *n) { n->k->log_softmax_forward(n->out[0]->data, n->in[0]->data, rows(n), width(n)); }
static void log_softmax_backward(wm_node *n) {
    n->k->log_softmax_backward(wm_grad(n->in[0]), n->out[0]->grad, n->out[0]->data, rows(n), width(n));
}
static const wm_op log_softmax = {"log_softmax", "x", "x - ln sum e^x over the last axis.", infer_rows, log_softmax_forward,
                                  log_softmax_backward, NULL};

static void logsumexp_forward(wm_node *n) { n->k->logsumexp_forward(n->out[0]->data, n->in[0]->data, rows(n), width(n)); }
static void logsumexp_backward(wm_node *n) {
    n->k->logsumexp_backward(wm_grad(n->in[0]), n->out[0]->grad, n->out[0]->data, n->in[0]->data, rows(n), width(n));
}
static const wm_op logsumexp = {"logsumexp", "x", "ln sum e^x over the last axis, which goes.", infer_row_number,
                                logsumexp_forward, logsumexp_backward, NULL};

static int infer_log_prob(wm_node *n) {
    const wm_tensor *x = n->in[0], *index = n->in[1];
    char want[96], got[96];
    if (infer_with_log_sum(n) < 0) return -1;
    if (index->ndim != x->ndim - 1 || memcmp(index->shape, x->shape, (size_t)index->ndim * sizeof *x->shape))
        return wm_fail("categorical_log_prob: index wanted the shape of logits, %s, without the last axis, got %s",
                       wm_shape_text(x, want, sizeof want), wm_shape_text(index, got, sizeof got));
    return 0;
}
static int check_log_prob(wm_node *n) { return wm_check_index(n, n->in[1], width(n)); }
static void log_prob_forward(wm_node *n) {
    n->k->log_prob_forward(n->out[0]->data, n->saved[0]->data, n->in[0]->data, n->in[1]->i32, rows(n), width(n));
}
static void log_prob_backward(wm_node *n) {
    n->k->log_prob_backward(wm_grad(n->in[0]), n->out[0]->grad, n->saved[0]->data, n->in[0]->data, n->in[1]->i32, rows(n), width(n));
}
static const wm_op categorical_log_prob = {"categorical_log_prob", "logits index@i32",
    "ln softmax(logits)[index] over the last axis, one number a row.", infer_log_prob, log_prob_forward, log_prob_backward,
    check_log_prob};

static void entropy_forward(wm_node *n) {
    n->k->entropy_forward(n->out[0]->data, n->saved[0]->data, n->in[0]->data, rows(n), width(n));
}
static void entropy_backward(wm_node *n) {
    n->k->entropy_backward(wm_grad(n->in[0]), n->out[0]->grad, n->out[0]->data, n->saved[0]->data, n->in[0]->data, rows(n), width(n));
}
static const wm_op entropy = {"categorical_entropy", "logits",
    "- sum p ln p of p = softmax(logits) over the last axis, in nats; a probability of 0 adds 0.", infer_with_log_sum,
    entropy_forward, entropy_backward, NULL};

const wm_op *const wm_ops_reduce[] = {&sum, &mean, &var, &max, &min, &argmax, &cumsum, &reverse_scan, &softmax, &log_softmax,
                                      &logsumexp, &categorical_log_prob, &entropy, NULL};
