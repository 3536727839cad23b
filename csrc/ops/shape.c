/* shape: ops that only move numbers.  Where memory order allows, the result is a view: same memory, same gradient. */
#include "axes.h"
#include "broadcast.h"
#include <string.h>

static void nothing(wm_node *n) { (void)n; }
static int64_t item(const wm_tensor *t) { return (int64_t)wm_dtype_size((wm_dtype)t->dtype); }
static bool is_view(const wm_node *n) { return n->out[0]->base; }
static void *bytes_at(const wm_tensor *t, int64_t number) { return (char *)t->raw + number * item(t); }

/* ---- reshape ---------------------------------------------------------------------------------- */

static int infer_reshape(wm_node *n) {
    const wm_tensor *x = n->in[0];
    int64_t known = 1;
    int open = -1;
    char text[96];
    for (int i = 0; i < n->n_list; i++) {
        if (n->list[i] == -1 && open < 0) { open = i; continue; }
        if (n->list[i] <= 0 || known > x->size) return wm_fail("reshape: shape of axis %d is %lld", i, (long long)n->list[i]);
        known *= n->list[i];
    }
    if (open >= 0 && x->size % known == 0) n->list[open] = x->size / known;
    else if (open >= 0 || known != x->size)
        return wm_fail("reshape: %s has %lld numbers, shape %s %lld", wm_shape_text(x, text, sizeof text), (long long)x->size,
                       open >= 0 ? "needs a multiple of" : "takes", (long long)known);
    return wm_out_view(n, 0, n->in[0], 0, n->n_list, n->list);
}
static const wm_op reshape = {"reshape", "x@any shape:t", "The same numbers in another shape, as a view; one length may be -1.",
                              infer_reshape, nothing, nothing, NULL};

/* ---- ops that read x with strides: a walk over the axes of the result, from a first number ------ */

typedef struct { wm_walk walk; int64_t first; } reading;

static void read_forward(wm_node *n, reading r) {
    n->k->strided_copy(n->out[0]->raw, bytes_at(n->in[0], r.first), item(n->in[0]), r.walk.shape, r.walk.stride, r.walk.ndim);
}
static void read_backward(wm_node *n, reading r) {
    n->k->strided_add(wm_grad(n->in[0]) + r.first, n->out[0]->grad, r.walk.shape, r.walk.stride, r.walk.ndim);
}

/* slice */
static int infer_slice(wm_node *n) {
    const wm_tensor *x = n->in[0];
    const int axis = wm_axis(n, x, n->attr[0].i);
    if (axis < 0) return -1;
    const int64_t L = x->shape[axis], step = n->attr[3].i;
    int64_t start = n->attr[1].i, stop = n->attr[2].i, shape[WM_DIMS];
    start = start < 0 ? start + L : start, stop = stop < 0 ? stop + L : stop;
    start = start < 0 ? 0 : start, stop = stop > L ? L : stop;
    if (step < 1) return wm_fail("slice: step wanted 1 or more, got %lld", (long long)step);
    if (start >= stop)
        return wm_fail("slice: %lld:%lld leaves nothing of axis %d with length %lld", (long long)n->attr[1].i,
                       (long long)n->attr[2].i, axis, (long long)L);
    n->attr[0].i = axis, n->attr[1].i = start;
    memcpy(shape, x->shape, sizeof shape);
    shape[axis] = (stop - start + step - 1) / step;
    if (wm_size_between(x, 0, axis) == 1 && (step == 1 || shape[axis] == 1))
        return wm_out_view(n, 0, n->in[0], start * wm_size_between(x, axis + 1, x->ndim), x->ndim, shape);
    return wm_out(n, 0, (wm_dtype)x->dtype, x->ndim, shape);
}
static reading slice_reading(const wm_node *n) {
    const wm_tensor *x = n->in[0];
    const int axis = (int)n->attr[0].i;
    const int64_t inner = wm_size_between(x, axis + 1, x->ndim);
    reading r = {.first = n->attr[1].i * inner};
    wm_walk_axis(&r.walk, wm_size_between(x, 0, axis), x->shape[axis] * inner);
    wm_walk_axis(&r.walk, n->out[0]->shape[axis], n->attr[3].i * inner);
    wm_walk_axis(&r.walk, inner, 1);
    return r;
}
static void slice_forward(wm_node *n) { if (!is_view(n)) read_forward(n, slice_reading(n)); }
static void slice_backward(wm_node *n) { if (!is_view(n)) read_backward(n, slice_reading(n)); }
static const wm_op slice = {"slice", "x@any axis:i=0 start:i=0 stop:i=9223372036854775807 step:i=1",
    "x[start:stop:step] along an axis, counted as Python does, step at least 1; a view where memory order allows.",
    infer_slice, slice_forward, slice_backward, NULL};

