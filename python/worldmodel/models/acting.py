"""acting: what every policy offers: which frames it sees, which actions it takes, how it is saved.

A policy is called as policy(frames (N,H,W,C) uint8, first (N,), state) -> (N actions, state), when collecting,
evaluating and playing.
"""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np

from .. import nn
from ..checkpoint import write_tensors
from ..spaces import SlotTable, space_from_json

FORMAT = 1


class FramePolicy(nn.Module):
    """The base of policies that see frames; settings: the arguments of its class, JSON-able, with frame_shape,
    action_space and environment among them."""

    make = ""
    """What a file calls this class; "" is `Policy`."""
    reward_scale: float | None = None
    """What rewards were multiplied by when its critic learned them, so that learning can go on; None: not known."""

    def __init__(self, settings: dict[str, Any]):
        self._settings = settings
        self._table = SlotTable.of(space_from_json(settings["action_space"]))
        self._shape = tuple(settings["frame_shape"])

    @classmethod
    def for_world(cls, world: Any, **settings: Any) -> Self:
        """A policy for a world's frames and actions; it remembers which real environment they are of."""
        settings = {"environment": world.config.environment, **settings}
        return cls(world.config.frame_shape, world.config.action_space, **settings)

    @property
    def table(self) -> SlotTable:
        """The action space as slots."""
        return self._table

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H,W,C) of the frames it sees."""
        return self._shape

    @property
    def environment(self) -> dict[str, Any] | None:
        """What `data.environment(**it)` makes the real environment of, where it is known."""
        return self._settings["environment"]

    def _check_frames(self, frames: np.ndarray) -> None:
        if frames.shape[1:] != self._shape or frames.dtype != np.uint8:
            raise ValueError(
                f"Policy: frames must be (N, {', '.join(map(str, self._shape))}) uint8, "
                f"got {frames.shape} {frames.dtype}"
            )

    def save(self, path: str | os.PathLike[str], **extra: Any) -> None:
        """Weights and settings in one safetensors file, atomically; `Policy.load` reads it."""
        made: dict[str, Any] = {"make": self.make} if self.make else {}
        if self.reward_scale is not None:
            made["reward_scale"] = self.reward_scale
        about = {"format": FORMAT, "kind": "policy", **made, "settings": self._settings, **extra}
        write_tensors(path, self.views(), {"worldmodel": about})
