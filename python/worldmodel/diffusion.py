"""diffusion: how noisy each frame of a window is, what its loss weighs, and in which order a window is
denoised.

Flow matching with the clean frame as target (Dreamer 4, arXiv 2509.24527): x_tau = tau x + (1 - tau) eps, tau
= 1 clean; every frame has a level of its own (Diffusion Forcing, arXiv 2407.01392) and a step size d for
which the network is asked to answer (shortcut models, arXiv 2410.12557).  A frame is one of three kinds:

    context   tau in [low, 1): what the sampler commits as history; how many of a row is drawn per row
    start     tau = 0: what the sampler's first step sees
    between   tau anywhere below 1

The first rows of a batch are *bootstrapped*: d is drawn from 2/finest .. 1, tau from multiples of d, and the
target is two steps of d / 2.  The other rows have d = 1/finest and the clean frame as target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from . import ops as _ops
from .tensor import Tensor, no_grad

SALT_LEVELS, SALT_ROWS, SALT_NOISE, SALT_DROPOUT = 101, 102, 103, 104
"""Purposes of random numbers (csrc/base/random.h): no two draws of one stream share one."""

WEIGHTS = ("one", "ramp", "inverse", "square")


@dataclass(frozen=True)
class Objective:
    """The numbers of the file's head.

    finest: 1 / the smallest step, a power of two; bootstrap: part of the batch whose target is two smaller
    steps; start: part of the frames that are no context which begin at tau = 0; context: the least and most
    of a row's frames that are context by themselves; led: part of the other frames whose frame before is made
    context too;
    low: the least tau of a context frame; unled: weight of a frame that follows noise; weight: of a frame's
    squared error, by its level.
    """

    finest: int = 8
    bootstrap: float = 0.25
    start: float = 0.5
    context: tuple[float, float] = (0.2, 0.8)
    led: float = 0.9
    low: float = 0.95
    unled: float = 0.1
    weight: str = "one"

    def __post_init__(self) -> None:
        low, high = self.context
        if self.finest < 1 or self.finest & (self.finest - 1):
            raise ValueError(f"Objective: finest must be a power of two, got {self.finest}")
        for name, value in (
            ("bootstrap", self.bootstrap),
            ("start", self.start),
            ("low", self.low),
            ("led", self.led),
            ("unled", self.unled),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"Objective: {name} must be in [0, 1], got {value}")
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"Objective: context must be two parts in order within [0, 1], got {self.context}"
            )
        if self.weight not in WEIGHTS:
            raise ValueError(f"Objective: weight must be one of {WEIGHTS}, got {self.weight!r}")

    @property
    def sizes(self) -> int:
        """Step sizes 1, 1/2, ... 1/finest: how many."""
        return self.finest.bit_length()


@dataclass(frozen=True)
class Levels:
    """tau, size (B,T) float32; context (B,T) bool; rows: the first so many are bootstrapped."""

    tau: np.ndarray
    size: np.ndarray
    context: np.ndarray
    rows: int

    @property
    def half(self) -> np.ndarray:
        """The steps (rows,T) that a target takes twice: half of size, 0 for context frames."""
        return np.where(self.context[: self.rows], 0, self.size[: self.rows] / 2).astype(np.float32)


def draw_levels(objective: Objective, stream: Tensor, frames: int) -> Levels:
    """Levels of a batch (B,frames), from its stream (B,4)."""
    B = stream.shape[0]
    with no_grad():
        u = _ops.uniform(stream, salt=SALT_LEVELS, shape=(B, frames, 4)).numpy().astype(np.float64)
        r = _ops.uniform(stream, salt=SALT_ROWS, shape=(B, 1)).numpy().astype(np.float64)
    low, high = objective.context
    context = u[..., 0] < low + (high - low) * r
    for t in range(frames - 1, 0, -1):  # a frame to be learned mostly follows one that is seen
        context[:, t - 1] |= ~context[:, t] & (u[:, t, 3] < objective.led)
    start = u[..., 1] < objective.start
    tau = np.where(start, 0.0, u[..., 2])
    size = np.full((B, frames), 1.0 / objective.finest)
    rows = min(B, math.floor(B * objective.bootstrap + 0.5)) if objective.finest > 1 else 0
    choices = objective.sizes - 1
    exponent = np.minimum(np.floor(u[:rows, :, 2] * choices), choices - 1)
    size[:rows] = 2.0**-exponent
    within = u[:rows, :, 2] * choices - exponent
    tau[:rows] = np.where(start[:rows], 0.0, np.floor(within / size[:rows]) * size[:rows])
    tau = np.where(context, objective.low + (1 - objective.low) * u[..., 2], tau)
    size = np.where(context, 1.0 / objective.finest, size)
    return Levels(tau.astype(np.float32), size.astype(np.float32), context, rows)


def frame_weight(objective: Objective, levels: Levels) -> np.ndarray:
    """The weight of each frame's squared error (B,T): by its level, and less where the frame before is noise,
    since what follows from nothing cannot be known and would drown what can."""
    before = np.concatenate([np.zeros_like(levels.tau[:, :1]), levels.tau[:, :-1]], 1)
    led = objective.unled + (1 - objective.unled) * np.minimum(carried(before), 1.0)
    return (loss_weight(objective.weight, levels.tau) * np.where(levels.context, 1.0, led)).astype(np.float32)


def loss_weight(law: str, tau: np.ndarray) -> np.ndarray:
    """one: 1; ramp: 0.9 tau + 0.1 (Dreamer 4); inverse: 1 / (1 - tau)^2, a loss in velocities, at most 100;
    square: (1 - tau)^2."""
    if law == "ramp":
        return (0.9 * tau + 0.1).astype(np.float32)
    if law == "inverse":
        return (1.0 / np.maximum(1.0 - tau, 0.1) ** 2).astype(np.float32)
    return ((1.0 - tau) ** 2).astype(np.float32) if law == "square" else np.ones_like(tau, np.float32)


LEVEL_FREQUENCIES = 16


def level_features(
    tau: np.ndarray, size: np.ndarray, before: np.ndarray, sizes: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the network is told of levels (...): sines and cosines of a frame's tau and of the frame before's,
    (..., 64), and its step size one-hot, (..., sizes)."""
    w = np.pi / 2 * 2.0 ** (np.arange(LEVEL_FREQUENCIES) / 2)
    angle = np.stack([tau, before], -1)[..., None].astype(np.float64) * w
    waves = np.concatenate([np.cos(angle), np.sin(angle)], -1).reshape(*tau.shape, -1)
    index = np.clip(np.round(-np.log2(np.maximum(size, 1e-9))), 0, sizes - 1).astype(np.int64)
    return waves.astype(np.float32), np.eye(sizes, dtype=np.float32)[index]


