"""lanes: one or many environments stepped side by side, each step told apart from a reset.

A lane is one environment.  Gymnasium's vector environments restart finished lanes in three ways, and only
one reading of each is right:

    NEXT_STEP  the step after an end ignores its action and returns the first observation: no transition,
    dropped SAME_STEP  the observation at an end is already the next episode's first; the last one is
    infos["final_obs"] DISABLED   nothing restarts; we reset the finished lanes by reset_mask
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import iterate

from .environment import Camera, Environment
from .episode import Episode


@dataclass
class View:
    """What one lane shows at one moment."""

    frame: np.ndarray
    proprio: np.ndarray | None
    known: bool = True


@dataclass
class Outcome:
    """One step of one lane.  `after`: where it arrived; `fresh`: first view of the next episode, if this one
    ended.

    `real` is false for a step that only restarted the lane: then there is nothing but `fresh`.
    """

    after: View | None
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    fresh: View | None = None
    real: bool = True


class SingleLane:
    """One `Environment`, reset by hand."""

    def __init__(self, env: Environment) -> None:
        self.env, self.count = env, 1
        self.action_space, self.parts = env.action_space, env.camera.parts

    def reset(self, seed: int) -> list[View]:
        return [self._view(*self.env.reset(seed=seed))]

    def _view(self, frame: np.ndarray, info: dict[str, Any]) -> View:
        return View(frame, info.get("proprio"), info.get("frame_known", True))

    def step(self, actions: Any) -> list[Outcome]:
        frame, reward, terminated, truncated, info = self.env.step(next(iter(actions)))
        after = self._view(frame, info)
        fresh = self._view(*self.env.reset()) if terminated or truncated else None
        return [Outcome(after, reward, terminated, truncated, fresh)]


class VectorLanes:
    """Any Gymnasium VectorEnv, whatever its way of restarting.

    Proprioception comes from the observation (`camera`), or from infos["proprio"] where the lanes are
    `Environment`s.
    """

    def __init__(
        self, envs: gym.vector.VectorEnv, camera: Camera, parts: list[tuple[str, int]] | None = None
    ) -> None:
        self.envs, self.count, self.camera = envs, envs.num_envs, camera
        self.action_space = envs.single_action_space
        self.parts, self._in_info = (camera.parts, False) if parts is None else (parts, True)
        mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.mode = mode if isinstance(mode, AutoresetMode) else AutoresetMode(mode)
        self._ended = np.zeros(self.count, bool)

    def reset(self, seed: int) -> list[View]:
        self._ended[:] = False
        return self._views(*self.envs.reset(seed=seed))

    def _views(self, observations: Any, infos: dict[str, Any]) -> list[View]:
        rendered = self.envs.render() if self.camera.source == "render" else [None] * self.count
        each = iterate(self.envs.observation_space, observations)
        return [self._view(o, r, infos, i) for i, (o, r) in enumerate(zip(each, rendered, strict=True))]

    def _view(self, observation: Any, rendered: Any, infos: dict[str, Any], i: int) -> View:
        proprio = self.camera.proprio(observation)
        if self._in_info and self.parts:
            proprio = np.array(_told(infos, "proprio", i, None), np.float32)
        return View(
            self.camera.picture(observation, rendered), proprio, bool(_told(infos, "frame_known", i, True))
        )

    def step(self, actions: Any) -> list[Outcome]:
        observations, rewards, terminated, truncated, infos = self.envs.step(actions)
        views = self._views(observations, infos)
        ended = np.asarray(terminated) | np.asarray(truncated)
        out = [
            Outcome(v, float(r), bool(a), bool(b))
            for v, r, a, b in zip(views, rewards, terminated, truncated, strict=True)
        ]
        if self.mode is AutoresetMode.NEXT_STEP:
            for i in np.flatnonzero(self._ended):
                out[i] = Outcome(None, fresh=views[i], real=False)
            self._ended = ended & ~self._ended
        elif self.mode is AutoresetMode.SAME_STEP:
            for i in np.flatnonzero(ended):
                out[i].after, out[i].fresh = self._final(infos, i), views[i]
        elif ended.any():
            fresh = self._views(*self.envs.reset(options={"reset_mask": ended.copy()}))
            for i in np.flatnonzero(ended):
                out[i].fresh = fresh[i]
        return out

    def _final(self, infos: dict[str, Any], i: int) -> View | None:
        """The last view of a lane that has restarted already; None where only render() could have shown
        it.
        """
        if self.camera.source == "render":
            return None
        if not _told(infos, "final_obs", i, False, present=True):
            raise ValueError(
                'the vector environment is in SAME_STEP mode but infos["final_obs"] is missing at an end'
            )
        return self._view(infos["final_obs"][i], None, infos.get("final_info", {}), i)


def _told(infos: dict[str, Any], key: str, i: int, default: Any, present: bool = False) -> Any:
    """infos[key][i] where the mask infos["_" + key] says that lane i gave one."""
    if key not in infos or not np.asarray(infos.get(f"_{key}", np.ones(i + 1, bool)))[i]:
        return default
    return True if present else infos[key][i]


class Recorder:
    """Gathers one lane's steps into episodes."""

    def __init__(self, view: View, seed: int | None) -> None:
        self._begin(view, seed)

    def _begin(self, view: View, seed: int | None) -> None:
        self.frames, self.proprio, self.seed = [view.frame], [view.proprio], seed
        self.rows: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.ends = (False, False)
        self.known = True

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: np.ndarray, outcome: Outcome) -> None:
        """One real step: the packed action and what came of it."""
        after = outcome.after or View(self.frames[-1], self.proprio[-1], known=False)
        self.frames.append(after.frame)
        self.proprio.append(after.proprio)
        self.rows.append(row)
        self.rewards.append(outcome.reward)
        self.ends, self.known = (outcome.terminated, outcome.truncated), after.known

    def restart(self, view: View) -> None:
        """Begin an episode at `view`; nothing has been recorded since the last one."""
        self._begin(view, None)

    def finish(self, fresh: View | None = None) -> Episode:
        """The episode so far; then start over at `fresh`, or go on from the last view (an episode cut in
        pieces).
        """
        ends = np.zeros((2, len(self)), bool)
        ends[:, -1] = self.ends
        proprio = None if self.proprio[0] is None else np.stack(self.proprio)
        parts = (
            np.stack(self.frames),
            np.stack(self.rows),
            np.array(self.rewards, np.float64),
            ends[0],
            ends[1],
            proprio,
        )
        episode = Episode(*parts, seed=self.seed, last_frame_known=self.known)
        self._begin(fresh or View(self.frames[-1], self.proprio[-1]), None)
        return episode
