import numpy as np
import pytest
from harness import check_op
from reference import reduce as ref
from worldmodel import _core

ops = _core.ops


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(x, needs_grad=False):
    return _core.Tensor(np.asarray(x, order="C"), needs_grad=needs_grad)


CASES = [
    ((), ()), ((1,), (0,)), ((7,), ()), ((3, 67), (1,)), ((3, 67), (-1,)), ((67, 3), (0,)),
    ((5, 19, 33), (1,)), ((5, 19, 33), (0, 1)), ((5, 19, 33), (0, 2)), ((5, 19, 33), ()),
    ((2, 3, 4, 5), (0, 2)), ((2, 3, 4, 5), (1, 3)), ((2, 1, 4, 1, 5, 3), (0, 1, 4)), ((4, 1, 3), (1,)),
    ((2, 300, 257), (1,)), ((2, 3, 300), (0, 2)),
]  # fmt: skip


@pytest.mark.parametrize("name", ["sum", "mean", "var", "max", "min"])
@pytest.mark.parametrize("shape,axes", CASES, ids=str)
def test_reductions(kernels, name, shape, axes):
    x = numbers(shape)
    if name in ("max", "min"):  # no two numbers so close that a finite difference swaps them
        x = (np.argsort(x.ravel()).astype(np.float32) / 1024).reshape(shape)
    for keepdims in (False, True):
        check_op(
            name,
            [x],
            lambda x, k=keepdims: getattr(np, name)(x, axis=axes or None, keepdims=k),
            axes=axes,
            keepdims=keepdims,
        )


@pytest.mark.parametrize("name", ["sum", "mean", "var", "max"])
def test_one_sample_alone_has_the_bits_of_the_batch(kernels, name):
    check_op(
        name, [numbers((3, 9, 300))], lambda x: getattr(np, name)(x, axis=(1, 2)), axes=(1, 2), batched=[0]
    )
    check_op(name, [numbers((3, 300, 9))], lambda x: getattr(np, name)(x, axis=1), axes=1, batched=[0])
    check_op(
        name, [numbers((2, 5, 40, 6))], lambda x: getattr(np, name)(x, axis=(1, 3)), axes=(1, 3), batched=[0]
    )


@pytest.mark.parametrize(
    "shape,axes",
    [((50_001,), (0,)), ((2, 40_000), (1,)), ((40_000, 2), (0,)), ((3, 20_000, 5), (1,))],
    ids=str,
)
def test_long_sums_are_as_good_as_pairwise(kernels, shape, axes):
    """Numbers of one sign far from 0: NumPy's float32 sum along the same axis is the yardstick."""
    x = np.random.default_rng(0).random(shape, np.float32) + 10
    want = x.sum(axis=axes, dtype=np.float64)
    got = check_op("sum", [x], lambda x: x.sum(axis=axes), axes=axes, tolerance=3e-7)[0]
    flat = np.moveaxis(x, axes[0], -1).copy()
    numpy_error = np.abs(flat.sum(-1) - want).max()
    assert np.abs(got - want).max() <= max(1.5 * numpy_error, np.abs(want).max() * 1.2e-7)


def test_var_far_from_zero(kernels):
    """Two passes: an offset of 1,000 costs the offset's rounding, nothing more."""
    x = numbers((3, 5000)) + np.float32(1000)
    check_op("var", [x], lambda x: x.var(-1, ddof=1), axes=-1, correction=1, tolerance=1e-6)


def test_extremes_give_the_gradient_to_the_first(kernels):
    x = tensor(np.array([[1, 5, 5, 2], [7, 7, 7, 7]], np.float32), True)
    with _core.Tape() as tape:
        out = ops["max"](x, axes=1)
    tape.backward(out, tensor(np.array([2, 3], np.float32)))
    assert x.grad.tolist() == [[0, 2, 0, 0], [3, 0, 0, 0]]


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 64, 99])
def test_argmax_takes_the_first(kernels, n):
    rng = np.random.default_rng(n)
    for shape, axis in (((5, n), -1), ((n, 5), 0), ((3, n, 21), 1)):
        x = rng.integers(0, 4, shape).astype(np.float32)
        for smallest in (False, True):
            out = ops["argmax"](tensor(x), axis=axis, smallest=smallest)
            assert out.dtype == "int32"
            assert np.array_equal(out.numpy(), (np.argmin if smallest else np.argmax)(x, axis))
        x[rng.random(shape) < 0.1] = np.nan
        x[rng.random(shape) < 0.1] = -np.inf
        assert np.array_equal(ops["argmax"](tensor(x), axis=axis).numpy(), np.argmax(x, axis))
        assert np.array_equal(ops["max"](tensor(x), axes=axis).numpy(), np.max(x, axis), equal_nan=True)
        assert np.array_equal(ops["min"](tensor(x), axes=axis).numpy(), np.min(x, axis), equal_nan=True)


@pytest.mark.parametrize("shape,axis", [((9,), 0), ((3, 50), -1), ((50, 3), 0), ((2, 13, 70), 1)], ids=str)
def test_cumsum(kernels, shape, axis):
    check_op("cumsum", [numbers(shape)], lambda x: x.cumsum(axis), axis=axis)


