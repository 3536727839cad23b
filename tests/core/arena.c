/* arena.c - what test_optim_c.py needs to reach csrc/optim from ctypes: the baseline table alone, and tensors by number. */
#include "../../csrc/kernels/isa/baseline.c"
#include "../../csrc/optim/params.h"

const wm_kernels *wm_k = &wm_kernels_baseline;

wm_tensor *make(const float *numbers, int ndim, const int64_t *shape, int needs_grad) {
    wm_tensor *t = wm_tensor_new(WM_CPU, WM_F32, ndim, shape);
    if (!t) return NULL;
    memcpy(t->data, numbers, (size_t)t->size * sizeof(float));
    t->needs_grad = needs_grad;
    return t;
}
float *values(wm_tensor *t) { return t->data; }
float *gradient(wm_tensor *t) { return wm_grad_ready(t) < 0 ? NULL : t->grad; }
uint64_t version(wm_tensor *t) { return t->memory->version; }
void threads(int n) { wm_threads = n; }
const char *error(void) { return wm_error; }
int64_t steps(wm_params *p) { return p->steps; }
int64_t size(wm_params *p) { return p->size; }

void update(wm_params *p, const double *c, int ema_warms_up, double *out) {
    wm_update u = wm_params_adamw(p, &(wm_adamw){c[0], c[1], c[2], c[3], c[4], c[5], ema_warms_up});
    out[0] = u.norm, out[1] = u.clipped, out[2] = u.skipped;
}
