/* diffuse: noise, conversions among x, eps and v, solver updates, weights and schedules; formulas in kernels/cpu/diffuse.c.

   A level tensor has the leading axes of what it belongs to: (B) for a level a sample, (B,T) for a level a frame of
   (B,T,H,W,C).  Levels carry no gradient.  kind says what a level is: flow tau (1 clean), edm sigma, ddpm alpha_bar. */
#include "../tape/tape.h"

#define KIND "kind:e=flow|edm|ddpm"
#define EDM "sigma_data:f=0.5 offset:f=0"

static int64_t row_size(const wm_tensor *x, const wm_tensor *level) { return x->size / level->size; }

static int level_fits(const wm_node *n, const char *name, const wm_tensor *level, const wm_tensor *x) {
    char wanted[96], text[96];
    bool fits = level->ndim <= x->ndim;
    for (int i = 0; fits && i < level->ndim; i++) fits = level->shape[i] == x->shape[i];
    if (fits) return 0;
    return wm_fail("%s: %s wanted leading axes of %s, got %s", n->op->name, name, wm_shape_text(x, wanted, sizeof wanted),
                   wm_shape_text(level, text, sizeof text));
}

static int like(const wm_node *n, const char *name, const wm_tensor *got, const wm_tensor *as) {
    if (got->ndim != as->ndim) {
        char wanted[96], text[96];
        return wm_fail("%s: %s wanted %s, got %s", n->op->name, name, wm_shape_text(as, wanted, sizeof wanted),
                       wm_shape_text(got, text, sizeof text));
    }
    for (int i = 0; i < as->ndim; i++)
        if (got->shape[i] != as->shape[i])
            return wm_fail("%s: axis %d of %s wanted %lld, got %lld", n->op->name, i, name, (long long)as->shape[i],
                           (long long)got->shape[i]);
    return 0;
}

/* A stream whose samples are whole numbers of levels. */
static int stream_fits(const wm_node *n, const wm_tensor *stream, const wm_tensor *level, const wm_tensor *x) {
    char text[96];
    if (stream->ndim != 2 || stream->shape[1] != 4)
        return wm_fail("%s: stream wanted (samples, 4), got %s", n->op->name, wm_shape_text(stream, text, sizeof text));
    if (level->size % stream->shape[0] || (x->ndim && x->shape[0] % stream->shape[0]))
        return wm_fail("%s: stream has %lld samples, wanted a divisor of the leading axis, %lld, with a level each", n->op->name,
                       (long long)stream->shape[0], (long long)(x->ndim ? x->shape[0] : 1));
    return 0;
}

/* ---- noising ------------------------------------------------------------------------------------------- */

enum { NOISE_KIND, NOISE_SALT, NOISE_OFFSET, NOISE_EPS };

static int noise_infer(wm_node *n, bool frames) {
    wm_tensor *x = n->in[0], *level = n->in[2];
    if (level_fits(n, "level", level, x) < 0 || stream_fits(n, n->in[1], level, x) < 0) return -1;
    int last = 0;
    if (wm_out(n, last++, WM_F32, x->ndim, x->shape) < 0) return -1;
    if (frames && wm_out(n, last++, WM_F32, x->ndim, x->shape) < 0) return -1;
    return n->attr[NOISE_EPS].i ? wm_out(n, last, WM_F32, x->ndim, x->shape) : 0;
}
static int noise_frames_infer(wm_node *n) { return noise_infer(n, true); }
static int noise_floats_infer(wm_node *n) { return noise_infer(n, false); }

