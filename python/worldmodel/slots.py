"""slots: the compiled form of a Gymnasium space: leaves (one array each) and the tree that holds them.

A space is walked once, depth first, Dict keys sorted. Each Box, Discrete, MultiDiscrete, MultiBinary and the
choice of each OneOf is a *leaf*; each number of a leaf is a *slot*. N actions are N-row *columns*, one array
(N, *leaf.shape) a leaf, in the leaf's own dtype, so that nothing is rounded on the way:

    actions --read--> columns --build--> actions        build(read(a)) == a, types and dtypes included

Batches come in two forms and both are read: a list of N actions, or Gymnasium's batched form (dict of arrays,
tuple of arrays, array). `None` in place of an action, or of any part of it, means unknown. A OneOf fills one
branch; the others hold zeros.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

CATEGORIES = 4096  # a Discrete with more values than this is a number, not a set of categories


@dataclass(frozen=True, eq=False)
class Leaf:
    """One array of an action: slots first .. first + size - 1 of the table, elements in C order."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    low: np.ndarray  # smallest and largest legal value, (*shape), in `dtype`
    high: np.ndarray
    n: np.ndarray  # int32 (size,): number of categories, 2 for a binary slot, 0 for a continuous one
    binary: bool
    scalar: bool  # Discrete or the choice of a OneOf: built as a NumPy scalar, not an array
    first: int

    @property
    def size(self) -> int:
        return self.n.size

    @property
    def slots(self) -> slice:
        return slice(self.first, self.first + self.size)

    def element(self, i: int) -> str:
        """Path of the leaf's i-th slot, as a user would write it."""
        index = ", ".join(map(str, np.unravel_index(i, self.shape))) if self.shape else ""
        return f"{self.path}[{index}]" if index else self.path


@dataclass(frozen=True, eq=False)
class Node:
    """A place in the tree. `leaf` is the leaf's number (kind leaf), or that of the choice (kind oneof)."""

    kind: str  # "leaf", "dict", "tuple" or "oneof"
    path: str
    keys: tuple[Any, ...] = ()
    children: tuple[Node, ...] = ()
    leaf: int = -1
    declared: tuple[Any, ...] = ()  # a Dict's keys in the order of the space


@dataclass(frozen=True)
class Branch:
    """Slots first .. last - 1 exist only where slot `choice` holds `value`."""

    choice: int
    value: int
    first: int
    last: int


def compile_space(space: spaces.Space, name: str) -> tuple[Node, list[Leaf], list[Branch]]:
    """Tree, leaves and OneOf branches (outermost first) of a space whose values messages call `name`.

    Raises:
        ValueError: Sequence, Graph, Text, an unknown space class or an unsupported dtype, with its path.
    """
    leaves: list[Leaf] = []
    branches: list[Branch] = []
    return _compile(space, name, leaves, branches), leaves, branches


def _compile(space: spaces.Space, path: str, leaves: list[Leaf], branches: list[Branch]) -> Node:
    if isinstance(space, spaces.Dict):
        declared = tuple(space.spaces)
        keys = tuple(sorted(declared, key=lambda k: (type(k).__name__, k)))
        inner = (_compile(space.spaces[k], f"{path}[{k!r}]", leaves, branches) for k in keys)
        return Node("dict", path, keys, tuple(inner), declared=declared)
    if isinstance(space, spaces.Tuple):
        inner = (_compile(s, f"{path}[{i}]", leaves, branches) for i, s in enumerate(space.spaces))
        return Node("tuple", path, tuple(range(len(space.spaces))), tuple(inner))
    if isinstance(space, spaces.OneOf):
        return _compile_oneof(space, path, leaves, branches)
    leaves.append(_leaf(space, path, _end(leaves)))
    return Node("leaf", path, leaf=len(leaves) - 1)


def _compile_oneof(space: spaces.OneOf, path: str, leaves: list[Leaf], branches: list[Branch]) -> Node:
    count = len(space.spaces)
    choice = len(leaves)
    leaves.append(_whole(f"{path}.choice", np.dtype(np.int64), 0, count - 1, _end(leaves)))
    inner = []
    for i, sub in enumerate(space.spaces):
        first, at = _end(leaves), len(branches)
        inner.append(_compile(sub, f"{path}.option[{i}]", leaves, branches))
        branches.insert(at, Branch(leaves[choice].first, i, first, _end(leaves)))
    return Node("oneof", path, tuple(range(count)), tuple(inner), leaf=choice)


def _end(leaves: list[Leaf]) -> int:
    return leaves[-1].slots.stop if leaves else 0


def _whole(path: str, dtype: np.dtype, low: int, high: int, first: int) -> Leaf:
    n = high - low + 1 if high - low < CATEGORIES else 0
    bounds = (np.array(b, dtype) for b in (low, high))
    return Leaf(path, (), dtype, *bounds, np.array([n], np.int32), False, True, first)


