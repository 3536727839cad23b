"""space_json: a Gymnasium space <-> plain JSON, exactly.

Law: space_from_json(json.loads(json.dumps(space_to_json(s)))) == s, with the bounds of a Box bit-equal
(infinities, float16, 64-bit integers), Discrete.start, dtypes, the order of Dict keys, OneOf. Numbers are
written as JSON numbers; inf and -inf as strings, so that the text is strict JSON. Arrays are flat (C order),
or one number when all elements are equal. For observation spaces Text, Sequence and Graph are carried too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

ELEMENTS = (
    2**24
)  # a Box or MultiDiscrete in a file may have so many elements (a hostile file must not fill the memory)
DEPTH = 32  # and spaces may be nested so deep


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """The space as plain JSON types (dict, list, str, int, float, bool).

    Raises:
        TypeError: a space class, Dict key or dtype that has no JSON form here.
    """
    return _write(space, "space")


def space_from_json(data: Any) -> spaces.Space:
    """The space that `space_to_json` described; a fresh, unseeded space equal to the original.

    Raises:
        ValueError: `data` describes no space; the message names the place in it.
    """
    return _read(data, "space", 0)


def _write(space: spaces.Space, path: str) -> dict[str, Any]:
    for cls, name, write, _ in KINDS:
        if isinstance(space, cls):
            return {"type": name, **write(space, f"{path}.{name}")}
    raise TypeError(f"{path}: {type(space).__name__} has no JSON form; wanted one of {[k[1] for k in KINDS]}")


def _read(data: Any, path: str, depth: int) -> spaces.Space:
    if depth > DEPTH:
        raise ValueError(f"{path}: nested deeper than {DEPTH}")
    name = _field(data, "type", str, path)
    for _, known, _, read in KINDS:
        if name == known:
            try:
                return read(data, f"{path}.{name}", depth + 1)
            except (AssertionError, TypeError, OverflowError) as error:
                raise ValueError(f"{path}: not a {name}: {error}") from None
    raise ValueError(f"{path}: unknown space type {name!r}; wanted one of {[k[1] for k in KINDS]}")


def _field(data: Any, key: str, types: type | tuple[type, ...], path: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{path}: wanted an object, got {type(data).__name__}")
    if key not in data:
        raise ValueError(f"{path}: {key!r} is missing; got {sorted(map(str, data))}")
    value = data[key]
    if not isinstance(value, types) or (isinstance(value, bool) and types is int):
        raise ValueError(f"{path}: {key!r} wanted {types}, got {value!s:.60}")
    return value


# ---- numbers, dtypes, shapes -------------------------------------------------------------------------------


def _write_dtype(dtype: np.dtype, path: str) -> str:
    if dtype.kind not in "iufb" or dtype.itemsize > 8:
        raise TypeError(
            f"{path}: dtype {dtype} is not supported; wanted bool, int8..64, uint8..64 or float16..64"
        )
    return dtype.name if dtype.isnative else dtype.str


def _read_dtype(data: Any, path: str) -> np.dtype:
    name = _field(data, "dtype", str, path)
    try:
        dtype = np.dtype(name)
    except TypeError:
        raise ValueError(f"{path}: unknown dtype {name!r}") from None
    if dtype.kind not in "iufb" or dtype.itemsize > 8 or dtype.shape:
        raise ValueError(f"{path}: dtype {name!r} is not a supported number type")
    return dtype


def _read_shape(data: Any, path: str) -> tuple[int, ...]:
    shape = _field(data, "shape", list, path)
    if not all(type(s) is int and 0 <= s <= ELEMENTS for s in shape) or len(shape) > 32:
        raise ValueError(f"{path}: bad shape {shape!s:.80}")
    if math.prod(shape) > ELEMENTS:
        raise ValueError(f"{path}: shape {shape} has more than {ELEMENTS} elements")
    return tuple(shape)


def _write_number(x: Any) -> Any:
    return x if isinstance(x, (bool, int)) or math.isfinite(x) else str(x)


def _write_array(a: np.ndarray) -> Any:
    """One number when all elements are the same to the bit, else a flat list."""
    flat = a.ravel()
    same = a.size > 0 and flat.tobytes() == flat[:1].tobytes() * a.size
    return _write_number(flat[0].item()) if same else [_write_number(x) for x in flat.tolist()]


def _read_array(data: Any, key: str, shape: tuple[int, ...], dtype: np.dtype, path: str) -> np.ndarray:
    values = _field(data, key, (list, int, float, bool, str), path)
    flat = values if isinstance(values, list) else [values]
    if isinstance(values, list) and len(flat) != math.prod(shape):
        raise ValueError(
            f"{path}: {key!r} has {len(flat)} numbers, shape {list(shape)} wants {math.prod(shape)}"
        )
    wanted = {"f": (int, float, str), "b": (bool,)}.get(dtype.kind, (int,))
    for x in flat:
        named = isinstance(x, str) and x not in ("inf", "-inf")
        if named or not isinstance(x, wanted) or (isinstance(x, bool) and dtype.kind != "b"):
            raise ValueError(f"{path}: {key!r} holds {x!r:.40}, which is no {dtype}")
    try:
        numbers = np.array([float(x) for x in flat] if dtype.kind == "f" else flat, dtype=dtype)
    except OverflowError:
        raise ValueError(f"{path}: {key!r} holds a number outside {dtype}") from None
    return numbers.reshape(shape) if isinstance(values, list) else np.full(shape, numbers[0], dtype)


# ---- one writer and one reader for each space --------------------------------------------------------------


def _write_box(s: spaces.Box, path: str) -> dict[str, Any]:
    data = {"shape": list(s.shape), "dtype": _write_dtype(s.dtype, path)}
    data |= {"low": _write_array(s.low), "high": _write_array(s.high)}
    if (
        s.dtype.kind != "f"
    ):  # an integer Box made with infinite bounds holds the dtype's edges and these flags
        for key in ("bounded_below", "bounded_above"):
            if not getattr(s, key).all():
                data[key] = _write_array(getattr(s, key))
    return data


def _read_box(data: Any, path: str, depth: int) -> spaces.Box:
    shape, dtype = _read_shape(data, path), _read_dtype(data, path)
    low, high = (_read_array(data, key, shape, dtype, path) for key in ("low", "high"))
    box = spaces.Box(low, high, shape=shape, dtype=dtype)
    for key in ("bounded_below", "bounded_above"):
        if key in data:
            setattr(box, key, _read_array(data, key, shape, np.dtype(bool), path))
    return box


def _write_discrete(s: spaces.Discrete, path: str) -> dict[str, Any]:
    return {"n": int(s.n), "start": int(s.start), "dtype": _write_dtype(np.dtype(s.dtype), path)}


def _read_discrete(data: Any, path: str, depth: int) -> spaces.Discrete:
    dtype = _read_dtype(data, path)
    n, start = _field(data, "n", int, path), _field(data, "start", int, path)
    extra = {} if dtype == np.int64 else {"dtype": dtype}  # older Gymnasium knows int64 only
    return spaces.Discrete(n, start=start, **extra)


def _write_multi_discrete(s: spaces.MultiDiscrete, path: str) -> dict[str, Any]:
    data = {"shape": list(s.nvec.shape), "dtype": _write_dtype(s.dtype, path)}
    return data | {"nvec": _write_array(s.nvec), "start": _write_array(s.start)}


def _read_multi_discrete(data: Any, path: str, depth: int) -> spaces.MultiDiscrete:
    shape, dtype = _read_shape(data, path), _read_dtype(data, path)
    nvec, start = (_read_array(data, key, shape, dtype, path) for key in ("nvec", "start"))
    return spaces.MultiDiscrete(nvec, dtype=dtype, start=start)


def _write_multi_binary(s: spaces.MultiBinary, path: str) -> dict[str, Any]:
    return {"n": int(s.n) if isinstance(s.n, (int, np.integer)) else [int(n) for n in s.n]}


def _read_multi_binary(data: Any, path: str, depth: int) -> spaces.MultiBinary:
    n = _field(data, "n", (int, list), path)
    _read_shape({"shape": n if isinstance(n, list) else [n]}, path)
    return spaces.MultiBinary(n)


def _write_text(s: spaces.Text, path: str) -> dict[str, Any]:
    return {"min_length": s.min_length, "max_length": s.max_length, "charset": "".join(s.character_list)}


def _read_text(data: Any, path: str, depth: int) -> spaces.Text:
    low, high = _field(data, "min_length", int, path), _field(data, "max_length", int, path)
    return spaces.Text(max_length=high, min_length=low, charset=_field(data, "charset", str, path))


def _write_dict(s: spaces.Dict, path: str) -> dict[str, Any]:
    if bad := [k for k in s.spaces if not isinstance(k, (str, int)) or isinstance(k, bool)]:
        raise TypeError(f"{path}: a key must be a string or an integer, got {bad[0]!r}")
    return {"spaces": [[key, _write(sub, f"{path}[{key!r}]")] for key, sub in s.spaces.items()]}


def _read_dict(data: Any, path: str, depth: int) -> spaces.Dict:
    pairs = _field(data, "spaces", list, path)
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) not in (str, int):
            raise ValueError(f"{path}: wanted [key, space], got {pair!s:.60}")
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError(f"{path}: a key appears twice")
    return spaces.Dict([(key, _read(sub, f"{path}[{key!r}]", depth)) for key, sub in pairs])


def _write_items(s: spaces.Tuple | spaces.OneOf, path: str) -> dict[str, Any]:
    return {"spaces": [_write(sub, f"{path}[{i}]") for i, sub in enumerate(s.spaces)]}


def _read_items(data: Any, path: str, depth: int) -> list[spaces.Space]:
    return [_read(sub, f"{path}[{i}]", depth) for i, sub in enumerate(_field(data, "spaces", list, path))]


def _write_sequence(s: spaces.Sequence, path: str) -> dict[str, Any]:
    return {"space": _write(s.feature_space, f"{path}.space"), "stack": bool(s.stack)}


def _read_sequence(data: Any, path: str, depth: int) -> spaces.Sequence:
    item = _read(_field(data, "space", dict, path), f"{path}.space", depth)
    return spaces.Sequence(item, stack=_field(data, "stack", bool, path))


def _write_graph(s: spaces.Graph, path: str) -> dict[str, Any]:
    edges = None if s.edge_space is None else _write(s.edge_space, f"{path}.edges")
    return {"nodes": _write(s.node_space, f"{path}.nodes"), "edges": edges}


def _read_graph(data: Any, path: str, depth: int) -> spaces.Graph:
    nodes = _read(_field(data, "nodes", dict, path), f"{path}.nodes", depth)
    edges = _field(data, "edges", (dict, type(None)), path)
    return spaces.Graph(nodes, None if edges is None else _read(edges, f"{path}.edges", depth))


# class, name in the file, writer, reader
KINDS = (
    (spaces.Box, "Box", _write_box, _read_box),
    (spaces.Discrete, "Discrete", _write_discrete, _read_discrete),
    (spaces.MultiDiscrete, "MultiDiscrete", _write_multi_discrete, _read_multi_discrete),
    (spaces.MultiBinary, "MultiBinary", _write_multi_binary, _read_multi_binary),
    (spaces.Dict, "Dict", _write_dict, _read_dict),
    (spaces.Tuple, "Tuple", _write_items, lambda d, p, n: spaces.Tuple(_read_items(d, p, n))),
    (spaces.OneOf, "OneOf", _write_items, lambda d, p, n: spaces.OneOf(_read_items(d, p, n))),
    (spaces.Text, "Text", _write_text, _read_text),
    (spaces.Sequence, "Sequence", _write_sequence, _read_sequence),
    (spaces.Graph, "Graph", _write_graph, _read_graph),
)
