/* params.c - the arena: who is where.  params.h has the picture.

   (1) A block is larger than any tensor in it: wm_grad_clear tells an arena's gradient from a tensor's own by the size.
   (2) Tensors and views hold references to the blocks, so that the arena may go before them. */
#include "params.h"
#include <string.h>

enum { LINE = WM_ALIGN / (int)sizeof(float) };

static int64_t padded(int64_t n) { return (n + LINE - 1) / LINE * LINE; }

static wm_memory *zeros(int device, int64_t n) {
    wm_memory *m = wm_memory_new(device, (size_t)n * sizeof(float));
    if (m) wm_zero(device, m->data, m->bytes);
    return m;
}

static int suits(wm_tensor *const *tensors, int i) {
    const wm_tensor *t = tensors[i];
    if (t->dtype != WM_F32)
        return wm_fail_as(WM_TYPE, "params: tensor %d wanted float32, got %s", i, wm_dtype_name((wm_dtype)t->dtype));
    if (!t->needs_grad) return wm_fail("params: tensor %d needs no gradient", i);
    if (!t->raw) return wm_fail("params: tensor %d belongs to a checkpoint and holds no numbers now", i);
    if (t->base) return wm_fail("params: tensor %d is a view of another", i);
    if (t->device != tensors[0]->device)
        return wm_fail("params: tensor %d lies on %s, tensor 0 on %s", i, wm_device_name(t->device), wm_device_name(tensors[0]->device));
    for (int j = 0; j < i; j++)
        if (tensors[j] == t) return wm_fail("params: tensors %d and %d are the same", j, i);
    return 0;
}

static int lay_out(wm_params *p, wm_tensor *const *tensors, const uint8_t *decays) {
    for (int i = 0; i < p->n; i++) {
        if (suits(tensors, i) < 0) return -1;
        p->tensor[i] = wm_keep(tensors[i]);
        p->at[i] = p->size;
        p->size += padded(tensors[i]->size);
        uint8_t decay = decays ? decays[i] != 0 : tensors[i]->ndim >= 2;
        if (!p->segments || p->decays[p->segments - 1] != decay) p->decays[p->segments++] = decay;
        p->ends[p->segments - 1] = p->size;
    }
    return 0;
}

/* Values and gradients move in; a gradient that was there already stays what it is. */
static int move_in(wm_params *p, int i) {
    wm_tensor *t = p->tensor[i];
    size_t offset = (size_t)p->at[i] * sizeof(float);
    if (wm_tensor_move(t, p->values, offset) < 0) return -1;
    float *grad = (float *)p->grads->data + p->at[i];
    if (t->grad) wm_copy(t->device, grad, t->grad, (size_t)t->size * sizeof(float));
    wm_memory_drop(t->grad_memory);
    t->grad_memory = wm_memory_keep(p->grads), t->grad = grad;
    return 0;
}

wm_params *wm_params_new(wm_tensor *const *tensors, int n, const uint8_t *decays) {
    if (n < 1) return wm_fail("params: wanted at least one tensor, got %d", n), NULL;
    wm_params *p = wm_alloc(sizeof *p);
    if (!p) return NULL;
    *p = (wm_params){0};
    size_t count = (size_t)n;
    if (!(p->tensor = wm_alloc(count * sizeof *p->tensor)) || !(p->at = wm_alloc(count * sizeof *p->at)) ||
        !(p->ends = wm_alloc(count * sizeof *p->ends)) || !(p->decays = wm_alloc(count * sizeof *p->decays)))
        goto fail;
    memset(p->tensor, 0, count * sizeof *p->tensor);
    p->n = n;
    if (lay_out(p, tensors, decays) < 0) goto fail;
    int64_t room = p->size + LINE;                                                        /* (1) */
    int at = p->device = tensors[0]->device;
    if (!(p->values = zeros(at, room)) || !(p->grads = zeros(at, room)) || !(p->m = zeros(at, room)) ||
        !(p->v = zeros(at, room)) || !(p->parts = wm_device_alloc(at, ((size_t)p->size / (1 << 14) + 1) * sizeof *p->parts)))
        goto fail;
    for (int i = 0; i < n; i++)
        if (move_in(p, i) < 0) goto fail;
    return p;
fail:
    wm_params_free(p);
    return NULL;
}

