import numpy as np
import pytest
from harness import check_op
from reference.pointwise import BINARY, COMPARE, UNARY
from worldmodel import _core

ops = _core.ops


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(x, needs_grad=False):
    return _core.Tensor(np.asarray(x, order="C"), needs_grad=needs_grad)


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("n", [1, 17, 67])
def test_unary(kernels, name, n):
    draw, attrs, reference = UNARY[name]
    x = draw(np.random.default_rng(n), (3, n)).astype(np.float32)
    check_op(name, [x], reference, batched=[0], **attrs)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, -1.0, -2.5])
def test_pow_takes_any_exponent(kernels, exponent):
    x = np.exp(numbers((4, 33)))
    check_op("pow", [x], lambda x: x**exponent, exponent=exponent)


def test_power_zero_has_no_slope_anywhere(kernels):
    x = tensor(np.array([0.0, -1.0, 2.0], np.float32), True)
    with _core.Tape() as tape:
        out = ops["pow"](x, 0.0)
    tape.backward(out, tensor(np.ones(3, np.float32)))
    assert out.numpy().tolist() == [1, 1, 1] and x.grad.tolist() == [0, 0, 0]


def test_gelu_chooses_its_form(kernels):
    x = numbers((5, 31)) * 3
    for form in ("tanh", "erf"):
        check_op("gelu", [x], UNARY["gelu_" + form][2], form=form)


def test_large_arrays_are_shared_between_threads(kernels):
    x = numbers((3, 40_001))
    check_op("silu", [x], UNARY["silu"][2], batched=[0])
    check_op("mul", [x, x[:1]], np.multiply, grad_tolerance=5e-5)


@pytest.mark.parametrize(
    "name",
    [
        "silu",
        "tanh",
        "sigmoid",
        "softplus",
        "gelu_tanh",
        "gelu_erf",
        "symlog",
        "erf",
        "exp",
        "mish",
        "log_sigmoid",
        "elu",
        "expm1",
        "relu",
        "clamp",
        "maximum",
        "sqrt",
        "sin",
    ],
)
def test_nan_stays_nan(kernels, name):
    x = np.zeros(37, np.float32)
    x[::5] = np.nan
    arrays = [x, np.ones_like(x)] if name == "maximum" else [x]
    out = np.array(ops[name](*map(tensor, arrays)).numpy())
    assert np.array_equal(np.isnan(out), np.isnan(x))


@pytest.mark.parametrize(
    "name,at_minus_inf,at_inf",
    [
        ("exp", 0, np.inf),
        ("sigmoid", 0, 1),
        ("tanh", -1, 1),
        ("softplus", 0, np.inf),
        ("log_sigmoid", -np.inf, 0),
        ("relu", 0, np.inf),
        ("symlog", -np.inf, np.inf),
        ("symexp", -np.inf, np.inf),
        ("erf", -1, 1),
        ("expm1", -1, np.inf),
    ],
)
def test_infinity_reaches_the_limit(kernels, name, at_minus_inf, at_inf):
    out = ops[name](tensor(np.array([-np.inf, np.inf], np.float32))).numpy()
    assert out.tolist() == [at_minus_inf, at_inf]


def test_sine_of_large_numbers(kernels):
    x = np.array([8191.9, 8192.1, -1e5, 3e7, 1e9, -0.0], np.float32)
    assert np.abs(ops["sin"](tensor(x)).numpy() - np.sin(x.astype(np.float64))).max() < 2e-7
    assert np.abs(ops["cos"](tensor(x)).numpy() - np.cos(x.astype(np.float64))).max() < 2e-7


def test_symexp_undoes_symlog(kernels):
    x = np.concatenate([numbers(1000) * s for s in (1e-6, 1e-2, 1, 100, 1e5)]).astype(np.float32)
    back = ops["symexp"](ops["symlog"](tensor(x))).numpy()
    assert np.abs(back / x - 1).max() < 3e-6


