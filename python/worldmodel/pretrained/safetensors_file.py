"""safetensors_file: the tensors of a safetensors file as views of it, bfloat16 among them (which NumPy lacks).

    state = read_safetensors("model.safetensors")    # name -> Stored

The file: 8 bytes, the length of a JSON header; the header: name -> {dtype, shape, data_offsets}; then the numbers.
(https://github.com/huggingface/safetensors, "Format".)  As there, holes and overlaps are refused.
"""

from __future__ import annotations

import json
import os
from typing import Any

from .stored import Stored, checked_shape, mapped

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
HEADER_LIMIT = 32 << 20
"""A header takes some 100 bytes a tensor; one of more than 32 MB is refused."""


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Stored]:
    """Raises FileNotFoundError, or ValueError saying what is wrong."""
    path = os.fspath(path)
    try:
        return parse_safetensors(mapped(path))
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(f"{path}: ") else f"{path}: {text}") from None


def parse_header(data: memoryview) -> tuple[dict[str, Any], memoryview]:
    """The JSON header, and the numbers behind it.  Raises ValueError."""
    n = int.from_bytes(data[:8], "little")
    if len(data) < 8 or n > min(HEADER_LIMIT, len(data) - 8):
        raise ValueError(f"not a whole safetensors file: a header of {n} bytes in a file of {len(data)}")
    try:
        header = json.loads(bytes(data[8 : 8 + n]), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a safetensors file: its header is no JSON ({str(error)[:120]})") from None
    if not isinstance(header, dict):
        raise ValueError("not a safetensors file: its header is no object")
    return header, data[8 + n :]


def parse_safetensors(data: memoryview) -> dict[str, Stored]:
    """The tensors of a file's bytes; errors as read_safetensors."""
    header, numbers = parse_header(data)
    header.pop("__metadata__", None)
    places = {name: _place(name, about, len(numbers)) for name, about in header.items()}
    at = 0
    for name in sorted(places, key=lambda k: places[k][2:]):
        if places[name][2] != at:
            raise ValueError(f"{name!r} begins at {places[name][2]}, wanted {at}: holes and overlaps are refused")
        at = places[name][3]
    if at != len(numbers):
        raise ValueError(f"{len(numbers) - at} bytes at its end belong to no tensor")
    return {name: Stored(dtype, shape, numbers[a:b]) for name, (dtype, shape, a, b) in places.items()}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name appears twice")
    return made


def _place(name: str, about: Any, size: int) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(about, dict) or set(about) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name[:120]!r}: wanted dtype, shape and data_offsets, got {repr(about)[:80]}")
    dtype = about["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name[:120]!r}: dtype {repr(dtype)[:40]} is refused; {', '.join(DTYPES)} are read")
    offsets = about["data_offsets"]
    whole = isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int for n in offsets)
    if not whole or not 0 <= offsets[0] <= offsets[1] <= size:
        raise ValueError(f"{name[:120]!r}: data_offsets {repr(offsets)[:80]} leave the file")
    return DTYPES[dtype], checked_shape(about["shape"]), *offsets
