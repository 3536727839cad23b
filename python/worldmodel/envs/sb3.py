"""sb3: imagined environments as Stable-Baselines3 wants them: one batched step in C for all of them.

    from worldmodel.envs.sb3 import VecEnv
    model = PPO("CnnPolicy", VecMonitor(VecEnv(world, 64)), n_steps=32).learn(100_000)

An episode's last frame is infos[k]["terminal_observation"], infos[k]["TimeLimit.truncated"] tells a limit of time from
an end, and the frame returned is the next episode's first, as its DummyVecEnv does; environment k of seed s is the
single one of seed s + k, bit for bit.  Discrete actions count from 0, as its algorithms do, whatever the space's start.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from ..data.extras import need
from ..world import World
from .vector import ImaginedVector

base = need("stable_baselines3.common.vec_env", "worldmodel.envs.sb3", "sb3")


class VecEnv(base.VecEnv):
    """num_envs imagined environments of a world (or the path of its file); see ImaginedVector for the arguments.

    `set_options` takes its reset options.  `get_attr` and `set_attr` know each environment's own attributes,
    `np_random` and `features`, and those of the ImaginedVector (`envs`), the same for all; `env_method` render, reset
    and get_wrapper_attr.  Raises ImportError without Stable-Baselines3.
    """

    def __init__(
        self,
        world: World | str | os.PathLike[str],
        num_envs: int = 8,
        render_mode: str | None = None,
        steps: int | None = None,
        max_episode_steps: int | None = None,
    ):
        mode = AutoresetMode.SAME_STEP
        self.envs = ImaginedVector(world, num_envs, render_mode, steps, max_episode_steps, autoreset_mode=mode)
        self._lanes = [_Lane(self, k) for k in range(num_envs)]
        self._first, space = _from_zero(self.envs.single_action_space)
        super().__init__(num_envs, self.envs.single_observation_space, space)

    def reset(self) -> np.ndarray:
        """First frames (num_envs,H,W,C) uint8, with the seeds and options that were set; these count once."""
        frames = self._reset(self._seeds, self._options)
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return frames

    def _reset(self, seeds: list[int | None], options: list[dict[str, Any]]) -> np.ndarray:
        if all(o is options[0] or not (o or options[0]) for o in options):
            return self.envs.reset(seed=seeds, options=options[0])[0]
        for k, own in enumerate(options):  # every environment its own: rare
            mask = np.arange(self.num_envs) == k
            frames, _ = self.envs.reset(seed=seeds, options={**own, "reset_mask": mask})
        return frames

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions if self._first is None else actions + self._first

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Frames, rewards (num_envs,) float32, dones (num_envs,) bool, an info each."""
        frames, rewards, terminated, truncated, about = self.envs.step(self._actions)
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": t} for t in (truncated & ~terminated).tolist()]
        done = terminated | truncated
        for k in np.flatnonzero(done):
            infos[k]["terminal_observation"] = about["final_obs"][k]
            self.reset_infos[k] = {}
        return frames, rewards.astype(np.float32), done, infos

    def close(self) -> None:
        self.envs.close()

    def get_images(self) -> list[np.ndarray | None]:
        """The frames in 'rgb_array' mode."""
        return list(self.envs.render() or [None] * self.num_envs)

    # ---- one of them ----

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self._lanes[k], attr_name) for k in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        for k in self._get_indices(indices):
            setattr(self._lanes[k], attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self._lanes[k], method_name)(*args, **kwargs) for k in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class _Lane:
    """One of the environments, for get_attr, set_attr and env_method: its own attributes, then the vector's."""

    def __init__(self, of: VecEnv, k: int):
        self._of, self._k = of, k

    @property
    def observation_space(self) -> spaces.Space[Any]:
        return self._of.observation_space

    @property
    def action_space(self) -> spaces.Space[Any]:
        return self._of.action_space

    @property
    def np_random(self) -> np.random.Generator:
        return self._of.envs.np_random[self._k]

    @property
    def features(self) -> np.ndarray:
        return self._of.envs.features[self._k]

    def render(self) -> np.ndarray | None:
        pictures = self._of.envs.render()
        return None if pictures is None else pictures[self._k]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        mask = np.arange(self._of.num_envs) == self._k
        seeds = [seed if m else None for m in mask]
        frames, _ = self._of.envs.reset(seed=seeds, options={**(options or {}), "reset_mask": mask})
        return frames[self._k], {}

    def get_wrapper_attr(self, name: str) -> Any:
        return getattr(self, name)

    def __getattr__(self, name: str) -> Any:
        if name in ("step", "get_state", "set_state", "fork") or name.startswith("_"):
            raise AttributeError(f"{name}: of all environments at once; see VecEnv.envs")
        return getattr(self._of.envs, name)


def _from_zero(space: spaces.Space[Any]) -> tuple[np.ndarray | int | None, spaces.Space[Any]]:
    """What to add to an action, and the space of actions that count from 0."""
    if isinstance(space, spaces.Discrete) and space.start:
        return int(space.start), spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and np.any(space.start):
        return space.start, spaces.MultiDiscrete(space.nvec)
    return None, space
