/* norm: layer, RMS and group norm, plain or modulated by a condition (AdaLN, AdaGN), and the gated residual.

   A condition (G, m C) serves R / G consecutive rows of x each: one row a sample, a frame or a token.  Where several
   vectors come out of one linear map, all are given as that one tensor and chunk numbers choose among its m parts, so
   that nothing is sliced or copied. */
#include "../tape/tape.h"

enum { NORM_CHUNK = 64 };       /* rows whose sums share a row of scratch, as in kernels.def */

static int64_t last(const wm_tensor *t) { return t->ndim ? t->shape[t->ndim - 1] : 1; }
static float *data(const wm_tensor *t) { return t ? t->data : NULL; }

/* ---- checks ------------------------------------------------------------------------------------- */

static int check_x(const wm_node *n, int axes) {
    char text[96];
    if (n->in[0]->ndim < axes)
        return wm_fail("%s: x wanted %s, got %s", n->op->name, axes > 1 ? "(B, ..., C)" : "(..., C)",
                       wm_shape_text(n->in[0], text, sizeof text));
    return 0;
}

/* weight or bias (C,), or absent */
static int check_affine(const wm_node *n, int i, const char *name) {
    const wm_tensor *t = n->in[i];
    char text[96];
    if (t && (t->ndim != 1 || t->shape[0] != last(n->in[0])))
        return wm_fail("%s: %s wanted (%lld,), got %s", n->op->name, name, (long long)last(n->in[0]),
                       wm_shape_text(t, text, sizeof text));
    return 0;
}

/* A condition whose last axis holds chunks of C numbers, one row for each `rows of x` / G; or absent. */
static int check_condition(const wm_node *n, const wm_tensor *t, const char *name, int64_t chunk, int64_t R, bool by_sample) {
    int64_t C = last(n->in[0]);
    char text[96];
    if (!t) return 0;
    if (last(t) % C)
        return wm_fail("%s: %s wanted a multiple of %lld channels, got %s", n->op->name, name, (long long)C,
                       wm_shape_text(t, text, sizeof text));
    if (chunk < 0 || chunk >= last(t) / C)
        return wm_fail("%s: %s_chunk wanted 0 to %lld, got %lld", n->op->name, name, (long long)(last(t) / C - 1),
                       (long long)chunk);
    int64_t G = t->size / last(t);
    if (by_sample ? G != R : R % G != 0)
        return wm_fail("%s: %s wanted one row for each %s (%lld), got %s", n->op->name, name,
                       by_sample ? "sample" : "so many rows of x", (long long)R, wm_shape_text(t, text, sizeof text));
    return 0;
}

/* ---- layer norm, RMS norm, AdaLN ---------------------------------------------------------------- */

enum { ADA_SCALE_CHUNK, ADA_SHIFT_CHUNK, ADA_KIND, ADA_EPS };
enum { KIND_LAYER, KIND_RMS };

static const wm_op layer_norm, rms_norm, adaln;
static bool is_rms(const wm_node *n) { return n->op == &adaln ? n->attr[ADA_KIND].i == KIND_RMS : n->op == &rms_norm; }
static double eps_of(const wm_node *n) { return n->attr[n->op == &adaln ? ADA_EPS : 0].f; }

/* How x's rows are multiplied and added to; term is the second parameter, whichever it is. */
static wm_modulation modulation_of(const wm_node *n) {
    const wm_tensor *x = n->in[0], *factor = n->in[1], *term = n->n_in > 2 ? n->in[2] : NULL;
    int64_t R = x->size / last(x), C = last(x);
    if (n->op != &adaln) return (wm_modulation){.factor = data(factor), .term = data(term), .plus = factor ? 0 : 1, .rows = R};
    return (wm_modulation){.factor = factor->data + n->attr[ADA_SCALE_CHUNK].i * C, .plus = 1, .rows = R / (factor->size / last(factor)),
                           .term = term ? term->data + n->attr[ADA_SHIFT_CHUNK].i * C : NULL, .step_factor = last(factor),
                           .step_term = term ? last(term) : 0};
}

