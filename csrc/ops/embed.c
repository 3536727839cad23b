/* embed: tables, sinusoids, Fourier features, patches, one-hot rows, positions on a grid. */
#include "axes.h"

static int64_t item(const wm_tensor *t) { return (int64_t)wm_dtype_size((wm_dtype)t->dtype); }

/* An output with the axes of x and one more of length L behind them. */
static int out_with_axis(wm_node *n, const wm_tensor *x, int64_t L) {
    int64_t shape[WM_DIMS + 1];
    if (x->ndim == WM_DIMS) return wm_fail("%s: the result would have more than %d axes", n->op->name, WM_DIMS);
    for (int d = 0; d < x->ndim; d++) shape[d] = x->shape[d];
    shape[x->ndim] = L;
    return wm_out(n, 0, WM_F32, x->ndim + 1, shape);
}

/* ---- embedding --------------------------------------------------------------------------------- */

static int infer_embedding(wm_node *n) {
    char text[96];
    if (n->in[0]->ndim != 2)
        return wm_fail("embedding: table wanted two axes, got shape %s", wm_shape_text(n->in[0], text, sizeof text));
    return out_with_axis(n, n->in[1], n->in[0]->shape[1]);
}
static int check_embedding(wm_node *n) { return wm_check_index(n, n->in[1], n->in[0]->shape[0]); }
static void embedding_forward(wm_node *n) {
    const wm_tensor *table = n->in[0];
    n->k->embedding_forward(n->out[0]->data, table->raw, n->in[1]->i32, table->dtype, n->in[1]->size, table->shape[1]);
}
static void embedding_backward(wm_node *n) {
    const wm_tensor *table = n->in[0];
    n->k->gather_backward(wm_grad(n->in[0]), n->out[0]->grad, n->in[1]->i32, 1, table->shape[0], n->in[1]->size, table->shape[1]);
}
static const wm_op embedding = {"embedding", "table@weight index@i32",
    "Rows of a table (N,C): out (...,C) = table[index].  The gradient of a row is summed in the order of the indices.",
    infer_embedding, embedding_forward, embedding_backward, check_embedding};

/* ---- sinusoidal, fourier, axial_positions --------------------------------------------------------- */

static int infer_sinusoidal(wm_node *n) {
    if (n->attr[0].i < 2) return wm_fail("sinusoidal: dim wanted 2 or more, got %lld", (long long)n->attr[0].i);
    if (!(n->attr[1].f > 0)) return wm_fail("sinusoidal: max_period wanted a positive number, got %g", n->attr[1].f);
    return out_with_axis(n, n->in[0], n->attr[0].i);
}
static void sinusoidal_forward(wm_node *n) {
    n->k->sinusoidal_forward(n->out[0]->data, n->in[0]->data, (float)n->attr[2].f, (float)n->attr[1].f, (int)n->attr[3].i,
                             n->in[0]->size, n->attr[0].i);
}
static void sinusoidal_backward(wm_node *n) {
    n->k->sinusoidal_backward(wm_grad(n->in[0]), n->out[0]->grad, n->in[0]->data, (float)n->attr[2].f, (float)n->attr[1].f,
                              (int)n->attr[3].i, n->in[0]->size, n->attr[0].i);
}
static const wm_op sinusoidal = {"sinusoidal", "t dim:i max_period:f=10000 scale:f=1 order:e=cos_sin|sin_cos",
    "out (...,dim): cos and sin of t scale max_period^(-i/(dim/2)), i < dim/2; an odd dim ends with 0.  cos_sin is the order\n"
    "of DDPM and DiT time embeddings, sin_cos that of Vaswani et al. 2017 with its halves side by side.",
    infer_sinusoidal, sinusoidal_forward, sinusoidal_backward, NULL};

