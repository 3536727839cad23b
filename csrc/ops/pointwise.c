/* pointwise: functions of one number and of two numbers that broadcast, where, casts.  The functions themselves, with
   their slopes, are the lines of kernels/pointwise.def. */
#include "broadcast.h"
#include <string.h>

/* ---- one input -------------------------------------------------------------------------------- */

static int infer_like_x(wm_node *n) { return wm_out(n, 0, WM_F32, n->in[0]->ndim, n->in[0]->shape); }

#define WM_UNARY(name, attributes, doc, value, slope)                                                                  \
    static void name##_forward(wm_node *n) {                                                                           \
        n->k->name##_forward(n->out[0]->data, n->in[0]->data, (float)n->attr[0].f, (float)n->attr[1].f,                \
                             n->out[0]->size);                                                                         \
    }                                                                                                                  \
    static void name##_backward(wm_node *n) {                                                                          \
        n->k->name##_backward(wm_grad(n->in[0]), n->out[0]->grad, n->in[0]->data, n->out[0]->data,                     \
                              (float)n->attr[0].f, (float)n->attr[1].f, n->out[0]->size);                              \
    }                                                                                                                  \
    static const wm_op name##_op = {#name, "x" attributes, doc ".", infer_like_x, name##_forward, name##_backward, NULL};
#include "../kernels/pointwise.def"
#undef WM_UNARY

/* gelu chooses between two lines of pointwise.def. */
static void gelu_forward(wm_node *n) { n->attr[0].i ? gelu_erf_forward(n) : gelu_tanh_forward(n); }
static void gelu_backward(wm_node *n) { n->attr[0].i ? gelu_erf_backward(n) : gelu_tanh_backward(n); }
static const wm_op gelu_op = {"gelu", "x form:e=tanh|erf",
    "x P(X <= x) for a standard normal X, by its tanh form or exactly (Hendrycks & Gimpel 2016).",
    infer_like_x, gelu_forward, gelu_backward, NULL};

/* ---- two inputs that broadcast ---------------------------------------------------------------- */

/* Numbers of scratch that the gradient of in[i] needs: a full-size gradient before summing, room for the sums between. */
static int64_t room_for(const wm_node *n, int i, bool plain) {
    const int runs = n->in[i]->needs_grad ? wm_broadcast_runs(n->in[i], n->out[0]) : 0;
    return n->out[0]->size * (runs ? (plain ? 0 : 1) + (runs > 1) : 0);
}

static int infer_meeting(wm_node *n, int first, int n_in, wm_dtype dtype, bool plain) {
    int ndim;
    int64_t shape[WM_DIMS], room = 0;
    if (wm_broadcast_shape(n, n_in, &ndim, shape) < 0 || wm_out(n, 0, dtype, ndim, shape) < 0) return -1;
    for (int i = first; n->needs_grad && i < n_in; i++) {
        const int64_t r = room_for(n, i, plain);
        if (r > room) room = r;
    }
    n->scratch_bytes = (size_t)room * sizeof(float);
    return 0;
}
static int infer_plain(wm_node *n) { return infer_meeting(n, 0, 2, WM_F32, true); }
static int infer_pair(wm_node *n) { return infer_meeting(n, 0, 2, WM_F32, false); }
static int infer_mask(wm_node *n) { return infer_meeting(n, 0, 2, WM_U8, true); }

static wm_broadcast meeting(const wm_node *n, int n_in) {
    wm_broadcast b;
    if (n->in[0]->size == n->out[0]->size && n->in[1]->size == n->out[0]->size && n_in == 2)
        b = (wm_broadcast){1, {n->out[0]->size}, {{1}, {1}}};
    else
        wm_broadcast_strides(&b, n->out[0], n->in, n_in);
    return b;
}

