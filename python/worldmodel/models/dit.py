"""dit: a diffusion transformer over frames, actions by AdaLN-Zero (Peebles & Xie 2023), space and time
attended apart.

    c     = MLP(tau, d, tau of the frame before) + W z      one a frame; z: 32 numbers, of its action
    block : x += gate (attention within the frame, 2-D axial rotary)
            x += gate (attention over frames, causal, rotary)       in every time_every-th block
            x += gate (SwiGLU)              each on norm(x) (1 + scale) + shift; gates start at 0
    frame = a noisy + b carried + c net     carried: the noisy frame before, as far as it is clean
    (diffusion.mix)

A frame (H,W,C), or a tokenizer's latents of it, is cut into patches: N tokens.  With stem channels, convolutions
at full resolution stand before the cut and after the join, and what they saw skips the transformer.  Activations are
(B,T,N,width) throughout.

Measured on a toy (textures that an action pans by 4 pixels, 32x32, size T, 100 steps of 8x8 frames, copy-last
12.7 dB): one step ahead 15.2 dB at lr 1e-3, 16.8 at 2e-3, 17.0 at 4e-3; without the stem 14.0; with gates
that start at 0.3 14.6; without the bootstrap 17.1 at 2e-3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .. import diffusion, nn
from .. import ops as _ops
from ..diffusion import Objective
from ..tensor import Tensor, checkpoint, no_grad
from .dit_config import DiTConfig, choose_patch, config_of
from .dit_layers import Block, CachedTime, Condition, Patches, Time, WindowTime, modulated
from .dynamics import Dynamics, Window
from .encoder import side_by_side
from .heads import Heads
from .outcome import Outcome
from .tokenizer import Pixels, Tokenizer, numbers

ops: Any = _ops


class DiT(Dynamics):
    """The backbone.  frame_shape (H,W,C); action_features: numbers of an action's features; size T, S, B or
    L; tokenizer: what the network computes on (models/tokenizer.py), held still, pixels by default; options: fields
    of DiTConfig (with a tokenizer, which has convolutions of its own, stem is 0 by default).  Raises ValueError for an
    unknown size or option."""

    tokenizes = True

    def __init__(
        self,
        frame_shape: Sequence[int],
        action_features: int,
        size: str = "S",
        tokenizer: Tokenizer | None = None,
        **options: Any,
    ):
        H, W, C = (int(n) for n in frame_shape)
        if min(H, W, C) < 1:
            raise ValueError(
                f"DiT: frame_shape must be three lengths of at least 1, got {tuple(frame_shape)}"
            )
        config = config_of(size, {"stem": 0, **options} if tokenizer else options)
        self._config, self._frame_shape, self._action_features = config, (H, W, C), action_features
        self._objective = Objective(**config.objective)
        self.context, self.window = config.context, config.window
        self.lr = 2e-3 if config.width <= 256 else 1e-3
        self._tokenizer = tokenizer or Pixels((H, W, C))
        h, w, c = self._tokenizer.shape
        patch = config.patch or choose_patch(h, w, 1 << config.levels if config.stem else 1)
        if config.stem and patch % (1 << config.levels):
            raise ValueError(
                f"DiT: patch must be a multiple of {1 << config.levels} with a stem, got {patch}"
            )
        self.condition = Condition(config.width, action_features, self._objective.sizes)
        self.patches = Patches((h, w, c), c * (2 if config.change else 1), config, patch)
        first = config.time_every // 2
        timed = [i for i in range(config.layers) if i % config.time_every == first] or [config.layers - 1]
        self._time_layers = len(timed)
        self.blocks = [Block(config, timed.index(i) if i in timed else None) for i in range(config.layers)]
        self.modulation = nn.Linear(config.width, 2 * config.width, init=nn.zeros)
        self.feature_size = config.features
        if config.outcome == "apart":
            known = action_features + 1
            self.outcome = Outcome(
                (H, W, C), known, config.context, config.features, config.bins, config.reward_limit
            )
        else:
            self.read = nn.Linear(config.width, config.token_features)
            self.features = nn.Linear(self.tokens * config.token_features, config.features, act="silu")
            self.heads = Heads(config.features, config.bins, config.reward_limit)
        self._tables()

    def _tables(self) -> None:
        """Rotary angles of space (N) and of time (the longer of window and slots)."""
        config, (h, w) = self._config, self.patches.grid
        rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
        place = np.stack([rows.ravel(), columns.ravel()], -1).astype(np.float32)
        with no_grad():
            self._space = ops.rotary_table(Tensor(place), width=config.head_width, axes=2, base=100.0)
            frames = np.arange(max(config.slots, config.window), dtype=np.float32)
            self._time = ops.rotary_table(Tensor(frames), width=config.head_width, base=1000.0)

    @property
    def config(self) -> DiTConfig:
        return self._config

    @property
    def objective(self) -> Objective:
        return self._objective

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self._frame_shape

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns frames into what this network computes on, and back."""
        return self._tokenizer

    @property
    def action_features(self) -> int:
        return self._action_features

    @property
    def tokens(self) -> int:
        """Of a frame."""
        return self.patches.grid[0] * self.patches.grid[1]

    @property
    def time_layers(self) -> int:
        """Blocks that attend over frames."""
        return self._time_layers

    def window_time(self, frames: int) -> WindowTime:
        return WindowTime(*self._time, frames)

    def cached_time(
        self, caches: Sequence[tuple[Tensor, Tensor]], position: Tensor, table: Tensor | None = None
    ) -> CachedTime:
        cos, sin = (t[: self._config.slots] for t in self._time)
        return CachedTime(caches, position, cos, sin, self._config.sinks, table)

    # ---- the network ----

    def told(self, tau: np.ndarray, size: np.ndarray, before: np.ndarray) -> Tensor:
        """Levels (...) as conditions (...,width), before the action is added."""
        waves, one = diffusion.level_features(tau, size, before, self._objective.sizes)
        return self.condition.levels(Tensor(waves), Tensor(one))

    def modulate(self, c: Tensor) -> list[Tensor]:
        """Conditions (...,width) -> what each block and the head take."""
        blocks = [block.modulation(c) for block in self.blocks]
        return [*blocks, self.modulation(c), *self.patches.modulate(c)]

    def predict(
        self,
        noisy: Tensor,
        carried: Tensor | None,
        mix: np.ndarray,
        m: list[Tensor],
        time: Time,
        features: bool = True,
        frames: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        """noisy (B,T,H,W,C), carried: the frame before, as much of it as counts; mix: see diffusion.mix,
        (4,B,T) or (4,1,1); m: of modulate, (B,T,width)
        each. Returns the clean frames and the features (B,T,feature_size), each if wanted."""
        B, T = noisy.shape[:2]
        a, b, open_, quiet = (Tensor(part.reshape(*part.shape, 1, 1, 1)) for part in mix)
        x = noisy * quiet
        x = x if carried is None else ops.concat(x, carried, axis=4)
        deep = len(self.blocks)
        around = [t.reshape(B * T, t.shape[-1]) for t in m[deep + 1 :]]
        x, skip = self.patches.tokens(x.reshape(B * T, *x.shape[2:]), around)
        x = x.reshape(B, T, *x.shape[1:])
        for i, (block, parts) in enumerate(zip(self.blocks, m, strict=False)):
            if i < self._config.recompute and x.needs_grad:
                x = checkpoint(partial(block, cos=self._space[0], sin=self._space[1], time=time), x, parts)
            else:
                x = block(x, parts, *self._space, time)
        said = out = None
        if features:
            said = self.features(self.read(ops.rms_norm(x)).reshape(B, T, -1))
        if frames:
            h = modulated(x, m[deep], 0).reshape(B * T, *x.shape[2:])
            out = self.patches.frames(h, skip, around).reshape(noisy.shape)
            out = out * open_ + noisy * a
            out = out if carried is None else out + carried * b
        return out, said

    def carry(self, noisy: Tensor, tau: np.ndarray) -> Tensor | None:
        """For each frame of a window the one before it, as far as it is clean; zeros for the first."""
        if not self._config.change:
            return None
        B, T = tau.shape
        part = Tensor(diffusion.carried(tau[:, : T - 1]).reshape(B, T - 1, 1, 1, 1)) if T > 1 else None
        none = Tensor(np.zeros((B, 1, *self._tokenizer.shape), np.float32))
        return none if part is None else ops.concat(none, noisy[:, : T - 1] * part, axis=1)

    def say(
        self, noisy: Tensor, tau: np.ndarray, size: np.ndarray, z: Tensor, features: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """predict on a whole window: noisy (B,T,H,W,C) at levels tau and steps size (B,T), action vectors z
        (B,T,32)."""
        before = np.concatenate([np.zeros_like(tau[:, :1]), tau[:, :-1]], 1)
        m = self.modulate(self.condition(self.told(tau, size, before), z))
        mix = diffusion.mix(tau, before, self._config.change)
        return self.predict(noisy, self.carry(noisy, tau), mix, m, self.window_time(tau.shape[1]), features)

    # ---- learning ----

    def losses(self, window: Window, stream: Tensor) -> dict[str, Tensor]:
        """frame: squared error of the clean frames (of where two smaller steps lead, in bootstrapped rows);
        reward and termination if this network says them.  See Dynamics.losses."""
        B, T = window.shape
        if T > len(self._time[0]):
            raise ValueError(
                f"DiT: windows of at most {len(self._time[0])} frames, got {T}; make it with window={T}"
            )
        if self._config.forget:
            window = self._forgetful(window, stream)
        apart = self._config.outcome == "apart"
        levels = diffusion.draw_levels(self._objective, stream, T)
        noisy, clean = self._tokenizer.noised(window.frames, stream, Tensor(levels.tau), diffusion.SALT_NOISE)
        z = self.condition.vector(window.actions, self._told_actions(window, stream))
        target = self._targets(noisy, clean, levels, z)
        frames, features = self.say(noisy, levels.tau, levels.size, z, features=not apart)
        seen = window.frame_weight.numpy()
        weight = diffusion.frame_weight(self._objective, levels) * seen
        loss = {"frame": ops.mse(frames, target, Tensor(over(weight, seen)))}
        return loss if apart else loss | self._head_losses(window, levels, features)

    def _forgetful(self, window: Window, stream: Tensor) -> Window:
        """Some windows begin late; the steps into frames that were made up do not count."""
        rng = np.random.default_rng(stream.numpy().view(np.uint32).ravel().tolist())
        late = window.forgetful(rng, self._config.forget, self._config.context)
        same = (late.frames.numpy() == window.frames.numpy()).all((2, 3, 4))
        return replace(late, step_weight=Tensor((window.step_weight.numpy() * same).astype(np.float32)))

    def outcome_losses(self, window: Window) -> dict[str, Tensor]:
        """reward and termination of each window's last step, if a network of its own says them: see Heads."""
        if self._config.outcome != "apart":
            return {}
        n, T = self._config.context, window.shape[1]
        pictures = ops.slice(window.frames, 1, T - 3, T - 1)
        acted = ops.concat(window.actions, window.known.reshape((*window.shape, 1)), axis=-1)
        features = self.say_outcome(pictures, ops.slice(acted, 1, T - n, T))
        last = (
            Tensor(np.ascontiguousarray(t.numpy()[:, -1]))
            for t in (window.rewards, window.terminated, window.step_weight)
        )
        return self.outcome.heads.losses(features, *last)

    def say_outcome(self, pictures: Tensor, acted: Tensor) -> Tensor:
        """Features (B,F) of a step from the two frames before it (B,2,H,W,C) uint8 and the actions up to it
        with their known flags (B,context,F+1)."""
        return self.outcome(side_by_side(pictures), acted)

    def parts(self) -> dict[str, list[Tensor]]:
        """See Dynamics.parts."""
        if self._config.outcome != "apart":
            return super().parts()
        outcome = self.outcome.parameters()
        apart = {id(t) for t in outcome}
        return {"frames": [t for t in self.parameters() if id(t) not in apart], "outcome": outcome}

    def _told_actions(self, window: Window, stream: Tensor) -> Tensor:
        """known, with some dropped so that the null vector is learned."""
        if not self._config.action_dropout:
            return window.known
        with no_grad():
            u = ops.uniform(stream, salt=diffusion.SALT_DROPOUT, shape=window.shape).numpy()
        return Tensor((window.known.numpy() * (u >= self._config.action_dropout)).astype(np.float32))

    def _targets(self, noisy: Tensor, clean: Tensor, levels: diffusion.Levels, z: Tensor) -> Tensor:
        """The clean frames; for bootstrapped ones where two steps of half the size lead."""
        n = levels.rows
        if not n:
            return clean
        with no_grad():
            x, tau, half = noisy[:n], levels.tau[:n], levels.half
            z, small = z[:n], np.where(levels.context[:n], levels.size[:n], half)
            first = self.say(x, tau, small, z, features=False)[0]
            level, step = Tensor(tau), Tensor(half)
            there = ops.shortcut_step(x, first, level, step, clip=1.0)
            second = self.say(there, tau + half, small, z, features=False)[0]
            twice = ops.shortcut_target(x, first, there, second, level, Tensor(tau + half))
            keep = Tensor(levels.context[:n].astype(np.uint8).reshape(*tau.shape, 1, 1, 1))
            twice = ops.where(keep, clean[:n], ops.clamp(twice, -1.0, 1.0))
            return ops.concat(twice, clean[n:], axis=0) if n < len(clean) else twice

    def _head_losses(self, window: Window, levels: diffusion.Levels, features: Tensor) -> dict[str, Tensor]:
        """Over the steps whose features are like those that a sampler reads."""
        config, (B, T) = self._config, window.shape
        read = (
            levels.tau == 0
            if config.outcome == "start"
            else levels.context & (window.frame_weight.numpy() > 0)
        )
        weight = window.step_weight.numpy() * read
        weight = Tensor(over(weight, weight).reshape(B * T))
        losses = self.heads.losses(
            features.reshape(B * T, self.feature_size),
            window.rewards.reshape(B * T),
            window.terminated.reshape(B * T),
            weight,
        )
        return {
            "reward": losses["reward"] * config.reward_weight,
            "termination": losses["termination"] * config.termination_weight,
        }

    # ---- whole numbers, and short ones ----

    def int8_layers(self) -> list[str]:
        """The products of the blocks and the last one; norms, softmax, conditions and convolutions stay."""
        names = (name for name, _ in self.named_parameters())
        wide = ("qkv.weight", "q.weight", "k.weight", "v.weight", "out.weight", "up", "down.weight")
        return [
            n for n in names if n == "patches.out.weight" or (n.startswith("blocks.") and n.endswith(wide))
        ]

    def bf16_layers(self) -> list[str]:
        """The same, and the modulations, whose weights are read for one row a level."""
        wide = {*self.int8_layers(), *(n for n, _ in self.named_parameters() if n.endswith("modulation.weight"))}
        return [n for n, t in self.named_parameters() if n in wide]

    def guess(self, window: Window, stream: Tensor, steps: int = 4, context_level: float = 0.98) -> Any:
        """See Dynamics.guess; the last frames lie at the levels of a sampler's steps in turn."""
        B, T = window.shape
        tau = np.full((B, T), context_level, np.float32)
        tau[:, -1] = np.arange(B) % steps / steps
        size = np.full((B, T), 1 / self._objective.finest, np.float32)
        size[:, -1] = 1 / steps
        with no_grad():
            noisy, _ = self._tokenizer.noised(window.frames, stream, Tensor(tau), diffusion.SALT_NOISE)
            z = self.condition.vector(window.actions, window.known)
            said = self.say(noisy, tau, size, z, features=False)[0]
            made = self._tokenizer.decode(ops.slice(said, 1, T - 1, T))
            real = numbers(ops.slice(window.frames, 1, T - 1, T))
        return made.numpy()[:, 0].copy(), real.numpy()[:, 0].copy()

    # ---- acting ----

    def sampler(self, n: int, **options: Any) -> Any:
        """See dit_sampler.DiTSampler for options."""
        from .dit_sampler import DiTSampler

        return DiTSampler(self, n, **options)


def over(weight: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Weights whose average over all makes the average over the counted."""
    return (weight * (counted.size / max(float(counted.sum()), 1.0))).astype(np.float32)
