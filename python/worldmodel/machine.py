"""The machine's knobs: threads, kernel tables, devices, the seed of everything random."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from . import _core

set_threads = _core.set_threads
threads = _core.threads
_generator = np.random.default_rng(0)


def kernels(name: str | None = None) -> str:
    """The kernel table in use; with a name ('avx512', 'avx2', 'baseline'), use that one from now on.

    Raises ValueError if this processor cannot run it.
    """
    if name is not None:
        _core.use_kernels(name)
    return _core.kernels()


def devices() -> dict[str, str]:
    """What can compute here, and for what cannot, why not."""
    works, words = _core.describe_device("cuda")
    return {"cpu": f"{_core.kernels()} kernels, {_core.threads()} threads", "cuda": words if works else f"no: {words}"}


def set_device(name: str) -> None:
    """Where new tensors are made from now on: 'cpu' or 'cuda'.

    Raises RuntimeError, naming CUDA's own status, if there is no CUDA device; nothing falls back silently.
    """
    _core.set_device(name)


def wheel_of_cublas() -> str | None:
    """The libcublas that `pip install nvidia-cublas` brought, whose folder no loader knows; None if there is none."""
    found = find_spec("nvidia")
    homes = found.submodule_search_locations if found else None
    libraries = [str(p) for home in homes or () for p in Path(home).glob("*/lib/libcublas.so.*")]
    return max(libraries, key=lambda p: int(p.rsplit(".", 1)[1]), default=None)


def set_matmul(how: str) -> None:
    """How CUDA multiplies matrices: 'exact' (float32, the default), 'split' (tensor cores; a float is three bf16
    numbers), 'bf16' (tensor cores, inputs rounded; attention too), 'cublas' (float32), 'cublas_bf16' (inputs rounded).

    cuBLAS is $WM_CUBLAS, else what `pip install ".[cuda]"` brought, else what the loader finds.
    Raises RuntimeError if there is no CUDA device, no cuBLAS, or no such way.
    """
    if str(how).startswith("cublas") and not os.environ.get("WM_CUBLAS") and (library := wheel_of_cublas()):
        os.environ["WM_CUBLAS"] = library
    _core.set_matmul(how)


def seed(value: int) -> None:
    """Start the random numbers of initialisers and new streams anew.  Same seed, same bits."""
    global _generator
    if value < 0:
        raise ValueError(f"seed: must be at least 0, got {value}")
    _generator = np.random.default_rng(value)


def generator() -> np.random.Generator:
    """The generator that `seed` starts anew."""
    return _generator
