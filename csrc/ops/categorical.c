/* categorical: losses of logits over the last axis, two-hot values, unimix.  Weights and reduction: cells.h. */
#include "cells.h"
#include <math.h>
#include <string.h>

static int rows_axes(const wm_node *n) { return n->in[0]->ndim - 1; }
static int64_t width(const wm_node *n) { return n->in[0]->ndim ? n->in[0]->shape[n->in[0]->ndim - 1] : 1; }
static int64_t rows(const wm_node *n) { return n->in[0]->size / width(n); }

static bool has_rows(const wm_node *n, const char *name) {
    return n->in[0]->ndim || wm_fail("%s: %s wanted a last axis, got a single number", n->op->name, name) == 0;
}
static int save_row_number(wm_node *n) { return wm_save(n, 0, WM_F32, rows_axes(n), n->in[0]->shape); }

/* in[i] has the shape of in[0] without the last axis. */
static int row_shaped(const wm_node *n, int i, const char *name) {
    const wm_tensor *x = n->in[0], *y = n->in[i];
    char want[96], got[96];
    if (y->ndim == x->ndim - 1 && !memcmp(y->shape, x->shape, (size_t)y->ndim * sizeof *y->shape)) return 0;
    return wm_fail("%s: %s wanted the shape of logits, %s, without the last axis, got %s", n->op->name, name,
                   wm_shape_text(x, want, sizeof want), wm_shape_text(y, got, sizeof got));
}

/* ---- cross_entropy ------------------------------------------------------------------------------- */

static bool by_index(const wm_node *n) { return n->in[1]->dtype == WM_I32; }

static int infer_cross_entropy(wm_node *n) {
    const double e = n->attr[2].f;
    if (!has_rows(n, "logits")) return -1;
    if (!(e >= 0 && e < 1)) return wm_fail("cross_entropy: smoothing wanted 0 <= smoothing < 1, got %g", e);
    if (!by_index(n) && n->in[1]->dtype != WM_F32)
        return wm_fail_as(WM_TYPE, "cross_entropy: target wanted int32 indices or float32 probabilities, got %s",
                          wm_dtype_name((wm_dtype)n->in[1]->dtype));
    if (wm_no_gradient(n, 1, "target") < 0) return -1;
    if ((by_index(n) ? row_shaped(n, 1, "target") : wm_same_shape(n, 1, "target", 0, "logits")) < 0) return -1;
    return wm_rows_out(n, rows_axes(n), n->in[2]) < 0 ? -1 : save_row_number(n);
}
static int check_cross_entropy(wm_node *n) { return by_index(n) ? wm_check_index(n, n->in[1], width(n)) : 0; }
static void cross_entropy_forward(wm_node *n) {
    const wm_tensor *x = n->in[0], *t = n->in[1];
    const float e = (float)n->attr[2].f;
    if (by_index(n)) n->k->cross_entropy_forward(n->scratch, n->saved[0]->data, x->data, t->i32, e, rows(n), width(n));
    else n->k->soft_cross_entropy_forward(n->scratch, n->saved[0]->data, x->data, t->data, e, rows(n), width(n));
    wm_rows_reduce(n, rows_axes(n), n->in[2], n->scratch);
}
static void cross_entropy_backward(wm_node *n) {
    const wm_tensor *x = n->in[0], *t = n->in[1];
    const float e = (float)n->attr[2].f, *log_sum = n->saved[0]->data;
    float *dx = wm_grad(n->in[0]);
    const float *drow = wm_rows_slopes(n, rows_axes(n), n->in[2]);
    if (by_index(n)) n->k->cross_entropy_backward(dx, drow, log_sum, x->data, t->i32, e, rows(n), width(n));
    else n->k->soft_cross_entropy_backward(dx, drow, log_sum, x->data, t->data, e, rows(n), width(n));
}
static const wm_op cross_entropy = {"cross_entropy", "logits target@any weight? " WM_CELLS " smoothing:f=0",
    "- sum t ln softmax(logits) over the last axis; target: int32 indices, or probabilities of the shape of logits, which get\n"
    "no gradient.  t = (1 - smoothing) target + smoothing / C.  Weighted and reduced over rows.",
    infer_cross_entropy, cross_entropy_forward, cross_entropy_backward, check_cross_entropy};

/* ---- two-hot ------------------------------------------------------------------------------------- */

