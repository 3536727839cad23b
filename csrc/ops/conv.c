/* conv: conv2d over channels-last images.  Which algorithm gives out and dx depends on the shapes of one image only,
   never on the batch, so that a sample has the same bits alone and in a batch. */
#include "../tape/tape.h"
#include <string.h>

enum { IN_X, IN_WEIGHT, IN_BIAS, IN_RESIDUAL };
enum { STRIDE, PADDING, ACT, UPSAMPLE, WORKERS };      /* WORKERS is no argument: infer's wm_threads */

/* The convolution that a node asks for; leading axes of x are all batch. */
static wm_conv shape_of(const wm_node *n) {
    const wm_tensor *x = n->in[IN_X], *w = n->in[IN_WEIGHT];
    const int64_t *size = x->shape + x->ndim - 3;
    wm_conv s = {.H = size[0], .W = size[1], .C = size[2], .O = w->shape[0], .kh = w->shape[1], .kw = w->shape[2],
                 .stride = n->attr[STRIDE].i, .up = n->attr[UPSAMPLE].i};
    int64_t padding = n->attr[PADDING].i;
    s.B = x->size / (s.H * s.W * s.C);
    s.top = padding < 0 ? s.kh / 2 : padding, s.left = padding < 0 ? s.kw / 2 : padding;
    s.OH = (s.H * s.up + 2 * s.top - s.kh) / s.stride + 1, s.OW = (s.W * s.up + 2 * s.left - s.kw) / s.stride + 1;
    s.pixel = s.O, s.row = s.OW * s.pixel, s.image = s.OH * s.row;
    return s;
}

/* The convolution of dout that gives dx at rows py and columns px modulo stride; false if no tap reaches them. */
static bool phase_of(wm_conv *p, const wm_conv *s, int64_t py, int64_t px) {
    int64_t H = s->H * s->up, W = s->W * s->up, y = py + s->top, x = px + s->left, t = s->stride;
    int64_t ny = (s->kh - y % t + t - 1) / t, nx = (s->kw - x % t + t - 1) / t;
    *p = (wm_conv){.B = s->B, .H = s->OH, .W = s->OW, .C = s->O, .OH = (H - py + t - 1) / t, .OW = (W - px + t - 1) / t,
                   .O = s->C, .kh = ny, .kw = nx, .stride = 1, .top = ny - 1 - y / t, .left = nx - 1 - x / t, .up = 1,
                   .image = H * W * s->C, .row = t * W * s->C, .pixel = t * s->C};
    return y % t < s->kh && x % t < s->kw && py < H && px < W;
}

/* With fewer channels, or pixels for dweight, Winograd's rounding would show beside that of the shorter direct sums. */
static bool by_winograd(const wm_conv *s) {
    return s->kh == 3 && s->kw == 3 && s->stride == 1 && s->C >= 32 && s->OH > 2 && s->OW > 2;
}

