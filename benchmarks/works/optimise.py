"""optimise: one AdamW step with clipping and a moving average over 10M parameters, against PyTorch's fused
AdamW, clip_grad_norm_ and a foreach lerp.
"""

from collections.abc import Iterator

import numpy as np
from measure import Work
from works.linear import torch_module
from worldmodel import Tensor, optim

SHAPES = [(1024, 1024)] * 9 + [(4096,)] * 100
"""About 9.8M numbers in tensors of the usual two kinds."""


def works(threads: int, quick: bool) -> Iterator[Work]:
    torch = torch_module(threads)
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(s, np.float32) for s in SHAPES]
    tensors = [Tensor(v, needs_grad=True, copy=True) for v in values]
    ours = optim.AdamW(tensors, lr=1e-4, weight_decay=0.01, clip=1.0, ema=0.999)
    grads = [rng.standard_normal(s, np.float32) for s in SHAPES]
    size = sum(v.size for v in values)
    for t, g in zip(tensors, grads, strict=True):
        t.grad[...] = g
    peers = {"torch fused": torch_step(torch, values, grads)} if torch else {}
    # values, gradients, two moments and the average read and written, the gradients read once more for the norm
    yield Work(
        f"AdamW + clip + EMA, {size / 1e6:.1f}M", "GB/s", 4.0 * size * 11, ours.step, peers, goal=2.0, limit="copy"
    )


def torch_step(torch, values, grads):
    params = [torch.from_numpy(v.copy()).requires_grad_() for v in values]
    average = [p.detach().clone() for p in params]
    for p, g in zip(params, grads, strict=True):
        p.grad = torch.from_numpy(g.copy())
    step = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.01, fused=True)

    def run():
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        step.step()
        torch._foreach_lerp_(average, [p.detach() for p in params], 1e-3)
        torch._foreach_zero_([p.grad for p in params])

    return run
