"""Resizing against PyTorch: bilinear everywhere, area where its windows are whole."""

import numpy as np
import pytest
from harness import tensor
from worldmodel import _core

torch = pytest.importorskip("torch", reason="the oracle tests need PyTorch: pip install worldmodel[oracle]")


@pytest.mark.parametrize(("mode", "size", "to"), [
    ("bilinear", (21, 16), (8, 13)), ("bilinear", (5, 7), (12, 9)),
    ("area", (24, 16), (8, 4)), ("area", (64, 64), (32, 64)),
])
def test_resize_is_pytorchs(kernels, mode, size, to):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    seed = np.random.default_rng(1).standard_normal((2, *to, 3)).astype(np.float32)
    leaf = torch.from_numpy(x).permute(0, 3, 1, 2).double().requires_grad_()
    want = torch.nn.functional.interpolate(leaf, to, mode=mode)
    want.backward(torch.from_numpy(seed).permute(0, 3, 1, 2).double())
    mine = tensor(x, needs_grad=True)
    with _core.Tape() as tape:
        out = _core.ops["resize"](mine, height=to[0], width=to[1], mode=mode)
    tape.backward(out, tensor(seed))
    assert np.abs(out.numpy() - want.detach().permute(0, 2, 3, 1).numpy()).max() < 1e-5
    assert np.abs(mine.grad - leaf.grad.permute(0, 2, 3, 1).numpy()).max() < 1e-5
