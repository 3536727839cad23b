"""vector: num_envs imagined environments as a native gymnasium VectorEnv: one batched step in C for all, each
at its own length.

    envs = gym.make_vec("worldmodel/Imagined-v0", num_envs=64, vectorization_mode="vector_entry_point",
    world=world) frames, infos = envs.reset(seed=0)                     # environment k is the single one of
    seed k, bit for bit snapshot = envs.get_state(); envs.set_state(snapshot); envs.fork(0, 63)

Autoreset, after an episode ends in step t (Gymnasium 1.1):
    NextStep  step t+1 ignores the action and returns the new episode's first frame, reward 0, flags False
    SameStep  step t itself returns it; the last frame is infos["final_obs"][k], its info infos["final_info"]
    Disabled  step t+1 raises ResetNeeded, until reset(options={"reset_mask": ...}) has begun a new episode
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ..world import World
from .lanes import Lanes, check_whole, world_of

Result = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class ImaginedVector(VectorEnv):
    """num_envs imagined environments.

    Args:
        world, steps, max_episode_steps: see Imagined.
        render_mode: None or 'rgb_array'.
        autoreset_mode: 'NextStep', 'SameStep', 'Disabled', or gymnasium's AutoresetMode.

    `reset(options=)` takes Imagined's, of which 'start', 'frames' and 'actions' may be num_envs of them, and
    'reset_mask' (num_envs,) bool: reset only these.  Raises as Imagined.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        world: World | str | os.PathLike[str],
        num_envs: int = 1,
        render_mode: str | None = None,
        steps: int | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"ImaginedVector: render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.num_envs = check_whole("ImaginedVector: num_envs", num_envs, 1)
        try:
            self._mode = AutoresetMode(autoreset_mode)
        except ValueError:
            wanted = ", ".join(repr(m.value) for m in AutoresetMode)
            raise ValueError(
                f"ImaginedVector: autoreset_mode must be one of {wanted}, got {autoreset_mode!r}"
            ) from None
        self.world, self.render_mode = world_of(world), render_mode
        self.metadata = {**self.metadata, "autoreset_mode": self._mode, "render_fps": self.world.config.fps}
        self.single_observation_space, self.single_action_space = (
            self.world.observation_space,
            self.world.action_space,
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._lanes = Lanes(self.world, num_envs, max_episode_steps, steps)
        self._started, self._done = np.zeros(num_envs, bool), np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """First frames (num_envs,H,W,C) uint8 and empty infos; seed: environment k is seeded with seed + k,
        or seed[k].
        """
        options = dict(options or {})
        rows = np.flatnonzero(self._mask(options.pop("reset_mask", None)))
        whole = isinstance(seed, (int, np.integer))
        seeds = (
            [None if seed is None else int(seed) + k for k in range(self.num_envs)]
            if whole or seed is None
            else list(seed)
        )
        if len(seeds) != self.num_envs:
            raise ValueError(f"reset: seed must be one whole number or {self.num_envs}, got {len(seeds)}")
        for k in rows:
            if seeds[k] is not None:
                self._lanes.generators[k], _ = seeding.np_random(seeds[k])
        self._lanes.reset(rows, options)
        self._done[rows], self._started[rows] = False, True
        return self._lanes.frames.copy(), {}

    def _mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        right = (
            isinstance(mask, np.ndarray)
            and mask.dtype == np.bool_
            and mask.shape == (self.num_envs,)
            and mask.any()
        )
        if not right:
            raise ValueError(
                f"reset: options['reset_mask'] must be a bool array ({self.num_envs},), at least one True, "
                f"got {mask!r}"
            )
        return mask

    def step(self, actions: Any) -> Result:
        """Frames, expected rewards (num_envs,) float64, terminated, truncated (num_envs,) bool, infos."""
        if not self._started.all():
            raise gym.error.ResetNeeded("ImaginedVector: call reset before step")
        if self._mode == AutoresetMode.DISABLED and self._done.any():
            done = np.flatnonzero(self._done).tolist()
            raise gym.error.ResetNeeded(
                f"step: environments {done} are done; reset them with options['reset_mask']"
            )
        features = self.world.features(actions)
        if len(features) != self.num_envs:
            raise ValueError(f"step: {self.num_envs} actions wanted, got {len(features)}")
        infos: dict[str, Any] = {}
        fresh = self._done  # NextStep: these begin anew instead of stepping
        rewards, terminated, truncated = self._lanes.step(features, ~fresh if fresh.any() else None)
        over = terminated | truncated
        if self._mode == AutoresetMode.SAME_STEP:
            fresh = over
            for k in np.flatnonzero(over):
                infos = self._add_info(
                    infos, {"final_obs": self._lanes.frames[k].copy(), "final_info": {}}, int(k)
                )
        if fresh.any():
            self._lanes.reset(np.flatnonzero(fresh), {})
        self._done = over if self._mode != AutoresetMode.SAME_STEP else np.zeros_like(over)
        return self._lanes.frames.copy(), rewards, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The frames, (H,W,C) uint8 each, in 'rgb_array' mode."""
        return tuple(self._lanes.frames.copy()) if self.render_mode == "rgb_array" else None

    @property
    def features(self) -> np.ndarray:
        """What the last step left for policies, (num_envs,F) float32; zeros after a reset."""
        return self._lanes.features.copy()

    # ---- branching ----

    def get_state(self) -> dict[str, Any]:
        """All that the environments remember: put back with set_state, they continue bit for bit."""
        if not self._started.all():
            raise gym.error.ResetNeeded("ImaginedVector: call reset before get_state")
        return {**self._lanes.get_state(), "done": self._done.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError, and changes nothing, for the state of another kind of world or number of
        environments.
        """
        if np.shape(state.get("done")) != (self.num_envs,):
            raise ValueError(
                f"set_state: done must have shape ({self.num_envs},), got {np.shape(state.get('done'))}"
            )
        self._lanes.set_state(state)
        self._done[:], self._started[:] = state["done"], True

    def fork(self, index: int, times: int | Sequence[int], seed: int | None = None) -> None:
        """Make other environments copies of environment index: the next `times` ones (wrapping round), or
        those listed.

        They have its past, and its random future too: the same actions lead to the same frames.  seed: the
        j-th copy gets a future of its own, from seed + j.
        """
        index = check_whole("fork: index", index, 0, self.num_envs - 1)
        if not self._started[index]:
            raise gym.error.ResetNeeded("ImaginedVector: call reset before fork")
        if np.ndim(times) == 0:
            check_whole("fork: times", times, 0, self.num_envs - 1)
            rows = (index + 1 + np.arange(times)) % self.num_envs
        else:
            rows = np.array(
                [check_whole("fork: environments", k, 0, self.num_envs - 1) for k in times], np.int64
            )
        self._lanes.fork(index, rows, None if seed is None else [seed + j for j in range(len(rows))])
        self._done[rows], self._started[rows] = self._done[index], True

    # ---- what VectorEnv has for one generator, for each ----

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each environment."""
        return tuple(self._lanes.generators)