static void noise_frames_forward(wm_node *n) {
    wm_tensor *x = n->in[0], *stream = n->in[1], *level = n->in[2];
    int64_t S = stream->shape[0], C = x->ndim ? x->shape[x->ndim - 1] : 1;
    n->k->noise_frames(n->out[0]->data, n->out[1]->data, n->n_out > 2 ? n->out[2]->data : NULL, x->u8, stream->i32, level->data,
                       (int)n->attr[NOISE_KIND].i, (float)n->attr[NOISE_OFFSET].f, (uint32_t)n->attr[NOISE_SALT].i, S,
                       level->size / S, row_size(x, level), C);
}
static void noise_floats_forward(wm_node *n) {
    wm_tensor *x = n->in[0], *stream = n->in[1], *level = n->in[2];
    int64_t S = stream->shape[0], C = x->ndim ? x->shape[x->ndim - 1] : 1;
    n->k->noise_floats(n->out[0]->data, n->n_out > 1 ? n->out[1]->data : NULL, x->data, stream->i32, level->data,
                       (int)n->attr[NOISE_KIND].i, (float)n->attr[NOISE_OFFSET].f, (uint32_t)n->attr[NOISE_SALT].i, S,
                       level->size / S, row_size(x, level), C);
}
static void noise_floats_backward(wm_node *n) {
    wm_tensor *x = n->in[0], *level = n->in[2];
    float *dx = wm_grad(x);
    if (dx) n->k->noise_backward(dx, n->out[0]->grad, level->data, (int)n->attr[NOISE_KIND].i, level->size, row_size(x, level));
}

static const wm_op noise_frames = {"noise_frames", "frames@u8 stream@i32 level " KIND " salt:i=0 offset:f=0 with_eps:b=0 -> noisy clean eps?",
    "uint8 frames (..., C) -> noisy, clean[, eps] float32: clean = frames / 127.5 - 1; noisy = tau clean + (1 - tau) eps (flow), "
    "clean + sigma eps (edm), sqrt(abar) clean + sqrt(1 - abar) eps (ddpm).  level (B) or (B, T); stream (samples, 4).  offset "
    "adds one normal a row of levels and channel, times offset (edm) or offset times the noise's weight.",
    noise_frames_infer, noise_frames_forward, NULL, NULL};
static const wm_op noise_op = {"noise", "x stream@i32 level " KIND " salt:i=0 offset:f=0 with_eps:b=0 -> noisy eps?",
    "float x (..., C), a latent say -> noisy[, eps], as noise_frames does.  The gradient flows from noisy to x.",
    noise_floats_infer, noise_floats_forward, noise_floats_backward, NULL};

/* ---- conversions ------------------------------------------------------------------------------------------ */

enum { CONVERT_KIND, CONVERT_FROM, CONVERT_TO, CONVERT_DATA, CONVERT_OFFSET };

static int convert_infer(wm_node *n) {
    wm_tensor *pred = n->in[0], *level = n->in[2];
    if (like(n, "noisy", n->in[1], pred) < 0 || level_fits(n, "level", level, pred) < 0) return -1;
    n->scratch_bytes = 2 * (size_t)level->size * sizeof(float);
    return wm_out(n, 0, WM_F32, pred->ndim, pred->shape);
}
static float *convert_numbers(wm_node *n) {
    wm_tensor *level = n->in[2];
    float *of = n->scratch;
    n->k->convert_coefficients(of, of + level->size, level->data, (int)n->attr[CONVERT_KIND].i, (int)n->attr[CONVERT_FROM].i,
                               (int)n->attr[CONVERT_TO].i, n->attr[CONVERT_DATA].f, n->attr[CONVERT_OFFSET].f, level->size);
    return of;
}
static void convert_forward(wm_node *n) {
    wm_tensor *pred = n->in[0], *level = n->in[2];
    const float *of = convert_numbers(n);
    n->k->levels_mix(n->out[0]->data, pred->data, n->in[1]->data, of, of + level->size, level->size, row_size(pred, level));
}
static void convert_backward(wm_node *n) {
    wm_tensor *pred = n->in[0], *level = n->in[2];
    const float *of = convert_numbers(n);
    n->k->levels_mix_backward(wm_grad(pred), wm_grad(n->in[1]), n->out[0]->grad, of, of + level->size, level->size,
                              row_size(pred, level));
}
static const wm_op convert = {"convert",
    "pred noisy level " KIND " source:e=x|eps|v target:e=x|eps|v " EDM,
    "What pred, which is `source`, says as `target`: x the clean frame, eps the noise, v = x - eps (flow), a eps - s x (ddpm), or "
    "(edm) the network's F, x = c_skip noisy + c_out F.  Linear in pred and noisy; denominators are kept above 1e-5.",
    convert_infer, convert_forward, convert_backward, NULL};

