"""fuzz_readers: mutants of good files, and of the pickles and headers inside them, until the readers break.

    python tests/fuzz_readers.py --inputs 2000000            # both readers; prints inputs, what was read, peak memory
    python tests/fuzz_readers.py --atheris torch -runs=2000000      # guided by coverage, if atheris is installed

An input must be read or refused with ValueError, in less than a second, within memory in proportion to its size.
"""

import argparse
import json
import random
import resource
import struct
import sys
import time

import numpy as np
import torch_zip
from worldmodel.pretrained.safetensors_file import parse_safetensors
from worldmodel.pretrained.torch_file import parse_torch

BUDGET = 1.0
"""Seconds an input may take."""

WORDS = [
    b"(",
    b"}",
    b"]",
    b")",
    b"t",
    b"u",
    b"s",
    b"R",
    b"b",
    b"Q",
    b".",
    b"q\0",
    b"h\0",
    b"h\1",
    b"K\0",
    b"\x85",
    b"\x87",
    b"J\xff\xff\xff\xff",
    b"M\xff\xff",
    b"\x8a\x08" + b"\xff" * 8,
    b"X\xff\xff\xff\xff",
    b"cos\nsystem\n",
    b"ctorch\nSize\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"\x94",
    b"\x93",
    b"PK\5\6",
    b"PK\1\2",
    b"PK\6\6",
    b"PK\6\7",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\1\0\x18\0",
    b"[",
    b"{",
    b'"',
    b":",
    b",",
    b"1e999",
    b"-1",
    b"99999999999999999999",
    b'"dtype"',
    b'"F32"',
    b'"BF16"',
    b'"shape"',
    b'"data_offsets"',
    b"null",
    b"\\u0000",
]


def mutant(rng: random.Random, data: bytes) -> bytes:
    """One to eight edits: bytes changed, words put in, pieces cut, doubled or moved."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 8])):
        n = len(out)
        if not n:
            return rng.choice(WORDS)
        i, kind = rng.randrange(n), rng.randrange(7)
        if kind == 0:
            out[i] = rng.randrange(256)
        elif kind == 1:
            out[i] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[i:i] = rng.choice(WORDS)
        elif kind == 3:
            word = rng.choice(WORDS)
            out[i : i + len(word)] = word
        elif kind == 4:
            del out[i : i + rng.randrange(1, 9)]
        elif kind == 5:
            j = rng.randrange(n)
            out[j:j] = out[i : i + rng.randrange(1, 40)]
        else:
            out[i : i + 4] = struct.pack("<I", rng.choice([0, 1, 2, 12, n, 255, 65535, 1 << 31, (1 << 32) - 1]))
    return bytes(out)


def torch_seeds() -> list[tuple[bytes, bytes]]:
    """(pickle, the rest of the archive as a prefix and a directory are made anew around a mutated pickle)."""
    a = np.arange(12, dtype=np.float32)
    values = [
        {"a": torch_zip.tensor("0", a), "b": torch_zip.tensor("0", a, offset=4, shape=(2, 3))},
        {"m": {"w": torch_zip.tensor("0", a)}, "epoch": 3, "lr": 0.1, "l": [1, (2, None, True)]},
        {"p": torch_zip.call("torch._utils._rebuild_parameter", torch_zip.tensor("0", a), True, {})},
    ]
    return [torch_zip.pickled(v, p) for v in values for p in (2, 4)]


def around(code: bytes) -> bytes:
    """A stored archive of one pickle and one storage, as torch.save writes it; quicker than zipfile."""
    parts, places, at = [], [], 0
    for name, data in ((b"r/data.pkl", code), (b"r/data/0", bytes(48))):
        parts.append(
            struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, len(data), len(data), len(name), 0) + name + data
        )
        places.append((name, len(data), at))
        at += len(parts[-1])
    parts += [
        struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, n, n, len(name), 0, 0, 0, 0, 0, where) + name
        for name, n, where in places
    ]
    size = sum(map(len, parts[2:]))
    return b"".join(parts) + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, size, at, 0)


def torch_input(rng: random.Random, seeds: list[bytes]) -> bytes:
    code = rng.choice(seeds)
    return around(mutant(rng, code)) if rng.random() < 0.7 else mutant(rng, around(code))


def safetensors_seeds() -> list[bytes]:
    about = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    }
    return [
        json.dumps(h).encode()
        for h in (about, {"__metadata__": {"x": "y"}, **about}, {"b": {**about["b"], "data_offsets": [0, 8]}})
    ]


def safetensors_input(rng: random.Random, seeds: list[bytes]) -> bytes:
    header = mutant(rng, rng.choice(seeds))
    whole = struct.pack("<Q", len(header)) + header + bytes(rng.choice([32, 32, 8, 31]))
    return whole if rng.random() < 0.8 else mutant(rng, whole)


READERS = {
    "torch": (parse_torch, torch_seeds, torch_input),
    "safetensors": (parse_safetensors, safetensors_seeds, safetensors_input),
}


def check(parse, data: bytes) -> bool:
    """Read (True) or refused; anything else raises."""
    try:
        state = parse(memoryview(data))
    except ValueError:
        return False
    for stored in state.values():
        assert stored.numpy().nbytes <= 2 * len(data)
    return True


def run(name: str, inputs: int, seed: int = 0, say=None) -> dict[str, float]:
    parse, seeds, make = READERS[name]
    rng, good, slowest, begun = random.Random(seed), seeds(), 0.0, time.perf_counter()
    read = 0
    for i in range(inputs):
        data = make(rng, good)
        start = time.perf_counter()
        try:
            read += check(parse, data)
        except BaseException:
            print(f"{name}: input {i} of seed {seed}: {data!r}", file=sys.stderr)
            raise
        took = time.perf_counter() - start
        slowest = max(slowest, took)
        assert took < BUDGET, f"{name}: input {i} of seed {seed} took {took:.1f} s: {data!r}"
        if say and i % 100_000 == 99_999:
            say(i + 1)
    return {
        "inputs": inputs,
        "read": read,
        "slowest_ms": 1000 * slowest,
        "seconds": time.perf_counter() - begun,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def guided(name: str, arguments: list[str]) -> None:
    """By coverage of the readers alone."""
    import importlib

    import atheris

    for module in [m for m in sys.modules if m.startswith("worldmodel.pretrained")]:
        del sys.modules[module]
    with atheris.instrument_imports(include=["worldmodel.pretrained"]):
        module = importlib.import_module(f"worldmodel.pretrained.{name}_file")
    parse = getattr(module, f"parse_{name}")

    def one(data: bytes) -> None:
        check(parse, around(data) if name == "torch" and len(data) % 4 else data)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--inputs", type=int, default=2_000_000)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--only", choices=READERS)
    cli.add_argument("--atheris", choices=READERS)
    options, others = cli.parse_known_args()
    if options.atheris:
        guided(options.atheris, others)
    for reader in [options.only] if options.only else READERS:
        print(reader, run(reader, options.inputs, options.seed, lambda n: print(f"  {n}", end="\r", file=sys.stderr)))
