/* linear: products with weights, their activation, gate or SwiGLU fused; see kernels.def for the arithmetic.
   Weights are packed by check, which may fail; forward then finds them.  int8 and bf16, every op's last attributes, round
   weights and x to whole numbers or to bfloat16: for inference. */
#include "../tape/tape.h"
#include <string.h>

enum { ACT_NONE };

/* R rows of K features in, N out. */
typedef struct { int64_t R, N, K; } sizes;
static sizes sizes_of(const wm_node *n) {
    const wm_tensor *x = n->in[0], *w = n->in[1];
    return (sizes){x->size / w->shape[1], n->out[0]->shape[n->out[0]->ndim - 1], w->shape[1]};
}

/* x (..., K), weight (halves N, K), bias (halves N)? -> out (..., N) */
static int infer_product(wm_node *n, int halves) {
    const wm_tensor *x = n->in[0], *w = n->in[1], *b = n->in[2];
    const char *op = n->op->name;
    char text[96];
    if (w->ndim != 2 || w->shape[0] % halves)
        return wm_fail("%s: weight wanted shape (%s, features), got %s", op, halves == 2 ? "2 x out" : "out",
                       wm_shape_text(w, text, sizeof text));
    if (x->ndim < 1 || x->shape[x->ndim - 1] != w->shape[1])
        return wm_fail("%s: x wanted %lld features on its last axis, as weight has, got shape %s", op,
                       (long long)w->shape[1], wm_shape_text(x, text, sizeof text));
    if (b && (b->ndim != 1 || b->shape[0] != w->shape[0]))
        return wm_fail("%s: bias wanted shape (%lld,), got %s", op, (long long)w->shape[0],
                       wm_shape_text(b, text, sizeof text));
    int64_t shape[WM_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = w->shape[0] / halves;
    return wm_out(n, 0, WM_F32, x->ndim, shape);
}

/* How the product is made: attributes int8 and bf16, from this one on. */
typedef enum { PLAIN, INT8, HALF } way;
static way way_of(const wm_node *n, int at) { return n->attr[at].i ? INT8 : n->attr[at + 1].i ? HALF : PLAIN; }

static size_t room_for_dx(const wm_node *n) {
    const wm_tensor *w = n->in[1];
    return n->in[0]->needs_grad ? n->k->linear_packed_bytes(0, w->shape[1], w->shape[0]) : 0;
}

/* Room for backward: dv, if it is not dout itself, then the packed weight.  Or for x rounded. */
static int plan_room(wm_node *n, int at, int64_t dv_numbers) {
    int64_t K = n->in[1]->shape[1], R = n->in[0]->size / K;
    way how = way_of(n, at);
    if (how == INT8 && n->attr[at + 1].i) return wm_fail("%s: wanted int8 or bf16, not both", n->op->name);
    if (how && n->needs_grad)
        return wm_fail_as(WM_RUNTIME, "%s: %s has no gradient; leave the tape, or record without gradients", n->op->name,
                          how == INT8 ? "int8" : "bf16");
    if (how) n->scratch_bytes = how == INT8 ? n->k->linear_int8_room(R, K) : n->k->linear_bf16_room(R, K);
    else if (n->needs_grad) n->scratch_bytes = room_for_dx(n) + sizeof(float) * (size_t)dv_numbers;
    return 0;
}

/* Layouts beside the kernels' own: halves in turn, whole numbers, and bf16 in pairs. */
enum { PAIRS_LAYOUT = 1 << 20, INT8_LAYOUT = 1 << 21, HALF_LAYOUT = 1 << 22 };

static int pack(wm_node *n, int at, int halves) {
    wm_tensor *w = n->in[1];
    const wm_kernels *k = n->k;
    int bf16 = w->dtype == WM_BF16, layout = k->linear_layout(bf16), turn = halves == 2;
    int64_t N = w->shape[0] / halves, K = w->shape[1];
    size_t bytes = k->linear_packed_bytes(bf16, N, K);
    wm_packer packer = turn ? k->swiglu_pack : k->linear_pack;
    switch (way_of(n, at)) {
    case INT8: layout |= INT8_LAYOUT, bytes = k->linear_int8_bytes(N, K), packer = turn ? k->swiglu_int8_pack : k->linear_int8_pack; break;
    case HALF: layout |= HALF_LAYOUT, bytes = k->linear_bf16_bytes(N, K), packer = turn ? k->swiglu_bf16_pack : k->linear_bf16_pack; break;
    default: break;
    }
    return wm_packed(w, turn ? layout | PAIRS_LAYOUT : layout, (size_t)halves * bytes, packer, N, K) ? 0 : -1;
}

static float *numbers(const wm_tensor *t) { return t ? t->data : NULL; }

/* From dv (R, rows of weight) to x, weight and bias. */
static void backward_product(wm_node *n, const float *dv) {
    wm_tensor *x = n->in[0], *w = n->in[1], *b = n->in[2];
    int64_t N = w->shape[0], K = w->shape[1], R = x->size / K;
    if (wm_grad(x)) n->k->linear_dx(wm_grad(x), n->scratch, dv, w->raw, w->dtype == WM_BF16, R, N, K);
    if (wm_grad(w)) n->k->linear_dw(wm_grad(w), dv, x->data, R, N, K);
    if (wm_grad(b)) n->k->linear_db(wm_grad(b), dv, R, N);
}
static float *room_for_dv(const wm_node *n) { return (float *)((char *)n->scratch + room_for_dx(n)); }

/* ---- linear ------------------------------------------------------------------------------------ */

static int infer_linear(wm_node *n) {
    if (infer_product(n, 1) < 0) return -1;
    bool act = n->attr[0].i != ACT_NONE;
    if (plan_room(n, 1, act ? n->out[0]->size : 0) < 0) return -1;
    return n->needs_grad && act ? wm_save(n, 0, WM_F32, n->out[0]->ndim, n->out[0]->shape) : 0;
}
static int check_linear(wm_node *n) { return pack(n, 1, 1); }
static void forward_linear(wm_node *n) {
    sizes s = sizes_of(n);
    way how = way_of(n, 1);
    if (how)
        (how == INT8 ? n->k->linear_int8_forward : n->k->linear_bf16_forward)(
            n->out[0]->data, n->scratch, n->in[0]->data, wm_packed_now(n->in[1]), numbers(n->in[2]), (int)n->attr[0].i, s.R, s.N, s.K);
    else n->k->linear_forward(n->out[0]->data, numbers(n->saved[0]), n->in[0]->data, wm_packed_now(n->in[1]), numbers(n->in[2]),
                         n->in[1]->dtype == WM_BF16, (int)n->attr[0].i, s.R, s.N, s.K);
}
static void backward_linear(wm_node *n) {
    const float *dv = n->out[0]->grad;
    if (n->attr[0].i != ACT_NONE) {
        n->k->linear_act_backward(room_for_dv(n), dv, n->saved[0]->data, (int)n->attr[0].i, n->out[0]->size);
        dv = room_for_dv(n);
    }
    backward_product(n, dv);
}
static const wm_op linear = {
    "linear", "x weight@weight bias? act:e=none|gelu|gelu_erf|silu int8:b=0 bf16:b=0",
    "act(x @ weight.T + bias) over the last axis: x (..., K), weight (N, K) float32 or bfloat16, bias (N,) -> (..., N).\n"
    "gelu is its tanh form, gelu_erf the exact one (Hendrycks & Gimpel 2016); silu is v * sigmoid(v).\n"
    "int8: weight is rounded to int8 once, one scale a row, and x, one scale a row; no gradients.\n"
    "bf16: weight is rounded to bfloat16 once, and x where the processor multiplies bfloat16; float32 sums; no gradients.",
    infer_linear, forward_linear, backward_linear, check_linear};

/* ---- linear_gated ------------------------------------------------------------------------------ */

/* gate (..., N): its leading axes are those of x's out, or fewer (the rest of the rows share it), or 1 row for all. */
static int infer_gated(wm_node *n) {
    const wm_tensor *gate = n->in[3], *residual = n->in[4];
    char text[96], other[96];
    if (infer_product(n, 1) < 0) return -1;
    wm_tensor *out = n->out[0];
    bool same = residual->ndim == out->ndim && !memcmp(residual->shape, out->shape, sizeof(int64_t) * (size_t)out->ndim);
    if (!same)
        return wm_fail("linear_gated: residual wanted shape %s, got %s", wm_shape_text(out, text, sizeof text),
                       wm_shape_text(residual, other, sizeof other));
    int64_t N = out->shape[out->ndim - 1];
    if (gate->ndim < 1 || gate->shape[gate->ndim - 1] != N || out->size / N % (gate->size / N))
        return wm_fail("linear_gated: gate wanted shape (groups, %lld) with groups a divisor of %lld rows, got %s",
                       (long long)N, (long long)(out->size / N), wm_shape_text(gate, text, sizeof text));
    if (plan_room(n, 0, out->size) < 0) return -1;
    return n->needs_grad && gate->needs_grad ? wm_save(n, 0, WM_F32, out->ndim, out->shape) : 0;
}
static int check_gated(wm_node *n) { return pack(n, 0, 1); }
static void forward_gated(wm_node *n) {
    sizes s = sizes_of(n);
    way how = way_of(n, 0);
    if (how)
        (how == INT8 ? n->k->linear_gated_int8_forward : n->k->linear_gated_bf16_forward)(
            n->out[0]->data, n->scratch, n->in[0]->data, wm_packed_now(n->in[1]), numbers(n->in[2]), n->in[3]->data, n->in[4]->data,
            s.R, n->in[3]->size / s.N, s.N, s.K);
    else n->k->linear_gated_forward(n->out[0]->data, numbers(n->saved[0]), n->in[0]->data, wm_packed_now(n->in[1]), numbers(n->in[2]),
                               n->in[3]->data, n->in[4]->data, n->in[1]->dtype == WM_BF16, s.R, n->in[3]->size / s.N,
                               s.N, s.K);
}
static void backward_gated(wm_node *n) {
    sizes s = sizes_of(n);
    n->k->linear_gated_backward(room_for_dv(n), wm_grad(n->in[3]), wm_grad(n->in[4]), n->out[0]->grad, n->in[3]->data,
                                numbers(n->saved[0]), s.R, n->in[3]->size / s.N, s.N);
    backward_product(n, room_for_dv(n));
}
static const wm_op linear_gated = {
    "linear_gated", "x weight@weight bias? gate residual int8:b=0 bf16:b=0",
    "residual + gate * (x @ weight.T + bias): x (..., K), weight (N, K), bias (N,), residual (..., N) -> (..., N).\n"
    "gate (..., N): each of its G rows serves R / G consecutive rows of x: one for all, per sample, per frame or per token\n"
    "(the gated residual of AdaLN-Zero, Peebles & Xie 2023).",
    infer_gated, forward_gated, backward_gated, check_gated};

/* ---- swiglu ------------------------------------------------------------------------------------ */

static int infer_swiglu(wm_node *n) {
    if (infer_product(n, 2) < 0) return -1;
    const wm_tensor *out = n->out[0];
    int64_t shape[WM_DIMS];
    if (plan_room(n, 0, 2 * out->size) < 0) return -1;
    memcpy(shape, out->shape, sizeof shape);
    shape[out->ndim - 1] *= 2;
    return n->needs_grad ? wm_save(n, 0, WM_F32, out->ndim, shape) : 0;
}
static int check_swiglu(wm_node *n) { return pack(n, 0, 2); }
static void forward_swiglu(wm_node *n) {
    sizes s = sizes_of(n);
    way how = way_of(n, 0);
    if (how)
        (how == INT8 ? n->k->swiglu_int8_forward : n->k->swiglu_bf16_forward)(
            n->out[0]->data, n->scratch, n->in[0]->data, wm_packed_now(n->in[1]), numbers(n->in[2]), s.R, s.N, s.K);
    else n->k->swiglu_forward(n->out[0]->data, numbers(n->saved[0]), n->in[0]->data, wm_packed_now(n->in[1]), numbers(n->in[2]),
                         n->in[1]->dtype == WM_BF16, s.R, s.N, s.K);
}
static void backward_swiglu(wm_node *n) {
    sizes s = sizes_of(n);
    n->k->swiglu_backward(room_for_dv(n), n->out[0]->grad, n->saved[0]->data, s.R, s.N);
    backward_product(n, room_for_dv(n));
}
static const wm_op swiglu = {
    "swiglu", "x weight@weight bias? int8:b=0 bf16:b=0",
    "silu(x @ w1.T + b1) * (x @ w2.T + b2), with w1 and w2 the two halves of weight (2N, K), b1 and b2 of bias (2N,):\n"
    "x (..., K) -> (..., N) (Shazeer 2020).",
    infer_swiglu, forward_swiglu, backward_swiglu, check_swiglu};

const wm_op *const wm_ops_linear[] = {&linear, &linear_gated, &swiglu, NULL};
