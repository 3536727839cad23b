/* run.c - one node: making its outputs, running it forward, letting it go. */
#include "run.h"
#include <math.h>
#include <string.h>
#include <time.h>

bool wm_guard_nan;

int wm_out(wm_node *n, int i, wm_dtype dtype, int ndim, const int64_t *shape) {
    if (!(n->out[i] = wm_tensor_new(n->device, dtype, ndim, shape))) return -1;
    if (n->n_out <= i) n->n_out = (uint8_t)(i + 1);
    n->out[i]->needs_grad = n->needs_grad && dtype == WM_F32;
    return 0;
}

int wm_out_view(wm_node *n, int i, wm_tensor *of, int64_t offset, int ndim, const int64_t *shape) {
    if (!(n->out[i] = wm_tensor_view(of, offset, ndim, shape))) return -1;
    if (n->n_out <= i) n->n_out = (uint8_t)(i + 1);
    n->out[i]->needs_grad = n->needs_grad && of->needs_grad;
    return 0;
}

int wm_save(wm_node *n, int i, wm_dtype dtype, int ndim, const int64_t *shape) {
    return (n->saved[i] = wm_tensor_new(n->device, dtype, ndim, shape)) ? 0 : -1;
}

void wm_node_clear(wm_node *n) {
    for (int i = 0; i < n->n_in; i++) wm_drop(n->in[i]);
    for (int i = 0; i < WM_SAVED; i++) wm_drop(n->saved[i]);
    for (int i = 0; i < n->n_out; i++) wm_drop(n->out[i]);
    memset(n, 0, sizeof *n);
}

static int guard(const wm_node *n) {
    for (int i = 0; i < n->n_out; i++) {
        const wm_tensor *t = n->out[i];
        const float *x = t->dtype == WM_F32 ? wm_read(t) : NULL;
        if (t->dtype == WM_F32 && !x) return -1;
        int64_t j = 0;
        while (x && j < t->size && isfinite(x[j])) j++;
        int failed = x && j < t->size ? wm_fail_as(WM_RUNTIME, "%s: number %lld of its result is %g (NaN guard)", n->op->name,
                                                   (long long)j, (double)x[j]) : 0;
        if (x) wm_read_done(t, x);
        if (failed) return -1;
    }
    return 0;
}

/* On a device: the same, and what could not be said by a kernel. */
static int device_forward(wm_node *n) {
    if (wm_device_failed(n->device, n->op->name) < 0 || (n->op->check && n->op->check(n) < 0)) return -1;
    bool own = n->scratch_bytes && !n->scratch;         /* a plan brings its own */
    if (own && !(n->scratch = wm_device_alloc(n->device, n->scratch_bytes))) return -1;
    wm_device_enter(n->device);
    n->op->forward(n);
    int failed = wm_device_failed(n->device, n->op->name);
    wm_device_leave(n->device);
    if (own) wm_device_free(n->device, n->scratch), n->scratch = NULL;
    return failed < 0 ? -1 : wm_guard_nan ? guard(n) : 0;
}

int wm_node_forward(wm_node *n) {
    if (n->device) return device_forward(n);
    if (n->op->check && n->op->check(n) < 0) return -1;
    if (n->scratch_bytes && !(n->scratch = wm_alloc(n->scratch_bytes))) return -1;
    n->op->forward(n);
    if (n->scratch_bytes) wm_free(n->scratch), n->scratch = NULL;
    return wm_guard_nan ? guard(n) : 0;
}

int wm_interrupted(void) {
    static _Thread_local struct timespec last;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    if (!wm_poll || (now.tv_sec - last.tv_sec) * 1000 + (now.tv_nsec - last.tv_nsec) / 1000000 < 50) return 0;
    last = now;
    return wm_poll() ? wm_fail_as(WM_INTERRUPTED, "interrupted") : 0;
}