static int norm_out(wm_node *n) {
    const wm_tensor *x = n->in[0];
    int64_t C = last(x), R = x->size / C;
    if (!(eps_of(n) >= 0)) return wm_fail("%s: eps wanted 0 or more, got %g", n->op->name, eps_of(n));
    if (wm_out(n, 0, WM_F32, x->ndim, x->shape) < 0) return -1;
    if (!n->needs_grad) return 0;
    int64_t rows = modulation_of(n).rows, chunks = (rows + NORM_CHUNK - 1) / NORM_CHUNK;
    if (chunks > 1) n->scratch_bytes = (size_t)(R / rows * chunks * 2 * C) * sizeof(float);
    return wm_save(n, 0, WM_F32, 1, &R) < 0 || (!is_rms(n) && wm_save(n, 1, WM_F32, 1, &R) < 0) ? -1 : 0;
}

static int infer_affine(wm_node *n) {
    if (check_x(n, 1) < 0 || check_affine(n, 1, "weight") < 0 || (n->n_in > 2 && check_affine(n, 2, "bias") < 0)) return -1;
    return norm_out(n);
}

static int infer_adaln(wm_node *n) {
    const wm_tensor *x = n->in[0], *scale = n->in[1], *shift = n->in[2];
    int64_t R = x->ndim ? x->size / last(x) : 0;
    if (check_x(n, 1) < 0 || check_condition(n, scale, "scale", n->attr[ADA_SCALE_CHUNK].i, R, false) < 0 ||
        check_condition(n, shift, "shift", n->attr[ADA_SHIFT_CHUNK].i, R, false) < 0)
        return -1;
    if (shift && shift->size / last(shift) != scale->size / last(scale))
        return wm_fail("adaln: shift wanted %lld rows, as many as scale, got %lld", (long long)(scale->size / last(scale)),
                       (long long)(shift->size / last(shift)));
    return norm_out(n);
}

static void norm_forward(wm_node *n) {
    const wm_tensor *x = n->in[0];
    wm_modulation m = modulation_of(n);
    n->k->norm_forward(n->out[0]->data, data(n->saved[1]), data(n->saved[0]), x->data, &m, is_rms(n), (float)eps_of(n),
                       x->size / last(x), last(x));
}

static void norm_backward(wm_node *n) {
    wm_tensor *x = n->in[0], *term = n->n_in > 2 ? n->in[2] : NULL;
    wm_modulation m = modulation_of(n);
    float *dfactor = wm_grad(n->in[1]), *dterm = wm_grad(term);
    if (dfactor) dfactor += n->op == &adaln ? n->attr[ADA_SCALE_CHUNK].i * last(x) : 0;
    if (dterm) dterm += n->op == &adaln ? n->attr[ADA_SHIFT_CHUNK].i * last(x) : 0;
    n->k->norm_backward(wm_grad(x), dfactor, dterm, n->out[0]->grad, x->data, data(n->saved[1]), data(n->saved[0]), &m,
                        is_rms(n), n->scratch, x->size / last(x), last(x));
}

static const wm_op layer_norm = {
    "layer_norm", "x weight? bias? eps:f=1e-5",
    "(x - mean) / sqrt(var + eps) * weight + bias over the last axis.  x (..., C), weight and bias (C,)\n"
    "(Ba et al. 2016, arXiv:1607.06450).",
    infer_affine, norm_forward, norm_backward, NULL};

static const wm_op rms_norm = {
    "rms_norm", "x weight? eps:f=1e-6",
    "x / sqrt(mean(x^2) + eps) * weight over the last axis.  x (..., C), weight (C,) (Zhang and Sennrich 2019,\n"
    "arXiv:1910.07467).",
    infer_affine, norm_forward, norm_backward, NULL};

