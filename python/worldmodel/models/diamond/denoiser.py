"""denoiser: DIAMOND's next frame, by a UNet under the EDM objective (Karras et al. 2022, arXiv 2206.00364).

s^2 = sigma^2 + offset^2                      offset noise: one normal a channel, the same for all pixels
D   = c_skip noisy + c_out F(c_in noisy, ln(s) / 4, context / sigma_data, actions)
train: sigma = exp(-0.4 + 1.2 n) within [0.002, 20], |F - (x - c_skip noisy) / c_out|^2; roll-outs of several steps
       go on from their own D, cut to bytes
sample: sigmas of Karras from 5 to 0.002; Euler or Heun, with churn
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ... import nn, ops
from ...tensor import Tensor
from .blocks import Fourier, GroupNorm, UNet, conv3, same


@dataclass(frozen=True)
class Noise:
    """Of data and training."""

    sigma_data: float = 0.5
    offset: float = 0.3
    loc: float = -0.4
    scale: float = 1.2
    low: float = 2e-3
    high: float = 20.0


@dataclass(frozen=True)
class Solver:
    """How a frame is sampled; the published setting is 3 steps of Euler.

    order: 1 Euler, 2 Heun.  churn > 0: before a step within [churn_from, churn_to], noise times `spread` lifts sigma
    to (1 + min(churn / steps, sqrt 2 - 1)) sigma.  bytes: what the network says is cut to 256 levels.
    """

    steps: int = 3
    low: float = 2e-3
    high: float = 5.0
    rho: float = 7.0
    order: int = 1
    churn: float = 0.0
    churn_from: float = 0.0
    churn_to: float = float("inf")
    spread: float = 1.0
    bytes: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.order not in (1, 2) or self.churn < 0 or not 0 < self.low <= self.high:
            raise ValueError(f"Solver: wanted steps >= 1, order 1 or 2, churn >= 0 and 0 < low <= high, got {self}")

    def sigmas(self) -> np.ndarray:
        """(steps + 1,) float32, the last 0."""
        return np.array(ops.karras_sigmas(self.steps, self.low, self.high, self.rho).numpy())


class InnerModel(nn.Module):
    """F: (noisy frame, ln(s) / 4, context, actions) -> (B,H,W,C), 0 at first."""

    def __init__(
        self,
        channels_in: int,
        context: int,
        action_features: int,
        cond: int,
        depths: Sequence[int],
        channels: Sequence[int],
        attention: Sequence[bool],
    ):
        if cond % context or cond % 2:
            raise ValueError(f"InnerModel: cond must be a multiple of 2 and of context {context}, got {cond}")
        self.noise_emb = Fourier(cond)
        self.act_emb = [nn.Embedding(action_features, cond // context)]
        self.cond_proj = nn.Sequential(nn.Linear(cond, cond, act="silu"), same, nn.Linear(cond, cond))
        self.conv_in = conv3((context + 1) * channels_in, channels[0])
        self.unet = UNet(cond, depths, channels, attention)
        self.norm_out = GroupNorm(channels[0], "silu")
        self.conv_out = conv3(channels[0], channels_in, init=nn.zeros)

    def forward(self, noisy: Tensor, level: Tensor, context: Tensor, actions: Tensor) -> Tensor:
        """noisy (B,H,W,C), level (B,), context (B,H,W,n C), actions (B,n,F): of Discrete spaces one-hot, zeros
        where unknown."""
        B = noisy.shape[0]
        acts = ops.reshape(embed(self.act_emb[0].weight, actions), (B, -1))
        c = self.cond_proj(ops.add(self.noise_emb(level), acts))
        x = self.unet(self.conv_in(ops.concat(context, noisy, axis=-1)), c)
        return self.conv_out(self.norm_out(x))


def embed(table: Tensor, features: Tensor) -> Tensor:
    """features (..., F) times the rows of table (F,E): an embedding where they are one-hot, and linear elsewhere."""
    return ops.linear(features, ops.permute(table, (1, 0)))


class Denoiser(nn.Module):
    """The inner model under the objective."""

    def __init__(self, inner_model: InnerModel, noise: Noise):
        self.inner_model = inner_model
        self._noise = noise
        self._edm = {"sigma_data": noise.sigma_data, "offset": noise.offset}

    def forward(self, noisy: Tensor, sigma: Tensor, context: Tensor, actions: Tensor) -> Tensor:
        """What the network says, F; see InnerModel.forward."""
        x, level = ops.edm_scale(noisy, sigma, **self._edm)
        return self.inner_model(x, level, ops.scale_shift(context, 1 / self._noise.sigma_data, 0.0), actions)

    def clean(self, said: Tensor, noisy: Tensor, sigma: Tensor, bytes: bool = True) -> Tensor:
        """D: the clean frame that F says, cut to bytes (toward -1) or as it is."""
        zero = Tensor(np.zeros(sigma.shape, np.float32))
        return ops.euler_step(
            noisy, said, sigma, zero, kind="edm", target="v", clip=1.0 if bytes else 0.0, bytes=bytes, **self._edm
        )

    def sigmas(self, stream: Tensor, salt: int) -> Tensor:
        """Levels of training, one a sample: (B,)."""
        n, B = self._noise, stream.shape[0]
        log = ops.normal(stream, salt=salt, mean=n.loc, std=n.scale, shape=(B,))
        return ops.clamp(ops.exp(log), n.low, n.high)

    def loss(
        self, frames: Tensor, context: Tensor, actions: Tensor, weight: Tensor, sigma: Tensor, stream: Tensor, salt: int
    ) -> tuple[Tensor, Tensor]:
        """|F - target|^2 per number, averaged over samples of weight 1, and D.  frames (B,H,W,C) uint8."""
        noisy, clean = ops.noise_frames(frames, stream, sigma, kind="edm", salt=salt, offset=self._noise.offset)
        said = self(noisy, sigma, context, actions)
        target = ops.convert(clean, noisy, sigma, kind="edm", source="x", target="v", **self._edm)
        return ops.mse(said, target, weight), self.clean(ops.stop_gradient(said), noisy, sigma)

    def sample(
        self,
        noise: Tensor,
        context: Tensor,
        actions: Tensor,
        solver: Solver,
        churn: Sequence[Tensor] = (),
    ) -> Tensor:
        """The next frame (B,H,W,C) in [-1, 1] from noise (B,H,W,C) ~ N(0, 1); churn: more of it, one a churned step.

        As DIAMOND does it: the first frame is noise of variance 1 whatever sigma is, and a churned step asks the
        network at the level before the lift.
        """
        x, B, more = noise, noise.shape[0], list(churn)
        sigmas = solver.sigmas()
        gamma = min(solver.churn / solver.steps, 2**0.5 - 1)
        for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
            lift = gamma if solver.churn_from <= now <= solver.churn_to else 0.0
            high = float(now) * (1 + lift)
            if lift > 0:
                x = ops.add(x, ops.scale_shift(more.pop(0), solver.spread * (high**2 - float(now) ** 2) ** 0.5, 0.0))
            level = Tensor(np.full(B, now, np.float32))
            clean = self.clean(self(x, level, context, actions), x, level, solver.bytes)
            straight = _between(x, clean, float(then) / high)
            if solver.order == 1 or then == 0:
                x = straight
                continue
            level = Tensor(np.full(B, then, np.float32))
            clean2 = self.clean(self(straight, level, context, actions), straight, level, solver.bytes)
            slope = ops.add(_slope(x, clean, high), _slope(straight, clean2, float(then)))
            x = ops.add(x, ops.scale_shift(slope, (float(then) - high) / 2, 0.0))
        return x

    def churned(self, solver: Solver) -> int:
        """How many steps want noise."""
        between = [solver.churn_from <= s <= solver.churn_to for s in solver.sigmas()[:-1]]
        return sum(between) if solver.churn > 0 else 0


def _between(x: Tensor, clean: Tensor, part: float) -> Tensor:
    """clean + part (x - clean)."""
    return ops.add(ops.scale_shift(clean, 1 - part, 0.0), ops.scale_shift(x, part, 0.0)) if part else clean


def _slope(x: Tensor, clean: Tensor, sigma: float) -> Tensor:
    return ops.scale_shift(ops.sub(x, clean), 1 / sigma, 0.0)
