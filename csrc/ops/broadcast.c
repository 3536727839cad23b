/* broadcast.c - NumPy's rule for shapes that meet, and its transpose: sums over what was repeated. */
#include "broadcast.h"

/* Length of t along axis d of a result with ndim axes. */
static int64_t length(const wm_tensor *t, int ndim, int d) {
    const int own = d - (ndim - t->ndim);
    return own < 0 ? 1 : t->shape[own];
}

int wm_broadcast_shape(const wm_node *n, int n_in, int *ndim, int64_t *shape) {
    *ndim = 0;
    for (int i = 0; i < n_in; i++)
        if (n->in[i]->ndim > *ndim) *ndim = n->in[i]->ndim;
    for (int d = 0; d < *ndim; d++) {
        shape[d] = 1;
        for (int i = 0; i < n_in; i++) {
            const int64_t l = length(n->in[i], *ndim, d);
            if (l == 1 || l == shape[d]) continue;
            if (shape[d] == 1) { shape[d] = l; continue; }
            char text[WM_MEET][96];
            for (int j = 0; j < n_in; j++) wm_shape_text(n->in[j], text[j], sizeof text[j]);
            return wm_fail("%s: shapes %s and %s%s%s do not broadcast: axis %d has lengths %lld and %lld", n->op->name,
                           text[0], text[1], n_in > 2 ? " and " : "", n_in > 2 ? text[2] : "", d - *ndim,
                           (long long)shape[d], (long long)l);
        }
    }
    return 0;
}

void wm_broadcast_strides(wm_broadcast *b, const wm_tensor *out, wm_tensor *const *in, int n_in) {
    int64_t step[WM_MEET] = {0}, next[WM_MEET];
    b->ndim = 0;
    for (int i = 0; i < n_in; i++) next[i] = 1;
    for (int d = out->ndim; d-- > 0;) {             /* from the last axis; the result is turned round below */
        if (out->shape[d] == 1) continue;
        bool merges = b->ndim > 0;
        for (int i = 0; i < n_in; i++) {
            const int64_t l = length(in[i], out->ndim, d);
            step[i] = l == 1 ? 0 : next[i];
            next[i] *= l;
            if (b->ndim) merges &= step[i] == b->stride[i][b->ndim - 1] * b->shape[b->ndim - 1];
        }
        if (merges) { b->shape[b->ndim - 1] *= out->shape[d]; continue; }
        for (int i = 0; i < n_in; i++) b->stride[i][b->ndim] = step[i];
        b->shape[b->ndim++] = out->shape[d];
    }
    if (!b->ndim) {
        b->ndim = 1, b->shape[0] = 1;
        for (int i = 0; i < n_in; i++) b->stride[i][0] = 0;
    }
    for (int lo = 0, hi = b->ndim - 1; lo < hi; lo++, hi--) {
        int64_t keep = b->shape[lo];
        b->shape[lo] = b->shape[hi], b->shape[hi] = keep;
        for (int i = 0; i < n_in; i++)
            keep = b->stride[i][lo], b->stride[i][lo] = b->stride[i][hi], b->stride[i][hi] = keep;
    }
}

int wm_broadcast_runs(const wm_tensor *x, const wm_tensor *out) {
    int runs = 0;
    bool inside = false;
    for (int d = 0; d < out->ndim; d++) {
        if (out->shape[d] == 1) continue;
        const bool repeats = length(x, out->ndim, d) == 1;
        runs += repeats && !inside;
        inside = repeats;
    }
    return runs;
}

void wm_broadcast_sum(const wm_kernels *k, float *dx, const wm_tensor *x, const float *dout, const wm_tensor *out,
                      double scale, float *room) {
    int runs = wm_broadcast_runs(x, out);
    int64_t inner = 1, outer = out->size;           /* numbers inside and outside the axes looked at */
    for (int d = out->ndim; runs && d-- > 0;) {
        if (out->shape[d] == 1) continue;
        outer /= out->shape[d];
        if (length(x, out->ndim, d) != 1) { inner *= out->shape[d]; continue; }
        int64_t R = out->shape[d];
        for (; d > 0 && length(x, out->ndim, d - 1) == 1; d--) R *= out->shape[d - 1], outer /= out->shape[d - 1];
        if (--runs) {
            k->sum_forward(room, dout, 1.0, outer, R, inner);
            dout = room, room += outer * inner;
        } else
            k->sum_into(dx, dout, scale, outer, R, inner);
    }
}