def _leaf(space: spaces.Space, path: str, first: int) -> Leaf:
    if isinstance(space, spaces.Discrete):
        low = int(space.start)
        return _whole(path, np.dtype(space.dtype), low, low + int(space.n) - 1, first)
    if isinstance(space, spaces.MultiDiscrete):
        counts = space.nvec.ravel().astype(object)
        high = (space.start + (space.nvec - 1)).astype(space.dtype)
        n = np.array([c if c <= CATEGORIES else 0 for c in counts], np.int32)
        return Leaf(path, space.nvec.shape, space.dtype, space.start.copy(), high, n, False, False, first)
    if isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(space.shape, space.dtype), np.ones(space.shape, space.dtype)
        return Leaf(
            path, space.shape, space.dtype, low, high, np.full(low.size, 2, np.int32), True, False, first
        )
    if isinstance(space, spaces.Box):
        if space.dtype.kind not in "iufb" or space.dtype.itemsize > 8:
            raise ValueError(
                f"{path}: Box of dtype {space.dtype} has no exact slots; use float64 or a smaller dtype"
            )
        binary = space.dtype.kind == "b"
        n = np.full(space.low.size, 2 if binary else 0, np.int32)
        return Leaf(
            path, space.shape, space.dtype, space.low.copy(), space.high.copy(), n, binary, False, first
        )
    raise ValueError(f"{path}: {_refusal(space)}")


def _refusal(space: spaces.Space) -> str:
    name = type(space).__name__
    handled = "slots can hold Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple, OneOf and their nesting"
    if isinstance(space, (spaces.Sequence, spaces.Graph, spaces.Text)):
        return (
            f"{name} has no fixed size, so it has no slot table. Wrap the environment so that it takes a "
            "space with a largest length, such as Tuple((Discrete(length + 1), Box of that length)); "
            + handled
        )
    return f"{name} is not a space that slots can hold; {handled}."


# ---- reading: actions -> columns ---------------------------------------------------------------------------


class Reader:
    """Reads N actions into columns (N, *shape) and known (N,) flags, one of each a leaf.

    Raises (from `read`):
        ValueError, TypeError: wrong structure, shape or dtype; path, wanted and got. Ranges are not checked.
    """

    def __init__(self, leaves: list[Leaf], n: int, single: bool):
        self.leaves, self.n, self.single = leaves, n, single
        self.columns = [np.zeros((n, *leaf.shape), leaf.dtype) for leaf in leaves]
        self.known = [np.zeros(n, bool) for _ in leaves]
        self.rows = np.arange(n)

    def where(self, row: int) -> str:
        return "" if self.single else f", row {self.rows[row]}"

    def read(self, node: Node, value: Any) -> None:
        if value is None or self.n == 0:
            return
        if isinstance(value, list) and len(value) != self.n:
            raise ValueError(f"{node.path}: wanted {self.n} actions, got a list of {len(value)}")
        getattr(self, f"_read_{node.kind}")(node, value)

    def _read_leaf(self, node: Node, value: Any) -> None:
        leaf, known = self.leaves[node.leaf], self.known[node.leaf]
        known[:] = True
        if isinstance(value, list) and any(v is None for v in value):
            known[:] = [v is not None for v in value]
            value = [v for v in value if v is not None]
        rows = np.flatnonzero(known)
        if rows.size:
            self.columns[node.leaf][rows] = to_column(
                leaf, value, rows.size, lambda row: self.where(rows[row])
            )

    def _read_dict(self, node: Node, value: Any) -> None:
        single = not isinstance(value, list)
        for row, item in enumerate([value] if single else value):
            where = node.path if single else node.path + self.where(row)
            if item is not None and not isinstance(item, Mapping):
                raise TypeError(
                    f"{where}: wanted a dict with keys {list(node.keys)}, got {type(item).__name__}"
                )
            if item is not None and set(item) != set(node.keys):
                raise ValueError(f"{where}: wanted keys {list(node.keys)}, got {list(item)}")
        self._read_children(node, value)

    def _read_tuple(self, node: Node, value: Any) -> None:
        single = not isinstance(value, list)
        for row, item in enumerate([value] if single else value):
            where = node.path if single else node.path + self.where(row)
            if item is not None and not isinstance(item, (tuple, list)):
                raise TypeError(f"{where}: wanted a tuple of {len(node.children)}, got {type(item).__name__}")
            if item is not None and len(item) != len(node.children):
                raise ValueError(f"{where}: wanted a tuple of {len(node.children)}, got {len(item)}")
        self._read_children(node, value)

    def _read_children(self, node: Node, value: Any) -> None:
        for key, child in zip(node.keys, node.children, strict=True):
            if isinstance(value, list):
                self.read(child, [None if item is None else item[key] for item in value])
            else:
                self.read(child, value[key])

    def _read_oneof(self, node: Node, value: Any) -> None:
        if not isinstance(value, (list, tuple)) or len(value) != self.n:
            raise TypeError(f"{node.path}: wanted {self.n} (choice, value) pairs, got {type(value).__name__}")
        for row, item in enumerate(value):
            if item is not None and not (isinstance(item, (tuple, list)) and len(item) == 2):
                wanted = f"a pair (0 .. {len(node.children) - 1}, value)"
                raise TypeError(f"{node.path}{self.where(row)}: wanted {wanted}, got {item!r:.40}")
        choice = Node("leaf", f"{node.path}.choice", leaf=node.leaf)
        self.read(choice, [None if item is None else item[0] for item in value])
        chosen, known = self.columns[node.leaf], self.known[node.leaf]
        for i, child in enumerate(node.children):
            rows = np.flatnonzero(known & (chosen == i))
            self._read_rows(child, rows, [value[row][1] for row in rows])

    def _read_rows(self, node: Node, rows: np.ndarray, values: list) -> None:
        """Read `values` into the given rows of the leaves below `node`."""
        inner = Reader(self.leaves, len(rows), self.single)
        inner.rows = self.rows[rows]
        inner.read(node, values)
        for i in leaves_below(node):
            self.columns[i][rows] = inner.columns[i]
            self.known[i][rows] = inner.known[i]