/* Where a full-size gradient of in[i] is added: its own, or zeroed scratch that add_up sums. */
static float *gradient_room(wm_node *n, int i) {
    float *d = wm_grad(n->in[i]);
    if (!d || n->in[i]->size == n->out[0]->size) return d;
    wm_zero(n->device, n->scratch, (size_t)n->out[0]->size * sizeof(float));
    return n->scratch;
}
static void add_up(wm_node *n, int i, const float *full, double scale, float *room) {
    if (wm_grad(n->in[i]) && n->in[i]->size != n->out[0]->size)
        wm_broadcast_sum(n->k, wm_grad(n->in[i]), n->in[i], full, n->out[0], scale, room);
}

#define WM_BINARY(name, doc, value, slope_a, slope_b)                                                                  \
    static void name##_forward(wm_node *n) {                                                                           \
        const wm_broadcast b = meeting(n, 2);                                                                          \
        n->k->name##_forward(n->out[0]->data, n->in[0]->data, n->in[1]->data, b.shape, b.stride[0], b.stride[1],       \
                             b.ndim);                                                                                  \
    }                                                                                                                  \
    static void name##_backward_of(wm_node *n, int i) {                                                                \
        const wm_broadcast b = meeting(n, 2);                                                                          \
        float *d = gradient_room(n, i);                                                                                \
        if (!d) return;                                                                                                \
        n->k->name##_backward(i ? NULL : d, i ? d : NULL, n->out[0]->grad, n->in[0]->data, n->in[1]->data, b.shape,    \
                              b.stride[0], b.stride[1], b.ndim);                                                       \
        add_up(n, i, d, 1.0, (float *)n->scratch + n->out[0]->size);                                                   \
    }
#define WM_COMPARE(name, doc, mask)                                                                                    \
    static void name##_forward(wm_node *n) {                                                                           \
        const wm_broadcast b = meeting(n, 2);                                                                          \
        n->k->name##_forward(n->out[0]->u8, n->in[0]->data, n->in[1]->data, b.shape, b.stride[0], b.stride[1], b.ndim);\
    }                                                                                                                  \
    static const wm_op name##_op = {#name, "a b", doc ", as uint8; shapes broadcast.", infer_mask, name##_forward, NULL,\
                                    NULL};
#include "../kernels/pointwise.def"
#undef WM_BINARY
#undef WM_COMPARE

/* A repeated input of a sum receives sums of dout itself: no full-size gradient is made. */
static void plain_backward(wm_node *n, int i, double sign, void backward_of(wm_node *, int)) {
    if (n->in[i]->size == n->out[0]->size) backward_of(n, i);
    else add_up(n, i, n->out[0]->grad, sign, n->scratch);
}
static void add_backward(wm_node *n) {
    plain_backward(n, 0, 1.0, add_backward_of);
    plain_backward(n, 1, 1.0, add_backward_of);
}
static void sub_backward(wm_node *n) {
    plain_backward(n, 0, 1.0, sub_backward_of);
    plain_backward(n, 1, -1.0, sub_backward_of);
}
static void mul_backward(wm_node *n) { mul_backward_of(n, 0), mul_backward_of(n, 1); }
static void div_backward(wm_node *n) { div_backward_of(n, 0), div_backward_of(n, 1); }
static void maximum_backward(wm_node *n) { maximum_backward_of(n, 0), maximum_backward_of(n, 1); }
static void minimum_backward(wm_node *n) { minimum_backward_of(n, 0), minimum_backward_of(n, 1); }

static const wm_op
    add_op = {"add", "a b", "a + b; shapes broadcast.", infer_plain, add_forward, add_backward, NULL},
    sub_op = {"sub", "a b", "a - b; shapes broadcast.", infer_plain, sub_forward, sub_backward, NULL},
    mul_op = {"mul", "a b", "a * b; shapes broadcast.", infer_pair, mul_forward, mul_backward, NULL},
    div_op = {"div", "a b", "a / b; shapes broadcast.", infer_pair, div_forward, div_backward, NULL},
    maximum_op = {"maximum", "a b", "The larger of a and b, NaN if there is one; equal ones share the gradient; shapes broadcast.",
                  infer_pair, maximum_forward, maximum_backward, NULL},
    minimum_op = {"minimum", "a b", "The smaller of a and b, NaN if there is one; equal ones share the gradient; shapes broadcast.",
                  infer_pair, minimum_forward, minimum_backward, NULL};

