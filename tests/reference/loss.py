"""Losses in float64: terms first, then `reduce`."""

import numpy as np
from reference.pointwise import softplus
from reference.reduce import log_softmax, softmax


def reduce(terms, weight=None, reduction="mean", keep=0):
    """weight has leading axes of terms; all axes but the first `keep` are averaged or summed."""
    if weight is not None:
        terms = terms * weight.reshape(weight.shape + (1,) * (terms.ndim - weight.ndim))
    axes = tuple(range(keep, terms.ndim))
    return terms.mean(axis=axes) if reduction == "mean" else terms.sum(axis=axes)


def huber(d, delta):
    a = np.abs(d)
    return np.where(a <= delta, d * d / 2, delta * (a - delta / 2))


def bce(x, t):
    return np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))


def cosine(x, y):
    return 1 - (x * y).sum(-1) / np.maximum(np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1), 1e-8)


def cross_entropy(logits, target, smoothing=0.0):
    n = logits.shape[-1]
    t = np.eye(n)[target] if target.dtype.kind == "i" else target
    t = (1 - smoothing) * t + smoothing / n
    logs = log_softmax(logits)
    return -(t * np.where(t == 0, 0, logs)).sum(-1)


def two_hot(x, bins):
    """Weights by piecewise linear interpolation of each unit vector."""
    return np.stack([np.interp(x, bins, row) for row in np.eye(len(bins))], -1)


def two_hot_mean(logits, bins):
    return (softmax(logits) * bins).sum(-1)


def kl_categorical(p, q, axes=1, free=0.0):
    lp, lq = log_softmax(p), log_softmax(q)
    kl = (np.exp(lp) * (lp - lq)).sum(tuple(range(-axes, 0)))
    return np.maximum(kl, free)


def unimix(logits, mix):
    return np.log((1 - mix) * softmax(logits) + mix / logits.shape[-1])


def gaussian_log_prob(x, mean, log_std):
    z = (x - mean) / np.exp(log_std)
    return (-0.5 * z * z - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)


def tanh_gaussian_log_prob(x, mean, log_std):
    return gaussian_log_prob(x, mean, log_std) - (2 * (np.log(2) - x - softplus(-2 * x))).sum(-1)


def kl_gaussian(mean_p, log_std_p, mean_q=0.0, log_std_q=0.0):
    vp, vq = np.exp(2 * log_std_p), np.exp(2 * log_std_q)
    return (log_std_q - log_std_p + (vp + (mean_p - mean_q) ** 2) / (2 * vq) - 0.5).sum(-1)
