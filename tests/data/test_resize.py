"""resize: area averaging against a definition in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from worldmodel.data import resize_area


def overlap(i, j, n, m):
    """Share of output pixel i (of m) that input pixel j (of n) covers."""
    low, high = max(Fraction(i, m), Fraction(j, n)), min(Fraction(i + 1, m), Fraction(j + 1, n))
    return max(high - low, Fraction(0)) * m


def by_definition(frame, height, width):
    H, W, C = frame.shape
    out = np.zeros((height, width, C), np.uint8)
    for y, x, c in np.ndindex(out.shape):
        total = sum(
            overlap(y, i, H, height) * overlap(x, j, W, width) * int(frame[i, j, c])
            for i in range(H)
            for j in range(W)
        )
        out[y, x, c] = int(total + Fraction(1, 2))
    return out


@pytest.mark.parametrize(
    "shape", [(6, 8, 4, 4), (7, 5, 3, 3), (5, 7, 5, 2), (9, 9, 2, 7), (3, 4, 7, 9), (8, 8, 1, 1)]
)
def test_resize_is_the_mean_over_the_rectangle(shape):
    H, W, height, width = shape
    frame = np.random.default_rng(H * W).integers(0, 256, (H, W, 2), np.uint8)
    assert np.array_equal(resize_area(frame, (height, width)), by_definition(frame, height, width))


def test_resize_rounds_half_up_and_stays_within_range():
    half = np.array([[0, 1], [1, 0]], np.uint8)[:, :, None]
    assert resize_area(half, (1, 1))[0, 0, 0] == 1
    white = np.full((601, 397, 3), 255, np.uint8)
    assert (resize_area(white, (64, 64)) == 255).all()


def test_resize_of_many_equals_one_by_one_and_copies():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 21, 16, 3), np.uint8)
    out = resize_area(frames, (8, 8))
    assert out.shape == (2, 3, 8, 8, 3)
    assert np.array_equal(out[1, 2], resize_area(frames[1, 2], (8, 8)))
    same = resize_area(frames, (21, 16))
    assert np.array_equal(same, frames) and not np.shares_memory(same, frames)


def test_resize_refuses_what_is_no_frame():
    with pytest.raises(ValueError, match="uint8"):
        resize_area(np.zeros((4, 4, 3), np.float32), (2, 2))
    with pytest.raises(ValueError, match="cannot resize"):
        resize_area(np.zeros((4, 4, 3), np.uint8), (0, 2))