/* permute */
static int infer_permute(wm_node *n) {
    const wm_tensor *x = n->in[0];
    int64_t shape[WM_DIMS];
    int seen = 0, last = -1;
    bool in_order = true;
    if (n->n_list != x->ndim) return wm_fail("permute: axes wanted %d numbers, got %d", x->ndim, n->n_list);
    for (int i = 0; i < x->ndim; i++) {
        const int d = wm_axis(n, x, n->list[i]);
        if (d < 0) return -1;
        if (seen >> d & 1) return wm_fail("permute: axis %d is named twice", d);
        seen |= 1 << d;
        n->list[i] = d, shape[i] = x->shape[d];
        if (shape[i] != 1) in_order &= d > last, last = d;
    }
    return in_order ? wm_out_view(n, 0, n->in[0], 0, x->ndim, shape) : wm_out(n, 0, (wm_dtype)x->dtype, x->ndim, shape);
}
static reading permute_reading(const wm_node *n) {
    const wm_tensor *x = n->in[0];
    reading r = {.first = 0};
    for (int i = 0; i < x->ndim; i++)
        wm_walk_axis(&r.walk, n->out[0]->shape[i], wm_size_between(x, (int)n->list[i] + 1, x->ndim));
    return r;
}
static void permute_forward(wm_node *n) { if (!is_view(n)) read_forward(n, permute_reading(n)); }
static void permute_backward(wm_node *n) { if (!is_view(n)) read_backward(n, permute_reading(n)); }
static const wm_op permute = {"permute", "x@any axes:t",
    "Axes in another order: axis i of the result is axis axes[i] of x; a view where memory order allows.",
    infer_permute, permute_forward, permute_backward, NULL};

/* flip */
static int infer_flip(wm_node *n) {
    int mask = 0;
    for (int i = 0; i < n->n_list; i++) {
        const int d = wm_axis(n, n->in[0], n->list[i]);
        if (d < 0) return -1;
        if (mask >> d & 1) return wm_fail("flip: axis %d is named twice", d);
        mask |= 1 << d;
    }
    n->attr[0].i = n->n_list ? mask : (1 << n->in[0]->ndim) - 1;
    return wm_out(n, 0, (wm_dtype)n->in[0]->dtype, n->in[0]->ndim, n->in[0]->shape);
}
static reading flip_reading(const wm_node *n) {
    const wm_tensor *x = n->in[0];
    reading r = {.first = 0};
    for (int d = 0; d < x->ndim; d++) {
        const int64_t stride = wm_size_between(x, d + 1, x->ndim);
        const bool turned = n->attr[0].i >> d & 1;
        if (turned) r.first += (x->shape[d] - 1) * stride;
        wm_walk_axis(&r.walk, x->shape[d], turned ? -stride : stride);
    }
    if (!x->ndim) wm_walk_axis(&r.walk, 1, 1);
    return r;
}
static void flip_forward(wm_node *n) { read_forward(n, flip_reading(n)); }
static void flip_backward(wm_node *n) { read_backward(n, flip_reading(n)); }
static const wm_op flip = {"flip", "x@any axes:t=", "The axes, all if none is named, read from their ends.", infer_flip,
                           flip_forward, flip_backward, NULL};

/* ---- ops that repeat: backward sums -------------------------------------------------------------- */

