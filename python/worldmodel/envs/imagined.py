"""imagined: a learned world as a real gymnasium.Env.

    env = gym.make("worldmodel/Imagined-v0", world="doom.safetensors")
    frame, info = env.reset(seed=0); frame, reward, terminated, truncated, info = env.step(action)
    snapshot = env.unwrapped.get_state(); env.unwrapped.set_state(snapshot)

Its randomness is one stream, seeded from np_random at reset: the same seed gives the same bits, alone or as
one lane of `ImaginedVector`, whatever the thread count.
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np

from ..world import World
from .lanes import Lanes, world_of


class Imagined(gym.Env):
    """One imagined environment.

    Args:
        world: a World, or the path of its file (a path keeps the spec JSON-able).
        render_mode: None, 'rgb_array' or 'human' (a window).
        steps: denoising steps, the world's own by default.
        max_episode_steps: truncate after so many, by default where the real environment does.  (`gym.make`
            keeps an argument of this name for its own wrapper: there it can only shorten.)

    `reset(options=)` may hold 'start' (a row of world.starts), or 'frames' (T,H,W,C) uint8 to go on from and
    'actions' (the T-1 between them), and 'horizon' (truncate this episode after so many steps).  Raises
    ValueError for a wrong option, or an action outside the space; gymnasium's ResetNeeded for a step before
    the first reset.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 30}

    def __init__(
        self,
        world: World | str | os.PathLike[str],
        render_mode: str | None = None,
        steps: int | None = None,
        max_episode_steps: int | None = None,
    ):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"Imagined: render_mode must be None, 'rgb_array' or 'human', got {render_mode!r}"
            )
        self.world = world_of(world)
        self.metadata = {**self.metadata, "render_fps": self.world.config.fps}
        self.observation_space, self.action_space = self.world.observation_space, self.world.action_space
        self.render_mode = render_mode
        self._lanes = Lanes(self.world, 1, max_episode_steps, steps)
        self._started = False
        self._window: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """First frame (H,W,C) uint8 and an empty info; seed: its random numbers start anew."""
        super().reset(seed=seed)
        self._lanes.generators[0] = self.np_random
        self._lanes.reset(np.zeros(1, np.int64), options or {})
        self._started = True
        self._show()
        return self._lanes.frames[0].copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Next frame, expected reward, terminated (drawn with the world's probability), truncated, an empty
        info.
        """
        if not self._started:
            raise gym.error.ResetNeeded("Imagined: call reset before step")
        self.world.table.validate(action)
        features = self.world.table.features(self.world.table.encode(action))
        rewards, terminated, truncated = self._lanes.step(features.reshape(1, -1))
        self._show()
        return self._lanes.frames[0].copy(), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """The frame (H,W,C) uint8 in 'rgb_array' mode; 'human' shows every frame by itself."""
        return self._lanes.frames[0].copy() if self.render_mode == "rgb_array" else None

    @property
    def features(self) -> np.ndarray:
        """What the last step left for policies, (F,) float32; zeros after a reset."""
        return self._lanes.features[0].copy()

    def get_state(self) -> dict[str, Any]:
        """All that the environment remembers: put back with set_state, it continues bit for bit."""
        if not self._started:
            raise gym.error.ResetNeeded("Imagined: call reset before get_state")
        self._lanes.generators[0] = self.np_random
        return self._lanes.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError, and changes nothing, for the state of another kind of world."""
        self._lanes.generators[0] = self.np_random
        self._lanes.set_state(state)
        self._started = True
        self._show()

    def _show(self) -> None:
        if self.render_mode == "human":
            if self._window is None:
                from .window import Window

                self._window = Window("worldmodel", fps=self.metadata["render_fps"])
            self._window.show(self._lanes.frames[0])

    def close(self) -> None:
        """Close the window, if there is one; may be called again."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_window": None}
