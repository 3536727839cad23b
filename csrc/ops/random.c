/* random: draws from counter-based streams (base/random.h).  `stream` is (S,4) int32, one row a sample: key 0, key 1,
   stream id, step.  The leading axis of the result is S samples of as many rows each.  An op reads its row, it does not
   advance it: give every op of a model its own salt, and raise `step` (stream_advance) once per use of the whole. */
#include "../tape/tape.h"

static uint32_t salt_of(const wm_node *n) { return (uint32_t)n->attr[0].i; }

/* Does this stream fit a result whose leading axis is rows?  0 or -1. */
static int stream_fits(const wm_node *n, const wm_tensor *stream, int ndim, int64_t rows) {
    char text[96];
    if (stream->ndim != 2 || stream->shape[1] != 4)   /* WM_STREAM */
        return wm_fail("%s: stream wanted (samples, 4), got %s", n->op->name, wm_shape_text(stream, text, sizeof text));
    if (ndim == 0 ? stream->shape[0] != 1 : rows % stream->shape[0] != 0)
        return wm_fail("%s: stream has %lld samples, wanted a divisor of the leading axis, %lld", n->op->name,
                       (long long)stream->shape[0], (long long)(ndim ? rows : 1));
    return 0;
}

static int same_shape(const wm_node *n, const char *name, const wm_tensor *got, const wm_tensor *like) {
    char wanted[96], text[96];
    bool same = got->ndim == like->ndim;
    for (int i = 0; same && i < like->ndim; i++) same = got->shape[i] == like->shape[i];
    if (same) return 0;
    return wm_fail("%s: %s wanted %s, got %s", n->op->name, name, wm_shape_text(like, wanted, sizeof wanted),
                   wm_shape_text(got, text, sizeof text));
}

static int64_t samples(const wm_tensor *stream) { return stream->shape[0]; }
static int64_t last_axis(const wm_tensor *t) { return t->ndim ? t->shape[t->ndim - 1] : 1; }

/* ---- plain draws: the shape is an attribute ------------------------------------------------------ */

static int infer_list(wm_node *n, wm_dtype dtype) {
    for (int i = 0; i < n->n_list; i++)
        if (n->list[i] < 1) return wm_fail("%s: shape wanted lengths of at least 1, got %lld", n->op->name, (long long)n->list[i]);
    if (stream_fits(n, n->in[0], n->n_list, n->list[0]) < 0) return -1;
    return wm_out(n, 0, dtype, n->n_list, n->list);
}
static int infer_draw(wm_node *n) { return infer_list(n, WM_F32); }

static void uniform_forward(wm_node *n) {
    wm_tensor *out = n->out[0], *stream = n->in[0];
    n->k->uniform(out->data, stream->i32, (float)n->attr[1].f, (float)n->attr[2].f, salt_of(n), samples(stream),
                  out->size / samples(stream));
}
static const wm_op uniform = {"uniform", "stream@i32 salt:i=0 low:f=0 high:f=1 shape:t",
    "low + (high - low) u, u in [0, 1) a multiple of 2^-24; shape (samples * rows, ...).", infer_draw, uniform_forward, NULL, NULL};

static void normal_forward(wm_node *n) {
    wm_tensor *out = n->out[0], *stream = n->in[0];
    n->k->normal(out->data, stream->i32, (float)n->attr[1].f, (float)n->attr[2].f, salt_of(n), samples(stream),
                 out->size / samples(stream));
}
static const wm_op normal = {"normal", "stream@i32 salt:i=0 mean:f=0 std:f=1 shape:t",
    "mean + std e, e ~ N(0, 1) by Box and Muller, |e| < 5.8; shape (samples * rows, ...).", infer_draw, normal_forward, NULL, NULL};

static int integers_infer(wm_node *n) {
    int64_t low = n->attr[1].i, high = n->attr[2].i;
    if (low >= high || low < INT32_MIN || high > (int64_t)INT32_MAX + 1)
        return wm_fail("integers: wanted low < high within int32, got low %lld, high %lld", (long long)low, (long long)high);
    return infer_list(n, WM_I32);
}
static void integers_forward(wm_node *n) {
    wm_tensor *out = n->out[0], *stream = n->in[0];
    n->k->integers(out->i32, stream->i32, n->attr[1].i, n->attr[2].i, salt_of(n), samples(stream), out->size / samples(stream));
}
static const wm_op integers = {"integers", "stream@i32 salt:i=0 low:i=0 high:i=2 shape:t",
    "int32 in [low, high), each equally likely up to (high - low) / 2^32; shape (samples * rows, ...).", integers_infer,
    integers_forward, NULL, NULL};

/* ---- draws of the shape of an input ---------------------------------------------------------------- */

