"""conv: float64 references, one window at a time."""

import numpy as np


def act(v: np.ndarray, name: str) -> np.ndarray:
    """silu, relu or nothing."""
    return v / (1 + np.exp(-v)) if name == "silu" else np.maximum(v, 0) if name == "relu" else v


def conv2d(x, weight, bias=None, residual=None, stride=1, padding=-1, act_name="none", upsample=1):
    """x (..., H, W, C), weight (O, kh, kw, C) -> (..., OH, OW, O), by the definition."""
    outs, kh, kw, _ = weight.shape
    lead = x.shape[:-3]
    x = x.reshape(-1, *x.shape[-3:]).repeat(upsample, axis=1).repeat(upsample, axis=2)
    top, left = (kh // 2, kw // 2) if padding < 0 else (padding, padding)
    x = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
    OH, OW = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    out = np.zeros((x.shape[0], OH, OW, outs))
    for i in range(kh):
        for j in range(kw):
            seen = x[:, i : i + OH * stride : stride, j : j + OW * stride : stride][:, :OH, :OW]
            out += seen @ weight[:, i, j].T
    if bias is not None:
        out = out + bias
    out = act(out.reshape(*lead, OH, OW, outs), act_name)
    return out if residual is None else out + residual
