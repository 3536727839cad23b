/* loss: losses with a term an element, and the cosine loss of rows.  Weights and reduction: cells.h. */
#include "cells.h"
#include <math.h>

static const float *numbers_of(const wm_tensor *t) { return t ? t->data : NULL; }

/* ---- mse, huber, smooth_l1: one kernel, f(d) = factor * huber(d; delta) -------------------------- */

static int infer_pair(wm_node *n) {
    return wm_same_shape(n, 1, "target", 0, "pred") < 0 ? -1 : wm_cells_out(n, n->in[0]->ndim, n->in[2]);
}
static void pair_forward(wm_node *n, float delta, double factor) {
    const wm_cells c = wm_cells_of(n, n->in[0]->ndim, n->in[2]);
    n->k->huber_forward(n->out[0]->data, n->in[0]->data, n->in[1]->data, numbers_of(n->in[2]), delta, factor * c.scale, c.O, c.n, c.m);
}
static void pair_backward(wm_node *n, float delta, double factor) {
    const wm_cells c = wm_cells_of(n, n->in[0]->ndim, n->in[2]);
    n->k->huber_backward(wm_grad(n->in[0]), wm_grad(n->in[1]), n->out[0]->grad, n->in[0]->data, n->in[1]->data,
                         numbers_of(n->in[2]), delta, factor * c.scale, c.O, c.n, c.m);
}

static void mse_forward(wm_node *n) { pair_forward(n, INFINITY, 2.0); }
static void mse_backward(wm_node *n) { pair_backward(n, INFINITY, 2.0); }
static const wm_op mse = {"mse", "pred target weight? " WM_CELLS,
    "weight (pred - target)^2, averaged or summed over all axes but the first keep; weight has leading axes of pred.",
    infer_pair, mse_forward, mse_backward, NULL};

static int infer_huber(wm_node *n) {
    if (!(n->attr[2].f > 0)) return wm_fail("%s: %s wanted a positive number, got %g", n->op->name,
                                            n->op->name[0] == 'h' ? "delta" : "beta", n->attr[2].f);
    return infer_pair(n);
}
static void huber_forward(wm_node *n) { pair_forward(n, (float)n->attr[2].f, 1.0); }
static void huber_backward(wm_node *n) { pair_backward(n, (float)n->attr[2].f, 1.0); }
static const wm_op huber = {"huber", "pred target weight? " WM_CELLS " delta:f=1",
    "d^2 / 2 for |d| <= delta, else delta (|d| - delta / 2), d = pred - target (Huber 1964); weighted and reduced as mse.",
    infer_huber, huber_forward, huber_backward, NULL};

static void smooth_l1_forward(wm_node *n) { pair_forward(n, (float)n->attr[2].f, 1.0 / n->attr[2].f); }
static void smooth_l1_backward(wm_node *n) { pair_backward(n, (float)n->attr[2].f, 1.0 / n->attr[2].f); }
static const wm_op smooth_l1 = {"smooth_l1", "pred target weight? " WM_CELLS " beta:f=1",
    "huber with delta = beta, divided by beta: slope 1 far away (Girshick 2015); weighted and reduced as mse.",
    infer_huber, smooth_l1_forward, smooth_l1_backward, NULL};

/* ---- binary cross-entropy ------------------------------------------------------------------------ */

static int infer_bce(wm_node *n) {
    if (wm_same_shape(n, 1, "target", 0, "logits") < 0 || wm_no_gradient(n, 1, "target") < 0) return -1;
    return wm_cells_out(n, n->in[0]->ndim, n->in[2]);
}
static void bce_forward(wm_node *n) {
    const wm_cells c = wm_cells_of(n, n->in[0]->ndim, n->in[2]);
    n->k->bce_forward(n->out[0]->data, n->in[0]->data, n->in[1]->data, numbers_of(n->in[2]), c.scale, c.O, c.n, c.m);
}
static void bce_backward(wm_node *n) {
    const wm_cells c = wm_cells_of(n, n->in[0]->ndim, n->in[2]);
    n->k->bce_backward(wm_grad(n->in[0]), n->out[0]->grad, n->in[0]->data, n->in[1]->data, numbers_of(n->in[2]), c.scale, c.O,
                       c.n, c.m);
}
static const wm_op bce = {"binary_cross_entropy_with_logits", "logits target weight? " WM_CELLS,
    "- t ln sigmoid(x) - (1 - t) ln sigmoid(-x), t in [0, 1], as max(x, 0) - x t + log1p(e^-|x|); weighted and reduced as mse.\n"
    "No gradient reaches target.",
    infer_bce, bce_forward, bce_backward, NULL};

/* ---- cosine -------------------------------------------------------------------------------------- */

static int rows_axes(const wm_node *n) { return n->in[0]->ndim - 1; }

static int infer_cosine(wm_node *n) {
    return wm_same_shape(n, 1, "target", 0, "pred") < 0 ? -1 : wm_rows_out(n, rows_axes(n), n->in[2]);
}
static void cosine_forward(wm_node *n) {
    const int64_t C = n->in[0]->shape[rows_axes(n)];
    n->k->cosine_loss_forward(n->scratch, n->in[0]->data, n->in[1]->data, n->in[0]->size / C, C);
    wm_rows_reduce(n, rows_axes(n), n->in[2], n->scratch);
}
static void cosine_backward(wm_node *n) {
    const int64_t C = n->in[0]->shape[rows_axes(n)];
    const float *drow = wm_rows_slopes(n, rows_axes(n), n->in[2]);
    n->k->cosine_loss_backward(wm_grad(n->in[0]), wm_grad(n->in[1]), drow, n->in[0]->data, n->in[1]->data, n->in[0]->size / C, C);
}
static const wm_op cosine_loss = {"cosine_loss", "pred target weight? " WM_CELLS,
    "1 - cosine of pred and target over the last axis, |pred| |target| at least 1e-8; weighted and reduced over rows.",
    infer_cosine, cosine_forward, cosine_backward, NULL};

const wm_op *const wm_ops_loss[] = {&mse, &huber, &smooth_l1, &bce, &cosine_loss, NULL};
