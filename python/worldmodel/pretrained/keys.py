"""keys: from the names and layouts of a file to those of our modules, and back.

A `Key` says where one of our tensors is: under which names (several are put together row by row) and in which layout.
`fill` checks all of them before it changes anything, and says everything that is wrong in one error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .. import nn, ops
from ..tensor import Tensor
from .stored import State

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """come: an array of theirs -> ours; go: back; shape: ours -> theirs."""

    come: Callable[[np.ndarray], np.ndarray]
    go: Callable[[np.ndarray], np.ndarray]
    shape: Callable[[Shape], Shape]


SAME = Layout(lambda a: a, lambda a: a, lambda s: s)
CONV = Layout(lambda a: a.transpose(0, 2, 3, 1), lambda a: a.transpose(0, 3, 1, 2), lambda s: (s[0], s[3], s[1], s[2]))
"""A convolution's weight: (out, in, kernel, kernel) in PyTorch, (out, kernel, kernel, in) here."""


@dataclass(frozen=True)
class Key:
    """Where one of our tensors is in the file."""

    names: tuple[str, ...]
    layout: Layout = SAME
    optional: bool = field(default=False)
    """It keeps its value where the file has none."""

    @staticmethod
    def of(name: str, shape: Shape) -> Key:
        """The tensor under this name; a convolution where it has four axes."""
        return Key((name,), CONV if len(shape) == 4 else SAME)


def wrong(tensors: Mapping[str, Tensor], keys: Mapping[str, Key], state: State, ignore: frozenset[str]) -> str:
    """What does not fit, "" if all does: every missing, unknown and misshapen name."""
    wanted: dict[str, Shape] = {}
    missing, misshapen = [], []
    for ours, key in keys.items():
        shape, parts = key.layout.shape(tensors[ours].shape), len(key.names)
        for name in key.names:
            wanted[name] = (shape[0] // parts, *shape[1:]) if parts > 1 else shape
            if name not in state:
                if not key.optional:
                    missing.append(name)
            elif state[name].shape != wanted[name]:
                misshapen.append(f"{name}: {state[name].shape} in the file, {wanted[name]} wanted")
    unknown = [name for name in state if name not in wanted and name not in ignore]
    found = (("missing", missing), ("unknown", unknown), ("misshapen", misshapen))
    return "; ".join(f"{word} {', '.join(names)}" for word, names in found if names)


def fill(
    tensors: Mapping[str, Tensor], keys: Mapping[str, Key], state: State, ignore: frozenset[str] = frozenset()
) -> None:
    """Copy the file's numbers into our tensors.  Raises ValueError listing what does not fit; then nothing changed."""
    if text := wrong(tensors, keys, state, ignore):
        raise ValueError(text)
    for ours, key in keys.items():
        if key.names[0] not in state:
            continue
        halved = tensors[ours].dtype == "bfloat16" and all(state[name].dtype == "bfloat16" for name in key.names)
        parts = [
            np.frombuffer(s.data, "<u2").reshape(s.shape) if halved else s.numpy() for s in map(state.get, key.names)
        ]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        nn.write(tensors[ours], np.ascontiguousarray(key.layout.come(whole), np.uint16 if halved else np.float32))


def emptied(tensors: Mapping[str, Tensor], keys: Mapping[str, Key]) -> dict[str, np.ndarray]:
    """Our tensors under the file's names and in its layouts; views of them where that is how they lie."""
    out: dict[str, np.ndarray] = {}
    for ours, key in keys.items():
        t = tensors[ours]
        numbers = ops.cast(t, "float32").numpy() if t.dtype == "bfloat16" else t.numpy()
        whole = np.ascontiguousarray(key.layout.go(numbers))
        for name, part in zip(
            key.names, np.split(whole, len(key.names)) if len(key.names) > 1 else [whole], strict=True
        ):
            out[name] = part
    return out


def lengths(state: State, name: str, axes: int) -> Shape:
    """The shape of a tensor from which a family reads its sizes.  Raises ValueError if it is missing, has another
    number of axes or is empty."""
    if name not in state:
        raise ValueError(f"missing {name}")
    shape = state[name].shape
    if len(shape) != axes or 0 in shape:
        raise ValueError(f"misshapen {name}: {shape}, wanted {axes} axes, none empty")
    return shape


def count(state: State, prefix: str) -> int:
    """How many of prefix0., prefix1., ... there are, from 0 without a hole."""
    found = {name[len(prefix) :].split(".", 1)[0] for name in state if name.startswith(prefix)}
    n = 0
    while str(n) in found:
        n += 1
    return n


def whole_root(area: int) -> int:
    """The side of a square of so many pixels.  Raises ValueError if there is none."""
    side = round(area**0.5)
    if side * side != area:
        raise ValueError(f"{area} pixels are no square")
    return side


def numbers(state: State) -> int:
    """How many a file holds, and a few: what a module made for it may have."""
    return sum(t.size for t in state.values()) + 4096


def patches(side: int) -> Layout:
    """The weight of a linear map of squares of pixels: (out, rows columns channels) here, a convolution there."""

    def come(a: np.ndarray) -> np.ndarray:
        return a.transpose(0, 2, 3, 1).reshape(len(a), -1)

    def go(a: np.ndarray) -> np.ndarray:
        return a.reshape(len(a), side, side, -1).transpose(0, 3, 1, 2)

    return Layout(come, go, lambda s: (s[0], s[1] // (side * side), side, side))
