/* tape.h - ops and the list of what was computed: recorded forwards, walked backwards for gradients, forwards again
   for replay, frozen into a plan.

   An op is three small functions and a spec string.  The spec is all the binding code it has:
       "x weight@weight bias? act:e=none|gelu|silu eps:f=1e-6 causal:b=0 axis:i=-1 shape:t indices@i32 xs..."
   inputs first: name[@f32|bf16|u8|i32|any|weight][? optional | ... the rest], f32 if nothing is said;
   then attributes name:kind[=default], kinds f float, i integer, b flag, e one of the words after '=' (the first is the
   default; attr holds its position), t tuple of integers (at most one; it lands in node->list);
   last, of ops that make several tensors, their names: "-> noisy clean eps?" (? only if an attribute asks for it). */
#ifndef WM_TAPE_H
#define WM_TAPE_H
#include "../tensor/tensor.h"

typedef union { int64_t i; double f; } wm_attr;

/* One op applied once.  Running it forward, backward or again needs nothing else. */
typedef struct wm_node {
    const struct wm_op *op;
    const wm_kernels *k;            /* the kernels of its device */
    wm_tensor *in[WM_IN];           /* an absent optional input is NULL */
    wm_tensor *out[WM_OUT];
    wm_tensor *saved[WM_SAVED];     /* what backward needs and the inputs do not hold */
    wm_attr    attr[WM_ATTR];
    int64_t    list[WM_DIMS];       /* the tuple attribute */
    uint8_t    n_in, n_out, n_list;
    uint8_t    device;
    uint16_t   wants;               /* bit i: input i needed a gradient when the node was made */
    bool       needs_grad;          /* an input needs a gradient and a tape records: known before infer */
    size_t     scratch_bytes;       /* set by infer; forward and backward then find as much at scratch */
    void      *scratch;
} wm_node;

typedef struct wm_op {
    const char *name, *spec, *doc;
    int  (*infer)(wm_node *);       /* check shapes; make out and saved.  0, or -1 with wm_error set */
    void (*forward)(wm_node *);     /* fill out and saved; cannot fail */
    void (*backward)(wm_node *);    /* add to wm_grad(in[i]) of each input that needs one; cannot fail.  NULL: no gradient */
    int  (*check)(wm_node *);       /* NULL, or checks numbers (an index in range) before each forward, replays too */
} wm_op;

/* For infer: outputs, outputs that share the memory and gradient of an input, tensors for backward.  0 or -1. */
int wm_out(wm_node *, int i, wm_dtype, int ndim, const int64_t *shape);
int wm_out_view(wm_node *, int i, wm_tensor *of, int64_t offset, int ndim, const int64_t *shape);
int wm_save(wm_node *, int i, wm_dtype, int ndim, const int64_t *shape);

typedef struct { size_t begin, end; } wm_segment;         /* checkpointed nodes; end is 0 while it is open */
typedef struct wm_tape {
    wm_node    *nodes;
    size_t      n, cap;
    wm_segment *segments;
    size_t      n_segments, cap_segments;
    bool        no_grad;            /* record for replay or a plan only: ops keep nothing for a backward */
} wm_tape;

extern _Thread_local wm_tape *wm_recording;   /* NULL: nothing is recorded */
extern bool wm_guard_nan;                     /* look for NaN and infinity after every op */

/* Infer, run, and record if recording.  out[] gets a new reference each.  0 or -1. */
int  wm_apply(const wm_op *, wm_tensor *const *in, int n_in, const wm_attr *attr, const int64_t *list, int n_list, wm_tensor **out);
int  wm_backward(wm_tape *, wm_tensor *loss, const wm_tensor *seed);   /* adds d(loss . seed) / d leaf to every leaf that needs it;
                                                    without a seed, loss is one number */
int  wm_replay(wm_tape *);                      /* every forward again, in order, in place */
void wm_tape_clear(wm_tape *);

/* Checkpointing: what is recorded between begin and end keeps only its inputs and outputs; backward computes the rest again. */
int  wm_checkpoint_begin(wm_tape *);
int  wm_checkpoint_end(wm_tape *);

extern const wm_op *const *const wm_op_families[];   /* every op, by family; both lists end with NULL (ops/ops.c) */
#endif
