"""norm: float64 references."""

import numpy as np


def normalise(x, eps, axes=-1, rms=False):
    """(x - mean) / sqrt(var + eps) over axes; rms leaves the mean in."""
    centred = x if rms else x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + eps)


def layer_norm(x, weight=None, bias=None, eps=1e-5):
    out = normalise(x, eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def rms_norm(x, weight=None, eps=1e-6):
    out = normalise(x, eps, rms=True)
    return out if weight is None else out * weight


def rows_of(cond, chunk, x):
    """The chunk of a condition (G..., m C), each row repeated for its rows of x (..., C)."""
    C = x.shape[-1]
    rows = cond.reshape(-1, cond.shape[-1])[:, chunk * C : (chunk + 1) * C]
    return rows.repeat(x.size // C // len(rows), axis=0).reshape(x.shape)


def adaln(x, scale, shift=None, scale_chunk=0, shift_chunk=0, kind="layer", eps=1e-6):
    out = normalise(x, eps, rms=kind == "rms") * (1 + rows_of(scale, scale_chunk, x))
    return out if shift is None else out + rows_of(shift, shift_chunk, x)


def gate_residual(residual, x, gate, gate_chunk=0):
    return residual + rows_of(gate, gate_chunk, x) * x


def silu(x, act="silu"):
    return x / (1 + np.exp(-x)) if act == "silu" else x


def group_norm(x, weight=None, bias=None, groups=1, eps=1e-5, act="none"):
    """x (B, ..., C): statistics of each sample and group."""
    B, C = x.shape[0], x.shape[-1]
    out = normalise(x.reshape(B, -1, groups, C // groups), eps, (1, 3)).reshape(x.shape)
    out = out if weight is None else out * weight
    return silu(out if bias is None else out + bias, act)


def ada_group_norm(x, scale, shift=None, groups=1, eps=1e-5, act="none", scale_chunk=0, shift_chunk=0):
    out = group_norm(x, None, None, groups, eps) * (1 + rows_of(scale, scale_chunk, x))
    return silu(out if shift is None else out + rows_of(shift, shift_chunk, x), act)
