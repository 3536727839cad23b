"""torch_file: the tensors of a `.pt` file (PyTorch 1.6 and later), read without PyTorch and without executing anything.

    state = read_torch("agent_epoch_00100.pt")       # name -> Stored, names joined by dots

The file is a stored zip archive (zip_file.py): `<root>/data.pkl` says what there is (torch_pickle.py),
`<root>/data/<key>` holds the numbers, which are mapped, not read.  Values that are no tensors (an epoch, a
learning rate) are left out.
"""

from __future__ import annotations

import os
from typing import Any

from .stored import NUMBERS, Stored, checked_shape, mapped
from .torch_pickle import Machine, Tensor
from .zip_file import entries

PICKLE_LIMIT = 64 << 20
"""A state dict's pickle takes some 200 bytes a tensor; one of more than 64 MB is refused."""

DEEPEST = 16
"""Dicts and lists inside each other."""


def read_torch(path: str | os.PathLike[str]) -> dict[str, Stored]:
    """A file that is one tensor has it under the name "tensor".  Raises FileNotFoundError, or ValueError naming what is
    refused."""
    path = os.fspath(path)
    try:
        return parse_torch(mapped(path))
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(f"{path}: ") else f"{path}: {text}") from None


def parse_torch(data: memoryview) -> dict[str, Stored]:
    """The tensors of a file's bytes; errors as read_torch."""
    if bytes(data[:2]) == b"\x80\x02":
        raise ValueError("saved in the format of PyTorch before 1.6, a bare pickle, which is refused: save it again")
    files = entries(data)
    pickles = [name for name in files if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"no file of torch.save: wanted one data.pkl, found {len(pickles)}")
    root = pickles[0][: -len("data.pkl")]
    if root + "constants.pkl" in files or any(name.startswith(root + "code/") for name in files):
        raise ValueError("a TorchScript program, which is refused: save its state_dict")
    if root + "byteorder" in files and bytes(files[root + "byteorder"]) != b"little":
        raise ValueError(f"its byte order is {bytes(files[root + 'byteorder'])[:16]!r}; little-endian files are read")
    if len(files[pickles[0]]) > PICKLE_LIMIT:
        raise ValueError(f"its data.pkl has {len(files[pickles[0]])} bytes; at most {PICKLE_LIMIT} are read")
    found: dict[str, Tensor] = {}
    value = Machine(bytes(files[pickles[0]])).run()
    if isinstance(value, Tensor):
        value = {"tensor": value}
    if not isinstance(value, (dict, list, tuple)):
        raise ValueError(f"it holds {type(value).__name__}, not a dict of tensors")
    _collect(value, "", found, {}, 0)
    if not found:
        raise ValueError("it holds no tensors")
    return {name: _stored(name, tensor, files, root) for name, tensor in found.items()}


def _collect(value: Any, name: str, found: dict[str, Tensor], seen: dict[int, int | None], depth: int) -> None:
    """The tensors within a value, by the path to them.  A container met again adds nothing if it holds none, and is
    refused if it does, or holds itself: so this takes no longer than the pickle is."""
    if isinstance(value, Tensor):
        if name in found:
            raise ValueError(f"two tensors are named {name!r}")
        found[name] = value
        return
    if seen.get(id(value), 0) == 0 and id(value) in seen:
        return
    if id(value) in seen or depth >= DEEPEST:
        raise ValueError(f"{name!r}: containers of tensors in two places, in themselves or {DEEPEST} deep are refused")
    seen[id(value)], before = None, len(found)
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(part, (Tensor, dict, list, tuple)):
            _collect(part, f"{name}.{key}" if name else str(key), found, seen, depth + 1)
    seen[id(value)] = len(found) - before


def _stored(name: str, tensor: Tensor, files: dict[str, memoryview], root: str) -> Stored:
    storage, shape = tensor.storage, checked_shape(tensor.shape)
    data = files.get(f"{root}data/{storage.key}")
    width = NUMBERS[storage.dtype]
    if data is None or len(data) != storage.numbers * width:
        got = "is missing" if data is None else f"has {len(data)} bytes"
        raise ValueError(f"{name}: its storage data/{storage.key} {got}; {storage.numbers} {storage.dtype} wanted")
    dense, step = [], 1
    for n in reversed(shape):
        dense.append(step)
        step *= n
    stride = tensor.stride
    if not isinstance(stride, tuple) or len(stride) != len(shape):
        raise ValueError(f"{name}: its strides must be {len(shape)} whole numbers")
    if any(n > 1 and s != d for n, s, d in zip(shape, stride, dense[::-1], strict=True)) and step:
        raise ValueError(f"{name}: strides {stride} of shape {shape} are not contiguous: save it after .contiguous()")
    if type(tensor.offset) is not int or not 0 <= tensor.offset <= storage.numbers - step:
        raise ValueError(f"{name}: {step} numbers from {tensor.offset!r} leave its storage of {storage.numbers}")
    return Stored(storage.dtype, shape, data[tensor.offset * width : (tensor.offset + step) * width])
