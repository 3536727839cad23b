"""Ten steps of clipping, AdamW and a moving average against PyTorch's."""

import numpy as np
import pytest
from harness import tensor
from worldmodel.optim import AdamW

torch = pytest.importorskip("torch", reason="the oracle tests need PyTorch: pip install worldmodel[oracle]")
SHAPES = [(33, 17), (5, 4, 3), (129, 64)]


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_ten_steps_are_pytorchs(clip):
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(s).astype(np.float32) for s in SHAPES]
    mine = [tensor(a, needs_grad=True) for a in start]
    theirs = [torch.nn.Parameter(torch.from_numpy(a.astype(np.float64))) for a in start]
    average = [p.detach().clone() for p in theirs]
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    ours = AdamW(mine, clip=clip, ema=0.9, **settings)
    other = torch.optim.AdamW(theirs, **settings)
    for step in range(1, 11):
        for p, q in zip(mine, theirs, strict=True):
            g = rng.standard_normal(p.shape).astype(np.float32)
            p.grad[...] = g
            q.grad = torch.from_numpy(g.astype(np.float64))
        norm = torch.nn.utils.clip_grad_norm_(theirs, clip or np.inf)
        other.step()
        follow = 1 - min(0.9, (1 + step) / (10 + step))
        for a, q in zip(average, theirs, strict=True):
            a.lerp_(q.detach(), follow)
        assert ours.step().norm == pytest.approx(float(norm), rel=1e-6)
    for p, q in zip(mine, theirs, strict=True):
        assert np.abs(p.numpy() - q.detach().numpy()).max() < 3e-6
    with ours.averaged():
        for p, a in zip(mine, average, strict=True):
            assert np.abs(p.numpy() - a.numpy()).max() < 3e-6
