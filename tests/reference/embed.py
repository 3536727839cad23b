"""Embeddings in float64."""

import numpy as np


def sinusoidal(t, dim, max_period=10000.0, scale=1.0, order="cos_sin"):
    half = dim // 2
    angle = t[..., None] * scale * max_period ** (-np.arange(half) / half)
    parts = [np.cos(angle), np.sin(angle)]
    out = np.concatenate(parts if order == "cos_sin" else parts[::-1], -1)
    return np.concatenate([out, np.zeros((*t.shape, dim % 2))], -1)


def fourier(t, weight):
    angle = 2 * np.pi * t[..., None] * weight
    return np.concatenate([np.cos(angle), np.sin(angle)], -1)


def axial_positions(height, width, dim, max_period=10000.0):
    row, column = np.divmod(np.arange(height * width), width)
    parts = [sinusoidal(p.astype(float), dim // 2, max_period, order="sin_cos") for p in (row, column)]
    return np.concatenate(parts, -1)


def patchify(x, p):
    *lead, h, w, c = x.shape
    x = x.reshape(-1, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(*lead, (h // p) * (w // p), p * p * c)


def unpatchify(x, height, width, p):
    *lead, _, k = x.shape
    x = x.reshape(-1, height // p, width // p, p, p, k // (p * p)).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(*lead, height, width, k // (p * p))
