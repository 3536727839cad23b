"""attention: what csrc/ops/attention.c and rotary.c compute, in float64 NumPy, one line a thought."""

import numpy as np


def sees(
    Nq: int, Nk: int, mask: str = "full", window: int = 0, frame: int = 0, length: int | None = None
) -> np.ndarray:
    """(Nq, Nk) bool: may query i look at key j?  The last query stands at the last key."""
    at, j = np.arange(Nq)[:, None] + Nk - Nq, np.arange(Nk)[None]
    seen = np.broadcast_to(j < (Nk if length is None else length), (Nq, Nk)).copy()
    if mask in ("causal", "window"):
        seen &= j <= at
    if mask == "window":
        seen &= j > at - window
    if mask == "frame_causal":
        seen &= j // frame <= at // frame
        if window:
            seen &= j // frame > at // frame - window
    return seen


def heads_of(x: np.ndarray, heads: int) -> np.ndarray:
    """(..., N, heads D) -> (..., heads, N, D)"""
    return np.swapaxes(x.reshape(*x.shape[:-1], heads, -1), -3, -2)


def attention(
    q, k, v, lengths=None, *, heads, kv_heads=0, mask="full", window=0, frame=0, scale=0.0, axis=-2
):
    """softmax(scale q k^T) v, heads as column blocks; hidden keys are cut out, not multiplied by 0."""
    q, k, v = (np.moveaxis(x, axis, -2) for x in (q, k, v))
    lead, kv_heads = q.shape[:-2], kv_heads or heads
    Q, K, V = heads_of(q, heads), heads_of(k, kv_heads), heads_of(v, kv_heads)
    K, V = (np.repeat(x, heads // kv_heads, axis=-3) for x in (K, V))
    scale = scale or Q.shape[-1] ** -0.5
    out = np.zeros_like(Q)
    for index in np.ndindex(*lead):
        length = (
            None
            if lengths is None
            else lengths.reshape(lengths.shape + (1,) * (len(lead) - lengths.ndim))[
                tuple(
                    i if n > 1 else 0
                    for i, n in zip(index, lengths.shape + (1,) * (len(lead) - lengths.ndim), strict=True)
                )
            ]
        )
        seen = sees(Q.shape[-2], K.shape[-2], mask, window, frame, length)
        for i in np.flatnonzero(seen.any(1)):
            s = scale * np.einsum("hd,hjd->hj", Q[index][:, i], K[index][:, seen[i]])
            p = np.exp(s - s.max(-1, keepdims=True))
            out[index][:, i] = np.einsum("hj,hjd->hd", p / p.sum(-1, keepdims=True), V[index][:, seen[i]])
    out = np.swapaxes(out, -3, -2).reshape(q.shape)
    return np.moveaxis(out, -2, axis)


def split(qkv, heads, kv_heads=0):
    """q, k, v of fused rows."""
    kv_heads = kv_heads or heads
    D = qkv.shape[-1] // (heads + 2 * kv_heads)
    return np.split(qkv, [heads * D, (heads + kv_heads) * D], axis=-1)


def rotary_table(position, width, base=10000.0, axes=0, kind="base"):
    """cos and sin (..., width / 2)."""
    p = np.asarray(position, np.float64)
    p = p if axes else p[..., None]
    F = width // 2 // p.shape[-1]
    rate = np.pi * np.linspace(1, base / 2, F) if kind == "pixel" else base ** (-np.arange(F) / F)
    angle = (p[..., None] * rate).reshape(*p.shape[:-1], -1)
    return np.cos(angle), np.sin(angle)


def rotate(x, cos, sin, pairs="half"):
    """Turn the first 2 P columns of x (..., D) by cos, sin (..., P)."""
    P, out = cos.shape[-1], x.copy()
    first, second = (
        (slice(0, P), slice(P, 2 * P)) if pairs == "half" else (slice(0, 2 * P, 2), slice(1, 2 * P, 2))
    )
    a, b = x[..., first], x[..., second]
    out[..., first], out[..., second] = a * cos - b * sin, b * cos + a * sin
    return out


def qk_norm_rotary(x, cos=None, sin=None, scale=None, *, heads, norm="rms", pairs="half", eps=1e-6, axis=-2):
    """rotate(scale (x - mean) / sqrt(var + eps)), head by head."""
    y = x.reshape(*x.shape[:-1], heads, -1)
    if norm == "layer":
        y = y - y.mean(-1, keepdims=True)
    if norm != "none":
        y = y / np.sqrt((y * y).mean(-1, keepdims=True) + eps)
    if scale is not None:
        y = y * scale
    if cos is not None:
        axis = axis % x.ndim
        N, inner = x.shape[axis], int(np.prod(x.shape[axis + 1 : -1]))
        row = np.arange(int(np.prod(x.shape[:-1]))) // inner % (cos.size // cos.shape[-1])
        assert (cos.size // cos.shape[-1]) % N == 0
        c, s = (t.reshape(-1, t.shape[-1])[row].reshape(*x.shape[:-1], 1, -1) for t in (cos, sin))
        y = rotate(y, c, s, pairs)
    return y.reshape(x.shape)


def slot(p: int, sinks: int, ring: int) -> int:
    """Where frame p of a stream lies in a ring with sinks."""
    return p if p < sinks else sinks + (p - sinks) % ring


def cached_order(position: int, sinks: int, ring: int) -> list[int]:
    """The frames that a full cache still holds, sinks first, then oldest to newest."""
    seen = position + 1
    return list(range(seen)) if seen <= sinks + ring else [*range(sinks), *range(seen - ring, seen)]
