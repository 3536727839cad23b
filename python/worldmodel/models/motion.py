"""motion: a loss that looks where things move: small moving things matter, and drown in the error of still walls."""

from __future__ import annotations

import numpy as np

from ..tensor import Tensor


def moving(frames: np.ndarray, gain: float, least: int = 24, reach: int = 2) -> Tensor:
    """Roots of the loss weights of pixels, (B,H,W,C): 1, or 1 + gain up to `reach` pixels round what moved by more
    than `least` of 255 between the last two frames (B,2,H,W,C) uint8, brought to mean 1.  They depend on what the
    network is given alone, so its best answer stays the conditional mean.
    """
    moved = np.abs(frames[:, 1].astype(np.int16) - frames[:, 0]).max(-1) > least
    for axis in (1, 2):
        edge = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        moved = np.lib.stride_tricks.sliding_window_view(np.pad(moved, edge), 2 * reach + 1, axis).any(-1)
    weight = 1 + gain * moved
    root = np.sqrt(weight / weight.mean()).astype(np.float32)
    return Tensor(np.repeat(root[..., None], frames.shape[-1], -1))
