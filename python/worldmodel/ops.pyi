"""Stubs of the ops, written from their specs by `python -m worldmodel.stubs`: do not edit."""

from collections.abc import Sequence
from typing import Literal

from .tensor import Tensor

__all__ = [
    "abs",
    "ada_group_norm",
    "adaln",
    "add",
    "alpha_bar",
    "ancestral_step",
    "argmax",
    "atanh",
    "attention",
    "attention_cached",
    "attention_qkv",
    "axial_positions",
    "bernoulli",
    "binary_cross_entropy_with_logits",
    "cache_write",
    "cast",
    "categorical",
    "categorical_entropy",
    "categorical_log_prob",
    "clamp",
    "concat",
    "conv2d",
    "convert",
    "cos",
    "cosine_loss",
    "cross_entropy",
    "cumsum",
    "ddim_step",
    "div",
    "dpmpp_2m_step",
    "dropout",
    "edm_scale",
    "elu",
    "embedding",
    "equal",
    "erf",
    "euler_step",
    "exp",
    "expand",
    "expm1",
    "flip",
    "fourier",
    "frames_float",
    "frames_u8",
    "fused_snr_weight",
    "gate_residual",
    "gather",
    "gaussian_entropy",
    "gaussian_log_prob",
    "gaussian_sample",
    "gelu",
    "gelu_erf",
    "gelu_tanh",
    "greater",
    "greater_equal",
    "group_norm",
    "gru",
    "gru_cell",
    "heun_step",
    "huber",
    "index_select",
    "integers",
    "karras_sigmas",
    "kl_categorical",
    "kl_gaussian",
    "layer_norm",
    "leaky_relu",
    "less",
    "less_equal",
    "linear",
    "linear_gated",
    "log",
    "log1p",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "loss_weight",
    "lstm",
    "lstm_cell",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mish",
    "mse",
    "mul",
    "neg",
    "noise",
    "noise_frames",
    "normal",
    "not_equal",
    "one_hot",
    "onehot_sample",
    "pad",
    "patchify",
    "permute",
    "pow",
    "qk_norm_rotary",
    "qkv_norm_rotary",
    "reciprocal",
    "relu",
    "repeat",
    "reshape",
    "resize",
    "reverse_scan",
    "rms_norm",
    "roll",
    "rotary_table",
    "rsqrt",
    "scale_shift",
    "scatter_add",
    "shortcut_step",
    "shortcut_target",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sinusoidal",
    "slice",
    "smooth_l1",
    "softmax",
    "softplus",
    "sqrt",
    "square",
    "stack",
    "stop_gradient",
    "stream_advance",
    "sub",
    "sum",
    "swiglu",
    "symexp",
    "symlog",
    "take_along",
    "tanh",
    "tanh_gaussian_log_prob",
    "tanh_gaussian_sample",
    "tile",
    "two_hot",
    "two_hot_bins",
    "two_hot_loss",
    "two_hot_mean",
    "uniform",
    "unimix",
    "unpatchify",
    "var",
    "where",
]


def abs(x: Tensor) -> Tensor:
    """|x|; slope 0 at 0."""
    ...


def ada_group_norm(x: Tensor, scale: Tensor, shift: Tensor | None = None, groups: int = ..., eps: float = 1e-5, act: Literal['none', 'silu'] = 'none', scale_chunk: int = 0, shift_chunk: int = 0) -> Tensor:
    """act(group_norm(x) * (1 + scale) + shift): group norm without parameters of its own, modulated by a condition
    (AdaGN; Dhariwal and Nichol 2021, arXiv:2105.05233).  x (B, ..., C), scale and shift (B, m C), chunks as in adaln."""
    ...