void wm_params_free(wm_params *p) {
    if (!p) return;
    for (int i = 0; i < p->n && p->tensor; i++) wm_drop(p->tensor[i]);
    wm_memory_drop(p->values), wm_memory_drop(p->grads), wm_memory_drop(p->m), wm_memory_drop(p->v);
    for (int k = 0; k < p->shadows; k++) wm_memory_drop(p->shadow[k]);
    wm_free(p->tensor), wm_free(p->at), wm_free(p->ends), wm_free(p->decays);
    wm_device_free(p->device, p->parts);
    wm_free(p);
}

int wm_params_shadow(wm_params *p, float ema) {
    if (p->shadows == WM_SHADOWS) return wm_fail("params: at most %d moving averages", WM_SHADOWS);
    if (!(ema >= 0 && ema < 1)) return wm_fail("params: ema wanted in [0, 1), got %g", (double)ema);
    wm_memory *m = wm_memory_new(p->device, p->values->bytes);
    if (!m) return -1;
    wm_copy(p->device, m->data, p->values->data, m->bytes);
    p->shadow[p->shadows] = m, p->ema[p->shadows] = ema;
    return p->shadows++;
}

/* On a device the two exchange numbers by way of a third block. */
static int swap_there(wm_params *p, int k) {
    size_t bytes = p->values->bytes;
    void *a = p->values->data, *b = p->shadow[k]->data, *held = wm_device_alloc(p->device, bytes);
    if (!held) return -1;
    wm_copy(p->device, held, a, bytes), wm_copy(p->device, a, b, bytes), wm_copy(p->device, b, held, bytes);
    wm_device_free(p->device, held);
    wm_written(p->tensor[0]);
    return wm_device_failed(p->device, "swap");
}

int wm_params_swap(wm_params *p, int k) {
    if (p->device) return swap_there(p, k);
    char *a = p->values->data, *b = p->shadow[k]->data, held[4096];
    for (size_t i = 0; i < p->values->bytes; i += sizeof held) {
        size_t n = p->values->bytes - i < sizeof held ? p->values->bytes - i : sizeof held;
        memcpy(held, a + i, n), memcpy(a + i, b + i, n), memcpy(b + i, held, n);
    }
    wm_written(p->tensor[0]);      /* one memory, one version */
    return 0;
}

static void let_go(void *memory) { wm_memory_drop(memory); }

wm_tensor *wm_params_part(wm_params *p, wm_part part, int i) {
    wm_memory *const blocks[] = {p->values, p->grads, p->m, p->v};
    int k = (int)part - WM_SHADOW;
    if (i < 0 || i >= p->n || k >= p->shadows)
        return wm_fail_as(WM_INDEX, "params: part %d of tensor %d: there are %d tensors and %d averages", (int)part, i, p->n,
                          p->shadows), NULL;
    wm_memory *m = k >= 0 ? p->shadow[k] : blocks[part];
    const wm_tensor *t = p->tensor[i];
    wm_tensor *view = wm_tensor_borrow(p->device, WM_F32, (float *)m->data + p->at[i], t->ndim, t->shape, m, let_go);
    if (view) wm_memory_keep(m);
    return view;
}

void wm_params_clear(wm_params *p) { wm_zero(p->device, p->grads->data, p->grads->bytes); }

double wm_params_norm(const wm_params *p) {
    wm_device_enter(p->device);
    double norm = wm_kernels_on(p->device)->gradient_norm(p->parts, p->grads->data, p->size);
    wm_device_leave(p->device);
    return norm;
}
