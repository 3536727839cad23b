"""linear in float64 NumPy: x (..., K), w (N, K), b (N,) or None -> (..., N)."""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[np.float64])
ACTS = {
    "none": lambda v: v,
    "gelu": lambda v: 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))),
    "gelu_erf": lambda v: 0.5 * v * (1 + erf(v / np.sqrt(2))),
    "silu": lambda v: v / (1 + np.exp(-np.maximum(v, -700))),
}


def product(x, w, b=None):
    return x @ w.T + (0 if b is None else b)


def linear(x, w, b=None, act="none"):
    return ACTS[act](product(x, w, b))


def linear_gated(x, w, b, gate, residual):
    """gate (G, N): row g serves rows g R/G ... of the R rows of x."""
    v = product(x, w, b)
    rows = v.reshape(-1, v.shape[-1])
    gates = gate.reshape(-1, v.shape[-1])
    return residual + (np.repeat(gates, len(rows) // len(gates), axis=0) * rows).reshape(v.shape)


def swiglu(x, w, b=None):
    a, c = np.split(product(x, w, b), 2, axis=-1)
    return ACTS["silu"](a) * c