static int edm_scale_infer(wm_node *n) {
    wm_tensor *x = n->in[0], *sigma = n->in[1];
    if (level_fits(n, "sigma", sigma, x) < 0 || wm_out(n, 0, WM_F32, x->ndim, x->shape) < 0) return -1;
    n->scratch_bytes = 2 * (size_t)sigma->size * sizeof(float);
    return wm_out(n, 1, WM_F32, sigma->ndim, sigma->shape);
}
static void edm_scale_forward(wm_node *n) {
    wm_tensor *x = n->in[0], *sigma = n->in[1];
    float *in = n->scratch;
    n->k->edm_coefficients(in, n->out[1]->data, sigma->data, n->attr[0].f, n->attr[1].f, sigma->size);
    n->k->levels_mix(n->out[0]->data, x->data, NULL, in, NULL, sigma->size, row_size(x, sigma));
}
static void edm_scale_backward(wm_node *n) {
    wm_tensor *x = n->in[0], *sigma = n->in[1];
    float *in = n->scratch;
    n->k->edm_coefficients(in, in + sigma->size, sigma->data, n->attr[0].f, n->attr[1].f, sigma->size);
    n->k->levels_mix_backward(wm_grad(x), NULL, n->out[0]->grad, in, NULL, sigma->size, row_size(x, sigma));
}
static const wm_op edm_scale = {"edm_scale", "x sigma " EDM " -> scaled noise",
    "The EDM network's inputs: c_in x and c_noise = ln(s) / 4, s^2 = sigma^2 + offset^2, c_in = 1 / sqrt(s^2 + sigma_data^2).",
    edm_scale_infer, edm_scale_forward, edm_scale_backward, NULL};

/* ---- solver steps: y pred level next, and what else the op takes --------------------------------------------- */

/* Where an op keeps what a step needs; -1: it has no such thing. */
typedef struct {
    int prev, last, stream;                                          /* inputs */
    int kind, target, eta, salt, clip, bytes, data, offset;          /* attributes */
    bool as_size, clean;                                             /* next is a size; the second output is x^ */
} step_plan;

static wm_tensor *input_or_null(const wm_node *n, int i) { return i < 0 ? NULL : n->in[i]; }
static int64_t whole(const wm_node *n, int i) { return i < 0 ? 0 : n->attr[i].i; }
static double real(const wm_node *n, int i, double otherwise) { return i < 0 ? otherwise : n->attr[i].f; }

static int step_infer(wm_node *n, step_plan p) {
    wm_tensor *y = n->in[0], *level = n->in[2], *prev = input_or_null(n, p.prev), *last = input_or_null(n, p.last);
    wm_tensor *stream = input_or_null(n, p.stream);
    if (like(n, "pred", n->in[1], y) < 0 || level_fits(n, "level", level, y) < 0) return -1;
    if (like(n, p.as_size ? "size" : "next", n->in[3], level) < 0) return -1;
    if (!prev != !last) return wm_fail("%s: prev and last come together", n->op->name);
    if (prev && (like(n, "prev", prev, y) < 0 || like(n, "last", last, level) < 0)) return -1;
    if (stream && stream_fits(n, stream, level, y) < 0) return -1;
    if (!stream && real(n, p.eta, 0) > 0) return wm_fail("%s: eta %g draws noise, wanted a stream", n->op->name, real(n, p.eta, 0));
    n->scratch_bytes = 6 * (size_t)level->size * sizeof(float);
    if (wm_out(n, 0, WM_F32, y->ndim, y->shape) < 0) return -1;
    return p.clean ? wm_out(n, 1, WM_F32, y->ndim, y->shape) : 0;
}

static const float *step_numbers(wm_node *n, step_plan p) {
    wm_tensor *level = n->in[2], *last = input_or_null(n, p.last);
    enum { FLOW, EDM_KIND, DDPM };
    int kind = p.as_size ? FLOW : p.kind < 0 ? DDPM : (int)whole(n, p.kind);
    n->k->step_coefficients(n->scratch, level->data, n->in[3]->data, last ? last->data : NULL, kind, (int)whole(n, p.target),
                            p.as_size, real(n, p.eta, 0), real(n, p.data, 0.5), real(n, p.offset, 0),
                            level->size);
    return n->scratch;
}

