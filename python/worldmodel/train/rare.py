"""rare: windows that end in a rare event (a kill, a goal, an end), drawn as often as common ones.

A step's kind is its reward, in bins of symlog, and whether it terminates; every kind but the commonest is
rare, and a draw
takes a kind first, then a step of it, so that 30 kills in 4,000 steps are seen in every update.  `weight`
undoes the bias:
without it a policy learns to hunt events that the model expects a hundred times too often.
"""

from __future__ import annotations

import numpy as np

from ..data import Batch, Replay
from ..spaces import symlog


class RareSteps:
    """The rare steps of a replay that have `length` - 1 frames before the frame they lead to."""

    def __init__(self, replay: Replay, length: int, width: float = 0.5):
        kinds: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        self.replay, self.length, self.width = replay, length, width
        for i in range(len(replay)):
            episode = replay.episode(i)
            names = self._kinds(np.asarray(episode.rewards), np.asarray(episode.terminated))
            for t in range(length - 2, len(names)):
                kinds.setdefault(names[t], []).append((i, t - length + 2))
        common = max(kinds, key=lambda k: len(kinds[k]), default=None)
        rare = {k: np.array(v, np.int64) for k, v in sorted(kinds.items()) if k != common}
        self.kinds = list(rare.values())
        share = np.array([min(len(k), 16) for k in self.kinds], float)
        self.share = share / max(share.sum(), 1)
        total = sum(len(v) for v in kinds.values())
        self.natural = {k: len(v) / total for k, v in kinds.items()}
        self.drawn = dict(zip(rare, self.share, strict=True))

    def _kinds(self, rewards: np.ndarray, terminated: np.ndarray) -> list[tuple[int, bool]]:
        return [
            (int(b), bool(e)) for b, e in zip(np.round(symlog(rewards) / self.width), terminated, strict=True)
        ]

    def weight(self, rewards: np.ndarray, terminated: np.ndarray, half: float) -> np.ndarray:
        """What a sample counts, (n,) float32, in batches of which a share `half` was drawn here and the rest
        evenly: its
        kind's natural frequency over its frequency in the batch."""
        out = []
        for kind in self._kinds(rewards, terminated):
            natural = self.natural.get(kind, 1.0)
            out.append(natural / ((1 - half) * natural + half * self.drawn.get(kind, 0.0)))
        return np.array(out, np.float32)

    def __len__(self) -> int:
        """How many rare steps there are."""
        return sum(len(k) for k in self.kinds)

    def draw(self, rng: np.random.Generator, count: int, before: tuple[int, int] = (0, 0)) -> Batch:
        """Windows of `length` frames that end in a rare step, or a random number of steps (before) earlier;
        kinds of 16
        steps and more equally often."""
        picks = rng.choice(len(self.kinds), size=count, p=self.share)
        rows = np.stack([self.kinds[k][rng.integers(len(self.kinds[k]))] for k in picks])
        earlier = rng.integers(before[0], before[1] + 1, count)
        return self.replay.gather(rows[:, 0], np.maximum(rows[:, 1] - earlier, 0), self.length)
