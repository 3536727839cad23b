/* tape.c - the list of what was computed, in order.

   (1) Forward appends; backward walks from the end; replay walks from the start.
   (2) Gradients are added.  The gradient of a result is given back as soon as its node has used it, unless asked for;
       leaves keep theirs.
   (3) A checkpointed segment sleeps: the tensors that only its own nodes hold have no numbers.  Backward wakes it,
       runs its forwards again (the same numbers: random ops read the same counters) and puts it to sleep behind it. */
#include "tape.h"
#include "run.h"
#include <string.h>

_Thread_local wm_tape *wm_recording;

/* Room for one more element in an array that doubles; blocks come from the pool. */
static int grow(void **array, size_t n, size_t *cap, size_t size, size_t first) {
    if (n < *cap) return 0;
    size_t wanted = *cap ? 2 * *cap : first;
    void *p = wm_alloc(wanted * size);
    if (!p) return -1;
    if (n) memcpy(p, *array, n * size);
    wm_free(*array);
    *array = p, *cap = wanted;
    return 0;
}

/* ---- record ----------------------------------------------------------------------------------- */

static int make(wm_node *n) {
    for (int i = 0; i < n->n_in; i++) {
        char text[96];
        if (n->in[i] && n->in[i]->size == 0)
            return wm_fail("%s: input %d has no numbers, its shape is %s", n->op->name, i,
                           wm_shape_text(n->in[i], text, sizeof text));
    }
    return n->op->infer(n) < 0 || wm_node_forward(n) < 0 ? -1 : 0;
}

/* All inputs lie on one device, where the op runs; an op without inputs runs where new tensors are made. */
static int device_of(const wm_op *op, wm_tensor *const *in, int n_in) {
    int first = -1;
    for (int i = 0; i < n_in; i++) {
        if (!in[i]) continue;
        if (first < 0) first = i;
        if (in[i]->device != in[first]->device)
            return wm_fail("%s: input %d lies on %s, input %d on %s; move one with Tensor.to", op->name, first,
                           wm_device_name(in[first]->device), i, wm_device_name(in[i]->device));
    }
    return first < 0 ? wm_device_now : in[first]->device;
}

int wm_apply(const wm_op *op, wm_tensor *const *in, int n_in, const wm_attr *attr, const int64_t *list, int n_list,
             wm_tensor **out) {
    int device = device_of(op, in, n_in);
    if (device < 0) return -1;
    wm_node n = {.op = op, .k = wm_kernels_on(device), .device = (uint8_t)device, .n_in = (uint8_t)n_in, .n_list = (uint8_t)n_list};
    for (int i = 0; i < n_in; i++)
        if (in[i]) n.in[i] = wm_keep(in[i]), n.wants |= (uint16_t)(in[i]->needs_grad << i);
    n.needs_grad = n.wants && op->backward && wm_recording && !wm_recording->no_grad;
    memcpy(n.attr, attr, sizeof n.attr);
    memcpy(n.list, list, (size_t)n_list * sizeof *list);
    wm_tape *t = wm_recording;
    if (make(&n) < 0 || (t && grow((void **)&t->nodes, t->n, &t->cap, sizeof n, 64) < 0)) {
        wm_node_clear(&n);
        return -1;
    }
    for (int i = 0; i < n.n_out; i++) out[i] = wm_keep(n.out[i]);
    if (t) t->nodes[t->n++] = n; else wm_node_clear(&n);
    return 0;
}

void wm_tape_clear(wm_tape *t) {
    for (size_t i = t->n; i-- > 0;) wm_node_clear(&t->nodes[i]);
    wm_free(t->nodes), wm_free(t->segments);
    *t = (wm_tape){.no_grad = t->no_grad};
}

/* ---- checkpoints ------------------------------------------------------------------------------ */

