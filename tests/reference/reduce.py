"""Reductions and scans in float64, the scans by their recurrence, one step at a time."""

import numpy as np


def reverse_scan(a, b, last, axis=-1):
    a, b = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
    out = np.empty(a.shape, np.float64)
    following = np.zeros(a.shape[1:]) if last is None else last
    for t in reversed(range(len(a))):
        following = out[t] = a[t] + b[t] * following
    return np.moveaxis(out, 0, axis)


def softmax(x):
    top = x.max(-1, keepdims=True)
    e = np.exp(x - np.where(np.isfinite(top), top, 0))
    total = e.sum(-1, keepdims=True)
    return np.divide(e, total, out=np.zeros_like(e), where=total > 0)


def logsumexp(x):
    top = x.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - top).sum(-1)) + top[..., 0]


def log_softmax(x):
    return x - logsumexp(x)[..., None]


def categorical_log_prob(logits, index):
    return np.take_along_axis(log_softmax(logits), index[..., None], -1)[..., 0]


def categorical_entropy(logits):
    p = softmax(logits)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)


def lambda_returns(rewards, continues, values_next, gamma, lam):
    """G_t = r_t + gamma c_t ((1 - lam) v_{t+1} + lam G_{t+1}), by the sum over n-step returns, O(T^2).

    rewards, continues, values_next (T,); values_next[t] is the value of the state after step t.
    """
    T = len(rewards)
    out = np.zeros(T)
    for t in range(T):
        n_step, discount, reward, weight = [], 1.0, 0.0, 1.0
        for k in range(t, T):
            reward += discount * rewards[k]
            discount *= gamma * continues[k]
            n_step.append((reward + discount * values_next[k], k == T - 1))
        for value, final in n_step:
            out[t] += value * (weight if final else weight * (1 - lam))
            weight *= lam
    return out
