"""Pointwise functions in float64, each with numbers on which it is smooth enough for finite differences."""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def anything(rng, shape):
    return rng.standard_normal(shape) * 2


def positive(rng, shape):
    return np.exp(rng.standard_normal(shape))


def away(*points):
    """Numbers at least 0.05 from the points where a slope jumps."""

    def draw(rng, shape):
        x = rng.standard_normal(shape) * 2
        for p in points:
            x = np.where(np.abs(x - p) < 0.05, p + np.where(x < p, -0.1, 0.1), x)
        return x

    return draw


UNARY = {
    "neg": (anything, {}, lambda x: -x),
    "exp": (anything, {}, np.exp),
    "expm1": (anything, {}, np.expm1),
    "log": (positive, {}, np.log),
    "log1p": (positive, {}, np.log1p),
    "sqrt": (positive, {}, np.sqrt),
    "rsqrt": (positive, {}, lambda x: 1 / np.sqrt(x)),
    "reciprocal": (positive, {}, lambda x: 1 / x),
    "square": (anything, {}, np.square),
    "abs": (away(0), {}, np.abs),
    "sign": (away(0), {}, np.sign),
    "sin": (anything, {}, np.sin),
    "cos": (anything, {}, np.cos),
    "erf": (anything, {}, erf),
    "pow": (positive, {"exponent": 1.7}, lambda x: x**1.7),
    "scale_shift": (anything, {"mul": -0.5, "add": 3.0}, lambda x: 3 - 0.5 * x),
    "clamp": (away(-1, 0.5), {"lo": -1.0, "hi": 0.5}, lambda x: np.clip(x, -1, 0.5)),
    "relu": (away(0), {}, lambda x: np.maximum(x, 0)),
    "leaky_relu": (away(0), {"slope": 0.25}, lambda x: np.where(x < 0, 0.25 * x, x)),
    "elu": (away(0), {"alpha": 1.5}, lambda x: np.where(x < 0, 1.5 * np.expm1(np.minimum(x, 0)), x)),
    "sigmoid": (anything, {}, sigmoid),
    "log_sigmoid": (anything, {}, lambda x: -softplus(-x)),
    "tanh": (anything, {}, np.tanh),
    "atanh": (lambda rng, shape: np.tanh(rng.standard_normal(shape)), {}, np.arctanh),
    "softplus": (anything, {}, softplus),
    "silu": (anything, {}, lambda x: x * sigmoid(x)),
    "mish": (anything, {}, lambda x: x * np.tanh(softplus(x))),
    "gelu_tanh": (
        anything,
        {},
        lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    ),
    "gelu_erf": (anything, {}, lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2)))),
    "symlog": (away(0), {}, lambda x: np.sign(x) * np.log1p(np.abs(x))),
    "symexp": (away(0), {}, lambda x: np.sign(x) * np.expm1(np.abs(x))),
}

BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}

COMPARE = {
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
}