static int bins_fit(const wm_node *n, int i, int64_t K) {
    char text[96];
    if (n->in[i]->ndim == 1 && n->in[i]->size >= 2 && (!K || n->in[i]->size == K)) return 0;
    if (K) return wm_fail("%s: bins wanted one axis of %lld, as logits has, got shape %s", n->op->name, (long long)K,
                          wm_shape_text(n->in[i], text, sizeof text));
    return wm_fail("%s: bins wanted one axis of 2 or more, got shape %s", n->op->name, wm_shape_text(n->in[i], text, sizeof text));
}
static int check_rising(const wm_node *n, const wm_tensor *bins) {
    const float *b = wm_read(bins);
    int failed = b ? 0 : -1;
    for (int64_t i = 1; i < bins->size && !failed; i++)
        if (!(b[i] > b[i - 1]))
            failed = wm_fail("%s: bins wanted rising numbers, number %lld is %g after %g", n->op->name, (long long)i,
                             (double)b[i], (double)b[i - 1]);
    if (b) wm_read_done(bins, b);
    return failed;
}

static int infer_two_hot(wm_node *n) {
    int64_t shape[WM_DIMS + 1];
    if (bins_fit(n, 1, 0) < 0) return -1;
    if (n->in[0]->ndim == WM_DIMS) return wm_fail("two_hot: the result would have more than %d axes", WM_DIMS);
    memcpy(shape, n->in[0]->shape, sizeof n->in[0]->shape);
    shape[n->in[0]->ndim] = n->in[1]->size;
    return wm_out(n, 0, WM_F32, n->in[0]->ndim + 1, shape);
}
static int check_bins_second(wm_node *n) { return check_rising(n, n->in[1]); }
static void two_hot_forward(wm_node *n) {
    n->k->two_hot_forward(n->out[0]->data, n->in[0]->data, n->in[1]->data, n->in[0]->size, n->in[1]->size);
}
static const wm_op two_hot = {"two_hot", "x bins",
    "out (...,K): x as weights on its two neighbours among rising bins (K), so that sum out bins = x; outside the bins the last\n"
    "one gets all.  No gradient (DreamerV3, arXiv 2301.04104).",
    infer_two_hot, two_hot_forward, NULL, check_bins_second};

static int infer_two_hot_loss(wm_node *n) {
    if (wm_no_gradient(n, 1, "value") < 0 || wm_no_gradient(n, 2, "bins") < 0) return -1;
    if (!has_rows(n, "logits") || row_shaped(n, 1, "value") < 0 || bins_fit(n, 2, width(n)) < 0) return -1;
    return wm_rows_out(n, rows_axes(n), n->in[3]) < 0 ? -1 : save_row_number(n);
}
static int check_bins_third(wm_node *n) { return check_rising(n, n->in[2]); }
static void two_hot_loss_forward(wm_node *n) {
    n->k->two_hot_loss_forward(n->scratch, n->saved[0]->data, n->in[0]->data, n->in[1]->data, n->in[2]->data, rows(n), width(n));
    wm_rows_reduce(n, rows_axes(n), n->in[3], n->scratch);
}
static void two_hot_loss_backward(wm_node *n) {
    const float *drow = wm_rows_slopes(n, rows_axes(n), n->in[3]);
    n->k->two_hot_loss_backward(wm_grad(n->in[0]), drow, n->saved[0]->data, n->in[0]->data, n->in[1]->data, n->in[2]->data, rows(n),
                                width(n));
}
static const wm_op two_hot_loss = {"two_hot_loss", "logits value bins weight? " WM_CELLS,
    "Cross-entropy of logits (...,K) with two_hot(value, bins), fused; weighted and reduced over rows.  Gradient to logits only\n"
    "(DreamerV3, arXiv 2301.04104).",
    infer_two_hot_loss, two_hot_loss_forward, two_hot_loss_backward, check_bins_third};

static int infer_two_hot_mean(wm_node *n) {
    if (!has_rows(n, "logits") || bins_fit(n, 1, width(n)) < 0 || wm_no_gradient(n, 1, "bins") < 0) return -1;
    return wm_out(n, 0, WM_F32, rows_axes(n), n->in[0]->shape) < 0 ? -1 : save_row_number(n);
}
static void two_hot_mean_forward(wm_node *n) {
    n->k->two_hot_mean_forward(n->out[0]->data, n->saved[0]->data, n->in[0]->data, n->in[1]->data, rows(n), width(n));
}
static void two_hot_mean_backward(wm_node *n) {
    n->k->two_hot_mean_backward(wm_grad(n->in[0]), n->out[0]->grad, n->out[0]->data, n->saved[0]->data, n->in[0]->data,
                                n->in[1]->data, rows(n), width(n));
}
static const wm_op two_hot_mean = {"two_hot_mean", "logits bins",
    "sum softmax(logits) bins over the last axis, summed from both ends inwards: mirrored bins under equal logits give exactly 0.\n"
    "Gradient to logits only (DreamerV3, arXiv 2301.04104).",
    infer_two_hot_mean, two_hot_mean_forward, two_hot_mean_backward, NULL};

