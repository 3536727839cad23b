"""LSTM and GRU against PyTorch on the same numbers: our largest error, measured against float64, is at most
twice PyTorch's (three times for gradients)."""

import numpy as np
import pytest
from harness import tensor
from worldmodel import _core

torch = pytest.importorskip("torch", reason="the oracle tests need PyTorch: pip install worldmodel[oracle]")

SIZES = [(4, 9, 33), (32, 16, 128), (2, 3, 512)]
LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def theirs(layer, x, seed, dtype):
    """out, last state(s), gradients of x, weight_ih, weight_hh, bias_ih, bias_hh."""
    layer = layer.to(dtype)
    layer.zero_grad()
    leaf = torch.from_numpy(x).to(dtype).requires_grad_()
    out, last = layer(leaf)
    out.backward(torch.from_numpy(seed).to(dtype))
    states = [s[0] for s in (last if isinstance(last, tuple) else (last,))]
    results = [out, *states, leaf.grad, *(p.grad for p in layer.parameters())]
    return [r.detach().clone().double().numpy() for r in results]


def ours(name, weights, x, seed):
    w_ih, w_hh, b_ih, b_hh = (tensor(w, needs_grad=True) for w in weights)
    leaf = tensor(x, needs_grad=True)
    with _core.Tape() as tape:
        outs = _core.ops[name](_core.ops["linear"](leaf, w_ih, b_ih), w_hh, b_hh)
    tape.backward(outs[0], tensor(seed))
    return [*(o.numpy() for o in outs), leaf.grad, *(w.grad for w in (w_ih, w_hh, b_ih, b_hh))]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("B", "T", "H"), SIZES)
def test_a_sequence_is_as_exact_as_pytorch(kernels, name, B, T, H):
    torch.manual_seed(0)
    layer = LAYERS[name](H, H, batch_first=True)
    rng = np.random.default_rng(0)
    x, seed = (rng.standard_normal((B, T, H)).astype(np.float32) for _ in range(2))
    weights = [p.detach().numpy().copy() for p in layer.parameters()]
    mine, other = ours(name, weights, x, seed), theirs(layer, x, seed, torch.float32)
    want = theirs(layer, x, seed, torch.float64)
    states = len(want) - 5
    for i, (a, b, w) in enumerate(zip(mine, other, want, strict=True)):
        allowed = (2 if i < states else 3) * np.abs(b - w).max() + 2e-7 * np.abs(w).max()
        assert np.abs(a - w).max() <= allowed, (name, i, np.abs(a - w).max(), np.abs(b - w).max())
