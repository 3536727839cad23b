"""AdamW with clipping, weight decay and a moving average of the weights: one call, one sweep over one arena
(csrc/optim)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from . import _core
from .nn import Module
from .tensor import Tensor

VALUES, GRADIENTS, FIRST_MOMENT, SECOND_MOMENT, AVERAGE = range(5)


@dataclass
class Update:
    """What a step did: the gradients' norm before clipping, the learning rate, whether it clipped, and
    whether it was
    skipped because the norm was not finite (then nothing changed)."""

    norm: float
    lr: float
    clipped: bool
    skipped: bool


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), global-norm clipping and an exponential
    moving average.

    Moves the parameters into one arena: make it before views of them.  weight_decay applies to tensors of
    two axes or more.
    schedule: 'constant', 'linear' or 'cosine' after warmup steps, to lr * floor at step total.  clip 0:
    none.  ema 0: none;
    it warms up as min(ema, (1 + t) / (10 + t)).  Raises ValueError for values outside their range.
    """

    def __init__(
        self,
        parameters: Module | Sequence[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip: float = 0.0,
        ema: float = 0.0,
        schedule: str = "constant",
        warmup: int = 0,
        total: int = 0,
        floor: float = 0.0,
    ):
        tensors = parameters.parameters() if isinstance(parameters, Module) else list(parameters)
        for name, value, good in (
            ("lr", lr, lr >= 0),
            ("betas", betas, all(0 <= b < 1 for b in betas)),
            ("eps", eps, eps > 0),
            ("weight_decay", weight_decay, weight_decay >= 0),
            ("clip", clip, clip >= 0),
            ("ema", ema, 0 <= ema < 1),
            ("warmup", warmup, warmup >= 0),
            ("total", total, total >= 0),
        ):
            if not good:
                raise ValueError(f"AdamW: {name} is out of range: {value}")
        if not tensors:
            raise ValueError("AdamW: there are no parameters")
        self.tensors = tensors
        self.lr, self.betas, self.eps, self.weight_decay, self.clip = lr, betas, eps, weight_decay, clip
        self.schedule, self.warmup, self.total, self.floor = schedule, warmup, total, floor
        _core.schedule(schedule, 0, warmup, total, lr, lr * floor)
        self.arena = _core.Arena(tensors)
        self.ema = ema
        if ema:
            self.arena.shadow(ema)

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self.arena.steps

    def learning_rate(self) -> float:
        """Of the next step."""
        return _core.schedule(
            self.schedule, self.steps, self.warmup, self.total, self.lr, self.lr * self.floor
        )

    def step(self) -> Update:
        """Update every parameter from its gradient; the gradients are 0 afterwards."""
        lr = self.learning_rate()
        norm, clipped, skipped = self.arena.adamw(
            lr, *self.betas, self.eps, self.weight_decay, self.clip, True
        )
        return Update(norm, lr, clipped, skipped)

    def zero_grad(self) -> None:
        self.arena.clear()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters hold their moving average."""
        if self.ema:
            self.arena.swap(0)
        try:
            yield
        finally:
            if self.ema:
                self.arena.swap(0)

    def _parts(self) -> list[tuple[str, int]]:
        return [("m", FIRST_MOMENT), ("v", SECOND_MOMENT), *([("ema", AVERAGE)] if self.ema else [])]

    def state_dict(self) -> dict[str, np.ndarray]:
        """Moments, average and step count, to go on bit for bit."""
        state = {
            f"{name}.{i}": np.array(self.arena.part(part, i).numpy())
            for name, part in self._parts()
            for i in range(len(self.tensors))
        }
        return {"steps": np.array([self.steps], np.int64), **state}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Raises KeyError for a missing part, ValueError for a misshapen one; then nothing has been
        changed."""
        wanted = {
            f"{name}.{i}": self.arena.part(part, i)
            for name, part in self._parts()
            for i in range(len(self.tensors))
        }
        missing = [n for n in ("steps", *wanted) if n not in state]
        if missing:
            raise KeyError(f"AdamW.load_state_dict: missing {missing}")
        wrong = [
            f"{n}: {state[n].shape} instead of {t.shape}"
            for n, t in wanted.items()
            if state[n].shape != t.shape
        ]
        if wrong:
            raise ValueError("AdamW.load_state_dict: shapes differ: " + "; ".join(wrong))
        for n, t in wanted.items():
            t.copy_(state[n])
        self.arena.steps = int(state["steps"][0])
