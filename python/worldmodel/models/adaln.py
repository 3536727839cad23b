"""adaln: the layers of diffusion transformers (Peebles & Xie 2023, arXiv 2212.09748), named as in checkpoints.

c       = t_embedder(level) + ...                                     one condition a sample, or a frame
layer   : x += gate f(norm(x) (1 + scale) + shift),  shift, scale, gate of adaLN_modulation(silu(c)), 0 at first
"""

from __future__ import annotations

from collections.abc import Callable

from .. import nn, ops
from ..tensor import Tensor

FREQUENCIES = 256


def same(x: Tensor) -> Tensor:
    """The place of an activation that another layer has done."""
    return x


class Patches(nn.Module):
    """A linear map of squares of pixels: (..., H, W, C) -> (..., N, width); weight (width, rows columns channels)."""

    def __init__(self, patch: int, channels: int, width: int):
        self.proj = nn.Linear(patch * patch * channels, width, init=nn.xavier_uniform)
        self._patch = patch

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(ops.patchify(x, size=self._patch))


class LevelEmbedding(nn.Module):
    """A level, 0 to 999, by its cosines and sines and two linear layers."""

    def __init__(self, width: int):
        first = nn.Linear(FREQUENCIES, width, act="silu", init=nn.normal)
        self.mlp = nn.Sequential(first, same, nn.Linear(width, width, init=nn.normal))

    def forward(self, t: Tensor) -> Tensor:
        """t (...,) float32 -> (..., width)."""
        return self.mlp(ops.sinusoidal(t, dim=FREQUENCIES))


class MLP(nn.Module):
    """fc2(gelu(fc1(x))); act: gelu (its tanh form) or gelu_erf."""

    def __init__(self, width: int, hidden: int, act: str = "gelu"):
        self.fc1 = nn.Linear(width, hidden, act=act, init=nn.xavier_uniform)
        self.fc2 = nn.Linear(hidden, width, init=nn.xavier_uniform)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))


def modulation(width: int, chunks: int) -> nn.Sequential:
    """silu, then a linear map to so many chunks, 0 at first."""
    return nn.Sequential(ops.silu, nn.Linear(width, chunks * width, init=nn.zeros))


def modulated(x: Tensor, m: Tensor, at: int, f: Callable[[Tensor], Tensor]) -> Tensor:
    """x + gate f(norm(x) (1 + scale) + shift); shift, scale and gate are the chunks at, at + 1 and at + 2 of m."""
    h = f(ops.adaln(x, m, m, shift_chunk=at, scale_chunk=at + 1))
    return ops.gate_residual(x, h, m, gate_chunk=at + 2)


class Last(nn.Module):
    """norm(x) (1 + scale) + shift, then the numbers of each square of pixels; both 0 at first."""

    def __init__(self, width: int, numbers: int):
        self.linear = nn.Linear(width, numbers, init=nn.zeros)
        self.adaLN_modulation = modulation(width, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m = self.adaLN_modulation(c)
        return self.linear(ops.adaln(x, m, m, shift_chunk=0, scale_chunk=1))
