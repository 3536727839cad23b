"""linear against PyTorch on the same numbers: our largest error, measured against float64, is at most twice
PyTorch's (three times for gradients)."""

import numpy as np
import pytest
from harness import tensor
from reference import linear as reference
from worldmodel import _core

torch = pytest.importorskip("torch", reason="the oracle tests need PyTorch: pip install worldmodel[oracle]")
F = torch.nn.functional

SHAPES = [(64, 384, 1536), (256, 384, 384), (37, 1536, 200), (2048, 256, 96), (5, 2048, 512)]
EVERY = {"none": lambda v: v, "gelu": lambda v: F.gelu(v, approximate="tanh"), "gelu_erf": F.gelu}
EVERY["silu"] = F.silu


def numbers(*shape, scale=1.0):
    return (np.random.default_rng(shape).standard_normal(shape) * scale).astype(np.float32)


def error(got, want):
    return np.abs(np.asarray(got, np.float64) - want).max()


def gradients_of(function, arrays, seed):
    """Result and gradients by PyTorch, in the arrays' own precision."""
    tensors = [torch.from_numpy(a).requires_grad_() for a in arrays]
    out = function(*tensors)
    out.backward(torch.from_numpy(seed))
    return [out.detach().numpy(), *(t.grad.numpy() for t in tensors)]


def compare(op, function, arrays, attrs):
    seed = numbers(*function(*map(torch.from_numpy, arrays)).shape)
    theirs = gradients_of(function, arrays, seed)
    wants = gradients_of(function, [a.astype(np.float64) for a in arrays], seed.astype(np.float64))
    tensors = [tensor(a, needs_grad=True) for a in arrays]
    with _core.Tape() as tape:
        out = _core.ops[op](*tensors, **attrs)
    tape.backward(out, tensor(seed))
    ours = [out.numpy(), *(t.grad for t in tensors)]
    for i, (mine, other, want) in enumerate(zip(ours, theirs, wants, strict=True)):
        allowed = (3 if i else 2) * error(other, want) + 1e-7 * np.abs(want).max()
        what = f"gradient {i - 1}" if i else "result"
        found = f"error {error(mine, want):.3g}, PyTorch's {error(other, want):.3g}"
        assert error(mine, want) <= allowed, f"{op}: {what}: {found}"


@pytest.mark.parametrize("act", EVERY)
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_linear_is_as_exact_as_pytorch(kernels, m, k, n, act):
    arrays = [numbers(m, k), numbers(n, k, scale=k**-0.5), numbers(n)]
    compare("linear", lambda x, w, b: EVERY[act](F.linear(x, w, b)), arrays, {"act": act})


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_swiglu_is_as_exact_as_pytorch(kernels, m, k, n):
    def function(x, w, b):
        first, second = F.linear(x, w, b).chunk(2, -1)
        return F.silu(first) * second

    compare("swiglu", function, [numbers(m, k), numbers(2 * n, k, scale=k**-0.5), numbers(2 * n)], {})


@pytest.mark.parametrize("groups", [1, 4, 64])
def test_linear_gated_is_as_exact_as_pytorch(kernels, groups):
    def function(x, w, b, gate, residual):
        return residual + gate.repeat_interleave(64 // groups, 0) * F.linear(x, w, b)

    x, w, b = numbers(64, 384), numbers(384, 384, scale=384**-0.5), numbers(384)
    compare("linear_gated", function, [x, w, b, numbers(groups, 384), numbers(64, 384)], {})


def test_the_reference_agrees_with_pytorch():
    x, w, b = (numbers(*shape).astype(np.float64) for shape in [(7, 33), (20, 33), (20,)])
    for act, function in EVERY.items():
        want = function(F.linear(*map(torch.from_numpy, (x, w, b)))).numpy()
        assert np.allclose(reference.linear(x, w, b, act), want, rtol=1e-12, atol=1e-12)
