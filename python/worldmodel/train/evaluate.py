"""evaluate: what a policy is worth, in the real environment or in an imagined one, with an interval and a
baseline beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import RandomPolicy, environment
from ..metrics import Interval, interval


@dataclass
class Evaluation:
    """Returns and lengths of episodes, their mean with a 95 % interval, and the same of random actions if
    asked."""

    returns: np.ndarray
    lengths: np.ndarray
    mean: Interval
    random: Interval | None = None

    def __str__(self) -> str:
        beside = f"; random {_text(self.random)}" if self.random else ""
        return f"return {_text(self.mean)}, {self.lengths.mean():.0f} steps an episode{beside}"


def _text(i: Interval) -> str:
    return f"{i.mean:.1f} +- {(i.high - i.low) / 2:.1f} (95 %, n = {i.n})"


def play_episodes(
    policy: Callable[..., Any],
    env: Any,
    episodes: int,
    seed: int,
    watch: Callable[[np.ndarray], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Whole episodes of a policy in one environment of frames: (returns, lengths)."""
    returns, lengths = [], []
    for i in range(episodes):
        frame, _ = env.reset(seed=seed + i)
        state, first, total, n, over = None, True, 0.0, 0, False
        while not over:
            actions, state = policy(frame[None], np.array([first]), state)
            if watch:
                watch(frame)
            frame, reward, terminated, truncated, _ = env.step(actions[0])
            total, n, first, over = total + float(reward), n + 1, False, terminated or truncated
        returns.append(total)
        lengths.append(n)
    return np.array(returns), np.array(lengths)


def evaluate(
    policy: Callable[..., Any],
    env_id: Any,
    episodes: int = 50,
    seed: int = 10_000,
    world: Any = None,
    random_episodes: int = 0,
    **how: Any,
) -> Evaluation:
    """Play whole episodes and report their returns.

    env_id: a Gymnasium id or environment, prepared as `collect` prepares it (how: frames=, frame_skip=,
    ...), or the dict
    `replay.environment`.  world: play in this world instead.  random_episodes: also play random actions.
    """
    if episodes < 2:
        raise ValueError(f"evaluate: episodes must be at least 2, got {episodes}")
    if world is not None:
        from ..envs import Imagined

        env = Imagined(world)
    else:
        env = environment(**env_id, **how) if isinstance(env_id, dict) else environment(env_id, **how)
    try:
        returns, lengths = play_episodes(policy, env, episodes, seed)
        baseline = None
        if random_episodes:
            baseline = interval(
                play_episodes(
                    RandomPolicy(env.action_space, seed=seed), env, random_episodes, seed + episodes
                )[0]
            )
    finally:
        env.close()
    return Evaluation(returns, lengths, interval(returns), baseline)
