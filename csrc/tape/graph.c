/* graph.c - a plan on a device: after a first run it is captured, and from then on a run is one launch.

   (1) What a graph wrote down is addresses: of the plan's own buffer, which stays, of its scratch, which it owns, and of leaves,
       which may move (an arena, to_): their addresses make a mark, and another mark means another graph.
   (2) The checks of ops that look at numbers run before every launch, as they do before every forward.
   (3) Where a graph cannot be, the plan runs node by node, as on the processor. */
#include "plan.h"
#include "run.h"

/* (1) */
static uint64_t mark_of(const wm_plan *plan) {
    uint64_t mark = 1469598103934665603u;
    for (size_t i = 0; i < plan->n; i++) {
        const wm_node *n = &plan->nodes[i];
        for (int j = 0; j < n->n_in; j++) mark = (mark ^ (uint64_t)(uintptr_t)(n->in[j] ? n->in[j]->raw : NULL)) * 1099511628211u;
        for (int j = 0; j < n->n_in; j++) mark = (mark ^ (uint64_t)(uintptr_t)(n->in[j] ? n->in[j]->packed : NULL)) * 1099511628211u;
    }
    return mark;
}

/* The scratch of all nodes: one block, as large as the largest wants. */
int wm_plan_scratch(wm_plan *plan) {
    size_t most = 0;
    for (size_t i = 0; i < plan->n; i++)
        if (plan->nodes[i].scratch_bytes > most) most = plan->nodes[i].scratch_bytes;
    if (!most || !plan->device) return 0;
    if (!(plan->scratch = wm_memory_new(plan->device, most))) return -1;
    for (size_t i = 0; i < plan->n; i++) plan->nodes[i].scratch = plan->scratch->data;
    return 0;
}

static int node_by_node(wm_plan *plan) {
    for (size_t i = 0; i < plan->n; i++)
        if (wm_node_forward(&plan->nodes[i]) < 0 || wm_interrupted() < 0) return -1;
    return 0;
}

static int check_all(wm_plan *plan) {
    for (size_t i = 0; i < plan->n; i++) {
        wm_node *n = &plan->nodes[i];
        if (n->op->check && n->op->check(n) < 0) return -1;
    }
    return wm_device_failed(plan->device, "plan");
}

void wm_plan_forget_graph(wm_plan *plan) {
    if (plan->graph) wm_devices[plan->device]->forget(plan->graph);
    plan->graph = NULL;
}

static int capture(wm_plan *plan) {
    const wm_device *d = wm_devices[plan->device];
    wm_device_enter(plan->device);
    int failed = d->capture();
    if (!failed) {
        for (size_t i = 0; i < plan->n; i++) plan->nodes[i].op->forward(&plan->nodes[i]);
        failed = (plan->graph = d->captured()) && !d->error() ? 0 : -1;
    }
    if (failed) d->error();
    wm_device_leave(plan->device);
    return failed;
}

int wm_plan_run_on_device(wm_plan *plan) {
    const wm_device *d = wm_devices[plan->device];
    uint64_t mark = mark_of(plan);
    if (mark != plan->mark) wm_plan_forget_graph(plan), plan->mark = mark, plan->runs = 0;
    if (wm_guard_nan || plan->graphless || !plan->runs++) return node_by_node(plan);
    if (check_all(plan) < 0) return -1;
    if (!plan->graph && capture(plan) < 0) {       /* (3) */
        wm_plan_forget_graph(plan), plan->graphless = true;
        return node_by_node(plan);
    }
    wm_device_enter(plan->device);
    int failed = d->launch(plan->graph) < 0 ? wm_device_failed(plan->device, "plan") : 0;
    wm_device_leave(plan->device);
    return failed;
}
