"""imagination: episodes that a world imagines, played by a policy from real frames of a replay, and their returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import Batch, Replay
from ..policy import Policy
from ..sampling import Sampler, streams
from ..world import World
from .rare import RareSteps


def lambda_returns(
    rewards: np.ndarray, continues: np.ndarray, values: np.ndarray, gamma: float, lam: float
) -> np.ndarray:
    """rewards, continues (H,N) of steps 0..H-1, values (H+1,N) of the states before each step and after the
    last -> (H,N)."""
    out, after = np.empty_like(rewards), values[-1]
    for t in reversed(range(len(rewards))):
        after = rewards[t] + gamma * continues[t] * ((1 - lam) * values[t + 1] + lam * after)
        out[t] = after
    return out


@dataclass
class Imagined:
    """What a round of imagination gives: (H,N,...) arrays of what the policy saw, did and got, a decision each:
    rewards until the next one, discounted to it, and the probability to live until then.
    """

    frames: np.ndarray
    last: np.ndarray
    picks: np.ndarray
    numbers: np.ndarray | None
    values: np.ndarray
    rewards: np.ndarray
    continues: np.ndarray


def acted_windows(batch: Batch, replay: Replay, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Count windows whose last frame is real and is acted on: (frames, features of the actions that led to each)."""
    alive = batch.frame_known[:, -1] & batch.mask[:, -1] & batch.acted[:, -1]
    rows = np.argsort(~alive, kind="stable")[:count]
    features = replay.features(batch)
    led = np.zeros_like(features)
    led[:, 1:] = features[:, :-1]
    return batch.frames[rows], led[rows]


class Imagination:
    """Imagined episodes of a policy from the real frames of a replay."""

    def __init__(
        self,
        world: World,
        replay: Replay,
        lanes: int,
        seed: int,
        rare_starts: float = 0.0,
        siblings: int = 1,
        reach: int = 6,
    ):
        if not 1 <= siblings <= lanes or lanes % siblings:
            raise ValueError(f"siblings: wanted a divisor of lanes ({lanes}), got {siblings}")
        self.world, self.replay, self.lanes, self.siblings = world, replay, lanes, siblings
        self.rare = RareSteps(replay, world.context)
        self.starts, self.reach = lanes // siblings, reach  # rare starts lie so far before, at most
        self.rare_count = int(round(rare_starts * self.starts)) if len(self.rare) else 0
        self.sampler: Sampler = world.sampler(lanes)
        self.rng = np.random.default_rng(seed)
        self.stream = streams(
            np.uint64(seed) * np.uint64(1 << 20) + np.arange(lanes, dtype=np.uint64) + np.uint64(1 << 40)
        )

    def begin(self) -> tuple[np.ndarray, np.ndarray]:
        """Start every lane from real frames; returns the frames (N,context,H,W,C) and the features of the
        last action (N,F)."""
        n, common = self.world.context, self.starts - self.rare_count
        parts = [acted_windows(self.replay.sample(self.rng, 2 * common + 8, n), self.replay, common)] if common else []
        if self.rare_count:
            rare = self.rare.draw(self.rng, 2 * self.rare_count + 8, before=(1, self.reach))
            parts.append(acted_windows(rare, self.replay, self.rare_count))
        frames, led = (np.concatenate([part[k] for part in parts]).repeat(self.siblings, 0) for k in (0, 1))
        self.sampler.reset(frames, led, self.rng.integers(0, 2**63, self.starts, np.uint64).repeat(self.siblings))
        return frames, led[:, -1]

    def every_action(self, policy: Policy) -> bool:
        """Whether siblings begin with one action each: then there are as many of them as choices of the only slot."""
        return self.siblings > 1 and policy.actor.choices == [self.siblings]

    def play(self, policy: Policy, horizon: int, gamma: float = 1.0) -> Imagined:
        """Horizon decisions of a policy; gamma: discount of a step within one."""
        frames, last = self.begin()
        past = frames[:, -policy._frames :]
        acting = policy.acting(self.lanes)
        seen: dict[str, list[Any]] = {
            k: [] for k in ("frames", "last", "picks", "numbers", "values", "rewards", "continues")
        }
        for t in range(horizon + 1):
            picks, numbers, values = acting.act(past, last, self.stream)
            self.stream[:, 3] += 1
            seen["values"].append(values)
            if t == horizon:
                break
            if t == 0 and self.every_action(policy):
                picks[:, 0] = np.arange(self.lanes) % self.siblings
            for k, v in (("frames", past), ("last", last), ("picks", picks), ("numbers", numbers)):
                seen[k].append(v)
            last = self.world.table.features(policy.actor.codes(picks, numbers))
            reward, lives, discount = 0.0, 1.0, 1.0
            for _ in range(policy.repeat):
                step = self.sampler.step(last)
                reward = reward + discount * lives * step.rewards
                lives, discount = lives * (1 - step.termination), discount * gamma
                past = np.concatenate([past[:, 1:], step.frames[:, None]], 1)
            seen["rewards"].append(reward)
            seen["continues"].append(lives)
        stacked = {k: None if k == "numbers" and v[0] is None else np.stack(v) for k, v in seen.items()}
        return Imagined(**stacked)
