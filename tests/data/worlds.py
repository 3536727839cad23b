"""worlds: small environments whose frames tell the truth, for the tests of collecting.

Counter: pixel (0,0) counts the steps since reset, pixel (0,1) the episode, pixel (0,2) the last action; it
ends after a number of steps that depends on the episode: so a frame says which step of which episode it is.
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Counter(gym.Env):
    """Frames (20,24,3); reward = 10 * episode + step; terminates in even episodes, truncates in odd ones."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, form="image", lanes_differ=0, render_mode=None):
        self.form, self.extra, self.render_mode, self.episode = form, lanes_differ, render_mode, -1
        image = spaces.Box(0, 255, (20, 24, 3), np.uint8)
        numbers = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        forms = {
            "image": image,
            "dict": spaces.Dict({"screen": image, "numbers": numbers}),
            "numbers": numbers,
        }
        self.observation_space, self.action_space = forms[form], spaces.Discrete(5)

    def picture(self):
        frame = np.zeros((20, 24, 3), np.uint8)
        frame[0, :3, 0] = self.steps, self.episode, self.last
        return frame

    def observe(self):
        numbers = np.array([self.steps, self.episode], np.float32)
        return {
            "image": self.picture(),
            "dict": {"screen": self.picture(), "numbers": numbers},
            "numbers": numbers,
        }[self.form]

    def length(self):
        return 2 + (self.episode + self.extra) % 4

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.steps, self.last = self.episode + 1, 0, 255
        return self.observe(), {}

    def step(self, action):
        self.steps, self.last = self.steps + 1, int(action)
        over = self.steps >= self.length()
        terminated, truncated = over and self.episode % 2 == 0, over and self.episode % 2 == 1
        return self.observe(), 10.0 * self.episode + self.steps, terminated, truncated, {}

    def render(self):
        return self.picture()


def vector(mode: AutoresetMode, form="image", lanes=3):
    """A SyncVectorEnv of Counters of different lengths."""
    render = "rgb_array" if form == "numbers" else None
    makers = [lambda i=i: Counter(form, lanes_differ=i, render_mode=render) for i in range(lanes)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


def check_truth(episode, unpack, complete=True):
    """Every frame, action, reward and end of an episode of a Counter is where it belongs."""
    T, number = len(episode), int(episode.frames[0, 0, 1, 0])
    assert list(episode.frames[:, 0, 0, 0]) == list(range(T + 1))
    assert (episode.frames[:, 0, 1, 0] == number).all()
    assert list(episode.frames[1:, 0, 2, 0]) == list(unpack(episode.actions))
    assert list(episode.rewards) == [10.0 * number + t + 1 for t in range(T)]
    if complete:
        assert bool(episode.terminated[-1]) == (number % 2 == 0) and bool(episode.truncated[-1]) == (
            number % 2 == 1
        )
        assert not episode.ends[:-1].any()
