"""dynamics: Open-Oasis as a world (`backbone="oasis"`): encode, roll out with actions, decode.

    world = wm.World.load("oasis500m.safetensors", vae="vit-l-20.safetensors", storage="bfloat16")

A frame: noise, `steps` steps of DDIM (v-prediction, sigmoid schedule, eta 0) with the frames before labelled as level
14 of 1000.  The window holds the last 32 frames.  What the frames before leave for the new one (Past) is the same in
every step, so it is computed once a frame; and while no frame has left the window, once for ever: both exactly.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ... import nn, ops
from ...spaces import SlotTable
from ...tensor import Tensor
from ..dynamics import Dynamics, Window
from .actions import action_space, to_vector
from .dit import OasisDiT
from .sampler import OasisSampler
from .vae import OasisVAE

LEVELS, SCALE = 1000, 0.07843137255
"""Levels of noise; latents are the VAE's times this."""

SALT_LEVELS, SALT_TRAIN = 303, 304

Context = Literal["labelled", "scaled", "noised"]
Schedule = Literal["sigmoid", "cosine"]


def alpha_bars(schedule: Schedule = "sigmoid") -> np.ndarray:
    """alpha_bar of the 1000 levels, float64, betas at most 0.999: the sigmoid schedule from -3 to 3 (arXiv 2212.11972)
    or the cosine one with s = 0.008 (arXiv 2102.09672)."""
    t = np.linspace(0, 1, LEVELS + 1)
    low, high = (1 / (1 + np.exp(-x)) for x in (-3.0, 3.0))
    if schedule == "sigmoid":
        bar = (high - 1 / (1 + np.exp(3 - 6 * t))) / (high - low)
    else:
        bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    bar /= bar[0]
    return np.cumprod(1 - np.clip(1 - bar[1:] / bar[:-1], 0, 0.999))


def levels_of(steps: int) -> list[int]:
    """Levels -1 (clean), ..., 999, evenly: steps + 1."""
    return [int(x) for x in np.linspace(-1, LEVELS - 1, steps + 1)]


class Oasis(Dynamics):
    """dit, vae: settings of OasisDiT and OasisVAE.  steps: of DDIM.  storage: float32 or bfloat16 (half the
    memory; does not learn).  context: how the frames before are given: labelled (as
    Open-Oasis does), scaled by sqrt(alpha_bar) too (as Diffusion Forcing does), or really noised to that level.
    schedule: of the levels.  eta: 0 DDIM, 1 DDPM."""

    lr = 1e-4

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        action_features: int,
        size: str = "500M",
        steps: int = 10,
        storage: str = "float32",
        context: Context = "labelled",
        schedule: Schedule = "sigmoid",
        eta: float = 0.0,
        dit: dict[str, Any] | None = None,
        vae: dict[str, Any] | None = None,
    ):
        if storage not in ("float32", "bfloat16") or context not in ("labelled", "scaled", "noised") or steps < 1:
            raise ValueError(
                "Oasis: wanted storage float32 or bfloat16, context labelled, scaled or noised and steps >= 1, "
                f"got {storage!r}, {context!r} and {steps}"
            )
        if schedule not in ("sigmoid", "cosine") or not 0 <= eta <= 1:
            raise ValueError(f"Oasis: wanted schedule sigmoid or cosine and eta of 0 to 1, got {schedule!r} and {eta}")
        table = SlotTable.of(action_space())
        if action_features != table.feature_size:
            raise ValueError(f"Oasis: actions have {table.feature_size} features, got {action_features}")
        self._action_features, self._actions = action_features, to_vector(table)
        with nn.stored(storage):
            self.dit, self.vae = OasisDiT(**(dit or {})), OasisVAE(**(vae or {}))
        if self.dit.latent != self.vae.latent or (*self.vae.shape, 3) != tuple(frame_shape):
            raise ValueError(
                f"Oasis: frames {tuple(frame_shape)}, the autoencoder's {(*self.vae.shape, 3)} and latents "
                f"{self.vae.latent}, the transformer's {self.dit.latent}, do not fit"
            )
        self.context, self.window, self.feature_size = 1, self.dit.window, 1
        self._shape, self._steps, self._given = tuple(frame_shape), steps, context
        self._bars, self._eta = alpha_bars(schedule), eta

    def vectors(self, features: np.ndarray) -> np.ndarray:
        """Features of actions (...,F) -> their 25 numbers (...,25)."""
        return np.ascontiguousarray(features @ self._actions.T, np.float32)

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """uint8 frames (N,H,W,3) -> scaled latents (N,h,w,C)."""
        x = ops.frames_float(Tensor(np.ascontiguousarray(frames)))
        return np.array(ops.scale_shift(self.vae.encode(x), SCALE, 0.0).numpy())

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Scaled latents (N,h,w,C) -> uint8 frames (N,H,W,3), cut toward 0 as the original does."""
        z = ops.scale_shift(Tensor(np.ascontiguousarray(latents)), 1 / SCALE, 0.0)
        return np.array(ops.frames_u8(self.vae.decode(z), truncate=True).numpy())

    def losses(self, window: Window, stream: Tensor) -> dict[str, Tensor]:
        """frames: v-prediction with a level of its own for every frame (Diffusion Forcing), weighted by fused SNR."""
        B, T = window.shape
        frames = window.frames.numpy().reshape(B * T, *self._shape)
        latents = self.encode(frames).reshape(B, T, *self.dit.latent)
        seen = Tensor(window.frame_weight.numpy())
        index = ops.integers(stream, salt=SALT_LEVELS, low=0, high=LEVELS, shape=(B, T)).numpy()
        actions = Tensor(self.vectors(window.actions.numpy()))
        return {"frames": self.loss(Tensor(latents), index, actions, stream, seen)}

    def loss(self, latents: Tensor, index: np.ndarray, actions: Tensor, stream: Tensor, seen: Tensor) -> Tensor:
        """Latents (B,T,h,w,C), levels (B,T) of 0 to 999, the 25 numbers (B,T,25), seen (B,T): 1 for real frames."""
        level = Tensor(self._bars[index].astype(np.float32))
        noisy = ops.noise(latents, stream, level, kind="ddpm", salt=SALT_TRAIN)
        target = ops.convert(latents, noisy, level, kind="ddpm", source="x", target="v")
        v, _ = self.dit(noisy, Tensor(index.astype(np.float32)), actions)
        weight = ops.mul(ops.fused_snr_weight(level, kind="ddpm", target="v"), seen)
        return ops.mse(v, target, weight)

    def int8_layers(self) -> list[str]:
        """The products of attention and MLPs, in the transformer and the autoencoder."""
        parts = ("dit.blocks.", "vae.encoder.", "vae.decoder.")
        return [
            f"{name}.weight"
            for name, module in self.named_modules()
            if isinstance(module, nn.Linear) and name.startswith(parts) and "adaLN" not in name
        ]

    def parts(self) -> dict[str, list[Tensor]]:
        return {"all": self.dit.parameters()}

    def sampler(self, n: int, **options: Any) -> OasisSampler:
        return OasisSampler(self, n, **options)
