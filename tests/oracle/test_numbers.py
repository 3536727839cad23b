"""Pointwise, reduction and loss ops beside PyTorch.

The largest error against float64, in units of the largest number, is at most twice PyTorch's own in values,
three times in gradients.  Where PyTorch comes within a rounding of the truth a floor counts: half a unit in
the last place for functions (0.8 in the baseline table, which fuses nothing), one unit for what sums.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[oracle]'")
F = torch.nn.functional

from worldmodel import _core  # noqa: E402

ops = _core.ops
UNIT = 2.0**-23


def draw(kind, shape, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if kind == "positive":
        x = np.exp(x)
    elif kind == "wide":
        x = x * 5
    elif kind == "unit":
        x = np.tanh(x)
    elif kind == "chance":
        x = rng.random(shape)
    elif kind == "index":
        return rng.integers(0, 9, shape).astype(np.int32)
    return x.astype(np.float32)


def torch_run(f, arrays, dtype, seed):
    ts = [torch.tensor(a) for a in arrays]
    ts = [t.to(dtype).requires_grad_() if t.dtype == torch.float32 else t.long() for t in ts]
    out = f(*ts)
    g = torch.tensor(np.random.default_rng(seed).standard_normal(out.shape).astype(np.float32)).to(dtype)
    if out.requires_grad:
        out.backward(g)
    grads = [None if t.grad is None else t.grad.numpy() for t in ts]
    return out.detach().numpy(), grads, g.numpy().astype(np.float32)


def our_run(f, arrays, g):
    ts = [_core.Tensor(np.asarray(a, order="C"), needs_grad=a.dtype == np.float32) for a in arrays]
    with _core.Tape() as tape:
        out = f(*ts)
    if out.needs_grad:
        tape.backward(out, _core.Tensor(np.asarray(g, order="C")))
    return np.array(out.numpy()), [None if t.grad is None else np.array(t.grad) for t in ts]


def error(got, want):
    return np.abs(got.astype(np.float64) - want).max() / max(np.abs(want).max(), 1e-30)


def compare(ours, theirs, arrays, floor):
    want, want_grads, g = torch_run(theirs, arrays, torch.float64, 1)
    value, grads, _ = torch_run(theirs, arrays, torch.float32, 1)
    got, got_grads = our_run(ours, arrays, g)
    assert got.shape == want.shape
    assert error(got, want) <= max(2 * error(value, want), floor)
    for i, w in enumerate(want_grads):
        if w is not None and got_grads[i] is not None:
            bound = max(3 * error(grads[i], w), 1.5 * UNIT)
            assert error(got_grads[i], w) <= bound, f"gradient of input {i}"


UNARY = {
    "exp": ("normal", torch.exp),
    "expm1": ("normal", torch.expm1),
    "log": ("positive", torch.log),
    "log1p": ("positive", torch.log1p),
    "sqrt": ("positive", torch.sqrt),
    "rsqrt": ("positive", torch.rsqrt),
    "reciprocal": ("positive", torch.reciprocal),
    "square": ("normal", torch.square),
    "abs": ("normal", torch.abs),
    "sin": ("wide", torch.sin),
    "cos": ("wide", torch.cos),
    "erf": ("normal", torch.erf),
    "relu": ("normal", torch.relu),
    "sigmoid": ("wide", torch.sigmoid),
    "log_sigmoid": ("wide", F.logsigmoid),
    "tanh": ("normal", torch.tanh),
    "atanh": ("unit", torch.atanh),
    "softplus": ("wide", F.softplus),
    "silu": ("wide", F.silu),
    "mish": ("wide", F.mish),
    "elu": ("normal", F.elu),
    "gelu_erf": ("wide", F.gelu),
    "gelu_tanh": ("wide", lambda x: F.gelu(x, approximate="tanh")),
    "symlog": ("wide", lambda x: torch.sign(x) * torch.log1p(torch.abs(x))),
    "symexp": ("normal", lambda x: torch.sign(x) * torch.expm1(torch.abs(x))),
}


@pytest.mark.parametrize("name", UNARY)
def test_functions(kernels, name):
    kind, theirs = UNARY[name]
    floor = (0.8 if kernels == "baseline" else 0.5) * UNIT
    compare(ops[name], theirs, [draw(kind, (37, 4099), 0)], floor)


def by(name, **attrs):
    return lambda *ts: ops[name](*ts, **attrs)


ROW = ("normal", (64, 777))
CASES = {
    "add row": (by("add"), torch.add, [ROW, ("normal", (777,))]),
    "mul row": (by("mul"), torch.mul, [ROW, ("normal", (777,))]),
    "mul column": (by("mul"), torch.mul, [ROW, ("normal", (64, 1))]),
    "div": (by("div"), torch.div, [ROW, ("positive", (64, 777))]),
    "sum": (by("sum"), torch.sum, [("positive", (300, 1001))]),
    "sum of rows": (by("sum", axes=1), lambda x: x.sum(1), [("positive", (30, 10_001))]),
    "sum of columns": (by("sum", axes=0), lambda x: x.sum(0), [("positive", (10_001, 30))]),
    "mean": (by("mean", axes=(0, 2)), lambda x: x.mean((0, 2)), [("positive", (50, 13, 301))]),
    "var": (by("var", axes=1, correction=1), lambda x: x.var(1), [ROW]),
    "cumsum": (by("cumsum", axis=1), lambda x: x.cumsum(1), [ROW]),
    "softmax": (by("softmax"), lambda x: x.softmax(-1), [("wide", (64, 255))]),
    "log_softmax": (by("log_softmax"), lambda x: x.log_softmax(-1), [("wide", (64, 255))]),
    "logsumexp": (by("logsumexp"), lambda x: x.logsumexp(-1), [("wide", (64, 255))]),
    "entropy": (
        by("categorical_entropy"),
        lambda x: torch.distributions.Categorical(logits=x).entropy(),
        [("normal", (64, 99))],
    ),
    "log_prob": (
        by("categorical_log_prob"),
        lambda x, i: torch.distributions.Categorical(logits=x).log_prob(i),
        [("wide", (500, 9)), ("index", (500,))],
    ),
    "mse": (by("mse"), F.mse_loss, [ROW, ROW]),
    "huber": (by("huber", delta=0.7), lambda p, t: F.huber_loss(p, t, delta=0.7), [ROW, ("wide", (64, 777))]),
    "smooth_l1": (
        by("smooth_l1", beta=0.7),
        lambda p, t: F.smooth_l1_loss(p, t, beta=0.7),
        [ROW, ("wide", (64, 777))],
    ),
    "bce": (
        lambda x, t: ops["binary_cross_entropy_with_logits"](x, ops["stop_gradient"](t)),
        lambda x, t: F.binary_cross_entropy_with_logits(x, t.detach()),
        [("wide", (64, 77)), ("chance", (64, 77))],
    ),
    "cross_entropy": (
        by("cross_entropy", smoothing=0.1),
        lambda x, i: F.cross_entropy(x, i, label_smoothing=0.1),
        [("wide", (500, 9)), ("index", (500,))],
    ),
    "cosine": (
        by("cosine_loss", keep=1),
        lambda x, y: 1 - F.cosine_similarity(x, y, dim=-1),
        [ROW, ("wide", (64, 777))],
    ),
    "gaussian": (
        by("gaussian_log_prob"),
        lambda x, m, s: torch.distributions.Normal(m, s.exp()).log_prob(x).sum(-1),
        [("normal", (300, 17)), ("normal", (300, 17)), ("unit", (300, 17))],
    ),
    "kl_gaussian": (
        lambda a, b, c, d: ops["kl_gaussian"](a, b, c, d, keep=1),
        lambda a, b, c, d: torch.distributions.kl_divergence(
            torch.distributions.Normal(a, b.exp()), torch.distributions.Normal(c, d.exp())
        ).sum(-1),
        [("normal", (300, 17)), ("unit", (300, 17)), ("normal", (300, 17)), ("unit", (300, 17))],
    ),
    "kl_categorical": (
        by("kl_categorical", keep=1),
        lambda p, q: F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum(
            -1
        ),
        [("normal", (300, 33)), ("normal", (300, 33))],
    ),
    "gather": (by("gather"), lambda x, i: x[i], [("normal", (9, 33)), ("index", (400,))]),
}


@pytest.mark.parametrize("name", CASES)
def test_ops(kernels, name):
    ours, theirs, inputs = CASES[name]
    compare(ours, theirs, [draw(kind, shape, i) for i, (kind, shape) in enumerate(inputs)], UNIT)
