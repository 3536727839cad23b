/* scan: LSTM and GRU, a step or a sequence; formulas in kernels/cpu/scan.c.  The input's share of the gates comes from a linear
   op before: x = linear(inputs, weight_ih, bias_ih), in PyTorch's order of the gates. */
#include "../tape/tape.h"

/* inputs of both: x weight bias? h0? [c0?] reset? */
enum { X, WEIGHT, BIAS, H0, C0 };

typedef struct { int64_t B, T, H; } scan_sizes;

static scan_sizes sizes_of(const wm_node *n) {
    const wm_tensor *x = n->in[X];
    return (scan_sizes){x->shape[0], x->ndim == 3 ? x->shape[1] : 1, n->in[WEIGHT]->shape[1]};
}

static int wants(const wm_node *n, const char *name, const wm_tensor *t, int ndim, int64_t a, int64_t b) {
    char text[96];
    if (!t || (t->ndim == ndim && t->shape[0] == a && (ndim == 1 || t->shape[1] == b))) return 0;
    wm_shape_text(t, text, sizeof text);
    if (ndim == 1) return wm_fail("%s: %s wanted (%lld,), got %s", n->op->name, name, (long long)a, text);
    return wm_fail("%s: %s wanted (%lld, %lld), got %s", n->op->name, name, (long long)a, (long long)b, text);
}

/* Shapes of what LSTM and GRU have in common; ndim 3 is a sequence, 2 a step.  out (B,T,H) or (B,H). */
static int scan_infer(wm_node *n, int gates, int ndim, int reset_at) {
    wm_tensor *x = n->in[X], *w = n->in[WEIGHT], *reset = n->in[reset_at];
    char text[96];
    if (w->ndim != 2 || w->shape[0] != gates * w->shape[1])
        return wm_fail("%s: weight wanted (%d hidden, hidden), got %s", n->op->name, gates, wm_shape_text(w, text, sizeof text));
    int64_t H = w->shape[1];
    if (x->ndim != ndim || x->shape[ndim - 1] != gates * H)
        return wm_fail("%s: x wanted (batch, %s%lld), got %s", n->op->name, ndim == 3 ? "steps, " : "", (long long)(gates * H),
                       wm_shape_text(x, text, sizeof text));
    scan_sizes s = sizes_of(n);
    if (wants(n, "bias", n->in[BIAS], 1, gates * H, 0) < 0 || wants(n, "h0", n->in[H0], 2, s.B, H) < 0) return -1;
    if (wants(n, "reset", reset, ndim - 1, s.B, s.T) < 0) return -1;
    int64_t out[] = {s.B, ndim == 3 ? s.T : H, H};
    return wm_out(n, 0, WM_F32, ndim, out);
}

static float *numbers(wm_tensor *t) { return t ? t->data : NULL; }
static uint8_t *flags(wm_tensor *t) { return t ? t->u8 : NULL; }
static size_t floats(int64_t n) { return (size_t)n * sizeof(float); }

static int scan_check(wm_node *n) {
    wm_tensor *w = n->in[WEIGHT];
    return wm_packed(w, n->k->linear_layout(0), n->k->linear_packed_bytes(0, w->shape[0], w->shape[1]), n->k->linear_pack,
                     w->shape[0], w->shape[1]) ? 0 : -1;
}

/* Does the last state have a place of its own?  A step's is its first output. */
static bool is_sequence(const wm_node *n) { return n->in[X]->ndim == 3; }

/* ---- LSTM ------------------------------------------------------------------------------------------------ */

enum { LSTM_RESET = 5 };

static int lstm_infer(wm_node *n, int ndim) {
    if (scan_infer(n, 4, ndim, LSTM_RESET) < 0) return -1;
    scan_sizes s = sizes_of(n);
    int64_t state[] = {s.B, s.H}, gates[] = {s.B, s.T, 4 * s.H}, cells[] = {s.B, s.T, s.H};
    if (wants(n, "c0", n->in[C0], 2, s.B, s.H) < 0 || wm_out(n, 1, WM_F32, 2, state) < 0) return -1;
    if (ndim == 3 && wm_out(n, 2, WM_F32, 2, state) < 0) return -1;
    n->scratch_bytes = floats(7 * s.B * s.H);
    if (!n->needs_grad) return 0;
    size_t back = floats(s.B * s.H * (5 * s.T + 3)) + n->k->linear_packed_bytes(0, s.H, 4 * s.H);
    if (back > n->scratch_bytes) n->scratch_bytes = back;
    return wm_save(n, 0, WM_F32, 3, gates) < 0 || wm_save(n, 1, WM_F32, 3, cells) < 0 ? -1 : 0;
}
static int lstm_sequence_infer(wm_node *n) { return lstm_infer(n, 3); }
static int lstm_step_infer(wm_node *n) { return lstm_infer(n, 2); }

