"""tiny: small worlds of any action space, with random weights, so that actions and noise move every pixel."""

import numpy as np
import worldmodel as wm
from gymnasium import spaces

DISCRETE = spaces.Discrete(3, start=-1)
SPACES = {
    "discrete": DISCRETE,
    "box": spaces.Box(-2.0, 1.0, (2,), np.float32),
    "buttons": spaces.MultiBinary(3),
    "multi": spaces.MultiDiscrete([2, 3]),
    "dict": spaces.Dict({"aim": spaces.Box(-1.0, 1.0, (1,), np.float32), "fire": spaces.Discrete(2)}),
}


def make_replay(path, space=DISCRETE, episodes=4, steps=12, seed=0, **kwargs):
    """Episodes of noise; the last is the longest and truncated."""
    rng = np.random.default_rng(seed)
    space.seed(seed)

    def episode(i):
        n = steps + i
        return {
            "frames": rng.integers(0, 256, (n + 1, 16, 16, 3), np.uint8),
            "actions": [space.sample() for _ in range(n)],
            "rewards": rng.normal(size=n),
            "terminated": i < episodes - 1,
            "truncated": i == episodes - 1,
        }

    return wm.Replay.from_arrays(path, space, (episode(i) for i in range(episodes)), **kwargs)


def make_world(replay, termination=-3.0, seed=1, steps=1):
    """Random weights; an episode ends with about the probability sigmoid(termination) a step."""
    world = wm.World.create(replay, backbone="unet", size="T", widths=(8, 16), depths=(1, 1), cond=16, steps=steps)
    rng = np.random.default_rng(seed)
    for parameter in world.parameters():
        a = parameter.numpy()
        a[...] = rng.normal(size=a.shape) * (0.7 / np.sqrt(max(1, np.prod(a.shape[1:]))))
    world.dynamics.outcome.heads.out.bias.numpy()[-1] = termination
    return world
