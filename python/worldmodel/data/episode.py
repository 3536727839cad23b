"""episode: one unbroken stretch of experience.

    frames[0] -actions[0]-> frames[1] -actions[1]-> ... -actions[T-1]-> frames[T]

T steps, T+1 frames.  rewards[t], terminated[t] and truncated[t] belong to the step t -> t+1, as Gymnasium
returns them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Episode:
    """Arrays of one episode of T steps.  `check` says what is wrong with it, by name.

    frames (T+1,H,W,C) uint8 · actions (T,R) uint8, packed by `SlotTable.pack_batch` (see `Replay.unpack`) ·
    rewards (T,) float64 · terminated, truncated (T,) bool, true at most at the last step; both false there
    means that recording stopped · proprio (T+1,P) float32 or None · extras: further arrays by name, one row
    a step or a frame ·
    labelled: the actions are known (false for video without actions) ·
    last_frame_known: false where the environment shows no last picture (ViZDoom) and the one before it was
    repeated.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    proprio: np.ndarray | None = None
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    name: str = ""
    seed: int | None = None
    labelled: bool = True
    last_frame_known: bool = True

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def ends(self) -> np.ndarray:
        """terminated or truncated, (T,) bool."""
        return self.terminated | self.truncated

    def check(self, table: Any, frame_shape: tuple[int, int, int], proprio: int, name: str) -> None:
        """Raise ValueError naming the episode if a length, shape, dtype or value is wrong.

        `table`: the SlotTable of the action space, None if there are no actions; `proprio`: wanted size, 0
        for none.
        """
        lengths = [len(self.actions), len(self.rewards), len(self.terminated), len(self.frames) - 1]
        T = Counter(lengths).most_common(1)[0][0]  # the odd one out is the wrong one
        wanted = {
            "frames": (np.uint8, (T + 1, *frame_shape)),
            "actions": (np.uint8, (T, table.row.itemsize if table else 0)),
            "rewards": (np.float64, (T,)),
            "terminated": (np.bool_, (T,)),
            "truncated": (np.bool_, (T,)),
        }
        if proprio:
            wanted["proprio"] = (np.float32, (T + 1, proprio))
        elif self.proprio is not None:
            raise ValueError(f"{name}: has proprio {self.proprio.shape}, the replay has none")
        if T < 1:
            raise ValueError(f"{name}: an episode has at least one step, got {T}")
        for key, (dtype, shape) in wanted.items():
            array = getattr(self, key)
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                got = getattr(array, "dtype", type(array).__name__)
                raise ValueError(f"{name}: {key} must be {np.dtype(dtype)}, got {got}")
            if array.shape != shape:
                raise ValueError(f"{name}: {key} must have shape {shape} for {T} steps, got {array.shape}")
        self.check_values(table, name)

    def check_values(self, table: Any, name: str) -> None:
        """Raise ValueError naming the episode if a value is out of range: actions, rewards, ends, proprio."""
        if not np.isfinite(self.rewards).all():
            raise ValueError(f"{name}: reward {int(np.argmin(np.isfinite(self.rewards)))} is not finite")
        if self.ends[:-1].any():
            raise ValueError(
                f"{name}: ends at step {int(np.argmax(self.ends[:-1]))} of {len(self)}, but goes on"
            )
        if self.proprio is not None and np.isnan(self.proprio).any():
            raise ValueError(
                f"{name}: proprio is NaN at frame {int(np.argmax(np.isnan(self.proprio).any(1)))}"
            )
        if self.labelled and table:
            try:
                table.encode_batch(table.unpack_batch(self.actions))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{name}: {error}") from None