SHAPES = [
    ((3, 5), (3, 5)),
    ((), ()),
    ((7, 33), ()),
    ((1,), (4, 19)),
    ((6, 21), (21,)),
    ((6, 21), (6, 1)),
    ((5, 1, 18), (7, 1)),
    ((2, 3, 4), (2, 1, 4)),
    ((2, 1, 3, 1, 5, 1), (1, 4, 1, 2, 1, 3)),
    ((3, 1), (1, 3)),
    ((1, 1), (1,)),
    ((4, 1, 9), (1, 1, 9)),
    ((600, 3), (3,)),
    ((2, 70, 20), (2, 1, 20)),
]


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("a,b", SHAPES, ids=str)
def test_binary_broadcasts(kernels, name, a, b):
    x, y = numbers(a, 1), numbers(b, 2)
    y = y + np.where(y < 0, -0.5, 0.5).astype(np.float32)
    if name in ("maximum", "minimum"):
        y = y + np.float32(1e-3)
    check_op(name, [x, y], BINARY[name], tolerance=2e-6)
    check_op(name, [y, np.where(x < 0, x - 0.5, x + 0.5).astype(np.float32)], BINARY[name])


def test_equal_numbers_share_the_gradient(kernels):
    a, b = tensor(np.ones(3, np.float32), True), tensor(np.ones(3, np.float32), True)
    with _core.Tape() as tape:
        out = ops["maximum"](a, b)
    tape.backward(out, tensor(np.full(3, 4, np.float32)))
    assert a.grad.tolist() == b.grad.tolist() == [2, 2, 2]


def test_one_tensor_twice_gets_both_gradients(kernels):
    x = tensor(np.array([2.0, 3.0], np.float32), True)
    with _core.Tape() as tape:
        out = ops["mul"](x, x)
    tape.backward(out, tensor(np.ones(2, np.float32)))
    assert x.grad.tolist() == [4, 6]


def test_repeated_rows_sum_their_gradient_accurately(kernels):
    """One bias under 100,000 rows: its gradient is off by about one rounding, not by 100,000."""
    x, b = numbers((100_000, 3)), tensor(np.zeros(3, np.float32), True)
    g = np.abs(numbers((100_000, 3), 1))
    with _core.Tape() as tape:
        out = ops["add"](tensor(x), b)
    tape.backward(out, tensor(g))
    assert np.abs(b.grad / g.astype(np.float64).sum(0) - 1).max() < 3e-7


@pytest.mark.parametrize("name", COMPARE)
def test_comparisons(kernels, name):
    rng = np.random.default_rng(3)
    for a, b in SHAPES:
        x, y = (rng.integers(-2, 3, s).astype(np.float32) for s in (a, b))
        out = ops[name](tensor(x), tensor(y))
        assert out.dtype == "uint8" and not out.needs_grad
        assert np.array_equal(out.numpy(), COMPARE[name](x, y))
    nan = tensor(np.array([np.nan], np.float32))
    assert ops[name](nan, nan).numpy()[0] == (name == "not_equal")


@pytest.mark.parametrize(
    "m,a,b",
    [
        ((3, 5), (3, 5), (3, 5)),
        ((3, 1), (3, 17), ()),
        ((17,), (3, 1), (3, 17)),
        ((), (4,), (2, 1)),
        ((2, 1, 3), (1, 4, 3), (2, 4, 1)),
    ],
    ids=str,
)
def test_where_broadcasts(kernels, m, a, b):
    mask = (np.random.default_rng(0).random(m) < 0.5).astype(np.uint8) * 7
    check_op("where", [mask, numbers(a, 1), numbers(b, 2)], lambda m, a, b: np.where(m != 0, a, b))