static int infer_bins(wm_node *n) {
    if (n->attr[0].i < 2 || n->attr[0].i > 1 << 20)
        return wm_fail("two_hot_bins: count wanted 2 or more, got %lld", (long long)n->attr[0].i);
    if (!(n->attr[1].f > 0 && n->attr[1].f <= (n->attr[2].i ? 88.0 : 1e38)))
        return wm_fail("two_hot_bins: high wanted a positive number%s, got %g", n->attr[2].i ? " up to 88" : "", n->attr[1].f);
    return wm_out(n, 0, WM_F32, 1, &n->attr[0].i);
}
static void bins_forward(wm_node *n) {
    n->k->two_hot_bins(n->out[0]->data, (float)n->attr[1].f, (int)n->attr[2].i, n->attr[0].i);
}
static const wm_op two_hot_bins = {"two_hot_bins", "count:i=255 high:f=20 symexp:b=1",
    "Bins for two-hot values: symexp(linspace(-high, high, count)), or without symexp for values that went through symlog.",
    infer_bins, bins_forward, NULL, NULL};

/* ---- kl_categorical, unimix ---------------------------------------------------------------------- */

static int kl_axes(const wm_node *n) { return n->in[0]->ndim - (int)n->attr[3].i; }
static int64_t kl_rows(const wm_node *n) { return wm_size_between(n->in[0], 0, kl_axes(n)); }

static int infer_kl(wm_node *n) {
    if (wm_same_shape(n, 1, "q", 0, "p") < 0) return -1;
    if (n->attr[3].i < 1 || n->attr[3].i > n->in[0]->ndim)
        return wm_fail("kl_categorical: axes wanted 1 to %d, got %lld", n->in[0]->ndim, (long long)n->attr[3].i);
    if (!(n->attr[2].f >= 0)) return wm_fail("kl_categorical: free wanted 0 or more nats, got %g", n->attr[2].f);
    return wm_rows_out(n, kl_axes(n), n->in[2]) < 0 ? -1 : wm_save(n, 0, WM_F32, kl_axes(n), n->in[0]->shape);
}
static void kl_forward(wm_node *n) {
    const int64_t R = kl_rows(n), C = width(n);
    n->k->kl_categorical_forward(n->saved[0]->data, n->in[0]->data, n->in[1]->data, (float)n->attr[2].f, R, n->in[0]->size / (R * C), C);
    wm_rows_reduce(n, kl_axes(n), n->in[2], n->saved[0]->data);
}
static void kl_backward(wm_node *n) {
    const int64_t R = kl_rows(n), C = width(n);
    const float *drow = wm_rows_slopes(n, kl_axes(n), n->in[2]);
    n->k->kl_categorical_backward(wm_grad(n->in[0]), wm_grad(n->in[1]), drow, n->saved[0]->data, n->in[0]->data, n->in[1]->data,
                                  (float)n->attr[2].f, R, n->in[0]->size / (R * C), C);
}
static const wm_op kl_categorical = {"kl_categorical", "p q weight? " WM_CELLS " free:f=0 axes:i=1",
    "KL(softmax p || softmax q), p and q logits: over the last axis, summed over the axes - 1 before it, held at free nats or\n"
    "more (no gradient below; DreamerV3, arXiv 2301.04104); weighted and reduced over the axes left.",
    infer_kl, kl_forward, kl_backward, NULL};

static int infer_unimix(wm_node *n) {
    if (!has_rows(n, "logits")) return -1;
    if (!(n->attr[0].f >= 0 && n->attr[0].f <= 1)) return wm_fail("unimix: mix wanted 0 to 1, got %g", n->attr[0].f);
    return wm_out(n, 0, WM_F32, n->in[0]->ndim, n->in[0]->shape) < 0 ? -1 : save_row_number(n);
}
static void unimix_forward(wm_node *n) {
    n->k->unimix_forward(n->out[0]->data, n->saved[0]->data, n->in[0]->data, (float)n->attr[0].f, rows(n), width(n));
}
static void unimix_backward(wm_node *n) {
    n->k->unimix_backward(wm_grad(n->in[0]), n->out[0]->grad, n->out[0]->data, n->saved[0]->data, n->in[0]->data,
                          (float)n->attr[0].f, rows(n), width(n));
}
static const wm_op unimix = {"unimix", "logits mix:f=0.01",
    "ln ((1 - mix) softmax(logits) + mix / C): logits whose probabilities are never below mix / C (DreamerV3, arXiv 2301.04104).",
    infer_unimix, unimix_forward, unimix_backward, NULL};

const wm_op *const wm_ops_categorical[] = {&cross_entropy, &two_hot, &two_hot_loss, &two_hot_mean, &two_hot_bins, &kl_categorical,
                                           &unimix, NULL};