/* expand */
static int infer_expand(wm_node *n) {
    const wm_tensor *x = n->in[0];
    char text[96];
    bool fits = n->n_list >= x->ndim;
    for (int i = 0; fits && i < n->n_list; i++) {
        const int own = i - (n->n_list - x->ndim);
        if (n->list[i] == -1 && own >= 0) n->list[i] = x->shape[own];
        fits = n->list[i] > 0 && (own < 0 || x->shape[own] == 1 || x->shape[own] == n->list[i]);
    }
    if (!fits) return wm_fail("expand: x of shape %s does not repeat into the shape asked for", wm_shape_text(x, text, sizeof text));
    if (wm_out(n, 0, (wm_dtype)x->dtype, n->n_list, n->list) < 0) return -1;
    if (n->needs_grad && wm_broadcast_runs(x, n->out[0]) > 1) n->scratch_bytes = (size_t)n->out[0]->size * sizeof(float);
    return 0;
}
static void expand_forward(wm_node *n) {
    wm_broadcast b;
    wm_broadcast_strides(&b, n->out[0], n->in, 1);
    n->k->strided_copy(n->out[0]->raw, n->in[0]->raw, item(n->in[0]), b.shape, b.stride[0], b.ndim);
}
static void expand_backward(wm_node *n) {
    float *dx = wm_grad(n->in[0]);
    const int64_t size = n->in[0]->size;
    if (size == n->out[0]->size) n->k->rows_add(dx, size, n->out[0]->grad, size, size, 1);
    else wm_broadcast_sum(n->k, dx, n->in[0], n->out[0]->grad, n->out[0], 1.0, n->scratch);
}
static const wm_op expand = {"expand", "x@any shape:t",
    "x repeated into a larger shape by NumPy's broadcasting; -1 keeps a length.", infer_expand, expand_forward, expand_backward, NULL};

/* repeat, tile: (outer, times, inner) <- (outer, inner) */
static int infer_times(wm_node *n) {
    const wm_tensor *x = n->in[0];
    const int axis = wm_axis(n, x, n->attr[1].i);
    int64_t shape[WM_DIMS];
    if (axis < 0) return -1;
    if (n->attr[0].i < 1) return wm_fail("%s: times wanted 1 or more, got %lld", n->op->name, (long long)n->attr[0].i);
    n->attr[1].i = axis;
    memcpy(shape, x->shape, sizeof shape);
    if (__builtin_mul_overflow(shape[axis], n->attr[0].i, &shape[axis]))
        return wm_fail("%s: %lld times is too much", n->op->name, (long long)n->attr[0].i);
    return wm_out(n, 0, (wm_dtype)x->dtype, x->ndim, shape);
}
static void times_forward(wm_node *n, int64_t inner) {
    const int64_t outer = n->in[0]->size / inner, times = n->attr[0].i;
    wm_walk w = {0};
    wm_walk_axis(&w, outer, inner), wm_walk_axis(&w, times, 0), wm_walk_axis(&w, inner, 1);
    n->k->strided_copy(n->out[0]->raw, n->in[0]->raw, item(n->in[0]), w.shape, w.stride, w.ndim);
}
static void times_backward(wm_node *n, int64_t inner) {
    n->k->sum_into(wm_grad(n->in[0]), n->out[0]->grad, 1.0, n->in[0]->size / inner, n->attr[0].i, inner);
}
static int64_t behind(const wm_node *n, int with) { return wm_size_between(n->in[0], (int)n->attr[1].i + 1 - with, n->in[0]->ndim); }
static void repeat_forward(wm_node *n) { times_forward(n, behind(n, 0)); }
static void repeat_backward(wm_node *n) { times_backward(n, behind(n, 0)); }
static void tile_forward(wm_node *n) { times_forward(n, behind(n, 1)); }
static void tile_backward(wm_node *n) { times_backward(n, behind(n, 1)); }
static const wm_op repeat = {"repeat", "x@any times:i axis:i=0", "Each entry along an axis times over: a a b b.", infer_times,
                             repeat_forward, repeat_backward, NULL};