static int infer_fourier(wm_node *n) {
    char text[96];
    if (n->in[1]->ndim != 1)
        return wm_fail("fourier: weight wanted one axis, got shape %s", wm_shape_text(n->in[1], text, sizeof text));
    return out_with_axis(n, n->in[0], 2 * n->in[1]->size);
}
static void fourier_forward(wm_node *n) {
    n->k->fourier_forward(n->out[0]->data, n->in[0]->data, n->in[1]->data, n->in[0]->size, n->in[1]->size);
}
static void fourier_backward(wm_node *n) {
    n->k->fourier_backward(wm_grad(n->in[0]), wm_grad(n->in[1]), n->out[0]->grad, n->out[0]->data, n->in[0]->data,
                           n->in[1]->data, n->in[0]->size, n->in[1]->size);
}
static const wm_op fourier = {"fourier", "t weight",
    "out (...,2D) = cos, sin of 2 pi t weight, weight (D): random Fourier features (Tancik et al. 2020, Karras et al. 2022).",
    infer_fourier, fourier_forward, fourier_backward, NULL};

static int infer_axial(wm_node *n) {
    const int64_t H = n->attr[0].i, W = n->attr[1].i, D = n->attr[2].i;
    if (H < 1 || W < 1 || H > INT32_MAX || W > INT32_MAX)
        return wm_fail("axial_positions: height and width wanted 1 or more, got %lld and %lld", (long long)H, (long long)W);
    if (D < 4 || D % 4) return wm_fail("axial_positions: dim wanted a multiple of 4, got %lld", (long long)D);
    if (!(n->attr[3].f > 0)) return wm_fail("axial_positions: max_period wanted a positive number, got %g", n->attr[3].f);
    return wm_out(n, 0, WM_F32, 2, (int64_t[]){H * W, D});
}
static void axial_forward(wm_node *n) {
    n->k->axial_positions(n->out[0]->data, (float)n->attr[3].f, n->attr[0].i, n->attr[1].i, n->attr[2].i);
}
static const wm_op axial_positions = {"axial_positions", "height:i width:i dim:i max_period:f=10000",
    "Positions on a grid, out (height*width, dim): sin, cos of the row, then sin, cos of the column, dim/4 scales each.",
    infer_axial, axial_forward, NULL, NULL};

/* ---- patchify, unpatchify -------------------------------------------------------------------------- */

/* Over (R,H/p,W/p,p*C) pixels are read with these strides: rows of patches, patches, rows inside, pixels inside. */
typedef struct { int64_t R, H, W, C, p; } patches;
static wm_walk patch_walk(patches s) {
    wm_walk w = {0};
    wm_walk_axis(&w, s.R * (s.H / s.p), s.p * s.W * s.C);
    wm_walk_axis(&w, s.W / s.p, s.p * s.C);
    wm_walk_axis(&w, s.p, s.W * s.C);
    wm_walk_axis(&w, s.p * s.C, 1);
    return w;
}
/* Its inverse: over (R,H/p,p,W/p,p*C) patches are read. */
static wm_walk pixel_walk(patches s) {
    const int64_t patch = s.p * s.p * s.C;
    wm_walk w = {0};
    wm_walk_axis(&w, s.R * (s.H / s.p), s.W / s.p * patch);
    wm_walk_axis(&w, s.p, s.p * s.C);
    wm_walk_axis(&w, s.W / s.p, patch);
    wm_walk_axis(&w, s.p * s.C, 1);
    return w;
}
static int check_patches(const wm_node *n, patches s) {
    if (s.p < 1) return wm_fail("%s: size wanted 1 or more, got %lld", n->op->name, (long long)s.p);
    if (s.H < 1 || s.W < 1 || s.H % s.p || s.W % s.p)
        return wm_fail("%s: %lld x %lld pixels are not a whole number of patches of %lld", n->op->name, (long long)s.H,
                       (long long)s.W, (long long)s.p);
    return 0;
}

static patches patches_of_pixels(const wm_node *n) {
    const wm_tensor *x = n->in[0];
    const int64_t *last = x->shape + x->ndim - 3;
    return (patches){wm_size_between(x, 0, x->ndim - 3), last[0], last[1], last[2], n->attr[0].i};
}
static int infer_patchify(wm_node *n) {
    const wm_tensor *x = n->in[0];
    char text[96];
    if (x->ndim < 3) return wm_fail("patchify: x wanted (...,H,W,C), got shape %s", wm_shape_text(x, text, sizeof text));
    const patches s = patches_of_pixels(n);
    if (check_patches(n, s) < 0) return -1;
    int64_t shape[WM_DIMS];
    for (int d = 0; d < x->ndim - 3; d++) shape[d] = x->shape[d];
    shape[x->ndim - 3] = (s.H / s.p) * (s.W / s.p), shape[x->ndim - 2] = s.p * s.p * s.C;
    return wm_out(n, 0, (wm_dtype)x->dtype, x->ndim - 1, shape);
}

