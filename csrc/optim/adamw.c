/* adamw.c - one step: the norm in one sweep, then clip, AdamW, averages and zeroed gradients in another; learning rates. */
#include "params.h"
#include <math.h>

static wm_adamw_numbers numbers(const wm_params *p, const wm_adamw *c, double norm) {
    double t = (double)p->steps, warm = (1 + t) / (10 + t);
    wm_adamw_numbers a = {
        .step = (float)(c->lr / (1 - pow(c->beta1, t))),
        .root = (float)(1 / sqrt(1 - pow(c->beta2, t))),
        .rest1 = (float)(1 - c->beta1),
        .beta2 = (float)c->beta2,
        .rest2 = (float)(1 - c->beta2),
        .eps = (float)c->eps,
        .keep = (float)(1 - c->lr * c->decay),
        .clip = c->clip > 0 && norm > c->clip ? (float)(c->clip / (norm + 1e-6)) : 1.0f,
        .shadows = p->shadows,
    };
    for (int k = 0; k < p->shadows; k++) {
        double ema = (double)p->ema[k];
        a.follow[k] = (float)(1 - (c->ema_warms_up && warm < ema ? warm : ema));
    }
    return a;
}

static wm_update step(wm_params *p, const wm_adamw *c) {
    wm_update u = {.norm = wm_params_norm(p)};
    if (!isfinite(u.norm)) {
        wm_params_clear(p);
        u.skipped = true;
        return u;
    }
    p->steps++;
    wm_adamw_numbers a = numbers(p, c, u.norm);
    float *shadow[WM_SHADOWS] = {NULL};
    for (int k = 0; k < p->shadows; k++) shadow[k] = p->shadow[k]->data;
    wm_kernels_on(p->device)->adamw_step(p->values->data, p->grads->data, p->m->data, p->v->data, shadow, &a, p->ends, p->decays, p->segments,
                     p->size);
    wm_written(p->tensor[0]);      /* one memory, one version */
    u.clipped = a.clip < 1;
    return u;
}

wm_update wm_params_adamw(wm_params *p, const wm_adamw *c) {
    wm_device_enter(p->device);
    wm_update u = step(p, c);
    wm_device_leave(p->device);
    return u;
}

double wm_schedule_at(wm_schedule kind, int64_t step, int64_t warmup, int64_t total, double peak, double floor) {
    const double pi = 3.14159265358979323846;
    if (step < warmup) return peak * (double)(step + 1) / (double)warmup;
    if (kind == WM_CONSTANT) return peak;
    double done = total > warmup ? (double)(step - warmup) / (double)(total - warmup) : 1;
    if (done > 1) done = 1;
    return floor + (peak - floor) * (kind == WM_COSINE ? 0.5 * (1 + cos(pi * done)) : 1 - done);
}
