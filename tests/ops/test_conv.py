"""conv2d against its definition in float64: every way it can run, odd sizes, all gradients."""

import numpy as np
import pytest
from harness import check_op, tensor
from reference.conv import conv2d
from worldmodel import _core


def arrays(B, H, W, C, N, kh, kw, stride=1, padding=-1, upsample=1, bias=True, residual=False, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((B, H, W, C)).astype(np.float32)
    w = (rng.standard_normal((N, kh, kw, C)) / np.sqrt(kh * kw * C)).astype(np.float32)
    b = rng.standard_normal(N).astype(np.float32) if bias else None
    shape = conv2d(x, w, None, None, stride, padding, "none", upsample).shape
    r = rng.standard_normal(shape).astype(np.float32) if residual else None
    return [x, w, b, r]


def check(a, act="none", **attrs):
    def bent(x, w, b, r):
        """relu with the kink where it is: differences across it are no derivative."""
        on = conv2d(*[None if v is None else v.astype(np.float64) for v in a[:3]], **attrs) > 0
        return conv2d(x, w, b, None, **attrs) * on + (0 if r is None else r)

    check_op("conv2d", a, lambda x, w, b, r: conv2d(x, w, b, r, act_name=act, **attrs), tolerance=4e-6,
             batched=[0] if a[3] is None else [0, 3], grad_reference=bent if act == "relu" else None,
             act=act, **attrs)


@pytest.mark.parametrize("size", [
    (1, 1, 1, 1, 1, 3, 3), (2, 5, 7, 3, 5, 3, 3), (1, 9, 13, 15, 31, 3, 3), (2, 3, 50, 1, 33, 3, 3),
    (3, 6, 5, 12, 7, 1, 1), (2, 7, 4, 16, 40, 1, 1), (2, 4, 6, 5, 8, 5, 3), (1, 3, 130, 2, 3, 1, 7)])
def test_conv2d_direct(kernels, size):
    check(arrays(*size))


@pytest.mark.parametrize("size", [
    (1, 3, 3, 32, 1, 3, 3), (2, 8, 8, 32, 32, 3, 3), (1, 9, 7, 32, 3, 3, 3), (2, 5, 6, 48, 32, 3, 3),
    (1, 13, 22, 33, 65, 3, 3), (2, 6, 7, 37, 39, 3, 3), (5, 4, 4, 64, 48, 3, 3), (1, 2, 2, 32, 32, 3, 3),
    (2, 46, 45, 33, 39, 3, 3)])
def test_conv2d_winograd(kernels, size):
    check(arrays(*size))


@pytest.mark.parametrize("C", [3, 32])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_conv2d_padding(kernels, C, padding):
    check(arrays(2, 6, 7, C, 18, 3, 3, padding=padding), padding=padding)


@pytest.mark.parametrize("C, N, k, stride, padding", [
    (5, 6, 3, 2, 1), (16, 16, 3, 2, 1), (3, 20, 4, 4, 0), (4, 5, 4, 2, 1), (6, 3, 2, 3, 1),
    (3, 4, 5, 3, 2), (7, 8, 1, 2, 0)])
@pytest.mark.parametrize("H, W", [(8, 8), (9, 11)])
def test_conv2d_stride(kernels, C, N, k, stride, padding, H, W):
    check(arrays(2, H, W, C, N, k, k, stride, padding), stride=stride, padding=padding)


@pytest.mark.parametrize("C, N, k, stride, upsample", [
    (3, 5, 3, 1, 2), (32, 32, 3, 1, 2), (32, 3, 3, 1, 3), (4, 6, 1, 1, 2), (5, 4, 3, 2, 2), (3, 4, 1, 2, 2)])
def test_conv2d_upsample(kernels, C, N, k, stride, upsample):
    check(arrays(2, 5, 4, C, N, k, k, stride, upsample=upsample), stride=stride, upsample=upsample)


@pytest.mark.parametrize("C", [3, 32])
@pytest.mark.parametrize("act", ["none", "silu", "relu"])
@pytest.mark.parametrize("bias, residual", [(True, True), (False, False), (False, True)])
def test_conv2d_activation_and_residual(kernels, C, act, bias, residual):
    check(arrays(2, 5, 6, C, 21, 3, 3, bias=bias, residual=residual), act=act)


def test_conv2d_leading_axes(kernels):
    a = arrays(6, 5, 6, 4, 5, 3, 3)
    flat = _core.ops["conv2d"](tensor(a[0]), tensor(a[1])).numpy()
    deep = _core.ops["conv2d"](tensor(a[0].reshape(2, 3, 5, 6, 4)), tensor(a[1])).numpy()
    assert deep.shape == (2, 3, 5, 6, 5) and np.array_equal(deep.reshape(flat.shape), flat)


@pytest.mark.parametrize("C", [3, 32])
def test_conv2d_many_pixels(kernels, C):
    """More than one block of tiles, band and segment; threads share them."""
    check(arrays(3, 19, 150, C, 16, 3, 3))


def test_conv2d_one_input_alone(kernels):
    """Only the gradients that are wanted."""
    a = arrays(2, 6, 6, 32, 32, 3, 3)
    for i in range(3):
        check_op("conv2d", a, lambda x, w, b, r: conv2d(x, w, b, r), grads=[i])


@pytest.mark.parametrize("change, words", [
    (dict(weight=(4, 3, 3, 2)), "channels"), (dict(weight=(4, 3, 3)), "weight wanted (O, kh, kw, C)"),
    (dict(x=(3, 5)), "x wanted"), (dict(bias=(5,)), "bias wanted"), (dict(stride=0), "stride"),
    (dict(upsample=0), "upsample"), (dict(padding=3), "padding"),
    (dict(weight=(4, 2, 2, 3)), "padding wanted"), (dict(residual=(1, 4, 4, 4)), "residual wanted"),
    (dict(weight=(4, 7, 7, 3), padding=0), "at most")])
def test_conv2d_says_what_is_wrong(change, words):
    shapes = dict(x=(1, 5, 5, 3), weight=(4, 3, 3, 3), bias=(4,), residual=(1, 5, 5, 4)) | change
    given = [tensor(np.zeros(shapes[name], np.float32)) for name in ("x", "weight", "bias", "residual")]
    attrs = {name: change[name] for name in ("stride", "padding", "upsample") if name in change}
    with pytest.raises(ValueError, match="conv2d") as e:
        _core.ops["conv2d"](*given, **attrs)
    assert words in str(e.value)
