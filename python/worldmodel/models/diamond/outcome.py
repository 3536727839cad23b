"""outcome: DIAMOND's reward and termination of a step: residual blocks on (frame, next frame) and the action, then an
LSTM over the steps of the episode.

Rewards are signs: -1, 0 or 1, as three classes; an end is one of two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import nn, ops
from ...tensor import Tensor
from .blocks import Downsample, Residuals, conv3, going_down, lstm_start, same
from .denoiser import embed


class Encoder(nn.Module):
    """(B,H,W,2 C), condition (B,cond) -> (B,h,w,channels[-1])."""

    def __init__(
        self, channels_in: int, cond: int, depths: Sequence[int], channels: Sequence[int], attention: Sequence[bool]
    ):
        self.conv_in = conv3(channels_in, channels[0])
        last = Residuals([channels[-1]] * 2, [channels[-1]] * 2, cond, True)
        self.blocks = [*going_down(depths, channels, cond, attention), last]
        self.downsamples = [None, *(Downsample(c) for c in channels[:-1]), None]

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = self.conv_in(x)
        for blocks, down in zip(self.blocks, self.downsamples, strict=True):
            x, _ = blocks(down(x) if down else x, c)
        return x


class LSTM(nn.Module):
    """One layer, batch first, under PyTorch's names."""

    def __init__(self, features_in: int, features: int):
        for name, values in lstm_start(features_in, features).items():
            setattr(self, name + "_l0", nn.parameter(values))

    def forward(self, x: Tensor, h: Tensor | None, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        gates = ops.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        return ops.lstm(gates, self.weight_hh_l0, self.bias_hh_l0, h, c)


class RewardEnd(nn.Module):
    """frames (B,T,H,W,C), actions (B,T,F), next frames -> reward logits (B,T,3), end logits (B,T,2)."""

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        action_features: int,
        cond: int,
        depths: Sequence[int],
        channels: Sequence[int],
        attention: Sequence[bool],
        lstm: int,
    ):
        H, W, C = frame_shape
        self.encoder = Encoder(2 * C, cond, depths, channels, attention)
        self.act_emb = nn.Embedding(action_features, cond)
        for _ in channels[1:]:
            H, W = (H + 1) // 2, (W + 1) // 2
        self.lstm = LSTM(channels[-1] * H * W, lstm)
        self.head = nn.Sequential(nn.Linear(lstm, lstm, act="silu"), same, nn.Linear(lstm, 5, bias=False))

    def forward(
        self, frames: Tensor, actions: Tensor, after: Tensor, h: Tensor | None = None, c: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Float frames in [-1, 1]; h and c (B,features): the state before, zeros by default.  Returns both logits and
        the state after."""
        B, T, H, W, C = frames.shape
        pair = ops.reshape(ops.concat(frames, after, axis=-1), (B * T, H, W, 2 * C))
        condition = embed(self.act_emb.weight, ops.reshape(actions, (B * T, actions.shape[2])))
        x = ops.reshape(self.encoder(pair, condition), (B, T, -1))
        out, h, c = self.lstm(x, h, c)
        logits = self.head(out)
        return ops.slice(logits, -1, 0, 3), ops.slice(logits, -1, 3, 5), h, c

    def losses(
        self, frames: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor, weight: np.ndarray
    ) -> dict[str, Tensor]:
        """Cross-entropies in nats over the steps of weight above 0.  frames (B,T,...), the others (B,T-1), of the
        step from frame t to t + 1."""
        T = frames.shape[1]
        reward, end, _, _ = self(ops.slice(frames, 1, 0, T - 1), actions, ops.slice(frames, 1, 1, T))
        even = Tensor((weight * (weight.size / max(float((weight > 0).sum()), 1.0))).astype(np.float32))
        sign = Tensor((np.sign(rewards.numpy()) + 1).astype(np.int32))
        ended = Tensor((ends.numpy() > 0.5).astype(np.int32))
        return {
            "reward": ops.cross_entropy(reward, sign, even),
            "termination": ops.cross_entropy(end, ended, even),
        }

    @staticmethod
    def decode(reward: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """logits (B,3) and (B,2) -> expected reward (B,), probability of an end (B,)."""
        p = ops.softmax(reward)
        low, high = (ops.reshape(ops.slice(p, -1, i, i + 1), (-1,)) for i in (0, 2))
        return ops.sub(high, low), ops.reshape(ops.slice(ops.softmax(end), -1, 1, 2), (-1,))