/* Does only this segment hold t?  Count the holders inside it. */
static bool internal(const wm_tape *tape, wm_segment s, const wm_tensor *t) {
    int held = 0;
    for (size_t i = s.begin; i < s.end; i++) {
        const wm_node *n = &tape->nodes[i];
        for (int j = 0; j < n->n_in; j++) held += n->in[j] == t;
        for (int j = 0; j < WM_SAVED; j++) held += n->saved[j] == t;
        for (int j = 0; j < n->n_out; j++) {
            held += n->out[j] == t;
            if (n->out[j]->base == t) {
                if (!internal(tape, s, n->out[j])) return false;
                held++;
            }
        }
    }
    return t->refs == held;
}

static void segment_sleep(wm_tape *tape, wm_segment s) {
    for (size_t i = s.begin; i < s.end; i++) {
        wm_node *n = &tape->nodes[i];
        for (int j = 0; j < n->n_out; j++)
            if (!(n->out[j]->base && !n->out[j]->base->memory) && internal(tape, s, n->out[j])) wm_tensor_sleep(n->out[j]);
        for (int j = 0; j < WM_SAVED; j++)
            if (n->saved[j]) wm_tensor_sleep(n->saved[j]);
    }
    for (size_t i = s.begin; i < s.end; i++)        /* views of sleepers sleep too, or they would hold the memory */
        for (int j = 0; j < tape->nodes[i].n_out; j++) {
            wm_tensor *t = tape->nodes[i].out[j];
            if (t->base && !t->base->memory) wm_tensor_sleep(t);
        }
}

static int segment_wake(wm_tape *tape, wm_segment s) {
    for (size_t i = s.begin; i < s.end; i++) {
        wm_node *n = &tape->nodes[i];
        for (int j = 0; j < n->n_out; j++)
            if (wm_tensor_wake(n->out[j]) < 0) return -1;
        for (int j = 0; j < WM_SAVED; j++)
            if (n->saved[j] && wm_tensor_wake(n->saved[j]) < 0) return -1;
    }
    return 0;
}

int wm_checkpoint_begin(wm_tape *t) {
    if (t->n_segments && !t->segments[t->n_segments - 1].end)
        return wm_fail_as(WM_RUNTIME, "checkpoint: one is open already; checkpoints do not nest");
    if (grow((void **)&t->segments, t->n_segments, &t->cap_segments, sizeof *t->segments, 8) < 0) return -1;
    t->segments[t->n_segments++] = (wm_segment){.begin = t->n};
    return 0;
}

int wm_checkpoint_end(wm_tape *t) {
    wm_segment *s = t->n_segments ? &t->segments[t->n_segments - 1] : NULL;
    if (!s || s->end) return wm_fail_as(WM_RUNTIME, "checkpoint: none is open");
    s->end = t->n;
    if (s->end == s->begin) t->n_segments--; else segment_sleep(t, *s);
    return 0;
}

/* ---- backward --------------------------------------------------------------------------------- */

static int node_backward(wm_node *n) {
    bool reached = false;
    for (int i = 0; i < n->n_out; i++) reached |= wm_grad_here(n->out[i]);
    if (!reached || !n->needs_grad) return 0;
    bool wanted = false;                     /* needs_grad may have been switched since */
    for (int i = 0; i < n->n_in; i++) {
        bool wants = n->in[i] && n->in[i]->needs_grad;
        if (wants && !(n->wants >> i & 1))   /* what its backward needs was not kept */
            return wm_fail_as(WM_RUNTIME, "backward: input %d of %s needed no gradient when it was recorded", i, n->op->name);
        wanted |= wants;
    }
    if (!wanted) return 0;
    for (int i = 0; i < n->n_out; i++)
        if (wm_grad_ready(n->out[i]) < 0) return -1;
    for (int i = 0; i < n->n_in; i++)
        if (wm_grad_ready(n->in[i]) < 0) return -1;
    if (n->scratch_bytes && !(n->scratch = wm_device_alloc(n->device, n->scratch_bytes))) return -1;
    wm_device_enter(n->device);
    n->op->backward(n);
    int failed = wm_device_failed(n->device, n->op->name);
    wm_device_leave(n->device);
    if (n->scratch_bytes) wm_device_free(n->device, n->scratch), n->scratch = NULL;
    if (failed < 0) return -1;
    for (int i = 0; i < n->n_out; i++)
        if (!n->out[i]->base && !n->out[i]->keeps_grad) wm_grad_clear(n->out[i]);
    return 0;
}

