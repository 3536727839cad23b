"""attention against PyTorch: our error against float64 is at most twice its error
forward and three times in the gradients."""

import numpy as np
import pytest
from worldmodel import _core

torch = pytest.importorskip("torch", reason="the oracle tests compare with PyTorch: pip install '.[oracle]'")


def in_torch(arrays, seed, heads, dtype, causal):
    inputs = [torch.tensor(a, dtype=dtype, requires_grad=True) for a in arrays]
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-3, -2) for x in inputs)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    out = out.transpose(-3, -2).flatten(-2)
    out.backward(torch.tensor(seed, dtype=dtype))
    return [out.detach().double().numpy(), *(x.grad.double().numpy() for x in inputs)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("B,N,heads,D", [(4, 64, 6, 64), (2, 256, 4, 64), (8, 16, 4, 32), (2, 100, 2, 128)])
@pytest.mark.parametrize("sharp", [1.0, 4.0])
def test_error_is_within_twice_that_of_torch(kernels, B, N, heads, D, causal, sharp):
    rng = np.random.default_rng(N)
    arrays = [rng.standard_normal((B, N, heads * D)).astype(np.float32) for _ in range(3)]
    arrays[0] *= np.float32(sharp)
    seed = rng.standard_normal((B, N, heads * D)).astype(np.float32)
    exact = in_torch(arrays, seed, heads, torch.float64, causal)
    theirs = in_torch(arrays, seed, heads, torch.float32, causal)
    inputs = [_core.Tensor(a, needs_grad=True) for a in arrays]
    with _core.Tape() as tape:
        out = _core.ops["attention"](*inputs, heads=heads, mask="causal" if causal else "full")
    tape.backward(out, _core.Tensor(seed))
    ours = [out.numpy(), *(t.grad for t in inputs)]
    for what, o, t, e in zip(("out", "dq", "dk", "dv"), ours, theirs, exact, strict=True):
        allowed = 2 if what == "out" else 3
        rms = [float(np.sqrt(np.mean((x - e) ** 2))) for x in (o, t)]
        top = [float(np.abs(x - e).max()) for x in (o, t)]
        assert rms[0] <= allowed * rms[1] and top[0] <= allowed * top[1], f"{what}: {rms} {top}"
