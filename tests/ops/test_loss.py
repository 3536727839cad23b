import numpy as np
import pytest
from harness import check_op
from reference import loss as ref
from worldmodel import _core

ops = _core.ops


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(x, needs_grad=False):
    return _core.Tensor(np.asarray(x, order="C"), needs_grad=needs_grad)


# shape of pred, shape of weight (None: no weight), reduction, axes kept
CELLS = [
    ((), None, "mean", 0), ((7,), None, "mean", 0), ((3, 5), (3, 5), "sum", 0), ((3, 5), (3,), "mean", 0),
    ((3, 5), (), "mean", 1), ((3, 5), (3, 1), "mean", 2), ((2, 3, 17), (2, 3), "mean", 1),
    ((2, 3, 17), (2,), "sum", 2), ((4, 2, 600), (4, 2), "mean", 1), ((4, 2, 600), (4, 2, 600), "sum", 0),
    ((2, 3, 4, 4, 3), (2, 3, 1, 1, 1), "mean", 2), ((5, 20_000), (5,), "mean", 0),
]  # fmt: skip


def weight_of(shape):
    return (
        None if shape is None else np.random.default_rng(9).random(shape).astype(np.float32) + np.float32(0.5)
    )


@pytest.mark.parametrize("shape,w,reduction,keep", CELLS, ids=str)
def test_mse(kernels, shape, w, reduction, keep):
    check_op(
        "mse",
        [numbers(shape), numbers(shape, 1), weight_of(w)],
        lambda p, t, w: ref.reduce((p - t) ** 2, w, reduction, keep),
        grads=[0, 1],
        tolerance=4e-7,
        reduction=reduction,
        keep=keep,
    )


DELTAS = [(*cell, delta) for cell in CELLS for delta in (0.3, 1.0, 50.0) if delta == 1.0 or len(cell[0]) <= 2]


@pytest.mark.parametrize("shape,w,reduction,keep,delta", DELTAS, ids=str)
def test_huber_and_smooth_l1(kernels, shape, w, reduction, keep, delta):
    arrays = [numbers(shape) * 2, numbers(shape, 1), weight_of(w)]
    attrs = {"grads": [0, 1], "reduction": reduction, "keep": keep}
    check_op(
        "huber",
        arrays,
        lambda p, t, w: ref.reduce(ref.huber(p - t, delta), w, reduction, keep),
        delta=delta,
        **attrs,
    )
    check_op(
        "smooth_l1",
        arrays,
        lambda p, t, w: ref.reduce(ref.huber(p - t, delta) / delta, w, reduction, keep),
        beta=delta,
        **attrs,
    )


@pytest.mark.parametrize("shape,w,reduction,keep", CELLS, ids=str)
def test_binary_cross_entropy(kernels, shape, w, reduction, keep):
    target = np.random.default_rng(2).random(shape).astype(np.float32)
    check_op(
        "binary_cross_entropy_with_logits",
        [numbers(shape) * 4, target, weight_of(w)],
        lambda x, t, w: ref.reduce(ref.bce(x, t), w, reduction, keep),
        grads=[0],
        reduction=reduction,
        keep=keep,
    )


def test_binary_cross_entropy_stays_finite(kernels):
    x = tensor(np.array([1e4, -1e4, 200, 0], np.float32), True)
    with _core.Tape() as tape:
        out = ops["binary_cross_entropy_with_logits"](x, tensor(np.array([1, 0, 0, 1], np.float32)), keep=1)
    tape.backward(out, tensor(np.ones(4, np.float32)))
    assert np.allclose(out.numpy(), [0, 0, 200, np.log(2)]) and np.allclose(x.grad, [0, 0, 1, -0.5])


def test_one_sample_alone_has_the_bits_of_the_batch(kernels):
    arrays = [numbers((3, 4, 700)), numbers((3, 4, 700), 1), weight_of((3, 4))]
    check_op(
        "mse",
        arrays,
        lambda p, t, w: ref.reduce((p - t) ** 2, w, "mean", 1),
        keep=1,
        batched=[0, 1, 2],
        grads=[0],
    )
    check_op(
        "cosine_loss",
        arrays,
        lambda p, t, w: ref.reduce(ref.cosine(p, t), w, "sum", 1),
        keep=1,
        reduction="sum",
        batched=[0, 1, 2],
        grads=[0],
    )


