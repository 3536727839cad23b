/* plan.h - a frozen tape: only the forwards that its outputs need, lifetimes known, one buffer, no allocation. */
#ifndef WM_PLAN_H
#define WM_PLAN_H
#include "tape.h"

typedef struct wm_plan {
    wm_node    *nodes;
    size_t      n;
    wm_memory  *buffer;             /* every intermediate lives somewhere in it */
    wm_tensor **own;                /* the plan's own descriptions of results and saved tensors */
    size_t      n_own;
    wm_tensor **outputs;            /* in the order asked for */
    size_t      n_outputs;
    int         device;
    wm_memory  *scratch;            /* on a device: of all nodes (graph.c) */
    void       *graph;              /* on a device: the whole plan as one launch, or NULL */
    uint64_t    mark, runs;         /* of the leaves' addresses; runs with them */
    bool        graphless;          /* it cannot be captured */
    size_t      bytes_unshared;     /* what the intermediates would take without sharing */
} wm_plan;

int  wm_plan_make(wm_plan *, const wm_tape *, wm_tensor *const *outputs, size_t n_outputs);   /* 0, or -1 and nothing made */
int  wm_plan_run(wm_plan *);
int  wm_plan_profile(wm_plan *, double *seconds, int rounds);    /* rounds runs; of each node the median of its times */
void wm_plan_clear(wm_plan *);      /* accepts half-made plans */

/* graph.c */
int  wm_plan_scratch(wm_plan *);
int  wm_plan_run_on_device(wm_plan *);
void wm_plan_forget_graph(wm_plan *);
#endif