static const wm_op adaln = {
    "adaln", "x scale shift? scale_chunk:i=0 shift_chunk:i=0 kind:e=layer|rms eps:f=1e-6",
    "norm(x) * (1 + scale) + shift over the last axis; norm without parameters of its own (Peebles and Xie 2023,\n"
    "arXiv:2212.09748).  x (..., C).  scale and shift (G..., m C), m chunks of C numbers of which scale_chunk and\n"
    "shift_chunk are taken (the same tensor may be given twice); each of their G rows serves R / G consecutive of the R\n"
    "rows of x: one a sample, a frame or a token.",
    infer_adaln, norm_forward, norm_backward, NULL};

/* ---- gated residual ----------------------------------------------------------------------------- */

static wm_modulation gate_of(const wm_node *n) {
    const wm_tensor *gate = n->in[2];
    int64_t C = last(n->in[0]), G = gate->size / last(gate);
    return (wm_modulation){.factor = gate->data + n->attr[0].i * C, .rows = n->in[0]->size / C / G, .step_factor = last(gate)};
}

static int infer_gate(wm_node *n) {
    const wm_tensor *residual = n->in[0], *x = n->in[1];
    bool same = residual->ndim == x->ndim;
    for (int i = 0; same && i < x->ndim; i++) same = residual->shape[i] == x->shape[i];
    char want[96], got[96];
    if (!same)
        return wm_fail("gate_residual: x wanted %s, the shape of residual, got %s", wm_shape_text(residual, want, sizeof want),
                       wm_shape_text(x, got, sizeof got));
    if (check_x(n, 1) < 0) return -1;
    int64_t C = last(x), R = x->size / C;
    if (check_condition(n, n->in[2], "gate", n->attr[0].i, R, false) < 0) return -1;
    int64_t rows = gate_of(n).rows, chunks = (rows + NORM_CHUNK - 1) / NORM_CHUNK;
    if (n->needs_grad && chunks > 1) n->scratch_bytes = (size_t)(R / rows * chunks * C) * sizeof(float);
    return wm_out(n, 0, WM_F32, x->ndim, x->shape);
}

static void gate_forward(wm_node *n) {
    wm_modulation m = gate_of(n);
    int64_t C = last(n->in[1]);
    n->k->gate_forward(n->out[0]->data, n->in[0]->data, n->in[1]->data, &m, n->in[1]->size / C, C);
}

static void gate_backward(wm_node *n) {
    wm_modulation m = gate_of(n);
    int64_t C = last(n->in[1]);
    float *dgate = wm_grad(n->in[2]);
    n->k->gate_backward(wm_grad(n->in[0]), wm_grad(n->in[1]), dgate ? dgate + n->attr[0].i * C : NULL, n->out[0]->grad,
                        n->in[1]->data, &m, n->scratch, n->in[1]->size / C, C);
}

static const wm_op gate_residual = {
    "gate_residual", "residual x gate gate_chunk:i=0",
    "residual + gate * x.  residual and x (..., C); gate (G..., m C), m chunks of C numbers of which gate_chunk is taken,\n"
    "each row for R / G consecutive rows of x, as in adaln.",
    infer_gate, gate_forward, gate_backward, NULL};

/* ---- group norm, AdaGN -------------------------------------------------------------------------- */

enum { GROUPS, GROUP_EPS, GROUP_ACT, GROUP_SCALE_CHUNK, GROUP_SHIFT_CHUNK };
static const wm_op ada_group_norm;

static wm_modulation group_modulation(const wm_node *n) {
    const wm_tensor *factor = n->in[1], *term = n->in[2];
    int64_t C = last(n->in[0]);
    if (n->op != &ada_group_norm) return (wm_modulation){.factor = data(factor), .term = data(term), .plus = factor ? 0 : 1};
    return (wm_modulation){.factor = factor->data + n->attr[GROUP_SCALE_CHUNK].i * C, .plus = 1, .step_factor = last(factor),
                           .term = term ? term->data + n->attr[GROUP_SHIFT_CHUNK].i * C : NULL, .step_term = term ? last(term) : 0};
}

