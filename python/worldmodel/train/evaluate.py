"""evaluate: what a policy is worth, in the real environment or in an imagined one, with an interval and a
baseline beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import RandomPolicy, environment
from ..data.environment import Environment
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
    longest: int = 100_000,
) -> tuple[np.ndarray, np.ndarray]:
    """Whole episodes of a policy in one environment of frames, of `longest` steps at most: (returns,
    lengths).

    Episode i is reset with seed + i; what the policy remembers goes on from one to the next, `first` tells
    it.
    """
    returns, lengths, state = [], [], None
    for i in range(episodes):
        frame, _ = env.reset(seed=seed + i)
        first, total, n, over = True, 0.0, 0, False
        while not over and n < longest:
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
    env_id: Any = None,
    episodes: int = 50,
    seed: int = 10_000,
    world: Any = None,
    random_episodes: int = 0,
    longest: int = 100_000,
    **how: Any,
) -> Evaluation:
    """Play whole episodes and report their returns.

    Args:
        policy: a Policy, or any policy(frames, first, state) -> (actions, state), as for `collect`.
        env_id: a Gymnasium id or environment, prepared as `collect` prepares it (how: frames=, frame_skip=,
            ...), or the dict `replay.environment`.  None, or an id alone: as the policy's world was
            collected.
        world: play in this world (or its file) instead.
        random_episodes: also play so many with random actions.
        longest: an episode is cut after so many steps.

    Raises:
        ValueError: the policy's frames or actions are not the environment's; fewer than 2 episodes.
    """
    if episodes < 2 or random_episodes == 1 or random_episodes < 0:
        raise ValueError(f"evaluate: episodes must be at least 2 for an interval, got {episodes} and {random_episodes}")
    env = _environment(policy, env_id, world, how)
    try:
        check_acts_in(policy, env)
        returns, lengths = play_episodes(policy, env, episodes, seed, longest=longest)
        baseline = None
        if random_episodes:
            random = RandomPolicy(env.action_space, seed=seed)
            baseline = interval(play_episodes(random, env, random_episodes, seed + episodes, longest=longest)[0])
    finally:
        env.close()
    return Evaluation(returns, lengths, interval(returns), baseline)


def _environment(policy: Any, env_id: Any, world: Any, how: dict[str, Any]) -> Any:
    """The environment to play in, prepared as `how` says, else as the policy's world was, else at its frame size."""
    if world is not None:
        from ..envs import Imagined

        return Imagined(world)
    if isinstance(env_id, dict):
        return environment(**{**env_id, **how})
    known = getattr(policy, "environment", None)
    if env_id is None and known is None:
        raise ValueError("evaluate: say in which environment; the policy does not know where it comes from")
    if known and env_id in (None, known.get("env_id")):
        return environment(**{**known, **how})
    shape = getattr(policy, "frame_shape", None)
    prepared = isinstance(env_id, Environment)
    if shape is not None and not prepared:
        how = {"frames": tuple(shape[:2]), **how}
    return env_id if prepared and not how else environment(env_id, **how)


def check_acts_in(policy: Any, env: Any) -> None:
    """The policy's frames and actions are the environment's, as far as it declares them."""
    shape, table = getattr(policy, "frame_shape", None), getattr(policy, "table", None)
    if shape is not None and tuple(env.observation_space.shape) != tuple(shape):
        raise ValueError(f"the policy sees frames {tuple(shape)}, the environment shows {env.observation_space.shape}")
    if table is not None and table.space != env.action_space:
        raise ValueError(f"the policy acts in {table.space}, the environment takes {env.action_space}")
