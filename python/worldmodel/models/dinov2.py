"""dinov2: the image encoder DINOv2 (Oquab et al. 2023, arXiv 2304.07193), also with registers (Darcet et al. 2023).

    encoder = wm.pretrained.load("dinov2-small.safetensors")     # Hugging Face or hub names, recognised by the keys
    cls, registers, patches = encoder(encoder.pixels(frames))    # uint8 (B,H,W,3) -> (B,C), (B,R,C), (B,N,C)

    tokens  = [class token, a linear map of each 14x14 patch] + positions, registers put in behind the class token
    layer   : x += gamma1 proj(attention(norm(x)));  x += gamma2 mlp(norm(x))

Positions are learned for one size of picture and interpolated (bicubic) for others, in one of two ways:
hub: as torch.hub's models do, whose scale is (n + 0.1) / M; size: as Hugging Face's, whose scale is n / M.  Models with
registers smooth first (antialias), and both ways are then the same.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from .. import nn, ops
from ..tensor import Tensor

SIZES = {
    "small": {"width": 384, "depth": 12},
    "base": {"width": 768, "depth": 12},
    "large": {"width": 1024, "depth": 24},
    "giant": {"width": 1536, "depth": 40, "gated": True},
}
HEAD, EPS = 64, 1e-6
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
"""Of ImageNet's pixels in [0, 1], by which pictures are normalised."""

Positions = Literal["hub", "size"]


class Attention(nn.Module):
    """x + gamma proj(attention(norm(x))): its linear layers."""

    def __init__(self, width: int):
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)


class MLP(nn.Module):
    """fc2(gelu(fc1(x)))."""

    def __init__(self, width: int, hidden: int):
        self.fc1, self.fc2 = nn.Linear(width, hidden, act="gelu_erf"), nn.Linear(hidden, width)

    def inner(self, x: Tensor) -> Tensor:
        return self.fc1(x)

    @property
    def last(self) -> nn.Linear:
        return self.fc2


class GatedMLP(nn.Module):
    """w3(silu(a) b), a and b of w12(x) (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int):
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def inner(self, x: Tensor) -> Tensor:
        return ops.swiglu(x, self.w12.weight, self.w12.bias)

    @property
    def last(self) -> nn.Linear:
        return self.w3


class Scale(nn.Module):
    """gamma, one number a channel."""

    def __init__(self, width: int):
        self.gamma = nn.parameter(nn.ones(width))


class Block(nn.Module):
    """A layer; see the file's head."""

    def __init__(self, width: int, hidden: int, gated: bool):
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(width, EPS), Attention(width), Scale(width)
        self.norm2, self.ls2 = nn.LayerNorm(width, EPS), Scale(width)
        self.mlp = GatedMLP(width, hidden) if gated else MLP(width, hidden)
        self._heads = width // HEAD

    def forward(self, x: Tensor) -> Tensor:
        a = self.attn
        h = ops.attention_qkv(a.qkv(self.norm1(x)), heads=self._heads)
        x = ops.linear_gated(h, a.proj.weight, a.proj.bias, self.ls1.gamma, x)
        last = self.mlp.last
        return ops.linear_gated(self.mlp.inner(self.norm2(x)), last.weight, last.bias, self.ls2.gamma, x)


class Patches(nn.Module):
    """A linear map of each square of pixels; weight (width, rows columns channels)."""

    def __init__(self, patch: int, channels: int, width: int):
        self.proj = nn.Linear(patch * patch * channels, width)
        self._patch = patch

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(ops.patchify(x, size=self._patch))


