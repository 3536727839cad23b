import numpy as np
import pytest
from harness import check_op, outputs_of, tensor
from reference import linear as reference
from worldmodel import _core

# One, primes, off by one round the tile (4, 8, 16 lanes; 6 and 12 rows), K past one and two blocks of 256.
SIZES = [(1, 1, 1), (1, 64, 32), (3, 7, 5), (6, 31, 33), (13, 257, 65), (12, 300, 64), (25, 16, 127)]
SIZES += [(50, 521, 96)]
SMALL = [(1, 1, 1), (4, 5, 33), (14, 33, 20), (12, 270, 70)]
ACTS = ["none", "gelu", "gelu_erf", "silu"]


def numbers(*shape, seed=0, scale=1.0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def problem(m, k, n):
    return numbers(m, k, seed=1), numbers(n, k, seed=2, scale=k**-0.5), numbers(n, seed=3)


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_linear(kernels, m, k, n):
    check_op("linear", [*problem(m, k, n)], reference.linear, batched=[0])


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("m", "k", "n"), SMALL)
def test_linear_act(kernels, m, k, n, act):
    x, w, b = problem(m, k, n)
    check_op("linear", [x * 2, w, b], lambda *a: reference.linear(*a, act=act), batched=[0], act=act)
    check_op("linear", [x, w, None], lambda *a: reference.linear(*a, act=act), act=act)


@pytest.mark.parametrize("act", ["gelu", "gelu_erf", "silu"])
def test_linear_act_at_the_ends(kernels, act):
    x = np.array([[-1e4], [-30], [-6], [-1e-20], [0], [1e-20], [6], [30], [1e4]], np.float32)
    one = np.ones((1, 1), np.float32)
    (out,) = check_op("linear", [x, one, None], lambda *a: reference.linear(*a, act=act), grads=(), act=act)
    assert out[0] == 0 and out[-1] == 1e4


@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize(("k", "n"), [(5, 33), (33, 16), (270, 70)])
def test_linear_gated(kernels, k, n, groups):
    x, w, b = problem(12, k, n)
    gate, residual = numbers(groups, n, seed=4), numbers(12, n, seed=5)
    check_op("linear_gated", [x, w, b, gate, residual], reference.linear_gated,
             batched=[0, 3, 4] if groups == 12 else ())
    check_op("linear_gated", [x, w, None, gate, residual], reference.linear_gated)


def test_linear_gated_per_frame():
    x, w, b = problem(2 * 3 * 4, 8, 6)
    check_op("linear_gated", [x.reshape(2, 3, 4, 8), w, b, numbers(2, 3, 6), numbers(2, 3, 4, 6)],
             reference.linear_gated, batched=[0, 3, 4])


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_swiglu(kernels, m, k, n):
    x, w, b = numbers(m, k), numbers(2 * n, k, seed=1, scale=k**-0.5), numbers(2 * n, seed=2)
    check_op("swiglu", [x, w, b], reference.swiglu, batched=[0])
    check_op("swiglu", [x, w, None], reference.swiglu)


def test_leading_axes():
    x, w, b = problem(2 * 3 * 5, 8, 6)
    check_op("linear", [x.reshape(2, 3, 5, 8), w, b], reference.linear, batched=[0])
    check_op("linear", [x[0], w, b], reference.linear)


def bf16(w):
    """The nearest bfloat16 numbers, as float32 and as a tensor."""
    (t,) = outputs_of(_core.ops["cast"](tensor(w), to="bfloat16"))
    (wide,) = outputs_of(_core.ops["cast"](t, to="float32"))
    return np.array(wide.numpy()), t


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 33, 65), (14, 300, 64)])
def test_bf16_weights_give_the_bits_of_their_float32_values(kernels, m, k, n):
    x, w, b = problem(m, k, 2 * n)
    wide, narrow = bf16(w)
    gate, residual = numbers(1, 2 * n), numbers(m, 2 * n)
    for op, rest, attrs in [("linear", (b,), {}), ("linear", (b,), {"act": "gelu"}), ("swiglu", (b,), {}),
                            ("linear_gated", (b, gate, residual), {})]:
        results = []
        for weight in (tensor(wide), narrow):
            xt = tensor(x, needs_grad=True)
            with _core.Tape() as tape:
                out = _core.ops[op](xt, weight, *[tensor(r) for r in rest], **attrs)
            tape.backward(out, tensor(np.ones(out.shape, np.float32)))
            results.append((np.array(out.numpy()), np.array(xt.grad)))
        for a, c in zip(*results, strict=True):
            assert np.array_equal(a, c), op


