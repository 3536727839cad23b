"""linear: forward, with bias + gelu fused, backward, SwiGLU, and one small op."""

from collections.abc import Callable, Iterator

import numpy as np
from measure import Work
from worldmodel import _core

SHAPES = [(64, 384, 1536), (256, 384, 1536), (256, 384, 384), (320, 256, 1024), (1024, 256, 1024),
          (64, 1536, 384), (2048, 2048, 2048)]
"""(M, K, N): rows, features in, features out."""

linear = _core.ops["linear"]
Peers = dict[str, Callable[[], object]]


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def ours(array: np.ndarray, needs_grad: bool = False) -> "_core.Tensor":
    """A tensor that owns its numbers, so that a packed weight may be kept."""
    return _core.Tensor(array, copy=True, needs_grad=needs_grad)


def torch_module(threads: int):
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    return torch


def forward(torch, x, w, b, act: str, quick: bool) -> Peers:
    peers: Peers = {}
    if torch:
        tx, tw = torch.from_numpy(x), torch.from_numpy(w)
        tb = None if b is None else torch.from_numpy(b)

        def call(x, w, b):
            y = torch.nn.functional.linear(x, w, b)
            return torch.nn.functional.gelu(y, approximate="tanh") if act == "gelu" else y

        peers["torch"] = torch.no_grad()(lambda: call(tx, tw, tb))
        if not quick and act == "gelu":
            compiled = torch.compile(call, dynamic=False)
            peers["compile"] = torch.no_grad()(lambda: compiled(tx, tw, tb))
    if act == "none":
        out, wt = np.empty((len(x), len(w)), np.float32), w.T
        peers["openblas"] = lambda: np.matmul(x, wt, out=out)
    return peers


def backward(torch, x, w, b, seed) -> tuple[Callable, Peers]:
    """Gradients of x, weight and bias, from the gradient of the result; the forward is not timed."""
    ox, ow, ob, og = ours(x, True), ours(w, True), ours(b, True), ours(seed)
    with _core.Tape() as tape:
        out = linear(ox, ow, ob)
    peers: Peers = {}
    if torch:
        tx, tw, tb = (torch.from_numpy(a).requires_grad_() for a in (x, w, b))
        ty, tg = torch.nn.functional.linear(tx, tw, tb), torch.from_numpy(seed)
        peers["torch"] = lambda: ty.backward(tg, retain_graph=True)
    return lambda: tape.backward(out, og), peers


def small(torch) -> Work:
    """One op on a few numbers, recorded: what remains is the cost of the call."""
    x, w, b = numbers(1, 32), numbers(32, 32), numbers(32)
    ox, ow, ob = ours(x, True), ours(w), ours(b)

    def ours_recorded():
        with _core.Tape():
            for _ in range(100):
                linear(ox, ow, ob)

    peers: Peers = {}
    if torch:
        tx, tw, tb = torch.from_numpy(x).requires_grad_(), torch.from_numpy(w), torch.from_numpy(b)

        def torch_recorded():
            for _ in range(100):
                torch.nn.functional.linear(tx, tw, tb)

        peers["torch"] = torch_recorded
    return Work("linear (1,32,32), recorded, a call", "us", 0, ours_recorded, peers, limit=None, calls=100,
                most=1.5)


def at_shape(torch, m: int, k: int, n: int, quick: bool) -> Iterator[Work]:
    x, w, b, seed, flop = numbers(m, k), numbers(n, k), numbers(n), numbers(m, n), 2.0 * m * k * n
    ox, ow, ob = ours(x), ours(w), ours(b)
    name = f"linear ({m},{k},{n})"
    yield Work(name, "GFLOP/s", flop, lambda: linear(ox, ow), forward(torch, x, w, None, "none", quick),
               goal=0.95, group="linear", group_goal=1.05)
    yield Work(f"{name} + bias + gelu", "GFLOP/s", flop, lambda: linear(ox, ow, ob, act="gelu"),
               forward(torch, x, w, b, "gelu", quick), goal=1.2, against=("torch",) if torch else ())
    oq = ours(w)
    yield Work(f"{name} int8", "GFLOP/s", flop, lambda: linear(ox, oq, int8=True),
               {"ours in float32": lambda: linear(ox, ow)}, limit=None)
    run, peers = backward(torch, x, w, b, seed)
    yield Work(f"{name} backward", "GFLOP/s", 2 * flop, run, peers, goal=1.0, group="linear backward",
               group_goal=1.0)


def works(threads: int, quick: bool) -> Iterator[Work]:
    torch = torch_module(threads)
    yield small(torch)
    for shape in SHAPES[:4] if quick else SHAPES:
        yield from at_shape(torch, *shape, quick)
