"""blocks: the layers of DIAMOND (Alonso et al. 2024, arXiv 2405.12399), under the names of its checkpoints.

    AdaGN      GroupNorm(x) (1 + scale) + shift, scale and shift linear in the condition; groups of 32 channels
    residual   x + conv(silu(AdaGN(conv(silu(AdaGN(x)))))), then attention where asked
    UNet       levels of residual blocks; every block of the way up also sees the output of its twin on the way down

Channels last, so a convolution's weight is (out, kernel, kernel, in) here and (out, in, kernel, kernel) there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import nn, ops
from ...tensor import Tensor

GROUP, HEAD = 32, 8
"""Channels of a norm's group and of an attention head."""


def conv3(features_in: int, features: int, **how) -> nn.Conv2d:
    return nn.Conv2d(features_in, features, **how)


def conv1(features_in: int, features: int, **how) -> nn.Conv2d:
    return nn.Conv2d(features_in, features, kernel=1, **how)


class GroupNorm(nn.Module):
    """act(GroupNorm(x)), with weight and bias."""

    def __init__(self, features: int, act: str = "none"):
        self.norm = nn.GroupNorm(max(1, features // GROUP), features)
        self._groups, self._act = max(1, features // GROUP), act

    def forward(self, x: Tensor) -> Tensor:
        return ops.group_norm(x, self.norm.weight, self.norm.bias, groups=self._groups, act=self._act)


class AdaGN(nn.Module):
    """silu(GroupNorm(x) (1 + scale) + shift)."""

    def __init__(self, features: int, cond: int):
        self.linear = nn.Linear(cond, 2 * features)
        self._groups = max(1, features // GROUP)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m = self.linear(c)
        return ops.ada_group_norm(x, m, m, groups=self._groups, act="silu", scale_chunk=0, shift_chunk=1)


class Attention(nn.Module):
    """y + out(attention(y)), y = norm(x), over all pixels, heads of 8 channels; out is 0 at first.  (The original goes
    on from the normalised y, not from x; so its weights want it.)"""

    def __init__(self, features: int):
        self.norm = GroupNorm(features)
        self.qkv_proj = conv1(features, 3 * features)
        self.out_proj = conv1(features, features, init=nn.zeros)
        self._heads = max(1, features // HEAD)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        y = self.norm(x)
        qkv = ops.reshape(self.qkv_proj(y), (B, H * W, 3 * C))
        seen = ops.attention_qkv(qkv, heads=self._heads)
        return self.out_proj(ops.reshape(seen, (B, H, W, C)), residual=y)


class Fourier(nn.Module):
    """cos and sin of 2 pi t w, w normal and fixed."""

    def __init__(self, features: int):
        self.weight = nn.buffer(nn.normal(1, features // 2, std=1.0))

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) -> (B, features)."""
        return ops.fourier(t, ops.reshape(self.weight, (-1,)))


class Downsample(nn.Module):
    """A convolution of stride 2."""

    def __init__(self, features: int):
        self.conv = conv3(features, features, stride=2, padding=1, init=nn.orthogonal)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Every pixel twice in both directions, then a convolution."""

    def __init__(self, features: int):
        self.conv = conv3(features, features, upsample=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class SmallResidual(nn.Module):
    """skip(x) + conv(silu(norm(x)))."""

    def __init__(self, features_in: int, features: int):
        self.f = nn.Sequential(GroupNorm(features_in, "silu"), same, conv3(features_in, features))
        self.skip_projection = None if features_in == features else conv1(features_in, features)
        self._f = self.f._layers

    def forward(self, x: Tensor) -> Tensor:
        norm, _, conv = self._f
        return conv(norm(x), residual=self.skip_projection(x) if self.skip_projection else x)


def same(x: Tensor) -> Tensor:
    """The place of an activation that the layer before it has done."""
    return x


class Residual(nn.Module):
    """See the file's head; the second convolution is 0 at first."""

    def __init__(self, features_in: int, features: int, cond: int, attention: bool):
        self.proj = None if features_in == features else conv1(features_in, features)
        self.norm1, self.conv1 = AdaGN(features_in, cond), conv3(features_in, features)
        self.norm2, self.conv2 = AdaGN(features, cond), conv3(features, features, init=nn.zeros)
        self.attn = Attention(features) if attention else None

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x, c))
        x = self.conv2(self.norm2(h, c), residual=self.proj(x) if self.proj else x)
        return self.attn(x) if self.attn else x


class Residuals(nn.Module):
    """Residual blocks one after the other; `beside`, one tensor a block, is put behind each one's input."""

    def __init__(self, features_in: Sequence[int], features: Sequence[int], cond: int, attention: bool):
        self.resblocks = [Residual(a, b, cond, attention) for a, b in zip(features_in, features, strict=True)]

    def forward(self, x: Tensor, c: Tensor, beside: Sequence[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        outputs = []
        for i, block in enumerate(self.resblocks):
            x = block(x if beside is None else ops.concat(x, beside[i], axis=-1), c)
            outputs.append(x)
        return x, outputs


def going_down(depths: Sequence[int], channels: Sequence[int], cond: int, attention: Sequence[bool]) -> list[Residuals]:
    """The residual blocks of each level."""
    levels = zip(depths, (channels[0], *channels), channels, attention, strict=False)
    return [Residuals([a] + [b] * (n - 1), [b] * n, cond, bool(att)) for n, a, b, att in levels]


class UNet(nn.Module):
    """depths: blocks a level going down, one more going up; channels, attention: of a level."""

    def __init__(self, cond: int, depths: Sequence[int], channels: Sequence[int], attention: Sequence[bool]):
        self.d_blocks = going_down(depths, channels, cond, attention)
        up = [
            Residuals([2 * b] * n + [a + b], [b] * n + [a], cond, bool(att))
            for n, a, b, att in zip(depths, (channels[0], *channels), channels, attention, strict=False)
        ]
        self.u_blocks = up[::-1]
        self.mid_blocks = Residuals([channels[-1]] * 2, [channels[-1]] * 2, cond, True)
        self.downsamples = [None, *(Downsample(c) for c in channels[:-1])]
        self.upsamples = [None, *(Upsample(c) for c in channels[-2::-1])]

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B,H,W,channels[0]); sides that do not halve often enough are padded below and to the right."""
        B, H, W, _ = x.shape
        unit = 1 << (len(self.d_blocks) - 1)
        if H % unit or W % unit:
            x = ops.pad(ops.pad(x, 1, after=-H % unit), 2, after=-W % unit)
        skips = []
        for blocks, down in zip(self.d_blocks, self.downsamples, strict=True):
            begin = down(x) if down else x
            x, outputs = blocks(begin, c)
            skips.append([begin, *outputs])
        x, _ = self.mid_blocks(x, c)
        for blocks, up, skip in zip(self.u_blocks, self.upsamples, reversed(skips), strict=True):
            x, _ = blocks(up(x) if up else x, c, skip[::-1])
        return ops.slice(ops.slice(x, 1, 0, H), 2, 0, W) if x.shape[1:3] != (H, W) else x


def pixels_last(weight: np.ndarray, channels: int) -> np.ndarray:
    """Columns of a layer over flattened pixels, (rows, C H W) there, (rows, H W C) here."""
    return np.ascontiguousarray(weight.reshape(len(weight), channels, -1).transpose(0, 2, 1)).reshape(weight.shape)


def channels_first(weight: np.ndarray, channels: int) -> np.ndarray:
    """The inverse of pixels_last."""
    return np.ascontiguousarray(weight.reshape(len(weight), -1, channels).transpose(0, 2, 1)).reshape(weight.shape)


def lstm_start(features_in: int, features: int) -> dict[str, np.ndarray]:
    """DIAMOND's first weights of an LSTM: Xavier, orthogonal, the forget gate's bias 1."""
    bias = nn.zeros(4 * features)
    bias[features : 2 * features] = 1
    return {
        "weight_ih": nn.xavier_uniform(4 * features, features_in),
        "weight_hh": nn.orthogonal(4 * features, features),
        "bias_ih": bias,
        "bias_hh": nn.zeros(4 * features),
    }
