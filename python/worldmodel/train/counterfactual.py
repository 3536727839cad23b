"""counterfactual: a world against what would really have happened, had other actions been taken.

Recorded episodes hold one future of each state.  Where the real environment can be put back (ALE's cloneState
replays exactly), it is asked for the futures of *other* actions from the same state, and the world for the same:

    psnr             of the world's roll-outs against the true futures of their own actions, 1 .. H steps ahead
    copy_last        of the state's last frame against them
    other_action     of the world's roll-outs against the true future of another action: what ignoring actions gets
    told_apart       share of roll-outs that are nearer to their own future than to any other action's (chance: 1/A)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data import RandomPolicy, environment
from ..metrics import decibels, mse
from ..world import World


def can_go_back(env: Any) -> bool:
    """Whether an environment's state can be stored and put back exactly."""
    return hasattr(getattr(env.unwrapped, "ale", None), "cloneState")


def counterfactual_report(
    world: World, recipe: dict[str, Any], states: int = 32, horizon: int = 4, actions: int = 4, seed: int = 0
) -> dict[str, Any] | None:
    """Score a world on futures of other actions from `states` states of random play; each action is held for
    `horizon` steps.  recipe: what `environment(**it)` makes the real environment of.  None where the environment
    cannot be put back, or its actions are not Discrete."""
    env = environment(**recipe)
    try:
        if not can_go_back(env) or not hasattr(env.action_space, "n"):
            return None
        rng = np.random.default_rng(seed)
        tried = rng.permutation(int(env.action_space.n))[:actions] + int(getattr(env.action_space, "start", 0))
        pasts, futures = zip(*_branches(env, world, tried, states, horizon, seed), strict=True)
    finally:
        env.close()
    true = np.stack(futures)  # (S,A,H,h,w,C)
    said = _imagined(world, pasts, tried, horizon, seed)
    last = np.stack([frames[-1] for frames, _ in pasts])
    return _score(true, said, last) | {"states": states, "actions": [int(a) for a in tried]}


def _branches(env: Any, world: World, tried: np.ndarray, states: int, horizon: int, seed: int) -> Any:
    """(frames, actions that led to them) of `context` steps, and the true futures (A,H,h,w,C), of each state."""
    n, rng = world.context, np.random.default_rng([seed, 1])
    play = RandomPolicy(env.action_space, hold=4, seed=seed)
    found = 0
    while found < states:
        frame, _ = env.reset(seed=int(rng.integers(2**31)))
        frames, led, first, wait = [frame], [None], np.array([True]), int(rng.integers(n, 120))
        for t in range(400):
            if t == wait and len(frames) >= n:
                state, futures = env.unwrapped.ale.cloneState(), []
                for a in tried:
                    futures.append(_future(env, a, horizon))
                    env.unwrapped.ale.restoreState(state)
                if all(f is not None for f in futures):
                    yield (np.stack(frames[-n:]), led[-n:]), np.stack(futures)
                    found += 1
                    if found == states:
                        return
                wait = t + int(rng.integers(20, 60))
            (action,), _ = play(frame[None], first)
            first = np.array([False])
            frame, _, terminated, truncated, _ = env.step(action)
            frames, led = [*frames[-n:], frame], [*led[-n:], action]
            if terminated or truncated:
                break


def _future(env: Any, action: int, horizon: int) -> np.ndarray | None:
    """The true frames of an action held, or None if the episode ends there."""
    frames = []
    for _ in range(horizon):
        frame, _, terminated, truncated, _ = env.step(int(action))
        if terminated or truncated:
            return None
        frames.append(frame)
    return np.stack(frames)


def _imagined(world: World, pasts: Any, tried: np.ndarray, horizon: int, seed: int) -> np.ndarray:
    """The world's roll-outs, (S,A,H,h,w,C) uint8."""
    table, S, A = world.table, len(pasts), len(tried)

    def features(action: Any) -> np.ndarray:
        size = table.feature_size
        return np.zeros(size, np.float32) if action is None else table.features_batch([action])[0]

    frames = np.stack([f for f, _ in pasts]).repeat(A, 0)
    led = np.stack([[features(a) for a in actions] for _, actions in pasts]).repeat(A, 0)
    told = np.tile(np.stack([features(int(a)) for a in tried]), (S, 1))
    sampler = world.sampler(S * A)
    sampler.reset(frames, led, seeds=np.arange(S * A) + seed)
    said = np.stack([sampler.step(told).frames for _ in range(horizon)], 1)
    return said.reshape(S, A, horizon, *said.shape[2:])


def _score(true: np.ndarray, said: np.ndarray, last: np.ndarray) -> dict[str, Any]:
    S, A, H = true.shape[:3]
    errors = np.stack([[mse(said[:, i], true[:, j]) for j in range(A)] for i in range(A)])  # (A,A,S,H)
    own = errors[np.arange(A), np.arange(A)]
    others = errors[~np.eye(A, dtype=bool)]
    held = np.broadcast_to(last[:, None, None], true.shape)
    # futures that are the same for all actions (nothing moves yet) cannot be told apart: they are left out
    spread = np.stack([[mse(true[:, i], true[:, j]) for j in range(A)] for i in range(A)]).max((0, 1))  # (S,H)
    nearest = (own[:, None] <= errors).all(1)
    matters = spread > 0

    def curve(e: np.ndarray) -> list[float]:
        return [round(float(decibels(x)), 3) for x in e]

    return {
        "psnr": curve(own.mean((0, 1))),
        "copy_last": curve(mse(held, true).mean((0, 1))),
        "other_action": curve(others.mean((0, 1))),
        "told_apart": [
            round(float(nearest[:, matters[:, t], t].mean()), 3) if matters[:, t].any() else None for t in range(H)
        ],
        "states_where_actions_matter": [round(float(m), 3) for m in matters.mean(0)],
    }
