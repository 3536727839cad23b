/* pointwise: one number in, one number out. */
#include "../tape/tape.h"

static int infer_like_x(wm_node *n) { return wm_out(n, 0, WM_F32, n->in[0]->ndim, n->in[0]->shape); }

static void silu_forward(wm_node *n) { n->k->silu_forward(n->out[0]->data, n->in[0]->data, n->out[0]->size); }
static void silu_backward(wm_node *n) {
    n->k->silu_backward(wm_grad(n->in[0]), n->out[0]->grad, n->in[0]->data, n->out[0]->size);
}
static const wm_op silu = {"silu", "x", "x * sigmoid(x).", infer_like_x, silu_forward, silu_backward, NULL};

const wm_op *const wm_ops_pointwise[] = {&silu, NULL};
