"""Model files: tensors and JSON metadata in one safetensors file, written atomically, read as hostile until
checked."""

from __future__ import annotations

import json
import math
import mmap
import os
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

NUMBERS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
"""safetensors' names of NumPy's dtypes."""


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write tensors and metadata (any JSON) to path: a temporary file beside it, fsync, rename.

    One array after another: none is copied whose bytes are in order already.  A kill at any moment leaves the last
    good file.  Raises OSError (disk full, no such folder), and then removes what it began; TypeError for a dtype that
    safetensors lacks.
    """
    kinds = {np.dtype(code): name for name, code in NUMBERS.items()}
    arrays = {name: np.asarray(a) for name, a in tensors.items()}
    if wrong := [name for name, a in arrays.items() if a.dtype.newbyteorder("<") not in kinds]:
        raise TypeError(f"write_tensors: {wrong[0]}: safetensors has no {arrays[wrong[0]].dtype}")
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # so every one lies aligned
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = {key: json.dumps(value) for key, value in metadata.items()}
    at = 0
    for name in order:
        a = arrays[name]
        place = [at, at + a.nbytes]
        header[name] = {"dtype": kinds[a.dtype.newbyteorder("<")], "shape": list(a.shape), "data_offsets": place}
        at += a.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    parts = (_bytes(arrays[name]) for name in order if arrays[name].size)
    write_atomically(path, (len(text).to_bytes(8, "little"), text), parts)


def _bytes(a: np.ndarray) -> memoryview:
    """An array's bytes, little-endian and in order."""
    return memoryview(np.ascontiguousarray(a, a.dtype.newbyteorder("<")).reshape(-1).view(np.uint8))


def write_atomically(path: str | os.PathLike[str], *data: bytes | Iterable[bytes | memoryview]) -> None:
    """Replace path by data (bytes, or several parts one after another), or leave it as it was."""
    path = os.fspath(path)
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=os.path.dirname(path) or ".")
    try:
        with os.fdopen(handle, "wb") as f:
            for several in data:
                for part in (several,) if isinstance(several, bytes) else several:
                    f.write(part)
            f.flush()
            os.fsync(f.fileno())
            os.fchmod(f.fileno(), 0o644)  # a temporary file is born private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_tensors(path: str | os.PathLike[str], mapped: bool = False) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, metadata) of a file of write_tensors.  mapped: read-only views of the file, which must stay as it is
    while they are used, instead of copies.

    Raises FileNotFoundError, or ValueError if the file is truncated, no safetensors file, or its metadata no
    JSON.
    """
    return _read(path, tensors=True, mapped=mapped)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata alone; errors as read_tensors."""
    return _read(path, tensors=False)[1]


def _views(path: str) -> dict[str, np.ndarray]:
    """The tensors of a file that was found whole."""
    with open(path, "rb") as f:
        data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    begin = 8 + int.from_bytes(data[:8], "little")
    out = {}
    for name, about in json.loads(data[8:begin]).items():
        if name == "__metadata__":
            continue
        if about["dtype"] not in NUMBERS:
            raise ValueError(f"{path}: {name}: dtype {about['dtype']}, which NumPy lacks")
        count, dtype = math.prod(about["shape"]), np.dtype(NUMBERS[about["dtype"]])
        flat = np.frombuffer(data, dtype, count, begin + about["data_offsets"][0]) if count else np.zeros(0, dtype)
        out[name] = flat.reshape(about["shape"])
    return out


def _read(
    path: str | os.PathLike[str], tensors: bool, mapped: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    path = os.fspath(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: is a folder, not a safetensors file")
    try:
        with safe_open(path, framework="numpy") as f:
            metadata = {k: json.loads(v) for k, v in (f.metadata() or {}).items() if k != "format"}
            if mapped:
                return _views(path), metadata
            return {name: f.get_tensor(name) for name in f.keys()} if tensors else {}, metadata
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata is no JSON ({error})") from None
