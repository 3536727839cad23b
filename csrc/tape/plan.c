/* plan.c - freezing a tape.

   (1) Leaves (parameters, inputs: made by no node) are shared with the tape: write into them, then run.
   (2) Kept are the nodes that an output needs, and those that write into a leaf (a cache).
   (3) A result lives from the node that makes it to the last node that reads it or a view of it; outputs live for ever;
       what an op saves for backward lives during its node only.
   (4) Places: the largest first, each at the lowest offset where nothing alive at the same time lies. */
#include "plan.h"
#include "run.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A root tensor of the tape (no view) and its copy in the plan. */
typedef struct { wm_tensor *old, *own; size_t first, last, bytes, offset; } place;
typedef struct { place *places; size_t n, cap; bool *kept; wm_plan *plan; } work;

static wm_tensor *root(wm_tensor *t) { return t->base ? t->base : t; }

/* Linear search from the newest: a node mostly reads what was made just before. */
static place *find(const work *w, const wm_tensor *root) {
    for (size_t i = w->n; i-- > 0;)
        if (w->places[i].old == root) return &w->places[i];
    return NULL;
}

static int made(work *w, wm_tensor *t, size_t at) {
    if (!t || t->base || find(w, t)) return 0;
    size_t bytes = ((size_t)t->size * wm_dtype_size((wm_dtype)t->dtype) + WM_ALIGN - 1) / WM_ALIGN * WM_ALIGN;
    w->places[w->n++] = (place){.old = t, .first = at, .last = at, .bytes = bytes};
    return 0;
}

static void used(work *w, wm_tensor *t, size_t at) {
    place *p = t ? find(w, root(t)) : NULL;
    if (p && p->last < at) p->last = at;
}

/* (2): from the end, a node is kept if a later kept node or the caller reads what it makes, or it writes into a leaf. */
static void choose(work *w, const wm_tape *tape, wm_tensor *const *outputs, size_t n_outputs) {
    for (size_t i = tape->n; i-- > 0;) {
        const wm_node *n = &tape->nodes[i];
        bool keep = false;
        for (int j = 0; j < n->n_out; j++) {
            wm_tensor *r = root(n->out[j]);
            bool leaf = r != n->out[j];
            for (size_t e = 0; leaf && e <= i; e++)
                for (int o = 0; o < tape->nodes[e].n_out; o++) leaf &= tape->nodes[e].out[o] != r;
            keep |= leaf && n->op->backward == NULL;
            for (size_t o = 0; o < n_outputs; o++) keep |= root(outputs[o]) == r;
            for (size_t later = i + 1; later < tape->n && !keep; later++)
                for (int in = 0; w->kept[later] && in < tape->nodes[later].n_in; in++)
                    keep |= tape->nodes[later].in[in] && root(tape->nodes[later].in[in]) == r;
        }
        w->kept[i] = keep;
    }
}

static int by_size(const void *a, const void *b) {
    const place *p = *(place *const *)a, *q = *(place *const *)b;
    return p->bytes != q->bytes ? (p->bytes < q->bytes ? 1 : -1) : (p < q ? -1 : p > q);
}

/* (4).  Returns the size of the buffer; 0 bytes of it are shared by two that live at once. */
static size_t arrange(work *w, place **order) {
    size_t total = 0;
    for (size_t i = 0; i < w->n; i++) order[i] = &w->places[i];
    qsort(order, w->n, sizeof *order, by_size);
    for (size_t i = 0; i < w->n; i++) {
        place *p = order[i];
        size_t at = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (size_t j = 0; j < i; j++) {
                place *q = order[j];
                if (q->first <= p->last && p->first <= q->last && q->offset < at + p->bytes && at < q->offset + q->bytes)
                    at = q->offset + q->bytes, moved = true;
            }
        }
        p->offset = at;
        if (at + p->bytes > total) total = at + p->bytes;
    }
    return total;
}

/* The plan's own twin of a tape's tensor; leaves stand for themselves. */
static wm_tensor *twin(work *w, wm_tensor *t) {
    if (!t) return NULL;
    place *p = find(w, root(t));
    if (!p) return wm_keep(t);
    if (!t->base) return wm_keep(p->own);
    return wm_tensor_view(p->own, t->offset, t->ndim, t->shape);
}

static void drop_buffer(void *buffer) { wm_memory_drop(buffer); }

static int build_twins(work *w) {
    wm_plan *plan = w->plan;
    if (w->n && !(plan->own = wm_alloc(w->n * sizeof *plan->own))) return -1;
    for (size_t i = 0; i < w->n; i++) {
        place *p = &w->places[i];
        wm_tensor *t = wm_tensor_borrow(p->old->device, (wm_dtype)p->old->dtype, (char *)plan->buffer->data + p->offset, p->old->ndim,
                                        p->old->shape, wm_memory_keep(plan->buffer), drop_buffer);
        if (!t) return wm_memory_drop(plan->buffer), -1;
        plan->own[plan->n_own++] = p->own = t;
        plan->bytes_unshared += p->bytes;
    }
    return 0;
}