ROW_CELLS = [
    ((1,), None, "mean", 0), ((5,), None, "sum", 0), ((4, 3), (4,), "mean", 0), ((4, 17), None, "mean", 1),
    ((2, 3, 33), (2,), "mean", 1), ((2, 3, 255), (2, 3), "sum", 2), ((2, 9, 100), (2, 1), "mean", 0),
]  # fmt: skip


@pytest.mark.parametrize("shape,w,reduction,keep", ROW_CELLS, ids=str)
def test_cosine_loss(kernels, shape, w, reduction, keep):
    x, y = numbers(shape), numbers(shape, 1)
    check_op(
        "cosine_loss",
        [x, y, weight_of(w)],
        lambda x, y, w: ref.reduce(ref.cosine(x, y), w, reduction, keep),
        grads=[0, 1] if shape[-1] > 1 else [],
        reduction=reduction,
        keep=keep,
    )


def test_cosine_loss_of_nothing_has_no_nan(kernels):
    x, y = tensor(np.zeros((2, 3), np.float32), True), tensor(numbers((2, 3)), True)
    with _core.Tape() as tape:
        out = ops["cosine_loss"](x, y)
    tape.backward(out)
    assert out.numpy() == 1 and np.isfinite(x.grad).all() and (y.grad == 0).all()


def test_what_gets_no_gradient_is_refused_not_forgotten():
    x, g = tensor(numbers((2, 3)), True), tensor(numbers((2, 3)), True)
    with _core.Tape():
        with pytest.raises(ValueError, match="mse: weight gets no gradient; pass stop_gradient of it"):
            ops["mse"](x, x, g)
        with pytest.raises(ValueError, match="target gets no gradient here"):
            ops["binary_cross_entropy_with_logits"](x, g)
        ops["binary_cross_entropy_with_logits"](x, ops["stop_gradient"](g), ops["stop_gradient"](g))
    ops["mse"](x, x, g)  # nothing is recorded, nothing is forgotten


def test_wrong_calls_say_what_was_wanted():
    x, y = tensor(numbers((2, 3))), tensor(numbers((3, 2)))
    for call, kind, words in (
        (
            lambda: ops["mse"](x, y),
            ValueError,
            r"mse: target wanted the shape of pred, \(2, 3\), got \(3, 2\)",
        ),
        (
            lambda: ops["mse"](x, x, tensor(numbers(3))),
            ValueError,
            r"mse: weight wanted the leading axes of \(2, 3\)",
        ),
        (
            lambda: ops["mse"](x, x, tensor(numbers((1, 3)))),
            ValueError,
            "mse: weight wanted the leading axes",
        ),
        (lambda: ops["mse"](x, x, keep=3), ValueError, "mse: keep wanted 0 to 2 leading axes, got 3"),
        (
            lambda: ops["mse"](x, x, reduction="none"),
            ValueError,
            r"reduction must be one of mean\|sum, not 'none'",
        ),
        (lambda: ops["huber"](x, x, delta=0), ValueError, "huber: delta wanted a positive number, got 0"),
        (
            lambda: ops["smooth_l1"](x, x, beta=-1),
            ValueError,
            "smooth_l1: beta wanted a positive number, got -1",
        ),
        (
            lambda: ops["binary_cross_entropy_with_logits"](x, y),
            ValueError,
            "target wanted the shape of logits",
        ),
        (lambda: ops["cosine_loss"](x, x, tensor(numbers((2, 3)))), ValueError, "at most 1 of them"),
        (
            lambda: ops["cosine_loss"](tensor(np.float32(1)), tensor(np.float32(1))),
            ValueError,
            "cosine_loss: too few axes",
        ),
    ):
        with pytest.raises(kind, match=words):
            call()
