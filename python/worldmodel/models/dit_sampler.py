"""dit_sampler: a DiT as n environments: keys and values of past frames in a ring, one plan a step.

A step of frame p:  for k in 0..K-1: the new frame's tokens, at tau = k / K, read the ring and write their own
keys and values into slot p; then the frame, as bytes, noised to the context level, goes through once more
(the commit) and what it writes stays.  Environments lie at positions of their own, so batches are ragged; a
row's numbers do not depend on the others'.  Copies of an environment share what they remember until they write
(pages.py).  Random numbers: salts below, from the environment's stream at the
step being taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, diffusion
from .. import ops as _ops
from ..sampling import Sampler, Step
from ..tensor import Plan, Tape, Tensor
from .dit_conditions import Conditions
from .dit_layers import CachedTime
from .heads import Heads
from .pages import Pages

if TYPE_CHECKING:
    from .dit import DiT

ops: Any = _ops

SALT_START, SALT_COMMIT, SALT_CONTEXT, SALT_END = 201, 202, 203, 204


class DiTSampler(Sampler):
    """n environments of a DiT.

    steps: denoising steps K of a frame, a power of two up to the objective's finest; context_level: tau of
    committed frames; action_guidance, history_guidance: weights above 1 push away from what the network says
    without the action, without the past (each one more pass a step; 1: off); sample_ends: draw the end of an
    episode with its probability, else end at one half.  Raises ValueError for values outside their range.
    """

    def __init__(
        self,
        model: DiT,
        n: int,
        steps: int = 4,
        context_level: float = 0.98,
        action_guidance: float = 1.0,
        history_guidance: float = 1.0,
        sample_ends: bool = True,
    ):
        config = model.config
        super().__init__(n, model.action_features)
        if steps < 1 or steps & (steps - 1) or steps > model.objective.finest:
            raise ValueError(
                f"sampler: steps must be a power of two up to {model.objective.finest}, got {steps}"
            )
        if not 0 < context_level <= 1:
            raise ValueError(f"sampler: context_level must be in (0, 1], got {context_level}")
        self.model, self.steps, self.context_level = model, steps, context_level
        self.guidance = (action_guidance, history_guidance)
        self.sample_ends = sample_ends
        (H, W, C), N, d = model.frame_shape, model.tokens, config.width
        latents = model.tokenizer.shape
        self.state |= {
            "position": Tensor(np.full(n, -1, np.int32), copy=True),
            "last": Tensor(np.zeros((n, 1, *latents), np.float32), copy=True),
            "features": Tensor(np.zeros((n, model.feature_size), np.float32), copy=True),
        }
        if config.outcome == "apart":
            acted = np.zeros((n, config.context, model.action_features + 1), np.float32)
            self.state |= {
                "pictures": Tensor(np.zeros((n, 2, H, W, C), np.uint8), copy=True),
                "acted": Tensor(acted, copy=True),
            }
        self._pages = Pages(n, config.slots)
        for i in range(model.time_layers):
            for name in ("keys", "values"):
                self.state[f"{name}.{i}"] = Tensor(np.zeros((n, config.slots, N, d), np.float32), copy=True)
        self._conditions = Conditions(model, n, steps, context_level)
        self._unacted = Conditions(model, n, steps, context_level) if action_guidance != 1 else None
        self._prefills: dict[int, Prefill] = {}
        self._plan = self._record()

    def caches(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.state[f"keys.{i}"], self.state[f"values.{i}"]) for i in range(self.model.time_layers)]

    # ---- the plan ----

    def _record(self) -> Plan:
        model, n, state = self.model, self.n, self.state
        time = model.cached_time(self.caches(), state["position"], self._pages.table)
        with Tape(grad=False) as tape:
            ops.stream_advance(state["stream"])
            plain, commit = self._conditions.denoising(), self._conditions.commit()
            unacted = self._unacted.denoising() if self._unacted else None
            y = ops.normal(state["stream"], salt=SALT_START, shape=(n, 1, *model.tokenizer.shape))
            before = (
                state["last"] * float(diffusion.carried(np.float32(self.context_level)))
                if model.config.change
                else None
            )
            read = None
            for k in range(self.steps):
                wanted = model.config.outcome == "start" and k == 0
                said, features = model.predict(
                    y, before, self._mix(k / self.steps), level_of(plain, k), time, features=wanted
                )
                read = features if wanted else read
                said = self._guided(said, y, before, plain, unacted, k, time)
                y = self._step(y, said, k)
            frames = model.tokenizer.picture(y)
            committed = full((n, 1), self.context_level)
            last = model.tokenizer.kept(y, frames, state["stream"], committed, SALT_COMMIT)
            features, read, heads = self._outcome(read, last, before, commit, time)
            rewards, termination = heads.decode(read)
            ends = ops.bernoulli(termination, state["stream"], salt=SALT_END)
        plan = tape.plan(frames, rewards, termination, ends, features, last)
        tape.clear()  # it holds every intermediate of every pass: 4 GB for 64 environments of size S
        _core.pool_trim()
        return plan

    def _outcome(
        self, read: Tensor | None, last: Tensor, before: Tensor | None, commit: list[Tensor], time: CachedTime
    ) -> tuple[Tensor, Tensor, Heads]:
        """The commit; a step's features, what its heads read, and the heads."""
        model, shape = self.model, (self.n, self.model.feature_size)
        apart = model.config.outcome == "apart"
        mix = self._mix(self.context_level)
        said = model.predict(last, before, mix, level_of(commit, 0), time, features=not apart, frames=False)[
            1
        ]
        if apart:
            features = model.say_outcome(self.state["pictures"], self.state["acted"])
            return features, features, model.outcome.heads
        features = said.reshape(shape)
        return features, features if read is None else read.reshape(shape), model.heads

    def _mix(self, tau: float, before: float | None = None) -> np.ndarray:
        """Of diffusion.mix, for all environments; before: the level of the frame before, the context's by
        default."""
        level = np.full((1, 1), self.context_level if before is None else before, np.float32)
        return diffusion.mix(np.full((1, 1), tau, np.float32), level, self.model.config.change)

    def _step(self, y: Tensor, said: Tensor, k: int) -> Tensor:
        if k == self.steps - 1:
            return said
        return ops.shortcut_step(
            y, said, full((self.n, 1), k / self.steps), full((self.n, 1), 1 / self.steps), clip=1.0
        )

    def _guided(
        self,
        said: Tensor,
        y: Tensor,
        before: Tensor | None,
        plain: list[Tensor],
        unacted: list[Tensor] | None,
        k: int,
        time: CachedTime,
    ) -> Tensor:
        """The prediction pushed away from that without the action and that without the past."""
        model, whole = self.model, said
        if unacted is not None:
            weak = model.predict(
                y, before, self._mix(k / self.steps), level_of(unacted, k), time, features=False
            )[0]
            said = diffusion.guide(said, whole, weak, self.guidance[0])
        if self.guidance[1] != 1:
            nothing = None if before is None else Tensor(np.zeros(before.shape, np.float32))
            alone = self._mix(k / self.steps, 0.0)
            weak = model.predict(y, nothing, alone, level_of(plain, k), model.window_time(1), features=False)[
                0
            ]
            said = diffusion.guide(said, whole, weak, self.guidance[1])
        return said

    # ---- Sampler ----

    def begin(self, rows: np.ndarray, frames: np.ndarray, actions: np.ndarray) -> None:
        """See Sampler.begin; a row of actions that is all zeros counts as unknown."""
        frames, actions = with_context(frames, actions, self.model.context)
        at = 0
        while at < len(rows):
            k = next(k for k in (16, 4, 1) if k <= len(rows) - at)  # few shapes, so few plans
            if k not in self._prefills:
                self._prefills[k] = Prefill(self, k)
            self._prefills[k].run(rows[at : at + k], frames[at : at + k], actions[at : at + k])
            at += k
        if self.model.config.outcome == "apart":
            self.state["pictures"][rows] = frames[:, -2:]
            self.state["acted"][rows, :, :-1] = actions
            self.state["acted"][rows, :, -1] = actions.any(-1)

    def advance(self, actions: np.ndarray) -> Step:
        known = ~np.isnan(actions).any(-1)
        actions = actions if known.all() else np.where(known[:, None], actions, np.float32(0))
        self._conditions.told(actions, known)
        if self._unacted:
            self._unacted.told(actions, np.zeros(self.n, bool))
        position = self.state["position"].numpy() + 1
        self.state["position"][...] = position
        self._pages.own(np.arange(self.n), self._slots(position))
        apart = self.model.config.outcome == "apart"
        if apart:
            acted = self.state["acted"]
            acted[:, :-1] = acted.numpy()[:, 1:]
            acted[:, -1, :-1], acted[:, -1, -1] = actions, known
        frames, rewards, termination, ends, features, last = (t.numpy() for t in self._plan.run())
        if apart:
            pictures = self.state["pictures"]
            pictures[:, 0], pictures[:, 1] = pictures.numpy()[:, 1].copy(), frames[:, 0]
        self.state["last"][...] = last
        self.state["features"][...] = features
        ended = ends > 0.5 if self.sample_ends else termination > 0.5
        return Step(
            np.array(frames[:, 0]), np.array(rewards), ended, np.array(termination), np.array(features)
        )

    # ---- keys and values lie in pages: state holds them by page, snapshots by slot ----

    def _slots(self, position: np.ndarray) -> np.ndarray:
        """Where frame `position` of each environment goes (ops.cache_write)."""
        sinks, ring = self.model.config.sinks, self.model.config.slots - self.model.config.sinks
        return np.where(position < sinks, np.maximum(position, 0), sinks + (position - sinks) % ring)

    def _remembered(self, name: str, rows: np.ndarray) -> np.ndarray:
        if "." not in name:
            return super()._remembered(name, rows)
        pages = self.state[name].numpy()
        return pages.reshape(-1, *pages.shape[2:])[self._pages.of(rows)]

    def _put(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        if "." not in name:
            return super()._put(name, rows, values)
        self._pages.own_all(rows)
        shape = self.state[name].shape
        at = np.unravel_index(self._pages.of(rows), shape[:2])
        self.state[name][at] = values

    def _share(self, name: str, row: int, rows: np.ndarray) -> None:
        if "." not in name:
            super()._share(name, row, rows)

    def fork(self, row: int, rows: Sequence[int] | np.ndarray, seeds: Sequence[int] | np.ndarray | None = None) -> None:
        super().fork(row, rows, seeds)
        self._pages.share(row, np.asarray(rows, np.int64))


class Prefill:
    """Commits the context frames of k environments at once, into caches of its own, and copies them to their
    rows."""

    def __init__(self, sampler: DiTSampler, k: int):
        model, T = sampler.model, sampler.model.context
        self.sampler = sampler
        names = [name for name in sampler.state if "." in name]
        self.state = {
            name: Tensor(np.zeros((k, *sampler.state[name].shape[1:]), np.float32), copy=True)
            for name in names
        }
        self.stream = Tensor(np.zeros((k, 4), np.int32), copy=True)
        self.frames = Tensor(np.zeros((k, T, *model.frame_shape), np.uint8), copy=True)
        self.actions = Tensor(np.zeros((k, T, model.action_features), np.float32), copy=True)
        self.known = Tensor(np.zeros((k, T), np.float32), copy=True)
        position = Tensor(np.full(k, T - 1, np.int32))
        caches = [(self.state[f"keys.{i}"], self.state[f"values.{i}"]) for i in range(model.time_layers)]
        tau = np.full((k, T), sampler.context_level, np.float32)
        with Tape(grad=False) as tape:
            noisy, _ = model.tokenizer.noised(self.frames, self.stream, Tensor(tau), SALT_CONTEXT)
            z = model.condition.vector(self.actions, self.known)
            before = np.where(np.arange(T) > 0, tau, 0).astype(np.float32)
            m = model.modulate(
                model.condition(model.told(tau, np.full_like(tau, 1 / model.objective.finest), before), z)
            )
            apart, time = model.config.outcome == "apart", model.cached_time(caches, position)
            mix = diffusion.mix(tau, before, model.config.change)
            said = model.predict(
                noisy, model.carry(noisy, tau), mix, m, time, features=not apart, frames=False
            )[1]
        self.plan = tape.plan(noisy) if apart else tape.plan(noisy, said)

    def run(self, rows: np.ndarray, frames: np.ndarray, actions: np.ndarray) -> None:
        state = self.sampler.state
        self.stream[...] = state["stream"].numpy()[rows]
        self.frames[...], self.actions[...] = frames, actions
        self.known[...] = actions.any(-1)
        noisy, *said = (t.numpy() for t in self.plan.run())
        state["position"][rows] = frames.shape[1] - 1
        state["last"][rows] = noisy[:, -1:]
        state["features"][rows] = said[0][:, -1] if said else 0
        for name, t in self.state.items():
            self.sampler._put(name, rows, t.numpy())


def full(shape: tuple[int, ...], value: float) -> Tensor:
    return Tensor(np.full(shape, value, np.float32))


def level_of(m: list[Tensor], k: int) -> list[Tensor]:
    """(levels,n,parts width) -> (n,1,parts width) of level k; rows of memory, not copied."""
    return [t[k : k + 1].reshape(t.shape[1], 1, t.shape[2]) for t in m]


def with_context(frames: np.ndarray, actions: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """The last context frames, the first repeated (with no action) where there are fewer."""
    frames, actions = frames[:, -context:], actions[:, -context:]
    missing = context - frames.shape[1]
    if missing > 0:
        frames = np.concatenate([np.repeat(frames[:, :1], missing, 1), frames], 1)
        actions = np.concatenate(
            [np.zeros((len(actions), missing, actions.shape[2]), np.float32), actions], 1
        )
    return frames, actions


def denoise_window(
    model: DiT,
    frames: np.ndarray,
    actions: np.ndarray,
    known: np.ndarray,
    stream: Tensor,
    schedule: str = "full",
    steps: int = 4,
    slope: float = 1.0,
    context_level: float = 0.98,
) -> np.ndarray:
    """Imagine the rest of a window at once, without a cache: frames (B,T,H,W,C) uint8 of which the first
    `context` are given, actions (B,T,F) that led to each, known (B,T).  schedule: see
    diffusion.schedule_matrix.  Returns uint8 (B,T,H,W,C)."""
    B, T = frames.shape[:2]
    given = model.context
    if T <= given or T > model.config.window:
        raise ValueError(f"denoise_window: wanted {given + 1} to {model.config.window} frames, got {T}")
    matrix = diffusion.schedule_matrix(schedule, T - given, steps, slope)
    z = model.condition.vector(
        Tensor(np.ascontiguousarray(actions, np.float32)), Tensor(np.ascontiguousarray(known, np.float32))
    )
    level = np.repeat((np.arange(T) < given)[None], B, 0).astype(np.float32)
    y, _ = model.tokenizer.noised(Tensor(np.ascontiguousarray(frames)), stream, Tensor(level), SALT_START)
    for now, after in zip(matrix, matrix[1:], strict=False):
        level[:, given:] = 1 - now / steps
        step = np.zeros_like(level)
        step[:, given:] = (now - after) / steps
        done = level == 1
        seen = ops.noise(
            y, stream, Tensor(np.where(done, context_level, 1.0).astype(np.float32)), salt=SALT_COMMIT
        )
        size = np.where(done, 1 / model.objective.finest, 1 / steps).astype(np.float32)
        said = model.say(
            seen, np.where(done, context_level, level).astype(np.float32), size, z, features=False
        )[0]
        y = ops.shortcut_step(y, said, Tensor(level.copy()), Tensor(step), clip=1.0)
    out = model.tokenizer.picture(y).numpy().copy()
    out[:, :given] = frames[:, :given]
    return out
