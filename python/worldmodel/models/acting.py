"""acting: what every policy offers: a distribution over actions of any space, which frames it sees, how it is saved.

A policy is called as policy(frames (N,H,W,C) uint8, first (N,), state) -> (N actions, state), when collecting,
evaluating and playing.
"""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np

from .. import nn, ops
from ..checkpoint import write_tensors
from ..spaces import SlotTable, space_from_json
from ..tensor import Tensor

FORMAT = 1


LOG_STD = (-5.0, 1.0)
"""Range of a continuous action's log standard deviation."""


class ActionHead(nn.Module):
    """A distribution over the actions of a slot table, given by `size` numbers; of features, they are a linear map,
    uniform, or centred, at first.  Without features the numbers come from elsewhere, and it has no weights."""

    def __init__(self, table: SlotTable, features: int | None = None):
        slots = table.slots
        self._table = table
        self._choices = [(i, max(1, s.n)) for i, s in enumerate(slots) if s.kind != "continuous"]
        self._numbers = [i for i, s in enumerate(slots) if s.kind == "continuous"]
        self._width = sum(n for _, n in self._choices)
        self.size = self._width + 2 * len(self._numbers)
        if features is not None:
            self.out = nn.Linear(features, self.size, init=nn.zeros)

    @property
    def choices(self) -> list[int] | None:
        """How many values each slot can take, None if one takes numbers."""
        return None if self._numbers else [n for _, n in self._choices]

    def forward(self, features: Tensor) -> Tensor:
        """(B,F) -> the distribution's numbers (B,D): logits of every choice, means, log standard
        deviations."""
        return self.out(features)

    def _logits(self, d: Tensor) -> list[Tensor]:
        parts, at = [], 0
        for _, n in self._choices:
            parts.append(ops.slice(d, -1, at, at + n))
            at += n
        return parts

    def _gaussian(self, d: Tensor) -> tuple[Tensor, Tensor]:
        w, k = self._width, len(self._numbers)
        low, high = LOG_STD
        spread = ops.tanh(ops.slice(d, -1, w + k, w + 2 * k))
        return ops.slice(d, -1, w, w + k), ops.scale_shift(spread, (high - low) / 2, (high + low) / 2)

    def sample(self, d: Tensor, stream: Tensor, greedy: bool = False) -> tuple[list[Tensor], Tensor | None]:
        """One int32 (B,) for each choice, and (B,K) numbers before tanh; greedy: the likeliest."""
        picks = [
            ops.argmax(x) if greedy else ops.categorical(x, stream, salt=21 + i)
            for i, x in enumerate(self._logits(d))
        ]
        if not self._numbers:
            return picks, None
        mean, log_std = self._gaussian(d)
        return picks, mean if greedy else ops.gaussian_sample(mean, log_std, stream, salt=20)

    def drawn(self, d: Tensor, stream: np.ndarray, greedy: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """As sample, in arrays: picks (B,choices) int32, numbers before tanh (B,K) or None."""
        picks, numbers = self.sample(d, Tensor(np.ascontiguousarray(stream)), greedy)
        several = np.stack([p.numpy() for p in picks], 1) if picks else np.zeros((len(stream), 0), np.int32)
        return several, None if numbers is None else np.array(numbers.numpy())

    def log_prob(self, d: Tensor, picks: np.ndarray, numbers: np.ndarray | None) -> Tensor:
        """Of picks (B,choices) int32 and numbers before tanh (B,K): (B,).  The density is of the numbers
        before tanh: the
        change of variables does not depend on the parameters and cancels in every ratio and gradient."""
        terms = [
            ops.categorical_log_prob(x, Tensor(np.ascontiguousarray(picks[:, j])))
            for j, x in enumerate(self._logits(d))
        ]
        if self._numbers and numbers is not None:
            mean, log_std = self._gaussian(d)
            terms.append(ops.gaussian_log_prob(Tensor(numbers), mean, log_std))
        total = terms[0]
        for t in terms[1:]:
            total = total + t
        return total

    def entropy(self, d: Tensor) -> Tensor:
        """(B,), in nats; of the numbers before tanh."""
        terms = [ops.categorical_entropy(x) for x in self._logits(d)]
        if self._numbers:
            _, log_std = self._gaussian(d)
            terms.append(ops.sum(ops.scale_shift(log_std, 1.0, 1.4189385), -1))
        total = terms[0]
        for t in terms[1:]:
            total = total + t
        return total

    def codes(self, picks: np.ndarray, numbers: np.ndarray | None) -> Any:
        """Picks (B,choices) and numbers before tanh (B,K) as codes of the table: always legal actions."""
        B, S = len(picks), len(self._table.slots)
        values, index = np.zeros((B, S)), np.zeros((B, S), np.int32)
        for j, (i, _) in enumerate(self._choices):
            index[:, i] = picks[:, j]
        if numbers is not None:
            values[:, self._numbers] = np.tanh(numbers)
        return self._table.compose(values, index)


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
