"""stored: a tensor as it lies in a file: dtype, shape and a view of the file's bytes; nothing is copied until asked."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NUMBERS = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""dtype -> bytes a number; bfloat16 is the upper half of a float32."""

LONGEST = 1 << 40
"""An axis, and a tensor, has no more numbers than this."""


@dataclass(frozen=True)
class Stored:
    """dtype (a key of NUMBERS), shape, and the bytes, contiguous and little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview

    def __post_init__(self) -> None:
        if len(self.data) != self.size * NUMBERS[self.dtype]:
            raise ValueError(
                f"{self.dtype} {self.shape} takes {self.size * NUMBERS[self.dtype]} bytes, not {len(self.data)}"
            )

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def numpy(self) -> np.ndarray:
        """The numbers in a dtype that NumPy has: a read-only view of the file, or of bfloat16 a float32 copy."""
        if self.dtype == "bfloat16":
            high = np.frombuffer(self.data, "<u2").astype(np.uint32) << 16
            return high.view(np.float32).reshape(self.shape)
        return np.frombuffer(self.data, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)


State = Mapping[str, Stored]
"""A file's tensors by name."""


def mapped(path: str | os.PathLike[str]) -> memoryview:
    """A file's bytes, mapped, not read.  Raises FileNotFoundError, IsADirectoryError, or ValueError for an empty
    one."""
    path = os.fspath(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: is a folder, not a file of weights")
    try:
        with open(path, "rb") as f:
            if os.fstat(f.fileno()).st_size == 0:
                raise ValueError(f"{path}: is empty")
            return memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None


def checked_shape(shape: object) -> tuple[int, ...]:
    """Lengths of axes from a file, as a tuple; ValueError for anything else."""
    whole = isinstance(shape, (list, tuple)) and all(type(n) is int and 0 <= n <= LONGEST for n in shape)
    if not whole or len(shape) > 8 or math.prod(n or 1 for n in shape) > LONGEST:
        raise ValueError(f"a shape must be at most 8 whole numbers of 0 to 2^40, got {repr(shape)[:80]}")
    return tuple(shape)
