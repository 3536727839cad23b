"""call: any kernel through ctypes, from its C signature alone, over buffers with sentinels on both sides."""

import ctypes as c
import re

import numpy as np
from worldmodel import _core

SCALARS = {"int64_t": c.c_int64, "int": c.c_int, "bool": c.c_bool, "float": c.c_float, "double": c.c_double,
           "uint32_t": c.c_uint32, "wm_act": c.c_int, "size_t": c.c_size_t, "void": None}  # fmt: skip
NUMBERS = {
    "float": np.float32,
    "int32_t": np.int32,
    "uint8_t": np.uint8,
    "int64_t": np.int64,
    "double": np.float64,
}
PAD = 64


def parse(signature: str) -> tuple[str, list[tuple[str, str, bool, bool]]]:
    """ "void (float *out, int64_t n)" -> result type, [(type, name, is a pointer, is const)]."""
    result, arguments = re.fullmatch(r"(\w+) \((.*)\)", " ".join(signature.split())).groups()
    words = []
    for text in arguments.split(","):
        m = re.fullmatch(r"(const )?(\w+) ((?:\*(?:const )?)*)(\w+)", text.strip())
        words.append((m[2], m[4], bool(m[3]), bool(m[1])))
    return result, words


SIGNATURES = {name: parse(text) for name, text in _core.kernel_list().items()}


class Structure(c.Structure):
    """A struct of kernels.h from its declaration in C, so that the tests need no second copy of it."""


def structure(declaration: str) -> type[Structure]:
    """ "int64_t B, H; const float *x; bool add" -> a ctypes structure."""
    fields = []
    for part in filter(None, (p.strip() for p in declaration.split(";"))):
        kind, names = re.fullmatch(r"(?:const )?(\w+) (.*)", part).groups()
        for name in names.split(","):
            name = name.strip()
            length = re.search(r"\[(\d+)\]", name)
            base = c.c_void_p if "*" in name else SCALARS[kind]
            fields.append((name.strip("* ").split("[")[0], base * int(length[1]) if length else base))
    return type("CStructure", (Structure,), {"_fields_": fields})


def read_structure(text: str, name: str) -> type[Structure]:
    """The struct called `name` in the text of kernels.h."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S).replace("WM_SHADOWS", "4")
    bodies = re.findall(r"typedef struct(?: \w+)? \{([^{}]*)\} (\w+);", text)
    return structure(next(body for body, word in bodies if word == name).replace("\n", " "))


class Table:
    """The kernels of one table as methods; counts which were called, keeps what they wrote.

    out, scratch and the inputs are made by the methods below; `check` says whether any sentinel fell.
    """

    def __init__(self, name: str, seed: int = 0):
        self.name, self.seed = name, seed
        self.called: set[str] = set()
        self.results: list[np.ndarray] = []
        self.blocks: list[tuple[np.ndarray, int]] = []
        self.inputs: list[tuple[np.ndarray, bytes]] = []
        self.count = 0

    # ---- buffers

    def guarded(self, shape, dtype) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = np.full(size + 2 * PAD + 64, 0xA5, np.uint8)
        start = PAD + -(block.ctypes.data + PAD) % 64
        self.blocks.append((block, start, size))
        return block[start : start + size].view(dtype).reshape(shape)

    def out(self, *shape, dtype=np.float32) -> np.ndarray:
        """What the kernel writes or adds to: it begins as 0.5 and is compared between tables."""
        a = self.guarded(shape, dtype)
        a[...] = 0.5 if a.dtype.kind == "f" else 1
        self.results.append(a)
        return a

    def started(self, array) -> np.ndarray:
        """An output that begins as array."""
        a = self.out(*array.shape, dtype=array.dtype)
        a[...] = array
        return a

    def scratch(self, n, dtype=np.float32) -> np.ndarray:
        a = self.guarded((int(n),), dtype)
        a.view(np.uint8)[...] = 0xFF  # NaN
        return a

    def given(self, array) -> np.ndarray:
        """An input; it must come back as it was."""
        a = self.guarded(np.shape(array), np.asarray(array).dtype)
        a[...] = array
        self.inputs.append((a, a.tobytes()))
        return a

    def rng(self):
        self.count += 1
        return np.random.default_rng([self.seed, self.count])

    def numbers(self, *shape, scale=1.0, positive=False):
        a = self.rng().standard_normal(shape) * scale
        return self.given((np.abs(a) + 0.1 if positive else a).astype(np.float32))

    def levels(self, *shape):
        return self.given(self.rng().uniform(0.05, 0.95, shape).astype(np.float32))

    def below(self, n, *shape, dtype=np.int32):
        return self.given(self.rng().integers(0, n, shape).astype(dtype))

    def check(self) -> None:
        for block, start, size in self.blocks:
            assert (block[:start] == 0xA5).all() and (block[start + size :] == 0xA5).all(), (
                f"{self.name}: wrote outside a buffer"
            )
        for a, before in self.inputs:
            assert a.tobytes() == before, f"{self.name}: changed an input"

    # ---- calls

    def __getattr__(self, kernel: str):
        if kernel not in SIGNATURES:
            raise AttributeError(kernel)
        result, words = SIGNATURES[kernel]
        types = [c.c_void_p if pointer else SCALARS[kind] for kind, _, pointer, _ in words]
        function = c.CFUNCTYPE(SCALARS[result], *types)(_core.kernel_address(self.name, kernel))

        def call(*arguments):
            assert len(arguments) == len(words), f"{kernel} takes {[w[1] for w in words]}"
            self.called.add(kernel)
            values = []
            for a, (kind, name, pointer, _) in zip(arguments, words, strict=True):
                if isinstance(a, np.ndarray):
                    assert pointer, f"{kernel}: {name} is no pointer"
                    assert kind == "void" or a.dtype in (NUMBERS.get(kind, a.dtype), np.uint64), (
                        f"{kernel}: {name} is {kind}, not {a.dtype}"
                    )
                    values.append(a.ctypes.data)
                elif isinstance(a, c.Structure):
                    values.append(c.addressof(a))
                else:
                    values.append(a)
            return function(*values)

        return call
