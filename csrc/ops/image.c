/* image: bytes and floats, resizing; (..., H, W, C). */
#include "../tape/tape.h"

static int infer_range(wm_node *n, wm_dtype dtype) {
    wm_tensor *x = n->in[0];
    if (!(n->attr[0].f < n->attr[1].f))
        return wm_fail("%s: low wanted below high, got %g and %g", n->op->name, n->attr[0].f, n->attr[1].f);
    return wm_out(n, 0, dtype, x->ndim, x->shape);
}
static int float_infer(wm_node *n) { return infer_range(n, WM_F32); }
static int bytes_infer(wm_node *n) { return infer_range(n, WM_U8); }

static void float_forward(wm_node *n) {
    n->k->bytes_to_floats(n->out[0]->data, n->in[0]->u8, (float)n->attr[0].f, (float)n->attr[1].f, n->out[0]->size);
}
static const wm_op frames_float = {"frames_float", "frames@u8 low:f=-1 high:f=1", "low + (high - low) frames / 255, float32.",
    float_infer, float_forward, NULL, NULL};

static void bytes_forward(wm_node *n) {
    n->k->floats_to_bytes(n->out[0]->u8, n->in[0]->data, (float)n->attr[0].f, (float)n->attr[1].f, (int)n->attr[2].i,
                          n->out[0]->size);
}
static const wm_op frames_u8 = {"frames_u8", "x low:f=-1 high:f=1 truncate:b=0",
    "255 (x - low) / (high - low) as uint8: the nearest, half to even, or cut toward 0 with truncate (as DIAMOND does); NaN is 0, "
    "what lies outside [low, high] the nearer end.  No gradient.", bytes_infer, bytes_forward, NULL, NULL};

/* ---- resize ------------------------------------------------------------------------------------------------ */

typedef struct { int64_t B, H, W, C, OH, OW; int mode; } resize_sizes;

static resize_sizes sizes_of(const wm_node *n) {
    const wm_tensor *x = n->in[0];
    int d = x->ndim;
    resize_sizes s = {1, x->shape[d - 3], x->shape[d - 2], x->shape[d - 1], n->attr[0].i, n->attr[1].i, (int)n->attr[2].i};
    for (int i = 0; i < d - 3; i++) s.B *= x->shape[i];
    return s;
}

static int resize_infer(wm_node *n) {
    wm_tensor *x = n->in[0];
    char text[96];
    if (x->ndim < 3) return wm_fail("resize: x wanted (..., H, W, C), got %s", wm_shape_text(x, text, sizeof text));
    if (x->dtype != WM_F32 && x->dtype != WM_U8)
        return wm_fail_as(WM_TYPE, "resize: x wanted float32 or uint8, got %s", wm_dtype_name((wm_dtype)x->dtype));
    resize_sizes s = sizes_of(n);
    if (s.OH < 1 || s.OW < 1 || s.OH > 1 << 20 || s.OW > 1 << 20)
        return wm_fail("resize: height and width wanted in 1 to 2^20, got %lld and %lld", (long long)s.OH, (long long)s.OW);
    n->scratch_bytes = (size_t)(s.B * s.OH * s.C * (s.W + (x->dtype == WM_U8 ? s.OW : 0))) * sizeof(float);
    int64_t shape[WM_DIMS];
    for (int i = 0; i < x->ndim; i++) shape[i] = x->shape[i];
    shape[x->ndim - 3] = s.OH, shape[x->ndim - 2] = s.OW;
    return wm_out(n, 0, (wm_dtype)x->dtype, x->ndim, shape);
}
static void resize_forward(wm_node *n) {
    resize_sizes s = sizes_of(n);
    if (n->in[0]->dtype == WM_U8)
        n->k->resize_bytes(n->out[0]->u8, n->scratch, n->in[0]->u8, s.mode, s.B, s.H, s.W, s.C, s.OH, s.OW);
    else
        n->k->resize_forward(n->out[0]->data, n->scratch, n->in[0]->data, s.mode, s.B, s.H, s.W, s.C, s.OH, s.OW);
}
static void resize_backward(wm_node *n) {
    resize_sizes s = sizes_of(n);
    float *dx = wm_grad(n->in[0]);
    if (dx) n->k->resize_backward(dx, n->scratch, n->out[0]->grad, s.mode, s.B, s.H, s.W, s.C, s.OH, s.OW);
}
static const wm_op resize = {"resize", "x@any height:i width:i mode:e=area|bilinear",
    "(..., H, W, C) -> (..., height, width, C), float32 or uint8 (to the nearest).  area: the mean over the pixel's area, exact "
    "for any ratio; bilinear: align_corners false, without antialiasing.", resize_infer, resize_forward, resize_backward, NULL};

const wm_op *const wm_ops_image[] = {&frames_float, &frames_u8, &resize, NULL};