class DINOv2(nn.Module):
    """size: one of SIZES, or width, depth, hidden and gated; registers: how many; side: the patches of a row that
    positions were learned for (37: 518 pixels); positions: see the file's head."""

    def __init__(
        self,
        size: str = "small",
        registers: int = 0,
        side: int = 37,
        patch: int = 14,
        positions: Positions = "hub",
        width: int | None = None,
        depth: int | None = None,
        hidden: int | None = None,
        gated: bool | None = None,
    ):
        if size not in SIZES or positions not in ("hub", "size"):
            raise ValueError(
                f"DINOv2: size must be one of {', '.join(SIZES)}, positions hub or size, got {size!r}, {positions!r}"
            )
        known = SIZES[size]
        width, depth = width or int(known["width"]), depth or int(known["depth"])
        gated = bool(known.get("gated")) if gated is None else gated
        if width % HEAD or registers < 0 or side < 1 or patch < 1:
            raise ValueError(
                f"DINOv2: width must be a multiple of {HEAD}, got {width}; {registers=}, {side=}, {patch=}"
            )
        hidden = hidden or ((width * 8 // 3 + 7) // 8 * 8 if gated else 4 * width)
        self.cls_token = nn.parameter(nn.normal(1, 1, width, std=1e-6))
        self.pos_embed = nn.parameter(nn.normal(1, side * side + 1, width))
        self.register_tokens = nn.parameter(nn.normal(1, registers, width, std=1e-6)) if registers else None
        self.mask_token = nn.parameter(nn.zeros(1, width))
        self.patch_embed = Patches(patch, 3, width)
        self.blocks = [Block(width, hidden, gated) for _ in range(depth)]
        self.norm = nn.LayerNorm(width, EPS)
        self._side, self._registers, self._way = side, registers, positions

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.norm.weight.shape[0]

    @property
    def patch(self) -> int:
        """Pixels of a patch's side."""
        return self.patch_embed._patch

    def pixels(self, frames: np.ndarray | Tensor) -> Tensor:
        """uint8 (B,H,W,3) -> normalised float32, for forward."""
        frames = frames if isinstance(frames, Tensor) else Tensor(np.ascontiguousarray(frames))
        scaled = ops.frames_float(frames, 0.0, 1.0)
        return ops.mul(ops.sub(scaled, Tensor(MEAN)), Tensor(1 / STD))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """x (B,H,W,3) of `pixels`, sides multiples of the patch -> class token (B,C), registers (B,R,C) or None, patch
        tokens (B,N,C), row by row; all normalised.  Raises ValueError for other sides."""
        x = self.norm(self.tokens(x))
        B, N, C = x.shape
        cls = ops.reshape(ops.slice(x, 1, 0, 1), (B, C))
        registers = ops.slice(x, 1, 1, 1 + self._registers) if self._registers else None
        return cls, registers, ops.slice(x, 1, 1 + self._registers, N)

    def tokens(self, x: Tensor, layers: int | None = None) -> Tensor:
        """All tokens after so many layers (all), before the last norm: (B,1+R+N,C)."""
        B, H, W, _ = x.shape
        p = self.patch
        if H % p or W % p or not H or not W:
            raise ValueError(f"DINOv2: sides must be multiples of {p}, got {H}x{W}")
        positions = self.positions(H // p, W // p)
        patches = ops.add(self.patch_embed(x), ops.slice(positions, 1, 1, positions.shape[1]))
        first = ops.add(self.cls_token, ops.slice(positions, 1, 0, 1))
        front = first if self.register_tokens is None else ops.concat(first, self.register_tokens, axis=1)
        x = ops.concat(ops.expand(front, (B, *front.shape[1:])), patches, axis=1)
        for block in self.blocks[:layers]:
            x = block(x)
        return x

    def positions(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows columns, C): as learned, or interpolated, with a gradient."""
        side, C = self._side, self.width
        if rows == columns == side:
            return self.pos_embed
        smooth = self._registers > 0
        offset = 0.1 if self._way == "hub" and not smooth else 0.0
        down, across = (resizing(side, n, offset, smooth) for n in (rows, columns))
        grid = ops.reshape(ops.slice(self.pos_embed, 1, 1, side * side + 1), (side, side * C))
        grid = ops.linear(ops.permute(grid, (1, 0)), Tensor(down))  # (side C, rows)
        grid = ops.permute(ops.reshape(grid, (side, C, rows)), (2, 1, 0))
        grid = ops.permute(ops.linear(grid, Tensor(across)), (0, 2, 1))  # (rows, columns, C)
        return ops.concat(ops.slice(self.pos_embed, 1, 0, 1), ops.reshape(grid, (1, rows * columns, C)), axis=1)


def resizing(before: int, after: int, offset: float = 0.0, smooth: bool = False) -> np.ndarray:
    """The matrix (after, before) of PyTorch's bicubic interpolation along an axis, corners not aligned.

    offset: (after + offset) / before is the scale.  smooth: antialiased, with a = -0.5; else a = -0.75 (Keys 1981).
    """
    scale = before / (after + offset)
    out = np.zeros((after, before))
    for i in range(after):
        centre = scale * (i + 0.5)
        if smooth:
            wide = max(scale, 1.0)
            low = max(int(centre - 2 * wide + 0.5), 0)
            taps = np.arange(low, min(int(centre + 2 * wide + 0.5), before))
            weight = _cubic((taps - centre + 0.5) / wide, -0.5)
            out[i, taps] = weight / weight.sum()
        else:
            left = math.floor(centre - 0.5)
            for tap in range(left - 1, left + 3):
                out[i, min(max(tap, 0), before - 1)] += _cubic(np.float64(centre - 0.5 - tap), -0.75)
    return out.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