def adaln(x: Tensor, scale: Tensor, shift: Tensor | None = None, scale_chunk: int = 0, shift_chunk: int = 0, kind: Literal['layer', 'rms'] = 'layer', eps: float = 1e-6) -> Tensor:
    """norm(x) * (1 + scale) + shift over the last axis; norm without parameters of its own (Peebles and Xie 2023,
    arXiv:2212.09748).  x (..., C).  scale and shift (G..., m C), m chunks of C numbers of which scale_chunk and
    shift_chunk are taken (the same tensor may be given twice); each of their G rows serves R / G consecutive of the R
    rows of x: one a sample, a frame or a token."""
    ...


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b; shapes broadcast."""
    ...


def alpha_bar(t: Tensor, law: Literal['sigmoid', 'cosine', 'linear', 'shifted'] = 'sigmoid', steps: int = 1000, shift: float = 1) -> Tensor:
    """alpha_bar at t in [0, 1], 0 clean; step i of N is t = (i + 1) / N.  `steps` belongs to linear, `shift` to shifted (cosine)."""
    ...


def ancestral_step(y: Tensor, pred: Tensor, level: Tensor, next: Tensor, stream: Tensor, kind: Literal['flow', 'edm', 'ddpm'] = 'flow', target: Literal['x', 'eps', 'v'] = 'x', eta: float = 1, salt: int = 0, clip: float = 0, bytes: bool = False, sigma_data: float = 0.5, offset: float = 0) -> Tensor:
    """Ancestral Euler step: a step too far down, then noise back up, eta of it (k-diffusion's, and for ddpm DDIM's, formula)."""
    ...


def argmax(x: Tensor, axis: int = -1, keepdims: bool = False, smallest: bool = False) -> Tensor:
    """Index (int32) of the first largest number along an axis, of the first NaN if there is one; of the smallest if asked."""
    ...


def atanh(x: Tensor) -> Tensor:
    """the inverse of tanh, (log1p(x) - log1p(-x)) / 2."""
    ...


def attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, heads: int = ..., kv_heads: int = 0, mask: Literal['full', 'causal', 'window', 'frame_causal'] = 'full', window: int = 0, frame: int = 0, scale: float = 0, axis: int = -2) -> Tensor:
    """softmax(scale q k^T) v for each head, over the sequence axis (Vaswani et al. 2017; streaming: Dao et al. 2022).
    q (..., Nq, ..., heads D), k and v (..., Nk, ..., kv_heads D): heads are column blocks; any D up to 512; scale 0 is
    1/sqrt(D).  mask: causal and window (the latest `window` keys) align the last query with the last key;
    frame_causal lets a token see all tokens of its own frame (`frame` tokens) and of those before it (the latest
    `window` frames, 0: all).  lengths: keys that count in each sample.  A query that sees no key gives 0."""
    ...


def attention_cached(q: Tensor, k_cache: Tensor, v_cache: Tensor, position: Tensor, cos: Tensor | None = None, sin: Tensor | None = None, pages: Tensor | None = None, heads: int = ..., kv_heads: int = 0, sinks: int = 0, scale: float = 0, over: Literal['time', 'all'] = 'time', pairs: Literal['half', 'interleaved'] = 'half') -> Tensor:
    """Attention of the latest F frames, q (B, F, N, heads D), over caches (B, sinks + ring, N, kv_heads D) that cache_write
    has filled up to frame position[b], read where they lie; causal over frames.  over=time: a token sees the same token
    of other frames; over=all: all tokens of them.  cos, sin (sinks + ring, pairs): q and the keys, stored unrotated,
    are turned as they are read, by their place among the cached frames (StreamingLLM, Xiao et al. 2024), so that a
    stream has no largest length.  pages: see cache_write.  The same bits as attention over all frames while none was evicted.  No gradient."""
    ...


def attention_qkv(qkv: Tensor, q: Tensor | None = None, k: Tensor | None = None, lengths: Tensor | None = None, heads: int = ..., kv_heads: int = 0, mask: Literal['full', 'causal', 'window', 'frame_causal'] = 'full', window: int = 0, frame: int = 0, scale: float = 0, axis: int = -2) -> Tensor:
    """attention over rows that hold q, k and v side by side: qkv (..., N, ..., (heads + 2 kv_heads) D), as one linear layer
    makes them.  q (..., heads D) and k (..., kv_heads D), if given, take the place of those in qkv (see
    qkv_norm_rotary); v is always read from qkv.  The rest as in attention."""
    ...


def axial_positions(height: int, width: int, dim: int, max_period: float = 10000) -> Tensor:
    """Positions on a grid, out (height*width, dim): sin, cos of the row, then sin, cos of the column, dim/4 scales each."""
    ...


def bernoulli(p: Tensor, stream: Tensor, salt: int = 0) -> Tensor:
    """1.0 with probability p, else 0.0; the shape of p.  No gradient."""
    ...


def binary_cross_entropy_with_logits(logits: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Literal['mean', 'sum'] = 'mean', keep: int = 0) -> Tensor:
    """- t ln sigmoid(x) - (1 - t) ln sigmoid(-x), t in [0, 1], as max(x, 0) - x t + log1p(e^-|x|); weighted and reduced as mse.
    No gradient reaches target."""
    ...


def cache_write(cache: Tensor, frames: Tensor, position: Tensor, pages: Tensor | None = None, sinks: int = 0) -> Tensor:
    """Writes frames (B, F, ...) into cache (B, sinks + ring, ...), in place, and gives the cache.  The last of the F frames
    is frame position[b] of sample b's stream (counted from 0); frame p lies in slot p if p < sinks, else in slot
    sinks + (p - sinks) % ring.  Frames before 0 are padding and are not written, so samples may have any lengths.
    pages (B, sinks + ring): the place of each slot among all B (sinks + ring) frames of the cache, so that samples may
    share frames; two must not write into one.  No gradient."""
    ...


def cast(x: Tensor, to: Literal['float32', 'bfloat16', 'uint8', 'int32'] = 'float32') -> Tensor:
    """The same numbers as another dtype.  To bfloat16, uint8 and int32 rounds to nearest even; uint8 and int32 saturate, NaN becomes 0.  Gradients pass between float32 and bfloat16 only."""
    ...


def categorical(logits: Tensor, stream: Tensor, salt: int = 0) -> Tensor:
    """One class a row, int32, drawn from softmax(logits) by its inverse distribution function; logits (..., classes), a class of logit -inf is never drawn.  No gradient."""
    ...


def categorical_entropy(logits: Tensor) -> Tensor:
    """- sum p ln p of p = softmax(logits) over the last axis, in nats; a probability of 0 adds 0."""
    ...


def categorical_log_prob(logits: Tensor, index: Tensor) -> Tensor:
    """ln softmax(logits)[index] over the last axis, one number a row."""
    ...


def clamp(x: Tensor, lo: float = -1e999, hi: float = 1e999) -> Tensor:
    """x, but at least lo and at most hi; slope 0 outside."""
    ...


def concat(*xs: Tensor, axis: int = 0) -> Tensor:
    """Tensors one behind the other along an axis that they have."""
    ...


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, stride: int = 1, padding: int = -1, act: Literal['none', 'silu', 'relu'] = 'none', upsample: int = 1) -> Tensor:
    """act(sum over i, j, c of x[..., stride y - padding + i, stride x - padding + j, c] weight[o, i, j, c] + bias[o]) + residual,
    channels last, zeros outside x.  x (..., H, W, C), weight (O, kh, kw, C), bias (O,), result and residual (..., OH, OW, O)
    with OH = (H upsample + 2 padding - kh) // stride + 1.  padding -1 keeps the size at stride 1 (odd kernels).
    upsample repeats every pixel of x so many times in both directions first (nearest neighbour).
    3x3 kernels of stride 1 over 32 channels or more run by Winograd's F(4x4,3x3) (Lavin and Gray 2015,
    arXiv:1509.09308), others directly."""
    ...


def convert(pred: Tensor, noisy: Tensor, level: Tensor, kind: Literal['flow', 'edm', 'ddpm'] = 'flow', source: Literal['x', 'eps', 'v'] = 'x', target: Literal['x', 'eps', 'v'] = 'x', sigma_data: float = 0.5, offset: float = 0) -> Tensor:
    """What pred, which is `source`, says as `target`: x the clean frame, eps the noise, v = x - eps (flow), a eps - s x (ddpm), or (edm) the network's F, x = c_skip noisy + c_out F.  Linear in pred and noisy; denominators are kept above 1e-5."""
    ...


