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


SHAPES = [(1,), (6,), (3, 1), (4, 17), (2, 3, 33), (3000, 6)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["gaussian_log_prob", "tanh_gaussian_log_prob"])
def test_log_prob(kernels, name, shape):
    arrays = [numbers(shape), numbers(shape, 1), numbers(shape, 2) * 0.5]
    check_op(
        name,
        arrays,
        getattr(ref, name),
        batched=[0, 1, 2] if 1 < len(shape) and shape[0] < 9 else [],
        tolerance=4e-6,
        grad_tolerance=5e-5,
    )


def test_tanh_log_prob_agrees_with_the_density_by_change_of_variables(kernels):
    """Where 1 - tanh^2 is far from 0, ln N(x) - ln(1 - tanh(x)^2) is the definition; it integrates to 1."""
    x = np.linspace(-6, 6, 4001)[:, None].astype(np.float32)
    mean, log_std = np.full_like(x, 0.3), np.full_like(x, -0.7)
    log_p = ops["tanh_gaussian_log_prob"](tensor(x), tensor(mean), tensor(log_std)).numpy()
    assert abs(np.trapezoid(np.exp(log_p.astype(np.float64)), np.tanh(x[:, 0].astype(np.float64))) - 1) < 1e-4


def test_tanh_log_prob_stays_finite_far_out(kernels):
    x = tensor(np.array([[50.0, -50.0, 15.0]], np.float32), True)
    mean, log_std = tensor(x.numpy() * 1, True), tensor(np.zeros((1, 3), np.float32), True)
    with _core.Tape() as tape:
        out = ops["tanh_gaussian_log_prob"](x, mean, log_std)
    tape.backward(out)
    want = ref.tanh_gaussian_log_prob(x.numpy().astype(np.float64), mean.numpy(), log_std.numpy())
    assert np.abs(out.numpy() - want).max() < 1e-4 and np.allclose(x.grad, [[2, -2, 2]])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_entropy(kernels, shape):
    check_op("gaussian_entropy", [numbers(shape)], lambda s: (s + 0.5 * np.log(2 * np.pi * np.e)).sum(-1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kl_gaussian(kernels, shape):
    arrays = [numbers(shape), numbers(shape, 1) * 0.5, numbers(shape, 2), numbers(shape, 3) * 0.5]
    check_op(
        "kl_gaussian",
        [*arrays, None],
        lambda a, b, c, d, w: ref.kl_gaussian(a, b, c, d).mean(),
        grads=[0, 1, 2, 3],
        grad_tolerance=5e-5,
    )
    check_op(
        "kl_gaussian",
        [*arrays[:2], None, None, None],
        lambda a, b, c, d, w: ref.reduce(ref.kl_gaussian(a, b), None, "sum", len(shape) - 1),
        grads=[0, 1],
        reduction="sum",
        keep=len(shape) - 1,
    )
    weight = np.abs(numbers(shape[:-1], 4))
    check_op(
        "kl_gaussian",
        [*arrays[:2], arrays[2], None, weight],
        lambda a, b, c, d, w: ref.reduce(ref.kl_gaussian(a, b, c), w),
        grads=[0, 1, 2],
        grad_tolerance=5e-5,
    )


def test_kl_of_equal_gaussians_is_zero(kernels):
    m, s = tensor(numbers((3, 5)), True), tensor(numbers((3, 5), 1), True)
    with _core.Tape() as tape:
        out = ops["kl_gaussian"](m, s, m, s)
    tape.backward(out)
    assert float(out.numpy()) == 0 and (m.grad == 0).all() and (s.grad == 0).all()


def test_wrong_calls_say_what_was_wanted():
    x, y = tensor(numbers((2, 3))), tensor(numbers(3))
    for call, words in (
        (
            lambda: ops["gaussian_log_prob"](x, x, y),
            r"gaussian_log_prob: log_std wanted the shape of x, \(2, 3\), got \(3,\)",
        ),
        (
            lambda: ops["tanh_gaussian_log_prob"](x, y, x),
            "tanh_gaussian_log_prob: mean wanted the shape of x",
        ),
        (lambda: ops["kl_gaussian"](x, x, y), "kl_gaussian: mean_q wanted the shape of mean_p"),
        (
            lambda: ops["gaussian_entropy"](tensor(np.float32(0))),
            "gaussian_entropy: a single number has no last axis",
        ),
        (lambda: ops["kl_gaussian"](x, x, weight=x), "kl_gaussian: weight wanted the leading axes"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