static void step_forward(wm_node *n, step_plan p) {
    wm_tensor *y = n->in[0], *level = n->in[2], *prev = input_or_null(n, p.prev), *stream = input_or_null(n, p.stream);
    int64_t S = stream ? stream->shape[0] : 1;
    bool draws = stream && real(n, p.eta, 0) > 0;
    n->k->step_forward(n->out[0]->data, p.clean ? n->out[1]->data : NULL, y->data, n->in[1]->data, prev ? prev->data : NULL,
                       draws ? stream->i32 : NULL, step_numbers(n, p), (float)real(n, p.clip, 0), (int)whole(n, p.bytes),
                       (uint32_t)whole(n, p.salt), S, level->size / S, row_size(y, level));
}

static void step_backward(wm_node *n, step_plan p) {
    wm_tensor *y = n->in[0], *level = n->in[2];
    n->k->step_backward(wm_grad(y), wm_grad(n->in[1]), wm_grad(input_or_null(n, p.prev)), n->out[0]->grad,
                        p.clean ? n->out[1]->grad : NULL, y->data, n->in[1]->data, step_numbers(n, p), (float)real(n, p.clip, 0),
                        level->size, row_size(y, level));
}

#define STEP(name)                                                                     \
    static int name##_infer(wm_node *n) { return step_infer(n, name##_plan); }        \
    static void name##_forward(wm_node *n) { step_forward(n, name##_plan); }          \
    static void name##_backward(wm_node *n) { step_backward(n, name##_plan); }

static const step_plan euler_plan = {.prev = -1, .last = -1, .stream = -1, .kind = 0, .target = 1, .eta = -1, .salt = -1, .clip = 2,
                                     .bytes = 3, .data = 4, .offset = 5};
STEP(euler)
static const wm_op euler_step = {"euler_step", "y pred level next " KIND " target:e=x|eps|v clip:f=0 bytes:b=0 " EDM,
    "One deterministic step from level to next, (B) or (B, T) each: the Euler step of flow and edm, DDIM with eta 0 of ddpm.  "
    "out = a' x^ + s' e^ with x^ what pred (a `target`) says of the clean frame, kept in [-clip, clip] if clip > 0 and cut to "
    "bytes toward -1 if asked (DIAMOND).  A row whose level does not change is copied.",
    euler_infer, euler_forward, euler_backward, NULL};

static const step_plan ddim_plan = {.prev = -1, .last = -1, .stream = 4, .kind = -1, .target = 0, .eta = 1, .salt = 3, .clip = 2,
                                    .bytes = -1, .data = -1, .offset = -1};
STEP(ddim)
static const wm_op ddim_step = {"ddim_step", "y pred level next stream@i32? target:e=x|eps|v eta:f=0 clip:f=0 salt:i=0",
    "DDIM (Song et al., arXiv 2010.02502) from alpha_bar level to next; eta 1 is DDPM's ancestral step and needs a stream.",
    ddim_infer, ddim_forward, ddim_backward, NULL};

static const step_plan ancestral_plan = {.prev = -1, .last = -1, .stream = 4, .kind = 0, .target = 1, .eta = 2, .salt = 3, .clip = 4,
                                         .bytes = 5, .data = 6, .offset = 7};
STEP(ancestral)
static const wm_op ancestral_step = {"ancestral_step",
    "y pred level next stream@i32 " KIND " target:e=x|eps|v eta:f=1 salt:i=0 clip:f=0 bytes:b=0 " EDM,
    "Ancestral Euler step: a step too far down, then noise back up, eta of it (k-diffusion's, and for ddpm DDIM's, formula).",
    ancestral_infer, ancestral_forward, ancestral_backward, NULL};

static const step_plan multistep_plan = {.prev = 4, .last = 5, .stream = -1, .kind = 0, .target = 1, .eta = -1, .salt = -1, .clip = 2,
                                         .bytes = -1, .data = 3, .offset = 4, .clean = true};
