"""random_spaces: nested Gymnasium spaces of every kind, and equality to the bit."""

import numpy as np
from gymnasium import spaces

DTYPES = [np.dtype(c) for c in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")]
SHAPES = [(), (1,), (2,), (3,), (2, 2), (1, 3), (0,), (2, 0)]


def random_box(rng):
    dtype, shape = DTYPES[rng.integers(len(DTYPES))], SHAPES[rng.integers(len(SHAPES))]
    if dtype.kind == "f":
        ends = np.sort(rng.normal(scale=10.0 ** rng.integers(-3, 4), size=(2, *shape)), axis=0).astype(dtype)
        if rng.random() < 0.3:
            ends = np.sort(np.stack([np.full(shape, -np.finfo(dtype).max), ends[1]]), axis=0).astype(dtype)
        low, high = np.array(ends[0]), np.array(ends[1])
        low = np.where(rng.random(shape) < 0.2, -np.inf, low).astype(dtype)
        high = np.where(rng.random(shape) < 0.2, np.inf, high).astype(dtype)
    elif dtype.kind == "b":
        low, high = np.zeros(shape, bool), np.ones(shape, bool)
    else:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        pair = rng.integers(least, most, (2, *shape), dtype, endpoint=True)
        if rng.random() < 0.4:
            pair[...] = np.array([least, most], dtype).reshape(2, *[1] * len(shape))
        low, high = pair.min(axis=0), pair.max(axis=0)
    return spaces.Box(np.array(low, dtype), np.array(high, dtype), shape, dtype)


def random_discrete(rng):
    n = int(rng.choice([1, 2, 3, 17, 4096, 4097, 2**40]))
    start = int(rng.choice([0, 1, -5, 2**60 + 1, -(2**62)]))
    return spaces.Discrete(n, start=start)


def random_multi_discrete(rng):
    dtype = np.dtype(rng.choice(["i1", "i4", "i8", "u1"]))
    shape = SHAPES[rng.integers(1, 6)]
    start = rng.integers(0 if dtype.kind == "u" else -5, 6, shape).astype(dtype)
    return spaces.MultiDiscrete(rng.integers(1, 8, shape), dtype=dtype, start=start)


def random_space(rng, depth=0):
    """A random space, at most four levels deep."""
    leaf = rng.integers(4) if depth >= 3 else rng.integers(7)
    if leaf == 0:
        return random_box(rng)
    if leaf == 1:
        return random_discrete(rng)
    if leaf == 2:
        return random_multi_discrete(rng)
    if leaf == 3:
        shape = SHAPES[rng.integers(1, 6)]
        return spaces.MultiBinary(shape if rng.random() < 0.7 else int(rng.integers(1, 4)))
    parts = [random_space(rng, depth + 1) for _ in range(rng.integers(1 if leaf == 6 else 0, 4))]
    if leaf == 4:
        keys = rng.permutation(["move", "camera", "a'b", "é", "0"])[: len(parts)].tolist()
        return spaces.Dict(list(zip(keys, parts, strict=True)))
    return spaces.Tuple(parts) if leaf == 5 else spaces.OneOf(parts)


def same(a, b):
    """Equal in structure, types, dtypes and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


def exactly_equal(a, b):
    """Gymnasium compares bounds with a tolerance; here to the bit."""
    if isinstance(a, spaces.Box):
        pairs = [(getattr(a, k), getattr(b, k)) for k in ("low", "high", "bounded_below", "bounded_above")]
        return a == b and all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)
    if isinstance(a, spaces.Dict):
        return list(a) == list(b) and all(exactly_equal(a[k], b[k]) for k in a)
    if isinstance(a, (spaces.Tuple, spaces.OneOf)):
        return type(a) is type(b) and all(map(exactly_equal, a.spaces, b.spaces)) and len(a) == len(b)
    return a == b
