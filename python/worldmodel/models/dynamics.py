"""dynamics: what every backbone offers, so that worlds, environments, policies and planners need not know
which it is.

Time: frame t+1 follows frame t by action t.  A window holds for each frame the step that *leads to it*: row
0 of
actions, rewards and ends is empty (stepped is 0 there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import nn
from ..tensor import Tensor

if TYPE_CHECKING:
    from ..sampling import Sampler


@dataclass
class Window:
    """B windows of T frames, as tensors.

    frames (B,T,H,W,C) uint8 · actions (B,T,F) float32, the features of the action that led to each frame,
    zeros where
    unknown · known (B,T): that action is known · rewards, terminated (B,T): of the step that led to each
    frame ·
    frame_weight (B,T): 1 where the picture is real and counts · step_weight (B,T): 1 where that step exists.
    All but frames float32.
    """

    frames: Tensor
    actions: Tensor
    known: Tensor
    rewards: Tensor
    terminated: Tensor
    frame_weight: Tensor
    step_weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T)."""
        return self.frames.shape[0], self.frames.shape[1]

    @staticmethod
    def of(batch: Any, features: np.ndarray) -> Window:
        """A replay's Batch and the features of its actions (B,T,F) (`Replay.features`) as a window."""
        arriving = batch.arriving()
        led = np.zeros_like(features)
        led[:, 1:] = features[:, :-1]

        def numbers(a: np.ndarray) -> Tensor:
            return Tensor(np.ascontiguousarray(a, np.float32))

        return Window(
            frames=Tensor(np.ascontiguousarray(batch.frames)),
            actions=numbers(led * arriving["known"][..., None]),
            known=numbers(arriving["known"]),
            rewards=numbers(arriving["rewards"]),
            terminated=numbers(arriving["terminated"]),
            frame_weight=numbers(batch.mask & batch.frame_known),
            step_weight=numbers(arriving["stepped"]),
        )

    @staticmethod
    def join(windows: Sequence[Window]) -> Window:
        """Several windows of the same length as one batch."""
        names = [f.name for f in fields(Window)]
        return Window(**{n: Tensor(np.concatenate([getattr(w, n).numpy() for w in windows])) for n in names})

    def forgetful(self, rng: np.random.Generator, share: float, context: int) -> Window:
        """Some samples as if their episode began later: frames before a random one of the first `context`
        repeat it, the actions that led there are unknown.  So a world learns to start from a short history.
        """
        B, T = self.shape
        begin = np.where(rng.random(B) < share, rng.integers(1, max(2, context), B), 0)
        time = np.arange(T)[None]
        early = time <= begin[:, None]
        keep = np.where((begin > 0)[:, None] & early, 0, 1).astype(np.float32)
        frames = self.frames.numpy()[np.arange(B)[:, None], np.maximum(time, begin[:, None])]
        return replace(
            self,
            frames=Tensor(np.ascontiguousarray(frames)),
            actions=Tensor(self.actions.numpy() * keep[..., None]),
            known=Tensor(self.known.numpy() * keep),
        )

    def __post_init__(self) -> None:
        B, T = self.shape
        for name in ("known", "rewards", "terminated", "frame_weight", "step_weight"):
            got = getattr(self, name).shape
            if got != (B, T):
                raise ValueError(f"Window: {name} must have shape {(B, T)}, got {got}")
        if self.actions.shape[:2] != (B, T):
            raise ValueError(
                f"Window: actions must have shape ({B}, {T}, features), got {self.actions.shape}"
            )


class Dynamics(nn.Module):
    """A backbone with its objective: learns from windows, and makes samplers that step it."""

    context: int
    """Frames of history from which an episode starts (shorter histories repeat their first frame)."""
    window: int
    """Frames of a training window."""
    feature_size: int
    """Width of the features that a step leaves for reward heads and policies."""
    lr: float = 1e-3
    """Peak learning rate that suits it."""
    clips: dict[str, float] = {}
    """Largest gradient norm of a part, where it is not the training's own."""
    tokenizes: bool = False
    """Whether it takes `tokenizer=`: something else than pixels to compute on (models/tokenizer.py)."""
    draws_rewards: bool = False
    """Whether its sampler takes `drawn=True`: rewards drawn from their distribution, not their expectation."""

    def losses(self, window: Window, stream: Tensor) -> dict[str, Tensor]:
        """Named scalar losses of a window, already weighted: their sum is minimised.  stream (B,4) int32:
        one row of
        random numbers a sample (ops.normal)."""
        raise NotImplementedError

    def outcome_losses(self, window: Window) -> dict[str, Tensor]:
        """Losses of reward and termination alone, of each window's last step, for windows in which rare
        events are drawn
        often; empty for a backbone whose `losses` hold them."""
        return {}

    def parts(self) -> dict[str, list[Tensor]]:
        """Parameters that share no loss, each to be clipped and updated apart: one part's large gradient
        must not
        shrink another's."""
        return {"all": self.parameters()}

    def int8_layers(self) -> list[str]:
        """Names of the weights whose products may run in int8 (quantize.py)."""
        return []

    def bf16_layers(self) -> list[str]:
        """The same for bfloat16."""
        return self.int8_layers()

    def guess(self, window: Window, stream: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The last frame of each window as the network says it when acting, and as it was, float32
        (B,H,W,C): what quantize.py compares.  stream (B,4)."""
        raise NotImplementedError

    def sampler(self, n: int, **options: Any) -> Sampler:
        """A sampler of n environments that read this network's weights."""
        raise NotImplementedError