static int bernoulli_infer(wm_node *n) {
    wm_tensor *p = n->in[0];
    if (stream_fits(n, n->in[1], p->ndim, p->shape[0]) < 0) return -1;
    return wm_out(n, 0, WM_F32, p->ndim, p->shape);
}
static void bernoulli_forward(wm_node *n) {
    wm_tensor *p = n->in[0], *stream = n->in[1];
    n->k->bernoulli(n->out[0]->data, p->data, stream->i32, salt_of(n), samples(stream), p->size / samples(stream));
}
static const wm_op bernoulli = {"bernoulli", "p stream@i32 salt:i=0",
    "1.0 with probability p, else 0.0; the shape of p.  No gradient.", bernoulli_infer, bernoulli_forward, NULL, NULL};

static int dropout_infer(wm_node *n) {
    wm_tensor *x = n->in[0];
    double p = n->attr[1].f;
    if (!(p >= 0 && p < 1)) return wm_fail("dropout: p wanted in [0, 1), got %g", p);
    if (stream_fits(n, n->in[1], x->ndim, x->shape[0]) < 0 || wm_save(n, 0, WM_U8, x->ndim, x->shape) < 0) return -1;
    return wm_out(n, 0, WM_F32, x->ndim, x->shape);
}
static void dropout_forward(wm_node *n) {
    wm_tensor *x = n->in[0], *stream = n->in[1];
    n->k->dropout_forward(n->out[0]->data, n->saved[0]->u8, x->data, stream->i32, (float)n->attr[1].f, salt_of(n),
                          samples(stream), x->size / samples(stream));
}
static void dropout_backward(wm_node *n) {
    float *dx = wm_grad(n->in[0]);
    if (dx) n->k->dropout_backward(dx, n->out[0]->grad, n->saved[0]->u8, (float)n->attr[1].f, n->out[0]->size);
}
static const wm_op dropout = {"dropout", "x stream@i32 salt:i=0 p:f=0.1",
    "x / (1 - p) with probability 1 - p, else 0.", dropout_infer, dropout_forward, dropout_backward, NULL};

/* ---- categorical ------------------------------------------------------------------------------------ */

static int needs_classes(const wm_node *n, const wm_tensor *logits) {
    return logits->ndim < 1 ? wm_fail("%s: logits wanted (..., classes), got one number", n->op->name) : 0;
}

/* The axes before the classes; the leading one of those is the samples'. */
static int categorical_infer(wm_node *n) {
    wm_tensor *logits = n->in[0];
    if (needs_classes(n, logits) < 0 || stream_fits(n, n->in[1], logits->ndim - 1, logits->shape[0]) < 0) return -1;
    n->scratch_bytes = (size_t)logits->size * sizeof(float);
    return wm_out(n, 0, WM_I32, logits->ndim - 1, logits->shape);
}
static void categorical_forward(wm_node *n) {
    wm_tensor *logits = n->in[0], *stream = n->in[1], *out = n->out[0];
    n->k->categorical(out->i32, n->scratch, logits->data, stream->i32, salt_of(n), samples(stream), out->size / samples(stream),
                      last_axis(logits));
}
static const wm_op categorical = {"categorical", "logits stream@i32 salt:i=0",
    "One class a row, int32, drawn from softmax(logits) by its inverse distribution function; logits (..., classes), a class of "
    "logit -inf is never drawn.  No gradient.", categorical_infer, categorical_forward, NULL, NULL};

static int onehot_infer(wm_node *n) {
    wm_tensor *logits = n->in[0];
    double mix = n->attr[1].f;
    if (!(mix >= 0 && mix <= 1)) return wm_fail("onehot_sample: unimix wanted in [0, 1], got %g", mix);
    if (needs_classes(n, logits) < 0 || stream_fits(n, n->in[1], logits->ndim - 1, logits->shape[0]) < 0) return -1;
    if (wm_save(n, 0, WM_F32, logits->ndim, logits->shape) < 0) return -1;
    return wm_out(n, 0, WM_F32, logits->ndim, logits->shape);
}
static void onehot_forward(wm_node *n) {
    wm_tensor *logits = n->in[0], *stream = n->in[1];
    int64_t C = last_axis(logits);
    n->k->onehot_forward(n->out[0]->data, n->saved[0]->data, logits->data, stream->i32, (float)n->attr[1].f, salt_of(n),
                         samples(stream), logits->size / C / samples(stream), C);
}
static void onehot_backward(wm_node *n) {
    wm_tensor *logits = n->in[0];
    int64_t C = last_axis(logits);
    float *dlogits = wm_grad(logits);
    if (dlogits)
        n->k->onehot_backward(dlogits, n->out[0]->grad, n->saved[0]->data, (float)n->attr[1].f, logits->size / C, C);
}
static const wm_op onehot_sample = {"onehot_sample", "logits stream@i32 salt:i=0 unimix:f=0",
    "One-hot draw from (1 - unimix) softmax(logits) + unimix / classes; the gradient passes straight through to those "
    "probabilities (Hafner et al., DreamerV3, arXiv 2301.04104, with unimix 0.01).  logits (..., classes).",
    onehot_infer, onehot_forward, onehot_backward, NULL};

