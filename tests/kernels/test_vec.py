"""The functions of cpu/vec.h in every table: errors against float64 in units in the last place, and the corners."""

import ctypes as c
import math

import numpy as np
import pytest
from worldmodel import _core

N = 200_000
ULP = {
    "exp": 1.5,
    "expm1": 2.5,
    "log": 1.5,
    "log1p": 2.5,
    "tanh": 2.0,
    "sigmoid": 2.5,
    "erf": 2.5,
    "sin": 1.5,
    "cos": 1.5,
    "sqrt": 0.5,
}
EXACT = {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "erf": np.vectorize(math.erf)}
RANGES = {
    "exp": (-87, 88),
    "expm1": (-20, 88),
    "log": None,
    "log1p": (-0.99, 1e4),
    "tanh": (-12, 12),
    "sigmoid": (-80, 80),
    "erf": (-5, 5),
    "sin": (-200, 200),
    "cos": (-200, 200),
    "sqrt": None,
}
INF, NAN = math.inf, math.nan
CORNERS = {
    "exp": {INF: INF, -INF: 0, 0: 1, 100: INF, -120: 0},
    "log": {0: -INF, INF: INF, 1: 0, -1: NAN},
    "tanh": {INF: 1, -INF: -1, 50: 1, 0: 0},
    "sigmoid": {INF: 1, -INF: 0},
    "erf": {INF: 1, -INF: -1, 0: 0},
    "sin": {0: 0, INF: NAN},
    "cos": {0: 1, -INF: NAN},
    "sqrt": {INF: INF, -1: NAN},
    "expm1": {-INF: -1, INF: INF},
    "log1p": {-1: -INF, INF: INF},
    "softplus": {INF: INF, -INF: 0},
    "silu": {},
    "gelu_tanh": {},
    "gelu_erf": {},
}


def kernel(table, name):
    f = c.CFUNCTYPE(None, c.c_void_p, c.c_void_p, c.c_float, c.c_float, c.c_int64)(
        _core.kernel_address(table, name + "_forward")
    )

    def call(x):
        x = np.ascontiguousarray(x, np.float32)
        out = np.empty_like(x)
        f(out.ctypes.data, x.ctypes.data, 0, 0, x.size)
        return out

    return call


def samples(name):
    """Half evenly spread, half over all exponents, so that small numbers are seen."""
    rng = np.random.default_rng(0)
    if RANGES[name] is None:
        return np.exp(rng.uniform(-80, 80, N)).astype(np.float32)
    low, high = RANGES[name]
    small = np.exp(rng.uniform(-60, math.log(min(high, -low if low < 0 else high)), N // 2)) * rng.choice(
        [-1, 1], N // 2
    )
    return np.concatenate([rng.uniform(low, high, N // 2), small]).astype(np.float32)


@pytest.mark.parametrize("name", ULP)
def test_errors_in_units_of_the_last_place(kernels, name):
    x = samples(name)
    want = EXACT.get(name, getattr(np, name, None))(x.astype(np.float64))
    got = kernel(kernels, name)(x).astype(np.float64)
    # near the zeros of sin and cos an error is measured against numbers of size 2^-10 of the largest
    unit = np.spacing(np.maximum(np.abs(want), 2.0**-10 if name in ("sin", "cos") else 0).astype(np.float32)).astype(
        np.float64
    )
    error = np.abs(got - want) / unit
    worst = error.argmax()
    assert error[worst] <= ULP[name], f"{name}({x[worst]!r}) is off by {error[worst]:.2f} ulp"


@pytest.mark.parametrize("lane", [0, 1, 7, 16])
def test_corners(kernels, lane):
    """Infinities, NaN, zeros and what lies past the range, in the whole vectors and in the rest behind them."""

    def at(name, value):
        x = np.full(17, 0.5, np.float32)
        x[lane] = value
        return float(kernel(kernels, name)(x)[lane])

    for name, values in CORNERS.items():
        for value, want in values.items():
            got = at(name, value)
            assert got == want or (math.isnan(want) and math.isnan(got)), f"{name}({value}) is {got}, wanted {want}"
        assert math.isnan(at(name, NAN)), name


def test_large_angles_go_to_the_c_library(kernels):
    x = np.array([1e4, 1e5, 3e7, -2e9], np.float32)
    np.testing.assert_allclose(kernel(kernels, "sin")(x), np.sin(x.astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(kernel(kernels, "cos")(x), np.cos(x.astype(np.float64)), atol=1e-6)
