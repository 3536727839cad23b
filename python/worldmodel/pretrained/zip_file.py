"""zip_file: the entries of a stored (uncompressed) zip archive, as views; the little of PKWARE's APPNOTE 6.3 that
`torch.save` writes.  Anything else is refused: compression, encryption, several disks, entries outside the file.

Only the central directory is believed; a local header gives nothing but its own length.
"""

from __future__ import annotations

import struct

END, END64, LOCATOR64, ENTRY, LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
"""Values that say: look in the zip64 fields."""


def entries(data: memoryview) -> dict[str, memoryview]:
    """Name -> contents.  Raises ValueError saying what is wrong."""
    count, size, start = _directory(data)
    if start + size > len(data) or count * 46 > size:
        raise ValueError(f"zip: a directory of {count} entries and {size} bytes at {start} does not fit in the file")
    found: dict[str, memoryview] = {}
    at, end = start, start + size
    for _ in range(count):
        name, where, length, at = _entry(data, at, end)
        if name in found:
            raise ValueError(f"zip: two entries are named {name!r}")
        found[name] = _contents(data, name, where, length)
    return found


def _directory(data: memoryview) -> tuple[int, int, int]:
    """(entries, bytes, start) of the central directory."""
    tail = bytes(data[-(22 + FULL16) :])
    at = tail.rfind(END)
    if at < 0 or at + 22 > len(tail):
        raise ValueError("zip: no end of central directory: the file is no zip archive, or truncated")
    disk, disk2, here, count, size, start, _ = struct.unpack("<4x4H2IH", tail[at : at + 22])
    at += len(data) - len(tail)
    if FULL16 in (count, here) or FULL32 in (size, start):
        count, here, size, start = _directory64(data, at)
    if disk or disk2 or here != count:
        raise ValueError("zip: archives of several disks are refused")
    return count, size, start


def _directory64(data: memoryview, end: int) -> tuple[int, int, int, int]:
    if end < 20 or bytes(data[end - 20 : end - 16]) != LOCATOR64:
        raise ValueError("zip: the zip64 locator is missing")
    (at,) = struct.unpack("<8xQ4x", data[end - 20 : end])
    if at + 56 > len(data) or bytes(data[at : at + 4]) != END64:
        raise ValueError("zip: the zip64 end of central directory is missing")
    here, count, size, start = struct.unpack("<24x4Q", data[at : at + 56])
    return count, here, size, start


def _entry(data: memoryview, at: int, end: int) -> tuple[str, int, int, int]:
    """(name, place of the local header, length, place of the next entry)."""
    if at + 46 > end or bytes(data[at : at + 4]) != ENTRY:
        raise ValueError(f"zip: no directory entry at {at}")
    flags, method, packed, length, n, m, k, where = struct.unpack("<8x2H8x2I3H8xI", data[at : at + 46])
    stop = at + 46 + n + m + k
    if stop > end:
        raise ValueError(f"zip: the directory entry at {at} does not fit")
    try:
        name = bytes(data[at + 46 : at + 46 + n]).decode()
    except UnicodeDecodeError:
        raise ValueError(f"zip: the name of the entry at {at} is no UTF-8") from None
    if flags & 1:
        raise ValueError(f"zip: {name!r} is encrypted")
    if FULL32 in (length, packed, where):
        length, packed, where = _sizes64(bytes(data[at + 46 + n : at + 46 + n + m]), name, length, packed, where)
    if method or packed != length:
        raise ValueError(f"zip: {name!r} is compressed (method {method}); torch.save stores")
    return name, where, length, stop


def _sizes64(extra: bytes, name: str, *sizes: int) -> list[int]:
    """The sizes of an entry, those that are full taken in order from its zip64 field."""
    at = 0
    while at + 4 <= len(extra):
        kind, n = struct.unpack("<2H", extra[at : at + 4])
        if kind == 1:
            wide = [v for (v,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + n // 8 * 8][: 8 * 3])]
            if sum(s == FULL32 for s in sizes) > len(wide):
                break
            return [wide.pop(0) if s == FULL32 else s for s in sizes]
        at += 4 + n
    raise ValueError(f"zip: {name!r} lacks its zip64 sizes")


def _contents(data: memoryview, name: str, where: int, length: int) -> memoryview:
    if where + 30 > len(data) or bytes(data[where : where + 4]) != LOCAL:
        raise ValueError(f"zip: {name!r} has no local header at {where}")
    n, m = struct.unpack("<26x2H", data[where : where + 30])
    start = where + 30 + n + m
    if start + length > len(data):
        raise ValueError(f"zip: {name!r} ends outside the file")
    return data[start : start + length]
