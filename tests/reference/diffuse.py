"""diffuse: noising, conversions and solver steps, the long way round: estimate x and eps, recombine."""

import numpy as np


def rows(level: np.ndarray, like: np.ndarray) -> np.ndarray:
    """level (B) or (B, T) with axes of length 1 behind, to go with `like`."""
    level = np.asarray(level, np.float64)
    return level.reshape(level.shape + (1,) * (like.ndim - level.ndim))


def parts(kind: str, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(signal, noise) of noisy = signal x + noise eps."""
    if kind == "flow":
        return level, 1 - level
    return (np.ones_like(level), level) if kind == "edm" else (np.sqrt(level), np.sqrt(1 - level))


def edm(sigma: np.ndarray, data: float, offset: float):
    """c_in, c_skip, c_out, c_noise."""
    s = np.sqrt(sigma**2 + offset**2)
    r = np.sqrt(s**2 + data**2)
    return 1 / r, data**2 / r**2, s * data / r, np.log(s) / 4


def estimate(kind, target, pred, y, level, data=0.5, offset=0.0):
    """(x, eps) from what a network says."""
    a, s = parts(kind, level)
    if target == "x":
        x = pred
    elif target == "eps":
        x = (y - s * pred) / a
    elif kind == "flow":
        x = y + (1 - level) * pred
    elif kind == "ddpm":
        x = a * y - s * pred
    else:
        _, skip, out, _ = edm(level, data, offset)
        x = skip * y + out * pred
    return x, (pred if target == "eps" else (y - a * x) / s)


def convert(kind, source, target, pred, y, level, data=0.5, offset=0.0):
    """What pred says, as `target`."""
    if source == target:
        return pred
    x, eps = estimate(kind, source, pred, y, level, data, offset)
    a, s = parts(kind, level)
    if target != "v":
        return x if target == "x" else eps
    if kind == "edm":
        _, skip, out, _ = edm(level, data, offset)
        return (x - skip * y) / out
    return x - eps if kind == "flow" else a * eps - s * x


def settle(x, clip=0.0, to_bytes=False):
    x = np.clip(x, -clip, clip) if clip else x
    return np.trunc((np.clip(x, -1, 1) + 1) / 2 * 255) / 255 * 2 - 1 if to_bytes else x


def euler(kind, target, y, pred, level, new, clip=0.0, to_bytes=False, data=0.5, offset=0.0):
    """Recombine (x, eps) at the next level; a row whose level does not change stays."""
    x, _ = estimate(kind, target, pred, y, level, data, offset)
    x = settle(x, clip, to_bytes)
    (a, s), (b, t) = parts(kind, level), parts(kind, new)
    return np.where(level == new, y, b * x + t * (y - a * x) / s)


def ancestral(kind, target, y, pred, level, new, noise, eta):
    """k-diffusion's ancestral step in y / signal against noise / signal."""
    x, eps = estimate(kind, target, pred, y, level)
    (a, s), (b, t) = parts(kind, level), parts(kind, new)
    here, there = s / a, t / b
    up = np.minimum(there, eta * np.sqrt(there**2 * (here**2 - there**2) / here**2))
    return b * (x + np.sqrt(there**2 - up**2) * eps + up * noise)


def ddim(y, eps, level, new, noise, eta):
    """Song et al., equation 12."""
    x = (y - np.sqrt(1 - level) * eps) / np.sqrt(level)
    up = eta * np.sqrt((1 - new) / (1 - level)) * np.sqrt(1 - level / new)
    return np.sqrt(new) * x + np.sqrt(1 - new - up**2) * eps + up * noise


def dpmpp_2m(kind, target, y, pred, level, new, prev, last):
    """Lu et al., algorithm 2."""
    x, _ = estimate(kind, target, pred, y, level)
    (a, s), (b, t), (c, u) = parts(kind, level), parts(kind, new), parts(kind, last)
    h, before = np.log(b / t) - np.log(a / s), np.log(a / s) - np.log(c / u)
    r = before / h
    guess = (1 + 1 / (2 * r)) * x - 1 / (2 * r) * prev
    return t / s * y - b * np.expm1(-h) * guess, x


def heun(kind, target, y, pred, y2, pred2, level, new):
    """The mean of two slopes; ddpm in y / signal against noise / signal."""
    slope = "v" if kind == "flow" else "eps"
    mean = (convert(kind, target, slope, pred, y, level) + convert(kind, target, slope, pred2, y2, new)) / 2
    if kind != "ddpm":
        return y + (new - level) * mean
    (a, s), (b, t) = parts(kind, level), parts(kind, new)
    return b * (y / a + (t / b - s / a) * mean)


def fused_snr(snr: np.ndarray, target: str, clip: float, g: float) -> np.ndarray:
    """Diffusion Forcing's weights of (T) signal-to-noise ratios."""
    a, b = snr / clip, np.minimum(snr, clip) / clip
    m = [b[0]]
    for x in b[1:]:
        m.append(g * m[-1] + (1 - g) * x)
    shifted = np.array([0.0, *m[:-1]])
    F, R = 1 - (1 - g * shifted) * (1 - b), 1 - (1 - g * shifted) * (1 - a)
    return {"x": F * clip, "eps": F / R, "v": F * clip / (R * clip + 1)}[target]
