"""rare: windows that end in a rare event (a kill, a goal, an end), drawn as often as common ones.

A step's kind is its reward, in bins of symlog, and whether it terminates; every kind but the commonest is rare, and a draw
takes a kind first, then a step of it, so that 30 kills in 4,000 steps are seen in every update.
"""

from __future__ import annotations

import numpy as np

from ..data import Batch, Replay
from ..spaces import symlog


class RareSteps:
    """The rare steps of a replay that have `length` - 1 frames before the frame they lead to."""

    def __init__(self, replay: Replay, length: int, width: float = 0.5):
        kinds: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        self.replay, self.length = replay, length
        for i in range(len(replay)):
            episode = replay.episode(i)
            bins = np.round(symlog(np.asarray(episode.rewards)) / width).astype(int)
            for t in range(length - 2, len(bins)):
                kinds.setdefault((int(bins[t]), bool(episode.terminated[t])), []).append((i, t - length + 2))
        common = max(kinds, key=lambda k: len(kinds[k]), default=None)
        self.kinds = [np.array(v, np.int64) for k, v in sorted(kinds.items()) if k != common]

    def __len__(self) -> int:
        """How many rare steps there are."""
        return sum(len(k) for k in self.kinds)

    def draw(self, rng: np.random.Generator, count: int, before: tuple[int, int] = (0, 0)) -> Batch:
        """Windows of `length` frames that end in a rare step, or a random number of steps (before) earlier; kinds of 16
        steps and more equally often."""
        share = np.array([min(len(k), 16) for k in self.kinds], float)
        picks = rng.choice(len(self.kinds), size=count, p=share / share.sum())
        rows = np.stack([self.kinds[k][rng.integers(len(self.kinds[k]))] for k in picks])
        earlier = rng.integers(before[0], before[1] + 1, count)
        return self.replay.gather(rows[:, 0], np.maximum(rows[:, 1] - earlier, 0), self.length)
