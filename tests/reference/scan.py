"""scan: LSTM and GRU over time, (B, T, ...), one step after the other."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _start(state, B, H):
    return np.zeros((B, H)) if state is None else state


def lstm(x, weight, bias, h, c, reset):
    """x (B, T, 4H), gates i f g o -> out (B, T, H), h, c (B, H)."""
    B, T, H = x.shape[0], x.shape[1], weight.shape[1]
    h, c, outs = _start(h, B, H), _start(c, B, H), []
    for t in range(T):
        if reset is not None:
            alive = (reset[:, t] == 0)[:, None]
            h, c = h * alive, c * alive
        i, f, g, o = np.split(x[:, t] + h @ weight.T + (0 if bias is None else bias), 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outs.append(h)
    return np.stack(outs, 1), h, c


def gru(x, weight, bias, h, reset):
    """x (B, T, 3H), gates r z n -> out (B, T, H), h (B, H)."""
    B, T, H = x.shape[0], x.shape[1], weight.shape[1]
    h, outs = _start(h, B, H), []
    for t in range(T):
        if reset is not None:
            h = h * (reset[:, t] == 0)[:, None]
        u = h @ weight.T + (0 if bias is None else bias)
        (xr, xz, xn), (ur, uz, un) = (np.split(a, 3, -1) for a in (x[:, t], u))
        r, z = sigmoid(xr + ur), sigmoid(xz + uz)
        h = (1 - z) * np.tanh(xn + r * un) + z * h
        outs.append(h)
    return np.stack(outs, 1), h
