/* tensor.c - shape and ownership.

   (1) wm_memory owns numbers; tensors, NumPy arrays and DLPack capsules hold references to it.
   (2) A view shares its base's memory and gradient: view->data == base->data + offset, and so for grad.
   (3) version grows with every write through us; exports counts writers we cannot see.  A packed weight is
       valid only while its version is current and exports is 0. */
#include "tensor.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* ---- memory ----------------------------------------------------------------------------------- */

static wm_memory *memory_on(int device, size_t bytes) {
    wm_memory *m = wm_alloc(sizeof *m);
    void *data = m ? wm_device_alloc(device, bytes) : NULL;
    if (!data) return wm_free(m), NULL;
    *m = (wm_memory){.refs = 1, .data = data, .bytes = bytes, .device = device};
    return m;
}

wm_memory *wm_memory_new(int device, size_t bytes) {
    _Static_assert(sizeof(wm_memory) <= WM_ALIGN, "the numbers must start on a cache line");
    if (device) return memory_on(device, bytes);
    wm_memory *m = wm_alloc(WM_ALIGN + bytes);
    if (m) *m = (wm_memory){.refs = 1, .data = (char *)m + WM_ALIGN, .bytes = bytes};
    return m;
}

wm_memory *wm_memory_keep(wm_memory *m) {
    if (m) __atomic_add_fetch(&m->refs, 1, __ATOMIC_RELAXED);
    return m;
}

void wm_memory_drop(wm_memory *m) {
    if (!m || __atomic_sub_fetch(&m->refs, 1, __ATOMIC_ACQ_REL)) return;
    if (m->release) m->release(m->owner);
    else if (m->device) wm_device_free(m->device, m->data);
    wm_free(m);
}

/* ---- tensors ---------------------------------------------------------------------------------- */

static const struct { const char *name; size_t size; } dtypes[] = {
    [WM_F32] = {"float32", 4}, [WM_BF16] = {"bfloat16", 2}, [WM_U8] = {"uint8", 1}, [WM_I32] = {"int32", 4},
    [WM_ANY] = {"any", 0},     [WM_WEIGHT] = {"float32 or bfloat16", 0},
};
size_t wm_dtype_size(wm_dtype d) { return dtypes[d].size; }
const char *wm_dtype_name(wm_dtype d) { return dtypes[d].name; }

static wm_tensor *describe(int device, wm_dtype dtype, int ndim, const int64_t *shape) {
    int64_t size = 1;
    if (ndim < 0 || ndim > WM_DIMS) return wm_fail("a tensor has at most %d axes, not %d", WM_DIMS, ndim), NULL;
    for (int i = 0; i < ndim; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(size, shape[i], &size) || size > INT64_MAX / 16)
            return wm_fail("axis %d cannot have length %lld", i, (long long)shape[i]), NULL;
    wm_tensor *t = wm_alloc(sizeof *t);
    if (!t) return NULL;
    *t = (wm_tensor){.refs = 1, .dtype = (uint8_t)dtype, .device = (uint8_t)device, .ndim = ndim, .size = size};
    for (int i = 0; i < ndim; i++) t->shape[i] = shape[i];
    return t;
}

wm_tensor *wm_tensor_new(int device, wm_dtype dtype, int ndim, const int64_t *shape) {
    wm_tensor *t = describe(device, dtype, ndim, shape);
    if (t && wm_tensor_wake(t) < 0) wm_drop(t), t = NULL;
    return t;
}

wm_tensor *wm_tensor_view(wm_tensor *base, int64_t offset, int ndim, const int64_t *shape) {
    if (base->base) offset += base->offset, base = base->base;      /* views of views hang on the same base */
    wm_tensor *t = describe(base->device, base->dtype, ndim, shape);
    if (!t) return NULL;
    t->base = wm_keep(base);
    t->offset = offset;
    t->needs_grad = base->needs_grad;
    wm_tensor_wake(t);
    return t;
}