/* ---- Gaussians, by reparameterisation ---------------------------------------------------------------- */

static int gaussian_infer(wm_node *n) {
    wm_tensor *mean = n->in[0];
    if (same_shape(n, "log_std", n->in[1], mean) < 0 || stream_fits(n, n->in[2], mean->ndim, mean->shape[0]) < 0) return -1;
    if (wm_save(n, 0, WM_F32, mean->ndim, mean->shape) < 0) return -1;
    return wm_out(n, 0, WM_F32, mean->ndim, mean->shape);
}
static void gaussian_forward(wm_node *n) {
    wm_tensor *mean = n->in[0], *stream = n->in[2];
    n->k->gaussian_forward(n->out[0]->data, n->saved[0]->data, mean->data, n->in[1]->data, stream->i32, salt_of(n),
                           samples(stream), mean->size / samples(stream));
}
static void gaussian_backward(wm_node *n) {
    n->k->gaussian_backward(wm_grad(n->in[0]), wm_grad(n->in[1]), n->out[0]->grad, n->saved[0]->data, n->in[1]->data,
                            n->out[0]->size);
}
static const wm_op gaussian_sample = {"gaussian_sample", "mean log_std stream@i32 salt:i=0",
    "mean + exp(log_std) e, e ~ N(0, 1); gradients flow to mean and log_std.", gaussian_infer, gaussian_forward,
    gaussian_backward, NULL};

static int tanh_gaussian_infer(wm_node *n) {
    wm_tensor *mean = n->in[0];
    if (mean->ndim < 1) return wm_fail("tanh_gaussian_sample: mean wanted (..., actions), got one number");
    if (same_shape(n, "log_std", n->in[1], mean) < 0 || stream_fits(n, n->in[2], mean->ndim - 1, mean->shape[0]) < 0) return -1;
    if (wm_save(n, 0, WM_F32, mean->ndim, mean->shape) < 0 || wm_out(n, 0, WM_F32, mean->ndim, mean->shape) < 0) return -1;
    return wm_out(n, 1, WM_F32, mean->ndim - 1, mean->shape);
}
static void tanh_gaussian_forward(wm_node *n) {
    wm_tensor *mean = n->in[0], *stream = n->in[2];
    n->k->tanh_gaussian_forward(n->out[0]->data, n->out[1]->data, n->saved[0]->data, mean->data, n->in[1]->data, stream->i32,
                                salt_of(n), samples(stream), n->out[1]->size / samples(stream), last_axis(mean));
}
static void tanh_gaussian_backward(wm_node *n) {
    n->k->tanh_gaussian_backward(wm_grad(n->in[0]), wm_grad(n->in[1]), n->out[0]->grad, n->out[1]->grad, n->out[0]->data,
                                 n->saved[0]->data, n->in[1]->data, n->out[1]->size, last_axis(n->in[0]));
}
static const wm_op tanh_gaussian_sample = {"tanh_gaussian_sample", "mean log_std stream@i32 salt:i=0 -> action log_prob",
    "a = tanh(mean + exp(log_std) e) in (-1, 1) and its log-probability, summed over the last axis; (..., C) -> (..., C), (...). "
    "Gradients by reparameterisation (Haarnoja et al., Soft actor-critic, arXiv 1801.01290, appendix C).",
    tanh_gaussian_infer, tanh_gaussian_forward, tanh_gaussian_backward, NULL};

/* ---- streams ------------------------------------------------------------------------------------------ */

static int advance_infer(wm_node *n) {
    if (stream_fits(n, n->in[0], 1, n->in[0]->shape[0]) < 0) return -1;
    return wm_out_view(n, 0, n->in[0], 0, 2, n->in[0]->shape);
}
static void advance_forward(wm_node *n) {
    n->k->stream_advance(n->in[0]->i32, n->attr[0].i, n->in[0]->shape[0]);
    wm_written(n->in[0]);
}
static const wm_op stream_advance = {"stream_advance", "stream@i32 by:i=1",
    "Adds `by` to the step of every row, in place, and returns the same rows.  Record it before the first draw and outside of "
    "checkpoints: each replay of the tape then draws anew, and a checkpoint's second forward draws the same.",
    advance_infer, advance_forward, NULL, NULL};

const wm_op *const wm_ops_random[] = {&uniform, &normal, &integers, &bernoulli, &dropout, &categorical, &onehot_sample,
                                      &gaussian_sample, &tanh_gaussian_sample, &stream_advance, NULL};