def test_a_changed_weight_is_packed_again(kernels):
    x, w, b = problem(4, 16, 40)
    weight = tensor(w)
    first = np.array(_core.ops["linear"](tensor(x), weight, tensor(b)).numpy())
    if weight.device == "cpu":
        weight.numpy()[...] = 2 * w
    else:
        weight.copy_(2 * w)
    second = np.array(_core.ops["linear"](tensor(x), weight, tensor(b)).numpy())
    assert np.allclose(second - b, 2 * (first - b), rtol=1e-5, atol=1e-6)


def test_one_weight_in_two_layouts(kernels):
    x, w, _ = problem(4, 16, 40)
    weight, want = tensor(w), reference.swiglu(x.astype(float), w.astype(float))
    for _ in range(2):
        assert np.allclose(_core.ops["linear"](tensor(x), weight).numpy(), x @ w.T, atol=1e-5)
        assert np.allclose(_core.ops["swiglu"](tensor(x), weight).numpy(), want, atol=1e-5)


def test_long_sums_stay_accurate(kernels):
    x, w, _ = problem(8192, 24, 40)
    dout = numbers(8192, 40, seed=9)
    weight, bias, xt = tensor(w, True), tensor(np.zeros(40, np.float32), True), tensor(x)
    with _core.Tape() as tape:
        out = _core.ops["linear"](xt, weight, bias)
    tape.backward(out, tensor(dout))
    wants = dout.T.astype(float) @ x.astype(float), dout.astype(float).sum(0)
    for got, want in zip((weight.grad, bias.grad), wants, strict=True):
        assert np.abs(got - want).max() < 2e-6 * np.abs(want).max()


@pytest.mark.parametrize(("op", "args", "words"), [
    ("linear", ((2, 3), (4, 5)), "x wanted 5 features on its last axis, as weight has, got shape (2, 3)"),
    ("linear", ((2, 5), (5,)), "weight wanted shape (out, features), got (5,)"),
    ("linear", ((2, 5), (4, 5), (5,)), "bias wanted shape (4,), got (5,)"),
    ("swiglu", ((2, 5), (3, 5)), "weight wanted shape (2 x out, features), got (3, 5)"),
    ("linear_gated", ((2, 5), (4, 5), None, (3, 4), (2, 4)), "gate wanted shape (groups, 4)"),
    ("linear_gated", ((2, 5), (4, 5), None, (1, 4), (2, 5)), "residual wanted shape (2, 4), got (2, 5)"),
])
def test_wrong_shapes_are_named(op, args, words):
    with pytest.raises(ValueError) as e:
        _core.ops[op](*[None if a is None else tensor(numbers(*a)) for a in args])
    assert str(e.value).startswith(op + ": ") and words in str(e.value)


def rounded(a):
    """Rows of a as whole numbers from -127 to 127, and their scales."""
    top = np.abs(a).max(-1, keepdims=True)
    scale = top / np.float32(127)
    by = np.divide(np.float32(127), top, where=top > 0, out=np.zeros_like(top))
    return np.rint(a * by).astype(np.float64), scale.astype(np.float64)