static int build_nodes(work *w, const wm_tape *tape) {
    wm_plan *plan = w->plan;
    if (!(plan->nodes = wm_alloc((tape->n + 1) * sizeof *plan->nodes))) return -1;
    for (size_t i = 0; i < tape->n; i++) {
        if (!w->kept[i]) continue;
        const wm_node *from = &tape->nodes[i];
        wm_node *n = &plan->nodes[plan->n++];
        *n = *from;
        memset(n->in, 0, sizeof n->in), memset(n->out, 0, sizeof n->out), memset(n->saved, 0, sizeof n->saved);
        for (int j = 0; j < from->n_in; j++)
            if (from->in[j] && !(n->in[j] = twin(w, from->in[j]))) return -1;
        for (int j = 0; j < from->n_out; j++)
            if (!(n->out[j] = twin(w, from->out[j]))) return -1;
        for (int j = 0; j < WM_SAVED; j++)
            if (from->saved[j] && !(n->saved[j] = twin(w, from->saved[j]))) return -1;
    }
    return 0;
}

static int one_device(work *w, const wm_tape *tape) {
    int device = -1;
    for (size_t i = 0; i < tape->n; i++) {
        if (!w->kept[i]) continue;
        if (device >= 0 && device != tape->nodes[i].device) return wm_fail("plan: its ops run on two devices; make one for each");
        device = tape->nodes[i].device;
    }
    w->plan->device = device < 0 ? WM_CPU : device;
    return 0;
}

static int build(work *w, const wm_tape *tape, wm_tensor *const *outputs, size_t n_outputs) {
    wm_plan *plan = w->plan;
    size_t tensors = tape->n * (WM_OUT + WM_SAVED) + 1;
    w->places = wm_alloc(tensors * sizeof *w->places);
    w->kept = wm_alloc(tape->n + 1);
    place **order = wm_alloc(tensors * sizeof *order);
    int result = -1;
    if (!w->places || !w->kept || !order) goto done;
    choose(w, tape, outputs, n_outputs);
    if (one_device(w, tape) < 0) goto done;
    for (size_t i = 0; i < tape->n; i++) {
        const wm_node *n = &tape->nodes[i];
        if (!w->kept[i]) continue;
        for (int j = 0; j < n->n_out; j++) made(w, n->out[j], i);
        for (int j = 0; j < WM_SAVED; j++) made(w, n->saved[j], i);
        for (int j = 0; j < n->n_in; j++) used(w, n->in[j], i);
        for (int j = 0; j < n->n_out; j++) used(w, n->out[j], i);
    }
    for (size_t o = 0; o < n_outputs; o++) used(w, outputs[o], SIZE_MAX);
    size_t bytes = arrange(w, order);
    if (!(plan->buffer = wm_memory_new(plan->device, bytes ? bytes : WM_ALIGN)) || build_twins(w) < 0 || build_nodes(w, tape) < 0) goto done;
    if (!(plan->outputs = wm_alloc((n_outputs + 1) * sizeof *plan->outputs))) goto done;
    for (size_t o = 0; o < n_outputs; o++) {
        if (!(plan->outputs[o] = twin(w, outputs[o]))) goto done;
        plan->n_outputs++;
    }
    result = wm_plan_scratch(plan);
done:
    wm_free(order), wm_free(w->kept), wm_free(w->places);
    return result;
}

int wm_plan_make(wm_plan *plan, const wm_tape *tape, wm_tensor *const *outputs, size_t n_outputs) {
    *plan = (wm_plan){0};
    if (tape->n_segments) return wm_fail("plan: the tape holds checkpoints; record it without them");
    work w = {.plan = plan};
    if (build(&w, tape, outputs, n_outputs) < 0) { wm_plan_clear(plan); return -1; }
    return 0;
}

int wm_plan_run(wm_plan *plan) {
    if (plan->device) return wm_plan_run_on_device(plan);
    for (size_t i = 0; i < plan->n; i++)
        if (wm_node_forward(&plan->nodes[i]) < 0 || wm_interrupted() < 0) return -1;
    return 0;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int wm_plan_profile(wm_plan *plan, double *seconds, int rounds) {
    double *times = wm_alloc(sizeof *times * (plan->n + 1) * (size_t)rounds);
    int result = times ? 0 : -1;
    for (int r = 0; r < rounds && !result; r++)
        for (size_t i = 0; i < plan->n && !result; i++) {
            double began = now();
            if (wm_node_forward(&plan->nodes[i]) < 0 || wm_interrupted() < 0) result = -1;
            if (plan->device && wm_device_wait(plan->device) < 0) result = -1;
            times[i * (size_t)rounds + (size_t)r] = now() - began;
        }
    for (size_t i = 0; i < plan->n && !result; i++) {
        qsort(times + i * (size_t)rounds, (size_t)rounds, sizeof *times, by_value);
        seconds[i] = times[i * (size_t)rounds + (size_t)rounds / 2];
    }
    wm_free(times);
    return result;
}

void wm_plan_clear(wm_plan *plan) {
    for (size_t i = 0; i < plan->n; i++) wm_node_clear(&plan->nodes[i]);
    for (size_t i = 0; i < plan->n_outputs; i++) wm_drop(plan->outputs[i]);
    for (size_t i = 0; i < plan->n_own; i++) wm_drop(plan->own[i]);
    wm_free(plan->nodes), wm_free(plan->outputs), wm_free(plan->own);
    wm_memory_drop(plan->buffer);
    wm_plan_forget_graph(plan);
    wm_memory_drop(plan->scratch);
    *plan = (wm_plan){0};
}
