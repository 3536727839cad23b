"""Model files: tensors and JSON metadata in one safetensors file, written atomically, read as hostile until
checked."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write tensors and metadata (any JSON) to path: a temporary file beside it, fsync, rename.

    A kill at any moment leaves the last good file.  Raises OSError (disk full, no such folder), and then
    removes what it began.
    """
    from safetensors.numpy import save

    header = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    data = save({name: np.asarray(a, order="C") for name, a in tensors.items()}, metadata=header or None)
    write_atomically(path, data)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace path by data, or leave it as it was."""
    path = os.fspath(path)
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=os.path.dirname(path) or ".")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
            os.fchmod(f.fileno(), 0o644)  # a temporary file is born private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, metadata) of a file of write_tensors.

    Raises FileNotFoundError, or ValueError if the file is truncated, no safetensors file, or its metadata no
    JSON.
    """
    return _read(path, tensors=True)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata alone; errors as read_tensors."""
    return _read(path, tensors=False)[1]


def _read(path: str | os.PathLike[str], tensors: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    path = os.fspath(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: is a folder, not a safetensors file")
    try:
        with safe_open(path, framework="numpy") as f:
            metadata = {k: json.loads(v) for k, v in (f.metadata() or {}).items() if k != "format"}
            return {name: f.get_tensor(name) for name in f.keys()} if tensors else {}, metadata
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata is no JSON ({error})") from None