STEP(multistep)
static const wm_op multistep = {"dpmpp_2m_step", "y pred level next prev? last? " KIND " target:e=x|eps|v clip:f=0 " EDM " -> out clean",
    "DPM-Solver++(2M) (Lu et al., arXiv 2211.01095) -> out, x^.  The step after this one takes x^ as prev and level as last; "
    "without them, and where a row ends clean, the step is of first order.",
    multistep_infer, multistep_forward, multistep_backward, NULL};

static const step_plan shortcut_plan = {.prev = -1, .last = -1, .stream = -1, .kind = -1, .target = 0, .eta = -1, .salt = -1,
                                        .clip = 1, .bytes = -1, .data = -1, .offset = -1, .as_size = true};
STEP(shortcut)
static const wm_op shortcut_step = {"shortcut_step", "y pred level size target:e=x|eps|v clip:f=0",
    "The flow step y + size v from tau = level to min(level + size, 1) of a network that knows its step size (Frans et al., "
    "arXiv 2410.12557).", shortcut_infer, shortcut_forward, shortcut_backward, NULL};

/* ---- two evaluations: Heun, the shortcut target ------------------------------------------------------------------ */

enum { PAIR_HEUN, PAIR_SHORTCUT };

static int pair_infer(wm_node *n) {
    wm_tensor *y = n->in[0], *level = n->in[4];
    if (like(n, "pred", n->in[1], y) < 0 || like(n, "y_next", n->in[2], y) < 0 || like(n, "pred_next", n->in[3], y) < 0) return -1;
    if (level_fits(n, "level", level, y) < 0 || like(n, "next", n->in[5], level) < 0) return -1;
    n->scratch_bytes = 4 * (size_t)level->size * sizeof(float);
    return wm_out(n, 0, WM_F32, y->ndim, y->shape);
}
static const float *pair_numbers(wm_node *n, int mode) {
    wm_tensor *level = n->in[4];
    int heun = mode == PAIR_HEUN;
    n->k->heun_coefficients(n->scratch, level->data, n->in[5]->data, heun ? (int)n->attr[0].i : 0, (int)n->attr[heun].i, mode,
                            heun ? n->attr[2].f : 0.5, heun ? n->attr[3].f : 0, level->size);
    return n->scratch;
}
static void pair_forward(wm_node *n, int mode) {
    wm_tensor *y = n->in[0], *level = n->in[4];
    n->k->heun_forward(n->out[0]->data, y->data, n->in[1]->data, n->in[2]->data, n->in[3]->data, pair_numbers(n, mode),
                       level->size, row_size(y, level));
}
static void pair_backward(wm_node *n, int mode) {
    wm_tensor *y = n->in[0], *level = n->in[4];
    n->k->heun_backward(wm_grad(y), wm_grad(n->in[1]), wm_grad(n->in[2]), wm_grad(n->in[3]), n->out[0]->grad,
                        pair_numbers(n, mode), level->size, row_size(y, level));
}
static void heun_forward(wm_node *n) { pair_forward(n, PAIR_HEUN); }
static void heun_backward(wm_node *n) { pair_backward(n, PAIR_HEUN); }
static const wm_op heun_step = {"heun_step", "y pred y_next pred_next level next " KIND " target:e=x|eps|v " EDM,
    "Heun's correction: y_next is euler_step(y, pred), pred_next what the network says there, at next; the step is taken again "
    "with the mean of both slopes.  A row that ends clean keeps y_next.", pair_infer, heun_forward, heun_backward, NULL};

static void target_forward(wm_node *n) { pair_forward(n, PAIR_SHORTCUT); }
static void target_backward(wm_node *n) { pair_backward(n, PAIR_SHORTCUT); }
static const wm_op shortcut_target = {"shortcut_target", "y pred y_next pred_next level next target:e=x|eps|v",
    "The clean frame that one step of twice the size should say, from two small ones: y + (1 - tau) (v + v') / 2, tau = level; "
    "v, v' what pred at level and pred_next at next = level + size say.  The plain squared error against it has the (1 - tau)^2 "
    "weight already (Dreamer 4, arXiv 2509.24527).", pair_infer, target_forward, target_backward, NULL};

/* ---- weights and schedules ----------------------------------------------------------------------------------------- */