static int64_t up_to_16(int64_t n) { return (n + 15) / 16 * 16; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- scratch, in numbers ------------------------------------------------------------------------ */

static int64_t correlate_scratch(const wm_node *n, const wm_conv *s) {
    return by_winograd(s) ? n->k->winograd_scratch(s) : n->k->conv_direct_scratch(s);
}

static int64_t packed_size(const wm_conv *s) { return (by_winograd(s) ? 36 : s->kh * s->kw) * s->C * up_to_16(s->O); }

/* dx: the packed weight, the enlarged dx if there is one, and a part for each worker. */
static int64_t dx_room(const wm_conv *s) { return s->up > 1 ? up_to_16(s->B * s->H * s->W * s->up * s->up * s->C) : 0; }
static int64_t dx_scratch(const wm_node *n, const wm_conv *s, int64_t workers) {
    int64_t size = 0;
    for (int64_t i = 0; i < s->stride * s->stride; i++) {
        wm_conv p;
        if (phase_of(&p, s, i / s->stride, i % s->stride))
            size = most(size, packed_size(&p) + workers * correlate_scratch(n, &p));
    }
    return dx_room(s) + size;
}

static bool weight_by_winograd(const wm_conv *s) {
    return by_winograd(s) && s->O >= 32 && s->B * s->OH * s->OW >= 4096;
}
static int64_t weight_scratch(const wm_node *n, const wm_conv *s, int64_t workers) {
    return weight_by_winograd(s) ? n->k->winograd_weight_scratch(s) : workers * n->k->conv_weight_scratch(s);
}

/* dsum, the gradient before the activation, stays in front of all that; bias sums need a row a chunk. */
static int64_t dsum_room(const wm_node *n) { return n->attr[ACT].i ? up_to_16(n->out[0]->size) : 0; }
static int64_t scratch_of(const wm_node *n, const wm_conv *s, int64_t workers) {
    int64_t size = workers * correlate_scratch(n, s);
    if (!n->needs_grad) return size;
    int64_t back = most(dx_scratch(n, s, workers), weight_scratch(n, s, workers));
    return most(size, dsum_room(n) + most(back, (s->B * s->OH * s->OW / 256 + 1) * s->O));
}

/* ---- the op ------------------------------------------------------------------------------------- */

static int check_shapes(const wm_node *n) {
    const wm_tensor *x = n->in[IN_X], *w = n->in[IN_WEIGHT], *b = n->in[IN_BIAS];
    char text[96];
    if (x->ndim < 3) return wm_fail("conv2d: x wanted (..., H, W, C), got %s", wm_shape_text(x, text, sizeof text));
    if (w->ndim != 4) return wm_fail("conv2d: weight wanted (O, kh, kw, C), got %s", wm_shape_text(w, text, sizeof text));
    if (w->shape[3] != x->shape[x->ndim - 1])
        return wm_fail("conv2d: weight wanted %lld channels, those of x, got %lld", (long long)x->shape[x->ndim - 1],
                       (long long)w->shape[3]);
    if (b && (b->ndim != 1 || b->shape[0] != w->shape[0]))
        return wm_fail("conv2d: bias wanted (%lld,), got %s", (long long)w->shape[0], wm_shape_text(b, text, sizeof text));
    if (n->attr[STRIDE].i < 1 || n->attr[STRIDE].i > 64)
        return wm_fail("conv2d: stride wanted 1 to 64, got %lld", (long long)n->attr[STRIDE].i);
    if (n->attr[UPSAMPLE].i < 1 || n->attr[UPSAMPLE].i > 64)
        return wm_fail("conv2d: upsample wanted 1 to 64, got %lld", (long long)n->attr[UPSAMPLE].i);
    if (n->attr[PADDING].i < 0 && (w->shape[1] % 2 == 0 || w->shape[2] % 2 == 0))
        return wm_fail("conv2d: padding wanted for a kernel of even size %lld x %lld (-1 means 'same' for odd ones)",
                       (long long)w->shape[1], (long long)w->shape[2]);
    if (n->attr[PADDING].i >= w->shape[1] || n->attr[PADDING].i >= w->shape[2])
        return wm_fail("conv2d: padding wanted below the kernel's size %lld x %lld, got %lld", (long long)w->shape[1],
                       (long long)w->shape[2], (long long)n->attr[PADDING].i);
    return 0;
}

static int infer(wm_node *n) {
    if (check_shapes(n) < 0) return -1;
    const wm_tensor *x = n->in[IN_X], *residual = n->in[IN_RESIDUAL];
    wm_conv s = shape_of(n);
    if (s.H * s.up + 2 * s.top < s.kh || s.W * s.up + 2 * s.left < s.kw)
        return wm_fail("conv2d: weight wanted at most %lld x %lld, the padded x, got %lld x %lld",
                       (long long)(s.H * s.up + 2 * s.top), (long long)(s.W * s.up + 2 * s.left), (long long)s.kh,
                       (long long)s.kw);
    int64_t shape[WM_DIMS];
    for (int i = 0; i < x->ndim; i++) shape[i] = x->shape[i];
    shape[x->ndim - 3] = s.OH, shape[x->ndim - 2] = s.OW, shape[x->ndim - 1] = s.O;
    if (wm_out(n, 0, WM_F32, x->ndim, shape) < 0) return -1;
    for (int i = 0; residual && i < x->ndim; i++)
        if (residual->ndim != x->ndim || residual->shape[i] != shape[i]) {
            char got[96], want[96];
            return wm_fail("conv2d: residual wanted %s, the shape of the result, got %s",
                           wm_shape_text(n->out[0], want, sizeof want), wm_shape_text(residual, got, sizeof got));
        }
    if (n->needs_grad && n->attr[ACT].i && wm_save(n, 0, WM_F32, x->ndim, shape) < 0) return -1;
    n->attr[WORKERS].i = wm_threads;
    n->scratch_bytes = (size_t)scratch_of(n, &s, wm_threads) * sizeof(float);
    return 0;
}

/* Packs the weight, which can fail, before each forward, which cannot. */
static int pack(wm_node *n) {
    wm_tensor *w = n->in[IN_WEIGHT];
    wm_conv s = shape_of(n);
    wm_packer packer = by_winograd(&s) ? n->k->winograd_pack : n->k->conv_pack;
    return wm_packed(w, (int)(intptr_t)packer, (size_t)packed_size(&s) * sizeof(float), packer, s.O, s.kh * s.kw * s.C) ? 0 : -1;
}

static void correlate(const wm_node *n, float *out, const float *x, const float *packed, const wm_conv_end *end,
                      float *scratch, int64_t workers, const wm_conv *s) {
    if (by_winograd(s)) n->k->winograd_forward(out, x, packed, end, scratch, workers, s);
    else n->k->conv_direct(out, x, packed, end, scratch, workers, s);
}

static void forward(wm_node *n) {
    wm_conv s = shape_of(n);
    wm_conv_end end = {.bias = n->in[IN_BIAS] ? n->in[IN_BIAS]->data : NULL,
                       .residual = n->in[IN_RESIDUAL] ? n->in[IN_RESIDUAL]->data : NULL,
                       .before = n->saved[0] ? n->saved[0]->data : NULL, .act = (wm_act)n->attr[ACT].i};
    correlate(n, n->out[0]->data, n->in[IN_X]->data, n->in[IN_WEIGHT]->packed, &end, n->scratch, n->attr[WORKERS].i, &s);
}

/* dx: a convolution of dsum for each row and column modulo stride; sums over its copies if x was enlarged. */
static void backward_x(const wm_node *n, float *dx, const float *dsum, float *scratch, int64_t workers, const wm_conv *s) {
    const wm_tensor *w = n->in[IN_WEIGHT];
    int64_t W = s->W * s->up, room = dx_room(s);
    float *to = room ? scratch : dx, *packed = scratch + room;
    wm_conv_end end = {.add = !room};
    if (room && (s->kh < s->stride || s->kw < s->stride)) wm_zero(n->device, to, (size_t)room * sizeof *to);   /* some stay unreached */
    for (int64_t i = 0; i < s->stride * s->stride; i++) {
        wm_conv p;
        int64_t py = i / s->stride, px = i % s->stride, from = (py * W + px) * s->C;
        if (!phase_of(&p, s, py, px)) continue;
        if (by_winograd(&p)) n->k->winograd_pack_backward(packed, w->raw, w->dtype, s->O, s->C);
        else n->k->conv_pack_phase(packed, w->raw, w->dtype, py, px, s);
        correlate(n, to + from, dsum, packed, &end, packed + packed_size(&p), workers, &p);
    }
    if (room) n->k->conv_up_backward(dx, to, s->up, s->B, s->H, s->W, s->C);
}

static void backward(wm_node *n) {
    wm_conv s = shape_of(n);
    wm_tensor *x = n->in[IN_X];
    float *dx = wm_grad(x), *dweight = wm_grad(n->in[IN_WEIGHT]), *dbias = wm_grad(n->in[IN_BIAS]);
    float *dresidual = wm_grad(n->in[IN_RESIDUAL]), *scratch = (float *)n->scratch + dsum_room(n);
    const float *dsum = n->out[0]->grad;
    int64_t workers = n->attr[WORKERS].i;
    if (dresidual) n->k->conv_add(dresidual, dsum, n->out[0]->size);
    if (n->saved[0]) {
        n->k->conv_end_backward(n->scratch, dsum, n->saved[0]->data, (wm_act)n->attr[ACT].i, n->out[0]->size);
        dsum = n->scratch;
    }
    if (dbias) n->k->conv_bias(dbias, dsum, scratch, s.B * s.OH * s.OW, s.O);
    if (dweight && weight_by_winograd(&s)) n->k->winograd_weight(dweight, dsum, x->data, scratch, &s);
    else if (dweight) n->k->conv_weight(dweight, dsum, x->data, scratch, workers, &s);
    if (dx) backward_x(n, dx, dsum, scratch, workers, &s);
}

static const wm_op conv2d = {
    "conv2d", "x weight@weight bias? residual? stride:i=1 padding:i=-1 act:e=none|silu|relu upsample:i=1",
    "act(sum over i, j, c of x[..., stride y - padding + i, stride x - padding + j, c] weight[o, i, j, c] + bias[o]) + residual,\n"
    "channels last, zeros outside x.  x (..., H, W, C), weight (O, kh, kw, C), bias (O,), result and residual (..., OH, OW, O)\n"
    "with OH = (H upsample + 2 padding - kh) // stride + 1.  padding -1 keeps the size at stride 1 (odd kernels).\n"
    "upsample repeats every pixel of x so many times in both directions first (nearest neighbour).\n"
    "3x3 kernels of stride 1 over 32 channels or more run by Winograd's F(4x4,3x3) (Lavin and Gray 2015,\n"
    "arXiv:1509.09308), others directly.",
    infer, forward, backward, pack};

const wm_op *const wm_ops_conv[] = {&conv2d, NULL};