@pytest.mark.parametrize(
    "shape,axis", [((9,), 0), ((3, 50), -1), ((50, 3), 0), ((2, 13, 70), 1), ((5, 1), 1)], ids=str
)
def test_reverse_scan(kernels, shape, axis):
    last = numbers(shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :], 3)
    a, b = numbers(shape, 1), np.random.default_rng(2).random(shape, np.float32)
    check_op("reverse_scan", [a, b, last], lambda a, b, last: ref.reverse_scan(a, b, last, axis), axis=axis)
    check_op("reverse_scan", [a, b, None], lambda a, b, last: ref.reverse_scan(a, b, None, axis), axis=axis)


def test_reverse_scan_makes_lambda_returns(kernels):
    """Against the sum over n-step returns, where an off-by-one bootstrap would show."""
    rng = np.random.default_rng(0)
    gamma, lam, T = 0.97, 0.9, 12
    r, v = rng.standard_normal((2, 4, T))
    c = (rng.random((4, T)) > 0.2).astype(np.float64)
    want = np.stack([ref.lambda_returns(r[i], c[i], v[i], gamma, lam) for i in range(4)])
    a, b = r + gamma * c * (1 - lam) * v, gamma * c * lam
    got = ops["reverse_scan"](*(tensor(t.astype(np.float32)) for t in (a, b, v[:, -1])))
    assert np.abs(got.numpy() - want).max() < 2e-6


ROWS = [(1,), (3, 1), (4, 2), (3, 15), (2, 16), (5, 17), (2, 3, 100), (3, 1000)]


@pytest.mark.parametrize("shape", ROWS, ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "categorical_entropy"])
def test_rows(kernels, name, shape):
    batched = [0] if len(shape) > 1 else []
    check_op(name, [numbers(shape) * 3], getattr(ref, name), batched=batched, grad_tolerance=3e-5)
    check_op(name, [numbers(shape) + 500], getattr(ref, name), tolerance=1e-5, grad_tolerance=2e-4)


@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_categorical_log_prob(kernels, shape):
    index = np.random.default_rng(1).integers(0, shape[-1], shape[:-1]).astype(np.int32)
    check_op("categorical_log_prob", [numbers(shape) * 3, index], ref.categorical_log_prob, grads=[0],
             batched=[0, 1] if len(shape) > 1 else [])  # fmt: skip


def test_hidden_choices_have_probability_zero(kernels):
    """-inf hides a choice: probability exactly 0, no NaN in value or gradient; a row of -inf is all zeros."""
    x = numbers((3, 21)) * 2
    x[0, 3::4] = -np.inf
    x[1, 1:] = -np.inf
    x[2] = -np.inf
    for name in ("softmax", "logsumexp", "categorical_entropy"):
        t = tensor(x, True)
        with _core.Tape() as tape:
            out = ops[name](t)
        tape.backward(out, tensor(np.ones(out.shape, np.float32)))
        want = getattr(ref, name)(x.astype(np.float64))
        got = out.numpy()
        assert np.allclose(got, want, atol=2e-6), name
        assert np.isfinite(t.grad).all() and (t.grad[~np.isfinite(x)] == 0).all(), name
    assert (ops["softmax"](tensor(x)).numpy()[~np.isfinite(x)] == 0).all()
    assert ops["logsumexp"](tensor(x)).numpy()[2] == -np.inf
    logs = ops["log_softmax"](tensor(x[:2])).numpy()
    assert np.array_equal(np.isneginf(logs), np.isneginf(x[:2])) and not np.isnan(logs).any()
    assert not np.isnan(ops["log_softmax"](tensor(x)).numpy()).any()


def test_nan_is_not_hidden(kernels):
    x = numbers((2, 20))
    x[0, 7] = np.nan
    for name in ("softmax", "log_softmax", "logsumexp", "categorical_entropy"):
        out = ops[name](tensor(x)).numpy()
        assert np.isnan(out[0]).all() and np.isfinite(out[1]).all(), name


def test_wrong_calls_say_what_was_wanted():
    x = tensor(numbers((2, 3)))
    for call, kind, words in (
        (lambda: ops["sum"](x, axes=2), ValueError, r"sum: there is no axis 2 in shape \(2, 3\)"),
        (lambda: ops["mean"](x, axes=(0, -2)), ValueError, "mean: axis 0 is named twice"),
        (lambda: ops["argmax"](x, axis=-3), ValueError, "argmax: there is no axis -3"),
        (
            lambda: ops["var"](x, axes=1, correction=3),
            ValueError,
            "var: correction 3 needs more than 3 numbers",
        ),
        (
            lambda: ops["softmax"](tensor(np.float32(1))),
            ValueError,
            "softmax: a single number has no last axis",
        ),
        (
            lambda: ops["reverse_scan"](x, tensor(numbers((2, 4)))),
            ValueError,
            r"b wanted the shape of a, \(2, 3\), got \(2, 4\)",
        ),
        (lambda: ops["reverse_scan"](x, x, tensor(numbers(3))), ValueError, "without axis 1, got"),
        (
            lambda: ops["categorical_log_prob"](x, tensor(np.array([0, 3], np.int32))),
            IndexError,
            "categorical_log_prob: number 1 of the indices is 3, outside 0..2",
        ),
        (
            lambda: ops["categorical_log_prob"](x, tensor(np.zeros((2, 1), np.int32))),
            ValueError,
            "index wanted the shape",
        ),
    ):
        with pytest.raises(kind, match=words):
            call()
