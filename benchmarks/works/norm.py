"""norm: AdaLN, the gated residual and AdaGN, each one pass over memory, against PyTorch's several."""

from collections.abc import Iterator

from measure import Work
from works.attention import both_ways, torch_both_ways
from works.conv import own
from works.linear import numbers, torch_module
from worldmodel import _core

op = _core.ops


def works(threads: int, quick: bool) -> Iterator[Work]:
    torch = torch_module(threads)
    yield from adaln(torch, 16 * 8, 64, 384)
    yield from gate(torch, 16 * 8, 64, 384)
    if not quick:
        yield from adagn(torch, 16, 24, 32, 64)


def rows(torch, name, traffic, arrays, call, torch_call, seed, goal) -> Iterator[Work]:
    """Forward (traffic: passes over x) and both ways (three times as many)."""
    inputs, size = [own(a) for a in arrays], arrays[0].nbytes
    peers, back = {}, {}
    if torch:
        given = [torch.from_numpy(a) for a in arrays]
        peers = {"torch": torch.no_grad()(lambda: torch_call(*given))}
        back = {"torch": torch_both_ways(torch, torch_call, arrays, seed)}
    yield Work(name, "GB/s", traffic * size, lambda: call(*inputs), peers, goal=goal, limit="copy")
    run = both_ways(call, arrays, seed)
    yield Work(f"{name}, both ways", "GB/s", 3 * traffic * size, run, back, goal=goal, limit="copy")


def adaln(torch, frames: int, tokens: int, C: int) -> Iterator[Work]:
    """norm(x) (1 + scale) + shift, the condition per frame, out of one (frames, 6 C) tensor."""
    x, cond = numbers(frames, tokens, C), numbers(frames, 6 * C)

    def torch_call(x, cond):
        shift, scale = cond[:, None, :C], cond[:, None, C : 2 * C]
        return torch.nn.functional.layer_norm(x, (C,), eps=1e-6) * (1 + scale) + shift

    def call(x, cond):
        return op["adaln"](x, cond, cond, shift_chunk=0, scale_chunk=1)

    yield from rows(
        torch, f"AdaLN {frames * tokens} x {C}", 2, [x, cond], call, torch_call, numbers(frames, tokens, C), 2.0
    )


def gate(torch, frames: int, tokens: int, C: int) -> Iterator[Work]:
    x, residual, cond = numbers(frames, tokens, C), numbers(frames, tokens, C), numbers(frames, 6 * C)

    def torch_call(residual, x, cond):
        return residual + cond[:, None, 2 * C : 3 * C] * x

    def call(residual, x, cond):
        return op["gate_residual"](residual, x, cond, gate_chunk=2)

    yield from rows(
        torch,
        f"gate + residual {frames * tokens} x {C}",
        3,
        [residual, x, cond],
        call,
        torch_call,
        numbers(frames, tokens, C),
        2.0,
    )


def adagn(torch, B: int, H: int, W: int, C: int) -> Iterator[Work]:
    """silu(GroupNorm(x) (1 + scale) + shift), channels last."""
    x, cond, groups = numbers(B, H, W, C), numbers(B, 2 * C), max(1, C // 32)

    def torch_call(x, cond):
        h = torch.nn.functional.group_norm(x.permute(0, 3, 1, 2), groups)
        h = h * (1 + cond[:, :C, None, None]) + cond[:, C:, None, None]
        return torch.nn.functional.silu(h).permute(0, 2, 3, 1)

    def call(x, cond):
        return op["ada_group_norm"](x, cond, cond, groups=groups, act="silu", scale_chunk=0, shift_chunk=1)

    yield from rows(
        torch, f"AdaGN + silu {H}x{W}x{C}, batch {B}", 2, [x, cond], call, torch_call, numbers(B, H, W, C), 2.0
    )
