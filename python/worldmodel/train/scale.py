"""scale: by what to multiply rewards so that returns are about 1, which the critic learns best.

    scale = mean |G| / mean G^2,    G_t = r_t + gamma G_{t+1} over the recorded steps of an episode

1 / scale is the mean of |G| in which every return counts as much as it is large: of dense rewards about their root mean
square, and of rare ones the size of the event, however rare it is (a root mean square would blow those up).
"""

from __future__ import annotations

import numpy as np

from ..data import Replay

STEPS = 50_000
"""So many of the latest steps are looked at."""


def typical_scale(replay: Replay, gamma: float) -> float:
    """The scale of a replay's rewards; 1 where there are none."""
    returns: list[np.ndarray] = []
    count = 0
    for i in reversed(range(len(replay))):
        rewards = np.asarray(replay.episode(i).rewards, np.float64)
        out, after = np.empty_like(rewards), 0.0
        for t in reversed(range(len(rewards))):
            out[t] = after = rewards[t] + gamma * after
        returns.append(out)
        count += len(out)
        if count >= STEPS:
            break
    size = np.abs(np.concatenate(returns))
    return float(size.mean() / (size**2).mean()) if size.any() else 1.0
