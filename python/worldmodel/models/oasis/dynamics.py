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
from ...sampling import Sampler, Step
from ...spaces import SlotTable
from ...tensor import Tensor
from ..dynamics import Dynamics, Window
from .actions import NAMES, action_space, to_vector
from .dit import OasisDiT, Past
from .vae import OasisVAE

LEVELS, STABLE, LARGEST, SCALE = 1000, 14, 20.0, 0.07843137255
"""Levels of noise; the label of frames before; bounds of the first noise; latents are the VAE's times this."""

SALT_NOISE, SALT_CONTEXT, SALT_LEVELS, SALT_TRAIN, SALT_STEPS = 301, 302, 303, 304, 310

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


class OasisSampler(Sampler):
    """n environments, each the latents of its window; `past` is derived from them and made again when it is missing.

    steps: of DDIM; reuse=False: the whole window in every step, as the original does (slow; the same numbers).
    """

    def __init__(self, model: Oasis, n: int, steps: int | None = None, reuse: bool = True):
        super().__init__(n, model._action_features)
        if steps is not None and steps < 1:
            raise ValueError(f"sampler: steps must be at least 1, got {steps}")
        self.model, self.steps, self.reuse = model, steps or model._steps, reuse
        T = model.dit.window
        self.state["latents"] = Tensor(np.zeros((n, T, *model.dit.latent), np.float32), copy=True)
        self.state["actions"] = Tensor(np.zeros((n, T, len(NAMES)), np.float32), copy=True)
        self.state["frames"] = Tensor(np.zeros((n,), np.int32), copy=True)
        self._past: list[Past | None] = [None] * n

    def begin(self, rows: np.ndarray, frames: np.ndarray, actions: np.ndarray) -> None:
        keep = min(frames.shape[1], self.model.dit.window - 1)
        for i, row in enumerate(rows):
            latents = self.model.encode(frames[i, -keep:])
            self.state["latents"][row, :keep] = self.given(latents, row)
            self.state["actions"][row, :keep] = self.model.vectors(actions[i, -keep:])
            self.state["frames"][row] = keep
            self._past[row] = None

    def restore(self, snapshot: Any, rows: Any = None) -> None:
        super().restore(snapshot, rows)
        for row in range(self.n) if rows is None else rows:
            self._past[row] = None

    def fork(self, row: int, rows: Any, seeds: Any = None) -> None:
        super().fork(row, rows, seeds)
        for other in rows:
            self._past[other] = self._past[row]

    def given(self, latents: np.ndarray, row: int) -> np.ndarray:
        """Clean latents (T,h,w,C) as the frames after see them."""
        how, bar = self.model._given, float(self.model._bars[STABLE])
        if how == "labelled":
            return latents
        if how == "scaled":
            return latents * np.float32(bar**0.5)
        stream = Tensor(self.state["stream"].numpy()[row : row + 1].copy())
        noise = ops.normal(stream, salt=SALT_CONTEXT, shape=(1, *latents.shape)).numpy()[0]
        return latents * np.float32(bar**0.5) + noise * np.float32((1 - bar) ** 0.5)

    def advance(self, actions: np.ndarray) -> Step:
        vectors = self.model.vectors(actions)
        self.state["stream"][:, 3] = self.state["stream"].numpy()[:, 3] + 1
        clean = np.stack([self.next_latents(row, vectors[row]) for row in range(self.n)])
        frames, zero = self.model.decode(clean), np.zeros(self.n, np.float32)
        return Step(frames, zero, zero > 0, zero, np.zeros((self.n, 1), np.float32))

    def next_latents(self, row: int, action: np.ndarray) -> np.ndarray:
        """The next frame's latents (h,w,C) of one environment, which then belong to its window."""
        T, shape = self.model.dit.window, self.model.dit.latent
        latents, acts = self.state["latents"].numpy()[row], self.state["actions"].numpy()[row]
        held = int(self.state["frames"].numpy()[row])
        if held == T:  # the oldest frame leaves: what is left must be seen anew
            latents[:-1], acts[:-1] = latents[1:].copy(), acts[1:].copy()
            held, self._past[row] = T - 1, None
        acts[held] = action
        stream = Tensor(self.state["stream"].numpy()[row : row + 1].copy())
        noise = ops.normal(stream, salt=SALT_NOISE, shape=(1, 1, *shape))
        x = self.denoised(row, ops.clamp(noise, -LARGEST, LARGEST), latents[:held], acts[: held + 1])
        latents[held] = self.given(x[None], row)[0]
        self.state["frames"][row] = held + 1
        return x

    def denoised(self, row: int, x: Tensor, latents: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """From noise (1,1,h,w,C) to the latents (h,w,C) of the frame after latents (T,h,w,C), by actions (T+1,25)."""
        levels, bars = levels_of(self.steps), self.model._bars
        stream = Tensor(self.state["stream"].numpy()[row : row + 1].copy()) if self.model._eta else None
        past = self.seen(row, latents, actions[:-1]) if self.reuse else None
        for k in reversed(range(1, self.steps + 1)):
            v = self.said(x, levels[k], latents, actions, past)
            now = Tensor(np.float32([[bars[levels[k]]]]))
            then = Tensor(np.float32([[1.0 if k == 1 else bars[max(levels[k - 1], 0)]]]))
            x = ops.ddim_step(x, v, now, then, stream, target="v", eta=self.model._eta, salt=SALT_STEPS + k)
        return np.array(x.numpy()[0, 0])

    def said(self, x: Tensor, level: int, latents: np.ndarray, actions: np.ndarray, past: Past | None) -> Tensor:
        """v of the new frame x at a level."""
        dit, T = self.model.dit, len(latents)
        if past is not None or not T:
            v, _ = dit(x, Tensor(np.float32([[level]])), Tensor(actions[None, -1:].copy()), past)
            return v
        whole = ops.concat(Tensor(latents[None].copy()), x, axis=1)
        labels = np.full((1, T + 1), STABLE, np.float32)
        labels[0, -1] = level
        v, _ = dit(whole, Tensor(labels), Tensor(actions[None].copy()))
        return ops.slice(v, 1, T, T + 1)

    def seen(self, row: int, latents: np.ndarray, actions: np.ndarray) -> Past | None:
        """What the frames before leave: the frames that it lacks are seen once, at level STABLE."""
        past = self._past[row]
        known = past.frames if past else 0
        if known < len(latents):
            new = Tensor(latents[None, known:].copy())
            labels = Tensor(np.full((1, len(latents) - known), STABLE, np.float32))
            _, more = self.model.dit(new, labels, Tensor(actions[None, known:].copy()), past, out=False)
            past = past.joined(more) if past else more
            self._past[row] = past
        return past
