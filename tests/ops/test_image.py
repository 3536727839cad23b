"""Image ops: bytes and floats, resizing."""

import numpy as np
import pytest
from harness import check_op, tensor
from reference import image as ref
from worldmodel import _core

SIZES = [((2, 8, 6, 3), 4, 3), ((3, 7, 5, 1), 3, 4), ((1, 2, 5, 9, 2), 8, 13), ((2, 1, 1, 4), 3, 2),
         ((1, 21, 16, 3), 21, 16), ((1, 210, 160, 3), 64, 64)]


@pytest.mark.parametrize("mode", ["area", "bilinear"])
@pytest.mark.parametrize(("shape", "height", "width"), SIZES)
def test_resize(kernels, shape, height, width, mode):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    tolerance = 2e-6 if mode == "area" else 3e-5   # where a bilinear sample lies is itself a float32
    check_op("resize", [x], lambda x: ref.resize(x, height, width, mode), batched=[0], tolerance=tolerance,
             grad_tolerance=5e-5, height=height, width=width, mode=mode)


@pytest.mark.parametrize("mode", ["area", "bilinear"])
@pytest.mark.parametrize(("shape", "height", "width"), SIZES)
def test_resize_of_bytes_is_within_half(kernels, shape, height, width, mode):
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    got = _core.ops["resize"](tensor(x), height=height, width=width, mode=mode).numpy()
    assert got.dtype == np.uint8
    assert np.abs(got - ref.resize(x, height, width, mode)).max() <= 0.5 + 1e-2


def test_area_is_exact_for_whole_ratios_and_keeps_flat_images_flat(kernels):
    x = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6, 1)
    got = _core.ops["resize"](tensor(x), height=2, width=2).numpy()
    assert got.ravel().tolist() == [4, 7, 16, 19]
    flat = np.full((7, 5, 3), 200, np.uint8)
    assert (_core.ops["resize"](tensor(flat), height=3, width=4).numpy() == 200).all()


def test_resizing_to_the_same_size_changes_nothing(kernels):
    x = np.random.default_rng(0).integers(0, 256, (5, 9, 3)).astype(np.uint8)
    for mode in ("area", "bilinear"):
        assert np.array_equal(_core.ops["resize"](tensor(x), height=5, width=9, mode=mode).numpy(), x)


def test_bytes_to_floats_and_back_is_the_identity(kernels):
    x = np.arange(256, dtype=np.uint8)
    for a, b in [(-1, 1), (0, 1), (-0.5, 0.5)]:
        y = check_op("frames_float", [x], lambda x, a=a, b=b: a + x / 255 * (b - a), low=a, high=b)[0]
        assert y[0] == a and y[-1] == b
        assert np.array_equal(_core.ops["frames_u8"](tensor(y), low=a, high=b).numpy(), x)


def test_frames_u8_rounds_cuts_and_holds(kernels):
    x = np.concatenate([np.linspace(-1.2, 1.2, 1001), [np.nan, np.inf, -np.inf]]).astype(np.float32)
    y = np.clip(np.nan_to_num((x.astype(np.float64) + 1) / 2 * 255, nan=0, posinf=255, neginf=0), 0, 255)
    nearest = _core.ops["frames_u8"](tensor(x)).numpy()
    cut = _core.ops["frames_u8"](tensor(x), truncate=True).numpy()
    assert (np.abs(nearest - y) <= 0.5 + 1e-4).all()
    assert ((y - cut > -1e-4) & (y - cut < 1 + 1e-4)).all()
    assert nearest[-3:].tolist() == cut[-3:].tolist() == [0, 255, 0]


def test_cutting_agrees_with_diamond(kernels):
    """clamp(-1, 1), + 1, / 2, * 255, to a byte: the same bits in float32."""
    x = np.random.default_rng(0).uniform(-1.1, 1.1, 5000).astype(np.float32)
    half, one = np.float32(2), np.float32(1)
    want = ((np.clip(x, -1, 1) + one) / half * np.float32(255)).astype(np.uint8)
    assert np.array_equal(_core.ops["frames_u8"](tensor(x), truncate=True).numpy(), want)


def test_wrong_use_is_told():
    x = tensor(np.zeros((4, 4, 1), np.float32))
    with pytest.raises(ValueError, match="height and width"):
        _core.ops["resize"](x, height=0, width=3)
    with pytest.raises(ValueError, match=r"\(..., H, W, C\)"):
        _core.ops["resize"](tensor(np.zeros((4, 4), np.float32)), height=1, width=3)
    with pytest.raises(TypeError, match="float32 or uint8"):
        _core.ops["resize"](tensor(np.zeros((4, 4, 1), np.int32)), height=1, width=3)
    with pytest.raises(ValueError, match="below high"):
        _core.ops["frames_u8"](x, low=1, high=1)