static const wm_op tile = {"tile", "x@any times:i axis:i=0", "All entries along an axis times over: a b a b.", infer_times,
                           tile_forward, tile_backward, NULL};

/* ---- concat and stack: rows of each input side by side ------------------------------------------- */

/* attr[0] is the axis; attr[1] says that inputs have it (concat) or not (stack). */
static int infer_joined(wm_node *n, bool concat) {
    const wm_tensor *x = n->in[0];
    char want[96], got[96];
    int64_t shape[WM_DIMS], total = 0;
    const int ndim = x->ndim + !concat;
    int axis = (int)n->attr[0].i;
    if (concat ? (axis = wm_axis(n, x, n->attr[0].i)) < 0 : (axis += axis < 0 ? ndim : 0) < 0 || axis >= ndim)
        return concat ? -1 : wm_fail("stack: there is no axis %lld in a result of %d axes", (long long)n->attr[0].i, ndim);
    if (ndim > WM_DIMS) return wm_fail("stack: the result would have more than %d axes", WM_DIMS);
    for (int i = 0; i < n->n_in; i++) {
        const wm_tensor *y = n->in[i];
        bool fits = y->ndim == x->ndim;
        if (y->dtype != x->dtype)
            return wm_fail_as(WM_TYPE, "%s: input %d wanted %s like input 0, got %s", n->op->name, i, wm_dtype_name((wm_dtype)x->dtype),
                              wm_dtype_name((wm_dtype)y->dtype));
        for (int d = 0; fits && d < x->ndim; d++) fits = y->shape[d] == x->shape[d] || (concat && d == axis);
        if (!fits)
            return wm_fail("%s: input %d of shape %s does not fit input 0 of shape %s", n->op->name, i,
                           wm_shape_text(y, got, sizeof got), wm_shape_text(x, want, sizeof want));
        total += concat ? y->shape[axis] : 1;
    }
    for (int d = 0; d < ndim; d++) shape[d] = d == axis ? total : x->shape[d - (!concat && d > axis)];
    n->attr[0].i = axis;
    return wm_out(n, 0, (wm_dtype)x->dtype, ndim, shape);
}
static int infer_concat(wm_node *n) { return infer_joined(n, true); }
static int infer_stack(wm_node *n) { return infer_joined(n, false); }

static void join_forward(wm_node *n) {
    const wm_tensor *out = n->out[0];
    const int64_t rows = wm_size_between(out, 0, (int)n->attr[0].i), length = out->size / rows;
    for (int64_t i = 0, at = 0; i < n->n_in; at += n->in[i++]->size / rows) {
        const int64_t width = n->in[i]->size / rows;
        n->k->rows_copy(bytes_at(out, at), length, n->in[i]->raw, width, item(out), width, rows);
    }
}
static void join_backward(wm_node *n) {
    const wm_tensor *out = n->out[0];
    const int64_t rows = wm_size_between(out, 0, (int)n->attr[0].i), length = out->size / rows;
    for (int64_t i = 0, at = 0; i < n->n_in; at += n->in[i++]->size / rows) {
        const int64_t width = n->in[i]->size / rows;
        if (wm_grad(n->in[i])) n->k->rows_add(wm_grad(n->in[i]), width, out->grad + at, length, width, rows);
    }
}
static const wm_op concat = {"concat", "xs@any... axis:i=0", "Tensors one behind the other along an axis that they have.",
                             infer_concat, join_forward, join_backward, NULL};
static const wm_op stack = {"stack", "xs@any... axis:i=0", "Tensors of one shape side by side along an axis that is made for it.",
                            infer_stack, join_forward, join_backward, NULL};

/* ---- pad and roll ------------------------------------------------------------------------------ */