def leaves_below(node: Node) -> list[int]:
    """Numbers of the leaves at and under a node, ascending."""
    own = [node.leaf] if node.leaf >= 0 else []
    return own + list(itertools.chain.from_iterable(map(leaves_below, node.children)))


def to_column(leaf: Leaf, value: Any, n: int, where: Any) -> np.ndarray:
    """`value` (n values of a leaf, list or array-like) as an array (n, *shape) of its dtype, exactly."""
    try:
        a = value if isinstance(value, np.ndarray) else np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        a = np.zeros(0)
    if a.shape != (n, *leaf.shape):
        _refuse_shape(leaf, value, a, n, where)
    if a.dtype == leaf.dtype or a.size == 0:
        return a.astype(leaf.dtype)
    if leaf.dtype.kind != "f" and a.dtype.kind in "fO" and not isinstance(value, np.ndarray):
        a = _whole_numbers(
            leaf, value
        )  # Python integers, or a list of mixed integer types, that NumPy made float
    if a.dtype.kind not in ("fiub" if leaf.dtype.kind == "f" else "iub"):
        raise TypeError(f"{leaf.path}: wanted {leaf.dtype}, got {a.dtype} ({a.ravel()[0]!r:.40})")
    with np.errstate(over="ignore"):
        column = a.astype(leaf.dtype)
    lost = np.isinf(column) & ~np.isinf(a) if leaf.dtype.kind == "f" else column != a
    if lost.any():
        row = int(np.argwhere(lost)[0][0])
        raise ValueError(f"{leaf.path}{where(row)}: {a[lost][0]} does not fit in {leaf.dtype}")
    return column


def _whole_numbers(leaf: Leaf, value: Any) -> np.ndarray:
    a = np.asarray(value, dtype=object)
    if bad := [x for x in a.flat if not isinstance(x, (int, np.integer, np.bool_))]:
        raise TypeError(f"{leaf.path}: wanted {leaf.dtype}, got {type(bad[0]).__name__} ({bad[0]!r:.40})")
    limits = np.iinfo(leaf.dtype) if leaf.dtype.kind != "b" else None
    low, high = (limits.min, limits.max) if limits else (0, 1)
    if bad := [x for x in a.flat if not low <= x <= high]:
        raise ValueError(f"{leaf.path}: {bad[0]} does not fit in {leaf.dtype}")
    return a.astype(leaf.dtype)


def _refuse_shape(leaf: Leaf, value: Any, a: np.ndarray, n: int, where: Any) -> None:
    """Say which row has the wrong shape, or that the whole batch has."""
    if isinstance(value, list) and len(value) == n:
        for row, item in enumerate(value):
            try:
                shape = np.shape(item)
            except ValueError:
                shape = "a ragged list"
            if shape != leaf.shape:
                raise ValueError(f"{leaf.path}{where(row)}: wanted shape {leaf.shape}, got {shape}")
    raise ValueError(f"{leaf.path}: wanted shape {(n, *leaf.shape)} for {n} actions, got {a.shape}")


