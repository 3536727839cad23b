"""sampling: stepping n imagined environments at once, each at its own length and with its own random stream.

Everything an environment remembers (frames or keys and values, positions, its stream) is a row of a state
array, so a
snapshot is a copy of rows, a fork a copy of one row to others, and a restored environment continues bit for
bit.
A step is one plan: actions in, K denoising passes, commit, heads, uint8 frames out, no Python inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .tensor import Tensor


@dataclass
class Step:
    """What a step of n environments gives: frames (n,H,W,C) uint8, rewards (n,) float32, terminated (n,)
    bool,
    termination (n,) float32 its probability, features (n,F) float32."""

    frames: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    termination: np.ndarray
    features: np.ndarray


Snapshot = dict[str, np.ndarray]


def streams(seeds: Sequence[int] | np.ndarray) -> np.ndarray:
    """One row of random numbers a seed: (n,4) int32 {key 0, key 1, stream, step} of Philox (Salmon et al.
    2011)."""
    seeds = np.asarray(seeds, np.uint64)
    rows = np.zeros((len(seeds), 4), np.uint32)
    rows[:, 0], rows[:, 1] = seeds & np.uint64(0xFFFFFFFF), seeds >> np.uint64(32)
    return rows.view(np.int32)


class Sampler:
    """n environments.  A backbone's sampler fills `state` (name -> tensor with leading axis n, "stream"
    among them),
    and writes `begin` and `advance`."""

    def __init__(self, n: int, action_features: int):
        if n < 1:
            raise ValueError(f"Sampler: n must be at least 1, got {n}")
        self.n = n
        self.action_features = action_features
        self.state: dict[str, Tensor] = {"stream": Tensor(streams(np.arange(n)), copy=True)}

    # ---- what a backbone writes ----

    def begin(self, rows: np.ndarray, frames: np.ndarray, actions: np.ndarray) -> None:
        """Start the environments rows from frames (k,context,H,W,C) uint8 and the actions that led to each
        (k,context,F)."""
        raise NotImplementedError

    def advance(self, actions: np.ndarray) -> Step:
        """One step of all n by actions (n,F) float32; must advance the stream by one."""
        raise NotImplementedError

    # ---- what users call ----

    def reset(
        self,
        frames: np.ndarray,
        actions: np.ndarray | None = None,
        seeds: Sequence[int] | np.ndarray | None = None,
        rows: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Start environments (rows, all by default) from frames (k,T,H,W,C); a shorter history than the
        backbone's
        context repeats its first frame.  seeds (k,): their random streams start anew."""
        rows = np.arange(self.n) if rows is None else np.asarray(rows, np.int64)
        if frames.ndim != 5 or len(frames) != len(rows):
            raise ValueError(f"reset: frames must be ({len(rows)}, T, H, W, C), got {frames.shape}")
        if actions is None:
            actions = np.zeros((*frames.shape[:2], self.action_features), np.float32)
        if actions.shape != (*frames.shape[:2], self.action_features):
            raise ValueError(f"reset: actions must be {(*frames.shape[:2], self.action_features)}, got {actions.shape}")
        if seeds is not None:
            self.state["stream"][rows] = streams(seeds)
        self.begin(rows, frames, actions)

    def step(self, actions: np.ndarray, active: np.ndarray | None = None) -> Step:
        """One step of all environments by action features (n,F) float32; those not active stay as they are
        (their part
        of the result is to be ignored)."""
        if actions.shape != (self.n, self.action_features):
            raise ValueError(f"step: actions must be {(self.n, self.action_features)}, got {actions.shape}")
        resting = None if active is None or active.all() else np.flatnonzero(~active)
        kept = None if resting is None else self.snapshot(resting)
        step = self.advance(np.ascontiguousarray(actions, np.float32))
        if resting is not None and kept is not None:
            self.restore(kept, resting)
        return step

    def snapshot(self, rows: Sequence[int] | np.ndarray | None = None) -> Snapshot:
        """A copy of all that the environments (rows, all by default) remember."""
        rows = np.arange(self.n) if rows is None else np.asarray(rows, np.int64)
        return {name: self._remembered(name, rows) for name in self.state}

    def restore(self, snapshot: Snapshot, rows: Sequence[int] | np.ndarray | None = None) -> None:
        """Put environments back as they were; they continue bit for bit.  Raises ValueError if the snapshot
        is of
        another kind of world or number of rows."""
        rows = np.arange(self.n) if rows is None else np.asarray(rows, np.int64)
        for name, t in self.state.items():
            wanted = (len(rows), *t.shape[1:])
            got = snapshot[name].shape if name in snapshot else None
            if got != wanted:
                raise ValueError(f"restore: {name} must have shape {wanted}, got {got}")
        for name in self.state:
            self._put(name, rows, snapshot[name])

    def fork(self, row: int, rows: Sequence[int] | np.ndarray, seeds: Sequence[int] | np.ndarray | None = None) -> None:
        """Make the environments rows copies of row: the same past and, unless seeds are given, the same
        random future."""
        rows = np.asarray(rows, np.int64)
        for name in self.state:
            self._share(name, row, rows)
        if seeds is not None:
            self.state["stream"][rows] = streams(seeds)

    # ---- how rows of the state are moved ----

    def _remembered(self, name: str, rows: np.ndarray) -> np.ndarray:
        return np.array(self.state[name].numpy()[rows])

    def _put(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        self.state[name][rows] = values

    def _share(self, name: str, row: int, rows: np.ndarray) -> None:
        self.state[name][rows] = self.state[name].numpy()[row]


def rollout(world: Any, start: np.ndarray, actions: Any, seed: int = 0, **options: Any) -> np.ndarray:
    """What a world imagines after frames by actions: uint8 (T,H,W,C), one frame an action, whether or not it ends.

    start: one frame (H,W,C) uint8 or a history (n,H,W,C); actions: T of them, a list or Gymnasium's batched form;
    options: the backbone's (steps=...).  Raises ValueError for other shapes, or an action outside the space.
    """
    start = np.asarray(start)
    history = start[None] if start.ndim == 3 else start
    shape = tuple(world.config.frame_shape)
    if history.ndim != 4 or history.shape[1:] != shape or history.dtype != np.uint8 or not len(history):
        raise ValueError(f"rollout: start must be {shape} uint8, or n of these, got {start.shape} {start.dtype}")
    sampler = world.sampler(1, **options)
    sampler.reset(history[None], seeds=[seed])
    features = world.features(actions) if len(actions) else []
    frames = [sampler.step(row[None]).frames[0] for row in features]
    return np.stack(frames) if frames else np.zeros((0, *shape), np.uint8)
