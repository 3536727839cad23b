"""spaces: any Gymnasium space as a table of slots, and every action as one row of numbers.

A space is compiled once, depth first, Dict keys sorted, into slots: continuous, categorical(n) or binary. An
action is then codes and a row, both exactly invertible, and features:

    codes     = encode(action)      raw (S,) numbers, index (S,) categories, masks present, known, valid (S,)
    row       = pack(action)        fixed-width bytes for a memory-mapped file, each leaf in its own dtype
    features  = features(codes)     float32 (F,), what a network reads:
                bounded continuous  u = (x - centre) / half, in [-1, 1]
                open continuous     u = symlog(x - finite bound or 0),  symlog(x) = sign(x) log(1 + |x|)
                categorical         one-hot;  binary: -1 or 1
                anything masked     zeros, whatever number lies beneath

A linear map of the features (F -> 32) is the table of rows and roles by which a model makes its action vector
z: the sum over slots of a learned row, with nothing added for a slot that is absent, unknown or invalid.

The masks are never merged: *present*, the slot exists in this action (a OneOf fills one branch); *known*,
somebody told us its value (unlabelled video: None); *valid*, the value lies within the space and is no NaN.
A bound of 2^31 - 1 or more in size counts as none: it is a dtype's edge, not a range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np

from worldmodel.slots import (
    Leaf,
    Reader,
    build,
    build_batch,
    compile_space,
    count_actions,
    draw,
    from_raw,
    to_column,
    to_raw,
    unsigned,
)
from worldmodel.space_json import space_from_json, space_to_json

__all__ = ["Codes", "Slot", "SlotTable", "space_from_json", "space_to_json", "symexp", "symlog"]

OPEN = 2.0**31 - 1  # a bound at least so large is no bound
EDGE = 89.0  # symlog of the largest float32 is 88.7; infinities are placed here
REACH = 6.0  # bins of an open slot span symlog values -6 .. 6, that is about -400 .. 400


def symlog(x: np.ndarray) -> np.ndarray:
    """sign(x) log(1 + |x|), elementwise (DreamerV3)."""
    return np.sign(x) * np.log1p(np.abs(x))


def symexp(x: np.ndarray) -> np.ndarray:
    """sign(x) (exp(|x|) - 1), the inverse of symlog."""
    return np.sign(x) * np.expm1(np.abs(x))


@dataclass(frozen=True)
class Slot:
    """One number of an action."""

    path: str  # as a user would write it: action['arm'][0]
    kind: str  # "continuous", "categorical" or "binary"
    n: int  # categories; 2 for binary, 0 for continuous
    start: int  # value of category 0; 0 for continuous
    low: int | float
    high: int | float
    dtype: np.dtype
    bounded: bool  # continuous only: both bounds are real, so that features are scaled, not symlog
    first: int  # its columns of the feature matrix: first .. first + width - 1
    width: int


@dataclass(frozen=True, eq=False)
class Codes:
    """Actions as arrays over slots: (S,) for one action, (N, S) for a batch."""

    raw: np.ndarray  # float64: the value itself; start + index for a category
    rest: np.ndarray  # int16: value - raw, not 0 only for integers beyond 2^53
    index: np.ndarray  # int32: category, from 0; 0 for continuous slots
    present: np.ndarray  # bool
    known: np.ndarray  # bool
    valid: np.ndarray  # bool

    @property
    def mask(self) -> np.ndarray:
        """bool: slots that may be read: present, known and valid."""
        return self.present & self.known & self.valid

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, rows: Any) -> Codes:
        """The codes of some rows of a batch."""
        return Codes(*(getattr(self, f.name)[rows] for f in fields(self)))

    def forget(self, rows: Any = ...) -> Codes:
        """The same codes with the actions in `rows` (all by default) unknown: action dropout."""
        known = self.known.copy()
        known[rows] = False
        return replace(self, known=known)

    @staticmethod
    def stack(codes: list[Codes]) -> Codes:
        """Codes of single actions, stacked to a batch."""
        return Codes(*(np.stack([getattr(c, f.name) for c in codes]) for f in fields(Codes)))


class SlotTable:
    """A space compiled to slots. `SlotTable.of(space)`; immutable; equal when space, name and bins are.

    Attributes:
        space: the Gymnasium space.
        size: number of slots S.
        feature_size: width F of `features`.
        row: structured dtype of a packed action, one field a leaf, named by its path; `row.itemsize` bytes.
        kind, n: (S,) "continuous", "categorical" or "binary" as 0, 1, 2; categories, int32.
        low, high: (S,) float64 bounds (rounded beyond 2^53; `slots` has them exactly).
    """

    @classmethod
    def of(cls, space: gymnasium.Space, name: str = "action", bins: int = 0) -> SlotTable:
        """Compile a space.

        Args:
            space: any nesting of Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple and OneOf.
            name: what messages call a value of it.
            bins: further features of a continuous slot: its value as weights of so many evenly spaced bins,
                linear between neighbours. 0, or 2 and more.

        Raises:
            ValueError: Sequence, Graph and Text (no fixed size), or another class; the message says where.
        """
        return cls(space, name, bins)

    def __init__(self, space: gymnasium.Space, name: str, bins: int):
        if not isinstance(space, gymnasium.Space):
            raise TypeError(f"{name}: wanted a gymnasium.Space, got {type(space).__name__}")
        if not name:
            raise ValueError("name: wanted what messages should call a value of this space, got ''")
        if bins < 0 or bins == 1:
            raise ValueError(f"bins: wanted 0, or 2 and more, got {bins}")
        self.space, self.name, self.bins = space, name, bins
        self.root, self.leaves, self.branches = compile_space(space, name)
        self.size = sum(leaf.size for leaf in self.leaves)
        self.row = np.dtype([(leaf.path, leaf.dtype, leaf.shape) for leaf in self.leaves if leaf.size])
        self.n = self._per_slot(lambda leaf: leaf.n, np.int32)
        self.kind = self._per_slot(lambda leaf: (leaf.n > 0) + leaf.binary * 1, np.int8)
        self.low, self.high = (
            self._per_slot(lambda leaf, b=b: getattr(leaf, b), np.float64) for b in ("low", "high")
        )
        self._place_features()

    def _per_slot(self, of_leaf: Any, dtype: Any) -> np.ndarray:
        out = np.zeros(self.size, dtype)
        for leaf in self.leaves:
            out[leaf.slots] = np.ravel(of_leaf(leaf))
        return out

    def _place_features(self) -> None:
        """Columns of every slot, and centre and half range of the continuous ones."""
        continuous = self.kind == 0
        width = np.where(continuous, 1 + self.bins, np.where(self.kind == 1, self.n, 1)).astype(np.int64)
        self.first = np.cumsum(width) - width
        self.width = width
        self.feature_size = int(width.sum())
        self._continuous, self._categorical, self._binary = (np.flatnonzero(self.kind == k) for k in range(3))
        below, above = np.abs(self.low) < OPEN, np.abs(self.high) < OPEN
        self.bounded = continuous & below & above
        low, high = np.where(below, self.low, 0), np.where(above, self.high, 0)
        half = high / 2 - low / 2
        self._half = np.where(self.bounded & (half > 0), half, np.where(self.bounded, np.inf, 1))
        self._centre = np.where(self.bounded, low / 2 + high / 2, low + high)  # one finite bound, or 0

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The table itself, a Slot for each number of an action."""
        kinds, out = ("continuous", "categorical", "binary"), []
        for leaf in self.leaves:
            low, high = leaf.low.ravel().tolist(), leaf.high.ravel().tolist()
            for i in range(leaf.size):
                s = leaf.first + i
                start = int(low[i]) if self.kind[s] == 1 else 0
                place = bool(self.bounded[s]), int(self.first[s]), int(self.width[s])
                path, kind = leaf.element(i), kinds[self.kind[s]]
                out.append(Slot(path, kind, int(self.n[s]), start, low[i], high[i], leaf.dtype, *place))
        return tuple(out)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlotTable) and self.to_json() == other.to_json()

    def __repr__(self) -> str:
        return f"SlotTable({self.space}, {self.size} slots, {self.feature_size} features)"

    # ---- JSON ----------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; holds the space itself, from which the table follows."""
        return {"version": 1, "name": self.name, "bins": self.bins, "space": space_to_json(self.space)}

    @classmethod
    def from_json(cls, data: Any) -> SlotTable:
        """The table that `to_json` described. Raises ValueError where `data` is not one."""
        if not isinstance(data, dict) or data.get("version") != 1:
            raise ValueError(f"slot table: wanted an object of version 1, got {data!s:.60}")
        name, bins = data.get("name"), data.get("bins")
        if not isinstance(name, str) or type(bins) is not int or not 0 <= bins <= 4096:
            raise ValueError(f"slot table: bad name or bins: {name!s:.40}, {bins!s:.40}")
        return cls.of(space_from_json(data.get("space")), name, bins)

    # ---- actions <-> codes ---------------------------------------------------------------------------------

    def encode(self, action: Any, strict: bool = True) -> Codes:
        """Codes (S,) of one action; None, for it or for a part of it, means unknown.

        Args:
            strict: refuse values outside the space and NaN; else they are kept with valid = False.

        Raises:
            ValueError, TypeError: path, wanted and got.
        """
        return self._encode(self._read([action], 1, True), strict)[0]

    def encode_batch(self, actions: Any, known: np.ndarray | None = None, strict: bool = True) -> Codes:
        """Codes (N, S) of a list of N actions, or of Gymnasium's batched form (array, dict or tuple).

        Args:
            known: (N,) bool; False hides an action that `actions` holds a filler for.
        """
        reader = self._read(actions, count_actions(self.root, actions))
        if known is not None:
            reader.known = [flags & np.asarray(known, bool) for flags in reader.known]
        return self._encode(reader, strict)

    def decode(self, codes: Codes) -> Any:
        """The action of codes (S,): decode(encode(a)) == a, types and dtypes included; None where unknown."""
        if codes.raw.shape != (self.size,):
            raise ValueError(f"decode: wanted codes of shape ({self.size},), got {codes.raw.shape}")
        batch = codes[None]
        columns, known = self._columns(batch)
        if self.size and not batch.known.any():
            return None
        return build(self.root, self.leaves, columns, known, 0)

    def decode_batch(self, codes: Codes) -> Any:
        """N actions in Gymnasium's batched form, fresh arrays. Raises ValueError when one is unknown."""
        if codes.raw.ndim != 2 or codes.raw.shape[1] != self.size:
            raise ValueError(f"decode_batch: wanted codes of shape (N, {self.size}), got {codes.raw.shape}")
        if (hidden := codes.present & ~codes.known).any():
            row, slot = np.argwhere(hidden)[0]
            raise ValueError(f"{self.slots[slot].path}, row {row}: unknown, so there is no action to decode")
        return build_batch(self.root, self.leaves, self._columns(codes)[0], len(codes))

    def null(self, n: int) -> Codes:
        """Codes (n, S) of n unknown actions; their features are zeros."""
        return self._encode(self._read([None] * n, n), False)

    def compose(self, values: np.ndarray, index: np.ndarray) -> Codes:
        """Codes of what a policy says; always legal actions.

        Args:
            values: (..., S) scaled numbers as in `scale`, read at continuous slots and clipped to the bounds.
            index: (..., S) categories from 0, read at the others and clipped to 0 .. n - 1.
        """
        index = np.where(self.kind == 0, 0, np.clip(index, 0, np.maximum(self.n - 1, 0))).astype(np.int32)
        raw = np.where(self.kind == 0, self.unscale(values), 0)
        rest = np.zeros(raw.shape, np.int16)
        if np.isnan(raw).any():
            raise ValueError("compose: values hold NaN at a continuous slot")
        for leaf in self.leaves:
            s = leaf.slots
            legal, index[..., s] = _legal(leaf, raw[..., s], index[..., s])
            raw[..., s], rest[..., s] = legal
        ones = np.ones(raw.shape, bool)
        codes = Codes(raw, rest, index, ones, ones.copy(), ones.copy())
        return replace(codes, present=self._present(codes))

    def contains(self, action: Any) -> bool:
        """Is this one, fully known action in the space?"""
        try:
            self.validate(action)
        except (ValueError, TypeError):
            return False
        return True

    def validate(self, action: Any) -> None:
        """Raise ValueError or TypeError, with path, wanted and got, unless the action is in the space."""
        codes = self.encode(action)
        if (hidden := codes.present & ~codes.known).any():
            raise ValueError(f"{self.slots[int(hidden.argmax())].path}: wanted a value, got None")

    def sample(self, rng: np.random.Generator) -> Any:
        """One action: uniform within bounds, exponential from a single bound, normal without."""
        known = [np.ones(1, bool)] * len(self.leaves)
        return build(self.root, self.leaves, [draw(leaf, rng, 1) for leaf in self.leaves], known, 0)

    def sample_batch(self, rng: np.random.Generator, n: int) -> Any:
        """n actions in Gymnasium's batched form."""
        return build_batch(self.root, self.leaves, [draw(leaf, rng, n) for leaf in self.leaves], n)

    # ---- actions <-> rows of bytes -------------------------------------------------------------------------

    def pack(self, action: Any) -> np.ndarray:
        """One known action as uint8 (row.itemsize,); `pack(a).view(table.row)` has a field for each leaf."""
        return self._pack(self._read([action], 1, True))[0]

    def pack_batch(self, actions: Any) -> np.ndarray:
        """N known actions, in either batch form, as uint8 (N, row.itemsize)."""
        return self._pack(self._read(actions, count_actions(self.root, actions)))

    def unpack(self, row: np.ndarray) -> Any:
        """The action of a row of bytes: unpack(pack(a)) == a."""
        known = [np.ones(1, bool)] * len(self.leaves)
        return build(self.root, self.leaves, self._unpack(np.asarray(row)[None]), known, 0)

    def unpack_batch(self, rows: np.ndarray) -> Any:
        """The actions of rows (N, row.itemsize) in Gymnasium's batched form, copied out of `rows`."""
        return build_batch(self.root, self.leaves, self._unpack(rows), len(rows))

    # ---- what a network reads ------------------------------------------------------------------------------

    def scale(self, raw: np.ndarray) -> np.ndarray:
        """(..., S) values -> float64: [-1, 1] where bounded, symlog where open. For continuous slots."""
        return self._scale(np.asarray(raw, np.float64), np.arange(self.size))

    def unscale(self, scaled: np.ndarray) -> np.ndarray:
        """The inverse of `scale`; bounded slots are clipped to their bounds first."""
        u = np.asarray(scaled, np.float64)
        half = np.where(np.isinf(self._half), 0, self._half)
        return self._centre + half * np.where(
            self.bounded, np.clip(u, -1, 1), symexp(np.clip(u, -EDGE, EDGE))
        )

    def features(self, codes: Codes) -> np.ndarray:
        """float32 (..., F) of codes (..., S); zeros for whatever is masked, even if it hides a NaN."""
        lead = codes.raw.shape[:-1]
        n = math.prod(lead)
        raw, index, mask = (a.reshape(n, self.size) for a in (codes.raw, codes.index, codes.mask))
        out = np.zeros((n, self.feature_size), np.float32)
        if (c := self._continuous).size:
            u = self._scale(np.where(mask[:, c], raw[:, c], self._centre[c]), c)
            out[:, self.first[c]] = np.where(mask[:, c], u, 0)
            if self.bins:
                columns = self.first[c][:, None] + 1 + np.arange(self.bins)
                out[:, columns] = self._bin(u, c) * mask[:, c, None]
        if (b := self._binary).size:
            out[:, self.first[b]] = np.where(mask[:, b], 2 * index[:, b] - 1, 0)
        if (d := self._categorical).size:
            row, slot = np.nonzero(mask[:, d])
            slot = d[slot]
            out[row, self.first[slot] + index[row, slot]] = 1
        return out.reshape(*lead, self.feature_size)

    def features_batch(self, actions: Any, known: np.ndarray | None = None) -> np.ndarray:
        """float32 (N, F) straight from actions: features(encode_batch(actions, known)), with short cuts.

        A batch for a plain Discrete, MultiDiscrete, MultiBinary or bounded Box skips the codes.
        """
        if self._plain is None or isinstance(actions, list):
            return self.features(self.encode_batch(actions, known))
        leaf, n = self.leaves[0], len(actions)
        x = to_column(leaf, actions, n, lambda row: f", row {row}")
        told = np.ones(n, bool) if known is None else np.asarray(known, bool)
        if not ((x >= leaf.low) & (x <= leaf.high) | ~told.reshape(-1, *[1] * len(leaf.shape))).all():
            self.encode_batch(x, told)  # says which one
        x = x.reshape(n, self.size)
        if self._plain == "categorical":
            out = np.zeros((n, self.feature_size), np.float32)
            rows = np.flatnonzero(told)
            out[rows[:, None], self.first + unsigned(x[rows] - leaf.low.ravel()).astype(np.int64)] = 1
            return out
        if self._plain == "binary":
            return np.where(told[:, None], 2 * x.astype(np.float32) - 1, np.float32(0))
        u = np.clip((np.where(told[:, None], x, self._centre) - self._centre) / self._half, -1, 1)
        return np.where(told[:, None], u, 0).astype(np.float32)

    # ---- inside --------------------------------------------------------------------------------------------

    @cached_property
    def _plain(self) -> str | None:
        """The short cut of `features_batch` that this space allows."""
        if len(self.leaves) != 1 or self.root.kind != "leaf" or not self.size:
            return None
        if self.bounded.all() and not self.bins:
            return "bounded"
        return (
            {1: "categorical", 2: "binary"}.get(int(self.kind[0]))
            if (self.kind == self.kind[0]).all()
            else None
        )

    def _scale(self, raw: np.ndarray, slots: np.ndarray) -> np.ndarray:
        u = (raw - self._centre[slots]) / self._half[slots]
        bounded = self.bounded[slots]
        clipped = np.clip(u, -1, 1)
        return clipped if bounded.all() else np.where(bounded, clipped, np.clip(symlog(u), -EDGE, EDGE))

    def _bin(self, u: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """(N, C) scaled values -> (N, C, bins) weights: max(0, 1 - distance in bins)."""
        unit = np.clip(np.where(self.bounded[slots], u, u / REACH), -1, 1)
        place = (unit + 1) / 2 * (self.bins - 1)
        return np.maximum(0, 1 - np.abs(place[..., None] - np.arange(self.bins)))

    def _read(self, actions: Any, n: int, single: bool = False) -> Reader:
        reader = Reader(self.leaves, n, single)
        reader.read(self.root, actions)
        return reader

    def _encode(self, reader: Reader, strict: bool) -> Codes:
        raw = np.zeros((reader.n, self.size))
        codes = Codes(raw, raw.astype(np.int16), raw.astype(np.int32), *(raw > 0 for _ in range(3)))
        for leaf, column, told in zip(self.leaves, reader.columns, reader.known, strict=True):
            x, s = column.reshape(reader.n, leaf.size), leaf.slots
            legal = ((x >= leaf.low.ravel()) & (x <= leaf.high.ravel())) | ~told[:, None]
            if strict and not legal.all():
                row, i = np.argwhere(~legal)[0]
                where = leaf.element(i) + reader.where(row)
                raise ValueError(
                    f"{where}: wanted {leaf.low.flat[i]} .. {leaf.high.flat[i]}, got {x[row, i]}"
                )
            codes.raw[:, s], codes.rest[:, s] = to_raw(x)
            codes.known[:, s], codes.valid[:, s] = told[:, None], legal
            if leaf.n.any():
                offset = x if leaf.dtype.kind == "b" else unsigned(x - leaf.low.ravel())
                codes.index[:, s] = np.where(legal & told[:, None] & (leaf.n > 0), offset, 0)
        return replace(codes, present=self._present(codes))

    def _present(self, codes: Codes) -> np.ndarray:
        present = np.ones(codes.raw.shape, bool)
        for b in self.branches:
            readable = present[..., b.choice] & codes.known[..., b.choice] & codes.valid[..., b.choice]
            present[..., b.first : b.last] &= (readable & (codes.index[..., b.choice] == b.value))[..., None]
        return present

    def _columns(self, codes: Codes) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Codes (N, S) -> the column and the known flags of each leaf."""
        columns, known, seen = [], [], codes.present & codes.known
        for leaf in self.leaves:
            s = leaf.slots
            raw, rest = np.where(seen[:, s], codes.raw[:, s], 0), np.where(seen[:, s], codes.rest[:, s], 0)
            if leaf.dtype.kind != "f" and not np.isfinite(raw).all():
                raise ValueError(f"{leaf.path}: wanted {leaf.dtype}, got codes that are not finite")
            with np.errstate(over="ignore"):
                columns.append(from_raw(raw, rest, leaf.dtype).reshape(len(codes), *leaf.shape))
            known.append(codes.known[:, s].any(axis=1) if leaf.size else np.ones(len(codes), bool))
        return columns, known

    def _pack(self, reader: Reader) -> np.ndarray:
        codes = self._encode(reader, True)
        if (hidden := codes.present & ~codes.known).any():
            row, slot = np.argwhere(hidden)[0]
            where = self.slots[slot].path + reader.where(row)
            raise ValueError(
                f"{where}: None cannot be packed; pack any action and keep a known flag beside it"
            )
        rows = np.zeros(reader.n, self.row)
        for leaf, column in zip(self.leaves, reader.columns, strict=True):
            if leaf.size:
                rows[leaf.path] = column
        width = self.row.itemsize
        return rows.view(np.uint8).reshape(reader.n, width) if width else np.zeros((reader.n, 0), np.uint8)

    def _unpack(self, rows: np.ndarray) -> list[np.ndarray]:
        """Packed rows -> columns, which may be views."""
        width = self.row.itemsize
        if rows.ndim != 2 or rows.dtype != np.uint8 or rows.shape[1] != width:
            raise ValueError(f"unpack: wanted uint8 rows of {width} bytes, got {rows.dtype} {rows.shape[1:]}")
        parts = np.ascontiguousarray(rows).view(self.row)[:, 0] if width else {}
        empty = (np.zeros((len(rows), *leaf.shape), leaf.dtype) for leaf in self.leaves)
        return [parts[leaf.path] if leaf.size else e for leaf, e in zip(self.leaves, empty, strict=True)]


def _legal(
    leaf: Leaf, raw: np.ndarray, index: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Legal value nearest to raw (continuous) or index (categories): (raw, rest), index; all (..., size)."""
    low, high = leaf.low.ravel(), leaf.high.ravel()
    if leaf.binary:
        index = np.clip(index, low, high)
    chosen, chosen_rest = to_raw(index.astype(leaf.dtype) if leaf.binary else low + index.astype(leaf.dtype))
    near = raw if leaf.dtype.kind == "f" else np.rint(raw)
    rest = np.zeros(raw.shape, np.int16)
    for bound, beyond in ((high, np.greater_equal), (low, np.less_equal)):
        edge, edge_rest = to_raw(bound)
        at = beyond(near, edge)
        near, rest = np.where(at, edge, near), np.where(at, edge_rest, rest)
    categories = leaf.n > 0
    return (np.where(categories, chosen, near), np.where(categories, chosen_rest, rest)), index