static int infer_as_first(wm_node *n) { return wm_out(n, 0, WM_F32, n->in[0]->ndim, n->in[0]->shape); }

static void weight_forward(wm_node *n) {
    wm_tensor *level = n->in[0];
    enum { SIGMOID = 4 };
    int law = (int)n->attr[1].i;
    n->k->level_weights(n->out[0]->data, level->data, (int)n->attr[0].i, law, (int)n->attr[2].i,
                        n->attr[law == SIGMOID ? 4 : 3].f, n->attr[5].f, n->attr[6].f, level->size);
}
static const wm_op loss_weight = {"loss_weight",
    "level " KIND " law:e=ramp|inverse|square|edm|sigmoid|snr target:e=x|eps|v clip:f=5 bias:f=-1 " EDM,
    "A weight a level, tau = a / (a + s): ramp 0.9 tau + 0.1; inverse 1 / (1 - tau)^2; square (1 - tau)^2; edm 1 / c_out^2; "
    "sigmoid(bias - ln SNR) for an eps loss; snr min(SNR, clip) for x, over SNR for eps, over SNR + 1 for v.",
    infer_as_first, weight_forward, NULL, NULL};

static int fused_infer(wm_node *n) {
    if (n->in[0]->ndim < 1) return wm_fail("fused_snr_weight: level wanted (..., frames), got one number");
    return infer_as_first(n);
}
static void fused_forward(wm_node *n) {
    wm_tensor *level = n->in[0];
    int64_t T = level->shape[level->ndim - 1];
    n->k->fused_snr_weights(n->out[0]->data, level->data, (int)n->attr[0].i, (int)n->attr[1].i, n->attr[2].f, n->attr[3].f,
                            level->size / T, T);
}
static const wm_op fused_snr_weight = {"fused_snr_weight", "level " KIND " target:e=x|eps|v clip:f=5 memory:f=0.96",
    "Diffusion Forcing's min-SNR weight, in which the frames before, (..., frames), add to a frame's SNR.",
    fused_infer, fused_forward, NULL, NULL};

static void alpha_bar_forward(wm_node *n) {
    n->k->alpha_bar(n->out[0]->data, n->in[0]->data, (int)n->attr[0].i, n->attr[1].i, n->attr[2].f, n->in[0]->size);
}
static const wm_op alpha_bar = {"alpha_bar", "t law:e=sigmoid|cosine|linear|shifted steps:i=1000 shift:f=1",
    "alpha_bar at t in [0, 1], 0 clean; step i of N is t = (i + 1) / N.  `steps` belongs to linear, `shift` to shifted (cosine).",
    infer_as_first, alpha_bar_forward, NULL, NULL};

static int karras_infer(wm_node *n) {
    int64_t steps = n->attr[0].i, shape[] = {steps + 1};
    if (steps < 1 || steps > 100000) return wm_fail("karras_sigmas: steps wanted in 1 to 100000, got %lld", (long long)steps);
    if (!(n->attr[1].f > 0 && n->attr[2].f > 0 && n->attr[3].f > 0))
        return wm_fail("karras_sigmas: low, high and rho wanted above 0, got %g, %g and %g", n->attr[1].f, n->attr[2].f, n->attr[3].f);
    return wm_out(n, 0, WM_F32, 1, shape);
}
static void karras_forward(wm_node *n) {
    n->k->karras_sigmas(n->out[0]->data, n->attr[1].f, n->attr[2].f, n->attr[3].f, n->attr[0].i);
}
static const wm_op karras_sigmas = {"karras_sigmas", "steps:i=3 low:f=0.002 high:f=5 rho:f=7",
    "steps noise levels from high to low, even in sigma^(1/rho), then 0: (steps + 1) (Karras et al., arXiv 2206.00364).",
    karras_infer, karras_forward, NULL, NULL};

const wm_op *const wm_ops_diffuse[] = {&noise_frames, &noise_op, &convert, &edm_scale, &euler_step, &heun_step, &ddim_step,
                                       &ancestral_step, &multistep, &shortcut_step, &shortcut_target, &loss_weight,
                                       &fused_snr_weight, &alpha_bar, &karras_sigmas, NULL};
