"""conv: 3x3 convolutions, channels last, against PyTorch's channels_last memory format; forward and both
ways.
"""

from collections.abc import Callable, Iterator

import numpy as np
from measure import Work
from works.attention import both_ways
from works.linear import numbers, torch_module
from worldmodel import Tensor, _core

SHAPES = [(1, 64, 64, 64, 64, 1), (16, 64, 64, 64, 64, 1), (16, 64, 64, 32, 64, 2), (16, 24, 32, 48, 48, 1)]
"""(batch, rows, columns, channels in, channels out, stride)"""
op = _core.ops


def own(a: np.ndarray) -> Tensor:
    return Tensor(a, copy=True)


def works(threads: int, quick: bool) -> Iterator[Work]:
    torch = torch_module(threads)
    for B, H, W, C, N, stride in SHAPES[:2] if quick else SHAPES:
        x, w, b = numbers(B, H, W, C), numbers(N, 3, 3, C), numbers(N)
        seed = numbers(B, H // stride, W // stride, N)
        name = f"conv 3x3 {C}->{N} at {H}x{W}, batch {B}" + (", stride 2" if stride == 2 else "")
        flop = 2.0 * B * (H // stride) * (W // stride) * N * 9 * C
        inputs = [own(a) for a in (x, w, b)]
        peers: dict[str, Callable[[], object]] = {}
        back: dict[str, Callable[[], object]] = {}
        if torch:
            peers, back = torch_peers(torch, x, w, b, seed, stride)
        goal = 1.3 if (H, C, N, stride) == (64, 64, 64, 1) else None
        yield Work(name, "GFLOP/s", flop, lambda i=inputs, s=stride: op["conv2d"](*i, stride=s), peers, goal=goal)
        run = both_ways(lambda *i, s=stride: op["conv2d"](*i, stride=s), [x, w, b], seed)
        yield Work(f"{name}, both ways", "GFLOP/s", 3 * flop, run, back, goal=1.0 if goal else None)


def torch_peers(torch, x, w, b, seed, stride):
    """PyTorch's forward, and its forward with backward, in its own best layout."""
    last = {"memory_format": torch.channels_last}

    def channels_last(a):
        return torch.from_numpy(a).permute(0, 3, 1, 2).contiguous(**last)

    tx, tw, tb, ts = channels_last(x), channels_last(w), torch.from_numpy(b), channels_last(seed)
    conv = torch.nn.functional.conv2d
    leaves = [t.clone(**last) if t.ndim == 4 else t.clone() for t in (tx, tw, tb)]
    for t in leaves:
        t.requires_grad_()

    def both():
        for t in leaves:
            t.grad = None
        conv(*leaves, stride=stride, padding=1).backward(ts)

    forward = torch.no_grad()(lambda: conv(tx, tw, tb, stride=stride, padding=1))
    return {"torch": forward}, {"torch": both}