def cos(x: Tensor) -> Tensor:
    """cosine of radians."""
    ...


def cosine_loss(pred: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Literal['mean', 'sum'] = 'mean', keep: int = 0) -> Tensor:
    """1 - cosine of pred and target over the last axis, |pred| |target| at least 1e-8; weighted and reduced over rows."""
    ...


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Literal['mean', 'sum'] = 'mean', keep: int = 0, smoothing: float = 0) -> Tensor:
    """- sum t ln softmax(logits) over the last axis; target: int32 indices, or probabilities of the shape of logits, which get
    no gradient.  t = (1 - smoothing) target + smoothing / C.  Weighted and reduced over rows."""
    ...


def cumsum(x: Tensor, axis: int = -1) -> Tensor:
    """Running sum along an axis, kept in double."""
    ...


def ddim_step(y: Tensor, pred: Tensor, level: Tensor, next: Tensor, stream: Tensor | None = None, target: Literal['x', 'eps', 'v'] = 'x', eta: float = 0, clip: float = 0, salt: int = 0) -> Tensor:
    """DDIM (Song et al., arXiv 2010.02502) from alpha_bar level to next; eta 1 is DDPM's ancestral step and needs a stream."""
    ...


def div(a: Tensor, b: Tensor) -> Tensor:
    """a / b; shapes broadcast."""
    ...


def dpmpp_2m_step(y: Tensor, pred: Tensor, level: Tensor, next: Tensor, prev: Tensor | None = None, last: Tensor | None = None, kind: Literal['flow', 'edm', 'ddpm'] = 'flow', target: Literal['x', 'eps', 'v'] = 'x', clip: float = 0, sigma_data: float = 0.5, offset: float = 0) -> tuple[Tensor, Tensor]:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095) -> out, x^.  The step after this one takes x^ as prev and level as last; without them, and where a row ends clean, the step is of first order."""
    ...


def dropout(x: Tensor, stream: Tensor, salt: int = 0, p: float = 0.1) -> Tensor:
    """x / (1 - p) with probability 1 - p, else 0."""
    ...


def edm_scale(x: Tensor, sigma: Tensor, sigma_data: float = 0.5, offset: float = 0) -> tuple[Tensor, Tensor]:
    """The EDM network's inputs: c_in x and c_noise = ln(s) / 4, s^2 = sigma^2 + offset^2, c_in = 1 / sqrt(s^2 + sigma_data^2)."""
    ...


def elu(x: Tensor, alpha: float = 1) -> Tensor:
    """x, alpha (e ** x - 1) below 0."""
    ...


