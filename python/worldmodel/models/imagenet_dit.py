"""imagenet_dit: the class-conditional DiT (Peebles & Xie 2023, arXiv 2212.09748), whose checkpoints test our sampler.

    model = wm.pretrained.load("DiT-XL-2-256x256.pt")
    latents = model.sample([207, 360], noise, steps=50, guidance=4.0)       # (B,32,32,4), of Stable Diffusion's VAE
    latents = model.sample([207, 360], noise, steps=250, method="ddpm")     # as its own samples were made

eps-prediction with 1000 linear betas, over evenly spaced levels; guidance as the original does it by default, on the
first three channels only.  With p the alpha_bar of the level before, a this level's, beta = 1 - a / p,

    x0   = (x - sqrt(1 - a) eps) / sqrt(a)
    DDIM   x' = sqrt(p) x0 + sqrt(1 - p) eps
    DDPM   x' = (sqrt(p) beta x0 + sqrt(1 - beta) (1 - p) x) / (1 - a) + sd e
           log sd^2 = u log beta + (1 - u) log(beta (1 - p) / (1 - a)),     u = (said + 1) / 2

(the variance learned between its bounds; Nichol and Dhariwal 2021, arXiv 2102.09672, equation 15); a network that says
no variances has sd^2 = beta.  The last step adds no noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from .. import nn, ops
from ..sampling import streams
from ..tensor import Tensor
from .adaln import MLP, Last, LevelEmbedding, Patches, modulated, modulation

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
"""width, depth, heads."""

LEVELS = 1000
SALT_STEP = 400


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        self.qkv = nn.Linear(width, 3 * width, init=nn.xavier_uniform)
        self.proj = nn.Linear(width, width, init=nn.xavier_uniform)
        self._heads = heads

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(ops.attention_qkv(self.qkv(x), heads=self._heads))


class Block(nn.Module):
    """AdaLN-Zero around attention and an MLP."""

    def __init__(self, width: int, heads: int):
        self.attn, self.mlp = Attention(width, heads), MLP(width, 4 * width)
        self.adaLN_modulation = modulation(width, 6)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m = self.adaLN_modulation(c)
        return modulated(modulated(x, m, 0, self.attn), m, 3, self.mlp)


class Labels(nn.Module):
    """A row a class, and the last for none."""

    def __init__(self, classes: int, width: int):
        self.embedding_table = nn.Embedding(classes + 1, width, std=0.02)


class ImageNetDiT(nn.Module):
    """side: of the latents; sigma: the network also says variances, which DDPM uses."""

    def __init__(
        self,
        size: str = "XL",
        patch: int = 2,
        side: int = 32,
        channels: int = 4,
        classes: int = 1000,
        sigma: bool = True,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
    ):
        if size not in SIZES:
            raise ValueError(f"ImageNetDiT: size must be one of {', '.join(SIZES)}, got {size!r}")
        known = SIZES[size]
        width, depth, heads = width or known[0], depth or known[1], heads or known[2]
        if width % heads or side % patch or width % 4:
            raise ValueError(f"ImageNetDiT: {heads} heads and patches of {patch} do not divide {width} and {side}")
        self._side, self._patch, self._channels, self._classes, self._sigma = side, patch, channels, classes, sigma
        self.x_embedder = Patches(patch, channels, width)
        self.t_embedder, self.y_embedder = LevelEmbedding(width), Labels(classes, width)
        self.pos_embed = nn.buffer(grid_positions(width, side // patch)[None])
        self.blocks = [Block(width, heads) for _ in range(depth)]
        self.final_layer = Last(width, patch * patch * channels * (2 if sigma else 1))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Latents x (B,side,side,C), levels t (B,) float32 of 0 to 999, labels (B,) int32 (classes: none) -> eps, and
        the variances behind it if sigma: (B,side,side,C or 2 C)."""
        c = ops.add(self.t_embedder(t), self.y_embedder.embedding_table(labels))
        h = ops.add(self.x_embedder(x), self.pos_embed)
        for block in self.blocks:
            h = block(h, c)
        return ops.unpatchify(self.final_layer(h, c), height=self._side, width=self._side, size=self._patch)

    def guided(self, x: Tensor, t: Tensor, labels: Tensor, guidance: float) -> tuple[Tensor, Tensor | None]:
        """eps (B,side,side,C): none + guidance (class - none) in the first three channels, class's own in the rest; and
        where between its bounds the class's own variance lies, -1 to 1, if the network says so."""
        B, C = x.shape[0], self._channels
        if guidance == 1:
            said = self(x, t, labels)
            return ops.slice(said, -1, 0, C), ops.slice(said, -1, C, 2 * C) if self._sigma else None
        none = Tensor(np.full(B, self._classes, np.int32))
        both = self(ops.concat(x, x), ops.concat(t, t), ops.concat(labels, none))
        said, free = (ops.slice(both, 0, i * B, (i + 1) * B) for i in (0, 1))
        low, other = ops.slice(said, -1, 0, 3), ops.slice(free, -1, 0, 3)
        mixed = ops.add(other, ops.scale_shift(ops.sub(low, other), guidance, 0.0))
        eps = ops.concat(mixed, ops.slice(said, -1, 3, C), axis=-1) if C > 3 else mixed
        return eps, ops.slice(said, -1, C, 2 * C) if self._sigma else None

    def sample(
        self,
        labels: Sequence[int],
        noise: np.ndarray,
        steps: int = 50,
        guidance: float = 4.0,
        method: Literal["ddim", "ddpm"] = "ddim",
        seed: int = 0,
    ) -> np.ndarray:
        """Latents (B,side,side,C) from noise of that shape.  seed: of DDPM's noise; sample i has a stream of its own,
        seed + i.  Raises ValueError for other shapes, labels or methods."""
        wanted = (len(labels), self._side, self._side, self._channels)
        index = np.asarray(labels, np.int32)
        if noise.shape != wanted or not 1 <= steps <= LEVELS or (index < 0).any() or (index > self._classes).any():
            raise ValueError(
                f"sample: wanted noise {wanted}, 1 to {LEVELS} steps and labels of 0 to {self._classes}, "
                f"got {noise.shape}, {steps} and {list(labels)}"
            )
        if method not in ("ddim", "ddpm"):
            raise ValueError(f'sample: method must be "ddim" or "ddpm", got {method!r}')
        x, B = Tensor(np.ascontiguousarray(noise, np.float32)), len(labels)
        stream = Tensor(streams(np.arange(seed, seed + B)), copy=True)
        times = spaced(steps)
        for i in reversed(range(steps)):
            now, then = alpha_bar(times[i]), alpha_bar(times[i - 1] if i else -1)
            t = Tensor(np.full(B, times[i], np.float32))
            eps, variance = self.guided(x, t, Tensor(index), guidance)
            if method == "ddpm":
                e = ops.normal(stream, salt=SALT_STEP + i, shape=x.shape) if i else None
                x = ancestral(x, eps, variance, now, then, e)
            else:
                both = (Tensor(np.full(B, bar, np.float32)) for bar in (now, then))
                x = ops.ddim_step(x, eps, *both, target="eps")
        return np.array(x.numpy())