/* ---- where ------------------------------------------------------------------------------------ */

static int infer_where(wm_node *n) { return infer_meeting(n, 1, 3, WM_F32, false); }

static void where_forward(wm_node *n) {
    const wm_broadcast b = meeting(n, 3);
    n->k->where_forward(n->out[0]->data, n->in[0]->u8, n->in[1]->data, n->in[2]->data, b.shape, b.stride[0], b.stride[1],
                        b.stride[2], b.ndim);
}
static void where_backward(wm_node *n) {
    const wm_broadcast b = meeting(n, 3);
    for (int i = 1; i < 3; i++) {
        float *d = gradient_room(n, i);
        if (!d) continue;
        n->k->where_backward(i == 1 ? d : NULL, i == 2 ? d : NULL, n->out[0]->grad, n->in[0]->u8, b.shape, b.stride[0], b.ndim);
        add_up(n, i, d, 1.0, (float *)n->scratch + n->out[0]->size);
    }
}
static const wm_op where_op = {"where", "mask@u8 a b", "a where mask is not 0, else b; shapes broadcast.", infer_where,
                               where_forward, where_backward, NULL};

/* ---- cast and stop_gradient ------------------------------------------------------------------- */

_Static_assert((int)WM_KIND_F32 == (int)WM_F32 && (int)WM_KIND_BF16 == (int)WM_BF16 && (int)WM_KIND_U8 == (int)WM_U8 &&
               (int)WM_KIND_I32 == (int)WM_I32, "kernels.h and tensor.h number the dtypes alike");

static bool is_float(int dtype) { return dtype == WM_F32 || dtype == WM_BF16; }

static int infer_cast(wm_node *n) {
    const wm_dtype to = (wm_dtype)n->attr[0].i;
    n->needs_grad = n->needs_grad && is_float(to) && is_float(n->in[0]->dtype);
    if (wm_out(n, 0, to, n->in[0]->ndim, n->in[0]->shape) < 0) return -1;
    n->out[0]->needs_grad = n->needs_grad;
    return 0;
}
static void cast_forward(wm_node *n) {
    n->k->cast_forward(n->out[0]->raw, n->in[0]->raw, n->out[0]->dtype, n->in[0]->dtype, n->out[0]->size);
}
static void cast_backward(wm_node *n) {
    const float *g = n->out[0]->grad;
    if (wm_grad(n->in[0])) n->k->scale_shift_backward(wm_grad(n->in[0]), g, g, g, 1.0f, 0.0f, n->out[0]->size);
}
static const wm_op cast_op = {"cast", "x@any to:e=float32|bfloat16|uint8|int32",
    "The same numbers as another dtype.  To bfloat16, uint8 and int32 rounds to nearest even; uint8 and int32 saturate, "
    "NaN becomes 0.  Gradients pass between float32 and bfloat16 only.",
    infer_cast, cast_forward, cast_backward, NULL};

static int infer_stop(wm_node *n) { return wm_out_view(n, 0, n->in[0], 0, n->in[0]->ndim, n->in[0]->shape); }
static void nothing(wm_node *n) { (void)n; }
static const wm_op stop_gradient_op = {"stop_gradient", "x@any", "x itself, through which no gradient flows.", infer_stop,
                                       nothing, NULL, NULL};

/* ---- all of them ------------------------------------------------------------------------------ */

#define WM_UNARY(name, attributes, doc, value, slope) &name##_op,
#define WM_BINARY(name, doc, value, slope_a, slope_b) &name##_op,
#define WM_COMPARE(name, doc, mask) &name##_op,
const wm_op *const wm_ops_pointwise[] = {
#include "../kernels/pointwise.def"
    &gelu_op, &where_op, &cast_op, &stop_gradient_op, NULL};
