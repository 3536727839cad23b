/* cells.c - weighting and reducing the terms of a loss. */
#include "cells.h"
#include <string.h>

static const float *numbers_of(const wm_tensor *t) { return t ? t->data : NULL; }

int wm_same_shape(const wm_node *n, int i, const char *name, int as, const char *as_name) {
    const wm_tensor *x = n->in[i], *y = n->in[as];
    char want[96], got[96];
    if (x->ndim == y->ndim && !memcmp(x->shape, y->shape, (size_t)x->ndim * sizeof *x->shape)) return 0;
    return wm_fail("%s: %s wanted the shape of %s, %s, got %s", n->op->name, name, as_name,
                   wm_shape_text(y, want, sizeof want), wm_shape_text(x, got, sizeof got));
}

int wm_no_gradient(const wm_node *n, int i, const char *name) {
    if (!n->needs_grad || !n->in[i] || !n->in[i]->needs_grad) return 0;
    return wm_fail("%s: %s gets no gradient here; pass stop_gradient of it", n->op->name, name);
}

int wm_cells_out(wm_node *n, int axes, const wm_tensor *weight) {
    const wm_tensor *x = n->in[0];
    const int64_t keep = n->attr[1].i;
    char want[96], got[96];
    if (keep < 0 || keep > axes) return wm_fail("%s: keep wanted 0 to %d leading axes, got %lld", n->op->name, axes, (long long)keep);
    if (weight && weight->needs_grad && n->needs_grad)
        return wm_fail("%s: weight gets no gradient; pass stop_gradient of it", n->op->name);
    bool fits = !weight || weight->ndim <= axes, ones = false;
    for (int d = 0; weight && fits && d < weight->ndim; d++) {      /* once a 1 covers more than a 1, only 1s may follow */
        ones |= weight->shape[d] != x->shape[d];
        fits = weight->shape[d] == (ones ? 1 : x->shape[d]);
    }
    if (!fits)
        return wm_fail("%s: weight wanted the leading axes of %s (at most %d of them), got %s", n->op->name,
                       wm_shape_text(x, want, sizeof want), axes, wm_shape_text(weight, got, sizeof got));
    return wm_out(n, 0, WM_F32, (int)keep, x->shape);
}

wm_cells wm_cells_of(const wm_node *n, int axes, const wm_tensor *weight) {
    const int64_t terms = wm_size_between(n->in[0], 0, axes), O = n->out[0]->size, per = terms / O;
    return (wm_cells){O, per, weight ? terms / weight->size : 1, n->attr[0].i ? 1.0 : 1.0 / (double)per};
}

int wm_rows_out(wm_node *n, int axes, const wm_tensor *weight) {
    n->scratch_bytes = (size_t)wm_size_between(n->in[0], 0, axes < 0 ? 0 : axes) * sizeof(float);
    return axes < 0 ? wm_fail("%s: too few axes", n->op->name) : wm_cells_out(n, axes, weight);
}
void wm_rows_reduce(wm_node *n, int axes, const wm_tensor *weight, const float *loss) {
    const wm_cells c = wm_cells_of(n, axes, weight);
    n->k->row_loss_forward(n->out[0]->data, loss, numbers_of(weight), c.scale, c.O, c.n, c.m);
}
float *wm_rows_slopes(wm_node *n, int axes, const wm_tensor *weight) {
    const wm_cells c = wm_cells_of(n, axes, weight);
    n->k->row_loss_backward(n->scratch, n->out[0]->grad, numbers_of(weight), c.scale, c.O, c.n, c.m);
    return n->scratch;
}
