"""random: Philox 4x32-10 and what is drawn with it, in NumPy; the convention is in csrc/base/random.h."""

import numpy as np

MASK = np.uint64(0xFFFFFFFF)


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Four words (..., 4) of counters (..., 4) and keys (..., 2)."""
    x = [counter[..., i].astype(np.uint64) for i in range(4)]
    k = [key[..., i].astype(np.uint64) for i in range(2)]
    for _ in range(10):
        p, q = x[0] * np.uint64(0xD2511F53), x[2] * np.uint64(0xCD9E8D57)
        x = [(q >> np.uint64(32)) ^ x[1] ^ k[0], q & MASK, (p >> np.uint64(32)) ^ x[3] ^ k[1], p & MASK]
        k = [(k[0] + np.uint64(0x9E3779B9)) & MASK, (k[1] + np.uint64(0xBB67AE85)) & MASK]
    return np.stack(x, -1)


def bits(stream: np.ndarray, salt: int, n: int) -> np.ndarray:
    """The first n numbers of each row of stream (S, 4), as 32-bit integers: (S, n)."""
    rows = stream.astype(np.int64) & 0xFFFFFFFF
    blocks = (n + 3) // 4
    counter = np.zeros((len(rows), blocks, 4), np.uint64)
    counter[..., 0] = np.arange(blocks)
    counter[..., 1] = salt
    counter[..., 2] = rows[:, None, 2]
    counter[..., 3] = rows[:, None, 3]
    key = np.broadcast_to(rows[:, None, :2], (len(rows), blocks, 2))
    return philox(counter, key).reshape(len(rows), -1)[:, :n]


def uniform(stream: np.ndarray, salt: int, n: int) -> np.ndarray:
    """In [0, 1): (S, n)."""
    return (bits(stream, salt, n) >> np.uint64(8)).astype(np.float64) / 2**24


def normal(stream: np.ndarray, salt: int, n: int) -> np.ndarray:
    """N(0, 1) by Box and Muller from pairs of words: (S, n)."""
    words = bits(stream, salt, (n + 3) // 4 * 4).reshape(len(stream), -1, 2)
    a, b = words[..., 0], words[..., 1]
    radius = np.sqrt(-2 * np.log(((a >> np.uint64(8)).astype(np.float64) + 1) / 2**24))
    fine = ((b << np.uint64(2)) & MASK).astype(np.uint32).view(np.int32).astype(np.float64)
    angle = (b >> np.uint64(30)).astype(np.float64) * np.pi / 2 + fine * np.pi / 4 / 2**31
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(len(stream), -1)[:, :n]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def inverse_cdf(p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """First class whose running sum passes u: p (..., C), u (...)."""
    total = np.cumsum(p, -1)
    return (total <= u[..., None] * total[..., -1:]).sum(-1)