wm_tensor *wm_tensor_borrow(int device, wm_dtype dtype, void *data, int ndim, const int64_t *shape, void *owner,
                            void (*release)(void *)) {
    wm_tensor *t = describe(device, dtype, ndim, shape);
    wm_memory *m = t ? wm_alloc(sizeof *m) : NULL;
    if (!m) return wm_drop(t), NULL;
    *m = (wm_memory){.refs = 1, .exports = 1, .data = data, .bytes = (size_t)t->size * wm_dtype_size(dtype),
                     .owner = owner, .release = release, .device = device};
    t->memory = m, t->raw = data;
    return t;
}

void wm_tensor_sleep(wm_tensor *t) {
    wm_memory_drop(t->memory);
    t->memory = NULL, t->raw = NULL;
}

int wm_tensor_wake(wm_tensor *t) {
    if (t->memory) return 0;
    size_t size = wm_dtype_size((wm_dtype)t->dtype);
    if (t->base) {
        if (wm_tensor_wake(t->base) < 0) return -1;
        t->memory = wm_memory_keep(t->base->memory);
        t->raw = (char *)t->base->raw + (size_t)t->offset * size;
    } else if ((t->memory = wm_memory_new(t->device, (size_t)t->size * size)))
        t->raw = t->memory->data;
    return t->memory ? 0 : -1;
}

int wm_tensor_move(wm_tensor *t, wm_memory *to, size_t offset) {
    size_t bytes = (size_t)t->size * wm_dtype_size((wm_dtype)t->dtype);
    if (t->base) return wm_fail("a view cannot move");
    if (to->device != t->device) return wm_fail("a tensor moves within its device only");
    wm_copy(t->device, (char *)to->data + offset, t->raw, bytes);
    wm_memory_drop(t->memory);
    t->memory = wm_memory_keep(to), t->raw = (char *)to->data + offset;
    wm_written(t);
    return 0;
}

int wm_tensor_send(wm_tensor *t, int device) {
    size_t bytes = (size_t)t->size * wm_dtype_size((wm_dtype)t->dtype), grads = (size_t)t->size * sizeof(float);
    if (device == t->device) return 0;
    if (t->base) return wm_fail("to_: a view cannot move to another device");
    if (__atomic_load_n(&t->memory->refs, __ATOMIC_ACQUIRE) > 1)
        return wm_fail("to_: these numbers are shared, by an arena, a view or an array; move them before");
    wm_memory *there = wm_memory_new(device, bytes), *grad = t->grad ? wm_memory_new(device, grads) : NULL;
    if (!there || (t->grad && !grad) || wm_copy_between(device, there->data, t->device, t->raw, bytes) < 0 ||
        (grad && wm_copy_between(device, grad->data, t->device, t->grad, grads) < 0)) {
        wm_memory_drop(there), wm_memory_drop(grad);
        return -1;
    }
    wm_memory_drop(t->memory), wm_memory_drop(t->grad_memory);
    wm_device_free(t->device, t->packed);
    t->packed = NULL, t->memory = there, t->raw = there->data, t->device = (uint8_t)device;
    t->grad_memory = grad, t->grad = grad ? grad->data : NULL;
    return 0;
}

const void *wm_read(const wm_tensor *t) {
    size_t bytes = (size_t)t->size * wm_dtype_size((wm_dtype)t->dtype);
    void *here = t->device ? wm_alloc(bytes) : t->raw;
    if (t->device && here && wm_copy_between(WM_CPU, here, t->device, t->raw, bytes) < 0) wm_free(here), here = NULL;
    return here;
}

void wm_read_done(const wm_tensor *t, const void *here) {
    if (t->device) wm_free((void *)here);
}

wm_tensor *wm_keep(wm_tensor *t) {
    if (t) __atomic_add_fetch(&t->refs, 1, __ATOMIC_RELAXED);
    return t;
}