static patches patches_of_tokens(const wm_node *n) {
    const wm_tensor *x = n->in[0];
    const int64_t p = n->attr[2].i, area = p * p;
    return (patches){wm_size_between(x, 0, x->ndim - 2), n->attr[0].i, n->attr[1].i, area ? x->shape[x->ndim - 1] / area : 0, p};
}
static int infer_unpatchify(wm_node *n) {
    const wm_tensor *x = n->in[0];
    char text[96];
    if (x->ndim < 2 || x->ndim == WM_DIMS)
        return wm_fail("unpatchify: x wanted (...,N,p*p*C) with 2 to %d axes, got shape %s", WM_DIMS - 1, wm_shape_text(x, text, sizeof text));
    if (n->attr[2].i > 1 << 15) return wm_fail("unpatchify: size %lld is too large", (long long)n->attr[2].i);
    const patches s = patches_of_tokens(n);
    if (check_patches(n, s) < 0) return -1;
    const int64_t N = (s.H / s.p) * (s.W / s.p);
    if (x->shape[x->ndim - 2] != N || !s.C || x->shape[x->ndim - 1] % (s.p * s.p))
        return wm_fail("unpatchify: x wanted %lld patches of a multiple of %lld numbers, got shape %s", (long long)N,
                       (long long)(s.p * s.p), wm_shape_text(x, text, sizeof text));
    int64_t shape[WM_DIMS];
    for (int d = 0; d < x->ndim - 2; d++) shape[d] = x->shape[d];
    shape[x->ndim - 2] = s.H, shape[x->ndim - 1] = s.W, shape[x->ndim] = s.C;
    return wm_out(n, 0, (wm_dtype)x->dtype, x->ndim + 1, shape);
}

static void read_forward(wm_node *n, wm_walk w) {
    n->k->strided_copy(n->out[0]->raw, n->in[0]->raw, item(n->in[0]), w.shape, w.stride, w.ndim);
}
static void read_backward(wm_node *n, wm_walk w) {
    n->k->strided_add(wm_grad(n->in[0]), n->out[0]->grad, w.shape, w.stride, w.ndim);
}
static void patchify_forward(wm_node *n) { read_forward(n, patch_walk(patches_of_pixels(n))); }
static void patchify_backward(wm_node *n) { read_backward(n, patch_walk(patches_of_pixels(n))); }
static void unpatchify_forward(wm_node *n) { read_forward(n, pixel_walk(patches_of_tokens(n))); }
static void unpatchify_backward(wm_node *n) { read_backward(n, pixel_walk(patches_of_tokens(n))); }

static const wm_op patchify = {"patchify", "x@any size:i",
    "(...,H,W,C) -> (...,(H/p)(W/p),p*p*C): squares of p = size pixels, row by row; inside a square (row, column, channel).",
    infer_patchify, patchify_forward, patchify_backward, NULL};
static const wm_op unpatchify = {"unpatchify", "x@any height:i width:i size:i",
    "(...,(H/p)(W/p),p*p*C) -> (...,H,W,C): the inverse of patchify; height and width in pixels.", infer_unpatchify,
    unpatchify_forward, unpatchify_backward, NULL};

/* ---- one_hot --------------------------------------------------------------------------------------- */

static int infer_one_hot(wm_node *n) {
    if (n->attr[0].i < 1) return wm_fail("one_hot: n wanted 1 or more, got %lld", (long long)n->attr[0].i);
    return out_with_axis(n, n->in[0], n->attr[0].i);
}
static int check_one_hot(wm_node *n) { return wm_check_index(n, n->in[0], n->attr[0].i); }
static void one_hot_forward(wm_node *n) { n->k->one_hot_forward(n->out[0]->data, n->in[0]->i32, n->in[0]->size, n->attr[0].i); }
static const wm_op one_hot = {"one_hot", "index@i32 n:i", "out (...,n): 1 at the index, 0 elsewhere.", infer_one_hot,
                              one_hot_forward, NULL, check_one_hot};

const wm_op *const wm_ops_embed[] = {&embedding, &sinusoidal, &fourier, &axial_positions, &patchify, &unpatchify, &one_hot, NULL};