static int infer_pad(wm_node *n) {
    const wm_tensor *x = n->in[0];
    const int axis = wm_axis(n, x, n->attr[0].i);
    const int64_t before = n->attr[1].i, after = n->attr[2].i;
    int64_t shape[WM_DIMS];
    if (axis < 0) return -1;
    if (before < 0 || after < 0 || before > INT32_MAX || after > INT32_MAX)
        return wm_fail("pad: before and after wanted 0 or more, got %lld and %lld", (long long)before, (long long)after);
    n->attr[0].i = axis;
    memcpy(shape, x->shape, sizeof shape);
    shape[axis] += before + after;
    return wm_out(n, 0, (wm_dtype)x->dtype, x->ndim, shape);
}
typedef struct { int64_t rows, width, before, after, length; } padding;
static padding padding_of(const wm_node *n) {
    const wm_tensor *x = n->in[0];
    const int axis = (int)n->attr[0].i;
    const int64_t inner = wm_size_between(x, axis + 1, x->ndim), width = x->shape[axis] * inner;
    const int64_t before = n->attr[1].i * inner, after = n->attr[2].i * inner;
    return (padding){wm_size_between(x, 0, axis), width, before, after, before + width + after};
}
static void pad_forward(wm_node *n) {
    const padding p = padding_of(n);
    const wm_tensor *out = n->out[0];
    const float number = (float)n->attr[3].f;
    uint64_t value = 0;
    wm_k->cast_forward(&value, &number, out->dtype, WM_KIND_F32, 1);      /* here, whatever the device */
    n->k->rows_fill(out->raw, p.length, &value, item(out), p.before, p.rows);
    n->k->rows_fill(bytes_at(out, p.before + p.width), p.length, &value, item(out), p.after, p.rows);
    n->k->rows_copy(bytes_at(out, p.before), p.length, n->in[0]->raw, p.width, item(out), p.width, p.rows);
}
static void pad_backward(wm_node *n) {
    const padding p = padding_of(n);
    n->k->rows_add(wm_grad(n->in[0]), p.width, n->out[0]->grad + p.before, p.length, p.width, p.rows);
}
static const wm_op pad = {"pad", "x@any axis:i before:i=0 after:i=0 value:f=0",
    "An axis lengthened by a value before and after x.", infer_pad, pad_forward, pad_backward, NULL};

static int infer_roll(wm_node *n) {
    const wm_tensor *x = n->in[0];
    const int axis = wm_axis(n, x, n->attr[1].i);
    if (axis < 0) return -1;
    const int64_t shift = n->attr[0].i % x->shape[axis];
    n->attr[0].i = shift < 0 ? shift + x->shape[axis] : shift, n->attr[1].i = axis;
    return wm_out(n, 0, (wm_dtype)x->dtype, x->ndim, x->shape);
}
typedef struct { int64_t rows, length, head, tail; } rolling;     /* tail numbers of a row come to its front */
static rolling rolling_of(const wm_node *n) {
    const int64_t tail = n->attr[0].i * behind(n, 0), length = behind(n, 1);
    return (rolling){n->in[0]->size / length, length, length - tail, tail};
}
static void roll_forward(wm_node *n) {
    const rolling r = rolling_of(n);
    const wm_tensor *x = n->in[0], *out = n->out[0];
    n->k->rows_copy(bytes_at(out, r.tail), r.length, x->raw, r.length, item(x), r.head, r.rows);
    n->k->rows_copy(out->raw, r.length, bytes_at(x, r.head), r.length, item(x), r.tail, r.rows);
}
static void roll_backward(wm_node *n) {
    const rolling r = rolling_of(n);
    float *dx = wm_grad(n->in[0]), *g = n->out[0]->grad;
    n->k->rows_add(dx, r.length, g + r.tail, r.length, r.head, r.rows);
    n->k->rows_add(dx + r.head, r.length, g, r.length, r.tail, r.rows);
}
static const wm_op roll = {"roll", "x@any shift:i axis:i=0", "Entries moved along an axis by shift; what leaves comes in at the other end.",
                           infer_roll, roll_forward, roll_backward, NULL};

const wm_op *const wm_ops_shape[] = {&reshape, &slice, &permute, &flip, &expand, &repeat, &tile, &concat, &stack, &pad, &roll, NULL};