def count_actions(node: Node, value: Any) -> int:
    """N of a batch in either form.

    Raises:
        ValueError: nothing in it tells N (an empty Dict or Tuple in batched form).
    """
    if isinstance(value, list) or node.kind == "oneof":
        return len(value)
    if node.kind == "leaf":
        if np.ndim(value) == 0:
            raise ValueError(f"{node.path}: wanted a batch of actions, got one: {value!r:.40}")
        return len(value)
    for key, child in zip(node.keys, node.children, strict=True):
        try:
            return count_actions(child, value[key])
        except (ValueError, TypeError, KeyError, IndexError):
            continue
    raise ValueError(f"{node.path}: cannot tell how many actions {value!r:.60} holds; pass a list of actions")


# ---- building: columns -> actions --------------------------------------------------------------------------


def build(
    node: Node, leaves: list[Leaf], columns: list[np.ndarray], known: list[np.ndarray], row: int
) -> Any:
    """The action in one row; None for the leaves that are not known."""
    if node.kind == "leaf":
        leaf, value = leaves[node.leaf], columns[node.leaf][row]
        if not known[node.leaf][row]:
            return None
        return leaf.dtype.type(value) if leaf.scalar else np.array(value, leaf.dtype)
    if node.kind == "oneof":
        if not known[node.leaf][row]:
            return None
        choice = np.int64(columns[node.leaf][row])
        return choice, build(node.children[choice], leaves, columns, known, row)
    parts = [build(child, leaves, columns, known, row) for child in node.children]
    if node.kind == "tuple":
        return tuple(parts)
    named = dict(zip(node.keys, parts, strict=True))
    return {key: named[key] for key in node.declared}


def build_batch(node: Node, leaves: list[Leaf], columns: list[np.ndarray], n: int) -> Any:
    """All rows in Gymnasium's batched form: fresh arrays in dicts and tuples; a OneOf is a tuple of pairs."""
    if node.kind == "leaf":
        return np.array(columns[node.leaf], leaves[node.leaf].dtype)
    if node.kind == "oneof":
        known = [np.ones(n, bool)] * len(leaves)
        return tuple(build(node, leaves, columns, known, row) for row in range(n))
    parts = [build_batch(child, leaves, columns, n) for child in node.children]
    if node.kind == "tuple":
        return tuple(parts)
    named = dict(zip(node.keys, parts, strict=True))
    return {key: named[key] for key in node.declared}


# ---- numbers: any dtype <-> float64 and a small rest, without loss -----------------------------------------


def to_raw(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x = raw + rest, exactly: raw float64, rest int16 (at most 1024 in size, for 64-bit integers)."""
    raw = x.astype(np.float64)
    if x.dtype.kind not in "iu" or x.dtype.itemsize < 8:
        return raw, np.zeros(x.shape, np.int16)
    return raw, (x.astype(_native(x.dtype)).view(np.uint64) - _words(raw)).view(np.int64).astype(np.int16)


def from_raw(raw: np.ndarray, rest: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The inverse of to_raw; integers must be whole and finite."""
    if dtype.kind not in "iu" or dtype.itemsize < 8:
        return raw.astype(dtype)
    return (_words(raw) + rest.astype(np.int64).view(np.uint64)).view(_native(dtype)).astype(dtype)


def _words(raw: np.ndarray) -> np.ndarray:
    """Whole float64 numbers in -2^63 .. 2^64, modulo 2^64, as uint64."""
    size = np.abs(raw)
    words = np.where(size >= 2.0**64, 0, size).astype(np.uint64)
    return np.where(raw < 0, np.uint64(0) - words, words)


def _native(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder("=")


def unsigned(x: np.ndarray) -> np.ndarray:
    """A difference of integers, which may have wrapped, as the non-negative number it is."""
    x = x.astype(_native(x.dtype), copy=False)
    return x.view(np.dtype(f"u{x.dtype.itemsize}"))


def draw(leaf: Leaf, rng: np.random.Generator, n: int) -> np.ndarray:
    """n values of a leaf: uniform within bounds, exponential from a single bound, normal without."""
    low, high, shape = leaf.low, leaf.high, (n, *leaf.shape)
    if leaf.dtype.kind == "b":
        return rng.integers(
            low.astype(np.uint8), high.astype(np.uint8), shape, np.uint8, endpoint=True
        ).astype(bool)
    if leaf.dtype.kind in "iu":
        dtype = _native(leaf.dtype)
        drawn = rng.integers(low.astype(dtype), high.astype(dtype), shape, dtype.type, endpoint=True)
        return np.asarray(drawn).astype(leaf.dtype)
    a, b = low.astype(np.float64), high.astype(np.float64)
    below, above = np.isfinite(a), np.isfinite(b)
    a, b = np.where(below, a, 0), np.where(above, b, 0)
    u, far, normal = rng.random(shape), rng.exponential(size=shape), rng.normal(size=shape)
    open_end = np.where(below, a + far, np.where(above, b - far, normal))
    x = np.where(below & above, (a / 2 + b / 2) + (b / 2 - a / 2) * (2 * u - 1), open_end)
    return np.clip(x.astype(leaf.dtype), low, high)