def ancestral(x: Tensor, eps: Tensor, variance: Tensor | None, now: float, then: float, e: Tensor | None) -> Tensor:
    """DDPM's step from alpha_bar now to then; e: its noise, None for none.  See the file's head."""
    beta = 1 - now / then
    start = then**0.5 * beta / (1 - now)  # x0's part of the mean
    mean = ops.add(
        ops.scale_shift(x, start / now**0.5 + (1 - beta) ** 0.5 * (1 - then) / (1 - now), 0.0),
        ops.scale_shift(eps, -start * ((1 - now) / now) ** 0.5, 0.0),
    )
    if e is None:
        return mean
    if variance is None:
        return ops.add(mean, ops.scale_shift(e, beta**0.5, 0.0))
    high, low = float(np.log(beta)), float(np.log(beta * (1 - then) / (1 - now)))
    half_log = ops.scale_shift(variance, (high - low) / 4, (high + low) / 4)
    return ops.add(mean, ops.mul(ops.exp(half_log), e))


def spaced(steps: int) -> list[int]:
    """So many of the levels 0 to 999, evenly, both ends among them."""
    return [round(i * (LEVELS - 1) / max(1, steps - 1)) for i in range(steps)]


def alpha_bar(t: int) -> float:
    """prod (1 - beta), betas even from 1e-4 to 0.02; 1 before the first level."""
    return float(np.prod(1 - np.linspace(1e-4, 0.02, LEVELS)[: t + 1]))


def grid_positions(width: int, side: int) -> np.ndarray:
    """(side^2, width): sines and cosines of the column, then of the row."""
    omega = 10000.0 ** -(np.arange(width // 4) / (width / 4))
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    angles = [p.reshape(-1, 1) * omega for p in (columns, rows)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], 1).astype(np.float32)
