"""lanes: n imagined environments side by side: what the Env and the VectorEnv share.

Lane i has its own generator, step count, limit and last picture; a reset draws from its generator, in this
order, the row of world.starts and the seed of its random stream, whatever the options are.  So lane i of many
is the single environment of the same generator, bit for bit.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..world import World

OPTIONS = ("start", "frames", "actions", "horizon")


def world_of(world: World | str | os.PathLike[str]) -> World:
    """A world, or the world of a file.  Raises TypeError, FileNotFoundError, or ValueError for a damaged
    file.
    """
    if isinstance(world, World):
        return world
    if isinstance(world, (str, os.PathLike)):
        return World.load(world)
    raise TypeError(f"Imagined: world must be a World or the path of its file, got {type(world).__name__}")


def check_whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """value as an int, if it is a whole number of low to high; else ValueError."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"{low} to {high}"
        raise ValueError(f"{name} must be a whole number, {bounds}, got {value!r}")
    return int(value)


class Lanes:
    """max_episode_steps: steps until a lane is truncated, the world's own limit by default; steps: denoising
    steps.
    """

    def __init__(self, world: World, n: int, max_episode_steps: int | None = None, steps: int | None = None):
        if max_episode_steps is not None:
            check_whole("Imagined: max_episode_steps", max_episode_steps, 1)
        if steps is not None:
            check_whole("Imagined: steps", steps, 1)
        self.world, self.n, self._settings = world, n, (max_episode_steps, steps)
        self.limit = max_episode_steps or world.config.max_episode_steps or 0
        self.sampler = world.sampler(n, **({"steps": steps} if steps else {}))
        self.generators = [np.random.default_rng() for _ in range(n)]
        self.count = np.zeros(n, np.int64)
        self.limits = np.full(n, self.limit, np.int64)
        self.frames = np.zeros((n, *world.config.frame_shape), np.uint8)
        self.features = np.zeros((n, world.dynamics.feature_size), np.float32)

    # ---- moving ----

    def reset(self, rows: np.ndarray, options: dict[str, Any]) -> None:
        """Start rows anew, as the options say (see Imagined)."""
        unknown = set(options) - set(OPTIONS)
        if unknown:
            raise ValueError(
                f"reset: options may hold {', '.join(OPTIONS)}, got {', '.join(sorted(map(str, unknown)))}"
            )
        if options.get("actions") is not None and options.get("frames") is None:
            raise ValueError("reset: options['actions'] go with options['frames']")
        horizon = options.get("horizon")
        limit = self.limit if horizon is None else check_whole("reset: options['horizon']", horizon, 1)
        chosen, given = self._chosen(options), self._given(options)
        kept, led = self.world.starts
        drawn = [
            (g.integers(max(1, len(kept))), g.integers(2**63)) for g in (self.generators[r] for r in rows)
        ]
        picks, seeds = np.array(drawn, np.int64).T
        picks = picks if chosen is None else chosen[rows]
        frames, actions = (kept[picks], led[picks]) if given is None else (given[0][rows], given[1][rows])
        self.sampler.reset(frames, actions, seeds, rows)
        self.frames[rows], self.count[rows], self.limits[rows] = frames[:, -1], 0, limit
        self.features[rows] = 0

    def step(
        self, features: np.ndarray, active: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """By action features (n,F) -> rewards (n,) float64, terminated, truncated (n,) bool; pictures in
        self.frames.  Lanes that are not active stay as they are, with 0 and False.
        """
        moved = np.ones(self.n, bool) if active is None else active
        rewards, terminated = np.zeros(self.n), np.zeros(self.n, bool)
        if moved.any():
            step = self.sampler.step(features, active)
            self.frames[moved], self.features[moved] = step.frames[moved], step.features[moved]
            rewards[moved], terminated[moved] = step.rewards[moved], step.terminated[moved]
            self.count[moved] += 1
        late = (self.limits > 0) & (self.count >= self.limits)
        return rewards, terminated, moved & ~terminated & late

    # ---- where a reset starts ----

    def _chosen(self, options: dict[str, Any]) -> np.ndarray | None:
        """options["start"], a row of world.starts for all lanes or each: (n,)."""
        start, count = options.get("start"), len(self.world.starts[0])
        if not count and options.get("frames") is None:
            raise ValueError(
                "reset: the world keeps no start frames; call World.take_starts, or give options['frames']"
            )
        if start is None:
            return None
        each = list(start) if np.ndim(start) == 1 else [start] * self.n
        if len(each) != self.n:
            raise ValueError(f"reset: options['start'] must be one row or {self.n}, got {len(each)}")
        return np.array([check_whole("reset: options['start']", s, 0, count - 1) for s in each])

    def _given(self, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
        """options["frames"], for all lanes or each, and options["actions"] between them: (n,T,H,W,C),
        (n,T,F).
        """
        if options.get("frames") is None:
            return None
        if options.get("start") is not None:
            raise ValueError("reset: options may hold 'start' or 'frames', not both")
        frames, shape = np.asarray(options["frames"]), self.frames.shape[1:]
        each = frames.ndim == 5 and len(frames) == self.n
        if (
            frames.dtype != np.uint8
            or frames.shape[-3:] != shape
            or not (each or frames.ndim == 4)
            or not frames.shape[-4]
        ):
            raise ValueError(
                f"reset: options['frames'] must be (T, {', '.join(map(str, shape))}) uint8, or {self.n} of "
                f"these, got {frames.shape} {frames.dtype}"
            )
        frames = frames if each else np.broadcast_to(frames, (self.n, *frames.shape))
        led = np.zeros((self.n, frames.shape[1], self.world.table.feature_size), np.float32)
        if options.get("actions") is not None:
            sequences = options["actions"] if each else [options["actions"]] * self.n
            if len(sequences) != self.n:
                raise ValueError(
                    f"reset: options['actions'] must hold {self.n} sequences, got {len(sequences)}"
                )
            for i, sequence in enumerate(sequences):
                led[i, 1:] = self._between(sequence, frames.shape[1] - 1)
        return frames, led

    def _between(self, actions: Any, count: int) -> np.ndarray:
        """Features (count,F) of the actions between count + 1 frames."""
        if len(actions) != count:
            raise ValueError(
                f"reset: options['actions'] must be the {count} between {count + 1} frames, "
                f"got {len(actions)}"
            )
        return (
            self.world.features(list(actions))
            if count
            else np.zeros((0, self.world.table.feature_size), np.float32)
        )

    # ---- everything remembered ----

    def get_state(self) -> dict[str, Any]:
        """Arrays and the generators' states; set_state puts them back bit for bit."""
        return {
            "sampler": self.sampler.snapshot(),
            "count": self.count.copy(),
            "limits": self.limits.copy(),
            "frames": self.frames.copy(),
            "features": self.features.copy(),
            "generators": [copy.deepcopy(g.bit_generator.state) for g in self.generators],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError, and changes nothing, for a state of another world or number of lanes."""
        names = ("count", "limits", "frames", "features")
        missing = [k for k in ("sampler", "generators", *names) if k not in state]
        if missing:
            raise ValueError(f"set_state: the state lacks {', '.join(missing)}")
        for k in names:
            if np.shape(state[k]) != getattr(self, k).shape:
                raise ValueError(
                    f"set_state: {k} must have shape {getattr(self, k).shape}, got {np.shape(state[k])}"
                )
        if len(state["generators"]) != self.n:
            raise ValueError(f"set_state: {self.n} generators wanted, got {len(state['generators'])}")
        self.sampler.restore(state["sampler"])
        for k in names:
            getattr(self, k)[:] = state[k]
        for generator, remembered in zip(self.generators, state["generators"], strict=True):
            generator.bit_generator.state = remembered

    def fork(self, row: int, rows: Sequence[int] | np.ndarray, seeds: Sequence[int] | None = None) -> None:
        """Make rows copies of row; seeds: with random futures of their own."""
        self.sampler.fork(row, rows, seeds)
        for a in (self.count, self.limits, self.frames, self.features):
            a[rows] = a[row]
        for i, r in enumerate(rows):
            state = self.generators[row].bit_generator.state
            self.generators[r].bit_generator.state = (
                state if seeds is None else np.random.default_rng(seeds[i]).bit_generator.state
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"world": self.world, "n": self.n, "settings": self._settings, "state": self.get_state()}

    def __setstate__(self, d: dict[str, Any]) -> None:
        self.__init__(d["world"], d["n"], *d["settings"])  # type: ignore[misc]
        self.set_state(d["state"])
