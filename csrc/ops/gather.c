/* gather: entries chosen by indices, and the transpose, sums into chosen entries. */
#include "axes.h"

static int64_t item(const wm_tensor *t) { return (int64_t)wm_dtype_size((wm_dtype)t->dtype); }

/* x as (A,N,B) round an axis; M indices. */
typedef struct { int64_t A, N, M, B; } layout;
static layout layout_of(const wm_tensor *x, int axis, int64_t M) {
    return (layout){wm_size_between(x, 0, axis), x->shape[axis], M, wm_size_between(x, axis + 1, x->ndim)};
}

/* ---- gather, index_select: x[..., index, ...] ----------------------------------------------------- */

static int infer_gather(wm_node *n) {
    const wm_tensor *x = n->in[0], *index = n->in[1];
    const int axis = wm_axis(n, x, n->attr[0].i);
    int64_t shape[2 * WM_DIMS];
    int ndim = 0;
    if (axis < 0) return -1;
    if (x->ndim - 1 + index->ndim > WM_DIMS)
        return wm_fail("%s: the result would have %d axes, at most %d are possible", n->op->name, x->ndim - 1 + index->ndim, WM_DIMS);
    n->attr[0].i = axis;
    for (int d = 0; d < axis; d++) shape[ndim++] = x->shape[d];
    for (int d = 0; d < index->ndim; d++) shape[ndim++] = index->shape[d];
    for (int d = axis + 1; d < x->ndim; d++) shape[ndim++] = x->shape[d];
    return wm_out(n, 0, (wm_dtype)x->dtype, ndim, shape);
}
static int infer_select(wm_node *n) {
    char text[96];
    if (n->in[1]->ndim != 1)
        return wm_fail("index_select: index wanted one axis, got shape %s", wm_shape_text(n->in[1], text, sizeof text));
    return infer_gather(n);
}
static int check(wm_node *n) { return wm_check_index(n, n->in[1], n->in[0]->shape[n->attr[0].i]); }

static void gather_forward(wm_node *n) {
    const layout l = layout_of(n->in[0], (int)n->attr[0].i, n->in[1]->size);
    n->k->gather_forward(n->out[0]->raw, n->in[0]->raw, n->in[1]->i32, item(n->in[0]), l.A, l.N, l.M, l.B);
}
static void gather_backward(wm_node *n) {
    const layout l = layout_of(n->in[0], (int)n->attr[0].i, n->in[1]->size);
    n->k->gather_backward(wm_grad(n->in[0]), n->out[0]->grad, n->in[1]->i32, l.A, l.N, l.M, l.B);
}
static const wm_op gather = {"gather", "x@any index@i32 axis:i=0",
    "Entries of x along an axis: the axis is replaced by the shape of index, as in numpy.take.", infer_gather, gather_forward,
    gather_backward, check};
static const wm_op index_select = {"index_select", "x@any index@i32 axis:i=0",
    "Entries of x along an axis, by a list of indices.", infer_select, gather_forward, gather_backward, check};

/* ---- take_along: one index a number of the result -------------------------------------------------- */

static int infer_take(wm_node *n) {
    const wm_tensor *x = n->in[0], *index = n->in[1];
    char want[96], got[96];
    const int axis = wm_axis(n, x, n->attr[0].i);
    if (axis < 0) return -1;
    bool fits = index->ndim == x->ndim;
    for (int d = 0; fits && d < x->ndim; d++) fits = d == axis || index->shape[d] == x->shape[d];
    if (!fits)
        return wm_fail("take_along: index wanted the shape of x, %s, but for axis %d, got %s", wm_shape_text(x, want, sizeof want),
                       axis, wm_shape_text(index, got, sizeof got));
    n->attr[0].i = axis;
    return wm_out(n, 0, (wm_dtype)x->dtype, index->ndim, index->shape);
}
static void take_forward(wm_node *n) {
    const layout l = layout_of(n->in[0], (int)n->attr[0].i, n->in[1]->shape[n->attr[0].i]);
    n->k->take_forward(n->out[0]->raw, n->in[0]->raw, n->in[1]->i32, item(n->in[0]), l.A, l.N, l.M, l.B);
}
static void take_backward(wm_node *n) {
    const layout l = layout_of(n->in[0], (int)n->attr[0].i, n->in[1]->shape[n->attr[0].i]);
    n->k->take_backward(wm_grad(n->in[0]), n->out[0]->grad, n->in[1]->i32, l.A, l.N, l.M, l.B);
}
static const wm_op take_along = {"take_along", "x@any index@i32 axis:i=-1",
    "One entry of x along an axis for each index: out[a,m,b] = x[a,index[a,m,b],b], as in numpy.take_along_axis.", infer_take,
    take_forward, take_backward, check};

/* ---- scatter_add ----------------------------------------------------------------------------------- */

static int infer_scatter(wm_node *n) {
    const wm_tensor *x = n->in[0], *index = n->in[1], *src = n->in[2];
    char want[96], got[96];
    const int axis = wm_axis(n, x, n->attr[0].i);
    if (axis < 0) return -1;
    bool fits = index->ndim == 1 && src->ndim == x->ndim;
    for (int d = 0; fits && d < x->ndim; d++) fits = src->shape[d] == (d == axis ? index->size : x->shape[d]);
    if (!fits)
        return wm_fail("scatter_add: src wanted the shape of x, %s, with %lld entries along axis %d, got %s; index has one axis",
                       wm_shape_text(x, want, sizeof want), (long long)index->size, axis, wm_shape_text(src, got, sizeof got));
    n->attr[0].i = axis;
    n->scratch_bytes = n->needs_grad ? (size_t)src->size * sizeof(float) : 0;
    return wm_out(n, 0, WM_F32, x->ndim, x->shape);
}
static void scatter_forward(wm_node *n) {
    const layout l = layout_of(n->in[0], (int)n->attr[0].i, n->in[1]->size);
    n->k->rows_copy(n->out[0]->data, l.A * l.N * l.B, n->in[0]->data, l.A * l.N * l.B, sizeof(float), l.A * l.N * l.B, 1);
    n->k->gather_backward(n->out[0]->data, n->in[2]->data, n->in[1]->i32, l.A, l.N, l.M, l.B);
}
static void scatter_backward(wm_node *n) {
    const layout l = layout_of(n->in[0], (int)n->attr[0].i, n->in[1]->size);
    const int64_t size = n->in[0]->size, chosen = n->in[2]->size;
    if (wm_grad(n->in[0])) n->k->rows_add(wm_grad(n->in[0]), size, n->out[0]->grad, size, size, 1);
    if (!wm_grad(n->in[2])) return;
    n->k->gather_forward(n->scratch, n->out[0]->grad, n->in[1]->i32, sizeof(float), l.A, l.N, l.M, l.B);
    n->k->rows_add(wm_grad(n->in[2]), chosen, n->scratch, chosen, chosen, 1);
}
static const wm_op scatter_add = {"scatter_add", "x index@i32 src axis:i=0",
    "x with src added to the entries that index names along an axis; an entry named twice gets both, in order.",
    infer_scatter, scatter_forward, scatter_backward, check};

const wm_op *const wm_ops_gather[] = {&gather, &index_select, &take_along, &scatter_add, NULL};
