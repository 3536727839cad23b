"""columns: append-only arrays on disk, one raw file each, read by mapping or by position.

A column is `<name>.bin`: rows of one dtype and shape, little-endian, C order, no header.  The index
(meta.json) says how many rows count; bytes beyond them are the tail of an interrupted append and are cut off
by the next one.

`rows(a, b)` is a view of the mapped file; once more than BUDGET bytes have been handed out, the pages are
given back to the system (a view stays valid: it is read again from the file when touched), so that a scan of
any length keeps memory flat. `read_into` copies by position without mapping.
"""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path

import numpy as np

BUDGET = 64 * 2**20


class Column:
    """Rows 0..count of one raw file; dtype and row shape are fixed.  Raises ValueError if the file is too
    short.
    """

    def __init__(self, folder: Path, name: str, dtype: str, shape: tuple[int, ...], count: int) -> None:
        self.path, self.name = folder / f"{name}.bin", name
        self.dtype, self.shape, self.count = np.dtype(dtype).newbyteorder("<"), tuple(shape), count
        self.row_bytes = self.dtype.itemsize * math.prod(self.shape)
        self._map: np.ndarray | None = None
        self._raw: mmap.mmap | None = None
        self._file: int | None = None
        self._handed = 0

    def rows_on_disk(self) -> int:
        """Whole rows that the file holds, counted or not."""
        size = self.path.stat().st_size if self.path.exists() else 0
        return size // self.row_bytes if self.row_bytes else self.count

    def _descriptor(self) -> int:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return self._file

    def _mapped(self) -> np.ndarray:
        if self._map is None:
            if self.count * self.row_bytes == 0:
                self._map = np.zeros((self.count, *self.shape), self.dtype)
            else:
                self._raw = mmap.mmap(
                    self._descriptor(), self.count * self.row_bytes, access=mmap.ACCESS_READ
                )
                self._map = np.frombuffer(self._raw, self.dtype).reshape(self.count, *self.shape)
        return self._map

    def _give_back(self, handed: int) -> None:
        self._handed += handed
        if self._handed > BUDGET and self._raw is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._raw.madvise(mmap.MADV_DONTNEED)
            self._handed = 0

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) as a read-only view of the file."""
        self._give_back((stop - start) * self.row_bytes)
        return self._mapped()[start:stop]

    def gather(self, index: np.ndarray) -> np.ndarray:
        """Rows at `index` (any shape) -> (*index.shape, *shape), a copy."""
        self._give_back(index.size * max(self.row_bytes, 4096))
        return self._mapped()[index]

    def read_into(self, out: np.ndarray, start: int) -> None:
        """Fill the contiguous array `out` with rows from `start` on, without mapping them."""
        if not hasattr(os, "preadv"):
            out[...] = self.rows(start, start + len(out))
            return
        view, at = memoryview(out).cast("B"), start * self.row_bytes
        while len(view):
            got = os.preadv(self._descriptor(), [view], at)
            if got <= 0:
                raise ValueError(f"{self.path}: ends at byte {at}, while {len(view)} more are wanted")
            view, at = view[got:], at + got

    def append(self, rows: np.ndarray) -> None:
        """Write rows after the last that counts; they count only once the caller has stored the new index.

        Raises OSError (full disk, for example); what counted before is untouched.
        """
        rows = np.ascontiguousarray(rows, self.dtype)
        with open(self.path, "r+b" if self.path.exists() else "x+b") as file:
            file.truncate(self.count * self.row_bytes)
            file.seek(0, os.SEEK_END)
            file.write(memoryview(rows).cast("B") if rows.size else b"")
        self.count += len(rows)
        self._forget_map()

    def sync(self) -> None:
        """Wait until the rows are on the disk."""
        if self.path.exists():
            file = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def _forget_map(self) -> None:
        self._map = self._raw = None  # views that were handed out keep the old mapping alive

    def close(self) -> None:
        """Let go of the file; views that were handed out stay valid."""
        self._forget_map()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        self.close()