static int segment_rerun(wm_tape *t, wm_segment s) {
    if (segment_wake(t, s) < 0) return -1;
    for (size_t i = s.begin; i < s.end; i++)
        if (wm_node_forward(&t->nodes[i]) < 0 || wm_interrupted() < 0) return -1;
    return 0;
}

static int walk_back(wm_tape *t) {
    size_t open = t->n_segments;
    for (size_t i = t->n; i-- > 0;) {
        wm_segment *s = open ? &t->segments[open - 1] : NULL;
        if (s && s->end == i + 1 && segment_rerun(t, *s) < 0) return -1;
        if (node_backward(&t->nodes[i]) < 0 || wm_interrupted() < 0) return -1;
        if (s && s->begin == i) segment_sleep(t, *s), open--;
    }
    return 0;
}

/* loss.grad += seed, or 1 */
static int begin(wm_tensor *loss, const wm_tensor *seed) {
    const float *s = seed ? wm_read(seed) : NULL;
    size_t bytes = (size_t)loss->size * sizeof(float);
    float *g = loss->device ? wm_alloc(bytes) : loss->grad;
    int failed = !g || (seed && !s) || (loss->device && wm_copy_between(WM_CPU, g, loss->device, loss->grad, bytes) < 0);
    for (int64_t i = 0; i < loss->size && !failed; i++) g[i] += s ? s[i] : 1.0f;
    if (loss->device && !failed) failed = wm_copy_between(loss->device, loss->grad, WM_CPU, g, bytes) < 0;
    if (loss->device) wm_free(g);
    if (s) wm_read_done(seed, s);
    return failed ? -1 : 0;
}

int wm_backward(wm_tape *t, wm_tensor *loss, const wm_tensor *seed) {
    if (wm_recording)
        return wm_fail_as(WM_RUNTIME, "backward: a tape is recording; gradients of gradients are not supported: "
                                      "leave the tape's with block first");
    if (!loss->needs_grad)
        return wm_fail("backward: the loss depends on nothing that needs a gradient, or was not recorded");
    if (!seed && loss->size != 1)
        return wm_fail("backward: starts from one number, not from %lld; pass a gradient of the loss's shape",
                       (long long)loss->size);
    if (seed && seed->size != loss->size)
        return wm_fail("backward: gradient has %lld numbers, the loss %lld", (long long)seed->size, (long long)loss->size);
    if (t->n_segments && !t->segments[t->n_segments - 1].end)
        return wm_fail_as(WM_RUNTIME, "backward: a checkpoint is still open");
    if (wm_grad_ready(loss) < 0) return -1;
    if (begin(loss, seed) < 0) return -1;
    int failed = walk_back(t);
    if (failed)      /* what was on its way must not be added to the next backward */
        for (size_t i = 0; i < t->n; i++)
            for (int j = 0; j < t->nodes[i].n_out; j++) wm_grad_clear(t->nodes[i].out[j]);
    return failed;
}

/* ---- replay ----------------------------------------------------------------------------------- */

int wm_replay(wm_tape *t) {
    size_t next = 0;
    for (size_t i = 0; i < t->n; i++) {
        wm_segment *s = next < t->n_segments ? &t->segments[next] : NULL;
        if (s && s->begin == i && segment_wake(t, *s) < 0) return -1;
        if (wm_node_forward(&t->nodes[i]) < 0 || wm_interrupted() < 0) return -1;
        if (s && s->end == i + 1) segment_sleep(t, *s), next++;
    }
    return 0;
}
