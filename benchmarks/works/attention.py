"""attention: over space and over time, forward and with backward, a cache, QK norm + rotary."""

from collections.abc import Callable, Iterator

import numpy as np
from measure import Work
from works.linear import numbers, ours, torch_module
from worldmodel import _core

SPACE = [(16, 64, 6, 64), (16, 256, 6, 64)]
"""(batch, tokens, heads, head width)"""

Peers = dict[str, Callable[[], object]]
op = _core.ops


def both_ways(call: Callable, arrays: list[np.ndarray], seed: np.ndarray) -> Callable:
    """Forward and backward of ours; the gradients start from nothing each time."""
    inputs, start = [ours(a, True) for a in arrays], ours(seed)

    def run():
        for t in inputs:
            t.zero_grad()
        with _core.Tape() as tape:
            out = call(*inputs)
        tape.backward(out, start)
        tape.clear()

    return run


def torch_both_ways(torch, call: Callable, arrays: list[np.ndarray], seed: np.ndarray) -> Callable:
    inputs, start = [torch.from_numpy(a).requires_grad_() for a in arrays], torch.from_numpy(seed)

    def run():
        for t in inputs:
            t.grad = None
        call(*inputs).backward(start)

    return run


def pair(torch, name: str, flop: float, arrays, seed, call, torch_arrays, torch_call, goal) -> Iterator[Work]:
    """One row for the forward, one for both ways."""
    inputs = [ours(a) for a in arrays]
    peers: Peers = {}
    if torch:
        given = [torch.from_numpy(a) for a in torch_arrays]
        peers["torch"] = torch.no_grad()(lambda: torch_call(*given))
    yield Work(name, "GFLOP/s", flop, lambda: call(*inputs), peers, goal=goal)
    if torch:
        start = seed.reshape(torch_call(*given).shape)
        peers = {"torch": torch_both_ways(torch, torch_call, torch_arrays, start)}
    run = both_ways(call, arrays, seed)
    yield Work(f"{name}, both ways", "GFLOP/s", 3.5 * flop, run, peers, goal=goal)


def space(torch, B: int, N: int, H: int, D: int, mask: str = "full") -> Iterator[Work]:
    """Tokens of one frame; PyTorch gets its own layout (B, H, N, D)."""
    arrays, seed = [numbers(B, N, H * D) for _ in range(3)], numbers(B, N, H * D)
    apart = [np.ascontiguousarray(a.reshape(B, N, H, D).swapaxes(1, 2)) for a in arrays]
    causal = mask == "causal"
    name = f"attention {N} tokens x {H} x {D}, batch {B}" + (", causal" if causal else "")
    flop = 4.0 * B * H * N * N * D * (0.5 if causal else 1)

    def torch_call(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    def call(q, k, v):
        return op["attention"](q, k, v, heads=H, mask=mask)

    yield from pair(torch, name, flop, arrays, seed, call, apart, torch_call, 1.5)


def over_time(torch, B: int, T: int, N: int, H: int, D: int) -> Iterator[Work]:
    """Every token over the frames before it, rows as a linear layer leaves them: PyTorch must move them."""
    arrays, seed = [numbers(B, T, N, H * D) for _ in range(3)], numbers(B, T, N, H * D)

    def torch_call(*x):
        q, k, v = (t.view(B, T, N, H, D).permute(0, 2, 3, 1, 4).reshape(B * N, H, T, D) for t in x)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.reshape(B, N, H, T, D).permute(0, 3, 1, 2, 4).reshape(B, T, N, H * D)

    def call(q, k, v):
        return op["attention"](q, k, v, heads=H, mask="causal", axis=-3)

    yield from pair(torch, f"attention over {T} frames x {N} tokens x {H} x {D}, batch {B}",
                    2.0 * B * N * H * T * (T + 1) * D, arrays, seed, call, arrays, torch_call, 1.5)


def cached(torch, B: int, T: int, N: int, H: int, D: int) -> Work:
    """One new frame on a full ring, rotated as it is read; the peer's keys are rotated and in order."""
    q, k, v = numbers(B, 1, N, H * D), numbers(B, T, N, H * D), numbers(B, T, N, H * D)
    tables = op["rotary_table"](ours(np.arange(T, dtype=np.int32)), width=D)
    inputs = [ours(q), ours(k), ours(v), ours(np.full(B, 3 * T + 1, np.int32)), *tables]
    peers: Peers = {}
    if torch:
        tq, tk, tv = (torch.from_numpy(a) for a in (q, k, v))

        def torch_call():
            x = (t.view(B, -1, N, H, D).permute(0, 2, 3, 1, 4).reshape(B * N, H, -1, D) for t in (tq, tk, tv))
            out = torch.nn.functional.scaled_dot_product_attention(*x)
            return out.reshape(B, N, H, 1, D).permute(0, 3, 1, 2, 4).reshape(B, 1, N, H * D)

        peers["torch"] = torch.no_grad()(torch_call)
    return Work(f"attention, 1 frame on {T} in a ring, {N} tokens", "us", 0,
                lambda: op["attention_cached"](*inputs, heads=H), peers, limit=None, goal=1.0)


def norm_and_rotation(torch, rows: int, N: int, H: int, D: int, quick: bool) -> Work:
    """q and k of fused rows, RMS norm and rotation, in one pass; bytes: read and written once each."""
    qkv = numbers(rows, N, 3 * H * D)
    cos, sin = op["rotary_table"](ours(np.arange(N, dtype=np.int32)), width=D)
    x, peers = ours(qkv), {}
    if torch:
        tx = torch.from_numpy(qkv)
        tc, ts = (torch.from_numpy(t.numpy().copy())[:, None] for t in (cos, sin))

        def torch_call(x):
            out = []
            for t in x.view(rows, N, 3, H, D).unbind(2)[:2]:
                t = torch.nn.functional.rms_norm(t, (D,), eps=1e-6)
                a, b = t.chunk(2, -1)
                out.append(torch.cat([a * tc - b * ts, b * tc + a * ts], -1))
            return out

        peers["torch"] = torch.no_grad()(lambda: torch_call(tx))
        if not quick:
            compiled = torch.compile(torch_call, dynamic=False)
            peers["compile"] = torch.no_grad()(lambda: compiled(tx))
    return Work(f"QK norm + rotary ({rows},{N},3x{H}x{D})", "GB/s", 4.0 * rows * N * H * D * 4,
                lambda: op["qkv_norm_rotary"](x, cos, sin, heads=H), peers, limit="copy", goal=2.0,
                against=("torch",) if torch else ())


def works(threads: int, quick: bool) -> Iterator[Work]:
    torch = torch_module(threads)
    for shape in SPACE:
        yield from space(torch, *shape)
    yield from space(torch, *SPACE[1], mask="causal")
    yield from over_time(torch, 4, 16, 64, 6, 64)
    if not quick:
        yield from over_time(torch, 4, 8, 64, 6, 64)
        yield from over_time(torch, 4, 32, 64, 4, 32)
    yield cached(torch, 1, 16, 64, 6, 64)
    yield norm_and_rotation(torch, 16, 64, 6, 64, quick)
