/* gaussian: densities, entropy and divergence of diagonal normals over the last axis. */
#include "cells.h"

static int rows_axes(const wm_node *n) { return n->in[0]->ndim - 1; }
static int64_t width(const wm_node *n) { return n->in[0]->ndim ? n->in[0]->shape[n->in[0]->ndim - 1] : 1; }
static int64_t rows(const wm_node *n) { return n->in[0]->size / width(n); }
static const float *numbers_of(const wm_tensor *t) { return t ? t->data : NULL; }

static int out_rows(wm_node *n) {
    if (!n->in[0]->ndim) return wm_fail("%s: a single number has no last axis", n->op->name);
    return wm_out(n, 0, WM_F32, rows_axes(n), n->in[0]->shape);
}

/* ---- log-probabilities --------------------------------------------------------------------------- */

static int infer_log_prob(wm_node *n) {
    return wm_same_shape(n, 1, "mean", 0, "x") < 0 || wm_same_shape(n, 2, "log_std", 0, "x") < 0 ? -1 : out_rows(n);
}
static void log_prob_forward(wm_node *n, int through_tanh) {
    n->k->gaussian_log_prob_forward(n->out[0]->data, n->in[0]->data, n->in[1]->data, n->in[2]->data, through_tanh, rows(n), width(n));
}
static void log_prob_backward(wm_node *n, int through_tanh) {
    n->k->gaussian_log_prob_backward(wm_grad(n->in[0]), wm_grad(n->in[1]), wm_grad(n->in[2]), n->out[0]->grad, n->in[0]->data,
                                     n->in[1]->data, n->in[2]->data, through_tanh, rows(n), width(n));
}
static void gaussian_forward(wm_node *n) { log_prob_forward(n, 0); }
static void gaussian_backward(wm_node *n) { log_prob_backward(n, 0); }
static void tanh_forward(wm_node *n) { log_prob_forward(n, 1); }
static void tanh_backward(wm_node *n) { log_prob_backward(n, 1); }

static const wm_op gaussian_log_prob = {"gaussian_log_prob", "x mean log_std",
    "ln N(x; mean, e^log_std), summed over the last axis: - z^2 / 2 - log_std - ln(2 pi) / 2, z = (x - mean) e^-log_std.",
    infer_log_prob, gaussian_forward, gaussian_backward, NULL};
static const wm_op tanh_gaussian_log_prob = {"tanh_gaussian_log_prob", "x mean log_std",
    "Log-density of tanh(x), x ~ N(mean, e^log_std), summed over the last axis, from x before the tanh (x = atanh(action)):\n"
    "gaussian_log_prob - sum 2 (ln 2 - x - softplus(-2x)), which stays finite where 1 - tanh^2 rounds to 0\n"
    "(Haarnoja et al., arXiv 1801.01290, appendix C).",
    infer_log_prob, tanh_forward, tanh_backward, NULL};

/* ---- entropy, divergence ------------------------------------------------------------------------- */

static void entropy_forward(wm_node *n) { n->k->gaussian_entropy_forward(n->out[0]->data, n->in[0]->data, rows(n), width(n)); }
static void entropy_backward(wm_node *n) {
    n->k->sum_backward(wm_grad(n->in[0]), n->out[0]->grad, 1.0, rows(n), width(n), 1);
}
static const wm_op gaussian_entropy = {"gaussian_entropy", "log_std",
    "Entropy in nats of N(., e^log_std), summed over the last axis: log_std + ln(2 pi e) / 2.", out_rows, entropy_forward,
    entropy_backward, NULL};

static int infer_kl(wm_node *n) {
    static const char *const names[] = {"mean_p", "log_std_p", "mean_q", "log_std_q"};
    for (int i = 1; i < 4; i++)
        if (n->in[i] && wm_same_shape(n, i, names[i], 0, names[0]) < 0) return -1;
    return wm_rows_out(n, rows_axes(n), n->in[4]);
}
static void kl_forward(wm_node *n) {
    n->k->kl_gaussian_forward(n->scratch, n->in[0]->data, n->in[1]->data, numbers_of(n->in[2]), numbers_of(n->in[3]), rows(n), width(n));
    wm_rows_reduce(n, rows_axes(n), n->in[4], n->scratch);
}
static void kl_backward(wm_node *n) {
    const float *drow = wm_rows_slopes(n, rows_axes(n), n->in[4]);
    n->k->kl_gaussian_backward(wm_grad(n->in[0]), wm_grad(n->in[1]), wm_grad(n->in[2]), wm_grad(n->in[3]), drow, n->in[0]->data,
                               n->in[1]->data, numbers_of(n->in[2]), numbers_of(n->in[3]), rows(n), width(n));
}
static const wm_op kl_gaussian = {"kl_gaussian", "mean_p log_std_p mean_q? log_std_q? weight? " WM_CELLS,
    "KL(N_p || N_q) of diagonal normals, summed over the last axis; q is N(0, 1) where absent.  With a = log_std_p - log_std_q:\n"
    "(e^2a - 1) / 2 - a + ((mean_p - mean_q) e^-log_std_q)^2 / 2; weighted and reduced over rows.",
    infer_kl, kl_forward, kl_backward, NULL};

const wm_op *const wm_ops_gaussian[] = {&gaussian_log_prob, &tanh_gaussian_log_prob, &gaussian_entropy, &kl_gaussian, NULL};
