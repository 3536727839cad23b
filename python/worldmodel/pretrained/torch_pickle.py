"""torch_pickle: the subset of pickle that tensors need, read by a machine of our own that executes nothing.

A pickle is a program: Python's own reader imports whatever names it says and calls them.  This one knows names, but
imports none and calls none: GLOBAL pushes a word of ALLOWED, REDUCE understands four of them (an ordered dict, a
tensor, a parameter, a size), BINPERSID makes a Storage, BUILD is ignored on dicts.  Every other opcode and every
other name is refused by name.  Memory stays in proportion to the pickle: values are shared, never copied.
"""

from __future__ import annotations

import pickletools
import struct
from dataclasses import dataclass
from typing import Any

STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": "float64",
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
    }.items()
}
DICT, SIZE = "collections.OrderedDict", "torch.Size"
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
ALLOWED = {DICT, SIZE, TENSOR, PARAMETER, *STORAGES}


@dataclass(frozen=True)
class Name:
    """A word of ALLOWED that a pickle mentioned."""

    word: str


@dataclass(frozen=True)
class Storage:
    """A run of numbers: the entry data/<key> of the archive."""

    dtype: str
    key: str
    numbers: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A part of a storage, as the pickle describes it; not yet checked."""

    storage: Storage
    offset: Any
    shape: Any
    stride: Any


class _Mark:
    pass


MARK = _Mark()


class Machine:
    """Runs one pickle; `run` returns what it holds: dicts, lists, tuples, str, int, float, bool, None, Tensor."""

    def __init__(self, code: bytes):
        self.code, self.at = code, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Raises ValueError for anything that is not of the subset."""
        while True:
            (op,) = self.take(1)
            if op == 0x2E:  # STOP
                if len(self.stack) != 1 or self.at != len(self.code):
                    raise ValueError("pickle: it ends with more than one value, or before its end")
                return self.pop()
            step = STEPS.get(op)
            if step is None:
                known = pickletools.code2op.get(chr(op))
                raise ValueError(f"pickle: opcode {known.name if known else hex(op)} is refused")
            step(self)

    # ---- bytes and stack ----

    def take(self, n: int) -> bytes:
        piece = self.code[self.at : self.at + n]
        if len(piece) != n:
            raise ValueError("pickle: it is truncated")
        self.at += n
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.code.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise ValueError("pickle: a name of GLOBAL is truncated or longer than 255 bytes")
        text = self.code[self.at : end]
        self.at = end + 1
        return self.decoded(text)

    def decoded(self, text: bytes) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise ValueError("pickle: a text is no UTF-8") from None

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise ValueError("pickle: a value is missing on the stack")
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """The values above the latest mark, which goes."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is MARK:
                values = self.stack[i + 1 :]
                del self.stack[i:]
                return values
        raise ValueError("pickle: a mark is missing on the stack")

    # ---- steps ----

    def protocol(self) -> None:
        version = self.number("<B")
        if not 2 <= version <= 5:
            raise ValueError(f"pickle: protocol {version} is refused; 2 to 5 are read")

    def long(self) -> None:
        n = self.number("<B")
        if n > 8:
            raise ValueError(f"pickle: a whole number of {n} bytes is refused; 8 are read")
        self.push(int.from_bytes(self.take(n), "little", signed=True))

    def named(self, module: Any, name: Any) -> None:
        word = f"{module}.{name}"
        if not (isinstance(module, str) and isinstance(name, str)) or word not in ALLOWED:
            raise ValueError(f"pickle: the name {word[:120]!r} is refused: tensors need none of it")
        self.push(Name(word))

    def put(self, slot: int) -> None:
        if not self.stack or self.stack[-1] is MARK:
            raise ValueError("pickle: nothing to remember")
        self.memo[slot] = self.stack[-1]

    def get(self, slot: int) -> None:
        if slot not in self.memo:
            raise ValueError(f"pickle: nothing was remembered as {slot}")
        self.push(self.memo[slot])

    def tupled(self, n: int) -> None:
        self.push(tuple([self.pop() for _ in range(n)][::-1]))

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if not isinstance(target, list):
            raise ValueError("pickle: APPEND to something that is no list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError("pickle: SETITEM on something that is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise ValueError(f"pickle: a key of a dict must be a text or a whole number, got {type(key).__name__}")
            target[key] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise ValueError("pickle: REDUCE of something that is no allowed name with a tuple")
        self.push(_reduced(function.word, arguments))

    def build(self) -> None:
        self.pop()  # `_metadata` of a state dict: versions of its modules
        if not self.stack or not isinstance(self.stack[-1], dict):
            raise ValueError("pickle: BUILD on something that is no dict")

    def storage(self) -> None:
        said = self.pop()
        good = isinstance(said, tuple) and len(said) == 5 and said[0] == "storage" and isinstance(said[1], Name)
        if not good or said[1].word not in STORAGES or not isinstance(said[2], str) or type(said[4]) is not int:
            raise ValueError("pickle: BINPERSID of something that is no storage of numbers")
        self.push(Storage(STORAGES[said[1].word], said[2], said[4]))


def _reduced(word: str, arguments: tuple[Any, ...]) -> Any:
    if word == DICT and not arguments:
        return {}
    if word == SIZE and len(arguments) == 1 and isinstance(arguments[0], tuple):
        return arguments[0]
    if word == PARAMETER and len(arguments) == 3 and isinstance(arguments[0], Tensor):
        return arguments[0]
    if word == TENSOR and len(arguments) in (6, 7) and isinstance(arguments[0], Storage):
        return Tensor(*arguments[:4])
    raise ValueError(f"pickle: {word} is not called like this by torch.save")


STEPS = {
    0x80: Machine.protocol,
    0x95: lambda m: m.take(8),  # FRAME
    0x7D: lambda m: m.push({}),
    0x5D: lambda m: m.push([]),
    0x29: lambda m: m.push(()),
    0x4E: lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    0x28: lambda m: m.push(MARK),
    0x4B: lambda m: m.push(m.number("<B")),
    0x4D: lambda m: m.push(m.number("<H")),
    0x4A: lambda m: m.push(m.number("<i")),
    0x8A: Machine.long,
    0x47: lambda m: m.push(m.number(">d")),
    0x58: lambda m: m.push(m.decoded(m.take(m.number("<I")))),
    0x8C: lambda m: m.push(m.decoded(m.take(m.number("<B")))),
    0x63: lambda m: m.named(m.line(), m.line()),
    0x93: lambda m: m.named(*[m.pop(), m.pop()][::-1]),
    0x71: lambda m: m.put(m.number("<B")),
    0x72: lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),
    0x68: lambda m: m.get(m.number("<B")),
    0x6A: lambda m: m.get(m.number("<I")),
    0x74: lambda m: m.push(tuple(m.marked())),
    0x85: lambda m: m.tupled(1),
    0x86: lambda m: m.tupled(2),
    0x87: lambda m: m.tupled(3),
    0x61: lambda m: m.append([m.pop()]),
    0x65: lambda m: m.append(m.marked()),
    0x73: Machine.set_item,
    0x75: lambda m: m.set_items(m.marked()),
    0x52: Machine.reduce,
    0x62: Machine.build,
    0x51: Machine.storage,
}
"""Opcode -> what it does; see pickletools for their names."""