static void lstm_forward(wm_node *n) {
    scan_sizes s = sizes_of(n);
    bool keep = n->saved[0];
    float *room = n->scratch, *gates = room + 2 * s.B * s.H, *cells = gates + 4 * s.B * s.H;
    n->k->lstm_forward(n->out[0]->data, is_sequence(n) ? n->out[1]->data : NULL, n->out[n->n_out - 1]->data,
                       keep ? n->saved[0]->data : gates, keep ? n->saved[1]->data : cells, room, n->in[X]->data,
                       wm_packed_now(n->in[WEIGHT]), numbers(n->in[BIAS]), numbers(n->in[H0]), numbers(n->in[C0]),
                       flags(n->in[LSTM_RESET]), keep, s.B, s.T, s.H);
}
static void lstm_backward(wm_node *n) {
    scan_sizes s = sizes_of(n);
    n->k->lstm_backward(wm_grad(n->in[X]), wm_grad(n->in[WEIGHT]), wm_grad(n->in[BIAS]), wm_grad(n->in[H0]), wm_grad(n->in[C0]),
                        n->scratch, n->out[0]->grad, is_sequence(n) ? n->out[1]->grad : NULL, n->out[n->n_out - 1]->grad,
                        n->saved[0]->data, n->saved[1]->data, n->out[0]->data, n->in[WEIGHT]->data, numbers(n->in[H0]),
                        numbers(n->in[C0]), flags(n->in[LSTM_RESET]), s.B, s.T, s.H);
}

#define LSTM "gates i, f, g, o of x + weight h + bias;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c') " \
             "(Hochreiter & Schmidhuber 1997, as torch.nn.LSTM).  weight (4H, H), bias (4H,); h0, c0 (B, H), zeros if absent."
static const wm_op lstm = {"lstm", "x weight bias? h0? c0? reset@u8? -> out h c",
    "x (B, T, 4H), the input's share of the gates -> out (B, T, H), h (B, H), c (B, H): " LSTM "  A step whose reset (B, T) is "
    "not 0 begins from zeros.", lstm_sequence_infer, lstm_forward, lstm_backward, scan_check};
static const wm_op lstm_cell = {"lstm_cell", "x weight bias? h0? c0? reset@u8? -> h c",
    "One step: x (B, 4H) -> h (B, H), c (B, H): " LSTM "  reset (B,).", lstm_step_infer, lstm_forward, lstm_backward, scan_check};

/* ---- GRU --------------------------------------------------------------------------------------------------- */

enum { GRU_RESET = 4 };

static int gru_infer(wm_node *n, int ndim) {
    if (scan_infer(n, 3, ndim, GRU_RESET) < 0) return -1;
    scan_sizes s = sizes_of(n);
    int64_t state[] = {s.B, s.H}, gates[] = {s.B, s.T, 4 * s.H};
    if (ndim == 3 && wm_out(n, 1, WM_F32, 2, state) < 0) return -1;
    n->scratch_bytes = floats(8 * s.B * s.H);
    if (!n->needs_grad) return 0;
    size_t back = floats(s.B * s.H * (4 * s.T + 1)) + n->k->linear_packed_bytes(0, s.H, 3 * s.H);
    if (back > n->scratch_bytes) n->scratch_bytes = back;
    return wm_save(n, 0, WM_F32, 3, gates);
}
static int gru_sequence_infer(wm_node *n) { return gru_infer(n, 3); }
static int gru_step_infer(wm_node *n) { return gru_infer(n, 2); }

static void gru_forward(wm_node *n) {
    scan_sizes s = sizes_of(n);
    bool keep = n->saved[0];
    float *room = n->scratch, *gates = room + 4 * s.B * s.H;
    n->k->gru_forward(n->out[0]->data, is_sequence(n) ? n->out[1]->data : NULL, keep ? n->saved[0]->data : gates, room,
                      n->in[X]->data, wm_packed_now(n->in[WEIGHT]), numbers(n->in[BIAS]), numbers(n->in[H0]), flags(n->in[GRU_RESET]),
                      keep, s.B, s.T, s.H);
}
static void gru_backward(wm_node *n) {
    scan_sizes s = sizes_of(n);
    n->k->gru_backward(wm_grad(n->in[X]), wm_grad(n->in[WEIGHT]), wm_grad(n->in[BIAS]), wm_grad(n->in[H0]), n->scratch,
                       n->out[0]->grad, is_sequence(n) ? n->out[1]->grad : NULL, n->saved[0]->data, n->out[0]->data,
                       n->in[WEIGHT]->data, numbers(n->in[H0]), flags(n->in[GRU_RESET]), s.B, s.T, s.H);
}

#define GRU "u = weight h + bias;  r, z = sigmoid(x + u);  n = tanh(x_n + r u_n);  h' = (1 - z) n + z h (Cho et al. 2014, as " \
            "torch.nn.GRU).  weight (3H, H), bias (3H,); h0 (B, H), zeros if absent."
static const wm_op gru = {"gru", "x weight bias? h0? reset@u8? -> out h",
    "x (B, T, 3H), the input's share of the gates -> out (B, T, H), h (B, H): " GRU "  A step whose reset (B, T) is not 0 begins "
    "from zeros.", gru_sequence_infer, gru_forward, gru_backward, scan_check};
static const wm_op gru_cell = {"gru_cell", "x weight bias? h0? reset@u8?", "One step: x (B, 3H) -> h (B, H): " GRU "  reset (B,).",
    gru_step_infer, gru_forward, gru_backward, scan_check};

const wm_op *const wm_ops_scan[] = {&lstm, &lstm_cell, &gru, &gru_cell, NULL};
