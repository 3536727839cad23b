"""resize: frames to another size by area averaging, exactly.

An output pixel is the mean of the input rectangle it covers, weighted by overlap.  Along an axis of n pixels
resized to m, with g = gcd(n, m), an input pixel is m/g units wide and an output pixel n/g units, so every
overlap is an integer:

    out[i] = sum_j overlap(i, j) x[j] / (n/g)          (both axes; rounded half up)

The sums are integers, so the result is exact and the same bits on every machine, whatever the ratio.
"""

from __future__ import annotations

import functools
import math

import numpy as np


@functools.lru_cache(maxsize=64)
def _overlaps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Taps of n -> m: index (m,K) of input pixels, integer weights (m,K) (0 where a tap is not needed),
    their sum.
    """
    g = math.gcd(n, m)
    out_width, in_width = n // g, m // g
    first = [i * out_width // in_width for i in range(m)]
    last = [-(-(i + 1) * out_width // in_width) for i in range(m)]
    taps = max(b - a for a, b in zip(first, last, strict=True))
    index, weight = np.zeros((m, taps), np.int64), np.zeros((m, taps), np.int64)
    for i, (a, b) in enumerate(zip(first, last, strict=True)):
        for k, j in enumerate(range(a, b)):
            index[i, k] = j
            weight[i, k] = min((i + 1) * out_width, (j + 1) * in_width) - max(i * out_width, j * in_width)
    return index, weight, out_width


def _along(rows: np.ndarray, m: int, largest: int) -> np.ndarray:
    """Weighted sums (at most `largest`) along the first axis, (n,k) -> (m,k).  No BLAS: it would start
    threads.
    """
    dtype = np.uint16 if largest < 2**16 else np.uint32 if largest < 2**32 else np.uint64
    index, weight, _ = _overlaps(len(rows), m)
    weight = weight.astype(dtype)
    total = rows[index[:, 0]] * weight[:, :1]
    for k in range(1, index.shape[1]):
        total += rows[index[:, k]] * weight[:, k : k + 1]
    return total


def _resize_one(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    H, W, C = frame.shape
    down, across = _overlaps(H, height)[2], _overlaps(W, width)[2]
    tall = _along(frame.reshape(H, W * C), height, 255 * down).reshape(height, W, C).transpose(1, 0, 2)
    total = _along(tall.reshape(W, height * C), width, 255 * down * across).reshape(width, height, C)
    return np.floor(total.transpose(1, 0, 2) / float(down * across) + 0.5).astype(np.uint8)


def resize_area(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames (...,H,W,C) uint8 -> (...,height,width,C) uint8 by exact area averaging; a fresh array.

    `size` is (height, width).  Enlarging is allowed (each output pixel then covers part of an input pixel).
    Raises ValueError on another dtype, rank or a size that is not positive.
    """
    frames = np.asarray(frames)
    height, width = int(size[0]), int(size[1])
    if frames.dtype != np.uint8 or frames.ndim < 3:
        raise ValueError(f"resize_area: wanted uint8 frames (...,H,W,C), got {frames.dtype} {frames.shape}")
    if height < 1 or width < 1 or min(frames.shape[-3:]) < 1:
        raise ValueError(f"resize_area: cannot resize {frames.shape} to {height}x{width}")
    lead, last = frames.shape[:-3], frames.shape[-3:]
    if last[:2] == (height, width):
        return frames.copy()
    flat = frames.reshape(-1, *last)
    out = np.empty((len(flat), height, width, last[2]), np.uint8)
    for i, frame in enumerate(flat):
        out[i] = _resize_one(frame, height, width)
    return out.reshape(*lead, height, width, last[2])
