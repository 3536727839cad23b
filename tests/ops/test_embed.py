import numpy as np
import pytest
from harness import check_op
from reference import embed as ref
from worldmodel import _core

ops = _core.ops


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(x, needs_grad=False):
    return _core.Tensor(np.asarray(x, order="C"), needs_grad=needs_grad)


@pytest.mark.parametrize("n,c", [(1, 1), (5, 3), (7, 64), (300, 17)])
@pytest.mark.parametrize("shape", [(), (1,), (4, 3), (900,)], ids=str)
def test_embedding(kernels, n, c, shape):
    index = np.random.default_rng(1).integers(0, n, shape).astype(np.int32)
    batched = [1] if len(shape) == 2 else []
    check_op(
        "embedding", [numbers((n, c)), index], lambda t, i: t[i], grads=[0], batched=batched, tolerance=0
    )


def test_embedding_reads_bfloat16_and_keeps_a_float_gradient(kernels):
    half = ops["cast"](tensor(numbers((6, 5))), "bfloat16")
    half.needs_grad = True
    index = np.array([5, 0, 5], np.int32)
    with _core.Tape() as tape:
        out = ops["embedding"](half, tensor(index))
    assert np.array_equal(out.numpy(), ops["cast"](half, "float32").numpy()[index])
    tape.backward(out, tensor(np.ones((3, 5), np.float32)))
    assert np.asarray(half.grad)[:, 0].tolist() == [1, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("dim", [2, 3, 32, 33, 130, 384])
@pytest.mark.parametrize("order", ["cos_sin", "sin_cos"])
def test_sinusoidal(kernels, dim, order):
    t = (np.random.default_rng(dim).random((3, 2)) * 3).astype(np.float32)
    check_op(
        "sinusoidal", [t], lambda t: ref.sinusoidal(t, dim, order=order), batched=[0], dim=dim, order=order
    )
    check_op(
        "sinusoidal",
        [t],
        lambda t: ref.sinusoidal(t, dim, 100.0, 5.0, order),
        dim=dim,
        max_period=100,
        scale=5,
        order=order,
        grad_tolerance=1e-4,
    )


def test_sinusoidal_is_exact_at_large_times(kernels):
    """Diffusion steps up to 1000 and beyond: the angle itself must not be rounded to float."""
    t = np.array([999, 12345.678, 1e6], np.float32)
    out = ops["sinusoidal"](tensor(t), 64).numpy()
    assert np.abs(out - ref.sinusoidal(t.astype(np.float64), 64)).max() < 1.5e-7


@pytest.mark.parametrize("d", [1, 5, 16, 64, 100])
def test_fourier(kernels, d):
    t, w = numbers((2, 3)), numbers(d, 1) * 2
    check_op("fourier", [t, w], ref.fourier, batched=[0], grad_tolerance=5e-5)
    out = ops["fourier"](tensor(t * 1000), tensor(w * 16)).numpy()
    assert np.abs(out - ref.fourier((t * 1000).astype(np.float64), (w * 16).astype(np.float64))).max() < 2e-7


@pytest.mark.parametrize("h,w,d", [(1, 1, 4), (3, 5, 8), (8, 8, 64), (4, 7, 280)])
def test_axial_positions(kernels, h, w, d):
    out = ops["axial_positions"](h, w, d).numpy()
    assert out.shape == (h * w, d)
    assert np.abs(out - ref.axial_positions(h, w, d)).max() < 2e-7


PATCHES = [
    ((4, 4, 3), 2),
    ((2, 6, 4, 1), 2),
    ((2, 3, 8, 16, 3), 8),
    ((1, 5, 5, 2), 5),
    ((2, 6, 6, 3), 1),
    ((3, 64, 64, 3), 8),
]


@pytest.mark.parametrize("shape,p", PATCHES, ids=str)
def test_patchify_and_back(kernels, shape, p):
    batched = [0] if len(shape) > 3 else []
    h, w = shape[-3:-1]
    check_op("patchify", [numbers(shape)], lambda x: ref.patchify(x, p), size=p, tolerance=0, batched=batched)
    tokens = ref.patchify(numbers(shape), p)
    check_op(
        "unpatchify",
        [tokens],
        lambda x: ref.unpatchify(x, h, w, p),
        height=h,
        width=w,
        size=p,
        tolerance=0,
        batched=batched,
    )
    frames = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    cut = ops["patchify"](tensor(frames), p)
    assert np.array_equal(cut.numpy(), ref.patchify(frames, p))
    assert np.array_equal(ops["unpatchify"](cut, h, w, p).numpy(), frames)


def test_one_hot(kernels):
    index = np.random.default_rng(0).integers(0, 5, (3, 4)).astype(np.int32)
    assert np.array_equal(ops["one_hot"](tensor(index), 5).numpy(), np.eye(5, dtype=np.float32)[index])
    assert ops["one_hot"](tensor(np.int32(0)), 1).numpy().tolist() == [1]


def test_wrong_calls_say_what_was_wanted():
    table, i, x = tensor(numbers((3, 2))), tensor(np.array([0, 3], np.int32)), tensor(numbers((4, 6, 2)))
    for call, kind, words in (
        (
            lambda: ops["embedding"](table, i),
            IndexError,
            "embedding: number 1 of the indices is 3, outside 0..2",
        ),
        (lambda: ops["embedding"](tensor(numbers(3)), i), ValueError, "embedding: table wanted two axes"),
        (lambda: ops["embedding"](i, i), TypeError, "table must be float32 or bfloat16, not int32"),
        (lambda: ops["one_hot"](i, 3), IndexError, "one_hot: number 1"),
        (lambda: ops["one_hot"](i, 0), ValueError, "one_hot: n wanted 1 or more"),
        (lambda: ops["sinusoidal"](table, 1), ValueError, "sinusoidal: dim wanted 2 or more, got 1"),
        (
            lambda: ops["sinusoidal"](table, 4, 0),
            ValueError,
            "sinusoidal: max_period wanted a positive number",
        ),
        (lambda: ops["fourier"](table, table), ValueError, "fourier: weight wanted one axis"),
        (
            lambda: ops["axial_positions"](2, 2, 6),
            ValueError,
            "axial_positions: dim wanted a multiple of 4, got 6",
        ),
        (lambda: ops["axial_positions"](0, 2, 8), ValueError, "axial_positions: height and width"),
        (
            lambda: ops["patchify"](x, 4),
            ValueError,
            "patchify: 4 x 6 pixels are not a whole number of patches of 4",
        ),
        (lambda: ops["patchify"](x, 0), ValueError, "patchify: size wanted 1 or more"),
        (lambda: ops["patchify"](table, 1), ValueError, r"patchify: x wanted \(...,H,W,C\)"),
        (
            lambda: ops["unpatchify"](table, 2, 2, 2),
            ValueError,
            "unpatchify: x wanted 1 patches of a multiple of 4",
        ),
        (lambda: ops["unpatchify"](table, 2, 3, 2), ValueError, "unpatchify: 2 x 3 pixels"),
    ):
        with pytest.raises(kind, match=words):
            call()