void wm_drop(wm_tensor *t) {
    if (!t || __atomic_sub_fetch(&t->refs, 1, __ATOMIC_ACQ_REL)) return;
    wm_memory_drop(t->memory);
    wm_memory_drop(t->grad_memory);
    wm_device_free(t->device, t->packed);
    wm_drop(t->base);
    wm_free(t);
}

/* ---- gradients -------------------------------------------------------------------------------- */

/* A view's own flag decides: its base may have been told since that it needs none. */
static int grad_of(wm_tensor *t) {
    if (t->base) {
        if (grad_of(t->base) < 0) return -1;
        t->grad = t->base->grad + t->offset;
    } else if (!t->grad) {
        size_t bytes = (size_t)t->size * sizeof(float);
        if (!(t->grad_memory = wm_memory_new(t->device, bytes))) return -1;
        wm_zero(t->device, t->grad = t->grad_memory->data, bytes);
    }
    return 0;
}

int wm_grad_ready(wm_tensor *t) { return t && t->needs_grad ? grad_of(t) : 0; }

float *wm_grad(wm_tensor *t) { return t && t->needs_grad ? t->grad : NULL; }

bool wm_grad_here(wm_tensor *t) {
    if (!t->needs_grad) return false;
    if (!t->base) return t->grad;
    t->grad = t->base->grad ? t->base->grad + t->offset : NULL;
    return t->grad;
}

void wm_grad_clear(wm_tensor *t) {
    if (t->base) { t->grad = NULL; return; }
    if (t->grad_memory && t->grad_memory->data == t->grad && t->grad_memory->bytes == (size_t)t->size * sizeof(float)) {
        wm_memory_drop(t->grad_memory);
        t->grad_memory = NULL, t->grad = NULL;
    } else if (t->grad)
        wm_zero(t->device, t->grad, (size_t)t->size * sizeof(float));
}

/* ---- packed weights --------------------------------------------------------------------------- */

void wm_written(wm_tensor *t) { __atomic_add_fetch(&t->memory->version, 1, __ATOMIC_RELEASE); }

static const void *packed_now(wm_tensor *w, int layout, size_t bytes, wm_packer pack, int64_t N, int64_t K) {
    uint64_t now = __atomic_load_n(&w->memory->version, __ATOMIC_ACQUIRE) + 1;      /* 0: never packed */
    bool hidden = __atomic_load_n(&w->memory->exports, __ATOMIC_ACQUIRE) == 0;
    if (!pack) return wm_device_free(w->device, w->packed), w->packed = NULL, w->raw;
    if (w->packed && w->packed_layout == layout && w->packed_version == now && hidden) return w->packed;
    if (w->packed && w->packed_layout != layout) wm_device_free(w->device, w->packed), w->packed = NULL;
    if (!w->packed && !(w->packed = w->device ? wm_device_alloc(w->device, bytes) : wm_alloc_lasting(bytes))) return NULL;
    pack(w->packed, w->raw, w->dtype, N, K);
    w->packed_layout = layout, w->packed_version = now;
    return w->packed;
}

const void *wm_packed(wm_tensor *w, int layout, size_t bytes, wm_packer pack, int64_t N, int64_t K) {
    static pthread_mutex_t packing = PTHREAD_MUTEX_INITIALIZER;     /* two threads may step the same world */
    wm_device_enter(w->device);         /* before packing, as an op that is at work has entered already */
    pthread_mutex_lock(&packing);
    const void *p = packed_now(w, layout, bytes, pack, N, K);
    pthread_mutex_unlock(&packing);
    wm_device_leave(w->device);
    return p;
}

/* ---- words ------------------------------------------------------------------------------------ */

const char *wm_shape_text(const wm_tensor *t, char *text, size_t size) {
    size_t n = (size_t)snprintf(text, size, "(");
    for (int i = 0; i < t->ndim && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, i ? ", %lld" : "%lld", (long long)t->shape[i]);
    if (n < size) snprintf(text + n, size - n, t->ndim == 1 ? ",)" : ")");
    return text;
}
