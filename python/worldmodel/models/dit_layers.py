"""dit_layers: what a DiT is made of: attention within a frame and over frames, blocks, conditions, patches.

Activations are (B,T,N,width): B windows of T frames of N tokens.  Every part is written once and serves both
a window at once and one new frame over a cache; only `Time` knows which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .. import diffusion, nn
from .. import ops as _ops
from ..tensor import Tensor

if TYPE_CHECKING:
    from .dit_config import DiTConfig

ops: Any = _ops

ACTION = 32
"""Numbers of the action vector z, whatever the action space."""


# ---- attention over time: a window at once, or a cache ------------------------------------------------


class Time(Protocol):
    """How frames see the frames before them."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """q, k normed but not turned, v: (B,F,N,heads D) -> (B,F,N,heads D)."""


class WindowTime:
    """All frames of a window are there: causal attention over axis 1."""

    def __init__(self, cos: Tensor, sin: Tensor, frames: int):
        self.cos, self.sin = cos[:frames], sin[:frames]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        q = ops.qk_norm_rotary(q, self.cos, self.sin, heads=heads, norm="none", axis=1)
        k = ops.qk_norm_rotary(k, self.cos, self.sin, heads=heads, norm="none", axis=1)
        return ops.attention(q, k, v, heads=heads, mask="causal", axis=1)


class CachedTime:
    """Keys and values of n environments (n,slots,N,width) a layer; position (n,): the latest frame of each,
    counted from 0; table (n,slots): where their frames lie (pages.py), each in its own slot if not given."""

    def __init__(
        self,
        caches: Sequence[tuple[Tensor, Tensor]],
        position: Tensor,
        cos: Tensor,
        sin: Tensor,
        sinks: int,
        table: Tensor | None = None,
    ):
        self.caches, self.position, self.cos, self.sin, self.sinks = caches, position, cos, sin, sinks
        self.table = table

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        keys, values = self.caches[layer]
        keys = ops.cache_write(keys, k, self.position, self.table, sinks=self.sinks)
        values = ops.cache_write(values, v, self.position, self.table, sinks=self.sinks)
        return ops.attention_cached(
            q, keys, values, self.position, self.cos, self.sin, self.table, heads=heads, sinks=self.sinks
        )


# ---- layers -------------------------------------------------------------------------------------------


class TimeAttention(nn.Module):
    def __init__(self, width: int, head_width: int):
        self.q, self.k, self.v = (
            nn.Linear(width, width, bias=False, init=nn.xavier_uniform) for _ in range(3)
        )
        self.q_scale, self.k_scale = nn.parameter(nn.ones(head_width)), nn.parameter(nn.ones(head_width))
        self.out = nn.Linear(width, width, init=nn.xavier_uniform)
        self._heads = width // head_width

    def forward(self, x: Tensor, layer: int, time: Time) -> Tensor:
        """What out is to be applied to."""
        q = ops.qk_norm_rotary(self.q(x), None, None, self.q_scale, heads=self._heads, axis=1)
        k = ops.qk_norm_rotary(self.k(x), None, None, self.k_scale, heads=self._heads, axis=1)
        return time.attend(layer, q, k, self.v(x), self._heads)


class SpaceAttention(nn.Module):
    def __init__(self, width: int, head_width: int):
        self.qkv = nn.Linear(width, 3 * width, bias=False, init=nn.xavier_uniform)
        self.q_scale, self.k_scale = nn.parameter(nn.ones(head_width)), nn.parameter(nn.ones(head_width))
        self.out = nn.Linear(width, width, init=nn.xavier_uniform)
        self._heads = width // head_width

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """What out is to be applied to."""
        qkv = self.qkv(x)
        q, k = ops.qkv_norm_rotary(qkv, cos, sin, self.q_scale, self.k_scale, heads=self._heads)
        return ops.attention_qkv(qkv, q, k, heads=self._heads)


class Block(nn.Module):
    """One layer of the head's formula; time: the number of its attention over frames, or None."""

    def __init__(self, config: DiTConfig, time: int | None):
        width = config.width
        self._time = time
        self.modulation = nn.Linear(width, (6 if time is None else 9) * width, init=nn.zeros)
        self.space = SpaceAttention(width, config.head_width)
        self.time = None if time is None else TimeAttention(width, config.head_width)
        hidden = (width * 8 // 3 + 31) // 32 * 32
        self.up = nn.parameter(nn.xavier_uniform(2 * hidden, width))
        self.down = nn.Linear(hidden, width, init=nn.xavier_uniform)

    def forward(self, x: Tensor, m: Tensor, cos: Tensor, sin: Tensor, time: Time) -> Tensor:
        """x (B,T,N,width); m (B,T,parts width): shift, scale and gate of each part."""
        a = self.space(modulated(x, m, 0), cos, sin)
        x = gated(x, m, 0, self.space.out, a)
        if self.time is not None and self._time is not None:
            a = self.time(modulated(x, m, 2), self._time, time)
            x = gated(x, m, 2, self.time.out, a)
        a = ops.swiglu(modulated(x, m, 1), self.up, **self._rounded("up"))
        return gated(x, m, 1, self.down, a)


def modulated(x: Tensor, m: Tensor, part: int) -> Tensor:
    """norm(x) (1 + scale) + shift; one condition a frame."""
    return ops.adaln(x, m, m, scale_chunk=3 * part + 1, shift_chunk=3 * part)


def gated(x: Tensor, m: Tensor, part: int, linear: nn.Linear, a: Tensor) -> Tensor:
    """x + gate linear(a)."""
    gate = ops.slice(m, -1, (3 * part + 2) * x.shape[-1], (3 * part + 3) * x.shape[-1])
    return ops.linear_gated(a, linear.weight, linear.bias, gate, x, **linear._rounded("weight"))


class Condition(nn.Module):
    """Levels and actions -> c (...,width), ready for modulations."""

    def __init__(self, width: int, action_features: int, sizes: int):
        self.level = nn.Linear(4 * diffusion.LEVEL_FREQUENCIES, width)
        self.size = nn.Linear(sizes, width, bias=False, init=nn.zeros)
        self.mix = nn.Linear(width, width)
        self.action = nn.Linear(action_features, ACTION)
        self.unknown = nn.parameter(nn.normal(ACTION, std=0.5))
        self.z = nn.Linear(ACTION, width, bias=False)

    def vector(self, actions: Tensor, known: Tensor) -> Tensor:
        """z (...,32) of action features (...,F); the learned null where known (...) is 0."""
        known = known.reshape((*known.shape, 1))
        return self.action(actions) * known + self.unknown * (1.0 - known)

    def levels(self, waves: Tensor, size: Tensor) -> Tensor:
        return self.mix(ops.silu(self.level(waves) + self.size(size)))

    def forward(self, levels: Tensor, z: Tensor) -> Tensor:
        return ops.silu(levels + self.z(z))


class ConvBlock(nn.Module):
    """x + conv(AdaGN(conv(AdaGN(x)))) over (F,H,W,channels), the second convolution 0 at first (after
    Dhariwal & Nichol 2021)."""

    def __init__(self, channels: int, width: int):
        self.modulation = nn.Linear(width, 4 * channels, init=nn.zeros)
        self.first, self.second = nn.Conv2d(channels, channels), nn.Conv2d(channels, channels, init=nn.zeros)
        self._groups = max(1, channels // 32)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """m (F,4 channels): shift and scale of each norm."""
        h = ops.ada_group_norm(x, m, m, groups=self._groups, act="silu", scale_chunk=1, shift_chunk=0)
        h = ops.ada_group_norm(
            self.first(h), m, m, groups=self._groups, act="silu", scale_chunk=3, shift_chunk=2
        )
        return self.second(h, residual=x)


class Patches(nn.Module):
    """Frames (F,H,W,channels) to tokens (F,N,width) and back to (F,H,W,C).  With a stem, convolutions stand
    round the transformer: at 1/2, 1/4 .. of the resolution with stem, 2 stem .. channels, each level with a
    skip, as in a UNet."""

    def __init__(self, frame_shape: tuple[int, int, int], channels: int, config: DiTConfig, patch: int):
        H, W, C = frame_shape
        widths = [config.stem << i for i in range(config.levels if config.stem else 0)]
        self._shape, self._levels = frame_shape, len(widths)
        self.grid = (math.ceil(H / patch), math.ceil(W / patch))
        self._pad = (self.grid[0] * patch - H, self.grid[1] * patch - W)
        self._patch, inner = patch >> len(widths), widths[-1] if widths else C
        if widths:
            pairs = list(zip(widths, widths[1:], strict=False))
            self.first = nn.Conv2d(4 * channels, widths[0])
            self.before = [ConvBlock(w, config.width) for w in widths]
            self.shrink = [nn.Conv2d(a, b, stride=2) for a, b in pairs]
            self.grow = [nn.Conv2d(b, a, upsample=2) for a, b in pairs]
            self.after = [ConvBlock(w, config.width) for w in [widths[0], *widths]]
            self.last = nn.Conv2d(widths[0], 4 * C, init=nn.zeros)
        self.cut = nn.Conv2d(
            inner if widths else channels, config.width, kernel=self._patch, stride=self._patch
        )
        self.position = nn.parameter(nn.normal(self.grid[0] * self.grid[1], config.width))
        self.out = nn.Linear(
            config.width, self._patch**2 * inner, init=nn.fan_in_uniform if widths else nn.zeros
        )

    def modulate(self, c: Tensor) -> list[Tensor]:
        """Conditions -> what tokens and frames take."""
        return [block.modulation(c) for block in [*self.before, *self.after]] if self._levels else []

    def tokens(self, x: Tensor, m: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Tokens, and what skips the transformer; m: of modulate, (F,...) each."""
        for axis, n in enumerate(self._pad, start=1):
            x = ops.pad(x, axis, 0, n) if n else x
        skips = []
        for i in range(self._levels):
            x = self.before[i](self.shrink[i - 1](x) if i else self.first(squares(x, 2)), m[i])
            skips.append(x)
        cut = ops.conv2d(x, self.cut.weight, self.cut.bias, stride=self._patch, padding=0)
        return cut.reshape(len(cut), len(self.position), -1) + self.position, skips

    def frames(self, x: Tensor, skips: list[Tensor], m: list[Tensor]) -> Tensor:
        """From the head's numbers of each token (F,N,width)."""
        (h, w), p, (H, W, _), deep = self.grid, self._patch, self._shape, self._levels
        x = ops.unpatchify(self.out(x), height=h * p, width=w * p, size=p)
        for i in reversed(range(deep)):
            x = (x if i == deep - 1 else self.grow[i](x)) + skips[i]
            x = self.after[i + 1](x, m[deep + i + 1])
        if deep:
            x = self.last(ops.silu(self.after[0](x, m[deep])))
            tall, wide = x.shape[1:3]
            x = ops.unpatchify(x.reshape(len(x), tall * wide, -1), height=2 * tall, width=2 * wide, size=2)
        return x[:, :H, :W] if any(self._pad) else x


def squares(x: Tensor, size: int) -> Tensor:
    """(F,H,W,C) -> (F,H/size,W/size,size size C): the pixels of a square as channels."""
    F, H, W, _ = x.shape
    return ops.patchify(x, size=size).reshape(F, H // size, W // size, -1)
