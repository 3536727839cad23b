"""imagined: a learned world as a real gymnasium.Env, and natively as a VectorEnv that steps all its environments at once.

    env  = gym.make("worldmodel/Imagined-v0", world="doom.safetensors")
    envs = gym.make_vec("worldmodel/Imagined-v0", num_envs=64, vectorization_mode="vector_entry_point", world=world)
    snapshot = envs.get_state(); envs.set_state(snapshot); envs.fork(0, 63)

An environment's randomness is its own stream, seeded from its np_random at reset: the same seed gives the same bits
whatever the batch size or thread count.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ..sampling import Snapshot
from ..world import World


def _world_of(world: World | str | os.PathLike[str]) -> World:
    if isinstance(world, World):
        return world
    if isinstance(world, (str, os.PathLike)):
        return World.load(world)
    raise TypeError(f"Imagined: world must be a World or the path of its file, got {type(world).__name__}")


class Lanes:
    """N imagined environments: the sampler, each one's generator, step count and last picture.  What Env and VectorEnv share."""

    def __init__(self, world: World, n: int, max_episode_steps: int | None, steps: int | None):
        if len(world.starts[0]) == 0:
            raise ValueError("Imagined: the world has no start frames; keep some with World.take_starts, or pass options={'frames': ...}")
        self.world = world
        self.limit = max_episode_steps or world.config.max_episode_steps
        self.sampler = world.sampler(n, **({"steps": steps} if steps else {}))
        self.generators: list[np.random.Generator] = [np.random.default_rng() for _ in range(n)]
        self.count = np.zeros(n, np.int64)
        self.frames = np.zeros((n, *world.config.frame_shape), np.uint8)
        self.features = np.zeros((n, world.dynamics.feature_size), np.float32)

    def reset(self, rows: np.ndarray, options: dict[str, Any]) -> None:
        """Start rows anew: from options["frames"] (T,H,W,C), options["start"] (a row of world.starts), or one drawn."""
        starts, led = self.world.starts
        frames, actions, seeds = [], [], []
        for row in rows:
            rng = self.generators[row]
            pick, seed = int(rng.integers(len(starts))), int(rng.integers(2**63))
            frames.append(starts[_start(options, pick, len(starts))])
            actions.append(led[_start(options, pick, len(starts))])
            seeds.append(seed)
        given = options.get("frames")
        if given is not None:
            given = np.asarray(given)
            if given.ndim != 4 or given.shape[1:] != self.frames.shape[1:] or given.dtype != np.uint8 or not len(given):
                raise ValueError(f"reset: options['frames'] must be (T, {', '.join(map(str, self.frames.shape[1:]))}) uint8, "
                                 f"got {given.shape} {given.dtype}")
            self.sampler.reset(np.stack([given] * len(rows)), None, seeds, rows)
            self.frames[rows] = given[-1]
        else:
            self.sampler.reset(np.stack(frames), np.stack(actions), seeds, rows)
            self.frames[rows] = np.stack(frames)[:, -1]
        self.count[rows] = 0

    def step(self, features: np.ndarray, active: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> rewards (N,) float64, terminated, truncated (N,) bool; the pictures are in self.frames."""
        step = self.sampler.step(features, active)
        moved = np.ones(len(self.count), bool) if active is None else active
        self.frames[moved] = step.frames[moved]
        self.features[moved] = step.features[moved]
        self.count[moved] += 1
        terminated = step.terminated & moved
        truncated = moved & ~terminated & (self.count >= self.limit if self.limit else False)
        return np.where(moved, step.rewards, 0).astype(np.float64), terminated, truncated

    def get_state(self) -> dict[str, Any]:
        return {"sampler": self.sampler.snapshot(), "count": self.count.copy(), "frames": self.frames.copy(),
                "features": self.features.copy(), "generators": [copy.deepcopy(g.bit_generator.state) for g in self.generators]}

    def set_state(self, state: dict[str, Any]) -> None:
        self.sampler.restore(state["sampler"])
        self.count[:], self.frames[:], self.features[:] = state["count"], state["frames"], state["features"]
        for g, s in zip(self.generators, state["generators"], strict=True):
            g.bit_generator.state = s

    def fork(self, row: int, rows: np.ndarray) -> None:
        self.sampler.fork(row, rows)
        for a in (self.count, self.frames, self.features):
            a[rows] = a[row]
        for r in rows:
            self.generators[r].bit_generator.state = self.generators[row].bit_generator.state


def _start(options: dict[str, Any], drawn: int, count: int) -> int:
    start = options.get("start")
    if start is None:
        return drawn
    if isinstance(start, bool) or not isinstance(start, (int, np.integer)) or not 0 <= start < count:
        raise ValueError(f"reset: options['start'] must be an integer of 0 to {count - 1}, got {start!r}")
    return int(start)


def _check_options(options: dict[str, Any] | None) -> dict[str, Any]:
    options = dict(options or {})
    unknown = set(options) - {"start", "frames", "reset_mask"}
    if unknown:
        raise ValueError(f"reset: options may hold 'start', 'frames' and 'reset_mask', got {sorted(unknown)}")
    return options


class Imagined(gym.Env):
    """One imagined environment.

    world: a World or the path of its file (a path keeps the spec JSON-able).  steps: denoising steps, the world's own by
    default.  max_episode_steps: truncate after so many, the real environment's limit by default.  reset's options: 'start'
    (a row of world.starts) or 'frames' (T,H,W,C) uint8.  step raises ValueError for an action outside the space, and
    gymnasium's ResetNeeded before the first reset.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 30}

    def __init__(self, world: World | str | os.PathLike[str], render_mode: str | None = None, steps: int | None = None,
                 max_episode_steps: int | None = None):
        _check_render_mode(render_mode)
        self.world = _world_of(world)
        self.metadata = {**self.metadata, "render_fps": self.world.config.fps}
        self.observation_space, self.action_space = self.world.observation_space, self.world.action_space
        self.render_mode = render_mode
        self._lanes = Lanes(self.world, 1, max_episode_steps, steps)
        self._started = False
        self._window: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = _check_options(options)
        self._lanes.generators[0] = self.np_random
        self._lanes.reset(np.zeros(1, np.int64), options)
        self._started = True
        self._show()
        return self._lanes.frames[0].copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self._started:
            raise gym.error.ResetNeeded("Imagined: call reset before step")
        self.world.table.validate(action)
        features = self.world.table.features(self.world.table.encode(action))
        rewards, terminated, truncated = self._lanes.step(features.reshape(1, -1))
        self._show()
        return self._lanes.frames[0].copy(), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        return self._lanes.frames[0].copy() if self.render_mode == "rgb_array" else None

    def get_state(self) -> dict[str, Any]:
        """All that the environment remembers: put back with set_state, it continues bit for bit."""
        return self._lanes.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._lanes.generators[0] = self.np_random
        self._lanes.set_state(state)
        self._started = True

    def _show(self) -> None:
        if self.render_mode == "human":
            from .window import Window

            self._window = self._window or Window(str(self.metadata["render_fps"]))
            self._window.show(self._lanes.frames[0])

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None


class ImaginedVector(VectorEnv):
    """num_envs imagined environments, one batched step in C for all, each at its own length.

    autoreset_mode: 'NextStep' (Gymnasium's default), 'SameStep' or 'Disabled'; the rest as Imagined.  reset(seed=i) seeds
    environment k with i + k; reset(options={'reset_mask': (num_envs,) bool}) resets some (Disabled mode).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, world: World | str | os.PathLike[str], num_envs: int = 1, render_mode: str | None = None,
                 steps: int | None = None, max_episode_steps: int | None = None,
                 autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP):
        if render_mode == "human":
            raise ValueError("ImaginedVector: render_mode must be None or 'rgb_array', got 'human'")
        _check_render_mode(render_mode)
        if not isinstance(num_envs, int) or num_envs < 1:
            raise ValueError(f"ImaginedVector: num_envs must be at least 1, got {num_envs!r}")
        self.world = _world_of(world)
        self.mode = AutoresetMode(autoreset_mode)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.metadata = {**self.metadata, "autoreset_mode": self.mode, "render_fps": self.world.config.fps}
        self.single_observation_space, self.single_action_space = self.world.observation_space, self.world.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._lanes = Lanes(self.world, num_envs, max_episode_steps, steps)
        self._done = np.zeros(num_envs, bool)
        self._started = False

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
              ) -> tuple[np.ndarray, dict[str, Any]]:
        options = _check_options(options)
        mask = self._mask(options.pop("reset_mask", None))
        seeds = [None if seed is None else seed + i for i in range(self.num_envs)] if seed is None or isinstance(seed, int) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"reset: seed must be one integer or {self.num_envs}, got {len(seeds)}")
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                self._lanes.generators[i] = np.random.default_rng(seeds[i])
        self._lanes.reset(np.flatnonzero(mask), options)
        self._done[mask] = False
        self._started = True
        return self._lanes.frames.copy(), {}

    def _mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"reset: options['reset_mask'] must be a bool array ({self.num_envs},) with at least one True, got {mask!r}")
        return mask

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if not self._started:
            raise gym.error.ResetNeeded("ImaginedVector: call reset before step")
        features = self.world.features(actions)
        if len(features) != self.num_envs:
            raise ValueError(f"step: {self.num_envs} actions wanted, got {len(features)}")
        if self.mode == AutoresetMode.DISABLED:
            if self._done.any():
                raise ValueError(f"step: environments {np.flatnonzero(self._done).tolist()} are done; reset them with options['reset_mask']")
            return self._finish(*self._lanes.step(features), {})
        if self.mode == AutoresetMode.SAME_STEP:
            return self._same_step(*self._lanes.step(features))
        over = self._done.copy()
        rewards, terminated, truncated = self._lanes.step(features, ~over if over.any() else None)
        if over.any():
            self._lanes.reset(np.flatnonzero(over), {})
        return self._finish(rewards, terminated, truncated, {})

    def _same_step(self, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray):
        infos: dict[str, Any] = {}
        over = terminated | truncated
        if over.any():
            for i in np.flatnonzero(over):
                infos = self._add_info(infos, {"final_obs": self._lanes.frames[i].copy(), "final_info": {}}, int(i))
            self._lanes.reset(np.flatnonzero(over), {})
        return self._lanes.frames.copy(), rewards, terminated, truncated, infos

    def _finish(self, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, infos: dict[str, Any]):
        self._done = terminated | truncated
        return self._lanes.frames.copy(), rewards, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        return tuple(self._lanes.frames.copy()) if self.render_mode == "rgb_array" else None

    @property
    def features(self) -> np.ndarray:
        """What the last step left for policies, (num_envs, F) float32."""
        return self._lanes.features.copy()

    def get_state(self) -> dict[str, Any]:
        """All that the environments remember: put back with set_state, they continue bit for bit."""
        return {**self._lanes.get_state(), "done": self._done.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        self._lanes.set_state(state)
        self._done[:] = state["done"]
        self._started = True

    def fork(self, index: int, times: int | Sequence[int]) -> None:
        """Make other environments copies of environment index, past and random future alike: the next `times` ones
        (wrapping round), or those listed."""
        if not 0 <= index < self.num_envs:
            raise IndexError(f"fork: index must be 0 to {self.num_envs - 1}, got {index}")
        if isinstance(times, (int, np.integer)):
            if not 0 <= times < self.num_envs:
                raise ValueError(f"fork: there are {self.num_envs - 1} other environments, got times={times}")
            rows = (index + 1 + np.arange(times)) % self.num_envs
        else:
            rows = np.asarray(times, np.int64)
        self._lanes.fork(index, rows)
        self._done[rows] = self._done[index]


def _check_render_mode(mode: str | None) -> None:
    if mode not in (None, "rgb_array", "human"):
        raise ValueError(f"Imagined: render_mode must be None, 'rgb_array' or 'human', got {mode!r}")
