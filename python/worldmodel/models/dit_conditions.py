"""dit_conditions: what a DiT's blocks take at the K noise levels of a step and at its commit, for n actions.

They depend on the action and the weights alone, and are a fifth of the weights: so they have a plan of their
own, and rows of actions that came before are copied from memory, as long as no weight has been written.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from ..tensor import Tape, Tensor

if TYPE_CHECKING:
    from .dit import DiT

ROOM = 32 << 20
"""Bytes of remembered rows at most."""


class Conditions:
    """(K + 1, n, parts width) for each block: the levels k / K and, last, context_level, as told."""

    def __init__(self, model: DiT, n: int, steps: int, context_level: float):
        self.n, self._steps = n, steps
        self._actions = Tensor(np.zeros((n, 1, model.action_features), np.float32), copy=True)
        self._known = Tensor(np.ones((n, 1), np.float32), copy=True)
        tau = np.array([k / steps for k in range(steps)] + [context_level], np.float32)
        size = np.array([1 / steps] * steps + [1 / model.objective.finest], np.float32)
        with Tape(grad=False) as tape:
            z = model.condition.vector(self._actions, self._known)
            told = model.told(tau, size, np.full_like(tau, context_level))
            c = model.condition(told.reshape(steps + 1, 1, told.shape[-1]), z.reshape(1, *z.shape[::2]))
            m = model.modulate(c)
        self._plan = tape.plan(*m)
        self._weights = [t for name, t in model.named_tensors() if "modulation" in name or "condition" in name]
        self._rows: OrderedDict[bytes, list[np.ndarray]] = OrderedDict()
        row = sum(t.size // n for t in self._plan.outputs) * 4
        self._most = max(2, ROOM // row)
        self._now: list[bytes] = [b""] * n
        self._here = self._plan.outputs[0].device == "cpu"  # elsewhere running the plan costs less than moving rows
        self._stamps: list[int | None] = []

    def denoising(self) -> list[Tensor]:
        """Those of the K levels, (K,n,parts width); every told overwrites them."""
        return [t[: self._steps] for t in self._plan.outputs]

    def commit(self) -> list[Tensor]:
        """Those of the commit, (1,n,parts width)."""
        return [t[self._steps :] for t in self._plan.outputs]

    def told(self, actions: np.ndarray, known: np.ndarray) -> None:
        """Make them those of action features (n,F) float32, where known (n,) bool; of the null vector elsewhere."""
        stamps = [t.stamp for t in self._weights]
        if stamps != self._stamps or None in stamps:
            self._rows.clear()
            self._now, self._stamps = [b""] * self.n, stamps
        keys = [actions[i].tobytes() if known[i] else b"unknown" for i in range(self.n)]
        if keys == self._now:
            return
        if self._here and all(key in self._rows for key in keys):
            self._recall(keys)
        else:
            self._actions[:, 0], self._known[:, 0] = actions, known
            self._plan.run()
            if self._here:
                self._remember(keys)
        self._now = keys

    def _recall(self, keys: list[bytes]) -> None:
        outputs = [t.numpy() for t in self._plan.outputs]
        for i, key in enumerate(keys):
            if key != self._now[i]:
                for m, row in zip(outputs, self._rows[key], strict=True):
                    m[:, i] = row
                self._rows.move_to_end(key)

    def _remember(self, keys: list[bytes]) -> None:
        outputs = [t.numpy() for t in self._plan.outputs]
        for i, key in enumerate(keys):
            if key not in self._rows and len(keys) <= self._most:
                self._rows[key] = [m[:, i].copy() for m in outputs]
        while len(self._rows) > self._most:
            self._rows.popitem(last=False)