def carried(tau: np.ndarray, spread: float = 0.5) -> np.ndarray:
    """How much of a frame at level tau stands for the clean one: the linear estimate x = g x_tau of pixels of
    that spread, g = tau s^2 / (tau^2 s^2 + (1 - tau)^2); 1 where clean, 0 where noise."""
    tau = np.asarray(tau, np.float64)
    return (tau * spread**2 / (tau**2 * spread**2 + (1 - tau) ** 2)).astype(np.float32)


def mix(
    tau: np.ndarray, before: np.ndarray, change: bool, spread: float = 0.5, step: float = 0.1
) -> np.ndarray:
    """How a prediction is put together, (4,...): x = a noisy + b carried + c net(d noisy, carried).

    a and b make the best linear guess from the noisy frame and from the one before, if a frame differs from
    what is carried of the one before (at level before) by s, from step (clean) to spread (noise): with k =
    tau s^2 / (tau^2 s^2 + (1 - tau)^2), a = k, b = 1 - k tau.  c is what that guess leaves open, (1 - tau) /
    sqrt(tau^2 s^2 + (1 - tau)^2), so that a nearly clean frame is mostly kept (as c_skip and c_out of EDM,
    arXiv 2206.00364).  d = 0.1 + 0.9 tau: noise that says nothing is turned down.
    """
    tau, trust = np.asarray(tau, np.float64), np.minimum(carried(before), 1.0) if change else 0.0
    s2 = step**2 + (spread**2 - step**2) * (1.0 - trust) ** 2
    power = tau**2 * s2 + (1 - tau) ** 2
    k = tau * s2 / power
    return np.stack([k, 1 - k * tau, (1 - tau) / np.sqrt(power), 0.1 + 0.9 * tau]).astype(np.float32)


# ---- the order in which a window is denoised ----------------------------------------------------------


SCHEDULES = ("autoregressive", "pyramid", "full")


def schedule_matrix(kind: str, frames: int, steps: int, slope: float = 1.0) -> np.ndarray:
    """Levels (M, frames) of every row of sampling, from steps (noise) to 0 (clean); frames whose level is the
    same in two rows rest between them.

    pyramid (Diffusion Forcing): K[m,t] = clip(steps + int(t slope) - m, 0, steps); autoregressive: the same
    with slope = steps, one frame after the other; full: all frames together.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"schedule_matrix: kind must be one of {SCHEDULES}, got {kind!r}")
    if frames < 1 or steps < 1 or slope < 0:
        raise ValueError(
            f"schedule_matrix: frames and steps must be at least 1, slope 0, got {frames}, {steps}, {slope}"
        )
    slope = {"autoregressive": float(steps), "pyramid": slope, "full": 0.0}[kind]
    late = np.floor(np.arange(frames) * slope).astype(np.int64)
    rows = steps + int(late[-1]) + 1
    return np.clip(steps + late[None, :] - np.arange(rows)[:, None], 0, steps)


def guide(said: Tensor, whole: Tensor, weak: Tensor, weight: float) -> Tensor:
    """said + (weight - 1) (whole - weak): away from what the network says when it is told less (Ho & Salimans
    2022)."""
    return said + (whole - weak) * (weight - 1.0)
