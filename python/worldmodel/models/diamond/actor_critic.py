"""actor_critic: DIAMOND's policy: small residual blocks with max-pooling on one frame, an LSTM, an actor and a critic;
here for any action space (theirs is Discrete: then the actor's numbers are its logits).

policy = wm.Policy.load("agent_epoch_01000.pt")
actions, state = policy(frames, first, state)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import nn, ops
from ...sampling import streams
from ...tensor import Tensor
from ..acting import ActionHead, FramePolicy
from .blocks import SmallResidual, conv3, lstm_start


def max_pool(x: Tensor) -> Tensor:
    """The largest of every 2x2 pixels; a last odd row or column is left out."""
    B, H, W, C = x.shape
    x = ops.slice(x, 1, 0, H // 2 * 2) if H % 2 else x
    x = ops.slice(x, 2, 0, W // 2 * 2) if W % 2 else x
    return ops.max(ops.reshape(x, (B, H // 2, 2, W // 2, 2, C)), (2, 4))


class Encoder(nn.Module):
    """(B,H,W,C) in [-1, 1] -> (B, features)."""

    def __init__(self, frame_shape: tuple[int, int, int], channels: Sequence[int], down: Sequence[int]):
        layers: list[Any] = [conv3(frame_shape[2], channels[0])]
        for a, b, halve in zip((channels[0], *channels), channels, down, strict=False):
            layers.append(SmallResidual(a, b))
            if halve:
                layers.append(max_pool)
        self.encoder = nn.Sequential(*layers)
        half = sum(map(bool, down))
        self.features = channels[-1] * (frame_shape[0] >> half) * (frame_shape[1] >> half)

    def forward(self, x: Tensor) -> Tensor:
        return ops.reshape(self.encoder(x), (x.shape[0], -1))


class Cell(nn.Module):
    """One step of an LSTM, under PyTorch's names."""

    def __init__(self, features_in: int, features: int):
        for name, values in lstm_start(features_in, features).items():
            setattr(self, name, nn.parameter(values))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return ops.lstm_cell(ops.linear(x, self.weight_ih, self.bias_ih), self.weight_hh, self.bias_hh, h, c)


class ActorCritic(nn.Module):
    """frames (B,H,W,C) float, state -> numbers of the actions' distribution (B,A), values (B,), state; both heads 0 at
    first."""

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        actions: int,
        channels: Sequence[int] = (32, 32, 64, 64),
        down: Sequence[int] = (1, 1, 1, 1),
        lstm: int = 512,
    ):
        self.encoder = Encoder(frame_shape, channels, down)
        self.lstm = Cell(self.encoder.features, lstm)
        self.critic_linear = nn.Linear(lstm, 1, init=nn.zeros)
        self.actor_linear = nn.Linear(lstm, actions, init=nn.zeros)

    def forward(self, frames: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, c = self.lstm(self.encoder(frames), h, c)
        return self.actor_linear(h), ops.reshape(self.critic_linear(h), (-1,)), h, c


class RecurrentPolicy(FramePolicy):
    """The actor-critic as a policy: collects, evaluates, plays, is saved like any other."""

    make = "recurrent"

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        action_space: dict[str, Any],
        channels: Sequence[int] = (32, 32, 64, 64),
        down: Sequence[int] = (1, 1, 1, 1),
        lstm: int = 512,
        environment: dict[str, Any] | None = None,
    ):
        settings = {
            "frame_shape": list(frame_shape),
            "action_space": action_space,
            "channels": list(channels),
            "down": list(down),
            "lstm": lstm,
            "environment": environment,
        }
        super().__init__(settings)
        self._lstm, self.actor = lstm, ActionHead(self._table)
        self.actor_critic = ActorCritic(self._shape, self.actor.size, channels, down, lstm)

    @classmethod
    def for_world(cls, world: Any, **settings: Any) -> RecurrentPolicy:
        """A policy for a world's frames and actions; as published, with fewer halvings where frames are small."""
        H, W, _ = world.config.frame_shape
        halvings = max(1, min(4, min(H, W).bit_length() - 2))
        return super().for_world(world, **{"down": [1] * halvings + [0] * (4 - halvings), **settings})

    @property
    def lstm_features(self) -> int:
        """Width of its memory."""
        return self._lstm

    def forward(self, frames: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """uint8 frames (B,H,W,C), state h and c (B,lstm) -> numbers of the distribution (B,A), values (B,), state."""
        return self.actor_critic(ops.frames_float(frames), h, c)

    def __call__(
        self, frames: np.ndarray, first: np.ndarray, state: Any = None, greedy: bool = False, seed: int = 0
    ) -> tuple[Any, Any]:
        """Act: frames (N,H,W,C) uint8 now, first (N,): an episode begins here, state: what the last call returned.

        Returns (N actions, state).  Random draws depend on seed, lane and step only.
        """
        N = len(frames)
        self._check_frames(frames)
        if state is None:
            none = np.zeros((N, self._lstm), np.float32)
            start = streams(np.uint64(seed) * np.uint64(1 << 20) + np.arange(N, dtype=np.uint64))
            state = {"h": none, "c": none, "stream": start}
        keep = (~np.asarray(first, bool)).astype(np.float32)[:, None]
        h, c = (Tensor(state[k] * keep) for k in ("h", "c"))
        d, _, h, c = self.forward(Tensor(np.ascontiguousarray(frames)), h, c)
        stream = state["stream"].copy()
        codes = self.actor.codes(*self.actor.drawn(d, stream, greedy))
        stream[:, 3] += 1
        actions = [self._table.decode(codes[i]) for i in range(N)]
        return actions, {"h": np.array(h.numpy()), "c": np.array(c.numpy()), "stream": stream}