def embedding(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table (N,C): out (...,C) = table[index].  The gradient of a row is summed in the order of the indices."""
    ...


def equal(a: Tensor, b: Tensor) -> Tensor:
    """1 where a == b, else 0, as uint8; shapes broadcast."""
    ...


def erf(x: Tensor) -> Tensor:
    """2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    ...


def euler_step(y: Tensor, pred: Tensor, level: Tensor, next: Tensor, kind: Literal['flow', 'edm', 'ddpm'] = 'flow', target: Literal['x', 'eps', 'v'] = 'x', clip: float = 0, bytes: bool = False, sigma_data: float = 0.5, offset: float = 0) -> Tensor:
    """One deterministic step from level to next, (B) or (B, T) each: the Euler step of flow and edm, DDIM with eta 0 of ddpm.  out = a' x^ + s' e^ with x^ what pred (a `target`) says of the clean frame, kept in [-clip, clip] if clip > 0 and cut to bytes toward -1 if asked (DIAMOND).  A row whose level does not change is copied."""
    ...


def exp(x: Tensor) -> Tensor:
    """e ** x."""
    ...


def expand(x: Tensor, shape: Sequence[int] | int) -> Tensor:
    """x repeated into a larger shape by NumPy's broadcasting; -1 keeps a length."""
    ...


def expm1(x: Tensor) -> Tensor:
    """e ** x - 1, exact near 0."""
    ...


def flip(x: Tensor, axes: Sequence[int] | int = ()) -> Tensor:
    """The axes, all if none is named, read from their ends."""
    ...


def fourier(t: Tensor, weight: Tensor) -> Tensor:
    """out (...,2D) = cos, sin of 2 pi t weight, weight (D): random Fourier features (Tancik et al. 2020, Karras et al. 2022)."""
    ...


def frames_float(frames: Tensor, low: float = -1, high: float = 1) -> Tensor:
    """low + (high - low) frames / 255, float32."""
    ...


def frames_u8(x: Tensor, low: float = -1, high: float = 1, truncate: bool = False) -> Tensor:
    """255 (x - low) / (high - low) as uint8: the nearest, half to even, or cut toward 0 with truncate (as DIAMOND does); NaN is 0, what lies outside [low, high] the nearer end.  No gradient."""
    ...


def fused_snr_weight(level: Tensor, kind: Literal['flow', 'edm', 'ddpm'] = 'flow', target: Literal['x', 'eps', 'v'] = 'x', clip: float = 5, memory: float = 0.96) -> Tensor:
    """Diffusion Forcing's min-SNR weight, in which the frames before, (..., frames), add to a frame's SNR."""
    ...


def gate_residual(residual: Tensor, x: Tensor, gate: Tensor, gate_chunk: int = 0) -> Tensor:
    """residual + gate * x.  residual and x (..., C); gate (G..., m C), m chunks of C numbers of which gate_chunk is taken,
    each row for R / G consecutive rows of x, as in adaln."""
    ...


def gather(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """Entries of x along an axis: the axis is replaced by the shape of index, as in numpy.take."""
    ...


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy in nats of N(., e^log_std), summed over the last axis: log_std + ln(2 pi e) / 2."""
    ...


def gaussian_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """ln N(x; mean, e^log_std), summed over the last axis: - z^2 / 2 - log_std - ln(2 pi) / 2, z = (x - mean) e^-log_std."""
    ...


def gaussian_sample(mean: Tensor, log_std: Tensor, stream: Tensor, salt: int = 0) -> Tensor:
    """mean + exp(log_std) e, e ~ N(0, 1); gradients flow to mean and log_std."""
    ...


def gelu(x: Tensor, form: Literal['tanh', 'erf'] = 'tanh') -> Tensor:
    """x P(X <= x) for a standard normal X, by its tanh form or exactly (Hendrycks & Gimpel 2016)."""
    ...


def gelu_erf(x: Tensor) -> Tensor:
    """x * (1 + erf(x / sqrt 2)) / 2: GELU (Hendrycks & Gimpel 2016)."""
    ...


def gelu_tanh(x: Tensor) -> Tensor:
    """x * sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3): GELU's tanh form (Hendrycks & Gimpel 2016)."""
    ...


def greater(a: Tensor, b: Tensor) -> Tensor:
    """1 where a > b, else 0, as uint8; shapes broadcast."""
    ...


def greater_equal(a: Tensor, b: Tensor) -> Tensor:
    """1 where a >= b, else 0, as uint8; shapes broadcast."""
    ...


def group_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, groups: int = ..., eps: float = 1e-5, act: Literal['none', 'silu'] = 'none') -> Tensor:
    """act((x - mean) / sqrt(var + eps) * weight + bias), mean and variance over all pixels and the C / groups channels of a
    group, for each sample.  x (B, ..., C), weight and bias (C,) (Wu and He 2018, arXiv:1803.08494)."""
    ...