def int8_product(x, w, b):
    (p, sx), (q, sw) = rounded(x), rounded(w)
    return (p @ q.T) * sx * sw.T + (0 if b is None else b.astype(np.float64))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_linear_int8_is_exact_in_whole_numbers(kernels, m, k, n, act):
    x, w, b = problem(m, k, n)
    x[m // 2] = 0
    want = reference.ACTS[act](int8_product(x, w, b))
    check_op("linear", [x, w, b], lambda *_: want, grads=(), batched=[0], act=act, int8=True)


def check_batch_of(op, arrays, want):
    check_op(op, arrays, lambda *_: want, grads=(), batched=[0] if op == "swiglu" else (), int8=True)


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_gated_and_swiglu_int8(kernels, m, k, n):
    x, w, b = problem(m, k, 2 * n)
    first, second = np.split(int8_product(x, w, b), 2, -1)
    check_batch_of("swiglu", [x, w, b], reference.ACTS["silu"](first) * second)
    gate, residual = numbers(1, 2 * n, seed=4), numbers(m, 2 * n, seed=5)
    check_batch_of("linear_gated", [x, w, b, gate, residual], residual + gate * int8_product(x, w, b))


def test_int8_is_near_and_has_no_gradient(kernels):
    x, w, b = problem(64, 256, 96)
    want = reference.linear(x.astype(float), w.astype(float), b)
    got = _core.ops["linear"](tensor(x), tensor(w), tensor(b), int8=True).numpy()
    assert np.sqrt(((got - want) ** 2).mean() / (want**2).mean()) < 0.015
    with _core.Tape(), pytest.raises(RuntimeError, match="linear: int8 has no gradient"):
        _core.ops["linear"](tensor(x, needs_grad=True), tensor(w), int8=True)


def half(a):
    """Rounded to bfloat16, to nearest even."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32).astype(np.uint64)
    return (((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)


def x_as_multiplied(x):
    """x rounded too, if this table multiplies bfloat16: 1 + 2^-10 says so."""
    probe = np.full((1, 1), 1 + 2.0**-10, np.float32)
    said = _core.ops["linear"](tensor(probe), tensor(np.ones((1, 1), np.float32)), bf16=True).numpy()[0, 0]
    assert said in (probe[0, 0], 1.0)
    return half(x) if said == 1.0 else x


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("m", "k", "n"), [*SIZES, (5, 1030, 40)])
def test_linear_bf16_is_a_product_of_rounded_numbers(kernels, m, k, n, act):
    x, w, b = problem(m, k, n)
    arrays = [a.astype(np.float64) for a in (x_as_multiplied(x), half(w), b)]
    want = reference.linear(*arrays, act=act)
    check_op("linear", [x, w, b], lambda *_: want, grads=(), batched=[0], act=act, bf16=True)


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_gated_and_swiglu_bf16(kernels, m, k, n):
    x, w, b = problem(m, k, 2 * n)
    rounded = [a.astype(np.float64) for a in (x_as_multiplied(x), half(w), b)]
    want = reference.swiglu(*rounded)
    check_op("swiglu", [x, w, b], lambda *_: want, grads=(), batched=[0], bf16=True)
    gate, residual = numbers(1, 2 * n, seed=4), numbers(m, 2 * n, seed=5)
    want = reference.linear_gated(*rounded, gate.astype(np.float64), residual.astype(np.float64))
    check_op("linear_gated", [x, w, b, gate, residual], lambda *_: want, grads=(), bf16=True)


def test_bf16_is_near_keeps_nan_and_has_no_gradient(kernels):
    x, w, b = problem(64, 256, 96)
    want = reference.linear(x.astype(float), w.astype(float), b)
    linear = _core.ops["linear"]
    got = linear(tensor(x), tensor(w), tensor(b), bf16=True).numpy()
    assert np.sqrt(((got - want) ** 2).mean() / (want**2).mean()) < 0.003
    stored = _core.ops["cast"](tensor(w), "bfloat16")
    assert np.array_equal(linear(tensor(x), stored, tensor(b), bf16=True).numpy(), got)
    x[3, 7], w[5, 2] = np.uint32(0x7FFFFFFF).view(np.float32), np.inf
    bad = linear(tensor(x), tensor(w), bf16=True).numpy()
    assert np.isnan(bad[3]).all() and not np.isfinite(bad[:, 5]).any() and np.isfinite(np.delete(bad[4:], 5, 1)).all()
    with _core.Tape(), pytest.raises(RuntimeError, match="linear: bf16 has no gradient"):
        linear(tensor(x, needs_grad=True), tensor(w), bf16=True)
    with pytest.raises(ValueError, match="int8 or bf16, not both"):
        linear(tensor(x), tensor(w), int8=True, bf16=True)