def test_where_shields_from_nan(kernels):
    """The branch that is not taken passes neither its value nor a gradient."""
    mask = tensor(np.array([1, 0], np.uint8))
    a, b = tensor(np.array([1, np.nan], np.float32), True), tensor(np.array([np.inf, 2], np.float32), True)
    with _core.Tape() as tape:
        out = ops["where"](mask, a, b)
    tape.backward(out, tensor(np.ones(2, np.float32)))
    assert out.numpy().tolist() == [1, 2] and a.grad.tolist() == [1, 0] and b.grad.tolist() == [0, 1]


def bf16(x):
    """Nearest bfloat16, ties to even, as float32."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return (((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)


def test_cast_rounds_to_nearest_even(kernels):
    x = np.concatenate(
        [numbers(5000), [1.00390625, 1.01171875, -1.00390625, 3.3e38, 1e-40, np.inf, -np.inf, 0, -0.0]]
    ).astype(np.float32)
    half = ops["cast"](tensor(x), "bfloat16")
    assert np.array_equal(ops["cast"](half, "float32").numpy(), bf16(x))
    nan = ops["cast"](ops["cast"](tensor(np.array([np.nan], np.float32)), "bfloat16"), "float32")
    assert np.isnan(nan.numpy()).all()


def test_cast_to_integers_rounds_and_saturates(kernels):
    x = np.array(
        [-3, -0.5, 0.5, 1.5, 2.5, 254.5, 255.5, 1e9, 3e9, -3e9, np.inf, -np.inf, np.nan, 1.4], np.float32
    )
    want = [0, 0, 0, 2, 2, 254, 255, 255, 255, 0, 255, 0, 0, 1]
    assert ops["cast"](tensor(x), "uint8").numpy().tolist() == want
    top = 2**31 - 1
    want = [-3, 0, 0, 2, 2, 254, 256, 10**9, top, -top - 1, top, -top - 1, 0, 1]
    assert ops["cast"](tensor(x), "int32").numpy().tolist() == want


def test_cast_between_integers_is_exact(kernels):
    i = np.array([0, 1, 255, 256, -1, 16_777_217, 2**31 - 1], np.int32)
    assert ops["cast"](tensor(i), "uint8").numpy().tolist() == [0, 1, 255, 255, 0, 255, 255]
    assert ops["cast"](tensor(i), "int32").numpy().tolist() == i.tolist()
    u = np.arange(256, dtype=np.uint8)
    assert ops["cast"](tensor(u), "int32").numpy().tolist() == u.tolist()
    assert ops["cast"](tensor(u), "float32").numpy().tolist() == u.tolist()


def test_cast_passes_gradients_between_floats_only(kernels):
    x = tensor(numbers(70_001), True)
    with _core.Tape() as tape:
        out = ops["cast"](ops["cast"](x, "bfloat16"), "float32")
        assert not ops["cast"](x, "uint8").needs_grad
    g = numbers(70_001, 1)
    tape.backward(out, tensor(g))
    assert np.array_equal(x.grad, g)


def test_stop_gradient_is_a_view_without_gradient(kernels):
    x = tensor(numbers(5), True)
    with _core.Tape() as tape:
        stopped = ops["stop_gradient"](x)
        assert not stopped.needs_grad
        out = ops["mul"](x, stopped)
    tape.backward(out, tensor(np.ones(5, np.float32)))
    assert np.array_equal(x.grad, stopped.numpy())


def test_shapes_that_do_not_meet_are_named():
    with pytest.raises(
        ValueError, match=r"add: shapes \(3, 4\) and \(5,\) do not broadcast: axis -1 has lengths 4 and 5"
    ):
        ops["add"](tensor(np.zeros((3, 4), np.float32)), tensor(np.zeros(5, np.float32)))
    with pytest.raises(ValueError, match="where: shapes"):
        ops["where"](
            tensor(np.zeros(2, np.uint8)), tensor(np.zeros(3, np.float32)), tensor(np.zeros(3, np.float32))
        )
    with pytest.raises(TypeError, match="a must be float32, not uint8"):
        ops["add"](tensor(np.zeros(2, np.uint8)), tensor(np.zeros(2, np.float32)))