def gru(x: Tensor, weight: Tensor, bias: Tensor | None = None, h0: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x (B, T, 3H), the input's share of the gates -> out (B, T, H), h (B, H): u = weight h + bias;  r, z = sigmoid(x + u);  n = tanh(x_n + r u_n);  h' = (1 - z) n + z h (Cho et al. 2014, as torch.nn.GRU).  weight (3H, H), bias (3H,); h0 (B, H), zeros if absent.  A step whose reset (B, T) is not 0 begins from zeros."""
    ...


def gru_cell(x: Tensor, weight: Tensor, bias: Tensor | None = None, h0: Tensor | None = None, reset: Tensor | None = None) -> Tensor:
    """One step: x (B, 3H) -> h (B, H): u = weight h + bias;  r, z = sigmoid(x + u);  n = tanh(x_n + r u_n);  h' = (1 - z) n + z h (Cho et al. 2014, as torch.nn.GRU).  weight (3H, H), bias (3H,); h0 (B, H), zeros if absent.  reset (B,)."""
    ...


def heun_step(y: Tensor, pred: Tensor, y_next: Tensor, pred_next: Tensor, level: Tensor, next: Tensor, kind: Literal['flow', 'edm', 'ddpm'] = 'flow', target: Literal['x', 'eps', 'v'] = 'x', sigma_data: float = 0.5, offset: float = 0) -> Tensor:
    """Heun's correction: y_next is euler_step(y, pred), pred_next what the network says there, at next; the step is taken again with the mean of both slopes.  A row that ends clean keeps y_next."""
    ...


def huber(pred: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Literal['mean', 'sum'] = 'mean', keep: int = 0, delta: float = 1) -> Tensor:
    """d^2 / 2 for |d| <= delta, else delta (|d| - delta / 2), d = pred - target (Huber 1964); weighted and reduced as mse."""
    ...


def index_select(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """Entries of x along an axis, by a list of indices."""
    ...


def integers(stream: Tensor, salt: int = 0, low: int = 0, high: int = 2, shape: Sequence[int] | int = ...) -> Tensor:
    """int32 in [low, high), each equally likely up to (high - low) / 2^32; shape (samples * rows, ...)."""
    ...


def karras_sigmas(steps: int = 3, low: float = 0.002, high: float = 5, rho: float = 7) -> Tensor:
    """steps noise levels from high to low, even in sigma^(1/rho), then 0: (steps + 1) (Karras et al., arXiv 2206.00364)."""
    ...


def kl_categorical(p: Tensor, q: Tensor, weight: Tensor | None = None, reduction: Literal['mean', 'sum'] = 'mean', keep: int = 0, free: float = 0, axes: int = 1) -> Tensor:
    """KL(softmax p || softmax q), p and q logits: over the last axis, summed over the axes - 1 before it, held at free nats or
    more (no gradient below; DreamerV3, arXiv 2301.04104); weighted and reduced over the axes left."""
    ...


def kl_gaussian(mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor | None = None, log_std_q: Tensor | None = None, weight: Tensor | None = None, reduction: Literal['mean', 'sum'] = 'mean', keep: int = 0) -> Tensor:
    """KL(N_p || N_q) of diagonal normals, summed over the last axis; q is N(0, 1) where absent.  With a = log_std_p - log_std_q:
    (e^2a - 1) / 2 - a + ((mean_p - mean_q) e^-log_std_q)^2 / 2; weighted and reduced over rows."""
    ...


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis.  x (..., C), weight and bias (C,)
    (Ba et al. 2016, arXiv:1607.06450)."""
    ...


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """x, times slope below 0."""
    ...


def less(a: Tensor, b: Tensor) -> Tensor:
    """1 where a < b, else 0, as uint8; shapes broadcast."""
    ...


def less_equal(a: Tensor, b: Tensor) -> Tensor:
    """1 where a <= b, else 0, as uint8; shapes broadcast."""
    ...


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, act: Literal['none', 'gelu', 'gelu_erf', 'silu'] = 'none', int8: bool = False, bf16: bool = False) -> Tensor:
    """act(x @ weight.T + bias) over the last axis: x (..., K), weight (N, K) float32 or bfloat16, bias (N,) -> (..., N).
    gelu is its tanh form, gelu_erf the exact one (Hendrycks & Gimpel 2016); silu is v * sigmoid(v).
    int8: weight is rounded to int8 once, one scale a row, and x, one scale a row; no gradients.
    bf16: weight is rounded to bfloat16 once, and x where the processor multiplies bfloat16; float32 sums; no gradients."""
    ...


def linear_gated(x: Tensor, weight: Tensor, bias: Tensor | None = None, gate: Tensor = ..., residual: Tensor = ..., int8: bool = False, bf16: bool = False) -> Tensor:
    """residual + gate * (x @ weight.T + bias): x (..., K), weight (N, K), bias (N,), residual (..., N) -> (..., N).
    gate (..., N): each of its G rows serves R / G consecutive rows of x: one for all, per sample, per frame or per token
    (the gated residual of AdaLN-Zero, Peebles & Xie 2023)."""
    ...


def log(x: Tensor) -> Tensor:
    """ln x; -inf at 0, NaN below."""
    ...


def log1p(x: Tensor) -> Tensor:
    """ln (1 + x), exact near 0."""
    ...


def log_sigmoid(x: Tensor) -> Tensor:
    """ln sigmoid(x) = -softplus(-x)."""
    ...


def log_softmax(x: Tensor) -> Tensor:
    """x - ln sum e^x over the last axis."""
    ...


def logsumexp(x: Tensor) -> Tensor:
    """ln sum e^x over the last axis, which goes."""
    ...


def loss_weight(level: Tensor, kind: Literal['flow', 'edm', 'ddpm'] = 'flow', law: Literal['ramp', 'inverse', 'square', 'edm', 'sigmoid', 'snr'] = 'ramp', target: Literal['x', 'eps', 'v'] = 'x', clip: float = 5, bias: float = -1, sigma_data: float = 0.5, offset: float = 0) -> Tensor:
    """A weight a level, tau = a / (a + s): ramp 0.9 tau + 0.1; inverse 1 / (1 - tau)^2; square (1 - tau)^2; edm 1 / c_out^2; sigmoid(bias - ln SNR) for an eps loss; snr min(SNR, clip) for x, over SNR for eps, over SNR + 1 for v."""
    ...


def lstm(x: Tensor, weight: Tensor, bias: Tensor | None = None, h0: Tensor | None = None, c0: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, 4H), the input's share of the gates -> out (B, T, H), h (B, H), c (B, H): gates i, f, g, o of x + weight h + bias;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c') (Hochreiter & Schmidhuber 1997, as torch.nn.LSTM).  weight (4H, H), bias (4H,); h0, c0 (B, H), zeros if absent.  A step whose reset (B, T) is not 0 begins from zeros."""
    ...


def lstm_cell(x: Tensor, weight: Tensor, bias: Tensor | None = None, h0: Tensor | None = None, c0: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One step: x (B, 4H) -> h (B, H), c (B, H): gates i, f, g, o of x + weight h + bias;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c') (Hochreiter & Schmidhuber 1997, as torch.nn.LSTM).  weight (4H, H), bias (4H,); h0, c0 (B, H), zeros if absent.  reset (B,)."""
    ...


def max(x: Tensor, axes: Sequence[int] | int = (), keepdims: bool = False) -> Tensor:
    """Largest number over the axes, all if none is named; NaN if there is one.  The first largest receives the gradient."""
    ...


def maximum(a: Tensor, b: Tensor) -> Tensor:
    """The larger of a and b, NaN if there is one; equal ones share the gradient; shapes broadcast."""
    ...


def mean(x: Tensor, axes: Sequence[int] | int = (), keepdims: bool = False) -> Tensor:
    """Mean over the axes, all if none is named; pairwise, in a fixed order."""
    ...


def min(x: Tensor, axes: Sequence[int] | int = (), keepdims: bool = False) -> Tensor:
    """Smallest number over the axes, all if none is named; NaN if there is one.  The first smallest receives the gradient."""
    ...


def minimum(a: Tensor, b: Tensor) -> Tensor:
    """The smaller of a and b, NaN if there is one; equal ones share the gradient; shapes broadcast."""
    ...


def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x)) (Misra 2019)."""
    ...


def mse(pred: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Literal['mean', 'sum'] = 'mean', keep: int = 0) -> Tensor:
    """weight (pred - target)^2, averaged or summed over all axes but the first keep; weight has leading axes of pred."""
    ...


def mul(a: Tensor, b: Tensor) -> Tensor:
    """a * b; shapes broadcast."""
    ...


def neg(x: Tensor) -> Tensor:
    """-x."""
    ...


def noise(x: Tensor, stream: Tensor, level: Tensor, kind: Literal['flow', 'edm', 'ddpm'] = 'flow', salt: int = 0, offset: float = 0, with_eps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """float x (..., C), a latent say -> noisy[, eps], as noise_frames does.  The gradient flows from noisy to x."""
    ...


def noise_frames(frames: Tensor, stream: Tensor, level: Tensor, kind: Literal['flow', 'edm', 'ddpm'] = 'flow', salt: int = 0, offset: float = 0, with_eps: bool = False) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """uint8 frames (..., C) -> noisy, clean[, eps] float32: clean = frames / 127.5 - 1; noisy = tau clean + (1 - tau) eps (flow), clean + sigma eps (edm), sqrt(abar) clean + sqrt(1 - abar) eps (ddpm).  level (B) or (B, T); stream (samples, 4).  offset adds one normal a row of levels and channel, times offset (edm) or offset times the noise's weight."""
    ...


def normal(stream: Tensor, salt: int = 0, mean: float = 0, std: float = 1, shape: Sequence[int] | int = ...) -> Tensor:
    """mean + std e, e ~ N(0, 1) by Box and Muller, |e| < 5.8; shape (samples * rows, ...)."""
    ...


def not_equal(a: Tensor, b: Tensor) -> Tensor:
    """1 where a != b, else 0, as uint8; shapes broadcast."""
    ...


def one_hot(index: Tensor, n: int) -> Tensor:
    """out (...,n): 1 at the index, 0 elsewhere."""
    ...


def onehot_sample(logits: Tensor, stream: Tensor, salt: int = 0, unimix: float = 0) -> Tensor:
    """One-hot draw from (1 - unimix) softmax(logits) + unimix / classes; the gradient passes straight through to those probabilities (Hafner et al., DreamerV3, arXiv 2301.04104, with unimix 0.01).  logits (..., classes)."""
    ...


def pad(x: Tensor, axis: int, before: int = 0, after: int = 0, value: float = 0) -> Tensor:
    """An axis lengthened by a value before and after x."""
    ...


def patchify(x: Tensor, size: int) -> Tensor:
    """(...,H,W,C) -> (...,(H/p)(W/p),p*p*C): squares of p = size pixels, row by row; inside a square (row, column, channel)."""
    ...


def permute(x: Tensor, axes: Sequence[int] | int) -> Tensor:
    """Axes in another order: axis i of the result is axis axes[i] of x; a view where memory order allows."""
    ...


def pow(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent."""
    ...


def qk_norm_rotary(x: Tensor, cos: Tensor | None = None, sin: Tensor | None = None, scale: Tensor | None = None, heads: int = ..., norm: Literal['rms', 'layer', 'none'] = 'rms', pairs: Literal['half', 'interleaved'] = 'half', eps: float = 0.000001, axis: int = -2) -> Tensor:
    """rotate(scale (x - mean) / sqrt(variance + eps)) for each head of x (..., N, ..., heads D): the norm of queries and keys
    (Dehghani et al. 2023; mean 0 for rms) and the rotary embedding (Su et al. 2021) in one pass.  cos, sin (N, P) or one
    such table a sample, P <= D / 2: the first 2 P columns of a head turn, partners P apart (half) or side by side
    (interleaved).  scale (D).  axis: the sequence.  No gradient for cos and sin."""
    ...


def qkv_norm_rotary(qkv: Tensor, cos: Tensor | None = None, sin: Tensor | None = None, q_scale: Tensor | None = None, k_scale: Tensor | None = None, heads: int = ..., kv_heads: int = 0, norm: Literal['rms', 'layer', 'none'] = 'rms', pairs: Literal['half', 'interleaved'] = 'half', eps: float = 0.000001, axis: int = -2) -> tuple[Tensor, Tensor]:
    """qk_norm_rotary of the q (..., heads D) and the k (..., kv_heads D) in rows qkv (..., (heads + 2 kv_heads) D), read where
    they lie; attention_qkv takes both beside qkv."""
    ...


def reciprocal(x: Tensor) -> Tensor:
    """1 / x."""
    ...


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    ...


def repeat(x: Tensor, times: int, axis: int = 0) -> Tensor:
    """Each entry along an axis times over: a a b b."""
    ...


def reshape(x: Tensor, shape: Sequence[int] | int) -> Tensor:
    """The same numbers in another shape, as a view; one length may be -1."""
    ...


def resize(x: Tensor, height: int, width: int, mode: Literal['area', 'bilinear'] = 'area') -> Tensor:
    """(..., H, W, C) -> (..., height, width, C), float32 or uint8 (to the nearest).  area: the mean over the pixel's area, exact for any ratio; bilinear: align_corners false, without antialiasing."""
    ...


def reverse_scan(a: Tensor, b: Tensor, last: Tensor | None = None, axis: int = -1) -> Tensor:
    """out[t] = a[t] + b[t] out[t+1] along an axis of T, out[T] = last (without that axis; 0 if absent).  Lambda returns are
    this with a = r + gamma c (1 - lambda) v_next, b = gamma c lambda, last = v_next[T-1] (Sutton & Barto, ch. 12)."""
    ...


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis.  x (..., C), weight (C,) (Zhang and Sennrich 2019,
    arXiv:1910.07467)."""
    ...


def roll(x: Tensor, shift: int, axis: int = 0) -> Tensor:
    """Entries moved along an axis by shift; what leaves comes in at the other end."""
    ...


def rotary_table(position: Tensor, width: int, base: float = 10000, axes: int = 0, kind: Literal['base', 'pixel'] = 'base') -> tuple[Tensor, Tensor]:
    """cos and sin, each (..., width / 2), of rotary positions (...), whole numbers or not (Su et al. 2021).  axes A > 0:
    position (..., A), for example row and column, and each axis gets width / 2 / A frequencies, side by side.
    kind=base: frequencies base^(-i / F); pixel: pi times 1 .. base / 2, evenly spaced, for positions in -1 .. 1
    (Lu et al. 2023).  Angles are made in float64: there is no largest position.  No gradient."""
    ...


def rsqrt(x: Tensor) -> Tensor:
    """1 / sqrt(x)."""
    ...


def scale_shift(x: Tensor, mul: float = 1, add: float = 0) -> Tensor:
    """x * mul + add."""
    ...


def scatter_add(x: Tensor, index: Tensor, src: Tensor, axis: int = 0) -> Tensor:
    """x with src added to the entries that index names along an axis; an entry named twice gets both, in order."""
    ...


def shortcut_step(y: Tensor, pred: Tensor, level: Tensor, size: Tensor, target: Literal['x', 'eps', 'v'] = 'x', clip: float = 0) -> Tensor:
    """The flow step y + size v from tau = level to min(level + size, 1) of a network that knows its step size (Frans et al., arXiv 2410.12557)."""
    ...


def shortcut_target(y: Tensor, pred: Tensor, y_next: Tensor, pred_next: Tensor, level: Tensor, next: Tensor, target: Literal['x', 'eps', 'v'] = 'x') -> Tensor:
    """The clean frame that one step of twice the size should say, from two small ones: y + (1 - tau) (v + v') / 2, tau = level; v, v' what pred at level and pred_next at next = level + size say.  The plain squared error against it has the (1 - tau)^2 weight already (Dreamer 4, arXiv 2509.24527)."""
    ...


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e ** -x)."""
    ...


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; no slope."""
    ...


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    ...


def sin(x: Tensor) -> Tensor:
    """sine of radians."""
    ...


def sinusoidal(t: Tensor, dim: int, max_period: float = 10000, scale: float = 1, order: Literal['cos_sin', 'sin_cos'] = 'cos_sin') -> Tensor:
    """out (...,dim): cos and sin of t scale max_period^(-i/(dim/2)), i < dim/2; an odd dim ends with 0.  cos_sin is the order
    of DDPM and DiT time embeddings, sin_cos that of Vaswani et al. 2017 with its halves side by side."""
    ...


def slice(x: Tensor, axis: int = 0, start: int = 0, stop: int = 9223372036854775807, step: int = 1) -> Tensor:
    """x[start:stop:step] along an axis, counted as Python does, step at least 1; a view where memory order allows."""
    ...


def smooth_l1(pred: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Literal['mean', 'sum'] = 'mean', keep: int = 0, beta: float = 1) -> Tensor:
    """huber with delta = beta, divided by beta: slope 1 far away (Girshick 2015); weighted and reduced as mse."""
    ...


def softmax(x: Tensor) -> Tensor:
    """e^x / sum e^x over the last axis; -inf gives exactly 0, a row of nothing else 0 everywhere."""
    ...


def softplus(x: Tensor) -> Tensor:
    """ln (1 + e ** x), as max(x, 0) + log1p(e ** -|x|)."""
    ...


def sqrt(x: Tensor) -> Tensor:
    """square root."""
    ...


def square(x: Tensor) -> Tensor:
    """x * x."""
    ...


def stack(*xs: Tensor, axis: int = 0) -> Tensor:
    """Tensors of one shape side by side along an axis that is made for it."""
    ...


def stop_gradient(x: Tensor) -> Tensor:
    """x itself, through which no gradient flows."""
    ...


def stream_advance(stream: Tensor, by: int = 1) -> Tensor:
    """Adds `by` to the step of every row, in place, and returns the same rows.  Record it before the first draw and outside of checkpoints: each replay of the tape then draws anew, and a checkpoint's second forward draws the same."""
    ...


def sub(a: Tensor, b: Tensor) -> Tensor:
    """a - b; shapes broadcast."""
    ...


def sum(x: Tensor, axes: Sequence[int] | int = (), keepdims: bool = False) -> Tensor:
    """Sum over the axes, all if none is named; pairwise, in a fixed order."""
    ...


def swiglu(x: Tensor, weight: Tensor, bias: Tensor | None = None, int8: bool = False, bf16: bool = False) -> Tensor:
    """silu(x @ w1.T + b1) * (x @ w2.T + b2), with w1 and w2 the two halves of weight (2N, K), b1 and b2 of bias (2N,):
    x (..., K) -> (..., N) (Shazeer 2020)."""
    ...


def symexp(x: Tensor) -> Tensor:
    """sign(x) (e ** |x| - 1), the inverse of symlog (DreamerV3)."""
    ...


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|) (DreamerV3)."""
    ...


def take_along(x: Tensor, index: Tensor, axis: int = -1) -> Tensor:
    """One entry of x along an axis for each index: out[a,m,b] = x[a,index[a,m,b],b], as in numpy.take_along_axis."""
    ...


def tanh(x: Tensor) -> Tensor:
    """hyperbolic tangent."""
    ...


def tanh_gaussian_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of tanh(x), x ~ N(mean, e^log_std), summed over the last axis, from x before the tanh (x = atanh(action)):
    gaussian_log_prob - sum 2 (ln 2 - x - softplus(-2x)), which stays finite where 1 - tanh^2 rounds to 0
    (Haarnoja et al., arXiv 1801.01290, appendix C)."""
    ...


def tanh_gaussian_sample(mean: Tensor, log_std: Tensor, stream: Tensor, salt: int = 0) -> tuple[Tensor, Tensor]:
    """a = tanh(mean + exp(log_std) e) in (-1, 1) and its log-probability, summed over the last axis; (..., C) -> (..., C), (...). Gradients by reparameterisation (Haarnoja et al., Soft actor-critic, arXiv 1801.01290, appendix C)."""
    ...


def tile(x: Tensor, times: int, axis: int = 0) -> Tensor:
    """All entries along an axis times over: a b a b."""
    ...


def two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """out (...,K): x as weights on its two neighbours among rising bins (K), so that sum out bins = x; outside the bins the last
    one gets all.  No gradient (DreamerV3, arXiv 2301.04104)."""
    ...


def two_hot_bins(count: int = 255, high: float = 20, symexp: bool = True) -> Tensor:
    """Bins for two-hot values: symexp(linspace(-high, high, count)), or without symexp for values that went through symlog."""
    ...


def two_hot_loss(logits: Tensor, value: Tensor, bins: Tensor, weight: Tensor | None = None, reduction: Literal['mean', 'sum'] = 'mean', keep: int = 0) -> Tensor:
    """Cross-entropy of logits (...,K) with two_hot(value, bins), fused; weighted and reduced over rows.  Gradient to logits only
    (DreamerV3, arXiv 2301.04104)."""
    ...


def two_hot_mean(logits: Tensor, bins: Tensor) -> Tensor:
    """sum softmax(logits) bins over the last axis, summed from both ends inwards: mirrored bins under equal logits give exactly 0.
    Gradient to logits only (DreamerV3, arXiv 2301.04104)."""
    ...


def uniform(stream: Tensor, salt: int = 0, low: float = 0, high: float = 1, shape: Sequence[int] | int = ...) -> Tensor:
    """low + (high - low) u, u in [0, 1) a multiple of 2^-24; shape (samples * rows, ...)."""
    ...


def unimix(logits: Tensor, mix: float = 0.01) -> Tensor:
    """ln ((1 - mix) softmax(logits) + mix / C): logits whose probabilities are never below mix / C (DreamerV3, arXiv 2301.04104)."""
    ...


def unpatchify(x: Tensor, height: int, width: int, size: int) -> Tensor:
    """(...,(H/p)(W/p),p*p*C) -> (...,H,W,C): the inverse of patchify; height and width in pixels."""
    ...


def var(x: Tensor, axes: Sequence[int] | int = (), keepdims: bool = False, correction: int = 0) -> Tensor:
    """Variance over the axes, all if none is named: sum (x - mean)^2 / (count - correction), in two passes."""
    ...


def where(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where mask is not 0, else b; shapes broadcast."""
    ...