static int infer_group(wm_node *n) {
    const wm_tensor *x = n->in[0];
    if (check_x(n, 2) < 0) return -1;
    bool ada = n->op == &ada_group_norm;
    int64_t B = x->shape[0], C = last(x), S = x->size / B / C, groups = n->attr[GROUPS].i;
    if (ada ? check_condition(n, n->in[1], "scale", n->attr[GROUP_SCALE_CHUNK].i, B, true) < 0 ||
                  check_condition(n, n->in[2], "shift", n->attr[GROUP_SHIFT_CHUNK].i, B, true) < 0
            : check_affine(n, 1, "weight") < 0 || check_affine(n, 2, "bias") < 0)
        return -1;
    if (groups < 1 || C % groups)
        return wm_fail("%s: groups wanted a divisor of %lld channels, got %lld", n->op->name, (long long)C, (long long)groups);
    if (!(n->attr[GROUP_EPS].f >= 0)) return wm_fail("%s: eps wanted 0 or more, got %g", n->op->name, n->attr[GROUP_EPS].f);
    int64_t statistics = B * groups;
    n->scratch_bytes = (size_t)(B * n->k->group_norm_scratch(S, C) + 2 * statistics) * sizeof(float);
    if (wm_out(n, 0, WM_F32, x->ndim, x->shape) < 0) return -1;
    return n->needs_grad && (wm_save(n, 0, WM_F32, 1, &statistics) < 0 || wm_save(n, 1, WM_F32, 1, &statistics) < 0) ? -1 : 0;
}

/* Without gradients the statistics stand in front of the scratch. */
static void group_forward(wm_node *n) {
    const wm_tensor *x = n->in[0];
    int64_t B = x->shape[0], C = last(x), groups = n->attr[GROUPS].i;
    wm_modulation m = group_modulation(n);
    float *scratch = n->scratch, *rstd = n->saved[0] ? n->saved[0]->data : scratch;
    float *mean = n->saved[1] ? n->saved[1]->data : scratch + B * groups;
    n->k->group_norm_forward(n->out[0]->data, mean, rstd, x->data, &m, n->attr[GROUP_ACT].i, (float)n->attr[GROUP_EPS].f,
                             scratch + 2 * B * groups, B, x->size / B / C, C, groups);
}

static void group_backward(wm_node *n) {
    wm_tensor *x = n->in[0];
    int64_t B = x->shape[0], C = last(x);
    wm_modulation m = group_modulation(n);
    bool ada = n->op == &ada_group_norm;
    float *dfactor = wm_grad(n->in[1]), *dterm = wm_grad(n->in[2]);
    if (ada && dfactor) dfactor += n->attr[GROUP_SCALE_CHUNK].i * C;
    if (ada && dterm) dterm += n->attr[GROUP_SHIFT_CHUNK].i * C;
    n->k->group_norm_backward(wm_grad(x), dfactor, dterm, n->out[0]->grad, x->data, n->saved[1]->data, n->saved[0]->data, &m,
                              n->attr[GROUP_ACT].i, n->scratch, B, x->size / B / C, C, n->attr[GROUPS].i);
}

static const wm_op group_norm = {
    "group_norm", "x weight? bias? groups:i eps:f=1e-5 act:e=none|silu",
    "act((x - mean) / sqrt(var + eps) * weight + bias), mean and variance over all pixels and the C / groups channels of a\n"
    "group, for each sample.  x (B, ..., C), weight and bias (C,) (Wu and He 2018, arXiv:1803.08494).",
    infer_group, group_forward, group_backward, NULL};

static const wm_op ada_group_norm = {
    "ada_group_norm", "x scale shift? groups:i eps:f=1e-5 act:e=none|silu scale_chunk:i=0 shift_chunk:i=0",
    "act(group_norm(x) * (1 + scale) + shift): group norm without parameters of its own, modulated by a condition\n"
    "(AdaGN; Dhariwal and Nichol 2021, arXiv:2105.05233).  x (B, ..., C), scale and shift (B, m C), chunks as in adaln.",
    infer_group, group_forward, group_backward, NULL};

const wm_op *const wm_ops_norm[] = {&layer_norm, &rms_norm, &adaln, &gate_residual, &group_norm, &ada_group_norm, NULL};
