"""encoder: a few frames to one vector, cheaply: what reward models and policies look through."""

from __future__ import annotations

from .. import nn, ops
from ..tensor import Tensor
from .tokenizer import numbers


def side_by_side(frames: Tensor) -> Tensor:
    """A few frames as one picture of more channels: uint8 (B,n,H,W,C) -> float32 (B,H,W,n C) in [-1, 1]."""
    B, n, H, W, C = frames.shape
    return numbers(ops.reshape(ops.permute(frames, (0, 2, 3, 1, 4)), (B, H, W, n * C)))


class FrameEncoder(nn.Module):
    """The last `frames` frames, (B,H,W,frames C) in [-1, 1] -> (B,features).

    A 4x4 convolution of stride 4, one of 3x3 and stride 2, one linear layer: about 5 MFLOP at 48x64.  Deeper
    stacks without
    norms did not learn rare events here, and with norms cost four times as much for the same precision.
    """

    def __init__(
        self, frame_shape: tuple[int, int, int], frames: int = 2, width: int = 32, features: int = 128
    ):
        H, W, C = frame_shape
        if H < 8 or W < 8:
            raise ValueError(f"FrameEncoder: frames must be at least 8x8, got {H}x{W}")
        self.patches = nn.Conv2d(frames * C, width, kernel=4, stride=4, padding=0, act="silu")
        self.conv = nn.Conv2d(width, 2 * width, stride=2, act="silu")
        h, w = (H // 4 + 1) // 2, (W // 4 + 1) // 2
        self.out = nn.Linear(2 * width * h * w, features, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(self.patches(x))
        return self.out(ops.reshape(h, (x.shape[0], -1)))
