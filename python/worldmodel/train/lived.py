"""lived: what really happened, for the critic.

Imagined episodes are short, so nearly all of a return is the critic's word for their last state.  Real episodes
are whole: their lambda returns

    G_t = r_t + gamma ((1 - lambda) v_{t+1} + lambda G_{t+1}),   G_T = 0 where it terminated, else v_T

say what states are worth with nothing imagined in it (the replay loss of Hafner et al. 2023).  Imagined frames are
blurred, and a critic taught by its own word about them takes every one for average: so it also sees *copies*, frames
that the world imagines for recorded actions, and what the real episode was worth there.  Only the critic learns from
all this; the policy's gradient comes from imagination alone.
"""

from __future__ import annotations

import numpy as np

from ..data import Replay
from ..policy import Policy
from ..sampling import Sampler

Seen = tuple[np.ndarray, np.ndarray, np.ndarray]
"""frames (B,frames,H,W,C) uint8, the last action's features (B,F), returns (B,)."""


class Lived:
    """The latest episodes of a replay, at least `steps` steps of them if it has so many, with their returns under
    a policy's critic."""

    def __init__(self, replay: Replay, frames: int, steps: int = 20_000):
        self.see, self.last, self.rewards, self.length, self.bootstrap = [], [], [], [], []
        count = 0
        for i in reversed(range(len(replay))):
            T = len(replay.episode(i))
            whole = replay.gather(np.array([i]), np.array([0]), T + 1)
            features = replay.features(whole)[0, :T]
            self.see.append(replay.episode(i).frames)  # where the replay keeps them: they are many
            self.last.append(np.concatenate([np.zeros_like(features[:1]), features[:-1]]))
            self.rewards.append(whole.rewards[0, :T])
            self.length.append(T)
            # an episode that was cut short, by a limit of time or by the recorder, has more to come
            self.bootstrap.append(bool(whole.truncated[0, T - 1] or not whole.terminated[0, T - 1]))
            count += T
            if count >= steps:
                break
        self.frames, self.length = frames, np.array(self.length)
        self.episode = np.repeat(np.arange(len(self.length)), self.length)
        self.step = np.concatenate([np.arange(T) for T in self.length])
        self.returns = np.zeros(count, np.float32)

    def __len__(self) -> int:
        return len(self.step)

    def look(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a policy sees at these steps: frames (B,frames,H,W,C) uint8, the last action's features (B,F)."""
        at, back = [(self.episode[r], self.step[r]) for r in rows], np.arange(1 - self.frames, 1)
        frames = np.stack([self.see[e][np.maximum(t + back, 0)] for e, t in at])
        return frames, np.stack([self.last[e][t] for e, t in at])

    def refresh(self, policy: Policy, gamma: float, lam: float, scale: float, size: int = 128) -> None:
        """Returns anew, under the critic as it is."""
        acting = policy.acting(size)
        stream = np.zeros((size, 4), np.int32)
        values = np.zeros(len(self), np.float32)
        for i in range(0, len(self), size):
            rows = np.minimum(np.arange(i, i + size), len(self) - 1)
            values[rows] = acting.act(*self.look(rows), stream)[2]
        begin = 0
        for T, rewards, more in zip(self.length, self.rewards, self.bootstrap, strict=True):
            v, g = values[begin : begin + T], self.returns[begin : begin + T]
            after = float(v[-1]) if more else 0.0
            for t in reversed(range(T)):
                ahead = v[t + 1] if t + 1 < T else after
                after = rewards[t] * scale + gamma * ((1 - lam) * ahead + lam * after)
                g[t] = after
            begin += T

    def copies(self, rng: np.random.Generator, sampler: Sampler, context: int, steps: int) -> Seen | None:
        """What a policy sees where the world imagines the recorded actions, 1 .. steps steps from random real ones,
        with the returns of the real steps; None if no episode is as long."""
        rows = np.flatnonzero((self.step >= context - 1) & (self.step + steps < self.length[self.episode]))
        if not len(rows):
            return None
        rows = rng.choice(rows, sampler.n)
        at = [(self.episode[r], self.step[r]) for r in rows]
        frames = np.stack([self.see[e][t - context + 1 : t + 1] for e, t in at])
        led = np.stack([self.last[e][t - context + 1 : t + 1] for e, t in at])
        sampler.reset(frames, led, rng.integers(0, 2**63, sampler.n, np.uint64))
        past, seen = frames[:, -self.frames :], []
        for k in range(1, steps + 1):
            last = np.stack([self.last[e][t + k] for e, t in at])
            past = np.concatenate([past[:, 1:], sampler.step(last).frames[:, None]], 1)
            seen.append((past, last, self.returns[rows + k]))
        return tuple(np.concatenate(parts) for parts in zip(*seen, strict=True))

    def draw(self, rng: np.random.Generator, count: int, copies: Seen | None = None) -> Seen:
        """What a policy sees at random real steps, half of them replaced by random copies."""
        half = count // 2 if copies is not None else 0
        rows = rng.integers(0, len(self), count - half)
        parts = [(*self.look(rows), self.returns[rows])]
        if copies is not None:
            picked = rng.integers(0, len(copies[2]), half)
            parts.append(tuple(part[picked] for part in copies))
        return tuple(np.concatenate(several) for several in zip(*parts, strict=True))
